//! Turns what the control plane says into endpoints and plans.
//!
//! Messages are judged as strictly as they deserve: an endpoint that makes no sense is left out, a policy that makes no sense becomes
//! [`Protocol::Invalid`], under which every request fails. Sending requests somewhere by half a policy would be worse.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::plan::{
    Distribution, Failure, HttpBackend, HttpFilter, HttpRoute, HttpRoutes, HttpRule, Plan, Protocol, Refusal,
    RetryCounts, RouteCounts, TcpBackend, TcpRoute, TcpRoutes, TcpRule,
};
use crate::mesh::Endpoint;
use crate::mesh::endpoint::{Hint, Http2Client, Server};
use crate::mesh::limits::{Accrual, Codes, Limits, Pauses, Rate, Retry, Statuses, Timeouts};
use crate::mesh::route::{HostMatch, RequestMatch};
use crate::proxy::backend::{Backend, Spec};
use crate::proxy::balance::Ewma;
use crate::proxy::metrics::{Labels, Measured, Scope, Tally};
use crate::proxy::policy::convert::{self, Invalid};
use crate::wire::destination::{self, Http2ClientParams, WeightedAddr, protocol_hint, tls_identity};
use crate::wire::outbound::proxy_protocol::{Detect, Kind};
use crate::wire::outbound::{self, FailureAccrual, OutboundPolicy, backend};
use crate::wire::{http_route, meta, net, opaque_route, tls_route};

/// An IP address and a port other than 0.
pub(super) fn socket_address(address: net::TcpAddress) -> Option<SocketAddr> {
    let ip = address.ip?.try_into().ok()?;
    let port = u16::try_from(address.port).ok().filter(|port| *port != 0)?;
    Some(SocketAddr::new(ip, port))
}

/// One endpoint of a set with `set_labels`; none where it has no address.
pub(super) fn endpoint(said: WeightedAddr, set_labels: &HashMap<String, String>) -> Option<Endpoint> {
    let address = socket_address(said.addr?)?;
    let mut labels: BTreeMap<String, String> = set_labels.clone().into_iter().collect();
    labels.extend(said.metric_labels);
    let hint = said.protocol_hint.unwrap_or_default();
    let header_port = hint
        .opaque_transport
        .and_then(|transport| u16::try_from(transport.inbound_port).ok())
        .filter(|port| (1..u16::MAX).contains(port));
    Some(Endpoint {
        address,
        server: said.tls_identity.map_or(Server::Unmeshed, server),
        hint: match hint.protocol {
            Some(protocol_hint::Protocol::H2(_)) => Hint::Http2,
            Some(protocol_hint::Protocol::Opaque(_)) => Hint::Opaque,
            None => Hint::Unknown,
        },
        header_port,
        authority_override: said.authority_override.and_then(|said| {
            let (name, port) = said.authority_override.rsplit_once(':')?;
            Some((name.to_owned(), port.parse().ok()?))
        }),
        http2: said.http2.map(http2).unwrap_or_default(),
        labels,
    })
}

fn server(said: destination::TlsIdentity) -> Server {
    let server_name = said.server_name.map(|name| name.name);
    match said.strategy {
        Some(tls_identity::Strategy::DnsLikeIdentity(dns)) => match dns.name.parse() {
            Ok(identity) => Server::Meshed { identity, server_name: server_name.unwrap_or(dns.name) },
            Err(_) => Server::Unverifiable(dns.name),
        },
        Some(tls_identity::Strategy::UriLikeIdentity(uri)) => Server::Unverifiable(uri.uri),
        None => Server::Unverifiable("an identity of an unknown kind".into()),
    }
}

fn http2(said: Http2ClientParams) -> Http2Client {
    let window = |size: u32| (size > 0).then_some(size);
    let flow = said.flow_control.unwrap_or_default();
    let keepalive = said.keep_alive.and_then(|keepalive| {
        let interval = duration(keepalive.interval?)?;
        Some((interval, duration(keepalive.timeout?)?))
    });
    Http2Client {
        keepalive: keepalive.filter(|(interval, timeout)| !interval.is_zero() && !timeout.is_zero()),
        stream_window: window(flow.initial_stream_window_size),
        connection_window: window(flow.initial_connection_window_size),
        adaptive_window: flow.adaptive_flow_control,
    }
}

fn duration(said: prost_types::Duration) -> Option<Duration> {
    said.try_into().ok()
}

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
    let backend = backends(Spec::Forward(Box::new(endpoint)));
    let parent = Labels::service("parent", None);
    let route = route_labels(&parent, None);
    let http = || HttpRoutes(vec![HttpRoute { hosts: Vec::new(), rules: vec![only_rule(&route, backend.clone())] }]);
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

