//! Spooled records on their way to Kafka: oldest first, each committed by its own delivery report.
//!
//! A record that the producer gives back lets the replay begin again with the oldest, once all others have ended, so that
//! order holds. One that Kafka will not take as it is (too large, a time that it takes for wrong, a topic that is gone) is set
//! aside in the spool and tried again later (`replay.try_again`): it is neither lost nor in the way.
//! Kafka refuses the batch that such a record comes in as a whole; the others in it are sent again at once, and are the one
//! case in which later records of a device may come first.

use std::time::{Duration, Instant};

use tracing::warn;

use super::flights::{Flight, Spooled};
use super::lanes;
use super::replay::{Aside, First, Replayed};
use super::state::{Dispatch, State};
use super::store::{Store, Ticket};
use crate::deliver::broker::{Broker, Refused};
use crate::deliver::parcel;
use crate::message::Record;

/// Replayed records that may await their confirmation at once.
const WINDOW: usize = 10_000;

/// Records that are handed over without letting anyone else to the producer.
const BATCH: usize = 128;

/// Reads of a turn, at most, as long as all that is read is passed over; and how much they read, but for the first.
const READS_MAX: usize = 8;
const PASSING: (usize, usize) = (4_096, 4 << 20);

/// How long nothing is read after the disk, or the producer, did not do as asked.
const DISK_PAUSE: Duration = Duration::from_secs(1);
const PRODUCER_PAUSE: Duration = Duration::from_millis(100);

/// What became of one entry.
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
    /// How many records had been copied.
    copies: u64,
    /// Of the producer.
    epoch: u64,
}

// === impl Dispatch ===

