//! `hawser identity`: the certificates pods prove themselves with.
//!
//! Each is taken from a real handshake with the pod's proxy, and verified against the trust bundle of its mesh.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use super::{Global, Outcome, output};
use crate::checks::leaf::Shown;
use crate::checks::proxy_pod::{ProxyPod, State};
use crate::cluster::client::{self, Cluster};
use crate::cluster::port_forward::{self, Handshake, PodPort};
use crate::cluster::snapshot::{self, Scope};
use crate::manifest::names;
use crate::mesh::{Identity, places};
use crate::pki::Bundle;

/// Show and verify the certificates of pods
///
/// Makes a TLS handshake with each pod's proxy, as a peer would, and verifies what it shows against the trust bundle: who
/// it is, who says so, and for how long. Exits with 1 where a certificate is bad, with 2 where it could not be told.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The pods to ask; all meshed pods of the namespace without
    #[arg(value_name = "POD")]
    pods: Vec<String>,
    /// Ask the pods with these labels
    #[arg(long, short = 'l', value_name = "LABELS", conflicts_with = "pods")]
    selector: Option<String>,
    /// The namespace of the pods [default: that of the context]
    #[arg(long, short, conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// Ask the pods of all namespaces
    #[arg(long, short = 'A', conflicts_with = "pods")]
    all_namespaces: bool,
    /// How to print the certificates
    #[arg(long, short, default_value = "text")]
    output: Format,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Format {
    Json,
    /// The chains as they were sent
    Pem,
    Text,
}

pub(super) fn run(global: &Global, args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let rows = super::block_on(async {
        let cluster = client::connect(&global.cluster()).await?;
        ask(&cluster, args).await
    })?;
    print(&rows, args, out)?;
    Ok(outcome(&rows))
}

/// One pod and its certificate.
#[derive(Debug, Serialize)]
struct Row {
    namespace: String,
    pod: String,
    verdict: Verdict,
    /// What is wrong, or why it could not be told.
    reasons: Vec<String>,
    #[serde(flatten)]
    certificate: Option<Certificate>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    Bad,
    Unknown,
}

#[derive(Debug, Serialize)]
struct Certificate {
    identity: Option<Identity>,
    issuer: String,
    serial: String,
    fingerprint_sha256: String,
    not_before: String,
    not_after: String,
    seconds_left: i64,
    tls_version: String,
    cipher: String,
    /// The key-exchange group.
    group: String,
    /// The PEM of every certificate that was sent, the pod's own first.
    chain: Vec<String>,
}

impl Row {
    fn unknown(namespace: &str, pod: &str, reason: String) -> Self {
        let verdict = Verdict::Unknown;
        Self { namespace: namespace.into(), pod: pod.into(), verdict, reasons: vec![reason], certificate: None }
    }
}

async fn ask(cluster: &Cluster, args: &Args) -> anyhow::Result<Vec<Row>> {
    let client = &cluster.client;
    let scope = match (&args.namespace, args.all_namespaces) {
        (_, true) => Scope::All,
        (Some(namespace), _) => Scope::Namespace(namespace.clone()),
        (None, _) => Scope::Namespace(client.default_namespace().to_owned()),
    };
    let pods = snapshot::pods(client, &scope, args.selector.as_deref())
        .await
        .with_context(|| format!("cannot list the pods of {scope}"))?;
    let (asked, mut rows) = choose(&pods, &args.pods, &scope)?;
    if asked.is_empty() && rows.is_empty() {
        bail!(
            "there is no meshed pod in {scope}{}",
            args.selector.iter().map(|l| format!(" with labels {l}")).collect::<String>()
        );
    }
    let bundles = bundles(client, &asked).await?;
    let progress = output::bar(asked.len(), "asking proxies");
    let ask = async |pod: ProxyPod| {
        let shown = shake_hands(client, &pod).await;
        row(&pod, shown, bundles.get(&pod.control_namespace), SystemTime::now())
    };
    rows.extend(snapshot::each(asked, ask, || progress.advance()).await);
    rows.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
    Ok(rows)
}

