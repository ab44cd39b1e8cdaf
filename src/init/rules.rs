//! Plans the packet redirection of a pod, and prints the plan in the syntax of nft.
//!
//! In: what the arguments say. Out: a [`Table`] for each IP family, whose `Display` is what `nft list table` would show.
//! Nothing here touches the kernel: [`super::encode`] turns the same tables into netlink messages.
//!
//! Two nat chains in a table of our own. The kernel asks one per *connection*, at its first packet, and conntrack
//! remembers the answer: that memory is what SO_ORIGINAL_DST reads. Start at [`table`].

use std::fmt;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::mesh::ports::PortSet;

/// The name of our table, in each family: ours to delete and make again, whatever else the namespace holds.
pub(super) const TABLE: &str = "hawser";

/// What to bend, and what to leave alone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Settings {
    /// Where the proxy accepts connections to this pod.
    pub(super) inbound_port: u16,
    /// Where the proxy accepts connections of this pod's apps.
    pub(super) outbound_port: u16,
    /// The user of the proxy, whose connections are never bent.
    pub(super) proxy_uid: Option<u32>,
    /// The group of the proxy, likewise.
    pub(super) proxy_gid: Option<u32>,
    /// The only inbound ports to bend; empty means all.
    pub(super) inbound_only: PortSet,
    pub(super) inbound_ignored: PortSet,
    pub(super) outbound_ignored: PortSet,
    /// Clients whose connections to this pod bypass the proxy.
    pub(super) clients_ignored: Vec<IpNet>,
}

/// Each family has its own table rather than one of family `inet`: nat in `inet` needs Linux 5.2, and a kernel without
/// IPv6 would refuse the whole of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Table {
    pub(super) family: Family,
    pub(super) chains: [Chain; 2],
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Chain {
    pub(super) hook: Hook,
    pub(super) rules: Vec<Rule>,
}

/// Where in a packet's way the kernel asks a chain. Both at the priority of destination nat, -100: after conntrack has
/// seen the packet, before routing, and beside whatever nat a CNI plugin set up, which runs in the order it was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Hook {
    Output,
    Prerouting,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rule {
    pub(super) when: Match,
    pub(super) then: Verdict,
    /// Shown by nft, for whoever debugs a pod's network.
    pub(super) comment: &'static str,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Match {
    Gid(u32),
    Loopback,
    Source(IpNet),
    Tcp,
    TcpTo(RangeInclusive<u16>),
    Uid(u32),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// To this port of this pod.
    Redirect(u16),
    /// Leave the connection as it is.
    Return,
}

/// Plans the table of one family.
pub(super) fn table(settings: &Settings, family: Family) -> Table {
    Table { family, chains: [inbound(settings, family), outbound(settings)] }
}

fn inbound(settings: &Settings, family: Family) -> Chain {
    let mut rules = Vec::new();
    rules.extend(ports(&settings.inbound_ignored, Verdict::Return, "ignored inbound port"));
    let clients = settings.clients_ignored.iter().filter(|net| family.holds(net));
    rules.extend(clients.map(|net| Rule {
        when: Match::Source(net.trunc()),
        then: Verdict::Return,
        comment: "ignored client",
    }));
    let redirect = Verdict::Redirect(settings.inbound_port);
    if settings.inbound_only.is_empty() {
        // Also what comes straight to the proxy's port: the redirect keeps the port, and conntrack knows it as asked for.
        rules.push(Rule { when: Match::Tcp, then: redirect, comment: "to the proxy" });
    } else {
        rules.extend(ports(&settings.inbound_only, redirect, "to the proxy"));
    }
    Chain { hook: Hook::Prerouting, rules }
}

fn outbound(settings: &Settings) -> Chain {
    let mut rules = Vec::new();
    let leave = |when, comment| Rule { when, then: Verdict::Return, comment };
    rules.extend(settings.proxy_uid.map(|uid| leave(Match::Uid(uid), "the proxy itself")));
    rules.extend(settings.proxy_gid.map(|gid| leave(Match::Gid(gid), "the proxy itself")));
    // An app's connection to its own pod goes over lo, too, by whichever address: it never leaves the pod.
    rules.push(leave(Match::Loopback, "within the pod"));
    rules.extend(ports(&settings.outbound_ignored, Verdict::Return, "ignored outbound port"));
    rules.push(Rule { when: Match::Tcp, then: Verdict::Redirect(settings.outbound_port), comment: "to the proxy" });
    Chain { hook: Hook::Output, rules }
}

fn ports(ports: &PortSet, then: Verdict, comment: &'static str) -> impl Iterator<Item = Rule> {
    merged(ports).into_iter().map(move |range| Rule { when: Match::TcpTo(range), then, comment })
}

