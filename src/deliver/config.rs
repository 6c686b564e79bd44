//! The `[kafka]` section, and its translation into librdkafka's properties.
//!
//! What the promise rests on (`acks=all`, idempotence, the partitioner) is not configurable; `kafka.properties` passes
//! any other librdkafka setting through (TLS, SASL, client.id …), `kafka.properties_files` those that are kept in files.
//! No value of a property is ever shown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use serde::{Deserialize, Serialize};

use crate::operate::mistake::Mistakes;
use crate::operate::secret::{self, Secret};
use crate::operate::spelling;
use crate::topics::topic::is_name;
use crate::topics::{List, Topic};

/// The `[kafka]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Some brokers of the cluster: `host:port`, with commas between.
    pub bootstrap_servers: String,
    /// Readings of a kind go to the topic `<topic_prefix><kind>`.
    pub topic_prefix: String,
    /// Topic of rejected messages.
    pub dead_letter_topic: String,
    /// Create topics that are missing; until a topic exists, its readings are spooled (without a spool: answered busy).
    pub create_topics: bool,
    /// The list of topics (`deploy/kafka/topics.toml`): how many partitions, replicas and what settings each has. It wins over
    /// `partitions` and `replication_factor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topics_file: Option<PathBuf>,
    /// What is in it.
    #[serde(skip)]
    pub topics: Option<Arc<List>>,
    /// Partitions of a topic created here; each one in use costs a request per `linger`.
    pub partitions: i32,
    /// Replicas of a topic created here; -1 is the cluster's default.
    pub replication_factor: i32,
    /// Time after which a batch is sent.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub linger: Duration,
    /// Size at which a batch is sent without waiting longer.
    pub batch_bytes: ByteSize,
    /// Number of readings at which a batch is sent without waiting longer.
    pub batch_readings: u32,
    /// Compression of batches.
    pub compression: Compression,
    /// Time after which a reading that Kafka has not confirmed is written to the spool as well, and answered.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub spool_after: Duration,
    /// Time after which a reading that is neither in Kafka nor in the spool is answered busy.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub delivery_timeout: Duration,
    /// Maximum readings in the producer's queue; further ones are spooled (without a spool: answered busy).
    pub queue_readings: u32,
    /// Maximum bytes in the producer's queue; further readings likewise.
    pub queue_bytes: ByteSize,
    /// How often Kafka is probed while no reading is confirmed.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub probe_interval: Duration,
    /// How often librdkafka's statistics become metrics; a producer that has lost all brokers is replaced within twice
    /// this time.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub statistics_interval: Duration,
    /// Any other librdkafka property, e.g. "security.protocol" = "ssl".
    #[serde(deserialize_with = "secret::table")]
    pub properties: BTreeMap<String, Secret>,
    /// Properties whose values are in files, e.g. "sasl.password" = "/run/secrets/kafka-password"; empty once they are read.
    pub properties_files: BTreeMap<String, PathBuf>,
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// Properties that are often set, to find what a misspelt one was meant to be.
const COMMON: [&str; 24] = [
    "client.id",
    "client.rack",
    "debug",
    "security.protocol",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.token.endpoint.url",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl.endpoint.identification.algorithm",
    "message.max.bytes",
];

/// What is public of a property's value: where something is, one word of few, a figure, or a name that Kafka is told.
/// Anything else may be a secret.
const PUBLIC: [&str; 12] = [
    ".location",
    ".protocol",
    ".mechanism",
    ".mechanisms",
    "debug",
    ".ms",
    ".bytes",
    ".max",
    ".enable",
    "retries",
    "client.id",
    "client.rack",
];

/// librdkafka quotes the rest of a value behind it, such as what is left of `sasl.oauthbearer.config`.
const REST_OF_A_VALUE: &str = "beginning at:";

/// What `librdkafka` says, without what the properties keep secret.
#[derive(Clone, Debug, Default)]
pub(super) struct Mask(Arc<[Secret]>);

/// Two names of the same property, of which `kafka.properties` may hold one.
const ALIASES: [(&str, &str); 5] = [
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("retries", "message.send.max.retries"),
    ("sasl.mechanism", "sasl.mechanisms"),
    (
        "sasl.oauthbearer.client.credentials.client.id",
        "sasl.oauthbearer.client.id",
    ),
    (
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.client.secret",
    ),
];

