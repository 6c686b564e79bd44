//! Reads along in Kafka while a fleet runs, and tells what it found.
//!
//! A thread of its own consumes every partition of the kinds' topics and of the dead-letter topic, reads the device from
//! the record's key and the sequence number from its Avro value, and keeps only numbers. It reads along, and not
//! afterwards, because the broker embedded in the demo keeps only a few megabytes per partition. It trusts nothing of
//! the gateway: the schemas are read from their files, and a value that cannot be read with them to its last byte counts as unreadable.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use rdkafka::Message;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Deserialize;

use crate::devices::Kind;
use crate::ledger::{Found, Ledger};

/// How long one question to Kafka (metadata, watermarks) may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the consumer waits for a record before it looks whether it is to finish.
const POLL: Duration = Duration::from_millis(50);

/// How often the end of the partitions is looked up while something is still missing.
const RECHECK_INTERVAL: Duration = Duration::from_millis(250);

/// How long nothing may come until a new consumer goes on where the old one was: after an outage librdkafka's has been
/// seen to stay silent for good, although it knows its brokers. Each one that hears nothing either is given twice as
/// long, up to the second figure: Kafka may be unavailable, or the fleet idle.
const SILENCE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Tells of a consumer that can reach Kafka nowhere any more: metadata without brokers, as a fenced broker gives it, makes
/// librdkafka 2.11 to 2.15 forget all of them.
#[derive(Clone, Debug, Default)]
struct BrokerWatch {
    knows_no_broker: Arc<AtomicBool>,
}

type Client = BaseConsumer<BrokerWatch>;

/// Where in each partition to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With the oldest record that still exists.
    Earliest,
    /// With what comes after the start: right for topics that hold years of readings.
    Now,
}

/// What to follow.
#[derive(Clone, Debug)]
pub struct TopicReaderConfig {
    /// Kafka's `bootstrap.servers`.
    pub bootstrap: String,
    /// Before the kind: `city.` makes `city.traffic`.
    pub topic_prefix: String,
    /// Those whose topics are read, each with its schema.
    pub kinds: Vec<Kind>,
    pub begin: Begin,
    /// Further librdkafka settings, such as those of TLS and SASL.
    pub properties: Vec<(String, String)>,
}

/// A thread that reads along.
#[derive(Debug)]
pub struct TopicReader {
    thread: JoinHandle<Found>,
    finish: mpsc::Sender<Finish>,
    records: Arc<AtomicU64>,
    distinct: Arc<AtomicU64>,
    ages: Arc<Mutex<Option<(i64, i64)>>>,
}

/// The order to come to an end.
#[derive(Debug)]
struct Finish {
    ledger: Ledger,
    deadline: Instant,
}

/// A topic, and how its values are read.
#[derive(Debug)]
struct Topic {
    name: String,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Avro of this schema.
    Readings {
        schema: Box<Schema>,
        /// Readings say their number; else they are only counted.
        numbered: bool,
    },
    /// The bytes that a device sent.
    DeadLetters,
}

/// One partition and the offset that is to be read next.
#[derive(Debug)]
struct Position {
    topic: usize,
    partition: i32,
    next: i64,
}

/// The state of the thread.
struct Reader<'a> {
    consumer: Client,
    /// For another one.
    client: ClientConfig,
    /// When a record came, or a new consumer was made.
    last_record_at: Instant,
    /// How long this consumer may hear nothing.
    silence_max: Duration,
    /// Asks where partitions end. On the consumer's own connection a question would wait behind a fetch.
    query_client: Client,
    topics: &'a [Topic],
    positions: Vec<Position>,
    found: Found,
    records: Arc<AtomicU64>,
    /// Without the duplicates.
    distinct: Arc<AtomicU64>,
    /// Seconds, least and greatest.
    ages: Arc<Mutex<Option<(i64, i64)>>>,
}

// === impl TopicReaderConfig ===

impl TopicReaderConfig {
    pub fn new(bootstrap: impl Into<String>, topic_prefix: impl Into<String>) -> Self {
        TopicReaderConfig {
            bootstrap: bootstrap.into(),
            topic_prefix: topic_prefix.into(),
            kinds: Kind::PHYSICAL.into(),
            begin: Begin::Now,
            properties: Vec::new(),
        }
    }

