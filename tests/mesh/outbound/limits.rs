//! Time limits, retries, rests of endpoints that fail, and full queues: what policy sets, and the app is told.

use std::time::Duration;

use hawser::proxy::backend::Queue;
use hawser::wire::http_route::Timeouts;
use hawser::wire::outbound::backend::balance_p2c::{Load, PenaltyPeakEwma};
use hawser::wire::outbound::http_route::{Retry, retry};
use hawser::wire::outbound::{ExponentialBackoff, FailureAccrual, backend, failure_accrual, grpc_route, http_route};
use http_body_util::BodyExt as _;

use super::world::{AUTHORITY, App, Peer, Pki, Pod, SERVICE, Seen, WEB};
use super::{SOON, call, world};
use crate::support::control::{Control, detect, detect_accruing, detect_with, grpc_retrying};
use crate::support::eventually;

/// Short, for tests that wait for it.
const LIMIT: prost_types::Duration = prost_types::Duration { seconds: 0, nanos: 300_000_000 };
/// Longer than any test lasts.
const NEVER: prost_types::Duration = prost_types::Duration { seconds: 600, nanos: 0 };

fn backoff(of: prost_types::Duration) -> Option<ExponentialBackoff> {
    let (min_backoff, max_backoff) = (Some(of), Some(of));
    Some(ExponentialBackoff { min_backoff, max_backoff, ..ExponentialBackoff::default() })
}

