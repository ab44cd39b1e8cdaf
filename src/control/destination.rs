//! The destination role: service name in, stream of endpoints out; and the policy APIs, from the same index.
//!
//! In: watches of the cluster ([`watches`]). Out: gRPC for proxies: `Destination` on one port, `InboundServerPolicies` and
//! `OutboundPolicies` on the other. Everything is answered from memory ([`super::index`]): while the API server is away, proxies are told
//! what was last known.
//!
//! Start at [`run`], then [`Destination::get`] and [`Destination::get_profile`].
//!
//! Its ServiceAccount needs, in the whole cluster, `get`, `list` and `watch` of `services`, `pods`, `namespaces`, `nodes` (core) and
//! `endpointslices` (discovery.k8s.io) and `servicecidrs` (networking.k8s.io), and nothing else there: workloads are told from the pods, so no replica sets or jobs. In the
//! namespace of the control plane it needs what [`super::trust_bundle`] says.

mod endpoints;
pub(super) mod profile;
pub(super) mod target;
mod watches;

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use ipnet::IpNet;
use tonic::{Request, Response, Status};

use self::endpoints::{Place, Told};
use self::target::{Context, Target};
use super::answers::{answers, only_if_complete};
use super::index::view::ViewKey;
use super::index::{Index, Settings, Topic};
use super::policy::{self, Policy};
use super::{Common, Role, grpc, trust_bundle};
use crate::mesh::policy::DefaultPolicy;
use crate::mesh::ports::PortSet;
use crate::net::drain::Drain;
use crate::wire::destination::destination_server::{Destination as Service, DestinationServer};
use crate::wire::destination::{DestinationProfile, GetDestination, Update};
use crate::wire::inbound::inbound_server_policies_server::InboundServerPoliciesServer;
use crate::wire::outbound::outbound_policies_server::OutboundPoliciesServer;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Where endpoints and profiles are told
    #[arg(long, env = "HAWSER_DESTINATION_ADDRESS", default_value = "[::]:8086", value_name = "IP:PORT")]
    destination_address: SocketAddr,
    /// Where policies are told
    #[arg(long, env = "HAWSER_POLICY_ADDRESS", default_value = "[::]:8090", value_name = "IP:PORT")]
    policy_address: SocketAddr,
    /// Who may reach ports that nothing else is said about
    #[arg(long, env = "HAWSER_DEFAULT_INBOUND_POLICY", default_value = "all-unauthenticated", value_name = "POLICY")]
    default_inbound_policy: DefaultPolicy,
    /// The networks of pods and services; addresses elsewhere are outside the cluster
    #[arg(
        long,
        env = "HAWSER_CLUSTER_NETWORKS",
        value_delimiter = ',',
        default_value = "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8",
        value_name = "CIDR,…"
    )]
    cluster_networks: Vec<IpNet>,
    /// Ports whose bytes are carried without being looked at, where nothing else is said
    #[arg(
        long,
        env = "HAWSER_DEFAULT_OPAQUE_PORTS",
        default_value = "25,587,3306,4444,5432,6379,9300,11211",
        value_name = "PORTS"
    )]
    default_opaque_ports: PortSet,
    /// The networks of kubelets, whose HTTP probes are let through [default: any]
    #[arg(long, env = "HAWSER_PROBE_NETWORKS", value_delimiter = ',', value_name = "CIDR,…")]
    probe_networks: Vec<IpNet>,
    /// Whether HTTP/1 is carried in HTTP/2 between proxies
    #[arg(
        long,
        env = "HAWSER_ENABLE_H2_UPGRADE",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    enable_h2_upgrade: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    super::start(args.common.clone(), |role| work(role, args))
}

async fn work(role: Role, args: Args) -> anyhow::Result<()> {
    // An authorization without networks means nothing to proxies.
    anyhow::ensure!(
        !args.cluster_networks.is_empty(),
        "the networks of the cluster (HAWSER_CLUSTER_NETWORKS) are empty"
    );
    trust_bundle::keep_copy(&role);
    let (destination_address, policy_address) = (args.destination_address, args.policy_address);
    let index = Arc::new(Index::new(args.settings()));
    watches::start(&role, &index).await?;
    watches::warn_of_policy_resources(&role);
    serve(&index, destination_address, policy_address, &role.drain).await?;
    Ok(())
}

