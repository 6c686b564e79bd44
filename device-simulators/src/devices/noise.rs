//! Chance without a dice: numbers that look random and are a function of what they are asked for.
//!
//! A [`Noise`] belongs to one device (or, with [`Noise::city`], to the weather that all of them share). A *channel* is
//! the name of the quantity that varies, so that two of them do not move together.

/// Deterministic noise of one device.
#[derive(Clone, Debug)]
pub(crate) struct Noise {
    seed: u64,
    key: u64,
}

// === impl Noise ===

impl Noise {
    pub(crate) fn new(seed: u64, index: u64) -> Noise {
        Noise {
            seed,
            key: mixed(mixed(seed) ^ index),
        }
    }

    /// What all devices of the seed see alike: the clouds above the city, the frequency of the grid.
    pub(crate) fn city(&self) -> Noise {
        Noise {
            seed: self.seed,
            key: mixed(self.seed ^ 0x6369_7479),
        }
    }

    /// A property of the device that never changes, 0 to 1.
    pub(crate) fn fixed(&self, channel: &str) -> f64 {
        self.unit(channel, i64::MIN)
    }

    /// A property of the device that never changes, −1 to 1.
    pub(crate) fn signed(&self, channel: &str) -> f64 {
        2.0 * self.fixed(channel) - 1.0
    }

    /// New at every `tick`, 0 to 1.
    pub(crate) fn unit(&self, channel: &str, tick: i64) -> f64 {
        let named = channel.bytes().fold(self.key, |key, byte| mixed(key ^ u64::from(byte)));
        // 53 bits are what a double holds.
        (mixed(named ^ tick as u64) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Wanders smoothly between −1 and 1, with a new goal every `period_s`.
    pub(crate) fn smooth(&self, channel: &str, time_ms: i64, period_s: i64) -> f64 {
        let period_ms = period_s * 1000;
        let cell = time_ms.div_euclid(period_ms);
        let phase = time_ms.rem_euclid(period_ms) as f64 / period_ms as f64;
        let goal = |cell| 2.0 * self.unit(channel, cell) - 1.0;
        let weight = (1.0 - (std::f64::consts::PI * phase).cos()) / 2.0;
        goal(cell) * (1.0 - weight) + goal(cell + 1) * weight
    }
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
fn mixed(value: u64) -> u64 {
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
        let noise = Noise::new(1, 1);
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
        let noise = Noise::new(2, 9);
        let mut tenths = [0; 10];
        for tick in 0..10_000 {
            tenths[(noise.unit("x", tick) * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (850..1150).contains(count)), "{tenths:?}");
    }
}
