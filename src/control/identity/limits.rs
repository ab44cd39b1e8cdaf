//! Who asks too often, and how much may be under way: so that one pod that asks in a loop is slowed, and the others are not.
//!
//! ```text
//!   request ──> places: of all, of its source ──> rate of its source ──> (its body is read, and looked at)
//!           ──> rate of its token ──> review ──> rate of the identity it proved ──> signed
//! ```
//!
//! In: who asks, and when. Out: a [`Place`] to be held meanwhile, or [`TooMuch`]. What nobody has proved yet (a name in a request) is never counted
//! against whom it names. Whatever is remembered has a bound; past it, those who come new share one count.
//!
//! Start at [`Limits::enter`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::mesh::Identity;

/// Requests under way, most of which wait for the API server: each may hold what a request may have, so this bounds memory.
const PLACES_MAX: usize = 1024;
/// Of those, the requests of one source: a node whose pods come from one address, and all start at once.
const PLACES_OF_SOURCE_MAX: usize = 64;
/// Streams of the bundle, one for each proxy of the cluster, and of those the streams of one source.
const STREAMS_MAX: usize = 100_000;
const STREAMS_OF_SOURCE_MAX: usize = 512;
/// A pod asks once a day. A source may be a whole node that starts, behind one address.
const SOURCE: Rate = Rate { burst: 300, each: Duration::from_millis(50) };
/// What a token that proves nothing costs its source: the API server was asked for nothing.
const REFUSED_COST: u32 = 10;
/// A token belongs to one pod. Its proxy may be restarted a few times in a row, and under an issuer that is about to end it asks each second.
const TOKEN: Rate = Rate { burst: 10, each: Duration::from_secs(1) };
/// A service account is shared by the pods of a workload, all of which may start at once.
const IDENTITY: Rate = Rate { burst: 2_000, each: Duration::from_millis(10) };
/// Sources, tokens and identities that are told apart: some megabytes of them.
const KEYS_MAX: usize = 50_000;
/// How often what is remembered in vain is looked for, once there is no room: looking costs a millisecond.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// A source of requests: the address of a pod, as far as can be told.
pub type Source = IpAddr;

/// Why a request is refused for now.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TooMuch {
    #[error("too many requests for certificates are under way; ask again later")]
    UnderWay,
    #[error("too many requests from this address are under way; ask again later")]
    UnderWayOfSource,
    #[error("too many requests come from this address; ask again later")]
    Source,
    #[error("too many certificates have been asked for with this token; ask again later")]
    Token,
    #[error("too many certificates have been asked for by this service account; ask again later")]
    Identity,
    #[error("the API server has too many tokens to review; ask again later")]
    Reviews,
}

impl TooMuch {
    /// As metrics say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnderWay => "under_way",
            Self::UnderWayOfSource => "under_way_of_source",
            Self::Source => "source",
            Self::Token => "token",
            Self::Identity => "identity",
            Self::Reviews => "reviews",
        }
    }
}

/// All limits of the identity role.
#[derive(Debug)]
pub struct Limits {
    requests: Places,
    streams: Places,
    sources: Rates<Source>,
    tokens: Rates<[u8; 16]>,
    identities: Rates<Identity>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests: Places::new(PLACES_MAX, PLACES_OF_SOURCE_MAX),
            streams: Places::new(STREAMS_MAX, STREAMS_OF_SOURCE_MAX),
            sources: Rates::new(SOURCE),
            tokens: Rates::new(TOKEN),
            identities: Rates::new(IDENTITY),
        }
    }
}

impl Limits {
    /// A place for a request of `source`, before a byte of its body is read.
    ///
    /// # Errors
    /// Where there is none, or the source asks too often.
    pub fn enter(&self, source: Source, now: Instant) -> Result<Place, TooMuch> {
        let place = self.requests.enter(source)?;
        self.sources.take(source, 1, now).then_some(place).ok_or(TooMuch::Source)
    }

