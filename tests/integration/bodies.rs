//! What a body may contain and what is wrong with it: byte order marks, batches with bad items, empty payloads. One
//! table over every protocol; and the answer to a batch of which all, some or none of the readings are safe. Framing of
//! HTTP bodies is in `http`.

use serde_json::Value;

use crate::harness::clients::Answer;
use crate::harness::{Broker, Client, TestGateway, Via};

const GOOD: &str = r#"{"temperature_c": 21.5}"#;
const BAD: &str = r#"{"location": {"latitude": -400, "longitude": 7.5}}"#;
const MARK: &[u8] = b"\xEF\xBB\xBF";
const NDJSON: &str = "application/x-ndjson";

/// Those that can say that a body is NDJSON: MQTT 3.1.1 has no content type, CoAP no number for it.
const SAY_NDJSON: [Via; 2] = [Via::Mqtt5, Via::Http];

/// A body as pieces, so that good items are written short.
fn body(pieces: &[&[u8]]) -> Vec<u8> {
    pieces.concat()
}

fn with_mark(text: &str) -> Vec<u8> {
    body(&[MARK, text.as_bytes()])
}

/// Whether all of a message is safe.
fn is_yes(answer: &Answer, via: Via) -> bool {
    answer.is_yes(via)
        || (via == Via::Http && answer.code == "200" && counts(answer)[0] > 0 && counts(answer)[1..] == [0, 0])
}

fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// `[accepted, rejected, busy]` of an HTTP answer.
fn counts(answer: &Answer) -> [u64; 3] {
    let json = json(answer);
    ["accepted", "rejected", "busy"].map(|name| json[name].as_u64().unwrap_or_else(|| panic!("no {name}: {answer:?}")))
}

/// The details of a batch's rejected readings, or of the body if it is one.
fn details(answer: &Answer, via: Via) -> Vec<String> {
    if via != Via::Http {
        return vec![answer.text.clone()];
    }
    let json = json(answer);
    let results = json["results"]
        .as_array()
        .cloned()
        .unwrap_or_else(|| vec![json.clone()]);
    let details = results.iter().filter_map(|result| result["detail"].as_str());
    details.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_order_mark_is_ignored_wherever_a_json_text_begins() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let two = format!("[{GOOD},{GOOD}]");
    let lines = [MARK, GOOD.as_bytes(), b"\r\n", MARK, GOOD.as_bytes(), b"\n"].concat();
    let mut expected = 0;
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        let mut check = async |tail: &str, content_type: &str, body: &[u8], readings: usize| {
            let answer = client.send(&format!("devices/marked/{tail}"), content_type, body).await;
            assert!(is_yes(&answer, via), "{via:?} {tail}: {answer:?}");
            expected += readings;
        };
        check("weather", "", &with_mark(GOOD), 1).await;
        check("weather", "application/json", &with_mark(&format!(" {GOOD}")), 1).await;
        check("weather/batch", "", &with_mark(&two), 2).await;
        if via == Via::Http {
            check("weather", "application/json", &with_mark(&two), 2).await;
        }
        if SAY_NDJSON.contains(&via) {
            check("weather", NDJSON, &lines, 2).await;
        }
        // Twice is once too often, and it is kept as it came.
        let twice = body(&[MARK, MARK, GOOD.as_bytes()]);
        let path = format!("devices/{via:?}/weather");
        let answer = client.send(&path, "", &twice).await;
        assert_eq!(is_yes(&answer, via), via == Via::Mqtt311, "{answer:?}");
        let bad = with_mark(BAD);
        client.send(&path, "", &bad).await;
        let mut kept: Vec<_> = gateway
            .dead_letters()
            .into_iter()
            .filter(|letter| letter.key == format!("{via:?}"))
            .collect();
        kept.sort_by_key(|letter| letter.value.len());
        let values: Vec<_> = kept.iter().map(|letter| letter.value.clone()).collect();
        let mut originals = vec![twice, bad];
        originals.sort_by_key(Vec::len);
        assert_eq!(values, originals, "{via:?}");
    }
    assert_eq!(gateway.records("weather").len(), expected);
    gateway.finish().await;
}

