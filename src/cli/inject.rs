//! `hawser inject`: manifests in, meshed manifests out.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use super::manifests::{self, Input};
use super::proxy_flags::ProxyFlags;
use super::{Global, Outcome};
use crate::cluster::client;
use crate::manifest::documents::Edit;
use crate::manifest::inject::{Mesh, Place};
use crate::manifest::installation::CREATED_BY;
use crate::manifest::names;
use crate::manifest::values::Values;
use crate::pki::Bundle;

/// Add the mesh to manifests, to be piped to `kubectl apply -f -`
///
/// Writes annotations, with the given flags among them, by which the pods are meshed when they are created. With --manual it
/// writes the whole sidecar instead, which needs the cluster, or its trust bundle in a file. What is there of a mesh already is
/// replaced. What was done to each object goes to standard error.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    input: Input,
    /// Write the whole sidecar, rather than annotations
    #[arg(long)]
    manual: bool,
    /// The trust bundle for --manual, instead of asking the cluster
    #[arg(long, value_name = "FILE", requires = "manual")]
    trust_bundle: Option<PathBuf>,
    /// Route requests by their host name, for ingress controllers
    #[arg(long)]
    ingress: bool,
    /// Accepted for scripts: without --manual the cluster is never asked
    #[arg(long, hide = true)]
    ignore_cluster: bool,
    #[command(flatten)]
    proxy: ProxyFlags,
}

pub(super) fn run(global: &Global, args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let wish = if args.ingress { "ingress" } else { "enabled" };
    let settings = args.proxy.annotations()?;
    if !args.manual {
        return manifests::edit(&args.input, &Edit::Annotate { wish, settings: &settings }, out);
    }
    let (values, bundle) = match &args.trust_bundle {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the trust bundle `{}`", file.display()))?;
            (Values::default(), text)
        }
        None => super::block_on(installed(global))?,
    };
    let bundle = Bundle::parse_pem(&bundle).context("cannot use the trust bundle")?.to_pem();
    let mesh = Mesh {
        control_namespace: &global.hawser_namespace,
        values: &values,
        place: Place::App { bundle: &bundle },
        created_by: CREATED_BY,
    };
    manifests::edit(&args.input, &Edit::Mesh { wish, settings: &settings, mesh: &mesh }, out)
}

/// The values and the bundle of the installation in the cluster.
async fn installed(global: &Global) -> anyhow::Result<(Values, String)> {
    let cluster = client::connect(&global.cluster()).await?;
    let namespace = &global.hawser_namespace;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client, namespace);
    let read = async |name: &str, key: &str| -> anyhow::Result<Option<String>> {
        let found = maps.get_opt(name).await.with_context(|| format!("cannot read config map `{namespace}/{name}`"))?;
        Ok(found.and_then(|map| map.data?.remove(key)))
    };
    let Some(values) = read(names::CONFIG_MAP, "values").await? else {
        bail!("there is no hawser in namespace `{namespace}` (config map `{}`); `-L` names another", names::CONFIG_MAP);
    };
    let values = Values::read(&values).with_context(|| format!("cannot read config map `{}`", names::CONFIG_MAP))?;
    let Some(bundle) = read(names::BUNDLE_CONFIG_MAP, names::BUNDLE_KEY).await? else {
        bail!("the trust bundle is not there yet: the identity role has not started; `hawser check` says why");
    };
    Ok((values, bundle))
}
