//! What the writer, the reader and whoever commits agree on: which segments there are, how far they are safe, and what
//! of them needs no replay. Held under one lock for moments only; no I/O is done here.
//!
//! What is durable is decided by the writer alone; readers and the replay only move towards it.

use std::collections::VecDeque;
use std::ops::Range;

use super::cursor::Committed;
use super::segment;

/// A segment file with entries (or about to have some).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub epoch: u32,
    /// Size of the file.
    pub file_bytes: u64,
    /// Its entries' sequences.
    pub sequences: Range<u64>,
    /// Offset behind the last durable frame.
    pub end: u64,
    /// How many of its entries are committed (or missing).
    pub committed: u64,
}

/// The books.
#[derive(Debug)]
pub struct Ledger {
    /// Oldest first; the last one is written to.
    parts: VecDeque<Part>,
    committed: Committed,
    /// The sequence after the last durable one.
    next: u64,
    /// Entries below it may be read: their owner knows that they are durable.
    readable: u64,
    /// When the entry of a sequence arrived: one mark a second, so that hours of small entries cost little.
    arrivals: VecDeque<(u64, i64)>,
}

/// Marks closer than this to the one before are left out.
const ARRIVAL_STEP_MS: i64 = 1000;

// === impl Part ===

impl Part {
    /// A segment without entries.
    pub fn empty(epoch: u32, file_bytes: u64, next: u64) -> Self {
        Part {
            epoch,
            file_bytes,
            sequences: next..next,
            end: segment::HEADER_BYTES as u64,
            committed: 0,
        }
    }

    /// How many of its entries are neither committed nor missing.
    pub fn uncommitted(&self) -> u64 {
        self.sequences.end - self.sequences.start - self.committed
    }

    /// Bytes of its frames that are uncommitted, if its entries are alike.
    fn uncommitted_bytes(&self) -> u64 {
        let entries = self.sequences.end - self.sequences.start;
        let frames = self.end.saturating_sub(segment::HEADER_BYTES as u64);
        let uncommitted = u128::from(frames) * u128::from(entries - self.committed);
        (uncommitted / u128::from(entries.max(1))) as u64
    }
}

// === impl Ledger ===

impl Ledger {
    /// No segment exists; all below `low` is done.
    pub fn new(low: u64) -> Self {
        Ledger {
            parts: VecDeque::new(),
            committed: Committed::from(low),
            next: low,
            readable: low,
            arrivals: VecDeque::new(),
        }
    }

    /// A segment that was found; its entries are readable at once.
    pub fn recover(&mut self, mut part: Part) {
        let already_done = self.low().clamp(part.sequences.start, part.sequences.end);
        part.committed = already_done - part.sequences.start;
        self.next = self.next.max(part.sequences.end);
        self.readable = self.next;
        self.parts.push_back(part);
    }

    /// A new segment, which is written to from now on.
    pub fn start(&mut self, epoch: u32, file_bytes: u64) {
        self.parts.push_back(Part::empty(epoch, file_bytes, self.next));
    }

    /// Entries became durable in the last segment.
    pub fn append(&mut self, entries: u64, bytes: u64) {
        self.next += entries;
        if let Some(part) = self.parts.back_mut() {
            part.sequences.end += entries;
            part.end += bytes;
        }
    }

    /// Remembers when an entry arrived; sequences in order.
    pub fn arrived(&mut self, sequence: u64, arrived_ms: i64) {
        let passed_ms = self.arrivals.back().map(|(_, last)| arrived_ms.saturating_sub(*last));
        // A clock that was set back makes a mark as well: it must not hide the entries that come after.
        if passed_ms.is_none_or(|passed_ms| !(0..ARRIVAL_STEP_MS).contains(&passed_ms)) {
            self.arrivals.push_back((sequence, arrived_ms));
        }
    }

    /// The owner of all durable entries was told.
    pub fn told(&mut self) {
        self.readable = self.next;
    }

    /// Marks as done; returns how many of them were not. Sequences that were never given out are left alone.
    pub fn commit(&mut self, sequences: Range<u64>) -> u64 {
        let mut newly = 0;
        for sequence in sequences.start..sequences.end.min(self.next) {
            if self.committed.insert(sequence) {
                newly += 1;
                let index = self.parts.partition_point(|part| part.sequences.end <= sequence);
                if let Some(part) = self
                    .parts
                    .get_mut(index)
                    .filter(|part| part.sequences.contains(&sequence))
                {
                    part.committed += 1;
                }
            }
        }
        // The mark before the low-water mark tells of the entry at it, and is kept.
        while self
            .arrivals
            .get(1)
            .is_some_and(|(sequence, _)| *sequence <= self.committed.low())
        {
            self.arrivals.pop_front();
        }
        newly
    }

