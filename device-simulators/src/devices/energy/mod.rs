//! An electricity meter: of a household, of a shop, or of a street's lights.
//!
//! What is drawn follows the [standard profiles](load) and, for lights, the sun; some roofs carry panels, whose output is the
//! same irradiance that the weather stations report, at the city's centre. The two registers count each phase's direction
//! by itself, as meters without netting do: import is all that is drawn, export all that the panels give, and power is the
//! difference. Both are exact integrals, never run backwards, and roll over at 100,000 kWh as five digits do. Voltage sags
//! under the load of its phase and rises with the sun.

mod fields;
mod load;
pub(crate) mod sums;

use std::sync::Arc;

use serde::Serialize;

use super::city::{City, Spot};
use super::kind::{Definition, Sensor};
use super::noise::Noise;
use super::{Device, Header, Moment, json, rounded};
use load::{Drawn, Load, Sort};

pub(super) const KIND: Definition = Definition {
    name: "energy",
    device_prefix: "meter",
    schema: include_str!("../../../../schemas/energy.avsc"),
    fields: fields::FIELDS,
    sensor: |_, noise, _| (Arc::new(Consumer::by_chance(noise)), Spot::of(noise)),
};

/// Where five digits before the point end.
const ROLLOVER_KWH: f64 = 100_000.0;

/// Irradiance to output: one kilowatt-peak under 1000 W/m², less heat, wires and inverter.
const PERFORMANCE: f64 = 0.84;

/// The transformer is set a little high, so that the far end of the street gets enough.
const SUPPLY_V: f64 = 233.0;

/// The street's cable as one phase sees it, ohms.
const CABLE_OHM: f64 = 0.18;

const NAMES: [&str; 3] = ["L1", "L2", "L3"];

/// Who is behind a meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consumer {
    Household,
    Shop,
    StreetLight,
}

#[derive(Debug, Serialize)]
pub(super) struct Energy {
    energy_import_kwh: f64,
    energy_export_kwh: f64,
    /// Negative: more is exported to the grid than imported.
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

/// A meter: what never changes about it.
#[derive(Debug)]
struct Meter<'d> {
    city: &'d City,
    noise: &'d Noise,
    consumer: Consumer,
    /// Kilowatts-peak on the roof; 0 for most.
    panels_kwp: f64,
}

// === impl Consumer ===

impl Consumer {
    pub const ALL: [Consumer; 3] = [Consumer::Household, Consumer::Shop, Consumer::StreetLight];

    /// Three in four are households.
    pub(super) fn by_chance(noise: &Noise) -> Consumer {
        match noise.fixed("consumer") {
            ..0.75 => Consumer::Household,
            ..0.92 => Consumer::Shop,
            _ => Consumer::StreetLight,
        }
    }
}

impl Sensor for Consumer {
    fn reading(&self, device: &Device, header: Header, moment: Moment) -> Vec<u8> {
        json(header, reading(&device.city, &device.noise, *self, moment))
    }
}

/// What the meter reports at `moment`.
pub(super) fn reading(city: &City, noise: &Noise, consumer: Consumer, moment: Moment) -> Energy {
    let meter = Meter::new(city, noise, consumer);
    let time = moment.observed_at_ms;
    let (drawn, given) = (meter.drawn(time), meter.given(time));
    let power = drawn.power_w - given.power_w;
    let usual = match consumer {
        Consumer::Household => 0.95,
        Consumer::Shop => 0.9,
        Consumer::StreetLight => 0.93,
    };
    let power_factor = rounded(usual + 0.04 * noise.smooth("factor", time, 1200), 3);
    Energy {
        energy_import_kwh: register(noise.fixed("import"), drawn.energy_kwh),
        energy_export_kwh: if meter.panels_kwp > 0.0 {
            register(0.2 * noise.fixed("export"), given.energy_kwh)
        } else {
            0.0
        },
        power_w: rounded(power, 1),
        reactive_power_var: rounded(power.abs() * tangent(power_factor), 1),
        power_factor,
        // The grid's, and the same for everyone on it.
        frequency_hz: rounded(50.0 + 0.018 * city.noise.rippled("frequency", time, 180), 3),
        phases: meter.phases(time, drawn.power_w, given.power_w, power_factor),
    }
}

/// Reactive over active power.
fn tangent(power_factor: f64) -> f64 {
    (1.0 - power_factor * power_factor).max(0.0).sqrt() / power_factor
}

