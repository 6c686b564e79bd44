//! The city's devices beside real ones: do their figures move as real figures do?
//!
//! Each generator is compared with series that somebody measured (the corpus beside the repository, or wherever
//! `TEST_CORPUS` says): the mean day (Pearson's r of the 24 hourly means), the autocorrelation from one value to the
//! next, and the range from the 1st to the 99th percentile. The comparison is printed; `cargo test --test statistics --
//! --nocapture` shows it. Bounds are as wide as another climate or another country makes them, and no wider.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use device_simulators::devices::energy::Consumer;
use device_simulators::devices::{City, Device, Kind, Moment, Place};
use serde_json::Value;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// The city that is looked at.
const SEED: u64 = 1;

// === series ===

/// Values at regular times, with gaps.
#[derive(Clone, Debug, Default)]
struct Series {
    /// (milliseconds since 1970 on the place's own clock, value)
    points: Vec<(i64, f64)>,
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
struct Figures {
    lag1: f64,
    p1: f64,
    p50: f64,
    p99: f64,
}

impl Series {
    fn values(&self) -> impl Iterator<Item = f64> + '_ {
        self.points.iter().map(|point| point.1)
    }

    fn mean(&self) -> f64 {
        self.values().sum::<f64>() / self.points.len() as f64
    }

    /// In units of its mean, where only the shape is of interest.
    fn normalised(&self) -> Series {
        let mean = self.mean();
        let points = self.points.iter().map(|(time, value)| (*time, value / mean)).collect();
        Series { points }
    }

    fn only(&self, is_so: impl Fn(i64) -> bool) -> Series {
        let points = self.points.iter().copied().filter(|point| is_so(point.0)).collect();
        Series { points }
    }

    /// The mean of each hour of the day.
    fn day(&self) -> Vec<f64> {
        let hour = |time: i64| time.rem_euclid(DAY_MS) / HOUR_MS;
        let of = |wanted: i64| self.only(|time| hour(time) == wanted).mean();
        (0..24).map(of).collect()
    }

    fn percentile(&self, share: f64) -> f64 {
        let mut values: Vec<f64> = self.values().collect();
        values.sort_by(f64::total_cmp);
        values[(share * (values.len() - 1) as f64).round() as usize]
    }

    /// Pairs of values one `step` apart.
    fn lag1(&self) -> f64 {
        // The usual distance, which a gap or a clock put back does not change.
        let mut steps: Vec<i64> = self.points.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        steps.sort_unstable();
        let step = steps[steps.len() / 2];
        let pairs: Vec<(f64, f64)> = self
            .points
            .windows(2)
            .filter(|pair| pair[1].0 - pair[0].0 == step)
            .map(|pair| (pair[0].1, pair[1].1))
            .collect();
        pearson(&pairs)
    }

    fn figures(&self) -> Figures {
        Figures {
            lag1: self.lag1(),
            p1: self.percentile(0.01),
            p50: self.percentile(0.5),
            p99: self.percentile(0.99),
        }
    }
}

fn pearson(pairs: &[(f64, f64)]) -> f64 {
    let count = pairs.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| pairs.iter().map(value).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        xy += (x - mean_x) * (y - mean_y);
        xx += (x - mean_x) * (x - mean_x);
        yy += (y - mean_y) * (y - mean_y);
    }
    xy / (xx * yy).sqrt()
}

fn day_of_week(time: i64) -> i64 {
    (time.div_euclid(DAY_MS) + 3).rem_euclid(7)
}

// === the comparison ===

/// How far the simulated figures may be from the real ones.
struct Bounds {
    /// Least correlation of the mean days; None where the series has no day to speak of.
    day: Option<f64>,
    /// Largest difference of the autocorrelations.
    lag1: f64,
    /// Largest difference of each percentile, as a share of the real range from the 1st to the 99th.
    range: f64,
}

/// The table that is printed, and what was out of bounds.
#[derive(Default)]
struct Comparison {
    table: String,
    problems: Vec<String>,
}

