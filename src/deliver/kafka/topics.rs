//! What the cluster must offer: the topics of all kinds and the dead-letter topic.
//!
//! Checked at start, and every few seconds: a topic that is missing is named, and concerns its own readings only;
//! settings that weaken the promise (`min.insync.replicas`, replication, retention) are said plainly once, and so is what differs
//! from the list of topics. `create_topics` makes what is missing, as the list has it.

use std::fmt;
use std::time::Duration;

use rdkafka::metadata::{Metadata, MetadataTopic};
use tracing::{info, warn};

use super::cluster::{Cluster, block_on};
use super::error::Error;
use super::producer::Kafka;
use super::topic_requests;
use crate::deliver::config::Config;
use crate::deliver::leaderless_partitions::{self, Leaderless};
use crate::deliver::reason::Cause;
use crate::topics::{Found, Topic, difference};

/// Retention below which an outage of a consumer over a weekend loses readings.
const RETENTION_ADVISED: Duration = Duration::from_secs(3 * 24 * 3600);

/// The topics a gateway writes to.
#[derive(Clone, Debug)]
pub struct Wanted {
    topics: Vec<String>,
    /// What is planned for each of them.
    planned: Vec<Topic>,
    /// What is planned is a list, and differences are told.
    is_listed: bool,
    create: bool,
    /// Largest batch that the producer makes.
    batch_bytes: u64,
}

/// What a cluster that answers lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It names no broker: who answered is fenced, or knows of no controller.
    NoBroker,
    /// These topics are not there.
    Missing(Vec<String>),
    /// No partition has a leader; these are they.
    Leaderless(Vec<Leaderless>),
}

impl Unfit {
    pub fn cause(&self) -> Cause {
        match self {
            Unfit::NoBroker => Cause::NoBroker,
            Unfit::Missing(_) => Cause::TopicMissing,
            Unfit::Leaderless(_) => Cause::NoLeader,
        }
    }
}

impl std::error::Error for Unfit {}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::NoBroker => write!(f, "kafka answers, but names no broker"),
            Unfit::Missing(topics) => write!(
                f,
                "kafka has no topic {}; create it, or set kafka.create_topics = true",
                topics.join(", ")
            ),
            Unfit::Leaderless(partitions) => {
                write!(
                    f,
                    "kafka answers, but names no leader for {}",
                    leaderless_partitions::names(partitions)
                )
            }
        }
    }
}

impl Wanted {
    /// `topics` are those of the kinds.
    pub fn new(config: &Config, mut topics: Vec<String>) -> Self {
        topics.push(config.dead_letter_topic.clone());
        Wanted {
            planned: topics.iter().map(|name| config.topic(name)).collect(),
            topics,
            is_listed: config.topics.is_some(),
            create: config.create_topics,
            batch_bytes: config.batch_bytes.min(config.message_bytes_max()).as_u64(),
        }
    }

    /// Whether there are brokers, topics, and partitions with a leader.
    pub fn check(&self, metadata: &Metadata) -> Result<(), Unfit> {
        if metadata.brokers().is_empty() {
            return Err(Unfit::NoBroker);
        }
        let missing = self.missing(metadata);
        // The last one is for dead letters. A topic concerns its own readings; without any there is nothing to be sent.
        let kinds = &self.topics[..self.topics.len() - 1];
        if kinds.iter().all(|kind| missing.contains(kind)) {
            return Err(Unfit::Missing(missing));
        }
        let partitions: usize = self.found(metadata).map(|topic| topic.partitions().len()).sum();
        match self.leaderless(metadata) {
            // A partition concerns its own readings.
            some if some.len() < partitions => Ok(()),
            all => Err(Unfit::Leaderless(all)),
        }
    }

    fn found<'a>(&'a self, metadata: &'a Metadata) -> impl Iterator<Item = &'a MetadataTopic> {
        let is_wanted = |topic: &&MetadataTopic| self.topics.iter().any(|name| name == topic.name());
        metadata.topics().iter().filter(is_wanted)
    }

    /// The partitions of wanted topics that have no leader.
    pub fn leaderless(&self, metadata: &Metadata) -> Vec<Leaderless> {
        let of = |topic: &MetadataTopic| {
            let leaderless = topic.partitions().iter().filter(|partition| partition.leader() < 0);
            let numbers: Vec<_> = leaderless
                .filter_map(|partition| usize::try_from(partition.id()).ok())
                .collect();
            numbers
                .into_iter()
                .map(|partition| Leaderless {
                    topic: topic.name().to_owned(),
                    partition,
                    partitions: topic.partitions().len(),
                })
                .collect::<Vec<_>>()
        };
        self.found(metadata).flat_map(of).collect()
    }

    /// The topics that are wanted and do not exist.
    pub fn missing(&self, metadata: &Metadata) -> Vec<String> {
        let missing = self.topics.iter().filter(|name| !exists(metadata, name));
        missing.cloned().collect()
    }

    /// The topics that the gateway writes to.
    pub fn topics(&self) -> &[String] {
        &self.topics
    }

    /// Whether missing topics are to be created.
    pub fn creates(&self) -> bool {
        self.create
    }

    /// Creates these topics. Blocks for ten seconds at most.
    ///
    /// # Errors
    /// Kafka refuses some, or does not answer.
    pub fn create(&self, cluster: &Cluster, topics: &[String]) -> Result<(), Error> {
        self.ask_to_create(cluster, topics, false)
    }

