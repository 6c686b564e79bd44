//! A server's certificate and key, read from files and checked: a chain that belongs to the key, and not over.
//!
//! What is wrong is said with its file and what to do. The key is not quoted.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How long before its end a certificate is warned of.
pub const WARN_DAYS: i64 = 30;

const DAY_S: i64 = 24 * 60 * 60;

/// A certificate that can be shown.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub key: Arc<CertifiedKey>,
    /// As the configuration names it.
    pub file: PathBuf,
    /// Names for which it is valid, in lower case; `*.` in front stands for one label.
    names: Vec<String>,
    /// Seconds since 1970.
    pub not_after_s: i64,
}

/// A certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has no certificate in PEM form (-----BEGIN CERTIFICATE-----)", .0.display())]
    NoCertificate(PathBuf),
    #[error("{} has no private key in PEM form, or one with a passphrase; write it without (-----BEGIN PRIVATE KEY-----)", .0.display())]
    NoKey(PathBuf),
    #[error("{}: a key of this kind is not supported; use ECDSA (P-256, P-384), Ed25519 or RSA", .0.display())]
    Key(PathBuf),
    #[error("the key in {} is not that of the certificate in {}", key.display(), certificate.display())]
    Mismatch { key: PathBuf, certificate: PathBuf },
    #[error("{}: certificate {place} of the file cannot be parsed", path.display())]
    Parse { path: PathBuf, place: usize },
    #[error("{}: certificate {place} of the file is not the issuer of the one before it; write the server's own first, then its issuer, and so on", path.display())]
    Order { path: PathBuf, place: usize },
    #[error("{}: the certificate was valid until {}", path.display(), time(*.not_after_s))]
    Expired { path: PathBuf, not_after_s: i64 },
    #[error("{}: the certificate is valid from {} on", path.display(), time(*.not_before_s))]
    NotYet { path: PathBuf, not_before_s: i64 },
}

pub(super) fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

// === impl Certificate ===

impl Certificate {
    /// Reads and checks both files, at this time in seconds since 1970.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(certificate: &Path, key: &Path, now_s: i64) -> Result<Self, Error> {
        let chain = read_chain(certificate)?;
        let not_after_s = check_chain(certificate, &chain, now_s)?;
        let names = dns_names(&chain[0]);
        let private = read_key(key)?;
        let signer = any_supported_type(&private).map_err(|_| Error::Key(key.to_owned()))?;
        let certified = CertifiedKey::new(chain, signer);
        certified.keys_match().map_err(|_| Error::Mismatch {
            key: key.to_owned(),
            certificate: certificate.to_owned(),
        })?;
        Ok(Certificate {
            key: Arc::new(certified),
            file: certificate.to_owned(),
            names,
            not_after_s,
        })
    }

    /// What to say of its end, if that is near.
    pub fn warning(&self, now_s: i64) -> Option<String> {
        let days = days_until(self.not_after_s, now_s);
        (days < WARN_DAYS).then(|| {
            format!(
                "the certificate is valid until {}: {days} days more ({})",
                time(self.not_after_s),
                self.file.display()
            )
        })
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn valid_until(&self) -> String {
        time(self.not_after_s)
    }

    /// Whether it is valid for this name.
    pub fn has_name(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let behind = name.split_once('.').map(|(_, behind)| behind);
        self.names
            .iter()
            .any(|own| *own == name || own.strip_prefix("*.").is_some_and(|own| Some(own) == behind))
    }
}

/// Whole days until then.
pub(super) fn days_until(then_s: i64, now_s: i64) -> i64 {
    (then_s - now_s) / DAY_S
}

fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let alternative = parsed.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    names.collect()
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    // A pipe would be waited for.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        )));
    }
    std::fs::read(path).map_err(failed)
}

pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read_file(path)?;
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    chain.ok_or_else(|| Error::NoCertificate(path.to_owned()))
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let bytes = zeroize::Zeroizing::new(read_file(path)?);
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| Error::NoKey(path.to_owned()))
}

/// When the first of the chain ends, in seconds since 1970.
fn check_chain(path: &Path, chain: &[CertificateDer<'_>], now_s: i64) -> Result<i64, Error> {
    let mut parsed = Vec::new();
    for (index, der) in chain.iter().enumerate() {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Error::Parse {
            path: path.to_owned(),
            place: index + 1,
        })?;
        parsed.push(certificate);
    }
    for (index, pair) in parsed.windows(2).enumerate() {
        if pair[0].issuer() != pair[1].subject() {
            return Err(Error::Order {
                path: path.to_owned(),
                place: index + 2,
            });
        }
    }
    let validity = parsed[0].validity();
    let (not_before_s, not_after_s) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if now_s > not_after_s {
        return Err(Error::Expired {
            path: path.to_owned(),
            not_after_s,
        });
    }
    if now_s < not_before_s {
        return Err(Error::NotYet {
            path: path.to_owned(),
            not_before_s,
        });
    }
    Ok(not_after_s)
}
