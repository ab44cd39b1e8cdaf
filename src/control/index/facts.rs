//! What is kept of an object of the cluster: as little as answers need, for a cluster has many.
//!
//! In: objects as the Kubernetes API gives them. Out: values that compare, so that a change that changes no answer wakes nobody.
//! Objects are written by anyone: what cannot be parsed is left out, never an error.
//!
//! Start at [`Pod::of`], [`Service::of`] and [`Slice::of`].

mod limits;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub use self::limits::ServiceLimits;
use crate::manifest::names::{CONFIG_PREFIX, CONTROL_PLANE_NS, PROXY_CONTAINER};
use crate::mesh::policy::DefaultPolicy;
use crate::mesh::ports::PortSet;

/// The label by which a ReplicaSet's pods are told from those of its Deployment's other ReplicaSets.
const TEMPLATE_HASH: &str = "pod-template-hash";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The namespace and name of an object. Cheap to clone.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

#[derive(Debug, Eq, PartialEq)]
pub struct Pod {
    pub key: Key,
    pub ips: Vec<IpAddr>,
    /// Where the pod is reached on its node, and the port of its own that leads to.
    pub host_ports: Vec<(SocketAddr, u16)>,
    /// It has its node's addresses, which therefore do not say which pod is meant.
    pub is_host_network: bool,
    /// Neither ended nor ending.
    pub is_alive: bool,
    pub node: Option<Arc<str>>,
    pub service_account: String,
    pub owner: Owner,
    pub template_hash: Option<String>,
    /// None for a pod that is not meshed.
    pub mesh: Option<Mesh>,
    /// None where it has no annotation of its own.
    pub opaque_ports: Option<PortSet>,
    pub skipped_ports: PortSet,
    pub default_policy: Option<DefaultPolicy>,
    pub identity_ports: PortSet,
    /// The paths of its HTTP probes, by port.
    pub probes: BTreeMap<u16, BTreeSet<String>>,
}

/// The workload a pod belongs to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    /// As metrics name it: `deployment`, `statefulset`, `k8s_job` …
    pub kind: String,
    pub name: String,
}

#[derive(Debug, Eq, PartialEq)]
pub struct Mesh {
    pub control_namespace: String,
    /// Where its proxy takes connections that begin with a transport header.
    pub inbound_port: Option<u16>,
    /// The proxy's own ports, which no redirection leads away from.
    pub admin_port: Option<u16>,
    pub tap_port: Option<u16>,
}

#[derive(Debug, Eq, PartialEq)]
pub struct Service {
    pub key: Key,
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    pub opaque_ports: Option<PortSet>,
    /// It is an alias of a name outside the cluster, and has no endpoints.
    pub is_external_name: bool,
    /// Clients go to the endpoints of their own node only.
    pub is_local_only: bool,
    pub limits: ServiceLimits,
}

#[derive(Debug, Eq, PartialEq)]
pub struct ServicePort {
    pub name: String,
    pub number: u16,
    pub app_protocol: Option<String>,
}

/// Some of the endpoints of a service: those that take traffic.
#[derive(Debug, Eq, PartialEq)]
pub struct Slice {
    pub key: Key,
    pub service: Key,
    /// By the names of the service's ports.
    pub ports: Vec<(String, u16)>,
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Debug, Eq, PartialEq)]
pub struct SliceEndpoint {
    pub address: IpAddr,
    pub pod: Option<Key>,
    pub node: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    /// The zones whose clients should use it.
    pub for_zones: Vec<String>,
    pub hostname: Option<String>,
}

