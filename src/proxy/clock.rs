//! How far this pod's clock is from the identity role's: certificates are judged by clocks, so one that is wrong looks like a broken mesh.
//!
//! In: what the identity role says of the time, whenever a stream of the bundle begins. Out: a word in the log where the clocks begin to differ too
//! much and where they agree again, a metric, and [`Clock::last`] for `/trust`.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::mesh::clock::Offset;

/// What is known of the clock. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Mutex<Option<Offset>>>);

impl Clock {
    pub fn register(registry: &mut Registry) -> Self {
        let clock = Self::default();
        registry.register_collector(Box::new(clock.clone()));
        clock
    }

    /// The last measurement.
    pub fn last(&self) -> Option<Offset> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a measurement; says so where it crosses what is worth a person's look.
    pub fn observe(&self, new: Offset) {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(new);
        let was_off = before.is_some_and(|before| before.is_off());
        let is_other_way = before.is_some_and(|before| (before.offset_ms < 0) != (new.offset_ms < 0));
        if new.is_off() && (!was_off || is_other_way) {
            tracing::warn!(
                offset_ms = new.offset_ms,
                within_ms = new.within_ms,
                "this clock is {new} identity's: certificates may look as if not valid yet, or no more; set the node's clock by NTP"
            );
        } else if was_off && !new.is_off() {
            tracing::info!(offset_ms = new.offset_ms, "this clock agrees with identity's again");
        } else {
            tracing::debug!(
                offset_ms = new.offset_ms,
                within_ms = new.within_ms,
                "measured this clock against identity's"
            );
        }
    }
}

impl Collector for Clock {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(offset) = self.last() else { return Ok(()) };
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of clocks that differ by less than 285,000 years")]
        for (name, help, value) in [
            (
                "hawser_clock_offset",
                "How far this pod's clock is ahead of the identity role's; negative where it is behind",
                offset.offset_ms as f64 / 1000.0,
            ),
            (
                "hawser_clock_offset_bound",
                "What the measured offset of the clock can be wrong by",
                offset.within_ms as f64 / 1000.0,
            ),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_metric_once_it_has_been_measured() {
        let mut registry = Registry::default();
        let clock = Clock::register(&mut registry);
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        assert!(clock.last().is_none() && !text().contains("hawser_clock"));
        clock.observe(Offset { offset_ms: -94_000, within_ms: 500 });
        let text = text();
        assert!(text.contains("hawser_clock_offset_seconds -94.0\n"), "{text}");
        assert!(text.contains("hawser_clock_offset_bound_seconds 0.5\n"), "{text}");
    }
}
