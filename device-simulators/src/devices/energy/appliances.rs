//! What is switched on and off behind a meter: each appliance on one phase, at any second.
//!
//! An appliance has its part of what the consumer [uses](super::load). Whenever that part has grown by one run's energy,
//! it runs once, at a moment of chance in between; a refrigerator's part grows evenly, with a period of its own. So the energy
//! that it has used up to any moment is a whole number of runs and what has passed of the present one: no sum over the past,
//! and the exact integral of its power.

use super::super::calendar::DAY_MS;
use super::super::noise::Noise;
use super::PHASES;
use super::load::{Load, Sort, Week};

/// One run is longer or shorter than the usual by at most this share.
const RUN_SPREAD: f64 = 0.45;

/// The part of a turn in which a run may begin.
const BEGINS_WITHIN: f64 = 0.85;

/// Who uses more has more of the small ones: at least so many times its mean is what one draws.
const TIMES_MEAN: f64 = 5.0;

/// Share of what the consumer uses, watts, hours of a usual run.
type Usual = (f64, f64, f64);

/// Kettle and microwave; hob; washing and dishes; iron and hair dryer; lights here and there; screens.
const HOME: [Usual; 9] = [
    (0.10, 1700.0, 0.05),
    (0.17, 2100.0, 0.22),
    (0.14, 2000.0, 0.35),
    (0.09, 1300.0, 0.12),
    (0.09, 60.0, 0.9),
    (0.09, 40.0, 0.5),
    (0.16, 110.0, 1.4),
    (0.09, 80.0, 0.7),
    (0.07, 50.0, 0.3),
];

/// Light, air, machines, in each third of the rooms.
const SHOP: [Usual; 9] = [
    (0.15, 300.0, 0.8),
    (0.14, 300.0, 0.7),
    (0.13, 300.0, 0.6),
    (0.12, 400.0, 0.35),
    (0.11, 400.0, 0.3),
    (0.10, 400.0, 0.25),
    (0.09, 700.0, 0.12),
    (0.08, 700.0, 0.15),
    (0.08, 700.0, 0.08),
];

/// All that a household or a shop has.
#[derive(Debug)]
pub(super) struct Appliances {
    noise: Noise,
    load: Load,
    /// What is never off, watts.
    standby_w: [f64; PHASES],
    all: Vec<Appliance>,
}

#[derive(Debug)]
struct Appliance {
    phase: usize,
    /// Tells its chances from those of the others.
    number: i64,
    rated_w: f64,
    /// Of a usual run.
    run_wh: f64,
    /// Half a usual run: it begins so much before its middle, which is where the profile has it.
    ahead_ms: i64,
    part: Part,
}

/// An appliance's part of what the consumer uses.
#[derive(Debug)]
enum Part {
    /// A share of what follows the profile.
    Share(f64),
    /// So many watts in the mean, day and night.
    Even(f64),
}

/// A time of being on, in local milliseconds.
#[derive(Clone, Copy, Debug)]
struct Run {
    start_ms: i64,
    end_ms: f64,
}

/// What is used: by phase now, and since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Used {
    pub(super) power_w: [f64; PHASES],
    pub(super) energy_wh: f64,
}

// === impl Appliances ===

