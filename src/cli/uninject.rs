//! `hawser uninject`: meshed manifests in, plain manifests out.

use std::io::Write;

use super::Outcome;

/// Remove the mesh from manifests
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _out: &mut impl Write) -> anyhow::Result<Outcome> {
    anyhow::bail!("`hawser uninject` is not built yet")
}
