//! The way in: what peers, strangers and impostors get from a pod's proxy.

mod access_log;
mod drain;
mod errors;
mod expiry;
mod h2spec;
pub(super) mod hostile;
mod metrics;
pub(super) mod profiles;
mod repeat;
mod world;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use hawser::mesh::Protocol;
use hawser::mesh::connection::{PlaintextReason, Security};
use hawser::mesh::policy::DefaultPolicy;
use hawser::net::drain::Drain;
use hawser::proxy::streams::{self, Framed};
use hawser::proxy::transport_header::Header;
use hawser::wire::{inbound, meta};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use self::world::{Authority, CART, Peer, Pod, WEB, app_tls, becomes_true};
use super::apps;

fn header(app: SocketAddr, protocol: Protocol) -> Header {
    Header { port: app.port(), name: None, protocol }
}

/// Asks with these headers, and gives the whole answer.
pub(super) async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, headers: &str) -> String {
    let request = format!("GET /cart?id=1 HTTP/1.1\r\nhost: web.shop\r\n{headers}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin), bytes: usize) -> String {
    let mut text = vec![0; bytes];
    stream.read_exact(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

/// Sends one request over HTTP/2 on `stream`.
pub(super) async fn send_http2(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, hyper::Error> {
    let drain = Drain::new();
    let builder = hyper::client::conn::http2::Builder::new(drain.clone());
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    drain.spawn(connection);
    sender.send_request(request).await
}

#[tokio::test]
async fn a_peer_reaches_the_app_and_the_app_sees_who_it_is() {
    let (pod, app) = (Pod::changed(|options| options.tells_client_ip = true), apps::http1().await);
    let stream = pod.connect(header(app, Protocol::Http1)).await;
    let answer = get(stream, "l5d-client-id: admin.shop\r\nhawser-client-ip: 10.0.0.1\r\n").await;
    assert!(answer.contains("hawser-client-ip: 10.9.8.7\n") && !answer.contains("10.0.0.1"), "{answer}");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("GET /cart?id=1 HTTP/1.1\n") && answer.contains("host: web.shop\n"), "{answer}");
    assert!(answer.contains(&format!("l5d-client-id: {CART}\n")) && !answer.contains("admin"), "{answer}");
}

#[tokio::test]
async fn a_stranger_reaches_the_app_but_not_as_somebody() {
    let (pod, app) = (Pod::start(), apps::http1().await);
    let answer = get(pod.dial(app).await, &format!("l5d-client-id: {CART}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains("l5d-client-id"), "{answer}");
}

#[tokio::test]
async fn a_peer_in_the_older_way_reaches_the_app_by_its_own_port() {
    let (pod, app) = (Pod::start(), apps::http1().await);
    let peer = Peer { alpn: Vec::new(), ..Peer::meshed(&pod, &pod.authority.credentials(CART)) };
    let answer = get(peer.handshake(pod.dial(app).await).await.unwrap(), "").await;
    assert!(answer.contains(&format!("l5d-client-id: {CART}\n")), "{answer}");
}

#[tokio::test]
async fn only_a_certificate_of_the_mesh_opens_the_inbound_port() {
    let (pod, app) = (Pod::start(), apps::http1().await);
    let header = header(app, Protocol::Http1);
    let own = pod.authority.credentials(CART);
    let good = || Peer::meshed(&pod, &own);
    let foreign = Authority::new().credentials(CART);
    let expired = pod.authority.expired(CART);
    for (let_in, what, peer) in [
        (true, "a certificate of the mesh", good()),
        (false, "one of another anchor", Peer { credentials: Some(foreign), ..good() }),
        (false, "one that has expired", Peer { credentials: Some(expired), ..good() }),
        (false, "no certificate", Peer { credentials: None, ..good() }),
        (false, "no ALPN", Peer { alpn: Vec::new(), ..good() }),
        (false, "another ALPN", Peer { alpn: vec![b"h2".to_vec()], ..good() }),
        (false, "another name", Peer { sni: CART, ..good() }),
    ] {
        assert_eq!(peer.is_let_in(pod.dial_direct().await, &header).await, let_in, "{what}");
    }
    let mut plaintext = pod.dial_direct().await;
    plaintext.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    assert!(!matches!(plaintext.read(&mut [0]).await, Ok(1)), "plaintext was answered");
}

#[tokio::test]
async fn a_bad_certificate_is_refused_on_an_app_port_too() {
    let (pod, app) = (Pod::start(), apps::greeter().await);
    for credentials in [Authority::new().credentials(CART), pod.authority.expired(CART)] {
        let peer = Peer { alpn: Vec::new(), ..Peer::meshed(&pod, &credentials) };
        let mut stream = peer.handshake(pod.dial(app).await).await.unwrap();
        assert!(stream.read(&mut [0]).await.is_err(), "the alert comes instead of the greeting");
    }
}

#[tokio::test]
async fn nobody_goes_through_the_proxy_to_itself_or_beyond() {
    let pod = Pod::start();
    let own_port = Header { port: 4143, name: None, protocol: Protocol::Opaque };
    let elsewhere = Header { port: 80, name: Some("db.other.svc.cluster.local".into()), protocol: Protocol::Opaque };
    for header in [own_port, elsewhere] {
        let mut stream = pod.connect(header).await;
        assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)));
    }
    let mut stream = pod.dial("192.0.2.1:80".parse().unwrap()).await;
    assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)), "no address of the pod");
}

