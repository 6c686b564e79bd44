//! What the consumers behind a meter use: households, shops, street lights.
//!
//! Households and shops follow the standard load profiles of the German utilities (VDEW/BDEW: H0, G0), which hold for
//! hundreds of them together. The register must be the exact integral of the power, at any time, without summing up
//! the years. So energy is *divided*, never added up: the year's curve has an integral in closed form; it gives each week its
//! energy, which is divided among the days by profile and chance, and that of a day among its quarters of an hour by the
//! profile alone. What a single consumer does with it is the [appliances](super::appliances)' business, which ask when
//! an amount is reached.

use super::super::calendar::{self, DAY_MS, DayType};
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

const WEEK_DAYS: i64 = 7;

const QUARTERS: usize = 96;

const QUARTER_MS: i64 = DAY_MS / QUARTERS as i64;

/// What of the profiles runs day and night, of the 114 W that they have in the mean: refrigerators, standby.
const FLAT_H0: f64 = 30.0;
const FLAT_G0: f64 = 35.0;

/// What it is a share of.
const PROFILE_MEAN: f64 = 1_000_000.0 / (24.0 * YEAR_DAYS);

/// What a profile says of one sort of day, without what runs day and night.
#[derive(Debug)]
struct Course {
    /// Watt-hours of the day.
    total: f64,
    /// The share of it that is used up to each quarter of an hour.
    reached: [f64; QUARTERS + 1],
}

static HOUSEHOLD: [[Course; 3]; 3] = courses(&H0, FLAT_H0);
static SHOP: [[Course; 3]; 3] = courses(&G0, FLAT_G0);

/// What a consumer uses beyond what runs day and night, as a standard profile has it.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) noise: Noise,
    pub(super) sort: Sort,
    /// Mean over the year, watts.
    pub(super) mean_w: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Household,
    Shop,
}

/// A [`Load`] in one week.
#[derive(Debug)]
pub(super) struct Week<'l> {
    load: &'l Load,
    monday: i64,
    /// Watt-hours from 1970 to each midnight.
    days_wh: [f64; WEEK_DAYS as usize + 1],
    courses: [&'static Course; WEEK_DAYS as usize],
}

// === impl Course ===

const fn courses(profile: &Profile, flat: f64) -> [[Course; 3]; 3] {
    const fn season(days: &[[f64; 24]; 3], flat: f64) -> [Course; 3] {
        [course(&days[0], flat), course(&days[1], flat), course(&days[2], flat)]
    }
    [
        season(&profile[0], flat),
        season(&profile[1], flat),
        season(&profile[2], flat),
    ]
}

const fn course(profile: &[f64; 24], flat: f64) -> Course {
    let mut reached = [0.0; QUARTERS + 1];
    let mut quarter = 0;
    while quarter < QUARTERS {
        // The profile gives means of hours, so it is met in their middle: eighths of an hour from the one to the next.
        let eighths = 2 * quarter + 24 * 8 + 1 - 4;
        let weight = (eighths % 8) as f64 / 8.0;
        let (from, to) = (profile[eighths / 8 % 24], profile[(eighths / 8 + 1) % 24]);
        reached[quarter + 1] = reached[quarter] + (from * (1.0 - weight) + to * weight - flat) / 4.0;
        quarter += 1;
    }
    let total = reached[QUARTERS];
    while quarter > 0 {
        reached[quarter] /= total;
        quarter -= 1;
    }
    Course { total, reached }
}

// === impl Sort ===

impl Sort {
    /// The share of all that it uses that runs day and night.
    pub(super) fn flat_share(self) -> f64 {
        match self {
            Sort::Household => FLAT_H0 / PROFILE_MEAN,
            Sort::Shop => FLAT_G0 / PROFILE_MEAN,
        }
    }

    /// The course of a day. BDEW's seasons: winter from November to 20 March, summer from 15 May to 14 September.
    fn course(self, day: i64) -> &'static Course {
        let [winter, summer, between] = match self {
            Sort::Household => &HOUSEHOLD,
            Sort::Shop => &SHOP,
        };
        let [workday, saturday, sunday] = match calendar::day_of_year(day) {
            ..79 | 304.. => winter,
            134..257 => summer,
            _ => between,
        };
        match calendar::day_type(day) {
            DayType::Workday => workday,
            DayType::Saturday => saturday,
            DayType::Sunday => sunday,
        }
    }
}

// === impl Load ===

