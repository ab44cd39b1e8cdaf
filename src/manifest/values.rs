//! What can be chosen about an installation, and how people say so: files, and `--set a.b=c`.
//!
//! The names are those of Linkerd's chart where the meaning is the same. Later choices win: defaults, then `--ha`, then flags, then files,
//! then `--set`. No value is a secret: what is effective ends up in the ConfigMap `hawser-config`, for the injector and
//! the command line.
//!
//! Start at [`Values`]; [`Values::layer`] is how files and `--set` come in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::inject::settings;
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
    pub issuer: Issuer,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Issuer {
    /// How long leaves are valid.
    pub issuance_lifetime: String,
    pub clock_skew_allowance: String,
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
        Self { issuance_lifetime: "24h".into(), clock_skew_allowance: "20s".into() }
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

/// Where people choose the keys themselves, so that any is fine.
const FREE: [&str; 3] = ["nodeSelector", "podLabels", "podAnnotations"];

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

    /// Lays `tree` over these values.
    ///
    /// # Errors
    /// Where it has a key that does not exist, or a value of the wrong kind.
    pub fn layer(&self, tree: &Value) -> Result<Self, Invalid> {
        let mut known = to_tree(self);
        check_keys(tree, &known, &mut Vec::new())?;
        merge(&mut known, tree);
        serde_json::from_value(known).map_err(|error| self.culprit(tree, &error))
    }

    /// Lays the one document of a values file over these values; an empty file changes nothing.
    ///
    /// # Errors
    /// As [`Values::layer`], or where the text is no YAML mapping.
    pub fn layer_file(&self, text: &str, name: &str) -> Result<Self, Invalid> {
        let mut values = self.clone();
        for document in yaml::parse(text)? {
            if !document.is_object() {
                return Err(Invalid::NotAMapping(name.into()));
            }
            values = values.layer(&document)?;
        }
        Ok(values)
    }

    /// Applies one `--set`: `a.b=c`, or several with commas between them. A comma that does not start another assignment is
    /// part of the value, so that lists of ports need no escapes.
    ///
    /// # Errors
    /// As [`Values::layer`].
    pub fn assign(&self, assignments: &str) -> Result<Self, Invalid> {
        let mut values = self.clone();
        for (path, text) in split_assignments(assignments)? {
            let outcome = values.layer(&nest(&path, typed(&text)));
            values = match outcome {
                // `--set image=1.0` is a text all the same.
                Err(Invalid::Value { .. }) => values.layer(&nest(&path, Value::String(text))).or(outcome)?,
                outcome => outcome?,
            };
        }
        Ok(values)
    }

    /// Checks what types cannot say: durations, networks, ports, names.
    ///
    /// # Errors
    /// The first value that would make an installation fail later.
    pub fn validate(&self) -> Result<(), Invalid> {
        let refuse =
            |path: &str, value: &str, why: String| Err(Invalid::Value { path: path.into(), value: value.into(), why });
        let domains = [("clusterDomain", &self.cluster_domain)]
            .into_iter()
            .chain(self.identity_trust_domain.as_ref().map(|domain| ("identityTrustDomain", domain)));
        for (path, domain) in domains {
            if domain.parse::<crate::mesh::Identity>().is_err() || domain.to_lowercase() != *domain {
                return refuse(path, domain, "it is no DNS name in lower case".into());
            }
        }
        for network in self.cluster_networks.split(',') {
            if network.trim().parse::<ipnet::IpNet>().is_err() {
                return refuse(
                    "clusterNetworks",
                    &self.cluster_networks,
                    format!("{network:?} is no network such as 10.0.0.0/8"),
                );
            }
        }
        if self.controller_replicas == 0 {
            return refuse("controllerReplicas", "0", "a mesh without control plane can take no new pods".into());
        }
        if self.image.trim().is_empty() {
            return refuse("image", "", "it is empty".into());
        }
        if !(1..=30).contains(&self.proxy_injector.timeout_seconds) {
            let value = self.proxy_injector.timeout_seconds.to_string();
            return refuse("proxyInjector.timeoutSeconds", &value, "Kubernetes takes 1 to 30".into());
        }
        // The other texts are what annotations can set too, and are checked the same way.
        let proxy = &self.proxy;
        let texts = [
            ("proxy.logFormat", "proxy-log-format", &proxy.log_format),
            ("controllerLogFormat", "proxy-log-format", &self.controller_log_format),
            ("proxy.defaultInboundPolicy", "default-inbound-policy", &proxy.default_inbound_policy),
            ("proxy.opaquePorts", "opaque-ports", &proxy.opaque_ports),
            (
                "proxy.requireIdentityOnInboundPorts",
                "proxy-require-identity-inbound-ports",
                &proxy.require_identity_on_inbound_ports,
            ),
            ("proxy.outboundConnectTimeout", "proxy-outbound-connect-timeout", &proxy.outbound_connect_timeout),
            ("proxy.inboundConnectTimeout", "proxy-inbound-connect-timeout", &proxy.inbound_connect_timeout),
            (
                "proxy.outboundDiscoveryCacheUnusedTimeout",
                "proxy-outbound-discovery-cache-unused-timeout",
                &proxy.outbound_discovery_cache_unused_timeout,
            ),
            (
                "proxy.inboundDiscoveryCacheUnusedTimeout",
                "proxy-inbound-discovery-cache-unused-timeout",
                &proxy.inbound_discovery_cache_unused_timeout,
            ),
            ("proxyInit.ignoreInboundPorts", "skip-inbound-ports", &self.proxy_init.ignore_inbound_ports),
            ("proxyInit.ignoreOutboundPorts", "skip-outbound-ports", &self.proxy_init.ignore_outbound_ports),
            ("proxyInit.kubeAPIServerPorts", "skip-outbound-ports", &self.proxy_init.kube_api_server_ports),
            ("proxyInit.skipSubnets", "skip-subnets", &self.proxy_init.skip_subnets),
            ("identity.issuer.issuanceLifetime", "shutdown-grace-period", &self.identity.issuer.issuance_lifetime),
            ("identity.issuer.clockSkewAllowance", "shutdown-grace-period", &self.identity.issuer.clock_skew_allowance),
        ];
        let optional = [
            ("proxy.shutdownGracePeriod", "shutdown-grace-period", &proxy.shutdown_grace_period),
            ("proxy.accessLog", "access-log", &proxy.access_log),
        ]
        .into_iter()
        .filter_map(|(path, setting, value)| Some((path, setting, value.as_ref()?)));
        let mut amounts = Vec::new();
        for (path, resources) in [
            ("proxy.resources", &proxy.resources),
            ("identityResources", &self.identity_resources),
            ("destinationResources", &self.destination_resources),
            ("proxyInjectorResources", &self.proxy_injector_resources),
        ] {
            for (kind, amount) in [
                ("cpu", &resources.cpu),
                ("memory", &resources.memory),
                ("ephemeral-storage", &resources.ephemeral_storage),
            ] {
                for (end, value) in [("request", &amount.request), ("limit", &amount.limit)] {
                    amounts.extend(
                        value
                            .as_ref()
                            .filter(|value| !value.is_empty())
                            .map(|value| (format!("{path}.{kind}.{end}"), value)),
                    );
                }
            }
        }
        let mut unused = self.clone();
        let amounts = amounts.iter().map(|(path, value)| (path.as_str(), "proxy-cpu-limit", *value));
        for (path, setting, value) in texts.into_iter().chain(optional).chain(amounts) {
            if let Err(why) = settings::apply(&mut unused, setting, value) {
                return refuse(path, value, why);
            }
        }
        let ports = [proxy.ports.inbound, proxy.ports.outbound, proxy.ports.control, proxy.ports.admin];
        if ports.contains(&0) || (1..ports.len()).any(|at| ports[..at].contains(&ports[at])) {
            return refuse("proxy.ports", &format!("{ports:?}"), "they must differ from each other and from 0".into());
        }
        if proxy.uid == 0 {
            return refuse(
                "proxy.uid",
                "0",
                "the proxy must not be root: its own connections are told apart by its user".into(),
            );
        }
        Ok(())
    }

    /// Reads the values of an installation, which another version may have written: what this version does not know, it leaves out.
    ///
    /// # Errors
    /// Where the text is no YAML mapping.
    pub fn read(text: &str) -> Result<Self, Invalid> {
        let known = to_tree(&Self::default());
        let mut values = Self::default();
        for document in yaml::parse(text)? {
            let Value::Object(map) = document else {
                return Err(Invalid::NotAMapping("the installation's configuration".into()));
            };
            for (path, value) in leaves(&Value::Object(map)) {
                if check_keys(&nest(&path, value.clone()), &known, &mut Vec::new()).is_ok()
                    && let Ok(layered) = values.layer(&nest(&path, value))
                {
                    values = layered;
                }
            }
        }
        Ok(values)
    }

    pub fn to_yaml(&self) -> String {
        yaml::write(&[to_tree(self)])
    }

    /// Which leaf of `tree` is at fault: the one that cannot even stand alone.
    fn culprit(&self, tree: &Value, error: &serde_json::Error) -> Invalid {
        for (path, value) in leaves(tree) {
            let mut known = to_tree(self);
            merge(&mut known, &nest(&path, value.clone()));
            if let Err(error) = serde_json::from_value::<Self>(known) {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                return Invalid::Value { path: path.join("."), value, why: error.to_string() };
            }
        }
        Invalid::Value { path: ".".into(), value: String::new(), why: error.to_string() }
    }
}

