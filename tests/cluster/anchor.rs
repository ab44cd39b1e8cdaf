//! Leaf, issuer and anchor are replaced under traffic, whoever dies or is cut off meanwhile; and a mesh in which all has ended comes back.
//!
//! Lifetimes are short, in clusters of their own: the mesh that other tests share has certificates of a day.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::peers::{ask, credentials, real_issuer, refused};
use super::trust::{LONG, MINUTES, phase, serials, status, until};
use crate::support::cluster::{App, Cluster, Namespace, Pod, SOON, own_to_wait_in};
use crate::support::eventually;

/// All of it ends within minutes.
const ENDING: [&str; 12] = [
    "--set",
    "identity.issuer.issuanceLifetime=20s",
    "--set",
    "identity.issuer.clockSkewAllowance=1s",
    "--set",
    "identity.issuer.lifetime=60s",
    "--set",
    "identity.issuer.renewBefore=25s",
    "--set",
    "identity.anchor.lifetime=170s",
    "--set",
    "identity.anchor.rotateBefore=85s",
];
/// Whether the rotation waits for these pods, by the names of their apps, and for no others.
fn waits_for(status: &Value, apps: &[&str]) -> bool {
    let named: Vec<_> = status["rotation"]["waiting_for"].as_array().into_iter().flatten().collect();
    named.len() == apps.len()
        && apps.iter().all(|app| named.iter().any(|named| named.as_str().unwrap().contains(&format!("/{app}-"))))
}

/// Ends the identity role's pod without a word of warning; its Deployment makes another.
fn kill_identity(cluster: &Cluster) {
    let label = "linkerd.io/control-plane-component=identity";
    cluster.kubectl_ok(&["-n", "hawser", "delete", "pod", "-l", label, "--force", "--grace-period=0"]);
}

fn scale_identity(cluster: &Cluster, replicas: u32) {
    let scale = format!("--replicas={replicas}");
    cluster.kubectl_ok(&["-n", "hawser", "scale", "deployment/hawser-identity", &scale]);
    let label = "linkerd.io/control-plane-component=identity";
    if replicas == 0 {
        cluster.kubectl_ok(&["-n", "hawser", "delete", "pod", "-l", label, "--force", "--grace-period=0"]);
    }
}

