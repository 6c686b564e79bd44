//! What is wrong with a reading, in words: path, expected, got.
//!
//! Made on the way out of a failed pass only, so it may allocate; bounded, whatever the device sent. Values are quoted as far
//! as [`got`](super::got) says, places as far as [`path`](super::path) does.

use super::clock;
use super::fault::Fault;
use super::got::{Got, quoted, show};
use super::pass::Pass;
use super::path::{Path, Place};
use super::program::{Exclusive, Integer, Node, NodeId, Program, Range, Real};
use super::text_rules::TextRules;
use super::time::{Mistake, Unit};
use crate::outcome::{Position, Reason, Rejection};

/// Characters of a list of symbols or fields.
const NAMES_CHARS_MAX: usize = 160;

/// One step of a path.
#[derive(Clone, Debug)]
pub enum Step {
    /// A field, or a key, escaped and cut.
    Field(String),
    Item(usize),
}

// === impl Fault ===

impl Fault {
    pub fn reason(self) -> Reason {
        match self {
            Fault::Below | Fault::Above | Fault::Sentinel | Fault::Nulled => Reason::OutOfRange,
            Fault::Time(Mistake::TooEarly(_) | Mistake::TooLate(_)) => Reason::OutOfRange,
            Fault::TooFarAhead | Fault::TooOld | Fault::TooEarly => Reason::BadClock,
            Fault::Depth => Reason::Malformed,
            Fault::Type
            | Fault::Symbol
            | Fault::Unknown
            | Fault::Duplicate
            | Fault::Missing
            | Fault::TooShort
            | Fault::TooLong
            | Fault::Pattern
            | Fault::TooManyItems
            | Fault::NotUnique
            | Fault::Empty
            | Fault::Time(_)
            | Fault::OtherDevice => Reason::SchemaMismatch,
        }
    }

    /// The words after the path.
    pub fn text(self, program: &Program, node: NodeId, got: Got<'_>, pass: &Pass<'_>) -> String {
        let leaf = leaf(program, node, got);
        match (self, leaf) {
            (Fault::Below | Fault::Above, Node::Integer(integer)) => {
                self.beyond(got, integer.range.exclusive, integer.bound(self))
            }
            (Fault::Below | Fault::Above, Node::Real(real)) => self.beyond(got, real.range.exclusive, real.bound(self)),
            (Fault::Below | Fault::Above | Fault::Sentinel | Fault::Nulled, _) => format!("{got} is out of range"),
            (Fault::TooShort | Fault::TooLong | Fault::Pattern, Node::CheckedText(rules)) => {
                self.text_of_rules(rules, got)
            }
            (Fault::TooManyItems, Node::Array(array)) => format!("more than {} items", array.items_max),
            (Fault::NotUnique, Node::Array(array)) => {
                format!(
                    "two items have the same {}",
                    array.unique.as_deref().unwrap_or_default()
                )
            }
            (Fault::Empty, Node::Record(record)) => {
                let fields = record.rules.any_of.iter().filter_map(|&index| record.fields.get(index));
                format!(
                    "no value; send {}",
                    one_of(fields.map(|field| &*field.name), "at least one of ")
                )
            }
            (
                Fault::TooShort
                | Fault::TooLong
                | Fault::Pattern
                | Fault::TooManyItems
                | Fault::NotUnique
                | Fault::Empty,
                _,
            ) => {
                format!("{got} does not fit")
            }
            (Fault::Symbol, _) => format!("{got} is not {}", expected(program, node)),
            (Fault::OtherDevice, _) => {
                let device = quoted(pass.device);
                format!("{got} is not the device of the address, {device}")
            }
            (Fault::TooFarAhead | Fault::TooOld | Fault::TooEarly, Node::Accepts(accepts)) => {
                pass.limits.text(self, got, accepts.sent(got), "", pass.received_at_ms)
            }
            (Fault::TooFarAhead | Fault::TooOld | Fault::TooEarly, _) => {
                let hint = clock::hint(got, pass.received_at_ms);
                pass.limits
                    .text(self, got, clock::observed_ms(got), &hint, pass.received_at_ms)
            }
            (Fault::Type, Node::ObservedAt) => {
                let hint = clock::hint(got, pass.received_at_ms);
                format!("expected {}, got {got}{hint}", instant(Unit::Millis))
            }
            (Fault::Time(mistake), _) => format!("{got} {}", mistake.text()),
            (Fault::Type, Node::Reserved) => "only the gateway writes this field; leave it out".to_owned(),
            (Fault::Unknown, _) => "unknown field".to_owned(),
            (Fault::Duplicate, _) => "came twice".to_owned(),
            (Fault::Missing, _) => "missing".to_owned(),
            (Fault::Depth, _) => format!("nested deeper than {} levels", super::fault::DEPTH_MAX),
            (Fault::Type, _) => format!("expected {}, got {got}", expected(program, node)),
        }
    }

