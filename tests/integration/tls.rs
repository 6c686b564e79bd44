//! TLS: readings over it are as safe as over plain TCP, certificates change without a dropped connection, and what is wrong with
//! one is said before a start.
//!
//! Certificates are made by the test; the clients are rustls (MQTT) and native TLS (HTTP).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use citygate::operate::config::Config;
use citygate::operate::start;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::mqtt::{self, Version};
use crate::harness::{Broker, TestGateway, eventually, gateway};

const READING: &[u8] = br#"{"temperature_c": 21.5}"#;

/// An authority, and the folder in which it puts server certificates.
struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        Authority {
            folder: tempfile::tempdir().unwrap(),
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a new certificate and its key, valid until this many days from now.
    fn issue(&self, days: i64) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let now = std::time::SystemTime::now();
        let day = Duration::from_secs(24 * 60 * 60);
        params.not_before = (now - 100 * day).into();
        params.not_after = match u32::try_from(days) {
            Ok(days) => now + day * days,
            Err(_) => now - day,
        }
        .into();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        // The key first: between the two they do not match, and nothing changes.
        replace(&self.file("key.pem"), &key.serialize_pem());
        replace(&self.file("certificate.pem"), &(certificate.pem() + &self.issuer.pem()));
    }

    fn use_in(&self, config: &mut Config) {
        for tls in [&mut config.mqtt.tls, &mut config.http.tls] {
            tls.listen = Some("127.0.0.1:0".parse().unwrap());
            tls.certificate = Some(self.file("certificate.pem"));
            tls.key = Some(self.file("key.pem"));
        }
    }

    async fn connect(&self, address: std::net::SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    fn http(&self) -> reqwest::Client {
        let root = reqwest::Certificate::from_pem(self.issuer.pem().as_bytes()).unwrap();
        reqwest::Client::builder().add_root_certificate(root).build().unwrap()
    }
}

/// As a whole, as certificate tools do it.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}

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
