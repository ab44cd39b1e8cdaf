//! The control plane may go: what is meshed goes on, and what is not meshed never notices.

use serde_json::json;

use crate::support::cluster::{App, Cluster, Pod, SOON, mesh_alone};
use crate::support::eventually;

const ROLES: [&str; 3] = ["identity", "destination", "injector"];

/// No pod of the control plane, until dropped.
struct Gone<'a>(&'a Cluster);

impl<'a> Gone<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        for role in ROLES {
            cluster.kubectl_ok(&["-n", "hawser", "scale", "--replicas=0", &format!("deployment/hawser-{role}")]);
        }
        let gone = Self(cluster);
        eventually("no pod of the control plane is left", SOON, || {
            let pods = cluster.json(&["-n", "hawser", "get", "pods"]);
            if pods["items"] == json!([]) { Ok(()) } else { Err(pods["items"].as_array().map(Vec::len)) }
        });
        gone
    }
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        for role in ROLES {
            let back = ["-n", "hawser", "scale", "--replicas=1", &format!("deployment/hawser-{role}")];
            let _ = self.0.kubectl(&back).output();
        }
        for role in ROLES {
            let wait = ["-n", "hawser", "rollout", "status", "--timeout=90s", &format!("deployment/hawser-{role}")];
            let _ = self.0.kubectl(&wait).output();
        }
    }
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn without_a_control_plane_traffic_goes_on_and_with_it_new_pods_join() {
    let mesh = mesh_alone();
    let namespace = mesh.meshed("outage");
    let http = namespace.url("http", "web", 8080);
    let [web, _, _, kept, fresh, grpc, lines] = namespace.start([
        App::http("web"),
        App::grpc("cart"),
        App::smtp("mail"),
        App::load("kept", &http, &["--rate", "20"]),
        App::load("fresh", &http, &["--rate", "10", "--new-connections"]),
        App::load("grpc", &namespace.url("grpc", "cart", 9090), &["--rate", "10"]),
        App::load("lines", &namespace.url("smtp", "mail", 2525), &["--rate", "10", "--new-connections"]),
    ]);
    let clients = [kept, fresh, grpc, lines];
    let before: Vec<_> = clients.iter().map(Pod::settled).collect();

    let gone = Gone::new(&mesh);
    for (client, before) in clients.iter().zip(before) {
        let during = client.after_calls(50);
        assert_eq!(during.failures, before.failures, "{client} while the control plane was gone: {during:?}");
    }
    assert!(web.is_meshed());

    drop(gone);
    let [newcomer] = namespace.start([App::load("newcomer", &http, &["--rate", "10"])]);
    assert!(newcomer.is_meshed());
    let counters = newcomer.settled();
    let expected = format!("\"l5d-client-id\":[\"{}\"]", namespace.identity("newcomer"));
    assert!(counters.last_answer.contains(&expected), "{counters:?}");
    for client in &clients {
        let after = client.after_calls(10);
        assert_eq!(after.failing, 0, "{client} after the control plane was back: {after:?}");
    }
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn without_an_injector_pods_of_unmeshed_namespaces_start_as_ever() {
    let mesh = mesh_alone();
    let _gone = Gone::new(&mesh);
    let namespace = mesh.unmeshed("outage-unmeshed");
    let [pod] = namespace.start([App::http("web")]);
    assert!(!pod.is_meshed());
}
