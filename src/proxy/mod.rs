//! The proxy role: carries every connection of a pod, and proves who is at its other end.
//!
//! Start at [`run`]; the order of the start is in `start`, the two ways through are [`inbound`] and [`outbound`].
//!
//! ```text
//!   admin ─> bundle ─> credentials asked for ─> policies watched ─> outbound accepts ─> first certificate ─> inbound and outbound carry ─> ready
//!   SIGTERM ─> not ready ─> nothing new accepted ─> connections end ─> admin and control plane let go
//! ```

pub mod access_log;
pub mod admin;
pub mod await_ready;
pub mod backend;
pub mod balance;
pub mod client;
pub mod clock;
pub mod connections;
pub mod control;
pub mod credentials;
pub mod detect;
pub mod discovery;
pub mod gateway;
pub mod http;
pub mod inbound;
pub mod metrics;
pub mod orig_proto;
pub mod outbound;
pub mod policy;
pub mod profiles;
pub mod respond;
pub mod settings;
pub mod streams;
pub mod subscription;
pub mod tcp;
pub mod tls;
pub mod transport_header;
pub mod trust;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

pub use settings::Settings;

use self::access_log::AccessLog;
use self::admin::{Admin, Secured};
use self::client::Connector;
use self::clock::Clock;
use self::connections::Table;
use self::control::Channel;
use self::discovery::Discovery;
use self::gateway::Gateway;
use self::inbound::Inbound;
use self::metrics::Metrics;
use self::outbound::Outbound;
use self::policy::Policies;
use self::profiles::Profiles;
use self::settings::{Control, ControlAddr, IdentitySettings, Optional, given};
use self::subscription::Limits;
use self::tls::Tls;
use crate::mesh::Identity;
use crate::net::drain::{self, Drain};
use crate::net::listen::{listen, listen_where_possible};
use crate::net::readiness::Readiness;
use crate::net::sockets;
use crate::net::target::target;
use crate::pki::Bundle;
use crate::telemetry;

/// How often the file of the bundle is looked for: a pod of the control plane is not ready before it is there.
const BUNDLE_POLL: Duration = Duration::from_millis(100);
/// Ports whose policies are watched from the start. Containers declare a few; of a declared range the rest is watched when used.
const EAGER_PORTS_MAX: usize = 256;
/// How often the proxy of a pod that ends looks whether its app is still there.
const APP_POLL: Duration = Duration::from_millis(250);
/// How often the log says that the proxy still waits.
const WAIT_NOTICE: Duration = Duration::from_secs(15);

/// Runs the proxy until it is told to end.
///
/// # Errors
/// Where it cannot start.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    let filter = telemetry::start(&settings.log_filter(), settings.process.log_format)?;
    // One thread needs no work stealing and no locks between cores, and is what injectors ask for.
    let runtime = match settings.process.cores {
        0 | 1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        cores => tokio::runtime::Builder::new_multi_thread().worker_threads(cores).enable_all().build(),
    };
    let runtime = runtime.context("cannot start the async runtime")?;
    let ran = runtime.block_on(Box::pin(start(settings, filter)));
    runtime.shutdown_background();
    ran
}

