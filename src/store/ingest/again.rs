//! Records that were kept for want of something that may come: their schema, a column, a partition, the right time. They are read
//! again from `city.undecodable`, at each start and every ten minutes.
//!
//! Some at a time, in the order of their places in Kafka. What is made of them is the business of [`records`](super::records): of two
//! instances that store the same one the second finds its row there. Those of which the registry says nothing are tried again once
//! all have been read, later and later; no more than one request waits for it at a time, which `registry.timeout` ends. Kafka's own
//! time of a record is not kept: for a schema without times it is when the record was kept.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Error};
use tracing::{info, warn};

use crate::catalogue::decoder::{Undecodable, registry_id};
use crate::deliver::consumer::Consumed;
use crate::store::day;

/// Records read at a time.
const RECORDS_MAX: i64 = 500;

/// How long it is waited after the registry did not answer: first, and at the most.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// For what: no schema ([`wants_schema`](crate::catalogue::decoder::Undecodable::wants_schema)), a column that is too narrow, a day's
/// partition that was detached, a day that had not come.
const REASONS: [&str; 6] = [
    "unknown_fingerprint",
    "no_registry",
    "unknown_id",
    "table",
    "detached",
    "ahead",
];

/// How far they have been read, and what is missing for them.
#[derive(Debug)]
pub struct Again {
    /// None: all have been read.
    cursor: Option<Cursor>,
    /// Not before.
    at: Instant,
    pause: Duration,
    /// Ids of schemas of which the registry has said nothing since the first record was read.
    unanswered: BTreeSet<u32>,
}

/// The record behind which reading goes on.
#[derive(Clone, Debug)]
pub struct Cursor {
    topic: String,
    partition: i32,
    offset: i64,
}

// === impl Again ===

impl Default for Again {
    /// All of them, from now on.
    fn default() -> Self {
        Again {
            cursor: Some(Cursor::first()),
            at: Instant::now(),
            pause: PAUSE,
            unanswered: BTreeSet::new(),
        }
    }
}

impl Again {
    /// All of them once more, if all have been read.
    pub fn restart(&mut self) {
        self.cursor.get_or_insert_with(Cursor::first);
    }

    /// Behind which record reading goes on, if it does now.
    pub fn due(&self, now: Instant) -> Option<&Cursor> {
        self.cursor.as_ref().filter(|_| self.at <= now)
    }

    /// Reading goes on behind this one.
    pub fn pass(&mut self, record: &Consumed) {
        self.cursor = Some(Cursor {
            topic: record.topic.clone(),
            partition: record.partition,
            offset: record.offset,
        });
    }

    /// Whether the registry did not answer when it was asked for this record's schema.
    pub fn has_no_answer(&self, value: &[u8]) -> bool {
        registry_id(value).is_some_and(|id| self.unanswered.contains(&id))
    }

    /// The registry did not answer: said once, until it has.
    pub fn note_no_answer(&mut self, value: &[u8], why: &Undecodable, now: Instant) {
        if self.pause == PAUSE {
            warn!(%why, "records whose schema was not known wait for the registry");
        }
        self.unanswered.extend(registry_id(value));
        self.at = now + self.pause;
        self.pause = (2 * self.pause).min(PAUSE_MAX);
    }

    /// There are no more: if some have no answer, all are read again.
    pub fn end(&mut self) {
        let is_done = self.unanswered.is_empty();
        if is_done && self.pause > PAUSE {
            info!("no record waits for the registry any more");
            self.pause = PAUSE;
        }
        self.unanswered.clear();
        self.cursor = (!is_done).then(Cursor::first);
    }
}

// === impl Cursor ===

impl Cursor {
    fn first() -> Self {
        Cursor {
            topic: String::new(),
            partition: -1,
            offset: -1,
        }
    }

    /// The records behind it, up to a limit, each with the reason for which it is kept.
    ///
    /// # Errors
    /// The database is unavailable, or refuses.
    pub async fn read(&self, client: &Client) -> Result<Vec<(Consumed, String)>, Error> {
        let ask = "select topic, partition, \"offset\", coalesce(key, ''), coalesce(value, ''), stored_at, reason \
                   from city.undecodable where reason = any($1) and (topic, partition, \"offset\") > ($2, $3, $4) \
                   order by topic, partition, \"offset\" limit $5";
        let rows = client
            .query(
                ask,
                &[&&REASONS[..], &self.topic, &self.partition, &self.offset, &RECORDS_MAX],
            )
            .await?;
        let records = rows.iter().map(|row| {
            let record = Consumed {
                topic: row.get(0),
                partition: row.get(1),
                offset: row.get(2),
                key: row.get(3),
                value: row.get(4),
                timestamp_ms: day::micros(row.get(5)) / 1000,
            };
            (record, row.get(6))
        });
        Ok(records.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::registry::LookupError;

    fn record(offset: i64, id: u8) -> Consumed {
        Consumed {
            topic: "city.probe".into(),
            partition: 0,
            offset,
            timestamp_ms: 0,
            key: Vec::new(),
            value: vec![0, 0, 0, 0, id, 1],
        }
    }

    #[test]
    fn what_the_registry_does_not_answer_is_read_again_later_and_later() {
        // Any answer that is none.
        let why = Undecodable::NoAnswer(LookupError::Unknown(7));
        let mut again = Again::default();
        let mut now = again.at;
        let mut pauses = Vec::new();
        for _ in 0..4 {
            assert!(again.due(now).is_some_and(|cursor| cursor.offset == -1));
            let waiting = record(5, 7);
            again.pass(&waiting);
            assert!(!again.has_no_answer(&waiting.value));
            again.note_no_answer(&waiting.value, &why, now);
            // Not asked for again by the next record, after the pause.
            assert!(again.due(now).is_none());
            pauses.push((again.at - now).as_secs());
            now = again.at;
            assert_eq!(again.due(now).map(|cursor| cursor.offset), Some(5));
            assert!(again.has_no_answer(&record(6, 7).value));
            assert!(!again.has_no_answer(&record(7, 8).value));
            again.end();
        }
        assert_eq!(pauses, [1, 2, 4, 8]);
        // With an answer to everything it ends.
        again.end();
        assert!(again.due(now + PAUSE_MAX).is_none());
        assert_eq!(again.pause, PAUSE);
    }
}
