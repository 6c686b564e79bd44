//! Spooled records on their way to Kafka: oldest first, each committed by its own delivery report.
//!
//! A record that the producer gives back lets the replay begin again with the oldest, once all others have ended, so that
//! order holds. One that Kafka will not take as it is (too large for its topic, a time that Kafka takes for wrong) is set
//! aside in the spool and tried again later (`replay.try_again`): it is neither lost nor in the way.
//! Kafka refuses the batch that such a record comes in as a whole; the others in it are sent again at once, and are the one
//! case in which later records of a device may come first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::flights::{Flight, Spooled};
use super::{Broker, Dispatch, Refused, State, Store, lanes, parcel};
use crate::message::Record;

/// Replayed records that may await their confirmation at once.
const WINDOW: usize = 10_000;

/// Records that are handed over without letting anyone else to the producer.
const BATCH: usize = 128;

/// How often those that were set aside are looked through.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a turn of the replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Handed to the producer.
    pub records: usize,
    pub bytes: usize,
    /// Came into the spool since the last turn.
    pub records_grown: usize,
    pub bytes_grown: usize,
}

/// How far the replay is.
#[derive(Debug, Default)]
pub struct Replay {
    /// Records that await their confirmation.
    flying: usize,
    /// Begin again with the oldest, once none is flying.
    rewind: bool,
    /// Entries that Kafka would not take, and when each is tried again.
    aside: BTreeMap<u64, Instant>,
    /// When they are looked through: there may be many.
    look_at: Option<Instant>,
    grown: Replayed,
}

// === impl Replay ===

impl Replay {
    pub fn must_rewind(&self) -> bool {
        self.rewind
    }

    /// A record came into the spool.
    pub fn grew(&mut self, bytes: usize) {
        self.grown.records_grown += 1;
        self.grown.bytes_grown += bytes;
    }

    fn is_aside(&self, sequence: u64, now: Instant) -> bool {
        self.aside.get(&sequence).is_some_and(|again| *again > now)
    }

    fn one_is_due(&mut self, now: Instant) -> bool {
        if self.aside.is_empty() || self.look_at.is_some_and(|at| now < at) {
            return false;
        }
        self.look_at = Some(now + LOOK_AGAIN);
        self.aside.values().any(|again| *again <= now)
    }
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
        let (room, mut turn) = self.begin_turn(store, now, entries_max);
        if room == 0 || bytes_max == 0 {
            return turn;
        }
        // Without the lock: devices do not wait for the disk. Only this thread makes anything doubled meanwhile.
        let entries = store.read(room, bytes_max).unwrap_or_else(|error| {
            warn!(%error, "the spool could not be read; the replay pauses");
            Vec::new()
        });
        for batch in entries.chunks(BATCH) {
            let mut state = self.state();
            for (sequence, parcel) in batch {
                // What was given back meanwhile comes first.
                if state.replay.rewind || !self.replay_one(&mut state, now, wall_ms, *sequence, parcel) {
                    state.replay.rewind = true;
                    return turn;
                }
                turn.records += 1;
                turn.bytes += parcel.len();
            }
        }
        self.end_turn(store, now);
        turn
    }

    /// How many records may be sent now.
    fn begin_turn(&self, store: &S, now: Instant, entries_max: usize) -> (usize, Replayed) {
        let mut state = self.state();
        let turn = std::mem::take(&mut state.replay.grown);
        if !self.health.is_up() || self.health.is_closed() || state.doubled > 0 {
            return (0, turn);
        }
        if state.replay.flying == 0 && (state.replay.rewind || state.replay.one_is_due(now)) {
            store.rewind();
            state.replay.rewind = false;
        }
        if state.replay.rewind {
            return (0, turn);
        }
        // Whoever is held back waits for the last entries: the pace is for long replays.
        let wanted = if state.held.is_empty() { entries_max } else { WINDOW };
        (WINDOW.saturating_sub(state.replay.flying).min(wanted), turn)
    }

    /// Whether the next one may follow.
    fn replay_one(&self, state: &mut State, now: Instant, wall_ms: i64, sequence: u64, parcel: &[u8]) -> bool {
        if state.replay.is_aside(sequence, now) {
            return true;
        }
        let sent = parcel::open(parcel, |record| {
            let record = Record {
                timestamp_ms: record.timestamp_ms.min(wall_ms),
                ..*record
            };
            let lane = lanes::lane(&record);
            let flight = Flight::new(lane, now, Spooled::Replayed(sequence));
            let slot = state.flights.depart(flight).slot;
            let sent = self.broker.produce(&record, slot);
            if sent.is_err() {
                state.flights.land(slot);
            }
            sent.map_err(|refused| (refused, lane)).map(|()| lane)
        });
        match sent {
            Ok(Ok(lane)) => {
                state.replay.flying += 1;
                self.handed_over(state, sequence, Some(lane));
                self.metrics.kafka_records_sent_total.inc();
                true
            }
            Ok(Err((refused @ (Refused::TooLarge | Refused::Unacceptable), lane))) => {
                self.handed_over(state, sequence, Some(lane));
                self.set_aside(state, now, sequence, &format!("{refused:?}"));
                true
            }
            Ok(Err(_)) => false,
            Err(error) => {
                self.handed_over(state, sequence, None);
                self.set_aside(state, now, sequence, &error.to_string());
                true
            }
        }
    }

    fn handed_over(&self, state: &mut State, sequence: u64, lane: Option<usize>) {
        // One that was set aside is not waited for, so it is not counted.
        if !state.replay.aside.contains_key(&sequence) {
            state.lanes.handed_over(sequence, lane);
        }
    }

    fn set_aside(&self, state: &mut State, now: Instant, sequence: u64, why: &str) {
        if state
            .replay
            .aside
            .insert(sequence, now + self.times.try_again)
            .is_none()
        {
            self.spool_metrics.spool_set_aside.set(state.replay.aside.len() as i64);
            error!(
                sequence,
                why, "a spooled reading cannot go to kafka as it is; it stays in the spool and is tried again later"
            );
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
                }
                self.spool_metrics.spool_replayed_total.inc();
                self.commit(sequence);
            }
            Err(Refused::TooLarge | Refused::Unacceptable) => {
                self.set_aside(state, flight.sent_at, sequence, &format!("{result:?}"));
            }
            Err(_) => {
                if !state.replay.aside.contains_key(&sequence) {
                    state.lanes.handed_back(sequence, flight.lane);
                }
                state.replay.rewind = true;
            }
        }
    }

    /// Lets go what was held back, if nothing is before it any more.
    fn end_turn(&self, store: &S, now: Instant) {
        let mut state = self.state();
        let state = &mut *state;
        if state.replay.rewind {
            return;
        }
        if state.lanes.is_written() && store.uncommitted() == state.replay.aside.len() as u64 {
            state.lanes.nothing_spooled(state.held.lanes());
        }
        if state.lanes.behind() > 0 {
            return;
        }
        let held = state.held.release();
        held.iter().for_each(|waiting| state.lanes.let_go(waiting.lane));
        for waiting in held {
            if state.lanes.waits(waiting.lane) {
                // The one before it was refused, and is in the spool by now.
                self.append(state, store, waiting.parcel, waiting.pending, waiting.lane);
                continue;
            }
            let parcel = waiting.parcel.clone();
            let (pending, lane) = (waiting.pending, waiting.lane);
            // It was packed a moment ago by the same function.
            drop(parcel::open(&parcel, |record| {
                self.produce(state, now, record, pending, lane, Some(waiting.parcel))
            }));
        }
    }
}
