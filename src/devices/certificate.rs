//! The names by which a client certificate says which device shows it: its fingerprint, its subject, its alternative names.
//!
//! A name is a text with its kind in front: `sha256:…` (of the whole certificate), `cn:loop-7`, `subject:CN=loop-7,O=City`
//! (RFC 4514), `dns:loop-7.example`, `uri:urn:dev:7`, `email:loop-7@example`. Each has one spelling, so that two are the same where
//! their texts are. Whether a certificate may be trusted at all is not asked here.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::credential::{self, Digest};
use super::distinguished_name;

/// One name, in the spelling of this module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateName(Box<str>);

/// All names of one certificate, of which a device has at least one.
#[derive(Clone, Debug)]
pub struct CertificateNames {
    digests: Vec<Digest>,
    /// For people: who it says it is.
    subject: String,
}

/// A text that is no name. It is not quoted: somebody may have written a key in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    #[error(
        "a certificate is written as one of its names: \"sha256:…\", \"cn:…\", \"subject:CN=…,O=…\", \"dns:…\", \"uri:…\", \"email:…\""
    )]
    Kind,
    #[error("\"sha256:\" needs 64 hexadecimal digits behind it, with or without colons")]
    Fingerprint,
    #[error(
        "\"subject:\" needs a whole name behind it as RFC 4514 writes it, such as CN=loop-7,O=City; \
         `citygate devices add --certificate-file` or `openssl x509 -subject -nameopt RFC2253` shows it"
    )]
    Subject,
    #[error("a certificate's name has 1 to 1024 bytes")]
    Length,
}

const NAME_BYTES_MAX: usize = 1024;

/// Names of one certificate that are looked up; nobody needs as many.
const NAMES_MAX: usize = 64;

// === impl CertificateName ===

impl CertificateName {
    /// Of a whole certificate, in DER.
    pub fn fingerprint(certificate: &[u8]) -> Self {
        CertificateName(format!("sha256:{}", hex(&Sha256::digest(certificate))).into())
    }

    /// By which it is found. A key has no such digest, whatever it is.
    pub fn digest(&self) -> Digest {
        credential::digest(&[b"certificate\0", self.0.as_bytes()].concat())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl FromStr for CertificateName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (kind, value) = text.split_once(':').ok_or(BadName::Kind)?;
        let (kind, value) = (kind.trim().to_ascii_lowercase(), value.trim());
        if value.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(BadName::Length);
        }
        let value = match &*kind {
            "sha256" => fingerprint(value).ok_or(BadName::Fingerprint)?,
            "subject" => distinguished_name::spelled(value).ok_or(BadName::Subject)?,
            "dns" => value.to_ascii_lowercase(),
            "email" => email(value),
            "cn" | "uri" => value.to_owned(),
            _ => return Err(BadName::Kind),
        };
        Ok(CertificateName(format!("{kind}:{value}").into()))
    }
}

fn fingerprint(text: &str) -> Option<String> {
    let digits = text.replace(':', "").to_ascii_lowercase();
    let is_good = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_good.then_some(digits)
}

/// Of the part behind the @ it does not matter how it is written (RFC 5280 §7.5).
fn email(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((mailbox, host)) => format!("{mailbox}@{}", host.to_ascii_lowercase()),
        None => address.to_owned(),
    }
}

impl Display for CertificateName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for CertificateName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CertificateName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

// === impl CertificateNames ===

impl CertificateNames {
    /// Of a certificate, in DER. One that cannot be parsed has its fingerprint alone.
    pub fn of(certificate: &[u8]) -> Self {
        let mut names = vec![CertificateName::fingerprint(certificate)];
        if let Ok((_, parsed)) = X509Certificate::from_der(certificate) {
            names.extend(names_in(&parsed));
        }
        let is_subject = |name: &&CertificateName| name.0.starts_with("subject:");
        let subject = names.iter().find(is_subject).unwrap_or(&names[0]).to_string();
        let digests = names.iter().take(NAMES_MAX).map(CertificateName::digest).collect();
        CertificateNames { digests, subject }
    }

    #[cfg(test)]
    pub(super) fn for_testing(names: &[&str]) -> Self {
        let digests = names
            .iter()
            .map(|name| name.parse::<CertificateName>().unwrap().digest());
        CertificateNames {
            digests: digests.collect(),
            subject: names[0].to_owned(),
        }
    }

    pub fn digests(&self) -> &[Digest] {
        &self.digests
    }

