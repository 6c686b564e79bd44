//! What the producer holds and Kafka should have confirmed by now, or the spool has as well, by group: copied sends, sends
//! that the spool did not accept, and entries that were replayed.
//!
//! The replay passes over the groups of copied sends, whose entries it could not tell from the copies, and over *stalled*
//! groups: those of which the producer holds something and Kafka has confirmed nothing for a while. What it passed over it
//! comes to again, from the oldest on, when the producer holds nothing of the group any more. A copy that Kafka has confirmed
//! and the disk has not written is no longer held: it says nothing of Kafka. Pure: `stalled` acts on it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::compaction::Compaction;
use super::in_flight::InFlight;
use super::key_groups::KeyGroups;

/// See the module.
#[derive(Debug, Default)]
pub struct Unconfirmed {
    key_groups: HashMap<usize, Group>,
    /// Sequences of replayed entries.
    replayed: HashSet<u64>,
    all: Held,
    /// What of it is of stalled groups.
    stalled: Held,
    stalled_groups: usize,
    /// When each group of which the producer holds something is to be looked at, unless it is stalled.
    checks: BTreeSet<(Instant, usize)>,
    /// Changes when a copy is made, and whenever an entry may have been committed: what was read before is to be compared
    /// with what is committed by now.
    changes: u64,
    /// Some groups are to be replayed again, from their oldest entry on.
    returns: bool,
}

/// Counts of sends.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Their record is, or is about to be, in the spool as well.
    copies: usize,
    /// Those of them that the producer still holds.
    copies_held: usize,
    /// Not confirmed in time, and not accepted by the spool.
    uncopied: usize,
    replayed: usize,
    replayed_bytes: usize,
}

/// What of it is of one group.
#[derive(Debug)]
struct Group {
    held: Held,
    /// Since when the producer has held something of the group, or Kafka last confirmed something of it.
    since: Instant,
    /// When that was sent.
    sent_at: Instant,
    /// When it is to be looked at.
    check_at: Option<Instant>,
    is_stalled: bool,
    /// Some of its entries were passed over since the replay began with the oldest.
    was_passed: bool,
    /// How many entries of earlier runs were found to be of it, while it is passed over: all below this sequence.
    identified: u32,
    identified_to: u64,
}

/// When a group counts as stalled.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub now: Instant,
    /// Kafka has confirmed something that was not sent before what is held.
    pub overtaken: Duration,
    /// It has not.
    pub otherwise: Duration,
    /// How soon that is looked at again.
    pub look_again: Duration,
    /// When the latest was sent of those that Kafka has confirmed.
    pub confirmed_sent_at: Option<Instant>,
}

// === impl Unconfirmed ===

impl Unconfirmed {
    pub fn is_empty(&self) -> bool {
        self.key_groups.is_empty()
    }

    /// Sends whose record is, or is about to be, in the spool as well.
    pub fn copies(&self) -> usize {
        self.all.copies
    }

    /// Those whose groups are not stalled: an answer for them is expected soon.
    pub fn copies_awaited(&self) -> usize {
        self.all.copies - self.stalled.copies
    }

    /// Replayed records.
    pub fn replayed(&self) -> usize {
        self.all.replayed
    }

    pub fn replayed_awaited(&self) -> usize {
        self.all.replayed - self.stalled.replayed
    }

    /// Bytes of replayed records: of those whose groups are not stalled, and of all.
    pub fn replayed_bytes(&self) -> (usize, usize) {
        let all = self.all.replayed_bytes;
        (all - self.stalled.replayed_bytes, all)
    }

    /// Whether the producer holds this entry.
    pub fn is_replayed(&self, sequence: u64) -> bool {
        self.replayed.contains(&sequence)
    }

    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Something was committed.
    pub fn changed(&mut self) {
        self.changes += 1;
    }

    /// Groups that have copies.
    pub fn copied_groups(&self) -> impl Iterator<Item = usize> {
        let with_copies = self.key_groups.iter().filter(|(_, group)| group.held.copies > 0);
        with_copies.map(|(group, _)| *group)
    }

