//! Turns what the control plane says into endpoints and plans.
//!
//! Messages are judged as strictly as they deserve: an endpoint that makes no sense is left out, a policy that makes no sense becomes
//! [`Protocol::Invalid`], under which every request fails. Sending requests somewhere by half a policy would be worse.
//!
//! Here are plans, routes and their backends; endpoints, limits, filters and profiles are files of their own. Start at [`plan`].

mod endpoint;
mod filters;
mod limits;
mod profile;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub(super) use endpoint::{endpoint, socket_address};
use filters::{grpc_filter, http_filter, opaque_filter, sni_match, tls_filter};
use limits::{accrual_of, grpc_retry, http_retry, timeouts};
pub(in crate::proxy) use profile::Routing;

use super::plan::{
    Distribution, HttpBackend, HttpFilter, HttpRoute, HttpRoutes, HttpRule, Plan, Protocol, Refusal, RetryCounts,
    RouteCounts, TcpBackend, TcpRoute, TcpRoutes, TcpRule,
};
use crate::mesh::Endpoint;
use crate::mesh::limits::{Limits, Penalty};
use crate::mesh::route::{HostMatch, RequestMatch};
use crate::proxy::backend::{Backend, Spec};
use crate::proxy::balance::Ewma;
use crate::proxy::metrics::{Labels, Measured, Scope, Tally};
use crate::proxy::policy::convert::{self, Invalid};
use crate::wire::meta;
use crate::wire::outbound::proxy_protocol::{Detect, Kind};
use crate::wire::outbound::{self, OutboundPolicy, backend};

/// Longer than any connection lasts: what is to take longer may take for ever.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Makes backends, or finds those that are there already.
pub(super) type Backends<'a> = dyn FnMut(Spec) -> Arc<Backend> + 'a;

/// The plan of a policy. Backends are those that `backends` gives for what the policy says of them.
pub(super) fn plan(policy: OutboundPolicy, backends: &mut Backends<'_>) -> Plan {
    let mut used = Vec::new();
    let parent = Labels::service("parent", policy.metadata.as_ref());
    let protocol = protocol(policy, &parent, &mut |spec| {
        let backend = backends(spec);
        used.push(backend.clone());
        backend
    });
    let protocol = protocol.unwrap_or_else(|invalid| {
        tracing::warn!(%invalid, "refusing the connections to a target, whose policy is invalid");
        Protocol::Invalid(invalid.to_string())
    });
    Plan { protocol, backends: used, parent: Tally::new(parent) }
}

/// The plan of a target that has no policy: everything goes to one endpoint.
pub(super) fn forward_plan(endpoint: Endpoint, is_opaque: bool, backends: &mut Backends<'_>) -> Plan {
    plan_of(backends(Spec::Forward(Box::new(endpoint))), is_opaque)
}

/// The plan of a name that has no policy: everything is balanced over its endpoints.
pub(super) fn balance_plan(authority: String, is_opaque: bool, backends: &mut Backends<'_>) -> Plan {
    plan_of(backends(Spec::Balance { authority, ewma: Ewma::default(), accrual: None }), is_opaque)
}

/// The plan by which everything goes to one backend.
fn plan_of(backend: Arc<Backend>, is_opaque: bool) -> Plan {
    let parent = Labels::service("parent", None);
    let route = route_labels(&parent, None);
    let http =
        || HttpRoutes::Policy(vec![HttpRoute { hosts: Vec::new(), rules: vec![only_rule(&route, backend.clone())] }]);
    let backends = Distribution::First(vec![TcpBackend { backend: backend.clone(), refused: None }]);
    let rule = TcpRule { refused: None, backends, counts: RouteCounts::opaque(route.clone()) };
    let opaque = TcpRoutes(vec![TcpRoute { snis: Vec::new(), rule }]);
    let protocol = match is_opaque {
        true => Protocol::Opaque(opaque),
        false => Protocol::Detect { http1: http(), http2: http(), opaque },
    };
    Plan { protocol, backends: vec![backend], parent: Tally::new(parent) }
}

/// The labels of a route, as seen from its parent.
fn route_labels(parent: &Labels, route: Option<&meta::Metadata>) -> Labels {
    parent.and(&Labels::resource("route", route))
}

/// Everything goes to one backend.
fn only_rule(route: &Labels, backend: Arc<Backend>) -> HttpRule {
    let measured = Measured::new(Scope::OutboundHttpBackend, route.and(&Labels::service("backend", None)));
    HttpRule {
        matches: Vec::new(),
        filters: Vec::new(),
        backends: Distribution::First(vec![HttpBackend { backend, filters: Vec::new(), measured }]),
        limits: Limits::default(),
        may_set_limits: false,
        measured: of_route(Scope::OutboundHttpRoute, route),
        retries: retry_counts(route, false),
        profile: None,
    }
}

