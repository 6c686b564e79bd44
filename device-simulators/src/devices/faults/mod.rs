//! Devices that go wrong, and what a gateway must make of them.
//!
//! A [`Faulty`] is a device with a [`FaultPlan`]. Each time it is asked to measure it says what it would send: nothing,
//! one message, or many, each with the [`Labels`] of the faults in it and the answer that a correct gateway gives
//! ([`Expected`]). So the detection of faults can be graded, and the rejections of a gateway checked one by one. Like the
//! readings, the faults are a function of the seed: the same questions in the same order have the same answers.
//!
//! What is expected follows from the rules that the gateway documents, not from how it behaves: strict JSON, the schema,
//! its `minimum`, `maximum` and `sentinels`, and the `[clock]` limits. It holds for messages of one reading each; a
//! message that is not JSON makes a whole JSON array unreadable.
//!
//! Time is the city's ([`Moment`]); only how far a clock is off is measured against the gateway's limits.

mod fields;
mod payload;
mod plan;
pub(in crate::devices) mod text;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::noise::{Noise, mixed};
use super::{Device, Moment};
pub(in crate::devices) use fields::{Faultable, Field, field};
use payload::Altered;
pub(in crate::devices) use payload::FirmwareBug;
pub use plan::{ClockLimits, Fault, FaultPlan, FaultRule};

/// What a device keeps while it is out of reach, readings; the oldest go first. Two hours at one a second.
const UNSENT_READINGS_MAX: usize = 7200;

/// So close to a limit of the clock, the way to the gateway decides.
const CLOCK_MARGIN_MS: i64 = 60_000;

/// 2000-01-01T00:00:00Z: nothing was observed before, whatever the limits are.
const EARLIEST_MS: i64 = 946_684_800_000;

/// A set of faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(u16);

/// Why a gateway must reject a reading; the labels are those of its metrics and dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    Malformed,
    SchemaMismatch,
    OutOfRange,
    BadClock,
}

/// What a correct gateway answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Accepted: the fault, if any, is one that only statistics can find. Sentinels are stored as null.
    Accepted,
    /// Rejected for this reason; None where there are several, and any of them will do.
    Rejected(Option<Reason>),
    /// So close to a limit that both are right.
    Either,
}

/// A message that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emission {
    pub payload: Vec<u8>,
    /// The device's own number of the reading, also where the payload no longer says it.
    pub sequence: u64,
    pub labels: Labels,
    pub expected: Expected,
}

/// A device with its faults.
#[derive(Clone, Debug)]
pub struct Faulty {
    device: Device,
    noise: Noise,
    /// Those that can strike this device.
    rules: Vec<FaultRule>,
    limits: ClockLimits,
    /// The one that changes readings now.
    active: Option<ActiveFault>,
    /// Out of reach until then.
    offline_until_ms: Option<i64>,
    unsent: VecDeque<Measured>,
    /// Sent again and again until then.
    resending: Option<(i64, Message)>,
}

/// A fault that lasts.
#[derive(Clone, Debug)]
struct ActiveFault {
    fault: Fault,
    from_ms: i64,
    until_ms: i64,
    /// All further chance in it.
    random: u64,
    /// The reading whose values stay.
    frozen: Option<Arc<[u8]>>,
}

/// A reading that can be made whenever it is needed.
#[derive(Clone, Debug)]
struct Measured {
    sequence: u64,
    moment: Moment,
    active: Option<ActiveFault>,
}

/// An emission before its answer is known, which depends on when it is sent.
#[derive(Clone, Debug)]
struct Message {
    altered: Altered,
    sequence: u64,
    labels: Labels,
}

// === impl Labels ===

impl Labels {
    #[must_use]
    pub fn with(self, fault: Fault) -> Labels {
        Labels(self.0 | 1 << fault as u16)
    }

    pub fn contains(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u16) != 0
    }

    /// An ordinary reading.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.into_iter().filter(move |fault| self.contains(*fault))
    }
}

impl fmt::Display for Labels {
    /// `stuck+duplicate`, or nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { "+" };
            write!(f, "{separator}{}", fault.name())?;
        }
        Ok(())
    }
}

