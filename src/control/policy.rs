//! The policy services: pod port in, stream of rules out; and, for clients, target in, stream of routes out.
//!
//! Part of the destination role, which serves both APIs from one index. Start at [`Policy::watch_port`] (what a proxy asks of its own ports)
//! and [`Policy::watch`] (what it asks of targets).

mod inbound;
mod metadata;
mod outbound;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

pub(super) use self::inbound::probe_networks;
use super::answers::{answers, only_if_complete};
use super::destination::target::{Target, Workload, workload};
use super::index::facts::Key;
use super::index::{Index, Topic};
use crate::net::drain::Drain;
use crate::wire::inbound::inbound_server_policies_server::InboundServerPolicies;
use crate::wire::inbound::{PortSpec, Server};
use crate::wire::outbound::outbound_policies_server::OutboundPolicies;
use crate::wire::outbound::{OutboundPolicy, TrafficSpec, traffic_spec};

/// How long proxies wait for the first bytes of a connection before they take it for opaque.
const DETECT_TIMEOUT: prost_types::Duration = prost_types::Duration { seconds: 10, nanos: 0 };

/// How long a client waits for a service that is new to us. Watches are behind by milliseconds, on a busy API server by some hundred; a proxy
/// asks again after 3 s without an answer.
const SERVICE_WAIT: Duration = Duration::from_secs(1);

/// Both policy services. Clones are the same.
#[derive(Clone, Debug)]
pub struct Policy {
    index: Arc<Index>,
    drain: Drain,
}

impl Policy {
    pub fn new(index: Arc<Index>, drain: Drain) -> Self {
        Self { index, drain }
    }
}

impl Policy {
    /// Waits, for a moment, for a service that a client knows of before we do: its first connections would be refused.
    async fn await_service(&self, ip: IpAddr) {
        let mut changes = self.index.subscribe(Topic::Address(ip));
        let known = async { while self.index.state().is_missing_service(ip) && changes.changed().await.is_ok() {} };
        tokio::select! {
            _ = timeout(SERVICE_WAIT, known) => {}
            () = self.drain.started() => {}
        }
    }
}

/// What a proxy asks of one of its ports.
#[derive(Clone, Debug)]
struct Port {
    pod: Key,
    number: u16,
}

impl Port {
    fn parse(asked: &PortSpec) -> Result<Self, Status> {
        let number = u16::try_from(asked.port).ok().filter(|&number| number != 0);
        let number = number.ok_or_else(|| Status::invalid_argument(format!("Invalid port: {}", asked.port)))?;
        match workload(&asked.workload)? {
            Workload::Pod(pod) => Ok(Self { pod, number }),
            Workload::External => Err(Status::not_found("unknown server")),
        }
    }

    fn server(&self, index: &Index) -> Result<Server, Status> {
        let state = index.state();
        let pod = state.pods.get(&self.pod).ok_or_else(|| Status::not_found("unknown server"))?;
        Ok(inbound::server(&state, &index.settings, pod, self.number))
    }
}

#[tonic::async_trait]
impl InboundServerPolicies for Policy {
    type WatchPortStream = BoxStream<'static, Result<Server, Status>>;

    async fn get_port(&self, request: Request<PortSpec>) -> Result<Response<Server>, Status> {
        only_if_complete(&self.index)?;
        Port::parse(&request.into_inner())?.server(&self.index).map(Response::new)
    }

    async fn watch_port(&self, request: Request<PortSpec>) -> Result<Response<Self::WatchPortStream>, Status> {
        only_if_complete(&self.index)?;
        let port = Port::parse(&request.into_inner())?;
        port.server(&self.index)?;
        let topic = Topic::Pod(port.pod.clone());
        let servers = answers(self.index.clone(), topic, self.drain.clone(), move |index| port.server(index));
        Ok(Response::new(servers.boxed()))
    }
}

fn target(asked: TrafficSpec, index: &Index) -> Result<Target, Status> {
    workload(&asked.source_workload)?;
    match asked.target.ok_or_else(|| Status::invalid_argument("a target is required"))? {
        traffic_spec::Target::Addr(address) => {
            let port = u16::try_from(address.port).ok().filter(|&port| port != 0);
            let port = port.ok_or_else(|| Status::invalid_argument(format!("Invalid port: {}", address.port)))?;
            let ip = address.ip.and_then(|ip| ip.try_into().ok());
            let ip = ip.ok_or_else(|| Status::invalid_argument("the target lacks an IP address"))?;
            Ok(Target::Address(std::net::SocketAddr::new(ip, port)))
        }
        traffic_spec::Target::Authority(authority) => {
            let domain = &index.settings.cluster_domain;
            let with_domain = || {
                // The short form `web.shop.svc` will do as well.
                let (host, port) = authority.split_once(':').unwrap_or((&authority, "80"));
                Target::parse(&format!("{}.{domain}:{port}", host.trim_end_matches('.')), domain)
            };
            match Target::parse(&authority, domain).or_else(|_| with_domain()) {
                Ok(target @ Target::Service { hostname: None, .. }) => Ok(target),
                Ok(_) | Err(_) => Err(Status::not_found(format!("no service is called {authority:?}"))),
            }
        }
    }
}

fn outbound_policy(index: &Index, target: &Target) -> Result<OutboundPolicy, Status> {
    outbound::policy(&index.state(), &index.settings, target)
}

#[tonic::async_trait]
impl OutboundPolicies for Policy {
    type WatchStream = BoxStream<'static, Result<OutboundPolicy, Status>>;

    async fn get(&self, request: Request<TrafficSpec>) -> Result<Response<OutboundPolicy>, Status> {
        only_if_complete(&self.index)?;
        let target = target(request.into_inner(), &self.index)?;
        outbound_policy(&self.index, &target).map(Response::new)
    }

    async fn watch(&self, request: Request<TrafficSpec>) -> Result<Response<Self::WatchStream>, Status> {
        only_if_complete(&self.index)?;
        let target = target(request.into_inner(), &self.index)?;
        if let Target::Address(address) = &target {
            self.await_service(address.ip()).await;
        }
        outbound_policy(&self.index, &target)?;
        let topic = match &target {
            Target::Address(address) => Topic::Address(address.ip()),
            Target::Service { service, .. } => Topic::Service(service.clone()),
        };
        let drain = self.drain.clone();
        let policies = answers(self.index.clone(), topic, drain, move |index| outbound_policy(index, &target));
        Ok(Response::new(policies.boxed()))
    }
}
