//! The proxy as pods run it: the binary, in a network namespace with real redirection, with an identity service and nothing else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hawser::mesh::connection::{Connections, PlaintextReason, Security};

use crate::support::identity::Authority;
use crate::support::namespace::Namespace;
use crate::support::{binary, eventually};

const POD: &str = "10.77.0.1";
const APP: &str = "10.77.0.1:8000";
pub(super) const SOON: Duration = Duration::from_secs(20);

/// The proxy of a pod, ended with the test.
pub(super) struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a request, and gives the status line and all that follows.
fn ask(from: &Namespace, address: &str, request: &str) -> std::io::Result<String> {
    from.enter(|| {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(format!("{request}\r\nhost: web\r\nconnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

/// An app that answers any request with the head it was sent.
fn app(pod: &Namespace) {
    app_on(pod, "0.0.0.0:8000");
}

fn app_on(pod: &Namespace, address: &str) {
    let listener = pod.enter(|| std::net::TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            let length = head.len();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all(&head);
        }
    });
}

/// A pod with the rules that injectors give it, an identity service that is its own, and a neighbour.
pub(super) struct World {
    pub(super) pod: Namespace,
    pub(super) other: Namespace,
    authority: Authority,
    folder: tempfile::TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(&["10.77.0.1/24"], &["10.77.0.2/24"], &[])
    }

    /// With these addresses, and these settings of the node.
    fn with(of_pod: &[&str], of_other: &[&str], settings: &[&str]) -> Self {
        let (pod, other) = (Namespace::new(), Namespace::new());
        pod.join(of_pod, &other, of_other);
        for setting in settings {
            pod.run("sysctl", &["-qw", setting]).succeeded();
        }
        pod.run(env!("CARGO_BIN_EXE_hawser"), &["run", "init", "--inbound-ports-to-ignore=4190,4191"]).succeeded();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "of.shop.web").unwrap();
        let authority = Authority::new();
        authority.serve_in(&pod);
        Self { pod, other, authority, folder }
    }

    /// What runs the proxy of the pod.
    pub(super) fn command(&self) -> Command {
        command(self.authority.bundle(), &self.folder.path().join("token"))
    }

    pub(super) fn start(&self, command: &mut Command) -> Proxy {
        Proxy(self.pod.enter(|| command.spawn().unwrap()))
    }
}

fn command(bundle: &str, token: &std::path::Path) -> Command {
    let mut command = Command::new(binary());
    command.args(["run", "proxy"]).env_clear().stdout(Stdio::null());
    for (name, value) in [
        ("ADMIN_LISTEN_ADDR", "0.0.0.0:4191"),
        ("DESTINATION_SVC_ADDR", "localhost.:8086"),
        ("IDENTITY_LOCAL_NAME", "web.shop.serviceaccount.identity.hawser.cluster.local"),
        ("IDENTITY_SVC_ADDR", "localhost.:8080"),
        ("IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("IDENTITY_TRUST_ANCHORS", bundle),
        ("INBOUND_IPS", POD),
        ("LOG", "warn,linkerd=debug"),
        ("POLICY_SVC_ADDR", "localhost.:8090"),
        ("POLICY_WORKLOAD", "{\"ns\":\"shop\", \"pod\":\"web\"}\n"),
    ] {
        command.env(format!("LINKERD2_PROXY_{name}"), value);
    }
    command
}

#[test]
fn a_pod_s_proxy_becomes_ready_carries_what_is_redirected_and_ends_when_told() {
    let world = World::new();
    let World { pod, other, .. } = &world;
    app(pod);
    let mut proxy = world.start(&mut world.command());

    ready(pod);
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.0.id())).unwrap();
    assert!(status.contains("THP_enabled:\t0\n"), "the allocator may take huge pages:\n{status}");
    let answer = ask(other, APP, "GET /cart HTTP/1.1\r\nl5d-client-id: admin").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("GET /cart HTTP/1.1"), "{answer}");
    assert!(!answer.contains("l5d-client-id"), "the request went past the proxy: {answer}");

    let connections = connections(pod);
    let [connection] = connections.recent.as_slice() else { panic!("{connections:?}") };
    assert_eq!((connection.server, connection.target), (APP.parse().unwrap(), APP.parse().unwrap()));
    assert_eq!(connection.security, Security::Plaintext { reason: PlaintextReason::NoTlsFromRemote });
    assert_eq!(connections.identity.unwrap().short(), "web.shop");

    let refused = ask(other, "10.77.0.1:4191", "GET /connections HTTP/1.1").unwrap();
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    let metrics = ask(other, "10.77.0.1:4191", "GET /metrics HTTP/1.1").unwrap();
    for family in ["request_total{", "control_identity_cert_refreshes_total{result=\"ok\"} 1", "proxy_build_info{"] {
        assert!(metrics.contains(family), "{family} is not in:\n{metrics}");
    }
    let trust = ask(other, "10.77.0.1:4191", "GET /trust HTTP/1.1").unwrap();
    assert!(trust.contains("\"identity\":\"web.shop.") && trust.contains("\"anchors\":[{"), "{trust}");
    let shutdown = ask(pod, "127.0.0.1:4191", "POST /shutdown HTTP/1.1").unwrap();
    assert!(shutdown.starts_with("HTTP/1.1 404 "), "nobody enabled it: {shutdown}");

    assert!(Command::new("kill").arg(proxy.0.id().to_string()).status().unwrap().success());
    let status = eventually("the proxy ends", SOON, || proxy.0.try_wait().unwrap().ok_or("it runs"));
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}

