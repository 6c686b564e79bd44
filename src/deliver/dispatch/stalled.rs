//! Groups whose partition stalls: it has no leader, or too few replicas in sync, while Kafka confirms records of others.
//!
//! Their records wait in the spool, in nobody's way; what the producer holds of them stays there, and tells by its
//! confirmation when the partition works again. A group is stalled when a record of it was not confirmed in time
//! (`kafka.spool_after`), and nothing of it for four times as long and `kafka.linger` after that, while Kafka has confirmed a
//! record that was not sent before it; without such a record, for sixteen times as long. So one that is slow and confirms, or
//! no slower than all others are, goes on to the producer, and is copied. After an outage of all of Kafka every group is
//! given that time once more.
//!
//! What waits on disk is moved out of the way of others (`compact`). Limits: it fills the spool in the end, as an outage
//! does; and what the producer holds of a stalled partition it cannot give back alone, so beyond 50,000 records, or 256 MiB,
//! of such partitions the replay waits for one of them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::appends::Disk;
use super::in_flight::InFlightSend;
use super::leaderless_groups::LeaderlessGroups;
use super::state::{Dispatch, State};
use super::store::Store;
use super::unconfirmed::Limits;
use crate::deliver::broker::Broker;

/// So many times `kafka.spool_after`, if later ones are confirmed; and if not, since all that the replay has sent may be for
/// one partition.
const STALLED_AFTER: u32 = 4;
const STALLED_AFTER_MAX: u32 = 16;

/// Replayed records that may await their confirmation at once, but for those of stalled groups; and with those.
const WINDOW: usize = 10_000;
const WINDOW_MAX: usize = 50_000;

/// The same in bytes; each is in memory twice.
const WINDOW_BYTES: usize = 64 << 20;
const WINDOW_BYTES_MAX: usize = 256 << 20;

/// How long nobody has sent anything that could be tried before everybody is let through.
const EVERYBODY_AFTER: Duration = Duration::from_secs(30);

// === impl Dispatch ===

impl<B: Broker, S: Store> Dispatch<B, S> {
    fn stalled_after(&self) -> Duration {
        self.times.spool_after * STALLED_AFTER + self.times.linger
    }

    fn limits(&self, state: &State, now: Instant) -> Limits {
        let overtaken = self.stalled_after();
        // While Kafka confirms nothing, one after the other is tried.
        let otherwise = match self.health.is_up() {
            true => self.times.spool_after * STALLED_AFTER_MAX + self.times.linger,
            false => overtaken,
        };
        Limits {
            now,
            overtaken,
            otherwise,
            look_again: self.times.spool_after,
            confirmed_sent_at: state.confirmed_sent_at,
        }
    }

    /// Finds groups that are stalled by now.
    pub(super) fn find_stalled(&self, state: &mut State, store: &S, now: Instant) {
        if !self.health.may_confirm() {
            state.up_since = None;
            return;
        }
        let up_since = *state.up_since.get_or_insert(now);
        if now < up_since + self.stalled_after() {
            return;
        }
        let limits = self.limits(state, now);
        let mut stalled = BTreeSet::new();
        while let Some(group) = state.unconfirmed.overdue(limits) {
            if state.unconfirmed.stall(group, &mut state.key_groups) {
                stalled.insert(group);
            }
        }
        if stalled.is_empty() {
            return;
        }
        self.abandon_compaction(state);
        // What the producer holds besides must not come behind what is appended from now on.
        let uncopied = stalled
            .iter()
            .map(|group| state.key_groups.in_producer_of(*group))
            .sum();
        if uncopied > 0 {
            let uncopied = state.in_flight.uncopied_of(uncopied, |group| stalled.contains(&group));
            // Without room for one the others wait for their turn as well.
            uncopied.into_iter().all(|id| self.copy(state, store, id));
        }
        let is_retained = state.retained.key_groups().any(|group| stalled.contains(&group));
        if is_retained {
            self.spool_retained(state, store, now);
        }
    }

    /// How many entries may be replayed now, and how many bytes, as far as Kafka goes. While it confirms nothing and the
    /// reason may be one partition that stalls, entries are tried one by one: the first that is confirmed shows that Kafka
    /// is up.
    pub(super) fn window(&self, state: &State) -> (usize, usize) {
        let (awaited, all) = (state.unconfirmed.replayed_awaited(), state.unconfirmed.replayed());
        let (bytes_awaited, bytes) = state.unconfirmed.replayed_bytes();
        let records = WINDOW.saturating_sub(awaited).min(WINDOW_MAX.saturating_sub(all));
        let bytes = WINDOW_BYTES
            .saturating_sub(bytes_awaited)
            .min(WINDOW_BYTES_MAX.saturating_sub(bytes));
        match self.health.is_up() {
            true => (records, bytes),
            false => (
                usize::from(self.health.may_confirm() && awaited == 0).min(records),
                bytes,
            ),
        }
    }

