//! Keeps a copy of the trust bundle where the proxy of this pod finds it.
//!
//! A pod of the control plane exists before there is a bundle, so its proxy cannot have it in its environment. The role
//! beside it reads ConfigMap `hawser-trust-bundle` and writes what is in there to the file that the proxy waits for
//! ([`Common::trust_bundle_file`](super::Common)), in a volume that only this pod has.
//!
//! Every role of the control plane calls [`keep_copy`] once, at its start. Its ServiceAccount needs, in the namespace of the
//! control plane, for ConfigMap `hawser-trust-bundle` (`resourceNames`): `get`, `list`, `watch`.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::watcher::watch_object;

use super::Role;
use crate::manifest::names::{BUNDLE_CONFIG_MAP, BUNDLE_KEY};
use crate::net::backoff::Backoff;
use crate::pki::Bundle;

/// The waits after an error: short at first, for the proxy of this pod waits too.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// Keeps the file of `role`'s settings equal to the bundle in the cluster, until the drain. Without such a setting it
/// does nothing.
pub fn keep_copy(role: &Role) {
    let Some(file) = role.common.trust_bundle_file.clone() else { return };
    let bundles = Api::namespaced(role.client.clone(), &role.common.control_namespace);
    let drain = role.drain.clone();
    role.drain.spawn(async move {
        tokio::select! {
            () = follow(bundles, file) => {}
            () = drain.started() => {}
        }
    });
}

async fn follow(bundles: Api<ConfigMap>, file: PathBuf) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
    let mut watch = pin!(watch_object(bundles, BUNDLE_CONFIG_MAP));
    // The stream of a watch only ends when it is dropped; errors are items of it.
    while let Some(change) = watch.next().await {
        match change {
            Ok(Some(found)) => {
                backoff.reset();
                match copy(&found, &file).await {
                    Ok(true) => tracing::info!(file = %file.display(), "wrote the trust bundle"),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, file = %file.display(), "cannot write the trust bundle"),
                }
            }
            // Its copy stays: proxies go on with what they last knew.
            Ok(None) => tracing::warn!("config map {BUNDLE_CONFIG_MAP} does not exist; apply `hawser install` again"),
            Err(error) => {
                tracing::warn!(%error, "cannot watch config map {BUNDLE_CONFIG_MAP}");
                tokio::time::sleep(backoff.delay()).await;
            }
        }
    }
}

/// Writes the bundle in `found`, if it has one that differs from the file's; says whether it wrote.
async fn copy(found: &ConfigMap, file: &Path) -> io::Result<bool> {
    let Some(text) = found.data.as_ref().and_then(|data| data.get(BUNDLE_KEY)).filter(|text| !text.is_empty()) else {
        return Ok(false); // The identity role has not filled it yet.
    };
    let bundle = Bundle::parse_pem(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let text = bundle.to_pem();
    if tokio::fs::read(file).await.is_ok_and(|written| written == text.as_bytes()) {
        return Ok(false);
    }
    // A rename, so that the proxy never reads half a bundle.
    let unfinished = file.with_extension("unfinished");
    tokio::fs::write(&unfinished, &text).await?;
    tokio::fs::rename(&unfinished, file).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use super::*;
    use crate::pki::Anchor;

    fn config_map(text: &str) -> ConfigMap {
        ConfigMap { data: Some(BTreeMap::from([(BUNDLE_KEY.to_owned(), text.to_owned())])), ..ConfigMap::default() }
    }

    fn anchor() -> String {
        Anchor::create("cluster.local", SystemTime::UNIX_EPOCH).unwrap().certificate().to_pem()
    }

    #[tokio::test]
    async fn writes_a_bundle_once_and_its_successor_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca-bundle.crt");
        let (first, second) = (anchor(), anchor());
        assert!(copy(&config_map(&first), &file).await.unwrap());
        assert!(!copy(&config_map(&first), &file).await.unwrap());
        assert!(copy(&config_map(&second), &file).await.unwrap());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), second);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn keeps_the_last_bundle_when_the_next_is_empty_or_broken() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca-bundle.crt");
        let good = anchor();
        assert!(copy(&config_map(&good), &file).await.unwrap());
        assert!(!copy(&ConfigMap::default(), &file).await.unwrap());
        assert!(!copy(&config_map(""), &file).await.unwrap());
        assert!(copy(&config_map("no certificate"), &file).await.is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), good);
    }
}
