//! Chance without a rng: numbers that look random and are a function of what they are asked for.
//!
//! A [`Noise`] belongs to one device, one road, or the city (the weather that all devices share). A *channel* is the name
//! of the quantity that varies, so that two of them do not move together. No clock, no global state, no platform's
//! mathematics: the same question has the same answer everywhere.

use super::math;

/// Deterministic noise of one thing.
#[derive(Clone, Debug)]
pub(crate) struct Noise {
    key: u64,
}

// === impl Noise ===

impl Noise {
    /// The `index`th thing of a sort in the city of `seed`.
    pub(crate) fn new(seed: u64, sort: &str, index: u64) -> Noise {
        Noise {
            key: mixed(named(mixed(seed), sort) ^ index),
        }
    }

    /// A property of the thing that never changes, 0 to 1.
    pub(crate) fn fixed(&self, channel: &str) -> f64 {
        self.unit(channel, i64::MIN)
    }

    /// A property of the thing that never changes, −1 to 1.
    pub(crate) fn signed(&self, channel: &str) -> f64 {
        2.0 * self.fixed(channel) - 1.0
    }

    /// New at every `tick`, 0 up to 1.
    pub(crate) fn unit(&self, channel: &str, tick: i64) -> f64 {
        // 53 bits are what a double holds.
        (self.bits(channel, tick) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// New at every `tick`: around 0, standard deviation 1, never beyond ±3.5 (the sum of four uniform numbers).
    pub(crate) fn normal(&self, channel: &str, tick: i64) -> f64 {
        let bits = self.bits(channel, tick);
        let sum: u64 = (0..4).map(|quarter| (bits >> (16 * quarter)) & 0xffff).sum();
        (sum as f64 / 65_536.0 - 2.0) * 1.732_050_807_568_877_2
    }

    /// How many events there are where `mean` are expected (Poisson; rounded normal from 40 on).
    pub(crate) fn poisson(&self, channel: &str, tick: i64, mean: f64) -> u32 {
        if mean >= 40.0 {
            return (mean + mean.sqrt() * self.normal(channel, tick)).round().max(0.0) as u32;
        }
        let chance = self.unit(channel, tick);
        let (mut count, mut term) = (0, math::exp(-mean));
        let mut below = term;
        while chance >= below && count < 200 {
            count += 1;
            term *= mean / f64::from(count);
            below += term;
        }
        count
    }

    /// Wanders smoothly between −1 and 1, with a new goal every `period_s`; standard deviation about 0.5.
    pub(crate) fn smooth(&self, channel: &str, time_ms: i64, period_s: i64) -> f64 {
        let period_ms = period_s * 1000;
        let cell = time_ms.div_euclid(period_ms);
        let phase = time_ms.rem_euclid(period_ms) as f64 / period_ms as f64;
        let goal = |cell| 2.0 * self.unit(channel, cell) - 1.0;
        let weight = math::step(phase, 0.0, 1.0);
        goal(cell) * (1.0 - weight) + goal(cell + 1) * weight
    }

    /// Wanders with ever smaller ripples, as the weather does; standard deviation about 1, hardly beyond ±2.5.
    pub(crate) fn rippled(&self, channel: &str, time_ms: i64, period_s: i64) -> f64 {
        let ripple = |share: f64, fraction: i64| {
            // Shifted, or all goals would fall on the same moment.
            let shifted = time_ms + fraction * 7_919_000;
            share * self.smooth(channel, shifted, (period_s / fraction).max(1))
        };
        1.9 * ripple(0.9, 1) + 1.9 * (ripple(0.38, 3) + ripple(0.16, 11))
    }

    fn bits(&self, channel: &str, tick: i64) -> u64 {
        mixed(mixed(named(self.key, channel)) ^ tick as u64)
    }
}

/// `key` for one name; FNV-1a's step.
fn named(key: u64, name: &str) -> u64 {
    name.bytes().fold(key, |key, byte| {
        (key ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
pub(crate) fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smooth_noise_is_continuous_and_bounded() {
        let noise = Noise::new(1, "device", 1);
        let mut last = noise.smooth("x", 0, 600);
        let mut extremes = (last, last);
        for second in 1..100_000 {
            let value = noise.smooth("x", second * 1000, 600);
            assert!((value - last).abs() < 0.01, "a jump at {second} s");
            extremes = (extremes.0.min(value), extremes.1.max(value));
            last = value;
        }
        assert!(extremes.0 >= -1.0 && extremes.0 < -0.8, "{extremes:?}");
        assert!(extremes.1 <= 1.0 && extremes.1 > 0.8, "{extremes:?}");
    }

    #[test]
    fn uniform_noise_is_uniform() {
        let noise = Noise::new(2, "device", 9);
        let mut tenths = [0; 10];
        for tick in 0..10_000 {
            tenths[(noise.unit("x", tick) * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (850..1150).contains(count)), "{tenths:?}");
    }

    /// Mean and standard deviation of 20,000 draws.
    fn moments(draw: impl Fn(i64) -> f64) -> (f64, f64) {
        let values: Vec<f64> = (0..20_000).map(draw).collect();
        let mean = values.iter().sum::<f64>() / 20_000.0;
        let variance = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / 20_000.0;
        (mean, variance.sqrt())
    }

    #[test]
    fn draws_have_the_moments_that_they_promise() {
        let noise = Noise::new(3, "device", 4);
        let check = |(mean, deviation): (f64, f64), expected: (f64, f64), tolerance: f64| {
            assert!((mean - expected.0).abs() < tolerance, "mean {mean}, not {}", expected.0);
            let off = (deviation - expected.1).abs();
            assert!(off < tolerance, "deviation {deviation}, not {}", expected.1);
        };
        check(moments(|tick| noise.normal("n", tick)), (0.0, 1.0), 0.03);
        check(moments(|tick| noise.smooth("s", tick * 100_003, 600)), (0.0, 0.5), 0.03);
        check(
            moments(|tick| noise.rippled("r", tick * 100_003, 600)),
            (0.0, 0.95),
            0.08,
        );
        for mean in [0.0, 0.3, 4.0, 39.0, 41.0, 400.0] {
            let drawn = moments(|tick| f64::from(noise.poisson("p", tick, mean)));
            check(drawn, (mean, mean.sqrt()), 0.02 * mean + 0.02);
        }
    }
}
