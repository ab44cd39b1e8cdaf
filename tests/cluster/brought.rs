//! What people bring, and others keep: an issuer as cert-manager writes it, and files of `hawser trust create`.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawser::pki::{Anchor, Issuer};
use serde_json::{Value, json};

use super::trust::{ISSUER, metric, serials, status, until};
use crate::support::Hawser;
use crate::support::cluster::{App, Cluster, Namespace, Pod, SOON, own_to_wait_in};
use crate::support::eventually;

/// Writes the Secret as cert-manager does: of its type, by its field manager, all three keys at once.
fn keep(cluster: &Cluster, anchor: &Anchor, issuer: &Issuer) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {
            "name": ISSUER, "namespace": "hawser",
            "annotations": {"cert-manager.io/certificate-name": ISSUER, "cert-manager.io/issuer-kind": "ClusterIssuer"},
        },
        "data": {
            "tls.crt": STANDARD.encode(issuer.chain_pem()),
            "tls.key": STANDARD.encode(issuer.key_pem()),
            "ca.crt": STANDARD.encode(anchor.certificate().to_pem()),
        },
    });
    let apply = ["apply", "--server-side", "--field-manager=cert-manager-certificates-issuing", "-f", "-"];
    cluster.pipe(&secret.to_string(), &apply);
}

/// Waits until this issuer signs, and no other is wanted.
#[track_caller]
fn signs(cluster: &Cluster, issuer: &Issuer) -> Value {
    let serial = issuer.certificate().serial().to_owned();
    until(cluster, "the issuer that was written signs", SOON, |now| {
        now["issuer"]["serial"] == *serial && now["trouble"] == json!([])
    })
}

/// The serial of the issuer that signed the certificate of a pod which has just started.
fn signer_of_a_new_pod(cluster: &Cluster, namespace: &Namespace<'_>, app: &str) -> String {
    let [pod] = namespace.start([App::http(app)]);
    assert!(pod.is_meshed());
    serials(cluster, namespace, &pod).1
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn an_issuer_that_cert_manager_keeps_signs_and_so_does_its_successor_but_none_of_strangers() {
    let cluster = own_to_wait_in("-brought");
    cluster.kubectl_ok(&["create", "namespace", "hawser"]);
    let now = SystemTime::now();
    let anchor = Anchor::create("cluster.local", now).unwrap();
    let [first, second] = [(); 2].map(|()| anchor.create_issuer("cluster.local", now).unwrap());
    keep(&cluster, &anchor, &first);
    cluster.install(&["--identity-external-issuer"]).succeeds();
    let told = signs(&cluster, &first);
    assert_eq!(told["anchors"][0]["fingerprint"], *anchor.certificate().fingerprint(), "{told:#}");
    let keeper = json!({"secret_type": "kubernetes.io/tls", "written_by": "cert-manager-certificates-issuing"});
    assert_eq!((&told["issuer"]["external"], &told["issuer"]["keeper"]), (&json!(true), &keeper));
    cluster.hawser(["check"]).succeeds();

    let namespace = cluster.meshed("brought");
    let http = namespace.url("http", "web", 8080);
    let [web, kept, fresh] = namespace.start([
        App::http("web"),
        App::load("kept", &http, &["--rate", "10"]),
        App::load("fresh", &http, &["--rate", "5", "--new-connections"]),
    ]);
    let clients = [kept, fresh];
    let before: Vec<_> = clients.iter().map(Pod::settled).collect();
    assert_eq!(serials(&cluster, &namespace, &web).1, first.certificate().serial());

    keep(&cluster, &anchor, &second);
    signs(&cluster, &second);
    assert_eq!(signer_of_a_new_pod(&cluster, &namespace, "next"), second.certificate().serial());

    let stranger = Anchor::create("cluster.local", now).unwrap();
    keep(&cluster, &stranger, &stranger.create_issuer("cluster.local", now).unwrap());
    until(&cluster, "the identity role says what it refuses", SOON, |now| {
        let trouble = now["trouble"].to_string();
        trouble.contains(ISSUER) && trouble.contains("does not chain")
    });
    assert_eq!(status(&cluster)["issuer"]["serial"], *second.certificate().serial());
    assert_eq!(metric(&cluster, "hawser_identity_in_trouble"), Some(1.0));
    let said = cluster.hawser(["check"]).output();
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    eventually("there is an event", SOON, || {
        let events = cluster.json(&["-n", "hawser", "get", "events"]).to_string();
        if events.contains("IssuerUpdateSkipped") { Ok(()) } else { Err(events) }
    });
    assert_eq!(signer_of_a_new_pod(&cluster, &namespace, "later"), second.certificate().serial());

    keep(&cluster, &anchor, &first);
    signs(&cluster, &first);
    for (client, before) in clients.iter().zip(before) {
        let after = client.after_calls(20);
        assert_eq!(after.failures, before.failures, "{client}: {after:?}");
    }
    assert_eq!(namespace.restarts(), 0);
    cluster.hawser(["check"]).succeeds();

    drop(namespace);
    files_of_trust_create_are_taken(&cluster);
}

/// Where there was another mesh before: an anchor and an issuer, whose keys are encrypted.
fn files_of_trust_create_are_taken(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(file("passphrase"), "correct horse\n").unwrap();
    let (passphrase, made) = (file("passphrase"), file(""));
    Hawser::new(["trust", "create", "-o", &made, "--key-passphrase-file", &passphrase]).succeeds();
    let [anchors, issuer, issuer_key] = ["ca.crt", "issuer.crt", "issuer.key"].map(file);
    cluster.hawser(["uninstall", "--delete", "--force"]).succeeds();
    cluster.kubectl_ok(&["wait", "--for=delete", "namespace/hawser", "--timeout=90s"]);
    let install = [
        ["install", "--apply"],
        ["--identity-trust-anchors-file", &anchors],
        ["--identity-issuer-certificate-file", &issuer],
        ["--identity-issuer-key-file", &issuer_key],
        ["--identity-key-passphrase-file", &passphrase],
    ];
    cluster.hawser(install.concat()).succeeds();
    let told = status(cluster);
    let pem = std::fs::read_to_string(&anchors).unwrap();
    let anchor = hawser::pki::Bundle::parse_pem(&pem).unwrap().anchors()[0].fingerprint();
    assert_eq!((told["anchors"].as_array().unwrap().len(), &told["anchors"][0]["fingerprint"]), (1, &json!(anchor)));
    assert_eq!(told["issuer"]["external"], true, "{told:#}");
    let namespace = cluster.meshed("files");
    assert_eq!(signer_of_a_new_pod(cluster, &namespace, "web"), told["issuer"]["serial"].as_str().unwrap());
}
