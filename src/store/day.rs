//! Days, UTC, by which tables are partitioned.
//!
//! A day's partition is called after it, and holds exactly the readings observed on it. What is kept and what is dropped is
//! decided by whole days.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::civil::Date;
use jiff::{Span, Timestamp};

const DAY_US: i64 = 24 * 60 * 60 * 1_000_000;

/// A day, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i32);

// === impl Day ===

impl Day {
    /// The day of a time in microseconds since 1970.
    pub fn of(us: i64) -> Self {
        Day(i32::try_from(us.div_euclid(DAY_US)).unwrap_or(if us < 0 { i32::MIN } else { i32::MAX }))
    }

    /// The first day whose readings are kept.
    pub fn first_kept(now: SystemTime, retention: Duration) -> Self {
        Day::of(micros(now).saturating_sub(i64::try_from(retention.as_micros()).unwrap_or(i64::MAX)))
    }

    pub fn next(self) -> Self {
        Day(self.0.saturating_add(1))
    }

    /// Midnight at its beginning, such as `2026-11-28`. Every day of the years 1 to 9999 is one.
    pub fn date(self) -> Option<Date> {
        let epoch = Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC).date();
        epoch
            .checked_add(Span::new().try_days(self.0).ok()?)
            .ok()
            .filter(|date| date.year() > 0)
    }

    /// What a partition of this day has behind its kind's name: `_20261128`.
    pub fn suffix(self) -> Option<String> {
        Some(format!("_{}", self.date()?.strftime("%Y%m%d")))
    }

    /// The day of a partition with this name.
    pub fn of_partition(name: &str, kind: &str) -> Option<Self> {
        let digits = name
            .strip_prefix(kind)?
            .strip_prefix('_')
            .filter(|digits| digits.len() == 8)?;
        let date = Date::strptime("%Y%m%d", digits).ok()?;
        let at = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
        Some(Day::of(at.as_microsecond()))
    }
}

/// Microseconds since 1970.
pub fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_days_partition_is_called_after_it() {
        let check = |at: &str, suffix: &str| {
            let us = at.parse::<Timestamp>().unwrap().as_microsecond();
            let day = Day::of(us);
            assert_eq!(day.suffix().as_deref(), Some(suffix), "{at}");
            assert_eq!(
                Day::of_partition(&format!("traffic{suffix}"), "traffic"),
                Some(day),
                "{at}"
            );
        };
        check("2026-11-28T00:00:00Z", "_20261128");
        check("2026-11-28T23:59:59.999999Z", "_20261128");
        check("1969-12-31T23:59:59.999Z", "_19691231");
        check("2000-02-29T12:00:00Z", "_20000229");
        assert_eq!(Day::of(i64::MAX).suffix(), None);
        for other in [
            "weather_20261128",
            "traffic_2026112",
            "traffic_20261328",
            "traffic_old",
            "traffic",
        ] {
            assert_eq!(Day::of_partition(other, "traffic"), None, "{other}");
        }
    }

    #[test]
    fn what_is_kept_begins_at_midnight() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = SystemTime::from(at("2026-11-28T10:00:00Z"));
        let first = Day::first_kept(now, Duration::from_secs(24 * 60 * 60));
        assert_eq!(first, Day::of(at("2026-11-27T00:00:00Z").as_microsecond()));
        assert!(first > Day::of(at("2026-11-26T23:59:59Z").as_microsecond()));
    }
}
