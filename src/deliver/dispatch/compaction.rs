//! How far a compaction of deferred records is: which were copied to the end of the store, and what the copies are.
//!
//! Pure: `compact` does it.

use std::time::Instant;

/// Copies that wait to be written; more are not made.
const WRITING_MAX: usize = 4_096;

/// Whether deferred records are being moved.
#[derive(Debug, Default)]
pub struct Compactions {
    pub(super) now: Option<Compaction>,
    /// Tells compactions apart; never 0 for one.
    pub(super) number: u64,
    pub(super) not_before: Option<Instant>,
    /// The last one was given up since records came in faster than they were read.
    pub(super) overran: bool,
}

/// One compaction of all that is deferred, or of all that waits for partitions that stall.
#[derive(Debug)]
pub(super) struct Compaction {
    pub(super) began: Instant,
    pub(super) is_of_stalled: bool,
    /// Sequences that were copied, and those of their durable copies; in order.
    pub(super) originals: Vec<u64>,
    pub(super) copies: Vec<u64>,
    /// No record is left to be copied; those that come now stand behind the last copy.
    pub(super) is_complete: bool,
    /// Few are left: no new one is appended until they are copied.
    pub(super) is_finishing: bool,
    pub(super) records_max: u64,
}

// === impl Compaction ===

impl Compaction {
    pub fn new(began: Instant, is_of_stalled: bool, records_max: u64) -> Self {
        Compaction {
            began,
            is_of_stalled,
            originals: Vec::new(),
            copies: Vec::new(),
            is_complete: false,
            is_finishing: false,
            records_max,
        }
    }

    /// Under which sequence this entry is in the store now.
    pub fn copy_of(&self, original: u64) -> Option<u64> {
        let at = self.originals.binary_search(&original).ok()?;
        self.copies.get(at).copied()
    }
}

// === impl Compactions ===

impl Compactions {
    /// The store is to write some copies first.
    pub fn must_pause(&self) -> bool {
        let writing = |now: &Compaction| now.originals.len() - now.copies.len();
        self.now.as_ref().is_some_and(|now| writing(now) >= WRITING_MAX)
    }

    /// Whether what comes in now waits for the last copies.
    pub fn is_finishing(&self) -> bool {
        let now = self.now.as_ref();
        now.is_some_and(|now| now.is_finishing && !now.is_complete)
    }

    pub fn is_copy(&self, sequence: u64) -> bool {
        let copies = self.now.as_ref().map(|now| &now.copies);
        copies.is_some_and(|copies| copies.binary_search(&sequence).is_ok())
    }

    pub(super) fn has_overrun(&self) -> bool {
        let overruns = |now: &Compaction| now.originals.len() as u64 >= now.records_max;
        self.now.as_ref().is_some_and(overruns)
    }

    /// Whether this record is to be copied now.
    pub(super) fn wants(&self, sequence: u64) -> bool {
        let is_behind = |now: &Compaction| now.originals.last().is_none_or(|last| *last < sequence);
        self.now.as_ref().is_some_and(|now| !now.is_complete && is_behind(now))
    }
}
