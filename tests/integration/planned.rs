//! Topics as data: `citygate topics` compares a real Kafka with a list, makes it so and no more than that; the gateway creates
//! topics as the list has them. The pages show what the program prints, and what it computes from is measured again.
//!
//! The cluster is a real one, and what it has is asked of it, not of the program; without Java and Maven those tests say SKIPPED.

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use citygate::catalogue::Kinds;
use citygate::receipt::metrics::Tallies;
use citygate::topics::List;
use citygate::validate::{self, Scratch, Validator};
use device_simulators::devices::{City, Device, Kind, Moment};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::gateway::{self, TestGateway};
use crate::harness::{Broker, repository};

/// A list of topics, and a configuration that names it.
struct Planned {
    folder: TempDir,
    prefix: String,
}

impl Planned {
    fn new(kafka: &Broker) -> Self {
        let config = gateway::config(kafka, |_| {});
        let (servers, prefix) = (config.kafka.bootstrap_servers, config.kafka.topic_prefix);
        let folder = TempDir::new().unwrap();
        let list = folder.path().join("topics.toml");
        let text = format!(
            "kafka.bootstrap_servers = {servers:?}\nkafka.topic_prefix = {prefix:?}\nkafka.topics_file = {list:?}\n\
             kafka.dead_letter_topic = \"{prefix}dead-letter\"\nschemas.folder = {:?}\n",
            repository().join("schemas")
        );
        std::fs::write(folder.path().join("citygate.toml"), text).unwrap();
        Planned { folder, prefix }
    }

    fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Writes the list; `PREFIX` in it is the test's.
    fn list(&self, text: &str) {
        let text = text.replace("PREFIX", &self.prefix);
        std::fs::write(self.folder.path().join("topics.toml"), text).unwrap();
    }

    /// Exit code, and what was printed.
    fn topics(&self, arguments: &[&str]) -> (i32, String) {
        let config = self.folder.path().join("citygate.toml");
        said(
            Command::new(env!("CARGO_BIN_EXE_citygate"))
                .arg("topics")
                .args(arguments)
                .arg("--config")
                .arg(config),
        )
    }

    /// The same, without the prefix, line by line.
    fn lines(&self, arguments: &[&str], code: i32) -> Vec<String> {
        let (ended, said) = self.topics(arguments);
        assert_eq!(ended, code, "{arguments:?}: {said}");
        said.replace(&self.prefix, "").lines().map(str::to_owned).collect()
    }
}

fn said(command: &mut Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.env_remove("CITYGATE_CONFIG").output().unwrap();
    let text = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (status.code().unwrap(), text)
}

/// `citygate topics` without a configuration, in the repository.
fn program(arguments: &[&str]) -> String {
    let (code, text) = said(
        Command::new(env!("CARGO_BIN_EXE_citygate"))
            .arg("topics")
            .args(arguments)
            .current_dir(repository()),
    );
    assert_eq!(code, 0, "{text}");
    text
}

const LIST: &str = r#"
[defaults]
partitions = 2
replication = 1
min_insync_replicas = 1
retention = "7d"
[topics."PREFIXtraffic"]
partitions = 4
retention = "2d"
[topics."PREFIXdevices"]
cleanup = "compact"
config = {"segment.ms" = "86400000"}
"#;

