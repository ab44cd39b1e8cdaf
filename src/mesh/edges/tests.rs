//! Edges from made-up reports of the shop: `web` calls `cart`.

use super::*;
use crate::manifest::names;
use crate::mesh::Protocol;
use crate::mesh::connection::{Connections, PlaintextReason, Security};
use crate::mesh::places::tests::{pod, service};

pub(crate) const WEB: &str = "10.0.0.1";
pub(crate) const CART: &str = "10.0.0.2";
const PLAIN: &str = "10.0.0.3";

/// `web` and `cart` are meshed, `plain` is not.
pub(crate) fn places() -> Places {
    let pods = [pod("shop", "web", WEB, true), pod("shop", "cart", CART, true), pod("load", "plain", PLAIN, false)];
    Places::new(&pods, &[service("shop", "cart", "10.96.0.9")])
}

pub(crate) fn tls() -> Tls {
    let identity = |name| Identity::of_service_account(name, "shop", "hawser", "cluster.local").unwrap();
    Tls {
        client_identity: Some(identity("web")),
        server_identity: identity("cart"),
        version: "TLSv1.3".into(),
        cipher: "TLS13_AES_128_GCM_SHA256".into(),
        group: "X25519MLKEM768".into(),
        peer_serial: Some("0a".into()),
        peer_expires_at: Some(2000),
    }
}

pub(crate) fn plaintext(reason: PlaintextReason) -> Security {
    Security::Plaintext { reason }
}

/// A connection from `client` that `server` accepted, for port 8080.
pub(crate) fn connection(direction: Direction, client: &str, server: &str, security: Security) -> Connection {
    let server: SocketAddr = server.parse().unwrap();
    Connection {
        id: 1,
        direction,
        client: client.parse().unwrap(),
        server,
        target: SocketAddr::new(server.ip(), 8080),
        authority: None,
        protocol: Protocol::Http2,
        security,
        labels: BTreeMap::new(),
        opened_at: 1000,
        closed_at: None,
        bytes_sent: 10,
        bytes_received: 20,
        requests: 1,
    }
}

/// What the pod at `address` told.
pub(crate) fn report(address: &str, live: Vec<Connection>) -> Report {
    let answer = Connections { live, ..Connections::default() };
    Report::parse(places().at(address.parse().unwrap(), 1000), &serde_json::to_vec(&answer).unwrap()).unwrap()
}

fn edges(reports: &[Report]) -> Vec<Edge> {
    aggregate(&join(reports, &places()), Grouping::Workload)
}

fn one(reports: &[Report]) -> Edge {
    let mut edges = edges(reports);
    assert_eq!(edges.len(), 1, "{edges:?}");
    edges.remove(0)
}

fn said(edge: &Edge) -> String {
    format!("{} -> {}:{} {}", edge.client, edge.server, edge.port, edge.state.words(&edge.client, &edge.server))
}

#[test]
fn a_node_is_not_called_unmeshed_and_asking_for_a_certificate_is_not_called_a_failure() {
    let place = |kind, name: &str| Place { namespace: None, kind, name: name.into(), meshed: false };
    let (node, web) = (place(Kind::Node, "node-1"), place(Kind::Deployment, "web"));
    let probe = State::Plaintext(PlaintextReason::NoTlsFromRemote);
    assert_eq!(probe.words(&node, &web), "plaintext: from the node, such as a probe");
    assert_eq!(State::ServerOnly.words(&node, &web), "client showed no certificate");
    let identity = place(Kind::Deployment, names::IDENTITY);
    assert_eq!(State::ServerOnly.words(&web, &identity), "client has no certificate yet: it asks for one");
}

#[test]
fn what_both_ends_measured_alike_is_one_secured_edge() {
    let mutual = Security::Mutual(tls());
    let edge = one(&[
        report(WEB, vec![connection(Direction::Outbound, "10.0.0.1:40000", "10.0.0.2:4143", mutual.clone())]),
        report(CART, vec![connection(Direction::Inbound, "10.0.0.1:40000", "10.0.0.2:4143", mutual)]),
    ]);
    assert_eq!(said(&edge), "deploy/web -> deploy/cart:8080 secured");
    assert_eq!(edge.witnesses, BTreeMap::from([(Witness::Both, 1)]));
    assert_eq!(edge.client_identity.unwrap().short(), "web.shop");
    assert_eq!((edge.live, edge.bytes_sent, edge.requests), (1, 10, 1));
}

