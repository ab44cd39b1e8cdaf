//! Two identity roles: they agree on one anchor in an empty cluster, and at each step of a rotation, whichever of them is killed.

use serde_json::Value;

use super::trust::{LONG, MINUTES, admin, identities, phase, status, until};
use crate::support::cluster::{App, Cluster, Pod, SOON, own_to_wait_in};
use crate::support::eventually;

const TWO: [&str; 2] = ["--controller-replicas", "2"];

/// Waits until there are two replicas which sign with the same issuer and tell proxies the same bundle, of so many anchors; returns the issuer's
/// serial.
#[track_caller]
fn agreed(cluster: &Cluster, anchors: usize) -> Value {
    eventually("both replicas agree", SOON, || {
        let pods = identities(cluster);
        let told = pods
            .iter()
            .map(|pod| serde_json::from_str(&admin(cluster, pod, "trust")?).map_err(|error| error.to_string()));
        let told = told.collect::<Result<Vec<Value>, String>>()?;
        let now = status(cluster);
        let agrees = |told: &Value| {
            told["bundle"] == now["bundle"]
                && told["issuer"]["serial"] == now["issuer"]["serial"]
                && told["trouble"].is_null()
        };
        let is_so = now["anchors"].as_array().is_some_and(|found| found.len() == anchors);
        if told.len() == 2 && told.iter().all(agrees) && is_so && now["issuer"].is_object() {
            Ok(now["issuer"]["serial"].clone())
        } else {
            Err(format!("{now:#}\n{told:#?}"))
        }
    })
}

/// Ends a pod of the identity role without a word of warning; the other goes on, and the Deployment makes another.
fn kill(cluster: &Cluster, pod: &str) {
    cluster.kubectl_ok(&["-n", "hawser", "delete", "pod", pod, "--force", "--grace-period=0"]);
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn two_identities_agree_from_an_empty_cluster_to_the_end_of_a_rotation_whichever_is_killed() {
    let cluster = own_to_wait_in("-pair");
    cluster.install(&[&MINUTES[..], &TWO].concat()).succeeds();
    let first = agreed(&cluster, 1);
    let events = cluster.json(&["-n", "hawser", "get", "events.events.k8s.io"]);
    let made = events["items"].as_array().unwrap().iter().filter(|event| event["reason"] == "TrustAnchorCreated");
    let made: Vec<_> = made.collect();
    assert!(made.len() == 1 && made[0]["series"].is_null(), "one made the anchor, the other took it: {made:#?}");

    let namespace = cluster.meshed("pair");
    let http = namespace.url("http", "web", 8080);
    let clients = namespace.start([
        App::http("web"),
        App::load("kept", &http, &["--rate", "10"]),
        App::load("fresh", &http, &["--rate", "5", "--new-connections"]),
    ]);
    let clients = &clients[1..];
    let before: Vec<_> = clients.iter().map(Pod::settled).collect();
    let old = status(&cluster)["anchors"][0]["fingerprint"].take();

    cluster.hawser(["trust", "rotate", "--anchor"]).succeeds();
    until(&cluster, "the new anchor is published", SOON, |now| phase(now) == Some("publish"));
    assert_eq!(agreed(&cluster, 2), first);
    // Whichever has led so far: one goes now, and the other once the new anchor signs.
    let [one, other] = identities(&cluster).try_into().unwrap();
    kill(&cluster, &one);
    until(&cluster, "the new anchor signs", LONG, |now| phase(now) == Some("expire"));
    let second = agreed(&cluster, 2);
    assert_ne!(second, first);
    kill(&cluster, &other);
    let done = until(&cluster, "the old anchor is retired", LONG, |now| now["rotation"].is_null());
    assert_eq!(agreed(&cluster, 1), second);
    assert_ne!(done["anchors"][0]["fingerprint"], old);

    for (client, before) in clients.iter().zip(before) {
        let after = client.after_calls(20);
        assert_eq!(after.failures, before.failures, "{client}: {after:?}");
    }
    assert_eq!(namespace.restarts(), 0);
    cluster.hawser(["check"]).succeeds();
}
