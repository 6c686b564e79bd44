//! However few file descriptors there are and however many devices: the gateway lives, says *busy*, and goes on.
//!
//! The program as its operator runs it, under `ulimit -n`.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::mqtt::{self, Version};
use crate::harness::program::Program;
use crate::harness::{Broker, Client, Via, eventually};

/// Kafka answers nobody who asks while the test runs.
const NEVER: Duration = Duration::from_secs(600);

const GOOD: &[u8] = br#"{"temperature_c": 21.5}"#;

/// A test needs descriptors of its own: one per device.
fn allow_many() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

/// A device that connects and stays; `None`: it was closed instead of accepted.
async fn device(address: SocketAddr, number: usize) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let connect = mqtt::connect(Version::V311, &format!("device-{number}"));
    // Who is closed at once may be told so by either call.
    stream.write_all(&connect).await.ok()?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.ok()?;
    assert_eq!(answer, [0x20, 2, 0, 0]);
    Some(stream)
}

async fn devices(address: SocketAddr, numbers: std::ops::Range<usize>) -> Vec<(usize, TcpStream)> {
    let mut connected = Vec::new();
    for number in numbers {
        connected.extend(device(address, number).await.map(|stream| (number, stream)));
    }
    connected
}

/// Publishes at QoS 1 and waits for the PUBACK.
async fn publish(stream: &mut TcpStream, number: usize) {
    let topic = format!("devices/device-{number}/weather");
    let packet = mqtt::publish(Version::V311, 1, 1, &topic, "", GOOD);
    stream.write_all(&packet).await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x40, 2, 0, 1], "PUBACK");
}

async fn post(client: &mut Client) -> String {
    client.send("devices/web/weather", "", GOOD).await.code
}

async fn metric(program: &Program, name: &str) -> u64 {
    program.scrape().await.sum(name, &[])
}

/// 1,100 devices connect and are silent; then Kafka does not answer, and one reading comes.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_leave_the_spool_its_descriptors() {
    allow_many();
    // Limits, soft and hard → how many of 1,100 are accepted.
    for (limits, accepted) in [((1024, 4096), 1100..1101), ((1024, 1024), 600..900)] {
        let kafka = Broker::mock();
        let mut program = Program::start_limited(&kafka, limits).await;
        let mut connected = devices(program.addresses.mqtt.unwrap(), 0..1100).await;
        assert!(accepted.contains(&connected.len()), "{limits:?}: {}", connected.len());
        kafka.answer_after(NEVER);
        let (number, stream) = connected.last_mut().unwrap();
        publish(stream, *number).await;
        let mut client = program.client(Via::Http).await;
        assert_eq!(post(&mut client).await, "204", "{}", program.said());
        let (status, why) = program.admin("/readyz").await;
        assert_eq!(status, 200, "{why}");
        assert_eq!(metric(&program, "citygate_spool_failed").await, 0);
        assert_eq!(metric(&program, "citygate_spool_readings").await, 2);
        kafka.answer_after(Duration::ZERO);
        drop(connected);
        program.signal("TERM");
        assert_eq!(program.ended().await.code(), Some(0), "{}", program.said());
    }
}

/// More devices than descriptors: some are refused, and served when others have gone.
#[tokio::test(flavor = "multi_thread")]
async fn with_256_descriptors_400_devices_are_served_in_turn() {
    allow_many();
    let kafka = Broker::mock();
    let mut program = Program::start_limited(&kafka, (256, 256)).await;
    let address = program.addresses.mqtt.unwrap();
    let mut first = devices(address, 0..400).await;
    assert!((50..200).contains(&first.len()), "{} are accepted", first.len());
    for (number, stream) in &mut first {
        publish(stream, *number).await;
    }
    let mut client = program.client(Via::Http).await;
    assert_eq!(post(&mut client).await, "204", "mqtt does not use all of them");
    // The spool finds its descriptors even now.
    kafka.answer_after(NEVER);
    assert_eq!(post(&mut client).await, "204", "{}", program.said());
    assert_eq!(program.admin("/readyz").await.0, 200);
    kafka.answer_after(Duration::ZERO);
    let served = first.len();
    drop(first);
    let mut number = served;
    while number < 400 {
        eventually("there is room again", async || {
            let mut stream = device(address, number).await?;
            publish(&mut stream, number).await;
            Some(())
        })
        .await;
        number += 1;
    }
    let said = program.said();
    assert!(
        said.contains("mqtt.connections_max and http.connections_max ask for"),
        "{said}"
    );
    program.signal("TERM");
    assert_eq!(program.ended().await.code(), Some(0), "{said}");
}

/// All descriptors are gone, reserve or not: what needs one is refused for now, and nothing else happens.
#[tokio::test(flavor = "multi_thread")]
async fn without_any_descriptor_readings_are_answered_busy_until_there_are_some() {
    let kafka = Broker::mock();
    let mut program = Program::start_limited(&kafka, (1024, 1024)).await;
    let mut client = program.client(Via::Http).await;
    // A reading that comes before goes through the spool, which has a file open then.
    eventually("kafka is up", async || {
        (metric(&program, "citygate_kafka_up").await == 1).then_some(())
    })
    .await;
    assert_eq!(post(&mut client).await, "204");
    let pid = Pid::from_raw(program.id() as i32);
    let allow = |descriptors: u64| {
        let limit = Rlimit {
            current: Some(descriptors),
            maximum: Some(1024),
        };
        prlimit(pid, Resource::Nofile, limit).unwrap();
    };
    kafka.answer_after(NEVER);
    // None at all: with a few, one that was closed meanwhile could be had again.
    allow(0);
    // Its connection is open; whoever comes now waits.
    let waiting = TcpStream::connect(program.addresses.mqtt.unwrap()).await.unwrap();
    // The first one is given to Kafka as well, whose answer is waited for.
    assert_eq!(post(&mut client).await, "503");
    for _ in 0..3 {
        let answer = client.send("devices/web/weather", "", GOOD).await;
        assert_eq!(answer.code, "503", "{answer:?}");
        assert!(answer.text.contains("short of file descriptors"), "{answer:?}");
    }
    assert!(program.runs(), "{}", program.said());
    allow(1024);
    eventually("it is accepted again", async || {
        (post(&mut client).await == "204").then_some(())
    })
    .await;
    drop(waiting);
    assert!(metric(&program, "citygate_spool_shortages_total").await > 0);
    assert_eq!(metric(&program, "citygate_spool_failed").await, 0);
    assert!(metric(&program, "citygate_mqtt_accept_failures_total").await > 0);
    eventually("it is said that all is well", async || {
        (metric(&program, "citygate_spool_short").await == 0).then_some(())
    })
    .await;
    assert!(program.runs());
    kafka.answer_after(Duration::ZERO);
    program.signal("TERM");
    assert_eq!(program.ended().await.code(), Some(0), "{}", program.said());
}
