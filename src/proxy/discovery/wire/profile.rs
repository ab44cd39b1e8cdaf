//! Reads what a profile says of routing: the routes of requests, their limits, and what the target's traffic is split over.
//!
//! In: a `DestinationProfile`. Out: a [`Routing`], which takes the place of the routes that the policy gives, where it says anything at all. A
//! route or an override that makes no sense is left out with a warning, and what it was for goes on as if it had not been said: a profile only
//! says how well requests are served, not who may.
//!
//! Start at [`Routing::of`].

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::uri::Authority;

use super::{Backends, duration, of_route, retry_counts, route_labels};
use crate::mesh::budget::{Budget, Terms};
use crate::mesh::connection::Direction;
use crate::mesh::limits::{Codes, Limits, Pauses, Retry, Timeouts};
use crate::mesh::profile::{Classes, Condition, ResponseCondition};
use crate::mesh::route;
use crate::proxy::backend::{Backend, Spec};
use crate::proxy::balance::Ewma;
use crate::proxy::discovery::plan::{
    Distribution, HttpBackend, HttpRoutes, HttpRule, Plan, ProfileRoute, Protocol, RouteCounts, TcpBackend, TcpRoute,
    TcpRoutes, TcpRule,
};
use crate::proxy::metrics::{Labels, Measured, ProfileRequests, Scope};
use crate::proxy::policy::convert::{self, Invalid};
use crate::wire::destination::{
    DestinationProfile, HttpStatusRange, RequestMatch, ResponseClass, ResponseMatch, RetryBudget, Route, WeightedDst,
    request_match, response_match,
};
use crate::wire::meta;
use crate::wire::outbound::OutboundPolicy;
use crate::wire::outbound::proxy_protocol::Kind;

/// Routes and overrides that are followed; people write down a few dozen.
const ROUTES_MAX: usize = 500;
const OVERRIDES_MAX: usize = 100;
/// How deep conditions may be nested, and how many there may be in one route: matching takes as long as all of them, with each request.
const DEPTH_MAX: usize = 8;
const CONDITIONS_MAX: usize = 64;
/// What a compiled pattern may occupy, and how deep it may be nested: a path with a dozen classes of characters takes a tenth of that.
const PATTERN_BYTES_MAX: usize = 1 << 20;
const PATTERN_DEPTH_MAX: u32 = 50;
/// Labels of a route's metrics; `route` is the only one that a stock control plane sends.
const LABELS_MAX: usize = 16;
/// How often one request is asked again at most, whatever the budget holds: as often as the budget of a profile that says nothing of it lets
/// retries through in its while.
const RETRIES_MAX: u32 = 100;
/// The budget is what spares the server, so nobody waits.
const NO_PAUSES: Pauses = Pauses { shortest: Duration::ZERO, longest: Duration::ZERO, jitter: 0.0 };
/// How much is added by retries at most, and how long that is counted.
const RATIO_MAX: f32 = 1000.0;
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(60);

/// How a profile has the traffic of its target routed.
#[derive(Debug)]
pub(in crate::proxy) struct Routing {
    /// The target's own name and port.
    authority: String,
    overrides: Vec<Override>,
    /// In the order in which they are tried. The last one is for every request that no other is for.
    routes: Vec<Arc<ProfileRoute>>,
    budget: Option<Arc<Budget>>,
    /// Which resource said it.
    made_of: Option<meta::Metadata>,
    parent: Option<meta::Metadata>,
}

#[derive(Debug)]
struct Override {
    authority: String,
    weight: u32,
    metadata: Option<meta::Metadata>,
}

