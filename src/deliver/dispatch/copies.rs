//! Records that the producer holds, copied into the spool: Kafka does not confirm them in time, or a younger one of their
//! group goes there.
//!
//! A copied record is answered once its copy is durable. What the producer reports afterwards decides whether the copy is
//! replayed.

use super::in_flight::{Progress, SendId};
use super::pending::Pending;
use super::state::{Dispatch, State};
use super::store::{Store, Ticket};
use crate::deliver::broker::Broker;
use crate::outcome::Busy;

impl<B: Broker, S: Store> Dispatch<B, S> {
    pub(super) fn report_unconfirmed(&self, state: &mut State, id: SendId) {
        let State {
            in_flight,
            deferred,
            leaderless,
            ..
        } = state;
        let Some(send) = in_flight.get(id) else { return };
        let Progress::Sent { encoded, .. } = &send.progress else {
            return;
        };
        // That a topic is missing, or a partition has no leader, says nothing of the others.
        if deferred.generation_of(encoded) == 0
            && !self.health.confirmed_since(send.sent_at)
            && !self.may_be_leaderless(leaderless, send.group)
        {
            self.health
                .unconfirmed("kafka has not confirmed a reading within kafka.spool_after");
        }
    }

    /// Gives a record that the producer holds to the store as well. False: the store's queue is full, and will have room
    /// in a moment; it is to be checked again.
    pub(super) fn copy(&self, state: &mut State, store: &S, id: SendId) -> bool {
        let Some(send) = state.in_flight.get(id) else {
            return true;
        };
        let (pending, encoded) = match send.progress.take() {
            Progress::Sent { pending, encoded } => (pending, encoded),
            other => {
                send.progress = other;
                return true;
            }
        };
        let (group, sent_at) = (send.group, send.sent_at);
        let due = sent_at + self.times.delivery_timeout;
        // A connection may be ahead of the last tick.
        let now = state.now.max(sent_at);
        match store.append(encoded, Ticket::Copy(id)) {
            Ok(()) => {
                send.progress = Progress::Appended { pending: Some(pending) };
                state.in_flight.overdue_at(due, id);
                state.key_groups.out_of_producer(group);
                state.appends.given();
                state.unconfirmed.copied(group, sent_at, now, &mut state.key_groups);
            }
            Err((_, encoded, Busy::SpoolBusy)) => {
                send.progress = Progress::Sent { pending, encoded };
                return false;
            }
            Err(_) => {
                // Not tried again: later records of its group may be in the store by then.
                send.progress = Progress::KafkaOnly { pending: Some(pending) };
                send.is_uncopied = true;
                state.key_groups.out_of_producer(group);
                state.unconfirmed.not_copied(group, sent_at, now);
                state.in_flight.overdue_at(due, id);
            }
        }
        true
    }

    /// Before a record of this group is appended to the store, those that the producer holds are: should it give them back,
    /// they must not stand behind this one. If one must be copied, all are: their time would be up soon as well.
    pub(super) fn copy_before(&self, state: &mut State, store: &S, group: usize) {
        if state.key_groups.has_in_producer(group) {
            self.copy_all(state, store);
        }
    }

    pub(super) fn copy_all(&self, state: &mut State, store: &S) {
        while let Some(id) = state.in_flight.oldest() {
            if !self.copy(state, store, id) {
                return state.in_flight.check_again(id);
            }
        }
    }

    /// The store's answer for a copy.
    pub(super) fn copied(&self, state: &mut State, id: SendId, result: Result<u64, Busy>) {
        let Some(send) = state.in_flight.get(id) else {
            return;
        };
        let (group, sent_at) = (send.group, send.sent_at);
        match send.progress.take() {
            Progress::Appended { pending } => match result {
                Ok(sequence) => {
                    send.progress = Progress::Spooled { sequence };
                    pending.into_iter().for_each(Pending::spooled);
                }
                Err(_) => {
                    // Kafka may still confirm it; until its deadline its device waits.
                    send.progress = Progress::KafkaOnly { pending };
                    send.is_uncopied = true;
                    self.copy_failed(state, group, sent_at);
                }
            },
            Progress::AppendedAndDelivered => {
                state.in_flight.remove(id.slot);
                if let Ok(sequence) = result {
                    self.commit(sequence);
                }
                self.copy_ended(state, group);
            }
            Progress::AppendedAndGivenBack { pending } => {
                state.in_flight.remove(id.slot);
                match result {
                    // It waits in the spool for its replay.
                    Ok(_) => self.written(pending),
                    Err(busy) => {
                        state.key_groups.unspooled(group);
                        pending.into_iter().for_each(|pending| pending.busy(busy));
                    }
                }
                self.copy_ended(state, group);
            }
            other => send.progress = other,
        }
    }
}