/// A batch, what is kept of it as dead letters, and what is said of each of them.
struct Batch {
    body: Vec<u8>,
    good: usize,
    letters: Vec<(&'static [u8], &'static str)>,
}

fn batches() -> Vec<Batch> {
    let good = GOOD.as_bytes();
    let batch = |pieces: &[&[u8]], good, letters: &[(&'static [u8], &'static str)]| Batch {
        body: body(pieces),
        good,
        letters: letters.to_vec(),
    };
    vec![
        batch(
            &[b"[", good, b",NaN,", good, b"]"],
            2,
            &[(b"NaN", "[1], line 1, column 26: ")],
        ),
        batch(
            &[b"[{\"temperature_c\": NaN},\n ", good, b"]"],
            1,
            &[(b"{\"temperature_c\": NaN}", "[0], line 1, column 20: ")],
        ),
        batch(
            &[b"[", good, b",\n\n  {\"status\": \"\xFF\"},", good, b"]"],
            2,
            &[(b"{\"status\": \"\xFF\"}", "[1], line 3, column 15: not UTF-8")],
        ),
        batch(
            &[b"[\x00,", good, b",\xFE]"],
            1,
            &[(b"\x00", "[0], line 1, "), (b"\xFE", "[2], line 1, ")],
        ),
        batch(
            &[b"[", good, b",,", good, b",]"],
            2,
            &[
                (b"", "[1], line 1, column 26: a reading is expected, nothing came"),
                (b"", "[3], line 1, "),
            ],
        ),
        // Brackets and commas in a string; a wrong bracket, and one too many.
        batch(
            &[b"[{\"status\": \"],[{\\\"\"},", good, b"]"],
            1,
            &[(b"{\"status\": \"],[{\\\"\"}", "[0]: status: ")],
        ),
        batch(
            &[b"[{\"temperature_c\": 1],", good, b"]"],
            1,
            &[(b"{\"temperature_c\": 1]", "[0], line 1, ")],
        ),
        batch(
            &[b"[{\"temperature_c\": 1}},", good, b"]"],
            1,
            &[(b"{\"temperature_c\": 1}}", "[0], line 1, ")],
        ),
        batch(
            &[b"[", BAD.as_bytes(), b",", good, b"]"],
            1,
            &[(BAD.as_bytes(), "[0]: location.latitude: ")],
        ),
    ]
}

