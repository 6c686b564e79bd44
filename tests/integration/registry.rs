//! With a schema registry, values are in Confluent's wire format and carry the registry's ids.
//!
//! Against a real Apicurio Registry, whose Confluent-compatible API has a path: `TEST_REGISTRY=<base URL>`, or
//! one that is started through `tests/servers/registry.sh` and ends with this process; against one that does as it is told,
//! where a real one is not to be had in that state.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use citygate::gateway::Gateway;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::registry::{FakeRegistry, accepting, always};
use crate::harness::{Broker, TestGateway, Via, avro, broker, eventually, free_ports, gateway, repository};

/// The registry's base URL, or `None` after saying SKIPPED.
fn registry() -> Option<String> {
    static REGISTRY: OnceLock<Result<String, String>> = OnceLock::new();
    let url = REGISTRY.get_or_init(|| match std::env::var("TEST_REGISTRY") {
        Ok(url) => Ok(url),
        Err(_) => {
            let [port, management_port] = free_ports();
            let data = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("registry-{}", std::process::id()));
            let output = Command::new(broker::script("registry.sh"))
                .arg("start")
                .env("REGISTRY_DATA", data)
                .env("REGISTRY_PORT", port.to_string())
                .env("REGISTRY_MANAGEMENT_PORT", management_port.to_string())
                .env("REGISTRY_WHILE", std::process::id().to_string())
                .stderr(Stdio::inherit())
                .output()
                .unwrap();
            let url = String::from_utf8(output.stdout).unwrap().trim().to_owned();
            if output.status.success() {
                Ok(url)
            } else {
                Err("registry.sh could not start one".to_owned())
            }
        }
    });
    url.clone().map_err(|why| broker::skip(&why)).ok()
}