    fn beyond(self, got: Got<'_>, exclusive: Exclusive, bound: String) -> String {
        match self {
            Fault::Below if exclusive.minimum => format!("{got} is not above {bound}"),
            Fault::Below => format!("{got} is below the minimum {bound}"),
            _ if exclusive.maximum => format!("{got} is not below {bound}"),
            _ => format!("{got} is above the maximum {bound}"),
        }
    }

    fn text_of_rules(self, rules: &TextRules, got: Got<'_>) -> String {
        match (self, rules.chars_min, rules.chars_max, &rules.pattern) {
            (Fault::TooShort, Some(1), _, _) => format!("{got} is empty"),
            (Fault::TooShort, Some(least), _, _) => format!("{got} is shorter than {least} characters"),
            (Fault::TooLong, _, Some(most), _) => format!("{got} is longer than {most} characters"),
            (_, _, _, Some(pattern)) => format!("{got} does not match {}", quoted(pattern.as_str())),
            _ => format!("{got} does not fit"),
        }
    }
}

/// The node that judged the value, inside the unions around it.
fn leaf<'p>(program: &'p Program, node: NodeId, got: Got<'_>) -> &'p Node {
    match program.node(node) {
        Node::Optional { node, .. } => leaf(program, *node, got),
        Node::Union(union) => {
            let branch = match got {
                Got::Number(literal) => program.number_branch(union, literal.parse().ok()),
                Got::Array => union.array,
                Got::Object => union.object,
                _ => union.text.or(union.integer),
            };
            branch.map_or(program.node(node), |branch| program.node(branch.node))
        }
        node => node,
    }
}

/// What the schema has in this place. That null is fine, too, goes without saying.
fn expected(program: &Program, node: NodeId) -> String {
    match program.node(node) {
        Node::Null => "null".to_owned(),
        Node::Boolean => "boolean".to_owned(),
        Node::Integer(Integer {
            instant: Some(unit), ..
        }) => instant(*unit),
        Node::Integer(integer) => if integer.wide { "long" } else { "int" }.to_owned(),
        Node::Real(real) => if real.single { "float" } else { "double" }.to_owned(),
        Node::Text | Node::CheckedText(_) | Node::Device => "string".to_owned(),
        Node::ObservedAt => instant(Unit::Millis),
        Node::Accepts(accepts) => accepts.expected(),
        Node::Reserved => "nothing".to_owned(),
        Node::Enum(symbols) => one_of(symbols.names.iter().map(|name| &**name), "one of "),
        Node::Array(_) => "array".to_owned(),
        Node::Map(_) | Node::Record(_) => "object".to_owned(),
        Node::Optional { node, .. } => expected(program, *node),
        Node::Union(union) => {
            let names = union.branches().map(|branch| expected(program, branch.node));
            names.collect::<Vec<_>>().join(" or ")
        }
    }
}

fn instant(unit: Unit) -> String {
    format!(
        "long ({} since 1970) or a time such as \"2026-11-21T12:00:00Z\"",
        unit.name()
    )
}

fn one_of<'n>(names: impl Iterator<Item = &'n str>, before: &str) -> String {
    let mut text = before.to_owned();
    for (index, name) in names.enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        if text.len() + name.len() > NAMES_CHARS_MAX {
            text.push('…');
            break;
        }
        text.push_str(name);
    }
    text
}

impl Integer {
    /// The bound that a value is beyond, as its author wrote it.
    fn bound(&self, fault: Fault) -> String {
        let bound = self.range.bound(fault, |least| least - 1, |most| most + 1);
        bound.to_string()
    }
}

impl Real {
    /// The same, as far as can be told.
    fn bound(&self, fault: Fault) -> String {
        let single = self.single;
        let (down, up) = (|least| Real::down(single, least), |most| Real::up(single, most));
        show(self.range.bound(fault, down, up), single)
    }
}

impl<T: Copy> Range<T> {
    /// What is kept of an exclusive bound is the next number within.
    fn bound(&self, fault: Fault, down: impl Fn(T) -> T, up: impl Fn(T) -> T) -> T {
        match fault {
            Fault::Below if self.exclusive.minimum => down(self.minimum),
            Fault::Below => self.minimum,
            _ if self.exclusive.maximum => up(self.maximum),
            _ => self.maximum,
        }
    }
}

// === paths ===

/// `lanes[2].speed_kmh: text`; `steps` are in the order of unwinding, the innermost first.
pub fn located(steps: &[Step], text: &str) -> String {
    let mut path = Path::default();
    for step in steps {
        path.prepend(match step {
            Step::Field(name) => Place::Shown(name),
            Step::Item(index) => Place::Item(*index),
        });
    }
    match path.as_str() {
        "" => text.to_owned(),
        path => format!("{path}: {text}"),
    }
}

/// Not JSON: `line 1, column 17: expected …`.
pub fn malformed(line: usize, column: usize, text: &str) -> Rejection {
    Rejection::malformed_at(Position::new(line, column), text)
}