/// What the pods and services of a namespace inherit.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Namespace {
    pub default_policy: Option<DefaultPolicy>,
    pub opaque_ports: Option<PortSet>,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// None for an object without a name, which the API server never gives.
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        Some(Self::new(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref()?))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Pod {
    pub fn of(pod: &core::Pod) -> Option<Self> {
        let key = Key::of(&pod.metadata)?;
        let spec = pod.spec.as_ref()?;
        let status = pod.status.as_ref();
        let label = |name: &str| pod.metadata.labels.as_ref()?.get(name).cloned();

        let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let ports: Vec<(&str, u16)> = containers()
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| Some((port.name.as_deref().unwrap_or_default(), port_number(port.container_port)?)))
            .collect();
        let named = |name: &str| ports.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
        let annotated = |setting: &str| Some(port_set(annotation(&pod.metadata, setting)?, named));

        let ips = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
        let phase = status.and_then(|status| status.phase.as_deref());
        Some(Self {
            ips: ips.filter_map(|ip| ip.ip.parse().ok()).collect(),
            host_ports: host_ports(spec, status),
            is_host_network: spec.host_network.unwrap_or_default(),
            is_alive: pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed")),
            node: spec.node_name.as_deref().map(Arc::from),
            service_account: spec.service_account_name.clone().unwrap_or_else(|| "default".into()),
            owner: owner(&pod.metadata, &key.name),
            template_hash: label(TEMPLATE_HASH),
            mesh: label(CONTROL_PLANE_NS).filter(|namespace| !namespace.is_empty()).map(|control_namespace| {
                let proxy = containers().find(|container| container.name == PROXY_CONTAINER);
                let port = |variable: &str| listen_port(proxy?, variable);
                Mesh {
                    control_namespace,
                    inbound_port: port("LINKERD2_PROXY_INBOUND_LISTEN_ADDR"),
                    admin_port: port("LINKERD2_PROXY_ADMIN_LISTEN_ADDR"),
                    tap_port: port("LINKERD2_PROXY_CONTROL_LISTEN_ADDR"),
                }
            }),
            opaque_ports: annotated("opaque-ports"),
            skipped_ports: annotated("skip-inbound-ports").unwrap_or_default(),
            default_policy: default_policy(&pod.metadata),
            identity_ports: annotated("proxy-require-identity-inbound-ports").unwrap_or_default(),
            probes: probes(containers(), named),
            key,
        })
    }
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|&number| number != 0)
}

fn annotation<'m>(metadata: &'m ObjectMeta, setting: &str) -> Option<&'m str> {
    metadata.annotations.as_ref()?.get(&format!("{CONFIG_PREFIX}{setting}")).map(String::as_str)
}

fn default_policy(metadata: &ObjectMeta) -> Option<DefaultPolicy> {
    annotation(metadata, "default-inbound-policy")?.trim().parse().ok()
}

/// The ports of an annotation: numbers, ranges, and names where they are known.
fn port_set(text: &str, named: impl Fn(&str) -> Option<u16>) -> PortSet {
    let items = text.split(',').map(str::trim).filter_map(|item| match item.parse::<PortSet>() {
        Ok(_) => Some(item.to_owned()),
        Err(_) => named(item).map(|number| number.to_string()),
    });
    let known: Vec<String> = items.collect();
    known.join(",").parse().unwrap_or_default()
}

fn host_ports(spec: &core::PodSpec, status: Option<&core::PodStatus>) -> Vec<(SocketAddr, u16)> {
    let Some(host) = status.and_then(|status| status.host_ip.as_deref()).and_then(|ip| ip.parse().ok()) else {
        return Vec::new();
    };
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports
        .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
        .filter_map(|port| {
            Some((SocketAddr::new(host, port_number(port.host_port?)?), port_number(port.container_port)?))
        })
        .collect()
}

/// The workload, from the pod alone: the name of a ReplicaSet is that of its Deployment, a dash, and the hash that is also in the
/// pods' label. That spares us watching every ReplicaSet.
fn owner(metadata: &ObjectMeta, pod: &str) -> Owner {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let Some(owner) = owners.iter().find(|owner| owner.controller == Some(true)) else {
        return Owner { kind: "pod".into(), name: pod.into() };
    };
    match owner.kind.as_str() {
        "ReplicaSet" => {
            let hash = metadata.labels.as_ref().and_then(|labels| labels.get(TEMPLATE_HASH));
            match hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')) {
                Some(deployment) => Owner { kind: "deployment".into(), name: deployment.into() },
                None => Owner { kind: "replicaset".into(), name: owner.name.clone() },
            }
        }
        // `job` is the label that Prometheus gives every scrape.
        "Job" => Owner { kind: "k8s_job".into(), name: owner.name.clone() },
        kind => Owner { kind: kind.to_ascii_lowercase(), name: owner.name.clone() },
    }
}

/// The port in one of the proxy's listen addresses.
fn listen_port(proxy: &core::Container, variable: &str) -> Option<u16> {
    let set = proxy.env.iter().flatten().find(|set| set.name == variable)?;
    set.value.as_deref()?.parse::<SocketAddr>().ok().map(|address| address.port())
}

