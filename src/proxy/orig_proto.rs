//! HTTP/1 carried over HTTP/2 between two proxies, and back again unchanged.
//!
//! A client's proxy sends its app's HTTP/1 requests as streams of one HTTP/2 connection, and says in `l5d-orig-proto` what they were. The
//! server's proxy restores them for its app, and says in the same header of the response what that was.
//!
//! Of a request: [`upgrade_request`] at the client's proxy, [`downgrade_request`] at the server's. Of its response: [`upgrade_response`]
//! at the server's, [`downgrade_response`] at the client's. Requests that would switch protocols are never upgraded: [`may_upgrade`].

use http::header::{
    CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, Uri, Version};

use super::http::headers;

/// The header in which proxies tell each other.
pub const ORIG_PROTO: HeaderName = HeaderName::from_static("l5d-orig-proto");

/// Headers about one connection only (RFC 9110 §7.6.1), besides those that `connection` lists.
const OF_THE_CONNECTION: [HeaderName; 4] =
    [CONNECTION, HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection"), UPGRADE];

/// What a request was before it was upgraded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OrigProto {
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// Whether its target was a whole URI, as clients of proxies send it.
    pub absolute_form: bool,
}

/// Whether a request can be a stream: it is HTTP/1 and will not turn its connection into something else.
pub fn may_upgrade<B>(request: &Request<B>) -> bool {
    matches!(request.version(), Version::HTTP_10 | Version::HTTP_11)
        && request.method() != Method::CONNECT
        && !headers::has(request.headers(), &UPGRADE)
}

/// Makes an HTTP/1 request one of HTTP/2 that says what it was.
pub fn upgrade_request<B>(request: &mut Request<B>) {
    let absolute_form = request.uri().scheme().is_some();
    let said = match (request.version(), absolute_form) {
        (Version::HTTP_10, false) => "HTTP/1.0",
        (Version::HTTP_10, true) => "HTTP/1.0; absolute-form",
        (_, false) => "HTTP/1.1",
        (_, true) => "HTTP/1.1; absolute-form",
    };
    strip_connection_headers(request.headers_mut());
    headers::take(request.headers_mut(), &TRANSFER_ENCODING);
    request.headers_mut().insert(ORIG_PROTO, HeaderValue::from_static(said));
    *request.version_mut() = Version::HTTP_2;
    set_authority(request);
}

/// Makes a request that was upgraded what it was before; none for one that is HTTP/2 by its own choice.
pub fn downgrade_request<B>(request: &mut Request<B>) -> Option<OrigProto> {
    let said = headers::take(request.headers_mut(), &ORIG_PROTO)?;
    if request.version() != Version::HTTP_2 {
        return None;
    }
    let version = version(&said)?;
    let absolute_form = said.as_bytes().ends_with(b"absolute-form");
    *request.version_mut() = version;
    to_http1(request, absolute_form);
    Some(OrigProto { version, absolute_form })
}

