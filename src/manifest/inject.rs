//! Decides whether a pod becomes a meshed pod, and makes it one. `inject`, the webhook and `install` all come here.
//!
//! In: a pod or a pod template as JSON (untyped, so that fields this version does not know survive), what the mesh is, and what
//! surrounds the pod. Out: the same pod, meshed, with warnings; or the reason why not. Nothing in a pod makes this
//! panic: what has an unexpected shape is left as it is.
//!
//! The shape, with a native sidecar:
//! ```text
//! initContainers: [ linkerd-init, linkerd-proxy (restartPolicy: Always), …the app's ]   containers: [ …the app's ]
//! ```
//! So the app's init containers are meshed too. Without: `initContainers: [ …, linkerd-init ]`, `containers: [ linkerd-proxy, … ]`.
//!
//! Start at [`inject`]. [`settings`] reads the annotations; [`sidecar`] writes the containers.

pub mod remove;
pub mod settings;
mod sidecar;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::names;
use super::values::Values;

pub type Annotations = BTreeMap<String, String>;

/// The mesh that a pod joins.
#[derive(Clone, Copy, Debug)]
pub struct Mesh<'a> {
    /// The namespace of the control plane.
    pub control_namespace: &'a str,
    pub values: &'a Values,
    pub place: Place<'a>,
    /// For the annotation that says who did it: `hawser/cli 1.2.3`.
    pub created_by: &'a str,
}

/// Where the proxy is, and so how it gets its bundle and where it finds the control plane.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// Beside an app, with the bundle as PEM.
    App { bundle: &'a str },
    /// Beside a role of the control plane, which writes the bundle into a volume they share.
    ControlPlane(Role),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    Destination,
    Identity,
    Injector,
}

/// What is around a pod.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The pod's namespace, where it is known.
    pub namespace: Option<&'a str>,
    pub namespace_annotations: &'a Annotations,
    pub owner: Option<&'a Owner>,
}

/// The workload a pod belongs to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    /// In lower case: `deployment`.
    pub kind: String,
    pub name: String,
}

/// A pod that has joined the mesh.
#[derive(Clone, Debug)]
pub struct Meshed {
    pub pod: Value,
    /// What is wrong with it, though it could be meshed.
    pub warnings: Vec<String>,
}

/// Why a pod is left as it is. The texts are for people, and stay as they are: events, reports and tests have them.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Skip {
    #[error("neither the pod nor its namespace has the annotation `linkerd.io/inject: enabled`")]
    NotEnabled,
    #[error("the annotation `linkerd.io/inject: disabled` is on the {0}")]
    Disabled(On),
    #[error("the annotation `linkerd.io/inject` on the {on} is {value:?}; it can be enabled, disabled or ingress")]
    InvalidInject { on: On, value: String },
    #[error("hostNetwork is enabled: the pod has no network of its own to redirect")]
    HostNetwork,
    #[error("there is a sidecar already (container `{0}`)")]
    ExistingSidecar(String),
    #[error("there are no containers")]
    NoContainers,
}

impl Skip {
    /// A word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotEnabled => "not_enabled",
            Self::Disabled(_) => "disabled",
            Self::InvalidInject { .. } => "invalid_annotation",
            Self::HostNetwork => "host_network",
            Self::ExistingSidecar(_) => "existing_sidecar",
            Self::NoContainers => "no_containers",
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum On {
    Namespace,
    Pod,
}

impl std::fmt::Display for On {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Namespace => "namespace",
            Self::Pod => "pod",
        })
    }
}

/// What the annotations ask for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wish {
    Enabled,
    /// As enabled, but requests are routed by their host name.
    Ingress,
}

/// What the annotations of a pod and its namespace ask for; the pod's come first.
///
/// # Errors
/// Where they do not ask for the mesh.
pub fn wish(pod_annotations: &Annotations, namespace_annotations: &Annotations) -> Result<Wish, Skip> {
    let said = [(On::Pod, pod_annotations), (On::Namespace, namespace_annotations)]
        .into_iter()
        .find_map(|(on, annotations)| Some((on, annotations.get(names::INJECT)?)));
    match said {
        None => Err(Skip::NotEnabled),
        Some((on, value)) => match value.as_str() {
            "enabled" => Ok(Wish::Enabled),
            "ingress" => Ok(Wish::Ingress),
            "disabled" => Err(Skip::Disabled(on)),
            value => Err(Skip::InvalidInject { on, value: value.into() }),
        },
    }
}

