//! Topics that go missing, or exist again, under the records that are on their way to them.
//!
//! New records for a missing topic are appended to the store, where the replay passes over them (`parked`); once the topic
//! exists again the replay begins with the oldest.

use super::state::{Dispatch, State};
use super::store::Store;
use crate::deliver::broker::Broker;
use crate::deliver::parcel;

// === impl Dispatch ===

impl<B: Broker, S: Store> Dispatch<B, S> {
    /// Takes note of topics that have gone missing, or exist again.
    pub(super) fn look_at_topics(&self, state: &mut State) {
        let topics = self.health.topics();
        let version = topics.version();
        if state.parked.version == version {
            return;
        }
        state.parked.version = version;
        self.give_move_up(state);
        if state.parked.become_these(topics.all(), &mut state.lanes) {
            state.replay.begin_anew();
        }
        // Later ones of a missing topic are appended: they must not come before those that are held back.
        if let Some(store) = self.store.as_ref().filter(|_| !state.parked.is_empty()) {
            let held = state.held.release();
            self.append_held(state, store, held);
        }
        self.spool_metrics
            .spool_readings_parked
            .set(state.parked.count() as i64);
    }

    /// The missing topic that a record is for: its generation, 0 for none.
    pub(super) fn missing_topic(&self, state: &State, parcel: &[u8]) -> u64 {
        if state.parked.is_empty() {
            return 0;
        }
        let generation = parcel::open(parcel, |record| {
            state.parked.get(record.topic).map_or(0, |topic| topic.generation)
        });
        generation.unwrap_or(0)
    }

    /// Readings that wait in the store for their topics.
    pub fn parked(&self) -> u64 {
        self.state().parked.count()
    }
}
