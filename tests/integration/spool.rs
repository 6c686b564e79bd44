//! With a spool, devices do not notice that Kafka is unavailable: every reading is acknowledged, and all are in Kafka
//! afterwards, in order. A full spool refuses new readings and keeps the acknowledged ones; a failed fsync ends the
//! gateway, and the next one replays.

use std::path::Path;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use citygate::operate::config::Config;
use rdkafka::types::RDKafkaErrorCode;

use crate::harness::gateway::{self, Arrived};
use crate::harness::program::Program;
use crate::harness::{Broker, Client, TestGateway, Via, broker, eventually, repository};

fn reading(sequence: u64) -> Vec<u8> {
    format!(r#"{{"temperature_c": 21.5, "sequence": {sequence}}}"#).into_bytes()
}

fn spooling(folder: &Path) -> impl FnOnce(&mut Config) {
    let folder = folder.to_owned();
    move |config| {
        config.spool.enabled = true;
        config.spool.folder = folder;
    }
}

/// The sequences of a device, in the order in which they stand in Kafka.
fn sequences(gateway: &TestGateway, device: &str) -> Vec<u64> {
    numbers(gateway.readings("weather"), device)
}

fn numbers(arrived: Vec<Arrived>, device: &str) -> Vec<u64> {
    let of_device = arrived.into_iter().filter(|arrived| arrived.device == device);
    of_device
        .map(|arrived| arrived.reading["sequence"].as_u64().unwrap())
        .collect()
}

async fn send(client: &mut Client, via: Via, device: &str, sequence: u64) -> Duration {
    let began = Instant::now();
    let answer = client
        .send(&format!("devices/{device}/weather"), "", &reading(sequence))
        .await;
    assert!(answer.is_yes(via), "{via:?} {sequence}: {answer:?}");
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_notice_nothing_while_kafka_is_frozen_and_all_arrives_once_and_in_order() {
    let Some(kafka) = Broker::own() else { return };
    let folder = tempfile::tempdir().unwrap();
    let gateway = TestGateway::start(&kafka, spooling(folder.path())).await;
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        send(&mut client, via, &format!("{via:?}"), 1).await;
    }
    kafka.freeze();
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        for sequence in 2..20 {
            let took = send(&mut client, via, &format!("{via:?}"), sequence).await;
            // Not for Kafka: `kafka.delivery_timeout` is several times as long.
            assert!(took < Duration::from_secs(8), "{via:?} waited {took:?}");
        }
    }
    let (status, why) = gateway.admin("/readyz").await;
    assert_eq!(status, 200, "it accepts readings: {why}");
    assert!(why.contains("spooled"), "{why}");
    kafka.thaw();
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        send(&mut client, via, &format!("{via:?}"), 20).await;
        let device = format!("{via:?}");
        let expected: Vec<u64> = (1..=20).collect();
        eventually("all of it is in Kafka", async || {
            (sequences(&gateway, &device).len() >= 20).then_some(())
        })
        .await;
        assert_eq!(sequences(&gateway, &device), expected, "{device}: once, and in order");
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spooled_outlives_the_gateway_and_is_replayed_before_what_is_new() {
    let Some(kafka) = Broker::own() else { return };
    let folder = tempfile::tempdir().unwrap();
    kafka.kill();
    let gateway = TestGateway::start_unready(&kafka, spooling(folder.path())).await;
    let prefix = gateway.topic_prefix.clone();
    let mut client = gateway.client(Via::Http).await;
    for sequence in 1..=50 {
        send(&mut client, Via::Http, "survivor", sequence).await;
    }
    // A dead letter is kept as well.
    let answer = client.send("devices/survivor/weather", "", b"{\"nonsense\": 1}").await;
    assert_eq!(answer.code, "422", "{answer:?}");
    gateway.finish().await;

    let again = |config: &mut Config| {
        spooling(folder.path())(config);
        config.kafka.topic_prefix = prefix.clone();
        config.kafka.dead_letter_topic = format!("{prefix}dead-letter");
    };
    let gateway = TestGateway::start_unready(&kafka, again).await;
    let mut client = gateway.client(Via::Http).await;
    send(&mut client, Via::Http, "survivor", 51).await;
    kafka.restart();
    eventually("all of it is in Kafka", async || {
        let topics_are_there = gateway.admin("/status").await.1.contains("\"kafka\": \"up\"");
        (topics_are_there && sequences(&gateway, "survivor").len() >= 51).then_some(())
    })
    .await;
    assert_eq!(sequences(&gateway, "survivor"), (1..=51).collect::<Vec<u64>>());
    assert_eq!(gateway.dead_letters().len(), 1);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_new_readings_and_keeps_what_was_acknowledged() {
    let Some(kafka) = Broker::own() else { return };
    let folder = tempfile::tempdir().unwrap();
    kafka.kill();
    let small = |config: &mut Config| {
        spooling(folder.path())(config);
        config.spool.segment_bytes = ByteSize::kib(64);
        config.spool.bytes_max = ByteSize::kib(256);
    };
    let gateway = TestGateway::start_unready(&kafka, small).await;
    let mut client = gateway.client(Via::Http).await;
    let mut acknowledged = 0;
    loop {
        let answer = client
            .send("devices/many/weather", "", &reading(acknowledged + 1))
            .await;
        if !answer.is_yes(Via::Http) {
            assert_eq!(answer.code, "503", "{answer:?}");
            assert!(answer.text.contains("spool is full"), "it says why: {answer:?}");
            break;
        }
        acknowledged += 1;
        assert!(acknowledged < 10_000, "256 KiB never end");
    }
    assert!(acknowledged > 500, "only {acknowledged} readings in 256 KiB");
    let (status, why) = gateway.admin("/readyz").await;
    assert_eq!(status, 503, "{why}");
    kafka.restart();
    eventually("all of it is in Kafka", async || {
        let up = gateway.admin("/status").await.1.contains("\"kafka\": \"up\"");
        (up && sequences(&gateway, "many").len() as u64 >= acknowledged).then_some(())
    })
    .await;
    assert_eq!(sequences(&gateway, "many"), (1..=acknowledged).collect::<Vec<u64>>());
    eventually("room again", async || {
        let answer = client
            .send("devices/many/weather", "", &reading(acknowledged + 1))
            .await;
        answer.is_yes(Via::Http).then_some(())
    })
    .await;
    gateway.finish().await;
}

/// Kafka finds the times of spooled readings wrong, and so refuses the batches in which they come.
#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_does_not_take_as_it_is_stays_in_the_spool_and_is_in_nobodys_way() {
    let Some(kafka) = Broker::own() else { return };
    let folder = tempfile::tempdir().unwrap();
    let gateway = TestGateway::start(&kafka, |config| {
        spooling(folder.path())(config);
        config.replay.retry_interval = Duration::from_secs(2);
    })
    .await;
    let topic = format!("{}weather", gateway.topic_prefix);
    let mut client = gateway.client(Via::Http).await;
    send(&mut client, Via::Http, "early", 0).await;
    // It may have been spooled: what Kafka has not confirmed before it is frozen would be late as well.
    eventually("the early one is confirmed", async || {
        gateway.admin("/metrics").await; // brings the gauges up to date
        let spooled = gateway.scrape().sum("citygate_spool_readings", &[]);
        (spooled == 0 && !sequences(&gateway, "early").is_empty()).then_some(())
    })
    .await;
    // Older than a fresh one can be when it reaches Kafka, however busy the machine is.
    kafka
        .configure(&topic, "message.timestamp.before.max.ms", "15000")
        .await;
    // Kafka answers before it does as told: frozen now, it would accept some of the late ones first.
    let early = gateway.records("weather").remove(0);
    eventually("kafka refuses what is older", async || {
        let old = early.timestamp_ms - 20_000;
        let refused = kafka.produce_at(&topic, &early, old).err()?;
        (refused == RDKafkaErrorCode::InvalidTimestamp).then_some(())
    })
    .await;
    kafka.freeze();
    for sequence in 1..10 {
        send(&mut client, Via::Http, "late", sequence).await;
    }
    let old = Instant::now() + Duration::from_secs(16);
    tokio::time::sleep_until(old.into()).await; // what the test is about is their age
    kafka.thaw();
    for sequence in 0..50 {
        send(&mut client, Via::Http, "fresh", sequence).await;
    }
    let aside = || gateway.scrape().sum("citygate_spool_readings_refused", &[]);
    eventually("the fresh ones are in Kafka, the late ones are not", async || {
        (sequences(&gateway, "fresh").len() >= 50 && aside() == 9).then_some(())
    })
    .await;
    assert_eq!(sequences(&gateway, "late"), [0; 0]);
    // Those that shared a batch with late ones were refused with them, and sent again: once each, not in order.
    let mut fresh = sequences(&gateway, "fresh");
    fresh.sort_unstable();
    assert_eq!(fresh, (0..50).collect::<Vec<u64>>());
    kafka
        .configure(&topic, "message.timestamp.before.max.ms", "3600000")
        .await;
    eventually("the late ones are in Kafka", async || {
        (sequences(&gateway, "late").len() >= 9 && aside() == 0).then_some(())
    })
    .await;
    let mut late = sequences(&gateway, "late");
    late.sort_unstable();
    assert_eq!(late, (1..10).collect::<Vec<u64>>());
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_gateway_is_kept_out_of_the_spool() {
    let broker = Broker::any();
    let folder = tempfile::tempdir().unwrap();
    let gateway = TestGateway::start(&broker, spooling(folder.path())).await;
    let config = crate::harness::gateway::config(&broker, spooling(folder.path()));
    let refused = citygate::gateway::Gateway::start(config)
        .await
        .expect_err("the folder is in use");
    let refused = refused.to_string();
    assert!(
        refused.contains(&folder.path().display().to_string()),
        "it names the folder: {refused}"
    );
    gateway.finish().await;
}

/// An `fsync` that fails once a file exists, for programs that are started with it preloaded.
const FAILING_FSYNC: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int fails(void) { const char *file = getenv("FSYNC_FAILS_WHEN"); return file && access(file, F_OK) == 0; }
int fdatasync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
int fsync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
"#;

/// The disk fails under the program: it acknowledges nothing more, ends, and loses nothing that it acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fsync_ends_the_gateway_and_what_was_acknowledged_is_replayed_by_the_next() {
    let Some(kafka) = Broker::own() else { return };
    let tools = tempfile::tempdir().unwrap();
    let (source, library) = (tools.path().join("fsync.c"), tools.path().join("fsync.so"));
    std::fs::write(&source, FAILING_FSYNC).unwrap();
    let compiled = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status()
        .unwrap();
    assert!(compiled.success());
    let trigger = tools.path().join("now");
    let environment = [("LD_PRELOAD", &*library), ("FSYNC_FAILS_WHEN", &*trigger)];
    let mut program = Program::start_with(&kafka, &environment).await;
    kafka.kill();
    let mut client = program.client(Via::Http).await;
    for sequence in 0..20 {
        send(&mut client, Via::Http, "witness", sequence).await;
    }
    std::fs::write(&trigger, "").unwrap();
    let answer = client.send("devices/witness/weather", "", &reading(20)).await;
    assert_eq!(answer.code, "503", "{answer:?}");
    assert!(answer.text.contains("disk of the spool failed"), "{answer:?}");
    assert_eq!(program.ended().await.code(), Some(1));
    let said = program.said();
    assert!(
        said.contains("the spool failed") && said.contains("Input/output error"),
        "{said}"
    );

    kafka.restart();
    program.start_again().await;
    let topic = format!("{}weather", program.topic_prefix);
    let schema = gateway::schema(&repository().join("schemas"), "weather");
    let arrived = || {
        numbers(
            gateway::decoded(&schema, broker::read_all(&kafka.servers, &topic)),
            "witness",
        )
    };
    eventually("what was acknowledged is in Kafka", async || {
        (arrived().len() >= 20).then_some(())
    })
    .await;
    let arrived = arrived();
    // The refused one may have reached the disk all the same: it was not acknowledged, and nobody promised its absence.
    assert_eq!(arrived.iter().filter(|number| **number < 20).count(), 20, "{arrived:?}");
    assert!(arrived.is_sorted(), "{arrived:?}");
}
