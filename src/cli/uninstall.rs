//! `hawser uninstall`: what to delete.

use std::io::Write;

use super::{Global, Outcome};

/// Print what to delete, to be piped to `kubectl delete -f -`
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_global: &Global, _args: Args, _out: &mut impl Write) -> anyhow::Result<Outcome> {
    anyhow::bail!("`hawser uninstall` is not built yet")
}
