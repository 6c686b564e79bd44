//! When Kafka is unavailable the gateway says why: each reason in its own words, once in
//! the log, and the same in `/status`, `/readyz`, the metrics and `citygate check`. It
//! finds Kafka again after librdkafka forgot every broker.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use citygate::operate::config::Config;
use serde_json::Value;
use tokio::net::TcpSocket;

use crate::harness::fence::Fence;
use crate::harness::program::Program;
use crate::harness::scrape::Scrape;
use crate::harness::{Broker, TestGateway, Via, eventually};

/// librdkafka forgets every broker when a fenced one answers, and (here always, otherwise now and then) asks nobody again.
#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_was_fenced_is_found_again_when_it_is_back() {
    let kafka = Broker::mock();
    let fence = Fence::before(&kafka.servers);
    let folder = tempfile::tempdir().unwrap();
    let gateway = TestGateway::start(&kafka, |config| {
        config.spool.enabled = true;
        config.spool.folder = folder.path().to_owned();
        config.kafka.bootstrap_servers = fence.address.to_string();
        config.kafka.probe_interval = Duration::from_millis(50);
        config.kafka.statistics_interval = Duration::from_millis(100);
        let property = ("metadata.recovery.strategy".to_owned(), "none".into());
        config.kafka.properties.extend([property]);
    })
    .await;
    let mut client = gateway.client(Via::Http).await;
    let mut post = async |device: &str| {
        let body = br#"{"temperature_c": 21.5}"#;
        let answer = client.send(&format!("devices/{device}/weather"), "", body).await;
        assert_eq!(answer.code, "204", "{answer:?}");
    };
    post("before").await;
    fence.raise();
    eventually("it says that kafka is unavailable", async || {
        let (status, why) = gateway.admin("/readyz").await;
        (status == 200 && why.contains("readings are spooled: kafka answers, but names no broker")).then_some(())
    })
    .await;
    assert!(fence.emptied() > 0);
    post("fenced").await;
    let scrape = || gateway.scrape();
    assert_eq!(scrape().sum("citygate_readings_total", &[("outcome", "spooled")]), 1);
    assert_eq!(
        scrape().sum("citygate_kafka_unavailable", &[("reason", "no_broker")]),
        1
    );
    fence.lower();
    post("back").await;
    eventually("kafka is up, and the spool is empty", async || {
        let scrape = Scrape::parse(&gateway.admin("/metrics").await.1);
        let (up, spooled) = (
            scrape.sum("citygate_kafka_up", &[]),
            scrape.sum("citygate_spool_readings", &[]),
        );
        ((up, spooled) == (1, 0)).then_some(())
    })
    .await;
    assert_eq!(scrape().sum("citygate_kafka_unavailable", &[]), 0);
    assert!(scrape().sum("citygate_kafka_producers_replaced_total", &[]) > 0);
    let arrived: Vec<_> = gateway
        .records("weather")
        .into_iter()
        .map(|record| record.key)
        .collect();
    assert_eq!(
        arrived.iter().collect::<BTreeSet<_>>().len(),
        3,
        "all of them are in kafka: {arrived:?}"
    );
    gateway.finish().await;
}

/// A reason as it can be had, and what is said of it everywhere.
struct Case<'a> {
    label: &'static str,
    words: &'static str,
    change: Box<dyn FnOnce(&mut Config) + 'a>,
}

fn case<'a>(label: &'static str, words: &'static str, change: impl FnOnce(&mut Config) + 'a) -> Case<'a> {
    let change = Box::new(change);
    Case { label, words, change }
}

