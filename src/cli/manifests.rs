//! How `inject` and `uninject` read manifests, and say what they did.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::install::{Format, print};
use super::{Outcome, output};
use crate::manifest::documents::{self, Edit, Report};

/// Deeper folders than that are a loop.
const DEPTH_MAX: usize = 32;

/// What to read, and how to print it.
#[derive(Debug, clap::Args)]
pub(super) struct Input {
    /// Files, folders (all YAML and JSON files in them), or - for standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// How to print the manifests
    #[arg(long, short, default_value = "yaml")]
    output: Format,
}

/// Edits all documents and prints them; or, where one cannot be edited as asked, prints none of them.
pub(super) fn edit(input: &Input, edit: &Edit<'_>, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let mut edited = Vec::new();
    let mut reports: Vec<Report> = Vec::new();
    for file in &input.files {
        for (name, text) in read(file, &mut std::io::stdin().lock())? {
            let (documents, found) =
                documents::edit_text(edit, &text).with_context(|| format!("cannot read the YAML of {name}"))?;
            edited.extend(documents);
            reports.extend(found);
        }
    }
    if reports.is_empty() {
        bail!("there is no manifest in what was given");
    }
    let refused = reports.iter().find(|report| matches!(report.outcome, documents::Outcome::Refused(_)));
    if let Some(refused) = refused {
        bail!("{refused}");
    }
    print(&edited, input.output, out)?;
    output::say("");
    for report in &reports {
        for warning in &report.warnings {
            output::say(&format!("‼ {} {:?}: {warning}", report.kind, report.name));
        }
    }
    if reports.iter().all(|report| report.outcome == documents::Outcome::Skipped) {
        output::say("‼ nothing here can be meshed");
    }
    for report in &reports {
        output::say(&report.to_string());
    }
    output::say("");
    Ok(Outcome::Yes)
}

/// The texts of a file, a folder or standard input, each with its name.
fn read(file: &Path, stdin: &mut impl Read) -> anyhow::Result<Vec<(String, String)>> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        stdin.read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(vec![("standard input".into(), text)]);
    }
    let mut files = Vec::new();
    find(file, 0, &mut files)?;
    if files.is_empty() {
        bail!("there is no YAML or JSON file in `{}`", file.display());
    }
    files
        .into_iter()
        .map(|file| {
            let name = format!("`{}`", file.display());
            let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {name}"))?;
            Ok((name, text))
        })
        .collect()
}

fn find(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if !path.is_dir() {
        files.push(path.into());
        return Ok(());
    }
    if depth == DEPTH_MAX {
        bail!("`{}` is more than {DEPTH_MAX} folders deep", path.display());
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read the folder `{}`", path.display()))?;
    let mut entries: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    entries.sort();
    for entry in entries {
        let is_manifest =
            entry.extension().is_some_and(|kind| ["yaml", "yml", "json"].iter().any(|known| kind == *known));
        if entry.is_dir() || is_manifest {
            find(&entry, depth + 1, files)?;
        }
    }
    Ok(())
}
