//! What one thread counts: answers by code, latencies, and what happened to connections.
//!
//! Everything is counted in intervals of a second, which are handed over when they are complete, so that nothing is
//! shared while messages fly. Latency runs from when a message was *due* to its positive answer. A message without any
//! answer is in the latencies with the time that it waited in vain: a server that stops answering must not look fast.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::clock::{Nanos, nanos};
use super::codes::{Code, Event};
use crate::uplinks::Protocol;

/// The longest latency that is told apart, in microseconds: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

const SECOND: Nanos = 1_000_000_000;

/// Latencies in microseconds, with three significant digits.
pub type Latencies = Histogram<u64>;

/// What was counted of one protocol.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub sent: u64,
    /// How messages ended, wherever they were due.
    pub codes: BTreeMap<Code, u64>,
    /// What happened to connections.
    pub events: BTreeMap<Event, u64>,
    /// CoAP messages sent again (RFC 7252 §4.2).
    pub retransmissions: u64,
    /// Answers to nothing that was waited for: too late, twice, or never asked.
    pub strays: u64,
    /// PINGREQ that were answered.
    pub pongs: u64,
    /// Positive answers by when they came; `None` without any.
    pub latency: Option<Box<Latencies>>,
}

/// What was counted of one protocol over the steady part.
#[derive(Clone, Debug, Default)]
pub struct Steady {
    /// Messages that were due in it.
    pub due: u64,
    /// Positive answers that came within it.
    pub positive: u64,
    /// Answers of any kind that came within it.
    pub answers: u64,
    /// From due to answered, of the messages that were due in it.
    pub latency: Option<Box<Latencies>>,
    /// From due to sent, of the same.
    pub delay: Option<Box<Latencies>>,
    /// From PINGREQ to PINGRESP.
    pub pong: Option<Box<Latencies>>,
}

/// A second of one thread.
#[derive(Debug)]
pub struct Interval {
    pub index: usize,
    /// The last one is shorter.
    pub end: Nanos,
    pub figures: [Figures; 3],
}

/// Where the intervals of a run begin and end: one starts with the steady part.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    first_end: Nanos,
}

/// What one thread counts.
#[derive(Debug)]
pub struct Tally {
    intervals: Intervals,
    steady_part: Range<Nanos>,
    index: usize,
    index_end: Nanos,
    figures: [Figures; 3],
    steady: [Steady; 3],
    outstanding: u64,
    finished: mpsc::Sender<Interval>,
}

pub fn latencies() -> Box<Latencies> {
    let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
    // These bounds are valid, which a test shows by calling this.
    Box::new(histogram.unwrap_or_else(|error| unreachable!("{error}")))
}

fn record(histogram: &mut Option<Box<Latencies>>, time: Nanos) {
    // Rounded to the nearest: 100 µs and 900 ns are 101 µs.
    let micros = (time + 500) / 1000;
    histogram.get_or_insert_with(latencies).saturating_record(micros);
}

fn merge(histogram: &mut Option<Box<Latencies>>, other: Option<Box<Latencies>>) {
    let Some(other) = other else { return };
    match histogram {
        None => *histogram = Some(other),
        // Same bounds, so there is nothing that could not be added.
        Some(histogram) => histogram.add(*other).unwrap_or_default(),
    }
}

// === impl Figures ===

impl Figures {
    pub fn add(&mut self, other: Figures) {
        self.sent += other.sent;
        self.retransmissions += other.retransmissions;
        self.strays += other.strays;
        self.pongs += other.pongs;
        for (code, count) in other.codes {
            *self.codes.entry(code).or_default() += count;
        }
        for (event, count) in other.events {
            *self.events.entry(event).or_default() += count;
        }
        merge(&mut self.latency, other.latency);
    }

    pub fn positive(&self) -> u64 {
        self.count(Code::is_positive)
    }