    pub fn has_copies(&self, group: usize) -> bool {
        self.all.copies > 0 && self.key_groups.get(&group).is_some_and(|group| group.held.copies > 0)
    }

    pub fn is_stalled(&self, group: usize) -> bool {
        self.stalled_groups > 0 && self.key_groups.get(&group).is_some_and(|group| group.is_stalled)
    }

    /// Sends of stalled groups.
    pub fn stalled(&self) -> usize {
        self.stalled_entries() + self.stalled.uncopied
    }

    /// Those of which the spool has entries.
    pub fn stalled_entries(&self) -> usize {
        self.stalled.copies + self.stalled.replayed
    }

    pub fn stalled_groups(&self) -> usize {
        self.stalled_groups
    }

    /// A send was copied.
    pub fn copied(&mut self, group: usize, sent_at: Instant, now: Instant, key_groups: &mut KeyGroups) {
        self.changes += 1;
        self.begin_to_hold(group, sent_at, now);
        self.change(group, |held| {
            held.copies += 1;
            held.copies_held += 1;
        });
        key_groups.pass_over(group);
    }

    /// The producer does not hold a copied send any more; the spool may not have answered yet.
    pub fn copy_reported(&mut self, group: usize, key_groups: &mut KeyGroups) {
        self.change(group, |held| held.copies_held -= 1);
        self.ended(group, key_groups);
    }

    /// Nor is the spool to answer for it any more.
    pub fn copy_ended(&mut self, group: usize, key_groups: &mut KeyGroups) {
        self.changes += 1;
        self.change(group, |held| held.copies -= 1);
        self.ended(group, key_groups);
    }

    /// A send was not confirmed in time, and the spool did not accept it.
    pub fn not_copied(&mut self, group: usize, sent_at: Instant, now: Instant) {
        self.begin_to_hold(group, sent_at, now);
        self.change(group, |held| held.uncopied += 1);
    }

    /// The producer does not hold it any more.
    pub fn uncopied_ended(&mut self, group: usize, key_groups: &mut KeyGroups) {
        self.change(group, |held| held.uncopied -= 1);
        self.ended(group, key_groups);
    }

    /// The producer was given an entry; `since` is when that begins to count.
    pub fn replaying(&mut self, group: usize, (sequence, bytes): (u64, usize), sent_at: Instant, since: Instant) {
        self.replayed.insert(sequence);
        self.begin_to_hold(group, sent_at, since);
        self.change(group, |held| {
            held.replayed += 1;
            held.replayed_bytes += bytes;
        });
    }

    /// The producer does not hold it any more. What is to be counted again must be by now.
    pub fn replay_ended(&mut self, group: usize, (sequence, bytes): (u64, usize), key_groups: &mut KeyGroups) {
        self.changes += 1;
        self.replayed.remove(&sequence);
        self.change(group, |held| {
            held.replayed -= 1;
            held.replayed_bytes -= bytes;
        });
        self.ended(group, key_groups);
    }

    /// Kafka confirmed a record of this group.
    pub fn confirmed(&mut self, group: usize, sent_at: Instant, now: Instant) {
        if let Some(group) = self.key_groups.get_mut(&group) {
            group.since = group.since.max(now);
            group.sent_at = group.sent_at.max(sent_at);
        }
    }

    fn change(&mut self, group: usize, change: impl Fn(&mut Held)) {
        let Some(counts) = self.key_groups.get_mut(&group) else {
            return debug_assert!(false, "nothing is known of group {group}");
        };
        change(&mut counts.held);
        change(&mut self.all);
        if counts.is_stalled {
            change(&mut self.stalled);
        }
    }

    fn begin_to_hold(&mut self, group: usize, sent_at: Instant, since: Instant) {
        let counts = self
            .key_groups
            .entry(group)
            .or_insert_with(|| Group::new(since, sent_at));
        if !counts.held.is_any() {
            (counts.since, counts.sent_at) = (since, sent_at);
        }
        if counts.check_at.is_none() && !counts.is_stalled {
            counts.check_at = Some(since);
            self.checks.insert((since, group));
        }
    }