/// The pods to ask, and rows for those that were named but cannot be.
fn choose(pods: &[Pod], named: &[String], scope: &Scope) -> anyhow::Result<(Vec<ProxyPod>, Vec<Row>)> {
    let (mut asked, mut rows) = (Vec::new(), Vec::new());
    if named.is_empty() {
        for pod in pods.iter().filter(|pod| places::is_meshed(pod) && !places::has_ended(pod)) {
            match ProxyPod::of(pod) {
                Ok(proxy) => asked.push(proxy),
                Err(reason) => rows.push(refused(pod, &reason.to_string())),
            }
        }
        return Ok((asked, rows));
    }
    for name in named {
        // `pod/web` is how kubectl says it.
        let name = name.strip_prefix("pod/").or_else(|| name.strip_prefix("po/")).unwrap_or(name);
        let Some(pod) = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(name)) else {
            bail!("there is no pod `{name}` in {scope}");
        };
        match ProxyPod::of(pod) {
            Ok(proxy) if proxy.state == State::Ended => rows.push(refused(pod, "it has run to its end")),
            Ok(proxy) => asked.push(proxy),
            Err(reason) => rows.push(refused(pod, &reason.to_string())),
        }
    }
    Ok((asked, rows))
}

fn refused(pod: &Pod, reason: &str) -> Row {
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    Row::unknown(&name(&pod.metadata.namespace), &name(&pod.metadata.name), reason.into())
}

/// The bundle of every mesh that the pods belong to.
async fn bundles(client: &kube::Client, pods: &[ProxyPod]) -> anyhow::Result<BTreeMap<String, Bundle>> {
    let mut bundles = BTreeMap::new();
    let mut namespaces: Vec<&String> = pods.iter().map(|pod| &pod.control_namespace).collect();
    namespaces.sort();
    namespaces.dedup();
    for namespace in namespaces {
        let pem = snapshot::bundle_pem(client, namespace)
            .await
            .with_context(|| format!("cannot read ConfigMap `{namespace}/{}`", names::BUNDLE_CONFIG_MAP))?;
        if let Some(pem) = pem {
            let bundle = Bundle::parse_pem(&pem)
                .with_context(|| format!("cannot use ConfigMap `{namespace}/{}`", names::BUNDLE_CONFIG_MAP))?;
            bundles.insert(namespace.clone(), bundle);
        }
    }
    Ok(bundles)
}

async fn shake_hands(client: &kube::Client, pod: &ProxyPod) -> anyhow::Result<Handshake> {
    if pod.state == State::NotRunning {
        bail!("its proxy does not run");
    }
    let identity = pod.identity.as_ref().context("the pod does not say who it should be")?;
    let to = PodPort { namespace: pod.namespace.clone(), pod: pod.name.clone(), port: pod.admin_port };
    Ok(port_forward::handshake(client, &to, identity.as_str()).await?)
}

fn row(pod: &ProxyPod, shown: anyhow::Result<Handshake>, bundle: Option<&Bundle>, now: SystemTime) -> Row {
    let unknown = |reason| Row::unknown(&pod.namespace, &pod.name, reason);
    let handshake = match shown {
        Ok(handshake) => handshake,
        Err(error) => {
            let unready = if pod.state == State::NotReady { "its proxy is not ready; " } else { "" };
            return unknown(format!("{unready}{}", output::causes(error.as_ref()).join(": ")));
        }
    };
    let shown = match Shown::judge(&handshake.chain, pod.identity.as_ref(), bundle, now) {
        Ok(shown) => shown,
        Err(error) => return unknown(error.to_string()),
    };
    let mut reasons: Vec<String> = shown.faults.iter().map(ToString::to_string).collect();
    let verdict = match (reasons.is_empty(), bundle) {
        (false, _) => Verdict::Bad,
        (true, Some(_)) => Verdict::Good,
        (true, None) => {
            reasons.push(format!(
                "there is no trust bundle in namespace `{}` to verify it against",
                pod.control_namespace
            ));
            Verdict::Unknown
        }
    };
    let leaf = &shown.leaf;
    let certificate = Certificate {
        identity: leaf.identity().cloned(),
        issuer: leaf.issuer().to_owned(),
        serial: leaf.serial().to_owned(),
        fingerprint_sha256: leaf.fingerprint(),
        not_before: output::instant(leaf.not_before()),
        not_after: output::instant(leaf.not_after()),
        seconds_left: output::seconds_until(leaf.not_after(), now),
        tls_version: handshake.version,
        cipher: handshake.cipher,
        group: handshake.group,
        chain: std::iter::once(leaf).chain(&shown.intermediates).map(crate::pki::Certificate::to_pem).collect(),
    };
    Row { namespace: pod.namespace.clone(), pod: pod.name.clone(), verdict, reasons, certificate: Some(certificate) }
}

