//! HTTP to one endpoint: its connections, kept between requests.
//!
//! In: a request. Out: its response, or the request back when no byte of it was sent.
//! HTTP/2 shares one connection per endpoint; HTTP/1 takes one per request under way, and keeps idle ones for a moment. HTTP/1 to
//! a meshed endpoint travels in HTTP/2. What wants to become another protocol (`Upgrade`, `CONNECT`) gets an
//! HTTP/1 connection of its own.
//!
//! Start at [`Client::send`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;

use super::renamed::Renamed;
use super::{Connection, Connector, Error, Kept, Made, Records, Stream};
use crate::mesh::endpoint::{Hint, Server};
use crate::mesh::{Endpoint, Protocol};
use crate::proxy::http::{
    Body, HEADERS_MAX, HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW, cause, headers, interim, sender,
};
use crate::proxy::metrics::{Labels, Outcome, Requests, Started};
use crate::proxy::tls::{self, ENDING_MAX};
use crate::proxy::{orig_proto, respond};

/// Idle HTTP/1 connections kept per endpoint; a burst of more finds the rest again by connecting.
const HTTP1_IDLE_MAX: usize = 256;
/// Connections kept per endpoint whose opaque stream has ended, and for how long: an app that opens a connection for each of its requests
/// soon wants the next. Shorter than the peer keeps its end ([`crate::proxy::inbound`]).
const STREAMS_IDLE_MAX: usize = 64;
const STREAMS_IDLE: Duration = Duration::from_secs(10);
/// How often a request is tried on connections that turn out to have ended: once on what was kept, once on a new one.
const CONNECTIONS_MAX: usize = 2;

type SendHttp1 = sender::Sender<http1::SendRequest<Body>>;
/// When a connection must have ended, where it may not outlive its certificates.
type EndsAt = Option<tokio::time::Instant>;
type SendHttp2 = sender::Sender<http2::SendRequest<Body>>;

/// What reaches one endpoint of one authority.
#[derive(Debug)]
pub struct Client {
    connector: Arc<Connector>,
    pub endpoint: Endpoint,
    authority: Option<Arc<str>>,
    /// What the service is called behind a gateway.
    renamed: Option<Renamed>,
    /// Made once: these label everything that goes to the endpoint.
    labels: Labels,
    pub requests: Requests,
    http2: Mutex<Http2>,
    http1: Mutex<Vec<Idle>>,
    streams: Mutex<Vec<Kept>>,
}

/// The shared connection.
#[derive(Debug, Default)]
enum Http2 {
    #[default]
    None,
    /// All who need it wait for the same attempt.
    Connecting(watch::Receiver<Option<Result<Shared, Arc<Error>>>>),
    Open(Shared),
}

#[derive(Clone, Debug)]
struct Shared {
    sender: SendHttp2,
    /// Gone with the connection.
    records: Weak<Records>,
}

#[derive(Debug)]
struct Idle {
    sender: SendHttp1,
    records: Weak<Records>,
    ends_at: EndsAt,
    since: Instant,
}

/// The head of a response, and the count of its request, which ends with the body.
#[derive(Debug)]
pub struct Answered {
    pub response: Response<Incoming>,
    pub started: Started,
}

/// In the extensions of a response to an upgrade: keeps the connection on record while it is carried on.
#[derive(Clone, Debug)]
pub struct Upgraded {
    _records: Option<Arc<Records>>,
    pub ends_at: EndsAt,
}

/// Why there is no response.
#[derive(Debug)]
pub enum Failed {
    /// No byte was sent, so the request may go elsewhere.
    Unsent { request: Box<Request<Body>>, error: Arc<Error> },
    /// The server may have acted on it.
    Lost(hyper::Error),
}

impl Client {
    pub fn new(connector: Arc<Connector>, endpoint: Endpoint, authority: Option<Arc<str>>) -> Self {
        let labels = connector.labels(&endpoint, authority.as_deref());
        let renamed = Renamed::of(&endpoint);
        let requests =
            connector.metrics.requests(Labels::direction(crate::mesh::connection::Direction::Outbound).and(&labels));
        Self {
            connector,
            endpoint,
            authority,
            renamed,
            labels,
            requests,
            http2: Mutex::default(),
            http1: Mutex::default(),
            streams: Mutex::default(),
        }
    }

