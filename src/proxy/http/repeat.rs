//! Requests that can be sent again: those without a body, of which a copy is as good as the first.
//!
//! In: a request on its way. Out: a copy of it, made before it is sent, for when it turns out that no server has seen it.
//!
//! Start at [`copy`]. Who keeps a copy decides what makes it right to send it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{HeaderName, UPGRADE};
use http::{Method, Request};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

/// In a response of a peer's proxy: its app has seen nothing of the request, so it can go to another endpoint. No app has a say in it, and none sees it.
pub const UNSENT: HeaderName = HeaderName::from_static("hawser-unsent");

/// The body of a request on its way: what the client sends, or nothing.
#[derive(Debug)]
pub struct RequestBody(Option<Incoming>);

impl From<Incoming> for RequestBody {
    fn from(incoming: Incoming) -> Self {
        Self(Some(incoming).filter(|incoming| !http_body::Body::is_end_stream(incoming)))
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |incoming| Pin::new(incoming).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

/// The same request once more. None where it has a body, or would become something else than a request.
pub fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if request.body().0.is_some() || request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE) {
        return None;
    }
    let mut copy = Request::new(RequestBody(None));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}
