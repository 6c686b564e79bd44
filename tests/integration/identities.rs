//! Who may speak, on every protocol: identities from files, credentials, what each may write, and how a connection ends whose
//! identity changes.
//!
//! Tables of (protocol, who, credential, address) and the exact answer. Refusals are told in the protocol's words, and nothing that
//! a stranger sends is kept.

use std::time::Duration;

use citygate::devices::credential::Key;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::harness::mqtt::{self, Mqtt, Reply, Version};
use crate::harness::program::Program;
use crate::harness::senders::{
    DISABLED, Keys, MISSING, PASSWORD, READING, Says, WRONG, keys, send, send_to, with_identities, write_identities,
};
use crate::harness::{Broker, TEST_TIMEOUT, TestGateway, Via, eventually};

/// Who connects a device finds out why it is refused, though 3.1.1 tells it nothing. What it may not write is kept, as all that is
/// rejected; of strangers nothing is.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_listed_and_counted_and_of_strangers_nothing_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    write_identities(folder.path());
    let gateway = TestGateway::start(&Broker::any(), |config| with_identities(config, folder.path())).await;
    let Keys { north, off, .. } = keys();
    let (off, own) = (off.reveal(), "devices/loop-7/weather");
    let table: &[(Via, Says<'_>, &str)] = &[
        (Via::Mqtt311, Says::Login("north", north.reveal()), "PUBACK"),
        (Via::Http, Says::Login("off", off), "403 the device is disabled"),
        (Via::Mqtt311, Says::Login("off", off), "CONNACK 0x05"),
        (Via::Mqtt311, Says::Login("off", "wrong"), "CONNACK 0x04"),
        (Via::Mqtt311, Says::Login("loop-7", off), "CONNACK 0x04"),
        (Via::Http, Says::Key("cgk_none"), &format!("401 {WRONG}")),
        (Via::Http, Says::Nothing, &format!("401 {MISSING}")),
        (Via::Mqtt311, Says::Nothing, "CONNACK 0x05"),
        (
            Via::Coap,
            Says::Nothing,
            "4.01 only devices that prove who they are may write here",
        ),
    ];
    for &(via, says, expected) in table {
        assert_eq!(send(&gateway, via, says, own).await, expected, "{via:?} {says:?}");
    }
    let status: serde_json::Value = serde_json::from_str(&gateway.admin("/status").await.1).unwrap();
    let refusals = status["recent_refusals"].as_array().unwrap();
    let of = |sender: &str| refusals.iter().find(|refused| refused["sender"] == sender).unwrap();
    assert_eq!(of("north")["detail"], "device north may not write for loop-7");
    assert_eq!(
        (&of("off")["reason"], &of("(unknown)")["peer"].is_string()),
        (&json!("bad_credential"), &true)
    );
    assert_eq!(of("loop-7")["times"], 1);
    let letters = gateway.dead_letters();
    let kept: Vec<_> = letters.iter().map(|letter| letter.header("reason")).collect();
    assert_eq!(kept, ["forbidden"]);
    let scrape = gateway.scrape();
    let refused = |reason| scrape.sum("citygate_authentications_refused_total", &[("reason", reason)]);
    let all = ["disabled", "missing", "bad_credential", "busy"].map(refused);
    assert_eq!(all, [2, 2, 3, 0]);
    assert_eq!(scrape.sum("citygate_devices", &[]), 4);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_somebody_chose_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    write_identities(folder.path());
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_identities(config, folder.path());
        // Until then it must be verified, on a slow machine too.
        config.devices.refusal_delay = Duration::from_secs(5);
    })
    .await;
    let path = "devices/mast/weather";
    let check = async |via, password, expected: &str| {
        let answer = send(&gateway, via, Says::Login("mast", password), path).await;
        assert_eq!(answer, expected, "{via:?}");
    };
    // The first is verified slowly, the others are known by then.
    check(Via::Mqtt5, PASSWORD, "0x00").await;
    check(Via::Mqtt311, PASSWORD, "PUBACK").await;
    check(Via::Http, PASSWORD, "204").await;
    let (mqtt, http) = (format!("CONNACK 0x86 {WRONG}"), format!("401 {WRONG}"));
    tokio::join!(
        check(Via::Mqtt5, "Correct horse", &mqtt),
        check(Via::Mqtt311, "", "CONNACK 0x04"),
        check(Via::Http, "correct horse ", &http),
    );
    gateway.finish().await;
}

