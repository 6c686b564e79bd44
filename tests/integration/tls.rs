//! TLS: readings over it are as safe as over plain TCP, certificates change without a dropped connection, and what is wrong with
//! one is said before a start.
//!
//! Certificates are made by the test; the clients are rustls (MQTT) and native TLS (HTTP).

use std::path::Path;
use std::time::Duration;

use citygate::operate::start;
use rcgen::KeyPair;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::harness::certificates::{self, Authority, replace};
use crate::harness::mqtt::{self, Version};
use crate::harness::{Broker, TestGateway, eventually, gateway};

const READING: &[u8] = br#"{"temperature_c": 21.5}"#;

/// Publishes at QoS 1 and waits for the PUBACK.
async fn publish(mqtt: &mut TlsStream<TcpStream>, id: u16) {
    mqtt.write_all(&mqtt::publish(
        Version::V311,
        1,
        id,
        "devices/roof/weather",
        "",
        READING,
    ))
    .await
    .unwrap();
    let mut puback = [0; 4];
    mqtt.read_exact(&mut puback).await.unwrap();
    assert_eq!(puback[..2], [0x40, 2]);
}

async fn connected(authority: &Authority, gateway: &TestGateway) -> TlsStream<TcpStream> {
    let mut mqtt = authority.connect(gateway.addresses.mqtt_tls.unwrap()).await.unwrap();
    mqtt.write_all(&mqtt::connect(Version::V311, "a-client")).await.unwrap();
    let mut connack = [0; 4];
    mqtt.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    mqtt
}

