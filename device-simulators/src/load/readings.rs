//! Real readings, made once by the city's own devices, and made current in place.
//!
//! Making a reading costs more than sending it, so a pool of each kind is made at the start: many devices, several moments
//! of the last hour. Every message is one of these with its own `sequence` and the present `observed_at`; both are 13
//! digits at a fixed place, so that nothing moves. A gateway that checks clocks, ranges and schemas finds nothing wrong,
//! unless a [`Flaw`] is asked for.

use std::time::Duration;

use anyhow::Context;

use super::clock::Nanos;
use crate::devices::{Device, Kind, Moment};

/// Devices of each kind in the pool, and moments of each.
const DEVICES: u64 = 128;
const MOMENTS: u64 = 4;

/// What a reading of the pool covers.
const INTERVAL: Duration = Duration::from_secs(60);

/// Milliseconds since 1970 have 13 digits until the year 2286.
const DIGITS: usize = 13;

/// Readings of all kinds.
#[derive(Debug)]
pub struct Readings {
    /// By kind.
    pools: Vec<Vec<Pool>>,
}

/// The readings of one device.
#[derive(Debug)]
pub struct Pool {
    readings: Vec<Template>,
    /// The length of the longest, in bytes.
    bytes_max: usize,
}

/// A reading with the places of what changes.
#[derive(Debug)]
pub struct Template {
    json: Box<[u8]>,
    observed_at: usize,
    sequence: usize,
}

/// A number of 13 digits, written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digits([u8; DIGITS]);

/// What is wrong with a reading; its length is that of the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// `sequence` is a text.
    WrongType,
    /// Its end is missing.
    Cut,
}

// === impl Readings ===

impl Readings {
    /// Makes the pools for the city that `seed` describes, as of `now_ms` (milliseconds since 1970); each reading is
    /// `padding` bytes of text longer than its device makes it, if not 0.
    pub fn make(seed: u64, now_ms: u64, padding: usize) -> anyhow::Result<Readings> {
        let pool = |kind, device| Pool::make(&Device::new(kind, seed, device), now_ms, padding);
        let pools = |kind| {
            (0..DEVICES)
                .map(|device| pool(kind, device))
                .collect::<anyhow::Result<Vec<Pool>>>()
        };
        let pools: anyhow::Result<_> = Kind::PHYSICAL.into_iter().map(pools).collect();
        Ok(Readings { pools: pools? })
    }

    /// The readings that the `index`th connection sends, if it is of this `kind`.
    pub fn of(&self, kind: Kind, index: usize) -> &Pool {
        let pools = &self.pools[kind.position()];
        &pools[index % pools.len()]
    }
}

// === impl Pool ===

impl Pool {
    fn make(device: &Device, now_ms: u64, padding: usize) -> anyhow::Result<Pool> {
        let reading = |back: u64| {
            let moment = Moment {
                observed_at_ms: (now_ms - back * INTERVAL.as_millis() as u64) as i64,
                interval: INTERVAL,
            };
            let mut json = device.reading(now_ms, moment);
            pad(&mut json, padding);
            Template::new(json)
        };
        let readings: anyhow::Result<Vec<Template>> = (0..MOMENTS).map(reading).collect();
        let readings = readings.with_context(|| format!("a reading of {}", device.name()))?;
        let bytes_max = readings.iter().map(Template::len).max().unwrap_or(0);
        Ok(Pool { readings, bytes_max })
    }

    /// The reading of message `number`.
    pub fn of(&self, number: u64) -> &Template {
        &self.readings[(number % self.readings.len() as u64) as usize]
    }

    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }
}

// === impl Template ===

impl Template {
    /// Finds the places in a reading of 13-digit time and sequence.
    fn new(json: Vec<u8>) -> anyhow::Result<Template> {
        Ok(Template {
            observed_at: place(&json, b"\"observed_at\":")?,
            sequence: place(&json, b"\"sequence\":")?,
            json: json.into(),
        })
    }

    /// Length in bytes, whatever time and sequence.
    pub fn len(&self) -> usize {
        self.json.len()
    }

    pub fn is_empty(&self) -> bool {
        self.json.is_empty()
    }

    /// Writes the reading with its time and sequence.
    pub fn append(&self, out: &mut Vec<u8>, observed_at: Digits, sequence: u64, flaw: Option<Flaw>) {
        let start = out.len();
        out.extend_from_slice(&self.json);
        let mut put = |place: usize, digits: Digits| {
            out[start + place..start + place + DIGITS].copy_from_slice(&digits.0);
        };
        put(self.observed_at, observed_at);
        put(self.sequence, Digits::of(sequence));
        match flaw {
            None => {}
            Some(Flaw::WrongType) => {
                out[start + self.sequence] = b'"';
                out[start + self.sequence + DIGITS - 1] = b'"';
            }
            // A blank for the last brace.
            Some(Flaw::Cut) => out[start + self.json.len() - 1] = b' ',
        }
    }
}

/// Puts a field `padding` with so many bytes of text at the end of a JSON object; none for 0.
fn pad(json: &mut Vec<u8>, bytes: usize) {
    if bytes > 0 && json.pop() == Some(b'}') {
        json.extend_from_slice(b",\"padding\":\"");
        json.resize(json.len() + bytes, b'x');
        json.extend_from_slice(b"\"}");
    }
}

