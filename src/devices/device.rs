//! A device in memory: what it proves itself with, and what it may write. Small, since a city has hundreds of thousands.
//!
//! It does not change: a record that changes becomes another device, and what is remembered of the old one (a verified password)
//! ends with it.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use subtle::ConstantTimeEq;

use super::credential::{Credential, Digest, Memory, PasswordHash};
use super::rate::{Rates, Sent};
use super::record::Record;

/// One device that is known.
#[derive(Debug)]
pub struct Device {
    id: Box<str>,
    credentials: Box<[Credential]>,
    rights: Arc<Rights>,
    disabled: bool,
    /// The password that was verified last: a device that comes back is not verified slowly again.
    verified: ArcSwapOption<Verified>,
    sent: Sent,
}

/// A password that was verified.
struct Verified {
    /// Salted.
    digest: Digest,
    /// Its position among the credentials.
    credential: usize,
}

/// What devices have in common with many others, and share.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rights {
    /// Empty: every kind.
    kinds: Vec<String>,
    acts_for: Vec<String>,
    tags: BTreeMap<String, String>,
    rates: Rates,
}

/// Why a device may not write somewhere, in words for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    #[error("device {device} may not write for {target}")]
    Device { device: String, target: String },
    #[error("device {device} may not write {kind}; its kinds: {kinds}")]
    Kind {
        device: String,
        kind: String,
        kinds: String,
    },
    #[error("device {0} is disabled")]
    Disabled(String),
}

// === impl Device ===

impl Device {
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn credentials(&self) -> &[Credential] {
        &self.credentials
    }

    /// The kinds that it may write; none: every kind.
    pub fn kinds(&self) -> &[String] {
        &self.rights.kinds
    }

    pub fn is_disabled(&self) -> bool {
        self.disabled
    }

    /// Whether it may write readings of this kind for a device.
    ///
    /// # Errors
    /// It may not; why.
    pub fn may_write(&self, target: &str, kind: &str) -> Result<(), Forbidden> {
        let device = || self.id.to_string();
        if self.disabled {
            return Err(Forbidden::Disabled(device()));
        }
        if *self.id != *target && !self.rights.acts_for(target) {
            let target = target.to_owned();
            return Err(Forbidden::Device {
                device: device(),
                target,
            });
        }
        let kinds = &self.rights.kinds;
        if !kinds.is_empty() && !kinds.iter().any(|name| name == kind) {
            return Err(Forbidden::Kind {
                device: device(),
                kind: kind.to_owned(),
                kinds: kinds.join(", "),
            });
        }
        Ok(())
    }

    /// How long it must wait before it may send again; `default` is what its record leaves open.
    pub fn over_rate(&self, default: Rates, now: Instant) -> Duration {
        self.sent.wait(&self.rights.rates.or(default), now)
    }

    /// Charges it for what has arrived.
    pub fn charge(&self, default: Rates, now: Instant, readings: usize, bytes: usize) {
        self.sent.charge(&self.rights.rates.or(default), now, readings, bytes);
    }

    /// Its passwords, with their positions among the credentials.
    pub fn passwords(&self) -> impl Iterator<Item = (usize, &PasswordHash)> {
        let credentials = self.credentials.iter().enumerate();
        credentials.filter_map(|(position, credential)| match credential {
            Credential::Password(password) => Some((position, password)),
            Credential::Key(_) | Credential::Certificate(_) => None,
        })
    }

    /// Which of its passwords was verified before with this digest.
    pub fn verified(&self, digest: &Digest) -> Option<&Credential> {
        let verified = self.verified.load();
        let verified = verified
            .as_ref()
            .filter(|verified| verified.digest.ct_eq(digest).into())?;
        self.credentials.get(verified.credential)
    }

    /// Which of its passwords this is, and remembers it as `digest`. Slow.
    pub fn verify(&self, secret: &[u8], digest: Digest, memory: &mut Memory) -> Option<Credential> {
        let (credential, _) = self.passwords().find(|(_, password)| password.verify(secret, memory))?;
        self.verified.store(Some(Arc::new(Verified { digest, credential })));
        self.credentials.get(credential).cloned()
    }

    /// With what is known of the device that it was: what it has sent, and the password that was verified last, if it has it still.
    pub fn after(self, before: &Device) -> Self {
        let verified = match self.credentials == before.credentials {
            true => before.verified.load_full(),
            false => None,
        };
        Device {
            verified: ArcSwapOption::new(verified),
            sent: before.sent.clone(),
            ..self
        }
    }

    /// Whether a credential of the device that it was is one of its credentials still.
    pub fn still_has(&self, credential: &Credential) -> bool {
        self.credentials.contains(credential)
    }

