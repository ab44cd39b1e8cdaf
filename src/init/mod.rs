//! The init role: bends a pod's connections towards its proxy, then exits.
//!
//! [`rules`] plans tables of nf_tables, [`encode`] makes them a batch of netlink messages, [`apply`] hands it to the
//! kernel. No other program takes part, so it works in an image without any. It takes the arguments of the program it
//! replaces, whose injectors pass them. Start at [`run`].

mod apply;
mod encode;
mod rules;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use ipnet::IpNet;

use crate::manifest::names;
use crate::mesh::ports::PortSet;
use crate::telemetry::{self, LogFormat};

pub use apply::Error;
use rules::{Family, Settings, TABLE, Table};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the proxy accepts connections to this pod
    #[arg(long, short = 'p', value_name = "PORT", default_value_t = names::INBOUND_PORT, value_parser = port())]
    incoming_proxy_port: u16,
    /// Where the proxy accepts connections of this pod's apps
    #[arg(long, short = 'o', value_name = "PORT", default_value_t = names::OUTBOUND_PORT, value_parser = port())]
    outgoing_proxy_port: u16,
    /// The user whose connections are left alone, for it runs the proxy; 0 or less for none
    #[arg(long, short = 'u', value_name = "UID", default_value_t = i64::from(names::PROXY_UID), allow_negative_numbers = true)]
    proxy_uid: i64,
    /// The group whose connections are left alone, likewise; 0 or less for none
    #[arg(long, short = 'g', value_name = "GID", default_value_t = 0, allow_negative_numbers = true)]
    proxy_gid: i64,
    /// The only inbound ports to redirect, instead of all; repeatable
    #[arg(long, short = 'r', value_name = "PORTS", default_value = "")]
    ports_to_redirect: Vec<PortSet>,
    /// Inbound ports that bypass the proxy, such as `25,3000-3010`; repeatable
    #[arg(long, value_name = "PORTS", default_value = "")]
    inbound_ports_to_ignore: Vec<PortSet>,
    /// Outbound ports that bypass the proxy; repeatable
    #[arg(long, value_name = "PORTS", default_value = "")]
    outbound_ports_to_ignore: Vec<PortSet>,
    /// Networks whose connections to this pod bypass the proxy; repeatable
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', value_parser = subnet)]
    subnets_to_ignore: Vec<IpNet>,
    /// Whether to redirect IPv6 as well, where the pod has it
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    ipv6: bool,
    /// How long conntrack remembers connections that wait to be closed; needs a privileged container
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout_close_wait_secs: u32,
    /// Print the rules, and change nothing
    #[arg(long, visible_alias = "simulate", value_name = "BOOL", default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    dry_run: bool,
    /// What to log, as an env-filter
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log_level: String,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "plain")]
    log_format: LogFormat,
    #[command(flatten)]
    _ignored: Ignored,
}

/// What concerns the programs that hawser does not need; accepted so that injectors which pass it work.
#[derive(Debug, clap::Args)]
struct Ignored {
    #[arg(long, hide = true)]
    firewall_bin_path: Option<PathBuf>,
    #[arg(long, hide = true)]
    firewall_save_bin_path: Option<PathBuf>,
    #[arg(long, hide = true)]
    iptables_mode: Option<String>,
    #[arg(long, short = 'w', hide = true, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    use_wait_flag: bool,
}

fn port() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

/// A network, or one address.
fn subnet(text: &str) -> Result<IpNet, String> {
    let address = || text.parse().map(|address: std::net::IpAddr| IpNet::from(address));
    text.parse().or_else(|_| address()).map_err(|_| "neither a network such as 10.0.0.0/8 nor an address".into())
}

/// Sets up the redirection, or prints it.
///
/// # Errors
/// Where the arguments contradict each other, or the kernel refuses; then nothing has changed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let settings = settings(args)?;
    let ipv4 = rules::table(&settings, Family::Ipv4);
    let ipv6 = args.ipv6.then(|| rules::table(&settings, Family::Ipv6));
    if args.dry_run {
        let mut out = std::io::stdout().lock();
        let tables: Vec<Table> = std::iter::once(ipv4).chain(ipv6).collect();
        return out.write_all(script(&tables).as_bytes()).context("cannot print the rules");
    }
    telemetry::start(&args.log_level, args.log_format)?;
    let redirected = redirect(ipv4, ipv6)?;
    if args.timeout_close_wait_secs > 0 {
        // Exists only once conntrack does, so after the rules.
        std::fs::write(CLOSE_WAIT, args.timeout_close_wait_secs.to_string())
            .with_context(|| format!("cannot set {CLOSE_WAIT}; it takes a privileged container"))?;
    }
    tracing::info!(
        families = redirected,
        inbound = settings.inbound_port,
        outbound = settings.outbound_port,
        "connections of this pod now pass its proxy"
    );
    Ok(())
}

const CLOSE_WAIT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";

/// The tables as `nft -f` takes them, with the same effect as ours: whatever was there before, these are there after.
fn script(tables: &[Table]) -> String {
    let replaced = |table: &Table| {
        let family = table.family.keyword();
        format!("table {family} {TABLE}\ndelete table {family} {TABLE}\n{table}")
    };
    tables.iter().map(replaced).collect::<Vec<_>>().join("\n")
}

