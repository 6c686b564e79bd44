//! Nobody waits longer than `kafka.delivery_timeout`, whatever for: Kafka, the spool's queue, or its disk.
//!
//! A record whose device was answered busy keeps its place: the producer may still write it, and the store may still make
//! it durable. Later ones of its group stay behind it, so that the device's order holds; what is then in Kafka twice, if
//! the device sends it again, is counted as in doubt.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::appends::Disk;
use super::in_flight::Progress;
use super::state::{Dispatch, State};
use super::store::Store;
use crate::deliver::broker::Broker;
use crate::outcome::Busy;

/// How often it is looked after records that wait for the store; the grain of `kafka.spool_after`.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// How late a tick may be at most: the store may refuse, or a topic be missing, without a record that says so.
const PAUSE_MAX: Duration = Duration::from_millis(100);

impl<B: Broker, S: Store> Dispatch<B, S> {
    /// How soon the next tick is due. What is sent after this one is due later than that.
    pub(super) fn pause(&self, state: &State, now: Instant) -> Duration {
        if state.waits_for_store() {
            return PAUSE_MIN;
        }
        let due = state.in_flight.next_due(self.times.spool_after);
        let due = due.map_or(PAUSE_MAX, |due| due.saturating_duration_since(now));
        due.clamp(PAUSE_MIN, self.idle_pause())
    }

    pub(super) fn idle_pause(&self) -> Duration {
        self.times.spool_after.clamp(PAUSE_MIN, PAUSE_MAX)
    }

    /// Answers everybody whose deadline has passed.
    pub(super) fn answer_overdue(&self, state: &mut State, now: Instant) {
        while let Some(id) = state.in_flight.overdue(now, self.times.delivery_timeout) {
            let Some(send) = state.in_flight.get(id) else {
                continue;
            };
            let is_sent = matches!(send.progress, Progress::Sent { .. });
            let (group, sent_at, progress) = (send.group, send.sent_at, &mut send.progress);
            let Some(pending) = progress.take_pending() else {
                continue;
            };
            let is_given_back = matches!(progress, Progress::AppendedAndGivenBack { .. });
            let busy = match progress {
                Progress::KafkaOnly { .. } => Busy::KafkaTimeout,
                _ => Busy::SpoolTimeout,
            };
            if is_sent {
                // The store's queue had no room for it in all this time, and whoever is answered needs no copy.
                send.is_uncopied = true;
                state.key_groups.out_of_producer(group);
                state.unconfirmed.not_copied(group, sent_at, now);
            }
            if !is_given_back {
                self.metrics.kafka_records_in_doubt_total.inc();
            }
            pending.busy(busy);
        }
        while let Some(pending) = state.appends.overdue(now) {
            pending.busy(Busy::SpoolTimeout);
        }
    }

    /// Why nothing is given to the store now, as far as its disk goes. Says so when the disk becomes slow, hangs, or is
    /// good again.
    pub(super) fn disk_refuses(&self, now: Instant) -> Option<Busy> {
        let (changed, disk, still, waiting) = {
            let mut state = self.state();
            let changed = state.appends.look(now, self.times.delivery_timeout);
            let appends = &state.appends;
            let waiting = changed.map_or(0, |_| appends.waiting());
            (changed, appends.disk(), appends.still(now), waiting)
        };
        match changed {
            Some(Disk::Good) => info!("the disk of the spool is as fast as it should be again"),
            Some(Disk::Slow) => warn!(
                ?still,
                waiting, "the disk of the spool is slow; readings that wait for it are answered late"
            ),
            Some(Disk::Hung) => warn!(
                ?still,
                waiting,
                "the disk of the spool hangs: it finished no write within kafka.delivery_timeout; readings that need the \
                 spool are answered busy"
            ),
            None => {}
        }
        self.spool_metrics.spool_disk_slow.set(i64::from(disk != Disk::Good));
        (disk == Disk::Hung).then_some(Busy::SpoolTimeout)
    }

    /// How the disk of the spool does, and for how long it has finished no write although one waits.
    pub fn disk(&self, now: Instant) -> (Disk, Duration) {
        let state = self.state();
        (state.appends.disk(), state.appends.still(now))
    }

    /// Answers everybody who waits for the store: it is closed, or will not answer before the gateway ends.
    pub fn give_up(&self) {
        let mut state = self.state();
        for pending in state.appends.give_up() {
            pending.busy(Busy::Draining);
        }
        for pending in state.in_flight.give_up() {
            pending.busy(Busy::Draining);
        }
    }
}