/// Connects as loop-7.
async fn connect(gateway: &TestGateway, client_id: &str, id: &str, key: &str) -> Mqtt {
    let mut mqtt = Mqtt::unconnected(gateway.addresses.mqtt.unwrap(), Version::V5).await;
    mqtt.write(&mqtt::connect_with_login(Version::V5, client_id, Some(id), Some(key)))
        .await;
    assert_eq!(mqtt.connack().await, Some((0, String::new())));
    mqtt
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_files_reaches_live_connections_and_a_mistake_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    write_identities(folder.path());
    let gateway = TestGateway::start(&Broker::any(), |config| with_identities(config, folder.path())).await;
    let (loop_7, north) = (keys().loop_7.reveal(), keys().north.reveal());
    let mut stays = connect(&gateway, "a", "north", north).await;
    let mut goes = connect(&gateway, "a", "loop-7", loop_7).await;
    // The same client id is another session: neither has ended the other.
    goes.publish(1, "devices/loop-7/weather", "", READING).await;
    assert!(matches!(goes.read().await, Reply::PubAck { reason: 0, .. }));
    // A file with a mistake: those before stay in force, and it is said.
    let city = folder.path().join("city.toml");
    let before = std::fs::read_to_string(&city).unwrap();
    std::fs::write(&city, before.replace("kinds", "kind")).unwrap();
    eventually("the mistake is said", async || {
        let status: serde_json::Value = serde_json::from_str(&gateway.admin("/status").await.1).unwrap();
        let said = status["devices"]["mistakes"].as_str()?;
        said.contains("city.toml:1: unknown field `kind`").then_some(())
    })
    .await;
    assert_eq!(gateway.scrape().sum("citygate_devices_last_reload_successful", &[]), 0);
    goes.publish(1, "devices/loop-7/weather", "", READING).await;
    assert!(matches!(goes.read().await, Reply::PubAck { reason: 0, .. }));
    // No file at all is a mistake as well: a disk that is not mounted would lock out everybody.
    let gone = tempfile::tempdir_in(folder.path()).unwrap();
    let north_path = folder.path().join("north.ndjson");
    for file in [&city, &north_path] {
        std::fs::rename(file, gone.path().join(file.file_name().unwrap())).unwrap();
    }
    eventually("the missing files are said", async || {
        let status: serde_json::Value = serde_json::from_str(&gateway.admin("/status").await.1).unwrap();
        let said = status["devices"]["mistakes"].as_str()?;
        said.contains("has no file *.toml or *.ndjson any more").then_some(())
    })
    .await;
    stays.publish(1, "devices/mast-3/weather", "", READING).await;
    assert!(matches!(stays.read().await, Reply::PubAck { reason: 0, .. }));
    std::fs::rename(gone.path().join("north.ndjson"), &north_path).unwrap();
    // Another key: whoever came with the old one is told to go, the others stay.
    let new = Key::generate();
    let changed = before.replace(&keys().loop_7.hash().to_string(), &new.hash().to_string());
    std::fs::write(&city, changed).unwrap();
    let told = timeout(Duration::from_secs(5), goes.read()).await.expect("within 5 s");
    assert_eq!(
        told,
        Reply::Disconnect {
            reason: 0x98,
            text: WRONG.to_owned()
        }
    );
    assert_eq!(goes.read().await, Reply::Closed);
    let old = Says::Login("loop-7", loop_7);
    assert_eq!(
        send(&gateway, Via::Http, old, "devices/loop-7/weather").await,
        format!("401 {WRONG}")
    );
    let rotated = Says::Login("loop-7", new.reveal());
    assert_eq!(
        send(&gateway, Via::Http, rotated, "devices/loop-7/weather").await,
        "204"
    );
    stays.publish(1, "devices/mast-3/weather", "", READING).await;
    assert!(matches!(stays.read().await, Reply::PubAck { reason: 0, .. }));
    // What it may do changes without a new connection.
    let north_file = folder.path().join("north.ndjson");
    let before = std::fs::read_to_string(&north_file).unwrap();
    std::fs::write(&north_file, before.replace("mast-*", "mast-1*")).unwrap();
    eventually("the new rights are in force", async || {
        stays.publish(1, "devices/mast-3/weather", "", READING).await;
        matches!(stays.read().await, Reply::PubAck { reason: 0x87, .. }).then_some(())
    })
    .await;
    // Disabled.
    let before = std::fs::read_to_string(&north_file).unwrap();
    std::fs::write(&north_file, before.replacen("{", r#"{"disabled":true,"#, 1)).unwrap();
    let told = timeout(Duration::from_secs(5), stays.read()).await.expect("within 5 s");
    assert_eq!(
        told,
        Reply::Disconnect {
            reason: 0x98,
            text: DISABLED.to_owned()
        }
    );
    let status: serde_json::Value = serde_json::from_str(&gateway.admin("/status").await.1).unwrap();
    assert_eq!(status["devices"], json!({"known": 4, "mistakes": null}));
    gateway.finish().await;
}

/// A stolen key whose owner never stops sending, and needs no answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_does_not_keep_a_revoked_connection_alive() {
    let folder = tempfile::tempdir().unwrap();
    write_identities(folder.path());
    let gateway = TestGateway::start(&Broker::any(), |config| with_identities(config, folder.path())).await;
    let mqtt = connect(&gateway, "a", "loop-7", keys().loop_7.reveal()).await;
    let (mut read, mut write) = mqtt.into_stream().into_split();
    let publish = mqtt::publish(Version::V5, 0, 0, "devices/loop-7/weather", "", READING).repeat(100);
    let flood = tokio::spawn(async move { while write.write_all(&publish).await.is_ok() {} });
    let city = folder.path().join("city.toml");
    let text = std::fs::read_to_string(&city).unwrap();
    std::fs::write(&city, text.replacen("[[device]]", "[[device]]\ndisabled = true", 1)).unwrap();
    let mut told = Vec::new();
    timeout(Duration::from_secs(5), read.read_to_end(&mut told))
        .await
        .expect("within 5 s")
        .ok();
    flood.await.unwrap();
    assert!(
        told.is_empty() || told.starts_with(&[0xE0]) && told[2] == 0x98,
        "{told:02x?}"
    );
    gateway.finish().await;
}

/// The key of an idempotent request belongs to who sent it.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_the_answer_to_the_request_of_another() {
    let folder = tempfile::tempdir().unwrap();
    write_identities(folder.path());
    let gateway = TestGateway::start(&Broker::any(), |config| with_identities(config, folder.path())).await;
    let url = format!("http://{}/devices/mast-1/weather", gateway.addresses.http.unwrap());
    let post = async |id: &str, key: &Key| {
        let request = reqwest::Client::new()
            .post(&url)
            .header("idempotency-key", "\"the-same\"");
        let request = request.basic_auth(id, Some(key.reveal())).body(READING);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(post("north", &keys().north).await, 204);
    assert_eq!(post("north", &keys().north).await, 204);
    assert_eq!(post("loop-7", &keys().loop_7).await, 403, "not north's answer");
    assert_eq!(gateway.records("weather").len(), 1);
    gateway.finish().await;
}

/// Two thousand identities are read again and again, each time with another device, while readings flow.
#[tokio::test(flavor = "multi_thread")]
async fn no_good_reading_is_refused_while_identities_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    write_identities(folder.path());
    let gateway = TestGateway::start(&Broker::any(), |config| with_identities(config, folder.path())).await;
    let others = |round: usize| {
        let ids = 0..2000 + round;
        let lines = ids.map(|id| format!("{{\"id\": \"d{id}\", \"keys\": [\"{}\"]}}\n", Key::generate().hash()));
        lines.collect::<String>()
    };
    let path = "devices/loop-7/weather";
    let loop_7 = keys().loop_7.reveal();
    let mut mqtt = connect(&gateway, "a", "loop-7", loop_7).await;
    let mut sent = 0;
    for round in 0..5 {
        // As an editor or an orchestrator does it: at once.
        let new = folder.path().join(".new");
        std::fs::write(&new, others(round)).unwrap();
        std::fs::rename(&new, folder.path().join("others.ndjson")).unwrap();
        eventually("they are read", async || {
            mqtt.publish(1, path, "", READING).await;
            let answer = mqtt.read().await;
            assert!(matches!(answer, Reply::PubAck { reason: 0, .. }), "{answer:?}");
            assert_eq!(
                send(&gateway, Via::Http, Says::Login("loop-7", loop_7), path).await,
                "204"
            );
            sent += 2;
            let status: serde_json::Value = serde_json::from_str(&gateway.admin("/status").await.1).unwrap();
            (status["devices"]["known"] == 2004 + round).then_some(())
        })
        .await;
    }
    assert!(sent > 10, "readings flowed meanwhile");
    assert_eq!(gateway.scrape().sum("citygate_authentications_refused_total", &[]), 0);
    gateway.finish().await;
}