/// What counts the requests of a route. The names of hosts that they ask for are their clients' choice, and left empty.
fn of_route(scope: Scope, route: &Labels) -> Arc<Measured> {
    Measured::new(scope, route.and(&Labels::new([("hostname", "")])))
}

fn retry_counts(route: &Labels, is_grpc: bool) -> Arc<RetryCounts> {
    Arc::new(RetryCounts { tally: Tally::new(route.clone()), is_grpc })
}

fn protocol(policy: OutboundPolicy, parent: &Labels, backends: &mut Backends<'_>) -> Result<Protocol, Invalid> {
    let kind = policy.protocol.and_then(|protocol| protocol.kind).ok_or(Invalid::Missing("protocol"))?;
    let accrues = accrual_of(&kind)?;
    let backends: &mut Backends<'_> = &mut |spec| {
        backends(match spec {
            Spec::Balance { authority, ewma, accrual: _ } => Spec::Balance { authority, ewma, accrual: accrues },
            spec => spec,
        })
    };
    Ok(match kind {
        Kind::Detect(Detect { http1, http2, opaque, .. }) => Protocol::Detect {
            http1: http_routes(http1.ok_or(Invalid::Missing("http1"))?.routes, parent, backends)?,
            http2: http_routes(http2.ok_or(Invalid::Missing("http2"))?.routes, parent, backends)?,
            opaque: opaque_routes(opaque.ok_or(Invalid::Missing("opaque"))?.routes, parent, backends)?,
        },
        Kind::Http1(http) => Protocol::Http1(http_routes(http.routes, parent, backends)?),
        Kind::Http2(http) => Protocol::Http2(http_routes(http.routes, parent, backends)?),
        Kind::Grpc(grpc) => Protocol::Http2(grpc_routes(grpc.routes, parent, backends)?),
        Kind::Opaque(opaque) => Protocol::Opaque(opaque_routes(opaque.routes, parent, backends)?),
        Kind::Tls(tls) => Protocol::Tls(tls_routes(tls.routes, parent, backends)?),
    })
}

/// The distribution of a rule, whose backends `$one` makes of filters and what is said of the backend. The four kinds of routes have the same
/// shape, but types of their own.
macro_rules! distribution {
    ($kinds:path, $said:expr, $one:expr) => {{
        use $kinds as Kinds;
        let kind = $said.and_then(|said| said.kind).ok_or(Invalid::Missing("backends"))?;
        let mut one = $one;
        match kind {
            Kinds::Empty(_) => Distribution::Empty,
            Kinds::FirstAvailable(first) => {
                let backends = first.backends.into_iter().map(|said| one(said.filters, said.backend));
                Distribution::First(backends.collect::<Result<_, _>>()?)
            }
            Kinds::RandomAvailable(random) => {
                let backends = random.backends.into_iter().map(|weighted| {
                    let said = weighted.backend.ok_or(Invalid::Missing("weighted backend"))?;
                    Ok((one(said.filters, said.backend)?, weighted.weight))
                });
                Distribution::Random(backends.collect::<Result<_, Invalid>>()?)
            }
        }
    }};
}

fn http_routes(
    routes: Vec<outbound::HttpRoute>,
    parent: &Labels,
    backends: &mut Backends<'_>,
) -> Result<HttpRoutes, Invalid> {
    let mut made = Vec::new();
    for route in routes {
        let labels = route_labels(parent, route.metadata.as_ref());
        let measured = of_route(Scope::OutboundHttpRoute, &labels);
        let retries = retry_counts(&labels, false);
        let mut rules = Vec::new();
        for rule in route.rules {
            let matches: Vec<RequestMatch> =
                rule.matches.into_iter().map(convert::http_match).collect::<Result<_, _>>()?;
            let filters = |filters: Vec<_>| {
                filters.into_iter().map(|filter| http_filter(filter, &matches)).collect::<Result<Vec<_>, _>>()
            };
            let one = |said: Vec<_>, backend| {
                http_backend(filters(said)?, backend, (Scope::OutboundHttpBackend, &labels), backends)
            };
            let backends = distribution!(outbound::http_route::distribution::Kind, rule.backends, one);
            let filters = filters(rule.filters)?;
            #[expect(deprecated, reason = "older control planes say it so")]
            let timeouts = timeouts(rule.timeouts, rule.request_timeout)?;
            rules.push(HttpRule {
                matches,
                filters,
                backends,
                limits: Limits { timeouts, retry: rule.retry.map(http_retry).transpose()? },
                may_set_limits: rule.allow_l5d_request_headers,
                measured: measured.clone(),
                retries: retries.clone(),
                profile: None,
            });
        }
        let hosts = route.hosts.into_iter().map(convert::host).collect::<Result<_, _>>()?;
        made.push(HttpRoute { hosts, rules });
    }
    Ok(HttpRoutes::Policy(made))
}

