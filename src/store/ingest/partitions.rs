//! The partitions that the group gives this instance: where each is read from, how far it is stored, and what metrics say of it.
//!
//! The group's decisions are followed at once while nothing is read, and otherwise when everything that was read is stored. Where a
//! partition begins the database says, where it ends Kafka.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::Client;
use tracing::{info, warn};

use super::assignment::{Assignment, Begun};
use super::{Ingest, kind_of};
use crate::deliver::group::Change;
use crate::store::batch::Place;
use crate::store::error::Error;
use crate::store::status::Part;
use crate::store::write;

/// How long Kafka may take to say where a partition ends, or how many a topic has; and how long after it did not say that of another.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK_AGAIN_TIMEOUT: Duration = Duration::from_millis(200);

/// So many looks in a row must find that a topic ends before what is stored of it.
const LOOKS_MAX: u32 = 3;

const MADE_ANEW: &str = "the topic is not the one that is stored: it was made anew, and is read from its beginning";

impl Ingest {
    pub(super) fn stop_reading(&self) {
        if self.memory.assignment.given.is_some()
            && let Err(failure) = self.member.begin(&[])
        {
            self.status.fault(Part::Kafka, &failure.to_string());
        }
    }

    /// What the group decided, while nothing is read.
    pub(super) fn follow(&mut self, change: Change) {
        self.memory.assignment = Assignment::default();
        match change {
            Change::Assigned(given) => {
                self.memory.assignment.given = Some(given);
                self.stop_reading();
            }
            Change::Revoked => {
                self.show_no_partitions();
                if let Err(failure) = self.member.release() {
                    self.status.fault(Part::Kafka, &failure.to_string());
                }
            }
        }
    }

    /// Reads all that this instance was given, from where the database says.
    pub(super) async fn begin(&mut self, client: &Client) -> Result<(), Error> {
        // What fails here is tried again with the next connection: until then it stays what the group gave.
        let Some(given) = self.memory.assignment.given.clone() else {
            return Ok(());
        };
        let mut assignment = Assignment::default();
        let known = write::stored(client).await;
        let known = known.map_err(|error| self.database.error("city.stored", error))?;
        self.show_no_partitions();
        let mut topics: BTreeMap<&str, Arc<str>> = BTreeMap::new();
        for (topic, partition) in &given {
            let topic = topics.entry(topic).or_insert_with(|| topic.as_str().into()).clone();
            let begun = self.offset(client, &topic, *partition).await?;
            let kind = kind_of(&self.kinds, &topic);
            let stored = kind.and_then(|kind| known.get(&(kind.name.clone(), *partition)));
            self.show_stored(&topic, *partition, stored.copied().unwrap_or(SystemTime::now()));
            assignment.stored.insert((topic.clone(), *partition), begun.next);
            assignment.begun.insert((topic, *partition), begun);
        }
        let from = assignment.begun.iter();
        let from: Vec<_> = from
            .map(|((topic, partition), begun)| (&**topic, *partition, begun.from()))
            .collect();
        self.member.begin(&from)?;
        self.metrics.store_partitions.set(from.len() as i64);
        assignment.given = Some(given);
        self.memory.assignment = assignment;
        self.status.well(Part::Starting);
        Ok(())
    }

    /// Where a partition is to be read from: behind what is stored; of one that never was, from its beginning.
    async fn offset(&self, client: &Client, topic: &str, partition: i32) -> Result<Begun, Error> {
        let error = |error| self.database.error("city.kafka_offset", error);
        let first =
            "insert into city.kafka_offset (topic, partition, next_offset) values ($1, $2, 0) on conflict do nothing";
        client.execute(first, &[&topic, &partition]).await.map_err(error)?;
        let ask = "select next_offset, case when written_next = next_offset then written_ms end \
                   from city.kafka_offset where topic = $1 and partition = $2";
        let row = client.query_one(ask, &[&topic, &partition]).await.map_err(error)?;
        Ok(Begun {
            next: row.get(0),
            written_ms: row.get(1),
        })
    }

    /// Another topic of this name has taken the place of what is stored: it is read from its beginning.
    pub(super) async fn made_anew(&self, client: &Client, place: &Place, stored: i64) -> Error {
        let (topic, partition) = (&*place.0, place.1);
        let forget = "update city.kafka_offset set next_offset = 0, written_ms = null, written_next = null \
                      where topic = $1 and partition = $2 and next_offset = $3";
        if let Err(error) = client.execute(forget, &[&topic, &partition, &stored]).await {
            return self.database.error("city.kafka_offset", error).into();
        }
        warn!(topic, partition, stored, "{MADE_ANEW}");
        let topic = topic.to_owned();
        Error::MadeAnew { topic, partition }
    }

