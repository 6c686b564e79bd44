//! The Kafka that a test stands on, and a reader of everything in a topic.
//!
//! [`Broker::shared`] is one real Kafka for all tests: `TEST_KAFKA=host:port`, or one that is started through
//! `tests/servers/kafka.sh` and ends with this process. [`Broker::own`] is a real one that a test may stop and kill.
//! [`Broker::any`] is the shared one, or librdkafka's mock cluster where there is none (some 5 MiB kept per partition).
//! Tests are told apart by their topics' prefix.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, Headers, Message, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaErrorCode, RDKafkaRespErr};
use tempfile::TempDir;

use super::chaos;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A Kafka, or what looks like one to a producer. It lives as long as any clone of it: a gateway under test keeps one.
#[derive(Clone)]
pub struct Broker {
    pub servers: String,
    source: Rc<Source>,
}

enum Source {
    Shared,
    Own(Server),
    Mock(MockCluster<'static, DefaultProducerContext>),
}

/// A real Kafka of one test's own; killed when dropped.
struct Server {
    data: TempDir,
    ports: [u16; 2],
}

/// The end of the last record.
#[derive(Default)]
struct Outcome(Mutex<Option<Result<(), RDKafkaErrorCode>>>);

/// A record as a consumer sees it.
#[derive(Clone, Debug)]
pub struct Record {
    pub key: String,
    pub value: Vec<u8>,
    pub headers: Vec<(String, String)>,
    /// The record's timestamp, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    pub partition: i32,
}

// === impl Broker ===

impl Broker {
    /// The real Kafka that all tests share, or `None` after saying SKIPPED.
    pub fn shared() -> Option<Self> {
        static SHARED: OnceLock<Result<String, String>> = OnceLock::new();
        let servers = SHARED.get_or_init(|| match std::env::var("TEST_KAFKA") {
            Ok(servers) => Ok(servers),
            Err(_) => installed().map(|()| {
                let data = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("kafka-{}", std::process::id()));
                start(&data, super::free_ports(), "256m")
            }),
        });
        match servers {
            Ok(servers) => Some(Broker {
                servers: servers.clone(),
                source: Rc::new(Source::Shared),
            }),
            Err(why) => {
                skip(why);
                None
            }
        }
    }

    /// A real Kafka that a test may stop and kill, or `None` after saying SKIPPED.
    pub fn own() -> Option<Self> {
        if let Err(why) = installed() {
            skip(&why);
            return None;
        }
        let server = Server {
            data: TempDir::new().unwrap(),
            ports: super::free_ports(),
        };
        let servers = server.start();
        Some(Broker {
            servers,
            source: Rc::new(Source::Own(server)),
        })
    }

    /// librdkafka's in-process mock: speaks the protocol, keeps little, creates no topic by request.
    pub fn mock() -> Self {
        Broker::mock_of(1)
    }

    /// The same with several brokers, of which the first leads all partitions of which nothing else is said.
    pub fn mock_of(brokers: i32) -> Self {
        let cluster = MockCluster::new(brokers).unwrap();
        Broker {
            servers: cluster.bootstrap_servers(),
            source: Rc::new(Source::Mock(cluster)),
        }
    }

    /// The shared real Kafka, or the mock where there is none.
    pub fn any() -> Self {
        Self::shared().unwrap_or_else(Self::mock)
    }

    pub fn is_mock(&self) -> bool {
        matches!(*self.source, Source::Mock(_))
    }