/// The rule of requests that name a service themselves.
pub(super) fn named_rule(authority: String, backends: &mut Backends<'_>) -> HttpRule {
    let route = route_labels(&Labels::service("parent", None), None);
    only_rule(&route, backends(Spec::Balance { authority, ewma: Ewma::default(), accrual: None }))
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
    }
}

/// What counts the requests of a route. The names of hosts that they ask for are their clients' choice, and left empty.
fn of_route(scope: Scope, route: &Labels) -> Arc<Measured> {
    Measured::new(scope, route.and(&Labels::new([("hostname", "")])))
}

fn retry_counts(route: &Labels, is_grpc: bool) -> Arc<RetryCounts> {
    Arc::new(RetryCounts { tally: Tally::new(route.clone()), is_grpc })
}

/// No time at all is no limit.
fn limit(said: Option<prost_types::Duration>) -> Result<Option<Duration>, Invalid> {
    let Some(said) = said else { return Ok(None) };
    let limit = duration(said).ok_or_else(|| convert::unparsable("timeout", said))?;
    Ok((!limit.is_zero()).then_some(limit))
}

fn timeouts(said: Option<http_route::Timeouts>, of_older: Option<prost_types::Duration>) -> Result<Timeouts, Invalid> {
    let said = said.unwrap_or_default();
    let request = limit(said.request)?;
    Ok(Timeouts {
        request: if request.is_some() { request } else { limit(of_older)? },
        response: limit(said.response)?,
        idle: limit(said.idle)?,
    })
}

fn http_retry(said: outbound::http_route::Retry) -> Result<Retry, Invalid> {
    let conditions = said.conditions.ok_or(Invalid::Missing("the conditions of a retry"))?;
    let status = |status: u32| u16::try_from(status).ok().filter(|status| (1..600).contains(status));
    let range =
        |range: outbound::http_route::retry::conditions::StatusRange| match (status(range.start), status(range.end)) {
            (Some(start), Some(end)) => Ok(start..=end),
            _ => Err(convert::unparsable("statuses of a retry", (range.start, range.end))),
        };
    let statuses = conditions.status_ranges.into_iter().map(range).collect::<Result<_, _>>()?;
    let conditions = (Statuses(statuses), Codes::default());
    retry(said.max_retries, said.max_request_bytes, conditions, said.timeout, said.backoff)
}

fn grpc_retry(said: outbound::grpc_route::Retry) -> Result<Retry, Invalid> {
    let conditions = said.conditions.ok_or(Invalid::Missing("the conditions of a retry"))?;
    let on = [
        (conditions.cancelled, 1),
        (conditions.deadine_exceeded, 4),
        (conditions.resource_exhausted, 8),
        (conditions.internal, 13),
        (conditions.unavailable, 14),
    ];
    let codes = on.into_iter().filter(|(is_on, _)| *is_on).fold(Codes::default(), |codes, (_, code)| codes.with(code));
    let conditions = (Statuses::default(), codes);
    retry(said.max_retries, said.max_request_bytes, conditions, said.timeout, said.backoff)
}

fn retry(
    max: u32,
    bytes_max: u32,
    (statuses, codes): (Statuses, Codes),
    timeout: Option<prost_types::Duration>,
    backoff: Option<outbound::ExponentialBackoff>,
) -> Result<Retry, Invalid> {
    if max > u32::from(u16::MAX) {
        return Err(convert::unparsable("number of retries", max));
    }
    let pauses = backoff.map(pauses).transpose()?.unwrap_or(Pauses::OF_RETRIES);
    let body_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    Ok(Retry { max, statuses, codes, body_max, timeout: limit(timeout)?, pauses })
}

fn pauses(said: outbound::ExponentialBackoff) -> Result<Pauses, Invalid> {
    let missing = || Invalid::Missing("the bounds of a backoff");
    let shortest = said.min_backoff.and_then(duration).ok_or_else(missing)?;
    let longest = said.max_backoff.and_then(duration).ok_or_else(missing)?;
    Ok(Pauses { shortest, longest, jitter: f64::from(said.jitter_ratio) })
}

