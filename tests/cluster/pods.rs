//! A meshed pod lives as any other: its Job completes, its init containers have a network, its probes work, and it goes when told to.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::cluster::{App, SOON, mesh};
use crate::support::eventually;

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_job_of_a_meshed_pod_completes_after_a_call_over_the_mesh() {
    let mesh = mesh();
    let namespace = mesh.meshed("job");
    namespace.start([App::http("server")]);
    let url = namespace.url("http", "server", 8080);
    mesh.apply(&[
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "caller", "namespace": namespace.name}}),
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "caller", "namespace": namespace.name},
            "spec": {"backoffLimit": 0, "template": {"spec": {
                "restartPolicy": "Never", "serviceAccountName": "caller",
                "securityContext": {"runAsNonRoot": true, "runAsUser": 10001},
                "containers": [{"name": "app", "image": mesh.image, "args": ["run", "sample", "once", url, "--within", "30"]}],
            }}},
        }),
    ]);
    namespace.kubectl_ok(&["wait", "--for=condition=Complete", "--timeout=90s", "job/caller"]);
    let answer = namespace.kubectl_ok(&["logs", "job/caller", "-c", "app"]);
    assert!(answer.contains(&namespace.identity("caller")), "the call was not meshed: {answer}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn init_containers_of_a_meshed_pod_are_meshed() {
    let mesh = mesh();
    let namespace = mesh.meshed("init");
    namespace.start([App::http("server")]);
    let url = namespace.url("http", "server", 8080);
    let once =
        json!([{"name": "migrate", "image": mesh.image, "args": ["run", "sample", "once", url, "--within", "30"]}]);
    let [pod] = namespace.start([App::http("client").pod("initContainers", once)]);
    let answer = pod.logs("migrate");
    assert!(answer.contains(&namespace.identity("client")), "the call was not meshed: {answer}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn probes_of_a_meshed_pod_tell_the_truth() {
    let mesh = mesh();
    let namespace = mesh.meshed("probes");
    // HTTP and TCP probes of apps that listen: their pods become ready, as `start` asserts.
    let [http, tcp] = namespace.start([App::http("http"), App::smtp("tcp")]);
    assert!(http.is_meshed() && tcp.is_meshed());
    // One of an app that fails them: the proxy in between must not answer in its place.
    let failing = json!({"httpGet": {"path": "/status/500", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
    namespace.apply(&App::http("failing").liveness(failing));
    eventually("the kubelet restarts the failing app", SOON, || {
        let pods = mesh.json(&["-n", &namespace.name, "get", "pods", "-l", "app=failing"]);
        let app = pods["items"][0]["status"]["containerStatuses"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["name"] == "app")
            .cloned();
        app.filter(|app| app["restartCount"].as_u64() > Some(0)).ok_or(pods)
    });
    for pod in ["http", "tcp"] {
        let pod = namespace.ready(pod);
        let containers = pod.found["status"]["containerStatuses"].as_array().unwrap();
        assert!(containers.iter().all(|container| container["restartCount"] == 0), "{containers:#?}");
    }
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn deleting_a_meshed_pod_takes_well_under_its_grace_period() {
    let mesh = mesh();
    let namespace = mesh.meshed("delete");
    let url = namespace.url("http", "server", 8080);
    let grace = json!(60);
    let [server, client] = namespace.start([
        App::http("server").pod("terminationGracePeriodSeconds", grace.clone()),
        App::load("client", &url, &[]).pod("terminationGracePeriodSeconds", grace),
    ]);
    client.settled();
    for pod in [client, server] {
        let begin = Instant::now();
        namespace.kubectl_ok(&["delete", "pod", &pod.name, "--wait=true"]);
        // Half of the grace period is far from what a proxy that ignored SIGTERM would take, and from what a slow machine does.
        assert!(begin.elapsed() < Duration::from_secs(30), "{pod} took {:?}", begin.elapsed());
    }
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_rollout_under_traffic_fails_no_call() {
    let mesh = mesh();
    let namespace = mesh.meshed("rollout");
    let of = |scheme, path| namespace.url(scheme, "server", 8080) + path;
    let calls = namespace.url("grpc", "calls", 9090);
    // Long enough to come in several frames, and short enough to be kept while it may have to be sent again.
    let body = "0123456789abcdef".repeat(2048);
    let load = |name, url: &str, more: &[&str]| App::load(name, url, &[&["--rate", "20"], more].concat());
    let [_, _, clients @ ..] = namespace.start([
        App::http("server").rolling(),
        App::grpc("calls").rolling(),
        load("gets", &of("http", "/"), &[]),
        load("posts", &of("h2c", "/"), &["--payload", &body]),
        load("unary", &calls, &["--payload", &body]),
        load("streams", &calls, &["--payload", "tick", "--stream", "5"]),
    ]);
    let before = clients.each_ref().map(|client| client.settled());
    namespace.restart(["server", "calls"]);
    for (client, before) in clients.iter().zip(before) {
        let after = client.after_calls(40);
        assert_eq!(after.failures, before.failures, "{client}: {after:?}");
    }
}
