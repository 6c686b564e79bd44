//! What one sender does costs no other anything: in the memory for sessions, idempotency keys and refusals, in the passwords that are
//! verified, in the allowance of dead letters.
//!
//! Every table is bounded and small here, so that one sender can fill it.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::clients::send_exactly_once;
use crate::harness::mqtt::{self, Mqtt, Version};
use crate::harness::senders::{PASSWORD, READING, Says, WRONG, keys, send, send_to, with_identities, write_identities};
use crate::harness::{Broker, TestGateway, Via, eventually};

/// loop-7's reading of a kind that it may not write at first.
const TRAFFIC: &[u8] = br#"{"vehicle_count": 12}"#;

fn identities() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_identities(folder.path());
    folder
}

/// Connects to a session that is kept, and says whether it was present.
async fn resume(gateway: &TestGateway, client_id: &str, id: &str, key: &str) -> (Mqtt, bool) {
    let mut connect = mqtt::connect_with_login(Version::V311, client_id, Some(id), Some(key));
    // Not a clean session; the flags are behind the fixed header, the protocol's name and its level.
    connect[2 + 6 + 1] &= !0b10;
    let address = gateway.addresses.mqtt.unwrap();
    let mut stream = Mqtt::unconnected(address, Version::V311).await.into_stream();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &connect)
        .await
        .unwrap();
    let (_, body) = mqtt::frame(&mut stream).await.unwrap();
    assert_eq!(body[1], 0, "the CONNECT is accepted: {body:?}");
    (Mqtt::over(stream, Version::V311), body[0] == 1)
}

/// Leaves a session behind.
async fn leave(gateway: &TestGateway, client_id: &str, id: &str, key: &str) {
    let kept = || gateway.scrape().sum("citygate_mqtt_connections", &[]);
    let (mut mqtt, _) = resume(gateway, client_id, id, key).await;
    mqtt.write(&mqtt::DISCONNECT).await;
    drop(mqtt);
    eventually("it is disconnected", async || (kept() == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_identity_pushes_out_no_session_but_its_own() {
    let folder = identities();
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_identities(config, folder.path());
        config.mqtt.sessions_max = 4;
    })
    .await;
    let (loop_7, north) = (keys().loop_7.reveal(), keys().north.reveal());
    leave(&gateway, "a", "loop-7", loop_7).await;
    for number in 0..6 {
        leave(&gateway, &format!("client-{number}"), "north", north).await;
    }
    assert_eq!(gateway.scrape().sum("citygate_mqtt_sessions_kept", &[]), 4);
    assert!(resume(&gateway, "a", "loop-7", loop_7).await.1, "its session is kept");
    assert!(resume(&gateway, "client-5", "north", north).await.1, "the newest is");
    assert!(
        !resume(&gateway, "client-0", "north", north).await.1,
        "the oldest is not"
    );
    gateway.finish().await;
}

async fn post(gateway: &TestGateway, (id, key): (&str, &str), path: &str, idempotency_key: &str, body: &[u8]) -> u16 {
    let url = format!("http://{}/{path}", gateway.addresses.http.unwrap());
    let request = reqwest::Client::new().post(url).body(body.to_vec());
    let request = request
        .header("idempotency-key", idempotency_key)
        .basic_auth(id, Some(key));
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_identity_pushes_out_no_idempotency_key_but_its_own() {
    let folder = identities();
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_identities(config, folder.path());
        config.http.idempotency_keys_max = 4;
    })
    .await;
    let (loop_7, north) = (("loop-7", keys().loop_7.reveal()), ("north", keys().north.reveal()));
    assert_eq!(
        post(&gateway, loop_7, "devices/loop-7/weather", "mine", READING).await,
        204
    );
    for number in 0..8 {
        let key = format!("key-{number}");
        assert_eq!(post(&gateway, north, "devices/north/weather", &key, READING).await, 204);
    }
    assert_eq!(
        post(&gateway, loop_7, "devices/loop-7/weather", "mine", READING).await,
        204
    );
    let of_loop_7 = gateway
        .records("weather")
        .iter()
        .filter(|record| record.key == "loop-7")
        .count();
    assert_eq!(of_loop_7, 1, "it is answered again, and not passed on again");
    gateway.finish().await;
}

