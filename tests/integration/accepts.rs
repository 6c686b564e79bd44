//! An accepted reading, in every protocol, is answered positively and is in Kafka: keyed by device, equal value by
//! value, with the fields that the gateway fills in. What serializers make of numbers, nulls and times is accepted as
//! well. Rejections are in `rejects`.

use coap_lite::MessageType;
use serde_json::{Value, json};

use crate::harness::avro::{self, plain};
use crate::harness::clients::send_exactly_once;
use crate::harness::gateway::Arrived;
use crate::harness::{Broker, Client, TEST_TIMEOUT, TestGateway, Via, eventually, now_ms, repository};

/// Readings of each kind: the smallest, and one with everything in it.
fn examples() -> Vec<(&'static str, Value)> {
    let at = now_ms() - 1500;
    vec![
        (
            "traffic",
            json!({ "vehicle_count": 12, "speed_kmh": 48.5, "interval_s": 60 }),
        ),
        (
            "traffic",
            json!({
                "observed_at": at, "sequence": 9_007_199_254_740_993_i64, "interval_s": 300, "status": "degraded",
                "location": { "latitude": 48.137_154, "longitude": 11.576_124, "altitude_m": 519 },
                "vehicle_count": 250, "flow_veh_h": 3000.0, "speed_kmh": 0, "occupancy_percent": 12.5,
                "headway_s": 1.4,
                "lanes": [
                    { "lane": 1, "vehicle_count": 100, "flow_veh_h": 1200, "speed_kmh": 81.25,
                      "occupancy_percent": 10, "headway_s": 2.9 },
                    { "lane": 2, "vehicle_count": 150 },
                ],
                "classes": { "car": 200, "truck": 40, "bus": 10 },
            }),
        ),
        ("weather", json!({ "temperature_c": 21.5 })),
        (
            "weather",
            json!({
                "observed_at": at, "sequence": 0, "status": "ok", "interval_s": 600,
                "temperature_c": -17.3, "dew_point_c": -20.0, "relative_humidity_percent": 79.4,
                "pressure_hpa": 1013.25, "wind_speed_m_s": 3.6, "wind_gust_m_s": 7.2, "wind_direction_deg": 304.7,
                "rain_mm": 0.2, "irradiance_w_m2": 412.9, "visibility_m": 10_000, "uv_index": 3.5,
            }),
        ),
        (
            "energy",
            json!({ "power_w": -1899.8, "energy_import_kwh": 2_589.773_39 }),
        ),
        (
            "energy",
            json!({
                "observed_at": at, "sequence": 77, "status": "fault",
                "energy_import_kwh": 1e7, "energy_export_kwh": 1.026_61, "power_w": 558.965,
                "reactive_power_var": -12.5, "power_factor": 0.76, "frequency_hz": 50.02, "tariff": "T1",
                "phases": [
                    { "phase": "L1", "voltage_v": 229.0, "current_a": 2.392, "power_w": 375.5 },
                    { "phase": "L2", "voltage_v": 229.0, "current_a": 1.037, "power_w": 170.8 },
                ],
            }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_lands_keyed_and_equal_over_every_protocol() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let started = now_ms();
    let mut sent = Vec::new();
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        for (number, (kind, reading)) in examples().into_iter().enumerate() {
            let device = format!("{via:?}-{number}");
            let path = format!("devices/{device}/{kind}");
            let answer = client
                .send(&path, "application/json", reading.to_string().as_bytes())
                .await;
            assert!(answer.is_yes(via), "{path}: {answer:?}");
            sent.push((kind, device, reading));
        }
    }
    for (kind, device, reading) in sent {
        let arrived = gateway.readings(kind);
        let mine: Vec<_> = arrived.iter().filter(|arrived| arrived.device == device).collect();
        assert_eq!(mine.len(), 1, "{device}");
        check_arrived(mine[0], &reading, started);
    }
    gateway.finish().await;
}

/// Serializers write null for what there is not, whole numbers with a fraction, and times as text.
#[tokio::test(flavor = "multi_thread")]
async fn a_reading_may_be_as_serializers_write_it() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let observed_ms = now_ms() - 1500;
    let observed = jiff::Timestamp::from_millisecond(observed_ms).unwrap();
    let body = format!(
        r#"{{"observed_at":"{observed}","device":null,"received_at":null,"lanes":null,"classes":null,"sequence":7.0,"vehicle_count":1.2e1}}"#
    );
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        let device = format!("{via:?}");
        let answer = client
            .send(
                &format!("devices/{device}/traffic"),
                "application/json",
                body.as_bytes(),
            )
            .await;
        assert!(answer.is_yes(via), "{answer:?}");
        let arrived = gateway.readings("traffic");
        let mine: Vec<_> = arrived.iter().filter(|arrived| arrived.device == device).collect();
        let sent = json!({ "observed_at": observed_ms, "sequence": 7, "vehicle_count": 12 });
        check_arrived(mine[0], &sent, observed_ms);
    }
    gateway.finish().await;
}

