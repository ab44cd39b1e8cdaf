//! What passes between pods can be read before they are meshed, and never after; and the server knows who called.

use crate::support::cluster::{App, Mesh, Namespace, Pod, mesh};

/// Enough that a missing packet would not explain their absence.
const CALLS: u64 = 10;

/// Captures `client`'s calls to `server` for a while, and says whether `secret` can be read in what passed.
fn can_be_read<G>(mesh: &Mesh<G>, client: &Pod<'_>, server: &Pod<'_>, secret: &str) -> bool {
    client.settled();
    let capture = mesh.capture(&format!("tcp and host {} and host {}", client.ip(), server.ip()));
    let counters = client.after_calls(CALLS);
    let packets = capture.stop();
    assert!(counters.last_answer.contains(secret), "the payload made no round trip: {counters:?}");
    assert!(packets.bytes() > 1000, "only {} bytes were captured of {CALLS} calls", packets.bytes());
    packets.contain(secret)
}

/// The payload of `client`'s calls can be read on the pod network while unmeshed, and not once both ends are meshed.
fn is_encrypted_by_meshing(server: App, scheme: &str, port: u16, more: &[&str]) {
    let mesh = mesh();
    let namespace = mesh.unmeshed("encryption");
    let secret = format!("secret-{:08x}", rand::random::<u32>());
    let url = namespace.url(scheme, "server", port);
    let client = App::load("client", &url, &[&["--rate", "10", "--payload", &secret], more].concat());
    let [before, client] = namespace.start([server, client]);
    assert!(!before.is_meshed() && !client.is_meshed());
    assert!(can_be_read(&mesh, &client, &before, &secret), "unmeshed, the payload should be readable");

    let [server, client] = namespace.mesh(["server", "client"]);
    assert!(server.is_meshed() && client.is_meshed());
    assert!(!can_be_read(&mesh, &client, &server, &secret), "meshed, the payload was readable");
    secured(&mesh, &namespace);
}

/// `edges` says what the proxies measured: each end proved itself to the other.
fn secured<G>(mesh: &Mesh<G>, namespace: &Namespace<'_>) {
    let printed = mesh.hawser(["edges", "-n", &namespace.name, "-o", "json"]).succeeds();
    let edges: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let edge = edges["edges"]
        .as_array()
        .unwrap()
        .iter()
        // The first pod to be meshed may have met the other's predecessor.
        .find(|edge| edge["src"] == "client" && edge["dst"] == "server" && edge["secured"] == true)
        .unwrap_or_else(|| panic!("no secured edge from client to server: {edges:#}"));
    assert_eq!(edge["client_id"], namespace.identity("client"), "{edge:#}");
    assert_eq!(edge["server_id"], namespace.identity("server"), "{edge:#}");
    assert_eq!(edge["handshakes"][0]["version"], "TLSv1.3", "{edge:#}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn http_can_be_read_on_the_network_before_meshing_and_not_after() {
    is_encrypted_by_meshing(App::http("server"), "http", 8080, &[]);
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn http_of_one_request_a_connection_can_be_read_before_meshing_and_not_after() {
    is_encrypted_by_meshing(App::http("server"), "http", 8080, &["--new-connections"]);
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn grpc_can_be_read_on_the_network_before_meshing_and_not_after() {
    is_encrypted_by_meshing(App::grpc("server"), "grpc", 9090, &[]);
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn streaming_grpc_can_be_read_on_the_network_before_meshing_and_not_after() {
    is_encrypted_by_meshing(App::grpc("server"), "grpc", 9090, &["--stream", "3"]);
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_protocol_whose_server_speaks_first_can_be_read_before_meshing_and_not_after() {
    is_encrypted_by_meshing(App::smtp("server"), "smtp", 2525, &["--new-connections"]);
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_server_that_speaks_first_never_waits_for_detection() {
    let mesh = mesh();
    let namespace = mesh.meshed("speaks-first");
    let url = namespace.url("smtp", "server", 2525);
    let [_, client] =
        namespace.start([App::smtp("server"), App::load("client", &url, &["--rate", "5", "--new-connections"])]);
    client.settled();
    let [client] = namespace.restart(["client"]);
    let counters = client.after_calls(20);
    // Not a measurement: detection that waits for the client's first bytes gives up after ten seconds at the earliest.
    assert!(counters.slowest_ms < 9_000, "{counters:?}");
    assert_eq!(counters.failures, 0, "{counters:?}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn the_server_is_told_who_calls_and_a_client_cannot_forge_it() {
    let mesh = mesh();
    let namespace = mesh.meshed("client-id");
    let url = namespace.url("http", "server", 8080);
    let [_, client] = namespace.start([App::http("server"), App::load("client", &url, &[])]);
    client.settled();
    let told = |pod: &Pod<'_>, more: &[&str]| {
        let echo = pod.once(&url, &[&["--within", "20"], more].concat()).unwrap();
        echo["headers"]["l5d-client-id"].clone()
    };
    let client_id = namespace.identity("client");
    assert_eq!(told(&client, &[]), serde_json::json!([client_id]));
    let forged = ["--header", "l5d-client-id: admin.kube-system.serviceaccount.identity.hawser.cluster.local"];
    assert_eq!(told(&client, &forged), serde_json::json!([client_id]), "a meshed client forged its identity");

    let outside = mesh.unmeshed("client-id-outside");
    let [outsider] = outside.start([App::http("outsider")]);
    assert_eq!(told(&outsider, &forged), serde_json::Value::Null, "an unmeshed client forged an identity");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_grpc_server_is_told_who_calls() {
    let mesh = mesh();
    let namespace = mesh.meshed("grpc-client-id");
    let url = namespace.url("grpc", "server", 9090);
    let [_, client] = namespace.start([App::grpc("server"), App::load("client", &url, &[])]);
    let answer = client.once(&url, &["--within", "20"]).unwrap();
    assert_eq!(answer["client_id"], namespace.identity("client"));
}
