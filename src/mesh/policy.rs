//! Decides who may reach a port of this pod.
//!
//! In: the policy in force for the port, and the client as the proxy knows it. Out: a [`Permit`], without which nothing is
//! forwarded, or a [`Denied`] that says what to answer. Both name what they rest on, for the metrics.
//!
//! Start at [`ServerPolicy::authorize_connection`] (bytes carried blindly) and [`ServerPolicy::authorize_request`] (HTTP).
//! Where policies come from is [`crate::proxy::policy`]'s business.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::Identity;
use super::connection::Security;
use super::meta::Meta;
use super::rate_limit::{Exceeded, Limits, RateLimit};
use super::redirect::Redirect;
use super::route::{self, HostMatch, RequestMatch};

/// How long detection waits for a client's first bytes, where nothing else was said.
pub const DETECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What is in force for one port.
#[derive(Clone, Debug)]
pub struct ServerPolicy {
    pub protocol: ServerProtocol,
    /// The `srv_*` labels.
    pub meta: Arc<Meta>,
    /// Any one permits a connection.
    authorizations: Arc<[Authorization]>,
    /// How many requests it takes.
    rate_limit: Option<Arc<RateLimit>>,
    /// The policy as it came could not be understood: everything is refused, as our failure rather than the client's.
    invalid: bool,
}

/// What a port speaks, and so who looks for the protocol and who authorizes what.
#[derive(Clone, Debug)]
pub enum ServerProtocol {
    /// Found out from the first bytes.
    Detect {
        timeout: Duration,
        routes: Arc<[Route]>,
    },
    Http1(Arc<[Route]>),
    Http2(Arc<[Route]>),
    Grpc(Arc<[Route]>),
    /// Carried as it is; not even TLS is looked for.
    Opaque,
    /// The app's own TLS: looked at, and carried as it is.
    Tls,
}

/// Requests that are authorized alike.
#[derive(Clone, Debug)]
pub struct Route {
    pub meta: Arc<Meta>,
    pub hosts: Vec<HostMatch>,
    pub rules: Vec<Rule>,
    /// Any one permits a request: the route's own and the server's.
    authorizations: Arc<[Authorization]>,
}

/// One alternative within a route. Without matches it is for every request.
#[derive(Clone, Debug)]
pub struct Rule {
    pub matches: Vec<RequestMatch>,
    pub filters: Arc<[Filter]>,
}

/// What is done with a request that falls under a rule.
#[derive(Clone, Debug)]
pub enum Filter {
    /// Answer with this instead of forwarding.
    Fail {
        status: http::StatusCode,
        message: String,
        ratio: Ratio,
    },
    /// Answer a gRPC call with this instead of forwarding.
    FailCall {
        code: i32,
        message: String,
        ratio: Ratio,
    },
    /// Send the client elsewhere instead of forwarding.
    Redirect(Redirect),
    RequestHeaders(HeaderModifier),
}

/// How many of how many requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ratio {
    pub numerator: u32,
    /// Never 0.
    pub denominator: u32,
}

impl Ratio {
    pub const ALWAYS: Self = Self { numerator: 1, denominator: 1 };
}

/// Added first, then set, then removed.
#[derive(Clone, Debug, Default)]
pub struct HeaderModifier {
    pub add: http::HeaderMap,
    pub set: http::HeaderMap,
    pub remove: Vec<http::HeaderName>,
}

impl HeaderModifier {
    /// Changes `headers` as it says.
    pub fn modify(&self, headers: &mut http::HeaderMap) {
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in self.set.keys() {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// A kind of client that may.
#[derive(Clone, Debug)]
pub struct Authorization {
    pub networks: Vec<Network>,
    pub authentication: Authentication,
    /// The `authz_*` labels.
    pub meta: Arc<Meta>,
}

/// Addresses in `net`, but for those in `except`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Network {
    pub net: IpNet,
    pub except: Vec<IpNet>,
}

/// What a client must prove.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Authentication {
    Unauthenticated,
    /// Mesh TLS, with or without a certificate of its own.
    TlsUnauthenticated,
    /// One of these names.
    TlsAuthenticated {
        identities: BTreeSet<String>,
        suffixes: Vec<Suffix>,
    },
}

/// The end of a name: `*` (any name) or `*.a.b` (names below `a.b`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Suffix(String);

/// Who wants in.
#[derive(Clone, Debug)]
pub struct Client {
    /// The socket's own, never one that a header names.
    pub address: SocketAddr,
    pub tls: ClientTls,
}

impl Client {
    fn identity(&self) -> Option<&Identity> {
        match &self.tls {
            ClientTls::Terminated(identity) => identity.as_ref(),
            ClientTls::None => None,
        }
    }
}

/// What TLS with this proxy proved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClientTls {
    /// Nothing: plaintext, or TLS that ends in the app.
    None,
    /// Terminated here; the identity is none where the client showed no certificate.
    Terminated(Option<Identity>),
}

