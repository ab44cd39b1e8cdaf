//! The connections to this pod's app, by port, kept between requests.
//!
//! In: a request of HTTP/1 or HTTP/2. Out: its response. HTTP/1 takes a connection per request under way, and keeps idle ones for a
//! moment; HTTP/2 shares one. The connection that detection made while the client was silent is used first.
//!
//! Start at [`Apps::of`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::dialled::Dialled;
use super::interim;
use super::repeat::{self, Again, Unserved};
use super::sender;
use super::{Body, HEADERS_MAX, HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW};
use crate::net::drain::Drain;
use crate::net::fair;
use crate::net::stream::Stream;
use crate::proxy::metrics::{Labels, Metrics};

/// Idle HTTP/1 connections kept per port; a burst of more connects again.
const IDLE_MAX: usize = 128;
/// Ports of which connections are kept. A pod has a handful; a peer that names others finds nobody there.
const PORTS_MAX: usize = 256;

type Http1 = sender::Sender<http1::SendRequest<Body>>;
type Http2 = sender::Sender<http2::SendRequest<Body>>;

/// How the app is reached.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
}

/// The app's ports. Clones are the same.
#[derive(Clone, Debug)]
pub struct Apps(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connector: Arc<Connector>,
    drain: Drain,
    apps: Mutex<HashMap<SocketAddr, Arc<App>>>,
}

/// Makes connections, and counts them.
#[derive(Debug)]
struct Connector {
    options: Options,
    metrics: Metrics,
    labels: Labels,
}

/// One port of the app.
#[derive(Debug)]
pub struct App {
    target: SocketAddr,
    connector: Arc<Connector>,
    drain: Drain,
    idle: Mutex<Vec<Idle>>,
    shared: tokio::sync::Mutex<Option<Http2>>,
}

#[derive(Debug)]
struct Idle {
    sender: Http1,
    since: Instant,
}

/// Why there is no response from the app.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to the app at {target}")]
    Connect {
        target: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("connecting to the app at {target} took more than {timeout:?}")]
    ConnectTimeout { target: SocketAddr, timeout: Duration },
    #[error("the app at {target} broke off")]
    Lost {
        target: SocketAddr,
        #[source]
        source: hyper::Error,
    },
    #[error("the app at {target} had ended the connection")]
    Ended { target: SocketAddr },
}

impl Error {
    /// What is sure about the request, if anything: then it may be sent again.
    pub fn unserved(&self, is_idempotent: bool) -> Option<Unserved> {
        match self {
            Self::Connect { .. } | Self::ConnectTimeout { .. } | Self::Ended { .. } => Some(Unserved::Unsent),
            Self::Lost { source, .. } if is_idempotent && is_unanswered(source) => Some(Unserved::Unanswered),
            Self::Lost { .. } => None,
        }
    }
}

/// Whether the app closed the connection without a word.
fn is_unanswered(source: &hyper::Error) -> bool {
    let cause = std::error::Error::source(source).and_then(|cause| cause.downcast_ref::<io::Error>());
    let is_gone =
        |cause: &io::Error| matches!(cause.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
    source.is_incomplete_message() || cause.is_some_and(is_gone)
}

/// A response, and for HTTP/1 the connection that it holds until its end.
pub struct Answered {
    pub response: Response<Incoming>,
    pub connection: Option<Http1>,
}

impl Apps {
    pub fn new(options: Options, metrics: Metrics, drain: Drain) -> Self {
        let connector = Arc::new(Connector { options, metrics, labels: Dialled::labels() });
        let shared = Arc::new(Shared { connector, drain, apps: Mutex::default() });
        shared.drain.spawn(sweep(Arc::downgrade(&shared), shared.drain.clone()));
        Self(shared)
    }

    /// Connects to the app, for bytes or for the first request.
    ///
    /// # Errors
    /// Where nobody listens, or accepts in time.
    pub async fn connect(&self, target: SocketAddr) -> Result<Dialled, Error> {
        self.0.connector.connect(target).await
    }

    /// The app behind `target`.
    pub fn of(&self, target: SocketAddr) -> Arc<App> {
        let mut apps = self.0.apps();
        let full = apps.len() >= PORTS_MAX;
        match apps.entry(target) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(vacant) => {
                let app = Arc::new(App {
                    target,
                    connector: self.0.connector.clone(),
                    drain: self.0.drain.clone(),
                    idle: Mutex::default(),
                    shared: tokio::sync::Mutex::default(),
                });
                // One that is not kept works too, without keeping its connections for others.
                if full { app } else { vacant.insert(app).clone() }
            }
        }
    }
}

