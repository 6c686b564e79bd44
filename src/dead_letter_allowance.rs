//! How many rejected readings of a device are sent to the dead-letter topic.
//!
//! A device that sends nothing but rubbish must neither fill the topic nor cost more than one that sends readings. Of each
//! minute's rejections the first `limits.dead_letters_per_minute` of a device are kept, and of those beyond it one in
//! [`SAMPLED`]; the others are counted and answered only. Nothing is remembered of devices that are not rejected; of those
//! that are a number, until a later minute's rejections: beyond [`DEVICES_MAX`] devices in a minute the later ones share one.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Of the rejections beyond the allowance, one in so many is kept.
pub const SAMPLED: u32 = 100;

/// Devices that are told apart in a minute; less than 3 MiB.
pub const DEVICES_MAX: usize = SHARDS * SHARD_DEVICES_MAX;

/// So that threads seldom wait for each other.
const SHARDS: usize = 16;
const SHARD_DEVICES_MAX: usize = 4096;

/// What the devices beyond [`DEVICES_MAX`] are counted under; as a hash, one device in 2^64 has it.
const OTHERS: u64 = 0;

/// The allowances of all devices.
#[derive(Debug)]
pub struct DeadLetterAllowance {
    per_minute: u32,
    /// Keyed at random, so that no device can aim for another's number.
    hasher: RandomState,
    shards: [Mutex<Minute>; SHARDS],
    /// One more than the last minute in which a device exceeded its allowance.
    exceeded_in: AtomicU64,
}

/// The rejections of a minute, by the hash of their device.
#[derive(Debug, Default)]
struct Minute {
    minute: i64,
    rejections: HashMap<u64, u32>,
}

/// Whether a rejected reading is sent to the dead-letter topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Keep,
    /// It is counted and answered only.
    Drop,
    /// The same, and worth a line in the log: no other device has exceeded its allowance in this minute.
    DropAndLog,
}

// === impl DeadLetterAllowance ===

impl DeadLetterAllowance {
    pub fn new(per_minute: u32) -> Self {
        DeadLetterAllowance {
            per_minute,
            hasher: RandomState::new(),
            shards: Default::default(),
            exceeded_in: AtomicU64::default(),
        }
    }

    pub fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// Counts a rejection of a device (empty: of those whose address names none) at a time in milliseconds since 1970.
    pub fn spend(&self, device: &str, now_ms: i64) -> Decision {
        let minute = now_ms.div_euclid(60_000);
        let hash = self.hasher.hash_one(device);
        let shard = &self.shards[hash as usize % SHARDS];
        let before = shard.lock().unwrap_or_else(PoisonError::into_inner).count(minute, hash);
        let Some(beyond) = before.checked_sub(self.per_minute) else {
            return Decision::Keep;
        };
        if beyond % SAMPLED == SAMPLED - 1 {
            return Decision::Keep;
        }
        let this = minute.unsigned_abs() + 1;
        // Looked at first: a store per rejection would send the cache line from core to core.
        if self.exceeded_in.load(Ordering::Relaxed) == this || self.exceeded_in.swap(this, Ordering::Relaxed) == this {
            return Decision::Drop;
        }
        Decision::DropAndLog
    }
}

// === impl Minute ===

impl Minute {
    /// Counts one more, and returns how many there were; another minute than the last begins at none.
    fn count(&mut self, minute: i64, hash: u64) -> u32 {
        if self.minute != minute {
            *self = Minute {
                minute,
                rejections: HashMap::new(),
            };
        }
        let is_full = self.rejections.len() >= SHARD_DEVICES_MAX;
        let counted_as = match is_full && !self.rejections.contains_key(&hash) {
            true => OTHERS,
            false => hash,
        };
        let rejections = self.rejections.entry(counted_as).or_default();
        let before = *rejections;
        *rejections = before.saturating_add(1);
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many rejections, one after the other, how many are kept.
    fn kept(allowance: &DeadLetterAllowance, device: &str, now_ms: i64, rejections: u32) -> u32 {
        (0..rejections)
            .map(|_| u32::from(allowance.spend(device, now_ms) == Decision::Keep))
            .sum()
    }

    #[test]
    fn the_first_of_a_minute_are_kept_and_one_in_a_hundred_beyond() {
        let allowance = DeadLetterAllowance::new(10);
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
                kept(&allowance, "a", now_ms, rejections),
                expected,
                "{rejections} at {now_ms}"
            );
        }
    }

    #[test]
    fn a_device_that_exceeds_its_allowance_takes_nothing_from_others() {
        let allowance = DeadLetterAllowance::new(5);
        kept(&allowance, "loud", 0, 10_000);
        for number in 0..10_000 {
            assert_eq!(kept(&allowance, &format!("quiet-{number}"), 0, 5), 5, "quiet-{number}");
        }
    }

    #[test]
    fn devices_without_end_take_no_memory_without_end() {
        let allowance = DeadLetterAllowance::new(5);
        let devices = 2 * DEVICES_MAX as u32;
        let all_kept = (0..devices)
            .map(|number| kept(&allowance, &number.to_string(), 0, 1))
            .sum::<u32>();
        let most = DEVICES_MAX as u32 + devices / SAMPLED + SHARDS as u32 * 6;
        assert!(all_kept <= most, "{all_kept} of {devices} kept");
        for shard in &allowance.shards {
            assert!(shard.lock().unwrap().rejections.len() <= SHARD_DEVICES_MAX + 1);
        }
    }

    #[test]
    fn one_line_a_minute_is_worth_logging() {
        let allowance = DeadLetterAllowance::new(0);
        let mut lines = 0;
        for second in 0..180 {
            for device in ["a", "b", "c"] {
                lines += u32::from(allowance.spend(device, second * 1000) == Decision::DropAndLog);
            }
        }
        assert_eq!(lines, 3);
    }
}
