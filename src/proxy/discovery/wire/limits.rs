//! Reads what a policy says of time, of asking again, and of endpoints that keep failing.
//!
//! What is out of range makes the whole policy invalid, for a limit that is not kept is none.
//!
//! Start at [`timeouts`], [`http_retry`] and [`accrual_of`].

use std::time::Duration;

use super::duration;
use crate::mesh::limits::{Accrual, Codes, Pauses, Rate, Retry, Statuses, Timeouts};
use crate::proxy::policy::convert::{self, Invalid};
use crate::wire::http_route;
use crate::wire::outbound::proxy_protocol::Kind;
use crate::wire::outbound::{self, FailureAccrual};

pub(super) fn timeouts(
    said: Option<http_route::Timeouts>,
    of_older: Option<prost_types::Duration>,
) -> Result<Timeouts, Invalid> {
    let said = said.unwrap_or_default();
    let request = limit(said.request)?;
    Ok(Timeouts {
        request: if request.is_some() { request } else { limit(of_older)? },
        response: limit(said.response)?,
        idle: limit(said.idle)?,
    })
}

pub(super) fn http_retry(said: outbound::http_route::Retry) -> Result<Retry, Invalid> {
    let conditions = said.conditions.ok_or(Invalid::Missing("the conditions of a retry"))?;
    let status = |status: u32| u16::try_from(status).ok().filter(|status| (1..600).contains(status));
    let range =
        |range: outbound::http_route::retry::conditions::StatusRange| match (status(range.start), status(range.end)) {
            (Some(start), Some(end)) => Ok(start..=end),
            _ => Err(convert::unparsable("statuses of a retry", (range.start, range.end))),
        };
    let statuses = conditions.status_ranges.into_iter().map(range).collect::<Result<_, _>>()?;
    let conditions = (Statuses(statuses), Codes::default());
    retry(said.max_retries, said.max_request_bytes, conditions, said.timeout, said.backoff)
}

pub(super) fn grpc_retry(said: outbound::grpc_route::Retry) -> Result<Retry, Invalid> {
    let conditions = said.conditions.ok_or(Invalid::Missing("the conditions of a retry"))?;
    let on = [
        (conditions.cancelled, 1),
        (conditions.deadine_exceeded, 4),
        (conditions.resource_exhausted, 8),
        (conditions.internal, 13),
        (conditions.unavailable, 14),
    ];
    let codes = on.into_iter().filter(|(is_on, _)| *is_on).fold(Codes::default(), |codes, (_, code)| codes.with(code));
    let conditions = (Statuses::default(), codes);
    retry(said.max_retries, said.max_request_bytes, conditions, said.timeout, said.backoff)
}

fn retry(
    max: u32,
    bytes_max: u32,
    (statuses, codes): (Statuses, Codes),
    timeout: Option<prost_types::Duration>,
    backoff: Option<outbound::ExponentialBackoff>,
) -> Result<Retry, Invalid> {
    if max > u32::from(u16::MAX) {
        return Err(convert::unparsable("number of retries", max));
    }
    let pauses = backoff.map(pauses).transpose()?.unwrap_or(Pauses::OF_RETRIES);
    let body_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    Ok(Retry { max, statuses, codes, body_max, timeout: limit(timeout)?, pauses })
}

/// Failure accrual of any of the protocols is that of the backends: all of them share their endpoints.
pub(super) fn accrual_of(kind: &Kind) -> Result<Option<Accrual>, Invalid> {
    accrual(match kind {
        Kind::Detect(detect) => {
            let http1 = detect.http1.as_ref().and_then(|http| http.failure_accrual);
            http1.or_else(|| detect.http2.as_ref().and_then(|http| http.failure_accrual))
        }
        Kind::Http1(http) => http.failure_accrual,
        Kind::Http2(http) => http.failure_accrual,
        Kind::Grpc(grpc) => grpc.failure_accrual,
        Kind::Opaque(_) | Kind::Tls(_) => None,
    })
}

fn accrual(said: Option<FailureAccrual>) -> Result<Option<Accrual>, Invalid> {
    use outbound::failure_accrual::Kind;
    let Some(said) = said else { return Ok(None) };
    let ready_min = said.ejection.map_or(0, |ejection| ejection.min_ready_endpoints as usize);
    let some = |max: u32| (max > 0).then_some(max);
    let respects = |backoff: &Option<outbound::ExponentialBackoff>| {
        backoff.as_ref().is_some_and(|backoff| backoff.respect_retry_after_hint)
    };
    let backoff = |backoff: Option<_>| pauses(backoff.ok_or(Invalid::Missing("the backoff of failure accrual"))?);
    Ok(Some(match said.kind.ok_or(Invalid::Missing("the kind of failure accrual"))? {
        Kind::ConsecutiveFailures(said) => {
            let (failures_max, respects_hints) = (some(said.max_failures), respects(&said.backoff));
            Accrual { failures_max, rate: None, pauses: backoff(said.backoff)?, ready_min, respects_hints }
        }
        Kind::Unified(said) => Accrual {
            respects_hints: respects(&said.backoff),
            failures_max: some(said.max_consecutive_failures),
            rate: match said.decay.and_then(duration) {
                Some(decay) if said.success_rate_threshold > 0.0 => {
                    Some(Rate { successes_min: said.success_rate_threshold, decay, requests_min: said.min_requests })
                }
                _ => None,
            },
            pauses: backoff(said.backoff)?,
            ready_min,
        },
    }))
}

fn pauses(said: outbound::ExponentialBackoff) -> Result<Pauses, Invalid> {
    let missing = || Invalid::Missing("the bounds of a backoff");
    let shortest = said.min_backoff.and_then(duration).ok_or_else(missing)?;
    let longest = said.max_backoff.and_then(duration).ok_or_else(missing)?;
    Ok(Pauses { shortest, longest, jitter: f64::from(said.jitter_ratio) })
}

/// No time at all is no limit.
fn limit(said: Option<prost_types::Duration>) -> Result<Option<Duration>, Invalid> {
    let Some(said) = said else { return Ok(None) };
    let limit = duration(said).ok_or_else(|| convert::unparsable("timeout", said))?;
    Ok((!limit.is_zero()).then_some(limit))
}
