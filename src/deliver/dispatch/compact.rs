//! Deferred records, and those that wait for partitions that stall, are moved to the end of the store, so that it can give
//! up the room of all that was replayed around them.
//!
//! Room is given up from the front only, so one deferred record there would keep everything that comes after on disk. When
//! they keep too much, the replay goes over the deferred ones once more and appends a copy of each, in their order; of those
//! that come in meanwhile as well, until none is left that stands before the last copy. Once all copies are durable, the
//! originals are committed, the youngest first: what is committed counts from the oldest on, so that a crash finds either
//! all originals or none, and the order holds. Should a topic go missing or exist again meanwhile, or a partition stall or
//! confirm something, the copies are committed instead. What the producer holds of a stalled partition is moved as well:
//! its confirmation then commits the copy. New records of stalled partitions may come in as fast as they are written: when
//! few are left to be copied they are retained in memory for that moment, and stand behind the last copy.

use std::time::{Duration, Instant};

use super::compaction::Compaction;
use super::state::{Dispatch, State};
use super::store::{Store, Ticket};
use crate::deliver::broker::Broker;

/// More are not moved: eight bytes of memory each, and most of the disk is theirs.
const RECORDS_MAX: u64 = 1_000_000;

/// More than these besides twice what was deferred at the beginning are not copied in one compaction: while they come in faster
/// than they are read, it would never be complete, and the copies take room as well.
const NEWCOMERS_MAX: u64 = 10_000;

/// New records of stalled partitions are retained when no more than these are left to be copied.
const FINISHING_MAX: u64 = 1_000;

/// How soon the next compaction begins after one that was given up for that.
const RETRY_LATER: Duration = Duration::from_secs(600);

/// How soon after its beginning the next compaction begins, should the store have no room for a copy, or still keep too much.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// All that is to be moved, if nothing else stands between; `None`: some of it was appended and not yet read, and may stand
/// before the last copy. While topics are missing *and* partitions stall, nothing is moved.
fn to_be_moved(state: &State) -> Option<u64> {
    if !state.key_groups.is_any_passed_over() {
        return state.deferred.entries();
    }
    let held = state.unconfirmed.stalled_entries() as u64;
    state.deferred.is_empty().then(|| state.key_groups.passed_over() + held)
}

// === impl Dispatch ===

impl<B: Broker, S: Store> Dispatch<B, S> {
    /// All that could be replayed was enqueued: deferred records are moved if they keep too much on disk, and if there is
    /// nothing else. After a read that found nothing more.
    pub(super) fn check_compaction(&self, state: &mut State, store: &S, now: Instant) {
        let Some(entries) = to_be_moved(state) else {
            return;
        };
        if let Some(compaction) = &mut state.compactions.now {
            let left = entries.saturating_sub(compaction.originals.len() as u64);
            // What comes in once it is complete stands behind the last copy, also while that is not written yet.
            compaction.is_complete |= !compaction.is_of_stalled || compaction.originals.len() as u64 == entries;
            compaction.is_finishing = left <= FINISHING_MAX && state.retained.accepts(now, 0);
            if !compaction.is_complete && now >= compaction.began + RETRY_LATER {
                // The disk has lost some.
                state.compactions.overran = true;
                return self.abandon_compaction(state);
            }
            return self.end_compaction(state);
        }
        if std::mem::take(&mut state.compactions.overran) {
            state.compactions.not_before = Some(now + RETRY_LATER);
        }
        let is_quiet = state.key_groups.behind() == 0
            && state.unconfirmed.replayed_awaited() == 0
            && state.unconfirmed.copies_awaited() == 0
            && !state.unconfirmed.returns();
        let may = is_quiet && state.compactions.not_before.is_none_or(|at| at <= now);
        if may && (1..=RECORDS_MAX).contains(&entries) && store.keeps_too_much() {
            state.compactions.number += 1;
            state.compactions.not_before = Some(now + RETRY_INTERVAL);
            let is_of_stalled = state.key_groups.is_any_passed_over();
            let records_max = 2 * entries + NEWCOMERS_MAX;
            state.compactions.now = Some(Compaction::new(now, is_of_stalled, records_max));
            store.rewind();
        }
    }

    /// The replay has come to an entry that it passes over for its group's sake.
    pub(super) fn copy_stalled(&self, state: &mut State, store: &S, group: usize, (from, encoded): (u64, &[u8])) {
        let Some(now) = &state.compactions.now else { return };
        let is_moved = now.is_of_stalled && state.unconfirmed.is_stalled(group);
        if is_moved && !state.compactions.is_copy(from) && !state.replay.aside.contains_key(&from) {
            self.copy_deferred(state, store, (from, encoded));
        } else if !now.is_of_stalled {
            // A deferred one, which would stay before others.
            self.abandon_compaction(state);
        }
    }

    /// The replay has come to a deferred record.
    pub(super) fn copy_deferred(&self, state: &mut State, store: &S, (from, encoded): (u64, &[u8])) {
        if !state.compactions.wants(from) {
            return;
        }
        if state.compactions.has_overrun() {
            state.compactions.overran = true;
            return self.abandon_compaction(state);
        }
        let ticket = Ticket::Deferred {
            number: state.compactions.number,
        };
        if store.append(encoded.to_vec(), ticket).is_err() {
            return self.abandon_compaction(state);
        }
        state.appends.given();
        if let Some(now) = &mut state.compactions.now {
            now.originals.push(from);
        }
    }

    /// The store's answer for a copy.
    pub(super) fn deferred_copied(&self, state: &mut State, number: u64, result: Option<u64>) {
        let is_current = number == state.compactions.number;
        let (Some(now), true) = (&mut state.compactions.now, is_current) else {
            result.into_iter().for_each(|copy| self.commit(copy));
            // The replay may just have read it.
            return state.unconfirmed.changed();
        };
        match result {
            Some(copy) => now.copies.push(copy),
            None => return self.abandon_compaction(state),
        }
        self.end_compaction(state);
    }

    fn end_compaction(&self, state: &mut State) {
        let is_done = |now: &mut Compaction| now.is_complete && now.originals.len() == now.copies.len();
        if let Some(done) = state.compactions.now.take_if(is_done) {
            done.originals.iter().rev().for_each(|original| self.commit(*original));
            state.deferred.moved(done.copies.last().map_or(0, |last| last + 1));
            if done.is_of_stalled {
                state.unconfirmed.moved(&done, &mut state.in_flight);
            }
            state.unconfirmed.changed();
        }
    }

    /// The originals stay.
    pub(super) fn abandon_compaction(&self, state: &mut State) {
        if let Some(given_up) = state.compactions.now.take() {
            given_up.copies.iter().for_each(|copy| self.commit(*copy));
            state.unconfirmed.changed();
        }
    }
}
