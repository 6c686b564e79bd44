//! A weather station on a roof.
//!
//! The clouds, the wind and the air mass are the city's (all stations of a seed see the same weather); each station
//! adds its own small offset. Temperature and irradiance follow the sun and the clouds, humidity follows from
//! temperature and dew point (Magnus), rain falls from thick clouds and takes the visibility with it.

use std::f64::consts::TAU;

use serde::Serialize;

use super::calendar::LocalTime;
use super::noise::Noise;
use super::{Moment, rounded};

const HOUR_S: i64 = 3600;

#[derive(Debug, Serialize)]
pub(super) struct Weather {
    temperature_c: f64,
    dew_point_c: f64,
    relative_humidity_percent: f64,
    pressure_hpa: f64,
    wind_speed_m_s: f64,
    wind_gust_m_s: f64,
    wind_direction_deg: f64,
    /// Fallen in the interval.
    rain_mm: f64,
    irradiance_w_m2: f64,
    visibility_m: f64,
    uv_index: f64,
}

/// What the station reports at `moment`.
pub(super) fn reading(noise: &Noise, moment: Moment) -> Weather {
    let time = moment.observed_at_ms;
    let local = LocalTime::of(time);
    let city = noise.city();
    let cloud = cloud(noise, time);
    let rain_mm_h = (cloud - 0.78).max(0.0) * 40.0;

    let temperature = temperature(noise, local, time, cloud);
    let spread = 4.0 + 3.0 * city.smooth("dryness", time, 9 * HOUR_S) - 3.0 * f64::from(rain_mm_h > 0.0);
    // The air mass has the dew point; the day warms the air above it.
    let dew_point = (night_temperature(&city, local, time) - spread).min(temperature - 0.2);
    let humidity = 100.0 * saturation_hpa(dew_point) / saturation_hpa(temperature);

    let (wind, gust) = wind(noise, local, time);
    let sun = local.sun().max(0.0);
    let irradiance = 1050.0 * sun.powf(1.15) * (1.0 - 0.75 * cloud.powi(3));
    let clear_m = 35_000.0 - 300.0 * (humidity - 40.0).max(0.0);
    Weather {
        temperature_c: rounded(temperature, 1),
        dew_point_c: rounded(dew_point, 1),
        relative_humidity_percent: rounded(humidity.clamp(5.0, 100.0), 1),
        pressure_hpa: rounded(
            1013.0 + 18.0 * city.smooth("pressure", time, 30 * HOUR_S) + 0.5 * noise.signed("pressure"),
            1,
        ),
        wind_speed_m_s: rounded(wind, 1),
        wind_gust_m_s: rounded(gust, 1),
        wind_direction_deg: direction(noise, time),
        rain_mm: rounded(rain_mm_h * moment.interval.as_secs_f64() / 3600.0, 4),
        irradiance_w_m2: rounded(irradiance, 1),
        visibility_m: rounded((clear_m / (1.0 + rain_mm_h)).max(200.0), 0),
        uv_index: rounded(9.5 * sun.powf(2.2) * (1.0 - 0.6 * cloud), 1),
    }
}

/// Cover, 0 to 1; a cloud passes each station a little earlier or later.
fn cloud(noise: &Noise, time_ms: i64) -> f64 {
    let passing_ms = (noise.signed("passing") * 600_000.0) as i64;
    let front = noise.city().smooth("front", time_ms, 14 * HOUR_S);
    let cumulus = noise.city().smooth("cumulus", time_ms + passing_ms, 1200);
    (0.5 + 0.42 * front + 0.13 * cumulus).clamp(0.0, 1.0)
}

/// The coldest of the day: the season and the air mass.
fn night_temperature(city: &Noise, local: LocalTime, time_ms: i64) -> f64 {
    // The year lags the sun by some five weeks.
    let season = -(TAU * (local.year_phase() - 0.07)).cos();
    7.0 + 8.0 * season + 4.0 * city.smooth("air mass", time_ms, 60 * HOUR_S)
}

fn temperature(noise: &Noise, local: LocalTime, time_ms: i64, cloud: f64) -> f64 {
    let summer = 0.5 - 0.5 * (TAU * local.year_phase()).cos();
    let range = (4.0 + 7.0 * summer) * (1.0 - 0.5 * cloud);
    // Coldest around 4, warmest around 15 to 16: the day lags the sun as well.
    let warmth = 0.5 + 0.5 * (TAU * (local.hour - 15.5) / 24.0).cos();
    let local_air = 0.8 * noise.signed("temperature") + 0.3 * noise.smooth("temperature", time_ms, 900);
    night_temperature(&noise.city(), local, time_ms) + range * warmth + local_air
}

/// Saturation vapour pressure over water; Magnus with the constants of Alduchov and Eskridge (1996).
fn saturation_hpa(temperature_c: f64) -> f64 {
    6.1094 * (17.625 * temperature_c / (temperature_c + 243.04)).exp()
}

/// Mean and gust, m/s; stronger by day.
fn wind(noise: &Noise, local: LocalTime, time_ms: i64) -> (f64, f64) {
    let city = noise.city();
    let weather = 4.5 + 4.0 * city.smooth("wind", time_ms, 8 * HOUR_S);
    let day = 1.0 + 0.3 * local.sun().max(0.0);
    let eddies = 1.0 + 0.3 * noise.smooth("wind", time_ms, 120);
    let wind = weather * day * eddies * (0.7 + 0.6 * noise.fixed("exposure"));
    let gust = wind * (1.35 + 0.25 * noise.smooth("gust", time_ms, 60));
    (wind.max(0.0), gust.max(0.0))
}

/// Where the wind comes from, 0 up to 360.
fn direction(noise: &Noise, time_ms: i64) -> f64 {
    let weather = 240.0 + 130.0 * noise.city().smooth("direction", time_ms, 18 * HOUR_S);
    let degrees = weather + 15.0 * noise.smooth("direction", time_ms, 120);
    // After rounding, or 359.96 would become 360.0.
    rounded(degrees, 1).rem_euclid(360.0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::at;
    use super::*;

    #[test]
    fn fields_agree_with_each_other() {
        let mut rained = false;
        for step in 0..3000 {
            let mut moment = at(0.0);
            moment.observed_at_ms += step * 3_700_000;
            let weather = reading(&Noise::new(8, step as u64 % 20), moment);
            assert!(weather.dew_point_c <= weather.temperature_c, "{weather:?}");
            assert!(weather.wind_gust_m_s >= weather.wind_speed_m_s, "{weather:?}");
            if weather.rain_mm > 0.0 {
                rained = true;
                assert!(weather.visibility_m < 35_000.0, "{weather:?}");
            }
        }
        assert!(rained, "it rains in this city");
    }

    #[test]
    fn neighbours_have_the_same_weather() {
        for hour in 0..48 {
            let station = |index| reading(&Noise::new(8, index), at(f64::from(hour)));
            let (one, other) = (station(1), station(2));
            assert!((one.temperature_c - other.temperature_c).abs() < 4.0);
            assert!((one.pressure_hpa - other.pressure_hpa).abs() <= 1.1);
        }
    }

    #[test]
    fn saturation_pressure_is_that_of_the_tables() {
        let check = |temperature: f64, expected: f64| {
            let value = saturation_hpa(temperature);
            assert!((value / expected - 1.0).abs() < 0.005, "{temperature} °C: {value} hPa");
        };
        check(0.0, 6.11);
        check(20.0, 23.39);
        check(30.0, 42.47);
    }
}