fn accrual(said: Option<FailureAccrual>) -> Result<Option<Accrual>, Invalid> {
    use outbound::failure_accrual::Kind;
    let Some(said) = said else { return Ok(None) };
    let ready_min = said.ejection.map_or(0, |ejection| ejection.min_ready_endpoints as usize);
    let some = |max: u32| (max > 0).then_some(max);
    let backoff = |backoff: Option<_>| pauses(backoff.ok_or(Invalid::Missing("the backoff of failure accrual"))?);
    Ok(Some(match said.kind.ok_or(Invalid::Missing("the kind of failure accrual"))? {
        Kind::ConsecutiveFailures(said) => {
            Accrual { failures_max: some(said.max_failures), rate: None, pauses: backoff(said.backoff)?, ready_min }
        }
        Kind::Unified(said) => Accrual {
            failures_max: some(said.max_consecutive_failures),
            rate: match said.decay.and_then(duration) {
                Some(decay) if said.success_rate_threshold > 0.0 => {
                    Some(Rate { successes_min: said.success_rate_threshold, decay, requests_min: said.min_requests })
                }
                _ => None,
            },
            pauses: backoff(said.backoff)?,
            ready_min,
        },
    }))
}

/// Failure accrual of any of the protocols is that of the backends: all of them share their endpoints.
fn accrual_of(kind: &Kind) -> Result<Option<Accrual>, Invalid> {
    accrual(match kind {
        Kind::Detect(detect) => {
            let http1 = detect.http1.as_ref().and_then(|http| http.failure_accrual);
            http1.or_else(|| detect.http2.as_ref().and_then(|http| http.failure_accrual))
        }
        Kind::Http1(http) => http.failure_accrual,
        Kind::Http2(http) => http.failure_accrual,
        Kind::Grpc(grpc) => grpc.failure_accrual,
        Kind::Opaque(_) | Kind::Tls(_) => None,
    })
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
            });
        }
        let hosts = route.hosts.into_iter().map(convert::host).collect::<Result<_, _>>()?;
        made.push(HttpRoute { hosts, rules });
    }
    Ok(HttpRoutes(made))
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
            });
        }
        let hosts = route.hosts.into_iter().map(convert::host).collect::<Result<_, _>>()?;
        made.push(HttpRoute { hosts, rules });
    }
    Ok(HttpRoutes(made))
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
    let (default_rtt, decay) = match load {
        Some(Load::PeakEwma(load)) => (load.default_rtt, load.decay),
        Some(Load::PenaltyPeakEwma(load)) => (load.default_rtt, load.decay),
        None => (None, None),
    };
    let default = Ewma::default();
    let given = |said: Option<prost_types::Duration>| said.and_then(duration).filter(|said| !said.is_zero());
    Ewma {
        default_rtt: given(default_rtt).unwrap_or(default.default_rtt),
        decay: given(decay).unwrap_or(default.decay),
    }
}

fn http_filter(filter: outbound::http_route::Filter, matches: &[RequestMatch]) -> Result<HttpFilter, Invalid> {
    use outbound::http_route::filter::Kind;
    Ok(match filter.kind.ok_or(Invalid::Missing("the kind of a filter"))? {
        Kind::FailureInjector(fail) => {
            let with = Failure::Http(convert::status(fail.status)?, fail.message);
            HttpFilter::Fail { with, ratio: convert::ratio(fail.ratio)? }
        }
        Kind::RequestHeaderModifier(edit) => {
            HttpFilter::RequestHeaders(convert::header_modifier(edit.add, edit.set, &edit.remove)?)
        }
        Kind::ResponseHeaderModifier(edit) => {
            HttpFilter::ResponseHeaders(convert::header_modifier(edit.add, edit.set, &edit.remove)?)
        }
        Kind::Redirect(to) => HttpFilter::Redirect(convert::redirect(to, matches)?),
    })
}

fn grpc_filter(filter: outbound::grpc_route::Filter) -> Result<HttpFilter, Invalid> {
    use outbound::grpc_route::filter::Kind;
    Ok(match filter.kind.ok_or(Invalid::Missing("the kind of a filter"))? {
        Kind::FailureInjector(fail) => {
            let code = i32::try_from(fail.code).map_err(|_| convert::unparsable("gRPC code", fail.code))?;
            HttpFilter::Fail { with: Failure::Grpc(code, fail.message), ratio: convert::ratio(fail.ratio)? }
        }
        Kind::RequestHeaderModifier(edit) => {
            HttpFilter::RequestHeaders(convert::header_modifier(edit.add, edit.set, &edit.remove)?)
        }
    })
}

fn opaque_filter(filter: outbound::opaque_route::Filter) -> Result<Refusal, Invalid> {
    use outbound::opaque_route::filter::Kind;
    Ok(match filter.kind.ok_or(Invalid::Missing("the kind of a filter"))? {
        Kind::Forbidden(opaque_route::Forbidden {}) => Refusal::Forbidden,
        Kind::Invalid(invalid) => Refusal::Invalid(invalid.message),
    })
}

