//! Numbers: within their range, and plausible for what they are called.
//!
//! A level goes through a daily profile, with noise around it and a drift since the last service; a counter is the integral
//! of its rate since the device was installed, so it never falls but where it is reset or runs over. What no hint says is
//! guessed from the unit or the end of the name ([`LEVELS`], [`RATES`]), or lies in the middle of the range.

use super::hints::{self, Hints};
use crate::devices::calendar::{DAY_MS, LocalTime};
use crate::devices::noise::Noise;
use crate::devices::{math, rounded};

const HOUR_MS: i64 = 3_600_000;

/// How often somebody puts a sensor right that drifts.
const SERVICE_DAYS: f64 = 30.0;

/// 2021-01-01: the oldest device was installed then, the newest four years later.
const INSTALLED_MS: i64 = 1_609_459_200_000;
const INSTALLED_WITHIN_DAYS: f64 = 1461.0;

/// 1970-01-05, the first Monday: from it on, counters are reset.
const MONDAY_MS: i64 = 4 * DAY_MS;

/// Ranges up to this width mean something; what is wider is only what the type or the register can hold.
const SPAN_MAX: f64 = 1000.0;

/// By decimals.
const STEPS: [f64; 6] = [1.0, 0.1, 0.01, 0.001, 0.0001, 0.000_01];

#[derive(Debug)]
pub(super) struct Number {
    pub(super) bounds: Bounds,
    pub(super) course: Course,
    decimals: u8,
}

/// What a field accepts; of whole numbers and of real ones, each with its ends.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bounds {
    pub(super) scale: Scale,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) whole: (i64, i64),
    /// Its sentinels, which would say that there is no value.
    pub(super) sentinels: Vec<f64>,
    /// What is out of range becomes null; else the reading is rejected.
    pub(super) nulled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    Whole,
    Single,
    Double,
}

/// What a number says.
#[derive(Debug)]
pub(super) enum Course {
    Sequence,
    Interval,
    Latitude,
    Longitude,
    Altitude,
    /// Of the local time, in so many a day; of the day alone, or of all since 1970.
    Calendar {
        per_day: f64,
        of_day: bool,
    },
    Level(Level),
    Counter(Counter),
}

#[derive(Debug)]
pub(super) struct Level {
    pub(super) mean: f64,
    /// Half of what lies between the day's least and its most.
    amplitude: f64,
    /// The hour of the most.
    peak_hour: f64,
    stddev: f64,
    drift_per_day: f64,
}

/// Per hour.
#[derive(Debug)]
pub(super) struct Counter {
    rate: f64,
    amplitude: f64,
    peak_hour: f64,
    /// Begins anew so often, at local midnight; where that is whole weeks, on Mondays.
    reset_ms: Option<i64>,
}

/// Mean, amplitude, hour of the peak, standard deviation, decimals.
type Likely = (f64, f64, f64, f64, u8);

/// By unit or end of name.
const LEVELS: &[(&[&str], Likely)] = &[
    (&["battery_v"], (3.6, 0.0, 0.0, 0.02, 2)),
    (&["battery_percent"], (82.0, 0.0, 0.0, 0.5, 0)),
    (&["power_factor"], (0.95, 0.02, 14.0, 0.01, 2)),
    (&["degC", "_c"], (14.0, 5.0, 15.0, 0.4, 1)),
    (&["%", "_percent"], (55.0, 20.0, 14.0, 3.0, 1)),
    (&["V", "_v"], (230.0, 1.5, 4.0, 1.0, 1)),
    (&["dBm", "_dbm"], (-95.0, 0.0, 0.0, 6.0, 0)),
    (&["snr_db"], (7.0, 0.0, 0.0, 3.0, 1)),
    (&["dB", "dB(A)", "_db"], (58.0, 7.0, 14.0, 3.0, 1)),
    (&["ug/m3", "_ug_m3"], (18.0, 6.0, 8.0, 4.0, 1)),
    (&["mg/m3", "_mg_m3"], (0.4, 0.15, 8.0, 0.05, 2)),
    (&["ppm", "_ppm"], (440.0, 30.0, 7.0, 8.0, 0)),
    (&["ppb", "_ppb"], (120.0, 60.0, 13.0, 20.0, 0)),
    (&["hPa", "_hpa"], (1013.0, 0.5, 10.0, 3.0, 1)),
    (&["lx", "_lx"], (6000.0, 9000.0, 12.5, 500.0, 0)),
    (&["W/m2", "_w_m2"], (150.0, 400.0, 12.5, 30.0, 0)),
    (&["W", "_w"], (300.0, 200.0, 19.0, 60.0, 1)),
    (&["A", "_a"], (2.0, 1.0, 19.0, 0.3, 2)),
    (&["veh/h", "_veh_h"], (400.0, 300.0, 8.0, 60.0, 0)),
    (&["km/h", "_kmh"], (45.0, 8.0, 3.0, 5.0, 1)),
    (&["m/s", "_m_s"], (3.5, 1.5, 14.0, 1.0, 1)),
    (&["m3/h", "_m3_h"], (0.3, 0.2, 8.0, 0.1, 3)),
    (&["bar", "_bar"], (4.5, 0.4, 3.0, 0.1, 2)),
    (&["Hz", "_hz"], (50.0, 0.0, 0.0, 0.01, 2)),
    (&["deg", "_deg"], (180.0, 0.0, 0.0, 60.0, 0)),
    (&["mm", "_mm"], (0.2, 0.0, 0.0, 0.3, 1)),
    (&["_count", "_index"], (6.0, 5.0, 15.0, 2.0, 0)),
    (&["s", "_s"], (60.0, 10.0, 12.0, 5.0, 0)),
    (&["m", "_m"], (2.0, 0.2, 3.0, 0.05, 2)),
];

