//! One backend of a target: the endpoints behind an authority, or the one address that policy names.
//!
//! In: a request or a connection. Out: its response or its stream, from an endpoint that could be reached. What was never sent goes to
//! another endpoint; an endpoint that cannot be reached is left out at once and knocked at, with growing pauses, until it
//! answers. When there is no endpoint, everyone waits for one, but nobody longer than the failfast timeout counted from when
//! there was the last: so an outage costs its first callers that much, and later ones nothing.
//!
//! Start at [`Backend::send`] and [`Backend::connect`].

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::balance::{Balancer, Ewma, Pick};
use super::client::http::{Answered, Client, Failed};
use super::client::{self, Connection, Connector};
use super::discovery::endpoints::Endpoints;
use super::http::repeat::{self, Again, Unserved};
use super::http::{Body, grpc_status, reset};
use super::metrics::{Outcome, Started};
use super::respond::PROXY_ERROR;
use crate::mesh::endpoint::Server;
use crate::mesh::{Endpoint, Identity, Protocol};
use crate::net::backoff::Backoff;
use crate::net::fair;
use crate::wire::destination::Update;

/// An endpoint that was just restarted is back in well under a second;
const PROBE_FIRST: Duration = Duration::from_millis(100);
/// and one that stays away is worth a connection attempt a minute.
const PROBE_LONGEST: Duration = Duration::from_secs(60);
/// Endpoints one request is tried at. Past these it is the network that fails, not an endpoint.
const TRIES_MAX: usize = 8;
/// Between tries at an only endpoint whose app serves nobody: in a rollout the next endpoint is known a moment later, and an app that has
/// crashed may be back. The tries end by their number before the failfast timeout, as a rule.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LONGEST: Duration = Duration::from_millis(800);

/// What policy says of a backend. Equal ones are the same backend.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// The endpoints of `authority`, as `Destination.Get` tells them.
    Balance {
        authority: String,
        ewma: Ewma,
    },
    Forward(Box<Endpoint>),
    /// Nothing can be sent there.
    Fail,
}

/// Where requests and connections go.
#[derive(Debug)]
pub struct Backend {
    pub spec: Spec,
    kind: Kind,
    /// Whether the stream about its endpoints is interrupted: 1 or 0.
    pub interrupted: Arc<AtomicUsize>,
    failfast: Duration,
    connector: Arc<Connector>,
    /// Ends the tasks of this backend with it.
    stopped: CancellationToken,
    _stop: DropGuard,
}

#[derive(Debug)]
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

/// Why there is no response or connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no endpoint of {authority} was there in {failfast:?}{}", after(tried))]
    NoEndpoint { authority: String, failfast: Duration, tried: Vec<(SocketAddr, Arc<client::Error>)> },
    #[error("the control plane does not know {authority}: {reason}")]
    Unresolvable { authority: String, reason: String },
    #[error("no endpoint served it in {} tries{}", tried.len(), after(tried))]
    Unreachable { tried: Vec<(SocketAddr, Arc<client::Error>)> },
    #[error("the connection to {address} broke")]
    Lost {
        address: SocketAddr,
        #[source]
        source: hyper::Error,
    },
    #[error("the route has no backend")]
    NoBackend,
    #[error("the identity {required} is required, but {address} is {}", of(server))]
    IdentityRequired { required: String, address: SocketAddr, server: Option<Identity> },
}

fn after(tried: &[(SocketAddr, Arc<client::Error>)]) -> String {
    let mut text = String::new();
    for (at, (address, error)) in tried.iter().enumerate() {
        text.push_str(if at == 0 { "; tried " } else { ", " });
        text.push_str(&format!("{address} ({error}"));
        let mut source = std::error::Error::source(&**error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        text.push(')');
    }
    text
}

fn of(server: &Option<Identity>) -> String {
    server.as_ref().map_or("not meshed".into(), ToString::to_string)
}

/// A response, and who gave it; dropping this says that the endpoint is done with the request.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<Incoming>,
    pub started: Started,
    /// Where the answer comes from.
    pub client: Arc<Client>,
    pub pick: Option<Pick<Client>>,
}

