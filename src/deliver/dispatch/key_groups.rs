//! Who must wait whose turn: the order of a device's records across Kafka, spool and replay.
//!
//! A group is a hash of topic and device. A new record of a group may go straight to Kafka unless an earlier one of it still
//! waits to be given to the producer: in the spool, on its way there, or retained in memory. Once it was given one, the producer keeps
//! the order, so nothing here waits for confirmations.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::message::Record;

/// KeyGroups that order is kept in: all records of a device on a topic share one, few devices share one with others.
pub const KEY_GROUPS: usize = 4096;

/// The group of a record.
pub fn key_group(record: &Record<'_>) -> usize {
    let mut hasher = DefaultHasher::new();
    (record.topic, record.key).hash(&mut hasher);
    hasher.finish() as usize % KEY_GROUPS
}

/// How many records wait for the producer, by group.
#[derive(Debug)]
pub struct KeyGroups {
    waiting: Vec<u32>,
    /// With the producer, and not in the spool as well.
    in_producer: Vec<u32>,
    /// Of those that wait, the ones in the spool or on their way to it; the others are retained in memory.
    spooled: u64,
    /// Entries of earlier runs (sequences below `first_sequence`), whose key_groups nobody knows: while there are any, all wait.
    recovered: u64,
    first_sequence: u64,
}

// === impl KeyGroups ===

impl KeyGroups {
    /// `recovered` entries below `first_sequence` wait in the spool from earlier runs.
    pub fn new(recovered: u64, first_sequence: u64) -> Self {
        KeyGroups {
            waiting: vec![0; KEY_GROUPS],
            in_producer: vec![0; KEY_GROUPS],
            spooled: 0,
            recovered,
            first_sequence,
        }
    }

    /// Whether a new record of this group must not overtake another one.
    pub fn waits(&self, group: usize) -> bool {
        self.recovered > 0 || self.waiting[group] > 0
    }

    /// Records in the spool, or on their way to it, that the producer was not given yet.
    pub fn behind(&self) -> u64 {
        self.spooled + self.recovered
    }

    /// The producer holds a record that the spool does not have.
    pub fn in_producer(&mut self, group: usize) {
        self.in_producer[group] += 1;
    }

    pub fn out_of_producer(&mut self, group: usize) {
        self.in_producer[group] = self.in_producer[group].saturating_sub(1);
    }

    pub fn has_in_producer(&self, group: usize) -> bool {
        self.in_producer[group] > 0
    }

    /// A record is retained in memory.
    pub fn retained(&mut self, group: usize) {
        self.waiting[group] += 1;
    }

    pub fn released(&mut self, group: usize) {
        self.waiting[group] = self.waiting[group].saturating_sub(1);
    }

    /// A record of the spool, or on its way there, is not (or no longer) with the producer.
    pub fn spooled(&mut self, group: usize) {
        self.waiting[group] += 1;
        self.spooled += 1;
    }

    /// The opposite: the producer has it, or the spool does not.
    pub fn unspooled(&mut self, group: usize) {
        self.released(group);
        self.spooled = self.spooled.saturating_sub(1);
    }

    /// The producer was given this entry of the spool.
    pub fn enqueued(&mut self, sequence: u64, group: Option<usize>) {
        match group {
            _ if sequence < self.first_sequence => self.recovered = self.recovered.saturating_sub(1),
            Some(group) => self.unspooled(group),
            None => {}
        }
    }

    /// Whether the entry is of an earlier run.
    pub fn is_recovered(&self, sequence: u64) -> bool {
        sequence < self.first_sequence
    }

    /// An entry of an earlier run turned out to be of this group, and is not waited for by others.
    pub fn identified(&mut self, group: usize) {
        self.recovered = self.recovered.saturating_sub(1);
        self.retained(group);
    }

    /// An entry waits, but nobody behind it except its own group.
    pub fn not_behind(&mut self) {
        self.spooled = self.spooled.saturating_sub(1);
    }

    /// So many entries, and so many of earlier runs, are waited for again.
    pub fn behind_again(&mut self, spooled: u64, recovered: u64) {
        self.spooled += spooled;
        self.recovered += recovered;
    }

    /// The producer gave it back.
    pub fn given_back(&mut self, sequence: u64, group: usize) {
        if sequence < self.first_sequence {
            self.recovered += 1;
        } else {
            self.spooled(group);
        }
    }

    /// The spool has nothing more to replay. Entries that its disk lost would be waited for for ever otherwise.
    pub fn nothing_spooled(&mut self, retained: impl Iterator<Item = usize>) {
        if self.behind() == 0 {
            return;
        }
        (self.spooled, self.recovered) = (0, 0);
        self.waiting.fill(0);
        retained.for_each(|group| self.retained(group));
    }
}