    fn ended(&mut self, group: usize, key_groups: &mut KeyGroups) {
        let Some(counts) = self.key_groups.get_mut(&group) else {
            return;
        };
        if !counts.held.is_any() {
            if let Some(at) = counts.check_at.take() {
                self.checks.remove(&(at, group));
            }
            if counts.is_stalled {
                counts.is_stalled = false;
                self.stalled_groups -= 1;
                self.stalled.add(&counts.held, usize::wrapping_sub);
                key_groups.released(group);
            }
        }
        if counts.held.copies > 0 || counts.is_stalled {
            return;
        }
        if key_groups.is_passed_over(group) {
            if counts.was_passed && key_groups.has_waiting(group) {
                self.returns = true;
                return;
            }
            counts.come_to_again(group, key_groups);
        }
        if !counts.held.is_any() {
            self.key_groups.remove(&group);
        }
    }

    /// Nothing of this group is confirmed while others are: its new records go to the spool. False: that is known, or the
    /// producer holds nothing of it.
    pub fn stall(&mut self, group: usize, key_groups: &mut KeyGroups) -> bool {
        let Some(counts) = self.key_groups.get_mut(&group) else {
            return false;
        };
        if counts.is_stalled || !counts.held.is_any() {
            return false;
        }
        counts.is_stalled = true;
        self.stalled_groups += 1;
        self.stalled.add(&counts.held, usize::wrapping_add);
        key_groups.pass_over(group);
        // So that its new records wait, even if none is in the spool.
        key_groups.retained(group);
        true
    }

    /// A group of which the producer has held something for too long, and Kafka has confirmed nothing for as long.
    pub fn overdue(&mut self, limits: Limits) -> Option<usize> {
        let now = limits.now;
        while let Some(&(at, group)) = self.checks.first() {
            if at + limits.overtaken > now {
                return None;
            }
            self.checks.pop_first();
            let Some(counts) = self.key_groups.get_mut(&group) else {
                continue;
            };
            counts.check_at = None;
            let is_overtaken = limits
                .confirmed_sent_at
                .is_some_and(|confirmed| counts.sent_at <= confirmed);
            let next = match counts.since + limits.overtaken <= now {
                false => counts.since,
                true if is_overtaken || counts.since + limits.otherwise <= now => return Some(group),
                true => at.max(counts.since) + limits.look_again,
            };
            counts.check_at = Some(next);
            self.checks.insert((next, group));
        }
        None
    }

    /// Whether the replay is to leave this entry, to which it has come, where it is. `is_unknown`: it is, if of an earlier
    /// run, among those of which nobody knows the group.
    pub fn passes_over(&mut self, sequence: u64, group: usize, is_unknown: bool, key_groups: &mut KeyGroups) -> bool {
        if !key_groups.is_passed_over(group) {
            return false;
        }
        let Some(counts) = self.key_groups.get_mut(&group) else {
            return false;
        };
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
        if let Some(counts) = self.key_groups.get_mut(&group) {
            counts.identified += count;
            counts.identified_to = counts.identified_to.max(to);
        }
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
            let is_over = counts.held.copies == 0 && !counts.is_stalled;
            if is_over && key_groups.is_passed_over(*group) {
                counts.come_to_again(*group, key_groups);
            }
            !is_over || counts.held.is_any()
        });
    }
}

// === impl Held ===

impl Held {
    /// Whether the producer holds any of them.
    fn is_any(&self) -> bool {
        self.copies_held + self.uncopied + self.replayed > 0
    }

    fn add(&mut self, other: &Held, add: impl Fn(usize, usize) -> usize) {
        self.copies = add(self.copies, other.copies);
        self.copies_held = add(self.copies_held, other.copies_held);
        self.uncopied = add(self.uncopied, other.uncopied);
        self.replayed = add(self.replayed, other.replayed);
        self.replayed_bytes = add(self.replayed_bytes, other.replayed_bytes);
    }
}

// === impl Group ===

impl Group {
    fn new(since: Instant, sent_at: Instant) -> Self {
        Group {
            held: Held::default(),
            since,
            sent_at,
            check_at: None,
            is_stalled: false,
            was_passed: false,
            identified: 0,
            identified_to: 0,
        }
    }

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
