//! What `Destination.Get` has said so far: the set of endpoints of one authority.
//!
//! In: updates, and the news that a stream was lost. Out: what changed. A lost stream changes nothing: endpoints stay until a new
//! stream says otherwise, and its first `add` is the whole set anew.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::wire;
use crate::mesh::Endpoint;
use crate::wire::destination::{Update, update};

/// As many endpoints as one authority may have: what the control plane sends is held in memory.
const ENDPOINTS_MAX: usize = 20_000;

/// The endpoints of one authority, as far as told.
#[derive(Debug, Default)]
pub struct Endpoints {
    known: BTreeMap<SocketAddr, Endpoint>,
    /// Whether the next `add` is the whole set: it is the first of a new stream.
    is_anew: bool,
    /// Whether anything has been told yet.
    is_told: bool,
    updates: Updates,
}

/// How many messages there were of each kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Updates {
    /// Those that said the whole set: the first of a stream, and that there are no endpoints.
    pub resets: u64,
    pub adds: u64,
    pub removes: u64,
}

/// What an update changed. Endpoints that were said again as they are do not appear.
#[derive(Debug, Default, PartialEq)]
pub struct Change {
    /// New, or different from before.
    pub set: Vec<Endpoint>,
    pub removed: Vec<SocketAddr>,
}

impl Endpoints {
    /// Notes that the stream ended, and the next update will be of a new one.
    pub fn lost(&mut self) {
        self.is_anew = true;
    }

    /// Whether anything has been told, be it that there are none.
    pub fn is_told(&self) -> bool {
        self.is_told
    }

    /// What has been told so far.
    pub fn updates(&self) -> Updates {
        self.updates
    }

    pub fn apply(&mut self, update: Update) -> Change {
        let Some(update) = update.update else { return Change::default() };
        let is_anew = std::mem::take(&mut self.is_anew);
        self.is_told = true;
        let updates = &mut self.updates;
        let counted = match &update {
            update::Update::Add(_) if !is_anew => &mut updates.adds,
            update::Update::Add(_) | update::Update::NoEndpoints(_) => &mut updates.resets,
            update::Update::Remove(_) => &mut updates.removes,
        };
        *counted += 1;
        match update {
            update::Update::Add(set) => {
                let said = set.addrs.into_iter().filter_map(|address| wire::endpoint(address, &set.metric_labels));
                let said: Vec<Endpoint> = said.collect();
                let mut change = Change::default();
                if is_anew {
                    let gone: Vec<SocketAddr> = self
                        .known
                        .keys()
                        .copied()
                        .filter(|address| said.iter().all(|endpoint| endpoint.address != *address))
                        .collect();
                    change.removed = self.remove(gone);
                }
                for endpoint in said {
                    self.set(endpoint, &mut change);
                }
                change
            }
            update::Update::Remove(set) => {
                let addresses = set.addrs.into_iter().filter_map(wire::socket_address).collect();
                Change { removed: self.remove(addresses), ..Change::default() }
            }
            update::Update::NoEndpoints(_) => {
                Change { removed: std::mem::take(&mut self.known).into_keys().collect(), ..Change::default() }
            }
        }
    }

    fn set(&mut self, endpoint: Endpoint, change: &mut Change) {
        let is_known = self.known.contains_key(&endpoint.address);
        if !is_known && self.known.len() >= ENDPOINTS_MAX {
            tracing::warn!(address = %endpoint.address, "leaving out an endpoint: there are too many");
            return;
        }
        if self.known.get(&endpoint.address) != Some(&endpoint) {
            self.known.insert(endpoint.address, endpoint.clone());
            change.set.push(endpoint);
        }
    }

    /// Says which of `addresses` were known.
    fn remove(&mut self, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        addresses.into_iter().filter(|address| self.known.remove(address).is_some()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::destination::{AddrSet, NoEndpoints, WeightedAddr, WeightedAddrSet};
    use crate::wire::net::TcpAddress;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn add(lasts: &[u8]) -> Update {
        let addrs =
            lasts.iter().map(|last| WeightedAddr { addr: Some(address(*last).into()), ..WeightedAddr::default() });
        Update {
            update: Some(update::Update::Add(WeightedAddrSet { addrs: addrs.collect(), ..WeightedAddrSet::default() })),
        }
    }

    fn remove(lasts: &[u8]) -> Update {
        let addrs = lasts.iter().map(|last| TcpAddress::from(address(*last))).collect();
        Update { update: Some(update::Update::Remove(AddrSet { addrs })) }
    }

    fn no_endpoints(exists: bool) -> Update {
        Update { update: Some(update::Update::NoEndpoints(NoEndpoints { exists })) }
    }

    fn set(change: &Change) -> Vec<SocketAddr> {
        change.set.iter().map(|endpoint| endpoint.address).collect()
    }

    #[test]
    fn adds_merge_and_removes_take_away() {
        let mut endpoints = Endpoints::default();
        assert_eq!(set(&endpoints.apply(add(&[1, 2]))), [address(1), address(2)]);
        assert_eq!(set(&endpoints.apply(add(&[2, 3]))), [address(3)], "2 was said again as it is");
        assert_eq!(endpoints.apply(remove(&[1, 9])).removed, [address(1)], "9 was never known");
        assert_eq!(endpoints.known.len(), 2);
    }

    #[test]
    fn an_endpoint_that_changed_is_set_again() {
        let mut endpoints = Endpoints::default();
        endpoints.apply(add(&[1]));
        let mut update = add(&[1]);
        if let Some(update::Update::Add(set)) = &mut update.update {
            set.metric_labels.insert("service".into(), "web".into());
        }
        assert_eq!(set(&endpoints.apply(update)), [address(1)]);
    }

    #[test]
    fn a_lost_stream_changes_nothing_and_the_next_add_is_the_whole_set() {
        let mut endpoints = Endpoints::default();
        endpoints.apply(add(&[1, 2]));
        endpoints.lost();
        assert_eq!(endpoints.known.len(), 2);
        let change = endpoints.apply(add(&[2, 3]));
        assert_eq!((set(&change), change.removed), (vec![address(3)], vec![address(1)]));
        assert_eq!(set(&endpoints.apply(add(&[4]))), [address(4)], "only the first is the whole set");
        assert_eq!(endpoints.known.len(), 3);
    }

    #[test]
    fn no_endpoints_empties_the_set_whether_or_not_the_service_exists() {
        for exists in [true, false] {
            let mut endpoints = Endpoints::default();
            assert!(!endpoints.is_told());
            endpoints.apply(add(&[1]));
            assert_eq!(endpoints.apply(no_endpoints(exists)).removed, [address(1)]);
            assert!(endpoints.is_told());
        }
    }

    #[test]
    fn messages_are_counted_by_what_they_say_and_those_that_say_nothing_are_not() {
        let mut endpoints = Endpoints::default();
        endpoints.lost();
        for update in [add(&[1]), add(&[2]), remove(&[2]), no_endpoints(true), Update::default()] {
            endpoints.apply(update);
        }
        assert_eq!(endpoints.updates(), Updates { resets: 2, adds: 1, removes: 1 });
    }

    #[test]
    fn an_add_without_addresses_is_ignored() {
        let mut endpoints = Endpoints::default();
        let update = Update {
            update: Some(update::Update::Add(WeightedAddrSet {
                addrs: vec![WeightedAddr::default()],
                ..WeightedAddrSet::default()
            })),
        };
        assert_eq!(endpoints.apply(update), Change::default());
    }
}
