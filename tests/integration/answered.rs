//! What was accepted over MQTT is answered: however many publishes come at once, and however the connection ends.
//!
//! A client may write more than the Receive Maximum without waiting, disconnect right behind its last reading, or send
//! something that ends the connection. None of it costs an answer to what was accepted before.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::harness::mqtt::{self, Mqtt, Reply, Version};
use crate::harness::{Broker, TEST_TIMEOUT, TestGateway, eventually};

const GOOD: &[u8] = br#"{"temperature_c": 21.5}"#;
const TOPIC: &str = "devices/hasty/weather";
const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

/// Publishes with the ids of `ids`, to be written at once.
fn publishes(version: Version, qos: u8, ids: std::ops::RangeInclusive<u16>) -> Vec<u8> {
    ids.flat_map(|id| mqtt::publish(version, qos, id, TOPIC, "", GOOD))
        .collect()
}

async fn read(mqtt: &mut Mqtt) -> Reply {
    let reply = timeout(TEST_TIMEOUT, mqtt.read()).await;
    reply.expect("the server says something, or closes")
}

fn first_answer(qos: u8, id: u16) -> Reply {
    let (reason, text) = (0, String::new());
    match qos {
        1 => Reply::PubAck { id, reason, text },
        _ => Reply::PubRec { id, reason, text },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_publishes_in_one_write_are_two_hundred_records() {
    let gateway = TestGateway::start(&Broker::any(), |config| config.mqtt.receive_maximum = 64).await;
    let mut records = 0;
    for version in VERSIONS {
        for qos in [1, 2] {
            let id = format!("burst-{version:?}-{qos}");
            let mut mqtt = Mqtt::connect(gateway.addresses.mqtt.unwrap(), version, &id).await;
            let mut bytes = publishes(version, qos, 1..=200);
            // The DISCONNECT, too, waits behind what is held back.
            if qos == 1 {
                bytes.extend(mqtt::DISCONNECT);
            }
            mqtt.write(&bytes).await;
            for id in 1..=200 {
                assert_eq!(read(&mut mqtt).await, first_answer(qos, id), "{version:?}");
            }
            match qos {
                1 => assert_eq!(read(&mut mqtt).await, Reply::Closed),
                _ => {
                    for id in 1..=200 {
                        mqtt.write(&mqtt::pubrel(id)).await;
                        assert_eq!(read(&mut mqtt).await, Reply::PubComp { id, reason: 0 });
                    }
                }
            }
            records += 200;
            assert_eq!(gateway.records("weather").len(), records, "{version:?}, QoS {qos}");
        }
    }
    gateway.finish().await;
}

/// Every PUBREL waits behind publishes that are held back, as many as may be unreleased, with the smallest window.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_behind_publishes_that_are_held_back_does_not_lock_up() {
    const IDS: u16 = 300;
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.mqtt.receive_maximum = 1;
        config.mqtt.qos2_ids_max = IDS.into();
    })
    .await;
    for version in VERSIONS {
        let id = format!("unreleased-{version:?}");
        let mut mqtt = Mqtt::connect(gateway.addresses.mqtt.unwrap(), version, &id).await;
        mqtt.write(&publishes(version, 2, 1..=IDS)).await;
        let (mut received, mut completed) = (0, 0);
        while completed < IDS {
            match read(&mut mqtt).await {
                Reply::PubRec { id, reason: 0, .. } => {
                    received += 1;
                    assert_eq!(id, received, "in packet order");
                    // It waits behind all the publishes that are not read yet.
                    mqtt.write(&mqtt::pubrel(id)).await;
                }
                Reply::PubComp { id, reason: 0 } => {
                    completed += 1;
                    assert_eq!(id, completed, "{version:?}");
                }
                other => panic!("{version:?}: {other:?} after {received} PUBRECs and {completed} PUBCOMPs"),
            }
        }
        assert_eq!(received, IDS);
    }
    assert_eq!(gateway.records("weather").len(), 2 * usize::from(IDS));
    gateway.finish().await;
}

/// How a connection ends behind three publishes.
#[derive(Clone, Copy, Debug)]
enum End {
    Disconnect,
    HalfClose,
    /// A second CONNECT.
    ProtocolError,
    TooLarge,
    /// Longer silence than one and a half times the keep-alive.
    Silence,
}

/// Longer than the silence after which a connection with a keep-alive of one second ends.
const KAFKAS_DELAY: Duration = Duration::from_millis(2500);

/// Longer than a busy machine needs to close a connection.
const KAFKAS_LONG_DELAY: Duration = Duration::from_secs(10);

