//! Who must wait whose turn: the order of a device's records across Kafka, spool and replay.
//!
//! A lane is a hash of topic and device. A new record of a lane may go straight to Kafka unless an earlier one of it still
//! waits to be handed to the producer: in the spool, on its way there, or held back. Once handed over, the producer keeps
//! the order, so nothing here waits for confirmations.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::message::Record;

/// Lanes that order is kept in: all records of a device on a topic share one, few devices share one with others.
pub const LANES: usize = 4096;

/// The lane of a record.
pub fn lane(record: &Record<'_>) -> usize {
    let mut hasher = DefaultHasher::new();
    (record.topic, record.key).hash(&mut hasher);
    hasher.finish() as usize % LANES
}

/// How many records wait for the producer, by lane.
#[derive(Debug)]
pub struct Lanes {
    waiting: Vec<u32>,
    /// With the producer, and not in the spool as well.
    aloft: Vec<u32>,
    /// Of those that wait, the ones in the spool or on their way to it; the others are held back in memory.
    spooled: u64,
    /// Entries of earlier runs (sequences below `first_sequence`), whose lanes nobody knows: while there are any, all wait.
    recovered: u64,
    first_sequence: u64,
}

// === impl Lanes ===

impl Lanes {
    /// `recovered` entries below `first_sequence` wait in the spool from earlier runs.
    pub fn new(recovered: u64, first_sequence: u64) -> Self {
        Lanes {
            waiting: vec![0; LANES],
            aloft: vec![0; LANES],
            spooled: 0,
            recovered,
            first_sequence,
        }
    }

    /// Whether a new record of this lane must not overtake another one.
    pub fn waits(&self, lane: usize) -> bool {
        self.recovered > 0 || self.waiting[lane] > 0
    }

    /// Records in the spool, or on their way to it, that the producer was not given yet.
    pub fn behind(&self) -> u64 {
        self.spooled + self.recovered
    }

    /// The producer holds a record that the spool does not have.
    pub fn took_off(&mut self, lane: usize) {
        self.aloft[lane] += 1;
    }

    pub fn touched_down(&mut self, lane: usize) {
        self.aloft[lane] = self.aloft[lane].saturating_sub(1);
    }

    pub fn is_aloft(&self, lane: usize) -> bool {
        self.aloft[lane] > 0
    }

    /// A record is held back in memory.
    pub fn held(&mut self, lane: usize) {
        self.waiting[lane] += 1;
    }

    pub fn let_go(&mut self, lane: usize) {
        self.waiting[lane] = self.waiting[lane].saturating_sub(1);
    }

    /// A record of the spool, or on its way there, is not (or no longer) with the producer.
    pub fn wait(&mut self, lane: usize) {
        self.waiting[lane] += 1;
        self.spooled += 1;
    }

    /// The opposite: the producer has it, or the spool does not.
    pub fn go(&mut self, lane: usize) {
        self.let_go(lane);
        self.spooled = self.spooled.saturating_sub(1);
    }

    /// The producer was given this entry of the spool.
    pub fn handed_over(&mut self, sequence: u64, lane: Option<usize>) {
        match lane {
            _ if sequence < self.first_sequence => self.recovered = self.recovered.saturating_sub(1),
            Some(lane) => self.go(lane),
            None => {}
        }
    }

    /// Whether the entry is of an earlier run.
    pub fn is_recovered(&self, sequence: u64) -> bool {
        sequence < self.first_sequence
    }

    /// An entry of an earlier run turned out to be of this lane, and is not waited for by others.
    pub fn identified(&mut self, lane: usize) {
        self.recovered = self.recovered.saturating_sub(1);
        self.held(lane);
    }

    /// An entry waits, but nobody behind it except its own lane.
    pub fn not_behind(&mut self) {
        self.spooled = self.spooled.saturating_sub(1);
    }

    /// So many entries, and so many of earlier runs, are waited for again.
    pub fn behind_again(&mut self, spooled: u64, recovered: u64) {
        self.spooled += spooled;
        self.recovered += recovered;
    }

    /// The producer gave it back.
    pub fn handed_back(&mut self, sequence: u64, lane: usize) {
        if sequence < self.first_sequence {
            self.recovered += 1;
        } else {
            self.wait(lane);
        }
    }

    /// The spool has nothing more to replay. Entries that its disk lost would be waited for for ever otherwise.
    pub fn nothing_spooled(&mut self, held: impl Iterator<Item = usize>) {
        if self.behind() == 0 {
            return;
        }
        (self.spooled, self.recovered) = (0, 0);
        self.waiting.fill(0);
        held.for_each(|lane| self.held(lane));
    }
}
