//! What `dispatch` knows: one state, under one lock.
//!
//! Each part of it has a file of its own, which knows neither the producer nor the spool. The functions that bring them
//! together are in the files beside, by what they are for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::appends::Appends;
use super::compaction::Compactions;
use super::deferred::Deferred;
use super::in_flight::InFlight;
use super::key_groups::KeyGroups;
use super::leaderless_groups::LeaderlessGroups;
use super::replay::Replay;
use super::retained::{PendingRecord, Retained};
use super::store::Store;
use super::trials::Trials;
use super::unconfirmed::Unconfirmed;
use crate::deliver::broker::Broker;
use crate::deliver::health::Monitor;
use crate::deliver::metrics::{KafkaMetrics, SpoolMetrics};
use crate::deliver::spool::budget::Rate;

/// The times of a record.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Unconfirmed for so long, a record is copied into the spool.
    pub spool_after: Duration,
    /// Neither in Kafka nor in the spool for so long, whatever it waits for, its device is told busy.
    pub delivery_timeout: Duration,
    /// So long the producer waits for more records before it sends one.
    pub linger: Duration,
    /// How soon a spooled record is retried that Kafka refuses as it is.
    pub retry_interval: Duration,
}

/// See [`dispatch`](super).
#[derive(Debug)]
pub struct Dispatch<B, S> {
    pub(super) broker: B,
    pub(super) store: Option<S>,
    pub(super) health: Arc<Monitor>,
    pub(super) metrics: KafkaMetrics,
    pub(super) spool_metrics: SpoolMetrics,
    pub(super) times: Times,
    pub(super) started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) in_flight: InFlight,
    pub(super) key_groups: KeyGroups,
    pub(super) unconfirmed: Unconfirmed,
    pub(super) leaderless: LeaderlessGroups,
    pub(super) trials: Trials,
    /// When the last tick was.
    pub(super) now: Instant,
    /// Since when Kafka is up, as far as ticks saw.
    pub(super) up_since: Option<Instant>,
    /// When the latest was sent of those that Kafka has confirmed.
    pub(super) confirmed_sent_at: Option<Instant>,
    /// Bytes received since the last tick, and their rate.
    pub(super) received_bytes: u64,
    pub(super) ingest: Rate,
    pub(super) replay: Replay,
    pub(super) retained: Retained,
    pub(super) appends: Appends,
    pub(super) deferred: Deferred,
    pub(super) compactions: Compactions,
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
            in_flight: InFlight::default(),
            key_groups: KeyGroups::new(recovered, first_sequence),
            unconfirmed: Unconfirmed::default(),
            leaderless: LeaderlessGroups::default(),
            trials: Trials::default(),
            now: Instant::now(),
            up_since: None,
            confirmed_sent_at: None,
            received_bytes: 0,
            ingest: Rate::default(),
            replay: Replay::default(),
            retained: Retained::default(),
            appends: Appends::default(),
            deferred: Deferred::default(),
            compactions: Compactions::default(),
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

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// Whether a new record of a waiting key group may be retained in memory.
    pub(super) fn may_retain(&self, now: Instant, group: usize) -> bool {
        match self.unconfirmed.is_stalled(group) {
            true => self.compactions.is_finishing() && self.retained.accepts(now, 0),
            false => self.catches_up(now, group),
        }
    }

    /// Whether the replay is so close to its end that new records of waiting key groups are retained for it: a group that is
    /// never idle would go through the spool for ever otherwise.
    fn catches_up(&self, now: Instant, group: usize) -> bool {
        let behind = self.key_groups.behind() + self.unconfirmed.replayed_awaited() as u64;
        !self.unconfirmed.has_copies(group) && !self.replay.must_rewind() && self.retained.accepts(now, behind)
    }

    /// Whether records wait for the store, or for the replay.
    pub(super) fn waits_for_store(&self) -> bool {
        self.unconfirmed.copies() > 0 || !self.retained.is_empty() || !self.appends.is_empty()
    }

    pub(super) fn retain(&mut self, record: PendingRecord) {
        self.key_groups.retained(record.group);
        let is_stalled = self.unconfirmed.is_stalled(record.group);
        self.retained.push(record, is_stalled);
    }
}
