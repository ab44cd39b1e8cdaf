//! The stream of a service's endpoints, for one client.
//!
//! In: views of the index. Out: updates: first all endpoints (or word that there are none), then what changed. Between two updates a
//! client may miss views: it is told the difference to what it was told before, whatever came between.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::stream::{self, Stream};
use tokio::sync::watch;
use tonic::Status;

use crate::control::index::facts::Key;
use crate::control::index::view::{self, Target, Targets, View};
use crate::net::drain::Drain;
use crate::wire::destination::{AddrSet, NoEndpoints, Update, WeightedAddrSet, update};

/// Where a client is, for what depends on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) node: Option<String>,
    pub(super) zone: Option<Arc<str>>,
}

/// What one client has been told of a service.
#[derive(Debug)]
pub(super) struct Told {
    service: Key,
    place: Place,
    /// Whether the service exists; none while nothing has been told.
    exists: Option<bool>,
    targets: Targets,
}

impl Told {
    pub(super) fn nothing(service: Key, place: Place) -> Self {
        Self { service, place, exists: None, targets: Arc::default() }
    }

    /// What the client must be told to know `view`.
    pub(super) fn updates(&mut self, view: &View) -> VecDeque<Update> {
        let targets = view.targets_for(self.place.node.as_deref(), self.place.zone.as_deref());
        let (added, removed) = if Arc::ptr_eq(&self.targets, &view.before) && view.is_for_all() {
            (view.added.clone(), view.removed.clone())
        } else {
            view::changes(&self.targets, &targets)
        };
        let (existed, had_some) = (self.exists, !self.targets.is_empty());
        (self.exists, self.targets) = (Some(view.exists), targets);

        let mut updates = VecDeque::new();
        if !added.is_empty() {
            updates.push_back(self.add(&added));
        }
        if self.targets.is_empty() && (had_some || existed != self.exists) {
            // Says in one word what removing them one by one would, and whether waiting may help.
            updates.push_back(no_endpoints(view.exists));
        } else if !removed.is_empty() {
            updates.push_back(remove(&removed));
        }
        updates
    }

    fn add(&self, targets: &[Arc<Target>]) -> Update {
        let zone = self.place.zone.as_deref();
        Update {
            update: Some(update::Update::Add(WeightedAddrSet {
                addrs: targets.iter().map(|target| target.for_client(zone)).collect(),
                metric_labels: [("service", &self.service.name), ("namespace", &self.service.namespace)]
                    .map(|(name, value)| (name.to_owned(), value.to_string()))
                    .into(),
            })),
        }
    }
}

fn remove(addresses: &[SocketAddr]) -> Update {
    let addrs = addresses.iter().map(|address| (*address).into()).collect();
    Update { update: Some(update::Update::Remove(AddrSet { addrs })) }
}

fn no_endpoints(exists: bool) -> Update {
    Update { update: Some(update::Update::NoEndpoints(NoEndpoints { exists })) }
}

/// The updates of `views` for one client, until the drain.
pub(super) fn updates(
    views: watch::Receiver<Arc<View>>,
    told: Told,
    drain: Drain,
) -> impl Stream<Item = Result<Update, Status>> {
    stream::unfold((views, told, VecDeque::new()), move |(mut views, mut told, mut pending)| {
        let drain = drain.clone();
        async move {
            loop {
                if let Some(update) = pending.pop_front() {
                    return Some((Ok(update), (views, told, pending)));
                }
                if told.exists.is_some() {
                    tokio::select! {
                        changed = views.changed() => changed.ok()?,
                        () = drain.started() => return None,
                    }
                }
                let view = views.borrow_and_update().clone();
                pending = told.updates(&view);
            }
        }
    })
}

#[cfg(test)]
mod tests;