/// The same ports in order, as few ranges as can be.
fn merged(ports: &PortSet) -> Vec<RangeInclusive<u16>> {
    let mut ranges: Vec<_> = ports.ranges().cloned().collect();
    ranges.sort_by_key(|range| *range.start());
    let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                *last = *last.start()..=(*last.end()).max(*range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

impl Family {
    fn holds(self, net: &IpNet) -> bool {
        matches!((self, net), (Self::Ipv4, IpNet::V4(_)) | (Self::Ipv6, IpNet::V6(_)))
    }

    /// As nft calls it.
    pub(super) const fn keyword(self) -> &'static str {
        match self {
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
        }
    }
}

impl Chain {
    pub(super) const fn name(&self) -> &'static str {
        match self.hook {
            Hook::Output => "outbound",
            Hook::Prerouting => "inbound",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {TABLE} {{", self.family.keyword())?;
        for (at, chain) in self.chains.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            writeln!(f, "\tchain {} {{", chain.name())?;
            // nft has a name for this priority in one of the two hooks only.
            let hook = match chain.hook {
                Hook::Output => "output priority -100",
                Hook::Prerouting => "prerouting priority dstnat",
            };
            writeln!(f, "\t\ttype nat hook {hook}; policy accept;")?;
            for rule in &chain.rules {
                writeln!(f, "\t\t{} {} comment \"{}\"", rule.when, rule.then, rule.comment)?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gid(gid) => write!(f, "meta skgid {gid}"),
            Self::Loopback => f.write_str("oifname \"lo\""),
            Self::Source(net) => {
                let family = if matches!(net, IpNet::V4(_)) { Family::Ipv4 } else { Family::Ipv6 };
                if net.prefix_len() == net.max_prefix_len() {
                    write!(f, "{} saddr {}", family.keyword(), net.addr())
                } else {
                    write!(f, "{} saddr {net}", family.keyword())
                }
            }
            Self::Tcp => f.write_str("meta l4proto tcp"),
            Self::TcpTo(range) if range.start() == range.end() => write!(f, "tcp dport {}", range.start()),
            Self::TcpTo(range) => write!(f, "tcp dport {}-{}", range.start(), range.end()),
            Self::Uid(uid) => write!(f, "meta skuid {uid}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
            Self::Return => f.write_str("return"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::init) fn stock() -> Settings {
        Settings {
            inbound_port: 4143,
            outbound_port: 4140,
            proxy_uid: Some(2102),
            proxy_gid: None,
            inbound_only: PortSet::default(),
            inbound_ignored: "4190,4191,4567,4568".parse().unwrap(),
            outbound_ignored: "4567,4568".parse().unwrap(),
            clients_ignored: Vec::new(),
        }
    }

    fn position(chain: &Chain, rule: &str) -> usize {
        chain.rules.iter().position(|found| format!("{} {}", found.when, found.then) == rule).unwrap()
    }

    #[test]
    fn prints_what_a_stock_pod_gets() {
        let expected = r#"table ip hawser {
	chain inbound {
		type nat hook prerouting priority dstnat; policy accept;
		tcp dport 4190-4191 return comment "ignored inbound port"
		tcp dport 4567-4568 return comment "ignored inbound port"
		meta l4proto tcp redirect to :4143 comment "to the proxy"
	}

	chain outbound {
		type nat hook output priority -100; policy accept;
		meta skuid 2102 return comment "the proxy itself"
		oifname "lo" return comment "within the pod"
		tcp dport 4567-4568 return comment "ignored outbound port"
		meta l4proto tcp redirect to :4140 comment "to the proxy"
	}
}
"#;
        assert_eq!(table(&stock(), Family::Ipv4).to_string(), expected);
        assert_eq!(table(&stock(), Family::Ipv6).to_string(), expected.replace("table ip ", "table ip6 "));
    }

    #[test]
    fn the_exempt_come_before_the_redirect() {
        let settings = Settings { proxy_gid: Some(7), ..stock() };
        let [inbound, outbound] = table(&settings, Family::Ipv4).chains;
        let last = outbound.rules.len() - 1;
        assert_eq!(position(&outbound, "meta l4proto tcp redirect to :4140"), last);
        for exempt in ["meta skuid 2102 return", "meta skgid 7 return", "oifname \"lo\" return"] {
            assert!(position(&outbound, exempt) < last, "{exempt}");
        }
        assert_eq!(position(&inbound, "meta l4proto tcp redirect to :4143"), inbound.rules.len() - 1);
    }

    #[test]
    fn ignores_clients_of_its_own_family_only() {
        let settings = Settings {
            clients_ignored: vec![
                "10.1.2.3/8".parse().unwrap(),
                "192.0.2.7/32".parse().unwrap(),
                "fd00::/8".parse().unwrap(),
            ],
            ..stock()
        };
        let v4 = table(&settings, Family::Ipv4).to_string();
        assert!(v4.contains("\tip saddr 10.0.0.0/8 return") && v4.contains("\tip saddr 192.0.2.7 return"), "{v4}");
        assert!(!v4.contains("fd00"), "{v4}");
        let v6 = table(&settings, Family::Ipv6).to_string();
        assert!(v6.contains("\tip6 saddr fd00::/8 return") && !v6.contains("saddr 10"), "{v6}");
    }

    #[test]
    fn bends_chosen_inbound_ports_only() {
        let settings = Settings { inbound_only: "80,8080-8090".parse().unwrap(), ..stock() };
        let [inbound, _] = table(&settings, Family::Ipv4).chains;
        position(&inbound, "tcp dport 80 redirect to :4143");
        position(&inbound, "tcp dport 8080-8090 redirect to :4143");
        assert!(inbound.rules.iter().all(|rule| rule.when != Match::Tcp));
    }

    #[test]
    fn merges_ranges_that_touch_or_overlap() {
        let ports = "65535,3-5,4,1-2,10-20,12-13,65534".parse().unwrap();
        assert_eq!(merged(&ports), [1..=5, 10..=20, 65534..=65535]);
    }
}
