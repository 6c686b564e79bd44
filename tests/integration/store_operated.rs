//! What people and machines do to a database that a store writes to: partitions detached, columns widened, tables of an earlier version,
//! topics made anew, clocks that are wrong.
//!
//! Whatever it is, what can be stored is stored, what cannot be yet is kept, and it is said. Kafka and PostgreSQL are real ones.

use serde_json::json;

use crate::harness::postgres::{Database, Postgres};
use crate::harness::store::{City, PROBE, Probe};
use crate::harness::{Broker, eventually, now_ms};

const DAY_MS: i64 = 24 * 3_600_000;

fn probe(number: i64, observed_ms: i64) -> Probe {
    Probe {
        device: "p".to_owned(),
        observed_ms,
        received_ms: now_ms(),
        number,
    }
}

async fn await_rows(database: &Database, query: &str, expected: &[&str]) {
    let what = format!("{expected:?} of {query}");
    eventually(&what, async || {
        let rows: Vec<String> = database.column(query).await;
        (rows == expected).then_some(())
    })
    .await;
}

const NUMBERS: &str = "select number::text from city.probe order by number";
const KEPT: &str = "select reason from city.undecodable order by partition, \"offset\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_was_detached_stays_so_and_its_readings_wait_for_it() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let (now, yesterday) = (now_ms(), now_ms() - DAY_MS);
    let store = city.store("");
    city.produce_probes(&[probe(1, yesterday), probe(2, now)]);
    city.flush();
    await_rows(&database, NUMBERS, &["1", "2"]).await;
    store.finish().await;
    let names = "select relname::text from pg_class c join pg_inherits on inhrelid = c.oid where relname like 'probe%' and relkind = 'r' order by 1";
    let day = &database.column::<String>(names).await[0];
    database
        .execute(&format!("alter table city.probe detach partition city.{day}"))
        .await;

    let store = city.store("");
    city.produce_probes(&[probe(3, yesterday), probe(4, now), probe(5, yesterday), probe(6, now)]);
    city.flush();
    await_rows(&database, NUMBERS, &["2", "4", "6"]).await;
    await_rows(&database, KEPT, &["detached", "detached"]).await;
    assert!(
        store.said().contains("a day's partition is detached"),
        "{}",
        store.said()
    );
    store.finish().await;

    let bounds = "select format('from (%L) to (%L)', d, d + interval '1 day') from (select date_trunc('day', observed_at, 'UTC') d from city.";
    let bounds: Vec<String> = database.column(&format!("{bounds}{day} limit 1) of")).await;
    database
        .execute(&format!(
            "alter table city.probe attach partition city.{day} for values {}",
            bounds[0]
        ))
        .await;
    let store = city.store("");
    await_rows(&database, NUMBERS, &["1", "2", "3", "4", "5", "6"]).await;
    await_rows(&database, KEPT, &[]).await;
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_wrong_clock_nothing_is_stored_and_nothing_dropped() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let store = city.store("");
    city.produce_probes(&[probe(1, now_ms() - 3 * DAY_MS), probe(2, now_ms())]);
    city.flush();
    await_rows(&database, NUMBERS, &["1", "2"]).await;
    store.finish().await;

    let mut store = city.store_ahead("+500d");
    city.produce_probes(&[probe(3, now_ms())]);
    city.flush();
    eventually("it says what is wrong", async || {
        let (status, why) = store.get("/readyz").await?;
        (status == 503 && why.contains("the clocks of this host and of postgresql differ by 12000h")).then_some(())
    })
    .await;
    let reason = [("reason", "clocks")];
    assert_eq!(store.metric("citygate_store_database_unavailable", &reason).await, 1);
    store.kill();
    await_rows(&database, NUMBERS, &["1", "2"]).await;

    let store = city.store("");
    await_rows(&database, NUMBERS, &["1", "2", "3"]).await;
    await_rows(&database, KEPT, &[]).await;
    store.finish().await;
}

