//! What the sun gives to the city's roofs and street lights, so that registers can be read at any time.
//!
//! Sunshine depends on the clouds of every hour, so its sum has no closed form. A day's course is computed once for the
//! whole city, in straight lines of five minutes, when it is first asked for, and kept; each roof sees the clouds of the
//! centre when they get there. All of it is a function of the seed, whenever it was computed. Bounded by [`DAYS_MAX`]: at
//! worst, after forty years, some 35 MB.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::super::calendar::{DAY_MS, LocalTime};
use super::super::city::{City, Spot};
use super::super::{sun, weather};
use super::load;

/// The day on which the city's records begin (2024-01-01), in days since 1970.
pub(super) const FIRST_DAY: i64 = 19_723;

/// Days that are looked at, at most: forty years. Later the registers stand still.
pub(super) const DAYS_MAX: i64 = 14_610;

/// Straight lines of a day.
pub(super) const NODES: usize = 288;

pub(super) const NODE_MS: i64 = DAY_MS / NODES as i64;

/// By how many lines a roof may be before or behind the centre.
const SHIFT_MAX: i64 = 4;

/// Ends of a day's lines, and of those before and behind it.
const POINTS: usize = NODES + 1 + 2 * SHIFT_MAX as usize;

/// What is remembered of the sun.
#[derive(Debug, Default)]
pub(crate) struct SolarSums {
    days: RwLock<HashMap<i64, Arc<SolarDay>>>,
    /// Hours of full street light from [`FIRST_DAY`] to each midnight.
    lit_h: RwLock<Vec<f64>>,
}

/// A local day's sunshine.
#[derive(Debug)]
pub(super) struct SolarDay {
    /// Under a clear sky, W/m²; at the end of each line, from [`SHIFT_MAX`] lines before midnight on.
    clear: [f32; POINTS],
    /// What of it gets through the clouds over the centre.
    through: [f32; POINTS],
}

// === impl SolarSums ===

impl SolarSums {
    /// The sunshine of a local day.
    pub(super) fn day(&self, city: &City, day: i64) -> Arc<SolarDay> {
        let known = self
            .days
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&day)
            .cloned();
        known.unwrap_or_else(|| {
            let computed = Arc::new(SolarDay::of(city, day));
            let mut days = self.days.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(days.entry(day).or_insert(computed))
        })
    }

    /// Hours of full street light from the first day to the beginning of a local `day`.
    pub(super) fn lit_h(&self, city: &City, day: i64) -> f64 {
        let index = (day - FIRST_DAY).clamp(0, DAYS_MAX) as usize;
        if let Some(sum) = self.lit_h.read().unwrap_or_else(PoisonError::into_inner).get(index) {
            return *sum;
        }
        let mut sums = self.lit_h.write().unwrap_or_else(PoisonError::into_inner);
        let mut sum = sums.last().copied().unwrap_or_default();
        if sums.is_empty() {
            sums.push(0.0);
        }
        while sums.len() <= index {
            let day = FIRST_DAY + sums.len() as i64 - 1;
            sum += load::lit(city.place.daylight(day, load::LIT_SINE), 24.0).0;
            sums.push(sum);
        }
        sum
    }
}

// === impl SolarDay ===

impl SolarDay {
    fn of(city: &City, day: i64) -> SolarDay {
        let at_ms = |index: usize| day * DAY_MS - city.place.utc_offset_ms + (index as i64 - SHIFT_MAX) * NODE_MS;
        let sines: [f64; POINTS] = std::array::from_fn(|index| city.place.sun(at_ms(index)));
        // By night nobody asks.
        let is_day = |index: usize| {
            let from = index.saturating_sub(SHIFT_MAX as usize);
            sines
                .iter()
                .skip(from)
                .take(1 + 2 * SHIFT_MAX as usize)
                .any(|sine| *sine > 0.0)
        };
        let through = |index: usize| {
            let through = is_day(index).then(|| weather::through(city, Spot::CENTRE, at_ms(index)));
            through.unwrap_or_default() as f32
        };
        SolarDay {
            clear: sines.map(|sine| sun::clear_sky_w_m2(sine) as f32),
            through: std::array::from_fn(through),
        }
    }