/// Sends a batch with bad items in it; whatever they are, the others are in Kafka, and each is told of by its place.
async fn check_batch(gateway: &TestGateway, client: &mut Client, via: Via, number: usize, batch: &Batch, ndjson: bool) {
    let device = format!("{via:?}-{number}-{ndjson}");
    let (tail, content_type) = if ndjson {
        ("weather", NDJSON)
    } else {
        ("weather/batch", "application/json")
    };
    let answer = client
        .send(&format!("devices/{device}/{tail}"), content_type, &batch.body)
        .await;
    let shown = batch.body.escape_ascii();
    let code = match via {
        Via::Mqtt311 => "PUBACK",
        Via::Mqtt5 => "0x99",
        Via::Coap => "4.22",
        Via::Http if batch.good == 0 => "422",
        Via::Http => "200",
    };
    assert_eq!(answer.code, code, "{via:?} {shown}: {answer:?}");
    let details = details(&answer, via);
    match via {
        Via::Mqtt311 => {}
        Via::Http => {
            assert_eq!(
                counts(&answer),
                [batch.good as u64, batch.letters.len() as u64, 0],
                "{shown}"
            );
            for (detail, (_, expected)) in details.iter().zip(&batch.letters) {
                assert!(detail.starts_with(expected), "{shown}: {detail}");
            }
        }
        Via::Mqtt5 | Via::Coap => {
            let (rejected, all) = (batch.letters.len(), batch.letters.len() + batch.good);
            let expected = format!("{rejected} of {all} readings rejected; {}", batch.letters[0].1);
            assert!(details[0].starts_with(&expected), "{shown}: {answer:?}");
        }
    }
    let records = gateway.records("weather");
    assert_eq!(
        records.iter().filter(|record| record.key == device).count(),
        batch.good,
        "{via:?} {shown}"
    );
    let letters = gateway.dead_letters();
    let letters: Vec<_> = letters.iter().filter(|letter| letter.key == device).collect();
    let mut found: Vec<_> = letters
        .iter()
        .map(|letter| (letter.header("detail"), letter.value.as_slice()))
        .collect();
    found.sort_unstable();
    assert_eq!(found.len(), batch.letters.len(), "{via:?} {shown}");
    for ((detail, value), (original, expected)) in found.iter().zip(&batch.letters) {
        assert_eq!(value, original, "{via:?} {shown}");
        assert!(detail.starts_with(expected), "{shown}: {detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_item_of_an_array_is_lost_alone() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        for (number, batch) in batches().iter().enumerate() {
            check_batch(&gateway, &mut client, via, number, batch, false).await;
        }
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_of_ndjson_is_lost_alone_and_named_by_line_and_item() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let good = GOOD.as_bytes();
    let letters = [
        (&b"NaN"[..], "[1], line 4, column 2: expected value"),
        (BAD.as_bytes(), "[2], line 5: location.latitude: "),
        (b"{\"status\": \"\xFF", "[3], line 7, column 13: not UTF-8"),
    ];
    let pieces = [
        good,
        b"\n\r\n\n NaN\r\n",
        BAD.as_bytes(),
        b"\n\n",
        letters[2].0,
        b"\n",
        good,
        b"\n",
    ];
    let mixed = Batch {
        body: body(&pieces),
        good: 2,
        letters: letters.to_vec(),
    };
    let all_bad = Batch {
        body: b"1\n{}}\n".to_vec(),
        good: 0,
        letters: vec![(b"1", "[0], line 1: "), (b"{}}", "[1], line 2, column 3: ")],
    };
    for via in SAY_NDJSON {
        let mut client = gateway.client(via).await;
        for (number, batch) in [&mixed, &all_bad].into_iter().enumerate() {
            check_batch(&gateway, &mut client, via, number, batch, true).await;
        }
    }
    gateway.finish().await;
}

/// Bodies of which the whole is refused: one dead letter each, with all of the bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_readings_is_refused_whole() {
    const EMPTY: &str = "the payload is empty";
    const OPEN: &str = "the JSON array of readings is not closed: a string or a bracket in [1], which begins here";
    let cases: [(&str, &str, String); 13] = [
        ("weather", "", EMPTY.to_owned()),
        ("weather", " \r\n\t", EMPTY.to_owned()),
        ("weather", "\u{feff}", EMPTY.to_owned()),
        ("weather", "\u{feff}\n", EMPTY.to_owned()),
        ("weather/batch", "", EMPTY.to_owned()),
        ("weather/batch", "\n ", EMPTY.to_owned()),
        ("weather/batch", " [ ] ", "the batch holds no reading".to_owned()),
        (
            "weather/batch",
            "{}",
            "line 1, column 1: not a JSON array of readings; NDJSON needs the content type application/x-ndjson"
                .to_owned(),
        ),
        (
            "weather/batch",
            "\u{c}[{}]",
            "line 1, column 1: not a JSON array of readings; NDJSON needs the content type application/x-ndjson"
                .to_owned(),
        ),
        (
            "weather/batch",
            "[{},{\"status\": \"a},{}]",
            format!("line 1, column 5: {OPEN}"),
        ),
        (
            "weather/batch",
            "[{},\n{\"lanes\": [1},{}]",
            format!("line 2, column 1: {OPEN}"),
        ),
        ("weather/batch", "[{},", format!("line 1, column 5: {OPEN}")),
        (
            "weather/batch",
            "[{}]\n[{}]",
            "line 1, column 5: the JSON array of readings ends here".to_owned(),
        ),
    ];
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let mut sent = Vec::new();
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        let mut check = async |tail: &str, content_type: &str, body: &str, expected: &str| {
            let answer = client
                .send(&format!("devices/{via:?}/{tail}"), content_type, body.as_bytes())
                .await;
            let code = match via {
                Via::Mqtt311 => "PUBACK",
                Via::Mqtt5 => "0x99",
                Via::Coap => "4.00",
                Via::Http => "400",
            };
            assert_eq!(answer.code, code, "{via:?} {tail} {body:?}: {answer:?}");
            let told = details(&answer, via);
            assert!(
                via == Via::Mqtt311 || told[0].starts_with(expected),
                "{body:?}: {told:?}"
            );
            sent.push(body.as_bytes().to_vec());
        };
        for (tail, body, expected) in &cases {
            check(tail, "application/json", body, expected).await;
        }
        if SAY_NDJSON.contains(&via) {
            for body in ["", "\n\r\n", "\u{feff}\n"] {
                check("weather", NDJSON, body, EMPTY).await;
            }
        }
    }
    let mut kept: Vec<_> = gateway.dead_letters().into_iter().map(|letter| letter.value).collect();
    kept.sort_unstable();
    sent.sort_unstable();
    assert_eq!(kept, sent);
    assert_eq!(gateway.records("weather").len(), 0);
    gateway.finish().await;
}

