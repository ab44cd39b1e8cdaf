//! The endpoints of one port of a service, computed once per change for all that subscribe to it.
//!
//! In: the cluster's state. Out: a [`View`] with every endpoint as it goes over the wire, and what changed since the view before, so that
//! a subscriber that saw that one need not compare a thousand endpoints to find the one that moved.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::facts::{Key, Pod, Slice, SliceEndpoint};
use super::{Settings, State};
use crate::mesh::Identity;
use crate::wire::destination as proto;

/// Every endpoint has the same: balancing by load is the client's business.
const WEIGHT: u32 = 10_000;
/// How often a client's HTTP/2 connection to a meshed endpoint is asked whether it is alive. A peer that vanished must be noticed
/// within the patience of whoever waits for an answer,
const KEEPALIVE_INTERVAL: prost_types::Duration = prost_types::Duration { seconds: 10, nanos: 0 };
/// and one that is only busy answers well within this.
const KEEPALIVE_TIMEOUT: prost_types::Duration = prost_types::Duration { seconds: 3, nanos: 0 };

/// Which endpoints of a service.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ViewKey {
    /// The service's port; where it has no such port, the endpoints' own.
    pub port: u16,
    /// Only the endpoint of this name (of a StatefulSet).
    pub hostname: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct View {
    /// Whether the service exists.
    pub exists: bool,
    /// Clients go to the endpoints of their own node only.
    pub is_local_only: bool,
    /// Every endpoint says which zones it is for, so clients keep to theirs.
    pub is_zoned: bool,
    pub targets: Targets,
    /// What the targets were before: who knows these need only be told what follows.
    pub before: Targets,
    pub added: Vec<Arc<Target>>,
    pub removed: Vec<SocketAddr>,
}

/// Endpoints by their addresses. Shared by all who have been told of just these.
pub type Targets = Arc<BTreeMap<SocketAddr, Arc<Target>>>;

/// One endpoint, and what decides which clients get it.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Without `zone_locality`, which depends on the client.
    pub weighted: proto::WeightedAddr,
    pub node: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    pub for_zones: Vec<String>,
}

impl View {
    /// The first view of a service; later ones are told by [`View::after`].
    pub fn of(state: &State, settings: &Settings, service: &Key, key: &ViewKey) -> Self {
        let found = state.services.get(service).filter(|found| !found.is_external_name);
        let Some(found) = found else { return Self::default() };
        let port_name = found.port(key.port).map(|port| port.name.as_str());

        let slices: Vec<&Arc<Slice>> =
            state.slices.get(service).into_iter().flat_map(|slices| slices.values()).collect();
        // Pods with addresses of both families are in slices of both, and must not count twice.
        let is_v4 = |slice: &&Arc<Slice>| slice.endpoints.iter().any(|endpoint| endpoint.address.is_ipv4());
        let has_v4 = slices.iter().any(is_v4);

        let mut targets = BTreeMap::new();
        for slice in slices.iter().filter(|slice| !has_v4 || is_v4(slice)) {
            let port = match port_name {
                Some(name) => slice.port(name),
                None => Some(key.port),
            };
            let Some(port) = port else { continue };
            let named = |endpoint: &&SliceEndpoint| key.hostname.is_none() || endpoint.hostname == key.hostname;
            for endpoint in slice.endpoints.iter().filter(named) {
                if let Some(target) = Target::of(state, settings, endpoint, port) {
                    targets.insert(SocketAddr::new(endpoint.address, port), Arc::new(target));
                }
            }
        }
        Self {
            exists: true,
            is_local_only: found.is_local_only,
            is_zoned: !targets.is_empty() && targets.values().all(|target: &Arc<Target>| !target.for_zones.is_empty()),
            targets: Arc::new(targets),
            ..Self::default()
        }
    }

    /// This view as the one after `before`; none if nothing is different.
    pub fn after(mut self, before: &Self) -> Option<Self> {
        (self.added, self.removed) = changes(&before.targets, &self.targets);
        self.before = before.targets.clone();
        let flags = |view: &Self| (view.exists, view.is_local_only, view.is_zoned);
        let is_same = self.added.is_empty() && self.removed.is_empty() && flags(&self) == flags(before);
        (!is_same).then_some(self)
    }

    /// Whether all clients get the same endpoints.
    pub fn is_for_all(&self) -> bool {
        !self.is_local_only && !self.is_zoned
    }

    /// The endpoints for a client on `node` in `zone`.
    pub fn targets_for(&self, node: Option<&str>, zone: Option<&str>) -> Targets {
        if self.is_for_all() {
            return self.targets.clone();
        }
        let only = |keep: &dyn Fn(&Target) -> bool| -> BTreeMap<SocketAddr, Arc<Target>> {
            let kept = self.targets.iter().filter(|(_, target)| keep(target));
            kept.map(|(address, target)| (*address, target.clone())).collect()
        };
        if self.is_local_only {
            return Arc::new(only(&|target| target.node.is_some() && target.node.as_deref() == node));
        }
        let near = only(&|target| zone.is_some_and(|zone| target.for_zones.iter().any(|one| one == zone)));
        // Better far than nowhere.
        if near.is_empty() { self.targets.clone() } else { Arc::new(near) }
    }
}

