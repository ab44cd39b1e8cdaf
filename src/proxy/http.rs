//! Carries a client's HTTP to the app, or on through a gateway: one authorization, one set of headers, one outcome per request.
//!
//! In: a stream known to speak HTTP/1 or HTTP/2, and what is known of its client. Out: requests at the app, responses at the client. Bodies
//! stream through, never collected; resets, trailers, upgrades and tunnels pass.
//!
//! ```text
//!   request ─> authorize ─> client's identity ─> what it was before HTTP/2 ─> app ─> response ─> outcome
//!                       └─> (onward.rs)  what it was before HTTP/2 ─> gateway ─┘
//! ```
//!
//! Start at [`serve`].

mod app;
mod body;
mod dialled;
pub mod headers;
mod heads;
pub mod host;
mod idle;
pub mod interim;
mod onward;
pub mod peek;
pub mod repeat;
pub mod sender;
pub mod server;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{HOST, HeaderName, HeaderValue, LOCATION, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

pub use app::{Apps, Error as AppError, Options as AppOptions};
pub use body::{Body, Ends, Kept, Late, Time, cause, grpc_status, outcome, reset};
pub use dialled::Dialled;
pub use repeat::{UNSERVED, Unserved};

use super::access_log::{AccessLog, Entry};
use super::connections;
use super::gateway::{self, Onward};
use super::metrics::{Event, Labels, Measured, Metrics, Outcome, Requests, Scope, Started, Transport};
use super::orig_proto::{self, OrigProto};
use super::profiles::{Lately, Profiles};
use super::respond::{self, Asked, Refusal};
use super::tcp;
use super::tls::{ENDING_MAX, end};
use crate::manifest::names;
use crate::mesh::Protocol;
use crate::mesh::connection::Direction;
use crate::mesh::meta::Meta;
use crate::mesh::policy::{Client, ClientTls, Denied, Filter, Permit, Ratio, ServerPolicy};
use crate::net::drain::Drain;
use crate::net::seldom::Seldom;
use crate::net::stream::Stream;
use crate::telemetry::error_chain;
use crate::telemetry::series::Counter;

/// Who the client is, by its certificate: for the app to read, and for no client to write.
pub const CLIENT_ID: HeaderName = HeaderName::from_static("l5d-client-id");
/// Where the client is, for apps that are told.
const CLIENT_IP: HeaderName = HeaderName::from_static(names::CLIENT_IP);
/// What one HTTP/2 stream, and all streams of a connection together, may have under way unread, towards peers and the app alike: as the
/// proxies of this mesh have it. Discovery may say otherwise for an endpoint.
pub const HTTP2_STREAM_WINDOW: u32 = 65_535;
pub const HTTP2_CONNECTION_WINDOW: u32 = 1_048_576;
/// The head of a request or response: what servers in common use take at most, and the same wherever a proxy reads one, so that none is
/// carried half the way.
pub const HEADERS_MAX: usize = 64 * 1024;
/// Kinds of requests (by route and authorization) whose metrics a connection remembers; policies have a few.
const KINDS_MAX: usize = 32;

/// What is the same for all inbound HTTP.
#[derive(Clone, Debug)]
pub struct Http {
    pub apps: Apps,
    pub metrics: Metrics,
    pub drain: Drain,
    /// Places for requests under way.
    pub in_flight: Arc<Semaphore>,
    pub failures: Arc<Seldom>,
    /// How often HTTP/2 clients are pinged, and how long they may take to answer; zero for never.
    pub keep_alive: (Duration, Duration),
    /// Whether the app is told the address of each client.
    pub tells_client_ip: bool,
    /// Where requests are logged, if they are.
    pub access_log: Option<AccessLog>,
    /// By whose routes requests are counted, if they are.
    pub profiles: Option<Profiles>,
    /// How long a client may leave a head unfinished.
    pub head_timeout: Duration,
}

/// What is the same for all requests of a connection.
pub struct Session {
    pub http: Http,
    pub client: Client,
    /// What the app is told of the client in the headers of each request, as it is written there.
    pub told: Told,
    /// Where the app listens.
    pub target: SocketAddr,
    /// Where requests go instead of to the app, of a client of a gateway. On the heap, for few connections have it.
    pub onward: Option<Box<Onward>>,
    pub policy: watch::Receiver<Arc<ServerPolicy>>,
    /// The labels of everything on this connection.
    pub labels: Labels,
    /// Where the connection is on record; none for one that does not come from the network.
    pub open: Option<Arc<Open>>,
    /// The connection to the app that detection made, for the first request.
    pub dialled: Mutex<Option<Box<dyn Stream>>>,
    pub kinds: Mutex<Vec<Kind>>,
    /// When the connection must have ended; then [`Http::drain`] is its own.
    pub ends_at: Option<tokio::time::Instant>,
    /// The profiles of what its requests were for.
    pub lately: Lately,
}

/// Who a client is, and where, for those who may know.
#[derive(Debug)]
pub struct Told {
    identity: Option<HeaderValue>,
    ip: Option<HeaderValue>,
}

impl Told {
    /// Where it is only if `tells_ip`.
    pub fn of(client: &Client, tells_ip: bool) -> Self {
        let identity = match &client.tls {
            ClientTls::Terminated(Some(identity)) => HeaderValue::from_str(identity.as_str()).ok(),
            _ => None,
        };
        let ip = tells_ip.then(|| HeaderValue::from_str(&client.address.ip().to_string()).ok()).flatten();
        Self { identity, ip }
    }
}

/// Where a connection is on record until it ends.
#[derive(Debug)]
pub struct Open {
    pub entry: connections::Entry,
    pub transport: Transport,
}

/// Requests that share their metrics.
#[derive(Clone, Debug)]
pub struct Kind {
    route: Option<Arc<Meta>>,
    authorization: Arc<Meta>,
    requests: Requests,
    allowed: Counter,
    measured: Arc<Measured>,
}

impl Kind {
    /// Counts a request of this kind now, and what becomes of it when told.
    fn start(&self, metrics: &Metrics) -> Started {
        self.allowed.inc();
        let mut started = self.requests.start();
        started.within([Some(self.measured.start(metrics)), None]);
        started
    }
}

/// Serves a connection until it ends, or gracefully closes it when the drain starts.
///
/// # Errors
/// Where the client breaks the protocol or the connection.
pub async fn serve(session: Session, protocol: Protocol, stream: impl Stream + 'static) -> Result<(), hyper::Error> {
    let (drain, keep_alive, head_timeout, ends_at) =
        (session.http.drain.clone(), session.http.keep_alive, session.http.head_timeout, session.ends_at);
    let session = Arc::new(session);
    let answer = move |request| {
        let session = session.clone();
        async move { session.answer(request).await }
    };
    let mut http1 = http1::Builder::new();
    http1.preserve_header_case(true);
    let serving = server::carry(stream, protocol, &mut http1, keep_alive, head_timeout, drain.clone(), answer);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        served = serving.as_mut() => return served,
        () = end(ends_at) => drain.start(),
    }
    tokio::time::timeout(ENDING_MAX, serving).await.unwrap_or(Ok(()))
}

