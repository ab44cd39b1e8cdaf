//! The way out of a pod: what an app's connection becomes, against real TLS peers and a control plane in this process.

mod errors;
mod expiry;
mod hostile;
mod limits;
mod metrics;
mod profiles;
pub(crate) mod world;

use std::time::Duration;

use bytes::Bytes;
use hawser::mesh::connection::{PlaintextReason, Security};
use hawser::mesh::{Identity, Protocol};
use hawser::wire::destination::DestinationProfile;
use hawser::wire::http_route::RequestRedirect;
use hawser::wire::{opaque_route, outbound as policy};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::world::{AUTHORITY, App, CLIENT, FAILFAST, Peer, Pki, Pod, SERVICE, Seen, THIEF, WEB, labels};
use crate::support::control::{Control, detect, detect_with, opaque, split};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(20);

/// A service with one meshed peer behind it, whose app listens on 5432.
async fn world(app: App) -> (Pki, Control, Pod, Peer) {
    let (pki, control) = (Pki::new(), Control::start());
    let peer = Peer::start(pki.tls(WEB), app).await;
    control.policy(SERVICE, detect(AUTHORITY));
    control.add(AUTHORITY, vec![peer.endpoint(5432, WEB)]);
    let pod = Pod::start(&pki, &control);
    (pki, control, pod, peer)
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_bytes_go_to_the_port_that_the_header_names_and_come_back() {
    let (_pki, control, pod, mut peer) = world(App::Echo).await;
    control.policy(SERVICE, opaque(AUTHORITY, Vec::new()));
    let mut stream = pod.connect(SERVICE).await;
    stream.write_all(b"\0ping").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).await.unwrap();
    assert_eq!(echoed, b"\0ping");
    let Seen::Header(header, client) = peer.next().await else { panic!("no header") };
    assert_eq!((header.port, header.protocol), (5432, Protocol::Opaque));
    assert_eq!(client.as_ref().map(Identity::as_str), Some(CLIENT));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secured_connection_is_listed_with_what_was_measured_of_it() {
    let (_pki, control, pod, peer) = world(App::Echo).await;
    control.policy(SERVICE, opaque(AUTHORITY, Vec::new()));
    let mut stream = pod.connect(SERVICE).await;
    stream.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    let connection = pod.recorded().live.remove(0);
    assert_eq!(connection.server, peer.address);
    assert_eq!(connection.target.port(), 5432);
    assert_eq!(connection.authority.as_deref(), Some(AUTHORITY));
    assert_eq!(connection.labels, labels([("pod", "web-5432"), ("service", "web")]));
    assert_eq!((connection.bytes_sent, connection.bytes_received), (4, 4));
    let Security::Mutual(tls) = connection.security else { panic!("{:?}", connection.security) };
    assert_eq!((tls.server_identity.as_str(), tls.version.as_str()), (WEB, "TLSv1.3"));
    assert!(tls.peer_serial.is_some() && tls.peer_expires_at.is_some());
    drop(stream);
    eventually("the connection is closed in the table", SOON, || {
        let recorded = pod.recorded();
        if recorded.live.is_empty() && recorded.recent.len() == 1 { Ok(()) } else { Err(recorded) }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_travels_in_http2_and_comes_back_as_it_was() {
    let (_pki, _control, pod, mut peer) = world(App::Http("web")).await;
    let response = pod.get(SERVICE, "x-custom: kept\r\nl5d-orig-proto: HTTP/1.0\r\n").await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.contains("x-app: web\r\n") && response.ends_with("\r\n\r\nweb"), "{response}");
    assert!(!response.contains("l5d-"), "what proxies tell each other stays between them: {response}");
    while !matches!(peer.next().await, Seen::Header(header, _) if header.protocol == Protocol::Http2) {}
    let (version, headers, uri) = peer.request().await;
    assert_eq!(version, http::Version::HTTP_2);
    assert_eq!(headers["l5d-orig-proto"], "HTTP/1.1", "not what the app says");
    assert_eq!(headers["x-custom"], "kept");
    assert!(!headers.contains_key("connection"));
    assert_eq!(uri.to_string(), "http://web/hello");
    let labels = ["direction=\"outbound\"", "tls=\"true\"", "dst_pod=\"web-5432\"", "status_code=\"200\""];
    eventually("the response is counted", SOON, || match pod.metric("response_total", &labels) {
        1.0 => Ok(()),
        other => Err((other, pod.metrics.encode())),
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_share_one_connection_to_an_endpoint() {
    let (_pki, _control, pod, _peer) = world(App::Http("web")).await;
    for _ in 0..5 {
        assert!(pod.get(SERVICE, "").await.starts_with("HTTP/1.1 200"));
    }
    let recorded = pod.recorded();
    assert_eq!((recorded.live.len(), recorded.recent.len()), (1, 0));
    assert_eq!((recorded.live[0].requests, recorded.live[0].protocol), (5, Protocol::Http2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_keeps_its_body_and_its_trailers() {
    let (_pki, _control, pod, _peer) = world(App::Grpc).await;
    let response = call(&pod).await;
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "7");
    assert_eq!(body.to_bytes(), "message");
    let labels = ["grpc_status=\"7\"", "classification=\"failure\""];
    eventually("the call is counted as failed", SOON, || match pod.metric("response_total", &labels) {
        1.0 => Ok(()),
        other => Err(other),
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_without_endpoints_is_told_so_in_trailers() {
    let (_pki, control, pod, _peer) = world(App::Grpc).await;
    control.no_endpoints(AUTHORITY);
    let deadline = tokio::time::Instant::now() + SOON;
    let response = loop {
        let response = call(&pod).await;
        // The endpoint there was may be told of before it goes.
        if response.headers().contains_key("grpc-status") {
            break response;
        }
        assert!(tokio::time::Instant::now() < deadline, "the endpoint stays");
    };
    assert_eq!((response.status(), &response.headers()["grpc-status"]), (http::StatusCode::OK, &"4".parse().unwrap()));
    let why = response.headers()["l5d-proxy-error"].to_str().unwrap().to_owned();
    assert!(why.contains(AUTHORITY), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_headers_of_a_trace_pass_as_they_are() {
    let (_pki, _control, pod, mut peer) = world(App::Http("web")).await;
    let trace = [
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "vendor=1"),
        ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"),
        ("x-b3-spanid", "e457b5a2e4d86bd1"),
    ];
    pod.get(SERVICE, &trace.map(|(name, value)| format!("{name}: {value}\r\n")).concat()).await;
    let (_, headers, _) = peer.request().await;
    for (name, value) in trace {
        assert_eq!(headers[name], value);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_chooses_the_service_by_a_header() {
    let (pki, control, _pod, _peer) = world(App::Http("web")).await;
    let pod = Pod::ingress(&pki, &control);
    let mut shop = Peer::start(pki.tls(WEB), App::Http("shop")).await;
    control.add("shop.shop.svc.cluster.local:8080", vec![shop.endpoint(8080, WEB)]);
    let named = "l5d-dst-override: Shop.shop.svc.cluster.local.:8080\r\n";
    let response = pod.get(SERVICE, named).await;
    assert!(response.ends_with("shop"), "{response}");
    let (_, headers, _) = shop.request().await;
    assert!(!headers.contains_key("l5d-dst-override"));
    let response = pod.get(SERVICE, "").await;
    assert!(response.ends_with("web"), "without the header it goes where it was sent: {response}");
    for wrong in ["10.1.2.3:80", "user@shop:80", "a b"] {
        let response = pod.get(SERVICE, &format!("l5d-dst-override: {wrong}\r\n")).await;
        assert!(
            response.starts_with("HTTP/1.1 400 ") && response.contains("no name with a port"),
            "{wrong}: {response}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_gets_the_policy_and_the_profile_of_the_service_that_it_names() {
    let (pki, control, _pod, _peer) = world(App::Http("web")).await;
    let pod = Pod::ingress(&pki, &control);
    let shop = "shop.shop.svc.cluster.local:8080";
    let away = policy::http_route::filter::Kind::Redirect(RequestRedirect { status: 302, ..Default::default() });
    let away = policy::http_route::Filter { kind: Some(away) };
    control.policy(shop, detect_with(shop, |rule| rule.filters = vec![away.clone()]));
    let response = pod.get(SERVICE, &format!("l5d-dst-override: {shop}\r\n")).await;
    assert!(response.starts_with("HTTP/1.1 302 "), "{response}");
    let cart = "cart.shop.svc.cluster.local:8080";
    control.profile(cart, split(&[(AUTHORITY, 1)]));
    let response = pod.get(SERVICE, &format!("l5d-dst-override: {cart}\r\n")).await;
    assert!(response.ends_with("web"), "{response}");
    control.silence("silent.shop.svc.cluster.local:80");
    let response = pod.get(SERVICE, "l5d-dst-override: silent.shop.svc.cluster.local\r\n").await;
    assert!(response.starts_with("HTTP/1.1 504 ") && response.contains("has not said within 2s"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_app_chooses_the_service_by_a_header() {
    let (pki, control, pod, mut peer) = world(App::Http("web")).await;
    let shop = Peer::start(pki.tls(WEB), App::Http("shop")).await;
    control.add("shop.shop.svc.cluster.local:8080", vec![shop.endpoint(8080, WEB)]);
    let response = pod.get(SERVICE, "l5d-dst-override: shop.shop.svc.cluster.local:8080\r\n").await;
    assert!(response.ends_with("web"), "{response}");
    let (_, headers, _) = peer.request().await;
    assert!(!headers.contains_key("l5d-dst-override"));
}

/// One gRPC call over a native HTTP/2 connection of the app's.
async fn call(pod: &Pod) -> http::Response<hyper::body::Incoming> {
    call_on(pod.connect(SERVICE).await).await
}

#[expect(clippy::disallowed_methods, reason = "the app of a test is not drained")]
async fn call_on(stream: tokio::net::TcpStream) -> http::Response<hyper::body::Incoming> {
    let stream = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://web/shop.Cart/Add")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from("message")))
        .unwrap();
    sender.send_request(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmeshed_endpoint_is_reached_in_plaintext_and_on_record_with_the_reason() {
    let (_pki, control, pod, _peer) = world(App::Echo).await;
    let plain = Peer::start_unmeshed(App::Http("plain")).await;
    control.no_endpoints(AUTHORITY);
    control.add(AUTHORITY, vec![plain.unmeshed_endpoint()]);
    let response = pod.get(SERVICE, "").await;
    assert!(response.ends_with("plain"), "{response}");
    let recorded = pod.recorded();
    let connection = recorded.live.iter().chain(&recorded.recent).next().unwrap();
    let reason = PlaintextReason::NotProvidedByServiceDiscovery;
    assert_eq!(connection.security, Security::Plaintext { reason });
    let labels = ["peer=\"dst\"", "no_tls_reason=\"not_provided_by_service_discovery\""];
    assert_eq!(pod.metric("tcp_open_total", &labels), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_proves_to_be_somebody_else_gets_no_byte() {
    let (pki, control, pod, _peer) = world(App::Echo).await;
    let mut thief = Peer::start(pki.tls(THIEF), App::Http("thief")).await;
    control.no_endpoints(AUTHORITY);
    control.add(AUTHORITY, vec![thief.endpoint(80, WEB)]);
    let response = pod.get(SERVICE, "").await;
    assert!(response.starts_with("HTTP/1.1 504"), "{response}");
    assert!(response.contains(&format!("the server is {THIEF}, not {WEB}")), "{response}");
    assert!(thief.seen.try_recv().is_err(), "nothing may have been sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_cannot_be_verified_is_never_answered_with_plaintext() {
    let (_pki, control, pod, _peer) = world(App::Echo).await;
    let mut plain = Peer::start_unmeshed(App::Http("plain")).await;
    let mut endpoint = plain.endpoint(plain.address.port(), "not a name");
    endpoint.protocol_hint = None;
    control.no_endpoints(AUTHORITY);
    control.add(AUTHORITY, vec![endpoint]);
    let response = pod.get(SERVICE, "").await;
    assert!(response.starts_with("HTTP/1.1 504") && response.contains("cannot be verified"), "{response}");
    assert!(plain.seen.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_identity_is_checked_before_anything_is_sent() {
    let (_pki, _control, pod, mut peer) = world(App::Http("web")).await;
    let refused = pod.get(SERVICE, &format!("l5d-require-id: {THIEF}\r\n")).await;
    assert!(refused.starts_with("HTTP/1.1 502") && refused.contains(THIEF), "{refused}");
    assert!(peer.seen.try_recv().is_err());
    let accepted = pod.get(SERVICE, &format!("l5d-require-id: {WEB}\r\n")).await;
    assert!(accepted.starts_with("HTTP/1.1 200"), "{accepted}");
    let (_, headers, _) = peer.request().await;
    assert!(!headers.contains_key("l5d-require-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_endpoint_gets_no_more_requests() {
    let (pki, control, pod, first) = world(App::Http("first")).await;
    let second = Peer::start(pki.tls(WEB), App::Http("second")).await;
    control.add(AUTHORITY, vec![second.endpoint(5433, WEB)]);
    control.remove(AUTHORITY, std::net::SocketAddr::new(first.address.ip(), 5432));
    for _ in 0..10 {
        assert!(pod.get(SERVICE, "").await.ends_with("second"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_connections_costs_no_request() {
    let (pki, control, pod, _first) = world(App::Http("first")).await;
    let gone = Peer::start(pki.tls(WEB), App::Http("gone")).await;
    let endpoint = gone.endpoint(5433, WEB);
    drop(gone);
    control.add(AUTHORITY, vec![endpoint]);
    for _ in 0..20 {
        let response = pod.get(SERVICE, "").await;
        assert!(response.ends_with("first"), "{response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_no_app_has_seen_goes_to_another_endpoint() {
    let (pki, control, pod, _first) = world(App::Http("first")).await;
    let gone = Peer::start(pki.tls(WEB), App::Unserved("unsent")).await;
    control.add(AUTHORITY, vec![gone.endpoint(5433, WEB)]);
    for _ in 0..20 {
        let response = pod.get(SERVICE, "").await;
        assert!(response.ends_with("first"), "{response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_no_app_has_seen_goes_to_another_endpoint_with_its_body() {
    let (pki, control, pod, _first) = world(App::Grpc).await;
    let mut gone = Peer::start(pki.tls(WEB), App::Unserved("unsent")).await;
    control.add(AUTHORITY, vec![gone.endpoint(5433, WEB)]);
    // Which one is asked first is up to chance.
    while gone.seen.try_recv().is_err() {
        assert_eq!(call(&pod).await.into_body().collect().await.unwrap().to_bytes(), "message");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_only_app_has_not_seen_waits_for_another_endpoint() {
    let (pki, control) = (Pki::new(), Control::start());
    let mut gone = Peer::start(pki.tls(WEB), App::Unserved("unsent")).await;
    control.policy(SERVICE, detect(AUTHORITY));
    control.add(AUTHORITY, vec![gone.endpoint(5432, WEB)]);
    let pod = Pod::start_patient(&pki, &control, SOON);
    let another = async {
        while !matches!(gone.next().await, Seen::Request { .. }) {}
        let another = Peer::start(pki.tls(WEB), App::Http("another")).await;
        control.add(AUTHORITY, vec![another.endpoint(5433, WEB)]);
        another
    };
    let (response, _another) = tokio::join!(pod.get(SERVICE, ""), another);
    assert!(response.ends_with("another"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_no_app_has_seen_fails_where_no_other_endpoint_comes() {
    let (_pki, _control, pod, gone) = world(App::Unserved("unsent")).await;
    let response = pod.get(SERVICE, "").await;
    assert!(response.starts_with("HTTP/1.1 502 ") && !response.contains("hawser-unserved"), "{response}");
    let tried = format!("tried {}:5432", gone.address.ip());
    assert!(response.contains(&tried), "the endpoints tried are named: {response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_an_app_left_unanswered_is_asked_once_more_and_not_of_everyone() {
    let (pki, control, pod, first) = world(App::Unserved("unanswered")).await;
    let mut peers = vec![first];
    for port in 5433..5436 {
        let peer = Peer::start(pki.tls(WEB), App::Unserved("unanswered")).await;
        control.add(AUTHORITY, vec![peer.endpoint(port, WEB)]);
        peers.push(peer);
    }
    let response = pod.get(SERVICE, "").await;
    assert!(response.starts_with("HTTP/1.1 502 ") && !response.contains("hawser-unserved"), "{response}");
    assert_eq!(peers.iter_mut().map(Peer::more_requests).sum::<usize>(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_back_is_used_again() {
    let (pki, control, pod, first) = world(App::Http("first")).await;
    let address = first.address;
    drop(first);
    let refused = pod.get(SERVICE, "").await;
    assert!(refused.starts_with("HTTP/1.1 504") && refused.contains("tried"), "{refused}");
    let listener = loop {
        // The port is free again as soon as the dropped task is gone.
        match tokio::net::TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let _again = Peer::start_on(listener, pki.tls(WEB), App::Http("again"));
    let deadline = tokio::time::Instant::now() + SOON;
    while !pod.get(SERVICE, "").await.ends_with("again") {
        assert!(tokio::time::Instant::now() < deadline, "the endpoint stays out");
    }
    drop(control);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_first_is_heard_before_its_client_says_anything() {
    let (_pki, _control, pod, mut peer) = world(App::SpeaksFirst("220 ready\r\n")).await;
    for _ in 0..2 {
        let mut stream = pod.connect(SERVICE).await;
        let mut greeting = [0; 11];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 ready\r\n");
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut echoed = [0; 18];
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"GET / HTTP/1.1\r\n\r\n", "the connection was decided by the first word");
        let Seen::Header(header, _) = peer.next().await else { panic!("no header") };
        assert_eq!(header.protocol, Protocol::Opaque);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_http_client_is_still_an_http_client() {
    let (_pki, _control, pod, mut peer) = world(App::Http("web")).await;
    let mut stream = pod.connect(SERVICE).await;
    // The silence has led to a connection for opaque bytes.
    let Seen::Header(header, _) = peer.next().await else { panic!("no header") };
    assert_eq!(header.protocol, Protocol::Opaque);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.ends_with("web"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hesitates_before_an_http2_server_is_carried_as_http2() {
    let (_pki, _control, pod, mut peer) = world(App::Grpc).await;
    for _ in 0..2 {
        let stream = pod.connect(SERVICE).await;
        let Seen::Header(header, _) = peer.next().await else { panic!("no header") };
        assert_eq!(header.protocol, Protocol::Opaque, "the server is dialled while the client is silent");
        let response = call_on(stream).await;
        assert_eq!(response.into_body().collect().await.unwrap().trailers().unwrap()["grpc-status"], "7");
        loop {
            match peer.next().await {
                Seen::Header(header, _) => assert_eq!(header.protocol, Protocol::Http2),
                Seen::Request { version, .. } => break assert_eq!(version, http::Version::HTTP_2),
            }
        }
    }
    let labels = ["direction=\"outbound\"", "grpc_status=\"7\""];
    eventually("both calls are counted", SOON, || match pod.metric("response_total", &labels) {
        2.0 => Ok(()),
        other => Err(other),
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_speaks_first_in_no_known_protocol_is_carried() {
    let (_pki, _control, pod, _peer) = world(App::Echo).await;
    let mut stream = pod.connect(SERVICE).await;
    stream.write_all(b"\x00\x01\x02\x03").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"\x00\x01\x02\x03");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_a_silent_control_plane_to_name_endpoints() {
    let (pki, control) = (Pki::new(), Control::start());
    let peer = Peer::start(pki.tls(WEB), App::Http("web")).await;
    control.policy(SERVICE, detect(AUTHORITY));
    let pod = Pod::start(&pki, &control);
    // The stream is there, and says nothing.
    let response = pod.get(SERVICE, "").await;
    assert!(response.starts_with("HTTP/1.1 504"), "{response}");
    assert!(response.contains(&format!("{FAILFAST:?}")), "{response}");
    assert_eq!(control.asked(), [AUTHORITY]);
    control.add(AUTHORITY, vec![peer.endpoint(80, WEB)]);
    let deadline = tokio::time::Instant::now() + SOON;
    while !pod.get(SERVICE, "").await.ends_with("web") {
        assert!(tokio::time::Instant::now() < deadline, "the endpoint is not used");
    }
    assert_eq!(control.asked(), [AUTHORITY], "one stream was enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_goes_on_without_the_control_plane() {
    let (_pki, mut control, pod, _peer) = world(App::Http("web")).await;
    assert!(pod.get(SERVICE, "").await.ends_with("web"));
    control.kill();
    eventually("the interruption is in the metrics", SOON, || {
        match pod.metric("hawser_outbound_discovery_interrupted", &[]) {
            interrupted if interrupted >= 1.0 => Ok(()),
            other => Err(other),
        }
    });
    for _ in 0..20 {
        assert!(pod.get(SERVICE, "").await.ends_with("web"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_control_plane_an_unknown_address_of_the_cluster_is_refused_and_counted() {
    let (_pki, mut control, pod, _peer) = world(App::Http("web")).await;
    control.kill();
    let mut stream = pod.connect("10.96.0.77:80").await;
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    let refused = stream.read_u8().await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(pod.metric("hawser_outbound_undiscovered_total", &["action=\"refused\""]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_control_plane_an_address_outside_of_the_cluster_is_reached_and_counted() {
    let (_pki, mut control, pod, _peer) = world(App::Http("web")).await;
    control.kill();
    let external = Peer::start_unmeshed(App::Http("external")).await;
    let response = pod.get(&external.address.to_string(), "").await;
    assert!(response.ends_with("external"), "{response}");
    assert_eq!(pod.metric("hawser_outbound_undiscovered_total", &["action=\"forwarded\""]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_policy_is_reached_as_its_profile_says() {
    let (pki, control) = (Pki::new(), Control::start());
    let mut peer = Peer::start(pki.tls(WEB), App::Http("web")).await;
    let profile = DestinationProfile { endpoint: Some(peer.endpoint(8080, WEB)), ..DestinationProfile::default() };
    control.profile("10.1.2.3:8080", profile);
    let pod = Pod::start(&pki, &control);
    assert!(pod.get("10.1.2.3:8080", "").await.ends_with("web"));
    let Seen::Header(header, client) = peer.next().await else { panic!("no header") };
    assert_eq!((header.port, client.as_ref().map(Identity::as_str)), (8080, Some(CLIENT)));
}

/// Sends through a connection of its own, and hears it back; then both have ended.
async fn exchange(pod: &Pod, text: &str) {
    let mut stream = pod.connect(SERVICE).await;
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = String::new();
    stream.read_to_string(&mut echoed).await.unwrap();
    assert_eq!(echoed, text);
}

/// The mesh connections that carried what is on record, told apart by their client's address.
async fn mesh_connections(pod: &Pod, streams: usize) -> usize {
    let recorded = eventually("all streams are over", SOON, || {
        let recorded = pod.recorded();
        if recorded.live.is_empty() && recorded.recent.len() == streams { Ok(recorded) } else { Err(recorded) }
    });
    recorded.recent.iter().map(|stream| stream.client).collect::<std::collections::BTreeSet<_>>().len()
}

async fn hawser_world(streams_max: usize) -> (Control, Pod, Peer) {
    let (pki, control) = (Pki::new(), Control::start());
    let peer = Peer::start_hawser(pki.tls(WEB), streams_max).await;
    control.policy(SERVICE, opaque(AUTHORITY, Vec::new()));
    control.add(AUTHORITY, vec![peer.endpoint(5432, WEB)]);
    let pod = Pod::start(&pki, &control);
    (control, pod, peer)
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_connections_to_a_hawser_peer_take_turns_on_one_mesh_connection() {
    let (_control, pod, _peer) = hawser_world(usize::MAX).await;
    for (at, text) in ["one", "two", "three"].iter().enumerate() {
        exchange(&pod, text).await;
        assert_eq!(mesh_connections(&pod, at + 1).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_has_ended_meanwhile_costs_no_byte() {
    let (_control, pod, _peer) = hawser_world(1).await;
    for (at, text) in ["one", "two", "three"].iter().enumerate() {
        exchange(&pod, text).await;
        assert_eq!(mesh_connections(&pod, at + 1).await, at + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_any_other_peer_a_connection_is_one_stream() {
    let (_pki, control, pod, _peer) = world(App::Echo).await;
    control.policy(SERVICE, opaque(AUTHORITY, Vec::new()));
    for (at, text) in ["one", "two"].iter().enumerate() {
        exchange(&pod, text).await;
        assert_eq!(mesh_connections(&pod, at + 1).await, at + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidding_policy_resets_the_connection() {
    let (_pki, control, pod, mut peer) = world(App::Echo).await;
    let forbidden = policy::opaque_route::filter::Kind::Forbidden(opaque_route::Forbidden {});
    let filters = vec![policy::opaque_route::Filter { kind: Some(forbidden) }];
    control.policy(SERVICE, opaque(AUTHORITY, filters));
    let refused = match pod.try_connect(SERVICE).await {
        Ok(mut stream) => stream.read_u8().await.unwrap_err(),
        Err(refused) => refused,
    };
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(peer.seen.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_policy_fails_requests_rather_than_guessing() {
    let (_pki, control, pod, _peer) = world(App::Http("web")).await;
    control.policy(SERVICE, policy::OutboundPolicy::default());
    let response = pod.get(SERVICE, "").await;
    assert!(response.starts_with("HTTP/1.1 500"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_switches_protocols_gets_an_http1_connection_of_its_own() {
    let (_pki, _control, pod, mut peer) = world(App::Http("web")).await;
    let mut stream = pod.connect(SERVICE).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"ping");
    let Seen::Header(header, _) = peer.next().await else { panic!("no header") };
    assert_eq!(header.protocol, Protocol::Http1);
    assert_eq!(pod.recorded().live.len(), 1, "it is on record for as long as it is open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_what_is_under_way_end() {
    let (_pki, control, pod, _peer) = world(App::Echo).await;
    control.policy(SERVICE, opaque(AUTHORITY, Vec::new()));
    let mut stream = pod.connect(SERVICE).await;
    stream.write_all(b"a").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'a');
    pod.drain.start();
    stream.write_all(b"b").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'b');
    drop(stream);
    assert!(pod.drain.finish(SOON).await, "nothing may be left running");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_known_is_not_forgotten_while_the_control_plane_is_away() {
    let (_pki, mut control, pod, _peer) = world(App::Http("web")).await;
    assert!(pod.get(SERVICE, "").await.ends_with("web"));
    control.kill();
    eventually("all streams are interrupted", SOON, || {
        match pod.metric("hawser_outbound_discovery_interrupted", &[]) {
            3.0 => Ok(()),
            other => Err(other),
        }
    });
    // Longer than an unused target stays known: the sweep has seen it idle for that long by then.
    tokio::time::sleep(world::IDLE * 6).await;
    assert!(pod.get(SERVICE, "").await.ends_with("web"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_target_is_forgotten_with_its_connections() {
    let (_pki, control, pod, _peer) = world(App::Http("web")).await;
    assert!(pod.get(SERVICE, "").await.ends_with("web"));
    eventually("its connections are closed", SOON, || {
        let recorded = pod.recorded();
        if recorded.live.is_empty() && recorded.recent.len() == 1 { Ok(()) } else { Err(recorded) }
    });
    assert!(pod.get(SERVICE, "").await.ends_with("web"));
    assert_eq!(control.asked(), [AUTHORITY, AUTHORITY], "it is asked about anew");
}