    /// Makes a topic where a gateway cannot (the mock), unless an earlier one has it; elsewhere the gateway makes its own.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        if let Source::Mock(cluster) = &*self.source {
            match cluster.create_topic(topic, partitions, 1) {
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAlreadyExists) => {}
                made => made.unwrap(),
            }
        }
    }

    /// Writes a record as another program would.
    pub fn produce(&self, topic: &str, key: &str, value: &[u8]) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.servers)
            .create()
            .unwrap();
        producer.send(BaseRecord::to(topic).key(key).payload(value)).unwrap();
        producer.flush(TIMEOUT).unwrap();
    }

    /// Writes records into the first partition, so many to a batch, compressed by lz4.
    pub fn produce_batches<'a>(&self, topic: &str, batch: usize, records: impl Iterator<Item = (&'a str, Vec<u8>)>) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.servers)
            .set("compression.type", "lz4")
            .set("batch.num.messages", batch.to_string())
            // A batch that is full is sent at once; the last one when it is flushed.
            .set("linger.ms", "1000")
            .create()
            .unwrap();
        for (key, value) in records {
            producer
                .send(BaseRecord::to(topic).key(key).payload(&value).partition(0))
                .unwrap();
        }
        producer.flush(TIMEOUT).unwrap();
    }

    /// Writes a record once more, as one of another time.
    ///
    /// # Errors
    /// Kafka refuses it.
    pub fn produce_at(&self, topic: &str, record: &Record, timestamp_ms: i64) -> Result<(), RDKafkaErrorCode> {
        let producer: BaseProducer<Outcome> = ClientConfig::new()
            .set("bootstrap.servers", &self.servers)
            .create_with_context(Outcome::default())
            .unwrap();
        let headers = OwnedHeaders::new();
        let headers = record.headers.iter().fold(headers, |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(value),
            })
        });
        let copy = BaseRecord::to(topic).key(&record.key).payload(&record.value);
        producer.send(copy.headers(headers).timestamp(timestamp_ms)).unwrap();
        producer.flush(TIMEOUT).unwrap();
        producer.context().0.lock().unwrap().take().expect("it is reported")
    }

    /// A partition of the mock has no leader.
    pub fn take_leader(&self, topic: &str, partition: i32) {
        let Source::Mock(cluster) = &*self.source else {
            panic!("only the mock has its leaders taken")
        };
        cluster.partition_leader(topic, partition, None).unwrap();
    }

    /// This broker of the mock leads a partition.
    pub fn lead_by(&self, broker: i32, topic: &str, partition: i32) {
        let Source::Mock(cluster) = &*self.source else {
            panic!("only the mock moves its leaders")
        };
        cluster.partition_leader(topic, partition, Some(broker)).unwrap();
    }

    /// This broker of the mock closes its connections, and accepts no more.
    pub fn stop_broker(&self, broker: i32) {
        let Source::Mock(cluster) = &*self.source else {
            panic!("only the mock's brokers stop one by one")
        };
        cluster.broker_down(broker).unwrap();
    }

    /// The mock answers every request of a client only after this time.
    pub fn answer_after(&self, delay: Duration) {
        let Source::Mock(cluster) = &*self.source else {
            panic!("only the mock can be slow")
        };
        cluster.broker_round_trip_time(1, delay).unwrap();
    }

    /// The mock refuses the next produce requests, without writing what is in them.
    pub fn refuse_next(&self, requests: usize) {
        let Source::Mock(cluster) = &*self.source else {
            panic!("only the mock refuses by request")
        };
        let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD;
        cluster.request_errors(RDKafkaApiKey::Produce, &vec![refusal; requests]);
    }

    /// Forgets what is left of [`Broker::refuse_next`].
    pub fn refuse_no_more(&self) {
        let Source::Mock(cluster) = &*self.source else {
            panic!("only the mock refuses by request")
        };
        cluster.clear_request_errors(RDKafkaApiKey::Produce);
    }

    /// Sets a topic's configuration; the others are back at their defaults.
    pub async fn configure(&self, topic: &str, key: &str, value: &str) {
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(key, value);
        let results = self.admin().alter_configs([&change], &admin_options()).await.unwrap();
        results
            .into_iter()
            .for_each(|result| assert!(result.is_ok(), "{result:?}"));
    }

    /// Makes a topic of a real Kafka by hand, as its operator does.
    pub async fn make_topic(&self, topic: &str) {
        self.make_topic_of(topic, 3).await;
    }

    /// The same, with this number of partitions.
    pub async fn make_topic_of(&self, topic: &str, partitions: i32) {
        self.make_topic_with(topic, partitions, &[]).await;
    }

    /// The same, with these settings.
    pub async fn make_topic_with(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let new = settings.iter().fold(new, |new, (name, value)| new.set(name, value));
        let results = self.admin().create_topics(&[new], &admin_options()).await.unwrap();
        results
            .into_iter()
            .for_each(|result| assert!(result.is_ok(), "{result:?}"));
    }

    /// How many partitions a topic has; 0: it does not exist.
    pub fn partitions(&self, topic: &str) -> usize {
        let admin = self.admin();
        let metadata = admin.inner().fetch_metadata(None, TIMEOUT).unwrap();
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        found.map_or(0, |found| found.partitions().len())
    }

    /// A topic's configuration as it is in force.
    pub async fn setting(&self, topic: &str, key: &str) -> Option<String> {
        let about = [ResourceSpecifier::Topic(topic)];
        let described = self.admin().describe_configs(&about, &admin_options()).await.unwrap();
        let config = described.into_iter().next().unwrap().unwrap();
        config.get(key).and_then(|entry| entry.value.clone())
    }

    /// Deletes a topic of a real Kafka.
    pub async fn delete_topic(&self, topic: &str) {
        let results = self.admin().delete_topics(&[topic], &admin_options()).await.unwrap();
        results
            .into_iter()
            .for_each(|result| assert!(result.is_ok(), "{result:?}"));
    }

    /// Until Kafka has deleted it.
    pub async fn await_gone(&self, topic: &str) {
        super::eventually("the topic is gone", async || {
            (self.partitions(topic) == 0).then_some(())
        })
        .await;
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new()
            .set("bootstrap.servers", &self.servers)
            .create()
            .unwrap()
    }

    /// Bytes of a topic's log on the disk of a Kafka of the test's own.
    pub fn log_bytes(&self, topic: &str) -> u64 {
        let mut bytes = 0;
        let mut folders = vec![self.server().data.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let is_of_topic = |path: &std::path::Path| {
                    let name = path.parent().and_then(|folder| folder.file_name()?.to_str());
                    name.and_then(|name| name.rsplit_once('-'))
                        .is_some_and(|(name, _)| name == topic)
                };
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "log") && is_of_topic(&path) {
                    bytes += path.metadata().unwrap().len();
                }
            }
        }
        bytes
    }

    /// SIGSTOP: connections stay, nothing is answered.
    pub fn freeze(&self) {
        chaos::freeze(self.server().pid());
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        chaos::signal(self.server().pid(), "CONT");
    }

    /// SIGKILL: connections are refused.
    pub fn kill(&self) {
        chaos::signal(self.server().pid(), "KILL");
    }

    /// Starts it again after [`Broker::kill`], with its records and at its address.
    pub fn restart(&self) {
        self.server().start();
    }

    fn server(&self) -> &Server {
        match &*self.source {
            Source::Own(server) => server,
            Source::Shared | Source::Mock(_) => panic!("this Kafka is not the test's own"),
        }
    }
}

