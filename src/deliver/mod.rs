//! Records to safety: Kafka while it confirms, the spool while it does not, *busy* when neither accepts them.
//!
//! Every receipt given to this room is resolved by it: with *delivered* (or *rejected*, for a dead letter) once all
//! in-sync replicas have the record, with *spooled* once it is fsynced here, with *busy* as soon as it is known that it
//! will be neither. Nothing here blocks. [`dispatch`] decides, [`kafka`] knows the producer, [`spool`] the disk,
//! [`replay_threads`] bring spooled records to Kafka, [`kafka::topics`] knows what the cluster must offer, [`missing_topics`] which topics
//! it does not have, [`leaderless_partitions`] which partitions have no leader, [`probe`] asks for it, [`health`] knows whether to try, and [`reason`] why not; [`close`] ends it
//! all.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::message::Record;
use crate::operate::clock::Clock;
use crate::outcome::Outcome;
use crate::receipt::Receipt;
use crate::route::DeadLetter;
pub use metrics::Metrics;
use metrics::{KafkaMetrics, SpoolMetrics};

pub mod broker;

mod close;
pub mod metrics;

pub mod config;

pub mod consumer;

pub mod dispatch;

pub mod health;

pub mod leaderless_partitions;

pub mod missing_topics;

pub mod kafka;

pub mod encoded_record;

pub mod group;

pub mod probe;

pub mod publisher;

pub mod reason;

pub mod replay_threads;

pub mod spool;

pub mod spool_store;

pub use config::Config;
use dispatch::{Disk, Dispatch, Pending, Ticket, Times};
use kafka::{Kafka, topics};
use spool_store::SpoolStore;

type Dispatcher = Dispatch<Arc<Kafka>, SpoolStore>;

/// The room's door: sends records, and says how Kafka and the spool are.
#[derive(Debug)]
pub struct Deliver {
    dispatch: Arc<Dispatcher>,
    kafka: Arc<Kafka>,
    health: Arc<health::Monitor>,
    pump: Mutex<Option<(replay_threads::Pump, replay_threads::Watch)>>,
    failed: CancellationToken,
    dead_letter_topic: String,
    clock: Arc<dyn Clock>,
    metrics: SpoolMetrics,
    spool_folder: PathBuf,
}

/// The sections that this room reads.
#[derive(Clone, Copy, Debug)]
pub struct Sections<'a> {
    pub kafka: &'a Config,
    pub spool: &'a spool::Config,
    pub replay: &'a replay_threads::Config,
}

/// The producer, and what is known of Kafka; nothing is sent yet.
#[derive(Debug)]
pub struct Client {
    kafka: Arc<Kafka>,
    health: Arc<health::Monitor>,
    /// Who is told the end of each record, once there are any.
    told: Arc<OnceLock<Weak<Dispatcher>>>,
}

