//! What a device proves itself with: hashes, never the secret itself.
//!
//! A *generated* key has 192 random bits and is stored as its SHA-256: nothing slower is needed for what cannot be guessed,
//! and a reconnect storm must not take the gateway down. A password that somebody *chose* is stored as Argon2id (RFC 9106), and is
//! slow to verify on purpose. Comparison takes the same time wherever the difference is.

use std::fmt::{self, Debug, Display, Formatter};
use std::str::FromStr;

use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Block, Params, PasswordHasher};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::operate::secret::Secret;

/// SHA-256.
pub type Digest = [u8; 32];

/// A generated key, which is shown once.
pub struct Key(Zeroizing<String>);

/// One of a device's credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    Key(KeyHash),
    Password(PasswordHash),
    /// The digest of a name of its client certificate.
    Certificate(Digest),
}

/// The SHA-256 of a generated key; written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash(Digest);

/// The Argon2id hash of a password, as a PHC string: `$argon2id$v=19$m=19456,t=2,p=1$…$…`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Box<str>);

/// What verifying passwords needs, used again and again: given back to the allocator each time, it would stay with many threads.
#[derive(Default)]
pub struct Memory(Vec<Block>);

/// A text that is no such hash. It is not quoted: somebody may have written the secret itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHash {
    #[error("a key is stored as \"sha256:\" and 64 hexadecimal digits; `citygate devices add` makes one")]
    Key,
    #[error(
        "a password is stored as its Argon2id hash, \"$argon2id$v=19$m=…,t=…,p=…$…\"; `citygate devices add` makes one"
    )]
    Password,
    /// One attempt could take all the memory, or seconds.
    #[error("a password hash may cost at most 64 MiB, 8 passes and 4 lanes (m=65536,t=8,p=4)")]
    TooCostly,
}

/// What generated keys begin with, so that a scanner for leaked secrets can find them.
pub const KEY_PREFIX: &str = "cgk_";
const KEY_BYTES: usize = 24;

/// Bounds of a password hash: KiB, passes, lanes.
const COST_MAX: (u32, u32, u32) = (64 * 1024, 8, 4);

/// The SHA-256 of what a device sent as its key or password.
pub fn digest(secret: &[u8]) -> Digest {
    Sha256::digest(secret).into()
}

// === impl Key ===

impl Key {
    /// A new one; the operating system seeds the generator.
    pub fn generate() -> Self {
        let random = Zeroizing::new(rand::random::<[u8; KEY_BYTES]>());
        let mut key = Zeroizing::new(KEY_PREFIX.to_owned());
        BASE64_URL_SAFE_NO_PAD.encode_string(*random, &mut key);
        Key(key)
    }

    /// The key itself, for whom it is meant.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn hash(&self) -> KeyHash {
        KeyHash(digest(self.0.as_bytes()))
    }
}

impl Debug for Memory {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} KiB)", self.0.len())
    }
}

impl Debug for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

// === impl KeyHash ===

impl KeyHash {
    /// Whether a secret with this digest is the key.
    pub fn matches(&self, digest: &Digest) -> bool {
        self.0.ct_eq(digest).into()
    }

    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl FromStr for KeyHash {
    type Err = BadHash;

    fn from_str(text: &str) -> Result<Self, BadHash> {
        let hex = text.strip_prefix("sha256:").ok_or(BadHash::Key)?.as_bytes();
        let mut digest = Digest::default();
        let (pairs, []) = hex.as_chunks::<2>() else {
            return Err(BadHash::Key);
        };
        if pairs.len() != digest.len() {
            return Err(BadHash::Key);
        }
        for (byte, pair) in digest.iter_mut().zip(pairs) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or(BadHash::Key);
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        Ok(KeyHash(digest))
    }
}

impl Display for KeyHash {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

// === impl PasswordHash ===

impl PasswordHash {
    /// Of a password, with a new salt and the costs that OWASP recommends (19 MiB, 2 passes, 1 lane).
    ///
    /// # Errors
    /// The operating system has no random bytes.
    pub fn of(password: &[u8]) -> Result<Self, argon2::password_hash::Error> {
        let argon2 = Argon2::new(Algorithm::Argon2id, argon2::Version::V0x13, Params::default());
        let hash: phc::PasswordHash = argon2.hash_password(password)?;
        Ok(PasswordHash(hash.to_string().into()))
    }

    /// Whether it is that password. Costs tens of milliseconds of CPU, and `memory` grows to the megabytes that it asks for:
    /// for a bounded pool only.
    pub fn verify(&self, password: &[u8], memory: &mut Memory) -> bool {
        self.try_verify(password, memory).unwrap_or(false)
    }

    /// `None`: it is no hash, which was found when it was read.
    fn try_verify(&self, password: &[u8], memory: &mut Memory) -> Option<bool> {
        let hash = phc::PasswordHash::new(&self.0).ok()?;
        let (salt, expected) = (hash.salt.as_ref()?, hash.hash.as_ref()?.as_bytes());
        let params = Params::try_from(&hash).ok()?;
        memory.0.resize(memory.0.len().max(params.block_count()), Block::new());
        let version = argon2::Version::try_from(hash.version?).ok()?;
        let mut computed = vec![0; expected.len()];
        let blocks = memory.0.get_mut(..params.block_count())?;
        Argon2::new(Algorithm::Argon2id, version, params)
            .hash_password_into_with_memory(password, salt, &mut computed, blocks)
            .ok()?;
        Some(computed.ct_eq(expected).into())
    }
}

impl FromStr for PasswordHash {
    type Err = BadHash;

