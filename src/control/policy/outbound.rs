//! The policy of a target, as its clients' proxies are told.
//!
//! In: the cluster's state and a target. Out: the `OutboundPolicy` message: which protocols to look for, and where each leads. For an address
//! of the cluster that is no service's there is none, so that the profile's endpoint is used; but where only a service can have the address,
//! connections are closed until one has.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use tonic::Status;

use super::{DETECT_TIMEOUT, metadata};
use crate::control::destination::profile;
use crate::control::destination::target::Target;
use crate::control::index::facts::{Service, ServiceLimits};
use crate::control::index::{Settings, State, view};
use crate::manifest::names::RETRY_GRPC;
use crate::mesh::limits::{Codes, Limits, Pauses, Retry, Timeouts};
use crate::wire::outbound::{
    Backend, ExponentialBackoff, FailureAccrual, HttpRoute, OpaqueRoute, OutboundPolicy, ProxyProtocol, Queue, backend,
    failure_accrual, http_route, opaque_route, proxy_protocol,
};
use crate::wire::{http_route as matches, http_types, meta};

/// How many requests wait for an endpoint, and how long: then clients are told at once.
const QUEUE_CAPACITY: u32 = 100;
/// What proxies keep of a request to ask it again.
const RETRY_BYTES_MAX: u32 = 64 << 10;
const QUEUE_FAILFAST: prost_types::Duration = prost_types::Duration { seconds: 3, nanos: 0 };
/// What is taken for an endpoint's latency before it is measured, and how fast old measurements fade.
const DEFAULT_RTT: prost_types::Duration = prost_types::Duration { seconds: 0, nanos: 30_000_000 };
const RTT_DECAY: prost_types::Duration = prost_types::Duration { seconds: 10, nanos: 0 };

/// The policy for clients of `target`, as the cluster is now.
///
/// # Errors
/// `NOT_FOUND` where there is none: of a pod's address, or a service that does not exist.
pub(super) fn policy(state: &State, settings: &Settings, target: &Target) -> Result<OutboundPolicy, Status> {
    match target {
        Target::Address(address) => match state.services_by_ip.get(&address.ip()).and_then(|services| services.first())
        {
            Some(service) => Ok(of_service(state, settings, service, address.port(), *address)),
            // Nobody else can have the address. Whoever gets it next may be meshed, and plaintext would be sent there.
            None if state.is_missing_service(address.ip()) => Ok(forbidden(*address, "unknown-service")),
            None if settings.cluster_networks.iter().any(|network| network.contains(&address.ip())) => {
                Err(Status::not_found(format!("{address} is no service's address")))
            }
            None => {
                let forward = forward(*address, "egress-fallback");
                Ok(detect(metadata::default("egress-fallback"), &forward, &ServiceLimits::default()))
            }
        },
        Target::Service { service, port, .. } => {
            let found = state.services.get(service);
            let found = found.filter(|found| !found.is_external_name && found.port(*port).is_some());
            let found = found.ok_or_else(|| Status::not_found(format!("no service {service} with port {port}")))?;
            Ok(of_service(state, settings, found, *port, SocketAddr::from(([0, 0, 0, 0], *port))))
        }
    }
}

fn of_service(
    state: &State,
    settings: &Settings,
    service: &Service,
    number: u16,
    address: SocketAddr,
) -> OutboundPolicy {
    let Some(port) = service.port(number) else { return forbidden(address, "undefined-port") };
    let resource = || meta::Metadata {
        kind: Some(meta::metadata::Kind::Resource(meta::Resource {
            group: "core".into(),
            kind: "Service".into(),
            name: service.key.name.to_string(),
            namespace: service.key.namespace.to_string(),
            section: String::new(),
            port: number.into(),
        })),
    };
    let balancer = backend::BalanceP2c {
        discovery: Some(backend::EndpointDiscovery {
            kind: Some(backend::endpoint_discovery::Kind::Dst(backend::endpoint_discovery::DestinationGet {
                path: format!("{}:{number}", profile::fully_qualified(&service.key, settings)),
            })),
        }),
        load: Some(load(&service.limits)),
    };
    let backend =
        Backend { metadata: Some(resource()), queue: Some(queue()), kind: Some(backend::Kind::Balancer(balancer)) };

    let limits = &service.limits;
    let opaque_ports = state.opaque_ports(service.opaque_ports.as_ref(), &service.key.namespace, settings);
    let kind = match port.app_protocol.as_deref() {
        None if !opaque_ports.contains(number) => return detect(resource(), &backend, limits),
        Some("http") => proxy_protocol::Kind::Http1(http1(&backend, limits)),
        Some("kubernetes.io/h2c") => proxy_protocol::Kind::Http2(http2(&backend, limits)),
        // Whatever else an app calls its protocol, carrying its bytes untouched is right.
        None | Some(_) => proxy_protocol::Kind::Opaque(opaque(&backend)),
    };
    OutboundPolicy { metadata: Some(resource()), protocol: Some(ProxyProtocol { kind: Some(kind) }) }
}

