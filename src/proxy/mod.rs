//! The proxy role: carries every connection of a pod, and proves who is at its other end.

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("the proxy role is not built yet")
}
