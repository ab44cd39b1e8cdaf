//! `hawser trust`: whom the mesh believes, and the replacement of what it believes.
//!
//! In: the ConfigMap of the bundle, where the identity role keeps how a rotation stands; the values of the installation; and what the identity role
//! tells of its issuer, by a port-forward. Out: that, for people or as JSON; or a request in the ConfigMap, which the identity role does or refuses.
//! No Secret is read.

mod create;

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use serde_json::json;

use super::{Global, Outcome, output};
use crate::checks::{Fact, Unread};
use crate::cluster::client;
use crate::cluster::snapshot::{self, Scope};
use crate::manifest::names::{BUNDLE_CONFIG_MAP, BUNDLE_KEY, CONFIG_MAP, ISSUER_SECRET, REQUEST_KEY, ROTATION_KEY};
use crate::manifest::values::Values;
use crate::pki::{Bundle, IdentityTold, Keeper, Phase, Request, Rotation, parse_duration};

/// How often `--watch` looks.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
const DAY_SECONDS: i64 = 86_400;

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
    Create(create::Args),
    /// Replace the trust anchor, or the issuer, now
    ///
    /// The identity role does it: this asks for it and returns. `hawser trust status --watch` shows how it goes.
    Rotate(Rotate),
    /// Show the trust anchors, the issuer, where a rotation stands and who holds it, and what would end when if nothing renewed
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
    /// What the identity role signs with; none where no pod of it can be asked.
    issuer: Option<Issuer>,
    /// Why the identity role cannot use what is stored, or cannot be asked.
    trouble: Vec<String>,
    rotation: Option<Rotation>,
    /// What the identity role has been asked for and has not looked at yet.
    request: Option<String>,
    /// What would end if nothing renewed, the first first.
    ends: Vec<End>,
}

/// Something that would end if nothing renewed.
#[derive(Debug, Eq, PartialEq, Serialize)]
struct End {
    what: &'static str,
    days_left: i64,
    /// Negative where it is over.
    seconds_left: i64,
}

#[derive(Debug, Eq, PartialEq, Serialize)]
struct Issuer {
    subject: String,
    serial: String,
    expires_at: String,
    days_left: i64,
    /// Whether somebody else renews it: hawser renews neither it nor the anchor above it.
    external: bool,
    /// Who that is, as far as its Secret says.
    keeper: Option<Keeper>,
}

#[derive(Debug, Eq, PartialEq, Serialize)]
struct Anchor {
    subject: String,
    fingerprint: String,
    expires_at: String,
    days_left: i64,
}

pub(super) fn run(global: &Global, args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    // Needs no cluster.
    if let Command::Create(args) = &args.command {
        return create::run(args, out);
    }
    super::block_on(async {
        let cluster = client::connect(&global.cluster()).await?;
        let namespace = global.hawser_namespace.as_str();
        let bundles: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
        match &args.command {
            Command::Abort => ask(&bundles, Request::Abort).await,
            Command::Recover => ask(&bundles, Request::Recover).await,
            Command::Create(args) => create::run(args, out),
            Command::Rotate(rotate) if rotate.anchor => ask(&bundles, Request::RotateAnchor).await,
            Command::Rotate(_) => ask(&bundles, Request::RotateIssuer).await,
            Command::Status(status) => show(&cluster.client, namespace, status, out).await,
        }
    })
}

