//! Spooled records on their way to Kafka: oldest first, each committed by its own delivery report.
//!
//! A record that the producer gives back lets the replay begin again with the oldest, once all others have ended but for
//! those of stalled groups, so that order holds. It begins again as well when groups are stalled no more, for the entries
//! that it passed over; as the producer has none of them, that waits for nothing. One that Kafka refuses as it is (too large, a time that it considers wrong, a topic that is gone) is deferred
//! in the spool and retried later (`replay.retry_interval`): it is neither lost nor in the way.
//! Kafka refuses the batch that such a record comes in as a whole; the others in it are sent again at once, and are the one
//! case in which later records of a device may come first.

use std::time::{Duration, Instant};

use tracing::warn;

use super::in_flight::{InFlightSend, Progress};
use super::key_groups;
use super::replay::{First, Refusal, Replayed};
use super::state::{Dispatch, State};
use super::store::{Store, Ticket};
use crate::deliver::broker::{Broker, Refused};
use crate::deliver::encoded_record;
use crate::message::Record;

/// Records that are enqueued without letting anyone else to the producer.
const BATCH: usize = 128;

/// Reads of a turn, at most, as long as all that is read is passed over; and how much they read, but for the first.
const READS_MAX: usize = 8;
const PASSING: (usize, usize) = (4_096, 4 << 20);

/// How long nothing is read after the disk, or the producer, did not do as asked.
const DISK_PAUSE: Duration = Duration::from_secs(1);
const PRODUCER_PAUSE: Duration = Duration::from_millis(100);

/// The outcome of one entry.
enum Next {
    /// The producer has it.
    Sent,
    /// It stays in the spool for now, and is in no one's way.
    Passed,
    /// The producer accepts nothing at this moment.
    NotNow,
}

/// What was when a turn began; it holds for the whole of it, or the turn ends.
#[derive(Clone, Copy, Debug)]
struct Begun {
    /// Of what may have been committed, or copied ([`Unconfirmed::changes`](super::unconfirmed::Unconfirmed::changes)).
    changes: u64,
    /// Of the producer.
    epoch: u64,
}

// === impl Dispatch ===

impl<B: Broker, S: Store> Dispatch<B, S> {
    /// Sends spooled records to Kafka, oldest first, at most so many and so many bytes, and releases records that were retained
    /// for them. Nothing is sent while Kafka is unavailable, but for one at a time that is tried; nor of groups of which it
    /// holds records that are spooled as well.
    ///
    /// `wall_ms`: a record that claims to be younger was received before the clock was set back, and takes this time.
    pub fn replay(&self, now: Instant, wall_ms: i64, entries_max: usize, bytes_max: usize) -> Replayed {
        let Some(store) = &self.store else {
            return Replayed::default();
        };
        let (mut most, begun, mut turn) = self.begin_turn(store, now, (entries_max, bytes_max));
        if most.0 == 0 || most.1 == 0 {
            return turn;
        }
        // What is passed over costs the pace nothing, for it may be most of what there is.
        let mut is_end = false;
        for _ in 0..READS_MAX {
            let sent = turn.records;
            // Without the lock: devices do not wait for the disk.
            let entries = match store.read(most.0, most.1) {
                Ok(entries) => entries,
                Err(error) => {
                    warn!(%error, "the spool could not be read; the replay pauses");
                    self.spool_metrics.spool_read_errors_total.inc();
                    self.state().replay.restart_at(now + DISK_PAUSE);
                    return turn;
                }
            };
            is_end = entries.is_empty();
            if !self.replay_all(store, now, (wall_ms, begun), entries, &mut turn) {
                return turn;
            }
            if is_end || turn.records > sent {
                break;
            }
            most = PASSING;
        }
        self.end_turn(store, now, (begun.epoch, is_end));
        turn
    }