    /// On a roof that clouds reach `shift` lines after the centre, at the end of line `node`: W/m².
    pub(super) fn at_node(&self, shift: i64, node: usize) -> f64 {
        let at = |values: &[f32], index: i64| f64::from(values.get(index as usize).copied().unwrap_or_default());
        let index = node as i64 + SHIFT_MAX;
        at(&self.clear, index) * at(&self.through, index - shift.clamp(-SHIFT_MAX, SHIFT_MAX))
    }

    /// The same so many milliseconds after midnight, on the straight line.
    pub(super) fn at(&self, shift: i64, within_ms: i64) -> f64 {
        let node = (within_ms / NODE_MS) as usize;
        let (from, to) = (self.at_node(shift, node), self.at_node(shift, node + 1));
        from + (to - from) * (within_ms % NODE_MS) as f64 / NODE_MS as f64
    }

    /// The first and the last line with any light in it.
    pub(super) fn light(&self) -> (usize, usize) {
        let lit = |index: usize| {
            self.clear
                .get(index + SHIFT_MAX as usize)
                .is_some_and(|clear| *clear > 0.0)
        };
        let first = (0..NODES).find(|node| lit(node + 1)).unwrap_or(NODES);
        let last = (0..NODES).rfind(|node| lit(*node)).unwrap_or_default();
        (first, last)
    }
}

/// How many lines after the centre the clouds reach `spot`.
pub(super) fn shift(spot: Spot) -> i64 {
    (weather::drift_ms(spot) as f64 / NODE_MS as f64).round() as i64
}

/// The local day and hour, within the records.
pub(super) fn local(city: &City, time_ms: i64) -> LocalTime {
    LocalTime::of(local_ms(city, time_ms), 0)
}

/// Milliseconds since 1970 by the city's own clock, within the records.
pub(super) fn local_ms(city: &City, time_ms: i64) -> i64 {
    let first_ms = FIRST_DAY * DAY_MS;
    let local_ms = time_ms.saturating_add(city.place.utc_offset_ms);
    local_ms.clamp(first_ms, first_ms + DAYS_MAX * DAY_MS - 1)
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::CITY_SEED;
    use super::*;

    #[test]
    fn days_do_not_depend_on_who_asked_first() {
        let (one, other) = (City::new(CITY_SEED), City::new(CITY_SEED));
        let days = [500, 3, 900, 901, 40].map(|day| FIRST_DAY + day);
        let asked = |city: &City, day: i64| city.sums.day(city, day).at(1, 45_000_123);
        let forwards: Vec<_> = days.iter().map(|&day| asked(&one, day)).collect();
        let backwards: Vec<_> = days.iter().rev().map(|&day| asked(&other, day)).collect();
        assert!(forwards.iter().eq(backwards.iter().rev()));
        let lit = |city: &City, day| city.sums.lit_h(city, FIRST_DAY + day);
        assert_eq!((lit(&one, 30), lit(&one, 700)), {
            let late = lit(&other, 700);
            (lit(&other, 30), late)
        });
    }

    #[test]
    fn a_year_has_the_sun_and_the_nights_of_the_netherlands() {
        let city = City::new(CITY_SEED);
        let of_day = |day: i64| {
            let sun = city.sums.day(&city, FIRST_DAY + day);
            let nodes: f64 = (0..NODES).map(|node| sun.at_node(0, node)).sum();
            nodes / 12_000.0
        };
        let year: f64 = (366..731).map(of_day).sum();
        // De Bilt: 1000 to 1150 kWh/m² a year.
        assert!((900.0..1250.0).contains(&year), "{year} kWh/m²");
        let lit_h = city.sums.lit_h(&city, FIRST_DAY + 731) - city.sums.lit_h(&city, FIRST_DAY + 366);
        // Some 4000 hours of darkness, a good third of them dimmed to 0.6.
        assert!((3100.0..3600.0).contains(&lit_h), "{lit_h} h");
    }

    #[test]
    fn no_time_is_too_absurd() {
        let city = City::new(CITY_SEED);
        for time in [i64::MIN, i64::MIN / 2, -1, 0, i64::MAX / 2, i64::MAX] {
            let day = local(&city, time).day;
            assert!((FIRST_DAY..FIRST_DAY + DAYS_MAX).contains(&day), "{time}: {day}");
            assert!(city.sums.day(&city, day).at(4, 43_200_000) >= 0.0);
            assert!(city.sums.lit_h(&city, day) >= 0.0);
        }
    }
}