    /// Of a record without mistakes; `shared` has the rights of those before, which it shares.
    pub fn new(record: Record, shared: &mut BTreeMap<Rights, Arc<Rights>>) -> Self {
        let rights = Rights {
            kinds: record.kinds,
            acts_for: record.acts_for,
            tags: record.tags,
            rates: Rates {
                readings_per_second: record.readings_per_second,
                bytes_per_second: record.bytes_per_second,
            },
        };
        let rights = match shared.get(&rights) {
            Some(rights) => rights.clone(),
            None => {
                let new = Arc::new(rights.clone());
                shared.insert(rights, new.clone());
                new
            }
        };
        let keys = record.keys.into_iter().map(Credential::Key);
        let passwords = record.passwords.into_iter().map(Credential::Password);
        let certificates = record
            .certificates
            .iter()
            .map(|name| Credential::Certificate(name.digest()));
        Device {
            id: record.id.into(),
            credentials: keys.chain(passwords).chain(certificates).collect(),
            rights,
            disabled: record.disabled,
            verified: ArcSwapOption::empty(),
            sent: Sent::default(),
        }
    }
}

/// It is worth as much as the password, to whoever may guess fast.
impl Debug for Verified {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// What files say of them is the same; what was verified meanwhile does not count.
impl PartialEq for Device {
    fn eq(&self, other: &Device) -> bool {
        (&self.id, &self.credentials, self.disabled) == (&other.id, &other.credentials, other.disabled)
            && (Arc::ptr_eq(&self.rights, &other.rights) || self.rights == other.rights)
    }
}

impl Eq for Device {}

// === impl Rights ===

impl Rights {
    fn acts_for(&self, target: &str) -> bool {
        self.acts_for.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => target.starts_with(start),
            None => target == pattern,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(json: &str) -> Device {
        Device::new(serde_json::from_str(json).unwrap(), &mut BTreeMap::new())
    }

    #[test]
    fn a_device_writes_its_own_readings_and_those_it_acts_for() {
        let check = |json: &str, target: &str, kind: &str, expected: Result<(), &str>| {
            let may = device(json).may_write(target, kind).map_err(|why| why.to_string());
            assert_eq!(may, expected.map_err(str::to_owned), "{json} {target} {kind}");
        };
        let loop_7 = r#"{"id": "loop-7", "kinds": ["traffic", "weather"]}"#;
        check(loop_7, "loop-7", "traffic", Ok(()));
        check(
            loop_7,
            "loop-7",
            "energy",
            Err("device loop-7 may not write energy; its kinds: traffic, weather"),
        );
        check(
            loop_7,
            "loop-8",
            "traffic",
            Err("device loop-7 may not write for loop-8"),
        );
        check(
            loop_7,
            "loop-77",
            "traffic",
            Err("device loop-7 may not write for loop-77"),
        );
        check(
            loop_7,
            "LOOP-7",
            "traffic",
            Err("device loop-7 may not write for LOOP-7"),
        );
        let gateway = r#"{"id": "north", "acts_for": ["loop-*", "mast"]}"#;
        check(gateway, "north", "energy", Ok(()));
        check(gateway, "loop-9", "traffic", Ok(()));
        check(gateway, "mast", "weather", Ok(()));
        check(
            gateway,
            "mast-2",
            "weather",
            Err("device north may not write for mast-2"),
        );
        check(
            gateway,
            "aloop-1",
            "traffic",
            Err("device north may not write for aloop-1"),
        );
        check(r#"{"id": "all", "acts_for": ["*"]}"#, "anything", "traffic", Ok(()));
        check(
            r#"{"id": "a", "disabled": true}"#,
            "a",
            "traffic",
            Err("device a is disabled"),
        );
    }

    #[test]
    fn rights_are_shared_and_a_change_is_seen() {
        let mut shared = BTreeMap::new();
        let mut device = |json: &str| Device::new(serde_json::from_str(json).unwrap(), &mut shared);
        let one = device(r#"{"id": "a", "kinds": ["traffic"]}"#);
        let other = device(r#"{"id": "b", "kinds": ["traffic"]}"#);
        assert!(Arc::ptr_eq(&one.rights, &other.rights));
        assert_eq!(one, device(r#"{"id": "a", "kinds": ["traffic"]}"#));
        for changed in [
            r#"{"id": "a"}"#,
            r#"{"id": "a", "kinds": ["traffic"], "disabled": true}"#,
            r#"{"id": "a", "kinds": ["traffic"], "tags": {"district": "north"}}"#,
            &format!(r#"{{"id": "a", "kinds": ["traffic"], "keys": ["sha256:{:064}"]}}"#, 1),
        ] {
            assert_ne!(one, device(changed), "{changed}");
        }
    }

    #[test]
    fn a_password_that_was_verified_is_known_until_another_is() {
        let hashes = ["one", "two"].map(|password| PasswordHash::of(password.as_bytes()).unwrap());
        let record = Record {
            id: "a".into(),
            passwords: hashes.to_vec(),
            ..Record::default()
        };
        let device = Device::new(record, &mut BTreeMap::new());
        assert!(device.verified(&[1; 32]).is_none());
        let mut memory = Memory::default();
        assert_eq!(device.verify(b"three", [3; 32], &mut memory), None);
        for (index, password) in ["one", "two"].into_iter().enumerate() {
            let digest = [index as u8; 32];
            let credential = Credential::Password(hashes[index].clone());
            assert_eq!(
                device.verify(password.as_bytes(), digest, &mut memory).as_ref(),
                Some(&credential)
            );
            assert_eq!(device.verified(&digest), Some(&credential));
        }
        assert!(device.verified(&[0; 32]).is_none());
    }
}