fn probes<'c>(
    containers: impl Iterator<Item = &'c core::Container>,
    named: impl Fn(&str) -> Option<u16>,
) -> BTreeMap<u16, BTreeSet<String>> {
    let mut probes: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
    let all = containers.flat_map(|container| {
        [&container.liveness_probe, &container.readiness_probe, &container.startup_probe].into_iter().flatten()
    });
    for get in all.filter_map(|probe| probe.http_get.as_ref()) {
        let port = match &get.port {
            IntOrString::Int(number) => port_number(*number),
            IntOrString::String(name) => name.parse().ok().or_else(|| named(name)),
        };
        if let Some(port) = port {
            let path = get.path.as_deref().unwrap_or("/");
            // A query is not part of what routes match.
            let path = path.split(['?', '#']).next().unwrap_or_default();
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            probes.entry(port).or_default().insert(path);
        }
    }
    probes
}

impl Service {
    pub fn of(service: &core::Service) -> Option<Self> {
        let key = Key::of(&service.metadata)?;
        let spec = service.spec.as_ref()?;
        let ports: Vec<ServicePort> = spec
            .ports
            .iter()
            .flatten()
            .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
            .filter_map(|port| {
                Some(ServicePort {
                    name: port.name.clone().unwrap_or_default(),
                    number: port_number(port.port)?,
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        let named = |name: &str| ports.iter().find(|port| port.name == name).map(|port| port.number);
        let opaque_ports = annotation(&service.metadata, "opaque-ports").map(|text| port_set(text, named));
        // Headless services have `None` in place of an address.
        let ips = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter());
        let ips: BTreeSet<IpAddr> = ips.filter_map(|ip| ip.parse().ok()).collect();
        Some(Self {
            key,
            cluster_ips: ips.into_iter().collect(),
            opaque_ports,
            ports,
            is_external_name: spec.type_.as_deref() == Some("ExternalName"),
            is_local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
            limits: ServiceLimits::of(service.metadata.annotations.as_ref()),
        })
    }

    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }
}

impl Slice {
    /// None for a slice of no service.
    pub fn of(slice: &discovery::EndpointSlice) -> Option<Self> {
        let key = Key::of(&slice.metadata)?;
        let service = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
        let service = Key { namespace: key.namespace.clone(), name: service.as_str().into() };
        let ports = slice
            .ports
            .iter()
            .flatten()
            .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
            .filter_map(|port| Some((port.name.clone().unwrap_or_default(), port_number(port.port?)?)))
            .collect();
        let mut endpoints = Vec::new();
        for endpoint in &slice.endpoints {
            if !endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true) {
                continue;
            }
            let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
            let pod = pod.and_then(|pod| {
                let namespace = pod.namespace.as_deref().unwrap_or(&key.namespace);
                Some(Key::new(namespace, pod.name.as_deref()?))
            });
            let zones = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_ref()).into_iter().flatten();
            let for_zones: Vec<String> = zones.map(|zone| zone.name.clone()).collect();
            for address in endpoint.addresses.iter().filter_map(|address| address.parse().ok()) {
                endpoints.push(SliceEndpoint {
                    address,
                    pod: pod.clone(),
                    node: endpoint.node_name.as_deref().map(Arc::from),
                    zone: endpoint.zone.as_deref().map(Arc::from),
                    for_zones: for_zones.clone(),
                    hostname: endpoint.hostname.clone(),
                });
            }
        }
        Some(Self { key, service, ports, endpoints })
    }

    pub fn port(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|(known, _)| known == name).map(|(_, number)| *number)
    }
}

impl Namespace {
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self {
            default_policy: default_policy(metadata),
            opaque_ports: annotation(metadata, "opaque-ports").map(|text| port_set(text, |_| None)),
        }
    }
}

/// The networks that services get addresses from.
pub fn service_networks(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let cidrs = cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_ref());
    cidrs.into_iter().flatten().filter_map(|cidr| cidr.parse().ok()).collect()
}

/// The zone of a node.
pub fn zone(metadata: &ObjectMeta) -> Option<Arc<str>> {
    metadata.labels.as_ref()?.get(ZONE).map(|zone| zone.as_str().into())
}

#[cfg(test)]
mod tests;