impl Routing {
    /// What a profile says of a target on `port`; none where it says nothing. A budget that it has still holds what it held `before`.
    pub(in crate::proxy) fn of(
        said: DestinationProfile,
        port: u16,
        direction: Direction,
        before: Option<&Self>,
    ) -> Option<Self> {
        // What is one endpoint has no name to be routed by.
        if said.endpoint.is_some() || (said.routes.is_empty() && said.dst_overrides.is_empty()) {
            return None;
        }
        let Some(authority) = authority(&said.fully_qualified_name, Some(port)) else {
            tracing::warn!(name = said.fully_qualified_name, "not following a profile, whose name is none");
            return None;
        };
        let name = said.fully_qualified_name.as_str();
        let budget = said.retry_budget.and_then(|said| match terms(said) {
            Ok(terms) => Some(Budget::after(before.and_then(|before| before.budget.as_ref()), terms)),
            Err(invalid) => {
                tracing::warn!(profile = name, %invalid, "not asking again: the budget of a profile makes no sense");
                None
            }
        });
        let canonical = HeaderValue::from_str(&authority).ok()?;
        let maker = Maker { authority: &authority, canonical, budget: budget.as_ref(), direction };
        let mut routes = Vec::new();
        for route in said.routes.into_iter().take(ROUTES_MAX) {
            match maker.route(route) {
                Ok(route) => routes.push(Arc::new(route)),
                Err(invalid) => tracing::warn!(profile = name, %invalid, "leaving out a route of a profile"),
            }
        }
        routes.push(Arc::new(maker.rest()));
        let mut overrides = Vec::new();
        for said in said.dst_overrides.into_iter().take(OVERRIDES_MAX).filter(|said| said.weight > 0) {
            let WeightedDst { authority: to, weight, backend_ref } = said;
            match self::authority(&to, None) {
                Some(authority) => overrides.push(Override { authority, weight, metadata: backend_ref }),
                None => tracing::warn!(profile = name, to, "leaving out an override of a profile: no name and port"),
            }
        }
        Some(Self { overrides, routes, budget, made_of: said.profile_ref, parent: said.parent_ref, authority })
    }

    /// The routes that somebody wrote down.
    pub(in crate::proxy) fn written(&self) -> &[Arc<ProfileRoute>] {
        &self.routes[..self.routes.len().saturating_sub(1)]
    }

    /// Whether connections that nobody looks into are routed by it, too.
    pub(in crate::proxy::discovery) fn has_overrides(&self) -> bool {
        !self.overrides.is_empty()
    }

    /// The policy without the routes that this takes the place of, so that nothing is asked about their backends.
    pub(in crate::proxy::discovery) fn without_routes(&self, mut policy: OutboundPolicy) -> OutboundPolicy {
        let splits = self.has_overrides();
        match policy.protocol.as_mut().and_then(|protocol| protocol.kind.as_mut()) {
            Some(Kind::Detect(detect)) => {
                detect.http1.iter_mut().for_each(|http1| http1.routes.clear());
                detect.http2.iter_mut().for_each(|http2| http2.routes.clear());
                detect.opaque.iter_mut().filter(|_| splits).for_each(|opaque| opaque.routes.clear());
            }
            Some(Kind::Http1(http1)) => http1.routes.clear(),
            Some(Kind::Http2(http2)) => http2.routes.clear(),
            Some(Kind::Grpc(grpc)) => grpc.routes.clear(),
            Some(Kind::Opaque(opaque)) if splits => opaque.routes.clear(),
            Some(Kind::Opaque(_) | Kind::Tls(_)) | None => {}
        }
        policy
    }

    /// The plan, routed by this.
    pub(in crate::proxy::discovery) fn followed(&self, plan: Plan, backends: &mut Backends<'_>) -> Plan {
        let Plan { protocol, backends: mut used, parent } = plan;
        let labels = route_labels(parent.labels(), self.made_of.as_ref());
        let shares = self.shares(backends);
        used.extend(shares.iter().map(|share| share.backend.clone()));
        let protocol = match protocol {
            Protocol::Detect { opaque, .. } => {
                let rules = self.rules(&labels, &shares);
                let (http1, http2) = (HttpRoutes::Profile(rules.clone()), HttpRoutes::Profile(rules));
                Protocol::Detect { http1, http2, opaque: self.opaque(opaque, &labels, &shares) }
            }
            Protocol::Http1(_) => Protocol::Http1(HttpRoutes::Profile(self.rules(&labels, &shares))),
            Protocol::Http2(_) => Protocol::Http2(HttpRoutes::Profile(self.rules(&labels, &shares))),
            Protocol::Opaque(opaque) => Protocol::Opaque(self.opaque(opaque, &labels, &shares)),
            Protocol::Tls(_) | Protocol::Invalid(_) => protocol,
        };
        Plan { protocol, backends: used, parent }
    }

    /// The backends, each with its share of the traffic.
    fn shares(&self, backends: &mut Backends<'_>) -> Vec<Share> {
        let mut share = |authority: &str, weight, metadata: Option<&meta::Metadata>| {
            let spec = Spec::Balance { authority: authority.into(), ewma: Ewma::default(), accrual: None };
            Share { backend: backends(spec), weight, labels: Labels::service("backend", metadata) }
        };
        match self.overrides.as_slice() {
            [] => vec![share(&self.authority, 1, self.parent.as_ref())],
            overrides => {
                let shares = overrides.iter();
                shares.map(|to| share(&to.authority, to.weight, to.metadata.as_ref())).collect()
            }
        }
    }

