//! The settings of the proxy: the environment variables of the proxy it replaces, as flags, and a few of our own.
//!
//! In: `LINKERD2_PROXY_*` (the wire contract) and `HAWSER_*`. Out: [`Settings`], parsed once at the door. Variables not listed here are
//! ignored, since injectors of many versions set them. A malformed one ends the process with exit code 64, and its name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::access_log::Format;
use crate::mesh::Identity;
use crate::mesh::limits::duration;
use crate::mesh::name::Suffixes;
use crate::mesh::policy::DefaultPolicy;
use crate::mesh::ports::PortSet;
use crate::telemetry::LogFormat;

/// The exit code for a setting that cannot be used: `EX_USAGE`, as the stock proxy has it.
pub const EXIT_CODE_MALFORMED: u8 = 64;
/// What the names of the variables start with; the rest is the flag's name in capitals.
pub const ENV_PREFIX: &str = "LINKERD2_PROXY_";

/// Everything the proxy can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    #[command(flatten)]
    pub admin: Admin,
    #[command(flatten)]
    pub control: Control,
    #[command(flatten)]
    pub identity: IdentitySettings,
    #[command(flatten)]
    pub inbound: Inbound,
    #[command(flatten)]
    pub outbound: Outbound,
    #[command(flatten)]
    pub process: Process,
}

/// The admin server.
#[derive(Clone, Debug, clap::Args)]
pub struct Admin {
    /// Where the admin server listens
    #[arg(long, env = "LINKERD2_PROXY_ADMIN_LISTEN_ADDR", default_value = "127.0.0.1:4191", value_name = "IP:PORT")]
    pub admin_listen_addr: SocketAddr,
    /// Whether `POST /shutdown` ends the proxy, for Jobs
    #[arg(long, env = "LINKERD2_PROXY_SHUTDOWN_ENDPOINT_ENABLED", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub shutdown_endpoint_enabled: bool,
}

/// Where the control plane is, and what is asked of it.
#[derive(Clone, Debug, clap::Args)]
pub struct Control {
    /// Where destinations are resolved
    #[arg(long, env = "LINKERD2_PROXY_DESTINATION_SVC_ADDR", value_name = "HOST:PORT")]
    pub destination_svc_addr: ControlAddr,
    /// The identity the destination service must prove; not needed at a loopback address
    #[arg(long, env = "LINKERD2_PROXY_DESTINATION_SVC_NAME", value_parser = optional::<Identity>, value_name = "IDENTITY")]
    pub destination_svc_name: Option<Optional<Identity>>,
    /// What the destination service should know of this client, passed on as it is
    #[arg(
        long,
        env = "LINKERD2_PROXY_DESTINATION_CONTEXT",
        default_value = "",
        hide_default_value = true,
        value_name = "TEXT"
    )]
    pub destination_context: String,
    /// The addresses whose profiles are looked up
    #[arg(long, env = "LINKERD2_PROXY_DESTINATION_PROFILE_NETWORKS", value_parser = networks, default_value = "", hide_default_value = true, value_name = "CIDR,…")]
    pub destination_profile_networks: Networks,
    /// The names of services whose profiles are looked up for what comes to the app, by how they end; `.` for all
    #[arg(
        long,
        env = "LINKERD2_PROXY_DESTINATION_PROFILE_SUFFIXES",
        default_value = "svc.cluster.local.",
        value_name = "NAME,…"
    )]
    pub destination_profile_suffixes: Suffixes,
    /// How long the first requests for a service wait for its profile
    #[arg(long, env = "LINKERD2_PROXY_DESTINATION_PROFILE_INITIAL_TIMEOUT", value_parser = duration, default_value = "500ms", value_name = "DURATION")]
    pub destination_profile_initial_timeout: Duration,
    /// Where policies are watched
    #[arg(long, env = "LINKERD2_PROXY_POLICY_SVC_ADDR", value_name = "HOST:PORT")]
    pub policy_svc_addr: ControlAddr,
    /// The identity the policy service must prove; not needed at a loopback address
    #[arg(long, env = "LINKERD2_PROXY_POLICY_SVC_NAME", value_parser = optional::<Identity>, value_name = "IDENTITY")]
    pub policy_svc_name: Option<Optional<Identity>>,
    /// Which workload's policies are asked for, passed on as it is
    #[arg(long, env = "LINKERD2_PROXY_POLICY_WORKLOAD", value_name = "TEXT")]
    pub policy_workload: String,
    /// The networks of the cluster, for policies that name them
    #[arg(long, env = "LINKERD2_PROXY_POLICY_CLUSTER_NETWORKS", value_parser = networks, default_value = "", hide_default_value = true, value_name = "CIDR,…")]
    pub policy_cluster_networks: Networks,
    /// How long a stream of the control plane may be without its first message
    #[arg(long, env = "LINKERD2_PROXY_CONTROL_STREAM_INITIAL_TIMEOUT", value_parser = duration, value_name = "DURATION")]
    pub control_stream_initial_timeout: Option<Duration>,
    /// How long a stream of the control plane may be silent
    #[arg(long, env = "LINKERD2_PROXY_CONTROL_STREAM_IDLE_TIMEOUT", value_parser = duration, value_name = "DURATION")]
    pub control_stream_idle_timeout: Option<Duration>,
    /// How long a stream of the control plane lives
    #[arg(long, env = "LINKERD2_PROXY_CONTROL_STREAM_LIFETIME", value_parser = duration, value_name = "DURATION")]
    pub control_stream_lifetime: Option<Duration>,
}

