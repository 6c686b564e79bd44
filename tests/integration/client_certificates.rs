//! Client certificates: which are accepted, with which alert the others are refused, which device each is, and what a change of
//! authorities, revocation lists and identities does to connections that are open and to sessions that are resumed.
//!
//! The certificates are made by the test; the clients are rustls (MQTT) and native TLS (HTTP).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use citygate::devices::credential::{Key, PasswordHash};
use citygate::listen::tls::ClientCertificates;
use citygate::operate::config::Config;
use citygate::operate::start;
use device_simulators::load;
use device_simulators::uplinks::Protocol;
use device_simulators::uplinks::credentials::Credentials;
use device_simulators::{Fleet, FleetConfig};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, HandshakeKind, SupportedProtocolVersion};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use crate::harness::certificates::{self, Authority, Client, replace};
use crate::harness::mqtt::{self, Mqtt, Reply, Version};
use crate::harness::program::Program;
use crate::harness::{Broker, TEST_TIMEOUT, TestGateway, eventually, free_ports, gateway};

const READING: &[u8] = br#"{"temperature_c": 21.5}"#;
const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// MQTT and HTTP accept certificates of this authority, of which nothing is revoked yet.
fn with_certificates(config: &mut Config, authority: &Authority, how: ClientCertificates) {
    authority.use_in(config);
    authority.issue(90);
    authority.revoke(&[], 30);
    replace(&authority.file("ca.pem"), &authority.pem());
    for tls in [&mut config.mqtt.tls, &mut config.http.tls] {
        tls.client_certificates = how;
        tls.client_ca = Some(authority.file("ca.pem"));
        tls.crl = authority.file("crl.pem").into();
    }
}

fn with_identities(config: &mut Config, folder: &Path, records: &[Value]) {
    write_identities(folder, records);
    config.devices.folder = Some(folder.to_owned());
    config.devices.refusal_delay = Duration::from_millis(100);
}

fn write_identities(folder: &Path, records: &[Value]) {
    let lines = records.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    replace(&folder.join("devices.ndjson"), &lines);
}

async fn connected(config: Arc<ClientConfig>, gateway: &TestGateway) -> std::io::Result<Mqtt<TlsStream<TcpStream>>> {
    let stream = certificates::connect(gateway.addresses.mqtt_tls.unwrap(), config, "localhost").await?;
    Ok(Mqtt::over(stream, Version::V5))
}

/// The answer to a CONNECT over a connection.
async fn login(mqtt: &mut Mqtt<TlsStream<TcpStream>>, user: Option<&str>, password: Option<&str>) -> (u8, String) {
    // No two take each other's session over.
    let id = format!("client-{:08x}", rand::random::<u32>());
    mqtt.write(&mqtt::connect_with_login(mqtt.version, &id, user, password))
        .await;
    timeout(TEST_TIMEOUT, mqtt.connack())
        .await
        .unwrap()
        .expect("it is answered")
}

/// The alert with which a connection is refused; `None`: it is accepted, since a CONNECT over it is answered. In TLS 1.3 a client
/// learns of a refusal when it reads.
async fn alert(address: SocketAddr, config: Arc<ClientConfig>) -> Option<AlertDescription> {
    let error = match certificates::connect(address, config, "localhost").await {
        Err(error) => error,
        Ok(mut stream) => {
            let id = format!("client-{:08x}", rand::random::<u32>());
            let connect = mqtt::connect_with_login(Version::V5, &id, None, None);
            // If it is closed by then, reading says why.
            stream.write_all(&connect).await.ok();
            match timeout(TEST_TIMEOUT, stream.read_u8())
                .await
                .expect("an answer or an alert")
            {
                Ok(first) => {
                    assert_eq!(first, 0x20, "a CONNACK");
                    return None;
                }
                Err(error) => error,
            }
        }
    };
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
        _ => panic!("no alert: {error:?}"),
    }
}

/// When the lists of the MQTT listener should be replaced, by which one sees that they were read again.
fn lists_in_force(gateway: &TestGateway) -> u64 {
    let labels = [("listener", "mqtt")];
    gateway
        .scrape()
        .sum("citygate_tls_crl_next_update_timestamp_seconds", &labels)
}

