//! What a spool should do, said in as few words as possible: a map from sequence to entry, and a set of what is done.
//!
//! It knows nothing of files. An entry's bytes follow from its number, so that whatever comes back can be told from
//! what never was.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use citygate::deliver::spool::Failure;

#[derive(Debug, Default)]
pub struct Model {
    /// Entries that were ever taken.
    taken: u64,
    /// Taken and not told yet, in order.
    waiting: VecDeque<u64>,
    /// Durable: sequence → entry.
    durable: BTreeMap<u64, u64>,
    committed: BTreeSet<u64>,
    /// Up to here was read.
    position: u64,
    told: u64,
    /// Entries that were reported as lost in this life, and are not known to be the ones that are.
    allowance: u64,
    pub reported_loss: u64,
}

type Finding = Result<(), String>;

// === impl Model ===

impl Model {
    /// The bytes of an entry.
    pub fn entry(id: u64) -> Vec<u8> {
        let mixed = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // Mostly small, some empty but for the number, some large.
        let length = match mixed >> 60 {
            0 => 0,
            15 => (mixed >> 20) % 1500,
            _ => (mixed >> 20) % 120,
        };
        let filler = (0..length).map(|at| (mixed >> (at % 56)) as u8);
        id.to_le_bytes().into_iter().chain(filler).collect()
    }

    /// The next entry to append.
    pub fn offer(&self) -> u64 {
        self.taken
    }

    pub fn take(&mut self, id: u64) {
        assert_eq!(id, self.taken);
        self.taken += 1;
        self.waiting.push_back(id);
    }

    /// The spool spoke of a group.
    pub fn told(&mut self, group: Vec<(u64, Result<u64, Failure>)>) -> Finding {
        for (id, result) in group {
            let expected = self.waiting.pop_front();
            if expected != Some(id) {
                return Err(format!("told of entry {id}, not of {expected:?}"));
            }
            if let Ok(sequence) = result {
                let last = self.durable.last_key_value().map(|(sequence, _)| *sequence);
                if last.is_some_and(|last| sequence <= last) {
                    return Err(format!("sequence {sequence} was given out after {last:?}"));
                }
                self.durable.insert(sequence, id);
                self.told += 1;
            }
        }
        Ok(())
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The sequence of one of the durable entries, committed or not.
    pub fn any(&self, choice: u64) -> Option<u64> {
        let count = self.durable.len() as u64;
        self.durable.keys().nth(choice.checked_rem(count)? as usize).copied()
    }

    pub fn uncommitted(&self) -> impl Iterator<Item = (u64, u64)> {
        let all = self
            .durable
            .iter()
            .filter(|(sequence, _)| !self.committed.contains(sequence));
        all.map(|(sequence, id)| (*sequence, *id))
    }

    pub fn commit(&mut self, sequence: u64) {
        self.committed.insert(sequence);
    }

    pub fn rewind(&mut self) {
        self.position = 0;
    }

    /// The spool was read: it must be the next uncommitted entries and nothing else, but for those that were reported
    /// as lost: so many more with this read.
    pub fn read(&mut self, read: &[(u64, Vec<u8>)], newly_lost: u64) -> Finding {
        self.allowance += newly_lost;
        let position = self.position;
        let expected: Vec<_> = self
            .uncommitted()
            .filter(|(sequence, _)| *sequence >= position)
            .collect();
        let mut expected = expected.into_iter();
        for (sequence, entry) in read {
            self.position = sequence + 1;
            loop {
                match expected.next() {
                    Some((next, id)) if next == *sequence => {
                        if *entry != Model::entry(id) {
                            return Err(format!("sequence {sequence} is not entry {id}"));
                        }
                        break;
                    }
                    Some((next, _)) if next < *sequence && self.allowance > 0 => self.lose(next),
                    other => return Err(format!("read sequence {sequence} instead of {other:?}")),
                }
            }
        }
        if read.is_empty() {
            let left: Vec<_> = expected.collect();
            if left.len() as u64 > self.allowance {
                return Err(format!("read nothing, but {left:?} wait"));
            }
            left.into_iter().for_each(|(sequence, _)| self.lose(sequence));
        }
        Ok(())
    }

    fn lose(&mut self, sequence: u64) {
        self.allowance = self.allowance.saturating_sub(1);
        self.durable.remove(&sequence);
        self.committed.remove(&sequence);
        self.reported_loss += 1;
    }

    /// A new life found these entries. What was durable must be among them, unless it is committed or `reported`
    /// missing. What else there is must at least have been taken; it counts as durable from now on.
    pub fn recovered(&mut self, found: &[(u64, Vec<u8>)], reported: &[Range<u64>], anything: bool) -> Finding {
        self.waiting.clear();
        self.position = 0;
        let mut last = None;
        for (sequence, entry) in found {
            if last.is_some_and(|last| *sequence <= last) {
                return Err(format!("sequence {sequence} was read after {last:?}"));
            }
            last = Some(*sequence);
            let id = entry.first_chunk().map(|id| u64::from_le_bytes(*id));
            let id = id.filter(|id| *id < self.taken && *entry == Model::entry(*id));
            let Some(id) = id else {
                return Err(format!("sequence {sequence} holds what was never appended"));
            };
            if let Some(known) = self.durable.get(sequence)
                && *known != id
            {
                return Err(format!("sequence {sequence} was entry {known} and is {id}"));
            }
        }
        let found: BTreeMap<u64, u64> = found
            .iter()
            .map(|(sequence, entry)| (*sequence, u64::from_le_bytes(*entry.first_chunk().unwrap())))
            .collect();
        let lost: Vec<_> = self
            .uncommitted()
            .filter(|(sequence, _)| !found.contains_key(sequence))
            .collect();
        for (sequence, id) in lost {
            if !anything && self.allowance == 0 && !reported.iter().any(|missing| missing.contains(&sequence)) {
                return Err(format!("entry {id} (sequence {sequence}) was acknowledged and is lost"));
            }
            self.lose(sequence);
        }
        // It may have forgotten what was committed last; that is then committed no more. And if the end of the log is
        // spoilt, it may not know that it gave out the last sequences, of entries that were committed.
        self.committed.retain(|sequence| !found.contains_key(sequence));
        self.allowance = 0;
        if anything {
            self.durable.retain(|sequence, _| !self.committed.contains(sequence));
            self.committed.clear();
        }
        self.durable.extend(found);
        Ok(())
    }

    /// All below it is committed.
    pub fn low(&self) -> Option<u64> {
        self.uncommitted().next().map(|(sequence, _)| sequence)
    }

    pub fn told_durable(&self) -> u64 {
        self.told
    }
}
