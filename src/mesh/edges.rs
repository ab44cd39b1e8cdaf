//! Who talks to whom, and whether it is secured, from what the proxies at both ends measured.
//!
//! ```text
//! Report (client's pod) ─┐
//!                        ├─ join ─> Link (one connection) ─ aggregate ─> Edge (workload to workload)
//! Report (server's pod) ─┘
//! ```
//!
//! In: what each proxy told of its connections, and who is behind each address. Out: links and edges. Only
//! [`State::Secured`] is secured: what only one end says, what the ends contradict each other about, and what we cannot read are each
//! said as they are. A connection that only one end knows of is a link too: the other end is not meshed, or was not asked.
//!
//! Start at [`join`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use serde_json::Value;

use super::Identity;
use super::connection::{Connection, Direction, PlaintextReason, Security, Tls};
use super::places::{Kind, Place, Places, Spot};
use crate::manifest::names;

/// How far apart two ends may say that one connection was opened: clocks differ, and each end notes the time when it knows
/// the protocol. Client ports come around again much later.
const OPENED_APART_SECONDS_MAX: u64 = 60;

/// What the proxy of one pod told.
#[derive(Clone, Debug)]
pub struct Report {
    pub pod: Spot,
    pub seen: Vec<Seen>,
    /// How many connections the proxy had no room to list.
    pub dropped: u64,
}

/// A connection, as seen at one of its ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Its `security` counts only where `unreadable` is none.
    connection: Connection,
    /// A security that this version does not know, as it was told.
    unreadable: Option<String>,
}

/// Why an answer is no report.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the connections that the proxy listed")]
pub struct InvalidReport(#[from] serde_json::Error);

impl Report {
    /// Reads what a pod's proxy answered. Whatever else a later version may say of a connection's security is kept as
    /// unknown: one such connection must neither hide the others nor pass for secured.
    ///
    /// # Errors
    /// Where the answer is no list of connections.
    pub fn parse(pod: Spot, answer: &[u8]) -> Result<Self, InvalidReport> {
        #[derive(serde::Deserialize)]
        struct Answer {
            live: Vec<Value>,
            recent: Vec<Value>,
            #[serde(default)]
            dropped: u64,
        }
        let answer: Answer = serde_json::from_slice(answer)?;
        let seen = answer.live.into_iter().chain(answer.recent).map(Seen::parse).collect::<Result<_, _>>()?;
        Ok(Self { pod, seen, dropped: answer.dropped })
    }

    /// The meshed pods at the other ends: whoever wants to see both ends must ask them too.
    pub fn others(&self, places: &Places) -> BTreeSet<(String, String)> {
        let other = |seen: &Seen| {
            let connection = &seen.connection;
            let address = match connection.direction {
                Direction::Inbound => connection.client,
                Direction::Outbound => connection.server,
            };
            let spot = places.at(address.ip(), last_open(connection));
            Some((spot.place.namespace.filter(|_| spot.place.meshed)?, spot.pod?))
        };
        self.seen.iter().filter_map(other).collect()
    }
}

impl Seen {
    fn parse(mut value: Value) -> Result<Self, serde_json::Error> {
        let told = value.get("security").cloned().unwrap_or_default();
        let unreadable = serde_json::from_value::<Security>(told.clone()).is_err().then(|| told.to_string());
        if unreadable.is_some() {
            value["security"] = serde_json::to_value(Security::Plaintext { reason: PlaintextReason::PortSkipped })?;
        }
        Ok(Self { connection: serde_json::from_value(value)?, unreadable })
    }

    fn security(&self) -> Result<&Security, &str> {
        self.unreadable.as_deref().map_or(Ok(&self.connection.security), Err)
    }

    /// What the handshake settled, where there was one.
    pub fn tls(&self) -> Option<&Tls> {
        match self.security() {
            Ok(Security::Mutual(tls) | Security::ServerOnly(tls)) => Some(tls),
            _ => None,
        }
    }
}

/// Whether a connection is secured, or why not.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum State {
    /// Each end has proven itself to the other.
    Secured,
    /// Only the server has.
    ServerOnly,
    /// The app's own TLS, which nobody but the app can judge.
    Passthrough,
    Plaintext(PlaintextReason),
    /// The ends say different things of the same connection.
    Disagreement(String),
    /// An end said what we cannot read.
    Unknown(String),
}

impl State {
    pub fn is_secured(&self) -> bool {
        *self == Self::Secured
    }

