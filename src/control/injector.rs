//! The injector role: admission review in, patch out.

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("the injector role is not built yet")
}
