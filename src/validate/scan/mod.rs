//! The driver of the hot path: a scanner, written for programs alone, walks a reading's JSON.
//!
//! It accepts what the serde_json driver ([`json`]) accepts, writes the same bytes and refuses in the same words, at a
//! fraction of its cost: no visitor stands between the text and the program, a key is compared with the field that came
//! after the last one before ([`Memory`]), and text without escapes is copied once, into the output. What is not JSON is
//! handed to [`json`], which knows serde_json's words for it. `tests::judge` and `tests/fuzz` check one against the
//! other. [`cursor`] reads text, [`number`] numbers; [`verdict`] is what is learned when a reading does not fit.

use super::fault::{Fault, deeper};
use super::got::{self, Got};
use super::json;
use super::pass::{OpenRecord, Pass, Unclosed};
use super::program::{Field, Node, NodeId, Program, ProgramId};
use super::record::Record;
use super::refusal::Step;
use crate::outcome::Rejection;

pub mod cursor;
pub mod number;
pub mod verdict;

use cursor::Cursor;
use number::Number;
pub use verdict::Failure;
use verdict::{Stop, Verdict};

/// What one thread remembers from reading to reading.
#[derive(Debug, Default)]
pub struct Memory {
    /// Each program's at the place of its id, modulo [`LEARNED_MAX`].
    learned: Vec<Learned>,
    /// A text whose escapes are resolved.
    unescaped: String,
}

/// Programs of which a thread remembers something. Two that share a place forget in turn what they learned, which only
/// costs time; what was learned of programs that are gone gives way to that of new ones.
const LEARNED_MAX: usize = 1024;

/// What a thread has learned of the devices that send to one program.
#[derive(Debug, Default)]
struct Learned {
    program: Option<ProgramId>,
    /// After which field of a record which one came last time; see [`Record::successors`].
    successors: Vec<u32>,
}

/// One reading being scanned.
struct Scanner<'s, 'p> {
    program: &'s Program,
    pass: &'s mut Pass<'p>,
    cursor: Cursor<'s>,
    successors: &'s mut [u32],
    unescaped: &'s mut String,
    verdict: Verdict,
}

/// Writes the JSON text `json` as the Avro of the program's root, behind what is in the pass's buffers.
///
/// # Errors
/// What does not fit, or why it is not JSON; then the buffers hold no value.
pub fn write(program: &Program, json: &[u8], pass: &mut Pass<'_>, memory: &mut Memory) -> Result<(), Rejection> {
    let start = pass.buffers.out.len();
    match scan(program, json, pass, memory) {
        Ok(()) => Ok(()),
        Err(Failure::Refused(rejection)) => Err(rejection),
        Err(Failure::Malformed) => {
            // From the start: it takes some three times as long as a reading that fits, and that is little enough.
            pass.buffers.rewind(start);
            json::write(program, program.root, json, pass)
        }
    }
}

/// The same without the words for what is not JSON.
///
/// # Errors
/// Malformed only if it is malformed before the first thing that does not fit.
pub fn scan(program: &Program, json: &[u8], pass: &mut Pass<'_>, memory: &mut Memory) -> Result<(), Failure> {
    let (successors, unescaped) = memory.parts(program);
    let mut scanner = Scanner {
        program,
        pass,
        cursor: Cursor::new(json),
        successors,
        unescaped,
        verdict: Verdict::default(),
    };
    scanner.document().map_err(|stop| scanner.verdict.failure(stop, json))
}

// === impl Memory ===

impl Memory {
    /// What was learned of this program, or what is to be expected of a device that is met for the first time.
    fn parts(&mut self, program: &Program) -> (&mut [u32], &mut String) {
        let place = program.id.0 as usize % LEARNED_MAX;
        if self.learned.len() <= place {
            self.learned.resize_with(place + 1, Learned::default);
        }
        let learned = &mut self.learned[place];
        if learned.program != Some(program.id) {
            learned.program = Some(program.id);
            learned.successors.clone_from(&program.successors);
        }
        (&mut learned.successors, &mut self.unescaped)
    }
}

