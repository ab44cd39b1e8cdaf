//! How many requests may be asked again, as a part of those that are asked at all.
//!
//! In: each request, each wish to ask one again, and `now`. Out: yes or no. Of the last while (`ttl`) there may have been as many retries as
//! `ratio` of the requests, and so many more per second. So a server that fails gets little more to do than one that does not.
//!
//! Start at [`Budget::withdraw`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Parts of the while, which are forgotten one by one.
const SLOTS: usize = 10;

/// What a budget is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Retries per request.
    pub ratio: f32,
    /// Retries per second besides.
    pub per_second: u32,
    /// How long requests and retries count.
    pub ttl: Duration,
}

/// A budget, and what has been used of it.
#[derive(Debug)]
pub struct Budget {
    terms: Terms,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    slots: [Slot; SLOTS],
    current: usize,
    /// When the current one began.
    since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    requests: u32,
    retries: u32,
}

impl Budget {
    /// A budget of these terms: the one of `before`, where it is of the same.
    pub fn after(before: Option<&Arc<Self>>, terms: Terms) -> Arc<Self> {
        match before {
            Some(before) if before.terms == terms => before.clone(),
            _ => Arc::new(Self { terms, window: Mutex::default() }),
        }
    }

    /// Notes a request.
    pub fn deposit(&self, now: Instant) {
        let slot = &mut *self.slot(now);
        let requests = &mut slot.slots[slot.current].requests;
        *requests = requests.saturating_add(1);
    }

    /// Whether one may be asked again; it counts, then.
    pub fn withdraw(&self, now: Instant) -> bool {
        let mut window = self.slot(now);
        let sum = |part: fn(&Slot) -> u32| window.slots.iter().map(|slot| f64::from(part(slot))).sum::<f64>();
        let Terms { ratio, per_second, ttl } = self.terms;
        let allowed = f64::from(ratio) * sum(|slot| slot.requests) + f64::from(per_second) * ttl.as_secs_f64();
        let is_allowed = sum(|slot| slot.retries) + 1.0 <= allowed;
        if is_allowed {
            let current = window.current;
            window.slots[current].retries += 1;
        }
        is_allowed
    }

    /// The window, as it is now.
    fn slot(&self, now: Instant) -> MutexGuard<'_, Window> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *window.since.get_or_insert(now);
        let length = self.terms.ttl / SLOTS as u32;
        let passed = now.saturating_duration_since(since).as_nanos().checked_div(length.as_nanos()).unwrap_or(0);
        if passed >= SLOTS as u128 {
            *window = Window { since: Some(now), ..Window::default() };
        } else if passed > 0 {
            for _ in 0..passed {
                window.current = (window.current + 1) % SLOTS;
                let current = window.current;
                window.slots[current] = Slot::default();
            }
            window.since = Some(since + length * passed as u32);
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn budget(ratio: f32, per_second: u32) -> Arc<Budget> {
        Budget::after(None, Terms { ratio, per_second, ttl: TTL })
    }

    /// How many may be asked again at `now`.
    fn all(budget: &Budget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn so_many_per_second_may_be_asked_again_whatever_was_asked() {
        let (budget, now) = (budget(0.0, 3), Instant::now());
        assert_eq!(all(&budget, now), 30);
        assert_eq!(all(&budget, now + TTL / 2), 0, "what was used is used");
        assert_eq!(all(&budget, now + TTL), 30, "until it is forgotten");
    }

    #[test]
    fn a_part_of_what_was_asked_may_be_asked_again_as_long_as_that_counts() {
        let (budget, now) = (budget(0.5, 0), Instant::now());
        assert!(!budget.withdraw(now), "nothing has been asked");
        (0..20).for_each(|_| budget.deposit(now));
        assert_eq!(all(&budget, now + TTL / 2), 10);
        budget.deposit(now + TTL / 2);
        budget.deposit(now + TTL / 2);
        assert_eq!(all(&budget, now + TTL + TTL / 4), 0, "the retries count for as long as the later requests");
        assert_eq!(all(&budget, now + TTL * 3), 0);
    }

    #[test]
    fn slots_are_forgotten_one_by_one() {
        let (budget, now) = (budget(1.0, 0), Instant::now());
        for second in 0..10 {
            budget.deposit(now + Duration::from_secs(second));
        }
        assert_eq!(all(&budget, now + Duration::from_secs(12)), 7);
    }

    #[test]
    fn what_was_used_of_a_budget_stays_used_when_the_same_is_said_again() {
        let (first, now) = (budget(0.0, 1), Instant::now());
        all(&first, now);
        let same = Budget::after(Some(&first), first.terms);
        assert!(!same.withdraw(now));
        let other = Budget::after(Some(&first), Terms { per_second: 2, ..first.terms });
        assert!(other.withdraw(now));
    }
}
