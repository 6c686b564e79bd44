//! The city's place on Earth, its clock and its sun.
//!
//! Local standard time without summer time, so that every day has 24 hours and a curve by the hour is a curve.

/// Where the city is: Utrecht, more or less.
pub(crate) const LATITUDE: f64 = 52.09;
pub(crate) const LONGITUDE: f64 = 5.12;

/// Local standard time is one hour ahead of UTC.
pub(crate) const UTC_OFFSET_MS: i64 = 3_600_000;

const DAY_MS: i64 = 86_400_000;

/// A moment as the city's people name it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LocalTime {
    /// Days since 1970-01-01.
    pub(crate) day: i64,
    /// 0 up to 24.
    pub(crate) hour: f64,
}

// === impl LocalTime ===

impl LocalTime {
    pub(crate) fn of(time_ms: i64) -> LocalTime {
        let local_ms = time_ms + UTC_OFFSET_MS;
        LocalTime {
            day: local_ms.div_euclid(DAY_MS),
            hour: local_ms.rem_euclid(DAY_MS) as f64 / 3_600_000.0,
        }
    }

    pub(crate) fn is_weekend(self) -> bool {
        // 1970-01-01 was a Thursday.
        (self.day + 3).rem_euclid(7) >= 5
    }

    /// 0 at new year, up to 1.
    pub(crate) fn year_phase(self) -> f64 {
        (self.day as f64 + self.hour / 24.0).rem_euclid(365.2425) / 365.2425
    }

    /// The sine of the sun's elevation; negative at night. Declination after Cooper (1969).
    pub(crate) fn sun(self) -> f64 {
        let tau = std::f64::consts::TAU;
        let declination = -23.44f64.to_radians() * (tau * (self.year_phase() + 10.0 / 365.0)).cos();
        let solar_hour = self.hour - UTC_OFFSET_MS as f64 / 3_600_000.0 + LONGITUDE / 15.0;
        let hour_angle = tau * (solar_hour - 12.0) / 24.0;
        let latitude = LATITUDE.to_radians();
        latitude.sin() * declination.sin() + latitude.cos() * declination.cos() * hour_angle.cos()
    }
}

/// A curve given by the hour, read at any hour; midnight follows 23 h.
pub(crate) fn by_hour(curve: &[f64; 24], hour: f64) -> f64 {
    let from = hour.floor().rem_euclid(24.0);
    let weight = hour - hour.floor();
    let value = |hour: usize| curve.get(hour % 24).copied().unwrap_or_default();
    value(from as usize) * (1.0 - weight) + value(from as usize + 1) * weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_hours_and_weekends() {
        let check = |time_ms: i64, hour: f64, weekend: bool| {
            let local = LocalTime::of(time_ms);
            assert_eq!((local.hour, local.is_weekend()), (hour, weekend), "{time_ms}");
        };
        check(0, 1.0, false); // Thursday 1970-01-01
        check(2 * DAY_MS, 1.0, true); // Saturday
        check(3 * DAY_MS, 1.0, true); // Sunday
        check(4 * DAY_MS + DAY_MS / 2, 13.0, false); // Monday
        check(-DAY_MS, 1.0, false);
    }

    #[test]
    fn the_sun_is_high_in_june_and_low_in_december() {
        let noon = |day: i64| LocalTime { day, hour: 12.66 }.sun().asin().to_degrees();
        let close = |value: f64, expected: f64| assert!((value - expected).abs() < 1.5, "{value} is not {expected}");
        close(noon(20_625), 90.0 - LATITUDE + 23.44); // 2026-06-21
        close(noon(20_808), 90.0 - LATITUDE - 23.44); // 2026-12-21
        let midnight = LocalTime {
            day: 20_625,
            hour: 0.66,
        };
        assert!(midnight.sun() < 0.0);
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
