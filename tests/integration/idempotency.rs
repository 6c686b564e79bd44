//! A POST with an `Idempotency-Key` may be repeated at will: its readings are in Kafka once, and the answer is the
//! same. A repetition that comes before the answer is told to come back (409), and a key with another body is refused
//! (422).

use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{Broker, TestGateway, eventually};

const GOOD: &str = r#"{"temperature_c": 21.5}"#;
const OTHER: &str = r#"{"temperature_c": 21.6}"#;
const BAD: &str = r#"{"location": {"latitude": -400, "longitude": 7.5}}"#;

/// A response, as far as these tests look.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    content_type: String,
    retry_after: Option<String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The statuses of a batch's readings; empty for any other answer.
    fn statuses(&self) -> Vec<u64> {
        let items = serde_json::from_str::<Value>(&self.body).unwrap_or_default()["results"].take();
        let items = items.as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["status"].as_u64().unwrap()).collect()
    }
}

async fn post(gateway: &TestGateway, path: &str, keys: &[&str], body: &str) -> Answer {
    let url = format!("http://{}/{path}", gateway.addresses.http.unwrap());
    let mut request = reqwest::Client::new().post(url).body(body.to_owned());
    for key in keys {
        request = request.header("idempotency-key", *key);
    }
    let response = request.send().await.unwrap();
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    Answer {
        status: response.status().as_u16(),
        content_type: header("content-type").unwrap_or_default(),
        retry_after: header("retry-after"),
        body: response.text().await.unwrap(),
    }
}

fn received(gateway: &TestGateway) -> u64 {
    gateway.scrape().sum("citygate_readings_received_total", &[])
}

