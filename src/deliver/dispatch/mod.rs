//! Which way a record goes, and when its device is answered.
//!
//! Straight to Kafka while Kafka confirms; into the spool while it does not, and, for the sake of order, while the spool
//! holds earlier records of the same lane that Kafka's producer was not given yet ([`lanes`]). A record that Kafka has not
//! confirmed after `kafka.patience` is copied into the spool as well and answered *spooled*; if Kafka confirms it after
//! all, the copy is not replayed. [`replay`] begins when nothing is held twice. Every record ends safe (Kafka or spool) or
//! with its device told *busy*; never neither.
//!
//! No I/O, no thread and no clock of its own: [`Broker`] and [`Store`] are seams, time is an argument, so the simulation
//! can run it step by step.

use std::collections::VecDeque;
use std::time::Instant;

use super::broker::{Broker, Refused};
use super::reason::Cause;
use crate::message::Record;
use crate::outcome::Busy;

mod copies;

mod deadlines;

mod flights;

mod hand_over;

mod held;

mod lanes;

mod missing;

mod move_parked;

mod moves;

mod parked;

mod pending;

mod replay;

mod replay_turn;

mod state;

mod store;

mod writes;

use flights::{Flight, Spooled};
use held::Waiting;
pub use pending::Pending;
pub use replay::Replayed;
use state::State;
pub use state::{Dispatch, Times};
pub use store::{Store, Ticket};
pub use writes::Disk;

// === impl Dispatch ===

impl<B: Broker, S: Store> Dispatch<B, S> {
    /// Takes a record in; `pending` is resolved when the record is safe, or when it is known that it will not be.
    pub fn send(&self, now: Instant, record: &Record<'_>, pending: Pending) {
        let lane = lanes::lane(record);
        let Ok(parcel) = self.packed(record) else {
            return pending.too_large();
        };
        let mut state = self.state();
        let epoch = self.broker.epoch();
        // Under the lock: nothing is taken in behind the back of `close`.
        // The answers are given without it: whoever is woken may send the next record.
        if self.health.is_closed() {
            drop(state);
            return pending.busy(Busy::Draining);
        }
        let missing = match state.parked.is_empty() {
            true => None,
            false => state.parked.get(record.topic).map(|topic| topic.words),
        };
        let Some((store, parcel)) = self.store.as_ref().zip(parcel) else {
            if let Some(words) = missing {
                drop(state);
                return pending.busy(Busy::TopicMissing(words));
            }
            if !self.health.is_up() {
                drop(state);
                return pending.busy(Busy::KafkaUnavailable);
            }
            let name = self.depart(&mut state, now, lane, pending, None);
            drop(state);
            return self.hand_over(epoch, record, name);
        };
        state.taken_in += parcel.len() as u64;
        let may_go = missing.is_none() && self.health.is_up();
        if may_go && !state.lanes.waits(lane) {
            let name = self.depart(&mut state, now, lane, pending, Some(parcel));
            hand_over::SPARE.set(state.flights.spare());
            drop(state);
            self.hand_over(epoch, record, name);
        } else if may_go && state.catches_up(now) {
            state.hold(Waiting::new(parcel, pending, lane, now));
        } else {
            if missing.is_none() {
                self.spill(&mut state, store, now);
            }
            self.append(&mut state, store, Waiting::new(parcel, pending, lane, now));
        }
    }

    /// The producer's last word on a record.
    pub fn reported(&self, slot: usize, result: Result<(), Refused>) {
        if result.is_ok() {
            self.health.confirmed();
        }
        if result == Err(Refused::BatchTooLarge) {
            self.broker.shrink_batches();
        }
        let delivered = {
            let mut state = self.state();
            if matches!(result, Err(Refused::TopicMissing(_))) {
                self.look_at_topics(&mut state);
            }
            self.ended(&mut state, slot, result)
        };
        // Without the lock: the answer wakes a connection.
        if let Some(pending) = delivered {
            pending.delivered();
        }
    }

