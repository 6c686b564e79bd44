//! The end of a gateway: every message that was accepted is answered, within
//! `drain.deadline`, and the exit code says whether it was. Unfinished requests are told
//! that the gateway ends, cost no time, and do not change the exit code.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::mqtt::Reply;
use crate::harness::program::Program;
use crate::harness::{Broker, Client, TEST_TIMEOUT, TestGateway, Via, eventually};

const GOOD: &[u8] = br#"{"temperature_c": 21.5}"#;

/// Kafka answers slowly, so that all readings are in flight when the drain begins; each is still answered *yes*.
#[tokio::test(flavor = "multi_thread")]
async fn everything_taken_in_is_answered_before_the_end() {
    const MESSAGES: usize = 8;
    let broker = Broker::mock();
    let mut gateway = TestGateway::start(&broker, |config| config.mqtt.closing_timeout = TEST_TIMEOUT).await;
    let mut clients = Vec::new();
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        assert!(client.send("devices/warm/weather", "", GOOD).await.is_yes(via));
        clients.push((via, client));
    }
    broker.answer_after(Duration::from_millis(700));
    for (_, client) in &mut clients {
        for _ in 0..MESSAGES {
            client.post("devices/late/weather", "", GOOD).await;
        }
    }
    let taken_in = (Via::ALL.len() * (MESSAGES + 1)) as u64;
    eventually("all are accepted", async || {
        let received = gateway
            .scrape()
            .sum("citygate_readings_received_total", &[("kind", "weather")]);
        (received == taken_in).then_some(())
    })
    .await;
    let answered = async {
        for (via, client) in &mut clients {
            for message in 0..MESSAGES {
                let answer = client.answer(TEST_TIMEOUT).await.expect("an answer");
                assert!(answer.is_yes(*via), "{via:?} {message}: {answer:?}");
            }
        }
    };
    tokio::join!(answered, gateway.drain());
    for (via, client) in &mut clients {
        if let Client::Mqtt(mqtt) = client {
            let end = mqtt.read().await;
            let polite = matches!(
                (*via, &end),
                (Via::Mqtt5, Reply::Disconnect { reason: 0x8B, .. }) | (_, Reply::Closed)
            );
            assert!(
                polite,
                "{via:?} is told that the server is shutting down, or closed: {end:?}"
            );
        }
    }
    gateway.finish().await;
}

/// A body of which a part has arrived has until the drain to be complete; it is told *busy*, and the drain does not wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_still_arriving_is_told_that_the_gateway_ends() {
    let mut gateway = TestGateway::start(&Broker::mock(), |_| {}).await;
    let mut stream = TcpStream::connect(gateway.addresses.http.unwrap()).await.unwrap();
    let head = "POST /devices/slow/weather HTTP/1.1\r\nhost: x\r\ncontent-length: 700000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b' '; 20_000]).await.unwrap();
    eventually("a part of it has arrived", async || {
        let status: serde_json::Value = serde_json::from_str(&gateway.admin("/status").await.1).unwrap();
        (status["incomplete_bytes"] != 0).then_some(())
    })
    .await;
    let mut answer = String::new();
    let answered = timeout(TEST_TIMEOUT, stream.read_to_string(&mut answer));
    let (read, ()) = tokio::join!(answered, gateway.drain());
    read.expect("an answer before the body is late").unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("the gateway is shutting down"), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    gateway.finish().await;
}

/// Half of a request's head is no reading, and nobody waits for the rest of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_a_request_that_never_ends_does_not_hold_up_the_drain() {
    let mut gateway = TestGateway::start(&Broker::mock(), |config| {
        config.drain.deadline = Duration::from_secs(30);
    })
    .await;
    let open = || gateway.scrape().sum("citygate_http_connections", &[]);
    assert_eq!(open(), 0, "a permit in hand is no connection");
    let mut stream = TcpStream::connect(gateway.addresses.http.unwrap()).await.unwrap();
    stream.write_all(b"POST /devices").await.unwrap();
    eventually("it is connected", async || (open() == 1).then_some(())).await;
    let started = Instant::now();
    gateway.drain().await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    gateway.finish().await;
}

/// Requests of which the body is not whole, each up to where it stops.
const UNFINISHED: &[&str] = &[
    "content-length: 700000\r\n\r\n",
    "content-length: 23\r\n\r\n{\"temperature_c\"",
    "content-length: 23\r\nidempotency-key: k\r\n\r\n{",
    "transfer-encoding: chunked\r\n\r\n",
    "transfer-encoding: chunked\r\n\r\n1",
    "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
    "content-encoding: gzip\r\ncontent-length: 700\r\n\r\n\x1f",
    "content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n1\r\n",
];

/// Each is told that the gateway ends, not that its body is late, by the program as it runs; it ends with exit code 0.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_bodies_are_answered_at_sigterm_and_cost_neither_time_nor_the_exit_code() {
    let mut program = Program::start(&Broker::any()).await;
    let mut streams = Vec::new();
    for &rest in UNFINISHED {
        let mut stream = TcpStream::connect(program.addresses.http.unwrap()).await.unwrap();
        let request = format!("POST /devices/a/weather HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n{rest}");
        stream.write_all(request.as_bytes()).await.unwrap();
        // What is not decoded is refused before; for the others it waits.
        let mut first = vec![0; 12];
        timeout(TEST_TIMEOUT, stream.read_exact(&mut first))
            .await
            .unwrap()
            .unwrap();
        let first = String::from_utf8(first).unwrap();
        let coded = rest.contains("gzip");
        assert_eq!(first, if coded { "HTTP/1.1 415" } else { "HTTP/1.1 100" }, "{rest}");
        streams.push((rest, coded, stream));
    }
    program.signal("TERM");
    for (rest, coded, mut stream) in streams {
        let mut answer = String::new();
        let read = timeout(TEST_TIMEOUT, stream.read_to_string(&mut answer)).await;
        read.expect("it is answered").unwrap();
        assert!(answer.to_lowercase().contains("connection: close"), "{rest}: {answer}");
        if !coded {
            assert!(answer.contains("HTTP/1.1 503 "), "{rest}: {answer}");
            assert!(answer.contains("the gateway is shutting down"), "{rest}: {answer}");
        }
    }
    let status = program.ended().await;
    assert_eq!(status.code(), Some(0), "{}", program.said());
}

