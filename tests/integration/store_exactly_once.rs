//! `citygate store`: every reading becomes one row, whatever is killed meanwhile.
//!
//! The store is killed while readings are produced, and PostgreSQL, and one of two stores; at the end every row is compared with
//! what was produced. Nothing waits for a time: a killing comes after so many more rows, at a number drawn by a seed.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::harness::postgres::{Database, Postgres};
use crate::harness::store::{City, Probe, Store, assert_stored};
use crate::harness::{Broker, eventually, now_ms};

/// Readings of twenty devices, observed within the last hours, over a midnight at times.
fn probes(numbers: std::ops::Range<i64>) -> Vec<Probe> {
    let now = now_ms();
    numbers
        .map(|number| Probe {
            device: format!("probe-{}", number % 20),
            observed_ms: now - 6 * 3_600_000 + number * 250,
            received_ms: now,
            number,
        })
        .collect()
}

async fn rows(database: &Database) -> i64 {
    database.count("city.probe").await
}

/// Waits until there are so many rows.
async fn await_rows(database: &Database, count: i64) {
    let what = format!("{count} rows");
    eventually(&what, async || (rows(database).await >= count).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_killed_again_and_again_stores_each_reading_once() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 3).await;
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let all = probes(0..60_000);
    // Small batches: many transactions to be killed in.
    let mut store = city.store("instance = \"one\"\nbatch_readings = 200");
    let mut parts = all.chunks(5_000);
    for kill in 0..12 {
        if let Some(part) = parts.next() {
            city.produce_probes(part);
        }
        // It may be anywhere then: before a transaction, in it, in its commit, behind it.
        let more = random.random_range(1..4_000);
        let from = rows(&database).await;
        await_rows(&database, (from + more).min(5_000 * (kill + 1))).await;
        store.kill();
        store.start_again();
    }
    city.flush();
    await_rows(&database, all.len() as i64).await;
    store.await_ready().await;
    assert_stored(&database, &all).await;
    let stored: Vec<i64> = database
        .column("select sum(next_offset)::bigint from city.kafka_offset")
        .await;
    assert_eq!(stored, [all.len() as i64]);
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_has_each_reading_once() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::own()) else {
        return;
    };
    postgres.start();
    let database = postgres.only_database();
    let city = City::new(&broker, &database, 3).await;
    let all = probes(0..40_000);
    let store = city.store("batch_readings = 300");
    let mut killed = 0;
    for part in all.chunks(10_000) {
        city.produce_probes(part);
        let from = rows(&database).await;
        await_rows(&database, (from + 1_000).min(10_000 * (killed + 1))).await;
        postgres.kill();
        eventually("the store says why it waits", async || {
            let (status, why) = store.get("/readyz").await?;
            (status == 503 && why.starts_with("postgresql: postgresql at 127.0.0.1:")).then_some(())
        })
        .await;
        assert_eq!(store.metric("citygate_store_database_up", &[]).await, 0);
        postgres.start();
        killed += 1;
        await_rows(&database, 10_000 * killed).await;
    }
    city.flush();
    store.await_ready().await;
    assert_stored(&database, &all).await;
    assert!(
        store
            .metric("citygate_store_failures_total", &[("reason", "unavailable")])
            .await
            >= 4
    );
    // Each time once, however often it was tried.
    let lines = store.said();
    let told = lines.lines().filter(|line| line.contains("the store waits")).count();
    assert!((4..=24).contains(&told), "{told} lines:\n{lines}");
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_share_the_partitions_and_one_has_them_all_when_the_other_is_killed() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 6).await;
    let all = probes(0..60_000);
    let settings = "batch_readings = 500";
    let partitions = async |store: &Store, count: u64| {
        eventually(&format!("{count} partitions"), async || {
            (store.metric("citygate_store_partitions", &[]).await == count).then_some(())
        })
        .await;
    };
    let first = city.store(settings);
    city.produce_probes(&all[..20_000]);
    await_rows(&database, 500).await;
    // It joins while the first has a batch open.
    let mut second = city.store(settings);
    partitions(&first, 3).await;
    partitions(&second, 3).await;
    // Only now, or the first may have stored all of it alone.
    city.produce_probes(&all[20_000..40_000]);
    let from = rows(&database).await;
    await_rows(&database, (from + 2_000).min(40_000)).await;
    eventually("the second has stored some", async || {
        (second.metric("citygate_store_rows_total", &[]).await > 0).then_some(())
    })
    .await;
    second.kill();
    city.produce_probes(&all[40_000..]);
    partitions(&first, 6).await;
    // What each should have together with the others.
    let topic = city.topic("probe");
    eventually("it knows how many the topic has", async || {
        let has = first
            .metric("citygate_store_topic_partitions", &[("topic", &topic)])
            .await;
        (has == 6).then_some(())
    })
    .await;
    second.start_again();
    partitions(&second, 3).await;
    city.flush();
    await_rows(&database, all.len() as i64).await;
    assert_stored(&database, &all).await;
    let stored: i64 = first.metric("citygate_store_rows_total", &[]).await as i64;
    assert!(stored > 0 && stored < all.len() as i64, "{stored}");
    first.finish().await;
    partitions(&second, 6).await;
    second.finish().await;
}

/// Whoever believes to have a partition that another has stored further stores nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_behind_the_database_stores_nothing_twice() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let all = probes(0..3_000);
    let store = city.store("");
    city.produce_probes(&all[..1_000]);
    city.flush();
    await_rows(&database, 1_000).await;
    // As another instance would, in one transaction: it stores the next hundred (here: nothing of them), and says so.
    database
        .execute("update city.kafka_offset set next_offset = next_offset + 100")
        .await;
    city.produce_probes(&all[1_000..]);
    city.flush();
    await_rows(&database, 2_900).await;
    let expected = [&all[..1_000], &all[1_100..]].concat();
    eventually("it was fenced", async || {
        (store
            .metric("citygate_store_failures_total", &[("reason", "fenced")])
            .await
            == 1)
            .then_some(())
    })
    .await;
    assert_stored(&database, &expected).await;
    store.finish().await;
}

/// What the group decides while nothing can be stored is done as soon as something can.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_changes_while_the_database_is_gone_goes_on_when_it_is_back() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::own()) else {
        return;
    };
    postgres.start();
    let database = postgres.only_database();
    let city = City::new(&broker, &database, 4).await;
    let all = probes(0..12_000);
    let first = city.store("batch_readings = 300");
    city.produce_probes(&all[..4_000]);
    await_rows(&database, 1_000).await;
    postgres.kill();
    city.produce_probes(&all[4_000..8_000]);
    let mut second = city.store("batch_readings = 300");
    let members = async |count: usize| {
        eventually(&format!("{count} members"), async || {
            (city.members() == (count, "Stable".to_owned())).then_some(())
        })
        .await;
    };
    members(2).await;
    postgres.start();
    await_rows(&database, 8_000).await;
    postgres.kill();
    second.kill();
    city.produce_probes(&all[8_000..]);
    members(1).await;
    postgres.start();
    await_rows(&database, all.len() as i64).await;
    assert_stored(&database, &all).await;
    eventually("all partitions", async || {
        (first.metric("citygate_store_partitions", &[]).await == 4).then_some(())
    })
    .await;
    first.finish().await;
}
