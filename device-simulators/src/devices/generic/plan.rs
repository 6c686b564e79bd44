//! A schema as a simulated device sees it: shapes that are to be filled.
//!
//! Shapes refer to each other by number, so that a record can hold itself. Of a union one branch is played, the first that
//! is not null. [`read`](super::read) makes a plan from a schema's text.

use super::choice::Choice;
use super::number::{Course, Number};
use super::text::Text;
use super::time::Time;

/// Position in a plan's shapes.
pub(super) type ShapeId = usize;

/// All shapes of a schema; the first is the outermost record.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) shapes: Vec<Shape>,
}

/// What a value looks like.
#[derive(Debug)]
pub(super) enum Shape {
    Null,
    Boolean(Choice),
    Symbol(Choice),
    Number(Number),
    Time(Time),
    Text(Text),
    Array(Array),
    Map { keys: Vec<String>, values: ShapeId },
    Record(Record),
}

#[derive(Debug)]
pub(super) struct Array {
    pub(super) items: ShapeId,
    /// As hinted; else each device has one to three.
    pub(super) count: Option<usize>,
    pub(super) most: usize,
    /// The field by which items differ.
    pub(super) unique: Option<String>,
}

/// Fields in the order in which they are sent: header, numbers and texts, arrays and records.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) fields: Vec<Field>,
    /// At least one of those that [count](Field::counts) must have a value.
    pub(super) needs_value: bool,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    /// Other spellings.
    pub(super) also: Vec<String>,
    pub(super) shape: ShapeId,
    pub(super) role: Role,
    /// It may be left out.
    pub(super) optional: bool,
    pub(super) nullable: bool,
    /// Branches of its union besides null.
    pub(super) branches: usize,
    /// `any_of` lists it, or there is none.
    pub(super) counts: bool,
    /// The share of readings that have it.
    pub(super) present: Option<f64>,
}

/// What a field is to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Plain,
    /// In all readings of all devices, although it may be left out.
    Kept,
    /// The time of observation, which the gateway judges.
    Clock,
    /// The device's number of the reading.
    Sequence,
    /// The gateway's to fill.
    Filled,
}

// === impl Plan ===

impl Plan {
    pub(super) fn shape(&self, shape: ShapeId) -> &Shape {
        &self.shapes[shape]
    }

    pub(super) fn outermost(&self) -> &Record {
        match self.shapes.first() {
            Some(Shape::Record(record)) => record,
            _ => unreachable!("a kind's schema is a record"),
        }
    }

    /// Whether a reading says its number, so that the one can be told from the other in Kafka.
    pub(super) fn is_numbered(&self) -> bool {
        let fields = &self.outermost().fields;
        fields.iter().any(|field| field.role == Role::Sequence)
    }

    /// The field of the notes on single values, and their flags.
    pub(super) fn notes(&self) -> Option<(&str, &[String])> {
        let mut filled = self
            .outermost()
            .fields
            .iter()
            .filter(|field| field.role == Role::Filled);
        filled.find_map(|field| {
            let Shape::Array(array) = self.shape(field.shape) else {
                return None;
            };
            let Shape::Record(note) = self.shape(array.items) else {
                return None;
            };
            let flag = note.fields.iter().find(|field| field.name == "flag")?;
            match self.shape(flag.shape) {
                Shape::Symbol(flags) => Some((field.name.as_str(), flags.symbols.as_slice())),
                _ => None,
            }
        })
    }

    /// The name and forms of the time of observation.
    pub(super) fn clock(&self) -> Option<(&str, &Time)> {
        let fields = &self.outermost().fields;
        let clock = fields.iter().find(|field| field.role == Role::Clock)?;
        match self.shape(clock.shape) {
            Shape::Time(time) => Some((&clock.name, time)),
            _ => None,
        }
    }
}

// === impl Field ===

impl Field {
    /// Whether every reading has it.
    pub(super) fn is_always_sent(&self) -> bool {
        match self.role {
            Role::Plain => !self.optional,
            Role::Kept | Role::Clock | Role::Sequence => true,
            Role::Filled => false,
        }
    }

    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.also.iter().any(|also| also == name)
    }
}

// === impl Shape ===

impl Shape {
    /// Whether it is in brackets.
    pub(super) fn is_composite(&self) -> bool {
        matches!(self, Shape::Array(_) | Shape::Map { .. } | Shape::Record(_))
    }

    /// A number that a sensor measures or counts.
    pub(super) fn measured(&self) -> Option<&Number> {
        match self {
            Shape::Number(number) if matches!(number.course, Course::Level(_) | Course::Counter(_)) => Some(number),
            _ => None,
        }
    }
}