    /// The topics of the kinds, with their schemas, and the one of the dead letters.
    fn topics(&self) -> anyhow::Result<Vec<Topic>> {
        let mut topics = Vec::new();
        for kind in &self.kinds {
            let content = Content::parse(kind.schema(), kind.is_numbered())
                .with_context(|| format!("the schema of {kind} is not Avro"))?;
            topics.push(Topic {
                name: format!("{}{kind}", self.topic_prefix),
                content,
            });
        }
        topics.push(Topic {
            name: format!("{}dead-letter", self.topic_prefix),
            content: Content::DeadLetters,
        });
        Ok(topics)
    }
}

// === impl Content ===

impl Content {
    fn parse(schema: &str, numbered: bool) -> anyhow::Result<Content> {
        let schema = Schema::parse_str(schema)?;
        Ok(Content::Readings {
            schema: Box::new(schema),
            numbered,
        })
    }
}

// === impl TopicReader ===

impl TopicReader {
    /// Connects, finds the partitions and begins to read. Blocks for as long as that takes (at most some 10 s a topic).
    ///
    /// Fails if a schema cannot be read, if Kafka does not answer, or if the topic of a kind does not exist.
    pub fn start(config: &TopicReaderConfig) -> anyhow::Result<TopicReader> {
        TopicReader::start_on(config, config.topics()?)
    }

    fn start_on(config: &TopicReaderConfig, topics: Vec<Topic>) -> anyhow::Result<TopicReader> {
        let client = client_config(config);
        let create = || create(&client).context("the Kafka settings are not valid");
        let (consumer, query_client) = (create()?, create()?);
        let positions = positions(&query_client, &topics, config)?;
        assign(&consumer, &topics, &positions)?;
        let records = Arc::new(AtomicU64::new(0));
        let (finish, orders) = mpsc::channel();
        let distinct = Arc::new(AtomicU64::new(0));
        let ages = Arc::default();
        let counters = (Arc::clone(&records), Arc::clone(&distinct), Arc::clone(&ages));
        let read = move || {
            let reader = Reader {
                consumer,
                client,
                last_record_at: Instant::now(),
                silence_max: SILENCE.0,
                query_client,
                topics: &topics,
                positions,
                found: Found::default(),
                records: counters.0,
                distinct: counters.1,
                ages: counters.2,
            };
            reader.run(&orders)
        };
        let thread = std::thread::Builder::new()
            .name("topic-reader".to_owned())
            .spawn(read)?;
        Ok(TopicReader {
            thread,
            finish,
            records,
            distinct,
            ages,
        })
    }

    /// Readings found so far, for a live line.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// The same without duplicates.
    pub fn distinct(&self) -> u64 {
        self.distinct.load(Ordering::Relaxed)
    }

    /// How old records were when they were read, by their own time: the least and the greatest age in seconds. Below 0
    /// where the clock that dated them was ahead of this one.
    pub fn ages(&self) -> Option<(i64, i64)> {
        *self.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads to the end, and on until everything that `ledger` says was acknowledged is found or `timeout` is over: a
    /// reading that was safe on the gateway's disk reaches Kafka later than its acknowledgement reached the device.
    pub async fn finish(self, ledger: &Ledger, timeout: Duration) -> anyhow::Result<Found> {
        let order = Finish {
            ledger: ledger.clone(),
            deadline: Instant::now() + timeout,
        };
        // If the thread is gone, joining it says why.
        self.finish.send(order).ok();
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        joined.map_err(|_| anyhow::anyhow!("the thread that reads along in Kafka panicked"))
    }
}

fn client_config(config: &TopicReaderConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.bootstrap)
        // librdkafka wants a name, but no group is joined and no offset committed.
        .set("group.id", "device-simulators")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .set("fetch.wait.max.ms", "100")
        .set("statistics.interval.ms", "1000")
        // Back soon after an outage: what is not read counts as missing.
        .set("reconnect.backoff.max.ms", "500");
    for (key, value) in &config.properties {
        client.set(key, value);
    }
    client
}

fn create(client: &ClientConfig) -> KafkaResult<Client> {
    client.create_with_context(BrokerWatch::default())
}

