//! What others write into the issuer's Secret: taken within seconds where it can be used, refused where it cannot.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawser::pki::{Anchor, Issuer};
use serde_json::json;

use super::peers::real_issuer;
use super::trust::{ISSUER, metric, status};
use crate::support::cluster::{App, Cluster, SOON, mesh_alone};
use crate::support::eventually;

/// Writes as cert-manager or a person would: both keys at once, asking nobody.
fn write(cluster: &Cluster, issuer: &Issuer) {
    let data = json!({"crt.pem": STANDARD.encode(issuer.chain_pem()), "key.pem": STANDARD.encode(issuer.key_pem())});
    let patch = json!({"data": data}).to_string();
    cluster.kubectl_ok(&["-n", "hawser", "patch", "secret", ISSUER, "--type=merge", "-p", &patch]);
}

/// Puts back the issuer that the other tests have, whatever becomes of this one.
struct Restore<'a>(&'a Cluster, Issuer);

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        write(self.0, &self.1);
    }
}

fn anchor(cluster: &Cluster) -> Anchor {
    let pem = cluster.secret("hawser-trust-anchor");
    Anchor::parse_pem(&pem("crt.pem"), &pem("key.pem")).unwrap()
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn an_issuer_that_others_write_is_used_at_once_and_one_that_nobody_would_believe_is_refused() {
    let mesh = mesh_alone();
    let _restore = Restore(&mesh, real_issuer(&mesh));
    let now = std::time::SystemTime::now();
    let renewed = anchor(&mesh).create_issuer("cluster.local", now).unwrap();
    write(&mesh, &renewed);
    let serial = renewed.certificate().serial();
    let signs = |what: &str| {
        eventually(what, SOON, || {
            let now = status(&mesh);
            if now["issuer"]["serial"] == serial { Ok(now) } else { Err(format!("{now:#}")) }
        })
    };
    signs("the issuer that others wrote signs");
    assert_eq!(metric(&mesh, "hawser_identity_in_trouble"), Some(0.0));

    let stranger = Anchor::create("elsewhere", now).unwrap().create_issuer("elsewhere", now).unwrap();
    write(&mesh, &stranger);
    eventually("the identity role says what it refuses", SOON, || {
        let now = status(&mesh);
        let trouble = now["trouble"].to_string();
        if trouble.contains(ISSUER) && trouble.contains("does not chain") { Ok(()) } else { Err(format!("{now:#}")) }
    });
    signs("the one before goes on");
    assert_eq!(metric(&mesh, "hawser_identity_in_trouble"), Some(1.0));
    let checked = mesh.hawser(["check"]).fails(1);
    drop(checked);
    let events = mesh.json(&["-n", "hawser", "get", "events"]).to_string();
    assert!(events.contains("IssuerUpdateSkipped"), "{events}");
    let namespace = mesh.meshed("stored");
    let [web] = namespace.start([App::http("web")]);
    assert!(web.is_meshed(), "it starts, so it has a certificate");

    write(&mesh, &renewed);
    eventually("all is well again", SOON, || {
        let now = status(&mesh);
        if now["trouble"] == json!([]) { Ok(()) } else { Err(format!("{now:#}")) }
    });
    assert_eq!(metric(&mesh, "hawser_identity_in_trouble"), Some(0.0));
    mesh.hawser(["check"]).succeeds();
}
