//! `hawser uninstall`: what to delete, once no pod needs it any more.

use std::io::Write;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::install::{Format, print};
use super::{Global, Outcome, output};
use crate::cluster::{apply, client};
use crate::manifest::values::Values;
use crate::manifest::{installation, names};

/// How many pods are named before the rest is only counted.
const NAMED_MAX: usize = 20;
/// How many pods come in one answer of the API server.
const PAGE: u32 = 500;

/// Print what to delete, to be piped to `kubectl delete -f -`
///
/// Refuses, with exit code 1, while pods are meshed: their proxies could not renew their certificates. Take the annotations
/// away and restart them first, or use --force.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Even while pods are meshed
    #[arg(long, short)]
    force: bool,
    /// Delete it, instead of printing it
    #[arg(long)]
    delete: bool,
    /// How to print the objects
    #[arg(long, short, default_value = "yaml")]
    output: Format,
}

pub(super) fn run(global: &Global, args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let namespace = &global.hawser_namespace;
    super::block_on(async {
        let cluster = client::connect(&global.cluster()).await?;
        if !args.force {
            let meshed = meshed_pods(&cluster.client, namespace).await.context("cannot list the meshed pods")?;
            if !meshed.is_empty() {
                refuse(&meshed);
                return Ok(Outcome::No);
            }
        }
        let mut stubs = Vec::new();
        for stub in possible(namespace)? {
            // Only what bears our labels: a namespace that is not ours must not be deleted for a mistyped `-L`.
            if apply::is_ours(&cluster.client, &stub, namespace).await? {
                stubs.push(stub);
            }
        }
        if stubs.is_empty() {
            bail!("there is no hawser in namespace `{namespace}`; `-L` names another");
        }
        if !args.delete {
            print(&stubs, args.output, out)?;
            return Ok(Outcome::Yes);
        }
        let progress = output::bar(stubs.len(), "deleting");
        for stub in &stubs {
            progress.set_message(apply::delete(&cluster.client, stub).await?);
            progress.advance();
        }
        drop(progress);
        output::say(&format!("deleted hawser from namespace `{namespace}`, which Kubernetes now clears up"));
        Ok(Outcome::Yes)
    })
}

/// The pods outside the control plane that this control plane's proxies are in, as `namespace/name`. Those that have ended or are on their
/// way out renew nothing any more: who has just restarted a workload need not wait for the old ones.
async fn meshed_pods(client: &kube::Client, namespace: &str) -> kube::Result<Vec<String>> {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut page = ListParams::default().labels(&format!("{}={namespace}", names::CONTROL_PLANE_NS)).limit(PAGE);
    page.field_selector = Some("status.phase!=Succeeded,status.phase!=Failed".into());
    let mut meshed = Vec::new();
    loop {
        let answer = pods.list_metadata(&page).await?;
        let staying = answer.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        meshed.extend(staying.filter_map(|pod| {
            let of = pod.metadata.namespace?;
            (of != namespace).then_some(format!("{of}/{}", pod.metadata.name?))
        }));
        match answer.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page.continue_token = Some(token),
            None => break,
        }
    }
    meshed.sort();
    Ok(meshed)
}

fn refuse(meshed: &[String]) {
    let pods = if meshed.len() == 1 { "pod is" } else { "pods are" };
    output::say(&format!("{} {pods} still meshed:", meshed.len()));
    for pod in meshed.iter().take(NAMED_MAX) {
        output::say(&format!("  {pod}"));
    }
    if meshed.len() > NAMED_MAX {
        output::say(&format!("  … and {} more", meshed.len() - NAMED_MAX));
    }
    output::say("hint: remove the annotation `linkerd.io/inject` and restart them, or use `--force`");
}

/// The names of all objects an installation can have, but for those that go with its namespace; what others depend on comes last.
fn possible(namespace: &str) -> anyhow::Result<Vec<Value>> {
    let mut values = Values::default();
    // With everything that can be part of one.
    values.make_highly_available();
    let objects = installation::render(&values, namespace).context("cannot render the installation")?;
    let is_cluster_wide = |object: &Value| object["metadata"].get("namespace").is_none();
    Ok(objects
        .iter()
        .rev()
        // The namespace takes what is in it along; the webhook must go first, so that it is not called any more.
        .filter(|object| is_cluster_wide(object))
        .map(|object| {
            json!({
                "apiVersion": object["apiVersion"],
                "kind": object["kind"],
                "metadata": {"name": object["metadata"]["name"]},
            })
        })
        .collect())
}
