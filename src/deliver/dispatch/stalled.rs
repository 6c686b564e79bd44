//! Groups whose partition stalls: it has no leader, or too few replicas in sync, while Kafka confirms records of others.
//!
//! Their records wait in the spool, in nobody's way; what the producer holds of them stays there, and tells by its
//! confirmation when the partition works again. A group is stalled when a record of it is unconfirmed for four times
//! `kafka.spool_after` and Kafka has confirmed one that was not sent before it, or for sixteen times: one that is merely slow, as all
//! others are, goes on to the producer, and is copied. After an outage of all of Kafka every group is given that time once
//! more.
//!
//! What waits on disk is moved out of the way of others (`compact`). Limits: it fills the spool in the end, as an outage
//! does; and what the producer holds of a stalled partition it cannot give back alone, so beyond 50,000 records of such
//! partitions the replay waits for one of them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::leaderless::LeaderlessGroups;
use super::state::{Dispatch, State};
use super::store::Store;
use crate::deliver::broker::Broker;

/// So many times `kafka.spool_after`, if later ones are confirmed; and if not, since all that the replay has sent may be for
/// one partition.
const STALLED_AFTER: u32 = 4;
const STALLED_AFTER_MAX: u32 = 16;

/// Replayed records that may await their confirmation at once, but for those of stalled groups; and with those.
const WINDOW: usize = 10_000;
const WINDOW_MAX: usize = 50_000;

/// How soon the replay begins with the oldest again, at the latest, when groups are stalled no more: others may follow.
pub(super) const RETURN_WITHIN: Duration = Duration::from_millis(100);

// === impl Dispatch ===

impl<B: Broker, S: Store> Dispatch<B, S> {
    fn stalled_after(&self) -> Duration {
        self.times.spool_after * STALLED_AFTER
    }

    /// Finds groups that are stalled by now.
    pub(super) fn find_stalled(&self, state: &mut State, store: &S, now: Instant) {
        state.unconfirmed.forget_ended(&mut state.in_flight);
        if !self.health.may_confirm() {
            state.up_since = None;
            return;
        }
        let up_since = *state.up_since.get_or_insert(now);
        if now < up_since + self.stalled_after() {
            return;
        }
        let confirmed = state.confirmed_sent_at;
        let is_overdue = |sent_at: Instant| {
            let is_overtaken = confirmed.is_some_and(|confirmed| sent_at <= confirmed);
            // While Kafka confirms nothing, one after the other is tried.
            let times = match is_overtaken || !self.health.is_up() {
                true => STALLED_AFTER,
                false => STALLED_AFTER_MAX,
            };
            sent_at + self.times.spool_after * times <= now
        };
        let mut stalled = BTreeSet::new();
        while let Some(group) = state.unconfirmed.overdue(is_overdue, &mut state.in_flight) {
            if state.unconfirmed.stall(group, &mut state.key_groups) {
                stalled.insert(group);
            }
        }
        if stalled.is_empty() {
            return;
        }
        self.abandon_compaction(state);
        // What the producer holds besides must not come behind what is appended from now on.
        for id in state.in_flight.of_key_groups(&stalled) {
            if !self.copy(state, store, id) {
                break;
            }
        }
        let is_retained = state.retained.key_groups().any(|group| stalled.contains(&group));
        if is_retained {
            self.spool_retained(state, store, now);
        }
    }

    /// How many entries may be replayed now, as far as Kafka goes. While it confirms nothing and the reason may be one
    /// partition that stalls, entries are tried one by one: the first that is confirmed shows that Kafka is up.
    pub(super) fn window(&self, state: &State) -> usize {
        let (awaited, all) = (state.unconfirmed.replayed_awaited(), state.unconfirmed.replayed());
        match self.health.is_up() {
            true => WINDOW.saturating_sub(awaited).min(WINDOW_MAX.saturating_sub(all)),
            false => usize::from(self.health.may_confirm() && awaited == 0 && all < WINDOW_MAX),
        }
    }

    /// The producer does not hold a copied record any more, or the spool will not have it.
    pub(super) fn copy_ended(&self, state: &mut State, group: usize) {
        self.abandon_compaction_of(state, group);
        state.unconfirmed.copy_ended(group, &mut state.key_groups);
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
}
