//! Two pods without Kubernetes: a network namespace each, joined by a cable, and what lies between their apps.
//!
//! Start at [`World::new`]; [`World::target`] is where the client's app connects to.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hawser::wire::destination::{WeightedAddr, protocol_hint};

use crate::apps::port;
use crate::nginx;
use crate::support::control::{Control, detect, meshed, opaque};
use crate::support::identity::Authority;
use crate::support::namespace::Namespace;
use crate::support::{Running, binary, eventually};

const CLIENT: &str = "10.77.0.1";
const SERVER: &str = "10.77.0.2";
/// The service's address: nobody has it, so only the proxy can lead on from it.
const SERVICE: &str = "10.96.0.1";
/// Whose connections are not redirected.
const PROXY_USER: u32 = 2102;
const INBOUND: u16 = 4143;
const ADMIN: u16 = 4191;
/// Closed connections of a pod that the kernel remembers.
const TIME_WAIT_MAX: u32 = 4096;
const SOON: Duration = Duration::from_secs(20);

/// What lies between the apps.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Between {
    /// The cable.
    Nothing,
    /// A hawser proxy in each pod.
    Hawser,
    /// An nginx in each pod, with mutual TLS between them.
    Nginx,
}

pub(crate) struct World {
    client: Namespace,
    between: Between,
    /// The client's and the server's; none without.
    pub(crate) proxies: Vec<Running>,
    _server: Namespace,
    _app: Running,
    _control: Option<Control>,
    _folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(between: Between) -> Self {
        let (client, server) = (Namespace::new(), Namespace::new());
        client.join(&[&format!("{CLIENT}/24")], &server, &[&format!("{SERVER}/24")]);
        for pod in [&client, &server] {
            pod.run("ip", &["route", "add", "default", "dev", "eth0"]).succeeded();
            // Or a load of new connections soon measures how the kernel looks for ports that no closed one still holds.
            pod.run("sysctl", &["-qw", &format!("net.ipv4.tcp_max_tw_buckets={TIME_WAIT_MAX}")]).succeeded();
        }
        let app = this(&server, &["serve"]);
        let folder = tempfile::tempdir().unwrap();
        let mut world = Self {
            client,
            between,
            proxies: Vec::new(),
            _server: server,
            _app: told(app).0,
            _control: None,
            _folder: folder,
        };
        match between {
            Between::Nothing => {}
            Between::Hawser => world.mesh(),
            Between::Nginx => world.nginx(),
        }
        world
    }

    /// Where the client's app connects to, to reach the server's on `port`.
    pub(crate) fn target(&self, port: u16) -> SocketAddr {
        let (ip, port) = match self.between {
            Between::Nothing => (SERVER, port),
            Between::Hawser => (SERVICE, port),
            Between::Nginx => ("127.0.0.1", port + nginx::FRONT),
        };
        SocketAddr::new(ip.parse().unwrap(), port)
    }

    /// Runs this very program as the client's app.
    pub(crate) fn load(&self, args: &[&str]) -> Child {
        this(&self.client, &[&["load"], args].concat())
    }

