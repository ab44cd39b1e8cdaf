//! Decides which of several endpoints takes the next request or connection.
//!
//! In: endpoints, the latency each has shown, and `now`. Out: one of them.
//! Of two endpoints picked at random the less loaded one is taken (power of two choices), load being the peak-sensitive
//! moving average of its latency times what is in flight to it. So a slow endpoint sheds work within one response, and no
//! endpoint is swamped because it looks best to everybody at once.
//! An endpoint that could not be reached is out at once, until it has been reached again.
//!
//! Start at [`Balancer::pick`].

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt as _};

/// How latency is averaged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ewma {
    /// What an endpoint is believed to take before it has been seen: a guess that neither shuns nor swamps newcomers.
    pub default_rtt: Duration,
    /// How fast the past is forgotten.
    pub decay: Duration,
}

impl Default for Ewma {
    fn default() -> Self {
        Self { default_rtt: Duration::from_millis(30), decay: Duration::from_secs(10) }
    }
}

/// Endpoints with their loads. `T` is what reaches an endpoint.
#[derive(Debug)]
pub struct Balancer<T> {
    ewma: Ewma,
    members: Vec<Member<T>>,
}

#[derive(Debug)]
struct Member<T> {
    address: SocketAddr,
    item: Arc<T>,
    load: Arc<Mutex<Load>>,
    /// Whether it can be reached, as far as known.
    is_in: bool,
}

/// What an endpoint is doing, and how quickly it has been answering.
#[derive(Debug)]
struct Load {
    rtt_seconds: f64,
    observed_at: Instant,
    in_flight: u32,
}

/// The endpoint that was picked; counts as load on it until dropped.
#[derive(Debug)]
pub struct Pick<T> {
    pub address: SocketAddr,
    pub item: Arc<T>,
    load: Arc<Mutex<Load>>,
    decay: Duration,
}

impl<T> Balancer<T> {
    pub fn new(ewma: Ewma) -> Self {
        Self { ewma, members: Vec::new() }
    }

    /// Adds an endpoint, or puts `item` in the place of what reached it before; either way it is in.
    pub fn set(&mut self, address: SocketAddr, item: Arc<T>, now: Instant) {
        let rtt_seconds = self.ewma.default_rtt.as_secs_f64();
        let load = Arc::new(Mutex::new(Load { rtt_seconds, observed_at: now, in_flight: 0 }));
        let member = Member { address, item, load, is_in: true };
        match self.members.iter_mut().find(|member| member.address == address) {
            Some(old) => *old = member,
            None => self.members.push(member),
        }
    }

    pub fn remove(&mut self, address: SocketAddr) {
        self.members.retain(|member| member.address != address);
    }

    /// Takes the endpoint out; says whether it was in. Nothing happens where `item` is no longer what reaches it.
    pub fn take_out(&mut self, address: SocketAddr, item: &Arc<T>) -> bool {
        self.member(address, item).is_some_and(|member| std::mem::take(&mut member.is_in))
    }

    /// Puts the endpoint back in.
    pub fn put_in(&mut self, address: SocketAddr, item: &Arc<T>) {
        if let Some(member) = self.member(address, item) {
            member.is_in = true;
        }
    }

    fn member(&mut self, address: SocketAddr, item: &Arc<T>) -> Option<&mut Member<T>> {
        self.members.iter_mut().find(|member| member.address == address && Arc::ptr_eq(&member.item, item))
    }

    /// Picks among the endpoints that are in and not in `tried`; none where there is no such endpoint.
    pub fn pick(&self, tried: &[SocketAddr], now: Instant, random: &mut impl Rng) -> Option<Pick<T>> {
        let usable = |member: &Member<T>| member.is_in && !tried.contains(&member.address);
        let (one, other) = self.two(random, usable)?;
        let member = if other.cost(self.ewma.decay, now) < one.cost(self.ewma.decay, now) { other } else { one };
        lock(&member.load).in_flight += 1;
        Some(Pick {
            address: member.address,
            item: member.item.clone(),
            load: member.load.clone(),
            decay: self.ewma.decay,
        })
    }

