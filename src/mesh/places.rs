//! Who is behind an address: a workload's pod, a Service, a node, or something outside of the cluster.
//!
//! In: pods and Services as the API server lists them. Out: for each IP address a [`Place`]. Pods of the host's network
//! share their node's address, so that such an address is the node's. Where one pod has ended and another has got its address, the
//! time of the connection decides.
//!
//! Start at [`Places::at`].

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use serde::Serialize;

use super::Identity;
use crate::manifest::names;

/// How far the clocks of two nodes may be apart before we take one pod for another.
const CLOCK_SKEW_SECONDS: u64 = 5;

/// What sort of thing a place is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// None of the cluster's: the name is the IP address.
    Address,
    CronJob,
    DaemonSet,
    Deployment,
    Job,
    /// The address of a node, and of the pods in its network.
    Node,
    /// A pod that nobody owns, or by whose owner we do not ask.
    Pod,
    ReplicaSet,
    ReplicationController,
    Service,
    /// All that is left of a pod that is gone: whom its certificate named.
    ServiceAccount,
    StatefulSet,
}

impl Kind {
    /// As `kubectl` abbreviates it.
    pub fn short(self) -> &'static str {
        match self {
            Self::Address => "ip",
            Self::CronJob => "cj",
            Self::DaemonSet => "ds",
            Self::Deployment => "deploy",
            Self::Job => "job",
            Self::Node => "node",
            Self::Pod => "po",
            Self::ReplicaSet => "rs",
            Self::ReplicationController => "rc",
            Self::Service => "svc",
            Self::ServiceAccount => "sa",
            Self::StatefulSet => "sts",
        }
    }

    fn of_owner(kind: &str) -> Option<Self> {
        Some(match kind {
            "CronJob" => Self::CronJob,
            "DaemonSet" => Self::DaemonSet,
            "Deployment" => Self::Deployment,
            "Job" => Self::Job,
            "ReplicaSet" => Self::ReplicaSet,
            "ReplicationController" => Self::ReplicationController,
            "StatefulSet" => Self::StatefulSet,
            _ => return None,
        })
    }
}

/// One end of an edge.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Place {
    pub namespace: Option<String>,
    pub kind: Kind,
    pub name: String,
    /// Whether it has a proxy.
    pub meshed: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.short(), self.name)
    }
}

/// A place, and the pod that it is at one address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spot {
    pub place: Place,
    pub pod: Option<String>,
}

impl Spot {
    /// Someone outside of the cluster, or of whom we know nothing.
    fn unknown(address: IpAddr) -> Self {
        let place = Place { namespace: None, kind: Kind::Address, name: address.to_string(), meshed: false };
        Self { place, pod: None }
    }

    /// Itself, or what the certificate says where nothing else is known.
    pub fn or_identity(self, identity: Option<&Identity>) -> Self {
        let Some(identity) = identity.filter(|_| self.place.kind == Kind::Address) else { return self };
        match identity.short().split_once('.') {
            Some((name, namespace)) if identity.short() != identity.as_str() => Self {
                place: Place {
                    namespace: Some(namespace.to_owned()),
                    kind: Kind::ServiceAccount,
                    name: name.to_owned(),
                    meshed: true,
                },
                pod: None,
            },
            _ => self,
        }
    }

    /// Itself, or what discovery said where nothing else is known.
    pub fn or_labels(self, labels: &std::collections::BTreeMap<String, String>) -> Self {
        if self.place.kind != Kind::Address {
            return self;
        }
        let pod = labels.get("pod").cloned();
        let owner = ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicaSet", "ReplicationController"]
            .into_iter()
            .find_map(|kind| Some((Kind::of_owner(kind)?, labels.get(&kind.to_ascii_lowercase())?.clone())));
        let Some((kind, name)) = owner.or_else(|| Some((Kind::Pod, pod.clone()?))) else { return self };
        let place = Place {
            namespace: labels.get("namespace").cloned(),
            kind,
            name,
            meshed: labels.contains_key("control_plane_ns"),
        };
        Self { place, pod }
    }
}

/// Everyone's addresses.
#[derive(Clone, Debug, Default)]
pub struct Places {
    pods: HashMap<IpAddr, Vec<Tenant>>,
    others: HashMap<IpAddr, Place>,
}

/// A pod, for as long as it had its address.
#[derive(Clone, Debug)]
struct Tenant {
    spot: Spot,
    /// Seconds since 1970.
    since: u64,
    ended: bool,
}

