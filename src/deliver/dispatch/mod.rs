//! Which way a record goes, and when its device is answered.
//!
//! Straight to Kafka while Kafka confirms; into the spool while it does not, and, to keep order, while the spool
//! holds earlier records of the same group that Kafka's producer was not given yet ([`key_groups`]). A record that Kafka has not
//! confirmed after `kafka.spool_after` is copied into the spool as well and answered *spooled*; if Kafka confirms it after
//! all, the copy is not replayed. [`replay`] passes over the groups of records that are both in flight and spooled, and over
//! those whose partition stalls ([`stalled`]). Every record ends safe (Kafka or spool) or with its device told *busy*; never
//! neither.
//!
//! No I/O, no thread and no clock of its own: [`Broker`] and [`Store`] are seams, time is an argument, so the simulation
//! can run it step by step.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::broker::{Broker, Refused};
use super::reason::Cause;
use crate::message::Record;
use crate::outcome::Busy;

mod copies;

mod deadlines;

mod in_flight;

mod enqueue;

mod retained;

mod key_groups;

mod leaderless_groups;

mod missing;

mod compact;

mod compaction;

mod deferred;

mod pending;

mod replay;

mod replay_turn;

mod stalled;

mod state;

mod store;

mod trials;

mod appends;

mod unconfirmed;

pub use appends::Disk;
use in_flight::{InFlightSend, Progress};
pub use pending::Pending;
pub use replay::Replayed;
use retained::PendingRecord;
use state::State;
pub use state::{Dispatch, Times};
pub use store::{Store, Ticket, Unreadable};

// === impl Dispatch ===

