//! Applies manifests as `kubectl apply --server-side` does, under the field manager `hawser`.
//!
//! In: objects in the order in which they depend on each other. What does not depend on each other goes at the same time.
//!
//! Start at [`all`].

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

use crate::manifest::names;
use crate::net::backoff::Backoff;

/// Whose fields they are. What roles write into the same objects belongs to other managers, and stays.
const FIELD_MANAGER: &str = "hawser";
/// Enough to hide the way to the API server, too few to be throttled by it.
const CONCURRENT_MAX: usize = 8;
/// A namespace that was made just now may not be known to every API server yet, and an API server may be starting.
const ATTEMPTS_MAX: usize = 6;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot apply {object}")]
    Apply {
        object: String,
        #[source]
        source: kube::Error,
    },
    #[error("cannot read {object}")]
    Read {
        object: String,
        #[source]
        source: kube::Error,
    },
    #[error("cannot delete {object}")]
    Delete {
        object: String,
        #[source]
        source: kube::Error,
    },
    #[error("an object without apiVersion, kind or name: {0}")]
    Nameless(String),
}

/// Applies every object, and calls `applied` with the name of each.
///
/// # Errors
/// That of the first object that could not be applied; those before it are.
pub async fn all(client: &kube::Client, objects: &[Value], applied: impl Fn(&str)) -> Result<(), Error> {
    let mut rest = objects;
    while let Some(first) = rest.first() {
        let same = wave(first);
        let (now, later) = rest.split_at(rest.iter().take_while(|object| wave(object) == same).count());
        stream::iter(now)
            .map(|object| one(client, object))
            .buffer_unordered(CONCURRENT_MAX)
            .try_for_each(|name| {
                applied(&name);
                std::future::ready(Ok(()))
            })
            .await?;
        rest = later;
    }
    Ok(())
}

/// What has to be there before what: pods need their accounts, and the webhook needs its pods.
fn wave(object: &Value) -> u8 {
    match object["kind"].as_str() {
        Some("Namespace" | "CustomResourceDefinition") => 0,
        Some("Deployment") => 2,
        Some("MutatingWebhookConfiguration") => 3,
        _ => 1,
    }
}

async fn one(client: &kube::Client, object: &Value) -> Result<String, Error> {
    let (api, name, shown) = api_of(client, object)?;
    // By force: the fields are ours, whoever wrote them last (`kubectl apply` has a manager of its own).
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
    for attempt in 1.. {
        match api.patch(&name, &params, &Patch::Apply(object)).await {
            Ok(_) => break,
            Err(error) if attempt < ATTEMPTS_MAX && may_pass(&error) => tokio::time::sleep(backoff.delay()).await,
            Err(source) => return Err(Error::Apply { object: shown, source }),
        }
    }
    Ok(shown)
}

/// Whether an object is there and belongs to the installation in `namespace`.
///
/// # Errors
/// Where the cluster does not tell.
pub async fn is_ours(client: &kube::Client, object: &Value, namespace: &str) -> Result<bool, Error> {
    let (api, name, shown) = api_of(client, object)?;
    let found = api.get_metadata_opt(&name).await.map_err(|source| Error::Read { object: shown, source })?;
    let labels = found.and_then(|found| found.metadata.labels).unwrap_or_default();
    let is = |label: &str, value: &str| labels.get(label).is_some_and(|found| found == value);
    Ok(is(names::CONTROL_PLANE_NS, namespace) && is(names::PART_OF, names::PART_OF_HAWSER))
}

/// Deletes an object; one that is not there is fine.
///
/// # Errors
/// Where the API server refuses.
pub async fn delete(client: &kube::Client, object: &Value) -> Result<String, Error> {
    let (api, name, shown) = api_of(client, object)?;
    match api.delete(&name, &DeleteParams::background()).await {
        Ok(_) => Ok(shown),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(shown),
        Err(source) => Err(Error::Delete { object: shown, source }),
    }
}

fn api_of(client: &kube::Client, object: &Value) -> Result<(Api<DynamicObject>, String, String), Error> {
    let text = |at: &str| object.pointer(at).and_then(Value::as_str);
    let (Some(version), Some(kind), Some(name)) = (text("/apiVersion"), text("/kind"), text("/metadata/name")) else {
        return Err(Error::Nameless(object.to_string().chars().take(100).collect()));
    };
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api = match text("/metadata/namespace") {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    Ok((api, name.into(), format!("{} {name}", kind.to_lowercase())))
}

/// Whether trying again can help: the API server is starting, busy, or has not heard of the namespace yet.
fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 404 | 409 | 429 | 500..=599),
        kube::Error::HyperError(_) | kube::Error::Service(_) => true,
        _ => false,
    }
}
