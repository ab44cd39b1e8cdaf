//! The proxy's admin server: probes, metrics, and what the command line asks of a proxy.
//!
//! In: HTTP, in plaintext or in mesh TLS for this pod. Out: `/ready`, `/live`, `/metrics`, `/trust`; and to clients in the pod itself,
//! which is where a port-forward comes from, `/connections`, `/env.json`, `/proxy-log-level` and `/shutdown`.
//!
//! `/metrics` obeys the policy of the admin port; probes do not, for a pod that cannot be probed cannot live.
//!
//! Start at [`Admin::serve`].

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::clock::Clock;
use super::connections::Table;
use super::credentials::Credentials;
use super::detect::{Patience, Spoken, detect_client};
use super::metrics::Metrics;
use super::policy::Policies;
use super::tls::{Alpn, Tls};
use crate::mesh::Identity;
use crate::mesh::connection::Security;
use crate::mesh::policy::{Client, ClientTls, Denied};
use crate::net::drain::Drain;
use crate::net::readiness::Readiness;
use crate::net::serve::serve_latest;
use crate::net::stream::Stream;
use crate::pki::{self, AnchorTold, Bundle, Certificate, LeafTold, ProxyTold};
use crate::telemetry;
use crate::telemetry::error_chain;

/// Probes, scrapers and a person or two; more connections than this are somebody's mistake, or worse, and must not keep a probe away.
const CONNECTIONS_MAX: usize = 128;
/// A client that has not said by then what it speaks only holds a place. Scrapers speak at once.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Between the requests of a connection, and for the head of one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long `/ready` keeps its answer for a proxy that is about to have its first certificate. The kubelet looks once a second, and in a pod
/// of a stock injector gives up after one: so it is told within the look during which the proxy became ready, not a second later.
const READY_WITHIN: Duration = Duration::from_millis(900);
/// A log filter of more bytes is a mistake.
const FILTER_BYTES_MAX: usize = 4096;

/// What the admin server tells about.
pub struct Admin {
    pub connections: Table,
    pub filter: Option<telemetry::Filter>,
    pub metrics: Metrics,
    /// Where it listens, which is what policy knows it by.
    pub port: u16,
    pub readiness: Readiness,
    /// There once the bundle is.
    pub secured: OnceLock<Secured>,
    /// Told when somebody asks the proxy to end; none where nobody may.
    pub shutdown: Option<Arc<Notify>>,
}

/// What there is from the bundle on.
pub struct Secured {
    pub bundle: watch::Receiver<Arc<Bundle>>,
    pub clock: Clock,
    pub credentials: watch::Receiver<Option<Arc<Credentials>>>,
    pub policies: Policies,
    pub tls: Tls,
}