    /// Opens a connection of its own, to carry bytes blindly.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    pub async fn connect(&self, protocol: Protocol) -> Result<Connection, Error> {
        let authority = self.authority.as_deref();
        while let Some(kept) = (protocol == Protocol::Opaque).then(|| self.take_stream()).flatten() {
            match self.connector.again(kept, &self.endpoint, authority, &self.labels).await {
                Ok(connection) => return Ok(connection),
                Err(error) => tracing::debug!(%error, "a kept connection is of no more use"),
            }
        }
        self.connector.connect(&self.endpoint, protocol, authority, &self.labels).await
    }

    /// Takes back what carried an opaque stream to its end.
    pub fn keep_stream(&self, stream: Stream, made: Made) {
        if self.connector.drain.has_started() {
            return;
        }
        let Some(stream) = stream.into_connection() else { return };
        let mut streams = lock(&self.streams);
        if streams.len() < STREAMS_IDLE_MAX {
            streams.push(Kept { stream, made, since: Instant::now() });
        }
    }

    fn take_stream(&self) -> Option<Kept> {
        let mut streams = lock(&self.streams);
        while let Some(kept) = streams.pop() {
            if kept.since.elapsed() < STREAMS_IDLE && kept.may_be_used(&self.connector) {
                return Some(kept);
            }
        }
        None
    }

    /// Says whether the endpoint can be reached again.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    pub async fn probe(&self) -> Result<(), Error> {
        self.connector.probe(&self.endpoint).await
    }

    /// Sends the request and waits for the head of its response. The request comes without the headers of the connection it came by,
    /// but for those of an upgrade.
    ///
    /// # Errors
    /// Where there is no response.
    pub async fn send(self: &Arc<Self>, request: Box<Request<Body>>) -> Result<Answered, Failed> {
        let mut answered = match &self.renamed {
            None => self.ask(request).await?,
            Some(renamed) => Box::pin(self.ask_renamed(renamed, request)).await?,
        };
        if !self.has_proxy() {
            respond::forget_proxies_words(answered.response.headers_mut());
        }
        Ok(answered)
    }

    async fn ask_renamed(
        self: &Arc<Self>,
        renamed: &Renamed,
        mut request: Box<Request<Body>>,
    ) -> Result<Answered, Failed> {
        let before = renamed.rename(&mut request);
        let version = request.version();
        match self.ask(request).await {
            Err(Failed::Unsent { mut request, error }) => {
                *request.version_mut() = version;
                before.restore(&mut request);
                Err(Failed::Unsent { request, error })
            }
            answered => answered,
        }
    }

    async fn ask(self: &Arc<Self>, mut request: Box<Request<Body>>) -> Result<Answered, Failed> {
        if self.endpoint.authority_override.is_some() {
            // The name of a target means nothing in another cluster.
            headers::take(request.headers_mut(), &respond::DST_CANONICAL);
        }
        if request.version() == Version::HTTP_2 {
            return self.send_http2(request).await;
        }
        if !orig_proto::may_upgrade(&request) {
            return self.send_upgrade(request).await;
        }
        let version = request.version();
        if !self.carries_http1_in_http2() {
            if request.headers().contains_key(http::header::HOST) {
                // Servers of 1.1 serve clients of 1.0, whose bodies hyper could not send on where their length is not known.
                *request.version_mut() = Version::HTTP_11;
            }
            return self.send_http1(request).await;
        }
        orig_proto::upgrade_request(&mut request);
        if request.uri().authority().is_none() {
            // HTTP/2 has no place for a request that names no host, but for those forwarded from HTTP/1.
            *request.version_mut() = version;
        }
        match self.send_http2(request).await {
            Ok(mut answered) => {
                orig_proto::downgrade_response(&mut answered.response, version);
                Ok(answered)
            }
            Err(Failed::Unsent { mut request, error }) => {
                *request.version_mut() = Version::HTTP_2;
                orig_proto::downgrade_request(&mut request);
                Err(Failed::Unsent { request, error })
            }
            Err(lost) => Err(lost),
        }
    }

    fn carries_http1_in_http2(&self) -> bool {
        self.endpoint.hint == Hint::Http2 && self.has_proxy()
    }

    /// Whether it is a proxy that answers, and not the server itself.
    pub fn has_proxy(&self) -> bool {
        matches!(self.endpoint.server, Server::Meshed { .. }) && !self.is_local()
    }

    /// Whether it is this pod's own app that answers.
    pub fn is_local(&self) -> bool {
        self.connector.is_local(&self.endpoint)
    }

    async fn send_http2(self: &Arc<Self>, mut request: Box<Request<Body>>) -> Result<Answered, Failed> {
        let mut attempt = 1;
        loop {
            let Shared { sender, records } = match self.shared().await {
                Ok(shared) => shared,
                Err(error) => return Err(Failed::Unsent { request, error }),
            };
            let started = self.start(&records);
            match sender.try_send_request(*request).await {
                Ok(response) => return Ok(Answered { response, started }),
                Err(failed) => match self.failed(failed, started) {
                    Failed::Unsent { request: unsent, .. } if attempt < CONNECTIONS_MAX => request = unsent,
                    failed => return Err(failed),
                },
            }
            attempt += 1;
        }
    }

    async fn send_http1(self: &Arc<Self>, mut request: Box<Request<Body>>) -> Result<Answered, Failed> {
        let mut attempt = 1;
        loop {
            let kept = if attempt < CONNECTIONS_MAX { self.take_idle() } else { None };
            let (sender, records, ends_at) = match kept {
                Some(idle) => (idle.sender, idle.records, idle.ends_at),
                None => match Box::pin(self.connect_http1()).await {
                    Ok(connected) => connected,
                    Err(error) => return Err(Failed::Unsent { request, error: Arc::new(error) }),
                },
            };
            let started = self.start(&records);
            match sender.try_send_request(*request).await {
                Ok(response) => {
                    self.keep(sender, records, ends_at);
                    return Ok(Answered { response, started });
                }
                Err(failed) => match self.failed(failed, started) {
                    Failed::Unsent { request: unsent, .. } if attempt < CONNECTIONS_MAX => request = unsent,
                    failed => return Err(failed),
                },
            }
            attempt += 1;
        }
    }

    async fn send_upgrade(self: &Arc<Self>, request: Box<Request<Body>>) -> Result<Answered, Failed> {
        let (sender, records, ends_at) = match Box::pin(self.connect_http1()).await {
            Ok(connected) => connected,
            Err(error) => return Err(Failed::Unsent { request, error: Arc::new(error) }),
        };
        let started = self.start(&records);
        let open = records.upgrade();
        match sender.try_send_request(*request).await {
            Ok(mut response) => {
                response.extensions_mut().insert(Upgraded { _records: open, ends_at });
                Ok(Answered { response, started })
            }
            Err(failed) => Err(self.failed(failed, started)),
        }
    }

    /// Counts a request that has a connection to go by.
    fn start(&self, records: &Weak<Records>) -> Started {
        if let Some(records) = records.upgrade() {
            records.add_request();
        }
        self.requests.start()
    }

    fn failed(&self, failed: sender::Failed<Body>, started: Started) -> Failed {
        let address = self.endpoint.address;
        let (failed, error) = match failed {
            sender::Failed::Lost(source) => {
                let error = cause(&source);
                (Failed::Lost(source), error)
            }
            sender::Failed::Unsent { request, why: Some(source) } => {
                let error = cause(&source);
                (Failed::Unsent { request, error: Arc::new(Error::Http { address, source }) }, error)
            }
            sender::Failed::Unsent { request, why: None } => {
                (Failed::Unsent { request, error: Arc::new(Error::Ended { address }) }, "unclassified".into())
            }
        };
        started.end(&Outcome { status: 0, grpc_status: None, error: error.into() });
        failed
    }

    /// The shared HTTP/2 connection, opened by whoever comes first.
    async fn shared(self: &Arc<Self>) -> Result<Shared, Arc<Error>> {
        let mut attempt = {
            let mut http2 = lock(&self.http2);
            match &*http2 {
                Http2::Open(shared) if !shared.sender.is_closed() => return Ok(shared.clone()),
                Http2::Connecting(attempt) => attempt.clone(),
                Http2::None | Http2::Open(_) => {
                    let (tell, attempt) = watch::channel(None);
                    *http2 = Http2::Connecting(attempt.clone());
                    // A task of its own: the one who asked first may go away, and others wait too.
                    let client = self.clone();
                    self.connector.drain.spawn(async move {
                        let outcome = client.connect_http2().await.map_err(Arc::new);
                        *lock(&client.http2) = match &outcome {
                            Ok(shared) => Http2::Open(shared.clone()),
                            Err(_) => Http2::None,
                        };
                        tell.send_replace(Some(outcome));
                    });
                    attempt
                }
            }
        };
        let outcome = attempt.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            // The task always tells, unless it was cut off with the process.
            Ok(None) | Err(_) => Err(Arc::new(Error::Timeout {
                address: self.endpoint.address,
                timeout: self.connector.options.connect_timeout,
            })),
        }
    }

    async fn connect_http2(self: &Arc<Self>) -> Result<Shared, Error> {
        let Connection { stream, records, ends_at, .. } = self.connect(Protocol::Http2).await?;
        let settings = &self.endpoint.http2;
        let mut builder = http2::Builder::new(self.connector.drain.clone());
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(HEADERS_MAX as u32)
            .initial_stream_window_size(settings.stream_window.unwrap_or(HTTP2_STREAM_WINDOW))
            .initial_connection_window_size(settings.connection_window.unwrap_or(HTTP2_CONNECTION_WINDOW));
        if settings.adaptive_window {
            builder.adaptive_window(true);
        }
        if let Some((interval, timeout)) = settings.keepalive {
            builder.keep_alive_interval(interval).keep_alive_timeout(timeout).keep_alive_while_idle(true);
        }
        let (stream, asked) = interim::http2(stream);
        let begun = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = begun.map_err(|source| Error::Http { address: self.endpoint.address, source })?;
        let records = Arc::new(records);
        let (sender, ending) = sender::shared(sender, asked);
        let shared = Shared { sender, records: Arc::downgrade(&records) };
        let (address, client) = (self.endpoint.address, Arc::downgrade(self));
        self.connector.drain.spawn(async move {
            let _ending = ending;
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = tls::end(ends_at) => {
                    // Nobody begins another request on it, and it ends after the last.
                    if let Some(client) = client.upgrade() {
                        client.forget_http2(&records);
                    }
                    tokio::time::timeout(ENDING_MAX, connection).await.unwrap_or(Ok(()))
                }
            };
            close(records, ended, address);
        });
        Ok(shared)
    }

    fn forget_http2(&self, records: &Arc<Records>) {
        let mut http2 = lock(&self.http2);
        if matches!(&*http2, Http2::Open(shared) if shared.records.as_ptr() == Arc::as_ptr(records)) {
            *http2 = Http2::None;
        }
    }

    async fn connect_http1(&self) -> Result<(SendHttp1, Weak<Records>, EndsAt), Error> {
        let Connection { stream, records, ends_at, .. } = self.connect(Protocol::Http1).await?;
        let (stream, asked) = interim::http1(stream);
        let begun = http1::Builder::new().max_header_size(HEADERS_MAX).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = begun.map_err(|source| Error::Http { address: self.endpoint.address, source })?;
        let records = Arc::new(records);
        let weak = Arc::downgrade(&records);
        let address = self.endpoint.address;
        let (sender, ending) = sender::shared(sender, asked);
        self.connector.drain.spawn(async move {
            let _ending = ending;
            // An upgraded connection goes on in the hands of whoever took it, with [`Upgraded`] its records.
            let ended = connection.with_upgrades().await;
            close(records, ended, address);
        });
        Ok((sender, weak, ends_at))
    }

    fn take_idle(&self) -> Option<Idle> {
        let mut idle = lock(&self.http1);
        // The latest kept is the least likely to have been closed by the server.
        while let Some(kept) = idle.pop() {
            let has_ended = kept.ends_at.is_some_and(|at| at <= tokio::time::Instant::now());
            if kept.sender.is_ready() && kept.since.elapsed() < self.connector.options.http1_idle_timeout && !has_ended
            {
                return Some(kept);
            }
        }
        None
    }

    /// Keeps a connection once its response has been read.
    fn keep(self: &Arc<Self>, sender: SendHttp1, records: Weak<Records>, ends_at: EndsAt) {
        let client = Arc::downgrade(self);
        let drain = self.connector.drain.clone();
        self.connector.drain.spawn(async move {
            if !sender.ready().await || drain.has_started() {
                return;
            }
            let Some(client) = client.upgrade() else { return };
            let mut idle = lock(&client.http1);
            if idle.len() < HTTP1_IDLE_MAX {
                idle.push(Idle { sender, records, ends_at, since: Instant::now() });
            }
        });
    }

    /// Closes connections that have been idle for too long.
    pub fn sweep(&self) {
        let timeout = self.connector.options.http1_idle_timeout;
        lock(&self.streams).retain(|kept| kept.since.elapsed() < STREAMS_IDLE);
        lock(&self.http1).retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < timeout);
    }
}

fn close(records: Arc<Records>, ended: hyper::Result<()>, address: std::net::SocketAddr) {
    let Err(error) = ended else { return };
    tracing::debug!(%address, %error, "a connection to an endpoint ended");
    if let Ok(mut records) = Arc::try_unwrap(records) {
        let kind = match std::error::Error::source(&error).and_then(|source| source.downcast_ref::<std::io::Error>()) {
            Some(source) => source.kind(),
            None => std::io::ErrorKind::Other,
        };
        records.failed(&kind.into());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_needs_no_place_for_connecting() {
        let endpoint = Endpoint::plain("10.0.0.1:80".parse().unwrap());
        let client = Arc::new(Client::new(super::super::tests::connector(), endpoint, None));
        let sending = client.send(Box::new(Request::new(Body::default())));
        // It is made, moved and dropped with each request.
        assert!(size_of_val(&sending) <= 4096, "{} bytes", size_of_val(&sending));
    }
}