/// One answer for all of a batch, from what is to be done with it; over HTTP also when it is asked for again.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_by_what_became_of_its_readings() {
    let broker = Broker::mock();
    let gateway = TestGateway::start(&broker, |_| {}).await;
    let malformed = "{\"temperature_c\": }";
    let batch = |items: &[&str]| format!("[{}]", items.join(","));
    let cases = [
        (batch(&[GOOD]), ["PUBACK", "0x00", "2.04", "200"], [1, 0, 0]),
        (batch(&[GOOD, BAD]), ["PUBACK", "0x99", "4.22", "200"], [1, 1, 0]),
        (batch(&[BAD]), ["PUBACK", "0x99", "4.22", "422"], [0, 1, 0]),
        (batch(&[BAD, malformed]), ["PUBACK", "0x99", "4.22", "422"], [0, 2, 0]),
        (
            batch(&[malformed, malformed]),
            ["PUBACK", "0x99", "4.22", "422"],
            [0, 2, 0],
        ),
    ];
    for (via, position) in Via::ALL.into_iter().zip(0..) {
        let mut client = gateway.client(via).await;
        for (body, codes, expected) in &cases {
            let answer = client
                .send("devices/a/weather/batch", "application/json", body.as_bytes())
                .await;
            assert_eq!(answer.code, codes[position], "{via:?} {body}: {answer:?}");
            if via == Via::Http {
                assert_eq!(counts(&answer), *expected, "{body}");
                let problem = answer.code == "422";
                assert_eq!(answer.content_type == "application/problem+json", problem, "{body}");
                assert_eq!(
                    json(&answer)["results"].as_array().unwrap().len() as u64,
                    expected.iter().sum::<u64>()
                );
            }
        }
    }
    // Kafka refuses both readings, whether they come in one request or in two.
    let busy = batch(&[GOOD, GOOD]);
    for (via, code) in [(Via::Mqtt5, "0x97"), (Via::Coap, "5.03"), (Via::Http, "503")] {
        let mut client = gateway.client(via).await;
        broker.refuse_next(2);
        let answer = client
            .send("devices/a/weather/batch", "application/json", busy.as_bytes())
            .await;
        broker.refuse_no_more();
        assert_eq!(answer.code, code, "{via:?}: {answer:?}");
        if via == Via::Http {
            assert_eq!((counts(&answer), answer.retry_after), ([0, 0, 2], Some(2)));
            assert_eq!(answer.content_type, "application/problem+json");
        }
    }
    gateway.finish().await;
}
