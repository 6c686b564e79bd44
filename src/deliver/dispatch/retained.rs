//! Records that are retained in memory for a moment while the replay catches up.
//!
//! When only little is left to replay, new records of waiting key groups wait here instead of going through the spool: once
//! all that is spooled was given to the producer, they follow straight behind it. Bounded in number, bytes and time;
//! beyond any of the bounds they are given to the spool after all, in their order. So do those of stalled groups while the
//! last entries of these are being moved (`compact`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::pending::Pending;

/// Retaining begins when no more than this is left to be given to the producer or to be confirmed by Kafka: what is
/// retained waits for the one, and stands behind the other.
const BEHIND_MAX: u64 = 1_000;
const RECORDS_MAX: usize = 5_000;
const BYTES_MAX: usize = 16 << 20;
/// Longer than an fsync or two; after that their devices have waited long enough.
const RETAIN_MAX: Duration = Duration::from_millis(200);
/// How soon it is retried.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct Retained {
    records: VecDeque<PendingRecord>,
    bytes: usize,
    /// Some are of stalled groups.
    has_stalled: bool,
    not_before: Option<Instant>,
}

/// A record with those who wait for it.
#[derive(Debug)]
pub struct PendingRecord {
    pub encoded: Vec<u8>,
    pub pending: Pending,
    pub group: usize,
    /// When it arrived.
    pub since: Instant,
}

// === impl PendingRecord ===

impl PendingRecord {
    pub fn new(encoded: Vec<u8>, pending: Pending, group: usize, since: Instant) -> Self {
        PendingRecord {
            encoded,
            pending,
            group,
            since,
        }
    }
}

// === impl Retained ===

impl Retained {
    /// Whether one more may wait, with so many records before it: in the spool, or with the producer for their replay.
    pub fn accepts(&self, now: Instant, behind: u64) -> bool {
        behind <= BEHIND_MAX
            && self.records.len() < RECORDS_MAX
            && self.bytes < BYTES_MAX
            && self.not_before.is_none_or(|not_before| not_before <= now)
    }

    pub fn push(&mut self, record: PendingRecord, is_stalled: bool) {
        self.has_stalled |= is_stalled;
        self.bytes += record.encoded.len();
        self.records.push_back(record);
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn has_stalled(&self) -> bool {
        self.has_stalled
    }

    pub fn is_overdue(&self, now: Instant) -> bool {
        let first = self.records.front();
        first.is_some_and(|first| now.saturating_duration_since(first.since) > RETAIN_MAX)
    }

    pub fn key_groups(&self) -> impl Iterator<Item = usize> {
        self.records.iter().map(|waiting| waiting.group)
    }

    /// All of them, oldest first: the way is free.
    pub fn release(&mut self) -> VecDeque<PendingRecord> {
        (self.bytes, self.has_stalled) = (0, false);
        std::mem::take(&mut self.records)
    }

    /// The same, for the spool; none is retained for a while.
    pub fn give_up(&mut self, now: Instant) -> VecDeque<PendingRecord> {
        if !self.records.is_empty() {
            self.not_before = Some(now + RETRY_INTERVAL);
        }
        self.release()
    }
}
