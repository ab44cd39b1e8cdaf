//! How long to wait before trying again: longer each time, and never in step with others.

use std::time::Duration;

/// The waits between attempts: doubling from the first to the longest, each drawn from half to one and a half of that,
/// so that the clients of a server that came back do not all arrive at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// How long to wait before the next attempt.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.longest);
        delay.mul_f64(rand::random_range(0.5..1.5))
    }

    /// An attempt succeeded: the next failure is a first one.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let around = |delay: Duration, millis: u64| {
            let delay = delay.as_millis() as u64;
            (millis / 2..=millis * 3 / 2).contains(&delay)
        };
        for expected in [100, 200, 300, 300] {
            assert!(around(backoff.delay(), expected));
        }
        backoff.reset();
        assert!(around(backoff.delay(), 100));
    }
}