/// A bad certificate is an answer; that one could not be seen is only the lack of one.
fn outcome(rows: &[Row]) -> Outcome {
    let any = |verdict| rows.iter().any(|row| row.verdict == verdict);
    match (any(Verdict::Bad), any(Verdict::Unknown)) {
        (true, _) => Outcome::No,
        (false, true) => Outcome::Unknown,
        (false, false) => Outcome::Yes,
    }
}

fn print(rows: &[Row], args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    match args.output {
        Format::Json => output::json(rows, out)?,
        Format::Pem => {
            for row in rows {
                writeln!(out, "# {}/{}: {}", row.namespace, row.pod, in_words(row))?;
                for certificate in row.certificate.iter().flat_map(|certificate| &certificate.chain) {
                    out.write_all(certificate.as_bytes())?;
                }
            }
        }
        Format::Text => match rows {
            [row] => write_one(row, out)?,
            rows => write_table(rows, args.all_namespaces, out)?,
        },
    }
    Ok(())
}

fn write_one(row: &Row, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "pod {}/{}", row.namespace, row.pod)?;
    if let Some(certificate) = &row.certificate {
        let left = output::duration(certificate.seconds_left);
        writeln!(out, "  identity   {}", certificate.identity.as_ref().map_or("none", Identity::as_str))?;
        writeln!(out, "  issuer     {}", certificate.issuer)?;
        writeln!(out, "  serial     {}", certificate.serial)?;
        writeln!(out, "  sha256     {}", certificate.fingerprint_sha256)?;
        writeln!(out, "  not before {}", certificate.not_before)?;
        writeln!(out, "  not after  {} ({left} left)", certificate.not_after)?;
        writeln!(out, "  handshake  {}, {}, {}", certificate.tls_version, certificate.cipher, certificate.group)?;
    }
    writeln!(out, "  verdict    {} {}", glyph(row.verdict), in_words(row))?;
    Ok(())
}

fn write_table(rows: &[Row], with_namespace: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let mut header = vec!["POD", "IDENTITY", "ISSUER", "SERIAL", "EXPIRES", "LEFT", "GROUP", "VERDICT"];
    if with_namespace {
        header.insert(0, "NAMESPACE");
    }
    let mut table = output::table(&header);
    for row in rows {
        let seen = |value: &dyn Fn(&Certificate) -> String| row.certificate.as_ref().map_or("-".to_owned(), value);
        let mut cells = vec![
            row.pod.clone(),
            seen(&|it| it.identity.as_ref().map_or("-".into(), |identity| identity.short().to_owned())),
            seen(&|it| it.issuer.trim_start_matches("CN=").to_owned()),
            seen(&|it| it.serial.clone()),
            seen(&|it| it.not_after.clone()),
            seen(&|it| output::duration(it.seconds_left)),
            seen(&|it| it.group.clone()),
            format!("{} {}", glyph(row.verdict), in_words(row)),
        ];
        if with_namespace {
            cells.insert(0, row.namespace.clone());
        }
        table.add_row(cells);
    }
    out.write_all(output::text(&mut table).as_bytes())?;
    Ok(())
}

fn glyph(verdict: Verdict) -> String {
    let glyph = match verdict {
        Verdict::Good => output::Glyph::Good,
        Verdict::Bad => output::Glyph::Bad,
        Verdict::Unknown => output::Glyph::Warning,
    };
    glyph.paint(output::colours())
}

