//! MQTT QoS 2: a reading that is repeated is one record, and another reading is another record, whatever its packet id.
//!
//! A client that crashes forgets which packet ids it has used; its session at the server remembers them. Only the
//! content tells a repetition from a new reading: the resolved topic, the properties and the payload.

use std::time::Duration;

use crate::harness::mqtt::{self, Mqtt, Reply, Version};
use crate::harness::{Broker, TEST_TIMEOUT, TestGateway, eventually};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

fn reading(temperature_c: u32) -> Vec<u8> {
    format!(r#"{{"temperature_c": {temperature_c}}}"#).into_bytes()
}

async fn read(mqtt: &mut Mqtt) -> Reply {
    let reply = tokio::time::timeout(TEST_TIMEOUT, mqtt.read()).await;
    reply.expect("the server says something, or closes")
}

fn pubrec(id: u16) -> Reply {
    let (reason, text) = (0, String::new());
    Reply::PubRec { id, reason, text }
}

/// The temperatures that a device has in Kafka, in order.
fn temperatures(gateway: &TestGateway, device: &str) -> Vec<u32> {
    let readings = gateway.readings("weather").into_iter();
    readings
        .filter(|arrived| arrived.device == device)
        .map(|arrived| arrived.reading["temperature_c"].as_f64().unwrap() as u32)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_reading_under_a_packet_id_that_was_never_released_is_kept() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let address = gateway.addresses.mqtt.unwrap();
    for version in VERSIONS {
        for dup in [false, true] {
            let device = format!("forgetful-{version:?}-{dup}");
            let topic = format!("devices/{device}/weather");
            let publish = |id, temperature_c| mqtt::publish(version, 2, id, &topic, "", &reading(temperature_c));
            let (mut mqtt, _) = Mqtt::resume(address, version, &device).await;
            mqtt.write(&publish(1, 1)).await;
            assert_eq!(read(&mut mqtt).await, pubrec(1));
            drop(mqtt);
            let (mut mqtt, present) = Mqtt::resume(address, version, &device).await;
            assert!(present, "the session is kept");
            for (id, temperature_c) in [(1, 2), (2, 3)] {
                let bytes = publish(id, temperature_c);
                mqtt.write(&if dup { mqtt::repeated(&bytes) } else { bytes }).await;
                assert_eq!(read(&mut mqtt).await, pubrec(id));
                mqtt.write(&mqtt::pubrel(id)).await;
                assert_eq!(read(&mut mqtt).await, Reply::PubComp { id, reason: 0 });
            }
            assert_eq!(temperatures(&gateway, &device), [1, 2, 3], "{device}");
        }
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_is_known_by_its_content() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let address = gateway.addresses.mqtt.unwrap();
    // Both publishes, as suffix of the device, properties and payload; then whether the second repeats the first.
    let with_sequence = |number: u8| [&b"\x26\x00\x03seq\x00\x01"[..], &[number]].concat();
    let check = async |name: &str, first: (&str, Vec<u8>, u32), again: (&str, Vec<u8>, u32), repetition: bool| {
        let device = format!("repeats-{name}");
        let publish = |(suffix, properties, temperature_c): &(&str, Vec<u8>, u32)| {
            let topic = format!("devices/{device}{suffix}/weather");
            mqtt::publish_with(Version::V5, 2, 7, &topic, properties, &reading(*temperature_c))
        };
        let (mut mqtt, _) = Mqtt::resume(address, Version::V5, &device).await;
        mqtt.write(&publish(&first)).await;
        assert_eq!(read(&mut mqtt).await, pubrec(7), "{name}");
        drop(mqtt);
        let (mut mqtt, _) = Mqtt::resume(address, Version::V5, &device).await;
        mqtt.write(&mqtt::repeated(&publish(&again))).await;
        assert_eq!(read(&mut mqtt).await, pubrec(7), "{name}");
        let records = gateway.readings("weather");
        let records = records.iter().filter(|arrived| arrived.device.starts_with(&device));
        let records = records.count();
        assert_eq!(records, if repetition { 1 } else { 2 }, "{name}");
    };
    let plain = || ("", Vec::new(), 1);
    check("same", plain(), plain(), true).await;
    // No alias outlives its connection, so a repetition names the topic.
    check("alias", ("", b"\x23\x00\x01".to_vec(), 1), plain(), true).await;
    // A bridge counts it down while it holds the message.
    let expiry = |seconds| ("", vec![2, 0, 0, 0, seconds], 1);
    check("expiry", expiry(60), expiry(50), true).await;
    check(
        "user-property",
        ("", with_sequence(b'1'), 1),
        ("", with_sequence(b'1'), 1),
        true,
    )
    .await;
    check(
        "other-user-property",
        ("", with_sequence(b'1'), 1),
        ("", with_sequence(b'2'), 1),
        false,
    )
    .await;
    check("other-payload", plain(), ("", Vec::new(), 2), false).await;
    check("other-topic", plain(), ("-b", Vec::new(), 1), false).await;
    gateway.finish().await;
}

/// The outcome of the first reading is still open when its packet id is used again.
#[tokio::test(flavor = "multi_thread")]
async fn another_reading_under_a_packet_id_in_flight_is_kept() {
    let broker = Broker::mock();
    let gateway = TestGateway::start(&broker, |config| {
        // The first connection hands its session on at once.
        config.mqtt.closing_timeout = Duration::from_millis(1);
    })
    .await;
    broker.answer_after(Duration::from_millis(700));
    for version in VERSIONS {
        let device = format!("open-{version:?}");
        let topic = format!("devices/{device}/weather");
        let publish = |temperature_c| mqtt::publish(version, 2, 1, &topic, "", &reading(temperature_c));
        let (mut first, _) = Mqtt::resume(gateway.addresses.mqtt.unwrap(), version, &device).await;
        let before = gateway.scrape().sum("citygate_readings_received_total", &[]);
        first.write(&publish(1)).await;
        eventually("it is accepted", async || {
            let received = gateway.scrape().sum("citygate_readings_received_total", &[]);
            (received == before + 1).then_some(())
        })
        .await;
        let (mut mqtt, _) = Mqtt::resume(gateway.addresses.mqtt.unwrap(), version, &device).await;
        drop(first);
        // Another reading, and a repetition of that one: two records, one answer.
        mqtt.write(&publish(2)).await;
        mqtt.write(&mqtt::repeated(&publish(2))).await;
        assert_eq!(read(&mut mqtt).await, pubrec(1));
        mqtt.write(&mqtt::pubrel(1)).await;
        assert_eq!(read(&mut mqtt).await, Reply::PubComp { id: 1, reason: 0 });
        assert_eq!(temperatures(&gateway, &device), [1, 2], "{version:?}");
    }
    gateway.finish().await;
}

/// The first reading is repeated on a new connection, where the answer to it is owed from then on, before its packet id is
/// used again.
#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_is_answered_though_its_packet_id_is_used_again_before_its_outcome() {
    let broker = Broker::mock();
    let mut gateway = TestGateway::start(&broker, |config| {
        config.mqtt.closing_timeout = Duration::from_millis(1);
    })
    .await;
    broker.answer_after(Duration::from_millis(700));
    for version in VERSIONS {
        let device = format!("repeats-and-goes-on-{version:?}");
        let topic = format!("devices/{device}/weather");
        let publish = |id, temperature_c| mqtt::publish(version, 2, id, &topic, "", &reading(temperature_c));
        let (mut first, _) = Mqtt::resume(gateway.addresses.mqtt.unwrap(), version, &device).await;
        let before = gateway.scrape().sum("citygate_readings_received_total", &[]);
        first.write(&publish(1, 1)).await;
        eventually("it is accepted", async || {
            let received = gateway.scrape().sum("citygate_readings_received_total", &[]);
            (received == before + 1).then_some(())
        })
        .await;
        let (mut mqtt, _) = Mqtt::resume(gateway.addresses.mqtt.unwrap(), version, &device).await;
        drop(first);
        let repeated = mqtt::repeated(&publish(1, 1));
        mqtt.write(&[repeated, publish(1, 2), publish(2, 3)].concat()).await;
        for id in [1, 1, 2] {
            assert_eq!(read(&mut mqtt).await, pubrec(id), "{version:?}");
        }
        assert_eq!(temperatures(&gateway, &device), [1, 2, 3], "{version:?}");
    }
    let drained = tokio::time::timeout(TEST_TIMEOUT, gateway.drain()).await;
    drained.expect("no connection holds the drain up");
    gateway.finish().await;
}
