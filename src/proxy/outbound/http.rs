//! Carries the app's HTTP, and that of a gateway's clients: each request goes its own way.
//!
//! In: a stream known to speak HTTP/1 or HTTP/2, and the target it was opened to; or single requests, and what their client named. Out:
//! requests at endpoints, responses at the client.
//!
//! ```text
//!   request ─> route ─> filters ─> backend, by weight ─> endpoint, by load ─> response ─> outcome
//! ```
//!
//! Start at [`serve`], or at [`Requests::answer`].

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use http::header::{CONNECTION, HeaderName, HeaderValue, LOCATION};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::server::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rand::RngExt as _;
use tokio::sync::OwnedSemaphorePermit;

use super::{Outbound, http_routes, limits};
use crate::mesh::name::InvalidName;
use crate::mesh::policy::HeaderModifier;
use crate::mesh::{Name, Protocol};
use crate::net::stream::Stream;
use crate::proxy::backend::{self, Answer, Reach, Retried, Wish};
use crate::proxy::client;
use crate::proxy::client::http::Upgraded;
use crate::proxy::discovery::plan::{self, Failure, HttpFilter, HttpRule};
use crate::proxy::discovery::{self, Discovered};
use crate::proxy::http::headers;
use crate::proxy::http::{Body, Ends, Kept, Late, Open, UNSERVED, cause, grpc_status, reset, server};
use crate::proxy::metrics::{Counted, Event, Labels, Outcome, Started};
use crate::proxy::orig_proto;
use crate::proxy::respond::{self, Asked, DST_CANONICAL, PROXY_CONNECTION, PROXY_ERROR, Refusal};
use crate::proxy::tcp;
use crate::proxy::tls::end;
use crate::telemetry::error_chain;

/// From the app: which identity the server must have.
const REQUIRE_ID: HeaderName = HeaderName::from_static("l5d-require-id");
/// From an ingress: the service it wants.
const DST_OVERRIDE: HeaderName = HeaderName::from_static("l5d-dst-override");

/// What is the same for all requests of a connection.
pub struct Requests {
    outbound: Arc<Outbound>,
    discovered: Discovered,
    origin: Origin,
}

/// Whose requests they are.
enum Origin {
    App,
    /// A gateway's client's, whose connection stays on record for as long as what it has become, and sets an end to that.
    Client {
        open: Option<Arc<Open>>,
        ends_at: Option<tokio::time::Instant>,
    },
}

/// What counts a request until somebody is told how it ends: its route, by the policy and by the profile.
struct Counting {
    by_policy: Option<Counted>,
    by_profile: Option<Started>,
}

