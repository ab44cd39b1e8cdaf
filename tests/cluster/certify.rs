//! Who gets a certificate, and who does not: real tokens of a real API server, sent to the identity role.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hawser::pki::{Certificate, LeafKey};
use linkerd2_proxy_api::identity::CertifyRequest;
use linkerd2_proxy_api::identity::identity_client::IdentityClient;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tonic::Code;

use crate::support::cluster::{App, Cluster, Mesh, Namespace, mesh};

const AUDIENCE: &str = "identity.l5d.io";

/// Asks the identity role to certify `identity` by `token`, with a CSR for `csr_name`.
fn certify(mesh: &Cluster, identity: &str, csr_name: &str, token: &str) -> Result<Certificate, tonic::Status> {
    let forward = mesh.port_forward("hawser", "deployment/hawser-identity", 8080);
    let request = CertifyRequest {
        identity: identity.into(),
        token: token.into(),
        certificate_signing_request: LeafKey::generate().unwrap().csr(&csr_name.parse().unwrap()).unwrap(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = IdentityClient::connect(format!("http://127.0.0.1:{}", forward.port)).await.unwrap();
        let response = client.certify(request).await?.into_inner();
        Ok(Certificate::from_der(response.leaf_certificate).unwrap())
    })
}

fn token(namespace: &Namespace<'_>, service_account: &str, audience: &str) -> String {
    namespace.kubectl_ok(&["create", "token", service_account, "--audience", audience]).trim().to_owned()
}

/// A namespace with ServiceAccounts `web` and `thief`.
fn accounts<G>(mesh: &Mesh<G>) -> Namespace<'_> {
    let namespace = mesh.unmeshed("certify");
    for account in ["web", "thief"] {
        namespace.kubectl_ok(&["create", "serviceaccount", account]);
    }
    namespace
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_service_accounts_token_gets_a_certificate_for_its_own_identity() {
    let mesh = mesh();
    let namespace = accounts(&mesh);
    let web = namespace.identity("web");
    let leaf = certify(&mesh, &web, &web, &token(&namespace, "web", AUDIENCE)).unwrap();
    assert_eq!(leaf.identity().unwrap().as_str(), web);
    assert!(leaf.not_after() > SystemTime::now());
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn another_service_accounts_token_gets_no_certificate() {
    let mesh = mesh();
    let namespace = accounts(&mesh);
    let web = namespace.identity("web");
    let refused = certify(&mesh, &web, &web, &token(&namespace, "thief", AUDIENCE)).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains(&namespace.identity("thief")), "{refused:?}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_token_for_another_audience_gets_no_certificate() {
    let mesh = mesh();
    let namespace = accounts(&mesh);
    let web = namespace.identity("web");
    let refused = certify(&mesh, &web, &web, &token(&namespace, "web", "vault")).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_token_for_the_api_server_gets_no_certificate() {
    let mesh = mesh();
    let namespace = accounts(&mesh);
    let web = namespace.identity("web");
    let for_the_api_server = namespace.kubectl_ok(&["create", "token", "web"]).trim().to_owned();
    let refused = certify(&mesh, &web, &web, &for_the_api_server).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_token_that_is_none_gets_no_certificate() {
    let mesh = mesh();
    let namespace = accounts(&mesh);
    let web = namespace.identity("web");
    let refused = certify(&mesh, &web, &web, "let me in").unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let empty = certify(&mesh, &web, &web, "").unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument, "{empty:?}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_csr_for_another_name_gets_no_certificate() {
    let mesh = mesh();
    let namespace = accounts(&mesh);
    let (web, thief) = (namespace.identity("web"), namespace.identity("thief"));
    let refused = certify(&mesh, &thief, &web, &token(&namespace, "thief", AUDIENCE)).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn an_expired_token_gets_no_certificate() {
    let mesh = mesh();
    let namespace = accounts(&mesh);
    let web = namespace.identity("web");
    // The API server makes no tokens of less than ten minutes, so we sign with the cluster's own key. That one with time left works
    // shows that nothing but the time is wrong with the other.
    let real = token(&namespace, "web", AUDIENCE);
    let with_time_left = sign_again(&mesh, &real, 600);
    certify(&mesh, &web, &web, &with_time_left).unwrap();
    let expired = sign_again(&mesh, &real, -60);
    let refused = certify(&mesh, &web, &web, &expired).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("expired"), "{refused:?}");
}

/// The token again, ending so many seconds from now, signed by the cluster's key for ServiceAccount tokens.
fn sign_again(mesh: &Cluster, token: &str, seconds_left: i64) -> String {
    let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
    let header: Value = serde_json::from_slice(&parts.next().unwrap()).unwrap();
    assert_eq!(header["alg"], "RS256", "{header}");
    let mut claims: Value = serde_json::from_slice(&parts.next().unwrap()).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let an_hour_ago = now - Duration::from_secs(3600).as_secs().cast_signed();
    for (claim, value) in [("exp", now + seconds_left), ("iat", an_hour_ago), ("nbf", an_hour_ago)] {
        claims[claim] = json!(value);
    }
    let signed =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()),);
    let key = rustls_pki_types::PrivateKeyDer::from_pem_file(mesh.folder().join("pki/sa.key")).unwrap();
    let key = aws_lc_rs::rsa::KeyPair::from_der(key.secret_der()).unwrap();
    let mut signature = vec![0; key.public_modulus_len()];
    let random = aws_lc_rs::rand::SystemRandom::new();
    key.sign(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn every_pod_has_its_own_certificate_which_identity_shows_and_verifies() {
    let mesh = mesh();
    let namespace = mesh.meshed("identity");
    let [web, _] = namespace.start([App::http("web"), App::http("cart")]);
    let printed = mesh.hawser(["identity", "-n", &namespace.name, "-o", "json"]).succeeds();
    let rows: Value = serde_json::from_str(&printed).unwrap();
    let rows = rows.as_array().unwrap_or_else(|| panic!("{rows:#}"));
    assert_eq!(rows.len(), 2, "{rows:#?}");
    let row = rows.iter().find(|row| row["pod"] == web.name.as_str()).unwrap_or_else(|| panic!("{rows:#?}"));
    assert_eq!(row["verdict"], "good", "{row:#}");
    assert_eq!(row["identity"], namespace.identity("web"), "{row:#}");
    assert_ne!(rows[0]["serial"], rows[1]["serial"]);
}
