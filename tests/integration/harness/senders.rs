//! Devices that the tests know, and senders that say who they are: an id and a key, a password, a key alone, or nothing.
//!
//! One reading over any protocol, and the answer as one text: its code, and the words behind it.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use citygate::devices::credential::{Key, PasswordHash};
use citygate::gateway::Addresses;
use citygate::operate::config::Config;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::mqtt::{self, Mqtt, Reply, Version};
use super::{Client, TEST_TIMEOUT, TestGateway, Via};

pub const READING: &[u8] = br#"{"temperature_c": 21.5}"#;

/// The credentials of the devices that the tests know.
pub struct Keys {
    pub loop_7: Key,
    pub north: Key,
    pub off: Key,
}

pub fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| Keys {
        loop_7: Key::generate(),
        north: Key::generate(),
        off: Key::generate(),
    })
}

pub const PASSWORD: &str = "correct horse";

/// loop-7 has a key, mast a password, north acts for mast-*, off is disabled.
pub fn write_identities(folder: &Path) {
    let keys = keys();
    let password = PasswordHash::of(PASSWORD.as_bytes()).unwrap();
    let toml = format!(
        "[[device]]\nid = \"loop-7\"\nkeys = [\"{}\"]\nkinds = [\"weather\"]\n\n[[device]]\nid = \"mast\"\npasswords = [\"{password}\"]\n",
        keys.loop_7.hash()
    );
    let ndjson = [
        json!({"id": "north", "keys": [keys.north.hash()], "acts_for": ["mast-*"], "tags": {"district": "north"}}),
        json!({"id": "off", "keys": [keys.off.hash()], "disabled": true}),
    ];
    std::fs::write(folder.join("city.toml"), toml).unwrap();
    std::fs::write(
        folder.join("north.ndjson"),
        ndjson.map(|record| record.to_string()).join("\n"),
    )
    .unwrap();
}

pub fn with_identities(config: &mut Config, folder: &Path) {
    config.devices.folder = Some(folder.to_owned());
    config.devices.refusal_delay = Duration::from_millis(100);
}

/// What a sender says of itself.
#[derive(Clone, Copy, Debug)]
pub enum Says<'a> {
    Nothing,
    /// User name and password; Basic.
    Login(&'a str, &'a str),
    /// A password without a user name; Bearer.
    Key(&'a str),
    /// A user name alone; an `Authorization` that is none.
    Half(&'a str),
}

/// Sends one reading, and returns the answer: its code, and the text behind it.
pub async fn send(gateway: &TestGateway, via: Via, says: Says<'_>, path: &str) -> String {
    send_to(&gateway.addresses, via, says, path).await
}

pub async fn send_to(addresses: &Addresses, via: Via, says: Says<'_>, path: &str) -> String {
    match via {
        Via::Mqtt311 | Via::Mqtt5 => {
            let version = if via == Via::Mqtt5 { Version::V5 } else { Version::V311 };
            let mqtt = Mqtt::unconnected(addresses.mqtt.unwrap(), version).await;
            over_mqtt(mqtt, says, 1, path).await
        }
        Via::Http => {
            let url = format!("http://{}/{path}", addresses.http.unwrap());
            over_http(&reqwest::Client::new(), &url, says).await
        }
        Via::Coap => {
            let query = match says {
                Says::Key(key) => format!("?key={key}"),
                Says::Nothing => String::new(),
                Says::Login(..) | Says::Half(_) => panic!("CoAP has no place for an id"),
            };
            let mut client = Client::connect(Via::Coap, addresses).await;
            let answer = client.send(&format!("{path}{query}"), "", READING).await;
            told(&answer.code, &answer.text)
        }
    }
}

fn told(code: &str, text: &str) -> String {
    format!("{code} {text}").trim_end().to_owned()
}

/// The same over a connection that somebody has opened.
pub async fn over_mqtt<S>(mut mqtt: Mqtt<S>, says: Says<'_>, qos: u8, path: &str) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (user, password) = match says {
        Says::Nothing => (None, None),
        Says::Login(id, secret) => (Some(id), Some(secret)),
        Says::Key(key) => (None, Some(key)),
        Says::Half(id) => (Some(id), None),
    };
    // No two take each other's session over.
    let client_id = format!("client-{:08x}", rand::random::<u32>());
    mqtt.write(&mqtt::connect_with_login(mqtt.version, &client_id, user, password))
        .await;
    match timeout(TEST_TIMEOUT, mqtt.connack()).await.unwrap() {
        Some((0, _)) => {}
        Some((code, text)) => return told(&format!("CONNACK {code:#04x}"), &text),
        None => return "closed".into(),
    }
    mqtt.publish(qos, path, "", READING).await;
    match (timeout(TEST_TIMEOUT, mqtt.read()).await.unwrap(), mqtt.version) {
        (Reply::PubAck { .. }, Version::V311) => "PUBACK".into(),
        (Reply::PubRec { .. }, Version::V311) => "PUBREC".into(),
        (Reply::PubAck { reason, text, .. } | Reply::PubRec { reason, text, .. }, Version::V5) => {
            told(&format!("{reason:#04x}"), &text)
        }
        (Reply::Closed, _) => "closed".into(),
        (other, _) => panic!("not an answer to a publish: {other:?}"),
    }
}

/// The same by a client that shows its certificate, or has none.
pub async fn over_http(client: &reqwest::Client, url: &str, says: Says<'_>) -> String {
    let request = client.post(url).body(READING);
    let request = match says {
        Says::Nothing => request,
        Says::Login(id, secret) => request.basic_auth(id, Some(secret)),
        Says::Key(key) => request.bearer_auth(key),
        Says::Half(id) => request.header("authorization", id),
    };
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let challenge = response.headers().get("www-authenticate").cloned();
    assert_eq!(challenge.is_some(), status == 401, "{challenge:?}");
    let body = response.text().await.unwrap();
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    told(&status.to_string(), problem["detail"].as_str().unwrap_or_default())
}

pub const WRONG: &str = "unknown device, or wrong key, password or certificate";
pub const MISSING: &str = "a device id with its key or password, or a client certificate, is required";
pub const DISABLED: &str = "the device is disabled";