#[test]
fn an_unmeshed_client_is_named_and_not_secured() {
    let plain = plaintext(PlaintextReason::NoTlsFromRemote);
    let edge = one(&[report(CART, vec![connection(Direction::Inbound, "10.0.0.3:40000", "10.0.0.2:8080", plain)])]);
    assert_eq!(said(&edge), "deploy/plain -> deploy/cart:8080 plaintext: client is not meshed");
    assert_eq!(edge.witnesses, BTreeMap::from([(Witness::Server, 1)]));
    assert_eq!(edge.client_identity, None);
}

#[test]
fn an_unmeshed_server_is_named_and_not_secured() {
    let plain = plaintext(PlaintextReason::NotProvidedByServiceDiscovery);
    let edge = one(&[report(WEB, vec![connection(Direction::Outbound, "10.0.0.1:40000", "10.0.0.3:8080", plain)])]);
    assert_eq!(said(&edge), "deploy/web -> deploy/plain:8080 plaintext: server is not meshed");
}

#[test]
fn plaintext_that_both_ends_see_has_the_clients_reason() {
    let edge = one(&[
        report(
            WEB,
            vec![connection(
                Direction::Outbound,
                "10.0.0.1:40000",
                "10.0.0.2:8080",
                plaintext(PlaintextReason::NotProvidedByServiceDiscovery),
            )],
        ),
        report(
            CART,
            vec![connection(
                Direction::Inbound,
                "10.0.0.1:40000",
                "10.0.0.2:4143",
                plaintext(PlaintextReason::NoTlsFromRemote),
            )],
        ),
    ]);
    assert_eq!(said(&edge), "deploy/web -> deploy/cart:8080 plaintext: discovery gave no identity for the server");
    assert_eq!(edge.witnesses, BTreeMap::from([(Witness::Both, 1)]));
}

#[test]
fn ends_that_disagree_are_not_secured() {
    let mut other = tls();
    other.client_identity = Some(Identity::of_service_account("thief", "shop", "hawser", "cluster.local").unwrap());
    let ours = connection(Direction::Outbound, "10.0.0.1:40000", "10.0.0.2:4143", Security::Mutual(tls()));
    for (theirs, how) in [
        (Security::Mutual(other), "client web.shop or thief.shop"),
        (plaintext(PlaintextReason::NoTlsFromRemote), "mutual TLS for the client, plaintext for the server"),
        (Security::ServerOnly(tls()), "mutual TLS for the client, TLS without a client certificate for the server"),
    ] {
        let theirs = connection(Direction::Inbound, "10.0.0.1:40000", "10.0.0.2:4143", theirs);
        let edge = one(&[report(WEB, vec![ours.clone()]), report(CART, vec![theirs])]);
        assert!(!edge.state.is_secured());
        assert_eq!(edge.state, State::Disagreement(how.into()));
    }
}

#[test]
fn a_security_of_a_later_version_is_unknown_and_hides_nothing() {
    let plain = plaintext(PlaintextReason::NoTlsFromRemote);
    let known = connection(Direction::Inbound, "10.0.0.3:40001", "10.0.0.2:8080", plain);
    let mut odd = serde_json::to_value(&known).unwrap();
    odd["security"] = serde_json::json!({"state": "plaintext", "reason": "solar_flare"});
    odd["client"] = "10.0.0.1:40000".into();
    let answer = serde_json::json!({"live": [odd, known], "recent": []});
    let pod = places().at(CART.parse().unwrap(), 1000);
    let edges = edges(&[Report::parse(pod, answer.to_string().as_bytes()).unwrap()]);
    let states: Vec<_> = edges.iter().map(|edge| edge.state.code()).collect();
    assert_eq!(states, ["no_tls_from_remote", "unknown"]);
    assert!(edges.iter().all(|edge| !edge.state.is_secured()));
}

#[test]
fn an_address_of_no_pod_is_shown_as_it_is() {
    let plain = plaintext(PlaintextReason::NotProvidedByServiceDiscovery);
    let out = connection(Direction::Outbound, "10.0.0.1:40000", "203.0.113.7:443", plain.clone());
    let to_service = connection(Direction::Outbound, "10.0.0.1:40001", "10.96.0.9:8080", plain);
    let servers: Vec<_> =
        edges(&[report(WEB, vec![out, to_service])]).iter().map(|edge| edge.server.to_string()).collect();
    assert_eq!(servers, ["ip/203.0.113.7", "svc/cart"]);
}

