//! Carries the app's connections to their targets.
//!
//! In: a connection of the app's, and where it was going. Out: bytes or requests at an endpoint of it, over mutual TLS where
//! discovery names an identity.
//!
//! ```text
//!   accept ─> target ─> discover ─> protocol? ─> opaque: dial, carry bytes
//!                                           └──> HTTP:   route, balance, forward each request   (http.rs)
//! ```
//!
//! Who speaks first is not known in advance. A client that has nothing to say for a moment may be waiting for a server that speaks first
//! (MySQL, SMTP), so the server is dialled meanwhile. Targets whose servers did are remembered, and dialled at once.
//!
//! What carries a connection to its end is on the heap, wherever it is called: in place, the future of each connection would have room for every
//! way of carrying one, and thousands may be idle.
//!
//! Start at [`Outbound::carry`].

mod http;
mod hush;
mod limits;
mod onward;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
pub use http::Requests;
pub use onward::Way;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::hush::Hush;
use super::backend::{self, Opened, Reach};
use super::client::Connection;
use super::detect::{self, Detected, Patience, Spoken, detect, detect_client};
use super::discovery::plan::{HttpRoutes, Plan, Protocol, Refusal, RouteCounts};
use super::discovery::{self, Discovered, Discovery};
use super::metrics::{Event, Labels, Metrics};
use super::settings::Settings;
use super::{tcp, tls};
use crate::mesh;
use crate::mesh::connection::{Direction, PlaintextReason, Security};
use crate::net::counted::{Counted, Counts};
use crate::net::drain::Drain;
use crate::net::own;
use crate::net::prefixed::Prefixed;
use crate::net::seldom::Seldom;
use crate::net::serve;
use crate::net::stream::Stream;
use crate::telemetry::error_chain;

/// Connections of the app at a time; past that the kernel's backlog holds them.
const CONNECTIONS_MAX: usize = 20_000;
/// How long a client may be silent before its server is dialled. HTTP clients speak as soon as they are connected, that is within a
/// scheduling delay; dialling before would cost a server connection each time, for nothing.
const SILENCE: Duration = Duration::from_millis(10);
/// How long a connection may be here before the proxy has noted that it made it: both are a turn of the event loop, however busy.
const OWN_NOTED: Duration = Duration::from_millis(100);
/// Targets remembered as speaking first, and for how long: databases, mail and the like, of which an app has a handful.
const LEARNT_MAX: usize = 1_000;
const LEARNT_FOR: Duration = Duration::from_secs(600);

/// The way out: everything that carrying the app's connections needs.
pub struct Outbound {
    pub discovery: Discovery,
    pub metrics: Metrics,
    pub drain: Drain,
    pub options: Options,
    /// Places for requests under way.
    in_flight: Arc<Semaphore>,
    failures: Seldom,
    own_seen: Seldom,
    /// Targets whose servers spoke first, and until when that is believed.
    learnt: Mutex<HashMap<SocketAddr, Instant>>,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// How long an app may leave its first bytes unfinished.
    pub detect_timeout: Duration,
    pub requests_max: usize,
    /// How often the app's HTTP/2 connections are pinged, and how long they may take to answer; zero for never.
    pub keep_alive: (Duration, Duration),
    /// Whether the app is told why the proxy answered in a server's place.
    pub tells_why: bool,
    /// Whether the app is an ingress, which names services in a header.
    pub is_ingress: bool,
}

impl From<&Settings> for Options {
    fn from(settings: &Settings) -> Self {
        let outbound = &settings.outbound;
        Self {
            detect_timeout: outbound.outbound_detect_timeout,
            requests_max: outbound.outbound_max_in_flight,
            keep_alive: (
                outbound.outbound_server_http2_keep_alive_interval,
                outbound.outbound_server_http2_keep_alive_timeout,
            ),
            tells_why: !outbound.outbound_disable_informational_headers,
            is_ingress: outbound.ingress_mode,
        }
    }
}

