//! An electricity meter in a household, some of them with a roof full of panels.
//!
//! The load follows the day (breakfast, dinner), the panels follow the sun of an average day. The registers are the
//! exact integral of that curve since the meter was installed, so they never run backwards and agree with the power;
//! the power adds a little noise around it, as a meter read at an instant does.

use serde::Serialize;

use super::calendar::{self, LocalTime};
use super::noise::Noise;
use super::{Moment, rounded};

/// Mean load of a household by hour, in watts: after the shape of the German standard profile H0.
const LOAD_W: [f64; 24] = [
    260.0, 200.0, 170.0, 160.0, 165.0, 190.0, 330.0, 480.0, 500.0, 470.0, 450.0, 480.0, //
    540.0, 500.0, 440.0, 420.0, 450.0, 580.0, 760.0, 840.0, 760.0, 640.0, 510.0, 380.0,
];

/// Output of one kilowatt-peak of panels by hour, in watts, on an average day.
const PANELS_W: [f64; 24] = [
    0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 10.0, 70.0, 190.0, 310.0, 410.0, 470.0, //
    490.0, 470.0, 410.0, 310.0, 190.0, 70.0, 10.0, 0.0, 0.0, 0.0, 0.0, 0.0,
];

/// The first day of the oldest meter (2024-01-01), in days since 1970.
const INSTALLED_DAY: i64 = 19_723;

const NOMINAL_V: f64 = 230.0;

#[derive(Debug, Serialize)]
pub(super) struct Energy {
    energy_import_kwh: f64,
    energy_export_kwh: f64,
    /// Negative: the household feeds the grid.
    power_w: f64,
    reactive_power_var: f64,
    power_factor: f64,
    frequency_hz: f64,
    phases: Vec<Phase>,
}

#[derive(Debug, Serialize)]
struct Phase {
    phase: &'static str,
    voltage_v: f64,
    current_a: f64,
    power_w: f64,
}

/// What the meter reports at `moment`.
pub(super) fn reading(noise: &Noise, moment: Moment) -> Energy {
    let time = moment.observed_at_ms;
    let local = LocalTime::of(time);
    let curve = net_curve(noise);
    let (import_kwh, export_kwh) = registers(noise, &curve, local);

    let flicker = 40.0 * noise.smooth("power", time, 180) + 10.0 * (noise.unit("power", time) - 0.5);
    let power = calendar::by_hour(&curve, local.hour) + flicker;
    let power_factor = 0.93 + 0.05 * noise.smooth("factor", time, 1200);
    Energy {
        energy_import_kwh: rounded(import_kwh, 3),
        energy_export_kwh: rounded(export_kwh, 3),
        power_w: rounded(power, 1),
        reactive_power_var: rounded(power.abs() * power_factor.acos().tan(), 1),
        power_factor: rounded(power_factor, 3),
        // The grid's, and the same for everyone on it.
        frequency_hz: rounded(50.0 + 0.03 * noise.city().smooth("frequency", time, 30), 3),
        phases: phases(noise, time, power, power_factor),
    }
}

/// Load minus panels by hour, in watts.
fn net_curve(noise: &Noise) -> [f64; 24] {
    let size = 0.5 + 1.2 * noise.fixed("size");
    let roof_kwp = 2.0 + 4.0 * noise.fixed("roof");
    let panels_kwp = roof_kwp * f64::from(noise.fixed("panels") < 0.3);
    let mut curve = [0.0; 24];
    for (net, (load, panels)) in curve.iter_mut().zip(LOAD_W.iter().zip(PANELS_W)) {
        *net = size * load - panels_kwp * panels;
    }
    curve
}

/// Import and export since installation, in kilowatt-hours.
fn registers(noise: &Noise, curve: &[f64; 24], local: LocalTime) -> (f64, f64) {
    let installed = INSTALLED_DAY + (noise.fixed("installed") * 365.0) as i64;
    let days = (local.day - installed).max(0) as f64;
    let (import_day, export_day) = since_midnight(curve, 24.0);
    let (import_today, export_today) = since_midnight(curve, local.hour);
    (
        (days * import_day + import_today) / 1000.0,
        (days * export_day + export_today) / 1000.0,
    )
}

