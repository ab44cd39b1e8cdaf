//! What has been learnt of one target so far, and the plan that follows from it.
//!
//! In: what each of the two streams about a target says, in any order. Out: a [`Plan`] as soon as it is certain, none before. Policy goes
//! before profile, unless the profile says how requests are routed; and for a target that has no policy (a pod's own address, or its name),
//! the profile's endpoint is the plan.

use tonic::{Code, Status};

use super::plan::{
    Distribution, HttpBackend, HttpRoutes, Plan, Protocol, RouteCounts, TcpBackend, TcpRoute, TcpRoutes, TcpRule,
};
use super::targets::Place;
use super::wire::{self, Backends, Routing};
use crate::mesh::Endpoint;
use crate::mesh::connection::Direction;
use crate::proxy::metrics::Labels;
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
    routing: Option<Routing>,
}

#[derive(Debug)]
pub(super) struct Lookups {
    place: Place,
    profile: Lookup<Profile>,
    policy: Lookup<OutboundPolicy>,
    /// Why there never will be a policy, other than that the target needs none.
    refused: Option<String>,
    profile_is_late: bool,
}

impl Lookups {
    pub(super) fn new(place: Place, profile: Lookup<Profile>) -> Self {
        Self { place, profile, policy: Lookup::Pending, refused: None, profile_is_late: false }
    }

    pub(super) fn profile(&mut self, said: DestinationProfile) {
        let before = match &self.profile {
            Lookup::Told(profile) => profile.routing.as_ref(),
            Lookup::Pending | Lookup::None => None,
        };
        let is_opaque = said.opaque_protocol;
        let endpoint = said.endpoint.clone().and_then(|endpoint| wire::endpoint(endpoint, &Default::default()));
        let routing = Routing::of(said, self.place.port(), Direction::Outbound, before);
        self.profile = Lookup::Told(Profile { is_opaque, endpoint, routing });
    }

    pub(super) fn no_profile(&mut self) {
        self.profile = Lookup::None;
    }

    /// What is known has waited for the profile for long enough.
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

    /// Whether there may be a plan without a profile. An address without a policy may be that of a meshed pod, to which there is no plaintext
    /// before that is known; a name without one leads to endpoints, which are told with their identities.
    pub(super) fn can_do_without_profile(&self) -> bool {
        match (&self.policy, &self.place) {
            (Lookup::Told(_), _) | (Lookup::None, Place::Name(_)) => true,
            (Lookup::Pending, _) | (Lookup::None, Place::Address(_)) => false,
        }
    }

