//! What devices observed before, during and after damage to the gateway or its Kafka.
//!
//! A run that damages nothing stays in the first phase. Each phase has counts per protocol: readings sent, answers by
//! kind, and the time from the first sending of a reading to its positive answer. A reading belongs to the phase in which
//! it was first sent; one that was still unanswered when the damage began belongs to the damage.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::counters::{Percentiles, histogram, lock};
use crate::uplinks::{Answer, Protocol};

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Phase {
    /// The devices connect one after the other.
    Start,
    /// Nothing has happened yet.
    Before,
    /// From the first act of damage to the end of the last repair.
    Damage,
    /// All is repaired, and what was put aside is on its way to Kafka.
    Replay,
    /// Kafka holds everything that was acknowledged.
    After,
}

/// The counts of all phases, and which phase it is.
#[derive(Debug)]
pub struct Phases {
    now: AtomicU8,
    counts: [[Mutex<Counts>; 3]; 5],
}

#[derive(Debug)]
struct Counts {
    answers: Answers,
    /// Microseconds.
    latency: Histogram<u64>,
}

/// Readings sent, and answers to them. A reading that is answered *busy* and then accepted has two answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Answers {
    pub sent: u64,
    pub positive: u64,
    pub rejected: u64,
    pub busy: u64,
    pub unanswered: u64,
}

/// A phase as one protocol's devices observed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PhaseSummary {
    #[serde(flatten)]
    pub answers: Answers,
    #[serde(flatten)]
    pub latency: Percentiles,
}

// === impl Phase ===

impl Phase {
    pub const ALL: [Phase; 5] = [Phase::Start, Phase::Before, Phase::Damage, Phase::Replay, Phase::After];

    pub fn name(self) -> &'static str {
        match self {
            Phase::Start => "start",
            Phase::Before => "before",
            Phase::Damage => "damage",
            Phase::Replay => "replay",
            Phase::After => "after",
        }
    }

    /// The phase that a reading belongs to.
    fn of_reading(sent: Phase, answered: Phase) -> Phase {
        if sent < Phase::Damage && answered >= Phase::Damage {
            Phase::Damage
        } else {
            sent
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

// === impl Phases ===

impl Phases {
    pub fn new() -> Phases {
        let counts = || {
            Mutex::new(Counts {
                answers: Answers::default(),
                latency: histogram(),
            })
        };
        Phases {
            now: AtomicU8::new(Phase::Start as u8),
            counts: std::array::from_fn(|_| std::array::from_fn(|_| counts())),
        }
    }

    pub fn now(&self) -> Phase {
        let now = usize::from(self.now.load(Ordering::Relaxed));
        Phase::ALL.get(now).copied().unwrap_or(Phase::After)
    }

    pub fn enter(&self, phase: Phase) {
        self.now.store(phase as u8, Ordering::Relaxed);
    }

    /// Readings are sent for the first time; the phase they are sent in.
    pub fn sent(&self, protocol: Protocol, readings: u64) -> Phase {
        let now = self.now();
        lock(self.counts(now, protocol)).answers.sent += readings;
        now
    }

    /// A reading first sent in the phase `sent_in`, `elapsed` ago, is answered.
    pub fn answered(&self, protocol: Protocol, sent_in: Phase, answer: &Answer, elapsed: Duration) {
        let phase = Phase::of_reading(sent_in, self.now());
        let mut counts = lock(self.counts(phase, protocol));
        match answer {
            Answer::Acknowledged => {
                counts.answers.positive += 1;
                counts.latency.saturating_record(elapsed.as_micros() as u64);
            }
            Answer::Rejected { .. } => counts.answers.rejected += 1,
            Answer::Busy { .. } => counts.answers.busy += 1,
            Answer::Unanswered { .. } => counts.answers.unanswered += 1,
        }
    }

    pub fn summary(&self, phase: Phase, protocol: Protocol) -> PhaseSummary {
        let counts = lock(self.counts(phase, protocol));
        PhaseSummary {
            answers: counts.answers,
            latency: Percentiles::of(&counts.latency),
        }
    }

    fn counts(&self, phase: Phase, protocol: Protocol) -> &Mutex<Counts> {
        // As many places as the enums have members.
        &self.counts[phase as usize][protocol.index()]
    }
}

impl Default for Phases {
    fn default() -> Self {
        Phases::new()
    }
}

// === impl Answers ===

impl Answers {
    /// Answers that a device notices: everything but yes.
    pub fn negative(&self) -> u64 {
        self.rejected + self.busy + self.unanswered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_belongs_to_the_phase_it_was_sent_in_unless_the_damage_overtook_it() {
        use Phase::{After, Before, Damage, Replay, Start};
        let check = |sent, answered, expected| {
            assert_eq!(Phase::of_reading(sent, answered), expected, "{sent} to {answered}");
        };
        check(Start, Start, Start);
        check(Start, Before, Start);
        check(Start, Damage, Damage);
        check(Before, Before, Before);
        check(Before, Damage, Damage);
        check(Before, After, Damage);
        check(Damage, Damage, Damage);
        check(Damage, After, Damage);
        check(Replay, After, Replay);
        check(After, After, After);
    }

    #[test]
    fn every_phase_and_protocol_has_counts_of_its_own() {
        let phases = Phases::new();
        phases.enter(Phase::Before);
        let second = Duration::from_secs(1);
        let early = phases.sent(Protocol::Mqtt, 1);
        phases.enter(Phase::Damage);
        phases.answered(Protocol::Mqtt, early, &Answer::Acknowledged, second);
        let late = phases.sent(Protocol::Mqtt, 2);
        let busy = Answer::Busy {
            code: "0x97".to_owned(),
            retry_after: None,
        };
        phases.answered(Protocol::Mqtt, late, &busy, second);
        phases.enter(Phase::After);
        phases.sent(Protocol::Coap, 1);
        phases.answered(Protocol::Coap, Phase::After, &Answer::Acknowledged, second / 1000);

        let summary = |phase, protocol| phases.summary(phase, protocol);
        assert_eq!(summary(Phase::Before, Protocol::Mqtt).answers.sent, 1);
        assert_eq!(summary(Phase::Before, Protocol::Mqtt).latency, Percentiles::default());
        let damage = summary(Phase::Damage, Protocol::Mqtt);
        let expected = Answers {
            sent: 2,
            positive: 1,
            busy: 1,
            ..Answers::default()
        };
        assert_eq!((damage.answers, damage.answers.negative()), (expected, 1));
        assert!((damage.latency.p99_ms.unwrap() / 1000.0 - 1.0).abs() < 0.02);
        let after = summary(Phase::After, Protocol::Coap);
        assert!((after.latency.p50_ms.unwrap() - 1.0).abs() < 0.02);
        assert_eq!(summary(Phase::After, Protocol::Mqtt).answers, Answers::default());
    }
}
