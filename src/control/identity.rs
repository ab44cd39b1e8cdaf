//! The identity role: CSR and token in, leaf out.

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("the identity role is not built yet")
}
