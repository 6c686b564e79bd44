//! How far ahead of the gateway's clock, or behind it, a device's may be.
//!
//! A reading's own time orders and windows it downstream, so a device whose clock is off does damage that nobody sees. It
//! is told instead. The rule applies to the fields that a schema marks with `"clock": "observed"`. Whatever the limits
//! are, nothing was observed before 2000: such a time comes from a clock that was never set, or is in another unit.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::friendly::SpanPrinter;
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::got::Got;
use super::literal;
use super::time::{self, Unit};

/// 2000-01-01T00:00:00Z, in milliseconds since 1970.
const EARLIEST_MS: i64 = 946_684_800_000;
/// 9999-12-31T23:59:59.999Z: the last time that readers can show.
const LATEST_MS: i64 = time::LAST_S * 1000 + 999;

/// The `[clock]` section: when `observed_at` is taken to be wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How far `observed_at` may be ahead of the gateway's clock.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub max_ahead: Duration,
    /// How old a reading may be when it arrives; `"unlimited"` accepts readings of any age since 2000, for archives that are
    /// played back. Devices that buffer through an outage of their network need as much as that may last.
    #[serde(with = "age")]
    pub max_age: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            max_ahead: Duration::from_secs(5 * 60),
            max_age: Some(Duration::from_secs(30 * 24 * 60 * 60)),
        }
    }
}

const YEAR_MS: f64 = 366.0 * 24.0 * 3600.0 * 1000.0;

/// The same in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    ahead_ms: i64,
    age_ms: i64,
}

// === impl Limits ===

impl Limits {
    pub const UNLIMITED: Limits = Limits {
        ahead_ms: i64::MAX,
        age_ms: i64::MAX,
    };

    pub fn new(config: &Config) -> Self {
        Limits {
            ahead_ms: millis(config.max_ahead),
            age_ms: config.max_age.map_or(i64::MAX, millis),
        }
    }

    /// Whether a reading observed at one time can be received at the other; both in milliseconds since 1970.
    #[inline]
    pub fn judge(&self, observed_ms: i64, received_ms: i64) -> Result<(), Fault> {
        if observed_ms < EARLIEST_MS {
            Err(Fault::TooEarly)
        } else if observed_ms > LATEST_MS || observed_ms.saturating_sub(received_ms) > self.ahead_ms {
            Err(Fault::TooFarAhead)
        } else if received_ms.saturating_sub(observed_ms) > self.age_ms {
            Err(Fault::TooOld)
        } else {
            Ok(())
        }
    }

    /// `1430296680000 (2015-04-29T08:38:00Z) is more than 720h behind the gateway's clock (2026-…Z)`.
    ///
    /// `sent_ms` is the time that was sent, if it can be stored; `hint` says what may be meant instead.
    pub fn text(&self, fault: Fault, got: Got<'_>, sent_ms: Option<i64>, hint: &str, received_ms: i64) -> String {
        let shown = sent_ms.map_or_else(|| "no date".to_owned(), readable);
        // How late it is at least, if it cannot be stored.
        let at_least = sent_ms.unwrap_or(match got {
            Got::Text(_) => LATEST_MS + 1,
            _ => i64::MAX,
        });
        let (limit_ms, side) = match fault {
            Fault::TooEarly => {
                let earliest = readable(EARLIEST_MS);
                return format!("{got} ({shown}) is before {earliest}{hint}");
            }
            Fault::TooFarAhead if at_least.saturating_sub(received_ms) <= self.ahead_ms => {
                return format!("{got} ({shown}) is after the year 9999{hint}");
            }
            Fault::TooFarAhead => (self.ahead_ms, "ahead of"),
            _ => (self.age_ms, "behind"),
        };
        let limit = compact(Duration::from_millis(limit_ms.unsigned_abs()));
        let received = readable(received_ms);
        format!("{got} ({shown}) is more than {limit} {side} the gateway's clock ({received}){hint}")
    }
}

/// The time that was sent; `None` if it is beyond all that can be stored.
pub fn observed_ms(got: Got<'_>) -> Option<i64> {
    match got {
        Got::Number(literal) => literal::whole(literal).ok(),
        Got::Text(text) => time::parse(text.as_bytes(), Unit::Millis).ok(),
        _ => None,
    }
}

/// Asks whether a number counts something else than milliseconds, where it would then be about now.
pub fn hint(got: Got<'_>, received_ms: i64) -> String {
    let Got::Number(literal) = got else {
        return String::new();
    };
    let sent: f64 = literal.parse().unwrap_or_default();
    let units = [("seconds", 1e3), ("microseconds", 1e-3), ("nanoseconds", 1e-6)];
    let plausible = EARLIEST_MS as f64..received_ms as f64 + YEAR_MS;
    let unit = units.iter().find(|(_, scale)| plausible.contains(&(sent * scale)));
    unit.map_or_else(String::new, |(unit, _)| {
        format!("; {unit}? It must be milliseconds since 1970")
    })
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn compact(duration: Duration) -> String {
    SpanPrinter::new().unsigned_duration_to_string(&duration)
}

fn readable(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => time.to_string(),
        Err(_) => "no date".to_owned(),
    }
}

/// A duration, or `unlimited`.
mod age {
    use std::time::Duration;

    use jiff::fmt::friendly::SpanParser;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    const UNLIMITED: &str = "unlimited";

    pub fn serialize<S: Serializer>(age: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match age {
            Some(age) => serializer.serialize_str(&super::compact(*age)),
            None => serializer.serialize_str(UNLIMITED),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == UNLIMITED {
            return Ok(None);
        }
        let age = SpanParser::new().parse_unsigned_duration(&text);
        age.map(Some)
            .map_err(|error| D::Error::custom(format!("{error}; give a duration such as \"720h\", or \"{UNLIMITED}\"")))
    }
}