/// Why a request has no response from a server.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Backend(#[from] backend::Error),
    #[error("the policy of the target cannot be followed: {0}")]
    InvalidPolicy(String),
    #[error("cannot go where `l5d-dst-override` says")]
    Named(#[from] InvalidName),
    #[error("cannot discover the target")]
    Discovery(#[from] discovery::Error),
    #[error("no route of the target's policy matches the request")]
    NoRoute,
    #[error("it took too long ({0})")]
    Late(Late),
    #[error("the proxy of the client has too many requests under way")]
    InFlight,
    #[error("{1}")]
    Injected(StatusCode, String),
    #[error("{1}")]
    InjectedCall(i32, String),
    #[error("redirected to {1}")]
    Redirected(StatusCode, String),
}

/// Serves a connection until it ends, or gracefully closes it when the drain starts.
///
/// # Errors
/// Where the app breaks the protocol or the connection.
pub(super) async fn serve(
    outbound: Arc<Outbound>,
    discovered: Discovered,
    protocol: Protocol,
    stream: impl Stream + 'static,
) -> Result<(), hyper::Error> {
    let (drain, keep_alive) = (outbound.drain.clone(), outbound.options.keep_alive);
    let head_timeout = outbound.options.detect_timeout;
    let requests = Arc::new(Requests { outbound, discovered, origin: Origin::App });
    let mut http1 = http1::Builder::new();
    // Some clients close their half after the last request, and still want its response.
    http1.half_close(true);
    let answer = move |request| requests.clone().answer(request);
    server::carry(stream, protocol, &mut http1, keep_alive, head_timeout, drain, answer).await
}

impl Requests {
    /// The requests of a gateway's client, whose connection is on record at `open` and must end at `ends_at`, to what it named.
    pub fn of_client(
        outbound: Arc<Outbound>,
        discovered: Discovered,
        open: Option<Arc<Open>>,
        ends_at: Option<tokio::time::Instant>,
    ) -> Self {
        Self { outbound, discovered, origin: Origin::Client { open, ends_at } }
    }

    /// Answers one request.
    ///
    /// # Errors
    /// Where the server reset a stream, which hyper passes on as a reset.
    pub async fn answer(self: Arc<Self>, request: Box<Request<Body>>) -> Result<Response<Body>, hyper::Error> {
        let asked = Asked::of(&request);
        let is_native = request.version() == Version::HTTP_2;
        match self.forward(request, asked).await {
            Ok(response) => Ok(response),
            Err(Failed::Backend(backend::Error::Lost { source, .. })) if is_native && reset(&source).is_some() => {
                Err(source)
            }
            Err(failed) => Ok(self.refuse(asked, &failed)),
        }
    }

    async fn forward(&self, mut request: Box<Request<Body>>, asked: Asked) -> Result<Response<Body>, Failed> {
        let place = self.outbound.in_flight.clone().try_acquire_owned().map_err(|_| Failed::InFlight)?;
        let plan = match self.named(&mut request).await? {
            Some(named) => named.plan(),
            None => self.discovered.plan(),
        };
        let rule = rule(&plan, &request)?;
        let metrics = &self.outbound.metrics;
        let profiled = rule.profile.as_ref().map(|route| route.requests.start(metrics));
        let mut counted = Counting { by_policy: Some(rule.measured.start(metrics)), by_profile: profiled };
        let followed = Box::pin(self.follow(rule, request, asked, place, &mut counted)).await;
        // What has a response is counted to the end of its body.
        if let Err(failed) = &followed {
            counted.end(failed);
        }
        followed
    }

    /// Does with a request what its rule says.
    async fn follow(
        &self,
        rule: &HttpRule,
        mut request: Box<Request<Body>>,
        asked: Asked,
        place: OwnedSemaphorePermit,
        counted: &mut Counting,
    ) -> Result<Response<Body>, Failed> {
        let mut edits = Vec::new();
        filter(&rule.filters, &mut request, &mut edits)?;
        let picked = rule.backends.pick(&mut rand::rng()).ok_or(backend::Error::NoBackend)?;
        filter(&picked.filters, &mut request, &mut edits)?;

        let required = forget_words(request.headers_mut());
        let required = required.as_ref().map(|required| required.to_str().unwrap_or_default());
        let is_http11 = request.version() == Version::HTTP_11;
        let is_connect = request.method() == Method::CONNECT;
        let switches = is_connect || (request.version() != Version::HTTP_2 && !orig_proto::may_upgrade(&request));
        let app = switches.then(|| hyper::upgrade::on(&mut *request));
        if !switches {
            orig_proto::strip_connection_headers(request.headers_mut());
        }
        let profile = rule.profile.as_deref();
        if let Some(profile) = profile {
            request.headers_mut().insert(DST_CANONICAL, profile.canonical.clone());
        }
        let began_at = Instant::now();
        let limits = limits::of(rule, request.headers_mut());
        let sent = picked.measured.start(&self.outbound.metrics);
        let mut retried = Retried::of(profile, &self.outbound.metrics);
        let reach = match self.origin {
            Origin::App => Reach::Any,
            Origin::Client { .. } => Reach::OtherPods,
        };
        let wish = Wish { required, limits: &limits, reach };
        let answered = {
            let mut sending = pin!(picked.backend.send(request, wish, &mut retried));
            match limits.timeouts.request {
                None => sending.as_mut().await.map_err(Failed::Backend),
                Some(limit) => match tokio::time::timeout(limit, sending.as_mut()).await {
                    Ok(answered) => answered.map_err(Failed::Backend),
                    Err(_) => Err(Failed::Late(Late::Request)),
                },
            }
        };
        limits::count(&self.outbound.metrics, rule, &retried, answered.as_ref().ok());
        retried.done();
        let mut answer = match answered {
            Ok(answer) => answer,
            Err(failed) => {
                retried.end(|| failed.outcome_in_profile());
                sent.end(&failed.outcome());
                return Err(failed);
            }
        };
        counted.end_with(&mut answer.started, sent);

        for edit in edits {
            edit.modify(answer.response.headers_mut());
        }
        let told = answer.response.headers_mut();
        for name in [&PROXY_ERROR, &UNSERVED, &orig_proto::ORIG_PROTO] {
            headers::take(told, name);
        }
        let closes = headers::take(told, &PROXY_CONNECTION).is_some() && picked.backend.is_forward();
        let status = answer.response.status();
        let is_switched = status == StatusCode::SWITCHING_PROTOCOLS || (is_connect && status.is_success());
        match app {
            Some(app) if is_switched => Ok(self.switch(answer, app, asked, place)),
            _ => {
                orig_proto::strip_connection_headers(answer.response.headers_mut());
                if closes && is_http11 {
                    answer.response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                let time = limits::time(&limits.timeouts, began_at.into(), answer.whole_at);
                Ok(respond(answer, asked, place).map(|body| body.within(time)))
            }
        }
    }

    /// Where an ingress wants the request to go, if it says so. Its own idea of addresses is not the mesh's.
    async fn named(&self, request: &mut Request<Body>) -> Result<Option<Discovered>, Failed> {
        // No other app has a say in it, and no client of a gateway.
        let Some(name) = headers::take(request.headers_mut(), &DST_OVERRIDE) else { return Ok(None) };
        if !self.outbound.options.is_ingress || !matches!(self.origin, Origin::App) {
            return Ok(None);
        }
        let name: Name = name.to_str().unwrap_or_default().parse()?;
        // Few requests wait for it, and all have a place for it.
        Ok(Some(Box::pin(self.outbound.discovery.discover_name(&name)).await?))
    }

    /// Goes on with what the two ends have switched to.
    fn switch(&self, answer: Answer, app: OnUpgrade, asked: Asked, place: OwnedSemaphorePermit) -> Response<Body> {
        let Answer { mut response, beginning: _, started, client: _, pick, whole_at: _ } = answer;
        let server = hyper::upgrade::on(&mut response);
        let open = response.extensions_mut().remove::<Upgraded>();
        let drain = self.outbound.drain.clone();
        let (clients, clients_end) = match &self.origin {
            Origin::App => (None, None),
            Origin::Client { open, ends_at } => (open.clone(), *ends_at),
        };
        self.outbound.drain.spawn(async move {
            // A switched connection counts as load, and is on record, until it ends.
            let ends_at = [open.as_ref().and_then(|open| open.ends_at), clients_end].into_iter().flatten().min();
            let (_pick, _open, _clients, _place) = (pick, open, clients, place);
            let (app, server) = match tokio::try_join!(app, server) {
                Ok(switched) => switched,
                Err(error) => return tracing::debug!(%error, "a connection did not switch protocols"),
            };
            let carrying = tcp::carry(TokioIo::new(app), TokioIo::new(server), &drain);
            tokio::select! {
                carried = carrying => if let Err(error) = carried {
                    tracing::debug!(%error, "a switched connection broke");
                },
                () = end(ends_at) => tracing::debug!("a switched connection ends with its certificates"),
            }
        });
        let ends = Ends {
            started: Some(started),
            status: response.status().as_u16(),
            is_grpc: asked.is_grpc(),
            grpc_status: None,
            access: None,
            kept: Kept::until(|_| ()),
        };
        response.map(|_| Body::upgraded(ends))
    }

    /// The answer in a server's place.
    fn refuse(&self, asked: Asked, failed: &Failed) -> Response<Body> {
        let outbound = &self.outbound;
        let (status, label) = failed.status();
        if !label.is_empty() {
            let (target, error) = (&self.discovered.target.place, error_chain(failed));
            let labels = Labels::new([("error", label)]).and(&target.labels());
            outbound.metrics.count(Event::OutboundHttpErrors, &labels);
            match outbound.failures.is_due(Instant::now()) {
                Some(others) => tracing::info!(%target, error, others, "a request failed"),
                None => tracing::debug!(%target, error, "a request failed"),
            }
        }
        let is_ours = matches!(
            failed,
            Failed::Backend(_) | Failed::Discovery(_) | Failed::InFlight | Failed::InvalidPolicy(_) | Failed::Late(_)
        );
        let reason = outbound.options.tells_why.then(|| error_chain(failed));
        let mut response: Response<Body> = respond::refuse(asked, &Refusal { status, reason, closes: is_ours });
        let headers = response.headers_mut();
        headers.remove(PROXY_CONNECTION);
        match failed {
            Failed::Redirected(_, location) => {
                if let Ok(location) = HeaderValue::from_str(location) {
                    headers.insert(LOCATION, location);
                }
            }
            Failed::InjectedCall(code, message) => {
                headers.insert("grpc-status", HeaderValue::from(*code));
                if let Ok(message) = HeaderValue::from_str(message) {
                    headers.insert("grpc-message", message);
                }
            }
            _ => {}
        }
        response
    }
}

impl Counting {
    /// They end as `started` does; so does what counts the backend.
    fn end_with(&mut self, started: &mut Started, backend: Counted) {
        started.within([self.by_policy.take(), Some(backend)]);
        if let Some(by_profile) = self.by_profile.take() {
            started.also(by_profile);
        }
    }

    fn end(self, failed: &Failed) {
        if let Some(by_policy) = self.by_policy {
            by_policy.end(&failed.outcome());
        }
        if let Some(by_profile) = self.by_profile {
            by_profile.end(&failed.outcome_in_profile());
        }
    }
}

impl Failed {
    /// What the metrics of a profile's route make of it.
    fn outcome_in_profile(&self) -> Outcome {
        let error = match self {
            Self::Backend(backend::Error::Lost { source, .. }) => cause(source).into(),
            Self::Late(_) | Self::Backend(backend::Error::Late { .. }) => "timeout".into(),
            _ => "unclassified".into(),
        };
        Outcome { status: 0, grpc_status: None, error }
    }

    /// What the app is answered, and the label of a failure that is not policy's will.
    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Backend(error) => of_backend(error),
            Self::InvalidPolicy(_) => (StatusCode::INTERNAL_SERVER_ERROR, "unexpected"),
            Self::Named(_) => (StatusCode::BAD_REQUEST, "unexpected"),
            Self::Discovery(error) => error.status(),
            Self::NoRoute => (StatusCode::NOT_FOUND, "unexpected"),
            Self::InFlight => (StatusCode::SERVICE_UNAVAILABLE, "loadshed"),
            Self::Late(_) => (StatusCode::GATEWAY_TIMEOUT, "response timeout"),
            Self::Injected(status, _) | Self::Redirected(status, _) => (*status, ""),
            Self::InjectedCall(..) => (StatusCode::OK, ""),
        }
    }

    /// What the metrics of the route make of it.
    fn outcome(&self) -> Outcome {
        let (status, label) = self.status();
        match self {
            Self::Backend(backend::Error::Lost { source, .. }) if reset(source).is_some() => {
                Outcome { status: 0, grpc_status: None, error: cause(source).into() }
            }
            Self::InjectedCall(code, _) => {
                Outcome { status: status.as_u16(), grpc_status: u16::try_from(*code).ok(), error: "".into() }
            }
            Self::Late(late) | Self::Backend(backend::Error::Late { late, .. }) => {
                Outcome { status: 0, grpc_status: None, error: late.label().into() }
            }
            _ if label.is_empty() => Outcome { status: status.as_u16(), grpc_status: None, error: "".into() },
            _ => Outcome { status: 0, grpc_status: None, error: label.into() },
        }
    }
}

