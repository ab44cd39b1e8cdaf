//! What can be chosen about an installation, and how people say so: files, and `--set a.b=c`.
//!
//! The names are those of Linkerd's chart where the meaning is the same. Later choices win: defaults, then `--ha`, then flags, then files,
//! then `--set`. No value is a secret: what is effective ends up in the ConfigMap `hawser-config`, for the injector and
//! the command line.
//!
//! Start at [`Values`]; layers.rs is how files and `--set` come in, validate.rs what they may not say.

mod layers;
mod validate;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::yaml;

/// Everything that can be chosen about an installation.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Values {
    /// The image of all roles, the proxy and init.
    pub image: String,
    pub image_pull_policy: PullPolicy,
    pub image_pull_secrets: Vec<Value>,
    pub cluster_domain: String,
    /// The cluster's domain, if unset.
    pub identity_trust_domain: Option<String>,
    /// The trust anchors of an issuer that was brought; where the identity role makes its own, it publishes them itself.
    #[serde(rename = "identityTrustAnchorsPEM")]
    pub identity_trust_anchors_pem: Option<String>,
    /// The networks in which services of this cluster can be.
    pub cluster_networks: String,
    /// Leaves IPv6 alone, which then passes by the mesh: only where nothing has an IPv6 address.
    #[serde(rename = "disableIPv6")]
    pub disable_ipv6: bool,
    pub high_availability: bool,
    pub controller_replicas: u32,
    pub controller_log_level: String,
    pub controller_log_format: String,
    #[serde(rename = "controllerUID")]
    pub controller_uid: u32,
    pub enable_pod_anti_affinity: bool,
    pub enable_pod_disruption_budget: bool,
    pub webhook_failure_policy: FailurePolicy,
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Value>,
    pub priority_class_name: Option<String>,
    pub pod_labels: BTreeMap<String, String>,
    pub pod_annotations: BTreeMap<String, String>,
    pub identity_resources: Resources,
    pub destination_resources: Resources,
    pub proxy_injector_resources: Resources,
    pub identity: Identity,
    pub proxy: Proxy,
    pub proxy_init: ProxyInit,
    pub proxy_injector: ProxyInjector,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum FailurePolicy {
    Fail,
    Ignore,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    pub cpu: Amount,
    pub memory: Amount,
    #[serde(rename = "ephemeral-storage")]
    pub ephemeral_storage: Amount,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Amount {
    pub request: Option<String>,
    pub limit: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Identity {
    /// Whether pods may prove themselves by a token for the API server, where they have none for the mesh.
    pub accept_api_server_tokens: bool,
    pub anchor: Anchor,
    pub issuer: Issuer,
}

/// Trust anchors, as the identity role makes them; one that was brought lives as long as it says.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Anchor {
    pub lifetime: String,
    /// How long before its end its replacement begins.
    pub rotate_before: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Issuer {
    /// How long leaves are valid.
    pub issuance_lifetime: String,
    pub clock_skew_allowance: String,
    /// How long issuers are valid that the identity role makes.
    pub lifetime: String,
    /// How long before its end one is replaced.
    pub renew_before: String,
    /// Whether somebody else makes and renews the issuer.
    pub external: bool,
}

/// The proxy beside each app; a pod or namespace can choose otherwise by `config.linkerd.io/…`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Proxy {
    pub image: ProxyImage,
    pub log_level: String,
    pub log_format: String,
    pub ports: Ports,
    pub uid: u32,
    /// No group of its own, if unset or negative.
    pub gid: Option<i64>,
    pub resources: Resources,
    pub default_inbound_policy: String,
    /// Ports that are carried without being looked at, by number or range.
    pub opaque_ports: String,
    pub require_identity_on_inbound_ports: String,
    /// Whether the app waits for the proxy to be ready.
    #[serde(rename = "await")]
    pub await_ready: bool,
    pub native_sidecar: bool,
    pub wait_before_exit_seconds: u32,
    pub enable_shutdown_endpoint: bool,
    pub shutdown_grace_period: Option<String>,
    pub access_log: Option<String>,
    pub enable_external_profiles: bool,
    pub outbound_connect_timeout: String,
    pub inbound_connect_timeout: String,
    pub outbound_discovery_cache_unused_timeout: String,
    pub inbound_discovery_cache_unused_timeout: String,
    pub disable_outbound_protocol_detect_timeout: bool,
    pub disable_inbound_protocol_detect_timeout: bool,
    pub outbound_metrics_hostname_labels: bool,
    /// Whether connections of the mesh end when a certificate does that they were made with.
    pub connections_end_with_certificates: bool,
    /// More environment variables, as in a container.
    pub additional_env: Vec<Value>,
}

/// The mesh's own image, where unset: any proxy of the same contract can take its place.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProxyImage {
    pub name: Option<String>,
    pub version: Option<String>,
    pub pull_policy: Option<PullPolicy>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ports {
    pub inbound: u16,
    pub outbound: u16,
    pub control: u16,
    pub admin: u16,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProxyInit {
    pub ignore_inbound_ports: String,
    pub ignore_outbound_ports: String,
    /// What the pods of the control plane reach past their proxies.
    #[serde(rename = "kubeAPIServerPorts")]
    pub kube_api_server_ports: String,
    pub skip_subnets: String,
    pub close_wait_timeout_secs: u32,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProxyInjector {
    pub timeout_seconds: u32,
}

impl Default for Values {
    fn default() -> Self {
        Self {
            image: concat!("hawser:", env!("CARGO_PKG_VERSION")).into(),
            image_pull_policy: PullPolicy::IfNotPresent,
            image_pull_secrets: Vec::new(),
            cluster_domain: "cluster.local".into(),
            identity_trust_domain: None,
            identity_trust_anchors_pem: None,
            cluster_networks: "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8".into(),
            disable_ipv6: false,
            high_availability: false,
            controller_replicas: 1,
            controller_log_level: "warn,hawser=info".into(),
            controller_log_format: "plain".into(),
            controller_uid: super::names::CONTROL_UID,
            enable_pod_anti_affinity: false,
            enable_pod_disruption_budget: false,
            webhook_failure_policy: FailurePolicy::Ignore,
            node_selector: BTreeMap::from([("kubernetes.io/os".into(), "linux".into())]),
            tolerations: Vec::new(),
            priority_class_name: None,
            pod_labels: BTreeMap::new(),
            pod_annotations: BTreeMap::new(),
            identity_resources: Resources::default(),
            destination_resources: Resources::default(),
            proxy_injector_resources: Resources::default(),
            identity: Identity::default(),
            proxy: Proxy::default(),
            proxy_init: ProxyInit::default(),
            proxy_injector: ProxyInjector { timeout_seconds: 10 },
        }
    }
}

impl Default for Issuer {
    fn default() -> Self {
        Self {
            issuance_lifetime: "24h".into(),
            clock_skew_allowance: "20s".into(),
            lifetime: "90d".into(),
            renew_before: "30d".into(),
            external: false,
        }
    }
}

impl Default for Anchor {
    fn default() -> Self {
        Self { lifetime: "3652d".into(), rotate_before: "730d".into() }
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            image: ProxyImage::default(),
            log_level: "warn,linkerd=info,hawser=info".into(),
            log_format: "plain".into(),
            ports: Ports::default(),
            uid: super::names::PROXY_UID,
            gid: None,
            resources: Resources::default(),
            default_inbound_policy: "all-unauthenticated".into(),
            opaque_ports: "25,587,3306,4444,5432,6379,9300,11211".into(),
            require_identity_on_inbound_ports: String::new(),
            await_ready: true,
            native_sidecar: true,
            wait_before_exit_seconds: 0,
            enable_shutdown_endpoint: false,
            shutdown_grace_period: None,
            access_log: None,
            enable_external_profiles: false,
            outbound_connect_timeout: "1000ms".into(),
            inbound_connect_timeout: "100ms".into(),
            outbound_discovery_cache_unused_timeout: "5s".into(),
            inbound_discovery_cache_unused_timeout: "90s".into(),
            disable_outbound_protocol_detect_timeout: false,
            disable_inbound_protocol_detect_timeout: false,
            outbound_metrics_hostname_labels: false,
            connections_end_with_certificates: false,
            additional_env: Vec::new(),
        }
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            inbound: super::names::INBOUND_PORT,
            outbound: super::names::OUTBOUND_PORT,
            control: super::names::TAP_PORT,
            admin: super::names::ADMIN_PORT,
        }
    }
}

impl Default for ProxyInit {
    fn default() -> Self {
        Self {
            ignore_inbound_ports: "4567,4568".into(),
            ignore_outbound_ports: "4567,4568".into(),
            kube_api_server_ports: "443,6443".into(),
            skip_subnets: String::new(),
            close_wait_timeout_secs: 0,
        }
    }
}

impl Default for ProxyInjector {
    fn default() -> Self {
        Values::default().proxy_injector
    }
}

/// Why values cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("unknown value `{path}`{}", did_you_mean(.near))]
    Unknown { path: String, near: Vec<String> },
    #[error("the value `{path}` cannot be `{value}`: {why}")]
    Value { path: String, value: String, why: String },
    #[error("{0} is no mapping of values")]
    NotAMapping(String),
    #[error("`{0}` is not of the form `name.name=value`")]
    Assignment(String),
    #[error(transparent)]
    Yaml(#[from] yaml::Invalid),
}

fn did_you_mean(near: &[String]) -> String {
    match near {
        [] => String::new(),
        near => format!("; did you mean `{}`?", near.join("` or `")),
    }
}

impl Values {
    /// What `--ha` stands for.
    pub fn make_highly_available(&mut self) {
        let amounts = |cpu: &str, memory: &str| Resources {
            cpu: Amount { request: Some(cpu.into()), limit: None },
            memory: Amount { request: Some(memory.into()), limit: Some("250Mi".into()) },
            ephemeral_storage: Amount::default(),
        };
        self.high_availability = true;
        self.controller_replicas = 3;
        self.enable_pod_anti_affinity = true;
        self.enable_pod_disruption_budget = true;
        self.identity_resources = amounts("100m", "20Mi");
        self.destination_resources = amounts("100m", "50Mi");
        self.proxy_injector_resources = amounts("100m", "50Mi");
        self.proxy.resources = amounts("100m", "20Mi");
    }

    pub fn trust_domain(&self) -> &str {
        self.identity_trust_domain.as_deref().unwrap_or(&self.cluster_domain)
    }
}

/// Resource requirements as a container has them; empty where nothing is set.
impl Resources {
    pub fn to_requirements(&self) -> Value {
        let mut requirements = Map::new();
        for (kind, of) in
            [("limits", (|a: &Amount| a.limit.clone()) as fn(&Amount) -> _), ("requests", |a| a.request.clone())]
        {
            let mut amounts = Map::new();
            for (name, amount) in
                [("cpu", &self.cpu), ("memory", &self.memory), ("ephemeral-storage", &self.ephemeral_storage)]
            {
                if let Some(amount) = of(amount).filter(|amount| !amount.is_empty()) {
                    amounts.insert(name.into(), amount.into());
                }
            }
            if !amounts.is_empty() {
                requirements.insert(kind.into(), amounts.into());
            }
        }
        requirements.into()
    }
}
