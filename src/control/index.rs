//! What the cluster looks like now, as far as answers need it: destination and policy answer from here.
//!
//! In: trimmed objects ([`facts`]), as the watches bring them. Out: answers, and wake-ups for those whose answer may have changed.
//!
//! ```text
//!   watches ──▶ apply/remove ──▶ State ──▶ topics: "service shop/web", "address 10.0.0.1", "pod shop/web-1"
//!                                  │         └─▶ subscribers ask again (answers of one small message)
//!                                  └──▶ views: endpoints of (service, port), computed once for all subscribers
//!                                            └─▶ each sends what changed ([`view`])
//! ```
//!
//! One lock, never held across an await: what is done under it is look-ups, and for a changed service the work of its views.

pub mod facts;
pub mod view;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tokio::sync::watch;

use self::facts::{Key, Namespace, Pod, Service, Slice};
use self::view::{View, ViewKey};
use crate::mesh::policy::DefaultPolicy;
use crate::mesh::ports::PortSet;

/// What answers depend on besides the cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    pub control_namespace: String,
    pub trust_domain: String,
    pub cluster_domain: String,
    pub default_policy: DefaultPolicy,
    pub cluster_networks: Vec<IpNet>,
    pub opaque_ports: PortSet,
    /// Who may send HTTP probes.
    pub probe_networks: Vec<IpNet>,
    /// Whether proxies carry HTTP/1 in HTTP/2 between each other.
    pub h2_upgrade: bool,
}

/// What an answer may depend on.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Topic {
    /// A service, its slices, or the pods in them.
    Service(Key),
    /// Whatever has this address: services, pods, nodes' ports.
    Address(IpAddr),
    Pod(Key),
}

/// The cluster as it is known, shared by watches and subscribers.
#[derive(Debug)]
pub struct Index {
    pub settings: Settings,
    state: Mutex<State>,
    /// How many kinds of objects have not been listed yet.
    unlisted: AtomicUsize,
}

/// The cluster as it is known; what it means is in `control/destination` and `control/policy`.
#[derive(Debug, Default)]
pub struct State {
    pub pods: HashMap<Key, Arc<Pod>>,
    /// Pods that an address stands for: alive, and not with their node's addresses.
    pub pods_by_ip: HashMap<IpAddr, Vec<Arc<Pod>>>,
    /// Pods reached through a port of their node, and the port of their own.
    pub pods_by_host_port: HashMap<SocketAddr, Vec<(Arc<Pod>, u16)>>,
    pub services: HashMap<Key, Arc<Service>>,
    pub services_by_ip: HashMap<IpAddr, Vec<Arc<Service>>>,
    pub slices: HashMap<Key, HashMap<Key, Arc<Slice>>>,
    pub namespaces: HashMap<Arc<str>, Namespace>,
    pub zones: HashMap<Arc<str>, Arc<str>>,
    /// The networks that addresses of services are taken from, by the names of the objects that say so.
    pub service_networks: HashMap<Arc<str>, Vec<IpNet>>,
    /// The service that a slice is of.
    services_by_slice: HashMap<Key, Key>,
    /// The slices that a pod is in, known or not.
    slices_by_pod: HashMap<Key, HashSet<Key>>,
    views: HashMap<Key, HashMap<ViewKey, watch::Sender<Arc<View>>>>,
    topics: HashMap<Topic, watch::Sender<()>>,
    /// How many topics there were after the last sweep.
    topics_swept: usize,
}

impl Index {
    pub fn new(settings: Settings) -> Self {
        Self { settings, state: Mutex::default(), unlisted: AtomicUsize::new(0) }
    }

    /// One more kind of objects is going to be listed.
    pub fn expect_list(&self) {
        self.unlisted.fetch_add(1, Ordering::Relaxed);
    }

    /// All objects of one kind have been applied.
    pub fn listed(&self) {
        self.unlisted.fetch_sub(1, Ordering::Release);
    }

    /// Whether answers can be relied upon: before, a service that is not known may well exist, and a client that is told otherwise
    /// would go to it in plaintext.
    pub fn is_complete(&self) -> bool {
        self.unlisted.load(Ordering::Acquire) == 0
    }

