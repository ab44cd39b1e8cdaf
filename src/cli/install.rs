//! `hawser install`: the whole installation, as YAML or applied.

use std::io::Write;

use super::{Global, Outcome};

/// Print the installation, to be piped to `kubectl apply -f -`
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_global: &Global, _args: Args, _out: &mut impl Write) -> anyhow::Result<Outcome> {
    anyhow::bail!("`hawser install` is not built yet")
}
