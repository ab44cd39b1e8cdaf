//! The server end of an HTTP connection, the same for what comes from peers and from the app: limits, keepalive, drain.

use std::future::Future;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::body::Body;
use super::heads::Heads;
use super::{HEADERS_MAX, HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW};
use super::{host, idle};
use crate::mesh::Protocol;
use crate::net::drain::Drain;
use crate::net::stream::Stream;

/// Streams one client may have open. The control plane's own clients hold one per destination and port.
const HTTP2_STREAMS_MAX: u32 = 10_000;
/// The longest that a head may stay unfinished, whatever the settings say of detection, which can be switched off: as long as hyper gives it.
const HEAD_TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// Answers the requests of a connection until it ends, or gracefully closes it when the drain starts.
///
/// `http1` carries what one side of the proxy wants of HTTP/1 and the other does not. `keep_alive` is how often an
/// HTTP/2 client is pinged, never where zero, and how long it has to answer. `head_timeout` is how long a client may leave a head unfinished.
///
/// # Errors
/// Where the client breaks the protocol or the connection.
pub async fn carry<A, F, E>(
    stream: impl Stream + 'static,
    protocol: Protocol,
    http1: &mut http1::Builder,
    keep_alive: (Duration, Duration),
    head_timeout: Duration,
    drain: Drain,
    answer: A,
) -> Result<(), hyper::Error>
where
    A: Fn(Box<Request<Body>>) -> F + Clone + Send + Unpin + 'static,
    F: Future<Output = Result<Response<Body>, E>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let answer = move |mut request: Request<Incoming>| {
        let version = request.version();
        // Both on the heap: a request passes through many hands, each of which would have room for it, and hyper moves what answers it several
        // times before it starts.
        let answered = host::settle(&mut request).map(|()| Box::pin(answer(Box::new(request.map(Body::from)))));
        async move {
            match answered {
                Ok(answered) => answered.await.map(|mut response: Response<Body>| {
                    if version != Version::HTTP_2 {
                        // A proxy says its own version (RFC 9110 §2.5); what a client of 1.0 cannot take, hyper leaves out.
                        *response.version_mut() = Version::HTTP_11;
                    }
                    response
                }),
                Err(unclear) => {
                    tracing::debug!(error = %unclear, "a request was refused");
                    Ok(bad_request(version))
                }
            }
        }
    };
    let head_timeout = head_timeout.min(HEAD_TIMEOUT_MAX);
    if protocol == Protocol::Http2 {
        let mut builder = http2::Builder::new(drain.clone());
        builder
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .max_concurrent_streams(HTTP2_STREAMS_MAX)
            .max_header_list_size(HEADERS_MAX as u32);
        let (every, within) = keep_alive;
        if !every.is_zero() {
            builder.keep_alive_interval(every).keep_alive_timeout(within);
        }
        // On the heap: it is large, and there is no place for it in the future of an HTTP/1 connection.
        let stream = TokioIo::new(Heads::http2(stream, head_timeout));
        let mut connection = Box::pin(builder.serve_connection(stream, service_fn(answer)));
        tokio::select! {
            served = connection.as_mut() => return served,
            () = drain.started() => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    } else {
        http1.auto_date_header(false).header_read_timeout(head_timeout).max_header_size(HEADERS_MAX);
        idle::carry(stream, http1, head_timeout, &drain, answer).await
    }
}

fn bad_request(version: Version) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    if version != Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}
