//! Panels on a roof, and what of their output reaches the grid.
//!
//! The meter counts each phase by itself: what a phase uses while the sun shines on its panels never reaches a register.
//! How much is left over depends on what runs at each second, so a day's export is added up between the switchings of its
//! appliances, and days are added up from [`ANCHOR_DAY`] on, or back to it; each meter remembers where it is. Days are
//! whole numbers of microwatt-hours, so that every way to a day gives the same sum.

use std::sync::{Mutex, PoisonError};

use super::super::calendar::DAY_MS;
use super::super::city::{City, Spot};
use super::super::noise::Noise;
use super::appliances::Appliances;
use super::sums::{self, NODE_MS, SolarDay};
use super::{Consumer, PHASES};

/// The day at which each meter's registers have their starting values (2026-11-01), in days since 1970. The further away it is, the
/// longer takes a meter's first reading: some 25 µs a day.
pub(super) const ANCHOR_DAY: i64 = 20_758;

/// Irradiance to output: one kilowatt-peak under 1000 W/m², less heat, wires and inverter.
const PERFORMANCE: f64 = 0.84;

/// Above this an inverter has three phases (VDE-AR-N 4105).
const SINGLE_PHASE_KWP: f64 = 4.6;

#[derive(Debug)]
pub(super) struct Panels {
    pub(super) kwp: f64,
    /// The share of the output on each phase.
    shares: [f64; PHASES],
    /// See [`sums::shift`].
    shift: i64,
    /// Where the sum was last asked for.
    reached: Mutex<(i64, Sunlight)>,
}

/// Microwatt-hours since [`ANCHOR_DAY`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sunlight {
    given: i64,
    exported: i64,
}

/// What panels give now, and have given and exported since [`ANCHOR_DAY`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Given {
    pub(super) power_w: [f64; PHASES],
    pub(super) energy_kwh: f64,
    pub(super) exported_kwh: f64,
}

// === impl Panels ===

impl Panels {
    /// Some have them.
    pub(super) fn by_chance(noise: &Noise, consumer: Consumer) -> Option<Panels> {
        let (share, least, most) = match consumer {
            Consumer::Household => (0.3, 2.5, 8.0),
            Consumer::Shop => (0.25, 10.0, 25.0),
            Consumer::StreetLight => return None,
        };
        let kwp = least + (most - least) * noise.fixed("roof");
        let only = (noise.fixed("inverter") * PHASES as f64) as usize;
        let share_of = |phase: usize| f64::from(u8::from(phase == only));
        (noise.fixed("panels") < share).then(|| Panels {
            kwp,
            shares: if kwp <= SINGLE_PHASE_KWP {
                std::array::from_fn(share_of)
            } else {
                [1.0 / PHASES as f64; PHASES]
            },
            shift: sums::shift(Spot::of(noise)),
            reached: Mutex::new((ANCHOR_DAY, Sunlight::default())),
        })
    }

    pub(super) fn at(&self, city: &City, appliances: &Appliances, local_ms: i64) -> Given {
        let (day, within_ms) = (local_ms.div_euclid(DAY_MS), local_ms.rem_euclid(DAY_MS));
        let sun = city.sums.day(city, day);
        let mut sum = self.until_day(city, appliances, day);
        sum.add(self.within_day(&sun, appliances, day, within_ms), 1);
        let now_w = self.watts(sun.at(self.shift, within_ms));
        Given {
            power_w: self.shares.map(|share| share * now_w),
            energy_kwh: sum.given as f64 / 1e9,
            exported_kwh: sum.exported as f64 / 1e9,
        }
    }

