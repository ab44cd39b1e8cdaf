//! Places for connections whose other end has not proven anything yet.
//!
//! In: a connection that was just accepted. Out: a place for it, which it may lose. There are few places, for what one that proves nothing
//! costs should not depend on how many there are. When all are taken, the one that has been there longest has to go: a handshake
//! takes milliseconds, so that who is in earnest is among the latest, and finds a place however many others come.
//!
//! Start at [`Newcomers::enter`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// All places. Clones are the same.
#[derive(Clone, Debug)]
pub struct Newcomers {
    places_max: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// In the order in which they came; dropping one tells its owner.
    places: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub struct Newcomer {
    number: u64,
    lost: oneshot::Receiver<()>,
    taken: Arc<Mutex<Taken>>,
}

impl Newcomers {
    pub fn new(places_max: usize) -> Self {
        Self { places_max, taken: Arc::default() }
    }

    /// Takes a place, from whoever has been there longest if need be.
    pub fn enter(&self) -> Newcomer {
        let (tell, lost) = oneshot::channel();
        let mut taken = lock(&self.taken);
        while taken.places.len() >= self.places_max {
            taken.places.pop_first();
        }
        let number = taken.next;
        taken.next += 1;
        taken.places.insert(number, tell);
        Newcomer { number, lost, taken: self.taken.clone() }
    }
}

impl Newcomer {
    /// Resolves when the place goes to another.
    pub async fn lost(&mut self) {
        // Nothing is ever sent.
        let _dropped = (&mut self.lost).await;
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        lock(&self.taken).places.remove(&self.number);
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_one_that_has_been_there_longest_goes_when_all_places_are_taken() {
        let newcomers = Newcomers::new(2);
        let (mut first, mut second) = (newcomers.enter(), newcomers.enter());
        assert_eq!(first.lost().now_or_never(), None);
        let mut third = newcomers.enter();
        assert_eq!(first.lost().now_or_never(), Some(()));
        assert_eq!((second.lost().now_or_never(), third.lost().now_or_never()), (None, None));
    }

    #[test]
    fn nobody_goes_where_somebody_has_left() {
        let newcomers = Newcomers::new(2);
        let mut first = newcomers.enter();
        for _ in 0..10 {
            drop(newcomers.enter());
        }
        assert_eq!(first.lost().now_or_never(), None);
    }
}