#[test]
fn a_secured_client_whose_pod_is_gone_is_who_its_certificate_names() {
    let seen = connection(Direction::Inbound, "10.0.0.77:40000", "10.0.0.2:4143", Security::Mutual(tls()));
    assert_eq!(said(&one(&[report(CART, vec![seen])])), "sa/web -> deploy/cart:8080 secured");
}

#[test]
fn one_secured_and_one_plaintext_connection_are_two_edges() {
    let secured = connection(Direction::Inbound, "10.0.0.1:40000", "10.0.0.2:4143", Security::Mutual(tls()));
    let plain = plaintext(PlaintextReason::NoTlsFromRemote);
    let plain = connection(Direction::Inbound, "10.0.0.1:40001", "10.0.0.2:8080", plain);
    let edges = edges(&[report(CART, vec![secured, plain])]);
    assert_eq!(edges.len(), 2);
    assert_eq!(said(&edges[1]), "deploy/web -> deploy/cart:8080 plaintext: client sent no mesh TLS");
}

#[test]
fn a_client_port_that_was_used_again_is_another_connection() {
    let mutual = Security::Mutual(tls());
    let mut old = connection(Direction::Outbound, "10.0.0.1:40000", "10.0.0.2:4143", mutual.clone());
    (old.opened_at, old.closed_at) = (100, Some(110));
    let new = connection(Direction::Outbound, "10.0.0.1:40000", "10.0.0.2:4143", mutual.clone());
    let theirs = connection(Direction::Inbound, "10.0.0.1:40000", "10.0.0.2:4143", mutual);
    let links = join(&[report(WEB, vec![old, new]), report(CART, vec![theirs])], &places());
    let mut witnesses: Vec<_> = links.iter().map(|link| (link.is_live(), link.witness())).collect();
    witnesses.sort();
    assert_eq!(witnesses, [(false, Witness::Client), (true, Witness::Both)]);
}

#[test]
fn another_port_of_the_same_server_is_another_connection() {
    let plain = plaintext(PlaintextReason::NotProvidedByServiceDiscovery);
    let ours = connection(Direction::Outbound, "10.0.0.1:40000", "10.0.0.2:9090", plain.clone());
    let theirs = connection(Direction::Inbound, "10.0.0.1:40000", "10.0.0.2:8080", plain);
    assert_eq!(join(&[report(WEB, vec![ours]), report(CART, vec![theirs])], &places()).len(), 2);
}

#[test]
fn mapped_addresses_are_the_same_as_plain_ones() {
    let mutual = Security::Mutual(tls());
    let ours = connection(Direction::Outbound, "10.0.0.1:40000", "10.0.0.2:4143", mutual.clone());
    let theirs = connection(Direction::Inbound, "[::ffff:10.0.0.1]:40000", "[::ffff:10.0.0.2]:4143", mutual);
    assert_eq!(join(&[report(WEB, vec![ours]), report(CART, vec![theirs])], &places()).len(), 1);
}

#[test]
fn links_tell_each_ends_certificate_as_the_other_saw_it() {
    let mut seen_by_server = tls();
    seen_by_server.peer_serial = Some("0b".into());
    let ours = connection(Direction::Outbound, "10.0.0.1:40000", "10.0.0.2:4143", Security::Mutual(tls()));
    let theirs = connection(Direction::Inbound, "10.0.0.1:40000", "10.0.0.2:4143", Security::Mutual(seen_by_server));
    let links = join(&[report(WEB, vec![ours]), report(CART, vec![theirs])], &places());
    assert_eq!(links[0].server_certificate(), Some(("0a", Some(2000))));
    assert_eq!(links[0].client_certificate(), Some(("0b", Some(2000))));
    assert!(links[0].state.is_secured(), "each end sees the other's certificate: that is no disagreement");
}

#[test]
fn pods_can_be_the_ends_instead_of_workloads() {
    let seen = connection(Direction::Inbound, "10.0.0.1:40000", "10.0.0.2:4143", Security::Mutual(tls()));
    let edges = aggregate(&join(&[report(CART, vec![seen])], &places()), Grouping::Pod);
    assert_eq!(said(&edges[0]), "po/web-7d9f-x -> po/cart-7d9f-x:8080 secured");
}

#[test]
fn an_answer_that_is_no_list_of_connections_is_refused() {
    let pod = || places().at(CART.parse().unwrap(), 0);
    assert!(Report::parse(pod(), b"not found").is_err());
    assert!(Report::parse(pod(), br#"{"live": [{}], "recent": []}"#).is_err());
}