    /// A look at the cluster. Answers are made of it at once; it is never held across an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Word of changes to what `topic` names. Subscribe first, then ask.
    pub fn subscribe(&self, topic: Topic) -> watch::Receiver<()> {
        let mut state = self.state();
        state.sweep();
        state.topics.entry(topic).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// The endpoints of a port of a service: now, and every change.
    pub fn view(&self, service: &Key, key: ViewKey) -> watch::Receiver<Arc<View>> {
        let mut state = self.state();
        if let Some(known) = state.views.get(service).and_then(|views| views.get(&key)) {
            return known.subscribe();
        }
        let view = View::of(&state, &self.settings, service, &key);
        let sender = watch::Sender::new(Arc::new(view));
        let receiver = sender.subscribe();
        state.views.entry(service.clone()).or_default().insert(key, sender);
        receiver
    }

    pub fn apply_pod(&self, pod: Pod) {
        let mut state = self.state();
        if state.pods.get(&pod.key).is_some_and(|known| **known == pod) {
            return;
        }
        let key = pod.key.clone();
        state.forget_pod(&key);
        let pod = Arc::new(pod);
        for ip in pod.ips.iter().filter(|_| pod.is_alive && !pod.is_host_network) {
            state.pods_by_ip.entry(*ip).or_default().push(pod.clone());
        }
        for (address, port) in pod.host_ports.iter().filter(|_| pod.is_alive) {
            state.pods_by_host_port.entry(*address).or_default().push((pod.clone(), *port));
        }
        state.wake_addresses_of(&pod);
        state.pods.insert(key.clone(), pod);
        self.pod_changed(&mut state, &key);
    }

    pub fn remove_pod(&self, key: &Key) {
        let mut state = self.state();
        state.forget_pod(key);
        self.pod_changed(&mut state, key);
    }

    fn pod_changed(&self, state: &mut State, key: &Key) {
        state.wake(&Topic::Pod(key.clone()));
        let slices = state.slices_by_pod.get(key).into_iter().flatten();
        let services: HashSet<Key> = slices.filter_map(|slice| state.services_by_slice.get(slice)).cloned().collect();
        for service in services {
            self.service_changed(state, &service);
        }
    }

    pub fn apply_service(&self, service: Service) {
        let mut state = self.state();
        if state.services.get(&service.key).is_some_and(|known| **known == service) {
            return;
        }
        let key = service.key.clone();
        state.forget_service(&key);
        let service = Arc::new(service);
        for ip in &service.cluster_ips {
            state.services_by_ip.entry(*ip).or_default().push(service.clone());
            state.wake(&Topic::Address(*ip));
        }
        state.services.insert(key.clone(), service);
        self.service_changed(&mut state, &key);
    }

    pub fn remove_service(&self, key: &Key) {
        let mut state = self.state();
        state.forget_service(key);
        self.service_changed(&mut state, key);
    }

    pub fn apply_slice(&self, slice: Slice) {
        let mut state = self.state();
        let known = state.slices.get(&slice.service).and_then(|slices| slices.get(&slice.key));
        if known.is_some_and(|known| **known == slice) {
            return;
        }
        let (key, service) = (slice.key.clone(), slice.service.clone());
        let moved_from = state.forget_slice(&key).filter(|before| *before != service);
        for pod in slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref()) {
            state.slices_by_pod.entry(pod.clone()).or_default().insert(key.clone());
        }
        state.services_by_slice.insert(key.clone(), service.clone());
        state.slices.entry(service.clone()).or_default().insert(key, Arc::new(slice));
        self.service_changed(&mut state, &service);
        if let Some(before) = moved_from {
            self.service_changed(&mut state, &before);
        }
    }

    pub fn remove_slice(&self, key: &Key) {
        let mut state = self.state();
        if let Some(service) = state.forget_slice(key) {
            self.service_changed(&mut state, &service);
        }
    }

    /// What everything in a namespace inherits has changed: rare, so everybody asks again.
    pub fn apply_namespace(&self, name: &str, namespace: Namespace) {
        let mut state = self.state();
        if state.namespaces.get(name) == Some(&namespace) {
            return;
        }
        let is_plain = namespace == Namespace::default() && !state.namespaces.contains_key(name);
        state.namespaces.insert(name.into(), namespace);
        if !is_plain {
            self.everything_changed(&mut state);
        }
    }

    pub fn remove_namespace(&self, name: &str) {
        let mut state = self.state();
        if state.namespaces.remove(name).is_some_and(|namespace| namespace != Namespace::default()) {
            self.everything_changed(&mut state);
        }
    }

    /// Clients are told of their zone when they ask the next time: nodes do not move.
    pub fn apply_node(&self, name: &str, zone: Option<Arc<str>>) {
        let mut state = self.state();
        match zone {
            Some(zone) => state.zones.insert(name.into(), zone),
            None => state.zones.remove(name),
        };
    }

    pub fn remove_node(&self, name: &str) {
        self.state().zones.remove(name);
    }

    /// Services get addresses from these networks from now on: rare, so everybody asks again.
    pub fn apply_service_networks(&self, name: &str, networks: Vec<IpNet>) {
        let mut state = self.state();
        if state.service_networks.get(name) != Some(&networks) {
            state.service_networks.insert(name.into(), networks);
            self.everything_changed(&mut state);
        }
    }

    pub fn remove_service_networks(&self, name: &str) {
        let mut state = self.state();
        if state.service_networks.remove(name).is_some() {
            self.everything_changed(&mut state);
        }
    }