#[test]
fn a_proxy_whose_own_traffic_is_redirected_to_it_says_so() {
    let world = World::new();
    let log = world.folder.path().join("log");
    // Its user is not the one that the rules leave out, and identity is not in its pod.
    let mut command = world.command();
    command.env("LINKERD2_PROXY_IDENTITY_SVC_ADDR", "10.77.0.2:8080");
    command.env("LINKERD2_PROXY_IDENTITY_SVC_NAME", "identity.hawser.serviceaccount.identity.hawser.cluster.local");
    let _proxy = world.start(command.stderr(std::fs::File::create(&log).unwrap()));
    eventually("it is counted", SOON, || {
        let metrics =
            ask(&world.other, "10.77.0.1:4191", "GET /metrics HTTP/1.1").map_err(|error| error.to_string())?;
        let is_counted = metrics.contains("outbound_tcp_errors_total{error=\"loop\",target_addr=\"10.77.0.2:8080\"");
        if is_counted { Ok(()) } else { Err(metrics) }
    });
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("redirected back to it") && log.contains("10.77.0.2:8080"), "{log}");
}

#[test]
fn what_an_app_sends_goes_round_in_no_circle_where_its_proxys_traffic_is_redirected() {
    let world = World::new();
    app_on(&world.other, "10.77.0.2:9000");
    let mut command = world.command();
    // The target is outside of the cluster, and so is gone to though nobody tells of it.
    let _proxy = world.start(command.env("LINKERD2_PROXY_DESTINATION_PROFILE_NETWORKS", "192.168.0.0/16"));
    ready(&world.pod);
    let answer = ask(&world.pod, "10.77.0.2:9000", "GET / HTTP/1.1").unwrap_or_default();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let metrics = ask(&world.other, "10.77.0.1:4191", "GET /metrics HTTP/1.1").unwrap();
    let is_counted = "outbound_tcp_errors_total{error=\"loop\",target_addr=\"10.77.0.2:9000\"";
    assert!(metrics.contains(is_counted), "{metrics}");
}

/// How many anchors the proxy believes.
fn anchors(pod: &Namespace) -> Result<usize, String> {
    let trust = ask(pod, "127.0.0.1:4191", "GET /trust HTTP/1.1").map_err(|error| error.to_string())?;
    Ok(trust.matches("\"fingerprint\"").count())
}

#[test]
fn a_proxy_learns_a_new_anchor_while_it_runs_and_knows_it_after_a_restart_of_its_container() {
    let world = World::new();
    let World { pod, authority, folder, .. } = &world;
    let start = || world.start(world.command().env("LINKERD2_PROXY_IDENTITY_DIR", folder.path()));
    let proxy = start();
    ready(pod);
    assert_eq!(anchors(pod), Ok(1));
    authority.tell(Some(&format!("{}{}", authority.bundle(), Authority::new().bundle())));
    let both = |seen: Result<usize, String>| if seen == Ok(2) { Ok(()) } else { Err(seen) };
    eventually("the proxy believes both", SOON, || both(anchors(pod)));
    // Nobody tells it now, and its environment is what the pod was created with.
    drop(proxy);
    authority.tell(None);
    let _restarted = start();
    ready(pod);
    assert_eq!(anchors(pod), Ok(2));
}

pub(super) fn ready(pod: &Namespace) {
    eventually("the proxy is ready", SOON, || {
        let answer = ask(pod, "127.0.0.1:4191", "GET /ready HTTP/1.1").map_err(|error| error.to_string())?;
        if answer.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(answer) }
    });
}

fn connections(pod: &Namespace) -> Connections {
    let connections = ask(pod, "127.0.0.1:4191", "GET /connections HTTP/1.1").unwrap();
    let (_, json) = connections.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(json).unwrap()
}