/// Watt-hours imported and exported from midnight to `hour`.
fn since_midnight(curve: &[f64; 24], hour: f64) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for from in 0..24 {
        let length = (hour - f64::from(from)).clamp(0.0, 1.0);
        let start = calendar::by_hour(curve, f64::from(from));
        let next = calendar::by_hour(curve, f64::from(from) + 1.0);
        let end = start + (next - start) * length;
        sums.0 += positive_area(start, end, length);
        sums.1 += positive_area(-start, -end, length);
    }
    sums
}

/// The area under the line from `start` to `end`, as far as it is above zero.
fn positive_area(start: f64, end: f64, length: f64) -> f64 {
    match (start > 0.0, end > 0.0) {
        (true, true) => (start + end) / 2.0 * length,
        (false, false) => 0.0,
        // It crosses zero: a triangle is left.
        _ => start.max(end).powi(2) / (2.0 * (start - end).abs()) * length,
    }
}

/// One phase, or three that share the power unevenly.
fn phases(noise: &Noise, time_ms: i64, power_w: f64, power_factor: f64) -> Vec<Phase> {
    let names: &[&str] = if noise.fixed("phases") < 0.3 {
        &["L1"]
    } else {
        &["L1", "L2", "L3"]
    };
    let weights: Vec<f64> = names.iter().map(|name| 0.2 + noise.fixed(name)).collect();
    let sum: f64 = weights.iter().sum();
    let phase = |(name, weight): (&&'static str, f64)| {
        let power = power_w * weight / sum;
        let voltage = NOMINAL_V + 4.0 * noise.smooth(name, time_ms, 240);
        Phase {
            phase: name,
            voltage_v: rounded(voltage, 1),
            current_a: rounded(power.abs() / (voltage * power_factor), 2),
            power_w: rounded(power, 1),
        }
    };
    names.iter().zip(weights).map(phase).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::at;
    use super::*;

    #[test]
    fn registers_never_run_backwards() {
        for index in 0..20 {
            let noise = Noise::new(9, index);
            let mut last = reading(&noise, at(0.0));
            for minute in 1..3000 {
                let next = reading(&noise, at(f64::from(minute) / 60.0));
                assert!(
                    next.energy_import_kwh >= last.energy_import_kwh,
                    "device {index}, minute {minute}"
                );
                assert!(
                    next.energy_export_kwh >= last.energy_export_kwh,
                    "device {index}, minute {minute}"
                );
                last = next;
            }
        }
    }

    #[test]
    fn registers_are_the_integral_of_the_power() {
        for index in 0..20 {
            let noise = Noise::new(9, index);
            let curve = net_curve(&noise);
            let read = |hour| registers(&noise, &curve, LocalTime::of(at(hour).observed_at_ms));
            let (before, after) = (read(0.0), read(24.0));
            let (import, export) = (after.0 - before.0, after.1 - before.1);
            let steps = (0..24_000).map(|step| calendar::by_hour(&curve, f64::from(step) / 1000.0));
            let (mut imported, mut exported) = (0.0, 0.0);
            for power in steps {
                imported += power.max(0.0) / 1e6;
                exported += (-power).max(0.0) / 1e6;
            }
            assert!((import - imported).abs() < 0.01, "{import} {imported}");
            assert!((export - exported).abs() < 0.01, "{export} {exported}");
            assert!((3.0..35.0).contains(&import), "{import} kWh a day");
        }
    }

    #[test]
    fn panels_feed_the_grid_at_noon_only() {
        let power = |index, hour| reading(&Noise::new(9, index), at(hour)).power_w;
        let feeding = (0..100).filter(|&index| power(index, 12.5) < 0.0).count();
        assert!((10..50).contains(&feeding), "{feeding} of 100 feed the grid at noon");
        let at_night = (0..100).filter(|&index| power(index, 0.0) < 0.0).count();
        assert_eq!(at_night, 0);
    }

    #[test]
    fn phases_add_up() {
        for index in 0..50 {
            let energy = reading(&Noise::new(9, index), at(index as f64 * 0.47));
            let sum: f64 = energy.phases.iter().map(|phase| phase.power_w).sum();
            assert!((sum - energy.power_w).abs() < 0.3, "{energy:?}");
        }
    }
}
