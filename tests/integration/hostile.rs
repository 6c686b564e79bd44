//! Damaged bytes, by the hundred thousand: no panic, no growing memory, and good devices are served meanwhile.
//!
//! Against the real program, whose memory is its own. Frames are good ones, damaged by a seeded generator; the seed is
//! printed, and `TEST_SEED` repeats a run; `TEST_FRAMES` makes it longer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coap_lite::MessageType;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::clients::Coap;
use crate::harness::mqtt::{self, Version};
use crate::harness::program::Program;
use crate::harness::{Broker, TEST_TIMEOUT, Via, chaos, clients, eventually};

const FRAMES: u64 = 200_000;
/// Frames on one MQTT connection before the one that is damaged anywhere.
const WELL_FORMED_MAX: u16 = 9;
/// Many, because an MQTT connection ends only when Kafka has confirmed what was good on it.
const SENDERS: u64 = 32;
/// A fourth of the frames goes first, so that buffers and allocator have their size before memory is compared; then it
/// moves by a megabyte or two.
const GROWTH_BYTES_MAX: u64 = 16 * 1024 * 1024;

const GOOD: &[u8] = br#"{"temperature_c": 21.5}"#;
const BODIES: [&str; 4] = [
    r#"{"vehicle_count": 12, "speed_kmh": 48.5, "lanes": [{"lane": 1, "speed_kmh": 50}], "classes": {"car": 12}}"#,
    r#"{"temperature_c": 21.5, "location": {"latitude": 48.1, "longitude": 11.5}, "status": "ok"}"#,
    r#"{"power_w": -1899.8, "phases": [{"phase": "L1", "voltage_v": 229.0}], "tariff": "night"}"#,
    r#"[{"temperature_c": 1}, {"temperature_c": 2}]"#,
];
const PATHS: [&str; 4] = [
    "devices/x/traffic",
    "devices/x/weather",
    "devices/x/energy",
    "devices/x/weather/batch",
];

/// What is thrown.
#[derive(Clone, Copy, Debug)]
enum Thrown {
    Mqtt,
    Coap,
}

