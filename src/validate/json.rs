//! The judge among drivers: serde_json walks a reading's JSON, a program writes Avro as it goes.
//!
//! In service [`scan`](super::scan) does this, several times as fast; it is held against this driver, and comes here for
//! the words for what is not JSON. A schema's defaults are read here, too.
//!
//! No tree is built: a visitor per value calls the program with what it meets. Everything is visited as what it is
//! (`deserialize_any`), so that a refusal can show what came. Paths are put together while a failed pass unwinds.
//! A number that is an integer in JSON's grammar is an integer; `3.0` is not.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::pass::{OpenRecord, Pass};
use super::program::{Fault, Node, NodeId, Program, Record, deeper};
use super::refusal::{self, Got, Step};
use crate::outcome::{Reason, Rejection};

/// Writes the JSON text `json` as the Avro of `node`, behind what is in the pass's buffers.
///
/// # Errors
/// What does not fit, or why it is not JSON; then the buffers hold no value.
pub fn write(program: &Program, node: NodeId, json: &[u8], pass: &mut Pass<'_>) -> Result<(), Rejection> {
    // Once for the whole body: serde_json then need not check it string by string, and nothing is skipped.
    let text = std::str::from_utf8(json).map_err(|error| not_utf8(json, error.valid_up_to()))?;
    let mut walk = Walk {
        program,
        pass,
        steps: Vec::new(),
        refusal: None,
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let seed = Seed {
        walk: &mut walk,
        node,
        depth: 0,
    };
    let result = seed.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    result.map_err(|error| walk.rejection(text, &error))
}

/// One pass, and what is learned when it fails.
struct Walk<'w, 'p> {
    program: &'w Program,
    pass: &'w mut Pass<'p>,
    /// The path, innermost step first; filled while unwinding.
    steps: Vec<Step>,
    /// What the program refused; `None` when serde_json itself failed.
    refusal: Option<(Fault, String)>,
}

/// A value about to be read, and the node that it must fit.
struct Seed<'s, 'w, 'p> {
    walk: &'s mut Walk<'w, 'p>,
    node: NodeId,
    /// Arrays and objects around it.
    depth: u32,
}

/// A record's key about to be read.
struct FieldSeed<'s, 'w, 'p> {
    walk: &'s mut Walk<'w, 'p>,
    node: NodeId,
    record: &'s Record,
    open: &'s OpenRecord,
}

/// A map's key about to be read.
struct KeySeed<'s, 'w, 'p> {
    walk: &'s mut Walk<'w, 'p>,
}

// === impl Walk ===

impl Walk<'_, '_> {
    #[cold]
    fn refuse<E: serde::de::Error>(&mut self, fault: Fault, node: NodeId, got: Got<'_>) -> E {
        self.refusal = Some((fault, fault.text(self.program, node, got, self.pass)));
        E::custom("refused")
    }

    #[cold]
    fn refuse_field<E: serde::de::Error>(&mut self, fault: Fault, node: NodeId, key: &str) -> E {
        self.steps.push(Step::Field(refusal::cut(key)));
        self.refuse(fault, node, Got::Nothing)
    }

    #[cold]
    fn within<E>(&mut self, step: Step, error: E) -> E {
        self.steps.push(step);
        error
    }

    /// Not being JSON goes before all else, wherever it shows: half a number may well be out of range.
    #[cold]
    fn rejection(self, text: &str, error: &serde_json::Error) -> Rejection {
        let beyond = message(error) == NUMBER_OUT_OF_RANGE;
        if self.refusal.is_none() && !beyond {
            return malformed(error);
        }
        if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
            return malformed(&error);
        }
        let (reason, what) = match self.refusal {
            Some((fault, what)) => (fault.reason(), what),
            None => {
                let number = number_at(text, error.line(), error.column());
                (Reason::OutOfRange, refusal::beyond(&number))
            }
        };
        Rejection::new(reason, refusal::located(&self.steps, &what))
    }
}

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

/// serde_json's words for 1e400; the one error of its parser that is not about syntax.
const NUMBER_OUT_OF_RANGE: &str = "number out of range";

/// The number around the place where serde_json gave up.
fn number_at(text: &str, line: usize, column: usize) -> String {
    let line = text.split('\n').nth(line.saturating_sub(1)).unwrap_or_default();
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let bytes = line.as_bytes();
    let (before, after) = bytes.split_at(column.min(bytes.len()));
    let start = before.len() - before.iter().rev().take_while(|byte| is_part(byte)).count();
    let end = before.len() + after.iter().take_while(|byte| is_part(byte)).count();
    String::from_utf8_lossy(&bytes[start..end]).into_owned()
}

pub(super) fn not_utf8(json: &[u8], valid: usize) -> Rejection {
    let before = &json[..valid];
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count() + 1;
    refusal::malformed(line, column, "not UTF-8")
}

// === impl Seed ===