    fn rules(&self, labels: &Labels, shares: &[Share]) -> Arc<[HttpRule]> {
        let measured = of_route(Scope::OutboundHttpRoute, labels);
        let retries = retry_counts(labels, false);
        let backends = shares.iter().map(|share| {
            let measured = Measured::new(Scope::OutboundHttpBackend, labels.and(&share.labels));
            (HttpBackend { backend: share.backend.clone(), filters: Vec::new(), measured }, share.weight)
        });
        let backends: Vec<(HttpBackend, u32)> = backends.collect();
        let rule = |route: &Arc<ProfileRoute>| HttpRule {
            matches: Vec::new(),
            filters: Vec::new(),
            backends: Distribution::Random(backends.clone()),
            limits: route.limits.clone(),
            may_set_limits: false,
            measured: measured.clone(),
            retries: retries.clone(),
            profile: Some(route.clone()),
        };
        self.routes.iter().map(rule).collect()
    }

    /// Where connections go that nobody looks into: to the overrides, or where the `policy` says.
    fn opaque(&self, policy: TcpRoutes, labels: &Labels, shares: &[Share]) -> TcpRoutes {
        if !self.has_overrides() {
            return policy;
        }
        let backend = |share: &Share| (TcpBackend { backend: share.backend.clone(), refused: None }, share.weight);
        let backends = Distribution::Random(shares.iter().map(backend).collect());
        let rule = TcpRule { refused: None, backends, counts: RouteCounts::opaque(labels.clone()) };
        TcpRoutes(vec![TcpRoute { snis: Vec::new(), rule }])
    }
}

/// A backend, and how much of the traffic it gets.
struct Share {
    backend: Arc<Backend>,
    weight: u32,
    labels: Labels,
}

/// What is the same for all routes of a profile.
struct Maker<'a> {
    authority: &'a str,
    canonical: HeaderValue,
    budget: Option<&'a Arc<Budget>>,
    direction: Direction,
}

impl Maker<'_> {
    fn route(&self, said: Route) -> Result<ProfileRoute, Invalid> {
        let mut left = CONDITIONS_MAX;
        let condition = request(said.condition.ok_or(Invalid::Missing("the condition of a route"))?, 0, &mut left)?;
        let classes = said.response_classes.into_iter().map(|class| response_class(class, &mut left));
        let classes = Classes::new(&classes.collect::<Result<Vec<_>, _>>()?);
        let timeout = match said.timeout {
            None => None,
            Some(said) => Some(duration(said).ok_or_else(|| convert::unparsable("timeout", said))?),
        };
        let timeouts = Timeouts { request: timeout.filter(|timeout| !timeout.is_zero()), ..Timeouts::default() };
        let retry = self.budget.filter(|_| said.is_retryable).map(|_| retry(&classes));
        Ok(self.of(condition, Limits { timeouts, retry }, classes, &route_labels_said(said.metrics_labels)))
    }

    /// The route of what no other one is for.
    fn rest(&self) -> ProfileRoute {
        self.of(Condition::All(Vec::new()), Limits::default(), Classes::default(), &Labels::none())
    }

    fn of(&self, condition: Condition, limits: Limits, classes: Classes, labels: &Labels) -> ProfileRoute {
        let requests = ProfileRequests::new(self.direction, self.authority, labels, classes);
        let budget = self.budget.filter(|_| limits.retry.is_some()).cloned();
        ProfileRoute { condition, limits, canonical: self.canonical.clone(), budget, requests }
    }
}

/// What is asked again: what is a failure by these classes.
fn retry(classes: &Classes) -> Retry {
    // Calls have the status 200, whatever became of them, so what is said of that is said of all of them.
    let failing_calls = [2, 4, 7, 13, 14, 15];
    let codes = match classes.is_failure(200) {
        None => failing_calls.into_iter().fold(Codes::default(), Codes::with),
        Some(_) => Codes::default(),
    };
    let (statuses, body_max) = (classes.failing(), usize::MAX);
    Retry { max: RETRIES_MAX, statuses, codes, body_max, timeout: None, pauses: NO_PAUSES }
}

/// The labels of a route's metrics. A name that is none would spoil all metrics.
fn route_labels_said(said: HashMap<String, String>) -> Labels {
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let said: BTreeMap<String, String> = said.into_iter().filter(|(name, _)| is_name(name)).collect();
    Labels::new(said.into_iter().take(LABELS_MAX).map(|(name, value)| (format!("rt_{name}"), value)))
}

