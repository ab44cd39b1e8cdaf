//! Ready by ownership: a task holds a [`BlockReady`]; dropping it is "I am ready". Nobody can forget a flag.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Whether a process is ready: when nothing blocks it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    blockers: Mutex<Blockers>,
    /// Cancelled once nothing has blocked for the first time.
    started: CancellationToken,
}

#[derive(Debug, Default)]
struct Blockers {
    next: u64,
    waiting_for: BTreeMap<u64, &'static str>,
}

/// Keeps the process from being ready until dropped.
#[must_use = "dropping it means ready"]
#[derive(Debug)]
pub struct BlockReady {
    readiness: Readiness,
    id: u64,
}

impl Readiness {
    /// Holds readiness back for `what`, a few words for logs and `/ready`: "the first certificate".
    pub fn block(&self, what: &'static str) -> BlockReady {
        let mut blockers = self.0.blockers();
        let id = blockers.next;
        blockers.next += 1;
        blockers.waiting_for.insert(id, what);
        BlockReady { readiness: self.clone(), id }
    }

    pub fn is_ready(&self) -> bool {
        self.0.blockers().waiting_for.is_empty()
    }

    /// What is still being waited for, oldest first.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.0.blockers().waiting_for.values().copied().collect()
    }

    /// Resolves once the process has been ready, whatever has become of it since; never, if nothing ever blocked it.
    pub async fn started(&self) {
        self.0.started.cancelled().await;
    }
}

impl Shared {
    fn blockers(&self) -> MutexGuard<'_, Blockers> {
        self.blockers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BlockReady {
    fn drop(&mut self) {
        let mut blockers = self.readiness.0.blockers();
        blockers.waiting_for.remove(&self.id);
        if blockers.waiting_for.is_empty() {
            self.readiness.0.started.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_once_the_last_blocker_is_dropped() {
        let readiness = Readiness::default();
        let certificate = readiness.block("the first certificate");
        let caches = readiness.block("the caches");
        drop(certificate);
        assert_eq!(readiness.waiting_for(), ["the caches"]);
        drop(caches);
        assert!(readiness.is_ready());
    }

    #[tokio::test]
    async fn has_started_once_it_was_ready_and_stays_so() {
        let readiness = Readiness::default();
        let certificate = readiness.block("the first certificate");
        assert!(tokio::time::timeout(std::time::Duration::ZERO, readiness.started()).await.is_err());
        drop(certificate);
        let _drain = readiness.block("the drain");
        readiness.started().await;
        assert!(!readiness.is_ready());
    }
}
