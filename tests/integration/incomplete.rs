//! Messages that come in part: what is announced and never sent takes nothing from anybody, slow and steady is welcome,
//! and whoever stands still, or has more than its share, makes room for those that wait.
//!
//! The attacks are in full number; honest devices on all protocols must be answered *yes* meanwhile, each within
//! [`ANSWER_MAX`]. `TEST_SLOW=1` sends the slow batch in full, at 40 kbit/s and with the default settings.

use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::harness::mqtt::{self, Mqtt, Reply, Version};
use crate::harness::{Broker, Client, TEST_TIMEOUT, TestGateway, Via, eventually};

/// Some fifty times what it takes on an idle machine, and a sixth of what it took when room was charged beforehand.
const ANSWER_MAX: Duration = Duration::from_secs(5);

const HOME: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

const SMALL: usize = 24;
const LARGE: usize = 100_000;

/// Who sends it, and what of a message.
#[derive(Clone, Copy, Debug)]
enum Attack {
    /// CONNECT and the start of the largest PUBLISH, nothing of its payload.
    Mqtt(Version),
    /// Chunked, one byte.
    HttpChunked,
    /// The largest length, and no body.
    HttpLength,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_and_never_sent_holds_nobody_up() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let attacks: [&[(Attack, usize)]; 4] = [
        &[(Attack::Mqtt(Version::V311), 64)],
        &[(Attack::Mqtt(Version::V5), 100), (Attack::Mqtt(Version::V311), 100)],
        &[(Attack::HttpChunked, 64)],
        &[(Attack::HttpLength, 64)],
    ];
    for attack in attacks {
        let mut holders = Vec::new();
        for &(attack, count) in attack {
            for number in 0..count {
                holders.push(attack.start(&gateway, number).await);
            }
        }
        let slowest = serve_honest_devices(&gateway, 10).await;
        println!("{attack:?}: the slowest answer took {slowest:?}");
        assert_eq!(status(&gateway).await["incomplete_bytes"], 0, "{attack:?}");
    }
    end(gateway).await;
}

/// The room is full of bytes that did arrive, of messages that stand still.
#[tokio::test(flavor = "multi_thread")]
async fn who_stands_still_makes_room_for_those_who_wait() {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.limits.incomplete_bytes = ByteSize::mib(1)
    })
    .await;
    let mut http = Vec::new();
    let (mut v5, mut v3) = (Vec::new(), Vec::new());
    for number in 0..4 {
        http.push(half_a_post(&gateway, HOME).await);
        v5.push(half_a_publish(&gateway, HOME, Version::V5, number).await);
        v3.push(half_a_publish(&gateway, HOME, Version::V311, number).await);
    }
    eventually("the room is full", async || {
        (incomplete_bytes(&gateway).await >= 1 << 20).then_some(())
    })
    .await;
    let slowest = serve_honest_devices(&gateway, 3).await;
    println!("all the room taken by messages that stand still: the slowest answer took {slowest:?}");
    let evicted = gateway.scrape().sum("citygate_incomplete_evicted_total", &[]);
    assert!(evicted > 0, "nobody made room");
    const WHY: &str = "nothing more of the message came for a second while others waited";
    let mut told = JoinSet::new();
    for mut stream in http {
        told.spawn(async move {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("it is not lost");
            assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains(WHY), "{answer}");
        });
    }
    for stream in v5 {
        told.spawn(async move {
            let reply = last_word(stream, Version::V5).await;
            let told_why = matches!(&reply, Reply::Disconnect { reason: 0x97, text } if text.starts_with(WHY));
            assert!(told_why, "{reply:?}");
        });
    }
    for stream in v3 {
        told.spawn(async move { assert_eq!(last_word(stream, Version::V311).await, Reply::Closed) });
    }
    for number in 1..=evicted {
        let next = timeout(TEST_TIMEOUT, told.join_next()).await;
        next.unwrap_or_else(|_| panic!("{number} of {evicted} is not told"))
            .unwrap()
            .unwrap();
    }
    told.shutdown().await;
    end(gateway).await;
}