/// Proof that policy said yes, and on what grounds. Only this module makes one.
#[derive(Clone, Debug)]
pub struct Permit {
    server: Arc<Meta>,
    route: Option<Arc<Meta>>,
    authorization: Arc<Meta>,
    filters: Arc<[Filter]>,
}

/// Policy said no.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Denied {
    /// HTTP 404.
    #[error("no route of {} matches", server.name)]
    NoRoute { server: Arc<Meta> },
    /// HTTP 403.
    #[error("no authorization of {} permits the client", server.name)]
    Unauthorized { server: Arc<Meta>, route: Option<Arc<Meta>> },
    /// HTTP 429.
    #[error("the rate limit of {} is exceeded", server.name)]
    RateLimited { server: Arc<Meta>, by: Option<Arc<Meta>>, exceeded: Exceeded },
    /// HTTP 500.
    #[error("the policy of the port could not be understood")]
    InvalidPolicy { server: Arc<Meta> },
}

impl ServerPolicy {
    /// A policy of what a server says; adds that the pod itself may always.
    pub fn new(
        meta: Meta,
        mut authorizations: Vec<Authorization>,
        protocol: impl FnOnce(&[Authorization]) -> ServerProtocol,
    ) -> Self {
        authorizations.push(Authorization::localhost());
        let protocol = protocol(&authorizations);
        Self { protocol, meta: Arc::new(meta), authorizations: authorizations.into(), rate_limit: None, invalid: false }
    }

    /// The same, with limits to how many requests it takes.
    #[must_use]
    pub fn limited(mut self, limits: Option<Limits>) -> Self {
        self.rate_limit = limits.map(RateLimit::new).map(Arc::new);
        self
    }

    /// The same as the successor of `before`: where the limits are the same, what was used of them stays used.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        if let (Some(new), Some(old)) = (&self.rate_limit, &before.rate_limit)
            && new.limits == old.limits
        {
            self.rate_limit = Some(old.clone());
        }
        self
    }

    /// In force where the control plane said something that cannot be understood: permitting would be a guess.
    pub fn invalid() -> Self {
        Self {
            protocol: ServerProtocol::Detect { timeout: DETECT_TIMEOUT, routes: Arc::new([]) },
            meta: Arc::new(Meta::default_policy("invalid")),
            authorizations: Arc::new([]),
            rate_limit: None,
            invalid: true,
        }
    }

    /// Whether `client` may exchange bytes with the port.
    ///
    /// # Errors
    /// Always where the port speaks HTTP only: there requests are what is authorized, and blind bytes would evade that.
    pub fn authorize_connection(&self, client: &Client) -> Result<Permit, Denied> {
        let server = || self.meta.clone();
        if self.invalid {
            return Err(Denied::InvalidPolicy { server: server() });
        }
        match self.protocol {
            ServerProtocol::Detect { .. } | ServerProtocol::Opaque | ServerProtocol::Tls => {}
            ServerProtocol::Http1(_) | ServerProtocol::Http2(_) | ServerProtocol::Grpc(_) => {
                return Err(Denied::Unauthorized { server: server(), route: None });
            }
        }
        let authorization = permitting(&self.authorizations, client)
            .ok_or_else(|| Denied::Unauthorized { server: server(), route: None })?;
        Ok(Permit { server: server(), route: None, authorization, filters: Arc::new([]) })
    }

    /// Whether `client` may have `request` answered by the port; `now` is only asked where there is a rate limit.
    ///
    /// # Errors
    /// [`Denied::NoRoute`] also where the port is opaque: it has no routes. Who is refused for other reasons uses up no rate limit.
    pub fn authorize_request<B>(
        &self,
        client: &Client,
        request: &http::Request<B>,
        now: impl FnOnce() -> Instant,
    ) -> Result<Permit, Denied> {
        let server = || self.meta.clone();
        if self.invalid {
            return Err(Denied::InvalidPolicy { server: server() });
        }
        let rules = self.routes().iter().flat_map(|route| {
            route.rules.iter().map(move |rule| (route.hosts.as_slice(), rule.matches.as_slice(), (route, rule)))
        });
        let (route, rule) = route::best(rules, request).ok_or_else(|| Denied::NoRoute { server: server() })?;
        let authorization = permitting(&route.authorizations, client)
            .ok_or_else(|| Denied::Unauthorized { server: server(), route: Some(route.meta.clone()) })?;
        if let Some(limit) = &self.rate_limit {
            limit.admit(client.identity(), now()).map_err(|exceeded| Denied::RateLimited {
                server: server(),
                by: limit.limits.meta.clone(),
                exceeded,
            })?;
        }
        Ok(Permit { server: server(), route: Some(route.meta.clone()), authorization, filters: rule.filters.clone() })
    }

    fn routes(&self) -> &[Route] {
        match &self.protocol {
            ServerProtocol::Detect { routes, .. }
            | ServerProtocol::Http1(routes)
            | ServerProtocol::Http2(routes)
            | ServerProtocol::Grpc(routes) => routes,
            ServerProtocol::Opaque | ServerProtocol::Tls => &[],
        }
    }
}

