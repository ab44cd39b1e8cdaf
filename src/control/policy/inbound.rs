//! The policy of a pod's port, as its proxy is told.
//!
//! In: the cluster's state, a pod and a port. Out: the `Server` message. No policy resources are looked at: annotations of the pod and its namespace,
//! and the defaults of the installation, decide.

use std::collections::HashMap;

use ipnet::IpNet;

use super::metadata;
use crate::control::index::facts::Pod;
use crate::control::index::{Settings, State};
use crate::mesh::policy::{Authentication, DefaultPolicy, all_networks};
use crate::wire::inbound::{
    Authn, Authz, HttpRoute, IdentitySuffix, Network, ProxyProtocol, Server, authn, http_route, proxy_protocol,
};
use crate::wire::{http_route as matches, http_types};

use super::DETECT_TIMEOUT;

/// The policy of `port` of `pod`.
pub(super) fn server(state: &State, settings: &Settings, pod: &Pod, port: u16) -> Server {
    let namespace = state.namespaces.get(&pod.key.namespace);
    let inherited = || namespace.and_then(|namespace| namespace.default_policy);
    let mut default = pod.default_policy.or_else(inherited).unwrap_or(settings.default_policy);
    if pod.identity_ports.contains(port) {
        default = default.authenticated();
    }
    let is_opaque = state.opaque_ports(pod.opaque_ports.as_ref(), &pod.key.namespace, settings).contains(port);
    let kind = if is_opaque {
        proxy_protocol::Kind::Opaque(proxy_protocol::Opaque {})
    } else {
        proxy_protocol::Kind::Detect(proxy_protocol::Detect {
            timeout: Some(DETECT_TIMEOUT),
            http_routes: routes(pod, port, &settings.probe_networks),
            http_local_rate_limit: None,
        })
    };
    Server {
        protocol: Some(ProxyProtocol { kind: Some(kind) }),
        server_ips: Vec::new(),
        authorizations: authorization(default, &settings.cluster_networks).into_iter().collect(),
        labels: default_labels(default.as_str()),
    }
}

fn default_labels(name: &str) -> HashMap<String, String> {
    [("group", ""), ("kind", "default"), ("name", name)].map(|(label, value)| (label.into(), value.into())).into()
}

/// Whom a default policy permits; nobody for `deny`.
fn authorization(default: DefaultPolicy, cluster_networks: &[IpNet]) -> Option<Authz> {
    let permitted = default.authorization(cluster_networks)?;
    let permit = match permitted.authentication {
        Authentication::Unauthenticated => authn::Permit::Unauthenticated(authn::PermitUnauthenticated {}),
        // Those of default policies name nobody: it is any identity or none.
        Authentication::TlsAuthenticated { .. } | Authentication::TlsUnauthenticated => {
            let any = authn::permit_mesh_tls::PermitClientIdentities {
                identities: Vec::new(),
                suffixes: vec![IdentitySuffix { parts: Vec::new() }],
            };
            let clients = Some(authn::permit_mesh_tls::Clients::Identities(any));
            authn::Permit::MeshTls(authn::PermitMeshTls { clients })
        }
    };
    let networks: Vec<IpNet> = permitted.networks.iter().map(|network| network.net).collect();
    Some(authz(default.as_str(), &networks, permit))
}

/// With the labels of older proxies besides the metadata.
fn authz(name: &str, networks: &[IpNet], permit: authn::Permit) -> Authz {
    Authz {
        networks: networks.iter().map(|&net| Network { net: Some(net.into()), except: Vec::new() }).collect(),
        authentication: Some(Authn { permit: Some(permit) }),
        labels: default_labels(name),
        metadata: Some(metadata::default(name)),
    }
}

/// Every request as the authorizations say; and the pod's own HTTP probes from wherever kubelets are, since those have no identity.
fn routes(pod: &Pod, port: u16, probe_networks: &[IpNet]) -> Vec<HttpRoute> {
    let prefix = matches::HttpRouteMatch {
        path: Some(matches::PathMatch { kind: Some(matches::path_match::Kind::Prefix("/".into())) }),
        ..Default::default()
    };
    let mut routes = vec![route("default", Vec::new(), vec![prefix])];
    if let Some(paths) = pod.probes.get(&port).filter(|_| !probe_networks.is_empty()) {
        let permit = authn::Permit::Unauthenticated(authn::PermitUnauthenticated {});
        let probe = paths.iter().map(|path| matches::HttpRouteMatch {
            path: Some(matches::PathMatch { kind: Some(matches::path_match::Kind::Exact(path.clone())) }),
            method: Some(http_types::HttpMethod::from(http::Method::GET)),
            ..Default::default()
        });
        routes.push(route("probe", vec![authz("probe", probe_networks, permit)], probe.collect()));
    }
    routes
}

fn route(name: &str, authorizations: Vec<Authz>, matches: Vec<matches::HttpRouteMatch>) -> HttpRoute {
    HttpRoute {
        metadata: Some(metadata::default(name)),
        hosts: Vec::new(),
        authorizations,
        rules: vec![http_route::Rule { matches, filters: Vec::new() }],
    }
}

/// Probes come from the node, whose addresses are not told: any.
pub(in crate::control) fn probe_networks() -> Vec<IpNet> {
    all_networks().to_vec()
}
