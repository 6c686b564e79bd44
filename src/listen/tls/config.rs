//! The `tls` table of a listener: where it listens with TLS, what it shows of itself, and which client certificates it accepts.
//!
//! Without `listen` there is no TLS. `client_certificates` has the words that are known from elsewhere: `none` and `required` as
//! Kafka's `ssl.client.auth`, `optional` as nginx's `ssl_verify_client`.

use std::fmt::{self, Formatter};
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::listen::addresses::ListenAddresses;
use crate::operate::mistake::Mistakes;

/// `[mqtt.tls]`, `[http.tls]`, `[admin.tls]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address with its port, or a list of them; without one there is no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<ListenAddresses>,
    /// PEM file: the server's certificate, and the intermediate ones behind it; or a list of such files. A client is shown the first
    /// that has the name it asks for (SNI), else the first of all.
    #[serde(skip_serializing_if = "Files::is_empty")]
    pub certificate: Files,
    /// PEM file: its private key (PKCS #8, PKCS #1 or SEC 1), without a passphrase; or a list of them, in the same order.
    #[serde(skip_serializing_if = "Files::is_empty")]
    pub key: Files,
    /// Whether clients show a certificate.
    pub client_certificates: ClientCertificates,
    /// PEM file: the authorities whose client certificates are accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// File with a certificate revocation list (PEM or DER), or a list of them: one of each authority.
    #[serde(skip_serializing_if = "Files::is_empty")]
    pub crl: Files,
    /// Time for a handshake, from the connect; behind a balancer from the end of its PROXY protocol header.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub handshake_timeout: Duration,
}

/// What is asked of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// They are not asked for one.
    #[default]
    None,
    /// They are asked; one that is shown must be good.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

/// Some files, possibly none; written as one text, or as a list of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(Vec<PathBuf>);

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: None,
            certificate: Files::default(),
            key: Files::default(),
            client_certificates: ClientCertificates::None,
            client_ca: None,
            crl: Files::default(),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// What is wrong with the table of this listener.
    pub fn mistakes(&self, listener: &str) -> Mistakes {
        let mut mistakes = Mistakes::default();
        let mut require = |good: bool, name: &str, text: &str| {
            mistakes.require(good, &format!("{listener}.tls.{name}"), text);
        };
        let is_on = self.listen.is_some();
        for (name, files) in [("certificate", &self.certificate), ("key", &self.key)] {
            require(!files.is_empty() || !is_on, name, "is required where tls.listen is set");
            require(files.is_empty() || is_on, name, "has no effect without tls.listen");
        }
        let is_paired = !is_on || self.key.is_empty() || self.key.len() == self.certificate.len();
        require(is_paired, "key", "must be one for each certificate, in the same order");
        let asks = self.client_certificates != ClientCertificates::None;
        require(
            is_on || !asks,
            "client_certificates",
            "has no effect without tls.listen",
        );
        let has_ca = self.client_ca.is_some();
        require(
            has_ca || !asks,
            "client_ca",
            "is required where client certificates are accepted",
        );
        let without = "has no effect with client_certificates = \"none\"; write \"optional\" or \"required\"";
        require(asks || !has_ca, "client_ca", without);
        require(asks || self.crl.is_empty(), "crl", without);
        require(
            !self.handshake_timeout.is_zero(),
            "handshake_timeout",
            "must be above 0",
        );
        mistakes
    }

    /// Every file that it names.
    pub fn files(&self) -> Vec<PathBuf> {
        let lists = self.certificate.iter().chain(self.key.iter()).chain(self.crl.iter());
        lists.chain(&self.client_ca).cloned().collect()
    }
}

// === impl Files ===

impl Deref for Files {
    type Target = [PathBuf];

    fn deref(&self) -> &[PathBuf] {
        &self.0
    }
}

impl Files {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<P: Into<PathBuf>> From<P> for Files {
    fn from(file: P) -> Self {
        Files(vec![file.into()])
    }
}

impl FromIterator<PathBuf> for Files {
    fn from_iter<I: IntoIterator<Item = PathBuf>>(files: I) -> Self {
        Files(files.into_iter().collect())
    }
}

impl Serialize for Files {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &*self.0 {
            [file] => file.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMany)
    }
}

struct OneOrMany;

impl<'de> Visitor<'de> for OneOrMany {
    type Value = Files;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a file, or a list of them")
    }

    fn visit_str<E: serde::de::Error>(self, file: &str) -> Result<Files, E> {
        Ok(file.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Files, A::Error> {
        let mut files = Vec::new();
        while let Some(file) = list.next_element::<PathBuf>()? {
            files.push(file);
        }
        Ok(Files(files))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_together_is_required_together() {
        let check = |toml: &str, expected: &[&str]| {
            let config: Config = toml::from_str(toml).unwrap();
            let found: Vec<_> = config.mistakes("mqtt").0.iter().map(ToString::to_string).collect();
            assert_eq!(found.len(), expected.len(), "{toml}: {found:?}");
            for (mistake, start) in found.iter().zip(expected) {
                assert!(mistake.starts_with(start), "{toml}: {mistake}, expected {start}");
            }
            // As it is written, it is read again.
            let again: Config = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
            assert_eq!(format!("{again:?}"), format!("{config:?}"));
        };
        let on = "listen = \"127.0.0.1:1\"\ncertificate = \"c\"\nkey = \"k\"\n";
        check("", &[]);
        check(on, &[]);
        check(
            "listen = \"127.0.0.1:1\"",
            &["mqtt.tls.certificate: is req", "mqtt.tls.key: is req"],
        );
        check("key = \"k\"", &["mqtt.tls.key: has no effect without tls.listen"]);
        let two = "listen = \"127.0.0.1:1\"\ncertificate = [\"c\", \"d\"]\n";
        check(&format!("{two}key = [\"k\", \"l\"]"), &[]);
        check(
            &format!("{two}key = \"k\""),
            &["mqtt.tls.key: must be one for each certificate"],
        );
        let asks = |how: &str| format!("{on}client_certificates = \"{how}\"\n");
        for how in ["optional", "required"] {
            check(&asks(how), &["mqtt.tls.client_ca: is required where client"]);
            check(&format!("{}client_ca = \"ca\"\ncrl = [\"a\", \"b\"]", asks(how)), &[]);
        }
        let no_effect = "has no effect with client_certificates";
        check(
            &format!("{}client_ca = \"ca\"\ncrl = \"a\"", asks("none")),
            &[
                &format!("mqtt.tls.client_ca: {no_effect}"),
                &format!("mqtt.tls.crl: {no_effect}"),
            ],
        );
        check(
            "client_certificates = \"required\"\nclient_ca = \"ca\"",
            &["mqtt.tls.client_certificates: has no effect without tls.listen"],
        );
    }
}
