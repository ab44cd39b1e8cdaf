//! `hawser check`: is the mesh healthy?

use std::io::Write;

use super::{Global, Outcome};

/// Check that the mesh is healthy
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(global: &Global, _args: Args, _out: &mut impl Write) -> anyhow::Result<Outcome> {
    super::block_on(async { Ok(crate::cluster::client::connect(&global.cluster()).await?) })?;
    anyhow::bail!("`hawser check` is not built yet")
}
