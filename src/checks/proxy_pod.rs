//! What a pod says of its own proxy: where to ask it, and who it should be.
//!
//! In: a pod as the API server has it. Out: a [`ProxyPod`]. Ours and a stock proxy look the same here: the names of containers,
//! ports and variables are a contract.
//!
//! Start at [`ProxyPod::of`].

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use crate::manifest::names;
use crate::mesh::Identity;
use crate::mesh::places;

/// The variable that tells a proxy its own identity, made of others.
const LOCAL_NAME: &str = "LINKERD2_PROXY_IDENTITY_LOCAL_NAME";

/// A meshed pod, as far as its proxy goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProxyPod {
    pub namespace: String,
    pub name: String,
    /// The namespace of the control plane it belongs to.
    pub control_namespace: String,
    /// Of the admin server.
    pub admin_port: u16,
    /// Who its certificate should name; none where the pod does not say.
    pub identity: Option<Identity>,
    /// The proxy's version, as the injector noted it.
    pub version: Option<String>,
    pub state: State,
}

/// Whether the proxy can be asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// The pod has run to its end.
    Ended,
    /// Its container does not run (yet), or not any more.
    NotRunning,
    /// It runs, and is not ready: most likely it has no certificate.
    NotReady,
    Ready,
}

/// Why a pod has no proxy to ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoProxy {
    #[error("it is not meshed")]
    NotMeshed,
    #[error("it is marked as meshed, but has no container `{}`", names::PROXY_CONTAINER)]
    NoContainer,
}

impl ProxyPod {
    /// What `pod` says of its proxy.
    ///
    /// # Errors
    /// Where it has none.
    pub fn of(pod: &Pod) -> Result<Self, NoProxy> {
        let label = |name: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
        let annotation = |name: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(name)).cloned();
        let container = container(pod);
        let Some(control_namespace) = label(names::CONTROL_PLANE_NS) else { return Err(NoProxy::NotMeshed) };
        let Some(container) = container else { return Err(NoProxy::NoContainer) };
        let ports = container.ports.iter().flatten();
        let admin_port = ports
            .filter(|port| port.name.as_deref() == Some(names::ADMIN_PORT_NAME))
            .find_map(|port| u16::try_from(port.container_port).ok())
            .unwrap_or(names::ADMIN_PORT);
        Ok(Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            control_namespace,
            admin_port,
            identity: variable(pod, container, LOCAL_NAME).and_then(|name| name.parse().ok()),
            version: annotation(names::PROXY_VERSION).or_else(|| tag(container.image.as_deref()?)),
            state: state(pod),
        })
    }
}

/// The container of the proxy: a native sidecar is among the init containers.
fn container(pod: &Pod) -> Option<&Container> {
    let spec = pod.spec.as_ref()?;
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.find(|container| container.name == names::PROXY_CONTAINER)
}

fn state(pod: &Pod) -> State {
    if places::has_ended(pod) {
        return State::Ended;
    }
    match status(pod) {
        Some(status) if status.ready => State::Ready,
        Some(status) if status.state.as_ref().is_some_and(|state| state.running.is_some()) => State::NotReady,
        _ => State::NotRunning,
    }
}

fn status(pod: &Pod) -> Option<&ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    all.into_iter().find(|status| status.name == names::PROXY_CONTAINER)
}

/// `1.2.3` of `registry:5000/proxy:1.2.3`.
fn tag(image: &str) -> Option<String> {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    let (_, tag) = image.rsplit('/').next()?.split_once(':')?;
    Some(tag.to_owned())
}

/// The value of a container's variable as the kubelet makes it: what comes from the pod filled in, and each `$(NAME)`
/// replaced by the variable of that name, which stands before it.
fn variable(pod: &Pod, container: &Container, wanted: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let mut values: HashMap<&str, String> = HashMap::new();
    for variable in container.env.iter().flatten() {
        let field = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
        let value = match (&variable.value, field.map(|field| field.field_path.as_str())) {
            (Some(value), _) => expand(value, &values),
            (None, Some("metadata.namespace")) => pod.metadata.namespace.clone()?,
            (None, Some("metadata.name")) => pod.metadata.name.clone()?,
            (None, Some("spec.serviceAccountName")) => {
                spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned())
            }
            _ => continue,
        };
        values.insert(&variable.name, value);
    }
    values.remove(wanted)
}

