//! `hawser trust`: whom the mesh believes, and the replacement of what it believes.
//!
//! In: the ConfigMap of the bundle, where the identity role keeps how a rotation stands. Out: that, for people or as JSON; or a request in the same
//! place, which the identity role does or refuses. No Secret is read.

use std::io::Write;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use serde_json::json;

use super::{Global, Outcome, output};
use crate::cluster::client;
use crate::manifest::names::{BUNDLE_CONFIG_MAP, BUNDLE_KEY, REQUEST_KEY, ROTATION_KEY};
use crate::pki::{Bundle, Phase, Request, Rotation};

/// How often `--watch` looks.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

/// Whom the mesh believes, and how that is replaced
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// End a rotation of the trust anchor, and go back to the old one
    Abort,
    /// Bring back a mesh whose trust anchor has ended: under a new one, without restarting a pod
    ///
    /// The ended anchor's key signs again, until every proxy has heard of the new anchor; from there on it is a rotation as any other. Refused where
    /// the anchor has not ended, for everything else renews itself.
    Recover,
    /// Replace the trust anchor, or the issuer, now
    ///
    /// The identity role does it: this asks for it and returns. `hawser trust status --watch` shows how it goes.
    Rotate(Rotate),
    /// Show the trust anchors, and where a rotation stands
    Status(Status),
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Rotate {
    /// The trust anchor: no pod is restarted, and it takes as long as a certificate lives
    #[arg(long)]
    anchor: bool,
    /// The issuer, under the same anchor
    #[arg(long)]
    issuer: bool,
}

#[derive(Debug, clap::Args)]
struct Status {
    /// How to print it
    #[arg(long, short, default_value = "text")]
    output: Format,
    /// Go on until no rotation is under way
    #[arg(long, short)]
    watch: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Format {
    Json,
    Text,
}

/// What is shown.
#[derive(Debug, Eq, PartialEq, Serialize)]
struct Shown {
    /// The SHA-256 of the bundle.
    bundle: String,
    anchors: Vec<Anchor>,
    rotation: Option<Rotation>,
    /// What the identity role has been asked for and has not looked at yet.
    request: Option<String>,
}

#[derive(Debug, Eq, PartialEq, Serialize)]
struct Anchor {
    subject: String,
    fingerprint: String,
    expires_at: String,
    days_left: i64,
}

pub(super) fn run(global: &Global, args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    super::block_on(async {
        let cluster = client::connect(&global.cluster()).await?;
        let bundles: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &global.hawser_namespace);
        match &args.command {
            Command::Abort => ask(&bundles, Request::Abort).await,
            Command::Recover => ask(&bundles, Request::Recover).await,
            Command::Rotate(rotate) if rotate.anchor => ask(&bundles, Request::RotateAnchor).await,
            Command::Rotate(_) => ask(&bundles, Request::RotateIssuer).await,
            Command::Status(status) => show(&bundles, status, out).await,
        }
    })
}

async fn ask(bundles: &Api<ConfigMap>, request: Request) -> anyhow::Result<Outcome> {
    let shown = read(bundles).await?;
    match (request, &shown.rotation) {
        (Request::Abort, None) => bail!("no rotation is under way"),
        (Request::RotateAnchor | Request::RotateIssuer, Some(_)) => {
            bail!("a rotation of the anchor is under way; `hawser trust abort` ends it")
        }
        _ => {}
    }
    let patch = Patch::Merge(json!({"data": {REQUEST_KEY: request.as_str()}}));
    bundles
        .patch(BUNDLE_CONFIG_MAP, &PatchParams::default(), &patch)
        .await
        .with_context(|| format!("cannot write the request into config map `{BUNDLE_CONFIG_MAP}`"))?;
    output::say("asked the identity role for it; `hawser trust status --watch` shows how it goes");
    Ok(Outcome::Yes)
}

