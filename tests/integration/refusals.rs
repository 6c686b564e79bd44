//! Kafka refuses records though no device did anything wrong: the topic's `max.message.bytes` is lower than our
//! batches, or it rejects timestamps. Readings are sent again in smaller batches or kept, in order, and the operator is
//! told once.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::gateway::{Arrived, decoded};
use crate::harness::program::Program;
use crate::harness::{Broker, Client, TEST_TIMEOUT, TestGateway, Via, broker, eventually, gateway, repository};

fn reading(sequence: u64) -> Vec<u8> {
    format!(r#"{{"temperature_c": 21.5, "sequence": {sequence}}}"#).into_bytes()
}

/// The sequences of a device as they stand in Kafka, first appearances.
fn sequences(arrived: &[Arrived], device: &str) -> Vec<u64> {
    let mut seen = Vec::new();
    for one in arrived.iter().filter(|one| one.device == device) {
        let sequence = one.reading["sequence"].as_u64().unwrap();
        if !seen.contains(&sequence) {
            seen.push(sequence);
        }
    }
    seen
}

/// `max.message.bytes` is lower than the batches of readings that come in: they become smaller, nobody is told that a reading is too
/// large, and each device's readings stay in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_too_large_for_its_topic_is_no_fault_of_its_readings() {
    const READINGS: u64 = 300;
    const AT_ONCE: u64 = 30;
    let Some(kafka) = Broker::shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let gateway = TestGateway::start(&kafka, |config| {
        config.spool.enabled = true;
        config.spool.folder = folder.path().to_owned();
        // Large batches, at any speed of the machine.
        config.kafka.linger = Duration::from_millis(50);
    })
    .await;
    let topic = format!("{}weather", gateway.topic_prefix);
    let batch_bytes = || gateway.scrape().sum("citygate_kafka_batch_bytes_max", &[]);
    let configured = batch_bytes();
    // Before the first: all may have been sent when a loaded machine has done it.
    kafka.configure(&topic, "max.message.bytes", "700").await;
    let mut devices = Vec::new();
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        devices.push(tokio::spawn(async move {
            // HTTP's are sent at once by many connections, so that they have no order; CoAP's one after the other.
            let path = format!("devices/{via:?}/weather");
            for first in (1..=READINGS).step_by(AT_ONCE as usize) {
                for sequence in first..first + AT_ONCE {
                    client.post(&path, "", &reading(sequence)).await;
                }
                for sequence in first..first + AT_ONCE {
                    let answer = client.answer(TEST_TIMEOUT).await.expect("an answer");
                    assert!(answer.is_yes(via), "{via:?} {sequence}: {answer:?}");
                }
            }
        }));
    }
    for device in devices {
        device.await.unwrap();
    }
    eventually("all is in Kafka", async || {
        let arrived = gateway.readings("weather");
        let all = Via::ALL.map(|via| sequences(&arrived, &format!("{via:?}")).len() as u64 == READINGS);
        all.iter().all(|all| *all).then_some(())
    })
    .await;
    let arrived = gateway.readings("weather");
    let expected: Vec<u64> = (1..=READINGS).collect();
    for via in [Via::Mqtt311, Via::Mqtt5] {
        assert_eq!(sequences(&arrived, &format!("{via:?}")), expected, "{via:?}: in order");
    }
    eprintln!("{} duplicates", arrived.len() as u64 - 4 * READINGS);
    assert_eq!(batch_bytes(), 700);
    // Batches are as large again as the topic accepts.
    kafka.configure(&topic, "max.message.bytes", "5000").await;
    eventually("larger", async || (batch_bytes() == 5000).then_some(())).await;
    assert!(configured > 5000);
    let mut client = gateway.client(Via::Http).await;
    let answer = client.send("devices/Http/weather", "", &reading(1)).await;
    assert!(answer.is_yes(Via::Http), "{answer:?}");
    // A reading that does not fit alone is another matter.
    kafka.configure(&topic, "max.message.bytes", "220").await;
    // An id that does not compress.
    let mut rng = StdRng::seed_from_u64(1);
    let id: String = (0..128).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect();
    let long = format!("devices/{id}/weather");
    eventually("told that it is too large", async || {
        let answer = client.send(&long, "", &reading(0)).await;
        (answer.code == "413").then_some(())
    })
    .await;
    let answer = client.send("devices/short/weather", "", &reading(0)).await;
    assert!(answer.is_yes(Via::Http), "{answer:?}");
    gateway.finish().await;
}

/// Kafka finds the times of all readings wrong: they are kept, said once, and arrive in order when it does no longer.
#[tokio::test(flavor = "multi_thread")]
async fn readings_whose_time_kafka_refuses_are_kept_in_order_and_said_once() {
    const READINGS: u64 = 200;
    let Some(kafka) = Broker::shared() else { return };
    // A reading is never younger than the linger when Kafka sees it.
    let again = [
        ("CITYGATE_REPLAY__RETRY_INTERVAL", Path::new("2s")),
        ("CITYGATE_KAFKA__LINGER", Path::new("20ms")),
    ];
    let began = Instant::now();
    let program = Program::start_with(&kafka, &again).await;
    let topic = format!("{}weather", program.topic_prefix);
    let mut client = program.client(Via::Mqtt5).await;
    assert!(
        client
            .send("devices/early/weather", "", &reading(0))
            .await
            .is_yes(Via::Mqtt5)
    );
    // Any time is too long ago. A broker that has just made the topic may not apply the first change of its settings.
    eventually("Kafka does as it is told", async || {
        kafka.configure(&topic, "message.timestamp.before.max.ms", "1").await;
        client.send("devices/early/weather", "", &reading(0)).await;
        (program.scrape().await.sum("citygate_spool_readings_refused", &[]) > 0).then_some(())
    })
    .await;
    let send = async |client: &mut Client, sequence: u64| {
        let answer = client.send("devices/late/weather", "", &reading(sequence)).await;
        assert!(answer.is_yes(Via::Mqtt5), "{sequence}: {answer:?}");
    };
    for sequence in 1..=READINGS {
        send(&mut client, sequence).await;
    }
    eventually("those that are spooled are retained", async || {
        let scrape = program.scrape().await;
        let aside = scrape.sum("citygate_spool_readings_refused", &[]);
        (aside >= READINGS && scrape.sum("citygate_spool_readings", &[]) == aside).then_some(())
    })
    .await;
    let said = program.said();
    let lines = said.matches("spooled readings cannot go to kafka as they are").count();
    // One a minute, should the machine be so slow.
    let minutes = began.elapsed().as_secs() / 60;
    assert!((1..=1 + minutes).contains(&(lines as u64)), "{said}");
    kafka
        .configure(&topic, "message.timestamp.before.max.ms", "3600000")
        .await;
    let schema = gateway::schema(&repository().join("schemas"), "weather");
    let arrived = || decoded(&schema, broker::read_all(&kafka.servers, &topic));
    eventually("all are in Kafka", async || {
        (sequences(&arrived(), "late").len() as u64 >= READINGS).then_some(())
    })
    .await;
    let expected: Vec<u64> = (1..=READINGS).collect();
    assert_eq!(sequences(&arrived(), "late"), expected);
}
