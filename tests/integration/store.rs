//! `citygate store`: which rows records become, in a real PostgreSQL.
//!
//! Readings of every bundled kind, schemas that change, records that are no reading, readings that are late or too old, devices;
//! what it says while the database is unavailable, and what `citygate check` says before.

use apache_avro::Schema;
use apache_avro::types::Value as Avro;
use serde_json::{Value, json};

use crate::harness::gateway::TestGateway;
use crate::harness::postgres::{Database, Postgres};
use crate::harness::store::{City, PROBE, Probe, assert_stored, encoded};
use crate::harness::{Broker, Via, avro, eventually, now_ms, repository};

fn probe(device: &str, number: i64, observed_ms: i64, received_ms: i64) -> Probe {
    Probe {
        device: device.to_owned(),
        observed_ms,
        received_ms,
        number,
    }
}

async fn await_count(database: &Database, of: &str, count: i64) {
    let what = format!("{count} of {of}");
    eventually(&what, async || (database.count(of).await >= count).then_some(())).await;
}

/// Reasons of the records that are kept as they are, with how many there are of each.
async fn kept(database: &Database) -> Vec<(String, i64)> {
    let rows = database
        .rows("select reason, count(*) from city.undecodable group by reason order by reason")
        .await;
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// JSON that means the same: times in the same form, whole numbers as integers, without what says nothing.
fn plain(mut reading: Value) -> Value {
    let fields = reading.as_object_mut().unwrap();
    for own in [
        "device",
        "observed_at",
        "received_at",
        "is_late",
        "reading_id",
        "kafka_partition",
        "kafka_offset",
    ] {
        fields.remove(own);
    }
    avro::plain(reading)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_devices_send_of_every_kind_is_a_row_of_its_table() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let kinds = [
        "air",
        "energy",
        "noise",
        "parking",
        "streetlight",
        "traffic",
        "water",
        "weather",
    ];
    for kind in kinds {
        let text = std::fs::read_to_string(repository().join("schemas").join(format!("{kind}.avsc"))).unwrap();
        city.schema(kind, &text);
    }
    let gateway = TestGateway::start(&broker, |config| {
        config.kafka.topic_prefix = city.topic_prefix.clone();
        config.kafka.dead_letter_topic = format!("{}dead-letter", city.topic_prefix);
        config.schemas.kinds = vec!["*".into()];
    })
    .await;
    let sent = [
        ("air", json!({"pm10_ug_m3": 12.5, "status": "ok", "sequence": 7})),
        (
            "energy",
            json!({"power_w": -1899.8, "energy_import_kwh": 12_345_678.25, "phases": [{"phase": "L1", "voltage_v": 230.5}]}),
        ),
        ("noise", json!({"laeq_db": 61.5})),
        ("parking", json!({"spaces_occupied": 5})),
        ("streetlight", json!({"power_w": 55})),
        (
            "traffic",
            json!({"vehicle_count": 12, "speed_kmh": 48.5, "interval_s": 60, "classes": {"car": 10, "bus \"x\"": 2}}),
        ),
        ("water", json!({"volume_m3": 1.25})),
        (
            "weather",
            json!({"temperature_c": 21.5, "location": {"latitude": 48.1, "longitude": 11.5}}),
        ),
    ];
    let store = city.store("");
    for (kind, reading) in &sent {
        let mut client = gateway.client(Via::Http).await;
        let answer = client
            .send(&format!("devices/{kind}-1/{kind}"), "", reading.to_string().as_bytes())
            .await;
        assert!(answer.is_yes(Via::Http), "{kind}: {answer:?}");
    }
    for (kind, reading) in sent {
        let table = format!("city.{kind}");
        await_count(&database, &table, 1).await;
        let rows: Vec<String> = database
            .column(&format!("select to_jsonb(r)::text from {table} r"))
            .await;
        let rows: Vec<Value> = rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
        assert_eq!(rows.len(), 1, "{kind}");
        assert_eq!(rows[0]["device"], json!(format!("{kind}-1")));
        assert_eq!(rows[0]["is_late"], json!(false));
        assert_eq!(plain(rows[0].clone()), avro::plain(reading), "{kind}");
    }
    assert_eq!(kept(&database).await, []);
    store.finish().await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_gains_a_field_gains_a_column_and_what_was_written_before_is_still_read() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let now = now_ms();
    let old: Vec<_> = (0..10).map(|number| probe("p", number, now + number, now)).collect();
    let store = city.store("");
    city.produce_probes(&old[..5]);
    city.flush();
    await_count(&database, "city.probe", 5).await;
    store.finish().await;

    let field = r#"{"name":"colour","type":["null","string"],"default":null}]}"#;
    let later = format!("{},{field}", PROBE.strip_suffix("]}").unwrap());
    city.schema("probe", &later);
    let schema = Schema::parse_str(&later).unwrap();
    let store = city.store("");
    // Gateways that were not restarted yet write as before.
    city.produce_probes(&old[5..]);
    let new = probe("p", 10, now + 10, now);
    let Avro::Record(mut fields) = new.value() else {
        unreachable!()
    };
    fields.push(("colour".into(), Avro::Union(1, Box::new(Avro::String("grün".into())))));
    city.produce(
        &city.topic("probe"),
        "p",
        &encoded(&later, &schema, Avro::Record(fields)),
    );
    city.flush();
    await_count(&database, "city.probe", 11).await;
    assert_stored(&database, &[old, vec![new]].concat()).await;
    let colours: Vec<Option<String>> = database.column("select colour from city.probe order by number").await;
    assert_eq!(colours[..10], [const { None }; 10]);
    assert_eq!(colours[10].as_deref(), Some("grün"));
    assert_eq!(kept(&database).await, []);
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_of_another_type_keeps_a_store_from_starting_and_check_says_why() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let store = city.store("");
    let before = String::from_utf8(store.command("check").stdout).unwrap();
    store.await_ready().await;
    let after = String::from_utf8(store.command("check").stdout).unwrap();
    store.finish().await;
    assert!(
        before.contains("ok       store: ") || before.contains("these tables"),
        "{before}"
    );
    assert!(
        after.contains("these tables are as the schemas need them: city.probe"),
        "{after}"
    );

    city.schema(
        "probe",
        &PROBE.replace(r#""number","type":"long""#, r#""number","type":"string""#),
    );
    let mut store = city.store("");
    let status = store.ended().await;
    assert_eq!(status.code(), Some(1));
    let why = "city.probe: column number is bigint, and the schema's field needs text; give the field another name, or rename the column";
    assert!(store.said().contains(why), "{}", store.said());
    let check = String::from_utf8(store.command("check").stdout).unwrap();
    assert!(check.contains(&format!("error    store: {why}")), "{check}");
}

/// Any program may write to a topic. Nothing of it stops the flow, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_reading_is_kept_with_its_reason_and_the_others_are_stored() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let other = r#"{"type":"record","name":"Other","fields":[{"name":"text","type":"string"}]}"#;
    city.schema("other", other);
    broker.make_topic_of(&city.topic("other"), 1).await;
    let (schema, other_schema) = (Schema::parse_str(PROBE).unwrap(), Schema::parse_str(other).unwrap());
    let now = now_ms();
    let good = [probe("p", 1, now, now), probe("p", 2, now, now)];
    let whole = encoded(PROBE, &schema, good[0].value());
    let of = |probe: Probe| encoded(PROBE, &schema, probe.value());
    let text = |text: &str| {
        let record = Avro::Record(vec![("text".into(), Avro::String(text.into()))]);
        encoded(other, &other_schema, record)
    };
    let topic = city.topic("probe");
    city.produce_probes(&good[..1]);
    let poison: [(&str, &[u8], &str); 11] = [
        ("p", b"", "unknown_format"),
        ("p", b"{\"number\":1}", "unknown_format"),
        ("p", &whole[..whole.len() - 1], "too_short"),
        ("p", &[&whole[..], b"x"].concat(), "too_long"),
        ("p", &[0xC3, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9], "unknown_fingerprint"),
        ("p", &[0, 0, 0, 0, 7, 1, 2, 3], "no_registry"),
        ("p", &text("x"), "other_kind"),
        ("not a device", &whole, "no_device"),
        ("", &whole, "no_device"),
        ("q", &whole, "other_device"),
        ("p", &of(probe("p", 3, now + 3 * 24 * 3_600_000, now)), "ahead"),
    ];
    for (key, value, _) in &poison {
        city.produce(&topic, key, value);
    }
    city.produce(&city.topic("other"), "p", &text("nothing\0"));
    city.produce(&city.topic("other"), "p", &text("something"));
    // What the database alone refuses.
    let store = city.store("");
    store.await_ready().await;
    await_count(&database, "city.undecodable", 12).await;
    database
        .execute("alter table city.other add check (text !~ 'refused')")
        .await;
    for word in ["one", "refused 1", "two", "refused 2", "three"] {
        city.produce(&city.topic("other"), "p", &text(word));
    }
    city.produce_probes(&good[1..]);
    city.flush();
    await_count(&database, "city.undecodable", 14).await;
    await_count(&database, "city.other", 4).await;
    await_count(&database, "city.probe", 2).await;
    assert_stored(&database, &good).await;
    let texts: Vec<String> = database
        .column("select text from city.other order by kafka_offset")
        .await;
    assert_eq!(texts, ["something", "one", "two", "three"]);
    let rows = database
        .rows("select key, value, reason from city.undecodable where topic like '%probe' order by \"offset\"")
        .await;
    let rows: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let expected: Vec<(Vec<u8>, Vec<u8>, String)> = poison
        .iter()
        .map(|(key, value, reason)| (key.as_bytes().to_vec(), value.to_vec(), (*reason).to_owned()))
        .collect();
    assert_eq!(rows, expected);
    let counted = async |reason: &str| {
        store
            .metric("citygate_store_undecodable_total", &[("reason", reason)])
            .await
    };
    assert_eq!(
        (
            counted("no_device").await,
            counted("nul").await,
            counted("refused").await
        ),
        (2, 1, 2)
    );
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_is_in_the_topic_twice_is_one_row() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 2).await;
    let now = now_ms();
    let all: Vec<_> = (0..200)
        .map(|number| probe("p", number, now - number * 1000, now))
        .collect();
    let store = city.store("");
    // In the same batch, and in a later one; received at another time, as a device sends it again.
    city.produce_probes(&[&all[..50], &all[..50]].concat());
    city.flush();
    await_count(&database, "city.probe", 50).await;
    let again: Vec<_> = all
        .iter()
        .cloned()
        .map(|probe| Probe {
            received_ms: now + 5,
            ..probe
        })
        .collect();
    city.produce_probes(&again);
    city.flush();
    await_count(&database, "city.probe", 200).await;
    eventually("the duplicates are counted", async || {
        (store
            .metric("citygate_store_duplicates_total", &[("kind", "probe")])
            .await
            == 100)
            .then_some(())
    })
    .await;
    let expected: Vec<_> = all[..50].iter().chain(&again[50..]).cloned().collect();
    assert_stored(&database, &expected).await;
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_are_kept_for_as_long_as_retention_says_by_whole_days() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    const DAY_MS: i64 = 24 * 3_600_000;
    let now = now_ms();
    let midnight = now - now.rem_euclid(DAY_MS);
    let at = |number: i64, observed_ms: i64| probe("p", number, observed_ms, now);
    let old = [at(1, midnight - 40 * DAY_MS), at(2, midnight - 3 * DAY_MS - 1)];
    let kept = [at(3, midnight - 3 * DAY_MS), at(4, midnight - 1), at(5, now)];
    let store = city.store("");
    city.produce_probes(&[&old[..], &kept[..]].concat());
    city.flush();
    await_count(&database, "city.probe", 5).await;
    store.finish().await;
    let partitions = async || {
        let names = "select relname::text from pg_class where relname ~ '^probe_[0-9]+$' and relkind = 'r'";
        database.count(&format!("({names}) partitions")).await
    };
    let before = partitions().await;

    // What is too old is dropped with its day, and not stored any more.
    let store = city.store("retention = \"72h\"");
    city.produce_probes(&[at(6, midnight - 4 * DAY_MS), at(7, now - 1)]);
    city.flush();
    eventually("it is counted", async || {
        (store.metric("citygate_store_expired_total", &[]).await == 1).then_some(())
    })
    .await;
    await_count(&database, "city.probe", 4).await;
    assert_stored(&database, &[&kept[..], &[at(7, now - 1)]].concat()).await;
    assert_eq!(partitions().await, before - 2);
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_of_a_closed_window_makes_it_due_and_a_late_one_is_only_counted() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let now = now_ms();
    let minute = now - now.rem_euclid(60_000);
    let store = city.store("late_after = \"30m\"");
    store.await_ready().await;
    city.produce_probes(&[probe("p", 1, minute - 600_000, now)]);
    city.flush();
    await_count(&database, "city.probe", 1).await;
    assert_eq!(database.count("city.window_due").await, 0, "nothing is closed yet");
    database
        .execute(&format!(
            "update city.window_progress set closed_until = to_timestamp({} / 1000) where kind = 'probe'",
            minute
        ))
        .await;
    city.produce_probes(&[
        probe("p", 2, minute - 1, now),
        probe("p", 3, minute - 60_000, now),
        probe("q", 4, minute - 600_000, now),
        probe("p", 5, minute, now),
        probe("p", 6, minute - 1_800_001, minute),
    ]);
    city.flush();
    await_count(&database, "city.probe", 6).await;
    let due = database
        .rows("select distinct kind, device, (extract(epoch from window_start) * 1000)::bigint from city.window_due order by 1, 2, 3")
        .await;
    let due: Vec<(String, String, i64)> = due.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let expected = [("p", minute - 60_000), ("q", minute - 600_000)];
    assert_eq!(
        due,
        expected.map(|(device, start)| ("probe".to_owned(), device.to_owned(), start))
    );
    let late: Vec<i64> = database.column("select number from city.probe where is_late").await;
    assert_eq!(late, [6]);
    assert_eq!(store.metric("citygate_store_late_total", &[("kind", "probe")]).await, 1);

    // All is stored: so is what has been received until now, whatever partition it would be in.
    let stored = "select (extract(epoch from min(received_at)) * 1000)::bigint from city.stored where kind = 'probe'";
    eventually("the store has caught up", async || {
        let until: Vec<Option<i64>> = database.column(stored).await;
        (until[0]? > now).then_some(())
    })
    .await;
    assert_eq!(store.metric("citygate_store_lag_records", &[]).await, 0);
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_what_their_last_record_says() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let topic = city.topic("devices");
    broker.make_topic_of(&topic, 2).await;
    let store = city.store("");
    let say = |device: &str, value: Value| city.produce(&topic, device, value.to_string().as_bytes());
    say("a", json!({"kind": "traffic", "segment": "old"}));
    say("b", json!({"kind": "weather"}));
    say("c", json!({"kind": "weather", "latitude": "north"}));
    say("e", json!({"kind": "weather", "interval_s": 1e300}));
    say("f", json!({"district": "x".repeat(20_000)}));
    city.produce(&topic, "d", b"no JSON");
    say(
        "a",
        json!({"kind": "traffic", "segment": "ring-1", "position_m": 120.5, "upstream": ["b", "c"], "lane_count": 2,
        "unknown": {}, "valid_from": "2026-11-28T00:00:00Z"}),
    );
    city.flush();
    await_count(&database, "city.device", 2).await;
    await_count(&database, "city.undecodable", 4).await;
    city.produce(&topic, "b", b"");
    city.flush();
    eventually("b is gone", async || {
        (database.count("city.device").await == 1).then_some(())
    })
    .await;
    let rows: Vec<String> = database
        .column(
            "select jsonb_strip_nulls(to_jsonb(d) - array['kafka_partition', 'written_at'])::text from city.device d",
        )
        .await;
    assert_eq!(
        serde_json::from_str::<Value>(&rows[0]).unwrap(),
        json!({"device": "a", "kind": "traffic", "segment": "ring-1", "position_m": 120.5, "upstream": ["b", "c"], "lane_count": 2,
            "valid_from": "2026-11-28T00:00:00+00:00"})
    );
    assert_eq!(kept(&database).await, [("device".to_owned(), 4)]);
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_starts_before_its_database_says_so_and_stores_everything_later() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::own()) else {
        return;
    };
    let database = postgres.only_database();
    let city = City::new(&broker, &database, 2).await;
    let now = now_ms();
    let all: Vec<_> = (0..500)
        .map(|number| probe("p", number, now - number * 60_000, now))
        .collect();
    city.produce_probes(&all);
    city.flush();
    let store = city.store("");
    eventually("it says what it waits for", async || {
        let (status, why) = store.get("/readyz").await?;
        (status == 503 && why.contains("postgresql at 127.0.0.1:") && why.contains("refused")).then_some(())
    })
    .await;
    assert_eq!(store.get("/livez").await, Some((200, "ok\n".to_owned())));
    let check = store.command("check");
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(said.contains("error    store: postgresql at 127.0.0.1:"), "{said}");
    // Whoever reloads all that is citygate's ends nothing.
    store.signal("HUP");
    eventually("it says what is not read again", async || {
        store.said().contains("SIGHUP: settings").then_some(())
    })
    .await;
    postgres.start();
    await_count(&database, "city.probe", 500).await;
    store.await_ready().await;
    assert_stored(&database, &all).await;
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_a_database_says_what_to_set() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("citygate.toml");
    let schemas = repository().join("schemas");
    let check = |more: &str, code: i32, expected: &str| {
        std::fs::write(&file, format!("schemas.folder = {schemas:?}\n[store]\n{more}")).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_citygate"));
        let output = command.args(["store", "--config"]).arg(&file).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    };
    check("", 64, "citygate: store.database_url is not set; it names the database");
    check(
        "database_url = \"mysql://city:hunter2@db/city\"",
        64,
        "store.database_url, store.database_url_file: is not understood;",
    );
    check(
        "database_url_file = \"/nowhere/url\"",
        64,
        "store.database_url_file: /nowhere/url cannot be read",
    );
    check(
        "batch_readings = 0",
        64,
        "store.batch_readings: must be between 1 and 100000",
    );
    check(
        "database_url = \"postgresql://city:hunter2@db/city\"\nlisten = \"0.0.0.0:9465\"",
        64,
        "store.listen: 0.0.0.0:9465 is beyond loopback, and whoever reaches it may read the metrics; store.allow_anonymous = true",
    );
}