/// How endpoints are compared.
fn load(limits: &ServiceLimits) -> backend::balance_p2c::Load {
    use backend::balance_p2c::{Load, PeakEwma, PenaltyPeakEwma};
    let (default_rtt, decay) = (Some(DEFAULT_RTT), Some(RTT_DECAY));
    match limits.penalty {
        None => Load::PeakEwma(PeakEwma { default_rtt, decay }),
        Some(penalty) => Load::PenaltyPeakEwma(PenaltyPeakEwma {
            default_rtt,
            decay,
            penalty: duration(penalty.by),
            max_retry_after: duration(penalty.hint_max),
            penalty_decay: duration(penalty.decay),
        }),
    }
}

/// Looks for HTTP, and carries anything else as it is. Proxies want all four members.
fn detect(metadata: meta::Metadata, backend: &Backend, limits: &ServiceLimits) -> OutboundPolicy {
    let detect = proxy_protocol::Detect {
        timeout: Some(DETECT_TIMEOUT),
        opaque: Some(opaque(backend)),
        http1: Some(http1(backend, limits)),
        http2: Some(http2(backend, limits)),
    };
    let kind = Some(proxy_protocol::Kind::Detect(detect));
    OutboundPolicy { metadata: Some(metadata), protocol: Some(ProxyProtocol { kind }) }
}

/// Nothing is there, for the reason named: connections are closed, and not left to time out.
fn forbidden(address: SocketAddr, why: &str) -> OutboundPolicy {
    let mut opaque = opaque(&forward(address, why));
    for rule in opaque.routes.iter_mut().flat_map(|route| &mut route.rules) {
        rule.filters.push(opaque_route::Filter {
            kind: Some(opaque_route::filter::Kind::Forbidden(crate::wire::opaque_route::Forbidden {})),
        });
    }
    let kind = Some(proxy_protocol::Kind::Opaque(opaque));
    OutboundPolicy { metadata: Some(metadata::default(why)), protocol: Some(ProxyProtocol { kind }) }
}

fn forward(address: SocketAddr, name: &str) -> Backend {
    Backend {
        metadata: Some(metadata::default(name)),
        queue: Some(queue()),
        kind: Some(backend::Kind::Forward(view::unknown(address))),
    }
}

fn queue() -> Queue {
    Queue { capacity: QUEUE_CAPACITY, failfast_timeout: Some(QUEUE_FAILFAST) }
}

fn http1(backend: &Backend, limits: &ServiceLimits) -> proxy_protocol::Http1 {
    proxy_protocol::Http1 { routes: vec![http(backend, limits)], failure_accrual: accrual(limits) }
}

fn http2(backend: &Backend, limits: &ServiceLimits) -> proxy_protocol::Http2 {
    let mut route = http(backend, limits);
    let codes = limits.limits.retry.as_ref().map(|retry| retry.codes).filter(|codes| !codes.is_empty());
    for rule in &mut route.rules {
        rule.filters.extend(codes.map(retry_calls));
    }
    proxy_protocol::Http2 { routes: vec![route], failure_accrual: accrual(limits) }
}

