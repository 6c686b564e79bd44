//! Schema ids from a Confluent-compatible registry (Confluent, Apicurio's `ccompat`, Karapace), asked once at start.
//!
//! For each kind: is its schema compatible with the latest under `<topic>-value`, then register it and keep the id
//! (registering the same text again returns the same id). The ids are kept in a file, so that a restart works while the
//! registry is away. The base URL may have a path. Answers are parsed defensively: registries label plain text as JSON.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{Kind, Schemas};

/// The `[registry]` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Base URL, e.g. `http://registry:8081` or `https://user:password@host/apis/ccompat/v7`; without one, values are
    /// written in Avro's single-object encoding.
    pub url: Option<String>,
    /// Where the ids are kept, so that a restart works while the registry is away; none: nowhere.
    pub cache_file: Option<PathBuf>,
    /// How long a request may take.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            url: None,
            cache_file: Some("citygate-schema-ids.json".into()),
            timeout: Duration::from_secs(5),
        }
    }
}

/// The ids of earlier starts: subject → the schema's text and its id.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Cache {
    subjects: BTreeMap<String, Cached>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cached {
    schema: String,
    id: u32,
}

/// The registry's address, and who asks.
struct Registry {
    url: String,
    client: Client,
}

/// Why a kind has no id from the registry.
#[derive(Debug)]
enum Refusal {
    /// The registry said no: another try says the same.
    Refused(String),
    /// The registry did not answer, or not as a registry: a kept id may serve.
    Away(String),
}

/// The id of every kind, in the order of their index; all mistakes at once.
pub async fn ids(config: &Config, schemas: &Schemas) -> Result<Vec<u32>, Vec<String>> {
    let registry = Registry::new(config).map_err(|error| vec![error])?;
    let mut cache = config.cache_file.as_deref().map_or_else(Cache::default, Cache::read);
    let (mut ids, mut errors) = (Vec::new(), Vec::new());
    for kind in schemas.kinds() {
        let subject = subject(kind);
        match registry.register(kind).await {
            Ok(id) => {
                cache.subjects.insert(
                    subject,
                    Cached {
                        schema: kind.text.clone(),
                        id,
                    },
                );
                ids.push(id);
            }
            Err(Refusal::Refused(why)) => errors.push(format!("registry: {subject}: {why}")),
            Err(Refusal::Away(why)) => match cache.subjects.get(&subject).filter(|kept| kept.schema == kind.text) {
                Some(kept) => {
                    warn!(subject, id = kept.id, %why, "the registry is away; using the schema id kept from before");
                    ids.push(kept.id);
                }
                None => errors.push(format!("registry: {subject}: {why}; and no id is kept from before")),
            },
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    if let Some(path) = &config.cache_file {
        cache.write(path);
    }
    info!(?ids, "schemas are registered");
    Ok(ids)
}

/// Whether the registry would take every kind's schema; registers nothing. What is wrong, in words.
pub async fn check(config: &Config, schemas: &Schemas) -> Vec<String> {
    let registry = match Registry::new(config) {
        Ok(registry) => registry,
        Err(error) => return vec![error],
    };
    let mut wrong = Vec::new();
    for kind in schemas.kinds() {
        if let Err(Refusal::Refused(why) | Refusal::Away(why)) = registry.compatible(kind).await {
            wrong.push(format!("registry: {}: {why}", subject(kind)));
        }
    }
    wrong
}

/// Kafka's TopicNameStrategy: a topic's values are described under this subject.
fn subject(kind: &Kind) -> String {
    format!("{}-value", kind.topic)
}

// === impl Registry ===

impl Registry {
    fn new(config: &Config) -> Result<Self, String> {
        let url = config
            .url
            .as_deref()
            .unwrap_or_default()
            .trim_end_matches('/')
            .to_owned();
        let client = Client::builder().timeout(config.timeout).build();
        Ok(Registry {
            url,
            client: client.map_err(|error| format!("registry: no HTTP client: {error}"))?,
        })
    }

    /// The schema fits the latest version under its subject.
    async fn compatible(&self, kind: &Kind) -> Result<(), Refusal> {
        let path = format!("compatibility/subjects/{}/versions/latest?verbose=true", subject(kind));
        let (status, answer) = self.post(&path, kind).await?;
        if status.is_success() && answer["is_compatible"] == false {
            return Err(Refusal::Refused(format!(
                "incompatible with the latest version: {}",
                messages(&answer)
            )));
        }
        // 404: nothing is registered under the subject yet, so there is nothing to be compatible with.
        if status.is_success() || status == StatusCode::NOT_FOUND {
            Ok(())
        } else {
            Err(refusal(status, &answer))
        }
    }

    /// The schema's id; the same text keeps the same id.
    async fn register(&self, kind: &Kind) -> Result<u32, Refusal> {
        self.compatible(kind).await?;
        let (status, answer) = self.post(&format!("subjects/{}/versions", subject(kind)), kind).await?;
        match answer["id"].as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) if status.is_success() => Ok(id),
            _ => Err(refusal(status, &answer)),
        }
    }

    /// Posts the schema; an answer that is not JSON becomes a JSON string.
    async fn post(&self, path: &str, kind: &Kind) -> Result<(StatusCode, Value), Refusal> {
        // The URL may hold a password: it stays out of every message.
        let away = |error: reqwest::Error| {
            let error = error.without_url();
            let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            Refusal::Away(format!("the registry does not answer: {error}{cause}"))
        };
        let request = self.client.post(format!("{}/{path}", self.url));
        let body = json!({ "schema": kind.text }).to_string();
        let request = request
            .header("Content-Type", "application/vnd.schemaregistry.v1+json")
            .body(body);
        let response = request.send().await.map_err(away)?;
        let status = response.status();
        let text = response.text().await.map_err(away)?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }
}

fn refusal(status: StatusCode, answer: &Value) -> Refusal {
    let why = format!("HTTP {}: {}", status.as_u16(), messages(answer));
    if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
        Refusal::Refused(why)
    } else {
        Refusal::Away(why)
    }
}

/// The registry's own words, at most a few lines of them.
fn messages(answer: &Value) -> String {
    let text = match answer {
        Value::String(text) => text.clone(),
        Value::Object(fields) => match (fields.get("message"), fields.get("messages")) {
            (Some(Value::String(message)), _) => message.clone(),
            (_, Some(messages)) => messages.to_string(),
            _ => answer.to_string(),
        },
        _ => answer.to_string(),
    };
    text.chars().take(500).collect()
}

// === impl Cache ===

impl Cache {
    fn read(path: &Path) -> Self {
        let Ok(text) = std::fs::read_to_string(path) else {
            return Cache::default();
        };
        serde_json::from_str(&text).unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "the kept schema ids cannot be read; asking the registry for all");
            Cache::default()
        })
    }

    /// Replaces the file as a whole; a failure costs only the convenience.
    fn write(&self, path: &Path) {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let written = tempfile::NamedTempFile::new_in(folder).and_then(|file| {
            serde_json::to_writer_pretty(&file, self)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)
        });
        if let Err(error) = written {
            warn!(path = %path.display(), %error, "the schema ids could not be kept");
        }
    }
}
