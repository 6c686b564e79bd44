//! `citygate store`: the SQL that computes results, and their way to topics.
//!
//! Files run in the order of their names, jobs again and again, on one instance; what fails stops nothing. What SQL puts into
//! `city.outbox` is in its topic, as JSON or as Avro, and in the outbox no more.

use apache_avro::Schema;
use serde_json::{Value, json};

use crate::harness::broker::read_all;
use crate::harness::postgres::Postgres;
use crate::harness::registry::{FakeRegistry, accepting};
use crate::harness::store::{City, Probe};
use crate::harness::{Broker, avro, eventually, now_ms};

fn sql(city: &City, file: &str, text: &str) {
    std::fs::write(city.sql().join(file), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_run_in_the_order_of_their_names_and_jobs_again_and_again() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    sql(&city, "20-second.sql", "insert into city.run values ('second');");
    sql(
        &city,
        "10-first.sql",
        "create table if not exists city.run (name text);\ninsert into city.run select 'first' from city.probe limit 0;",
    );
    sql(&city, "notes.txt", "no SQL");
    let jobs = "[[job]]\nname = \"count\"\nevery = \"100ms\"\nsql = \"insert into city.run values ('job')\"\n\
                [[job]]\nname = \"wrong\"\nevery = \"100ms\"\nsql = \"begin; insert into city.run values ('wrong'); select 1 / 0\"\n";
    sql(&city, "jobs.toml", jobs);
    let first = city.store("");
    let runs = "city.run where name = 'job'";
    eventually("the job has run", async || {
        (database.count(runs).await >= 3).then_some(())
    })
    .await;
    first.await_ready().await;
    assert_eq!(database.count("city.run where name = 'second'").await, 1);
    assert_eq!(database.count("city.run where name = 'wrong'").await, 0);
    // It is said, and readings are stored all the same.
    eventually("it says what failed", async || {
        let (status, said) = first.get("/readyz").await?;
        (status == 200 && said == "ok; jobs: wrong: division by zero\n").then_some(())
    })
    .await;
    let now = now_ms();
    let probe = Probe {
        device: "p".into(),
        observed_ms: now,
        received_ms: now,
        number: 1,
    };
    city.produce_probes(&[probe]);
    city.flush();
    eventually("it is stored", async || {
        (database.count("city.probe").await == 1).then_some(())
    })
    .await;
    assert!(
        first
            .metric("citygate_store_job_failures_total", &[("job_name", "wrong")])
            .await
            >= 1
    );
    assert_eq!(
        first
            .metric("citygate_store_job_failures_total", &[("job_name", "count")])
            .await,
        0
    );
    assert_eq!(first.said().matches("division by zero").count(), 1, "{}", first.said());
    // Another instance has nothing to do until the first one ends.
    let second = city.store("");
    second.await_ready().await;
    assert_eq!(second.metric("citygate_store_runs_jobs", &[]).await, 0);
    first.finish().await;
    eventually("the other one runs the jobs", async || {
        (second.metric("citygate_store_runs_jobs", &[]).await == 1).then_some(())
    })
    .await;
    let from = database.count(runs).await;
    eventually("the job runs on", async || {
        (database.count(runs).await > from).then_some(())
    })
    .await;
    second.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_fails_is_said_and_readings_are_stored() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    sql(&city, "10-wrong.sql", "select nothing_of_this_name();");
    let store = city.store("");
    eventually("it says which file", async || {
        let (status, said) = store.get("/readyz").await?;
        let file = "10-wrong.sql: function nothing_of_this_name() does not exist";
        (status == 200 && said.starts_with("ok; jobs: sql_files: ") && said.contains(file)).then_some(())
    })
    .await;
    assert_eq!(
        store
            .metric("citygate_store_job_failures_total", &[("job_name", "sql_files")])
            .await,
        1
    );
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_in_their_topic_and_in_the_outbox_no_more() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    for topic in ["alerts", "aggregates"] {
        broker.make_topic_of(&city.topic(topic), 1).await;
    }
    let schema = r#"{"type":"record","name":"Aggregate","namespace":"city","fields":[
        {"name":"id","type":"string"},
        {"name":"window_start","type":{"type":"long","logicalType":"timestamp-millis"}},
        {"name":"value","type":["null","double"],"default":null}]}"#;
    sql(&city, "city.aggregates.avsc", schema);
    let registry = FakeRegistry::start(|path| accepting(path, 41));
    let url = registry.url();
    let store = city.store(&format!("[registry]\nurl = {url:?}"));
    store.await_ready().await;
    let one = "insert into city.outbox (topic, key, value) values ";
    database
        .execute(&format!(
            "{one} ('city.alerts', 'a', '{{\"severity\": \"high\", \"n\": 1}}'), ('city.alerts', 'a', null)"
        ))
        .await;
    let start = "2026-11-28T10:00:00+00:00";
    database
        .execute(&format!(
            "{one} ('city.aggregates', 's/1', jsonb_build_object('id', '1', 'window_start', '{start}', 'value', 48.5)), \
             ('city.aggregates', 's/2', '{{\"id\": 5}}'), ('city.aggregates', 's/3', jsonb_build_object('id', '3', 'window_start', 0))"
        ))
        .await;
    eventually("the outbox is empty", async || {
        (database.count("city.outbox").await == 0).then_some(())
    })
    .await;
    let alerts = read_all(&city.servers, &city.topic("alerts"));
    let alerts: Vec<_> = alerts
        .iter()
        .map(|record| (record.key.as_str(), &*record.value))
        .collect();
    assert_eq!(alerts.len(), 2);
    assert_eq!(
        serde_json::from_slice::<Value>(alerts[0].1).unwrap(),
        json!({"severity": "high", "n": 1})
    );
    assert_eq!(alerts[1], ("a", &b""[..]));
    let parsed = Schema::parse_str(schema).unwrap();
    let aggregates = read_all(&city.servers, &city.topic("aggregates"));
    let decoded: Vec<_> = aggregates
        .iter()
        .map(|record| avro::confluent(&parsed, &record.value))
        .collect();
    assert_eq!(
        decoded,
        [
            (
                41,
                json!({"id": "1", "window_start": 1_795_860_000_000_i64, "value": 48.5})
            ),
            (41, json!({"id": "3", "window_start": 0, "value": null})),
        ]
    );
    // What does not fit its schema is not lost.
    let misfits = database
        .rows("select topic, detail, convert_from(value, 'UTF8') from city.undecodable")
        .await;
    assert_eq!(misfits.len(), 1);
    assert_eq!(misfits[0].get::<_, String>(0), city.topic("aggregates"));
    assert!(misfits[0].get::<_, String>(1).contains("id"), "{misfits:?}");
    assert_eq!(misfits[0].get::<_, String>(2), "{\"id\": 5}");
    assert_eq!(store.metric("citygate_store_published_total", &[]).await, 4);
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_whose_topic_is_missing_waits_for_it() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let store = city.store("");
    store.await_ready().await;
    database
        .execute(
            "insert into city.outbox (topic, key, value) values ('city.alerts', 'a', '1'), ('city.alerts', 'a', '2')",
        )
        .await;
    let topic = city.topic("alerts");
    eventually("it says which topic", async || {
        let (status, said) = store.get("/readyz").await?;
        (status == 200 && said.contains("results: ") && said.contains(&topic)).then_some(())
    })
    .await;
    assert_eq!(database.count("city.outbox").await, 2);
    broker.make_topic_of(&topic, 1).await;
    eventually("the outbox is empty", async || {
        (database.count("city.outbox").await == 0).then_some(())
    })
    .await;
    let values: Vec<_> = read_all(&city.servers, &topic)
        .into_iter()
        .map(|record| record.value)
        .collect();
    assert_eq!(values.last().unwrap(), b"2");
    store.finish().await;
}

