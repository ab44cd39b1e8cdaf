//! The real Kubernetes that the cluster tests share, with one mesh installed: `make test-cluster` has started it.
//!
//! [`mesh`] gives a test the mesh together with others; [`mesh_alone`] gives it to a test that disturbs it; [`own`] makes a cluster for one
//! that wants it empty. Each test makes
//! a [`Namespace`] of its own and puts [`App`]s there, which are samples of the binary (`hawser run sample`). What is said of pods is
//! said through kubectl, as a person would.

use std::fmt;
use std::io::Write as _;
use std::ops::Deref;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Hawser, both, eventually, text};

/// How long pods may take to be there: much more than they do, on a machine that does other things too.
pub(crate) const SOON: Duration = Duration::from_secs(90);

/// Whether somebody changes the mesh that all tests share.
static MESH: RwLock<()> = RwLock::new(());

/// The mesh, while others use it too.
pub(crate) fn mesh() -> Mesh<RwLockReadGuard<'static, ()>> {
    Mesh { cluster: cluster(), _held: MESH.read().unwrap_or_else(PoisonError::into_inner) }
}

/// The mesh, while nobody else uses it.
pub(crate) fn mesh_alone() -> Mesh<RwLockWriteGuard<'static, ()>> {
    Mesh { cluster: cluster(), _held: MESH.write().unwrap_or_else(PoisonError::into_inner) }
}

pub(crate) struct Mesh<G> {
    cluster: &'static Cluster,
    _held: G,
}

impl<G> Deref for Mesh<G> {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

/// A cluster with our image and without a mesh, of one test's own; one at a time, for each has an API server to feed.
pub(crate) fn own(nodes: u32) -> Own {
    static OWN: Mutex<()> = Mutex::new(());
    let held = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    start(nodes, "-own", Some(held))
}

/// Such a cluster for one test that mostly waits, and that others need not wait for; the suffix of its name is its own.
pub(crate) fn own_to_wait_in(suffix: &str) -> Own {
    start(1, suffix, None)
}

fn start(nodes: u32, suffix: &str, held: Option<MutexGuard<'static, ()>>) -> Own {
    let shared = cluster();
    let mut name = shared.name.clone();
    name.push(suffix);
    let cluster = Cluster { name, kubeconfig: "".into(), tool: shared.tool.clone(), image: shared.image.clone() };
    run(cluster.tool(&["down"])).unwrap();
    let mut own = Own { cluster, _held: held };
    run(own.tool(&["up", "--nodes", &nodes.to_string()])).unwrap();
    own.cluster.kubeconfig = run(own.tool(&["kubeconfig"])).unwrap().trim_end().into();
    let image = tempfile::NamedTempFile::new().unwrap();
    Hawser::new(["image", "--output", image.path().to_str().unwrap()]).succeeds();
    run(own.tool(&["import-archive", image.path().to_str().unwrap()])).unwrap();
    own
}

pub(crate) struct Own {
    cluster: Cluster,
    _held: Option<MutexGuard<'static, ()>>,
}

impl Deref for Own {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if std::env::var_os("KEEP").is_none() {
            let _ = self.tool(&["down"]).output();
        }
    }
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let expected =
            |name| std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: use `make test-cluster`"));
        Cluster {
            tool: expected("CLUSTER"),
            name: expected("CLUSTER_NAME"),
            kubeconfig: expected("KUBECONFIG"),
            image: text(expected("IMAGE").as_encoded_bytes()),
        }
    })
}

pub(crate) struct Cluster {
    tool: std::ffi::OsString,
    name: std::ffi::OsString,
    kubeconfig: std::ffi::OsString,
    /// What `hawser image` calls the image of the binary under test.
    pub(crate) image: String,
}

impl Cluster {
    /// The cluster tool, with arguments.
    pub(crate) fn tool(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.tool);
        command.args(args).env("CLUSTER_NAME", &self.name).stdin(Stdio::null());
        command
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> Command {
        let mut command = self.tool(&["kubectl"]);
        command.args(args);
        command
    }

    /// The standard output of a kubectl command that must work.
    #[track_caller]
    pub(crate) fn kubectl_ok(&self, args: &[&str]) -> String {
        run(self.kubectl(args)).unwrap_or_else(|error| panic!("{error}"))
    }

    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        self.try_json(args).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn try_json(&self, args: &[&str]) -> Result<Value, String> {
        let printed = run(self.kubectl(&[args, &["-o", "json"]].concat()))?;
        serde_json::from_str(&printed).map_err(|error| format!("{error}: {printed}"))
    }