impl<B: Broker, S: Store> Dispatch<B, S> {
    /// Accepts a record; `pending` is resolved when the record is safe, or when it is known that it will not be.
    pub fn send(&self, now: Instant, record: &Record<'_>, pending: Pending) {
        let group = key_groups::key_group(record);
        let Ok(encoded) = self.encoded(record) else {
            return pending.too_large();
        };
        let mut state = self.state();
        let epoch = self.broker.epoch();
        // Under the lock: nothing is accepted once `close` has begun. What is known before the record goes anywhere is answered
        // without it; later answers are posted under it, so whoever is told must not send from within the call.
        if self.health.is_closed() {
            drop(state);
            return pending.busy(Busy::Draining);
        }
        let missing = match state.deferred.is_empty() {
            true => None,
            false => state.deferred.get(record.topic).map(|topic| topic.words),
        };
        let Some((store, encoded)) = self.store.as_ref().zip(encoded) else {
            if let Some(words) = missing {
                drop(state);
                return pending.busy(Busy::TopicMissing(words));
            }
            if !self.health.is_up() {
                drop(state);
                return pending.busy(Busy::KafkaUnavailable);
            }
            let id = self.insert(&mut state, now, group, pending, None);
            drop(state);
            return self.enqueue(epoch, record, id);
        };
        state.received_bytes += encoded.len() as u64;
        let may_go = missing.is_none() && self.health.is_up();
        let is_tried = || missing.is_none() && !may_go;
        if !state.key_groups.waits(group) && (may_go || is_tried() && self.may_try(&mut state, store, group)) {
            let id = self.insert(&mut state, now, group, pending, Some(encoded));
            state.trials.sent(id, may_go);
            enqueue::SPARE.set(state.in_flight.spare());
            drop(state);
            self.enqueue(epoch, record, id);
        } else if may_go && state.may_retain(now, group) {
            state.retain(PendingRecord::new(encoded, pending, group, now));
        } else {
            // What is retained is of none of those that are without a topic, and seldom of one that is stalled.
            if missing.is_none() && (state.retained.has_stalled() || !state.unconfirmed.is_stalled(group)) {
                self.spool_retained(&mut state, store, now);
            }
            self.append(&mut state, store, PendingRecord::new(encoded, pending, group, now));
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
                self.note_missing_topics(&mut state);
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
        let send = state.in_flight.by_slot(slot)?;
        if result.is_ok() {
            state.confirmed_sent_at = state.confirmed_sent_at.max(Some(send.sent_at));
            if !state.unconfirmed.is_empty() {
                state.unconfirmed.confirmed(send.group, send.sent_at, state.now);
            }
        }
        match (&mut send.progress, result) {
            (Progress::Sent { .. } | Progress::KafkaOnly { .. }, Ok(())) => {
                let send = state.in_flight.remove(slot);
                self.uncopied_ended(state, &send);
                return match send.progress {
                    Progress::Sent { pending, encoded } => {
                        state.key_groups.out_of_producer(send.group);
                        state.in_flight.keep_spare(encoded);
                        Some(pending)
                    }
                    Progress::KafkaOnly { pending } => pending,
                    _ => None,
                };
            }
            (Progress::Sent { .. } | Progress::KafkaOnly { .. }, Err(refused)) => self.given_back(state, slot, refused),
            (Progress::Appended { pending }, Ok(())) => {
                let (pending, group) = (pending.take(), send.group);
                send.progress = Progress::AppendedAndDelivered;
                self.copy_reported(state, group);
                return pending;
            }
            (Progress::Appended { .. }, Err(_)) => self.copy_given_back(state, slot),
            (Progress::AppendedAndDelivered | Progress::AppendedAndGivenBack { .. }, _) => {}
            (Progress::Spooled { sequence }, result) => {
                let (sequence, group) = (*sequence, send.group);
                state.in_flight.remove(slot);
                match result {
                    Ok(()) => self.commit(sequence),
                    Err(_) => state.key_groups.spooled(group),
                }
                self.copy_reported(state, group);
                self.copy_ended(state, group);
            }
            (Progress::Replayed { .. }, result) => self.replay_reported(state, slot, result),
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
        let Some(send) = state.in_flight.by_slot(slot) else {
            return;
        };
        if matches!(send.progress, Progress::Appended { .. }) {
            return self.copy_given_back(state, slot);
        }
        let send = state.in_flight.remove(slot);
        self.uncopied_ended(state, &send);
        if matches!(send.progress, Progress::Sent { .. }) {
            state.key_groups.out_of_producer(send.group);
        }
        self.refused(state, send, refused);
    }

    /// The producer gives a copied record back before the spool has answered for it.
    fn copy_given_back(&self, state: &mut State, slot: usize) {
        let Some(send) = state.in_flight.by_slot(slot) else {
            return;
        };
        let group = send.group;
        if let Progress::Appended { pending } = &mut send.progress {
            let pending = pending.take();
            send.progress = Progress::AppendedAndGivenBack { pending };
            state.key_groups.spooled(group);
            self.copy_reported(state, group);
        }
    }

    /// The producer does not have the record (any more), and the spool does not have it either.
    fn refused(&self, state: &mut State, send: InFlightSend, refused: Refused) {
        let InFlightSend { group, sent_at, .. } = send;
        let pending = match send.progress {
            Progress::Sent { pending, .. } | Progress::KafkaOnly { pending: Some(pending) }
                if refused == Refused::TooLarge =>
            {
                return pending.too_large();
            }
            Progress::Sent { pending, encoded } => match &self.store {
                Some(store) => {
                    return self.append_next(state, store, PendingRecord::new(encoded, pending, group, sent_at));
                }
                None => pending,
            },
            Progress::KafkaOnly { pending: Some(pending) } => pending,
            _ => return,
        };
        match refused {
            Refused::TopicMissing(words) => pending.busy(Busy::TopicMissing(words)),
            Refused::QueueFull => pending.busy(Busy::QueueFull),
            Refused::TimedOut => {
                self.metrics.kafka_records_in_doubt_total.inc();
                // Its partition alone may have no leader.
                if !self.health.confirmed_since(sent_at) && !self.may_be_leaderless(&mut state.leaderless, group) {
                    self.health.failed(
                        Cause::Unconfirmed,
                        "kafka did not confirm a reading within kafka.delivery_timeout",
                    );
                }
                pending.busy(Busy::KafkaTimeout);
            }
            Refused::Purged if self.health.is_closed() => pending.busy(Busy::Draining),
            Refused::TooLarge => pending.too_large(),
            Refused::Purged | Refused::Other | Refused::Unacceptable | Refused::BatchTooLarge => {
                pending.busy(Busy::KafkaRefused);
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
            state.appends.answered();
            self.spool_metrics
                .spool_appended_total
                .inc_by(u64::from(result.is_ok()));
            match ticket {
                Ticket::Alone {
                    number,
                    group,
                    deferred,
                } => {
                    let pending = state.appends.end(number);
                    match result {
                        Ok(sequence) => {
                            state.deferred.durable(deferred, sequence);
                            self.written(pending);
                        }
                        Err(busy) => {
                            match state.deferred.not_durable(deferred, group) {
                                true => state.key_groups.released(group),
                                false => state.key_groups.unspooled(group),
                            }
                            pending.into_iter().for_each(|pending| pending.busy(busy));
                        }
                    }
                }
                Ticket::Copy(id) => self.copied(&mut state, id, result),
                Ticket::Deferred { number } => self.deferred_copied(&mut state, number, result.ok()),
                Ticket::Reappended { from } => self.moved(&mut state, from, result.ok()),
            }
        }
    }

    /// Looks after records that Kafka does not confirm, and those that the store does not write; by a thread that waits for
    /// no disk. Returns how soon it is to be called again.
    pub fn tick(&self, now: Instant) -> Duration {
        self.note_missing_topics(&mut self.state());
        let Some(store) = &self.store else {
            return self.idle_pause();
        };
        let refuses = store.refuses().or(self.disk_refuses(now));
        self.health.spool_refuses(refuses);
        let mut state = self.state();
        state.now = now;
        let received_bytes = std::mem::take(&mut state.received_bytes);
        state
            .ingest
            .add(received_bytes, now.saturating_duration_since(self.started));
        self.find_stalled(&mut state, store, now);
        while let Some(id) = state.in_flight.spool_due(now, self.times.spool_after) {
            self.report_unconfirmed(&mut state, id);
            if !self.copy(&mut state, store, id) {
                state.in_flight.check_again(id);
                break;
            }
        }
        self.try_everybody(&mut state, refuses.is_some());
        if self.owes_nothing(&mut state) {
            self.health.nothing_awaited();
        }
        self.answer_overdue(&mut state, now);
        state.replay.log_due(now);
        if !self.health.is_up() || state.retained.is_overdue(now) {
            self.spool_retained(&mut state, store, now);
        }
        self.pause(&state, now)
    }

    /// A record that was deferred is in the store once more.
    fn moved(&self, state: &mut State, from: u64, to: Option<u64>) {
        let Some(to) = to else {
            return state.replay.not_moved(from);
        };
        // If it was confirmed meanwhile, the new one needs no replay.
        let done = if state.replay.moved(from, to) { from } else { to };
        self.commit(done);
        // The replay may just have read it.
        state.unconfirmed.changed();
    }

    fn append(&self, state: &mut State, store: &S, record: PendingRecord) {
        self.copy_before(state, store, record.group);
        if state.key_groups.has_in_producer(record.group) {
            // An earlier one found no room in the store's queue: this one must not stand before it.
            return record.pending.busy(Busy::SpoolBusy);
        }
        self.append_next(state, store, record);
    }

    /// The same, when none of its group must stand before it.
    fn append_next(&self, state: &mut State, store: &S, record: PendingRecord) {
        let PendingRecord {
            encoded,
            pending,
            group,
            since,
        } = record;
        if state.appends.disk() == Disk::Hung {
            return pending.busy(Busy::SpoolTimeout);
        }
        let (bytes, deferred) = (encoded.len(), state.deferred.generation_of(&encoded));
        let number = state.appends.begin(pending, since + self.times.delivery_timeout);
        match store.append(
            encoded,
            Ticket::Alone {
                number,
                group,
                deferred,
            },
        ) {
            Ok(()) => {
                state.appends.given();
                if deferred == 0 {
                    state.key_groups.spooled(group);
                    if !state.key_groups.is_passed_over(group) {
                        state.replay.grew(bytes);
                    }
                } else {
                    state.key_groups.retained(group);
                    state.deferred.appended(deferred, group);
                }
            }
            Err((_, _, busy)) => state
                .appends
                .cancel()
                .into_iter()
                .for_each(|pending| pending.busy(busy)),
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

    /// Gives what is retained to the store, in its order.
    fn spool_retained(&self, state: &mut State, store: &S, now: Instant) {
        let retained = state.retained.give_up(now);
        self.append_retained(state, store, retained);
    }

    fn append_retained(&self, state: &mut State, store: &S, retained: VecDeque<PendingRecord>) {
        retained
            .iter()
            .for_each(|waiting| state.key_groups.released(waiting.group));
        for waiting in retained {
            self.append(state, store, waiting);
        }
    }

    /// Retains nothing any more: what is retained is given to the store. After the health was closed.
    pub fn close(&self, now: Instant) {
        if let Some(store) = &self.store {
            self.spool_retained(&mut self.state(), store, now);
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
        (state.unconfirmed.copies(), state.unconfirmed.replayed())
    }

    /// Whether there is nothing to replay, and nothing on its way to the store.
    pub fn is_idle(&self) -> bool {
        let state = self.state();
        let is_store_idle = self.store.as_ref().is_none_or(|store| store.uncommitted() == 0);
        is_store_idle && !state.waits_for_store() && state.key_groups.behind() == 0
    }

    /// Devices that wait for an answer.
    pub fn waiting(&self) -> usize {
        let state = self.state();
        state.in_flight.waiting() + state.retained.len() + state.appends.waiting()
    }
}