impl Appliances {
    /// Of a consumer of `mean_w` over the year, on so many phases.
    pub(super) fn new(noise: &Noise, sort: Sort, mean_w: f64, phases: usize) -> Appliances {
        let flat_w = mean_w * sort.flat_share();
        let (usual, cold_w) = match sort {
            Sort::Household => (&HOME, flat_w.min(90.0) * (0.35 + 0.25 * noise.fixed("cold"))),
            Sort::Shop => (&SHOP, flat_w * (0.3 + 0.2 * noise.fixed("cold"))),
        };
        let load = Load {
            noise: noise.clone(),
            sort,
            mean_w: mean_w - flat_w,
        };
        let phase_of = |number: usize| match sort {
            Sort::Household => (noise.unit("phase", number as i64) * phases as f64) as usize,
            Sort::Shop => number % phases,
        };
        let mut all: Vec<Appliance> = (0i64..)
            .zip(usual)
            .map(|(number, (share, watts, hours))| {
                let rated_w = watts.max(TIMES_MEAN * share * load.mean_w) * (0.85 + 0.3 * noise.unit("rated", number));
                Appliance {
                    phase: phase_of(number as usize),
                    number,
                    rated_w,
                    run_wh: rated_w * hours,
                    ahead_ms: (1_800_000.0 * hours) as i64,
                    part: Part::Share(*share),
                }
            })
            .collect();
        all.push(Appliance {
            phase: phase_of(usual.len()),
            number: usual.len() as i64,
            rated_w: cold_w / (0.3 + 0.2 * noise.fixed("cold duty")),
            run_wh: cold_w * (0.6 + 0.7 * noise.fixed("cold period")),
            ahead_ms: 0,
            part: Part::Even(cold_w),
        });
        let mut standby_w = [0.0; PHASES];
        for step in 0..4 {
            let phase = (noise.unit("standby", step) * phases as f64) as usize;
            if let Some(standby_w) = standby_w.get_mut(phase) {
                *standby_w += (flat_w - cold_w) / 4.0;
            }
        }
        Appliances {
            noise: noise.clone(),
            load,
            standby_w,
            all,
        }
    }

    pub(super) fn at(&self, local_ms: i64) -> Used {
        let week = self.load.week(local_ms.div_euclid(DAY_MS));
        let mut used = Used {
            power_w: self.standby_w,
            energy_wh: self.standby_w.iter().sum::<f64>() * hours(local_ms as f64),
        };
        for appliance in &self.all {
            let (watts, wh) = appliance.at(&self.noise, &week, local_ms);
            used.energy_wh += wh;
            if let Some(power_w) = used.power_w.get_mut(appliance.phase) {
                *power_w += watts;
            }
        }
        used
    }

    pub(super) fn standby_w(&self, phase: usize) -> f64 {
        self.standby_w.get(phase).copied().unwrap_or_default()
    }

    /// When one phase's power changes on a day's part, and by how many watts, in order; from [`Self::standby_w`] on.
    pub(super) fn edges(&self, phase: usize, from_ms: i64, until_ms: i64) -> Vec<(f64, f64)> {
        let week = self.load.week(from_ms.div_euclid(DAY_MS));
        let mut edges = Vec::with_capacity(64);
        for appliance in self.all.iter().filter(|appliance| appliance.phase == phase) {
            let turns = appliance.turn(&week, from_ms) - 1..=appliance.turn(&week, until_ms - 1);
            for run in turns.map(|turn| appliance.run(&self.noise, &week, turn)) {
                if run.start_ms < until_ms && run.end_ms > from_ms as f64 {
                    edges.push((run.start_ms.max(from_ms) as f64, appliance.rated_w));
                    edges.push((run.end_ms, -appliance.rated_w));
                }
            }
        }
        edges.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        edges
    }
}

// === impl Appliance ===

impl Appliance {
    /// Watts now, and watt-hours since 1970.
    fn at(&self, noise: &Noise, week: &Week<'_>, local_ms: i64) -> (f64, f64) {
        let turn = self.turn(week, local_ms);
        let (mut watts, mut wh) = (0.0, self.before_wh(noise, turn - 1));
        for run in [turn - 1, turn].map(|turn| self.run(noise, week, turn)) {
            let now_ms = local_ms as f64;
            if local_ms >= run.start_ms {
                wh += self.rated_w * hours(now_ms.min(run.end_ms) - run.start_ms as f64);
                watts += if now_ms < run.end_ms { self.rated_w } else { 0.0 };
            }
        }
        (watts, wh)
    }

    /// Which turn it is: how many runs' energy its part amounts to.
    fn turn(&self, week: &Week<'_>, local_ms: i64) -> i64 {
        let local_ms = local_ms + self.ahead_ms;
        let wh = match self.part {
            Part::Share(share) => share * week.used_wh(local_ms),
            Part::Even(watts) => watts * hours(local_ms as f64),
        };
        (wh / self.run_wh).floor() as i64
    }

    /// Watt-hours of all runs before that of `turn`.
    fn before_wh(&self, noise: &Noise, turn: i64) -> f64 {
        self.run_wh * (turn as f64 + RUN_SPREAD * self.chance(noise, "run", turn))
    }

