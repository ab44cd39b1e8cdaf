//! Decides which of several endpoints takes the next request or connection.
//!
//! In: endpoints, the latency each has shown, and `now`. Out: one of them.
//! Of two endpoints picked at random the less loaded one is taken (power of two choices), load being the peak-sensitive
//! moving average of its latency times what is in flight to it. So a slow endpoint sheds work within one response, and no
//! endpoint is swamped because it looks best to everybody at once.
//! An endpoint that could not be reached is out at once, until it has been reached again. One that answers with failures is given a rest,
//! longer each time, after which one request at a time tries whether it has recovered. No timer runs for that: `now` is compared.
//!
//! Where policy says so, a failure makes it count as slower for a while, too.
//!
//! A new endpoint among old ones gets its share by and by ([`SLOW_START`]). Nothing is known of its latency, and it is idle, so by load alone
//! the next requests of every client would go to it at once: to an app whose caches are empty, its code not yet compiled and its connections
//! not yet made. Where it would win against an endpoint that is warm, it does so only as often as it is warm itself.
//!
//! Start at [`Balancer::pick`].

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt as _};

use crate::mesh::limits::{Accrual, Penalty};

/// How long it takes until a new endpoint gets as much as others: as long as latencies are remembered, and longer than most apps need to
/// compile what they do all the time.
const SLOW_START: Duration = Duration::from_secs(10);
/// What it gets at the very beginning, of what it would: enough for its latency to be learnt.
const SLOW_START_SHARE: f64 = 0.1;

/// How latency is averaged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ewma {
    /// What an endpoint is believed to take before it has been seen: a guess that neither shuns nor swamps newcomers.
    pub default_rtt: Duration,
    /// How fast the past is forgotten.
    pub decay: Duration,
    /// What failures add.
    pub penalty: Option<Penalty>,
}

impl Default for Ewma {
    fn default() -> Self {
        Self { default_rtt: Duration::from_millis(30), decay: Duration::from_secs(10), penalty: None }
    }
}

/// Endpoints with their loads. `T` is what reaches an endpoint.
#[derive(Debug)]
pub struct Balancer<T> {
    ewma: Ewma,
    accrual: Option<Accrual>,
    members: Vec<Member<T>>,
}

#[derive(Debug)]
struct Member<T> {
    address: SocketAddr,
    item: Arc<T>,
    load: Arc<Mutex<Load>>,
    /// Whether it can be reached, as far as known.
    is_in: bool,
    /// Since when it has been there, for one that came to others.
    joined_at: Option<Instant>,
}

/// What an endpoint is doing, and how quickly it has been answering.
#[derive(Debug)]
struct Load {
    rtt_seconds: f64,
    observed_at: Instant,
    in_flight: u32,
    record: Record,
    /// What failures have added, and when.
    penalised: Option<(Duration, Instant)>,
}

/// What an endpoint has answered, as far as that is held against it.
#[derive(Debug)]
struct Record {
    answers: u32,
    failures_in_row: u32,
    /// The share of successes, the latest counting most.
    successes: f64,
    answered_at: Instant,
    /// How often it has rested since it last succeeded.
    rests: u32,
    rests_until: Option<Instant>,
}

/// Tells how an endpoint has answered.
#[derive(Clone, Debug)]
pub struct Judge {
    load: Arc<Mutex<Load>>,
    accrual: Option<Accrual>,
    penalty: Option<Penalty>,
    /// How long the endpoint asks to be spared.
    hint: Option<Duration>,
}

/// The endpoint that was picked; counts as load on it until dropped.
#[derive(Debug)]
pub struct Pick<T> {
    pub address: SocketAddr,
    pub item: Arc<T>,
    load: Arc<Mutex<Load>>,
    ewma: Ewma,
    accrual: Option<Accrual>,
}

impl<T> Balancer<T> {
    pub fn new(ewma: Ewma, accrual: Option<Accrual>) -> Self {
        Self { ewma, accrual, members: Vec::new() }
    }

