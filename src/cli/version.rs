//! `hawser version`: which version this is, and which ones run in the cluster.
//!
//! The client is told in any case. What of the cluster cannot be told is named with its reason, and the exit code says so.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde::Serialize;

use super::{Global, Outcome, output};
use crate::checks::proxy_pod::{ProxyPod, State};
use crate::cluster::client::{self, Cluster};
use crate::cluster::snapshot::{self, Scope};
use crate::manifest::names;

/// For the whole of what the cluster is asked: whoever asks for a version does not want to wait for it.
const LIMIT: Duration = Duration::from_secs(5);
/// What this binary is.
const CLIENT: &str = env!("CARGO_PKG_VERSION");

/// Show the versions of the client, the control plane and the proxies
///
/// Exits with 2 where the cluster could not be asked; the version of the client is shown all the same.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show the version of the client only, and ask no cluster
    #[arg(long)]
    client: bool,
    /// Show bare version numbers: the client's, then the control plane's
    #[arg(long, conflicts_with = "output")]
    short: bool,
    /// How to print the versions
    #[arg(long, short, default_value = "text")]
    output: Format,
    /// Accepted, for the versions of proxies are always shown
    #[arg(long, hide = true)]
    proxy: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Format {
    Json,
    Text,
}

#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    /// None where the cluster was not asked, or could not answer.
    #[serde(flatten)]
    cluster: Option<InCluster>,
}

#[derive(Debug, Serialize)]
struct InCluster {
    /// None where the mesh is not installed in this namespace.
    server: Option<String>,
    proxies: Vec<Proxies>,
}

#[derive(Debug, Eq, PartialEq, Serialize)]
struct Proxies {
    version: String,
    pods: usize,
}

pub(super) fn run(global: &Global, args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let mut versions = Versions { client: CLIENT, cluster: None };
    if args.client {
        print(&versions, global, args, out)?;
        return Ok(Outcome::Yes);
    }
    let asked = super::block_on(async {
        let asking = async {
            let cluster = client::connect(&global.cluster()).await?;
            ask(&cluster, &global.hawser_namespace).await
        };
        let late = || format!("the cluster did not answer within {} s", LIMIT.as_secs());
        tokio::time::timeout(LIMIT, asking).await.with_context(late)?
    });
    match asked {
        Ok(cluster) => {
            versions.cluster = Some(cluster);
            print(&versions, global, args, out)?;
            Ok(Outcome::Yes)
        }
        Err(error) => {
            print(&versions, global, args, out)?;
            output::report(&error.context("cannot tell the versions in the cluster"));
            Ok(Outcome::Unknown)
        }
    }
}

async fn ask(cluster: &Cluster, namespace: &str) -> anyhow::Result<InCluster> {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
    let config = async {
        let map = maps.get_opt(names::CONFIG_MAP).await;
        map.with_context(|| format!("cannot read ConfigMap `{namespace}/{}`", names::CONFIG_MAP))
    };
    let selector = format!("{}={namespace}", names::CONTROL_PLANE_NS);
    let pods = async {
        let pods = snapshot::pods(&cluster.client, &Scope::All, Some(&selector)).await;
        pods.context("cannot list the meshed pods")
    };
    let (config, pods) = tokio::try_join!(config, pods)?;
    let unnamed = || "unknown".to_owned();
    let server = config.map(|map| map.data.and_then(|mut data| data.remove("version")).unwrap_or_else(unnamed));
    let proxies = pods.iter().filter_map(|pod| ProxyPod::of(pod).ok()).filter(|proxy| proxy.state != State::Ended);
    Ok(InCluster { server, proxies: count(proxies.map(|proxy| proxy.version.unwrap_or_else(unnamed))) })
}

fn count(versions: impl Iterator<Item = String>) -> Vec<Proxies> {
    let mut counts = BTreeMap::new();
    for version in versions {
        *counts.entry(version).or_default() += 1;
    }
    counts.into_iter().map(|(version, pods)| Proxies { version, pods }).collect()
}

fn print(versions: &Versions, global: &Global, args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    if args.output == Format::Json {
        return output::json(versions, out);
    }
    out.write_all(text(versions, &global.hawser_namespace, args).as_bytes())?;
    Ok(())
}

fn text(versions: &Versions, namespace: &str, args: &Args) -> String {
    let label = |label: &str| if args.short { String::new() } else { format!("{label} version: ") };
    let mut text = format!("{}{}\n", label("Client"), versions.client);
    if args.client {
        return text;
    }
    let server = match &versions.cluster {
        None => "unavailable".to_owned(),
        Some(InCluster { server: Some(version), .. }) => version.clone(),
        Some(_) if args.short => "none".into(),
        Some(_) => format!("none (not installed in namespace `{namespace}`)"),
    };
    text += &format!("{}{server}\n", label("Server"));
    let proxies = versions.cluster.iter().flat_map(|cluster| &cluster.proxies);
    if !args.short && versions.cluster.as_ref().is_some_and(|cluster| !cluster.proxies.is_empty()) {
        text += "Proxy versions:\n";
        for Proxies { version, pods } in proxies {
            text += &format!("\t{version} ({pods} {})\n", if *pods == 1 { "pod" } else { "pods" });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(client: bool, short: bool) -> Args {
        Args { client, short, output: Format::Text, proxy: false }
    }

    fn versions(server: Option<&str>, proxies: &[&str]) -> Versions {
        let proxies = count(proxies.iter().map(|&version| version.to_owned()));
        Versions { client: "2", cluster: Some(InCluster { server: server.map(str::to_owned), proxies }) }
    }

    #[test]
    fn shows_each_version_of_proxies_once() {
        let shown = text(&versions(Some("1"), &["1", "0.9", "1"]), "mesh", &args(false, false));
        assert_eq!(shown, "Client version: 2\nServer version: 1\nProxy versions:\n\t0.9 (1 pod)\n\t1 (2 pods)\n");
        assert_eq!(text(&versions(Some("1"), &["1"]), "mesh", &args(false, true)), "2\n1\n");
    }

    #[test]
    fn tells_not_installed_from_not_answered() {
        let shown = text(&versions(None, &[]), "mesh", &args(false, false));
        assert_eq!(shown, "Client version: 2\nServer version: none (not installed in namespace `mesh`)\n");
        let unanswered = Versions { client: "2", cluster: None };
        assert_eq!(text(&unanswered, "mesh", &args(false, false)), "Client version: 2\nServer version: unavailable\n");
        assert_eq!(text(&unanswered, "mesh", &args(true, false)), "Client version: 2\n");
    }
}
