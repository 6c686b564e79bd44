//! The balance: `received = delivered + spooled + rejected + busy`, per protocol and kind.
//!
//! Every test checks it when it ends. Here it is checked that the check can fail, and that it holds under a crowd.

use citygate::message::Protocol;

use crate::harness::scrape::Scrape;
use crate::harness::{Broker, TestGateway, Via};

const WEATHER: &[u8] = br#"{"temperature_c": 21.5}"#;

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "the balance is wrong")]
async fn a_reading_without_an_end_is_an_imbalance() {
    let gateway = TestGateway::start(&Broker::mock(), |_| {}).await;
    gateway.metrics.tallies.of_kind("weather").of(Protocol::Mqtt).received();
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "the balance is wrong")]
async fn a_receipt_dropped_without_an_outcome_is_an_imbalance() {
    let gateway = TestGateway::start(&Broker::mock(), |_| {}).await;
    gateway.metrics.tallies.unknown.of(Protocol::Http).dropped();
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "a test must end with finish()")]
async fn a_test_that_forgets_to_finish_fails() {
    drop(TestGateway::start(&Broker::mock(), |_| {}).await);
}

#[test]
fn imbalances_are_told_by_protocol_and_kind() {
    let check = |text: &str, expected: &[&str]| assert_eq!(Scrape::parse(text).imbalances(), expected);
    let received = r#"citygate_readings_received_total{kind="weather",protocol="coap"} 3"#;
    let delivered = r#"citygate_readings_total{kind="weather",outcome="delivered",protocol="coap"} 2"#;
    let busy = r#"citygate_readings_total{kind="weather",outcome="busy",protocol="coap"} 1"#;
    let elsewhere = r#"citygate_readings_total{kind="weather",outcome="busy",protocol="http"} 1"#;
    let dropped = "citygate_receipts_dropped_total 2";
    check(&[received, delivered, busy].join("\n"), &[]);
    check(
        &[received, delivered].join("\n"),
        &["coap weather: 3 received, 2 ended"],
    );
    check(
        &[received, delivered, elsewhere].join("\n"),
        &["coap weather: 3 received, 2 ended"],
    );
    check(dropped, &["2 receipts dropped without an outcome"]);
}

/// Good and bad readings of many devices at once over every protocol; each answer is counted here as well.
#[tokio::test(flavor = "multi_thread")]
async fn the_balance_holds_under_a_crowd_and_agrees_with_what_the_devices_were_told() {
    const DEVICES: usize = 20;
    const MESSAGES: usize = 50;
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let mut devices = Vec::new();
    for via in Via::ALL {
        for device in 0..DEVICES {
            let mut client = gateway.client(via).await;
            devices.push(tokio::spawn(async move {
                let path = format!("devices/{via:?}-{device}/weather");
                let mut safe = 0;
                for message in 0..MESSAGES {
                    let body = if message % 5 == 4 { b"{" } else { WEATHER };
                    safe += usize::from(client.send(&path, "", body).await.is_yes(via) && message % 5 != 4);
                }
                safe
            }));
        }
    }
    let mut safe = 0;
    for device in devices {
        safe += device.await.unwrap();
    }
    assert_eq!(safe, Via::ALL.len() * DEVICES * MESSAGES * 4 / 5);
    assert_eq!(gateway.records("weather").len(), safe);
    assert_eq!(gateway.dead_letters().len(), safe / 4);
    let scrape = gateway.scrape();
    for protocol in ["mqtt", "coap", "http"] {
        let connections = Via::ALL.iter().filter(|via| via.protocol() == protocol).count();
        let sent = (connections * DEVICES * MESSAGES) as u64;
        let labels = [("protocol", protocol), ("kind", "weather")];
        assert_eq!(scrape.sum("citygate_readings_received_total", &labels), sent);
        let delivered = [labels[0], labels[1], ("outcome", "delivered")];
        assert_eq!(scrape.sum("citygate_readings_total", &delivered), sent * 4 / 5);
    }
    gateway.finish().await;
}