/// Replaces an authority's list by another, and waits until it is in force. `days`: not those of the list before.
async fn revoke(gateway: &TestGateway, authority: &Authority, clients: &[&Client], days: i64) {
    let before = lists_in_force(gateway);
    authority.revoke(clients, days);
    eventually("the list is read again", async || {
        (lists_in_force(gateway) != before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_foreign_revoked_and_mismatched_certificates_are_refused_each_with_its_alert_and_one_line() {
    use rcgen::ExtendedKeyUsagePurpose;
    let (authority, foreign, namesake) = (Authority::new(), Authority::named("another"), Authority::new());
    let [mqtts] = free_ports();
    let program = Program::start_changed(&Broker::any(), |config| {
        with_certificates(config, &authority, ClientCertificates::Required);
        config.mqtt.tls.listen = Some(SocketAddr::from(([127, 0, 0, 1], mqtts)).into());
    });
    eventually("it is ready", async || {
        program.try_admin("/readyz").await.filter(|said| said.starts_with("ok"))
    })
    .await;
    let days = |before: i64, after: i64| {
        authority.client_with("loop-7", |params| {
            let day = |days: i64| std::time::Duration::from_secs(24 * 60 * 60 * days.unsigned_abs());
            let now = std::time::SystemTime::now();
            let at = |days: i64| if days < 0 { now - day(days) } else { now + day(days) };
            (params.not_before, params.not_after) = (at(before).into(), at(after).into());
        })
    };
    let server = authority.client_with("loop-7", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let (good, revoked) = (authority.client("loop-7"), authority.client("loop-7"));
    let before = program
        .scrape()
        .await
        .sum("citygate_tls_crl_next_update_timestamp_seconds", &[]);
    authority.revoke(&[&revoked], 31);
    eventually("the list is read again", async || {
        let now = program
            .scrape()
            .await
            .sum("citygate_tls_crl_next_update_timestamp_seconds", &[]);
        (now != before).then_some(())
    })
    .await;
    let address = ([127, 0, 0, 1], mqtts).into();
    let table = [
        (None, Some(AlertDescription::CertificateRequired), "missing"),
        (
            Some(days(-100, -1)),
            Some(AlertDescription::CertificateExpired),
            "expired",
        ),
        (
            Some(days(1, 100)),
            Some(AlertDescription::CertificateExpired),
            "not_yet_valid",
        ),
        (
            Some(foreign.client("loop-7")),
            Some(AlertDescription::UnknownCA),
            "unknown_issuer",
        ),
        // It has the name of the authority, and another key.
        (
            Some(namesake.client("loop-7")),
            Some(AlertDescription::UnknownCA),
            "unknown_issuer",
        ),
        (Some(revoked), Some(AlertDescription::CertificateRevoked), "revoked"),
        (
            Some(good.clone().without_key()),
            Some(AlertDescription::DecryptError),
            "bad_signature",
        ),
        (
            Some(server),
            Some(AlertDescription::UnsupportedCertificate),
            "wrong_purpose",
        ),
        (Some(good), None, ""),
    ];
    for (client, expected, reason) in &table {
        for version in BOTH {
            let config = authority.client_config(client.as_ref(), &[version]);
            let told = alert(address, config).await;
            // A forged signature is another authority's to some, and a signature that is wrong to others.
            let is_forged = *reason == "unknown_issuer" && told == Some(AlertDescription::DecryptError);
            assert!(told == *expected || is_forged, "{version:?} {reason}: {told:?}");
        }
    }
    let (said, scrape) = (program.said(), program.scrape().await);
    for (_, _, reason) in table.iter().filter(|row| !row.2.is_empty()) {
        let lines = said
            .lines()
            .filter(|line| line.contains("a client certificate is refused"));
        let lines: Vec<_> = lines.filter(|line| line.contains(&format!("\"{reason}\""))).collect();
        assert_eq!(lines.len(), 1, "{reason}: {said}");
        assert!(
            lines[0].contains("127.0.0.1:") && lines[0].contains("mqtt"),
            "{}",
            lines[0]
        );
        let labels = [("listener", "mqtt"), ("reason", reason)];
        assert!(
            scrape.sum("citygate_tls_client_certificates_refused_total", &labels) >= 2,
            "{reason}"
        );
    }
    assert!(!said.contains("PRIVATE KEY"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_its_device_and_what_is_said_besides_must_agree() {
    let (authority, folder, key) = (Authority::new(), tempfile::tempdir().unwrap(), Key::generate());
    let by_fingerprint = authority.client("whatever");
    let fingerprint = citygate::devices::certificate::CertificateName::fingerprint(&by_fingerprint.certificate);
    let by_name = authority.client_with("x", |params| {
        let name = rcgen::string::Ia5String::try_from("urn:dev:8").unwrap();
        params.subject_alt_names = vec![rcgen::SanType::URI(name)];
    });
    let records = [
        json!({"id": "loop-7", "certificates": ["cn:loop-7"], "keys": [key.hash()], "kinds": ["weather"]}),
        json!({"id": "loop-8", "certificates": ["uri:urn:dev:8"]}),
        json!({"id": "loop-9", "certificates": [fingerprint]}),
        json!({"id": "off", "certificates": ["subject:CN=off"], "disabled": true}),
    ];
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_certificates(config, &authority, ClientCertificates::Optional);
        with_identities(config, folder.path(), &records);
    })
    .await;
    let (loop_7, nobody, off) = (
        authority.client("loop-7"),
        authority.client("nobody"),
        authority.client("off"),
    );
    let port = gateway.addresses.http_tls.unwrap().port();
    let key = key.reveal();
    let wrong = "unknown device, or wrong key, password or certificate";
    // Who shows what and says what, for which device it writes, and the answers of MQTT 5 (CONNACK or PUBACK) and HTTP.
    type Says<'a> = (Option<&'a str>, Option<&'a str>);
    type Row<'a> = (Option<&'a Client>, Says<'a>, &'a str, u8, u16, &'a str);
    let table: &[Row<'_>] = &[
        (Some(&loop_7), (None, None), "loop-7", 0, 204, ""),
        (Some(&loop_7), (Some("loop-7"), None), "loop-7", 0, 204, ""),
        (Some(&loop_7), (Some("loop-7"), Some(key)), "loop-7", 0, 204, ""),
        (Some(&by_name), (None, None), "loop-8", 0, 204, ""),
        (Some(&by_fingerprint), (None, None), "loop-9", 0, 204, ""),
        (None, (Some("loop-7"), Some(key)), "loop-7", 0, 204, ""),
        (
            Some(&loop_7),
            (None, None),
            "loop-8",
            0x87,
            403,
            "device loop-7 may not write for loop-8",
        ),
        (Some(&loop_7), (Some("loop-8"), None), "loop-8", 0x86, 401, wrong),
        (
            Some(&loop_7),
            (Some("loop-7"), Some("wrong")),
            "loop-7",
            0x86,
            401,
            wrong,
        ),
        (Some(&by_name), (Some("loop-7"), Some(key)), "loop-7", 0x86, 401, wrong),
        (Some(&by_name), (Some("loop-8"), Some(key)), "loop-8", 0x86, 401, wrong),
        (Some(&nobody), (None, None), "loop-7", 0x86, 401, wrong),
        (Some(&nobody), (Some("loop-7"), Some(key)), "loop-7", 0x86, 401, wrong),
        (Some(&off), (None, None), "off", 0x87, 403, "the device is disabled"),
    ];
    for (client, (user, password), device, v5, status, text) in table {
        let about = format!("{:?} {user:?} for {device}", client.map(|client| &client.pem));
        let config = authority.client_config(*client, &[&TLS12, &TLS13]);
        let mut mqtt = connected(config, &gateway).await.unwrap();
        let mut told = login(&mut mqtt, *user, *password).await;
        if told.0 == 0 {
            mqtt.publish(1, &format!("devices/{device}/weather"), "", READING).await;
            let Reply::PubAck { reason, text, .. } = mqtt.read().await else {
                panic!("{about}")
            };
            told = (reason, text);
        }
        assert_eq!(told, (*v5, (*text).to_owned()), "{about}");
        let http = client.map_or_else(|| authority.http(), |client| client.http(&authority));
        let request = http
            .post(format!("https://localhost:{port}/devices/{device}/weather"))
            .body(READING);
        // Basic has no way to say a user without a password.
        let request = match (user, password) {
            (Some(user), Some(password)) => request.basic_auth(user, Some(password)),
            (Some(_), None) if *status == 401 => continue,
            _ => request,
        };
        let response = request.send().await.unwrap();
        let found = response.status().as_u16();
        let problem: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert_eq!((found, detail), (*status, *text), "{about}");
    }
    gateway.finish().await;
}

/// Publishes, which shows that the connection is open.
async fn publishes(mqtt: &mut Mqtt<TlsStream<TcpStream>>, device: &str) {
    mqtt.publish(1, &format!("devices/{device}/weather"), "", READING).await;
    let answer = timeout(TEST_TIMEOUT, mqtt.read()).await.unwrap();
    assert!(
        matches!(answer, Reply::PubAck { reason: 0, .. }),
        "{device}: {answer:?}"
    );
}

/// Connects, with a session that is resumed if there is one; how it did.
async fn resumes(config: &Arc<ClientConfig>, gateway: &TestGateway) -> (HandshakeKind, (u8, String)) {
    let address = gateway.addresses.mqtt_tls.unwrap();
    let stream = certificates::connect(address, config.clone(), "localhost")
        .await
        .unwrap();
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let mut mqtt = Mqtt::over(stream, Version::V5);
    // With the answer come the tickets of TLS 1.3.
    let told = login(&mut mqtt, None, None).await;
    (kind, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_loses_its_connections_and_cannot_resume_a_session() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let records = [
        json!({"id": "stays", "certificates": ["cn:stays"]}),
        json!({"id": "goes", "certificates": ["cn:goes"]}),
    ];
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_certificates(config, &authority, ClientCertificates::Required);
        with_identities(config, folder.path(), &records);
    })
    .await;
    let (stays, goes) = (authority.client("stays"), authority.client("goes"));
    for (version, days) in BOTH.into_iter().zip([31, 33]) {
        revoke(&gateway, &authority, &[], days).await;
        let [good, bad] = [&stays, &goes].map(|client| authority.client_config(Some(client), &[version]));
        for config in [&good, &bad] {
            resumes(config, &gateway).await;
            let resumed = resumes(config, &gateway).await;
            assert_eq!(resumed, (HandshakeKind::Resumed, (0, String::new())), "{version:?}");
        }
        let mut open = connected(good.clone(), &gateway).await.unwrap();
        let mut ends = connected(bad.clone(), &gateway).await.unwrap();
        assert_eq!(login(&mut open, None, None).await.0, 0);
        assert_eq!(login(&mut ends, None, None).await.0, 0);
        publishes(&mut ends, "goes").await;
        let revoked_at = Instant::now();
        authority.revoke(&[&goes], days + 1);
        let last = timeout(TEST_TIMEOUT, ends.read()).await.unwrap();
        assert!(
            revoked_at.elapsed() < Duration::from_secs(5),
            "{:?}",
            revoked_at.elapsed()
        );
        let text = "the client certificate is not accepted any more".to_owned();
        assert_eq!(last, Reply::Disconnect { reason: 0x98, text });
        assert_eq!(timeout(TEST_TIMEOUT, ends.read()).await.unwrap(), Reply::Closed);
        publishes(&mut open, "stays").await;
        // Its ticket does not help: it is asked for its certificate, and told.
        let told = alert(gateway.addresses.mqtt_tls.unwrap(), bad).await;
        assert_eq!(told, Some(AlertDescription::CertificateRevoked), "{version:?}");
        assert_eq!(resumes(&good, &gateway).await.1.0, 0);
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_session_is_checked_against_the_identities_of_now() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let record = |disabled: bool| [json!({"id": "loop-7", "certificates": ["cn:loop-7"], "disabled": disabled})];
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_certificates(config, &authority, ClientCertificates::Required);
        with_identities(config, folder.path(), &record(false));
    })
    .await;
    let client = authority.client("loop-7");
    let config = authority.client_config(Some(&client), &[&TLS13]);
    resumes(&config, &gateway).await;
    assert_eq!(
        resumes(&config, &gateway).await,
        (HandshakeKind::Resumed, (0, String::new()))
    );
    let mut open = connected(config.clone(), &gateway).await.unwrap();
    assert_eq!(login(&mut open, None, None).await.0, 0);
    write_identities(folder.path(), &record(true));
    let last = timeout(Duration::from_secs(5), open.read()).await.expect("within 5 s");
    assert!(matches!(last, Reply::Disconnect { reason: 0x98, .. }), "{last:?}");
    let (kind, told) = resumes(&config, &gateway).await;
    assert_eq!(
        (kind, told),
        (HandshakeKind::Resumed, (0x87, "the device is disabled".to_owned()))
    );
    // It has another certificate from now on.
    write_identities(
        folder.path(),
        &[json!({"id": "loop-7", "certificates": ["cn:loop-77"]})],
    );
    eventually("they are read again", async || {
        (resumes(&config, &gateway).await.1.0 == 0x86).then_some(())
    })
    .await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_connection_ends_with_its_certificate() {
    let authority = Authority::new();
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_certificates(config, &authority, ClientCertificates::Required);
    })
    .await;
    let client = authority.client("loop-7");
    let config = authority.client_config(Some(&client), &[&TLS13]);
    let address = gateway.addresses.http_tls.unwrap();
    let mut open = certificates::connect(address, config.clone(), "localhost")
        .await
        .unwrap();
    let request = "POST /devices/roof/weather HTTP/1.1\r\nhost: localhost\r\ncontent-length: 23\r\n\r\n";
    let sent = [request.as_bytes(), READING].concat();
    open.write_all(&sent).await.unwrap();
    let mut start = [0; 12];
    open.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 204");
    authority.revoke(&[&client], 30);
    let ended = timeout(Duration::from_secs(5), open.read_to_end(&mut Vec::new())).await;
    ended.expect("within 5 s").ok();
    assert_eq!(alert(address, config).await, Some(AlertDescription::CertificateRevoked));
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_are_replaced_without_dropping_a_session_and_bad_files_change_nothing() {
    let (old, new) = (Authority::named("old"), Authority::named("new"));
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_certificates(config, &old, ClientCertificates::Required);
        new.revoke(&[], 30);
        config.mqtt.tls.crl = [old.file("crl.pem"), new.file("crl.pem")].into_iter().collect();
    })
    .await;
    let address = gateway.addresses.mqtt_tls.unwrap();
    let [before, after] = [&old, &new].map(|authority| old.client_config(Some(&authority.client("a")), &[&TLS13]));
    let mut open = connected(before.clone(), &gateway).await.unwrap();
    assert_eq!(login(&mut open, None, None).await.0, 0);
    assert_eq!(alert(address, after.clone()).await, Some(AlertDescription::UnknownCA));
    // Both for a while: the old one goes on, the new one is accepted.
    replace(&old.file("ca.pem"), &(old.pem() + &new.pem()));
    eventually("the new one is accepted", async || {
        publishes(&mut open, "roof").await;
        alert(address, after.clone()).await.is_none().then_some(())
    })
    .await;
    let mut newer = connected(after.clone(), &gateway).await.unwrap();
    assert_eq!(login(&mut newer, None, None).await.0, 0);
    // What is not in order changes nothing, and is said.
    let good = || {
        gateway.scrape().sum(
            "citygate_tls_certificate_last_reload_successful",
            &[("listener", "mqtt")],
        )
    };
    let (ca, list) = (old.file("ca.pem"), old.file("crl.pem"));
    let (ca_text, list_text) = [&ca, &list].map(|file| std::fs::read_to_string(file).unwrap()).into();
    let other = Authority::named("old");
    other.revoke(&[], 30);
    let forged = std::fs::read_to_string(other.file("crl.pem")).unwrap();
    for (file, bad, text, said) in [
        (&ca, "no certificate", &ca_text, "has no certificate in PEM form"),
        (&ca, &*old.client("a").pem, &ca_text, "is not that of an authority"),
        (&list, "", &list_text, "has no certificate revocation list"),
        (
            &list,
            &*forged,
            &list_text,
            "is not signed by the authority that it names",
        ),
    ] {
        replace(file, bad);
        eventually("it is noticed", async || (good() == 0).then_some(())).await;
        let status: Value = serde_json::from_str(&gateway.admin("/status").await.1).unwrap();
        let mistake = status["tls"]["mqtt"]["mistake"].as_str().unwrap_or_default();
        assert!(mistake.contains(said), "{mistake}");
        publishes(&mut open, "roof").await;
        publishes(&mut newer, "roof").await;
        assert_eq!(alert(address, before.clone()).await, None);
        replace(file, text);
        eventually("it is in order again", async || (good() == 1).then_some(())).await;
    }
    // The old one is over.
    replace(&ca, &new.pem());
    let last = timeout(Duration::from_secs(5), open.read()).await.expect("within 5 s");
    assert!(matches!(last, Reply::Disconnect { reason: 0x98, .. }), "{last:?}");
    publishes(&mut newer, "roof").await;
    assert_eq!(alert(address, before).await, Some(AlertDescription::UnknownCA));
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_has_a_new_key_and_its_old_name_and_clients_of_both_keys_are_accepted() {
    let (old, new) = (Authority::new(), Authority::new());
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_certificates(config, &old, ClientCertificates::Required);
        new.revoke(&[], 60);
        replace(&old.file("ca.pem"), &(old.pem() + &new.pem()));
        config.mqtt.tls.crl = [old.file("crl.pem"), new.file("crl.pem")].into_iter().collect();
        config.http.tls.crl = config.mqtt.tls.crl.clone();
    })
    .await;
    let address = gateway.addresses.mqtt_tls.unwrap();
    let connects = async |client: &Client| alert(address, old.client_config(Some(client), &[&TLS13])).await;
    for (authority, days) in [(&old, 31), (&new, 61)] {
        let [stays, goes] = ["stays", "goes"].map(|name| authority.client(name));
        assert_eq!(connects(&stays).await, None);
        assert_eq!(connects(&goes).await, None);
        let mut open = connected(old.client_config(Some(&stays), &[&TLS13]), &gateway)
            .await
            .unwrap();
        assert_eq!(login(&mut open, None, None).await.0, 0);
        revoke(&gateway, authority, &[&goes], days).await;
        assert_eq!(connects(&goes).await, Some(AlertDescription::CertificateRevoked));
        assert_eq!(connects(&stays).await, None);
        publishes(&mut open, "roof").await;
    }
    // A third key under the same name is nobody's.
    let told = connects(&Authority::new().client("stays")).await;
    assert!(
        matches!(told, Some(AlertDescription::UnknownCA | AlertDescription::DecryptError)),
        "{told:?}"
    );
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_when_its_certificate_does() {
    let authority = Authority::new();
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_certificates(config, &authority, ClientCertificates::Required);
    })
    .await;
    let (lasts, client) = (
        authority.client("roof"),
        authority.client_with("loop-7", |params| {
            params.not_after = (std::time::SystemTime::now() + Duration::from_secs(10)).into();
        }),
    );
    let [mut stays, mut ends] = [
        connected(authority.client_config(Some(&lasts), &[&TLS13]), &gateway)
            .await
            .unwrap(),
        connected(authority.client_config(Some(&client), &[&TLS13]), &gateway)
            .await
            .unwrap(),
    ];
    assert_eq!(login(&mut stays, None, None).await.0, 0);
    assert_eq!(login(&mut ends, None, None).await.0, 0);
    publishes(&mut ends, "loop-7").await;
    let last = timeout(TEST_TIMEOUT, ends.read()).await.unwrap();
    assert!(matches!(last, Reply::Disconnect { reason: 0x98, .. }), "{last:?}");
    publishes(&mut stays, "roof").await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_authorities_and_lists_is_said_before_a_start() {
    let (authority, broker) = (Authority::new(), Broker::mock());
    let check = async |change: &dyn Fn(), expected: &str| {
        let mut config = gateway::config(&broker, |config| {
            with_certificates(config, &authority, ClientCertificates::Required);
        });
        change();
        let (_, findings) = start::prepare(&mut config).await;
        let errors = findings.errors.iter().map(ToString::to_string);
        let said = errors.chain(findings.warnings).collect::<Vec<_>>().join("\n");
        assert!(said.contains(expected), "{said}\nexpected {expected}");
    };
    let (ca, list) = (authority.file("ca.pem"), authority.file("crl.pem"));
    check(&|| replace(&ca, ""), "ca.pem has no certificate in PEM form").await;
    check(&|| replace(&list, "junk"), "crl.pem has no certificate revocation list").await;
    let both = || replace(&ca, &(authority.pem() + &Authority::named("second").pem()));
    check(&both, "crl: no file has a revocation list of CN=second").await;
    check(&|| authority.revoke(&[], -1), "crl.pem should have been replaced by ").await;
    check(
        &|| std::fs::remove_file(&list).unwrap(),
        "crl.pem cannot be read: No such file",
    )
    .await;
}

/// A file of keys and passwords and a folder of certificates for devices, each of which has one of the three in turn, and the
/// records that the gateway knows them by.
fn prove_in_turn(authority: &Authority, folder: &Path, devices: &[(String, String)]) -> (Vec<Value>, Credentials) {
    let (mut records, mut secrets) = (Vec::new(), String::new());
    for (number, (id, kind)) in devices.iter().enumerate() {
        let mut record = json!({"id": id, "kinds": [kind]});
        match number % 3 {
            0 => {
                let key = Key::generate();
                record["keys"] = json!([key.hash()]);
                secrets += &format!("{}\n", json!({"id": id, "key": key.reveal()}));
            }
            1 => {
                record["passwords"] = json!([PasswordHash::of(id.as_bytes()).unwrap()]);
                secrets += &format!("{}\n", json!({"id": id, "password": id}));
            }
            _ => {
                record["certificates"] = json!([format!("cn:{id}")]);
                let client = authority.client(id);
                std::fs::write(folder.join(format!("{id}.pem")), client.pem).unwrap();
                std::fs::write(folder.join(format!("{id}.key")), client.key_pem).unwrap();
            }
        }
        records.push(record);
    }
    let (keys, trusted) = (folder.join("keys.ndjson"), folder.join("trusted.pem"));
    std::fs::write(&keys, secrets).unwrap();
    std::fs::write(&trusted, authority.pem()).unwrap();
    let credentials = Credentials::read(Some(&keys), Some(&trusted)).unwrap();
    (records, credentials.with_certificates(folder).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_and_a_load_prove_themselves_with_keys_passwords_and_certificates_over_tls() {
    let authority = Authority::new();
    let (folder, shown) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let somewhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let fleet = FleetConfig {
        devices: 18,
        interval: Duration::from_millis(100),
        mqtt: Some(somewhere),
        http: Some(somewhere),
        ..FleetConfig::default()
    };
    let mut load = load::Settings {
        targets: vec![(Protocol::Mqtt, somewhere), (Protocol::Http, somewhere)],
        connections: 18,
        steady: Duration::from_secs(1),
        ..load::Settings::default()
    };
    let mut devices = fleet.device_names(&[Protocol::Mqtt, Protocol::Http]);
    let of_load = (0..load.connections).map(|index| load.device(index, 2));
    devices.extend(of_load.map(|(device, kind)| (device.name().to_owned(), kind)));
    let (records, credentials) = prove_in_turn(&authority, shown.path(), &devices);
    let credentials = Arc::new(credentials);
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_certificates(config, &authority, ClientCertificates::Optional);
        with_identities(config, folder.path(), &records);
        // All passwords are new to it, and all come at once.
        config.devices.password_checks_max = 64;
    })
    .await;
    let (mqtt, http) = (gateway.addresses.mqtt_tls.unwrap(), gateway.addresses.http_tls.unwrap());
    let fleet = Fleet::start(FleetConfig {
        mqtt: Some(mqtt),
        http: Some(http),
        credentials: Arc::clone(&credentials),
        ..fleet
    })
    .unwrap();
    eventually("the devices have sent", async || {
        (fleet.counters().total().acknowledged > 300).then_some(())
    })
    .await;
    let outcome = fleet.stop().await;
    for account in &outcome.ledger.accounts {
        assert!(
            !account.acknowledged.is_empty() && account.rejected.is_empty(),
            "{account:?}"
        );
    }
    load.targets = vec![(Protocol::Mqtt, mqtt), (Protocol::Http, http)];
    load.device_credentials = credentials;
    let report = load::runner::run(load, Arc::default(), |_, _| {}, std::future::pending())
        .await
        .unwrap();
    for (protocol, line) in &report.by_protocol {
        assert_eq!(line.connections_up, 9, "{protocol}: {line:?}");
        // Whose password is being verified may be told to come again; nobody is told no.
        let is_no = |code: &String| ["401", "403", "PUBACK 0x8"].iter().any(|no| code.starts_with(no));
        assert!(
            line.positive > 9 && !line.answers.keys().any(is_no),
            "{protocol}: {line:?}"
        );
    }
    let scrape = gateway.scrape();
    for reason in ["bad_credential", "disabled", "missing"] {
        assert_eq!(
            scrape.sum("citygate_authentications_refused_total", &[("reason", reason)]),
            0,
            "{reason}"
        );
    }
    gateway.finish().await;
}
