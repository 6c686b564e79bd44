//! A bad reading is refused in the device's own words, kept in the dead-letter topic, and costs nobody a connection.
//!
//! One table of what devices get wrong, run over every protocol; the codes are the contract of the README.

use crate::harness::broker::Record;
use crate::harness::clients::send_exactly_once;
use crate::harness::{Broker, Client, TestGateway, Via, now_ms};

const GOOD: &[u8] = br#"{"temperature_c": 21.5}"#;

/// What a device sends, and what it is told.
struct Case {
    /// Behind `devices/<device>/`.
    tail: String,
    content_type: &'static str,
    body: Vec<u8>,
    reason: &'static str,
    /// Part of the text that goes with the code.
    text: &'static str,
}

/// The kind, the body, and what the text must name.
type Mistake = (&'static str, &'static str, &'static str);

/// What devices get wrong, by reason. The accept/reject matrix that validators commonly get wrong is in here.
const MISTAKES: [(&str, &[Mistake]); 4] = [
    (
        "malformed",
        &[
            ("weather", "", "the payload is empty"),
            ("weather", " \r\n", "the payload is empty"),
            ("weather", "twenty degrees", ""),
            ("weather", "21.5 degrees", ""),
            ("weather", r#"{"status": "fine"} and well"#, ""),
            ("weather", r#"{"temperature_c": 21.5"#, ""),
            ("weather", r#"{"temperature_c": 21.5} {}"#, ""),
            ("weather", r#"{"temperature_c": 01.5}"#, ""),
            ("weather", r#"{"temperature_c": NaN}"#, ""),
            ("weather", r#"{"temperature_c": 21,5}"#, ""),
            ("energy", r#"{"tariff": "\ud800"}"#, ""),
            ("energy", "{\"tariff\": \"a\nb\"}", ""),
            ("weather/batch", "[]", "no reading"),
            ("weather/batch", r#"{"temperature_c": 21.5}"#, "array"),
        ],
    ),
    (
        "schema_mismatch",
        &[
            ("weather", r#""21.5""#, ""),
            ("weather", "null", ""),
            ("weather", r#"{"temperature": 21.5}"#, "temperature"),
            ("weather", r#"{"rain_mm": 1, "rain_mm": 2}"#, "rain_mm"),
            ("weather", r#"{"temperature_c": "NaN"}"#, "temperature_c"),
            ("weather", r#"{"temperature_c": "21.5"}"#, "temperature_c"),
            ("weather", r#"{"temperature_c": true}"#, "temperature_c"),
            ("weather", r#"{"temperature_c": [21.5]}"#, "temperature_c"),
            ("weather", r#"{"status": "fine"}"#, "status"),
            ("weather", r#"{"device": "another"}"#, "device"),
            ("weather", r#"{"received_at": 1}"#, "received_at"),
            ("weather", r#"{"location": {"latitude": null}}"#, "latitude"),
            ("weather", r#"{"location": {"latitude": 1}}"#, "longitude"),
            ("traffic", r#"{"vehicle_count": 3.50}"#, "got 3.50"),
            ("traffic", r#"{"observed_at": "2026-11-21T12:00:00"}"#, "no offset"),
            ("traffic", r#"{"observed_at": "2016-12-31T23:59:60Z"}"#, "leap second"),
            ("traffic", r#"{"lanes": [{"lane": 1}, {"lan": 2}]}"#, "lanes[1]"),
            ("traffic", r#"{"lanes": [[[[[[[[[[[]]]]]]]]]]]}"#, "lanes[0]"),
            ("traffic", r#"{"classes": {"car": "many"}}"#, "car"),
        ],
    ),
    (
        "out_of_range",
        &[
            ("weather", r#"{"location": {"latitude": -400}}"#, "location.latitude"),
            ("weather", r#"{"location": {"latitude": 1e400}}"#, "location.latitude"),
            (
                "energy",
                r#"{"power_w": 5, "location": {"latitude": 1, "longitude": 180.5}}"#,
                "180.5",
            ),
            ("traffic", r#"{"lanes": [{"lane": -1}]}"#, "lanes[0].lane"),
            ("traffic", r#"{"lanes": [{"lane": 65}]}"#, "lanes[0].lane"),
            ("traffic", r#"{"lanes": [{"lane": 99999999999}]}"#, "lanes[0].lane"),
            ("traffic", r#"{"lanes": [{"lane": -9.0e400}]}"#, "-9.0e400"),
            ("traffic", r#"{"classes": {"car": -1}}"#, "classes.car"),
            ("traffic", r#"{"classes": {"car": 22320001}}"#, "classes.car"),
        ],
    ),
    (
        "unknown_kind",
        &[
            ("noise", r#"{"temperature_c": 21.5}"#, "noise"),
            ("Weather", r#"{"temperature_c": 21.5}"#, "Weather"),
        ],
    ),
];

/// The table, and what a table of constants cannot hold.
fn cases() -> Vec<Case> {
    let case = |tail: &str, body: &[u8], reason, text| Case {
        tail: tail.to_owned(),
        content_type: "application/json",
        body: body.to_vec(),
        reason,
        text,
    };
    let table = MISTAKES
        .iter()
        .flat_map(|(reason, rows)| rows.iter().map(move |row| (*reason, *row)));
    let mut cases: Vec<_> = table
        .map(|(reason, (tail, body, text))| case(tail, body.as_bytes(), reason, text))
        .collect();
    let year_ms = 365 * 86_400_000;
    for observed_at in [now_ms() + year_ms, now_ms() - year_ms] {
        let body = format!(r#"{{"observed_at": {observed_at}}}"#);
        cases.push(case("weather", body.as_bytes(), "bad_clock", "observed_at"));
    }
    for (observed_at, unit) in [(now_ms() / 1000, "seconds?"), (now_ms() * 1000, "microseconds?")] {
        let body = format!(r#"{{"observed_at": {observed_at}}}"#);
        cases.push(case("weather", body.as_bytes(), "bad_clock", unit));
    }
    cases.push(case("energy", b"{\"tariff\": \"\xFF\"}", "malformed", ""));
    cases.push(case("weather/now", GOOD, "bad_address", "devices/<device>/<kind>"));
    cases.push(Case {
        content_type: "application/cbor",
        ..case("weather", b"\xA1\x61t\x15", "unsupported_format", "application/cbor")
    });
    cases
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
        let path = format!("devices/bad-{number}/{}", case.tail);
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
        let path = format!("devices/{device}/{}", case.tail);
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
    let kind = case.tail.split('/').next().unwrap();
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
    let body = br#"[{"temperature_c": 1}, {"location": {"latitude": -400}}, {"temperature_c": 3}]"#;
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
                        .contains("location.latitude")
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
            kept[0].value, br#"{"location": {"latitude": -400}}"#,
            "the bad item alone is kept"
        );
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_before_it_is_read() {
    const LARGE: usize = 32 * 1024;
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
    check(Via::Coap, &["4.13"]).await;
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

/// A body that belongs nowhere is one dead letter, whatever it holds; a yes is never said without a reading.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_belongs_nowhere_is_one_dead_letter() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let mut client = gateway.client(Via::Http).await;
    let body = "1\n".repeat(5000);
    let long = format!("devices/a/{}", "x".repeat(5000));
    for path in ["", "nowhere", "devices/a/unheard-of", long.as_str()] {
        let answer = client.send(path, "application/x-ndjson", body.as_bytes()).await;
        assert_eq!(answer.code, "404", "{path}: {answer:?}");
    }
    let letters = gateway.dead_letters();
    assert_eq!(letters.len(), 4, "one for each message");
    assert!(letters.iter().all(|letter| letter.value == body.as_bytes()));
    assert!(letters.iter().all(|letter| letter.header("path").len() <= 512));
    gateway.finish().await;
}

/// A device that sends nothing but rubbish fills no topic. It is told all the same; where it cannot be told, what is
/// acknowledged is kept.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_poison_loop_the_first_are_kept() {
    const QUOTA: u32 = 3;
    const SENT: usize = 12;
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.limits.dead_letters_per_minute = QUOTA;
    })
    .await;
    let minute = || now_ms() / 60_000;
    let began = minute();
    let mut skipped = 0;
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        let device = format!("poison-{via:?}");
        for _ in 0..SENT {
            let answer = client.send(&format!("devices/{device}/weather"), "", b"rubbish").await;
            assert_eq!(answer.is_yes(via), via == Via::Mqtt311, "{answer:?}");
        }
        let letters = gateway.dead_letters();
        let kept = letters.iter().filter(|letter| letter.key == device).count();
        // A minute that ended meanwhile brought a new quota.
        let quotas = 1 + usize::try_from(minute() - began).unwrap();
        match via {
            Via::Mqtt311 => assert_eq!(kept, SENT),
            _ => assert!(
                (QUOTA as usize..=quotas * QUOTA as usize).contains(&kept),
                "{via:?}: {kept}"
            ),
        }
        skipped += SENT - kept;
    }
    // A later connection of the session, which may be one of 3.1.1, may ask for these again.
    let Client::Mqtt(mut mqtt) = gateway.client(Via::Mqtt5).await else {
        unreachable!()
    };
    for _ in 0..SENT {
        let answer = send_exactly_once(&mut mqtt, "devices/poison-qos-2/weather", b"rubbish").await;
        assert!(!answer.is_yes(Via::Mqtt5), "{answer:?}");
    }
    let letters = gateway.dead_letters();
    assert_eq!(
        letters.iter().filter(|letter| letter.key == "poison-qos-2").count(),
        SENT
    );
    let good = gateway
        .client(Via::Http)
        .await
        .send("devices/poison-Http/weather", "", GOOD)
        .await;
    assert!(good.is_yes(Via::Http), "its good readings are accepted: {good:?}");
    assert_eq!(
        gateway.scrape().sum("citygate_dead_letters_skipped_total", &[]),
        skipped as u64
    );
    gateway.finish().await;
}
