//! Records that were kept because their schema was not known, read again from `city.undecodable`.
//!
//! Some at a time, in the order of their places in Kafka. What is made of them is the business of [`ingest`](super::ingest): of two
//! instances that store the same one the second finds its row there. Kafka's own time of a record is not kept: for a schema without times it is when the record was kept.

use tokio_postgres::{Client, Error};

use super::day;
use crate::deliver::consumer::Consumed;

/// Records read at a time.
const RECORDS_MAX: i64 = 500;

/// How records are kept whose schema is not known: the reasons for which
/// [`wants_schema`](crate::catalogue::decoder::Undecodable::wants_schema) holds.
const REASONS: [&str; 3] = ["unknown_fingerprint", "no_registry", "unknown_id"];

/// The record behind which it is gone on.
#[derive(Clone, Debug)]
pub struct Cursor {
    topic: String,
    partition: i32,
    offset: i64,
}

// === impl Cursor ===

impl Cursor {
    pub fn first() -> Self {
        Cursor {
            topic: String::new(),
            partition: -1,
            offset: -1,
        }
    }

    /// The records behind it, up to a limit, and the last of them; none if there are none.
    ///
    /// # Errors
    /// The database is unavailable, or refuses.
    pub async fn read(&self, client: &Client) -> Result<Option<(Vec<Consumed>, Cursor)>, Error> {
        let ask = "select topic, partition, \"offset\", coalesce(key, ''), coalesce(value, ''), stored_at \
                   from city.undecodable where reason = any($1) and (topic, partition, \"offset\") > ($2, $3, $4) \
                   order by topic, partition, \"offset\" limit $5";
        let rows = client
            .query(
                ask,
                &[&&REASONS[..], &self.topic, &self.partition, &self.offset, &RECORDS_MAX],
            )
            .await?;
        let records: Vec<_> = rows
            .iter()
            .map(|row| Consumed {
                topic: row.get(0),
                partition: row.get(1),
                offset: row.get(2),
                key: row.get(3),
                value: row.get(4),
                timestamp_ms: day::micros(row.get(5)) / 1000,
            })
            .collect();
        let next = records.last().map(|last| Cursor {
            topic: last.topic.clone(),
            partition: last.partition,
            offset: last.offset,
        });
        Ok(next.map(|next| (records, next)))
    }
}
