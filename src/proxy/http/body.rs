//! A body on its way through the proxy: streamed as it comes, and where it is a response's, observed at its end and held to its time limits.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::peek::Beginning;
use super::repeat::Recorded;
use crate::proxy::access_log::Entry;
use crate::proxy::metrics::{Outcome, Started};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A streamed body, or none.
#[derive(Debug, Default)]
pub struct Body {
    source: Source,
    /// Taken at the end; dropped before, it means that somebody broke off. On the heap, because requests have none, and are moved a lot.
    ends: Option<Box<Ends>>,
    /// Few bodies have any, and those that have none should not pay for it.
    clock: Option<Box<Clock>>,
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The source makes an HTTP/2 client see that the stream was canceled.
    #[error("the response took too long ({0})")]
    Late(Late, #[source] h2::Error),
}

/// Which time limit is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Late {
    Request,
    Response,
    Idle,
}

impl Late {
    /// What the metrics call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Request => "request timeout",
            Self::Response => "response timeout",
            Self::Idle => "idle timeout",
        }
    }
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What time a response's body has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Time {
    /// Until when it must have ended, by which limit.
    pub until: Option<(Instant, Late)>,
    /// How long it may pause.
    pub idle: Option<Duration>,
}

/// Waits for the limit that comes first.
#[derive(Debug)]
struct Clock {
    time: Time,
    sleep: Pin<Box<Sleep>>,
}

impl Clock {
    fn new(time: Time) -> Option<Box<Self>> {
        let next = time.next(Instant::now())?;
        Some(Box::new(Self { time, sleep: Box::pin(tokio::time::sleep_until(next)) }))
    }