// === impl Reason ===

impl Reason {
    pub fn label(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::SchemaMismatch => "schema_mismatch",
            Reason::OutOfRange => "out_of_range",
            Reason::BadClock => "bad_clock",
        }
    }
}

// === impl Expected ===

impl Expected {
    /// `reason`: why the reading itself must be rejected; the clock comes on top.
    fn of(reason: Option<Reason>, observed_ms: i64, now_ms: i64, limits: &ClockLimits) -> Expected {
        let millis = |limit: std::time::Duration| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let ahead_ms = observed_ms.saturating_sub(now_ms);
        let beyond_ahead = ahead_ms.saturating_sub(millis(limits.max_ahead));
        let beyond_age = limits.max_age.map_or(i64::MIN, |max_age| {
            ahead_ms.saturating_neg().saturating_sub(millis(max_age))
        });
        let beyond_earliest = EARLIEST_MS.saturating_sub(observed_ms);
        let beyond = beyond_ahead.max(beyond_age).max(beyond_earliest);
        match reason {
            // Not being JSON goes before all else.
            Some(Reason::Malformed) => Expected::Rejected(Some(Reason::Malformed)),
            // Which of the two is met first depends on the order of the text.
            Some(_) if beyond > -CLOCK_MARGIN_MS => Expected::Rejected(None),
            Some(reason) => Expected::Rejected(Some(reason)),
            None if beyond > CLOCK_MARGIN_MS => Expected::Rejected(Some(Reason::BadClock)),
            None if beyond > -CLOCK_MARGIN_MS => Expected::Either,
            None => Expected::Accepted,
        }
    }

    /// Whether an answer is right: None for accepted, or the reason why it was rejected.
    pub fn allows(self, answer: Option<Reason>) -> bool {
        match (self, answer) {
            (Expected::Accepted, answer) => answer.is_none(),
            (Expected::Rejected(None), answer) => answer.is_some(),
            (Expected::Rejected(reason), answer) => answer == reason,
            (Expected::Either, answer) => matches!(answer, None | Some(Reason::BadClock)),
        }
    }
}

// === impl Faulty ===

