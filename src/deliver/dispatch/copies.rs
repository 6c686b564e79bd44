//! Records that the producer holds, copied into the spool: Kafka does not confirm them in time, or a younger one of their
//! lane goes there.
//!
//! A copied record is answered once its copy is durable. What the producer reports afterwards decides whether the copy is
//! replayed.

use super::flights::{Flight, Name, Spooled};
use super::state::{Dispatch, State};
use super::store::{Store, Ticket};
use crate::deliver::broker::Broker;
use crate::outcome::Busy;

impl<B: Broker, S: Store> Dispatch<B, S> {
    pub(super) fn lose_patience(&self, state: &mut State, name: Name) {
        let parcel = state.flights.get(name).and_then(|flight| flight.parcel.take());
        let is_missing = parcel
            .as_ref()
            .is_some_and(|parcel| self.missing_topic(state, parcel) > 0);
        let Some(flight) = state.flights.get(name) else { return };
        flight.parcel = parcel;
        if is_missing {
            // That says nothing of the others.
            return;
        }
        let waiting = Some(flight).filter(|flight| flight.pending.is_some());
        if waiting.is_some_and(|flight| !self.health.confirmed_since(flight.sent_at)) {
            self.health
                .unconfirmed("kafka has not confirmed a reading within kafka.patience");
        }
    }

    /// Gives a record that the producer holds to the store as well. False: the store's queue is full, and will have room
    /// in a moment.
    pub(super) fn copy(&self, state: &mut State, store: &S, name: Name) -> bool {
        let Some(flight) = state.flights.get(name) else {
            return true;
        };
        if flight.pending.is_none() || flight.spooled != Spooled::No {
            return true;
        }
        let Some(parcel) = flight.parcel.take() else {
            return true;
        };
        let (lane, due) = (flight.lane, flight.sent_at + self.times.delivery_timeout);
        match store.append(parcel, Ticket::Copy(name)) {
            Ok(()) => {
                flight.spooled = Spooled::Asked;
                state.flights.overdue_at(due, name);
                state.lanes.touched_down(lane);
                state.writes.given();
                state.doubled += 1;
                state.copies += 1;
            }
            Err((_, parcel, Busy::SpoolBusy)) => {
                flight.parcel = Some(parcel);
                state.flights.look_again(name);
                return false;
            }
            Err(_) => {
                // Not tried again: later records of its lane may be in the store by then.
                state.lanes.touched_down(lane);
                state.flights.overdue_at(due, name);
            }
        }
        true
    }

    /// Before a record of this lane is appended to the store, those that the producer holds are: should it give them back,
    /// they must not stand behind this one. If one must be copied, all are: their patience would end soon as well.
    pub(super) fn copy_before(&self, state: &mut State, store: &S, lane: usize) {
        if state.lanes.is_aloft(lane) {
            self.copy_all(state, store);
        }
    }

    pub(super) fn copy_all(&self, state: &mut State, store: &S) {
        while let Some(name) = state.flights.oldest() {
            if !self.copy(state, store, name) {
                return;
            }
        }
    }

    pub(super) fn copied(&self, state: &mut State, name: Name, result: Result<u64, Busy>) {
        let Some(flight) = state.flights.get(name) else {
            return;
        };
        match (flight.spooled, result) {
            (Spooled::AskedAndReported { delivered }, result) => {
                let Flight { pending, lane, .. } = state.flights.land(name.slot);
                state.doubled -= 1;
                match result {
                    Ok(sequence) if delivered => self.commit(sequence),
                    // It waits in the spool for its replay.
                    Ok(_) => self.written(pending),
                    Err(_) if delivered => {}
                    Err(busy) => {
                        state.lanes.go(lane);
                        pending.into_iter().for_each(|pending| pending.busy(busy));
                    }
                }
            }
            (_, Ok(sequence)) => {
                flight.spooled = Spooled::At(sequence);
                if let Some(pending) = flight.pending.take() {
                    pending.spooled();
                }
            }
            (_, Err(_)) => {
                // Kafka may still confirm it; until its deadline its device waits.
                flight.spooled = Spooled::No;
                state.doubled -= 1;
            }
        }
    }
}