/// Gives a request for an HTTP/1 server the target and host that it had, or should have.
fn to_http1<B>(request: &mut Request<B>, absolute_form: bool) {
    if !request.headers().contains_key(HOST) {
        let authority = request.uri().authority().map(Authority::as_str);
        if let Some(host) = authority.and_then(|authority| HeaderValue::from_str(authority).ok()) {
            request.headers_mut().insert(HOST, host);
        }
    }
    if !absolute_form && request.method() != Method::CONNECT {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
}

/// Makes an app's HTTP/1 response to an upgraded request one of HTTP/2 that says what it was.
pub fn upgrade_response<B>(response: &mut Response<B>) {
    let said = if response.version() == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" };
    strip_connection_headers(response.headers_mut());
    headers::take(response.headers_mut(), &TRANSFER_ENCODING);
    response.headers_mut().insert(ORIG_PROTO, HeaderValue::from_static(said));
    *response.version_mut() = Version::HTTP_2;
}

/// Makes a response to a request of `version` that was upgraded what it was at the server.
pub fn downgrade_response<B>(response: &mut Response<B>, request: Version) {
    let said = response.headers_mut().remove(ORIG_PROTO);
    *response.version_mut() = match said.as_ref().map(HeaderValue::as_bytes) {
        Some(b"HTTP/1.0") => Version::HTTP_10,
        Some(b"HTTP/1.1") => Version::HTTP_11,
        _ => request,
    };
}

/// Removes what concerned only the connection that a message came by.
pub fn strip_connection_headers(headers: &mut HeaderMap) {
    // Most messages have none of them; what `connection` lists is there only where it is.
    if !headers.keys().any(|name| *name == TE || OF_THE_CONNECTION.contains(name)) {
        return;
    }
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in listed.iter().filter(|name| !is_end_to_end(name)).chain(&OF_THE_CONNECTION) {
        headers::take(headers, name);
    }
    // All that HTTP/2 lets a request say of transfer codings is that it takes trailers (RFC 9113 §8.2.2).
    if headers.get(TE).is_some_and(|te| te != "trailers") {
        headers.remove(TE);
    }
}

/// Whether a header is never about one connection, whatever `connection` says: what says for whom a message is, where it ends, which
/// gateways it has passed, and what proxies tell each other and the app.
fn is_end_to_end(name: &HeaderName) -> bool {
    *name == HOST
        || *name == CONTENT_LENGTH
        || *name == FORWARDED
        || name.as_str().starts_with("l5d-")
        || name.as_str().starts_with("hawser-")
}

fn version(said: &HeaderValue) -> Option<Version> {
    match said.as_bytes() {
        said if said.starts_with(b"HTTP/1.1") => Some(Version::HTTP_11),
        said if said.starts_with(b"HTTP/1.0") => Some(Version::HTTP_10),
        _ => None,
    }
}

/// Gives an HTTP/2 request the scheme and authority its pseudo-headers are made of, from its `host` where its target has none.
fn set_authority<B>(request: &mut Request<B>) {
    if request.uri().authority().is_some() && request.uri().scheme().is_some() {
        return;
    }
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).and_then(|host| host.parse().ok());
    let Some(authority) = request.uri().authority().cloned().or(host) else { return };
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(mut request: Request<()>) -> (Request<()>, OrigProto) {
        upgrade_request(&mut request);
        assert_eq!(request.version(), Version::HTTP_2);
        assert!(!request.headers().contains_key(TRANSFER_ENCODING));
        let was = downgrade_request(&mut request).unwrap();
        (request, was)
    }

    #[test]
    fn a_request_comes_back_as_it_was() {
        for (uri, version) in
            [("/cart?id=1", Version::HTTP_11), ("/", Version::HTTP_10), ("http://web.shop/cart", Version::HTTP_11)]
        {
            let request =
                Request::get(uri).version(version).header("host", "web.shop").header("x-a", "b").body(()).unwrap();
            let (back, was) = round_trip(request);
            assert_eq!(back.uri(), uri);
            assert_eq!((back.version(), was.version), (version, version));
            assert_eq!(was.absolute_form, uri.starts_with("http:"));
            assert_eq!(back.headers()["host"], "web.shop");
            assert_eq!(back.headers()["x-a"], "b");
            assert!(!back.headers().contains_key(ORIG_PROTO));
        }
    }

    #[test]
    fn what_concerned_the_connection_stays_there() {
        let request = Request::get("/")
            .header("host", "web")
            .header("connection", "keep-alive, X-Hop")
            .header("x-hop", "1")
            .header("keep-alive", "5")
            .header("te", "gzip")
            .header("transfer-encoding", "chunked")
            .body(())
            .unwrap();
        let (back, _) = round_trip(request);
        assert_eq!(back.headers().len(), 1, "{:?}", back.headers());
    }

    #[test]
    fn nobody_has_removed_what_is_not_of_the_connection() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("host, Content-Length, Forwarded, l5d-client-id, x-hop"));
        for name in ["host", "content-length", "forwarded", "l5d-client-id", "x-hop"] {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        strip_connection_headers(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "forwarded", "host", "l5d-client-id"]);
    }

    #[test]
    fn an_authority_comes_from_the_host() {
        let mut request = Request::get("/a").header("host", "web.shop:8080").body(()).unwrap();
        upgrade_request(&mut request);
        assert_eq!(request.uri(), "http://web.shop:8080/a");
        assert_eq!(request.headers()["host"], "web.shop:8080");
    }

    #[test]
    fn without_a_host_there_is_no_authority() {
        let mut request = Request::get("/a").version(Version::HTTP_10).body(()).unwrap();
        upgrade_request(&mut request);
        assert_eq!(request.uri(), "/a");
        assert_eq!(request.headers()[ORIG_PROTO], "HTTP/1.0");
    }

    #[test]
    fn a_request_that_is_http2_by_choice_stays_so() {
        let mut request = Request::get("http://web/").version(Version::HTTP_2).body(()).unwrap();
        assert_eq!(downgrade_request(&mut request), None);
        assert_eq!(request.version(), Version::HTTP_2);
    }

    #[test]
    fn an_http1_client_cannot_pretend() {
        let mut request = Request::get("/").header(ORIG_PROTO, "HTTP/1.0").body(()).unwrap();
        assert_eq!(downgrade_request(&mut request), None);
        assert_eq!(request.version(), Version::HTTP_11);
        assert!(!request.headers().contains_key(ORIG_PROTO));
    }

    #[test]
    fn a_response_comes_back_as_it_was() {
        for version in [Version::HTTP_10, Version::HTTP_11] {
            let mut response = Response::builder()
                .version(version)
                .header("connection", "close")
                .header("transfer-encoding", "chunked");
            response = response.header("x-a", "b");
            let mut response = response.body(()).unwrap();
            upgrade_response(&mut response);
            assert_eq!(response.headers().len(), 2, "{:?}", response.headers());
            downgrade_response(&mut response, Version::HTTP_11);
            assert_eq!(response.version(), version);
            assert_eq!(response.headers().len(), 1);
        }
    }

    #[test]
    fn a_response_that_says_nothing_is_as_the_request() {
        let mut response = Response::builder().version(Version::HTTP_2).body(()).unwrap();
        downgrade_response(&mut response, Version::HTTP_10);
        assert_eq!(response.version(), Version::HTTP_10);
    }

    #[test]
    fn what_switches_protocols_is_not_upgraded() {
        let websocket = Request::get("/").header("connection", "upgrade").header("upgrade", "websocket");
        assert!(!may_upgrade(&websocket.body(()).unwrap()));
        assert!(!may_upgrade(&Request::connect("web:443").body(()).unwrap()));
        assert!(!may_upgrade(&Request::get("/").version(Version::HTTP_2).body(()).unwrap()));
        assert!(may_upgrade(&Request::get("/").body(()).unwrap()));
    }
}
