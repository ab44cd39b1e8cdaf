//! What `config.linkerd.io/…` annotations change about one pod's proxy.
//!
//! In: the installation's values and a pod's annotations (the namespace's are already among them). Out: the values for this pod, and
//! warnings. A setting that cannot be understood is left out, for a pod without its proxy would be worse than one with the usual proxy; but
//! where it was to keep somebody out, everybody is kept out until it is right.
//!
//! Start at [`effective`]; [`apply`] is the list of what can be set, which the flags of `install` and `inject` go through too.

use super::Annotations;
use super::sidecar::AppPorts;
use crate::manifest::names;
use crate::manifest::near::distance;
use crate::manifest::values::{PullPolicy, Values};
use crate::mesh::log_filter;
use crate::mesh::ports::PortSet;

/// The prefixes under which Linkerd has had settings.
const PREFIXES: [&str; 3] = [names::CONFIG_PREFIX, "config.beta.linkerd.io/", "config.alpha.linkerd.io/"];

/// Every setting a pod or namespace can have.
pub const SETTINGS: [&str; 44] = [
    "access-log",
    "admin-port",
    "close-wait-timeout",
    "control-port",
    "default-inbound-policy",
    "enable-debug-sidecar",
    "enable-external-profiles",
    "enable-gateway",
    "image-pull-policy",
    "inbound-port",
    "opaque-ports",
    "outbound-port",
    "pod-inbound-ports",
    "proxy-additional-env",
    "proxy-admin-shutdown",
    "proxy-await",
    "proxy-connections-end-with-certificates",
    "proxy-cpu-limit",
    "proxy-cpu-request",
    "proxy-disable-inbound-protocol-detect-timeout",
    "proxy-disable-outbound-protocol-detect-timeout",
    "proxy-enable-native-sidecar",
    "proxy-ephemeral-storage-limit",
    "proxy-ephemeral-storage-request",
    "proxy-gid",
    "proxy-image",
    "proxy-inbound-connect-timeout",
    "proxy-inbound-discovery-cache-unused-timeout",
    "proxy-log-format",
    "proxy-log-level",
    "proxy-memory-limit",
    "proxy-memory-request",
    "proxy-metrics-hostname-labels",
    "proxy-outbound-connect-timeout",
    "proxy-outbound-discovery-cache-unused-timeout",
    "proxy-require-identity-inbound-ports",
    "proxy-uid",
    "proxy-version",
    "proxy-wait-before-exit-seconds",
    "shutdown-grace-period",
    "skip-inbound-ports",
    "skip-outbound-ports",
    "skip-subnets",
    "proxy-log-http-headers",
];

/// Settings on which it depends who may come in.
const GUARDS: [&str; 2] = ["default-inbound-policy", "proxy-require-identity-inbound-ports"];

/// The ways to treat clients that no policy names.
pub const INBOUND_POLICIES: [&str; 6] =
    ["all-authenticated", "all-unauthenticated", "audit", "cluster-authenticated", "cluster-unauthenticated", "deny"];

/// The values for one pod.
#[derive(Debug)]
pub(super) struct Effective {
    pub(super) values: Values,
    pub(super) opaque_ports: PortSet,
    /// The ports the app listens on, where its containers do not say it.
    pub(super) inbound_ports: Option<String>,
    pub(super) gateway: bool,
}

/// The annotation of a setting.
pub fn key(setting: &str) -> String {
    format!("{}{setting}", names::CONFIG_PREFIX)
}

/// Whether a namespace's annotation is a setting for its pods.
pub fn is_setting(annotation: &str) -> bool {
    setting_of(annotation).is_some_and(|setting| SETTINGS.contains(&setting))
}

fn setting_of(annotation: &str) -> Option<&str> {
    PREFIXES.iter().find_map(|prefix| annotation.strip_prefix(prefix))
}

pub(super) fn effective(values: &Values, annotations: &Annotations, ports: &AppPorts) -> (Effective, Vec<String>) {
    let mut values = values.clone();
    let mut warnings = Vec::new();
    for (annotation, value) in annotations {
        let Some(setting) = setting_of(annotation) else { continue };
        let value = if setting == "opaque-ports" { &ports.resolve_names(value) } else { value };
        if let Err(why) = apply(&mut values, setting, value) {
            let then = if GUARDS.contains(&setting) {
                values.proxy.default_inbound_policy = "deny".into();
                "nobody may call this pod until it is right"
            } else {
                "it is left out"
            };
            warnings.push(format!("the annotation `{annotation}` is {value:?}: {why}; {then}"));
        }
    }
    let chosen = |setting: &str| annotations.get(&key(setting));
    // Values that people wrote by hand may be wrong too; `install` refuses those, so here they are just nothing.
    let opaque_ports = values.proxy.opaque_ports.parse().unwrap_or_default();
    let effective = Effective {
        opaque_ports,
        inbound_ports: chosen("pod-inbound-ports").filter(|ports| is_ports(ports).is_ok()).cloned(),
        gateway: chosen("enable-gateway").is_some_and(|value| value == "true"),
        values,
    };
    (effective, warnings)
}