fn grpc_routes(
    routes: Vec<outbound::GrpcRoute>,
    parent: &Labels,
    backends: &mut Backends<'_>,
) -> Result<HttpRoutes, Invalid> {
    let filters = |said: Vec<_>| said.into_iter().map(grpc_filter).collect::<Result<Vec<_>, _>>();
    let mut made = Vec::new();
    for route in routes {
        let labels = route_labels(parent, route.metadata.as_ref());
        let measured = of_route(Scope::OutboundGrpcRoute, &labels);
        let retries = retry_counts(&labels, true);
        let mut rules = Vec::new();
        for rule in route.rules {
            let one = |said: Vec<_>, backend| {
                http_backend(filters(said)?, backend, (Scope::OutboundGrpcBackend, &labels), backends)
            };
            #[expect(deprecated, reason = "older control planes say it so")]
            let timeouts = timeouts(rule.timeouts, rule.request_timeout)?;
            rules.push(HttpRule {
                limits: Limits { timeouts, retry: rule.retry.map(grpc_retry).transpose()? },
                may_set_limits: rule.allow_l5d_request_headers,
                retries: retries.clone(),
                matches: rule.matches.into_iter().map(convert::grpc_match).collect::<Result<_, _>>()?,
                filters: filters(rule.filters)?,
                backends: distribution!(outbound::grpc_route::distribution::Kind, rule.backends, one),
                measured: measured.clone(),
                profile: None,
            });
        }
        let hosts = route.hosts.into_iter().map(convert::host).collect::<Result<_, _>>()?;
        made.push(HttpRoute { hosts, rules });
    }
    Ok(HttpRoutes::Policy(made))
}

/// A backend of a route whose requests are counted in `scope` with the labels of the `route`.
fn http_backend(
    filters: Vec<HttpFilter>,
    said: Option<outbound::Backend>,
    (scope, route): (Scope, &Labels),
    backends: &mut Backends<'_>,
) -> Result<HttpBackend, Invalid> {
    let metadata = said.as_ref().and_then(|said| said.metadata.as_ref());
    let measured = Measured::new(scope, route.and(&Labels::service("backend", metadata)));
    Ok(HttpBackend { backend: backends(spec(said)?), filters, measured })
}

fn opaque_routes(
    routes: Vec<outbound::OpaqueRoute>,
    parent: &Labels,
    backends: &mut Backends<'_>,
) -> Result<TcpRoutes, Invalid> {
    if routes.len() > 1 {
        return Err(convert::unparsable("opaque routes", routes.len()));
    }
    let mut made = Vec::new();
    for route in routes {
        let counts = RouteCounts::opaque(route_labels(parent, route.metadata.as_ref()));
        for rule in route.rules {
            let one = |filters: Vec<_>, said| tcp_backend(filters.into_iter().map(opaque_filter), said, backends);
            let backends = distribution!(outbound::opaque_route::distribution::Kind, rule.backends, one);
            let refused = rule.filters.into_iter().map(opaque_filter).next().transpose()?;
            made.push(TcpRoute { snis: Vec::new(), rule: TcpRule { refused, backends, counts: counts.clone() } });
        }
    }
    Ok(TcpRoutes(made))
}

fn tls_routes(
    routes: Vec<outbound::TlsRoute>,
    parent: &Labels,
    backends: &mut Backends<'_>,
) -> Result<TcpRoutes, Invalid> {
    let mut made = Vec::new();
    for route in routes {
        let counts = RouteCounts::tls(route_labels(parent, route.metadata.as_ref()));
        let snis: Vec<HostMatch> = route.snis.into_iter().map(sni_match).collect::<Result<_, _>>()?;
        for rule in route.rules {
            let one = |filters: Vec<_>, said| tcp_backend(filters.into_iter().map(tls_filter), said, backends);
            let backends = distribution!(outbound::tls_route::distribution::Kind, rule.backends, one);
            let refused = rule.filters.into_iter().map(tls_filter).next().transpose()?;
            made.push(TcpRoute { snis: snis.clone(), rule: TcpRule { refused, backends, counts: counts.clone() } });
        }
    }
    Ok(TcpRoutes(made))
}

fn tcp_backend(
    mut filters: impl Iterator<Item = Result<Refusal, Invalid>>,
    said: Option<outbound::Backend>,
    backends: &mut Backends<'_>,
) -> Result<TcpBackend, Invalid> {
    Ok(TcpBackend { refused: filters.next().transpose()?, backend: backends(spec(said)?) })
}