    fn from_str(text: &str) -> Result<Self, BadHash> {
        let hash = phc::PasswordHash::new(text).map_err(|_| BadHash::Password)?;
        let is_whole = hash.salt.is_some() && hash.hash.is_some();
        if hash.algorithm.as_str() != Algorithm::Argon2id.as_str() || !is_whole {
            return Err(BadHash::Password);
        }
        let params = Params::try_from(&hash).map_err(|_| BadHash::Password)?;
        let (m, t, p) = COST_MAX;
        match params.m_cost() <= m && params.t_cost() <= t && params.p_cost() <= p {
            true => Ok(PasswordHash(text.into())),
            false => Err(BadHash::TooCostly),
        }
    }
}

impl Display for PasswordHash {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// They are read from text and written as it, and not shown otherwise.
macro_rules! as_hidden_text {
    ($($type:ty),*) => {
        $(
            impl Debug for $type {
                fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                    f.write_str("(hidden)")
                }
            }

            impl Serialize for $type {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            impl<'de> Deserialize<'de> for $type {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    use serde::de::Error;
                    let text = Secret::deserialize(deserializer)?;
                    text.reveal().parse().map_err(D::Error::custom)
                }
            }
        )*
    };
}

as_hidden_text!(KeyHash, PasswordHash);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_long_new_and_matches_its_hash_alone() {
        let (one, other) = (Key::generate(), Key::generate());
        assert_ne!(one.reveal(), other.reveal());
        assert!(one.reveal().starts_with("cgk_") && one.reveal().len() == 4 + 32);
        let written = one.hash().to_string();
        let read: KeyHash = written.parse().unwrap();
        assert!(read.matches(&digest(one.reveal().as_bytes())));
        assert!(!read.matches(&digest(other.reveal().as_bytes())));
        assert!(!written.contains(one.reveal()));
        assert_eq!(format!("{one:?} {read:?}"), "(hidden) (hidden)");
    }

    #[test]
    fn a_password_matches_its_hash_alone() {
        let hash = PasswordHash::of(b"correct horse").unwrap();
        let read: PasswordHash = hash.to_string().parse().unwrap();
        let mut memory = Memory::default();
        assert!(read.verify(b"correct horse", &mut memory));
        assert!(!read.verify(b"correct horse ", &mut memory));
        assert_eq!(memory.0.len(), 19 * 1024, "KiB");
        // As others make them: another length, other costs, after one that needs more memory.
        let other = "$argon2id$v=19$m=256,t=1,p=2$c29tZXNhbHRzb21lc2FsdA$";
        let argon2 = Argon2::new(
            Algorithm::Argon2id,
            argon2::Version::V0x13,
            Params::new(256, 1, 2, Some(24)).unwrap(),
        );
        let mut computed = [0; 24];
        argon2
            .hash_password_into(b"hunter22", b"somesaltsomesalt", &mut computed)
            .unwrap();
        let written = base64::prelude::BASE64_STANDARD_NO_PAD.encode(computed);
        let other: PasswordHash = format!("{other}{written}").parse().unwrap();
        assert!(other.verify(b"hunter22", &mut memory) && !other.verify(b"hunter23", &mut memory));
        assert_ne!(PasswordHash::of(b"correct horse").unwrap(), hash, "each has its salt");
        assert_eq!(format!("{read:?}"), "(hidden)");
    }

    #[test]
    fn what_is_no_hash_is_refused_and_not_quoted() {
        let key = |text: &str| text.parse::<KeyHash>().unwrap_err();
        let hex = "0123456789abcdefABCDEF0123456789abcdef0123456789abcdef0123456789";
        assert!(format!("sha256:{hex}").parse::<KeyHash>().is_ok());
        for bad in [
            "",
            "hunter2",
            hex,
            "sha256:",
            &format!("sha256:{hex}0"),
            &format!("sha256:{}", "a".repeat(63)),
        ] {
            assert_eq!(key(bad), BadHash::Key, "{bad}");
        }
        assert_eq!(key(&format!("sha256:é{}", "a".repeat(62))), BadHash::Key);
        let password = |text: &str| text.parse::<PasswordHash>().unwrap_err();
        let salt_and_hash = "c29tZXNhbHRzb21lc2FsdA$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI";
        let phc = |algorithm, costs| format!("${algorithm}$v=19${costs}${salt_and_hash}");
        assert!(phc("argon2id", "m=65536,t=8,p=4").parse::<PasswordHash>().is_ok());
        for bad in [
            "",
            "hunter2",
            "$argon2id$v=19$m=19456,t=2,p=1",
            &phc("argon2i", "m=19456,t=2,p=1"),
            "$2b$12$abc",
        ] {
            assert_eq!(password(bad), BadHash::Password, "{bad}");
        }
        for costly in ["m=65537,t=2,p=1", "m=19456,t=9,p=1", "m=19456,t=2,p=5"] {
            assert_eq!(password(&phc("argon2id", costly)), BadHash::TooCostly, "{costly}");
        }
        let error = serde_json::from_str::<PasswordHash>(r#""hunter2""#)
            .unwrap_err()
            .to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
