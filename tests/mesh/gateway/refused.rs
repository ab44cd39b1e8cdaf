//! Whom a gateway does not take on, and what they are told.

use hawser::mesh::Protocol;
use hawser::proxy::transport_header::Header;
use hawser::wire::destination::WeightedAddr;
use http::Request;
use http_body_util::Empty;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::inbound::{get, read, send_http2};
use super::super::outbound::world::{AUTHORITY, App, CLIENT};
use super::world::{GATEWAY, NAME, World, header};
use super::{SOON, forwarded};
use crate::support::control::{detect, of_kind, opaque};
use crate::support::eventually;

/// The status that a request is answered, with the whole answer.
async fn asked(world: &World, identity: &str, header: Header, headers: &str) -> (String, String) {
    let answer = get(world.connect_as(identity, header).await, headers).await;
    (answer.split(' ').nth(1).unwrap_or_default().to_owned(), answer)
}

/// The gRPC status that a call is answered.
async fn called(world: &World, identity: &str, header: Header, forwarded: Option<&str>) -> String {
    let call = Request::post("http://web.shop/shop.Cart/Add").header("content-type", "application/grpc");
    let call = forwarded
        .map_or(Request::post("http://web.shop/a").header("content-type", "application/grpc"), |forwarded| {
            call.header("forwarded", forwarded)
        });
    let stream = world.connect_as(identity, Header { protocol: Protocol::Http2, ..header }).await;
    let response = send_http2(stream, call.body(Empty::new()).unwrap()).await.unwrap();
    response.headers()["grpc-status"].to_str().unwrap().to_owned()
}

/// Whether opaque bytes find nobody.
async fn is_closed(world: &World, identity: &str, header: Header) -> bool {
    let mut stream = world.connect_as(identity, Header { protocol: Protocol::Opaque, ..header }).await;
    // Whoever refuses does not read, either.
    let _ = stream.write_all(b"\0ping").await;
    let _ = stream.shutdown().await;
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    heard.is_empty()
}