    pub fn count(&self, which: fn(Code) -> bool) -> u64 {
        let counts = self.codes.iter().filter(|(code, _)| which(**code));
        counts.map(|(_, count)| count).sum()
    }
}

// === impl Steady ===

impl Steady {
    pub fn add(&mut self, other: Steady) {
        self.due += other.due;
        self.positive += other.positive;
        self.answers += other.answers;
        merge(&mut self.latency, other.latency);
        merge(&mut self.delay, other.delay);
        merge(&mut self.pong, other.pong);
    }
}

// === impl Intervals ===

impl Intervals {
    pub fn new(ramp: Duration) -> Intervals {
        let rest = nanos(ramp) % SECOND;
        Intervals {
            first_end: if rest == 0 { SECOND } else { rest },
        }
    }

    pub fn end(&self, index: usize) -> Nanos {
        self.first_end + index as u64 * SECOND
    }

    pub fn start(&self, index: usize) -> Nanos {
        index.checked_sub(1).map_or(0, |before| self.end(before))
    }
}

// === impl Tally ===

impl Tally {
    pub fn new(intervals: Intervals, steady_part: Range<Nanos>, finished: mpsc::Sender<Interval>) -> Tally {
        Tally {
            intervals,
            steady_part,
            index: 0,
            index_end: intervals.end(0),
            figures: Default::default(),
            steady: Default::default(),
            outstanding: 0,
            finished,
        }
    }

    /// Messages that wait for an answer.
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    pub fn figures(&self, protocol: Protocol) -> &Figures {
        &self.figures[protocol.index()]
    }

    pub fn sent(&mut self, protocol: Protocol, due: Nanos, now: Nanos) {
        self.outstanding += 1;
        self.figures[protocol.index()].sent += 1;
        if self.steady_part.contains(&due) {
            let steady = &mut self.steady[protocol.index()];
            steady.due += 1;
            record(&mut steady.delay, now.saturating_sub(due));
        }
    }

    pub fn answered(&mut self, protocol: Protocol, code: Code, due: Nanos, now: Nanos) {
        self.outstanding = self.outstanding.saturating_sub(1);
        let figures = &mut self.figures[protocol.index()];
        *figures.codes.entry(code).or_default() += 1;
        let steady = &mut self.steady[protocol.index()];
        let in_time = u64::from(self.steady_part.contains(&now));
        steady.answers += in_time;
        if !code.is_positive() {
            return;
        }
        let latency = now.saturating_sub(due);
        record(&mut figures.latency, latency);
        steady.positive += in_time;
        if self.steady_part.contains(&due) {
            record(&mut steady.latency, latency);
        }
    }

    /// A message that was sent and has no answer; it waited until `now`.
    pub fn unanswered(&mut self, protocol: Protocol, code: Code, due: Nanos, now: Nanos) {
        self.outstanding = self.outstanding.saturating_sub(1);
        *self.figures[protocol.index()].codes.entry(code).or_default() += 1;
        // With a connection that broke its latency is unknown.
        if code == Code::NoAnswer && self.steady_part.contains(&due) {
            record(&mut self.steady[protocol.index()].latency, now.saturating_sub(due));
        }
    }

    /// A message that was due and never sent; it waited until `now`.
    pub fn not_sent(&mut self, protocol: Protocol, due: Nanos, now: Nanos) {
        *self.figures[protocol.index()].codes.entry(Code::NotSent).or_default() += 1;
        if self.steady_part.contains(&due) {
            let steady = &mut self.steady[protocol.index()];
            steady.due += 1;
            record(&mut steady.latency, now.saturating_sub(due));
        }
    }

    pub fn event(&mut self, protocol: Protocol, event: Event) {
        *self.figures[protocol.index()].events.entry(event).or_default() += 1;
    }

    pub fn stray(&mut self, protocol: Protocol) {
        self.figures[protocol.index()].strays += 1;
    }

    pub fn retransmitted(&mut self, protocol: Protocol) {
        self.figures[protocol.index()].retransmissions += 1;
    }