async fn start(settings: Settings, filter: telemetry::Filter) -> anyhow::Result<()> {
    // Listeners first: a port that is taken should be known at once, and what connects early waits in the backlog.
    let admin_listener = listen_for("admin", settings.admin.admin_listen_addr)?;
    let inbound_listener = listen_for("inbound", settings.inbound.inbound_listen_addr)?;
    let outbound_listeners = listen_where_possible(&settings.outbound_listen_addrs())
        .map_err(|(address, error)| cannot_listen("outbound", address, error))?;
    let readiness = Readiness::default();
    let certificate = readiness.block("the first certificate");
    let shutdown = Arc::new(Notify::new());
    let metrics = Metrics::new();
    let connections = Table::default();
    // The connections that are carried, and what they need until the last of them has ended.
    let (drain, tasks) = (Drain::new(), Drain::new());
    let admin = Arc::new(Admin {
        connections: connections.clone(),
        filter: Some(filter),
        metrics: metrics.clone(),
        port: settings.admin.admin_listen_addr.port(),
        readiness: readiness.clone(),
        secured: OnceLock::new(),
        shutdown: settings.admin.shutdown_endpoint_enabled.then(|| shutdown.clone()),
    });
    tasks.spawn(admin.clone().serve(admin_listener, tasks.clone()));

    let serving = async {
        let bundle = bundle(&settings.identity).await?;
        tracing::info!(bundle = bundle.sha256_hex(), "believing what the bundle vouches for");
        let (bundle_sender, bundle) = watch::channel(Arc::new(bundle));
        let (credentials_sender, mut credentials) = watch::channel(None);
        let tls = Tls::new(bundle.clone(), credentials.clone())
            .bounding_connections(settings.identity.connections_end_with_certificates);
        let identity_metrics = credentials::Metrics::register(&metrics);
        tasks.spawn(credentials::keep(
            (&settings.identity).into(),
            tls.clone(),
            bundle.clone(),
            credentials_sender,
            identity_metrics,
            tasks.clone(),
        ));
        let clock = Clock::register(&mut metrics.registry());
        let following = trust::follow(
            trust_settings(&settings),
            tls.clone(),
            bundle_sender,
            clock.clone(),
            metrics.clone(),
            tasks.clone(),
        );
        tasks.spawn(async move {
            if let Err(error) = following.await {
                tracing::warn!(%error, "cannot be told the bundle live");
            }
        });
        let control = &settings.control;
        let channel = |address: &ControlAddr, name: &Option<Optional<Identity>>| {
            Channel::new(address.clone(), given(name).cloned(), &tls, tasks.clone())
                .map(|channel| channel.counted(&metrics))
                .with_context(|| format!("cannot use the control plane at {address}"))
        };
        let policy = channel(&control.policy_svc_addr, &control.policy_svc_name)?;
        let destination = channel(&control.destination_svc_addr, &control.destination_svc_name)?;
        let policies = Policies::new(policy.clone(), policy_settings(&settings), tasks.clone());
        let secured =
            Secured { bundle, clock, credentials: credentials.clone(), policies: policies.clone(), tls: tls.clone() };
        let _first = admin.secured.set(secured);
        let access_log = match given(&settings.process.access_log) {
            Some(format) => Some(AccessLog::start(*format, &metrics).context("cannot start the access log")?),
            None => None,
        };
        let profiles = Some(Profiles::new(destination.clone(), profile_settings(&settings), tasks.clone()));
        let inbound = Inbound::new(
            inbound::Options { access_log, profiles, ..(&settings).into() },
            tls.clone(),
            policies,
            connections.clone(),
            metrics.clone(),
            drain.clone(),
        );
        let connector = Arc::new(Connector {
            options: (&settings).into(),
            tls,
            connections,
            metrics: metrics.clone(),
            drain: drain.clone(),
        });
        let discovery = Discovery::new(destination, policy, (&settings).into(), connector);
        let outbound = Arc::new(Outbound::new(discovery, metrics, drain.clone(), (&settings).into()));
        let gateway = Gateway::new(settings.inbound.inbound_gateway_suffixes.clone(), outbound.clone());
        let inbound = inbound.through(gateway);
        // Before the certificate: connections wait for that, but those of the proxy's own must be known for what they are.
        for listener in outbound_listeners {
            drain.spawn(outbound.clone().serve(listener, target));
        }
        first_certificate(&mut credentials).await?;
        drain.spawn(Arc::new(inbound).serve(inbound_listener));
        drop(certificate);
        tracing::info!(identity = %settings.identity.identity_local_name, "ready");
        std::future::pending::<anyhow::Result<()>>().await
    };
    let ending = async {
        drain::signal().await.context("cannot wait for signals")?;
        let _ending = readiness.block("the end of the app");
        if settings.process.outlasts_app {
            let grace = settings.process.shutdown_grace_period;
            tracing::info!("going on until the app has ended");
            let _ended = tokio::time::timeout(grace, app_ended()).await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        failed = serving => return failed,
        ended = ending => ended?,
        () = shutdown.notified() => {}
    }
    tracing::info!("draining");
    let _draining = readiness.block("the drain");
    drain.start();
    let grace = settings.process.shutdown_grace_period;
    if !drain.finish(grace).await {
        tracing::warn!(?grace, "leaving before all connections have ended");
    }
    tasks.start();
    Ok(())
}

/// Resolves when nobody else has a connection or listens in this pod; at once where that cannot be known.
async fn app_ended() {
    loop {
        match sockets::own_user().and_then(sockets::others_are_left) {
            Ok(true) => tokio::time::sleep(APP_POLL).await,
            Ok(false) => return,
            Err(error) => return tracing::warn!(%error, "cannot see whether the app has ended"),
        }
    }
}

fn listen_for(which: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    listen(address).map_err(|error| cannot_listen(which, address, error))
}

fn cannot_listen(which: &str, address: SocketAddr, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("cannot listen on {address} for {which} connections"))
}

