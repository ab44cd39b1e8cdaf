//! Carries connections from the network to the app in this pod.
//!
//! In: what the redirection sends to the inbound port. Out: bytes or requests at the app, in plaintext, at the very address the client
//! meant. Who came and what for is found out first ([`Inbound::recognize`]: a line for each step of [`Inbound::app_port`] here and of [`Inbound::direct`] in
//! direct.rs), then it is carried (carry.rs), a permit before every byte the app gets.
//!
//! ```text
//!   accept ─> target ─┬─ the inbound port itself: TLS, a certificate, a transport header ─┬─> permit ─> app
//!                     │                                    that has a name: a gateway ────│─> permit ─> the way out
//!                     └─ an app port: what is spoken? mesh TLS is ended, other passes ────┘
//! ```
//!
//! Start at [`Inbound::serve`].

mod carry;
mod direct;
mod error;

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use error::Error;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::access_log::AccessLog;
use super::connections::Table;
use super::detect::{self, Detected, Patience, Spoken, detect};
use super::gateway::Gateway;
use super::http::{AppError, AppOptions, Apps, Dialled, Http};
use super::metrics::{Event, Labels, Metrics};
use super::policy::Policies;
use super::profiles::Profiles;
use super::settings::Settings;
use super::tls::{self, Alpn, ServerStream, Terms, Tls};
use crate::mesh::connection::{Direction, PlaintextReason, Security, canonical};
use crate::mesh::policy::{Client, ClientTls, ServerPolicy, ServerProtocol};
use crate::mesh::{Name, Protocol};
use crate::net::drain::Drain;
use crate::net::newcomers::Newcomers;
use crate::net::prefixed::Prefixed;
use crate::net::serve::serve;
use crate::net::stream::Stream;
use crate::net::target;
use crate::telemetry::error_chain;

/// Connections from the network at a time: more than pods of any size serve, and less than would exhaust a node's memory.
const CONNECTIONS_MAX: usize = 20_000;
/// Of these, connections whose client has not proven who it is: strangers, however many, leave room for the mesh.
const STRANGERS_MAX: usize = 15_000;
/// Connections to the inbound port itself whose client has yet to prove who it is: as many as handshakes that a CPU does in a second or two.
const NEWCOMERS_MAX: usize = 2_000;

/// What the way in needs to know from the start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The port that peers of the mesh connect to.
    pub port: u16,
    /// The addresses of this pod. None: any.
    pub ips: Vec<IpAddr>,
    pub detect_timeout: Duration,
    pub keepalive: Option<Duration>,
    pub user_timeout: Option<Duration>,
    pub app: AppOptions,
    pub in_flight_max: usize,
    /// Whether the app is told the address of each client; then nothing but HTTP reaches it.
    pub tells_client_ip: bool,
    pub strangers_max: usize,
    pub newcomers_max: usize,
    /// How often HTTP/2 clients are pinged, and how long they may take to answer; zero for never.
    pub http2_keep_alive: (Duration, Duration),
    /// Where requests are logged, if they are.
    pub access_log: Option<AccessLog>,
    /// By whose routes requests are counted, if they are.
    pub profiles: Option<Profiles>,
}

impl From<&Settings> for Options {
    fn from(settings: &Settings) -> Self {
        let inbound = &settings.inbound;
        let given = |duration: Duration| (!duration.is_zero()).then_some(duration);
        Self {
            port: inbound.inbound_listen_addr.port(),
            ips: inbound.inbound_ips.clone(),
            detect_timeout: inbound.inbound_detect_timeout,
            keepalive: given(inbound.inbound_accept_keepalive),
            user_timeout: given(inbound.inbound_accept_user_timeout),
            app: AppOptions {
                connect_timeout: inbound.inbound_connect_timeout,
                idle_timeout: inbound.inbound_http1_connection_pool_idle_timeout,
            },
            in_flight_max: inbound.inbound_max_in_flight,
            tells_client_ip: inbound.inbound_tell_client_ip,
            strangers_max: STRANGERS_MAX,
            newcomers_max: NEWCOMERS_MAX,
            http2_keep_alive: (
                inbound.inbound_server_http2_keep_alive_interval,
                inbound.inbound_server_http2_keep_alive_timeout,
            ),
            access_log: None,
            profiles: None,
        }
    }
}