/// One that Kafka does not accept as it is keeps those behind it waiting for ever, if it is not put elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_kafka_does_not_accept_is_kept_and_those_behind_it_are_published() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let (alerts, aggregates) = (city.topic("alerts"), city.topic("aggregates"));
    broker
        .make_topic_with(&alerts, 1, &[("max.message.bytes", "20000")])
        .await;
    broker
        .make_topic_with(&aggregates, 1, &[("cleanup.policy", "compact")])
        .await;
    let store = city.store("");
    store.await_ready().await;
    // Digits of hashes do not become small enough by compression. The second is too large for the broker, the third for the producer already.
    let text =
        |hashes: u32| format!("(select to_jsonb(string_agg(md5(n::text), '')) from generate_series(1, {hashes}) n)");
    // Together the last thirty are too large for a batch, none of them for itself.
    let add = format!(
        "insert into city.outbox (topic, key, value) values ('city.alerts', 'a', '1'), ('city.alerts', 'a', {}), \
         ('city.alerts', 'a', {}), ('city.alerts', 'a', '2'), ('city.aggregates', null, '3'), ('city.aggregates', 'b', '4'); \
         insert into city.outbox (topic, key, value) select 'city.alerts', 'c', to_jsonb(n || \
         (select string_agg(md5((n * 1000 + m)::text), '') from generate_series(1, 60) m)) from generate_series(100, 129) n",
        text(2_000),
        text(40_000),
    );
    database.execute(&add).await;
    eventually("the outbox is empty", async || {
        (database.count("city.outbox").await == 0).then_some(())
    })
    .await;
    let kept: Vec<String> = database
        .column("select topic || ' ' || partition || ' ' || reason || ' ' || length(value) from city.undecodable order by \"offset\"")
        .await;
    let expected = [
        format!("{alerts} -1 too_large {}", 2 + 32 * 2_000),
        format!("{alerts} -1 too_large {}", 2 + 32 * 40_000),
        format!("{aggregates} -1 not_accepted 1"),
    ];
    assert_eq!(kept, expected);
    let values = |topic: &str, key: &str| {
        let mut values: Vec<String> = Vec::new();
        for record in read_all(&city.servers, topic)
            .into_iter()
            .filter(|record| record.key == key)
        {
            let value = String::from_utf8(record.value).unwrap();
            // At least once: what was sent behind one that is not accepted is sent again.
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values
    };
    assert_eq!(values(&alerts, "a"), ["1", "2"]);
    assert_eq!(values(&aggregates, "b"), ["4"]);
    let numbers: Vec<i32> = values(&alerts, "c")
        .iter()
        .map(|text| text.get(1..4).unwrap().parse().unwrap())
        .collect();
    assert_eq!(numbers, (100..130).collect::<Vec<_>>());
    let counted = async |reason| {
        store
            .metric("citygate_store_undecodable_total", &[("reason", reason)])
            .await
    };
    assert_eq!([counted("too_large").await, counted("not_accepted").await], [2, 1]);
    // Said once for each topic and reason, and over.
    let said = store.said();
    assert_eq!(said.matches("a result cannot be published").count(), 2, "{said}");
    let (status, words) = store.get("/readyz").await.unwrap();
    assert_eq!((status, words.as_str()), (200, "ok\n"));
    store.finish().await;
}