impl Comparison {
    fn compare(&mut self, what: &str, real: &Series, simulated: &Series, bounds: &Bounds) {
        let (theirs, ours) = (real.figures(), simulated.figures());
        let day = bounds.day.map(|least| {
            let pairs: Vec<(f64, f64)> = real.day().into_iter().zip(simulated.day()).collect();
            (pearson(&pairs), least)
        });
        let shown = day.map_or("    –".to_owned(), |(r, _)| format!("{r:5.3}"));
        let (real_count, count) = (real.points.len(), simulated.points.len());
        writeln!(
            self.table,
            "{what:<38} {shown} │ {:6.3} {:6.3} │ {:8.2} {:8.2} {:8.2} │ {:8.2} {:8.2} {:8.2} │ {real_count:>6} {count:>6}",
            theirs.lag1, ours.lag1, theirs.p1, theirs.p50, theirs.p99, ours.p1, ours.p50, ours.p99,
        )
        .unwrap();
        if let Some((r, least)) = day
            && (r.is_nan() || r < least)
        {
            self.problems
                .push(format!("{what}: the mean day correlates by {r:.3}, less than {least}"));
        }
        let off = (theirs.lag1 - ours.lag1).abs();
        if off.is_nan() || off > bounds.lag1 {
            self.problems
                .push(format!("{what}: lag 1 is off by {off:.3}, more than {}", bounds.lag1));
        }
        let width = theirs.p99 - theirs.p1;
        for (name, theirs, ours) in [
            ("p1", theirs.p1, ours.p1),
            ("p50", theirs.p50, ours.p50),
            ("p99", theirs.p99, ours.p99),
        ] {
            let off = (theirs - ours).abs() / width;
            if off.is_nan() || off > bounds.range {
                self.problems.push(format!(
                    "{what}: {name} is off by {off:.2} of the real range, more than {}",
                    bounds.range
                ));
            }
        }
    }

    /// Prints the table past the harness, which would swallow it, and fails if something was out of bounds.
    fn finish(self, title: &str) {
        let mut text = format!("\n{title}\n");
        let header = format!(
            "{:<38} {:>5} │ {:>6} {:>6} │ {:>8} {:>8} {:>8} │ {:>8} {:>8} {:>8} │ {:>6} {:>6}\n",
            "", "day r", "lag1", "", "p1", "p50", "p99", "p1", "p50", "p99", "values", ""
        );
        let kinds = format!(
            "{:<38} {:>5} │ {:>6} {:>6} │ {:>8} {:>8} {:>8} │ {:>8} {:>8} {:>8} │ {:>6} {:>6}\n",
            "", "", "real", "sim", "real", "", "", "sim", "", "", "real", "sim"
        );
        text.push_str(&header);
        text.push_str(&kinds);
        text.push_str(&self.table);
        say(&text);
        assert!(self.problems.is_empty(), "\n{}\n{text}", self.problems.join("\n"));
    }
}

/// Past the test harness, which would swallow it.
fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

// === the corpus ===

fn corpus() -> Option<PathBuf> {
    let named = std::env::var_os("TEST_CORPUS").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus"));
    if folder.is_dir() {
        return Some(folder);
    }
    let said = format!("SKIPPED: no series of real devices at {}", folder.display());
    say(&format!("{said}\n"));
    None
}

/// A file's rows, split at commas.
fn rows(folder: &Path, name: &str) -> Vec<Vec<String>> {
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .map(|line| line.split(',').map(str::to_owned).collect())
        .collect()
}

/// Milliseconds of a civil date and hour (Gregorian), as if it were UTC.
fn civil(year: i64, month: i64, day: i64, hour: i64) -> i64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let months = (month + 9) % 12;
    let day_of_year = (153 * months + 2) / 5 + day - 1;
    let days = 365 * shifted + shifted.div_euclid(4) - shifted.div_euclid(100) + shifted.div_euclid(400);
    (days + day_of_year - 719_468) * DAY_MS + hour * HOUR_MS
}

/// `2024-01-31…` or `2024-01-31 15:45:00`.
fn date(text: &str) -> i64 {
    let numbers: Vec<i64> = text
        .split(['-', ' ', 'T', ':'])
        .map(|part| part.parse().unwrap())
        .collect();
    let get = |index: usize| numbers.get(index).copied().unwrap_or_default();
    civil(get(0), get(1), get(2), get(3)) + get(4) * 60_000
}

// === the simulated side ===

/// One field of one device, from `from_ms` on the city's own clock, every `step_s`.
fn simulated(city: &City, device: &Device, path: &str, from_ms: i64, step_s: i64, count: i64) -> Series {
    let mut series = Series::default();
    for index in 0..count {
        let local_ms = from_ms + index * step_s * 1000;
        let moment = Moment {
            observed_at_ms: local_ms - city.place().utc_offset_ms,
            interval: Duration::from_secs(step_s as u64),
        };
        let reading: Value = serde_json::from_slice(&device.reading(index as u64, moment)).unwrap();
        if let Some(value) = reading.pointer(path).and_then(Value::as_f64) {
            series.points.push((local_ms, value));
        }
    }
    series
}