/// Properties that `kafka.properties` may not set, and why.
const RESERVED: [(&str, &str); 20] = [
    ("acks", "the promise rests on acks=all"),
    ("request.required.acks", "the promise rests on acks=all"),
    ("enable.idempotence", "the promise rests on the idempotent producer"),
    (
        "delivery.report.only.error",
        "every answer rests on its delivery report",
    ),
    (
        "queuing.strategy",
        "a device's order rests on the queue being first in, first out",
    ),
    ("queue.buffering.max.messages", "set kafka.queue_readings"),
    ("queue.buffering.max.kbytes", "set kafka.queue_bytes"),
    ("statistics.interval.ms", "set kafka.statistics_interval"),
    ("partitioner", "a device's order rests on Java's murmur2 partitioner"),
    ("transactional.id", "readings are not produced in transactions"),
    ("bootstrap.servers", "set kafka.bootstrap_servers"),
    ("metadata.broker.list", "set kafka.bootstrap_servers"),
    ("linger.ms", "set kafka.linger"),
    ("queue.buffering.max.ms", "set kafka.linger"),
    ("batch.size", "set kafka.batch_bytes"),
    ("batch.num.messages", "set kafka.batch_readings"),
    ("compression.type", "set kafka.compression"),
    ("compression.codec", "set kafka.compression"),
    ("message.timeout.ms", "set kafka.delivery_timeout"),
    ("delivery.timeout.ms", "set kafka.delivery_timeout"),
];

impl Default for Config {
    fn default() -> Self {
        Config {
            bootstrap_servers: "127.0.0.1:9092".into(),
            topic_prefix: "city.".into(),
            dead_letter_topic: "city.dead-letter".into(),
            create_topics: false,
            topics_file: None,
            topics: None,
            partitions: 3,
            replication_factor: -1,
            linger: Duration::from_millis(5),
            batch_bytes: ByteSize::mib(1),
            batch_readings: 10_000,
            compression: Compression::Lz4,
            spool_after: Duration::from_millis(250),
            delivery_timeout: Duration::from_secs(5),
            queue_readings: 500_000,
            queue_bytes: ByteSize::mib(256),
            probe_interval: Duration::from_secs(1),
            statistics_interval: Duration::from_secs(5),
            properties: BTreeMap::new(),
            properties_files: BTreeMap::new(),
        }
    }
}

impl Config {
    /// What is wrong with this table.
    pub fn mistakes(&self) -> Mistakes {
        let mut mistakes = Mistakes::default();
        let mut require = |good: bool, path: &str, text: &str| mistakes.require(good, path, text);
        require(
            !self.bootstrap_servers.trim().is_empty(),
            "kafka.bootstrap_servers",
            "is empty",
        );
        require(
            is_name(&self.dead_letter_topic),
            "kafka.dead_letter_topic",
            "is not a Kafka topic name",
        );
        require(
            self.topic_prefix.is_empty() || is_name(&self.topic_prefix),
            "kafka.topic_prefix",
            "may hold only letters, digits, '.', '_' and '-'",
        );
        require(self.partitions > 0, "kafka.partitions", "must be at least 1");
        require(
            self.replication_factor == -1 || self.replication_factor > 0,
            "kafka.replication_factor",
            "must be at least 1, or -1 for the cluster's default",
        );
        require(
            self.delivery_timeout > self.linger && self.delivery_timeout >= Duration::from_millis(100),
            "kafka.delivery_timeout",
            "must be at least 100ms and longer than kafka.linger",
        );
        require(
            !self.spool_after.is_zero() && self.spool_after < self.delivery_timeout,
            "kafka.spool_after",
            "must be above 0 and below kafka.delivery_timeout",
        );
        require(self.queue_readings > 0, "kafka.queue_readings", "must be at least 1");
        require(
            self.queue_bytes >= ByteSize::kib(1) && self.queue_bytes <= ByteSize::gib(1024),
            "kafka.queue_bytes",
            "must be between 1 KiB and 1 TiB",
        );
        require(
            (ByteSize::kib(1)..=ByteSize::mib(1024)).contains(&self.batch_bytes),
            "kafka.batch_bytes",
            "must be between 1 KiB and 1 GiB",
        );
        require(
            (1..=1_000_000).contains(&self.batch_readings),
            "kafka.batch_readings",
            "must be between 1 and 1000000",
        );
        require(
            self.probe_interval >= Duration::from_millis(10),
            "kafka.probe_interval",
            "must be at least 10ms",
        );
        require(
            (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.statistics_interval),
            "kafka.statistics_interval",
            "must be between 10ms and 1m; a producer that knows no broker any more is found by its \
             statistics",
        );
        let properties = self.properties.iter();
        for (key, value) in properties {
            if let Some(why) = refusal(key, value) {
                mistakes.push(format!("kafka.properties.\"{key}\""), why);
            }
        }
        let is_set = |key: &str| self.properties.contains_key(key);
        let both = ALIASES.iter().filter(|(one, other)| is_set(one) && is_set(other));
        for (one, other) in both {
            let text = format!("is another name of \"{other}\", which is set, too; keep one of them");
            mistakes.push(format!("kafka.properties.\"{one}\""), text);
        }
        mistakes
    }

