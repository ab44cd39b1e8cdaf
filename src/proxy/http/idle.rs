//! HTTP/1 connections of clients, which cost next to nothing while they are idle.
//!
//! In: a client's stream, and what answers its requests. Out: answered requests, until the client leaves or the drain starts. Hyper's
//! buffers are 16 KB for each connection, and clients keep many that they hardly use. So a connection that has been silent for some time
//! between two requests is taken from hyper, and given to it anew with the next byte.
//!
//! ```text
//!   hyper ── request, response ── request, response ── silent for IDLE_AFTER ──> the bare stream
//!     ^                                                                              │
//!     └────────────────────────── the client speaks ─────────────────────────────────┘
//! ```
//!
//! Start at [`carry`].

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};

use super::body::Body;
use super::heads::{Exchanges, Heads};
use crate::net::drain::Drain;
use crate::net::prefixed::Prefixed;
use crate::net::stream::Stream;

/// How long nothing has happened at least, and less than twice that: much longer than the pauses of a client that is at work, for making
/// hyper's state anew costs as much as a tenth of a request.
const IDLE_AFTER: Duration = Duration::from_secs(3);
/// What is read at once of a client that speaks again: most heads. It is on the stack.
const HEARD_AT_ONCE: usize = 2 * 1024;

/// Answers the requests of an HTTP/1 connection until it ends, or gracefully closes it when the drain starts.
///
/// # Errors
/// Where the client breaks the protocol or the connection.
pub(super) async fn carry<A, F, E>(
    stream: impl Stream + 'static,
    http1: &mut http1::Builder,
    head_timeout: Duration,
    drain: &Drain,
    answer: A,
) -> Result<(), hyper::Error>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Unpin + 'static,
    F: Future<Output = Result<Response<Body>, E>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let mut stream = Prefixed::from(stream);
    loop {
        let Some((begun, mut bare)) = serve(stream, http1, head_timeout, drain, answer.clone()).await? else {
            return Ok(());
        };
        let heard = tokio::select! {
            heard = hear(&mut bare) => heard.unwrap_or_default(),
            () = drain.started() => Bytes::new(),
        };
        if heard.is_empty() {
            // Nobody is left to be told of an error.
            let _ = bare.shutdown().await;
            return Ok(());
        }
        let said = if begun.is_empty() { heard } else { [begun, heard].concat().into() };
        stream = Prefixed::new(said, bare);
    }
}

/// Answers requests until there are none for some time: then returns the stream, and the beginning of a head that the client sent along with a
/// request. All that hyper had is gone by then.
async fn serve<S, A, F, E>(
    stream: Prefixed<S>,
    http1: &mut http1::Builder,
    head_timeout: Duration,
    drain: &Drain,
    answer: A,
) -> Result<Option<(Bytes, S)>, hyper::Error>
where
    S: Stream + 'static,
    A: Fn(Request<Incoming>) -> F + Clone + Send + Unpin + 'static,
    F: Future<Output = Result<Response<Body>, E>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let (heads, clock, exchanges) = Heads::http1(stream, head_timeout);
    let asked = exchanges.clone();
    let answer = service_fn(move |request| {
        asked.ask();
        answer(request)
    });
    let connection = http1.timer(clock).serve_connection(TokioIo::new(heads), answer).with_upgrades();
    // On the heap, so that an idle connection is without it.
    let mut connection = Box::new(connection);
    tokio::select! {
        served = &mut *connection => return served.map(|()| None),
        () = idle(&exchanges) => {}
        () = drain.started() => {
            Pin::new(&mut *connection).graceful_shutdown();
            return connection.await.map(|()| None);
        }
    }
    Ok(connection.into_parts().map(|parts| {
        let (unread, bare) = parts.io.into_inner().into_stream().into_parts();
        // Copied, for even an empty part of hyper's buffer would keep all of it.
        (Bytes::from([parts.read_buf, unread].concat()), bare)
    }))
}

/// Resolves when all has been still for some time.
async fn idle(exchanges: &Exchanges) {
    // Looked at now and then, because a timer for each request would cost each request.
    let mut before = None;
    loop {
        tokio::time::sleep(IDLE_AFTER).await;
        let now = exchanges.idle_after();
        if now.is_some() && now == before {
            return;
        }
        before = now;
    }
}

