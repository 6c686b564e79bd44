//! The Kafka producer: records out, the end of each told.
//!
//! A record is given to librdkafka together with a number, its slot in [`dispatch`](crate::deliver::dispatch); the delivery report
//! brings the number back on librdkafka's polling thread, which touches no socket and wakes each connection once per
//! batch of reports (`receipt::Mailbox`). Batching, compression, retries and idempotence are librdkafka's. A producer
//! that failed fatally, or that knows no broker any more, is replaced.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig, ThreadedProducer};
use tracing::{error, info, warn};

use super::cluster::Cluster;
use super::error::Error;
use super::reports::{Listener, Reports};
use crate::deliver::broker::{Broker, Refused};
use crate::deliver::config::Config;
use crate::deliver::health::Monitor;
use crate::deliver::metrics::KafkaMetrics;
use crate::deliver::reason::Reason;
use crate::message::Record;

/// Why Kafka is unavailable until batches are smaller.
const BATCH_TOO_LARGE: &str = "kafka refuses batches of readings as too large for their topic";

/// How often it is looked, at the end, whether what is unconfirmed is still waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long the reports of purged records may take.
const PURGE_TIMEOUT: Duration = Duration::from_secs(2);

type Producer = ThreadedProducer<Reports>;

/// The producer.
pub struct Kafka {
    cluster: Cluster,
    producer_config: ClientConfig,
    // Replaced when it is of no use any more; read once per record.
    producer: RwLock<Producer>,
    // Raised under the lock above, for writing. Odd while a producer that was made to give everything back is still there:
    // it accepts nothing.
    epoch: AtomicU64,
    // The largest batch that a producer makes from now on, and by the configuration.
    batch_bytes: AtomicU64,
    batch_bytes_max: u64,
    // Topics for which batches were made smaller, with the `max.message.bytes` that each had then.
    limits: Mutex<BTreeMap<String, u64>>,
    // A producer with smaller batches is being made. Changed under the producer's lock.
    shrinking: AtomicBool,
    // Held by whoever replaces the producer: what one gives back must be reported before there is another.
    replacement: Mutex<()>,
    reports: Reports,
}

// === impl Kafka ===

impl Kafka {
    /// With a spool behind it, the producer never gives a record up: it is either confirmed or purged.
    /// `listener` is told the end of each record.
    pub fn new(
        config: &Config,
        spooling: bool,
        metrics: KafkaMetrics,
        health: Arc<Monitor>,
        listener: Listener,
    ) -> Result<Self, Error> {
        let reports = Reports {
            listener: Arc::new(listener),
            health,
            metrics,
            is_debugging: config.properties.contains_key("debug"),
            sent_bytes_seen: Arc::default(),
            knows_no_broker: Arc::default(),
            batch_bytes: config.batch_bytes.as_u64(),
            refused_topic: Arc::default(),
            mask: config.mask(),
        };
        if reports.is_debugging && !tracing::enabled!(tracing::Level::INFO) {
            warn!("kafka.properties.debug is set, but log.level hides what it shows: that is logged as \"info\"");
        }
        let batch_bytes = reports.batch_bytes as i64;
        reports.metrics.kafka_batch_bytes_max.set(batch_bytes);
        let producer_config = config.producer(spooling);
        let producer = producer_config.create_with_context(reports.clone());
        let producer = producer.map_err(|error| Error::Configuration(reports.mask.hide(&error.to_string())))?;
        let producer = RwLock::new(producer);
        Ok(Kafka {
            cluster: Cluster::new(config),
            producer_config,
            producer,
            epoch: AtomicU64::new(0),
            batch_bytes: AtomicU64::new(config.batch_bytes.as_u64()),
            batch_bytes_max: config.batch_bytes.as_u64(),
            limits: Mutex::default(),
            shrinking: AtomicBool::new(false),
            replacement: Mutex::default(),
            reports,
        })
    }