/// Every partition of every topic, with the offset to begin at.
fn positions(consumer: &Client, topics: &[Topic], config: &TopicReaderConfig) -> anyhow::Result<Vec<Position>> {
    let mut positions = Vec::new();
    for (topic, Topic { name, content }) in topics.iter().enumerate() {
        let metadata = consumer
            .fetch_metadata(Some(name), QUERY_TIMEOUT)
            .with_context(|| format!("Kafka at {} does not answer", config.bootstrap))?;
        let partitions = metadata
            .topics()
            .first()
            .map(|topic| topic.partitions())
            .unwrap_or_default();
        if partitions.is_empty() && matches!(content, Content::Readings { .. }) {
            anyhow::bail!(
                "Kafka at {} has no topic {name}; the gateway makes it if schemas.kinds lists the kind and kafka.create_topics is on",
                config.bootstrap
            );
        }
        for partition in partitions.iter().map(|partition| partition.id()) {
            let (low, high) = watermarks(consumer, name, partition)
                .with_context(|| format!("cannot find the ends of {name}, partition {partition}"))?;
            let next = match config.begin {
                Begin::Earliest => low,
                Begin::Now => high,
            };
            positions.push(Position { topic, partition, next });
        }
    }
    Ok(positions)
}

/// Where a partition begins and ends. One that was made a moment ago has no leader yet, which is waited for.
fn watermarks(consumer: &Client, topic: &str, partition: i32) -> KafkaResult<(i64, i64)> {
    let deadline = Instant::now() + QUERY_TIMEOUT;
    loop {
        match consumer.fetch_watermarks(topic, partition, QUERY_TIMEOUT) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(RECHECK_INTERVAL),
            result => return result,
        }
    }
}

fn assign(consumer: &Client, topics: &[Topic], positions: &[Position]) -> anyhow::Result<()> {
    let mut list = TopicPartitionList::new();
    for position in positions {
        if let Some(topic) = topics.get(position.topic) {
            list.add_partition_offset(&topic.name, position.partition, Offset::Offset(position.next))?;
        }
    }
    consumer.assign(&list).context("cannot read the topics")
}

// === impl Reader ===