    pub fn pong(&mut self, protocol: Protocol, took: Nanos) {
        self.figures[protocol.index()].pongs += 1;
        record(&mut self.steady[protocol.index()].pong, took);
    }

    /// Sends the intervals that are complete at `now`.
    pub fn roll(&mut self, now: Nanos) {
        while now >= self.index_end {
            self.send_interval(self.index_end);
        }
    }

    fn send_interval(&mut self, end: Nanos) {
        let (index, figures) = (self.index, std::mem::take(&mut self.figures));
        // The receiver is gone only when the run has been dropped.
        self.finished.send(Interval { index, end, figures }).unwrap_or_default();
        self.index += 1;
        self.index_end = self.intervals.end(self.index);
    }

    /// Sends the last interval too, which ends `now`.
    pub fn close(mut self, now: Nanos) -> [Steady; 3] {
        self.roll(now);
        self.send_interval(now);
        self.steady
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MQTT: Protocol = Protocol::Mqtt;

    #[test]
    fn intervals_begin_with_the_steady_part() {
        let check = |ramp_ms, index, start_ms: u64, end_ms: u64| {
            let intervals = Intervals::new(Duration::from_millis(ramp_ms));
            let found = (intervals.start(index), intervals.end(index));
            assert_eq!(
                found,
                (start_ms * 1_000_000, end_ms * 1_000_000),
                "ramp {ramp_ms} ms, {index}"
            );
        };
        check(0, 0, 0, 1000);
        check(2000, 2, 2000, 3000);
        check(300, 0, 0, 300);
        check(300, 1, 300, 1300);
        check(1300, 1, 300, 1300);
    }

    #[test]
    fn what_waited_in_vain_is_in_the_latencies_and_what_was_refused_is_not() {
        let (finished, intervals) = mpsc::channel();
        let mut tally = Tally::new(Intervals::new(Duration::ZERO), SECOND..3 * SECOND, finished);
        // Due in the ramp, answered in the steady part.
        tally.sent(MQTT, SECOND - 10, SECOND - 10);
        tally.answered(MQTT, Code::Mqtt(0), SECOND - 10, SECOND + 10);
        for due in [SECOND, SECOND + 5, SECOND + 6, SECOND + 7] {
            tally.sent(MQTT, due, due + 1000);
        }
        tally.answered(MQTT, Code::Mqtt(0), SECOND, SECOND + 2_000_000);
        tally.answered(MQTT, Code::Mqtt(0x97), SECOND + 5, SECOND + 2_000_005);
        tally.roll(2 * SECOND);
        tally.unanswered(MQTT, Code::NoAnswer, SECOND + 6, 2 * SECOND + 6);
        tally.unanswered(MQTT, Code::ConnectionLost, SECOND + 7, 2 * SECOND);
        tally.not_sent(MQTT, SECOND + 8, 3 * SECOND + 8);
        assert_eq!(tally.outstanding(), 0);
        let [steady, ..] = tally.close(3 * SECOND + 10);
        assert_eq!((steady.due, steady.positive, steady.answers), (5, 2, 3));
        let latency = steady.latency.unwrap();
        assert_eq!(latency.len(), 3, "one answered, one in vain, one not sent");
        assert!(latency.equivalent(latency.max(), 2_000_000) && latency.equivalent(latency.min(), 2000));
        assert_eq!(steady.delay.unwrap().len(), 4);
        let mut sum = Figures::default();
        for interval in intervals.iter() {
            let [figures, ..] = interval.figures;
            sum.add(figures);
        }
        assert_eq!((sum.sent, sum.positive(), sum.count(Code::is_answer)), (5, 2, 3));
        assert_eq!(sum.codes.values().sum::<u64>(), sum.sent + sum.codes[&Code::NotSent]);
        assert_eq!(sum.latency.unwrap().len(), 2);
    }
}
