//! What one proxy told of its connections, as this version can read it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::mesh::connection::{Connection, Direction, PlaintextReason, Security, Tls};
use crate::mesh::places::{Places, Spot};

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
    pub(super) connection: Connection,
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

    pub(super) fn security(&self) -> Result<&Security, &str> {
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

/// The last instant at which a connection was known to be open.
pub(super) fn last_open(connection: &Connection) -> u64 {
    connection.closed_at.unwrap_or(connection.opened_at)
}
