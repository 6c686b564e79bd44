//! The `[admin]` section of the configuration: where the port listens, and who may read what on it.
//!
//! Secrets may be kept in files, which are read once at start.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::listen::addresses::ListenAddresses;
use crate::listen::tls::{self, ClientCertificates};
use crate::operate::mistake::Mistakes;
use crate::operate::secret::Secret;

/// The `[admin]` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub enabled: bool,
    /// Where to listen, one address or several; plain text.
    pub listen: ListenAddresses,
    /// Listen beyond loopback, though whoever reaches it may read everything.
    pub allow_anonymous: bool,
    /// Listen beyond loopback without TLS.
    pub allow_plaintext: bool,
    /// What an operator sends as `Authorization: Bearer …`; without a token and client certificates everybody may read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The same for `/metrics` alone: what a scraper sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_token: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_token_file: Option<PathBuf>,
    pub tls: tls::Config,
}

/// A shorter token could be guessed.
const TOKEN_BYTES_MIN: usize = 16;

impl Default for Config {
    fn default() -> Self {
        Config {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)).into(),
            allow_anonymous: false,
            allow_plaintext: false,
            token: None,
            token_file: None,
            metrics_token: None,
            metrics_token_file: None,
            tls: tls::Config::default(),
        }
    }
}

impl Config {
    /// Whether an operator must prove who asks.
    pub fn authenticates(&self) -> bool {
        self.token.is_some() || self.accepts_certificates()
    }

    pub fn accepts_certificates(&self) -> bool {
        self.tls.client_certificates != ClientCertificates::None
    }

    /// What is wrong with this section.
    pub fn mistakes(&self) -> Mistakes {
        let mut mistakes = self.tls.mistakes("admin");
        for (name, token) in [("token", &self.token), ("metrics_token", &self.metrics_token)] {
            let Some(token) = token else { continue };
            let (path, text) = (format!("admin.{name}, admin.{name}_file"), token.reveal());
            let is_good = text.len() >= TOKEN_BYTES_MIN && text.bytes().all(|byte| byte.is_ascii_graphic());
            let words = "must have at least 16 letters, digits or signs of ASCII, and no spaces; `openssl rand -hex 24` makes one";
            mistakes.require(is_good, &path, words);
        }
        mistakes.require(
            self.metrics_token.is_none() || self.authenticates(),
            "admin.metrics_token",
            "has no effect without admin.token or admin.tls.client_certificates: everybody may read everything",
        );
        mistakes
    }

    /// Puts secrets that are in files into their fields.
    pub fn read_files(&mut self) -> Mistakes {
        let mut mistakes = Mistakes::default();
        let secrets = [
            ("token", &mut self.token, self.token_file.take()),
            ("metrics_token", &mut self.metrics_token, self.metrics_token_file.take()),
        ];
        for (name, secret, file) in secrets {
            let read = match (&secret, file) {
                (_, None) => continue,
                (Some(_), Some(_)) => Err(format!("admin.{name} is set, too; keep one of them")),
                (None, Some(path)) => Secret::read(&path).map_err(|error| error.to_string()),
            };
            match read {
                Ok(value) => *secret = Some(value),
                Err(why) => mistakes.push(format!("admin.{name}_file"), why),
            }
        }
        mistakes
    }
}