    /// Adds an endpoint, or puts `item` in the place of what reached it before; either way it is in. One that `joins` others starts slowly.
    pub fn set(&mut self, address: SocketAddr, item: Arc<T>, joins: bool, now: Instant) {
        let rtt_seconds = self.ewma.default_rtt.as_secs_f64();
        let record = Record::new(now);
        let load = Load { rtt_seconds, observed_at: now, in_flight: 0, record, penalised: None };
        let load = Arc::new(Mutex::new(load));
        let member = Member { address, item, load, is_in: true, joined_at: joins.then_some(now) };
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

    /// Puts the endpoint back in. What could not be reached was restarted, as a rule, and starts slowly.
    pub fn put_in(&mut self, address: SocketAddr, item: &Arc<T>, now: Instant) {
        if let Some(member) = self.member(address, item) {
            member.is_in = true;
            member.joined_at = Some(now);
        }
    }

    fn member(&mut self, address: SocketAddr, item: &Arc<T>) -> Option<&mut Member<T>> {
        self.members.iter_mut().find(|member| member.address == address && Arc::ptr_eq(&member.item, item))
    }

    /// Picks among the endpoints that are in and not in `tried`; none where there is no such endpoint.
    pub fn pick(&self, tried: &[SocketAddr], now: Instant, random: &mut impl Rng) -> Option<Pick<T>> {
        let usable = |member: &Member<T>| member.is_in && !tried.contains(&member.address);
        let (one, other) = match &self.accrual {
            None => self.two(random, usable),
            // So many rest that those too must do.
            Some(accrual) if accrual.ready_min > 0 && self.ready(now) < accrual.ready_min => self.two(random, usable),
            Some(_) => self.two(random, |member| usable(member) && !member.rests(now)),
        }?;
        let (better, worse) =
            if other.cost(&self.ewma, now) < one.cost(&self.ewma, now) { (other, one) } else { (one, other) };
        // Better a cold one than one that fails.
        let is_ahead = worse.is_penalised(&self.ewma, now) || better.is_ahead_of(worse, now, random);
        let member = if is_ahead { better } else { worse };
        lock(&member.load).in_flight += 1;
        Some(Pick {
            address: member.address,
            item: member.item.clone(),
            load: member.load.clone(),
            ewma: self.ewma,
            accrual: self.accrual,
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

    /// Endpoints that are in and not at rest.
    pub fn ready(&self, now: Instant) -> usize {
        self.members.iter().filter(|member| member.is_in && !member.rests(now)).count()
    }

    /// When the next endpoint has rested for long enough, if any rests.
    pub fn rested_at(&self) -> Option<Instant> {
        let members = self.members.iter().filter(|member| member.is_in);
        members.filter_map(|member| lock(&member.load).record.rests_until).min()
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
    fn cost(&self, ewma: &Ewma, now: Instant) -> f64 {
        let load = lock(&self.load);
        let penalty = ewma.penalty.map_or(0.0, |penalty| load.penalty(penalty.decay, now));
        (load.decayed(ewma.decay, now) + penalty) * f64::from(load.in_flight + 1)
    }
}

impl<T> Member<T> {
    /// Whether it is not to be asked now: it rests, or has just rested and a first request tries it.
    fn rests(&self, now: Instant) -> bool {
        let load = lock(&self.load);
        load.record.rests_until.is_some_and(|until| now < until || load.in_flight > 0)
    }

    /// Whether it may win against `other`, which is warmer.
    fn is_ahead_of(&self, other: &Self, now: Instant, random: &mut impl Rng) -> bool {
        let Some(warmth) = self.warmth(now) else { return true };
        other.warmth(now).is_some() || random.random_bool(warmth)
    }

    /// Whether failures still make it count as much slower.
    fn is_penalised(&self, ewma: &Ewma, now: Instant) -> bool {
        let left = |penalty: Penalty| lock(&self.load).penalty(penalty.decay, now);
        ewma.penalty.is_some_and(|penalty| left(penalty) > ewma.default_rtt.as_secs_f64())
    }

    /// How much it may get of its share; none once that is all.
    fn warmth(&self, now: Instant) -> Option<f64> {
        let age = now.saturating_duration_since(self.joined_at?).as_secs_f64() / SLOW_START.as_secs_f64();
        (age < 1.0).then(|| age.max(SLOW_START_SHARE))
    }
}

impl Record {
    fn new(now: Instant) -> Self {
        Self { answers: 0, failures_in_row: 0, successes: 1.0, answered_at: now, rests: 0, rests_until: None }
    }

    fn note(&mut self, is_success: bool, accrual: &Accrual, hint: Option<Duration>, now: Instant, random: f64) {
        // What was under way when it began to rest says nothing new.
        if self.rests_until.is_some_and(|until| now < until) {
            return;
        }
        let was_tried = self.rests_until.is_some();
        self.answers = self.answers.saturating_add(1);
        if let Some(rate) = accrual.rate {
            let past = weight_of_past(now.saturating_duration_since(self.answered_at), rate.decay);
            self.successes = self.successes * past + f64::from(u8::from(is_success)) * (1.0 - past);
        }
        self.answered_at = now;
        if is_success {
            (self.failures_in_row, self.rests, self.rests_until) = (0, 0, None);
            if was_tried {
                // It has recovered: what it did before is not held against it.
                (self.answers, self.successes) = (0, 1.0);
            }
            return;
        }
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        let too_many = accrual.failures_max.is_some_and(|max| self.failures_in_row >= max);
        let too_often =
            accrual.rate.is_some_and(|rate| self.answers >= rate.requests_min && self.successes < rate.successes_min);
        if too_many || too_often || was_tried {
            let mut pauses = accrual.pauses;
            if let Some(hint) = hint.filter(|_| accrual.respects_hints) {
                pauses.shortest = hint.max(pauses.shortest).min(pauses.longest);
            }
            self.rests_until = Some(now + pauses.after(self.rests, random));
            self.rests = self.rests.saturating_add(1);
        }
    }
}

impl Judge {
    /// Notes how long the endpoint asks to be spared.
    pub fn hinted(&mut self, hint: Option<Duration>) {
        self.hint = hint;
    }

    pub fn note(&self, is_success: bool, now: Instant) {
        if let Some(accrual) = &self.accrual {
            lock(&self.load).record.note(is_success, accrual, self.hint, now, rand::random());
        }
        if !is_success {
            self.penalise(now);
        }
    }

    /// Has the endpoint count as slower for a while, where policy says so: it fails, or has too much to do. Failures do not add up.
    pub fn penalise(&self, now: Instant) {
        let Some(penalty) = self.penalty else { return };
        let hint = self.hint.unwrap_or_default().min(penalty.hint_max);
        let by = penalty.by.max(hint);
        let mut load = lock(&self.load);
        if by.as_secs_f64() >= load.penalty(penalty.decay, now) {
            load.penalised = Some((by, now));
        }
    }
}

impl Load {
    /// The average as if nothing had taken any time since: an endpoint once slow gets another chance.
    fn decayed(&self, decay: Duration, now: Instant) -> f64 {
        self.rtt_seconds * weight_of_past(now.saturating_duration_since(self.observed_at), decay)
    }

    /// What is left of what failures have added, in seconds.
    fn penalty(&self, decay: Duration, now: Instant) -> f64 {
        self.penalised
            .map_or(0.0, |(by, at)| by.as_secs_f64() * weight_of_past(now.saturating_duration_since(at), decay))
    }
}

fn weight_of_past(elapsed: Duration, decay: Duration) -> f64 {
    (-elapsed.as_secs_f64() / decay.as_secs_f64().max(f64::MIN_POSITIVE)).exp()
}

impl<T> Pick<T> {
    /// Who is to be told how the endpoint answers, if anybody wants to know.
    pub fn judge(&self) -> Option<Judge> {
        let (accrual, penalty) = (self.accrual, self.ewma.penalty);
        if accrual.is_none() && penalty.is_none() {
            return None;
        }
        Some(Judge { load: self.load.clone(), accrual, penalty, hint: None })
    }

    /// Records that the endpoint took `rtt` to answer (or, for TCP, to be connected to).
    pub fn observe(&self, rtt: Duration, now: Instant) {
        let mut load = lock(&self.load);
        let rtt_seconds = rtt.as_secs_f64();
        let past = weight_of_past(now.saturating_duration_since(load.observed_at), self.ewma.decay);
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
    use crate::mesh::limits::{Pauses, Rate};

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn balancer(endpoints: u8, now: Instant) -> Balancer<()> {
        let mut balancer = Balancer::new(Ewma::default(), None);
        for last in 1..=endpoints {
            balancer.set(address(last), Arc::new(()), false, now);
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
        balancer.put_in(first.address, &first.item, now);
        assert_eq!(balancer.pick(&[address(2), address(3)], now, &mut random).unwrap().address, address(1));
    }

    #[test]
    fn a_failure_of_the_old_says_nothing_of_what_took_its_place() {
        let (now, mut random) = (Instant::now(), random());
        let mut balancer = Balancer::new(Ewma::default(), None);
        balancer.set(address(1), Arc::new("old"), false, now);
        let old = balancer.pick(&[], now, &mut random).unwrap();
        balancer.set(address(1), Arc::new("new"), false, now);
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

    fn accrual() -> Accrual {
        let pauses = Pauses { shortest: Duration::from_secs(1), longest: Duration::from_secs(60), jitter: 0.0 };
        Accrual { failures_max: Some(3), rate: None, pauses, ready_min: 0, respects_hints: false }
    }

    fn judged(accrual: Accrual, now: Instant) -> Balancer<()> {
        Balancer { accrual: Some(accrual), ..balancer(2, now) }
    }

    fn fail(balancer: &Balancer<()>, last: u8, times: usize, now: Instant) {
        let other = address(3 - last);
        for _ in 0..times {
            let pick = balancer.pick(&[other], now, &mut random()).unwrap();
            pick.judge().unwrap().note(false, now);
        }
    }

    #[test]
    fn an_endpoint_that_fails_in_a_row_rests_and_is_then_tried_by_one() {
        let (now, mut random) = (Instant::now(), random());
        let balancer = judged(accrual(), now);
        fail(&balancer, 1, 2, now);
        balancer.pick(&[address(2)], now, &mut random).unwrap().judge().unwrap().note(true, now);
        fail(&balancer, 1, 2, now);
        assert!(balancer.pick(&[address(2)], now, &mut random).is_some(), "three, but not in a row");
        fail(&balancer, 1, 1, now);
        assert!(balancer.pick(&[address(2)], now, &mut random).is_none());
        assert_eq!(balancer.pick(&[], now, &mut random).unwrap().address, address(2));
        assert_eq!(balancer.rested_at(), Some(now + Duration::from_secs(1)));
        let later = now + Duration::from_secs(1);
        let first = balancer.pick(&[address(2)], later, &mut random).unwrap();
        assert!(balancer.pick(&[address(2)], later, &mut random).is_none(), "one request tries it");
        first.judge().unwrap().note(false, later);
        drop(first);
        assert_eq!(balancer.rested_at(), Some(later + Duration::from_secs(2)), "a longer rest");
        let recovered = later + Duration::from_secs(2);
        balancer.pick(&[address(2)], recovered, &mut random).unwrap().judge().unwrap().note(true, recovered);
        assert_eq!(balancer.rested_at(), None);
    }

    #[test]
    fn a_low_rate_of_successes_makes_an_endpoint_rest_once_there_is_enough_to_judge_by() {
        let now = Instant::now();
        let rate = Rate { successes_min: 0.5, decay: Duration::from_secs(10), requests_min: 3 };
        let balancer = judged(Accrual { failures_max: None, rate: Some(rate), ..accrual() }, now);
        let later = |seconds| now + Duration::from_secs(seconds);
        fail(&balancer, 1, 1, later(10));
        fail(&balancer, 1, 1, later(20));
        assert_eq!(balancer.rested_at(), None, "two say nothing yet");
        fail(&balancer, 1, 1, later(30));
        assert!(balancer.rested_at().is_some());
    }

    #[test]
    fn not_all_endpoints_rest_where_some_must_be_left() {
        let (now, mut random) = (Instant::now(), random());
        let balancer = judged(Accrual { ready_min: 1, ..accrual() }, now);
        fail(&balancer, 1, 3, now);
        assert!(balancer.pick(&[address(2)], now, &mut random).is_none());
        fail(&balancer, 2, 3, now);
        assert!(balancer.pick(&[], now, &mut random).is_some(), "somebody has to answer");
    }

    #[test]
    fn a_rest_is_as_long_as_the_endpoint_asks_for_within_its_bounds_where_policy_says_so() {
        let now = Instant::now();
        for (respects_hints, asked, rest) in [(true, 7, 7), (true, 0, 1), (true, 900, 60), (false, 7, 1)] {
            let balancer = judged(Accrual { failures_max: Some(1), respects_hints, ..accrual() }, now);
            let mut judge = balancer.pick(&[address(2)], now, &mut random()).unwrap().judge().unwrap();
            judge.hinted(Some(Duration::from_secs(asked)));
            judge.note(false, now);
            assert_eq!(balancer.rested_at(), Some(now + Duration::from_secs(rest)), "{asked} s");
        }
    }

    fn penalising(now: Instant) -> Balancer<()> {
        Balancer { ewma: Ewma { penalty: Some(Penalty::default()), ..Ewma::default() }, ..balancer(2, now) }
    }

    #[test]
    fn an_endpoint_that_fails_counts_as_slower_for_a_while() {
        let (now, mut random) = (Instant::now(), random());
        let balancer = penalising(now);
        balancer.pick(&[address(2)], now, &mut random).unwrap().judge().unwrap().note(false, now);
        let busy: Vec<_> = (0..50).map(|_| balancer.pick(&[address(1)], now, &mut random).unwrap()).collect();
        assert_eq!(balancer.pick(&[], now, &mut random).unwrap().address, address(2), "however busy the other is");
        let later = now + Penalty::default().decay * 10;
        for other in [1, 2] {
            balancer.pick(&[address(other)], later, &mut random).unwrap().observe(Duration::from_millis(30), later);
        }
        assert_eq!(balancer.pick(&[], later, &mut random).unwrap().address, address(1), "it is forgotten");
        drop(busy);
    }

    #[test]
    fn an_endpoint_may_ask_to_be_spared_for_longer_and_not_for_ever() {
        let now = Instant::now();
        for (asked, seconds) in [(1, 5.0), (100, 100.0), (1_000_000, 300.0)] {
            let balancer = penalising(now);
            let pick = balancer.pick(&[address(2)], now, &mut random()).unwrap();
            let mut judge = pick.judge().unwrap();
            judge.hinted(Some(Duration::from_secs(asked)));
            judge.penalise(now);
            assert_eq!(lock(&pick.load).penalty(Duration::from_secs(10), now), seconds);
            judge.hinted(None);
            judge.penalise(now);
            assert_eq!(lock(&pick.load).penalty(Duration::from_secs(10), now), seconds, "they do not add up");
        }
    }

    #[test]
    fn a_newcomer_goes_before_one_that_fails_and_is_penalised() {
        let (now, mut random) = (Instant::now(), random());
        let mut balancer = penalising(now);
        balancer.set(address(1), Arc::new(()), true, now);
        balancer.pick(&[address(1)], now, &mut random).unwrap().judge().unwrap().note(false, now);
        for _ in 0..50 {
            assert_eq!(balancer.pick(&[], now, &mut random).unwrap().address, address(1));
        }
    }

    #[test]
    fn where_policy_says_nothing_failures_cost_nothing() {
        let now = Instant::now();
        assert!(balancer(2, now).pick(&[], now, &mut random()).unwrap().judge().is_none());
    }

    #[test]
    fn a_newcomer_gets_its_share_by_and_by() {
        let (now, mut random) = (Instant::now(), random());
        let mut balancer = balancer(1, now);
        balancer.set(address(2), Arc::new(()), true, now);
        // Nobody has seen either, but the old one is busy: by load alone the new one would get everything.
        let _busy = balancer.pick(&[address(2)], now, &mut random).unwrap();
        let mut share = |at| {
            let picks = (0..1_000).filter(|_| balancer.pick(&[], at, &mut random).unwrap().address == address(2));
            picks.count()
        };
        let (first, half, whole) = (share(now), share(now + SLOW_START / 2), share(now + SLOW_START));
        assert!((50..200).contains(&first), "{first}");
        assert!((400..600).contains(&half), "{half}");
        assert_eq!(whole, 1_000);
    }

    #[test]
    fn newcomers_among_themselves_are_equals() {
        let (now, mut random) = (Instant::now(), random());
        let mut balancer = balancer(0, now);
        for last in 1..=2 {
            balancer.set(address(last), Arc::new(()), true, now);
        }
        let _busy = balancer.pick(&[address(2)], now, &mut random).unwrap();
        for _ in 0..20 {
            assert_eq!(balancer.pick(&[], now, &mut random).unwrap().address, address(2));
        }
    }
}
