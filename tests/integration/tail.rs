//! `citygate tail`: what devices sent comes out of Kafka again as the same JSON, whatever its encoding there.
//!
//! The program itself is asked, on a real Kafka; its registry is one that behaves as told.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::gateway::TestGateway;
use crate::harness::registry::{FakeRegistry, accepting};
use crate::harness::{Broker, TEST_TIMEOUT, Via, avro, chaos, repository};

/// A configuration for the topics of a gateway.
struct Tail {
    folder: TempDir,
}

impl Tail {
    fn of(gateway: &TestGateway, broker: &Broker, more: &str) -> Self {
        Self::at(&broker.servers, &gateway.topic_prefix, more)
    }

    fn at(servers: &str, prefix: &str, more: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let schemas = repository().join("schemas");
        let text = format!(
            "kafka.bootstrap_servers = {servers:?}\nkafka.topic_prefix = {prefix:?}\n\
             kafka.dead_letter_topic = \"{prefix}dead-letter\"\nschemas.folder = {schemas:?}\n{more}"
        );
        std::fs::write(folder.path().join("citygate.toml"), text).unwrap();
        Tail { folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args([
                &TEST_TIMEOUT.as_secs().to_string(),
                env!("CARGO_BIN_EXE_citygate"),
                "tail",
            ])
            .args(arguments)
            .arg("--config")
            .arg(self.folder.path().join("citygate.toml"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sends over HTTP, and expects that it is accepted.
async fn send(gateway: &TestGateway, device: &str, kind: &str, reading: &Value) {
    let address = format!("devices/{device}/{kind}");
    let mut client = gateway.client(Via::Http).await;
    let answer = client.send(&address, "", reading.to_string().as_bytes()).await;
    assert!(answer.is_yes(Via::Http), "{answer:?}");
}

/// What the device sent of a line: without what the gateway fills in, and without empty arrays.
fn sent(line: &Value) -> Value {
    let mut reading = line["reading"].clone();
    let fields = reading.as_object_mut().unwrap();
    for filled in ["device", "observed_at", "received_at"] {
        assert!(fields.remove(filled).is_some(), "{filled} is not in {line}");
    }
    avro::plain(reading)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_comes_out_as_the_same_json() {
    let Some(broker) = Broker::shared() else { return };
    let gateway = TestGateway::start(&broker, |_| {}).await;
    let tail = Tail::of(&gateway, &broker, "");
    let weather = json!({"temperature_c": 21.5, "relative_humidity_percent": 48, "sequence": 7});
    let energy = json!({"power_w": -1899.8});
    send(&gateway, "roof-2", "weather", &weather).await;
    send(&gateway, "meter-9", "energy", &energy).await;
    send(&gateway, "roof-3", "weather", &json!({"temperature_c": 3.25})).await;

    let lines = tail.lines(&["--from-beginning", "--max", "3"]);
    let of = |device: &str| lines.iter().find(|line| line["device"] == device).unwrap();
    assert_eq!(
        (&of("roof-2")["kind"], sent(of("roof-2"))),
        (&json!("weather"), weather)
    );
    assert_eq!(
        (&of("meter-9")["kind"], sent(of("meter-9"))),
        (&json!("energy"), energy)
    );

    let lines = tail.lines(&["weather", "--from-beginning", "--device", "roof-3", "--max", "1"]);
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (&lines[0]["device"], sent(&lines[0])),
        (&json!("roof-3"), json!({"temperature_c": 3.25}))
    );

    let unknown = tail.command(&["wether"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(
        said(&unknown),
        "citygate: unknown kind wether; known kinds: energy, traffic, weather\n"
    );
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_a_registry_are_looked_up() {
    let Some(broker) = Broker::shared() else { return };
    let registry = FakeRegistry::start(|path| match path.contains("schemas/ids/7") {
        true => {
            let schema = std::fs::read_to_string(repository().join("schemas/weather.avsc")).unwrap();
            (
                200,
                "application/vnd.schemaregistry.v1+json",
                json!({ "schema": schema }).to_string(),
            )
        }
        false => accepting(path, 7),
    });
    let url = registry.url();
    let gateway = TestGateway::start(&broker, |config| config.registry.url = Some(url.as_str().into())).await;
    let weather = json!({"temperature_c": -4.5});
    send(&gateway, "roof-2", "weather", &weather).await;

    let arguments = ["weather", "--from-beginning", "--max", "1"];
    let with_registry = Tail::of(&gateway, &broker, &format!("registry.url = {url:?}\n"));
    assert_eq!(sent(&with_registry.lines(&arguments)[0]), weather);

    // Without one it says what is missing, and goes on.
    let without = Tail::of(&gateway, &broker, "");
    let mut child = without.command(&arguments).stdout(Stdio::null()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    let word = told.find(|line| line.as_ref().is_ok_and(|line| line.contains("set registry.url")));
    assert!(word.unwrap().unwrap().contains("schema 7 of a registry"));
    // `timeout` passes it on.
    chaos::signal(child.id(), "TERM");
    child.wait().unwrap();
    gateway.finish().await;
}

/// Any program may write to a kind's topic.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_reading_of_the_topics_kind_is_said_and_not_shown() {
    let Some(broker) = Broker::shared() else { return };
    let gateway = TestGateway::start(&broker, |_| {}).await;
    send(&gateway, "meter-9", "energy", &json!({"power_w": 5.5})).await;
    send(&gateway, "roof-1", "weather", &json!({"temperature_c": 1.5})).await;
    let (energy, weather) = (
        &gateway.records("energy")[0].value,
        &gateway.records("weather")[0].value,
    );
    let topic = format!("{}weather", gateway.topic_prefix);
    broker.produce(&topic, "meter-9", energy);
    broker.produce(&topic, "not a device", weather);
    broker.produce(&topic, "", weather);
    send(&gateway, "roof-2", "weather", &json!({"temperature_c": 2.5})).await;

    let tail = Tail::of(&gateway, &broker, "");
    let mut child = tail
        .command(&["weather", "--from-beginning"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut devices = [(); 2].map(|()| {
        let line: Value = serde_json::from_str(&shown.next().unwrap().unwrap()).unwrap();
        line["device"].clone()
    });
    devices.sort_by_key(Value::to_string);
    assert_eq!(devices, ["roof-1", "roof-2"]);
    let told = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut told: Vec<_> = told.filter(|line| line.starts_with(&topic)).take(3).collect();
    for line in &mut told {
        *line = line.split_once(": ").unwrap().1.to_owned();
    }
    told.sort();
    let no_device = "not a reading of weather: its key is no device id";
    let other_kind = "not a reading of weather: it was written with the schema of energy";
    assert_eq!(told, [other_kind, no_device, no_device]);
    chaos::signal(child.id(), "TERM");
    child.wait().unwrap();
    assert!(shown.next().is_none(), "nothing else is shown");
    gateway.finish().await;
}

/// Nobody listens there: what it waits for is said at once, why it ends once.
#[test]
fn without_kafka_it_says_what_it_waits_for_and_why_it_ends() {
    let servers = "127.0.0.1:1";
    let tail = Tail::at(servers, "city.", "");
    let mut child = tail.command(&[]).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let first = told.next().unwrap();
    assert_eq!(first, format!("waiting for kafka at {servers}, for 10 s at most"));
    assert!(child.try_wait().unwrap().is_none(), "it waits still");
    let rest: Vec<_> = told.collect();
    assert_eq!(rest, [format!("citygate: kafka at {servers} refuses the connection")]);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_when_nobody_reads_its_output() {
    let Some(broker) = Broker::shared() else { return };
    let gateway = TestGateway::start(&broker, |_| {}).await;
    send(&gateway, "roof-2", "weather", &json!({"temperature_c": 1})).await;
    let tail = Tail::of(&gateway, &broker, "");
    let mut child = tail
        .command(&["--from-beginning"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.contains("\"temperature_c\":1.0"), "{line}");
    drop(output);
    // No reading comes that it could notice by.
    let closed = Instant::now();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(closed.elapsed() < Duration::from_secs(10), "{:?}", closed.elapsed());
    gateway.finish().await;
}
