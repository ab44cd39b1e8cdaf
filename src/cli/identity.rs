//! `hawser identity`: the certificates pods prove themselves with.

use std::io::Write;

use super::{Global, Outcome};

/// Show and verify the certificates of pods
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(global: &Global, _args: Args, _out: &mut impl Write) -> anyhow::Result<Outcome> {
    super::block_on(async { Ok(crate::cluster::client::connect(&global.cluster()).await?) })?;
    anyhow::bail!("`hawser identity` is not built yet")
}