/// Makes `pod` (a Pod, or the template of one) a meshed pod.
///
/// # Errors
/// The reason why it must stay as it is.
pub fn inject(pod: &Value, mesh: &Mesh<'_>, around: &Surroundings<'_>) -> Result<Meshed, Skip> {
    let own = annotations(pod);
    let wish = wish(&own, around.namespace_annotations)?;
    obstacle(pod)?;

    // Settings of the namespace are copied to the pod, so that the pod alone says how its proxy was made.
    let mut annotations: Annotations = around
        .namespace_annotations
        .iter()
        .filter(|(key, _)| settings::is_setting(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    annotations.extend(own);

    let ports = sidecar::AppPorts::of(pod);
    let (effective, mut warnings) = settings::effective(mesh.values, &annotations, &ports);
    if let Some(port) = ports.udp.first() {
        warnings.push(format!("port {port} is UDP, which the mesh does not carry: it stays as it is"));
    }

    let mut pod = pod.clone();
    let image = sidecar::proxy_image(&effective.values);
    annotations.insert(names::CREATED_BY.into(), mesh.created_by.into());
    annotations.insert(names::PROXY_VERSION.into(), tag_of(&image).into());
    if let Place::App { bundle } = mesh.place {
        annotations.insert(names::TRUST_ROOT_SHA256.into(), sha256_hex(bundle));
    }
    let metadata = object_at(&mut pod, "metadata");
    let noted = object_at_map(metadata, "annotations");
    for (key, value) in annotations {
        noted.insert(key, value.into());
    }
    let labels = object_at_map(metadata, "labels");
    labels.insert(names::CONTROL_PLANE_NS.into(), mesh.control_namespace.into());
    if let Some(namespace) = around.namespace {
        labels.insert(names::WORKLOAD_NS.into(), namespace.into());
    }
    if let Some(owner) = around.owner.filter(|owner| is_label_value(&owner.name)) {
        labels.insert(format!("{}{}", names::PROXY_OWNER_PREFIX, owner.kind), owner.name.as_str().into());
    }

    let native = effective.values.proxy.native_sidecar;
    let mut init = sidecar::init_container(&effective.values);
    if matches!(mesh.place, Place::App { .. }) {
        sidecar::without_api_token(&mut init);
    }
    let proxy = sidecar::proxy_container(mesh, &effective, wish, &ports);
    let spec = object_at(&mut pod, "spec");
    let init_containers = list_at(spec, "initContainers");
    if native {
        init_containers.splice(0..0, [init, proxy]);
    } else {
        init_containers.push(init);
        list_at(spec, "containers").insert(0, proxy);
    }
    let volumes = list_at(spec, "volumes");
    volumes.extend(sidecar::volumes());
    Ok(Meshed { pod, warnings })
}

/// What stands in the way of meshing this pod, whatever its annotations say.
///
/// # Errors
/// The obstacle.
pub fn obstacle(pod: &Value) -> Result<(), Skip> {
    if pod.pointer("/spec/containers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return Err(Skip::NoContainers);
    }
    if pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
        return Err(Skip::HostNetwork);
    }
    let known =
        [names::PROXY_CONTAINER, names::INIT_CONTAINER, "linkerd-network-validator", "istio-proxy", "istio-init"];
    let existing = ["/spec/containers", "/spec/initContainers"]
        .iter()
        .filter_map(|at| pod.pointer(at)?.as_array())
        .flatten()
        .filter_map(|container| container.get("name")?.as_str())
        .find(|name| known.contains(name));
    existing.map_or(Ok(()), |name| Err(Skip::ExistingSidecar(name.into())))
}

/// The annotations of an object; those that are not texts are no annotations.
pub fn annotations(object: &Value) -> Annotations {
    let Some(Value::Object(map)) = object.pointer("/metadata/annotations") else { return Annotations::new() };
    map.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// The SHA-256 of a bundle's text, in hex: by it one sees which pods have an older one.
pub fn sha256_hex(bundle: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bundle.as_bytes());
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The version in an image's name: what follows its last colon, unless that is a registry's port.
fn tag_of(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(name, _digest)| name);
    match image.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => "latest",
    }
}

/// Names of workloads can be longer than labels may be; a pod must not be refused for a label of ours.
fn is_label_value(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// The mapping at `key`, made if it is not there.
pub fn object_at<'a>(parent: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !parent.is_object() {
        *parent = json!({});
    }
    object_at_map(parent.as_object_mut().expect("made above"), key)
}

fn object_at_map<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let child = parent.entry(key).or_insert_with(|| json!({}));
    if !child.is_object() {
        *child = json!({});
    }
    child.as_object_mut().expect("made above")
}

fn list_at<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let child = parent.entry(key).or_insert_with(|| json!([]));
    if !child.is_array() {
        *child = json!([]);
    }
    child.as_array_mut().expect("made above")
}

#[cfg(test)]
mod tests;