/// A gateway whose clock was ahead for an hour would close windows before their readings are stored, for a year.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_stored_until_later_than_now() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let ahead = Probe {
        received_ms: now_ms() + 365 * DAY_MS,
        ..probe(1, now_ms())
    };
    let store = city.store("");
    city.produce_probes(&[ahead]);
    city.flush();
    await_rows(&database, NUMBERS, &["1"]).await;
    await_rows(
        &database,
        "select (received_at <= now())::text from city.stored",
        &["true"],
    )
    .await;
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_a_topic_has_no_more_are_forgotten() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 2).await;
    let topic = city.topic("probe");
    let store = city.store("");
    store.await_ready().await;
    store.finish().await;
    let before = format!(
        "insert into city.kafka_offset select '{topic}', p, 7 from generate_series(2, 5) p; \
         insert into city.stored select 'probe', p, '2026-01-01' from generate_series(2, 5) p"
    );
    database.execute(&before).await;
    let store = city.store("");
    let known = "select distinct partition::text from city.stored where kind = 'probe' \
                 union select partition::text from city.kafka_offset where topic like '%probe' order by 1";
    await_rows(&database, known, &["0", "1"]).await;
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_what_was_said_last_in_whatever_partition_and_a_table_gains_what_that_needs() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let topic = city.topic("devices");
    broker.make_topic_of(&topic, 2).await;
    // As the first versions made it.
    let before = "create schema city; \
                  create table city.device (device text primary key, kind text, latitude double precision, longitude double precision, \
                    segment text, position_m double precision, upstream text[], downstream text[], lane_count integer, district text, \
                    feeder text, cell text, operator text, interval_s double precision, cabinet text, capacity_w double precision, \
                    valid_from timestamptz); \
                  insert into city.device (device, district) values ('old', 'north'), ('a', 'north')";
    database.execute(before).await;
    let now = now_ms();
    let say = |partition: i32, age: i64, device: &str, district: &str| {
        let value = match district {
            "" => String::new(),
            district => json!({"district": district}).to_string(),
        };
        city.produce_to(&topic, partition, now - age, device, value.as_bytes());
        city.flush();
    };
    // The partition that `a` to `d` were in before the topic was given more; read before the other one, behind it, and with it.
    say(1, 1_000, "a", "new");
    say(1, 1_000, "b", "");
    say(0, 9_000, "a", "stale");
    say(0, 9_000, "b", "stale");
    let store = city.store("");
    let devices = "select device || ' ' || district from city.device order by 1";
    await_rows(&database, devices, &["a new", "old north"]).await;
    say(0, 5_000, "a", "stale");
    say(0, 5_000, "b", "stale");
    say(0, 5_000, "c", "old");
    await_rows(&database, devices, &["a new", "c old", "old north"]).await;
    // In one partition the later offset counts, whatever the writer's clock said.
    say(0, 7_000, "c", "new");
    say(1, 500, "b", "back");
    say(1, 8_000, "old", "south");
    await_rows(&database, devices, &["a new", "b back", "c new", "old south"]).await;
    say(0, 100, "a", "");
    say(0, 100, "c", "");
    await_rows(&database, devices, &["b back", "old south"]).await;
    store.finish().await;

    // All of it once more, as after a restore of nothing.
    database
        .execute("delete from city.kafka_offset; delete from city.device; delete from city.device_gone")
        .await;
    let store = city.store("");
    await_rows(&database, devices, &["b back", "old south"]).await;
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_a_view_uses_is_widened_as_the_error_says() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    city.schema(
        "probe",
        &PROBE.replace(r#""number","type":"long""#, r#""number","type":"int""#),
    );
    let store = city.store("");
    store.await_ready().await;
    store.finish().await;
    let view = "create view city.probe_reading as select device, number from city.probe; \
                create view city.v_probe as select count(*) from city.probe_reading";
    database.execute(view).await;

    city.schema("probe", PROBE);
    let mut store = city.store("");
    assert_eq!(store.ended().await.code(), Some(1));
    let said = store.said();
    let (_, statements) = said
        .split_once("with the store stopped, run: ")
        .expect("it says what to run");
    database.execute(statements.lines().next().unwrap()).await;

    let store = city.store("");
    city.produce_probes(&[probe(i64::from(i32::MAX) + 1, now_ms())]);
    city.flush();
    await_rows(&database, NUMBERS, &["2147483648"]).await;
    store.finish().await;
}

