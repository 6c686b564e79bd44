//! The partitions that the group has given this instance, and how far each is stored.
//!
//! A cache of what the database says: made anew whenever it may be wrong. Where a partition does not go on as
//! it was left, it is said what is missing.

use std::collections::BTreeMap;
#[cfg(test)]
use std::sync::Arc;

use tracing::error;

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
    /// Where each began, until its first record came.
    pub begun: BTreeMap<Place, Begun>,
    /// Those that ended before what is stored of them when it was looked last, and how often in a row.
    pub shorter: BTreeMap<Place, u32>,
}

/// Where a partition began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The offset behind what is stored.
    pub next: i64,
    /// When the record before it was written, in milliseconds since 1970, if that is known: then that one is read first.
    pub written_ms: Option<i64>,
}

/// What a record says of its partition; but for the first one it is the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// It goes on as it was left; so does every later record.
    Next,
    /// It is the last one that is stored, and read again to see that the topic is the same.
    Known,
    /// It is of another topic: in the place of the last one that is stored, or before it.
    OfAnother,
    /// So many were deleted before it.
    Behind(i64),
}

// === impl Assignment ===

impl Assignment {
    /// Where a record belongs, and the offset behind what is stored there; none: it is of a partition that was taken away.
    pub fn place(&self, record: &Consumed) -> Option<(&Place, &i64)> {
        let of = |place: &&Place| *place.0 == *record.topic && place.1 == record.partition;
        let place = self.stored.keys().find(of)?;
        self.stored.get_key_value(place)
    }

    /// A record comes: what it says of its partition.
    pub fn first(&mut self, place: &Place, stored: i64, record: &Consumed) -> First {
        let Some(begun) = self.begun.remove(place) else {
            // librdkafka begins anew where a topic does, if it notices.
            return if record.offset < stored {
                First::OfAnother
            } else {
                First::Next
            };
        };
        let first = begun.first(record);
        if first == First::Known {
            self.begun.insert(
                place.clone(),
                Begun {
                    written_ms: None,
                    ..begun
                },
            );
        }
        first
    }
}

// === impl Begun ===

impl Begun {
    /// The offset to read from.
    pub fn from(self) -> i64 {
        match self.written_ms {
            Some(_) => (self.next - 1).max(0),
            None => self.next,
        }
    }

    fn first(self, record: &Consumed) -> First {
        let missed = record.offset - self.next;
        match self.written_ms {
            Some(written_ms) if missed == -1 && written_ms == record.timestamp_ms => First::Known,
            _ if missed < 0 => First::OfAnother,
            // Of a partition that was never stored it is where Kafka begins.
            _ if missed > 0 && self.next > 0 => First::Behind(missed),
            _ => First::Next,
        }
    }
}

/// Says what was deleted before it was stored.
pub fn note_missed(place: &Place, missed: i64, metrics: &StoreMetrics) {
    let topic = &*place.0;
    let count = metrics.store_missed_total.with_label_values(&[topic]);
    count.inc_by(missed.unsigned_abs());
    error!(
        topic,
        partition = place.1,
        missed,
        "kafka has deleted records before they were stored: the topic's retention is shorter than the store was behind"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_record_tells_whether_the_topic_is_the_same() {
        let check = |next: i64, written_ms: Option<i64>, offset: i64, timestamp_ms: i64, expected: First| {
            let record = Consumed {
                topic: "city.probe".into(),
                partition: 0,
                offset,
                timestamp_ms,
                key: Vec::new(),
                value: Vec::new(),
            };
            let mut assignment = Assignment::default();
            let place = (Arc::from("city.probe"), 0);
            assignment.begun.insert(place.clone(), Begun { next, written_ms });
            assert_eq!(
                assignment.first(&place, next, &record),
                expected,
                "{offset} behind {next}"
            );
        };
        check(0, None, 0, 5, First::Next);
        check(0, None, 700, 5, First::Next);
        check(10, None, 10, 5, First::Next);
        check(10, None, 13, 5, First::Behind(3));
        check(10, None, 0, 5, First::OfAnother);
        check(10, Some(5), 9, 5, First::Known);
        check(10, Some(5), 9, 6, First::OfAnother);
        check(10, Some(5), 0, 5, First::OfAnother);
        check(10, Some(5), 10, 6, First::Next);
        check(10, Some(5), 12, 6, First::Behind(2));
        check(1, Some(5), 0, 5, First::Known);
    }
}