fn permitting(authorizations: &[Authorization], client: &Client) -> Option<Arc<Meta>> {
    authorizations.iter().find(|one| one.permits(client)).map(|one| one.meta.clone())
}

impl Route {
    /// A route with authorizations of its own, besides those of its server.
    pub fn new(
        meta: Meta,
        hosts: Vec<HostMatch>,
        own: Vec<Authorization>,
        rules: Vec<Rule>,
        server: &[Authorization],
    ) -> Self {
        let authorizations = own.into_iter().chain(server.iter().cloned()).collect();
        Self { meta: Arc::new(meta), hosts, rules, authorizations }
    }

    /// The route of a server without routes: every request, on the server's authorizations.
    pub fn default_of(server: &[Authorization]) -> Self {
        Self::new(
            Meta::default_policy("default"),
            Vec::new(),
            Vec::new(),
            vec![Rule { matches: Vec::new(), filters: Arc::new([]) }],
            server,
        )
    }
}

impl Authorization {
    /// What runs in the pod may reach the pod.
    fn localhost() -> Self {
        Self {
            networks: vec![
                Network { net: IpNet::from(IpAddr::from([127, 0, 0, 1])), except: Vec::new() },
                Network { net: IpNet::from(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16])), except: Vec::new() },
            ],
            authentication: Authentication::Unauthenticated,
            meta: Arc::new(Meta::default_policy("localhost")),
        }
    }

    fn permits(&self, client: &Client) -> bool {
        // A dual-stack listener shows IPv4 clients as mapped addresses; policies are written in IPv4.
        let address = client.address.ip().to_canonical();
        self.networks.iter().any(|network| network.contains(address)) && self.authentication.accepts(&client.tls)
    }
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        self.net.contains(&address) && !self.except.iter().any(|except| except.contains(&address))
    }
}

impl From<IpNet> for Network {
    fn from(net: IpNet) -> Self {
        Self { net, except: Vec::new() }
    }
}

impl Authentication {
    /// Any identity, but one.
    pub fn any_identity() -> Self {
        Self::TlsAuthenticated { identities: BTreeSet::new(), suffixes: vec![Suffix::new(&[] as &[&str])] }
    }

    fn accepts(&self, tls: &ClientTls) -> bool {
        match (self, tls) {
            (Self::Unauthenticated, _) | (Self::TlsUnauthenticated, ClientTls::Terminated(_)) => true,
            (Self::TlsAuthenticated { identities, suffixes }, ClientTls::Terminated(Some(identity))) => {
                identities.contains(identity.as_str()) || suffixes.iter().any(|suffix| suffix.matches(identity))
            }
            _ => false,
        }
    }
}

impl Suffix {
    /// Of the labels after the `*`; none for any name at all.
    pub fn new(parts: &[impl AsRef<str>]) -> Self {
        let mut ends_with = String::new();
        for part in parts {
            ends_with.push('.');
            ends_with.push_str(&part.as_ref().to_ascii_lowercase());
        }
        Self(ends_with)
    }

    fn matches(&self, identity: &Identity) -> bool {
        identity.as_str().ends_with(&self.0)
    }
}

