//! Energy meters beside the standard load profiles and a state's demand.
//!
//! Hundreds of them together: a single one is ragged. And single ones by the second: when they switch, on which phase, and
//! what their registers make of it.

use std::sync::Arc;
use std::time::Duration;

use device_simulators::devices::energy::Consumer;
use device_simulators::devices::{City, Device, Moment};
use serde_json::Value;

use crate::SEED;
use crate::comparison::{Bounds, Comparison, say};
use crate::corpus::{civil, corpus, date, rows};
use crate::series::{Series, day_of_week, differences, simulated, sum};

/// What so many meters draw, by the difference of their registers; of consumers without panels, as the profiles are.
fn drawn(city: &Arc<City>, consumer: Consumer, meters: usize, from_ms: i64, step_s: i64, count: i64) -> Series {
    let only_draws = |device: &Device| simulated(city, device, "/energy_export_kwh", from_ms, 1, 1).mean() == 0.0;
    let devices = (0..)
        .map(|index| Device::meter(city, consumer, index))
        .filter(only_draws);
    let register = |device: Device| {
        differences(&simulated(
            city,
            &device,
            "/energy_import_kwh",
            from_ms,
            step_s,
            count + 1,
        ))
    };
    sum(devices.take(meters).map(register).collect())
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
        for (name, consumer, meters) in [("h0", Consumer::Household, 200), ("g0", Consumer::Shop, 180)] {
            let real = profile(name, period, monday_ms);
            let ours = drawn(&city, consumer, meters, monday_ms, 900, 7 * 96).normalised();
            for (days, from, until) in [("Mon–Fri", 0, 5), ("Sat", 5, 6), ("Sun", 6, 7)] {
                let these = |time: i64| (from..until).contains(&day_of_week(time));
                let what = format!("{name} {period} {days} (mean = 1)");
                comparison.compare(&what, &real.only(these), &ours.only(these), &bounds);
            }
        }
    }
    comparison.finish("Energy: BDEW standard profiles, by the quarter hour, beside 200 households and 180 shops");
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

/// What one meter says at regular times.
fn readings(city: &City, meter: &Device, from_ms: i64, step_s: i64, count: i64) -> Vec<Value> {
    let read = |index: i64| {
        let moment = Moment {
            observed_at_ms: from_ms + index * step_s * 1000 - city.place().utc_offset_ms,
            interval: Duration::from_secs(step_s as u64),
        };
        serde_json::from_slice(&meter.reading(index as u64, moment)).unwrap()
    };
    (0..count).map(read).collect()
}

fn number(reading: &Value, path: &str) -> f64 {
    reading.pointer(path).and_then(Value::as_f64).unwrap()
}

fn phase_powers(reading: &Value) -> Vec<f64> {
    let phases = reading["phases"].as_array().unwrap();
    phases.iter().map(|phase| number(phase, "/power_w")).collect()
}

/// Households without panels on three phases.
fn homes(city: &Arc<City>, count: usize) -> Vec<Device> {
    let meters = (0..).map(|index| Device::meter(city, Consumer::Household, index));
    let is_home = |meter: &Device| {
        let first = &readings(city, meter, civil(2025, 3, 4, 0), 1, 1)[0];
        number(first, "/energy_export_kwh") == 0.0 && phase_powers(first).len() == 3
    };
    meters.filter(is_home).take(count).collect()
}

/// Nobody's kettle knows the clock: a sixtieth of all switching falls on each minute of the hour.
#[test]
fn appliances_switch_at_any_minute_each_on_its_phase() {
    let city = Arc::new(City::new(SEED));
    let (mut by_minute, mut edges, mut alone) = ([0.0; 60], 0.0, 0.0);
    let mut shares = Vec::new();
    for meter in homes(&city, 16) {
        let day = readings(&city, &meter, civil(2025, 3, 4, 0), 20, 4320);
        for (index, pair) in day.windows(2).enumerate() {
            let (before, after) = (phase_powers(&pair[0]), phase_powers(&pair[1]));
            let moved = before
                .iter()
                .zip(&after)
                .filter(|(before, after)| (*after - *before).abs() > 35.0)
                .count();
            if moved > 0 {
                by_minute[index / 3 % 60] += 1.0;
                edges += 1.0;
                alone += f64::from(u8::from(moved == 1));
            }
        }
        let first = |reading: &Value| phase_powers(reading)[0] / number(reading, "/power_w");
        let points = day.iter().map(|reading| (0, first(reading))).collect();
        let share = Series { points };
        shares.push((0, share.percentile(0.9) - share.percentile(0.1)));
    }
    let most = by_minute.iter().copied().fold(0.0, f64::max) / edges;
    let on_fives = (by_minute[0] + by_minute[5]) / edges;
    let width = Series { points: shares }.percentile(0.5);
    say(&format!(
        "\n16 homes, one day: {edges} switchings, {:.1} % in the fullest minute of the hour and {:.1} % in minutes 0 and 5 \
         (evenly: 1.7 and 3.3); {:.0} % on one phase alone; the first phase's share moves by {width:.2} (10 to 90 %)\n",
        100.0 * most,
        100.0 * on_fives,
        100.0 * alone / edges,
    ));
    // Three standard deviations of so many counts.
    let three = 3.0 / (edges / 60.0f64).sqrt();
    assert!(most < (1.0 + 1.3 * three) / 60.0, "{by_minute:?}");
    assert!(on_fives < (2.0 + 1.4 * three) / 60.0, "{by_minute:?}");
    assert!(alone > 0.9 * edges && width > 0.2, "{alone} of {edges}, {width}");
}

