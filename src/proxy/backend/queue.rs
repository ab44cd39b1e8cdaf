//! How many wait for an endpoint at a time, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How many may wait for an endpoint, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    pub capacity: usize,
    pub failfast: Duration,
}

/// The queue of requests, and that of opaque connections.
#[derive(Clone, Copy, Debug)]
pub struct Queues {
    pub http: Queue,
    pub tcp: Queue,
}

impl Default for Queues {
    fn default() -> Self {
        let queue = Queue { capacity: 10_000, failfast: Duration::from_secs(3) };
        Self { http: queue, tcp: queue }
    }
}

/// A place among those who wait for an endpoint.
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    /// None where all are taken.
    pub(super) fn take(waiting: &Arc<AtomicUsize>, capacity: usize) -> Option<Self> {
        let place = Self(waiting.clone());
        (waiting.fetch_add(1, Ordering::Relaxed) < capacity).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
