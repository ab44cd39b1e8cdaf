//! `hawser run init` in a pod's network: what the kernel holds after it, and where connections really go.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use crate::support::namespace::{Namespace, Ran};

const HAWSER: &str = env!("CARGO_BIN_EXE_hawser");

const STOCK: &[&str] = &[
    "--incoming-proxy-port=4143",
    "--outgoing-proxy-port=4140",
    "--proxy-uid=2102",
    "--inbound-ports-to-ignore=4190,4191",
    "--outbound-ports-to-ignore=4567-4568",
];
const RICH: &[&str] = &[
    "--proxy-gid=99",
    "--inbound-ports-to-ignore=1-24,4190,65535",
    "--subnets-to-ignore=10.0.0.0/9,192.0.2.1,fd00::/9,fd00::1",
    "--ports-to-redirect=80,8080-8090",
];

fn init(namespace: &Namespace, args: &[&str]) -> Ran {
    namespace.run(HAWSER, &[&["run", "init"], args].concat())
}

fn ruleset(namespace: &Namespace) -> String {
    namespace.run("nft", &["list", "ruleset"]).succeeded()
}

/// The tables of a dry run without the lines before each, which empty it.
fn tables(script: &str) -> String {
    let lines = script.lines().filter(|line| {
        let begins = line.ends_with('{') || !line.starts_with("table");
        begins && !line.starts_with("delete table")
    });
    lines.filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_kernel_holds_what_a_dry_run_prints() {
    for args in [STOCK, RICH, &["--ipv6=false"]] {
        let namespace = Namespace::new();
        let printed = init(&namespace, &[args, &["--dry-run"]].concat()).succeeded();
        assert_eq!(ruleset(&namespace), "", "a dry run changes nothing");
        init(&namespace, args).succeeded();
        assert_eq!(tables(&ruleset(&namespace)), tables(&printed));
    }
}

#[test]
fn nft_makes_the_same_of_what_a_dry_run_prints() {
    let (ours, theirs) = (Namespace::new(), Namespace::new());
    init(&ours, RICH).succeeded();
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("rules.nft");
    std::fs::write(&script, init(&theirs, &[RICH, &["--dry-run"]].concat()).succeeded()).unwrap();
    for _ in 0..2 {
        theirs.run("nft", &["-f", script.to_str().unwrap()]).succeeded();
        assert_eq!(ruleset(&theirs), ruleset(&ours));
    }
}

#[test]
fn applying_again_replaces_our_rules_and_no_others() {
    let namespace = Namespace::new();
    for rule in ["add table ip nat", "add chain ip nat PREROUTING { type nat hook prerouting priority -100; }"] {
        namespace.run("nft", &[rule]).succeeded();
    }
    let others = ruleset(&namespace);
    init(&namespace, STOCK).succeeded();
    let once = ruleset(&namespace);
    assert!(once.starts_with(&others), "{once}");
    init(&namespace, RICH).succeeded();
    assert_ne!(ruleset(&namespace), once);
    init(&namespace, STOCK).succeeded();
    assert_eq!(ruleset(&namespace), once);
}

#[test]
fn goes_on_where_ipv6_is_switched_off() {
    let namespace = Namespace::new();
    namespace.run("sysctl", &["-w", "net.ipv6.conf.all.disable_ipv6=1"]).succeeded();
    init(&namespace, STOCK).succeeded();
    assert!(ruleset(&namespace).contains("table ip hawser"));
}

#[test]
fn net_admin_is_all_it_needs() {
    let namespace = Namespace::new();
    let with = |capability: &str| {
        let (bounding, inherited) = (format!("--bounding-set={capability}"), format!("--inh-caps={capability}"));
        namespace.run("setpriv", &[&bounding, &inherited, HAWSER, "run", "init"])
    };
    with("-all,+net_admin").succeeded();
}

/// The container of a pod as Kubernetes starts it: nobody, who may gain no privileges, and a bounding set.
#[test]
fn the_file_capability_of_the_image_spares_it_root_and_gives_nothing_beyond_its_bounds() {
    let namespace = Namespace::new();
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let permitted = folder.path().join("hawser");
    std::fs::copy(HAWSER, &permitted).unwrap();
    let permitted = permitted.to_str().unwrap();
    let nobody = |program: &str, capabilities: &str| {
        let (bounding, inherited) = (format!("--bounding-set={capabilities}"), format!("--inh-caps={capabilities}"));
        let user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"];
        namespace.run("setpriv", &[user.as_slice(), &[&bounding, &inherited, program, "run", "init"]].concat())
    };
    assert_eq!(nobody(permitted, "-all,+net_admin").code, Some(2), "without the file capability");
    rustix::fs::setxattr(permitted, "security.capability", &NET_ADMIN_PERMITTED, rustix::fs::XattrFlags::empty())
        .unwrap();
    nobody(permitted, "-all,+net_admin").succeeded();
    assert_eq!(nobody(permitted, "-all").code, Some(2), "outside of its bounds");
}

/// As `hawser image` writes it.
const NET_ADMIN_PERMITTED: [u8; 20] = [0, 0, 0, 2, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn says_what_to_do_where_it_lacks_net_admin() {
    let namespace = Namespace::new();
    let ran = namespace.run("setpriv", &["--bounding-set=-net_admin", "--inh-caps=-net_admin", HAWSER, "run", "init"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("Operation not permitted") && ran.stderr.contains("hint: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("NET_ADMIN"), "{}", ran.stderr);
    assert_eq!(ruleset(&namespace), "");
}

#[test]
fn refuses_arguments_that_would_loop_and_changes_nothing() {
    let namespace = Namespace::new();
    let ran = init(&namespace, &["--proxy-uid=0"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("would come back to it"), "{}", ran.stderr);
    assert_eq!(ruleset(&namespace), "");
}

/// A pod with rules, and a client on the other end of a cable. Whoever listens says on which port, and what target the
/// kernel remembers of the connection.
struct World {
    pod: Namespace,
    client: Namespace,
    _listeners: tokio::runtime::Runtime,
}

const POD: [IpAddr; 2] = ip_pair(2);
const CLIENT: [IpAddr; 2] = ip_pair(1);
/// A port that an app listens on, and one whose outbound connections are not redirected.
const APP: u16 = 8080;
const IGNORED_OUTBOUND: u16 = 4567;
const IGNORED_INBOUND: u16 = 4190;

const fn ip_pair(host: u8) -> [IpAddr; 2] {
    [
        IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, host)),
        IpAddr::V6(std::net::Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host as u16)),
    ]
}

impl World {
    fn new(args: &[&str]) -> Self {
        let (pod, client) = (Namespace::new(), Namespace::new());
        pod.join(&["10.77.0.2/24", "fd77::2/64"], &client, &["10.77.0.1/24", "fd77::1/64"]);
        init(&pod, args).succeeded();
        let listeners = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build().unwrap();
        for (namespace, port) in [(&pod, 4140), (&pod, 4143), (&pod, APP), (&pod, IGNORED_INBOUND)]
            .into_iter()
            .chain([(&client, APP), (&client, IGNORED_OUTBOUND)])
        {
            // Both families: a socket of [::] takes IPv4 as well.
            let listener = namespace.enter(|| TcpListener::bind(("::", port)).unwrap());
            listeners.spawn(tell(listener));
        }
        Self { pod, client, _listeners: listeners }
    }
}

async fn tell(listener: TcpListener) {
    use tokio::io::AsyncWriteExt as _;
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let local = stream.local_addr().unwrap();
        // Outside of the pod there are no rules, and so no memory of connections.
        let target = hawser::net::target::target(&stream).unwrap_or(local);
        let target = SocketAddr::new(target.ip().to_canonical(), target.port());
        stream.write_all(format!("{} for {target}", local.port()).as_bytes()).await.unwrap();
    }
}

/// Where a connection ends, from inside a namespace.
fn call(ip: IpAddr, port: u16) -> String {
    const LIMIT: Duration = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, port), LIMIT)
        .unwrap_or_else(|error| panic!("cannot connect to {ip} port {port}: {error}"));
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// What listener `port` says of a connection that was meant for `ip` and `target`.
fn on(port: u16, ip: IpAddr, target: u16) -> String {
    format!("{port} for {}", SocketAddr::new(ip, target))
}

#[test]
fn apps_reach_the_proxy_which_learns_their_target() {
    let world = World::new(STOCK);
    for ip in CLIENT {
        assert_eq!(world.pod.enter(|| call(ip, APP)), on(4140, ip, APP));
        assert_eq!(world.pod.enter_as(1000, || call(ip, 9)), on(4140, ip, 9), "whoever listens there, or nobody");
    }
}

#[test]
fn the_proxy_itself_is_not_redirected() {
    let world = World::new(STOCK);
    for ip in CLIENT {
        assert_eq!(world.pod.enter_as(2102, || call(ip, APP)), on(APP, ip, APP));
    }
    for ip in POD {
        assert_eq!(world.pod.enter_as(2102, || call(ip, APP)), on(APP, ip, APP), "to the app beside it");
    }
}

#[test]
fn connections_within_the_pod_are_not_redirected() {
    let world = World::new(STOCK);
    for ip in POD.into_iter().chain(["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]) {
        assert_eq!(world.pod.enter(|| call(ip, APP)), on(APP, ip, APP));
    }
}

#[test]
fn ignored_ports_bypass_the_proxy() {
    let world = World::new(STOCK);
    for ip in CLIENT {
        assert_eq!(world.pod.enter(|| call(ip, IGNORED_OUTBOUND)), on(IGNORED_OUTBOUND, ip, IGNORED_OUTBOUND));
    }
    for ip in POD {
        assert_eq!(world.client.enter(|| call(ip, IGNORED_INBOUND)), on(IGNORED_INBOUND, ip, IGNORED_INBOUND));
    }
}

#[test]
fn clients_reach_the_proxy_which_learns_their_target() {
    let world = World::new(STOCK);
    for ip in POD {
        assert_eq!(world.client.enter(|| call(ip, APP)), on(4143, ip, APP));
        assert_eq!(world.client.enter(|| call(ip, 9)), on(4143, ip, 9), "whether the app listens there or not");
    }
}

#[test]
fn a_client_that_means_the_proxy_is_seen_to_mean_it() {
    let world = World::new(STOCK);
    for ip in POD {
        assert_eq!(world.client.enter(|| call(ip, 4143)), on(4143, ip, 4143));
    }
}

#[test]
fn ignored_clients_bypass_the_proxy() {
    let world = World::new(&["--subnets-to-ignore=10.77.0.0/31,fd77::1/128"]);
    for ip in POD {
        assert_eq!(world.client.enter(|| call(ip, APP)), on(APP, ip, APP));
    }
    let world = World::new(&["--subnets-to-ignore=10.77.0.2/31,fd77::2/128"]);
    for ip in POD {
        assert_eq!(world.client.enter(|| call(ip, APP)), on(4143, ip, APP));
    }
}

#[test]
fn without_ipv6_only_ipv4_is_redirected() {
    let world = World::new(&["--ipv6=false"]);
    let [v4, v6] = POD;
    assert_eq!(world.client.enter(|| call(v4, APP)), on(4143, v4, APP));
    assert_eq!(world.client.enter(|| call(v6, APP)), on(APP, v6, APP));
}