    fn mesh(&mut self) {
        let authority = Authority::new();
        let control = Control::start_on(self.client.enter(|| TcpListener::bind("127.0.0.1:8086").unwrap()));
        for port in [port::HTTP, port::GRPC, port::SINK, port::ECHO, port::FOREIGN] {
            let name = format!("web.shop.svc.cluster.local:{port}");
            let mut endpoint = meshed(SocketAddr::new(SERVER.parse().unwrap(), port), INBOUND, &identity("web"));
            let is_opaque = port >= port::SINK;
            if is_opaque {
                declare_opaque(&mut endpoint, port != port::FOREIGN);
            }
            let target = format!("{SERVICE}:{port}");
            control.policy(&target, if is_opaque { opaque(&name, Vec::new()) } else { detect(&name) });
            control.add(&name, vec![endpoint]);
        }
        std::fs::set_permissions(self._folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for (pod, ip, account) in [(&self.client, CLIENT, "client"), (&self._server, SERVER, "web")] {
            let rules = ["run", "init", "--proxy-uid=2102", "--inbound-ports-to-ignore=4190,4191"];
            pod.run(binary().to_str().unwrap(), &rules).succeeded();
            authority.serve_in(pod);
            let token = self._folder.path().join(account);
            std::fs::write(&token, format!("of.shop.{account}")).unwrap();
            let mut command = proxy(ip, account);
            command.env("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", authority.bundle());
            command.env("LINKERD2_PROXY_IDENTITY_TOKEN_FILE", token);
            self.proxies.push(Running(pod.enter(|| command.spawn().unwrap())));
        }
        for pod in [&self.client, &self._server] {
            eventually("a proxy is ready", SOON, || ready(pod));
        }
        self._control = Some(control);
    }

    fn nginx(&mut self) {
        let authority = Authority::new();
        for (pod, account, side) in
            [(&self.client, "client", nginx::Side::Client), (&self._server, "web", nginx::Side::Server)]
        {
            let folder = self._folder.path().join(account);
            std::fs::create_dir(&folder).unwrap();
            let (chain, key) = authority.certify(&identity(account));
            for (file, text) in [("ca.pem", authority.bundle()), ("chain.pem", &chain), ("key.pem", &key)] {
                std::fs::write(folder.join(file), text).unwrap();
            }
            let mut command = nginx::command(side, SERVER, &identity("web"), &folder);
            self.proxies.push(Running(pod.enter(|| command.spawn().unwrap())));
        }
        eventually("nginx listens", SOON, || {
            self.client.enter(|| std::net::TcpStream::connect(("127.0.0.1", port::HTTP + nginx::FRONT))).map(drop)
        });
    }
}

fn identity(account: &str) -> String {
    format!("{account}.shop.serviceaccount.identity.hawser.cluster.local")
}

/// Without a port for transport headers, TLS is spoken to the app's own port, with no ALPN by which two hawser proxies could know each other.
fn declare_opaque(endpoint: &mut WeightedAddr, takes_headers: bool) {
    let hint = endpoint.protocol_hint.get_or_insert_default();
    hint.opaque_transport = hint.opaque_transport.filter(|_| takes_headers);
    hint.protocol = Some(protocol_hint::Protocol::Opaque(protocol_hint::Opaque {}));
}

fn proxy(ip: &str, account: &str) -> Command {
    let mut command = Command::new(binary());
    command.args(["run", "proxy"]).env_clear().stdout(Stdio::null()).uid(PROXY_USER);
    for (name, value) in [
        ("ADMIN_LISTEN_ADDR", format!("0.0.0.0:{ADMIN}")),
        ("DESTINATION_PROFILE_NETWORKS", "10.0.0.0/8".into()),
        ("DESTINATION_SVC_ADDR", "localhost.:8086".into()),
        ("IDENTITY_LOCAL_NAME", identity(account)),
        ("IDENTITY_SVC_ADDR", "localhost.:8080".into()),
        ("INBOUND_IPS", ip.into()),
        ("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", format!("{}-{}", port::SINK, port::ECHO)),
        ("LOG", "error".into()),
        ("POLICY_SVC_ADDR", "localhost.:8086".into()),
        ("POLICY_WORKLOAD", format!("{{\"ns\":\"shop\", \"pod\":\"{account}\"}}\n")),
    ] {
        command.env(format!("LINKERD2_PROXY_{name}"), value);
    }
    command
}

fn ready(pod: &Namespace) -> Result<(), String> {
    use std::io::{Read as _, Write as _};
    let answer = pod.enter(|| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", ADMIN))?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    });
    let answer = answer.map_err(|error: std::io::Error| error.to_string())?;
    if answer.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(answer) }
}

/// Starts this very program in a pod.
fn this(pod: &Namespace, args: &[&str]) -> Child {
    let program = std::env::current_exe().unwrap();
    pod.enter(|| Command::new(program).args(args).stdout(Stdio::piped()).spawn().unwrap())
}

/// Waits for a child's next line; the rest is for whoever wants it.
pub(crate) fn told(mut child: Child) -> (Running, String, BufReader<std::process::ChildStdout>) {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "a process of the benchmark ended: {:?}", child.wait());
    (Running(child), line, lines)
}