/// Kafka does not answer at all: those who wait are told *busy* by the deadline, and the balance holds.
#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_does_not_take_by_the_deadline_is_answered_busy() {
    let broker = Broker::mock();
    let mut gateway = TestGateway::start(&broker, |config| {
        config.kafka.delivery_timeout = Duration::from_secs(20);
        config.drain.deadline = Duration::from_secs(4);
    })
    .await;
    let mut client = gateway.client(Via::Http).await;
    assert!(client.send("devices/warm/weather", "", GOOD).await.is_yes(Via::Http));
    broker.answer_after(Duration::from_secs(600));
    client.post("devices/never/weather", "", GOOD).await;
    eventually("it is accepted", async || {
        let received = gateway
            .scrape()
            .sum("citygate_readings_received_total", &[("kind", "weather")]);
        (received == 2).then_some(())
    })
    .await;
    let started = Instant::now();
    let (answer, ()) = tokio::join!(client.answer(TEST_TIMEOUT), gateway.drain());
    assert!(
        started.elapsed() < Duration::from_secs(16),
        "the drain keeps its deadline"
    );
    assert_eq!(answer.expect("an answer").code, "503");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_program_with_exit_code_0() {
    let broker = Broker::any();
    for signal in ["TERM", "INT"] {
        let mut program = Program::start(&broker).await;
        let mut clients = Vec::new();
        for via in Via::ALL {
            let mut client = program.client(via).await;
            assert!(client.send("devices/last/weather", "", GOOD).await.is_yes(via));
            clients.push(client);
        }
        program.signal(signal);
        let status = program.ended().await;
        assert_eq!(status.code(), Some(0), "{}", program.said());
        assert!(!program.said().contains("panicked"), "{}", program.said());
    }
}

/// An operator reloads a gateway that has neither identities nor certificates: it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn sighup_ends_no_program() {
    let mut program = Program::start(&Broker::mock()).await;
    program.signal("HUP");
    eventually("it says what is read again", async || {
        program.said().contains("SIGHUP: identities").then_some(())
    })
    .await;
    let mut client = program.client(Via::Http).await;
    assert!(client.send("devices/still/weather", "", GOOD).await.is_yes(Via::Http));
    assert!(program.runs());
}

/// The registry is asked, and does not answer: the program is told to end, and does.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_start_that_waits() {
    let registry = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", registry.local_addr().unwrap());
    for signal in ["TERM", "INT"] {
        let mut program = Program::start_changed(&Broker::mock(), |config| {
            config.registry.url = Some(url.clone().into());
            config.registry.timeout = Duration::from_secs(3600);
        });
        let asked = timeout(TEST_TIMEOUT, registry.accept()).await.unwrap().unwrap();
        program.signal(signal);
        let status = program.ended().await;
        let said = program.said();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(said.contains("citygate ends before it has started"), "{said}");
        drop(asked);
    }
}

/// `/readyz` says no at once; everything else goes on until the delay is over, or a second signal ends it.
#[tokio::test(flavor = "multi_thread")]
async fn during_the_delay_everything_is_accepted_and_answered() {
    let mut program = Program::start_changed(&Broker::mock(), |config| {
        config.drain.delay = Duration::from_secs(3600);
    });
    let ready = async |program: &Program, expected: u16| {
        eventually("what /readyz says", async || {
            program.try_admin("/livez").await?;
            let (status, said) = program.admin("/readyz").await;
            (status == expected).then_some(said)
        })
        .await
    };
    ready(&program, 200).await;
    let mut earlier = program.client(Via::Http).await;
    program.signal("TERM");
    let said = ready(&program, 503).await;
    assert!(said.contains("the gateway is shutting down"), "{said}");
    assert!(
        earlier
            .send("devices/earlier/weather", "", GOOD)
            .await
            .is_yes(Via::Http)
    );
    for via in Via::ALL {
        let mut client = program.client(via).await;
        let answer = client.send("devices/late/weather", "", GOOD).await;
        assert!(answer.is_yes(via), "{via:?}: {answer:?}");
    }
    assert!(program.runs());
    program.signal("INT");
    let status = program.ended().await;
    assert_eq!(status.code(), Some(0), "{}", program.said());
    assert!(program.said().contains("drain.delay ends early"), "{}", program.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delay_ends_by_itself() {
    let mut program = Program::start_changed(&Broker::mock(), |config| {
        config.drain.delay = Duration::from_millis(300);
    });
    eventually("it serves", async || program.try_admin("/livez").await).await;
    program.signal("TERM");
    let status = program.ended().await;
    assert_eq!(status.code(), Some(0), "{}", program.said());
    assert!(!program.said().contains("drain.delay ends early"), "{}", program.said());
    assert!(
        program
            .said()
            .contains("readings are accepted until drain.delay is over"),
        "{}",
        program.said()
    );
}
