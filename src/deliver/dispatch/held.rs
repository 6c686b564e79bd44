//! Records that are held back for a moment while the replay catches up.
//!
//! When only little is left to replay, new records of waiting lanes wait here instead of going through the spool: once
//! all that is spooled was handed to the producer, they follow straight behind it. Bounded in number, bytes and time;
//! beyond any of the bounds they are given to the spool after all, in their order.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::pending::Pending;

/// Holding back begins when no more than this is left to be handed to the producer or to be confirmed by Kafka: what is
/// held back waits for the one, and stands behind the other.
const BEHIND_MAX: u64 = 1_000;
const RECORDS_MAX: usize = 5_000;
const BYTES_MAX: usize = 16 << 20;
/// Longer than an fsync or two; after that their devices have waited long enough.
const HOLD_MAX: Duration = Duration::from_millis(200);
/// How soon it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct Held {
    records: VecDeque<Waiting>,
    bytes: usize,
    not_before: Option<Instant>,
}

/// A record with those who wait for it.
#[derive(Debug)]
pub struct Waiting {
    pub parcel: Vec<u8>,
    pub pending: Pending,
    pub lane: usize,
    /// When it came.
    pub since: Instant,
}

// === impl Waiting ===

impl Waiting {
    pub fn new(parcel: Vec<u8>, pending: Pending, lane: usize, since: Instant) -> Self {
        Waiting {
            parcel,
            pending,
            lane,
            since,
        }
    }
}

// === impl Held ===

impl Held {
    /// Whether one more may wait, with so many records before it: in the spool, or with the producer for their replay.
    pub fn takes(&self, now: Instant, behind: u64) -> bool {
        behind <= BEHIND_MAX
            && self.records.len() < RECORDS_MAX
            && self.bytes < BYTES_MAX
            && self.not_before.is_none_or(|not_before| not_before <= now)
    }

    pub fn push(&mut self, record: Waiting) {
        self.bytes += record.parcel.len();
        self.records.push_back(record);
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn is_overdue(&self, now: Instant) -> bool {
        let first = self.records.front();
        first.is_some_and(|first| now.saturating_duration_since(first.since) > HOLD_MAX)
    }

    pub fn lanes(&self) -> impl Iterator<Item = usize> {
        self.records.iter().map(|waiting| waiting.lane)
    }

    /// All of them, oldest first: the way is free.
    pub fn release(&mut self) -> VecDeque<Waiting> {
        self.bytes = 0;
        std::mem::take(&mut self.records)
    }

    /// The same, for the spool; none is held back for a while.
    pub fn give_up(&mut self, now: Instant) -> VecDeque<Waiting> {
        if !self.records.is_empty() {
            self.not_before = Some(now + TRY_AGAIN);
        }
        self.release()
    }
}
