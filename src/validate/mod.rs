//! One pass from a reading's JSON to checked Avro bytes.
//!
//! Each kind's schema is [compiled](compile) once, at start, into a flat [`program`]; [`scan`] drives it, writing Avro
//! while it parses, with no tree in between ([`json`] does the same with serde_json, and judges [`scan`] in tests;
//! [`literal`] and [`time`] are what both share); [`pass`] lays the bytes out. What is wrong is said by [`refusal`]: path, expected, got. [`clock`] judges
//! `observed_at`. Synchronous, no I/O; knows nouns only.
//!
//! # What a schema's attributes mean
//! Avro allows them and ignores them; the gateway does not. No field is known by its name.
//!
//! | attribute | on | meaning |
//! |---|---|---|
//! | `minimum`, `maximum` | a number | outside of them a reading is rejected as out of range |
//! | `sentinels` | a number in a union with null | these values mean "no reading": each is stored as null, and the reading stays. They lie outside of `minimum`..`maximum`, or the schema is refused: no real value is ever taken for a sentinel |
//! | `"fill": "device"` | a string field | the device of the address; a device may leave it out, and must not name another |
//! | `"fill": "received_at"` | a timestamp-millis field | the time of receipt; a device that sends it is rejected, since it cannot know and its value would be lost; null is as if absent |
//! | `"clock": "observed"` | a timestamp-millis field | the device's own time, as a number or RFC 3339 text; left out or null, it becomes the time of receipt; sent, it is checked against `[clock]`, and never before 2000 |
//! | `unit`, `doc` | anything | for people |
//!
//! # What is accepted
//! Strict: an unknown field, a field or map key that comes twice, a missing field without default, a string for a number,
//! an unknown symbol: each is rejected, with the path. Null where the schema has none is as if the field were absent, if
//! something stands for it then. `bytes`, `fixed`, `decimal`, `uuid` and `duration` are refused in a schema, JSON having
//! no agreed form for them, as are unions in which a JSON value could mean two branches, and what no reading could fit.
//!
//! # Numbers
//! JSON has one kind of number, Avro four. A literal is known by its exact value, never by the nearest double.
//!
//! * `int`, `long`: an integer in any form: `1.0`, `1e3` and `-0.0` are integers; `1.5`, and `1e-400`, are not.
//! * `double`, `float`: rounded once, from the literal, to the nearest one; what is beyond the largest is refused. Only an
//!   exponent beyond 65535 that as many digits make up for is not taken as it is: the standard library's parser ends there.
//! * A union of an integer and a real type: a number without fraction and exponent is the integer, if `int` or `long` holds
//!   it; all else is the real number. Bounds, of a logical type too, send no number to the other branch: `5000000` is no
//!   `date`, and in a union of `date` and `double` it is refused.
//! * `minimum`, `maximum` and `sentinels` are rounded as values are, and compared with what is stored.
//! * Logical types bound their values to what readers can show: `date`, `timestamp-*` and `local-timestamp-*` to the years
//!   1 to 9999 (in nanoseconds, to 64 bits: 1677 to 2262), `time-*` to one day. One that is unknown or not of its type is
//!   ignored, as Avro says.
//! * A `timestamp-*`, `observed_at` among them, may also be RFC 3339 text with an offset ([`time`]). In a union with
//!   a string or an enum, text is always that.

use crate::outcome::Rejection;

mod attributes;
pub mod clock;
pub mod compile;
pub mod emit;
pub mod fault;
pub mod got;
pub mod json;
pub mod literal;
pub mod lookup;
pub mod pass;
pub mod program;
pub mod refusal;
mod satisfiable;
pub mod scan;
#[cfg(test)]
mod tests;
mod text;
pub mod time;

pub use clock::Config;
use clock::Limits;
pub use compile::compile;
use pass::{Buffers, Pass};
pub use program::Program;

/// Checks readings against the programs of their kinds, and their times against the `[clock]` limits.
#[derive(Debug)]
pub struct Validator {
    limits: Limits,
}

/// Buffers that one thread reuses from reading to reading.
#[derive(Debug, Default)]
pub struct Scratch {
    buffers: Buffers,
    memory: scan::Memory,
}

// === impl Validator ===

impl Validator {
    pub fn new(config: &Config) -> Self {
        let limits = Limits::new(config);
        Validator { limits }
    }

    /// Checks one reading and leaves its Avro value (the program's prefix, then the datum) in `scratch`.
    ///
    /// `received_at_ms` is in milliseconds since 1970.
    ///
    /// # Errors
    /// Malformed, if it is not JSON from end to end; otherwise the first thing that is wrong in the order of the text:
    /// not the schema, out of range, or of a time that the `[clock]` limits do not allow.
    pub fn reading(
        &self,
        program: &Program,
        device: &str,
        received_at_ms: i64,
        json: &[u8],
        scratch: &mut Scratch,
    ) -> Result<(), Rejection> {
        let Scratch { buffers, memory } = scratch;
        self.run(program, device, received_at_ms, buffers, |pass| {
            scan::write(program, json, pass, memory)
        })
    }

    /// The same by the serde_json driver: slower, and what [`Validator::reading`] is checked against.
    ///
    /// # Errors
    /// The same.
    pub fn judgement(
        &self,
        program: &Program,
        device: &str,
        received_at_ms: i64,
        json: &[u8],
        scratch: &mut Scratch,
    ) -> Result<(), Rejection> {
        self.run(program, device, received_at_ms, &mut scratch.buffers, |pass| {
            json::write(program, program.root, json, pass)
        })
    }

    fn run(
        &self,
        program: &Program,
        device: &str,
        received_at_ms: i64,
        buffers: &mut Buffers,
        drive: impl FnOnce(&mut Pass<'_>) -> Result<(), Rejection>,
    ) -> Result<(), Rejection> {
        buffers.reset();
        buffers.out.extend_from_slice(&program.prefix);
        let mut pass = Pass {
            buffers,
            device,
            received_at_ms,
            limits: &self.limits,
        };
        let result = drive(&mut pass);
        result.inspect_err(|_| buffers.reset())
    }
}

// === impl Scratch ===

impl Scratch {
    /// The value left by the last [`Validator::reading`], if that succeeded.
    pub fn value(&self) -> &[u8] {
        &self.buffers.out
    }
}
