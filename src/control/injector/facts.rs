//! What the injector must know of the cluster to mesh a pod: the bundle, the values, and the annotations of namespaces.
//!
//! All of it comes from watches, and stays known while the API server is away. A namespace that is newer than the watch is asked for.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::watch_object;
use tokio::sync::{Semaphore, watch};

use super::super::Role;
use crate::cluster::watch::{Change, Health, follow};
use crate::manifest::inject::Annotations;
use crate::manifest::names::{BUNDLE_CONFIG_MAP, BUNDLE_KEY, CONFIG_MAP};
use crate::manifest::values::Values;
use crate::net::backoff::Backoff;
use crate::net::readiness::BlockReady;
use crate::pki::Bundle;

/// A pod waits for this answer, and its creator with it.
const NAMESPACE_TIMEOUT: Duration = Duration::from_secs(2);
/// Of such questions at a time: new namespaces are few, and whoever makes some up must not have the API server asked without end.
const QUESTIONS_MAX: usize = 16;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// Clones see the same facts.
#[derive(Clone)]
pub struct Facts(Arc<Inner>);

struct Inner {
    client: Option<kube::Client>,
    bundle: ArcSwapOption<String>,
    values: ArcSwap<Values>,
    namespaces: RwLock<HashMap<String, Arc<Annotations>>>,
    /// Places for questions about namespaces that the watch has not told of.
    questions: Semaphore,
}

impl Facts {
    /// Facts that are given, for tests and tools; nothing is watched.
    pub fn of(bundle: Option<String>, values: Values, namespaces: HashMap<String, Annotations>) -> Self {
        let namespaces = namespaces.into_iter().map(|(name, annotations)| (name, Arc::new(annotations))).collect();
        Self(Arc::new(Inner {
            client: None,
            bundle: ArcSwapOption::from_pointee(bundle),
            values: ArcSwap::from_pointee(values),
            namespaces: RwLock::new(namespaces),
            questions: Semaphore::new(QUESTIONS_MAX),
        }))
    }

    /// Watches until the drain; `informed` is dropped once all is known.
    pub(super) fn follow(role: &Role, informed: BlockReady) -> Self {
        let facts = Self(Arc::new(Inner {
            client: Some(role.client.clone()),
            bundle: ArcSwapOption::empty(),
            values: ArcSwap::from_pointee(Values::default()),
            namespaces: RwLock::default(),
            questions: Semaphore::new(QUESTIONS_MAX),
        }));
        let maps: Api<ConfigMap> = Api::namespaced(role.client.clone(), &role.common.control_namespace);
        let known = [(); 3].map(|()| watch::Sender::new(false));
        let receivers: Vec<_> = known.iter().map(watch::Sender::subscribe).collect();
        let [bundle_known, values_known, namespaces_known] = known;
        let until_drain = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let drain = role.drain.clone();
            role.drain.spawn(async move {
                tokio::select! {
                    () = work => {}
                    () = drain.started() => {}
                }
            });
        };

        let at = facts.clone();
        until_drain(Box::pin(follow_map(
            maps.clone(),
            BUNDLE_CONFIG_MAP,
            BUNDLE_KEY,
            move |text| match Bundle::parse_pem(text) {
                Ok(bundle) => {
                    tracing::info!(sha256 = bundle.sha256_hex(), "pods are given this trust bundle");
                    at.0.bundle.store(Some(Arc::new(bundle.to_pem())));
                    bundle_known.send_replace(true);
                }
                Err(error) => tracing::warn!(%error, "the trust bundle cannot be used; the last one stays"),
            },
        )));
        let at = facts.clone();
        until_drain(Box::pin(follow_map(maps, CONFIG_MAP, "values", move |text| match Values::read(text) {
            Ok(values) => {
                at.0.values.store(Arc::new(values));
                values_known.send_replace(true);
            }
            Err(error) => tracing::warn!(%error, "config map {CONFIG_MAP} cannot be used; the last one stays"),
        })));
        let at = facts.clone();
        let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(role.client.clone());
        until_drain(Box::pin(follow(namespaces, "namespaces", Arc::new(Health::default()), move |change| {
            at.observe(change, &namespaces_known);
        })));
        until_drain(Box::pin(async move {
            for mut known in receivers {
                if known.wait_for(|known| *known).await.is_err() {
                    // Its watch ended: with the drain.
                    return std::future::pending().await;
                }
            }
            drop(informed);
        }));
        facts
    }

    fn observe(&self, change: Change<PartialObjectMeta<Namespace>>, known: &watch::Sender<bool>) {
        let mut namespaces = self.0.namespaces.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Applied(namespace) => {
                let name = namespace.metadata.name.unwrap_or_default();
                namespaces.insert(name, Arc::new(namespace.metadata.annotations.unwrap_or_default()));
            }
            Change::Deleted((_, name)) => {
                namespaces.remove(&name);
            }
            Change::Listed(all) => {
                namespaces.retain(|name, _| all.contains(&(String::new(), name.clone())));
                known.send_replace(true);
            }
        }
    }

    /// What pods are to believe; none until the identity role has made it.
    pub(super) fn bundle(&self) -> Option<Arc<String>> {
        self.0.bundle.load_full()
    }

    pub(super) fn values(&self) -> Arc<Values> {
        self.0.values.load_full()
    }

    /// The annotations of a namespace.
    ///
    /// # Errors
    /// Where the watch has not told of it yet, and the API server does not either.
    pub(super) async fn namespace(&self, name: &str) -> Result<Arc<Annotations>, String> {
        let known = self.0.namespaces.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(annotations) = known {
            return Ok(annotations);
        }
        let client = self.0.client.clone().ok_or_else(|| format!("namespace {name} is not known"))?;
        let namespaces: Api<Namespace> = Api::all(client);
        let ask = async {
            let _place = self.0.questions.acquire().await;
            namespaces.get_metadata(name).await
        };
        match tokio::time::timeout(NAMESPACE_TIMEOUT, ask).await {
            Ok(Ok(found)) => Ok(Arc::new(found.metadata.annotations.unwrap_or_default())),
            Ok(Err(error)) => Err(format!("cannot read namespace {name}: {error}")),
            Err(_) => Err(format!("cannot read namespace {name} in time")),
        }
    }
}

/// Tells `observe` of each text under `key`, as it changes. Never returns.
async fn follow_map(maps: Api<ConfigMap>, name: &'static str, key: &'static str, observe: impl Fn(&str)) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
    let mut changes = pin!(watch_object(maps, name));
    let mut last = String::new();
    while let Some(change) = changes.next().await {
        match change {
            Ok(found) => {
                backoff.reset();
                let text = found.and_then(|map| map.data?.remove(key)).unwrap_or_default();
                if !text.is_empty() && text != last {
                    observe(&text);
                    last = text;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot watch config map {name}");
                tokio::time::sleep(backoff.delay()).await;
            }
        }
    }
}