impl Reader<'_> {
    fn run(mut self, orders: &mpsc::Receiver<Finish>) -> Found {
        let topics = self.topics;
        let readers: Vec<Option<GenericDatumReader<'_>>> = topics.iter().map(Topic::reader).collect();
        let mut finish: Option<Finish> = None;
        let mut look_at = Instant::now();
        loop {
            match finish {
                None => match orders.try_recv() {
                    Ok(order) => finish = Some(order),
                    // The result is not wanted any more.
                    Err(mpsc::TryRecvError::Disconnected) => return self.found,
                    Err(mpsc::TryRecvError::Empty) => {}
                },
                Some(ref order) if Instant::now() >= order.deadline => return self.found,
                Some(ref order) if Instant::now() >= look_at => {
                    self.found.complete = self.is_at_end();
                    if self.found.complete && order.ledger.missing(&self.found) == 0 {
                        return self.found;
                    }
                    look_at = Instant::now() + RECHECK_INTERVAL;
                }
                Some(_) => {}
            }
            if self.consumer.context().knows_no_broker.load(Ordering::Relaxed) {
                self.replace_consumer();
            } else if self.last_record_at.elapsed() > self.silence_max {
                self.silence_max = (self.silence_max * 2).min(SILENCE.1);
                self.replace_consumer();
            }
            self.read_next(&readers);
        }
    }

    fn replace_consumer(&mut self) {
        self.last_record_at = Instant::now();
        let another = || -> anyhow::Result<(Client, Client)> {
            let consumer = create(&self.client)?;
            assign(&consumer, self.topics, &self.positions)?;
            Ok((consumer, create(&self.client)?))
        };
        match another() {
            Ok(pair) => (self.consumer, self.query_client) = pair,
            Err(error) => tracing::warn!(%error, "no new kafka consumer"),
        }
    }

    fn read_next(&mut self, readers: &[Option<GenericDatumReader<'_>>]) {
        let topics = self.topics;
        let message = match self.consumer.poll(POLL) {
            None => return,
            Some(Ok(message)) => message,
            // librdkafka tries again by itself; what it cannot read will be missing at the end.
            Some(Err(error)) => {
                tracing::debug!(%error, "kafka consumer");
                return;
            }
        };
        (self.last_record_at, self.silence_max) = (Instant::now(), SILENCE.0);
        let Some(index) = topics.iter().position(|topic| topic.name == message.topic()) else {
            return;
        };
        let at = (message.partition(), message.offset());
        for position in &mut self.positions {
            if (position.topic, position.partition) == (index, at.0) {
                // A consumer that lost its place begins anew; what it reads twice is stored once.
                if at.1 < position.next {
                    return;
                }
                position.next = at.1 + 1;
            }
        }
        let device = message.key().and_then(|key| std::str::from_utf8(key).ok());
        let payload = message.payload().unwrap_or_default();
        let reader = readers.get(index).and_then(Option::as_ref);
        let Some(topic) = topics.get(index) else { return };
        match (&topic.content, device) {
            (Content::DeadLetters, device) => {
                if let Some(reason) = reason(&message) {
                    self.found.dead_letter_reason(reason);
                }
                if let Some(device) = device {
                    self.found.dead_letter(device, sequence_of_json(payload));
                }
            }
            (Content::Readings { numbered, .. }, device) => {
                self.records.fetch_add(1, Ordering::Relaxed);
                if let Some(dated_ms) = message.timestamp().to_millis() {
                    note_age(&self.ages, dated_ms);
                }
                let read = device
                    .ok_or_else(|| "the key is not a device id".to_owned())
                    .and_then(|device| {
                        let reader = reader.ok_or_else(|| "the schema cannot be used".to_owned())?;
                        Ok((device, sequence_of_avro(payload, reader)?.filter(|_| *numbered)))
                    });
                match read {
                    Ok((device, Some(sequence))) => {
                        if self.found.record(device, sequence) {
                            self.distinct.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    Ok((device, None)) if !numbered => {
                        self.found.unnumbered_record(device);
                        self.distinct.fetch_add(1, Ordering::Relaxed);
                    }
                    // Not of this fleet, whose devices number their readings: another sender.
                    Ok((_, None)) => {}
                    Err(why) => {
                        let place = format!("{}, partition {}, offset {}", topic.name, at.0, at.1);
                        self.found.unreadable(|| format!("{place}: {why}"));
                    }
                }
            }
        }
    }

    /// Whether every partition is read up to where it ends now.
    fn is_at_end(&self) -> bool {
        self.positions.iter().all(|position| {
            let Some(topic) = self.topics.get(position.topic) else {
                return true;
            };
            let ends = self
                .query_client
                .fetch_watermarks(&topic.name, position.partition, QUERY_TIMEOUT);
            ends.is_ok_and(|(_, high)| position.next >= high)
        })
    }
}

// === impl BrokerWatch ===

impl ClientContext for BrokerWatch {
    fn stats(&self, statistics: Statistics) {
        let knows_no_broker = statistics.brokers.is_empty();
        self.knows_no_broker.store(knows_no_broker, Ordering::Relaxed);
    }
}

impl ConsumerContext for BrokerWatch {}

// === impl Topic ===

impl Topic {
    fn reader(&self) -> Option<GenericDatumReader<'_>> {
        match &self.content {
            Content::Readings { schema, .. } => GenericDatumReader::builder(schema).build().ok(),
            Content::DeadLetters => None,
        }
    }
}

fn note_age(ages: &Mutex<Option<(i64, i64)>>, dated_ms: i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = (now.as_millis() as i64 - dated_ms) / 1000;
    let mut ages = ages.lock().unwrap_or_else(PoisonError::into_inner);
    let (least, greatest) = ages.unwrap_or((age, age));
    *ages = Some((least.min(age), greatest.max(age)));
}

/// The sequence number in a value: Avro single-object encoding, or Confluent's wire format.
fn sequence_of_avro(value: &[u8], reader: &GenericDatumReader<'_>) -> Result<Option<u64>, String> {
    let mut datum = match value {
        [0xC3, 0x01, _, _, _, _, _, _, _, _, datum @ ..] => datum,
        [0x00, _, _, _, _, datum @ ..] => datum,
        _ => return Err("the value is neither a single Avro object nor Confluent's format".to_owned()),
    };
    let reading = reader
        .read_value(&mut datum)
        .map_err(|error| format!("the value is not of its schema: {error}"))?;
    if !datum.is_empty() {
        return Err(format!("{} bytes follow the value", datum.len()));
    }
    let Value::Record(fields) = reading else {
        return Err("the value is not a record".to_owned());
    };
    let sequence = fields.into_iter().find(|(name, _)| name == "sequence");
    let number = match sequence.map(|(_, value)| value) {
        Some(Value::Union(_, value)) => number(&value),
        Some(value) => number(&value),
        None => None,
    };
    Ok(number)
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Long(number) => u64::try_from(*number).ok(),
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// The gateway's reason for rejecting a message.
fn reason<'m>(message: &'m BorrowedMessage<'_>) -> Option<&'m str> {
    let mut headers = message.headers()?.iter();
    let header = headers.find(|header| header.key == "reason")?;
    header.value.and_then(|value| std::str::from_utf8(value).ok())
}

fn sequence_of_json(value: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Numbered {
        sequence: u64,
    }
    let numbered: Numbered = serde_json::from_slice(value).ok()?;
    Some(numbered.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Account;
    use crate::uplinks::Protocol;
    use apache_avro::GenericSingleObjectWriter;
    use apache_avro::types::Record;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    const SCHEMA: &str = r#"{"type": "record", "name": "Traffic", "namespace": "city", "fields": [
        {"name": "device", "type": "string"},
        {"name": "sequence", "type": ["null", "long"], "default": null, "minimum": 0},
        {"name": "speed_kmh", "type": ["null", {"type": "double", "unit": "km/h", "sentinels": [255]}], "default": null}]}"#;

    fn encoded(sequence: Option<i64>) -> Vec<u8> {
        let schema = Schema::parse_str(SCHEMA).unwrap();
        let mut record = Record::new(&schema).unwrap();
        record.put("device", "loop-1");
        record.put("sequence", sequence);
        record.put("speed_kmh", Some(50.5));
        let mut bytes = Vec::new();
        let mut writer = GenericSingleObjectWriter::new_with_capacity(&schema, 64).unwrap();
        writer.write_value_ref(&record.into(), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_sequence_is_read_from_either_format() {
        let topic = Topic {
            name: "city.traffic".to_owned(),
            content: Content::parse(SCHEMA, true).unwrap(),
        };
        let reader = topic.reader().unwrap();
        let check = |value: &[u8], expected: Result<Option<u64>, &str>| {
            let is = sequence_of_avro(value, &reader);
            match expected {
                Ok(_) => assert_eq!(is, expected.map_err(str::to_owned)),
                Err(part) => assert!(is.as_ref().is_err_and(|error| error.contains(part)), "{is:?}"),
            }
        };
        let single = encoded(Some(42));
        check(&single, Ok(Some(42)));
        let confluent = [&[0, 0, 0, 0, 7][..], &single[10..]].concat();
        check(&confluent, Ok(Some(42)));
        check(&encoded(None), Ok(None));
        check(&encoded(Some(-1)), Ok(None));
        check(b"", Err("neither"));
        check(br#"{"sequence":1}"#, Err("neither"));
        check(&single[..single.len() - 1], Err("not of its schema"));
        check(&[&single[..], &[0][..]].concat(), Err("1 bytes follow"));
    }

    /// Sends values keyed by device, and waits until the broker has them.
    fn produce(bootstrap: &str, records: &[(&str, &str, Vec<u8>)]) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("linger.ms", "1")
            .create()
            .unwrap();
        for (topic, key, value) in records {
            producer
                .send(BaseRecord::to(topic).key(*key).payload(value))
                .map_err(|(error, _)| error)
                .unwrap();
        }
        producer.flush(Duration::from_secs(10)).unwrap();
    }

    fn topics() -> Vec<Topic> {
        vec![
            Topic {
                name: "city.traffic".to_owned(),
                content: Content::parse(SCHEMA, true).unwrap(),
            },
            Topic {
                name: "city.dead-letter".to_owned(),
                content: Content::DeadLetters,
            },
        ]
    }

    #[tokio::test]
    async fn planted_losses_and_duplicates_are_found() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("city.traffic", 3, 1).unwrap();
        cluster.create_topic("city.dead-letter", 1, 1).unwrap();
        let bootstrap = cluster.bootstrap_servers();
        let reading = |device, sequence| ("city.traffic", device, encoded(Some(sequence)));
        produce(&bootstrap, &[reading("loop-1", 1), reading("loop-1", 2)]);

        let mut config = TopicReaderConfig::new(&bootstrap, "city.");
        config.begin = Begin::Earliest;
        let topic_reader = TopicReader::start_on(&config, topics()).unwrap();
        produce(
            &bootstrap,
            &[
                reading("loop-1", 4),
                reading("loop-1", 4),
                reading("loop-2", 1),
                ("city.traffic", "loop-2", b"junk".to_vec()),
                ("city.dead-letter", "loop-2", br#"{"sequence":2,"x":1}"#.to_vec()),
                ("city.dead-letter", "loop-2", b"junk".to_vec()),
            ],
        );

        let mut one = Account::new("loop-1", Kind::TRAFFIC, Protocol::Http);
        one.acknowledged = (1..=4).collect();
        let mut two = Account::new("loop-2", Kind::TRAFFIC, Protocol::Mqtt);
        two.accepts_dead_letter = true;
        two.acknowledged = (1..=2).collect();
        let ledger = Ledger {
            accounts: vec![one, two],
        };
        // Reading 3 of loop-1 is lost, so this waits until its timeout is over.
        let found = topic_reader.finish(&ledger, Duration::from_secs(3)).await.unwrap();
        assert!(found.complete);
        let result = ledger.reconcile(&found);
        assert_eq!((result.acknowledged, result.in_kafka, result.dead_lettered), (6, 4, 1));
        assert_eq!((result.lost, result.duplicates, result.unreadable), (1, 1, 1));
        assert_eq!(
            (result.lost_named[0].device.as_str(), result.lost_named[0].first),
            ("loop-1", 3)
        );
        let why = found.unreadable_because.unwrap();
        assert!(why.contains("city.traffic") && why.contains("neither"), "{why}");
    }

    #[tokio::test]
    async fn what_arrives_after_the_fleet_has_stopped_is_waited_for() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("city.traffic", 2, 1).unwrap();
        let bootstrap = cluster.bootstrap_servers();
        produce(&bootstrap, &[("city.traffic", "loop-1", encoded(Some(1)))]);
        // Begins now: earlier records are not found, whatever their number.
        let config = TopicReaderConfig::new(&bootstrap, "city.");
        let topic_reader = TopicReader::start_on(&config, topics()).unwrap();
        let mut account = Account::new("loop-1", Kind::TRAFFIC, Protocol::Http);
        account.acknowledged = (2..=3).collect();
        let ledger = Ledger {
            accounts: vec![account],
        };
        let started = Instant::now();
        let later = std::thread::spawn(move || {
            for sequence in 2..=3 {
                std::thread::sleep(Duration::from_millis(400));
                produce(&bootstrap, &[("city.traffic", "loop-1", encoded(Some(sequence)))]);
            }
        });
        let found = topic_reader.finish(&ledger, Duration::from_secs(30)).await.unwrap();
        later.join().unwrap();
        assert_eq!(ledger.reconcile(&found).lost, 0);
        assert_eq!(found.records, 2);
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "it ends when everything is found"
        );
    }

    /// Paused, a consumer knows its brokers and hears nothing, as one that an outage has silenced.
    #[test]
    fn a_consumer_that_falls_silent_is_replaced_while_the_fleet_runs() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("city.traffic", 1, 1).unwrap();
        cluster.create_topic("city.dead-letter", 1, 1).unwrap();
        let bootstrap = cluster.bootstrap_servers();
        let config = TopicReaderConfig::new(&bootstrap, "city.");
        let client = client_config(&config);
        let (consumer, query_client, topics) = (create(&client).unwrap(), create(&client).unwrap(), topics());
        let positions = positions(&query_client, &topics, &config).unwrap();
        assign(&consumer, &topics, &positions).unwrap();
        consumer.pause(&consumer.assignment().unwrap()).unwrap();
        produce(&bootstrap, &[("city.traffic", "loop-1", encoded(Some(1)))]);

        let (interested, orders) = mpsc::channel();
        let records = Arc::new(AtomicU64::new(0));
        let reader = Reader {
            consumer,
            client,
            last_record_at: Instant::now(),
            silence_max: SILENCE.0,
            query_client,
            topics: &topics,
            positions,
            found: Found::default(),
            records: Arc::clone(&records),
            distinct: Arc::default(),
            ages: Arc::default(),
        };
        std::thread::scope(|threads| {
            let reading = threads.spawn(move || reader.run(&orders));
            let deadline = Instant::now() + Duration::from_secs(60);
            while records.load(Ordering::Relaxed) == 0 && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
            drop(interested);
            assert_eq!(reading.join().unwrap().records, 1);
        });
    }

    #[test]
    fn a_missing_topic_is_named() {
        let cluster = MockCluster::new(1).unwrap();
        let config = TopicReaderConfig::new(cluster.bootstrap_servers(), "city.");
        cluster.create_topic("city.weather", 1, 1).unwrap();
        cluster
            .topic_error(
                "city.traffic",
                rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
            )
            .unwrap();
        let error = TopicReader::start_on(&config, topics()).unwrap_err();
        assert!(error.to_string().contains("no topic city.traffic"), "{error:#}");
    }
}