    /// The same, under the lock; who is to be told that the record is in Kafka.
    fn ended(&self, state: &mut State, slot: usize, result: Result<(), Refused>) -> Option<Pending> {
        let flight = state.flights.at(slot)?;
        match (flight.spooled, result) {
            (Spooled::No, Ok(())) => {
                let flight = state.flights.land(slot);
                if let Some(parcel) = flight.parcel {
                    state.lanes.touched_down(flight.lane);
                    state.flights.keep_spare(parcel);
                }
                return flight.pending;
            }
            (Spooled::No, Err(refused)) => self.given_back(state, slot, refused),
            (Spooled::Asked, result) => {
                let (delivered, lane) = (result.is_ok(), flight.lane);
                flight.spooled = Spooled::AskedAndReported { delivered };
                if delivered {
                    return flight.pending.take();
                }
                state.lanes.wait(lane);
            }
            (Spooled::AskedAndReported { .. }, _) => {}
            (Spooled::At(sequence), result) => {
                let lane = state.flights.land(slot).lane;
                state.doubled -= 1;
                match result {
                    Ok(()) => self.commit(sequence),
                    Err(_) => state.lanes.wait(lane),
                }
            }
            (Spooled::Replayed(sequence), result) => self.replay_reported(state, slot, sequence, result),
        }
        None
    }

    /// The producer gives a record back that the spool does not have. More of them may follow, the youngest first
    /// (librdkafka purges its queue before what is in flight), so all are copied in the order of their sending.
    fn given_back(&self, state: &mut State, slot: usize, refused: Refused) {
        let others_follow = matches!(
            refused,
            Refused::Purged | Refused::TimedOut | Refused::Other | Refused::BatchTooLarge | Refused::TopicMissing(_)
        );
        if let Some(store) = self.store.as_ref().filter(|_| others_follow) {
            self.copy_all(state, store);
        }
        let Some(flight) = state.flights.at(slot) else { return };
        let lane = flight.lane;
        if flight.spooled == Spooled::Asked {
            flight.spooled = Spooled::AskedAndReported { delivered: false };
            state.lanes.wait(lane);
            return;
        }
        if flight.parcel.is_some() {
            state.lanes.touched_down(lane);
        }
        let flight = state.flights.land(slot);
        self.refused(state, flight, refused);
    }

    /// The producer does not have the record (any more), and the spool does not have it either.
    fn refused(&self, state: &mut State, flight: Flight, refused: Refused) {
        let Some(pending) = flight.pending else { return };
        match (refused, &self.store, flight.parcel) {
            (Refused::TooLarge, _, _) => pending.too_large(),
            (_, Some(store), Some(parcel)) => {
                self.append_next(state, store, Waiting::new(parcel, pending, flight.lane, flight.sent_at));
            }
            (Refused::TopicMissing(words), ..) => pending.busy(Busy::TopicMissing(words)),
            (Refused::QueueFull, ..) => pending.busy(Busy::QueueFull),
            (Refused::TimedOut, ..) => {
                self.metrics.kafka_records_in_doubt_total.inc();
                self.health.failed(
                    Cause::Unconfirmed,
                    "kafka did not confirm a reading within kafka.delivery_timeout",
                );
                pending.busy(Busy::KafkaTimeout);
            }
            (Refused::Purged, ..) if self.health.is_closed() => pending.busy(Busy::Draining),
            (Refused::Purged | Refused::Other | Refused::Unacceptable | Refused::BatchTooLarge, ..) => {
                pending.busy(Busy::KafkaRefused)
            }
        }
    }

    fn commit(&self, sequence: u64) {
        if let Some(store) = &self.store {
            store.commit(sequence);
        }
    }

    /// The store's last word on appended entries, in their order.
    pub fn stored(&self, entries: impl IntoIterator<Item = (Ticket, Result<u64, Busy>)>) {
        let mut state = self.state();
        for (ticket, result) in entries {
            state.writes.answered();
            self.spool_metrics
                .spool_appended_total
                .inc_by(u64::from(result.is_ok()));
            match ticket {
                Ticket::Alone { number, lane, parked } => {
                    let pending = state.writes.end(number);
                    match result {
                        Ok(sequence) => {
                            state.parked.durable(parked, sequence);
                            self.written(pending);
                        }
                        Err(busy) => {
                            match state.parked.not_durable(parked) {
                                true => state.lanes.let_go(lane),
                                false => state.lanes.go(lane),
                            }
                            pending.into_iter().for_each(|pending| pending.busy(busy));
                        }
                    }
                }
                Ticket::Copy(name) => self.copied(&mut state, name, result),
                Ticket::Parked { number } => self.parked_copied(&mut state, number, result.ok()),
                Ticket::Moved { from } => self.moved(&mut state, from, result.ok()),
            }
        }
    }