impl Args {
    fn settings(self) -> Settings {
        let probe_networks =
            if self.probe_networks.is_empty() { policy::probe_networks() } else { self.probe_networks };
        Settings {
            control_namespace: self.common.control_namespace,
            trust_domain: self.common.trust_domain,
            cluster_domain: self.common.cluster_domain,
            default_policy: self.default_inbound_policy,
            cluster_networks: self.cluster_networks,
            opaque_ports: self.default_opaque_ports,
            probe_networks,
            h2_upgrade: self.enable_h2_upgrade,
        }
    }
}

/// Serves both APIs from `index` until the drain; says where they listen.
///
/// # Errors
/// Where an address is taken.
pub async fn serve(
    index: &Arc<Index>,
    destination_address: SocketAddr,
    policy_address: SocketAddr,
    drain: &Drain,
) -> anyhow::Result<(SocketAddr, SocketAddr)> {
    let destination = DestinationServer::new(Destination { index: index.clone(), drain: drain.clone() });
    let policy = Policy::new(index.clone(), drain.clone());
    let inbound = InboundServerPoliciesServer::new(policy.clone());
    let outbound = OutboundPoliciesServer::new(policy);
    let policies = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (mut inbound, mut outbound) = (inbound.clone(), outbound.clone());
        async move {
            // Either answers methods it does not know with UNIMPLEMENTED.
            if request.uri().path().starts_with("/io.linkerd.proxy.outbound.") {
                tower::Service::call(&mut outbound, request).await
            } else {
                tower::Service::call(&mut inbound, request).await
            }
        }
    });
    Ok((
        grpc::listen(destination_address, move |_| destination.clone(), drain).await?,
        grpc::listen(policy_address, move |_| policies.clone(), drain).await?,
    ))
}

/// The service of endpoints and profiles.
#[derive(Debug)]
pub struct Destination {
    index: Arc<Index>,
    drain: Drain,
}

impl Destination {
    fn place(&self, context_token: &str) -> Place {
        let node = Context::parse(context_token).node;
        let zone = node.as_deref().and_then(|node| self.index.state().zones.get(node).cloned());
        Place { node, zone }
    }
}

#[tonic::async_trait]
impl Service for Destination {
    type GetStream = BoxStream<'static, Result<Update, Status>>;
    type GetProfileStream = BoxStream<'static, Result<DestinationProfile, Status>>;

    async fn get(&self, request: Request<GetDestination>) -> Result<Response<Self::GetStream>, Status> {
        only_if_complete(&self.index)?;
        let GetDestination { path, context_token, .. } = request.into_inner();
        let (service, key) = match Target::parse(&path, &self.index.settings.cluster_domain)? {
            Target::Address(address) => {
                let ip = address.ip();
                return Err(Status::invalid_argument(format!("IP queries not supported by Get API: host={ip}")));
            }
            Target::Service { service, port, hostname } => (service, ViewKey { port, hostname }),
        };
        match self.index.state().services.get(&service) {
            None => return Err(Status::not_found(format!("no service {service}"))),
            Some(found) if found.is_external_name => {
                return Err(Status::invalid_argument(format!("service {service} is an ExternalName")));
            }
            Some(_) => {}
        }
        let told = Told::nothing(service.clone(), self.place(&context_token));
        let views = self.index.view(&service, key);
        Ok(Response::new(endpoints::updates(views, told, self.drain.clone()).boxed()))
    }

    async fn get_profile(&self, request: Request<GetDestination>) -> Result<Response<Self::GetProfileStream>, Status> {
        only_if_complete(&self.index)?;
        let path = request.into_inner().path;
        let target = Target::parse(&path, &self.index.settings.cluster_domain)?;
        let profile = |index: &Index, target: &Target| profile::of(&index.state(), &index.settings, target);
        profile(&self.index, &target)?;
        let topic = match &target {
            Target::Address(address) => Topic::Address(address.ip()),
            Target::Service { service, .. } => Topic::Service(service.clone()),
        };
        let drain = self.drain.clone();
        let profiles = answers(self.index.clone(), topic, drain, move |index| profile(index, &target));
        Ok(Response::new(profiles.boxed()))
    }
}
