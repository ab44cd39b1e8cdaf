//! Two identity roles, as processes, that start at the same instant on an API server in which nothing has been made yet.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, SystemTime};

use hawser::pki::{Bundle, Certificate, LeafKey};
use hawser::wire::identity::CertifyRequest;
use hawser::wire::identity::identity_client::IdentityClient;
use serde_json::{Value, json};

use crate::support::binary;

const WEB: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";
const ANCHOR: &str = "/api/v1/namespaces/hawser/secrets/hawser-trust-anchor";
const ISSUER: &str = "/api/v1/namespaces/hawser/secrets/hawser-identity-issuer";
const BUNDLE: &str = "/api/v1/namespaces/hawser/configmaps/hawser-trust-bundle";

/// An API server that keeps three objects, and refuses to replace one by a writer that has not seen its last version.
struct Objects {
    held: Mutex<BTreeMap<&'static str, Value>>,
    /// How often each was written.
    written: Mutex<BTreeMap<String, usize>>,
    /// Who reads the anchor first is answered together with who reads it second.
    start: Barrier,
    readers: Mutex<usize>,
}

impl Objects {
    fn start() -> (Arc<Self>, tempfile::NamedTempFile) {
        let object = |kind: &str, path: &str| {
            let name = path.rsplit('/').next().unwrap();
            json!({
                "apiVersion": "v1", "kind": kind,
                "metadata": {"name": name, "namespace": "hawser", "resourceVersion": "1"},
            })
        };
        let held = [(ANCHOR, "Secret"), (ISSUER, "Secret"), (BUNDLE, "ConfigMap")];
        let objects = Arc::new(Self {
            held: Mutex::new(held.into_iter().map(|(path, kind)| (path, object(kind, path))).collect()),
            written: Mutex::default(),
            start: Barrier::new(2),
            readers: Mutex::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let serving = objects.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let objects = serving.clone();
                // A client that leaves in the middle is no failure of the test.
                std::thread::spawn(move || stream.and_then(|stream| objects.serve(stream)));
            }
        });
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": server}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me"}}],
            "users": [{"name": "me", "user": {}}],
        });
        std::fs::write(kubeconfig.path(), config.to_string()).unwrap();
        (objects, kubeconfig)
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut head = String::new();
        reader.read_line(&mut head)?;
        let mut length = 0;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? <= 2 {
                break;
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut words = head.split([' ', '?']);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (status, answer) = self.answer(method, path, &body);
        let answer = answer.to_string();
        write!(
            stream,
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
            answer.len()
        )
    }

    fn answer(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let refused = |code: u16| {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "no", "code": code}),
            )
        };
        if method == "GET" && path == ANCHOR {
            let number = {
                let mut readers = self.readers.lock().unwrap();
                *readers += 1;
                *readers
            };
            if number <= 2 {
                self.start.wait();
            }
        }
        let mut held = self.held.lock().unwrap();
        match (method, held.get_mut(path)) {
            ("GET", Some(object)) => (200, object.clone()),
            ("PUT", Some(object)) => {
                let mut new: Value = serde_json::from_slice(body).unwrap();
                if new["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
                    return refused(409);
                }
                let version: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
                new["metadata"]["resourceVersion"] = (version + 1).to_string().into();
                *self.written.lock().unwrap().entry(path.to_owned()).or_default() += 1;
                *object = new;
                (200, object.clone())
            }
            ("POST", None) if path.ends_with("/tokenreviews") => {
                let asked: Value = serde_json::from_slice(body).unwrap();
                let status = json!({
                    "authenticated": true, "audiences": ["identity.l5d.io"],
                    "user": {"username": "system:serviceaccount:shop:web"},
                });
                (
                    201,
                    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": asked["spec"], "status": status}),
                )
            }
            _ => refused(404),
        }
    }

    fn bundle(&self) -> Option<Bundle> {
        let held = self.held.lock().unwrap();
        Bundle::parse_pem(held[BUNDLE]["data"]["ca-bundle.crt"].as_str()?).ok()
    }
}

/// An identity role, and where it serves.
struct Replica {
    child: Child,
    address: String,
}

impl Replica {
    fn start(kubeconfig: &std::path::Path) -> Self {
        let mut child = Command::new(binary())
            .args(["run", "identity", "--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"])
            .env("KUBECONFIG", kubeconfig)
            .env("NO_COLOR", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let serving = lines.find(|line| line.contains("serving the identity API")).unwrap();
        let address = serving.split("address=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        // Somebody must read what it says from now on.
        std::thread::spawn(move || lines.count());
        Self { child, address }
    }

    async fn certify(&self) -> Option<(Certificate, Vec<Vec<u8>>)> {
        let mut client = IdentityClient::connect(format!("http://{}", self.address)).await.ok()?;
        let certificate_signing_request = LeafKey::generate().unwrap().csr(&WEB.parse().unwrap()).unwrap();
        let token = b"of.web.token".to_vec();
        let asked = CertifyRequest { identity: WEB.into(), token, certificate_signing_request };
        let answer = client.certify(asked).await.ok()?.into_inner();
        Some((Certificate::from_der(answer.leaf_certificate).unwrap(), answer.intermediate_certificates))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_start_at_the_same_instant_agree_on_one_anchor() {
    let (objects, kubeconfig) = Objects::start();
    // Both read that there is no anchor before either can have made one.
    let replicas = [(); 2].map(|()| Replica::start(kubeconfig.path()));
    for replica in &replicas {
        let mut certified = None;
        for _ in 0..600 {
            certified = replica.certify().await;
            if certified.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (leaf, intermediates) = certified.expect("a certificate within a minute");
        let intermediates: Vec<_> = intermediates.into_iter().map(Into::into).collect();
        let bundle = objects.bundle().unwrap();
        assert_eq!(bundle.anchors().len(), 1);
        bundle.verify(&leaf, &intermediates, SystemTime::now()).unwrap();
    }
    let written = objects.written.lock().unwrap().clone();
    assert_eq!((written[ANCHOR], written[ISSUER], written[BUNDLE]), (1, 1, 1));
}
