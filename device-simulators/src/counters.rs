//! What a fleet did so far, readable while it runs.
//!
//! Atomics per protocol and kind, a latency histogram per protocol, and the first things that went wrong in words. The
//! balance of the fleet, once it has stopped: `sent = acknowledged + rejected + busy + unanswered`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::devices::Kind;
use crate::grades::Grades;
use crate::phases::Phases;
use crate::uplinks::{Answer, Protocol};

/// Longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(600);

/// How many different problems are kept; further ones are counted together.
const PROBLEMS_MAX: usize = 20;

/// Live counters of a fleet.
#[derive(Debug)]
pub struct Counters {
    tallies: BTreeMap<(Protocol, Kind), AtomicTally>,
    /// Microseconds from the first sending of a reading to its positive answer, by protocol.
    latencies: [Mutex<Histogram<u64>>; 3],
    problems: Mutex<BTreeMap<String, u64>>,
    /// CoAP requests that were repeated for want of an answer; to a gateway that restarted meanwhile they are new.
    retransmissions: AtomicU64,
    /// Answers of any sort; as long as they come, the gateway is up.
    answers: AtomicU64,
    /// The same again by what was going on at the time, of devices that have power all the time.
    pub phases: Phases,
    /// Of those that lose it at times.
    pub powerless: Phases,
    /// Microseconds from when a device had power again to its first positive answer.
    returns: Mutex<Histogram<u64>>,
    /// The same again by what was wrong with them.
    pub grades: Grades,
}

#[derive(Debug, Default)]
struct AtomicTally {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    rejected: AtomicU64,
    busy: AtomicU64,
    unanswered: AtomicU64,
    sent_again: AtomicU64,
}

/// Readings by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Readings handed to an uplink for the first time.
    pub sent: u64,
    pub acknowledged: u64,
    pub rejected: u64,
    /// Given up after a last *busy*.
    pub busy: u64,
    /// Given up after a last silence.
    pub unanswered: u64,
    /// Readings handed to an uplink once more, after *busy* or silence.
    pub sent_again: u64,
}

/// The counters at one moment, by protocol and kind.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    tallies: BTreeMap<(Protocol, Kind), Tally>,
}

/// Latency percentiles in milliseconds; `None` without a positive answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

/// Something that was not a positive answer, and how often it was answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub what: String,
    pub times: u64,
}

/// How a reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Acknowledged,
    Rejected,
    Busy,
    Unanswered,
}

// === impl End ===

impl End {
    pub fn name(self) -> &'static str {
        match self {
            End::Acknowledged => "acknowledged",
            End::Rejected => "rejected",
            End::Busy => "busy",
            End::Unanswered => "unanswered",
        }
    }
}

// === impl Counters ===

impl Counters {
    /// Of a fleet with devices of these kinds.
    pub fn of(kinds: &BTreeSet<Kind>) -> Counters {
        Counters {
            tallies: pairs(kinds).map(|pair| (pair, AtomicTally::default())).collect(),
            latencies: std::array::from_fn(|_| Mutex::new(histogram())),
            problems: Mutex::default(),
            retransmissions: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            phases: Phases::new(),
            powerless: Phases::new(),
            returns: Mutex::new(histogram()),
            grades: Grades::default(),
        }
    }

    /// Of a fleet of the physical kinds.
    pub fn new() -> Counters {
        Counters::of(&Kind::PHYSICAL.into())
    }

    pub fn sent(&self, protocol: Protocol, kind: Kind, readings: u64) {
        self.tally(protocol, kind).sent.fetch_add(readings, Ordering::Relaxed);
    }

    pub fn sent_again(&self, protocol: Protocol, kind: Kind, readings: u64) {
        self.tally(protocol, kind)
            .sent_again
            .fetch_add(readings, Ordering::Relaxed);
    }