    /// False: the replay is to begin again.
    fn replay_all(
        &self,
        store: &S,
        now: Instant,
        (wall_ms, begun): (i64, Begun),
        entries: Vec<(u64, Vec<u8>)>,
        turn: &mut Replayed,
    ) -> bool {
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let mut state = self.state();
            // Among them may be some that were not committed when they were read, and are now.
            let is_changed = state.unconfirmed.changes() != begun.changes;
            for (sequence, encoded) in entries.by_ref().take(BATCH) {
                // What was given back meanwhile comes first.
                if state.replay.rewind {
                    return false;
                }
                if is_changed && store.is_committed(sequence) {
                    continue;
                }
                let bytes = encoded.len();
                match self.replay_one(&mut state, store, now, (wall_ms, begun.epoch), (sequence, encoded)) {
                    Next::Sent => {
                        turn.records += 1;
                        turn.bytes += bytes;
                        if !self.health.is_up() {
                            // It is tried alone; the others that were read follow once it is confirmed.
                            state.replay.restart();
                        }
                    }
                    Next::Passed => {}
                    Next::NotNow => {
                        state.replay.restart_at(now + PRODUCER_PAUSE);
                        return false;
                    }
                }
            }
        }
        true
    }

    /// How many records, and bytes, may be sent now, and what was then.
    fn begin_turn(
        &self,
        store: &S,
        now: Instant,
        (entries_max, bytes_max): (usize, usize),
    ) -> ((usize, usize), Begun, Replayed) {
        let mut state = self.state();
        let turn = std::mem::take(&mut state.replay.grown);
        let begun = Begun {
            changes: state.unconfirmed.changes(),
            epoch: self.broker.epoch(),
        };
        let awaits_copies = state.unconfirmed.copies_awaited() > 0
            && (self.is_settling(&state, now) || state.compactions.now.is_some());
        let (window, window_bytes) = self.window(&state);
        let waits = window == 0
            || window_bytes == 0
            || self.health.is_closed()
            || awaits_copies
            || state.compactions.must_pause();
        if waits || state.replay.pauses(now) {
            return ((0, 0), begun, turn);
        }
        self.begin_with_oldest(&mut state, store, now);
        if state.replay.rewind {
            return ((0, 0), begun, turn);
        }
        // Whoever is retained waits for the last entries: the pace is for long replays.
        let room = match state.retained.is_empty() {
            true => window.min(entries_max),
            false => window,
        };
        ((room, bytes_max.min(window_bytes)), begun, turn)
    }

    /// If that is to be done. If something was given back, as soon as the producer holds nothing that could then come before
    /// it.
    fn begin_with_oldest(&self, state: &mut State, store: &S, now: Instant) {
        let leaderless = self.health.leaderless().version();
        let are_tried = self.health.is_up() || state.replay.untried_version != leaderless;
        state.replay.rewind |= !state.replay.untried.is_empty() && are_tried;
        let is_soon = state.replay.is_at_end || state.compactions.now.is_some();
        let begins = match state.replay.rewind {
            true => state.unconfirmed.replayed_awaited() == 0,
            false => {
                (state.unconfirmed.returns() && state.replay.returns(now, is_soon))
                    || (state.unconfirmed.replayed_awaited() == 0
                        && state.replay.retry_is_due(now, self.times.retry_interval))
            }
        };
        if begins {
            store.rewind();
            state.unconfirmed.rewound(&mut state.key_groups);
            state.replay.rewound();
        }
    }

    /// Whether the next one may follow.
    fn replay_one(
        &self,
        state: &mut State,
        store: &S,
        now: Instant,
        (wall_ms, epoch): (i64, u64),
        (sequence, encoded): (u64, Vec<u8>),
    ) -> Next {
        if state.replay.is_deferred(sequence) {
            return Next::Passed;
        }
        let entry = (sequence, &*encoded);
        if self.is_stalled(state, store, entry)
            || self.pass_over(state, store, entry)
            || self.is_untried(state, &encoded)
        {
            return Next::Passed;
        }
        match self.first_of_group(state, sequence, &encoded) {
            First::Sent(first) if first != sequence => return Next::Passed,
            First::Refused => return Next::Passed,
            _ => {}
        }
        let (slot, bytes) = (state.in_flight.next_slot(), encoded.len());
        let sent = encoded_record::decode(&encoded, |record| {
            let record = Record {
                timestamp_ms: record.timestamp_ms.min(wall_ms),
                ..*record
            };
            let group = key_groups::key_group(&record);
            // Its report waits for the lock, under which it is noted below.
            let sent = self.broker.produce(epoch, &record, slot);
            sent.map_err(|refused| (refused, group)).map(|()| group)
        });
        match sent {
            Ok(Ok(group)) => {
                let progress = Progress::Replayed { sequence, encoded };
                state.in_flight.insert(InFlightSend::new(group, now, progress));
                // As a record that was received now would be copied by then.
                let since = now + self.times.spool_after;
                state.unconfirmed.replaying(group, (sequence, bytes), now, since);
                self.enqueued(state, sequence, Some(group));
                self.metrics.kafka_records_sent_total.inc();
                Next::Sent
            }
            Ok(Err((refused @ (Refused::TooLarge | Refused::Unacceptable), group))) => {
                self.enqueued(state, sequence, Some(group));
                if !state.replay.is_first(sequence, group, First::Refused) {
                    self.defer_refused(state, store, now, (sequence, encoded), &format!("{refused:?}"));
                }
                Next::Passed
            }
            Ok(Err(_)) => Next::NotNow,
            Err(error) => {
                self.enqueued(state, sequence, None);
                self.defer_refused(state, store, now, (sequence, encoded), &error.to_string());
                Next::Passed
            }
        }
    }

    /// `Accepted`: it is sent in any case.
    fn first_of_group(&self, state: &mut State, sequence: u64, encoded: &[u8]) -> First {
        if !state.replay.aside.contains_key(&sequence) {
            return First::Accepted;
        }
        let group = encoded_record::decode(encoded, key_groups::key_group);
        group.map_or(First::Accepted, |group| state.replay.first(sequence, group))
    }

    /// Whether the producer has the entry, or its group is not to be replayed now.
    fn is_stalled(&self, state: &mut State, store: &S, (sequence, encoded): (u64, &[u8])) -> bool {
        let is_replayed = state.unconfirmed.is_replayed(sequence);
        if !state.key_groups.is_any_passed_over() {
            return is_replayed;
        }
        let State {
            unconfirmed,
            key_groups,
            deferred,
            replay,
            ..
        } = state;
        let decoded = encoded_record::decode(encoded, |record| {
            let group = key_groups::key_group(record);
            let topic = deferred.get(record.topic);
            (group, topic.is_some_and(|topic| topic.has_counted(sequence, group)))
        });
        let Ok((group, is_deferred)) = decoded else {
            return is_replayed;
        };
        // One that was refused is not waited for.
        let is_unknown = !is_deferred && !replay.aside.contains_key(&sequence);
        let is_passed = is_replayed || unconfirmed.passes_over(sequence, group, is_unknown, key_groups);
        if is_passed {
            self.copy_stalled(state, store, group, (sequence, encoded));
        }
        is_passed
    }

    /// Whether the entry's topic is missing: it stays where it is, or is moved to the end.
    fn pass_over(&self, state: &mut State, store: &S, (sequence, encoded): (u64, &[u8])) -> bool {
        if state.deferred.is_empty() {
            return false;
        }
        if state.compactions.is_copy(sequence) {
            return true;
        }
        // One that is deferred is not waited for in any case.
        let is_deferred = state.replay.aside.contains_key(&sequence);
        let State {
            deferred, key_groups, ..
        } = state;
        let passed = encoded_record::decode(encoded, |record| {
            let topic = deferred.get_mut(record.topic);
            topic.map(|topic| (!is_deferred).then(|| topic.passed(sequence, key_groups::key_group(record), key_groups)))
        });
        let Ok(Some(counted)) = passed else { return false };
        if counted.is_some() {
            self.copy_deferred(state, store, (sequence, encoded));
        }
        true
    }

    /// Whether the entry is not to be tried: Kafka confirms nothing, and names no leader for its partition.
    fn is_untried(&self, state: &mut State, encoded: &[u8]) -> bool {
        let leaderless = self.health.leaderless();
        let is_tried_alone = !self.health.is_up() && !leaderless.is_empty();
        if !is_tried_alone && state.replay.untried.is_empty() {
            return false;
        }
        let Ok(group) = encoded_record::decode(encoded, key_groups::key_group) else {
            return false;
        };
        // Whatever changes meanwhile: one behind it must not come before it.
        if state.replay.untried.contains(&group) {
            return true;
        }
        let is_untried = is_tried_alone && self.may_be_leaderless(&mut state.leaderless, group);
        if is_untried {
            if state.replay.untried.is_empty() {
                state.replay.untried_version = leaderless.version();
            }
            state.replay.untried.insert(group);
        }
        is_untried
    }

    fn enqueued(&self, state: &mut State, sequence: u64, group: Option<usize>) {
        // One that was deferred is not waited for, so it is not counted.
        if !state.replay.aside.contains_key(&sequence) {
            state.key_groups.enqueued(sequence, group);
        }
    }

    fn defer_refused(
        &self,
        state: &mut State,
        store: &S,
        now: Instant,
        (sequence, encoded): (u64, Vec<u8>),
        why: &str,
    ) {
        let appended = store.append(encoded, Ticket::Reappended { from: sequence }).is_ok();
        if appended {
            state.appends.given();
        }
        if state.replay.aside.is_empty() {
            state.replay.retry_at = Some(now + self.times.retry_interval);
        }
        let aside = Refusal {
            since: now,
            moving: appended,
        };
        if state.replay.aside.insert(sequence, aside).is_none() {
            state.replay.tries = 0;
            self.spool_metrics
                .spool_readings_refused
                .set(state.replay.aside.len() as i64);
            state.replay.log_refused(now, why);
        }
    }

    /// The producer's last word on a replayed record.
    pub(super) fn replay_reported(&self, state: &mut State, slot: usize, result: Result<(), Refused>) {
        let InFlightSend {
            group,
            sent_at,
            progress: Progress::Replayed { sequence, encoded },
            ..
        } = state.in_flight.remove(slot)
        else {
            return;
        };
        let bytes = encoded.len();
        match result {
            Ok(()) => {
                if state.replay.aside.remove(&sequence).is_some() {
                    self.spool_metrics
                        .spool_readings_refused
                        .set(state.replay.aside.len() as i64);
                    state.replay.rewind |= state.replay.is_first(sequence, group, First::Accepted);
                }
                self.spool_metrics.spool_replayed_total.inc();
                self.commit(sequence);
            }
            Err(refused @ (Refused::TooLarge | Refused::Unacceptable)) => {
                if let Some(store) = &self.store
                    && !state.replay.is_first(sequence, group, First::Refused)
                {
                    self.defer_refused(state, store, sent_at, (sequence, encoded), &format!("{refused:?}"));
                }
            }
            Err(_) => self.given_back_again(state, group, (sequence, &encoded)),
        }
        self.abandon_compaction_of(state, group);
        state
            .unconfirmed
            .replay_ended(group, (sequence, bytes), &mut state.key_groups);
    }

    /// The producer gives a replayed record back: it is replayed once more, or when its topic exists.
    fn given_back_again(&self, state: &mut State, group: usize, (sequence, encoded): (u64, &[u8])) {
        if state.replay.aside.contains_key(&sequence) {
            state.replay.rewind = true;
            return;
        }
        let State {
            deferred,
            key_groups,
            unconfirmed,
            ..
        } = state;
        if deferred.is_empty() || !deferred.given_back(group, (sequence, encoded), key_groups) {
            unconfirmed.given_back(sequence, group, key_groups);
            state.replay.rewind = true;
        }
    }

    /// Releases what was retained, if nothing is before it any more.
    fn end_turn(&self, store: &S, now: Instant, (epoch, is_end): (u64, bool)) {
        let mut state = self.state();
        let state = &mut *state;
        if state.replay.rewind {
            return;
        }
        state.replay.is_at_end = is_end;
        if is_end {
            self.check_compaction(state, store, now);
        }
        let aside = state.replay.aside.len() as u64;
        let others = state.deferred.entries().map(|deferred| aside + deferred);
        let is_any_passed_over = state.key_groups.is_any_passed_over();
        if !is_any_passed_over && state.appends.is_empty() && Some(store.uncommitted()) == others {
            let waiting = state.retained.key_groups().chain(state.deferred.key_groups());
            state.key_groups.nothing_spooled(waiting);
        }
        if state.key_groups.behind() > 0 || state.compactions.is_finishing() {
            return;
        }
        let retained = state.retained.release();
        retained
            .iter()
            .for_each(|waiting| state.key_groups.released(waiting.group));
        for waiting in retained {
            if state.key_groups.waits(waiting.group) || state.deferred.generation_of(&waiting.encoded) > 0 {
                // The one before it was refused, and is in the spool by now; or its topic is gone.
                self.append(state, store, waiting);
                continue;
            }
            let encoded = waiting.encoded.clone();
            let (pending, group) = (waiting.pending, waiting.group);
            // It was encoded a moment ago by the same function.
            drop(encoded_record::decode(&encoded, |record| {
                let id = self.insert(state, now, group, pending, Some(waiting.encoded));
                match self.broker.produce(epoch, record, id.slot) {
                    Ok(()) => self.metrics.kafka_records_sent_total.inc(),
                    Err(refused) => self.not_taken(state, id, refused),
                }
            }));
        }
    }
}
