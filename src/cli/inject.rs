//! `hawser inject`: manifests in, meshed manifests out.

use std::io::Write;

use super::{Global, Outcome};

/// Add the mesh to manifests
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_global: &Global, _args: Args, _out: &mut impl Write) -> anyhow::Result<Outcome> {
    anyhow::bail!("`hawser inject` is not built yet")
}
