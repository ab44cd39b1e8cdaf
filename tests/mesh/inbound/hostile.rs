//! Clients and apps that break the rules: what they cost, and that neither the other end nor anybody else notices.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hawser::mesh::Protocol;
use hawser::proxy::streams;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::world::{CART, Peer, Pod, becomes_true};
use super::{apps, get, header, send_http2};

/// What a client that writes this and no more gets back, in whole.
async fn answer_to(pod: &Pod, app: SocketAddr, said: &[u8]) -> String {
    let mut stream = pod.dial(app).await;
    // The proxy may have hung up before it has heard all.
    let _ = stream.write_all(said).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn is_served(pod: &Pod) {
    let answer = get(pod.dial(apps::http1().await).await, "").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

pub(in crate::mesh) fn post(headers: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: web\r\n{headers}\r\n\r\n{body}")
}

/// Headers of requests that two readers could end differently.
pub(in crate::mesh) const UNCLEAR_REQUESTS: [(&str, &str); 15] = [
    ("two lengths", "content-length: 4\r\ncontent-length: 40"),
    ("a list of lengths", "content-length: 4, 40"),
    ("a signed length", "content-length: +4"),
    ("a length in hexadecimal", "content-length: 0x4"),
    ("an unknown coding", "transfer-encoding: xchunked"),
    ("chunked before another coding", "transfer-encoding: chunked, identity"),
    ("a blank before the colon", "transfer-encoding : chunked"),
    ("a folded header", "transfer-encoding:\r\n chunked"),
    ("a folded header of another name", "x: a\r\n content-length: 4"),
    ("a bare carriage return", "x: a\rtransfer-encoding: chunked"),
    ("a zero byte", "x: a\0b"),
    ("chunked, and then not", "transfer-encoding: chunked\r\ntransfer-encoding: identity"),
    ("a control character", "transfer-encoding: \x0bchunked"),
    ("no length where one is said", "content-length:"),
    ("a length in two parts", "content-length: 4 0"),
];

pub(in crate::mesh) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: web\r\n\r\n";

#[tokio::test]
async fn a_request_that_two_readers_could_end_differently_reaches_no_app() {
    let pod = Pod::start();
    for (what, headers) in UNCLEAR_REQUESTS {
        let (app, heard) = apps::recorder(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let answer = answer_to(&pod, app, post(headers, SMUGGLED).as_bytes()).await;
        assert!(!answer.contains("HTTP/1.1 200"), "{what}: {answer}");
        assert_eq!(heard.text(), "", "{what}");
    }
}

#[tokio::test]
async fn an_app_hears_of_one_length_only() {
    let pod = Pod::start();
    let both = "content-length: 4\r\ntransfer-encoding: chunked";
    for body in ["0\r\n\r\n", &format!("4\r\nabcd\r\n0\r\n\r\n{SMUGGLED}")] {
        let (app, heard) = apps::recorder(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        answer_to(&pod, app, post(both, body).as_bytes()).await;
        for head in heard.text().split("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let has_both = head.contains("content-length:") && head.contains("transfer-encoding:");
            assert!(!has_both, "{head}");
        }
    }
    let (app, heard) = apps::recorder(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let endless = post("transfer-encoding: chunked", &format!("fffffffffffffffff\r\n{SMUGGLED}"));
    answer_to(&pod, app, endless.as_bytes()).await;
    assert!(!heard.text().contains("smuggled"), "{}", heard.text());
}

/// What a server says over and over before it has a response, once it has been asked.
pub(in crate::mesh) async fn say_interims(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    protocol: Protocol,
    times: usize,
) {
    let (opening, interim, last) = match protocol {
        Protocol::Http2 => {
            // `:status`, as HPACK has it.
            let [interim, last] = [(END_HEADERS, b"\x08\x03103"), (END_HEADERS | END_STREAM, b"\x08\x03200")]
                .map(|(flags, status)| frame(HEADERS, flags, 1, status));
            (frame(SETTINGS, 0, 0, b""), interim, last)
        }
        _ => {
            let last = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            (Vec::new(), b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".to_vec(), last.to_vec())
        }
    };
    if stream.write_all(&opening).await.is_err() || stream.flush().await.is_err() {
        return;
    }
    let asked = if protocol == Protocol::Http2 { "\u{1}\u{5}" } else { "\r\n\r\n" };
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(asked) {
        if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
            return;
        }
    }
    for _ in 0..times {
        if stream.write_all(&interim).await.is_err() {
            return;
        }
    }
    let _ = stream.write_all(&last).await;
    let _ = stream.flush().await;
    let _ = stream.read_buf(&mut heard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_may_say_a_few_times_that_its_response_is_to_come_and_not_for_ever() {
    let pod = Pod::start();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (times, status) in [(3, 200), (usize::MAX, 502)] {
            let app = apps::listen(move |stream| say_interims(stream, protocol, times)).await;
            let request = Request::get("http://web.shop/").body(Empty::new()).unwrap();
            let stream = pod.connect(header(app, protocol)).await;
            if protocol == Protocol::Http2 {
                let answer = send_http2(stream, request).await.unwrap();
                assert_eq!(answer.status(), status, "{times} over HTTP/2: {:?}", answer.headers());
                let why = answer.headers().get("l5d-proxy-error").map(|why| why.to_str().unwrap().to_owned());
                assert_eq!(why.is_some_and(|why| why.contains("interim responses without end")), status == 502);
            } else {
                let answer = get(stream, "").await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{times}: {answer}");
                assert_eq!(answer.contains("interim responses without end"), status == 502, "{answer}");
            }
        }
    }
}

/// Responses that two readers could end differently.
pub(in crate::mesh) const UNCLEAR_RESPONSES: [(&str, &[u8]); 4] = [
    ("two lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 40\r\n\r\nabcd"),
    ("a signed length", b"HTTP/1.1 200 OK\r\ncontent-length: +4\r\n\r\nabcd"),
    ("a folded header", b"HTTP/1.1 200 OK\r\nx: a\r\n content-length: 4\r\n\r\nabcd"),
    ("a bare carriage return", b"HTTP/1.1 200 OK\r\nx: a\rset-cookie: b\r\ncontent-length: 4\r\n\r\nabcd"),
];

#[tokio::test]
async fn a_response_that_two_readers_could_end_differently_reaches_no_client() {
    let pod = Pod::start();
    for (what, response) in UNCLEAR_RESPONSES {
        let (app, _) = apps::recorder(response).await;
        let answer = get(pod.dial(app).await, "").await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{what}: {answer}");
    }
    let both = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n";
    let (app, _) = apps::recorder(both).await;
    let answer = get(pod.dial(app).await, "").await.to_ascii_lowercase();
    assert!(!(answer.contains("content-length:") && answer.contains("transfer-encoding:")), "{answer}");
}

#[tokio::test]
async fn heads_of_any_size_are_refused_past_a_bound() {
    let pod = Pod::start();
    let many: String = (0..1000).map(|at| format!("x-{at}: y\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(2 << 20));
    for headers in [many, long] {
        let (app, heard) = apps::recorder(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let said = format!("GET / HTTP/1.1\r\nhost: web\r\n{headers}\r\n");
        let answer = answer_to(&pod, app, said.as_bytes()).await;
        assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
        assert_eq!(heard.text(), "");
    }
    is_served(&pod).await;
}

#[tokio::test]
async fn heads_that_are_never_finished_hold_nobody_up() {
    let (pod, app) = (Pod::start(), apps::http1().await);
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = pod.dial(app).await;
        stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        slow.push(stream);
    }
    for stream in &mut slow {
        stream.write_all(b"y").await.unwrap();
    }
    is_served(&pod).await;
}

/// A pod that has little patience with what is begun and not finished.
fn hasty() -> Pod {
    Pod::changed(|options| options.detect_timeout = Duration::from_millis(500))
}

/// Waits until the proxy has hung up, to which the client says a byte now and then, or nothing where there are none to say.
pub(in crate::mesh) async fn is_cut_off(what: &str, mut stream: impl AsyncRead + AsyncWrite + Unpin, dribble: &[u8]) {
    let mut dribble = dribble.iter().cycle();
    let cutting = async {
        let mut said = [0; 1024];
        loop {
            if let Ok(Ok(0) | Err(_)) = timeout(Duration::from_millis(50), stream.read(&mut said)).await {
                return;
            }
            if let Some(byte) = dribble.next()
                && stream.write_all(&[*byte]).await.is_err()
            {
                return;
            }
        }
    };
    timeout(Duration::from_secs(60), cutting).await.unwrap_or_else(|_| panic!("never ended: {what}"));
}

#[tokio::test]
async fn a_head_that_is_not_finished_in_time_ends_its_connection_and_a_slow_body_or_silence_none() {
    let (pod, app) = (hasty(), apps::http1().await);
    // Two honest clients: one has a request under way whose body takes its time, the other says nothing after its first request.
    let mut uploading = pod.dial(app).await;
    uploading.write_all(post("content-length: 4", "ab").as_bytes()).await.unwrap();
    let mut idle = pod.dial(app).await;
    idle.write_all(b"GET /first HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    until_heard(&mut idle, "/first").await;

    for (what, begun, dribble) in [
        ("a head without an end", &b"GET / HTTP/1.1\r\nx: "[..], &b""[..]),
        ("a head drop by drop", b"GET / HTTP/1.1\r\nx: ", b"y"),
        (
            "a second head without an end",
            b"GET / HTTP/1.1\r\nhost: web\r\n\r\nGET /2 HTTP/1.1\r\nhost: web\r\n\r\nGET",
            b" ",
        ),
    ] {
        let mut stream = pod.dial(app).await;
        stream.write_all(begun).await.unwrap();
        is_cut_off(what, stream, dribble).await;
    }

    uploading.write_all(b"cd").await.unwrap();
    until_heard(&mut uploading, "content-length: 4").await;
    idle.write_all(b"GET /second HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    until_heard(&mut idle, "/second").await;
}

pub(in crate::mesh) async fn until_heard(stream: &mut (impl AsyncRead + Unpin), text: &str) {
    let mut heard = Vec::new();
    let hearing = async {
        while !String::from_utf8_lossy(&heard).contains(text) {
            assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "hung up after {heard:?}");
        }
    };
    timeout(Duration::from_secs(60), hearing).await.unwrap_or_else(|_| panic!("never said: {text}"));
}

#[tokio::test]
async fn http2_that_is_not_finished_in_time_ends_its_connection_and_a_silent_one_goes_on() {
    // Without pings, which a client that is within a head could not answer.
    let pod = Pod::changed(|options| {
        options.detect_timeout = Duration::from_millis(500);
        options.http2_keep_alive = (Duration::ZERO, Duration::ZERO);
    });
    let app = apps::http2().await;
    let drain = hawser::net::drain::Drain::new();
    let builder = hyper::client::conn::http2::Builder::new(drain.clone());
    let (mut sender, connection) =
        builder.handshake::<_, Empty<Bytes>>(TokioIo::new(pod.dial(app).await)).await.unwrap();
    drain.spawn(connection);
    let request = || Request::get("http://web/").body(Empty::new()).unwrap();
    assert_eq!(sender.send_request(request()).await.unwrap().status(), 200);

    let begun = [PREFACE, &frame(HEADERS, 0, 1, GET)].concat();
    let within = [PREFACE, &frame(HEADERS, 0, 1, GET)[..12]].concat();
    for (what, begun, dribble) in [
        ("a preface without an end", &PREFACE[..20], vec![]),
        ("no settings", &PREFACE[..24], vec![]),
        ("headers without an end", &begun, vec![]),
        ("half a frame of headers", &within, vec![]),
        ("empty continuations", &begun, frame(CONTINUATION, 0, 1, b"")),
    ] {
        let mut stream = pod.dial(app).await;
        stream.write_all(begun).await.unwrap();
        is_cut_off(what, stream, &dribble).await;
    }
    assert_eq!(sender.send_request(request()).await.unwrap().status(), 200, "it has been silent for as long");
}

#[tokio::test]
async fn what_does_not_prove_itself_in_time_is_cut_off_at_the_inbound_port() {
    let pod = hasty();
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[b'a'; 100]].concat();
    for (what, begun, dribble) in [
        ("nothing", &b""[..], &b""[..]),
        ("half a ClientHello", &hello, b""),
        ("a ClientHello drop by drop", &hello, b"a"),
    ] {
        let mut stream = pod.dial_direct().await;
        stream.write_all(begun).await.unwrap();
        is_cut_off(what, stream, dribble).await;
    }
    let header = header(apps::http1().await, Protocol::Http1).encode();
    for said in [0, header.len() / 2, header.len() - 1] {
        let peer = Peer::meshed(&pod, &pod.authority.credentials(CART));
        let mut stream = peer.handshake(pod.dial_direct().await).await.unwrap();
        stream.write_all(&header[..said]).await.unwrap();
        is_cut_off("a transport header without an end", stream, b"").await;
    }
    let app = apps::http1().await;
    let served = Peer::meshed(&pod, &pod.authority.credentials(CART));
    assert!(served.is_let_in(pod.dial_direct().await, &super::header(app, Protocol::Http1)).await);
}

#[tokio::test]
async fn however_many_prove_nothing_whoever_does_gets_in() {
    let pod = Pod::changed(|options| options.newcomers_max = 10);
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(pod.dial_direct().await);
    }
    let peer = Peer::meshed(&pod, &pod.authority.credentials(CART));
    let header = header(apps::http1().await, Protocol::Http1);
    assert!(peer.is_let_in(pod.dial_direct().await, &header).await);
    // Those that had been there longest had to go, long before their time was over.
    for stream in silent.into_iter().take(20) {
        is_cut_off("one of too many", stream, b"").await;
    }
    assert!(pod.metrics.encode().unwrap().contains("inbound_tcp_errors_total{error=\"loadshed\"}"));
}

#[tokio::test]
async fn strangers_leave_room_for_the_mesh() {
    let (pod, app) = (Pod::changed(|options| options.strangers_max = 3), apps::http1().await);
    let mut strangers = Vec::new();
    for _ in 0..3 {
        let mut stream = pod.dial(app).await;
        stream.write_all(b"GET /in HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
        until_heard(&mut stream, "/in").await;
        strangers.push(stream);
    }
    is_cut_off("a stranger too many", pod.dial(app).await, b"").await;
    let peer = Peer::meshed(&pod, &pod.authority.credentials(CART));
    assert!(peer.is_let_in(pod.dial_direct().await, &header(app, Protocol::Http1)).await);
    strangers.pop();
    becomes_true("a place is free", || pod.snapshot().live.len() == 2).await;
    let served = async {
        loop {
            let mut stream = pod.dial(app).await;
            // Either may find that there was no place yet.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            if answer.starts_with(b"HTTP/1.1 200") {
                return;
            }
        }
    };
    timeout(Duration::from_secs(60), served).await.expect("the place stays taken");
}

#[tokio::test]
async fn a_client_hello_without_end_is_not_collected() {
    let pod = Pod::start();
    // A record that says it holds 64 KB, of a ClientHello whose server name fills it.
    let hello = [&[0x16, 3, 1, 0xff, 0xff, 1, 0, 0xff, 0xfb, 3, 3][..], &[b'a'; 60_000]].concat();
    let mut stream = pod.dial_direct().await;
    let _ = stream.write_all(&hello).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{answer:?}");
    is_served(&pod).await;
}

pub(in crate::mesh) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
pub(in crate::mesh) const HEADERS: u8 = 1;
pub(in crate::mesh) const RST_STREAM: u8 = 3;
pub(in crate::mesh) const SETTINGS: u8 = 4;
pub(in crate::mesh) const PING: u8 = 6;
pub(in crate::mesh) const GOAWAY: u8 = 7;
pub(in crate::mesh) const CONTINUATION: u8 = 9;
pub(in crate::mesh) const END_STREAM: u8 = 1;
pub(in crate::mesh) const END_HEADERS: u8 = 4;
/// `GET http://web/`, as HPACK has it.
pub(in crate::mesh) const GET: &[u8] = b"\x82\x86\x84\x41\x03web";

pub(in crate::mesh) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends an HTTP/2 client's frames for as long as the proxy takes them, and gives the kinds of those it sends.
pub(in crate::mesh) async fn frames_answered(stream: TcpStream, frames: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let (mut read, mut write) = stream.into_split();
    let say = async {
        write.write_all(PREFACE).await?;
        for frame in frames {
            write.write_all(&frame).await?;
        }
        Ok::<_, std::io::Error>(write)
    };
    let hear = async {
        let mut kinds = Vec::new();
        loop {
            let mut head = [0; 9];
            if read.read_exact(&mut head).await.is_err() {
                return kinds;
            }
            kinds.push(head[3]);
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            if tokio::io::copy(&mut (&mut read).take(length.into()), &mut tokio::io::sink()).await.is_err() {
                return kinds;
            }
            if head[3] == GOAWAY {
                return kinds;
            }
        }
    };
    let both = async { tokio::join!(say, hear) };
    timeout(Duration::from_secs(60), both).await.expect("nobody ends it").1
}

#[tokio::test]
async fn a_client_that_opens_and_resets_streams_without_end_is_sent_away() {
    let (pod, app) = (Pod::start(), apps::http2().await);
    let rapid = (0..200_000u32).map(|at| {
        let stream = 2 * at + 1;
        [frame(HEADERS, END_STREAM | END_HEADERS, stream, GET), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    });
    let kinds = frames_answered(pod.dial(app).await, rapid).await;
    assert_eq!(kinds.last(), Some(&GOAWAY), "{kinds:?}");
    is_served(&pod).await;
}

#[tokio::test]
async fn a_head_that_is_continued_without_end_ends_the_connection() {
    let (pod, app) = (Pod::start(), apps::http2().await);
    let header = [&b"\x00\x01x\x7f\x81\x7e"[..], &[b'y'; 16_000]].concat();
    let begun = std::iter::once(frame(HEADERS, 0, 1, GET));
    let endless = begun.chain((0..10_000).map(move |_| frame(CONTINUATION, 0, 1, &header)));
    let kinds = frames_answered(pod.dial(app).await, endless).await;
    assert!(!kinds.contains(&HEADERS), "{kinds:?}");
    is_served(&pod).await;
}

#[tokio::test]
async fn settings_and_pings_without_end_cost_their_sender_only() {
    let (pod, app) = (Pod::start(), apps::http2().await);
    for flood in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8])] {
        let mut stream = pod.dial(app).await;
        stream.write_all(PREFACE).await.unwrap();
        // The sender reads none of the acknowledgements: these are what must not be collected.
        let many = flood.repeat(1000);
        let flooding = async {
            for _ in 0..1000 {
                if stream.write_all(&many).await.is_err() {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = flooding => {}
            () = is_served(&pod) => {}
        }
    }
}

#[tokio::test]
async fn no_header_comes_in_within_another() {
    let pod = Pod::start();
    let (app, heard) = apps::recorder(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let value = b"b\r\nx-evil: 1";
    let injected = [GET, b"\x00\x0el5d-orig-proto\x08HTTP/1.1\x00\x03x-a", &[value.len() as u8], value].concat();
    let fair = [GET, b"\x00\x0el5d-orig-proto\x08HTTP/1.1"].concat();
    let requests = [
        frame(HEADERS, END_STREAM | END_HEADERS, 1, &injected),
        frame(HEADERS, END_STREAM | END_HEADERS, 3, &fair),
        frame(GOAWAY, 0, 0, &[0; 8]),
    ];
    frames_answered(pod.dial(app).await, requests.into_iter()).await;
    assert!(!heard.text().contains("x-evil"), "{}", heard.text());
}

#[tokio::test]
async fn an_app_that_is_told_the_clients_address_hears_no_bytes_that_could_say_another() {
    let pod = Pod::changed(|options| options.tells_client_ip = true);
    let (app, heard) = apps::recorder(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let forged = b" / HTTP/1.1\r\nhost: web\r\nhawser-client-ip: 10.0.0.1\r\n\r\n";
    // A peer that calls its HTTP opaque, on a connection for one stream and on one for many.
    for alpn in [vec![b"transport.l5d.io/v1".to_vec()], vec![streams::ALPN.to_vec()]] {
        let peer = Peer { alpn, ..Peer::meshed(&pod, &pod.authority.credentials(CART)) };
        let mut stream = peer.handshake(pod.dial_direct().await).await.unwrap();
        stream.write_all(&[&header(app, Protocol::Opaque).encode(), &b"GET"[..], forged].concat()).await.unwrap();
        is_cut_off("HTTP called opaque", stream, b"").await;
    }
    // A stranger whose method is so strange, and comes so slowly, that it is taken for no HTTP.
    let mut stream = pod.dial(app).await;
    stream.write_all(b"STRANGE").await.unwrap();
    is_cut_off("HTTP taken for bytes", stream, b"").await;
    assert!(!heard.text().contains("10.0.0.1"), "{}", heard.text());
    let peer = Peer::meshed(&pod, &pod.authority.credentials(CART));
    assert!(peer.is_let_in(pod.dial_direct().await, &header(app, Protocol::Http1)).await);
    assert!(heard.text().contains("hawser-client-ip: 10.9.8.7"), "{}", heard.text());
}

#[tokio::test]
async fn no_client_is_somebody_by_a_name_that_apps_read_alike() {
    let (pod, app) = (Pod::start(), apps::http1().await);
    // What gateways to apps make of either name is the same variable: HTTP_L5D_CLIENT_ID.
    for name in ["l5d_client_id", "L5D_Client-Id", "l5d-client_id"] {
        let answer = get(pod.dial(app).await, &format!("{name}: {CART}\r\nl5d_other: kept\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains(CART), "{answer}");
        assert!(answer.contains("l5d_other: kept"), "{answer}");
    }
}

#[tokio::test]
async fn too_many_requests_are_refused_and_then_served_again() {
    let pod = Pod::start();
    let (app, gate) = apps::gate().await;
    let stream = pod.connect(header(app, Protocol::Http2)).await;
    let drain = hawser::net::drain::Drain::new();
    let builder = hyper::client::conn::http2::Builder::new(drain.clone());
    let (sender, connection) = builder.handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.unwrap();
    drain.spawn(connection);
    let send = || {
        let mut sender = sender.clone();
        drain.spawn(async move {
            let request = Request::get("http://web.shop/").body(Empty::new()).unwrap();
            sender.send_request(request).await.unwrap().status().as_u16()
        })
    };
    let held: Vec<_> = (0..Pod::IN_FLIGHT_MAX).map(|_| send()).collect();
    becomes_true("all places are taken", || gate.held() == Pod::IN_FLIGHT_MAX).await;
    assert_eq!(send().await.unwrap(), 503);
    gate.open();
    for request in held {
        assert_eq!(request.await.unwrap(), 200);
    }
    assert_eq!(send().await.unwrap(), 200);
    assert!(pod.metrics.encode().unwrap().contains("error=\"loadshed\""));
}
