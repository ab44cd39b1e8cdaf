//! Follows all objects of a kind, for ever, whatever becomes of the API server.
//!
//! In: what to watch. Out: objects as they come and go, and word when all of them have been told. While the API server is away nothing is told:
//! what was known stays known, and [`Health`] says so.
//!
//! Start at [`follow`].

use std::collections::HashSet;
use std::fmt::Debug;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::Lookup;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// A watch that failed is tried again within this; so without an error for as long, it works again, though nothing may have changed.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);

/// What has become of an object.
#[derive(Debug)]
pub enum Change<K> {
    /// It is new, or different, or told again.
    Applied(K),
    Deleted(Name),
    /// All objects there are have been told; these are their names, and whatever else was known is gone.
    Listed(HashSet<Name>),
}

/// The namespace (empty where there is none) and name of an object.
pub type Name = (String, String);

/// How a watch fares; for metrics.
#[derive(Debug, Default)]
pub struct Health {
    /// What was told may be out of date: the last attempt failed.
    pub is_failing: AtomicBool,
    pub errors: AtomicU64,
}

/// Tells `observe` of all objects of `api`, and every change. Never returns.
///
/// Of an `Api<PartialObjectMeta<…>>` only metadata comes over the wire.
pub async fn follow<K>(api: Api<K>, kind: &'static str, health: Arc<Health>, mut observe: impl FnMut(Change<K>))
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    // Bookmarks are on by default: a watch that reconnects goes on where it was.
    let events = watcher::watcher(api, watcher::Config::default());
    let mut events = pin!(events.default_backoff());
    let mut listed = HashSet::new();
    loop {
        let is_failing = health.is_failing.load(Ordering::Relaxed);
        let recovered = async { if is_failing { tokio::time::sleep(RECOVERED_AFTER).await } else { pending().await } };
        let event = tokio::select! {
            event = events.next() => event,
            () = recovered => {
                health.is_failing.store(false, Ordering::Relaxed);
                continue;
            }
        };
        match event {
            Some(Ok(event)) => {
                health.is_failing.store(false, Ordering::Relaxed);
                match event {
                    Event::Init => listed.clear(),
                    Event::InitApply(object) => {
                        listed.insert(name(&object));
                        observe(Change::Applied(object));
                    }
                    Event::InitDone => observe(Change::Listed(std::mem::take(&mut listed))),
                    Event::Apply(object) => observe(Change::Applied(object)),
                    Event::Delete(object) => observe(Change::Deleted(name(&object))),
                }
            }
            Some(Err(error)) => {
                health.errors.fetch_add(1, Ordering::Relaxed);
                if !health.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(kind, %error, "cannot watch; going on with what is known");
                }
            }
            // With a back-off that never gives up, a watch has no end.
            None => pending().await,
        }
    }
}

fn name<K: Lookup<DynamicType = ()>>(object: &K) -> Name {
    let text = |text: Option<std::borrow::Cow<'_, str>>| text.map(std::borrow::Cow::into_owned).unwrap_or_default();
    (text(object.namespace()), text(object.name()))
}
