//! Which way a record goes, and when its device is answered.
//!
//! Straight to Kafka while Kafka confirms; into the spool while it does not, and, for the sake of order, while the spool
//! still holds records of the same lane. A record that Kafka has not confirmed after `kafka.patience` is copied into the
//! spool as well and answered *spooled*; if Kafka confirms it after all, the copy is not replayed. Replay begins when
//! nothing is held twice. Every record ends safe (Kafka or spool) or with its device told *busy*; never neither.
//!
//! No I/O, no thread and no clock of its own: [`Broker`] and [`Store`] are seams, time is an argument, so the simulation
//! can run it step by step.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;
use tracing::{error, warn};

use super::health::Monitor;
use super::parcel;
use crate::message::Record;
use crate::metrics::KafkaMetrics;
use crate::outcome::{Busy, Outcome, Reason, Rejection};
use crate::receipt::Receipt;

/// Lanes that order is kept in: all records of a device on a topic share one, few devices share one with others.
const LANES: usize = 4096;

/// Replayed records that may await their confirmation at once.
const REPLAY_WINDOW: usize = 10_000;

/// The Kafka producer, as far as it matters here.
pub trait Broker {
    /// Queues a record; its end is told by [`Dispatch::reported`] with the same slot.
    fn produce(&self, record: &Record<'_>, slot: usize) -> Result<(), Refused>;
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
    /// Whether every entry has been committed.
    fn is_empty(&self) -> bool;
}

/// Why Kafka did not take a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The producer's queue is full.
    QueueFull,
    /// Larger than Kafka or the topic allows: it never will be taken.
    TooLarge,
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
    Alone { pending: Pending, lane: usize },
    /// The record is also held by the producer, in this slot.
    Copy { slot: usize, id: u64 },
}

/// The times of a record.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Unconfirmed for so long, a record is copied into the spool.
    pub patience: Duration,
    /// Unconfirmed for so long, and not in the spool either, its device is told busy.
    pub delivery_timeout: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Dispatch<B, S> {
    broker: B,
    store: Option<S>,
    health: Arc<Monitor>,
    metrics: KafkaMetrics,
    times: Times,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What the producer holds, by the number that it hands back.
    flights: Slab<Flight>,
    next_id: u64,
    /// Flights in the order of their sending, with when each is to be looked at.
    patience: VecDeque<(Instant, usize, u64)>,
    overdue: VecDeque<(Instant, usize, u64)>,
    /// Uncommitted entries of this run in the spool, by lane.
    lanes: Vec<u32>,
    /// Uncommitted entries of earlier runs (sequences below `first_sequence`): while there are any, every lane waits.
    recovered: u64,
    first_sequence: u64,
    /// Flights whose record is, or is about to be, in the spool as well.
    doubled: usize,
    replaying: usize,
    /// A replayed record was refused: begin again with the oldest, once the others have ended.
    rewind: bool,
}

/// A record that the producer holds.
#[derive(Debug)]
struct Flight {
    /// Tells flights apart that had the same slot one after the other.
    id: u64,
    lane: usize,
    /// Who waits; `None` once answered, and for a replay.
    pending: Option<Pending>,
    /// For the spool, until it has it.
    parcel: Option<Vec<u8>>,
    spooled: Spooled,
    sent_at: Instant,
}

