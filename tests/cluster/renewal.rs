//! Certificates are renewed under traffic, each with a key of its own, and nobody notices.

use std::time::Duration;

use serde_json::Value;

use crate::support::cluster::{App, Cluster, Pod, mesh_alone};
use crate::support::eventually;

/// Renewed after 70 %: several times within the test.
const LIFETIME: &str = "40s";

/// What `hawser identity` says of a pod.
fn certificate(mesh: &Cluster, namespace: &str, pod: &Pod<'_>) -> Value {
    let printed = mesh.hawser(["identity", &pod.name, "-n", namespace, "-o", "json"]).succeeds();
    let mut rows: Value = serde_json::from_str(&printed).unwrap();
    rows[0].take()
}

/// The public key in the first certificate of the chain.
fn key(certificate: &Value) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject as _;
    let pem = certificate["chain"][0].as_str().unwrap_or_else(|| panic!("{certificate:#}"));
    let der = rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    parsed.public_key().raw.to_vec()
}

/// Gives back the lifetime that the other tests have, whatever becomes of this one.
struct Restore<'a>(&'a Cluster);

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        drop(self.0.install(&[]).output());
    }
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_certificate_is_renewed_under_traffic_with_a_new_key_and_no_failed_call() {
    let mesh = mesh_alone();
    let _restore = Restore(&mesh);
    mesh.install(&["--identity-issuance-lifetime", LIFETIME]).succeeds();
    let namespace = mesh.meshed("renewal");
    let http = namespace.url("http", "web", 8080);
    let smtp = namespace.url("smtp", "mail", 2525);
    let [web, _, kept, fresh, lines] = namespace.start([
        App::http("web"),
        App::smtp("mail"),
        App::load("kept", &http, &["--rate", "20"]),
        App::load("fresh", &http, &["--rate", "20", "--new-connections"]),
        App::load("lines", &smtp, &["--rate", "10", "--new-connections"]),
    ]);
    let clients = [kept, fresh, lines];
    let before: Vec<_> = clients.iter().map(Pod::settled).collect();
    let first = certificate(&mesh, &namespace.name, &web);
    assert_eq!(first["verdict"], "good", "{first:#}");

    let mut last = first.clone();
    for renewal in 1..=2 {
        let next = eventually(&format!("renewal {renewal} of {web}"), Duration::from_secs(120), || {
            let now = certificate(&mesh, &namespace.name, &web);
            if now["serial"] == last["serial"] { Err(now) } else { Ok(now) }
        });
        assert_eq!(next["verdict"], "good", "{next:#}");
        assert_eq!(next["identity"], first["identity"]);
        assert_ne!(key(&next), key(&last), "the key should be a new one");
        last = next;
    }
    for (client, before) in clients.iter().zip(before) {
        let after = client.after_calls(20);
        assert!(after.calls > before.calls);
        assert_eq!(after.failures, before.failures, "{client}: {after:?}");
    }
}
