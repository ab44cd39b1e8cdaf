//! Channels to the control plane: gRPC requests in, responses out, over one HTTP/2 connection that is made anew when lost.
//!
//! In: the address of a service and the identity it must prove. Out: a [`Channel`], which clients of `linkerd2-proxy-api` take as
//! their transport. A service at a loopback address is in this very pod and spoken to in plaintext.
//!
//! A request waits, for a bounded time, until there is a connection: who asks first while the control plane starts is answered within
//! milliseconds of its being there. Nothing about names is remembered: each connection asks DNS anew, because an answer from
//! before the service existed would be believed for half a minute.
//!
//! Start at [`Channel::new`].

mod names;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::seq::SliceRandom as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};

use super::http::sender::{self, Failed, shared};
use super::http::{Body as Answer, Ends, Kept, grpc_status};
use super::metrics::{Labels, Metrics, Outcome, Requests, Started};
use super::settings::ControlAddr;
use super::tls::{self, Alpn, Tls};
use crate::mesh::Identity;
use crate::mesh::connection::{Direction, PlaintextReason, Security};
use crate::net::backoff::Backoff;
use crate::net::drain::Drain;
use crate::net::fair;
use crate::net::own;
use crate::telemetry::error_chain;

/// How long a request waits for a connection. Long enough for a control plane that restarts; after that its caller should say so.
const CONNECTION_WAIT: Duration = Duration::from_secs(10);
/// Between nodes connecting takes a round trip; whoever takes longer has a successor in the list.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// TLS and HTTP/2 together take three round trips and some milliseconds of CPU, on a busy node many.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// How many addresses one attempt tries. Replicas are few; those left over get their turn, for the order is random.
const ADDRESSES_MAX: usize = 4;
/// The waits between attempts. The control plane is mostly missing for as long as its pods take to start, so for a while it is
/// asked for often;
const RETRY_FIRST: Duration = Duration::from_millis(70);
const RETRY_LONGEST_EAGER: Duration = Duration::from_millis(500);
const EAGER_FOR: Duration = Duration::from_secs(30);
/// past that, every proxy of a cluster asking each second would be what keeps it down.
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// A node that vanished closes nothing: pings tell within half a minute. More often would be felt by a control plane with
/// thousands of proxies.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// What may be under way unread: messages are small, but a service with a thousand endpoints is one of them.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// A connection to one service of the control plane, made when it is needed. Clones share it.
#[derive(Clone)]
pub struct Channel {
    inner: Arc<Inner>,
    /// Counts the requests, where they are.
    requests: Option<Requests>,
}

struct Inner {
    address: ControlAddr,
    authority: Authority,
    /// None in this very pod.
    secure: Option<Secure>,
    tasks: Drain,
    link: Mutex<Link>,
    attempts_failed: AtomicU64,
}

struct Secure {
    tls: Tls,
    server: Identity,
    /// Whether the service is to learn who we are.
    is_mutual: bool,
}

type Sender = sender::Sender<http2::SendRequest<Body>>;

/// The connection there is, or how it goes with getting one.
struct Link {
    sender: Option<Sender>,
    retry: Retry,
    retry_at: Instant,
}

/// The waits between attempts to reach the control plane: short for the first half minute of its absence, then patient.
#[derive(Debug)]
pub(super) struct Retry {
    failing_since: Option<Instant>,
    backoff: Backoff,
}

impl Retry {
    pub(super) fn new() -> Self {
        Self { failing_since: None, backoff: Backoff::new(RETRY_FIRST, RETRY_LONGEST) }
    }

    /// How long to wait after another failure.
    pub(super) fn delay(&mut self) -> Duration {
        let delay = self.backoff.delay();
        if self.failing_since.get_or_insert_with(Instant::now).elapsed() < EAGER_FOR {
            return delay.min(RETRY_LONGEST_EAGER.mul_f64(rand::random_range(0.5..1.0)));
        }
        delay
    }

    /// For how long nothing has worked.
    pub(super) fn failing_for(&self) -> Duration {
        self.failing_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }
}

