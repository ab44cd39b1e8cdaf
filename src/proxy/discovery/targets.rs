//! The targets that are known, by what they are known by, until nobody has used them for a while.
//!
//! Each is streams of the control plane, so there is a bound to them. Past it, the one that has been idle for longest makes room;
//! where all are in use, there is none.
//!
//! Start at [`Targets::find`].

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::{Error, Target, lock};
use crate::mesh::Name;
use crate::proxy::metrics::Labels;

/// What a target is known by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// Where the app connected to.
    Address(SocketAddr),
    /// What a request, or a client of a gateway, chose.
    Name(Name),
}

impl Place {
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Name(name) => name.port(),
        }
    }

    /// The labels of what goes wrong on the way there.
    pub fn labels(&self) -> Labels {
        match self {
            Self::Address(address) => Labels::target(*address),
            Self::Name(name) => {
                Labels::new([("target_name", name.host().to_owned()), ("target_port", name.port().to_string())])
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// Targets by address, or by name.
pub(super) struct Targets<K> {
    max: usize,
    known: Mutex<HashMap<K, Known>>,
}

struct Known {
    target: Arc<Target>,
    /// Since when nobody has held it, as noticed by the sweep.
    idle_since: Option<Instant>,
}

impl<K: Clone + Eq + Hash> Targets<K> {
    /// At most so many.
    pub(super) fn new(max: usize) -> Self {
        Self { max, known: Mutex::default() }
    }

    /// The target of this key, which `learn` begins to learn about if it is not known.
    pub(super) fn find(&self, key: &K, learn: impl FnOnce() -> Arc<Target>) -> Result<Arc<Target>, Error> {
        let mut known = lock(&self.known);
        if let Some(known) = known.get_mut(key) {
            known.idle_since = None;
            return Ok(known.target.clone());
        }
        let mut forgotten = None;
        if known.len() >= self.max {
            let idle = known.iter().filter(|(_, known)| !known.is_held());
            let longest = idle.min_by_key(|(_, known)| known.idle_since.map_or((1, None), |since| (0, Some(since))));
            let longest = longest.map(|(key, _)| key.clone()).ok_or(Error::TooMany { max: self.max })?;
            forgotten = known.remove(&longest);
        }
        let target = learn();
        known.insert(key.clone(), Known { target: target.clone(), idle_since: None });
        drop(known);
        drop(forgotten);
        Ok(target)
    }

    /// Forgets what nobody has used for `idle_timeout`.
    pub(super) fn sweep(&self, now: Instant, idle_timeout: Duration) {
        // Dropped without the lock.
        let mut forgotten = Vec::new();
        lock(&self.known).retain(|_, known| {
            // With the control plane away, what is forgotten could not be learnt again.
            let mut interrupted = known.target.state.interrupted.load(Ordering::Relaxed);
            if let Some(plan) = &*known.target.state.plan.borrow() {
                for backend in &plan.backends {
                    backend.sweep();
                    interrupted += backend.interrupted.load(Ordering::Relaxed);
                }
            }
            if known.is_held() {
                known.idle_since = None;
                return true;
            }
            let idle_since = *known.idle_since.get_or_insert(now);
            let is_forgotten = interrupted == 0 && now.duration_since(idle_since) >= idle_timeout;
            if is_forgotten {
                forgotten.push(known.target.clone());
            }
            !is_forgotten
        });
    }

    pub(super) fn clear(&self) {
        let forgotten = std::mem::take(&mut *lock(&self.known));
        drop(forgotten);
    }
}

impl Known {
    fn is_held(&self) -> bool {
        Arc::strong_count(&self.target) > 1
    }
}