/// What the digits show: somebody else's meter before, and at 99,999.999 it begins anew.
fn register(started: f64, energy_kwh: f64) -> f64 {
    // To watt-hours, and then around, or the rounding would show 100000.
    rounded((ROLLOVER_KWH * started).floor() + energy_kwh, 3).rem_euclid(ROLLOVER_KWH)
}

// === impl Meter ===

impl<'d> Meter<'d> {
    fn new(city: &'d City, noise: &'d Noise, consumer: Consumer) -> Meter<'d> {
        let (share, least, most) = match consumer {
            Consumer::Household => (0.3, 2.5, 8.0),
            Consumer::Shop => (0.25, 10.0, 25.0),
            Consumer::StreetLight => (0.0, 0.0, 0.0),
        };
        let has_panels = noise.fixed("panels") < share;
        let roof_kwp = least + (most - least) * noise.fixed("roof");
        Meter {
            city,
            noise,
            consumer,
            panels_kwp: if has_panels { roof_kwp } else { 0.0 },
        }
    }

    fn drawn(&self, time_ms: i64) -> Drawn {
        let local = sums::local(self.city, time_ms);
        let size = self.noise.fixed("size");
        let (sort, mean_w) = match self.consumer {
            Consumer::Household => (Sort::Household, 180.0 + 450.0 * size),
            Consumer::Shop => (Sort::Shop, 900.0 + 7000.0 * size * size),
            Consumer::StreetLight => return self.lights(local.day, local.hour),
        };
        let load = Load {
            noise: self.noise,
            sort,
            mean_w,
        };
        let (now, first) = (load.at(local.day, local.hour), load.at(sums::FIRST_DAY, 0.0));
        Drawn {
            power_w: now.power_w,
            energy_kwh: now.energy_kwh - first.energy_kwh,
        }
    }

    /// Some dozens of lamps behind one sensor of light.
    fn lights(&self, day: i64, hour: f64) -> Drawn {
        let installed_w = 45.0 * (20.0 + 100.0 * self.noise.fixed("size")).floor();
        let daylight = self.city.place.daylight(day, load::LIT_SINE);
        let (today_h, brightness) = load::lit(daylight, hour);
        let hours = self.city.sums.lit_h(self.city, day) + today_h;
        // The cabinet itself.
        let standby_w = 6.0;
        let standby_h = (day - sums::FIRST_DAY) as f64 * 24.0 + hour;
        Drawn {
            power_w: installed_w * brightness + standby_w,
            energy_kwh: (installed_w * hours + standby_w * standby_h) / 1000.0,
        }
    }

    /// What the panels give.
    fn given(&self, time_ms: i64) -> Drawn {
        if self.panels_kwp == 0.0 {
            return Drawn {
                power_w: 0.0,
                energy_kwh: 0.0,
            };
        }
        let (sunshine_kwh_m2, now_w_m2) = self.city.sums.sunshine(self.city, time_ms);
        // A square metre's share of 1000 W/m² is what a kilowatt-peak is defined by.
        let per_unit = self.panels_kwp * PERFORMANCE;
        Drawn {
            power_w: per_unit * now_w_m2,
            energy_kwh: per_unit * sunshine_kwh_m2,
        }
    }

    /// One phase, or three that share the load unevenly and the panels evenly.
    fn phases(&self, time_ms: i64, drawn_w: f64, given_w: f64, power_factor: f64) -> Vec<Phase> {
        let single = self.consumer == Consumer::Household && self.panels_kwp == 0.0 && self.noise.fixed("phases") < 0.3;
        let names = NAMES.iter().take(if single { 1 } else { 3 });
        let weights: Vec<f64> = names.clone().map(|name| 0.3 + self.noise.fixed(name)).collect();
        let (sum, count) = (weights.iter().sum::<f64>(), weights.len() as f64);
        let grid_v = SUPPLY_V + 1.2 * self.city.noise.rippled("voltage", time_ms, 1800);
        let street_w = 700.0 * self.street(time_ms);
        let phase = |(name, weight): (&&'static str, f64)| {
            let power = drawn_w * weight / sum - given_w / count;
            let flicker = 0.7 * self.noise.smooth(name, time_ms, 120);
            // A drop over the cable by what flows in it: the own load, and the neighbours'.
            let voltage = grid_v + flicker - CABLE_OHM * (power + 6.0 * street_w) / SUPPLY_V;
            let voltage = rounded(voltage, 1);
            Phase {
                phase: name,
                voltage_v: voltage,
                current_a: rounded(power.abs() / (voltage * power_factor), 2),
                power_w: rounded(power, 1),
            }
        };
        names.zip(weights).map(phase).collect()
    }

    /// What a neighbour's phase draws, as a share of its evening peak; negative when the sun is on the roofs.
    fn street(&self, time_ms: i64) -> f64 {
        let hour = sums::local(self.city, time_ms).hour;
        let evening = super::math::hill((hour - 19.0) / 6.0);
        evening - 0.9 * self.city.place.sun(time_ms).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{CITY_SEED, at};
    use super::*;

    fn read(city: &City, consumer: Consumer, index: u64, hour: f64) -> Energy {
        let noise = Noise::new(city.seed, "device", index);
        reading(city, &noise, consumer, at(hour))
    }

    #[test]
    fn registers_never_run_backwards_but_roll_over() {
        let city = City::new(CITY_SEED);
        let mut rolled = 0;
        for consumer in Consumer::ALL {
            for index in 0..12 {
                let mut last = read(&city, consumer, index, 0.0);
                for step in 1..1500 {
                    // Every 100 minutes for 100 days.
                    let next = read(&city, consumer, index, f64::from(step) * 1.7);
                    for (now, before) in [
                        (next.energy_import_kwh, last.energy_import_kwh),
                        (next.energy_export_kwh, last.energy_export_kwh),
                    ] {
                        assert!((0.0..ROLLOVER_KWH).contains(&now));
                        let rollover = now < before;
                        rolled += usize::from(rollover);
                        let more = now - before + if rollover { ROLLOVER_KWH } else { 0.0 };
                        assert!((0.0..200.0).contains(&more), "{consumer:?} {index}: {before} to {now}");
                    }
                    last = next;
                }
            }
        }
        assert!(rolled > 0, "no register of 36 rolled over in 100 days");
    }

    #[test]
    fn registers_are_the_integral_of_the_power() {
        let city = City::new(CITY_SEED);
        for consumer in Consumer::ALL {
            for index in 0..15 {
                let (from, to) = (read(&city, consumer, index, 0.0), read(&city, consumer, index, 48.0));
                let more = |to: f64, from: f64| (to - from).rem_euclid(ROLLOVER_KWH);
                let net = more(to.energy_import_kwh, from.energy_import_kwh)
                    - more(to.energy_export_kwh, from.energy_export_kwh);
                // In the middle of each minute.
                let power = |minute: i32| read(&city, consumer, index, (f64::from(minute) + 0.5) / 60.0).power_w;
                let integral = (0..2880).map(power).sum::<f64>() / 60_000.0;
                assert!(
                    (net - integral).abs() < 0.02 + 0.001 * net.abs(),
                    "{consumer:?} {index}: {net} {integral}"
                );
            }
        }
    }

    #[test]
    fn panels_feed_the_grid_by_day_only() {
        let city = City::new(CITY_SEED);
        let power = |index, hour| read(&city, Consumer::Household, index, hour).power_w;
        let feeding = (0..200).filter(|&index| power(index, 12.5) < 0.0).count();
        assert!((20..80).contains(&feeding), "{feeding} of 200 feed the grid at noon");
        assert_eq!((0..200).filter(|&index| power(index, 0.0) < 0.0).count(), 0);
    }

    #[test]
    fn lights_burn_at_night() {
        let city = City::new(CITY_SEED);
        for index in 0..20 {
            let power = |hour| read(&city, Consumer::StreetLight, index, hour).power_w;
            assert!(power(12.0) == 6.0 && power(23.0) > 800.0 && power(2.0) < power(23.0));
        }
    }

    #[test]
    fn phases_add_up_and_agree_with_themselves() {
        let city = City::new(CITY_SEED);
        for index in 0..900u64 {
            let consumer = Consumer::ALL[index as usize % 3];
            let energy = read(&city, consumer, index, index as f64 * 0.47);
            let sum: f64 = energy.phases.iter().map(|phase| phase.power_w).sum();
            assert!((sum - energy.power_w).abs() < 0.3, "{energy:?}");
            for phase in &energy.phases {
                let apparent = phase.voltage_v * phase.current_a;
                let expected = phase.power_w.abs() / energy.power_factor;
                assert!((apparent - expected).abs() < 0.01 * expected + 1.5, "{energy:?}");
                // EN 50160: 230 V within a tenth.
                assert!((207.0..253.0).contains(&phase.voltage_v), "{energy:?}");
            }
            let reactive = energy.power_w.abs() * tangent(energy.power_factor);
            assert!((energy.reactive_power_var - reactive).abs() < 0.2, "{energy:?}");
        }
    }
}
