//! What the consumers behind a meter draw: households, shops, street lights.
//!
//! Households and shops follow the standard load profiles of the German utilities (VDEW/BDEW: H0, G0), which hold for
//! hundreds of them together. A single one is far more ragged, and yet its meter's register must be the exact integral of
//! its power, at any time, without summing up the years. So energy is *divided*, never added up: the year's curve has an
//! integral in closed form; it gives each week its energy, which is divided among the days, that of a day among its quarter
//! hours, and that of a quarter among its thirds, each by shares that follow the profile and chance. Power is a third's
//! energy over its five minutes.

use super::super::calendar::{self, DayType};
use super::super::math;
use super::super::noise::Noise;

/// Watts of an average consumer of 1000 kWh a year: by season (winter, summer, between), by day (workday, Saturday, Sunday),
/// by hour.
type Profile = [[[f64; 24]; 3]; 3];

/// Households.
#[rustfmt::skip]
const H0: Profile = [
    [
        [58.0, 43.0, 40.0, 39.0, 39.0, 47.0, 90.0, 129.0, 134.0, 123.0, 116.0, 118.0, //
         131.0, 130.0, 115.0, 105.0, 105.0, 129.0, 166.0, 187.0, 168.0, 141.0, 117.0, 86.0],
        [67.0, 53.0, 42.0, 40.0, 38.0, 40.0, 53.0, 82.0, 120.0, 142.0, 148.0, 155.0, //
         167.0, 166.0, 153.0, 144.0, 145.0, 180.0, 209.0, 210.0, 172.0, 134.0, 122.0, 104.0],
        [78.0, 56.0, 45.0, 41.0, 39.0, 39.0, 41.0, 50.0, 89.0, 138.0, 174.0, 203.0, //
         207.0, 173.0, 136.0, 117.0, 107.0, 126.0, 156.0, 176.0, 160.0, 136.0, 115.0, 85.0],
    ],
    [
        [74.0, 55.0, 50.0, 47.0, 49.0, 59.0, 98.0, 130.0, 142.0, 144.0, 139.0, 142.0, //
         158.0, 153.0, 132.0, 119.0, 115.0, 122.0, 142.0, 165.0, 167.0, 158.0, 145.0, 112.0],
        [83.0, 64.0, 52.0, 50.0, 50.0, 52.0, 64.0, 93.0, 128.0, 156.0, 165.0, 171.0, //
         182.0, 176.0, 157.0, 148.0, 145.0, 149.0, 166.0, 180.0, 173.0, 154.0, 149.0, 125.0],
        [90.0, 67.0, 54.0, 51.0, 50.0, 49.0, 51.0, 69.0, 112.0, 160.0, 187.0, 206.0, //
         209.0, 175.0, 144.0, 124.0, 108.0, 110.0, 127.0, 152.0, 159.0, 151.0, 140.0, 108.0],
    ],
    [
        [67.0, 49.0, 44.0, 43.0, 44.0, 53.0, 93.0, 130.0, 137.0, 136.0, 132.0, 133.0, //
         150.0, 146.0, 127.0, 113.0, 106.0, 116.0, 145.0, 172.0, 168.0, 156.0, 136.0, 100.0],
        [73.0, 56.0, 46.0, 44.0, 43.0, 45.0, 59.0, 93.0, 130.0, 150.0, 163.0, 172.0, //
         181.0, 177.0, 161.0, 149.0, 147.0, 159.0, 183.0, 198.0, 180.0, 147.0, 139.0, 117.0],
        [84.0, 62.0, 49.0, 44.0, 43.0, 43.0, 46.0, 66.0, 111.0, 160.0, 185.0, 205.0, //
         208.0, 169.0, 136.0, 121.0, 107.0, 112.0, 138.0, 161.0, 155.0, 144.0, 128.0, 94.0],
    ],
];
/// Shops and offices.
#[rustfmt::skip]
const G0: Profile = [
    [
        [61.0, 53.0, 48.0, 50.0, 60.0, 67.0, 81.0, 115.0, 188.0, 229.0, 232.0, 239.0, //
         220.0, 184.0, 173.0, 191.0, 201.0, 204.0, 168.0, 117.0, 96.0, 84.0, 76.0, 71.0],
        [74.0, 73.0, 65.0, 64.0, 66.0, 71.0, 80.0, 118.0, 170.0, 194.0, 204.0, 207.0, //
         197.0, 172.0, 129.0, 96.0, 84.0, 91.0, 97.0, 97.0, 94.0, 85.0, 77.0, 69.0],
        [60.0, 53.0, 46.0, 42.0, 42.0, 44.0, 50.0, 51.0, 49.0, 55.0, 66.0, 73.0, //
         78.0, 80.0, 74.0, 66.0, 62.0, 79.0, 92.0, 94.0, 89.0, 78.0, 70.0, 62.0],
    ],
    [
        [68.0, 58.0, 54.0, 54.0, 65.0, 71.0, 75.0, 102.0, 164.0, 198.0, 203.0, 209.0, //
         196.0, 171.0, 165.0, 175.0, 176.0, 170.0, 140.0, 98.0, 89.0, 87.0, 81.0, 76.0],
        [77.0, 75.0, 69.0, 67.0, 70.0, 72.0, 77.0, 114.0, 161.0, 176.0, 180.0, 185.0, //
         180.0, 158.0, 118.0, 89.0, 77.0, 75.0, 79.0, 80.0, 85.0, 85.0, 78.0, 72.0],
        [66.0, 57.0, 51.0, 48.0, 47.0, 46.0, 47.0, 53.0, 54.0, 59.0, 66.0, 72.0, //
         77.0, 79.0, 73.0, 64.0, 60.0, 68.0, 75.0, 79.0, 83.0, 82.0, 74.0, 66.0],
    ],
    [
        [69.0, 60.0, 55.0, 56.0, 66.0, 75.0, 81.0, 108.0, 174.0, 211.0, 214.0, 221.0, //
         205.0, 175.0, 165.0, 179.0, 183.0, 180.0, 144.0, 102.0, 91.0, 86.0, 82.0, 78.0],
        [77.0, 77.0, 70.0, 68.0, 70.0, 73.0, 75.0, 114.0, 169.0, 187.0, 191.0, 195.0, //
         192.0, 169.0, 126.0, 95.0, 79.0, 80.0, 84.0, 87.0, 91.0, 88.0, 80.0, 73.0],
        [66.0, 57.0, 49.0, 45.0, 44.0, 45.0, 45.0, 50.0, 53.0, 61.0, 69.0, 77.0, //
         83.0, 81.0, 74.0, 67.0, 62.0, 72.0, 80.0, 84.0, 88.0, 83.0, 73.0, 65.0],
    ],
];