    /// A place for a stream of the bundle.
    ///
    /// # Errors
    /// Where there is none, or the source asks too often.
    pub fn subscribe(&self, source: Source, now: Instant) -> Result<Place, TooMuch> {
        let place = self.streams.enter(source)?;
        self.sources.take(source, 1, now).then_some(place).ok_or(TooMuch::Source)
    }

    /// Counts the use of a token, whosever it is.
    ///
    /// # Errors
    /// Where it was used too often.
    pub fn token(&self, token: &[u8], now: Instant) -> Result<(), TooMuch> {
        // Not the token itself: this is remembered, and a memory can be read.
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token);
        let mut key = [0; 16];
        key.copy_from_slice(&digest.as_ref()[..16]);
        self.tokens.take(key, 1, now).then_some(()).ok_or(TooMuch::Token)
    }

    /// Counts that the API server was asked about a token that proved nothing.
    pub fn refused(&self, source: Source, now: Instant) {
        self.sources.take(source, REFUSED_COST, now);
    }

    /// Counts a certificate for an identity that has been proved.
    ///
    /// # Errors
    /// Where it asks too often.
    pub fn identity(&self, identity: &Identity, now: Instant) -> Result<(), TooMuch> {
        self.identities.take(identity.clone(), 1, now).then_some(()).ok_or(TooMuch::Identity)
    }
}

/// How often something may be: some at once, and then one each so long.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u32,
    each: Duration,
}

/// A rate for each of many.
#[derive(Debug)]
struct Rates<K> {
    rate: Rate,
    used: Mutex<Used<K>>,
}

#[derive(Debug)]
struct Used<K> {
    /// By when each will have its whole burst again.
    whole_at: HashMap<K, Instant>,
    /// Of those for whom there was no room.
    others: Option<Instant>,
    swept_at: Option<Instant>,
}

impl<K: Eq + Hash> Rates<K> {
    fn new(rate: Rate) -> Self {
        Self { rate, used: Mutex::new(Used { whole_at: HashMap::new(), others: None, swept_at: None }) }
    }

    /// Uses up `cost` of what `key` may; what is refused uses up nothing, so that asking in vain makes no wait longer.
    fn take(&self, key: K, cost: u32, now: Instant) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let Used { whole_at, others, swept_at } = &mut *used;
        if whole_at.len() >= KEYS_MAX && swept_at.is_none_or(|at| now.duration_since(at) >= SWEEP_PAUSE) {
            *swept_at = Some(now);
            whole_at.retain(|_, at| *at > now);
        }
        let has_room = whole_at.len() < KEYS_MAX;
        let whole_at = match whole_at.entry(key) {
            Entry::Occupied(of_key) => of_key.into_mut(),
            Entry::Vacant(of_key) if has_room => of_key.insert(now),
            Entry::Vacant(_) => others.get_or_insert(now),
        };
        let after = (*whole_at).max(now) + self.rate.each * cost;
        if after.duration_since(now) > self.rate.each * self.rate.burst {
            return false;
        }
        *whole_at = after;
        true
    }
}

/// What many may do at once.
#[derive(Debug)]
struct Places {
    all: Arc<Semaphore>,
    of_source_max: usize,
    of_sources: Arc<Mutex<HashMap<Source, usize>>>,
}

/// One of the requests or streams under way, until it is dropped.
#[derive(Debug)]
pub struct Place {
    source: Source,
    of_sources: Arc<Mutex<HashMap<Source, usize>>>,
    _of_all: OwnedSemaphorePermit,
}