// === impl Scanner: values ===

impl Scanner<'_, '_> {
    fn document(&mut self) -> Result<(), Stop> {
        self.value(self.program.root, 0, None)?;
        self.cursor.skip_whitespace();
        if self.cursor.is_at_end() {
            Ok(())
        } else {
            Err(Stop::Malformed)
        }
    }

    /// `depth` arrays and objects are around it; `field` is what it is the value of, if it is one of a record.
    #[inline]
    fn value(&mut self, node: NodeId, depth: u32, field: Option<&Field>) -> Result<(), Stop> {
        self.cursor.skip_whitespace();
        match self.cursor.peek() {
            b'"' => self.text(node),
            b'-' | b'0'..=b'9' => self.number(node),
            b'{' => self.object(node, depth),
            b'[' => self.array(node, depth),
            b'n' => {
                self.cursor.literal(b"null")?;
                let result = self.program.emit_null(node, field, self.pass);
                result.map_err(|fault| self.refuse(fault, node, Got::Null))
            }
            b't' => {
                self.cursor.literal(b"true")?;
                self.boolean(node, true)
            }
            b'f' => {
                self.cursor.literal(b"false")?;
                self.boolean(node, false)
            }
            _ => Err(Stop::Malformed),
        }
    }

    fn refuse(&mut self, fault: Fault, node: NodeId, got: Got<'_>) -> Stop {
        self.verdict.refuse(self.program, self.pass, fault, node, got)
    }

    fn boolean(&mut self, node: NodeId, value: bool) -> Result<(), Stop> {
        let result = self.program.emit_bool(node, value, self.pass);
        result.map_err(|fault| self.refuse(fault, node, Got::Boolean(value)))
    }

    #[inline]
    fn text(&mut self, node: NodeId) -> Result<(), Stop> {
        let text = self.cursor.text(self.unescaped)?;
        let Scanner {
            program, pass, verdict, ..
        } = self;
        let result = program.emit_str(node, text, pass);
        result.map_err(|fault| verdict.refuse(program, pass, fault, node, Got::Text(shown(text))))
    }

    #[inline]
    fn number(&mut self, node: NodeId) -> Result<(), Stop> {
        let start = self.cursor.position();
        let number = self.cursor.number()?;
        let Scanner {
            program, pass, cursor, ..
        } = self;
        let literal = || cursor.since(start);
        let result = match number {
            Number::Integer(value) => program.emit_i64(node, value, pass),
            Number::Real(value) => program.emit_f64(node, value, literal, pass),
        };
        result.map_err(|fault| self.refuse(fault, node, Got::Number(self.cursor.since(start))))
    }

    #[inline(never)]
    fn array(&mut self, node: NodeId, depth: u32) -> Result<(), Stop> {
        let program = self.program;
        let array = program
            .enter_array(node, self.pass)
            .and_then(|array| deeper(depth).map(|()| array))
            .map_err(|fault| self.refuse(fault, node, Got::Array))?;
        let mut open = self.pass.open_block();
        self.cursor.step();
        self.cursor.skip_whitespace();
        let mut ended = self.cursor.eat(b']');
        while !ended {
            let result = self.value(array.items, depth + 1, None);
            result.map_err(|stop| self.verdict.within(|| Step::Item(open.items), stop))?;
            self.pass.close_item(array, &mut open);
            ended = self.cursor.ends(b']')?;
        }
        let result = self.pass.close_array(array, &open);
        result.map_err(|fault| self.refuse(fault, node, Got::Array))
    }

