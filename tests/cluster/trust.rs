//! What tests of anchors and issuers ask of a mesh, and the lifetimes they give it.

use std::time::Duration;

use serde_json::Value;

use crate::support::cluster::{Cluster, Namespace, Pod, run};
use crate::support::eventually;

/// The Secret of the issuer.
pub(super) const ISSUER: &str = "hawser-identity-issuer";
/// Lifetimes of minutes. A renewal may be as late as the machine is slow: a third of this is left when it begins.
pub(super) const MINUTES: [&str; 12] = [
    "--set",
    "identity.issuer.issuanceLifetime=90s",
    "--set",
    "identity.issuer.clockSkewAllowance=1s",
    "--set",
    "identity.issuer.lifetime=20m",
    "--set",
    "identity.issuer.renewBefore=5m",
    "--set",
    "identity.anchor.lifetime=1h",
    "--set",
    "identity.anchor.rotateBefore=20m",
];
/// A rotation waits for the longest life of a certificate, and then some.
pub(super) const LONG: Duration = Duration::from_secs(300);

/// What `hawser trust status` says.
pub(super) fn status(cluster: &Cluster) -> Value {
    let printed = cluster.hawser(["trust", "status", "-o", "json"]).succeeds();
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// What `hawser trust status` says, once it is as it should be.
#[track_caller]
pub(super) fn until(cluster: &Cluster, what: &str, deadline: Duration, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(what, deadline, || {
        let status = status(cluster);
        if is_so(&status) { Ok(status) } else { Err(format!("{status:#}")) }
    })
}

/// The phase of the rotation that is under way.
pub(super) fn phase(status: &Value) -> Option<&str> {
    status["rotation"]["phase"].as_str()
}

/// The serials of a pod's certificate and of the issuer that signed it.
pub(super) fn serials(cluster: &Cluster, namespace: &Namespace<'_>, pod: &Pod<'_>) -> (String, String) {
    use rustls_pki_types::pem::PemObject as _;
    let printed = cluster.hawser(["identity", &pod.name, "-n", &namespace.name, "-o", "json"]).succeeds();
    let rows: Value = serde_json::from_str(&printed).unwrap();
    let serial = |at: usize| {
        let pem = rows[0]["chain"][at].as_str().unwrap_or_else(|| panic!("{rows:#}"));
        let der = rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        hawser::pki::Certificate::from_der(der).unwrap().serial().to_owned()
    };
    (serial(0), serial(1))
}

/// The pods of the identity role, the oldest first.
pub(super) fn identities(cluster: &Cluster) -> Vec<String> {
    let label = "linkerd.io/control-plane-component=identity";
    let sorted = "--sort-by=.metadata.creationTimestamp";
    let pods = cluster.json(&["-n", "hawser", "get", "pods", "-l", label, sorted]);
    let pods = pods["items"].as_array().unwrap().iter();
    let staying = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    staying.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// What a pod of the identity role answers on its admin port.
pub(super) fn admin(cluster: &Cluster, pod: &str, path: &str) -> Result<String, String> {
    let path = format!("/api/v1/namespaces/hawser/pods/{pod}:9990/proxy/{path}");
    run(cluster.kubectl(&["get", "--raw", &path]))
}

/// The value of a metric of the identity role's first pod.
pub(super) fn metric(cluster: &Cluster, name: &str) -> Option<f64> {
    let metrics = admin(cluster, identities(cluster).first()?, "metrics").unwrap();
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}