/// It may write nothing then, of which nobody else would hear.
#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_does_not_exist_is_said_of_its_device_by_check_and_at_each_change() {
    let folder = tempfile::tempdir().unwrap();
    write_identities(folder.path());
    let city = folder.path().join("city.toml");
    let text = std::fs::read_to_string(&city).unwrap();
    let program = Program::start_changed(&Broker::any(), |config| with_identities(config, folder.path()));
    eventually("it is ready", async || {
        program.try_admin("/readyz").await.filter(|said| said.starts_with("ok"))
    })
    .await;
    assert!(!program.said().contains("does not exist"), "{}", program.said());
    std::fs::write(&city, text.replace("\"weather\"", "\"wether\"")).unwrap();
    let expected = format!(
        "{}:1: device loop-7: kinds: \"wether\" does not exist; did you mean weather?; known kinds: ",
        city.display()
    );
    eventually("it is logged", async || {
        program.said().contains(&expected).then_some(())
    })
    .await;
    assert!(
        program.check().contains(&format!("devices: {expected}")),
        "{}",
        program.check()
    );
}

/// Nobody who reads the log at its most detailed, `/status` or the metrics learns a key, a password, or a hash.
#[tokio::test(flavor = "multi_thread")]
async fn no_credential_is_shown_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    write_identities(folder.path());
    let program = Program::start_changed(&Broker::any(), |config| {
        with_identities(config, folder.path());
        config.log.level = "trace".into();
        config.coap.key_in_query = true;
    });
    eventually("it is ready", async || {
        program.try_admin("/readyz").await.filter(|said| said.starts_with("ok"))
    })
    .await;
    let wrong = "wrong-canary-5c1d";
    let loop_7 = keys().loop_7.reveal();
    for secret in [loop_7, wrong] {
        for version in [Version::V311, Version::V5] {
            let mut mqtt = Mqtt::unconnected(program.addresses.mqtt.unwrap(), version).await;
            mqtt.write(&mqtt::connect_with_login(version, "a", Some("loop-7"), Some(secret)))
                .await;
            mqtt.connack().await.unwrap();
        }
        let url = format!("http://{}/devices/loop-7/weather", program.addresses.http.unwrap());
        let client = reqwest::Client::new();
        for request in [
            client.post(&url).basic_auth("loop-7", Some(secret)),
            client.post(&url).bearer_auth(secret),
        ] {
            request.body(READING).send().await.unwrap();
        }
    }
    for secret in [loop_7, wrong] {
        let says = Says::Key(secret);
        send_to(&program.addresses, Via::Coap, says, "devices/loop-7/weather").await;
    }
    // A mistake beside a credential.
    let city = folder.path().join("city.toml");
    let text = std::fs::read_to_string(&city).unwrap();
    std::fs::write(&city, text.replace("kinds =", "kind =")).unwrap();
    let status = eventually("the mistake is said", async || {
        program
            .try_admin("/status")
            .await
            .filter(|said| said.contains("unknown field"))
    })
    .await;
    let metrics = program.try_admin("/metrics").await.unwrap();
    let said = [program.said(), status, metrics, program.check()].concat();
    let basic = base64(&format!("loop-7:{wrong}"));
    let hash = keys().loop_7.hash().to_string();
    for secret in [loop_7, wrong, &basic, &hash, "$argon2id$"] {
        assert!(!said.contains(secret), "{secret} is shown:\n{said}");
    }
    assert!(said.contains("a sender's credential is refused"), "{said}");
}

