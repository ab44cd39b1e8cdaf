//! Apps and servers that break the rules on the way out: what they cost, and that a server next to them is reached as ever.

use std::net::SocketAddr;
use std::time::Duration;

use hawser::mesh::Protocol;
use hawser::proxy::tls::{Alpn, Tls};
use hawser::proxy::transport_header::Header;
use hawser::wire::destination::WeightedAddr;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::world::{AUTHORITY, App, FAILFAST, Peer, Pki, Pod, SERVICE, WEB};
use crate::mesh::apps;
use crate::mesh::inbound::hostile::{
    CONTINUATION, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, SMUGGLED,
    UNCLEAR_REQUESTS, UNCLEAR_RESPONSES, frame, frames_answered, is_cut_off, post, say_interims, until_heard,
};
use crate::support::control::{Control, detect, meshed};

const NEIGHBOUR: &str = "10.96.0.2:80";
const NEIGHBOURS_AUTHORITY: &str = "cart.shop.svc.cluster.local:80";
const SOON: Duration = Duration::from_secs(60);

/// A pod with two services: one has the endpoint in question, the other an honest one.
struct World {
    pod: Pod,
    _control: Control,
    _honest: Peer,
}

impl World {
    async fn facing(pki: &Pki, endpoint: WeightedAddr) -> Self {
        Self::with(pki, endpoint, SOON, Duration::from_secs(10)).await
    }

    /// One that soon gives up an endpoint which is of no use.
    async fn impatient(pki: &Pki, endpoint: WeightedAddr) -> Self {
        Self::with(pki, endpoint, FAILFAST, Duration::from_secs(10)).await
    }

    async fn with(pki: &Pki, endpoint: WeightedAddr, failfast: Duration, detect_timeout: Duration) -> Self {
        let (control, honest) = (Control::start(), Peer::start(pki.tls(WEB), App::Http("honest")).await);
        control.policy(SERVICE, detect(AUTHORITY));
        control.add(AUTHORITY, vec![endpoint]);
        control.policy(NEIGHBOUR, detect(NEIGHBOURS_AUTHORITY));
        control.add(NEIGHBOURS_AUTHORITY, vec![honest.endpoint(80, WEB)]);
        let pod = Pod::start_with(pki, &control, failfast, detect_timeout);
        Self { pod, _control: control, _honest: honest }
    }

    async fn connect(&self) -> TcpStream {
        self.pod.connect(SERVICE).await
    }

    /// The whole answer to this, or what there is of it.
    async fn answer_to(&self, what: &str, said: &str) -> String {
        let mut stream = self.connect().await;
        // The proxy may have hung up before it has heard all.
        let _ = stream.write_all(said.as_bytes()).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let hearing = timeout(SOON, stream.read_to_end(&mut answer)).await;
        assert!(hearing.is_ok(), "{what}: no end after {:?}", String::from_utf8_lossy(&answer));
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn neighbour_is_served(&self) {
        let answer = timeout(SOON, self.pod.get(NEIGHBOUR, "")).await.expect("the neighbour is kept waiting");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("honest"), "{answer}");
    }
}

/// What discovery says of a server that is not meshed.
fn plain(address: SocketAddr) -> WeightedAddr {
    WeightedAddr { addr: Some(address.into()), weight: 10_000, ..WeightedAddr::default() }
}

/// A meshed peer that proves who it is, and then does what it likes.
async fn peer<F>(tls: Tls, serve: impl Fn(Box<dyn Both>) -> F + Clone + Send + Sync + 'static) -> WeightedAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let address = apps::listen(move |stream| {
        let (tls, serve) = (tls.clone(), serve.clone());
        async move {
            let Ok(accepted) = tls.accept(stream, Alpn::TransportHeader).await else { return };
            let mut stream = accepted.stream;
            if Header::read(&mut stream).await.is_ok() {
                serve(Box::new(stream)).await;
            }
        }
    })
    .await;
    meshed(SocketAddr::new(address.ip(), 80), address.port(), WEB)
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Both for S {}

