//! The proxy role: carries every connection of a pod, and proves who is at its other end.

pub mod backend;
pub mod balance;
pub mod client;
pub mod connections;
pub mod control;
pub mod credentials;
pub mod detect;
pub mod discovery;
pub mod http;
pub mod inbound;
pub mod metrics;
pub mod orig_proto;
pub mod outbound;
pub mod policy;
pub mod respond;
pub mod settings;
pub mod subscription;
pub mod tcp;
pub mod tls;
pub mod transport_header;

pub use settings::Settings;

pub fn run(_settings: Settings) -> anyhow::Result<()> {
    anyhow::bail!("the proxy role is not built yet")
}
