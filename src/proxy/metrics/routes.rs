//! Counts requests by the route they fell under, and by the backend of the route.
//!
//! In: the labels of a route's rule, known with its policy, and each of its requests. Out: `outbound_http_route_*`, `outbound_grpc_route_*`,
//! `inbound_http_route_*`. The series of a rule are made by its first request, so that rules nobody uses are not shown.
//!
//! Start at [`Measured::start`].

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;

use super::labels::Labels;
use super::requests::{Memo, Outcome};
use super::{Event, Metrics};
use crate::telemetry::series::{Counter, Family, Histogram};

/// The bounds of durations, in seconds: a route is judged roughly, its backends more finely.
const ROUTE_SECONDS: [f64; 4] = [0.05, 0.5, 1.0, 10.0];
const BACKEND_SECONDS: [f64; 7] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];

/// What requests are counted for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    OutboundHttpRoute,
    OutboundHttpBackend,
    OutboundGrpcRoute,
    OutboundGrpcBackend,
    InboundHttpRoute,
}

impl Scope {
    /// In the order of [`Families`].
    const ALL: [Self; 5] = [
        Self::OutboundHttpRoute,
        Self::OutboundHttpBackend,
        Self::OutboundGrpcRoute,
        Self::OutboundGrpcBackend,
        Self::InboundHttpRoute,
    ];

    /// Whether the route is one of gRPC, so that outcomes are told in its words.
    fn is_grpc(self) -> bool {
        matches!(self, Self::OutboundGrpcRoute | Self::OutboundGrpcBackend)
    }

    /// The names of the requests, the durations and the outcomes.
    fn names(self) -> [&'static str; 3] {
        match self {
            Self::OutboundHttpRoute => {
                ["", "outbound_http_route_request_duration_seconds", "outbound_http_route_request_statuses"]
            }
            Self::OutboundGrpcRoute => {
                ["", "outbound_grpc_route_request_duration_seconds", "outbound_grpc_route_request_statuses"]
            }
            Self::OutboundHttpBackend => [
                "outbound_http_route_backend_requests",
                "outbound_http_route_backend_response_duration_seconds",
                "outbound_http_route_backend_response_statuses",
            ],
            Self::OutboundGrpcBackend => [
                "outbound_grpc_route_backend_requests",
                "outbound_grpc_route_backend_response_duration_seconds",
                "outbound_grpc_route_backend_response_statuses",
            ],
            Self::InboundHttpRoute => [
                "inbound_http_route_requests",
                "inbound_http_route_response_duration_seconds",
                "inbound_http_route_statuses",
            ],
        }
    }
}

/// The families of all scopes.
#[derive(Debug)]
pub(super) struct Families([ScopeFamilies; 5]);

#[derive(Debug)]
struct ScopeFamilies {
    requests: Family<Labels, Counter>,
    duration: Family<Labels, Histogram>,
    statuses: Family<Labels, Counter>,
}

impl Families {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        Self(Scope::ALL.map(|scope| {
            let route = || Histogram::new(&ROUTE_SECONDS, Duration::from_secs(1));
            let backend = || Histogram::new(&BACKEND_SECONDS, Duration::from_secs(1));
            let is_backend = matches!(scope, Scope::OutboundHttpBackend | Scope::OutboundGrpcBackend);
            let families = ScopeFamilies {
                requests: Family::new(Counter::default, Labels::overflow()),
                duration: Family::new(if is_backend { backend } else { route }, Labels::overflow()),
                statuses: Family::new(Counter::default, Labels::overflow()),
            };
            let [requests, duration, statuses] = scope.names();
            if !requests.is_empty() {
                registry.register(requests, "Requests of a route", families.requests.clone());
            }
            registry.register(duration, "From a request's headers to its response's end", families.duration.clone());
            registry.register(statuses, "What became of the requests of a route", families.statuses.clone());
            families
        }))
    }

    fn of(&self, scope: Scope) -> &ScopeFamilies {
        &self.0[scope as usize]
    }
}

/// What is counted of one rule of a route, or of one of its backends.
#[derive(Debug)]
pub struct Measured {
    scope: Scope,
    labels: Labels,
    made: OnceLock<Made>,
}

#[derive(Debug)]
struct Made {
    requests: Counter,
    duration: Histogram,
    statuses: Family<Labels, Counter>,
    outcomes: Memo<(u16, &'static str), Counter>,
}

impl Measured {
    pub fn new(scope: Scope, labels: Labels) -> Arc<Self> {
        Arc::new(Self { scope, labels, made: OnceLock::new() })
    }

    /// Counts a request now, and what becomes of it when told.
    pub fn start(self: &Arc<Self>, metrics: &Metrics) -> Counted {
        self.made(metrics).requests.inc();
        Counted { measured: Some(self.clone()), at: Instant::now() }
    }

    fn made(&self, metrics: &Metrics) -> &Made {
        self.made.get_or_init(|| {
            let families = metrics.routes().of(self.scope);
            Made {
                requests: families.requests.with(&self.labels),
                duration: families.duration.with(&self.labels),
                statuses: families.statuses.clone(),
                outcomes: Memo::default(),
            }
        })
    }

