//! The functions that write Avro by a program: `emit_*` for scalars, `enter_*` for arrays and objects.
//!
//! A driver calls them with what it meets in a reading's JSON; they know no parser. Whatever does not fit is a [`Fault`].
//! Records and blocks are laid out by [`pass`](super::pass).

use super::fault::Fault;
use super::literal;
use super::pass::{Pass, write_long, write_text};
use super::program::{Array, Branch, Field, Integer, Node, NodeId, Program, Real, Union};
use super::time::{self, Unit};

// === impl Program: scalars ===
// Numbers are inlined by force, here and in `scan::number`: calls would cost some 5 % of a reading (bench `stages`).

impl Program {
    /// A number without fraction or exponent that fits `long`, but for `-0`.
    #[inline(always)]
    pub fn emit_i64(&self, node: NodeId, value: i64, pass: &mut Pass<'_>) -> Result<(), Fault> {
        match self.node(node) {
            Node::Optional { null, some, node } => {
                pass.number(Some(*null), *some, *node, |pass| self.i64(*node, value, pass))
            }
            Node::Union(union) => {
                let branch = self.number_branch(union, Some(value)).ok_or(Fault::Type)?;
                pass.number(union.null, branch.byte, branch.node, |pass| {
                    self.i64(branch.node, value, pass)
                })
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
            Node::Accepts(accepts) => self.time(accepts.node, accepts.integer(value), pass),
            _ => Err(Fault::Type),
        }
    }

    /// A time in the unit of its field, in no union.
    #[cold]
    fn time(&self, node: NodeId, value: Result<i64, Fault>, pass: &mut Pass<'_>) -> Result<(), Fault> {
        let value = value.map_err(|fault| self.beyond(node, fault))?;
        match self.node(node) {
            Node::Integer(integer) => integer.emit(value, &mut pass.buffers.out),
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
                pass.number(Some(*null), *some, *node, |pass| self.f64(*node, value, literal, pass))
            }
            Node::Union(union) => {
                // The text is looked at only where a branch for integers may want it.
                let integer = union.integer.and_then(|_| literal().parse().ok());
                let branch = self.number_branch(union, integer).ok_or(Fault::Type)?;
                pass.number(union.null, branch.byte, branch.node, |pass| {
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
            Node::Accepts(accepts) => self.time(accepts.node, accepts.number(literal()), pass),
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
            (
                Node::Integer(integer),
                Fault::Below | Fault::Above | Fault::Time(time::Mistake::TooEarly(_) | time::Mistake::TooLate(_)),
            ) if integer.range.nulled => Fault::Nulled,
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
                let index = symbols.index(text).ok_or(Fault::Symbol)?;
                write_long(index as i64, &mut pass.buffers.out);
            }
            Node::CheckedText(rules) if rules.is_too_long(text) => return Err(Fault::TooLong),
            Node::CheckedText(rules) if rules.is_too_short(text) => return Err(Fault::TooShort),
            Node::CheckedText(rules) if !rules.matches(text) => return Err(Fault::Pattern),
            Node::CheckedText(_) => write_text(text, &mut pass.buffers.out),
            Node::Device if text == pass.device.as_bytes() => write_text(text, &mut pass.buffers.out),
            Node::Device => return Err(Fault::OtherDevice),
            _ => return self.emit_time(node, leaf, text, pass),
        }
        Ok(())
    }

    /// A text in the place `leaf` of `node` that has no texts: a time, if it has times.
    #[cold]
    fn emit_time(&self, node: NodeId, leaf: NodeId, text: &[u8], pass: &mut Pass<'_>) -> Result<(), Fault> {
        if leaf != node {
            // The branch's number, which is written once more with the value.
            pass.buffers.out.pop();
        }
        let parsed = |unit| time::parse(text, unit).map_err(Fault::Time);
        let (stored, value) = match self.node(leaf) {
            Node::Integer(Integer {
                instant: Some(unit), ..
            }) => (leaf, parsed(*unit)),
            Node::ObservedAt => (leaf, parsed(Unit::Millis)),
            Node::Accepts(accepts) => (accepts.node, accepts.text(text)),
            _ => return Err(Fault::Type),
        };
        match self.node(node) {
            Node::Optional { null, some, .. } => {
                pass.number(Some(*null), *some, stored, |pass| self.time(stored, value, pass))
            }
            Node::Union(union) => {
                let byte = union.integer.map_or(0, |branch| branch.byte);
                pass.number(union.null, byte, stored, |pass| self.time(stored, value, pass))
            }
            _ => self.time(stored, value, pass),
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

    /// A `[`: writes what precedes the block, and gives what the array is.
    pub fn enter_array(&self, node: NodeId, pass: &mut Pass<'_>) -> Result<&Array, Fault> {
        let leaf = match self.node(node) {
            Node::Optional { some, node, .. } => pass.take(*some, *node),
            Node::Union(union) => pass.take_branch(union.array)?,
            _ => node,
        };
        match self.node(leaf) {
            Node::Array(array) => Ok(array),
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

// === impl Integer, Real ===

impl Integer {
    #[inline(always)]
    fn emit(&self, value: i64, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.range.check(value)?;
        write_long(value, out);
        Ok(())
    }
}

impl Real {
    #[inline(always)]
    fn emit_f64(&self, value: f64, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.range.check(value)?;
        out.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }

    #[inline(always)]
    fn emit_f32(&self, value: f32, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.range.check(f64::from(value))?;
        out.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }
}
