//! Which schemas are numbers, and what a logical type bounds.
//!
//! Logical types are sent as the plain number. What readers of dates and times can show is what is allowed.

use apache_avro::Schema;

use crate::validate::time::{FIRST_S, LAST_S, Unit};

/// An integer's type, and what its logical type leaves of it.
pub struct Whole {
    pub wide: bool,
    pub lowest: i64,
    pub highest: i64,
    pub instant: Option<Unit>,
}

impl Whole {
    /// Logical types are sent as the plain number. What readers of dates and times can show is what is allowed: the years
    /// 1 to 9999, and the time of one day.
    pub fn of(schema: &Schema) -> Option<Self> {
        const DAY_S: i64 = 24 * 60 * 60;
        let (wide, lowest, highest, instant) = match schema {
            Schema::Int => (false, i32::MIN.into(), i32::MAX.into(), None),
            Schema::Long => (true, i64::MIN, i64::MAX, None),
            Schema::Date => (false, FIRST_S / DAY_S, LAST_S / DAY_S, None),
            Schema::TimeMillis => (false, 0, DAY_S * 1_000 - 1, None),
            Schema::TimeMicros => (true, 0, DAY_S * 1_000_000 - 1, None),
            Schema::TimestampMillis => return Some(Whole::instant(Unit::Millis, true)),
            Schema::TimestampMicros => return Some(Whole::instant(Unit::Micros, true)),
            Schema::TimestampNanos => return Some(Whole::instant(Unit::Nanos, true)),
            Schema::LocalTimestampMillis => return Some(Whole::instant(Unit::Millis, false)),
            Schema::LocalTimestampMicros => return Some(Whole::instant(Unit::Micros, false)),
            Schema::LocalTimestampNanos => return Some(Whole::instant(Unit::Nanos, false)),
            _ => return None,
        };
        Some(Whole {
            wide,
            lowest,
            highest,
            instant,
        })
    }

    /// Nanoseconds do not reach the years 1 and 9999. A local time has no offset, so it is not accepted as text.
    fn instant(unit: Unit, global: bool) -> Self {
        let per_second = unit.per_second();
        Whole {
            wide: true,
            lowest: FIRST_S.saturating_mul(per_second),
            highest: LAST_S.saturating_mul(per_second).saturating_add(per_second - 1),
            instant: global.then_some(unit),
        }
    }
}

/// Whether `minimum`, `maximum` and `sentinels` mean something on it.
pub fn is_number(schema: &Schema) -> bool {
    matches!(schema, Schema::Float | Schema::Double) || Whole::of(schema).is_some()
}

/// What a timestamp counts that can be sent as text.
pub fn instant(schema: &Schema) -> Option<Unit> {
    Whole::of(schema)?.instant
}
