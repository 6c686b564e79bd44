//! `citygate store`: what one of several instances does, when that one loses its lock, and who may take the locks at all.
//!
//! The connection that has a lock is ended in the database, as an administrator or a failover does. Results in the outbox are
//! published at least once: those that were sent and not deleted yet are sent again, in their order, so that of each key what was
//! written last is last in the topic.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::harness::broker::read_all;
use crate::harness::postgres::{Database, Postgres};
use crate::harness::store::{City, Store};
use crate::harness::{Broker, eventually, repository};

/// As `src/store/database.rs` has it.
const LOCKS: i32 = 0x6369_7479;
const LOCK_JOBS: i32 = 2;
const LOCK_OUTBOX: i32 = 3;

const KEYS: usize = 7;

/// Ends the connection that has a lock; false: none has.
async fn end_holder(database: &Database, lock: i32) -> bool {
    let end = format!(
        "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted and classid = {LOCKS} and objid = {lock} \
         and database = (select oid from pg_database where datname = current_database())"
    );
    let ended: Vec<bool> = database.column(&end).await;
    ended == [true]
}

/// Adds results, by turns under each key, with numbers that go on.
async fn add_results(database: &Database, numbers: std::ops::Range<usize>) {
    let add = format!(
        "insert into city.outbox (topic, key, value) select 'city.alerts', 'key-' || n % {KEYS}, to_jsonb(n) \
         from generate_series({}, {}) n order by n",
        numbers.start,
        numbers.end - 1
    );
    database.execute(&add).await;
}

async fn published(store: &Store) -> u64 {
    store.metric("citygate_store_published_total", &[]).await
}

/// Which of the two publishes: whose number goes up.
async fn await_published(store: &Store, from: u64, what: &str) {
    eventually(what, async || (published(store).await > from).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_neither_lost_nor_reordered_when_the_publishing_instance_loses_its_lock() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let topic = city.topic("alerts");
    broker.make_topic_of(&topic, 3).await;
    let mut holder = city.store("");
    holder.await_ready().await;
    add_results(&database, 0..100).await;
    await_published(&holder, 0, "the first one publishes").await;
    let mut other = city.store("");
    other.await_ready().await;
    let (mut number, turns) = (100, 4);
    for turn in 0..turns {
        let from = published(&other).await;
        // More than are sent at a time, so that it is in the middle of them.
        add_results(&database, number..number + 5_000).await;
        number += 5_000;
        let sent = published(&holder).await;
        await_published(&holder, sent, "it publishes them").await;
        eventually("its connection ends", async || {
            end_holder(&database, LOCK_OUTBOX).await.then_some(())
        })
        .await;
        add_results(&database, number..number + 100).await;
        number += 100;
        await_published(&other, from, &format!("the other one publishes, turn {turn}")).await;
        std::mem::swap(&mut holder, &mut other);
    }
    eventually("the outbox is empty", async || {
        (database.count("city.outbox").await == 0).then_some(())
    })
    .await;
    let mut by_key: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for record in read_all(&city.servers, &topic) {
        let number = std::str::from_utf8(&record.value).unwrap().parse().unwrap();
        by_key.entry(record.key).or_default().push(number);
    }
    assert_eq!(by_key.len(), KEYS);
    for (key, numbers) in &by_key {
        // Each for the first time in its order, however often it is there again.
        let mut firsts: Vec<usize> = Vec::new();
        for number in numbers {
            if firsts.last().is_none_or(|last| number > last) {
                firsts.push(*number);
            }
        }
        let of_key: Vec<usize> = (0..number)
            .filter(|number| format!("key-{}", number % KEYS) == *key)
            .collect();
        assert_eq!(firsts, of_key, "{key}");
        assert_eq!(numbers.last(), of_key.last(), "{key}");
    }
    holder.finish().await;
    other.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_instance_runs_the_jobs_when_a_connection_is_ended() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let files = [
        ("10-run.sql", "create table if not exists city.run (at timestamptz)"),
        (
            "jobs.toml",
            "[[job]]\nname = \"count\"\nevery = \"100ms\"\nsql = \"insert into city.run values (now())\"\n",
        ),
    ];
    for (name, text) in files {
        std::fs::write(city.sql().join(name), text).unwrap();
    }
    let runs_jobs = async |store: &Store| store.metric("citygate_store_runs_jobs", &[]).await;
    let mut holder = city.store("");
    eventually("the first one runs them", async || {
        (runs_jobs(&holder).await == 1 && database.count("city.run").await > 0).then_some(())
    })
    .await;
    let mut other = city.store("");
    other.await_ready().await;
    for _ in 0..2 {
        assert!(end_holder(&database, LOCK_JOBS).await);
        eventually("the other one runs them, and no two do", async || {
            (runs_jobs(&other).await == 1 && runs_jobs(&holder).await == 0).then_some(())
        })
        .await;
        let runs = database.count("city.run").await;
        eventually("they run", async || {
            (database.count("city.run").await > runs).then_some(())
        })
        .await;
        std::mem::swap(&mut holder, &mut other);
    }
    holder.finish().await;
    other.finish().await;
}

/// Whoever has a lock keeps the store from working: those who only read cannot take one.
#[tokio::test(flavor = "multi_thread")]
async fn grafanas_user_takes_no_lock_and_the_stores_user_does() {
    let Some(postgres) = Postgres::own() else {
        return;
    };
    postgres.start();
    postgres.run_file(&repository().join("deploy/postgres/setup/roles.sql"));
    let locks = [
        "pg_advisory_lock",
        "pg_try_advisory_lock",
        "pg_advisory_lock_shared",
        "pg_try_advisory_lock_shared",
        "pg_advisory_xact_lock",
        "pg_try_advisory_xact_lock",
        "pg_advisory_xact_lock_shared",
        "pg_try_advisory_xact_lock_shared",
    ];
    let log_in = async |user: &str| {
        let url = postgres.only_database().url.replace("//city@", &format!("//{user}@"));
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let grafana = log_in("grafana").await;
    for lock in locks {
        for arguments in [format!("{LOCKS}, {LOCK_JOBS}"), "42".to_owned()] {
            let refused = grafana.batch_execute(&format!("select {lock}({arguments})")).await;
            let code = refused.err().and_then(|error| error.code().cloned());
            assert_eq!(code, Some(SqlState::INSUFFICIENT_PRIVILEGE), "{lock}({arguments})");
        }
    }
    let citygate = log_in("citygate").await;
    let ask = format!("select pg_try_advisory_lock({LOCKS}, {LOCK_JOBS})");
    let taken = tokio::time::timeout(Duration::from_secs(10), citygate.query_one(&ask, &[])).await;
    assert!(taken.unwrap().unwrap().get::<_, bool>(0));
}
