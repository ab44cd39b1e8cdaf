//! Ready by ownership: a task holds a [`BlockReady`]; dropping it is "I am ready". Nobody can forget a flag.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Whether a process is ready: when nothing blocks it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Blockers>>);

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
        let mut blockers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = blockers.next;
        blockers.next += 1;
        blockers.waiting_for.insert(id, what);
        BlockReady { readiness: self.clone(), id }
    }

    pub fn is_ready(&self) -> bool {
        self.waiting_for().is_empty()
    }

    /// What is still being waited for, oldest first.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        let blockers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        blockers.waiting_for.values().copied().collect()
    }
}

impl Drop for BlockReady {
    fn drop(&mut self) {
        let mut blockers = self.readiness.0.lock().unwrap_or_else(PoisonError::into_inner);
        blockers.waiting_for.remove(&self.id);
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
}