/// Why a connection of the app's was not carried, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach a server")]
    Backend(#[source] backend::Error),
    #[error("the connection broke")]
    Broken(#[source] tcp::Error),
    #[error("a certificate has ended that the connection to the server was made with")]
    CertificateEnded,
    #[error("cannot find out what the client speaks")]
    Detect(#[source] detect::Error),
    #[error("cannot discover the target")]
    Discovery(#[source] discovery::Error),
    #[error("HTTP broke")]
    Http(#[source] hyper::Error),
    #[error("the policy of the target cannot be followed: {0}")]
    InvalidPolicy(String),
    #[error("the connection came to the proxy itself")]
    Loop,
    #[error("a connection of the proxy's own was redirected back to it")]
    OwnTraffic,
    #[error("no route leads on")]
    NoRoute,
    #[error("policy refuses the connection: {}", why(.0))]
    Refused(Refusal),
    #[error("cannot use the connection")]
    Socket(#[source] io::Error),
}

fn why(refusal: &Refusal) -> &str {
    match refusal {
        Refusal::Forbidden => "it is forbidden",
        Refusal::Invalid(reason) => reason,
    }
}

impl Outbound {
    pub fn new(discovery: Discovery, metrics: Metrics, drain: Drain, options: Options) -> Self {
        let in_flight = Arc::new(Semaphore::new(options.requests_max.min(Semaphore::MAX_PERMITS)));
        Self {
            discovery,
            metrics,
            drain,
            options,
            in_flight,
            failures: Seldom::default(),
            own_seen: Seldom::default(),
            learnt: Mutex::default(),
        }
    }

    /// Carries all connections that come to `listener`, until the drain starts. `find_target` asks where one was going
    /// ([`crate::net::target::target`], unless in a test).
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        find_target: impl Fn(&TcpStream) -> io::Result<SocketAddr> + Send + Sync + 'static,
    ) {
        let drain = self.drain.clone();
        serve::serve(listener, CONNECTIONS_MAX, drain, move |stream, client| {
            let outbound = self.clone();
            let target = find_target(&stream);
            async move {
                let target = match target {
                    Ok(target) => target,
                    Err(error) => {
                        return tracing::warn!(%client, %error, "cannot find out where a connection was going");
                    }
                };
                if let Err(error) = outbound.carry(stream, target).await {
                    tracing::debug!(%client, %target, error = %error_chain(&error), "a connection was not carried");
                }
            }
        })
        .await;
    }

    /// Carries one connection of the app's to `target`.
    ///
    /// # Errors
    /// Where it could not be carried to its end. The client has seen its connection reset then, not closed as if all had been well.
    pub async fn carry(self: &Arc<Self>, stream: TcpStream, target: SocketAddr) -> Result<(), Error> {
        if stream.local_addr().map_err(Error::Socket)? == target {
            return Err(Error::Loop);
        }
        stream.set_nodelay(true).map_err(Error::Socket)?;
        // The app's own socket, which leaves with the connection: only a reset tells the app that something went wrong.
        let carried = match self.admit(&stream, target).await {
            Ok(()) => self.carry_accepted(&stream_labels(target), stream, target).await,
            Err(error) => reset(&stream, error),
        };
        if let Err(error) = &carried {
            let labels = Labels::new([("error", label(error))]).and(&Labels::target(target));
            self.metrics.count(Event::OutboundTcpErrors, &labels);
        }
        carried
    }

    /// Lets in what an app has sent, once there is a certificate to go on with. What the proxy itself has sent would come back for ever; and before
    /// there is a certificate, nobody could tell that from a control plane that is silent.
    async fn admit(&self, stream: &TcpStream, target: SocketAddr) -> Result<(), Error> {
        let client = stream.peer_addr().map_err(Error::Socket)?;
        self.refuse_own(client, target)?;
        if !self.discovery.is_certified() {
            tokio::time::sleep(OWN_NOTED).await;
            self.refuse_own(client, target)?;
            tokio::select! {
                () = self.discovery.certified() => {}
                () = self.drain.started() => {}
            }
        }
        Ok(())
    }

    fn refuse_own(&self, client: SocketAddr, target: SocketAddr) -> Result<(), Error> {
        if !own::is_own(client, target) {
            return Ok(());
        }
        if let Some(others) = self.own_seen.is_due(Instant::now().into()) {
            let hint = "is the proxy's user the one that the pod's redirection leaves out (proxyUID)?";
            tracing::warn!(%target, others, "the proxy's own connection was redirected back to it: {hint}");
        }
        Err(Error::OwnTraffic)
    }

    async fn carry_accepted(
        self: &Arc<Self>,
        labels: &Labels,
        stream: TcpStream,
        target: SocketAddr,
    ) -> Result<(), Error> {
        let peer = stream.peer_addr().map_err(Error::Socket)?;
        let transport = self.metrics.transport(labels);
        let client = Client { stream: Counted::new(stream, Arc::<Counts>::default(), transport.totals()) };
        let discovered = match self.discovery.discover(target).await {
            Ok(discovered) => discovered,
            Err(error) => return client.reset(Error::Discovery(error)),
        };
        // Who connects may have been accepted before it had noted so.
        if let Err(error) = self.refuse_own(peer, target) {
            return client.reset(error);
        }
        let plan = discovered.plan();
        let protocol = ("protocol", protocol_label(&plan.protocol));
        plan.parent.count(&self.metrics, Event::OutboundTcpProtocols, protocol);
        // Whoever carries lets go of the plan: a connection that lasts must not keep the backends of one that is over.
        let carried = match &plan.protocol {
            Protocol::Opaque(_) => self.carry_opaque(client, plan).await,
            Protocol::Tls(_) => self.carry_tls(client, plan).await,
            Protocol::Http1(_) => {
                drop(plan);
                self.serve_http(client.stream.into(), discovered, mesh::Protocol::Http1).await
            }
            Protocol::Http2(_) => {
                drop(plan);
                self.serve_http(client.stream.into(), discovered, mesh::Protocol::Http2).await
            }
            Protocol::Detect { .. } => self.carry_detected(client, plan, discovered, target).await,
            Protocol::Invalid(reason) => self.refuse_invalid(client, reason, discovered).await,
        };
        if let Err(Error::Broken(broken)) = &carried {
            transport.failed(broken.io());
        }
        carried
    }

    async fn carry_detected(
        self: &Arc<Self>,
        client: Client,
        plan: Arc<Plan>,
        discovered: Discovered,
        target: SocketAddr,
    ) -> Result<(), Error> {
        let silence = if self.speaks_first(target) { Duration::ZERO } else { SILENCE };
        let dial = async {
            tokio::time::sleep(silence).await;
            // A server that closes without a word says nothing about the client, who may yet speak HTTP.
            Ok(Hush::new(open(&plan, None, Reach::Any).await?, self.options.detect_timeout))
        };
        let patience = Patience { unfinished: self.options.detect_timeout, silent: None };
        let detected = Box::pin(detect(client.stream, dial, patience)).await;
        let result =
            ("result", detected.as_ref().map_or_else(detect::Error::label, |detected| detected.spoken.label()));
        plan.parent.count(&self.metrics, Event::OutboundTcpDetected, result);
        let Detected { spoken, client, server } = detected.map_err(Error::Detect)?;
        if let Spoken::Http1 | Spoken::Http2 = spoken {
            // Requests go their own way. What was dialled for a silent client would be held at both apps for as long as this one stays.
            drop((server, plan));
            return self.serve_http(client, discovered, spoken.protocol()).await;
        }
        let (heard, stream) = client.into_parts();
        match server {
            Some(Ok(server)) => {
                let (said, hush) = server.into_parts();
                if heard.is_empty() && !said.is_empty() && !is_http(&said) {
                    self.learn(target);
                }
                let client = Prefixed::new(heard, stream);
                match hush.into_inner() {
                    Some(opened) => {
                        drop(plan);
                        Box::pin(self.splice_app(client, said, opened)).await
                    }
                    // The server hung up on a silent client. This one has something to say, to a new connection.
                    None => Box::pin(self.carry_prefixed(client, plan, None)).await,
                }
            }
            None => Box::pin(self.carry_prefixed(Prefixed::new(heard, stream), plan, None)).await,
            Some(Err(error)) => Client { stream }.reset(error),
        }
    }

    async fn carry_tls(self: &Arc<Self>, client: Client, plan: Arc<Plan>) -> Result<(), Error> {
        let (sni, client) = self.sni(client.stream).await?;
        Box::pin(self.carry_prefixed(client, plan, sni.as_deref())).await
    }

    /// The name that the client's own TLS greets, if that is what it speaks.
    async fn sni<S: Stream>(&self, client: S) -> Result<(Option<String>, Prefixed<S>), Error> {
        let patience = Patience { unfinished: self.options.detect_timeout, silent: Some(self.options.detect_timeout) };
        let (spoken, client) = Box::pin(detect_client(client, patience)).await.map_err(Error::Detect)?;
        let sni = match spoken {
            Spoken::Tls { sni } => sni,
            Spoken::Http1 | Spoken::Http2 | Spoken::Unknown => None,
        };
        Ok((sni, client))
    }

    async fn carry_opaque(&self, client: Client, plan: Arc<Plan>) -> Result<(), Error> {
        Box::pin(self.carry_prefixed(client.stream.into(), plan, None)).await
    }

    async fn carry_prefixed(
        &self,
        client: Prefixed<Counted<TcpStream>>,
        plan: Arc<Plan>,
        sni: Option<&str>,
    ) -> Result<(), Error> {
        let opened = open(&plan, sni, Reach::Any).await;
        drop(plan);
        match opened {
            Ok(opened) => Box::pin(self.splice_app(client, Bytes::new(), opened)).await,
            Err(error) => Client { stream: client.into_parts().1 }.reset(error),
        }
    }

    /// Carries the app's bytes and those for it. Where that ends before its time, the app sees a reset.
    async fn splice_app(
        &self,
        mut client: Prefixed<Counted<TcpStream>>,
        said: Bytes,
        opened: Box<Routed>,
    ) -> Result<(), Error> {
        match self.splice(&mut client, said, opened).await {
            Err(error @ Error::CertificateEnded) => Client { stream: client.into_parts().1 }.reset(error),
            carried => carried,
        }
    }

    /// Carries bytes both ways, beginning with what the server has `said` already.
    async fn splice(&self, client: impl Stream, said: Bytes, mut opened: Box<Routed>) -> Result<(), Error> {
        opened.counts.tally.count_plain(&self.metrics, opened.counts.opened);
        let ends_at = opened.opened.connection.ends_at;
        let server = Prefixed::new(said, &mut opened.opened.connection.stream);
        let carried = tokio::select! {
            carried = tcp::carry(client, server, &self.drain) => carried.map_err(Error::Broken),
            () = tls::end(ends_at) => Err(Error::CertificateEnded),
        };
        let Routed { opened: Opened { connection, client: endpoint, pick }, counts } = *opened;
        let Connection { stream, mut records, made, .. } = connection;
        drop(pick);
        match (&carried, made) {
            (Err(Error::Broken(tcp::Error::Server(error))), _) => records.failed(error),
            (Ok(()), Some(made)) => endpoint.keep_stream(stream.into_inner(), made),
            _ => {}
        }
        let error = ("error", carried.as_ref().err().map_or("", label));
        counts.tally.count(&self.metrics, counts.closed, error);
        carried
    }

    /// HTTP clients get told; others are reset.
    async fn refuse_invalid(
        self: &Arc<Self>,
        client: Client,
        reason: &str,
        discovered: Discovered,
    ) -> Result<(), Error> {
        let patience = Patience { unfinished: self.options.detect_timeout, silent: Some(self.options.detect_timeout) };
        let (spoken, client) = Box::pin(detect_client(client.stream, patience)).await.map_err(Error::Detect)?;
        match spoken {
            Spoken::Http1 => self.serve_http(client, discovered, mesh::Protocol::Http1).await,
            Spoken::Http2 => self.serve_http(client, discovered, mesh::Protocol::Http2).await,
            Spoken::Tls { .. } | Spoken::Unknown => {
                Client { stream: client.into_parts().1 }.reset(Error::InvalidPolicy(reason.into()))
            }
        }
    }

    async fn serve_http(
        self: &Arc<Self>,
        client: Prefixed<Counted<TcpStream>>,
        discovered: Discovered,
        protocol: mesh::Protocol,
    ) -> Result<(), Error> {
        Box::pin(http::serve(self.clone(), discovered, protocol, client)).await.map_err(Error::Http)
    }

    fn speaks_first(&self, target: SocketAddr) -> bool {
        let learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        learnt.get(&target).is_some_and(|until| *until > Instant::now())
    }

    fn learn(&self, target: SocketAddr) {
        let now = Instant::now();
        let mut learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        if learnt.len() >= LEARNT_MAX && !learnt.contains_key(&target) {
            learnt.retain(|_, until| *until > now);
            if learnt.len() >= LEARNT_MAX {
                return;
            }
        }
        learnt.insert(target, now + LEARNT_FOR);
    }
}

/// A connection to where a rule leads, and what counts it. On the heap, for each step from detection on would have room for it.
struct Routed {
    opened: Opened,
    counts: Arc<RouteCounts>,
}

/// Opens a connection to where the plan's routes of bytes lead.
async fn open(plan: &Plan, sni: Option<&str>, reach: Reach) -> Result<Box<Routed>, Error> {
    let rule = plan.tcp_routes().and_then(|routes| routes.find(sni)).ok_or(Error::NoRoute)?;
    if let Some(refusal) = &rule.refused {
        return Err(Error::Refused(refusal.clone()));
    }
    let picked = rule.backends.pick(&mut rand::rng()).ok_or(Error::NoRoute)?;
    if let Some(refusal) = &picked.refused {
        return Err(Error::Refused(refusal.clone()));
    }
    // On the heap, so that what connecting needs is gone when bytes are carried.
    let opened = Box::pin(picked.backend.connect(reach)).await.map_err(Error::Backend)?;
    Ok(Box::new(Routed { opened, counts: rule.counts.clone() }))
}

/// The app's end.
struct Client {
    stream: Counted<TcpStream>,
}

impl Client {
    /// Resets the connection: an orderly end would tell the app that the server had nothing to say.
    fn reset(self, error: Error) -> Result<(), Error> {
        reset(self.stream.stream(), error)
    }
}

fn reset(stream: &TcpStream, error: Error) -> Result<(), Error> {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "cannot have a connection reset");
    }
    Err(error)
}

/// Whether a server's first words are HTTP: an HTTP/2 server's settings, before it ended the connection, or an HTTP/1 server that tires of
/// waiting. Neither means that the next client should not be listened to.
fn is_http(said: &[u8]) -> bool {
    said.starts_with(b"HTTP/1.") || detect::begins_http2(said)
}

fn stream_labels(target: SocketAddr) -> Labels {
    let security = Security::Plaintext { reason: PlaintextReason::Loopback };
    Labels::direction(Direction::Outbound)
        .and(&Labels::new([("peer", "src")]))
        .and(&Labels::target(target))
        .and(&Labels::tls(Direction::Outbound, &security))
}

/// The value of the label `error`.
pub fn label(error: &Error) -> &'static str {
    match error {
        Error::Backend(backend::Error::NoEndpoint { .. }) => "failfast",
        Error::Backend(backend::Error::QueueFull { .. }) => "loadshed",
        Error::Backend(backend::Error::IdentityRequired { .. }) => "identity required",
        Error::Backend(_) | Error::Broken(_) | Error::Detect(_) | Error::Http(_) | Error::Socket(_) => "i/o",
        Error::Discovery(_) => "undiscovered",
        Error::NoRoute | Error::Refused(_) => "forbidden",
        Error::CertificateEnded => "certificate ended",
        Error::OwnTraffic => "loop",
        Error::InvalidPolicy(_) | Error::Loop => "unexpected",
    }
}

/// What the target is declared to speak.
fn protocol_label(protocol: &Protocol) -> &'static str {
    match protocol {
        Protocol::Detect { .. } => "detect",
        Protocol::Http1(_) => "http/1",
        Protocol::Http2(_) => "http/2",
        Protocol::Opaque(_) => "opaq",
        Protocol::Tls(_) => "tls",
        Protocol::Invalid(_) => "invalid",
    }
}

/// For the plan's protocol and the routes of what was found to be spoken.
fn http_routes(plan: &Plan, protocol: mesh::Protocol) -> Option<&HttpRoutes> {
    match (&plan.protocol, protocol) {
        (Protocol::Detect { http1, .. }, mesh::Protocol::Http1) => Some(http1),
        (Protocol::Detect { http2, .. }, mesh::Protocol::Http2) => Some(http2),
        (Protocol::Http1(routes) | Protocol::Http2(routes), _) => Some(routes),
        (Protocol::Detect { .. } | Protocol::Opaque(_) | Protocol::Tls(_) | Protocol::Invalid(_), _) => None,
    }
}
