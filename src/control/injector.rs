//! The injector role: admission review in, patch out.
//!
//! ```text
//!   facts.rs        knows bundle, values and the annotations of namespaces, from watches
//!   certificate.rs  keeps the webhook's own certificate, and the caBundle by which the API server believes it
//!   webhook.rs      serves HTTPS and answers reviews; manifest/inject.rs decides and meshes
//! ```
//!
//! It admits every pod: one that cannot be meshed is created as it is, with a warning to who creates it, and an event. Until it knows the bundle it
//! is not ready, and answers no review of a pod that wants the mesh: the webhook's failurePolicy says what becomes of those.
//! Only pods are reviewed: Services say their opaque ports themselves.
//!
//! Its ServiceAccount needs, in the whole cluster: `get`, `list`, `watch` of `namespaces`; `get`, `list`, `watch`, `patch` of
//! MutatingWebhookConfiguration `hawser-injector`; `create`, `patch` of `events.events.k8s.io`. In the namespace of the control plane: `get`, `update` of
//! Secret `hawser-injector-tls`; `get`, `list`, `watch` of ConfigMaps `hawser-config` and `hawser-trust-bundle`.
//!
//! Start at [`run`].

pub mod certificate;
mod events;
pub mod facts;
pub mod webhook;

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use super::{Common, Role, trust_bundle};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Where the API server asks for reviews
    #[arg(long, env = "HAWSER_INJECTOR_ADDRESS", default_value = "[::]:8443", value_name = "IP:PORT")]
    address: SocketAddr,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let Args { common, address } = args;
    super::start(common, async |role: Role| {
        let certified = role.readiness.block("the webhook's certificate and caBundle");
        let informed = role.readiness.block("the trust bundle and the namespaces");
        trust_bundle::keep_copy(&role);
        let metrics = {
            let mut registry = role.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            webhook::Metrics::register(&mut registry)
        };
        let facts = facts::Facts::follow(&role, informed);
        let tls = certificate::keep(&role, certified);
        let events = events::Events::start(&role);
        let webhook = Arc::new(webhook::Webhook::new(&role.common.control_namespace, facts, events, metrics));
        webhook::listen(address, webhook, tls, &role.drain).await?;
        Ok(())
    })
}