fn base64(text: &str) -> String {
    let request = reqwest::Client::new().get("http://localhost").basic_auth(
        text.split_once(':').unwrap().0,
        text.split_once(':').map(|(_, secret)| secret),
    );
    let request = request.build().unwrap();
    request.headers()["authorization"]
        .to_str()
        .unwrap()
        .trim_start_matches("Basic ")
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_beyond_its_rate_is_told_or_not_read_and_slows_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let record = |id: &str, key: &Key, readings_per_second: u32| {
        json!({"id": id, "keys": [key.hash()], "readings_per_second": readings_per_second}).to_string()
    };
    let [loud, paced, calm] = std::array::from_fn(|_| Key::generate());
    let records = [
        record("loud", &loud, 1),
        record("paced", &paced, 20),
        record("calm", &calm, 1000),
    ];
    std::fs::write(folder.path().join("city.ndjson"), records.join("\n")).unwrap();
    let gateway = TestGateway::start(&Broker::any(), |config| with_identities(config, folder.path())).await;
    let url = |path: &str| format!("http://{}/devices/{path}", gateway.addresses.http.unwrap());
    let client = reqwest::Client::new();
    let post = async |path: &str, key: &Key, body: &'static [u8]| {
        let request = client.post(url(path)).bearer_auth(key.reveal()).body(body);
        let response = request.send().await.unwrap();
        let seconds = response.headers().get("retry-after").cloned();
        let seconds: Option<u32> = seconds.map(|value| value.to_str().unwrap().parse().unwrap());
        let status = response.status().as_u16();
        // To make a connection anew would cost the gateway more than to read a few readings.
        let is_closed = status == 429 && body.len() > 4096;
        assert_eq!(
            response.headers().contains_key("connection"),
            is_closed,
            "{status}, {} bytes",
            body.len()
        );
        (status, seconds)
    };

    // Ten seconds' worth at once, and one that makes it more.
    let began = std::time::Instant::now();
    let mut accepted = 0;
    while post("loud/weather", &loud, READING).await.0 == 204 {
        accepted += 1;
        assert!(began.elapsed() < TEST_TIMEOUT, "never refused");
    }
    let most = 11 + began.elapsed().as_secs() + 1;
    assert!((11..=most).contains(&accepted), "{accepted} of at most {most}");
    // A batch is accepted once it may send again, and paid for: forty seconds and more.
    let fifty = format!("[{}]", vec![std::str::from_utf8(READING).unwrap(); 50].join(","));
    let fifty: &'static [u8] = Box::leak(fifty.into_boxed_str()).as_bytes();
    eventually("the batch is accepted", async || {
        (post("loud/weather/batch", &loud, fifty).await.0 == 200).then_some(())
    })
    .await;
    let (status, seconds) = post("loud/weather", &loud, READING).await;
    assert!(
        status == 429 && seconds.is_some_and(|seconds| (30..=62).contains(&seconds)),
        "{seconds:?}"
    );
    let large = [READING, &[b' '; 5000]].concat().leak();
    assert_eq!(post("loud/weather", &loud, large).await.0, 429);
    // It is the device that has a rate, whatever it speaks.
    let says = Says::Login("loud", loud.reveal());
    let answer = send(&gateway, Via::Mqtt5, says, "devices/loud/weather").await;
    assert!(
        answer.starts_with("0x97 more readings than are allowed for this sender"),
        "{answer}"
    );
    assert_eq!(post("calm/weather", &calm, READING).await, (204, None));

    // MQTT 3.1.1 has no word for it, and is not read: nothing of it is refused.
    let mut mqtt = Mqtt::unconnected(gateway.addresses.mqtt.unwrap(), Version::V311).await;
    let connect = mqtt::connect_with_login(Version::V311, "a-client", Some("paced"), Some(paced.reveal()));
    mqtt.write(&connect).await;
    assert_eq!(mqtt.connack().await.map(|(code, _)| code), Some(0));
    let began = std::time::Instant::now();
    let sent = 240;
    for _ in 0..sent {
        mqtt.publish(1, "devices/paced/weather", "", READING).await;
    }
    for _ in 0..sent {
        assert!(matches!(mqtt.read().await, Reply::PubAck { .. }));
    }
    let elapsed = began.elapsed();
    // The first 201 are the burst; the others come at 20 a second.
    assert!(elapsed >= Duration::from_millis(1800), "{elapsed:?}");
    let scrape = gateway.scrape();
    let paused = scrape.sum("citygate_mqtt_reading_paused_total", &[("reason", "over_rate")]);
    assert!(paused > 0);
    assert_eq!(scrape.sum("citygate_readings_busy_total", &[("reason", "draining")]), 0);
    // Who connects it finds out why it is slow.
    let status: serde_json::Value = serde_json::from_str(&gateway.admin("/status").await.1).unwrap();
    let refusals = status["recent_refusals"].as_array().unwrap();
    let of = |sender: &str| refusals.iter().find(|refused| refused["sender"] == sender).unwrap();
    assert_eq!(
        (&of("paced")["reason"], &of("loud")["reason"]),
        (&json!("over_rate"), &json!("over_rate"))
    );
    gateway.finish().await;
}

