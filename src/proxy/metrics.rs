//! The proxy's metrics, under the names that dashboards and `viz` know (wire-spec §9).
//!
//! In: labels, resolved once per connection or route into handles that cost an atomic addition per event. Out: Prometheus text.
//! The number of label sets of each family is bounded: peers choose some of the values.
//!
//! Start at [`Metrics`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel as _, EncodeLabelSet, EncodeMetric, LabelSetEncoder, MetricEncoder,
};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

use crate::mesh::connection::{Direction, Security};
use crate::mesh::policy::Meta;
use crate::net::counted::Totals;

/// Label sets a family may have. A pod meets a few hundred at most; past this, what comes is counted under
/// `overflow="true"` alone, so that a stranger who varies what they send cannot fill the memory.
const LABEL_SETS_MAX: usize = 2_000;
/// Combinations of status, class and error that one label set may have.
const OUTCOMES_MAX: usize = 64;
/// The bounds of `response_latency_ms`, which dashboards expect.
const LATENCY_MS: [f64; 25] = [
    1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0, 1000.0, 2000.0, 3000.0,
    4000.0, 5000.0, 10000.0, 20000.0, 30000.0, 40000.0, 50000.0,
];

/// Labels in the order they are shown. Clones are cheap.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Labels(Arc<[(Cow<'static, str>, Cow<'static, str>)]>);

impl Labels {
    pub fn new<K, V>(labels: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<Cow<'static, str>>,
        V: Into<Cow<'static, str>>,
    {
        Self(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }

    /// These labels and then `others`.
    pub fn and(&self, others: &Self) -> Self {
        Self(self.0.iter().chain(others.0.iter()).cloned().collect())
    }

    /// `target_addr`, `target_ip`, `target_port`.
    pub fn target(target: SocketAddr) -> Self {
        Self::new([
            ("target_addr", target.to_string()),
            ("target_ip", target.ip().to_string()),
            ("target_port", target.port().to_string()),
        ])
    }

    /// `tls` and who is at the other end, or why that is not known.
    pub fn tls(direction: Direction, security: &Security) -> Self {
        match security {
            Security::Mutual(tls) | Security::ServerOnly(tls) => {
                let id = match direction {
                    Direction::Inbound => tls.client_identity.as_ref().map(ToString::to_string).unwrap_or_default(),
                    Direction::Outbound => tls.server_identity.to_string(),
                };
                let key = match direction {
                    Direction::Inbound => "client_id",
                    Direction::Outbound => "server_id",
                };
                Self::new([("tls", "true".to_owned()), (key, id)])
            }
            Security::Passthrough { sni } => {
                Self::new([("tls", "opaque".to_owned()), ("sni", sni.clone().unwrap_or_default())])
            }
            Security::Plaintext { reason } => Self::new([("tls", "no_identity"), ("no_tls_reason", reason.as_str())]),
        }
    }

    /// `direction`.
    pub fn direction(direction: Direction) -> Self {
        let direction = match direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        Self::new([("direction", direction)])
    }

    /// `PREFIX_group`, `PREFIX_kind`, `PREFIX_name`: `srv`, `route` or `authz`.
    pub fn meta(prefix: &str, meta: &Meta) -> Self {
        Self::new([
            (format!("{prefix}_group"), meta.group.clone()),
            (format!("{prefix}_kind"), meta.kind.clone()),
            (format!("{prefix}_name"), meta.name.clone()),
        ])
    }

    /// `srv_*`.
    pub fn server(meta: &Meta, port: u16) -> Self {
        Self::meta("srv", meta).and(&Self::new([("srv_port", port.to_string())]))
    }

    fn overflow() -> Self {
        Self::new([("overflow", "true")])
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(key, value)| (key.as_ref(), value.as_ref()).encode(encoder.encode_label()))
    }
}

/// All metrics of the proxy. Clones are the same metrics.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    request_total: Bounded<Counter>,
    response_total: Bounded<Counter>,
    response_latency_ms: Bounded<Histogram, fn() -> Histogram>,
    tcp_open_total: Bounded<Counter>,
    tcp_open_connections: Bounded<Gauge>,
    tcp_close_total: Bounded<Counter>,
    tcp_read_bytes: Bounded<Counter>,
    tcp_write_bytes: Bounded<Counter>,
    transport_header_connections: Bounded<Counter>,
    events: HashMap<Event, Bounded<Counter>>,
}

/// Things that are only counted.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Event {
    InboundHttpAllowed,
    InboundHttpDenied,
    InboundHttpErrors,
    InboundHttpRateLimited,
    InboundHttpRouteNotFound,
    InboundTcpAllowed,
    InboundTcpDenied,
    InboundTcpErrors,
    InboundTcpTerminated,
    OutboundHttpErrors,
    OutboundTcpErrors,
}