/// The certificate that is shown to a new connection.
async fn shown(authority: &Authority, address: std::net::SocketAddr) -> Vec<u8> {
    let stream = authority.connect(address).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_to_new_connections_and_drops_none() {
    let authority = Authority::new();
    authority.issue(90);
    let gateway = TestGateway::start(&Broker::any(), |config| authority.use_in(config)).await;
    let url = format!(
        "https://localhost:{}/devices/roof/weather",
        gateway.addresses.http_tls.unwrap().port()
    );
    let http = authority.http();
    let post = async || http.post(&url).body(READING).send().await.unwrap().status().as_u16();
    let mut mqtt = connected(&authority, &gateway).await;
    publish(&mut mqtt, 1).await;
    assert_eq!(post().await, 204);
    let address = gateway.addresses.mqtt_tls.unwrap();
    let first = shown(&authority, address).await;
    let mut sent = 1;
    for round in 1..4 {
        let before = shown(&authority, address).await;
        authority.issue(90 + round);
        eventually("the new one is shown", async || {
            sent += 1;
            publish(&mut mqtt, sent).await;
            (shown(&authority, address).await != before).then_some(())
        })
        .await;
    }
    assert_ne!(shown(&authority, address).await, first);
    // One that is not in order changes nothing.
    let before = shown(&authority, address).await;
    replace(&authority.file("certificate.pem"), "no certificate");
    let good = || {
        let scrape = gateway.scrape();
        scrape.sum(
            "citygate_tls_certificate_last_reload_successful",
            &[("listener", "mqtt")],
        )
    };
    eventually("it is noticed", async || (good() == 0).then_some(())).await;
    assert_eq!(shown(&authority, address).await, before);
    sent += 1;
    publish(&mut mqtt, sent).await;
    assert_eq!(post().await, 204);
    let scrape = gateway.scrape();
    assert_eq!(scrape.sum("citygate_tls_handshakes_total", &[("result", "failed")]), 0);
    let ends = scrape.sum(
        "citygate_tls_certificate_expiry_timestamp_seconds",
        &[("listener", "mqtt")],
    );
    let in_days = (ends as i64 - jiff::Timestamp::now().as_second()) / (24 * 60 * 60);
    assert!((92..=93).contains(&in_days), "{in_days}");
    drop(mqtt);
    gateway.finish().await;
}

/// The certificate for the name that a client asks for, whichever of them changes; the first one for those that ask for another.
#[tokio::test(flavor = "multi_thread")]
async fn each_name_has_its_certificate_and_each_certificate_is_replaced_alone() {
    let authority = Authority::new();
    authority.issue(90);
    authority.issue_for(&["north.city.example", "*.north.city.example"], "north-", 60);
    let gateway = TestGateway::start(&Broker::any(), |config| {
        authority.use_in(config);
        for tls in [&mut config.mqtt.tls, &mut config.http.tls] {
            let files = |name: &str| ["", "north-"].map(|start| authority.file(&format!("{start}{name}")));
            tls.certificate = files("certificate.pem").into_iter().collect();
            tls.key = files("key.pem").into_iter().collect();
        }
    })
    .await;
    // Who asks for what; the certificate is looked at, not verified.
    let shown = async |address: std::net::SocketAddr, name: &str| {
        let config = authority.client_config(None, rustls::DEFAULT_VERSIONS);
        match certificates::connect(address, config, name).await {
            Ok(stream) => stream.get_ref().1.peer_certificates().unwrap()[0].to_vec(),
            // It has another name.
            Err(_) => Vec::new(),
        }
    };
    let (mqtt, http) = (gateway.addresses.mqtt_tls.unwrap(), gateway.addresses.http_tls.unwrap());
    for address in [mqtt, http] {
        let (first, north) = (
            shown(address, "localhost").await,
            shown(address, "north.city.example").await,
        );
        assert!(!first.is_empty() && !north.is_empty() && first != north);
        assert_eq!(shown(address, "a.north.city.example").await, north);
        for other in ["b.a.north.city.example", "city.example", "xnorth.city.example"] {
            assert!(shown(address, other).await.is_empty(), "{other}");
        }
    }
    let expiry = |start: &str| {
        let file = authority.file(&format!("{start}certificate.pem")).display().to_string();
        let labels = [("listener", "mqtt"), ("certificate", &*file)];
        let ends = gateway
            .scrape()
            .sum("citygate_tls_certificate_expiry_timestamp_seconds", &labels);
        (ends as i64 - jiff::Timestamp::now().as_second()) / (24 * 60 * 60)
    };
    eventually("they are measured", async || (expiry("north-") > 0).then_some(())).await;
    assert!((89..=90).contains(&expiry("")) && (59..=60).contains(&expiry("north-")));
    let (first, north) = (shown(mqtt, "localhost").await, shown(mqtt, "north.city.example").await);
    authority.issue_for(&["north.city.example"], "north-", 70);
    eventually("the new one is shown", async || {
        (shown(mqtt, "north.city.example").await != north).then_some(())
    })
    .await;
    eventually("it is measured", async || (expiry("north-") >= 69).then_some(())).await;
    assert_eq!(shown(mqtt, "localhost").await, first);
    // What is wrong with the second is wrong with all: those before stay.
    let north = shown(mqtt, "north.city.example").await;
    replace(&authority.file("north-key.pem"), "no key");
    let good = || {
        gateway
            .scrape()
            .sum("citygate_tls_certificate_last_reload_successful", &[])
    };
    eventually("it is noticed", async || (good() == 0).then_some(())).await;
    assert_eq!(shown(mqtt, "north.city.example").await, north);
    gateway.finish().await;
}

/// Junk, silence, and a plain client: each is closed, and others are served.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_is_closed_and_counted() {
    let authority = Authority::new();
    authority.issue(90);
    let gateway = TestGateway::start(&Broker::any(), |config| {
        authority.use_in(config);
        // Long enough for the good one at the end, on a slow machine too.
        config.mqtt.tls.handshake_timeout = Duration::from_secs(2);
    })
    .await;
    let address = gateway.addresses.mqtt_tls.unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    for junk in [
        &mqtt::connect(Version::V5, "plain")[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x16, 3, 1, 0xFF, 0xFF, 1],
        &[0; 64],
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(junk).await.unwrap();
        // At most an alert.
        let mut told = Vec::new();
        stream.read_to_end(&mut told).await.ok();
        assert!(told.len() <= 7, "{told:02x?}");
    }
    assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
    let handshakes = |result| {
        let labels = [("listener", "mqtt"), ("result", result)];
        gateway.scrape().sum("citygate_tls_handshakes_total", &labels)
    };
    eventually("they are counted", async || {
        (handshakes("failed") >= 3 && handshakes("timed_out") >= 1).then_some(())
    })
    .await;
    let mut mqtt = connected(&authority, &gateway).await;
    publish(&mut mqtt, 1).await;
    drop(mqtt);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_certificate_is_said_before_a_start() {
    let authority = Authority::new();
    let (certificate, key) = (authority.file("certificate.pem"), authority.file("key.pem"));
    let broker = Broker::mock();
    let check = async |change: &dyn Fn(), expected: &str| {
        authority.issue(90);
        change();
        let mut config = gateway::config(&broker, |config| authority.use_in(config));
        let (_, findings) = start::prepare(&mut config).await;
        let errors = findings.errors.iter().map(ToString::to_string);
        let said = errors.chain(findings.warnings).collect::<Vec<_>>().join("\n");
        assert!(said.contains(expected), "{said}\nexpected {expected}");
        assert!(!said.contains("PRIVATE KEY-----\n"), "{said}");
    };
    let write = |file: &Path, text: &str| replace(file, text);
    let second = |config: &mut citygate::operate::config::Config| {
        let tls = &mut config.mqtt.tls;
        tls.certificate = [certificate.clone(), authority.file("second-certificate.pem")]
            .into_iter()
            .collect();
        tls.key = [key.clone(), authority.file("second-key.pem")].into_iter().collect();
    };
    let mut config = gateway::config(&broker, |config| {
        authority.issue(90);
        authority.issue_for(&["second"], "second-", 20);
        authority.use_in(config);
        second(config);
    });
    let (_, findings) = start::prepare(&mut config).await;
    let said = findings.warnings.join("\n");
    assert!(
        findings.errors.is_empty() && said.contains("days more (") && said.contains("second-certificate.pem"),
        "{said}"
    );
    check(
        &|| authority.issue(20),
        "mqtt.tls.certificate: the certificate is valid until ",
    )
    .await;
    check(&|| authority.issue(-1), "mqtt.tls: ").await;
    check(&|| authority.issue(-1), "the certificate was valid until ").await;
    check(
        &|| write(&certificate, ""),
        "certificate.pem has no certificate in PEM form",
    )
    .await;
    check(&|| write(&key, "no key"), "key.pem has no private key in PEM form").await;
    check(
        &|| write(&key, &KeyPair::generate().unwrap().serialize_pem()),
        "is not that of the certificate in ",
    )
    .await;
    check(
        &|| std::fs::remove_file(&key).unwrap(),
        "key.pem cannot be read: No such file",
    )
    .await;
    let swapped = || {
        let text = std::fs::read_to_string(&certificate).unwrap();
        let second = text.rfind("-----BEGIN").unwrap();
        let (own, issuer) = text.split_at(second);
        write(&certificate, &[own, own, issuer].concat());
    };
    check(
        &swapped,
        "certificate 2 of the file is not the issuer of the one before it",
    )
    .await;
}