    pub fn is_committed(&self, sequence: u64) -> bool {
        self.committed.contains(sequence)
    }

    pub fn low(&self) -> u64 {
        self.committed.low()
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn readable(&self) -> u64 {
        self.readable
    }

    /// The segment that holds the first entry at or after `sequence`.
    pub fn part_of(&self, sequence: u64) -> Option<&Part> {
        let index = self.parts.partition_point(|part| part.sequences.end <= sequence);
        self.parts.get(index)
    }

    /// The segments, oldest first.
    pub fn epochs(&self) -> impl Iterator<Item = u32> {
        self.parts.iter().map(|part| part.epoch)
    }

    /// All segments, oldest first; the last is the one that is written to.
    pub fn parts(&self) -> Vec<Part> {
        self.parts.iter().cloned().collect()
    }

    pub fn has(&self, epoch: u32) -> bool {
        self.parts.iter().any(|part| part.epoch == epoch)
    }

    /// Whether the oldest segment has nothing that is needed above `saved_low`.
    pub fn oldest_is_done(&self, low: u64) -> bool {
        self.parts.len() > 1 && self.parts.front().is_some_and(|part| part.sequences.end <= low)
    }

    /// Strikes the oldest segment off the books if it [is done](Ledger::oldest_is_done).
    pub fn take_done(&mut self, saved_low: u64) -> Option<Part> {
        self.oldest_is_done(saved_low).then(|| self.parts.pop_front()).flatten()
    }

    /// Uncommitted entries and their bytes on disk; the bytes are an estimate within segments that are partly done.
    pub fn uncommitted(&self) -> (u64, u64) {
        let entries = self.parts.iter().map(Part::uncommitted);
        (entries.sum(), self.parts.iter().map(Part::uncommitted_bytes).sum())
    }

    /// Arrival of the oldest uncommitted entry, up to a second too early.
    pub fn oldest_ms(&self) -> Option<i64> {
        let low = self.low();
        // The last mark at or before it: those of entries that are done stay until the next one is committed.
        let behind = self.arrivals.partition_point(|(sequence, _)| *sequence <= low);
        let mark = self.arrivals.get(behind.saturating_sub(1));
        mark.filter(|_| low < self.next).map(|(_, arrived_ms)| *arrived_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(10);
        ledger.start(1, 1000);
        ledger.append(4, 400);
        ledger.start(2, 1000);
        ledger.append(2, 100);
        ledger
    }

    #[test]
    fn commits_in_any_order_are_counted_once() {
        let mut ledger = ledger();
        assert_eq!(ledger.uncommitted(), (6, 500));
        assert_eq!(ledger.commit(11..13), 2);
        assert_eq!(ledger.commit(11..12), 0);
        assert_eq!((ledger.low(), ledger.uncommitted()), (10, (4, 300)));
        assert_eq!(ledger.commit(10..11), 1);
        assert_eq!(ledger.low(), 13);
        assert_eq!(ledger.commit(90..99), 0, "never given out");
        assert!(ledger.take_done(13).is_none());
        assert_eq!(ledger.commit(13..14), 1);
        assert!(ledger.take_done(13).is_none(), "the saved cursor decides");
        assert_eq!(ledger.take_done(14).unwrap().epoch, 1);
        assert_eq!(ledger.commit(14..16), 2);
        assert!(ledger.take_done(16).is_none(), "the last one is written to");
        assert_eq!(ledger.uncommitted(), (0, 0));
    }

    #[test]
    fn entries_are_readable_once_their_owner_was_told() {
        let mut ledger = ledger();
        assert_eq!(ledger.readable(), 10);
        ledger.told();
        assert_eq!(ledger.readable(), 16);
    }

    #[test]
    fn the_oldest_age_follows_the_low_water_mark() {
        let mut ledger = ledger();
        for (sequence, arrived_ms) in [
            (10, 5_000),
            (11, 5_400),
            (12, 6_100),
            (13, 6_200),
            (14, 2_000),
            (15, 2_100),
        ] {
            ledger.arrived(sequence, arrived_ms);
        }
        let mut check = |commit: Range<u64>, expected| {
            ledger.commit(commit);
            assert_eq!(ledger.oldest_ms(), expected);
        };
        check(0..0, Some(5_000));
        check(10..11, Some(5_000));
        check(12..13, Some(5_000));
        check(11..12, Some(6_100));
        check(13..14, Some(2_000));
        check(14..16, None);
        // What was replayed long ago says nothing of what comes now.
        ledger.append(1, 100);
        ledger.arrived(16, 90_000);
        assert_eq!(ledger.oldest_ms(), Some(90_000));
    }
}