/// Kafka answers slowly, so nothing is answered yet when the connection ends.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_answered_before_the_connection_ends() {
    let broker = Broker::mock();
    let gateway = TestGateway::start(&broker, |config| {
        config.mqtt.packet_bytes_max = bytesize::ByteSize::kib(16);
        // On a slow machine each reading may be a batch of its own, and few batches are on their way at once.
        config.mqtt.closing_timeout = TEST_TIMEOUT;
    })
    .await;
    // What the producer asks Kafka before its first reading would be as slow, one thing after the other.
    let address = gateway.addresses.mqtt.unwrap();
    let mut warm = Mqtt::connect(address, Version::V5, "warm").await;
    warm.write(&publishes(Version::V5, 1, 1..=1)).await;
    assert_eq!(read(&mut warm).await, first_answer(1, 1));
    broker.answer_after(KAFKAS_DELAY);
    let ends = [
        (End::Disconnect, None),
        (End::HalfClose, None),
        (End::ProtocolError, Some(0x82)),
        (End::TooLarge, Some(0x95)),
        (End::Silence, Some(0x8D)),
    ];
    let mut cases = tokio::task::JoinSet::new();
    for version in VERSIONS {
        for qos in [1, 2] {
            for (end, reason) in ends {
                cases.spawn(async move { check_end(address, version, qos, end, reason).await });
            }
        }
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
    let unanswered = gateway.scrape().sum("citygate_mqtt_unanswered_total", &[]);
    assert_eq!(unanswered, 0);
    gateway.finish().await;
}

async fn check_end(address: std::net::SocketAddr, version: Version, qos: u8, end: End, reason: Option<u8>) {
    let about = format!("{version:?}, QoS {qos}, {end:?}");
    let mut mqtt = Mqtt::unconnected(address, version).await;
    let keep_alive_s = if matches!(end, End::Silence) { 1 } else { 60 };
    let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
    mqtt.write(&mqtt::connect_as(
        "MQTT",
        version as u8,
        2,
        keep_alive_s,
        properties,
        &about,
    ))
    .await;
    assert_eq!(read(&mut mqtt).await, Reply::ConnAck { reason: 0 }, "{about}");
    let mut bytes = publishes(version, qos, 1..=3);
    match end {
        End::Disconnect => bytes.extend(mqtt::DISCONNECT),
        End::ProtocolError => bytes.extend(mqtt::connect(version, "again")),
        End::TooLarge => bytes.extend(mqtt::publish(version, 1, 4, TOPIC, "", &[b' '; 20_000])),
        End::HalfClose | End::Silence => {}
    }
    let written = Instant::now();
    mqtt.write(&bytes).await;
    if matches!(end, End::HalfClose) {
        mqtt.end_stream().await;
    }
    for id in 1..=3 {
        assert_eq!(read(&mut mqtt).await, first_answer(qos, id), "{about}");
        // The end of silence is 1.5 s after the last packet; all others have begun at once.
        let waited = written.elapsed();
        assert!(
            waited > Duration::from_secs(2),
            "{about}: answered before it ended: {waited:?}"
        );
    }
    let mut last = read(&mut mqtt).await;
    if let Reply::Disconnect { reason: told, .. } = last {
        assert_eq!((version, Some(told)), (Version::V5, reason), "{about}");
        last = read(&mut mqtt).await;
    } else {
        assert!(version == Version::V311 || reason.is_none(), "{about}: no DISCONNECT");
    }
    assert_eq!(last, Reply::Closed, "{about}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ending_connection_does_not_wait_longer_than_its_time_out() {
    let broker = Broker::mock();
    let gateway = TestGateway::start(&broker, |config| {
        config.mqtt.closing_timeout = Duration::from_millis(200);
    })
    .await;
    broker.answer_after(KAFKAS_LONG_DELAY);
    let mut mqtt = Mqtt::connect(gateway.addresses.mqtt.unwrap(), Version::V5, "impatient").await;
    let mut bytes = publishes(Version::V5, 1, 1..=3);
    bytes.extend(mqtt::DISCONNECT);
    let began = Instant::now();
    mqtt.write(&bytes).await;
    assert_eq!(read(&mut mqtt).await, Reply::Closed);
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(200), "{waited:?}");
    assert!(waited < KAFKAS_LONG_DELAY, "{waited:?}");
    eventually("what was not answered is counted", async || {
        let unanswered = gateway.scrape().sum("citygate_mqtt_unanswered_total", &[]);
        (unanswered == 3).then_some(())
    })
    .await;
    gateway.finish().await;
}

