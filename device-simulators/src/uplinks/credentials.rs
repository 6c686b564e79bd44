//! What the devices of a fleet prove themselves with, and whom they trust: keys by device, and the authority of the gateway's
//! certificate.
//!
//! Keys are read as `citygate devices import --json` prints them, an object per line. With an authority MQTT and HTTP have TLS. The
//! name in the certificate is not looked at: HTTP devices connect by names of their own, so that each has its connection.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, ensure};
use native_tls::{Certificate, TlsConnector};
use serde::Deserialize;

/// See the module's documentation. Without either, devices are anonymous and speak plain text.
#[derive(Default)]
pub struct Credentials {
    keys: HashMap<String, String>,
    authority: Option<Vec<u8>>,
}

/// A line of the file of keys.
#[derive(Deserialize)]
struct Line {
    id: String,
    key: Option<String>,
}

// === impl Credentials ===

impl Credentials {
    /// Reads a file of keys and the PEM file of an authority.
    ///
    /// # Errors
    /// One of them cannot be read, or is none; no key is quoted.
    pub fn read(keys: Option<&Path>, authority: Option<&Path>) -> anyhow::Result<Self> {
        let text = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        let mut credentials = Credentials::default();
        if let Some(path) = keys {
            credentials.keys = parse_keys(&text(path)?).with_context(|| path.display().to_string())?;
        }
        if let Some(path) = authority {
            credentials.authority = Some(text(path)?.into_bytes());
            // What is wrong with it is said before a device starts.
            credentials.connector().with_context(|| path.display().to_string())?;
        }
        Ok(credentials)
    }

    /// The key of a device, if it has one.
    pub fn key(&self, device: &str) -> Option<&str> {
        self.keys.get(device).map(String::as_str)
    }

    /// Connects with TLS, where that is meant.
    ///
    /// # Errors
    /// The authority is no certificate.
    pub fn connector(&self) -> anyhow::Result<Option<TlsConnector>> {
        let Some(authority) = &self.authority else {
            return Ok(None);
        };
        let authority = Certificate::from_pem(authority).context("no certificate in PEM form")?;
        let connector = TlsConnector::builder()
            .disable_built_in_roots(true)
            .add_root_certificate(authority)
            .danger_accept_invalid_hostnames(true)
            .build()?;
        Ok(Some(connector))
    }
}

fn parse_keys(text: &str) -> anyhow::Result<HashMap<String, String>> {
    let mut keys = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        // The error of serde_json would quote what it did not expect.
        let line: Line = serde_json::from_str(line)
            .ok()
            .with_context(|| format!("line {}: expected {{\"id\": \"…\", \"key\": \"…\"}}", number + 1))?;
        if let Some(key) = line.key {
            ensure!(
                keys.insert(line.id, key).is_none(),
                "line {}: a device that an earlier line has",
                number + 1
            );
        }
    }
    Ok(keys)
}

/// Keys are shown nowhere.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keys, tls) = (self.keys.len(), self.authority.is_some());
        f.debug_struct("Credentials")
            .field("keys", &keys)
            .field("tls", &tls)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_printed_and_never_quoted() {
        let keys = parse_keys("{\"id\":\"a\",\"key\":\"cgk_1\"}\n\n{\"id\":\"b\",\"key\":null}\n").unwrap();
        assert_eq!(keys, HashMap::from([("a".to_owned(), "cgk_1".to_owned())]));
        for (text, expected) in [
            ("{\"id\":\"a\",\"key\":5}", "line 1: expected"),
            ("a  cgk_secret", "line 1: expected"),
            (
                "{\"id\":\"a\",\"key\":\"cgk_secret\"}\n{\"id\":\"a\",\"key\":\"cgk_secret\"}",
                "line 2: a device that an earlier line has",
            ),
        ] {
            let error = format!("{:#}", parse_keys(text).unwrap_err());
            assert!(error.starts_with(expected) && !error.contains("secret"), "{error}");
        }
    }
}