    /// What is to be done, as far as that is certain.
    pub(super) fn plan(&self, backends: &mut Backends<'_>) -> Option<Plan> {
        if let Some(refused) = &self.refused {
            return Some(Plan::refusing(refused.as_str()));
        }
        let profile = match (&self.policy, &self.profile) {
            (Lookup::Pending, _) => return None,
            (_, Lookup::Pending) if !(self.profile_is_late && self.can_do_without_profile()) => return None,
            (_, Lookup::Pending | Lookup::None) => None,
            (_, Lookup::Told(profile)) => Some(profile),
        };
        let is_opaque = profile.is_some_and(|profile| profile.is_opaque);
        // Routes of requests mean nothing to what nobody looks into.
        let routing = profile.and_then(|profile| profile.routing.as_ref());
        let routing = routing.filter(|routing| !is_opaque || routing.has_overrides());
        let plan = match &self.policy {
            Lookup::Told(policy) => {
                let policy = policy.clone();
                let policy = match routing {
                    Some(routing) => routing.without_routes(policy),
                    None => policy,
                };
                let plan = wire::plan(policy, backends);
                if is_opaque { opaque(plan) } else { plan }
            }
            Lookup::None | Lookup::Pending => {
                match (profile.and_then(|profile| profile.endpoint.clone()), &self.place) {
                    (Some(endpoint), _) => wire::forward_plan(endpoint, is_opaque, backends),
                    (None, Place::Address(address)) => {
                        wire::forward_plan(Endpoint::plain(*address), is_opaque, backends)
                    }
                    (None, Place::Name(name)) => wire::balance_plan(name.to_string(), is_opaque, backends),
                }
            }
        };
        Some(match routing {
            Some(routing) => routing.followed(plan, backends),
            None => plan,
        })
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
    let only = |backend: HttpBackend| TcpBackend { backend: backend.backend, refused: None };
    let backends = match http.into_first() {
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
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;
    use crate::mesh::endpoint::Server;
    use crate::proxy::backend::{Backend, Queues, Spec};
    use crate::proxy::client::tests::connector;
    use crate::wire::destination::{
        RequestMatch, Route, TlsIdentity, WeightedAddr, WeightedDst, request_match, tls_identity,
    };
    use crate::wire::outbound::ProxyProtocol;
    use crate::wire::outbound::proxy_protocol::{Detect, Http1, Http2, Kind, Opaque};

    const TARGET: &str = "10.1.2.3:80";

    fn lookups() -> Lookups {
        Lookups::new(Place::Address(TARGET.parse().unwrap()), Lookup::Pending)
    }

    fn named() -> Lookups {
        Lookups::new(Place::Name("web.shop.svc.cluster.local:80".parse().unwrap()), Lookup::Pending)
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
    fn a_name_without_policy_is_balanced_over_even_if_no_profile_comes() {
        let mut lookups = named();
        lookups.no_policy(&Status::not_found(""));
        assert!(plan(&lookups).is_none(), "a profile may be on its way");
        lookups.profile_is_late();
        let balanced = plan(&lookups).unwrap();
        assert!(matches!(&balanced.backends[0].spec, Spec::Balance { authority, .. } if authority.starts_with("web.")));
        lookups.profile(profile(false, Some("web.shop")));
        let forwarded = plan(&lookups).unwrap();
        assert!(matches!(endpoint(&forwarded).server, Server::Meshed { .. }), "it is the name of one pod");
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

    /// A profile with a route, and a split where one is given.
    fn routing(is_opaque: bool, overrides: &[&str]) -> DestinationProfile {
        let to = |authority: &&str| WeightedDst { authority: (*authority).into(), weight: 1, ..WeightedDst::default() };
        DestinationProfile {
            fully_qualified_name: "web.shop.svc.cluster.local".into(),
            routes: vec![Route { condition: Some(RequestMatch { r#match: Some(all()) }), ..Route::default() }],
            dst_overrides: overrides.iter().map(to).collect(),
            opaque_protocol: is_opaque,
            ..DestinationProfile::default()
        }
    }

    fn all() -> request_match::Match {
        request_match::Match::All(request_match::Seq::default())
    }

    fn authorities(plan: &Plan) -> Vec<String> {
        let authority = |backend: &Arc<Backend>| match &backend.spec {
            Spec::Balance { authority, .. } => authority.clone(),
            other => panic!("{other:?}"),
        };
        plan.backends.iter().map(authority).collect()
    }

    #[test]
    fn a_profile_with_routes_goes_before_the_policy_and_one_without_does_not() {
        let mut lookups = lookups();
        lookups.policy(detect());
        lookups.profile(routing(false, &[]));
        let Some(Plan { protocol: Protocol::Detect { http1, http2, opaque }, .. }) = plan(&lookups) else { panic!() };
        assert!(matches!((http1, http2), (HttpRoutes::Profile(_), HttpRoutes::Profile(_))));
        assert!(opaque.0.is_empty(), "bytes go where the policy says");
        lookups.profile(profile(false, None));
        let Some(Plan { protocol: Protocol::Detect { http1, .. }, .. }) = plan(&lookups) else { panic!() };
        assert!(matches!(http1, HttpRoutes::Policy(_)));
    }

    #[test]
    fn a_profile_routes_a_target_without_a_policy() {
        let mut lookups = lookups();
        lookups.no_policy(&Status::not_found(""));
        lookups.profile(routing(false, &[]));
        let Some(Plan { protocol: Protocol::Detect { http1, .. }, .. }) = plan(&lookups) else { panic!() };
        assert!(matches!(http1, HttpRoutes::Profile(_)));
    }

    #[test]
    fn bytes_are_split_where_the_profile_splits_and_only_then() {
        let mut lookups = lookups();
        lookups.policy(detect());
        lookups.profile(routing(false, &["new.shop.svc.cluster.local:80"]));
        let split = plan(&lookups).unwrap();
        assert_eq!(authorities(&split), ["new.shop.svc.cluster.local:80"]);
        let Protocol::Detect { opaque, .. } = &split.protocol else { panic!("{split:?}") };
        assert_eq!(opaque.0.len(), 1);
        lookups.profile(routing(true, &["new.shop.svc.cluster.local:80"]));
        let split = plan(&lookups).unwrap();
        assert!(matches!(&split.protocol, Protocol::Opaque(opaque) if opaque.0.len() == 1));
        lookups.profile(routing(true, &[]));
        assert!(plan(&lookups).unwrap().backends.is_empty(), "routes of requests are nothing to bytes");
    }

    #[test]
    fn a_name_is_routed_by_its_profile_under_the_name_that_the_profile_gives() {
        let other = "web-too.shop.svc.cluster.local:8080";
        let named = || Lookups::new(Place::Name(other.parse().unwrap()), Lookup::Pending);
        let mut with_policy = named();
        with_policy.policy(detect());
        with_policy.profile(routing(false, &[]));
        let mut without_policy = named();
        without_policy.no_policy(&Status::not_found(""));
        without_policy.profile(routing(false, &[]));
        let own = "web.shop.svc.cluster.local:8080";
        for (lookups, expected) in [(&with_policy, vec![own]), (&without_policy, vec![other, own])] {
            let plan = plan(lookups).unwrap();
            assert_eq!(authorities(&plan), expected);
            assert!(matches!(plan.protocol, Protocol::Detect { http1: HttpRoutes::Profile(_), .. }));
        }
        without_policy.profile(routing(true, &["new.shop.svc.cluster.local:80"]));
        let split = plan(&without_policy).unwrap();
        assert_eq!(authorities(&split), [other, "new.shop.svc.cluster.local:80"]);
        assert!(matches!(split.protocol, Protocol::Opaque(_)));
    }

    #[test]
    fn a_refused_policy_stays_refused_whatever_the_profile_says() {
        let mut lookups = lookups();
        lookups.profile(routing(false, &[]));
        lookups.no_policy(&Status::invalid_argument("no such workload"));
        assert!(matches!(plan(&lookups).unwrap().protocol, Protocol::Invalid(_)));
    }
}
