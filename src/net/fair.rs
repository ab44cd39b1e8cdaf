//! Time limits that count only the time in which this process got to run.
//!
//! In: a limit and some work. Out: what the work came to, or that the limit is over. A node with too much to do lets a process wait for
//! hundreds of milliseconds at a time, its peers on that node as well, and what was waited for is none the later by their fault: giving up
//! then, and beginning anew, makes more work and nothing sooner. So a limit is waited for in parts. A part whose timer fires late was
//! spent waiting for a CPU, and counts as long as it should have been.
//!
//! Start at [`timeout`]; [`elapse`] is one that waits for nothing.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// Parts of a limit: as often must this process have got to run before its peers are believed to have had their chance.
const PARTS: u32 = 20;
/// Timers are no finer than a millisecond; a process that is woken that much later was not kept waiting.
const LATE: Duration = Duration::from_millis(5);
/// How much longer than the limit it may take by the clock on the wall: whoever waits for us has a limit too.
const STRETCH_MAX: u32 = 10;

/// The limit is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("took too long")]
pub struct Elapsed;

/// Works for at most `limit`.
///
/// # Errors
/// Where that was not enough.
pub async fn timeout<F: Future>(limit: Duration, work: F) -> Result<F::Output, Elapsed> {
    // Handshakes are large, and a future that holds one in place is as large for all of its life.
    let mut work = Box::pin(work);
    let give_up_at = Instant::now() + limit * STRETCH_MAX;
    let mut left = limit;
    loop {
        let part = (limit / PARTS).max(LATE).min(left);
        let began_at = Instant::now();
        if let Ok(done) = tokio::time::timeout(part, &mut work).await {
            return Ok(done);
        }
        left = left.saturating_sub(counted(part, began_at.elapsed()));
        if left.is_zero() || Instant::now() >= give_up_at {
            return Err(Elapsed);
        }
    }
}

/// Resolves when `limit` is over.
pub async fn elapse(limit: Duration) {
    // What never comes is what it times.
    let _over = timeout(limit, std::future::pending::<()>()).await;
}

/// What a part counts for that took `elapsed`.
fn counted(part: Duration, elapsed: Duration) -> Duration {
    if elapsed > part + LATE { part } else { elapsed }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn a_process_that_runs_waits_as_long_as_it_says() {
        let began_at = Instant::now();
        assert_eq!(timeout(LIMIT, std::future::pending::<()>()).await, Err(Elapsed));
        assert_eq!(began_at.elapsed(), LIMIT);
        assert_eq!(timeout(LIMIT, async { 7 }).await, Ok(7));
        assert_eq!(timeout(Duration::ZERO, std::future::pending::<()>()).await, Err(Elapsed));
    }

    #[tokio::test(start_paused = true)]
    async fn time_spent_without_a_cpu_does_not_count() {
        // Time moves on at each timer as if the process had been kept from running then.
        let starved = async {
            for _ in 0..10 {
                tokio::time::advance(LIMIT / 2).await;
                tokio::task::yield_now().await;
            }
            "done"
        };
        assert_eq!(timeout(LIMIT, starved).await, Ok("done"));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let starved = async {
            loop {
                tokio::time::advance(LIMIT * 2).await;
                tokio::task::yield_now().await;
            }
        };
        let began_at = Instant::now();
        assert_eq!(timeout(LIMIT, starved).await.map(|(): ()| ()), Err(Elapsed));
        assert!(began_at.elapsed() < LIMIT * (STRETCH_MAX + 3));
    }

    #[test]
    fn a_timer_that_is_a_little_late_counts_in_full() {
        let part = Duration::from_millis(5);
        assert_eq!(counted(part, part + LATE), part + LATE);
        assert_eq!(counted(part, part + LATE + Duration::from_nanos(1)), part);
    }
}
