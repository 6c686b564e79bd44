//! A device as a file describes it: `[[device]]` in TOML, or one JSON object per line.
//!
//! What can be wrong with one record by itself is found here, in words that name the field and never quote a credential. What
//! records may not have in common is [`register`](super::register)'s business.

use std::collections::BTreeMap;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::certificate::CertificateName;
use super::credential::{KEY_PREFIX, KeyHash, PasswordHash};
use crate::message::is_device_id;
use crate::outcome::quoted;

/// One device. Every field but `id` may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Record {
    /// The device id, as in `devices/<device>/<kind>`, and the user name.
    pub id: String,
    /// Hashes of its generated keys; several while a key is being rotated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyHash>,
    /// Hashes of its passwords, if somebody chose them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passwords: Vec<PasswordHash>,
    /// Names of its client certificates: `sha256:…`, `cn:…`, `subject:…`, `dns:…`, `uri:…`, `email:…`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateName>,
    /// The kinds that it may write; none: every kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// Of a field gateway: ids of the devices for which it may write as well; `*` at the end stands for any further characters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acts_for: Vec<String>,
    /// How many readings it may send per second on average; not set: `devices.readings_per_second`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readings_per_second: Option<u32>,
    /// The same of bytes of messages; not set: `devices.bytes_per_second`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "exactly")]
    pub bytes_per_second: Option<ByteSize>,
    /// It is known, and refused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// For people: district, operator, address.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// As a number: its text would round it.
fn exactly<S: Serializer>(bytes: &Option<ByteSize>, serializer: S) -> Result<S::Ok, S::Error> {
    bytes.map(|bytes| bytes.as_u64()).serialize(serializer)
}

/// Credentials of one device: two of each, and some to spare.
const CREDENTIALS_MAX: usize = 8;

/// Items of a list of one device.
const ITEMS_MAX: usize = 1024;

const TAG_BYTES_MAX: usize = 256;

impl Record {
    /// Of a JSON object, or of a TOML table as one.
    ///
    /// # Errors
    /// It is none, or a field of it is none of a device; no credential is quoted.
    pub fn from_value(value: Value) -> Result<Self, String> {
        let Value::Object(fields) = &value else {
            return Err("a device must be an object, such as {\"id\": \"loop-7\"}".into());
        };
        for name in ["keys", "passwords", "certificates"] {
            let is_texts = |list: &Vec<Value>| list.iter().all(Value::is_string);
            // Serde would quote what it did not expect.
            if fields
                .get(name)
                .is_some_and(|list| !list.as_array().is_some_and(is_texts))
            {
                return Err(format!("{name}: must be a list of texts"));
            }
        }
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    /// What is wrong with it, a line each.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut require = |good: bool, text: &dyn Fn() -> String| {
            if !good {
                mistakes.push(text());
            }
        };
        require(is_device_id(&self.id), &|| {
            format!(
                "id: \"{}\" is no device id: 1-128 of A-Z a-z 0-9 . _ : - that start with a letter or digit",
                quoted(&self.id)
            )
        });
        require(!self.id.starts_with(KEY_PREFIX), &|| "id: is a key".to_owned());
        require(
            [self.keys.len(), self.passwords.len(), self.certificates.len()]
                .iter()
                .all(|count| *count <= CREDENTIALS_MAX),
            &|| format!("keys, passwords, certificates: at most {CREDENTIALS_MAX} of each"),
        );
        require(
            self.kinds.len() <= ITEMS_MAX && self.acts_for.len() <= ITEMS_MAX,
            &|| format!("kinds, acts_for: at most {ITEMS_MAX} of each; a pattern stands for many"),
        );
        for pattern in &self.acts_for {
            let id = pattern.strip_suffix('*').unwrap_or(pattern);
            require(is_device_id(id) || pattern == "*", &|| {
                format!(
                    "acts_for: \"{}\" is no device id, nor the start of one with * behind it",
                    quoted(pattern)
                )
            });
        }
        let is_zero = self.readings_per_second == Some(0) || self.bytes_per_second == Some(ByteSize::b(0));
        require(!is_zero, &|| {
            "readings_per_second, bytes_per_second: must be above 0; disabled = true refuses everything".to_owned()
        });
        for (name, value) in &self.tags {
            require(!name.is_empty() && name.len() + value.len() <= TAG_BYTES_MAX, &|| {
                format!(
                    "tags: \"{}\" is empty or longer than {TAG_BYTES_MAX} bytes",
                    quoted(name)
                )
            });
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_record_is_said_of_its_field() {
        let check = |json: &str, expected: &[&str]| {
            let record: Record = serde_json::from_str(json).unwrap();
            let mistakes = record.mistakes();
            assert_eq!(mistakes.len(), expected.len(), "{json}: {mistakes:?}");
            for (mistake, start) in mistakes.iter().zip(expected) {
                assert!(mistake.starts_with(start), "{json}: {mistake}");
            }
        };
        check(r#"{"id": "loop-7"}"#, &[]);
        check(
            r#"{"id": "g", "acts_for": ["loop-*", "A.b_c:d-9", "*"], "kinds": ["traffic"]}"#,
            &[],
        );
        check("{}", &["id: \"\" is no device id"]);
        check(r#"{"id": "a/b"}"#, &["id: \"a/b\" is no device id"]);
        check(
            r#"{"id": "g", "acts_for": ["a*b", "", "-x*"]}"#,
            &["acts_for: \"a*b\"", "acts_for: \"\"", "acts_for: \"-x*\""],
        );
        check(r#"{"id": "g", "tags": {"": "x"}}"#, &["tags: \"\""]);
        check(
            r#"{"id": "g", "readings_per_second": 5, "bytes_per_second": "1 MiB"}"#,
            &[],
        );
        check(
            r#"{"id": "g", "readings_per_second": 0}"#,
            &["readings_per_second, bytes_per_second: must be above 0"],
        );
        let many = vec!["a"; 1025];
        check(
            &serde_json::json!({"id": "g", "acts_for": many}).to_string(),
            &["kinds, acts_for: at most 1024"],
        );
    }

    #[test]
    fn a_record_is_written_as_it_is_read_and_only_what_it_says() {
        let json = r#"{"id":"loop-7","kinds":["traffic"],"readings_per_second":5,"bytes_per_second":1000001,"disabled":true,"tags":{"district":"north"}}"#;
        let record: Record = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), json);
        let error = serde_json::from_str::<Record>(r#"{"id": "a", "kind": ["x"]}"#)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("unknown field `kind`") && error.contains("`kinds`"),
            "{error}"
        );
        let error = serde_json::from_str::<Record>(r#"{"id": "a", "keys": [12345]}"#)
            .unwrap_err()
            .to_string();
        assert!(!error.contains("12345"), "{error}");
    }
}