    fn end(&self, outcome: &Outcome, took: Duration) {
        // Nothing ends that has not begun.
        let Some(made) = self.made.get() else { return };
        made.duration.observe(took);
        let status = match (self.scope.is_grpc(), outcome.grpc_status) {
            (false, _) => outcome.status,
            // Without a status, which the metric then leaves empty.
            (true, None) => u16::MAX,
            (true, Some(status)) => status,
        };
        let key = (status, error_label(&outcome.error));
        let series = || made.statuses.with(&self.labels.and(&self.status_labels(key)));
        match made.outcomes.find_or(&key, series) {
            Some(known) => known.inc(),
            None => series().inc(),
        }
    }

    fn status_labels(&self, (status, error): (u16, &'static str)) -> Labels {
        let status = match self.scope.is_grpc() {
            true => ("grpc_status", grpc_name(status).to_owned()),
            false if status == 0 => ("http_status", String::new()),
            false => ("http_status", status.to_string()),
        };
        Labels::new([status, ("error", error.to_owned())])
    }
}

/// A request under way, for its route or for a backend of that. Dropped without an outcome, it counts as broken off.
#[derive(Debug)]
pub struct Counted {
    /// Until told.
    measured: Option<Arc<Measured>>,
    at: Instant,
}

impl Counted {
    pub fn end(self, outcome: &Outcome) {
        self.end_at(outcome, Instant::now());
    }

    /// For who knows what time it is.
    pub fn end_at(mut self, outcome: &Outcome, now: Instant) {
        self.tell(outcome, now);
    }

    fn tell(&mut self, outcome: &Outcome, now: Instant) {
        if let Some(measured) = self.measured.take() {
            measured.end(outcome, now.saturating_duration_since(self.at));
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.measured.is_some() {
            self.tell(&Outcome::CANCELED, Instant::now());
        }
    }
}

/// Counters that differ in one label, looked up once each.
#[derive(Debug)]
pub struct Tally {
    labels: Labels,
    known: Memo<(Event, &'static str), Counter>,
}

impl Tally {
    pub fn new(labels: Labels) -> Self {
        Self { labels, known: Memo::default() }
    }

    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Counts one `event`, of which `label` is `value`.
    pub fn count(&self, metrics: &Metrics, event: Event, (label, value): (&'static str, &'static str)) {
        self.count_with(metrics, event, Some((label, value)));
    }

    /// Counts one `event` that has no further label.
    pub fn count_plain(&self, metrics: &Metrics, event: Event) {
        self.count_with(metrics, event, None);
    }

    fn count_with(&self, metrics: &Metrics, event: Event, label: Option<(&'static str, &'static str)>) {
        let series = || metrics.counter(event, &self.labels.and(&Labels::new(label)));
        match self.known.find_or(&(event, label.map_or("", |(_, value)| value)), series) {
            Some(known) => known.inc(),
            None => series().inc(),
        }
    }
}

/// What broke a request, in the words of the metrics of routes.
fn error_label(error: &str) -> &'static str {
    match error {
        "" => "",
        "canceled" | "h2(CANCEL)" => "CANCEL",
        "failfast" => "FAIL_FAST",
        "i/o" => "IO",
        "loadshed" => "LOAD_SHED",
        "request timeout" => "REQUEST_TIMEOUT",
        "response timeout" => "RESPONSE_HEADERS_TIMEOUT",
        "stream timeout" => "RESPONSE_STREAM_TIMEOUT",
        "idle timeout" => "IDLE_TIMEOUT",
        "h2(REFUSED_STREAM)" => "REFUSED",
        "h2(ENHANCE_YOUR_CALM)" => "ENHANCE_YOUR_CALM",
        reset if reset.starts_with("h2(") => "RESET",
        _ => "UNKNOWN",
    }
}

fn grpc_name(status: u16) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::from(status)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(scope: Scope) -> (Metrics, Arc<Measured>) {
        (Metrics::new(), Measured::new(scope, Labels::new([("route_name", "cart")])))
    }

    #[test]
    fn a_rule_that_nobody_uses_is_not_shown() {
        let (metrics, measured) = measured(Scope::OutboundHttpRoute);
        assert!(!metrics.encode().unwrap().contains("outbound_http_route"));
        drop(measured.start(&metrics));
        let text = metrics.encode().unwrap();
        let line = r#"outbound_http_route_request_statuses_total{route_name="cart",http_status="",error="CANCEL"} 1"#;
        assert!(text.contains(line), "what is dropped was broken off: {text}");
    }

    #[test]
    fn calls_are_told_in_the_words_of_grpc() {
        let (metrics, measured) = measured(Scope::OutboundGrpcBackend);
        let outcome = |grpc_status, error: &'static str| Outcome { status: 200, grpc_status, error: error.into() };
        measured.start(&metrics).end(&outcome(Some(14), ""));
        measured.start(&metrics).end(&outcome(None, "h2(INTERNAL_ERROR)"));
        let text = metrics.encode().unwrap();
        let prefix = r#"outbound_grpc_route_backend_response_statuses_total{route_name="cart""#;
        for ending in [r#"grpc_status="UNAVAILABLE",error="""#, r#"grpc_status="",error="RESET""#] {
            assert!(text.contains(&format!("{prefix},{ending}}} 1")), "{text}");
        }
        assert!(text.contains(r#"outbound_grpc_route_backend_requests_total{route_name="cart"} 2"#), "{text}");
    }
}