/// Days of a year.
const YEAR_DAYS: f64 = 365.2425;

const QUARTERS: usize = 96;

/// A consumer that follows a standard profile.
#[derive(Debug)]
pub(super) struct Load<'n> {
    pub(super) noise: &'n Noise,
    pub(super) sort: Sort,
    /// Mean over the year, watts.
    pub(super) mean_w: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Household,
    Shop,
}

/// What is drawn now, and what has been drawn since 1970.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Drawn {
    pub(super) power_w: f64,
    pub(super) energy_kwh: f64,
}

// === impl Load ===

impl Load<'_> {
    /// At local time `hour` (0 up to 24) of `day`.
    pub(super) fn at(&self, day: i64, hour: f64) -> Drawn {
        let weekday = calendar::weekday(day) as i64;
        let monday = day - weekday;
        let week_wh = self.year_wh(monday + 7) - self.year_wh(monday);
        let shares = |day: i64| self.day_share(day);
        let all: f64 = (monday..monday + 7).map(shares).sum();
        let past: f64 = (monday..day).map(shares).sum();
        let day_wh = week_wh * shares(day) / all;
        let (today_wh, power_w) = self.within_day(day, hour, day_wh);
        Drawn {
            power_w,
            energy_kwh: (self.year_wh(monday) + week_wh * past / all + today_wh) / 1000.0,
        }
    }

    /// Watt-hours from 1970 to the beginning of `day`: the integral of a mean that swings with the seasons.
    fn year_wh(&self, day: i64) -> f64 {
        // Darkest and dearest in the first days of January.
        let swing = match self.sort {
            Sort::Household => 0.18,
            Sort::Shop => 0.07,
        };
        let turns = (day as f64 - 3.0) / YEAR_DAYS;
        let days = day as f64 + swing * YEAR_DAYS / std::f64::consts::TAU * math::sin_turns(turns);
        24.0 * self.mean_w * days
    }

    fn day_share(&self, day: i64) -> f64 {
        let usual: f64 = self.profile(day).iter().sum();
        let spread = match self.sort {
            Sort::Household => 0.5,
            Sort::Shop => 0.1,
        };
        usual * (1.0 - spread / 2.0 + spread * self.noise.unit("day", day))
    }

    /// Watt-hours since midnight, and watts at `hour`.
    fn within_day(&self, day: i64, hour: f64, day_wh: f64) -> (f64, f64) {
        let profile = self.profile(day);
        let now = hour * 4.0;
        let quarter = (now as usize).min(QUARTERS - 1);
        let (mut all, mut past, mut this) = (0.0, 0.0, 0.0);
        for index in 0..QUARTERS {
            let share = self.quarter_share(profile, day, index);
            all += share;
            if index < quarter {
                past += share;
            } else if index == quarter {
                this = share;
            }
        }
        let quarter_wh = day_wh * this / all;
        let within = 3.0 * (now - quarter as f64).clamp(0.0, 1.0);
        let third = (within as usize).min(2);
        let shares = [0, 1, 2].map(|third| self.third_share((day * QUARTERS as i64 + quarter as i64) * 3 + third));
        let sum: f64 = shares.iter().sum();
        let before: f64 = shares.iter().take(third).sum();
        let share = shares.get(third).copied().unwrap_or_default();
        let drawn = (before + share * (within - third as f64)) / sum;
        (
            day_wh * past / all + quarter_wh * drawn,
            quarter_wh * share / sum * 12.0,
        )
    }

    fn quarter_share(&self, profile: &[f64; 24], day: i64, quarter: usize) -> f64 {
        // The profile gives means of hours, so it is met in their middle.
        let usual = calendar::by_hour(profile, quarter as f64 / 4.0 + 0.125 - 0.5);
        let tick = day * QUARTERS as i64 + quarter as i64;
        let chance = self.noise.unit("quarter", tick);
        match self.sort {
            // Now and then somebody cooks; meanwhile the refrigerator hums.
            Sort::Household => usual * (0.45 + 2.2 * chance * chance * chance),
            Sort::Shop => usual * (0.9 + 0.2 * chance),
        }
    }

    fn third_share(&self, tick: i64) -> f64 {
        let chance = self.noise.unit("third", tick);
        match self.sort {
            Sort::Household if chance > 0.85 => 2.0,
            Sort::Household => 0.7 + 0.5 * chance,
            Sort::Shop => 0.95 + 0.1 * chance,
        }
    }

    /// The profile of a day. BDEW's seasons: winter from November to 20 March, summer from 15 May to 14 September.
    fn profile(&self, day: i64) -> &'static [f64; 24] {
        let profile = match self.sort {
            Sort::Household => &H0,
            Sort::Shop => &G0,
        };
        let [winter, summer, between] = profile;
        let days = match calendar::day_of_year(day) {
            ..79 | 304.. => winter,
            134..257 => summer,
            _ => between,
        };
        let [workday, saturday, sunday] = days;
        match calendar::day_type(day) {
            DayType::Workday => workday,
            DayType::Saturday => saturday,
            DayType::Sunday => sunday,
        }
    }
}