/// A connection to carry bytes, and the endpoint it counts for.
#[derive(Debug)]
pub struct Opened {
    pub connection: Connection,
    pub client: Arc<Client>,
    pub pick: Option<Pick<Client>>,
}

/// What has become of one request or connection so far.
struct Tries {
    failed: Vec<(SocketAddr, Arc<client::Error>)>,
    pauses: Backoff,
    /// When to stop waiting for another endpoint; known from the first wait on.
    until: Option<Instant>,
    failfast: Duration,
    was_unanswered: bool,
}

impl Backend {
    pub fn new(spec: Spec, connector: Arc<Connector>, failfast: Duration) -> Self {
        let kind = match &spec {
            Spec::Balance { authority, ewma } => Kind::Balance(Balance {
                authority: authority.as_str().into(),
                state: Mutex::new(State {
                    endpoints: Endpoints::default(),
                    balancer: Balancer::new(*ewma),
                    starved_at: None,
                    refused: None,
                }),
                changed: watch::Sender::default(),
            }),
            Spec::Forward(endpoint) => {
                Kind::Forward(Arc::new(Client::new(connector.clone(), (**endpoint).clone(), None)))
            }
            Spec::Fail => Kind::Fail,
        };
        let stopped = CancellationToken::new();
        let stop = stopped.clone().drop_guard();
        Self { spec, kind, interrupted: Arc::default(), failfast, connector, stopped, _stop: stop }
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
        for endpoint in change.set {
            let address = endpoint.address;
            let client = Client::new(self.connector.clone(), endpoint, Some(balance.authority.clone()));
            state.balancer.set(address, Arc::new(client), now);
        }
        drop(state);
        balance.changed.send_replace(());
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

    /// Sends a request to an endpoint, which must be `required` where that is given. What its app has not served goes to another one, or
    /// after a pause to the only one.
    ///
    /// # Errors
    /// Where no endpoint answers.
    pub async fn send(self: &Arc<Self>, request: Request<Body>, required: Option<&str>) -> Result<Answer, Error> {
        // The app itself chose the one address of a forward, and is told the truth about it at once.
        let (mut request, again) = if self.is_forward() { (request, None) } else { repeat::keep(request) };
        let mut tries = Tries::new(self.failfast);
        loop {
            let (client, pick) = self.pick(&tries.failed).await?;
            if let Some(required) = required {
                require(required, &client)?;
            }
            let sent_at = Instant::now();
            let error = match client.send(request).await {
                Ok(Answered { response, started }) => {
                    let unserved = Unserved::of(&response).filter(|unserved| tries.may_follow(*unserved));
                    let Some(next) = unserved.and(again.as_ref()).and_then(Again::request) else {
                        if let Some(pick) = &pick {
                            pick.observe(sent_at.elapsed(), std::time::Instant::now());
                        }
                        return Ok(Answer { response, started, client, pick });
                    };
                    let (status, grpc_status) = (response.status().as_u16(), grpc_status(response.headers()));
                    started.end(&Outcome { status, grpc_status, error: "".into() });
                    request = next;
                    Arc::new(unserved_by(&client, &response))
                }
                Err(Failed::Unsent { request: unsent, error }) => {
                    self.left_out(&client, pick, error, &mut tries)?;
                    request = *unsent;
                    continue;
                }
                Err(Failed::Lost(source)) => {
                    let address = client.endpoint.address;
                    // The one reset that says that nothing was done (RFC 9113 section 8.7).
                    let refused = (reset(&source) == Some(h2::Reason::REFUSED_STREAM)).then_some(again.as_ref());
                    let Some(next) = refused.flatten().and_then(Again::request) else {
                        return Err(Error::Lost { address, source });
                    };
                    request = next;
                    Arc::new(client::Error::Http { address, source })
                }
            };
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
    pub async fn connect(self: &Arc<Self>) -> Result<Opened, Error> {
        let mut tries = Tries::new(self.failfast);
        loop {
            let (client, pick) = self.pick(&tries.failed).await?;
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

    /// The endpoint to use next, waiting for one if need be.
    async fn pick(
        &self,
        tried: &[(SocketAddr, Arc<client::Error>)],
    ) -> Result<(Arc<Client>, Option<Pick<Client>>), Error> {
        let balance = match &self.kind {
            Kind::Forward(client) => return Ok((client.clone(), None)),
            Kind::Fail => return Err(Error::NoBackend),
            Kind::Balance(balance) => balance,
        };
        let mut changed = balance.changed.subscribe();
        let now = Instant::now();
        let mut deadline = now + self.failfast;
        loop {
            {
                let mut state = balance.lock();
                // Those tried are out already; one that has come back in meanwhile is as good as any.
                if let Some(pick) = state.balancer.pick(&[], std::time::Instant::now(), &mut rand::rng()) {
                    state.starved_at = None;
                    return Ok((pick.item.clone(), Some(pick)));
                }
                if let Some(reason) = &state.refused
                    && !state.endpoints.is_told()
                {
                    let (authority, reason) = (balance.authority.to_string(), reason.clone());
                    return Err(Error::Unresolvable { authority, reason });
                }
                deadline = deadline.min(*state.starved_at.get_or_insert(now) + self.failfast);
            }
            let waited = fair::timeout(deadline.duration_since(Instant::now()), changed.changed()).await;
            if waited.is_err() {
                let authority = balance.authority.to_string();
                return Err(Error::NoEndpoint { authority, failfast: self.failfast, tried: tried.to_vec() });
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
            let probe = probe(Arc::downgrade(self), Arc::downgrade(client));
            let (stopped, drain) = (self.stopped(), self.connector.drain.clone());
            self.connector.drain.spawn(async move {
                tokio::select! {
                    () = probe => {}
                    () = stopped.cancelled() => {}
                    () = drain.started() => {}
                }
            });
        }
        if tries.failed.len() >= TRIES_MAX {
            return Err(tries.end());
        }
        Ok(())
    }
}

impl Tries {
    fn new(failfast: Duration) -> Self {
        let pauses = Backoff::new(PAUSE_FIRST, PAUSE_LONGEST);
        Self { failed: Vec::new(), pauses, until: None, failfast, was_unanswered: false }
    }

    /// Whether a request that was unserved in this way may be tried once more.
    fn may_follow(&mut self, unserved: Unserved) -> bool {
        // What kills one app should not go on to kill them all.
        unserved == Unserved::Unsent || !std::mem::replace(&mut self.was_unanswered, true)
    }

    /// How long to wait for another endpoint, after the only one failed.
    fn pause(&mut self, client: &Client, error: Arc<client::Error>) -> Result<Duration, Error> {
        self.failed.push((client.endpoint.address, error));
        let now = Instant::now();
        let left = self.until.get_or_insert(now + self.failfast).duration_since(now);
        if left.is_zero() || self.failed.len() >= TRIES_MAX {
            return Err(self.end());
        }
        Ok(self.pauses.delay().min(left))
    }

    fn end(&mut self) -> Error {
        Error::Unreachable { tried: std::mem::take(&mut self.failed) }
    }
}

/// Why the peer's proxy could not have a request served, in its own words.
fn unserved_by<B>(client: &Client, response: &Response<B>) -> client::Error {
    let reason =
        response.headers().get(PROXY_ERROR).and_then(|reason| reason.to_str().ok()).unwrap_or("it says no reason");
    client::Error::Unserved { address: client.endpoint.address, reason: reason.into() }
}

/// Knocks at an endpoint until it answers, or nobody wants to know any more.
async fn probe(backend: Weak<Backend>, client: Weak<Client>) {
    let mut backoff = Backoff::new(PROBE_FIRST, PROBE_LONGEST);
    loop {
        tokio::time::sleep(backoff.delay()).await;
        let Some(client) = client.upgrade() else { return };
        if let Err(error) = client.probe().await {
            tracing::debug!(address = %client.endpoint.address, %error, "an endpoint is still out of reach");
            continue;
        }
        let Some(backend) = backend.upgrade() else { return };
        if let Kind::Balance(balance) = &backend.kind {
            balance.lock().balancer.put_in(client.endpoint.address, &client);
            balance.changed.send_replace(());
        }
        return;
    }
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

impl Balance {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
