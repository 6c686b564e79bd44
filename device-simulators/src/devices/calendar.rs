//! Days, hours and weeks as the city's people name them.
//!
//! Local standard time without summer time, so that every day has 24 hours and a curve by the hour is a curve.

const HOUR_MS: i64 = 3_600_000;
pub(crate) const DAY_MS: i64 = 24 * HOUR_MS;

/// Days of a year, in the mean of 400 years.
const YEAR_DAYS: f64 = 365.2425;

/// A moment as the city's people name it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LocalTime {
    /// Days since 1970-01-01.
    pub(crate) day: i64,
    /// 0 up to 24.
    pub(crate) hour: f64,
}

/// What a day is like for shops and commuters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DayType {
    Workday,
    Saturday,
    Sunday,
}

// === impl LocalTime ===

impl LocalTime {
    /// `offset_ms`: how far local standard time is ahead of UTC.
    pub(crate) fn of(time_ms: i64, offset_ms: i64) -> LocalTime {
        let local_ms = time_ms.saturating_add(offset_ms);
        LocalTime {
            day: local_ms.div_euclid(DAY_MS),
            hour: local_ms.rem_euclid(DAY_MS) as f64 / HOUR_MS as f64,
        }
    }

    pub(crate) fn day_type(self) -> DayType {
        day_type(self.day)
    }

    /// 0 at new year, up to 1.
    pub(crate) fn year_phase(self) -> f64 {
        (self.day as f64 + self.hour / 24.0).rem_euclid(YEAR_DAYS) / YEAR_DAYS
    }
}

/// 0 is Monday.
pub(crate) fn weekday(day: i64) -> usize {
    // 1970-01-01 was a Thursday.
    (day + 3).rem_euclid(7) as usize
}

pub(crate) fn day_type(day: i64) -> DayType {
    match weekday(day) {
        5 => DayType::Saturday,
        6 => DayType::Sunday,
        _ => DayType::Workday,
    }
}

/// The day's number within its year, from 0 on 1 January (Gregorian).
pub(crate) fn day_of_year(day: i64) -> i64 {
    let year_start = |year: i64| {
        let past = year - 1;
        365 * (year - 1970) + past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400) - 477
    };
    let mut year = 1970 + (day as f64 / YEAR_DAYS).floor() as i64;
    // The mean year is off by a day at most at the turn of a year.
    if year_start(year) > day {
        year -= 1;
    } else if year_start(year + 1) <= day {
        year += 1;
    }
    day - year_start(year)
}

/// A curve given by the hour, read at any hour; midnight follows 23 h.
pub(crate) fn by_hour(curve: &[f64; 24], hour: f64) -> f64 {
    let from = hour.floor();
    let weight = hour - from;
    let value = |hour: usize| curve.get(hour % 24).copied().unwrap_or_default();
    let from = from.rem_euclid(24.0) as usize;
    value(from) * (1.0 - weight) + value(from + 1) * weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_hours_and_weekends() {
        let check = |time_ms: i64, hour: f64, expected: DayType| {
            let local = LocalTime::of(time_ms, HOUR_MS);
            assert_eq!((local.hour, local.day_type()), (hour, expected), "{time_ms}");
        };
        check(0, 1.0, DayType::Workday); // Thursday 1970-01-01
        check(2 * DAY_MS, 1.0, DayType::Saturday);
        check(3 * DAY_MS, 1.0, DayType::Sunday);
        check(4 * DAY_MS + DAY_MS / 2, 13.0, DayType::Workday); // Monday
        check(-DAY_MS, 1.0, DayType::Workday);
        assert_eq!((weekday(4), weekday(-4)), (0, 6));
    }

    #[test]
    fn days_of_the_year() {
        let check = |day: i64, expected: i64| assert_eq!(day_of_year(day), expected, "{day}");
        check(0, 0);
        check(364, 364);
        check(365, 0);
        check(-1, 364);
        check(16_801, 0); // 2016-01-01
        check(17_166, 365); // 2016-12-31, a leap year
        check(20_625, 171); // 2026-06-21
        check(11_016, 59); // 2000-02-29
        for day in -200_000..200_000 {
            let follows = day_of_year(day + 1) == day_of_year(day) + 1;
            let turns = day_of_year(day + 1) == 0 && day_of_year(day) >= 364;
            assert!(follows || turns, "{day}");
        }
    }

    #[test]
    fn a_curve_is_read_between_its_hours() {
        let mut curve = [0.0; 24];
        curve[0] = 2.0;
        curve[23] = 4.0;
        let check = |hour: f64, expected: f64| assert_eq!(by_hour(&curve, hour), expected, "{hour}");
        check(0.0, 2.0);
        check(0.5, 1.0);
        check(23.0, 4.0);
        check(23.5, 3.0);
        check(22.75, 3.0);
    }
}
