//! One backend of a target: the endpoints behind an authority, or the one address that policy names.
//!
//! In: a request or a connection. Out: its response or its stream, from an endpoint that could be reached. What was never sent goes to
//! another endpoint; an endpoint that cannot be reached is left out at once and knocked at, with growing pauses, until it
//! answers. When there is no endpoint, everyone waits for one, but nobody longer than the failfast timeout counted from when
//! there was the last: so an outage costs its first callers that much, and later ones nothing. Only so many wait at a time.
//!
//! What policy says of time limits and of retries is done here, for each attempt; the limits of the whole request and of its response's body are
//! the caller's.
//!
//! Start at [`Backend::send`] and [`Backend::connect`].

mod attempt;
mod error;
mod probe;
mod queue;
mod tries;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use error::Error;
pub use queue::{Queue, Queues};
pub use tries::{Profiled, Retried};

use super::balance::{Balancer, Ewma, Pick};
use super::client::http::Client;
use super::client::{self, Connection, Connector};
use super::discovery::endpoints::{Endpoints, Updates};
use super::http::peek::Beginning;
use super::http::repeat::{self, Again, Unserved};
use super::http::{Body, grpc_status, headers, outcome};
use super::metrics::{Outcome, Started};
use super::respond::PROXY_ERROR;
use crate::mesh::endpoint::Server;
use crate::mesh::limits::{Accrual, Limits};
use crate::mesh::{Endpoint, Protocol};
use crate::net::fair;
use crate::wire::destination::Update;
use attempt::{Broken, Head};
use queue::Place;
use tries::Tries;

/// Between two looks at endpoints that are being tried after a rest.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What policy says of a backend. Equal ones are the same backend.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// The endpoints of `authority`, as `Destination.Get` tells them.
    Balance {
        authority: String,
        ewma: Ewma,
        accrual: Option<Accrual>,
    },
    Forward(Box<Endpoint>),
    /// Nothing can be sent there.
    Fail,
}

/// What is wished of the answer to a request.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Who must give it.
    pub required: Option<&'a str>,
    pub limits: &'a Limits,
    pub reach: Reach,
}

/// Which endpoints are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    Any,
    /// Those of other pods. This pod's own ports are reached past the policy that others meet there, which is for its own app to do.
    OtherPods,
}

/// Where requests and connections go.
#[derive(Debug)]
pub struct Backend {
    pub spec: Spec,
    kind: Kind,
    /// Whether the stream about its endpoints is interrupted: 1 or 0.
    pub interrupted: Arc<AtomicUsize>,
    queues: Queues,
    connector: Arc<Connector>,
    /// Ends the tasks of this backend with it.
    stopped: CancellationToken,
    _stop: DropGuard,
}

/// The endpoints of a backend by whether requests go there now, how many wait for one, and what was told of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Census {
    pub ready: usize,
    pub pending: usize,
    pub waiting: usize,
    pub updates: Updates,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "backends are few, and each is on the heap")]
enum Kind {
    Balance(Balance),
    Forward(Arc<Client>),
    Fail,
}

#[derive(Debug)]
struct Balance {
    authority: Arc<str>,
    state: Mutex<State>,
    /// Tells those who wait for an endpoint that there may be one.
    changed: watch::Sender<()>,
    /// How many wait.
    waiting: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct State {
    endpoints: Endpoints,
    balancer: Balancer<Client>,
    /// Since when there has been nothing to pick, as noticed by somebody who wanted to.
    starved_at: Option<Instant>,
    /// What the control plane refused to tell, for good.
    refused: Option<String>,
}

/// A response, and who gave it; dropping this says that the endpoint is done with the request.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<Incoming>,
    /// What has been read of its body.
    pub beginning: Option<Box<Beginning>>,
    pub started: Started,
    /// Where the answer comes from.
    pub client: Arc<Client>,
    pub pick: Option<Pick<Client>>,
    /// Since when the request has been there in full, where its limits need to know.
    pub whole_at: Option<Instant>,
}

impl Answer {
    /// What became of a call, as far as that is known yet.
    pub fn grpc_status(&self) -> Option<u16> {
        call_status(&self.response, self.beginning.as_deref())
    }
}

/// A connection to carry bytes, and the endpoint it counts for.
#[derive(Debug)]
pub struct Opened {
    pub connection: Connection,
    pub client: Arc<Client>,
    pub pick: Option<Pick<Client>>,
}