/// Has calls that end with one of `codes` asked again. A route of HTTP has statuses of HTTP only, and one of gRPC would not do for a port that
/// may speak either; so the proxy is told as an app would tell it, in a header, which goes no further. What the app itself says comes before it.
fn retry_calls(codes: Codes) -> http_route::Filter {
    let header = http_types::headers::Header { name: RETRY_GRPC.into(), value: codes.to_string().into_bytes() };
    let add = Some(http_types::Headers { headers: vec![header] });
    let modifier = matches::RequestHeaderModifier { add, ..Default::default() };
    http_route::Filter { kind: Some(http_route::filter::Kind::RequestHeaderModifier(modifier)) }
}

fn accrual(limits: &ServiceLimits) -> Option<FailureAccrual> {
    let accrual = limits.accrual?;
    let backoff = ExponentialBackoff { respect_retry_after_hint: accrual.respects_hints, ..backoff(accrual.pauses) };
    let (max_failures, backoff) = (accrual.failures_max.unwrap_or_default(), Some(backoff));
    let kind = match accrual.rate {
        None => {
            failure_accrual::Kind::ConsecutiveFailures(failure_accrual::ConsecutiveFailures { max_failures, backoff })
        }
        Some(rate) => failure_accrual::Kind::Unified(failure_accrual::Unified {
            success_rate_threshold: rate.successes_min,
            decay: duration(rate.decay),
            min_requests: rate.requests_min,
            max_consecutive_failures: max_failures,
            backoff,
        }),
    };
    Some(FailureAccrual { kind: Some(kind), ejection: None })
}

fn backoff(pauses: Pauses) -> ExponentialBackoff {
    ExponentialBackoff {
        min_backoff: duration(pauses.shortest),
        max_backoff: duration(pauses.longest),
        // A float of half the size tells jitter well enough.
        jitter_ratio: pauses.jitter as f32,
        respect_retry_after_hint: false,
    }
}

fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

/// What is asked again, apart from calls ([`retry_calls`]).
fn retry(retry: &Retry) -> http_route::Retry {
    let range = |range: &RangeInclusive<u16>| http_route::retry::conditions::StatusRange {
        start: (*range.start()).into(),
        end: (*range.end()).into(),
    };
    http_route::Retry {
        max_retries: retry.max,
        max_request_bytes: RETRY_BYTES_MAX,
        conditions: Some(http_route::retry::Conditions { status_ranges: retry.statuses.0.iter().map(range).collect() }),
        timeout: retry.timeout.and_then(duration),
        backoff: Some(backoff(retry.pauses)),
    }
}

fn http(backend: &Backend, limits: &ServiceLimits) -> HttpRoute {
    let Limits { timeouts, retry: retries } = &limits.limits;
    let timeouts = (*timeouts != Timeouts::default()).then(|| matches::Timeouts {
        request: timeouts.request.and_then(duration),
        response: timeouts.response.and_then(duration),
        idle: timeouts.idle.and_then(duration),
    });
    let all = matches::HttpRouteMatch {
        path: Some(matches::PathMatch { kind: Some(matches::path_match::Kind::Prefix("/".into())) }),
        ..Default::default()
    };
    let only = http_route::RouteBackend { backend: Some(backend.clone()), ..Default::default() };
    let backends = http_route::distribution::FirstAvailable { backends: vec![only] };
    HttpRoute {
        metadata: Some(metadata::default("http")),
        hosts: Vec::new(),
        rules: vec![http_route::Rule {
            matches: vec![all],
            backends: Some(http_route::Distribution {
                kind: Some(http_route::distribution::Kind::FirstAvailable(backends)),
            }),
            timeouts,
            retry: retries.as_ref().map(retry),
            // What an app asks for concerns nobody else.
            allow_l5d_request_headers: true,
            ..Default::default()
        }],
    }
}

fn opaque(backend: &Backend) -> proxy_protocol::Opaque {
    let only = opaque_route::RouteBackend { backend: Some(backend.clone()), filters: Vec::new() };
    let backends = opaque_route::distribution::FirstAvailable { backends: vec![only] };
    let rule = opaque_route::Rule {
        backends: Some(opaque_route::Distribution {
            kind: Some(opaque_route::distribution::Kind::FirstAvailable(backends)),
        }),
        filters: Vec::new(),
    };
    proxy_protocol::Opaque {
        routes: vec![OpaqueRoute { metadata: Some(metadata::default("opaq")), rules: vec![rule] }],
    }
}
