//! What is in force for each port of this pod, as the control plane tells it.
//!
//! In: ports. Out: for each a watch channel of its current [`ServerPolicy`]. Until the control plane has answered, the default policy
//! of the proxy's settings is in force; once it has, its last word stays in force, however long it is away.
//!
//! Start at [`Policies::port`]. What a policy means for a client is [`crate::mesh::policy`]'s business.

pub mod convert;

use std::collections::BTreeSet;
use std::collections::hash_map::{Entry, HashMap};
use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use tokio::sync::watch;
use tonic::client::GrpcService;
use tonic::codegen::{Body, Bytes, StdError};
use tonic::{Code, Response, Status, Streaming};

use super::subscription::{self, Event, Limits};
use crate::mesh::policy::{DefaultPolicy, ServerPolicy};
use crate::mesh::ports::PortSet;
use crate::net::drain::Drain;
use crate::wire::inbound::inbound_server_policies_client::InboundServerPoliciesClient;
use crate::wire::inbound::{PortSpec, Server};

/// Each watched port is a stream of the control plane. Apps listen on a handful; a peer that names port after port in transport headers
/// must not make every pod of the cluster open streams without end.
const LAZY_PORTS_MAX: usize = 256;

/// What the store needs to know from the start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who we are to the control plane, passed on as it is.
    pub workload: String,
    pub default_policy: DefaultPolicy,
    pub cluster_networks: Vec<IpNet>,
    /// Ports whose default is opaque.
    pub opaque_ports: PortSet,
    pub detect_timeout: Duration,
    /// Ports watched from the start, for as long as the proxy runs.
    pub eager_ports: BTreeSet<u16>,
    /// How long the policy of an unused port is kept.
    pub idle_timeout: Duration,
    pub limits: Limits,
}

/// The policies of all ports of this pod. Clones are the same store.
#[derive(Clone)]
pub struct Policies(Arc<Shared>);

struct Shared {
    settings: Settings,
    subscribe: Box<Subscribe>,
    drain: Drain,
    ports: Mutex<HashMap<u16, Port>>,
    /// How many streams are interrupted now.
    interrupted: AtomicUsize,
}

struct Port {
    policy: watch::Sender<Arc<ServerPolicy>>,
    is_lazy: bool,
}

type Subscribe = dyn Fn(PortSpec) -> BoxFuture<'static, Result<Response<Streaming<Server>>, Status>> + Send + Sync;

impl Policies {
    /// Starts watching the eager ports over `channel`.
    pub fn new<S>(channel: S, settings: Settings, drain: Drain) -> Self
    where
        S: GrpcService<tonic::body::Body> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<StdError>,
        S::ResponseBody: Body<Data = Bytes> + Send + 'static,
        <S::ResponseBody as Body>::Error: Into<StdError> + Send,
    {
        let client = InboundServerPoliciesClient::new(channel);
        let subscribe: Box<Subscribe> = Box::new(move |port| {
            let mut client = client.clone();
            Box::pin(async move { client.watch_port(port).await })
        });
        let eager = settings.eager_ports.clone();
        let interrupted = AtomicUsize::new(0);
        let policies = Self(Arc::new(Shared { settings, subscribe, drain, ports: Mutex::default(), interrupted }));
        let mut ports = policies.0.ports();
        for port in eager {
            ports.insert(port, policies.watch(port, false));
        }
        drop(ports);
        policies
    }

    /// What is in force for `port`: its current value, and every change. Held receivers keep the port watched.
    pub fn port(&self, port: u16) -> watch::Receiver<Arc<ServerPolicy>> {
        let mut ports = self.0.ports();
        let lazy = ports.values().filter(|port| port.is_lazy).count();
        match ports.entry(port) {
            Entry::Occupied(known) => known.get().policy.subscribe(),
            Entry::Vacant(_) if lazy >= LAZY_PORTS_MAX => {
                tracing::warn!(port, max = LAZY_PORTS_MAX, "refusing: too many ports are being watched");
                watch::channel(Arc::new(ServerPolicy::invalid())).1
            }
            Entry::Vacant(vacant) => vacant.insert(self.watch(port, true)).policy.subscribe(),
        }
    }