fn named(name: &str) -> Header {
    Header { name: Some(name.into()), ..header(Protocol::Http1) }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_beyond_the_suffixes_is_gone_to_nor_asked_about() {
    let world = World::start(App::Http("web")).await;
    for name in ["web.example.com", "web.shop.notsvc.cluster.local", "xsvc.cluster.local", "10.1.2.3"] {
        world.control.policy(&format!("{name}:80"), detect(AUTHORITY));
    }
    for name in ["web.example.com", "web.shop.notsvc.cluster.local", "xsvc.cluster.local"] {
        let (status, answer) = asked(&world, CLIENT, named(name), "").await;
        assert_eq!(status, "404", "{name}: {answer}");
        assert!(answer.contains("refusing to be a gateway to") && !answer.contains("l5d-proxy-connection"), "{answer}");
        assert_eq!(called(&world, CLIENT, named(name), None).await, "5", "{name}");
        assert!(is_closed(&world, CLIENT, named(name)).await, "{name}");
    }
    let mut answer = Vec::new();
    let _ = world.connect(named("10.1.2.3")).await.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "an address is no name");
    assert_eq!(world.gateway.metric("inbound_http_errors_total", &["gateway domain invalid"]), 6.0);
    assert_eq!(world.gateway.metric("inbound_tcp_errors_total", &["gateway domain invalid"]), 4.0);
    assert!(world.control.policies_asked().is_empty(), "{:?}", world.control.policies_asked());
    let (status, answer) = asked(&world, CLIENT, header(Protocol::Http1), "").await;
    assert_eq!(status, "200", "the gateway still takes others on: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_from_the_gateway_itself_goes_round_in_no_circle() {
    let world = World::start(App::Echo).await;
    let (status, answer) = asked(&world, GATEWAY, header(Protocol::Http1), "").await;
    assert_eq!(status, "508", "{answer}");
    assert!(answer.contains("l5d-proxy-connection: close\r\n"), "{answer}");
    assert_eq!(called(&world, GATEWAY, header(Protocol::Http2), None).await, "10");
    assert!(is_closed(&world, GATEWAY, header(Protocol::Opaque)).await);
    assert_eq!(world.gateway.metric("inbound_http_errors_total", &["gateway loop"]), 2.0);
    assert_eq!(world.gateway.metric("inbound_tcp_errors_total", &["gateway loop"]), 1.0);
    assert!(!is_closed(&world, CLIENT, header(Protocol::Opaque)).await, "a client's bytes are echoed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_passed_the_gateway_before_is_refused_whatever_else_its_header_holds() {
    let world = World::start(App::Http("web")).await;
    let own = forwarded();
    for (headers, expected) in [
        (format!("forwarded: {own}\r\n"), "508"),
        (format!("forwarded: by=other;for=web\r\nforwarded: {own}\r\n"), "508"),
        (format!("forwarded: for=\"web, {own}\r\n"), "508"),
        (format!("Forwarded: \"\\\r\nForwarded: For=web;By=\"{}\"\r\n", GATEWAY.to_uppercase()), "508"),
        (format!("forwarded: {own}\r\nconnection: forwarded\r\n"), "508"),
        (format!("forwarded: for={GATEWAY};host={GATEWAY}\r\n"), "200"),
        ("forwarded: by=other.gateway;for=web;;,=\r\n".to_owned(), "200"),
        (String::new(), "200"),
    ] {
        let (status, answer) = asked(&world, CLIENT, header(Protocol::Http1), &headers).await;
        assert_eq!(status, expected, "{headers}: {answer}");
    }
    assert_eq!(called(&world, CLIENT, header(Protocol::Http2), Some(&own)).await, "10");
    assert_eq!(world.gateway.metric("inbound_http_errors_total", &["gateway loop"]), 6.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_can_have_the_gateways_mark_removed() {
    let mut world = World::start(App::Http("web")).await;
    let others = "forwarded: by=other.gateway;for=web\r\nconnection: forwarded\r\n";
    let (status, answer) = asked(&world, CLIENT, header(Protocol::Http1), others).await;
    assert_eq!(status, "200", "{answer}");
    world.peer.next().await;
    let super::Seen::Request { headers, .. } = world.peer.next().await else { panic!("no request") };
    let passed: Vec<_> = headers.get_all("forwarded").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(passed, ["by=other.gateway;for=web", &forwarded()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_policy_does_not_let_in_is_told_so_and_nothing_is_asked_about_what_they_name() {
    let world = World::with(App::Http("web"), "192.0.2.0/24", 100).await;
    let (status, answer) = asked(&world, CLIENT, header(Protocol::Http1), "").await;
    assert_eq!(status, "403", "{answer}");
    assert_eq!(called(&world, CLIENT, header(Protocol::Http2), None).await, "7");
    assert!(is_closed(&world, CLIENT, header(Protocol::Opaque)).await);
    assert!(world.control.policies_asked().is_empty(), "{:?}", world.control.policies_asked());
    assert_eq!(world.gateway.metric("inbound_http_authz_deny_total", &[]), 2.0);
    assert_eq!(world.gateway.metric("inbound_tcp_authz_deny_total", &[]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_a_port_is_none() {
    let world = World::start(App::Http("web")).await;
    for protocol in [Protocol::Http1, Protocol::Opaque] {
        let mut answer = Vec::new();
        let portless = Header { port: 0, ..header(protocol) };
        let _ = world.connect(portless).await.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{answer:?}");
    }
    assert!(world.control.policies_asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_too_many_is_told_so_until_another_is_no_longer_used() {
    let world = World::with(App::Echo, "10.9.0.0/16", 1).await;
    let cart = "cart.shop.svc.cluster.local";
    world.control.policy(&format!("{cart}:80"), detect(AUTHORITY));
    let mut held = world.connect(header(Protocol::Opaque)).await;
    held.write_all(b"\0ping").await.unwrap();
    assert_eq!(read(&mut held, 5).await, "\0ping");
    let (status, answer) = asked(&world, CLIENT, named(cart), "").await;
    assert_eq!(status, "503", "{answer}");
    assert!(answer.contains("1 targets are in use already"), "{answer}");
    assert!(is_closed(&world, CLIENT, named(cart)).await);
    drop(held);
    eventually("its place is free", SOON, || {
        let live = world.gateway.recorded().live.len();
        if live == 0 { Ok(()) } else { Err(live) }
    });
    assert!(!is_closed(&world, CLIENT, named(cart)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_control_plane_is_not_waited_for_for_ever() {
    let world = World::start(App::Http("web")).await;
    world.control.silence(AUTHORITY);
    let ((status, answer), call, closed) = tokio::join!(
        asked(&world, CLIENT, header(Protocol::Http1), ""),
        called(&world, CLIENT, header(Protocol::Http2), None),
        is_closed(&world, CLIENT, header(Protocol::Opaque)),
    );
    assert_eq!((status.as_str(), call.as_str(), closed), ("504", "4", true), "{answer}");
    assert!(answer.contains(&format!("has not said within 2s what {NAME}:80 is")), "{answer}");
    assert_eq!(world.gateway.metric("hawser_outbound_undiscovered_total", &["refused"]), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_has_is_not_waited_for_for_ever() {
    let world = World::start(App::Http("web")).await;
    let (status, answer) = asked(&world, CLIENT, named("nobody.shop.svc.cluster.local"), "").await;
    assert_eq!(status, "504", "{answer}");
    assert_eq!(called(&world, CLIENT, named("nobody.shop.svc.cluster.local"), None).await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_do_not_reach_what_takes_requests_only_nor_requests_what_takes_bytes() {
    use hawser::wire::outbound::proxy_protocol::{Http1, Kind};
    let world = World::start(App::Echo).await;
    world.control.policy(AUTHORITY, of_kind(Kind::Http1(Http1::default())));
    assert!(is_closed(&world, CLIENT, header(Protocol::Opaque)).await);
    let cart = "cart.shop.svc.cluster.local";
    world.control.policy(&format!("{cart}:80"), opaque(AUTHORITY, Vec::new()));
    let (status, answer) = asked(&world, CLIENT, named(cart), "").await;
    assert_eq!(status, "404", "{answer}");
    assert!(!is_closed(&world, CLIENT, named(cart)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_no_way_past_the_policy_of_its_own_pod() {
    let mut world = World::start(App::Http("web")).await;
    // In plaintext, and as if from within the pod: its app, or the admin port.
    let own = std::net::TcpListener::bind("127.0.0.9:0").unwrap();
    own.set_nonblocking(true).unwrap();
    let admin = "admin.multicluster.svc.cluster.local";
    let address = Some(own.local_addr().unwrap().into());
    let endpoint = WeightedAddr { addr: address, weight: 10_000, ..WeightedAddr::default() };
    world.control.policy(&format!("{admin}:80"), detect("admin:4191"));
    world.control.add("admin:4191", vec![endpoint.clone()]);
    let (status, answer) = asked(&world, CLIENT, named(admin), "").await;
    assert_eq!(status, "502", "{answer}");
    assert!(answer.contains("it is in this very pod"), "{answer}");
    assert!(is_closed(&world, CLIENT, named(admin)).await);
    world.control.add(AUTHORITY, vec![endpoint]);
    for _ in 0..5 {
        let (status, answer) = asked(&world, CLIENT, header(Protocol::Http1), "").await;
        assert_eq!(status, "200", "another pod serves it: {answer}");
    }
    world.peer.next().await;
    assert_eq!(own.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "somebody came");
}
