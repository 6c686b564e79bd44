//! Records whose schema a store does not know, and learns.
//!
//! From what another instance has noted in the database at once, from its own folder after a restart, from a registry as soon as
//! that has it. Records that are no readings stay where they are kept. Kafka and PostgreSQL are real ones.

use std::time::Instant;

use apache_avro::Schema;
use apache_avro::types::Value as Avro;
use serde_json::json;

use crate::harness::postgres::{Database, Postgres};
use crate::harness::registry::{Answer, FakeRegistry, always};
use crate::harness::store::{City, PROBE, Probe, encoded};
use crate::harness::{Broker, avro, eventually, now_ms};

/// Later versions of the kind `probe`.
fn version(field: &str) -> String {
    let more = format!(r#"{{"name":"{field}","type":["null","string"],"default":null}}"#);
    PROBE.replace(r#"{"name":"parts""#, &format!(r#"{more},{{"name":"parts""#))
}

/// A reading in this version.
fn reading(text: &str, field: &str, device: &str, number: i64) -> Vec<u8> {
    let fields = [
        ("device", Avro::String(device.into())),
        ("observed_at", Avro::TimestampMillis(now_ms())),
        ("received_at", Avro::TimestampMillis(now_ms())),
        ("number", Avro::Long(number)),
        ("level", Avro::Union(0, Box::new(Avro::Null))),
        (field, Avro::Union(1, Box::new(Avro::String(format!("of {number}"))))),
        ("parts", Avro::Array(Vec::new())),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    encoded(text, &Schema::parse_str(text).unwrap(), Avro::Record(fields.to_vec()))
}

async fn await_rows(database: &Database, query: &str, expected: &[&str]) {
    let what = format!("{expected:?} of {query}");
    eventually(&what, async || {
        let found: Vec<String> = database.column(query).await;
        (found == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_a_row_as_soon_as_its_schema_is_known() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 2).await;
    let topic = city.topic("probe");
    let (colour, shape) = (version("colour"), version("shape"));
    let store = city.store("");
    store.await_ready().await;
    let kept = "select \"offset\"::text || reason from city.undecodable order by stored_at, \"offset\"";
    city.produce(&topic, "p", &reading(&colour, "colour", "p", 1));
    city.produce(&topic, "p", b"never a reading");
    city.flush();
    await_rows(&database, kept, &["0unknown_fingerprint", "1unknown_format"]).await;

    // Another instance, with a newer folder, has noted the other version: no restart is needed.
    let header = reading(&shape, "shape", "p", 2)[..10].to_vec();
    let note = "insert into city.avro_schema (header, kind, schema) values ($1, 'probe', $2)";
    database
        .connect()
        .await
        .execute(note, &[&header, &shape])
        .await
        .unwrap();
    city.produce(&topic, "p", &reading(&shape, "shape", "p", 2));
    city.flush();
    await_rows(
        &database,
        "select to_jsonb(p) ->> 'shape' from city.probe p where number = 2",
        &["of 2"],
    )
    .await;
    store.finish().await;

    // The first version comes with a new folder.
    city.schema("probe", &colour);
    let store = city.store("");
    await_rows(
        &database,
        "select to_jsonb(p) ->> 'colour' from city.probe p where number = 1",
        &["of 1"],
    )
    .await;
    await_rows(&database, kept, &["1unknown_format"]).await;
    let offset = "select next_offset::text from city.kafka_offset where next_offset > 0";
    await_rows(&database, offset, &["3"]).await;
    assert_eq!(store.metric("citygate_store_rows_total", &[("kind", "probe")]).await, 1);
    store.finish().await;
}

/// In Confluent's wire format.
fn confluent(id: u8, text: &str, reading: &[u8]) -> Vec<u8> {
    let header = avro::single_object_header(text).len();
    [&[0, 0, 0, 0, id], &reading[header..]].concat()
}

const NO_SCHEMA: &str = r#"{"error_code": 40403, "message": "Schema not found"}"#;

fn has(text: &str) -> impl Fn(&str) -> Answer + Send + use<> {
    always(
        200,
        "application/vnd.schemaregistry.v1+json",
        &json!({"schema": text}).to_string(),
    )
}

/// Readings whose schema the registry does not have go by, whether it answers meanwhile or not, and are rows once it has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_waits_for_the_registry_is_a_row_once_that_answers() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let topic = city.topic("probe");
    let colour = version("colour");
    let registry = FakeRegistry::start(always(404, "application/json", NO_SCHEMA));
    let settings = format!("[registry]\nurl = {:?}\ntimeout = \"1s\"", registry.url());
    let store = city.store(&settings);
    store.await_ready().await;
    for (id, number) in [(7, 1), (7, 2), (8, 3)] {
        let text = reading(&colour, "colour", "p", number);
        city.produce(&topic, "p", &confluent(id, &colour, &text));
    }
    city.flush();
    let kept = "select \"offset\"::text || reason from city.undecodable order by \"offset\"";
    await_rows(&database, kept, &["0unknown_id", "1unknown_id", "2unknown_id"]).await;
    store.finish().await;

    // It starts again while the registry is unavailable: nothing else waits for that.
    registry.change(always(503, "text/plain", "not yet"));
    let asked = registry.asked().len();
    let store = city.store(&settings);
    city.produce(&topic, "q", &encoded_probe("q", 10));
    city.flush();
    let stored = "select number::text from city.probe p order by p.number";
    await_rows(&database, stored, &["10"]).await;
    eventually("both schemas are asked for again and again", async || {
        let asked = registry.asked().split_off(asked);
        let of = |id: &str| asked.iter().filter(|asked| asked.path.ends_with(id)).count();
        (of("/7") >= 2 && of("/8") >= 2).then_some(())
    })
    .await;
    let (status, said) = store.get("/readyz").await.unwrap();
    assert_eq!((status, said.as_str()), (200, "ok\n"));
    registry.change(has(&colour));
    await_rows(&database, stored, &["1", "2", "3", "10"]).await;
    await_rows(&database, kept, &[]).await;
    let waits = "wait for the registry";
    assert_eq!(store.said().matches(waits).count(), 1, "{}", store.said());
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_records_with_a_schema_that_the_registry_does_not_have_are_one_question() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let topic = city.topic("probe");
    let colour = version("colour");
    let registry = FakeRegistry::start(always(404, "application/json", NO_SCHEMA));
    let store = city.store(&format!("[registry]\nurl = {:?}", registry.url()));
    store.await_ready().await;
    let record = confluent(77, &colour, &reading(&colour, "colour", "p", 1));
    let began = Instant::now();
    for _ in 0..500 {
        city.produce(&topic, "p", &record);
    }
    city.flush();
    eventually("all are kept", async || {
        (database.count("city.undecodable where reason = 'unknown_id'").await == 500).then_some(())
    })
    .await;
    // One in ten seconds, as long as that took.
    let questions_max = 1 + began.elapsed().as_secs() as usize / 10;
    let asked = registry.asked().len();
    assert!((1..=questions_max).contains(&asked), "{asked} questions");
    // Once it has the schema, the next record finds that out, and those before it are rows as well.
    registry.change(has(&colour));
    let mut number = 1;
    eventually("the next one is a row", async || {
        number += 1;
        let text = reading(&colour, "colour", "p", number);
        city.produce(&topic, "p", &confluent(77, &colour, &text));
        city.flush();
        (database.count("city.probe where number > 1").await > 0).then_some(())
    })
    .await;
    eventually("none is kept", async || {
        (database.count("city.undecodable").await == 0).then_some(())
    })
    .await;
    assert_eq!(database.count("city.probe where number = 1").await, 1);
    store.finish().await;
}

fn encoded_probe(device: &str, number: i64) -> Vec<u8> {
    let probe = Probe {
        device: device.into(),
        observed_ms: now_ms(),
        received_ms: now_ms(),
        number,
    };
    encoded(PROBE, &Schema::parse_str(PROBE).unwrap(), probe.value())
}