    /// Applies objects, whatever the mesh then makes of them.
    #[track_caller]
    pub(crate) fn apply(&self, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.pipe(&list.to_string(), &["apply", "-f", "-"]);
    }

    /// What a Secret of the mesh has under each key.
    pub(crate) fn secret(&self, name: &str) -> impl Fn(&str) -> String + use<> {
        let secret = self.json(&["-n", "hawser", "get", "secret", name]);
        let name = name.to_owned();
        move |key| {
            let data = secret["data"][key].as_str().unwrap_or_else(|| panic!("no {key} in the Secret {name}"));
            String::from_utf8(STANDARD.decode(data).unwrap()).unwrap()
        }
    }

    /// Has kubectl read `manifest`, which must work.
    #[track_caller]
    pub(crate) fn pipe(&self, manifest: &str, kubectl: &[&str]) -> String {
        let output = with_stdin(self.kubectl(kubectl), manifest.as_bytes());
        assert!(output.status.success(), "kubectl {kubectl:?}: {}\n{manifest}", both(&output));
        text(&output.stdout)
    }

    /// The binary on this machine, with the cluster's kubeconfig.
    pub(crate) fn hawser<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Hawser {
        Hawser::new(args).env("KUBECONFIG", &self.kubeconfig)
    }

    /// A command of this machine in the network of the cluster's node: what an unmeshed neighbour could do.
    pub(crate) fn in_network(&self, args: &[&str]) -> Command {
        self.tool(&[&["exec", "--"], args].concat())
    }

    /// A shell command in a network of node-1's pods: that of the pod with this address.
    #[track_caller]
    pub(crate) fn in_pod_network(&self, ip: &str, command: &str) {
        let script = format!(
            "for net in /run/netns/*; do if nsenter --net=$net ip -o addr | grep -q 'inet {ip}/'; then \
             nsenter --net=$net {command}; exit; fi; done; echo no pod has the address {ip} >&2; exit 1"
        );
        run(self.tool(&["exec", "--node", "node-1", "--", "sh", "-c", &script]))
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// The folder of the cluster's files.
    pub(crate) fn folder(&self) -> &std::path::Path {
        std::path::Path::new(&self.kubeconfig).parent().unwrap()
    }

    /// `hawser install --apply`, with more flags.
    pub(crate) fn install(&self, more: &[&'static str]) -> Hawser {
        self.hawser(["install", "--apply"].into_iter().chain(more.iter().copied()))
    }

    /// Records what passes on the pod network, until it is stopped.
    pub(crate) fn capture(&self, filter: &str) -> Capture {
        let mut child = self
            .in_network(&["tcpdump", "-i", "any", "-s", "0", "-U", "-w", "-", filter])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut packets = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut packets, &mut bytes).unwrap();
            bytes
        });
        // It says so once it has begun; what it says later must still have somewhere to go.
        let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            let read = std::io::BufRead::read_line(&mut said, &mut line).unwrap();
            assert!(read > 0, "tcpdump has ended; it last said {line:?}");
        }
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Capture { child, reader: Some(reader) }
    }

    /// Forwards a port of this machine to one of a pod (or `deployment/…`).
    pub(crate) fn port_forward(&self, namespace: &str, to: &str, port: u16) -> Forward {
        let mut child = self
            .kubectl(&["-n", namespace, "port-forward", "--address", "127.0.0.1", to, &format!(":{port}")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        let local = line.split(" -> ").next().and_then(|address| address.rsplit(':').next()).unwrap_or_default();
        let local = local.parse().unwrap_or_else(|_| panic!("kubectl port-forward to {to} said {line:?}"));
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Forward { _child: super::Running(child), port: local }
    }

    /// A namespace whose pods stay as they are, until it is annotated.
    pub(crate) fn unmeshed(&self, name: &str) -> Namespace<'_> {
        self.namespace(name, &json!({}))
    }

    /// A namespace whose pods are meshed.
    pub(crate) fn meshed(&self, name: &str) -> Namespace<'_> {
        self.namespace(name, &json!({"linkerd.io/inject": "enabled"}))
    }

    fn namespace(&self, name: &str, annotations: &Value) -> Namespace<'_> {
        let name = format!("{name}-{:04x}", rand::random::<u16>());
        self.apply(&[
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}}),
        ]);
        // The webhook's answer for a pod depends on it, and so do projected volumes.
        eventually("the namespace has its defaults", SOON, || {
            self.try_json(&["get", "-n", &name, "serviceaccount/default", "configmap/kube-root-ca.crt"])
        });
        Namespace { cluster: self, name }
    }
}