/// A client that sends `first`, then pings and reads none of the answers, until it is not read any more.
async fn client_that_does_not_read(gateway: &TestGateway, first: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // So that few pings fill it.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(gateway.addresses.mqtt.unwrap()).await.unwrap();
    stream.write_all(first).await.unwrap();
    let pings = [0xC0, 0].repeat(8 * 1024);
    let count = |name: &str, labels: &[(&str, &str)]| gateway.scrape().sum(name, labels);
    let progress = || {
        let paused = count("citygate_mqtt_reading_paused_total", &[("reason", "output")]);
        let received = count("citygate_mqtt_packets_received_total", &[("type", "pingreq")]);
        (paused, received)
    };
    // Its reading has paused for that reason, and has not gone on for a while.
    let (began, mut still) = (Instant::now(), 0);
    while still < 5 {
        let before = progress();
        let blocked = timeout(Duration::from_millis(200), stream.write(&pings)).await.is_err();
        let stands = blocked && before.0 > 0 && progress() == before;
        still = if stands { still + 1 } else { 0 };
        assert!(began.elapsed() < TEST_TIMEOUT, "it is still read");
    }
    stream
}

async fn read_to_the_end(mut stream: TcpStream) {
    let mut answers = vec![0; 64 * 1024];
    let read = async { while stream.read(&mut answers).await.is_ok_and(|count| count > 0) {} };
    timeout(TEST_TIMEOUT, read).await.expect("the server closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_late_does_not_hold_up_the_drain() {
    let mut gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let stream = client_that_does_not_read(&gateway, &mqtt::connect(Version::V5, "late")).await;
    let address = gateway.addresses.mqtt.unwrap();
    let read = async {
        eventually("nothing is accepted any more", async || {
            TcpStream::connect(address).await.is_err().then_some(())
        })
        .await;
        read_to_the_end(stream).await;
    };
    let (drained, ()) = tokio::join!(timeout(TEST_TIMEOUT, gateway.drain()), read);
    drained.expect("the drain ends");
    gateway.finish().await;
}

/// MQTT 3.1.1 has no word for busy: the connection is held for a moment, then closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_late_is_closed_when_its_reading_is_not_accepted() {
    let broker = Broker::mock();
    // The client is not read any more long before.
    let gateway = TestGateway::start(&broker, |config| config.kafka.delivery_timeout = TEST_TIMEOUT / 3).await;
    broker.answer_after(Duration::from_secs(600));
    let mut first = mqtt::connect(Version::V311, "late");
    first.extend(publishes(Version::V311, 1, 1..=1));
    let stream = client_that_does_not_read(&gateway, &first).await;
    eventually("it is answered busy", async || {
        let busy = gateway.scrape().sum("citygate_readings_total", &[("outcome", "busy")]);
        (busy == 1).then_some(())
    })
    .await;
    read_to_the_end(stream).await;
    let closed = gateway
        .scrape()
        .sum("citygate_mqtt_closed_total", &[("reason", "busy")]);
    assert_eq!(closed, 1);
    gateway.finish().await;
}

/// Whatever a paused connection waits for has a deadline; should it be lost, the connection is closed all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_cannot_be_read_is_closed_in_the_end() {
    let broker = Broker::mock();
    let gateway = TestGateway::start(&broker, |config| {
        config.drain.deadline = Duration::from_secs(1); // nothing is to be waited for
        config.mqtt.receive_maximum = 1;
        config.mqtt.idle_timeout = Duration::from_millis(500);
        config.mqtt.closing_timeout = Duration::from_millis(1);
    })
    .await;
    broker.answer_after(Duration::from_secs(600));
    for version in VERSIONS {
        let mut mqtt = Mqtt::connect(gateway.addresses.mqtt.unwrap(), version, &format!("held-{version:?}")).await;
        let written = Instant::now();
        mqtt.write(&publishes(version, 1, 1..=2)).await;
        let mut last = read(&mut mqtt).await;
        if let Reply::Disconnect { reason, .. } = last {
            assert_eq!((version, reason), (Version::V5, 0x97));
            last = read(&mut mqtt).await;
        }
        assert_eq!(last, Reply::Closed, "{version:?}");
        let waited = written.elapsed();
        assert!(
            waited < TEST_TIMEOUT / 2,
            "{version:?}: it waits for the outcome: {waited:?}"
        );
    }
    let reason = [("reason", "not_read")];
    eventually("the reason is counted", async || {
        let closed = gateway.scrape().sum("citygate_mqtt_closed_total", &reason);
        (closed == 2).then_some(())
    })
    .await;
    gateway.finish().await;
}
