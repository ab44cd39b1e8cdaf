//! The webhook's certificate is renewed, and no pod gets by without its proxy meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawser::control::injector::certificate::names;
use hawser::pki::Certificate;
use hawser::pki::serving::{Serving, certificates};
use serde_json::{Value, json};

use super::lifecycle::{ca_bundle, handshake};
use crate::support::cluster::{Cluster, mesh};
use crate::support::eventually;

const SECRET: &str = "hawser-injector-tls";
const WEBHOOK: &str = "hawser-injector";
/// How old a certificate is made to be: so that it is due, and would still serve for weeks.
const AGE: Duration = Duration::from_secs(70 * 24 * 60 * 60);

/// The serial number of the certificate that the webhook shows, to a client that believes no more than API servers do.
fn shown(mesh: &Cluster, port: u16) -> String {
    let certificate =
        handshake(port, &ca_bundle(mesh)).unwrap_or_else(|error| panic!("no API server would believe it: {error}"));
    Certificate::from_der(certificate).unwrap().serial().to_owned()
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_webhooks_certificate_that_is_due_is_renewed_and_every_pod_created_meanwhile_is_meshed() {
    let mesh = mesh();
    let namespace = mesh.meshed("webhook");
    let injector = mesh.port_forward("hawser", "deployment/hawser-injector", 8443);
    let before = shown(&mesh, injector.port);

    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "created-", "namespace": namespace.name},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    });
    let (created, is_over) = (AtomicU32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let creating = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let created_pod = mesh.pipe(&pod.to_string(), &["create", "-f", "-", "--dry-run=server", "-o", "json"]);
                let created_pod: Value = serde_json::from_str(&created_pod).unwrap();
                let sidecars = created_pod["spec"]["initContainers"].to_string();
                assert!(sidecars.contains("linkerd-proxy"), "a pod was created without a proxy: {created_pod:#}");
                created.fetch_add(1, Ordering::Relaxed);
            }
        });
        let end = End(&is_over);
        let more = |what| {
            let so_far = created.load(Ordering::Relaxed);
            eventually(what, Duration::from_secs(60), || {
                (creating.is_finished() || created.load(Ordering::Relaxed) > so_far + 10).then_some(()).ok_or(so_far)
            });
        };
        more("pods are created");
        age(&mesh);
        // Every handshake on the way is one that an API server could be making.
        let renewed = eventually("another certificate is shown", Duration::from_secs(120), || {
            Some(shown(&mesh, injector.port)).filter(|now| *now != before).ok_or(&before)
        });
        more("pods go on being created");
        drop(end);
        creating.join().expect("a pod was not created, or without its proxy");
        let kept = certificates(&mesh.secret(SECRET)("tls.crt")).unwrap().remove(0);
        assert_eq!(kept.serial(), renewed);
        assert!(kept.not_after() > SystemTime::now() + AGE, "{kept:?}");
    });
}

/// Ends what goes on until then, whatever becomes of the test.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Gives the webhook a certificate as its own would be when it is due, and has it looked at now instead of within a minute.
fn age(mesh: &Cluster) {
    let cas = certificates(&mesh.secret(SECRET)("ca.crt")).unwrap();
    let due = Serving::create(&names("hawser", "cluster.local"), SystemTime::now() - AGE, &cas).unwrap();
    assert!(due.renews_at() < SystemTime::now() && due.certificate().not_after() > SystemTime::now());
    let data = json!({
        "tls.crt": STANDARD.encode(due.certificate().to_pem()),
        "tls.key": STANDARD.encode(due.key_pem()),
        "ca.crt": STANDARD.encode(due.ca_bundle_pem()),
    });
    mesh.kubectl_ok(&["-n", "hawser", "patch", "secret", SECRET, "--patch", &json!({"data": data}).to_string()]);
    mesh.kubectl_ok(&["annotate", "--overwrite", "mutatingwebhookconfiguration", WEBHOOK, "test=now"]);
    mesh.kubectl_ok(&["annotate", "mutatingwebhookconfiguration", WEBHOOK, "test-"]);
}