fn settings(args: &Args) -> anyhow::Result<Settings> {
    let user = |id: i64, flag: &str| match id {
        ..=0 => Ok(None),
        id => u32::try_from(id).map(Some).with_context(|| format!("{flag} {id} is larger than any user or group id")),
    };
    let settings = Settings {
        inbound_port: args.incoming_proxy_port,
        outbound_port: args.outgoing_proxy_port,
        proxy_uid: user(args.proxy_uid, "--proxy-uid")?,
        proxy_gid: user(args.proxy_gid, "--proxy-gid")?,
        inbound_only: args.ports_to_redirect.iter().collect(),
        inbound_ignored: args.inbound_ports_to_ignore.iter().collect(),
        outbound_ignored: args.outbound_ports_to_ignore.iter().collect(),
        clients_ignored: args.subnets_to_ignore.clone(),
    };
    if settings.proxy_uid.is_none() && settings.proxy_gid.is_none() {
        anyhow::bail!(
            "neither --proxy-uid nor --proxy-gid is above 0, so the proxy's connections would come back to it"
        );
    }
    if settings.inbound_port == settings.outbound_port {
        anyhow::bail!("--incoming-proxy-port and --outgoing-proxy-port are both {}", settings.inbound_port);
    }
    Ok(settings)
}

/// Applies both tables at once; or IPv4's alone, where there is no IPv6 to bend. Returns which families are redirected.
fn redirect(ipv4: Table, ipv6: Option<Table>) -> anyhow::Result<&'static str> {
    const ONLY_IPV4: &str = "IPv4";
    let Some(ipv6) = ipv6 else { return applied(&[ipv4]).map(|()| ONLY_IPV4) };
    // Where the kernel has IPv6 but no address is in use yet, one may come later: the rules must be there.
    let addresses = match std::fs::read_to_string(IPV6_ADDRESSES) {
        Ok(addresses) => addresses,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::info!("there is no IPv6 here");
            return applied(&[ipv4]).map(|()| ONLY_IPV4);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {IPV6_ADDRESSES}")),
    };
    let both = [ipv4, ipv6];
    match apply::apply(&encode::Batch::replacing(&both)) {
        Ok(()) => Ok("IPv4, IPv6"),
        Err(error @ Error::Unsupported { .. }) if !has_global_address(&addresses) => {
            // The batch changed nothing; if IPv4 is what is unsupported, this fails as well.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "IPv6 is not redirected; this pod has no address in it"
            );
            applied(&both[..1]).map(|()| ONLY_IPV4)
        }
        Err(error) => Err(error).context("cannot set up the redirection"),
    }
}

fn applied(tables: &[Table]) -> anyhow::Result<()> {
    apply::apply(&encode::Batch::replacing(tables)).context("cannot set up the redirection")
}

const IPV6_ADDRESSES: &str = "/proc/self/net/if_inet6";

/// Whether a line of if_inet6 (address, index, prefix length, scope, flags, name) has the scope "global".
fn has_global_address(addresses: &str) -> bool {
    addresses.lines().filter_map(|line| line.split_whitespace().nth(3)).any(|scope| scope == "00")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Args {
        Command::try_parse_from(std::iter::once("init").chain(line.split_whitespace())).unwrap().args
    }

    #[test]
    fn takes_the_arguments_of_a_stock_injector() {
        let args = parse(
            "--firewall-bin-path iptables-nft --firewall-save-bin-path iptables-nft-save --ipv6=false \
             --incoming-proxy-port 4143 --outgoing-proxy-port 4140 --proxy-uid 2102 --proxy-gid 2102 \
             --inbound-ports-to-ignore 4190,4191,4567,4568 --outbound-ports-to-ignore 4567,4568 \
             --subnets-to-ignore 10.0.0.0/8,192.0.2.1 --timeout-close-wait-secs 3600 -w",
        );
        assert!(!args.ipv6 && args._ignored.use_wait_flag && !args.dry_run);
        assert_eq!(args.timeout_close_wait_secs, 3600);
        let settings = settings(&args).unwrap();
        assert_eq!((settings.proxy_uid, settings.proxy_gid), (Some(2102), Some(2102)));
        assert_eq!(settings.inbound_ignored.to_string(), "4190,4191,4567,4568");
        assert_eq!(settings.clients_ignored.len(), 2);
    }

    #[test]
    fn joins_repeated_lists() {
        let settings = settings(&parse("--inbound-ports-to-ignore 80 --inbound-ports-to-ignore 90-91,100")).unwrap();
        assert_eq!(settings.inbound_ignored.to_string(), "80,90-91,100");
    }

    #[test]
    fn refuses_what_would_loop() {
        let error = settings(&parse("--proxy-uid 0")).unwrap_err().to_string();
        assert!(error.contains("--proxy-gid"), "{error}");
        let error = settings(&parse("-p 4140")).unwrap_err().to_string();
        assert!(error.contains("both 4140"), "{error}");
        settings(&parse("--proxy-uid -1 --proxy-gid 5")).unwrap();
    }

    #[test]
    fn tells_a_global_address_from_loopback_and_link_local() {
        let local = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe8000000000000000005efffe005301 02 40 20 80     eth0\n";
        assert!(!has_global_address(local));
        assert!(has_global_address(&format!("{local}fd000000000000000000000000000002 02 40 00 80     eth0\n")));
    }
}