impl Load {
    /// The week around `day`.
    pub(super) fn week(&self, day: i64) -> Week<'_> {
        let monday = day - calendar::weekday(day) as i64;
        let (from_wh, until_wh) = (self.year_wh(monday), self.year_wh(monday + WEEK_DAYS));
        let courses = std::array::from_fn(|index| self.sort.course(monday + index as i64));
        let mut days_wh = [0.0; WEEK_DAYS as usize + 1];
        let mut sum = 0.0;
        for ((day, course), reached) in (monday..).zip(courses).zip(days_wh.iter_mut().skip(1)) {
            sum += course.total * self.busy(day);
            *reached = sum;
        }
        for reached in &mut days_wh {
            *reached = from_wh + (until_wh - from_wh) * (*reached / sum);
        }
        Week {
            load: self,
            monday,
            days_wh,
            courses,
        }
    }

    /// Watt-hours from 1970 to the beginning of `day`: the integral of a mean that swings with the seasons.
    fn year_wh(&self, day: i64) -> f64 {
        // Darkest and dearest in the first days of January.
        let swing = match self.sort {
            Sort::Household => 0.24,
            Sort::Shop => 0.1,
        };
        let turns = (day as f64 - 3.0) / YEAR_DAYS;
        let days = day as f64 + swing * YEAR_DAYS / std::f64::consts::TAU * math::sin_turns(turns);
        24.0 * self.mean_w * days
    }

    /// How busy a day is beside others of its sort.
    fn busy(&self, day: i64) -> f64 {
        let spread = match self.sort {
            Sort::Household => 0.5,
            Sort::Shop => 0.1,
        };
        1.0 - spread / 2.0 + spread * self.noise.unit("day", day)
    }
}

// === impl Week ===

impl Week<'_> {
    /// Watt-hours from 1970 to a moment, in local milliseconds.
    pub(super) fn used_wh(&self, local_ms: i64) -> f64 {
        let (day, within_ms) = (local_ms.div_euclid(DAY_MS), local_ms.rem_euclid(DAY_MS));
        if !(self.monday..self.monday + WEEK_DAYS).contains(&day) {
            return self.load.week(day).used_wh(local_ms);
        }
        let index = (day - self.monday) as usize;
        let (from_wh, until_wh) = pair(&self.days_wh, index);
        let quarter = (within_ms / QUARTER_MS) as usize;
        let weight = (within_ms % QUARTER_MS) as f64 / QUARTER_MS as f64;
        let (from, to) = pair(self.reached(index), quarter);
        from_wh + (until_wh - from_wh) * (from + (to - from) * weight)
    }

    /// How a day of the week uses up its energy.
    fn reached(&self, index: usize) -> &'static [f64] {
        self.courses.get(index).map_or(&[], |course| &course.reached)
    }

    /// When so many are reached, in local milliseconds.
    pub(super) fn reaches_ms(&self, wh: f64) -> i64 {
        let [first, .., last] = self.days_wh;
        if wh < first {
            return self.load.week(self.monday - WEEK_DAYS).reaches_ms(wh);
        } else if wh >= last {
            return self.load.week(self.monday + WEEK_DAYS).reaches_ms(wh);
        }
        let index = self.days_wh.partition_point(|reached| *reached <= wh) - 1;
        let day = self.monday + index as i64;
        let (from_wh, until_wh) = pair(&self.days_wh, index);
        let share = (wh - from_wh) / (until_wh - from_wh);
        let reached = self.reached(index);
        let quarter = reached.partition_point(|reached| *reached <= share).clamp(1, QUARTERS) - 1;
        let (from, to) = pair(reached, quarter);
        let within = quarter as f64 + (share - from) / (to - from);
        day * DAY_MS + (within * QUARTER_MS as f64).round() as i64
    }
}

/// Two neighbours.
fn pair(values: &[f64], index: usize) -> (f64, f64) {
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(index), at(index + 1))
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

    fn load(sort: Sort) -> Load {
        let noise = Noise::new(9, "device", 1);
        Load {
            noise,
            sort,
            mean_w: 400.0,
        }
    }

    #[test]
    fn an_amount_is_reached_when_so_much_is_used() {
        for sort in [Sort::Household, Sort::Shop] {
            let load = load(sort);
            let mut last = f64::MIN;
            // Two weeks, and the turn of BDEW's summer.
            for step in 0..4000 {
                let local_ms = (20_711 - 7) * DAY_MS + step * 307_001;
                let week = load.week(local_ms.div_euclid(DAY_MS));
                let wh = week.used_wh(local_ms);
                assert!(wh > last, "{wh} after {last}");
                last = wh;
                for from in [week, load.week(20_711 - 21), load.week(20_711 + 14)] {
                    let when_ms = from.reaches_ms(wh);
                    assert!((when_ms - local_ms).abs() <= 1, "{when_ms}, not {local_ms}");
                }
            }
        }
    }

    #[test]
    fn a_year_has_its_energy() {
        let load = load(Sort::Household);
        let used = |day: i64| load.week(day).used_wh(day * DAY_MS);
        let year = used(WEDNESDAY + 365) - used(WEDNESDAY);
        assert!((year / (400.0 * 24.0 * 365.0) - 1.0).abs() < 0.02, "{year} Wh");
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
