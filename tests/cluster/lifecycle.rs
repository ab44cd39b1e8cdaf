//! Installed by either way and again, on one node and on two, and removed without a trace.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::support::cluster::{App, Cluster, SOON, own};
use crate::support::eventually;

/// What is born in the cluster: keys, certificates, and who is believed.
fn born(cluster: &Cluster) -> Value {
    let data = |kind: &str| {
        let items = cluster.json(&["-n", "hawser", "get", kind])["items"].as_array().cloned().unwrap();
        items.into_iter().map(|item| (item["metadata"]["name"].clone(), item["data"].clone())).collect::<Vec<_>>()
    };
    let webhook = cluster.json(&["get", "mutatingwebhookconfiguration", "hawser-injector"]);
    json!([data("secrets"), data("configmaps"), webhook["webhooks"][0]["clientConfig"]["caBundle"]])
}

/// Counts the changes of each Deployment: one that is none would start new pods.
fn generations(cluster: &Cluster) -> Vec<Value> {
    let deployments = cluster.json(&["-n", "hawser", "get", "deployments"])["items"].as_array().cloned().unwrap();
    deployments.into_iter().map(|deployment| deployment["metadata"]["generation"].clone()).collect()
}

/// All that is called hawser, of all kinds there are, and all that says it belongs to it.
fn traces(cluster: &Cluster) -> Vec<String> {
    let kinds = cluster.kubectl_ok(&["api-resources", "--verbs=list", "-o", "name"]);
    let kinds = kinds.lines().collect::<Vec<_>>().join(",");
    let named = cluster.kubectl_ok(&["get", &kinds, "-A", "-o", "name", "--ignore-not-found"]);
    let ours = ["get", &kinds, "-A", "-l", "linkerd.io/control-plane-ns", "-o", "name", "--ignore-not-found"];
    let is_trace = |line: &&str| line.contains("hawser");
    named.lines().filter(is_trace).chain(cluster.kubectl_ok(&ours).lines()).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn the_manifest_is_applied_in_one_pass_and_again_by_either_way_without_changing_a_secret() {
    let cluster = own(1);
    let manifest = cluster.hawser(["install"]).succeeds();
    cluster.pipe(&manifest, &["apply", "-f", "-"]);
    cluster.hawser(["check", "--wait", "90s"]).succeeds();
    let (before, old) = (born(&cluster), generations(&cluster));
    for secret in before[0].as_array().unwrap() {
        assert!(secret[1].as_object().is_some_and(|data| !data.is_empty()), "{} is empty", secret[0]);
    }
    for again in [&["apply", "-f", "-"][..], &["apply", "--server-side", "-f", "-"], &["apply", "-f", "-"]] {
        cluster.pipe(&manifest, again);
        assert!(born(&cluster) == before, "{again:?} changed what is born in the cluster");
        assert_eq!(generations(&cluster), old, "{again:?} changed a Deployment");
    }
    cluster.install(&[]).succeeds();
    assert!(born(&cluster) == before, "`install --apply` changed what is born in the cluster");
    assert_eq!(generations(&cluster), old);
    let error = cluster.hawser(["install", "--apply", "--hawser-namespace", "elsewhere"]).fails(2);
    assert!(error.contains("hawser is installed in namespace `hawser`"), "{error}");
    assert_eq!(cluster.kubectl_ok(&["get", "namespace", "elsewhere", "--ignore-not-found"]), "");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn uninstall_refuses_while_pods_are_meshed_and_leaves_nothing_behind_once_it_may() {
    let cluster = own(1);
    let manifest = cluster.hawser(["install"]).succeeds();
    cluster.pipe(&manifest, &["apply", "--server-side", "-f", "-"]);
    cluster.hawser(["check", "--wait", "90s"]).succeeds();
    let namespace = cluster.meshed("leaving");
    let url = namespace.url("http", "web", 8080);
    let [web, client] = namespace.start([App::http("web"), App::load("client", &url, &["--rate", "5"]).rolling()]);
    client.settled();
    for flags in [&["uninstall"][..], &["uninstall", "--delete"]] {
        let error = cluster.hawser(flags.iter().copied()).fails(1);
        assert!(error.contains("2 pods are still meshed") && error.contains(&web.to_string()), "{error}");
    }
    cluster.hawser(["check"]).succeeds();

    // With the flag: what runs goes on, with the certificates it has.
    cluster.hawser(["uninstall", "--delete", "--force"]).succeeds();
    gone(&cluster);
    assert_eq!(client.after_calls(10).failing, 0);

    // And back, and away by the book.
    cluster.install(&[]).succeeds();
    cluster.kubectl_ok(&["annotate", "namespace", &namespace.name, "linkerd.io/inject-"]);
    let [web, client] = namespace.restart(["web", "client"]);
    assert!(!web.is_meshed() && !client.is_meshed());
    let objects = cluster.hawser(["uninstall"]).succeeds();
    cluster.pipe(&objects, &["delete", "-f", "-"]);
    gone(&cluster);
    assert_eq!(traces(&cluster), Vec::<String>::new());
    client.settled();
    let error = cluster.hawser(["uninstall"]).fails(2);
    assert!(error.contains("there is no hawser in namespace `hawser`"), "{error}");
}

#[track_caller]
fn gone(cluster: &Cluster) {
    eventually("the control plane is gone", SOON, || {
        let left: Vec<_> = traces(cluster).into_iter().filter(|trace| !trace.starts_with("pod/")).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn replicas_that_start_together_on_two_nodes_agree_on_one_anchor_and_each_injector_serves() {
    let cluster = own(2);
    cluster.install(&["--ha"]).succeeds();
    cluster.hawser(["check"]).succeeds();
    let pods = cluster.json(&["-n", "hawser", "get", "pods"])["items"].as_array().cloned().unwrap();
    let of =
        |role: &str| -> Vec<&Value> { pods.iter().filter(|pod| pod["spec"]["serviceAccountName"] == role).collect() };
    let mut issuers = Vec::new();
    for pod in of("hawser-identity") {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let logs = cluster.kubectl_ok(&["-n", "hawser", "logs", name, "-c", "identity"]);
        let last = logs.lines().rfind(|line| line.contains("signing with")).unwrap_or_else(|| panic!("{logs}"));
        issuers.push(last.split_once("signing with").unwrap().1.to_owned());
    }
    assert_eq!(issuers.len(), 3);
    assert!(issuers.iter().all(|issuer| *issuer == issuers[0]), "{issuers:#?}");
    let bundle = cluster.json(&["-n", "hawser", "get", "configmap", "hawser-trust-bundle"]);
    assert_eq!(bundle["data"].to_string().matches("BEGIN CERTIFICATE").count(), 1, "{bundle:#}");
    cluster.hawser(["identity", "-n", "hawser"]).succeeds();

    let pem = ca_bundle(&cluster);
    let injectors = of("hawser-injector");
    assert_eq!(injectors.len(), 3);
    for pod in injectors {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let forward = cluster.port_forward("hawser", &format!("pod/{name}"), 8443);
        handshake(forward.port, &pem).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let nodes: std::collections::BTreeSet<_> = pods.iter().map(|pod| pod["spec"]["nodeName"].to_string()).collect();
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    let namespace = cluster.meshed("two-nodes");
    let url = namespace.url("http", "web", 8080);
    let other_node = json!({"nodeName": "node-2"});
    let [web, client] = namespace.start([
        App::http("web").pod("nodeName", json!("node-1")),
        App::load("client", &url, &["--rate", "10"]).pod("nodeName", other_node["nodeName"].clone()),
    ]);
    assert!(web.is_meshed() && client.is_meshed());
    let expected = format!("\"l5d-client-id\":[\"{}\"]", namespace.identity("client"));
    assert!(client.settled().last_answer.contains(&expected));
}

/// The CAs that API servers believe of the webhook, as PEM.
pub(super) fn ca_bundle(cluster: &Cluster) -> Vec<u8> {
    let webhook = cluster.json(&["get", "mutatingwebhookconfiguration", "hawser-injector"]);
    STANDARD.decode(webhook["webhooks"][0]["clientConfig"]["caBundle"].as_str().unwrap()).unwrap()
}

/// A handshake as the API server makes it with the webhook, whose certificate is returned.
pub(super) fn handshake(port: u16, ca: &[u8]) -> std::io::Result<CertificateDer<'static>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "hawser-injector.hawser.svc".try_into().unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tcp = std::net::TcpStream::connect(("127.0.0.1", port))?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    let shown = tls.peer_certificates().and_then(<[_]>::first).expect("the handshake is over");
    Ok(shown.clone().into_owned())
}
