//! Carries connections from the network to the app in this pod.
//!
//! In: what the redirection sends to the inbound port. Out: bytes or requests at the app, in plaintext, at the very address the client
//! meant. Each step is a line of [`Inbound::app_port`] or [`Inbound::direct`]; a permit comes before every byte the app gets.
//!
//! ```text
//!   accept ─> target ─┬─ the inbound port itself: TLS, a certificate, a transport header ─┬─> permit ─> app
//!                     └─ an app port: what is spoken? mesh TLS is ended, other passes ────┘
//! ```
//!
//! Start at [`Inbound::serve`].

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::server::TlsStream;

use super::access_log::AccessLog;
use super::connections::{Opened, Table};
use super::detect::{self, Detected, Patience, Spoken, detect, detect_client};
use super::http::{self, AppError, AppOptions, Apps, Http, Open, Session};
use super::metrics::{Event, Labels, Metrics};
use super::policy::Policies;
use super::settings::Settings;
use super::streams::Framed;
use super::tcp;
use super::tls::{self, Alpn, Terms, Tls};
use super::transport_header::{self, Header};
use crate::mesh::Protocol;
use crate::mesh::connection::{Direction, PlaintextReason, Security};
use crate::mesh::policy::{Client, ClientTls, Denied, ServerPolicy, ServerProtocol};
use crate::net::counted::Counted;
use crate::net::drain::Drain;
use crate::net::fair;
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

/// How long a connection may wait for its next opaque stream: longer than clients of this kind keep it for one.
const STREAMS_IDLE: Duration = Duration::from_secs(60);

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
        }
    }
}

/// The way in.
pub struct Inbound {
    options: Options,
    tls: Tls,
    policies: Policies,
    connections: Table,
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
    /// Where the app listens.
    target: SocketAddr,
    security: Security,
}

/// A client that came to the inbound port, has proven who it is, and said what for.
struct Proven {
    stream: TlsStream<Prefixed<TcpStream>>,
    security: Security,
    /// Whether it may send one stream after another.
    streams: bool,
    terms: Terms,
    header: Header,
}

