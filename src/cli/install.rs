//! `hawser install`: the whole installation, as manifests or applied.

mod brought;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use self::brought::Brought;
use super::proxy_flags::ProxyFlags;
use super::{Global, Outcome, check, output};
use crate::checks::{self, Finding, Health, Severity, Stage, Verdict};
use crate::cluster::apply;
use crate::cluster::client::{self, Cluster};
use crate::cluster::snapshot::{self, Wanted};
use crate::manifest::values::Values;
use crate::manifest::{installation, yaml};
use crate::mesh::identity::is_label;

/// Print the installation, to be piped to `kubectl apply -f -`
///
/// The same flags give the same bytes, no key is among them, and no cluster is asked: with `--apply`, hawser installs it itself and waits
/// until the mesh is healthy. Either can be repeated at any time, to change settings or to upgrade.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Three replicas of each role, spread over nodes, with disruption budgets and resource requests
    #[arg(long)]
    ha: bool,
    /// Values from a YAML file, or - for standard input; repeatable, later files win
    #[arg(long = "values", short = 'f', value_name = "FILE")]
    values: Vec<PathBuf>,
    /// One value, such as proxy.logLevel=debug; repeatable, wins over files and other flags
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// The namespace to install into; the same as --hawser-namespace
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The image of all roles and of the proxy
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The domain of all identities [default: the cluster's domain]
    #[arg(long, value_name = "DOMAIN")]
    identity_trust_domain: Option<String>,
    /// The domain of the cluster's DNS names [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    cluster_domain: Option<String>,
    /// How many replicas of each role
    #[arg(long, value_name = "N")]
    controller_replicas: Option<u32>,
    /// What the roles log, as an env-filter
    #[arg(long, value_name = "FILTER")]
    controller_log_level: Option<String>,
    /// How long the certificates of proxies are valid, such as 24h
    #[arg(long, value_name = "DURATION")]
    identity_issuance_lifetime: Option<String>,
    /// How far the clocks of nodes may differ, such as 20s
    #[arg(long, value_name = "DURATION")]
    identity_clock_skew_allowance: Option<String>,
    /// How to print the objects
    #[arg(long, short, default_value = "yaml")]
    output: Format,
    /// Install it, instead of printing it, and wait until the mesh is healthy
    #[arg(long, conflicts_with = "output")]
    apply: bool,
    /// How long --apply waits for the mesh to be healthy, in seconds; 0 not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    wait: u64,
    /// Accepted for scripts: printing never asks the cluster anyway
    #[arg(long, hide = true)]
    ignore_cluster: bool,
    #[command(flatten)]
    brought: Box<brought::Args>,
    #[command(flatten)]
    proxy: ProxyFlags,
}

/// How manifests are printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum Format {
    /// One object a line
    Json,
    Yaml,
}

pub(super) fn run(global: &Global, args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let namespace = args.namespace.as_deref().unwrap_or(&global.hawser_namespace);
    if !is_label(namespace) {
        bail!("{namespace:?} is no name for a namespace (a-z, 0-9 and -, at most 63 characters)");
    }
    let mut values = values(args, &mut std::io::stdin().lock())?;
    let brought = Brought::read(&args.brought, &mut values, args.apply)?;
    if args.apply {
        return super::block_on(install(global, namespace, values, &brought, Duration::from_secs(args.wait)));
    }
    let objects = render(&values, namespace)?;
    print(&objects, args.output, out)?;
    Ok(Outcome::Yes)
}

fn render(values: &Values, namespace: &str) -> anyhow::Result<Vec<Value>> {
    installation::render(values, namespace).context("cannot render the installation")
}

