//! Deferred records are moved to the end of the store, so that it can give up the room of all that was replayed around them.
//!
//! Room is given up from the front only, so one deferred record there would keep everything that comes after on disk. When
//! they keep too much, the replay goes over the deferred ones once more and appends a copy of each, in their order; of those
//! that come in meanwhile as well, until none is left that stands before the last copy. Once all copies are durable, the
//! originals are committed, the youngest first: what is committed counts from the oldest on, so that a crash finds either
//! all originals or none, and the order holds. Should a topic go missing or exist again meanwhile, the copies are
//! committed instead.

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

/// How soon the next compaction begins after one that was given up for that.
const RETRY_LATER: Duration = Duration::from_secs(600);

/// How soon after its beginning the next compaction begins, should the store have no room for a copy, or still keep too much.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

// === impl Dispatch ===

impl<B: Broker, S: Store> Dispatch<B, S> {
    /// All that could be replayed was enqueued: deferred records are moved if they keep too much on disk, and if there is
    /// nothing else. After a read that found nothing more.
    pub(super) fn check_compaction(&self, state: &mut State, store: &S, now: Instant) {
        // What was appended and not yet read may stand before the last copy.
        let Some(deferred) = state.deferred.entries() else {
            return;
        };
        if let Some(now) = &mut state.compactions.now {
            now.is_complete = true;
            return self.end_compaction(state);
        }
        if std::mem::take(&mut state.compactions.overran) {
            state.compactions.not_before = Some(now + RETRY_LATER);
        }
        let is_quiet = state.key_groups.behind() == 0 && state.replay.unconfirmed() == 0 && state.also_spooled == 0;
        let may = is_quiet && state.compactions.not_before.is_none_or(|at| at <= now);
        if may && (1..=RECORDS_MAX).contains(&deferred) && store.keeps_too_much() {
            state.compactions.number += 1;
            state.compactions.not_before = Some(now + RETRY_INTERVAL);
            state.compactions.now = Some(Compaction {
                records_max: 2 * deferred + NEWCOMERS_MAX,
                ..Compaction::default()
            });
            store.rewind();
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
            return result.into_iter().for_each(|copy| self.commit(copy));
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
        }
    }

    /// The originals stay.
    pub(super) fn abandon_compaction(&self, state: &mut State) {
        if let Some(given_up) = state.compactions.now.take() {
            given_up.copies.iter().for_each(|copy| self.commit(*copy));
        }
    }
}
