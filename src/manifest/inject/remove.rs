//! Takes the mesh out of a pod again: the opposite of [`super::inject`].

use serde_json::{Map, Value};

use crate::manifest::names;

/// Containers that Linkerd's injectors, old and new, and ours have added.
const CONTAINERS: [&str; 4] =
    [names::PROXY_CONTAINER, names::INIT_CONTAINER, "linkerd-debug", "linkerd-network-validator"];
const VOLUMES: [&str; 4] =
    ["linkerd-identity-end-entity", "linkerd-identity-token", "linkerd-proxy-init-xtables-lock", "linkerd-podinfo"];

/// Removes the sidecar and what injectors noted about it, but no choice of people: those annotations stay. Says whether there was any.
pub fn remove_sidecar(pod: &mut Value) -> bool {
    let mut changed = false;
    if let Some(Value::Object(spec)) = pod.get_mut("spec") {
        for (list, ours) in [("containers", &CONTAINERS), ("initContainers", &CONTAINERS), ("volumes", &VOLUMES)] {
            changed |= retain_items(spec, list, |name| !ours.contains(&name));
        }
    }
    let noted = [names::CREATED_BY, names::PROXY_VERSION, names::TRUST_ROOT_SHA256];
    changed |= retain_keys(pod, "annotations", |key, _| !noted.contains(&key));
    changed |= retain_keys(pod, "labels", |key, _| {
        key != names::CONTROL_PLANE_NS && key != names::WORKLOAD_NS && !key.starts_with(names::PROXY_OWNER_PREFIX)
    });
    changed
}

/// Removes every trace of the mesh, choices of people included, except the choice to stay out of it.
pub fn remove_all(pod: &mut Value) -> bool {
    let sidecar = remove_sidecar(pod);
    remove_metadata(pod) || sidecar
}

/// Removes every label and annotation of the mesh from an object's own metadata, except the choice to stay out of it.
pub fn remove_metadata(object: &mut Value) -> bool {
    let is_ours = |key: &str| {
        ["linkerd.io/", "config.linkerd.io/", "config.alpha.linkerd.io/", "config.beta.linkerd.io/"]
            .iter()
            .any(|prefix| key.starts_with(prefix))
    };
    let annotations = retain_keys(object, "annotations", |key, value| {
        !is_ours(key) || (key == names::INJECT && value.as_str() == Some("disabled"))
    });
    let labels = retain_keys(object, "labels", |key, _| !is_ours(key));
    annotations || labels
}

fn retain_items(spec: &mut Map<String, Value>, list: &str, keep: impl Fn(&str) -> bool) -> bool {
    let Some(Value::Array(items)) = spec.get_mut(list) else { return false };
    let before = items.len();
    items.retain(|item| item.get("name").and_then(Value::as_str).is_none_or(&keep));
    let changed = items.len() != before;
    if changed && items.is_empty() {
        spec.shift_remove(list);
    }
    changed
}

fn retain_keys(object: &mut Value, map: &str, keep: impl Fn(&str, &Value) -> bool) -> bool {
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else { return false };
    let Some(Value::Object(entries)) = metadata.get_mut(map) else { return false };
    let before = entries.len();
    entries.retain(|key, value| keep(key, value));
    let changed = entries.len() != before;
    // Gone altogether, for a pod that had none before it was meshed had no empty map either.
    if changed && entries.is_empty() {
        metadata.shift_remove(map);
        if metadata.is_empty()
            && let Some(object) = object.as_object_mut()
        {
            object.shift_remove("metadata");
        }
    }
    changed
}
