//! `hawser image`: writes a container image of this binary.

use std::io::Write;

use super::Outcome;

/// Write a container image of this very binary
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, _out: &mut impl Write) -> anyhow::Result<Outcome> {
    anyhow::bail!("`hawser image` is not built yet")
}