/// What to add and what to remove to come from one set to another.
pub fn changes(from: &Targets, to: &Targets) -> (Vec<Arc<Target>>, Vec<SocketAddr>) {
    let is_new = |(address, target): &(&SocketAddr, &Arc<Target>)| {
        from.get(address).is_none_or(|known| !Arc::ptr_eq(known, target) && known != *target)
    };
    let added = to.iter().filter(is_new).map(|(_, target)| target.clone()).collect();
    let removed = from.keys().filter(|address| !to.contains_key(address)).copied().collect();
    (added, removed)
}

impl Target {
    /// None where the endpoint's pod is not known (yet), or not as the slice has it: to say "no identity" then would send clients
    /// to a meshed pod in plaintext.
    fn of(state: &State, settings: &Settings, endpoint: &SliceEndpoint, port: u16) -> Option<Self> {
        let address = SocketAddr::new(endpoint.address, port);
        let mut weighted = match &endpoint.pod {
            None => unknown(address),
            Some(key) => {
                let pod = state.pods.get(key).filter(|pod| pod.ips.contains(&endpoint.address))?;
                if pod.mesh.as_ref().is_some_and(|mesh| mesh.inbound_port.is_none()) {
                    tracing::error!(pod = %key, "leaving out an endpoint: its label says meshed, but no container says where its proxy listens");
                    return None;
                }
                of_pod(state, settings, pod, address)
            }
        };
        let zone = endpoint.zone.as_deref().unwrap_or_default();
        weighted.metric_labels.insert("zone".into(), zone.into());
        Some(Self {
            weighted,
            node: endpoint.node.clone(),
            zone: endpoint.zone.clone(),
            for_zones: endpoint.for_zones.clone(),
        })
    }

    /// The endpoint as a client in `zone` is told of it.
    pub fn for_client(&self, zone: Option<&str>) -> proto::WeightedAddr {
        let mut weighted = self.weighted.clone();
        weighted.metric_labels.insert("zone_locality".into(), locality(zone, self.zone.as_deref()).into());
        weighted
    }
}

/// How a client's zone and an endpoint's relate, as metrics say it.
fn locality(client: Option<&str>, endpoint: Option<&str>) -> &'static str {
    match (client, endpoint) {
        (Some(client), Some(endpoint)) if !client.is_empty() && !endpoint.is_empty() => {
            if client == endpoint {
                "local"
            } else {
                "remote"
            }
        }
        _ => "unknown",
    }
}

/// An address that no pod of the cluster has.
pub fn unknown(address: SocketAddr) -> proto::WeightedAddr {
    proto::WeightedAddr { addr: Some(address.into()), weight: WEIGHT, ..Default::default() }
}

/// What clients should know of a pod to reach one of its ports.
pub fn of_pod(state: &State, settings: &Settings, pod: &Pod, address: SocketAddr) -> proto::WeightedAddr {
    let mut weighted = unknown(address);
    let labels = &mut weighted.metric_labels;
    labels.insert("pod".into(), pod.key.name.to_string());
    labels.insert(pod.owner.kind.clone(), pod.owner.name.clone());
    labels.insert("serviceaccount".into(), pod.service_account.clone());
    if let Some(hash) = &pod.template_hash {
        labels.insert("pod_template_hash".into(), hash.clone());
    }
    let Some(mesh) = pod.mesh.as_ref() else { return weighted };
    labels.insert("control_plane_ns".into(), mesh.control_namespace.clone());
    // Connections to a skipped port do not pass the pod's proxy.
    if pod.skipped_ports.contains(address.port()) {
        return weighted;
    }
    let is_opaque =
        state.opaque_ports(pod.opaque_ports.as_ref(), &pod.key.namespace, settings).contains(address.port());
    let protocol = match (is_opaque, settings.h2_upgrade) {
        (true, _) => Some(proto::protocol_hint::Protocol::Opaque(proto::protocol_hint::Opaque {})),
        (false, true) => Some(proto::protocol_hint::Protocol::H2(proto::protocol_hint::H2 {})),
        (false, false) => None,
    };
    // The proxy's own ports are not redirected: it serves them itself, without transport header.
    let is_own = [mesh.admin_port, mesh.tap_port].contains(&Some(address.port()));
    let inbound_port = mesh.inbound_port.filter(|_| !is_own);
    let opaque_transport = inbound_port.map(|port| proto::protocol_hint::OpaqueTransport { inbound_port: port.into() });
    weighted.protocol_hint = Some(proto::ProtocolHint { protocol, opaque_transport });
    weighted.http2 = Some(proto::Http2ClientParams {
        keep_alive: Some(proto::http2_client_params::KeepAlive {
            interval: Some(KEEPALIVE_INTERVAL),
            timeout: Some(KEEPALIVE_TIMEOUT),
            while_idle: true,
        }),
        ..Default::default()
    });
    weighted.tls_identity = identity(settings, pod, &mesh.control_namespace).map(|identity| {
        let name = || proto::tls_identity::DnsLikeIdentity { name: identity.to_string() };
        proto::TlsIdentity {
            strategy: Some(proto::tls_identity::Strategy::DnsLikeIdentity(name())),
            server_name: Some(name()),
        }
    });
    weighted
}

/// Who a pod must prove to be; none where another mesh vouches for it, whose anchors our clients do not believe.
fn identity(settings: &Settings, pod: &Pod, control_namespace: &str) -> Option<Identity> {
    if control_namespace != settings.control_namespace {
        return None;
    }
    let identity = Identity::of_service_account(
        &pod.service_account,
        &pod.key.namespace,
        control_namespace,
        &settings.trust_domain,
    );
    identity.inspect_err(|error| tracing::warn!(pod = %pod.key, %error, "a meshed pod can have no identity")).ok()
}