/// What the spool has of a flight's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spooled {
    No,
    /// Appended, not yet durable.
    Asked,
    /// The same, and the producer has reported meanwhile.
    AskedAndReported {
        delivered: bool,
    },
    /// Durable.
    At(u64),
    /// Read from there.
    Replayed(u64),
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
        let detail = "larger than the message.max.bytes of Kafka or of its topic";
        self.receipt
            .resolve(Rejection::new(Reason::TooLargeForKafka, detail).into());
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
        metrics: KafkaMetrics,
    ) -> Self {
        let state = State {
            flights: Slab::new(),
            next_id: 0,
            patience: VecDeque::new(),
            overdue: VecDeque::new(),
            lanes: vec![0; LANES],
            recovered,
            first_sequence,
            doubled: 0,
            replaying: 0,
            rewind: false,
        };
        Dispatch {
            broker,
            store,
            health,
            metrics,
            times,
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
        if self.health.is_closed() {
            return pending.busy(Busy::Draining);
        }
        let lane = lane(record);
        let mut state = self.state();
        let Some(store) = &self.store else {
            return match self.health.is_up() {
                true => self.produce(&mut state, now, record, pending, lane, None),
                false => pending.busy(Busy::KafkaAway),
            };
        };
        let Some(parcel) = parcel::pack(record) else {
            return pending.too_large();
        };
        if self.health.is_up() && !state.lane_waits(lane) {
            self.produce(&mut state, now, record, pending, lane, Some(parcel));
        } else {
            state.append(store, parcel, pending, lane);
        }
    }

    fn produce(
        &self,
        state: &mut State,
        now: Instant,
        record: &Record<'_>,
        pending: Pending,
        lane: usize,
        parcel: Option<Vec<u8>>,
    ) {
        let (slot, id) = state.fly(now, lane, Some(pending), parcel, Spooled::No);
        match self.broker.produce(record, slot) {
            Ok(()) => {
                self.metrics.kafka_records_sent_total.inc();
                if self.store.is_some() {
                    state.patience.push_back((now + self.times.patience, slot, id));
                }
            }
            Err(refused) => self.refused(state, slot, refused),
        }
    }

    /// The producer's last word on a record.
    pub fn reported(&self, slot: usize, result: Result<(), Refused>) {
        if result.is_ok() {
            self.health.confirmed();
        }
        let mut state = self.state();
        let Some(flight) = state.flights.get_mut(slot) else {
            return;
        };
        match (flight.spooled, result) {
            (Spooled::No, Ok(())) => {
                let flight = state.flights.remove(slot);
                drop(state);
                if let Some(pending) = flight.pending {
                    pending.delivered();
                }
            }
            (Spooled::No, Err(refused)) => self.refused(&mut state, slot, refused),
            (Spooled::Asked, result) => {
                flight.spooled = Spooled::AskedAndReported {
                    delivered: result.is_ok(),
                };
                if let Some(pending) = result.ok().and_then(|()| flight.pending.take()) {
                    pending.delivered();
                }
            }
            (Spooled::AskedAndReported { .. }, _) => {}
            (Spooled::At(sequence), result) => {
                let lane = state.land(slot);
                state.doubled -= 1;
                if result.is_ok() {
                    self.commit(&mut state, sequence, lane);
                }
            }
            (Spooled::Replayed(sequence), result) => {
                let lane = state.land(slot);
                state.replaying -= 1;
                match result {
                    Ok(()) => self.commit(&mut state, sequence, lane),
                    Err(_) => state.rewind = true,
                }
            }
        }
    }

    /// The producer does not have the record (any more), and the spool does not have it either.
    fn refused(&self, state: &mut State, slot: usize, refused: Refused) {
        let flight = state.flights.remove(slot);
        let Some(pending) = flight.pending else { return };
        match (refused, &self.store, flight.parcel) {
            (Refused::TooLarge, _, _) => pending.too_large(),
            (_, Some(store), Some(parcel)) => state.append(store, parcel, pending, flight.lane),
            (Refused::QueueFull, ..) => pending.busy(Busy::QueueFull),
            (Refused::TimedOut, ..) => {
                self.metrics.kafka_records_in_doubt_total.inc();
                self.health
                    .failed("kafka did not confirm a reading within kafka.delivery_timeout");
                pending.busy(Busy::KafkaTimeout);
            }
            (Refused::Purged, ..) => pending.busy(Busy::Draining),
            (Refused::Other, ..) => pending.busy(Busy::KafkaRefused),
        }
    }

    fn commit(&self, state: &mut State, sequence: u64, lane: usize) {
        if let Some(store) = &self.store {
            store.commit(sequence);
        }
        state.leave(sequence, lane);
    }

    /// The store's last word on appended entries, in their order.
    pub fn stored(&self, entries: impl IntoIterator<Item = (Ticket, Result<u64, Busy>)>) {
        let mut state = self.state();
        for (ticket, result) in entries {
            match ticket {
                Ticket::Alone { pending, lane } => match result {
                    Ok(_) => pending.spooled(),
                    Err(busy) => {
                        state.lanes[lane] -= 1;
                        pending.busy(busy);
                    }
                },
                Ticket::Copy { slot, id } => self.copied(&mut state, slot, id, result),
            }
        }
    }

    fn copied(&self, state: &mut State, slot: usize, id: u64, result: Result<u64, Busy>) {
        let Some(flight) = state.flights.get_mut(slot).filter(|flight| flight.id == id) else {
            return;
        };
        match (flight.spooled, result) {
            (Spooled::AskedAndReported { delivered }, result) => {
                let pending = flight.pending.take();
                let lane = state.land(slot);
                state.doubled -= 1;
                match result {
                    Ok(sequence) if delivered => self.commit(state, sequence, lane),
                    Ok(_) => pending.into_iter().for_each(Pending::spooled),
                    Err(busy) => {
                        state.lanes[lane] -= 1;
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
                // Kafka may still confirm it; until `overdue` its device waits.
                flight.spooled = Spooled::No;
                let (lane, due) = (flight.lane, flight.sent_at + self.times.delivery_timeout);
                state.lanes[lane] -= 1;
                state.doubled -= 1;
                state.overdue.push_back((due, slot, id));
            }
        }
    }

    /// Looks after records that Kafka does not confirm. To be called every few milliseconds.
    pub fn tick(&self, now: Instant) {
        let Some(store) = &self.store else { return };
        self.health.store_refuses(store.refuses());
        let mut state = self.state();
        while let Some((slot, id)) = due(&mut state.patience, now) {
            self.lose_patience(&mut state, store, slot, id);
        }
        while let Some((slot, id)) = due(&mut state.overdue, now) {
            let flight = state.flights.get_mut(slot).filter(|flight| flight.id == id);
            if let Some(pending) = flight.and_then(|flight| flight.pending.take()) {
                self.metrics.kafka_records_in_doubt_total.inc();
                pending.busy(Busy::KafkaTimeout);
            }
        }
    }

    fn lose_patience(&self, state: &mut State, store: &S, slot: usize, id: u64) {
        let Some(flight) = state.flights.get_mut(slot).filter(|flight| flight.id == id) else {
            return;
        };
        if flight.pending.is_none() || flight.spooled != Spooled::No {
            return;
        }
        let Some(parcel) = flight.parcel.take() else { return };
        if !self.health.confirmed_since(flight.sent_at) {
            self.health
                .failed("kafka has not confirmed a reading within kafka.patience");
        }
        let (lane, due) = (flight.lane, flight.sent_at + self.times.delivery_timeout);
        match store.append(parcel, Ticket::Copy { slot, id }) {
            Ok(()) => {
                flight.spooled = Spooled::Asked;
                state.lanes[lane] += 1;
                state.doubled += 1;
            }
            Err((_, parcel, _)) => {
                flight.parcel = Some(parcel);
                state.overdue.push_back((due, slot, id));
            }
        }
    }

    /// Sends spooled records to Kafka, oldest first, at most so many and so many bytes; returns how many and how many
    /// bytes were sent. Nothing is sent while Kafka is away or holds records that are spooled as well.
    pub fn replay(&self, now: Instant, entries_max: usize, bytes_max: usize) -> (usize, usize) {
        let Some(store) = &self.store else { return (0, 0) };
        let mut state = self.state();
        if !self.health.is_up() || self.health.is_closed() || state.doubled > 0 {
            return (0, 0);
        }
        if state.rewind {
            if state.replaying > 0 {
                return (0, 0);
            }
            store.rewind();
            state.rewind = false;
        }
        let room = REPLAY_WINDOW.saturating_sub(state.replaying).min(entries_max);
        if room == 0 || bytes_max == 0 {
            return (0, 0);
        }
        let entries = store.read(room, bytes_max).unwrap_or_else(|error| {
            warn!(%error, "the spool could not be read; the replay pauses");
            Vec::new()
        });
        let (mut sent, mut bytes) = (0, 0);
        for (sequence, parcel) in entries {
            let replayed = parcel::open(&parcel, |record| self.replay_one(&mut state, now, sequence, record));
            match replayed {
                Ok(true) => (sent, bytes) = (sent + 1, bytes + parcel.len()),
                Ok(false) => break,
                Err(error) => {
                    // Nothing that was acknowledged is thrown away: an operator must look at it.
                    error!(sequence, %error, "a spooled record cannot be opened; the replay waits");
                    state.rewind = true;
                    break;
                }
            }
        }
        (sent, bytes)
    }

    fn replay_one(&self, state: &mut State, now: Instant, sequence: u64, record: &Record<'_>) -> bool {
        let (slot, _) = state.fly(now, lane(record), None, None, Spooled::Replayed(sequence));
        let sent = self.broker.produce(record, slot).is_ok();
        if sent {
            state.replaying += 1;
            self.metrics.kafka_records_sent_total.inc();
        } else {
            state.flights.remove(slot);
            state.rewind = true;
        }
        sent
    }

    /// Devices that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.state()
            .flights
            .iter()
            .filter(|(_, flight)| flight.pending.is_some())
            .count()
    }
}

// === impl State ===

impl State {
    fn fly(
        &mut self,
        now: Instant,
        lane: usize,
        pending: Option<Pending>,
        parcel: Option<Vec<u8>>,
        spooled: Spooled,
    ) -> (usize, u64) {
        let id = self.next_id;
        self.next_id += 1;
        (
            self.flights.insert(Flight {
                id,
                lane,
                pending,
                parcel,
                spooled,
                sent_at: now,
            }),
            id,
        )
    }

    /// The producer no longer holds the record; gives its lane.
    fn land(&mut self, slot: usize) -> usize {
        self.flights.remove(slot).lane
    }

    /// Whether the spool holds records that must go before a new one of this lane.
    fn lane_waits(&self, lane: usize) -> bool {
        self.recovered > 0 || self.lanes[lane] > 0
    }

    fn append(&mut self, store: &impl Store, parcel: Vec<u8>, pending: Pending, lane: usize) {
        match store.append(parcel, Ticket::Alone { pending, lane }) {
            Ok(()) => self.lanes[lane] += 1,
            Err((Ticket::Alone { pending, .. }, _, busy)) => pending.busy(busy),
            Err((Ticket::Copy { .. }, ..)) => {}
        }
    }

    /// A spooled record has reached Kafka.
    fn leave(&mut self, sequence: u64, lane: usize) {
        if sequence < self.first_sequence {
            self.recovered = self.recovered.saturating_sub(1);
        } else {
            self.lanes[lane] = self.lanes[lane].saturating_sub(1);
        }
    }
}

/// The next entry of a queue of deadlines that has passed.
fn due(queue: &mut VecDeque<(Instant, usize, u64)>, now: Instant) -> Option<(usize, u64)> {
    let &(at, slot, id) = queue.front()?;
    (at <= now).then(|| {
        queue.pop_front();
        (slot, id)
    })
}

fn lane(record: &Record<'_>) -> usize {
    let mut hasher = DefaultHasher::new();
    (record.topic, record.key).hash(&mut hasher);
    hasher.finish() as usize % LANES
}