/// What the client says next; nothing is kept for it meanwhile.
async fn hear(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    poll_fn(|cx| {
        let mut bytes = [0; HEARD_AT_ONCE];
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
        io::Result::Ok(Bytes::copy_from_slice(buffer.filled())).into()
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll};

    use http::header::{CONNECTION, UPGRADE};
    use http::{HeaderValue, StatusCode};
    use tokio::io::{AsyncReadExt as _, AsyncWrite, DuplexStream, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const LONG: Duration = Duration::from_secs(3600);

    /// A client's stream that tells how much its reader has place for: hyper for a whole buffer.
    struct Watched(DuplexStream, Arc<Mutex<usize>>);

    impl AsyncRead for Watched {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            *self.1.lock().unwrap() = buffer.capacity();
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Watched {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    struct Client {
        stream: DuplexStream,
        place: Arc<Mutex<usize>>,
        drain: Drain,
    }

    impl Client {
        /// Of a server that takes a minute for `/slow`, and switches protocols for `/switch` to one that echoes.
        fn new() -> Self {
            let (stream, server) = duplex(4096);
            let place = Arc::<Mutex<usize>>::default();
            let (watched, drain) = (Watched(server, place.clone()), Drain::new());
            let started = drain.clone();
            drain.spawn(async move {
                let answer = |request| async move { Ok::<_, Infallible>(answer(request).await) };
                let _ = carry(watched, &mut http1::Builder::new(), LIMIT, &started, answer).await;
            });
            Self { stream, place, drain }
        }

        async fn say(&mut self, bytes: &str) {
            self.stream.write_all(bytes.as_bytes()).await.unwrap();
        }

        /// The next response, which has no body.
        async fn response(&mut self) -> String {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.stream.read_u8().await.unwrap());
            }
            String::from_utf8(head).unwrap()
        }

        fn is_bare(&self) -> bool {
            *self.place.lock().unwrap() == HEARD_AT_ONCE
        }
    }

    async fn answer(mut request: Request<Incoming>) -> Response<Body> {
        let mut response = Response::new(Body::default());
        match request.uri().path() {
            "/slow" => tokio::time::sleep(LONG).await,
            "/switch" => {
                let switched = hyper::upgrade::on(&mut request);
                let echo = async move {
                    let mut stream = TokioIo::new(switched.await.unwrap());
                    let said = stream.read_u8().await.unwrap();
                    stream.write_u8(said).await.unwrap();
                };
                Drain::new().spawn(echo);
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
                response.headers_mut().insert(UPGRADE, HeaderValue::from_static("echo"));
            }
            _ => {}
        }
        response
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_without_hyper_until_its_client_speaks_again() {
        let mut client = Client::new();
        for _ in 0..3 {
            client.say("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n\r\nhi").await;
            assert!(client.response().await.starts_with("HTTP/1.1 200 "));
            tokio::time::sleep(IDLE_AFTER / 2).await;
            assert!(!client.is_bare(), "a pause is not long enough");
            tokio::time::sleep(3 * IDLE_AFTER).await;
            assert!(client.is_bare());
        }
        client.say("GET /switch HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await;
        assert!(client.response().await.starts_with("HTTP/1.1 101 "));
        client.say("x").await;
        assert_eq!(client.stream.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_waits_for_a_response_is_not_idle_whatever_came_with_the_request() {
        for along in ["", "GET /after HTTP/1.1\r\n", "GET /after HTTP/1.1\r\nhost: web\r\n\r\n"] {
            let mut client = Client::new();
            client.say(&format!("GET /slow HTTP/1.1\r\nhost: web\r\n\r\n{along}")).await;
            tokio::time::sleep(LONG / 2).await;
            assert!(!client.is_bare(), "{along:?}");
            assert!(client.response().await.starts_with("HTTP/1.1 200 "));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_head_that_came_along_is_kept() {
        let mut client = Client::new();
        client.say("GET / HTTP/1.1\r\nhost: web\r\n\r\nGET / HTTP/1.1\r\nho").await;
        assert!(client.response().await.starts_with("HTTP/1.1 200 "));
        tokio::time::sleep(4 * IDLE_AFTER).await;
        assert!(client.is_bare());
        client.say("st: web\r\n\r\n").await;
        assert!(client.response().await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unfinished_head_still_has_its_limit_after_an_idle_time() {
        let mut client = Client::new();
        client.say("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        client.response().await;
        tokio::time::sleep(3 * IDLE_AFTER).await;
        client.say("GET / HTTP/1.1\r\n").await;
        tokio::time::sleep(2 * LIMIT).await;
        assert_eq!(client.stream.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_with_its_client_and_with_the_drain() {
        for is_drained in [false, true] {
            let mut client = Client::new();
            client.say("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
            client.response().await;
            tokio::time::sleep(3 * IDLE_AFTER).await;
            assert!(client.is_bare());
            if is_drained {
                client.drain.start();
            } else {
                client.stream.shutdown().await.unwrap();
            }
            assert_eq!(client.stream.read(&mut [0]).await.unwrap(), 0);
        }
    }
}