/// The sum of the same field of many devices.
fn sum(all: Vec<Series>) -> Series {
    let mut all = all.into_iter();
    let mut total = all.next().unwrap();
    for series in all {
        assert_eq!(total.points.len(), series.points.len());
        for (sum, point) in total.points.iter_mut().zip(series.points) {
            sum.1 += point.1;
        }
    }
    total
}

/// Steps of a register, modulo its rollover, at the beginning of each step.
fn differences(register: &Series) -> Series {
    let step = |pair: &[(i64, f64)]| (pair[0].0, (pair[1].1 - pair[0].1).rem_euclid(100_000.0));
    Series {
        points: register.points.windows(2).map(step).collect(),
    }
}

#[test]
fn the_comparison_can_fail() {
    let wave = |amplitude: f64, hours_late: f64, noise: f64| {
        let value = |hour: i64| {
            let turns = (hour as f64 - hours_late) / 24.0;
            let jitter = noise * if hour % 2 == 0 { 1.0 } else { -1.0 };
            (
                hour * HOUR_MS,
                amplitude * (turns * std::f64::consts::TAU).sin() + jitter,
            )
        };
        Series {
            points: (0..240).map(value).collect(),
        }
    };
    let bounds = Bounds {
        day: Some(0.95),
        lag1: 0.05,
        range: 0.2,
    };
    let check = |simulated: Series, expected: &[&str]| {
        let mut comparison = Comparison::default();
        comparison.compare("wave", &wave(1.0, 0.0, 0.0), &simulated, &bounds);
        assert_eq!(comparison.problems.len(), expected.len(), "{:?}", comparison.problems);
        for (problem, part) in comparison.problems.iter().zip(expected) {
            assert!(problem.contains(part), "{problem}, not {part}");
        }
    };
    check(wave(1.1, 0.5, 0.01), &[]);
    check(wave(1.0, 3.0, 0.0), &["the mean day correlates by 0.707"]);
    check(wave(1.0, 0.0, 0.2), &["lag 1 is off"]);
    check(wave(1.6, 0.0, 0.0), &["p1 is off by 0.30", "p99 is off by 0.30"]);
    let constant = Series {
        points: (0..240).map(|hour| (hour * HOUR_MS, 0.0)).collect(),
    };
    check(
        constant,
        &[
            "correlates by NaN",
            "lag 1 is off by NaN",
            "p1 is off by 0.50",
            "p99 is off by 0.50",
        ],
    );
}

// === weather ===

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

// === traffic ===

#[test]
fn people_walk_as_in_auckland() {
    let Some(folder) = corpus() else { return };
    let rows = rows(&folder, "traffic/auckland-pedestrians-hourly-2024.csv");
    let mut real = Series::default();
    for row in rows.iter().skip(1) {
        let hour: i64 = row[1].split(':').next().unwrap().parse().unwrap();
        let all: f64 = row[3..].iter().filter_map(|count| count.parse::<f64>().ok()).sum();
        real.points.push((date(&row[0]) + hour * HOUR_MS, all));
    }
    let real = real.normalised();
    let city = Arc::new(City::new(SEED));
    let paths = (0..21).map(|index| {
        let device = Device::in_city(&city, Kind::TRAFFIC, index * 24);
        simulated(
            &city,
            &device,
            "/classes/pedestrian",
            civil(2025, 3, 3, 0),
            3600,
            8 * 7 * 24,
        )
    });
    let ours = sum(paths.collect()).normalised();
    let mut comparison = Comparison::default();
    let workday = |time: i64| day_of_week(time) < 5;
    let weekend = |time: i64| day_of_week(time) >= 5;
    let bounds = Bounds {
        day: Some(0.95),
        lag1: 0.08,
        range: 0.25,
    };
    comparison.compare(
        "on foot, Mon–Fri (mean = 1)",
        &real.only(workday),
        &ours.only(workday),
        &bounds,
    );
    comparison.compare(
        "on foot, Sat–Sun (mean = 1)",
        &real.only(weekend),
        &ours.only(weekend),
        &bounds,
    );
    comparison.finish("Streets: 21 counters in Auckland 2024, hourly, beside 21 simulated ones");
}

