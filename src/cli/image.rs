//! `hawser image`: writes a container image of this very binary, for which no container engine is needed.
//!
//! In: the running binary. Out: an archive that `docker load`, `podman load`, `kind load image-archive` and
//! `ctr images import` take; the same binary and flags give the same bytes. [`binary`] judges whether it can run alone,
//! [`archive`] makes the bytes. Start at [`run`].

mod archive;
mod binary;

use std::fs::{self, File};
use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;

use super::{Outcome, output};

pub(super) use binary::Unfit;

/// Write a container image of this very binary
///
/// The archive goes to standard output or a file, for `docker load`, `podman load`, `kind load image-archive` or
/// `ctr -n k8s.io images import`. The same binary gives the same bytes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to write the archive, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The platform the image must be for; it is always that of this binary
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<String>,
    /// The name of the image
    #[arg(long, value_name = "NAME[:TAG]", default_value = concat!("hawser:", env!("CARGO_PKG_VERSION")))]
    tag: Reference,
    /// What starts without a command: hawser, or a role under the name that a stock Linkerd starts it by
    #[arg(long, value_name = "WHAT", default_value = "hawser")]
    entry_point: EntryPoint,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum EntryPoint {
    Hawser,
    /// As the image of linkerd2-proxy
    Proxy,
    /// As the image of proxy-init
    ProxyInit,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    if args.output.is_none() && std::io::stdout().is_terminal() {
        anyhow::bail!("an image is nothing for a terminal: write it to a file with `-o FILE`, or pipe it on");
    }
    let (path, bytes) = binary::running()?;
    let architecture = binary::architecture(&bytes).with_context(|| format!("cannot make an image of {path}"))?;
    let platform = format!("linux/{architecture}");
    if let Some(wanted) = args.platform.as_ref().filter(|wanted| **wanted != platform) {
        anyhow::bail!("this binary is for {platform}; an image for {wanted} is made by the binary for {wanted}");
    }
    let archive = archive::archive(&archive::Image {
        binary: &bytes,
        architecture,
        entry_point: args.entry_point,
        name: &args.tag.to_string(),
        short_name: &args.tag.short(),
    })
    .context("cannot make the image")?;
    match &args.output {
        None => out.write_all(&archive).context("cannot write the image to standard output")?,
        Some(file) => {
            replace(file, &archive).with_context(|| format!("cannot write the image to {}", file.display()))?;
            let size = archive.len() / 1_000_000;
            output::say(&format!("wrote {} ({platform}, {size} MB) to {}", args.tag.short(), file.display()));
        }
    }
    Ok(Outcome::Yes)
}

/// Writes a file whole or not at all: whoever reads it may be a moment later.
fn replace(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // What is no regular file, such as /dev/stdout or a pipe, cannot be replaced.
    if fs::metadata(file).is_ok_and(|metadata| !metadata.is_file()) {
        return File::options().write(true).open(file)?.write_all(bytes);
    }
    let mut partial = file.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, file));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

/// The name of an image, with all that people leave out: `hawser` means `docker.io/library/hawser` and our version.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Reference {
    repository: String,
    tag: String,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not the name of an image, such as hawser:1.0 or registry.example/team/hawser:1.0")]
struct InvalidReference;

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        // A colon before the last slash belongs to a port.
        let (repository, tag) = match text.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (text, env!("CARGO_PKG_VERSION")),
        };
        let first = repository.split('/').next().unwrap_or_default();
        let has_registry = repository.contains('/') && (first.contains(['.', ':']) || first == "localhost");
        let repository = match repository {
            repository if has_registry => repository.to_owned(),
            repository if repository.contains('/') => format!("docker.io/{repository}"),
            repository => format!("docker.io/library/{repository}"),
        };
        let path = repository.split_once('/').map_or(repository.as_str(), |(_, path)| path);
        let in_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        let in_tag = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let name_is_valid = path.split('/').all(|part| {
            part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) && part.chars().all(in_path)
        });
        let host_is_valid = first.is_ascii() && !first.contains(char::is_whitespace);
        let tag_is_valid = (1..=128).contains(&tag.len()) && tag.chars().all(in_tag) && !tag.starts_with(['.', '-']);
        if name_is_valid && host_is_valid && tag_is_valid {
            Ok(Self { repository, tag: tag.into() })
        } else {
            Err(InvalidReference)
        }
    }
}

impl Reference {
    /// As people write it, and Docker lists it.
    fn short(&self) -> String {
        let repository = &self.repository;
        let familiar = repository.strip_prefix("docker.io/library/").or_else(|| repository.strip_prefix("docker.io/"));
        format!("{}:{}", familiar.unwrap_or(repository), self.tag)
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_in_what_people_leave_out_of_image_names() {
        let version = env!("CARGO_PKG_VERSION");
        for (written, full, short) in [
            ("hawser:1.0", "docker.io/library/hawser:1.0", "hawser:1.0"),
            ("team/hawser:1.0", "docker.io/team/hawser:1.0", "team/hawser:1.0"),
            ("registry.example:5000/a/b:1", "registry.example:5000/a/b:1", "registry.example:5000/a/b:1"),
            ("localhost/hawser:x", "localhost/hawser:x", "localhost/hawser:x"),
        ] {
            let reference: Reference = written.parse().unwrap();
            assert_eq!((reference.to_string().as_str(), reference.short().as_str()), (full, short));
        }
        let reference: Reference = "registry.example:5000/hawser".parse().unwrap();
        assert_eq!(reference.to_string(), format!("registry.example:5000/hawser:{version}"));
    }

    #[test]
    fn refuses_what_no_engine_would_take() {
        for text in ["", ":1", "Hawser", "a b", "a//b", "hawser:", "hawser:-x", "hawser:a b", "a/:1", "-a"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_failed_write_leaves_no_file_behind() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("missing/image.tar");
        assert!(replace(&file, b"image").is_err());
        let file = folder.path().join("image.tar");
        fs::write(&file, "old").unwrap();
        replace(&file, b"new").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(fs::read(&file).unwrap(), b"new");
    }
}