/// The name and help of each [`Event`]; `_total` is added by the encoder.
const EVENTS: [(Event, &str, &str); 11] = [
    (Event::InboundHttpAllowed, "inbound_http_authz_allow", "HTTP requests that policy let through"),
    (Event::InboundHttpDenied, "inbound_http_authz_deny", "HTTP requests that policy refused"),
    (Event::InboundHttpErrors, "inbound_http_errors", "HTTP requests that failed in the proxy"),
    (Event::InboundHttpRateLimited, "inbound_http_local_ratelimit", "HTTP requests past a rate limit"),
    (Event::InboundHttpRouteNotFound, "inbound_http_route_not_found", "HTTP requests that no route matches"),
    (Event::InboundTcpAllowed, "inbound_tcp_authz_allow", "Connections that policy let through"),
    (Event::InboundTcpDenied, "inbound_tcp_authz_deny", "Connections that policy refused"),
    (Event::InboundTcpErrors, "inbound_tcp_errors", "Inbound connections that failed in the proxy"),
    (Event::InboundTcpTerminated, "inbound_tcp_authz_terminate", "Connections ended because policy changed"),
    (Event::OutboundHttpErrors, "outbound_http_errors", "HTTP requests that failed in the proxy"),
    (Event::OutboundTcpErrors, "outbound_tcp_errors", "Outbound connections that failed in the proxy"),
];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let events = EVENTS
            .into_iter()
            .map(|(event, name, help)| (event, Bounded::registered(&mut registry, name, help, Family::default())))
            .collect();
        let latency: fn() -> Histogram = || Histogram::new(LATENCY_MS);
        let inner = Inner {
            request_total: Bounded::registered(&mut registry, "request", "HTTP requests", Family::default()),
            response_total: Bounded::registered(&mut registry, "response", "HTTP responses", Family::default()),
            response_latency_ms: Bounded::registered(
                &mut registry,
                "response_latency_ms",
                "From the request's headers to the end of its response",
                Family::new_with_constructor(latency),
            ),
            tcp_open_total: Bounded::registered(&mut registry, "tcp_open", "Connections opened", Family::default()),
            tcp_open_connections: Bounded::registered(
                &mut registry,
                "tcp_open_connections",
                "Connections open now",
                Family::default(),
            ),
            tcp_close_total: Bounded::registered(&mut registry, "tcp_close", "Connections closed", Family::default()),
            tcp_read_bytes: Bounded::registered(
                &mut registry,
                "tcp_read_bytes",
                "Bytes read from peers",
                Family::default(),
            ),
            tcp_write_bytes: Bounded::registered(
                &mut registry,
                "tcp_write_bytes",
                "Bytes written to peers",
                Family::default(),
            ),
            transport_header_connections: Bounded::registered(
                &mut registry,
                "inbound_tcp_transport_header_connections",
                "Connections that began with a transport header",
                Family::default(),
            ),
            events,
            registry: Mutex::default(),
        };
        registry.register(
            "proxy_build",
            "What this proxy is",
            Info::new(Labels::new([("version", env!("CARGO_PKG_VERSION")), ("vendor", "hawser")])),
        );
        registry.register_collector(Box::new(Process));
        Self(Arc::new(Inner { registry: Mutex::new(registry), ..inner }))
    }

    /// Where other rooms of the proxy add metrics of their own, at start.
    pub fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything, as Prometheus text.
    ///
    /// # Errors
    /// Where a metric cannot be encoded.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry())?;
        Ok(text)
    }

    /// Counts one `event`.
    pub fn count(&self, event: Event, labels: &Labels) {
        self.counter(event, labels).inc();
    }

    /// The counter of `event` with `labels`, for those who count often.
    pub fn counter(&self, event: Event, labels: &Labels) -> Counter {
        self.0.events[&event].with(labels)
    }

    /// Counts a connection that began with a transport header.
    pub fn transport_header(&self, labels: &Labels) {
        self.0.transport_header_connections.with(labels).inc();
    }

    /// Opens a connection in the metrics; it closes with the value returned.
    pub fn transport(&self, labels: &Labels) -> Transport {
        let inner = &self.0;
        let open = inner.tcp_open_connections.with(labels);
        open.inc();
        inner.tcp_open_total.with(labels).inc();
        let read = inner.tcp_read_bytes.with(labels);
        let written = inner.tcp_write_bytes.with(labels);
        Transport {
            metrics: self.clone(),
            labels: labels.clone(),
            open,
            totals: Totals { read, written },
            errno: OnceLock::new(),
        }
    }

    /// The metrics of requests with these labels.
    pub fn requests(&self, labels: Labels) -> Requests {
        let total = self.0.request_total.with(&labels);
        Requests(Arc::new(RequestsInner { metrics: self.clone(), labels, total, outcomes: Mutex::default() }))
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// A family that stops growing at [`LABEL_SETS_MAX`].
struct Bounded<M, C = fn() -> M> {
    family: Family<Labels, M, C>,
    label_sets: AtomicUsize,
}

impl<M, C> Bounded<M, C>
where
    M: Clone + EncodeMetric + TypedMetric + fmt::Debug + Send + Sync + 'static,
    C: Clone + MetricConstructor<M> + fmt::Debug + Send + Sync + 'static,
{
    fn registered(registry: &mut Registry, name: &str, help: &str, family: Family<Labels, M, C>) -> Self {
        registry.register(name, help, family.clone());
        Self { family, label_sets: AtomicUsize::new(0) }
    }

    fn with(&self, labels: &Labels) -> M {
        if let Some(found) = self.family.get(labels) {
            return found.clone();
        }
        if self.label_sets.fetch_add(1, Ordering::Relaxed) >= LABEL_SETS_MAX {
            self.label_sets.fetch_sub(1, Ordering::Relaxed);
            return self.family.get_or_create_owned(&Labels::overflow());
        }
        self.family.get_or_create_owned(labels)
    }
}

/// An open connection, as the metrics see it.
#[derive(Debug)]
pub struct Transport {
    metrics: Metrics,
    labels: Labels,
    open: Gauge,
    totals: Totals,
    errno: OnceLock<&'static str>,
}

impl Transport {
    /// What [`crate::net::counted::Counted`] adds to.
    pub fn totals(&self) -> Totals {
        self.totals.clone()
    }

    /// Notes why the connection is about to end; without a word it ended well.
    pub fn failed(&self, error: &std::io::Error) {
        self.errno.get_or_init(|| errno(error.kind()));
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.open.dec();
        let labels = self.labels.and(&Labels::new([("errno", self.errno.get().copied().unwrap_or_default())]));
        self.metrics.0.tcp_close_total.with(&labels).inc();
    }
}

/// The symbols that dashboards know.
fn errno(kind: std::io::ErrorKind) -> &'static str {
    use std::io::ErrorKind;
    match kind {
        ErrorKind::BrokenPipe => "EPIPE",
        ErrorKind::ConnectionAborted => "ECONNABORTED",
        ErrorKind::ConnectionRefused => "ECONNREFUSED",
        ErrorKind::ConnectionReset => "ECONNRESET",
        ErrorKind::NotConnected => "ENOTCONN",
        ErrorKind::TimedOut => "ETIMEDOUT",
        _ => "EIO",
    }
}

