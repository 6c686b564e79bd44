//! What the sun has given since the oldest meter was installed, so that registers can be read at any time.
//!
//! Sunshine depends on the clouds of every hour, so its sum has no closed form. It is added up once for the whole city, in
//! half hours, as far as it is asked for, and kept. It is a function of the seed all the same, whenever it was
//! computed. Bounded by [`DAYS_MAX`]: some 6 MB, and a fifth of a second to fill.

use std::sync::{PoisonError, RwLock};

use super::super::calendar::{DAY_MS, LocalTime};
use super::super::city::{City, Spot};
use super::super::weather;
use super::load;

/// The day on which registers begin to count (2024-01-01), in days since 1970; before it nothing was installed.
pub(super) const FIRST_DAY: i64 = 19_723;

/// Days that are looked at, at most: forty years. Later the registers stand still.
pub(super) const DAYS_MAX: i64 = 14_610;

/// Values of a day.
const NODES: i64 = 48;

const NODE_MS: i64 = DAY_MS / NODES;

/// Sums since [`FIRST_DAY`].
#[derive(Debug, Default)]
pub(crate) struct SolarSums {
    sums: RwLock<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    /// Irradiation of the centre at each half hour, kWh/m².
    sunshine: Vec<f64>,
    /// Irradiance at the last of them, W/m².
    last_w_m2: f64,
    /// Hours of full street light at each midnight.
    lit_h: Vec<f64>,
}

// === impl SolarSums ===

impl SolarSums {
    /// Irradiation since the first day in kWh/m², and irradiance now in W/m²: straight lines between half hours.
    pub(super) fn sunshine(&self, city: &City, time_ms: i64) -> (f64, f64) {
        let since_ms = time_ms - FIRST_DAY * DAY_MS;
        if !(0..DAYS_MAX * DAY_MS).contains(&since_ms) {
            let last = DAYS_MAX * NODES;
            let sum = if since_ms < 0 { 0.0 } else { self.node(city, last) };
            return (sum, 0.0);
        }
        let node = since_ms / NODE_MS;
        let weight = (since_ms % NODE_MS) as f64 / NODE_MS as f64;
        let (from, to) = (irradiance(city, node), irradiance(city, node + 1));
        let now = from + (to - from) * weight;
        let hours = weight * 24.0 / NODES as f64;
        (self.node(city, node) + (from + now) / 2.0 * hours / 1000.0, now)
    }

    /// Hours of full street light from the first day to the beginning of a local `day`.
    pub(super) fn lit_h(&self, city: &City, day: i64) -> f64 {
        let index = (day - FIRST_DAY).clamp(0, DAYS_MAX) as usize;
        if let Some(sum) = self
            .sums
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .lit_h
            .get(index)
        {
            return *sum;
        }
        let mut sums = self.sums.write().unwrap_or_else(PoisonError::into_inner);
        let mut sum = sums.lit_h.last().copied().unwrap_or_default();
        if sums.lit_h.is_empty() {
            sums.lit_h.push(0.0);
        }
        while sums.lit_h.len() <= index {
            let day = FIRST_DAY + sums.lit_h.len() as i64 - 1;
            sum += load::lit(city.place.daylight(day, load::LIT_SINE), 24.0).0;
            sums.lit_h.push(sum);
        }
        sum
    }

    fn node(&self, city: &City, node: i64) -> f64 {
        let index = node as usize;
        if let Some(sum) = self
            .sums
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .sunshine
            .get(index)
        {
            return *sum;
        }
        let mut sums = self.sums.write().unwrap_or_else(PoisonError::into_inner);
        if sums.sunshine.is_empty() {
            sums.last_w_m2 = irradiance(city, 0);
            sums.sunshine.push(0.0);
        }
        let mut sum = sums.sunshine.last().copied().unwrap_or_default();
        while sums.sunshine.len() <= index {
            let next = irradiance(city, sums.sunshine.len() as i64);
            sum += (sums.last_w_m2 + next) / 2.0 * (24.0 / NODES as f64) / 1000.0;
            sums.sunshine.push(sum);
            sums.last_w_m2 = next;
        }
        // Another thread may have come this far meanwhile.
        sums.sunshine.get(index).copied().unwrap_or(sum)
    }
}

/// In W/m², at the centre of the city.
fn irradiance(city: &City, node: i64) -> f64 {
    weather::irradiance(city, Spot::CENTRE, FIRST_DAY * DAY_MS + node * NODE_MS)
}

/// The local day and hour, held within the sums.
pub(super) fn local(city: &City, time_ms: i64) -> LocalTime {
    let first_ms = FIRST_DAY * DAY_MS - city.place.utc_offset_ms;
    let held = time_ms.clamp(first_ms, first_ms + DAYS_MAX * DAY_MS - 1);
    LocalTime::of(held, city.place.utc_offset_ms)
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::CITY_SEED;
    use super::*;

    #[test]
    fn sums_do_not_depend_on_who_asked_first() {
        let (one, other) = (City::new(CITY_SEED), City::new(CITY_SEED));
        let times = [500, 3, 900, 901, 40].map(|day| (FIRST_DAY + day) * DAY_MS + 45_000_123);
        let asked: Vec<_> = times.iter().map(|&time| one.sums.sunshine(&one, time)).collect();
        let backwards: Vec<_> = times
            .iter()
            .rev()
            .map(|&time| other.sums.sunshine(&other, time))
            .collect();
        assert!(asked.iter().eq(backwards.iter().rev()));
        let lit = |city: &City, day| city.sums.lit_h(city, FIRST_DAY + day);
        assert_eq!((lit(&one, 30), lit(&one, 700)), {
            let late = lit(&other, 700);
            (lit(&other, 30), late)
        });
    }

    #[test]
    fn a_year_has_the_sun_and_the_nights_of_the_netherlands() {
        let city = City::new(CITY_SEED);
        let at = |day: i64| city.sums.sunshine(&city, (FIRST_DAY + day) * DAY_MS).0;
        let year = at(731) - at(366);
        // De Bilt: 1000 to 1150 kWh/m² a year.
        assert!((900.0..1250.0).contains(&year), "{year} kWh/m²");
        let lit_h = city.sums.lit_h(&city, FIRST_DAY + 731) - city.sums.lit_h(&city, FIRST_DAY + 366);
        // Some 4000 hours of darkness, a good third of them dimmed to 0.6.
        assert!((3100.0..3600.0).contains(&lit_h), "{lit_h} h");
    }

    #[test]
    fn no_time_is_too_absurd() {
        let city = City::new(CITY_SEED);
        for time in [i64::MIN / 2, -1, 0, i64::MAX / 2] {
            let (sum, now) = city.sums.sunshine(&city, time);
            assert!(sum >= 0.0 && now == 0.0, "{time}: {sum} {now}");
            assert!(city.sums.lit_h(&city, local(&city, time).day) >= 0.0);
        }
    }
}
