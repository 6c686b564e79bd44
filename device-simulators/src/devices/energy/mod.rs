//! An electricity meter: of a household, of a shop, or of a street's lights.
//!
//! What is used follows the [standard profiles](load) in the mean, is made of single [appliances], each on its phase, and
//! for lights follows the sun; some roofs carry [panels] under the city's clouds. Each phase's **net** flow is counted, as
//! meters without netting of phases do: what a phase uses of its own panels is in no register, import and export of two
//! phases may grow together. Both registers are exact integrals, never run backwards, show the meter's decimals, begin with
//! the years that the meter has been there, and roll over where six digits end. Voltage sags under the load of its phase
//! and rises with the sun; power, voltage and current carry the noise of a measurement.

mod appliances;
mod fields;
mod load;
mod panels;
pub(crate) mod sums;

use std::sync::Arc;

use serde::Serialize;

use super::city::{City, Spot};
use super::faults::Faultable;
use super::kind::{Definition, Sensor};
use super::noise::Noise;
use super::quality::Quality;
use super::{Device, Header, Moment, json, rounded};
use appliances::{Appliances, Used};
use load::Sort;
use panels::{Given, Panels};

pub(super) static KIND: Definition = Definition {
    name: "energy",
    position: 2,
    device_prefix: "meter",
    schema: include_str!("../../../../schemas/energy.avsc"),
    numbered: true,
    faultable: Faultable::physical(fields::FIELDS),
    quality: Some(Quality::BUNDLED),
    sensor: &|city, noise, _| (Consumer::by_chance(noise).meter(city, noise), Spot::of(noise)),
};

/// Where six digits before the point end.
const ROLLOVER_KWH: f64 = 1_000_000.0;

/// The transformer is set a little high, so that the far end of the street gets enough.
const SUPPLY_V: f64 = 233.0;

/// The street's cable as one phase sees it, ohms.
const CABLE_OHM: f64 = 0.18;

const PHASES: usize = 3;

const NAMES: [&str; PHASES] = ["L1", "L2", "L3"];

/// One of a street's lamps.
const LAMP_W: f64 = 45.0;

/// The cabinet of the lamps itself.
const CABINET_W: f64 = 6.0;

/// Hours of a year.
const YEAR_H: f64 = 8766.0;

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

/// A meter, and what is behind it.
#[derive(Debug)]
struct Meter {
    noise: Noise,
    consumer: Consumer,
    phases: usize,
    /// None behind a street's lights.
    appliances: Option<Appliances>,
    panels: Option<Panels>,
    /// What the registers would show at [`panels::ANCHOR_DAY`], and what had been used then since 1970.
    started: Started,
    /// Behind the point.
    decimals: u8,
}

#[derive(Clone, Copy, Debug, Default)]
struct Started {
    import_kwh: f64,
    export_kwh: f64,
    used_wh: f64,
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

    /// The meter of such a consumer.
    pub(super) fn meter(self, city: &City, noise: &Noise) -> Arc<dyn Sensor> {
        Arc::new(Meter::new(city, noise, self))
    }
}

impl Sensor for Meter {
    fn reading(&self, device: &Device, header: Header, moment: Moment) -> Vec<u8> {
        json(header, self.read(&device.city, moment))
    }
}

/// Reactive over active power.
fn tangent(power_factor: f64) -> f64 {
    (1.0 - power_factor * power_factor).max(0.0).sqrt() / power_factor
}

// === impl Meter ===

impl Meter {
    fn new(city: &City, noise: &Noise, consumer: Consumer) -> Meter {
        let panels = Panels::by_chance(noise, consumer);
        let is_single = consumer == Consumer::Household && panels.is_none() && noise.fixed("phases") < 0.3;
        let phases = if is_single { 1 } else { PHASES };
        let size = noise.fixed("size");
        let (sort, mean_w) = match consumer {
            Consumer::Household => (Some(Sort::Household), 180.0 + 450.0 * size),
            Consumer::Shop => (Some(Sort::Shop), 900.0 + 7000.0 * size * size),
            // Lit for four thousand hours, some of them dimmed.
            Consumer::StreetLight => (None, CABINET_W + 0.38 * LAMP_W * 3.0 * lamps(noise)),
        };
        let mut meter = Meter {
            noise: noise.clone(),
            consumer,
            phases,
            appliances: sort.map(|sort| Appliances::new(noise, sort, mean_w, phases)),
            panels,
            started: Started::default(),
            decimals: if noise.fixed("decimals") < 0.7 { 3 } else { 2 },
        };
        let (years, panel_years) = (4.0 + 8.0 * noise.fixed("age"), 4.0 + 4.0 * noise.fixed("panels' age"));
        // A kilowatt-peak exports some 650 kWh a year, and saves some 200.
        let kwp = meter.panels.as_ref().map_or(0.0, |panels| panels.kwp);
        let used_wh = meter.used(city, panels::ANCHOR_DAY * super::calendar::DAY_MS).energy_wh;
        let year_kwh = mean_w * YEAR_H / 1000.0;
        meter.started = Started {
            import_kwh: years * (year_kwh - (200.0 * kwp).min(0.4 * year_kwh)),
            export_kwh: 650.0 * kwp * panel_years,
            used_wh,
        };
        meter
    }

