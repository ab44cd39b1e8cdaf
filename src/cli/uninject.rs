//! `hawser uninject`: meshed manifests in, plain manifests out.

use std::io::Write;

use super::Outcome;
use super::manifests::{self, Input};
use crate::manifest::documents::Edit;

/// Take the mesh out of manifests
///
/// Removes the sidecar and every label and annotation of the mesh, settings included; only `linkerd.io/inject: disabled` stays.
/// What was done to each object goes to standard error.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    input: Input,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    manifests::edit(&args.input, &Edit::Remove, out)
}
