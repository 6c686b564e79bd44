//! A schema as a flat program, which is walked instead of the schema.
//!
//! [`compile`](super::compile) makes a [`Program`] once; a driver ([`scan`](super::scan) in service,
//! [`json`](super::json) as its judge) walks a reading's JSON by it, and [`emit`](super::emit) writes what it meets. Here
//! are the forms only, and what each may hold.

use std::sync::atomic::{AtomicU64, Ordering};

use super::lookup::Lookup;
use super::time::Unit;

/// A compiled schema.
#[derive(Debug, Default)]
pub struct Program {
    /// What precedes each datum: the Avro single-object header (C3 01, fingerprint), or Confluent's (00, id).
    pub prefix: Vec<u8>,
    /// Tells it apart from all others of this process.
    pub id: ProgramId,
    pub nodes: Vec<Node>,
    pub root: NodeId,
    /// For each record, from [`Record::successors`] on: the field that is likeliest to come first, then the one after
    /// each field, as the schema has them. What is learned of devices starts from it.
    pub successors: Vec<u32>,
}

/// The number of a compiled schema, in the order of compiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramId(pub u64);

/// Position in [`Program::nodes`].
pub type NodeId = u32;

/// What may stand in one place of a reading, and how it is written.
#[derive(Debug)]
pub enum Node {
    Null,
    Boolean,
    Integer(Integer),
    Real(Real),
    Text,
    /// `"fill": "device"`: a string that must be the device of the address.
    Device,
    /// `"clock": "observed"`: a time, checked against the clock limits.
    ObservedAt,
    /// `"fill": "received_at"`: the gateway's to write, never the device's.
    Reserved,
    /// The symbols, in the schema's order.
    Enum(Box<[Box<str>]>),
    /// Its items.
    Array(NodeId),
    /// Its values.
    Map(NodeId),
    Record(Record),
    /// `["null", T]` or `[T, "null"]`: the branch bytes, and T.
    Optional {
        null: u8,
        some: u8,
        node: NodeId,
    },
    Union(Box<Union>),
}

/// `int`, `long` and the logical types on them.
#[derive(Debug)]
pub struct Integer {
    /// A `long`; otherwise an `int`.
    pub wide: bool,
    pub minimum: i64,
    pub maximum: i64,
    /// Outside of `minimum..=maximum`; they mean "no reading".
    pub sentinels: Box<[i64]>,
    /// A `timestamp-*`, which can be sent as text, too.
    pub instant: Option<Unit>,
}

/// `float` and `double`.
#[derive(Debug)]
pub struct Real {
    /// A `float`; otherwise a `double`. What follows is rounded to it.
    pub single: bool,
    pub minimum: f64,
    pub maximum: f64,
    /// Outside of `minimum..=maximum`; they mean "no reading".
    pub sentinels: Box<[f64]>,
}

#[derive(Debug)]
pub struct Record {
    pub fields: Box<[Field]>,
    /// Its place in [`Program::successors`].
    pub successors: usize,
    by_name: Lookup,
}

#[derive(Debug)]
pub struct Field {
    pub name: Box<str>,
    /// The name as JSON nearly always has it: `"name":`.
    pub quoted: Box<[u8]>,
    pub node: NodeId,
    pub absent: Absent,
}

/// What is written for a field that the reading leaves out, or sends as null where the schema has none.
#[derive(Debug)]
pub enum Absent {
    /// Nothing: the field is required.
    Refused,
    /// The schema's default, as Avro.
    Default(Box<[u8]>),
    /// The device of the address.
    Device,
    /// The time of receipt.
    ReceivedAt,
}

/// A union of more than null and one type: at most one branch per form that JSON can tell apart.
#[derive(Debug, Default)]
pub struct Union {
    pub null: Option<u8>,
    pub boolean: Option<Branch>,
    pub integer: Option<Branch>,
    pub real: Option<Branch>,
    /// String or enum.
    pub text: Option<Branch>,
    pub array: Option<Branch>,
    /// Record or map.
    pub object: Option<Branch>,
}

#[derive(Clone, Copy, Debug)]
pub struct Branch {
    /// The branch's number as Avro writes it.
    pub byte: u8,
    pub node: NodeId,
}

// === impl ProgramId ===

impl Default for ProgramId {
    /// One that no other program has.
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        ProgramId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

// === impl Union ===

impl Union {
    /// All but null.
    pub fn branches(&self) -> impl Iterator<Item = Branch> {
        let all = [
            self.boolean,
            self.integer,
            self.real,
            self.text,
            self.array,
            self.object,
        ];
        all.into_iter().flatten()
    }
}

// === impl Record ===

impl Record {
    pub fn new(fields: Vec<Field>, successors: usize) -> Self {
        let names: Vec<&[u8]> = fields.iter().map(|field| field.name.as_bytes()).collect();
        Record {
            by_name: Lookup::new(&names),
            fields: fields.into(),
            successors,
        }
    }

    /// The index of the field `key`.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let mut candidates = self.by_name.candidates(key);
        candidates.find(|&index| self.fields.get(index).is_some_and(|field| field.name.as_bytes() == key))
    }
}
