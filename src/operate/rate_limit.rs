//! How much may come on average, with a burst beforehand: the generic cell rate algorithm (ITU-T I.371, virtual scheduling).
//!
//! It is asked before, and charged with what has arrived, which may be more than the burst: then it is in debt, and says no until
//! that is paid. What was refused is not charged. (The limiters of the crate `governor` refuse for ever what is larger than the
//! burst, and cannot be asked without a charge.) [`RateLimit`] is one number, without a lock; [`PrefixLimits`] has one for each
//! address prefix, [`ClaimLimits`] one for each thing that somebody may claim.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::networks::{ByPrefix, Networks, Prefix};

/// When everything that was charged would have come at exactly the rate: nanoseconds since [`STARTED`].
#[derive(Debug, Default)]
pub struct RateLimit(AtomicU64);

impl Clone for RateLimit {
    fn clone(&self) -> Self {
        RateLimit(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

/// One limit for each address prefix: so many a minute, and as many at once.
#[derive(Debug)]
pub struct PrefixLimits {
    per_minute: u32,
    ipv4_bits: u8,
    ipv6_bits: u8,
    exempt: Networks,
    charged: Mutex<ByPrefix<RateLimit>>,
}

/// One limit for each thing that somebody may claim, such as a device id: so many a minute, and as many at once. Nobody can fill it by
/// claiming more: there are two rows of limits, and a claim is at its limit when it is in both. In each it shares one with a few
/// others.
#[derive(Debug)]
pub struct ClaimLimits {
    per_minute: u32,
    rows: [(RandomState, Box<[RateLimit]>); 2],
}

/// Limits of a row; 256 KiB.
const ROW_LIMITS: usize = 32_768;

const MINUTE: Duration = Duration::from_secs(60);

/// Some time before the first charge: one whose `now` was taken just before this is made must not come out early.
static STARTED: LazyLock<Instant> = LazyLock::new(|| Instant::now().checked_sub(MINUTE).unwrap_or_else(Instant::now));

// === impl RateLimit ===

impl RateLimit {
    /// How long until more is accepted, if at once may come what the rate allows in `burst`; zero: now.
    pub fn wait(&self, burst: Duration, now: Instant) -> Duration {
        let earliest = self.0.load(Ordering::Relaxed).saturating_sub(nanos(burst));
        Duration::from_nanos(earliest.saturating_sub(at(now)))
    }

    /// Charges what has come.
    pub fn charge(&self, per_second: u64, amount: usize, now: Instant) {
        let cost = (amount as u64).saturating_mul(nanos(Duration::from_secs(1))) / per_second.max(1);
        let now = at(now);
        let charged = |due: u64| due.max(now).saturating_add(cost);
        let mut due = self.0.load(Ordering::Relaxed);
        while let Err(meanwhile) =
            (self.0).compare_exchange_weak(due, charged(due), Ordering::Relaxed, Ordering::Relaxed)
        {
            due = meanwhile;
        }
    }

    /// Whether nothing is charged any more: a new one would say the same.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.wait(Duration::ZERO, now).is_zero()
    }
}

// === impl PrefixLimits ===

impl PrefixLimits {
    pub fn new(per_minute: u32, ipv4_bits: u8, ipv6_bits: u8, exempt: Networks) -> Self {
        PrefixLimits {
            per_minute,
            ipv4_bits,
            ipv6_bits,
            exempt,
            charged: Mutex::default(),
        }
    }

    /// Whether the prefix of this address has used up what it may.
    pub fn is_exceeded(&self, address: IpAddr, now: Instant) -> bool {
        if self.exempt.contains(address) {
            return false;
        }
        let charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = charged.get(self.prefix(address));
        limit.is_some_and(|limit| !limit.wait(MINUTE, now).is_zero())
    }

    /// Charges it one.
    pub fn charge(&self, address: IpAddr, now: Instant) {
        if self.exempt.contains(address) {
            return;
        }
        let mut charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, limit) = charged.entry(self.prefix(address), now, |limit| limit.is_idle(now));
        // In sixtieths of one: so many a minute are sixty times as many a second.
        limit.charge(self.per_minute.into(), 60, now);
    }

    fn prefix(&self, address: IpAddr) -> Prefix {
        Prefix::of(address, self.ipv4_bits, self.ipv6_bits)
    }
}

// === impl ClaimLimits ===

impl ClaimLimits {
    pub fn new(per_minute: u32) -> Self {
        let row = || std::iter::repeat_with(RateLimit::default).take(ROW_LIMITS).collect();
        ClaimLimits {
            per_minute,
            rows: std::array::from_fn(|_| (RandomState::new(), row())),
        }
    }

