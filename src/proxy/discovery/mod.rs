//! What the control plane says of the targets that the app connects to, kept while it is used.
//!
//! In: the address an app connected to. Out: a [`Target`], whose [`Plan`] says which protocol, routes and backends it has, always the
//! latest that is known. Two questions are asked about each address, at once: its profile (what a single pod is, what is
//! opaque) and its policy (the routes of a service); and one about each authority that a policy balances over: its endpoints.
//!
//! When the control plane is away, what was known stays in force, and is not forgotten for lack of use either. An address nobody has told
//! us about is then waited for, and after that:
//!
//! - inside the networks of the cluster it is refused. It may be meshed, and plaintext would be exactly what the mesh promises
//!   not to send;
//! - outside of them nobody is meshed, so it is forwarded as it is.
//!
//! Both are counted, in `hawser_outbound_undiscovered_total`. Start at [`Discovery::discover`].

mod balancers;
pub mod endpoints;
mod follow;
mod lookups;
pub mod plan;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::client::GrpcService;
use tonic::codegen::{Body, Bytes, StdError};
use tonic::{Response, Status, Streaming};

use self::lookups::{Lookup, Lookups};
use self::plan::{HttpRule, Plan};
pub(in crate::proxy) use self::wire::{Routing, authority};
use super::backend::{Backend, Queue, Queues};
use super::client::Connector;
use super::metrics::Labels;
use super::settings::{self, Networks};
use super::subscription::Limits;
use crate::mesh::Endpoint;
use crate::wire::destination::destination_client::DestinationClient;
use crate::wire::destination::{DestinationProfile, GetDestination, Update};
use crate::wire::outbound::outbound_policies_client::OutboundPoliciesClient;
use crate::wire::outbound::{OutboundPolicy, TrafficSpec};

/// Targets known at a time: each is two streams of the control plane, and an app that scans addresses must not open them without end.
const TARGETS_MAX: usize = 10_000;
/// How long a connection into the cluster waits to be told about: the control plane restarts in less, and apps give up not much later.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection out of the cluster waits: all it can gain is a policy about its like.
const EXTERNAL_PATIENCE: Duration = Duration::from_secs(3);
/// How long a policy waits for the profile beside it, which at most says that its port is opaque.
const PROFILE_PATIENCE: Duration = Duration::from_millis(500);
/// Names that requests of an ingress may have chosen at a time; each is a stream of the control plane.
const NAMES_MAX: usize = 1_000;
/// How often it is looked what is not used any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What discovery needs to know from the start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who asks for profiles and endpoints, passed on as it is.
    pub context: String,
    /// Who asks for policies, passed on as it is.
    pub workload: String,
    /// The networks of the cluster, whose addresses have profiles. None given: any address may be one of the cluster.
    pub networks: Networks,
    /// How long a target that nobody uses stays known.
    pub idle_timeout: Duration,
    /// How many requests and connections wait for an endpoint, and how long.
    pub queues: Queues,
    pub limits: Limits,
    pub cluster_patience: Duration,
}

impl From<&settings::Settings> for Settings {
    fn from(settings: &settings::Settings) -> Self {
        let (control, outbound) = (&settings.control, &settings.outbound);
        Self {
            context: control.destination_context.clone(),
            workload: control.policy_workload.clone(),
            networks: control.destination_profile_networks.clone(),
            idle_timeout: outbound.outbound_discovery_idle_timeout,
            queues: Queues {
                http: Queue {
                    capacity: outbound.outbound_http_queue_capacity,
                    failfast: outbound.outbound_http_failfast_timeout,
                },
                tcp: Queue {
                    capacity: outbound.outbound_tcp_queue_capacity,
                    failfast: outbound.outbound_tcp_failfast_timeout,
                },
            },
            limits: Limits {
                initial: control.control_stream_initial_timeout,
                idle: control.control_stream_idle_timeout,
                lifetime: control.control_stream_lifetime,
            },
            cluster_patience: CLUSTER_PATIENCE,
        }
    }
}

/// All targets that are known. Clones are the same.
#[derive(Clone)]
pub struct Discovery(Arc<Shared>);

struct Shared {
    settings: Settings,
    control: Control,
    connector: Arc<Connector>,
    targets: Mutex<HashMap<SocketAddr, Known>>,
    /// By authority: services with several addresses share the connections to their endpoints.
    balances: Mutex<HashMap<String, Weak<Backend>>>,
    /// Authorities that requests have named.
    named: Mutex<HashMap<String, Named>>,
    /// How many streams of the control plane are interrupted now.
    interrupted: Gauge,
    undiscovered: Family<Labels, Counter>,
}

/// Where requests for one authority go.
struct Named {
    rule: Arc<HttpRule>,
    used_at: Instant,
}

struct Known {
    target: Arc<Target>,
    /// Since when nobody has held it, as noticed by the sweep.
    idle_since: Option<Instant>,
}

