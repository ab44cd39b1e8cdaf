//! What has been learnt of one target so far, and the plan that follows from it.
//!
//! In: what each of the two streams about a target says, in any order. Out: a [`Plan`] as soon as it is certain, none before. Policy goes
//! before profile; but for a target that has no policy (a pod's own address), the profile's endpoint is the plan.

use std::net::SocketAddr;

use tonic::{Code, Status};

use super::plan::{
    Distribution, HttpBackend, HttpRoutes, Plan, Protocol, RouteCounts, TcpBackend, TcpRoute, TcpRoutes, TcpRule,
};
use super::wire::{self, Backends};
use crate::mesh::Endpoint;
use crate::proxy::metrics::{Labels, Tally};
use crate::wire::destination::DestinationProfile;
use crate::wire::outbound::OutboundPolicy;

/// The answer to one of the two questions.
#[derive(Debug)]
pub(super) enum Lookup<T> {
    Pending,
    Told(T),
    /// There is none, and asking again would not change that.
    None,
}

#[derive(Debug)]
pub(super) struct Profile {
    is_opaque: bool,
    endpoint: Option<Endpoint>,
}

#[derive(Debug)]
pub(super) struct Lookups {
    address: SocketAddr,
    profile: Lookup<Profile>,
    policy: Lookup<OutboundPolicy>,
    /// Why there never will be a policy, other than that the target needs none.
    refused: Option<String>,
    profile_is_late: bool,
}

impl Lookups {
    pub(super) fn new(address: SocketAddr, profile: Lookup<Profile>) -> Self {
        Self { address, profile, policy: Lookup::Pending, refused: None, profile_is_late: false }
    }

    pub(super) fn profile(&mut self, said: DestinationProfile) {
        let endpoint = said.endpoint.and_then(|endpoint| wire::endpoint(endpoint, &Default::default()));
        self.profile = Lookup::Told(Profile { is_opaque: said.opaque_protocol, endpoint });
    }

    pub(super) fn no_profile(&mut self) {
        self.profile = Lookup::None;
    }

    /// The policy has waited for the profile for long enough.
    pub(super) fn profile_is_late(&mut self) {
        self.profile_is_late = true;
    }

    pub(super) fn policy(&mut self, said: OutboundPolicy) {
        self.policy = Lookup::Told(said);
    }

    pub(super) fn no_policy(&mut self, status: &Status) {
        self.policy = Lookup::None;
        if !matches!(status.code(), Code::NotFound | Code::Unimplemented) {
            self.refused = Some(status.to_string());
        }
    }

    pub(super) fn has_policy(&self) -> bool {
        matches!(self.policy, Lookup::Told(_))
    }

    /// What is to be done, as far as that is certain.
    pub(super) fn plan(&self, backends: &mut Backends<'_>) -> Option<Plan> {
        if let Some(refused) = &self.refused {
            let parent = Tally::new(Labels::service("parent", None));
            return Some(Plan { protocol: Protocol::Invalid(refused.clone()), backends: Vec::new(), parent });
        }
        let (is_opaque, endpoint) = match (&self.policy, &self.profile) {
            (Lookup::Pending, _) | (Lookup::None, Lookup::Pending) => return None,
            (Lookup::Told(_), Lookup::Pending) if !self.profile_is_late => return None,
            (_, Lookup::Pending | Lookup::None) => (false, None),
            (_, Lookup::Told(profile)) => (profile.is_opaque, profile.endpoint.clone()),
        };
        match &self.policy {
            Lookup::Told(policy) => {
                let plan = wire::plan(policy.clone(), backends);
                Some(if is_opaque { opaque(plan) } else { plan })
            }
            Lookup::None | Lookup::Pending => {
                let endpoint = endpoint.unwrap_or_else(|| Endpoint::plain(self.address));
                Some(wire::forward_plan(endpoint, is_opaque, backends))
            }
        }
    }
}

/// The plan, were its port opaque: a profile that says so is right, whatever the policy's protocol.
fn opaque(plan: Plan) -> Plan {
    let Plan { protocol, backends, parent } = plan;
    let protocol = match protocol {
        Protocol::Detect { opaque, .. } => Protocol::Opaque(opaque),
        Protocol::Http1(http) | Protocol::Http2(http) => Protocol::Opaque(blindly(http, parent.labels())),
        Protocol::Opaque(_) | Protocol::Tls(_) | Protocol::Invalid(_) => protocol,
    };
    Plan { protocol, backends, parent }
}

