//! A gateway: peers that name a service are taken on to it, over connections of the gateway's own.

mod expiry;
mod profiles;
mod refused;
mod world;

use std::time::Duration;

use bytes::Bytes;
use hawser::mesh::connection::Direction;
use hawser::mesh::edges::{self, Report, Witness};
use hawser::mesh::places::{Kind, Place, Places, Spot};
use hawser::mesh::{Identity, Protocol};
use hawser::proxy::streams::Framed;
use hawser::proxy::tls::{Alpn, ClientStream};
use hawser::proxy::transport_header::Header;
use hawser::wire::destination::WeightedAddr;
use hawser::wire::http_route as wire_route;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use self::world::{GATEWAY, NAME, World, header};
use super::apps;
use super::inbound::{get, read, send_http2};
use super::outbound::world::{AUTHORITY, App, CLIENT, Peer, Pod, SERVICE, Seen, WEB};
use crate::support::control::{detect, detect_with, opaque};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(20);

/// What the gateway writes into a request of [`CLIENT`] for [`NAME`].
fn forwarded() -> String {
    format!("by={GATEWAY};for={CLIENT};host={NAME};proto=https")
}

/// The values of these headers, each of which is there once.
fn values<'h, const N: usize>(headers: &'h HeaderMap, names: [&str; N]) -> [&'h str; N] {
    names.map(|name| {
        let all: Vec<_> = headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(all.len(), 1, "{name}: {all:?}");
        all[0]
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_taken_on_over_a_connection_of_the_gateways_own() {
    let mut world = World::start(App::Http("web")).await;
    let stream = world.connect(header(Protocol::Http1)).await;
    let answer = get(stream, "l5d-client-id: admin\r\nl5d_client_id: admin\r\nx-own: kept\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nweb"), "{answer}");
    assert!(!answer.contains("l5d-") && !answer.contains("of the peer"), "{answer}");
    let Seen::Header(header, client) = world.peer.next().await else { panic!("no header") };
    assert_eq!((header.port, header.name, header.protocol), (5432, None, Protocol::Http2));
    assert_eq!(client.as_ref().map(Identity::as_str), Some(GATEWAY));
    let Seen::Request { headers, uri, .. } = world.peer.next().await else { panic!("no request") };
    assert_eq!(uri.to_string(), format!("http://{NAME}/cart?id=1"));
    assert_eq!(values(&headers, ["host", "l5d-orig-proto", "x-own"]), [NAME, "HTTP/1.1", "kept"]);
    assert_eq!(headers["forwarded"], forwarded());
    for gone in ["l5d-client-id", "l5d_client_id"] {
        assert!(!headers.contains_key(gone), "{gone}: the server's proxy says who its client is");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_that_came_within_http2_goes_on_so_and_comes_back_as_it_was() {
    for (said, uri) in [("HTTP/1.1", "http://web-east/"), ("HTTP/1.1; absolute-form", "http://web-east/a")] {
        let mut world = World::start(App::Http("web")).await;
        let request = Request::get(uri).header("l5d-orig-proto", said).header("host", "web-east");
        let stream = world.connect(header(Protocol::Http2)).await;
        let response = send_http2(stream, request.body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!((response.status().as_u16(), values(response.headers(), ["l5d-orig-proto"])), (200, ["HTTP/1.1"]));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "web");
        let _header = world.peer.next().await;
        let Seen::Request { headers, uri, version } = world.peer.next().await else { panic!("no request") };
        assert_eq!((version, uri.host()), (http::Version::HTTP_2, Some(NAME)));
        assert_eq!(values(&headers, ["host", "l5d-orig-proto"]), [NAME, said]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_with_its_trailers_and_its_authority() {
    let mut world = World::start(App::Grpc).await;
    let call = Request::post("http://web.shop/shop.Cart/Add").header("content-type", "application/grpc");
    let call = call.header("te", "trailers").body(Empty::<Bytes>::new()).unwrap();
    let response = send_http2(world.connect(header(Protocol::Http2)).await, call).await.unwrap();
    assert!(!response.headers().contains_key("l5d-orig-proto"));
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "7");
    let _header = world.peer.next().await;
    let Seen::Request { headers, uri, .. } = world.peer.next().await else { panic!("no request") };
    assert_eq!(
        (uri.to_string().as_str(), values(&headers, ["forwarded"])),
        ("http://web.shop/shop.Cart/Add", [forwarded().as_str()])
    );
    // Counted as any request from the network, and as any that went out.
    eventually("the call is counted at both ends", SOON, || {
        let count = |direction| world.gateway.metric("response_total", &[direction, "grpc_status=\"7\""]);
        if (count("inbound"), count("outbound")) == (1.0, 1.0) { Ok(()) } else { Err(world.gateway.metrics.encode()) }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_of_the_service_is_followed() {
    use hawser::wire::outbound::http_route::Retry;
    let world = World::start(App::Failing(503, 1)).await;
    let conditions = hawser::wire::outbound::http_route::retry::Conditions::default();
    let policy = detect_with(AUTHORITY, |rule| {
        let range = hawser::wire::outbound::http_route::retry::conditions::StatusRange { start: 500, end: 599 };
        let mut conditions = conditions.clone();
        conditions.status_ranges = vec![range];
        rule.retry =
            Some(Retry { max_retries: 1, max_request_bytes: 1000, conditions: Some(conditions), ..Retry::default() });
    });
    world.control.policy(AUTHORITY, policy);
    let answer = get(world.connect(header(Protocol::Http1)).await, "").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let redirected = hawser::wire::outbound::http_route::Filter {
        kind: Some(hawser::wire::outbound::http_route::filter::Kind::Redirect(wire_route::RequestRedirect {
            status: 302,
            ..Default::default()
        })),
    };
    let cart = "cart.shop.svc.cluster.local:80";
    world.control.policy(cart, detect_with(cart, |rule| rule.filters = vec![redirected.clone()]));
    let to_cart = Header { name: Some("cart.shop.svc.cluster.local".into()), ..header(Protocol::Http1) };
    let answer = get(world.connect(to_cart).await, "").await;
    assert!(answer.starts_with("HTTP/1.1 302 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_the_server_resets_is_reset_to_the_client() {
    let world = World::start(App::Echo).await;
    let app = apps::grpc().await;
    let endpoint = WeightedAddr { addr: Some(app.into()), weight: 10_000, ..WeightedAddr::default() };
    world.control.policy("cart.shop.svc.cluster.local:80", detect("cart:80"));
    world.control.add("cart:80", vec![endpoint]);
    let to_cart = Header { name: Some("cart.shop.svc.cluster.local".into()), ..header(Protocol::Http2) };
    let call = Request::post("http://cart.shop/reset").body(Empty::<Bytes>::new()).unwrap();
    // A reset may overtake the response that it ends.
    let error = match send_http2(world.connect(to_cart).await, call).await {
        Ok(response) => response.into_body().collect().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(hawser::proxy::http::reset(&error), Some(h2::Reason::ENHANCE_YOUR_CALM));
}

/// Has a connection turned into an echo, and uses it.
async fn switch(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let upgrade = "GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade, forwarded\r\nupgrade: echo\r\n\r\n";
    switch_by(stream, upgrade, "HTTP/1.1 101 ").await;
}

async fn switch_by(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str, answer: &str) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap().into());
    }
    assert!(head.starts_with(answer), "{head}");
    stream.write_all(b"ping").await.unwrap();
    assert_eq!(read(stream, 4).await, "ping");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_switches_protocols_passes_and_stays_on_record_at_both_ends() {
    let mut world = World::start(App::Http("web")).await;
    let mut stream = world.connect(header(Protocol::Http1)).await;
    switch(&mut stream).await;
    let Seen::Header(header, _) = world.peer.next().await else { panic!("no header") };
    assert_eq!(header.protocol, Protocol::Http1);
    let Seen::Request { headers, .. } = world.peer.next().await else { panic!("no request") };
    assert_eq!(values(&headers, ["host", "forwarded"]), [NAME, &forwarded()]);
    let recorded = world.gateway.recorded();
    let live = |direction| recorded.live.iter().find(|connection| connection.direction == direction);
    let (inbound, outbound) = (live(Direction::Inbound).unwrap(), live(Direction::Outbound).unwrap());
    assert_eq!((inbound.authority.as_deref(), inbound.server), (Some(AUTHORITY), world.address));
    assert_eq!((outbound.authority.as_deref(), outbound.server), (Some(AUTHORITY), world.peer.address));
    drop(stream);
    eventually("both are closed", SOON, || {
        let recorded = world.gateway.recorded();
        if recorded.live.is_empty() { Ok(()) } else { Err(recorded) }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_passes_with_its_end_as_the_client_named_it() {
    let mut world = World::start(App::Http("web")).await;
    let mut stream = world.connect(header(Protocol::Http1)).await;
    let connect = "CONNECT db.example.com:5432 HTTP/1.1\r\nhost: db.example.com:5432\r\n\r\n";
    switch_by(&mut stream, connect, "HTTP/1.1 200 ").await;
    world.peer.next().await;
    let Seen::Request { headers, uri, .. } = world.peer.next().await else { panic!("no request") };
    assert_eq!(uri.to_string(), "db.example.com:5432");
    assert_eq!(values(&headers, ["host", "forwarded"]), ["db.example.com:5432", &forwarded()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_shows_the_client_at_the_gateway_and_the_gateway_at_the_server() {
    let world = World::start(App::Echo).await;
    let mirror = "web-east.shop.svc.cluster.local:80";
    world.control.policy(SERVICE, opaque(mirror, Vec::new()));
    world.control.add(mirror, vec![world.mirrored(AUTHORITY)]);
    let client = Pod::start(&world.pki, &world.control);
    let mut stream = client.connect(SERVICE).await;
    stream.write_all(b"ping").await.unwrap();
    assert_eq!(read(&mut stream, 4).await, "ping");
    let report = |name: &str, pod: &Pod| {
        let place = Place { namespace: Some("shop".into()), kind: Kind::Pod, name: name.into(), meshed: true };
        // Where the gateway is told that its clients are.
        let told = serde_json::to_string(&pod.recorded()).unwrap().replace("10.9.8.7", "127.0.0.1");
        Report::parse(Spot { place, pod: Some(name.into()) }, told.as_bytes()).unwrap()
    };
    let links = edges::join(&[report("web", &client), report("gateway", &world.gateway)], &Places::default());
    let told: Vec<_> = links.iter().map(|link| (link.client.place.name.as_str(), link.witness())).collect();
    assert_eq!(told, [("web", Witness::Both), ("gateway", Witness::Client)]);
    assert!(links.iter().all(|link| link.state.is_secured()), "{links:?}");
    assert!(links.iter().all(|link| link.view().unwrap().authority.as_deref() == Some(AUTHORITY)), "{links:?}");
    assert_eq!(links[0].server.place.name, "gateway");
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_bytes_go_both_ways_and_the_connection_is_told_with_what_it_names() {
    let mut world = World::start(App::SpeaksFirst("220 hello\r\n")).await;
    let mut stream = world.connect(header(Protocol::Opaque)).await;
    assert_eq!(read(&mut stream, 11).await, "220 hello\r\n");
    stream.write_all(b"ping").await.unwrap();
    assert_eq!(read(&mut stream, 4).await, "ping");
    let Seen::Header(header, client) = world.peer.next().await else { panic!("no header") };
    assert_eq!((header.port, header.name, header.protocol), (5432, None, Protocol::Opaque));
    assert_eq!(client.as_ref().map(Identity::as_str), Some(GATEWAY));
    let recorded = world.gateway.recorded();
    let inbound = recorded.live.iter().find(|connection| connection.direction == Direction::Inbound).unwrap();
    assert_eq!((inbound.authority.as_deref(), inbound.target), (Some(AUTHORITY), world.address));
    assert!(inbound.security.is_mutual() && inbound.bytes_sent > 0);
    let told = ["direction=\"inbound\"", "peer=\"src\"", "srv_name", &format!("client_id=\"{CLIENT}\"")];
    assert_eq!(world.gateway.metric("tcp_open_total", &told), 1.0);
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "{rest:?}");
}

/// Says a word on a stream of its own, and hears it back.
async fn echo(mut stream: Framed<ClientStream<TcpStream>>, word: &str) -> Option<ClientStream<TcpStream>> {
    stream.write_all(word.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, word);
    stream.into_connection()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_connection_may_each_name_another_service() {
    let world = World::start(App::Echo).await;
    let (cart, named) =
        ("cart.shop.svc.cluster.local", |name: &str| Header { name: Some(name.into()), ..header(Protocol::Opaque) });
    let peer = Peer::start(world.pki.tls(WEB), App::Echo).await;
    world.control.policy(&format!("{cart}:80"), opaque("cart-backend:80", Vec::new()));
    world.control.add("cart-backend:80", vec![peer.endpoint(80, WEB)]);
    let connection = world.dial(CLIENT, Alpn::Streams).await;
    let first = Framed::first(connection, &named(NAME).encode());
    let mut connection = echo(first, "one").await.unwrap();
    for (name, word) in [(cart, "two"), (NAME, "three")] {
        let again = Framed::again(connection, &named(name).encode()).await.unwrap();
        connection = echo(again, word).await.unwrap();
    }
    let refused = Framed::again(connection, &named("web.example.com").encode()).await;
    assert!(refused.is_err(), "no name beyond the suffixes is accepted");
    let recorded = world.gateway.recorded();
    let named = |recorded: &[hawser::mesh::connection::Connection], name: &str| {
        let inbound = recorded.iter().filter(|connection| connection.direction == Direction::Inbound);
        inbound.filter(|connection| connection.authority.as_deref() == Some(&format!("{name}:80"))).count()
    };
    assert_eq!((named(&recorded.recent, NAME), named(&recorded.recent, cart)), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_another_cluster_reaches_a_mirrored_service_through_the_gateway() {
    let mut world = World::start(App::Http("web")).await;
    let mirror = "web-east.shop.svc.cluster.local:80";
    world.control.policy(SERVICE, detect(mirror));
    world.control.add(mirror, vec![world.mirrored(AUTHORITY)]);
    let client = Pod::start(&world.pki, &world.control);
    let response = client.get(SERVICE, "").await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("web"), "{response}");
    let Seen::Header(header, identity) = world.peer.next().await else { panic!("no header") };
    assert_eq!((header.name, identity.as_ref().map(Identity::as_str)), (None, Some(GATEWAY)));
    let Seen::Request { headers, .. } = world.peer.next().await else { panic!("no request") };
    assert_eq!(values(&headers, ["host", "forwarded"]), [NAME, &forwarded()]);
    let mut websocket = client.connect(SERVICE).await;
    switch(&mut websocket).await;
    // HTTP/2 of the app's own is renamed by its proxy, for the gateway goes by the header alone.
    let stream = client.connect(SERVICE).await;
    let builder = hyper::client::conn::http2::Builder::new(client.drain.clone());
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    client.drain.spawn(connection);
    let request = Request::get("http://web-east.shop/a").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    let authority = loop {
        match world.peer.next().await {
            Seen::Request { uri, .. } if uri.path() == "/a" => break uri.authority().unwrap().to_string(),
            _ => {}
        }
    };
    assert_eq!(authority, AUTHORITY);
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_streams_of_a_hawser_client_take_turns_through_the_gateway() {
    let world = World::start(App::Echo).await;
    let mirror = "web-east.shop.svc.cluster.local:80";
    world.control.policy(SERVICE, opaque(mirror, Vec::new()));
    world.control.add(mirror, vec![world.mirrored(AUTHORITY)]);
    let client = Pod::start(&world.pki, &world.control);
    for at in 1..=3 {
        let mut stream = client.connect(SERVICE).await;
        stream.write_all(b"ping").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut echoed = String::new();
        stream.read_to_string(&mut echoed).await.unwrap();
        assert_eq!(echoed, "ping");
        let recorded = eventually("the stream is over", SOON, || {
            let recorded = client.recorded();
            if recorded.live.is_empty() && recorded.recent.len() == at { Ok(recorded) } else { Err(recorded) }
        });
        let from = recorded.recent.iter().map(|stream| stream.client).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(from.len(), 1, "one mesh connection carries all");
    }
}