fn expand(text: &str, values: &HashMap<&str, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("$(") {
        expanded += before;
        match after.split_once(')') {
            Some((name, after)) if values.contains_key(name) => {
                expanded += &values[name];
                rest = after;
            }
            _ => {
                expanded += "$(";
                rest = after;
            }
        }
    }
    expanded + rest
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A meshed pod that runs, with its proxy as a native sidecar.
    pub(crate) fn meshed(namespace: &str, name: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": namespace,
                "labels": {names::CONTROL_PLANE_NS: "hawser"},
                "annotations": {names::PROXY_VERSION: "0.1.0"},
            },
            "spec": {
                "serviceAccountName": "web",
                "initContainers": [{
                    "name": "linkerd-proxy",
                    "image": "hawser:0.1.0",
                    "ports": [{"name": "linkerd-admin", "containerPort": 4191}],
                    "env": [
                        {"name": "_pod_sa", "valueFrom": {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}},
                        {"name": "_pod_ns", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                        {"name": "_l5d_ns", "value": "hawser"},
                        {"name": "_l5d_trustdomain", "value": "cluster.local"},
                        {
                            "name": LOCAL_NAME,
                            "value": "$(_pod_sa).$(_pod_ns).serviceaccount.identity.$(_l5d_ns).$(_l5d_trustdomain)",
                        },
                    ],
                }],
                "containers": [{"name": "app"}],
            },
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True"}],
                "initContainerStatuses": [{
                    "name": "linkerd-proxy", "ready": true, "state": {"running": {}},
                    "image": "", "imageID": "", "restartCount": 0,
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn knows_whom_the_certificate_should_name() {
        let proxy = ProxyPod::of(&meshed("shop", "web-1")).unwrap();
        let identity = proxy.identity.unwrap();
        assert_eq!(identity.as_str(), "web.shop.serviceaccount.identity.hawser.cluster.local");
        assert_eq!((proxy.admin_port, proxy.state), (4191, State::Ready));
        assert_eq!((proxy.control_namespace.as_str(), proxy.version.as_deref()), ("hawser", Some("0.1.0")));
    }

    #[test]
    fn a_pod_without_the_label_is_not_meshed_and_one_without_the_container_is_broken() {
        let mut pod = meshed("shop", "web-1");
        pod.spec.as_mut().unwrap().init_containers = None;
        assert_eq!(ProxyPod::of(&pod), Err(NoProxy::NoContainer));
        pod.metadata.labels = None;
        assert_eq!(ProxyPod::of(&pod), Err(NoProxy::NotMeshed));
    }

    #[test]
    fn the_admin_port_is_found_by_name() {
        let mut pod = meshed("shop", "web-1");
        pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0].ports.as_mut().unwrap()[0].container_port = 9;
        assert_eq!(ProxyPod::of(&pod).unwrap().admin_port, 9);
    }

    #[test]
    fn tells_ended_waiting_unready_and_ready_apart() {
        let mut pod = meshed("shop", "web-1");
        let status = |pod: &mut Pod| pod.status.as_mut().unwrap().init_container_statuses.as_mut().unwrap()[0].clone();
        let mut container = status(&mut pod);
        container.ready = false;
        pod.status.as_mut().unwrap().init_container_statuses = Some(vec![container.clone()]);
        assert_eq!(ProxyPod::of(&pod).unwrap().state, State::NotReady);
        container.state = None;
        pod.status.as_mut().unwrap().init_container_statuses = Some(vec![container]);
        assert_eq!(ProxyPod::of(&pod).unwrap().state, State::NotRunning);
        pod.status.as_mut().unwrap().phase = Some("Succeeded".into());
        assert_eq!(ProxyPod::of(&pod).unwrap().state, State::Ended);
    }

    #[test]
    fn without_the_annotation_the_version_is_the_images_tag() {
        assert_eq!(tag("registry:5000/l5d/proxy:edge-26.1"), Some("edge-26.1".into()));
        assert_eq!(tag("registry:5000/l5d/proxy@sha256:00"), None);
    }

    #[test]
    fn variables_that_are_not_there_are_left_as_they_stand() {
        let values = HashMap::from([("a", "1".to_owned())]);
        assert_eq!(expand("$(a)-$(b)-$(a", &values), "1-$(b)-$(a");
    }
}