fn in_words(row: &Row) -> String {
    match row.verdict {
        Verdict::Good => "verified".into(),
        Verdict::Bad => row.reasons.join("; "),
        Verdict::Unknown => format!("cannot tell: {}", row.reasons.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::leaf::tests::{DAY, chain, now};
    use crate::checks::proxy_pod::tests::meshed;

    fn args(output: Format) -> Args {
        Args { pods: vec![], selector: None, namespace: None, all_namespaces: false, output }
    }

    fn handshake() -> (Bundle, Handshake) {
        let (bundle, chain) = chain();
        let handshake = Handshake {
            chain,
            version: "TLSv1.3".into(),
            cipher: "TLS13_AES_128_GCM_SHA256".into(),
            group: "X25519MLKEM768".into(),
        };
        (bundle, handshake)
    }

    fn pod() -> ProxyPod {
        ProxyPod::of(&meshed("shop", "web-1")).unwrap()
    }

    fn printed(rows: &[Row], output: Format) -> String {
        let mut out = Vec::new();
        print(rows, &args(output), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_certificate_that_verifies_is_good() {
        let (bundle, handshake) = handshake();
        let row = row(&pod(), Ok(handshake), Some(&bundle), now());
        assert_eq!(row.verdict, Verdict::Good, "{row:?}");
        let text = printed(&[row], Format::Text);
        assert!(text.contains("web.shop.serviceaccount.identity.hawser.cluster.local"), "{text}");
        assert!(text.contains("√ verified") && text.contains("X25519MLKEM768"), "{text}");
    }

    #[test]
    fn an_expired_one_is_bad_and_says_so() {
        let (bundle, handshake) = handshake();
        let row = row(&pod(), Ok(handshake), Some(&bundle), now() + 2 * DAY);
        assert_eq!(outcome(std::slice::from_ref(&row)), Outcome::No);
        assert!(printed(&[row], Format::Text).contains("× it has expired"));
    }

    #[test]
    fn without_a_bundle_it_cannot_be_told() {
        let (_, handshake) = handshake();
        let row = row(&pod(), Ok(handshake), None, now());
        assert_eq!(outcome(&[row]), Outcome::Unknown);
    }

    #[test]
    fn a_pod_that_does_not_answer_is_named_and_cannot_be_told() {
        let (bundle, shown) = handshake();
        let silent = row(&pod(), Err(anyhow::anyhow!("no answer")), Some(&bundle), now());
        let good = row(&pod(), Ok(shown), Some(&bundle), now());
        let text = printed(&[silent, good], Format::Text);
        assert!(text.contains("web-1") && text.contains("‼ cannot tell: no answer"), "{text}");
    }

    #[test]
    fn json_has_the_same_facts() {
        let (bundle, handshake) = handshake();
        let row = row(&pod(), Ok(handshake), Some(&bundle), now());
        let rows: serde_json::Value = serde_json::from_str(&printed(&[row], Format::Json)).unwrap();
        assert_eq!(rows[0]["verdict"], "good");
        assert_eq!(rows[0]["seconds_left"], 86_420);
        assert_eq!(rows[0]["chain"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn pem_can_be_read_back() {
        let (bundle, handshake) = handshake();
        let row = row(&pod(), Ok(handshake), Some(&bundle), now());
        let pem = printed(&[row], Format::Pem);
        assert_eq!(pem.matches("BEGIN CERTIFICATE").count(), 2);
    }

    #[test]
    fn a_named_pod_that_is_not_there_is_an_error_and_an_unmeshed_one_cannot_be_told() {
        let mut plain = meshed("shop", "plain");
        plain.metadata.labels = None;
        let scope = Scope::Namespace("shop".into());
        let error = choose(&[], &["web".into()], &scope).unwrap_err();
        assert_eq!(error.to_string(), "there is no pod `web` in namespace `shop`");
        let (asked, rows) = choose(&[plain], &["pod/plain".into()], &scope).unwrap();
        assert_eq!((asked.len(), outcome(&rows)), (0, Outcome::Unknown));
        assert_eq!(rows[0].reasons, ["it is not meshed"]);
    }
}
