//! Encodes tables as the netlink messages that make nf_tables hold exactly them.
//!
//! In: the tables of [`super::rules`]. Out: a [`Batch`], which the kernel takes as a whole or not at all. It deletes the
//! tables of that name first, so that applying twice is applying once, with no moment in between without rules.
//!
//! Numbers of attributes are those of linux/netfilter/nf_tables.h. Lengths and types are in the machine's byte order;
//! nf_tables wants its own numbers in network order. Start at [`Batch::replacing`].

use ipnet::IpNet;

use super::rules::{Chain, Family, Hook, Match, Rule, TABLE, Table, Verdict};

/// Netlink messages that the kernel applies as one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// What the message with each sequence number does, for errors: they name the number.
    pub(super) steps: Vec<String>,
}

impl Batch {
    /// The batch that leaves exactly these tables behind.
    pub(super) fn replacing(tables: &[Table]) -> Self {
        let mut batch = Self::default();
        batch.edge(libc::NFNL_MSG_BATCH_BEGIN, "begin");
        for table in tables {
            let (family, name) = (table.family, table.family.keyword());
            // Deleting what is not there is an error, so it is made first.
            let named = Attributes::default().text(TABLE_NAME, TABLE);
            batch.step(libc::NFT_MSG_NEWTABLE, family, &named, format!("add table {name} {TABLE}"));
            batch.step(libc::NFT_MSG_DELTABLE, family, &named, format!("delete table {name} {TABLE}"));
            batch.step(libc::NFT_MSG_NEWTABLE, family, &named, format!("add table {name} {TABLE}"));
            for chain in &table.chains {
                let what = format!("chain {name} {TABLE} {}", chain.name());
                batch.step(libc::NFT_MSG_NEWCHAIN, family, &self::chain(chain), format!("add nat {what}"));
                for rule in &chain.rules {
                    let what = format!("add rule \"{} {}\" to {what}", rule.when, rule.then);
                    batch.step(libc::NFT_MSG_NEWRULE, family, &self::rule(chain, rule), what);
                }
            }
        }
        batch.edge(libc::NFNL_MSG_BATCH_END, "commit");
        batch
    }

    /// The number of the last step that is acknowledged: with it, all are done.
    pub(super) fn last(&self) -> usize {
        // Kernels before 6.10 do not acknowledge the end of a batch.
        self.steps.len().saturating_sub(2)
    }

    fn edge(&mut self, kind: libc::c_int, what: &str) {
        let subsystem = u16::try_from(libc::NFNL_SUBSYS_NFTABLES).unwrap_or_default();
        self.message(kind, 0, libc::AF_UNSPEC, subsystem, &Attributes::default(), what.into());
    }

    fn step(&mut self, kind: libc::c_int, family: Family, attributes: &Attributes, what: String) {
        let flags = match kind {
            // Rules go to the end of their chain.
            libc::NFT_MSG_NEWRULE => libc::NLM_F_CREATE | libc::NLM_F_APPEND,
            libc::NFT_MSG_DELTABLE => 0,
            _ => libc::NLM_F_CREATE,
        };
        let family = match family {
            Family::Ipv4 => libc::NFPROTO_IPV4,
            Family::Ipv6 => libc::NFPROTO_IPV6,
        };
        self.message((libc::NFNL_SUBSYS_NFTABLES << 8) | kind, flags | libc::NLM_F_ACK, family, 0, attributes, what);
    }