/// This room cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spool's folder is in use, not writable, foreign, or of a later version.
    #[error(transparent)]
    Spool(#[from] spool::Error),
    /// The system gives no thread.
    #[error("no thread for the replay: {0}")]
    Thread(#[from] std::io::Error),
}

// === impl Deliver ===

impl Deliver {
    /// Opens the spool, and starts to probe Kafka; returns whether or not Kafka is available. `topics` says which ones the
    /// kinds have now; it is called whenever Kafka is asked for them.
    pub fn start(
        sections: Sections<'_>,
        Client { kafka, health, told }: Client,
        topics: impl Fn() -> Vec<String> + Send + 'static,
        metrics: &Metrics,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let config = sections.kafka;
        let failed = CancellationToken::new();
        let opened = sections
            .spool
            .enabled
            .then(|| open_spool(sections.spool, clock.clone()));
        let (store, writer, recovered) = match opened.transpose()? {
            Some((store, writer, recovered)) => (Some(store), Some(writer), recovered),
            None => (None, None, (0, 0)),
        };
        let times = Times {
            spool_after: config.spool_after,
            delivery_timeout: config.delivery_timeout,
            linger: config.linger,
            retry_interval: sections.replay.retry_interval,
        };
        let dispatch = Dispatch::new(
            kafka.clone(),
            store,
            recovered,
            times,
            health.clone(),
            (metrics.kafka.clone(), metrics.spool.clone()),
        );
        let dispatch = Arc::new(dispatch);
        told.set(Arc::downgrade(&dispatch)).ok();
        if let Some((store, writer)) = dispatch.store().zip(writer) {
            start_writer(writer, store, Arc::downgrade(&dispatch))?;
        }
        let rescued = dispatch.clone();
        // Until the spool's readings are safe, the gateway stays: open files end with it.
        let may_end = move || rescued.store().is_none_or(|store| !store.spool.rescue().is_running);
        let watch = replay_threads::Watch::start(dispatch.clone(), failed.clone(), may_end)?;
        let wake = dispatch.store().map(|store| store.wake.clone()).unwrap_or_default();
        let pump = replay_threads::Pump::start(dispatch.clone(), sections.replay, clock.clone(), wake)?;
        let probed = config.clone();
        let wanted = move || topics::Wanted::new(&probed, topics());
        probe::start(kafka.clone(), health.clone(), wanted, config.probe_interval);
        Ok(Deliver {
            dispatch,
            kafka,
            health,
            pump: Mutex::new(Some((pump, watch))),
            failed,
            dead_letter_topic: config.dead_letter_topic.clone(),
            clock,
            metrics: metrics.spool.clone(),
            spool_folder: sections.spool.folder.clone(),
        })
    }

    /// Resolves `receipt` with *delivered* or *spooled* once the record is safe.
    pub fn send(&self, record: &Record<'_>, receipt: Receipt) {
        self.dispatch.send(
            receipt.received_at(),
            record,
            Pending {
                receipt,
                once_safe: Outcome::Delivered,
            },
        );
    }

    /// Resolves `receipt` with the rejection once the original bytes are safe: in the dead-letter topic, or on the way to
    /// it in the spool.
    pub fn dead_letter(&self, letter: &DeadLetter<'_>, receipt: Receipt) {
        let headers = letter.headers();
        let record = letter.record(&self.dead_letter_topic, &headers);
        self.dispatch.send(
            receipt.received_at(),
            &record,
            Pending {
                receipt,
                once_safe: letter.rejection.clone().into(),
            },
        );
    }

    /// Changes when Kafka becomes unavailable or available.
    pub fn health(&self) -> watch::Receiver<health::Health> {
        self.health.subscribe()
    }

    /// The kinds of reasons why Kafka is unavailable, as the metric labels them; none while it is up.
    pub fn kafka_unavailable(&self) -> Vec<&'static str> {
        let mut causes: Vec<_> = self.health.reasons().iter().map(|reason| reason.cause).collect();
        causes.dedup();
        causes.into_iter().map(reason::Cause::label).collect()
    }

    /// Cancelled when the gateway must end: the spool's disk failed, so that it can promise nothing more.
    pub fn failed(&self) -> CancellationToken {
        self.failed.clone()
    }

    /// How the spool is; none without one.
    pub fn spool_status(&self) -> Option<spool::Status> {
        self.dispatch.store().map(|store| store.spool.status())
    }

    /// Why the spool accepts nothing any more, if so.
    pub fn spool_failure(&self) -> Option<String> {
        let store = self.dispatch.store()?;
        let why = store.spool.status().failed?;
        let rescue = store.spool.rescue();
        Some(match rescue.waits_for {
            Some(waits_for) => {
                format!(
                    "{why}; its readings cannot be written anew yet, and ending the gateway may lose them: {waits_for}"
                )
            }
            None if rescue.is_running => format!("{why}; its readings are being written anew"),
            None => why,
        })
    }

    /// Brings the spool's gauges up to date.
    pub fn observe(&self) {
        if let Some(store) = self.dispatch.store() {
            let ingest = self.dispatch.ingest_bytes_per_s(Instant::now());
            spool_store::observe(&store.spool.status(), ingest, self.clock.wall_ms(), &self.metrics);
            let (_, still) = self.dispatch.disk(Instant::now());
            self.metrics
                .spool_readings_without_topic
                .set(self.dispatch.deferred() as i64);
            self.metrics.spool_stalled_seconds.set(still.as_secs_f64());
        }
    }

    /// The spool's part of `/status`; null without a spool.
    pub fn describe_spool(&self) -> Value {
        let store = self.dispatch.store();
        store.map_or(Value::Null, |store| {
            spool_store::describe(
                &store.spool.status(),
                self.dispatch.ingest_bytes_per_s(Instant::now()),
                self.dispatch.unconfirmed(),
                (self.metrics.spool_readings_refused.get(), self.dispatch.deferred()),
                (
                    self.dispatch.disk(Instant::now()).1,
                    self.metrics.spool_readings_in_doubt_total.get(),
                ),
                self.clock.wall_ms(),
            )
        })
    }

    /// What an operator should know although readings are accepted, in words: for `/readyz` and `/status`.
    pub fn warnings(&self) -> Vec<String> {
        let (disk, still) = self.dispatch.disk(Instant::now());
        let still = still.as_secs_f64();
        let words = match disk {
            Disk::Good => None,
            Disk::Slow => Some(format!(
                "the disk of the spool is slow: for {still:.1} s it has finished no write"
            )),
            Disk::Hung => Some(format!(
                "the disk of the spool hangs: for {still:.1} s it has finished no write, and readings that need it are answered \
                 busy"
            )),
        };
        let missing = self.health.topics().all();
        let kept = match self.dispatch.store() {
            Some(_) => "readings are spooled",
            None => "readings are answered busy",
        };
        let missing = missing
            .into_iter()
            .map(|(topic, _)| format!("kafka has no topic {topic}; its {kept}"));
        let leaderless = self.health.leaderless().all();
        let leaderless = (!leaderless.is_empty()).then(|| {
            let names = leaderless_partitions::names(&leaderless);
            format!("kafka names no leader for {names}; their {kept}")
        });
        let (readings, stalled) = self.dispatch.stalled();
        let stalled = (stalled > 0 && self.health.is_up()).then(|| {
            format!("kafka confirms no readings of some partitions, but those of others; {readings} wait in the spool")
        });
        missing.chain(leaderless).chain(stalled).chain(words).collect()
    }
}