/// The way in.
pub struct Inbound {
    options: Options,
    tls: Tls,
    policies: Policies,
    connections: Table,
    /// What peers are taken on by that name a target.
    gateway: Option<Gateway>,
    http: Http,
    newcomers: Newcomers,
    strangers: Arc<Semaphore>,
}

/// A connection, as far as it is known.
#[derive(Clone, Debug)]
struct Arrival {
    /// Who opened it.
    client: SocketAddr,
    /// Where they connected to.
    server: SocketAddr,
    /// Where the app listens, or this proxy itself.
    target: SocketAddr,
    /// Where a client of a gateway wants to be taken.
    name: Option<Name>,
    security: Security,
    /// When it must have ended, where it may not outlive its certificates.
    ends_at: Option<Instant>,
}

/// What a connection turned out to be. On the heap, for nobody needs room for it but who carries it.
enum Recognized {
    Whole(Box<Whole>),
    /// Opaque streams one after another, each for a target of its own.
    Streams {
        first: Box<Arrival>,
        connection: ServerStream<Prefixed<TcpStream>>,
        terms: Terms,
    },
}

/// Requests or bytes for one target.
struct Whole {
    arrival: Arrival,
    policy: watch::Receiver<Arc<ServerPolicy>>,
    protocol: Protocol,
    stream: Box<dyn Stream>,
    dialled: Tried,
    /// The place of a client that has not proven who it is.
    stranger: Option<OwnedSemaphorePermit>,
}

impl Inbound {
    pub fn new(
        options: Options,
        tls: Tls,
        policies: Policies,
        connections: Table,
        metrics: Metrics,
        drain: Drain,
    ) -> Self {
        let http = Http {
            apps: Apps::new(options.app, metrics.clone(), drain.clone()),
            metrics,
            drain,
            in_flight: Arc::new(Semaphore::new(options.in_flight_max.min(Semaphore::MAX_PERMITS))),
            failures: Arc::default(),
            keep_alive: options.http2_keep_alive,
            tells_client_ip: options.tells_client_ip,
            access_log: options.access_log.clone(),
            profiles: options.profiles.clone(),
            head_timeout: options.detect_timeout,
        };
        let newcomers = Newcomers::new(options.newcomers_max);
        let strangers = Arc::new(Semaphore::new(options.strangers_max));
        Self { options, tls, policies, connections, gateway: None, http, newcomers, strangers }
    }

    /// The same, as a gateway.
    #[must_use]
    pub fn through(self, gateway: Option<Gateway>) -> Self {
        Self { gateway, ..self }
    }

