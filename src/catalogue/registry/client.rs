//! Requests to a schema registry, and what its answers mean.
//!
//! Three of them matter: the schema is accepted, it is not, or nothing is known, because the registry did not answer, not
//! as a registry, or refuses its login. The URL's credentials stay out of every message.

use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde_json::{Value, json};

use super::config::Config;
use super::error::{Error, LookupError, Refusal};
use crate::catalogue::schemas::Definition;
use crate::operate::secret::Secret;

/// How much of a registry's words is passed on.
const WORDS_MAX: usize = 1000;

/// How much of an answer is read; a registry's are far shorter.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The same, of an answer that holds a schema.
const SCHEMA_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The registry's address, and who asks.
#[derive(Debug)]
pub(super) struct Registry {
    /// Without credentials and without a slash at its end: also the name under which ids are kept.
    pub(super) url: String,
    /// User and password.
    basic: Option<(String, Option<Secret>)>,
    token: Option<Secret>,
    client: Client,
}

/// Kafka's TopicNameStrategy: a topic's values are described under this subject.
pub(super) fn subject(kind: &Definition) -> String {
    format!("{}-value", kind.topic)
}

// === impl Registry ===

impl Registry {
    pub(super) fn new(config: &Config) -> Result<Option<Self>, Error> {
        let Some(url) = &config.url else {
            return Ok(None);
        };
        let mut url = Url::parse(url.reveal()).map_err(Error::Url)?;
        let decoded = |text: &str| percent_decoded(text);
        let basic = match url.username() {
            "" => config.username.clone().map(|user| (user, config.password.clone())),
            user => Some((decoded(user), url.password().map(|password| decoded(password).into()))),
        };
        // Neither can fail with a host, which the configuration proves.
        let (_user, _password) = (url.set_username(""), url.set_password(None));
        let client = Client::builder().timeout(config.timeout).build();
        Ok(Some(Registry {
            url: url.as_str().trim_end_matches('/').to_owned(),
            basic,
            token: config.token.clone(),
            client: client.map_err(Error::Client)?,
        }))
    }

    /// The schema fits the versions under its subject that the subject's compatibility asks for: the latest, or all.
    pub(super) async fn compatible(&self, kind: &Definition) -> Result<(), Refusal> {
        let versions = format!("compatibility/subjects/{}/versions", subject(kind));
        let (mut status, mut answer) = self.post(&format!("{versions}?verbose=true"), kind).await?;
        // Earlier registries can be asked about one version only.
        let is_unknown = matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
        if is_unknown && !is_no_subject(status, &answer) {
            (status, answer) = self.post(&format!("{versions}/latest?verbose=true"), kind).await?;
        }
        match answer["is_compatible"].as_bool() {
            Some(true) if status.is_success() => Ok(()),
            Some(false) if status.is_success() => Err(Refusal::Refused(format!(
                "incompatible with what is registered: {}; change {}.avsc so that it is compatible, or the subject's \
                 compatibility in the registry",
                words(&answer),
                kind.name
            ))),
            // Nothing is registered under the subject yet, so there is nothing to be compatible with.
            _ if is_no_subject(status, &answer) => Ok(()),
            _ => Err(refusal(status, &answer)),
        }
    }