    /// What the meter reports at `moment`.
    fn read(&self, city: &City, moment: Moment) -> Energy {
        let time = moment.observed_at_ms;
        let local_ms = sums::local_ms(city, time);
        let (used, given) = (self.used(city, local_ms), self.given(city, local_ms));
        let usual = match self.consumer {
            Consumer::Household => 0.95,
            Consumer::Shop => 0.9,
            Consumer::StreetLight => 0.93,
        };
        let power_factor = rounded(usual + 0.04 * self.noise.smooth("factor", time, 1200), 3);
        let phases = self.phases(city, time, &used, &given, power_factor);
        let power_w = rounded(phases.iter().map(|phase| phase.power_w).sum(), 1);
        let used_kwh = (used.energy_wh - self.started.used_wh) / 1000.0;
        let imported_kwh = used_kwh - given.energy_kwh + given.exported_kwh;
        Energy {
            energy_import_kwh: self.register(self.started.import_kwh + imported_kwh),
            energy_export_kwh: self.register(self.started.export_kwh + given.exported_kwh),
            power_w,
            reactive_power_var: rounded(power_w.abs() * tangent(power_factor), 1),
            power_factor,
            // The grid's, and the same for everyone on it.
            frequency_hz: rounded(50.0 + 0.018 * city.noise.rippled("frequency", time, 180), 3),
            phases,
        }
    }

    /// What the digits show: whole steps of the last one.
    fn register(&self, energy_kwh: f64) -> f64 {
        let steps = if self.decimals == 3 { 1000.0 } else { 100.0 };
        (energy_kwh * steps).floor().rem_euclid(ROLLOVER_KWH * steps) / steps
    }

    fn used(&self, city: &City, local_ms: i64) -> Used {
        let lights = || self.lights(city, local_ms);
        self.appliances.as_ref().map_or_else(lights, |all| all.at(local_ms))
    }

    fn given(&self, city: &City, local_ms: i64) -> Given {
        let both = self.panels.as_ref().zip(self.appliances.as_ref());
        both.map_or_else(Given::default, |(panels, all)| panels.at(city, all, local_ms))
    }

    /// Some dozens of lamps on each phase behind one sensor of light.
    fn lights(&self, city: &City, local_ms: i64) -> Used {
        let local = sums::local(city, local_ms - city.place.utc_offset_ms);
        let phase_w = LAMP_W * lamps(&self.noise);
        let daylight = city.place.daylight(local.day, load::LIT_SINE);
        let (today_h, brightness) = load::lit(daylight, local.hour);
        let hours = city.sums.lit_h(city, local.day) + today_h;
        let since_h = (local.day - sums::FIRST_DAY) as f64 * 24.0 + local.hour;
        let lit_w = phase_w * brightness;
        Used {
            power_w: [lit_w + CABINET_W, lit_w, lit_w],
            energy_wh: 3.0 * phase_w * hours + CABINET_W * since_h,
        }
    }