#[tokio::test]
async fn tls_of_the_app_passes_untouched() {
    let pod = Pod::start();
    let (acceptor, certificate) = app_tls("shop.example.com");
    let app = apps::tls(acceptor).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("shop.example.com").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, pod.dial(app).await).await.unwrap();
    assert_eq!(read(&mut stream, 4).await, "mine");
    drop(stream);
    let recorded = || pod.snapshot().recent.first().map(|connection| connection.security.clone());
    becomes_true("the connection is on record", || recorded().is_some()).await;
    assert_eq!(recorded(), Some(Security::Passthrough { sni: Some("shop.example.com".into()) }));
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_before_the_client_says_a_word() {
    let (pod, app) = (Pod::start(), apps::greeter().await);
    let mut stranger = pod.dial(app).await;
    assert_eq!(read(&mut stranger, 11).await, "220 hello\r\n");
    stranger.write_all(b"HELO").await.unwrap();
    assert_eq!(read(&mut stranger, 4).await, "HELO");
    let mut peer = pod.connect(header(app, Protocol::Opaque)).await;
    assert_eq!(read(&mut peer, 11).await, "220 hello\r\n");
}

#[tokio::test]
async fn a_client_that_hesitates_before_an_http2_server_is_carried_as_http2() {
    let (pod, app) = (Pod::start(), apps::grpc().await);
    let stream = pod.dial(app).await;
    // Not the app's count: it may have accepted what the proxy has yet to notice, and would dial anew for.
    let dialled = r#"tcp_open_total{direction="inbound",peer="dst",tls="no_identity",no_tls_reason="loopback"} 1"#;
    let is_dialled = || pod.metrics.encode().unwrap().contains(dialled);
    becomes_true("the app is dialled while the client is silent", is_dialled).await;
    let call = Request::post("http://web.shop/shop.Cart/Add").header("content-type", "application/grpc");
    let response = send_http2(stream, call.body(Empty::new()).unwrap()).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "3");
    assert_eq!(apps::connections(app), 1, "what was dialled is used");
    assert!(pod.metrics.encode().unwrap().contains(r#"grpc_status="3""#));
}

#[tokio::test]
async fn half_closed_connections_stay_so() {
    let (pod, app) = (Pod::start(), apps::greeter().await);
    let mut stranger = pod.dial(app).await;
    let mut peer = pod.connect(header(app, Protocol::Opaque)).await;
    stranger.write_all(b"last words").await.unwrap();
    stranger.shutdown().await.unwrap();
    peer.write_all(b"last words").await.unwrap();
    peer.shutdown().await.unwrap();
    for stream in [&mut stranger as &mut dyn hawser::net::stream::Stream, &mut peer] {
        let mut heard = String::new();
        Box::new(stream).read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "220 hello\r\nlast wordsbye\r\n");
    }
}