async fn ask(bundles: &Api<ConfigMap>, request: Request) -> anyhow::Result<Outcome> {
    let rotation = rotation(&read(bundles).await?)?;
    match (request, &rotation) {
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

async fn show(
    client: &kube::Client,
    namespace: &str,
    status: &Status,
    out: &mut impl Write,
) -> anyhow::Result<Outcome> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let mut before = None;
    loop {
        let found = read(&maps).await?;
        let values = maps.get_opt(CONFIG_MAP).await.context("cannot read the values of the installation")?;
        let shown = shown(&found, values.as_ref(), told(client, namespace).await, SystemTime::now())?;
        let is_over = shown.rotation.is_none() && shown.request.is_none();
        // That time passes is no news.
        let news = (shown.bundle.clone(), shown.issuer.as_ref().map(|issuer| issuer.serial.clone()));
        let news = (news, shown.trouble.clone(), shown.rotation.clone(), shown.request.clone());
        if before.as_ref() != Some(&news) {
            match status.output {
                Format::Json => output::json(&shown, out)?,
                Format::Text => out.write_all(text(&shown).as_bytes())?,
            }
            out.flush()?;
        }
        if is_over || !status.watch {
            return Ok(Outcome::Yes);
        }
        before = Some(news);
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

async fn read(bundles: &Api<ConfigMap>) -> anyhow::Result<ConfigMap> {
    let found = bundles.get_opt(BUNDLE_CONFIG_MAP).await.context("cannot read the trust bundle")?;
    found.with_context(|| format!("there is no config map `{BUNDLE_CONFIG_MAP}`; `-L` names another namespace"))
}

/// What each pod of the identity role tells; who may not ask, or whom nobody answers, sees the rest all the same.
async fn told(client: &kube::Client, namespace: &str) -> BTreeMap<String, Fact<Option<IdentityTold>>> {
    match snapshot::pods(client, &Scope::Namespace(namespace.to_owned()), None).await {
        Ok(pods) => snapshot::identity_told(client, namespace, &pods).await,
        Err(error) => {
            let why = output::causes(&error).join(": ");
            BTreeMap::from([("the pods of the identity role".to_owned(), Err(Unread(why)))])
        }
    }
}

fn data<'m>(found: &'m ConfigMap, key: &str) -> Option<&'m String> {
    found.data.as_ref().and_then(|data| data.get(key)).filter(|text| !text.is_empty())
}

fn rotation(found: &ConfigMap) -> anyhow::Result<Option<Rotation>> {
    let rotation = data(found, ROTATION_KEY).map(|text| serde_json::from_str(text)).transpose();
    rotation.context("cannot read where the rotation stands")
}

fn shown(
    found: &ConfigMap,
    values: Option<&ConfigMap>,
    told: BTreeMap<String, Fact<Option<IdentityTold>>>,
    now: SystemTime,
) -> anyhow::Result<Shown> {
    let bundle = data(found, BUNDLE_KEY).context("the identity role has not published a trust bundle yet")?;
    let bundle = Bundle::parse_pem(bundle).context("cannot read the trust bundle")?;
    let left = |at: SystemTime| output::seconds_until(at, now);
    let anchor = |anchor: &crate::pki::Certificate| Anchor {
        subject: anchor.subject().into(),
        fingerprint: anchor.fingerprint(),
        expires_at: output::instant(anchor.not_after()),
        days_left: left(anchor.not_after()) / DAY_SECONDS,
    };
    let mut trouble = Vec::new();
    let mut issuer = None;
    if told.is_empty() {
        trouble.push("no pod of the identity role runs".to_owned());
    }
    for (pod, told) in told {
        match told {
            Ok(Some(told)) => {
                trouble.extend(told.trouble.map(|why| format!("{pod}: {why}")));
                issuer = issuer.or(told.issuer);
            }
            Ok(None) => trouble.push(format!("{pod} is of a version that does not tell what it signs with")),
            Err(why) => trouble.push(format!("{pod} cannot be asked: {why}")),
        }
    }
    let issuer_end = issuer.as_ref().map(|issuer| SystemTime::UNIX_EPOCH + Duration::from_secs(issuer.expires_at));
    let values = values.and_then(|values| data(values, "values")).and_then(|text| Values::read(text).ok());
    let of_issuer = values.map(|values| values.identity.issuer);
    let is_external = of_issuer.as_ref().is_some_and(|values| values.external);
    let leaf = of_issuer.and_then(|values| parse_duration(&values.issuance_lifetime).ok());
    let last_anchor = bundle.anchors().iter().map(crate::pki::Certificate::not_after).max();
    let end = |what, seconds_left| End { what, days_left: seconds_left / DAY_SECONDS, seconds_left };
    let ends = [
        leaf.map(|leaf| end("certificates of pods", i64::try_from(leaf.as_secs()).unwrap_or(i64::MAX))),
        issuer_end.map(|at| end("issuer", left(at))),
        last_anchor.map(|at| end("trust anchor", left(at))),
    ];
    Ok(Shown {
        bundle: bundle.sha256_hex(),
        anchors: bundle.anchors().iter().map(anchor).collect(),
        issuer: issuer.zip(issuer_end).map(|(issuer, at)| Issuer {
            subject: issuer.subject,
            serial: issuer.serial,
            expires_at: output::instant(at),
            days_left: left(at) / DAY_SECONDS,
            external: is_external || issuer.keeper.is_some(),
            keeper: issuer.keeper,
        }),
        trouble,
        rotation: rotation(found)?,
        request: data(found, REQUEST_KEY).cloned(),
        ends: ends.into_iter().flatten().collect(),
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
    lines.push(match &shown.issuer {
        Some(Issuer { subject, serial, expires_at, days_left, .. }) => {
            format!("issuer: {subject} (serial {serial}) until {expires_at}, {days_left} days left")
        }
        None => "issuer: not known".into(),
    });
    if let Some(issuer) = shown.issuer.as_ref().filter(|issuer| issuer.external) {
        let keeper = issuer.keeper.as_ref().map(|keeper| format!(" ({keeper})")).unwrap_or_default();
        lines.push(format!(
            "  it is external: hawser renews neither it nor the anchor above it. It ends in {} days, unless whoever keeps secret {ISSUER_SECRET} renews it{keeper}",
            issuer.days_left,
        ));
    }
    lines.extend(shown.trouble.iter().map(|trouble| format!("trouble: {trouble}")));
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
            let what = if rotation.recovers { format!("{what} (the mesh is being brought back)") } else { what.into() };
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
    let end = |end: &End| match end.seconds_left {
        over if over <= 0 => format!("the {} has ended", end.what),
        left => format!("{} within {}", end.what, output::duration(left)),
    };
    lines.push(format!(
        "if nothing renewed, there would end: {}",
        shown.ends.iter().map(end).collect::<Vec<_>>().join(", ")
    ));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki;

    fn config_map(more: &[(&str, &str)]) -> ConfigMap {
        let anchor = pki::Anchor::create("cluster.local", SystemTime::UNIX_EPOCH).unwrap().certificate().to_pem();
        let mut data = BTreeMap::from([(BUNDLE_KEY.to_owned(), anchor)]);
        data.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        ConfigMap { data: Some(data), ..ConfigMap::default() }
    }

    fn quiet(more: &[(&str, &str)]) -> anyhow::Result<Shown> {
        let told = BTreeMap::from([("hawser-identity-1".to_owned(), Ok(Some(IdentityTold::default())))]);
        shown(&config_map(more), None, told, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn names_who_holds_a_rotation_and_counts_the_rest() {
        let rotation = r#"{"phase":"publish","old":"a","new":"b","since":60,"waiting_for":["shop/web: has not started"],"waiting_for_count":3}"#;
        let shown = quiet(&[(ROTATION_KEY, rotation)]).unwrap();
        let text = text(&shown);
        assert!(text.contains("waiting for 3:\n  shop/web: has not started\n  … and 2 more\n"), "{text}");
        assert_eq!(shown.anchors[0].days_left, 3652);
    }

    #[test]
    fn without_a_rotation_says_so_and_without_a_bundle_is_an_error() {
        assert!(text(&quiet(&[]).unwrap()).contains("rotation: none is under way\n"));
        assert!(shown(&ConfigMap::default(), None, BTreeMap::new(), SystemTime::UNIX_EPOCH).is_err());
        assert!(quiet(&[(ROTATION_KEY, "broken")]).is_err());
    }

    #[test]
    fn says_what_would_end_when_if_nothing_renewed_and_what_has_ended() {
        let values = Values::default().to_yaml();
        let values = ConfigMap { data: Some([("values".to_owned(), values)].into()), ..ConfigMap::default() };
        let issuer = issuer(None);
        let told = || {
            BTreeMap::from([(
                "hawser-identity-1".to_owned(),
                Ok(Some(IdentityTold { issuer: Some(issuer.clone()), ..IdentityTold::default() })),
            )])
        };
        let at = |now| shown(&config_map(&[]), Some(&values), told(), now).unwrap();
        let young = at(SystemTime::UNIX_EPOCH);
        let left: Vec<_> = young.ends.iter().map(|end| (end.what, end.days_left)).collect();
        assert_eq!(left, [("certificates of pods", 1), ("issuer", 90), ("trust anchor", 3652)]);
        let old = text(&at(SystemTime::UNIX_EPOCH + Duration::from_secs(91 * 86_400)));
        assert!(old.contains("the issuer has ended, trust anchor within 3561d0h\n"), "{old}");
    }

    fn issuer(keeper: Option<Keeper>) -> pki::IssuerTold {
        pki::IssuerTold { subject: "CN=i".into(), serial: "1".into(), expires_at: 90 * 86_400, keeper }
    }

    #[test]
    fn an_external_issuer_is_said_to_be_for_others_to_renew_and_our_own_is_not() {
        let mut external = Values::default();
        external.identity.issuer.external = true;
        let keeper = Keeper { secret_type: "kubernetes.io/tls".into(), written_by: Some("cert-manager".into()) };
        for (values, keeper, said) in [
            (Values::default(), None, None),
            (external, None, Some("whoever keeps secret hawser-identity-issuer renews it\n")),
            (
                Values::default(),
                Some(keeper),
                Some("(a secret of type kubernetes.io/tls, last written by cert-manager)\n"),
            ),
        ] {
            let values =
                ConfigMap { data: Some([("values".to_owned(), values.to_yaml())].into()), ..ConfigMap::default() };
            let told = IdentityTold { issuer: Some(issuer(keeper)), ..IdentityTold::default() };
            let told = BTreeMap::from([("hawser-identity-1".to_owned(), Ok(Some(told)))]);
            let shown = shown(&config_map(&[]), Some(&values), told, SystemTime::UNIX_EPOCH).unwrap();
            let text = text(&shown);
            assert_eq!(shown.issuer.unwrap().external, said.is_some());
            assert_eq!(
                text.contains("hawser renews neither it nor the anchor above it. It ends in 90 days"),
                said.is_some()
            );
            assert!(said.is_none_or(|said| text.contains(said)), "{text}");
        }
    }

    #[test]
    fn whoever_of_identity_cannot_be_asked_hides_nothing_else() {
        let asked = |told| shown(&config_map(&[]), None, told, SystemTime::UNIX_EPOCH).unwrap();
        let away = asked(BTreeMap::new());
        assert_eq!((away.issuer.is_none(), away.trouble), (true, vec!["no pod of the identity role runs".to_owned()]));
        let silent = asked([("i-1".to_owned(), Err(Unread("no answer".into())))].into());
        assert!(text(&silent).contains("issuer: not known\ntrouble: i-1 cannot be asked: no answer\n"));
    }
}
