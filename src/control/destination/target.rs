//! What proxies ask for, and who they say they are.
//!
//! In: the texts of requests. Out: what they mean, or the gRPC status that says why they mean nothing.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use tonic::Status;

use crate::control::index::facts::Key;
use crate::mesh::identity::is_label;

/// The port of a target that names none.
const PORT_DEFAULT: u16 = 80;

/// What a client goes to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::control) enum Target {
    Address(SocketAddr),
    Service { service: Key, port: u16, hostname: Option<String> },
}

impl Target {
    /// Parses `host[:port]`, where a host is an address or the name of a service.
    pub(in crate::control) fn parse(path: &str, cluster_domain: &str) -> Result<Self, Status> {
        let invalid = || Status::invalid_argument(format!("Invalid authority: {path}"));
        if let Ok(address) = path.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(invalid()) } else { Ok(Self::Address(address)) };
        }
        if let Ok(ip) = path.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Self::Address(SocketAddr::new(ip, PORT_DEFAULT)));
        }
        let (host, port) = match path.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|&port| port != 0).ok_or_else(invalid)?),
            None => (path, PORT_DEFAULT),
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let labels =
            host.strip_suffix(cluster_domain).and_then(|rest| rest.strip_suffix(".svc.")).ok_or_else(invalid)?;
        let labels: Vec<&str> = labels.split('.').collect();
        if !labels.iter().all(|label| is_label(label)) {
            return Err(invalid());
        }
        match labels[..] {
            [name, namespace] => Ok(Self::Service { service: Key::new(namespace, name), port, hostname: None }),
            [hostname, name, namespace] => {
                Ok(Self::Service { service: Key::new(namespace, name), port, hostname: Some(hostname.into()) })
            }
            _ => Err(invalid()),
        }
    }
}

/// What a client's proxy says of where it runs. Nothing depends on it being true: a lie gets the liar other endpoints first.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub(super) struct Context {
    #[serde(default, rename = "nodeName")]
    pub(super) node: Option<String>,
}

impl Context {
    /// Parses the context token; one that makes no sense says nothing.
    pub(super) fn parse(token: &str) -> Self {
        if token.trim().is_empty() || token.starts_with("ns:") {
            return Self::default();
        }
        serde_json::from_str(token).unwrap_or_else(|error| {
            tracing::debug!(%error, "ignoring a context token that is no JSON");
            Self::default()
        })
    }
}

/// The pod that a proxy asks for, by its workload text.
pub(in crate::control) fn workload(text: &str) -> Result<Workload, Status> {
    #[derive(Deserialize)]
    struct Json {
        ns: String,
        pod: Option<String>,
        external_workload: Option<String>,
    }
    let invalid = || Status::invalid_argument(format!("Invalid workload: {text:?}"));
    let text = text.trim();
    if text.starts_with('{') {
        let json: Json = serde_json::from_str(text).map_err(|_| invalid())?;
        return match (json.pod, json.external_workload) {
            (Some(pod), None) if !pod.is_empty() && !json.ns.is_empty() => Ok(Workload::Pod(Key::new(&json.ns, &pod))),
            (None, Some(name)) if !name.is_empty() && !json.ns.is_empty() => Ok(Workload::External),
            _ => Err(invalid()),
        };
    }
    match text.split_once(':') {
        Some((namespace, pod)) if !namespace.is_empty() && !pod.is_empty() && !pod.contains(':') => {
            Ok(Workload::Pod(Key::new(namespace, pod)))
        }
        _ => Err(invalid()),
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::control) enum Workload {
    Pod(Key),
    /// A machine outside the cluster.
    External,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, port: u16, hostname: Option<&str>) -> Target {
        Target::Service { service: Key::new("shop", name), port, hostname: hostname.map(str::to_owned) }
    }

    #[test]
    fn a_target_is_an_address_or_a_service_or_one_endpoint_of_it() {
        let parse = |path| Target::parse(path, "cluster.local").unwrap();
        assert_eq!(parse("10.0.0.1:8080"), Target::Address("10.0.0.1:8080".parse().unwrap()));
        assert_eq!(parse("[fd00::1]:8080"), Target::Address("[fd00::1]:8080".parse().unwrap()));
        assert_eq!(parse("10.0.0.1"), Target::Address("10.0.0.1:80".parse().unwrap()));
        assert_eq!(parse("web.shop.svc.cluster.local:8080"), service("web", 8080, None));
        assert_eq!(parse("WEB.shop.svc.cluster.local."), service("web", 80, None));
        assert_eq!(parse("db-0.db.shop.svc.cluster.local:5432"), service("db", 5432, Some("db-0")));
    }

    #[test]
    fn refuses_targets_that_mean_nothing() {
        for path in [
            "",
            ":80",
            "web.shop.svc.cluster.local:0",
            "web.shop.svc.cluster.local:70000",
            "web.shop.svc.cluster.local:http",
            "web.shop.svc.other.domain:80",
            "web.shop.svcxcluster.local:80",
            "web.svc.cluster.local",
            "a.b.c.d.svc.cluster.local",
            "we_b.shop.svc.cluster.local",
            "example.com:80",
            "10.0.0.1:0",
        ] {
            let refused = Target::parse(path, "cluster.local").unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{path}");
        }
    }

    #[test]
    fn a_context_may_be_json_with_a_newline_or_of_the_old_form_or_nonsense() {
        let node = |token| Context::parse(token).node;
        assert_eq!(node("{\"ns\":\"shop\", \"nodeName\":\"n1\", \"pod\":\"web-1\"}\n").as_deref(), Some("n1"));
        assert_eq!(node("ns:shop"), None);
        assert_eq!(node(""), None);
        assert_eq!(node("{"), None);
    }

    #[test]
    fn a_workload_may_be_json_with_a_newline_or_of_the_old_form() {
        let pod = Workload::Pod(Key::new("shop", "web-1"));
        assert_eq!(workload("{\"ns\":\"shop\", \"pod\":\"web-1\"}\n").unwrap(), pod);
        assert_eq!(workload("shop:web-1").unwrap(), pod);
        assert_eq!(workload("{\"ns\":\"shop\",\"external_workload\":\"vm\"}").unwrap(), Workload::External);
        for text in
            ["", "shop", "shop:", ":web", "shop:web:1", "{}", "{\"ns\":\"shop\"}", "{\"ns\":\"\",\"pod\":\"a\"}"]
        {
            assert_eq!(workload(text).unwrap_err().code(), tonic::Code::InvalidArgument, "{text}");
        }
    }
}
