//! The limits of one request: those of its rule, or what the app itself asks for in headers where policy lets it.
//!
//! In: a rule and a request's headers. Out: how long its parts may take and how often it is asked again, and the counts of that. The headers
//! are for this proxy: they go no further.
//!
//! Start at [`of`].

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use crate::manifest::names;
use crate::mesh::limits::{Codes, Limits, Retry, Statuses, Timeouts, duration};
use crate::proxy::backend::{Answer, Retried};
use crate::proxy::discovery::plan::HttpRule;
use crate::proxy::http::{Late, Time};
use crate::proxy::metrics::{Event, Metrics};

const TIMEOUT: HeaderName = HeaderName::from_static("l5d-timeout");
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("l5d-request-timeout");
const RESPONSE_TIMEOUT: HeaderName = HeaderName::from_static("l5d-response-timeout");
const RETRY_HTTP: HeaderName = HeaderName::from_static("l5d-retry-http");
const RETRY_GRPC: HeaderName = HeaderName::from_static(names::RETRY_GRPC);
const RETRY_LIMIT: HeaderName = HeaderName::from_static("l5d-retry-limit");
const RETRY_TIMEOUT: HeaderName = HeaderName::from_static("l5d-retry-timeout");

/// What is set for a request that falls under `rule`.
pub(super) fn of<'a>(rule: &'a HttpRule, headers: &mut HeaderMap) -> Cow<'a, Limits> {
    if !rule.may_set_limits {
        return Cow::Borrowed(&rule.limits);
    }
    let mut limits = Cow::Borrowed(&rule.limits);
    // A value that makes no sense is as good as none: the rule's own limit stays.
    for name in [TIMEOUT, REQUEST_TIMEOUT] {
        if let Some(timeout) = taken(headers, &name, |text| duration(text).ok()) {
            limits.to_mut().timeouts.request = Some(timeout);
        }
    }
    if let Some(timeout) = taken(headers, &RESPONSE_TIMEOUT, |text| duration(text).ok()) {
        limits.to_mut().timeouts.response = Some(timeout);
    }
    let statuses: Option<Statuses> = taken(headers, &RETRY_HTTP, |text| text.parse().ok());
    let codes: Option<Codes> = taken(headers, &RETRY_GRPC, |text| text.parse().ok());
    let max: Option<u16> = taken(headers, &RETRY_LIMIT, |text| text.parse().ok());
    let attempt = taken(headers, &RETRY_TIMEOUT, |text| duration(text).ok());
    if statuses.is_none() && codes.is_none() && max.is_none() && attempt.is_none() {
        return limits;
    }
    let retry = &mut limits.to_mut().retry;
    let mut asked = retry.take().unwrap_or_else(|| Retry::once(Statuses::default(), Codes::default()));
    asked.statuses = statuses.unwrap_or(asked.statuses);
    asked.codes = codes.unwrap_or(asked.codes);
    asked.max = max.map_or(asked.max, u32::from);
    asked.timeout = attempt.or(asked.timeout);
    *retry = Some(asked);
    limits
}

fn taken<T>(headers: &mut HeaderMap, name: &HeaderName, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    headers.remove(name)?.to_str().ok().and_then(parse)
}

/// The time that is left for the body of a response, of a request that began at `began_at` and was there in full at `whole_at`.
pub(super) fn time(timeouts: &Timeouts, began_at: Instant, whole_at: Option<Instant>) -> Time {
    let request = timeouts.request.map(|limit| (began_at + limit, Late::Request));
    let response = timeouts.response.zip(whole_at).map(|(limit, whole_at)| (whole_at + limit, Late::Response));
    Time {
        until: request.into_iter().chain(response).min_by_key(|(until, _)| *until),
        // While the client still sends, its server may have nothing to say yet.
        idle: timeouts.idle.filter(|_| whole_at.is_some()),
    }
}

/// Counts what came of the retries of a request.
pub(super) fn count(metrics: &Metrics, rule: &HttpRule, retried: &Retried<'_>, answer: Option<&Answer>) {
    if retried.requests == 0 && !retried.is_limit_exceeded && !retried.has_overflowed {
        return;
    }
    let [requests, successes, ended, overflowed] = match rule.retries.is_grpc {
        true => [
            Event::OutboundGrpcRetries,
            Event::OutboundGrpcRetriesSucceeded,
            Event::OutboundGrpcRetriesEnded,
            Event::OutboundGrpcRetriesOverflowed,
        ],
        false => [
            Event::OutboundHttpRetries,
            Event::OutboundHttpRetriesSucceeded,
            Event::OutboundHttpRetriesEnded,
            Event::OutboundHttpRetriesOverflowed,
        ],
    };
    let count = |event| rule.retries.tally.count_plain(metrics, event);
    (0..retried.requests).for_each(|_| count(requests));
    let is_success = answer.is_some_and(|answer| {
        answer.response.status().as_u16() < 500 && answer.grpc_status().is_none_or(|code| code == 0)
    });
    if retried.requests > 0 && is_success && !retried.is_limit_exceeded {
        count(successes);
    }
    if retried.is_limit_exceeded {
        count(ended);
    }
    if retried.has_overflowed {
        count(overflowed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proxy::discovery::plan::{Distribution, RetryCounts};
    use crate::proxy::metrics::{Labels, Measured, Scope, Tally};

    fn rule(may_set_limits: bool) -> HttpRule {
        let labels = Labels::resource("route", None);
        HttpRule {
            matches: Vec::new(),
            filters: Vec::new(),
            backends: Distribution::Empty,
            limits: Limits { retry: Some(Retry::once("503".parse().unwrap(), Codes::default())), ..Limits::default() },
            may_set_limits,
            measured: Measured::new(Scope::OutboundHttpRoute, labels.clone()),
            retries: std::sync::Arc::new(RetryCounts { tally: Tally::new(labels), is_grpc: false }),
            profile: None,
        }
    }

    fn headers() -> HeaderMap {
        let set = [("l5d-timeout", "2s"), ("l5d-retry-limit", "3"), ("l5d-retry-timeout", "soon"), ("x-own", "kept")];
        set.into_iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn an_app_may_set_limits_by_headers_where_policy_lets_it() {
        let (rule, mut headers) = (rule(true), headers());
        let limits = of(&rule, &mut headers);
        let retry = limits.retry.as_ref().unwrap();
        assert_eq!(limits.timeouts.request, Some(Duration::from_secs(2)));
        assert_eq!((retry.max, retry.timeout), (3, None), "what makes no sense sets nothing");
        assert!(retry.is_wanted(503, None), "what is not said stays as the rule has it");
        assert_eq!(headers.len(), 1, "the headers go no further: {headers:?}");
    }

    #[test]
    fn headers_that_policy_does_not_know_of_pass_and_set_nothing() {
        let (rule, mut headers) = (rule(false), headers());
        assert_eq!(*of(&rule, &mut headers), rule.limits);
        assert_eq!(headers.len(), 4);
    }
}
