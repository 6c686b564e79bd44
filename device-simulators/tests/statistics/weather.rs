//! Weather stations beside an airport and a pyranometer.
//!
//! A year by the hour; one clear day by the minute, with the sun's own position.

use std::sync::Arc;

use device_simulators::devices::{City, Device, Kind, Place};

use crate::SEED;
use crate::comparison::{Bounds, Comparison, say};
use crate::corpus::{civil, corpus, rows};
use crate::series::{DAY_MS, HOUR_MS, Series, simulated};

#[test]
fn weather_moves_as_at_an_airport() {
    let Some(folder) = corpus() else { return };
    let rows = rows(&folder, "weather/nyc-jfk-weather-hourly-2013.csv");
    let real = |column: usize, convert: fn(f64) -> f64| {
        let mut series = Series::default();
        for row in rows.iter().skip(1) {
            let number = |index: usize| row[index].parse::<i64>().unwrap();
            let time = civil(number(1), number(2), number(3), number(4));
            if let Ok(value) = row[column].parse::<f64>() {
                series.points.push((time, convert(value)));
            }
        }
        series
    };
    let city = Arc::new(City::new(SEED));
    let station = Device::in_city(&city, Kind::WEATHER, 1);
    let ours = |path: &str| simulated(&city, &station, path, civil(2025, 1, 1, 0), 3600, 8760);
    let celsius = |fahrenheit: f64| (fahrenheit - 32.0) / 1.8;
    let metric = |miles_h: f64| miles_h * 0.447_04;
    let mut comparison = Comparison::default();
    let bounds = |day: f64, lag1: f64, range: f64| Bounds {
        day: Some(day),
        lag1,
        range,
    };
    let mut check = |what: &str, real: &Series, path: &str, bounds: Bounds| {
        comparison.compare(what, real, &ours(path), &bounds);
    };
    // New York is warmer in summer and colder in winter than the Netherlands are.
    check(
        "temperature, °C",
        &real(5, celsius),
        "/temperature_c",
        bounds(0.97, 0.02, 0.25),
    );
    let no_day = Bounds {
        day: None,
        lag1: 0.02,
        range: 0.3,
    };
    check("dew point, °C", &real(6, celsius), "/dew_point_c", no_day);
    check(
        "relative humidity, %",
        &real(7, |it| it),
        "/relative_humidity_percent",
        bounds(0.95, 0.05, 0.25),
    );
    check(
        "sea level pressure, hPa",
        &real(12, |it| it),
        "/sea_level_pressure_hpa",
        bounds(0.7, 0.02, 0.2),
    );
    check(
        "wind, m/s",
        &real(9, metric),
        "/wind_speed_m_s",
        bounds(0.9, 0.12, 0.25),
    );
    let rain = Bounds {
        day: None,
        lag1: 0.3,
        range: 0.8,
    };
    check("rain, mm/h", &real(11, |inches| inches * 25.4), "/rain_mm", rain);
    comparison.finish("Weather: JFK airport 2013, hourly, beside a year of a simulated station");
}

#[test]
fn it_rains_as_often_as_at_an_airport() {
    let Some(folder) = corpus() else { return };
    let rows = rows(&folder, "weather/nyc-jfk-weather-hourly-2013.csv");
    let wet = |amounts: Vec<f64>| amounts.iter().filter(|&&mm| mm >= 0.25).count() as f64 / amounts.len() as f64;
    let real = wet(rows
        .iter()
        .skip(1)
        .filter_map(|row| row[11].parse().ok())
        .map(|inches: f64| 25.4 * inches)
        .collect());
    let city = Arc::new(City::new(SEED));
    let station = Device::in_city(&city, Kind::WEATHER, 1);
    let hours = simulated(&city, &station, "/rain_mm", civil(2025, 1, 1, 0), 3600, 8760);
    let ours = wet(hours.values().collect());
    say(&format!(
        "\nShare of wet hours (0.25 mm or more): real {real:.3}, simulated {ours:.3}\n"
    ));
    assert!((0.5..2.0).contains(&(ours / real)), "{ours} and {real}");
}

/// NOAA's station in Alamosa, Colorado: local time is UTC−7; the sun's zenith angle stands beside the irradiance.
#[test]
fn the_sun_shines_as_on_a_pyranometer() {
    let Some(folder) = corpus() else { return };
    let place = Place {
        latitude: 37.70,
        longitude: -105.92,
        utc_offset_ms: -7 * HOUR_MS,
    };
    let text = std::fs::read_to_string(folder.join("weather/weather-surfrad-slv16001.dat")).unwrap();
    let (mut real, mut worst) = (Series::default(), 0.0f64);
    for line in text.lines().skip(2) {
        let columns: Vec<f64> = line.split_whitespace().map(|column| column.parse().unwrap()).collect();
        let whole = |index: usize| columns[index] as i64;
        let time = civil(whole(0), whole(2), whole(3), whole(4)) + whole(5) * 60_000;
        let zenith = 90.0 - place.sun(time).asin().to_degrees();
        // Lower down their angle is refracted.
        if columns[7] < 85.0 {
            worst = worst.max((zenith - columns[7]).abs());
        }
        real.points.push((time + place.utc_offset_ms, columns[8].max(0.0)));
    }
    say(&format!(
        "\nThe sun's zenith angle, SURFRAD 2016-01-01, above 5°: off by {worst:.3}° at most\n"
    ));
    assert!(worst < 0.35, "{worst}°");
    real.points.sort_by_key(|point| point.0);

    let city = Arc::new(City::new(SEED).at(place));
    let station = Device::in_city(&city, Kind::WEATHER, 1);
    let from = real.points[0].0;
    // The clearest of ten days: theirs was a clear one.
    let days = (0..10).map(|day| {
        let shifted = simulated(&city, &station, "/irradiance_w_m2", from + day * DAY_MS, 60, 1440);
        let points = shifted
            .points
            .into_iter()
            .map(|(time, value)| (time - day * DAY_MS, value))
            .collect();
        Series { points }
    });
    let clearest = days.max_by(|one, other| one.mean().total_cmp(&other.mean())).unwrap();
    let mut comparison = Comparison::default();
    let bounds = Bounds {
        day: Some(0.98),
        lag1: 0.01,
        range: 0.25,
    };
    comparison.compare("irradiance, W/m²", &real, &clearest, &bounds);
    comparison
        .finish("Sun: SURFRAD Alamosa 2016-01-01, by the minute, beside the clearest of ten simulated days there");
}