async fn post(url: String, schema: &str) -> (u16, Value) {
    let body = json!({"schemaType": "AVRO", "schema": schema}).to_string();
    let client = reqwest::Client::new();
    let request = client
        .post(&url)
        .header("content-type", "application/vnd.schemaregistry.v1+json");
    let response = request.body(body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn get(url: String) -> Value {
    let text = reqwest::get(&url).await.unwrap().text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{url}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn values_carry_the_id_under_which_the_registry_has_the_schema() {
    let Some(url) = registry() else { return };
    let gateway = TestGateway::start(&Broker::any(), |config| config.registry.url = Some(url.clone().into())).await;
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        let answer = client
            .send(&format!("devices/{via:?}/weather"), "", br#"{"temperature_c": 21.5}"#)
            .await;
        assert!(answer.is_yes(via), "{answer:?}");
    }
    let subject = format!("{}weather-value", gateway.topic_prefix);
    let latest = get(format!("{url}/subjects/{subject}/versions/latest")).await;
    let records = gateway.records("weather");
    assert_eq!(records.len(), Via::ALL.len());
    for record in records {
        let (id, reading) = avro::confluent(&gateway.schema("weather"), &record.value);
        assert_eq!(json!(id), latest["id"]);
        assert_eq!(reading["temperature_c"], json!(21.5));
        // What a consumer does: the schema by its id alone decodes the value.
        let registered = get(format!("{url}/schemas/ids/{id}")).await;
        let schema = apache_avro::Schema::parse_str(registered["schema"].as_str().unwrap()).unwrap();
        assert_eq!(avro::confluent(&schema, &record.value), (id, reading));
    }
    gateway.finish().await;
}

/// Whether a registry that asks for `compatibility` accepts `next` after the kind as it was first published.
async fn accepts_after_the_first(url: &str, kind: &str, compatibility: &str, next: &str) -> bool {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (process, next_id) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let subject = format!("of-before-{process}-{next_id}.{kind}-value");
    let first = repository()
        .join("tests/golden/schemas")
        .join(kind)
        .with_extension("avsc");
    let (status, answer) = post(
        format!("{url}/subjects/{subject}/versions"),
        &std::fs::read_to_string(first).unwrap(),
    )
    .await;
    assert_eq!(status, 200, "{answer}");
    let client = reqwest::Client::new();
    let asked = json!({ "compatibility": compatibility }).to_string();
    let request = client
        .put(format!("{url}/config/{subject}"))
        .header("content-type", "application/json");
    let response = request.body(asked).send().await.unwrap();
    assert!(response.status().is_success(), "{response:?}");
    let (status, answer) = post(format!("{url}/compatibility/subjects/{subject}/versions/latest"), next).await;
    assert_eq!(status, 200, "{answer}");
    let (status, registered) = post(format!("{url}/subjects/{subject}/versions"), next).await;
    assert_eq!(
        status == 200,
        answer["is_compatible"] == json!(true),
        "{registered}, {answer}"
    );
    status == 200
}

/// Old readings can be read with the kinds of now, and new ones with those of before.
#[tokio::test(flavor = "multi_thread")]
async fn bundled_kinds_are_compatible_with_those_that_were_published_before() {
    let Some(url) = registry() else { return };
    for kind in ["traffic", "weather", "energy"] {
        let path = repository().join("schemas").join(kind).with_extension("avsc");
        let now = std::fs::read_to_string(path).unwrap();
        for compatibility in ["BACKWARD", "FORWARD", "FULL"] {
            assert!(
                accepts_after_the_first(&url, kind, compatibility, &now).await,
                "{kind} {compatibility}"
            );
        }
    }
    // It does refuse: a symbol that readers of before do not know, and a field that old readings have not.
    let path = repository().join("tests/golden/schemas/weather.avsc");
    let weather = std::fs::read_to_string(path).unwrap();
    let symbol = weather.replace(
        r#"["ok", "degraded", "fault"]"#,
        r#"["ok", "degraded", "fault", "other"]"#,
    );
    assert!(!accepts_after_the_first(&url, "weather", "FORWARD", &symbol).await);
    let field = weather.replacen(r#""fields": ["#, r#""fields": [{"name": "site", "type": "string"},"#, 1);
    assert!(!accepts_after_the_first(&url, "weather", "BACKWARD", &field).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_ids_serve_while_the_registry_is_unavailable() {
    let registry = FakeRegistry::start(|path| accepting(path, 41));
    let folder = TempDir::new().unwrap();
    let start = async || {
        TestGateway::start(&Broker::mock(), |config| {
            config.registry.url = Some(registry.url().into());
            config.registry.cache_file = Some(folder.path().join("ids.json"));
            config.kafka.topic_prefix = "kept.".into();
            config.kafka.dead_letter_topic = "kept.dead-letter".into();
        })
        .await
    };
    let ids = async |gateway: &TestGateway| {
        let mut client = gateway.client(Via::Http).await;
        let answer = client.send("devices/any/energy", "", br#"{"power_w": 5}"#).await;
        assert!(answer.is_yes(Via::Http), "{answer:?}");
        let records = gateway.records("energy").into_iter();
        let ids = records.map(|record| avro::confluent(&gateway.schema("energy"), &record.value).0);
        ids.collect::<Vec<_>>()
    };
    let first = start().await;
    assert_eq!(ids(&first).await, [41]);
    first.finish().await;
    registry.stop();
    let second = start().await;
    assert_eq!(ids(&second).await, [41]);
    second.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_registry_and_without_kept_ids_the_gateway_does_not_start() {
    let [closed] = free_ports();
    let config = gateway::config(&Broker::mock(), |config| {
        config.registry.url = Some(format!("http://127.0.0.1:{closed}/apis/ccompat/v7").into());
    });
    let error = Gateway::start(config).await.expect_err("it must not start").to_string();
    assert!(error.contains("the registry does not answer"), "it says why: {error}");
}

/// Compatibility may be asked for with every version, which early registries cannot be asked about.
#[tokio::test(flavor = "multi_thread")]
async fn all_versions_are_asked_about_where_that_is_possible() {
    let incompatible = r#"{"is_compatible": false, "messages": ["an earlier version"]}"#;
    let registry = FakeRegistry::start(|path| accepting(path, 7));
    let start = async || {
        let config = gateway::config(&Broker::mock(), |config| {
            config.registry.url = Some(registry.url().into())
        });
        Gateway::start(config).await
    };
    registry.change(move |path| match path.contains("/versions?") {
        true => (200, "application/json", incompatible.to_owned()),
        false => accepting(path, 7),
    });
    let error = start().await.expect_err("it must not start").to_string();
    assert!(
        error.contains("incompatible with what is registered: an earlier version"),
        "{error}"
    );
    for status in [404, 405] {
        registry.change(move |path| match path {
            _ if path.contains("/versions?") => (status, "text/plain", "no such path".to_owned()),
            _ if path.contains("/versions/latest?") => (200, "application/json", incompatible.to_owned()),
            _ => accepting(path, 7),
        });
        let error = start().await.expect_err("it must not start").to_string();
        assert!(error.contains("incompatible with what is registered"), "{error}");
    }
}

/// What it gave is kept, though it then refuses another schema.
#[tokio::test(flavor = "multi_thread")]
async fn ids_are_kept_as_they_come() {
    let folder = TempDir::new().unwrap();
    let cache = folder.path().join("ids.json");
    let registry = FakeRegistry::start(|path| match path.contains("/subjects/kept.weather-value/versions") {
        true if path.starts_with("/subjects") => (409, "application/json", r#"{"message": "no"}"#.to_owned()),
        _ => accepting(path, 41),
    });
    let config = gateway::config(&Broker::mock(), |config| {
        config.registry.url = Some(registry.url().into());
        config.registry.cache_file = Some(cache.clone());
        config.kafka.topic_prefix = "kept.".into();
    });
    let error = Gateway::start(config).await.expect_err("it must not start").to_string();
    assert!(error.contains("HTTP 409: no"), "{error}");
    let kept = std::fs::read_to_string(&cache).unwrap();
    assert!(kept.contains("kept.energy-value") && kept.contains("41"), "{kept}");
    assert!(!kept.contains("kept.weather-value"), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lets_nobody_in_does_not_keep_a_site_down() {
    let unauthorized = r#"{"error_code": 401, "message": "Unauthorized"}"#;
    let registry = FakeRegistry::start(|path| accepting(path, 7));
    let folder = TempDir::new().unwrap();
    let cache = folder.path().join("ids.json");
    let configured = |config: &mut citygate::operate::config::Config, prefix: &str| {
        config.registry.url = Some(registry.url().into());
        config.registry.cache_file = Some(cache.clone());
        config.kafka.topic_prefix = prefix.to_owned();
        config.kafka.dead_letter_topic = format!("{prefix}dead-letter");
    };
    let first = TestGateway::start(&Broker::mock(), |config| configured(config, "first.")).await;
    first.finish().await;
    registry.change(always(401, "application/json", unauthorized));
    // The topics are part of the subjects, so they are called the same on another Kafka.
    let broker = Broker::mock();
    let second = TestGateway::start(&broker, |config| configured(config, "first.")).await;
    let mut client = second.client(Via::Http).await;
    let answer = client.send("devices/kept/energy", "", br#"{"power_w": 5}"#).await;
    assert!(answer.is_yes(Via::Http), "{answer:?}");
    let records = second.records("energy");
    assert_eq!(avro::confluent(&second.schema("energy"), &records[0].value).0, 7);
    // It is asked again, and confirms.
    let before = registry.registrations();
    registry.change(|path| accepting(path, 7));
    eventually("every id is confirmed", async || {
        (registry.registrations() >= before + 3).then_some(())
    })
    .await;
    second.finish().await;
    // Another registry has other ids: those of this one do not serve.
    let other = FakeRegistry::start(always(401, "application/json", unauthorized));
    let config = gateway::config(&broker, |config| {
        configured(config, "first.");
        config.registry.url = Some(other.url().into());
    });
    let error = Gateway::start(config).await.expect_err("it must not start").to_string();
    assert!(
        error.contains("refuses this gateway's login, HTTP 401: Unauthorized")
            && error.contains("no id is kept from before"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_is_that_of_the_configuration() {
    let basic = Some("Basic Y2l0eTpwQHNz"); // city:p@ss
    let check = async |change: fn(&mut citygate::catalogue::registry::Config, &str), expected: Option<&str>| {
        let registry = FakeRegistry::start(|path| accepting(path, 7));
        let gateway = TestGateway::start(&Broker::mock(), |config| {
            config.registry.url = Some(registry.url().into());
            change(&mut config.registry, &registry.address.to_string());
        })
        .await;
        gateway.finish().await;
        let asked = registry.asked();
        assert!(!asked.is_empty());
        for asked in asked {
            assert_eq!(asked.authorization.as_deref(), expected, "{asked:?}");
        }
    };
    check(|_, _| {}, None).await;
    check(
        |config, _| {
            config.username = Some("city".into());
            config.password = Some("p@ss".into());
        },
        basic,
    )
    .await;
    check(
        |config, address| config.url = Some(format!("http://city:p%40ss@{address}/").into()),
        basic,
    )
    .await;
    check(|config, _| config.token = Some("abc".into()), Some("Bearer abc")).await;
}
