//! Counts requests and what became of them.
//!
//! In: a request that begins, and its [`Outcome`]. Out: `request_total`, `response_total` and `response_latency_ms`, and what the request's
//! route counts besides ([`super::routes`]). The counters of an outcome are found among the few that there have been so far: no hash, no lock.
//!
//! Start at [`Requests::start`].

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;

use super::labels::Labels;
use super::routes::Counted;
use crate::mesh::profile::Classes;
use crate::proxy::balance::Judge;
use crate::telemetry::series::{Counter, Family, Histogram};

/// Combinations of status, class and error that are remembered for one label set. Others are looked up anew.
const OUTCOMES_MAX: usize = 64;
/// The bounds of latencies, which dashboards expect.
const LATENCY_MS: [f64; 25] = [
    1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0, 1000.0, 2000.0, 3000.0,
    4000.0, 5000.0, 10000.0, 20000.0, 30000.0, 40000.0, 50000.0,
];

/// The families of one kind of requests. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Families {
    total: Family<Labels, Counter>,
    responses: Family<Labels, Counter>,
    /// Where somebody wants to know.
    latency: Option<Family<Labels, Histogram>>,
}

impl Families {
    /// Registers them with names that begin with `prefix`.
    pub(super) fn registered(registry: &mut Registry, prefix: &str, of: &str) -> Self {
        let latency = || Histogram::new(&LATENCY_MS, Duration::from_millis(1));
        let latency = Family::new(latency, Labels::overflow());
        registry.register(
            format!("{prefix}response_latency_ms"),
            format!("From the headers of a request {of} to the end of its response"),
            latency.clone(),
        );
        Self { latency: Some(latency), ..Self::registered_without_latency(registry, prefix, of) }
    }

    /// The same, where it is not counted how long they took.
    pub(super) fn registered_without_latency(registry: &mut Registry, prefix: &str, of: &str) -> Self {
        let families = Self {
            total: Family::new(Counter::default, Labels::overflow()),
            responses: Family::new(Counter::default, Labels::overflow()),
            latency: None,
        };
        registry.register(format!("{prefix}request"), format!("HTTP requests {of}"), families.total.clone());
        registry.register(format!("{prefix}response"), format!("HTTP responses {of}"), families.responses.clone());
        families
    }

    pub(super) fn with(&self, labels: Labels) -> Requests {
        self.classified(labels, Classes::default())
    }

    /// The same, where `classes` say what a success is.
    pub(super) fn classified(&self, labels: Labels, classes: Classes) -> Requests {
        let total = self.total.with(&labels);
        Requests(Arc::new(Inner { families: self.clone(), labels, classes, total, outcomes: Memo::default() }))
    }
}

/// Counts the requests of one label set. Clones are the same.
#[derive(Clone)]
pub struct Requests(Arc<Inner>);

struct Inner {
    families: Families,
    labels: Labels,
    classes: Classes,
    total: Counter,
    outcomes: Memo<Outcome, (Counter, Option<Histogram>)>,
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
    /// Of a request that somebody broke off.
    pub const CANCELED: Self = Self { status: 0, grpc_status: None, error: Cow::Borrowed("canceled") };

    /// Success is an HTTP status below 500, and with gRPC a status that does not say that the server failed.
    pub fn is_success(&self) -> bool {
        // UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS.
        let grpc = |status| !matches!(status, 2 | 4 | 7 | 13 | 14 | 15);
        self.error.is_empty() && (1..500).contains(&self.status) && self.grpc_status.is_none_or(grpc)
    }
}

impl Outcome {
    /// Whether the server had too much to do: Too Many Requests, or RESOURCE_EXHAUSTED.
    fn is_limited(&self) -> bool {
        self.status == 429 || self.grpc_status == Some(8)
    }
}

impl Requests {
    /// Counts a request now, and its outcome when told.
    pub fn start(&self) -> Started {
        self.0.total.inc();
        let at = Instant::now();
        Started(Box::new(UnderWay {
            requests: self.clone(),
            at,
            told: false,
            within: [None, None],
            judge: None,
            also: None,
        }))
    }

    fn end(&self, outcome: &Outcome, latency: Duration) {
        let count = |(total, latencies): &(Counter, Option<Histogram>)| {
            total.inc();
            if let Some(latencies) = latencies {
                latencies.observe(latency);
            }
        };
        match self.0.outcomes.find_or(outcome, || self.series(outcome)) {
            Some(known) => count(known),
            None => count(&self.series(outcome)),
        }
    }

