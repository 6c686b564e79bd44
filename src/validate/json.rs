//! The judge among drivers: serde_json takes a reading's JSON apart, a program writes Avro as it goes.
//!
//! In service [`scan`](super::scan) does this, several times as fast; it is checked against this driver, and comes here
//! for the words for what is not JSON. A schema's defaults are read here, too.
//!
//! Each value is first its text (`RawValue`), so that a number is known as it came: no tree is built, and what is inside
//! arrays and objects is taken apart once more, level by level ([`DEPTH_MAX`](super::fault::DEPTH_MAX) bounds them).
//! Paths are put together while a failed pass unwinds.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::fault::{Fault, deeper};
use super::got::{self, Got};
use super::pass::{Pass, Unclosed};
use super::program::{Field, Node, NodeId, Program};
use super::record::Record;
use super::refusal::{self, Step};
use crate::outcome::Rejection;

/// Writes the JSON text `json` as the Avro of `node`, behind what is in the pass's buffers.
///
/// # Errors
/// What does not fit, or why it is not JSON; then the buffers hold no value.
pub fn write(program: &Program, node: NodeId, json: &[u8], pass: &mut Pass<'_>) -> Result<(), Rejection> {
    let text = std::str::from_utf8(json).map_err(|error| not_utf8(json, error.valid_up_to()))?;
    // Not being JSON goes before all else, wherever it shows: half a number may well be out of range.
    let value: &RawValue = serde_json::from_str(text).map_err(|error| malformed(&error))?;
    let mut walk = Walk {
        program,
        pass,
        text,
        steps: Vec::new(),
    };
    let result = walk.value(node, value.get(), 0, None);
    result.map_err(|stop| match stop {
        Stop::Malformed(rejection) => rejection,
        Stop::Refused(fault, what) => Rejection::new(fault.reason(), refusal::located(&walk.steps, &what)),
    })
}

/// One pass, and what is learned when it fails.
struct Walk<'w, 'p> {
    program: &'w Program,
    pass: &'w mut Pass<'p>,
    /// The whole text; all values are parts of it.
    text: &'w str,
    /// The path, innermost step first; filled while unwinding.
    steps: Vec<Step>,
}

/// Why a walk ends early.
enum Stop {
    /// A string that is none, which shows only when it is read.
    Malformed(Rejection),
    Refused(Fault, String),
}

/// An object's keys and values, all as they came.
struct Entries<'t>(Vec<(&'t RawValue, &'t RawValue)>);

/// What serde_json says is not JSON.
pub(super) fn malformed(error: &serde_json::Error) -> Rejection {
    refusal::malformed(error.line(), error.column(), &message(error))
}

/// serde_json's message without the place, which it appends.
fn message(error: &serde_json::Error) -> String {
    let full = error.to_string();
    full.rsplit_once(" at line ")
        .map_or(full.as_str(), |(message, _)| message)
        .to_owned()
}

fn not_utf8(json: &[u8], valid: usize) -> Rejection {
    let (line, column) = place(&json[..valid]);
    refusal::malformed(line, column + 1, "not UTF-8")
}

/// The line of what comes after these bytes, and how many of that line they are.
fn place(before: &[u8]) -> (usize, usize) {
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count();
    (line, column)
}

// === impl Walk: values ===

