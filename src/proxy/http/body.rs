//! A body on its way through the proxy: streamed as it comes, and where it is a response's, observed at its end.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::repeat::Recorded;
use crate::proxy::metrics::{Outcome, Started};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A streamed body, or none.
#[derive(Debug, Default)]
pub struct Body {
    source: Source,
    /// Taken at the end; dropped before, it means that somebody broke off.
    ends: Option<Ends>,
}

#[derive(Debug, Default)]
enum Source {
    #[default]
    None,
    Incoming(Incoming),
    Recorded(Recorded),
}

/// What is due when a response ends.
#[derive(Debug)]
pub struct Ends {
    pub started: Option<Started>,
    pub status: u16,
    pub is_grpc: bool,
    pub grpc_status: Option<u16>,
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
    pub fn streamed(incoming: Incoming, ends: Ends) -> Self {
        let mut body = Self { source: Source::Incoming(incoming), ends: Some(ends) };
        if http_body::Body::is_end_stream(&body) {
            body.end(None);
        }
        body
    }

    /// A body of which the rest is not HTTP any more.
    pub fn upgraded(ends: Ends) -> Self {
        let mut body = Self { source: Source::None, ends: Some(ends) };
        body.end(None);
        body
    }

    /// What there is to come of a request's body that nobody has begun to record.
    pub(super) fn into_incoming(mut self) -> Option<Incoming> {
        match std::mem::take(&mut self.source) {
            Source::Incoming(incoming) => Some(incoming),
            Source::None | Source::Recorded(_) => None,
        }
    }

    fn end(&mut self, error: Option<&hyper::Error>) {
        let Some(mut ends) = self.ends.take() else { return };
        (ends.kept.0)(error.is_none());
        if let Some(started) = ends.started {
            let error = error.map_or("".into(), |error| cause(error).into());
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
        Self { source, ends: None }
    }
}

impl From<Recorded> for Body {
    fn from(recorded: Recorded) -> Self {
        Self { source: Source::Recorded(recorded), ends: None }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match &mut self.source {
            Source::None => return Poll::Ready(None),
            Source::Incoming(incoming) => ready!(Pin::new(incoming).poll_frame(cx)),
            // A request's: nobody waits for its end.
            Source::Recorded(recorded) => return Pin::new(recorded).poll_frame(cx),
        };
        match &frame {
            None => self.end(None),
            Some(Err(error)) => self.end(Some(error)),
            Some(Ok(frame)) => {
                if let (Some(trailers), Some(ends)) = (frame.trailers_ref(), &mut self.ends) {
                    ends.grpc_status = grpc_status(trailers);
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
            Source::Recorded(recorded) => recorded.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::None => SizeHint::with_exact(0),
            Source::Incoming(incoming) => incoming.size_hint(),
            Source::Recorded(recorded) => recorded.size_hint(),
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
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
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
