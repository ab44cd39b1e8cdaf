//! What a proxy answers where it cannot forward: an HTTP status, or the same in the words of gRPC. And the headers in which proxies tell each other.
//!
//! Both ways share it. Why something failed is told to peers of the mesh and to the pod's own app, never to strangers.

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};

use super::http::{UNSERVED, headers};
use super::orig_proto::ORIG_PROTO;

/// Why the proxy answered by itself.
pub const PROXY_ERROR: HeaderName = HeaderName::from_static("l5d-proxy-error");
/// In a request that a profile has routed: which target it was for, as `NAME:PORT`.
pub const DST_CANONICAL: HeaderName = HeaderName::from_static("l5d-dst-canonical");
/// Asks the peer's proxy to close its client's connection.
pub const PROXY_CONNECTION: HeaderName = HeaderName::from_static("l5d-proxy-connection");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// A longer reason would be in nobody's log line whole.
const REASON_MAX: usize = 512;

/// What a response must suit.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    version: Version,
    is_connect: bool,
    is_grpc: bool,
    is_idempotent: bool,
}

/// An answer in place of the server's.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: StatusCode,
    /// Words for the headers; none for strangers.
    pub reason: Option<String>,
    /// Whether the connection ends with it.
    pub closes: bool,
}

impl Asked {
    pub fn of<B>(request: &Request<B>) -> Self {
        let version = request.version();
        Self {
            version,
            is_connect: request.method() == Method::CONNECT,
            is_grpc: version == Version::HTTP_2 && is_grpc(request.headers()),
            is_idempotent: request.method().is_idempotent(),
        }
    }

    /// Whether the client speaks HTTP/2, and so can be sent a reset.
    pub fn is_http2(self) -> bool {
        self.version == Version::HTTP_2
    }

    /// Whether success means a tunnel.
    pub fn is_connect(self) -> bool {
        self.is_connect
    }

    /// Whether asking twice does the same as asking once (RFC 9110 section 9.2.2).
    pub fn is_idempotent(self) -> bool {
        self.is_idempotent
    }

    /// Whether a request is a gRPC call, whose outcome is in the trailers.
    pub fn is_grpc(self) -> bool {
        self.is_grpc
    }
}

/// Removes what proxies tell each other in a response, from one that a server gave: no server has a say in it.
pub fn forget_proxies_words(headers: &mut HeaderMap) {
    for name in [&PROXY_ERROR, &PROXY_CONNECTION, &UNSERVED, &ORIG_PROTO] {
        headers::take(headers, name);
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The response to a request that was not forwarded.
pub fn refuse<B: Default>(asked: Asked, refusal: &Refusal) -> Response<B> {
    let mut response = Response::new(B::default());
    let reason = refusal.reason.as_deref().and_then(header_value);
    if asked.is_grpc {
        *response.version_mut() = Version::HTTP_2;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(grpc_status(refusal.status)));
        if let Some(reason) = &reason {
            headers.insert(GRPC_MESSAGE, reason.clone());
        }
    } else {
        *response.version_mut() = asked.version;
        *response.status_mut() = refusal.status;
        if refusal.closes && asked.version == Version::HTTP_11 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    if let Some(reason) = reason {
        response.headers_mut().insert(PROXY_ERROR, reason);
        if refusal.closes {
            response.headers_mut().insert(PROXY_CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}

/// The gRPC code that says the same as an HTTP status.
pub fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        403 => 7,
        // A call cannot be sent elsewhere.
        300..=399 | 404 => 5,
        429 => 8,
        502 | 503 => 14,
        504 => 4,
        508 => 10,
        500 => 13,
        _ => 2,
    }
}

fn header_value(reason: &str) -> Option<HeaderValue> {
    let printable: String = reason.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(REASON_MAX).collect();
    HeaderValue::from_str(&printable).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: StatusCode) -> Refusal {
        Refusal { status, reason: Some("no\nway".into()), closes: true }
    }

    fn call() -> Request<()> {
        Request::post("/a.B/C")
            .version(Version::HTTP_2)
            .header("content-type", "application/grpc+proto")
            .body(())
            .unwrap()
    }

    #[test]
    fn a_call_is_answered_in_trailers_only() {
        let response: Response<String> = refuse(Asked::of(&call()), &refusal(StatusCode::BAD_GATEWAY));
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "noway");
        assert!(!response.headers().contains_key("connection"));
    }

    #[test]
    fn a_request_is_answered_with_a_status() {
        let request = Request::get("/").body(()).unwrap();
        let response: Response<String> = refuse(Asked::of(&request), &refusal(StatusCode::GATEWAY_TIMEOUT));
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(response.headers()["connection"], "close");
        assert_eq!(response.headers()["l5d-proxy-error"], "noway");
        assert_eq!(response.headers()["l5d-proxy-connection"], "close");
    }

    #[test]
    fn strangers_learn_no_reason() {
        let refusal = Refusal { reason: None, ..refusal(StatusCode::FORBIDDEN) };
        let response: Response<String> = refuse(Asked::of(&call()), &refusal);
        assert_eq!(response.headers()["grpc-status"], "7");
        for name in ["l5d-proxy-error", "l5d-proxy-connection", "grpc-message"] {
            assert!(!response.headers().contains_key(name), "{name}");
        }
    }
}
