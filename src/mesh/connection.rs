//! What was measured of a connection, by the proxy that carried it.
//!
//! This is the JSON of the proxy's `/connections`, and all that `hawser edges` knows. Only connections over the network are
//! listed: those a proxy accepted from outside its pod (inbound) and those it opened to endpoints (outbound). The hop
//! between a proxy and its own app never leaves the pod.
//!
//! The two ends of one connection are joined by [`Connection::client`] and [`Connection::server`]: both proxies see the same two socket
//! addresses.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Identity, Protocol};

/// The address of a socket, whatever socket saw it: IPv4 addresses that a dual-stack one shows as IPv6 are the same.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Everything one proxy knows of its connections.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Connections {
    /// This proxy's own identity; none until it is certified.
    pub identity: Option<Identity>,
    /// Open now.
    pub live: Vec<Connection>,
    /// Closed lately, the latest first; the oldest are dropped first.
    pub recent: Vec<Connection>,
    /// How many were left out for lack of room, since the proxy started.
    pub dropped: u64,
}

/// One connection between two pods, as seen at one of its ends.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Connection {
    /// Unique in its proxy; later ones are higher.
    pub id: u64,
    pub direction: Direction,
    /// The socket address of the end that opened the connection.
    pub client: SocketAddr,
    /// The socket address of the end that accepted it: between proxies, the inbound port of the server's proxy.
    pub server: SocketAddr,
    /// Where it leads: the server app's own address and port, or a gateway's.
    pub target: SocketAddr,
    /// The name the client's app was going to, when discovery told one, such as `web.shop.svc.cluster.local:80`; inbound, what a client named
    /// to a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    pub protocol: Protocol,
    pub security: Security,
    /// What discovery said of the endpoint (outbound): `pod`, `deployment`, `namespace` …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Seconds since 1970.
    pub opened_at: u64,
    /// Seconds since 1970; none while open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<u64>,
    /// Payload bytes from client to server, before encryption.
    pub bytes_sent: u64,
    /// Payload bytes from server to client, before encryption.
    pub bytes_received: u64,
    /// HTTP requests carried; 0 for opaque.
    pub requests: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Inbound,
    Outbound,
}

/// How a connection is protected, or why it is not.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Security {
    /// TLS ended at both proxies, each having verified the other.
    Mutual(Tls),
    /// TLS ended at the server's proxy, but the client showed no certificate.
    ServerOnly(Tls),
    /// TLS of the app's own, carried as it is: who the peer is, only the app knows.
    Passthrough {
        sni: Option<String>,
    },
    Plaintext {
        reason: PlaintextReason,
    },
}

/// What a handshake settled; the peer's part comes from the peer's certificate.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Tls {
    /// Of the end that opened the connection; none where it showed no certificate.
    pub client_identity: Option<Identity>,
    pub server_identity: Identity,
    /// `TLSv1.3`
    pub version: String,
    /// The suite's name, such as `TLS13_AES_128_GCM_SHA256`.
    pub cipher: String,
    /// The key-exchange group, such as `X25519MLKEM768` (post-quantum) or `X25519`.
    pub group: String,
    /// The serial number of the peer's certificate, in lower-case hex.
    pub peer_serial: Option<String>,
    /// When the peer's certificate ends, in seconds since 1970.
    pub peer_expires_at: Option<u64>,
}

/// Why a connection is plaintext. The names are those of the `no_tls_reason` label, where Linkerd has one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaintextReason {
    /// The client did not speak mesh TLS: it is not meshed, or skips its proxy.
    NoTlsFromRemote,
    /// Discovery gave the endpoint no identity: it is not meshed, or unknown.
    NotProvidedByServiceDiscovery,
    /// The endpoint is in this very pod.
    Loopback,
    /// Policy declares the port opaque, and the client sent no transport header.
    PortSkipped,
}

impl PlaintextReason {
    /// The value of the metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoTlsFromRemote => "no_tls_from_remote",
            Self::NotProvidedByServiceDiscovery => "not_provided_by_service_discovery",
            Self::Loopback => "loopback",
            Self::PortSkipped => "port_skipped",
        }
    }
}

impl Security {
    /// Whether both ends are proven.
    pub fn is_mutual(&self) -> bool {
        matches!(self, Self::Mutual(_))
    }
}
