//! What the devices of a fleet prove themselves with, and whom they trust: keys, passwords and certificates by device, and the
//! authority of the gateway's certificate.
//!
//! Keys are read as `citygate devices import --json` prints them, an object per line. With an authority MQTT and HTTP have TLS. The
//! name in the certificate is not looked at: HTTP devices connect by names of their own, so that each has its connection.

use std::collections::HashMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use native_tls::{Certificate, Identity, TlsConnector};
use serde::Deserialize;

/// See the module's documentation. Without any, devices are anonymous and speak plain text.
#[derive(Default)]
pub struct Credentials {
    secrets: HashMap<String, Secret>,
    authority: Option<Certificate>,
    /// Connects those who have no certificate.
    shared: Option<TlsConnector>,
    /// Has `<device>.pem` and `<device>.key`.
    certificates: Option<PathBuf>,
}

/// What a device says beside its name.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// Names its device by itself: over HTTP it is a Bearer token.
    Key(String),
    /// Somebody chose it: over HTTP it goes with the device's name (Basic).
    Password(String),
}

/// A line of the file of keys.
#[derive(Deserialize)]
struct Line {
    id: String,
    key: Option<String>,
    password: Option<String>,
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
            credentials.secrets = parse_secrets(&text(path)?).with_context(|| path.display().to_string())?;
        }
        if let Some(path) = authority {
            let authority = Certificate::from_pem(text(path)?.as_bytes()).context("no certificate in PEM form");
            let authority = authority.with_context(|| path.display().to_string())?;
            credentials.shared = Some(connector(&authority, None)?);
            credentials.authority = Some(authority);
        }
        Ok(credentials)
    }

    /// Devices that have a certificate in the folder show it.
    ///
    /// # Errors
    /// There is no such folder, or no TLS to show them in.
    pub fn with_certificates(mut self, folder: &Path) -> anyhow::Result<Self> {
        ensure!(self.authority.is_some(), "client certificates need TLS");
        ensure!(folder.is_dir(), "{} is no folder", folder.display());
        self.certificates = Some(folder.to_owned());
        Ok(self)
    }

    /// The key or password of a device, if it has one.
    pub fn secret(&self, device: &str) -> Option<&Secret> {
        self.secrets.get(device)
    }

    /// Whether devices speak TLS.
    pub fn has_tls(&self) -> bool {
        self.authority.is_some()
    }

    /// Connects those who have no certificate with TLS, where that is meant.
    pub fn shared_connector(&self) -> Option<&TlsConnector> {
        self.shared.as_ref()
    }

    /// Connects a device that has a certificate.
    ///
    /// # Errors
    /// One of its files cannot be read, or is not what it should be.
    pub fn own_connector(&self, device: &str) -> anyhow::Result<Option<TlsConnector>> {
        let (Some(authority), Some(folder)) = (&self.authority, &self.certificates) else {
            return Ok(None);
        };
        let path = folder.join(format!("{device}.pem"));
        let certificate = match std::fs::read(&path) {
            Ok(certificate) => certificate,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => bail!("{}: {error}", path.display()),
        };
        let path = folder.join(format!("{device}.key"));
        let key = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let identity = Identity::from_pkcs8(&certificate, &key).with_context(|| {
            format!(
                "{} is no key in PKCS #8 (PRIVATE KEY) of the certificate",
                path.display()
            )
        })?;
        connector(authority, Some(identity)).map(Some)
    }

    /// Connects the device with TLS, where that is meant.
    ///
    /// # Errors
    /// As [`Credentials::own_connector`].
    pub fn connector(&self, device: &str) -> anyhow::Result<Option<TlsConnector>> {
        let own = self.own_connector(device)?;
        Ok(own.or_else(|| self.shared.clone()))
    }
}

