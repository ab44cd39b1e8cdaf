//! An API server that keeps what the identity role signs with, and the identity role as a process that has it for its cluster.
//!
//! Three objects are kept, replaced by writers that have seen their last version only, and watched; pods are what a test says.
//!
//! Start at [`Objects::start`] and [`Replica::start`].

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier, Condvar, Mutex};

use hawser::pki::{Bundle, Rotation};
use serde_json::{Value, json};

use super::binary;

pub(crate) const ANCHOR: &str = "/api/v1/namespaces/hawser/secrets/hawser-trust-anchor";
pub(crate) const ISSUER: &str = "/api/v1/namespaces/hawser/secrets/hawser-identity-issuer";
pub(crate) const BUNDLE: &str = "/api/v1/namespaces/hawser/configmaps/hawser-trust-bundle";
const PODS: &str = "/api/v1/pods";

pub(crate) struct Objects {
    held: Mutex<BTreeMap<&'static str, Value>>,
    changed: Condvar,
    /// How often each was written by a client, and how often pods were listed.
    written: Mutex<BTreeMap<String, usize>>,
    pods: Mutex<(Vec<Value>, usize)>,
    /// So many readers of the anchor are answered together, the first time.
    start: Barrier,
    together: usize,
    readers: Mutex<usize>,
}

impl Objects {
    /// With nothing made yet. The first readers of the anchor, so many, wait for each other.
    pub(crate) fn start(together: usize) -> (Arc<Self>, tempfile::NamedTempFile) {
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
            changed: Condvar::new(),
            written: Mutex::default(),
            pods: Mutex::default(),
            start: Barrier::new(together),
            together,
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
        let (head, body) = request(&mut reader)?;
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if method == "GET" && query.contains("watch=true") {
            return self.tell(stream, query);
        }
        let (status, answer) = self.answer(method, path, query, &body);
        respond(&mut stream, status, &answer)
    }

    /// Tells of each new version of the object that a watch names, until its client has gone.
    fn tell(&self, mut stream: TcpStream, query: &str) -> std::io::Result<()> {
        write!(stream, "HTTP/1.1 200 X\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n")?;
        let seen = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
        let mut seen = seen.unwrap_or("0").to_owned();
        loop {
            let object = {
                let mut held = self.held.lock().unwrap();
                loop {
                    let Some(object) = named(&held, query) else { return Ok(()) };
                    if version(object) != seen {
                        break object.clone();
                    }
                    held = self.changed.wait(held).unwrap();
                }
            };
            version(&object).clone_into(&mut seen);
            writeln!(stream, "{}", json!({"type": "MODIFIED", "object": object}))?;
        }
    }

    fn answer(&self, method: &str, path: &str, query: &str, body: &[u8]) -> (u16, Value) {
        let refused = |code: u16| {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "no", "code": code}),
            )
        };
        let list = |items: Vec<Value>, version: &str| {
            (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}))
        };
        if method == "GET" && path == ANCHOR {
            let number = {
                let mut readers = self.readers.lock().unwrap();
                *readers += 1;
                *readers
            };
            if number <= self.together {
                self.start.wait();
            }
        }
        if method == "GET" && path == PODS {
            let mut pods = self.pods.lock().unwrap();
            pods.1 += 1;
            return list(pods.0.clone(), "1");
        }
        let mut held = self.held.lock().unwrap();
        if let ("GET", Some(object)) = (method, named(&held, query)) {
            return list(vec![object.clone()], version(object));
        }
        match (method, held.get_mut(path)) {
            ("GET", Some(object)) => (200, object.clone()),
            ("PUT", Some(object)) => {
                let new: Value = serde_json::from_slice(body).unwrap();
                if version(&new) != version(object) {
                    return refused(409);
                }
                *self.written.lock().unwrap().entry(path.to_owned()).or_default() += 1;
                replace(object, new);
                self.changed.notify_all();
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

    /// Changes an object as somebody else would.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut held = self.held.lock().unwrap();
        let object = held.get_mut(path).unwrap();
        let mut new = object.clone();
        change(&mut new);
        replace(object, new);
        self.changed.notify_all();
    }

    pub(crate) fn set_pods(&self, pods: Vec<Value>) {
        self.pods.lock().unwrap().0 = pods;
    }

    /// How often pods have been listed.
    pub(crate) fn pods_listed(&self) -> usize {
        self.pods.lock().unwrap().1
    }

    /// How often an object was written by a client.
    pub(crate) fn written(&self, path: &str) -> usize {
        self.written.lock().unwrap().get(path).copied().unwrap_or_default()
    }

    pub(crate) fn bundle(&self) -> Option<Bundle> {
        let held = self.held.lock().unwrap();
        Bundle::parse_pem(held[BUNDLE]["data"]["ca-bundle.crt"].as_str()?).ok()
    }

    pub(crate) fn rotation(&self) -> Option<Rotation> {
        let held = self.held.lock().unwrap();
        serde_json::from_str(held[BUNDLE]["data"]["rotation"].as_str()?).ok()
    }
}

/// The object that a field selector is for.
fn named<'o>(held: &'o BTreeMap<&'static str, Value>, query: &str) -> Option<&'o Value> {
    let selects = |path: &str| query.contains(&format!("metadata.name%3D{}", path.rsplit('/').next().unwrap_or(path)));
    held.iter().find(|(path, _)| selects(path)).map(|(_, object)| object)
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

fn replace(object: &mut Value, mut new: Value) {
    let next = version(object).parse::<u64>().unwrap() + 1;
    new["metadata"]["resourceVersion"] = next.to_string().into();
    *object = new;
}

/// The first line of a request, and its body.
pub(crate) fn request(reader: &mut BufReader<TcpStream>) -> std::io::Result<(String, Vec<u8>)> {
    let (mut head, mut length) = (String::new(), 0);
    reader.read_line(&mut head)?;
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
    Ok((head, body))
}

pub(crate) fn respond(stream: &mut TcpStream, status: u16, answer: &Value) -> std::io::Result<()> {
    let answer = answer.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    )
}

/// An identity role, and where it serves.
pub(crate) struct Replica {
    child: Child,
    pub(crate) address: String,
}

impl Replica {
    pub(crate) fn start(kubeconfig: &Path) -> Self {
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
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
