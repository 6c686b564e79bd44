//! A consumer of the gateway's own topics, for whoever shows what is in them, or how far they reach.
//!
//! It connects as the producer does, with the same properties. It joins no group, commits nothing and creates no topic.
//! What librdkafka says is logged without the properties' secrets, and why Kafka does not answer is said in the words of
//! [`reason`](super::reason). Every call blocks, for a bounded time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tracing::debug;

use super::config::{Config, Mask};
use super::reason::{self, Failures, Reason};

/// How long Kafka may take to answer a question.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// How long it is waited for what librdkafka has to tell when it has not answered.
const TOLD_WITHIN: Duration = Duration::from_millis(100);

/// See the module.
pub struct Consumer {
    client: BaseConsumer<ConnectionErrors>,
    servers: String,
}

/// Kafka cannot be read; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No broker can be reached; why not, of each.
    #[error("{0}")]
    Unreachable(String),
    #[error("kafka at {servers}: {why}")]
    Refused { servers: String, why: String },
}

/// A record as it is in Kafka.
#[derive(Debug)]
pub struct Consumed {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// When it was written, in milliseconds since 1970.
    pub timestamp_ms: i64,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// What librdkafka tells of connections.
#[derive(Debug)]
pub(super) struct ConnectionErrors {
    mask: Mask,
    failures: Mutex<Failures>,
}

// === impl Consumer ===

impl Consumer {
    /// A consumer that reads nothing yet.
    ///
    /// # Errors
    /// librdkafka does not accept the properties.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let mut client = config.client();
        client
            // librdkafka wants a name, but no group is joined.
            .set("group.id", "citygate-tail")
            .set("enable.auto.commit", "false")
            .set("allow.auto.create.topics", "false");
        let servers = config.bootstrap_servers.clone();
        let told = ConnectionErrors::new(config);
        match client.create_with_context(told) {
            Ok(client) => Ok(Consumer { client, servers }),
            Err(error) => Err(Error::Refused {
                servers,
                why: error.to_string(),
            }),
        }
    }

    /// From now on all partitions of these topics are read, from their beginning or their end; returns those that exist.
    ///
    /// # Errors
    /// Kafka does not answer.
    pub fn assign(&self, topics: &[&str], from_beginning: bool) -> Result<Vec<String>, Error> {
        self.try_assign(topics, from_beginning).map_err(|error| {
            // What librdkafka tells of its connections waits for somebody to poll, and it never ends to tell; there are no
            // records yet.
            let until = Instant::now() + TOLD_WITHIN;
            while Instant::now() < until && self.client.context().failures().reasons().is_empty() {
                self.client.poll(TOLD_WITHIN);
            }
            self.error(&error)
        })
    }

    fn try_assign(&self, topics: &[&str], from_beginning: bool) -> KafkaResult<Vec<String>> {
        let (mut existing, mut partitions) = (Vec::new(), TopicPartitionList::new());
        for topic in topics {
            let metadata = self.client.fetch_metadata(Some(topic), TIMEOUT)?;
            let found = metadata
                .topics()
                .first()
                .map(|topic| topic.partitions())
                .unwrap_or_default();
            for partition in found {
                let (low, high) = self.client.fetch_watermarks(topic, partition.id(), TIMEOUT)?;
                let begin = Offset::Offset(if from_beginning { low } else { high });
                partitions.add_partition_offset(topic, partition.id(), begin)?;
            }
            if !found.is_empty() {
                existing.push((*topic).to_owned());
            }
        }
        self.client.assign(&partitions)?;
        Ok(existing)
    }

    /// The next record, if there is one within this time.
    ///
    /// # Errors
    /// Kafka refuses; it may be asked again.
    pub fn poll(&self, within: Duration) -> Result<Option<Consumed>, Error> {
        let record = self.client.poll(within).transpose();
        let record = record.map_err(|error| self.error(&error))?;
        if record.is_some() {
            self.client.context().failures().are_over();
        }
        Ok(record.map(|record| Consumed::of(&record)))
    }

    /// The offset behind the last record of a partition. While nothing is assigned no fetch is waited for: behind one that waits
    /// for records the answer takes up to half a second.
    ///
    /// # Errors
    /// Kafka does not answer within this time.
    pub fn end(&self, topic: &str, partition: i32, within: Duration) -> Result<i64, Error> {
        let asked = self.client.fetch_watermarks(topic, partition, within.min(TIMEOUT));
        if asked.is_ok() {
            self.client.context().failures().are_over();
        }
        // What librdkafka tells of its connections waits for somebody to poll.
        self.client.poll(Duration::ZERO);
        asked.map(|(_, end)| end).map_err(|error| self.error(&error))
    }

    /// How many partitions a topic has; 0: Kafka does not have it.
    ///
    /// # Errors
    /// Kafka did not answer in time, or refuses.
    pub fn partitions(&self, topic: &str, within: Duration) -> Result<usize, Error> {
        let asked = self.client.fetch_metadata(Some(topic), within.min(TIMEOUT));
        let metadata = asked.map_err(|error| self.error(&error))?;
        Ok(metadata.topics().first().map_or(0, |found| found.partitions().len()))
    }

    fn error(&self, error: &KafkaError) -> Error {
        self.client.context().explain(&self.servers, error)
    }
}

// === impl Consumed ===

impl Consumed {
    pub(super) fn of(record: &impl Message) -> Self {
        Consumed {
            topic: record.topic().to_owned(),
            partition: record.partition(),
            offset: record.offset(),
            timestamp_ms: record.timestamp().to_millis().unwrap_or_default(),
            key: record.key().unwrap_or_default().to_vec(),
            value: record.payload().unwrap_or_default().to_vec(),
        }
    }
}

// === impl ConnectionErrors ===

impl ConnectionErrors {
    pub(super) fn new(config: &Config) -> Self {
        ConnectionErrors {
            mask: config.mask(),
            failures: Mutex::default(),
        }
    }

    /// What to say of an error of a client that reads.
    pub(super) fn explain(&self, servers: &str, error: &KafkaError) -> Error {
        let servers = servers.to_owned();
        let told = self.failures().reasons();
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut,
            ) => Error::Unreachable(match told.is_empty() {
                true => format!("kafka at {servers} does not answer"),
                false => reason::line(&told),
            }),
            // rdkafka's error texts lead with the enum's name; the part for people is librdkafka's.
            Some(code) => Error::Refused {
                servers,
                why: code.to_string(),
            },
            None => Error::Refused {
                servers,
                why: error.to_string(),
            },
        }
    }

    pub(super) fn failures(&self) -> std::sync::MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for ConnectionErrors {
    fn log(&self, _: RDKafkaLogLevel, fac: &str, message: &str) {
        let message = self.mask.hide(message);
        debug!(fac, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, told: &str) {
        let told = self.mask.hide(told);
        debug!(%error, told, "librdkafka error");
        let failure = error.rdkafka_error_code().zip(Some(&*told));
        if let Some(failure) = failure.and_then(|(code, told)| Reason::of_connection(code, told)) {
            self.failures().note(failure, Instant::now());
        }
    }
}

impl ConsumerContext for ConnectionErrors {}