    fn phases(&self, city: &City, time_ms: i64, used: &Used, given: &Given, power_factor: f64) -> Vec<Phase> {
        let grid_v = SUPPLY_V + 1.2 * city.noise.rippled("voltage", time_ms, 1800);
        let street_w = 700.0 * street(city, time_ms);
        let names = NAMES.iter().take(self.phases);
        let phase = |((number, name), (used_w, given_w)): ((i64, &&'static str), (&f64, &f64))| {
            let tick = time_ms.wrapping_mul(4).wrapping_add(number);
            let error = self.noise.normal("power", tick);
            let net_w = used_w - given_w;
            // Noise of a class 1 meter: its resolution, and some thousandths of what it measures.
            let power = net_w + error * (0.3 + 0.004 * net_w.abs());
            let flicker = 0.7 * self.noise.smooth(name, time_ms, 120) + 0.12 * self.noise.normal("voltage", tick);
            // A drop over the cable by what flows in it: the own load, and the neighbours'.
            let voltage = rounded(grid_v + flicker - CABLE_OHM * (net_w + 6.0 * street_w) / SUPPLY_V, 1);
            Phase {
                phase: name,
                voltage_v: voltage,
                current_a: rounded(power.abs() / (voltage * power_factor), 2),
                power_w: rounded(power, 1),
            }
        };
        (0..)
            .zip(names)
            .zip(used.power_w.iter().zip(&given.power_w))
            .map(phase)
            .collect()
    }
}

/// Lamps on each phase.
fn lamps(noise: &Noise) -> f64 {
    (7.0 + 33.0 * noise.fixed("size")).floor()
}

/// What a neighbour's phase draws, as a share of its evening peak; negative when the sun is on the roofs.
fn street(city: &City, time_ms: i64) -> f64 {
    let hour = sums::local(city, time_ms).hour;
    let evening = super::math::hill((hour - 19.0) / 6.0);
    evening - 0.9 * city.place.sun(time_ms).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{CITY_SEED, at};
    use super::*;

    fn meter(city: &City, consumer: Consumer, index: u64) -> Meter {
        Meter::new(city, &Noise::new(city.seed, "device", index), consumer)
    }

    fn read(city: &City, consumer: Consumer, index: u64, hour: f64) -> Energy {
        meter(city, consumer, index).read(city, at(hour))
    }

    #[test]
    fn registers_begin_with_years_of_use_and_never_run_backwards() {
        let city = City::new(CITY_SEED);
        for consumer in Consumer::ALL {
            for index in 0..12 {
                let meter = meter(&city, consumer, index);
                let mut last = meter.read(&city, at(-24.0 * 800.0));
                let least = if consumer == Consumer::Household { 500.0 } else { 5000.0 };
                assert!(last.energy_import_kwh > least, "{consumer:?} {index}: {last:?}");
                for step in 1..600 {
                    // Every 100 minutes for 40 days, from two years before the meter's starting values on and around them.
                    let hours = f64::from(step) * 1.7 - 24.0 * if step < 300 { 800.0 } else { -120.0 };
                    let next = meter.read(&city, at(hours));
                    for (now, before) in [
                        (next.energy_import_kwh, last.energy_import_kwh),
                        (next.energy_export_kwh, last.energy_export_kwh),
                    ] {
                        let more = now - before;
                        let most = if step == 300 { 200_000.0 } else { 60.0 };
                        assert!((0.0..most).contains(&more), "{consumer:?} {index}: {before} to {now}");
                    }
                    last = next;
                }
            }
        }
    }

    #[test]
    fn a_register_shows_whole_steps_and_rolls_over_where_its_digits_end() {
        let city = City::new(CITY_SEED);
        let mut seen = [0; 4];
        for index in 0..40 {
            let meter = meter(&city, Consumer::Household, index);
            let (shown, over) = (meter.register(12.345_67), meter.register(1_000_000.987_6));
            let expected = if meter.decimals == 3 {
                (12.345, 0.987)
            } else {
                (12.34, 0.98)
            };
            assert_eq!((shown, over), expected);
            seen[usize::from(meter.decimals)] += 1;
        }
        assert!(seen[2] > 5 && seen[3] > 15, "{seen:?}");
    }

    #[test]
    fn registers_count_what_each_phase_draws_and_gives_by_itself() {
        let city = City::new(CITY_SEED);
        let (mut exporting, mut both) = (0, 0);
        let meters =
            (0..36).map(|index| meter(&city, [Consumer::Household, Consumer::Shop][index as usize % 2], index));
        for (index, meter) in meters.filter(|meter| meter.panels.is_some()).enumerate() {
            let consumer = meter.consumer;
            let (from, to) = (meter.read(&city, at(12.0)), meter.read(&city, at(12.5)));
            let (mut import_wh, mut export_wh, mut at_once) = (0.0, 0.0, false);
            for second in (0..1800).step_by(6) {
                let energy = meter.read(&city, at(12.0 + (f64::from(second) + 3.0) / 3600.0));
                let powers = || energy.phases.iter().map(|phase| phase.power_w);
                import_wh += powers().map(|watts| watts.max(0.0)).sum::<f64>() / 600.0;
                export_wh += powers().map(|watts| (-watts).max(0.0)).sum::<f64>() / 600.0;
                at_once |= powers().any(|watts| watts < -50.0) && powers().any(|watts| watts > 50.0);
            }
            for (counted, measured) in [
                (to.energy_import_kwh - from.energy_import_kwh, import_wh / 1000.0),
                (to.energy_export_kwh - from.energy_export_kwh, export_wh / 1000.0),
            ] {
                // The last digit of two registers, and the noise of the measurement.
                let off = (counted - measured).abs();
                assert!(
                    off < 0.015 + 0.01 * measured,
                    "{consumer:?} {index}: {counted} {measured}"
                );
            }
            exporting += usize::from(export_wh > 10.0);
            both += usize::from(at_once);
        }
        assert!(
            exporting > 3 && both > 0,
            "{exporting} export, {both} on one phase while another draws"
        );
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
            assert!((power(12.0) - 6.0).abs() < 4.0 && power(23.0) > 800.0 && power(2.0) < power(23.0));
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