    /// Who it says it is, for people.
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

/// What a certificate says in its subject and its alternative names.
pub fn names_in(certificate: &X509Certificate<'_>) -> Vec<CertificateName> {
    let mut names = Vec::new();
    let mut add = |kind: &str, value: &str| {
        if !value.is_empty() && value.len() < NAME_BYTES_MAX {
            names.push(CertificateName(format!("{kind}:{value}").into()));
        }
    };
    let subject = certificate.subject();
    add("subject", &distinguished_name::of(subject));
    for name in subject.iter_common_name().filter_map(|name| name.as_str().ok()) {
        // As it would be read from a file.
        add("cn", name.trim());
    }
    let alternative = certificate.subject_alternative_name().ok().flatten();
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => add("dns", &name.to_ascii_lowercase()),
            GeneralName::URI(name) => add("uri", name),
            GeneralName::RFC822Name(name) => add("email", &email(name)),
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        let check = |text: &str, expected: Result<&str, BadName>| {
            let found = text.parse::<CertificateName>().map(|name| name.to_string());
            assert_eq!(found, expected.map(str::to_owned), "{text}");
        };
        let (upper, lower) = ("AB".repeat(32), "ab".repeat(32));
        let colons = vec!["AB"; 32].join(":");
        let fingerprint = format!("sha256:{lower}");
        check(&format!("sha256:{upper}"), Ok(&fingerprint));
        check(&format!("SHA256: {colons}"), Ok(&fingerprint));
        check("cn:Loop 7", Ok("cn:Loop 7"));
        check("CN: Loop 7 ", Ok("cn:Loop 7"));
        check("DNS:Loop-7.Example", Ok("dns:loop-7.example"));
        check("uri:urn:dev:ow:10e2073a01080063", Ok("uri:urn:dev:ow:10e2073a01080063"));
        check("email:Loop@City.Example", Ok("email:Loop@city.example"));
        check("subject: o=City + ou=North, c=DE", Ok("subject:O=City+OU=North,C=DE"));
        for (text, why) in [
            ("", BadName::Kind),
            ("loop-7", BadName::Kind),
            ("ip:10.0.0.1", BadName::Kind),
            ("cn:", BadName::Length),
            ("cn: ", BadName::Length),
            (&format!("cn:{}", "a".repeat(1024)), BadName::Length),
            ("sha256:abcd", BadName::Fingerprint),
            (&format!("sha256:{}", "g".repeat(64)), BadName::Fingerprint),
            ("subject:loop-7", BadName::Subject),
            ("subject:XX=loop-7", BadName::Subject),
        ] {
            check(text, Err(why));
        }
    }

    #[test]
    fn a_certificate_is_found_by_each_of_its_names_and_by_no_other() {
        let certificate = certificate();
        let names = CertificateNames::of(&certificate);
        let has = |text: &str| {
            names
                .digests()
                .contains(&text.parse::<CertificateName>().unwrap().digest())
        };
        let fingerprint = CertificateName::fingerprint(&certificate).to_string();
        for good in [
            &fingerprint,
            "cn:loop-7",
            "subject:CN=loop-7,O=City\\, North",
            "dns:LOOP-7.example",
            "uri:urn:dev:7",
            "email:loop@example",
        ] {
            assert!(has(good), "{good}");
        }
        for bad in [
            "cn:loop-77",
            "cn:LOOP-7",
            "dns:loop-7",
            "uri:loop-7.example",
            "subject:CN=loop-7",
            "subject:O=City\\, North,CN=loop-7",
            "email:LOOP@example",
        ] {
            assert!(!has(bad), "{bad}");
        }
        assert_eq!(names.subject(), "subject:CN=loop-7,O=City\\, North");
        // What cannot be parsed has its fingerprint.
        let junk = CertificateNames::of(b"junk");
        assert_eq!(junk.digests(), [CertificateName::fingerprint(b"junk").digest()]);
    }

    fn certificate() -> Vec<u8> {
        use rcgen::string::Ia5String;
        use rcgen::{CertificateParams, DnType, KeyPair, SanType};
        let mut params = CertificateParams::new(vec!["Loop-7.Example".to_owned()]).unwrap();
        let text = |text: &str| Ia5String::try_from(text).unwrap();
        params.subject_alt_names.push(SanType::URI(text("urn:dev:7")));
        params.subject_alt_names.push(SanType::Rfc822Name(text("loop@Example")));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "City, North");
        params.distinguished_name.push(DnType::CommonName, "loop-7");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        certificate.der().to_vec()
    }
}
