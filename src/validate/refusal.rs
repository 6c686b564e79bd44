//! What is wrong with a reading, in words: path, expected, got.
//!
//! Made on the way out of a failed pass only, so it may allocate; bounded, whatever the device sent. Values are quoted up
//! to [`QUOTED_CHARS_MAX`], paths from their end up to [`PATH_CHARS_MAX`].

use std::fmt::Write as _;

use super::clock;
use super::fault::Fault;
use super::got::{Got, quoted, show};
use super::pass::Pass;
use super::program::{Integer, Node, NodeId, Program, Real};
use super::time::{Mistake, Unit};
use crate::outcome::{Position, Reason, Rejection};

/// Characters of a path.
pub const PATH_CHARS_MAX: usize = 160;
/// Characters of a list of symbols.
const SYMBOLS_CHARS_MAX: usize = 160;

/// One step of a path.
#[derive(Clone, Debug)]
pub enum Step {
    /// A field, or a key as the device sent it.
    Field(String),
    Item(usize),
}

// === impl Fault ===

impl Fault {
    pub fn reason(self) -> Reason {
        match self {
            Fault::Below | Fault::Above | Fault::Sentinel => Reason::OutOfRange,
            Fault::Time(Mistake::TooEarly(_) | Mistake::TooLate(_)) => Reason::OutOfRange,
            Fault::TooFarAhead | Fault::TooOld | Fault::TooEarly => Reason::BadClock,
            Fault::Depth => Reason::Malformed,
            Fault::Type
            | Fault::Symbol
            | Fault::Unknown
            | Fault::Duplicate
            | Fault::Missing
            | Fault::Time(_)
            | Fault::OtherDevice => Reason::SchemaMismatch,
        }
    }

    /// The words after the path.
    pub fn text(self, program: &Program, node: NodeId, got: Got<'_>, pass: &Pass<'_>) -> String {
        let leaf = leaf(program, node, got);
        match (self, leaf) {
            (Fault::Below, Node::Integer(integer)) => format!("{got} is below the minimum {}", integer.minimum),
            (Fault::Above, Node::Integer(integer)) => format!("{got} is above the maximum {}", integer.maximum),
            (Fault::Below, Node::Real(real)) => format!("{got} is below the minimum {}", real.show(real.minimum)),
            (Fault::Above, Node::Real(real)) => format!("{got} is above the maximum {}", real.show(real.maximum)),
            (Fault::Below | Fault::Above | Fault::Sentinel, _) => format!("{got} is out of range"),
            (Fault::Symbol, _) => format!("{got} is not {}", expected(program, node)),
            (Fault::OtherDevice, _) => {
                let device = quoted(pass.device);
                format!("{got} is not the device of the address, {device}")
            }
            (Fault::TooFarAhead | Fault::TooOld | Fault::TooEarly, _) => {
                pass.limits.text(self, got, pass.received_at_ms)
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
}

/// The node that judged the value, inside the unions around it.
fn leaf<'p>(program: &'p Program, node: NodeId, got: Got<'_>) -> &'p Node {
    match program.node(node) {
        Node::Optional { node, .. } => leaf(program, *node, got),
        Node::Union(union) => {
            let branch = match got {
                Got::Number(literal) => program.number_branch(union, literal.parse().ok()),
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
        Node::Text | Node::Device => "string".to_owned(),
        Node::ObservedAt => instant(Unit::Millis),
        Node::Reserved => "nothing".to_owned(),
        Node::Enum(symbols) => one_of(symbols),
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

fn one_of(symbols: &[Box<str>]) -> String {
    let mut text = "one of ".to_owned();
    for (index, symbol) in symbols.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        if text.len() + symbol.len() > SYMBOLS_CHARS_MAX {
            text.push('…');
            break;
        }
        text.push_str(symbol);
    }
    text
}

impl Real {
    /// A limit as its author wrote it, as far as can be told.
    pub fn show(&self, value: f64) -> String {
        show(value, self.single)
    }
}

// === paths ===

/// `lanes[2].speed_kmh: text`; `steps` are in the order of unwinding, the innermost first.
pub fn located(steps: &[Step], text: &str) -> String {
    let mut path = String::new();
    for step in steps.iter().rev() {
        match step {
            Step::Field(name) if path.is_empty() => path.push_str(name),
            Step::Field(name) => {
                path.push('.');
                path.push_str(name);
            }
            // Writing to a String does not fail.
            Step::Item(index) => drop(write!(path, "[{index}]")),
        }
    }
    if path.is_empty() {
        return text.to_owned();
    }
    let excess = path.chars().count().saturating_sub(PATH_CHARS_MAX);
    if excess > 0 {
        path = path.chars().skip(excess).collect();
        path.insert(0, '…');
    }
    format!("{path}: {text}")
}

/// Not JSON: `line 1, column 17: expected …`.
pub fn malformed(line: usize, column: usize, text: &str) -> Rejection {
    Rejection::malformed_at(Position::new(line, column), text)
}
