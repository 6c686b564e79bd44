//! A time as text: RFC 3339, exact; with an offset, or without one where a schema says which zone that means.
//!
//! `2026-11-21T12:00:00.5+01:00`. Digits finer than the field's unit are cut off, towards the past. A leap second has no
//! number of its own since 1970, so it is refused rather than taken for another second.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, Disambiguation, TimeZone};

/// Years 1 to 9999, which is what readers can show: 0001-01-01T00:00:00Z, in seconds since 1970.
pub const FIRST_S: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z.
pub const LAST_S: i64 = 253_402_300_799;

const NANOS_PER_SECOND: i128 = 1_000_000_000;
const SECONDS_PER_DAY: i128 = 24 * 60 * 60;

/// What a timestamp counts since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

/// Why a text is no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Not of this form at all.
    Form,
    NoOffset,
    /// It has an offset, where only local times are accepted.
    HasOffset,
    /// A local time that summer time skips.
    Skipped,
    /// A local time that comes twice when summer time ends.
    Repeated,
    /// Of this form, but no such day, time of day or offset exists.
    NoSuchTime,
    LeapSecond,
    /// Before year 1 in UTC, or before the first time that 64 bits of nanoseconds reach.
    TooEarly(Unit),
    /// After year 9999 in UTC, or after the last time that 64 bits of nanoseconds reach.
    TooLate(Unit),
}

// === impl Unit, Mistake ===

impl Unit {
    pub fn per_second(self) -> i64 {
        match self {
            Unit::Seconds => 1,
            Unit::Millis => 1_000,
            Unit::Micros => 1_000_000,
            Unit::Nanos => 1_000_000_000,
        }
    }

    /// Digits behind the decimal point of a time in seconds.
    pub fn decimals(self) -> u32 {
        self.per_second().ilog10()
    }

    pub fn name(self) -> &'static str {
        match self {
            Unit::Seconds => "seconds",
            Unit::Millis => "milliseconds",
            Unit::Micros => "microseconds",
            Unit::Nanos => "nanoseconds",
        }
    }
}

impl Mistake {
    pub fn text(self) -> &'static str {
        match self {
            Mistake::Form => "is not an RFC 3339 time, such as 2026-11-21T12:00:00Z",
            Mistake::NoOffset => "has no offset from UTC; end it with Z or with one such as +01:00",
            Mistake::HasOffset => "has an offset from UTC; a local time without one is expected",
            Mistake::Skipped => "does not exist: summer time skips it; send it with its offset from UTC",
            Mistake::Repeated => "comes twice, before and after summer time ends; send it with its offset from UTC",
            Mistake::NoSuchTime => "is not a valid date and time",
            Mistake::LeapSecond => {
                "is a leap second, which a number since 1970 cannot express; send the second before it"
            }
            Mistake::TooEarly(Unit::Nanos) | Mistake::TooLate(Unit::Nanos) => {
                "is beyond the times that can be stored; nanoseconds since 1970 reach from 1677 to 2262"
            }
            Mistake::TooEarly(_) | Mistake::TooLate(_) => {
                "is beyond the times that can be stored, which are those of the years 1 to 9999"
            }
        }
    }
}

/// What a text says.
#[derive(Clone, Copy, Debug)]
pub enum Read {
    Global(Instant),
    /// Whether there is such a day and time of day shows behind what is of the wrong form.
    Local(Result<Local, Mistake>),
}

/// A point in time.
#[derive(Clone, Copy, Debug)]
pub struct Instant {
    nanos: i128,
}

/// A date and time of day without an offset from UTC.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    time: DateTime,
    leap: bool,
}

/// The time in `unit` since 1970.
///
/// # Errors
/// Why it is none.
pub fn parse(text: &[u8], unit: Unit) -> Result<i64, Mistake> {
    match read(text)? {
        Read::Global(time) => time.in_unit(unit),
        Read::Local(_) => Err(Mistake::NoOffset),
    }
}

/// # Errors
/// Why it is no time, with or without an offset.
pub fn read(text: &[u8]) -> Result<Read, Mistake> {
    let mut rest = text;
    let year = digits(&mut rest, 4)?;
    punctuation(&mut rest, b"-")?;
    let month = digits(&mut rest, 2)?;
    punctuation(&mut rest, b"-")?;
    let day = digits(&mut rest, 2)?;
    // RFC 3339 §5.6 allows lower case, and a space for readability.
    punctuation(&mut rest, b"Tt ")?;
    let hour = digits(&mut rest, 2)?;
    punctuation(&mut rest, b":")?;
    let minute = digits(&mut rest, 2)?;
    punctuation(&mut rest, b":")?;
    let second = digits(&mut rest, 2)?;
    let nanosecond = fraction(&mut rest)?;
    let offset_s = offset(rest)?;
    let leap = second == 60;
    let second = if leap { 59 } else { second };
    let none = |_| Mistake::NoSuchTime;
    let civil = || {
        let date = Date::new(year as i16, month as i8, day as i8).map_err(none)?;
        let time = Time::new(hour as i8, minute as i8, second as i8, nanosecond).map_err(none)?;
        let time = DateTime::from_parts(date, time);
        Ok(Local { time, leap })
    };
    Ok(match offset_s {
        None => Read::Local(civil()),
        Some(offset_s) => Read::Global(civil()?.at_offset(offset_s)?),
    })
}