/// The room is full of messages that come slowly but steadily, all from one address.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_with_more_than_its_share_makes_room_for_others() {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.limits.incomplete_bytes = ByteSize::mib(1)
    })
    .await;
    let mut trickles = JoinSet::new();
    for _ in 0..8 {
        let (mut reads, mut writes) = half_a_post(&gateway, ELSEWHERE).await.into_split();
        trickles.spawn(async move {
            let trickle = async {
                while writes.write_all(b" ").await.is_ok() {
                    sleep(Duration::from_millis(50)).await;
                }
                pending().await
            };
            let mut answer = String::new();
            tokio::select! {
                read = reads.read_to_string(&mut answer) => { read.expect("it is not lost"); }
                () = trickle => {}
            }
            answer
        });
    }
    eventually("the room is full", async || {
        (incomplete_bytes(&gateway).await >= 1 << 20).then_some(())
    })
    .await;
    let slowest = serve_honest_devices(&gateway, 3).await;
    println!("all the room taken by one address: the slowest answer to another one took {slowest:?}");
    let evicted = gateway
        .scrape()
        .sum("citygate_incomplete_evicted_total", &[("reason", "over_share")]);
    assert!(evicted > 0, "nobody made room");
    let told = async {
        while let Some(answer) = trickles.join_next().await {
            let answer = answer.unwrap();
            if answer.contains("incomplete messages of this address had more than its share") {
                return answer;
            }
        }
        panic!("nobody is told why");
    };
    let answer = timeout(TEST_TIMEOUT, told).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    drop(trickles);
    end(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_but_steady_batch_arrives() {
    let in_full = std::env::var("TEST_SLOW").is_ok();
    let (bytes, bytes_per_second) = if in_full { (189_000, 5000) } else { (24_000, 6000) };
    let gateway = TestGateway::start(&Broker::any(), |config| {
        if !in_full {
            config.mqtt.packet_timeout = Duration::from_secs(2);
            config.http.body_timeout = Duration::from_secs(2);
        }
    })
    .await;
    let (batch, readings) = batch(bytes);
    let started = Instant::now();
    let over_mqtt = async |version| {
        let mut stream = connected(&gateway, HOME, version, "slow").await;
        let publish = mqtt::publish(version, 1, 1, "devices/slow/weather/batch", "", &batch);
        send_slowly(&mut stream, &publish, bytes_per_second).await;
        let answer = timeout(TEST_TIMEOUT, last_word(stream, version))
            .await
            .expect("an answer");
        assert!(matches!(answer, Reply::PubAck { id: 1, reason: 0, .. }), "{answer:?}");
    };
    let over_http = async {
        let mut stream = open(gateway.addresses.http.unwrap(), HOME).await;
        let head = format!(
            "POST /devices/slow/weather HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            batch.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        send_slowly(&mut stream, &batch, bytes_per_second).await;
        let mut answer = vec![0; 64];
        let count = timeout(TEST_TIMEOUT, stream.read(&mut answer))
            .await
            .expect("an answer")
            .unwrap();
        let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    };
    // One after the other: they have the same client id.
    let over_both_versions = async {
        over_mqtt(Version::V311).await;
        over_mqtt(Version::V5).await;
    };
    tokio::join!(over_both_versions, over_http);
    println!(
        "{bytes} bytes at {bytes_per_second} bytes a second, three times: {:?}",
        started.elapsed()
    );
    assert_eq!(gateway.records("weather").len(), 3 * readings);
    end(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_too_slowly_is_told_so() {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.mqtt.packet_timeout = Duration::from_millis(300);
        config.http.body_timeout = Duration::from_millis(300);
    })
    .await;
    let mut http = half_a_post(&gateway, HOME).await;
    let why = "more slowly than 512 B a second (http.body_bytes_per_second_min)";
    assert!(is_told(&mut http, "HTTP/1.1 408 ", why).await);
    let v5 = half_a_publish(&gateway, HOME, Version::V5, 1).await;
    let reply = timeout(TEST_TIMEOUT, last_word(v5, Version::V5)).await.unwrap();
    let Reply::Disconnect { reason: 0x97, text } = reply else {
        panic!("{reply:?}")
    };
    assert!(
        text.contains("more slowly than mqtt.packet_bytes_per_second_min"),
        "{text}"
    );
    let v3 = half_a_publish(&gateway, HOME, Version::V311, 2).await;
    assert_eq!(
        timeout(TEST_TIMEOUT, last_word(v3, Version::V311)).await.unwrap(),
        Reply::Closed
    );
    let rejected = gateway
        .scrape()
        .sum("citygate_readings_rejected_total", &[("reason", "too_slow")]);
    assert_eq!(rejected, 3, "counted over all protocols");
    end(gateway).await;
}

/// A client that sends its whole body before it reads is told why it was not wanted, also if the answer came first.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_is_heard_by_a_client_that_is_still_sending() {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.http.body_bytes_max = ByteSize::kib(64);
        config.http.body_timeout = Duration::from_millis(300);
    })
    .await;
    let answered = || gateway.scrape().sum("citygate_http_responses_total", &[]);
    let body = vec![b' '; 700_000];
    let declared = (format!("content-length: {}\r\n\r\n", body.len()), &body[..]);
    let chunked = (
        format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len()),
        &body[..],
    );
    let late = ("content-length: 60000\r\n\r\n ".to_owned(), &body[..50_000]);
    for ((head, body), start) in [
        (declared, "HTTP/1.1 413 "),
        (chunked, "HTTP/1.1 413 "),
        (late, "HTTP/1.1 408 "),
    ] {
        let before = answered();
        let mut stream = open(gateway.addresses.http.unwrap(), HOME).await;
        let head = format!("POST /devices/hostile/weather HTTP/1.1\r\nhost: x\r\n{head}");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body[..1000]).await.unwrap();
        if start.contains("408") {
            eventually("it is answered", async || (answered() > before).then_some(())).await;
        }
        stream
            .write_all(&body[1000..])
            .await
            .expect("the connection is not reset");
        eventually("it is answered", async || (answered() > before).then_some(())).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it is not lost");
        assert!(answer.starts_with(start), "{answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }
    end(gateway).await;
}