/// Who this proxy is, and how it comes to prove it.
#[derive(Clone, Debug, clap::Args)]
pub struct IdentitySettings {
    /// The bundle, as PEM
    #[arg(long, env = "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", hide_env_values = true, value_name = "PEM")]
    pub identity_trust_anchors: Option<String>,
    /// Where the bundle appears, when it is not given as PEM; waited for
    #[arg(long, env = "HAWSER_TRUST_BUNDLE_FILE", value_name = "FILE")]
    pub trust_bundle_file: Option<PathBuf>,
    /// This proxy's identity
    #[arg(long, env = "LINKERD2_PROXY_IDENTITY_LOCAL_NAME", value_name = "IDENTITY")]
    pub identity_local_name: Identity,
    /// Where the service account's token is; read for each certificate, for Kubernetes renews it
    #[arg(long, env = "LINKERD2_PROXY_IDENTITY_TOKEN_FILE", value_name = "FILE")]
    pub identity_token_file: PathBuf,
    /// A folder of this proxy's own, where it keeps the last trust bundle it was told
    #[arg(long, env = "LINKERD2_PROXY_IDENTITY_DIR", value_name = "FOLDER")]
    pub identity_dir: Option<PathBuf>,
    /// Where certificates are signed
    #[arg(long, env = "LINKERD2_PROXY_IDENTITY_SVC_ADDR", value_name = "HOST:PORT")]
    pub identity_svc_addr: ControlAddr,
    /// The identity the identity service must prove; not needed at a loopback address
    #[arg(long, env = "LINKERD2_PROXY_IDENTITY_SVC_NAME", value_parser = optional::<Identity>, value_name = "IDENTITY")]
    pub identity_svc_name: Option<Optional<Identity>>,
    /// The shortest time between two certificates
    #[arg(long, env = "LINKERD2_PROXY_IDENTITY_MIN_REFRESH", value_parser = duration, default_value = "10s", value_name = "DURATION")]
    pub identity_min_refresh: Duration,
    /// The longest time between two certificates
    #[arg(long, env = "LINKERD2_PROXY_IDENTITY_MAX_REFRESH", value_parser = duration, default_value = "1d", value_name = "DURATION")]
    pub identity_max_refresh: Duration,
    /// Whether connections of the mesh end when a certificate does that they were made with: those under way gracefully, opaque ones at once
    #[arg(long, env = "HAWSER_CONNECTIONS_END_WITH_CERTIFICATES", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub connections_end_with_certificates: bool,
}