    /// Two usable members, distinct where there are two.
    fn two(&self, random: &mut impl Rng, usable: impl Fn(&Member<T>) -> bool) -> Option<(&Member<T>, &Member<T>)> {
        // Nearly always all are usable, and the first draw is good.
        if let [_, _, ..] = *self.members {
            let (one, other) = draw_two(self.members.len(), random);
            let (one, other) = (&self.members[one], &self.members[other]);
            if usable(one) && usable(other) {
                return Some((one, other));
            }
        }
        let members: Vec<&Member<T>> = self.members.iter().filter(|member| usable(member)).collect();
        match *members {
            [] => None,
            [only] => Some((only, only)),
            _ => {
                let (one, other) = draw_two(members.len(), random);
                Some((members[one], members[other]))
            }
        }
    }

    pub fn items(&self) -> impl Iterator<Item = &Arc<T>> {
        self.members.iter().map(|member| &member.item)
    }

    /// Whether an endpoint besides that of `item` is in.
    pub fn has_other_than(&self, item: &Arc<T>) -> bool {
        self.members.iter().any(|member| member.is_in && !Arc::ptr_eq(&member.item, item))
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// Two distinct numbers below `len`, which is at least two.
fn draw_two(len: usize, random: &mut impl Rng) -> (usize, usize) {
    let one = random.random_range(0..len);
    let other = random.random_range(0..len - 1);
    (one, if other >= one { other + 1 } else { other })
}

impl<T> Member<T> {
    fn cost(&self, decay: Duration, now: Instant) -> f64 {
        let load = lock(&self.load);
        load.decayed(decay, now) * f64::from(load.in_flight + 1)
    }
}

impl Load {
    /// The average as if nothing had taken any time since: an endpoint once slow gets another chance.
    fn decayed(&self, decay: Duration, now: Instant) -> f64 {
        self.rtt_seconds * weight_of_past(now.saturating_duration_since(self.observed_at), decay)
    }
}

fn weight_of_past(elapsed: Duration, decay: Duration) -> f64 {
    (-elapsed.as_secs_f64() / decay.as_secs_f64().max(f64::MIN_POSITIVE)).exp()
}

impl<T> Pick<T> {
    /// Records that the endpoint took `rtt` to answer (or, for TCP, to be connected to).
    pub fn observe(&self, rtt: Duration, now: Instant) {
        let mut load = lock(&self.load);
        let rtt_seconds = rtt.as_secs_f64();
        let past = weight_of_past(now.saturating_duration_since(load.observed_at), self.decay);
        // A peak counts in full at once; what is better than the average counts by and by.
        load.rtt_seconds = match load.rtt_seconds {
            average if rtt_seconds > average => rtt_seconds,
            average => average * past + rtt_seconds * (1.0 - past),
        };
        load.observed_at = now;
    }
}

impl<T> Drop for Pick<T> {
    fn drop(&mut self) {
        let mut load = lock(&self.load);
        load.in_flight = load.in_flight.saturating_sub(1);
    }
}

fn lock(load: &Mutex<Load>) -> std::sync::MutexGuard<'_, Load> {
    load.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn balancer(endpoints: u8, now: Instant) -> Balancer<()> {
        let mut balancer = Balancer::new(Ewma::default());
        for last in 1..=endpoints {
            balancer.set(address(last), Arc::new(()), now);
        }
        balancer
    }

    fn random() -> StdRng {
        StdRng::seed_from_u64(7)
    }

    #[test]
    fn picks_nothing_from_nothing() {
        let now = Instant::now();
        assert!(balancer(0, now).pick(&[], now, &mut random()).is_none());
    }

    #[test]
    fn spreads_requests_in_flight_over_all_endpoints() {
        let (now, mut random) = (Instant::now(), random());
        let balancer = balancer(4, now);
        let picks: Vec<_> = (0..400).map(|_| balancer.pick(&[], now, &mut random).unwrap()).collect();
        for last in 1..=4 {
            let count = picks.iter().filter(|pick| pick.address == address(last)).count();
            assert!((90..=110).contains(&count), "{count} of 400 at one of 4 endpoints");
        }
    }

    #[test]
    fn prefers_the_faster_of_two() {
        let (now, mut random) = (Instant::now(), random());
        let balancer = balancer(2, now);
        let slow = balancer.pick(&[address(2)], now, &mut random).unwrap();
        slow.observe(Duration::from_secs(1), now);
        drop(slow);
        for _ in 0..20 {
            assert_eq!(balancer.pick(&[], now, &mut random).unwrap().address, address(2));
        }
    }

    #[test]
    fn gives_a_slow_endpoint_another_chance_later() {
        let (now, mut random) = (Instant::now(), random());
        let balancer = balancer(2, now);
        balancer.pick(&[address(2)], now, &mut random).unwrap().observe(Duration::from_secs(1), now);
        let later = now + Duration::from_secs(60);
        balancer.pick(&[address(1)], later, &mut random).unwrap().observe(Duration::from_millis(30), later);
        assert_eq!(balancer.pick(&[], later, &mut random).unwrap().address, address(1));
    }

    #[test]
    fn a_peak_counts_at_once_and_an_improvement_by_and_by() {
        let now = Instant::now();
        let balancer = balancer(1, now);
        let pick = balancer.pick(&[], now, &mut random()).unwrap();
        pick.observe(Duration::from_secs(2), now);
        assert_eq!(lock(&pick.load).rtt_seconds, 2.0);
        pick.observe(Duration::from_millis(1), now + Duration::from_secs(10));
        let average = lock(&pick.load).rtt_seconds;
        assert!((0.7..0.8).contains(&average), "2 s after one decay: {average}");
    }

    #[test]
    fn leaves_out_what_was_tried_and_what_is_out() {
        let (now, mut random) = (Instant::now(), random());
        let mut balancer = balancer(3, now);
        let first = balancer.pick(&[address(2), address(3)], now, &mut random).unwrap();
        assert!(balancer.take_out(first.address, &first.item));
        assert!(!balancer.take_out(first.address, &first.item), "it was out already");
        for _ in 0..20 {
            assert_eq!(balancer.pick(&[address(2)], now, &mut random).unwrap().address, address(3));
        }
        assert!(balancer.pick(&[address(2), address(3)], now, &mut random).is_none());
        balancer.put_in(first.address, &first.item);
        assert_eq!(balancer.pick(&[address(2), address(3)], now, &mut random).unwrap().address, address(1));
    }

    #[test]
    fn a_failure_of_the_old_says_nothing_of_what_took_its_place() {
        let (now, mut random) = (Instant::now(), random());
        let mut balancer = Balancer::new(Ewma::default());
        balancer.set(address(1), Arc::new("old"), now);
        let old = balancer.pick(&[], now, &mut random).unwrap();
        balancer.set(address(1), Arc::new("new"), now);
        assert!(!balancer.take_out(old.address, &old.item));
        assert_eq!(*balancer.pick(&[], now, &mut random).unwrap().item, "new");
    }

    #[test]
    fn a_removed_endpoint_is_not_picked() {
        let (now, mut random) = (Instant::now(), random());
        let mut balancer = balancer(2, now);
        balancer.remove(address(1));
        for _ in 0..20 {
            assert_eq!(balancer.pick(&[], now, &mut random).unwrap().address, address(2));
        }
    }

    #[test]
    fn dropping_a_pick_takes_its_load_away() {
        let (now, mut random) = (Instant::now(), random());
        let balancer = balancer(1, now);
        let pick = balancer.pick(&[], now, &mut random).unwrap();
        let load = pick.load.clone();
        assert_eq!(lock(&load).in_flight, 1);
        drop(pick);
        assert_eq!(lock(&load).in_flight, 0);
    }
}
