//! Kinds come from the schemas' folder: one more `.avsc` file is one more stream, with its own topic and counters. A
//! schema that cannot be served stops the start and is named. The catalogue can be replaced while readings arrive,
//! without losing one.

use std::time::Duration;

use citygate::catalogue::Kinds;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Broker, TestGateway, Via, repository};

const NOISE: &str = r#"{
  "type": "record", "name": "Noise", "namespace": "test.kinds",
  "fields": [
    {"name": "device", "type": "string", "fill": "device"},
    {"name": "received_at", "type": {"type": "long", "logicalType": "timestamp-millis"}, "fill": "received_at"},
    {"name": "level_db", "type": {"type": "double", "minimum": 0, "maximum": 140, "unit": "dB(A)"}},
    {"name": "peaks_db", "type": {"type": "array", "items": "double"}, "default": []}
  ]
}"#;

/// A folder with the shipped kinds and `noise`.
fn schemas_and_noise() -> TempDir {
    let folder = TempDir::new().unwrap();
    for kind in ["traffic", "weather", "energy"] {
        let name = format!("{kind}.avsc");
        std::fs::copy(repository().join("schemas").join(&name), folder.path().join(&name)).unwrap();
    }
    std::fs::write(folder.path().join("noise.avsc"), NOISE).unwrap();
    folder
}

fn every_kind_of(folder: &TempDir) -> citygate::catalogue::Config {
    citygate::catalogue::Config::every(folder.path())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_file_is_a_fourth_stream() {
    let folder = schemas_and_noise();
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.schemas = every_kind_of(&folder);
    })
    .await;
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        let path = format!("devices/{via:?}/noise");
        let good = client
            .send(&path, "", br#"{"level_db": 61.5, "peaks_db": [70, 71.25]}"#)
            .await;
        assert!(good.is_yes(via), "{good:?}");
        let bad = client.send(&path, "", br#"{"level_db": 141}"#).await;
        assert!(via == Via::Mqtt311 || bad.text.contains("level_db"), "{bad:?}");
        let old = client
            .send("devices/old/weather", "", br#"{"temperature_c": 21.5}"#)
            .await;
        assert!(old.is_yes(via), "{old:?}");
    }
    let arrived = gateway.readings("noise");
    assert_eq!(arrived.len(), Via::ALL.len());
    for arrived in arrived {
        assert_eq!(arrived.reading["device"], json!(arrived.device));
        assert_eq!(arrived.reading["level_db"], json!(61.5));
        assert_eq!(arrived.reading["peaks_db"], json!([70, 71.25]));
    }
    assert_eq!(gateway.dead_letters().len(), Via::ALL.len());
    let labels = [("kind", "noise"), ("outcome", "delivered")];
    assert_eq!(
        gateway.scrape().sum("citygate_readings_total", &labels),
        Via::ALL.len() as u64
    );
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_cannot_be_served_stops_the_start_and_is_named() {
    let check = async |file: &str, text: &str| {
        let folder = schemas_and_noise();
        std::fs::write(folder.path().join(file), text).unwrap();
        let broker = Broker::mock();
        let config = crate::harness::gateway::config(&broker, |config| config.schemas = every_kind_of(&folder));
        let error = citygate::gateway::Gateway::start(config)
            .await
            .expect_err("it must not start")
            .to_string();
        assert!(error.contains(file.trim_end_matches(".avsc")), "{error}");
    };
    check("broken.avsc", "{").await;
    check("number.avsc", r#""int""#).await;
    check("Upper.avsc", NOISE).await;
    check(
        "twice.avsc",
        r#"{"type":"record","name":"T","fields":[{"name":"a","type":"int"},{"name":"a","type":"int"}]}"#,
    )
    .await;
}

/// Nothing does this in service yet: it is what a reload will do.
#[tokio::test(flavor = "multi_thread")]
async fn kinds_can_be_replaced_while_readings_arrive() {
    let folder = schemas_and_noise();
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.schemas = every_kind_of(&folder);
    })
    .await;
    let replace = |folder: &std::path::Path| {
        let kinds = Kinds::load(folder, &gateway.topic_prefix, &gateway.metrics.tallies);
        gateway.catalogue().replace(kinds.unwrap());
    };
    let (weather, noise) = (br#"{"temperature_c": 21.5}"#, br#"{"level_db": 61.5}"#);
    let shipped = repository().join("schemas");
    for via in Via::ALL {
        replace(&shipped);
        let mut client = gateway.client(via).await;
        let (known, unknown) = (format!("devices/{via:?}/weather"), format!("devices/{via:?}/noise"));
        let answer = client.send(&unknown, "", noise).await;
        assert!(
            via == Via::Mqtt311 || answer.text.contains("unknown kind noise"),
            "{answer:?}"
        );
        let sending = async {
            for _ in 0..100 {
                let answer = client.send(&known, "", weather).await;
                assert!(answer.is_yes(via), "{answer:?}");
            }
        };
        let replacing = async {
            for _ in 0..10 {
                replace(folder.path());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::join!(sending, replacing);
        let answer = client.send(&unknown, "", noise).await;
        assert!(answer.is_yes(via), "{answer:?}");
    }
    assert_eq!(gateway.readings("weather").len(), 100 * Via::ALL.len());
    assert_eq!(gateway.readings("noise").len(), Via::ALL.len());
    assert_eq!(gateway.dead_letters().len(), Via::ALL.len());
    let scrape = gateway.scrape();
    let received = |kind| scrape.sum("citygate_readings_received_total", &[("kind", kind)]);
    let each = Via::ALL.len() as u64;
    assert_eq!(["weather", "noise", "unknown"].map(received), [100 * each, each, each]);
    gateway.finish().await;
}