// === impl Outcome ===

impl ClientContext for Outcome {}

impl ProducerContext for Outcome {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let code = |error: &KafkaError| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let result = result.as_ref().map(drop).map_err(|(error, _)| code(error));
        *self.0.lock().unwrap() = Some(result);
    }
}

// === impl Server ===

impl Server {
    fn start(&self) -> String {
        start(&self.data.path().to_owned(), self.ports, "160m")
    }

    fn pid(&self) -> u32 {
        let text = std::fs::read_to_string(self.data.path().join("pid")).unwrap();
        text.trim().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        chaos::try_signal(self.pid(), "KILL"); // it may be dead already
    }
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(TIMEOUT))
}

fn start(data: &PathBuf, [port, controller_port]: [u16; 2], heap: &str) -> String {
    let output = Command::new(script("kafka.sh"))
        .arg("start")
        .env("KAFKA_DATA", data)
        .env("KAFKA_PORT", port.to_string())
        .env("KAFKA_CONTROLLER_PORT", controller_port.to_string())
        .env("KAFKA_HEAP", heap)
        .env("KAFKA_WHILE", std::process::id().to_string())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "kafka.sh start: {}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A script of `tests/servers`.
pub fn script(name: &str) -> PathBuf {
    super::repository().join("tests/servers").join(name)
}

/// Whether a real Kafka can be started here.
fn installed() -> Result<(), String> {
    for tool in ["java", "mvn"] {
        let found = Command::new(tool)
            .arg("-version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !found.is_ok_and(|status| status.success()) {
            return Err(format!("{tool} is not installed, and a real Kafka needs it"));
        }
    }
    Ok(())
}

/// For want of a real server the running test checks less than it could, or nothing: said loudly, or a failure where
/// that is not wanted.
pub fn skip(why: &str) {
    let required = std::env::var_os("CITYGATE_REQUIRE_KAFKA").is_some_and(|value| value != "0");
    assert!(!required, "CITYGATE_REQUIRE_KAFKA is set, but {why}");
    super::say_skipped(why);
}

/// Every record of a topic, partition by partition, in order.
pub fn read_all(servers: &str, topic: &str) -> Vec<Record> {
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "citygate-tests")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "20")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).unwrap();
    let mut wanted = TopicPartitionList::new();
    let mut missing = 0;
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = watermarks(&consumer, topic, partition.id());
        missing += high - low;
        wanted
            .add_partition_offset(topic, partition.id(), Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&wanted).unwrap();
    let mut records = Vec::new();
    let mut deadline = Instant::now() + TIMEOUT;
    while missing > 0 {
        match consumer.poll(deadline.saturating_duration_since(Instant::now())) {
            Some(Ok(message)) => records.push(Record::from(&message)),
            // One of the brokers is down: the others lead the partitions.
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::BrokerTransportFailure) => {
                continue;
            }
            Some(Err(error)) => panic!("{topic}: {error}"),
            None => panic!("{missing} records of {topic} do not come"),
        }
        missing -= 1;
        deadline = Instant::now() + TIMEOUT;
    }
    records.sort_by_key(|record| record.partition); // stable: the order within a partition stays
    records
}

/// A Kafka that was started a moment ago may still look for the leaders of its partitions.
fn watermarks(consumer: &BaseConsumer, topic: &str, partition: i32) -> (i64, i64) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match consumer.fetch_watermarks(topic, partition, TIMEOUT) {
            Ok(watermarks) => return watermarks,
            Err(error) => assert!(Instant::now() < deadline, "{topic} {partition}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

// === impl Record ===

impl Record {
    fn from(message: &impl Message) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        Record {
            key: message.key().map(text).unwrap_or_default(),
            value: message.payload().unwrap_or_default().to_vec(),
            headers: headers
                .map(|header| (header.key.to_owned(), header.value.map(text).unwrap_or_default()))
                .collect(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
            partition: message.partition(),
        }
    }

    /// A header's value; panics if it is missing.
    pub fn header(&self, key: &str) -> &str {
        let found = self.headers.iter().find(|(name, _)| name == key);
        &found
            .unwrap_or_else(|| panic!("no header {key} in {:?}", self.headers))
            .1
    }
}