/// Why a request was not answered by the app.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Gateway(#[from] gateway::Error),
    #[error("the proxy of the server has too many requests under way")]
    InFlight,
    #[error("{message}")]
    Injected { status: StatusCode, message: String },
    #[error("{message}")]
    InjectedCall { code: i32, message: String },
    #[error("redirected to {location}")]
    Redirected { status: StatusCode, location: String },
}

impl Failed {
    /// Why the server reset the request's stream, if it did.
    fn reset(&self) -> Option<h2::Reason> {
        match self {
            Self::App(error) => reset(error),
            Self::Gateway(gateway::Error::Reset(error)) => reset(error),
            _ => None,
        }
    }
}

/// What came of sending a request to the app.
struct Sent {
    answered: app::Answered,
    app: Arc<app::App>,
    /// Where the request asked for another protocol: the client's end of it.
    switching: Option<OnUpgrade>,
}

impl Session {
    /// Answers one request. The error is a stream that the server reset, which hyper passes on as a reset.
    async fn answer(self: Arc<Self>, request: Box<Request<Body>>) -> Result<Response<Body>, Failed> {
        if let Some(open) = &self.open {
            open.entry.add_request();
        }
        let asked = Asked::of(&request);
        let mut access = self.http.access_log.as_ref().map(|log| log.begin(&self.client, &request));
        let response = self.clone().answer_logged(request, asked, &mut access).await;
        // What ended without a body to wait for ends here.
        if let (Some(access), Ok(response)) = (&mut access, &response) {
            access.answered(response.status());
        }
        response
    }