fn to_tree(values: &Values) -> Value {
    serde_json::to_value(values).expect("values have only text keys")
}

fn merge(known: &mut Value, tree: &Value) {
    match (known, tree) {
        (Value::Object(known), Value::Object(tree)) => {
            for (key, value) in tree {
                merge(known.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (known, tree) => *known = tree.clone(),
    }
}

fn check_keys(tree: &Value, known: &Value, path: &mut Vec<String>) -> Result<(), Invalid> {
    let (Value::Object(tree), Value::Object(known)) = (tree, known) else { return Ok(()) };
    if FREE.contains(&path.join(".").as_str()) {
        return Ok(());
    }
    for (key, value) in tree {
        path.push(key.clone());
        let Some(below) = known.get(key) else {
            let path = path.join(".");
            return Err(Invalid::Unknown { near: near(&path), path });
        };
        check_keys(value, below, path)?;
        path.pop();
    }
    Ok(())
}

/// The values that people may have meant by `path`, the nearest first.
fn near(path: &str) -> Vec<String> {
    // Of two names that are further apart than this, nobody mistypes one for the other.
    const DISTANCE_MAX: usize = 3;
    let known = to_tree(&Values::default());
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_lowercase();
    let mut near: Vec<(usize, String)> = paths(&known)
        .into_iter()
        .filter_map(|known| {
            let same_name = last(&known) == last(path);
            let distance = if same_name {
                0
            } else {
                distance(&known.to_lowercase(), &path.to_lowercase()).min(distance(&last(&known), &last(path)) + 1)
            };
            (distance <= DISTANCE_MAX.min(path.len() / 2)).then_some((distance, known))
        })
        .collect();
    near.sort();
    near.truncate(3);
    near.into_iter().map(|(_, path)| path).collect()
}

fn paths(tree: &Value) -> Vec<String> {
    let Value::Object(map) = tree else { return Vec::new() };
    map.iter()
        .flat_map(|(key, value)| {
            std::iter::once(key.clone()).chain(paths(value).into_iter().map(move |below| format!("{key}.{below}")))
        })
        .collect()
}

/// Levenshtein's distance between two words.
pub fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, r) in right.iter().enumerate() {
            let above = row[column + 1];
            row[column + 1] = (diagonal + usize::from(l != *r)).min(above + 1).min(row[column] + 1);
            diagonal = above;
        }
    }
    row[right.len()]
}

