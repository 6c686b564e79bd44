//! The `tls` table of a listener: where it listens with TLS, and what it shows of itself.
//!
//! Without `listen` there is no TLS.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::listen::addresses::ListenAddresses;
use crate::operate::mistake::Mistakes;

/// `[mqtt.tls]`, `[http.tls]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address with its port, or a list of them; without one there is no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<ListenAddresses>,
    /// PEM file: the server's certificate, and the intermediate ones behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// PEM file: its private key (PKCS #8, PKCS #1 or SEC 1), without a passphrase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Time for a handshake, from the connect.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub handshake_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: None,
            certificate: None,
            key: None,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// What is wrong with the table of this listener.
    pub fn mistakes(&self, listener: &str) -> Mistakes {
        let mut mistakes = Mistakes::default();
        let is_on = self.listen.is_some();
        for (name, file) in [("certificate", &self.certificate), ("key", &self.key)] {
            let path = format!("{listener}.tls.{name}");
            mistakes.require(file.is_some() || !is_on, &path, "is required where tls.listen is set");
            mistakes.require(file.is_none() || is_on, &path, "has no effect without tls.listen");
        }
        let path = format!("{listener}.tls.handshake_timeout");
        mistakes.require(!self.handshake_timeout.is_zero(), &path, "must be above 0");
        mistakes
    }
}
