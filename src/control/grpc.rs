//! Serves gRPC to proxies: many long streams on few connections, each ended in good order at shutdown.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tower::Service;

use crate::net::drain::Drain;
use crate::net::listen::listen as bind;
use crate::net::serve::serve;

/// One per proxy and replica at least, since proxies pool; a thousand pods that all start over must still get in.
const CONNECTIONS_MAX: usize = 16_384;
/// A proxy that vanished without a word is noticed after both: its streams cost memory until then.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of this API are a few hundred bytes; headers that are larger are a mistake or an attack.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;

/// Requests of this API are small: what of them may be under way unread, in one stream and in all of a connection.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// Who opened a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) ip: IpAddr,
    /// Whether it is in this pod, as its proxy is, which speaks for others.
    pub(super) is_local: bool,
}

/// Listens at `address`, and serves until the drain, each connection by what `service` makes for it.
///
/// # Errors
/// Where the address is taken.
pub(super) async fn listen<S>(
    address: SocketAddr,
    service: impl Fn(Caller) -> S + Send + 'static,
    drain: &Drain,
) -> anyhow::Result<SocketAddr>
where
    S: Service<http::Request<Incoming>, Response = http::Response<tonic::body::Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let listener = bind(address).with_context(|| format!("cannot listen on {address} for gRPC"))?;
    let address = listener.local_addr().context("cannot tell the address just bound")?;
    let draining = drain.clone();
    drain.spawn(serve(listener, CONNECTIONS_MAX, drain.clone(), move |stream, peer| {
        let ip = peer.ip().to_canonical();
        let is_local = ip.is_loopback() || stream.local_addr().is_ok_and(|local| local.ip().to_canonical() == ip);
        let (service, drain) = (service(Caller { ip, is_local }), draining.clone());
        async move {
            // Discovery is many small messages.
            let _ = stream.set_nodelay(true);
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                // A proxy has a stream per target and port it knows, which may be thousands.
                .max_concurrent_streams(None)
                .max_header_list_size(HEADER_LIST_BYTES_MAX)
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
            if let Err(error) = drain.serve(connection).await {
                tracing::debug!(%peer, %error, "a gRPC connection ended in error");
            }
        }
    }));
    Ok(address)
}
