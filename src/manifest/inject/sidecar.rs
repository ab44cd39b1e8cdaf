//! Writes the two containers of a meshed pod: `linkerd-init`, which redirects, and `linkerd-proxy`, which carries.
//!
//! Names, ports, arguments and environment variables are Linkerd's, in its order, so that its proxy can stand in ours' place
//! and tools that look into pods find what they know.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::settings::Effective;
use super::{Mesh, Place, Role, Wish};
use crate::manifest::names;
use crate::manifest::values::{PullPolicy, Values};

const END_ENTITY_VOLUME: &str = "linkerd-identity-end-entity";
const END_ENTITY_DIR: &str = "/var/run/linkerd/identity/end-entity";
const API_TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_VOLUME: &str = "linkerd-identity-token";
const TOKEN_DIR: &str = "/var/run/secrets/tokens";
/// Kubernetes renews it at 80 % of that.
const TOKEN_SECONDS: u32 = 86_400;
/// A proxy waits for its first certificate that long before Kubernetes restarts it.
const STARTUP_SECONDS: u32 = 120;
/// How long the kubelet waits for an answer: as long as the time between two probes, and half of that. With a hundredth of a CPU, the
/// second that is the default was too short for a sound proxy, which was then killed with all that it carried.
const LIVE_WITHIN_SECONDS: u32 = 10;
const READY_WITHIN_SECONDS: u32 = 5;

/// The ports of a pod's own containers.
#[derive(Debug, Default)]
pub(super) struct AppPorts {
    /// Those they declare and those that probes call, in order.
    pub(super) tcp: BTreeSet<u16>,
    pub(super) udp: BTreeSet<u16>,
    named: Vec<(String, u16)>,
}

impl AppPorts {
    pub(super) fn of(pod: &Value) -> Self {
        let mut ports = Self::default();
        let containers: Vec<&Value> = ["/spec/initContainers", "/spec/containers"]
            .iter()
            .filter_map(|at| pod.pointer(at)?.as_array())
            .flatten()
            .collect();
        for container in &containers {
            for port in container.get("ports").and_then(Value::as_array).into_iter().flatten() {
                let Some(number) = port.get("containerPort").and_then(as_port) else { continue };
                match port.get("protocol").and_then(Value::as_str) {
                    Some("UDP") => ports.udp.insert(number),
                    None | Some("TCP") => ports.tcp.insert(number),
                    Some(_) => continue,
                };
                if let Some(name) = port.get("name").and_then(Value::as_str) {
                    ports.named.push((name.into(), number));
                }
            }
        }
        for container in &containers {
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                for action in ["httpGet", "tcpSocket", "grpc"] {
                    let port = container.get(probe).and_then(|probe| probe.get(action)?.get("port"));
                    ports.tcp.extend(port.and_then(|port| ports.number_of(port)));
                }
            }
        }
        ports
    }

    fn number_of(&self, port: &Value) -> Option<u16> {
        as_port(port).or_else(|| self.named(port.as_str()?))
    }

    fn named(&self, name: &str) -> Option<u16> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, number)| *number)
    }

    /// A list of ports in which names of container ports have become numbers.
    pub(super) fn resolve_names(&self, list: &str) -> String {
        let resolved =
            |item: &str| self.named(item.trim()).map_or_else(|| item.trim().to_owned(), |port| port.to_string());
        list.split(',').map(resolved).collect::<Vec<_>>().join(",")
    }
}

fn as_port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0)
}

/// The image of the proxy: the mesh's own, unless another is chosen.
pub(super) fn proxy_image(values: &Values) -> String {
    match (&values.proxy.image.name, &values.proxy.image.version) {
        (None, None) => values.image.clone(),
        (Some(name), None) => name.clone(),
        (name, Some(version)) => {
            let name = name.as_deref().unwrap_or(&values.image);
            // A name that brings its own version has it replaced.
            let name = match name.rsplit_once(':') {
                Some((name, tag)) if !tag.contains('/') => name,
                _ => name,
            };
            format!("{name}:{version}")
        }
    }
}

