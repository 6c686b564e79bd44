//! The loop that stores readings: read, decode, write, and begin again where the database says.
//!
//! What is true is in the database: after anything that may have gone wrong (a lost connection, a lost partition, a commit
//! without an answer) the open batch is dropped, the offsets are asked for, and reading goes on from there. So nothing in memory
//! has to be right for a reading to be stored once. While something is unavailable Kafka is polled all the same, so that the
//! group keeps this instance, but nothing is read. Which partitions there are and how far they are is in [`partitions`], what a
//! record becomes in [`records`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::SignedDuration;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Limits};
use super::config::Config;
use super::database::{self, Database, Reason};
use super::day::{self, Day};
use super::error::Error;
use super::metrics::StoreMetrics;
use super::status::{Part, Status};
use super::tables::Tables;
use super::write::{self, Stored};
use crate::catalogue::Definition;
use crate::catalogue::decoder::Decoder;
use crate::catalogue::missing::Missing;
use crate::deliver;
use crate::deliver::consumer::Consumer;
use crate::deliver::group::{Change, Member, Membership};
use again::Again;
use assignment::Assignment;

mod again;

mod assignment;

mod partitions;

mod records;

/// How long it is waited for a record at a time.
const TURN: Duration = Duration::from_millis(100);

/// How often it is looked how far behind the partitions are, and for which of them everything is stored.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How often it is asked how many partitions the topics have.
const TOPICS_INTERVAL: Duration = Duration::from_secs(30);

/// How often partitions of tables are made and dropped.
const KEEP_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// How long it is waited before the next try: first, and at the most.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How far the clocks of this host and of the database may be apart.
const CLOCKS_APART_MAX: SignedDuration = SignedDuration::from_mins(5);

/// So many times in a row, what may happen once is a fault.
const HAPPENED_MAX: u32 = 3;

/// A database that takes longer for a batch, or for anything else that it is asked, is unavailable.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(120);

/// What the loop works with.
pub struct Ingest {
    pub config: Config,
    pub database: Database,
    pub kinds: Vec<Definition>,
    /// The topic of devices.
    pub devices: Arc<str>,
    pub group: Group,
    pub member: Member,
    /// Asked where the partitions end, apart from the member, where the question would wait behind fetches.
    pub ends: Consumer,
    pub decoder: Decoder,
    pub metrics: StoreMetrics,
    pub status: Arc<Status>,
    pub closing: CancellationToken,
    pub memory: Memory,
}

/// The group that it is a member of, to join it.
pub struct Group {
    pub kafka: deliver::Config,
    pub topics: Vec<String>,
}

/// What it knows, and can find out again.
#[derive(Default)]
pub struct Memory {
    tables: Tables,
    assignment: Assignment,
    /// Headers of schemas that were looked for, and are not known.
    missing: Missing<Vec<u8>, ()>,
    again: Again,
    /// Whether Kafka said of every partition, when it was asked last, where it ends.
    is_kafka_whole: bool,
    /// How often in a row a batch was not stored for what may happen once.
    happened: u32,
    /// How many partitions each topic had when it was asked last.
    partitions: BTreeMap<Arc<str>, usize>,
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
                Err(failure) => {
                    self.note(&failure);
                    if matches!(failure, Error::MadeAnew { .. }) {
                        self.join_anew()?;
                    }
                }
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

    /// A client that has known a topic before it was made anew may never read the new one.
    fn join_anew(&mut self) -> Result<(), Error> {
        self.memory.assignment = Assignment::default();
        self.show_no_partitions();
        let joined = self.group.join(&self.config)?;
        // The one before leaves the group, which takes a moment.
        tokio::task::block_in_place(|| self.member = joined);
        Ok(())
    }