    fn until_day(&self, city: &City, appliances: &Appliances, wanted: i64) -> Sunlight {
        let of = |day: i64| self.within_day(&city.sums.day(city, day), appliances, day, DAY_MS);
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut day, mut sum) = *reached;
        while day < wanted {
            sum.add(of(day), 1);
            day += 1;
        }
        while day > wanted {
            day -= 1;
            sum.add(of(day), -1);
        }
        *reached = (day, sum);
        sum
    }

    /// A square metre's share of 1000 W/m² is what a kilowatt-peak is defined by.
    fn watts(&self, irradiance_w_m2: f64) -> f64 {
        self.kwp * PERFORMANCE * irradiance_w_m2
    }

    /// From midnight on.
    fn within_day(&self, sun: &SolarDay, appliances: &Appliances, day: i64, until_ms: i64) -> Sunlight {
        let (first, last) = sun.light();
        let given_w = |node: usize| self.watts(sun.at_node(self.shift, node));
        let lines: Vec<Line> = (first..=last)
            .map(|node| Line {
                from_ms: node as i64 * NODE_MS,
                from_w: given_w(node),
                to_w: given_w(node + 1),
            })
            .take_while(|line| line.from_ms < until_ms)
            .collect();
        let given: f64 = lines.iter().map(|line| line.wattmilliseconds(until_ms)).sum();
        let mut exported = 0.0;
        for (phase, share) in self.shares.iter().enumerate() {
            if *share > 0.0 && !lines.is_empty() {
                exported += surplus(&lines, *share, appliances, phase, day * DAY_MS, until_ms);
            }
        }
        // Watt-milliseconds in a microwatt-hour: 3.6.
        let whole = |sum: f64| (sum / 3.6).round() as i64;
        Sunlight {
            given: whole(given),
            exported: whole(exported),
        }
    }
}

// === impl Sunlight ===

impl Sunlight {
    fn add(&mut self, day: Sunlight, sign: i64) {
        self.given += sign * day.given;
        self.exported += sign * day.exported;
    }
}

/// Output that grows or falls evenly for [`NODE_MS`].
#[derive(Clone, Copy, Debug)]
struct Line {
    /// After midnight.
    from_ms: i64,
    from_w: f64,
    to_w: f64,
}

// === impl Line ===

impl Line {
    fn at(&self, within_ms: f64) -> f64 {
        self.from_w + (self.to_w - self.from_w) * (within_ms - self.from_ms as f64) / NODE_MS as f64
    }

    fn ends_ms(&self, until_ms: i64) -> f64 {
        until_ms.min(self.from_ms + NODE_MS) as f64
    }

    fn wattmilliseconds(&self, until_ms: i64) -> f64 {
        let ends_ms = self.ends_ms(until_ms);
        (self.from_w + self.at(ends_ms)) / 2.0 * (ends_ms - self.from_ms as f64)
    }
}

/// What one phase's `share` of the output is above what it uses, in watt-milliseconds, until so long after midnight.
fn surplus(lines: &[Line], share: f64, appliances: &Appliances, phase: usize, midnight_ms: i64, until_ms: i64) -> f64 {
    let first_ms = lines.first().map_or(0, |line| line.from_ms);
    let edges = appliances.edges(phase, midnight_ms + first_ms, midnight_ms + until_ms);
    let mut edges = edges
        .iter()
        .map(|(ms, watts)| (ms - midnight_ms as f64, *watts))
        .peekable();
    let mut used_w = appliances.standby_w(phase);
    let mut sum = 0.0;
    for line in lines {
        let (mut at_ms, ends_ms) = (line.from_ms as f64, line.ends_ms(until_ms));
        while at_ms < ends_ms {
            while let Some((_, watts)) = edges.next_if(|(ms, _)| *ms <= at_ms) {
                used_w += watts;
            }
            let next_ms = edges.peek().map_or(ends_ms, |(ms, _)| ms.min(ends_ms));
            let above_w = |ms: f64| share * line.at(ms) - used_w;
            sum += positive(above_w(at_ms), above_w(next_ms)) * (next_ms - at_ms);
            at_ms = next_ms;
        }
    }
    sum
}

/// The mean of what is positive of a straight line.
fn positive(from: f64, to: f64) -> f64 {
    let (low, high) = (from.min(to), from.max(to));
    if low >= 0.0 {
        (low + high) / 2.0
    } else if high <= 0.0 {
        0.0
    } else {
        high * high / (2.0 * (high - low))
    }
}