fn set(config: &mut Config, properties: &[(&str, &str)]) {
    let owned = properties.iter().map(|(key, value)| (key.to_string(), (*value).into()));
    config.kafka.properties.extend(owned);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reason_why_kafka_is_unavailable_is_said_once_and_in_its_own_words() {
    let (kafka, mock) = (Broker::any(), Broker::mock());
    // Held, so that nobody else gets it, and not listened to.
    let held = TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = held.local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap(); // connections wait in its queue
    let fence = Fence::before(&mock.servers);
    fence.raise();
    let mut cases = vec![
        case(
            "dns",
            "kafka at kafka.invalid:9092: the name cannot be resolved (",
            |config| {
                config.kafka.bootstrap_servers = "kafka.invalid:9092".into();
            },
        ),
        case("refused", " refuses the connection", |config| {
            config.kafka.bootstrap_servers = nobody.to_string();
        }),
        case("timeout", " does not answer", |config| {
            config.kafka.bootstrap_servers = silent.local_addr().unwrap().to_string();
        }),
        case("tls", "TLS fails (SSL handshake failed: ", |config| {
            set(config, &[("security.protocol", "ssl")]);
        }),
        case("connection", "before it answers; perhaps it wants TLS", |config| {
            config.kafka.bootstrap_servers = speaks_tls_only();
        }),
        case(
            "topic_missing",
            "kafka has no topic never-made.energy, never-made.traffic, never-made.weather",
            |config| {
                config.kafka.topic_prefix = "never-made.".into();
                config.kafka.create_topics = false;
            },
        ),
        // The mock creates no topics at all.
        case("topic_refused", "with 3 partitions and 3 replicas: ", |config| {
            config.kafka.topic_prefix = "never-made.".into();
            config.kafka.create_topics = true;
            config.kafka.replication_factor = 3;
        }),
        case("no_broker", "kafka answers, but names no broker", |config| {
            config.kafka.bootstrap_servers = fence.address.to_string();
        }),
        case("no_leader", "kafka answers, but names no leader for ", |config| {
            config.kafka.bootstrap_servers.clone_from(&mock.servers);
            for topic in ["traffic", "weather", "energy", "dead-letter"] {
                mock.create_topic(&format!("{}{topic}", config.kafka.topic_prefix), 3);
            }
            // One partition concerns its own readings only.
            for topic in ["traffic", "weather", "energy", "dead-letter"] {
                (0..3).for_each(|partition| {
                    mock.take_leader(&format!("{}{topic}", config.kafka.topic_prefix), partition);
                });
            }
        }),
    ];
    if !kafka.is_mock() {
        cases.push(case("sasl", "the login fails (SASL", |config| {
            let login = [
                ("sasl.mechanisms", "PLAIN"),
                ("sasl.username", "a"),
                ("sasl.password", "b"),
            ];
            set(config, &[("security.protocol", "sasl_plaintext")]);
            set(config, &login);
        }));
    }
    let (mut labels, mut programs) = (Vec::new(), Vec::new());
    for Case { label, words, change } in cases {
        labels.push((label, words));
        programs.push(Program::start_changed(&kafka, change));
    }
    for ((label, words), program) in labels.into_iter().zip(&programs) {
        is_said_everywhere(label, words, program).await;
    }
}

/// In `/status`, `/readyz`, the metrics, `citygate check`, and once in the log.
async fn is_said_everywhere(label: &str, words: &str, program: &Program) {
    let status = eventually(&format!("{label} in /status"), async || {
        let status: Value = serde_json::from_str(&program.try_admin("/status").await?).ok()?;
        (status["kafka_unavailable"] == serde_json::json!([label])).then_some(status)
    })
    .await;
    let why = status["kafka"].as_str().unwrap();
    assert!(why.contains(words), "{label}: {why}");
    let readyz = program.try_admin("/readyz").await.unwrap();
    assert!(readyz.contains(why), "{label}: {readyz}");
    let reasons = program.scrape().await;
    assert_eq!(
        reasons.sum("citygate_kafka_unavailable", &[("reason", label)]),
        1,
        "{label}"
    );
    assert_eq!(reasons.sum("citygate_kafka_unavailable", &[]), 1, "{label} alone");
    let check = program.check();
    let found = check
        .lines()
        .any(|line| line.starts_with("error") && line.contains(words));
    assert!(found, "{label}: {check}");
    // Many probes later.
    let said = program.said();
    let lines: Vec<_> = said
        .lines()
        .filter(|line| line.contains("kafka is unavailable"))
        .collect();
    assert_eq!(lines.len(), 1, "{label}: {said}");
    assert!(lines[0].contains(words), "{label}: {said}");
    let creating = said
        .lines()
        .filter(|line| line.contains("creating kafka topics"))
        .count();
    assert!(creating <= 1, "{label}: {said}");
}

/// A server that answers whatever is no TLS with an alert and closes, as TLS servers do.
fn speaks_tls_only() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut request = [0; 4];
            if client.read_exact(&mut request).is_ok() {
                client.write_all(&[21, 3, 3, 0, 2, 2, 70]).ok(); // fatal, protocol_version
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_start_warns_of_nothing_and_what_librdkafka_is_asked_to_tell_is_seen() {
    let kafka = Broker::any();
    let program = Program::start_changed(&kafka, |config| {
        // As many as any machine's file descriptors allow: else that is a warning, too.
        (config.mqtt.connections_max, config.http.connections_max) = (100, 100);
        set(config, &[("debug", "broker")]);
    });
    eventually("kafka is up", async || {
        let status: Value = serde_json::from_str(&program.try_admin("/status").await?).ok()?;
        (status["kafka"] == "up").then_some(())
    })
    .await;
    let said = program.said();
    // A Kafka of one node does weaken the promise.
    let warnings: Vec<_> = said.lines().filter(|line| line.contains("WARN")).collect();
    assert!(warnings.iter().all(|line| line.contains(" topic ")), "{warnings:#?}");
    assert!(said.contains("kafka is up"), "{said}");
    assert!(said.contains("librdkafka fac="), "{said}");
}
