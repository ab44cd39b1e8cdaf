//! Judges whether all parts of the control plane are there and ready.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;

use super::{Fact, Snapshot, Unread, Verdict, judge};
use crate::manifest::names;
use crate::mesh::places;

/// Each role's Deployment, ServiceAccount, ClusterRole and ClusterRoleBinding have its name.
pub(super) const ROLES: [&str; 3] = [names::IDENTITY, names::DESTINATION, names::INJECTOR];

/// What a container that is on its way says; no complaint.
const ON_ITS_WAY: [&str; 2] = ["ContainerCreating", "PodInitializing"];

pub(super) fn namespace_exists(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let namespace = &snapshot.control_namespace;
        let namespaces = snapshot.namespaces.as_ref()?;
        let exists = namespaces.iter().any(|one| one.metadata.name.as_ref() == Some(namespace));
        if !exists {
            return Ok(Verdict::failed(format!("there is no namespace `{namespace}`")));
        }
        if !snapshot.is_installed()? {
            return Ok(Verdict::failed(format!("there is no control plane in namespace `{namespace}`")));
        }
        Ok(Verdict::Passed)
    })
}

pub(super) fn service_accounts_exist(snapshot: &Snapshot) -> Verdict {
    exist(snapshot, "ServiceAccount", &snapshot.service_accounts)
}

pub(super) fn rbac_exists(snapshot: &Snapshot) -> Verdict {
    let roles = exist(snapshot, "ClusterRole", &snapshot.cluster_roles);
    let bindings = exist(snapshot, "ClusterRoleBinding", &snapshot.cluster_role_bindings);
    match (roles, bindings) {
        (Verdict::Failed(mut roles), Verdict::Failed(bindings)) => {
            roles.lines.extend(bindings.lines);
            Verdict::Failed(roles)
        }
        (Verdict::Passed, bindings) => bindings,
        (roles, _) => roles,
    }
}

fn exist(snapshot: &Snapshot, kind: &str, there: &Fact<BTreeSet<String>>) -> Verdict {
    judge(|| {
        if !snapshot.is_installed()? {
            return Ok(Verdict::Skipped);
        }
        let there = there.as_ref()?;
        let missing = ROLES.iter().filter(|role| !there.contains(**role));
        Ok(Verdict::unless(missing.map(|role| format!("there is no {kind} `{role}`")).collect()))
    })
}

pub(super) fn config_maps_exist(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        if !snapshot.is_installed()? {
            return Ok(Verdict::Skipped);
        }
        let mut missing = Vec::new();
        for name in [names::CONFIG_MAP, names::BUNDLE_CONFIG_MAP] {
            if snapshot.config_map(name)?.is_none() {
                missing.push(format!("there is no ConfigMap `{name}`"));
            }
        }
        Ok(Verdict::unless(missing))
    })
}

pub(super) fn deployments_are_rolled_out(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        if !snapshot.is_installed()? {
            return Ok(Verdict::Skipped);
        }
        let deployments = snapshot.deployments.as_ref()?;
        let complaints = ROLES.iter().filter_map(|role| {
            let found = deployments.iter().find(|deployment| deployment.metadata.name.as_deref() == Some(role));
            match found {
                None => Some(format!("there is no Deployment `{role}`")),
                Some(deployment) => roll_out(role, deployment),
            }
        });
        Ok(Verdict::unless(complaints.collect()))
    })
}

/// What a Deployment lacks; nothing where all its pods are of the latest template, and available.
fn roll_out(role: &str, deployment: &Deployment) -> Option<String> {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let (updated, available) = (status.updated_replicas.unwrap_or(0), status.available_replicas.unwrap_or(0));
    if status.observed_generation < deployment.metadata.generation {
        return Some(format!("the latest change of {role} has not been seen yet"));
    }
    if updated < wanted {
        return Some(format!("{role} is being rolled out: {updated} of {wanted} pods are new"));
    }
    if available < wanted {
        return Some(format!("{role} has {available} of {wanted} pods available"));
    }
    // Until then, old pods answer as well.
    let old = status.replicas.unwrap_or(0).saturating_sub(updated);
    (old > 0).then(|| format!("{role} has {old} pods of before its latest change"))
}