    /// Does what the group decided, with everything stored that was read.
    pub(super) async fn change(&mut self, client: &Client, change: Change) -> Result<(), Error> {
        match change {
            Change::Revoked => {
                self.memory.assignment = Assignment::default();
                self.show_no_partitions();
                self.member.release()?;
            }
            Change::Assigned(given) => {
                info!(
                    partitions = given.len(),
                    "the group has given this instance its partitions"
                );
                self.memory.assignment = Assignment {
                    given: Some(given),
                    ..Assignment::default()
                };
                self.begin(client).await?;
            }
        }
        Ok(())
    }

    /// Looks how far behind each partition is, and notes those of which everything is stored. One without a leader keeps no other from
    /// being noted: their windows wait for it.
    ///
    /// # Errors
    /// The database is unavailable; a partition is another one than what is stored is of.
    pub(super) async fn look(&mut self, client: &Client) -> Result<(), Error> {
        let mut caught_up = Vec::new();
        let mut failed = None;
        let partitions = self.memory.assignment.stored.clone();
        for (place, stored) in &partitions {
            let (topic, partition) = place;
            let now = SystemTime::now();
            let within = failed.as_ref().map_or(LOOK_TIMEOUT, |_| LOOK_AGAIN_TIMEOUT);
            let asked = tokio::task::block_in_place(|| self.ends.end(topic, *partition, within));
            let end = match asked {
                Ok(end) => end,
                Err(failure) => {
                    failed.get_or_insert_with(|| format!("{topic}, partition {partition}: {failure}"));
                    continue;
                }
            };
            let labels = [&**topic, &partition.to_string()];
            self.metrics
                .store_lag_records
                .with_label_values(&labels)
                .set((end - stored).max(0));
            if *stored == end {
                self.memory.assignment.shorter.remove(place);
            } else if *stored > end {
                // A leader that has just become one may not know yet how far its followers are.
                let looks = self.memory.assignment.shorter.entry(place.clone()).or_default();
                *looks += 1;
                if *looks >= LOOKS_MAX {
                    return Err(self.made_anew(client, place, *stored).await);
                }
            } else {
                continue;
            }
            self.show_stored(topic, *partition, now);
            if let Some(kind) = kind_of(&self.kinds, topic) {
                caught_up.push((Arc::from(kind.name.as_str()), *partition, now));
            }
        }
        match &failed {
            Some(why) => self.status.fault(Part::Kafka, why),
            None if self.memory.assignment.stored.is_empty() => {}
            None => self.status.well(Part::Kafka),
        }
        self.memory.is_kafka_whole = failed.is_none();
        let noted = write::note_stored(client, &caught_up).await;
        noted.map_err(|error| self.database.error("city.stored", error))?;
        Ok(())
    }

    /// Of all topics, also while this instance has none of their partitions. Of one that Kafka says nothing of it stays as it was: that Kafka
    /// does not answer, others notice.
    pub(super) async fn count_partitions(&mut self, client: &Client) -> Result<(), Error> {
        let topics = self.kinds.iter().map(|kind| kind.topic.as_str().into());
        let topics: Vec<Arc<str>> = topics.chain([self.devices.clone()]).collect();
        for topic in topics {
            let asked = tokio::task::block_in_place(|| self.ends.partitions(&topic, LOOK_TIMEOUT));
            let Ok(partitions) = asked else {
                return Ok(());
            };
            let gauge = self.metrics.store_topic_partitions.with_label_values(&[&topic]);
            gauge.set(partitions as i64);
            if partitions > 0 && self.memory.partitions.get(&topic) != Some(&partitions) {
                self.forget_beyond(client, &topic, partitions).await?;
                self.memory.partitions.insert(topic, partitions);
            }
        }
        Ok(())
    }

    /// A topic that was made anew may have fewer partitions: windows would wait for ever for those that it had.
    async fn forget_beyond(&self, client: &Client, topic: &str, partitions: usize) -> Result<(), Error> {
        let error = |error| self.database.error("partitions of earlier topics", error);
        let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
        let offsets = "delete from city.kafka_offset where topic = $1 and partition >= $2";
        let gone = client.execute(offsets, &[&topic, &partitions]).await.map_err(error)?;
        if let Some(kind) = kind_of(&self.kinds, topic) {
            let stored = "delete from city.stored where kind = $1 and partition >= $2";
            client
                .execute(stored, &[&kind.name, &partitions])
                .await
                .map_err(error)?;
        }
        if gone > 0 {
            warn!(
                topic,
                partitions, gone, "the topic has fewer partitions than it had: those are forgotten"
            );
        }
        Ok(())
    }

    pub(super) fn show_no_partitions(&self) {
        self.metrics.store_partitions.set(0);
        self.metrics.store_lag_records.reset();
        self.metrics.store_stored_until_timestamp_seconds.reset();
    }

    pub(super) fn show_stored(&self, topic: &str, partition: i32, until: SystemTime) {
        let gauge = &self.metrics.store_stored_until_timestamp_seconds;
        let since_1970 = until.duration_since(UNIX_EPOCH).unwrap_or_default();
        let labels = [topic, &partition.to_string()];
        gauge.with_label_values(&labels).set(since_1970.as_secs_f64());
    }
}
