//! `hawser version`: which version this is, and which one runs in the cluster.

use std::io::Write;

use super::{Global, Outcome};

/// Show the versions of the client, the control plane and the proxies
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_global: &Global, _args: Args, _out: &mut impl Write) -> anyhow::Result<Outcome> {
    anyhow::bail!("`hawser version` is not built yet")
}