    fn service_changed(&self, state: &mut State, service: &Key) {
        state.wake(&Topic::Service(service.clone()));
        // Taken out, so that the views can look at the rest of the state.
        let Some(mut views) = state.views.remove(service) else { return };
        views.retain(|_, sender| sender.receiver_count() > 0);
        for (key, sender) in &views {
            let next = View::of(state, &self.settings, service, key);
            sender.send_if_modified(|current| match next.after(current) {
                Some(next) => {
                    *current = Arc::new(next);
                    true
                }
                None => false,
            });
        }
        if !views.is_empty() {
            state.views.insert(service.clone(), views);
        }
    }

    fn everything_changed(&self, state: &mut State) {
        for sender in state.topics.values() {
            sender.send_replace(());
        }
        let services: Vec<Key> = state.views.keys().cloned().collect();
        for service in services {
            self.service_changed(state, &service);
        }
    }
}

impl State {
    /// Whether only a service can have this address, though none is known that does.
    pub fn is_missing_service(&self, ip: IpAddr) -> bool {
        !self.services_by_ip.contains_key(&ip)
            && self.service_networks.values().flatten().any(|network| network.contains(&ip))
    }

    /// The ports of a pod or service that are opaque: its own annotation's, else its namespace's, else the default.
    pub fn opaque_ports<'s>(
        &'s self,
        own: Option<&'s PortSet>,
        namespace: &str,
        settings: &'s Settings,
    ) -> &'s PortSet {
        let inherited = || self.namespaces.get(namespace).and_then(|namespace| namespace.opaque_ports.as_ref());
        own.or_else(inherited).unwrap_or(&settings.opaque_ports)
    }

    /// The keys of all slices.
    pub fn slice_keys(&self) -> Vec<Key> {
        self.services_by_slice.keys().cloned().collect()
    }

    /// How much there is, by kind.
    pub fn counts(&self) -> [(&'static str, usize); 5] {
        [
            ("pods", self.pods.len()),
            ("services", self.services.len()),
            ("endpointslices", self.services_by_slice.len()),
            ("topics", self.topics.len()),
            ("views", self.views.values().map(HashMap::len).sum()),
        ]
    }

    fn wake(&self, topic: &Topic) {
        if let Some(sender) = self.topics.get(topic) {
            sender.send_replace(());
        }
    }

    fn wake_addresses_of(&self, pod: &Pod) {
        let addresses: HashSet<IpAddr> =
            pod.ips.iter().copied().chain(pod.host_ports.iter().map(|(address, _)| address.ip())).collect();
        for address in addresses {
            self.wake(&Topic::Address(address));
        }
    }

    fn forget_pod(&mut self, key: &Key) {
        let Some(pod) = self.pods.remove(key) else { return };
        for ip in &pod.ips {
            drop_from(&mut self.pods_by_ip, ip, |other| other.key == *key);
        }
        for (address, _) in &pod.host_ports {
            drop_from(&mut self.pods_by_host_port, address, |(other, _)| other.key == *key);
        }
        self.wake_addresses_of(&pod);
    }

    fn forget_service(&mut self, key: &Key) {
        let Some(service) = self.services.remove(key) else { return };
        for ip in &service.cluster_ips {
            drop_from(&mut self.services_by_ip, ip, |other| other.key == *key);
            self.wake(&Topic::Address(*ip));
        }
    }

    /// Says which service it was of.
    fn forget_slice(&mut self, key: &Key) -> Option<Key> {
        let service = self.services_by_slice.remove(key)?;
        let slices = self.slices.get_mut(&service)?;
        if let Some(slice) = slices.remove(key) {
            for pod in slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref()) {
                if let Some(slices) = self.slices_by_pod.get_mut(pod) {
                    slices.remove(key);
                    if slices.is_empty() {
                        self.slices_by_pod.remove(pod);
                    }
                }
            }
        }
        if self.slices.get(&service).is_some_and(HashMap::is_empty) {
            self.slices.remove(&service);
        }
        Some(service)
    }

    /// Drops the topics nobody listens to any more, each time their number has doubled: constant work per subscription.
    fn sweep(&mut self) {
        if self.topics.len() > 2 * self.topics_swept.max(TOPICS_SWEPT_MIN) {
            self.topics.retain(|_, sender| sender.receiver_count() > 0);
            self.topics_swept = self.topics.len();
            for views in self.views.values_mut() {
                views.retain(|_, sender| sender.receiver_count() > 0);
            }
            self.views.retain(|_, views| !views.is_empty());
        }
    }
}

/// Below this a sweep would save nothing.
const TOPICS_SWEPT_MIN: usize = 1024;

fn drop_from<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, Vec<V>>, key: &K, is_gone: impl Fn(&V) -> bool) {
    if let Some(values) = map.get_mut(key) {
        values.retain(|value| !is_gone(value));
        if values.is_empty() {
            map.remove(key);
        }
    }
}
