//! What a time in one of the forms of `accepts` is, found by other means: exact decimal text, and jiff's own parser.
//!
//! Where jiff cannot read a text (a leap second, the last day of year 9999), this has no opinion.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::super::accepts::Accepts;
use super::{Form, Text};

pub(super) fn agrees(accepts: &Accepts, sent: &Text<'_>, stored: Option<i64>) -> bool {
    let to = accepts.unit.per_second();
    match &sent.form {
        Form::Number => accepts.epoch.is_some_and(|epoch| {
            let nanos = decimal_nanos(sent.raw, epoch.per_second());
            nanos.is_none_or(|nanos| in_unit(nanos, to) == stored)
        }),
        Form::String(text) => match nanos_of_text(accepts, text) {
            Some(nanos) => in_unit(nanos, to) == stored,
            None => true,
        },
        _ => false,
    }
}

fn in_unit(nanos: i128, per_second: i64) -> Option<i64> {
    i64::try_from(nanos.div_euclid(i128::from(1_000_000_000 / per_second))).ok()
}

/// By moving the point about; `None` if it is longer than is worth it.
fn decimal_nanos(literal: &str, per_second: i64) -> Option<i128> {
    let lower = literal.to_lowercase();
    let (mantissa, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or((1, mantissa), |rest| (-1, rest));
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: i128 = format!("{before}{behind}").parse().ok()?;
    let exponent: i32 = exponent.parse().ok()?;
    let power = exponent + 9 - per_second.ilog10() as i32 - behind.len() as i32;
    let scale = 10_i128.checked_pow(power.unsigned_abs())?;
    match power {
        0.. => digits.checked_mul(scale).map(|nanos| sign * nanos),
        _ => Some((sign * digits).div_euclid(scale)),
    }
}

fn nanos_of_text(accepts: &Accepts, text: &str) -> Option<i128> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_nanosecond());
    }
    let zone = accepts.local.as_ref()?;
    let time: DateTime = text.parse().ok()?;
    let named: &TimeZone = &zone.zone;
    let zoned = named.to_ambiguous_zoned(time).disambiguate(zone.disambiguation).ok()?;
    Some(zoned.timestamp().as_nanosecond())
}
