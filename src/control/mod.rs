//! The roles of the control plane, and what they share at start: logs, Kubernetes client, admin port, drain.
//!
//! Each role is `hawser run <role>` in a pod of its own, with the least rights that do its work. Start at [`start`].

mod admin;
mod answers;
pub mod destination;
mod grpc;
pub mod identity;
pub mod index;
pub mod injector;
pub mod policy;
pub mod trust_bundle;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use prometheus_client::registry::Registry;

use crate::net::drain::{self, Drain};
use crate::net::readiness::Readiness;
use crate::telemetry::{self, LogFormat};

/// How long a role may finish what it is doing after SIGTERM: less than the pods' grace period of 30 s.
const DRAIN_GRACE: Duration = Duration::from_secs(20);

/// Settings that every role of the control plane has.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Where the admin server listens: /live, /ready and /metrics
    #[arg(long, env = "HAWSER_ADMIN_ADDRESS", value_name = "IP:PORT")]
    pub admin_address: SocketAddr,
    /// The namespace of the control plane
    #[arg(long, env = "HAWSER_NAMESPACE", default_value = "hawser", value_name = "NAMESPACE")]
    pub control_namespace: String,
    /// The domain of all identities
    #[arg(long, env = "HAWSER_TRUST_DOMAIN", default_value = "cluster.local", value_name = "DOMAIN")]
    pub trust_domain: String,
    /// The domain of the cluster's DNS names
    #[arg(long, env = "HAWSER_CLUSTER_DOMAIN", default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// What to log, as an env-filter
    #[arg(long, env = "HAWSER_LOG", default_value = "warn,hawser=info", value_name = "FILTER")]
    pub log: String,
    /// How log lines look
    #[arg(long, env = "HAWSER_LOG_FORMAT", default_value = "plain", value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Where to keep a copy of the trust bundle, for the proxy of this pod
    #[arg(long, env = "HAWSER_TRUST_BUNDLE_FILE", value_name = "FILE")]
    pub trust_bundle_file: Option<std::path::PathBuf>,
}

/// What a role works with.
#[derive(Clone)]
pub struct Role {
    pub common: Common,
    pub client: kube::Client,
    pub drain: Drain,
    pub readiness: Readiness,
    /// What `/metrics` shows.
    pub metrics: Arc<Mutex<Registry>>,
    /// What `/trust` tells, of the role that signs.
    trust: Arc<OnceLock<identity::authority::Status>>,
}

impl Role {
    /// Has `/trust` tell what is signed with.
    fn tell_trust(&self, status: identity::authority::Status) {
        // Set once, at start; a second would be the same.
        let _ = self.trust.set(status);
    }
}

/// Runs a role until it is told to end: logs, client and admin server first, then `work`, which spawns its tasks
/// through [`Role::drain`] and returns once they are set up.
///
/// # Errors
/// Those of the set-up: a role that cannot start says why and exits, and Kubernetes starts it again.
pub fn start<F>(common: Common, work: impl FnOnce(Role) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    telemetry::start(&common.log, common.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One core's worth: issuing and discovery are bursts, and an idle thread per core costs memory.
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(async {
        let client = kube::Client::try_default().await.context("cannot make a Kubernetes client")?;
        let role = Role {
            common,
            client,
            drain: Drain::new(),
            readiness: Readiness::default(),
            metrics: Arc::new(Mutex::new(Registry::default())),
            trust: Arc::default(),
        };
        let start_up = role.readiness.block("start-up");
        admin::listen(&role).await?;
        work(role.clone()).await?;
        drop(start_up);
        drain::signal().await.context("cannot wait for signals")?;
        tracing::info!("draining");
        role.drain.start();
        if !role.drain.finish(DRAIN_GRACE).await {
            tracing::warn!(grace = ?DRAIN_GRACE, "leaving before all work has ended");
        }
        Ok(())
    })
}