    fn run(&self, noise: &Noise, week: &Week<'_>, turn: i64) -> Run {
        let wh = self.run_wh * (turn as f64 + BEGINS_WITHIN * self.chance(noise, "begin", turn));
        let start_ms = match self.part {
            Part::Share(share) => week.reaches_ms(wh / share),
            Part::Even(watts) => (3_600_000.0 * wh / watts).round() as i64,
        };
        let start_ms = start_ms - self.ahead_ms;
        let wh = self.before_wh(noise, turn + 1) - self.before_wh(noise, turn);
        Run {
            start_ms,
            end_ms: start_ms as f64 + 3_600_000.0 * wh / self.rated_w,
        }
    }

    fn chance(&self, noise: &Noise, channel: &str, turn: i64) -> f64 {
        noise.unit(channel, turn.wrapping_mul(16).wrapping_add(self.number))
    }
}

fn hours(ms: f64) -> f64 {
    ms / 3_600_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-06-13, a Saturday: a week ends.
    const SATURDAY: i64 = 20_617;

    fn consumers() -> impl Iterator<Item = (Sort, Appliances)> {
        (0..20).map(|index| {
            let sort = if index % 2 == 0 { Sort::Household } else { Sort::Shop };
            let noise = Noise::new(9, "device", index);
            (sort, Appliances::new(&noise, sort, 150.0 + 40.0 * index as f64, PHASES))
        })
    }

    #[test]
    fn energy_is_the_integral_of_what_is_switched() {
        for (sort, appliances) in consumers() {
            for day in SATURDAY..SATURDAY + 4 {
                let (from_ms, until_ms) = (day * DAY_MS, (day + 1) * DAY_MS);
                let mut integral_wh = 0.0;
                for phase in 0..PHASES {
                    let (mut watts, mut at_ms) = (appliances.standby_w(phase), from_ms as f64);
                    for (ms, change) in appliances.edges(phase, from_ms, until_ms) {
                        let ms = ms.min(until_ms as f64);
                        integral_wh += watts * hours(ms - at_ms);
                        (watts, at_ms) = (watts + change, ms);
                        // Between this one and the next, both say the same.
                        let now = appliances.at(at_ms.ceil() as i64).power_w[phase];
                        let is_end = at_ms >= until_ms as f64;
                        let same = (now - watts).abs() < 1e-6;
                        assert!(is_end || same || change != 0.0, "{sort:?}: {now} W, not {watts} W");
                    }
                    integral_wh += watts * hours(until_ms as f64 - at_ms);
                }
                let wh = appliances.at(until_ms).energy_wh - appliances.at(from_ms).energy_wh;
                assert!(
                    (wh - integral_wh).abs() < 1e-4,
                    "{sort:?}: {wh} Wh, not {integral_wh} Wh"
                );
            }
        }
    }

    #[test]
    fn energy_never_falls_and_never_jumps() {
        for (sort, appliances) in consumers() {
            let mut last = appliances.at(SATURDAY * DAY_MS + DAY_MS / 2);
            for step in 1..8_000i64 {
                let next = appliances.at(SATURDAY * DAY_MS + DAY_MS / 2 + step * 30_000);
                let used_wh = next.energy_wh - last.energy_wh;
                // A hob, a washing machine, a kettle and an iron at once.
                let most_wh = if sort == Sort::Household { 80.0 } else { 60.0 };
                assert!(
                    (0.0..most_wh).contains(&used_wh),
                    "{sort:?}: {used_wh} Wh in half a minute"
                );
                last = next;
            }
        }
    }

    #[test]
    fn the_refrigerator_has_a_period_of_its_own() {
        let periods = consumers()
            .filter(|(sort, _)| *sort == Sort::Household)
            .map(|(_, appliances)| {
                let cold = appliances.all.last().unwrap();
                let Part::Even(watts) = cold.part else {
                    panic!("{cold:?}")
                };
                60.0 * cold.run_wh / watts
            });
        let mut minutes: Vec<f64> = periods.collect();
        minutes.sort_by(f64::total_cmp);
        assert!(
            minutes.iter().all(|minutes| (30.0..90.0).contains(minutes)),
            "{minutes:?}"
        );
        assert!(minutes.windows(2).all(|pair| pair[0] < pair[1]), "{minutes:?}");
    }
}
