//! `citygate store` as a process of its own, the topics that it reads, and readings as a gateway would have written them.
//!
//! The readings are of a small kind, `probe`, whose schema a test can change; they are encoded with apache-avro and the header that
//! `avro` computes from the specification. Several processes can be of one group.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use apache_avro::Schema;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tempfile::TempDir;

use super::broker::Broker;
use super::postgres::Database;
use super::scrape::Scrape;
use super::{avro, chaos, eventually};

const TIMEOUT: Duration = Duration::from_secs(20);

/// The kind of most tests.
pub const PROBE: &str = r#"{"type":"record","name":"Probe","namespace":"city","fields":[
  {"name":"device","type":"string","fill":"device"},
  {"name":"observed_at","type":{"type":"long","logicalType":"timestamp-millis"},"clock":"observed"},
  {"name":"received_at","type":{"type":"long","logicalType":"timestamp-millis"},"fill":"received_at"},
  {"name":"number","type":"long"},
  {"name":"level","type":["null","double"],"default":null},
  {"name":"parts","type":{"type":"array","items":"int"},"default":[]}]}"#;

/// Topics, schemas and a database, which stores share.
pub struct City {
    pub topic_prefix: String,
    pub servers: String,
    folder: TempDir,
    database: String,
    producer: BaseProducer,
}

/// A reading of the kind `probe`.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub device: String,
    pub observed_ms: i64,
    pub received_ms: i64,
    pub number: i64,
}

/// A store that runs.
pub struct Store {
    child: Child,
    folder: TempDir,
    port: u16,
    /// How far its clock is.
    ahead: Option<&'static str>,
}

// === impl City ===

impl City {
    /// With the kind `probe`, whose topic has this many partitions.
    pub async fn new(broker: &Broker, database: &Database, partitions: i32) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let topic_prefix = format!("store{}-{}.", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let city = City {
            producer: ClientConfig::new()
                .set("bootstrap.servers", &broker.servers)
                .set("enable.idempotence", "true")
                .set("queue.buffering.max.messages", "1000000")
                .create()
                .unwrap(),
            topic_prefix,
            servers: broker.servers.clone(),
            folder: TempDir::new().unwrap(),
            database: database.url.clone(),
        };
        std::fs::create_dir(city.folder.path().join("schemas")).unwrap();
        std::fs::create_dir(city.sql()).unwrap();
        city.schema("probe", PROBE);
        broker.make_topic_of(&city.topic("probe"), partitions).await;
        city
    }

    pub fn topic(&self, kind: &str) -> String {
        format!("{}{kind}", self.topic_prefix)
    }

    /// Its folder of schemas has this one from now on.
    pub fn schema(&self, kind: &str, text: &str) {
        let file = self.folder.path().join("schemas").join(kind).with_extension("avsc");
        std::fs::write(file, text).unwrap();
    }

    /// The folder of SQL files.
    pub fn sql(&self) -> std::path::PathBuf {
        self.folder.path().join("sql")
    }

    /// Gives a record to the producer.
    pub fn produce(&self, topic: &str, key: &str, value: &[u8]) {
        loop {
            match self.producer.send(BaseRecord::to(topic).key(key).payload(value)) {
                Ok(()) => break,
                // Its queue is full.
                Err(_) => self.producer.poll(Duration::from_millis(50)),
            };
        }
        self.producer.poll(Duration::ZERO);
    }

    /// The same to one partition, as if it were written at another time.
    pub fn produce_to(&self, topic: &str, partition: i32, written_ms: i64, key: &str, value: &[u8]) {
        let record = BaseRecord::to(topic).partition(partition).timestamp(written_ms);
        self.producer
            .send(record.key(key).payload(value))
            .map_err(|(error, _)| error)
            .unwrap();
    }

    /// How many stores are in the group, and its state, as Kafka says.
    pub fn members(&self) -> (usize, String) {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.servers)
            .create()
            .unwrap();
        let group = format!("{}store", self.topic_prefix);
        let groups = consumer.fetch_group_list(Some(&group), TIMEOUT).unwrap();
        let found = groups.groups().iter().find(|found| found.name() == group);
        found.map_or((0, String::new()), |found| {
            (found.members().len(), found.state().to_owned())
        })
    }

    /// Until Kafka has all that was given.
    pub fn flush(&self) {
        self.producer.flush(TIMEOUT).unwrap();
    }

    pub fn produce_probes(&self, probes: &[Probe]) {
        let schema = Schema::parse_str(PROBE).unwrap();
        let topic = self.topic("probe");
        for probe in probes {
            self.produce(&topic, &probe.device, &encoded(PROBE, &schema, probe.value()));
        }
    }

    /// What `citygate store` and `citygate check` are given.
    pub fn configuration(&self, port: u16, more: &str) -> String {
        let (servers, prefix, database) = (&self.servers, &self.topic_prefix, &self.database);
        let (schemas, sql) = (self.folder.path().join("schemas"), self.sql());
        format!(
            "kafka.bootstrap_servers = {servers:?}\nkafka.topic_prefix = {prefix:?}\n\
             kafka.dead_letter_topic = \"{prefix}dead-letter\"\nschemas.folder = {schemas:?}\nschemas.kinds = [\"*\"]\n\
             [store]\ndatabase_url = {database:?}\nlisten = \"127.0.0.1:{port}\"\ngroup = \"{prefix}store\"\n\
             session_timeout = \"6s\"\nsql_folder = {sql:?}\nbatch_interval = \"50ms\"\n{more}"
        )
    }

    /// A store whose clock is ahead, as `faketime` has it, such as `+400d`.
    pub fn store_ahead(&self, ahead: &'static str) -> Store {
        self.start("", Some(ahead))
    }

    /// A store; `more`: settings of its `[store]` table.
    pub fn store(&self, more: &str) -> Store {
        self.start(more, None)
    }

    fn start(&self, more: &str, ahead: Option<&'static str>) -> Store {
        let folder = TempDir::new().unwrap();
        let [port] = super::free_ports();
        std::fs::write(folder.path().join("citygate.toml"), self.configuration(port, more)).unwrap();
        Store {
            child: spawn(folder.path(), ahead),
            folder,
            port,
            ahead,
        }
    }
}

