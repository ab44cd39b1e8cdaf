//! How far one clock is from another, as far as a question and its answer can tell.
//!
//! In: when the other says it answered, and when the answer came how long after the question. Out: an [`Offset`] with its bound: the answer was
//! written at some time between the two, so half of the way there and back is all that the measurement can be wrong by.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Clocks that differ by more are worth a person's look: half of what certificates are back-dated by unless told otherwise.
pub const DIFFERENCE_MAX: Duration = Duration::from_secs(10);

/// How far this clock is ahead of another: what was measured, and by how much that can be wrong.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Offset {
    /// Negative where this clock is behind.
    pub offset_ms: i64,
    pub within_ms: u64,
}

impl Offset {
    /// What an answer tells that says it was sent at `sent_at_ms` (since 1970), and was here at `now`, so long after the question. None where it
    /// does not say.
    pub fn measure(sent_at_ms: u64, now: SystemTime, round_trip: Duration) -> Option<Self> {
        let sent_at = i128::from(sent_at_ms);
        let now = i128::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).ok()?;
        let half = i128::try_from(round_trip.as_millis() / 2).ok()?;
        let offset_ms = i64::try_from(now - half - sent_at).ok()?;
        // Both clocks were read in whole milliseconds.
        let within_ms = u64::try_from(half).ok()?.saturating_add(2);
        (sent_at_ms > 0).then_some(Self { offset_ms, within_ms })
    }

    /// Whether the clocks differ too much, whatever the measurement can be wrong by.
    pub fn is_off(&self) -> bool {
        u128::from(self.offset_ms.unsigned_abs().saturating_sub(self.within_ms)) > DIFFERENCE_MAX.as_millis()
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.offset_ms.unsigned_abs() / 1000;
        match seconds {
            0..300 => write!(f, "{seconds} s")?,
            300..7_200 => write!(f, "{} min", seconds / 60)?,
            7_200..172_800 => write!(f, "{} h", seconds / 3600)?,
            _ => write!(f, "{} days", seconds / 86_400)?,
        }
        f.write_str(if self.offset_ms < 0 { " behind" } else { " ahead of" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_767_225_600 + seconds)
    }

    fn measured(sent_at: u64, now: u64, round_trip: Duration) -> Offset {
        let sent_at_ms = at(sent_at).duration_since(UNIX_EPOCH).unwrap().as_millis();
        Offset::measure(sent_at_ms.try_into().unwrap(), at(now), round_trip).unwrap()
    }

    #[test]
    fn tells_how_far_this_clock_is_behind_or_ahead_in_words() {
        let behind = measured(94, 0, Duration::ZERO);
        assert_eq!((behind.offset_ms, behind.is_off(), behind.to_string()), (-94_000, true, "94 s behind".into()));
        let ahead = measured(0, 3600, Duration::ZERO);
        assert_eq!((ahead.is_off(), ahead.to_string()), (true, "60 min ahead of".into()));
        assert_eq!(measured(0, 86_400 * 400, Duration::ZERO).to_string(), "400 days ahead of");
    }

    #[test]
    fn half_of_the_way_is_what_it_can_be_wrong_by() {
        let offset = measured(10, 20, Duration::from_secs(20));
        assert_eq!((offset.offset_ms, offset.within_ms), (0, 10_002));
        // However the answer took its time, the true difference is within the bound.
        for taken in 0..=20 {
            let truth = 20 - taken - 10;
            let told = measured(10, 20, Duration::from_secs(20));
            assert!((told.offset_ms - truth * 1000).unsigned_abs() <= told.within_ms, "{taken}");
        }
    }

    #[test]
    fn a_slow_answer_is_no_reason_to_complain() {
        assert!(!measured(0, 30, MINUTE).is_off());
        assert!(measured(0, 30, Duration::from_secs(2)).is_off());
        assert!(!measured(0, 5, Duration::from_millis(1)).is_off());
    }

    #[test]
    fn numbers_from_the_network_never_panic() {
        assert_eq!(Offset::measure(0, at(0), MINUTE), None);
        assert_eq!(Offset::measure(u64::MAX, UNIX_EPOCH, MINUTE), None);
        assert!(Offset::measure(1, at(0), Duration::MAX).is_none_or(|offset| !offset.is_off()));
        let least = Offset { offset_ms: i64::MIN, within_ms: u64::MAX };
        assert!(!least.is_off() && least.to_string().ends_with("days behind"));
    }
}
