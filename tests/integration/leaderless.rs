//! A partition that nobody serves concerns its own readings only, live and in the backlog of an outage.
//!
//! librdkafka's mock stands for Kafka: of its two brokers the second is down, and leads what is to stall. (A produce request
//! for a partition without any leader makes the mock itself crash, so where no leader is named nothing is sent.)

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use citygate::operate::config::Config;

use crate::harness::{Broker, Client, TEST_TIMEOUT, TestGateway, Via, eventually};

const DEVICES: usize = 24;
const PARTITIONS: i32 = 3;
const STALLED: i32 = 1;
const UP: i32 = 1;
const DOWN: i32 = 2;

async fn send(client: &mut Client, device: usize, sequence: u64) {
    let reading = format!(r#"{{"temperature_c": 21.5, "sequence": {sequence}}}"#);
    let answer = client
        .send(&format!("devices/d{device}/weather"), "", reading.as_bytes())
        .await;
    assert!(answer.is_yes(Via::Http), "{device}, {sequence}: {answer:?}");
}

async fn send_all(client: &mut Client, devices: &[usize], sequence: u64) {
    for device in devices {
        send(client, *device, sequence).await;
    }
}

/// Which partition each device is on: one reading of each tells.
async fn partitions(gateway: &TestGateway, client: &mut Client) -> BTreeMap<usize, i32> {
    for device in 0..DEVICES {
        send(client, device, 1).await;
    }
    // The producer may not know yet who leads them.
    eventually("all are in Kafka", async || (spooled(gateway).await == 0).then_some(())).await;
    let records = gateway.records("weather");
    let partition_of = |device: usize| {
        let key = format!("d{device}");
        let record = records.iter().find(|record| record.key == key);
        record.unwrap_or_else(|| panic!("{key} is in Kafka")).partition
    };
    (0..DEVICES).map(|device| (device, partition_of(device))).collect()
}

fn of_kafka(gateway: &TestGateway, name: &str, labels: &[(&str, &str)]) -> u64 {
    gateway.scrape().sum(name, labels)
}

fn delivered(gateway: &TestGateway) -> u64 {
    of_kafka(gateway, "citygate_readings_total", &[("outcome", "delivered")])
}

/// A gateway with a spool in this folder.
async fn start(kafka: &Broker, folder: &Path, topic_prefix: Option<&str>) -> TestGateway {
    TestGateway::start(kafka, |config: &mut Config| {
        config.spool.enabled = true;
        config.spool.folder = folder.to_owned();
        config.kafka.probe_interval = Duration::from_millis(200);
        if let Some(prefix) = topic_prefix {
            config.kafka.topic_prefix = prefix.to_owned();
            config.kafka.dead_letter_topic = format!("{prefix}dead-letter");
        }
    })
    .await
}

fn weather(gateway: &TestGateway) -> String {
    format!("{}weather", gateway.topic_prefix)
}

/// The devices of the partition that is to stall, and all others; each has sent one reading.
async fn devices(kafka: &Broker, gateway: &TestGateway, client: &mut Client) -> (Vec<usize>, Vec<usize>) {
    (0..PARTITIONS).for_each(|partition| kafka.lead_by(UP, &weather(gateway), partition));
    let partitions = partitions(gateway, client).await;
    let (own, others): (Vec<_>, Vec<_>) = (0..DEVICES).partition(|device| partitions[device] == STALLED);
    assert!(!own.is_empty() && !others.is_empty(), "{partitions:?}");
    (own, others)
}

async fn spooled(gateway: &TestGateway) -> u64 {
    gateway.admin("/metrics").await; // brings the gauges up to date
    of_kafka(gateway, "citygate_spool_readings", &[])
}

/// The sequences of a device's readings, in the order of Kafka.
fn arrived(gateway: &TestGateway, device: usize) -> Vec<u64> {
    let key = format!("d{device}");
    let arrived = gateway.readings("weather").into_iter();
    let arrived = arrived.filter(|one| one.record.key == key);
    arrived.map(|one| one.reading["sequence"].as_u64().unwrap()).collect()
}

async fn others_go_straight(gateway: &TestGateway, client: &mut Client, others: &[usize]) {
    eventually("others go straight to Kafka", async || {
        let before = delivered(gateway);
        send_all(client, others, 6).await;
        (delivered(gateway) - before == others.len() as u64).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_nobody_serves_stops_only_its_own_readings() {
    let kafka = Broker::mock_of(2);
    kafka.stop_broker(DOWN);
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(&kafka, folder.path(), None).await;
    let mut client = gateway.client(Via::Http).await;
    let (own, others) = devices(&kafka, &gateway, &mut client).await;
    let topic = weather(&gateway);

    // Nobody serves any partition: that is an outage of Kafka, and leaves a backlog of all devices.
    (0..PARTITIONS).for_each(|partition| kafka.lead_by(DOWN, &topic, partition));
    let all: Vec<_> = (0..DEVICES).collect();
    for sequence in 2..=5 {
        send_all(&mut client, &all, sequence).await;
    }
    // All are served again, but for one.
    let again = (0..PARTITIONS).filter(|partition| *partition != STALLED);
    again.for_each(|partition| kafka.lead_by(UP, &topic, partition));
    let left = 4 * own.len() as u64;
    eventually("the backlog of the others is in Kafka", async || {
        (spooled(&gateway).await == left).then_some(())
    })
    .await;
    others_go_straight(&gateway, &mut client, &others).await;
    // Some of them may make Kafka unavailable for a moment, for nothing else is sent.
    send_all(&mut client, &own, 6).await;
    others_go_straight(&gateway, &mut client, &others).await;
    assert_eq!(of_kafka(&gateway, "citygate_kafka_up", &[]), 1);

    kafka.lead_by(UP, &topic, STALLED);
    eventually("all is in Kafka", async || (spooled(&gateway).await == 0).then_some(())).await;
    eventually("it is ready without a word", async || {
        (gateway.admin("/readyz").await == (200, "ok\n".to_owned())).then_some(())
    })
    .await;
    for device in own {
        assert_eq!(
            arrived(&gateway, device),
            [1, 2, 3, 4, 5, 6],
            "d{device}: in order, and once"
        );
    }
    gateway.finish().await;
}

/// What waits for the partition is in the spool, so the end need not wait for it; the next start goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_ends_and_starts_although_a_partition_stalls() {
    let kafka = Broker::mock_of(2);
    kafka.stop_broker(DOWN);
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(&kafka, folder.path(), None).await;
    let (topic, prefix) = (weather(&gateway), gateway.topic_prefix.clone());
    let mut client = gateway.client(Via::Http).await;
    let (own, others) = devices(&kafka, &gateway, &mut client).await;
    kafka.lead_by(DOWN, &topic, STALLED);
    for sequence in 2..=3 {
        send_all(&mut client, &others, sequence).await;
        send_all(&mut client, &own, sequence).await;
    }
    let waits = "kafka confirms no readings of some partitions";
    eventually("it stalls", async || {
        send_all(&mut client, &others, 4).await;
        gateway.admin("/readyz").await.1.contains(waits).then_some(())
    })
    .await;
    let began = Instant::now();
    gateway.finish().await;
    let took = began.elapsed();
    // Half of drain.deadline is for Kafka.
    assert!(took < TEST_TIMEOUT / 4, "the end took {took:?}");

    let gateway = start(&kafka, folder.path(), Some(&prefix)).await;
    let mut client = gateway.client(Via::Http).await;
    others_go_straight(&gateway, &mut client, &others).await;
    send_all(&mut client, &own, 4).await;
    kafka.lead_by(UP, &topic, STALLED);
    eventually("all is in Kafka", async || (spooled(&gateway).await == 0).then_some(())).await;
    for device in own {
        assert_eq!(arrived(&gateway, device), [1, 2, 3, 4], "d{device}: in order, and once");
    }
    gateway.finish().await;
}

/// Where one partition has no leader it is named wherever an operator looks, and the gateway is ready all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_is_named() {
    let kafka = Broker::mock();
    let mut topic = String::new();
    let gateway = TestGateway::start(&kafka, |config: &mut Config| {
        config.kafka.probe_interval = Duration::from_millis(200);
        topic = format!("{}weather", config.kafka.topic_prefix);
    })
    .await;
    kafka.take_leader(&topic, STALLED);
    let named = format!("kafka names no leader for {topic}/{STALLED}");
    eventually("it is said", async || {
        let (status, why) = gateway.admin("/readyz").await;
        (status == 200 && why.starts_with("ok") && why.contains(&named)).then_some(())
    })
    .await;
    assert!(gateway.admin("/status").await.1.contains(&named));
    let without = |gateway: &TestGateway| of_kafka(gateway, "citygate_kafka_partitions_without_leader", &[]);
    assert_eq!(
        (without(&gateway), of_kafka(&gateway, "citygate_kafka_up", &[])),
        (1, 1)
    );
    kafka.lead_by(UP, &topic, STALLED);
    eventually("it is ready without a word", async || {
        (gateway.admin("/readyz").await == (200, "ok\n".to_owned())).then_some(())
    })
    .await;
    assert_eq!(without(&gateway), 0);
    gateway.finish().await;
}