    /// Looks after records that Kafka does not confirm, and those that the store does not write. To be called every few
    /// milliseconds, by a thread that waits for no disk.
    pub fn tick(&self, now: Instant) {
        self.look_at_topics(&mut self.state());
        let Some(store) = &self.store else { return };
        self.health.store_refuses(store.refuses().or(self.disk_refuses(now)));
        let mut state = self.state();
        let taken_in = std::mem::take(&mut state.taken_in);
        state.ingest.add(taken_in, now.saturating_duration_since(self.started));
        while let Some(name) = state.flights.impatient(now, self.times.patience) {
            self.lose_patience(&mut state, name);
            if !self.copy(&mut state, store, name) {
                break;
            }
        }
        if state.doubled == 0 {
            self.health.nothing_awaited();
        }
        self.answer_overdue(&mut state, now);
        state.replay.say_more(now);
        if !self.health.is_up() || state.held.is_overdue(now) {
            self.spill(&mut state, store, now);
        }
    }

    /// A record that was set aside is in the store once more.
    fn moved(&self, state: &mut State, from: u64, to: Option<u64>) {
        let Some(to) = to else {
            return state.replay.not_moved(from);
        };
        // If it was confirmed meanwhile, the new one needs no replay.
        let done = if state.replay.moved(from, to) { from } else { to };
        self.commit(done);
    }

    fn append(&self, state: &mut State, store: &S, record: Waiting) {
        self.copy_before(state, store, record.lane);
        if state.lanes.is_aloft(record.lane) {
            // An earlier one found no room in the store's queue: this one must not stand before it.
            return record.pending.busy(Busy::SpoolBusy);
        }
        self.append_next(state, store, record);
    }

    /// The same, when none of its lane must stand before it.
    fn append_next(&self, state: &mut State, store: &S, record: Waiting) {
        let Waiting {
            parcel,
            pending,
            lane,
            since,
        } = record;
        if state.writes.disk() == Disk::Hung {
            return pending.busy(Busy::SpoolTimeout);
        }
        let (bytes, parked) = (parcel.len(), self.missing_topic(state, &parcel));
        let number = state.writes.begin(pending, since + self.times.delivery_timeout);
        match store.append(parcel, Ticket::Alone { number, lane, parked }) {
            Ok(()) => {
                state.writes.given();
                if parked == 0 {
                    state.lanes.wait(lane);
                    state.replay.grew(bytes);
                } else {
                    state.lanes.held(lane);
                    state.parked.appended(parked);
                }
            }
            Err((_, _, busy)) => state.writes.cancel().into_iter().for_each(|pending| pending.busy(busy)),
        }
    }

    /// The store has the record.
    fn written(&self, pending: Option<Pending>) {
        match pending {
            Some(pending) => pending.spooled(),
            // It was answered busy at its deadline, and will be replayed all the same.
            None => self.spool_metrics.spool_readings_in_doubt_total.inc(),
        }
    }

    /// Gives what is held back to the store, in its order.
    fn spill(&self, state: &mut State, store: &S, now: Instant) {
        let held = state.held.give_up(now);
        self.append_held(state, store, held);
    }

    fn append_held(&self, state: &mut State, store: &S, held: VecDeque<Waiting>) {
        held.iter().for_each(|waiting| state.lanes.let_go(waiting.lane));
        for waiting in held {
            self.append(state, store, waiting);
        }
    }

    /// Lets nothing wait here any more: what is held back is given to the store. After the health was closed.
    pub fn close(&self, now: Instant) {
        if let Some(store) = &self.store {
            self.spill(&mut self.state(), store, now);
        }
    }

    /// What devices send, bytes per second as they would stand in the spool, smoothed over a minute.
    pub fn ingest_bytes_per_s(&self, now: Instant) -> f64 {
        self.state()
            .ingest
            .bytes_per_s(now.saturating_duration_since(self.started))
    }

    /// Records that the producer holds and has not confirmed though they are spooled as well, and those that it was
    /// given by the replay.
    pub fn unconfirmed(&self) -> (usize, usize) {
        let state = self.state();
        (state.doubled, state.replay.flying())
    }

    /// Devices that wait for an answer.
    pub fn waiting(&self) -> usize {
        let state = self.state();
        state.flights.waiting() + state.held.len() + state.writes.waiting()
    }
}
