//! What the way out counts, by names, labels and buckets.

use std::time::Instant;

use hawser::wire::destination::{DestinationProfile, Route};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::{AUTHORITY, App, Peer, SERVICE, WEB};
use super::{call_on, world};
use crate::support::control::{budget, detect, grpc, meshed, opaque, profile, route, split};
use crate::support::free_port;
use crate::support::metrics::are_golden;

/// A service behind which there is nobody.
const EMPTY: &str = "10.96.0.4:80";

#[tokio::test(flavor = "multi_thread")]
async fn requests_calls_and_connections_are_counted_under_the_names_dashboards_know() {
    let (pki, control, pod, _peer) = world(App::Http("web")).await;
    assert!(pod.get(SERVICE, "").await.starts_with("HTTP/1.1 200"));

    let calls = Peer::start(pki.tls(WEB), App::Grpc).await;
    control.policy("10.96.0.2:80", grpc("calls.shop.svc.cluster.local:80"));
    control.add("calls.shop.svc.cluster.local:80", vec![calls.endpoint(80, WEB)]);
    let called = call_on(pod.connect("10.96.0.2:80").await).await;
    assert_eq!(called.into_body().collect().await.unwrap().trailers().unwrap()["grpc-status"], "7");

    let echo = Peer::start(pki.tls(WEB), App::Echo).await;
    control.policy("10.96.0.3:80", opaque("echo.shop.svc.cluster.local:80", Vec::new()));
    control.add("echo.shop.svc.cluster.local:80", vec![echo.endpoint(80, WEB)]);
    let mut stream = pod.connect("10.96.0.3:80").await;
    stream.write_all(b"ping").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);

    control.policy(EMPTY, detect("empty.shop.svc.cluster.local:80"));
    control.no_endpoints("empty.shop.svc.cluster.local:80");
    assert!(pod.get(EMPTY, "").await.starts_with("HTTP/1.1 504"));

    let books = Peer::start(pki.tls(WEB), App::Failing(503, usize::MAX)).await;
    let mut said = profile(vec![Route { is_retryable: true, ..route("GET /hello", "/hello") }]);
    said.fully_qualified_name = "books.shop.svc.cluster.local".into();
    control.policy("10.96.0.5:80", detect("books.shop.svc.cluster.local:80"));
    control.profile("10.96.0.5:80", DestinationProfile { retry_budget: budget(0), ..said });
    control.add("books.shop.svc.cluster.local:80", vec![books.endpoint(80, WEB)]);
    assert!(pod.get("10.96.0.5:80", "").await.starts_with("HTTP/1.1 503"));
    are_golden("outbound", || pod.metrics.encode().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_counted_for_its_route_and_its_backend_once() {
    let (_pki, control, pod, _peer) = world(App::Http("web")).await;
    assert!(pod.get(SERVICE, "").await.starts_with("HTTP/1.1 200"));
    control.policy(EMPTY, detect("empty.shop.svc.cluster.local:80"));
    control.no_endpoints("empty.shop.svc.cluster.local:80");
    assert!(pod.get(EMPTY, "").await.starts_with("HTTP/1.1 504"));
    crate::support::eventually("each is counted with its outcome", super::SOON, || {
        let counted = [
            pod.metric("outbound_http_route_request_statuses_total", &["http_status=\"200\",error=\"\""]),
            pod.metric("outbound_http_route_request_statuses_total", &["http_status=\"\",error=\"FAIL_FAST\""]),
            pod.metric("outbound_http_route_backend_response_statuses_total", &["http_status=\"200\""]),
            pod.metric("outbound_http_route_backend_requests_total", &[]),
            pod.metric("outbound_http_route_request_duration_seconds_count", &[]),
        ];
        if counted == [1.0, 1.0, 1.0, 2.0, 2.0] { Ok(()) } else { Err(counted) }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_s_endpoints_are_told_by_whether_requests_go_there() {
    let (_pki, control, pod, peer) = world(App::Http("web")).await;
    assert!(pod.get(SERVICE, "").await.starts_with("HTTP/1.1 200"));
    let endpoints = |state: &str| {
        let state = format!("endpoint_state=\"{state}\"");
        pod.metric("outbound_http_balancer_endpoints", &[&state, "backend_name=\"web\"", "backend_namespace=\"shop\""])
    };
    assert_eq!((endpoints("ready"), endpoints("pending")), (1.0, 0.0));
    // Nobody listens at the other, which is found out by a request that tries it; until then, a new one gets few.
    let away = meshed("127.0.0.1:81".parse().unwrap(), free_port(), WEB);
    control.add(AUTHORITY, vec![peer.endpoint(5432, WEB), away]);
    let deadline = Instant::now() + super::SOON;
    while endpoints("pending") == 0.0 && Instant::now() < deadline {
        assert!(pod.get(SERVICE, "").await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!((endpoints("ready"), endpoints("pending")), (1.0, 1.0));
    assert_eq!(pod.metric("outbound_http_balancer_queue_length", &[]), 0.0);
    let updates = |op: &str| pod.metric("outbound_http_balancer_updates_total", &["backend_name=\"web\"", op]);
    assert_eq!((updates("op=\"Reset\""), updates("op=\"Add\""), updates("op=\"Remove\"")), (1.0, 1.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_of_a_plan_that_is_over_is_forgotten_though_connections_last() {
    const ECHO: (&str, &str) = ("10.96.0.3:80", "echo.shop.svc.cluster.local:80");
    const NEXT: &str = "next.shop.svc.cluster.local:80";
    let (pki, control, pod, peer) = world(App::Http("web")).await;
    let mut asking = pod.connect(SERVICE).await;
    asking.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    asking.read_exact(&mut [0; 12]).await.unwrap();
    let echo = Peer::start(pki.tls(WEB), App::Echo).await;
    control.policy(ECHO.0, opaque(ECHO.1, Vec::new()));
    control.add(ECHO.1, vec![echo.endpoint(80, WEB)]);
    let mut talking = pod.connect(ECHO.0).await;
    talking.write_all(b"ping").await.unwrap();
    talking.read_exact(&mut [0; 4]).await.unwrap();

    let told = |name: &str| {
        pod.metric(
            "outbound_http_balancer_endpoints",
            &["endpoint_state=\"ready\"", &format!("backend_name=\"{name}\"")],
        )
    };
    assert_eq!((told("web"), told("echo")), (1.0, 1.0));
    control.add(NEXT, vec![peer.endpoint(80, WEB)]);
    for target in [SERVICE, ECHO.0] {
        control.profile(target, split(&[(NEXT, 1)]));
    }
    crate::support::eventually("only the new backend is told of", super::SOON, || {
        let told = (told("web"), told("echo"), told("next"));
        if told == (0.0, 0.0, 1.0) { Ok(()) } else { Err(told) }
    });
    talking.write_all(b"pong").await.unwrap();
    talking.read_exact(&mut [0; 4]).await.unwrap();
    asking.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    assert!(asking.read(&mut [0; 12]).await.unwrap() > 0);
}