    /// Serves redirected connections until the drain starts.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let drain = self.http.drain.clone();
        serve(listener, CONNECTIONS_MAX, drain, move |stream, peer| {
            let inbound = self.clone();
            async move {
                match target::target(&stream) {
                    Ok(target) => inbound.accept(stream, peer, target).await,
                    Err(error) => inbound.report(peer, &Error::Target(error)),
                }
            }
        })
        .await;
    }

    /// Carries one connection that was going to `target`, and tells what became of it.
    pub async fn accept(&self, stream: TcpStream, peer: SocketAddr, target: SocketAddr) {
        if let Err(error) = self.carry(stream, peer, target).await {
            self.report(peer, &error);
        }
    }

    async fn carry(&self, stream: TcpStream, client: SocketAddr, target: SocketAddr) -> Result<(), Error> {
        // Each on the heap, so that while a connection is carried there is nothing left of what it took to know it.
        let recognized = Box::pin(self.recognize(stream, client, target)).await?;
        self.carry_recognized(recognized).await
    }

    fn carry_recognized(&self, recognized: Recognized) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
        match recognized {
            Recognized::Whole(whole) if whole.protocol == Protocol::Opaque => Box::pin(self.forward_bytes(whole)),
            Recognized::Whole(whole) => Box::pin(self.forward_requests(whole)),
            Recognized::Streams { first, connection, terms } => {
                Box::pin(self.forward_streams(first, connection, terms))
            }
        }
    }

    /// Finds out who opened a connection, and what for.
    async fn recognize(&self, stream: TcpStream, client: SocketAddr, target: SocketAddr) -> Result<Recognized, Error> {
        let (client, target) = (canonical(client), canonical(target));
        if !self.options.ips.is_empty() && !self.options.ips.contains(&target.ip()) {
            return Err(Error::WrongTarget(target));
        }
        self.set_up(&stream).map_err(Error::Socket)?;
        if target.port() == self.options.port {
            self.direct(stream, client, target).await
        } else {
            self.app_port(stream, client, target).await
        }
    }

    /// Someone came to a port of the app: a peer of the mesh in the older way, or anyone else.
    async fn app_port(&self, stream: TcpStream, client: SocketAddr, target: SocketAddr) -> Result<Recognized, Error> {
        let mut stranger = Some(self.strangers.clone().try_acquire_owned().map_err(|_| Error::Crowded)?);
        let policy = self.policies.port(target.port());
        let hint = policy.borrow().protocol.clone();
        let plaintext = |reason| {
            let security = Security::Plaintext { reason };
            Arrival { client, server: target, target, name: None, security, ends_at: None }
        };
        if let ServerProtocol::Opaque = hint {
            let arrival = plaintext(PlaintextReason::PortSkipped);
            let stream = Box::new(stream);
            let whole = Whole { arrival, policy, protocol: Protocol::Opaque, stream, dialled: None, stranger };
            return Ok(Recognized::Whole(Box::new(whole)));
        }
        let arrival = plaintext(PlaintextReason::NoTlsFromRemote);
        let (spoken, stream, dialled) = self.listen(stream, &arrival, &policy, None).await?;
        let (arrival, protocol, stream, dialled): (_, _, Box<dyn Stream>, _) = match &spoken {
            Spoken::Tls { .. } if self.is_ours(&spoken) => {
                let tls::Accepted { stream, security, terms, .. } = self.tls.accept(stream, Alpn::None).await?;
                if let Security::Mutual(_) = security {
                    stranger = None;
                }
                let arrival = Arrival { security, ends_at: self.tls.ends_at(&terms), ..arrival };
                if let ServerProtocol::Http2(_) | ServerProtocol::Grpc(_) = hint {
                    (arrival, Protocol::Http2, Box::new(stream), dialled)
                } else {
                    let (spoken, stream, dialled) = self.listen(stream, &arrival, &policy, dialled).await?;
                    (arrival, protocol(&hint, &spoken), Box::new(stream), dialled)
                }
            }
            Spoken::Tls { sni } => {
                let arrival = Arrival { security: Security::Passthrough { sni: sni.clone() }, ..arrival };
                (arrival, Protocol::Opaque, Box::new(stream), dialled)
            }
            _ => (arrival, protocol(&hint, &spoken), Box::new(stream), dialled),
        };
        Ok(Recognized::Whole(Box::new(Whole { arrival, policy, protocol, stream, dialled, stranger })))
    }

    /// Finds out what is spoken, from the app too if the client may hear it.
    async fn listen<S: Stream>(
        &self,
        stream: S,
        arrival: &Arrival,
        policy: &watch::Receiver<Arc<ServerPolicy>>,
        dialled: Tried,
    ) -> Result<(Spoken, Prefixed<S>, Tried), Error> {
        let unfinished = self.options.detect_timeout;
        let policy = policy.borrow().clone();
        let may_hear = policy.authorize_connection(&arrival.client()).is_ok();
        // Ports that are HTTP by declaration are authorized by request; their clients speak when they like.
        let may_be_silent = may_hear || !matches!(policy.protocol, ServerProtocol::Detect { .. });
        let silent = (!may_be_silent).then_some(unfinished);
        // The app sees a connection as soon as that is begun, so it is finished and used, even where the client speaks meanwhile.
        let is_begun = AtomicBool::new(dialled.is_some());
        let mut dial = pin!(async {
            match dialled {
                Some(dialled) => dialled,
                None if may_hear => {
                    is_begun.store(true, Ordering::Relaxed);
                    self.http.apps.connect(arrival.target).await.map(Prefixed::from)
                }
                None => pending().await,
            }
        });
        // On the heap, so that what detection needs is gone when it is done.
        let detected = Box::pin(detect(stream, dial.as_mut(), Patience { unfinished, silent })).await;
        let result = detected.as_ref().map_or_else(detect::Error::label, |detected| detected.spoken.label());
        let labels = Labels::server(&policy.meta, arrival.target.port()).and(&Labels::new([("result", result)]));
        self.http.metrics.count(Event::InboundTcpDetected, &labels);
        let Detected { spoken, client, server } = detected?;
        let server = match server {
            None if is_begun.load(Ordering::Relaxed) => Some(dial.await),
            // The server's bytes are put before those that were put before it.
            server => server.map(|server| server.map(flatten)),
        };
        Ok((spoken, client, server))
    }

    /// Whether what the client said is the beginning of TLS with this very proxy.
    fn is_ours(&self, spoken: &Spoken) -> bool {
        match (spoken, self.tls.identity()) {
            (Spoken::Tls { sni: Some(sni) }, Some(identity)) => sni == identity.as_str(),
            _ => false,
        }
    }

    fn set_up(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        if let Some(every) = self.options.keepalive {
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(every).with_interval(every))?;
        }
        if self.options.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.options.user_timeout)?;
        }
        Ok(())
    }

    fn report(&self, client: SocketAddr, error: &Error) {
        self.http.metrics.count(Event::InboundTcpErrors, &Labels::new([("error", error.label())]));
        tracing::debug!(%client, error = %error_chain(error), "an inbound connection ended");
    }
}

