//! How much a device may send: readings and bytes per second, on average, with a burst of [`BURST`] beforehand.
//!
//! A message is accepted while its device is within its burst, and then charged whole, however many readings it holds: how many
//! is known only when it has arrived, and a batch that is larger than the burst must not be refused for ever. What exceeds the
//! burst is a debt, and the next message waits until it is paid ([`RateLimit`]). What is refused is not charged.

use std::time::{Duration, Instant};

use bytesize::ByteSize;

use crate::operate::rate_limit::RateLimit;

/// What a device that was silent for a while may send at once: as much as in so long.
pub const BURST: Duration = Duration::from_secs(10);

/// How much a device may send per second; what is not set is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rates {
    /// Readings per second, whatever their outcome.
    pub readings_per_second: Option<u32>,
    /// Bytes of messages per second.
    pub bytes_per_second: Option<ByteSize>,
}

/// How much a device has sent.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    readings: RateLimit,
    bytes: RateLimit,
}

// === impl Rates ===

impl Rates {
    /// These, and what they leave open from `default`.
    pub fn or(self, default: Rates) -> Rates {
        Rates {
            readings_per_second: self.readings_per_second.or(default.readings_per_second),
            bytes_per_second: self.bytes_per_second.or(default.bytes_per_second),
        }
    }

    fn per_second(&self) -> [Option<u64>; 2] {
        [
            self.readings_per_second.map(u64::from),
            self.bytes_per_second.map(|bytes| bytes.as_u64()),
        ]
    }
}

// === impl Sent ===

impl Sent {
    /// How long a device with these rates must wait before it may send again; zero: it need not.
    pub fn wait(&self, rates: &Rates, now: Instant) -> Duration {
        let waits = self
            .limits()
            .into_iter()
            .zip(rates.per_second())
            .map(|(limit, rate)| match rate {
                Some(_) => limit.wait(BURST, now),
                None => Duration::ZERO,
            });
        waits.max().unwrap_or_default()
    }

    /// Charges what has arrived.
    pub fn charge(&self, rates: &Rates, now: Instant, readings: usize, bytes: usize) {
        let amounts = [readings, bytes];
        for ((limit, rate), amount) in self.limits().into_iter().zip(rates.per_second()).zip(amounts) {
            if let Some(rate) = rate {
                limit.charge(rate, amount, now);
            }
        }
    }

    fn limits(&self) -> [&RateLimit; 2] {
        [&self.readings, &self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(readings: u32, bytes: u64) -> Rates {
        Rates {
            readings_per_second: Some(readings),
            bytes_per_second: Some(ByteSize::b(bytes)),
        }
    }

    /// Sends a message every `every` for `seconds`; how many were accepted.
    fn accepted(rates: Rates, every: Duration, seconds: u64, readings: usize, bytes: usize) -> u32 {
        let sent = Sent::default();
        let start = Instant::now();
        let mut now = start;
        let mut accepted = 0;
        while now < start + Duration::from_secs(seconds) {
            if sent.wait(&rates, now).is_zero() {
                sent.charge(&rates, now, readings, bytes);
                accepted += 1;
            }
            now += every;
        }
        accepted
    }

    #[test]
    fn a_device_sends_at_its_rate_and_a_burst_beforehand() {
        let ms = Duration::from_millis;
        for (rates, every, seconds, readings, bytes, expected) in [
            // Within its rate, for ever.
            (rates(10, 10_000), ms(100), 1000, 1, 100, 10_000),
            // Ten times as fast: the burst of 100, and 10 a second.
            (rates(10, 1 << 40), ms(10), 100, 1, 100, 1101),
            (rates(1 << 30, 1000), ms(10), 100, 1, 100, 1101),
            // What is not limited is not.
            (Rates::default(), ms(10), 100, 1, 100, 10_000),
            // A batch larger than the burst is accepted, and paid for: 1,000 readings are 100 seconds'.
            (rates(10, 1 << 40), ms(1000), 1000, 1000, 1, 11),
        ] {
            let accepted = accepted(rates, every, seconds, readings, bytes);
            assert!(
                accepted.abs_diff(expected) <= 1,
                "{rates:?}: {accepted}, not {expected}"
            );
        }
    }

    #[test]
    fn what_a_record_leaves_open_is_the_default() {
        let own = Rates {
            readings_per_second: Some(5),
            bytes_per_second: None,
        };
        assert_eq!(own.or(rates(1, 2)), rates(5, 2));
    }
}