/// Changes `values` as a setting says.
///
/// # Errors
/// What is wrong with the value, or that there is no such setting.
pub fn apply(values: &mut Values, setting: &str, value: &str) -> Result<(), String> {
    let value = value.trim();
    let text = || value.to_owned();
    let proxy = &mut values.proxy;
    match setting {
        "access-log" => proxy.access_log = Some(one_of(value, &["apache", "json"])?),
        "admin-port" => proxy.ports.admin = port(value)?,
        "control-port" => proxy.ports.control = port(value)?,
        "inbound-port" => proxy.ports.inbound = port(value)?,
        "outbound-port" => proxy.ports.outbound = port(value)?,
        "close-wait-timeout" => {
            let seconds = milliseconds(value)? / 1000;
            values.proxy_init.close_wait_timeout_secs = u32::try_from(seconds).map_err(|_| "it is too long")?;
        }
        "default-inbound-policy" => proxy.default_inbound_policy = one_of(value, &INBOUND_POLICIES)?,
        "enable-debug-sidecar" => {
            if boolean(value)? {
                return Err("there is no debug sidecar; `kubectl debug` attaches any image".into());
            }
        }
        "enable-external-profiles" => proxy.enable_external_profiles = boolean(value)?,
        "enable-gateway" => {
            boolean(value)?;
        }
        "image-pull-policy" => {
            proxy.image.pull_policy = Some(match value {
                "Always" => PullPolicy::Always,
                "IfNotPresent" => PullPolicy::IfNotPresent,
                "Never" => PullPolicy::Never,
                _ => return Err("it can be Always, IfNotPresent or Never".into()),
            });
        }
        "opaque-ports" => proxy.opaque_ports = is_ports(value)?,
        "pod-inbound-ports" => {
            is_ports(value)?;
        }
        "proxy-additional-env" => {
            let list: Vec<serde_json::Value> =
                serde_json::from_str(value).map_err(|error| format!("it is no JSON list of variables ({error})"))?;
            if !list.iter().all(|variable| variable.get("name").is_some_and(serde_json::Value::is_string)) {
                return Err("each variable needs a name".into());
            }
            // Those of the installation stay, unless they have the same name.
            proxy.additional_env.retain(|old| list.iter().all(|new| new["name"] != old["name"]));
            proxy.additional_env.extend(list);
        }
        "proxy-admin-shutdown" => proxy.enable_shutdown_endpoint = enabled(value)?,
        "proxy-await" => proxy.await_ready = enabled(value)?,
        "proxy-cpu-limit" => proxy.resources.cpu.limit = Some(quantity(value)?),
        "proxy-cpu-request" => proxy.resources.cpu.request = Some(quantity(value)?),
        "proxy-memory-limit" => proxy.resources.memory.limit = Some(quantity(value)?),
        "proxy-memory-request" => proxy.resources.memory.request = Some(quantity(value)?),
        "proxy-ephemeral-storage-limit" => proxy.resources.ephemeral_storage.limit = Some(quantity(value)?),
        "proxy-ephemeral-storage-request" => proxy.resources.ephemeral_storage.request = Some(quantity(value)?),
        "proxy-disable-inbound-protocol-detect-timeout" => {
            proxy.disable_inbound_protocol_detect_timeout = boolean(value)?
        }
        "proxy-disable-outbound-protocol-detect-timeout" => {
            proxy.disable_outbound_protocol_detect_timeout = boolean(value)?
        }
        "proxy-enable-native-sidecar" => proxy.native_sidecar = boolean(value)?,
        "proxy-gid" => proxy.gid = Some(value.parse().map_err(|_| "it is no group's number")?),
        "proxy-uid" => {
            proxy.uid = value
                .parse()
                .ok()
                .filter(|uid| *uid > 0)
                .ok_or("it is no user's number (and root would redirect itself)")?;
        }
        "proxy-image" => {
            if value.is_empty() {
                return Err("it is empty".into());
            }
            proxy.image.name = Some(text());
        }
        "proxy-version" => proxy.image.version = Some(text()),
        "proxy-inbound-connect-timeout" => proxy.inbound_connect_timeout = duration(value)?,
        "proxy-outbound-connect-timeout" => proxy.outbound_connect_timeout = duration(value)?,
        "proxy-inbound-discovery-cache-unused-timeout" => {
            proxy.inbound_discovery_cache_unused_timeout = duration(value)?
        }
        "proxy-outbound-discovery-cache-unused-timeout" => {
            proxy.outbound_discovery_cache_unused_timeout = duration(value)?
        }
        "proxy-log-format" => proxy.log_format = one_of(value, &["plain", "json"])?,
        "proxy-log-level" => {
            log_filter::check(value).map_err(|why| why.to_string())?;
            proxy.log_level = text();
        }
        "proxy-log-http-headers" => {
            one_of(value, &["off", "insecure"])?;
        }
        "proxy-connections-end-with-certificates" => proxy.connections_end_with_certificates = boolean(value)?,
        "proxy-metrics-hostname-labels" => proxy.outbound_metrics_hostname_labels = boolean(value)?,
        "proxy-require-identity-inbound-ports" => proxy.require_identity_on_inbound_ports = is_ports(value)?,
        "proxy-wait-before-exit-seconds" => {
            proxy.wait_before_exit_seconds = value.parse().map_err(|_| "it is no number of seconds")?;
        }
        "shutdown-grace-period" => proxy.shutdown_grace_period = Some(duration(value)?),
        "skip-inbound-ports" => values.proxy_init.ignore_inbound_ports = is_ports(value)?,
        "skip-outbound-ports" => values.proxy_init.ignore_outbound_ports = is_ports(value)?,
        "skip-subnets" => {
            for subnet in value.split(',').map(str::trim).filter(|subnet| !subnet.is_empty()) {
                subnet.parse::<ipnet::IpNet>().map_err(|_| format!("{subnet:?} is no network such as 10.0.0.0/8"))?;
            }
            values.proxy_init.skip_subnets = text();
        }
        unknown => {
            let near = SETTINGS.iter().min_by_key(|known| distance(known, unknown));
            // More apart than that, it was not meant.
            return Err(match near {
                Some(near) if distance(near, unknown) <= 3 => {
                    format!("there is no such setting; did you mean `{near}`?")
                }
                _ => "there is no such setting".into(),
            });
        }
    }
    Ok(())
}

