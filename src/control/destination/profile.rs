//! The profile of a target: what a client should know before it chooses an endpoint.
//!
//! In: the cluster's state and a target. Out: the profile of a service, or of the one pod an address stands for. An address nobody
//! is known to have gets a profile too: clients wait for one.

use std::net::SocketAddr;

use tonic::Status;

use super::target::Target;
use crate::control::index::facts::{Key, Pod, Service};
use crate::control::index::{Settings, State, view};
use crate::wire::{destination as proto, meta};

/// How much of the traffic may be retries, where no ServiceProfile says otherwise.
const RETRY_RATIO: f32 = 0.2;
const RETRIES_PER_SECOND_MIN: u32 = 10;
const RETRY_TTL: prost_types::Duration = prost_types::Duration { seconds: 10, nanos: 0 };

/// The profile of `target` as the cluster is now.
///
/// # Errors
/// Where the target's service does not exist, or it is not clear whose address it is.
pub(super) fn of(state: &State, settings: &Settings, target: &Target) -> Result<proto::DestinationProfile, Status> {
    match target {
        Target::Address(address) => of_address(state, settings, *address),
        Target::Service { service, port, hostname: None } => {
            let found =
                state.services.get(service).ok_or_else(|| Status::not_found(format!("no service {service}")))?;
            Ok(of_service(state, settings, found, *port))
        }
        Target::Service { service, port, hostname: Some(hostname) } => {
            of_hostname(state, settings, service, *port, hostname)
        }
    }
}

fn of_address(state: &State, settings: &Settings, address: SocketAddr) -> Result<proto::DestinationProfile, Status> {
    if let Some(services) = state.services_by_ip.get(&address.ip()) {
        return match services.as_slice() {
            [service] => Ok(of_service(state, settings, service, address.port())),
            _ => Err(Status::failed_precondition(format!("more than one service has the address {}", address.ip()))),
        };
    }
    if let Some(pods) = state.pods_by_ip.get(&address.ip()) {
        return match pods.as_slice() {
            [pod] => Ok(of_pod(state, settings, pod, address, address.port())),
            _ => Err(Status::failed_precondition(format!("more than one pod has the address {}", address.ip()))),
        };
    }
    match state.pods_by_host_port.get(&address).map(Vec::as_slice) {
        Some([(pod, port)]) => Ok(of_pod(state, settings, pod, address, *port)),
        _ => Ok(of_unknown(settings, address)),
    }
}

fn of_service(state: &State, settings: &Settings, service: &Service, port: u16) -> proto::DestinationProfile {
    // An empty profile holds the client back from nothing; the policy of the port is what refuses it.
    if service.port(port).is_none() {
        return proto::DestinationProfile::default();
    }
    let Key { namespace, name } = &service.key;
    let opaque = state.opaque_ports(service.opaque_ports.as_ref(), namespace, settings);
    proto::DestinationProfile {
        fully_qualified_name: fully_qualified(&service.key, settings),
        opaque_protocol: opaque.contains(port),
        retry_budget: Some(retry_budget()),
        parent_ref: Some(meta::Metadata {
            kind: Some(meta::metadata::Kind::Resource(meta::Resource {
                group: "core".into(),
                kind: "Service".into(),
                name: name.to_string(),
                namespace: namespace.to_string(),
                section: String::new(),
                port: port.into(),
            })),
        }),
        ..Default::default()
    }
}

/// The name by which clients may ask for a service.
pub(in crate::control) fn fully_qualified(service: &Key, settings: &Settings) -> String {
    format!("{}.{}.svc.{}", service.name, service.namespace, settings.cluster_domain)
}

fn of_hostname(
    state: &State,
    settings: &Settings,
    service: &Key,
    port: u16,
    hostname: &str,
) -> Result<proto::DestinationProfile, Status> {
    let slices = state.slices.get(service).into_iter().flat_map(|slices| slices.values());
    let mut endpoints = slices.flat_map(|slice| &slice.endpoints);
    let endpoint = endpoints
        .find(|endpoint| endpoint.hostname.as_deref() == Some(hostname))
        .ok_or_else(|| Status::not_found(format!("service {service} has no endpoint {hostname:?}")))?;
    let address = SocketAddr::new(endpoint.address, port);
    match endpoint.pod.as_ref().and_then(|pod| state.pods.get(pod)) {
        Some(pod) => Ok(of_pod(state, settings, pod, address, port)),
        None => Ok(of_unknown(settings, address)),
    }
}

/// `port` is the pod's own; `address` may lead to it through its node.
fn of_pod(state: &State, settings: &Settings, pod: &Pod, address: SocketAddr, port: u16) -> proto::DestinationProfile {
    let own = pod.ips.iter().find(|ip| ip.is_ipv4() == address.is_ipv4()).copied().unwrap_or(address.ip());
    let mut endpoint = view::of_pod(state, settings, pod, SocketAddr::new(own, port));
    endpoint.metric_labels.insert("namespace".into(), pod.key.namespace.to_string());
    let opaque = state.opaque_ports(pod.opaque_ports.as_ref(), &pod.key.namespace, settings);
    proto::DestinationProfile {
        opaque_protocol: opaque.contains(port),
        retry_budget: Some(retry_budget()),
        endpoint: Some(endpoint),
        ..Default::default()
    }
}

fn of_unknown(settings: &Settings, address: SocketAddr) -> proto::DestinationProfile {
    proto::DestinationProfile {
        opaque_protocol: settings.opaque_ports.contains(address.port()),
        retry_budget: Some(retry_budget()),
        endpoint: Some(view::unknown(address)),
        ..Default::default()
    }
}

fn retry_budget() -> proto::RetryBudget {
    proto::RetryBudget {
        retry_ratio: RETRY_RATIO,
        min_retries_per_second: RETRIES_PER_SECOND_MIN,
        ttl: Some(RETRY_TTL),
    }
}
