//! The loop that stores readings: read, decode, write, and begin again where the database says.
//!
//! What is true is in the database: after anything that may have gone wrong (a lost connection, a lost partition, a commit
//! without an answer) the open batch is dropped, the offsets are asked for, and reading goes on from there. So nothing in memory
//! has to be right for a reading to be stored once. While something is unavailable Kafka is polled all the same, so that the
//! group keeps this instance, but nothing is read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::again::Again;
use super::assignment::Assignment;
use super::batch::{Batch, Limits, Place};
use super::config::Config;
use super::database::{self, Database, Reason};
use super::error::Error;
use super::json;
use super::metrics::StoreMetrics;
use super::status::{Part, Status};
use super::tables::Tables;
use super::write::{self, Stored};
use crate::catalogue::Definition;
use crate::catalogue::decoder::{self, Decoder, Undecodable};
use crate::catalogue::missing::Missing;
use crate::deliver::consumer::{Consumed, Consumer};
use crate::deliver::group::{Change, Member};
use crate::message::is_device_id;

/// How long it is waited for a record at a time.
const TURN: Duration = Duration::from_millis(100);

/// How often it is looked how far behind the partitions are, and for which of them everything is stored.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How long Kafka may take to say so.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is asked how many partitions the topics have.
const TOPICS_INTERVAL: Duration = Duration::from_secs(30);

/// How often partitions of tables are made and dropped.
const KEEP_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// How long it is waited before the next try: first, and at the most.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A database that takes longer for a batch, or for anything else that it is asked, is unavailable.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(120);

/// What the loop works with.
pub struct Ingest {
    pub config: Config,
    pub database: Database,
    pub kinds: Vec<Definition>,
    /// The topic of devices.
    pub devices: Arc<str>,
    pub member: Member,
    /// Asked where the partitions end, apart from the member, where the question would wait behind fetches.
    pub ends: Consumer,
    pub decoder: Decoder,
    pub metrics: StoreMetrics,
    pub status: Arc<Status>,
    pub closing: CancellationToken,
    pub tables: Tables,
    pub assignment: Assignment,
    /// Headers of schemas that were looked for, and are not known.
    pub missing: Missing<Vec<u8>, ()>,
    pub again: Again,
}

/// Why a batch is not added to any more.
#[derive(Debug)]
enum End {
    /// It is full, or old enough.
    Due,
    Changed(Change),
    Closing,
}

// === impl Ingest ===