/// Somebody's `alter table` that waits, a backup, a forgotten transaction: the store neither hangs nor is silent.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_lock_gives_up_says_so_and_goes_on_later() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    sql(
        &city,
        "10-tables.sql",
        "create table if not exists city.run (name text);",
    );
    let jobs = "[[job]]\nname = \"count\"\nevery = \"100ms\"\nsql = \"insert into city.run values ('job')\"\n";
    sql(&city, "jobs.toml", jobs);
    let store = city.store("");
    store.await_ready().await;
    eventually("the job has run", async || {
        (database.count("city.run").await > 0).then_some(())
    })
    .await;
    eventually("the database is seen to work", async || {
        (store.metric("citygate_store_database_up", &[]).await == 1).then_some(())
    })
    .await;
    let holder = database.connect().await;
    holder
        .batch_execute("begin; lock table city.run, city.probe in access exclusive mode")
        .await
        .unwrap();
    let now = now_ms();
    let probe = Probe {
        device: "p".into(),
        observed_ms: now,
        received_ms: now,
        number: 1,
    };
    city.produce_probes(&[probe]);
    city.flush();
    eventually("both give up, and say why", async || {
        let (status, said) = store.get("/readyz").await?;
        let timeout = "canceling statement due to lock timeout";
        (status == 503 && said.contains("postgresql: ") && said.matches(timeout).count() == 1).then_some(())
    })
    .await;
    let conflict = [("reason", "conflict")];
    assert_eq!(store.metric("citygate_store_database_unavailable", &conflict).await, 1);
    assert_eq!(store.metric("citygate_store_database_up", &[]).await, 0);
    let failures = [("job_name", "count")];
    eventually("the job has failed", async || {
        (store.metric("citygate_store_job_failures_total", &failures).await > 0).then_some(())
    })
    .await;
    let runs = {
        holder.batch_execute("rollback").await.unwrap();
        database.count("city.run").await
    };
    eventually("it is stored, and the job runs", async || {
        (database.count("city.probe").await == 1 && database.count("city.run").await > runs).then_some(())
    })
    .await;
    eventually("it says so", async || {
        let (status, said) = store.get("/readyz").await?;
        (status == 200 && said == "ok\n").then_some(())
    })
    .await;
    assert_eq!(store.metric("citygate_store_database_unavailable", &[]).await, 0);
    assert_eq!(store.metric("citygate_store_fault", &[]).await, 0);
    store.finish().await;
}