    fn series(&self, outcome: &Outcome) -> (Counter, Option<Histogram>) {
        let Inner { families, labels, classes, .. } = &*self.0;
        let status = Labels::new([("status_code", outcome.status.to_string())]);
        let is_success = match classes.is_failure(outcome.status) {
            // What broke was none, whatever its status.
            Some(is_failure) if outcome.error.is_empty() => !is_failure,
            Some(_) | None => outcome.is_success(),
        };
        let class = if is_success { "success" } else { "failure" };
        let ending = Labels::new([
            ("classification", class.to_owned()),
            ("grpc_status", outcome.grpc_status.map(|status| status.to_string()).unwrap_or_default()),
            ("error", outcome.error.clone().into_owned()),
        ]);
        let with_status = labels.and(&status);
        (
            families.responses.with(&with_status.and(&ending)),
            families.latency.as_ref().map(|latency| latency.with(&with_status)),
        )
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Requests").field(&self.0.labels).finish()
    }
}

/// A request under way. Dropped without an outcome, it counts as broken off. On the heap, because it goes along with a response through all hands.
#[derive(Debug)]
pub struct Started(Box<UnderWay>);

#[derive(Debug)]
struct UnderWay {
    requests: Requests,
    at: Instant,
    told: bool,
    /// What else counts it: its route, and the backend of the route.
    within: [Option<Counted>; 2],
    /// Who gives the endpoint a rest for it.
    judge: Option<Judge>,
    /// What else it is counted as.
    also: Option<Started>,
}

impl Started {
    /// Has `within` told how the request ends, too.
    pub fn within(&mut self, within: [Option<Counted>; 2]) {
        self.0.within = within;
    }

    /// Has `other` end as it ends.
    pub fn also(&mut self, mut other: Self) {
        other.0.also = self.0.also.take();
        self.0.also = Some(other);
    }

    /// Has `judge` told whether it ends well.
    pub fn judged_by(&mut self, judge: Option<Judge>) {
        self.0.judge = judge;
    }

    pub fn end(mut self, outcome: &Outcome) {
        // A client that breaks off says nothing of the server.
        if let Some(judge) = self.0.judge.take() {
            let now = Instant::now();
            judge.note(outcome.is_success(), now);
            if outcome.is_limited() {
                judge.penalise(now);
            }
        }
        self.0.tell(outcome, Instant::now());
    }
}

impl UnderWay {
    fn tell(&mut self, outcome: &Outcome, now: Instant) {
        self.told = true;
        self.requests.end(outcome, now.saturating_duration_since(self.at));
        for counted in std::mem::take(&mut self.within).into_iter().flatten() {
            counted.end_at(outcome, now);
        }
        if let Some(mut also) = self.also.take() {
            also.0.tell(outcome, now);
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.0.told {
            self.0.tell(&Outcome::CANCELED, Instant::now());
        }
    }
}

/// The few values that there have been so far, found by comparing: for keys of which there is nearly always the same one. Nothing is forgotten.
#[derive(Debug)]
pub(super) struct Memo<K, V>(OnceLock<Box<Node<K, V>>>);

#[derive(Debug)]
struct Node<K, V> {
    key: K,
    value: V,
    next: Memo<K, V>,
}

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<K: Clone + PartialEq, V> Memo<K, V> {
    /// The value of `key`, made now if there has been none; none where there are too many already.
    pub(super) fn find_or(&self, key: &K, make: impl Fn() -> V) -> Option<&V> {
        let mut memo = self;
        for _ in 0..OUTCOMES_MAX {
            let node = memo.0.get_or_init(|| Box::new(Node { key: key.clone(), value: make(), next: Self::default() }));
            if node.key == *key {
                return Some(&node.value);
            }
            memo = &node.next;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memo_makes_each_value_once_and_has_an_end() {
        let memo = Memo::default();
        for _ in 0..2 {
            for key in 0..OUTCOMES_MAX {
                assert_eq!(memo.find_or(&key, || key * 2), Some(&(key * 2)));
            }
        }
        assert_eq!(memo.find_or(&0, || panic!("it is known")), Some(&0));
        assert_eq!(memo.find_or(&OUTCOMES_MAX, || 7), None);
    }

    #[test]
    fn success_is_what_dashboards_call_so() {
        let outcome = |status, grpc_status, error: &'static str| Outcome { status, grpc_status, error: error.into() };
        assert!(outcome(404, None, "").is_success());
        assert!(outcome(200, Some(5), "").is_success());
        for failure in
            [outcome(500, None, ""), outcome(200, Some(14), ""), outcome(200, None, "timeout"), outcome(0, None, "")]
        {
            assert!(!failure.is_success(), "{failure:?}");
        }
    }
}