/// One condition, of which there may be so many more.
fn request(said: RequestMatch, depth: usize, left: &mut usize) -> Result<Condition, Invalid> {
    use request_match::Match;
    take(depth, left)?;
    let mut all = |said: request_match::Seq| -> Result<Vec<Condition>, Invalid> {
        said.matches.into_iter().map(|one| request(one, depth + 1, left)).collect()
    };
    Ok(match said.r#match.ok_or(Invalid::Missing("the kind of a condition"))? {
        Match::All(said) => Condition::All(all(said)?),
        Match::Any(said) => Condition::Any(all(said)?),
        Match::Not(said) => Condition::Not(Box::new(request(*said, depth + 1, left)?)),
        Match::Path(said) => {
            let pattern = route::whole_within(said.regex.trim(), PATTERN_BYTES_MAX, PATTERN_DEPTH_MAX);
            Condition::Path(pattern.map_err(|_| convert::unparsable("pattern", said.regex))?)
        }
        Match::Method(said) => {
            Condition::Method(said.clone().try_into().map_err(|_| convert::unparsable("HTTP method", said))?)
        }
    })
}

fn response_class(said: ResponseClass, left: &mut usize) -> Result<(ResponseCondition, bool), Invalid> {
    let condition = said.condition.ok_or(Invalid::Missing("the condition of a class of responses"))?;
    Ok((response(condition, 0, left)?, said.is_failure))
}

fn response(said: ResponseMatch, depth: usize, left: &mut usize) -> Result<ResponseCondition, Invalid> {
    use response_match::Match;
    take(depth, left)?;
    let mut all = |said: response_match::Seq| -> Result<Vec<ResponseCondition>, Invalid> {
        said.matches.into_iter().map(|one| response(one, depth + 1, left)).collect()
    };
    Ok(match said.r#match.ok_or(Invalid::Missing("the kind of a condition"))? {
        Match::All(said) => ResponseCondition::All(all(said)?),
        Match::Any(said) => ResponseCondition::Any(all(said)?),
        Match::Not(said) => ResponseCondition::Not(Box::new(response(*said, depth + 1, left)?)),
        Match::Status(said) => ResponseCondition::Status(statuses(said)?),
    })
}

/// Counts a condition, which is nested so deep.
fn take(depth: usize, left: &mut usize) -> Result<(), Invalid> {
    if depth > DEPTH_MAX {
        return Err(convert::unparsable("condition nested so deep", depth));
    }
    *left =
        left.checked_sub(1).ok_or_else(|| convert::unparsable("route with more conditions than", CONDITIONS_MAX))?;
    Ok(())
}

/// Where one end is not said, it is the other.
fn statuses(said: HttpStatusRange) -> Result<std::ops::RangeInclusive<u16>, Invalid> {
    let (min, max) = match (said.min, said.max) {
        (0, status) | (status, 0) => (status, status),
        range => range,
    };
    let status = |status: u32| u16::try_from(status).ok().filter(|status| (100..1000).contains(status));
    match (status(min), status(max)) {
        (Some(min), Some(max)) if min <= max => Ok(min..=max),
        _ => Err(convert::unparsable("range of statuses", (said.min, said.max))),
    }
}

fn terms(said: RetryBudget) -> Result<Terms, Invalid> {
    let ratio = said.retry_ratio;
    if !(0.0..=RATIO_MAX).contains(&ratio) {
        return Err(convert::unparsable("ratio of retries", ratio));
    }
    let said_ttl = said.ttl.ok_or(Invalid::Missing("how long requests count"))?;
    let ttl = duration(said_ttl).filter(|ttl| (TTL_MIN..=TTL_MAX).contains(ttl));
    let ttl = ttl.ok_or_else(|| convert::unparsable("time that requests count", said_ttl))?;
    Ok(Terms { ratio, per_second: said.min_retries_per_second, ttl })
}