    /// The schema's id; the same text keeps the same id.
    pub(super) async fn register(&self, kind: &Definition) -> Result<u32, Refusal> {
        self.compatible(kind).await?;
        let (status, answer) = self.post(&format!("subjects/{}/versions", subject(kind)), kind).await?;
        match answer["id"].as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) if status.is_success() => Ok(id),
            _ => Err(refusal(status, &answer)),
        }
    }

    /// The text of the schema that has this id.
    ///
    /// # Errors
    /// There is none, or nothing is known.
    pub(super) async fn schema(&self, id: u32) -> Result<String, LookupError> {
        let request = self.client.get(format!("{}/schemas/ids/{id}", self.url));
        let (status, answer) = self.send(request, SCHEMA_BYTES_MAX).await?;
        match answer["schema"].as_str() {
            Some(schema) if status.is_success() => Ok(schema.to_owned()),
            _ if is_no_schema(status, &answer) => Err(LookupError::Unknown(id)),
            _ => Err(LookupError::Refused {
                id,
                refusal: refusal(status, &answer),
            }),
        }
    }

    /// Posts the schema.
    async fn post(&self, path: &str, kind: &Definition) -> Result<(StatusCode, Value), Refusal> {
        let body = json!({ "schema": &*kind.text }).to_string();
        let request = self.client.post(format!("{}/{path}", self.url));
        let request = request
            .header("Content-Type", "application/vnd.schemaregistry.v1+json")
            .body(body);
        self.send(request, ANSWER_BYTES_MAX).await
    }

    /// Sends a request with the login; an answer that is not JSON becomes a JSON string.
    async fn send(&self, request: RequestBuilder, bytes_max: usize) -> Result<(StatusCode, Value), Refusal> {
        let no_answer = |error: reqwest::Error| {
            // The first says that sending failed, the last why.
            let error = error.without_url();
            let mut cause: &dyn std::error::Error = &error;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            Refusal::NoAnswer {
                url: self.url.clone(),
                why: cause.to_string(),
            }
        };
        let request = match (&self.basic, &self.token) {
            (Some((user, password)), _) => request.basic_auth(user, password.as_ref().map(Secret::reveal)),
            (None, Some(token)) => request.bearer_auth(token.reveal()),
            (None, None) => request,
        };
        let mut response = request.send().await.map_err(no_answer)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while bytes.len() < bytes_max
            && let Some(chunk) = response.chunk().await.map_err(no_answer)?
        {
            bytes.extend_from_slice(&chunk);
        }
        bytes.truncate(bytes_max);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }
}

/// Of all 404, only these are a registry's word for "nothing is registered here".
fn is_no_subject(status: StatusCode, answer: &Value) -> bool {
    status == StatusCode::NOT_FOUND && matches!(answer["error_code"].as_u64(), Some(40401 | 40402))
}

/// The same, for "no schema has this id".
fn is_no_schema(status: StatusCode, answer: &Value) -> bool {
    status == StatusCode::NOT_FOUND && answer["error_code"].as_u64() == Some(40403)
}

fn refusal(status: StatusCode, answer: &Value) -> Refusal {
    let said = match words(answer) {
        words if words.is_empty() => format!("HTTP {}", status.as_u16()),
        words => format!("HTTP {}: {words}", status.as_u16()),
    };
    let code = answer["error_code"].as_u64();
    match status {
        StatusCode::CONFLICT => Refusal::Refused(said),
        // 42205: the registry is read-only for now.
        StatusCode::UNPROCESSABLE_ENTITY if code.is_some() && code != Some(42205) => Refusal::Refused(said),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Refusal::Unavailable(format!(
            "the registry refuses this gateway's login, {said}; set registry.username and registry.password, or registry.token"
        )),
        _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Refusal::Unavailable(format!("the registry cannot answer now, {said}"))
        }
        _ => Refusal::Unavailable(format!(
            "the answer is not that of a schema registry, {said}; registry.url must be the base of its API, with its path"
        )),
    }
}

/// The registry's own words, on one line.
fn words(answer: &Value) -> String {
    let text = match answer {
        Value::String(text) => return shortened(text, 120),
        Value::Object(fields) => match (fields.get("message"), fields.get("messages")) {
            (Some(Value::String(message)), _) => message.clone(),
            (_, Some(Value::Array(messages))) => {
                let texts = messages.iter().filter_map(Value::as_str);
                texts.collect::<Vec<_>>().join("; ")
            }
            // Whatever else it holds may be an echo of what was sent.
            _ => String::new(),
        },
        _ => String::new(),
    };
    shortened(&text, WORDS_MAX)
}

fn shortened(text: &str, most: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(most) {
        None => line,
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or_default()),
    }
}

/// What a URL writes as `%40` is `@`.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let hex = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_registrys_own_words_are_passed_on() {
        let check = |answer: Value, expected: &str| assert_eq!(words(&answer), expected, "{answer}");
        check(json!({ "message": "not\nfound", "error_code": 40401 }), "not found");
        check(
            json!({ "messages": ["one", { "authorization": "hunter2" }, "two"] }),
            "one; two",
        );
        check(json!({ "headers": { "authorization": "hunter2" } }), "");
        check(json!(["hunter2"]), "");
        check(json!("<html>\nnginx"), "<html> nginx");
    }
}