impl Shared {
    fn apps(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<App>>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what has been idle for too long, until the drain starts: then everything ends with its last request.
async fn sweep(shared: std::sync::Weak<Shared>, drain: Drain) {
    loop {
        let Some(every) =
            shared.upgrade().map(|shared| shared.connector.options.idle_timeout.max(Duration::from_secs(1)))
        else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = drain.started() => break,
        }
        let Some(shared) = shared.upgrade() else { return };
        shared.apps().retain(|_, app| {
            let timeout = shared.connector.options.idle_timeout;
            let is_fresh = |idle: &Idle| !idle.sender.is_closed() && idle.since.elapsed() < timeout;
            app.idle().retain(is_fresh);
            // It is locked while connecting, and so in use.
            let is_unused = app.shared.try_lock().is_ok_and(|mut shared| {
                shared.take_if(|sender| sender.is_closed());
                shared.is_none()
            });
            Arc::strong_count(app) > 1 || !is_unused || !app.idle().is_empty()
        });
    }
    let Some(shared) = shared.upgrade() else { return };
    let apps = std::mem::take(&mut *shared.apps());
    for app in apps.into_values() {
        app.idle().clear();
        // Also one that was being made when the drain started. The task of a connection ends with its last sender, and each stream under
        // way has one.
        app.shared.lock().await.take();
    }
}

impl App {
    /// Sends a request of HTTP/1, on `dialled` if that is given.
    ///
    /// # Errors
    /// Where there is no response.
    pub async fn send_http1(
        &self,
        mut request: Box<Request<Body>>,
        dialled: Option<Box<dyn Stream>>,
    ) -> Result<Answered, Error> {
        if let Some(stream) = dialled {
            let sender = self.begin_http1(stream).await?;
            return self.answer(sender.try_send_request(*request).await, sender).map_err(|(error, _)| error);
        }
        let mut again = None;
        while let Some(sender) = self.take_idle() {
            // The app may be closing it at this moment, so what may be asked twice is asked again.
            if again.is_none() && request.method().is_idempotent() {
                (request, again) = repeat::keep(request);
            }
            match self.answer(sender.try_send_request(*request).await, sender) {
                Ok(answered) => return Ok(answered),
                // The app had closed it meanwhile, and no byte was sent.
                Err((_, Some(unsent))) => request = unsent,
                Err((error, None)) => {
                    let again = again.as_ref().filter(|_| error.unserved(true).is_some());
                    request = again.and_then(Again::request).ok_or(error)?;
                }
            }
        }
        let sender = self.begin_http1(Box::new(self.connector.connect(self.target).await?)).await?;
        self.answer(sender.try_send_request(*request).await, sender).map_err(|(error, _)| error)
    }

    #[expect(clippy::type_complexity, reason = "an error that gives back what it could not send")]
    fn answer(
        &self,
        answered: Result<Response<Incoming>, sender::Failed<Body>>,
        sender: Http1,
    ) -> Result<Answered, (Error, Option<Box<Request<Body>>>)> {
        match answered {
            Ok(response) => Ok(Answered { response, connection: Some(sender) }),
            Err(sender::Failed::Unsent { request, why }) => Err((self.unsent(why), Some(request))),
            Err(sender::Failed::Lost(source)) => Err((self.lost(source), None)),
        }
    }

