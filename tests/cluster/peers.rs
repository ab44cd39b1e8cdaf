//! Who may speak on the mesh port: only who proves to be someone of this mesh, now.
//!
//! The peers are made here, with keys and certificates of our choice, and connect through the pod network.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hawser::mesh::Protocol;
use hawser::pki::{Anchor, Bundle, Csr, Issuer, LeafKey, Validity};
use hawser::proxy::transport_header::Header;
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::CertificateDer;

use crate::support::cluster::{App, Cluster, Pod, mesh};

const LIFETIME: Duration = Duration::from_secs(3600);
const SKEW: Duration = Duration::from_secs(20);

/// What a peer shows.
pub(super) type Credentials = Option<(Vec<CertificateDer<'static>>, LeafKey)>;

/// A leaf for `identity` by `issuer`, made at `now`.
pub(super) fn credentials(issuer: &Issuer, identity: &str, now: SystemTime) -> Credentials {
    let identity = identity.parse().unwrap();
    let key = LeafKey::generate().unwrap();
    let csr = Csr::parse_der(&key.csr(&identity).unwrap()).unwrap();
    let leaf = issuer.sign(&csr, &identity, now, Validity { lifetime: LIFETIME, skew: SKEW }).unwrap();
    let chain = std::iter::once(leaf.certificate.der().clone()).chain(leaf.intermediates).collect();
    Some((chain, key))
}

/// The issuer of the mesh itself, as its Secret has it.
pub(super) fn real_issuer(mesh: &Cluster) -> Issuer {
    let pem = mesh.secret("hawser-identity-issuer");
    Issuer::parse_pem(&pem("crt.pem"), &pem("key.pem")).unwrap()
}

fn bundle(mesh: &Cluster) -> Bundle {
    let map = mesh.json(&["-n", "hawser", "get", "configmap", "hawser-trust-bundle"]);
    Bundle::parse_pem(map["data"]["ca-bundle.crt"].as_str().unwrap()).unwrap()
}

/// A TCP connection made from within the cluster's network.
struct Connection {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl Connection {
    fn open(mesh: &Cluster, address: &str) -> Self {
        let binary = crate::support::binary();
        let mut child = mesh
            .in_network(&[binary.to_str().unwrap(), "run", "sample", "pipe", address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { stdin: child.stdin.take().unwrap(), stdout: child.stdout.take().unwrap(), child }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stdout.read(buffer)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stdin.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdin.flush()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a TLS connection to the server's proxy, sends `bytes` and returns what comes back until the end.
fn speak(
    mesh: &Cluster,
    address: &str,
    server: &str,
    credentials: Credentials,
    alpn: &[&str],
    bytes: &[u8],
) -> io::Result<String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(bundle(mesh).root_store());
    let mut config = match credentials {
        Some((chain, key)) => config.with_client_auth_cert(chain, key.private_key()).unwrap(),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut tls = ClientConnection::new(Arc::new(config), server.to_owned().try_into().unwrap()).unwrap();
    let mut tcp = Connection::open(mesh, address);
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // Not every peer says goodbye; what it has said until then counts.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !answer.is_empty() => {}
        read => drop(read?),
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const REQUEST: &[u8] = b"GET /who HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n";

/// The app's answer to a request over TLS to the app's own port, which the pod's proxy ends.
pub(super) fn ask(mesh: &Cluster, server: &Pod<'_>, identity: &str, credentials: Credentials) -> io::Result<String> {
    speak(mesh, &format!("{}:8080", server.ip()), identity, credentials, &[], REQUEST)
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_peer_with_a_certificate_of_the_mesh_is_who_it_says() {
    let mesh = mesh();
    let namespace = mesh.meshed("peers");
    let [server] = namespace.start([App::http("server")]);
    let peer = namespace.identity("peer");
    let answer =
        ask(&mesh, &server, &namespace.identity("server"), credentials(&real_issuer(&mesh), &peer, SystemTime::now()));
    let answer = answer.unwrap();
    assert!(answer.contains(&format!("\"l5d-client-id\":[\"{peer}\"]")), "{answer}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_peer_with_a_certificate_of_another_anchor_is_refused() {
    let mesh = mesh();
    let namespace = mesh.meshed("peers");
    let [server] = namespace.start([App::http("server")]);
    let now = SystemTime::now();
    let foreign = Anchor::create("cluster.local", now).unwrap().create_issuer("cluster.local", now).unwrap();
    let peer = credentials(&foreign, &namespace.identity("peer"), now);
    refused(ask(&mesh, &server, &namespace.identity("server"), peer));
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn a_peer_with_an_expired_certificate_is_refused() {
    let mesh = mesh();
    let namespace = mesh.meshed("peers");
    let [server] = namespace.start([App::http("server")]);
    let then = SystemTime::now() - 2 * LIFETIME;
    let peer = credentials(&real_issuer(&mesh), &namespace.identity("peer"), then);
    refused(ask(&mesh, &server, &namespace.identity("server"), peer));
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn on_the_mesh_port_a_peer_without_a_certificate_is_refused() {
    let mesh = mesh();
    let namespace = mesh.meshed("peers");
    let [server] = namespace.start([App::http("server")]);
    let identity = namespace.identity("server");
    let address = format!("{}:4143", server.ip());
    let alpn = ["transport.l5d.io/v1"];
    let to_app = Header { port: 8080, name: None, protocol: Protocol::Opaque }.encode();
    let request = [&to_app[..], REQUEST].concat();
    let peer = credentials(&real_issuer(&mesh), &namespace.identity("peer"), SystemTime::now());
    let answer = speak(&mesh, &address, &identity, peer, &alpn, &request).unwrap();
    assert!(answer.contains("200 OK"), "with a certificate it should work: {answer}");

    refused(speak(&mesh, &address, &identity, None, &alpn, &request));
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn on_the_mesh_port_plaintext_is_refused() {
    let mesh = mesh();
    let namespace = mesh.meshed("peers");
    let [server] = namespace.start([App::http("server")]);
    let mut connection = Connection::open(&mesh, &format!("{}:4143", server.ip()));
    connection.write_all(REQUEST).unwrap();
    let mut answer = String::new();
    let _ = connection.read_to_string(&mut answer);
    assert!(!answer.contains("200 OK"), "{answer}");
}

/// No byte of the app's came back.
#[track_caller]
pub(super) fn refused(answer: io::Result<String>) {
    match answer {
        Err(_) => {}
        Ok(answer) => assert_eq!(answer, "", "the peer should have been refused"),
    }
}