/// Once the identity is mended the same request is judged anew.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_may_not_write_is_not_remembered_by_its_idempotency_key() {
    let folder = identities();
    let gateway = TestGateway::start(&Broker::any(), |config| with_identities(config, folder.path())).await;
    let loop_7 = ("loop-7", keys().loop_7.reveal());
    let path = "devices/loop-7/traffic";
    assert_eq!(post(&gateway, loop_7, path, "the-same", TRAFFIC).await, 403);
    change(
        &folder.path().join("city.toml"),
        "kinds = [\"weather\"]",
        "kinds = [\"traffic\"]",
    );
    eventually("it is judged anew", async || {
        (post(&gateway, loop_7, path, "the-same", TRAFFIC).await == 204).then_some(())
    })
    .await;
    assert_eq!(post(&gateway, loop_7, path, "the-same", TRAFFIC).await, 204);
    assert_eq!(gateway.records("traffic").len(), 1, "what is safe is remembered");
    gateway.finish().await;
}

fn change(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(file, text.replace(from, to)).unwrap();
}

/// Of QoS 2 all that is rejected is kept, since a later connection may ask again in 3.1.1. What may not be written is not kept beyond
/// the allowance, and MQTT 5 is told that it may not, rather than to send it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_written_is_told_so_beyond_the_allowance_too() {
    let folder = identities();
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_identities(config, folder.path());
        config.limits.dead_letters_per_minute = 1;
    })
    .await;
    let mut mqtt = Mqtt::unconnected(gateway.addresses.mqtt.unwrap(), Version::V5).await;
    let key = keys().loop_7.reveal();
    let connect = mqtt::connect_with_login(Version::V5, "a-client", Some("loop-7"), Some(key));
    mqtt.write(&connect).await;
    assert_eq!(mqtt.connack().await, Some((0, String::new())));
    for _ in 0..4 {
        let answer = send_exactly_once(&mut mqtt, "devices/loop-8/weather", READING).await;
        let told = (answer.code.as_str(), answer.text.as_str());
        assert_eq!(told, ("0x87", "device loop-7 may not write for loop-8"));
    }
    assert!(
        gateway.dead_letters().len() <= 2,
        "a minute that ended meanwhile brought a new allowance"
    );
    gateway.finish().await;
}

/// Over CoAP a wrong key is refused as late as elsewhere, while right ones are answered at once.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_over_coap_are_refused_late_and_hold_nobody_up() {
    let folder = identities();
    let delay = Duration::from_secs(8);
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_identities(config, folder.path());
        config.devices.refusal_delay = delay;
        config.coap.key_in_query = true;
    })
    .await;
    let path = "devices/loop-7/weather";
    let began = std::time::Instant::now();
    let wrong = async {
        let told = send(&gateway, Via::Coap, Says::Key("cgk_none"), path).await;
        // As much of the words as three times the bytes of the request allow.
        let is_said = told.starts_with("4.01 unknown device") && format!("4.01 {WRONG}").starts_with(&told);
        assert!(is_said && began.elapsed() >= delay, "{told}");
    };
    let right = async {
        let told = send(&gateway, Via::Coap, Says::Key(keys().loop_7.reveal()), path).await;
        (told, began.elapsed())
    };
    let ((told, elapsed), ()) = tokio::join!(right, wrong);
    assert_eq!(told, "2.04");
    assert!(elapsed < delay, "{elapsed:?}: it did not wait for the other");
    let scrape = gateway.scrape();
    let labels = [("protocol", "coap"), ("reason", "bad_credential")];
    assert_eq!(scrape.sum("citygate_authentications_refused_total", &labels), 1);
    gateway.finish().await;
}