impl Faulty {
    /// A device under a plan; which of its rules can strike this device follows from `seed` and the device's name.
    pub fn new(seed: u64, device: Device, plan: &FaultPlan, limits: ClockLimits) -> Faulty {
        let noise = Noise::new(seed, "faults", name_hash(device.name()));
        let strikes = |(index, rule): (usize, &FaultRule)| {
            let share = noise.unit("struck", index as i64);
            (share < rule.devices).then(|| rule.clone())
        };
        let rules = plan.rules.iter().enumerate().filter_map(strikes).collect();
        Faulty {
            device,
            noise,
            rules,
            limits,
            active: None,
            offline_until_ms: None,
            unsent: VecDeque::new(),
            resending: None,
        }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What the device sends at `moment`, in the order in which it sends it. `now_ms` is the gateway's clock, in
    /// milliseconds since 1970; at the speed of real time it is the moment itself.
    ///
    /// Ask with rising moments and sequences. A sequence that never comes back was measured by a device that
    /// [resends](Fault::Resend) something else, or was dropped by one that was out of reach for too long.
    pub fn measure(&mut self, sequence: u64, moment: Moment, now_ms: i64) -> Vec<Emission> {
        if let Some(repeated) = self.repeated(moment) {
            return vec![self.emission(repeated, now_ms)];
        }
        let measured = Measured {
            sequence,
            moment,
            active: self.active_fault_at(sequence, moment),
        };
        if self.is_offline(sequence, moment) {
            if self.unsent.len() >= UNSENT_READINGS_MAX {
                self.unsent.pop_front();
            }
            self.unsent.push_back(measured);
            return Vec::new();
        }
        let mut messages: Vec<Message> = Vec::with_capacity(1);
        for late in std::mem::take(&mut self.unsent) {
            let mut message = self.message(&late);
            message.labels = message.labels.with(Fault::LateBurst);
            messages.push(message);
        }
        messages.push(self.message(&measured));
        self.repeat(sequence, moment, &mut messages);
        messages
            .into_iter()
            .map(|message| self.emission(message, now_ms))
            .collect()
    }

    /// Whether something is repeated instead of measured.
    fn repeated(&mut self, moment: Moment) -> Option<Message> {
        let (until_ms, message) = self.resending.as_ref()?;
        if moment.observed_at_ms > *until_ms {
            self.resending = None;
            return None;
        }
        Some(message.clone())
    }

    /// The fault that changes this reading, if any: the one that goes on, or one that begins.
    fn active_fault_at(&mut self, sequence: u64, moment: Moment) -> Option<ActiveFault> {
        let now = moment.observed_at_ms;
        if self.active.as_ref().is_none_or(|active| now > active.until_ms) {
            self.active = self.begins(sequence, Fault::changes_payload).map(|rule| ActiveFault {
                fault: rule.fault,
                from_ms: now,
                until_ms: now.saturating_add(rule.lasts_ms()),
                random: mixed((self.noise.unit("dice", sequence as i64) * 9.0e15) as u64),
                frozen: (rule.fault == Fault::Stuck).then(|| self.device.reading(sequence, moment).into()),
            });
        }
        self.active.clone()
    }

    fn is_offline(&mut self, sequence: u64, moment: Moment) -> bool {
        let now = moment.observed_at_ms;
        if self.offline_until_ms.is_none() {
            let rule = self.begins(sequence, |fault| fault == Fault::LateBurst);
            self.offline_until_ms = rule.map(|rule| now.saturating_add(rule.lasts_ms()));
        }
        match self.offline_until_ms {
            Some(until_ms) if now < until_ms => true,
            Some(_) => {
                self.offline_until_ms = None;
                false
            }
            None => false,
        }
    }

    /// Adds a second copy of the last message, or begins to repeat it.
    fn repeat(&mut self, sequence: u64, moment: Moment, messages: &mut Vec<Message>) {
        let Some(last) = messages.last() else { return };
        if self.begins(sequence, |fault| fault == Fault::Duplicate).is_some() {
            let labels = last.labels.with(Fault::Duplicate);
            messages.push(Message { labels, ..last.clone() });
        } else if let Some(rule) = self.begins(sequence, |fault| fault == Fault::Resend) {
            let until_ms = moment.observed_at_ms.saturating_add(rule.lasts_ms());
            let labels = last.labels.with(Fault::Resend);
            self.resending = Some((until_ms, Message { labels, ..last.clone() }));
        }
    }

    /// The first rule of a sort that strikes with this reading.
    fn begins(&self, sequence: u64, is_sort: impl Fn(Fault) -> bool) -> Option<&FaultRule> {
        let strikes = |rule: &&FaultRule| self.noise.unit(rule.fault.name(), sequence as i64) < rule.chance;
        self.rules.iter().filter(|rule| is_sort(rule.fault)).find(strikes)
    }

    fn message(&self, measured: &Measured) -> Message {
        let Measured {
            sequence,
            moment,
            active,
        } = measured;
        let reading = self.device.reading(*sequence, *moment);
        let active = active.as_ref().filter(|active| {
            // What stays as it is is the truth, the first time.
            active.fault != Fault::Stuck || active.from_ms != moment.observed_at_ms
        });
        let altered = active.and_then(|active| {
            let altered = payload::altered(&self.device, &reading, moment.observed_at_ms, active)?;
            Some((altered, Labels::default().with(active.fault)))
        });
        let (altered, labels) = altered.unwrap_or_else(|| {
            let untouched = Altered {
                payload: reading,
                reason: None,
                observed_ms: moment.observed_at_ms,
            };
            (untouched, Labels::default())
        });
        Message {
            altered,
            sequence: *sequence,
            labels,
        }
    }

    fn emission(&self, message: Message, now_ms: i64) -> Emission {
        let Altered {
            payload,
            reason,
            observed_ms,
        } = message.altered;
        Emission {
            payload,
            sequence: message.sequence,
            labels: message.labels,
            expected: Expected::of(reason, observed_ms, now_ms, &self.limits),
        }
    }
}

/// FNV-1a.
fn name_hash(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests;