/// An address the app connects to. What holds it keeps it known.
pub struct Target {
    pub address: SocketAddr,
    state: Arc<TargetState>,
    /// Ends the streams about it.
    _stop: DropGuard,
}

struct TargetState {
    plan: watch::Sender<Option<Arc<Plan>>>,
    lookups: Mutex<Lookups>,
    /// Somebody has waited in vain to be told: the next one outside of the cluster need not.
    is_untold: AtomicBool,
    /// How many of its streams are interrupted now.
    interrupted: AtomicUsize,
}

/// A target that can be used.
#[derive(Clone)]
pub struct Discovered {
    pub target: Arc<Target>,
    /// What is done as long as nothing is known.
    fallback: Option<Arc<Plan>>,
    first: Arc<Plan>,
}

/// Why a target cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the control plane has not said within {patience:?} what {address} is")]
    Undiscovered { address: SocketAddr, patience: Duration },
    #[error("{TARGETS_MAX} targets are in use already")]
    TooMany,
    #[error("{0:?} is no name with a port")]
    Name(String),
}

type Answer<T> = BoxFuture<'static, Result<Response<Streaming<T>>, Status>>;
type Ask<Q, T> = Box<dyn Fn(Q) -> Answer<T> + Send + Sync>;

/// What can be asked.
struct Control {
    profile: Ask<GetDestination, DestinationProfile>,
    policy: Ask<TrafficSpec, OutboundPolicy>,
    endpoints: Ask<GetDestination, Update>,
}

impl Discovery {
    /// Asks over these channels. Runs until the drain of `connector` starts.
    pub fn new<D, P>(destination: D, policy: P, settings: Settings, connector: Arc<Connector>) -> Self
    where
        D: GrpcService<tonic::body::Body> + Clone + Send + Sync + 'static,
        D::Future: Send,
        D::Error: Into<StdError>,
        D::ResponseBody: Body<Data = Bytes> + Send + 'static,
        <D::ResponseBody as Body>::Error: Into<StdError> + Send,
        P: GrpcService<tonic::body::Body> + Clone + Send + Sync + 'static,
        P::Future: Send,
        P::Error: Into<StdError>,
        P::ResponseBody: Body<Data = Bytes> + Send + 'static,
        <P::ResponseBody as Body>::Error: Into<StdError> + Send,
    {
        let profile = DestinationClient::new(destination);
        let endpoints = profile.clone();
        let policy = OutboundPoliciesClient::new(policy);
        let control = Control {
            profile: Box::new(move |question| {
                let mut client = profile.clone();
                Box::pin(async move { client.get_profile(question).await })
            }),
            policy: Box::new(move |question| {
                let mut client = policy.clone();
                Box::pin(async move { client.watch(question).await })
            }),
            endpoints: Box::new(move |question| {
                let mut client = endpoints.clone();
                Box::pin(async move { client.get(question).await })
            }),
        };
        let (interrupted, undiscovered) = (Gauge::default(), Family::default());
        {
            let mut registry = connector.metrics.registry();
            registry.register(
                "hawser_outbound_discovery_interrupted",
                "Streams of the control plane that are down now, so that what they said before is in force",
                interrupted.clone(),
            );
            registry.register(
                "hawser_outbound_undiscovered",
                "Connections to targets of which the control plane had not told, and what was done with them",
                undiscovered.clone(),
            );
        }
        let shared = Arc::new(Shared {
            settings,
            control,
            connector,
            targets: Mutex::default(),
            balances: Mutex::default(),
            named: Mutex::default(),
            interrupted,
            undiscovered,
        });
        let balancers = balancers::Balancers(Arc::downgrade(&shared));
        shared.connector.metrics.registry().register_collector(Box::new(balancers));
        let sweeping = shared.clone();
        shared.connector.drain.spawn(async move { sweeping.sweep().await });
        Self(shared)
    }

    /// Finds out what `address` is, and what is to be done with connections to it.
    ///
    /// # Errors
    /// Where it is not known in time, and may not be forwarded blindly.
    pub async fn discover(&self, address: SocketAddr) -> Result<Discovered, Error> {
        let shared = &self.0;
        let target = shared.target(address)?;
        let is_external = !shared.settings.networks.0.is_empty() && !shared.settings.networks.contains(address.ip());
        let patience = match is_external {
            true if target.state.is_untold.load(Ordering::Relaxed) => Duration::ZERO,
            true => EXTERNAL_PATIENCE.min(shared.settings.cluster_patience),
            false => shared.settings.cluster_patience,
        };
        let mut plan = target.state.plan.subscribe();
        let told = tokio::time::timeout(patience, plan.wait_for(Option::is_some)).await;
        let told = told.ok().and_then(Result::ok).and_then(|plan| plan.clone());
        if let Some(first) = told {
            return Ok(Discovered { target, fallback: None, first });
        }
        target.state.is_untold.store(true, Ordering::Relaxed);
        let action = if is_external { "forwarded" } else { "refused" };
        shared.undiscovered.get_or_create(&Labels::new([("action", action)])).inc();
        if !is_external {
            return Err(Error::Undiscovered { address, patience });
        }
        let plain = wire::forward_plan(Endpoint::plain(address), false, &mut |spec| shared.backend(spec, &[]));
        let plain = Arc::new(plain);
        Ok(Discovered { target, fallback: Some(plain.clone()), first: plain })
    }
}