// === impl Local, Instant ===

impl Local {
    /// Not by way of a jiff::Timestamp, which ends a day before year 9999 does.
    fn at_offset(self, offset_s: i32) -> Result<Instant, Mistake> {
        let epoch = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
        let local = self.time.duration_since(epoch).as_nanos();
        self.at(local - i128::from(offset_s) * NANOS_PER_SECOND)
    }

    /// The time that it is in a zone.
    ///
    /// # Errors
    /// It does not exist there, or comes twice, and `disambiguation` rejects that.
    pub fn in_zone(self, zone: &TimeZone, disambiguation: Disambiguation) -> Result<Instant, Mistake> {
        if let Ok(offset) = zone.to_fixed_offset() {
            return self.at_offset(offset.seconds());
        }
        let ambiguous = zone.to_ambiguous_timestamp(self.time);
        let offset = ambiguous.offset();
        match (ambiguous.disambiguate(disambiguation), offset) {
            (Ok(time), _) => self.at(time.as_nanosecond()),
            (Err(_), AmbiguousOffset::Gap { .. }) => Err(Mistake::Skipped),
            (Err(_), AmbiguousOffset::Fold { .. }) => Err(Mistake::Repeated),
            (Err(_), AmbiguousOffset::Unambiguous { .. }) => Err(Mistake::NoSuchTime),
        }
    }

    /// `nanos` since 1970. Leap seconds end a day of UTC, wherever the text's own day ends.
    fn at(self, nanos: i128) -> Result<Instant, Mistake> {
        let second_of_day = nanos.div_euclid(NANOS_PER_SECOND).rem_euclid(SECONDS_PER_DAY);
        match self.leap {
            false => Ok(Instant { nanos }),
            true if second_of_day == SECONDS_PER_DAY - 1 => Err(Mistake::LeapSecond),
            true => Err(Mistake::NoSuchTime),
        }
    }
}

impl Instant {
    /// Year 0 has a date, too, and an offset may lead out of the years that can be stored.
    pub fn in_unit(self, unit: Unit) -> Result<i64, Mistake> {
        let seconds = self.nanos.div_euclid(NANOS_PER_SECOND);
        let nanos_per_unit = NANOS_PER_SECOND / i128::from(unit.per_second());
        match i64::try_from(self.nanos.div_euclid(nanos_per_unit)) {
            Ok(value) if (i128::from(FIRST_S)..=i128::from(LAST_S)).contains(&seconds) => Ok(value),
            _ if seconds < 0 => Err(Mistake::TooEarly(unit)),
            _ => Err(Mistake::TooLate(unit)),
        }
    }
}

fn digits(rest: &mut &[u8], count: usize) -> Result<i32, Mistake> {
    let (taken, behind) = rest.split_at_checked(count).ok_or(Mistake::Form)?;
    if !taken.iter().all(u8::is_ascii_digit) {
        return Err(Mistake::Form);
    }
    *rest = behind;
    Ok(taken
        .iter()
        .fold(0, |value, digit| value * 10 + i32::from(digit - b'0')))
}

fn punctuation(rest: &mut &[u8], one_of: &[u8]) -> Result<(), Mistake> {
    match rest.split_first() {
        Some((first, behind)) if one_of.contains(first) => {
            *rest = behind;
            Ok(())
        }
        _ => Err(Mistake::Form),
    }
}

/// Nanoseconds; of further digits there may be any number.
fn fraction(rest: &mut &[u8]) -> Result<i32, Mistake> {
    let Some(behind) = rest.strip_prefix(b".") else {
        return Ok(0);
    };
    let count = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return Err(Mistake::Form);
    }
    let (taken, behind) = behind.split_at(count);
    *rest = behind;
    let padded = taken.iter().chain(std::iter::repeat(&b'0')).take(9);
    Ok(padded.fold(0, |value, digit| value * 10 + i32::from(digit - b'0')))
}

/// Seconds east of UTC, at the end of the text; `None` if it ends without.
fn offset(mut rest: &[u8]) -> Result<Option<i32>, Mistake> {
    let sign = match rest.split_first() {
        None => return Ok(None),
        Some((b'Z' | b'z', [])) => return Ok(Some(0)),
        Some((b'+', _)) => 1,
        Some((b'-', _)) => -1,
        Some(_) => return Err(Mistake::Form),
    };
    punctuation(&mut rest, b"+-")?;
    let hours = digits(&mut rest, 2)?;
    punctuation(&mut rest, b":")?;
    let minutes = digits(&mut rest, 2)?;
    match (hours, minutes, rest) {
        (0..24, 0..60, []) => Ok(Some(sign * (hours * 60 + minutes) * 60)),
        (_, _, []) => Err(Mistake::NoSuchTime),
        _ => Err(Mistake::Form),
    }
}
