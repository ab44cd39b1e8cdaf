//! Decides where a request is sent instead, by a filter of its route.
//!
//! In: the filter, and the request's URI and headers. Out: the URL for `location`. What the filter does not change stays as the request has it.
//! Both directions use it. Start at [`Redirect::location`].

use std::borrow::Cow;

use http::{HeaderMap, StatusCode, Uri};

use super::route;

/// Sends the client elsewhere; what is none stays as the request has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    pub scheme: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<NewPath>,
    pub status: StatusCode,
}

#[derive(Clone, Debug, PartialEq)]
pub enum NewPath {
    Full(String),
    /// In the place of the longest of `old` that the request's path begins with: the prefixes that its rule matches.
    Prefix {
        new: String,
        old: Vec<String>,
    },
}

impl Redirect {
    /// Where a request goes.
    pub fn location(&self, uri: &Uri, headers: &HeaderMap) -> String {
        let scheme = self.scheme.as_deref().or(uri.scheme_str()).unwrap_or("http");
        let host = self.host.clone().or_else(|| route::host(uri, headers)).unwrap_or_default();
        // Another scheme has another port; with the same one the client is where it was.
        let same = || self.scheme.is_none().then(|| port(uri, headers)).flatten();
        let port = self.port.or_else(same).filter(|port| !matches!((scheme, port), ("http", 80) | ("https", 443)));
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let path = match &self.path {
            None => Cow::from(uri.path()),
            Some(NewPath::Full(full)) => full.into(),
            Some(NewPath::Prefix { new, old }) => {
                let rests = old.iter().filter_map(|prefix| uri.path().strip_prefix(prefix.trim_end_matches('/')));
                let rests = rests.filter(|rest| rest.is_empty() || rest.starts_with('/'));
                // The longest prefix leaves the shortest rest.
                let rest = rests.min_by_key(|rest| rest.len()).unwrap_or(uri.path()).trim_start_matches('/');
                let new = new.trim_end_matches('/');
                if rest.is_empty() { new.into() } else { format!("{new}/{rest}").into() }
            }
        };
        let path = if path.is_empty() { "/".into() } else { path };
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{path}{query}")
    }
}

/// The port that a request names.
fn port(uri: &Uri, headers: &HeaderMap) -> Option<u16> {
    let header = || headers.get(http::header::HOST)?.to_str().ok()?.parse::<http::uri::Authority>().ok()?.port_u16();
    uri.port_u16().or_else(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(redirect: &Redirect, uri: &str) -> String {
        let headers = HeaderMap::from_iter([(http::header::HOST, "web:8080".parse().unwrap())]);
        redirect.location(&uri.parse().unwrap(), &headers)
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_change() {
        let stay = || Redirect { scheme: None, host: None, port: None, path: None, status: StatusCode::FOUND };
        let prefix = |new: &str| Some(NewPath::Prefix { new: new.into(), old: vec!["/".into(), "/old".into()] });
        assert_eq!(location(&stay(), "/old/a?b=c"), "http://web:8080/old/a?b=c");
        let secure = Redirect { scheme: Some("https".into()), port: Some(443), ..stay() };
        assert_eq!(location(&secure, "/old"), "https://web/old");
        let moved = Redirect { host: Some("shop".into()), path: prefix("/new/"), ..stay() };
        assert_eq!(location(&moved, "/old/a"), "http://shop:8080/new/a");
        assert_eq!(location(&moved, "/old"), "http://shop:8080/new");
        assert_eq!(location(&moved, "/older"), "http://shop:8080/new/older", "which is not below /old");
        let root = Redirect { path: prefix("/"), ..stay() };
        assert_eq!(location(&root, "/old"), "http://web:8080/");
        let full = Redirect { path: Some(NewPath::Full("/gone".into())), port: Some(81), ..stay() };
        assert_eq!(location(&full, "/old/x"), "http://web:81/gone");
    }
}
