//! What all threads have counted so far, second by second: what the progress line, the exporter and the report read.
//!
//! A second is closed when every thread has handed it in; of its latencies only percentiles are kept, so that an hour
//! takes no more room than its thousands of points.

use std::collections::BTreeMap;

use serde::Serialize;

use super::clock::{Nanos, seconds};
use super::codes::Code;
use super::tally::{Figures, Interval, Intervals};
use crate::uplinks::Protocol;

/// What all threads have counted so far.
#[derive(Debug)]
pub struct TimeSeries {
    intervals: Intervals,
    threads: usize,
    /// Seconds that not every thread has handed in, by their index.
    open: BTreeMap<usize, Open>,
    points: Vec<Point>,
    totals: [Figures; 3],
    /// Connections that are up.
    pub up: [u64; 3],
}

/// A second that not every thread has handed in.
#[derive(Debug, Default)]
struct Open {
    reports: usize,
    end: Nanos,
    figures: [Figures; 3],
}

/// A second of the run.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Since the run began.
    pub from_s: f64,
    pub to_s: f64,
    #[serde(flatten)]
    pub by_protocol: BTreeMap<Protocol, PointFigures>,
}

/// A second of one protocol.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PointFigures {
    pub sent: u64,
    /// Positive answers.
    pub positive: u64,
    /// Other answers.
    pub negative: u64,
    pub unanswered: u64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

// === impl TimeSeries ===

impl TimeSeries {
    pub fn new(intervals: Intervals, threads: usize) -> TimeSeries {
        TimeSeries {
            intervals,
            threads,
            open: BTreeMap::new(),
            points: Vec::new(),
            totals: Default::default(),
            up: [0; 3],
        }
    }

    /// Closed seconds, in order.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// All that was counted in closed seconds.
    pub fn total(&self, protocol: Protocol) -> &Figures {
        &self.totals[protocol.index()]
    }

    /// Adds what one thread handed in.
    pub fn add(&mut self, interval: Interval) {
        let open = self.open.entry(interval.index).or_default();
        open.reports += 1;
        open.end = open.end.max(interval.end);
        for (sum, figures) in open.figures.iter_mut().zip(interval.figures) {
            sum.add(figures);
        }
        while let Some(entry) = self.open.first_entry()
            && entry.get().reports == self.threads
        {
            let (index, open) = entry.remove_entry();
            self.close(index, open);
        }
    }

    /// Closes what is open: the run is over, and not every thread lasted equally long.
    pub fn finish(&mut self) {
        while let Some((index, open)) = self.open.pop_first() {
            self.close(index, open);
        }
    }

    fn close(&mut self, index: usize, open: Open) {
        let mut by_protocol = BTreeMap::new();
        for (protocol, figures) in Protocol::ALL.into_iter().zip(open.figures) {
            if figures.sent > 0 || !figures.codes.is_empty() {
                by_protocol.insert(protocol, PointFigures::new(&figures));
            }
            self.totals[protocol.index()].add(figures);
        }
        self.points.push(Point {
            from_s: seconds(self.intervals.start(index)),
            to_s: seconds(open.end),
            by_protocol,
        });
    }
}

// === impl PointFigures ===

impl PointFigures {
    fn new(figures: &Figures) -> PointFigures {
        let quantile = |quantile: f64| {
            let latency = figures.latency.as_ref()?;
            Some(latency.value_at_quantile(quantile) as f64 / 1000.0)
        };
        let (positive, answers) = (figures.positive(), figures.count(Code::is_answer));
        PointFigures {
            sent: figures.sent,
            positive,
            negative: answers - positive,
            unanswered: figures.count(|code| !code.is_answer()),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_second_is_closed_when_every_thread_has_handed_it_in() {
        let mut series = TimeSeries::new(Intervals::new(Duration::ZERO), 2);
        let interval = |index, sent| {
            let mut figures: [Figures; 3] = Default::default();
            figures[1].sent = sent;
            figures[1].codes.insert(Code::Coap(0x44), sent);
            let end = 1_000_000_000 * (index as u64 + 1);
            Interval { index, end, figures }
        };
        series.add(interval(0, 10));
        series.add(interval(1, 20));
        assert!(series.points().is_empty());
        series.add(interval(0, 1));
        assert_eq!(series.points().len(), 1);
        assert_eq!(series.points()[0].by_protocol[&Protocol::Coap].positive, 11);
        assert_eq!(series.total(Protocol::Coap).sent, 11);
        series.finish();
        assert_eq!((series.points().len(), series.points()[1].to_s), (2, 2.0));
        assert_eq!(series.total(Protocol::Coap).sent, 31);
        assert!(!series.points()[1].by_protocol.contains_key(&Protocol::Mqtt));
    }
}