/// In Avro's single-object encoding.
pub fn encoded(text: &str, schema: &Schema, value: Avro) -> Vec<u8> {
    let writer = GenericDatumWriter::builder(schema).build().unwrap();
    let datum = writer.write_value_to_vec(value).unwrap();
    [&avro::single_object_header(text)[..], &datum].concat()
}

// === impl Probe ===

impl Probe {
    /// As Avro has it; every third has no level, every fifth parts.
    pub fn value(&self) -> Avro {
        let level = match self.level() {
            Some(level) => Avro::Union(1, Box::new(Avro::Double(level))),
            None => Avro::Union(0, Box::new(Avro::Null)),
        };
        Avro::Record(vec![
            ("device".into(), Avro::String(self.device.clone())),
            ("observed_at".into(), Avro::TimestampMillis(self.observed_ms)),
            ("received_at".into(), Avro::TimestampMillis(self.received_ms)),
            ("number".into(), Avro::Long(self.number)),
            ("level".into(), level),
            (
                "parts".into(),
                Avro::Array(self.parts().into_iter().map(Avro::Int).collect()),
            ),
        ])
    }

    pub fn level(&self) -> Option<f64> {
        (self.number % 3 != 0).then(|| self.number as f64 / 8.0)
    }

    pub fn parts(&self) -> Vec<i32> {
        match self.number % 5 {
            0 => vec![self.number as i32, 7],
            _ => Vec::new(),
        }
    }
}

/// Compares the table row by row with what was produced, in the order of their numbers: none missing, none twice.
pub async fn assert_stored(database: &Database, probes: &[Probe]) {
    let question = "select device, (extract(epoch from observed_at) * 1000)::bigint, (extract(epoch from received_at) * 1000)::bigint, \
                    number, level, parts::text from city.probe order by number, kafka_partition, kafka_offset";
    let stored: Vec<_> = database
        .rows(question)
        .await
        .iter()
        .map(|row| {
            let probe = Probe {
                device: row.get(0),
                observed_ms: row.get(1),
                received_ms: row.get(2),
                number: row.get(3),
            };
            (
                probe,
                row.get::<_, Option<f64>>(4),
                row.get::<_, Option<String>>(5).unwrap_or_default(),
            )
        })
        .collect();
    let mut expected: Vec<_> = probes
        .iter()
        .map(|probe| (probe.clone(), probe.level(), format!("{:?}", probe.parts())))
        .collect();
    expected.sort_by_key(|(probe, _, _)| probe.number);
    for (stored, expected) in stored.iter().zip(&expected) {
        assert_eq!(stored, expected);
    }
    assert_eq!(stored.len(), expected.len());
}

// === impl Store ===

impl Store {
    pub fn signal(&self, signal: &str) {
        chaos::signal(self.child.id(), signal);
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) {
        self.signal("KILL");
        self.child.wait().unwrap();
    }

    /// Starts it again, with the same configuration.
    pub fn start_again(&mut self) {
        self.child = spawn(self.folder.path(), self.ahead);
    }

    /// SIGTERM, and whether it ended well.
    pub async fn finish(mut self) {
        self.signal("TERM");
        let status = eventually("the store ends", async || self.child.try_wait().unwrap()).await;
        assert!(status.success(), "{status}: {}", self.said());
    }

    pub async fn ended(&mut self) -> std::process::ExitStatus {
        eventually("the store ends", async || self.child.try_wait().unwrap()).await
    }

    /// Status and body of a GET; none while it does not serve.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let response = reqwest::get(format!("http://127.0.0.1:{}{path}", self.port))
            .await
            .ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }

    /// The sum of a metric's samples with these labels; 0 while it does not serve.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let metrics = self.get("/metrics").await;
        metrics.map_or(0, |(_, text)| Scrape::parse(&text).sum(name, labels))
    }

    pub async fn await_ready(&self) {
        eventually("the store is ready", async || {
            self.get("/readyz").await.filter(|(status, _)| *status == 200).map(drop)
        })
        .await;
    }

    /// All that it wrote.
    pub fn said(&self) -> String {
        let mut said = String::new();
        File::open(self.folder.path().join("log"))
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        said
    }

    /// What another command says of the same configuration.
    pub fn command(&self, name: &str) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_citygate"));
        let file = self.folder.path().join("citygate.toml");
        command
            .args([name, "--config"])
            .arg(file)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the store said:\n{}", self.said());
        }
    }
}

fn spawn(folder: &Path, ahead: Option<&str>) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_citygate"));
    if let Some(ahead) = ahead {
        // The program itself would stand between the store and its signals; deadlines go by the other clock.
        let told = Command::new("faketime")
            .args(["-f", "+0", "printenv", "LD_PRELOAD"])
            .output()
            .unwrap();
        command.env("LD_PRELOAD", String::from_utf8(told.stdout).unwrap().trim());
        command.envs([("FAKETIME", ahead), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]);
    }
    command
        .args(["store", "--config"])
        .arg(folder.join("citygate.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