impl Backend {
    pub fn new(spec: Spec, connector: Arc<Connector>, queues: Queues) -> Self {
        let kind = match &spec {
            Spec::Balance { authority, ewma, accrual } => Kind::Balance(Balance {
                authority: authority.as_str().into(),
                state: Mutex::new(State {
                    endpoints: Endpoints::default(),
                    balancer: Balancer::new(*ewma, *accrual),
                    starved_at: None,
                    refused: None,
                }),
                changed: watch::Sender::default(),
                waiting: Arc::default(),
            }),
            Spec::Forward(endpoint) => {
                Kind::Forward(Arc::new(Client::new(connector.clone(), (**endpoint).clone(), None)))
            }
            Spec::Fail => Kind::Fail,
        };
        let stopped = CancellationToken::new();
        let stop = stopped.clone().drop_guard();
        Self { spec, kind, interrupted: Arc::default(), queues, connector, stopped, _stop: stop }
    }

    /// Cancelled when nobody holds the backend any more.
    pub fn stopped(&self) -> CancellationToken {
        self.stopped.clone()
    }

    /// Whether this leads to one address that the app chose itself.
    pub fn is_forward(&self) -> bool {
        matches!(self.kind, Kind::Forward(_))
    }

    /// Notes what `Destination.Get` says.
    pub fn update(&self, update: Update) {
        let Kind::Balance(balance) = &self.kind else { return };
        let now = std::time::Instant::now();
        let mut state = balance.lock();
        let change = state.endpoints.apply(update);
        for address in change.removed {
            state.balancer.remove(address);
        }
        // What is there at first has nobody to be slower than.
        let joins = !state.balancer.is_empty();
        for endpoint in change.set {
            let address = endpoint.address;
            let client = Client::new(self.connector.clone(), endpoint, Some(balance.authority.clone()));
            state.balancer.set(address, Arc::new(client), joins, now);
        }
        drop(state);
        balance.changed.send_replace(());
    }

    /// What a balancer has, for whoever wants to know; none where there is none.
    pub fn census(&self) -> Option<Census> {
        let Kind::Balance(balance) = &self.kind else { return None };
        let state = balance.lock();
        let ready = state.balancer.ready(std::time::Instant::now());
        let pending = state.balancer.items().count().saturating_sub(ready);
        let updates = state.endpoints.updates();
        Some(Census { ready, pending, waiting: balance.waiting.load(Ordering::Relaxed), updates })
    }

    /// Notes that a new stream of `Destination.Get` begins: its first message is the whole truth.
    pub fn updates_anew(&self) {
        if let Kind::Balance(balance) = &self.kind {
            balance.lock().endpoints.lost();
        }
    }

    /// Notes that the control plane will not say anything about this backend, however often it is asked.
    pub fn refuse(&self, reason: String) {
        if let Kind::Balance(balance) = &self.kind {
            balance.lock().refused = Some(reason);
            balance.changed.send_replace(());
        }
    }

    /// Closes connections that have been idle for too long.
    pub fn sweep(&self) {
        match &self.kind {
            Kind::Balance(balance) => balance.lock().balancer.items().for_each(|client| client.sweep()),
            Kind::Forward(client) => client.sweep(),
            Kind::Fail => {}
        }
    }