fn nest(path: &[String], value: Value) -> Value {
    path.iter().rev().fold(value, |value, key| json!({ key: value }))
}

/// The values of `tree` with their paths; what people choose the keys of is one value.
fn leaves(tree: &Value) -> Vec<(Vec<String>, Value)> {
    fn walk(tree: &Value, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, Value)>) {
        match tree {
            Value::Object(map) if !map.is_empty() && !FREE.contains(&path.join(".").as_str()) => {
                for (key, value) in map {
                    path.push(key.clone());
                    walk(value, path, found);
                    path.pop();
                }
            }
            value => found.push((path.clone(), value.clone())),
        }
    }
    let mut found = Vec::new();
    walk(tree, &mut Vec::new(), &mut found);
    found
}

/// What YAML makes of a value: `5` is a number, `[{operator: Exists}]` a list, and nothing at all unsets.
fn typed(text: &str) -> Value {
    match yaml::parse(text).as_deref() {
        Ok([value]) => value.clone(),
        Ok([]) if !text.starts_with('#') => Value::Null,
        _ => text.into(),
    }
}

fn split_assignments(text: &str) -> Result<Vec<(Vec<String>, String)>, Invalid> {
    let invalid = || Invalid::Assignment(text.into());
    let mut found: Vec<(Vec<String>, String)> = Vec::new();
    let is_path = |path: &str| {
        !path.is_empty()
            && path.chars().all(|c| c.is_ascii_alphanumeric() || "._-/\\".contains(c))
            && !path.starts_with('.')
    };
    for piece in text.split(',') {
        match piece.split_once('=') {
            Some((path, value)) if is_path(path.trim()) => found.push((split_path(path.trim()), value.into())),
            _ => {
                let (_, value) = found.last_mut().ok_or_else(invalid)?;
                value.push(',');
                value.push_str(piece);
            }
        }
    }
    Ok(found)
}

