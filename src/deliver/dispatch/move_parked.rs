//! Parked records are moved to the end of the store, so that it can give up the room of all that was replayed around them.
//!
//! Room is given up from the front only, so one parked record there would keep everything that comes after on disk. When
//! they keep too much, the replay goes over the parked ones once more and appends a copy of each, in their order; of those
//! that come in meanwhile as well, until none is left that stands before the last copy. Once all copies are durable, the
//! originals are committed, the youngest first: what is committed counts from the oldest on, so that a crash finds either
//! all originals or none, and the order holds. Should a topic go missing or exist again meanwhile, the copies are
//! committed instead.

use std::time::{Duration, Instant};

use super::moves::Move;
use super::state::{Dispatch, State};
use super::store::{Store, Ticket};
use crate::deliver::broker::Broker;

/// More are not moved: eight bytes of memory each, and most of the disk is theirs.
const RECORDS_MAX: u64 = 1_000_000;

/// More than these besides twice what was parked at the beginning are not copied in one move: while they come in faster
/// than they are read, it would never be complete, and the copies take room as well.
const NEWCOMERS_MAX: u64 = 10_000;

/// How soon the next move begins after one that was given up for that.
const TRY_LATER: Duration = Duration::from_secs(600);

/// How soon after its beginning the next move begins, should the store have no room for a copy, or still keep too much.
const TRY_AGAIN: Duration = Duration::from_secs(10);

// === impl Dispatch ===

impl<B: Broker, S: Store> Dispatch<B, S> {
    /// All that could be replayed was handed over: parked records are moved if they keep too much on disk, and if there is
    /// nothing else. After a read that found nothing more.
    pub(super) fn look_at_moves(&self, state: &mut State, store: &S, now: Instant) {
        // What was appended and not yet read may stand before the last copy.
        let Some(parked) = state.parked.entries() else { return };
        if let Some(now) = &mut state.moves.now {
            now.is_complete = true;
            return self.end_move(state);
        }
        if std::mem::take(&mut state.moves.overran) {
            state.moves.not_before = Some(now + TRY_LATER);
        }
        let is_quiet = state.lanes.behind() == 0 && state.replay.flying() == 0 && state.doubled == 0;
        let may = is_quiet && state.moves.not_before.is_none_or(|at| at <= now);
        if may && (1..=RECORDS_MAX).contains(&parked) && store.keeps_too_much() {
            state.moves.number += 1;
            state.moves.not_before = Some(now + TRY_AGAIN);
            state.moves.now = Some(Move {
                records_max: 2 * parked + NEWCOMERS_MAX,
                ..Move::default()
            });
            store.rewind();
        }
    }

    /// The replay has come to a parked record.
    pub(super) fn copy_parked(&self, state: &mut State, store: &S, (from, parcel): (u64, &[u8])) {
        if !state.moves.wants(from) {
            return;
        }
        if state.moves.has_overrun() {
            state.moves.overran = true;
            return self.give_move_up(state);
        }
        let ticket = Ticket::Parked {
            number: state.moves.number,
        };
        if store.append(parcel.to_vec(), ticket).is_err() {
            return self.give_move_up(state);
        }
        state.writes.given();
        if let Some(now) = &mut state.moves.now {
            now.originals.push(from);
        }
    }

    /// The store's answer for a copy.
    pub(super) fn parked_copied(&self, state: &mut State, number: u64, result: Option<u64>) {
        let is_current = number == state.moves.number;
        let (Some(now), true) = (&mut state.moves.now, is_current) else {
            return result.into_iter().for_each(|copy| self.commit(copy));
        };
        match result {
            Some(copy) => now.copies.push(copy),
            None => return self.give_move_up(state),
        }
        self.end_move(state);
    }

    fn end_move(&self, state: &mut State) {
        let is_done = |now: &mut Move| now.is_complete && now.originals.len() == now.copies.len();
        if let Some(done) = state.moves.now.take_if(is_done) {
            done.originals.iter().rev().for_each(|original| self.commit(*original));
            state.parked.moved(done.copies.last().map_or(0, |last| last + 1));
        }
    }

    /// The originals stay.
    pub(super) fn give_move_up(&self, state: &mut State) {
        if let Some(given_up) = state.moves.now.take() {
            given_up.copies.iter().for_each(|copy| self.commit(*copy));
        }
    }
}