/// What became of connecting to the app, if that has been tried.
type Tried = Option<Result<Prefixed<Dialled>, AppError>>;

impl Arrival {
    fn client(&self) -> Client {
        Client { address: self.client, tls: ClientTls::from(&self.security) }
    }

    fn labels(&self) -> Labels {
        Labels::target(self.target).and(&Labels::tls(Direction::Inbound, &self.security))
    }

    fn labels_under(&self, policy: &ServerPolicy) -> Labels {
        self.labels().and(&Labels::server(&policy.meta, self.target.port()))
    }
}

/// What to carry, given what policy says of the port and what the client said.
fn protocol(hint: &ServerProtocol, spoken: &Spoken) -> Protocol {
    match hint {
        ServerProtocol::Detect { .. } => spoken.protocol(),
        // HTTP/1 of a peer may come within HTTP/2.
        ServerProtocol::Http1(_) if *spoken == Spoken::Http2 => Protocol::Http2,
        ServerProtocol::Http1(_) => Protocol::Http1,
        ServerProtocol::Http2(_) | ServerProtocol::Grpc(_) => Protocol::Http2,
        ServerProtocol::Opaque | ServerProtocol::Tls => Protocol::Opaque,
    }
}

fn flatten<S>(stream: Prefixed<Prefixed<S>>) -> Prefixed<S> {
    let (later, inner) = stream.into_parts();
    let (earlier, stream) = inner.into_parts();
    Prefixed::new([later, earlier].concat(), stream)
}