fn one_of(value: &str, choices: &[&str]) -> Result<String, String> {
    if choices.contains(&value) { Ok(value.into()) } else { Err(format!("it can be {}", choices.join(", "))) }
}

fn boolean(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| "it can be true or false".into())
}

fn enabled(value: &str) -> Result<bool, String> {
    match value {
        "enabled" | "true" => Ok(true),
        "disabled" | "false" => Ok(false),
        _ => Err("it can be enabled or disabled".into()),
    }
}

fn port(value: &str) -> Result<u16, String> {
    value.parse().ok().filter(|port| *port > 0).ok_or_else(|| "it is no port".into())
}

fn is_ports(value: &str) -> Result<String, String> {
    value.parse::<PortSet>().map(|ports| ports.to_string()).map_err(|error| error.to_string())
}

/// An amount as Kubernetes writes it, such as `100m` or `250Mi`; a wrong one would have the whole pod refused.
fn quantity(value: &str) -> Result<String, String> {
    let number = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let units = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let is_number = number.starts_with(|c: char| c.is_ascii_digit())
        && number.chars().all(|c| c.is_ascii_digit() || c == '.')
        && number.parse::<f64>().is_ok();
    if is_number && units.contains(&&value[number.len()..]) {
        Ok(value.into())
    } else {
        Err("it is no amount such as 100m or 250Mi".into())
    }
}

/// A duration such as `1m30s`, in the one-unit form that proxies take.
fn duration(value: &str) -> Result<String, String> {
    let milliseconds = milliseconds(value)?;
    Ok(match milliseconds {
        0 => "0".into(),
        whole if whole % 3_600_000 == 0 => format!("{}h", whole / 3_600_000),
        whole if whole % 60_000 == 0 => format!("{}m", whole / 60_000),
        whole if whole % 1000 == 0 => format!("{}s", whole / 1000),
        milliseconds => format!("{milliseconds}ms"),
    })
}

fn milliseconds(value: &str) -> Result<u64, String> {
    let invalid = || "it is no duration such as 500ms or 1m30s".to_string();
    let mut total: u64 = 0;
    let mut rest = value;
    if value == "0" {
        return Ok(0);
    }
    if value.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let number: u64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit = &rest[..rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len())];
        let scale = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(invalid()),
        };
        total = number.checked_mul(scale).and_then(|more| total.checked_add(more)).ok_or_else(invalid)?;
        rest = &rest[unit.len()..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_known_to_apply() {
        for setting in SETTINGS {
            let refused = apply(&mut Values::default(), setting, "\u{1}").err().unwrap_or_default();
            assert!(!refused.contains("no such setting"), "{setting}");
        }
    }

    #[test]
    fn durations_come_out_in_one_unit() {
        for (text, normal) in
            [("1m30s", "90s"), ("90000ms", "90s"), ("2h", "2h"), ("1500ms", "1500ms"), ("0", "0"), ("1d", "24h")]
        {
            assert_eq!(duration(text).as_deref(), Ok(normal));
        }
        for text in ["", "5", "s", "1x", "-1s", "99999999999999999999s", "1.5s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn refuses_amounts_kubernetes_would_refuse() {
        assert!(quantity("100m").is_ok() && quantity("1.5Gi").is_ok());
        for text in ["", "much", "1 Gi", "-1", "1gb", "1.2.3", "µ", "1é"] {
            assert!(quantity(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_unknown_setting_names_the_near_one() {
        let refused = apply(&mut Values::default(), "skip-inbound-port", "80").unwrap_err();
        assert_eq!(refused, "there is no such setting; did you mean `skip-inbound-ports`?");
    }
}