fn pull_policy(policy: PullPolicy) -> Value {
    serde_json::to_value(policy).expect("a unit variant is a text")
}

/// The container that redirects the pod's connections, once, before anything else runs.
pub(super) fn init_container(values: &Values) -> Value {
    let proxy = &values.proxy;
    let init = &values.proxy_init;
    let mut args: Vec<String> = Vec::new();
    if values.disable_ipv6 {
        args.push("--ipv6=false".into());
    }
    let mut arg = |name: &str, value: String| args.extend([name.into(), value]);
    arg("--incoming-proxy-port", proxy.ports.inbound.to_string());
    arg("--outgoing-proxy-port", proxy.ports.outbound.to_string());
    arg("--proxy-uid", proxy.uid.to_string());
    if let Some(gid) = proxy.gid.filter(|gid| *gid >= 0) {
        arg("--proxy-gid", gid.to_string());
    }
    let own = format!("{},{}", proxy.ports.control, proxy.ports.admin);
    arg("--inbound-ports-to-ignore", join(&own, &init.ignore_inbound_ports));
    if !init.ignore_outbound_ports.is_empty() {
        arg("--outbound-ports-to-ignore", init.ignore_outbound_ports.clone());
    }
    if !init.skip_subnets.is_empty() {
        arg("--subnets-to-ignore", init.skip_subnets.clone());
    }
    if init.close_wait_timeout_secs > 0 {
        arg("--timeout-close-wait-secs", init.close_wait_timeout_secs.to_string());
    }
    // Only a privileged container may set what --timeout-close-wait-secs asks for.
    let privileged = init.close_wait_timeout_secs > 0;
    json!({
        "name": names::INIT_CONTAINER,
        "image": values.image,
        "imagePullPolicy": pull_policy(values.image_pull_policy),
        "command": ["/usr/lib/linkerd/linkerd2-proxy-init"],
        "args": args,
        "securityContext": {
            "allowPrivilegeEscalation": privileged,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "privileged": privileged,
            "readOnlyRootFilesystem": true,
            // The kernel gives a user other than root only what the binary's file capability permits: `hawser image` sets it.
            "runAsNonRoot": !privileged,
            "runAsUser": if privileged { 0 } else { names::INIT_UID },
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

fn join(left: &str, right: &str) -> String {
    if right.is_empty() { left.into() } else { format!("{left},{right}") }
}

/// The container that carries the pod's connections.
pub(super) fn proxy_container(mesh: &Mesh<'_>, effective: &Effective, wish: Wish, ports: &AppPorts) -> Value {
    let values = &effective.values;
    let proxy = &values.proxy;
    let admin = |path: &str| json!({"path": path, "port": proxy.ports.admin});
    let beside_an_app = matches!(mesh.place, Place::App { .. });
    let mut container = json!({
        "name": names::PROXY_CONTAINER,
        "image": proxy_image(values),
        "imagePullPolicy": pull_policy(proxy.image.pull_policy.unwrap_or(values.image_pull_policy)),
        // Both our image and Linkerd's have it there.
        "command": ["/usr/lib/linkerd/linkerd2-proxy-identity"],
        "env": environment(mesh, effective, wish, ports),
        "ports": [
            {"name": names::INBOUND_PORT_NAME, "containerPort": proxy.ports.inbound, "protocol": "TCP"},
            {"name": names::ADMIN_PORT_NAME, "containerPort": proxy.ports.admin, "protocol": "TCP"},
        ],
        "livenessProbe": {"httpGet": admin("/live"), "initialDelaySeconds": 10, "timeoutSeconds": LIVE_WITHIN_SECONDS},
        "readinessProbe": {"httpGet": admin("/ready"), "timeoutSeconds": READY_WITHIN_SECONDS},
        "resources": proxy.resources.to_requirements(),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": proxy.uid,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": END_ENTITY_VOLUME, "mountPath": END_ENTITY_DIR},
            {"name": TOKEN_VOLUME, "mountPath": TOKEN_DIR, "readOnly": true},
        ],
    });
    if let Some(gid) = proxy.gid.filter(|gid| *gid >= 0) {
        container["securityContext"]["runAsGroup"] = gid.into();
    }
    let mut hooks = Map::new();
    // The proxies of the control plane can only be ready after their role is, so their role must not wait for them.
    if proxy.await_ready && beside_an_app {
        // A hook, and no startup probe: the kubelet starts the next container as soon as a hook ends, but only looks at the outcome of a
        // probe when it next looks at all containers, which is once a second.
        let timeout = format!("--timeout={STARTUP_SECONDS}s");
        let port = format!("--port={}", proxy.ports.admin);
        // Both our image and Linkerd's have it there.
        let wait = ["/usr/lib/linkerd/linkerd-await", &timeout, &port];
        hooks.insert("postStart".into(), json!({"exec": {"command": wait}}));
    } else {
        // Nobody waits for the proxy, so it is not ready yet when it is first looked at.
        container["readinessProbe"]["periodSeconds"] = 1.into();
    }
    if proxy.native_sidecar {
        container["restartPolicy"] = "Always".into();
    } else if proxy.wait_before_exit_seconds > 0 {
        hooks.insert("preStop".into(), json!({"sleep": {"seconds": proxy.wait_before_exit_seconds}}));
    }
    if !hooks.is_empty() {
        container["lifecycle"] = hooks.into();
    }
    if beside_an_app {
        without_api_token(&mut container);
    }
    if matches!(mesh.place, Place::ControlPlane(_))
        && let Some(mounts) = container["volumeMounts"].as_array_mut()
    {
        mounts.push(json!({"name": names::BUNDLE_VOLUME, "mountPath": names::BUNDLE_DIR, "readOnly": true}));
    }
    container
}

/// Kubernetes mounts the app's API token into every container that has nothing there yet. Ours have no use for it, and whoever took one over
/// would: so they have an empty folder there.
pub(super) fn without_api_token(container: &mut Value) {
    let empty = json!({"name": END_ENTITY_VOLUME, "mountPath": API_TOKEN_DIR, "readOnly": true});
    match &mut container["volumeMounts"] {
        Value::Array(mounts) => mounts.push(empty),
        none => *none = json!([empty]),
    }
}

pub(super) fn volumes() -> [Value; 2] {
    [
        json!({"name": END_ENTITY_VOLUME, "emptyDir": {"medium": "Memory"}}),
        json!({"name": TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": {
            "audience": names::TOKEN_AUDIENCE,
            "expirationSeconds": TOKEN_SECONDS,
            "path": TOKEN_VOLUME,
        }}]}}),
    ]
}

