//! What the annotations of a Service say of time limits, retries and failing endpoints.
//!
//! In: its annotations. Out: [`ServiceLimits`]. What cannot be parsed is left out, as it is with every annotation.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use crate::mesh::limits::{Accrual, Codes, Limits, Pauses, Penalty, Rate, Retry, Statuses, Timeouts, duration};

const FAILURES_MAX: u32 = 7;
const PENALTY_MIN: Duration = Duration::from_secs(1);
const PENALTY_MAX: Duration = Duration::from_secs(60);
const PENALTY_JITTER: f64 = 0.5;
const SUCCESSES_MIN: f64 = 0.8;
const SUCCESSES_WINDOW: Duration = Duration::from_secs(10);
const REQUESTS_MIN: u32 = 5;
/// The shortest window, and the most requests, that proxies take.
const WINDOW_MIN: Duration = Duration::from_millis(10);
const REQUESTS_MIN_MAX: u32 = 1_000_000;

/// What is set for the clients of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceLimits {
    pub limits: Limits,
    pub accrual: Option<Accrual>,
    pub penalty: Option<Penalty>,
}

/// No number in it is read that is not one.
impl Eq for ServiceLimits {}

impl ServiceLimits {
    pub(super) fn of(annotations: Option<&BTreeMap<String, String>>) -> Self {
        let Some(annotations) = annotations else { return Self::default() };
        let said = |name: &str| annotations.get(name).map(String::as_str);
        let time = |name: &str| said(name).and_then(|text| duration(text).ok()).filter(|limit| !limit.is_zero());
        let timeouts = Timeouts {
            request: time("timeout.linkerd.io/request"),
            response: time("timeout.linkerd.io/response"),
            idle: time("timeout.linkerd.io/idle"),
        };
        let statuses: Option<Statuses> = said("retry.linkerd.io/http").and_then(parse);
        let codes: Option<Codes> = said("retry.linkerd.io/grpc").and_then(parse);
        let retry = (statuses.is_some() || codes.is_some()).then(|| {
            let once = Retry::once(statuses.unwrap_or_default(), codes.unwrap_or_default());
            let max = said("retry.linkerd.io/limit").and_then(parse::<u16>).map_or(once.max, u32::from);
            Retry { max, timeout: time("retry.linkerd.io/timeout"), ..once }
        });
        let rate = match said("balancer.linkerd.io/failure-accrual") {
            Some("consecutive") => Some(None),
            Some("unified") => Some(Some(rate(said))),
            _ => None,
        };
        let is_on = |name: &str| said(name).and_then(parse).unwrap_or(false);
        let respects_hints = is_on("balancer.alpha.linkerd.io/failure-accrual-honor-retry-after");
        let penalty = is_on("balancer.alpha.linkerd.io/penalize-failures").then(|| {
            let usual = Penalty::default();
            Penalty {
                by: time("balancer.alpha.linkerd.io/load-biaser-penalty").unwrap_or(usual.by),
                hint_max: time("balancer.alpha.linkerd.io/load-biaser-max-retry-after").unwrap_or(usual.hint_max),
                ..usual
            }
        });
        let accrual = rate.map(|rate| {
            let said = |name: &str| said(&format!("balancer.linkerd.io/failure-accrual-consecutive-{name}"));
            let time = |name: &str| said(name).and_then(|text| duration(text).ok());
            let jitter = said("jitter-ratio").and_then(parse::<f64>).filter(|ratio| (0.0..=100.0).contains(ratio));
            let shortest = time("min-penalty").unwrap_or(PENALTY_MIN);
            Accrual {
                failures_max: Some(said("max-failures").and_then(parse).unwrap_or(FAILURES_MAX)).filter(|max| *max > 0),
                rate,
                pauses: Pauses {
                    shortest,
                    longest: time("max-penalty").unwrap_or(PENALTY_MAX).max(shortest),
                    jitter: jitter.unwrap_or(PENALTY_JITTER),
                },
                ready_min: 0,
                respects_hints,
            }
        });
        Self { limits: Limits { timeouts, retry }, accrual, penalty }
    }
}

