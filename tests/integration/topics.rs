//! A missing topic concerns its own readings only: missing at start, deleted while running, created again by hand or by
//! `kafka.create_topics`. Its readings wait in the spool, or are answered *busy* with the topic's name; those of other
//! topics go straight to Kafka.

use std::time::Instant;

use citygate::operate::config::Config;

use crate::harness::gateway::{Arrived, decoded};
use crate::harness::{Broker, Client, TestGateway, Via, broker, eventually};

const ENERGY: &[u8] = br#"{"power_w": 100.0, "energy_import_kwh": 1.0}"#;

fn weather(sequence: u64) -> Vec<u8> {
    format!(r#"{{"temperature_c": 21.5, "sequence": {sequence}}}"#).into_bytes()
}

async fn send(client: &mut Client, sequence: u64) {
    let answer = client.send("devices/roof/weather", "", &weather(sequence)).await;
    assert!(answer.is_yes(Via::Http), "{sequence}: {answer:?}");
}

/// Straight to Kafka, not by way of the spool: all of twenty, once the machine is quick enough for Kafka to confirm them in time.
async fn send_others(gateway: &TestGateway) {
    let mut client = gateway.client(Via::Mqtt5).await;
    let delivered = || {
        let labels = [("kind", "energy"), ("outcome", "delivered")];
        gateway.scrape().sum("citygate_readings_total", &labels)
    };
    eventually("others go straight to Kafka", async || {
        let before = delivered();
        for _ in 0..20 {
            let answer = client.send("devices/meter/energy", "", ENERGY).await;
            assert!(answer.is_yes(Via::Mqtt5), "{answer:?}");
        }
        (delivered() - before == 20).then_some(())
    })
    .await;
}

fn sequences(arrived: &[Arrived]) -> Vec<u64> {
    let numbers = arrived.iter().map(|one| one.reading["sequence"].as_u64().unwrap());
    numbers.collect()
}

/// It is named wherever an operator looks, and the gateway is ready all the same.
async fn is_said(gateway: &TestGateway, topic: &str) {
    let named = format!("kafka has no topic {topic}");
    eventually("it is said", async || {
        let (status, why) = gateway.admin("/readyz").await;
        (status == 200 && why.starts_with("ok") && why.contains(&named)).then_some(())
    })
    .await;
    assert!(gateway.admin("/status").await.1.contains(&named));
    let scrape = gateway.scrape();
    assert_eq!(scrape.sum("citygate_kafka_topic_missing", &[("topic", topic)]), 1);
    assert_eq!(scrape.sum("citygate_kafka_up", &[]), 1);
}

async fn all_is_in_kafka(gateway: &TestGateway, kafka: &Broker, topic: &str, readings: u64) {
    let expected: Vec<u64> = (1..=readings).collect();
    let schema = gateway.schema("weather");
    let arrived = || sequences(&decoded(&schema, broker::read_all(&kafka.servers, topic)));
    eventually("all is in Kafka", async || {
        let left = gateway.admin("/status").await.1;
        (left.contains("\"readings\": 0,") && arrived().len() as u64 >= readings).then_some(())
    })
    .await;
    assert_eq!(arrived(), expected, "in order, and once");
    assert_eq!(
        gateway
            .scrape()
            .sum("citygate_kafka_topic_missing", &[("topic", topic)]),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_missing_at_start_concerns_its_own_readings_only() {
    let Some(kafka) = Broker::shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut topic = String::new();
    let mut prefix = String::new();
    let config = |config: &mut Config| {
        config.spool.enabled = true;
        config.spool.folder = folder.path().to_owned();
        config.kafka.create_topics = false;
        prefix = config.kafka.topic_prefix.clone();
        topic = format!("{prefix}weather");
    };
    let gateway = TestGateway::start_unready(&kafka, config).await;
    for other in ["traffic", "energy", "dead-letter"] {
        kafka.make_topic(&format!("{prefix}{other}")).await;
    }
    is_said(&gateway, &topic).await;
    let mut client = gateway.client(Via::Http).await;
    for sequence in 1..=50 {
        send(&mut client, sequence).await;
    }
    send_others(&gateway).await;
    eventually("they are set apart", async || {
        gateway.admin("/metrics").await; // brings the gauges up to date
        (gateway.scrape().sum("citygate_spool_readings_without_topic", &[]) == 50).then_some(())
    })
    .await;
    kafka.make_topic(&topic).await;
    for sequence in 51..=60 {
        send(&mut client, sequence).await;
    }
    all_is_in_kafka(&gateway, &kafka, &topic, 60).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_is_noticed_and_its_readings_wait_for_it() {
    let Some(kafka) = Broker::shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    // Its topics are made by hand: the gateway would make a deleted one again.
    let mut prefix = String::new();
    let gateway = TestGateway::start_unready(&kafka, |config| {
        config.spool.enabled = true;
        config.spool.folder = folder.path().to_owned();
        config.kafka.create_topics = false;
        prefix = config.kafka.topic_prefix.clone();
    })
    .await;
    for topic in ["traffic", "weather", "energy", "dead-letter"] {
        kafka.make_topic(&format!("{prefix}{topic}")).await;
    }
    let topic = format!("{prefix}weather");
    eventually("ready", async || {
        let (status, why) = gateway.admin("/readyz").await;
        (status == 200 && why == "ok\n").then_some(())
    })
    .await;
    let mut client = gateway.client(Via::Http).await;
    let mut early = gateway.client(Via::Mqtt5).await;
    assert!(
        early
            .send("devices/early/weather", "", &weather(0))
            .await
            .is_yes(Via::Mqtt5)
    );
    send_others(&gateway).await;
    kafka.delete_topic(&topic).await;
    let deleted_at = Instant::now();
    for sequence in 1..=40 {
        send(&mut client, sequence).await;
    }
    is_said(&gateway, &topic).await;
    eprintln!("said {:?} after the deletion", deleted_at.elapsed());
    send_others(&gateway).await;
    kafka.make_topic(&topic).await;
    all_is_in_kafka(&gateway, &kafka, &topic, 40).await;
    gateway.finish().await;
}

/// It need not be created by hand: `kafka.create_topics` does.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_is_made_again_where_the_gateway_may() {
    let Some(kafka) = Broker::shared() else { return };
    let gateway = TestGateway::start(&kafka, |_| {}).await;
    let topic = format!("{}weather", gateway.topic_prefix);
    kafka.delete_topic(&topic).await;
    let mut client = gateway.client(Via::Http).await;
    // The first ones may still come into the topic that is about to be deleted.
    eventually("delivered again, and kept", async || {
        let answer = client.send("devices/roof/weather", "", &weather(1)).await;
        (answer.is_yes(Via::Http) && !gateway.records("weather").is_empty()).then_some(())
    })
    .await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_spool_its_readings_are_answered_busy_with_the_topics_name() {
    let Some(kafka) = Broker::shared() else { return };
    let mut prefix = String::new();
    let gateway = TestGateway::start_unready(&kafka, |config| {
        config.kafka.create_topics = false;
        prefix = config.kafka.topic_prefix.clone();
    })
    .await;
    for topic in ["traffic", "energy", "dead-letter"] {
        kafka.make_topic(&format!("{prefix}{topic}")).await;
    }
    is_said(&gateway, &format!("{prefix}weather")).await;
    for via in [Via::Mqtt5, Via::Coap, Via::Http] {
        let mut client = gateway.client(via).await;
        let answer = client.send("devices/roof/weather", "", &weather(1)).await;
        let busy = ["0x97", "5.03", "503"].contains(&answer.code.as_str());
        assert!(busy, "{via:?}: {answer:?}");
        assert!(
            answer.text.contains(&format!("no topic {prefix}weather")),
            "{via:?}: {answer:?}"
        );
    }
    send_others(&gateway).await;
    gateway.finish().await;
}