/// Where bytes go that nobody looks at: to the backends of the first rule.
fn blindly(http: HttpRoutes, parent: &Labels) -> TcpRoutes {
    let rule = http.0.into_iter().flat_map(|route| route.rules).next();
    let only = |backend: HttpBackend| TcpBackend { backend: backend.backend, refused: None };
    let backends = match rule.map(|rule| rule.backends) {
        None | Some(Distribution::Empty) => Distribution::Empty,
        Some(Distribution::First(backends)) => Distribution::First(backends.into_iter().map(only).collect()),
        Some(Distribution::Random(backends)) => {
            Distribution::Random(backends.into_iter().map(|(backend, weight)| (only(backend), weight)).collect())
        }
    };
    let counts = RouteCounts::opaque(parent.and(&Labels::resource("route", None)));
    TcpRoutes(vec![TcpRoute { snis: Vec::new(), rule: TcpRule { refused: None, backends, counts } }])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mesh::endpoint::Server;
    use crate::proxy::backend::{Backend, Queues, Spec};
    use crate::proxy::client::tests::connector;
    use crate::wire::destination::{TlsIdentity, WeightedAddr, tls_identity};
    use crate::wire::outbound::ProxyProtocol;
    use crate::wire::outbound::proxy_protocol::{Detect, Http1, Http2, Kind, Opaque};

    const TARGET: &str = "10.1.2.3:80";

    fn lookups() -> Lookups {
        Lookups::new(TARGET.parse().unwrap(), Lookup::Pending)
    }

    fn plan(lookups: &Lookups) -> Option<Plan> {
        let connector = connector();
        lookups.plan(&mut |spec| Arc::new(Backend::new(spec, connector.clone(), Queues::default())))
    }

    fn detect() -> OutboundPolicy {
        let detect = Detect {
            http1: Some(Http1::default()),
            http2: Some(Http2::default()),
            opaque: Some(Opaque::default()),
            ..Detect::default()
        };
        OutboundPolicy { protocol: Some(ProxyProtocol { kind: Some(Kind::Detect(detect)) }), metadata: None }
    }

    fn profile(is_opaque: bool, identity: Option<&str>) -> DestinationProfile {
        let identity = identity.map(|name| TlsIdentity {
            strategy: Some(tls_identity::Strategy::DnsLikeIdentity(tls_identity::DnsLikeIdentity {
                name: name.into(),
            })),
            server_name: None,
        });
        let address: SocketAddr = TARGET.parse().unwrap();
        let endpoint = WeightedAddr { addr: Some(address.into()), tls_identity: identity, ..WeightedAddr::default() };
        DestinationProfile { opaque_protocol: is_opaque, endpoint: Some(endpoint), ..DestinationProfile::default() }
    }

    fn endpoint(plan: &Plan) -> &Endpoint {
        match &plan.backends[0].spec {
            Spec::Forward(endpoint) => endpoint,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_certain_before_both_questions_are_answered() {
        let mut lookups = lookups();
        assert!(plan(&lookups).is_none());
        lookups.profile(profile(false, None));
        assert!(plan(&lookups).is_none(), "a profile alone says nothing of routes");
        lookups.policy(detect());
        assert!(matches!(plan(&lookups).unwrap().protocol, Protocol::Detect { .. }));
    }

    #[test]
    fn a_policy_waits_for_its_profile_only_so_long() {
        let mut lookups = lookups();
        lookups.policy(detect());
        assert!(plan(&lookups).is_none());
        lookups.profile_is_late();
        assert!(plan(&lookups).is_some());
        lookups.profile(profile(true, None));
        assert!(matches!(plan(&lookups).unwrap().protocol, Protocol::Opaque(_)), "it counts when it comes");
    }

    #[test]
    fn without_a_policy_the_endpoint_of_the_profile_is_the_plan() {
        let mut lookups = lookups();
        lookups.no_policy(&Status::not_found(""));
        lookups.profile_is_late();
        assert!(plan(&lookups).is_none(), "the endpoint may be meshed: there is no plaintext before that is known");
        lookups.profile(profile(false, Some("web.shop")));
        let plan = plan(&lookups).unwrap();
        assert!(matches!(endpoint(&plan).server, Server::Meshed { .. }));
    }

    #[test]
    fn a_target_with_neither_is_forwarded_as_it_is() {
        let mut lookups = lookups();
        lookups.no_policy(&Status::unimplemented(""));
        lookups.no_profile();
        assert_eq!(*endpoint(&plan(&lookups).unwrap()), Endpoint::plain(TARGET.parse().unwrap()));
    }

    #[test]
    fn a_policy_refused_for_good_is_not_replaced_by_plaintext() {
        let mut lookups = lookups();
        lookups.profile(profile(false, None));
        lookups.no_policy(&Status::invalid_argument("no such workload"));
        assert!(matches!(plan(&lookups).unwrap().protocol, Protocol::Invalid(_)));
    }

    #[test]
    fn a_profile_makes_a_port_opaque_whatever_its_policy_says() {
        let mut lookups = lookups();
        lookups.profile(profile(true, None));
        let http = OutboundPolicy {
            protocol: Some(ProxyProtocol { kind: Some(Kind::Http1(Http1::default())) }),
            metadata: None,
        };
        for policy in [detect(), http] {
            lookups.policy(policy);
            assert!(matches!(plan(&lookups).unwrap().protocol, Protocol::Opaque(_)));
        }
    }
}