    /// Takes back a connection whose response has ended.
    pub fn keep(&self, sender: Http1) {
        if sender.is_closed() || self.drain.has_started() {
            return;
        }
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    /// The latest idle connection: the one that the app is the least likely to be closing.
    fn take_idle(&self) -> Option<Http1> {
        let mut idle = self.idle();
        let expired = |idle: &Idle| idle.since.elapsed() >= self.connector.options.idle_timeout;
        while let Some(at) = idle.iter().rposition(|idle| idle.sender.is_ready() || idle.sender.is_closed()) {
            let found = idle.swap_remove(at);
            if found.sender.is_ready() && !expired(&found) {
                return Some(found.sender);
            }
        }
        None
    }

    async fn begin_http1(&self, stream: Box<dyn Stream>) -> Result<Http1, Error> {
        let (stream, asked) = interim::http1(stream);
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .max_header_size(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.lost(error))?;
        let (sender, ending) = sender::shared(sender, asked);
        self.drain.spawn(async move {
            let _ending = ending;
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an HTTP/1 connection to the app broke");
            }
        });
        Ok(sender)
    }

    /// Sends a request of HTTP/2, on `dialled` if that is given and there is no connection yet.
    ///
    /// # Errors
    /// Where there is no response, or the app reset the stream.
    pub async fn send_http2(
        &self,
        mut request: Box<Request<Body>>,
        mut dialled: Option<Box<dyn Stream>>,
    ) -> Result<Answered, Error> {
        // Once on the connection there is, once more on a new one where that turns out to have ended.
        for last in [false, true] {
            let sender = self.shared(dialled.take()).await?;
            match sender.try_send_request(*request).await {
                Ok(response) => return Ok(Answered { response, connection: None }),
                Err(sender::Failed::Unsent { request: unsent, .. }) if !last => request = unsent,
                Err(sender::Failed::Unsent { why, .. }) => return Err(self.unsent(why)),
                Err(sender::Failed::Lost(source)) => return Err(self.lost(source)),
            }
        }
        unreachable!("the second try returns")
    }

    async fn shared(&self, dialled: Option<Box<dyn Stream>>) -> Result<Http2, Error> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = shared.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = match dialled {
            Some(stream) => stream,
            None => Box::new(self.connector.connect(self.target).await?),
        };
        let (stream, asked) = interim::http2(stream);
        let (sender, connection) = http2::Builder::new(self.drain.clone())
            .timer(TokioTimer::new())
            .max_header_list_size(HEADERS_MAX as u32)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.lost(error))?;
        // Its task ends when the last sender is dropped and the last stream has ended: the shared one goes at the drain.
        let (sender, ending) = sender::shared(sender, asked);
        self.drain.spawn(async move {
            let _ending = ending;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP/2 connection to the app broke");
            }
        });
        // Once the drain has started nobody takes it out again, and it would hold the drain.
        if !self.drain.has_started() {
            *shared = Some(sender.clone());
        }
        Ok(sender)
    }

    fn unsent(&self, why: Option<hyper::Error>) -> Error {
        why.map_or(Error::Ended { target: self.target }, |source| self.lost(source))
    }

    fn lost(&self, source: hyper::Error) -> Error {
        Error::Lost { target: self.target, source }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connector {
    async fn connect(&self, target: SocketAddr) -> Result<Dialled, Error> {
        let timeout = self.options.connect_timeout;
        let stream = fair::timeout(timeout, TcpStream::connect(target))
            .await
            .map_err(|_| Error::ConnectTimeout { target, timeout })?
            .map_err(|source| Error::Connect { target, source })?;
        // Requests are written whole; waiting for more only delays them.
        stream.set_nodelay(true).map_err(|source| Error::Connect { target, source })?;
        Ok(Dialled::new(stream, &self.metrics, &self.labels))
    }
}