    /// Sends a request to an endpoint. What its app has not served goes to another one, or after a pause to the only one; so does, as often
    /// as is wished, what it has served badly.
    ///
    /// # Errors
    /// Where no endpoint answers.
    pub async fn send(
        self: &Arc<Self>,
        request: Box<Request<Body>>,
        wish: Wish<'_>,
        retried: &mut Retried<'_>,
    ) -> Result<Answer, Error> {
        let Wish { required, limits, reach } = wish;
        // The app itself chose the one address of a forward, and is told the truth about it at once.
        let is_told = self.is_forward();
        let (mut request, again) =
            if is_told && limits.retry.is_none() { (request, None) } else { repeat::keep(request) };
        let judges_calls = again.is_some() && limits.retry.as_ref().is_some_and(|retry| !retry.codes.is_empty());
        let mut tries = Tries::new(self.queues.http.failfast);
        let mut avoided = None;
        loop {
            let (client, pick) = self.pick(&tries.failed, avoided, self.queues.http).await?;
            let address = client.endpoint.address;
            if !reach.takes(&client) {
                again_elsewhere(&mut avoided, address)?;
                continue;
            }
            if let Some(required) = required {
                require(required, &client)?;
            }
            retried.begin();
            let sent_at = Instant::now();
            let mut judge = pick.as_ref().and_then(Pick::judge);
            let sent = {
                // Pinned where it is: moved, it would take its considerable place twice.
                let sending = pin!(attempt::send(&client, request, judges_calls));
                attempt::within(limits, again.as_ref(), sending).await
            };
            let (unserved, error) = match sent {
                Ok(Head { response, beginning, mut started, whole_at }) => {
                    if let Some(judge) = &mut judge {
                        judge.hinted(retry_after(&response));
                    }
                    started.judged_by(judge);
                    let unserved = Unserved::of(&response).filter(|unserved| !is_told && tries.may_follow(*unserved));
                    if let Some(unserved) = unserved.and(again.as_ref()).and_then(Again::request) {
                        started.end(&outcome(&response));
                        (unserved, Arc::new(unserved_by(&client, &response)))
                    } else {
                        retried.end_with(&mut started);
                        let grpc_status = call_status(&response, beginning.as_deref());
                        let wanted = limits
                            .retry
                            .as_ref()
                            .filter(|retry| retry.is_wanted(response.status().as_u16(), grpc_status));
                        let Some(next) = retried.next(wanted, again.as_ref()).await else {
                            if let Some(pick) = &pick {
                                let now = Instant::now();
                                pick.observe(now - sent_at, now.into());
                            }
                            return Ok(Answer { response, beginning, started, client, pick, whole_at });
                        };
                        started.end(&Outcome { grpc_status, ..outcome(&response) });
                        (request, avoided) = (next, Some(address));
                        continue;
                    }
                }
                Err(Broken::Unsent { request: unsent, error }) => {
                    self.left_out(&client, pick, error, &mut tries)?;
                    request = unsent;
                    continue;
                }
                Err(Broken::Begun(begun)) => {
                    if let Some(judge) = judge {
                        judge.note(false, std::time::Instant::now());
                    }
                    match begun.refused(address, again.as_ref()) {
                        Ok(unserved) => unserved,
                        Err(begun) => {
                            drop(pick);
                            retried.end(|| begun.outcome());
                            let wanted = limits.retry.as_ref().filter(|retry| begun.is_retried(retry));
                            let Some(next) = retried.next(wanted, again.as_ref()).await else {
                                return Err(begun.at(address));
                            };
                            (request, avoided) = (next, Some(address));
                            continue;
                        }
                    }
                }
            };
            request = unserved;
            if self.has_other_than(&client) {
                self.left_out(&client, pick, error, &mut tries)?;
            } else {
                drop(pick);
                let pause = tries.pause(&client, error)?;
                self.other_than(&client, pause).await;
            }
        }
    }

    /// Waits for an endpoint besides that of `client`, for so long.
    async fn other_than(&self, client: &Arc<Client>, pause: Duration) {
        let Kind::Balance(balance) = &self.kind else { return };
        let mut changed = balance.changed.subscribe();
        let other = async { while !self.has_other_than(client) && changed.changed().await.is_ok() {} };
        // Who waited in vain tries the same one again.
        let _ = tokio::time::timeout(pause, other).await;
    }

    /// Whether there is another endpoint in.
    fn has_other_than(&self, client: &Arc<Client>) -> bool {
        matches!(&self.kind, Kind::Balance(balance) if balance.lock().balancer.has_other_than(client))
    }

    /// Connects to an endpoint, to carry bytes.
    ///
    /// # Errors
    /// Where no endpoint can be reached.
    pub async fn connect(self: &Arc<Self>, reach: Reach) -> Result<Opened, Error> {
        let mut tries = Tries::new(self.queues.tcp.failfast);
        let mut avoided = None;
        loop {
            let (client, pick) = self.pick(&tries.failed, avoided, self.queues.tcp).await?;
            if !reach.takes(&client) {
                again_elsewhere(&mut avoided, client.endpoint.address)?;
                continue;
            }
            match client.connect(Protocol::Opaque).await {
                Ok(connection) => {
                    if let Some(pick) = &pick {
                        pick.observe(connection.took, std::time::Instant::now());
                    }
                    return Ok(Opened { connection, client, pick });
                }
                Err(error) => self.left_out(&client, pick, Arc::new(error), &mut tries)?,
            }
        }
    }

