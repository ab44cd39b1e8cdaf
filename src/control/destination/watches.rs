//! Keeps the index equal to the cluster: one watch for each kind of object.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Api;
use kube::core::PartialObjectMeta;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::cluster::watch::{Change, Health, Name, follow};
use crate::control::Role;
use crate::control::index::Index;
use crate::control::index::facts::{self, Key, Namespace, Pod, Service, Slice};
use crate::net::readiness::BlockReady;

/// Starts all watches. The role is not ready until each has told all its objects: answers before that would miss endpoints.
///
/// # Errors
/// Where the API server cannot be asked what it has.
pub(super) async fn start(role: &Role, index: &Arc<Index>) -> anyhow::Result<()> {
    let tells_networks = tells_service_networks(role).await.context("cannot ask what kinds of objects there are")?;
    let mut watched = Vec::new();
    let mut kind = |kind: &'static str, blocked_for: &'static str| {
        let health = Arc::new(Health::default());
        watched.push((kind, health.clone()));
        index.expect_list();
        (kind, health, role.readiness.block(blocked_for))
    };

    let (name, health, ready) = kind("namespaces", "the namespaces");
    let observe = observer(index, ready, |index, change: Change<PartialObjectMeta<core::Namespace>>| match change {
        Change::Applied(object) => {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            index.apply_namespace(name, Namespace::of(&object.metadata));
        }
        Change::Deleted((_, name)) => index.remove_namespace(&name),
        Change::Listed(names) => {
            let known: Vec<Arc<str>> = index.state().namespaces.keys().cloned().collect();
            gone(known, &names, |known| (String::new(), known.to_string()))
                .for_each(|known| index.remove_namespace(&known));
        }
    });
    spawn(role, follow(Api::all(role.client.clone()), name, health, observe));

    let (name, health, ready) = kind("nodes", "the nodes");
    let observe = observer(index, ready, |index, change: Change<PartialObjectMeta<core::Node>>| match change {
        Change::Applied(object) => {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            index.apply_node(name, facts::zone(&object.metadata));
        }
        Change::Deleted((_, name)) => index.remove_node(&name),
        Change::Listed(names) => {
            let known: Vec<Arc<str>> = index.state().zones.keys().cloned().collect();
            gone(known, &names, |known| (String::new(), known.to_string())).for_each(|known| index.remove_node(&known));
        }
    });
    spawn(role, follow(Api::all(role.client.clone()), name, health, observe));

    let (name, health, ready) = kind("services", "the services");
    let observe = observer(index, ready, |index, change: Change<core::Service>| match change {
        Change::Applied(object) => {
            if let Some(service) = Service::of(&object) {
                index.apply_service(service);
            }
        }
        Change::Deleted(name) => index.remove_service(&key(&name)),
        Change::Listed(names) => {
            let known: Vec<Key> = index.state().services.keys().cloned().collect();
            gone(known, &names, name_of).for_each(|key| index.remove_service(&key));
        }
    });
    spawn(role, follow(Api::all(role.client.clone()), name, health, observe));

    let (name, health, ready) = kind("endpointslices", "the endpoint slices");
    let observe = observer(index, ready, |index, change: Change<EndpointSlice>| match change {
        Change::Applied(object) => match Slice::of(&object) {
            Some(slice) => index.apply_slice(slice),
            // It may have been one of a service before.
            None => drop(Key::of(&object.metadata).map(|key| index.remove_slice(&key))),
        },
        Change::Deleted(name) => index.remove_slice(&key(&name)),
        Change::Listed(names) => {
            let known = index.state().slice_keys();
            gone(known, &names, name_of).for_each(|key| index.remove_slice(&key));
        }
    });
    spawn(role, follow(Api::all(role.client.clone()), name, health, observe));

    let (name, health, ready) = kind("pods", "the pods");
    let observe = observer(index, ready, |index, change: Change<core::Pod>| match change {
        Change::Applied(object) => {
            if let Some(pod) = Pod::of(&object) {
                index.apply_pod(pod);
            }
        }
        Change::Deleted(name) => index.remove_pod(&key(&name)),
        Change::Listed(names) => {
            let known: Vec<Key> = index.state().pods.keys().cloned().collect();
            gone(known, &names, name_of).for_each(|key| index.remove_pod(&key));
        }
    });
    spawn(role, follow(Api::all(role.client.clone()), name, health, observe));

    if tells_networks {
        let (name, health, ready) = kind("servicecidrs", "the networks of services");
        let observe = observer(index, ready, |index, change: Change<ServiceCIDR>| match change {
            Change::Applied(object) => {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                index.apply_service_networks(name, facts::service_networks(&object));
            }
            Change::Deleted((_, name)) => index.remove_service_networks(&name),
            Change::Listed(names) => {
                let known: Vec<Arc<str>> = index.state().service_networks.keys().cloned().collect();
                gone(known, &names, |known| (String::new(), known.to_string()))
                    .for_each(|known| index.remove_service_networks(&known));
            }
        });
        spawn(role, follow(Api::all(role.client.clone()), name, health, observe));
    }

    let mut metrics = role.metrics.lock().unwrap_or_else(PoisonError::into_inner);
    metrics.register_collector(Box::new(Metrics { watched, index: index.clone() }));
    Ok(())
}