    async fn answer_logged(
        self: Arc<Self>,
        request: Box<Request<Body>>,
        asked: Asked,
        access: &mut Option<Box<Entry>>,
    ) -> Result<Response<Body>, Failed> {
        let policy = self.policy.borrow().clone();
        let permit = match policy.authorize_request(&self.client, &request, Instant::now) {
            Ok(permit) => permit,
            Err(denied) => {
                self.count_denied(&policy, &denied);
                return Ok(self.refuse(asked, &denied.into(), None));
            }
        };
        // What a gateway takes on is counted on its way out.
        let by_profile = match (&self.http.profiles, &self.onward) {
            (Some(profiles), None) => self.lately.counted(profiles, &request, &self.http.metrics).await,
            _ => None,
        };
        let mut started = self.kind(&permit).start(&self.http.metrics);
        if let Some(by_profile) = by_profile {
            started.also(by_profile);
        }
        let failed = match &self.onward {
            None => match self.forward(&permit, request).await {
                Ok((sent, was, place)) => return Ok(self.respond(sent, asked, was, started, place, access.take())),
                Err(failed) => failed,
            },
            Some(onward) => match Box::pin(self.pass_on(onward, &permit, request)).await {
                Ok(returned) => return Ok(self.pass_back(returned, asked, started, access.take())),
                Err(failed) => failed,
            },
        };
        match failed.reset().filter(|_| asked.is_http2()) {
            Some(reason) => {
                started.end(&Outcome { status: 0, grpc_status: None, error: format!("h2({reason:?})").into() });
                Err(failed)
            }
            None => Ok(self.refuse(asked, &failed, Some(started))),
        }
    }

    async fn forward(
        &self,
        permit: &Permit,
        mut request: Box<Request<Body>>,
    ) -> Result<(Sent, Option<OrigProto>, OwnedSemaphorePermit), Failed> {
        let place = self.http.in_flight.clone().try_acquire_owned().map_err(|_| Failed::InFlight)?;
        filter(permit, &mut request)?;
        self.identify(request.headers_mut());
        let was = orig_proto::downgrade_request(&mut request);
        Ok((self.send(request).await?, was, place))
    }

    /// Tells the app who the client is, whatever the client says.
    fn identify(&self, headers: &mut HeaderMap) {
        forget_client_id(headers);
        if let Some(identity) = &self.told.identity {
            headers.insert(CLIENT_ID, identity.clone());
        }
        if let Some(ip) = &self.told.ip {
            headers.insert(CLIENT_IP, ip.clone());
        }
    }

    async fn send(&self, mut request: Box<Request<Body>>) -> Result<Sent, AppError> {
        let app = self.http.apps.of(self.target);
        let dialled = self.dialled.lock().unwrap_or_else(PoisonError::into_inner).take();
        let switches = request.method() == Method::CONNECT || headers::has(request.headers(), &UPGRADE);
        let switching = switches.then(|| hyper::upgrade::on(&mut *request));
        if !switches {
            orig_proto::strip_connection_headers(request.headers_mut());
        }
        let answered = if request.version() == Version::HTTP_2 {
            self.set_authority(&mut request);
            app.send_http2(request, dialled).await?
        } else {
            app.send_http1(request, dialled).await?
        };
        Ok(Sent { answered, app, switching })
    }