#[tokio::test]
async fn calls_keep_their_trailers() {
    let (pod, app) = (Pod::start(), apps::grpc().await);
    let stream = pod.connect(header(app, Protocol::Http2)).await;
    let call = Request::post("http://web.shop/shop.Cart/Add").header("content-type", "application/grpc");
    let response = send_http2(stream, call.body(Empty::new()).unwrap()).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "3");
    let seen = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    assert!(seen.contains("POST http://web.shop/shop.Cart/Add HTTP/2.0\n"), "{seen}");
    assert!(seen.contains(&format!("l5d-client-id: {CART}\n")), "{seen}");
    let metrics = pod.metrics.encode().unwrap();
    assert!(metrics.contains(r#"status_code="200",classification="success",grpc_status="3""#), "{metrics}");
}

#[tokio::test]
async fn resets_of_the_app_reach_the_client() {
    let (pod, app) = (Pod::start(), apps::grpc().await);
    let stream = pod.connect(header(app, Protocol::Http2)).await;
    let call = Request::post("http://web.shop/reset").body(Empty::new()).unwrap();
    // A reset may overtake the response that it ends.
    let error = match send_http2(stream, call).await {
        Ok(response) => response.into_body().collect().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(hawser::proxy::http::reset(&error), Some(h2::Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn http1_that_came_within_http2_is_http1_again_at_the_app() {
    let (pod, app) = (Pod::start(), apps::http1().await);
    let stream = pod.connect(header(app, Protocol::Http2)).await;
    let request = Request::get("http://web.shop/cart?id=1").header("l5d-orig-proto", "HTTP/1.1");
    let response = send_http2(stream, request.body(Empty::new()).unwrap()).await.unwrap();
    assert_eq!(response.headers()["l5d-orig-proto"], "HTTP/1.1");
    let seen = response.into_body().collect().await.unwrap().to_bytes();
    let seen = String::from_utf8(seen.to_vec()).unwrap();
    assert!(seen.starts_with("GET /cart?id=1 HTTP/1.1\n") && seen.contains("host: web.shop\n"), "{seen}");
    assert!(!seen.contains("l5d-orig-proto"), "{seen}");
}

#[tokio::test]
async fn a_connection_that_switches_protocols_is_carried_on() {
    let (pod, app) = (Pod::start(), apps::switcher().await);
    let stranger: Box<dyn hawser::net::stream::Stream> = Box::new(pod.dial(app).await);
    let peer = Box::new(pod.connect(header(app, Protocol::Http1)).await);
    for mut stream in [stranger, peer] {
        let request = "GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap().into());
        }
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("upgrade: echo\r\n"), "{answer}");
        assert_eq!(read(&mut stream, 5).await, "ready");
        stream.write_all(b"again").await.unwrap();
        assert_eq!(read(&mut stream, 5).await, "again");
    }
}

#[tokio::test]
async fn whom_policy_refuses_gets_a_403_and_peers_the_reason() {
    let (pod, app) = (Pod::with_policy(DefaultPolicy::AllAuthenticated), apps::http1().await);
    let stranger = get(pod.dial(app).await, "").await;
    assert!(stranger.starts_with("HTTP/1.1 403 ") && !stranger.contains("l5d-proxy-error"), "{stranger}");
    let peer = get(pod.connect(header(app, Protocol::Http1)).await, "").await;
    assert!(peer.starts_with("HTTP/1.1 200 "), "{peer}");
    assert!(pod.metrics.encode().unwrap().contains("inbound_http_authz_deny_total{"));
}

#[tokio::test]
async fn whom_policy_refuses_hears_nothing_of_a_server_that_speaks_first() {
    let (pod, app) = (Pod::with_policy(DefaultPolicy::AllAuthenticated), apps::greeter().await);
    let mut stranger = pod.dial(app).await;
    stranger.write_all(b"\0hello\n").await.unwrap();
    let mut heard = Vec::new();
    let _ = stranger.read_to_end(&mut heard).await;
    assert!(heard.is_empty(), "{heard:?}");
    let mut peer = pod.connect(header(app, Protocol::Opaque)).await;
    assert_eq!(read(&mut peer, 11).await, "220 hello\r\n");
}

/// A port for everyone, with these routes and this limit.
fn for_everyone(routes: Vec<inbound::HttpRoute>, limit: Option<inbound::HttpLocalRateLimit>) -> inbound::Server {
    use inbound::authn::{Permit, PermitUnauthenticated};
    use inbound::proxy_protocol::{Detect, Kind};
    let any = |net: &str| inbound::Network { net: Some(net.parse::<ipnet::IpNet>().unwrap().into()), except: vec![] };
    let kind = Kind::Detect(Detect {
        timeout: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        http_routes: routes,
        http_local_rate_limit: limit,
    });
    inbound::Server {
        protocol: Some(inbound::ProxyProtocol { kind: Some(kind) }),
        authorizations: vec![inbound::Authz {
            networks: vec![any("0.0.0.0/0"), any("::/0")],
            authentication: Some(inbound::Authn { permit: Some(Permit::Unauthenticated(PermitUnauthenticated {})) }),
            metadata: Some(named("everyone")),
            ..Default::default()
        }],
        labels: [("name".to_owned(), "web".to_owned())].into(),
        ..Default::default()
    }
}

fn named(name: &str) -> meta::Metadata {
    meta::Metadata { kind: Some(meta::metadata::Kind::Default(name.into())) }
}

/// A call, as an app of gRPC makes it.
fn call() -> Request<Empty<Bytes>> {
    let call = Request::post("http://web.shop/shop.Cart/Add").header("content-type", "application/grpc");
    call.body(Empty::new()).unwrap()
}

#[tokio::test]
async fn whoever_is_past_a_rate_limit_gets_a_429_and_others_do_not() {
    use inbound::http_local_rate_limit::{Limit, Override, r#override::ClientIdentities};
    let limit = inbound::HttpLocalRateLimit {
        metadata: Some(named("slowly")),
        overrides: vec![Override {
            limit: Some(Limit { requests_per_second: 0 }),
            clients: Some(ClientIdentities { identities: vec![inbound::Identity { name: CART.into() }] }),
        }],
        ..Default::default()
    };
    let app = apps::http1().await;
    let pod = Pod::told(app, for_everyone(vec![], Some(limit))).await;
    let peer = get(pod.connect(header(app, Protocol::Http1)).await, "").await;
    assert!(peer.starts_with("HTTP/1.1 429 ") && peer.contains("l5d-proxy-error"), "{peer}");
    let answer = send_http2(pod.connect(header(app, Protocol::Http2)).await, call()).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "8");
    let stranger = get(pod.dial(app).await, "").await;
    assert!(stranger.starts_with("HTTP/1.1 200 "), "{stranger}");
    let metrics = pod.metrics.encode().unwrap();
    let counted = metrics.lines().find(|line| line.starts_with("inbound_http_local_ratelimit_total{")).unwrap();
    assert!(counted.contains(r#"ratelimit_name="slowly",ratelimit_scope="override""#), "{counted}");
}

#[tokio::test]
async fn a_route_that_redirects_sends_the_client_elsewhere_and_the_app_hears_nothing() {
    use hawser::wire::http_route::{
        HttpRouteMatch, PathMatch, PathModifier, RequestRedirect, path_match, path_modifier,
    };
    use inbound::http_route::{Filter, Rule, filter};
    let to = RequestRedirect {
        host: "new.shop".into(),
        path: Some(PathModifier { replace: Some(path_modifier::Replace::Prefix("/basket".into())) }),
        ..Default::default()
    };
    let under = |prefix: &str, filters| Rule {
        matches: vec![HttpRouteMatch {
            path: Some(PathMatch { kind: Some(path_match::Kind::Prefix(prefix.into())) }),
            ..Default::default()
        }],
        filters,
    };
    let rules = vec![
        under("/cart", vec![Filter { kind: Some(filter::Kind::Redirect(to.clone())) }]),
        under("/shop.Cart", vec![Filter { kind: Some(filter::Kind::Redirect(to)) }]),
    ];
    let route = inbound::HttpRoute { metadata: Some(named("moved")), rules, ..Default::default() };
    // Nobody listens there.
    let app = "127.0.0.1:1".parse().unwrap();
    let pod = Pod::told(app, for_everyone(vec![route], None)).await;
    let stranger = get(pod.dial(app).await, "").await;
    assert!(stranger.starts_with("HTTP/1.1 301 "), "{stranger}");
    assert!(stranger.contains("location: http://new.shop/basket?id=1\r\n"), "{stranger}");
    let answer = send_http2(pod.connect(header(app, Protocol::Http2)).await, call()).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "5", "calls cannot be sent elsewhere");
}

#[tokio::test]
async fn an_app_that_is_away_is_a_502_and_a_call_s_unavailable() {
    let pod = Pod::start();
    let app = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let stranger = get(pod.dial(app).await, "").await;
    assert!(stranger.starts_with("HTTP/1.1 502 ") && !stranger.contains("l5d-proxy-error"), "{stranger}");
    let peer = get(pod.connect(header(app, Protocol::Http1)).await, "").await;
    assert!(peer.starts_with("HTTP/1.1 502 ") && peer.contains("l5d-proxy-connection: close"), "{peer}");
    let call = Request::post("http://web.shop/shop.Cart/Add").header("content-type", "application/grpc");
    let stream = pod.connect(header(app, Protocol::Http2)).await;
    let response = send_http2(stream, call.body(Empty::new()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"14".parse().unwrap()));
    assert!(response.headers().contains_key("l5d-proxy-error"));
}

#[tokio::test]
async fn connections_are_on_record_with_what_was_measured() {
    let (pod, app) = (Pod::start(), apps::greeter().await);
    let mut peer = pod.connect(header(app, Protocol::Opaque)).await;
    let mut stranger = pod.dial(app).await;
    read(&mut peer, 11).await;
    read(&mut stranger, 11).await;
    let live = pod.snapshot().live;
    assert_eq!(live.len(), 2, "{live:?}");
    let meshed = live.iter().find(|connection| connection.security.is_mutual()).unwrap();
    let plain = live.iter().find(|connection| !connection.security.is_mutual()).unwrap();
    let Security::Mutual(tls) = &meshed.security else { panic!("{meshed:?}") };
    assert_eq!(tls.client_identity.as_ref().unwrap().as_str(), CART);
    assert_eq!(tls.server_identity.as_str(), WEB);
    assert_eq!((tls.version.as_str(), tls.group.as_str()), ("TLSv1.3", "X25519MLKEM768"));
    assert!(tls.cipher.starts_with("TLS13_") && tls.peer_serial.is_some() && tls.peer_expires_at.is_some());
    assert_eq!((meshed.server.port(), meshed.target), (4143, app));
    assert_eq!((meshed.bytes_received, meshed.protocol), (11, Protocol::Opaque));
    assert_eq!(plain.security, Security::Plaintext { reason: PlaintextReason::NoTlsFromRemote });
    drop((peer, stranger));
    becomes_true("both are closed", || pod.snapshot().recent.len() == 2).await;
    let metrics = pod.metrics.encode().unwrap();
    let label = format!(r#"tls="true",client_id="{CART}""#);
    assert!(metrics.lines().any(|line| line.starts_with("tcp_close_total{") && line.contains(&label)), "{metrics}");
    assert!(metrics.contains("inbound_tcp_transport_header_connections_total{"), "{metrics}");
}

/// A connection as hawser's own proxies open it for bytes.
async fn connect_for_streams(pod: &Pod) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let alpn = vec![streams::ALPN.to_vec(), b"transport.l5d.io/v1".to_vec()];
    let peer = Peer { alpn, ..Peer::meshed(pod, &pod.authority.credentials(CART)) };
    peer.handshake(pod.dial_direct().await).await.unwrap()
}

/// Says something in a stream, and hears it back.
async fn echo(stream: &mut Framed<impl AsyncRead + AsyncWrite + Unpin>, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = String::new();
    stream.read_to_string(&mut echoed).await.unwrap();
    assert_eq!(echoed, text);
}

#[tokio::test]
async fn a_connection_of_a_hawser_proxy_carries_one_opaque_stream_after_another() {
    let (pod, app) = (Pod::start(), apps::echo().await);
    let header = header(app, Protocol::Opaque).encode();
    let mut stream = Framed::first(connect_for_streams(&pod).await, &header);
    for text in ["one", "two", "three"] {
        echo(&mut stream, text).await;
        stream = Framed::again(stream.into_connection().unwrap(), &header).await.unwrap();
    }
    assert_eq!(apps::connections(app), 4, "the app has a connection for each");
    let seen = pod.snapshot();
    assert_eq!((seen.live.len(), seen.recent.len()), (1, 3));
    assert!(seen.recent.iter().all(|stream| stream.client == seen.live[0].client && stream.security.is_mutual()));
}

#[tokio::test]
async fn a_later_stream_is_refused_as_the_first_would_be() {
    let (pod, app) = (Pod::start(), apps::echo().await);
    let nobody = SocketAddr::from(([127, 0, 0, 1], crate::support::free_port()));
    let gateway = Header { name: Some("web.other".into()), ..header(app, Protocol::Opaque) };
    for refused in [header(nobody, Protocol::Opaque), header(app, Protocol::Http1), gateway] {
        let mut stream = Framed::first(connect_for_streams(&pod).await, &header(app, Protocol::Opaque).encode());
        echo(&mut stream, "one").await;
        let connection = stream.into_connection().unwrap();
        assert!(Framed::again(connection, &refused.encode()).await.is_err(), "{refused:?} was accepted");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_not_an_end_to_the_app() {
    let (pod, app) = (Pod::start(), apps::echo().await);
    let mut stream = Framed::first(connect_for_streams(&pod).await, &header(app, Protocol::Opaque).encode());
    stream.write_all(b"half").await.unwrap();
    assert_eq!(read(&mut stream, 4).await, "half");
    drop(stream);
    becomes_true("the stream is over", || pod.snapshot().live.is_empty()).await;
    assert!(pod.metrics.encode().unwrap().contains("inbound_tcp_errors_total{error=\"i/o\"} 1"));
}
