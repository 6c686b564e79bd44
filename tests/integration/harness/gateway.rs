//! A gateway inside the test's process: every listener on a port of its own, its own topics on a shared Kafka.
//!
//! [`TestGateway::finish`] drains it and checks the balance; a test that forgets it fails when the gateway is
//! dropped. So every test here is a test of the balance as well.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use apache_avro::Schema;
use citygate::catalogue::Catalogue;
use citygate::deliver::health::Health;
use citygate::gateway::{Addresses, Gateway, Metrics};
use citygate::operate::config::Config;
use serde_json::Value;

use super::broker::{self, Broker, Record};
use super::scrape::Scrape;
use super::{Client, TEST_TIMEOUT, Via, avro, panics, repository};

pub struct TestGateway {
    gateway: Option<Gateway>,
    pub addresses: Addresses,
    pub metrics: Arc<Metrics>,
    broker: Broker,
    pub topic_prefix: String,
    schemas: PathBuf,
}

/// A `kafka.delivery_timeout` for tests in which it comes to its end.
pub const GIVE_UP_SOON: Duration = Duration::from_secs(3);

/// A reading as it arrived in Kafka.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub device: String,
    /// As `avro::plain` leaves it.
    pub reading: Value,
    pub record: Record,
}

// === impl TestGateway ===

impl TestGateway {
    /// A gateway as `change` wants it, ready for readings.
    pub async fn start(broker: &Broker, change: impl FnOnce(&mut Config)) -> Self {
        let started = Self::start_unready(broker, change).await;
        let mut health = started.gateway.as_ref().unwrap().health();
        let up = tokio::time::timeout(TEST_TIMEOUT, health.wait_for(Health::is_up)).await;
        assert!(
            up.is_ok_and(|health| health.is_ok()),
            "Kafka is not up: {:?}",
            started.admin("/readyz").await
        );
        started
    }

    /// The same, but Kafka may be unavailable.
    pub async fn start_unready(broker: &Broker, change: impl FnOnce(&mut Config)) -> Self {
        panics::watch();
        let config = config(broker, change);
        let topic_prefix = config.kafka.topic_prefix.clone();
        let schemas = config.schemas.folder.clone();
        for kind in kinds(&schemas) {
            broker.create_topic(&format!("{topic_prefix}{kind}"), 3);
        }
        broker.create_topic(&config.kafka.dead_letter_topic, 3);
        let gateway = Gateway::start(config).await;
        let gateway = gateway.unwrap_or_else(|error| panic!("the gateway does not start: {error:#}"));
        TestGateway {
            addresses: gateway.addresses(),
            metrics: gateway.metrics(),
            gateway: Some(gateway),
            broker: broker.clone(),
            topic_prefix,
            schemas,
        }
    }

    pub async fn client(&self, via: Via) -> Client {
        Client::connect(via, &self.addresses).await
    }

    pub fn catalogue(&self) -> &Catalogue {
        self.gateway.as_ref().expect("it has not ended").catalogue()
    }

    pub fn schema(&self, kind: &str) -> Schema {
        schema(&self.schemas, kind)
    }

    /// The records of a kind's topic.
    pub fn records(&self, kind: &str) -> Vec<Record> {
        broker::read_all(&self.broker.servers, &format!("{}{kind}", self.topic_prefix))
    }

    /// The readings of a kind's topic, decoded from the single-object encoding.
    pub fn readings(&self, kind: &str) -> Vec<Arrived> {
        decoded(&self.schema(kind), self.records(kind))
    }

    pub fn dead_letters(&self) -> Vec<Record> {
        self.records("dead-letter")
    }

    pub fn scrape(&self) -> Scrape {
        Scrape::parse(&self.metrics.registry.encode())
    }

    /// Status and body of a GET on the admin port.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        let response = reqwest::get(format!("http://{}{path}", self.addresses.admin.unwrap()))
            .await
            .unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Drains: whatever was accepted is answered when this returns.
    pub async fn drain(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.drain().await;
        }
    }

    /// Drains and checks the balance.
    pub async fn finish(mut self) {
        self.drain().await;
        self.check_balance();
    }

    fn check_balance(&self) {
        let imbalances = self.scrape().imbalances();
        assert!(imbalances.is_empty(), "the balance is wrong: {imbalances:#?}");
        assert_eq!(
            panics::outside_tests(),
            0,
            "the gateway, or a library under it, panicked"
        );
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(
                self.gateway.is_none(),
                "a test must end with finish(), which checks the balance"
            );
            self.check_balance();
        }
    }
}

/// The schema of a kind, from its file.
pub fn schema(folder: &Path, kind: &str) -> Schema {
    let text = std::fs::read_to_string(folder.join(format!("{kind}.avsc"))).unwrap();
    Schema::parse_str(&text).unwrap()
}

/// Records decoded from the single-object encoding.
pub fn decoded(schema: &Schema, records: Vec<Record>) -> Vec<Arrived> {
    let arrived = records.into_iter().map(|record| Arrived {
        device: record.key.clone(),
        reading: avro::plain(avro::single_object(schema, &record.value)),
        record,
    });
    arrived.collect()
}

/// The file that `citygate run --config` reads.
pub fn toml(config: &Config) -> String {
    toml::to_string(config).unwrap()
}

/// Ports 0 on loopback, the repository's schemas, quick time-outs.
pub fn quick_config() -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::default();
    config.mqtt.listen = any.into();
    config.coap.listen = any.into();
    config.http.listen = any.into();
    config.admin.listen = any.into();
    config.schemas.folder = repository().join("schemas");
    // Tests of the spool give it a folder of their own.
    config.spool.enabled = false;
    config.kafka.create_topics = true;
    config.kafka.linger = Duration::from_millis(1);
    config.kafka.delivery_timeout = Duration::from_secs(3);
    config.kafka.probe_interval = Duration::from_millis(100);
    config.kafka.statistics_interval = Duration::from_millis(500);
    config.drain.deadline = Duration::from_secs(10);
    config
}

/// A configuration for tests on this Kafka, with topics that no other test has.
pub fn config(broker: &Broker, change: impl FnOnce(&mut Config)) -> Config {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut config = quick_config();
    config.kafka.bootstrap_servers = broker.servers.clone();
    config.kafka.topic_prefix = format!("t{}-{}.", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    config.kafka.dead_letter_topic = format!("{}dead-letter", config.kafka.topic_prefix);
    config.kafka.create_topics = !broker.is_mock();
    config.kafka.partitions = 3;
    // No reading is given up because a machine is slow; a test that is about that asks for [`GIVE_UP_SOON`].
    config.kafka.delivery_timeout = TEST_TIMEOUT * 2 / 3;
    config.drain.deadline = TEST_TIMEOUT * 3 / 4;
    change(&mut config);
    config
}

fn kinds(folder: &PathBuf) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let schemas = files.filter(|path| path.extension().is_some_and(|extension| extension == "avsc"));
    schemas
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}