/// One lane's minute.
#[derive(Clone, Copy)]
struct LaneMinute {
    flow: f64,
    speed: f64,
    occupancy: f64,
}

/// Five minutes of a lane; the lanes one after the other, a day apart, so that only neighbours in time count as such.
fn chained(lanes: &[Vec<LaneMinute>], value: fn(&LaneMinute) -> f64) -> Series {
    let mut series = Series::default();
    for (index, minutes) in lanes.iter().enumerate() {
        for (minute, lane) in minutes.iter().enumerate() {
            series
                .points
                .push((index as i64 * DAY_MS + minute as i64 * 60_000, value(lane)));
        }
    }
    series
}

/// England's motorway counters: 09:33 to 09:37 on Wednesday 2015-04-29. Speed 255 and flow 15300 are no readings.
fn motorway_lanes(folder: &Path) -> Vec<Vec<LaneMinute>> {
    let text = std::fs::read_to_string(folder.join("traffic/traffic-tmu-loops-real-a.ndjson")).unwrap();
    let mut lanes: std::collections::BTreeMap<(String, u64), Vec<LaneMinute>> = Default::default();
    for line in text.lines() {
        let capture: Value = serde_json::from_str(line).unwrap();
        let mut minutes: std::collections::BTreeMap<u64, LaneMinute> = Default::default();
        for value in capture["values"].as_array().unwrap() {
            let lane = value["index"].as_u64().unwrap() / 8;
            let number = |name: &str| value[name].as_str().unwrap().parse::<f64>().unwrap();
            let minute = minutes.entry(lane).or_insert(LaneMinute {
                flow: 0.0,
                speed: 255.0,
                occupancy: 255.0,
            });
            match value["type"].as_str().unwrap() {
                "TrafficSpeed" => minute.speed = number("speed"),
                "TrafficConcentration" => minute.occupancy = number("percentage"),
                "TrafficFlow" => minute.flow += number("vehicleFlowRate"),
                _ => {}
            }
        }
        for (lane, minute) in minutes {
            if minute.speed < 255.0 && minute.flow > 0.0 && minute.flow < 15_300.0 {
                let site = capture["site"].as_str().unwrap().to_owned();
                lanes.entry((site, lane)).or_default().push(minute);
            }
        }
    }
    lanes.into_values().filter(|minutes| minutes.len() == 5).collect()
}

#[test]
fn traffic_flows_as_on_a_motorway() {
    let Some(folder) = corpus() else { return };
    let real = motorway_lanes(&folder);
    let city = Arc::new(City::new(SEED));
    let mut ours = Vec::new();
    // Wednesday 2025-04-30, the same five minutes.
    let from = civil(2025, 4, 30, 9) + 33 * 60_000;
    let at_night = |device: &Device| simulated(&city, device, "/speed_kmh", civil(2025, 4, 30, 3), 3600, 1).mean();
    for index in 0..1200 {
        let device = Device::in_city(&city, Kind::TRAFFIC, index * 7);
        // The city's motorways are the roads on which people drive fast when nobody is in their way.
        if at_night(&device) < 85.0 {
            continue;
        }
        for lane in 0..3 {
            let read = |field: &str| {
                let series = simulated(&city, &device, &format!("/lanes/{lane}/{field}"), from, 60, 5);
                series.values().collect::<Vec<f64>>()
            };
            let (flow, speed, occupancy) = (read("flow_veh_h"), read("speed_kmh"), read("occupancy_percent"));
            if speed.len() == 5 && flow.len() == 5 {
                let minute = |index: usize| LaneMinute {
                    flow: flow[index],
                    speed: speed[index],
                    occupancy: occupancy[index],
                };
                ours.push((0..5).map(minute).collect());
            }
        }
    }
    let mut comparison = Comparison::default();
    let bounds = |lag1: f64, range: f64| Bounds { day: None, lag1, range };
    let mut check = |what: &str, value: fn(&LaneMinute) -> f64, bounds: Bounds| {
        comparison.compare(what, &chained(&real, value), &chained(&ours, value), &bounds);
    };
    check("flow of a lane, veh/h", |lane| lane.flow, bounds(0.12, 0.35));
    check("speed of a lane, km/h", |lane| lane.speed, bounds(0.12, 0.4));
    check("occupancy of a lane, %", |lane| lane.occupancy, bounds(0.2, 0.35));
    let length = |lane: &LaneMinute| lane.occupancy * 10.0 * lane.speed / lane.flow;
    let lengths = |lanes: &[Vec<LaneMinute>]| {
        let busy = lanes.iter().flatten().filter(|lane| lane.flow >= 900.0);
        let points = busy
            .enumerate()
            .map(|(index, lane)| (index as i64, length(lane)))
            .collect();
        Series { points }
    };
    let (theirs, mine) = (lengths(&real).percentile(0.5), lengths(&ours).percentile(0.5));
    comparison.finish(
        "Traffic: England's motorway counters, five minutes by the minute, beside some 400 simulated detectors",
    );
    // Occupancy, flow and speed together are a length: of a vehicle, and the loop.
    say(&format!(
        "Occupied length of a vehicle at 900 veh/h or more: real {theirs:.1} m, simulated {mine:.1} m\n"
    ));
    assert!(
        (3.0..9.0).contains(&mine) && (mine / theirs) < 2.5,
        "{mine} m and {theirs} m"
    );
}