/// From the network to the app.
#[derive(Clone, Debug, clap::Args)]
pub struct Inbound {
    /// Where connections from the network are redirected to
    #[arg(long, env = "LINKERD2_PROXY_INBOUND_LISTEN_ADDR", default_value = "0.0.0.0:4143", value_name = "IP:PORT")]
    pub inbound_listen_addr: SocketAddr,
    /// The addresses of this pod; connections meant for others are refused. Unset: all are taken
    #[arg(long, env = "LINKERD2_PROXY_INBOUND_IPS", value_delimiter = ',', value_name = "IP,…")]
    pub inbound_ips: Vec<IpAddr>,
    /// The ports whose policies are watched from the start
    #[arg(
        long,
        env = "LINKERD2_PROXY_INBOUND_PORTS",
        default_value = "",
        hide_default_value = true,
        value_name = "PORTS"
    )]
    pub inbound_ports: PortSet,
    /// The ports that are opaque until policy says otherwise
    #[arg(
        long,
        env = "LINKERD2_PROXY_INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION",
        default_value = "",
        hide_default_value = true,
        value_name = "PORTS"
    )]
    pub inbound_ports_disable_protocol_detection: PortSet,
    /// Who may connect until policy says otherwise
    #[arg(
        long,
        env = "LINKERD2_PROXY_INBOUND_DEFAULT_POLICY",
        default_value = "all-unauthenticated",
        value_name = "POLICY"
    )]
    pub inbound_default_policy: DefaultPolicy,
    /// Whether the app is told the address of each client, in the header hawser-client-ip; then nothing but HTTP reaches it
    #[arg(long, env = "HAWSER_INBOUND_TELL_CLIENT_IP", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub inbound_tell_client_ip: bool,
    /// The names that peers may have themselves taken on to, as DNS suffixes: a multicluster gateway. Unset: none
    #[arg(
        long,
        env = "LINKERD2_PROXY_INBOUND_GATEWAY_SUFFIXES",
        default_value = "",
        hide_default_value = true,
        value_name = "SUFFIX,…"
    )]
    pub inbound_gateway_suffixes: Suffixes,
    /// How long a client may leave its first bytes unfinished
    #[arg(long, env = "LINKERD2_PROXY_INBOUND_DETECT_TIMEOUT", value_parser = duration, default_value = "10s", value_name = "DURATION")]
    pub inbound_detect_timeout: Duration,
    /// How long connecting to the app may take
    #[arg(long, env = "LINKERD2_PROXY_INBOUND_CONNECT_TIMEOUT", value_parser = duration, default_value = "300ms", value_name = "DURATION")]
    pub inbound_connect_timeout: Duration,
    /// The TCP keepalive of accepted connections; 0 for none
    #[arg(long, env = "LINKERD2_PROXY_INBOUND_ACCEPT_KEEPALIVE", value_parser = duration, default_value = "0", value_name = "DURATION")]
    pub inbound_accept_keepalive: Duration,
    /// How long sent data of accepted connections may stay unacknowledged; 0 for the kernel's own limit
    #[arg(long, env = "LINKERD2_PROXY_INBOUND_ACCEPT_USER_TIMEOUT", value_parser = duration, default_value = "0", value_name = "DURATION")]
    pub inbound_accept_user_timeout: Duration,
    /// How long the policy of an unused port is kept
    #[arg(long, env = "LINKERD2_PROXY_INBOUND_DISCOVERY_IDLE_TIMEOUT", value_parser = duration, default_value = "90s", value_name = "DURATION")]
    pub inbound_discovery_idle_timeout: Duration,
    /// How long an idle HTTP/1 connection to the app is kept
    #[arg(long, env = "LINKERD2_PROXY_INBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT", value_parser = duration, default_value = "3s", value_name = "DURATION")]
    pub inbound_http1_connection_pool_idle_timeout: Duration,
    /// How many requests may be under way
    #[arg(long, env = "LINKERD2_PROXY_INBOUND_MAX_IN_FLIGHT", default_value = "100000", value_name = "N")]
    pub inbound_max_in_flight: usize,
    /// How often HTTP/2 clients are pinged; 0 for never
    #[arg(long, env = "LINKERD2_PROXY_INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", value_parser = duration, default_value = "0", value_name = "DURATION")]
    pub inbound_server_http2_keep_alive_interval: Duration,
    /// How long HTTP/2 clients may take to answer a ping
    #[arg(long, env = "LINKERD2_PROXY_INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", value_parser = duration, default_value = "20s", value_name = "DURATION")]
    pub inbound_server_http2_keep_alive_timeout: Duration,
}