/// `NAME:PORT`, in lower case and without the name's last dot; none where it is no name, or has no port and there is none to go by.
fn authority(said: &str, port: Option<u16>) -> Option<String> {
    let authority: Authority = said.trim().to_ascii_lowercase().parse().ok()?;
    let host = authority.host().trim_end_matches('.');
    if host.is_empty() || host.parse::<IpAddr>().is_ok() || host.starts_with('[') || said.contains('@') {
        return None;
    }
    Some(format!("{host}:{}", authority.port_u16().or(port)?))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::wire::destination::{PathMatch, WeightedAddr};

    fn path(regex: &str) -> RequestMatch {
        RequestMatch { r#match: Some(request_match::Match::Path(PathMatch { regex: regex.into() })) }
    }

    fn said(conditions: Vec<Option<RequestMatch>>) -> DestinationProfile {
        let routes = conditions.into_iter().map(|condition| Route { condition, ..Route::default() }).collect();
        let fully_qualified_name = "Web.shop.svc.cluster.local.".into();
        DestinationProfile { fully_qualified_name, routes, ..DestinationProfile::default() }
    }

    fn routing(said: DestinationProfile) -> Option<Routing> {
        Routing::of(said, 80, Direction::Outbound, None)
    }

    #[test]
    fn a_profile_that_says_nothing_of_routing_or_is_of_no_name_is_not_followed() {
        assert!(routing(said(Vec::new())).is_none());
        let nameless = DestinationProfile { fully_qualified_name: String::new(), ..said(vec![Some(path("/"))]) };
        assert!(routing(nameless).is_none());
        let endpoint = DestinationProfile { endpoint: Some(WeightedAddr::default()), ..said(vec![Some(path("/"))]) };
        assert!(routing(endpoint).is_none(), "one endpoint is not balanced over");
        assert_eq!(routing(said(vec![Some(path("/"))])).unwrap().authority, "web.shop.svc.cluster.local:80");
    }

    #[test]
    fn a_route_that_makes_no_sense_is_left_out_and_the_others_are_not() {
        let empty = RequestMatch { r#match: None };
        let not = |one| RequestMatch { r#match: Some(request_match::Match::Not(Box::new(one))) };
        let all = |matches| RequestMatch { r#match: Some(request_match::Match::All(request_match::Seq { matches })) };
        let deep = (0..=DEPTH_MAX).fold(path("/"), |inner, _| not(inner));
        let wrong = [
            None,
            Some(empty.clone()),
            Some(path("/(")),
            Some(path(r"(\w{100}){100}")),
            Some(all(vec![path("/("), path("/a")])),
            Some(deep),
            Some(all(vec![path("/"); CONDITIONS_MAX])),
        ];
        for wrong in wrong {
            let routing = routing(said(vec![wrong.clone(), Some(path(" /books/.* "))])).unwrap();
            let [books] = routing.written() else { panic!("{wrong:?}") };
            assert!(books.condition.matches(&Method::GET, "/books/7"));
            assert!(!books.condition.matches(&Method::GET, "/a/books/7"), "the whole path counts");
        }
    }

    #[test]
    fn there_are_so_many_routes_and_always_one_for_the_rest() {
        let many = routing(said(vec![Some(path("/")); ROUTES_MAX + 1])).unwrap();
        assert_eq!((many.written().len(), many.routes.len()), (ROUTES_MAX, ROUTES_MAX + 1));
        assert!(many.routes.last().unwrap().condition.matches(&Method::GET, "/any"));
    }

    #[test]
    fn a_range_of_statuses_may_leave_out_one_end() {
        let range = |min, max| statuses(HttpStatusRange { min, max }).ok();
        assert_eq!(range(500, 599), Some(500..=599));
        assert_eq!((range(429, 0), range(0, 429)), (Some(429..=429), Some(429..=429)));
        for (min, max) in [(0, 0), (99, 200), (500, 400), (65_536 + 200, 0)] {
            assert_eq!(range(min, max), None, "{min}-{max}");
        }
    }

    #[test]
    fn a_budget_is_within_bounds_or_none() {
        let budget = |retry_ratio, seconds| {
            let ttl = Some(prost_types::Duration { seconds, nanos: 0 });
            terms(RetryBudget { retry_ratio, min_retries_per_second: u32::MAX, ttl }).is_ok()
        };
        assert!(budget(0.0, 1) && budget(1000.0, 60));
        for (ratio, seconds) in [(0.2, 0), (0.2, 61), (-0.1, 10), (1000.5, 10), (f32::NAN, 10), (0.2, -5)] {
            assert!(!budget(ratio, seconds), "{ratio} {seconds}");
        }
    }

    #[test]
    fn labels_are_names_or_left_out() {
        let labels = [("route", "GET /"), ("bad name", "x"), ("", "x"), ("quo\"te", "x")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(route_labels_said(labels), Labels::new([("rt_route", "GET /")]));
    }

    #[test]
    fn an_authority_is_a_name_with_a_port() {
        assert_eq!(authority("Web.shop.svc.:8080", None).as_deref(), Some("web.shop.svc:8080"));
        assert_eq!(authority("web", Some(80)).as_deref(), Some("web:80"));
        for wrong in ["web", "10.0.0.1:80", "[::1]:80", "me@web:80", ":80", "web:99999", ""] {
            assert_eq!(authority(wrong, None), None, "{wrong}");
        }
    }
}
