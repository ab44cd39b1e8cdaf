//! Decides whether a request comes too soon after others.
//!
//! In: who asks, and when. Out: yes, or [`Exceeded`] by which limit. A limit of N lets N requests through at once, and then one each Nth of a
//! second. There is one for all clients, and one for each by its identity; those without one are one client. A request must be within both,
//! and uses up neither where it is not: so a client past its own limit takes nothing from the others.
//!
//! Start at [`RateLimit::admit`].

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Identity;
use super::meta::Meta;

/// Clients that are told apart. Whoever comes when so many are past their first request shares a limit with the others of that kind.
const CLIENTS_MAX: usize = 4096;
/// What a limit is per.
const PERIOD: Duration = Duration::from_secs(1);

/// What the policy says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// The `ratelimit_*` labels; none where nobody said.
    pub meta: Option<Arc<Meta>>,
    /// Requests per second of all clients together.
    pub total: Option<u32>,
    /// Requests per second of each client.
    pub identity: Option<u32>,
    /// Requests per second of these clients, instead.
    pub overrides: BTreeMap<String, u32>,
}

/// Limits, and what has been used of them.
#[derive(Debug)]
pub struct RateLimit {
    pub limits: Limits,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    total: Bucket,
    clients: HashMap<Option<Identity>, Bucket>,
    /// Of clients past [`CLIENTS_MAX`].
    others: Bucket,
}

/// Which limit a request exceeded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exceeded {
    Identity,
    Override,
    Total,
}

impl Exceeded {
    /// As metrics say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Override => "override",
            Self::Total => "total",
        }
    }
}

impl RateLimit {
    pub fn new(limits: Limits) -> Self {
        Self { limits, used: Mutex::default() }
    }

    /// Whether a request of `client` may pass at `now`.
    ///
    /// # Errors
    /// Where it exceeds a limit.
    pub fn admit(&self, client: Option<&Identity>, now: Instant) -> Result<(), Exceeded> {
        let of_client = match client.and_then(|client| self.limits.overrides.get(client.as_str())) {
            Some(limit) => Some((*limit, Exceeded::Override)),
            None => self.limits.identity.map(|limit| (limit, Exceeded::Identity)),
        };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let used = &mut *used;
        let mut taken = None;
        if let Some((limit, exceeded)) = of_client {
            let bucket = bucket(&mut used.clients, &mut used.others, client, now);
            let after = bucket.take(limit, now).ok_or(exceeded)?;
            taken = Some((bucket, after));
        }
        if let Some(limit) = self.limits.total {
            used.total = used.total.take(limit, now).ok_or(Exceeded::Total)?;
        }
        if let Some((bucket, after)) = taken {
            *bucket = after;
        }
        Ok(())
    }
}

fn bucket<'u>(
    clients: &'u mut HashMap<Option<Identity>, Bucket>,
    others: &'u mut Bucket,
    client: Option<&Identity>,
    now: Instant,
) -> &'u mut Bucket {
    if clients.len() >= CLIENTS_MAX {
        // Who has used nothing lately is as good as unknown.
        clients.retain(|_, bucket| !bucket.is_full(now));
    }
    let client = client.cloned();
    if clients.len() >= CLIENTS_MAX && !clients.contains_key(&client) {
        return others;
    }
    clients.entry(client).or_default()
}

/// What has been used of one limit: told by when it will be whole again.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    whole_at: Option<Instant>,
}

impl Bucket {
    /// The bucket after one more request; none if that is one too many.
    fn take(self, limit: u32, now: Instant) -> Option<Self> {
        let each = PERIOD.checked_div(limit)?;
        let whole_at = self.whole_at.map_or(now, |at| at.max(now)) + each;
        (whole_at.duration_since(now) <= PERIOD).then_some(Self { whole_at: Some(whole_at) })
    }

    fn is_full(self, now: Instant) -> bool {
        self.whole_at.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(total: Option<u32>, identity: Option<u32>, overrides: &[(&str, u32)]) -> RateLimit {
        let overrides = overrides.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect();
        RateLimit::new(Limits { meta: None, total, identity, overrides })
    }

    /// How many of a hundred requests at once pass.
    fn pass(limit: &RateLimit, client: Option<&Identity>, now: Instant) -> usize {
        (0..100).filter(|_| limit.admit(client, now).is_ok()).count()
    }

    #[test]
    fn lets_as_many_through_at_once_as_in_a_second_and_then_one_at_a_time() {
        let (limit, start) = (limited(Some(10), None, &[]), Instant::now());
        assert_eq!(pass(&limit, None, start), 10);
        assert_eq!(limit.admit(None, start + Duration::from_millis(99)), Err(Exceeded::Total));
        assert_eq!(pass(&limit, None, start + Duration::from_millis(100)), 1);
        assert_eq!(pass(&limit, None, start + Duration::from_millis(600)), 5);
        assert_eq!(pass(&limit, None, start + Duration::from_secs(3600)), 10, "nothing is saved up beyond that");
    }

    #[test]
    fn each_client_has_its_own_limit_and_those_without_identity_share_one() {
        let (limit, now) = (limited(None, Some(3), &[("batch.shop", 7), ("banned.shop", 0)]), Instant::now());
        let [web, batch, banned]: [Identity; 3] =
            ["web.shop", "batch.shop", "banned.shop"].map(|name| name.parse().unwrap());
        assert_eq!(pass(&limit, Some(&web), now), 3);
        assert_eq!(limit.admit(Some(&web), now), Err(Exceeded::Identity));
        assert_eq!(pass(&limit, Some(&batch), now), 7);
        assert_eq!(limit.admit(Some(&batch), now), Err(Exceeded::Override));
        assert_eq!(pass(&limit, Some(&banned), now), 0, "a limit of nothing is nothing");
        assert_eq!(pass(&limit, None, now), 3);
    }

    #[test]
    fn a_client_past_its_limit_takes_nothing_from_the_others() {
        let (limit, now) = (limited(Some(10), Some(4), &[]), Instant::now());
        let [greedy, modest]: [Identity; 2] = ["greedy.shop", "modest.shop"].map(|name| name.parse().unwrap());
        assert_eq!(pass(&limit, Some(&greedy), now), 4);
        assert_eq!(pass(&limit, Some(&modest), now), 4);
        assert_eq!(pass(&limit, None, now), 2, "what all together have left");
        // What the total refused was not counted against the client.
        assert_eq!(pass(&limit, None, now + PERIOD), 4);
    }

    #[test]
    fn clients_without_end_take_no_memory_without_end() {
        let (limit, now) = (limited(None, Some(1), &[]), Instant::now());
        let name = |number: usize| format!("w{number}.shop").parse::<Identity>().unwrap();
        for number in 0..CLIENTS_MAX {
            assert!(limit.admit(Some(&name(number)), now).is_ok());
        }
        let late: Vec<bool> =
            (0..3).map(|number| limit.admit(Some(&name(CLIENTS_MAX + number)), now).is_ok()).collect();
        assert_eq!(late, [true, false, false], "they share a limit");
        assert_eq!(limit.used.lock().unwrap().clients.len(), CLIENTS_MAX);
        assert!(limit.admit(Some(&name(CLIENTS_MAX)), now + PERIOD).is_ok());
        assert_eq!(limit.used.lock().unwrap().clients.len(), 1, "who was idle for a period is forgotten");
    }

    #[test]
    fn without_limits_everything_passes() {
        assert_eq!(pass(&limited(None, None, &[]), None, Instant::now()), 100);
    }
}
