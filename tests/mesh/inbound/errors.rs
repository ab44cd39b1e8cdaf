//! What the proxy of a server answers itself: the status, who is told why, and whether the connection ends with it.

use std::net::SocketAddr;

use hawser::mesh::Protocol;
use hawser::mesh::policy::DefaultPolicy;
use hawser::wire::http_route::{HttpRouteMatch, PathMatch, RequestRedirect, path_match};
use hawser::wire::inbound;
use inbound::http_local_rate_limit::Limit;
use inbound::http_route::{Filter, Rule, filter};

use super::world::Pod;
use super::{apps, call, for_everyone, get, header, named, send_http2};
use crate::support::free_port;

/// What is expected where a request is not served.
struct Expected {
    what: &'static str,
    status: u16,
    /// What a gRPC call gets instead.
    code: &'static str,
    /// What a peer is told.
    why: &'static str,
    closes: bool,
}

/// Asks as a stranger, as a peer, and as a peer that calls.
async fn refused(pod: &Pod, app: SocketAddr, expected: &Expected) {
    let Expected { what, status, code, why, closes } = expected;
    let stranger = get(pod.dial(app).await, "").await.to_ascii_lowercase();
    assert!(stranger.starts_with(&format!("http/1.1 {status} ")), "{what}: {stranger}");
    assert!(stranger.contains("content-length: 0\r\n") && stranger.ends_with("\r\n\r\n"), "{what}: {stranger}");
    for secret in ["l5d-", "hawser-", "grpc-", *why] {
        assert!(!stranger.contains(secret), "{what}: a stranger learns {secret:?}: {stranger}");
    }
    let peer = get(pod.connect(header(app, Protocol::Http1)).await, "").await;
    assert!(
        peer.starts_with(&format!("HTTP/1.1 {status} ")) && peer.contains("content-length: 0\r\n"),
        "{what}: {peer}"
    );
    let told = peer.lines().find_map(|line| line.strip_prefix("l5d-proxy-error: ")).unwrap_or_default();
    assert!(told.contains(why), "{what}: a peer is told {told:?}");
    assert_eq!(peer.contains("l5d-proxy-connection: close\r\n"), *closes, "{what}: {peer}");
    let answer = send_http2(pod.connect(header(app, Protocol::Http2)).await, call()).await.unwrap();
    assert_eq!(answer.status(), 200, "{what}");
    assert_eq!(answer.headers()["grpc-status"], *code, "{what}");
    assert!(answer.headers()["grpc-message"].to_str().unwrap().contains(why), "{what}: {:?}", answer.headers());
    assert_eq!(answer.headers()["content-type"], "application/grpc", "{what}");
}

fn rule(path: &str, filters: Vec<Filter>) -> Rule {
    let path = Some(PathMatch { kind: Some(path_match::Kind::Prefix(path.into())) });
    Rule { matches: vec![HttpRouteMatch { path, ..Default::default() }], filters }
}

fn route(rule: Rule) -> inbound::HttpRoute {
    inbound::HttpRoute { metadata: Some(named("some")), rules: vec![rule], ..Default::default() }
}