/// DSMR's and other telegrams of the corpus have two or three decimals, and thousands of kWh after some years.
#[test]
fn registers_have_the_steps_and_the_past_of_a_meter() {
    let city = Arc::new(City::new(SEED));
    let (mut starts, mut steps) = (Series::default(), Series::default());
    for meter in homes(&city, 40) {
        let quarters = readings(&city, &meter, civil(2025, 3, 4, 0), 900, 96);
        let values: Vec<f64> = quarters
            .iter()
            .map(|reading| number(reading, "/energy_import_kwh"))
            .collect();
        let is_step = |steps: f64| {
            values
                .iter()
                .all(|kwh| ((kwh * steps).round() / steps - kwh).abs() < 1e-9)
        };
        assert!(is_step(1000.0), "{values:?}");
        assert!(values.windows(2).all(|pair| pair[0] <= pair[1]), "{values:?}");
        starts.points.push((0, values[0]));
        steps.points.push((0, if is_step(100.0) { 0.01 } else { 0.001 }));
    }
    let coarse = steps.values().filter(|step| *step == 0.01).count();
    let (least, median, most) = (starts.percentile(0.0), starts.percentile(0.5), starts.percentile(1.0));
    say(&format!(
        "\nRegisters of 40 homes: {coarse} in steps of 0.01 kWh, the others of 0.001; from {least:.0} to {most:.0} kWh, \
         median {median:.0}\n"
    ));
    assert!((4..25).contains(&coarse), "{coarse}");
    // A home uses 1500 to 5500 kWh a year; meters are changed after 16 years at the latest (in Germany, MessEV annex 7).
    assert!(
        least > 1_500.0 && most < 16.0 * 5_500.0 && median > 8_000.0,
        "{least} {median} {most}"
    );
}

/// A home with panels uses a third of their output itself, less where each phase is counted by itself (Weniger and others,
/// HTW Berlin 2015: 25 to 40 % for 4 kWp and 4 MWh a year).
#[test]
fn panels_export_what_each_phase_leaves_over() {
    let city = Arc::new(City::new(SEED));
    let meters = (0..60).map(|index| Device::meter(&city, Consumer::Household, index));
    let from = civil(2026, 9, 12, 0);
    let (mut used, mut homes, mut at_once) = (Series::default(), 0, 0);
    for meter in meters {
        if number(&readings(&city, &meter, from, 1, 1)[0], "/energy_export_kwh") == 0.0 {
            continue;
        }
        let day = readings(&city, &meter, from, 30, 2881);
        let more = |path: &str| number(&day[2880], path) - number(&day[0], path);
        let (imported, exported) = (more("/energy_import_kwh"), more("/energy_export_kwh"));
        let powers: Vec<Vec<f64>> = day.iter().take(2880).map(phase_powers).collect();
        let sum = |part: fn(f64) -> f64| powers.iter().flatten().map(|watts| part(*watts)).sum::<f64>() / 120_000.0;
        let (drawn, given) = (sum(|watts| watts.max(0.0)), sum(|watts| (-watts).max(0.0)));
        assert!(
            (imported - drawn).abs() < 0.2 + 0.06 * drawn,
            "{}: {imported} and {drawn} kWh",
            meter.name()
        );
        assert!(
            (exported - given).abs() < 0.2 + 0.06 * given,
            "{}: {exported} and {given} kWh",
            meter.name()
        );
        // By night nothing is exported, and what is used in the sun is not all imported.
        let noon = &day[1440];
        at_once += usize::from(phase_powers(noon).iter().any(|watts| *watts < 0.0));
        homes += 1;
        used.points.push((0, exported / (exported + imported)));
    }
    let median = used.percentile(0.5);
    say(&format!(
        "\n{homes} homes with panels, a day in September: registers are the sums of the phases' net flows; {at_once} export at \
         noon; exported over what passed the meter: median {median:.2}\n"
    ));
    assert!(homes > 10 && at_once * 2 > homes, "{at_once} of {homes}");
    assert!((0.2..0.9).contains(&median), "{median}");
}
