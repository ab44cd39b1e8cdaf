//! `hawser edges`: who talks to whom, and whether it is secured.

use std::io::Write;

use super::{Global, Outcome};

/// Show who talks to whom, and whether it is secured
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(global: &Global, _args: Args, _out: &mut impl Write) -> anyhow::Result<Outcome> {
    super::block_on(async { Ok(crate::cluster::client::connect(&global.cluster()).await?) })?;
    anyhow::bail!("`hawser edges` is not built yet")
}
