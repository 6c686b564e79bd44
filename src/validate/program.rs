//! A schema as a flat program, and the functions that write Avro by it.
//!
//! [`compile`](super::compile) makes a [`Program`] once; a driver ([`scan`](super::scan) in service,
//! [`json`](super::json) as its judge) walks a reading's JSON and calls the functions here with what it meets: `emit_*`
//! for scalars, `enter_*` for arrays and objects. They know no parser. Whatever does not fit is a [`Fault`], a code
//! that costs nothing; [`refusal`](super::refusal) turns it into words. Records and blocks are laid out by
//! [`pass`](super::pass).

use std::sync::atomic::{AtomicU64, Ordering};

use super::literal;
use super::lookup::Lookup;
use super::pass::{Pass, write_long, write_text};
use super::time::{self, Unit};

/// Levels of arrays and objects in a reading; a recursive schema could otherwise nest without end.
pub const DEPTH_MAX: u32 = 64;

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

/// Why something does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not what the schema has in this place.
    Type,
    Symbol,
    Below,
    Above,
    /// A sentinel: written as null by the union around it, so it never leaves `emit_*`.
    Sentinel,
    Unknown,
    Duplicate,
    Missing,
    /// The device names another one than the address does.
    OtherDevice,
    /// A text that is no time, where a time may be sent as text.
    Time(time::Mistake),
    TooFarAhead,
    TooOld,
    /// Before there was anything to observe, whatever the limits say.
    TooEarly,
    /// Nested deeper than [`DEPTH_MAX`].
    Depth,
}

/// Whether what stands inside `depth` arrays and objects may be one itself.
pub fn deeper(depth: u32) -> Result<(), Fault> {
    if depth < DEPTH_MAX { Ok(()) } else { Err(Fault::Depth) }
}

// === impl ProgramId ===