/// Whom a pod's proxy believes: the fingerprints of its anchors.
fn believed(namespace: &Namespace<'_>, pod: &Pod<'_>) -> Vec<String> {
    let path = format!("/api/v1/namespaces/{}/pods/{}:4191/proxy/trust", namespace.name, pod.name);
    let told: Value = serde_json::from_str(&namespace.kubectl_ok(&["get", "--raw", &path])).unwrap();
    let anchors = told["anchors"].as_array().unwrap_or_else(|| panic!("{told:#}"));
    anchors.iter().map(|anchor| anchor["fingerprint"].as_str().unwrap().to_owned()).collect()
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn everything_that_signs_is_replaced_under_traffic_though_identity_dies_and_proxies_are_cut_off() {
    let cluster = own_to_wait_in("-replaced");
    cluster.install(&MINUTES).succeeds();
    let namespace = cluster.meshed("rotation");
    let (http, grpc) = (namespace.url("http", "web", 8080), namespace.url("grpc", "cart", 9090));
    let smtp = namespace.url("smtp", "mail", 2525);
    let [web, cart, mail, far, lost, kept, fresh, calls, lines] = namespace.start([
        App::http("web"),
        App::grpc("cart"),
        App::smtp("mail"),
        App::http("far"),
        App::http("lost"),
        App::load("kept", &http, &["--rate", "10"]),
        App::load("fresh", &http, &["--rate", "5", "--new-connections"]),
        App::load("calls", &grpc, &["--rate", "5"]),
        App::load("lines", &smtp, &["--rate", "5", "--new-connections"]),
    ]);
    let clients = [kept, fresh, calls, lines];
    let before: Vec<_> = clients.iter().map(Pod::settled).collect();
    let old = status(&cluster);
    let old_anchor = old["anchors"][0]["fingerprint"].as_str().unwrap();
    let first = serials(&cluster, &namespace, &web);

    // The issuer. Killed at once: who asked need not ask again.
    cluster.hawser(["trust", "rotate", "--issuer"]).succeeds();
    kill_identity(&cluster);
    let rotated = until(&cluster, "a new issuer signs", SOON, |now| {
        now["request"].is_null() && now["issuer"].is_object() && now["issuer"]["serial"] != old["issuer"]["serial"]
    });
    // What somebody may have kept, and shows later.
    let peer = namespace.identity("peer");
    let of_old = real_issuer(&cluster);
    let under_old = || credentials(&of_old, &peer, SystemTime::now());
    let server = namespace.identity("web");

    // The anchor, while two proxies cannot hear of it: asked for while nobody is there to do it, and killed once it has begun.
    let service = cluster.json(&["-n", "hawser", "get", "service", "hawser-identity"]);
    let service = service["spec"]["clusterIP"].as_str().unwrap();
    // Both ways: who has the connection already would hear the rest of what comes by it, from an identity that is slow to die.
    let drop = |what: &str, pod: &Pod<'_>| {
        for packets in [format!("OUTPUT -d {service}"), format!("INPUT -s {service}")] {
            cluster.in_pod_network(pod.ip(), &format!("iptables -{what} {packets} -j DROP"));
        }
    };
    for pod in [&far, &lost] {
        drop("A", pod);
    }
    scale_identity(&cluster, 0);
    cluster.hawser(["trust", "rotate", "--anchor"]).succeeds();
    scale_identity(&cluster, 1);
    until(&cluster, "the two are named", SOON, |now| phase(now) == Some("publish") && waits_for(now, &["far", "lost"]));
    kill_identity(&cluster);
    // Long enough for it to have gone on, were it not for them; the rotated issuer signs meanwhile.
    let renewed = eventually("web renews its certificate", LONG, || {
        let now = serials(&cluster, &namespace, &web);
        if now.0 != first.0 && rotated["issuer"]["serial"] == now.1 { Ok(now) } else { Err(now) }
    });
    assert_ne!(renewed.1, first.1);
    let held = until(&cluster, "the two are named again", SOON, |now| waits_for(now, &["far", "lost"]));
    assert_eq!((phase(&held), held["anchors"].as_array().unwrap().len()), (Some("publish"), 2), "{held:#}");
    assert!(ask(&cluster, &web, &server, under_old()).unwrap().contains(&peer));

    // One is back, the other is gone.
    drop("D", &far);
    namespace.kubectl_ok(&["delete", "pod", &lost.name, "--force", "--grace-period=0"]);
    until(&cluster, "nobody is waited for", SOON, |now| phase(now) != Some("publish") || waits_for(now, &[]));
    // Killed just after it wrote that it switches: too short a moment to be met from outside, so it is written here.
    scale_identity(&cluster, 0);
    let mut rotation = status(&cluster)["rotation"].take();
    if rotation["phase"] == "publish" {
        rotation["phase"] = "switch".into();
        let patch = json!({"data": {"rotation": rotation.to_string()}});
        let patch = ["patch", "configmap", "hawser-trust-bundle", "--type=merge", "-p", &patch.to_string()];
        cluster.kubectl_ok(&[&["-n", "hawser"], &patch[..]].concat());
    }
    scale_identity(&cluster, 1);
    until(&cluster, "the new anchor signs", SOON, |now| {
        phase(now) == Some("expire")
            && now["issuer"].is_object()
            && now["issuer"]["serial"] != rotated["issuer"]["serial"]
    });
    kill_identity(&cluster);
    let done = until(&cluster, "the old anchor is retired", LONG, |now| now["rotation"].is_null());
    assert_eq!(done["anchors"].as_array().unwrap().len(), 1);
    assert_ne!(done["anchors"][0]["fingerprint"], *old_anchor);

    // Nobody believes the old one any more, not even with a certificate that is still valid.
    let lost = namespace.ready("lost");
    let pods = [&web, &cart, &mail, &far, &lost].into_iter().chain(&clients);
    for pod in pods {
        eventually(&format!("{pod} believes the new anchor only"), SOON, || {
            let believed = believed(&namespace, pod);
            if done["anchors"][0]["fingerprint"] == *believed.concat() { Ok(()) } else { Err(believed) }
        });
    }
    refused(ask(&cluster, &web, &server, under_old()));
    let under_new = credentials(&real_issuer(&cluster), &peer, SystemTime::now());
    assert!(ask(&cluster, &web, &server, under_new).unwrap().contains(&peer));

    for (client, before) in clients.iter().zip(before) {
        let after = client.after_calls(20);
        assert_eq!(after.failures, before.failures, "{client}: {after:?}");
    }
    assert_eq!(namespace.restarts(), 0);
    // No proxy was created with the bundle there is now, and none need be restarted for that.
    cluster.hawser(["check"]).succeeds();
    let printed = cluster.hawser(["check", "-o", "json"]).succeeds();
    assert!(printed.contains("proxies-bundle") && !printed.contains("was given another"), "{printed}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_mesh_in_which_all_has_ended_comes_back_by_one_command_and_then_renews_itself() {
    let cluster = own_to_wait_in("-ending");
    cluster.install(&ENDING).succeeds();
    let namespace = cluster.meshed("ended");
    let http = namespace.url("http", "web", 8080);
    let [web, kept, fresh] = namespace.start([
        App::http("web"),
        App::load("kept", &http, &["--rate", "5"]),
        App::load("fresh", &http, &["--rate", "5", "--new-connections"]),
    ]);
    fresh.settled();
    scale_identity(&cluster, 0);
    let ended = until(&cluster, "the anchor ends", LONG + LONG, |now| {
        now["ends"]
            .as_array()
            .unwrap()
            .iter()
            .all(|end| end["what"] != "trust anchor" || end["seconds_left"].as_i64() < Some(0))
    });
    let old_anchors: Vec<_> =
        ended["anchors"].as_array().unwrap().iter().map(|anchor| anchor["fingerprint"].clone()).collect();
    eventually("calls fail", SOON, || {
        let now = fresh.counters()?;
        if now.failing > 0 { Ok(()) } else { Err(format!("{now:?}")) }
    });

    // Back, it signs nothing, and says why and what to do.
    scale_identity(&cluster, 1);
    until(&cluster, "the identity role says what is wrong", SOON, |now| {
        now["trouble"].as_array().unwrap().iter().any(|why| why.as_str().unwrap().contains("hawser trust recover"))
    });
    let said = cluster.hawser(["check", "-o", "json"]).output();
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(fresh.counters().unwrap().failing > 0);

    cluster.hawser(["trust", "recover"]).succeeds();
    for client in [&kept, &fresh] {
        client.settled();
    }
    let done = until(&cluster, "the ended anchor is retired", LONG, |now| {
        let anchors = now["anchors"].as_array().unwrap();
        !anchors.iter().any(|anchor| old_anchors.contains(&anchor["fingerprint"]))
    });
    // And what is due begins by itself.
    let due = until(&cluster, "another rotation begins by itself", LONG, |now| {
        now["rotation"]["phase"] == "publish" && now["rotation"]["old"] == done["anchors"][0]["fingerprint"]
    });
    assert_eq!(due["rotation"]["recovers"], false, "{due:#}");
    for client in [&kept, &fresh] {
        client.settled();
    }
    assert!(web.is_meshed());
    assert_eq!(namespace.restarts(), 0);
}
