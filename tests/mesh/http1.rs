//! HTTP/1 as RFC 9110 and RFC 9112 have it, through both proxies: what a client says, what the app hears of it, and back.
//!
//! Where the proxies differ from the letter, the case says so, and docs/protocols.md says why.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::apps;
use super::pair::Step::{End, Hear, HearEnd, NotHeard, Say};
use super::pair::{Pair, Step, act, talk};

/// What it is about, the client's part, and the app's.
type Case = (&'static str, &'static [Step], &'static [Step]);

async fn all(cases: &[Case]) {
    for (what, client, app) in cases {
        talk(what, client, app).await;
    }
}

const OK: Step = Say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_every_form_reach_the_app_as_they_were() {
    all(&[
        (
            "origin-form",
            &[Say("GET /a?b=c%20d HTTP/1.1\r\nHost: web\r\n\r\n"), Hear("http/1.1 200 ok\r\n"), Hear("\r\n\r\nhello")],
            &[
                Hear("get /a?b=c%20d http/1.1\r\n"),
                Hear("host: web\r\n"),
                Hear("\r\n\r\n"),
                NotHeard("l5d-orig-proto"),
                OK,
            ],
        ),
        (
            "absolute-form",
            &[Say("GET http://web.shop/a HTTP/1.1\r\nHost: web.shop\r\n\r\n"), Hear("200 ok"), Hear("hello")],
            &[Hear("get http://web.shop/a http/1.1\r\n"), Hear("host: web.shop\r\n"), OK],
        ),
        (
            "asterisk-form",
            &[Say("OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n"), Hear("200 ok"), Hear("hello")],
            &[Hear("options * http/1.1\r\n"), Hear("host: web\r\n"), OK],
        ),
        (
            "authority-form, accepted",
            &[
                Say("CONNECT db.shop:5432 HTTP/1.1\r\nHost: db.shop:5432\r\n\r\n"),
                Hear("200 ok\r\n"),
                Say("ping"),
                Hear("pong"),
            ],
            &[
                Hear("connect db.shop:5432 http/1.1\r\n"),
                Hear("\r\n\r\n"),
                Say("HTTP/1.1 200 OK\r\n\r\n"),
                Hear("ping"),
                Say("pong"),
            ],
        ),
        (
            "authority-form, refused",
            &[
                Say("CONNECT db.shop:5432 HTTP/1.1\r\nHost: db.shop:5432\r\n\r\n"),
                Hear("403 forbidden\r\n"),
                Hear("\r\n\r\nno"),
            ],
            &[Hear("connect "), Hear("\r\n\r\n"), Say("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")],
        ),
        (
            "a method that nobody knows",
            &[Say("BREW /pot HTTP/1.1\r\nHost: web\r\n\r\n"), Hear("200 ok"), Hear("hello")],
            &[Hear("brew /pot http/1.1\r\n"), OK],
        ),
        (
            "empty lines before the request",
            &[Say("\r\n\r\nGET / HTTP/1.1\r\nHost: web\r\n\r\n"), Hear("200 ok"), Hear("hello")],
            &[Hear("get / http/1.1\r\n"), OK],
        ),
        (
            "lines that end in a line feed alone reach the app with both",
            &[Say("GET / HTTP/1.1\nHost: web\n\n"), Hear("200 ok"), Hear("hello")],
            &[Hear("get / http/1.1\r\n"), Hear("host: web\r\n"), OK],
        ),
        (
            "HTTP/1.0 without a host",
            &[Say("GET /old HTTP/1.0\r\n\r\n"), Hear("http/1.0 200 ok\r\n"), Hear("hello"), HearEnd],
            &[Hear("get /old http/1.0\r\n"), NotHeard("host:"), OK],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_come_as_they_were_but_for_those_of_one_connection() {
    all(&[
        (
            "values",
            &[
                Say("GET / HTTP/1.1\r\nHost: web\r\nX-Empty:\r\nX-Blanks: \t a b\t \r\nCookie: a=1\r\nCookie: b=2\r\n\r\n"),
                Hear("set-cookie: a=1\r\n"),
                Hear("set-cookie: b=2\r\n"),
                Hear("x-blanks: a b\r\n"),
                Hear("hello"),
            ],
            &[
                Hear("x-empty:"),
                Hear("x-blanks: a b\r\n"),
                Hear("cookie: a=1\r\n"),
                Hear("cookie: b=2\r\n"),
                Hear("\r\n"),
                Say("HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Blanks:  a b \r\nContent-Length: 5\r\n\r\nhello"),
            ],
        ),
        (
            "those that connection lists, and those that are known to be of it",
            &[
                Say("GET / HTTP/1.1\r\nHost: web\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: gzip\r\nX-End: 1\r\n\r\n"),
                Hear("x-end: 1\r\n"),
                Hear("hello"),
                NotHeard("x-hop"),
                NotHeard("keep-alive"),
            ],
            &[
                Hear("x-end: 1\r\n"),
                NotHeard("x-hop"),
                NotHeard("keep-alive"),
                NotHeard("gzip"),
                Say("HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-End: 1\r\nContent-Length: 5\r\n\r\nhello"),
            ],
        ),
        (
            "what no client can have removed by calling it one of the connection",
            &[
                Say("GET / HTTP/1.1\r\nHost: web\r\nConnection: host, l5d-client-id\r\nL5d-Client-Id: evil\r\nX-End: 1\r\n\r\n"),
                Hear("hello"),
            ],
            &[
                Hear("host: web\r\n"),
                Hear("l5d-client-id: client.shop.serviceaccount.identity.hawser.cluster.local\r\n"),
                Hear("\r\n"),
                NotHeard("evil"),
                OK,
            ],
        ),
        (
            "an expectation that nobody knows is the app's to judge",
            &[Say("GET / HTTP/1.1\r\nHost: web\r\nExpect: 202-ok\r\n\r\n"), Hear("417 expectation failed\r\n")],
            &[Hear("expect: 202-ok\r\n"), Say("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n")],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_end_where_they_did() {
    all(&[
        (
            "of a known length",
            &[Say("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nab"), Say("cd"), Hear("hello")],
            &[Hear("content-length: 4\r\n"), Hear("\r\n\r\nabcd"), OK],
        ),
        (
            "in chunks",
            &[
                Say("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"),
                Say("2\r\ncd\r\n0\r\n\r\n"),
                Hear("transfer-encoding: chunked\r\n"),
                Hear("\r\nhel\r\n"),
                Hear("\r\nlo\r\n"),
                Hear("0\r\n\r\n"),
            ],
            &[
                Hear("transfer-encoding: chunked\r\n"),
                Hear("ab\r\n"),
                Hear("cd\r\n"),
                Hear("0\r\n\r\n"),
                Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n"),
                Say("2\r\nlo\r\n0\r\n\r\n"),
            ],
        ),
        (
            "in chunks with extensions, which end with the connection",
            &[
                Say("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b;c=\"d\"\r\nabcd\r\n0;last\r\n\r\n"),
                Hear("hello"),
            ],
            &[Hear("abcd\r\n"), Hear("0\r\n\r\n"), NotHeard("a=b"), OK],
        ),
        (
            "with trailers that were announced",
            &[
                Say("POST / HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n"),
                Say("2\r\nab\r\n0\r\nX-Sum: 7\r\n\r\n"),
                Hear("trailer: x-sum\r\n"),
                Hear("0\r\nx-sum: 8\r\n\r\n"),
            ],
            &[
                Hear("trailer: x-sum\r\n"),
                Hear("0\r\nx-sum: 7\r\n\r\n"),
                Say("HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 8\r\n\r\n"),
            ],
        ),
        (
            "that the end of the connection ends, for a client that knows chunks",
            &[
                Say("GET / HTTP/1.1\r\nHost: web\r\n\r\n"),
                Hear("transfer-encoding: chunked\r\n"),
                Hear("until "),
                Hear("the end"),
                Hear("0\r\n\r\n"),
            ],
            &[Hear("\r\n\r\n"), Say("HTTP/1.1 200 OK\r\n\r\nuntil "), Say("the end"), End],
        ),
        (
            "and for one that does not",
            &[
                Say("GET / HTTP/1.0\r\nHost: web\r\n\r\n"),
                Hear("\r\n\r\nuntil the end"),
                HearEnd,
                NotHeard("transfer-encoding"),
            ],
            &[Hear("\r\n\r\n"), Say("HTTP/1.0 200 OK\r\n\r\nuntil the end"), End],
        ),
        (
            "of responses to HEAD, which have none",
            &[
                Say("HEAD / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"),
                Hear("content-length: 5\r\n"),
                Hear("\r\n\r\n"),
                HearEnd,
                NotHeard("hello"),
            ],
            &[Hear("head / "), Hear("\r\n\r\n"), Say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")],
        ),
        (
            "of 204, which has none",
            &[
                Say("GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"),
                Hear("204 no content\r\n"),
                HearEnd,
                NotHeard("content-length"),
                NotHeard("transfer-encoding"),
            ],
            &[Hear("\r\n\r\n"), Say("HTTP/1.1 204 No Content\r\n\r\n")],
        ),
        (
            "of 304, which has none, and the length of what it is about",
            &[
                Say("GET / HTTP/1.1\r\nHost: web\r\nIf-None-Match: \"a\"\r\nConnection: close\r\n\r\n"),
                Hear("304 not modified\r\n"),
                Hear("etag: \"a\"\r\n"),
                HearEnd,
                NotHeard("transfer-encoding"),
            ],
            &[Hear("if-none-match"), Hear("\r\n\r\n"), Say("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n")],
        ),
        (
            "that break off are no whole ones",
            &[
                Say("GET / HTTP/1.1\r\nHost: web\r\n\r\n"),
                HearEnd,
                NotHeard("\r\n0\r\n"),
            ],
            &[Hear("\r\n\r\n"), Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_and_early_responses_come_when_they_are_due() {
    all(&[
        (
            "a client that waits for 100 gets it, and then its response",
            &[
                Say("POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"),
                Hear("http/1.1 100 continue\r\n\r\n"),
                Say("abcd"),
                Hear("200 ok"),
                Hear("hello"),
            ],
            &[
                Hear("expect: 100-continue\r\n"),
                Hear("\r\n\r\n"),
                Say("HTTP/1.1 100 Continue\r\n\r\n"),
                Hear("abcd"),
                OK,
            ],
        ),
        (
            "one that is refused instead gets that",
            &[
                Say("POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"),
                Hear("413 payload too large\r\n"),
            ],
            &[
                Hear("expect: 100-continue\r\n"),
                Hear("\r\n\r\n"),
                Say("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
                End,
            ],
        ),
        (
            "a response before the end of the request",
            &[
                Say("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 1000000\r\n\r\nabcd"),
                Hear("413 payload too large\r\n"),
                Hear("\r\n\r\nno"),
            ],
            &[Hear("abcd"), Say("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 2\r\n\r\nno")],
        ),
        (
            "both at once: what is sent on comes back as it is sent",
            &[
                Say("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"),
                Hear("200 ok"),
                Hear("one"),
                Say("3\r\ntwo\r\n0\r\n\r\n"),
                Hear("two"),
                Hear("0\r\n\r\n"),
            ],
            &[
                Hear("one"),
                Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"),
                Hear("two"),
                Say("3\r\ntwo\r\n0\r\n\r\n"),
                Hear("0\r\n\r\n"),
            ],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_becomes_what_both_ends_agree_on() {
    const UPGRADE: &str =
        "GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    all(&[
        (
            "a WebSocket, and bytes that come with the answer",
            &[
                Say(UPGRADE),
                Hear("101 switching protocols\r\n"),
                Hear("upgrade: websocket\r\n"),
                Hear("early"),
                Say("ping"),
                Hear("pong"),
            ],
            &[
                Hear("upgrade: websocket\r\n"),
                Say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly"),
                Hear("ping"),
                Say("pong"),
            ],
        ),
        (
            "no WebSocket",
            &[Say(UPGRADE), Hear("400 bad request\r\n"), Hear("\r\n\r\nno")],
            &[Hear("upgrade: websocket\r\n"), Say("HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")],
        ),
    ])
    .await;
}

/// A client's part with an app that speaks HTTP by itself, and answers with what it was asked.
async fn with_an_http_app(what: &str, client: &[Step]) {
    let pair = Pair::start(apps::http1().await).await;
    act(what, "client", pair.connect().await, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_or_closed_as_the_client_says() {
    let cases: &[(&str, &[Step])] = &[
        (
            "HTTP/1.1 goes on",
            &[
                Say("GET /one HTTP/1.1\r\nHost: web\r\n\r\n"),
                Hear("get /one http/1.1\n"),
                Say("POST /two HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nabcd"),
                Hear("post /two http/1.1\n"),
                Say("HEAD /three HTTP/1.1\r\nHost: web\r\n\r\n"),
                Hear("200 ok"),
                Say("GET /four HTTP/1.1\r\nHost: web\r\n\r\n"),
                Hear("get /four http/1.1\n"),
            ],
        ),
        (
            "HTTP/1.1 that says close ends",
            &[Say("GET /one HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"), Hear("get /one http/1.1\n"), HearEnd],
        ),
        (
            "HTTP/1.0 ends",
            &[
                Say("GET /one HTTP/1.0\r\nHost: web\r\n\r\n"),
                Hear("http/1.0 200"),
                Hear("get /one http/1.0\n"),
                HearEnd,
            ],
        ),
        (
            "HTTP/1.0 that says keep-alive goes on",
            &[
                Say("GET /one HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\n\r\n"),
                Hear("connection: keep-alive\r\n"),
                Hear("get /one http/1.0\n"),
                Say("GET /two HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\n\r\n"),
                Hear("get /two http/1.0\n"),
            ],
        ),
        (
            "requests in advance are answered in their order",
            &[
                Say(
                    "GET /one HTTP/1.1\r\nHost: web\r\n\r\nPOST /two HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nabGET /three HTTP/1.1\r\nHost: web\r\n\r\n",
                ),
                Hear("get /one http/1.1\n"),
                Hear("post /two http/1.1\n"),
                Hear("get /three http/1.1\n"),
            ],
        ),
        (
            "a client that ends its half after its request still gets the response",
            &[Say("GET /one HTTP/1.1\r\nHost: web\r\n\r\n"), End, Hear("get /one http/1.1\n"), HearEnd],
        ),
    ];
    for (what, client) in cases {
        with_an_http_app(what, client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dialled_for_a_silent_client_ends_as_soon_as_that_speaks_http() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pair = Pair::start(app.local_addr().unwrap()).await;
    let mut client = pair.connect().await;
    let (mut silent, _) = app.accept().await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    // The client is still there, and has its answer to come.
    assert_eq!(silent.read(&mut [0]).await.unwrap_or_default(), 0);
    let (mut asked, _) = app.accept().await.unwrap();
    assert!(asked.read(&mut [0; 1024]).await.unwrap() > 0);
    asked.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 204");
}

/// The status of a request with so much of headers, and whether an app that gives them back is heard.
async fn with_headers(headers: &str) -> String {
    let pair = Pair::start(apps::http1().await).await;
    let mut stream = pair.connect().await;
    let request = format!("GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{headers}\r\n");
    // The proxy may have hung up before it has heard all.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_and_large_headers_pass_up_to_a_bound_and_are_refused_past_it() {
    let many = |count: usize| (0..count).map(|at| format!("x-{at}: y\r\n")).collect::<String>();
    let large = |bytes: usize| format!("x-large: {}\r\n", "y".repeat(bytes));
    let answer = with_headers(&many(90)).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("x-89: y"), "{answer}");
    let answer = with_headers(&large(60_000)).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(&"y".repeat(60_000)), "{} bytes", answer.len());
    for refused in [many(200), large(70_000)] {
        let answer = with_headers(&refused).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    // The same on the way back.
    for (bytes, status) in [(60_000, "200"), (70_000, "502")] {
        let response = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{}\r\n", large(bytes));
        let (app, _) = apps::recorder(response.leak().as_bytes()).await;
        let pair = Pair::start(app).await;
        let mut stream = pair.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes}: {:?}", answer.lines().next());
        assert_eq!(answer.contains(&"y".repeat(bytes)), status == "200");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_two_readers_would_take_for_different_hosts_is_refused() {
    for (what, headers) in [
        ("two hosts", "Host: web\r\nHost: evil\r\n"),
        ("a host that is none", "Host: web/evil\r\n"),
        ("a host with a user", "Host: evil@web\r\n"),
    ] {
        let request = format!("GET / HTTP/1.1\r\n{headers}\r\n");
        talk(what, &[Say(request.leak()), Hear("400 bad request\r\n")], &[]).await;
    }
}