impl Default for ProgramId {
    /// One that no other program has.
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        ProgramId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

// === impl Program: scalars ===
// Numbers are inlined by force, here and in `scan::number`: calls would cost some 5 % of a reading (bench `stages`).

impl Program {
    #[inline]
    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node as usize]
    }

    /// A number without fraction or exponent that fits `long`, but for `-0`.
    #[inline(always)]
    pub fn emit_i64(&self, node: NodeId, value: i64, pass: &mut Pass<'_>) -> Result<(), Fault> {
        match self.node(node) {
            Node::Optional { null, some, node } => pass.number(Some(*null), *some, |pass| self.i64(*node, value, pass)),
            Node::Union(union) => {
                let branch = self.number_branch(union, Some(value)).ok_or(Fault::Type)?;
                pass.number(union.null, branch.byte, |pass| self.i64(branch.node, value, pass))
            }
            _ => self.i64(node, value, pass),
        }
    }

    /// The same in no union; none lies directly in another.
    #[inline(always)]
    fn i64(&self, node: NodeId, value: i64, pass: &mut Pass<'_>) -> Result<(), Fault> {
        match self.node(node) {
            Node::Integer(integer) => integer.emit(value, &mut pass.buffers.out),
            Node::Real(real) if real.single => real.emit_f32(value as f32, &mut pass.buffers.out),
            Node::Real(real) => real.emit_f64(value as f64, &mut pass.buffers.out),
            Node::ObservedAt => {
                pass.limits.judge(value, pass.received_at_ms)?;
                write_long(value, &mut pass.buffers.out);
                Ok(())
            }
            _ => Err(Fault::Type),
        }
    }

    /// Any other number: `value` is the nearest double (infinite beyond all of them), `literal` gives it as it came.
    #[inline(always)]
    pub fn emit_f64<'l>(
        &self,
        node: NodeId,
        value: f64,
        literal: impl Fn() -> &'l str,
        pass: &mut Pass<'_>,
    ) -> Result<(), Fault> {
        match self.node(node) {
            Node::Optional { null, some, node } => {
                pass.number(Some(*null), *some, |pass| self.f64(*node, value, literal, pass))
            }
            Node::Union(union) => {
                // The text is looked at only where a branch for integers may want it.
                let integer = union.integer.and_then(|_| literal().parse().ok());
                let branch = self.number_branch(union, integer).ok_or(Fault::Type)?;
                pass.number(union.null, branch.byte, |pass| {
                    self.f64(branch.node, value, literal, pass)
                })
            }
            _ => self.f64(node, value, literal, pass),
        }
    }

    #[inline(always)]
    fn f64<'l>(
        &self,
        node: NodeId,
        value: f64,
        literal: impl Fn() -> &'l str,
        pass: &mut Pass<'_>,
    ) -> Result<(), Fault> {
        match self.node(node) {
            Node::Real(real) if real.single => {
                let value = literal::single(value, literal);
                real.emit_f32(value, &mut pass.buffers.out)
            }
            Node::Real(real) => real.emit_f64(value, &mut pass.buffers.out),
            Node::Integer(_) | Node::ObservedAt => self.whole(node, literal(), pass),
            _ => Err(Fault::Type),
        }
    }

    #[cold]
    fn whole(&self, node: NodeId, literal: &str, pass: &mut Pass<'_>) -> Result<(), Fault> {
        let value = literal::whole(literal).map_err(|fault| self.beyond(node, fault))?;
        self.i64(node, value, pass)
    }

    /// A time of observation that cannot be stored comes from a bad clock, as does one that can and is far off.
    fn beyond(&self, node: NodeId, fault: Fault) -> Fault {
        match (self.node(node), fault) {
            (Node::ObservedAt, Fault::Below | Fault::Time(time::Mistake::TooEarly(_))) => Fault::TooEarly,
            (Node::ObservedAt, Fault::Above | Fault::Time(time::Mistake::TooLate(_))) => Fault::TooFarAhead,
            _ => fault,
        }
    }

    /// Where a union stores a number; `integer` is its value if it has neither fraction nor exponent and fits `long`.
    /// Such a one is an integer if that branch's type holds it; all else goes to the real branch, if there is one.
    pub fn number_branch(&self, union: &Union, integer: Option<i64>) -> Option<Branch> {
        let fits = |branch: &Branch| match self.node(branch.node) {
            Node::Integer(node) => integer.is_some_and(|value| node.wide || i32::try_from(value).is_ok()),
            _ => integer.is_some(),
        };
        union.integer.filter(fits).or(union.real).or(union.integer)
    }

    /// A text, which is UTF-8.
    #[inline]
    pub fn emit_str(&self, node: NodeId, text: &[u8], pass: &mut Pass<'_>) -> Result<(), Fault> {
        let leaf = match self.node(node) {
            Node::Optional { some, node, .. } => pass.take(*some, *node),
            Node::Union(union) => pass.take_branch(union.text.or(union.integer))?,
            _ => node,
        };
        match self.node(leaf) {
            Node::Text => write_text(text, &mut pass.buffers.out),
            Node::Enum(symbols) => {
                let index = symbols.iter().position(|symbol| symbol.as_bytes() == text);
                write_long(index.ok_or(Fault::Symbol)? as i64, &mut pass.buffers.out);
            }
            Node::Device if text == pass.device.as_bytes() => write_text(text, &mut pass.buffers.out),
            Node::Device => return Err(Fault::OtherDevice),
            _ => return self.emit_time(node, leaf, text, pass),
        }
        Ok(())
    }

    /// A text in the place `leaf` of `node` that has no texts: a time, if it has times.
    #[cold]
    fn emit_time(&self, node: NodeId, leaf: NodeId, text: &[u8], pass: &mut Pass<'_>) -> Result<(), Fault> {
        let unit = self.instant(leaf).ok_or(Fault::Type)?;
        if leaf != node {
            // The branch's number, which is written once more with the value.
            pass.buffers.out.pop();
        }
        let value = time::parse(text, unit).map_err(|mistake| self.beyond(leaf, Fault::Time(mistake)))?;
        self.emit_i64(node, value, pass)
    }

    /// The unit of a time that can be sent as text.
    pub fn instant(&self, node: NodeId) -> Option<Unit> {
        match self.node(node) {
            Node::Integer(integer) => integer.instant,
            Node::ObservedAt => Some(Unit::Millis),
            _ => None,
        }
    }

    pub fn emit_bool(&self, node: NodeId, value: bool, pass: &mut Pass<'_>) -> Result<(), Fault> {
        let leaf = match self.node(node) {
            Node::Optional { some, node, .. } => pass.take(*some, *node),
            Node::Union(union) => pass.take_branch(union.boolean)?,
            _ => node,
        };
        match self.node(leaf) {
            Node::Boolean => {
                pass.buffers.out.push(u8::from(value));
                Ok(())
            }
            _ => Err(Fault::Type),
        }
    }

    /// `field` is what it is the value of, if it is one of a record.
    pub fn emit_null(&self, node: NodeId, field: Option<&Field>, pass: &mut Pass<'_>) -> Result<(), Fault> {
        let null = match self.node(node) {
            Node::Null => return Ok(()),
            Node::Optional { null, .. } => Some(*null),
            Node::Union(union) => union.null,
            _ => None,
        };
        match (null, field) {
            (Some(null), _) => pass.buffers.out.push(null),
            (None, Some(field)) => pass.null_field(field)?,
            (None, None) => return Err(Fault::Type),
        }
        Ok(())
    }

    /// A `[`: writes what precedes the block, and gives the node of the items.
    pub fn enter_array(&self, node: NodeId, pass: &mut Pass<'_>) -> Result<NodeId, Fault> {
        let leaf = match self.node(node) {
            Node::Optional { some, node, .. } => pass.take(*some, *node),
            Node::Union(union) => pass.take_branch(union.array)?,
            _ => node,
        };
        match self.node(leaf) {
            Node::Array(items) => Ok(*items),
            _ => Err(Fault::Type),
        }
    }

    /// A `{`: writes what precedes the object, and gives its node, a [`Node::Record`] or [`Node::Map`].
    pub fn enter_object(&self, node: NodeId, pass: &mut Pass<'_>) -> Result<NodeId, Fault> {
        let leaf = match self.node(node) {
            Node::Optional { some, node, .. } => pass.take(*some, *node),
            Node::Union(union) => pass.take_branch(union.object)?,
            _ => node,
        };
        match self.node(leaf) {
            Node::Record(_) | Node::Map(_) => Ok(leaf),
            _ => Err(Fault::Type),
        }
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

// === impl Integer, Real ===

impl Integer {
    #[inline(always)]
    fn emit(&self, value: i64, out: &mut Vec<u8>) -> Result<(), Fault> {
        if (self.minimum..=self.maximum).contains(&value) {
            write_long(value, out);
            Ok(())
        } else if self.sentinels.contains(&value) {
            Err(Fault::Sentinel)
        } else if value < self.minimum {
            Err(Fault::Below)
        } else {
            Err(Fault::Above)
        }
    }
}

impl Real {
    #[inline(always)]
    fn emit_f64(&self, value: f64, out: &mut Vec<u8>) -> Result<(), Fault> {
        if (self.minimum..=self.maximum).contains(&value) {
            out.extend_from_slice(&value.to_le_bytes());
            Ok(())
        } else {
            Err(self.fault(value))
        }
    }

    #[inline(always)]
    fn emit_f32(&self, value: f32, out: &mut Vec<u8>) -> Result<(), Fault> {
        if (self.minimum..=self.maximum).contains(&f64::from(value)) {
            out.extend_from_slice(&value.to_le_bytes());
            Ok(())
        } else {
            Err(self.fault(f64::from(value)))
        }
    }

    fn fault(&self, value: f64) -> Fault {
        if self.sentinels.contains(&value) {
            Fault::Sentinel
        } else if value < self.minimum {
            Fault::Below
        } else {
            Fault::Above
        }
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