/// Requests with a key, by what they were taken for.
fn taken_for(gateway: &TestGateway, result: &str) -> u64 {
    let labels = [("result", result)];
    gateway.scrape().sum("citygate_http_idempotent_requests_total", &labels)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_gets_the_same_answer_and_makes_no_reading() {
    const REPETITIONS: u64 = 3;
    let broker = Broker::mock();
    let gateway = TestGateway::start(&broker, |_| {}).await;
    let batch = format!("[{GOOD},{BAD},{OTHER}]");
    let rejected = format!("[{BAD},1]");
    let mut passed_on = 0;
    let cases = [
        ("devices/a/weather", GOOD, 204, 1),
        ("devices/a/energy", r#"{"power_w": 1}"#, 204, 1), // the same key at another path is another key
        ("devices/b/weather", BAD, 422, 1),
        ("devices/c/weather", batch.as_str(), 200, 3),
        ("devices/d/weather", rejected.as_str(), 422, 2),
    ];
    for (path, body, status, readings) in cases {
        let first = post(&gateway, path, &["key-1"], body).await;
        assert_eq!(first.status, status, "{first:?}");
        passed_on += readings;
        for _ in 0..REPETITIONS {
            // A quoted string is how the draft writes the same key.
            assert_eq!(post(&gateway, path, &["\"key-1\""], body).await, first, "{path}");
        }
        assert_eq!(received(&gateway), passed_on, "{path}");
    }
    assert_eq!(gateway.records("weather").len(), 3);
    assert_eq!(gateway.records("energy").len(), 1);
    assert_eq!(gateway.dead_letters().len(), 4);
    assert_eq!(taken_for(&gateway, "new"), 5);
    assert_eq!(taken_for(&gateway, "repeated"), 5 * REPETITIONS);
    // Without a key, and with another one, the same body is another reading.
    assert_eq!(post(&gateway, "devices/a/weather", &[], GOOD).await.status, 204);
    assert_eq!(post(&gateway, "devices/a/weather", &["key-2"], GOOD).await.status, 204);
    assert_eq!(gateway.records("weather").len(), 5);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_no_key_or_stands_for_another_body_is_refused_and_makes_no_reading() {
    let broker = Broker::mock();
    let gateway = TestGateway::start(&broker, |_| {}).await;
    assert_eq!(post(&gateway, "devices/a/weather", &["used"], GOOD).await.status, 204);
    let long = "k".repeat(256);
    let check = async |keys: &[&str], status: u16, reason: &str| {
        let answer = post(&gateway, "devices/a/weather", keys, OTHER).await;
        assert_eq!(
            (answer.status, answer.content_type.as_str()),
            (status, "application/problem+json"),
            "{keys:?}"
        );
        assert_eq!(answer.json()["reason"], reason, "{answer:?}");
        assert_eq!(answer.json()["status"], status, "{answer:?}");
    };
    check(&["used"], 422, "idempotency_key_reused").await;
    for keys in [&[""][..], &["two words"], &["\"open"], &[&long], &["one", "two"]] {
        check(keys, 400, "bad_idempotency_key").await;
    }
    assert_eq!(received(&gateway), 1);
    assert_eq!((taken_for(&gateway, "reused"), taken_for(&gateway, "bad_key")), (1, 5));
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_before_the_answer_is_told_to_come_back() {
    let broker = Broker::mock();
    let gateway = slow_kafka(&broker).await;
    let first = async { post(&gateway, "devices/a/weather", &["k"], GOOD).await };
    let meanwhile = async {
        eventually("the first one is accepted", async || {
            (received(&gateway) == 2).then_some(())
        })
        .await;
        let early = post(&gateway, "devices/a/weather", &["k"], GOOD).await;
        assert_eq!(
            (early.status, early.retry_after.as_deref()),
            (409, Some("2")),
            "{early:?}"
        );
        assert_eq!(early.json()["reason"], "idempotency_key_in_flight");
        assert_eq!(received(&gateway), 2);
    };
    let (first, ()) = tokio::join!(first, meanwhile);
    assert_eq!(first.status, 204);
    assert_eq!(post(&gateway, "devices/a/weather", &["k"], GOOD).await, first);
    assert_eq!(taken_for(&gateway, "in_flight"), 1);
    finish_with_one_record(gateway, "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_before_its_answer_finds_it_when_it_comes_back() {
    let broker = Broker::mock();
    let gateway = slow_kafka(&broker).await;
    abandon(&gateway, "a", "k").await;
    assert_eq!(
        post(&gateway, "devices/a/weather", &["k"], GOOD).await.status,
        409,
        "still in flight"
    );
    let answer = eventually("it is answered", async || {
        let answer = post(&gateway, "devices/a/weather", &["k"], GOOD).await;
        (answer.status != 409).then_some(answer)
    })
    .await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!((taken_for(&gateway, "new"), taken_for(&gateway, "repeated")), (1, 1));
    // One more is in flight without its client when the gateway ends.
    abandon(&gateway, "b", "k").await;
    finish_with_one_record(gateway, "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_reading_is_passed_on_again() {
    let broker = Broker::mock();
    let gateway = TestGateway::start(&broker, |_| {}).await;
    broker.refuse_next(1);
    let busy = post(&gateway, "devices/a/weather", &["k"], GOOD).await;
    assert_eq!((busy.status, busy.retry_after.as_deref()), (503, Some("2")), "{busy:?}");
    again(&gateway, "devices/a/weather", GOOD, |answer| answer.status == 204).await;
    let batch = format!("[{GOOD},{OTHER}]");
    // Both readings, whether they come in one request or in two.
    broker.refuse_next(2);
    let busy = post(&gateway, "devices/b/weather", &["k"], &batch).await;
    broker.refuse_no_more();
    assert_eq!((busy.status, busy.retry_after.as_deref()), (503, Some("2")), "{busy:?}");
    let whole = again(&gateway, "devices/b/weather", &batch, |answer| answer.status == 200).await;
    assert_eq!(whole.statuses(), [204, 204]);
    assert_eq!(taken_for(&gateway, "unfinished"), 0, "nothing of it was left over");
    finish_with_one_record(gateway, "a").await;
}

/// Two readings, for two topics: Kafka refuses one of them, whichever comes first.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_batch_only_the_busy_readings_are_passed_on_again() {
    let broker = Broker::mock();
    let gateway = TestGateway::start(&broker, |_| {}).await;
    let batch = format!("[{GOOD},{BAD}]");
    broker.refuse_next(1);
    let first = post(&gateway, "devices/a/weather", &["k"], &batch).await;
    let statuses = first.statuses();
    assert!(
        [[503, 422], [204, 503]].iter().any(|half| statuses == half),
        "{first:?}"
    );
    let whole = again(&gateway, "devices/a/weather", &batch, |answer| {
        answer.statuses() == [204, 422]
    })
    .await;
    assert_eq!(
        received(&gateway),
        2 + taken_for(&gateway, "unfinished"),
        "one reading each time"
    );
    assert!(taken_for(&gateway, "unfinished") > 0);
    assert_eq!(post(&gateway, "devices/a/weather", &["k"], &batch).await, whole);
    assert_eq!(gateway.dead_letters().len(), 1);
    finish_with_one_record(gateway, "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_keys_are_remembered_the_header_is_ignored() {
    let broker = Broker::mock();
    let gateway = TestGateway::start(&broker, |config| config.http.idempotency_keys_max = 0).await;
    for key in ["k", "k", "no key"] {
        assert_eq!(post(&gateway, "devices/a/weather", &[key], GOOD).await.status, 204);
    }
    assert_eq!(gateway.records("weather").len(), 3);
    gateway.finish().await;
}

/// A gateway that has passed on one reading, and whose Kafka takes its time from then on.
async fn slow_kafka(broker: &Broker) -> TestGateway {
    let gateway = TestGateway::start(broker, |_| {}).await;
    assert_eq!(post(&gateway, "devices/warm/weather", &[], GOOD).await.status, 204);
    broker.answer_after(Duration::from_millis(1500));
    gateway
}

/// Sends a request and disconnects once it is accepted.
async fn abandon(gateway: &TestGateway, device: &str, key: &str) {
    let mut stream = TcpStream::connect(gateway.addresses.http.unwrap()).await.unwrap();
    let length = GOOD.len();
    let request = format!(
        "POST /devices/{device}/weather HTTP/1.1\r\nhost: x\r\nidempotency-key: {key}\r\ncontent-length: {length}\r\n\r\n{GOOD}"
    );
    let before = received(gateway);
    stream.write_all(request.as_bytes()).await.unwrap();
    eventually("it is accepted", async || (received(gateway) > before).then_some(())).await;
    drop(stream);
}

/// Repeats a request under the key `k` until the answer is what it should become.
async fn again(gateway: &TestGateway, path: &str, body: &str, good: impl Fn(&Answer) -> bool) -> Answer {
    eventually("the repetition succeeds", async || {
        let answer = post(gateway, path, &["k"], body).await;
        good(&answer).then_some(answer)
    })
    .await
}

async fn finish_with_one_record(gateway: TestGateway, device: &str) {
    let records = gateway.records("weather");
    let mine = records.iter().filter(|record| record.key == device).count();
    assert_eq!(mine, 1, "{device} is in Kafka once");
    gateway.finish().await;
}