    #[inline(never)]
    fn object(&mut self, node: NodeId, depth: u32) -> Result<(), Stop> {
        let program = self.program;
        let object = program
            .enter_object(node, self.pass)
            .and_then(|object| deeper(depth).map(|()| object))
            .map_err(|fault| self.refuse(fault, node, Got::Object))?;
        self.cursor.step();
        match program.node(object) {
            Node::Record(record) => self.record(object, record, depth + 1),
            Node::Map(values) => self.map(*values, depth + 1),
            _ => Err(self.refuse(Fault::Type, node, Got::Object)),
        }
    }
}

// === impl Scanner: objects ===

impl Scanner<'_, '_> {
    fn record(&mut self, node: NodeId, record: &Record, depth: u32) -> Result<(), Stop> {
        let mut open = self.pass.open_record(record);
        self.cursor.skip_whitespace();
        let mut ended = self.cursor.eat(b'}');
        while !ended {
            let index = self.field(node, record, &open)?;
            let field = &record.fields[index];
            let start = self.pass.open_field(record, &mut open, index);
            let result = self.value(field.node, depth, Some(field));
            result.map_err(|stop| self.verdict.within(|| Step::Field(field.name.to_string()), stop))?;
            self.pass.close_field(&mut open, index, start);
            ended = self.cursor.ends(b'}')?;
        }
        let result = self.pass.close_record(self.program, record, &open);
        result.map_err(|unclosed| match unclosed {
            Unclosed::Missing(index) => self.refuse_field(Fault::Missing, node, &record.fields[index].name),
            Unclosed::Empty => self.refuse(Fault::Empty, node, Got::Object),
        })
    }

    /// A key and its colon; gives which field it names.
    fn field(&mut self, node: NodeId, record: &Record, open: &OpenRecord) -> Result<usize, Stop> {
        self.cursor.skip_whitespace();
        let successor = record.successors + open.next();
        let guess = self.successors[successor] as usize;
        if let Some(field) = record.fields.get(guess)
            && self.cursor.eat_all(&field.quoted)
        {
            let result = self.pass.admit(open, guess);
            result.map_err(|fault| self.refuse_field(fault, node, &field.name))?;
            return Ok(guess);
        }
        let index = self.unforeseen_field(node, record, open)?;
        self.successors[successor] = index as u32;
        Ok(index)
    }

    fn unforeseen_field(&mut self, node: NodeId, record: &Record, open: &OpenRecord) -> Result<usize, Stop> {
        let key = self.cursor.key(self.unescaped)?;
        let result = self.pass.find_field(record, open, key);
        let Scanner {
            program, pass, verdict, ..
        } = self;
        let index = result.map_err(|fault| verdict.refuse_field(program, pass, fault, node, shown(key)))?;
        self.cursor.colon()?;
        Ok(index)
    }

    fn map(&mut self, values: NodeId, depth: u32) -> Result<(), Stop> {
        let mut open = self.pass.open_block();
        self.cursor.skip_whitespace();
        let mut ended = self.cursor.eat(b'}');
        while !ended {
            self.cursor.skip_whitespace();
            let key = self.cursor.key(self.unescaped)?;
            self.pass.write_key(key);
            self.cursor.colon()?;
            if let Err(stop) = self.value(values, depth, None) {
                let key = self.pass.key(self.pass.current_key(&open));
                return Err(self.verdict.within(|| Step::Field(got::cut(&key)), stop));
            }
            self.pass.close_value(&mut open);
            ended = self.cursor.ends(b'}')?;
        }
        let result = self.pass.close_map(&open);
        result.map_err(|key| {
            let key = self.pass.key(key);
            self.refuse_field(Fault::Duplicate, values, &key)
        })
    }

    fn refuse_field(&mut self, fault: Fault, node: NodeId, key: &str) -> Stop {
        self.verdict.refuse_field(self.program, self.pass, fault, node, key)
    }
}

/// What was scanned as text, for people.
fn shown(text: &[u8]) -> &str {
    std::str::from_utf8(text).unwrap_or_default()
}
