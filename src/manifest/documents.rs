//! What `inject` and `uninject` do to the objects of a manifest, whatever their kind.
//!
//! In: one object, untyped. Out: the object, changed or not, and what was done and found. Lists are walked through.
//!
//! Start at [`Edit::edit`].

use serde_json::Value;

use super::inject::remove::{remove_all, remove_metadata, remove_sidecar};
use super::inject::{self, Annotations, Mesh, Owner, Skip, Surroundings};
use super::{names, yaml};

/// What is done to each object.
#[derive(Clone, Copy, Debug)]
pub enum Edit<'a> {
    /// Writes annotations; the webhook does the rest when pods are created.
    Annotate { wish: &'a str, settings: &'a [(String, String)] },
    /// Writes the whole sidecar, after the annotations.
    Mesh { wish: &'a str, settings: &'a [(String, String)], mesh: &'a Mesh<'a> },
    /// Removes every trace.
    Remove,
}

/// What happened to one object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// In lower case: `deployment`; empty where there is none.
    pub kind: String,
    pub name: String,
    pub outcome: Outcome,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    Annotated,
    Injected,
    Uninjected,
    /// Not of a kind that can be meshed, or nothing to do.
    Skipped,
    /// Meant to be meshed, and cannot be.
    Refused(Skip),
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.kind.is_empty() {
            return f.write_str("document missing \"kind\" field, skipped");
        }
        let done = match &self.outcome {
            Outcome::Annotated => "annotated",
            Outcome::Injected => "injected",
            Outcome::Uninjected => "uninjected",
            Outcome::Skipped => "skipped",
            Outcome::Refused(skip) => return write!(f, "{} {:?} cannot be injected: {skip}", self.kind, self.name),
        };
        write!(f, "{} {:?} {done}", self.kind, self.name)
    }
}

/// Where the pod is in an object of this kind, as a JSON pointer.
fn pod_in(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        "DaemonSet" | "Deployment" | "Job" | "ReplicaSet" | "ReplicationController" | "StatefulSet" => {
            Some("/spec/template")
        }
        _ => None,
    }
}

impl Edit<'_> {
    /// Edits `object`, and each of its items if it is a list.
    pub fn edit(&self, object: &mut Value, reports: &mut Vec<Report>) {
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        if kind == "List" || (kind.ends_with("List") && object.get("items").is_some_and(Value::is_array)) {
            for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
                self.edit(item, reports);
            }
            return;
        }
        let name = object.pointer("/metadata/name").or_else(|| object.pointer("/metadata/generateName"));
        let name = name.and_then(Value::as_str).unwrap_or_default().to_owned();
        let (outcome, warnings) = match (pod_in(&kind), self) {
            (Some(at), Self::Remove) => (remove(object, at), Vec::new()),
            (None, Self::Remove) => {
                let is_known = matches!(kind.as_str(), "Namespace" | "Service");
                (if is_known && remove_metadata(object) { Outcome::Uninjected } else { Outcome::Skipped }, Vec::new())
            }
            (Some(at), Self::Annotate { wish, settings }) => {
                with_pod(object, at, |pod| annotate_pod(pod, wish, settings))
            }
            (Some(at), Self::Mesh { wish, settings, mesh }) => {
                let owner = Owner { kind: kind.to_lowercase(), name: name.clone() };
                let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
                with_pod(object, at, |pod| {
                    let annotated = annotate_pod(pod, wish, settings);
                    if annotated.0 != Outcome::Annotated {
                        return annotated;
                    }
                    let none = Annotations::new();
                    let owner = (!at.is_empty()).then_some(&owner);
                    let around = Surroundings { namespace: namespace.as_deref(), namespace_annotations: &none, owner };
                    match inject::inject(pod, mesh, &around) {
                        Ok(meshed) => {
                            *pod = meshed.pod;
                            (Outcome::Injected, meshed.warnings)
                        }
                        Err(skip) => (Outcome::Refused(skip), Vec::new()),
                    }
                })
            }
            (None, Self::Annotate { wish, settings } | Self::Mesh { wish, settings, .. }) => {
                (annotate_other(object, &kind, wish, settings), Vec::new())
            }
        };
        reports.push(Report { kind: kind.to_lowercase(), name, outcome, warnings });
    }
}