/// A process that forwards a port; ends with it.
pub(crate) struct Forward {
    _child: super::Running,
    pub(crate) port: u16,
}

/// What tcpdump records.
pub(crate) struct Capture {
    child: Child,
    reader: Option<std::thread::JoinHandle<Vec<u8>>>,
}

impl Capture {
    /// All packets so far, in the file format of tcpdump.
    pub(crate) fn stop(mut self) -> Packets {
        self.interrupt();
        let _ = self.child.wait();
        Packets(self.reader.take().unwrap().join().unwrap())
    }

    fn interrupt(&self) {
        // tcpdump writes what it still has before it goes, unlike when it is killed.
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.reader.is_some() {
            self.interrupt();
            let _ = self.child.wait();
        }
    }
}

pub(crate) struct Packets(Vec<u8>);

impl Packets {
    pub(crate) fn contain(&self, text: &str) -> bool {
        self.0.windows(text.len()).any(|window| window == text.as_bytes())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// One test's own place in the cluster; deleted with everything in it.
pub(crate) struct Namespace<'a> {
    cluster: &'a Cluster,
    pub(crate) name: String,
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        if std::env::var_os("KEEP_NAMESPACES").is_none() {
            let delete = ["delete", "namespace", &self.name, "--wait=false", "--now"];
            let _ = self.cluster.kubectl(&delete).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

impl Namespace<'_> {
    /// What a reader of a failed test wants to know.
    #[expect(clippy::print_stderr, reason = "the test harness shows it beside the panic")]
    fn tell(&self) {
        let name = self.name.as_str();
        for args in [&["get", "pods", "-o", "wide"][..], &["get", "events", "--sort-by=.lastTimestamp"]] {
            let _ =
                self.cluster.kubectl(&[&["-n", name], args].concat()).output().map(|said| eprintln!("{}", both(&said)));
        }
        let pods =
            self.cluster.kubectl(&["-n", name, "get", "pods", "-o", "name"]).output().map(|said| text(&said.stdout));
        for pod in pods.unwrap_or_default().lines() {
            let logs = ["-n", name, "logs", pod, "--all-containers", "--prefix", "--tail=15", "--ignore-errors"];
            let _ = self.cluster.kubectl(&logs).output().map(|said| eprintln!("{}", both(&said)));
        }
    }

    #[track_caller]
    pub(crate) fn kubectl_ok(&self, args: &[&str]) -> String {
        self.cluster.kubectl_ok(&[&["-n", &self.name], args].concat())
    }

    /// How often containers of its pods have been restarted.
    pub(crate) fn restarts(&self) -> u64 {
        let pods = self.cluster.json(&["-n", &self.name, "get", "pods"]);
        let lists = ["containerStatuses", "initContainerStatuses"];
        let statuses = |pod: &Value| {
            lists.iter().filter_map(|list| pod["status"][list].as_array().cloned()).flatten().collect::<Vec<_>>()
        };
        let all = pods["items"].as_array().into_iter().flatten().flat_map(statuses);
        all.map(|status| status["restartCount"].as_u64().unwrap()).sum()
    }

    /// Starts the apps, and waits until all their pods are ready.
    #[track_caller]
    pub(crate) fn start<const N: usize>(&self, apps: [App; N]) -> [Pod<'_>; N] {
        let objects: Vec<_> = apps.iter().flat_map(|app| app.objects(&self.name, &self.cluster.image)).collect();
        self.cluster.apply(&objects);
        apps.map(|app| self.ready(&app.name))
    }

    /// Applies without waiting.
    pub(crate) fn apply(&self, app: &App) {
        self.cluster.apply(&app.objects(&self.name, &self.cluster.image));
    }

    /// The app's one pod, once it is ready.
    #[track_caller]
    pub(crate) fn ready(&self, app: &str) -> Pod<'_> {
        let found = eventually(&format!("pod of {app} in {} is ready", self.name), SOON, || self.find_ready(app));
        Pod { namespace: self, name: found["metadata"]["name"].as_str().unwrap().into(), found }
    }

    fn find_ready(&self, app: &str) -> Result<Value, String> {
        let pods = self.cluster.try_json(&["-n", &self.name, "get", "pods", "-l", &format!("app={app}")])?;
        let mut going = pods["items"].as_array().cloned().unwrap_or_default();
        going.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let [pod] = going.as_slice() else { return Err(format!("{} pods", going.len())) };
        let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        if pod["status"]["conditions"].as_array().is_some_and(|conditions| conditions.iter().any(ready)) {
            Ok(pod.clone())
        } else {
            Err(format!("{:#}", pod["status"]))
        }
    }

    /// Makes the namespace's pods join, as a person would: annotates it, and starts the apps again.
    #[track_caller]
    pub(crate) fn mesh<const N: usize>(&self, apps: [&str; N]) -> [Pod<'_>; N] {
        self.cluster.kubectl_ok(&["annotate", "namespace", &self.name, "linkerd.io/inject=enabled"]);
        self.restart(apps)
    }

    /// New pods for the apps.
    #[track_caller]
    pub(crate) fn restart<const N: usize>(&self, apps: [&str; N]) -> [Pod<'_>; N] {
        for app in apps {
            self.kubectl_ok(&["rollout", "restart", &format!("deployment/{app}")]);
        }
        for app in apps {
            self.kubectl_ok(&["rollout", "status", &format!("deployment/{app}"), "--timeout=90s"]);
        }
        apps.map(|app| self.ready(app))
    }

    pub(crate) fn url(&self, scheme: &str, app: &str, port: u16) -> String {
        format!("{scheme}://{app}.{}.svc.cluster.local:{port}", self.name)
    }

    /// The identity that pods of this ServiceAccount have.
    pub(crate) fn identity(&self, service_account: &str) -> String {
        format!("{service_account}.{}.serviceaccount.identity.hawser.cluster.local", self.name)
    }
}

/// An app of one pod: a Deployment, its ServiceAccount and, where it listens, its Service.
#[derive(Clone)]
pub(crate) struct App {
    name: String,
    args: Vec<String>,
    port: Option<u16>,
    http: bool,
    liveness: Option<Value>,
    strategy: &'static str,
    pod: Value,
    annotations: Value,
}

impl App {
    /// An HTTP/1.1 server on port 8080.
    pub(crate) fn http(name: &str) -> Self {
        Self::new(name, &["http", "--listen", "0.0.0.0:8080"], Some(8080), true)
    }