impl From<&Security> for ClientTls {
    /// What a client proved by how its connection is secured. The identity is the one in its certificate.
    fn from(security: &Security) -> Self {
        match security {
            Security::Mutual(tls) | Security::ServerOnly(tls) => Self::Terminated(tls.client_identity.clone()),
            Security::Passthrough { .. } | Security::Plaintext { .. } => Self::None,
        }
    }
}

impl Permit {
    /// The `srv_*` labels.
    pub fn server(&self) -> &Arc<Meta> {
        &self.server
    }

    /// The `route_*` labels; none for blind bytes.
    pub fn route(&self) -> Option<&Arc<Meta>> {
        self.route.as_ref()
    }

    /// The `authz_*` labels.
    pub fn authorization(&self) -> &Arc<Meta> {
        &self.authorization
    }

    /// What the rule does with the request, in order.
    pub fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// Whether this is permitted only so that someone can see in the log what would be refused.
    pub fn is_audit(&self) -> bool {
        self.authorization.kind == "default" && self.authorization.name == DefaultPolicy::Audit.as_str()
    }
}

/// What is in force for ports that no resource speaks of.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum DefaultPolicy {
    #[default]
    AllUnauthenticated,
    AllAuthenticated,
    ClusterUnauthenticated,
    ClusterAuthenticated,
    /// Permits everything, and logs it.
    Audit,
    Deny,
}

/// A text is no default policy.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is no default policy (all-unauthenticated, all-authenticated, cluster-unauthenticated, cluster-authenticated, \
     audit or deny)"
)]
pub struct InvalidDefaultPolicy(String);

impl DefaultPolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllUnauthenticated => "all-unauthenticated",
            Self::AllAuthenticated => "all-authenticated",
            Self::ClusterUnauthenticated => "cluster-unauthenticated",
            Self::ClusterAuthenticated => "cluster-authenticated",
            Self::Audit => "audit",
            Self::Deny => "deny",
        }
    }

    /// Whether it means nothing until the networks of the cluster are known.
    pub fn needs_cluster_networks(self) -> bool {
        matches!(self, Self::ClusterAuthenticated | Self::ClusterUnauthenticated | Self::Audit)
    }

    /// The same, but for clients with an identity only.
    #[must_use]
    pub fn authenticated(self) -> Self {
        match self {
            Self::AllUnauthenticated => Self::AllAuthenticated,
            Self::ClusterUnauthenticated => Self::ClusterAuthenticated,
            other => other,
        }
    }

    /// Whom it permits; nobody for `deny`.
    pub fn authorization(self, cluster_networks: &[IpNet]) -> Option<Authorization> {
        let networks = match self {
            Self::Deny => return None,
            Self::ClusterAuthenticated | Self::ClusterUnauthenticated => cluster_networks.to_vec(),
            Self::AllAuthenticated | Self::AllUnauthenticated | Self::Audit => all_networks().to_vec(),
        };
        let authentication = match self {
            Self::AllAuthenticated | Self::ClusterAuthenticated => Authentication::any_identity(),
            _ => Authentication::Unauthenticated,
        };
        Some(Authorization {
            networks: networks.into_iter().map(Network::from).collect(),
            authentication,
            meta: Arc::new(Meta::default_policy(self.as_str())),
        })
    }

    /// The policy of a port while nothing more is known of it. `deny` is opaque, since no byte need be looked at.
    pub fn policy(self, cluster_networks: &[IpNet], is_opaque: bool, detect_timeout: Duration) -> ServerPolicy {
        let authorizations = self.authorization(cluster_networks).into_iter().collect();
        ServerPolicy::new(Meta::default_policy(self.as_str()), authorizations, |authorizations| {
            if is_opaque || self == Self::Deny {
                return ServerProtocol::Opaque;
            }
            ServerProtocol::Detect { timeout: detect_timeout, routes: Arc::new([Route::default_of(authorizations)]) }
        })
    }
}

/// Every address, of both families.
pub fn all_networks() -> [IpNet; 2] {
    [IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())]
}

impl fmt::Display for DefaultPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DefaultPolicy {
    type Err = InvalidDefaultPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidDefaultPolicy> {
        [
            Self::AllUnauthenticated,
            Self::AllAuthenticated,
            Self::ClusterUnauthenticated,
            Self::ClusterAuthenticated,
            Self::Audit,
            Self::Deny,
        ]
        .into_iter()
        .find(|policy| policy.as_str() == text)
        .ok_or_else(|| InvalidDefaultPolicy(text.into()))
    }
}

#[cfg(test)]
mod tests;
