//! The admin server of a control-plane role: `/live`, `/ready`, `/metrics`, for kubelet and scrapers; of the identity role `/trust`, for the command line.

use std::convert::Infallible;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context as _;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::Role;
use crate::net::listen::listen as bind;
use crate::net::serve::serve_latest;

/// Scrapers and probes are few; more connections than this are somebody's mistake, or worse, and must not keep a probe away.
const CONNECTIONS_MAX: usize = 64;
/// A client that has not sent its request head by then only holds a place.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Listens, and serves until the role's drain.
///
/// # Errors
/// Where the address is taken.
pub(super) async fn listen(role: &Role) -> anyhow::Result<()> {
    let address = role.common.admin_address;
    let listener = bind(address).with_context(|| format!("cannot listen on {address} for the admin server"))?;
    let served = role.clone();
    role.drain.spawn(serve_latest(listener, CONNECTIONS_MAX, role.drain.clone(), move |stream, _peer| {
        let role = served.clone();
        async move {
            let answer = service_fn(|request| {
                let answered = answer(&role, &request);
                async move { Ok::<_, Infallible>(answered) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answer);
            tokio::select! {
                _ = connection => {}
                () = role.drain.started() => {}
            }
        }
    }));
    Ok(())
}

fn answer(role: &Role, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/live" => text(StatusCode::OK, "live\n"),
        "/ping" => text(StatusCode::OK, "pong\n"),
        "/ready" => match role.readiness.waiting_for().as_slice() {
            [] => text(StatusCode::OK, "ready\n"),
            waiting_for => {
                text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: waiting for {}\n", waiting_for.join(", ")))
            }
        },
        "/metrics" => {
            let mut metrics = String::new();
            let registry = role.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            match prometheus_client::encoding::text::encode(&mut metrics, &registry) {
                Ok(()) => text(StatusCode::OK, metrics),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode metrics: {error}\n")),
            }
        }
        "/trust" => match role.trust.get().map(|status| serde_json::to_vec(&status.told())) {
            Some(Ok(told)) => text(StatusCode::OK, told),
            Some(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode: {error}\n")),
            None => text(StatusCode::NOT_FOUND, "not found\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
