//! Bytes on disk: how many the spool has, how many it still accepts, and how fast they come in.
//!
//! The configured budget covers segments, spares and damaged copies (not the cursor's 8 KiB). It is checked together
//! with what the file system really has left, so that a disk filled by others is *full*, too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The budget.
#[derive(Debug)]
pub struct Budget {
    bytes_max: u64,
    segment_bytes: u64,
    free_bytes_min: u64,
    used: AtomicU64,
}

/// Bytes per second, smoothed over about a minute.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    first: Option<Duration>,
    last: Duration,
    bytes_per_s: f64,
}

/// How long a burst is remembered.
const SMOOTHING_S: f64 = 60.0;

// === impl Budget ===

impl Budget {
    pub fn new(bytes_max: u64, segment_bytes: u64, free_bytes_min: u64, used: u64) -> Self {
        Budget {
            bytes_max,
            segment_bytes,
            free_bytes_min,
            used: AtomicU64::new(used),
        }
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// How many segments may still be made, when the file system has `free` bytes left.
    pub fn segments(&self, free: u64) -> u64 {
        let allowed = self.bytes_max.saturating_sub(self.used());
        allowed.min(free.saturating_sub(self.free_bytes_min)) / self.segment_bytes
    }

    /// Reserves bytes if they are available.
    pub fn take(&self, bytes: u64) -> bool {
        let take = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.bytes_max);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.is_ok()
    }

    pub fn give_back(&self, bytes: u64) {
        let give = |used: u64| Some(used.saturating_sub(bytes));
        let given = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
        debug_assert!(given.is_ok());
    }
}

// === impl Rate ===

impl Rate {
    pub fn add(&mut self, bytes: u64, now: Duration) {
        self.bytes_per_s = self.decayed(now) + bytes as f64 / SMOOTHING_S;
        self.last = now;
        self.first.get_or_insert(now);
    }

    /// While younger than the smoothing, the rate is that of the time it has seen (of one second at least).
    pub fn bytes_per_s(&self, now: Duration) -> f64 {
        let Some(first) = self.first else { return 0.0 };
        let age_s = now.saturating_sub(first).as_secs_f64().max(1.0);
        self.decayed(now) / (1.0 - (-age_s / SMOOTHING_S).exp())
    }

    fn decayed(&self, now: Duration) -> f64 {
        let passed_s = now.saturating_sub(self.last).as_secs_f64();
        self.bytes_per_s * (-passed_s / SMOOTHING_S).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_made_only_if_budget_and_disk_have_room() {
        let check = |used: u64, free: u64, expected: u64| {
            let budget = Budget::new(1000, 100, 50, used);
            assert_eq!(budget.segments(free), expected, "used {used}, free {free}");
        };
        check(0, 10_000, 10);
        check(950, 10_000, 0);
        check(2000, 10_000, 0);
        check(0, 349, 2);
        check(0, 149, 0);
        check(0, 20, 0);
    }

    #[test]
    fn bytes_are_taken_and_given_back() {
        let budget = Budget::new(100, 10, 0, 0);
        assert!(budget.take(60) && !budget.take(41) && budget.take(40));
        budget.give_back(30);
        assert_eq!(budget.used(), 70);
    }

    #[test]
    fn the_rate_is_right_from_the_start_and_forgets() {
        let mut rate = Rate::default();
        assert!(rate.bytes_per_s(Duration::ZERO) < 0.1);
        for second in 0..600 {
            rate.add(1000, Duration::from_secs(second));
            if second > 5 {
                let seen = rate.bytes_per_s(Duration::from_secs(second));
                assert!((900.0..1250.0).contains(&seen), "{second}: {seen}");
            }
        }
        assert!(rate.bytes_per_s(Duration::from_secs(1200)) < 1.0);
    }
}
