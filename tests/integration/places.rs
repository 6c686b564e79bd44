//! Where devices stand: from a file or the identities' tags, by `citygate devices publish`, into the topic and the database's table.
//!
//! Kafka and PostgreSQL are real ones, and what they have is asked of them; without them the tests say SKIPPED. What a file may
//! say is tested beside the code.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::broker::read_all;
use crate::harness::gateway;
use crate::harness::postgres::Postgres;
use crate::harness::store::City;
use crate::harness::{Broker, eventually};

/// Exit code, and what was printed.
fn publish(config: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_citygate"));
    let ended = command
        .args(["devices", "publish"])
        .args(arguments)
        .arg("--config")
        .arg(config);
    let ended = ended.output().unwrap();
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.code(), String::from_utf8(said).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_published_replaced_and_withdrawn() {
    let Some(broker) = Broker::shared() else { return };
    let folder = TempDir::new().unwrap();
    let kafka = gateway::config(&broker, |_| {}).kafka;
    let topic = format!("{}devices", kafka.topic_prefix);
    let config = folder.path().join("citygate.toml");
    let (servers, prefix) = (&kafka.bootstrap_servers, &kafka.topic_prefix);
    std::fs::write(
        &config,
        format!(
            "kafka.bootstrap_servers = {servers:?}\nkafka.topic_prefix = {prefix:?}\nkafka.delivery_timeout = \"3s\"\n"
        ),
    )
    .unwrap();
    let csv = folder.path().join("places.csv");
    std::fs::write(&csv, "device,kind,upstream\nloop-2,traffic,loop-1\nloop-3,traffic,\n").unwrap();
    let csv = csv.to_str().unwrap();

    let (code, said) = publish(&config, &["--from", csv, "--dry-run"]);
    let expected = "loop-2 {\"kind\":\"traffic\",\"upstream\":[\"loop-1\"]}\nloop-3 {\"kind\":\"traffic\"}\n";
    assert_eq!((code, said.as_str()), (Some(0), expected));
    let (code, said) = publish(&config, &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("no folder of identities"), "{said}");

    broker.make_topic_of(&topic, 1).await;
    let (code, said) = publish(&config, &["--from", csv]);
    assert_eq!(
        (code, said.trim_end()),
        (Some(0), format!("2 devices are in {topic}").as_str())
    );
    let identities = folder.path().join("identities");
    std::fs::create_dir(&identities).unwrap();
    let records = [
        json!({"id": "loop-3", "kinds": ["traffic"], "tags": {"district": "north", "contact": "0123"}}),
        json!({"id": "loop-4", "tags": {"district": "south"}, "disabled": true}),
    ];
    let records = records.map(|record| record.to_string()).join("\n");
    std::fs::write(identities.join("devices.ndjson"), records).unwrap();
    let (code, said) = publish(&config, &["--folder", identities.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = publish(&config, &["--withdraw", "loop-2"]);
    assert_eq!(code, Some(0), "{said}");
    let records = read_all(servers, &topic);
    let records: Vec<_> = records
        .iter()
        .map(|record| (record.key.as_str(), String::from_utf8(record.value.clone()).unwrap()))
        .collect();
    let expected = [
        ("loop-2", r#"{"kind":"traffic","upstream":["loop-1"]}"#),
        ("loop-3", r#"{"kind":"traffic"}"#),
        ("loop-3", r#"{"kind":"traffic","district":"north"}"#),
        ("loop-2", ""),
    ];
    assert_eq!(records, expected.map(|(key, value)| (key, value.to_owned())));
}

/// Every field is a column of the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_a_row_of_the_database() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    broker.make_topic_of(&city.topic("devices"), 1).await;
    let store = city.store("");
    let folder = TempDir::new().unwrap();
    let (config, places) = (folder.path().join("citygate.toml"), folder.path().join("places.ndjson"));
    std::fs::write(&config, city.configuration(0, "")).unwrap();
    let place = json!({"device": "loop-2", "kind": "traffic", "latitude": 52.5, "longitude": 13.25, "segment": "ring", "position_m": 300.5,
        "upstream": ["loop-1"], "downstream": ["loop-3", "loop-4"], "lane_count": 2, "district": "north", "feeder": "f-1",
        "cell": "c-1", "operator": "city", "interval_s": 60.5, "cabinet": "box-1", "capacity_w": 14000.5,
        "valid_from": "2026-11-28T00:00:00Z"});
    std::fs::write(&places, place.to_string()).unwrap();
    let (code, said) = publish(&config, &["--from", places.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let row = eventually("the device is in the table", async || {
        let rows: Vec<String> = database
            .column("select (to_jsonb(d) - array['kafka_partition', 'written_at'])::text from city.device d")
            .await;
        rows.first().cloned()
    })
    .await;
    let mut expected = place;
    expected["valid_from"] = "2026-11-28T00:00:00+00:00".into();
    assert_eq!(serde_json::from_str::<Value>(&row).unwrap(), expected);
    store.finish().await;
}