    /// The body has gone on.
    fn restart(&mut self) {
        if self.time.idle.is_some()
            && let Some(next) = self.time.next(Instant::now())
        {
            self.sleep.as_mut().reset(next);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        ready!(self.sleep.as_mut().poll(cx));
        let ended = self.time.until.filter(|(until, _)| Instant::now() >= *until);
        Poll::Ready(ended.map_or(Late::Idle, |(_, late)| late))
    }
}

impl Time {
    fn next(&self, now: Instant) -> Option<Instant> {
        let until = self.until.map(|(until, _)| until);
        self.idle.map(|idle| now + idle).into_iter().chain(until).min()
    }
}

#[derive(Debug, Default)]
enum Source {
    #[default]
    None,
    Incoming(Incoming),
    /// Of which the beginning has been read already.
    Peeked(Box<Beginning>, Incoming),
    Recorded(Recorded),
    /// A response's, with its own ends and clock.
    Returned(Box<Body>),
}

/// What is due when a response ends.
#[derive(Debug)]
pub struct Ends {
    pub started: Option<Started>,
    pub status: u16,
    pub is_grpc: bool,
    pub grpc_status: Option<u16>,
    /// Its line in the access log.
    pub access: Option<Box<Entry>>,
    /// Kept until then: the place of the request among those under way, the connection to give back.
    pub kept: Kept,
}

/// What lives as long as its response, and what is then done with it.
pub struct Kept(Box<dyn FnMut(bool) + Send + Sync>);

impl Kept {
    /// `done` is called once, with whether the body was carried to its end.
    pub fn until(done: impl FnMut(bool) + Send + Sync + 'static) -> Self {
        Self(Box::new(done))
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl Body {
    /// A response's.
    pub fn streamed(incoming: Incoming, ends: Ends) -> Self {
        Self::observed(Source::Incoming(incoming), ends)
    }

    /// A response's, of which the beginning has been read.
    pub fn peeked(beginning: Box<Beginning>, rest: Incoming, ends: Ends) -> Self {
        Self::observed(Source::Peeked(beginning, rest), ends)
    }

    /// A response's that was carried here already, by a gateway's way out.
    pub fn returned(body: Self, ends: Ends) -> Self {
        Self::observed(Source::Returned(Box::new(body)), ends)
    }

    fn observed(source: Source, ends: Ends) -> Self {
        let mut body = Self { source, ends: Some(Box::new(ends)), clock: None };
        if http_body::Body::is_end_stream(&body) {
            body.end(None);
        }
        body
    }

    /// The same body, which must keep to this time.
    #[must_use]
    pub fn within(mut self, time: Time) -> Self {
        if self.ends.is_some() {
            self.clock = Clock::new(time);
        }
        self
    }

    /// A body of which the rest is not HTTP any more.
    pub fn upgraded(ends: Ends) -> Self {
        let mut body = Self { source: Source::None, ends: Some(Box::new(ends)), clock: None };
        body.end(None);
        body
    }

    /// What there is to come of a request's body that nobody has begun to record.
    pub(super) fn into_incoming(mut self) -> Option<Incoming> {
        match std::mem::take(&mut self.source) {
            Source::Incoming(incoming) => Some(incoming),
            Source::None | Source::Peeked(..) | Source::Recorded(_) | Source::Returned(_) => None,
        }
    }

    fn end(&mut self, error: Option<&Broken>) {
        self.clock = None;
        let Some(mut ends) = self.ends.take() else { return };
        (ends.kept.0)(error.is_none());
        if let Some(started) = ends.started {
            let error = match error {
                None => "".into(),
                Some(Broken::Http(error)) => cause(error).into(),
                Some(Broken::Late(Late::Response, _)) => "stream timeout".into(),
                Some(Broken::Late(late, _)) => late.label().into(),
            };
            // A call that ends without a status is an unknown error to its client (and is counted so by dashboards).
            let grpc_status = ends.grpc_status.or(ends.is_grpc.then_some(2));
            started.end(&Outcome { status: ends.status, grpc_status, error });
        }
    }
}

/// A request's: nobody waits for its end.
impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        let source = if http_body::Body::is_end_stream(&incoming) { Source::None } else { Source::Incoming(incoming) };
        Self { source, ends: None, clock: None }
    }
}

impl From<Recorded> for Body {
    fn from(recorded: Recorded) -> Self {
        Self { source: Source::Recorded(recorded), ends: None, clock: None }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::None => return Poll::Ready(None),
            Source::Incoming(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Broken::from),
            Source::Peeked(beginning, rest) => match beginning.next() {
                Some(frame) => Poll::Ready(Some(frame.map_err(Broken::from))),
                None => Pin::new(rest).poll_frame(cx).map_err(Broken::from),
            },
            Source::Returned(body) => Pin::new(body.as_mut()).poll_frame(cx),
            // A request's: nobody waits for its end.
            Source::Recorded(recorded) => {
                return Pin::new(recorded).poll_frame(cx).map_err(Broken::from);
            }
        };
        let frame = match (frame, &mut this.clock) {
            (Poll::Ready(frame), clock) => {
                if let Some(clock) = clock {
                    clock.restart();
                }
                frame
            }
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(clock)) => {
                let late = ready!(clock.poll(cx));
                Some(Err(Broken::Late(late, h2::Reason::CANCEL.into())))
            }
        };
        match &frame {
            None => self.end(None),
            Some(Err(error)) => self.end(Some(error)),
            Some(Ok(frame)) => {
                if let Some(ends) = &mut self.ends {
                    if let Some(trailers) = frame.trailers_ref() {
                        ends.grpc_status = grpc_status(trailers);
                    }
                    if let Some(access) = &mut ends.access {
                        access.add_bytes(frame.data_ref().map_or(0, Bytes::len));
                    }
                }
                // A body of a known length is not asked again once it is all there.
                if self.is_end_stream() {
                    self.end(None);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::None => true,
            Source::Incoming(incoming) => incoming.is_end_stream(),
            Source::Peeked(beginning, rest) => beginning.is_over() && rest.is_end_stream(),
            Source::Recorded(recorded) => recorded.is_end_stream(),
            Source::Returned(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::None => SizeHint::with_exact(0),
            Source::Incoming(incoming) => incoming.size_hint(),
            Source::Peeked(beginning, rest) => beginning.size_hint(rest),
            Source::Recorded(recorded) => recorded.size_hint(),
            Source::Returned(body) => body.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(mut ends) = self.ends.take() {
            (ends.kept.0)(false);
        }
    }
}

/// The status of a gRPC call in headers or trailers.
pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    super::headers::get(headers, &GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// What became of a request whose response nobody reads on.
pub fn outcome<B>(response: &Response<B>) -> Outcome {
    let grpc_status = grpc_status(response.headers());
    Outcome { status: response.status().as_u16(), grpc_status, error: "".into() }
}

/// The label for what broke a response.
pub fn cause(error: &hyper::Error) -> String {
    match reset(error) {
        Some(reason) => format!("h2({reason:?})"),
        None if error.is_timeout() => "timeout".into(),
        None => "unclassified".into(),
    }
}

/// Why the peer reset a stream, if that is what happened.
pub fn reset(error: &(dyn std::error::Error + 'static)) -> Option<h2::Reason> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return h2.reason();
        }
        cause = error.source();
    }
    None
}
