//! Judges whether an installation would work: room, rights, and no one in the way.

use super::{Snapshot, Verdict, judge};
use crate::manifest::names;

/// What a stock control plane leaves in its namespace for everyone to see.
const LINKERD_CONFIG: &str = "linkerd-config";
/// The Deployments of a stock control plane begin like that.
const LINKERD_PREFIX: &str = "linkerd-";
/// The webhook of a stock control plane, wherever that is.
const LINKERD_WEBHOOK: &str = "linkerd-proxy-injector-webhook-config";

pub(super) fn namespace_is_free(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let deployments = snapshot.deployments.as_ref()?.iter().filter_map(|one| one.metadata.name.as_deref());
        let linkerd = deployments.clone().find(|name| name.starts_with(LINKERD_PREFIX));
        let what = match linkerd {
            _ if snapshot.config_map(LINKERD_CONFIG)?.is_some() => format!("ConfigMap `{LINKERD_CONFIG}`"),
            Some(name) => format!("Deployment `{name}`"),
            None => return Ok(Verdict::Passed),
        };
        Ok(Verdict::failed(format!("a Linkerd control plane is in namespace `{}`: {what}", snapshot.control_namespace)))
    })
}

pub(super) fn is_the_only_one(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let webhooks = snapshot.webhooks.as_ref()?;
        let ours = webhooks.iter().find(|webhook| webhook.metadata.name.as_deref() == Some(names::WEBHOOK_CONFIG));
        let owner = ours.and_then(|webhook| webhook.metadata.labels.as_ref()?.get(names::CONTROL_PLANE_NS));
        Ok(match owner {
            Some(owner) if *owner != snapshot.control_namespace => {
                Verdict::failed(format!("hawser is installed in namespace `{owner}`"))
            }
            _ => Verdict::Passed,
        })
    })
}

pub(super) fn may_install(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let permissions = snapshot.permissions.as_ref()?;
        let missing = permissions.iter().filter(|(_, may)| !**may);
        Ok(Verdict::unless(missing.map(|(resource, _)| format!("may not create {resource}")).collect()))
    })
}

pub(super) fn has_the_annotations_to_itself(snapshot: &Snapshot) -> Verdict {
    judge(|| {
        let webhooks = snapshot.webhooks.as_ref()?;
        let other = webhooks.iter().find(|webhook| webhook.metadata.name.as_deref() == Some(LINKERD_WEBHOOK));
        Ok(match other {
            Some(_) => Verdict::failed(format!("a Linkerd injector is registered as webhook `{LINKERD_WEBHOOK}`")),
            None => Verdict::Passed,
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::checks::Unread;
    use crate::checks::tests::{config_map, fails, healthy, is_unknown, passes, webhook};

    #[test]
    fn a_namespace_of_our_own_or_none_is_free_and_one_of_linkerd_is_not() {
        let mut snapshot = healthy();
        assert!(passes(namespace_is_free, &snapshot));
        snapshot.config_maps = Ok(vec![]);
        assert!(passes(namespace_is_free, &snapshot));
        snapshot.config_maps = Ok(vec![config_map(LINKERD_CONFIG, &[])]);
        let there = "a Linkerd control plane is in namespace `hawser`: ConfigMap `linkerd-config`";
        assert_eq!(fails(namespace_is_free, &snapshot), [there]);
        snapshot.config_maps = Ok(vec![]);
        snapshot.deployments.as_mut().unwrap()[0].metadata.name = Some("linkerd-identity".into());
        let there = "a Linkerd control plane is in namespace `hawser`: Deployment `linkerd-identity`";
        assert_eq!(fails(namespace_is_free, &snapshot), [there]);
        snapshot.config_maps = Err(Unread("forbidden".into()));
        assert!(is_unknown(namespace_is_free, &snapshot));
    }

    #[test]
    fn another_hawser_is_in_the_way() {
        let mut snapshot = healthy();
        assert!(passes(is_the_only_one, &snapshot));
        let mut other = webhook(names::WEBHOOK_CONFIG, b"");
        other.metadata.labels = Some(BTreeMap::from([(names::CONTROL_PLANE_NS.to_owned(), "mesh".to_owned())]));
        snapshot.webhooks = Ok(vec![other]);
        assert_eq!(fails(is_the_only_one, &snapshot), ["hawser is installed in namespace `mesh`"]);
    }

    #[test]
    fn every_missing_permission_is_named() {
        let mut snapshot = healthy();
        snapshot.permissions = Ok(BTreeMap::from([("deployments", true), ("secrets", true)]));
        assert!(passes(may_install, &snapshot));
        snapshot.permissions = Ok(BTreeMap::from([("clusterroles", false), ("deployments", true), ("secrets", false)]));
        assert_eq!(fails(may_install, &snapshot), ["may not create clusterroles", "may not create secrets"]);
    }

    #[test]
    fn a_stock_injector_is_warned_of() {
        let mut snapshot = healthy();
        assert!(passes(has_the_annotations_to_itself, &snapshot));
        snapshot.webhooks = Ok(vec![webhook(LINKERD_WEBHOOK, b"")]);
        assert_eq!(fails(has_the_annotations_to_itself, &snapshot).len(), 1);
    }
}