    /// Reads the properties that are in files; what is wrong with them, each mistake starting with the field's name.
    pub fn read_files(&mut self) -> Mistakes {
        let mut mistakes = Mistakes::default();
        for (key, path) in std::mem::take(&mut self.properties_files) {
            let read = match self.properties.contains_key(&key) {
                true => Err("is set by kafka.properties, too; keep one of them".to_owned()),
                false => Secret::read(&path).map_err(|error| error.to_string()),
            };
            match read {
                Ok(value) => drop(self.properties.insert(key, value)),
                Err(why) => mistakes.push(format!("kafka.properties_files.\"{key}\""), why),
            }
        }
        mistakes
    }

    /// What is planned for a topic: by the list, if there is one.
    pub fn topic(&self, name: &str) -> Topic {
        match &self.topics {
            Some(list) => list.topic(name),
            None => Topic::plain(name, self.partitions, self.replication_factor),
        }
    }

    /// Hides what may be secret of the properties' values.
    pub(super) fn mask(&self) -> Mask {
        let may_be_secret = |key: &String| !PUBLIC.iter().any(|end| key.ends_with(end));
        let secrets = self.properties.iter().filter(|(key, _)| may_be_secret(key));
        Mask(secrets.map(|(_, value)| value.clone()).collect())
    }

    /// Largest record that librdkafka accepts (its default, unless a property says otherwise).
    pub fn message_bytes_max(&self) -> ByteSize {
        let set = self
            .properties
            .get("message.max.bytes")
            .and_then(|text| text.reveal().parse().ok());
        ByteSize::b(set.unwrap_or(1_000_000))
    }

    /// Everything a client of the same cluster needs: addresses and what `kafka.properties` adds.
    pub(super) fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("client.id", "citygate");
        for (key, value) in &self.properties {
            client.set(key, value.reveal());
        }
        client.set("bootstrap.servers", &self.bootstrap_servers);
        // Whatever is logged of it: why a connection ends is told at this level. What the operator asks for, is told at all.
        client.set_log_level(match self.properties.contains_key("debug") {
            true => RDKafkaLogLevel::Debug,
            false => RDKafkaLogLevel::Info,
        });
        client
    }

    /// The producer's properties. With a spool it holds a record until Kafka confirms it (librdkafka: 0 is for ever): to
    /// give one up while a later one passes would change a device's order, and make a duplicate of the one given up.
    pub fn producer(&self, spooling: bool) -> ClientConfig {
        let mut client = self.client();
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // Java's default partitioner: a Java producer puts the same device onto the same partition.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", self.linger.as_millis().to_string())
            .set("batch.size", self.batch_bytes.as_u64().to_string())
            .set("batch.num.messages", self.batch_readings.to_string())
            .set("compression.type", self.compression.name())
            .set(
                "message.timeout.ms",
                if spooling {
                    "0".into()
                } else {
                    self.delivery_timeout.as_millis().to_string()
                },
            )
            .set("queue.buffering.max.messages", self.queue_readings.to_string())
            .set(
                "queue.buffering.max.kbytes",
                (self.queue_bytes.as_u64() / 1024).to_string(),
            )
            .set(
                "statistics.interval.ms",
                self.statistics_interval.as_millis().to_string(),
            );
        // Come back soon after an outage: devices wait. An operator's own value wins.
        for (key, value) in [
            ("reconnect.backoff.max.ms", "1000"),
            ("socket.keepalive.enable", "true"),
            // A deleted topic is no reason to wait for half a minute: its readings go to the spool, and are retried.
            ("topic.metadata.propagation.max.ms", "2000"),
        ] {
            if !self.properties.contains_key(key) {
                client.set(key, value);
            }
        }
        client
    }
}

impl Mask {
    pub(super) fn hide(&self, text: &str) -> String {
        let text = match text.split_once(REST_OF_A_VALUE) {
            Some((before, _)) => format!("{before}{REST_OF_A_VALUE} …"),
            None => text.to_owned(),
        };
        self.0.iter().fold(text, |text, secret| secret.hide_in(&text))
    }
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// Why a property cannot be set; says nothing of its value.
fn refusal(key: &str, value: &Secret) -> Option<String> {
    if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| *reserved == key) {
        return Some(format!("cannot be set here; {why}"));
    }
    let mut alone = ClientConfig::new();
    alone.set(key, value.reveal());
    match alone.create_native_config().err()? {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..) => Some(format!(
            "librdkafka has no such property{}",
            spelling::hint(key, COMMON)
        )),
        // A part of it could be quoted, and end up outside of the quotes.
        _ if value.reveal().contains('"') => Some("librdkafka does not accept its value".to_owned()),
        KafkaError::ClientConfig(_, description, ..) => {
            let why = without_quotes(&value.hide_in(description.trim_end()), key);
            Some(format!("librdkafka does not accept its value: {why}"))
        }
        _ => Some("librdkafka does not accept its value".to_owned()),
    }
}

