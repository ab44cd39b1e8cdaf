//! The init role: bends a pod's connections towards its proxy, then exits.

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("the init role is not built yet")
}