impl<'de> DeserializeSeed<'de> for Seed<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        let Walk { program, pass, .. } = &mut *self.walk;
        let result = program.emit_null(self.node, pass);
        result.map_err(|fault| self.walk.refuse(fault, self.node, Got::Null))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        let Walk { program, pass, .. } = &mut *self.walk;
        let result = program.emit_bool(self.node, value, pass);
        result.map_err(|fault| self.walk.refuse(fault, self.node, Got::Boolean(value)))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        let Walk { program, pass, .. } = &mut *self.walk;
        let result = program.emit_i64(self.node, value, pass);
        result.map_err(|fault| self.walk.refuse(fault, self.node, Got::Integer(value)))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        if let Ok(value) = i64::try_from(value) {
            return self.visit_i64(value);
        }
        let Walk { program, pass, .. } = &mut *self.walk;
        let result = program.emit_f64(self.node, value as f64, pass);
        result.map_err(|fault| self.walk.refuse(fault, self.node, Got::Large(value)))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        let Walk { program, pass, .. } = &mut *self.walk;
        let result = program.emit_f64(self.node, value, pass);
        result.map_err(|fault| self.walk.refuse(fault, self.node, Got::Real(value)))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        let Walk { program, pass, .. } = &mut *self.walk;
        let result = program.emit_str(self.node, text.as_bytes(), pass);
        result.map_err(|fault| self.walk.refuse(fault, self.node, Got::Text(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Seed { walk, node, depth } = self;
        let item = walk
            .program
            .enter_array(node, walk.pass)
            .and_then(|item| deeper(depth).map(|()| item))
            .map_err(|fault| walk.refuse(fault, node, Got::Array))?;
        let mut open = walk.pass.open_block();
        loop {
            let seed = Seed {
                walk: &mut *walk,
                node: item,
                depth: depth + 1,
            };
            match items.next_element_seed(seed) {
                Ok(Some(())) => open.items += 1,
                Ok(None) => break,
                Err(error) => return Err(walk.within(Step::Item(open.items), error)),
            }
        }
        walk.pass.close_block(&open);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<(), A::Error> {
        let Seed { walk, node, depth } = self;
        let object = walk
            .program
            .enter_object(node, walk.pass)
            .and_then(|object| deeper(depth).map(|()| object))
            .map_err(|fault| walk.refuse(fault, node, Got::Object))?;
        match walk.program.node(object) {
            Node::Record(record) => walk.record(object, record, depth + 1, entries),
            Node::Map(values) => walk.map(*values, depth + 1, entries),
            _ => Err(walk.refuse(Fault::Type, node, Got::Object)),
        }
    }
}

// === impl Walk: objects ===

impl<'w> Walk<'w, '_> {
    fn record<'de, A: MapAccess<'de>>(
        &mut self,
        node: NodeId,
        record: &'w Record,
        depth: u32,
        mut entries: A,
    ) -> Result<(), A::Error> {
        let mut open = self.pass.open_record(record);
        loop {
            let key = FieldSeed {
                walk: &mut *self,
                node,
                record,
                open: &open,
            };
            let Some(index) = entries.next_key_seed(key)? else {
                break;
            };
            let field = &record.fields[index];
            let start = self.pass.open_field(record, &mut open, index);
            let value = Seed {
                walk: &mut *self,
                node: field.node,
                depth,
            };
            if let Err(error) = entries.next_value_seed(value) {
                return Err(self.within(Step::Field(field.name.to_string()), error));
            }
            self.pass.close_field(&mut open, index, start);
        }
        self.pass
            .close_record(record, &open)
            .map_err(|index| self.refuse_field(Fault::Missing, node, &record.fields[index].name))
    }

    fn map<'de, A: MapAccess<'de>>(&mut self, values: NodeId, depth: u32, mut entries: A) -> Result<(), A::Error> {
        let mut open = self.pass.open_block();
        while entries.next_key_seed(KeySeed { walk: &mut *self })?.is_some() {
            let value = Seed {
                walk: &mut *self,
                node: values,
                depth,
            };
            if let Err(error) = entries.next_value_seed(value) {
                let key = self.pass.key(self.pass.current_key(&open));
                return Err(self.within(Step::Field(refusal::cut(&key)), error));
            }
            open.items += 1;
        }
        self.pass.close_map(&open).map_err(|key| {
            let key = self.pass.key(key);
            self.refuse_field(Fault::Duplicate, values, &key)
        })
    }
}

// === impl FieldSeed, KeySeed ===

impl<'de> DeserializeSeed<'de> for FieldSeed<'_, '_, '_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_, '_, '_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<usize, E> {
        let found = self.walk.pass.find_field(self.record, self.open, key.as_bytes());
        found.map_err(|fault| self.walk.refuse_field(fault, self.node, key))
    }
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map's key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<(), E> {
        self.walk.pass.write_key(key.as_bytes());
        Ok(())
    }
}