const SAME: &str = "every topic is as it is listed";

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_cluster_becomes_what_is_listed() {
    let Some(kafka) = Broker::shared() else { return };
    let planned = Planned::new(&kafka);
    planned.list(LIST);
    let missing = |name: &str, partitions: u32| {
        format!("differs   {name} does not exist; listed with {partitions} partitions and 1 replica")
    };
    let expected = [
        missing("dead-letter", 2),
        missing("devices", 2),
        missing("energy", 2),
        missing("traffic", 4),
        missing("weather", 2),
    ];
    assert_eq!(planned.lines(&["diff"], 1), expected);
    let created = planned.lines(&["apply"], 0);
    assert_eq!(created.len(), 5, "{created:?}");
    assert_eq!(
        created[3],
        "created   traffic: 4 partitions and 1 replica: min.insync.replicas=1, retention.ms=172800000"
    );
    assert_eq!(planned.lines(&["diff"], 0), [SAME]);
    assert_eq!(planned.lines(&["apply"], 0), [SAME]);
    assert_eq!(kafka.partitions(&planned.topic("traffic")), 4);
    for (topic, key, expected) in [
        ("traffic", "retention.ms", "172800000"),
        ("traffic", "cleanup.policy", "delete"),
        ("devices", "cleanup.policy", "compact"),
        ("devices", "segment.ms", "86400000"),
        ("energy", "retention.ms", "604800000"),
    ] {
        let found = kafka.setting(&planned.topic(topic), key).await;
        assert_eq!(found.as_deref(), Some(expected), "{topic} {key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_kafka_refuses_is_named_and_the_others_are_made() {
    let Some(kafka) = Broker::shared() else { return };
    let planned = Planned::new(&kafka);
    // The test's cluster is one broker; the topic that is refused comes before others.
    planned.list(&LIST.replace("cleanup = \"compact\"", "cleanup = \"compact\"\nreplication = 30"));
    let said = planned.lines(&["apply"], 1);
    let (refused, made): (Vec<_>, Vec<_>) = said.iter().partition(|line| line.starts_with("refused"));
    assert_eq!(refused.len(), 1, "{said:?}");
    assert!(
        refused[0].starts_with("refused   devices: kafka does not create") && refused[0].contains("30"),
        "{refused:?}"
    );
    assert_eq!(made.len(), 4, "{said:?}");
    assert_eq!(kafka.partitions(&planned.topic("weather")), 2);
    assert_eq!(
        planned.lines(&["diff"], 1),
        ["differs   devices does not exist; listed with 2 partitions and 30 replicas"]
    );
    planned.list(LIST);
    planned.lines(&["apply"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_added_when_that_is_said_and_never_removed() {
    let Some(kafka) = Broker::shared() else { return };
    let planned = Planned::new(&kafka);
    planned.list(LIST);
    planned.lines(&["apply"], 0);
    let topic = planned.topic("traffic");
    planned.list(&LIST.replace("partitions = 4", "partitions = 6"));
    assert_eq!(
        planned.lines(&["diff"], 1),
        ["differs   traffic has 4 partitions, and 6 in the list"]
    );
    let left = planned.lines(&["apply"], 1);
    assert!(
        left[0].starts_with("left      traffic: has 4 partitions, and 6 in the list: add them with --add-partitions"),
        "{left:?}"
    );
    assert_eq!(kafka.partitions(&topic), 4);
    let added = planned.lines(&["apply", "--add-partitions"], 0);
    assert_eq!(added[0], "changed   traffic: 6 partitions instead of 4");
    assert!(
        added[1].starts_with("warning   traffic: keys move to other partitions"),
        "{added:?}"
    );
    assert_eq!(kafka.partitions(&topic), 6);
    planned.list(&LIST.replace("partitions = 4", "partitions = 1"));
    let larger = "traffic has 6 partitions, and 1 in the list: Kafka removes none, so list 6";
    assert_eq!(planned.lines(&["diff"], 1), [format!("differs   {larger}")]);
    let left = planned.lines(&["apply", "--add-partitions"], 1);
    assert_eq!(left, [format!("left      {}", larger.replacen(' ', ": ", 1))]);
    assert_eq!(kafka.partitions(&topic), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_is_changed_and_the_others_of_the_topic_stay() {
    let Some(kafka) = Broker::shared() else { return };
    let planned = Planned::new(&kafka);
    planned.list(LIST);
    planned.lines(&["apply"], 0);
    let topic = planned.topic("traffic");
    kafka.configure(&topic, "max.message.bytes", "2000000").await; // and all others are back at their defaults
    assert_eq!(
        planned.lines(&["diff"], 1),
        ["differs   traffic has retention.ms=604800000, and 172800000 in the list"]
    );
    let json: Value = serde_json::from_str(&planned.topics(&["diff", "--json"]).1).unwrap();
    assert_eq!(json["topics"][0]["topic"], topic.as_str());
    assert_eq!(json["topics"][0]["differences"][0]["key"], "retention.ms");
    let changed = planned.lines(&["apply", "--json"], 0);
    let changed: Value = serde_json::from_str(&changed[0]).unwrap();
    assert_eq!(changed["text"], "retention.ms=172800000");
    for (key, expected) in [("retention.ms", "172800000"), ("max.message.bytes", "2000000")] {
        assert_eq!(kafka.setting(&topic, key).await.as_deref(), Some(expected), "{key}");
    }
    planned.list(&LIST.replace("\"2d\"", "\"unlimited\""));
    planned.lines(&["apply"], 0);
    assert_eq!(kafka.setting(&topic, "retention.ms").await.as_deref(), Some("-1"));
    assert_eq!(
        kafka.setting(&topic, "max.message.bytes").await.as_deref(),
        Some("2000000")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_listed_stays_until_its_deletion_is_asked_for_and_confirmed() {
    let Some(kafka) = Broker::shared() else { return };
    let planned = Planned::new(&kafka);
    planned.list(LIST);
    planned.lines(&["apply"], 0);
    let (old, foreign) = (planned.topic("old"), format!("x-{}", planned.topic("other")));
    for topic in [&old, &foreign] {
        kafka.make_topic(topic).await;
    }
    let unlisted = planned.lines(&["diff"], 0);
    assert_eq!(unlisted, ["unlisted  old", SAME]);
    assert_eq!(planned.lines(&["apply"], 0), [SAME]);
    let asked = planned.lines(&["apply", "--delete-unlisted"], 1);
    assert_eq!(
        asked,
        ["left      old: is not listed, and would be deleted with its records: say --yes as well"]
    );
    assert_eq!(kafka.partitions(&old), 3);
    let deleted = planned.lines(&["apply", "--delete-unlisted", "--yes"], 0);
    assert_eq!(deleted, ["deleted   old: with its records"]);
    assert_eq!((kafka.partitions(&old), kafka.partitions(&foreign)), (0, 3));
    kafka.delete_topic(&foreign).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_creates_its_topics_as_they_are_listed() {
    let Some(kafka) = Broker::shared() else { return };
    let gateway = TestGateway::start(&kafka, |config| {
        let list = LIST.replace("PREFIX", &config.kafka.topic_prefix);
        config.kafka.topics = Some(Arc::new(toml::from_str::<List>(&list).unwrap()));
    })
    .await;
    for (kind, partitions, retention) in [
        ("traffic", 4, "172800000"),
        ("energy", 2, "604800000"),
        ("dead-letter", 2, "604800000"),
    ] {
        let topic = format!("{}{kind}", gateway.topic_prefix);
        assert_eq!(kafka.partitions(&topic), partitions, "{kind}");
        assert_eq!(
            kafka.setting(&topic, "retention.ms").await.as_deref(),
            Some(retention),
            "{kind}"
        );
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_warns_of_what_differs_from_the_list() {
    let Some(kafka) = Broker::shared() else { return };
    let planned = Planned::new(&kafka);
    planned.list(LIST);
    planned.lines(&["apply"], 0);
    planned.list(&LIST.replace("partitions = 4", "partitions = 6"));
    let config = planned.folder.path().join("citygate.toml");
    let state = planned.folder.path().join("state");
    let any = "127.0.0.1:0";
    let mut check = Command::new(env!("CARGO_BIN_EXE_citygate"));
    check
        .args(["check", "--config"])
        .arg(config)
        .env("CITYGATE_STATE_DIR", state);
    for listener in ["MQTT", "HTTP", "COAP", "ADMIN"] {
        check.env(format!("CITYGATE_{listener}__LISTEN"), any);
    }
    let (code, text) = said(&mut check);
    let warning = format!(
        "warning  topic {}traffic has 4 partitions, and 6 in the list (kafka.topics_file)",
        planned.prefix
    );
    assert!(code == 0 && text.lines().any(|line| line == warning), "{code}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_wrong_and_a_kafka_that_does_not_answer_are_told_apart() {
    let kafka = Broker::mock();
    let planned = Planned::new(&kafka);
    planned.list("[defaults]\npartitions = 0\n");
    let file = planned.folder.path().join("topics.toml").display().to_string();
    let mistake = format!("{file}:2: defaults.partitions: must be between 1 and 10000\n");
    assert_eq!(planned.topics(&["diff"]), (64, mistake.clone()));
    std::fs::write(planned.folder.path().join("citygate.toml"), "").unwrap();
    assert_eq!(
        planned.topics(&["diff", "--file", &file]),
        (64, format!("citygate: {mistake}"))
    );
    let none = "citygate: there is no list of topics: name it with --file, or set kafka.topics_file\n";
    assert_eq!(planned.topics(&["apply"]), (64, none.to_owned()));
    planned.list(LIST);
    let schemas = repository().join("schemas");
    let nobody = format!("kafka.bootstrap_servers = \"127.0.0.1:1\"\nschemas.folder = {schemas:?}");
    std::fs::write(planned.folder.path().join("citygate.toml"), nobody).unwrap();
    let (code, text) = planned.topics(&["diff", "--file", &file]);
    assert_eq!(
        (code, text.as_str()),
        (69, "citygate: kafka at 127.0.0.1:1 does not answer\n")
    );
    let kinds = planned.topics(&["plan", "--devices", "10", "--kinds", "parking=1"]);
    assert!(
        kinds.0 == 64 && kinds.1.contains("--kinds: the size of a reading is known of traffic"),
        "{kinds:?}"
    );
}

/// What a page shows of a command, which its comment names.
#[test]
fn tables_of_the_pages_are_what_the_program_prints() {
    let page = |name: &str| std::fs::read_to_string(repository().join("deploy").join(name)).unwrap();
    let pages = ["TOPICS.md", "SIZING.md"].map(page).concat();
    let mut commands = 0;
    for part in pages.split("<!-- citygate topics ").skip(1) {
        let (command, rest) = part.split_once(" -->\n").unwrap();
        let (shown, _) = rest.split_once("<!-- end -->").unwrap();
        let arguments: Vec<_> = command.split_whitespace().collect();
        let printed = program(&arguments);
        assert_eq!(
            shown, printed,
            "deploy/TOPICS.md, SIZING.md: write there what this prints: citygate topics {command}"
        );
        commands += 1;
    }
    assert_eq!(commands, 2);
}

/// Each listed topic is a node of the picture, with its key, partitions, retention and owner; and no other is.
#[test]
fn the_picture_shows_every_topic_as_it_is_listed() {
    let page = std::fs::read_to_string(repository().join("deploy/TOPICS.md")).unwrap();
    let (picture, _) = page.split_once("```mermaid").unwrap().1.split_once("```").unwrap();
    let labels = picture
        .split("[(\"")
        .skip(1)
        .filter_map(|node| node.split("\")]").next());
    let mut shown: Vec<_> = labels
        .filter(|label| label.starts_with("city."))
        .map(str::to_owned)
        .collect();
    let list: Vec<Value> =
        serde_json::from_str(&program(&["list", "--json", "--file", "deploy/kafka/topics.toml"])).unwrap();
    let kept = |topic: &Value| match topic["cleanup"].as_str() {
        Some("compact") => "the last of each key".to_owned(),
        _ => topic["retention"].as_str().unwrap().to_owned(),
    };
    let label = |topic: &Value| {
        let text = |field: &str| topic[field].as_str().unwrap();
        let (name, key, owner) = (text("name"), text("key"), text("owner"));
        format!(
            "{name}<br>key: {key}<br>{} partitions, {}<br>{owner}",
            topic["partitions"],
            kept(topic)
        )
    };
    // The last one stands for kinds without an entry.
    let mut expected: Vec<_> = list[..list.len() - 1].iter().map(label).collect();
    shown.sort();
    expected.sort();
    assert_eq!(shown, expected);
}

/// A reading of the fleet: its device, its JSON, its Avro without a prefix.
struct Sent {
    device: String,
    json: Vec<u8>,
    avro: Vec<u8>,
}

/// Readings of a kind, of as many devices, over a day.
fn sent(kind: Kind) -> Vec<Sent> {
    const READINGS: u64 = 2000;
    const NOW_MS: i64 = 1_781_654_400_123;
    let kinds = Kinds::load(&repository().join("schemas"), "city.", &Tallies::default()).unwrap();
    let program = &kinds.get(kind.name()).unwrap().program;
    let validator = Validator::new(&validate::Config::default());
    let city = Arc::new(City::new(7));
    let mut scratch = Scratch::default();
    let read = |number: u64| {
        let device = Device::in_city(&city, kind, number);
        let moment = Moment {
            observed_at_ms: NOW_MS - number as i64 * 43_200,
            interval: Duration::from_secs(60),
        };
        let json = device.reading(1_000_000 + number, moment);
        validator
            .reading(program, device.name(), NOW_MS, &json, &mut scratch)
            .unwrap();
        Sent {
            device: device.name().to_owned(),
            json,
            avro: scratch.value().get(10..).unwrap().to_owned(), // behind the fingerprint, which is there without a registry
        }
    };
    (0..READINGS).map(read).collect()
}

fn plan(arguments: &[&str]) -> Value {
    serde_json::from_str(&program(&[&["plan", "--json"], arguments].concat())).unwrap()
}

fn near(what: &str, planned: &Value, measured: f64, most: f64) {
    let planned = planned.as_f64().unwrap();
    let off = (planned / measured - 1.0).abs();
    assert!(off < most, "{what}: planned is {planned:.1}, measured {measured:.1}");
}

#[test]
fn a_plan_computes_from_the_size_that_readings_have() {
    let plan = plan(&["--devices", "1000"]);
    for (topic, kind) in plan["topics"].as_array().unwrap().iter().zip(Kind::PHYSICAL) {
        assert_eq!(topic["kind"], kind.name());
        let sent = sent(kind);
        let mean = |of: fn(&Sent) -> usize| sent.iter().map(of).sum::<usize>() as f64 / sent.len() as f64;
        near("JSON", &topic["json_bytes"], mean(|sent| sent.json.len()), 0.03);
        near("Avro", &topic["avro_bytes"], mean(|sent| sent.avro.len()), 0.03);
    }
}

/// In batches of one record and of many, compressed as the gateway does.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_computes_from_the_bytes_that_records_have_in_kafkas_log() {
    let Some(kafka) = Broker::own() else { return };
    let plan = plan(&["--devices", "1000"]);
    for (topic, kind) in plan["topics"].as_array().unwrap().iter().zip(Kind::PHYSICAL) {
        let sent = sent(kind);
        for planned in topic["log_bytes"].as_array().unwrap() {
            let batch = planned[0].as_f64().unwrap() as usize;
            let name = format!("{}-{batch}", kind.name());
            let records = sent.iter().map(|sent| {
                let value = [&[0_u8, 0, 0, 0, 7], sent.avro.as_slice()].concat();
                (sent.device.as_str(), value)
            });
            kafka.make_topic(&name).await;
            kafka.produce_batches(&name, batch, records);
            let measured = kafka.log_bytes(&name) as f64 / sent.len() as f64;
            near(&name, &planned[1], measured, 0.05);
        }
    }
}