/// Why there can be no channel to an address.
#[derive(Debug, thiserror::Error)]
pub enum InvalidControl {
    #[error("{0} cannot be the authority of a request")]
    Authority(ControlAddr),
    #[error("which identity the service at {0} must prove is not set")]
    NoServerIdentity(ControlAddr),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Resolve(#[from] names::Error),
    #[error("cannot connect to {0}")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("connecting to {0} took more than {CONNECT_TIMEOUT:?}")]
    ConnectTimeout(SocketAddr),
    #[error("cannot secure the connection to {0}")]
    Tls(SocketAddr, #[source] tls::Error),
    #[error("cannot speak HTTP/2 with {0}")]
    Http(SocketAddr, #[source] hyper::Error),
    #[error("the handshake with {0} took more than {HANDSHAKE_TIMEOUT:?}")]
    HandshakeTimeout(SocketAddr),
}

impl Channel {
    /// A channel to the service at `address`, which must prove to be `server` unless it is in this very pod.
    ///
    /// Requests wait until this proxy can prove itself too: a connection made before would stay anonymous for as long as it lives.
    ///
    /// `tasks` holds the connection's task. It should not be the drain of the proxy's own connections: those need the control
    /// plane until the last of them has ended.
    ///
    /// # Errors
    /// Where the server's identity is missing.
    pub fn new(
        address: ControlAddr,
        server: Option<Identity>,
        tls: &Tls,
        tasks: Drain,
    ) -> Result<Self, InvalidControl> {
        Self::with(address, server, tls, tasks, true)
    }

    /// A channel to the identity service, which is spoken to with a certificate or, for the first one, without.
    ///
    /// # Errors
    /// Where the server's identity is missing.
    pub(super) fn to_identity(
        address: ControlAddr,
        server: Option<Identity>,
        tls: &Tls,
        tasks: Drain,
    ) -> Result<Self, InvalidControl> {
        Self::with(address, server, tls, tasks, false)
    }

    fn with(
        address: ControlAddr,
        server: Option<Identity>,
        tls: &Tls,
        tasks: Drain,
        is_mutual: bool,
    ) -> Result<Self, InvalidControl> {
        let authority = address.to_string().parse().map_err(|_| InvalidControl::Authority(address.clone()))?;
        let secure = match (address.is_loopback(), server) {
            (true, _) => None,
            (false, Some(server)) => Some(Secure { tls: tls.clone(), server, is_mutual }),
            (false, None) => return Err(InvalidControl::NoServerIdentity(address)),
        };
        let link = Link { sender: None, retry: Retry::new(), retry_at: Instant::now() };
        let inner =
            Inner { address, authority, secure, tasks, link: Mutex::new(link), attempts_failed: AtomicU64::new(0) };
        Ok(Self { inner: Arc::new(inner), requests: None })
    }

    /// The same channel, whose requests are counted from now on.
    pub fn counted(self, metrics: &Metrics) -> Self {
        let labels = Labels::new([("addr", self.inner.address.to_string())]).and(&match &self.inner.secure {
            Some(secure) => Labels::new([("tls", "true".to_owned()), ("server_id", secure.server.to_string())]),
            None => Labels::tls(Direction::Outbound, &Security::Plaintext { reason: PlaintextReason::Loopback }),
        });
        Self { requests: Some(metrics.control_requests(labels)), ..self }
    }

    pub fn address(&self) -> &ControlAddr {
        &self.inner.address
    }

    /// How often connecting has failed, since the channel was made.
    pub fn attempts_failed(&self) -> u64 {
        self.inner.attempts_failed.load(Ordering::Relaxed)
    }

    /// Waits until there is a connection.
    ///
    /// # Errors
    /// Where there is none in time.
    pub(super) async fn connected(&self) -> Result<(), Status> {
        self.sender().await.map(drop)
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Answer>, Status> {
        let started = self.requests.as_ref().map(Requests::start);
        match self.ask(request).await {
            Ok(response) => Ok(answer(response, started)),
            Err(status) => {
                let error = if status.code() == Code::Unavailable { "unavailable" } else { "unclassified" };
                if let Some(started) = started {
                    started.end(&Outcome { status: 0, grpc_status: None, error: error.into() });
                }
                Err(status)
            }
        }
    }

    async fn ask(&self, mut request: Request<Body>) -> Result<Response<Incoming>, Status> {
        *request.uri_mut() = self.uri(request.uri());
        // A connection may die between being chosen and being used; the request then comes back unsent, and tries one more.
        let mut may_retry = true;
        loop {
            let sender = self.sender().await?;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(Failed::Unsent { request: returned, .. }) if may_retry => {
                    request = *returned;
                    may_retry = false;
                }
                Err(Failed::Unsent { why: None, .. }) => {
                    return Err(Status::unavailable("the control plane had ended the connection"));
                }
                Err(Failed::Unsent { why: Some(error), .. } | Failed::Lost(error)) => {
                    return Err(Status::from_error(Box::new(error)));
                }
            }
        }
    }

    /// A connection that is ready: the one there is, or a new one.
    async fn sender(&self) -> Result<Sender, Status> {
        let deadline = Instant::now() + CONNECTION_WAIT;
        let mut failed = None;
        let connected = async {
            let mut link = self.inner.link.lock().await;
            loop {
                if let Some(sender) = &link.sender {
                    if sender.ready().await {
                        return sender.clone();
                    }
                    link.sender = None;
                }
                if let Some(secure) = self.inner.secure.as_ref().filter(|secure| secure.is_mutual) {
                    secure.tls.certified().await;
                }
                sleep_until(link.retry_at).await;
                match self.inner.connect().await {
                    Ok(sender) => {
                        link.retry.reset();
                        link.sender = Some(sender);
                    }
                    Err(error) => {
                        self.inner.attempts_failed.fetch_add(1, Ordering::Relaxed);
                        tracing::debug!(service = %self.inner.address, error = error_chain(&error), "cannot reach the control plane");
                        failed = Some(error);
                        link.retry_at = Instant::now() + link.retry.delay();
                    }
                }
            }
        };
        match timeout_at(deadline, connected).await {
            Ok(sender) => Ok(sender),
            Err(_) => Err(Status::unavailable(match failed {
                Some(error) => format!("cannot reach {}: {}", self.inner.address, error_chain(&error)),
                None => format!("cannot reach {} within {CONNECTION_WAIT:?}", self.inner.address),
            })),
        }
    }

    /// `http://<authority><path>`: the scheme is `http` within TLS too, as the services of the control plane expect.
    fn uri(&self, asked: &Uri) -> Uri {
        let mut parts = Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.inner.authority.clone());
        parts.path_and_query = Some(asked.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
        Uri::from_parts(parts).unwrap_or_else(|_| asked.clone())
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.inner.address).finish()
    }
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Answer>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Answer>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let channel = self.clone();
        Box::pin(async move { channel.send(request).await })
    }
}

/// A stream of the control plane's, which is counted when it ends.
fn answer(response: Response<Incoming>, started: Option<Started>) -> Response<Answer> {
    let ends = Ends {
        started,
        status: response.status().as_u16(),
        is_grpc: true,
        grpc_status: grpc_status(response.headers()),
        access: None,
        kept: Kept::until(|_| ()),
    };
    response.map(|incoming| Answer::streamed(incoming, ends))
}

impl Inner {
    /// Tries the addresses of the service, in random order, until one answers.
    async fn connect(&self) -> Result<Sender, Error> {
        let mut addresses = names::resolve(&self.address).await?;
        addresses.shuffle(&mut rand::rng());
        let mut failed = names::Error::NoAddress(self.address.host.clone()).into();
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            match self.connect_to(address).await {
                Ok(sender) => {
                    tracing::debug!(service = %self.address, %address, "connected to the control plane");
                    return Ok(sender);
                }
                // Of several reasons the one that got farthest tells most.
                Err(error) if !matches!(failed, Error::Tls(..) | Error::Http(..)) => failed = error,
                Err(_) => {}
            }
        }
        Err(failed)
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<Sender, Error> {
        let stream = fair::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| Error::ConnectTimeout(address))?
            .map_err(|error| Error::Connect(address, error))?;
        own::note(&stream, address);
        prepare(&stream).map_err(|error| Error::Connect(address, error))?;
        let shaken_hands = async {
            match &self.secure {
                None => self.speak(stream, address).await,
                Some(secure) => {
                    let server = &secure.server;
                    let connected = secure.tls.connect(stream, server, server.as_str(), Alpn::None).await;
                    self.speak(connected.map_err(|error| Error::Tls(address, error))?.stream, address).await
                }
            }
        };
        fair::timeout(HANDSHAKE_TIMEOUT, shaken_hands).await.map_err(|_| Error::HandshakeTimeout(address))?
    }

    async fn speak<S>(&self, stream: S, address: SocketAddr) -> Result<Sender, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if self.secure.is_some() {
            // Not within the pod: some servers there take pings for an attack, and a process that ends closes its sockets.
            http.keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT).keep_alive_while_idle(true);
        }
        let (sender, connection) =
            http.handshake(TokioIo::new(stream)).await.map_err(|error| Error::Http(address, error))?;
        let (service, drain) = (self.address.clone(), self.tasks.clone());
        let (sender, ending) = shared(sender, Arc::default());
        self.tasks.spawn(async move {
            let _ending = ending;
            tokio::select! {
                ended = connection => match ended {
                    Ok(()) => tracing::debug!(%service, %address, "the connection to the control plane has ended"),
                    Err(error) => tracing::debug!(%service, %address, error = error_chain(&error), "lost the control plane"),
                },
                () = drain.started() => {}
            }
        });
        Ok(sender)
    }
}

/// Has the kernel notice a peer that vanished, also while there is nothing to send.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(PING_INTERVAL).with_interval(PING_TIMEOUT).with_retries(2))?;
    socket.set_tcp_user_timeout(Some(PING_INTERVAL + PING_TIMEOUT))
}

#[cfg(test)]
mod tests;