    /// A gRPC server on port 9090.
    pub(crate) fn grpc(name: &str) -> Self {
        Self::new(name, &["grpc", "--listen", "0.0.0.0:9090"], Some(9090), false)
    }

    /// A server that speaks first, on a port that nobody has declared opaque.
    pub(crate) fn smtp(name: &str) -> Self {
        Self::new(name, &["smtp", "--listen", "0.0.0.0:2525"], Some(2525), false)
    }

    /// A client that calls `url` all the time.
    pub(crate) fn load(name: &str, url: &str, more: &[&str]) -> Self {
        Self::new(name, &[&["load", url], more].concat(), None, true)
    }

    fn new(name: &str, sample: &[&str], port: Option<u16>, http: bool) -> Self {
        let args = ["run", "sample"].iter().chain(sample).map(|arg| (*arg).to_owned()).collect();
        Self {
            name: name.into(),
            args,
            port,
            http,
            liveness: None,
            strategy: "Recreate",
            pod: json!({}),
            annotations: json!({}),
        }
    }

    /// With another liveness probe.
    pub(crate) fn liveness(mut self, probe: Value) -> Self {
        self.liveness = Some(probe);
        self
    }

    /// With a new pod ready before the old one goes.
    pub(crate) fn rolling(mut self) -> Self {
        self.strategy = "RollingUpdate";
        self
    }

    pub(crate) fn annotate(mut self, name: &str, value: &str) -> Self {
        self.annotations[name] = value.into();
        self
    }

    /// Sets a field of the pod's spec.
    pub(crate) fn pod(mut self, field: &str, value: Value) -> Self {
        self.pod[field] = value;
        self
    }