fn tls_filter(filter: outbound::tls_route::Filter) -> Result<Refusal, Invalid> {
    use outbound::tls_route::filter::Kind;
    Ok(match filter.kind.ok_or(Invalid::Missing("the kind of a filter"))? {
        Kind::Forbidden(opaque_route::Forbidden {}) => Refusal::Forbidden,
        Kind::Invalid(invalid) => Refusal::Invalid(invalid.message),
    })
}

fn sni_match(sni: tls_route::SniMatch) -> Result<HostMatch, Invalid> {
    use tls_route::sni_match::Match;
    match sni.r#match.ok_or(Invalid::Missing("the name of an SNI"))? {
        Match::Exact(exact) => Ok(HostMatch::Exact(exact.to_ascii_lowercase())),
        Match::Suffix(suffix) => {
            let labels = suffix.reverse_labels.iter().rev().map(|label| label.to_ascii_lowercase());
            Ok(HostMatch::Suffix(labels.collect::<Vec<_>>().join(".")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::backend::Queues;
    use crate::proxy::client::tests::connector;
    use crate::wire::destination::{ProtocolHint, TlsIdentity};
    use crate::wire::outbound::ProxyProtocol;

    fn said() -> WeightedAddr {
        let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
        WeightedAddr { addr: Some(address.into()), ..WeightedAddr::default() }
    }

    fn read(said: WeightedAddr) -> Endpoint {
        endpoint(said, &HashMap::from([("service".to_owned(), "web".to_owned())])).unwrap()
    }

    fn identified(strategy: tls_identity::Strategy) -> Server {
        let identity = TlsIdentity { strategy: Some(strategy), server_name: None };
        read(WeightedAddr { tls_identity: Some(identity), ..said() }).server
    }

    #[test]
    fn an_address_is_big_endian_and_labels_are_those_of_set_and_endpoint() {
        let mut said = said();
        said.addr = Some(net::TcpAddress {
            ip: Some(net::IpAddress { ip: Some(net::ip_address::Ip::Ipv4(0x0a00_0001)) }),
            port: 80,
        });
        said.metric_labels.insert("pod".into(), "web-1".into());
        let endpoint = read(said);
        assert_eq!(endpoint.address, "10.0.0.1:80".parse().unwrap());
        assert_eq!(endpoint.labels, BTreeMap::from([("pod".into(), "web-1".into()), ("service".into(), "web".into())]));
        assert_eq!((endpoint.server, endpoint.header_port), (Server::Unmeshed, None));
    }

    #[test]
    fn an_endpoint_without_a_usable_address_is_left_out() {
        let port = |port| WeightedAddr { addr: said().addr.map(|addr| net::TcpAddress { port, ..addr }), ..said() };
        for said in [WeightedAddr::default(), port(0), port(70_000)] {
            assert_eq!(endpoint(said, &HashMap::new()), None);
        }
    }

    #[test]
    fn the_server_name_is_the_identity_unless_given() {
        let dns = tls_identity::DnsLikeIdentity { name: "web.shop".into() };
        let server = identified(tls_identity::Strategy::DnsLikeIdentity(dns));
        assert_eq!(server, Server::Meshed { identity: "web.shop".parse().unwrap(), server_name: "web.shop".into() });
    }

    #[test]
    fn an_identity_that_cannot_be_verified_does_not_make_an_endpoint_plaintext() {
        let uri = tls_identity::UriLikeIdentity { uri: "spiffe://cluster.local/web".into() };
        let dns = tls_identity::DnsLikeIdentity { name: "web.shop.".into() };
        for strategy in [tls_identity::Strategy::UriLikeIdentity(uri), tls_identity::Strategy::DnsLikeIdentity(dns)] {
            assert!(matches!(identified(strategy), Server::Unverifiable(_)));
        }
        let none = TlsIdentity { strategy: None, server_name: None };
        assert!(matches!(read(WeightedAddr { tls_identity: Some(none), ..said() }).server, Server::Unverifiable(_)));
    }

    #[test]
    fn a_header_port_out_of_range_is_none() {
        let with = |inbound_port| {
            let opaque_transport = Some(protocol_hint::OpaqueTransport { inbound_port });
            read(WeightedAddr { protocol_hint: Some(ProtocolHint { protocol: None, opaque_transport }), ..said() })
        };
        assert_eq!(with(4143).header_port, Some(4143));
        for port in [0, 65_535, 70_000] {
            assert_eq!(with(port).header_port, None);
        }
    }

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