/// Where the 13 digits behind `name` begin.
fn place(json: &[u8], name: &[u8]) -> anyhow::Result<usize> {
    let found = json.windows(name.len()).position(|window| window == name);
    let start = found.context("has not the fields of the header")? + name.len();
    let digits = json[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    anyhow::ensure!(digits == DIGITS, "has a number of {digits} digits for {DIGITS}");
    Ok(start)
}

// === impl Digits ===

impl Digits {
    /// The last 13 digits of `number`.
    pub fn of(mut number: u64) -> Digits {
        let mut digits = [b'0'; DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        Digits(digits)
    }
}

/// The present millisecond, written out anew only when it changes.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    valid_for: Nanos,
    pub unix_ms: u64,
    pub digits: Digits,
}

// === impl Stamp ===

impl Stamp {
    /// The stamp of `unix_ms`, to be made anew in the millisecond after `now`.
    pub fn new(now: Nanos, unix_ms: u64) -> Stamp {
        Stamp {
            valid_for: now / 1_000_000,
            unix_ms,
            digits: Digits::of(unix_ms),
        }
    }

    pub fn is_current(&self, now: Nanos) -> bool {
        now / 1_000_000 == self.valid_for
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const NOW_MS: u64 = 1_781_654_400_123;

    #[test]
    fn a_patched_reading_is_the_device_s_own_but_for_time_and_sequence() {
        let readings = Readings::make(7, NOW_MS, 0).unwrap();
        for kind in Kind::PHYSICAL {
            let device = Device::new(kind, 7, 5);
            for number in 0..MOMENTS {
                let template = readings.of(kind, 5).of(number);
                let mut bytes = b"before".to_vec();
                template.append(&mut bytes, Digits::of(NOW_MS + 77), NOW_MS + number, None);
                let patched: Value = serde_json::from_slice(&bytes[6..]).unwrap();
                let mut expected: Value = serde_json::from_slice(&device.reading(
                    NOW_MS,
                    Moment {
                        observed_at_ms: (NOW_MS - number * 60_000) as i64,
                        interval: INTERVAL,
                    },
                ))
                .unwrap();
                expected["observed_at"] = (NOW_MS + 77).into();
                expected["sequence"] = (NOW_MS + number).into();
                assert_eq!(patched, expected);
                assert_eq!(bytes.len() - 6, template.len());
            }
        }
    }

    #[test]
    fn the_pool_is_not_one_reading_over_and_over() {
        let readings = Readings::make(1, NOW_MS, 0).unwrap();
        for kind in Kind::PHYSICAL {
            let all = (0..DEVICES as usize).flat_map(|device| (0..MOMENTS).map(move |number| (device, number)));
            let bytes = all.map(|(device, number)| readings.of(kind, device).of(number).json.clone());
            let different: std::collections::HashSet<_> = bytes.collect();
            assert!(
                different.len() as u64 > DEVICES * MOMENTS / 2,
                "{kind}: {}",
                different.len()
            );
        }
    }

    #[test]
    fn a_reading_without_room_for_the_digits_is_refused() {
        for json in [
            r#"{"observed_at":1781654400123,"sequence":7}"#,
            r#"{"observed_at":"now","sequence":1781654400123}"#,
            "{}",
        ] {
            assert!(Template::new(json.into()).is_err(), "{json}");
        }
    }

    #[test]
    fn a_flaw_is_what_it_is_called_and_changes_no_length() {
        let readings = Readings::make(1, NOW_MS, 0).unwrap();
        let template = readings.of(Kind::WEATHER, 0).of(0);
        let written = |flaw| {
            let mut bytes = Vec::new();
            template.append(&mut bytes, Digits::of(NOW_MS), NOW_MS, flaw);
            bytes
        };
        let [good, wrong, cut] = [None, Some(Flaw::WrongType), Some(Flaw::Cut)].map(written);
        assert_eq!((wrong.len(), cut.len()), (good.len(), good.len()));
        let wrong: Value = serde_json::from_slice(&wrong).unwrap();
        assert!(wrong["sequence"].is_string() && wrong["observed_at"].is_u64());
        assert!(serde_json::from_slice::<Value>(&cut).unwrap_err().is_eof());
    }

    #[test]
    fn padding_is_one_field_more() {
        let bytes = |padding| {
            let readings = Readings::make(1, NOW_MS, padding).unwrap();
            readings.of(Kind::ENERGY, 3).of(1).json.to_vec()
        };
        let [plain, padded] = [0, 500].map(|padding| serde_json::from_slice::<Value>(&bytes(padding)).unwrap());
        let mut expected = plain.clone();
        expected["padding"] = "x".repeat(500).into();
        assert_eq!(padded, expected);
    }

    #[test]
    fn a_stamp_lasts_a_millisecond() {
        let stamp = Stamp::new(5_999_999, NOW_MS);
        assert!(stamp.is_current(5_000_000) && !stamp.is_current(6_000_000));
        assert_eq!(stamp.digits.0, *b"1781654400123");
    }
}