impl Ingest {
    /// Stores readings until `closing`, whatever becomes unavailable meanwhile.
    ///
    /// # Errors
    /// A table of a kind cannot hold its readings: no other try will change that.
    pub async fn run(mut self) -> Result<(), Error> {
        let mut pause = PAUSE;
        while !self.closing.is_cancelled() {
            let began = Instant::now();
            match self.session().await {
                Ok(()) => break,
                Err(wrong @ Error::Tables(_)) => return Err(wrong),
                Err(failure) => self.note(&failure),
            }
            if began.elapsed() > 2 * PAUSE_MAX {
                pause = PAUSE;
            }
            self.wait(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
        // Leaving the group takes a moment.
        tokio::task::block_in_place(|| drop(self));
        Ok(())
    }

    fn note(&self, failure: &Error) {
        self.metrics
            .store_failures_total
            .with_label_values(&[failure.reason()])
            .inc();
        if let Some(part) = failure.part() {
            self.status.fault(part, &failure.to_string());
        }
        if failure.part() == Some(Part::Database) {
            let reason: &str = match failure {
                Error::Database(error) => error.reason().into(),
                Error::Slow(_) => Reason::Timeout.into(),
                _ => Reason::Refused.into(),
            };
            self.metrics.store_database_up.set(0);
            self.metrics.store_database_unavailable.reset();
            let unavailable = &self.metrics.store_database_unavailable;
            unavailable.with_label_values(&[reason]).set(1);
        }
    }

    /// Not before it has stored something, or has been seen to: a connection says nothing of a table that is locked.
    fn note_database_works(&self) {
        self.status.well(Part::Database);
        self.metrics.store_database_up.set(1);
        self.metrics.store_database_unavailable.reset();
    }

    /// Lets time pass in which nothing is read.
    async fn wait(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        self.stop_reading();
        while Instant::now() < until && !self.closing.is_cancelled() {
            // What may come is of partitions that are not read any more.
            let _read = tokio::task::block_in_place(|| self.member.poll(TURN.min(pause)));
            if let Some(change) = self.member.change() {
                self.follow(change);
            }
        }
    }

    fn stop_reading(&self) {
        if self.assignment.given.is_some()
            && let Err(failure) = self.member.begin(&[])
        {
            self.status.fault(Part::Kafka, &failure.to_string());
        }
    }

    /// What the group decided, while nothing is read.
    fn follow(&mut self, change: Change) {
        self.assignment = Assignment::default();
        match change {
            Change::Assigned(given) => {
                self.assignment.given = Some(given);
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

    /// Stores readings over one connection, until something fails or the store closes.
    async fn session(&mut self) -> Result<(), Error> {
        let mut client = self.database.connect().await?;
        let limited = database::limit(&client, DATABASE_TIMEOUT).await;
        limited.map_err(|error| self.database.error("a limit of time", error))?;
        in_time(self.tables.prepare(&self.database, &mut client, &self.kinds)).await?;
        in_time(self.learn_schemas(&client)).await?;
        let mut look_at = Instant::now();
        let mut topics_at = Instant::now();
        let mut kept: Option<Instant> = None;
        in_time(self.begin(&client)).await?;
        self.again = Again::new(Instant::now());
        loop {
            if kept.is_none_or(|at| at.elapsed() >= KEEP_INTERVAL) {
                kept = Some(Instant::now());
                let retention = self.config.retention;
                in_time(self.tables.keep(&self.database, &mut client, &self.kinds, retention)).await?;
            }
            self.try_again(&mut client).await?;
            let mut batch = Batch::default();
            let end = self.collect(&mut client, &mut batch).await?;
            let stored = self.store(&mut client, batch).await;
            match (stored, end) {
                (Ok(()), End::Due) => {}
                (Ok(()), End::Changed(change)) => in_time(self.change(&client, change)).await?,
                (Ok(()), End::Closing) => return Ok(()),
                (Err(failure), end) => {
                    // The group waits for an answer to what it has decided, whatever has failed.
                    if let End::Changed(change) = end {
                        self.follow(change);
                    }
                    return Err(failure);
                }
            }
            if look_at <= Instant::now() {
                let began = Instant::now();
                in_time(self.look(&client)).await?;
                self.note_database_works();
                // Where Kafka is slow it is looked seldom: nine tenths of the time go into storing.
                look_at = Instant::now() + LOOK_INTERVAL.max(9 * began.elapsed());
            }
            if topics_at <= Instant::now() {
                self.count_partitions();
                topics_at = Instant::now() + TOPICS_INTERVAL;
            }
        }
    }

    /// Schemas that the folder had before, and other instances' folders have.
    async fn learn_schemas(&mut self, client: &Client) -> Result<(), Error> {
        let ask = "select kind, header, schema from city.avro_schema order by since";
        let known = client.query(ask, &[]).await;
        let known = known.map_err(|error| self.database.error("city.avro_schema", error))?;
        for row in known {
            let (kind, header, text): (String, Vec<u8>, String) = (row.get(0), row.get(1), row.get(2));
            let parsed = apache_avro::Schema::parse_str(&text).map_err(Box::new);
            if let Err(wrong) = parsed.and_then(|schema| self.decoder.add(&kind, header, schema)) {
                warn!(kind, %wrong, "a schema in city.avro_schema cannot be used");
            }
        }
        Ok(())
    }

    /// Reads all that this instance was given, from where the database says.
    async fn begin(&mut self, client: &Client) -> Result<(), Error> {
        // What fails here is tried again with the next connection: until then it stays what the group gave.
        let Some(given) = self.assignment.given.clone() else {
            return Ok(());
        };
        let mut assignment = Assignment::default();
        let known = write::stored(client).await;
        let known = known.map_err(|error| self.database.error("city.stored", error))?;
        self.show_no_partitions();
        let mut topics: BTreeMap<&str, Arc<str>> = BTreeMap::new();
        for (topic, partition) in &given {
            let topic = topics.entry(topic).or_insert_with(|| topic.as_str().into()).clone();
            let from = self.offset(client, &topic, *partition).await?;
            let kind = kind_of(&self.kinds, &topic);
            let stored = kind.and_then(|kind| known.get(&(kind.name.clone(), *partition)));
            self.show_stored(&topic, *partition, stored.copied().unwrap_or(SystemTime::now()));
            assignment.stored.insert((topic, *partition), from);
        }
        assignment.begun = assignment.stored.clone();
        let from = assignment.stored.iter();
        let from: Vec<_> = from
            .map(|((topic, partition), offset)| (&**topic, *partition, *offset))
            .collect();
        self.member.begin(&from)?;
        self.metrics.store_partitions.set(from.len() as i64);
        assignment.given = Some(given);
        self.assignment = assignment;
        self.status.well(Part::Starting);
        Ok(())
    }

    /// Where a partition is to be read from: behind what is stored; of one that never was, from its beginning.
    async fn offset(&self, client: &Client, topic: &str, partition: i32) -> Result<i64, Error> {
        let error = |error| self.database.error("city.kafka_offset", error);
        let first =
            "insert into city.kafka_offset (topic, partition, next_offset) values ($1, $2, 0) on conflict do nothing";
        client.execute(first, &[&topic, &partition]).await.map_err(error)?;
        let ask = "select next_offset from city.kafka_offset where topic = $1 and partition = $2";
        Ok(client
            .query_one(ask, &[&topic, &partition])
            .await
            .map_err(error)?
            .get(0))
    }

    /// Does what the group decided, with everything stored that was read.
    async fn change(&mut self, client: &Client, change: Change) -> Result<(), Error> {
        match change {
            Change::Revoked => {
                self.assignment = Assignment::default();
                self.show_no_partitions();
                self.member.release()?;
            }
            Change::Assigned(given) => {
                info!(
                    partitions = given.len(),
                    "the group has given this instance its partitions"
                );
                self.assignment = Assignment {
                    given: Some(given),
                    ..Assignment::default()
                };
                self.begin(client).await?;
            }
        }
        Ok(())
    }

    /// Adds records to a batch until it is to be stored.
    async fn collect(&mut self, client: &mut Client, batch: &mut Batch) -> Result<End, Error> {
        let idle_until = Instant::now() + LOOK_INTERVAL;
        let limits = Limits::new(&self.config, SystemTime::now());
        loop {
            if self.closing.is_cancelled() {
                return Ok(End::Closing);
            }
            let until = batch
                .began
                .map_or(idle_until, |began| began + self.config.batch_interval);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || batch.is_full(self.config.batch_readings) {
                return Ok(End::Due);
            }
            let polled = tokio::task::block_in_place(|| self.member.poll(left.min(TURN)));
            if let Some(change) = self.member.change() {
                return Ok(End::Changed(change));
            }
            match polled {
                Ok(Some(record)) => self.add(client, batch, record, limits).await?,
                Ok(None) => {}
                // Told again for every attempt to connect; librdkafka goes on by itself.
                Err(failure) => self.status.fault(Part::Kafka, &failure.to_string()),
            }
        }
    }

    async fn add(
        &mut self,
        client: &mut Client,
        batch: &mut Batch,
        record: Consumed,
        limits: Limits,
    ) -> Result<(), Error> {
        self.status.well(Part::Kafka);
        let Some((place, &stored)) = self.assignment.place(&record) else {
            return Ok(()); // of a partition that was taken away
        };
        let place = place.clone();
        self.assignment.begins(&place, &record, &self.metrics);
        if place.0 == self.devices {
            return self.add_device(batch, &place, stored, record).await;
        }
        self.look_for_schema(client, &record.value).await?;
        self.add_reading(client, batch, &place, stored, record, limits).await
    }

    /// Adds a record of a kind's topic.
    async fn add_reading(
        &mut self,
        client: &mut Client,
        batch: &mut Batch,
        place: &Place,
        stored: i64,
        record: Consumed,
        limits: Limits,
    ) -> Result<(), Error> {
        let Some(kind) = kind_of(&self.kinds, &place.0) else {
            return Ok(());
        };
        let decoded = self.decoder.reading(kind, &record.key, &record.value).await;
        let (writer, reading) = match decoded {
            Ok(decoded) => (decoded.writer, decoded.reading),
            Err(why) if why.may_pass() => return Err(Error::Registry(why.to_string())),
            Err(why) => {
                poisoned(batch, place, stored, record, &why);
                return Ok(());
            }
        };
        self.status.well(Part::Registry);
        let layout = in_time(self.tables.layout(&self.database, client, &kind.name, &writer)).await?;
        let at = batch.add(place, stored, record);
        match layout {
            Err(wrong) => batch.poison(at, wrong.reason(), wrong.to_string()),
            Ok(layout) => {
                if let Err(fault) = batch.reading(place, at, &layout, &reading, limits) {
                    batch.poison(at, fault.reason(), fault.to_string());
                }
            }
        }
        Ok(())
    }

    /// Stores the next of the records that were kept for want of a schema, as far as it is known now.
    async fn try_again(&mut self, client: &mut Client) -> Result<(), Error> {
        if self.decoder.has_found() {
            self.again = Again::new(Instant::now());
        }
        let Some(cursor) = self.again.due(Instant::now()) else {
            return Ok(());
        };
        let read = async {
            let read = cursor.read(client).await;
            read.map_err(|error| self.database.error("city.undecodable", error).into())
        };
        let records = in_time(read).await?;
        if records.is_empty() {
            self.again.end();
            return Ok(());
        }
        let mut batch = Batch::again();
        let limits = Limits::new(&self.config, SystemTime::now());
        for record in records {
            self.again.pass(&record);
            let place = (Arc::from(record.topic.as_str()), record.partition);
            let Some(kind) = kind_of(&self.kinds, &place.0) else {
                continue;
            };
            if self.again.has_no_answer(&record.value) {
                continue;
            }
            match self.decoder.reading(kind, &record.key, &record.value).await {
                Err(why) if why.may_pass() => {
                    // What has to be stored now is not kept waiting by more than one request.
                    self.again.note_no_answer(&record.value, &why, Instant::now());
                    break;
                }
                // What wants its schema still stays where it is.
                Err(why) if why.wants_schema() => {}
                _ => self.add_reading(client, &mut batch, &place, 0, record, limits).await?,
            }
        }
        if !batch.records.is_empty() {
            let records = batch.records.len();
            self.store(client, batch).await?;
            info!(records, "records whose schema was not known are stored");
        }
        Ok(())
    }

    /// Where a record's schema is not known: another instance may have noted it since, from a newer folder.
    async fn look_for_schema(&mut self, client: &Client, value: &[u8]) -> Result<(), Error> {
        let Some(header) = decoder::header(value) else {
            return Ok(());
        };
        let header = header.to_vec();
        if self.decoder.writer(&header).is_some() || self.missing.recent(&header, Instant::now()).is_some() {
            return Ok(());
        }
        in_time(self.learn_schemas(client)).await?;
        if self.decoder.writer(&header).is_some() {
            self.again = Again::new(Instant::now());
        } else {
            self.missing.note(header, (), Instant::now());
        }
        Ok(())
    }

    /// Devices in Avro become JSON first.
    async fn add_device(
        &mut self,
        batch: &mut Batch,
        place: &Place,
        stored: i64,
        mut record: Consumed,
    ) -> Result<(), Error> {
        let is_device = str::from_utf8(&record.key).is_ok_and(is_device_id);
        if !is_device {
            let at = batch.add(place, stored, record);
            batch.poison(at, "device", "its key is no device id".to_owned());
            return Ok(());
        }
        if let [0, a, b, c, d, datum @ ..] = &*record.value {
            let writer = self.decoder.by_id(u32::from_be_bytes([*a, *b, *c, *d])).await;
            match writer.and_then(|writer| writer.decoded(datum)) {
                Ok(value) => {
                    let mut text = Vec::new();
                    json::write(&mut text, &value);
                    record.value = text;
                }
                Err(why) if why.may_pass() => return Err(Error::Registry(why.to_string())),
                Err(why) => {
                    poisoned(batch, place, stored, record, &why);
                    return Ok(());
                }
            }
        }
        let at = batch.add(place, stored, record);
        batch.device(at);
        Ok(())
    }

    /// Stores a batch, if there is anything in it.
    async fn store(&mut self, client: &mut Client, batch: Batch) -> Result<(), Error> {
        let Some(began) = batch.began else {
            return Ok(());
        };
        for rows in &batch.tables {
            let days = rows.days();
            let made = self.tables.make_days(&self.database, client, &rows.layout.kind, days);
            in_time(made).await?;
        }
        let in_database = Instant::now();
        let kinds = &self.kinds;
        let kind_of = |topic: &str| kind_of(kinds, topic).map(|kind| kind.name.as_str().into());
        let written = in_time(write::write(&self.database, client, &batch, kind_of)).await;
        if matches!(written, Err(Error::NoPartition)) {
            self.tables.forget_days();
        }
        let stored = written?;
        for (place, span) in &batch.spans {
            if let Some(stored) = self.assignment.stored.get_mut(place) {
                *stored = span.next;
                let until = UNIX_EPOCH + Duration::from_millis(span.written_ms.unsigned_abs());
                self.show_stored(&place.0, place.1, until);
            }
        }
        self.count(&stored, began, in_database);
        Ok(())
    }

    fn count(&self, stored: &Stored, began: Instant, in_database: Instant) {
        let metrics = &self.metrics;
        for (kind, counts) in &stored.kinds {
            metrics.store_rows_total.with_label_values(&[kind]).inc_by(counts.rows);
            metrics
                .store_duplicates_total
                .with_label_values(&[kind])
                .inc_by(counts.duplicates);
            metrics.store_late_total.with_label_values(&[kind]).inc_by(counts.late);
        }
        for (reason, count) in &stored.undecodable {
            metrics
                .store_undecodable_total
                .with_label_values(&[reason])
                .inc_by(*count);
        }
        metrics.store_devices_total.inc_by(stored.devices);
        metrics.store_expired_total.inc_by(stored.expired);
        let seconds = |part: &str, since: Instant| {
            metrics
                .store_batch_seconds
                .with_label_values(&[part])
                .observe(since.elapsed().as_secs_f64());
        };
        seconds("batch", began);
        seconds("transaction", in_database);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        metrics.store_last_commit_timestamp_seconds.set(now.as_secs_f64());
    }

    /// Looks how far behind each partition is, and notes those of which everything is stored.
    async fn look(&mut self, client: &Client) -> Result<(), Error> {
        let mut caught_up = Vec::new();
        for ((topic, partition), stored) in &self.assignment.stored {
            let now = SystemTime::now();
            let asked = tokio::task::block_in_place(|| self.ends.end(topic, *partition, LOOK_TIMEOUT));
            let end = match asked {
                Ok(end) => end,
                Err(failure) => {
                    self.status.fault(Part::Kafka, &failure.to_string());
                    return Ok(());
                }
            };
            let labels = [&**topic, &partition.to_string()];
            self.metrics
                .store_lag_records
                .with_label_values(&labels)
                .set((end - stored).max(0));
            if *stored < end {
                continue;
            }
            self.show_stored(topic, *partition, now);
            if let Some(kind) = kind_of(&self.kinds, topic) {
                caught_up.push((Arc::from(kind.name.as_str()), *partition, now));
            }
        }
        if !self.assignment.stored.is_empty() {
            self.status.well(Part::Kafka);
        }
        let noted = write::note_stored(client, &caught_up).await;
        noted.map_err(|error| self.database.error("city.stored", error))?;
        Ok(())
    }

    /// Of all topics, also while this instance has none of their partitions. Of one that Kafka says nothing of it stays as it was: that Kafka
    /// does not answer, others notice.
    fn count_partitions(&self) {
        let topics = self.kinds.iter().map(|kind| &*kind.topic).chain([&*self.devices]);
        for topic in topics {
            let asked = tokio::task::block_in_place(|| self.ends.partitions(topic, LOOK_TIMEOUT));
            let Ok(partitions) = asked else {
                return;
            };
            let gauge = self.metrics.store_topic_partitions.with_label_values(&[topic]);
            gauge.set(partitions as i64);
        }
    }

    fn show_no_partitions(&self) {
        self.metrics.store_partitions.set(0);
        self.metrics.store_lag_records.reset();
        self.metrics.store_stored_until_timestamp_seconds.reset();
    }

    fn show_stored(&self, topic: &str, partition: i32, until: SystemTime) {
        let gauge = &self.metrics.store_stored_until_timestamp_seconds;
        let since_1970 = until.duration_since(UNIX_EPOCH).unwrap_or_default();
        let labels = [topic, &partition.to_string()];
        gauge.with_label_values(&labels).set(since_1970.as_secs_f64());
    }
}

/// What the database does, or that it took too long.
async fn in_time<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let done = tokio::time::timeout(DATABASE_TIMEOUT, work).await;
    done.unwrap_or(Err(Error::Slow(DATABASE_TIMEOUT)))
}

fn kind_of<'a>(kinds: &'a [Definition], topic: &str) -> Option<&'a Definition> {
    kinds.iter().find(|kind| kind.topic == topic)
}

fn poisoned(batch: &mut Batch, place: &Place, stored: i64, record: Consumed, why: &Undecodable) {
    let at = batch.add(place, stored, record);
    batch.poison(at, why.reason(), why.to_string());
}