/// Counts the requests of one label set. Clones are the same.
#[derive(Clone)]
pub struct Requests(Arc<RequestsInner>);

struct RequestsInner {
    metrics: Metrics,
    labels: Labels,
    total: Counter,
    outcomes: Mutex<HashMap<Outcome, (Counter, Histogram)>>,
}

/// How a request ended.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Outcome {
    /// 0 where there was no response.
    pub status: u16,
    /// Of gRPC: from the trailers, or from the headers of a response without a body.
    pub grpc_status: Option<u16>,
    /// `h2(REASON)`, `timeout`, `unclassified`; empty where nothing broke.
    pub error: Cow<'static, str>,
}

impl Outcome {
    /// Success is an HTTP status below 500, and with gRPC a status that does not say that the server failed.
    pub fn is_success(&self) -> bool {
        // UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS.
        let grpc = |status| !matches!(status, 2 | 4 | 7 | 13 | 14 | 15);
        self.error.is_empty() && (1..500).contains(&self.status) && self.grpc_status.is_none_or(grpc)
    }
}

impl Requests {
    /// Counts a request now, and its outcome when told.
    pub fn start(&self) -> Started {
        self.0.total.inc();
        Started { requests: self.clone(), at: Instant::now(), told: false }
    }

    fn end(&self, outcome: Outcome, latency: Duration) {
        let (total, latencies) = self.outcome(outcome);
        total.inc();
        latencies.observe(latency.as_secs_f64() * 1000.0);
    }

    fn outcome(&self, outcome: Outcome) -> (Counter, Histogram) {
        let RequestsInner { metrics, labels, outcomes, .. } = &*self.0;
        let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = outcomes.get(&outcome) {
            return found.clone();
        }
        let inner = &metrics.0;
        let status = Labels::new([("status_code", outcome.status.to_string())]);
        let class = if outcome.is_success() { "success" } else { "failure" };
        let ending = Labels::new([
            ("classification", class.to_owned()),
            ("grpc_status", outcome.grpc_status.map(|status| status.to_string()).unwrap_or_default()),
            ("error", outcome.error.clone().into_owned()),
        ]);
        let with_status = labels.and(&status);
        let made = (inner.response_total.with(&with_status.and(&ending)), inner.response_latency_ms.with(&with_status));
        if outcomes.len() < OUTCOMES_MAX {
            outcomes.insert(outcome, made.clone());
        }
        made
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Requests").field(&self.0.labels).finish()
    }
}