/// From the app to its peers.
#[derive(Clone, Debug, clap::Args)]
pub struct Outbound {
    /// Where the app's connections are redirected to
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_LISTEN_ADDRS", value_delimiter = ',', value_name = "IP:PORT,…")]
    pub outbound_listen_addrs: Vec<SocketAddr>,
    /// The same, as older injectors name it
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR", hide = true)]
    pub outbound_listen_addr: Option<SocketAddr>,
    /// How long an app may leave its first bytes unfinished
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_DETECT_TIMEOUT", value_parser = duration, default_value = "10s", value_name = "DURATION")]
    pub outbound_detect_timeout: Duration,
    /// How long connecting to an endpoint may take, with its TLS handshake
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_CONNECT_TIMEOUT", value_parser = duration, default_value = "1s", value_name = "DURATION")]
    pub outbound_connect_timeout: Duration,
    /// The TCP keepalive of connections to endpoints; 0 for none
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_CONNECT_KEEPALIVE", value_parser = duration, default_value = "0", value_name = "DURATION")]
    pub outbound_connect_keepalive: Duration,
    /// How long sent data to endpoints may stay unacknowledged; 0 for the kernel's own limit
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_CONNECT_USER_TIMEOUT", value_parser = duration, default_value = "0", value_name = "DURATION")]
    pub outbound_connect_user_timeout: Duration,
    /// How long a target that nobody uses stays known
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_DISCOVERY_IDLE_TIMEOUT", value_parser = duration, default_value = "5s", value_name = "DURATION")]
    pub outbound_discovery_idle_timeout: Duration,
    /// How long an idle HTTP/1 connection to an endpoint is kept
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT", value_parser = duration, default_value = "3s", value_name = "DURATION")]
    pub outbound_http1_connection_pool_idle_timeout: Duration,
    /// How long a request waits for an endpoint
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_HTTP_FAILFAST_TIMEOUT", value_parser = duration, default_value = "3s", value_name = "DURATION")]
    pub outbound_http_failfast_timeout: Duration,
    /// How many requests may wait for an endpoint of one service
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_HTTP_QUEUE_CAPACITY", default_value = "10000", value_name = "N")]
    pub outbound_http_queue_capacity: usize,
    /// How long an opaque connection waits for an endpoint
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_TCP_FAILFAST_TIMEOUT", value_parser = duration, default_value = "3s", value_name = "DURATION")]
    pub outbound_tcp_failfast_timeout: Duration,
    /// How many opaque connections may wait for an endpoint of one service
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_TCP_QUEUE_CAPACITY", default_value = "10000", value_name = "N")]
    pub outbound_tcp_queue_capacity: usize,
    /// How many requests may be under way
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_MAX_IN_FLIGHT", default_value = "100000", value_name = "N")]
    pub outbound_max_in_flight: usize,
    /// How often the app's HTTP/2 connections are pinged; 0 for never
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", value_parser = duration, default_value = "0", value_name = "DURATION")]
    pub outbound_server_http2_keep_alive_interval: Duration,
    /// How long the app may take to answer a ping
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", value_parser = duration, default_value = "20s", value_name = "DURATION")]
    pub outbound_server_http2_keep_alive_timeout: Duration,
    /// Whether responses go without `l5d-proxy-error`
    #[arg(long, env = "LINKERD2_PROXY_OUTBOUND_DISABLE_INFORMATIONAL_HEADERS", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub outbound_disable_informational_headers: bool,
    /// Whether targets are taken from the header `l5d-dst-override`
    #[arg(long, env = "LINKERD2_PROXY_INGRESS_MODE", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub ingress_mode: bool,
}

