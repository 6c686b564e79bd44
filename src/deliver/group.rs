//! A member of a consumer group, which reads the partitions that the group gives it from offsets that are kept elsewhere.
//!
//! Kafka's group protocol shares the partitions among the members, and nothing else: no offset is committed to Kafka. What the
//! group decides is told ([`Change`]) instead of being done at once: whoever stores the records first asks its own store where
//! to [begin](Member::begin), and stores what it has before it [lets go](Member::release). Every call blocks, for a bounded time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::config::Config;
use super::consumer::{ConnectionErrors, Consumed, Error};

/// Whom the group knows this member as.
#[derive(Clone, Copy, Debug)]
pub struct Membership<'a> {
    pub group: &'a str,
    /// Kept across restarts: the group then gives it the same partitions again without asking the others.
    pub instance: Option<&'a str>,
    pub session_timeout: Duration,
}

/// What the group has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These partitions of topics are this member's, and no others.
    Assigned(Vec<(String, i32)>),
    /// None is any more; the group waits until that is confirmed.
    Revoked,
}

/// See the module.
pub struct Member {
    client: BaseConsumer<Context>,
    servers: String,
}

struct Context {
    told: ConnectionErrors,
    changes: Mutex<VecDeque<Change>>,
    /// Nobody asks for changes any more.
    is_closing: AtomicBool,
}

// === impl Member ===

impl Member {
    /// Joins a group that reads these topics, as soon as it is polled.
    ///
    /// # Errors
    /// librdkafka does not accept the properties.
    pub fn join(config: &Config, membership: Membership<'_>, topics: &[&str]) -> Result<Self, Error> {
        let mut client = config.client();
        client
            .set("group.id", membership.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("allow.auto.create.topics", "false")
            // What Kafka has deleted cannot be read; whoever stores offsets notices the gap.
            .set("auto.offset.reset", "earliest")
            // Evenly over all topics together.
            .set("partition.assignment.strategy", "roundrobin")
            .set("session.timeout.ms", membership.session_timeout.as_millis().to_string())
            .set(
                "heartbeat.interval.ms",
                (membership.session_timeout / 4).as_millis().to_string(),
            );
        if let Some(instance) = membership.instance {
            client.set("group.instance.id", instance);
        }
        for (key, value) in [
            ("reconnect.backoff.max.ms", "1000"),
            ("socket.keepalive.enable", "true"),
            // A topic that is made later is noticed within this time.
            ("topic.metadata.refresh.interval.ms", "10000"),
        ] {
            if !config.properties.contains_key(key) {
                client.set(key, value);
            }
        }
        let servers = config.bootstrap_servers.clone();
        let refused = |error: KafkaError| Error::Refused {
            servers: servers.clone(),
            why: error.to_string(),
        };
        let context = Context {
            told: ConnectionErrors::new(config),
            changes: Mutex::default(),
            is_closing: AtomicBool::new(false),
        };
        let client: BaseConsumer<Context> = client.create_with_context(context).map_err(refused)?;
        client.subscribe(topics).map_err(refused)?;
        Ok(Member { client, servers })
    }

    /// The next record, if there is one within this time; or sooner nothing, if the group has decided something.
    ///
    /// # Errors
    /// Kafka refuses; it may be asked again.
    pub fn poll(&self, within: Duration) -> Result<Option<Consumed>, Error> {
        let record = self.client.poll(within).transpose();
        let record = match record {
            // It is about a topic that does not exist yet, as is said once by who knows which are missing.
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) => None,
            record => record.map_err(|error| self.error(&error))?,
        };
        if record.is_some() {
            self.client.context().told.failures().are_over();
        }
        Ok(record.map(|record| Consumed::of(&record)))
    }

    /// What the group has decided since it was asked last.
    pub fn change(&self) -> Option<Change> {
        self.client.context().changes().pop_front()
    }

    /// From now on these partitions are read, each from an offset; none: nothing is read.
    ///
    /// # Errors
    /// librdkafka refuses.
    pub fn begin(&self, from: &[(&str, i32, i64)]) -> Result<(), Error> {
        let mut partitions = TopicPartitionList::new();
        for (topic, partition, offset) in from {
            let added = partitions.add_partition_offset(topic, *partition, Offset::Offset(*offset));
            added.map_err(|error| self.error(&error))?;
        }
        self.client.assign(&partitions).map_err(|error| self.error(&error))
    }

    /// Confirms that nothing is read any more.
    ///
    /// # Errors
    /// librdkafka refuses.
    pub fn release(&self) -> Result<(), Error> {
        self.client.unassign().map_err(|error| self.error(&error))
    }

    fn error(&self, error: &KafkaError) -> Error {
        self.client.context().told.explain(&self.servers, error)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Leaving takes a last change, which the client itself waits for.
        self.client.context().is_closing.store(true, Ordering::Relaxed);
        self.client.unassign().ok();
    }
}

// === impl Context ===

impl Context {
    fn changes(&self) -> std::sync::MutexGuard<'_, VecDeque<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.told.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, told: &str) {
        self.told.error(error, told);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, client: &BaseConsumer<Self>, decided: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let change = match decided {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let all = partitions.elements();
                Change::Assigned(
                    all.iter()
                        .map(|one| (one.topic().to_owned(), one.partition()))
                        .collect(),
                )
            }
            _ => Change::Revoked,
        };
        if self.is_closing.load(Ordering::Relaxed) {
            client.unassign().ok();
        }
        self.changes().push_back(change);
    }
}