    pub fn ended(&self, protocol: Protocol, kind: Kind, end: End) {
        let tally = self.tally(protocol, kind);
        let counter = match end {
            End::Acknowledged => &tally.acknowledged,
            End::Rejected => &tally.rejected,
            End::Busy => &tally.busy,
            End::Unanswered => &tally.unanswered,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A reading got its positive answer `elapsed` after it was first sent.
    pub fn latency(&self, protocol: Protocol, elapsed: Duration) {
        let [mqtt, coap, http] = &self.latencies;
        let histogram = match protocol {
            Protocol::Mqtt => mqtt,
            Protocol::Coap => coap,
            Protocol::Http => http,
        };
        lock(histogram).saturating_record(elapsed.as_micros() as u64);
    }

    /// A device that had lost its power has its first positive answer, so long after it had power again.
    pub fn came_back(&self, elapsed: Duration) {
        lock(&self.returns).saturating_record(elapsed.as_micros() as u64);
    }

    /// How many came back, and how long that took: half of them, 99 of a hundred, and the last.
    pub fn returns(&self) -> (u64, [Duration; 3]) {
        let returns = lock(&self.returns);
        let at = |quantile| Duration::from_micros(returns.value_at_quantile(quantile));
        (returns.len(), [at(0.5), at(0.99), at(1.0)])
    }

    pub fn retransmitted(&self, messages: u64) {
        self.retransmissions.fetch_add(messages, Ordering::Relaxed);
    }

    pub fn retransmissions(&self) -> u64 {
        self.retransmissions.load(Ordering::Relaxed)
    }

    /// Positive, negative and busy answers so far.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Remembers an answer that was not a positive one.
    pub fn note_problem(&self, protocol: Protocol, answer: &Answer) {
        if !matches!(answer, Answer::Unanswered { .. }) {
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
        let what = match answer {
            Answer::Acknowledged => return,
            Answer::Rejected { code, text } => format!("{protocol} rejected, {code}: {text}"),
            Answer::Busy { code, .. } => format!("{protocol} busy, {code}"),
            Answer::Unanswered { because } => format!("{protocol} unanswered: {because}"),
        };
        let mut problems = lock(&self.problems);
        let is_full = problems.len() >= PROBLEMS_MAX && !problems.contains_key(&what);
        let what = if is_full { "others".to_owned() } else { what };
        *problems.entry(what).or_default() += 1;
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            tallies: self.tallies.iter().map(|(pair, tally)| (*pair, tally.read())).collect(),
        }
    }

    pub fn percentiles(&self) -> Percentiles {
        let mut all = histogram();
        for one in &self.latencies {
            // The bounds are the same, so adding cannot fail.
            all.add(&*lock(one)).ok();
        }
        Percentiles::of(&all)
    }

    pub fn percentiles_of(&self, protocol: Protocol) -> Percentiles {
        let one = self.latencies.get(protocol.index());
        one.map_or_else(Percentiles::default, |one| Percentiles::of(&lock(one)))
    }

    /// The most frequent first.
    pub fn problems(&self) -> Vec<Problem> {
        let problems = lock(&self.problems);
        let all = problems.iter().map(|(what, &times)| Problem {
            what: what.clone(),
            times,
        });
        let mut all: Vec<Problem> = all.collect();
        all.sort_by_key(|problem| std::cmp::Reverse(problem.times));
        all
    }

    fn tally(&self, protocol: Protocol, kind: Kind) -> &AtomicTally {
        // Every pair has its place from the start.
        &self.tallies[&(protocol, kind)]
    }
}

impl Default for Counters {
    fn default() -> Self {
        Counters::new()
    }
}

/// Every protocol with every kind.
fn pairs(kinds: &BTreeSet<Kind>) -> impl Iterator<Item = (Protocol, Kind)> {
    let of = |protocol| kinds.iter().map(move |kind| (protocol, *kind));
    Protocol::ALL.into_iter().flat_map(of)
}

// === impl AtomicTally ===

impl AtomicTally {
    fn read(&self) -> Tally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            sent: read(&self.sent),
            acknowledged: read(&self.acknowledged),
            rejected: read(&self.rejected),
            busy: read(&self.busy),
            unanswered: read(&self.unanswered),
            sent_again: read(&self.sent_again),
        }
    }
}

