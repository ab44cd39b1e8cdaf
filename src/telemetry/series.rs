//! Numbers that are scraped: counted without a lock, bounded in number, and forgotten once nobody has counted them for a while.
//!
//! In: labels, resolved once into a handle that costs an atomic addition per event. Out: what `prometheus-client` encodes.
//! A family has at most [`SERIES_MAX`] series; what comes past that is counted in one of its own, so that a stranger who varies what they
//! send cannot fill the memory. Pods come and go and have names of their own, so a series that nobody holds leaves after [`RETAINED`].
//!
//! Start at [`Family`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Series a family may have. A pod meets a few hundred at most.
pub const SERIES_MAX: usize = 2_000;
/// How long a series is shown that nobody counts any more: several scrapes see its last value.
pub const RETAINED: Duration = Duration::from_secs(600);

/// One series of a family. Clones are the same series.
pub trait Series: Clone + fmt::Debug + Send + Sync + 'static {
    const TYPE: MetricType;

    /// Whether anybody but the family has it, and so may still count.
    fn is_held(&self) -> bool;

    /// # Errors
    /// Where the text cannot be written.
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result;
}

/// A number that grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub fn inc(&self) {
        self.inc_by(1);
    }

    // `Relaxed` throughout: these are statistics, nothing is ordered by them.
    pub fn inc_by(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Series for Counter {
    const TYPE: MetricType = MetricType::Counter;

    fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<NoLabelSet, _, u64>(&self.get(), None)
    }
}

/// One without labels.
impl EncodeMetric for Counter {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        Series::encode(self, encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// A number that grows and shrinks.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Series for Gauge {
    const TYPE: MetricType = MetricType::Gauge;

    fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.get())
    }
}

/// How durations are distributed over `bounds`, which are in `unit`s.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    unit: Duration,
    /// One for each bound, and one for what is beyond the last.
    counts: Box<[AtomicU64]>,
    nanos: AtomicU64,
}

impl Histogram {
    pub fn new(bounds: &'static [f64], unit: Duration) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::default()).collect();
        Self(Arc::new(Buckets { bounds, unit, counts, nanos: AtomicU64::default() }))
    }

    pub fn observe(&self, took: Duration) {
        let Buckets { bounds, unit, counts, nanos } = &*self.0;
        let value = took.as_secs_f64() / unit.as_secs_f64();
        counts[bounds.partition_point(|bound| *bound < value)].fetch_add(1, Ordering::Relaxed);
        // 584 years of waiting fit.
        nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Series for Histogram {
    const TYPE: MetricType = MetricType::Histogram;

    fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Buckets { bounds, unit, counts, nanos } = &*self.0;
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(counts.iter()).map(|(bound, count)| (bound, count.load(Ordering::Relaxed))).collect();
        let sum = nanos.load(Ordering::Relaxed) as f64 / unit.as_nanos() as f64;
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// The series of one name, by their labels. Clones are the same family.
#[derive(Debug)]
pub struct Family<L, S>(Arc<Inner<L, S>>);

#[derive(Debug)]
struct Inner<L, S> {
    make: fn() -> S,
    /// The labels of what there is no room for.
    overflow: L,
    known: Mutex<HashMap<L, Known<S>>>,
}

#[derive(Debug)]
struct Known<S> {
    series: S,
    /// When it was last asked for, or seen to be held.
    used_at: Instant,
}

impl<L, S> Clone for Family<L, S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<L: Clone + Eq + Hash, S: Series> Family<L, S> {
    pub fn new(make: fn() -> S, overflow: L) -> Self {
        Self(Arc::new(Inner { make, overflow, known: Mutex::default() }))
    }

    /// The series with these labels; where there are too many already, that of the overflow.
    pub fn with(&self, labels: &L) -> S {
        self.shared(labels).1
    }

    /// The same, and the labels equal to these that are kept here, for whoever keeps them too: thousands then share one copy.
    pub fn shared(&self, labels: &L) -> (L, S) {
        let now = Instant::now();
        let mut known = self.known();
        if let Entry::Occupied(mut found) = known.entry(labels.clone()) {
            found.get_mut().used_at = now;
            return (found.key().clone(), found.get().series.clone());
        }
        if known.len() >= SERIES_MAX {
            forget(&mut known, now);
        }
        let counted_as = if known.len() >= SERIES_MAX { &self.0.overflow } else { labels };
        let made = || Known { series: (self.0.make)(), used_at: now };
        (labels.clone(), known.entry(counted_as.clone()).or_insert_with(made).series.clone())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<L, Known<S>>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves out what nobody has held or asked for since [`RETAINED`].
fn forget<L: Eq + Hash, S: Series>(known: &mut HashMap<L, Known<S>>, now: Instant) {
    known.retain(|_, known| {
        if known.series.is_held() {
            known.used_at = now;
        }
        now.saturating_duration_since(known.used_at) < RETAINED
    });
}

impl<L, S> EncodeMetric for Family<L, S>
where
    L: Clone + Eq + Hash + EncodeLabelSet,
    S: Series,
{
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let mut known = self.known();
        forget(&mut known, Instant::now());
        known.iter().try_for_each(|(labels, known)| known.series.encode(encoder.encode_family(labels)?))
    }

    fn metric_type(&self) -> MetricType {
        S::TYPE
    }

    fn is_empty(&self) -> bool {
        self.known().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn family() -> Family<Vec<(String, String)>, Counter> {
        Family::new(Counter::default, labels("overflow"))
    }

    fn labels(of: &str) -> Vec<(String, String)> {
        vec![("of".into(), of.into())]
    }

    fn shown<S: Series>(family: &Family<Vec<(String, String)>, S>) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register("it", "It", family.clone());
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn past_the_bound_everything_is_counted_in_one_series() {
        let family = family();
        for stranger in 0..SERIES_MAX + 10 {
            family.with(&labels(&stranger.to_string())).inc();
        }
        assert!(shown(&family).contains("it_total{of=\"overflow\"} 10\n"));
        assert_eq!(family.known().len(), SERIES_MAX + 1);
    }

    #[test]
    fn a_series_that_nobody_holds_leaves_and_makes_room() {
        let family = family();
        let held = family.with(&labels("held"));
        family.with(&labels("gone")).inc();
        let later = Instant::now() + RETAINED;
        forget(&mut family.known(), later);
        assert_eq!(family.known().keys().collect::<Vec<_>>(), [&labels("held")]);
        drop(held);
        forget(&mut family.known(), later + RETAINED / 2);
        assert_eq!(family.known().len(), 1, "it was held until lately");
        forget(&mut family.known(), later + RETAINED);
        assert!(family.known().is_empty());
    }

    #[test]
    fn what_is_on_a_bound_is_within_it_and_what_is_beyond_all_is_kept() {
        const BOUNDS: [f64; 2] = [1.0, 10.0];
        let family = Family::new(|| Histogram::new(&BOUNDS, Duration::from_millis(1)), labels("overflow"));
        let histogram = family.with(&labels("a"));
        for micros in [500, 1_000, 5_000, 20_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let text = shown(&family);
        for line in
            ["le=\"1.0\",of=\"a\"} 2", "le=\"10.0\",of=\"a\"} 3", "le=\"+Inf\",of=\"a\"} 4", "it_sum{of=\"a\"} 26.5"]
        {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn a_family_without_series_is_not_shown() {
        assert_eq!(shown(&family()), "# EOF\n");
    }
}