impl<B: Broker, S: Store> Dispatch<B, S> {
    /// Sends spooled records to Kafka, oldest first, at most so many and so many bytes, and lets records go that were held
    /// back for them. Nothing is sent while Kafka is away or holds records that are spooled as well.
    ///
    /// `wall_ms`: a record that claims to be younger was received before the clock was set back, and takes this time.
    pub fn replay(&self, now: Instant, wall_ms: i64, entries_max: usize, bytes_max: usize) -> Replayed {
        let Some(store) = &self.store else {
            return Replayed::default();
        };
        let (room, begun, mut turn) = self.begin_turn(store, now, entries_max);
        if room == 0 || bytes_max == 0 {
            return turn;
        }
        // What is passed over costs the pace nothing, for it may be most of what there is.
        let mut most = (room, bytes_max);
        let mut is_end = false;
        for _ in 0..READS_MAX {
            let sent = turn.records;
            // Without the lock: devices do not wait for the disk.
            let entries = match store.read(most.0, most.1) {
                Ok(entries) => entries,
                Err(error) => {
                    warn!(%error, "the spool could not be read; the replay pauses");
                    self.spool_metrics.spool_read_errors_total.inc();
                    self.state().replay.begin_again(now + DISK_PAUSE);
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
            if state.copies != begun.copies {
                // Among them may be some that the producer holds.
                state.replay.rewind = true;
            }
            for (sequence, parcel) in entries.by_ref().take(BATCH) {
                // What was given back meanwhile comes first.
                if state.replay.rewind {
                    return false;
                }
                let bytes = parcel.len();
                match self.replay_one(&mut state, store, now, (wall_ms, begun.epoch), (sequence, parcel)) {
                    Next::Sent => {
                        turn.records += 1;
                        turn.bytes += bytes;
                    }
                    Next::Passed => {}
                    Next::NotNow => {
                        state.replay.begin_again(now + PRODUCER_PAUSE);
                        return false;
                    }
                }
            }
        }
        true
    }

    /// How many records may be sent now, and what was then.
    fn begin_turn(&self, store: &S, now: Instant, entries_max: usize) -> (usize, Begun, Replayed) {
        let mut state = self.state();
        let turn = std::mem::take(&mut state.replay.grown);
        let begun = Begun {
            copies: state.copies,
            epoch: self.broker.epoch(),
        };
        let waits = !self.health.is_up() || self.health.is_closed() || state.doubled > 0 || state.moves.must_pause();
        if waits || state.replay.pauses(now) {
            return (0, begun, turn);
        }
        if state.replay.flying == 0 && (state.replay.rewind || state.replay.are_due(now, self.times.try_again)) {
            store.rewind();
            state.replay.rewind = false;
        }
        if state.replay.rewind {
            return (0, begun, turn);
        }
        // Whoever is held back waits for the last entries: the pace is for long replays.
        let wanted = if state.held.is_empty() { entries_max } else { WINDOW };
        (WINDOW.saturating_sub(state.replay.flying).min(wanted), begun, turn)
    }

    /// Whether the next one may follow.
    fn replay_one(
        &self,
        state: &mut State,
        store: &S,
        now: Instant,
        (wall_ms, epoch): (i64, u64),
        (sequence, parcel): (u64, Vec<u8>),
    ) -> Next {
        if state.replay.is_aside(sequence) {
            return Next::Passed;
        }
        if self.pass_over(state, store, (sequence, &parcel)) {
            return Next::Passed;
        }
        match self.first_of_lane(state, sequence, &parcel) {
            First::Sent(first) if first != sequence => return Next::Passed,
            First::Refused => return Next::Passed,
            _ => {}
        }
        let sent = parcel::open(&parcel, |record| {
            let record = Record {
                timestamp_ms: record.timestamp_ms.min(wall_ms),
                ..*record
            };
            let lane = lanes::lane(&record);
            let flight = Flight::new(lane, now, Spooled::Replayed(sequence));
            let slot = state.flights.depart(flight).slot;
            let sent = self.broker.produce(epoch, &record, slot);
            if sent.is_err() {
                state.flights.land(slot);
            }
            sent.map_err(|refused| (refused, lane)).map(|()| (slot, lane))
        });
        match sent {
            Ok(Ok((slot, lane))) => {
                if let Some(flight) = state.flights.at(slot) {
                    flight.parcel = Some(parcel);
                }
                state.replay.flying += 1;
                self.handed_over(state, sequence, Some(lane));
                self.metrics.kafka_records_sent_total.inc();
                Next::Sent
            }
            Ok(Err((refused @ (Refused::TooLarge | Refused::Unacceptable), lane))) => {
                self.handed_over(state, sequence, Some(lane));
                if !state.replay.is_first(sequence, lane, First::Refused) {
                    self.set_aside(state, store, now, (sequence, Some(parcel)), &format!("{refused:?}"));
                }
                Next::Passed
            }
            Ok(Err(_)) => Next::NotNow,
            Err(error) => {
                self.handed_over(state, sequence, None);
                self.set_aside(state, store, now, (sequence, Some(parcel)), &error.to_string());
                Next::Passed
            }
        }
    }

    /// `Accepted`: it is sent in any case.
    fn first_of_lane(&self, state: &mut State, sequence: u64, parcel: &[u8]) -> First {
        if !state.replay.aside.contains_key(&sequence) {
            return First::Accepted;
        }
        let lane = parcel::open(parcel, lanes::lane);
        lane.map_or(First::Accepted, |lane| state.replay.first(sequence, lane))
    }

    /// Whether the entry's topic is missing: it stays where it is, or is moved to the end.
    fn pass_over(&self, state: &mut State, store: &S, (sequence, parcel): (u64, &[u8])) -> bool {
        if state.parked.is_empty() {
            return false;
        }
        if state.moves.is_copy(sequence) {
            return true;
        }
        // One that is set aside is not waited for in any case.
        let is_aside = state.replay.aside.contains_key(&sequence);
        let State { parked, lanes, .. } = state;
        let passed = parcel::open(parcel, |record| {
            let topic = parked.get_mut(record.topic);
            topic.map(|topic| (!is_aside).then(|| topic.passed(sequence, lanes::lane(record), lanes)))
        });
        let Ok(Some(counted)) = passed else { return false };
        if counted.is_some() {
            self.copy_parked(state, store, (sequence, parcel));
        }
        true
    }

    fn handed_over(&self, state: &mut State, sequence: u64, lane: Option<usize>) {
        // One that was set aside is not waited for, so it is not counted.
        if !state.replay.aside.contains_key(&sequence) {
            state.lanes.handed_over(sequence, lane);
        }
    }

    fn set_aside(
        &self,
        state: &mut State,
        store: &S,
        now: Instant,
        (sequence, parcel): (u64, Option<Vec<u8>>),
        why: &str,
    ) {
        let appended = parcel.is_some_and(|parcel| store.append(parcel, Ticket::Moved { from: sequence }).is_ok());
        if appended {
            state.writes.given();
        }
        if state.replay.aside.is_empty() {
            state.replay.try_at = Some(now + self.times.try_again);
        }
        let aside = Aside {
            since: now,
            moving: appended,
        };
        if state.replay.aside.insert(sequence, aside).is_none() {
            state.replay.tries = 0;
            self.spool_metrics.spool_set_aside.set(state.replay.aside.len() as i64);
            state.replay.say_aside(now, why);
        }
    }

    /// The producer's last word on a replayed record.
    pub(super) fn replay_reported(&self, state: &mut State, slot: usize, sequence: u64, result: Result<(), Refused>) {
        let flight = state.flights.land(slot);
        state.replay.flying -= 1;
        match result {
            Ok(()) => {
                if state.replay.aside.remove(&sequence).is_some() {
                    self.spool_metrics.spool_set_aside.set(state.replay.aside.len() as i64);
                    state.replay.rewind |= state.replay.is_first(sequence, flight.lane, First::Accepted);
                }
                self.spool_metrics.spool_replayed_total.inc();
                self.commit(sequence);
            }
            Err(refused @ (Refused::TooLarge | Refused::Unacceptable)) => {
                let Some(store) = &self.store else { return };
                if !state.replay.is_first(sequence, flight.lane, First::Refused) {
                    let entry = (sequence, flight.parcel);
                    self.set_aside(state, store, flight.sent_at, entry, &format!("{refused:?}"));
                }
            }
            Err(_) => self.handed_back(state, sequence, &flight),
        }
    }

    /// The producer gives a replayed record back: it is replayed once more, or when its topic exists.
    fn handed_back(&self, state: &mut State, sequence: u64, flight: &Flight) {
        if state.replay.aside.contains_key(&sequence) {
            state.replay.rewind = true;
            return;
        }
        let parked = &mut state.parked;
        let missing = match (&flight.parcel, parked.is_empty()) {
            (Some(parcel), false) => {
                let lanes = &mut state.lanes;
                let handed_back = parcel::open(parcel, |record| {
                    let topic = parked.get_mut(record.topic);
                    topic.map(|topic| topic.handed_back(sequence, flight.lane, lanes))
                });
                handed_back.is_ok_and(|topic| topic.is_some())
            }
            _ => false,
        };
        if !missing {
            state.lanes.handed_back(sequence, flight.lane);
            state.replay.rewind = true;
        }
    }

    /// Lets go what was held back, if nothing is before it any more.
    fn end_turn(&self, store: &S, now: Instant, (epoch, is_end): (u64, bool)) {
        let mut state = self.state();
        let state = &mut *state;
        if state.replay.rewind {
            return;
        }
        if is_end {
            self.look_at_moves(state, store, now);
        }
        let aside = state.replay.aside.len() as u64;
        let others = state.parked.entries().map(|parked| aside + parked);
        if state.writes.is_empty() && Some(store.uncommitted()) == others {
            let waiting = state.held.lanes().chain(state.parked.lanes());
            state.lanes.nothing_spooled(waiting);
        }
        if state.lanes.behind() > 0 {
            return;
        }
        let held = state.held.release();
        held.iter().for_each(|waiting| state.lanes.let_go(waiting.lane));
        for waiting in held {
            if state.lanes.waits(waiting.lane) || self.missing_topic(state, &waiting.parcel) > 0 {
                // The one before it was refused, and is in the spool by now; or its topic is gone.
                self.append(state, store, waiting);
                continue;
            }
            let parcel = waiting.parcel.clone();
            let (pending, lane) = (waiting.pending, waiting.lane);
            // It was packed a moment ago by the same function.
            drop(parcel::open(&parcel, |record| {
                let name = self.depart(state, now, lane, pending, Some(waiting.parcel));
                match self.broker.produce(epoch, record, name.slot) {
                    Ok(()) => self.metrics.kafka_records_sent_total.inc(),
                    Err(refused) => self.not_taken(state, name, refused),
                }
            }));
        }
    }
}