/// All the room is taken by messages that come slowly but steadily, of the same address: nobody is given up for it.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_room_in_vain_is_told_so() {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.limits.incomplete_bytes = ByteSize::mib(1);
        config.mqtt.packet_timeout = Duration::from_millis(300);
    })
    .await;
    let mut trickles = JoinSet::new();
    for _ in 0..8 {
        let mut stream = half_a_post(&gateway, HOME).await;
        trickles.spawn(async move {
            while stream.write_all(b" ").await.is_ok() {
                sleep(Duration::from_millis(50)).await;
            }
        });
    }
    eventually("the room is full, and a message exceeds it", async || {
        let waits = status(&gateway).await["incomplete_waits"].as_u64().unwrap();
        (incomplete_bytes(&gateway).await >= 1 << 20 && waits > 1).then_some(())
    })
    .await;
    let v5 = half_a_publish(&gateway, HOME, Version::V5, 1).await;
    let v3 = half_a_publish(&gateway, HOME, Version::V311, 2).await;
    let reply = timeout(TEST_TIMEOUT, last_word(v5, Version::V5)).await.unwrap();
    let Reply::Disconnect { reason: 0x97, text } = reply else {
        panic!("{reply:?}")
    };
    assert!(text.contains("no memory for the rest of this one in time"), "{text}");
    assert_eq!(
        timeout(TEST_TIMEOUT, last_word(v3, Version::V311)).await.unwrap(),
        Reply::Closed
    );
    let reason = [("protocol", "mqtt"), ("reason", "incomplete_full")];
    assert_eq!(gateway.scrape().sum("citygate_readings_busy_total", &reason), 2);
    trickles.shutdown().await;
    end(gateway).await;
}

/// Each answer has a text for each of 10,000 readings.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_its_answers_is_closed() {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.http.body_timeout = Duration::from_millis(300);
        config.limits.dead_letters_per_minute = 1;
    })
    .await;
    let body = format!("[{}]", vec!["1"; 10_000].join(","));
    let head = "POST /devices/hostile/weather HTTP/1.1\r\nhost: x\r\ncontent-length:";
    let request = format!("{head} {}\r\n\r\n{body}", body.len());
    let connections = || gateway.scrape().sum("citygate_http_connections", &[]);
    let before = connections();
    let mut stream = open(gateway.addresses.http.unwrap(), HOME).await;
    let writes = async { while stream.write_all(request.as_bytes()).await.is_ok() {} };
    timeout(TEST_TIMEOUT, writes)
        .await
        .expect("the gateway does not wait for ever");
    eventually("the connection has gone", async || {
        (connections() == before).then_some(())
    })
    .await;
    end(gateway).await;
}

/// One device per protocol, and those of large messages, each `rounds` times and all at once; the slowest answer.
async fn serve_honest_devices(gateway: &TestGateway, rounds: usize) -> Duration {
    let cases = Via::ALL.map(|via| (via, SMALL));
    let large = [Via::Mqtt311, Via::Mqtt5, Via::Http].map(|via| (via, LARGE));
    let mut devices = JoinSet::new();
    for (via, bytes) in cases.into_iter().chain(large) {
        let mut client: Client = gateway.client(via).await;
        devices.spawn(async move {
            let mut slowest = Duration::ZERO;
            for _ in 0..rounds {
                let sent = Instant::now();
                client.post("devices/honest/weather", "", &reading(bytes)).await;
                let answer = client.answer(ANSWER_MAX).await;
                let answer = answer.unwrap_or_else(|| panic!("{via:?}: no answer to {bytes} bytes in {ANSWER_MAX:?}"));
                assert!(answer.is_yes(via), "{via:?}, {bytes} bytes: {answer:?}");
                slowest = slowest.max(sent.elapsed());
            }
            slowest
        });
    }
    devices.join_all().await.into_iter().max().unwrap()
}

