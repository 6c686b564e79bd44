//! The partitions that the group has given this instance, and how far each is stored.
//!
//! A cache of what the database says: made anew whenever it may be wrong. Where a partition does not go on as
//! it was left, it is said what is missing.

use std::collections::BTreeMap;

use tracing::{error, warn};

use crate::deliver::consumer::Consumed;
use crate::store::batch::Place;
use crate::store::metrics::StoreMetrics;

/// The partitions that this instance has.
#[derive(Debug, Default)]
pub struct Assignment {
    /// What the group gave it; none: it has not said yet.
    pub given: Option<Vec<(String, i32)>>,
    /// The offset behind what is stored of each.
    pub stored: BTreeMap<Place, i64>,
    /// The first offset that each began at, until its first record came.
    pub begun: BTreeMap<Place, i64>,
}

// === impl Assignment ===

impl Assignment {
    /// Where a record belongs, and the offset behind what is stored there; none: it is of a partition that was taken away.
    pub fn place(&self, record: &Consumed) -> Option<(&Place, &i64)> {
        let of = |place: &&Place| *place.0 == *record.topic && place.1 == record.partition;
        let place = self.stored.keys().find(of)?;
        self.stored.get_key_value(place)
    }

    /// A record comes: says, of the first one of a partition, what was deleted before it was read.
    pub fn begins(&mut self, place: &Place, record: &Consumed, metrics: &StoreMetrics) {
        let Some(begun) = self.begun.remove(place) else {
            return;
        };
        let missed = record.offset - begun;
        if missed > 0 && begun > 0 {
            let topic = &*place.0;
            metrics
                .store_missed_total
                .with_label_values(&[topic])
                .inc_by(missed as u64);
            error!(
                topic,
                partition = place.1,
                missed,
                "kafka has deleted records before they were stored: the topic's retention is shorter than the store was behind"
            );
        } else if missed < 0 {
            warn!(
                topic = &*place.0,
                partition = place.1,
                stored = begun,
                "the topic ends before what is stored of it: it was made anew, and is read from its beginning"
            );
        }
    }
}