impl Admin {
    /// Serves until `drain` starts. It should be the last to: probes go on while connections end.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, drain: Drain) {
        let stop = drain.clone();
        serve_latest(listener, CONNECTIONS_MAX, drain, move |stream, peer| {
            let (admin, stop) = (self.clone(), stop.clone());
            async move {
                tokio::select! {
                    () = Box::pin(admin.connection(stream, peer, stop.clone())) => {}
                    () = stop.started() => {}
                }
            }
        })
        .await;
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, drain: Drain) {
        let patience = Patience { unfinished: SILENCE_MAX, silent: Some(SILENCE_MAX) };
        let Ok((spoken, stream)) = detect_client(stream, patience).await else { return };
        let address = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let Spoken::Tls { sni } = &spoken else {
            return self.requests(stream, &spoken, Client { address, tls: ClientTls::None }, drain).await;
        };
        let Some(secured) = self.secured.get() else { return };
        if sni.as_deref() != secured.tls.identity().as_ref().map(Identity::as_str) {
            return tracing::debug!(%peer, ?sni, "TLS for somebody else came to the admin port");
        }
        let accepted = match secured.tls.accept(stream, Alpn::None).await {
            Ok(accepted) => accepted,
            Err(error) => return tracing::debug!(%peer, error = %error_chain(&error), "no TLS with an admin client"),
        };
        let tls = ClientTls::from(&accepted.security);
        let identity = match &accepted.security {
            Security::Mutual(tls) => tls.client_identity.as_ref(),
            _ => None,
        };
        tracing::debug!(%peer, ?identity, "an admin client came by TLS");
        let Ok((spoken, stream)) = detect_client(accepted.stream, patience).await else { return };
        self.requests(stream, &spoken, Client { address, tls }, drain).await;
    }

    async fn requests(self: Arc<Self>, stream: impl Stream, spoken: &Spoken, client: Client, drain: Drain) {
        let answer = service_fn(|request| {
            let (admin, client) = (self.clone(), client.clone());
            async move { Ok::<_, Infallible>(admin.answer(&client, request).await) }
        });
        let stream = TokioIo::new(stream);
        let served = match spoken {
            Spoken::Http2 => http2::Builder::new(drain).timer(TokioTimer::new()).serve_connection(stream, answer).await,
            _ => {
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(stream, answer)
                    .await
            }
        };
        if let Err(error) = served {
            tracing::debug!(client = %client.address, %error, "an admin connection ended");
        }
    }

    async fn answer(&self, client: &Client, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let is_local = client.address.ip().is_loopback();
        match (request.uri().path(), is_local) {
            ("/live", _) => text(StatusCode::OK, "live\n"),
            ("/ready", _) => self.ready().await,
            ("/metrics", _) => match self.refused(client, &request) {
                Some(status) => text(status, ""),
                None => self.metrics(),
            },
            ("/trust", _) => self.trust(),
            ("/connections", true) => self.connections(),
            ("/env.json", true) => environment(request.uri().query()),
            ("/proxy-log-level", true) => self.log_level(request).await,
            ("/shutdown", true) => self.shutdown(request.method()),
            ("/connections" | "/env.json" | "/proxy-log-level" | "/shutdown", false) => {
                text(StatusCode::FORBIDDEN, "for clients in this pod only\n")
            }
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    /// Whether the proxy is ready: at once where it has been before, and else as soon as it is.
    async fn ready(&self) -> Response<Full<Bytes>> {
        if !self.readiness.is_ready() {
            let started = tokio::time::timeout(READY_WITHIN, self.readiness.started()).await;
            tracing::trace!(has_started = started.is_ok(), "a probe has waited");
        }
        match self.readiness.is_ready() {
            true => text(StatusCode::OK, "ready\n"),
            false => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        }
    }

    /// What the policy of this port answers instead, if it does not let the client in.
    fn refused(&self, client: &Client, request: &Request<Incoming>) -> Option<StatusCode> {
        let secured = self.secured.get()?;
        let policy = secured.policies.port(self.port).borrow().clone();
        match policy.authorize_request(client, request, Instant::now) {
            Ok(_) => None,
            Err(Denied::NoRoute { .. }) => Some(StatusCode::NOT_FOUND),
            Err(Denied::Unauthorized { .. }) => Some(StatusCode::FORBIDDEN),
            Err(Denied::RateLimited { .. }) => Some(StatusCode::TOO_MANY_REQUESTS),
            Err(Denied::InvalidPolicy { .. }) => Some(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        match self.metrics.encode() {
            Ok(metrics) => text(StatusCode::OK, metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode metrics: {error}\n")),
        }
    }

    fn connections(&self) -> Response<Full<Bytes>> {
        let identity = self.secured.get().and_then(|secured| secured.tls.identity());
        json(&self.connections.snapshot(identity))
    }

    fn trust(&self) -> Response<Full<Bytes>> {
        let Some(secured) = self.secured.get() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "there is no bundle yet\n");
        };
        let bundle = secured.bundle.borrow().clone();
        let credentials = secured.credentials.borrow().clone();
        let leaf = |credentials: Arc<Credentials>| {
            let intermediates = credentials.certified_key.cert.get(1..).unwrap_or_default();
            let anchor = bundle.vouching(&credentials.leaf, intermediates, SystemTime::now());
            LeafTold {
                serial: credentials.leaf.serial().into(),
                issuer: credentials.leaf.issuer().into(),
                expires_at: pki::seconds(credentials.not_after),
                anchor: anchor.map(Certificate::fingerprint),
            }
        };
        json(&ProxyTold {
            identity: secured.tls.identity().map(|identity| identity.to_string()),
            bundle: bundle.sha256_hex(),
            anchors: bundle.anchors().iter().map(AnchorTold::from).collect(),
            certificate: credentials.map(leaf),
            clock: secured.clock.last(),
        })
    }

    async fn log_level(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let Some(filter) = &self.filter else { return text(StatusCode::NOT_FOUND, "not found\n") };
        match *request.method() {
            Method::GET => text(StatusCode::OK, filter.current() + "\n"),
            Method::PUT => {
                let Ok(body) = Limited::new(request.into_body(), FILTER_BYTES_MAX).collect().await else {
                    return text(StatusCode::BAD_REQUEST, "cannot read the filter\n");
                };
                let directives = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
                match filter.set(&directives) {
                    Ok(()) => text(StatusCode::NO_CONTENT, ""),
                    Err(error) => text(StatusCode::BAD_REQUEST, format!("{error:#}\n")),
                }
            }
            _ => text(StatusCode::METHOD_NOT_ALLOWED, ""),
        }
    }

    fn shutdown(&self, method: &Method) -> Response<Full<Bytes>> {
        match (&self.shutdown, method) {
            (None, _) => text(StatusCode::NOT_FOUND, "not found\n"),
            (Some(shutdown), &Method::POST) => {
                shutdown.notify_one();
                text(StatusCode::OK, "shutdown\n")
            }
            (Some(_), _) => text(StatusCode::METHOD_NOT_ALLOWED, ""),
        }
    }
}

/// The variables that the proxy was started with; only those that `query` names, joined by `&`, where it names any.
fn environment(query: Option<&str>) -> Response<Full<Bytes>> {
    let wanted: Vec<&str> =
        query.into_iter().flat_map(|query| query.split('&')).filter(|name| !name.is_empty()).collect();
    let variables = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
    let shown = variables.filter(|(name, _)| wanted.is_empty() || wanted.contains(&name.as_str()));
    json(&shown.collect::<BTreeMap<_, _>>())
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let mut response = Response::new(Full::new(body.into()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode: {error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn admin(readiness: Readiness) -> Admin {
        Admin {
            connections: Table::default(),
            filter: None,
            metrics: Metrics::new(),
            port: 4191,
            readiness,
            secured: OnceLock::new(),
            shutdown: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_comes_too_early_is_answered_once_the_proxy_is_ready() {
        let readiness = Readiness::default();
        let certificate = readiness.block("the first certificate");
        let admin = admin(readiness);
        let certified = async {
            tokio::time::sleep(READY_WITHIN / 2).await;
            drop(certificate);
        };
        let (response, ()) = tokio::join!(admin.ready(), certified);
        assert_eq!(response.status(), StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_is_answered_before_the_kubelet_gives_it_up() {
        let readiness = Readiness::default();
        let _certificate = readiness.block("the first certificate");
        let admin = admin(readiness);
        let response = tokio::time::timeout(Duration::from_secs(1), admin.ready()).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn the_environment_is_told_as_far_as_it_is_asked_for() {
        let told = |query| async move {
            let body = environment(query).into_body().collect().await.unwrap().to_bytes();
            serde_json::from_slice::<BTreeMap<String, String>>(&body).unwrap()
        };
        assert!(told(None).await.contains_key("PATH"));
        assert_eq!(told(Some("PATH&NOT_SET")).await.into_keys().collect::<Vec<_>>(), ["PATH"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_was_ready_says_at_once_that_it_no_longer_is() {
        let readiness = Readiness::default();
        drop(readiness.block("the first certificate"));
        let _drain = readiness.block("the drain");
        let asked_at = tokio::time::Instant::now();
        assert_eq!(admin(readiness).ready().await.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(asked_at.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_probe_is_answered_however_many_hold_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, drain) = (listener.local_addr().unwrap(), Drain::new());
        drain.spawn(Arc::new(admin(Readiness::default())).serve(listener, drain.clone()));
        let asked = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /live HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
            let mut answer = [0; 15];
            tokio::time::timeout(Duration::from_secs(30), stream.read_exact(&mut answer)).await.unwrap().unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
            stream
        };
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX + 2 {
            held.push(asked().await);
        }
        asked().await;
        drain.start();
    }
}