/// Offsets begin anew with a topic: what they were of the other one says nothing, whether it is shorter now or longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_is_read_from_its_beginning() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let topic = city.topic("probe");
    let produce = |numbers: std::ops::Range<i64>| {
        let now = now_ms();
        let probes: Vec<_> = numbers.map(|number| probe(number, now - number)).collect();
        city.produce_probes(&probes);
        city.flush();
    };
    let rows = "select count(*)::text from city.probe";
    let store = city.store("");
    produce(0..20);
    await_rows(&database, rows, &["20"]).await;

    // While the store runs, and shorter than what is stored.
    broker.delete_topic(&topic).await;
    broker.await_gone(&topic).await;
    broker.make_topic_of(&topic, 1).await;
    produce(20..25);
    await_rows(&database, rows, &["25"]).await;
    assert!(store.said().contains("it was made anew"), "{}", store.said());
    store.finish().await;

    // While it is stopped, and longer.
    broker.delete_topic(&topic).await;
    broker.await_gone(&topic).await;
    broker.make_topic_of(&topic, 1).await;
    produce(25..65);
    let store = city.store("");
    await_rows(&database, rows, &["65"]).await;
    assert!(store.said().contains("it was made anew"), "{}", store.said());
    store.finish().await;

    // The same topic once more: nothing is read twice.
    let store = city.store("");
    produce(65..66);
    await_rows(&database, rows, &["66"]).await;
    assert!(!store.said().contains("it was made anew"), "{}", store.said());
    assert_eq!(store.metric("citygate_store_duplicates_total", &[]).await, 0);
    store.finish().await;
}

/// Whoever runs SQL that never ends is not waited for once it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_has_asked_for_ends_with_it() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    std::fs::create_dir_all(city.sql()).unwrap();
    let file = city.sql().join("10-long.sql");
    std::fs::write(&file, "select pg_sleep(1000)").unwrap();
    let store = city.store("");
    let asleep = "select count(*)::text from pg_stat_activity \
                  where datname = current_database() and query = 'select pg_sleep(1000)' and state = 'active'";
    await_rows(&database, asleep, &["1"]).await;
    store.finish().await;
    await_rows(&database, asleep, &["0"]).await;
    std::fs::write(&file, "select 1").unwrap();
    let store = city.store("");
    eventually("the next one runs the jobs", async || {
        store.said().contains("this instance runs the jobs").then_some(())
    })
    .await;
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_jobs_need_is_made_again_after_somebody_has_dropped_it() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    std::fs::create_dir_all(city.sql()).unwrap();
    let made = "create or replace function city.job() returns void language sql as $$ \
                insert into city.outbox (topic, key) values ('none', 'x') $$";
    std::fs::write(city.sql().join("10-made.sql"), made).unwrap();
    let job = "[[job]]\nname = \"job\"\nevery = \"200ms\"\nsql = \"select city.job()\"\n";
    std::fs::write(city.sql().join("jobs.toml"), job).unwrap();
    let store = city.store("");
    let runs = "select (count(*) > 3)::text from city.outbox";
    await_rows(&database, runs, &["true"]).await;
    database
        .execute("drop function city.job; delete from city.outbox")
        .await;
    await_rows(&database, runs, &["true"]).await;
    store.finish().await;
}
