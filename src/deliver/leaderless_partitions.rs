//! Partitions without a leader: what is meant for them waits, everything else flows.
//!
//! The probe looks for them whenever Kafka names its partitions. They are said in the log, in `/readyz`, in `/status` and in
//! a metric, until each has a leader. Which records are for them, and what is done with those, `dispatch` knows.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use prometheus::IntGauge;
use tracing::{info, warn};

use crate::operate::log_limit::LogLimit;

/// A partition that has no leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaderless {
    pub topic: String,
    pub partition: usize,
    /// How many the topic has.
    pub partitions: usize,
}

/// A broker that is lost may be the only one of hundreds; so many are named.
const NAMES_MAX: usize = 10;

/// The partitions that have none now.
#[derive(Debug)]
pub struct LeaderlessPartitions {
    is_any: AtomicBool,
    /// Changes whenever they do.
    version: AtomicU64,
    known: Mutex<Known>,
    gauge: IntGauge,
}

#[derive(Debug, Default)]
struct Known {
    partitions: Vec<Leaderless>,
    /// What the log was told last.
    said: String,
    logged: LogLimit<Instant>,
}

impl fmt::Display for Leaderless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// As `topic/partition`, and how many others.
pub fn names(partitions: &[Leaderless]) -> String {
    let names: Vec<_> = partitions.iter().take(NAMES_MAX).map(Leaderless::to_string).collect();
    match partitions.len() - names.len() {
        0 => names.join(", "),
        others => format!("{} and {others} others", names.join(", ")),
    }
}

// === impl LeaderlessPartitions ===

impl LeaderlessPartitions {
    pub fn new(gauge: IntGauge) -> Self {
        LeaderlessPartitions {
            is_any: AtomicBool::new(false),
            version: AtomicU64::new(0),
            known: Mutex::default(),
            gauge,
        }
    }

    pub fn is_empty(&self) -> bool {
        !self.is_any.load(Ordering::Acquire)
    }

    pub fn all(&self) -> Vec<Leaderless> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.partitions.clone()
    }

    /// A number that changes whenever they do.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Kafka has been asked: these have none.
    pub fn found(&self, partitions: Vec<Leaderless>) {
        self.is_any.store(!partitions.is_empty(), Ordering::Release);
        self.gauge.set(partitions.len() as i64);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.partitions != partitions {
            known.partitions = partitions;
            self.version.fetch_add(1, Ordering::Release);
        }
        known.say(Instant::now());
    }
}

// === impl Known ===

impl Known {
    /// Logs which they are, unless the log says so; each once a minute, and if that is too soon, later. Whether it did.
    fn say(&mut self, now: Instant) -> bool {
        let names = names(&self.partitions);
        if self.said == names || !self.logged.allows(now, &names) {
            return false;
        }
        if names.is_empty() {
            info!("all kafka partitions have leaders again");
        } else {
            warn!(
                partitions = names,
                "kafka names no leader for some partitions; until they have one their readings are spooled (without a \
                 spool: answered busy), and those of others are not concerned"
            );
        }
        self.said = names;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn partitions_that_lose_their_leaders_again_and_again_are_said_once_a_minute() {
        let mut known = Known::default();
        let start = Instant::now();
        let mut check = |seconds, partitions: &[usize], expected| {
            let leaderless = |partition: &usize| Leaderless {
                topic: "city.a".into(),
                partition: *partition,
                partitions: 3,
            };
            known.partitions = partitions.iter().map(leaderless).collect();
            let said = known.say(start + Duration::from_secs(seconds));
            assert_eq!(said, expected, "{seconds} s");
        };
        check(0, &[], false);
        check(1, &[1], true);
        check(4, &[1], false);
        check(7, &[1, 2], true);
        check(10, &[], true);
        check(13, &[1], false);
        check(16, &[], false);
        check(62, &[1], true);
    }
}
