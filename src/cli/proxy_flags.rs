//! The flags about proxies that `install` and `inject` share. Each stands for one `config.linkerd.io/…` setting: `install` makes it
//! everybody's, `inject` writes it as an annotation.

use crate::manifest::inject::settings;
use crate::manifest::values::Values;

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Proxy")]
pub(super) struct ProxyFlags {
    /// The proxy's image, instead of hawser's own
    #[arg(long, value_name = "IMAGE")]
    proxy_image: Option<String>,
    /// When to pull images: Always, IfNotPresent or Never
    #[arg(long, value_name = "POLICY")]
    image_pull_policy: Option<String>,
    /// What proxies log, as an env-filter
    #[arg(long, value_name = "FILTER")]
    proxy_log_level: Option<String>,
    /// CPU that a proxy is guaranteed
    #[arg(long, value_name = "AMOUNT")]
    proxy_cpu_request: Option<String>,
    /// CPU that a proxy may use at most
    #[arg(long, value_name = "AMOUNT")]
    proxy_cpu_limit: Option<String>,
    /// Memory that a proxy is guaranteed
    #[arg(long, value_name = "AMOUNT")]
    proxy_memory_request: Option<String>,
    /// Memory that a proxy may use at most
    #[arg(long, value_name = "AMOUNT")]
    proxy_memory_limit: Option<String>,
    /// The user that proxies run as
    #[arg(long, value_name = "UID")]
    proxy_uid: Option<String>,
    /// The group that proxies run as
    #[arg(long, value_name = "GID")]
    proxy_gid: Option<String>,
    /// Where proxies accept connections to their pods
    #[arg(long, value_name = "PORT")]
    inbound_port: Option<String>,
    /// Where proxies accept connections of their apps
    #[arg(long, value_name = "PORT")]
    outbound_port: Option<String>,
    /// The port of the proxies' admin servers
    #[arg(long, value_name = "PORT")]
    admin_port: Option<String>,
    /// The port of the proxies' tap servers
    #[arg(long, value_name = "PORT")]
    control_port: Option<String>,
    /// Inbound ports that bypass the proxy, such as 25,3000-3010
    #[arg(long, value_name = "PORTS")]
    skip_inbound_ports: Option<String>,
    /// Outbound ports that bypass the proxy
    #[arg(long, value_name = "PORTS")]
    skip_outbound_ports: Option<String>,
    /// Ports whose connections are carried without being looked at
    #[arg(long, value_name = "PORTS")]
    opaque_ports: Option<String>,
    /// Who may call pods that no policy names: all-unauthenticated, all-authenticated, cluster-unauthenticated, cluster-authenticated, audit or deny
    #[arg(long, value_name = "POLICY")]
    default_inbound_policy: Option<String>,
    /// Ports on which clients must prove who they are
    #[arg(long, value_name = "PORTS")]
    require_identity_on_inbound_ports: Option<String>,
    /// Look up profiles of names outside the cluster too
    #[arg(long)]
    enable_external_profiles: bool,
    /// Whether the proxy is a native sidecar, which init containers can use and jobs do not wait for
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    native_sidecar: Option<String>,
    /// How long a proxy without a native sidecar outlives its app's end
    #[arg(long, value_name = "SECONDS")]
    wait_before_exit_seconds: Option<String>,
    /// How long proxies may finish what they carry, such as 30s
    #[arg(long, value_name = "DURATION")]
    shutdown_grace_period: Option<String>,
    /// Log HTTP requests, as apache or json
    #[arg(long, value_name = "FORMAT")]
    access_log: Option<String>,
}

impl ProxyFlags {
    /// What was asked for, as settings.
    fn settings(&self) -> Vec<(&'static str, &str)> {
        [
            ("proxy-image", &self.proxy_image),
            ("image-pull-policy", &self.image_pull_policy),
            ("proxy-log-level", &self.proxy_log_level),
            ("proxy-cpu-request", &self.proxy_cpu_request),
            ("proxy-cpu-limit", &self.proxy_cpu_limit),
            ("proxy-memory-request", &self.proxy_memory_request),
            ("proxy-memory-limit", &self.proxy_memory_limit),
            ("proxy-uid", &self.proxy_uid),
            ("proxy-gid", &self.proxy_gid),
            ("inbound-port", &self.inbound_port),
            ("outbound-port", &self.outbound_port),
            ("admin-port", &self.admin_port),
            ("control-port", &self.control_port),
            ("skip-inbound-ports", &self.skip_inbound_ports),
            ("skip-outbound-ports", &self.skip_outbound_ports),
            ("opaque-ports", &self.opaque_ports),
            ("default-inbound-policy", &self.default_inbound_policy),
            ("proxy-require-identity-inbound-ports", &self.require_identity_on_inbound_ports),
            ("proxy-enable-native-sidecar", &self.native_sidecar),
            ("proxy-wait-before-exit-seconds", &self.wait_before_exit_seconds),
            ("shutdown-grace-period", &self.shutdown_grace_period),
            ("access-log", &self.access_log),
        ]
        .into_iter()
        .filter_map(|(setting, value)| Some((setting, value.as_deref()?)))
        .chain(self.enable_external_profiles.then_some(("enable-external-profiles", "true")))
        .collect()
    }

    /// Makes them everybody's.
    pub(super) fn apply(&self, values: &mut Values) -> anyhow::Result<()> {
        for (setting, value) in self.settings() {
            settings::apply(values, setting, value).map_err(|why| refused(setting, value, &why))?;
        }
        if let Some(policy) = values.proxy.image.pull_policy {
            values.image_pull_policy = policy;
        }
        Ok(())
    }

    /// Makes them annotations.
    pub(super) fn annotations(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut unused = Values::default();
        let is_names = |setting: &str, value: &str| {
            // The names of container ports are known only where the pod is.
            setting == "opaque-ports" && value.chars().any(|c| c.is_ascii_alphabetic())
        };
        self.settings()
            .into_iter()
            .map(|(setting, value)| {
                if !is_names(setting, value) {
                    settings::apply(&mut unused, setting, value).map_err(|why| refused(setting, value, &why))?;
                }
                Ok((settings::key(setting), value.to_owned()))
            })
            .collect()
    }
}

fn refused(setting: &str, value: &str, why: &str) -> anyhow::Error {
    anyhow::anyhow!("`{setting}` cannot be {value:?}: {why}")
}