    /// HTTP/2 needs an authority; a client that named none meant the address it connected to.
    fn set_authority(&self, request: &mut Request<Body>) {
        if request.uri().authority().is_some() && request.uri().scheme().is_some() {
            return;
        }
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).and_then(|host| host.parse().ok());
        let target = || self.target.to_string().parse::<Authority>().ok();
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = parts.authority.or(host).or_else(target);
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }

    fn respond(
        self: &Arc<Self>,
        sent: Sent,
        asked: Asked,
        was: Option<OrigProto>,
        started: Started,
        place: OwnedSemaphorePermit,
        mut access: Option<Box<Entry>>,
    ) -> Response<Body> {
        let Sent { answered, app, switching } = sent;
        let app::Answered { mut response, mut connection } = answered;
        respond::forget_proxies_words(response.headers_mut());
        if let Some(access) = &mut access {
            access.answered(response.status());
        }
        let mut ends = Ends {
            started: Some(started),
            status: response.status().as_u16(),
            is_grpc: asked.is_grpc(),
            grpc_status: grpc_status(response.headers()),
            access,
            kept: Kept::until(|_| ()),
        };
        if let Some(client) = switching.filter(|_| has_switched(&response, asked)) {
            let app = hyper::upgrade::on(&mut response);
            let session = self.clone();
            self.http.drain.spawn(async move {
                session.tunnel(client, app).await;
                drop((connection, place));
            });
            return response.map(|_| Body::upgraded(ends));
        }
        let mut place = Some(place);
        ends.kept = Kept::until(move |whole| {
            drop(place.take());
            if let (true, Some(sender)) = (whole, connection.take()) {
                app.keep(sender);
            }
        });
        match was {
            Some(_) => orig_proto::upgrade_response(&mut response),
            None => orig_proto::strip_connection_headers(response.headers_mut()),
        }
        response.map(|incoming| Body::streamed(incoming, ends))
    }

    /// Carries what two connections have become. The session is held, so that the connection stays listed.
    async fn tunnel(&self, client: OnUpgrade, app: OnUpgrade) {
        let (client, app) = match tokio::try_join!(client, app) {
            Ok(switched) => switched,
            Err(error) => return tracing::debug!(%error, "a connection did not switch protocols"),
        };
        let carrying = tcp::carry(TokioIo::new(client), TokioIo::new(app), &self.http.drain);
        tokio::select! {
            carried = carrying => if let Err(error) = carried {
                tracing::debug!(%error, "a switched connection broke");
            },
            () = end(self.ends_at) => tracing::debug!("a switched connection ends with its certificates"),
        }
    }

    fn refuse(&self, asked: Asked, failed: &Failed, started: Option<Started>) -> Response<Body> {
        let (status, closes) = match failed {
            Failed::App(AppError::Connect { .. } | AppError::Lost { .. } | AppError::Ended { .. }) => {
                (StatusCode::BAD_GATEWAY, true)
            }
            Failed::App(AppError::ConnectTimeout { .. }) => (StatusCode::GATEWAY_TIMEOUT, true),
            Failed::Denied(Denied::NoRoute { .. }) => (StatusCode::NOT_FOUND, false),
            Failed::Denied(Denied::Unauthorized { .. }) => (StatusCode::FORBIDDEN, false),
            Failed::Denied(Denied::RateLimited { .. }) => (StatusCode::TOO_MANY_REQUESTS, false),
            Failed::Denied(Denied::InvalidPolicy { .. }) => (StatusCode::INTERNAL_SERVER_ERROR, true),
            Failed::Gateway(error) => {
                let (status, closes, _) = error.status();
                (status, closes)
            }
            Failed::InFlight => (StatusCode::SERVICE_UNAVAILABLE, true),
            Failed::Injected { status, .. } | Failed::Redirected { status, .. } => (*status, false),
            Failed::InjectedCall { .. } => (StatusCode::OK, false),
        };
        let why = error_chain(failed);
        tracing::debug!(client = %self.client.address, target = %self.target, error = why, "a request was not served");
        if closes || matches!(failed, Failed::Gateway(_)) {
            if let Some(others) = self.http.failures.is_due(Instant::now()) {
                tracing::info!(client = %self.client.address, target = %self.target, error = why, others, "a request failed");
            }
            let label = match failed {
                Failed::App(AppError::ConnectTimeout { .. }) => "failfast",
                Failed::App(_) => "i/o",
                Failed::Gateway(error) => error.label(),
                Failed::InFlight => "loadshed",
                _ => "unexpected",
            };
            let labels = Labels::new([("error", label)]).and(&Labels::target(self.target));
            self.http.metrics.count(Event::InboundHttpErrors, &labels);
        }
        let is_meshed = matches!(self.client.tls, ClientTls::Terminated(Some(_)));
        let mut response: Response<Body> =
            respond::refuse(asked, &Refusal { status, reason: is_meshed.then_some(why), closes });
        match failed {
            Failed::App(error) if is_meshed => {
                if let Some(unserved) = error.unserved(asked.is_idempotent()) {
                    response.headers_mut().insert(UNSERVED, unserved.header());
                }
            }
            Failed::InjectedCall { code, message } => {
                response.headers_mut().insert("grpc-status", HeaderValue::from(*code));
                if let Ok(message) = HeaderValue::from_str(message) {
                    response.headers_mut().insert("grpc-message", message);
                }
            }
            Failed::Redirected { location, .. } => {
                if let Ok(location) = HeaderValue::from_str(location) {
                    response.headers_mut().insert(LOCATION, location);
                }
            }
            _ => {}
        }
        if let Some(started) = started {
            started.end(&outcome(&response));
        }
        response
    }

    /// The metrics of requests permitted alike.
    fn kind(&self, permit: &Permit) -> Kind {
        let same = |kind: &&Kind| {
            let same_route = match (&kind.route, permit.route()) {
                (Some(known), Some(route)) => Arc::ptr_eq(known, route),
                (None, None) => true,
                _ => false,
            };
            same_route && Arc::ptr_eq(&kind.authorization, permit.authorization())
        };
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kind) = kinds.iter().find(same) {
            return kind.clone();
        }
        let route = permit.route().map_or_else(Labels::none, |route| Labels::meta("route", route));
        let parent = Labels::meta("parent", permit.server());
        let parent = parent.and(&Labels::new([("parent_port", self.target.port().to_string())]));
        let labels = Labels::server(permit.server(), self.target.port()).and(&route);
        let labels = self.labels.and(&labels).and(&Labels::meta("authz", permit.authorization()));
        let kind = Kind {
            route: permit.route().cloned(),
            authorization: permit.authorization().clone(),
            allowed: self.http.metrics.counter(Event::InboundHttpAllowed, &labels),
            requests: self.http.metrics.requests(Labels::direction(Direction::Inbound).and(&labels)),
            measured: Measured::new(Scope::InboundHttpRoute, parent.and(&route)),
        };
        if permit.is_audit() {
            tracing::info!(client = %self.client.address, target = %self.target, "permitted by the audit policy only");
        }
        if kinds.len() < KINDS_MAX {
            kinds.push(kind.clone());
        }
        kind
    }

    fn count_denied(&self, policy: &ServerPolicy, denied: &Denied) {
        let labels = self.labels.and(&Labels::server(&policy.meta, self.target.port()));
        let (event, labels) = match denied {
            Denied::NoRoute { .. } => (Event::InboundHttpRouteNotFound, labels),
            Denied::Unauthorized { route: Some(route), .. } => {
                (Event::InboundHttpDenied, labels.and(&Labels::meta("route", route)))
            }
            Denied::RateLimited { by, exceeded, .. } => {
                let labels = by.iter().fold(labels, |labels, by| labels.and(&Labels::meta("ratelimit", by)));
                (Event::InboundHttpRateLimited, labels.and(&Labels::new([("ratelimit_scope", exceeded.as_str())])))
            }
            Denied::Unauthorized { .. } | Denied::InvalidPolicy { .. } => (Event::InboundHttpDenied, labels),
        };
        self.http.metrics.count(event, &labels);
    }
}