/// The bundle: from the settings, or from a file that another container of the pod writes.
async fn bundle(settings: &IdentitySettings) -> anyhow::Result<Bundle> {
    // What a pod was created with may have been replaced since; what its proxy was told before a restart has not been.
    if let Some(kept) = kept_in(settings).and_then(trust::kept) {
        return Ok(kept);
    }
    let pem = settings.identity_trust_anchors.as_deref().filter(|pem| !pem.trim().is_empty());
    match (pem, &settings.trust_bundle_file) {
        (Some(pem), _) => Bundle::parse_pem(pem).context("cannot use LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS"),
        (None, Some(file)) => Ok(bundle_file(file).await),
        (None, None) => {
            anyhow::bail!("neither LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS nor HAWSER_TRUST_BUNDLE_FILE is set")
        }
    }
}

/// Waits until the file holds a bundle. One that is half written is no bundle yet.
async fn bundle_file(file: &Path) -> Bundle {
    let mut noticed_at = tokio::time::Instant::now();
    loop {
        let problem = match tokio::fs::read_to_string(file).await {
            Ok(pem) => match Bundle::parse_pem(&pem) {
                Ok(bundle) => return bundle,
                Err(error) => telemetry::error_chain(&error),
            },
            Err(error) => error.to_string(),
        };
        if noticed_at.elapsed() >= WAIT_NOTICE {
            noticed_at = tokio::time::Instant::now();
            tracing::warn!(file = %file.display(), problem, "waiting for the trust bundle");
        }
        tokio::time::sleep(BUNDLE_POLL).await;
    }
}

fn trust_settings(settings: &Settings) -> trust::Settings {
    let identity = &settings.identity;
    trust::Settings {
        service: identity.identity_svc_addr.clone(),
        server: given(&identity.identity_svc_name).cloned(),
        folder: kept_in(identity).map(Path::to_owned),
        limits: limits(&settings.control),
    }
}

/// Where the bundle is kept; nowhere where another container of the pod keeps it for us.
fn kept_in(settings: &IdentitySettings) -> Option<&Path> {
    settings.identity_dir.as_deref().filter(|_| settings.trust_bundle_file.is_none())
}

fn policy_settings(settings: &Settings) -> policy::Settings {
    let (control, inbound) = (&settings.control, &settings.inbound);
    let admin_port = settings.admin.admin_listen_addr.port();
    let ports = inbound.inbound_ports.ranges().cloned().flatten().take(EAGER_PORTS_MAX);
    let gateway_port = (!inbound.inbound_gateway_suffixes.is_empty()).then_some(inbound.inbound_listen_addr.port());
    policy::Settings {
        workload: control.policy_workload.clone(),
        default_policy: inbound.inbound_default_policy,
        cluster_networks: control.policy_cluster_networks.0.clone(),
        opaque_ports: inbound.inbound_ports_disable_protocol_detection.clone(),
        detect_timeout: inbound.inbound_detect_timeout,
        eager_ports: ports.chain([admin_port]).chain(gateway_port).collect(),
        idle_timeout: inbound.inbound_discovery_idle_timeout,
        limits: limits(control),
    }
}

fn profile_settings(settings: &Settings) -> profiles::Settings {
    let control = &settings.control;
    profiles::Settings {
        context: control.destination_context.clone(),
        suffixes: control.destination_profile_suffixes.clone(),
        initial_timeout: control.destination_profile_initial_timeout,
        idle_timeout: settings.inbound.inbound_discovery_idle_timeout,
        limits: limits(control),
    }
}

/// How long streams of the control plane may take for what.
fn limits(control: &Control) -> Limits {
    Limits {
        initial: control.control_stream_initial_timeout,
        idle: control.control_stream_idle_timeout,
        lifetime: control.control_stream_lifetime,
    }
}

async fn first_certificate(
    credentials: &mut watch::Receiver<Option<Arc<credentials::Credentials>>>,
) -> anyhow::Result<()> {
    loop {
        match tokio::time::timeout(WAIT_NOTICE, credentials.wait_for(Option::is_some)).await {
            Ok(certified) => return certified.map(drop).context("nobody asks for a certificate any more"),
            Err(_) => tracing::warn!("waiting for the first certificate"),
        }
    }
}
