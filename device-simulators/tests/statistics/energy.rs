//! Energy meters beside the standard load profiles and a state's demand.
//!
//! Hundreds of them together: a single one is ragged.

use std::sync::Arc;

use device_simulators::devices::energy::Consumer;
use device_simulators::devices::{City, Device};

use crate::SEED;
use crate::comparison::{Bounds, Comparison};
use crate::corpus::{civil, corpus, date, rows};
use crate::series::{Series, day_of_week, differences, simulated, sum};

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
