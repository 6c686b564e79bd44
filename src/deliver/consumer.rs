//! A consumer of the gateway's own topics, for tools that show what is in them.
//!
//! It connects as the producer does, with the same properties. It joins no group, commits nothing and creates no topic.
//! What librdkafka says is logged without the properties' secrets. Every call blocks, for a bounded time.

use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tracing::{debug, warn};

use super::config::{Config, Mask};

/// How long Kafka may take to answer a question.
const TIMEOUT: Duration = Duration::from_secs(10);

/// See the module.
pub struct Consumer {
    client: BaseConsumer<Masked>,
    servers: String,
}

/// Kafka cannot be read; for the operator.
#[derive(Debug, thiserror::Error)]
#[error("kafka at {servers}: {source}")]
pub struct Error {
    servers: String,
    source: KafkaError,
}

/// A record as it is in Kafka.
#[derive(Debug)]
pub struct Consumed {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

#[derive(Debug)]
struct Masked(Mask);

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
        match client.create_with_context(Masked(config.mask())) {
            Ok(client) => Ok(Consumer { client, servers }),
            Err(source) => Err(Error { servers, source }),
        }
    }

    /// From now on all partitions of these topics are read, from their beginning or their end; returns those that exist.
    ///
    /// # Errors
    /// Kafka does not answer.
    pub fn assign(&self, topics: &[&str], from_beginning: bool) -> Result<Vec<String>, Error> {
        self.try_assign(topics, from_beginning)
            .map_err(|source| self.error(source))
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
        let record = record.map_err(|source| self.error(source))?;
        Ok(record.map(|record| Consumed {
            topic: record.topic().to_owned(),
            partition: record.partition(),
            offset: record.offset(),
            key: record.key().unwrap_or_default().to_vec(),
            value: record.payload().unwrap_or_default().to_vec(),
        }))
    }

    fn error(&self, source: KafkaError) -> Error {
        Error {
            servers: self.servers.clone(),
            source,
        }
    }
}

impl ClientContext for Masked {
    fn log(&self, _: RDKafkaLogLevel, fac: &str, message: &str) {
        let message = self.0.hide(message);
        debug!(fac, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = self.0.hide(reason);
        warn!(%error, reason, "kafka cannot be read");
    }
}

impl ConsumerContext for Masked {}