impl Thrown {
    /// Counts those that the server decoded, whatever came of them.
    fn counter(self) -> &'static str {
        match self {
            Thrown::Mqtt => "citygate_mqtt_packets_received_total",
            Thrown::Coap => "citygate_coap_datagrams_received_total",
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_mqtt_frames_harm_nobody() {
    assault(Thrown::Mqtt).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_coap_datagrams_harm_nobody() {
    assault(Thrown::Coap).await;
}

async fn assault(thrown: Thrown) {
    let (seed, frames) = (seed(), from_environment("TEST_FRAMES").unwrap_or(FRAMES));
    let mut program = Program::start(&Broker::any()).await;
    let over = Arc::new(AtomicBool::new(false));
    let served = serve_good_devices(&program, &over).await;
    throw(thrown, &program, seed, frames / 4).await;
    let before = program.resident_bytes();
    throw(thrown, &program, seed ^ 1, frames - frames / 4).await;
    let after = program.resident_bytes();
    over.store(true, Ordering::Relaxed);
    let seen = program.scrape().await.sum(thrown.counter(), &[]);
    assert!(
        seen > frames / 2,
        "the server has seen no more than {seen} of {frames} frames; seed {seed}"
    );
    let mut readings = Vec::new();
    for (via, device) in served {
        let count = device
            .await
            .unwrap_or_else(|_| panic!("a good {via:?} device was not served; seed {seed}"));
        readings.push((via, count));
    }
    println!("{thrown:?}: {seen} frames seen; readings of good devices meanwhile: {readings:?}");
    assert!(
        readings.iter().all(|(_, count)| *count > 10),
        "{readings:?} in all this time; seed {seed}"
    );
    let said = program.said();
    assert!(!said.contains("panicked"), "seed {seed}: {said}");
    println!("{thrown:?}: resident {before} bytes after the warm-up, {after} at the end");
    assert!(
        after < before + GROWTH_BYTES_MAX,
        "memory grew from {before} to {after} bytes; seed {seed}"
    );
    eventually("the balance holds once nothing is in flight", async || {
        program.scrape().await.imbalances().is_empty().then_some(())
    })
    .await;
    program.signal("TERM");
    assert_eq!(program.ended().await.code(), Some(0), "seed {seed}: {}", program.said());
}

/// One device per protocol that sends good readings until `over`, each of which must be answered *yes*; how many.
async fn serve_good_devices(program: &Program, over: &Arc<AtomicBool>) -> Vec<(Via, JoinHandle<u64>)> {
    let mut devices = Vec::new();
    for via in Via::ALL {
        let (mut client, over) = (program.client(via).await, over.clone());
        let device = tokio::spawn(async move {
            let mut readings = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = client.send("devices/good/weather", "", GOOD).await;
                assert!(answer.is_yes(via), "{via:?}: {answer:?}");
                readings += 1;
            }
            readings
        });
        devices.push((via, device));
    }
    devices
}

/// Throws `frames` from several senders at once.
async fn throw(thrown: Thrown, program: &Program, seed: u64, frames: u64) {
    let mut senders = Vec::new();
    for sender in 0..SENDERS {
        let random = StdRng::seed_from_u64(seed.wrapping_add(sender));
        let (mqtt, coap) = (program.addresses.mqtt.unwrap(), program.addresses.coap.unwrap());
        senders.push(tokio::spawn(async move {
            match thrown {
                Thrown::Mqtt => throw_mqtt(mqtt, random, frames / SENDERS).await,
                Thrown::Coap => throw_coap(coap, random, frames / SENDERS).await,
            }
        }));
    }
    for sender in senders {
        sender
            .await
            .unwrap_or_else(|_| panic!("the server left a {thrown:?} sender waiting; seed {seed}"));
    }
}

/// Many connections: CONNECT, some frames that are well formed but for their topic or payload, and one that is damaged
/// anywhere, with which a connection mostly ends. At the end of each the server has read everything and closes.
async fn throw_mqtt(address: SocketAddr, mut random: StdRng, frames: u64) {
    let mut sent = 0;
    while sent < frames {
        let version = if random.random() { Version::V5 } else { Version::V311 };
        // An id of its own: a second connection of the same client would end the first.
        let mut bytes = mqtt::connect(version, &format!("hostile-{}", random.random::<u64>()));
        if random.random_ratio(1, 50) {
            chaos::mutate(&mut bytes, &mut random);
        }
        let well_formed = random.random_range(0..=WELL_FORMED_MAX);
        for id in 1..=well_formed {
            bytes.extend_from_slice(&well_formed_publish(version, id, &mut random));
        }
        let mut damaged = mqtt::publish(version, 1, well_formed + 1, PATHS[0], "", BODIES[0].as_bytes());
        chaos::mutate(&mut damaged, &mut random);
        bytes.extend_from_slice(&damaged);
        sent += u64::from(well_formed) + 1;
        let stream = TcpStream::connect(address).await.unwrap();
        let exchanged = timeout(TEST_TIMEOUT, exchange(stream, &bytes)).await;
        exchanged.expect("the server closes a connection whose client has closed");
    }
}

/// Writes, closes its side, and reads to the end. The server may close as soon as it has seen enough; then writing or
/// reading fails, and that is all right.
async fn exchange(mut stream: TcpStream, bytes: &[u8]) {
    let (mut reader, mut writer) = stream.split();
    let write = async {
        let _closed = writer.write_all(bytes).await;
        let _closed = writer.shutdown().await;
    };
    let mut answers = Vec::new();
    let (_, _closed) = tokio::join!(write, reader.read_to_end(&mut answers));
}

fn well_formed_publish(version: Version, id: u16, random: &mut StdRng) -> Vec<u8> {
    let which = random.random_range(0..BODIES.len());
    let (mut topic, mut body) = (PATHS[which].as_bytes().to_vec(), BODIES[which].as_bytes().to_vec());
    chaos::mutate(
        if random.random_ratio(1, 8) {
            &mut topic
        } else {
            &mut body
        },
        random,
    );
    let qos = random.random_range(0..=2);
    mqtt::publish(version, qos, id, &String::from_utf8_lossy(&topic), "", &body)
}

/// A socket per thousand datagrams. After every fifty a good reading, whose answer is awaited: so the kernel drops
/// nothing, and what is compared is memory without a backlog of readings on their way to Kafka.
async fn throw_coap(address: SocketAddr, mut random: StdRng, frames: u64) {
    let mut sent = 0;
    while sent < frames {
        let mut coap = Coap::open(address).await;
        for _ in 0..1000.min(frames - sent) {
            coap.throw(&coap_datagram(&mut random)).await;
            sent += 1;
            if sent.is_multiple_of(50) {
                coap.post(MessageType::Confirmable, "devices/between/weather", "", GOOD)
                    .await;
                let answer = timeout(TEST_TIMEOUT, coap.answer()).await.expect("the server answers");
                assert_eq!(answer.code, "2.04", "{answer:?}");
            }
        }
    }
}

fn coap_datagram(random: &mut StdRng) -> Vec<u8> {
    let which = random.random_range(0..BODIES.len());
    let kind = if random.random() {
        MessageType::Confirmable
    } else {
        MessageType::NonConfirmable
    };
    let token: [u8; 4] = random.random();
    let mut body = BODIES[which].as_bytes().to_vec();
    let whole: bool = random.random();
    if !whole {
        chaos::mutate(&mut body, random);
    }
    let mut datagram = clients::post(kind, random.random(), &token, PATHS[which], "application/json", &body);
    if whole {
        chaos::mutate(&mut datagram, random);
    }
    datagram.truncate(1400); // one Ethernet frame
    datagram
}

fn seed() -> u64 {
    let seed = from_environment("TEST_SEED").unwrap_or_else(rand::random);
    println!("TEST_SEED={seed}");
    seed
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
    )
}
