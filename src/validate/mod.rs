//! One pass from a reading's JSON to checked Avro bytes.
//!
//! Each kind's schema is [compiled](compile) once, at start, into a flat [`program`]; [`scan`] drives it, writing Avro
//! while it parses, with no tree in between ([`json`] does the same with serde_json, and judges [`scan`] in tests;
//! [`literal`] and [`time`] are what both share); [`pass`] lays the bytes out, and [`notes`] keeps what the gateway nulls.
//! What is wrong is said by [`refusal`]: path, expected, got. [`clock`] judges `observed_at`. Synchronous, no I/O; knows nouns
//! only.
//!
//! # What a schema's attributes mean
//! Avro allows them and ignores them; the gateway does not ([`attributes`]). No field is known by its name. One that is
//! misspelt is a mistake of the schema; one that is unknown is said by `check`.
//!
//! `schemas/README.md` has the table of all of them, for those who write schemas. Here: [`attributes`] reads them;
//! a role (`fill`, `clock`) makes a field the gateway's to write or to check; [`quality`] is where nulls are noted;
//! [`accepts`] has the forms of a time. `unit`, `doc` and `simulate` are for people, and for simulated devices.
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
//! * A `timestamp-*`, `observed_at` among them, may also be RFC 3339 text with an offset ([`time`]), unless `accepts` says
//!   otherwise. In a union with a string or an enum, text is always that.

use crate::outcome::Rejection;

pub mod accepts;
mod attributes;
pub mod clock;
pub mod compile;
pub mod emit;
pub mod fault;
pub mod field;
pub mod got;
pub mod json;
pub mod literal;
pub mod lookup;
pub mod notes;
pub mod pass;
pub mod path;
pub mod program;
mod quality;
pub mod record;
pub mod refusal;
mod satisfiable;
pub mod scan;
#[cfg(test)]
mod tests;
mod text;
pub mod text_rules;
pub mod time;
mod valued;

pub use clock::Config;
use clock::Limits;
pub use compile::{compile, foreign_attributes};
pub use notes::{Flag, Nulled};
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

    /// The numbers that became null in it.
    pub fn nulled(&self) -> &[Nulled] {
        self.buffers.notes.nulled()
    }
}