fn spec(said: Option<outbound::Backend>) -> Result<Spec, Invalid> {
    let said = said.ok_or(Invalid::Missing("backend"))?;
    match said.kind {
        None => Ok(Spec::Fail),
        Some(backend::Kind::Forward(address)) => {
            let endpoint = endpoint(address, &HashMap::new()).ok_or(Invalid::Missing("forward address"))?;
            Ok(Spec::Forward(Box::new(endpoint)))
        }
        Some(backend::Kind::Balancer(balancer)) => {
            use backend::endpoint_discovery::Kind;
            let discovery = balancer.discovery.and_then(|discovery| discovery.kind);
            let Kind::Dst(destination) = discovery.ok_or(Invalid::Missing("endpoint discovery"))?;
            Ok(Spec::Balance { authority: destination.path, ewma: ewma(balancer.load), accrual: None })
        }
    }
}

fn ewma(load: Option<backend::balance_p2c::Load>) -> Ewma {
    use backend::balance_p2c::Load;
    let given = |said: Option<prost_types::Duration>| said.and_then(duration).filter(|said| !said.is_zero());
    let (default_rtt, decay, penalty) = match load {
        Some(Load::PeakEwma(load)) => (load.default_rtt, load.decay, None),
        Some(Load::PenaltyPeakEwma(load)) => {
            let usual = Penalty::default();
            let penalty = Penalty {
                by: given(load.penalty).unwrap_or(usual.by),
                decay: given(load.penalty_decay).unwrap_or(usual.decay),
                hint_max: given(load.max_retry_after).unwrap_or(usual.hint_max),
            };
            (load.default_rtt, load.decay, Some(penalty))
        }
        None => (None, None, None),
    };
    let default = Ewma::default();
    Ewma {
        default_rtt: given(default_rtt).unwrap_or(default.default_rtt),
        decay: given(decay).unwrap_or(default.decay),
        penalty,
    }
}

/// A length of time, and never more of it than can be added to any moment and multiplied by any jitter.
fn duration(said: prost_types::Duration) -> Option<Duration> {
    Duration::try_from(said).ok().map(|said| said.min(DURATION_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::backend::Queues;
    use crate::proxy::client::tests::connector;
    use crate::wire::outbound::ProxyProtocol;

    fn planned(kind: Option<Kind>) -> Protocol {
        let connector = connector();
        let policy = OutboundPolicy { protocol: Some(ProxyProtocol { kind }), metadata: None };
        plan(policy, &mut |spec| Arc::new(Backend::new(spec, connector.clone(), Queues::default()))).protocol
    }

    #[test]
    fn half_a_policy_is_no_policy() {
        assert!(matches!(planned(None), Protocol::Invalid(_)));
        assert!(matches!(planned(Some(Kind::Detect(Detect::default()))), Protocol::Invalid(_)));
        let two = outbound::proxy_protocol::Opaque { routes: vec![outbound::OpaqueRoute::default(); 2] };
        assert!(matches!(planned(Some(Kind::Opaque(two))), Protocol::Invalid(_)));
        let rule = outbound::http_route::Rule::default();
        let route = outbound::HttpRoute { rules: vec![rule], ..outbound::HttpRoute::default() };
        let http = outbound::proxy_protocol::Http1 { routes: vec![route], failure_accrual: None };
        assert!(matches!(planned(Some(Kind::Http1(http))), Protocol::Invalid(_)), "a rule needs backends");
    }

    #[test]
    fn no_length_of_time_is_past_computing() {
        let longest = duration(prost_types::Duration { seconds: i64::MAX, nanos: 999_999_999 }).unwrap();
        assert!(tokio::time::Instant::now().checked_add(longest.mul_f64(11.0)).is_some());
        assert_eq!(duration(prost_types::Duration { seconds: -1, nanos: 0 }), None);
    }

    #[test]
    fn a_filter_of_an_unknown_kind_is_not_skipped() {
        let empty = outbound::opaque_route::distribution::Kind::Empty(outbound::opaque_route::distribution::Empty {});
        let rule = outbound::opaque_route::Rule {
            backends: Some(outbound::opaque_route::Distribution { kind: Some(empty) }),
            filters: vec![outbound::opaque_route::Filter { kind: None }],
        };
        let route = outbound::OpaqueRoute { metadata: None, rules: vec![rule] };
        let opaque = outbound::proxy_protocol::Opaque { routes: vec![route] };
        assert!(matches!(planned(Some(Kind::Opaque(opaque))), Protocol::Invalid(_)));
    }
}