/// What the flags say: defaults, `--ha`, flags, files, `--set`, each over those before.
fn values(args: &Args, stdin: &mut impl std::io::Read) -> anyhow::Result<Values> {
    let mut values = Values::default();
    if args.ha {
        values.make_highly_available();
    }
    let replace = |value: &mut String, flag: &Option<String>| {
        if let Some(flag) = flag {
            value.clone_from(flag);
        }
    };
    replace(&mut values.image, &args.image);
    replace(&mut values.cluster_domain, &args.cluster_domain);
    replace(&mut values.controller_log_level, &args.controller_log_level);
    replace(&mut values.identity.issuer.issuance_lifetime, &args.identity_issuance_lifetime);
    replace(&mut values.identity.issuer.clock_skew_allowance, &args.identity_clock_skew_allowance);
    if args.identity_trust_domain.is_some() {
        values.identity_trust_domain.clone_from(&args.identity_trust_domain);
    }
    if let Some(replicas) = args.controller_replicas {
        values.controller_replicas = replicas;
    }
    args.proxy.apply(&mut values)?;
    for file in &args.values {
        let (text, name) = if file.as_os_str() == "-" {
            let mut text = String::new();
            stdin.read_to_string(&mut text).context("cannot read values from standard input")?;
            (text, "standard input".to_owned())
        } else {
            let name = format!("`{}`", file.display());
            (std::fs::read_to_string(file).with_context(|| format!("cannot read values from {name}"))?, name)
        };
        values = values.layer_file(&text, &name).with_context(|| format!("cannot use the values in {name}"))?;
    }
    for assignment in &args.set {
        values = values.assign(assignment).with_context(|| format!("cannot use `--set {assignment}`"))?;
    }
    values.validate().context("cannot install with these values")?;
    Ok(values)
}

/// Prints objects as `kubectl` takes them.
pub(super) fn print(objects: &[Value], format: Format, out: &mut impl Write) -> anyhow::Result<()> {
    match format {
        Format::Yaml => out.write_all(yaml::write(objects).as_bytes())?,
        Format::Json => {
            for object in objects {
                writeln!(out, "{object}")?;
            }
        }
    }
    Ok(out.flush()?)
}

/// Installs it where nothing is in the way, and waits until the mesh is healthy.
async fn install(
    global: &Global,
    namespace: &str,
    mut values: Values,
    brought: &Brought,
    wait: Duration,
) -> anyhow::Result<Outcome> {
    let cluster = client::connect(&global.cluster()).await?;
    refuse_what_is_in_the_way(&cluster, namespace).await?;
    brought.agree(&cluster.client, namespace, &mut values).await?;
    let objects = render(&values, namespace)?;
    let started_at = Instant::now();
    let progress = output::bar(objects.len(), "applying");
    let apply = async |objects: &[Value]| {
        let applied = apply::all(&cluster.client, objects, |done| {
            progress.advance();
            progress.set_message(format!("applied {done}"));
        });
        applied.await.with_context(|| format!("cannot install into {}", cluster.url))
    };
    let of_namespace = objects.iter().take_while(|object| object["kind"] == "Namespace").count();
    let (first, rest) = objects.split_at(if brought.is_some() { of_namespace } else { 0 });
    apply(first).await?;
    brought.apply(&cluster.client, namespace).await?;
    apply(rest).await?;
    drop(progress);
    if wait.is_zero() {
        output::say(&format!("applied {} objects; `hawser check` tells when the mesh is healthy", objects.len()));
        return Ok(Outcome::Yes);
    }
    // Pods of other namespaces may be unwell for reasons of their own.
    let wanted = Wanted {
        control_namespace: namespace.to_owned(),
        namespace: Some(namespace.to_owned()),
        stage: Stage::Installed,
    };
    let findings = Box::pin(check::until_healthy(&cluster, &wanted, started_at + wait)).await;
    let outcome = match checks::health(&findings) {
        Health::Healthy => {
            output::say(&format!("the mesh is healthy, after {:.1} s", started_at.elapsed().as_secs_f64()));
            output::say(
                "next: `kubectl annotate namespace NAME linkerd.io/inject=enabled`, and restart the pods there",
            );
            return Ok(Outcome::Yes);
        }
        Health::Unhealthy => Outcome::No,
        Health::Unknown => Outcome::Unknown,
    };
    let mut complaints = Vec::new();
    check::print_complaints(&findings, &mut complaints)?;
    output::say(&format!("not healthy after {} s:\n\n{}", wait.as_secs(), String::from_utf8_lossy(&complaints)));
    output::say("the installation goes on meanwhile: `hawser check --wait` waits for it");
    Ok(outcome)
}

/// Fails where `hawser check --pre` says that an installation would do harm, or not work.
async fn refuse_what_is_in_the_way(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    let wanted = Wanted { control_namespace: namespace.to_owned(), namespace: None, stage: Stage::Before };
    let findings = checks::run(&Box::pin(snapshot::read(cluster, &wanted)).await, Stage::Before);
    let grave = findings.iter().filter(|finding| finding.check.severity == Severity::Error);
    for Finding { check, verdict } in grave {
        if let Verdict::Failed(evidence) = verdict {
            bail!("cannot install into namespace `{namespace}`: {}; {}", evidence.lines.join(", "), check.hint);
        }
    }
    Ok(())
}
