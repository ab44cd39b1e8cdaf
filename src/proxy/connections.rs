//! The connection table: every connection over the network that this proxy carries, and those it carried lately.
//!
//! In: facts, once a connection is secured and its protocol known ([`Table::open`]). Out: [`Connections`], the JSON of `/connections`
//! that `hawser edges` joins from both ends. What passes between the proxy and its own app is not listed: it stays in the pod.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::mesh::connection::{Connection, Connections, Direction, Security};
use crate::mesh::{Identity, Protocol};
use crate::net::counted::Counts;

/// As many as are listed while open. A pod with more is rare, and each costs half a kilobyte; those past it are carried, and counted as dropped.
const LIVE_MAX: usize = 20_000;
/// Closed ones that are still told about, so that an edge between two looks of `edges` is seen.
const RECENT_MAX: usize = 1_000;

/// All connections of a proxy. Clones are the same table.
#[derive(Clone, Debug, Default)]
pub struct Table(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    live: BTreeMap<u64, Arc<Live>>,
    recent: VecDeque<Connection>,
    dropped: u64,
}

/// What is known of a connection when its protocol is.
#[derive(Clone, Debug)]
pub struct Opened {
    pub direction: Direction,
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub target: SocketAddr,
    pub authority: Option<String>,
    pub protocol: Protocol,
    pub security: Security,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Live {
    opened: Opened,
    opened_at: u64,
    counts: Arc<Counts>,
    requests: AtomicU64,
}

/// One open connection; dropping it closes it in the table.
#[derive(Debug)]
pub struct Entry {
    table: Table,
    id: u64,
    live: Arc<Live>,
}

impl Table {
    /// Lists a connection from now until the entry is dropped.
    pub fn open(&self, opened: Opened) -> Entry {
        let live = Arc::new(Live { opened, opened_at: now(), counts: Arc::default(), requests: AtomicU64::default() });
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        if inner.live.len() < LIVE_MAX {
            inner.live.insert(id, live.clone());
        } else {
            inner.dropped += 1;
        }
        drop(inner);
        Entry { table: self.clone(), id, live }
    }

    /// Everything listed, for a proxy that is `identity`.
    pub fn snapshot(&self, identity: Option<Identity>) -> Connections {
        let inner = self.lock();
        Connections {
            identity,
            live: inner.live.iter().map(|(id, live)| live.connection(*id, None)).collect(),
            recent: inner.recent.iter().cloned().collect(),
            dropped: inner.dropped,
        }
    }

    fn close(&self, id: u64) {
        let mut inner = self.lock();
        let Some(live) = inner.live.remove(&id) else { return };
        if inner.recent.len() == RECENT_MAX {
            inner.recent.pop_back();
        }
        inner.recent.push_front(live.connection(id, Some(now())));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Where to count the bytes of the stream towards the network: [`crate::net::counted::Counted`] does it.
    pub fn counts(&self) -> Arc<Counts> {
        self.live.counts.clone()
    }

    /// Counts one HTTP request.
    pub fn add_request(&self) {
        self.live.requests.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table.close(self.id);
    }
}

impl Live {
    fn connection(&self, id: u64, closed_at: Option<u64>) -> Connection {
        let Opened { direction, client, server, target, authority, protocol, security, labels } = self.opened.clone();
        // The stream is the network's end: of an inbound connection its peer is the client, of an outbound one the server.
        let (bytes_sent, bytes_received) = match direction {
            Direction::Inbound => (self.counts.read(), self.counts.written()),
            Direction::Outbound => (self.counts.written(), self.counts.read()),
        };
        Connection {
            id,
            direction,
            client,
            server,
            target,
            authority,
            protocol,
            security,
            labels,
            opened_at: self.opened_at,
            closed_at,
            bytes_sent,
            bytes_received,
            requests: self.requests.load(Ordering::Relaxed),
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::connection::PlaintextReason;

    fn opened(direction: Direction) -> Opened {
        Opened {
            direction,
            client: "10.0.0.1:4000".parse().unwrap(),
            server: "10.0.0.2:80".parse().unwrap(),
            target: "10.0.0.2:80".parse().unwrap(),
            authority: None,
            protocol: Protocol::Http1,
            security: Security::Plaintext { reason: PlaintextReason::NoTlsFromRemote },
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn a_dropped_entry_is_recent() {
        let table = Table::default();
        let entry = table.open(opened(Direction::Inbound));
        entry.add_request();
        entry.counts().add_read(7);
        assert_eq!(table.snapshot(None).live[0].bytes_sent, 7);
        drop(entry);
        let snapshot = table.snapshot(None);
        assert!(snapshot.live.is_empty());
        assert_eq!((snapshot.recent[0].requests, snapshot.recent[0].closed_at.is_some()), (1, true));
    }

    #[test]
    fn what_an_outbound_stream_reads_is_received() {
        let table = Table::default();
        let entry = table.open(opened(Direction::Outbound));
        entry.counts().add_read(5);
        assert_eq!(table.snapshot(None).live[0].bytes_received, 5);
    }

    #[test]
    fn past_the_bounds_connections_are_dropped_from_the_list_only() {
        let table = Table::default();
        let entries: Vec<Entry> = (0..=LIVE_MAX).map(|_| table.open(opened(Direction::Inbound))).collect();
        let snapshot = table.snapshot(None);
        assert_eq!((snapshot.live.len(), snapshot.dropped), (LIVE_MAX, 1));
        drop(entries);
        let snapshot = table.snapshot(None);
        assert_eq!((snapshot.live.len(), snapshot.recent.len()), (0, RECENT_MAX));
    }
}
