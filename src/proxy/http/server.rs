//! The server end of an HTTP connection, the same for what comes from peers and from the app: limits, keepalive, drain.

use std::future::Future;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::body::Body;
use super::{HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW};
use crate::mesh::Protocol;
use crate::net::drain::Drain;
use crate::net::stream::Stream;

/// Streams one client may have open. The control plane's own clients hold one per destination and port.
const HTTP2_STREAMS_MAX: u32 = 10_000;
/// The headers of one HTTP/2 request, decoded.
const HTTP2_HEADERS_MAX: u32 = 64 * 1024;

/// Answers the requests of a connection until it ends, or gracefully closes it when the drain starts.
///
/// `http1` carries what one side of the proxy wants of HTTP/1 and the other does not. `keep_alive` is how often an
/// HTTP/2 client is pinged, never where zero, and how long it has to answer.
///
/// # Errors
/// Where the client breaks the protocol or the connection.
pub async fn carry<A, F, E>(
    stream: impl Stream + 'static,
    protocol: Protocol,
    http1: &mut http1::Builder,
    keep_alive: (Duration, Duration),
    drain: Drain,
    answer: A,
) -> Result<(), hyper::Error>
where
    A: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Result<Response<Body>, E>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let stream = TokioIo::new(stream);
    let answer = service_fn(answer);
    if protocol == Protocol::Http2 {
        let mut builder = http2::Builder::new(drain.clone());
        builder
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .max_concurrent_streams(HTTP2_STREAMS_MAX)
            .max_header_list_size(HTTP2_HEADERS_MAX);
        let (every, within) = keep_alive;
        if !every.is_zero() {
            builder.keep_alive_interval(every).keep_alive_timeout(within);
        }
        let mut connection = std::pin::pin!(builder.serve_connection(stream, answer));
        tokio::select! {
            served = connection.as_mut() => return served,
            () = drain.started() => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    } else {
        let connection = http1
            .auto_date_header(false)
            // Between two requests a connection may idle for as long as its client likes, and hyper has one timer for both.
            .header_read_timeout(None)
            .serve_connection(stream, answer)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            served = connection.as_mut() => return served,
            () = drain.started() => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    }
}