async fn refusals(gateway: &TestGateway) -> Vec<Value> {
    let status: Value = serde_json::from_str(&gateway.admin("/status").await.1).unwrap();
    status["recent_refusals"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_listed_beside_what_is_refused_later() {
    let folder = identities();
    let gateway = TestGateway::start(&Broker::any(), |config| with_identities(config, folder.path())).await;
    let wrong = send(
        &gateway,
        Via::Http,
        Says::Login("loop-7", "wrong"),
        "devices/loop-7/weather",
    )
    .await;
    assert_eq!(wrong, format!("401 {WRONG}"));
    let key = Says::Login("loop-7", keys().loop_7.reveal());
    for _ in 0..3 {
        send(&gateway, Via::Http, key, "devices/loop-8/weather").await;
    }
    let listed = refusals(&gateway).await;
    let of = |reason: &str| {
        let mut all = listed.iter();
        all.find(|refused| refused["sender"] == "loop-7" && refused["reason"] == reason)
            .map(|refused| refused["times"].clone())
    };
    assert_eq!(
        (of("bad_credential"), of("forbidden")),
        (Some(json!(1)), Some(json!(3)))
    );
    gateway.finish().await;
}

/// Where everybody is anonymous, a sender is whoever it says it is.
#[tokio::test(flavor = "multi_thread")]
async fn who_invents_devices_pushes_no_refusal_of_another_network_out() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let from = |address: [u8; 4]| {
        let client = reqwest::Client::builder().local_address(std::net::IpAddr::from(address));
        client.build().unwrap()
    };
    let http = gateway.addresses.http.unwrap();
    let post = async |client: &reqwest::Client, device: &str| {
        let url = format!("http://{http}/devices/{device}/weather");
        assert_eq!(client.post(url).body("rubbish").send().await.unwrap().status(), 400);
    };
    post(&from([127, 0, 5, 1]), "roof-1").await;
    let script = from([127, 0, 5, 2]);
    for number in 0..250 {
        post(&script, &format!("invented-{number}")).await;
    }
    let listed = refusals(&gateway).await;
    assert!(listed.len() <= 200, "{}", listed.len());
    let senders: Vec<_> = listed.iter().filter_map(|refused| refused["sender"].as_str()).collect();
    assert!(senders.contains(&"roof-1"), "{senders:?}");
    assert!(senders.contains(&"invented-249"), "{senders:?}");
    gateway.finish().await;
}

/// Loopback has no limits of its own: what is counted here is counted per device that a sender says it is.
#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_the_password_of_a_device_is_slowed_and_the_device_itself_is_not() {
    let folder = identities();
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_identities(config, folder.path());
        config.devices.refusal_delay = Duration::from_secs(8);
    })
    .await;
    let path = "devices/mast/weather";
    // Verified before: it goes on as if nothing were.
    let right = Says::Login("mast", PASSWORD);
    assert_eq!(send(&gateway, Via::Http, right, path).await, "204");
    let busy = "503 too many passwords to verify; try again later";
    // An unknown device is treated alike: nobody learns which devices have a password.
    for id in ["mast", "loop-8"] {
        let mut guesses = tokio::task::JoinSet::new();
        for guess in 0..30 {
            let addresses = gateway.addresses;
            guesses.spawn(async move {
                let says = Says::Login(id, &format!("guess-{guess}"));
                send_to(&addresses, Via::Mqtt5, says, path).await
            });
        }
        // As many as are verified at once, and are charged together; it is a minute and more until the next.
        let told = guesses.join_all().await;
        let refused = told.iter().filter(|told| told.ends_with(WRONG)).count();
        assert!(refused > 10, "{id}: {told:?}");
        assert_eq!(
            send(&gateway, Via::Http, Says::Login(id, "another"), path).await,
            busy,
            "{id}"
        );
    }
    assert_eq!(send(&gateway, Via::Http, right, path).await, "204");
    let key = Says::Login("loop-7", keys().loop_7.reveal());
    assert_eq!(send(&gateway, Via::Http, key, "devices/loop-7/weather").await, "204");
    gateway.finish().await;
}