impl<'w> Walk<'w, '_> {
    /// `depth` arrays and objects are around it; `field` is what it is the value of, if it is one of a record.
    fn value(&mut self, node: NodeId, raw: &'w str, depth: u32, field: Option<&Field>) -> Result<(), Stop> {
        let program = self.program;
        let (result, got) = match raw.as_bytes().first() {
            Some(b'{') => return self.object(node, raw, depth),
            Some(b'[') => return self.array(node, raw, depth),
            Some(b'"') => return self.string(node, raw),
            Some(b'n') => (program.emit_null(node, field, self.pass), Got::Null),
            Some(b't') => (program.emit_bool(node, true, self.pass), Got::Boolean(true)),
            Some(b'f') => (program.emit_bool(node, false, self.pass), Got::Boolean(false)),
            _ => (self.number(node, raw), Got::Number(raw)),
        };
        result.map_err(|fault| self.refuse(fault, node, got))
    }

    fn number(&mut self, node: NodeId, literal: &str) -> Result<(), Fault> {
        match literal.parse::<i64>() {
            Ok(value) if literal != "-0" => self.program.emit_i64(node, value, self.pass),
            _ => {
                let value = literal.parse().map_err(|_| Fault::Type)?;
                self.program.emit_f64(node, value, || literal, self.pass)
            }
        }
    }

    fn string(&mut self, node: NodeId, raw: &'w str) -> Result<(), Stop> {
        let text = self.unescaped(raw)?;
        let result = self.program.emit_str(node, text.as_bytes(), self.pass);
        result.map_err(|fault| self.refuse(fault, node, Got::Text(&text)))
    }

    /// A string may still be none: that half of a surrogate pair is no character shows only here.
    fn unescaped(&self, raw: &'w str) -> Result<String, Stop> {
        serde_json::from_str(raw).map_err(|error| {
            let start = raw.as_ptr().addr() - self.text.as_ptr().addr();
            let (line, column) = place(&self.text.as_bytes()[..start]);
            // No string goes over the end of a line.
            Stop::Malformed(refusal::malformed(line, column + error.column(), &message(&error)))
        })
    }

    fn array(&mut self, node: NodeId, raw: &'w str, depth: u32) -> Result<(), Stop> {
        let program = self.program;
        let array = program
            .enter_array(node, self.pass)
            .and_then(|array| deeper(depth).map(|()| array))
            .map_err(|fault| self.refuse(fault, node, Got::Array))?;
        let mut open = self.pass.open_block();
        for raw in parts::<Vec<&RawValue>>(raw)? {
            let result = self.value(array.items, raw.get(), depth + 1, None);
            result.map_err(|stop| self.within(Step::Item(open.items), stop))?;
            self.pass.close_item(array, &mut open);
        }
        let result = self.pass.close_array(array, &open);
        result.map_err(|fault| self.refuse(fault, node, Got::Array))
    }

    fn object(&mut self, node: NodeId, raw: &'w str, depth: u32) -> Result<(), Stop> {
        let object = self
            .program
            .enter_object(node, self.pass)
            .and_then(|object| deeper(depth).map(|()| object))
            .map_err(|fault| self.refuse(fault, node, Got::Object))?;
        let Entries(entries) = parts(raw)?;
        match self.program.node(object) {
            Node::Record(record) => self.record(object, record, depth + 1, entries),
            Node::Map(values) => self.map(*values, depth + 1, entries),
            _ => Err(self.refuse(Fault::Type, node, Got::Object)),
        }
    }

    fn record(
        &mut self,
        node: NodeId,
        record: &Record,
        depth: u32,
        entries: Vec<(&'w RawValue, &'w RawValue)>,
    ) -> Result<(), Stop> {
        let mut open = self.pass.open_record(record);
        for (key, value) in entries {
            let key = self.unescaped(key.get())?;
            let found = self.pass.find_field(record, &open, key.as_bytes());
            let index = found.map_err(|fault| self.refuse_field(fault, node, &key))?;
            let field = &record.fields[index];
            let start = self.pass.open_field(record, &mut open, index);
            let result = self.value(field.node, value.get(), depth, Some(field));
            result.map_err(|stop| self.within(Step::Field(field.name.to_string()), stop))?;
            self.pass.close_field(&mut open, index, start);
        }
        let result = self.pass.close_record(self.program, record, &open);
        result.map_err(|unclosed| match unclosed {
            Unclosed::Missing(index) => self.refuse_field(Fault::Missing, node, &record.fields[index].name),
            Unclosed::Empty => self.refuse(Fault::Empty, node, Got::Object),
        })
    }

    fn map(&mut self, values: NodeId, depth: u32, entries: Vec<(&'w RawValue, &'w RawValue)>) -> Result<(), Stop> {
        let mut open = self.pass.open_block();
        for (key, value) in entries {
            let key = self.unescaped(key.get())?;
            self.pass.write_key(key.as_bytes());
            let result = self.value(values, value.get(), depth, None);
            result.map_err(|stop| self.within(Step::Field(got::cut(&key)), stop))?;
            self.pass.close_value(&mut open);
        }
        self.pass.close_map(&open).map_err(|key| {
            let key = self.pass.key(key);
            self.refuse_field(Fault::Duplicate, values, &key)
        })
    }
}

// === impl Walk: refusals ===

impl Walk<'_, '_> {
    fn refuse(&mut self, fault: Fault, node: NodeId, got: Got<'_>) -> Stop {
        Stop::Refused(fault, fault.text(self.program, node, got, self.pass))
    }

    fn refuse_field(&mut self, fault: Fault, node: NodeId, key: &str) -> Stop {
        self.steps.push(Step::Field(got::cut(key)));
        self.refuse(fault, node, Got::Nothing)
    }

    fn within(&mut self, step: Step, stop: Stop) -> Stop {
        self.steps.push(step);
        stop
    }
}

// === impl Entries ===

/// Takes an array or object apart, which was found to be JSON.
fn parts<'t, T: Deserialize<'t>>(raw: &'t str) -> Result<T, Stop> {
    serde_json::from_str(raw).map_err(|error| Stop::Malformed(malformed(&error)))
}

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}
