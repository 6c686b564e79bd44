//! Where the sun is, and what it gives through a clear sky.
//!
//! The position is the Astronomical Almanac's short formula, good to some hundredths of a degree for this century; the clear
//! sky is Haurwitz' (1945), which needs nothing but the sun's height.

use super::calendar::DAY_MS;
use super::math;

/// A place on Earth, and its clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
    /// How far local standard time is ahead of UTC, in milliseconds.
    pub utc_offset_ms: i64,
}

// === impl Place ===

impl Place {
    /// Utrecht, more or less.
    pub const UTRECHT: Place = Place {
        latitude: 52.09,
        longitude: 5.12,
        utc_offset_ms: 3_600_000,
    };

    /// The sine of the sun's elevation; negative at night. Refraction is left out.
    pub fn sun(&self, time_ms: i64) -> f64 {
        let sun = Sun::at(time_ms);
        let hour = time_ms.rem_euclid(DAY_MS) as f64 / 3_600_000.0;
        let solar_hour = hour + self.longitude / 15.0 + sun.equation_of_time_h;
        let (up, across) = self.parts(&sun);
        up + across * math::cos_turns((solar_hour - 12.0) / 24.0)
    }

    /// When the sun's centre rises above `sine` on a local day and when it sinks below, in hours of local standard time;
    /// both are noon where it never does, and a day apart where it always is.
    pub(crate) fn daylight(&self, day: i64, sine: f64) -> (f64, f64) {
        let sun = Sun::at(day * DAY_MS + DAY_MS / 2);
        let (up, across) = self.parts(&sun);
        let half_day = 24.0 * math::acos_turns((sine - up) / across);
        let offset_h = self.utc_offset_ms as f64 / 3_600_000.0;
        let noon = 12.0 - self.longitude / 15.0 - sun.equation_of_time_h + offset_h;
        (noon - half_day, noon + half_day)
    }

    /// What of the elevation's sine does not change with the hour, and what does.
    fn parts(&self, sun: &Sun) -> (f64, f64) {
        let latitude = self.latitude / 360.0;
        (
            math::sin_turns(latitude) * sun.declination_sine,
            math::cos_turns(latitude) * sun.declination_cosine,
        )
    }
}

/// The sun seen from the Earth's centre.
#[derive(Clone, Copy, Debug)]
struct Sun {
    declination_sine: f64,
    declination_cosine: f64,
    /// How far the sundial is ahead of the mean sun.
    equation_of_time_h: f64,
}

// === impl Sun ===

impl Sun {
    fn at(time_ms: i64) -> Sun {
        // 2000-01-01 12:00, in milliseconds since 1970.
        let days = (time_ms - 946_728_000_000) as f64 / DAY_MS as f64;
        let turns = |start: f64, daily: f64| (start + daily * days) / 360.0;
        let (mean_longitude, anomaly) = (turns(280.460, 0.985_647_4), turns(357.528, 0.985_600_3));
        let centre = 1.915 * math::sin_turns(anomaly) + 0.020 * math::sin_turns(2.0 * anomaly);
        let longitude = mean_longitude + centre / 360.0;
        let declination_sine = math::sin_turns(23.439 / 360.0) * math::sin_turns(longitude);
        let ahead = 2.466 * math::sin_turns(2.0 * longitude) - 0.053 * math::sin_turns(4.0 * longitude) - centre;
        Sun {
            declination_sine,
            declination_cosine: (1.0 - declination_sine * declination_sine).sqrt(),
            equation_of_time_h: ahead / 15.0,
        }
    }
}

/// Global horizontal irradiance under a clear sky, W/m²; 0 at night.
pub(crate) fn clear_sky_w_m2(sine: f64) -> f64 {
    if sine <= 0.002 {
        return 0.0;
    }
    1098.0 * sine * math::exp(-0.057 / sine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sun_is_high_in_june_and_low_in_december() {
        let noon = |day: i64| Place::UTRECHT.sun(day * DAY_MS + 41_990_000).asin().to_degrees();
        let close = |value: f64, expected: f64| assert!((value - expected).abs() < 0.1, "{value} is not {expected}");
        close(noon(20_625), 90.0 - 52.09 + 23.44); // 2026-06-21
        close(noon(20_808), 90.0 - 52.09 - 23.44); // 2026-12-21
        close(noon(20_718), 90.0 - 52.09 + 0.2); // 2026-09-22, half a day before the equinox
        assert!(Place::UTRECHT.sun(20_625 * DAY_MS) < 0.0, "at midnight");
    }

    #[test]
    fn daylight_ends_where_the_sun_says_so() {
        for (day, latitude) in [(20_625, 52.0), (20_808, 52.0), (20_720, -36.8), (20_500, 0.0)] {
            let place = Place {
                latitude,
                ..Place::UTRECHT
            };
            let (rise, set) = place.daylight(day, -0.05);
            for hour in [rise, set] {
                let time_ms = day * DAY_MS + (hour * 3_600_000.0) as i64 - place.utc_offset_ms;
                assert!((place.sun(time_ms) + 0.05).abs() < 0.005, "{day} {latitude} {hour}");
            }
            assert!(rise < set);
        }
        let pole = Place {
            latitude: 89.0,
            ..Place::UTRECHT
        };
        let (rise, set) = pole.daylight(20_625, 0.0);
        assert!((set - rise - 24.0).abs() < 1e-6, "midnight sun: {rise} to {set}");
        let (rise, set) = pole.daylight(20_808, 0.0);
        assert!((set - rise).abs() < 1e-6, "polar night: {rise} to {set}");
    }

    #[test]
    fn a_clear_sky_gives_what_the_tables_say() {
        // Haurwitz's own values for 90°, 30° and 10°.
        let check = |degrees: f64, expected: f64| {
            let value = clear_sky_w_m2(degrees.to_radians().sin());
            assert!((value - expected).abs() < 2.0, "{degrees}°: {value} W/m²");
        };
        check(90.0, 1037.2);
        check(30.0, 489.8);
        check(10.0, 137.3);
        assert_eq!(clear_sky_w_m2(0.0), 0.0);
        assert_eq!(clear_sky_w_m2(-0.4), 0.0);
    }
}
