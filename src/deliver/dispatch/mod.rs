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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::health::Monitor;
use super::parcel;
use super::reason::Cause;
use super::spool::budget::Rate;
use crate::message::Record;
use crate::operate::metrics::{KafkaMetrics, SpoolMetrics};
use crate::outcome::{Busy, Outcome, Rejection};
use crate::receipt::Receipt;

mod copies;

mod flights;

mod hand_over;

mod held;

mod lanes;

mod moves;

mod replay;

mod deadlines;

mod parked;

mod writes;

use flights::{Flight, Flights, Name, Spooled};
use hand_over::SPARE;
use held::{Held, Waiting};
use lanes::Lanes;
use moves::Moves;
use parked::Parked;
use replay::Replay;
pub use replay::Replayed;
pub use writes::Disk;
use writes::Writes;

/// The Kafka producer, as far as it matters here.
pub trait Broker {
    /// Changes when the producer takes back what it holds, and when it is replaced or closed. To be read before whether
    /// Kafka is up: then a producer that is up in this epoch is none that was made to give everything back.
    fn epoch(&self) -> u64;

    /// Queues a record; its end is told by [`Dispatch::reported`] with the same slot. Records of one key are written in
    /// the order of these calls. *Purged* unless it is still this epoch: with a later producer the record would come before
    /// those that were taken back.
    fn produce(&self, epoch: u64, record: &Record<'_>, slot: usize) -> Result<(), Refused>;

    /// A batch was too large for its topic. Takes back what the producer holds, at once, since later records would come
    /// before those of the batch otherwise; and goes on, a moment later, with smaller batches. Their reports come like any
    /// others.
    fn shrink_batches(&self) {}
}

/// The spool, as far as it matters here.
pub trait Store {
    /// Queues an entry to be written; its end is told by [`Dispatch::stored`] with the same ticket.
    fn append(&self, parcel: Vec<u8>, ticket: Ticket) -> Result<(), (Ticket, Vec<u8>, Busy)>;
    /// The next durable, uncommitted entries, oldest first.
    fn read(&self, entries_max: usize, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, String>;
    /// Lets the next read begin at the oldest uncommitted entry.
    fn rewind(&self);
    /// The entry needs no replay.
    fn commit(&self, sequence: u64);
    /// Why no entry would be taken now, if so.
    fn refuses(&self) -> Option<Busy>;
    /// Durable entries that were not committed.
    fn uncommitted(&self) -> u64;
    /// Whether much of the disk holds what was committed, and cannot be given up because of older entries that were not.
    fn keeps_too_much(&self) -> bool;
}

/// Why Kafka did not take a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The producer's queue is full.
    QueueFull,
    /// Larger than Kafka or the topic allows: it never will be taken.
    TooLarge,
    /// Its batch is larger than the topic allows; alone it may not be.
    BatchTooLarge,
    /// Kafka does not take this record as it is (a time that it takes for wrong, a broken record, a topic that is not
    /// for us); others it may take.
    Unacceptable,
    /// Kafka has no such topic. In words for devices, with its name.
    TopicMissing(&'static str),
    /// Not confirmed in time; it may have been written.
    TimedOut,
    /// Taken back from the queue: the producer is being closed or replaced.
    Purged,
    /// Anything else.
    Other,
}

/// A record on its way: who is answered, and what with once the record is safe in Kafka.
#[derive(Debug)]
pub struct Pending {
    pub receipt: Receipt,
    /// *Delivered* for a reading, the rejection for a dead letter.
    pub once_safe: Outcome,
}

/// What an appended entry is for.
#[derive(Debug)]
pub enum Ticket {
    /// The record is in the spool only.
    Alone {
        number: u64,
        lane: usize,
        /// Of the missing topic that it is for; 0: none.
        parked: u64,
    },
    /// The record is also held by the producer.
    Copy(Name),
    /// The record is in the spool already, under this sequence, and is set aside there.
    Moved { from: u64 },
    /// The same of a record whose topic is missing, in this move of all of them.
    Parked { number: u64 },
}

/// The times of a record.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Unconfirmed for so long, a record is copied into the spool.
    pub patience: Duration,
    /// Neither in Kafka nor in the spool for so long, whatever it waits for, its device is told busy.
    pub delivery_timeout: Duration,
    /// How soon a spooled record is tried again that Kafka would not take as it is.
    pub try_again: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Dispatch<B, S> {
    broker: B,
    store: Option<S>,
    health: Arc<Monitor>,
    metrics: KafkaMetrics,
    spool_metrics: SpoolMetrics,
    times: Times,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    flights: Flights,
    lanes: Lanes,
    /// Flights whose record is, or is about to be, in the spool as well.
    doubled: usize,
    /// How often a flight's record was copied.
    copies: u64,
    /// Bytes taken in since the last tick, and their rate.
    taken_in: u64,
    ingest: Rate,
    replay: Replay,
    held: Held,
    writes: Writes,
    parked: Parked,
    moves: Moves,
}

// === impl Pending ===

impl Pending {
    /// All in-sync replicas have the record.
    fn delivered(self) {
        self.receipt.resolve(self.once_safe);
    }

    /// The spool has the record.
    fn spooled(self) {
        let outcome = match self.once_safe {
            Outcome::Delivered => Outcome::Spooled,
            rejected => rejected,
        };
        self.receipt.resolve(outcome);
    }

    fn busy(self, busy: Busy) {
        self.receipt.resolve(Outcome::Busy(busy));
    }

    fn too_large(self) {
        self.receipt.resolve(Rejection::too_large_for_kafka().into());
    }
}

// === impl Dispatch ===

impl<B: Broker, S: Store> Dispatch<B, S> {
    /// `recovered` entries below `first_sequence` wait in the store from earlier runs.
    pub fn new(
        broker: B,
        store: Option<S>,
        (recovered, first_sequence): (u64, u64),
        times: Times,
        health: Arc<Monitor>,
        (metrics, spool_metrics): (KafkaMetrics, SpoolMetrics),
    ) -> Self {
        let state = State {
            flights: Flights::default(),
            lanes: Lanes::new(recovered, first_sequence),
            doubled: 0,
            copies: 0,
            taken_in: 0,
            ingest: Rate::default(),
            replay: Replay::default(),
            held: Held::default(),
            writes: Writes::default(),
            parked: Parked::default(),
            moves: Moves::default(),
        };
        Dispatch {
            broker,
            store,
            health,
            metrics,
            spool_metrics,
            times,
            started: Instant::now(),
            state: Mutex::new(state),
        }
    }

    pub fn broker(&self) -> &B {
        &self.broker
    }

    pub fn store(&self) -> Option<&S> {
        self.store.as_ref()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
            SPARE.set(state.flights.spare());
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

// === impl State ===

impl State {
    /// Whether the replay is so close to its end that new records of waiting lanes are held back for it: a lane that is
    /// never idle would go through the spool for ever otherwise.
    fn catches_up(&self, now: Instant) -> bool {
        self.doubled == 0
            && !self.replay.must_rewind()
            && self.held.takes(now, self.lanes.behind() + self.replay.flying() as u64)
    }

    fn hold(&mut self, record: Waiting) {
        self.lanes.held(record.lane);
        self.held.push(record);
    }
}
