//! The `[registry]` section of the configuration: its fields, defaults and mistakes.
//!
//! Secrets may be kept in files, which are read once at start. How the registry is asked is left to the client.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};

use crate::operate::mistake::Mistakes;
use crate::operate::secret::Secret;

/// The `[registry]` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Base URL, e.g. `http://registry:8081` or `https://host/apis/ccompat/v7`; without one, values are written in Avro's
    /// single-object encoding. It may hold `user:password@`.
    pub url: Option<Secret>,
    /// Basic authentication, if the URL does not hold it.
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    /// A bearer token, instead.
    pub token: Option<Secret>,
    pub token_file: Option<PathBuf>,
    /// Where the ids are kept, so that a restart works while the registry is unavailable; none: nowhere. In `state_dir`.
    #[serde(skip)]
    pub cache_file: Option<PathBuf>,
    /// How long a request may take.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            url: None,
            username: None,
            password: None,
            password_file: None,
            token: None,
            token_file: None,
            cache_file: None,
            timeout: Duration::from_secs(5),
        }
    }
}

// === impl Config ===

impl Config {
    /// What is wrong with this section, each mistake starting with the field's name.
    pub fn mistakes(&self) -> Mistakes {
        let mut mistakes = Mistakes::default();
        let url = self.url.as_ref().map(|url| Url::parse(url.reveal()));
        if let Some(Ok(url)) = &url {
            if url.username().is_empty() && url.password().is_some() {
                mistakes.push(
                    "registry.url",
                    "holds a password, but no user; write http://user:password@host",
                );
            }
            if url.query().is_some() || url.fragment().is_some() {
                mistakes.push("registry.url", "must be the base of its API, without '?' and '#'");
            }
        }
        let in_url = match &url {
            Some(Ok(url)) if matches!(url.scheme(), "http" | "https") && url.has_host() => !url.username().is_empty(),
            Some(Err(why)) => {
                mistakes.push("registry.url", format!("is not an http or https URL: {why}"));
                false
            }
            Some(Ok(_)) => {
                mistakes.push(
                    "registry.url",
                    "is not an http or https URL, such as \"http://registry:8081\"",
                );
                false
            }
            None => false,
        };
        let mut require = |good: bool, path: &str, text: &str| mistakes.require(good, path, text);
        let logins = [in_url, self.username.is_some(), self.token.is_some()];
        require(
            logins.iter().filter(|&&is_set| is_set).count() <= 1,
            "registry.username, registry.token, registry.url",
            "only one of them can hold the login; remove the others",
        );
        require(
            self.password.is_none() || self.username.is_some(),
            "registry.password",
            "needs a user name; set registry.username",
        );
        require(
            self.url.is_some() || (self.username.is_none() && self.token.is_none()),
            "registry.username, registry.token",
            "there is no registry to log in to; set registry.url",
        );
        let is_empty = |text: Option<&str>| text.is_some_and(str::is_empty);
        let secret = |secret: &Option<Secret>| is_empty(secret.as_ref().map(Secret::reveal));
        let empty = "is empty; write it, or leave the setting out";
        require(!is_empty(self.username.as_deref()), "registry.username", empty);
        require(!secret(&self.password), "registry.password", empty);
        require(!secret(&self.token), "registry.token", empty);
        let is_header = |token: &Secret| HeaderValue::from_bytes(token.reveal().as_bytes()).is_ok();
        require(
            self.token.as_ref().is_none_or(is_header),
            "registry.token",
            "holds a line break or another control character, which an HTTP header cannot; write the token alone",
        );
        mistakes
    }

    /// Reads the secrets that are in files; what is wrong with them, each mistake starting with the field's name.
    pub fn read_files(&mut self) -> Mistakes {
        let mut mistakes = Mistakes::default();
        let secrets = [
            ("password", &mut self.password, self.password_file.take()),
            ("token", &mut self.token, self.token_file.take()),
        ];
        for (name, secret, file) in secrets {
            let read = match (&secret, file) {
                (_, None) => continue,
                (Some(_), Some(_)) => Err(format!("registry.{name} is set, too; keep one of them")),
                (None, Some(path)) => Secret::read(&path).map_err(|error| error.to_string()),
            };
            match read {
                Ok(value) => *secret = Some(value),
                Err(why) => mistakes.push(format!("registry.{name}_file"), why),
            }
        }
        mistakes
    }
}