    /// Whether as many were charged as may be.
    pub fn is_exceeded(&self, claim: &str, now: Instant) -> bool {
        self.of(claim).all(|limit| !limit.wait(MINUTE, now).is_zero())
    }

    /// Charges it one.
    pub fn charge(&self, claim: &str, now: Instant) {
        self.of(claim)
            .for_each(|limit| limit.charge(self.per_minute.into(), 60, now));
    }

    fn of(&self, claim: &str) -> impl Iterator<Item = &RateLimit> {
        let at = move |hasher: &RandomState| hasher.hash_one(claim) as usize % ROW_LIMITS;
        self.rows.iter().filter_map(move |(hasher, row)| row.get(at(hasher)))
    }
}

fn at(now: Instant) -> u64 {
    nanos(now.saturating_duration_since(*STARTED))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: Duration = Duration::from_secs(10);

    #[test]
    fn what_exceeds_the_burst_is_a_debt() {
        let (limit, now) = (RateLimit::default(), *STARTED);
        let check = |at_s: u64, charge: usize, wait_s: u64| {
            let now = now + Duration::from_secs(at_s);
            limit.charge(10, charge, now);
            assert_eq!(
                limit.wait(BURST, now),
                Duration::from_secs(wait_s),
                "{at_s} s, {charge}"
            );
        };
        check(0, 100, 0);
        check(0, 10, 1);
        check(1, 0, 0);
        check(1, 1000, 100);
        check(60, 0, 41);
        check(101, 0, 0);
        assert!(!limit.is_idle(now + Duration::from_secs(110)));
        assert!(limit.is_idle(now + Duration::from_secs(111)));
        // Silence saves up no more than the burst.
        check(1000, 100, 0);
        check(1000, 10, 1);
    }

    #[test]
    fn each_prefix_has_a_limit_of_its_own() {
        let limits = PrefixLimits::new(30, 24, 64, Networks::loopback());
        let (now, [one, neighbour, other]) = (Instant::now(), [[192, 0, 2, 1], [192, 0, 2, 9], [192, 0, 3, 1]]);
        (0..=30).for_each(|_| limits.charge(one.into(), now));
        let check = |address: [u8; 4], after_s: u64, expected: bool| {
            let now = now + Duration::from_secs(after_s);
            assert_eq!(
                limits.is_exceeded(address.into(), now),
                expected,
                "{address:?} {after_s}"
            );
        };
        check(one, 0, true);
        check(neighbour, 0, true);
        check(other, 0, false);
        check(one, 2, false);
        (0..100).for_each(|_| limits.charge([127, 0, 0, 1].into(), now));
        check([127, 0, 0, 1], 0, false);
    }

    #[test]
    fn each_claim_has_a_limit_and_claims_of_others_do_not_use_it_up() {
        let (limits, now) = (ClaimLimits::new(10), Instant::now());
        (0..=10).for_each(|_| limits.charge("mast", now));
        assert!(limits.is_exceeded("mast", now) && !limits.is_exceeded("loop-7", now));
        // One every six seconds.
        assert!(!limits.is_exceeded("mast", now + Duration::from_secs(6)));
        // Invented ones: of a hundred others hardly one is at its limit in both rows.
        for number in 0..3000 {
            (0..=10).for_each(|_| limits.charge(&format!("invented-{number}"), now));
        }
        let hit = (0..100).filter(|number| limits.is_exceeded(&format!("loop-{number}"), now));
        assert!(hit.count() <= 10);
    }

    #[test]
    fn threads_charge_one_limit_exactly() {
        let (limit, now) = (RateLimit::default(), *STARTED);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| limit.charge(1000, 1, now)));
            }
        });
        // 40,000 are 40 seconds' worth, of which ten are the burst.
        assert_eq!(limit.wait(BURST, now), Duration::from_secs(30));
    }
}