    /// How many ports are watched.
    pub fn watched(&self) -> usize {
        self.0.ports().len()
    }

    /// How many of them the control plane cannot be asked about now, so that what it said before (or the default) is in force.
    pub fn stale(&self) -> usize {
        self.0.interrupted.load(Ordering::Relaxed)
    }

    fn watch(&self, port: u16, is_lazy: bool) -> Port {
        let policy = watch::Sender::new(Arc::new(self.0.settings.default_for(port)));
        let (shared, sender) = (self.0.clone(), policy.clone());
        self.0.drain.spawn(async move { shared.keep(port, is_lazy, &sender).await });
        Port { policy, is_lazy }
    }
}

impl Settings {
    fn default_for(&self, port: u16) -> ServerPolicy {
        self.default_policy.policy(&self.cluster_networks, self.opaque_ports.contains(port), self.detect_timeout)
    }
}

impl Shared {
    fn ports(&self) -> MutexGuard<'_, HashMap<u16, Port>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the policy of one port current until nobody has asked for it for a while.
    async fn keep(&self, port: u16, is_lazy: bool, policy: &watch::Sender<Arc<ServerPolicy>>) {
        let mut stale = Stale { count: &self.interrupted, is_set: false };
        let mut followed = pin!(self.follow(port, policy, &mut stale));
        loop {
            tokio::select! {
                () = self.drain.started() => return,
                never = &mut followed => match never {},
                () = unused(policy, self.settings.idle_timeout), if is_lazy => {
                    let mut ports = self.ports();
                    // Receivers are only made under this lock.
                    if policy.receiver_count() == 0 {
                        ports.remove(&port);
                        return;
                    }
                }
            }
        }
    }

    async fn follow(&self, port: u16, policy: &watch::Sender<Arc<ServerPolicy>>, stale: &mut Stale<'_>) -> Infallible {
        let asked = PortSpec { workload: self.settings.workload.clone(), port: port.into() };
        // These say that the question is wrong; it will not be another one the next time.
        let is_final = |code| matches!(code, Code::InvalidArgument | Code::FailedPrecondition);
        let status = subscription::follow(
            self.settings.limits,
            is_final,
            || (self.subscribe)(asked.clone()),
            |event| match event {
                Event::Message(server) => {
                    stale.set(false);
                    let new = convert::server_policy(server).unwrap_or_else(|error| {
                        tracing::warn!(port, %error, "refusing all: the control plane's policy of the port makes no sense");
                        ServerPolicy::invalid()
                    });
                    policy.send_modify(|held| *held = Arc::new(new.after(held)));
                }
                Event::Interrupted(status) => {
                    stale.set(true);
                    tracing::debug!(port, code = ?status.code(), message = status.message(), "policy stream interrupted");
                }
            },
        )
        .await;
        stale.set(true);
        tracing::warn!(port, code = ?status.code(), message = status.message(), "the control plane will not tell the policy of the port");
        pending().await
    }
}

/// One count of the interrupted streams, given back when its stream is no longer followed.
struct Stale<'c> {
    count: &'c AtomicUsize,
    is_set: bool,
}

impl Stale<'_> {
    fn set(&mut self, is_set: bool) {
        match (self.is_set, is_set) {
            (false, true) => self.count.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.count.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
        self.is_set = is_set;
    }
}

impl Drop for Stale<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// Resolves once nobody has held a receiver for `idle`, as far as a look at both ends of that time tells.
async fn unused<T>(sender: &watch::Sender<T>, idle: Duration) {
    loop {
        sender.closed().await;
        tokio::time::sleep(idle).await;
        if sender.receiver_count() == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
