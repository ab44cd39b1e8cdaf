//! What has been learnt of one target so far, and the plan that follows from it.
//!
//! In: what each of the two streams about a target says, in any order. Out: a [`Plan`] as soon as it is certain, none before. Policy goes
//! before profile; but for a target that has no policy (a pod's own address), the profile's endpoint is the plan.

use std::net::SocketAddr;

use tonic::{Code, Status};

use super::plan::{Distribution, HttpRoutes, Plan, Protocol, RouteBackend, TcpRoute, TcpRoutes, TcpRule};
use super::wire::{self, Backends};
use crate::mesh::Endpoint;
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
            return Some(Plan { protocol: Protocol::Invalid(refused.clone()), backends: Vec::new() });
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
    let Plan { protocol, backends } = plan;
    let protocol = match protocol {
        Protocol::Detect { opaque, .. } => Protocol::Opaque(opaque),
        Protocol::Http1(http) | Protocol::Http2(http) => Protocol::Opaque(blindly(http)),
        Protocol::Opaque(_) | Protocol::Tls(_) | Protocol::Invalid(_) => protocol,
    };
    Plan { protocol, backends }
}

/// Where bytes go that nobody looks at: to the backends of the first rule.
fn blindly(http: HttpRoutes) -> TcpRoutes {
    let rule = http.0.into_iter().flat_map(|route| route.rules).next();
    let only = |backend: RouteBackend<_>| RouteBackend { backend: backend.backend, filters: Vec::new() };
    let backends = match rule.map(|rule| rule.backends) {
        None | Some(Distribution::Empty) => Distribution::Empty,
        Some(Distribution::First(backends)) => Distribution::First(backends.into_iter().map(only).collect()),
        Some(Distribution::Random(backends)) => {
            Distribution::Random(backends.into_iter().map(|(backend, weight)| (only(backend), weight)).collect())
        }
    };
    TcpRoutes(vec![TcpRoute { snis: Vec::new(), rule: TcpRule { refused: None, backends } }])
}
