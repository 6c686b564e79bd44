//! A record goes to the producer: noted first, then enqueued without the lock.
//!
//! Between the two it counts as the producer's: it may be copied into the spool, and answered *spooled*. If the producer
//! was replaced meanwhile, or has no room, the record goes the way of one that was given back.

use std::cell::Cell;
use std::time::Instant;

use super::in_flight::{InFlightSend, Progress, SendId};
use super::pending::Pending;
use super::state::{Dispatch, State};
use super::store::Store;
use crate::deliver::broker::{Broker, Refused};
use crate::deliver::encoded_record;
use crate::message::Record;

thread_local! {
    /// The buffer that the thread's next record is encoded into.
    pub(super) static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl<B: Broker, S: Store> Dispatch<B, S> {
    /// The record for the spool, should it be needed there; in a buffer that was used before. The error: too large.
    pub(super) fn encoded(&self, record: &Record<'_>) -> Result<Option<Vec<u8>>, ()> {
        if self.store.is_none() {
            return Ok(None);
        }
        let mut encoded = SPARE.take();
        encoded.clear();
        encoded_record::encode(record, &mut encoded)
            .map(|()| Some(encoded))
            .ok_or(())
    }

    /// Notes that the producer has the record, or will have it in a moment. Until then it may be copied into the spool,
    /// and answered *spooled*, as if the producer had it.
    pub(super) fn insert(
        &self,
        state: &mut State,
        now: Instant,
        group: usize,
        pending: Pending,
        encoded: Option<Vec<u8>>,
    ) -> SendId {
        let progress = match encoded {
            Some(encoded) => Progress::Sent { pending, encoded },
            None => Progress::KafkaOnly { pending: Some(pending) },
        };
        let id = state.in_flight.insert(InFlightSend::new(group, now, progress));
        if self.store.is_some() {
            state.key_groups.in_producer(group);
            state.in_flight.sent(now, id);
        }
        id
    }

    /// Gives a noted record to the producer; without the lock, for that takes as long as all the rest. A device's
    /// records still come in order: its connection sends the next one when this has returned.
    pub(super) fn enqueue(&self, epoch: u64, record: &Record<'_>, id: SendId) {
        match self.broker.produce(epoch, record, id.slot) {
            Ok(()) => self.metrics.kafka_records_sent_total.inc(),
            Err(refused) => self.not_taken(&mut self.state(), id, refused),
        }
    }

    /// The producer did not accept a noted record.
    pub(super) fn not_taken(&self, state: &mut State, id: SendId, refused: Refused) {
        let Some(send) = state.in_flight.get(id) else { return };
        if !matches!(send.progress, Progress::Sent { .. } | Progress::KafkaOnly { .. }) {
            // It was copied meanwhile; nobody is answered for a failure.
            let answered = self.ended(state, id.slot, Err(refused));
            return debug_assert!(answered.is_none());
        }
        let send = state.in_flight.remove(id.slot);
        self.uncopied_ended(state, &send);
        if matches!(send.progress, Progress::Sent { .. }) {
            state.key_groups.out_of_producer(send.group);
        }
        if let Some(store) = self.store.as_ref().filter(|_| refused != Refused::TooLarge) {
            self.copy_before(state, store, send.group);
        }
        self.refused(state, send, refused);
    }
}