/// The rule of a request, by the protocol that it came in.
fn rule<'a>(plan: &'a plan::Plan, request: &Request<Body>) -> Result<&'a HttpRule, Failed> {
    if let plan::Protocol::Invalid(reason) = &plan.protocol {
        return Err(Failed::InvalidPolicy(reason.clone()));
    }
    let protocol = if request.version() == Version::HTTP_2 { Protocol::Http2 } else { Protocol::Http1 };
    http_routes(plan, protocol).and_then(|routes| routes.find(request)).ok_or(Failed::NoRoute)
}

fn of_backend(error: &backend::Error) -> (StatusCode, &'static str) {
    match error {
        backend::Error::NoEndpoint { .. } => (StatusCode::GATEWAY_TIMEOUT, "failfast"),
        backend::Error::Late { .. } => (StatusCode::GATEWAY_TIMEOUT, "response timeout"),
        backend::Error::QueueFull { .. } => (StatusCode::SERVICE_UNAVAILABLE, "loadshed"),
        backend::Error::IdentityRequired { .. } => (StatusCode::BAD_GATEWAY, "identity required"),
        backend::Error::Unreachable { tried } => match tried.last().map(|(_, error)| &**error) {
            Some(client::Error::Timeout { .. }) => (StatusCode::GATEWAY_TIMEOUT, "i/o"),
            _ => (StatusCode::BAD_GATEWAY, "i/o"),
        },
        backend::Error::Lost { .. } => (StatusCode::BAD_GATEWAY, "i/o"),
        backend::Error::OwnPod { .. } | backend::Error::NoBackend | backend::Error::Unresolvable { .. } => {
            (StatusCode::BAD_GATEWAY, "unexpected")
        }
    }
}

