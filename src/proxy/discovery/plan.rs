//! What to do with the connections and requests to one target: which protocol, which route, which backend.
//!
//! In: a request's parts, or the SNI of a connection. Out: the rule that it belongs to, and a backend of it, by weight.
//! [`super::wire`] makes plans of what the control plane says; [`super::Target`] holds the current one.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, StatusCode, Uri};
use rand::{Rng, RngExt as _};

use crate::mesh::policy::{HeaderModifier, Ratio};
use crate::mesh::route::{self, HostMatch, HttpMatch, PathMatch, RequestMatch};
use crate::proxy::backend::Backend;

/// How one target is reached.
#[derive(Debug)]
pub struct Plan {
    pub protocol: Protocol,
    /// Every backend that is in the routes, for the next plan to take over.
    pub backends: Vec<Arc<Backend>>,
}

/// What the target's connections speak, and where they go.
#[derive(Debug)]
pub enum Protocol {
    /// The first bytes tell; each protocol has routes of its own.
    Detect {
        http1: HttpRoutes,
        http2: HttpRoutes,
        opaque: TcpRoutes,
    },
    Http1(HttpRoutes),
    /// Also of gRPC.
    Http2(HttpRoutes),
    Opaque(TcpRoutes),
    /// The app's own TLS: carried as it is, to where its SNI leads.
    Tls(TcpRoutes),
    /// The control plane sent something that cannot be followed: guessing a route could send requests to the wrong place.
    Invalid(String),
}

#[derive(Debug, Default)]
pub struct HttpRoutes(pub Vec<HttpRoute>);

#[derive(Debug)]
pub struct HttpRoute {
    pub hosts: Vec<HostMatch>,
    pub rules: Vec<HttpRule>,
}

#[derive(Debug)]
pub struct HttpRule {
    /// None match all.
    pub matches: Vec<RequestMatch>,
    pub filters: Vec<HttpFilter>,
    pub backends: Distribution<HttpFilter>,
}

/// What is done to a request of a rule, or to its response.
#[derive(Clone, Debug)]
pub enum HttpFilter {
    /// Answers in the server's place.
    Fail {
        with: Failure,
        ratio: Ratio,
    },
    RequestHeaders(HeaderModifier),
    ResponseHeaders(HeaderModifier),
    Redirect(Redirect),
}

/// An answer that a filter gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    Http(StatusCode, String),
    Grpc(i32, String),
}

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
    /// In the place of the prefix that the rule matches.
    Prefix(String),
}

#[derive(Debug, Default)]
pub struct TcpRoutes(pub Vec<TcpRoute>);

#[derive(Debug)]
pub struct TcpRoute {
    /// Names in the client's TLS greeting; only routes of TLS have any.
    pub snis: Vec<HostMatch>,
    pub rule: TcpRule,
}

#[derive(Debug)]
pub struct TcpRule {
    pub refused: Option<Refusal>,
    pub backends: Distribution<Refusal>,
}

/// Why connections of a route are closed.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    Forbidden,
    Invalid(String),
}

/// Which backend a request goes to. `F` is what a backend's own filters are.
#[derive(Debug)]
pub enum Distribution<F> {
    Empty,
    First(Vec<RouteBackend<F>>),
    /// By weight.
    Random(Vec<(RouteBackend<F>, u32)>),
}

#[derive(Debug)]
pub struct RouteBackend<F> {
    pub backend: Arc<Backend>,
    pub filters: Vec<F>,
}

impl HttpRoutes {
    /// The rule that fits the request most closely; of equals, the first.
    pub fn find<B>(&self, request: &http::Request<B>) -> Option<&HttpRule> {
        // The routes of most services are one route that takes everything.
        if let [HttpRoute { hosts, rules }] = self.0.as_slice()
            && let ([], [rule]) = (hosts.as_slice(), rules.as_slice())
            && rule.matches.is_empty()
        {
            return Some(rule);
        }
        let rules = self.0.iter().flat_map(|HttpRoute { hosts, rules }| {
            rules.iter().map(|rule| (hosts.as_slice(), rule.matches.as_slice(), rule))
        });
        route::best(rules, request)
    }
}

impl HttpRule {
    /// Where `redirect` sends a request of this rule.
    pub fn location(&self, redirect: &Redirect, uri: &Uri, headers: &HeaderMap) -> String {
        let scheme = redirect.scheme.as_deref().or(uri.scheme_str()).unwrap_or("http");
        let host = redirect.host.clone().or_else(|| route::host(uri, headers)).unwrap_or_default();
        let port = redirect.port.filter(|port| !matches!((scheme, port), ("http", 80) | ("https", 443)));
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let path = match &redirect.path {
            None => Cow::from(uri.path()),
            Some(NewPath::Full(full)) => full.into(),
            Some(NewPath::Prefix(new)) => {
                let prefixes = self.matches.iter().filter_map(|wanted| match wanted {
                    RequestMatch::Http(HttpMatch { path: Some(PathMatch::Prefix(prefix)), .. }) => {
                        uri.path().strip_prefix(prefix.trim_end_matches('/'))
                    }
                    _ => None,
                });
                // The longest prefix leaves the shortest rest.
                let rest = prefixes.min_by_key(|rest| rest.len()).unwrap_or(uri.path()).trim_start_matches('/');
                let new = new.trim_end_matches('/');
                if rest.is_empty() { new.into() } else { format!("{new}/{rest}").into() }
            }
        };
        let path = if path.is_empty() { "/".into() } else { path };
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{path}{query}")
    }
}

impl TcpRoutes {
    /// The rule of a connection with this SNI; opaque routes take all.
    pub fn find(&self, sni: Option<&str>) -> Option<&TcpRule> {
        let scored = self.0.iter().filter_map(|route| route::score_host(&route.snis, sni).map(|score| (score, route)));
        // `max_by_key` gives the last of equals, and the first one counts.
        scored.rev().max_by_key(|(score, _)| *score).map(|(_, route)| &route.rule)
    }
}

impl<F> Distribution<F> {
    /// Picks a backend: the first, or one at random by weight. None where there is nothing to pick.
    pub fn pick(&self, random: &mut impl Rng) -> Option<&RouteBackend<F>> {
        match self {
            Self::Empty => None,
            Self::First(backends) => backends.first(),
            Self::Random(backends) => {
                let total: u64 = backends.iter().map(|(_, weight)| u64::from(*weight)).sum();
                if total == 0 {
                    return None;
                }
                let mut at = random.random_range(0..total);
                backends.iter().find_map(|(backend, weight)| {
                    let weight = u64::from(*weight);
                    if at < weight {
                        return Some(backend);
                    }
                    at -= weight;
                    None
                })
            }
        }
    }
}