/// Registers, by unit or end of name: the increase per hour, its amplitude and hour of the peak, decimals.
const RATES: &[(&[&str], f64, f64, f64, u8)] = &[
    (&["kWh", "_kwh"], 0.3, 0.2, 19.0, 3),
    (&["MWh", "GJ"], 0.01, 0.005, 7.0, 3),
    (&["m3", "_m3"], 0.015, 0.01, 8.0, 3),
    (&["h"], 0.5, 0.0, 0.0, 1),
    (&["_total"], 12.0, 8.0, 15.0, 0),
];

// === impl Number ===

impl Number {
    /// A number that says what is known anyway: its time, its place.
    pub(super) fn known(bounds: Bounds, course: Course, decimals: u8) -> Number {
        Number {
            bounds,
            course,
            decimals,
        }
    }

    /// A number that is measured or counted.
    ///
    /// # Errors
    /// The mean is out of range, or a profile has a peak and no height.
    pub(super) fn measured(name: &str, unit: &str, bounds: Bounds, hints: &Hints) -> Result<Number, String> {
        let is_meant = |known: &[&str]| {
            let mut known = known.iter();
            known.any(|known| unit == *known || name == *known || known.starts_with('_') && name.ends_with(known))
        };
        let register = RATES
            .iter()
            .find(|(known, ..)| is_meant(known) && !name.starts_with("interval"));
        let level = LEVELS.iter().find(|(known, ..)| is_meant(known));
        let hint = |name| hints.number(name);
        let counter = match (hint("increase_per_hour"), register) {
            (Some(rate), _) => Some((rate, 0.0, 0.0, decimals(rate / 10.0))),
            (None, Some(&(_, rate, amplitude, peak, decimals))) if level.is_none() && !hints.says_level() => {
                Some((rate, amplitude, peak, decimals))
            }
            _ => None,
        };
        let flat = |amplitude: f64| match hint("peak_hour") {
            Some(_) if amplitude == 0.0 => {
                Err("simulate.peak_hour means nothing without an amplitude: add one".to_owned())
            }
            _ => Ok(amplitude),
        };
        if let Some((rate, amplitude, peak_hour, decimals)) = counter {
            let course = Course::Counter(Counter {
                rate,
                amplitude: flat(hint("amplitude").unwrap_or(amplitude))?,
                peak_hour: hint("peak_hour").unwrap_or(peak_hour),
                reset_ms: hint("reset_hours").and_then(hints::period_ms),
            });
            return Ok(Number::known(bounds, course, decimals));
        }
        let fits = |mean: f64| bounds.beyond(mean).is_none();
        let guess = match level {
            Some((_, likely)) if fits(likely.0) => *likely,
            _ => bounds.middling(),
        };
        let (mean, amplitude, peak_hour, stddev, mut digits) = guess;
        let unhinted = |guessed: f64| if hints.says_level() { 0.0 } else { guessed };
        let level = Level {
            mean: hint("mean").unwrap_or(mean),
            amplitude: flat(hint("amplitude").unwrap_or(unhinted(amplitude)))?,
            peak_hour: hint("peak_hour").unwrap_or(peak_hour),
            stddev: hint("stddev").unwrap_or(unhinted(stddev)),
            drift_per_day: hint("drift_per_day").unwrap_or(0.0),
        };
        if hints.says_level() {
            let finest = [level.amplitude / 50.0, level.stddev / 5.0, level.mean.abs() / 1000.0];
            let finest = finest.into_iter().filter(|step| *step > 0.0).fold(f64::MAX, f64::min);
            digits = digits.max(if finest < f64::MAX { decimals(finest) } else { 0 });
        }
        if let Some(beyond) = bounds.beyond(level.mean) {
            return Err(format!("simulate.mean {} is {beyond}", level.mean));
        }
        Ok(Number::known(bounds, Course::Level(level), digits))
    }

    pub(super) fn text(&self, value: f64) -> String {
        // What a counter does not show yet is not there.
        let hidden = if matches!(self.course, Course::Counter(_)) {
            0.5 * self.step()
        } else {
            0.0
        };
        if self.bounds.scale == Scale::Whole {
            return self.bounds.whole((value - hidden).round() as i64).to_string();
        }
        let value = self.bounds.real(rounded(value - hidden, self.decimals), self.step());
        let text = match self.bounds.scale {
            Scale::Single => serde_json::to_string(&(value as f32)),
            _ => serde_json::to_string(&value),
        };
        text.unwrap_or_default()
    }

