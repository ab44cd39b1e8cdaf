//! `hawser trust create`: an anchor and an issuer as files, made without a cluster.
//!
//! Keys are readable by their owner only from the moment they are files, and nothing that is there is written over without being told to: an
//! anchor whose key is gone cannot be rotated.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};

use crate::cli::{Outcome, output, passphrase};
use crate::mesh::identity::is_label;
use crate::pki::encrypted;
use crate::pki::{Created, KeyKind, Wish, create, parse_duration};

/// The files, by what is in them.
const ANCHOR: &str = "ca.crt";
const ANCHOR_KEY: &str = "ca.key";
const ISSUER: &str = "issuer.crt";
const ISSUER_KEY: &str = "issuer.key";

/// Make a trust anchor and an issuer as files, without a cluster
///
/// Writes ca.crt, ca.key, issuer.crt and issuer.key, keys readable by you only, and encrypted where there is a passphrase. `hawser install --apply` takes them
/// (`--identity-trust-anchors-file` and others). The anchor's key need not be in the cluster, nor on any machine that is connected to one: without it
/// nobody can make another issuer, and nobody can rotate the anchor either.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The folder for the files, made if it is missing
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// The domain of all identities, as the mesh will have it
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    identity_trust_domain: String,
    /// The kind of both keys: p256 or p384
    #[arg(long, value_name = "KIND", default_value = "p256")]
    key: KeyKind,
    /// How long the anchor is valid
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "3652d")]
    anchor_lifetime: Duration,
    /// How long the issuer is valid: nobody renews it but whoever holds the anchor's key
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "365d")]
    issuer_lifetime: Duration,
    /// Encrypt both keys (PKCS #8, as OpenSSL does) with the passphrase in the first line of this file; - asks for it, or reads standard input
    #[arg(long, value_name = "FILE")]
    key_passphrase_file: Option<PathBuf>,
    /// Write over files that are there
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let domain = args.identity_trust_domain.as_str();
    if !domain.split('.').all(is_label) {
        bail!("{domain:?} is no trust domain: a DNS name in lower case, such as cluster.local");
    }
    if args.issuer_lifetime.is_zero() || args.anchor_lifetime < args.issuer_lifetime {
        bail!("an issuer must be valid for a while, and its anchor for at least as long");
    }
    let wish = Wish { trust_domain: domain, key: args.key, anchor: args.anchor_lifetime, issuer: args.issuer_lifetime };
    let passphrase = args.key_passphrase_file.as_deref().map(|file| passphrase::read(file, true)).transpose()?;
    let mut created = create(wish, SystemTime::now()).context("cannot make an anchor and an issuer")?;
    if let Some(passphrase) = passphrase {
        for key in [&mut created.anchor_key, &mut created.issuer_key] {
            *key = encrypted::encrypt(key, &passphrase)?;
        }
    }
    write(&args.output, &created, args.force)?;
    let shown = |name: &str| args.output.join(name).display().to_string();
    writeln!(out, "{}  the trust anchor, until {}", shown(ANCHOR), output::instant(created.anchor_not_after))?;
    writeln!(out, "{}  its key: keep it where no cluster is", shown(ANCHOR_KEY))?;
    writeln!(out, "{}  the issuer, until {}", shown(ISSUER), output::instant(created.issuer_not_after))?;
    writeln!(out, "{}  its key", shown(ISSUER_KEY))?;
    Ok(Outcome::Yes)
}

/// All of them or, where one is there already, none.
fn write(folder: &Path, created: &Created, force: bool) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
    let files = [
        (ANCHOR_KEY, &created.anchor_key, 0o600),
        (ISSUER_KEY, &created.issuer_key, 0o600),
        (ANCHOR, &created.anchor, 0o644),
        (ISSUER, &created.issuer, 0o644),
    ];
    if !force {
        for (name, ..) in &files {
            let file = folder.join(name);
            if fs::symlink_metadata(&file).is_ok() {
                bail!("`{}` is there already; --force writes over it", file.display());
            }
        }
    }
    for (name, text, mode) in files {
        let file = folder.join(name);
        let cannot = || format!("cannot write `{}`", file.display());
        if force {
            // Not into what is there: it may be readable by others, or somewhere else by a link.
            match fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(cannot),
                _ => {}
            }
        }
        let mut opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&file).with_context(cannot)?;
        opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all()).with_context(cannot)?;
    }
    Ok(())
}