/// The process itself.
#[derive(Clone, Debug, clap::Args)]
pub struct Process {
    /// How many threads carry connections
    #[arg(long, env = "LINKERD2_PROXY_CORES", default_value = "1", value_name = "N")]
    pub cores: usize,
    /// What to log, as an env-filter
    #[arg(long, env = "LINKERD2_PROXY_LOG", default_value = "warn,hawser=info", value_name = "FILTER")]
    pub log: String,
    /// How log lines look
    #[arg(long, env = "LINKERD2_PROXY_LOG_FORMAT", default_value = "plain", ignore_case = true, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Log requests from the network on standard output, as apache or json
    #[arg(long, env = "LINKERD2_PROXY_ACCESS_LOG", value_parser = optional::<Format>, value_name = "FORMAT")]
    pub access_log: Option<Optional<Format>>,
    /// How long connections may take to end after SIGTERM
    #[arg(long, env = "LINKERD2_PROXY_SHUTDOWN_GRACE_PERIOD", value_parser = duration, default_value = "2m", value_name = "DURATION")]
    pub shutdown_grace_period: Duration,
    /// Whether to go on after SIGTERM until no process of another user has a TCP socket in this pod, at most as long again as connections
    /// may take to end: for a container that is told to end together with its app
    #[arg(long, env = "HAWSER_PROXY_OUTLASTS_APP", action = clap::ArgAction::Set, default_value = "false", value_name = "BOOL")]
    pub outlasts_app: bool,
}

impl Settings {
    /// Where the app's connections are redirected to: one address per IP family.
    pub fn outbound_listen_addrs(&self) -> Vec<SocketAddr> {
        let outbound = &self.outbound;
        match (outbound.outbound_listen_addrs.as_slice(), outbound.outbound_listen_addr) {
            ([], Some(address)) => vec![address],
            ([], None) => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 4140))],
            (addresses, _) => addresses.to_vec(),
        }
    }

    /// The log filter, with what injectors say of the proxy they know said of this one.
    pub fn log_filter(&self) -> String {
        log_filter(&self.process.log)
    }
}

/// What to say about the arguments that clap did not take: pods set the variables of the same names.
pub fn variable(invalid: &clap::error::ContextValue) -> String {
    let flags: &[String] = match invalid {
        clap::error::ContextValue::String(flag) => std::slice::from_ref(flag),
        clap::error::ContextValue::Strings(flags) => flags,
        _ => &[],
    };
    let variable = |flag: &String| {
        let name = flag.trim_start_matches('-').split([' ', '=']).next().unwrap_or_default();
        format!("{ENV_PREFIX}{}", name.replace('-', "_").to_ascii_uppercase())
    };
    let variables: Vec<String> = flags.iter().filter(|flag| flag.starts_with("--")).map(variable).collect();
    if variables.is_empty() { String::new() } else { format!("in a pod, set {}", variables.join(", ")) }
}

fn log_filter(filter: &str) -> String {
    filter
        .split(',')
        .map(|directive| match directive.trim().strip_prefix("linkerd=") {
            Some(level) => format!("hawser={level}"),
            None => directive.trim().to_owned(),
        })
        .collect::<Vec<_>>()
        .join(",")
}

/// Where a service of the control plane is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ControlAddr {
    /// An IP address, or a DNS name without its trailing dot.
    pub host: String,
    pub port: u16,
}

/// Why a text is no address of a service.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not HOST:PORT")]
pub struct InvalidControlAddr(String);

impl ControlAddr {
    /// Whether the service is in this very pod: spoken to in plaintext, for nothing leaves the pod.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl FromStr for ControlAddr {
    type Err = InvalidControlAddr;

    fn from_str(text: &str) -> Result<Self, InvalidControlAddr> {
        let invalid = || InvalidControlAddr(text.into());
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().map_err(|_| invalid())?.to_string(),
            None => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
        };
        if host.is_empty() || (host.contains(':') && host.parse::<IpAddr>().is_err()) {
            return Err(invalid());
        }
        Ok(Self { host, port })
    }
}

impl fmt::Display for ControlAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A list of networks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Networks(pub Vec<IpNet>);

impl Networks {
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&ip))
    }
}

/// A value of which the empty text means none: injectors set variables they have nothing for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Optional<T>(pub Option<T>);

/// What a setting holds, when it is there and not empty.
pub fn given<T>(setting: &Option<Optional<T>>) -> Option<&T> {
    setting.as_ref().and_then(|optional| optional.0.as_ref())
}

fn optional<T: FromStr>(text: &str) -> Result<Optional<T>, T::Err> {
    if text.is_empty() { Ok(Optional(None)) } else { text.parse().map(|value| Optional(Some(value))) }
}

