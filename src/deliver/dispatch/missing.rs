//! Topics that go missing, or exist again, under the records that are on their way to them.
//!
//! New records for a missing topic are appended to the store, where the replay passes over them (`deferred`); once the topic
//! exists again the replay begins with the oldest.

use super::state::{Dispatch, State};
use super::store::Store;
use crate::deliver::broker::Broker;

// === impl Dispatch ===

impl<B: Broker, S: Store> Dispatch<B, S> {
    /// Notes topics that have gone missing, or exist again.
    pub(super) fn note_missing_topics(&self, state: &mut State) {
        let topics = self.health.topics();
        let version = topics.version();
        if state.deferred.version == version {
            return;
        }
        state.deferred.version = version;
        self.abandon_compaction(state);
        let State {
            deferred,
            unconfirmed,
            key_groups,
            ..
        } = state;
        if deferred.become_these(topics.all(), unconfirmed, key_groups) {
            state.replay.restart();
        }
        // Later ones of a missing topic are appended: they must not come before those that are retained.
        if let Some(store) = self.store.as_ref().filter(|_| !state.deferred.is_empty()) {
            let retained = state.retained.release();
            self.append_retained(state, store, retained);
        }
        self.spool_metrics
            .spool_readings_without_topic
            .set(state.deferred.count() as i64);
    }

    /// Readings that wait in the store for their topics.
    pub fn deferred(&self) -> u64 {
        self.state().deferred.count()
    }
}
