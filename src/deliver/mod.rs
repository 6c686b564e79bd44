//! Records to safety: Kafka while it is healthy, *busy* while it is not.
//!
//! Every receipt given to this room is resolved by it: with *delivered* (or *rejected*, for a dead letter) once all
//! in-sync replicas have the record, with *busy* as soon as it is known that they will not in time. Nothing here blocks.
//! [`kafka`] knows the producer, [`topics`] what the cluster must offer, [`health`] when not to try.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::message::Record;
use crate::metrics::KafkaMetrics;
use crate::outcome::{Busy, Outcome};
use crate::receipt::Receipt;
use crate::route::DeadLetter;
use crate::schemas::Schemas;

pub mod config;

pub mod health;

pub mod kafka;

pub mod spool;

pub mod topics;

pub use config::Config;

/// The room's door: sends records, and says how Kafka is.
#[derive(Debug)]
pub struct Deliver {
    kafka: Arc<kafka::Kafka>,
    health: Arc<health::Monitor>,
    dead_letter_topic: String,
}

/// A record on its way: who is answered, and what with once the record is safe.
#[derive(Debug)]
pub struct Pending {
    pub receipt: Receipt,
    /// *Delivered* for a reading, the rejection for a dead letter.
    pub once_safe: Outcome,
}

impl Deliver {
    /// Creates the producer and starts to probe Kafka; returns at once, whether or not Kafka is there.
    ///
    /// # Errors
    /// librdkafka does not take the configuration (a wrong `kafka.properties` entry, an unreadable certificate …).
    pub fn start(config: &Config, schemas: &Schemas, metrics: KafkaMetrics) -> Result<Self, kafka::Error> {
        let health = Arc::new(health::Monitor::new(metrics.kafka_up.clone()));
        let kafka = Arc::new(kafka::Kafka::new(config, metrics, health.clone())?);
        let wanted = topics::Wanted::new(config, schemas);
        health::start_probe(kafka.clone(), health.clone(), wanted, config.probe_interval);
        Ok(Deliver {
            kafka,
            health,
            dead_letter_topic: config.dead_letter_topic.clone(),
        })
    }

    /// Resolves `receipt` with *delivered* once the record is safe.
    pub fn send(&self, record: &Record<'_>, receipt: Receipt) {
        self.produce(
            record,
            Pending {
                receipt,
                once_safe: Outcome::Delivered,
            },
        );
    }

    /// Resolves `receipt` with the rejection once the original bytes are safe in the dead-letter topic.
    pub fn dead_letter(&self, letter: &DeadLetter<'_>, receipt: Receipt) {
        let headers = letter.headers();
        let record = letter.record(&self.dead_letter_topic, &headers);
        self.produce(
            &record,
            Pending {
                receipt,
                once_safe: letter.rejection.clone().into(),
            },
        );
    }

    fn produce(&self, record: &Record<'_>, pending: Pending) {
        match self.health.busy() {
            None => self.kafka.send(record, pending),
            Some(busy) => pending.receipt.resolve(Outcome::Busy(busy)),
        }
    }

    /// Changes when Kafka goes away or comes back.
    pub fn health(&self) -> watch::Receiver<health::Health> {
        self.health.subscribe()
    }

    /// Waits until Kafka has confirmed all records, at most for `deadline`; what is then unconfirmed is answered busy.
    /// Blocks the calling thread.
    pub fn close(&self, deadline: Duration) {
        self.health.close();
        self.kafka.close(deadline);
    }
}

/// Looks whether the cluster is there and offers every topic; settings that weaken the promise, in words.
///
/// # Errors
/// The cluster does not answer, or topics are missing, in words for the operator.
pub async fn inspect(config: &Config, schemas: &Schemas, metrics: KafkaMetrics) -> Result<Vec<String>, String> {
    let monitor = Arc::new(health::Monitor::new(metrics.kafka_up.clone()));
    let kafka = Arc::new(kafka::Kafka::new(config, metrics, monitor).map_err(|error| error.to_string())?);
    let wanted = topics::Wanted::new(config, schemas);
    let asked = kafka.clone();
    let metadata = tokio::task::spawn_blocking(move || asked.metadata())
        .await
        .map_err(|error| error.to_string())??;
    wanted.check(&metadata).map_err(|missing| missing.to_string())?;
    let settings = wanted.weaknesses(&kafka).await;
    Ok(settings.unwrap_or_else(|error| vec![format!("the settings of the topics could not be read: {error}")]))
}

impl Pending {
    /// All in-sync replicas have the record.
    pub fn safe(self) {
        self.receipt.resolve(self.once_safe);
    }

    /// Kafka did not take the record.
    pub fn busy(self, busy: Busy) {
        self.receipt.resolve(Outcome::Busy(busy));
    }
}
