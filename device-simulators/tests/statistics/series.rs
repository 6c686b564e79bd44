//! Values at regular times, and what is compared of them.
//!
//! The mean day, the autocorrelation from one value to the next, percentiles; and how to get a series from a simulated
//! device. Times are milliseconds since 1970 on the place's own clock.

use std::time::Duration;

use device_simulators::devices::{City, Device, Moment};
use serde_json::Value;

pub(crate) const HOUR_MS: i64 = 3_600_000;
pub(crate) const DAY_MS: i64 = 24 * HOUR_MS;

/// Values at regular times, with gaps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    /// (milliseconds since 1970 on the place's own clock, value)
    pub(crate) points: Vec<(i64, f64)>,
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) lag1: f64,
    pub(crate) p1: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Series {
    pub(crate) fn values(&self) -> impl Iterator<Item = f64> + '_ {
        self.points.iter().map(|point| point.1)
    }

    pub(crate) fn mean(&self) -> f64 {
        self.values().sum::<f64>() / self.points.len() as f64
    }

    /// In units of its mean, where only the shape is of interest.
    pub(crate) fn normalised(&self) -> Series {
        let mean = self.mean();
        let points = self.points.iter().map(|(time, value)| (*time, value / mean)).collect();
        Series { points }
    }

    pub(crate) fn only(&self, is_so: impl Fn(i64) -> bool) -> Series {
        let points = self.points.iter().copied().filter(|point| is_so(point.0)).collect();
        Series { points }
    }

    /// The mean of each hour of the day.
    pub(crate) fn day(&self) -> Vec<f64> {
        let hour = |time: i64| time.rem_euclid(DAY_MS) / HOUR_MS;
        let of = |wanted: i64| self.only(|time| hour(time) == wanted).mean();
        (0..24).map(of).collect()
    }

    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let mut values: Vec<f64> = self.values().collect();
        values.sort_by(f64::total_cmp);
        values[(share * (values.len() - 1) as f64).round() as usize]
    }

    /// Pairs of values one `step` apart.
    pub(crate) fn lag1(&self) -> f64 {
        // The usual distance, which a gap or a clock put back does not change.
        let mut steps: Vec<i64> = self.points.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        steps.sort_unstable();
        let step = steps[steps.len() / 2];
        let pairs: Vec<(f64, f64)> = self
            .points
            .windows(2)
            .filter(|pair| pair[1].0 - pair[0].0 == step)
            .map(|pair| (pair[0].1, pair[1].1))
            .collect();
        pearson(&pairs)
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures {
            lag1: self.lag1(),
            p1: self.percentile(0.01),
            p50: self.percentile(0.5),
            p99: self.percentile(0.99),
        }
    }
}

pub(crate) fn pearson(pairs: &[(f64, f64)]) -> f64 {
    let count = pairs.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| pairs.iter().map(value).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        xy += (x - mean_x) * (y - mean_y);
        xx += (x - mean_x) * (x - mean_x);
        yy += (y - mean_y) * (y - mean_y);
    }
    xy / (xx * yy).sqrt()
}

pub(crate) fn day_of_week(time: i64) -> i64 {
    (time.div_euclid(DAY_MS) + 3).rem_euclid(7)
}

// === the simulated side ===

/// One field of one device, from `from_ms` on the city's own clock, every `step_s`.
pub(crate) fn simulated(city: &City, device: &Device, path: &str, from_ms: i64, step_s: i64, count: i64) -> Series {
    let mut series = Series::default();
    for index in 0..count {
        let local_ms = from_ms + index * step_s * 1000;
        let moment = Moment {
            observed_at_ms: local_ms - city.place().utc_offset_ms,
            interval: Duration::from_secs(step_s as u64),
        };
        let reading: Value = serde_json::from_slice(&device.reading(index as u64, moment)).unwrap();
        if let Some(value) = reading.pointer(path).and_then(Value::as_f64) {
            series.points.push((local_ms, value));
        }
    }
    series
}

/// The sum of the same field of many devices.
pub(crate) fn sum(all: Vec<Series>) -> Series {
    let mut all = all.into_iter();
    let mut total = all.next().unwrap();
    for series in all {
        assert_eq!(total.points.len(), series.points.len());
        for (sum, point) in total.points.iter_mut().zip(series.points) {
            sum.1 += point.1;
        }
    }
    total
}

/// Steps of a register, modulo its rollover, at the beginning of each step.
pub(crate) fn differences(register: &Series) -> Series {
    let step = |pair: &[(i64, f64)]| (pair[0].0, (pair[1].1 - pair[0].1).rem_euclid(1_000_000.0));
    Series {
        points: register.points.windows(2).map(step).collect(),
    }
}
