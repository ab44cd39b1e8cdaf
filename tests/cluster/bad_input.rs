//! What cannot be done in a cluster is refused with the reason, and changes nothing.

use crate::support::cluster::{App, mesh};

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_second_control_plane_in_the_same_namespace_is_refused() {
    let mesh = mesh();
    // Whoever has put another mesh there would lose it.
    let namespace = mesh.unmeshed("linkerd");
    namespace.kubectl_ok(&["create", "configmap", "linkerd-config", "--from-literal=values=x"]);
    let error = mesh.hawser(["install", "--apply", "--hawser-namespace", &namespace.name]).fails(2);
    assert!(error.contains(&namespace.name), "{error}");
    let left = mesh.json(&["-n", &namespace.name, "get", "deployments,secrets,serviceaccounts"]);
    let names: Vec<_> = left["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["default"], "nothing should have been installed");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn uninstall_is_refused_while_pods_are_meshed() {
    let mesh = mesh();
    let namespace = mesh.meshed("uninstall");
    let [pod] = namespace.start([App::http("web")]);
    let error = mesh.hawser(["uninstall"]).fails(1);
    assert!(error.contains(&pod.name) || error.contains(&namespace.name), "{error}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_namespace_without_meshed_pods_is_named() {
    let mesh = mesh();
    let namespace = mesh.unmeshed("empty");
    let error = mesh.hawser(["identity", "-n", &namespace.name]).fails(2);
    assert!(error.contains(&namespace.name), "{error}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn checking_a_namespace_without_a_control_plane_fails_with_a_hint() {
    let mesh = mesh();
    let output = mesh.hawser(["check", "--hawser-namespace", "nowhere"]).output();
    assert_ne!(output.status.code(), Some(0), "{}", crate::support::both(&output));
    assert!(crate::support::both(&output).contains("nowhere"), "{}", crate::support::both(&output));
}
