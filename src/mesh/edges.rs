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

mod report;
mod state;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

pub use report::{InvalidReport, Report, Seen};
pub use state::State;

use super::Identity;
use super::connection::{Connection, Direction, Tls, canonical};
use super::places::{Kind, Place, Places, Spot};
use report::last_open;
use state::judge;

/// How far apart two ends may say that one connection was opened: clocks differ, and each end notes the time when it knows
/// the protocol. Client ports come around again much later.
const OPENED_APART_SECONDS_MAX: u64 = 60;

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

fn key(connection: &Connection) -> (SocketAddr, IpAddr) {
    (canonical(connection.client), connection.server.ip().to_canonical())
}

/// Whether two views can be of one connection, going by the server's ports. The client's proxy may know only the one it
/// connected to (the proxy's or the app's); the server's knows both.
fn is_same_port(outbound: &Connection, inbound: &Connection) -> bool {
    let ports = [inbound.server.port(), inbound.target.port()];
    ports.contains(&outbound.server.port())
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
