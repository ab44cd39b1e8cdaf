//! Requests to a gateway bear the name that the service has behind it.
//!
//! In: a request for a service by the name it has here. Out: one for the name that the gateway is told, which is what the app there expects.
//! One that was not sent is given back as it was, for another endpoint may be of this cluster.

use http::header::{HOST, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};

use crate::mesh::Endpoint;
use crate::proxy::http::headers;

/// Says by which name a proxy found a profile, which is none of the other cluster's.
const DST_CANONICAL: HeaderName = HeaderName::from_static("l5d-dst-canonical");

/// What the service of one endpoint is called there.
#[derive(Debug)]
pub(super) struct Renamed {
    authority: Authority,
    host: HeaderValue,
}

/// What a request was before.
pub(super) struct Before {
    uri: Uri,
    host: Option<HeaderValue>,
}

impl Renamed {
    /// None for an endpoint whose service is called there as it is here.
    pub(super) fn of(endpoint: &Endpoint) -> Option<Self> {
        let (name, port) = endpoint.authority_override.as_ref()?;
        let named = format!("{name}:{port}");
        Some(Self { authority: named.parse().ok()?, host: HeaderValue::from_str(&named).ok()? })
    }

    /// Renames what a request asks for.
    pub(super) fn rename<B>(&self, request: &mut Request<B>) -> Before {
        let before = Before { uri: request.uri().clone(), host: headers::get(request.headers(), &HOST).cloned() };
        headers::take(request.headers_mut(), &DST_CANONICAL);
        // What asks for a tunnel names its end, not the service.
        if request.method() == Method::CONNECT {
            return before;
        }
        let is_http2 = request.version() == Version::HTTP_2;
        match is_http2 {
            true => drop(headers::take(request.headers_mut(), &HOST)),
            false => drop(request.headers_mut().insert(HOST, self.host.clone())),
        }
        if is_http2 || before.uri.authority().is_some() {
            let mut parts = before.uri.clone().into_parts();
            parts.authority = Some(self.authority.clone());
            parts.scheme.get_or_insert(Scheme::HTTP);
            parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
        before
    }
}

impl Before {
    /// Gives a request that was not sent the name back that it had.
    pub(super) fn restore<B>(self, request: &mut Request<B>) {
        *request.uri_mut() = self.uri;
        match self.host {
            Some(host) => drop(request.headers_mut().insert(HOST, host)),
            None => drop(request.headers_mut().remove(HOST)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed() -> Renamed {
        let mut endpoint = Endpoint::plain("10.0.0.1:4143".parse().unwrap());
        assert!(Renamed::of(&endpoint).is_none());
        endpoint.authority_override = Some(("web.shop.svc.cluster.local".into(), 8080));
        Renamed::of(&endpoint).unwrap()
    }

    fn request(uri: &str, version: Version, host: Option<&str>) -> Request<()> {
        let builder = Request::get(uri).version(version).header("l5d-dst-canonical", "web-east.shop:80");
        host.map_or(builder, |host| Request::get(uri).version(version).header("host", host)).body(()).unwrap()
    }

    #[test]
    fn a_request_is_for_the_name_behind_the_gateway_and_back_again() {
        for (uri, version, host, expected) in [
            ("http://web-east.shop/a", Version::HTTP_2, None, "http://web.shop.svc.cluster.local:8080/a"),
            (
                "http://web-east.shop/",
                Version::HTTP_2,
                Some("web-east.shop"),
                "http://web.shop.svc.cluster.local:8080/",
            ),
            ("/a", Version::HTTP_11, Some("web-east.shop"), "/a"),
            ("/a", Version::HTTP_10, None, "/a"),
            ("http://web-east.shop/a", Version::HTTP_11, None, "http://web.shop.svc.cluster.local:8080/a"),
        ] {
            let mut asked = request(uri, version, host);
            let before = renamed().rename(&mut asked);
            assert_eq!(asked.uri(), expected, "{version:?}");
            let host_now = asked.headers().get("host").map(|host| host.to_str().unwrap());
            assert_eq!(host_now, (version != Version::HTTP_2).then_some("web.shop.svc.cluster.local:8080"));
            assert!(!asked.headers().contains_key("l5d-dst-canonical"));
            before.restore(&mut asked);
            assert_eq!(asked.uri(), uri);
            assert_eq!(asked.headers().get("host").map(|host| host.to_str().unwrap()), host);
        }
    }

    #[test]
    fn the_end_of_a_tunnel_stays() {
        let mut tunnel =
            Request::connect("db.example.com:5432").header("host", "db.example.com:5432").body(()).unwrap();
        renamed().rename(&mut tunnel);
        assert_eq!(
            (tunnel.uri().to_string().as_str(), &tunnel.headers()["host"]),
            ("db.example.com:5432", &"db.example.com:5432".parse().unwrap())
        );
    }
}
