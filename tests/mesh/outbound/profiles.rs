//! What ServiceProfiles do to traffic: splits, routes with limits and retries, and what is told and counted of them.

use hawser::wire::destination::{DestinationProfile, HttpStatusRange, ResponseClass, ResponseMatch, response_match};
use hawser::wire::destination::{RetryBudget, Route};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::world::{AUTHORITY, App, Peer, Pki, Pod, SERVICE, Seen, WEB};
use super::{SOON, call, world};
use crate::support::control::{Control, budget, detect, opaque, profile, route, split};
use crate::support::eventually;

const OLD: &str = "web-old.shop.svc.cluster.local:80";
const NEW: &str = "web-new.shop.svc.cluster.local:80";
const LIMIT: prost_types::Duration = prost_types::Duration { seconds: 0, nanos: 300_000_000 };
/// Enough requests for chance to have its say.
const MANY: usize = 100;

/// A service, and two others that it may be split over, which answer with their names.
async fn split_world() -> (Control, Pod, [Peer; 3]) {
    let (pki, control) = (Pki::new(), Control::start());
    control.policy(SERVICE, detect(AUTHORITY));
    let apps = [("web", AUTHORITY), ("old", OLD), ("new", NEW)];
    let mut peers = Vec::new();
    for (name, authority) in apps {
        let peer = Peer::start(pki.tls(WEB), App::Http(name)).await;
        control.add(authority, vec![peer.endpoint(80, WEB)]);
        peers.push(peer);
    }
    let pod = Pod::start(&pki, &control);
    (control, pod, peers.try_into().unwrap_or_else(|_| unreachable!()))
}

/// One request on a connection that stays open; who answers, all of whom have names of three letters.
async fn ask_on(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET /hello HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    let mut response = Vec::new();
    while !response.windows(4).any(|window| window == b"\r\n\r\n") {
        response.push(stream.read_u8().await.unwrap());
    }
    let mut name = [0; 3];
    stream.read_exact(&mut name).await.unwrap();
    String::from_utf8(name.to_vec()).unwrap()
}