pub(super) fn pods_are_ready(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        if !snapshot.is_installed()? {
            return Ok(Verdict::Skipped);
        }
        let pods = snapshot.pods_of_control_plane()?.filter(|pod| !places::has_ended(pod) && !is_leaving(pod));
        Ok(Verdict::unless(pods.filter(|pod| !is_ready(pod)).map(complaint).collect()))
    })
}

pub(super) fn pods_are_schedulable(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        if !snapshot.is_installed()? {
            return Ok(Verdict::Skipped);
        }
        let waiting = snapshot.pods_of_control_plane()?.filter_map(|pod| {
            let conditions = pod.status.as_ref()?.conditions.iter().flatten();
            let refused = conditions.into_iter().find(|one| one.type_ == "PodScheduled" && one.status == "False")?;
            Some(format!("{}: {}", name(pod), refused.message.as_deref().unwrap_or("no node was found")))
        });
        Ok(Verdict::unless(waiting.collect()))
    })
}

pub(super) fn version_matches(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let Some(version) = version(snapshot)? else { return Ok(Verdict::Skipped) };
        let verdict = if version == snapshot.version {
            Verdict::Passed
        } else {
            Verdict::failed(format!("the control plane is {version}, this is {}", snapshot.version))
        };
        Ok(verdict.with(version))
    })
}