    /// The producer of this moment. Without the lock, which is for no longer than a record takes: whoever waits to replace
    /// the producer would keep all senders waiting with it.
    fn producer(&self) -> Producer {
        self.producer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Questions to the cluster that are none of the producer's.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Asks the cluster for its topics, over the producer's own connections; the error is what to say if nothing is known
    /// of them. Blocks up to two seconds.
    pub fn metadata(&self) -> Result<Metadata, Reason> {
        self.cluster.metadata(self.producer().client())
    }

    /// Whether the producer can reach Kafka nowhere any more, as far as its last statistics say.
    pub fn knows_no_broker(&self) -> bool {
        let producer = self.producer.read().unwrap_or_else(PoisonError::into_inner);
        producer.client().context().knows_no_broker.load(Ordering::Relaxed)
    }

    /// Replaces the producer if it failed fatally; `Some` says why it could not be replaced.
    pub fn revive(&self) -> Option<String> {
        let fatal = self
            .producer
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .client()
            .fatal_error();
        let (code, reason) = fatal?;
        let reason = self.reports.mask.hide(&reason);
        error!(?code, %reason, "the kafka producer is fatally broken; recreating");
        self.replace().err().map(|error| format!("{error} ({reason})"))
    }

    /// Purges the producer, and goes on with a new one. Blocks for two seconds at most; longer, if
    /// another thread is about to do the same.
    ///
    /// # Errors
    /// librdkafka makes no new one; the old one stays.
    pub fn replace(&self) -> Result<(), Error> {
        let _alone = self.replacement.lock().unwrap_or_else(PoisonError::into_inner);
        self.replace_alone(|| {})
    }

    /// `and_then`: under the lock, before anybody gives a record to the new producer.
    fn replace_alone(&self, and_then: impl FnOnce()) -> Result<(), Error> {
        let batch_bytes = self.batch_bytes.load(Ordering::Relaxed);
        let reports = Reports {
            sent_bytes_seen: Arc::default(),
            knows_no_broker: Arc::default(),
            batch_bytes,
            ..self.reports.clone()
        };
        let producer = self
            .producer_config
            .clone()
            .set("batch.size", batch_bytes.to_string())
            .create_with_context(reports)
            .map_err(|error| Error::Replacement(self.reports.mask.hide(&error.to_string())))?;
        self.give_nothing_more(&self.producer.write().unwrap_or_else(PoisonError::into_inner));
        self.take_back();
        let mut current = self.producer.write().unwrap_or_else(PoisonError::into_inner);
        let failed = std::mem::replace(&mut *current, producer);
        self.give_again();
        and_then();
        drop(current);
        // Not while the lock is held that senders wait for.
        drop(failed);
        self.reports.metrics.kafka_producers_replaced_total.inc();
        Ok(())
    }

    /// From now on the producer accepts no record, and gives back those that it has; with the lock held for writing. What
    /// came between the two would be given back after later records went to the next producer.
    fn give_nothing_more(&self, producer: &Producer) {
        self.epoch.store((self.epoch() + 1) | 1, Ordering::Release);
        producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
    }

    /// There is a producer that accepts records; with the lock held for writing.
    fn give_again(&self) {
        self.epoch.store((self.epoch() | 1) + 1, Ordering::Release);
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Waits for the delivery reports, at most for `deadline`, and while `is_awaited`; what is then unconfirmed is purged.
    pub fn close(&self, deadline: Duration, is_awaited: impl Fn() -> bool) {
        {
            // What was let through before, and is not here yet, would wait for a report in vain.
            let _alone = self.producer.write().unwrap_or_else(PoisonError::into_inner);
            self.epoch.store((self.epoch() + 1) | 1, Ordering::Release);
        }
        let (producer, began) = (self.producer(), Instant::now());
        while let Err(error) = producer.flush(deadline.saturating_sub(began.elapsed()).min(LOOK_INTERVAL)) {
            if began.elapsed() >= deadline || !is_awaited() {
                info!(%error, "kafka did not confirm everything before the end");
                return self.take_back();
            }
        }
    }

    fn queue(&self, producer: &Producer, record: &Record<'_>, slot: usize) -> Result<(), Refused> {
        let mut queued = BaseRecord::with_opaque_to(record.topic, slot)
            .payload(record.value)
            .timestamp(record.timestamp_ms);
        if !record.headers.is_empty() {
            queued = queued.headers(headers(record.headers));
        }
        if !record.key.is_empty() {
            queued = queued.key(record.key.as_bytes());
        }
        let sent = producer.send(queued);
        sent.map_err(|(error, _)| match self.reports.refusal(&error) {
            Refused::TopicMissing(_) => Refused::TopicMissing(self.reports.health.topics().add(record.topic)),
            refused => refused,
        })
    }

    /// A batch was too large for its topic. Goes on with a producer whose batches are not.
    fn replace_by_smaller(&self) {
        let _alone = self.replacement.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shrinking = Shrinking {
            kafka: self,
            failed: Some("the kafka producer could not be replaced: its thread failed".to_owned()),
        };
        self.make_batches_smaller();
        // Under the lock: the next batch that is too large must not be considered one of before.
        let replaced = self.replace_alone(|| {
            self.shrinking.store(false, Ordering::Relaxed);
            self.reports.health.replaced();
        });
        shrinking.failed = replaced.err().map(|error| error.to_string());
    }

    /// The old producer stays, once Kafka is asked and answers; `again`: it accepts records again.
    fn not_shrunk(&self, why: &str, again: bool) {
        let _producer = self.producer.write().unwrap_or_else(PoisonError::into_inner);
        if again {
            self.give_again();
        }
        self.shrinking.store(false, Ordering::Relaxed);
        self.reports.health.not_replaced(why);
    }

    /// As large as the topic accepts, as far as Kafka says; otherwise half as large, until each record is alone.
    fn make_batches_smaller(&self) {
        let topic = self
            .reports
            .refused_topic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let now = self.batch_bytes.load(Ordering::Relaxed);
        let allowed = self.cluster.message_bytes_max(&topic);
        self.limits().insert(topic.clone(), allowed.clone().unwrap_or(u64::MAX));
        let smaller = allowed
            .clone()
            .ok()
            .filter(|allowed| *allowed < now)
            .unwrap_or(now / 2)
            .max(1);
        self.batch_bytes.store(smaller, Ordering::Relaxed);
        let allowed = allowed.map_or_else(|error| format!("not known ({error})"), |bytes| bytes.to_string());
        warn!(
            topic,
            max_message_bytes = allowed,
            batch_bytes = smaller,
            "kafka refused a batch of readings as too large for its topic; from now on batches of all topics are smaller, \
             which costs more per reading: raise max.message.bytes of the topic, which is noticed, or lower kafka.batch_bytes"
        );
        self.reports.metrics.kafka_batch_bytes_max.set(smaller as i64);
    }

    fn limits(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with larger batches if every topic that refused some accepts larger ones now than it did then; blocks for
    /// some seconds where there is such a topic. A producer has one limit for all its topics.
    pub fn make_batches_larger(&self) {
        let limits = self.limits().clone();
        if limits.is_empty() || self.shrinking.load(Ordering::Relaxed) {
            return;
        }
        let mut larger = self.batch_bytes_max;
        for (topic, then) in &limits {
            match self.cluster.message_bytes_max(topic) {
                Ok(now) if now > *then => larger = larger.min(now),
                _ => return,
            }
        }
        let _alone = self.replacement.lock().unwrap_or_else(PoisonError::into_inner);
        if *self.limits() != limits || self.batch_bytes.load(Ordering::Relaxed) >= larger {
            return; // another batch was refused meanwhile
        }
        let before = self.batch_bytes.swap(larger, Ordering::Relaxed);
        if let Err(error) = self.replace_alone(|| {}) {
            self.batch_bytes.store(before, Ordering::Relaxed);
            return warn!(%error, "batches of readings stay small");
        }
        self.limits().clear();
        self.reports.metrics.kafka_batch_bytes_max.set(larger as i64);
        info!(
            batch_bytes = larger,
            "the topics accept larger batches again, and get them"
        );
    }

    /// Purges all that the producer holds; its reports arrive like any others before this returns.
    fn take_back(&self) {
        let producer = self.producer();
        producer.purge(PurgeConfig::default().queue().inflight());
        if let Err(error) = producer.flush(PURGE_TIMEOUT) {
            warn!(%error, records = producer.in_flight_count(), "purged records were not reported");
        }
    }
}

impl Broker for Arc<Kafka> {
    fn epoch(&self) -> u64 {
        Kafka::epoch(self)
    }

    fn produce(&self, epoch: u64, record: &Record<'_>, slot: usize) -> Result<(), Refused> {
        let producer = self.producer.read().unwrap_or_else(PoisonError::into_inner);
        if epoch != Kafka::epoch(self) || !epoch.is_multiple_of(2) {
            return Err(Refused::Purged);
        }
        self.queue(&producer, record, slot)
    }

    fn shrink_batches(&self) {
        {
            // At once: librdkafka goes on with what comes behind the batch when it has asked Kafka for another epoch.
            let producer = self.producer.write().unwrap_or_else(PoisonError::into_inner);
            if self.shrinking.swap(true, Ordering::Relaxed) {
                return;
            }
            self.reports.health.replacing(BATCH_TOO_LARGE);
            self.give_nothing_more(&producer);
        }
        let kafka = self.clone();
        let shrink = move || kafka.replace_by_smaller();
        if let Err(error) = std::thread::Builder::new().name("kafka-batches".into()).spawn(shrink) {
            let failed = format!("no thread to make a producer with smaller batches: {error}");
            // Should another thread replace the producer just now, the next one accepts records anyway.
            let alone = self.replacement.try_lock();
            self.not_shrunk(&failed, alone.is_ok());
        }
    }
}

/// A producer with smaller batches is being made; `failed` unless there is one.
struct Shrinking<'a> {
    kafka: &'a Kafka,
    failed: Option<String>,
}

impl Drop for Shrinking<'_> {
    fn drop(&mut self) {
        if let Some(why) = &self.failed {
            self.kafka.not_shrunk(why, true);
        }
    }
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka")
            .field("servers", &self.cluster.servers())
            .finish_non_exhaustive()
    }
}

fn headers(pairs: &[(&str, &str)]) -> OwnedHeaders {
    pairs
        .iter()
        .fold(OwnedHeaders::new_with_capacity(pairs.len()), |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(*value),
            })
        })
}

#[cfg(test)]
mod tests;
