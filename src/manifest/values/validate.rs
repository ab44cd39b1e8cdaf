//! What types cannot say of values: durations, networks, ports, names.

use super::{Invalid, Values};
use crate::manifest::inject::settings;
use crate::pki::{Lifetime, Lifetimes, parse_duration};

impl Values {
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
        self.lifetimes()?;
        // The other texts are what annotations can set too, and are checked the same way.
        let proxy = &self.proxy;
        let texts = [
            ("proxy.logLevel", "proxy-log-level", &proxy.log_level),
            ("controllerLogLevel", "proxy-log-level", &self.controller_log_level),
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

    /// How long certificates live, where that goes together.
    fn lifetimes(&self) -> Result<Lifetimes, Invalid> {
        let super::Identity { anchor, issuer, .. } = &self.identity;
        let texts = |which| match which {
            Lifetime::Leaf => ("identity.issuer.issuanceLifetime", &issuer.issuance_lifetime),
            Lifetime::Skew => ("identity.issuer.clockSkewAllowance", &issuer.clock_skew_allowance),
            Lifetime::Issuer => ("identity.issuer.lifetime", &issuer.lifetime),
            Lifetime::IssuerRenewBefore => ("identity.issuer.renewBefore", &issuer.renew_before),
            Lifetime::Anchor => ("identity.anchor.lifetime", &anchor.lifetime),
            Lifetime::AnchorRotateBefore => ("identity.anchor.rotateBefore", &anchor.rotate_before),
        };
        let refused = |which, why| {
            let (path, value) = texts(which);
            Invalid::Value { path: path.into(), value: value.clone(), why }
        };
        let parse = |which| parse_duration(texts(which).1).map_err(|why| refused(which, why));
        let lifetimes = Lifetimes {
            leaf: parse(Lifetime::Leaf)?,
            skew: parse(Lifetime::Skew)?,
            issuer: parse(Lifetime::Issuer)?,
            issuer_renew_before: parse(Lifetime::IssuerRenewBefore)?,
            anchor: parse(Lifetime::Anchor)?,
            anchor_rotate_before: parse(Lifetime::AnchorRotateBefore)?,
        };
        lifetimes.check().map_err(|(which, why)| refused(which, why.to_string()))?;
        Ok(lifetimes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_would_fail_later() {
        assert!(Values::default().validate().is_ok());
        for wrong in [
            "identityTrustDomain=a_b",
            "clusterDomain=",
            "clusterNetworks=10.0.0.0/33",
            "controllerReplicas=0",
            "image=",
            "controllerLogLevel=loud",
            "proxy.logLevel=verbose",
            "proxy.defaultInboundPolicy=dney",
            "proxy.opaquePorts=http",
            "proxy.resources.cpu.limit=lots",
            "proxy.ports.inbound=4140",
            "proxy.uid=0",
            "identity.issuer.issuanceLifetime=soon",
            "identity.issuer.clockSkewAllowance=2d",
            "identity.issuer.lifetime=59d",
            "identity.issuer.renewBefore=24h",
            "identity.anchor.lifetime=2y",
            "identity.anchor.rotateBefore=89d",
            "proxyInit.skipSubnets=x",
            "proxyInjector.timeoutSeconds=31",
        ] {
            let refused = Values::default().assign(wrong).unwrap().validate().unwrap_err().to_string();
            let path = wrong.split('=').next().unwrap().trim_end_matches(".inbound");
            assert!(refused.starts_with(&format!("the value `{path}` cannot be")), "{wrong}: {refused}");
        }
    }
}
