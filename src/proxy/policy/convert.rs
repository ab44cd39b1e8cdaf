//! What the control plane said of a port, as the decisions of [`crate::mesh::policy`] take it.
//!
//! In: a `Server` message. Out: a [`ServerPolicy`], or why it makes no sense. Nothing is guessed: a message that is wrong in one place
//! is wrong as a whole, for a rule that was dropped may have been the one that kept somebody out.
//!
//! Every field of the message is honoured, or refused, but for these, which decide nothing: labels of servers and authorizations other than
//! `name`, `group` and `kind` (of metrics); labels of an authorization with metadata (the older form of the same); namespace, section and port
//! of metadata (of outbound metrics).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::mesh::meta::Meta;
use crate::mesh::policy::{
    Authentication, Authorization, Filter, HeaderModifier, Network, Ratio, Route, Rule, ServerPolicy, ServerProtocol,
    Suffix,
};
use crate::mesh::rate_limit::Limits;
use crate::mesh::redirect::{NewPath, Redirect};
use crate::mesh::route::{self, GrpcMatch, HostMatch, HttpMatch, PathMatch, RequestMatch, ValueMatch};
use crate::wire::{grpc_route, http_route, http_types, inbound, meta, net};

/// What of a `Server` message makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("it lacks {0}")]
    Missing(&'static str),
    #[error("it restricts {0}, which this proxy cannot enforce")]
    Unenforceable(&'static str),
    #[error("{what} {value:?} cannot be parsed")]
    Unparsable { what: &'static str, value: String },
}

pub(in crate::proxy) fn unparsable(what: &'static str, value: impl std::fmt::Debug) -> Invalid {
    Invalid::Unparsable { what, value: format!("{value:?}") }
}

/// Converts the whole message.
///
/// # Errors
/// Where any part makes no sense: [`ServerPolicy::invalid`] is then what should be in force.
pub fn server_policy(server: inbound::Server) -> Result<ServerPolicy, Invalid> {
    use inbound::proxy_protocol::Kind;

    if !server.server_ips.is_empty() {
        // Nobody has been seen to send them. Connections to other addresses were to be dropped, so better none than all.
        return Err(Invalid::Unenforceable("the addresses of the server"));
    }
    let meta = labelled(&server.labels, "server")?;
    let authorizations = all(server.authorizations, authorization)?;
    let kind = server.protocol.and_then(|protocol| protocol.kind).ok_or(Invalid::Missing("a protocol"))?;
    let rate_limit = match &kind {
        Kind::Detect(detect) => detect.http_local_rate_limit.clone(),
        Kind::Http1(http1) => http1.local_rate_limit.clone(),
        Kind::Http2(http2) => http2.local_rate_limit.clone(),
        Kind::Grpc(_) | Kind::Opaque(_) | Kind::Tls(_) => None,
    };
    let rate_limit = rate_limit.map(limits).transpose()?;
    // Routes inherit the authorizations, to which the policy adds its own: so they are made within.
    let mut invalid = None;
    let policy = ServerPolicy::new(meta, authorizations, |authorizations| {
        let protocol = match kind {
            Kind::Detect(detect) => detect_timeout(detect.timeout).and_then(|timeout| {
                let routes = http_routes(detect.http_routes, authorizations)?;
                Ok(ServerProtocol::Detect { timeout, routes })
            }),
            Kind::Http1(http1) => http_routes(http1.routes, authorizations).map(ServerProtocol::Http1),
            Kind::Http2(http2) => http_routes(http2.routes, authorizations).map(ServerProtocol::Http2),
            Kind::Grpc(grpc) => grpc_routes(grpc.routes, authorizations).map(ServerProtocol::Grpc),
            Kind::Opaque(_) => Ok(ServerProtocol::Opaque),
            Kind::Tls(_) => Ok(ServerProtocol::Tls),
        };
        protocol.unwrap_or_else(|error| {
            invalid = Some(error);
            ServerProtocol::Opaque
        })
    });
    invalid.map_or(Ok(policy.limited(rate_limit)), Err)
}

fn limits(said: inbound::HttpLocalRateLimit) -> Result<Limits, Invalid> {
    use inbound::http_local_rate_limit::{Limit, r#override::ClientIdentities};

    let per_second = |limit: Limit| limit.requests_per_second;
    let mut overrides = BTreeMap::new();
    for one in said.overrides {
        let limit = per_second(one.limit.ok_or(Invalid::Missing("the limit of an override"))?);
        let ClientIdentities { identities } = one.clients.ok_or(Invalid::Missing("the clients of an override"))?;
        for identity in identities {
            // Of two that name one client, the lower holds.
            let name = identity.name.to_ascii_lowercase();
            overrides.entry(name).and_modify(|known: &mut u32| *known = limit.min(*known)).or_insert(limit);
        }
    }
    Ok(Limits {
        meta: said.metadata.map(|said| metadata(Some(said))).transpose()?.map(Arc::new),
        total: said.total.map(per_second),
        identity: said.identity.map(per_second),
        overrides,
    })
}

fn all<T, U>(items: Vec<T>, one: impl Fn(T) -> Result<U, Invalid>) -> Result<Vec<U>, Invalid> {
    items.into_iter().map(one).collect()
}

fn detect_timeout(timeout: Option<prost_types::Duration>) -> Result<Duration, Invalid> {
    let timeout = timeout.ok_or(Invalid::Missing("the timeout of detection"))?;
    Duration::try_from(timeout).map_err(|_| unparsable("timeout of detection", timeout))
}

/// Labels as they were before there was metadata.
fn labelled(labels: &std::collections::HashMap<String, String>, default_kind: &str) -> Result<Meta, Invalid> {
    let label = |name: &str| labels.get(name).cloned();
    let name = label("name").ok_or(Invalid::Missing("the label `name`"))?;
    if let Some(default) = name.strip_prefix("default:") {
        return Ok(Meta::default_policy(default));
    }
    Ok(Meta {
        group: label("group").unwrap_or_else(|| "policy.linkerd.io".into()),
        kind: label("kind").unwrap_or_else(|| default_kind.into()),
        name,
    })
}

fn metadata(metadata: Option<meta::Metadata>) -> Result<Meta, Invalid> {
    match metadata.and_then(|metadata| metadata.kind) {
        None => Err(Invalid::Missing("metadata")),
        Some(meta::metadata::Kind::Default(name)) => Ok(Meta::default_policy(&name)),
        Some(meta::metadata::Kind::Resource(resource)) => {
            Ok(Meta { group: resource.group, kind: resource.kind, name: resource.name })
        }
    }
}

fn authorization(authz: inbound::Authz) -> Result<Authorization, Invalid> {
    let meta = match authz.metadata {
        Some(_) => metadata(authz.metadata)?,
        None => labelled(&authz.labels, "serverauthorization")?,
    };
    if authz.networks.is_empty() {
        return Err(Invalid::Missing("networks of an authorization"));
    }
    let permit =
        authz.authentication.and_then(|authn| authn.permit).ok_or(Invalid::Missing("who an authorization permits"))?;
    Ok(Authorization {
        networks: all(authz.networks, network)?,
        authentication: authentication(permit)?,
        meta: Arc::new(meta),
    })
}

fn network(network: inbound::Network) -> Result<Network, Invalid> {
    let net = |net: net::IpNetwork| net.try_into().map_err(|_| unparsable("network", net));
    Ok(Network {
        net: net(network.net.ok_or(Invalid::Missing("the addresses of a network"))?)?,
        except: all(network.except, net)?,
    })
}

fn authentication(permit: inbound::authn::Permit) -> Result<Authentication, Invalid> {
    use inbound::authn::{Permit, permit_mesh_tls::Clients};
    match permit {
        Permit::Unauthenticated(_) => Ok(Authentication::Unauthenticated),
        Permit::MeshTls(tls) => match tls.clients.ok_or(Invalid::Missing("the clients of a mesh-TLS authorization"))? {
            Clients::Unauthenticated(_) => Ok(Authentication::TlsUnauthenticated),
            Clients::Identities(clients) => Ok(Authentication::TlsAuthenticated {
                identities: clients.identities.into_iter().map(|identity| identity.name.to_ascii_lowercase()).collect(),
                suffixes: clients.suffixes.iter().map(|suffix| Suffix::new(&suffix.parts)).collect(),
            }),
        },
    }
}

fn http_routes(routes: Vec<inbound::HttpRoute>, server: &[Authorization]) -> Result<Arc<[Route]>, Invalid> {
    let routes = all(routes, |route| {
        let rules = all(route.rules, |rule| {
            let matches = all(rule.matches, http_match)?;
            let filters = all(rule.filters, |filter| http_filter(filter, &matches))?.into();
            Ok(Rule { matches, filters })
        })?;
        let own = all(route.authorizations, authorization)?;
        Ok(Route::new(metadata(route.metadata)?, all(route.hosts, host)?, own, rules, server))
    })?;
    Ok(or_default(routes, server))
}

fn grpc_routes(routes: Vec<inbound::GrpcRoute>, server: &[Authorization]) -> Result<Arc<[Route]>, Invalid> {
    let routes = all(routes, |route| {
        let rules = all(route.rules, |rule| {
            Ok(Rule { matches: all(rule.matches, grpc_match)?, filters: all(rule.filters, grpc_filter)?.into() })
        })?;
        let own = all(route.authorizations, authorization)?;
        Ok(Route::new(metadata(route.metadata)?, all(route.hosts, host)?, own, rules, server))
    })?;
    Ok(or_default(routes, server))
}

fn or_default(routes: Vec<Route>, server: &[Authorization]) -> Arc<[Route]> {
    if routes.is_empty() { Arc::new([Route::default_of(server)]) } else { routes.into() }
}

pub(in crate::proxy) fn host(host: http_route::HostMatch) -> Result<HostMatch, Invalid> {
    use http_route::host_match::Match;
    match host.r#match.ok_or(Invalid::Missing("the name of a host"))? {
        Match::Exact(name) => Ok(HostMatch::Exact(name.to_ascii_lowercase())),
        Match::Suffix(suffix) => {
            let labels: Vec<String> =
                suffix.reverse_labels.iter().rev().map(|label| label.to_ascii_lowercase()).collect();
            Ok(HostMatch::Suffix(labels.join(".")))
        }
    }
}

pub(in crate::proxy) fn http_match(one: http_route::HttpRouteMatch) -> Result<RequestMatch, Invalid> {
    use http_route::query_param_match::Value;
    let method = one
        .method
        .map(|method| method.clone().try_into().map_err(|_| unparsable("HTTP method", method)))
        .transpose()?;
    let query = all(one.query_params, |parameter| {
        let value = match parameter.value.ok_or(Invalid::Missing("the value of a query parameter"))? {
            Value::Exact(exact) => ValueMatch::Exact(exact),
            Value::Regex(pattern) => ValueMatch::Regex(regex(&pattern)?),
        };
        Ok((parameter.name, value))
    })?;
    Ok(RequestMatch::Http(HttpMatch {
        path: one.path.map(path).transpose()?,
        headers: all(one.headers, header)?,
        query,
        method,
    }))
}

fn path(path: http_route::PathMatch) -> Result<PathMatch, Invalid> {
    use http_route::path_match::Kind;
    match path.kind.ok_or(Invalid::Missing("the kind of a path"))? {
        Kind::Exact(path) if path.starts_with('/') => Ok(PathMatch::Exact(path)),
        Kind::Prefix(path) if path.starts_with('/') => Ok(PathMatch::Prefix(path)),
        Kind::Regex(pattern) => Ok(PathMatch::Regex(regex(&pattern)?)),
        Kind::Exact(path) | Kind::Prefix(path) => Err(unparsable("path", path)),
    }
}

fn regex(pattern: &str) -> Result<regex::Regex, Invalid> {
    route::whole(pattern).map_err(|_| unparsable("pattern", pattern))
}

fn header(one: http_route::HeaderMatch) -> Result<(HeaderName, ValueMatch<HeaderValue>), Invalid> {
    use http_route::header_match::Value;
    let value = match one.value.ok_or(Invalid::Missing("the value of a header"))? {
        Value::Exact(exact) => {
            ValueMatch::Exact(HeaderValue::from_bytes(&exact).map_err(|_| unparsable("header value", exact))?)
        }
        Value::Regex(pattern) => ValueMatch::Regex(regex(&pattern)?),
    };
    Ok((header_name(&one.name)?, value))
}

fn header_name(name: &str) -> Result<HeaderName, Invalid> {
    name.parse().map_err(|_| unparsable("header name", name))
}

pub(in crate::proxy) fn grpc_match(one: grpc_route::GrpcRouteMatch) -> Result<RequestMatch, Invalid> {
    let named = |name: String| (!name.is_empty()).then_some(name);
    let rpc = one.rpc.unwrap_or_default();
    Ok(RequestMatch::Grpc(GrpcMatch {
        service: named(rpc.service),
        method: named(rpc.method),
        headers: all(one.headers, header)?,
    }))
}

fn http_filter(filter: inbound::http_route::Filter, matches: &[RequestMatch]) -> Result<Filter, Invalid> {
    use inbound::http_route::filter::Kind;
    match filter.kind.ok_or(Invalid::Missing("the kind of a filter"))? {
        Kind::FailureInjector(failure) => {
            Ok(Filter::Fail { status: status(failure.status)?, message: failure.message, ratio: ratio(failure.ratio)? })
        }
        Kind::RequestHeaderModifier(edit) => {
            header_modifier(edit.add, edit.set, &edit.remove).map(Filter::RequestHeaders)
        }
        Kind::Redirect(to) => redirect(to, matches).map(Filter::Redirect),
    }
}

pub(in crate::proxy) fn status(status: u32) -> Result<StatusCode, Invalid> {
    let code = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    code.ok_or_else(|| unparsable("status", status))
}

/// A redirection of a rule with these matches.
pub(in crate::proxy) fn redirect(
    said: http_route::RequestRedirect,
    matches: &[RequestMatch],
) -> Result<Redirect, Invalid> {
    use http_route::path_modifier::Replace;
    let scheme = said.scheme.and_then(|scheme| scheme.r#type).map(|scheme| {
        let text: Result<Cow<'static, str>, _> = (&scheme).try_into();
        text.map(Cow::into_owned).map_err(|_| unparsable("scheme", scheme))
    });
    let prefixes = || {
        let prefix = |wanted: &RequestMatch| match wanted {
            RequestMatch::Http(HttpMatch { path: Some(PathMatch::Prefix(prefix)), .. }) => Some(prefix.clone()),
            _ => None,
        };
        matches.iter().filter_map(prefix).collect()
    };
    Ok(Redirect {
        scheme: scheme.transpose()?,
        host: (!said.host.is_empty()).then_some(said.host),
        port: u16::try_from(said.port).ok().filter(|port| *port != 0),
        path: said.path.and_then(|path| path.replace).map(|replace| match replace {
            Replace::Full(full) => NewPath::Full(full),
            Replace::Prefix(new) => NewPath::Prefix { new, old: prefixes() },
        }),
        status: if said.status == 0 { StatusCode::MOVED_PERMANENTLY } else { status(said.status)? },
    })
}

fn grpc_filter(filter: inbound::grpc_route::Filter) -> Result<Filter, Invalid> {
    use inbound::grpc_route::filter::Kind;
    match filter.kind.ok_or(Invalid::Missing("the kind of a filter"))? {
        Kind::FailureInjector(failure) => Ok(Filter::FailCall {
            code: i32::try_from(failure.code).map_err(|_| unparsable("gRPC code", failure.code))?,
            message: failure.message,
            ratio: ratio(failure.ratio)?,
        }),
        Kind::RequestHeaderModifier(edit) => {
            header_modifier(edit.add, edit.set, &edit.remove).map(Filter::RequestHeaders)
        }
    }
}

pub(in crate::proxy) fn ratio(ratio: Option<http_route::Ratio>) -> Result<Ratio, Invalid> {
    match ratio {
        None => Ok(Ratio::ALWAYS),
        Some(http_route::Ratio { denominator: 0, .. }) => Err(unparsable("ratio", ratio)),
        Some(http_route::Ratio { numerator, denominator }) => Ok(Ratio { numerator, denominator }),
    }
}

pub(in crate::proxy) fn header_modifier(
    add: Option<http_types::Headers>,
    set: Option<http_types::Headers>,
    remove: &[String],
) -> Result<HeaderModifier, Invalid> {
    Ok(HeaderModifier {
        add: headers(add)?,
        set: headers(set)?,
        remove: remove.iter().map(|name| header_name(name)).collect::<Result<_, _>>()?,
    })
}

fn headers(headers: Option<http_types::Headers>) -> Result<HeaderMap, Invalid> {
    headers
        .unwrap_or_default()
        .headers
        .into_iter()
        .map(|header| {
            let value = HeaderValue::from_bytes(&header.value).map_err(|_| unparsable("header value", header.value))?;
            Ok((header_name(&header.name)?, value))
        })
        .collect()
}