/// Retries of 503, so many.
fn retries(max_retries: u32) -> Retry {
    let range = retry::conditions::StatusRange { start: 503, end: 503 };
    Retry {
        max_retries,
        max_request_bytes: 64 << 10,
        conditions: Some(retry::Conditions { status_ranges: vec![range] }),
        timeout: None,
        backoff: backoff(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_in_time_is_answered_for() {
    let limits = [
        (Timeouts { request: Some(LIMIT), ..Timeouts::default() }, "REQUEST_TIMEOUT"),
        (Timeouts { response: Some(LIMIT), ..Timeouts::default() }, "RESPONSE_HEADERS_TIMEOUT"),
        (Timeouts { idle: Some(LIMIT), ..Timeouts::default() }, "IDLE_TIMEOUT"),
    ];
    for (timeouts, label) in limits {
        let (_pki, control, pod, _peer) = world(App::Silent).await;
        control.policy(SERVICE, detect_with(AUTHORITY, |rule| rule.timeouts = Some(timeouts)));
        let response = pod.get(SERVICE, "").await;
        assert!(response.starts_with("HTTP/1.1 504 ") && response.contains("took too long"), "{label}: {response}");
        let called = call(&pod).await;
        assert_eq!(called.headers()["grpc-status"], "4", "{label}: DEADLINE_EXCEEDED");
        assert_eq!(pod.metric("outbound_http_errors_total", &["error=\"response timeout\""]), 2.0);
        let label = format!("error=\"{label}\"");
        assert_eq!(pod.metric("outbound_http_route_request_statuses_total", &[&label]), 2.0, "{label}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_does_not_go_on_is_broken_off() {
    let (_pki, control, pod, _peer) = world(App::Stalling).await;
    for (target, timeouts) in [
        ("10.96.0.5:80", Timeouts { idle: Some(LIMIT), ..Timeouts::default() }),
        ("10.96.0.6:80", Timeouts { request: Some(LIMIT), ..Timeouts::default() }),
        ("10.96.0.7:80", Timeouts { response: Some(LIMIT), ..Timeouts::default() }),
    ] {
        control.policy(target, detect_with(AUTHORITY, |rule| rule.timeouts = Some(timeouts)));
        let response = pod.get(target, "").await;
        assert!(response.starts_with("HTTP/1.1 200 ") && response.contains("begun"), "{response}");
        assert!(!response.ends_with("0\r\n\r\n"), "what is not whole must not look so: {response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quick_answer_has_all_the_time_it_needs() {
    let (_pki, control, pod, _peer) = world(App::Http("web")).await;
    let timeouts = Timeouts { request: Some(NEVER), response: Some(NEVER), idle: Some(NEVER) };
    control.policy(SERVICE, detect_with(AUTHORITY, |rule| rule.timeouts = Some(timeouts)));
    assert!(pod.get(SERVICE, "").await.ends_with("web"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_policy_has_asked_again_is_asked_again_with_its_body() {
    let (_pki, control, pod, mut peer) = world(App::Failing(503, 2)).await;
    control.policy(SERVICE, detect_with(AUTHORITY, |rule| rule.retry = Some(retries(2))));
    let response = pod.post().await;
    assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with("shoe"), "{response}");
    for _ in 0..3 {
        peer.request().await;
    }
    let counted = |name: &str| pod.metric(&format!("outbound_http_route_retry_{name}_total"), &[]);
    assert_eq!((counted("requests"), counted("successes"), counted("limit_exceeded")), (2.0, 1.0, 0.0));
    let labels = ["http_status=\"200\""];
    eventually("the request is counted once, with what came of it", SOON, || {
        match pod.metric("outbound_http_route_request_statuses_total", &labels) {
            1.0 => Ok(()),
            other => Err(other),
        }
    });
}

/// Retries of calls that end with UNAVAILABLE, so many.
fn call_retries(max_retries: u32) -> grpc_route::Retry {
    let conditions = grpc_route::retry::Conditions { unavailable: true, ..Default::default() };
    let Retry { max_request_bytes, backoff, .. } = retries(0);
    grpc_route::Retry { max_retries, max_request_bytes, conditions: Some(conditions), timeout: None, backoff }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_judged_by_the_status_that_comes_after_its_message() {
    for (code, asked) in [("14", 3), ("5", 1)] {
        let (_pki, control, pod, mut peer) = world(App::FailingCalls(code.parse().unwrap(), 2)).await;
        control.policy(SERVICE, grpc_retrying(AUTHORITY, Some(call_retries(2))));
        let answer = call(&pod).await.into_body().collect().await.unwrap();
        let status = answer.trailers().unwrap()["grpc-status"].to_str().unwrap().to_owned();
        assert_eq!(status, if asked == 1 { code } else { "0" }, "what is not named is passed on");
        assert_eq!(answer.to_bytes(), "message", "the body is what one server said");
        peer.next().await;
        for _ in 0..asked {
            assert!(matches!(peer.next().await, Seen::Request { .. }));
        }
        assert!(peer.seen.try_recv().is_err(), "code {code}: asked more than {asked} times");
        let counted = |name: &str| pod.metric(&format!("outbound_grpc_route_retry_{name}_total"), &[]);
        assert_eq!((counted("requests"), counted("limit_exceeded")), (f64::from(asked - 1), 0.0), "code {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_streams_is_passed_on_with_its_first_message_though_it_may_be_asked_again() {
    let (_pki, control, pod, _peer) = world(App::Stalling).await;
    control.policy(SERVICE, grpc_retrying(AUTHORITY, Some(call_retries(2))));
    let mut answer = call(&pod).await.into_body();
    let first = tokio::time::timeout(SOON, answer.frame()).await.expect("the message is held back");
    assert_eq!(first.unwrap().unwrap().into_data().unwrap(), "begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_answer_is_passed_on_when_it_may_not_be_asked_again() {
    let (_pki, control, pod, _peer) = world(App::Failing(503, 9)).await;
    control.policy(SERVICE, detect_with(AUTHORITY, |rule| rule.retry = Some(retries(1))));
    assert!(pod.post().await.starts_with("HTTP/1.1 503 "));
    assert_eq!(pod.metric("outbound_http_route_retry_requests_total", &[]), 1.0);
    assert_eq!(pod.metric("outbound_http_route_retry_limit_exceeded_total", &[]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_more_of_a_body_than_policy_allows_is_not_asked_again() {
    let body = "shoe".len() as u32;
    for (max_request_bytes, status) in [(body - 1, 503), (body, 200)] {
        let retry = Retry { max_request_bytes, ..retries(1) };
        let (_pki, control, pod, _peer) = world(App::Failing(503, 1)).await;
        control.policy(SERVICE, detect_with(AUTHORITY, |rule| rule.retry = Some(retry.clone())));
        let response = pod.post().await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{max_request_bytes} bytes: {response}");
        let overflows = pod.metric("outbound_http_route_retry_overflow_total", &[]);
        assert_eq!(overflows, if status == 200 { 0.0 } else { 1.0 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_asked_again_that_policy_does_not_name() {
    let (_pki, control, pod, mut peer) = world(App::Failing(500, 1)).await;
    control.policy(SERVICE, detect_with(AUTHORITY, |rule| rule.retry = Some(retries(3))));
    assert!(pod.post().await.starts_with("HTTP/1.1 500 "));
    peer.request().await;
    assert_eq!(peer.more_requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_takes_too_long_goes_to_another_endpoint() {
    let (pki, control, pod, silent) = world(App::Silent).await;
    let retry = Retry { timeout: Some(LIMIT), ..retries(8) };
    control.policy(SERVICE, detect_with(AUTHORITY, |rule| rule.retry = Some(retry.clone())));
    let web = Peer::start(pki.tls(WEB), App::Http("web")).await;
    control.add(AUTHORITY, vec![silent.endpoint(5432, WEB), web.endpoint(80, WEB)]);
    for _ in 0..4 {
        let response = pod.get(SERVICE, "").await;
        assert!(response.ends_with("web"), "{response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_sets_limits_by_headers_where_policy_lets_it() {
    let (_pki, control, pod, mut peer) = world(App::Failing(503, 1)).await;
    control.policy(SERVICE, detect_with(AUTHORITY, |rule| rule.allow_l5d_request_headers = true));
    let response = pod.get(SERVICE, "l5d-retry-http: 5xx\r\nl5d-retry-limit: 1\r\nl5d-timeout: 1m\r\n").await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    let (_, headers, _) = peer.request().await;
    assert!(headers.keys().all(|name| !name.as_str().starts_with("l5d-retry") && name != "l5d-timeout"), "{headers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_keeps_failing_is_left_alone_until_it_has_rested() {
    let (pki, control, pod, mut failing) = world(App::Failing(500, usize::MAX)).await;
    let web = Peer::start(pki.tls(WEB), App::Http("web")).await;
    let failures = failure_accrual::ConsecutiveFailures { max_failures: 3, backoff: backoff(NEVER) };
    let accrual = FailureAccrual { kind: Some(failure_accrual::Kind::ConsecutiveFailures(failures)), ejection: None };
    control.policy(SERVICE, detect_accruing(AUTHORITY, accrual));
    control.add(AUTHORITY, vec![failing.endpoint(5432, WEB), web.endpoint(80, WEB)]);
    let mut good = 0;
    for _ in 0..200 {
        good = if pod.get(SERVICE, "").await.starts_with("HTTP/1.1 200 ") { good + 1 } else { 0 };
    }
    let mut requests = 0;
    while let Ok(seen) = failing.seen.try_recv() {
        requests += usize::from(matches!(seen, Seen::Request { .. }));
    }
    assert!(requests <= 3, "{requests} requests went to an endpoint that only fails, {good} in a row were answered");
}

/// Has failures of the rule's endpoints held against them for longer than any test lasts.
fn penalise(rule: &mut http_route::Rule) {
    let Some(http_route::distribution::Kind::FirstAvailable(first)) =
        rule.backends.as_mut().and_then(|backends| backends.kind.as_mut())
    else {
        unreachable!("one backend is the first")
    };
    for backend in first.backends.iter_mut().filter_map(|one| one.backend.as_mut()) {
        if let Some(backend::Kind::Balancer(balancer)) = &mut backend.kind {
            let load = PenaltyPeakEwma { penalty_decay: Some(NEVER), ..PenaltyPeakEwma::default() };
            balancer.load = Some(Load::PenaltyPeakEwma(load));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_or_has_too_much_to_do_is_passed_over_where_policy_penalises_that() {
    for status in [500, 429] {
        let (pki, control, pod, mut failing) = world(App::Failing(status, usize::MAX)).await;
        let web = Peer::start(pki.tls(WEB), App::Http("web")).await;
        control.policy(SERVICE, detect_with(AUTHORITY, penalise));
        control.add(AUTHORITY, vec![failing.endpoint(5432, WEB), web.endpoint(80, WEB)]);
        for _ in 0..100 {
            pod.get(SERVICE, "").await;
        }
        let mut requests = 0;
        while let Ok(seen) = failing.seen.try_recv() {
            requests += usize::from(matches!(seen, Seen::Request { .. }));
        }
        assert!(requests <= 1, "{requests} requests went to an endpoint that answers {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_too_many_waiting_is_told_so_at_once() {
    let (pki, control) = (Pki::new(), Control::start());
    control.policy(SERVICE, detect(AUTHORITY));
    control.no_endpoints(AUTHORITY);
    let pod = Pod::start_queued(&pki, &control, Queue { capacity: 0, failfast: Duration::from_secs(600) });
    let response = pod.get(SERVICE, "").await;
    assert!(response.starts_with("HTTP/1.1 503 ") && response.contains("wait for an endpoint"), "{response}");
    assert_eq!(pod.metric("outbound_http_errors_total", &["error=\"loadshed\""]), 1.0);
    let peer = Peer::start(pki.tls(WEB), App::Http("web")).await;
    control.add(AUTHORITY, vec![peer.endpoint(80, WEB)]);
    eventually("it recovers with the first endpoint", SOON, || {
        let response = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(pod.get(SERVICE, "")));
        if response.ends_with("web") { Ok(()) } else { Err(response) }
    });
}
