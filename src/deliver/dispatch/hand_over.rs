//! A record departs for the producer: noted first, then handed over without the lock.
//!
//! Between the two it counts as the producer's: it may be copied into the spool, and answered *spooled*. If the producer
//! was replaced meanwhile, or has no room, the record goes the way of one that was given back.

use std::cell::Cell;
use std::time::Instant;

use super::flights::{Flight, Name, Spooled};
use super::pending::Pending;
use super::state::{Dispatch, State};
use super::store::Store;
use crate::deliver::broker::{Broker, Refused};
use crate::deliver::parcel;
use crate::message::Record;

thread_local! {
    /// The buffer that the thread's next record is packed into.
    pub(super) static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl<B: Broker, S: Store> Dispatch<B, S> {
    /// The record for the spool, should it be needed there; in a buffer that was used before. The error: too large.
    pub(super) fn packed(&self, record: &Record<'_>) -> Result<Option<Vec<u8>>, ()> {
        if self.store.is_none() {
            return Ok(None);
        }
        let mut parcel = SPARE.take();
        parcel.clear();
        parcel::pack(record, &mut parcel).map(|()| Some(parcel)).ok_or(())
    }

    /// Notes that the producer has the record, or will have it in a moment. Until then it may be copied into the spool,
    /// and answered *spooled*, as if the producer had it.
    pub(super) fn depart(
        &self,
        state: &mut State,
        now: Instant,
        lane: usize,
        pending: Pending,
        parcel: Option<Vec<u8>>,
    ) -> Name {
        let mut flight = Flight::new(lane, now, Spooled::No);
        (flight.pending, flight.parcel) = (Some(pending), parcel);
        let name = state.flights.depart(flight);
        if self.store.is_some() {
            state.lanes.took_off(lane);
            state.flights.sent(now, name);
        }
        name
    }

    /// Gives a departed record to the producer; without the lock, for that takes as long as all the rest. A device's
    /// records still come in order: its connection sends the next one when this has returned.
    pub(super) fn hand_over(&self, epoch: u64, record: &Record<'_>, name: Name) {
        match self.broker.produce(epoch, record, name.slot) {
            Ok(()) => self.metrics.kafka_records_sent_total.inc(),
            Err(refused) => self.not_taken(&mut self.state(), name, refused),
        }
    }

    /// The producer did not take a departed record.
    pub(super) fn not_taken(&self, state: &mut State, name: Name, refused: Refused) {
        let Some(flight) = state.flights.get(name) else { return };
        if flight.spooled != Spooled::No {
            // Its patience has ended meanwhile; nobody is answered for a failure.
            let answered = self.ended(state, name.slot, Err(refused));
            return debug_assert!(answered.is_none());
        }
        let flight = state.flights.land(name.slot);
        if flight.parcel.is_some() {
            state.lanes.touched_down(flight.lane);
        }
        if let Some(store) = self.store.as_ref().filter(|_| refused != Refused::TooLarge) {
            self.copy_before(state, store, flight.lane);
        }
        self.refused(state, flight, refused);
    }
}
