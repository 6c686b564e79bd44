//! A scenario: which devices, over what, what happens to them, and what must hold in the end.
//!
//! Scenarios are TOML files, the [`bundled`] ones and anybody's own. [`Scenario::parse`] reports all mistakes of a file at
//! once; [`roster`] makes the devices of it, a function of the seed and the city's time; [`runner`] runs it against a gateway;
//! [`expect`] checks the result against the file's `[expect]`.
//!
//! Two times: `start`, `duration`, `at`, `interval` and the faults' `lasts` are the city's time, which may run faster than
//! the clock (`speed`). How long devices are without power, and Kafka unavailable, is by the clock, because that is what a gateway
//! has to live with. Readings carry the city's time, and a gateway refuses what is ahead of its clock; so the city's time is
//! laid such that it ends with the run at the latest: the last Tuesday whose rush hour is over by then, say. It is at most a
//! week and the duration behind the clock, well within the gateway's `clock.max_age`. With `start = "now"` it ends exactly
//! with the run; at speed 1 that is the clock itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::devices::faults::{Fault, FaultPlan};
use crate::devices::traffic::Incident;
use crate::devices::weather::Front;
use crate::devices::{Kind, Kinds};
use crate::fleet::Transport;
use crate::uplinks::Protocol;

pub mod bundled;
pub mod expect;
mod parse;
mod read;
pub mod roster;
pub mod runner;

pub use parse::Mistakes;

/// How often a device may measure, by the clock; load is made by other means.
const CLOCK_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// A scenario file.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    pub name: String,
    /// In one sentence.
    pub shows: String,
    pub seed: u64,
    pub start: Start,
    /// City time.
    pub duration: Duration,
    /// City time per clock time.
    pub speed: u32,
    /// For a quick look: another duration and speed. What happens at a time happens at the same part of it.
    pub short: Option<(Duration, u32)>,
    /// `at_ms` counts from the start.
    pub fronts: Vec<Front>,
    /// `at_ms` counts from the start.
    pub incidents: Vec<Incident>,
    pub groups: Vec<Group>,
    pub power_losses: Vec<PowerLoss>,
    pub kafka_outages: Vec<KafkaOutage>,
    pub expect: Expect,
}

/// When the city's time begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// So that it ends with the run.
    Now,
    /// The last such day (0 is Monday; any, if None), at so many minutes after midnight, local standard time.
    At { weekday: Option<u8>, minute: u16 },
}

/// Devices that are alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub name: String,
    pub kind: Kind,
    pub count: usize,
    pub transport: Transport,
    /// City time.
    pub interval: Duration,
    pub faults: FaultPlan,
}

/// All devices of some groups are without power, or those of them in one district.
#[derive(Clone, Debug, PartialEq)]
pub struct PowerLoss {
    /// City time after the start.
    pub at: Duration,
    /// Indices of groups.
    pub groups: Vec<usize>,
    /// One of the city's; everywhere, if None.
    pub district: Option<&'static str>,
    /// By the clock.
    pub lasts: Duration,
    /// After that, one after another within so long, by the clock.
    pub back_within: Duration,
}

/// Kafka is unavailable; whoever runs the scenario makes it so.
#[derive(Clone, Debug, PartialEq)]
pub struct KafkaOutage {
    /// City time after the start.
    pub at: Duration,
    /// By the clock.
    pub lasts: Duration,
}

/// What must hold at the end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expect {
    /// At most so many readings that were acknowledged and are not in Kafka.
    pub lost: u64,
    /// At most so many readings behind a later one of their device.
    pub out_of_order: Option<u64>,
    pub duplicates_max: Option<u64>,
    /// Of all that were sent, at least this share; 0 to 1.
    pub acknowledged_min: Option<f64>,
    /// Of all that were answered, at least this share as their faults deserve; 0 to 1.
    pub as_expected_min: Option<f64>,
    /// Whether the dead letters must name the reasons that are due, as often as they are due.
    pub reasons_as_expected: bool,
    /// Of the readings with this fault that were answered, at least this share was rejected; 0 to 1.
    pub detected: BTreeMap<Fault, f64>,
    /// The longest 99th percentile of the time to a positive answer.
    pub p99: BTreeMap<Protocol, Duration>,
}

// === impl Scenario ===

impl Scenario {
    /// Reads a scenario file, whose devices are of these `kinds`; `file` is how mistakes name it.
    pub fn parse(file: &str, text: &str, kinds: &Kinds) -> Result<Scenario, Mistakes> {
        read::scenario(file, text, kinds)
    }

    /// The short form of it: where the file has none, one of so many seconds by the clock.
    #[must_use]
    pub fn shortened(self) -> Scenario {
        const CLOCK_SECONDS: f64 = 10.0;
        let (duration, speed) = self.short.unwrap_or_else(|| {
            let seconds = self.duration.as_secs_f64();
            (self.duration, (seconds / CLOCK_SECONDS).ceil().max(1.0) as u32)
        });
        let ratio = duration.as_secs_f64() / self.duration.as_secs_f64();
        let mut short = Scenario {
            duration,
            speed,
            ..self
        };
        let shrink_ms = |at_ms: &mut i64| *at_ms = (*at_ms as f64 * ratio) as i64;
        let shrink = |at: &mut Duration| *at = at.mul_f64(ratio);
        short.fronts.iter_mut().for_each(|front| shrink_ms(&mut front.at_ms));
        short
            .incidents
            .iter_mut()
            .for_each(|incident| shrink_ms(&mut incident.at_ms));
        short.power_losses.iter_mut().for_each(|loss| shrink(&mut loss.at));
        short.kafka_outages.iter_mut().for_each(|outage| shrink(&mut outage.at));
        short
    }

    /// Fails if a device would have to measure more often than it can, at this speed and by the clock.
    pub fn check_speed(&self) -> anyhow::Result<()> {
        for group in &self.groups {
            let (interval, speed) = (self.clock(group.interval), self.speed);
            anyhow::ensure!(
                interval >= CLOCK_INTERVAL_MIN,
                "at speed {speed} the devices of {:?} would measure every {interval:?} by the clock: at least {CLOCK_INTERVAL_MIN:?}",
                group.name
            );
        }
        Ok(())
    }

    /// By the clock.
    pub fn length(&self) -> Duration {
        self.clock(self.duration)
    }

    /// City time by the clock.
    pub fn clock(&self, city: Duration) -> Duration {
        city / self.speed.max(1)
    }

    pub fn devices(&self) -> usize {
        self.groups.iter().map(|group| group.count).sum()
    }

    /// Those that its devices are of.
    pub fn kinds(&self) -> Vec<Kind> {
        let kinds: BTreeSet<Kind> = self.groups.iter().map(|group| group.kind).collect();
        kinds.into_iter().collect()
    }

    /// Whether anybody speaks it.
    pub fn speaks(&self, protocol: Protocol) -> bool {
        self.groups.iter().any(|group| group.transport.protocol() == protocol)
    }
}

#[cfg(test)]
mod tests;