/// All connections are closed: nothing is charged, and the balance holds.
async fn end(gateway: TestGateway) {
    eventually("nothing is charged any more", async || {
        let status = status(&gateway).await;
        (status["incomplete_bytes"] == 0 && status["in_flight_bytes"] == 0).then_some(())
    })
    .await;
    gateway.finish().await;
}

async fn status(gateway: &TestGateway) -> serde_json::Value {
    serde_json::from_str(&gateway.admin("/status").await.1).unwrap()
}

async fn incomplete_bytes(gateway: &TestGateway) -> u64 {
    status(gateway).await["incomplete_bytes"].as_u64().unwrap()
}

/// A good reading of so many bytes.
fn reading(bytes: usize) -> Vec<u8> {
    let mut body = br#"{"temperature_c": 21.5}"#.to_vec();
    body.resize(bytes, b' ');
    body
}

/// A JSON array of about so many bytes, and the readings in it.
fn batch(bytes: usize) -> (Vec<u8>, usize) {
    let item = r#"{"temperature_c": 21.5, "relative_humidity_percent": 48.25}"#;
    let readings = bytes / (item.len() + 1);
    (format!("[{}]", vec![item; readings].join(",")).into_bytes(), readings)
}

async fn open(server: SocketAddr, from: Ipv4Addr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(server).await.unwrap()
}

async fn connected(gateway: &TestGateway, from: Ipv4Addr, version: Version, id: &str) -> TcpStream {
    let mut stream = open(gateway.addresses.mqtt.unwrap(), from).await;
    stream.write_all(&mqtt::connect(version, id)).await.unwrap();
    let mut mqtt = Mqtt::over(stream, version);
    assert_eq!(mqtt.read().await, Reply::ConnAck { reason: 0 });
    mqtt.into_stream()
}

/// 150 KB of a body of 700 KB.
async fn half_a_post(gateway: &TestGateway, from: Ipv4Addr) -> TcpStream {
    let mut stream = open(gateway.addresses.http.unwrap(), from).await;
    let head = "POST /devices/hostile/weather HTTP/1.1\r\nhost: x\r\ncontent-length: 700000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b' '; 150_000]).await.unwrap();
    stream
}

/// 150 KB of a packet of 262 KB.
async fn half_a_publish(gateway: &TestGateway, from: Ipv4Addr, version: Version, number: usize) -> TcpStream {
    let mut stream = connected(gateway, from, version, &format!("hostile-{version:?}-{number}")).await;
    let publish = largest_publish(version);
    stream.write_all(&publish[..150_000]).await.unwrap();
    stream
}

fn largest_publish(version: Version) -> Vec<u8> {
    let topic = "devices/hostile/weather";
    // What the remaining length counts beside the payload.
    let around = 2 + topic.len() + 2 + usize::from(version == Version::V5);
    mqtt::publish(version, 1, 1, topic, "", &vec![b' '; 262_139 - around])
}

async fn send_slowly(stream: &mut TcpStream, bytes: &[u8], bytes_per_second: usize) {
    const TENTH: Duration = Duration::from_millis(100);
    let mut ticks = tokio::time::interval(TENTH);
    for piece in bytes.chunks(bytes_per_second / 10) {
        ticks.tick().await;
        stream.write_all(piece).await.unwrap();
    }
}

async fn last_word(stream: TcpStream, version: Version) -> Reply {
    Mqtt::over(stream, version).read().await
}

/// Whether an answer of this start and with this text came.
async fn is_told(stream: &mut TcpStream, start: &str, text: &str) -> bool {
    let mut answer = vec![0; 4096];
    let read = timeout(Duration::from_secs(1), stream.read(&mut answer)).await;
    let Ok(Ok(count)) = read else { return false };
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with(start) && answer.contains(text), "{answer}");
    true
}

// === impl Attack ===

impl Attack {
    async fn start(self, gateway: &TestGateway, number: usize) -> TcpStream {
        let (mqtt, http) = (gateway.addresses.mqtt.unwrap(), gateway.addresses.http.unwrap());
        let head = "POST /devices/hostile/weather HTTP/1.1\r\nhost: x\r\n";
        let (server, bytes) = match self {
            Attack::Mqtt(version) => {
                let publish = largest_publish(version);
                let payload_at = publish.iter().position(|byte| *byte == b' ').unwrap();
                let mut bytes = mqtt::connect(version, &format!("hostile-{version:?}-{number}"));
                bytes.extend_from_slice(&publish[..payload_at]);
                (mqtt, bytes)
            }
            Attack::HttpChunked => (
                http,
                format!("{head}transfer-encoding: chunked\r\n\r\n1\r\n{{\r\n").into(),
            ),
            Attack::HttpLength => (http, format!("{head}content-length: 786432\r\n\r\n").into()),
        };
        let mut stream = open(server, HOME).await;
        stream.write_all(&bytes).await.unwrap();
        stream
    }
}