    /// The producer does not hold a copied record any more.
    pub(super) fn copy_reported(&self, state: &mut State, group: usize) {
        self.abandon_compaction_of(state, group);
        state.unconfirmed.copy_reported(group, &mut state.key_groups);
    }

    /// Nor is the spool to answer for it.
    pub(super) fn copy_ended(&self, state: &mut State, group: usize) {
        self.abandon_compaction_of(state, group);
        state.unconfirmed.copy_ended(group, &mut state.key_groups);
    }

    /// The producer holds it, and the spool will not have it.
    pub(super) fn copy_failed(&self, state: &mut State, group: usize, sent_at: Instant) {
        self.abandon_compaction_of(state, group);
        let State {
            unconfirmed,
            key_groups,
            now,
            ..
        } = state;
        unconfirmed.not_copied(group, sent_at, *now);
        unconfirmed.copy_reported(group, key_groups);
        unconfirmed.copy_ended(group, key_groups);
    }

    /// The producer does not hold this send any more.
    pub(super) fn uncopied_ended(&self, state: &mut State, send: &InFlightSend) {
        if send.is_uncopied {
            state.unconfirmed.uncopied_ended(send.group, &mut state.key_groups);
        }
    }

    /// What the producer held of a stalled group is about to end: its entries stay where they are.
    pub(super) fn abandon_compaction_of(&self, state: &mut State, group: usize) {
        if state.unconfirmed.is_stalled(group) {
            self.abandon_compaction(state);
        }
    }

    /// Whether Kafka became available a moment ago, so that it may confirm what it holds before anything is replayed.
    pub(super) fn is_settling(&self, state: &State, now: Instant) -> bool {
        let settled = state.up_since.map(|up_since| up_since + self.stalled_after());
        settled.is_none_or(|settled| now < settled)
    }

    /// Whether Kafka holds no copied record that it should have confirmed: what a partition without a leader stops says
    /// nothing of the others.
    pub(super) fn owes_nothing(&self, state: &mut State) -> bool {
        if state.unconfirmed.copies() == 0 {
            return true;
        }
        if self.health.is_up() || self.health.leaderless().is_empty() {
            return false;
        }
        let State {
            leaderless,
            unconfirmed,
            ..
        } = state;
        let leaderless = leaderless.of(self.health.leaderless());
        unconfirmed.copied_groups().all(|group| leaderless.contains(group))
    }

    /// Whether a group's records may be for a partition without a leader.
    pub(super) fn may_be_leaderless(&self, leaderless: &mut LeaderlessGroups, group: usize) -> bool {
        let partitions = self.health.leaderless();
        !partitions.is_empty() && leaderless.of(partitions).contains(group)
    }

    /// Whether the producer holds nothing but what stalled partitions keep there and the spool has as well.
    pub fn awaits_only_stalled(&self) -> bool {
        let state = self.state();
        state.in_flight.len() == state.unconfirmed.stalled()
    }

    /// Readings that wait in the store for their partitions, and the groups that these stall.
    pub fn stalled(&self) -> (u64, usize) {
        let state = self.state();
        (state.key_groups.passed_over(), state.unconfirmed.stalled_groups())
    }

    /// Whether a new record of this group, which waits for no other, may go to Kafka although Kafka is not up.
    pub(super) fn may_try(&self, state: &mut State, store: &S, group: usize) -> bool {
        let refuses = || store.refuses().is_some() || state.appends.disk() == Disk::Hung;
        if !self.health.may_confirm() || !refuses() {
            return false;
        }
        // The one before has ended, or says by now that its partition stalls.
        let last = state.trials.last.and_then(|id| state.in_flight.get(id));
        last.is_none_or(|last| state.unconfirmed.is_stalled(last.group))
            && !state.unconfirmed.is_stalled(group)
            && !self.may_be_leaderless(&mut state.leaderless, group)
    }

    /// Lets everybody through if nothing was tried for long.
    pub(super) fn try_everybody(&self, state: &mut State, store_refuses: bool) {
        if !store_refuses || self.health.is_up() || !self.health.may_confirm() {
            state.trials.idle_since = None;
            return;
        }
        let idle_since = *state.trials.idle_since.get_or_insert(state.now);
        if state.now >= idle_since + EVERYBODY_AFTER {
            state.trials.idle_since = None;
            self.health.found();
        }
    }
}