/// librdkafka quotes values, or parts of them, and the property's name.
fn without_quotes(description: &str, key: &str) -> String {
    let pieces = description.split('"').enumerate().map(|(index, piece)| {
        let is_value = index % 2 == 1 && piece != key;
        if is_value { "…" } else { piece }
    });
    pieces.collect::<Vec<_>>().join("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_name_the_field() {
        let check = |change: fn(&mut Config), expected: &str| {
            let mut config = Config::default();
            change(&mut config);
            let mistakes = config.mistakes().to_string();
            assert!(mistakes.starts_with(expected), "{mistakes}");
        };
        assert_eq!(Config::default().mistakes().to_string(), "");
        check(
            |config| config.bootstrap_servers = " ".into(),
            "kafka.bootstrap_servers:",
        );
        check(
            |config| config.dead_letter_topic = "a b".into(),
            "kafka.dead_letter_topic:",
        );
        check(
            |config| config.delivery_timeout = Duration::from_millis(3),
            "kafka.delivery_timeout:",
        );
        check(|config| config.replication_factor = 0, "kafka.replication_factor:");
        check(
            |config| config.statistics_interval = Duration::ZERO,
            "kafka.statistics_interval:",
        );
        check(
            |config| drop(config.properties.insert("acks".into(), "1".into())),
            "kafka.properties.\"acks\": cannot be set here; the promise rests on acks=all",
        );
    }

    #[test]
    fn properties_are_refused_without_their_values() {
        let check = |key: &str, value: &str, expected: &str| {
            let mut config = Config::default();
            config.properties.insert(key.into(), value.into());
            assert_eq!(config.mistakes().to_string(), expected);
        };
        check("sasl.password", "hunter2", "");
        check("socket.timeout.ms", "30000", "");
        check(
            "sasl.pasword",
            "hunter2",
            "kafka.properties.\"sasl.pasword\": librdkafka has no such property; did you mean sasl.password?",
        );
        check(
            "made.up",
            "hunter2",
            "kafka.properties.\"made.up\": librdkafka has no such property",
        );
        check(
            "security.protocol",
            "hunter2",
            "kafka.properties.\"security.protocol\": librdkafka does not accept its value: \
             Invalid value \"…\" for configuration property \"security.protocol\"",
        );
        for value in [r#"x"hunter2"#, r#"x"hunter2"y"#] {
            for key in ["security.protocol", "debug"] {
                let expected = format!("kafka.properties.\"{key}\": librdkafka does not accept its value");
                check(key, value, &expected);
            }
        }
        check(
            "socket.timeout.ms",
            "5",
            "kafka.properties.\"socket.timeout.ms\": librdkafka does not accept its value: \
             Configuration property \"socket.timeout.ms\" value (hidden) is outside allowed range 10..300000",
        );
    }

    #[test]
    fn a_property_is_not_set_under_two_names() {
        for (one, other) in ALIASES {
            let mut config = Config::default();
            config.properties.insert(one.into(), "1".into());
            let alone = config.mistakes().to_string();
            config.properties.insert(other.into(), "2".into());
            let expected = format!(
                "kafka.properties.\"{one}\": is another name of \"{other}\", which is set, too; keep one of them"
            );
            let both = config.mistakes().to_string();
            assert!(!alone.lines().any(|line| line == expected), "{alone}");
            assert!(both.lines().any(|line| line == expected), "{both}");
        }
    }

    #[test]
    fn what_librdkafka_says_is_shown_without_secrets() {
        let mut config = Config::default();
        for (key, value) in [
            ("sasl.password", "hunter2"),
            ("sasl.oauthbearer.config", "scope=x swordfish"),
            ("socket.timeout.ms", "9092"),
        ] {
            config.properties.insert(key.into(), value.into());
        }
        let check = |text: &str, expected: &str| assert_eq!(config.mask().hide(text), expected);
        check("login as hunter2 failed", "login as (hidden) failed");
        check(
            "Unrecognized sasl.oauthbearer.config beginning at: swordfish",
            "Unrecognized sasl.oauthbearer.config beginning at: …",
        );
        check("a:9092/1: Disconnected", "a:9092/1: Disconnected");
    }

    #[test]
    fn properties_reach_librdkafka_but_do_not_override_the_promise() {
        let mut config = Config::default();
        config.properties.insert("acks".into(), "0".into());
        config.properties.insert("client.id".into(), "north".into());
        let producer = config.producer(false);
        assert_eq!(producer.get("acks"), Some("all"));
        assert_eq!(producer.get("enable.idempotence"), Some("true"));
        assert_eq!(producer.get("client.id"), Some("north"));
    }
}
