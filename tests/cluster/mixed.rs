//! Meshed pods and others speak with each other, and the plaintext between them is never silent.

use serde_json::Value;

use crate::support::cluster::{App, Cluster, Namespace, SOON, mesh};
use crate::support::eventually;

/// The edge between two workloads, once the proxies have measured one.
fn edge(mesh: &Cluster, namespace: &Namespace<'_>, client: &str, server: &str) -> Value {
    eventually(&format!("an edge from {client} to {server}"), SOON, || {
        let printed = mesh.hawser(["edges", "-n", &namespace.name, "-o", "json"]).succeeds();
        let edges: Value = serde_json::from_str(&printed).unwrap();
        let found =
            edges["edges"].as_array().into_iter().flatten().find(|edge| edge["src"] == client && edge["dst"] == server);
        found.cloned().ok_or(edges)
    })
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn an_unmeshed_client_reaches_a_meshed_server_and_edges_says_why_it_is_plaintext() {
    let mesh = mesh();
    let meshed = mesh.meshed("mixed-server");
    let outside = mesh.unmeshed("mixed-client");
    let [server] = meshed.start([App::http("server")]);
    let [client] = outside.start([App::load("client", &meshed.url("http", "server", 8080), &[])]);
    assert!(server.is_meshed() && !client.is_meshed());
    client.settled();
    let edge = edge(&mesh, &meshed, "client", "server");
    assert_eq!(edge["secured"], false, "{edge:#}");
    assert_eq!(edge["no_tls_reason"], "no_tls_from_remote", "{edge:#}");
    assert_eq!(edge["src_meshed"], false, "{edge:#}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_meshed_client_reaches_an_unmeshed_server_and_edges_says_why_it_is_plaintext() {
    let mesh = mesh();
    let meshed = mesh.meshed("mixed-client");
    let outside = mesh.unmeshed("mixed-server");
    let [server] = outside.start([App::http("server")]);
    let [client] = meshed.start([App::load("client", &outside.url("http", "server", 8080), &[])]);
    assert!(!server.is_meshed() && client.is_meshed());
    client.settled();
    let edge = edge(&mesh, &meshed, "client", "server");
    assert_eq!(edge["secured"], false, "{edge:#}");
    assert_eq!(edge["no_tls_reason"], "not_provided_by_service_discovery", "{edge:#}");
    assert_eq!(edge["dst_meshed"], false, "{edge:#}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn unmeshed_and_meshed_speak_a_protocol_whose_server_speaks_first() {
    let mesh = mesh();
    let meshed = mesh.meshed("mixed-smtp");
    let outside = mesh.unmeshed("mixed-smtp-outside");
    let more = ["--rate", "5", "--new-connections"];
    let [_, outgoing] =
        meshed.start([App::smtp("inside"), App::load("outgoing", &outside.url("smtp", "outside", 2525), &more)]);
    let [_, incoming] =
        outside.start([App::smtp("outside"), App::load("incoming", &meshed.url("smtp", "inside", 2525), &more)]);
    for client in [outgoing, incoming] {
        let before = client.settled();
        let after = client.after_calls(10);
        assert_eq!(after.failures, before.failures, "{client}: {after:?}");
    }
}