async fn requests(peer: &mut Peer, count: usize) {
    let mut seen = 0;
    while seen < count {
        seen += usize::from(matches!(peer.next().await, Seen::Request { .. }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_split_by_weight_over_what_the_profile_says() {
    let (control, pod, _peers) = split_world().await;
    control.profile(SERVICE, split(&[(OLD, 1), (NEW, 1)]));
    let mut stream = pod.connect(SERVICE).await;
    let mut answered = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..MANY {
        *answered.entry(ask_on(&mut stream).await).or_default() += 1;
    }
    assert_eq!(answered.keys().collect::<Vec<_>>(), ["new", "old"], "of one connection: {answered:?}");
    assert!(!control.asked().contains(&AUTHORITY.to_owned()), "nobody needs the endpoints of the service itself");
    assert_eq!(pod.metric("route_request_total", &["direction=\"outbound\"", &format!("dst=\"{AUTHORITY}\"")]), 100.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_weighs_nothing_or_has_no_name_gets_nothing() {
    let (control, pod, _peers) = split_world().await;
    control.profile(SERVICE, split(&[(OLD, 0), ("10.0.0.1:80", 9), ("no-port.shop", 9), (NEW, 1)]));
    let mut stream = pod.connect(SERVICE).await;
    for _ in 0..MANY {
        assert_eq!(ask_on(&mut stream).await, "new");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_comes_and_goes_while_a_connection_lives() {
    let (control, pod, _peers) = split_world().await;
    let mut stream = pod.connect(SERVICE).await;
    assert_eq!(ask_on(&mut stream).await, "web");
    for (said, expected) in [(split(&[(NEW, 1)]), "new"), (profile(Vec::new()), "web"), (split(&[(OLD, 1)]), "old")] {
        control.profile(SERVICE, said);
        let mut answered = String::new();
        for _ in 0..1_000 {
            answered = ask_on(&mut stream).await;
            if answered == expected {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(answered, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_connections_are_split_too_but_not_routed() {
    let (pki, control) = (Pki::new(), Control::start());
    let (mut web, mut new) = (Peer::start(pki.tls(WEB), App::Echo).await, Peer::start(pki.tls(WEB), App::Echo).await);
    control.add(AUTHORITY, vec![web.endpoint(5432, WEB)]);
    control.add(NEW, vec![new.endpoint(5433, WEB)]);
    let pod = Pod::start(&pki, &control);
    let routed = profile(vec![route("all", "/.*")]);
    for (service, said, port) in [
        ("10.96.0.7:80", split(&[(NEW, 1)]), 5433),
        ("10.96.0.8:80", DestinationProfile { opaque_protocol: true, ..split(&[(NEW, 1)]) }, 5433),
        ("10.96.0.9:80", routed.clone(), 5432),
        ("10.96.0.10:80", DestinationProfile { opaque_protocol: true, ..routed }, 5432),
    ] {
        let policy = if said.opaque_protocol { detect(AUTHORITY) } else { opaque(AUTHORITY, Vec::new()) };
        control.policy(service, policy);
        control.profile(service, said);
        let mut stream = pod.connect(service).await;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        stream.read_exact(&mut [0; 18]).await.unwrap();
        let peer = if port == 5433 { &mut new } else { &mut web };
        let Seen::Header(header, _) = peer.next().await else { panic!("{service}: no header") };
        assert_eq!((header.port, header.protocol), (port, hawser::mesh::Protocol::Opaque), "{service}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_takes_longer_than_its_route_allows_is_answered_for() {
    let (_pki, control, pod, _peer) = world(App::Silent).await;
    let never = Route { timeout: Some(prost_types::Duration { seconds: 600, nanos: 0 }), ..route("other", "/hell") };
    control.profile(SERVICE, profile(vec![never, Route { timeout: Some(LIMIT), ..route("hello", "/hello") }]));
    let response = pod.get(SERVICE, "").await;
    assert!(response.starts_with("HTTP/1.1 504 ") && response.contains("took too long"), "{response}");
    for name in ["route_response_total", "route_actual_response_total"] {
        assert_eq!(pod.metric(name, &["rt_route=\"hello\"", "failure", "error=\"timeout\""]), 1.0, "{name}");
    }
}

fn retryable(pattern: &str, retry_budget: Option<RetryBudget>) -> DestinationProfile {
    let route = Route { is_retryable: true, ..route("buy", pattern) };
    DestinationProfile { retry_budget, ..profile(vec![route]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_route_has_asked_again_is_asked_again_with_its_body() {
    let (_pki, control, pod, mut peer) = world(App::Failing(503, 2)).await;
    control.profile(SERVICE, retryable("/buy", budget(1)));
    let response = pod.post().await;
    assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with("shoe"), "{response}");
    requests(&mut peer, 3).await;
    let counted = |name: &str, part: &str| pod.metric(name, &["rt_route=\"buy\"", part]);
    eventually("it is one request, and three attempts", SOON, || {
        let counted = [
            counted("route_request_total", ""),
            counted("route_response_total", "status_code=\"200\",classification=\"success\""),
            counted("route_actual_request_total", ""),
            counted("route_actual_response_total", "status_code=\"503\",classification=\"failure\""),
            counted("route_actual_response_total", "status_code=\"200\",classification=\"success\""),
            counted("route_retryable_total", ""),
        ];
        if counted == [1.0, 1.0, 3.0, 2.0, 1.0, 2.0] { Ok(()) } else { Err(counted) }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_asked_again_past_the_budget_of_all_routes() {
    let (_pki, control, pod, mut peer) = world(App::Failing(503, usize::MAX)).await;
    let mut said = retryable("/buy", budget(1));
    said.routes.push(Route { is_retryable: true, ..route("hello", "/hello") });
    control.profile(SERVICE, said);
    assert!(pod.post().await.starts_with("HTTP/1.1 503 "));
    requests(&mut peer, 61).await;
    assert!(pod.get(SERVICE, "").await.starts_with("HTTP/1.1 503 "));
    requests(&mut peer, 1).await;
    assert!(peer.seen.try_recv().is_err(), "the budget was used up by the other route");
    let skipped = |route: &str| pod.metric("route_retryable_total", &["skipped=\"no_budget\"", route]);
    assert_eq!((skipped("rt_route=\"buy\""), skipped("rt_route=\"hello\"")), (1.0, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_asked_again_without_a_budget_that_makes_sense_or_on_another_route() {
    let ttl = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let wrong = |retry_ratio, ttl| Some(RetryBudget { retry_ratio, min_retries_per_second: 9, ttl });
    for said in [
        retryable("/buy", None),
        retryable("/buy", wrong(0.2, ttl(61))),
        retryable("/buy", wrong(0.2, None)),
        retryable("/buy", wrong(-0.1, ttl(10))),
        retryable("/buy", wrong(f32::NAN, ttl(10))),
        retryable("/sell", budget(1)),
    ] {
        let (_pki, control, pod, mut peer) = world(App::Failing(503, usize::MAX)).await;
        control.profile(SERVICE, said.clone());
        assert!(pod.post().await.starts_with("HTTP/1.1 503 "));
        requests(&mut peer, 1).await;
        assert!(peer.seen.try_recv().is_err(), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_what_a_failure_is() {
    let class = |status: u32, is_failure| ResponseClass {
        condition: Some(ResponseMatch {
            r#match: Some(response_match::Match::Status(HttpStatusRange { min: status, max: 0 })),
        }),
        is_failure,
    };
    for (status, classes, asked, counted) in
        [(404, vec![class(404, true)], 2, "failure"), (503, vec![class(503, false), class(503, true)], 1, "success")]
    {
        let (_pki, control, pod, mut peer) = world(App::Failing(status, 1)).await;
        let mut said = retryable("/buy", budget(1));
        said.routes[0].response_classes = classes;
        control.profile(SERVICE, said);
        pod.post().await;
        requests(&mut peer, asked).await;
        assert!(peer.seen.try_recv().is_err(), "{status}");
        let parts = [format!("status_code=\"{status}\""), format!("classification=\"{counted}\"")];
        let parts = [parts[0].as_str(), parts[1].as_str()];
        eventually("it is counted as the route says", SOON, || {
            match pod.metric("route_actual_response_total", &parts) {
                1.0 => Ok(()),
                other => Err(other),
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_is_asked_again_though_its_status_is_200() {
    let (_pki, control, pod, mut peer) = world(App::FailingCalls(14, 1)).await;
    control.profile(SERVICE, retryable("/.*", budget(1)));
    let answer = http_body_util::BodyExt::collect(call(&pod).await.into_body()).await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    requests(&mut peer, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_proxy_is_told_what_a_profile_routed_and_never_what_an_app_says() {
    let (_pki, control, pod, mut peer) = world(App::Http("web")).await;
    let forged = "l5d-dst-canonical: admin.other.svc.cluster.local:80\r\n";
    for (said, expected) in [
        (profile(Vec::new()), None),
        (profile(vec![route("none", "/none")]), Some(AUTHORITY)),
        (split(&[(AUTHORITY, 1)]), Some(AUTHORITY)),
    ] {
        let service = format!("10.96.0.{}:80", 20 + said.routes.len() + 2 * said.dst_overrides.len());
        control.policy(&service, detect(AUTHORITY));
        control.profile(&service, said);
        assert!(pod.get(&service, forged).await.ends_with("web"));
        let (_, headers, _) = peer.request().await;
        let told = headers.get("l5d-dst-canonical").map(|told| told.to_str().unwrap());
        assert_eq!(told, expected);
        assert!(headers.get_all("l5d-dst-canonical").iter().count() <= 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_no_route_has_no_limits_and_is_counted_without_one() {
    let (_pki, control, pod, mut peer) = world(App::Failing(503, 1)).await;
    control.profile(SERVICE, retryable("/sell", budget(1)));
    assert!(pod.post().await.starts_with("HTTP/1.1 503 "));
    requests(&mut peer, 1).await;
    assert_eq!(pod.metric("route_request_total", &["dst="]), 1.0);
    assert_eq!(pod.metric("route_request_total", &["rt_route"]), 0.0);
}