async fn show(bundles: &Api<ConfigMap>, status: &Status, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let mut before = None;
    loop {
        let shown = read(bundles).await?;
        let is_over = shown.rotation.is_none() && shown.request.is_none();
        if before.as_ref() != Some(&shown) {
            match status.output {
                Format::Json => output::json(&shown, out)?,
                Format::Text => out.write_all(text(&shown).as_bytes())?,
            }
            out.flush()?;
        }
        if is_over || !status.watch {
            return Ok(Outcome::Yes);
        }
        before = Some(shown);
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

async fn read(bundles: &Api<ConfigMap>) -> anyhow::Result<Shown> {
    let found = bundles.get_opt(BUNDLE_CONFIG_MAP).await.context("cannot read the trust bundle")?;
    let found =
        found.with_context(|| format!("there is no config map `{BUNDLE_CONFIG_MAP}`; `-L` names another namespace"))?;
    shown(&found, SystemTime::now())
}

fn shown(found: &ConfigMap, now: SystemTime) -> anyhow::Result<Shown> {
    let data = |key: &str| found.data.as_ref().and_then(|data| data.get(key)).filter(|text| !text.is_empty());
    let bundle = data(BUNDLE_KEY).context("the identity role has not published a trust bundle yet")?;
    let bundle = Bundle::parse_pem(bundle).context("cannot read the trust bundle")?;
    let rotation = data(ROTATION_KEY).map(|text| serde_json::from_str(text)).transpose();
    let anchor = |anchor: &crate::pki::Certificate| Anchor {
        subject: anchor.subject().into(),
        fingerprint: anchor.fingerprint(),
        expires_at: output::instant(anchor.not_after()),
        days_left: output::seconds_until(anchor.not_after(), now) / 86_400,
    };
    Ok(Shown {
        bundle: bundle.sha256_hex(),
        anchors: bundle.anchors().iter().map(anchor).collect(),
        rotation: rotation.context("cannot read where the rotation stands")?,
        request: data(REQUEST_KEY).cloned(),
    })
}

fn text(shown: &Shown) -> String {
    let mut table = output::table(&["ANCHOR", "FINGERPRINT", "UNTIL", "DAYS LEFT"]);
    for anchor in &shown.anchors {
        table.add_row([
            &anchor.subject,
            anchor.fingerprint.get(..16).unwrap_or(&anchor.fingerprint),
            &anchor.expires_at,
            &anchor.days_left.to_string(),
        ]);
    }
    let mut lines = vec![output::text(&mut table)];
    if let Some(request) = &shown.request {
        lines.push(format!("asked for: {request}"));
    }
    lines.push(match &shown.rotation {
        None => "rotation: none is under way".into(),
        Some(rotation) => {
            let what = match rotation.phase {
                Phase::Publish => "the new anchor is published; every proxy must believe it before it signs",
                Phase::Switch => "the new anchor takes over",
                Phase::Expire => "the new anchor signs; the old one stays until no certificate under it can be alive",
            };
            format!("rotation: since {}, {what}", output::instant(rotation.since()))
        }
    });
    if let Some(rotation) = shown.rotation.as_ref().filter(|rotation| rotation.waiting_for_count > 0) {
        lines.push(format!("waiting for {}:", rotation.waiting_for_count));
        lines.extend(rotation.waiting_for.iter().map(|pod| format!("  {pod}")));
        let unnamed = rotation.waiting_for_count - rotation.waiting_for.len().min(rotation.waiting_for_count);
        if unnamed > 0 {
            lines.push(format!("  … and {unnamed} more"));
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::pki;

    fn config_map(more: &[(&str, &str)]) -> ConfigMap {
        let anchor = pki::Anchor::create("cluster.local", SystemTime::UNIX_EPOCH).unwrap().certificate().to_pem();
        let mut data = BTreeMap::from([(BUNDLE_KEY.to_owned(), anchor)]);
        data.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        ConfigMap { data: Some(data), ..ConfigMap::default() }
    }

    #[test]
    fn names_who_holds_a_rotation_and_counts_the_rest() {
        let rotation = r#"{"phase":"publish","old":"a","new":"b","since":60,"waiting_for":["shop/web: has not started"],"waiting_for_count":3}"#;
        let shown = shown(&config_map(&[(ROTATION_KEY, rotation)]), SystemTime::UNIX_EPOCH).unwrap();
        let text = text(&shown);
        assert!(text.contains("waiting for 3:\n  shop/web: has not started\n  … and 2 more\n"), "{text}");
        assert_eq!(shown.anchors[0].days_left, 3652);
    }

    #[test]
    fn without_a_rotation_says_so_and_without_a_bundle_is_an_error() {
        let quiet = shown(&config_map(&[]), SystemTime::UNIX_EPOCH).unwrap();
        assert!(text(&quiet).ends_with("rotation: none is under way\n"));
        assert!(shown(&ConfigMap::default(), SystemTime::UNIX_EPOCH).is_err());
        assert!(shown(&config_map(&[(ROTATION_KEY, "broken")]), SystemTime::UNIX_EPOCH).is_err());
    }
}