type Opened = (SpoolStore, spool::Stopped<Ticket>, (u64, u64));

/// Opens the spool; its writer waits for the dispatch, which does not exist yet.
fn open_spool(config: &spool::Config, clock: Arc<dyn Clock>) -> Result<Opened, spool::Error> {
    let disk = Arc::new(spool::RealDisk::default());
    let (spool, writer, recovery) = spool::open_stopped(config, disk, clock)?;
    if recovery.entries > 0 {
        info!(
            readings = recovery.entries,
            bytes = recovery.bytes,
            "the spool holds readings of an earlier run"
        );
    }
    let recovered = (recovery.entries, spool.status().next_sequence);
    let store = SpoolStore {
        spool: Arc::new(spool),
        wake: Arc::default(),
    };
    Ok((store, writer, recovered))
}

/// Lets the spool write, and tell the dispatch the end of its entries.
fn start_writer(
    writer: spool::Stopped<Ticket>,
    store: &SpoolStore,
    told: Weak<Dispatcher>,
) -> Result<(), spool::Error> {
    writer.start(&store.spool, move |entries| {
        if let Some(dispatch) = told.upgrade() {
            let entries = entries.into_iter();
            dispatch.stored(entries.map(|(ticket, result)| (ticket, result.map_err(|why| spool_store::busy(&why)))));
        }
    })
}

/// What a look at the cluster found, in words.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// Topics that the gateway will create.
    pub to_create: Option<String>,
    /// Settings that weaken the promise.
    pub weaknesses: Vec<String>,
}

// === impl Client ===

impl Client {
    /// Creates the producer, as a gateway with or without a spool needs it; it connects by itself.
    ///
    /// # Errors
    /// librdkafka refuses the configuration (an unreadable certificate, a key without its password …).
    pub fn new(config: &Config, spooling: bool, metrics: &KafkaMetrics) -> Result<Self, kafka::Error> {
        let health = Arc::new(health::Monitor::new(metrics, spooling));
        let told: Arc<OnceLock<Weak<Dispatcher>>> = Arc::default();
        let listener = told.clone();
        let listener = move |slot, result| {
            if let Some(dispatch) = listener.get().and_then(Weak::upgrade) {
                dispatch.reported(slot, result);
            }
        };
        let kafka = Kafka::new(config, spooling, metrics.clone(), health.clone(), Box::new(listener))?;
        let kafka = Arc::new(kafka);
        Ok(Client { kafka, health, told })
    }

    /// Looks whether the cluster is available and offers every topic, or would let it be created.
    ///
    /// # Errors
    /// Why the cluster cannot be used.
    pub async fn inspect(self, config: &Config, topics: Vec<String>) -> Result<Inspection, probe::Unusable> {
        let Client { kafka, health, .. } = self;
        // Nothing is sent, and what is found is told by the return value.
        health.close();
        let wanted = topics::Wanted::new(config, topics);
        let (asked, whom) = (kafka.clone(), wanted.clone());
        let to_create = tokio::task::spawn_blocking(move || probe::ask_once(&asked, &health, &whom)).await??;
        let settings = wanted.weaknesses(&kafka).await;
        let weaknesses =
            settings.unwrap_or_else(|error| vec![format!("the settings of the topics could not be read: {error}")]);
        Ok(Inspection { to_create, weaknesses })
    }
}
