//! The fault plan of a scenario: which faults devices have, how often, and for how long. Read from `[[faults]]`, with a
//! usual duration where none is given, and with the gateway's clock limits, which decide what must be rejected. The
//! faults themselves are made in `payload` and in the parent module.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

/// What can go wrong with a device. Where the shape of a fault was seen is said at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The values stay as they were while clock and counter go on: a hung sensor board behind a live modem. Ordinary
    /// readings, so a gateway accepts them.
    Stuck,
    /// One value jumps: by an amount that could be, or to what a raw counter looks like that ran over (3276.7, 65535).
    Spike,
    /// One value creeps away from the truth: a fouled hygrometer, an ageing pyranometer. Night-time irradiance of −4 to
    /// −9 W/m² in the logs of SURFRAD and MIDC is one that never stopped.
    Drift,
    /// A number that means "no reading": speed 255 and flow 15300 of England's loops (28 and 109 times in an hour of
    /// MIDAS and TMU), −9999.9 of SURFRAD's missing UV sensor (all of 1440 minutes).
    Sentinel,
    /// The right value in another unit: °F, mph and inHg as Ecowitt stations post them (`tempf=93.2`), pascal for
    /// hectopascal as the airRohr does (`"BME280_pressure": "100613.25"`), Wh for kWh as Shelly's plugs count.
    UnitMixUp,
    /// A clock that starts anew without its battery, that wrapped, or that counts in seconds where milliseconds are due.
    DeadClock,
    /// A clock that is off: by the time zone, by summer time, by a drifting crystal. Tasmota's plugs say
    /// `"Time": "2023-05-19T20:52:56"`, local time without a zone: read as UTC it is hours ahead.
    ClockSkew,
    /// The same message twice: a retransmission whose first copy had arrived after all.
    Duplicate,
    /// Out of reach for a while, and then all of it at once, oldest first. Auckland's counters were silent for up to 45
    /// hours (205 Queen Street, 2024).
    LateBurst,
    /// The end of the payload is missing: a buffer too small, a modem that gave up.
    Truncated,
    /// Bad firmware: what it sends is not JSON, or JSON of another mind about the schema. The airRohr sends all its numbers
    /// as strings; the rest are the cases that other gateways let through (`"NaN"`, a field twice, a field unknown).
    Malformed,
    /// One message again and again, whatever it is answered, and nothing else: acknowledgements that are not understood.
    Resend,
}

/// One line of a [`FaultPlan`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    pub fault: Fault,
    /// The share of devices that can have it at all, 0 to 1; which ones follows from the seed.
    #[serde(default = "all", deserialize_with = "share")]
    pub devices: f64,
    /// The chance that it begins with a reading, 0 to 1.
    #[serde(deserialize_with = "share")]
    pub chance: f64,
    /// How long it lasts, in the city's time; left out, as long as such a thing [usually](Fault::usual_duration) does.
    /// Zero is one reading.
    #[serde(default, with = "duration", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Duration>,
}

/// The faults of a fleet; in TOML a list of tables, `[[faults]]`. Of the faults that change a reading, a device has one
/// at a time, the first of the list going first; `duplicate`, `late_burst` and `resend` come on top.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FaultPlan {
    pub rules: Vec<FaultRule>,
}

/// The gateway's `[clock]` section, as far as it decides what must be rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockLimits {
    pub max_ahead: Duration,
    /// None accepts any age.
    pub max_age: Option<Duration>,
}

// === impl Fault ===