const ASKED: &str = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_the_app_that_two_readers_could_end_differently_reaches_no_server() {
    let pki = Pki::new();
    for (what, headers) in UNCLEAR_REQUESTS {
        let (server, heard) = apps::recorder(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let world = World::facing(&pki, plain(server)).await;
        let answer = world.answer_to(what, &post(headers, SMUGGLED)).await;
        assert!(!answer.contains("HTTP/1.1 200"), "{what}: {answer}");
        assert_eq!(heard.text(), "", "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_say_a_few_times_that_its_response_is_to_come_and_not_for_ever() {
    let pki = Pki::new();
    for (times, status) in [(3, 200), (usize::MAX, 502)] {
        let server = apps::listen(move |stream| say_interims(stream, Protocol::Http1, times)).await;
        let meshed = peer(pki.tls(WEB), move |stream| say_interims(stream, Protocol::Http2, times)).await;
        for (what, endpoint) in [("HTTP/1", plain(server)), ("HTTP/2", meshed)] {
            let world = World::facing(&pki, endpoint).await;
            let answer = world.answer_to(what, ASKED).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}, {times}: {answer}");
            let told = answer.lines().find_map(|line| line.strip_prefix("l5d-proxy-error: ")).unwrap_or_default();
            assert_eq!(told.contains("interim responses without end"), status == 502, "{what}, {times}: {answer}");
            world.neighbour_is_served().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_response_that_two_readers_could_end_differently_reaches_no_app() {
    let pki = Pki::new();
    for (what, response) in UNCLEAR_RESPONSES {
        let (server, _) = apps::recorder(response).await;
        let world = World::facing(&pki, plain(server)).await;
        let answer = world.answer_to(what, ASKED).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{what}: {answer}");
        world.neighbour_is_served().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_nobody_asked_for_answers_nobody() {
    let poisoned = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let (server, _) = apps::recorder(poisoned).await;
    let world = World::facing(&Pki::new(), plain(server)).await;
    let mut kept = world.connect().await;
    for _ in 0..20 {
        kept.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\nok") {
            assert!(timeout(SOON, kept.read_buf(&mut heard)).await.unwrap().unwrap() > 0, "{heard:?}");
        }
        let other = world.answer_to("another", ASKED).await;
        assert!(other.ends_with("\r\n\r\nok"), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_responses_without_end_cost_their_server_only() {
    let server = apps::listen(|mut stream| async move {
        let many = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100);
        while stream.write_all(&many).await.is_ok() {}
    })
    .await;
    let world = World::facing(&Pki::new(), plain(server)).await;
    let mut client = world.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    for _ in 0..5 {
        world.neighbour_is_served().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_breaks_http2_fails_its_own_requests_only() {
    let settings = || frame(SETTINGS, 0, 0, &[]);
    let continued = [&b"\x00\x01x\x7f\x81\x7e"[..], &[b'y'; 16_000]].concat();
    let injected = [&b"\x88\x00\x03x-a"[..], &[12], b"b\r\nx-evil: 1"].concat();
    let cases: Vec<(&str, Vec<Vec<u8>>, bool)> = vec![
        ("no HTTP/2 at all", vec![b"220 mail ready\r\n".to_vec()], false),
        ("the end, at once", vec![], false),
        ("an orderly end, at once", vec![settings(), frame(GOAWAY, 0, 0, &[0; 8])], false),
        ("a reset", vec![settings(), frame(RST_STREAM, 0, 1, &[0, 0, 0, 2])], false),
        ("a reset to slow down", vec![settings(), frame(RST_STREAM, 0, 1, &[0, 0, 0, 11])], false),
        ("a header within another", vec![settings(), frame(HEADERS, END_STREAM | END_HEADERS, 1, &injected)], false),
        ("a window past all bounds", vec![settings(), frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])], false),
        ("a promise", vec![settings(), frame(5, END_HEADERS, 1, &[&[0, 0, 0, 2][..], GET].concat())], false),
        ("a stream that nobody opened", vec![settings(), frame(HEADERS, END_HEADERS, 3, b"\x88")], false),
        (
            "headers without end",
            vec![settings(), frame(HEADERS, 0, 1, b"\x88"), frame(CONTINUATION, 0, 1, &continued)],
            true,
        ),
        ("resets without end", vec![settings(), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])], true),
    ];
    let pki = Pki::new();
    for (what, frames, repeats_last) in cases {
        let endpoint = peer(pki.tls(WEB), move |mut stream| {
            let frames = frames.clone();
            async move {
                // The preface, the settings, and the request: what is said before is an answer to nothing.
                let mut heard = Vec::new();
                while heard.len() < PREFACE.len() + 20 {
                    match stream.read_buf(&mut heard).await {
                        Ok(1..) => {}
                        _ => return,
                    }
                }
                for frame in &frames {
                    if stream.write_all(frame).await.is_err() {
                        return;
                    }
                }
                let _ = stream.flush().await;
                while let (true, Some(last)) = (repeats_last, frames.last()) {
                    if stream.write_all(last).await.is_err() {
                        return;
                    }
                }
                if !frames.is_empty() {
                    // Until the proxy has drawn its conclusion.
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                }
            }
        })
        .await;
        let world = World::impatient(&pki, endpoint).await;
        let answer = world.answer_to(what, ASKED).await;
        assert!(answer.starts_with("HTTP/1.1 50"), "{what}: {answer:?}");
        assert!(!answer.contains("x-evil"), "{what}: {answer}");
        world.neighbour_is_served().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_floods_and_never_answers_holds_its_own_clients_only() {
    let pki = Pki::new();
    for flood in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8])] {
        let many = [frame(SETTINGS, 0, 0, &[]), flood.repeat(1000)].concat();
        let endpoint = peer(pki.tls(WEB), move |mut stream| {
            let many = many.clone();
            async move { while stream.write_all(&many).await.is_ok() {} }
        })
        .await;
        let world = World::facing(&pki, endpoint).await;
        let mut client = world.connect().await;
        client.write_all(ASKED.as_bytes()).await.unwrap();
        for _ in 0..5 {
            world.neighbour_is_served().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_floods_its_proxy_is_sent_away() {
    let pki = Pki::new();
    let world = World::facing(&pki, plain(apps::http2().await)).await;
    let rapid = (0..200_000u32).map(|at| {
        let stream = 2 * at + 1;
        [frame(HEADERS, END_STREAM | END_HEADERS, stream, GET), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    });
    let kinds = frames_answered(world.connect().await, rapid).await;
    assert_eq!(kinds.last(), Some(&GOAWAY), "{kinds:?}");
    world.neighbour_is_served().await;

    let header = [&b"\x00\x01x\x7f\x81\x7e"[..], &[b'y'; 16_000]].concat();
    let begun = std::iter::once(frame(HEADERS, 0, 1, GET));
    let endless = begun.chain((0..10_000).map(move |_| frame(CONTINUATION, 0, 1, &header)));
    let kinds = frames_answered(world.connect().await, endless).await;
    assert!(!kinds.contains(&HEADERS), "{kinds:?}");
    world.neighbour_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_leaves_a_head_unfinished_is_cut_off_and_one_that_is_silent_is_not() {
    let pki = Pki::new();
    let patience = Duration::from_millis(500);
    let world = World::with(&pki, plain(apps::http1().await), SOON, patience).await;
    let mut idle = world.connect().await;
    idle.write_all(b"GET /first HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    until_heard(&mut idle, "/first").await;
    for (what, begun, dribble) in [
        ("a head without end", &b"GET / HTTP/1.1\r\nx: "[..], &b""[..]),
        ("a head drop by drop", b"GET / HTTP/1.1\r\nx: ", b"y"),
        ("HTTP/2 without settings", PREFACE.split_at(24).0, b""),
    ] {
        let mut stream = world.connect().await;
        stream.write_all(begun).await.unwrap();
        is_cut_off(what, stream, dribble).await;
    }
    idle.write_all(b"GET /second HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    until_heard(&mut idle, "/second").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_proxies_tell_each_other_neither_an_app_nor_a_server_can_say() {
    let said = b"HTTP/1.1 200 OK\r\nl5d-proxy-error: a lie\r\nl5d-proxy-connection: close\r\nl5d-orig-proto: HTTP/1.0\r\nhawser-unserved: unsent\r\nx-end: 1\r\ncontent-length: 2\r\n\r\nok";
    let (server, heard) = apps::recorder(said).await;
    let world = World::facing(&Pki::new(), plain(server)).await;
    let mut stream = world.connect().await;
    for _ in 0..2 {
        let request = "GET / HTTP/1.1\r\nhost: web\r\nl5d-orig-proto: HTTP/1.0\r\nl5d-dst-override: evil:80\r\nconnection: x-hop, l5d-require-id\r\nx-hop: 1\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok") {
            assert!(timeout(SOON, stream.read_buf(&mut answer)).await.unwrap().unwrap() > 0, "{answer:?}");
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("x-end: 1"), "{answer}");
        assert!(!answer.contains("l5d-") && !answer.contains("hawser-"), "{answer}");
    }
    let heard = heard.text();
    assert_eq!(heard.matches("GET / HTTP/1.1").count(), 2, "asked once each: {heard}");
    assert!(!heard.contains("l5d-") && !heard.contains("x-hop"), "{heard}");
    // A requirement stays one, though its sender calls it one of the connection.
    let required =
        "GET / HTTP/1.1\r\nhost: web\r\nl5d-require-id: web.shop\r\nconnection: close, l5d-require-id\r\n\r\n";
    let answer = world.answer_to("required", required).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_of_the_app_passes_however_it_comes() {
    let pki = Pki::new();
    let world = World::facing(&pki, plain(apps::echo().await)).await;
    // A server name that fills a record, one that claims more than there is, and lengths that contradict each other.
    let name = |length: u16, said: usize| {
        let length = length.to_be_bytes();
        [&[0x16, 3, 1, length[0], length[1], 1, 0, 0x3f, 0xf8, 3, 3][..], &vec![b'a'; said]].concat()
    };
    for hello in [name(0x3ffc, 0x3ff6), name(0xffff, 1000), name(7, 2000)] {
        for at_once in [hello.len(), 1] {
            let mut stream = world.connect().await;
            stream.set_nodelay(true).unwrap();
            // The first bytes one by one: the rest would say no more.
            let (first, rest) = hello.split_at(if at_once == 1 { 200 } else { 0 });
            for byte in first {
                stream.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            stream.write_all(rest).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut echoed = Vec::new();
            timeout(SOON, stream.read_to_end(&mut echoed)).await.unwrap().unwrap();
            assert!(echoed == hello, "{} of {} bytes", echoed.len(), hello.len());
        }
    }
    world.neighbour_is_served().await;
}