type Done = (Outcome, Vec<String>);

fn with_pod(object: &mut Value, at: &str, edit: impl FnOnce(&mut Value) -> Done) -> Done {
    let Some(pod) = object.pointer_mut(at) else { return (Outcome::Refused(Skip::NoContainers), Vec::new()) };
    let before = pod.clone();
    let done = edit(pod);
    if matches!(done.0, Outcome::Refused(_)) {
        *pod = before;
    }
    done
}

fn annotate_pod(pod: &mut Value, wish: &str, settings: &[(String, String)]) -> Done {
    let on_pod = inject::annotations(pod).remove(names::INJECT);
    if on_pod.as_deref() == Some("disabled") {
        return (Outcome::Refused(Skip::Disabled(inject::On::Pod)), Vec::new());
    }
    remove_sidecar(pod);
    if let Err(skip) = inject::obstacle(pod) {
        return (Outcome::Refused(skip), Vec::new());
    }
    let annotations = inject::object_at(object_metadata(pod), "annotations");
    annotations.insert(names::INJECT.into(), wish.into());
    for (key, value) in settings {
        annotations.insert(key.clone(), value.as_str().into());
    }
    (Outcome::Annotated, udp_warning(pod).into_iter().collect())
}

/// Namespaces pass settings on to their pods; of Services, only the opaque ports mean something.
fn annotate_other(object: &mut Value, kind: &str, wish: &str, settings: &[(String, String)]) -> Outcome {
    let opaque_ports = inject::settings::key("opaque-ports");
    let mut annotations: Vec<(&str, &str)> = Vec::new();
    match kind {
        "Namespace" => {
            annotations.push((names::INJECT, wish));
            annotations.extend(settings.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        }
        "Service" => {
            let of_services = settings.iter().filter(|(key, _)| *key == opaque_ports);
            annotations.extend(of_services.map(|(key, value)| (key.as_str(), value.as_str())));
        }
        _ => {}
    }
    if annotations.is_empty() {
        return Outcome::Skipped;
    }
    let map = inject::object_at(object_metadata(object), "annotations");
    for (key, value) in annotations {
        map.insert(key.into(), value.into());
    }
    Outcome::Annotated
}

/// The object's metadata; where it has none, it goes first, as people write it.
fn object_metadata(object: &mut Value) -> &mut Value {
    if let Value::Object(map) = &mut *object
        && !map.get("metadata").is_some_and(Value::is_object)
    {
        map.shift_remove("metadata");
        let at = map.keys().position(|key| key == "spec").unwrap_or(map.len());
        map.shift_insert(at, "metadata".into(), serde_json::json!({}));
    }
    &mut object["metadata"]
}

fn udp_warning(pod: &Value) -> Option<String> {
    let containers = pod.pointer("/spec/containers")?.as_array()?;
    let port = containers
        .iter()
        .filter_map(|container| container.get("ports")?.as_array())
        .flatten()
        .find(|port| port.get("protocol").and_then(Value::as_str) == Some("UDP"))?;
    Some(format!("port {} is UDP, which the mesh does not carry: it stays as it is", port.get("containerPort")?))
}

fn remove(object: &mut Value, at: &str) -> Outcome {
    let mut changed = object.pointer_mut(at).is_some_and(remove_all);
    if !at.is_empty() {
        changed |= remove_metadata(object);
    }
    if changed { Outcome::Uninjected } else { Outcome::Skipped }
}

/// Edits every document of a text.
///
/// # Errors
/// Where the text is no YAML.
pub fn edit_text(edit: &Edit<'_>, text: &str) -> Result<(Vec<Value>, Vec<Report>), yaml::Invalid> {
    let mut documents = yaml::parse(text)?;
    let mut reports = Vec::new();
    for document in &mut documents {
        edit.edit(document, &mut reports);
    }
    Ok((documents, reports))
}