    fn note(&mut self, failure: &Error) {
        self.metrics
            .store_failures_total
            .with_label_values(&[failure.reason()])
            .inc();
        if failure.may_happen() {
            self.memory.happened += 1;
            if self.memory.happened < HAPPENED_MAX {
                return;
            }
        }
        self.status.fault(failure.part(), &failure.to_string());
        if failure.part() == Part::Database {
            let reason: &str = match failure {
                Error::Database(error) => error.reason().into(),
                Error::Slow(_) => Reason::Timeout.into(),
                Error::Clocks(_) => Reason::Clocks.into(),
                Error::Fenced | Error::NoPartition => Reason::Conflict.into(),
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

    /// Stores readings over one connection, until something fails or the store closes.
    async fn session(&mut self) -> Result<(), Error> {
        let mut client = self.database.connect().await?;
        let limited = database::limit(&client, DATABASE_TIMEOUT).await;
        limited.map_err(|error| self.database.error("a limit of time", error))?;
        in_time(self.compare_clocks(&client)).await?;
        in_time(self.memory.tables.prepare(&self.database, &mut client, &self.kinds)).await?;
        in_time(self.learn_schemas(&client)).await?;
        let mut look_at = Instant::now();
        let mut topics_at = Instant::now();
        let mut kept: Option<Instant> = None;
        in_time(self.begin(&client)).await?;
        self.memory.again = Again::default();
        loop {
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
                in_time(self.count_partitions(&client)).await?;
                topics_at = Instant::now() + TOPICS_INTERVAL;
            }
            // After something was stored: whoever reads an old partition for hours keeps no reading waiting.
            if kept.is_none_or(|at| at.elapsed() >= KEEP_INTERVAL) {
                kept = Some(Instant::now());
                in_time(self.keep(&mut client)).await?;
            }
        }
    }

    /// Partitions of days are made and dropped, and what could not be stored for a table's sake is tried again.
    async fn keep(&mut self, client: &mut Client) -> Result<(), Error> {
        self.compare_clocks(client).await?;
        let first = Day::first_kept(SystemTime::now(), self.config.retention);
        let tables = &mut self.memory.tables;
        tables.keep(&self.database, client, &self.kinds, first).await?;
        self.memory.again.restart();
        Ok(())
    }

    /// By a wrong clock all that is stored would be dropped, or all that comes taken for too old or too new.
    async fn compare_clocks(&self, client: &Client) -> Result<(), Error> {
        let asked = client.query_one("select clock_timestamp()", &[]).await;
        let theirs = asked.map_err(|error| self.database.error("its clock", error))?;
        let apart = day::micros(SystemTime::now()).saturating_sub(day::micros(theirs.get(0)));
        let apart = SignedDuration::from_micros(apart).abs();
        match apart > CLOCKS_APART_MAX {
            true => Err(Error::Clocks(SignedDuration::from_secs(apart.as_secs()))),
            false => Ok(()),
        }
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

    /// Stores a batch, if there is anything in it.
    async fn store(&mut self, client: &mut Client, mut batch: Batch) -> Result<(), Error> {
        let Some(began) = batch.began else {
            return Ok(());
        };
        for rows in &mut batch.tables {
            let days = rows.days();
            let made = self
                .memory
                .tables
                .make_days(&self.database, client, &rows.layout.kind, days);
            rows.has_detached = !in_time(made).await?;
        }
        let in_database = Instant::now();
        let kinds = &self.kinds;
        let kind_of = |topic: &str| kind_of(kinds, topic).map(|kind| kind.name.as_str().into());
        let written = in_time(write::write(&self.database, client, &batch, kind_of)).await;
        if matches!(written, Err(Error::NoPartition)) {
            self.memory.tables.forget_days();
        }
        let stored = written?;
        self.memory.happened = 0;
        for (place, span) in &batch.spans {
            if let Some(stored) = self.memory.assignment.stored.get_mut(place) {
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
}

// === impl Group ===

impl Group {
    /// # Errors
    /// librdkafka does not accept the properties.
    pub fn join(&self, config: &Config) -> Result<Member, Error> {
        let membership = Membership {
            group: &config.group,
            instance: config.instance.as_deref(),
            session_timeout: config.session_timeout,
        };
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        Ok(Member::join(&self.kafka, membership, &topics)?)
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