/// The rate of successes that an endpoint must keep.
fn rate<'a>(said: impl Fn(&str) -> Option<&'a str>) -> Rate {
    let said = |name: &str| said(&format!("balancer.alpha.linkerd.io/failure-accrual-success-rate-{name}"));
    let window = said("window").and_then(|text| duration(text).ok()).filter(|window| *window >= WINDOW_MIN);
    let successes_min = said("threshold").and_then(parse::<f64>).filter(|rate| (0.0..=1.0).contains(rate));
    Rate {
        successes_min: successes_min.unwrap_or(SUCCESSES_MIN),
        decay: window.unwrap_or(SUCCESSES_WINDOW),
        requests_min: said("min-requests").and_then(parse).unwrap_or(REQUESTS_MIN).min(REQUESTS_MIN_MAX),
    }
}

fn parse<T: FromStr>(text: &str) -> Option<T> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(annotations: &[(&str, &str)]) -> ServiceLimits {
        let owned = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ServiceLimits::of(Some(&owned))
    }

    #[test]
    fn annotations_set_limits_retries_and_rests() {
        let read = of(&[
            ("timeout.linkerd.io/request", "2s"),
            ("timeout.linkerd.io/idle", "500ms"),
            ("retry.linkerd.io/http", "5xx"),
            ("retry.linkerd.io/limit", "2"),
            ("retry.linkerd.io/timeout", "300ms"),
            ("balancer.linkerd.io/failure-accrual", "consecutive"),
            ("balancer.linkerd.io/failure-accrual-consecutive-max-failures", "3"),
        ]);
        let retry = read.limits.retry.unwrap();
        assert_eq!((retry.max, retry.timeout), (2, Some(Duration::from_millis(300))));
        assert!(retry.is_wanted(503, None) && !retry.is_wanted(404, None));
        assert_eq!(read.limits.timeouts.request, Some(Duration::from_secs(2)));
        assert_eq!(read.limits.timeouts.response, None);
        let accrual = read.accrual.unwrap();
        assert_eq!((accrual.failures_max, accrual.pauses.longest), (Some(3), PENALTY_MAX));
    }

    #[test]
    fn unified_accrual_goes_by_the_rate_of_successes_too() {
        let said = |name: &str| format!("balancer.alpha.linkerd.io/failure-accrual-success-rate-{name}");
        let (threshold, window, requests) = (said("threshold"), said("window"), said("min-requests"));
        let unified = ("balancer.linkerd.io/failure-accrual", "unified");
        let of = |set: &[(&str, &str)]| of(&[&[unified], set].concat()).accrual.unwrap();
        let usual = Rate { successes_min: 0.8, decay: Duration::from_secs(10), requests_min: 5 };
        assert_eq!((of(&[]).failures_max, of(&[]).rate), (Some(7), Some(usual)));
        let set = of(&[(&threshold, "0.95"), (&window, "30s"), (&requests, "100")]);
        assert_eq!(set.rate, Some(Rate { successes_min: 0.95, decay: Duration::from_secs(30), requests_min: 100 }));
        let wrong = of(&[(&threshold, "80"), (&window, "1ms"), (&requests, "-1")]);
        assert_eq!(wrong.rate, Some(usual));
    }

    #[test]
    fn failures_are_penalised_where_that_is_said_and_hints_respected_likewise() {
        let alpha = |name: &str| format!("balancer.alpha.linkerd.io/{name}");
        let (on, by, longest) =
            (alpha("penalize-failures"), alpha("load-biaser-penalty"), alpha("load-biaser-max-retry-after"));
        assert_eq!(of(&[(&on, "true")]).penalty, Some(Penalty::default()));
        let seconds = Duration::from_secs;
        let set = of(&[(&on, "true"), (&by, "2s"), (&longest, "1m")]).penalty;
        assert_eq!(set, Some(Penalty { by: seconds(2), hint_max: seconds(60), ..Penalty::default() }));
        for off in [&[(on.as_str(), "false")][..], &[(&on, "yes")], &[(&by, "2s")]] {
            assert_eq!(of(off).penalty, None);
        }
        let hints = alpha("failure-accrual-honor-retry-after");
        let consecutive = ("balancer.linkerd.io/failure-accrual", "consecutive");
        assert!(of(&[consecutive, (&hints, "true")]).accrual.unwrap().respects_hints);
        assert!(!of(&[consecutive]).accrual.unwrap().respects_hints);
    }

    #[test]
    fn what_cannot_be_parsed_sets_nothing() {
        let read = of(&[
            ("timeout.linkerd.io/request", "soon"),
            ("timeout.linkerd.io/response", "0"),
            ("retry.linkerd.io/http", "sometimes"),
            ("retry.linkerd.io/limit", "2"),
            ("balancer.linkerd.io/failure-accrual", "guess"),
        ]);
        assert_eq!(read, ServiceLimits::default());
    }
}