/// Removes who a client says it is, under whatever name an app might read it.
fn forget_client_id(headers: &mut HeaderMap) {
    headers::take(headers, &CLIENT_ID);
    // Gateways to apps (CGI, WSGI) make one name of those that differ by this only, and a client may write either.
    let aliases: Vec<HeaderName> = headers.keys().filter(|name| is_alias(name)).cloned().collect();
    for alias in aliases {
        headers.remove(alias);
    }
}

/// Whether an app may take a header for [`CLIENT_ID`] that is another.
fn is_alias(name: &HeaderName) -> bool {
    let alike = |(own, other): (u8, u8)| own == other || (own == b'-' && other == b'_');
    name.as_str().len() == CLIENT_ID.as_str().len() && CLIENT_ID.as_str().bytes().zip(name.as_str().bytes()).all(alike)
}

fn has_switched(response: &Response<Incoming>, asked: Asked) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS || (asked.is_connect() && response.status().is_success())
}

/// Does what the rule says, in its order.
fn filter(permit: &Permit, request: &mut Request<Body>) -> Result<(), Failed> {
    for filter in permit.filters() {
        match filter {
            Filter::Fail { status, message, ratio } if strikes(*ratio) => {
                return Err(Failed::Injected { status: *status, message: message.clone() });
            }
            Filter::FailCall { code, message, ratio } if strikes(*ratio) => {
                return Err(Failed::InjectedCall { code: *code, message: message.clone() });
            }
            Filter::Fail { .. } | Filter::FailCall { .. } => {}
            Filter::Redirect(redirect) => {
                let location = redirect.location(request.uri(), request.headers());
                return Err(Failed::Redirected { status: redirect.status, location });
            }
            Filter::RequestHeaders(modifier) => modifier.modify(request.headers_mut()),
        }
    }
    Ok(())
}

fn strikes(ratio: Ratio) -> bool {
    rand::random_range(0..ratio.denominator.max(1)) < ratio.numerator
}
