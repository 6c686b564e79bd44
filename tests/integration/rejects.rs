//! A bad reading is refused in the device's own words, kept in the dead-letter topic, and costs nobody a connection.
//!
//! One table of what devices get wrong, run over every protocol; the codes are the contract of the README.

use crate::harness::broker::Record;
use crate::harness::{Broker, Client, TestGateway, Via, now_ms};

const GOOD: &[u8] = br#"{"temperature_c": 21.5}"#;

/// What a device sends, and what it is told.
struct Case {
    /// Behind `devices/<device>`.
    tail: &'static str,
    content_type: &'static str,
    body: Vec<u8>,
    reason: &'static str,
    /// Part of the text that goes with the code.
    text: &'static str,
}

/// A JSON body to a kind.
fn json(kind: &'static str, body: impl AsRef<[u8]>, reason: &'static str, text: &'static str) -> Case {
    let tail = match kind {
        "traffic" => "/traffic",
        "weather" => "/weather",
        "energy" => "/energy",
        other => other,
    };
    Case {
        tail,
        content_type: "application/json",
        body: body.as_ref().to_vec(),
        reason,
        text,
    }
}

/// The mistakes, by reason; the accept/reject matrix that validators commonly get wrong is in here.
fn cases() -> Vec<Case> {
    let later = format!(
        r#"{{"observed_at": {}, "temperature_c": 1}}"#,
        now_ms() + 365 * 86_400_000
    );
    let older = r#"{"observed_at": 1000, "temperature_c": 1}"#;
    let deep = format!(r#"{{"lanes": {}{}}}"#, "[".repeat(500), "]".repeat(500));
    vec![
        // Not JSON.
        json("weather", "", "malformed", ""),
        json("weather", "21.5 degrees", "malformed", ""),
        json("weather", r#"{"temperature_c": 21.5"#, "malformed", ""),
        json("weather", r#"{"temperature_c": 21.5} {}"#, "malformed", ""),
        json("weather", r#"{"temperature_c": 01.5}"#, "malformed", ""),
        json("weather", r#"{"temperature_c": NaN}"#, "malformed", ""),
        json("weather", r#"{"temperature_c": 21,5}"#, "malformed", ""),
        json("energy", b"{\"tariff\": \"\xFF\"}", "malformed", ""),
        json("energy", r#"{"tariff": "\ud800"}"#, "malformed", ""),
        json("energy", "{\"tariff\": \"a\nb\"}", "malformed", ""),
        // JSON, but not the schema.
        json("weather", "[]", "schema_mismatch", ""),
        json("weather", "null", "schema_mismatch", ""),
        json("weather", r#"{"temperature": 21.5}"#, "schema_mismatch", "temperature"),
        json(
            "weather",
            r#"{"temperature_c": 1, "temperature_c": 2}"#,
            "schema_mismatch",
            "temperature_c",
        ),
        json(
            "weather",
            r#"{"temperature_c": "NaN"}"#,
            "schema_mismatch",
            "temperature_c",
        ),
        json(
            "weather",
            r#"{"temperature_c": "21.5"}"#,
            "schema_mismatch",
            "temperature_c",
        ),
        json(
            "weather",
            r#"{"temperature_c": true}"#,
            "schema_mismatch",
            "temperature_c",
        ),
        json(
            "weather",
            r#"{"temperature_c": [21.5]}"#,
            "schema_mismatch",
            "temperature_c",
        ),
        json("weather", r#"{"status": "fine"}"#, "schema_mismatch", "status"),
        json(
            "weather",
            r#"{"location": {"latitude": null, "longitude": 1}}"#,
            "schema_mismatch",
            "latitude",
        ),
        json(
            "weather",
            r#"{"location": {"latitude": 1}}"#,
            "schema_mismatch",
            "longitude",
        ),
        json(
            "traffic",
            r#"{"vehicle_count": 3.5}"#,
            "schema_mismatch",
            "vehicle_count",
        ),
        json(
            "traffic",
            r#"{"lanes": [{"lane": 1}, {"lane": 2, "speed": 3}]}"#,
            "schema_mismatch",
            "lanes[1]",
        ),
        json("traffic", r#"{"classes": {"car": "many"}}"#, "schema_mismatch", "car"),
        // A number out of its range.
        json("weather", r#"{"temperature_c": -400}"#, "out_of_range", "temperature_c"),
        json(
            "weather",
            r#"{"relative_humidity_percent": 100.5}"#,
            "out_of_range",
            "relative_humidity_percent",
        ),
        json(
            "weather",
            r#"{"location": {"latitude": 91, "longitude": 1}}"#,
            "out_of_range",
            "latitude",
        ),
        json("traffic", r#"{"vehicle_count": -1}"#, "out_of_range", "vehicle_count"),
        json(
            "traffic",
            r#"{"vehicle_count": 99999999999}"#,
            "out_of_range",
            "vehicle_count",
        ),
        json(
            "traffic",
            r#"{"lanes": [{"lane": 1, "speed_kmh": 9000}]}"#,
            "out_of_range",
            "lanes[0].speed_kmh",
        ),
        json(
            "energy",
            r#"{"phases": [{"phase": "L1", "voltage_v": -5}]}"#,
            "out_of_range",
            "voltage_v",
        ),
        // A clock that cannot be right.
        json("weather", later, "bad_clock", "observed_at"),
        json("weather", older, "bad_clock", "observed_at"),
        // Addresses.
        json("/noise", GOOD, "unknown_kind", "noise"),
        json("/Weather", GOOD, "unknown_kind", "Weather"),
        json("/weather/now", GOOD, "bad_address", "devices/<device>/<kind>"),
        // Formats and sizes.
        Case {
            tail: "/weather",
            content_type: "application/cbor",
            body: b"\xA1\x61t\x15".to_vec(),
            reason: "unsupported_format",
            text: "application/cbor",
        },
        json("/weather/batch", "[]", "malformed", "no reading"),
        json("/weather/batch", GOOD, "malformed", "array"),
        json("traffic", deep, "malformed", ""),
    ]
}

/// How each reason is said: the table of the README.
fn code(via: Via, reason: &str) -> &'static str {
    let [mqtt5, coap, http] = match reason {
        "malformed" => ["0x99", "4.00", "400"],
        "schema_mismatch" | "out_of_range" | "bad_clock" => ["0x99", "4.22", "422"],
        "unknown_kind" | "bad_address" => ["0x90", "4.04", "404"],
        "unsupported_format" => ["0x99", "4.15", "415"],
        "too_large" => ["0x97", "4.13", "413"],
        other => panic!("no such reason: {other}"),
    };
    match via {
        Via::Mqtt311 => "PUBACK",
        Via::Mqtt5 => mqtt5,
        Via::Coap => coap,
        Via::Http => http,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_311_acknowledges_what_is_kept() {
    check_all(Via::Mqtt311).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_5_says_why() {
    check_all(Via::Mqtt5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coap_says_why() {
    check_all(Via::Coap).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_says_why() {
    check_all(Via::Http).await;
}

/// Every case over one connection, a good reading after each; then the dead letters.
async fn check_all(via: Via) {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let mut client = gateway.client(via).await;
    let started = now_ms();
    let mut wrong = Vec::new();
    let mut cases: Vec<_> = cases().into_iter().enumerate().collect();
    if via == Via::Mqtt311 {
        // It has no content type, so that these bytes are taken for JSON.
        cases.retain(|(_, case)| case.reason != "unsupported_format");
    }
    for (number, case) in &cases {
        let path = format!("devices/bad-{number}{}", case.tail);
        let answer = client.send(&path, case.content_type, &case.body).await;
        let shown = String::from_utf8_lossy(&case.body[..case.body.len().min(80)]);
        if answer.code != code(via, case.reason) || (via != Via::Mqtt311 && !answer.text.contains(case.text)) {
            wrong.push(format!(
                "{path} {shown}: expected {} ({}), got {answer:?}",
                code(via, case.reason),
                case.text
            ));
        }
        if via == Via::Http {
            assert_eq!(answer.content_type, "application/problem+json", "{path}");
        }
        let good = client.send("devices/good/weather", "application/json", GOOD).await;
        assert!(
            good.is_yes(via),
            "the connection lives on after {path} {shown}: {good:?}"
        );
    }
    let letters = gateway.dead_letters();
    for (number, case) in &cases {
        let device = format!("bad-{number}");
        let path = format!("devices/{device}{}", case.tail);
        let mine: Vec<_> = letters.iter().filter(|letter| letter.header("path") == path).collect();
        match mine[..] {
            [letter] => wrong.extend(letter_mistake(letter, case, via, &device, started)),
            _ => wrong.push(format!("{} dead letters of {path}", mine.len())),
        }
    }
    assert_eq!(letters.len(), cases.len());
    assert_eq!(
        gateway.records("weather").len(),
        cases.len(),
        "each good reading landed"
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    gateway.finish().await;
}

/// The original bytes, keyed by device, with everything that is known beside them.
fn letter_mistake(letter: &Record, case: &Case, via: Via, device: &str, started_ms: i64) -> Option<String> {
    let received_at: i64 = letter.header("received-at").parse().unwrap();
    let kind = case.tail.trim_start_matches('/').split('/').next().unwrap();
    let address_is_good = case.reason != "bad_address";
    let content_type = if via == Via::Mqtt311 { "" } else { case.content_type };
    let good = letter.value == case.body
        && letter.header("reason") == case.reason
        && letter.header("detail").contains(case.text)
        && letter.header("protocol") == via.protocol()
        && letter.header("content-type") == content_type
        && (!address_is_good || (letter.key == device && letter.header("kind") == kind))
        && (started_ms..=now_ms()).contains(&received_at)
        && letter.timestamp_ms == received_at;
    (!good).then(|| format!("{case_reason} of {device}: {letter:?}", case_reason = case.reason))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_no_address_is_refused_and_kept() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let mut expected = 0;
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        for path in [
            "telemetry",
            "devices/x",
            "devices/-x/weather",
            "devices/x y/weather",
            "devices/x/weather/",
        ] {
            if via == Via::Http && path.contains(' ') {
                continue; // a client cannot even ask for it
            }
            let answer = client.send(path, "", GOOD).await;
            assert_eq!(answer.code, code(via, "bad_address"), "{via:?} {path}: {answer:?}");
            expected += 1;
        }
        assert!(client.send("devices/x/weather", "", GOOD).await.is_yes(via));
    }
    let letters = gateway.dead_letters();
    assert_eq!(letters.len(), expected);
    assert!(
        letters
            .iter()
            .all(|letter| letter.value == GOOD && letter.header("reason") == "bad_address")
    );
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_keeps_its_good_readings_and_names_the_bad_one() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let body = br#"[{"temperature_c": 1}, {"temperature_c": -400}, {"temperature_c": 3}]"#;
    for via in Via::ALL {
        let device = format!("{via:?}");
        let mut client = gateway.client(via).await;
        let answer = client
            .send(&format!("devices/{device}/weather/batch"), "application/json", body)
            .await;
        match via {
            Via::Http => {
                let answer: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
                let statuses: Vec<_> = answer["results"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|item| &item["status"])
                    .collect();
                assert_eq!(statuses, [204, 422, 204]);
                assert!(
                    answer["results"][1]["detail"]
                        .as_str()
                        .unwrap()
                        .contains("temperature_c")
                );
            }
            _ => assert_eq!(answer.code, code(via, "out_of_range"), "{answer:?}"),
        }
        if via == Via::Mqtt5 || via == Via::Coap {
            assert!(
                answer.text.contains("1 of 3") && answer.text.contains("[1]"),
                "{answer:?}"
            );
        }
        let landed = gateway
            .records("weather")
            .iter()
            .filter(|record| record.key == device)
            .count();
        assert_eq!(landed, 2, "{device}");
        let letters = gateway.dead_letters();
        let kept: Vec<_> = letters.iter().filter(|letter| letter.key == device).collect();
        assert_eq!(kept.len(), 1);
        assert_eq!(
            kept[0].value, br#"{"temperature_c": -400}"#,
            "the bad item alone is kept"
        );
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_before_it_is_read() {
    const LARGE: usize = 64 * 1024;
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.http.body_bytes_max = bytesize::ByteSize::kib(16);
        config.mqtt.packet_bytes_max = bytesize::ByteSize::kib(16);
    })
    .await;
    let check = async |via: Via, expected: &[&str]| {
        let mut client = gateway.client(via).await;
        let answer = client.send("devices/large/weather", "", &vec![b' '; LARGE]).await;
        assert!(expected.contains(&answer.code.as_str()), "{via:?}: {answer:?}");
        let mut client = gateway.client(via).await;
        assert!(client.send("devices/large/weather", "", GOOD).await.is_yes(via));
    };
    check(Via::Http, &["413"]).await;
    check(Via::Mqtt5, &["DISCONNECT 0x95"]).await;
    check(Via::Mqtt311, &["closed"]).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_than_post_are_told_so() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let url = format!("http://{}/devices/a/weather", gateway.addresses.http.unwrap());
    let response = reqwest::get(&url).await.unwrap();
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "POST");
    let Client::Http(_) = gateway.client(Via::Http).await else {
        unreachable!()
    };
    gateway.finish().await;
}
