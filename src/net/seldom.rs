//! Says things that may happen ten thousand times a second once a second.
//!
//! In: the moments at which something could be said. Out: whether it should be, and how often it was not since.
//!
//! Start at [`Seldom::is_due`].

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// As often as a person can read it.
const EVERY: Duration = Duration::from_secs(1);

/// One kind of thing to say.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    at: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// Whether to say it now: then with how many times it has not been said since the last.
    pub fn is_due(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.at.is_some_and(|at| now.saturating_duration_since(at) < EVERY) {
            said.unsaid += 1;
            return None;
        }
        said.at = Some(now);
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_and_then_one_a_second_with_the_number_of_the_others() {
        let (seldom, now) = (Seldom::default(), Instant::now());
        assert_eq!(seldom.is_due(now), Some(0));
        for _ in 0..5 {
            assert_eq!(seldom.is_due(now + EVERY / 2), None);
        }
        assert_eq!(seldom.is_due(now + EVERY), Some(5));
        assert_eq!(seldom.is_due(now + EVERY * 3), Some(0));
    }
}