    /// For scripts: a word that does not change.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Secured => "secured",
            Self::ServerOnly => "server_only",
            Self::Passthrough => "passthrough",
            Self::Plaintext(reason) => reason.as_str(),
            Self::Disagreement(_) => "disagreement",
            Self::Unknown(_) => "unknown",
        }
    }

    /// For people: why the edge between these two is not secured.
    pub fn words(&self, client: &Place, server: &Place) -> String {
        match self {
            Self::Secured => "secured".into(),
            // Who asks for a certificate has none yet: it proves itself by its service account's token, within this TLS.
            Self::ServerOnly if server.name == names::IDENTITY => {
                "client has no certificate yet: it asks for one".into()
            }
            Self::ServerOnly => "client showed no certificate".into(),
            Self::Passthrough => "the app's own TLS".into(),
            Self::Plaintext(PlaintextReason::NoTlsFromRemote) if client.kind == Kind::Node => {
                "plaintext: from the node, such as a probe".into()
            }
            Self::Plaintext(PlaintextReason::NoTlsFromRemote) if !client.meshed => {
                "plaintext: client is not meshed".into()
            }
            Self::Plaintext(PlaintextReason::NoTlsFromRemote) => "plaintext: client sent no mesh TLS".into(),
            Self::Plaintext(PlaintextReason::NotProvidedByServiceDiscovery) if !server.meshed => {
                "plaintext: server is not meshed".into()
            }
            Self::Plaintext(PlaintextReason::NotProvidedByServiceDiscovery) => {
                "plaintext: discovery gave no identity for the server".into()
            }
            Self::Plaintext(PlaintextReason::Loopback) => "plaintext: stays in the pod".into(),
            Self::Plaintext(PlaintextReason::PortSkipped) => "plaintext: the port is skipped".into(),
            Self::Disagreement(how) => format!("the ends disagree: {how}"),
            Self::Unknown(told) => format!("unknown: {told}"),
        }
    }
}

/// Whose proxies have told of a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Witness {
    Both,
    Client,
    Server,
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Link {
    pub client: Spot,
    pub server: Spot,
    pub state: State,
    /// What the client's proxy measured.
    outbound: Option<Seen>,
    /// What the server's proxy measured.
    inbound: Option<Seen>,
}

impl Link {
    /// A connection that the client's proxy told of, and maybe the server's too.
    fn of_client(client: &Spot, outbound: &Seen, inbound: Option<(&Spot, &Seen)>, places: &Places) -> Self {
        let server = match inbound {
            Some((server, _)) => server.clone(),
            None => {
                let (connection, identity) = (&outbound.connection, outbound.tls().map(|tls| &tls.server_identity));
                places
                    .at(connection.server.ip(), last_open(connection))
                    .or_labels(&connection.labels)
                    .or_identity(identity)
            }
        };
        let inbound = inbound.map(|(_, seen)| seen.clone());
        let state = judge(Some(outbound), inbound.as_ref());
        Self { client: client.clone(), server, state, outbound: Some(outbound.clone()), inbound }
    }

    /// A connection that only the server's proxy told of.
    fn of_server(server: &Spot, inbound: &Seen, places: &Places) -> Self {
        let identity = inbound.tls().and_then(|tls| tls.client_identity.as_ref());
        let client = places.at(inbound.connection.client.ip(), last_open(&inbound.connection)).or_identity(identity);
        let state = judge(None, Some(inbound));
        Self { client, server: server.clone(), state, outbound: None, inbound: Some(inbound.clone()) }
    }

    /// The views there are, the client's first.
    fn views(&self) -> impl Iterator<Item = &Connection> {
        self.outbound.iter().chain(&self.inbound).map(|seen| &seen.connection)
    }

    fn tls(&self) -> impl Iterator<Item = &Tls> {
        self.outbound.iter().chain(&self.inbound).filter_map(Seen::tls)
    }

    pub fn witness(&self) -> Witness {
        match (&self.outbound, &self.inbound) {
            (Some(_), Some(_)) => Witness::Both,
            (Some(_), None) => Witness::Client,
            (None, _) => Witness::Server,
        }
    }

    /// Whether it was open when its ends were asked: one that has closed in between is closed.
    pub fn is_live(&self) -> bool {
        self.views().all(|view| view.closed_at.is_none())
    }

    /// The one view to take what both ends must agree on from: the server's, where there is one, for only it knows the app's port.
    pub fn view(&self) -> Option<&Connection> {
        self.inbound.as_ref().or(self.outbound.as_ref()).map(|seen| &seen.connection)
    }

