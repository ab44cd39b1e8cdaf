//! What to do with the connections and requests to one target: which protocol, which route, which backend.
//!
//! In: a request's parts, or the SNI of a connection. Out: the rule that it belongs to, of the policy or of the profile that takes its place, and a
//! backend of it, by weight.
//! [`super::wire`] makes plans of what the control plane says; [`super::Target`] holds the current one.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use rand::{Rng, RngExt as _};

use crate::mesh::budget::Budget;
use crate::mesh::limits::Limits;
use crate::mesh::policy::{HeaderModifier, Ratio};
use crate::mesh::profile::Condition;
use crate::mesh::redirect::Redirect;
use crate::mesh::route::{self, HostMatch, RequestMatch};
use crate::proxy::backend::Backend;
use crate::proxy::metrics::{Event, Labels, Measured, ProfileRequests, Tally};

/// How one target is reached.
#[derive(Debug)]
pub struct Plan {
    pub protocol: Protocol,
    /// Every backend that is in the routes, for the next plan to take over.
    pub backends: Vec<Arc<Backend>>,
    /// Counts the target's connections, as those to the resource that the policy is of.
    pub parent: Tally,
}

impl Plan {
    /// One that leads nowhere.
    pub fn refusing(reason: impl Into<String>) -> Self {
        let parent = Tally::new(Labels::service("parent", None));
        Self { protocol: Protocol::Invalid(reason.into()), backends: Vec::new(), parent }
    }

    /// Where bytes go that nobody looks into; none where only requests go anywhere.
    pub fn tcp_routes(&self) -> Option<&TcpRoutes> {
        match &self.protocol {
            Protocol::Opaque(routes) | Protocol::Tls(routes) | Protocol::Detect { opaque: routes, .. } => Some(routes),
            Protocol::Http1(_) | Protocol::Http2(_) | Protocol::Invalid(_) => None,
        }
    }
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

#[derive(Debug)]
pub enum HttpRoutes {
    /// The rule that fits a request most closely counts.
    Policy(Vec<HttpRoute>),
    /// The first whose condition a request meets; each has one.
    Profile(Arc<[HttpRule]>),
}

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
    pub backends: Distribution<HttpBackend>,
    pub limits: Limits,
    /// Whether requests may set limits of their own, by headers.
    pub may_set_limits: bool,
    pub measured: Arc<Measured>,
    pub retries: Arc<RetryCounts>,
    /// Where a profile says it.
    pub profile: Option<Arc<ProfileRoute>>,
}

/// One route of a profile.
#[derive(Debug)]
pub struct ProfileRoute {
    pub condition: Condition,
    pub limits: Limits,
    /// Which target the requests were for, as servers' proxies are told.
    pub canonical: HeaderValue,
    /// What retries are taken from; none where there are none.
    pub budget: Option<Arc<Budget>>,
    pub requests: Arc<ProfileRequests>,
}

/// What is counted of the retries of one rule.
#[derive(Debug)]
pub struct RetryCounts {
    pub tally: Tally,
    pub is_grpc: bool,
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
    pub backends: Distribution<TcpBackend>,
    pub counts: Arc<RouteCounts>,
}

/// What is counted of the connections of one rule.
#[derive(Debug)]
pub struct RouteCounts {
    pub tally: Tally,
    pub opened: Event,
    pub closed: Event,
}

/// Why connections of a route are closed.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    Forbidden,
    Invalid(String),
}

/// Which backend a request goes to. `B` is a backend, and what the rule has done with what goes there.
#[derive(Clone, Debug)]
pub enum Distribution<B> {
    Empty,
    First(Vec<B>),
    /// By weight.
    Random(Vec<(B, u32)>),
}

#[derive(Clone, Debug)]
pub struct HttpBackend {
    pub backend: Arc<Backend>,
    pub filters: Vec<HttpFilter>,
    pub measured: Arc<Measured>,
}

#[derive(Debug)]
pub struct TcpBackend {
    pub backend: Arc<Backend>,
    pub refused: Option<Refusal>,
}

