//! `hawser uninstall` without a cluster; with one, see tests/cluster.

use serde_json::json;

use crate::support::api::Api;
use crate::support::{Hawser, text};

#[test]
fn says_when_there_is_no_cluster() {
    let output = Hawser::new(["uninstall", "--kubeconfig", "/no/such/kubeconfig"]).output();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(text(&output.stderr).contains("/no/such/kubeconfig"));
}

#[test]
fn refuses_for_pods_that_stay_and_not_for_those_on_their_way_out() {
    let against = |deleted_at: Option<&str>| {
        let pod = json!({"metadata": {"name": "web-1", "namespace": "shop", "deletionTimestamp": deleted_at}});
        let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": [pod]});
        let api = Api::start(move |path| path.ends_with("/pods").then(|| (200, list.clone())));
        let output = Hawser::new(["uninstall"]).env("KUBECONFIG", api.kubeconfig()).output();
        (output.status.code(), text(&output.stderr))
    };
    let (code, said) = against(None);
    assert!(code == Some(1) && said.starts_with("1 pod is still meshed:\n  shop/web-1\n"), "{said}");
    let (code, said) = against(Some("2026-01-01T00:00:00Z"));
    assert!(code == Some(2) && said.starts_with("error: there is no hawser in namespace `hawser`"), "{said}");
}