    /// The port of the server's app.
    pub fn port(&self) -> u16 {
        self.view().map_or(0, |view| view.target.port())
    }

    pub fn client_identity(&self) -> Option<&Identity> {
        self.tls().find_map(|tls| tls.client_identity.as_ref())
    }

    pub fn server_identity(&self) -> Option<&Identity> {
        self.tls().map(|tls| &tls.server_identity).next()
    }

    /// What was settled in the handshake, as one of the ends saw it.
    pub fn handshake(&self) -> Option<&Tls> {
        self.tls().next()
    }

    /// Of the client's certificate, as the server's proxy saw it: its serial number and its end in seconds since 1970.
    pub fn client_certificate(&self) -> Option<(&str, Option<u64>)> {
        peer(self.inbound.as_ref()?.tls()?)
    }

    /// Of the server's certificate, as the client's proxy saw it.
    pub fn server_certificate(&self) -> Option<(&str, Option<u64>)> {
        peer(self.outbound.as_ref()?.tls()?)
    }
}

fn peer(tls: &Tls) -> Option<(&str, Option<u64>)> {
    Some((tls.peer_serial.as_deref()?, tls.peer_expires_at))
}

/// Finds the two views of each connection.
///
/// The ends are joined by the client's socket address and the server's IP: port numbers of the server differ where one end was
/// redirected. Where a client's port has been used again, those opened at the same time belong together.
pub fn join(reports: &[Report], places: &Places) -> Vec<Link> {
    let views = |direction| {
        reports.iter().flat_map(move |report| {
            let seen = report.seen.iter().filter(move |seen| seen.connection.direction == direction);
            seen.map(move |seen| (&report.pod, seen))
        })
    };
    let mut inbound: HashMap<(SocketAddr, IpAddr), Vec<(&Spot, &Seen)>> = HashMap::new();
    for (pod, seen) in views(Direction::Inbound) {
        inbound.entry(key(&seen.connection)).or_default().push((pod, seen));
    }
    let mut links = Vec::new();
    for (pod, seen) in views(Direction::Outbound) {
        let other = inbound.get_mut(&key(&seen.connection)).and_then(|others| {
            let apart = |other: &Seen| other.connection.opened_at.abs_diff(seen.connection.opened_at);
            let candidates = others.iter().enumerate().filter(|(_, (_, other))| {
                is_same_port(&seen.connection, &other.connection) && apart(other) <= OPENED_APART_SECONDS_MAX
            });
            let (at, _) = candidates.min_by_key(|(_, (_, other))| apart(other))?;
            Some(others.swap_remove(at))
        });
        links.push(Link::of_client(pod, seen, other, places));
    }
    links.extend(inbound.into_values().flatten().map(|(pod, seen)| Link::of_server(pod, seen, places)));
    links
}

/// The last instant at which a connection was known to be open.
fn last_open(connection: &Connection) -> u64 {
    connection.closed_at.unwrap_or(connection.opened_at)
}

/// IPv4 addresses that a dual-stack socket saw as IPv6 are the same.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn key(connection: &Connection) -> (SocketAddr, IpAddr) {
    (canonical(connection.client), connection.server.ip().to_canonical())
}

/// Whether two views can be of one connection, going by the server's ports. The client's proxy may know only the one it
/// connected to (the proxy's or the app's); the server's knows both.
fn is_same_port(outbound: &Connection, inbound: &Connection) -> bool {
    let ports = [inbound.server.port(), inbound.target.port()];
    ports.contains(&outbound.server.port())
}

fn judge(outbound: Option<&Seen>, inbound: Option<&Seen>) -> State {
    let (ours, theirs) = match (outbound, inbound) {
        (Some(outbound), Some(inbound)) => (outbound.security(), inbound.security()),
        (Some(one), None) | (None, Some(one)) => return one.security().map_or_else(unknown, alone),
        (None, None) => return unknown("nobody has told of it"),
    };
    let (client, server) = match (ours, theirs) {
        (Ok(client), Ok(server)) => (client, server),
        (Err(told), _) | (_, Err(told)) => return unknown(told),
    };
    match (client, server) {
        (Security::Mutual(client), Security::Mutual(server)) => {
            let differing = difference(client, server);
            if differing.is_empty() { State::Secured } else { State::Disagreement(differing.join(", ")) }
        }
        (Security::ServerOnly(_), Security::ServerOnly(_)) => State::ServerOnly,
        // A client's proxy does not always look into what the app sends.
        (Security::Passthrough { .. }, Security::Passthrough { .. } | Security::Plaintext { .. })
        | (Security::Plaintext { .. }, Security::Passthrough { .. }) => State::Passthrough,
        // The client's proxy chose; the server's only sees that nothing came.
        (Security::Plaintext { reason }, Security::Plaintext { .. }) => State::Plaintext(*reason),
        (client, server) => {
            State::Disagreement(format!("{} for the client, {} for the server", name(client), name(server)))
        }
    }
}

