//! What an installation looks like in the cluster: what is in its way, what is there, and whether it is healthy.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::ListParams;

use crate::manifest::names;

/// Deployments of a Linkerd control plane begin like that.
const LINKERD_PREFIX: &str = "linkerd-";
const LINKERD_CONFIG: &str = "linkerd-config";

/// Why nothing may be installed into `namespace`; none where it may, be it for the first time or over an older version of ours.
///
/// # Errors
/// Where the cluster does not tell.
pub async fn obstacle(client: &kube::Client, namespace: &str) -> kube::Result<Option<String>> {
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    if configs.get_opt(LINKERD_CONFIG).await?.is_some() {
        return Ok(Some(format!(
            "a Linkerd control plane is there (config map `{LINKERD_CONFIG}`); choose another namespace with `-L`, or uninstall it first"
        )));
    }
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let linkerd = deployments
        .list(&ListParams::default())
        .await?
        .items
        .into_iter()
        .find_map(|deployment| deployment.metadata.name.filter(|name| name.starts_with(LINKERD_PREFIX)));
    if let Some(name) = linkerd {
        return Ok(Some(format!(
            "a Linkerd control plane is there (deployment `{name}`); choose another namespace with `-L`, or uninstall it first"
        )));
    }
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let elsewhere = webhooks.get_opt(names::WEBHOOK_CONFIG).await?.and_then(|webhook| {
        webhook.metadata.labels?.remove(names::CONTROL_PLANE_NS).filter(|other| other != namespace)
    });
    Ok(elsewhere.map(|other| {
        format!("the control plane of this cluster is in namespace `{other}`; use `-L {other}`, or uninstall it first")
    }))
}

/// What is not as it should be yet, in words; nothing where the control plane is healthy.
///
/// # Errors
/// Where the cluster does not tell.
pub async fn unhealthy(client: &kube::Client, namespace: &str) -> kube::Result<Vec<String>> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let bundle = async { configs.get_opt(names::BUNDLE_CONFIG_MAP).await };
    let webhook = async { webhooks.get_opt(names::WEBHOOK_CONFIG).await };
    let ours = ListParams::default().labels(names::COMPONENT);
    let (deployments, bundle, webhook) = futures_util::try_join!(deployments.list(&ours), bundle, webhook)?;

    let mut waiting_for = Vec::new();
    for name in [names::IDENTITY, names::DESTINATION, names::INJECTOR] {
        let found = deployments.items.iter().find(|deployment| deployment.metadata.name.as_deref() == Some(name));
        match found {
            None => waiting_for.push(format!("deployment {name} to be there")),
            Some(deployment) if !is_rolled_out(deployment) => {
                waiting_for.push(match complaint(client, namespace, deployment).await? {
                    Some(complaint) => format!("{name} ({complaint})"),
                    None => name.into(),
                });
            }
            Some(_) => {}
        }
    }
    let has_bundle = bundle.and_then(|bundle| bundle.data).is_some_and(|data| data.contains_key(names::BUNDLE_KEY));
    if !has_bundle {
        waiting_for.push("the trust bundle".into());
    }
    let has_ca = webhook.and_then(|webhook| webhook.webhooks).is_some_and(|webhooks| {
        !webhooks.is_empty()
            && webhooks
                .iter()
                .all(|webhook| webhook.client_config.ca_bundle.as_ref().is_some_and(|ca| !ca.0.is_empty()))
    });
    if !has_ca {
        waiting_for.push("the webhook's CA".into());
    }
    Ok(waiting_for)
}

/// Whether all pods are of the latest template, and available.
fn is_rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation >= deployment.metadata.generation
            && status.updated_replicas == Some(wanted)
            && status.available_replicas == Some(wanted)
            && status.replicas == Some(wanted)
    })
}

/// What the kubelet or the scheduler has to say of a pod that does not come up, such as `ErrImageNeverPull`.
async fn complaint(client: &kube::Client, namespace: &str, deployment: &Deployment) -> kube::Result<Option<String>> {
    let component = deployment.metadata.labels.as_ref().and_then(|labels| labels.get(names::COMPONENT));
    let Some(component) = component else { return Ok(None) };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods.list(&ListParams::default().labels(&format!("{}={component}", names::COMPONENT))).await?;
    let quiet = ["ContainerCreating", "PodInitializing"];
    let complaints = pods.items.into_iter().filter_map(|pod| pod.status).flat_map(|status| {
        let containers = status.init_container_statuses.into_iter().chain(status.container_statuses).flatten();
        let waiting = containers.filter_map(|container| container.state?.waiting?.reason);
        let unscheduled = status.conditions.into_iter().flatten().filter_map(|condition| {
            (condition.type_ == "PodScheduled" && condition.status == "False").then_some(condition.reason?)
        });
        waiting.chain(unscheduled).collect::<Vec<_>>()
    });
    Ok(complaints.into_iter().find(|reason| !quiet.contains(&reason.as_str())))
}