fn networks(text: &str) -> Result<Networks, ipnet::AddrParseError> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    // A bare address is the network of that one address.
    let network =
        |item: &str| item.parse::<IpNet>().or_else(|error| item.parse::<IpAddr>().map(IpNet::from).map_err(|_| error));
    items.map(network).collect::<Result<_, _>>().map(Networks)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        settings: Settings,
    }

    const REQUIRED: [&str; 6] = [
        "--destination-svc-addr=localhost.:8086",
        "--policy-svc-addr=localhost.:8090",
        "--policy-workload={\"ns\":\"shop\",\"pod\":\"web-1\"}\n",
        "--identity-local-name=web.shop.serviceaccount.identity.hawser.cluster.local",
        "--identity-token-file=/token",
        "--identity-svc-addr=identity.hawser.svc.cluster.local.:8080",
    ];

    fn parse(more: &[&str]) -> Result<Settings, clap::Error> {
        let args = ["proxy"].iter().chain(&REQUIRED).chain(more);
        Command::try_parse_from(args).map(|command| command.settings)
    }

    #[test]
    fn what_is_required_is_enough() {
        let settings = parse(&[]).unwrap();
        assert_eq!(settings.inbound.inbound_listen_addr, "0.0.0.0:4143".parse().unwrap());
        assert_eq!(settings.outbound_listen_addrs(), ["127.0.0.1:4140".parse().unwrap()]);
        assert_eq!(settings.process.shutdown_grace_period, Duration::from_secs(120));
        assert!(settings.control.destination_svc_addr.is_loopback());
        assert!(!settings.identity.identity_svc_addr.is_loopback());
    }

    #[test]
    fn takes_what_injectors_write() {
        let settings = parse(&[
            "--destination-profile-networks=10.0.0.0/8,fd00::/8",
            "--inbound-ips=10.1.2.3,fd00::1",
            "--inbound-ports=8080,9090",
            "--inbound-gateway-suffixes=svc.cluster.local.",
            "--inbound-connect-timeout=100ms",
            "--outbound-listen-addrs=127.0.0.1:4140,[::1]:4140",
            "--identity-svc-name=",
            "--shutdown-endpoint-enabled=false",
            "--log=warn,linkerd=debug,hickory=error,[{headers}]=off",
        ])
        .unwrap();
        assert!(settings.control.destination_profile_networks.contains("10.9.9.9".parse().unwrap()));
        assert_eq!(settings.inbound.inbound_ips.len(), 2);
        assert!(settings.inbound.inbound_ports.contains(9090));
        assert!(settings.inbound.inbound_gateway_suffixes.contain(&"web.shop.svc.cluster.local".parse().unwrap()));
        assert_eq!(settings.outbound_listen_addrs().len(), 2);
        assert_eq!(given(&settings.identity.identity_svc_name), None);
        assert_eq!(settings.log_filter(), "warn,hawser=debug,hickory=error,[{headers}]=off");
    }

    #[test]
    fn reads_durations_and_refuses_others() {
        assert_eq!(duration(" 100ms "), Ok(Duration::from_millis(100)));
        assert_eq!(duration("365d"), Ok(Duration::from_secs(365 * 86_400)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for text in ["", "10", "1.5s", "-1s", "1 s", "s", "1us", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn refuses_addresses_without_a_port() {
        for text in ["localhost", "localhost:0", ":80", "a:b:80", "[::1:80", "host:99999"] {
            assert!(text.parse::<ControlAddr>().is_err(), "{text}");
        }
        let address: ControlAddr = "[::1]:8080".parse().unwrap();
        assert!(address.is_loopback());
        assert_eq!(address.to_string(), "[::1]:8080");
    }

    #[test]
    fn a_malformed_value_is_an_error() {
        assert!(parse(&["--inbound-connect-timeout=fast"]).is_err());
        assert!(parse(&["--inbound-ports=0"]).is_err());
        assert!(parse(&["--inbound-ips="]).is_err());
        assert!(parse(&["--inbound-gateway-suffixes=*.svc"]).is_err());
        assert!(parse(&["--inbound-default-policy=everyone"]).is_err());
    }
}
