//! A Kubernetes API server that says what a test wants: for what a command makes of answers, without a cluster.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// Listens until the test ends.
pub(crate) struct Api {
    kubeconfig: tempfile::NamedTempFile,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Api {
    /// Answers each `GET` of a path (without its query) with what `answer` has for it: a status and a body. What it has nothing
    /// for is an empty list, and the version is always told.
    pub(crate) fn start(answer: impl Fn(&str) -> Option<(u16, Value)> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let answer = Arc::new(answer);
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heads = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, heads) = (answer.clone(), heads.clone());
                // A client that leaves in the middle is no failure of the test.
                std::thread::spawn(move || stream.and_then(|stream| serve(stream, &*answer, &heads)));
            }
        });
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": server}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me", "namespace": "shop"}}],
            "users": [{"name": "me", "user": {}}],
        });
        std::fs::write(kubeconfig.path(), config.to_string()).unwrap();
        Self { kubeconfig, asked }
    }

    /// The heads of all requests so far: what was asked for, as whom.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn kubeconfig(&self) -> &std::path::Path {
        self.kubeconfig.path()
    }
}

/// What an API server says when it refuses.
pub(crate) fn refusal(code: u16, message: &str) -> Option<(u16, Value)> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code});
    Some((code, status))
}

fn serve(
    mut stream: TcpStream,
    answer: &dyn Fn(&str) -> Option<(u16, Value)>,
    heads: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let (mut head, mut body_bytes) = (request.clone(), 0);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? <= 2 {
            break;
        }
        head += &header;
        if let Some(length) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            body_bytes = length.trim().parse().unwrap_or(0);
        }
    }
    reader.read_exact(&mut vec![0; body_bytes])?;
    heads.lock().unwrap().push(head);
    let path = request.split([' ', '?']).nth(1).unwrap_or_default();
    let version = json!({
        "major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "", "buildDate": "",
        "goVersion": "", "compiler": "", "platform": "",
    });
    let empty = json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": []});
    let (status, body) = answer(path).unwrap_or((200, if path == "/version" { version } else { empty }));
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