// === energy ===

/// What so many meters draw, by the difference of their registers.
fn drawn(city: &Arc<City>, consumer: Consumer, meters: u64, from_ms: i64, step_s: i64, count: i64) -> Series {
    let register = |index: u64| {
        let device = Device::meter(city, consumer, index);
        differences(&simulated(
            city,
            &device,
            "/energy_import_kwh",
            from_ms,
            step_s,
            count + 1,
        ))
    };
    sum((0..meters).map(register).collect())
}

#[test]
fn households_and_shops_draw_what_the_standard_profiles_say() {
    let Some(folder) = corpus() else { return };
    let rows = rows(&folder, "energy/energy-bdew-standard-load-profiles.csv");
    let column = |name: &str| rows[0].iter().position(|column| column == name).unwrap();
    let profile = |name: &str, period: &str, monday_ms: i64| {
        let column = column(name);
        let of_period = rows.iter().skip(1).filter(|row| row[1] == period);
        let points: Vec<(i64, f64)> = of_period
            .enumerate()
            .map(|(index, row)| (monday_ms + index as i64 * 900_000, row[column].parse().unwrap()))
            .collect();
        assert_eq!(points.len(), 7 * 96);
        Series { points }.normalised()
    };
    let city = Arc::new(City::new(SEED));
    let mut comparison = Comparison::default();
    let bounds = Bounds {
        day: Some(0.98),
        lag1: 0.06,
        range: 0.15,
    };
    for (period, monday_ms) in [
        ("winter", civil(2025, 1, 13, 0)),
        ("summer", civil(2025, 7, 7, 0)),
        ("transition", civil(2025, 4, 7, 0)),
    ] {
        for (name, consumer, meters) in [("h0", Consumer::Household, 200), ("g0", Consumer::Shop, 60)] {
            let real = profile(name, period, monday_ms);
            let ours = drawn(&city, consumer, meters, monday_ms, 900, 7 * 96).normalised();
            for (days, from, until) in [("Mon–Fri", 0, 5), ("Sat", 5, 6), ("Sun", 6, 7)] {
                let these = |time: i64| (from..until).contains(&day_of_week(time));
                let what = format!("{name} {period} {days} (mean = 1)");
                comparison.compare(&what, &real.only(these), &ours.only(these), &bounds);
            }
        }
    }
    comparison.finish("Energy: BDEW standard profiles, by the quarter hour, beside 200 households and 60 shops");
}

#[test]
fn a_city_draws_power_as_a_state_does() {
    let Some(folder) = corpus() else { return };
    let rows = rows(&folder, "energy/mstl_elec_vic.csv");
    let point = |row: &Vec<String>| (date(&row[0]), row[1].parse::<f64>().unwrap());
    let real = Series {
        points: rows.iter().skip(1).map(point).collect(),
    };
    let city = Arc::new(City::new(SEED));
    // Half a year later: theirs is a summer in the south.
    let from = civil(2025, 7, 1, 0);
    let of = |consumer, meters| drawn(&city, consumer, meters, from, 3600, 6 * 7 * 24);
    let ours = sum(vec![
        of(Consumer::Household, 200),
        of(Consumer::Shop, 60),
        of(Consumer::StreetLight, 8),
    ]);
    let mut comparison = Comparison::default();
    let bounds = Bounds {
        day: Some(0.85),
        lag1: 0.06,
        range: 0.35,
    };
    comparison.compare("demand (mean = 1)", &real.normalised(), &ours.normalised(), &bounds);
    comparison.finish("Energy: demand of Victoria 2012, hourly, beside 268 simulated meters");
}