fn unknown(told: &str) -> State {
    State::Unknown(told.to_owned())
}

/// What one end says, of a connection that the other does not tell of.
fn alone(security: &Security) -> State {
    match security {
        Security::Mutual(_) => State::Secured,
        Security::ServerOnly(_) => State::ServerOnly,
        Security::Passthrough { .. } => State::Passthrough,
        Security::Plaintext { reason } => State::Plaintext(*reason),
    }
}

fn name(security: &Security) -> &'static str {
    match security {
        Security::Mutual(_) => "mutual TLS",
        Security::ServerOnly(_) => "TLS without a client certificate",
        Security::Passthrough { .. } => "the app's own TLS",
        Security::Plaintext { .. } => "plaintext",
    }
}

fn difference(client: &Tls, server: &Tls) -> Vec<String> {
    let name = |identity: &Option<Identity>| identity.as_ref().map_or("nobody", Identity::short).to_owned();
    let facts = [
        ("client", name(&client.client_identity), name(&server.client_identity)),
        ("server", client.server_identity.short().to_owned(), server.server_identity.short().to_owned()),
        ("version", client.version.clone(), server.version.clone()),
        ("cipher", client.cipher.clone(), server.cipher.clone()),
        ("group", client.group.clone(), server.group.clone()),
    ];
    let differing = facts.into_iter().filter(|(_, ours, theirs)| ours != theirs);
    differing.map(|(what, ours, theirs)| format!("{what} {ours} or {theirs}")).collect()
}

/// What to make one end of an edge of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grouping {
    Pod,
    Workload,
}

/// All connections of one security state from one workload to a port of another.
#[derive(Clone, Debug)]
pub struct Edge {
    pub client: Place,
    pub server: Place,
    pub port: u16,
    pub state: State,
    /// As measured: whom the certificates named.
    pub client_identity: Option<Identity>,
    pub server_identity: Option<Identity>,
    pub protocols: BTreeSet<String>,
    /// TLS version, cipher and key-exchange group of each.
    pub handshakes: BTreeSet<[String; 3]>,
    /// How many connections were seen by whom.
    pub witnesses: BTreeMap<Witness, usize>,
    pub live: usize,
    pub recent: usize,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub requests: u64,
}

/// Makes edges of links: one for each client, server, port, identities and state, in that order.
pub fn aggregate<'a>(links: impl IntoIterator<Item = &'a Link>, grouping: Grouping) -> Vec<Edge> {
    let mut edges = BTreeMap::new();
    for link in links {
        let (client, server) = (place(&link.client, grouping), place(&link.server, grouping));
        let identities = (link.client_identity().cloned(), link.server_identity().cloned());
        let key = (client.clone(), server.clone(), link.port(), link.state.clone(), identities.clone());
        let edge = edges.entry(key).or_insert_with(|| Edge {
            client,
            server,
            port: link.port(),
            state: link.state.clone(),
            client_identity: identities.0,
            server_identity: identities.1,
            protocols: BTreeSet::new(),
            handshakes: BTreeSet::new(),
            witnesses: BTreeMap::new(),
            live: 0,
            recent: 0,
            bytes_sent: 0,
            bytes_received: 0,
            requests: 0,
        });
        *edge.witnesses.entry(link.witness()).or_default() += 1;
        *(if link.is_live() { &mut edge.live } else { &mut edge.recent }) += 1;
        if let Some(tls) = link.handshake() {
            edge.handshakes.insert([tls.version.clone(), tls.cipher.clone(), tls.group.clone()]);
        }
        if let Some(view) = link.view() {
            edge.protocols.insert(view.protocol.to_string());
            edge.bytes_sent += view.bytes_sent;
            edge.bytes_received += view.bytes_received;
            edge.requests += view.requests;
        }
    }
    edges.into_values().collect()
}

fn place(spot: &Spot, grouping: Grouping) -> Place {
    match (&spot.pod, grouping) {
        (Some(pod), Grouping::Pod) => Place { kind: Kind::Pod, name: pod.clone(), ..spot.place.clone() },
        _ => spot.place.clone(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