    /// The endpoint to use next, waiting for one if need be: another one than that at `avoided`, if there is any.
    async fn pick(
        &self,
        tried: &[(SocketAddr, Arc<client::Error>)],
        avoided: Option<SocketAddr>,
        queue: Queue,
    ) -> Result<(Arc<Client>, Option<Pick<Client>>), Error> {
        let balance = match &self.kind {
            Kind::Forward(client) => return Ok((client.clone(), None)),
            Kind::Fail => return Err(Error::NoBackend),
            Kind::Balance(balance) => balance,
        };
        let mut changed = balance.changed.subscribe();
        let mut now = Instant::now();
        let mut deadline = now + queue.failfast;
        let mut place = None;
        loop {
            let rested_in = {
                let mut state = balance.lock();
                // Those tried are out already; one that has come back in meanwhile is as good as any.
                let (at, random) = (now.into(), &mut rand::rng());
                let other = avoided.and_then(|avoided| state.balancer.pick(&[avoided], at, random));
                if let Some(pick) = other.or_else(|| state.balancer.pick(&[], at, random)) {
                    state.starved_at = None;
                    return Ok((pick.item.clone(), Some(pick)));
                }
                if let Some(reason) = &state.refused
                    && !state.endpoints.is_told()
                {
                    let (authority, reason) = (balance.authority.to_string(), reason.clone());
                    return Err(Error::Unresolvable { authority, reason });
                }
                deadline = deadline.min(*state.starved_at.get_or_insert(now) + queue.failfast);
                state.balancer.rested_at().map(|rested_at| rested_at.saturating_duration_since(at))
            };
            if place.is_none() {
                place = Some(Place::take(&balance.waiting, queue.capacity).ok_or_else(|| Error::QueueFull {
                    authority: balance.authority.to_string(),
                    capacity: queue.capacity,
                })?);
            }
            let left = deadline.duration_since(Instant::now());
            // An endpoint that rests comes back by itself, and nobody says so.
            let wait = rested_in.map_or(left, |rested_in| left.min(rested_in.max(LOOK_PAUSE)));
            let waited = fair::timeout(wait, changed.changed()).await;
            now = Instant::now();
            if waited.is_err() && wait == left {
                let authority = balance.authority.to_string();
                return Err(Error::NoEndpoint { authority, failfast: queue.failfast, tried: tried.to_vec() });
            }
        }
    }

    /// Leaves an endpoint out that could not be reached, until it can be.
    fn left_out(
        self: &Arc<Self>,
        client: &Arc<Client>,
        pick: Option<Pick<Client>>,
        error: Arc<client::Error>,
        tries: &mut Tries,
    ) -> Result<(), Error> {
        let address = client.endpoint.address;
        tracing::debug!(%address, %error, "an endpoint could not be reached");
        drop(pick);
        tries.failed.push((address, error));
        let Kind::Balance(balance) = &self.kind else {
            return Err(tries.end());
        };
        if balance.lock().balancer.take_out(address, client) {
            let probe = probe::until_it_answers(Arc::downgrade(self), Arc::downgrade(client));
            let (stopped, drain) = (self.stopped(), self.connector.drain.clone());
            self.connector.drain.spawn(async move {
                tokio::select! {
                    () = probe => {}
                    () = stopped.cancelled() => {}
                    () = drain.started() => {}
                }
            });
        }
        if tries.are_over() {
            return Err(tries.end());
        }
        Ok(())
    }
}

/// How long a server asks to be spared that has too much to do, in the form that counts seconds: a date would take a clock that both have.
fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    if !matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let said = headers::get(response.headers(), &RETRY_AFTER)?.to_str().ok()?;
    said.trim().parse().ok().map(Duration::from_secs)
}

impl Reach {
    fn takes(self, client: &Client) -> bool {
        self == Self::Any || !client.is_local()
    }
}

/// Has another endpoint picked than this one, if there is another.
fn again_elsewhere(avoided: &mut Option<SocketAddr>, address: SocketAddr) -> Result<(), Error> {
    match avoided.replace(address) {
        Some(before) if before == address => Err(Error::OwnPod { address }),
        _ => Ok(()),
    }
}

/// Why the peer's proxy could not have a request served, in its own words.
fn unserved_by<B>(client: &Client, response: &Response<B>) -> client::Error {
    let reason =
        response.headers().get(PROXY_ERROR).and_then(|reason| reason.to_str().ok()).unwrap_or("it says no reason");
    client::Error::Unserved { address: client.endpoint.address, reason: reason.into() }
}

fn require(required: &str, client: &Client) -> Result<(), Error> {
    let server = match &client.endpoint.server {
        Server::Meshed { identity, .. } if client.has_proxy() => Some(identity.clone()),
        // One's own app is reached in plaintext, and proves nothing.
        Server::Meshed { .. } | Server::Unmeshed | Server::Unverifiable(_) => None,
    };
    if server.as_ref().is_some_and(|server| server.as_str() == required) {
        return Ok(());
    }
    Err(Error::IdentityRequired { required: required.into(), address: client.endpoint.address, server })
}

fn call_status<B>(response: &Response<B>, beginning: Option<&Beginning>) -> Option<u16> {
    grpc_status(response.headers()).or(beginning.and_then(|beginning| beginning.grpc_status))
}

impl Balance {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