impl Places {
    pub fn new(pods: &[Pod], services: &[Service]) -> Self {
        let mut places = Self::default();
        for pod in pods {
            let Some(status) = &pod.status else { continue };
            let host = status.host_ip.as_deref().and_then(|address| address.parse().ok());
            if let (Some(host), Some(node)) = (host, pod.spec.as_ref().and_then(|spec| spec.node_name.clone())) {
                places.others.insert(host, Place { namespace: None, kind: Kind::Node, name: node, meshed: false });
            }
            if pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
                continue;
            }
            let since = status.start_time.as_ref().map_or(0, |time| time.0.as_second().max(0).unsigned_abs());
            let tenant = Tenant { spot: spot(pod), since, ended: has_ended(pod) };
            for address in addresses(pod) {
                places.pods.entry(address).or_default().push(tenant.clone());
            }
        }
        for service in services {
            let addresses = service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
            for address in addresses.filter_map(|address| address.parse().ok()) {
                let place = Place {
                    namespace: service.metadata.namespace.clone(),
                    kind: Kind::Service,
                    name: service.metadata.name.clone().unwrap_or_default(),
                    meshed: false,
                };
                places.others.insert(address, place);
            }
        }
        places
    }

    /// With the addresses of nodes that no pod's status tells: among them the gateway of each node's pods, from which the
    /// kubelet probes them. By custom that is the first address of the node's range.
    #[must_use]
    pub fn with_nodes(mut self, nodes: &[Node]) -> Self {
        for node in nodes {
            let name = node.metadata.name.clone().unwrap_or_default();
            let place = Place { namespace: None, kind: Kind::Node, name, meshed: false };
            let own = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
            let own = own.filter_map(|address| address.address.parse().ok());
            let ranges = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
            let gateways = ranges.filter_map(|range| range.parse::<IpNet>().ok()?.hosts().next());
            for address in own.chain(gateways) {
                self.others.insert(address, place.clone());
            }
        }
        self
    }

    /// Who had `address` at the instant `at`, in seconds since 1970.
    pub fn at(&self, address: IpAddr, at: u64) -> Spot {
        let address = address.to_canonical();
        // Of those who had the address by then the latest has it; one that runs goes before one that has ended.
        let tenant = self
            .pods
            .get(&address)
            .into_iter()
            .flatten()
            .filter(|tenant| tenant.since <= at.saturating_add(CLOCK_SKEW_SECONDS))
            .max_by_key(|tenant| (!tenant.ended, tenant.since));
        match (tenant, self.others.get(&address)) {
            (Some(tenant), _) => tenant.spot.clone(),
            (None, Some(place)) => Spot { place: place.clone(), pod: None },
            (None, None) => Spot::unknown(address),
        }
    }
}

/// Whether a pod has a proxy of this kind of mesh, by the label that is its sign for everyone.
pub fn is_meshed(pod: &Pod) -> bool {
    pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(names::CONTROL_PLANE_NS))
}

/// Whether nothing of a pod runs any more.
pub fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Failed" | "Succeeded"))
}

/// The workload of a pod: its owner, in so far as the pod itself tells, or else the pod.
pub fn workload(pod: &Pod) -> Place {
    let place = |kind, name: &str| Place {
        namespace: pod.metadata.namespace.clone(),
        kind,
        name: name.to_owned(),
        meshed: is_meshed(pod),
    };
    let label = |name: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let Some(owner) = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
    else {
        return place(Kind::Pod, name);
    };
    let (kind, owner) = super::workload::behind(&owner.kind, &owner.name, label("pod-template-hash"));
    Kind::of_owner(kind).map_or_else(|| place(Kind::Pod, name), |kind| place(kind, owner))
}

fn spot(pod: &Pod) -> Spot {
    Spot { place: workload(pod), pod: pod.metadata.name.clone() }
}

fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten().map(|address| &address.ip);
    all.filter_map(|address| address.parse().ok())
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A pod of the Deployment `name`, at `address`.
    pub(crate) fn pod(namespace: &str, name: &str, address: &str, meshed: bool) -> Pod {
        let mut labels = json!({"pod-template-hash": "7d9f"});
        if meshed {
            labels[names::CONTROL_PLANE_NS] = json!("hawser");
        }
        serde_json::from_value(json!({
            "metadata": {
                "name": format!("{name}-7d9f-x"), "namespace": namespace, "labels": labels,
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-7d9f"), "uid": "1", "controller": true,
                }],
            },
            "spec": {"nodeName": "node-1", "containers": []},
            "status": {"phase": "Running", "podIPs": [{"ip": address}], "hostIP": "172.30.0.1"},
        }))
        .unwrap()
    }

    pub(crate) fn service(namespace: &str, name: &str, address: &str) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIPs": [address]},
        }))
        .unwrap()
    }

    fn at(places: &Places, address: &str, at: u64) -> String {
        places.at(address.parse().unwrap(), at).place.to_string()
    }

    #[test]
    fn an_address_is_its_pods_workload() {
        let places = Places::new(&[pod("shop", "web", "10.0.0.1", true)], &[]);
        let spot = places.at("10.0.0.1".parse().unwrap(), 0);
        assert_eq!(spot.place.to_string(), "deploy/web");
        assert_eq!((spot.place.namespace.as_deref(), spot.place.meshed), (Some("shop"), true));
        assert_eq!(spot.pod.as_deref(), Some("web-7d9f-x"));
    }

    #[test]
    fn a_replica_set_of_its_own_and_a_pod_of_nobodys_are_themselves() {
        let mut lone = pod("shop", "web", "10.0.0.1", true);
        lone.metadata.labels = None;
        assert_eq!(workload(&lone).to_string(), "rs/web-7d9f");
        lone.metadata.owner_references = None;
        assert_eq!(workload(&lone).to_string(), "po/web-7d9f-x");
    }

    #[test]
    fn services_and_nodes_have_addresses_and_others_are_their_own_name() {
        let places = Places::new(&[pod("shop", "web", "10.0.0.1", true)], &[service("shop", "web", "10.96.0.9")]);
        assert_eq!(at(&places, "10.96.0.9", 0), "svc/web");
        assert_eq!(at(&places, "172.30.0.1", 0), "node/node-1");
        assert_eq!(at(&places, "203.0.113.7", 0), "ip/203.0.113.7");
        assert_eq!(at(&places, "::ffff:10.0.0.1", 0), "deploy/web");
    }

    #[test]
    fn the_gateway_of_a_nodes_pods_is_the_node_and_other_addresses_of_the_range_are_not() {
        let node = serde_json::from_value(json!({
            "metadata": {"name": "node-2"},
            "spec": {"podCIDRs": ["10.244.2.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "172.30.0.2"}, {"type": "Hostname", "address": "node-2"}]},
        }));
        let places = Places::default().with_nodes(&[node.unwrap()]);
        assert_eq!(at(&places, "10.244.2.1", 0), "node/node-2");
        assert_eq!(at(&places, "172.30.0.2", 0), "node/node-2");
        assert_eq!(at(&places, "10.244.2.7", 0), "ip/10.244.2.7");
    }

    #[test]
    fn a_pod_in_the_hosts_network_is_the_node() {
        let mut on_host = pod("kube-system", "proxy", "172.30.0.1", false);
        on_host.spec.as_mut().unwrap().host_network = Some(true);
        assert_eq!(at(&Places::new(&[on_host], &[]), "172.30.0.1", 0), "node/node-1");
    }

    #[test]
    fn an_address_that_has_changed_hands_belongs_to_who_had_it_then() {
        let mut old = pod("shop", "job", "10.0.0.1", true);
        old.status.as_mut().unwrap().phase = Some("Succeeded".into());
        let mut new = pod("shop", "web", "10.0.0.1", true);
        new.status.as_mut().unwrap().start_time = Some(serde_json::from_value(json!("1970-01-01T01:00:00Z")).unwrap());
        let places = Places::new(&[old, new], &[]);
        assert_eq!(at(&places, "10.0.0.1", 100), "deploy/job");
        assert_eq!(at(&places, "10.0.0.1", 4000), "deploy/web");
    }

    #[test]
    fn a_pod_that_is_gone_is_named_by_its_certificate_and_a_known_one_is_not() {
        let identity = Identity::of_service_account("load", "shop", "hawser", "cluster.local").unwrap();
        let gone = Places::default().at("10.0.0.9".parse().unwrap(), 0).or_identity(Some(&identity));
        assert_eq!((gone.place.to_string().as_str(), gone.place.namespace.as_deref()), ("sa/load", Some("shop")));
        let places = Places::new(&[pod("shop", "web", "10.0.0.1", true)], &[]);
        let known = places.at("10.0.0.1".parse().unwrap(), 0).or_identity(Some(&identity));
        assert_eq!(known.place.to_string(), "deploy/web");
    }
}