impl Discovery {
    /// What is done with requests that name their service themselves, as `NAME` or `NAME:PORT`: they are balanced over its endpoints.
    ///
    /// # Errors
    /// Where it is no name, or too many have been named.
    pub fn named(&self, name: &str) -> Result<Arc<HttpRule>, Error> {
        let authority = authority(name, Some(80)).ok_or_else(|| Error::Name(name.into()))?;
        let now = Instant::now();
        let mut named = lock(&self.0.named);
        if let Some(known) = named.get_mut(&authority) {
            known.used_at = now;
            return Ok(known.rule.clone());
        }
        if named.len() >= NAMES_MAX {
            return Err(Error::TooMany);
        }
        let rule = wire::named_rule(authority.clone(), &mut |spec| self.0.backend(spec, &[]));
        let rule = Arc::new(rule);
        named.insert(authority, Named { rule: rule.clone(), used_at: now });
        Ok(rule)
    }
}

impl Discovered {
    /// What is to be done now.
    pub fn plan(&self) -> Arc<Plan> {
        let latest = self.target.state.plan.borrow().clone();
        latest.or_else(|| self.fallback.clone()).unwrap_or_else(|| self.first.clone())
    }
}

impl Shared {
    fn target(self: &Arc<Self>, address: SocketAddr) -> Result<Arc<Target>, Error> {
        let mut targets = lock(&self.targets);
        if let Some(known) = targets.get_mut(&address) {
            known.idle_since = None;
            return Ok(known.target.clone());
        }
        if targets.len() >= TARGETS_MAX {
            let idle = targets.iter().filter(|(_, known)| Arc::strong_count(&known.target) == 1);
            let longest = idle.min_by_key(|(_, known)| known.idle_since.map_or((1, None), |since| (0, Some(since))));
            let address = longest.map(|(address, _)| *address).ok_or(Error::TooMany)?;
            targets.remove(&address);
        }
        let is_clustered = self.settings.networks.contains(address.ip());
        let profile = if is_clustered { Lookup::Pending } else { Lookup::None };
        let state = Arc::new(TargetState {
            plan: watch::Sender::new(None),
            lookups: Mutex::new(Lookups::new(address, profile)),
            is_untold: AtomicBool::new(false),
            interrupted: AtomicUsize::new(0),
        });
        let stop = CancellationToken::new();
        let (shared, looked_up, stopped) = (self.clone(), state.clone(), stop.clone());
        self.connector.drain.spawn(async move {
            tokio::select! {
                () = shared.look_up(address, is_clustered, &looked_up) => {}
                () = stopped.cancelled() => {}
                () = shared.connector.drain.started() => {}
            }
        });
        let target = Arc::new(Target { address, state, _stop: stop.drop_guard() });
        targets.insert(address, Known { target: target.clone(), idle_since: None });
        Ok(target)
    }

    /// Forgets what nobody uses any more, until the drain starts; then everything, so that connections end with their last request.
    async fn sweep(&self) {
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = self.connector.drain.started() => break,
            }
            let now = Instant::now();
            let mut forgotten = Vec::new();
            lock(&self.targets).retain(|_, known| {
                // With the control plane away, what is forgotten could not be learnt again.
                let mut interrupted = known.target.state.interrupted.load(Ordering::Relaxed);
                if let Some(plan) = &*known.target.state.plan.borrow() {
                    for backend in &plan.backends {
                        backend.sweep();
                        interrupted += backend.interrupted.load(Ordering::Relaxed);
                    }
                }
                if Arc::strong_count(&known.target) > 1 {
                    known.idle_since = None;
                    return true;
                }
                let idle_since = *known.idle_since.get_or_insert(now);
                let is_forgotten = interrupted == 0 && now.duration_since(idle_since) >= self.settings.idle_timeout;
                if is_forgotten {
                    forgotten.push(known.target.clone());
                }
                !is_forgotten
            });
            lock(&self.named).retain(|_, named| {
                Arc::strong_count(&named.rule) > 1 || now.duration_since(named.used_at) < self.settings.idle_timeout
            });
            lock(&self.balances).retain(|_, backend| backend.strong_count() > 0);
        }
        lock(&self.targets).clear();
        lock(&self.named).clear();
    }
}

impl TargetState {
    /// Wakes on everything that is learnt.
    fn lookups_changed(&self) -> watch::Receiver<Option<Arc<Plan>>> {
        self.plan.subscribe()
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Target").field(&self.address).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
