//! What the control plane says of the targets that the app connects to, kept while it is used.
//!
//! In: the address an app connected to, or the name that an ingress or a client of a gateway chose. Out: a [`Target`], whose [`Plan`]
//! says which protocol, routes and backends it has, always the latest that is known. Two questions are asked about each, at once: its
//! profile (what a single pod is, what is opaque) and its policy (the routes of a service); and one about each authority that a policy
//! balances over: its endpoints.
//!
//! When the control plane is away, what was known stays in force, and is not forgotten for lack of use either. An address nobody has told
//! us about is then waited for, and after that:
//!
//! - inside the networks of the cluster it is refused. It may be meshed, and plaintext would be exactly what the mesh promises
//!   not to send;
//! - outside of them nobody is meshed, so it is forwarded as it is.
//!
//! A name is of the cluster. Both are counted, in `hawser_outbound_undiscovered_total`. Start at [`Discovery::discover`].

mod balancers;
pub mod endpoints;
mod follow;
mod lookups;
pub mod plan;
mod targets;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::StatusCode;
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
use self::plan::Plan;
pub use self::targets::Place;
use self::targets::Targets;
pub(in crate::proxy) use self::wire::Routing;
use super::backend::{Backend, Queue, Queues};
use super::client::Connector;
use super::metrics::Labels;
use super::settings::{self, Networks};
use super::subscription::Limits;
use crate::mesh::{Endpoint, Name};
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
/// Names that requests of an ingress, or clients of a gateway, may have chosen at a time: a cluster has hundreds of services, and each is
/// three streams of the control plane.
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
    pub names_max: usize,
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
            names_max: NAMES_MAX,
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
    targets: Targets<SocketAddr>,
    named: Targets<Name>,
    /// By authority: services with several addresses share the connections to their endpoints.
    balances: Mutex<HashMap<String, Weak<Backend>>>,
    /// How many streams of the control plane are interrupted now.
    interrupted: Gauge,
    undiscovered: Family<Labels, Counter>,
}

/// Where connections and requests go. What holds it keeps it known.
pub struct Target {
    pub place: Place,
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
    /// What is done as long as nothing is known. What was told once is not kept here: connections that last must not keep the backends of plans
    /// that are over.
    fallback: Option<Arc<Plan>>,
}

/// Why a target cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the control plane has not said within {patience:?} what {place} is")]
    Undiscovered { place: Place, patience: Duration },
    #[error("{max} targets are in use already")]
    TooMany { max: usize },
}

impl Error {
    /// What a request is answered that cannot go on, and under which label that is counted.
    pub fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Undiscovered { .. } => (StatusCode::GATEWAY_TIMEOUT, "failfast"),
            Self::TooMany { .. } => (StatusCode::SERVICE_UNAVAILABLE, "loadshed"),
        }
    }
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
        let named = Targets::new(settings.names_max);
        let shared = Arc::new(Shared {
            settings,
            control,
            connector,
            targets: Targets::new(TARGETS_MAX),
            named,
            balances: Mutex::default(),
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
        let target = shared.targets.find(&address, || shared.learn(Place::Address(address)))?;
        let is_external = !shared.settings.networks.0.is_empty() && !shared.settings.networks.contains(address.ip());
        let patience = match is_external {
            true if target.state.is_untold.load(Ordering::Relaxed) => Duration::ZERO,
            true => EXTERNAL_PATIENCE.min(shared.settings.cluster_patience),
            false => shared.settings.cluster_patience,
        };
        if target.is_told(patience).await {
            return Ok(Discovered { target, fallback: None });
        }
        if !is_external {
            return Err(shared.refused(&target, patience));
        }
        shared.undiscovered("forwarded");
        let plain = wire::forward_plan(Endpoint::plain(address), false, &mut |spec| shared.backend(spec, &[]));
        Ok(Discovered { target, fallback: Some(Arc::new(plain)) })
    }

    /// Whether this proxy can prove who it is: before that it gets nowhere.
    pub fn is_certified(&self) -> bool {
        self.0.connector.tls.identity().is_some()
    }

    /// Resolves once it can.
    pub async fn certified(&self) {
        self.0.connector.tls.certified().await;
    }

    /// Finds out what is called `name`, and what is to be done with connections and requests for it.
    ///
    /// # Errors
    /// Where it is not known in time, or too many are named.
    pub async fn discover_name(&self, name: &Name) -> Result<Discovered, Error> {
        let shared = &self.0;
        let target = shared.named.find(name, || shared.learn(Place::Name(name.clone())))?;
        let patience = shared.settings.cluster_patience;
        match target.is_told(patience).await {
            true => Ok(Discovered { target, fallback: None }),
            false => Err(shared.refused(&target, patience)),
        }
    }
}

impl Discovered {
    /// What is to be done now.
    pub fn plan(&self) -> Arc<Plan> {
        let told = self.target.state.plan.borrow().clone();
        // One of the two there is: what was told stays told.
        told.or_else(|| self.fallback.clone()).unwrap_or_else(|| Arc::new(Plan::refusing("nothing is known of it")))
    }
}

impl Shared {
    /// A target of which nothing is known yet, and is learnt from now on.
    fn learn(self: &Arc<Self>, place: Place) -> Arc<Target> {
        let has_profile = match &place {
            Place::Address(address) => self.settings.networks.contains(address.ip()),
            Place::Name(_) => true,
        };
        let profile = if has_profile { Lookup::Pending } else { Lookup::None };
        let state = Arc::new(TargetState {
            plan: watch::Sender::new(None),
            lookups: Mutex::new(Lookups::new(place.clone(), profile)),
            is_untold: AtomicBool::new(false),
            interrupted: AtomicUsize::new(0),
        });
        let stop = CancellationToken::new();
        let (shared, looked_up, stopped, of) = (self.clone(), state.clone(), stop.clone(), place.clone());
        self.connector.drain.spawn(async move {
            tokio::select! {
                () = shared.look_up(&of, has_profile, &looked_up) => {}
                () = stopped.cancelled() => {}
                () = shared.connector.drain.started() => {}
            }
        });
        Arc::new(Target { place, state, _stop: stop.drop_guard() })
    }

    /// Why a target that may be meshed is not reached.
    fn refused(&self, target: &Target, patience: Duration) -> Error {
        self.undiscovered("refused");
        Error::Undiscovered { place: target.place.clone(), patience }
    }

    fn undiscovered(&self, action: &'static str) {
        self.undiscovered.get_or_create(&Labels::new([("action", action)])).inc();
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
            let (now, idle_timeout) = (Instant::now(), self.settings.idle_timeout);
            self.targets.sweep(now, idle_timeout);
            self.named.sweep(now, idle_timeout);
            lock(&self.balances).retain(|_, backend| backend.strong_count() > 0);
        }
        self.targets.clear();
        self.named.clear();
    }
}

impl Target {
    /// Waits until something is told of it, for so long.
    async fn is_told(&self, patience: Duration) -> bool {
        let mut plan = self.state.plan.subscribe();
        let is_told = matches!(tokio::time::timeout(patience, plan.wait_for(Option::is_some)).await, Ok(Ok(_)));
        self.state.is_untold.fetch_or(!is_told, Ordering::Relaxed);
        is_told
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
        f.debug_tuple("Target").field(&self.place).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
