//! `hawser completion`: shell completions.

use std::io::Write;

use super::Outcome;

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, _out: &mut impl Write) -> anyhow::Result<Outcome> {
    anyhow::bail!("`hawser completion` is not built yet")
}