// === street lights ===

/// Lights go on when the sun is so low: three degrees below the horizon.
pub(super) const LIT_SINE: f64 = -0.052;

/// How bright they are in the small hours.
const DIMMED: f64 = 0.6;

/// From half past eleven until five.
const DIM_FROM_H: f64 = 23.5;
const DIM_UNTIL_H: f64 = 5.0;

/// Hours of full light from midnight to `hour`, and how bright it is then (0 to 1). `daylight`: when the lights go out in the
/// morning and on in the evening.
pub(super) fn lit(daylight: (f64, f64), hour: f64) -> (f64, f64) {
    let (off, on) = daylight;
    let overlap = |from: f64, until: f64| (until.min(hour) - from).max(0.0);
    let dark = |from: f64, until: f64| overlap(from, until.min(off)) + overlap(from.max(on), until);
    let hours = DIMMED * (dark(0.0, DIM_UNTIL_H) + dark(DIM_FROM_H, 24.0)) + dark(DIM_UNTIL_H, DIM_FROM_H);
    let is_dark = hour < off || hour >= on;
    let brightness = if !is_dark {
        0.0
    } else if (DIM_UNTIL_H..DIM_FROM_H).contains(&hour) {
        1.0
    } else {
        DIMMED
    };
    (hours, brightness)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-06-17, a Wednesday.
    const WEDNESDAY: i64 = 20_621;

    fn load(noise: &Noise, sort: Sort) -> Load<'_> {
        Load {
            noise,
            sort,
            mean_w: 400.0,
        }
    }

    #[test]
    fn energy_is_the_integral_of_power() {
        for index in 0..20 {
            let noise = Noise::new(9, "device", index);
            let sort = if index % 2 == 0 { Sort::Household } else { Sort::Shop };
            let load = load(&noise, sort);
            // Across a Sunday, so that a week ends; in the middle of each five minutes.
            let (mut integral_kwh, from) = (0.0, load.at(WEDNESDAY + 3, 0.0).energy_kwh);
            for slot in 0..(3 * 288) {
                let hours = (f64::from(slot) + 0.5) / 12.0;
                let drawn = load.at(WEDNESDAY + 3 + (hours / 24.0) as i64, hours % 24.0);
                integral_kwh += drawn.power_w / 12_000.0;
                assert!(drawn.power_w > 0.0);
            }
            let energy_kwh = load.at(WEDNESDAY + 6, 0.0).energy_kwh - from;
            assert!(
                (energy_kwh / integral_kwh - 1.0).abs() < 1e-9,
                "{energy_kwh} {integral_kwh}"
            );
        }
    }

    #[test]
    fn energy_never_falls_and_never_jumps() {
        let noise = Noise::new(9, "device", 1);
        for sort in [Sort::Household, Sort::Shop] {
            let load = load(&noise, sort);
            let mut last = load.at(WEDNESDAY - 100, 0.0).energy_kwh;
            for second in (30..86_400i64 * 8).step_by(30) {
                let next = load.at(WEDNESDAY - 100 + second / 86_400, (second % 86_400) as f64 / 3600.0);
                let used = next.energy_kwh - last;
                assert!((0.0..0.1).contains(&used), "{used} kWh in half a minute");
                last = next.energy_kwh;
            }
        }
    }

    #[test]
    fn a_year_has_its_energy() {
        let noise = Noise::new(9, "device", 2);
        let load = load(&noise, Sort::Household);
        let year = load.at(WEDNESDAY + 365, 0.0).energy_kwh - load.at(WEDNESDAY, 0.0).energy_kwh;
        assert!((year / (0.4 * 24.0 * 365.0) - 1.0).abs() < 0.02, "{year} kWh");
    }

    #[test]
    fn lights_burn_from_dusk_to_dawn_and_dimmed_in_the_small_hours() {
        let check = |daylight, hour: f64, hours: f64, brightness: f64| {
            let (lit_h, bright) = lit(daylight, hour);
            assert!(
                (lit_h - hours).abs() < 1e-9 && bright == brightness,
                "{hour}: {lit_h} h, {bright}"
            );
        };
        let winter = (8.0, 16.0);
        check(winter, 0.0, 0.0, 0.6);
        check(winter, 4.0, 2.4, 0.6);
        check(winter, 6.0, 4.0, 1.0);
        check(winter, 9.0, 6.0, 0.0);
        check(winter, 17.0, 7.0, 1.0);
        check(winter, 24.0, 6.0 + 7.5 + 0.3, 0.6);
        let summer = (4.0, 22.0);
        check(summer, 12.0, 2.4, 0.0);
        check(summer, 24.0, 2.4 + 1.5 + 0.3, 0.6);
        let polar_night = (12.0, 12.0);
        check(polar_night, 24.0, 3.0 + 18.5 + 0.3, 0.6);
        let midnight_sun = (0.0, 24.0);
        check(midnight_sun, 23.9, 0.0, 0.0);
    }
}
