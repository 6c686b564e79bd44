//! How many rejected readings of a device are kept whole.
//!
//! A device that sends nothing but rubbish must neither fill the dead-letter topic nor cost more than one that sends
//! readings. Of each minute's rejections the first `limits.dead_letters_per_minute` of a device are kept, and of those
//! beyond it one in [`SAMPLED`]; the others are counted and answered only. Bounded: devices share [`PLACES`] counters by
//! a hash keyed at random, so a few have one in common, and nobody can aim for another's.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters: 32 KiB.
const PLACES: usize = 4096;

/// Of the rejections beyond the quota, one in so many is kept.
pub const SAMPLED: u32 = 100;

/// The quotas of all devices.
#[derive(Debug)]
pub struct Quota {
    per_minute: u32,
    hasher: RandomState,
    /// A minute (the upper half), and the rejections in it.
    places: Box<[AtomicU64]>,
    /// One more than the last minute in which somebody exceeded a quota.
    exceeded_in: AtomicU64,
}

/// What becomes of a rejected reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Kept,
    Counted,
    /// Counted, and worth a line in the log: no other one has exceeded a quota in this minute.
    CountedFirst,
}

// === impl Quota ===

impl Quota {
    pub fn new(per_minute: u32) -> Self {
        Quota {
            per_minute,
            hasher: RandomState::new(),
            places: (0..PLACES).map(|_| AtomicU64::default()).collect(),
            exceeded_in: AtomicU64::default(),
        }
    }

    pub fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// Counts a rejection of a device (empty: of those that an address does not name) at a time in milliseconds since 1970.
    pub fn spend(&self, device: &str, now_ms: i64) -> Fate {
        let minute = now_ms.div_euclid(60_000) as u32;
        let place = self.hasher.hash_one(device) as usize % PLACES;
        let before = count(&self.places[place], minute);
        let Some(beyond) = before.checked_sub(self.per_minute) else {
            return Fate::Kept;
        };
        if beyond % SAMPLED == SAMPLED - 1 {
            return Fate::Kept;
        }
        let this = u64::from(minute) + 1;
        // Looked at first: a store per rejection would send the cache line from core to core.
        if self.exceeded_in.load(Ordering::Relaxed) == this || self.exceeded_in.swap(this, Ordering::Relaxed) == this {
            return Fate::Counted;
        }
        Fate::CountedFirst
    }
}

/// Counts one more in this minute, and returns how many there were; another minute than the last begins at none.
fn count(place: &AtomicU64, minute: u32) -> u32 {
    let one_more = |seen: u64| {
        let count = if seen >> 32 == u64::from(minute) {
            seen as u32
        } else {
            0
        };
        Some(u64::from(minute) << 32 | u64::from(count.saturating_add(1)))
    };
    let seen = place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
    let seen = seen.unwrap_or_else(|seen| seen);
    if seen >> 32 == u64::from(minute) {
        seen as u32
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fates of so many rejections, one after the other: how many were kept.
    fn kept(quota: &Quota, device: &str, now_ms: i64, rejections: u32) -> u32 {
        (0..rejections)
            .map(|_| u32::from(quota.spend(device, now_ms) == Fate::Kept))
            .sum()
    }

    #[test]
    fn the_first_of_a_minute_are_kept_and_one_in_a_hundred_beyond() {
        let quota = Quota::new(10);
        let minute = 60_000;
        for (now_ms, rejections, expected) in [
            (0, 10, 10),
            (minute - 1, 99, 0),
            (minute - 1, 1, 1),
            (minute - 1, 1000, 10),
            (minute, 12, 10),
            // The clock was set back.
            (0, 11, 10),
        ] {
            assert_eq!(
                kept(&quota, "a", now_ms, rejections),
                expected,
                "{rejections} at {now_ms}"
            );
        }
    }

    #[test]
    fn a_device_that_exceeds_its_quota_takes_nothing_from_others() {
        let quota = Quota::new(5);
        kept(&quota, "loud", 0, 10_000);
        let quiet = (0..100).filter(|number| kept(&quota, &format!("quiet-{number}"), 0, 5) == 5);
        // One in 4096 shares the place of the loud one.
        assert!(quiet.count() >= 98);
    }

    #[test]
    fn one_line_a_minute_is_worth_logging() {
        let quota = Quota::new(0);
        let mut lines = 0;
        for second in 0..180 {
            for device in ["a", "b", "c"] {
                lines += u32::from(quota.spend(device, second * 1000) == Fate::CountedFirst);
            }
        }
        assert_eq!(lines, 3);
    }
}
