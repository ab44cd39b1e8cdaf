//! The destination role: service name in, stream of endpoints out.

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("the destination role is not built yet")
}