impl Fault {
    pub const ALL: [Fault; 12] = [
        Fault::Stuck,
        Fault::Spike,
        Fault::Drift,
        Fault::Sentinel,
        Fault::UnitMixUp,
        Fault::DeadClock,
        Fault::ClockSkew,
        Fault::Duplicate,
        Fault::LateBurst,
        Fault::Truncated,
        Fault::Malformed,
        Fault::Resend,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fault::Stuck => "stuck",
            Fault::Spike => "spike",
            Fault::Drift => "drift",
            Fault::Sentinel => "sentinel",
            Fault::UnitMixUp => "unit_mix_up",
            Fault::DeadClock => "dead_clock",
            Fault::ClockSkew => "clock_skew",
            Fault::Duplicate => "duplicate",
            Fault::LateBurst => "late_burst",
            Fault::Truncated => "truncated",
            Fault::Malformed => "malformed",
            Fault::Resend => "resend",
        }
    }

    /// How long it lasts where a plan does not say.
    pub fn usual_duration(self) -> Duration {
        let minutes = match self {
            Fault::Spike | Fault::Duplicate | Fault::Truncated | Fault::Malformed => 0,
            Fault::Resend => 5,
            Fault::Stuck => 15,
            Fault::Sentinel => 20,
            Fault::UnitMixUp | Fault::DeadClock | Fault::ClockSkew | Fault::LateBurst => 60,
            Fault::Drift => 240,
        };
        Duration::from_secs(60 * minutes)
    }

    /// Whether it changes what is sent, not when or how often.
    pub(super) fn changes_payload(self) -> bool {
        !matches!(self, Fault::Duplicate | Fault::LateBurst | Fault::Resend)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

// === impl FaultRule ===

impl FaultRule {
    /// A rule for every device, as long as such a fault usually lasts.
    pub fn new(fault: Fault, chance: f64) -> FaultRule {
        FaultRule {
            fault,
            devices: 1.0,
            chance,
            lasts: None,
        }
    }

    pub(super) fn lasts_ms(&self) -> i64 {
        let lasts = self.lasts.unwrap_or(self.fault.usual_duration());
        i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX)
    }
}

// === impl ClockLimits ===

impl Default for ClockLimits {
    /// The gateway's own defaults.
    fn default() -> Self {
        ClockLimits {
            max_ahead: Duration::from_secs(5 * 60),
            max_age: Some(Duration::from_secs(30 * 24 * 3600)),
        }
    }
}

fn all() -> f64 {
    1.0
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(serde::de::Error::custom(format!("{share} is not a share from 0 to 1")))
    }
}

/// `"10m"`, or nothing.
mod duration {
    use std::time::Duration;

    use jiff::fmt::serde::unsigned_duration::friendly::compact::optional;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(lasts: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        optional::serialize(lasts, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        optional::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Scenario {
        #[serde(default)]
        faults: FaultPlan,
    }

    #[test]
    fn a_plan_is_a_list_of_tables() {
        let text = r#"
            [[faults]]
            fault = "stuck"
            devices = 0.05
            chance = 0.01
            lasts = "10m"
            [[faults]]
            fault = "unit_mix_up"
            chance = 1
        "#;
        let plan = toml::from_str::<Scenario>(text).unwrap().faults;
        let lasts = Some(Duration::from_secs(600));
        let stuck = FaultRule {
            fault: Fault::Stuck,
            devices: 0.05,
            chance: 0.01,
            lasts,
        };
        assert_eq!(plan.rules, [stuck, FaultRule::new(Fault::UnitMixUp, 1.0)]);
        assert!(toml::from_str::<Scenario>("").unwrap().faults.rules.is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        let check = |line: &str, expected: &str| {
            let text = format!("[[faults]]\nfault = \"drift\"\n{line}\n");
            let error = toml::from_str::<Scenario>(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{line}: {error}");
        };
        check("chance = 1.5", "1.5 is not a share from 0 to 1");
        check("chance = nan", "NaN is not a share from 0 to 1");
        check("chance = 0.5\ndevices = -1", "-1 is not a share from 0 to 1");
        check("chance = 0.5\nlast = \"1h\"", "unknown field `last`");
        check("chance = 0.5\nlasts = \"1 parsec\"", "parsec");
        check("", "missing field `chance`");
        check(
            "chance = 1\n[[faults]]\nfault = \"gremlins\"\nchance = 1",
            "unknown variant `gremlins`",
        );
    }

    #[test]
    fn names_are_those_of_the_plan() {
        for fault in Fault::ALL {
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.name());
        }
    }
}
