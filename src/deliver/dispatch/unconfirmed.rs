//! What the producer holds although the spool has it as well, by group: copied sends, and entries that were replayed.
//!
//! The replay passes over the groups of copied sends, whose entries it could not tell from the copies, and over *stalled*
//! groups: those of which Kafka confirms nothing while it confirms others. What it passed over it comes to again when the
//! producer holds nothing of the group any more, as it begins with the oldest. Pure: `stalled` acts on it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use super::compaction::Compaction;
use super::in_flight::{InFlight, SendId};
use super::key_groups::KeyGroups;

/// So many sends that have ended may be remembered, besides as many as the producer holds.
const ENDED_MAX: usize = 1_024;

/// What the producer holds and the spool has as well.
#[derive(Debug, Default)]
pub struct Unconfirmed {
    key_groups: HashMap<usize, Group>,
    /// Sequences of replayed entries.
    replayed: HashSet<u64>,
    copies: usize,
    /// How many of both are of stalled groups.
    stalled_copies: usize,
    stalled_replayed: usize,
    stalled_groups: usize,
    /// When each was sent, oldest first.
    copied_at: VecDeque<(Instant, SendId)>,
    replayed_at: VecDeque<(Instant, SendId)>,
    /// Changes with every copy that is made or ends, with the end of what was replayed of a stalled group, and when entries
    /// were moved: what was read before may be committed by now.
    changes: u64,
    /// Some groups are to be replayed again, from their oldest entry on.
    returns: bool,
}

/// What of it is of one group.
#[derive(Debug, Default)]
struct Group {
    copies: u32,
    replayed: u32,
    is_stalled: bool,
    /// Some of its entries were passed over since the replay began with the oldest.
    was_passed: bool,
    /// How many entries of earlier runs were found to be of it, while it is passed over: all below this sequence.
    identified: u32,
    identified_to: u64,
}

// === impl Unconfirmed ===

impl Unconfirmed {
    /// Sends whose record is, or is about to be, in the spool as well.
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// Those whose groups are not stalled: an answer for them is expected soon.
    pub fn copies_awaited(&self) -> usize {
        self.copies - self.stalled_copies
    }

    /// Replayed records.
    pub fn replayed(&self) -> usize {
        self.replayed.len()
    }

    pub fn replayed_awaited(&self) -> usize {
        self.replayed.len() - self.stalled_replayed
    }

    pub fn changes(&self) -> u64 {
        self.changes
    }

    pub fn changed(&mut self) {
        self.changes += 1;
    }

    /// Groups that have copies.
    pub fn copied_groups(&self) -> impl Iterator<Item = usize> {
        let with_copies = self.key_groups.iter().filter(|(_, group)| group.copies > 0);
        with_copies.map(|(group, _)| *group)
    }

    pub fn is_stalled(&self, group: usize) -> bool {
        self.stalled_groups > 0 && self.key_groups.get(&group).is_some_and(|group| group.is_stalled)
    }

    /// What of all that is of stalled groups.
    pub fn stalled(&self) -> usize {
        self.stalled_copies + self.stalled_replayed
    }

    pub fn stalled_groups(&self) -> usize {
        self.stalled_groups
    }

    /// A send was copied.
    pub fn copied(&mut self, group: usize, (sent_at, id): (Instant, SendId), key_groups: &mut KeyGroups) {
        self.changes += 1;
        self.copies += 1;
        self.copied_at.push_back((sent_at, id));
        let counts = self.key_groups.entry(group).or_default();
        counts.copies += 1;
        self.stalled_copies += usize::from(counts.is_stalled);
        key_groups.pass_over(group);
    }

    /// The producer does not hold it any more, or the spool will not have it.
    pub fn copy_ended(&mut self, group: usize, key_groups: &mut KeyGroups) {
        self.changes += 1;
        self.copies -= 1;
        if let Some(counts) = self.key_groups.get_mut(&group) {
            counts.copies -= 1;
            self.stalled_copies -= usize::from(counts.is_stalled);
        }
        self.ended(group, key_groups);
    }

    /// The producer was given an entry.
    pub fn replaying(&mut self, group: usize, sequence: u64, (sent_at, id): (Instant, SendId)) {
        self.replayed.insert(sequence);
        self.replayed_at.push_back((sent_at, id));
        self.key_groups.entry(group).or_default().replayed += 1;
    }

    /// The producer does not hold it any more. What is to be counted again must be by now.
    pub fn replay_ended(&mut self, group: usize, sequence: u64, key_groups: &mut KeyGroups) {
        self.replayed.remove(&sequence);
        if let Some(counts) = self.key_groups.get_mut(&group) {
            counts.replayed -= 1;
            self.stalled_replayed -= usize::from(counts.is_stalled);
            self.changes += u64::from(counts.is_stalled);
        }
        self.ended(group, key_groups);
    }

    fn ended(&mut self, group: usize, key_groups: &mut KeyGroups) {
        let Some(counts) = self.key_groups.get_mut(&group) else {
            return;
        };
        if counts.copies == 0 && counts.replayed == 0 && counts.is_stalled {
            counts.is_stalled = false;
            self.stalled_groups -= 1;
            key_groups.released(group);
        }
        if counts.copies > 0 || counts.is_stalled {
            return;
        }
        if key_groups.is_passed_over(group) {
            if counts.was_passed && key_groups.has_waiting(group) {
                self.returns = true;
                return;
            }
            counts.come_to_again(group, key_groups);
        }
        if counts.replayed == 0 {
            self.key_groups.remove(&group);
        }
    }

