//! Requests that can be sent again: those without a body, of which a copy is as good as the first.
//!
//! In: a request on its way. Out: a copy of it, made before it is sent, for when it turns out that no server has seen it.
//!
//! Start at [`copy`]. Who keeps a copy decides what makes it right to send it.

use http::header::{HeaderName, UPGRADE};
use http::{Method, Request};
use http_body::Body as _;

use super::Body;

/// In a response of a peer's proxy: its app has seen nothing of the request, so it can go to another endpoint. No app has a say in it, and none sees it.
pub const UNSENT: HeaderName = HeaderName::from_static("hawser-unsent");

/// The same request once more. None where it has a body, or would become something else than a request.
pub fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    if !request.body().is_end_stream() || request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE)
    {
        return None;
    }
    let mut copy = Request::new(Body::default());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}