/// The control plane's version, as `install` wrote it.
fn version(snapshot: &Snapshot) -> Result<Option<&str>, &Unread> {
    let config = snapshot.config_map(names::CONFIG_MAP)?;
    Ok(config.and_then(|config| config.data.as_ref()?.get("version")).map(String::as_str))
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether a pod is being deleted: it need not be ready any more.
pub(super) fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// What holds a pod up, as the kubelet says it, such as `hawser-identity-… : ErrImageNeverPull in linkerd-init`.
pub(super) fn complaint(pod: &Pod) -> String {
    let name = name(pod);
    let Some(status) = &pod.status else { return format!("{name} has no status yet") };
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let complaint = containers.clone().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().filter(|reason| !ON_ITS_WAY.contains(reason))?;
        Some(format!("{reason} in container {}", container.name))
    });
    let unready = || {
        let unready =
            containers.clone().find(|one| !one.ready && one.state.as_ref().is_some_and(|s| s.running.is_some()))?;
        Some(format!("container {} is not ready", unready.name))
    };
    let phase = || format!("it is {}", status.phase.as_deref().unwrap_or("of no known phase").to_lowercase());
    format!("{name}: {}", complaint.or_else(unready).unwrap_or_else(phase))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::tests::{config_map, fails, forbidden, healthy, is_unknown, passes};

    #[test]
    fn a_control_plane_has_a_namespace_with_something_in_it() {
        let mut snapshot = healthy();
        assert!(passes(namespace_exists, &snapshot));
        snapshot.deployments = Ok(vec![]);
        assert_eq!(fails(namespace_exists, &snapshot), ["there is no control plane in namespace `hawser`"]);
        snapshot.namespaces = Ok(vec![]);
        assert_eq!(fails(namespace_exists, &snapshot), ["there is no namespace `hawser`"]);
        snapshot.namespaces = forbidden();
        assert!(is_unknown(namespace_exists, &snapshot));
    }

    #[test]
    fn without_a_control_plane_its_parts_are_not_asked_for() {
        let mut snapshot = healthy();
        snapshot.deployments = Ok(vec![]);
        for check in
            [service_accounts_exist, rbac_exists, config_maps_exist, deployments_are_rolled_out, pods_are_ready]
        {
            assert_eq!(check(&snapshot), Verdict::Skipped);
        }
    }

    #[test]
    fn missing_service_accounts_are_named() {
        let mut snapshot = healthy();
        assert!(passes(service_accounts_exist, &snapshot));
        snapshot.service_accounts.as_mut().unwrap().remove(names::INJECTOR);
        assert_eq!(fails(service_accounts_exist, &snapshot), ["there is no ServiceAccount `hawser-injector`"]);
    }

    #[test]
    fn missing_cluster_roles_and_bindings_are_named() {
        let mut snapshot = healthy();
        assert!(passes(rbac_exists, &snapshot));
        snapshot.cluster_roles.as_mut().unwrap().remove(names::INJECTOR);
        snapshot.cluster_role_bindings.as_mut().unwrap().remove(names::IDENTITY);
        assert_eq!(
            fails(rbac_exists, &snapshot),
            ["there is no ClusterRole `hawser-injector`", "there is no ClusterRoleBinding `hawser-identity`"]
        );
        snapshot.cluster_roles = forbidden();
        assert!(is_unknown(rbac_exists, &snapshot));
    }

    #[test]
    fn missing_config_maps_are_named() {
        let mut snapshot = healthy();
        assert!(passes(config_maps_exist, &snapshot));
        snapshot.config_maps = Ok(vec![]);
        assert_eq!(fails(config_maps_exist, &snapshot).len(), 2);
    }

    #[test]
    fn a_deployment_that_is_missing_old_or_short_of_pods_is_not_rolled_out() {
        let mut snapshot = healthy();
        assert!(passes(deployments_are_rolled_out, &snapshot));
        let deployments = snapshot.deployments.as_mut().unwrap();
        deployments.retain(|deployment| deployment.metadata.name.as_deref() != Some(names::INJECTOR));
        deployments[0].status.as_mut().unwrap().available_replicas = Some(0);
        deployments[1].metadata.generation = Some(9);
        assert_eq!(
            fails(deployments_are_rolled_out, &snapshot),
            [
                "hawser-identity has 0 of 1 pods available",
                "the latest change of hawser-destination has not been seen yet",
                "there is no Deployment `hawser-injector`"
            ]
        );
    }

    #[test]
    fn a_pod_that_is_not_ready_says_what_the_kubelet_says() {
        let mut snapshot = healthy();
        assert!(passes(pods_are_ready, &snapshot));
        let pod = &mut snapshot.pods.as_mut().unwrap()[0];
        pod.status = serde_json::from_value(json!({
            "phase": "Pending",
            "containerStatuses": [{
                "name": "identity", "ready": false, "image": "", "imageID": "", "restartCount": 0,
                "state": {"waiting": {"reason": "ErrImageNeverPull"}},
            }],
        }))
        .unwrap();
        assert_eq!(fails(pods_are_ready, &snapshot), ["hawser-identity-1: ErrImageNeverPull in container identity"]);
        snapshot.pods.as_mut().unwrap()[0].metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert!(passes(pods_are_ready, &snapshot), "one that is being deleted need not be ready");
    }

    #[test]
    fn a_pod_without_a_node_says_what_the_scheduler_says() {
        let mut snapshot = healthy();
        assert!(passes(pods_are_schedulable, &snapshot));
        snapshot.pods.as_mut().unwrap()[0].status = serde_json::from_value(json!({
            "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}],
        }))
        .unwrap();
        assert_eq!(fails(pods_are_schedulable, &snapshot), ["hawser-identity-1: 0/1 nodes are available"]);
    }

    #[test]
    fn a_control_plane_of_another_version_is_warned_of() {
        let mut snapshot = healthy();
        assert!(passes(version_matches, &snapshot));
        snapshot.config_maps = Ok(vec![config_map(names::CONFIG_MAP, &[("version", "0.0.9")])]);
        assert_eq!(fails(version_matches, &snapshot), ["the control plane is 0.0.9, this is 0.1.0"]);
    }
}