    /// Nothing of this group is confirmed while others are: its new records go to the spool. False: it is known, or the
    /// spool does not have what the producer holds.
    pub fn stall(&mut self, group: usize, key_groups: &mut KeyGroups) -> bool {
        let Some(counts) = self.key_groups.get_mut(&group) else {
            return false;
        };
        if counts.is_stalled || counts.copies + counts.replayed == 0 {
            return false;
        }
        counts.is_stalled = true;
        self.stalled_groups += 1;
        self.stalled_copies += counts.copies as usize;
        self.stalled_replayed += counts.replayed as usize;
        key_groups.pass_over(group);
        // So that its new records wait, even if none is in the spool.
        key_groups.retained(group);
        true
    }

    /// The group of a send that the producer has held for too long.
    pub fn overdue(&mut self, is_overdue: impl Fn(Instant) -> bool, in_flight: &mut InFlight) -> Option<usize> {
        for sends in [&mut self.copied_at, &mut self.replayed_at] {
            while let Some((at, id)) = sends.front().copied() {
                let send = in_flight.get(id).filter(|send| send.progress.is_in_spool());
                if send.is_some() && !is_overdue(at) {
                    break;
                }
                sends.pop_front();
                if let Some(send) = send {
                    return Some(send.group);
                }
            }
        }
        None
    }

    /// Forgets when sends were made that have ended: nobody asks for those that are overdue while Kafka is unavailable.
    pub fn forget_ended(&mut self, in_flight: &mut InFlight) {
        let held = [self.copies, self.replayed.len()];
        for (sends, held) in [&mut self.copied_at, &mut self.replayed_at].into_iter().zip(held) {
            if sends.len() > 2 * held + ENDED_MAX {
                sends.retain(|(_, id)| in_flight.get(*id).is_some());
            }
        }
    }

    /// Whether the replay is to leave this entry, to which it has come, where it is. `is_unknown`: it is, if of an earlier
    /// run, among those of which nobody knows the group.
    pub fn passes_over(&mut self, sequence: u64, group: usize, is_unknown: bool, key_groups: &mut KeyGroups) -> bool {
        if self.replayed.contains(&sequence) {
            return true;
        }
        if !key_groups.is_passed_over(group) {
            return false;
        }
        let counts = self.key_groups.entry(group).or_default();
        counts.was_passed = true;
        if is_unknown && key_groups.is_recovered(sequence) && sequence >= counts.identified_to {
            key_groups.identified(group);
            key_groups.spooled_again(group, 1);
            counts.identified += 1;
            counts.identified_to = sequence + 1;
        }
        true
    }

    /// So many entries of earlier runs are known to be of this group, which is passed over: all below this sequence.
    pub fn identified(&mut self, group: usize, count: u32, to: u64, key_groups: &mut KeyGroups) {
        let counts = self.key_groups.entry(group).or_default();
        counts.identified += count;
        counts.identified_to = counts.identified_to.max(to);
        key_groups.spooled_again(group, count);
    }

    /// The producer gives an entry back, which is to be replayed once more.
    pub fn given_back(&mut self, sequence: u64, group: usize, key_groups: &mut KeyGroups) {
        match self.key_groups.get_mut(&group) {
            Some(counts) if key_groups.is_recovered(sequence) && sequence < counts.identified_to => {
                counts.identified += 1;
                key_groups.spooled(group);
            }
            _ => key_groups.given_back(sequence, group),
        }
    }

    /// Entries of stalled groups were moved, those of earlier runs as well.
    pub fn moved(&mut self, moved: &Compaction, in_flight: &mut InFlight) {
        in_flight.moved(moved);
        let replayed = self.replayed.drain();
        self.replayed = replayed
            .map(|sequence| moved.copy_of(sequence).unwrap_or(sequence))
            .collect();
        for counts in self.key_groups.values_mut().filter(|counts| counts.is_stalled) {
            (counts.identified, counts.identified_to) = (0, 0);
        }
    }

    /// Whether the replay is to begin with the oldest so that it comes to some groups again.
    pub fn returns(&self) -> bool {
        self.returns
    }

    /// The replay begins with the oldest.
    pub fn rewound(&mut self, key_groups: &mut KeyGroups) {
        self.returns = false;
        self.key_groups.retain(|group, counts| {
            counts.was_passed = false;
            let is_over = counts.copies == 0 && !counts.is_stalled;
            if is_over && key_groups.is_passed_over(*group) {
                counts.come_to_again(*group, key_groups);
            }
            !is_over || counts.replayed > 0
        });
    }
}

// === impl Group ===

impl Group {
    /// Its entries are as they would be if it had never been passed over.
    fn come_to_again(&mut self, group: usize, key_groups: &mut KeyGroups) {
        for _ in 0..self.identified {
            key_groups.not_spooled(group);
        }
        key_groups.unidentified(group, self.identified);
        key_groups.pass_over_no_more(group);
        (self.identified, self.identified_to, self.was_passed) = (0, 0, false);
    }
}