// === impl Tally ===

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.rejected += other.rejected;
        self.busy += other.busy;
        self.unanswered += other.unanswered;
        self.sent_again += other.sent_again;
    }
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Tally>>(tallies: I) -> Tally {
        tallies.fold(Tally::default(), |mut sum, tally| {
            sum += tally;
            sum
        })
    }
}

// === impl Snapshot ===

impl Snapshot {
    pub fn total(&self) -> Tally {
        self.tallies.values().copied().sum()
    }

    pub fn of_protocol(&self, protocol: Protocol) -> Tally {
        self.of(|pair| pair.0 == protocol)
    }

    /// Those that the fleet has.
    pub fn kinds(&self) -> BTreeSet<Kind> {
        self.tallies.keys().map(|(_, kind)| *kind).collect()
    }

    pub fn of_kind(&self, kind: Kind) -> Tally {
        self.of(|pair| pair.1 == kind)
    }

    fn of(&self, wanted: impl Fn(&(Protocol, Kind)) -> bool) -> Tally {
        let tallies = self.tallies.iter().filter(|(pair, _)| wanted(pair));
        tallies.map(|(_, tally)| *tally).sum()
    }
}

// === impl Percentiles ===

impl Percentiles {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Percentiles {
        let at = |quantile| (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile) as f64 / 1000.0);
        Percentiles {
            p50_ms: at(0.50),
            p99_ms: at(0.99),
        }
    }
}

pub(crate) fn histogram() -> Histogram<u64> {
    // Two significant digits; these constants are within the bounds that the constructor checks.
    Histogram::new_with_bounds(1, LATENCY_MAX.as_micros() as u64, 2).expect("the bounds of the histogram are valid")
}

/// A counter is worth reading even if a thread died while it held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up_by_protocol_and_kind() {
        let counters = Counters::new();
        for protocol in Protocol::ALL {
            for kind in Kind::PHYSICAL {
                counters.sent(protocol, kind, 2);
                counters.ended(protocol, kind, End::Acknowledged);
            }
        }
        counters.ended(Protocol::Coap, Kind::ENERGY, End::Busy);
        let snapshot = counters.snapshot();
        assert_eq!(
            (
                snapshot.total().sent,
                snapshot.total().acknowledged,
                snapshot.total().busy
            ),
            (18, 9, 1)
        );
        assert_eq!(snapshot.of_protocol(Protocol::Coap).busy, 1);
        assert_eq!(snapshot.of_protocol(Protocol::Http).busy, 0);
        assert_eq!(
            (snapshot.of_kind(Kind::ENERGY).sent, snapshot.of_kind(Kind::ENERGY).busy),
            (6, 1)
        );
    }

    #[test]
    fn percentiles_are_in_milliseconds() {
        let counters = Counters::new();
        assert_eq!(counters.percentiles(), Percentiles::default());
        for millisecond in 1..=100 {
            counters.latency(Protocol::Http, Duration::from_millis(millisecond));
        }
        counters.latency(Protocol::Mqtt, Duration::from_secs(100_000));
        let close = |value: Option<f64>, expected: f64| {
            let value = value.unwrap();
            assert!((value / expected - 1.0).abs() < 0.02, "{value} is not {expected}");
        };
        close(counters.percentiles_of(Protocol::Http).p50_ms, 50.0);
        close(counters.percentiles_of(Protocol::Http).p99_ms, 99.0);
        close(counters.percentiles_of(Protocol::Mqtt).p50_ms, 600_000.0);
        close(counters.percentiles().p50_ms, 51.0);
    }

    #[test]
    fn complaints_are_counted_and_bounded() {
        let counters = Counters::new();
        for number in 0..1000 {
            let because = format!("reason {}", number % 100);
            counters.note_problem(Protocol::Mqtt, &Answer::Unanswered { because });
            counters.note_problem(Protocol::Mqtt, &Answer::Acknowledged);
        }
        let problems = counters.problems();
        assert_eq!(problems.len(), PROBLEMS_MAX + 1);
        assert_eq!(problems.iter().map(|problem| problem.times).sum::<u64>(), 1000);
        assert_eq!(problems[0].what, "others");
    }
}
