//! Kafka becomes unavailable: nothing is acknowledged meanwhile without a spool, every
//! message is answered *busy* in its protocol's own words, and readings are accepted
//! again when Kafka is back. With a spool, see `spool`.

use std::time::Duration;

use crate::harness::{Broker, Client, GIVE_UP_SOON, TEST_TIMEOUT, TestGateway, Via, eventually};

const GOOD: &[u8] = br#"{"temperature_c": 21.5}"#;

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_yes_while_kafka_is_frozen_and_everybody_afterwards() {
    let Some(kafka) = Broker::own() else { return };
    let gateway = TestGateway::start(&kafka, |_| {}).await;
    let mut clients = all_clients(&gateway).await;
    for (via, client) in &mut clients {
        assert!(client.send("devices/warm/weather", "", GOOD).await.is_yes(*via));
    }
    kafka.freeze();
    for (via, client) in &mut clients {
        client.post(&format!("devices/frozen-{via:?}/weather"), "", GOOD).await;
    }
    // Long enough for an answer that does not wait for Kafka; all four wait together.
    let early = async |via: Via, client: &mut Client| {
        let answer = client.answer(Duration::from_millis(1500)).await;
        assert_eq!(answer, None, "{via:?} was answered, but not by Kafka");
    };
    let [a, b, c, d] = &mut clients;
    tokio::join!(
        early(a.0, &mut a.1),
        early(b.0, &mut b.1),
        early(c.0, &mut c.1),
        early(d.0, &mut d.1)
    );
    kafka.thaw();
    for (via, client) in &mut clients {
        let answer = client.answer(TEST_TIMEOUT).await.expect("an answer once Kafka is back");
        assert!(answer.is_yes(*via), "{via:?}: {answer:?}");
    }
    let landed = gateway.records("weather");
    for via in Via::ALL {
        let device = format!("frozen-{via:?}");
        assert_eq!(
            landed.iter().filter(|record| record.key == device).count(),
            1,
            "{device}"
        );
    }
    gateway.finish().await;
}

/// In flight when Kafka dies, and sent while it is dead: *busy*, in each protocol's own words; then Kafka comes back.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_told_busy_when_kafka_is_dead_and_yes_when_it_is_back() {
    let Some(kafka) = Broker::own() else { return };
    let gateway = TestGateway::start(&kafka, |config| config.kafka.delivery_timeout = GIVE_UP_SOON).await;
    let mut clients = all_clients(&gateway).await;
    for (via, client) in &mut clients {
        assert!(client.send("devices/warm/weather", "", GOOD).await.is_yes(*via));
    }
    assert_eq!(gateway.admin("/readyz").await.0, 200);
    kafka.kill();
    for (via, client) in &mut clients {
        client
            .post(&format!("devices/in-flight-{via:?}/weather"), "", GOOD)
            .await;
    }
    for (via, client) in clients.iter_mut().rev() {
        check_busy(*via, client).await; // MQTT 3.1.1 last: when all others have been told, its time is over too
    }
    let (status, why) = eventually("not ready", async || {
        let (status, why) = gateway.admin("/readyz").await;
        (status != 200).then_some((status, why))
    })
    .await;
    assert_eq!(status, 503);
    assert!(why.to_lowercase().contains("kafka"), "it says why: {why}");
    // Known to be unavailable now: told at once, without waiting for a time-out.
    for via in [Via::Coap, Via::Http] {
        let mut client = gateway.client(via).await;
        client.post("devices/meanwhile/weather", "", GOOD).await;
        check_busy(via, &mut client).await;
    }
    kafka.restart();
    eventually("ready again", async || {
        (gateway.admin("/readyz").await.0 == 200).then_some(())
    })
    .await;
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        let device = format!("back-{via:?}");
        eventually("accepted again", async || {
            let answer = client.send(&format!("devices/{device}/weather"), "", GOOD).await;
            answer.is_yes(via).then_some(())
        })
        .await;
        assert!(gateway.records("weather").iter().any(|record| record.key == device));
    }
    gateway.finish().await;
}

async fn check_busy(via: Via, client: &mut Client) {
    let limit = if via == Via::Mqtt311 {
        Duration::from_secs(1)
    } else {
        TEST_TIMEOUT
    };
    let answer = client.answer(limit).await;
    match (via, answer) {
        // 3.1.1 has no word for it: silence, or the connection closes.
        (Via::Mqtt311, None) => {}
        (Via::Mqtt311, Some(answer)) => assert_eq!(answer.code, "closed"),
        (Via::Mqtt5, Some(answer)) => {
            assert!(
                ["0x97", "DISCONNECT 0x97"].contains(&answer.code.as_str()),
                "{answer:?}"
            );
            assert!(answer.text.contains("Kafka"), "it says why: {answer:?}");
        }
        (Via::Coap, Some(answer)) => {
            assert_eq!(answer.code, "5.03");
            assert!(answer.retry_after.is_some_and(|seconds| seconds > 0), "{answer:?}");
        }
        (Via::Http, Some(answer)) => {
            assert_eq!(
                (answer.code.as_str(), answer.content_type.as_str()),
                ("503", "application/problem+json")
            );
            assert!(answer.retry_after.is_some_and(|seconds| seconds > 0), "{answer:?}");
        }
        (via, None) => panic!("{via:?} was not answered at all"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_starts_without_kafka_says_so_and_is_ready_when_it_comes() {
    let Some(kafka) = Broker::own() else { return };
    kafka.kill();
    let gateway = TestGateway::start_unready(&kafka, |_| {}).await;
    let (status, why) = gateway.admin("/readyz").await;
    assert_eq!(status, 503, "{why}");
    assert_eq!(gateway.admin("/livez").await.0, 200);
    let mut client = gateway.client(Via::Http).await;
    let answer = client.send("devices/early/weather", "", GOOD).await;
    assert_eq!(answer.code, "503", "{answer:?}");
    kafka.restart();
    eventually("ready", async || {
        (gateway.admin("/readyz").await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(client.send("devices/early/weather", "", GOOD).await.code, "204");
    gateway.finish().await;
}

async fn all_clients(gateway: &TestGateway) -> [(Via, Client); 4] {
    let [a, b, c, d] = Via::ALL;
    [
        (a, gateway.client(a).await),
        (b, gateway.client(b).await),
        (c, gateway.client(c).await),
        (d, gateway.client(d).await),
    ]
}