    /// The `position`th of different values: 1, 2, 3, … where the range allows it.
    pub(super) fn nth(&self, position: usize) -> String {
        let first = if self.bounds.low <= 1.0 && self.bounds.high > 1.0 {
            1.0
        } else {
            self.bounds.low
        };
        self.text(first + position as f64)
    }

    fn step(&self) -> f64 {
        match self.bounds.scale {
            Scale::Whole => 1.0,
            _ => STEPS.get(usize::from(self.decimals)).copied().unwrap_or(0.0),
        }
    }
}

/// Decimals that show steps of this size.
fn decimals(step: f64) -> u8 {
    STEPS.iter().take(5).take_while(|decimals| **decimals > step).count() as u8
}

// === impl Level ===

impl Level {
    pub(super) fn value(&self, noise: &Noise, channel: &str, time_ms: i64, local: LocalTime) -> f64 {
        let daily = self.amplitude * math::cos_turns((local.hour - self.peak_hour) / 24.0);
        // Half of the variance is the weather of the hour, the other half is new each time.
        let wander = noise.rippled(channel, time_ms, 3600) + noise.normal(channel, time_ms);
        let days = time_ms as f64 / DAY_MS as f64 + SERVICE_DAYS * noise.fixed(channel);
        let drift = self.drift_per_day * days.rem_euclid(SERVICE_DAYS);
        let offset = 0.5 * self.stddev * noise.signed(channel);
        self.mean + offset + daily + std::f64::consts::FRAC_1_SQRT_2 * self.stddev * wander + drift
    }
}

// === impl Counter ===

impl Counter {
    /// What it shows, in a register that reaches from `low` to `high`.
    pub(super) fn value(&self, noise: &Noise, channel: &str, local_ms: i64, (low, high): (f64, f64)) -> f64 {
        let installed_ms = INSTALLED_MS + (INSTALLED_WITHIN_DAYS * noise.fixed(channel)) as i64 * DAY_MS;
        let since_ms = match self.reset_ms {
            Some(period_ms) => local_ms - (local_ms - MONDAY_MS).rem_euclid(period_ms),
            None => installed_ms,
        };
        // Another day begins at local midnight, so both ends are measured from one.
        let busy = 0.5 + noise.fixed(&format!("{channel} busy"));
        let counted = busy * (self.until(local_ms) - self.until(since_ms)).max(0.0);
        // One that has run over begins anew.
        let first = low.max(0.0).min(high);
        let span = high - first;
        let has_run_over = span > 0.0 && counted > span;
        first
            + if has_run_over {
                counted.rem_euclid(span)
            } else {
                counted
            }
    }

    /// The integral of the rate since 2021.
    fn until(&self, local_ms: i64) -> f64 {
        let hours = (local_ms - INSTALLED_MS) as f64 / HOUR_MS as f64;
        let turned = math::sin_turns((hours - self.peak_hour).rem_euclid(24.0) / 24.0);
        self.rate * hours + self.amplitude * 24.0 / std::f64::consts::TAU * turned
    }
}

// === impl Bounds ===

impl Bounds {
    /// A whole number within, and no sentinel.
    pub(super) fn whole(&self, value: i64) -> i64 {
        let (low, high) = self.whole;
        let value = value.clamp(low, high);
        let is_free = |value: &i64| !self.sentinels.contains(&(*value as f64));
        let near =
            (0..=self.sentinels.len() as i64).flat_map(|by| [value.saturating_add(by), value.saturating_sub(by)]);
        let mut near = near.filter(|value| (low..=high).contains(value));
        near.find(is_free).unwrap_or(value)
    }

    /// A real number within, and no sentinel; `step` is the least difference that the device shows.
    fn real(&self, value: f64, step: f64) -> f64 {
        let typed = |value: f64| self.typed(value);
        let within = |value: f64| typed(value).clamp(self.low, self.high);
        let is_free = |value: &f64| !self.sentinels.iter().any(|sentinel| typed(*sentinel) == *value);
        let near = (0..=self.sentinels.len()).flat_map(|by| [value + by as f64 * step, value - by as f64 * step]);
        near.map(within).find(is_free).unwrap_or_else(|| within(value))
    }

    /// How a value is out of range, in words.
    pub(super) fn beyond(&self, value: f64) -> Option<String> {
        let show = |end: f64| match self.scale {
            Scale::Single => (end as f32).to_string(),
            _ => end.to_string(),
        };
        let value = self.typed(value);
        if value > self.high {
            Some(format!("beyond maximum {}", show(self.high)))
        } else if value < self.low {
            Some(format!("below minimum {}", show(self.low)))
        } else {
            None
        }
    }

    /// As the field's type holds it.
    fn typed(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Single => f64::from(value as f32),
            _ => value,
        }
    }

    /// What something unknown is likely to be.
    fn middling(&self) -> Likely {
        let span = self.high - self.low;
        if span > SPAN_MAX {
            return (10f64.clamp(self.low, self.high), 5.0, 14.0, 1.0, 1);
        }
        let digits = decimals(span / 1000.0);
        (self.low + 0.4 * span, 0.2 * span, 14.0, 0.03 * span, digits)
    }
}
