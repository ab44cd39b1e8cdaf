//! What the proxy of a client answers itself: the status, the cause with the endpoints tried, and whether the connection ends with it.

use std::net::SocketAddr;
use std::time::Duration;

use hawser::wire::destination::{DestinationProfile, WeightedAddr};
use hawser::wire::outbound as policy;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::call_on;
use super::world::{AUTHORITY, App, FAILFAST, Peer, Pki, Pod, SERVICE, WEB};
use crate::mesh::apps;
use crate::support::control::{Control, detect, meshed};
use crate::support::free_port;

/// What is expected where a request has no answer of a server's.
struct Expected<'w> {
    status: u16,
    /// What a gRPC call gets instead.
    code: &'static str,
    /// What the app is told, in parts.
    why: &'w [&'w str],
    closes: bool,
}

async fn refused(pod: &Pod, target: &str, headers: &str, expected: Expected<'_>) {
    let Expected { status, code, why, closes } = expected;
    let mut stream = pod.connect(target).await;
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: web\r\n{headers}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains("content-length: 0\r\n"), "{answer}");
    assert_eq!(answer.contains("connection: close\r\n"), closes, "{answer}");
    let told = answer.lines().find_map(|line| line.strip_prefix("l5d-proxy-error: ")).unwrap_or_default();
    for part in why {
        assert!(told.contains(part), "{part:?} is not in {told:?}");
    }
    if closes {
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the connection goes on");
    }
    if headers.is_empty() {
        let response = call_on(pod.connect(target).await).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], code);
        let message = response.headers()["grpc-message"].to_str().unwrap().to_owned();
        assert!(message.contains(why[0]), "{message}");
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_has_its_status_and_names_what_was_tried() {
    let (pki, control) = (Pki::new(), Control::start());
    let pod = Pod::start(&pki, &control);

    // Nobody has an endpoint.
    control.policy(SERVICE, detect(AUTHORITY));
    control.no_endpoints(AUTHORITY);
    let why = format!("no endpoint of {AUTHORITY} was there in {FAILFAST:?}");
    refused(&pod, SERVICE, "", Expected { status: 504, code: "4", why: &[&why], closes: true }).await;

    // Nobody listens at an address of the app's own choice.
    let away = SocketAddr::from(([127, 0, 0, 1], free_port())).to_string();
    let why = ["tried", &away, "Connection refused"];
    refused(&pod, &away, "", Expected { status: 502, code: "14", why: &why, closes: true }).await;

    // Somebody listens, and says nothing in the handshake.
    let silent = apps::listen(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let endpoint = meshed(SocketAddr::new(silent.ip(), 80), silent.port(), WEB);
    control.profile("10.1.2.3:8080", DestinationProfile { endpoint: Some(endpoint), ..Default::default() });
    let why = ["tried", "127.0.0.1:80", "took more than 2s"];
    refused(&pod, "10.1.2.3:8080", "", Expected { status: 504, code: "4", why: &why, closes: true }).await;

    // A server hangs up in the middle.
    let broken = apps::listen(|mut stream| async move {
        let _ = stream.read_u8().await;
    })
    .await;
    let why = [&*broken.to_string(), "broke"].map(ToOwned::to_owned);
    let why: Vec<&str> = why.iter().map(String::as_str).collect();
    let post = "content-length: 0\r\nx-http: not a call\r\n";
    refused(&pod, &broken.to_string(), post, Expected { status: 502, code: "", why: &why, closes: true }).await;

    // The policy makes no sense, or leads nowhere.
    control.policy("10.96.0.3:80", policy::OutboundPolicy::default());
    let why = ["the policy of the target cannot be followed"];
    refused(&pod, "10.96.0.3:80", "", Expected { status: 500, code: "13", why: &why, closes: true }).await;
    let mut nowhere = detect(AUTHORITY);
    if let Some(policy::ProxyProtocol { kind: Some(policy::proxy_protocol::Kind::Detect(detect)) }) =
        &mut nowhere.protocol
    {
        detect.http1.as_mut().unwrap().routes.clear();
        detect.http2.as_mut().unwrap().routes.clear();
    }
    control.policy("10.96.0.4:80", nowhere);
    let why = ["no route of the target's policy matches"];
    refused(&pod, "10.96.0.4:80", "", Expected { status: 404, code: "5", why: &why, closes: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_may_be_under_way_are_turned_away_and_counted() {
    let (pki, control) = (Pki::new(), Control::start());
    let web = Peer::start(pki.tls(WEB), App::Http("web")).await;
    control.policy(SERVICE, detect(AUTHORITY));
    control.add(AUTHORITY, vec![web.endpoint(80, WEB)]);
    let pod = Pod::changed(&pki, &control, |options| options.requests_max = 0);
    let why = ["the proxy of the client has too many requests under way"];
    refused(&pod, SERVICE, "", Expected { status: 503, code: "14", why: &why, closes: true }).await;
    assert_eq!(pod.metric("outbound_http_errors_total", &["error=\"loadshed\""]), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_identity_that_the_server_has_not_is_a_502_and_the_right_one_none() {
    let (pki, control) = (Pki::new(), Control::start());
    let web = Peer::start(pki.tls(WEB), App::Http("web")).await;
    control.policy(SERVICE, detect(AUTHORITY));
    control.add(AUTHORITY, vec![web.endpoint(80, WEB)]);
    let plain = Peer::start_unmeshed(App::Http("plain")).await;
    let pod = Pod::start_patient(&pki, &control, Duration::from_secs(20));
    let required = |identity: &str| format!("l5d-require-id: {identity}\r\n");
    let why = ["the identity thief is required", WEB];
    refused(&pod, SERVICE, &required("thief"), Expected { status: 502, code: "", why: &why, closes: true }).await;
    let why = ["is required", "not meshed"];
    let target = plain.address.to_string();
    refused(&pod, &target, &required(WEB), Expected { status: 502, code: "", why: &why, closes: true }).await;
    // One's own app is reached without TLS, whatever discovery says of it.
    let own = WeightedAddr { addr: Some(SocketAddr::from(([127, 0, 0, 9], 80)).into()), ..web.endpoint(80, WEB) };
    control.profile("10.1.2.9:80", DestinationProfile { endpoint: Some(own), ..Default::default() });
    refused(
        &pod,
        "10.1.2.9:80",
        &required(WEB),
        Expected { status: 502, code: "", why: &["is required"], closes: true },
    )
    .await;
    let answer = pod.get(SERVICE, &required(WEB)).await;
    assert!(answer.ends_with("web"), "{answer}");
}