impl HttpRoutes {
    /// The rule of a request.
    pub fn find<B>(&self, request: &http::Request<B>) -> Option<&HttpRule> {
        let routes = match self {
            Self::Policy(routes) => routes.as_slice(),
            Self::Profile(rules) => return rules.iter().find(|rule| rule.has_in_profile(request)),
        };
        // The routes of most services are one route that takes everything.
        if let [HttpRoute { hosts, rules }] = routes
            && let ([], [rule]) = (hosts.as_slice(), rules.as_slice())
            && rule.matches.is_empty()
        {
            return Some(rule);
        }
        let rules = routes.iter().flat_map(|HttpRoute { hosts, rules }| {
            rules.iter().map(|rule| (hosts.as_slice(), rule.matches.as_slice(), rule))
        });
        route::best(rules, request)
    }

    /// Where what nobody looks at goes: as the first rule has it.
    pub fn into_first(self) -> Option<Distribution<HttpBackend>> {
        match self {
            Self::Policy(routes) => routes.into_iter().flat_map(|route| route.rules).next().map(|rule| rule.backends),
            Self::Profile(rules) => rules.first().map(|rule| rule.backends.clone()),
        }
    }
}

impl HttpRule {
    fn has_in_profile<B>(&self, request: &http::Request<B>) -> bool {
        let meets = |route: &ProfileRoute| route.condition.matches(request.method(), request.uri().path());
        self.profile.as_deref().is_some_and(meets)
    }
}

impl RouteCounts {
    pub fn opaque(labels: Labels) -> Arc<Self> {
        let (opened, closed) = (Event::OutboundTcpRouteOpened, Event::OutboundTcpRouteClosed);
        Arc::new(Self { tally: Tally::new(labels), opened, closed })
    }

    pub fn tls(labels: Labels) -> Arc<Self> {
        let (opened, closed) = (Event::OutboundTlsRouteOpened, Event::OutboundTlsRouteClosed);
        Arc::new(Self { tally: Tally::new(labels), opened, closed })
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

impl<B> Distribution<B> {
    /// Picks a backend: the first, or one at random by weight. None where there is nothing to pick.
    pub fn pick(&self, random: &mut impl Rng) -> Option<&B> {
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

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::mesh::Endpoint;
    use crate::proxy::backend::{Queues, Spec};
    use crate::proxy::client::tests::connector;

    fn backend(port: u16) -> TcpBackend {
        let endpoint = Endpoint::plain(([10, 0, 0, 1], port).into());
        let spec = Spec::Forward(Box::new(endpoint));
        TcpBackend { backend: Arc::new(Backend::new(spec, connector(), Queues::default())), refused: None }
    }

    fn tcp_route(snis: Vec<HostMatch>, refused: Refusal) -> TcpRoute {
        let counts = RouteCounts::tls(Labels::resource("route", None));
        TcpRoute { snis, rule: TcpRule { refused: Some(refused), backends: Distribution::Empty, counts } }
    }

    #[test]
    fn weights_are_shares() {
        let distribution = Distribution::Random(vec![(backend(1), 1), (backend(2), 0), (backend(3), 3)]);
        let mut random = StdRng::seed_from_u64(7);
        let mut counts = [0; 4];
        for _ in 0..1_000 {
            let Spec::Forward(endpoint) = &distribution.pick(&mut random).unwrap().backend.spec else { panic!() };
            counts[usize::from(endpoint.address.port())] += 1;
        }
        assert_eq!(counts[2], 0, "a weight of nothing is never picked");
        assert!((200..300).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn nothing_is_picked_where_all_weigh_nothing() {
        let mut random = StdRng::seed_from_u64(7);
        assert!(Distribution::Random(vec![(backend(1), 0)]).pick(&mut random).is_none());
        assert!(Distribution::<TcpBackend>::Empty.pick(&mut random).is_none());
    }

    #[test]
    fn the_closest_sni_wins_and_of_equals_the_first() {
        let suffix = || vec![HostMatch::Suffix("example.com".into())];
        let exact = vec![HostMatch::Exact("a.example.com".into())];
        let invalid = |name: &str| Refusal::Invalid(name.into());
        let routes = TcpRoutes(vec![
            tcp_route(suffix(), invalid("first")),
            tcp_route(suffix(), invalid("second")),
            tcp_route(exact, invalid("exact")),
        ]);
        let found = |sni| routes.find(sni).and_then(|rule| rule.refused.clone());
        assert_eq!(found(Some("b.example.com")), Some(invalid("first")));
        assert_eq!(found(Some("a.example.com")), Some(invalid("exact")));
        assert_eq!(found(Some("other.com")), None);
        assert_eq!(found(None), None);
    }
}