fn connector(authority: &Certificate, identity: Option<Identity>) -> anyhow::Result<TlsConnector> {
    let mut builder = TlsConnector::builder();
    builder
        .disable_built_in_roots(true)
        .add_root_certificate(authority.clone())
        .danger_accept_invalid_hostnames(true);
    if let Some(identity) = identity {
        builder.identity(identity);
    }
    Ok(builder.build()?)
}

fn parse_secrets(text: &str) -> anyhow::Result<HashMap<String, Secret>> {
    let mut secrets = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let expected = || {
            let number = number + 1;
            format!("line {number}: expected {{\"id\": \"…\", \"key\": \"…\"}}, or password instead of key")
        };
        // The error of serde_json would quote what it did not expect.
        let line: Line = serde_json::from_str(line).ok().with_context(expected)?;
        let secret = match (line.key, line.password) {
            (None, None) => continue,
            (Some(key), None) => Secret::Key(key),
            (None, Some(password)) => Secret::Password(password),
            (Some(_), Some(_)) => bail!(expected()),
        };
        ensure!(
            secrets.insert(line.id, secret).is_none(),
            "line {}: a device that an earlier line has",
            number + 1
        );
    }
    Ok(secrets)
}

/// Secrets are shown nowhere.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secrets, tls) = (self.secrets.len(), self.has_tls());
        f.debug_struct("Credentials")
            .field("secrets", &secrets)
            .field("tls", &tls)
            .field("certificates", &self.certificates)
            .finish()
    }
}

// === impl Secret ===

impl Secret {
    pub fn text(&self) -> &str {
        match self {
            Secret::Key(text) | Secret::Password(text) => text,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Secret::Key(_) => "Key(…)",
            Secret::Password(_) => "Password(…)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_as_they_are_printed_and_never_quoted() {
        let text =
            "{\"id\":\"a\",\"key\":\"cgk_1\"}\n\n{\"id\":\"b\",\"key\":null}\n{\"id\":\"c\",\"password\":\"horse\"}\n";
        let secrets = parse_secrets(text).unwrap();
        let expected = [
            ("a".to_owned(), Secret::Key("cgk_1".to_owned())),
            ("c".to_owned(), Secret::Password("horse".to_owned())),
        ];
        assert_eq!(secrets, HashMap::from(expected));
        assert!(!format!("{secrets:?}").contains("horse"));
        for (text, expected) in [
            ("{\"id\":\"a\",\"key\":5}", "line 1: expected"),
            ("a  cgk_secret", "line 1: expected"),
            (
                "{\"id\":\"a\",\"key\":\"cgk_secret\",\"password\":\"secret\"}",
                "line 1: expected",
            ),
            (
                "{\"id\":\"a\",\"key\":\"cgk_secret\"}\n{\"id\":\"a\",\"key\":\"cgk_secret\"}",
                "line 2: a device that an earlier line has",
            ),
        ] {
            let error = format!("{:#}", parse_secrets(text).unwrap_err());
            assert!(error.starts_with(expected) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_device_without_files_has_no_certificate_and_bad_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let authority = folder.path().join("ca.pem");
        std::fs::write(&authority, made.cert.pem()).unwrap();
        let read = || Credentials::read(None, Some(&authority)).unwrap();
        assert!(Credentials::default().with_certificates(folder.path()).is_err());
        assert!(read().with_certificates(&authority).is_err());
        let credentials = read().with_certificates(folder.path()).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("good.pem", &made.cert.pem());
        write("good.key", &made.signing_key.serialize_pem());
        write("bad.pem", &made.cert.pem());
        write("bad.key", "none");
        write("alone.pem", &made.cert.pem());
        assert!(credentials.own_connector("good").unwrap().is_some());
        assert!(credentials.own_connector("other").unwrap().is_none());
        assert!(
            credentials.connector("other").unwrap().is_some(),
            "over TLS, without a certificate"
        );
        for name in ["bad", "alone"] {
            let error = format!("{:#}", credentials.own_connector(name).unwrap_err());
            assert!(error.contains(&format!("{name}.key")), "{error}");
        }
    }
}
