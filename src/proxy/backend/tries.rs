//! How often one request or connection is tried, and how long it waits in between: what no app has served, and what policy has asked again.
//!
//! Start at [`Tries`] and [`Retried`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use tokio::time::Instant;

use super::Error;
use crate::mesh::limits::Retry;
use crate::net::backoff::Backoff;
use crate::proxy::client;
use crate::proxy::client::http::Client;
use crate::proxy::http::Body;
use crate::proxy::http::repeat::{Again, Unserved};

/// Endpoints one request is tried at. Past these it is the network that fails, not an endpoint.
const TRIES_MAX: usize = 8;
/// Between tries at an only endpoint whose app serves nobody: in a rollout the next endpoint is known a moment later, and an app that has
/// crashed may be back. The tries end by their number before the failfast timeout, as a rule.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LONGEST: Duration = Duration::from_millis(800);

/// What has become of one request or connection so far.
pub(super) struct Tries {
    pub failed: Vec<(SocketAddr, Arc<client::Error>)>,
    pauses: Backoff,
    /// When to stop waiting for another endpoint; known from the first wait on.
    until: Option<Instant>,
    failfast: Duration,
    was_unanswered: bool,
}

impl Tries {
    pub(super) fn new(failfast: Duration) -> Self {
        let pauses = Backoff::new(PAUSE_FIRST, PAUSE_LONGEST);
        Self { failed: Vec::new(), pauses, until: None, failfast, was_unanswered: false }
    }

    /// Whether a request that was unserved in this way may be tried once more.
    pub(super) fn may_follow(&mut self, unserved: Unserved) -> bool {
        // What kills one app should not go on to kill them all.
        unserved == Unserved::Unsent || !std::mem::replace(&mut self.was_unanswered, true)
    }

    /// How long to wait for another endpoint, after the only one failed.
    pub(super) fn pause(&mut self, client: &Client, error: Arc<client::Error>) -> Result<Duration, Error> {
        self.failed.push((client.endpoint.address, error));
        let now = Instant::now();
        let left = self.until.get_or_insert(now + self.failfast).duration_since(now);
        if left.is_zero() || self.are_over() {
            return Err(self.end());
        }
        Ok(self.pauses.delay().min(left))
    }

    /// Whether there have been as many as there may be.
    pub(super) fn are_over(&self) -> bool {
        self.failed.len() >= TRIES_MAX
    }

    pub(super) fn end(&mut self) -> Error {
        Error::Unreachable { tried: std::mem::take(&mut self.failed) }
    }
}

/// How often a request was asked again that had been answered, and why no more.
#[derive(Debug, Default)]
pub struct Retried {
    pub requests: u32,
    pub is_limit_exceeded: bool,
    pub has_overflowed: bool,
}

impl Retried {
    /// The request once more, after a pause; none where `retry` does not want that, or not so often, or too much of it has passed.
    pub(super) async fn next(&mut self, retry: Option<&Retry>, again: Option<&Again>) -> Option<Request<Body>> {
        let retry = retry?;
        if self.requests >= retry.max {
            self.is_limit_exceeded = true;
            return None;
        }
        let Some(next) = again.and_then(|again| again.request_within(retry.body_max)) else {
            self.has_overflowed = true;
            return None;
        };
        tokio::time::sleep(retry.pauses.after(self.requests, rand::random())).await;
        self.requests += 1;
        Some(next)
    }
}