/// A pod and its proxy as injectors make them where IPv6 is not disabled.
fn of_both_families(settings: &[&str]) -> (World, Proxy) {
    let world = World::with(&["10.77.0.1/24", "fd77::1/64"], &["10.77.0.2/24", "fd77::2/64"], settings);
    app_on(&world.other, "[::]:8000");
    let mut command = world.command();
    for (name, value) in [
        ("ADMIN_LISTEN_ADDR", "[::]:4191"),
        ("DESTINATION_PROFILE_NETWORKS", "192.0.2.0/24"),
        ("INBOUND_IPS", "10.77.0.1,fd77::1"),
        ("INBOUND_LISTEN_ADDR", "[::]:4143"),
        ("OUTBOUND_LISTEN_ADDRS", "127.0.0.1:4140,[::1]:4140"),
    ] {
        command.env(format!("LINKERD2_PROXY_{name}"), value);
    }
    // The proxy's own connections are told by their user, which must be able to run the binary: so the rest stays as root.
    let proxy = world.start(std::os::unix::process::CommandExt::uid(&mut command, 2102));
    ready(&world.pod);
    (world, proxy)
}

#[test]
fn connections_of_either_ip_family_pass_the_proxy_both_ways_whatever_the_node_s_defaults() {
    for default in ["net.ipv6.bindv6only=0", "net.ipv6.bindv6only=1"] {
        let (World { pod, other, .. }, _proxy) = &of_both_families(&[default]);
        // The app may listen as it likes; the one here has a socket for each family.
        app_on(pod, "10.77.0.1:8001");
        app_on(pod, "[fd77::1]:8001");
        for (ours, theirs) in [("10.77.0.1:8001", "10.77.0.2:8000"), ("[fd77::1]:8001", "[fd77::2]:8000")] {
            let answer = ask(other, ours, "GET /in HTTP/1.1\r\nl5d-client-id: admin").unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("GET /in HTTP/1.1"), "{answer}");
            assert!(!answer.contains("l5d-client-id"), "the request to {ours} went past the proxy: {answer}");
            let answer = ask(pod, theirs, "GET /out HTTP/1.1").unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("GET /out HTTP/1.1"), "{answer}");
            let seen = connections(pod);
            let targets: Vec<_> = seen.recent.iter().chain(&seen.live).map(|connection| connection.target).collect();
            for target in [ours, theirs] {
                assert!(targets.contains(&target.parse().unwrap()), "{target} is not among {targets:?}");
            }
        }
    }
}

#[test]
fn a_proxy_that_is_told_to_end_together_with_its_app_goes_on_until_that_has_ended() {
    let world = World::new();
    let World { pod, other, .. } = &world;
    // Of the same user as the test's identity service, and so not taken for an app's.
    app_on(other, "0.0.0.0:8000");
    let mut proxy = world.start(world.command().env("HAWSER_PROXY_OUTLASTS_APP", "true"));
    ready(pod);
    let app = pod.enter_as(1000, || std::net::TcpListener::bind("0.0.0.0:8000").unwrap());
    assert!(Command::new("kill").arg(proxy.0.id().to_string()).status().unwrap().success());
    eventually("the pod is not ready any more", SOON, || {
        let answer = ask(pod, "127.0.0.1:4191", "GET /ready HTTP/1.1").map_err(|error| error.to_string())?;
        if answer.starts_with("HTTP/1.1 503 ") { Ok(()) } else { Err(answer) }
    });
    let carried = std::thread::spawn(move || {
        let (mut stream, _) = app.accept().unwrap();
        // Closed with something unread, it would be reset.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let answer = ask(other, APP, "GET /late HTTP/1.1").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    carried.join().unwrap();
    let status = eventually("the proxy ends", SOON, || proxy.0.try_wait().unwrap().ok_or("it runs"));
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_pod_without_ipv6_has_its_proxy_under_the_same_settings() {
    let (World { pod, other, .. }, _proxy) = &of_both_families(&["net.ipv6.conf.all.disable_ipv6=1"]);
    app(pod);
    let answer = ask(other, APP, "GET /in HTTP/1.1\r\nl5d-client-id: admin").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && !answer.contains("l5d-client-id"), "{answer}");
    let answer = ask(pod, "10.77.0.2:8000", "GET /out HTTP/1.1").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(ask(pod, "[fd77::2]:8000", "GET /out HTTP/1.1").is_err(), "there is no IPv6 at all");
}

#[test]
fn a_malformed_variable_is_named_and_the_exit_code_is_64() {
    let token = std::path::Path::new("/token");
    let output = command("", token)
        .env("LINKERD2_PROXY_INBOUND_CONNECT_TIMEOUT", "fast")
        .env("LINKERD2_PROXY_OF_ANOTHER_VERSION", "whatever")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("LINKERD2_PROXY_INBOUND_CONNECT_TIMEOUT"), "{said}");
}
