//! What can go wrong with a device whose kind has no physics: as much as follows from the schema.
//!
//! Faults change the text of a reading where a field's name is found first, so only fields whose names stand nowhere else
//! in a reading can have one. What a gateway must answer follows from the range, the sentinels and `out_of_range`.

use super::number::{Bounds, Number, Scale};
use super::plan::{Field, Plan, Record, Role, Shape};
use crate::devices::faults::{self, FirmwareBug};

/// What devices say for "no reading" where the schema knows of nothing.
const SAID: &[f64] = &[-9999.0, 65_535.0];

/// The range of what a firmware may hold in a whole number.
const WHOLE_MAX: f64 = 2e9;

/// The last field of the header, which a device sends whatever its sensors do; empty if there is none.
pub(super) fn header_end(plan: &'static Plan) -> &'static str {
    let fields = plan.outermost().fields.iter();
    let header = fields.take_while(|field| matches!(field.role, Role::Clock | Role::Sequence));
    header.last().map_or("", |field| &field.name)
}

pub(super) fn fields(plan: &'static Plan) -> Vec<faults::Field> {
    let fields = plan.outermost().fields.iter();
    let simple = fields.filter(|field| field.branches == 1 && field.role == Role::Plain && is_alone(plan, field));
    let numbers = simple.filter_map(|field| Some((field, plan.shape(field.shape).measured()?)));
    numbers.map(|(field, number)| of(field, &number.bounds)).collect()
}

fn of(field: &'static Field, bounds: &'static Bounds) -> faults::Field {
    let is_whole = bounds.scale == Scale::Whole;
    let (low, high) = (bounds.low.max(-WHOLE_MAX), bounds.high.min(WHOLE_MAX));
    faults::Field {
        sentinels: &bounds.sentinels,
        said: if bounds.sentinels.is_empty() {
            SAID
        } else {
            &bounds.sentinels
        },
        jump: (high - low).min(1000.0) / 4.0,
        wild: if is_whole { 65_535.0 } else { 6553.5 },
        // Another prefix of the unit, or another unit: tens, and °F.
        units: if is_whole {
            &[(10.0, 0.0)]
        } else {
            &[(0.1, 0.0), (10.0, 0.0), (1.8, 32.0)]
        },
        nulled: bounds.nulled,
        whole: is_whole,
        ..faults::field(&field.name, bounds.low, bounds.high)
    }
}

/// The bugs that a gateway must refuse, for all that this schema allows.
pub(super) fn bugs(plan: &Plan) -> Vec<FirmwareBug> {
    let outermost = &plan.outermost().fields;
    let field = |name: &str| outermost.iter().find(|field| field.is_called(name));
    // A member more is unknown, the gateway's own, or there twice.
    let refuses = |name: &str| field(name).is_none_or(|field| field.role == Role::Filled || field.is_always_sent());
    let status = field("status").filter(|field| field.branches == 1 && is_alone(plan, field));
    let shouts = |field: &Field| match plan.shape(field.shape) {
        Shape::Symbol(choice) => choice
            .symbols
            .iter()
            .chain(choice.also.iter().flatten())
            .all(|symbol| symbol != "OK"),
        _ => false,
    };
    let is_possible = |bug: &FirmwareBug| match bug {
        FirmwareBug::BadUtf8 | FirmwareBug::ShoutedSymbol => status.is_some_and(shouts),
        FirmwareBug::FractionForInteger => plan.is_numbered(),
        FirmwareBug::UnknownField => refuses("fw"),
        FirmwareBug::FieldTwice => refuses("sequence"),
        FirmwareBug::ReceiptClaimed => refuses("received_at"),
        FirmwareBug::OtherDevice => refuses("device"),
        FirmwareBug::NoFix => all_reject(plan, "latitude", 999.0),
        _ => true,
    };
    FirmwareBug::ALL.into_iter().filter(is_possible).collect()
}

/// Whether every field of this name, in whichever record, rejects a number that high.
fn all_reject(plan: &Plan, name: &str, number: f64) -> bool {
    let records = plan.shapes.iter().filter_map(|shape| match shape {
        Shape::Record(record) => Some(record),
        _ => None,
    });
    let mut named = records
        .flat_map(|record| &record.fields)
        .filter(|field| field.is_called(name));
    named.all(|field| match plan.shape(field.shape) {
        Shape::Number(Number { bounds, .. }) => {
            let is_sentinel = bounds.sentinels.contains(&number);
            field.branches == 1 && bounds.high < number && !bounds.nulled && !is_sentinel
        }
        _ => false,
    })
}

/// Whether no other field of the schema, and no key of a map, has this name.
fn is_alone(plan: &Plan, field: &Field) -> bool {
    let times = |record: &Record| {
        record
            .fields
            .iter()
            .filter(|other| other.is_called(&field.name))
            .count()
    };
    let found = plan.shapes.iter().map(|shape| match shape {
        Shape::Record(record) => times(record),
        Shape::Map { keys, .. } => keys.iter().filter(|key| **key == field.name).count(),
        _ => 0,
    });
    found.sum::<usize>() == 1
}