impl Places {
    fn new(max: usize, of_source_max: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(max)), of_source_max, of_sources: Arc::default() }
    }

    fn enter(&self, source: Source) -> Result<Place, TooMuch> {
        let of_all = self.all.clone().try_acquire_owned().map_err(|_| TooMuch::UnderWay)?;
        let mut of_sources = self.of_sources.lock().unwrap_or_else(PoisonError::into_inner);
        let held = of_sources.entry(source).or_default();
        if *held >= self.of_source_max {
            return Err(TooMuch::UnderWayOfSource);
        }
        *held += 1;
        Ok(Place { source, of_sources: self.of_sources.clone(), _of_all: of_all })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of_sources = self.of_sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = of_sources.get_mut(&self.source) {
            *held -= 1;
            if *held == 0 {
                of_sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn source(n: u32) -> Source {
        Ipv4Addr::from_bits(0x0a00_0000 | n).into()
    }

    #[test]
    fn a_token_that_is_used_in_a_loop_is_slowed_and_others_are_not() {
        let (limits, began) = (Limits::default(), Instant::now());
        let passed = (0..100).filter(|_| limits.token(b"loops", began).is_ok()).count();
        assert_eq!(passed, TOKEN.burst as usize);
        assert_eq!(limits.token(b"loops", began), Err(TooMuch::Token));
        assert_eq!(limits.token(b"another", began), Ok(()));
        // Asking in vain has made the wait no longer.
        let later = began + TOKEN.each;
        assert_eq!((limits.token(b"loops", later), limits.token(b"loops", later)), (Ok(()), Err(TooMuch::Token)));
        let much_later = began + TOKEN.each * 1000;
        assert_eq!((0..100).filter(|_| limits.token(b"loops", much_later).is_ok()).count(), TOKEN.burst as usize);
    }

    #[test]
    fn tokens_that_prove_nothing_cost_their_source_more() {
        let (limits, now) = (Limits::default(), Instant::now());
        for _ in 0..SOURCE.burst / (REFUSED_COST + 1) {
            assert!(limits.enter(source(1), now).is_ok());
            limits.refused(source(1), now);
        }
        assert!((0..REFUSED_COST).any(|_| limits.enter(source(1), now).err() == Some(TooMuch::Source)));
        assert!(limits.enter(source(2), now).is_ok());
    }

    #[test]
    fn an_identity_may_have_as_many_pods_as_start_at_once_but_not_without_end() {
        let (limits, now) = (Limits::default(), Instant::now());
        let identity = |name: &str| Identity::of_service_account(name, "shop", "hawser", "cluster.local").unwrap();
        let passed = (0..10_000).filter(|_| limits.identity(&identity("web"), now).is_ok()).count();
        assert_eq!(passed, IDENTITY.burst as usize);
        assert_eq!(limits.identity(&identity("cart"), now), Ok(()));
    }

    #[test]
    fn one_source_cannot_take_all_places_and_gives_them_back() {
        let places = Places::new(10, 4);
        let held: Vec<Place> = (0..4).map(|_| places.enter(source(1)).unwrap()).collect();
        assert_eq!(places.enter(source(1)).unwrap_err(), TooMuch::UnderWayOfSource);
        let others: Vec<Place> = (2..8).map(|n| places.enter(source(n)).unwrap()).collect();
        assert_eq!(places.enter(source(9)).unwrap_err(), TooMuch::UnderWay);
        drop((held, others));
        assert!(places.of_sources.lock().unwrap().is_empty(), "remembers those who have left");
        assert!(places.enter(source(1)).is_ok());
    }

    #[test]
    fn what_is_remembered_has_a_bound_and_whoever_comes_past_it_shares_one_count() {
        let (rates, began) = (Rates::new(Rate { burst: 2, each: Duration::from_secs(1) }), Instant::now());
        for n in 0..KEYS_MAX {
            assert!(rates.take(n, 1, began));
        }
        let of_new = (KEYS_MAX..KEYS_MAX + 100).filter(|n| rates.take(*n, 1, began)).count();
        assert_eq!((of_new, rates.used.lock().unwrap().whole_at.len()), (2, KEYS_MAX));
        assert!(rates.take(0, 1, began), "who was known before has its own");
        let later = began + Duration::from_secs(3);
        assert!(rates.take(KEYS_MAX + 100, 1, later));
        assert_eq!(rates.used.lock().unwrap().whole_at.len(), 1, "and room is made of those who are quiet");
    }
}
