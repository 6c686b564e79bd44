//! A schema as a flat program, which is walked instead of the schema.
//!
//! [`compile`](super::compile) makes a [`Program`] once; a driver ([`scan`](super::scan) in service,
//! [`json`](super::json) as its judge) walks a reading's JSON by it, and [`emit`](super::emit) writes what it meets. Here
//! are the forms only, and what each may hold.

use std::sync::atomic::{AtomicU64, Ordering};

use super::accepts::Accepts;
use super::fault::Fault;
pub use super::field::{Absent, Field, NodeId};
use super::record::Record;
use super::text_rules::TextRules;
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
    /// The numbers that can become null, each with its path in the schema: `lanes[].speed_kmh`. In the order of the nodes.
    pub paths: Vec<(NodeId, Box<str>)>,
}

/// The number of a compiled schema, in the order of compiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramId(pub u64);

/// What may stand in one place of a reading, and how it is written.
#[derive(Debug)]
pub enum Node {
    Null,
    Boolean,
    Integer(Integer),
    Real(Real),
    Text,
    /// A string with `minLength`, `maxLength` or `pattern`.
    CheckedText(Box<TextRules>),
    /// `"fill": "device"`: a string that must be the device of the address.
    Device,
    /// `"clock": "observed"`: a time, checked against the clock limits.
    ObservedAt,
    /// `"accepts"`: a time in forms that the schema lists.
    Accepts(Box<Accepts>),
    /// `"fill": "received_at"`: the gateway's to write, never the device's.
    Reserved,
    Enum(Symbols),
    Array(Array),
    /// Its values.
    Map(NodeId),
    /// Large, and few: in a box, so that all others are small.
    Record(Box<Record>),
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
    pub range: Range<i64>,
    /// A `timestamp-*`, which can be sent as text, too.
    pub instant: Option<Unit>,
}

/// `float` and `double`.
#[derive(Debug)]
pub struct Real {
    /// A `float`; otherwise a `double`. The range is rounded to it.
    pub single: bool,
    pub range: Range<f64>,
}

/// Which numbers a type accepts, and what the others mean.
#[derive(Debug)]
pub struct Range<T> {
    pub minimum: T,
    pub maximum: T,
    /// They mean "no reading".
    pub sentinels: Box<[T]>,
    /// Those within `minimum..=maximum`; few fields have one.
    pub inside: Box<[T]>,
    /// `"out_of_range": "null"`.
    pub nulled: bool,
    pub exclusive: Exclusive,
}

/// Which bounds were written as exclusive: what is kept is the next number within.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exclusive {
    pub minimum: bool,
    pub maximum: bool,
}

/// An enum's symbols, in the schema's order.
#[derive(Debug, Default)]
pub struct Symbols {
    pub names: Box<[Box<str>]>,
    /// `"also"`: other spellings, each with the index of its symbol.
    pub also: Box<[(Box<str>, usize)]>,
}

#[derive(Debug)]
pub struct Array {
    pub items: NodeId,
    /// `"maxItems"`.
    pub items_max: usize,
    /// `"unique"`: the field that tells items apart; they are records that keep where it lies ([`Record::identity`]).
    pub unique: Option<Box<str>>,
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

// === impl Real ===

impl Real {
    /// The next number of the type.
    pub fn up(single: bool, value: f64) -> f64 {
        if single {
            (value as f32).next_up().into()
        } else {
            value.next_up()
        }
    }

    pub fn down(single: bool, value: f64) -> f64 {
        -Real::up(single, -value)
    }
}

// === impl Range ===

impl<T: Copy + PartialOrd> Range<T> {
    #[inline(always)]
    pub fn check(&self, value: T) -> Result<(), Fault> {
        let is_within = (self.minimum..=self.maximum).contains(&value);
        if is_within && (self.inside.is_empty() || !self.is_inside(value)) {
            Ok(())
        } else {
            Err(self.fault(value))
        }
    }

    /// Out of line, as few fields have such sentinels.
    #[cold]
    fn is_inside(&self, value: T) -> bool {
        self.inside.contains(&value)
    }

    #[cold]
    fn fault(&self, value: T) -> Fault {
        match value {
            _ if self.sentinels.contains(&value) => Fault::Sentinel,
            _ if self.nulled => Fault::Nulled,
            _ if value < self.minimum => Fault::Below,
            _ => Fault::Above,
        }
    }

    /// It holds a number that becomes null.
    pub fn can_be_nulled(&self) -> bool {
        self.nulled || !self.sentinels.is_empty()
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

// === impl Program, Symbols ===

impl Program {
    #[inline]
    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node as usize]
    }

    /// The path of a number that can become null.
    pub fn path(&self, node: NodeId) -> &str {
        let found = self.paths.binary_search_by_key(&node, |(node, _)| *node);
        found.map_or("", |index| &self.paths[index].1)
    }
}

impl Symbols {
    #[inline]
    pub fn index(&self, text: &[u8]) -> Option<usize> {
        let index = self.names.iter().position(|symbol| symbol.as_bytes() == text);
        index.or_else(|| {
            let other = self.also.iter().find(|(other, _)| other.as_bytes() == text);
            other.map(|(_, index)| *index)
        })
    }
}