#[tokio::test]
async fn what_policy_keeps_from_the_app_says_so_to_peers_and_leaves_the_connection() {
    let app = apps::http1().await;
    let nowhere = Pod::told(app, for_everyone(vec![route(rule("/nowhere", vec![]))], None)).await;
    let expected = Expected { what: "no route", status: 404, code: "5", why: "no route of web matches", closes: false };
    refused(&nowhere, app, &expected).await;

    let nobody = Pod::told(app, inbound::Server { authorizations: vec![], ..for_everyone(vec![], None) }).await;
    let expected =
        Expected { what: "unauthorized", status: 403, code: "7", why: "no authorization of web", closes: false };
    refused(&nobody, app, &expected).await;

    let none = inbound::HttpLocalRateLimit {
        metadata: Some(named("none")),
        total: Some(Limit { requests_per_second: 0 }),
        ..Default::default()
    };
    let limited = Pod::told(app, for_everyone(vec![], Some(none))).await;
    let expected = Expected { what: "a limit", status: 429, code: "8", why: "the rate limit of web", closes: false };
    refused(&limited, app, &expected).await;

    let elsewhere =
        Filter { kind: Some(filter::Kind::Redirect(RequestRedirect { host: "new".into(), ..Default::default() })) };
    let moved = Pod::told(app, for_everyone(vec![route(rule("/", vec![elsewhere]))], None)).await;
    let expected = Expected { what: "moved", status: 301, code: "5", why: "redirected to http://new/", closes: false };
    let stranger = get(moved.dial(app).await, "").await;
    assert!(stranger.contains("location: http://new/cart?id=1\r\n"), "{stranger}");
    let peer = get(moved.connect(header(app, Protocol::Http1)).await, "").await;
    assert!(peer.contains(expected.why) && !peer.contains("l5d-proxy-connection"), "{peer}");
    let answer = send_http2(moved.connect(header(app, Protocol::Http2)).await, call()).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], expected.code);
}

#[tokio::test]
async fn what_fails_says_whose_fault_it_is_to_peers_and_ends_the_connection() {
    let pod = Pod::start();
    let away = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let why = "cannot connect to the app at 127.0.0.1:";
    refused(&pod, away, &Expected { what: "no app", status: 502, code: "14", why, closes: true }).await;
    let refusing = "connection refused";
    let peer = get(pod.connect(header(away, Protocol::Http1)).await, "").await.to_ascii_lowercase();
    assert!(peer.contains(refusing), "the cause: {peer}");

    let broken = apps::listen(|stream| async move { drop(stream) }).await;
    let expected =
        Expected { what: "an app that hangs up", status: 502, code: "14", why: "the app at 127.0.0.1:", closes: true };
    refused(&pod, broken, &expected).await;

    let (silent, _held) = apps::deaf().await;
    let why = "connecting to the app at 127.0.0.1:";
    let expected = Expected { what: "an app that accepts nobody", status: 504, code: "4", why, closes: true };
    refused(&pod, silent, &expected).await;

    let full = Pod::changed(|options| options.in_flight_max = 0);
    let why = "the proxy of the server has too many requests under way";
    let app = apps::http1().await;
    refused(&full, app, &Expected { what: "overload", status: 503, code: "14", why, closes: true }).await;

    // A policy that makes no sense closes the port for bytes; who says that it is HTTP gets to know.
    let senseless = Pod::told(app, inbound::Server::default()).await;
    let peer = get(senseless.connect(header(app, Protocol::Http1)).await, "").await;
    assert!(
        peer.starts_with("HTTP/1.1 500 ") && peer.contains("the policy of the port could not be understood"),
        "{peer}"
    );
    assert!(peer.contains("l5d-proxy-connection: close"), "{peer}");
}

#[tokio::test]
async fn a_peer_that_names_a_gateway_or_the_proxy_itself_reaches_nothing() {
    use tokio::io::AsyncReadExt as _;
    let (pod, app) = (Pod::with_policy(DefaultPolicy::AllUnauthenticated), apps::http1().await);
    let gateway = hawser::proxy::transport_header::Header {
        name: Some("web.other.svc.cluster.local".into()),
        ..header(app, Protocol::Http1)
    };
    let itself = hawser::proxy::transport_header::Header { port: 4143, ..header(app, Protocol::Http1) };
    for (what, refused) in [("a gateway", gateway), ("the inbound port", itself)] {
        let mut answer = Vec::new();
        let _ = pod.connect(refused).await.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{what}: {answer:?}");
    }
    assert_eq!(apps::connections(app), 0);
    assert!(pod.metrics.encode().unwrap().contains("inbound_tcp_errors_total{error=\"gateway domain invalid\"} 1"));
}
