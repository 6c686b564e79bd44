//! Kinds come from the schemas' folder: one more `.avsc` file is one more stream, with its own topic and counters. A
//! schema that cannot be served stops the start and is named. The catalogue can be replaced while readings arrive,
//! without losing one.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use citygate::catalogue::Kinds;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::clients::Coap;
use crate::harness::{Broker, TestGateway, Via, eventually, repository};

const NOISE: &str = r#"{
  "type": "record", "name": "Noise", "namespace": "test.kinds",
  "fields": [
    {"name": "device", "type": "string", "fill": "device"},
    {"name": "received_at", "type": {"type": "long", "logicalType": "timestamp-millis"}, "fill": "received_at"},
    {"name": "level_db", "type": {"type": "double", "minimum": 0, "maximum": 140, "unit": "dB(A)"}},
    {"name": "peaks_db", "type": {"type": "array", "items": "double"}, "default": []}
  ]
}"#;

/// A folder with the three kinds of the city.
fn city_schemas() -> TempDir {
    let folder = TempDir::new().unwrap();
    for kind in ["traffic", "weather", "energy"] {
        let name = format!("{kind}.avsc");
        std::fs::copy(repository().join("schemas").join(&name), folder.path().join(&name)).unwrap();
    }
    folder
}

/// The same with `noise`.
fn schemas_and_noise() -> TempDir {
    let folder = city_schemas();
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

/// The outcome of a reading.
enum Told {
    /// Stored as it was sent.
    Same,
    /// This path is null, with this flag of the gateway.
    Null(&'static str, &'static str),
    /// One field is stored as this JSON.
    Stored(&'static str, &'static str),
    /// Rejected with these words.
    Rejected(&'static str),
}

/// Codes, ranges and the attributes of the bundled kinds.
const TABLE: &[(&str, &str, Told)] = &[
    ("traffic", r#"{"flow_veh_h": 30000}"#, Told::Same),
    (
        "traffic",
        r#"{"flow_veh_h": 15300}"#,
        Told::Null("flow_veh_h", "sentinel"),
    ),
    (
        "traffic",
        r#"{"flow_veh_h": 65535}"#,
        Told::Null("flow_veh_h", "sentinel"),
    ),
    (
        "traffic",
        r#"{"flow_veh_h": 30001}"#,
        Told::Null("flow_veh_h", "out_of_range"),
    ),
    (
        "traffic",
        r#"{"vehicle_count": 22320000, "interval_s": 2678400}"#,
        Told::Same,
    ),
    // What must be there cannot be null.
    (
        "traffic",
        r#"{"speed_kmh": 50.5, "location": {"latitude": 91, "longitude": 2}}"#,
        Told::Rejected("location.latitude: 91 is above the maximum 90"),
    ),
    (
        "traffic",
        r#"{"lanes": [{"lane": 65, "speed_kmh": 50.5}]}"#,
        Told::Rejected("lanes[0].lane: 65 is above the maximum 64"),
    ),
    (
        "traffic",
        r#"{"classes": {"car": -1}}"#,
        Told::Rejected("classes.car: -1 is below the minimum 0"),
    ),
    (
        "traffic",
        r#"{"speed_kmh": 50.5, "location": {"latitude": 1, "longitude": 2, "altitude_m": -9999}}"#,
        Told::Null("location.altitude_m", "out_of_range"),
    ),
    (
        "traffic",
        r#"{"queue_length_m": -4}"#,
        Told::Null("queue_length_m", "out_of_range"),
    ),
    (
        "traffic",
        r#"{"averageVehicleSpeed": 52.6}"#,
        Told::Stored("speed_kmh", r#"52.6"#),
    ),
    (
        "traffic",
        r#"{"direction": "northBound", "vehicle_count": 3}"#,
        Told::Stored("direction", r#""north""#),
    ),
    (
        "traffic",
        r#"{"lanes": [{"lane": 1}, {"lane": 2}, {"lane": 1}]}"#,
        Told::Rejected("two items have the same lane"),
    ),
    (
        "traffic",
        r#"{"lanes": [{"lane": 1, "speed_kmh": 255}]}"#,
        Told::Null("lanes[0].speed_kmh", "sentinel"),
    ),
    ("traffic", r#"{}"#, Told::Rejected("at least one of")),
    (
        "traffic",
        r#"{"direction": "north", "lanes": [{"lane": 1}]}"#,
        Told::Rejected("at least one of"),
    ),
    (
        "traffic",
        r#"{"lanes": [{"lane": 1}, {"lane": 2, "speed_kmh": 50.5}]}"#,
        Told::Same,
    ),
    (
        "traffic",
        r#"{"location": {"latitude": 1, "longitude": 2}, "observed_at": "2026-11-21T12:00:00Z"}"#,
        Told::Rejected("at least one of"),
    ),
    (
        "weather",
        r#"{"wind_direction_deg": 990}"#,
        Told::Null("wind_direction_deg", "sentinel"),
    ),
    (
        "weather",
        r#"{"wind_direction_deg": 999}"#,
        Told::Null("wind_direction_deg", "sentinel"),
    ),
    ("weather", r#"{"visibility_m": 9999}"#, Told::Same),
    ("weather", r#"{"pressure_hpa": 999.9}"#, Told::Same),
    (
        "weather",
        r#"{"temperature_c": -99999}"#,
        Told::Null("temperature_c", "sentinel"),
    ),
    (
        "weather",
        r#"{"temperature_c": -7999, "dew_point_c": 3.5}"#,
        Told::Null("temperature_c", "sentinel"),
    ),
    (
        "weather",
        r#"{"temperature_c": 3276.7}"#,
        Told::Null("temperature_c", "sentinel"),
    ),
    (
        "weather",
        r#"{"relative_humidity_percent": 6553.5}"#,
        Told::Null("relative_humidity_percent", "sentinel"),
    ),
    (
        "weather",
        r#"{"irradiance_w_m2": 32767}"#,
        Told::Null("irradiance_w_m2", "sentinel"),
    ),
    ("weather", r#"{"rain_mm": -0.4}"#, Told::Same),
    (
        "weather",
        r#"{"rain_mm": -0.6, "temperature_c": 3.5}"#,
        Told::Null("rain_mm", "out_of_range"),
    ),
    (
        "weather",
        r#"{"sea_level_pressure_hpa": 869.9, "temperature_c": 3.5}"#,
        Told::Null("sea_level_pressure_hpa", "out_of_range"),
    ),
    (
        "weather",
        r#"{"temperature_c": 71}"#,
        Told::Null("temperature_c", "out_of_range"),
    ),
    (
        "weather",
        r#"{"soil": [{"depth_m": 0.1, "moisture_percent": 31.5}]}"#,
        Told::Same,
    ),
    (
        "weather",
        r#"{"road": {"surface_state": "rime"}}"#,
        Told::Stored("road", r#"{"surface_state": "frost"}"#),
    ),
    (
        "weather",
        r#"{"quality": [{"field": "temperature_c", "flag": "missing"}]}"#,
        Told::Stored(
            "quality",
            r#"[{"field": "temperature_c", "flag": "missing", "source": "device"}]"#,
        ),
    ),
    (
        "weather",
        r#"{"quality": [{"field": "rain_mm", "flag": "suspect", "source": "gateway"}]}"#,
        Told::Rejected("source"),
    ),
    ("energy", r#"{"power_factor": -1.009}"#, Told::Same),
    (
        "energy",
        r#"{"power_factor": 1.02}"#,
        Told::Null("power_factor", "out_of_range"),
    ),
    (
        "energy",
        r#"{"phases": [{"phase": "a", "power_w": 5}]}"#,
        Told::Stored("phases", r#"[{"phase": "L1", "power_w": 5}]"#),
    ),
    (
        "energy",
        r#"{"phases": [{"phase": "a"}, {"phase": "L1"}]}"#,
        Told::Rejected("two items have the same phase"),
    ),
    (
        "energy",
        r#"{"supply": {"limit_w": 999900}}"#,
        Told::Null("supply.limit_w", "sentinel"),
    ),
    (
        "energy",
        r#"{"power_w": 5, "tariff": "123456789012345678901234567890123"}"#,
        Told::Rejected("longer than 32 characters"),
    ),
    (
        "energy",
        r#"{"battery_percent": 255}"#,
        Told::Null("battery_percent", "sentinel"),
    ),
    ("air", r#"{"pm25": 8.5}"#, Told::Stored("pm2_5_ug_m3", r#"8.5"#)),
    ("air", r#"{"o3_ug_m3": -0.5}"#, Told::Same),
    ("noise", r#"{"LAeq": 67.5}"#, Told::Stored("laeq_db", r#"67.5"#)),
    ("parking", r#"{"state": "occupied"}"#, Told::Same),
    (
        "streetlight",
        r#"{"powerState": "bootingUp"}"#,
        Told::Stored("lamp", r#""starting""#),
    ),
    ("water", r#"{"alarms": ["leak", "low_battery"]}"#, Told::Same),
    (
        "water",
        r#"{"serial": "A1", "firmware": "2"}"#,
        Told::Rejected("at least one of"),
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn codes_and_attributes_mean_the_same_over_every_protocol() {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.schemas = citygate::catalogue::Config::every(&repository().join("schemas"));
    })
    .await;
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        for (row, (kind, sent, told)) in TABLE.iter().enumerate() {
            let path = format!("devices/{via:?}-{row}/{kind}");
            let answer = client.send(&path, "", sent.as_bytes()).await;
            match told {
                Told::Rejected(words) => {
                    assert!(via == Via::Mqtt311 || answer.text.contains(words), "{sent}: {answer:?}")
                }
                _ => assert!(answer.is_yes(via), "{sent}: {answer:?}"),
            }
        }
    }
    let rejected = TABLE.iter().filter(|(_, _, told)| matches!(told, Told::Rejected(_)));
    assert_eq!(gateway.dead_letters().len(), rejected.count() * Via::ALL.len());
    let kinds: BTreeSet<&str> = TABLE.iter().map(|(kind, _, _)| *kind).collect();
    let readings = kinds.iter().flat_map(|kind| gateway.readings(kind));
    let readings: HashMap<String, Value> = readings.map(|arrived| (arrived.device, arrived.reading)).collect();
    for via in Via::ALL {
        for (row, (_, sent, told)) in TABLE.iter().enumerate() {
            check_stored(sent, told, readings.get(&format!("{via:?}-{row}")));
        }
    }
    gateway.finish().await;
}

fn check_stored(sent: &str, told: &Told, stored: Option<&Value>) {
    let fields: serde_json::Map<String, Value> = serde_json::from_str(sent).unwrap();
    match (told, stored) {
        (Told::Rejected(_), stored) => assert!(stored.is_none(), "{sent}"),
        (_, None) => panic!("{sent} did not come"),
        (Told::Same, Some(stored)) => {
            for (name, value) in fields {
                assert_eq!(stored[&name], value, "{sent}");
            }
        }
        (Told::Stored(name, value), Some(stored)) => {
            let value: Value = serde_json::from_str(value).unwrap();
            assert_eq!(stored[*name], value, "{sent}");
        }
        (Told::Null(path, flag), Some(stored)) => {
            let note = json!([{"field": path, "flag": flag, "source": "gateway"}]);
            assert_eq!(stored["quality"], note, "{sent}");
            let pointer = format!("/{}", path.replace(['.', '['], "/").replace(']', ""));
            assert_eq!(stored.pointer(&pointer), None, "{sent}");
            for (name, value) in fields.into_iter().filter(|(name, _)| !path.starts_with(name.as_str())) {
                assert_eq!(stored[&name], value, "{sent}");
            }
        }
    }
}

/// CoAP lists the kinds of the moment, and their topics are looked for before a reading is sent.
#[tokio::test(flavor = "multi_thread")]
async fn replaced_kinds_are_listed_and_their_topics_are_looked_for() {
    let city = city_schemas();
    let gateway = TestGateway::start(&Broker::mock(), |config| {
        config.schemas = every_kind_of(&city);
    })
    .await;
    let listed = async || {
        let mut coap = Coap::open(gateway.addresses.coap.unwrap()).await;
        coap.get(".well-known/core").await;
        coap.answer().await.text
    };
    let topic = format!("{}noise", gateway.topic_prefix);
    let missing = || {
        gateway
            .scrape()
            .sum("citygate_kafka_topic_missing", &[("topic", &topic)])
    };
    assert!(!listed().await.contains("noise"));
    let folder = schemas_and_noise();
    let kinds = Kinds::load(folder.path(), &gateway.topic_prefix, &gateway.metrics.tallies);
    gateway.catalogue().replace(kinds.unwrap());
    assert!(listed().await.contains("</devices/{device}/noise>;"));
    eventually("the new kind's topic is known to be missing", async || {
        (missing() == 1).then_some(())
    })
    .await;
    gateway.finish().await;
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
    let without_noise = city_schemas();
    for via in Via::ALL {
        replace(without_noise.path());
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