/// The server's response, whose end is the request's outcome.
fn respond(answer: Answer, asked: Asked, place: OwnedSemaphorePermit) -> Response<Body> {
    let Answer { response, beginning, started, client, pick, whole_at: _ } = answer;
    // Until the body has passed, the request is under way, and counts as load on its endpoint.
    let mut held = Some((place, client, pick));
    let ends = Ends {
        started: Some(started),
        status: response.status().as_u16(),
        is_grpc: asked.is_grpc(),
        grpc_status: grpc_status(response.headers()),
        access: None,
        kept: Kept::until(move |_| drop(held.take())),
    };
    response.map(|incoming| match beginning {
        None => Body::streamed(incoming, ends),
        Some(beginning) => Body::peeked(beginning, incoming, ends),
    })
}

/// Takes what proxies are told in headers: by the app, which identity it requires of the server, and by each other, which no app has a say in. An
/// app that passes on the headers of the request it serves would have its server's proxy believe that this one is for the same target.
fn forget_words(headers: &mut HeaderMap) -> Option<HeaderValue> {
    // Hardly any request has one.
    if !headers::has_any_of(headers, "l5d-") {
        return None;
    }
    for name in [&orig_proto::ORIG_PROTO, &DST_CANONICAL] {
        headers::take(headers, name);
    }
    headers::take(headers, &REQUIRE_ID)
}

/// Does what the filters say, in their order; what is to be done to the response comes into `edits`.
fn filter<'a>(
    filters: &'a [HttpFilter],
    request: &mut Request<Body>,
    edits: &mut Vec<&'a HeaderModifier>,
) -> Result<(), Failed> {
    for filter in filters {
        match filter {
            HttpFilter::Fail { with, ratio } => {
                if rand::rng().random_range(0..ratio.denominator) < ratio.numerator {
                    return Err(match with {
                        Failure::Http(status, message) => Failed::Injected(*status, message.clone()),
                        Failure::Grpc(code, message) => Failed::InjectedCall(*code, message.clone()),
                    });
                }
            }
            HttpFilter::RequestHeaders(edit) => edit.modify(request.headers_mut()),
            HttpFilter::ResponseHeaders(edit) => edits.push(edit),
            HttpFilter::Redirect(redirect) => {
                let location = redirect.location(request.uri(), request.headers());
                return Err(Failed::Redirected(redirect.status, location));
            }
        }
    }
    Ok(())
}