    /// Whether Kafka would create these topics; none is created.
    ///
    /// # Errors
    /// As for [`Wanted::create`].
    pub fn could_create(&self, cluster: &Cluster, topics: &[String]) -> Result<(), Error> {
        self.ask_to_create(cluster, topics, true)
    }

    fn ask_to_create(&self, cluster: &Cluster, names: &[String], validate_only: bool) -> Result<(), Error> {
        let topics = self.planned.iter().filter(|topic| names.contains(&topic.name));
        let topics: Vec<&Topic> = topics.collect();
        block_on(async { topic_requests::create(&cluster.admin()?, &topics, validate_only).await })
    }

    /// Logs settings of the topics that weaken the promise.
    pub fn report_settings(&self, kafka: &Kafka) {
        match block_on(self.weaknesses(kafka)) {
            Ok(weaknesses) => weaknesses.iter().for_each(|weakness| warn!("{weakness}")),
            Err(error) => info!(%error, "the settings of the kafka topics could not be read"),
        }
    }

    /// What of the topics' settings weakens the promise or differs from the list, in words.
    ///
    /// # Errors
    /// The cluster does not say.
    pub async fn weaknesses(&self, kafka: &Kafka) -> Result<Vec<String>, Error> {
        let admin = kafka.cluster().admin()?;
        let metadata = kafka.metadata().map_err(|why| Error::Unavailable(why.text))?;
        let found = topic_requests::describe(&admin, &metadata, &self.topics).await?;
        let of = |topic: &Topic| match found.get(&topic.name) {
            Some(found) => self.weaknesses_of(topic, found),
            None => Vec::new(),
        };
        Ok(self.planned.iter().flat_map(of).collect())
    }

    fn weaknesses_of(&self, topic: &Topic, found: &Found) -> Vec<String> {
        let name = &topic.name;
        let number = |key: &str| found.number(key);
        let replicas = usize::try_from(found.replication).ok();
        let mut weaknesses = settings_weaknesses(name, replicas, number("min.insync.replicas"), number("retention.ms"));
        weaknesses.extend(batch_weakness(name, number("max.message.bytes"), self.batch_bytes));
        if self.is_listed {
            let differences = difference::differences(topic, Some(found));
            weaknesses.extend(
                differences
                    .iter()
                    .map(|one| format!("topic {name} {one} (kafka.topics_file)")),
            );
        }
        weaknesses
    }
}

/// Whether the cluster has this topic.
pub fn exists(metadata: &Metadata, name: &str) -> bool {
    let mut topics = metadata.topics().iter();
    topics.any(|topic| topic.name() == name && !topic.partitions().is_empty())
}

/// Pure: what these settings of one topic mean for the promise.
fn settings_weaknesses(
    name: &str,
    replicas: Option<usize>,
    min_insync: Option<i64>,
    retention_ms: Option<i64>,
) -> Vec<String> {
    let mut weaknesses = Vec::new();
    match (replicas, min_insync) {
        (Some(1), _) => {
            weaknesses.push(format!("topic {name} has one replica: readings are lost with that broker's disk"));
        }
        (Some(replicas), Some(1)) => weaknesses.push(format!(
            "topic {name} has min.insync.replicas=1: acks=all may mean one of its {replicas} replicas; set 2"
        )),
        (Some(replicas), Some(min)) if min >= replicas as i64 => weaknesses.push(format!(
            "topic {name} has min.insync.replicas={min} of {replicas} replicas: one unavailable broker makes it refuse readings"
        )),
        _ => {}
    }
    if let Some(retention) = retention_ms.filter(|&ms| ms >= 0 && (ms as u128) < RETENTION_ADVISED.as_millis()) {
        weaknesses.push(format!(
            "topic {name} keeps readings for {} h only",
            retention / 3_600_000
        ));
    }
    weaknesses
}

/// Pure: whether the topic refuses batches that the producer makes, with all readings in them.
fn batch_weakness(name: &str, message_bytes_max: Option<i64>, batch_bytes: u64) -> Option<String> {
    let largest = message_bytes_max.and_then(|bytes| u64::try_from(bytes).ok())?;
    (largest < batch_bytes).then(|| {
        format!(
            "topic {name} has max.message.bytes={largest}: it refuses batches of readings up to {batch_bytes} bytes; \
             set kafka.batch_bytes lower"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_weaken_the_promise_are_named() {
        let check = |replicas, min_insync, retention_ms, expected: &[&str]| {
            let found = settings_weaknesses("city.x", Some(replicas), Some(min_insync), Some(retention_ms));
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.contains(expected), "{found}");
            }
        };
        let week = 7 * 24 * 3_600_000;
        check(3, 2, week, &[]);
        check(3, 2, -1, &[]);
        check(1, 1, week, &["one replica"]);
        check(3, 1, week, &["min.insync.replicas=1"]);
        check(3, 3, week, &["one unavailable broker"]);
        check(3, 1, 3_600_000, &["min.insync.replicas=1", "1 h only"]);
        let batches = |largest| batch_weakness("city.x", largest, 1_000_000);
        assert_eq!((batches(None), batches(Some(1_048_588))), (None, None));
        assert!(batches(Some(1000)).unwrap().contains("set kafka.batch_bytes lower"));
    }
}
