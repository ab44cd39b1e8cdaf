//! One address behind a target, and all that discovery said of it: who must be there, and how to speak to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::Identity;

/// One address that serves a target. Equal endpoints are reached in the same way: connections to one may serve the other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// The server app's own address.
    pub address: SocketAddr,
    pub server: Server,
    pub hint: Hint,
    /// Where its proxy takes connections that begin with a transport header; none for the legacy transparent mode.
    pub header_port: Option<u16>,
    /// The name that a gateway routes by, and its port, for an endpoint in another cluster.
    pub authority_override: Option<(String, u16)>,
    pub http2: Http2Client,
    /// `pod`, `deployment`, `namespace` …
    pub labels: BTreeMap<String, String>,
}

/// Who must prove to be at the other end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Server {
    /// Discovery gave no identity.
    Unmeshed,
    Meshed {
        identity: Identity,
        /// What the client asks for in the handshake (SNI).
        server_name: String,
    },
    /// Discovery gave an identity that this proxy cannot verify, such as a URI. Plaintext would betray it, so it is not reached at all.
    Unverifiable(String),
}

/// What the endpoint's proxy wants to be spoken to with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Hint {
    /// Carries HTTP/1 in HTTP/2.
    Http2,
    Opaque,
    #[default]
    Unknown,
}

/// How to keep an HTTP/2 connection to the endpoint.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Http2Client {
    /// How often to ask a connection whether it is alive, and how long it may take to answer.
    pub keepalive: Option<(Duration, Duration)>,
    pub stream_window: Option<u32>,
    pub connection_window: Option<u32>,
    pub adaptive_window: bool,
}

impl Endpoint {
    /// An address that nothing is known of.
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            server: Server::Unmeshed,
            hint: Hint::Unknown,
            header_port: None,
            authority_override: None,
            http2: Http2Client::default(),
            labels: BTreeMap::new(),
        }
    }
}
