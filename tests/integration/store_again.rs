//! Records whose schema a store does not know, and learns.
//!
//! From what another instance has noted in the database at once, from its own folder after a restart. Records that are no
//! readings stay where they are kept. Kafka and PostgreSQL are real ones.

use apache_avro::Schema;
use apache_avro::types::Value as Avro;

use crate::harness::postgres::{Database, Postgres};
use crate::harness::store::{City, PROBE, encoded};
use crate::harness::{Broker, eventually, now_ms};

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