/// Whether the cluster says where services get their addresses from: Kubernetes does since 1.33.
async fn tells_service_networks(role: &Role) -> kube::Result<bool> {
    match role.client.list_api_group_resources("networking.k8s.io/v1").await {
        Ok(found) => Ok(found.resources.iter().any(|kind| kind.name == "servicecidrs")),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Policy resources of another mesh's installation are not read: who wrote them must not believe that they are in force.
pub(super) fn warn_of_policy_resources(role: &Role) {
    let client = role.client.clone();
    spawn(role, async move {
        match client.list_api_groups().await {
            Ok(found) if found.groups.iter().any(|group| group.name == POLICY_GROUP) => tracing::warn!(
                group = POLICY_GROUP,
                "the cluster has policy resources, which are not enforced yet: only annotations and the default policy are"
            ),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "cannot tell whether the cluster has policy resources"),
        }
    });
}

/// The API group of Server, AuthorizationPolicy and their like.
const POLICY_GROUP: &str = "policy.linkerd.io";

fn spawn(role: &Role, followed: impl Future<Output = ()> + Send + 'static) {
    let drain = role.drain.clone();
    role.drain.spawn(async move {
        tokio::select! {
            () = followed => {}
            () = drain.started() => {}
        }
    });
}

/// What `apply` does with changes; after the first list it no longer holds the role back.
fn observer<K, A: Fn(&Index, Change<K>)>(
    index: &Arc<Index>,
    ready: BlockReady,
    apply: A,
) -> impl FnMut(Change<K>) + use<K, A> {
    let (index, mut ready) = (index.clone(), Some(ready));
    move |change| {
        let is_complete = matches!(change, Change::Listed(_));
        apply(&index, change);
        if is_complete && ready.take().is_some() {
            index.listed();
        }
    }
}

/// What is known, but not there any more.
fn gone<K>(known: Vec<K>, there: &HashSet<Name>, name: impl Fn(&K) -> Name) -> impl Iterator<Item = K> {
    known.into_iter().filter(move |known| !there.contains(&name(known)))
}

fn key((namespace, name): &Name) -> Key {
    Key::new(namespace, name)
}

fn name_of(key: &Key) -> Name {
    (key.namespace.to_string(), key.name.to_string())
}

/// How the watches fare, and how much is known.
#[derive(Debug)]
struct Metrics {
    watched: Vec<(&'static str, Arc<Health>)>,
    index: Arc<Index>,
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let failing = ConstGauge::new(0i64);
        let mut family = encoder.encode_descriptor(
            "hawser_watch_failing",
            "Whether the watch of a kind of object fails now, so that what is told may be out of date",
            None,
            failing.metric_type(),
        )?;
        for (kind, health) in &self.watched {
            let value = i64::from(health.is_failing.load(Ordering::Relaxed));
            ConstGauge::new(value).encode(family.encode_family(&[("kind", *kind)])?)?;
        }
        let errors = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor(
            "hawser_watch_errors",
            "Attempts to watch a kind of object that failed",
            None,
            errors.metric_type(),
        )?;
        for (kind, health) in &self.watched {
            let value = AtomicU64::load(&health.errors, Ordering::Relaxed);
            ConstCounter::new(value).encode(family.encode_family(&[("kind", *kind)])?)?;
        }
        let counts = self.index.state().counts();
        let known = ConstGauge::new(0i64);
        let mut family = encoder.encode_descriptor(
            "hawser_index_objects",
            "What is known of the cluster, and who listens, by kind",
            None,
            known.metric_type(),
        )?;
        for (kind, count) in counts {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(family.encode_family(&[("kind", kind)])?)?;
        }
        Ok(())
    }
}
