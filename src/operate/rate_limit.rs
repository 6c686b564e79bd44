//! How much may come on average, with a burst beforehand: the generic cell rate algorithm (ITU-T I.371, virtual scheduling).
//!
//! It is asked before, and charged with what has arrived, which may be more than the burst: then it is in debt, and says no until
//! that is paid. What was refused is not charged. (The limiters of the crate `governor` refuse for ever what is larger than the
//! burst, and cannot be asked without a charge.) One number, without a lock.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When everything that was charged would have come at exactly the rate: nanoseconds since [`STARTED`].
#[derive(Debug, Default)]
pub struct RateLimit(AtomicU64);

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

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