/// So that a consumer in another language finds the schema: not every library makes the same canonical form.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_names_its_schema_by_the_fingerprint_of_the_specification() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let mut client = gateway.client(Via::Http).await;
    for kind in ["traffic", "weather", "energy"] {
        let path = format!("devices/a/{kind}");
        let answer = client.send(&path, "", br#"{"status": "ok"}"#).await;
        assert!(answer.is_yes(Via::Http), "{answer:?}");
        let file = repository().join("schemas").join(format!("{kind}.avsc"));
        let expected = avro::single_object_header(&std::fs::read_to_string(file).unwrap());
        assert_eq!(gateway.records(kind)[0].value[..10], expected, "{kind}");
    }
    gateway.finish().await;
}

/// The reading as sent, and beside it what the gateway fills in: device, time of reception, time of observation.
fn check_arrived(arrived: &Arrived, sent: &Value, started_ms: i64) {
    let mut reading = arrived.reading.clone();
    let fields = reading.as_object_mut().unwrap();
    assert_eq!(fields.remove("device"), Some(arrived.device.clone().into()));
    let received_at = fields.remove("received_at").unwrap().as_i64().unwrap();
    assert!(
        (started_ms..=now_ms()).contains(&received_at),
        "received at {received_at}"
    );
    assert_eq!(
        arrived.record.timestamp_ms, received_at,
        "retention counts from arrival"
    );
    if sent.get("observed_at").is_none() {
        let observed_at = fields.remove("observed_at");
        assert_eq!(
            observed_at,
            Some(received_at.into()),
            "a device without a clock gets the gateway's"
        );
    }
    assert_eq!(reading, plain(sent.clone()), "{}", arrived.device);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reading_of_a_batch_lands_and_has_its_own_result() {
    const ARRAY: &str = r#"[{"temperature_c": 1}, {"temperature_c": 2.5},{"temperature_c":3}]"#;
    const LINES: &str = "{\"temperature_c\": 1}\n\n{\"temperature_c\": 2.5}\r\n{\"temperature_c\":3}";
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let check = async |via: Via, tail: &str, content_type: &str, body: &str| {
        let device = format!("{via:?}-{}", content_type.len() + tail.len());
        let mut client = gateway.client(via).await;
        let answer = client
            .send(
                &format!("devices/{device}/weather{tail}"),
                content_type,
                body.as_bytes(),
            )
            .await;
        match via {
            Via::Http => {
                assert_eq!(
                    (answer.code.as_str(), answer.content_type.as_str()),
                    ("200", "application/json")
                );
                let expected = json!({
                    "accepted": 3, "rejected": 0, "busy": 0,
                    "results": [{ "status": 204 }, { "status": 204 }, { "status": 204 }],
                });
                assert_eq!(serde_json::from_str::<Value>(&answer.text).unwrap(), expected);
            }
            _ => assert!(answer.is_yes(via), "{via:?} {tail} {content_type}: {answer:?}"),
        }
        let temperatures: Vec<_> = gateway
            .readings("weather")
            .into_iter()
            .filter(|arrived| arrived.device == device)
            .map(|arrived| arrived.reading["temperature_c"].as_f64().unwrap())
            .collect();
        assert_eq!(temperatures, [1.0, 2.5, 3.0], "{device}");
    };
    for via in Via::ALL {
        check(via, "/batch", "", ARRAY).await;
    }
    check(Via::Http, "", "application/json", ARRAY).await;
    check(Via::Http, "", "application/x-ndjson", LINES).await;
    check(Via::Mqtt5, "", "application/x-ndjson", LINES).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_2_is_safe_at_pubrec_and_qos_0_is_counted() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    for via in [Via::Mqtt311, Via::Mqtt5] {
        let Client::Mqtt(mut mqtt) = gateway.client(via).await else {
            unreachable!()
        };
        let path = format!("devices/{via:?}/weather");
        for number in 1..=3 {
            let answer = send_exactly_once(&mut mqtt, &path, br#"{"temperature_c": 21.5}"#).await;
            assert_eq!(answer.code, "0x00");
            assert_eq!(
                of_device(&gateway, via),
                number,
                "PUBREC is sent when it is safe, not before"
            );
        }
        mqtt.publish(0, &path, "", br#"{"temperature_c": 21.5}"#).await;
        eventually("the QoS 0 reading lands", async || {
            (of_device(&gateway, via) == 4).then_some(())
        })
        .await;
    }
    let labels = [("protocol", "mqtt"), ("kind", "weather"), ("outcome", "delivered")];
    eventually("all are counted", async || {
        (gateway.scrape().sum("citygate_readings_total", &labels) == 8).then_some(())
    })
    .await;
    gateway.finish().await;
}

fn of_device(gateway: &TestGateway, via: Via) -> usize {
    let device = format!("{via:?}");
    gateway
        .records("weather")
        .iter()
        .filter(|record| record.key == device)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_non_confirmable_request_is_answered_too() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let mut client = gateway.client(Via::Coap).await;
    let Client::Coap(coap) = &mut client else {
        unreachable!()
    };
    let body = br#"{"temperature_c": 21.5}"#;
    coap.post(
        MessageType::NonConfirmable,
        "devices/non/weather",
        "application/json",
        body,
    )
    .await;
    assert_eq!(client.answer(TEST_TIMEOUT).await.unwrap().code, "2.04");
    assert_eq!(gateway.records("weather").len(), 1);
    gateway.finish().await;
}

/// Pipelined on one connection, over three partitions: each device's readings stay on one, in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_devices_readings_stay_in_order_on_one_partition() {
    const READINGS: i64 = 200;
    const DEVICES: i64 = 4;
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let mut client = gateway.client(Via::Mqtt5).await;
    for sequence in 0..READINGS {
        let body = json!({ "sequence": sequence, "temperature_c": 20 }).to_string();
        client
            .post(
                &format!("devices/in-order-{}/weather", sequence % DEVICES),
                "",
                body.as_bytes(),
            )
            .await;
        if sequence % 16 == 15 {
            // No more in flight than a receive maximum may allow.
            for _ in 0..16 {
                assert_eq!(client.answer(TEST_TIMEOUT).await.unwrap().code, "0x00");
            }
        }
    }
    for _ in 0..READINGS % 16 {
        assert_eq!(client.answer(TEST_TIMEOUT).await.unwrap().code, "0x00");
    }
    let arrived = gateway.readings("weather");
    for device in 0..DEVICES {
        let name = format!("in-order-{device}");
        let mine: Vec<_> = arrived.iter().filter(|arrived| arrived.device == name).collect();
        let sequences: Vec<_> = mine
            .iter()
            .map(|arrived| arrived.reading["sequence"].as_i64().unwrap())
            .collect();
        let expected: Vec<_> = (0..READINGS).filter(|sequence| sequence % DEVICES == device).collect();
        assert_eq!(sequences, expected);
        assert!(
            mine.iter()
                .all(|arrived| arrived.record.partition == mine[0].record.partition)
        );
    }
    gateway.finish().await;
}