/// A request under way. Dropped without an outcome, it counts as broken off.
#[derive(Debug)]
pub struct Started {
    requests: Requests,
    at: Instant,
    told: bool,
}

impl Started {
    pub fn end(mut self, outcome: Outcome) {
        self.told = true;
        self.requests.end(outcome, self.at.elapsed());
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.told {
            let outcome = Outcome { status: 0, grpc_status: None, error: "canceled".into() };
            self.requests.end(outcome, self.at.elapsed());
        }
    }
}

/// `process_*`, read from `/proc` when scraped.
#[derive(Debug)]
struct Process;

/// The kernel's clock ticks a second in `/proc`: 100 on every platform hawser is built for (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = ConstGauge::new(value);
            let metric: MetricEncoder<'_> = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode(metric)
        };
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            let kilobytes = |field| kilobytes(&status, field);
            if let Some(resident) = kilobytes("VmRSS:") {
                gauge("process_resident_memory_bytes", "Resident memory", resident * 1024.0)?;
            }
            if let Some(size) = kilobytes("VmSize:") {
                gauge("process_virtual_memory_bytes", "Virtual memory", size * 1024.0)?;
            }
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            gauge("process_open_fds", "Open file descriptors", open.count() as f64)?;
        }
        let Some((ticks, started_at)) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(times)
        else {
            return Ok(());
        };
        gauge("process_start_time_seconds", "When the process started, in seconds since 1970", started_at)?;
        let metric =
            encoder.encode_descriptor("process_cpu_seconds", "User and system CPU time", None, MetricType::Counter)?;
        ConstCounter::new(ticks / TICKS_PER_SECOND).encode(metric)
    }
}

fn kilobytes(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find(|line| line.starts_with(field))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// CPU ticks used so far, and the second of the start, from `/proc/self/stat`.
fn times(stat: &str) -> Option<(f64, f64)> {
    // The second field is the program's name in brackets, and may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    Some((field(14)? + field(15)?, now - uptime + field(22)? / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        Labels::direction(Direction::Inbound).and(&Labels::target("10.0.0.1:80".parse().unwrap()))
    }

    #[test]
    fn shows_requests_under_the_names_dashboards_know() {
        let metrics = Metrics::new();
        let requests = metrics.requests(labels());
        requests.start().end(Outcome { status: 200, grpc_status: Some(14), error: "".into() });
        requests.start().end(Outcome { status: 404, grpc_status: None, error: "".into() });
        drop(requests.start());
        let text = metrics.encode().unwrap();
        let prefix = r#"direction="inbound",target_addr="10.0.0.1:80",target_ip="10.0.0.1",target_port="80""#;
        for line in [
            format!("request_total{{{prefix}}} 3"),
            format!(
                r#"response_total{{{prefix},status_code="200",classification="failure",grpc_status="14",error=""}} 1"#
            ),
            format!(
                r#"response_total{{{prefix},status_code="404",classification="success",grpc_status="",error=""}} 1"#
            ),
            format!(r#"response_latency_ms_count{{{prefix},status_code="404"}} 1"#),
        ] {
            assert!(text.contains(&line), "{line} is not in:\n{text}");
        }
        assert!(text.contains("process_cpu_seconds_total ") && text.contains("proxy_build_info{"), "{text}");
    }

    #[test]
    fn a_transport_is_open_until_dropped() {
        let metrics = Metrics::new();
        let transport = metrics.transport(&labels());
        transport.totals().read.inc_by(3);
        assert!(metrics.encode().unwrap().contains(r#"target_port="80"} 1"#));
        transport.failed(&std::io::ErrorKind::ConnectionReset.into());
        drop(transport);
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"errno="ECONNRESET"} 1"#), "{text}");
        assert!(text.contains("tcp_read_bytes_total{direction"), "{text}");
    }

    #[test]
    fn strangers_cannot_make_labels_without_end() {
        let metrics = Metrics::new();
        for stranger in 0..LABEL_SETS_MAX + 10 {
            metrics.count(Event::InboundTcpDenied, &Labels::new([("client_id", stranger.to_string())]));
        }
        assert!(metrics.encode().unwrap().contains(r#"inbound_tcp_authz_deny_total{overflow="true"} 10"#));
    }
}