    fn objects(&self, namespace: &str, image: &str) -> Vec<Value> {
        let Self { name, args, .. } = self;
        let labels = json!({"app": name});
        let metadata = json!({"name": name, "namespace": namespace, "labels": labels});
        let probed = self.port.unwrap_or(9080);
        let probe = if self.http {
            json!({"httpGet": {"path": "/healthz", "port": probed}, "periodSeconds": 1})
        } else {
            json!({"tcpSocket": {"port": probed}, "periodSeconds": 1})
        };
        // Patient: an app on a machine that has other things to do is not dead.
        let mut patient = probe.clone();
        patient["periodSeconds"] = 10.into();
        patient["timeoutSeconds"] = 10.into();
        let liveness = self.liveness.as_ref().unwrap_or(&patient);
        let mut pod = json!({
            "serviceAccountName": name,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 10001},
            "containers": [{
                "name": "app", "image": image, "args": args,
                "ports": [{"containerPort": probed}], "readinessProbe": probe, "livenessProbe": liveness,
            }],
        });
        for (field, value) in self.pod.as_object().into_iter().flatten() {
            pod[field] = value.clone();
        }
        let mut objects = vec![
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
                "spec": {
                    "selector": {"matchLabels": labels}, "strategy": {"type": self.strategy},
                    "template": {"metadata": {"labels": labels, "annotations": self.annotations}, "spec": pod},
                },
            }),
        ];
        if let Some(port) = self.port {
            objects.push(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": metadata,
                "spec": {"selector": labels, "ports": [{"port": port, "targetPort": port}]},
            }));
        }
        objects
    }
}

/// A pod that was ready.
pub(crate) struct Pod<'a> {
    namespace: &'a Namespace<'a>,
    pub(crate) name: String,
    pub(crate) found: Value,
}

impl fmt::Display for Pod<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace.name, self.name)
    }
}

/// What a client has counted so far.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Counters {
    pub(crate) calls: u64,
    pub(crate) failures: u64,
    pub(crate) failing: u64,
    pub(crate) connections: u64,
    pub(crate) slowest_ms: u64,
    pub(crate) last_answer: String,
    pub(crate) last_failure: String,
}

impl Pod<'_> {
    pub(crate) fn ip(&self) -> &str {
        self.found["status"]["podIP"].as_str().unwrap()
    }

    /// Whether it has a proxy.
    pub(crate) fn is_meshed(&self) -> bool {
        ["containers", "initContainers"]
            .iter()
            .filter_map(|list| self.found["spec"][list].as_array())
            .flatten()
            .any(|container| container["name"] == "linkerd-proxy")
    }

    /// Calls once from within the pod, as its app.
    pub(crate) fn once(&self, url: &str, more: &[&str]) -> Result<Value, String> {
        let call = [
            "-n",
            &self.namespace.name,
            "exec",
            &self.name,
            "-c",
            "app",
            "--",
            "/hawser",
            "run",
            "sample",
            "once",
            url,
        ];
        let answer = run(self.namespace.cluster.kubectl(&[&call, more].concat()))?;
        serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))
    }

    /// The counters of a load.
    pub(crate) fn counters(&self) -> Result<Counters, String> {
        let counters = self.once("http://127.0.0.1:9080/", &[])?;
        serde_json::from_value(counters).map_err(|error| error.to_string())
    }

    /// Waits until the load has made so many more calls, and returns its counters.
    #[track_caller]
    pub(crate) fn after_calls(&self, more: u64) -> Counters {
        let begin = self.counters().unwrap_or_else(|error| panic!("{self}: {error}"));
        eventually(&format!("{self} has made {more} more calls"), SOON, || {
            let now = self.counters()?;
            if now.calls >= begin.calls + more { Ok(now) } else { Err(format!("{now:?}")) }
        })
    }

    /// Waits until the load's calls succeed: its server may have come up after it.
    #[track_caller]
    pub(crate) fn settled(&self) -> Counters {
        eventually(&format!("calls of {self} succeed"), SOON, || {
            let now = self.counters()?;
            if now.failing == 0 && now.calls > now.failures { Ok(now) } else { Err(format!("{now:?}")) }
        })
    }

    pub(crate) fn logs(&self, container: &str) -> String {
        self.namespace.kubectl_ok(&["logs", &self.name, "-c", container])
    }
}

/// The standard output of a command, or everything it said.
pub(crate) fn run(mut command: Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{command:?} failed:\n{}", both(&output)))
    }
}

fn with_stdin(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}
