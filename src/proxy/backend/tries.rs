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
use crate::proxy::discovery::plan::ProfileRoute;
use crate::proxy::http::Body;
use crate::proxy::http::repeat::{Again, Unserved};
use crate::proxy::metrics::{Metrics, Outcome, Started};

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
pub struct Retried<'r> {
    pub requests: u32,
    pub is_limit_exceeded: bool,
    pub has_overflowed: bool,
    /// Of a request that falls under a route of a profile.
    pub profile: Option<Profiled<'r>>,
}

/// What a route of a profile has counted of each attempt, and what it allows.
#[derive(Debug)]
pub struct Profiled<'r> {
    route: &'r ProfileRoute,
    metrics: &'r Metrics,
    /// The attempt under way.
    attempt: Option<Started>,
}

impl<'r> Profiled<'r> {
    pub fn new(route: &'r ProfileRoute, metrics: &'r Metrics) -> Self {
        Self { route, metrics, attempt: None }
    }

    /// Whether what is left of the budget allows to ask once more.
    fn may_retry(&self) -> bool {
        let Some(budget) = &self.route.budget else { return false };
        let is_allowed = budget.withdraw(Instant::now().into());
        self.route.requests.retryable(self.metrics, is_allowed);
        is_allowed
    }
}

impl<'r> Retried<'r> {
    /// Of a request that falls under this route, if it is one of a profile.
    pub fn of(route: Option<&'r ProfileRoute>, metrics: &'r Metrics) -> Self {
        let profile = route.map(|route| Profiled::new(route, metrics));
        Self { profile, ..Self::default() }
    }

    /// An attempt begins, unless it goes on with one that came to nothing.
    pub(super) fn begin(&mut self) {
        if let Some(Profiled { route, metrics, attempt }) = &mut self.profile {
            attempt.get_or_insert_with(|| route.requests.attempt(metrics));
        }
    }

    /// The attempt ends as `started` does.
    pub(super) fn end_with(&mut self, started: &mut Started) {
        if let Some(attempt) = self.profile.as_mut().and_then(|profile| profile.attempt.take()) {
            started.also(attempt);
        }
    }

    /// The attempt that is under way, if any, has ended.
    pub fn end(&mut self, outcome: impl FnOnce() -> Outcome) {
        if let Some(attempt) = self.profile.as_mut().and_then(|profile| profile.attempt.take()) {
            attempt.end(&outcome());
        }
    }

    /// Notes that the request is done. One that could not be asked again gives nothing to the budget.
    pub fn done(&self) {
        if let Some(budget) = self.profile.as_ref().and_then(|profile| profile.route.budget.as_ref())
            && !self.is_limit_exceeded
        {
            budget.deposit(Instant::now().into());
        }
    }

    /// The request once more, after a pause; none where `retry` does not want that, or not so often, or too much of it has passed.
    pub(super) async fn next(&mut self, retry: Option<&Retry>, again: Option<&Again>) -> Option<Box<Request<Body>>> {
        let retry = retry?;
        if self.requests >= retry.max {
            self.is_limit_exceeded = true;
            return None;
        }
        let Some(again) = again.filter(|again| again.has_kept_within(retry.body_max)) else {
            self.has_overflowed = true;
            return None;
        };
        if self.profile.as_ref().is_some_and(|profile| !profile.may_retry()) {
            self.is_limit_exceeded = true;
            return None;
        }
        let Some(next) = again.request() else {
            self.has_overflowed = true;
            return None;
        };
        tokio::time::sleep(retry.pauses.after(self.requests, rand::random())).await;
        self.requests += 1;
        Some(next)
    }
}