    /// A netlink header, the header of netfilter's subsystems, attributes.
    fn message(
        &mut self,
        kind: libc::c_int,
        flags: libc::c_int,
        family: libc::c_int,
        resource: u16,
        attributes: &Attributes,
        what: String,
    ) {
        let length = 16 + 4 + attributes.0.len();
        self.bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        self.bytes.extend(low_16(kind).to_ne_bytes());
        self.bytes.extend(low_16(flags | libc::NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend(u32::try_from(self.steps.len()).unwrap_or(u32::MAX).to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        let [family, _] = low_16(family).to_le_bytes();
        let [version, _] = low_16(libc::NFNETLINK_V0).to_le_bytes();
        self.bytes.extend([family, version]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(&attributes.0);
        self.steps.push(what);
    }
}

/// Message types, flags and families are C ints in the headers, and 16 bits or fewer on the wire.
fn low_16(number: libc::c_int) -> u16 {
    u16::try_from(number).expect("the constants of netlink headers fit in 16 bits")
}

fn chain(chain: &Chain) -> Attributes {
    let hook = match chain.hook {
        Hook::Output => libc::NF_INET_LOCAL_OUT,
        Hook::Prerouting => libc::NF_INET_PRE_ROUTING,
    };
    let hook = Attributes::default().number(HOOK_NUMBER, hook).number(HOOK_PRIORITY, libc::NF_IP_PRI_NAT_DST);
    Attributes::default()
        .text(CHAIN_TABLE, TABLE)
        .text(CHAIN_NAME, chain.name())
        .nested(CHAIN_HOOK, &hook)
        .number(CHAIN_POLICY, libc::NF_ACCEPT)
        .text(CHAIN_TYPE, "nat")
}

fn rule(chain: &Chain, rule: &Rule) -> Attributes {
    let mut expressions = Attributes::default();
    for (name, data) in matching(&rule.when).into_iter().chain(verdict(rule.then)) {
        let expression = Attributes::default().text(EXPRESSION_NAME, name).nested(EXPRESSION_DATA, &data);
        expressions = expressions.nested(LIST_ELEMENT, &expression);
    }
    Attributes::default()
        .text(RULE_TABLE, TABLE)
        .text(RULE_CHAIN, chain.name())
        .nested(RULE_EXPRESSIONS, &expressions)
        .bytes(RULE_USER_DATA, &comment(rule.comment))
}

/// A comment as nft keeps it: type 0, one byte of length, the text with its NUL.
fn comment(text: &'static str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).expect("our comments are short");
    [&[0, length], text.as_bytes(), &[0]].concat()
}

type Expression = (&'static str, Attributes);

/// Loads what a match is about into register 1, and compares.
fn matching(when: &Match) -> Vec<Expression> {
    match when {
        Match::Gid(gid) => vec![meta(libc::NFT_META_SKGID), equals(&gid.to_ne_bytes())],
        Match::Loopback => {
            let mut name = [0; libc::IFNAMSIZ];
            name[..2].copy_from_slice(b"lo");
            vec![meta(libc::NFT_META_OIFNAME), equals(&name)]
        }
        Match::Source(IpNet::V4(net)) => source(12, &net.network().octets(), &net.netmask().octets()),
        Match::Source(IpNet::V6(net)) => source(8, &net.network().octets(), &net.netmask().octets()),
        Match::Tcp => tcp(),
        Match::TcpTo(range) => {
            let mut expressions = tcp();
            expressions.push(payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2));
            if range.start() == range.end() {
                expressions.push(equals(&range.start().to_be_bytes()));
            } else {
                expressions.push(compare(libc::NFT_CMP_GTE, &range.start().to_be_bytes()));
                expressions.push(compare(libc::NFT_CMP_LTE, &range.end().to_be_bytes()));
            }
            expressions
        }
        Match::Uid(uid) => vec![meta(libc::NFT_META_SKUID), equals(&uid.to_ne_bytes())],
    }
}

fn tcp() -> Vec<Expression> {
    let [protocol, _] = low_16(libc::IPPROTO_TCP).to_le_bytes();
    vec![meta(libc::NFT_META_L4PROTO), equals(&[protocol])]
}

fn source(offset: i32, network: &[u8], mask: &[u8]) -> Vec<Expression> {
    let length = i32::try_from(network.len()).expect("addresses are short");
    let mut expressions = vec![payload(libc::NFT_PAYLOAD_NETWORK_HEADER, offset, length)];
    if mask.iter().any(|byte| *byte != 0xff) {
        let bitwise = Attributes::default()
            .number(BITWISE_SOURCE, libc::NFT_REG_1)
            .number(BITWISE_TO, libc::NFT_REG_1)
            .number(BITWISE_LENGTH, length)
            .nested(BITWISE_MASK, &value(mask))
            .nested(BITWISE_XOR, &value(&vec![0; mask.len()]));
        expressions.push(("bitwise", bitwise));
    }
    expressions.push(equals(network));
    expressions
}

fn meta(key: libc::c_int) -> Expression {
    ("meta", Attributes::default().number(META_KEY, key).number(META_TO, libc::NFT_REG_1))
}

fn payload(base: libc::c_int, offset: i32, length: i32) -> Expression {
    let attributes = Attributes::default()
        .number(PAYLOAD_TO, libc::NFT_REG_1)
        .number(PAYLOAD_BASE, base)
        .number(PAYLOAD_OFFSET, offset)
        .number(PAYLOAD_LENGTH, length);
    ("payload", attributes)
}

fn equals(bytes: &[u8]) -> Expression {
    compare(libc::NFT_CMP_EQ, bytes)
}

fn compare(operation: libc::c_int, bytes: &[u8]) -> Expression {
    let attributes = Attributes::default()
        .number(COMPARE_SOURCE, libc::NFT_REG_1)
        .number(COMPARE_OPERATION, operation)
        .nested(COMPARE_DATA, &value(bytes));
    ("cmp", attributes)
}

fn verdict(then: Verdict) -> Vec<Expression> {
    let immediate = |register, data: &Attributes| {
        ("immediate", Attributes::default().number(IMMEDIATE_TO, register).nested(IMMEDIATE_DATA, data))
    };
    match then {
        Verdict::Redirect(port) => {
            // One register for both ends of a range of one port. redir is what makes conntrack watch the namespace.
            let redirect = Attributes::default()
                .number(REDIRECT_FIRST_PORT, libc::NFT_REG_1)
                .number(REDIRECT_FLAGS, NAT_RANGE_PROTO_SPECIFIED);
            vec![immediate(libc::NFT_REG_1, &value(&port.to_be_bytes())), ("redir", redirect)]
        }
        Verdict::Return => {
            let code = Attributes::default().number(VERDICT_CODE, libc::NFT_RETURN);
            vec![immediate(libc::NFT_REG_VERDICT, &Attributes::default().nested(DATA_VERDICT, &code))]
        }
    }
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(DATA_VALUE, bytes)
}

/// A run of netlink attributes: length, type, bytes, padding to four.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(mut self, kind: u16, bytes: &[u8]) -> Self {
        // The longest is the list of one rule's expressions: some hundred bytes.
        let length = u16::try_from(4 + bytes.len()).expect("attributes of our rules are short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn text(self, kind: u16, text: &str) -> Self {
        self.bytes(kind, &[text.as_bytes(), &[0]].concat())
    }

    fn number(self, kind: u16, number: i32) -> Self {
        self.bytes(kind, &number.to_be_bytes())
    }

    fn nested(self, kind: u16, attributes: &Self) -> Self {
        self.bytes(kind | NESTED, &attributes.0)
    }
}

const NESTED: u16 = 0x8000;
const LIST_ELEMENT: u16 = 1;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USER_DATA: u16 = 7;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const META_TO: u16 = 1;
const META_KEY: u16 = 2;
const PAYLOAD_TO: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LENGTH: u16 = 4;
const COMPARE_SOURCE: u16 = 1;
const COMPARE_OPERATION: u16 = 2;
const COMPARE_DATA: u16 = 3;
const BITWISE_SOURCE: u16 = 1;
const BITWISE_TO: u16 = 2;
const BITWISE_LENGTH: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
const IMMEDIATE_TO: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const REDIRECT_FIRST_PORT: u16 = 1;
const REDIRECT_FLAGS: u16 = 3;
const NAT_RANGE_PROTO_SPECIFIED: i32 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::rules::{self, tests::stock};

    #[test]
    fn attributes_are_padded_and_their_length_is_not() {
        let attributes = Attributes::default().text(1, "lo");
        let mut expected = Vec::new();
        expected.extend(7_u16.to_ne_bytes());
        expected.extend(1_u16.to_ne_bytes());
        expected.extend(*b"lo\0\0");
        assert_eq!(attributes.0, expected);
    }

    #[test]
    fn a_batch_is_a_chain_of_messages_numbered_in_order() {
        let batch = Batch::replacing(&[rules::table(&stock(), Family::Ipv4), rules::table(&stock(), Family::Ipv6)]);
        let mut rest = batch.bytes.as_slice();
        let mut numbers = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            assert_eq!(length % 4, 0);
            numbers.push(u32::from_ne_bytes(rest[8..12].try_into().unwrap()));
            rest = &rest[length..];
        }
        assert_eq!(numbers, (0..u32::try_from(batch.steps.len()).unwrap()).collect::<Vec<_>>());
        assert_eq!(batch.steps[batch.last() + 1], "commit");
        // Made, deleted and made again, in each family.
        assert_eq!(batch.steps.iter().filter(|step| step.contains("table ip6 hawser")).count(), 3);
    }
}
