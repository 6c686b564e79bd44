//! How far ahead of the gateway's clock, or behind it, a device's may be.
//!
//! A reading's own time orders and windows it downstream, so a device whose clock is off does damage that nobody sees. It
//! is told instead. The rule applies to the fields that a schema marks with `"clock": "observed"`.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::friendly::SpanPrinter;
use serde::{Deserialize, Serialize};

use super::program::Fault;

/// The `[clock]` section: when `observed_at` is taken to be wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How far `observed_at` may be ahead of the gateway's clock.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub max_ahead: Duration,
    /// How old a reading may be when it arrives; `"unlimited"` takes readings of any age, for archives that are played
    /// back. Devices that buffer through an outage of their network need as much as that may last.
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
        if observed_ms.saturating_sub(received_ms) > self.ahead_ms {
            Err(Fault::TooFarAhead)
        } else if received_ms.saturating_sub(observed_ms) > self.age_ms {
            Err(Fault::TooOld)
        } else {
            Ok(())
        }
    }

    /// `1430296680000 (2015-04-29T08:38:00Z) is more than 720h older than the gateway's clock (2026-…Z)`.
    pub fn text(&self, fault: Fault, observed_ms: i64, received_ms: i64) -> String {
        let (limit_ms, side) = match fault {
            Fault::TooFarAhead => (self.ahead_ms, "ahead of"),
            _ => (self.age_ms, "behind"),
        };
        let limit = compact(Duration::from_millis(limit_ms.unsigned_abs()));
        let observed = readable(observed_ms);
        let received = readable(received_ms);
        format!("{observed_ms} ({observed}) is more than {limit} {side} the gateway's clock ({received})")
    }
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
