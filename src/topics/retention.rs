//! How long a topic keeps its records: `"7d"`, `"36h"`, or `"unlimited"`.
//!
//! A day has 24 hours here, as Kafka counts milliseconds. Months and years have no such length and are refused.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const DAY: u64 = 24 * 3600;

/// How long records are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    Unlimited,
    For(Duration),
}

impl Retention {
    /// Kafka's `retention.ms`; -1 is unlimited.
    pub fn ms(self) -> i64 {
        match self {
            Retention::Unlimited => -1,
            Retention::For(time) => i64::try_from(time.as_millis()).unwrap_or(i64::MAX),
        }
    }
}

impl FromStr for Retention {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unlimited" {
            return Ok(Retention::Unlimited);
        }
        let wrong = || format!("{text:?} is not a time; write one such as \"7d\" or \"36h\", or \"unlimited\"");
        let span: Span = text.parse().map_err(|_| wrong())?;
        let time = span.to_duration(SpanRelativeTo::days_are_24_hours());
        let time = time.ok().filter(SignedDuration::is_positive).ok_or_else(wrong)?;
        Ok(Retention::For(time.unsigned_abs()))
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Retention::Unlimited => f.write_str("unlimited"),
            Retention::For(time) if time.subsec_nanos() == 0 && time.as_secs() % DAY == 0 => {
                write!(f, "{}d", time.as_secs() / DAY)
            }
            Retention::For(time) => write!(
                f,
                "{:#}",
                SignedDuration::try_from(*time).unwrap_or(SignedDuration::MAX)
            ),
        }
    }
}

impl<'de> Deserialize<'de> for Retention {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Retention {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_hours_and_for_ever_are_understood_and_nothing_else() {
        let check = |text: &str, expected: Option<(i64, &str)>| {
            let read = text.parse::<Retention>().ok().map(|read| (read.ms(), read.to_string()));
            let read = read.as_ref().map(|(ms, words)| (*ms, words.as_str()));
            assert_eq!(read, expected, "{text}");
        };
        check("7d", Some((604_800_000, "7d")));
        check("168h", Some((604_800_000, "7d")));
        check("2w", Some((1_209_600_000, "14d")));
        check("36h", Some((129_600_000, "36h")));
        check("90 min", Some((5_400_000, "1h 30m")));
        check("unlimited", Some((-1, "unlimited")));
        for wrong in ["", "7", "1mo", "1y", "-7d", "0d", "soon"] {
            check(wrong, None);
        }
    }
}