/// `a.b` as its names; `\.` is a dot in a name, as in `nodeSelector.kubernetes\.io/os`.
fn split_path(path: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '.' => names.push(String::new()),
            c => {
                let c = if c == '\\' { chars.next().unwrap_or(c) } else { c };
                names.last_mut().expect("there is always one").push(c);
            }
        }
    }
    names
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_layers_win_and_leave_the_rest() {
        let values = Values::default()
            .layer_file("proxy:\n  logLevel: debug\n  resources: {cpu: {limit: \"1\"}}\ncontrollerReplicas: 2\n", "a")
            .unwrap()
            .assign("controllerReplicas=5,proxy.opaquePorts=25,587,proxy.await=false")
            .unwrap();
        assert_eq!(values.controller_replicas, 5);
        assert_eq!(values.proxy.opaque_ports, "25,587");
        assert!(!values.proxy.await_ready);
        assert_eq!(values.proxy.log_level, "debug");
        assert_eq!(values.proxy.resources.to_requirements(), json!({"limits": {"cpu": "1"}}));
        assert_eq!(values.proxy.ports, Ports::default());
    }

    #[test]
    fn a_number_can_be_meant_as_text() {
        let values = Values::default().assign("image=1.0").unwrap().assign("proxy.resources.cpu.limit=2").unwrap();
        assert_eq!((values.image.as_str(), values.proxy.resources.cpu.limit.as_deref()), ("1.0", Some("2")));
    }

    #[test]
    fn lists_and_free_maps_can_be_set() {
        let values = Values::default()
            .assign("tolerations=[{operator: Exists}]")
            .unwrap()
            .assign("nodeSelector.example\\.com/pool=mesh")
            .unwrap();
        assert_eq!(values.tolerations, [json!({"operator": "Exists"})]);
        assert_eq!(values.node_selector["example.com/pool"], "mesh");
    }

    #[test]
    fn nothing_unsets_and_what_is_no_yaml_is_text() {
        let domain = |text: &str| {
            let set = Values::default().assign("identityTrustDomain=a.b").unwrap();
            set.assign(&format!("identityTrustDomain={text}")).unwrap().identity_trust_domain
        };
        assert_eq!((domain(""), domain("null")), (None, None));
        for text in ["#x", "[", "a: b", "yes"] {
            assert_eq!(domain(text).as_deref(), Some(text));
        }
    }

    #[test]
    fn refuses_an_unknown_key_and_names_the_near_ones() {
        let said = |assignment: &str| Values::default().assign(assignment).unwrap_err().to_string();
        assert_eq!(said("proxy.loglevel=x"), "unknown value `proxy.loglevel`; did you mean `proxy.logLevel`?");
        assert_eq!(
            said("controlerReplicas=3"),
            "unknown value `controlerReplicas`; did you mean `controllerReplicas`?"
        );
        assert_eq!(said("entirelyOther.thing=3"), "unknown value `entirelyOther`");
    }

    #[test]
    fn refuses_a_value_of_the_wrong_kind_with_its_path() {
        let refused = Values::default().layer_file("image: a\nproxy: {uid: many}\n", "a").unwrap_err().to_string();
        assert!(refused.starts_with("the value `proxy.uid` cannot be `many`: invalid type: string"), "{refused}");
        let refused = Values::default().assign("webhookFailurePolicy=Never").unwrap_err().to_string();
        assert!(refused.contains("expected `Fail` or `Ignore`"), "{refused}");
        let refused = Values::default().assign("proxy=3").unwrap_err().to_string();
        assert!(refused.starts_with("the value `proxy` cannot be `3`"), "{refused}");
    }

    #[test]
    fn refuses_what_is_no_assignment_and_no_mapping() {
        for text in ["", "image", "=x", ".a=b"] {
            assert!(matches!(Values::default().assign(text), Err(Invalid::Assignment(_))), "{text:?}");
        }
        assert!(matches!(Values::default().layer_file("- a\n", "a"), Err(Invalid::NotAMapping(_))));
    }

    #[test]
    fn reads_what_another_version_wrote() {
        let text = "image: x:1\nfromTheFuture: {a: 1}\nproxy: {uid: not-a-number, logLevel: debug}\n";
        let values = Values::read(text).unwrap();
        assert_eq!((values.image.as_str(), values.proxy.uid, values.proxy.log_level.as_str()), ("x:1", 2102, "debug"));
    }

    #[test]
    fn refuses_what_would_fail_later() {
        assert!(Values::default().validate().is_ok());
        for wrong in [
            "identityTrustDomain=a_b",
            "clusterDomain=",
            "clusterNetworks=10.0.0.0/33",
            "controllerReplicas=0",
            "image=",
            "proxy.defaultInboundPolicy=dney",
            "proxy.opaquePorts=http",
            "proxy.resources.cpu.limit=lots",
            "proxy.ports.inbound=4140",
            "proxy.uid=0",
            "identity.issuer.issuanceLifetime=soon",
            "proxyInit.skipSubnets=x",
            "proxyInjector.timeoutSeconds=31",
        ] {
            let refused = Values::default().assign(wrong).unwrap().validate().unwrap_err().to_string();
            let path = wrong.split('=').next().unwrap().trim_end_matches(".inbound");
            assert!(refused.starts_with(&format!("the value `{path}` cannot be")), "{wrong}: {refused}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        let mut values = Values::default();
        values.make_highly_available();
        assert_eq!(Values::read(&values.to_yaml()).unwrap(), values);
    }
}