/// Why a connection was not carried to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Carry(#[from] tcp::Error),
    #[error("too many connections are open whose clients have not proven who they are")]
    Crowded,
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Detect(#[from] detect::Error),
    #[error("refusing to be a gateway to {0}")]
    Gateway(String),
    #[error(transparent)]
    Header(#[from] transport_header::Error),
    #[error("the transport header took more than {0:?}")]
    HeaderTimeout(Duration),
    #[error("the HTTP connection with the client broke")]
    Http(#[source] hyper::Error),
    #[error("refusing to connect to {0}: it is this very proxy")]
    Loop(SocketAddr),
    #[error("what comes to the inbound port itself must be mesh TLS for this pod")]
    NotMesh,
    #[error("HTTP came as another stream of a connection")]
    NotOpaque,
    #[error("the client negotiated no transport header")]
    NoTransportHeader,
    #[error("the app is told the address of each client, so that only HTTP reaches it")]
    OnlyHttp,
    #[error("the policy in force no longer lets the client in")]
    Revoked,
    #[error("cannot set up the accepted socket")]
    Socket(#[source] io::Error),
    #[error("cannot accept another stream of a connection")]
    Stream(#[source] io::Error),
    #[error("cannot tell where the client meant to go")]
    Target(#[source] io::Error),
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("the client showed no certificate")]
    Unauthenticated,
    #[error("{0} is no address of this pod")]
    WrongTarget(SocketAddr),
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
            apps: Apps::new(options.app, drain.clone()),
            metrics,
            drain,
            in_flight: Arc::new(Semaphore::new(options.in_flight_max.min(Semaphore::MAX_PERMITS))),
            failures: Arc::default(),
            keep_alive: options.http2_keep_alive,
            tells_client_ip: options.tells_client_ip,
            access_log: options.access_log.clone(),
            head_timeout: options.detect_timeout,
        };
        let newcomers = Newcomers::new(options.newcomers_max);
        let strangers = Arc::new(Semaphore::new(options.strangers_max));
        Self { options, tls, policies, connections, http, newcomers, strangers }
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
        if let Err(error) = Box::pin(self.carry(stream, peer, target)).await {
            self.report(peer, &error);
        }
    }

    async fn carry(&self, stream: TcpStream, client: SocketAddr, target: SocketAddr) -> Result<(), Error> {
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

    /// A peer's proxy came to the inbound port itself: it must prove who it is, and say what for.
    async fn direct(&self, stream: TcpStream, client: SocketAddr, server: SocketAddr) -> Result<(), Error> {
        let mut newcomer = self.newcomers.enter();
        let Proven { stream, security, streams, terms, header } = tokio::select! {
            proven = Box::pin(self.prove(stream)) => proven?,
            () = newcomer.lost() => return Err(Error::Crowded),
        };
        drop(newcomer);
        let protocol = header.protocol;
        let arrival = self.meant(header, client, server, security)?;
        if streams && protocol == Protocol::Opaque {
            return Box::pin(self.forward_streams(arrival, stream, &terms)).await;
        }
        let policy = self.policies.port(arrival.target.port());
        self.forward(arrival, policy, protocol, Box::new(stream), None).await
    }

    /// Finds out who a client is that came to the inbound port.
    async fn prove(&self, stream: TcpStream) -> Result<Proven, Error> {
        let within = self.options.detect_timeout;
        let (spoken, stream) = detect_client(stream, Patience { unfinished: within, silent: Some(within) }).await?;
        if !self.is_ours(&spoken) {
            return Err(Error::NotMesh);
        }
        let tls::Accepted { mut stream, security, transport_header, streams, terms } =
            self.tls.accept(stream, Alpn::Streams).await?;
        if !matches!(security, Security::Mutual(_)) {
            return Err(Error::Unauthenticated);
        }
        if !transport_header {
            return Err(Error::NoTransportHeader);
        }
        let header =
            fair::timeout(within, Header::read(&mut stream)).await.map_err(|_| Error::HeaderTimeout(within))??;
        Ok(Proven { stream, security, streams, terms, header })
    }

    /// What a transport header means.
    fn meant(
        &self,
        header: Header,
        client: SocketAddr,
        server: SocketAddr,
        security: Security,
    ) -> Result<Arrival, Error> {
        let identity = match &security {
            Security::Mutual(tls) => tls.client_identity.as_ref().map(ToString::to_string),
            _ => None,
        };
        let labels = Labels::new([
            ("session_protocol", session_protocol(header.protocol).to_owned()),
            ("target_port", header.port.to_string()),
            ("target_name", header.name.clone().unwrap_or_default()),
            ("client_id", identity.unwrap_or_default()),
        ]);
        self.http.metrics.count(Event::InboundTransportHeaders, &labels);
        if let Some(name) = header.name {
            return Err(Error::Gateway(name));
        }
        let target = SocketAddr::new(server.ip(), header.port);
        if header.port == self.options.port {
            return Err(Error::Loop(target));
        }
        Ok(Arrival { client, server, target, security })
    }

    /// Carries one opaque stream after another. Each is authorized, and accepted once the app is there.
    async fn forward_streams(
        &self,
        first: Arrival,
        connection: TlsStream<Prefixed<TcpStream>>,
        terms: &Terms,
    ) -> Result<(), Error> {
        let (mut arrival, mut connection, mut is_first) = (first, connection, true);
        loop {
            let mut policy = self.policies.port(arrival.target.port());
            let permitted = self.permit_bytes(&arrival, &mut policy)?;
            let app = self.http.apps.connect(arrival.target).await?.into();
            let accepted =
                if is_first { Ok(Framed::first(connection, &[])) } else { Framed::accepted(connection).await };
            let mut stream = accepted.map_err(Error::Stream)?;
            self.carry_bytes(&arrival, policy, &permitted, &mut stream, app).await?;
            let Some(ended) = stream.into_connection() else { return Ok(()) };
            (connection, is_first) = (ended, false);
            let header = tokio::select! {
                header = tokio::time::timeout(STREAMS_IDLE, Header::read(&mut connection)) => header,
                () = self.http.drain.started() => return Ok(()),
            };
            // Between two streams a client may leave as it likes. One that came too late finds a new connection.
            let Ok(Ok(header)) = header else { return Ok(()) };
            if self.http.drain.has_started() || !self.tls.still(terms) {
                return Ok(());
            }
            if header.protocol != Protocol::Opaque {
                return Err(Error::NotOpaque);
            }
            arrival = self.meant(header, arrival.client, arrival.server, arrival.security)?;
        }
    }

    /// Someone came to a port of the app: a peer of the mesh in the older way, or anyone else.
    async fn app_port(&self, stream: TcpStream, client: SocketAddr, target: SocketAddr) -> Result<(), Error> {
        let stranger = self.strangers.clone().try_acquire_owned().map_err(|_| Error::Crowded)?;
        let policy = self.policies.port(target.port());
        let hint = policy.borrow().protocol.clone();
        let plaintext = |reason| Arrival { client, server: target, target, security: Security::Plaintext { reason } };
        if let ServerProtocol::Opaque = hint {
            let arrival = plaintext(PlaintextReason::PortSkipped);
            return self.forward(arrival, policy, Protocol::Opaque, Box::new(stream), None).await;
        }
        let arrival = plaintext(PlaintextReason::NoTlsFromRemote);
        let (spoken, stream, app) = self.listen(stream, &arrival, &policy, None).await?;
        match &spoken {
            Spoken::Tls { .. } if self.is_ours(&spoken) => {
                let tls::Accepted { stream, security, .. } = self.tls.accept(stream, Alpn::None).await?;
                if let Security::Mutual(_) = security {
                    drop(stranger);
                }
                let arrival = Arrival { security, ..arrival };
                if let ServerProtocol::Http2(_) | ServerProtocol::Grpc(_) = hint {
                    return self.forward(arrival, policy, Protocol::Http2, Box::new(stream), app).await;
                }
                let (spoken, stream, app) = self.listen(stream, &arrival, &policy, app).await?;
                self.forward(arrival, policy, protocol(&hint, &spoken), Box::new(stream), app).await
            }
            Spoken::Tls { sni } => {
                let arrival = Arrival { security: Security::Passthrough { sni: sni.clone() }, ..arrival };
                self.forward(arrival, policy, Protocol::Opaque, Box::new(stream), app).await
            }
            _ => self.forward(arrival, policy, protocol(&hint, &spoken), Box::new(stream), app).await,
        }
    }

    /// Finds out what is spoken, from the app too if the client may hear it.
    async fn listen<S: Stream>(
        &self,
        stream: S,
        arrival: &Arrival,
        policy: &watch::Receiver<Arc<ServerPolicy>>,
        dialled: Dialled,
    ) -> Result<(Spoken, Prefixed<S>, Dialled), Error> {
        let unfinished = self.options.detect_timeout;
        let policy = policy.borrow().clone();
        let may_hear = policy.authorize_connection(&arrival.client()).is_ok();
        // Ports that are HTTP by declaration are authorized by request; their clients speak when they like.
        let may_be_silent = may_hear || !matches!(policy.protocol, ServerProtocol::Detect { .. });
        let silent = (!may_be_silent).then_some(unfinished);
        let dial = async {
            match dialled {
                Some(dialled) => dialled,
                None if may_hear => self.http.apps.connect(arrival.target).await.map(Prefixed::from),
                None => pending().await,
            }
        };
        let detected = detect(stream, dial, Patience { unfinished, silent }).await;
        let result = detected.as_ref().map_or_else(detect::Error::label, |detected| detected.spoken.label());
        let labels = Labels::server(&policy.meta, arrival.target.port()).and(&Labels::new([("result", result)]));
        self.http.metrics.count(Event::InboundTcpDetected, &labels);
        let Detected { spoken, client, server } = detected?;
        // The server's bytes are put before those that were put before it.
        let server = server.map(|server| server.map(flatten));
        Ok((spoken, client, server))
    }

    /// Puts the connection on record and carries it, blindly or request by request.
    async fn forward(
        &self,
        arrival: Arrival,
        policy: watch::Receiver<Arc<ServerPolicy>>,
        protocol: Protocol,
        stream: Box<dyn Stream>,
        dialled: Dialled,
    ) -> Result<(), Error> {
        if protocol == Protocol::Opaque {
            return self.forward_bytes(arrival, policy, stream, dialled).await;
        }
        let open = Arc::new(self.open(&arrival, &policy.borrow().clone(), protocol));
        let stream = Counted::new(stream, open.entry.counts(), open.transport.totals());
        let dialled = dialled.and_then(Result::ok).map(|app| Box::new(app) as Box<dyn Stream>);
        let session = Session {
            http: self.http.clone(),
            client: arrival.client(),
            target: arrival.target,
            policy,
            labels: arrival.labels(),
            open: Some(open),
            dialled: Mutex::new(dialled),
            kinds: Mutex::default(),
        };
        http::serve(session, protocol, stream).await.map_err(Error::Http)
    }

    async fn forward_bytes(
        &self,
        arrival: Arrival,
        mut policy: watch::Receiver<Arc<ServerPolicy>>,
        stream: Box<dyn Stream>,
        dialled: Dialled,
    ) -> Result<(), Error> {
        let permitted = self.permit_bytes(&arrival, &mut policy)?;
        let app = match dialled {
            Some(dialled) => dialled?,
            None => self.http.apps.connect(arrival.target).await?.into(),
        };
        self.carry_bytes(&arrival, policy, &permitted, stream, app).await
    }

    /// Whether the client may exchange blind bytes with the app.
    fn permit_bytes(
        &self,
        arrival: &Arrival,
        policy: &mut watch::Receiver<Arc<ServerPolicy>>,
    ) -> Result<Permitted, Error> {
        // Blind bytes may be HTTP that says of its client what it likes.
        if self.options.tells_client_ip {
            return Err(Error::OnlyHttp);
        }
        let in_force = policy.borrow_and_update().clone();
        let labels = Labels::server(&in_force.meta, arrival.target.port());
        let labels = arrival.labels().and(&labels);
        let permit = in_force
            .authorize_connection(&arrival.client())
            .inspect_err(|_| self.http.metrics.count(Event::InboundTcpDenied, &labels))?;
        let permitted = labels.and(&Labels::meta("authz", permit.authorization()));
        self.http.metrics.count(Event::InboundTcpAllowed, &permitted);
        if permit.is_audit() {
            tracing::info!(client = %arrival.client, target = %arrival.target, "permitted by the audit policy only");
        }
        Ok(Permitted { in_force, labels })
    }

    async fn carry_bytes(
        &self,
        arrival: &Arrival,
        mut policy: watch::Receiver<Arc<ServerPolicy>>,
        permitted: &Permitted,
        stream: impl Stream,
        app: Prefixed<TcpStream>,
    ) -> Result<(), Error> {
        let client = arrival.client();
        let open = self.open(arrival, &permitted.in_force, Protocol::Opaque);
        let stream = Counted::new(stream, open.entry.counts(), open.transport.totals());
        tokio::select! {
            carried = tcp::carry(stream, app, &self.http.drain) => {
                Ok(carried.inspect_err(|error| open.transport.failed(error.io()))?)
            }
            () = revoked(&mut policy, &client) => {
                self.http.metrics.count(Event::InboundTcpTerminated, &permitted.labels);
                Err(Error::Revoked)
            }
        }
    }

    fn open(&self, arrival: &Arrival, policy: &ServerPolicy, protocol: Protocol) -> Open {
        let Arrival { client, server, target, security } = arrival.clone();
        let entry = self.connections.open(Opened {
            direction: Direction::Inbound,
            client,
            server,
            target,
            authority: None,
            protocol,
            security,
            labels: Default::default(),
        });
        let labels = Labels::direction(Direction::Inbound)
            .and(&Labels::new([("peer", "src")]))
            .and(&arrival.labels())
            .and(&Labels::server(&policy.meta, target.port()));
        Open { entry, transport: self.http.metrics.transport(&labels) }
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
        let label = match error {
            Error::Detect(detect::Error::Silent(_)) => "tls detection timeout",
            Error::App(_) | Error::Carry(_) | Error::Detect(_) | Error::Http(_) => "i/o",
            Error::Crowded => "loadshed",
            Error::Gateway(_) => "gateway domain invalid",
            _ => "unexpected",
        };
        self.http.metrics.count(Event::InboundTcpErrors, &Labels::new([("error", label)]));
        tracing::debug!(%client, error = %error_chain(error), "an inbound connection ended");
    }
}

/// The policy that let blind bytes through, and its labels.
struct Permitted {
    in_force: Arc<ServerPolicy>,
    labels: Labels,
}

/// What became of connecting to the app, if that has been tried.
type Dialled = Option<Result<Prefixed<TcpStream>, AppError>>;

impl Arrival {
    fn client(&self) -> Client {
        Client { address: self.client, tls: ClientTls::from(&self.security) }
    }

    fn labels(&self) -> Labels {
        Labels::target(self.target).and(&Labels::tls(Direction::Inbound, &self.security))
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

fn session_protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http1 => "http/1",
        Protocol::Http2 => "http/2",
        Protocol::Opaque => "",
    }
}

/// A dual-stack listener shows IPv4 as mapped addresses.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn flatten<S>(stream: Prefixed<Prefixed<S>>) -> Prefixed<S> {
    let (later, inner) = stream.into_parts();
    let (earlier, stream) = inner.into_parts();
    Prefixed::new([later, earlier].concat(), stream)
}

/// Resolves when a change of policy puts the client out.
async fn revoked(policy: &mut watch::Receiver<Arc<ServerPolicy>>, client: &Client) {
    loop {
        if policy.changed().await.is_err() {
            // Nobody is left to change it.
            return pending().await;
        }
        if policy.borrow_and_update().authorize_connection(client).is_err() {
            return;
        }
    }
}