/// A 3.1.1 connection that is not read since its device has sent too much, and then must not be answered any more, is closed all the
/// same.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_over_its_rate_and_busy_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let key = Key::generate();
    let record = json!({"id": "loud", "keys": [key.hash()], "readings_per_second": 1});
    std::fs::write(folder.path().join("city.ndjson"), record.to_string()).unwrap();
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_identities(config, folder.path());
        config.limits.dead_letters_per_minute = 1;
    })
    .await;
    let mut mqtt = Mqtt::unconnected(gateway.addresses.mqtt.unwrap(), Version::V311).await;
    let connect = mqtt::connect_with_login(Version::V311, "a-client", Some("loud"), Some(key.reveal()));
    mqtt.write(&connect).await;
    assert_eq!(mqtt.connack().await.map(|(code, _)| code), Some(0));
    // All at once: the first of what it may not write is kept, the next is busy, and the last are beyond its rate.
    let publishes = (1..=15).map(|id| mqtt::publish(Version::V311, 1, id, "devices/other/weather", "", READING));
    mqtt.write(&publishes.collect::<Vec<_>>().concat()).await;
    let ended = timeout(TEST_TIMEOUT, async {
        while !matches!(mqtt.read().await, Reply::Closed) {}
    });
    ended.await.expect("the connection is closed");
    let closed = gateway
        .scrape()
        .sum("citygate_mqtt_closed_total", &[("reason", "busy")]);
    assert_eq!(closed, 1);
    gateway.finish().await;
}