/// The variables, in an order in which each can use those before it.
struct Environment(Vec<Value>);

impl Environment {
    fn field(&mut self, name: &str, path: &str) {
        // With the version that Kubernetes would fill in: else a server-side apply after a client-side one conflicts with it.
        self.0.push(json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}));
    }

    fn raw(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(json!({"name": name, "value": value.into()}));
    }

    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.raw(&format!("LINKERD2_PROXY_{name}"), value);
    }
}

fn environment(mesh: &Mesh<'_>, effective: &Effective, wish: Wish, ports: &AppPorts) -> Vec<Value> {
    let values = &effective.values;
    let proxy = &values.proxy;
    let namespace = mesh.control_namespace;
    let domain = &values.cluster_domain;
    let role = match mesh.place {
        Place::ControlPlane(role) => Some(role),
        Place::App { .. } => None,
    };
    // A role's own proxy reaches it in the pod; the others through their Services.
    let address = |of: Role, service: &str, port: u16| {
        if role == Some(of) {
            format!("localhost.:{port}")
        } else {
            format!("{service}.{namespace}.svc.{domain}.:{port}")
        }
    };
    let identity_of =
        |account: &str| format!("{account}.{namespace}.serviceaccount.identity.{namespace}.{}", values.trust_domain());
    let any = if values.disable_ipv6 { "0.0.0.0" } else { "[::]" };

    let mut env = Environment(Vec::new());
    env.field("_pod_name", "metadata.name");
    env.field("_pod_ns", "metadata.namespace");
    env.field("_pod_uid", "metadata.uid");
    env.field("_pod_ip", "status.podIP");
    env.field("_pod_nodeName", "spec.nodeName");
    env.raw("_pod_containerName", names::PROXY_CONTAINER);
    env.field("_pod_sa", "spec.serviceAccountName");
    env.raw("_l5d_ns", namespace);
    env.raw("_l5d_trustdomain", values.trust_domain());

    let cores_max = proxy.resources.cpu.limit.as_deref().and_then(whole_cores);
    env.set("CORES", cores_max.unwrap_or(1).to_string());
    env.set("CORES_MIN", "1");
    if let Some(cores) = cores_max {
        env.set("CORES_MAX", cores.to_string());
    }
    if !proxy.require_identity_on_inbound_ports.is_empty() {
        env.set("INBOUND_PORTS_REQUIRE_IDENTITY", &proxy.require_identity_on_inbound_ports);
    }
    if role == Some(Role::Identity) {
        // Tokens are sent to that port: never in plaintext. The clients cannot have certificates yet.
        env.set("INBOUND_PORTS_REQUIRE_TLS", names::IDENTITY_PORT.to_string());
    }
    env.set("SHUTDOWN_ENDPOINT_ENABLED", proxy.enable_shutdown_endpoint.to_string());
    if !proxy.native_sidecar {
        // It is told to end together with its app, which may have things to finish.
        env.raw("HAWSER_PROXY_OUTLASTS_APP", "true");
    }
    env.set("LOG", &proxy.log_level);
    env.set("LOG_FORMAT", &proxy.log_format);
    env.set("DESTINATION_SVC_ADDR", address(Role::Destination, names::DESTINATION, names::DESTINATION_PORT));
    env.set("DESTINATION_PROFILE_NETWORKS", &values.cluster_networks);
    env.set("POLICY_SVC_ADDR", address(Role::Destination, names::POLICY, names::POLICY_PORT));
    env.set("POLICY_WORKLOAD", "{\"ns\":\"$(_pod_ns)\", \"pod\":\"$(_pod_name)\"}\n");
    env.set("INBOUND_DEFAULT_POLICY", &proxy.default_inbound_policy);
    env.set("POLICY_CLUSTER_NETWORKS", &values.cluster_networks);
    env.set("CONTROL_STREAM_INITIAL_TIMEOUT", "3s");
    env.set("CONTROL_STREAM_IDLE_TIMEOUT", "5m");
    env.set("CONTROL_STREAM_LIFETIME", "1h");
    env.set("INBOUND_CONNECT_TIMEOUT", &proxy.inbound_connect_timeout);
    env.set("OUTBOUND_CONNECT_TIMEOUT", &proxy.outbound_connect_timeout);
    env.set("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", &proxy.outbound_discovery_cache_unused_timeout);
    env.set("INBOUND_DISCOVERY_IDLE_TIMEOUT", &proxy.inbound_discovery_cache_unused_timeout);
    if proxy.disable_outbound_protocol_detect_timeout {
        env.set("OUTBOUND_DETECT_TIMEOUT", "365d");
    }
    if proxy.disable_inbound_protocol_detect_timeout {
        env.set("INBOUND_DETECT_TIMEOUT", "365d");
    }
    env.set("CONTROL_LISTEN_ADDR", format!("{any}:{}", proxy.ports.control));
    env.set("ADMIN_LISTEN_ADDR", format!("{any}:{}", proxy.ports.admin));
    let outbound = proxy.ports.outbound;
    env.set("OUTBOUND_LISTEN_ADDR", format!("127.0.0.1:{outbound}"));
    let second = if values.disable_ipv6 { String::new() } else { format!(",[::1]:{outbound}") };
    env.set("OUTBOUND_LISTEN_ADDRS", format!("127.0.0.1:{outbound}{second}"));
    env.set("INBOUND_LISTEN_ADDR", format!("{any}:{}", proxy.ports.inbound));
    env.field("LINKERD2_PROXY_INBOUND_IPS", "status.podIPs");
    let declared = || ports.tcp.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    env.set("INBOUND_PORTS", effective.inbound_ports.clone().unwrap_or_else(declared));
    if effective.gateway {
        env.set("INBOUND_GATEWAY_SUFFIXES", format!("svc.{domain}."));
    }
    if wish == Wish::Ingress {
        env.set("INGRESS_MODE", "true");
    }
    let suffixes = if proxy.enable_external_profiles { ".".into() } else { format!("svc.{domain}.") };
    env.set("DESTINATION_PROFILE_SUFFIXES", suffixes);
    env.set("INBOUND_ACCEPT_KEEPALIVE", "10000ms");
    env.set("OUTBOUND_CONNECT_KEEPALIVE", "10000ms");
    env.set("INBOUND_ACCEPT_USER_TIMEOUT", "30s");
    env.set("OUTBOUND_CONNECT_USER_TIMEOUT", "30s");
    env.set("OUTBOUND_METRICS_HOSTNAME_LABELS", proxy.outbound_metrics_hostname_labels.to_string());
    env.set("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "10s");
    env.set("INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "3s");
    env.set("OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "10s");
    env.set("OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "3s");
    env.set("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", effective.opaque_ports.to_string());
    env.set(
        "DESTINATION_CONTEXT",
        "{\"ns\":\"$(_pod_ns)\", \"nodeName\":\"$(_pod_nodeName)\", \"pod\":\"$(_pod_name)\"}\n",
    );
    env.set("IDENTITY_DIR", END_ENTITY_DIR);
    match mesh.place {
        Place::App { bundle } => env.set("IDENTITY_TRUST_ANCHORS", bundle),
        Place::ControlPlane(role) => {
            env.raw("HAWSER_TRUST_BUNDLE_FILE", names::BUNDLE_FILE);
            if role == Role::Identity {
                env.raw("HAWSER_INBOUND_TELL_CLIENT_IP", "true");
            }
        }
    }
    env.set("IDENTITY_TOKEN_FILE", format!("{TOKEN_DIR}/{TOKEN_VOLUME}"));
    env.set("IDENTITY_SVC_ADDR", address(Role::Identity, names::IDENTITY, names::IDENTITY_PORT));
    env.set(
        "IDENTITY_LOCAL_NAME",
        format!("$(_pod_sa).$(_pod_ns).serviceaccount.identity.{namespace}.{}", values.trust_domain()),
    );
    if proxy.connections_end_with_certificates {
        env.raw("HAWSER_CONNECTIONS_END_WITH_CERTIFICATES", "true");
    }
    env.set("IDENTITY_SVC_NAME", identity_of(names::IDENTITY));
    env.set("DESTINATION_SVC_NAME", identity_of(names::DESTINATION));
    env.set("POLICY_SVC_NAME", identity_of(names::DESTINATION));
    if let Some(format) = &proxy.access_log {
        env.set("ACCESS_LOG", format);
    }
    if let Some(period) = &proxy.shutdown_grace_period {
        env.set("SHUTDOWN_GRACE_PERIOD", period);
    }
    env.0.extend(proxy.additional_env.iter().cloned());
    env.0
}

/// `1500m` as the two cores it takes.
fn whole_cores(limit: &str) -> Option<u64> {
    match limit.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<u64>().ok().map(|thousandths| thousandths.div_ceil(1000)),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded just before")]
        None => {
            limit.parse::<f64>().ok().filter(|cores| (0.0..10_000.0).contains(cores)).map(|cores| cores.ceil() as u64)
        }
    }
    .filter(|cores| *cores > 0)
}
