//! What a run of the load generator comes to: figures for machines, a table for people.
//!
//! Rates and latencies are those of the steady part; answers by code are those of the whole run, so that nothing that
//! went wrong while connections were opened is hidden, and `sent` is their sum. Latency runs from when a message was due
//! to its positive answer; a message without any answer counts with the time that it waited in vain.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::clock::{Nanos, processor_time, resident_bytes, seconds};
use super::codes::Code;
use super::pace::Pace;
use super::runner::Ended;
use super::settings::Settings;
use super::tally::{Figures, Latencies, Steady};
use super::time_series::{Point, TimeSeries};
use crate::uplinks::Protocol;

/// Message ids of one CoAP port may not come round within EXCHANGE_LIFETIME (RFC 7252 §4.4, §4.8.2).
const COAP_PER_PORT_S_MAX: f64 = 65_536.0 / 247.0;

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub ended: Ended,
    pub set: Set,
    /// Length of the steady part; less than was asked for if the run ended before.
    pub seconds: f64,
    pub total: Line,
    pub by_protocol: BTreeMap<Protocol, Line>,
    pub generator: Generator,
    /// What a reader of the figures should know.
    pub notes: Vec<String>,
    pub over_time: Vec<Point>,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Set {
    pub connections: usize,
    /// Of the open loop, messages per second; `null` in the closed loop.
    pub rate: Option<f64>,
    pub idle: bool,
    pub windows: BTreeMap<Protocol, u16>,
    pub ramp_s: f64,
    pub steady_s: f64,
    pub threads: usize,
}

/// One protocol's share, or everything.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Line {
    pub connections: usize,
    /// At the end of the run.
    pub connections_up: u64,
    pub sent: u64,
    pub positive: u64,
    /// Other answers.
    pub negative: u64,
    /// Sent, and neither.
    pub unanswered: u64,
    /// Due in the open loop, and never sent.
    pub not_sent: u64,
    /// Positive answers per second of the steady part.
    pub per_second: f64,
    pub latency: Percentiles,
    /// From due to sent: large where the window was full, or where the generator is at its limit.
    pub send_delay: Percentiles,
    /// From PINGREQ to PINGRESP.
    pub ping: Percentiles,
    pub answers: BTreeMap<String, u64>,
    pub connection_events: BTreeMap<String, u64>,
    pub retransmissions: u64,
    /// Answers to nothing that was waited for.
    pub strays: u64,
    pub pings_answered: u64,
    /// (quantile, milliseconds), for drawing.
    #[serde(skip)]
    pub curve: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50_ms: Option<f64>,
    pub p90_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub p99_9_ms: Option<f64>,
    pub max_ms: Option<f64>,
}

/// What the generator itself cost, over the steady part.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Generator {
    pub processor_s: f64,
    /// Of processor time, user and kernel, per message that was answered.
    pub processor_us_per_message: Option<f64>,
    pub resident_bytes: u64,
    /// What memory grew by, per connection; the kernel's buffers are not in it.
    pub resident_bytes_per_connection: Option<u64>,
}

/// The generator's own cost, as the run goes on.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    resident_before: u64,
    resident: u64,
    processor: Option<(Duration, Nanos)>,
    processor_end: Option<(Duration, Nanos)>,
}

// === impl Measured ===

impl Measured {
    pub fn new(resident_before: u64) -> Measured {
        Measured {
            resident_before,
            resident: resident_before,
            processor: None,
            processor_end: None,
        }
    }

    /// Notes what is to be noted at the beginning and the end of the steady part.
    pub fn sample(&mut self, now: Nanos, steady_from: Nanos, end: Nanos) {
        if now >= steady_from && self.processor.is_none() {
            self.processor = Some((processor_time(), now));
        }
        if now >= end {
            self.stop(now);
        }
    }

    /// The steady part is over, in time or before.
    pub fn stop(&mut self, now: Nanos) {
        if self.processor_end.is_none() {
            self.processor_end = Some((processor_time(), now));
            self.resident = resident_bytes();
        }
    }

    /// Processor time over the steady part, and its length in seconds.
    fn spent(&self) -> (f64, f64) {
        match (self.processor, self.processor_end) {
            (Some((before, from)), Some((after, to))) => (
                (after.saturating_sub(before)).as_secs_f64(),
                seconds(to.saturating_sub(from)),
            ),
            _ => (0.0, 0.0),
        }
    }
}

// === impl Report ===

impl Report {
    pub fn new(
        settings: &Settings,
        series: &TimeSeries,
        steady: [Steady; 3],
        measured: &Measured,
        ended: Ended,
    ) -> Report {
        let (processor_s, measured_s) = measured.spent();
        let wanted_s = settings.steady.as_secs_f64();
        let seconds = match ended {
            Ended::Timely => wanted_s,
            _ => measured_s.min(wanted_s),
        };
        let answered: u64 = steady.iter().map(|steady| steady.answers + steady_pongs(steady)).sum();
        let (mut all_figures, mut all_steady) = (Figures::default(), Steady::default());
        let mut by_protocol = BTreeMap::new();
        for ((protocol, _), steady) in present(settings).zip(steady_of(settings, steady)) {
            let figures = series.total(protocol);
            let mut line = Line::new(figures, &steady, seconds);
            line.connections = settings.connections_of(protocol);
            line.connections_up = series.up[protocol.index()];
            by_protocol.insert(protocol, line);
            all_figures.add(figures.clone());
            all_steady.add(steady);
        }
        let mut total = Line::new(&all_figures, &all_steady, seconds);
        total.connections = settings.connections;
        total.connections_up = series.up.iter().sum();
        let mut report = Report {
            ended,
            set: Set::new(settings),
            seconds,
            generator: Generator::new(measured, processor_s, answered, total.connections_up),
            notes: Vec::new(),
            total,
            by_protocol,
            over_time: series.points().to_vec(),
        };
        report.notes = report.noteworthy();
        report
    }

    /// Everything that was sent was answered, positively, over connections that lasted.
    pub fn passed(&self) -> bool {
        let ended_well = matches!(self.ended, Ended::Timely | Ended::Interrupted { .. });
        let line = &self.total;
        let all_positive = line.negative + line.unanswered + line.not_sent == 0;
        ended_well && all_positive && line.connection_events.is_empty() && !self.is_empty()
    }

    /// Nothing was reached: there is nothing to be learnt from the figures.
    pub fn is_empty(&self) -> bool {
        match self.set.idle {
            true => self.total.connections_up == 0,
            false => self.total.positive == 0,
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        match (self.is_empty(), self.passed()) {
            (true, _) => ExitCode::from(2),
            (false, false) => ExitCode::from(1),
            (false, true) => ExitCode::SUCCESS,
        }
    }

    fn noteworthy(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(coap) = self.by_protocol.get(&Protocol::Coap) {
            let per_port = coap.per_second / coap.connections.max(1) as f64;
            if per_port > COAP_PER_PORT_S_MAX {
                let ports = (coap.per_second / COAP_PER_PORT_S_MAX).ceil();
                notes.push(format!(
                    "each CoAP port sent {per_port:.0} messages a second: message ids came round within 247 s, which RFC \
                     7252 does not allow; {ports:.0} ports would do"
                ));
            }
        }
        if let (Some(rate), false) = (self.set.rate, self.seconds <= 0.0) {
            let reached = self.total.per_second / rate;
            if reached < 0.99 {
                notes.push(format!(
                    "{:.1} % of the rate that was asked for was reached",
                    reached * 100.0
                ));
            }
        }
        notes
    }

    /// How the run ended, if not by the clock.
    pub fn ending(&self) -> Option<String> {
        match &self.ended {
            Ended::Timely => None,
            Ended::Interrupted { at_s } => Some(format!("interrupted after {at_s:.1} s")),
            Ended::Gone {
                at_s,
                protocol,
                because,
            } => Some(format!(
                "the {protocol} gateway stopped answering after {at_s:.1} s: {because}"
            )),
            Ended::Refused { protocol, because, .. } => {
                Some(format!("the gateway refuses the {protocol} credentials: {because}"))
            }
        }
    }
}

/// Protocols that the run used, each once.
fn present(settings: &Settings) -> impl Iterator<Item = (Protocol, usize)> {
    let used = |protocol: &Protocol| settings.connections_of(*protocol) > 0;
    Protocol::ALL
        .into_iter()
        .filter(used)
        .map(|protocol| (protocol, protocol.index()))
}

fn steady_of(settings: &Settings, steady: [Steady; 3]) -> impl Iterator<Item = Steady> {
    let used = Protocol::ALL.map(|protocol| settings.connections_of(protocol) > 0);
    steady
        .into_iter()
        .zip(used)
        .filter(|(_, used)| *used)
        .map(|(steady, _)| steady)
}

fn steady_pongs(steady: &Steady) -> u64 {
    steady.pong.as_ref().map_or(0, |pong| pong.len())
}

// === impl Set ===

impl Set {
    fn new(settings: &Settings) -> Set {
        let window = |(protocol, _)| (protocol, settings.window(protocol));
        Set {
            connections: settings.connections,
            rate: match settings.pace {
                Pace::Open { rate } => Some(rate),
                Pace::Closed | Pace::Idle => None,
            },
            idle: settings.pace == Pace::Idle,
            windows: present(settings).map(window).collect(),
            ramp_s: settings.ramp.as_secs_f64(),
            steady_s: settings.steady.as_secs_f64(),
            threads: settings.threads,
        }
    }
}

// === impl Line ===

impl Line {
    fn new(figures: &Figures, steady: &Steady, seconds: f64) -> Line {
        let positive = figures.positive();
        let per_second = if seconds > 0.0 {
            steady.positive as f64 / seconds
        } else {
            0.0
        };
        Line {
            connections: 0,
            connections_up: 0,
            sent: figures.sent,
            positive,
            negative: figures.count(Code::is_answer) - positive,
            unanswered: figures.count(|code| matches!(code, Code::NoAnswer | Code::ConnectionLost)),
            not_sent: figures.count(|code| code == Code::NotSent),
            per_second: rounded(per_second),
            latency: Percentiles::of(steady.latency.as_deref()),
            send_delay: Percentiles::of(steady.delay.as_deref()),
            ping: Percentiles::of(steady.pong.as_deref()),
            answers: named(&figures.codes),
            connection_events: named(&figures.events),
            retransmissions: figures.retransmissions,
            strays: figures.strays,
            pings_answered: figures.pongs,
            curve: steady
                .latency
                .as_deref()
                .or(steady.pong.as_deref())
                .map_or_else(Vec::new, curve),
        }
    }
}

fn named<C: ToString>(counts: &BTreeMap<C, u64>) -> BTreeMap<String, u64> {
    let named = counts.iter().map(|(what, count)| (what.to_string(), *count));
    named.collect()
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Points so close that the curve looks like one: ten for each nine that the quantile gains.
fn curve(latency: &Latencies) -> Vec<(f64, f64)> {
    let nines = (latency.len().max(1) as f64).log10().min(6.0);
    let steps = (nines * 10.0).ceil() as usize;
    let quantile = |step: usize| 1.0 - 10f64.powf(-(step as f64) / 10.0);
    let point = |quantile: f64| (quantile, latency.value_at_quantile(quantile) as f64 / 1000.0);
    (0..=steps).map(|step| point(quantile(step))).collect()
}

// === impl Percentiles ===

impl Percentiles {
    fn of(latency: Option<&Latencies>) -> Percentiles {
        let Some(latency) = latency else {
            return Percentiles::default();
        };
        let quantile = |quantile| Some(latency.value_at_quantile(quantile) as f64 / 1000.0);
        Percentiles {
            count: latency.len(),
            p50_ms: quantile(0.5),
            p90_ms: quantile(0.9),
            p99_ms: quantile(0.99),
            p99_9_ms: quantile(0.999),
            max_ms: Some(latency.max() as f64 / 1000.0),
        }
    }

    pub fn rows(&self) -> [(&'static str, Option<f64>); 5] {
        [
            ("p50", self.p50_ms),
            ("p90", self.p90_ms),
            ("p99", self.p99_ms),
            ("p99.9", self.p99_9_ms),
            ("max", self.max_ms),
        ]
    }
}

// === impl Generator ===

impl Generator {
    fn new(measured: &Measured, processor_s: f64, answered: u64, connections: u64) -> Generator {
        let grown = measured.resident.saturating_sub(measured.resident_before);
        let per_message = processor_s * 1e6 / answered.max(1) as f64;
        Generator {
            processor_s: (processor_s * 1000.0).round() / 1000.0,
            processor_us_per_message: (answered > 0).then_some((per_message * 100.0).round() / 100.0),
            resident_bytes: measured.resident,
            resident_bytes_per_connection: grown.checked_div(connections),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_ends_where_the_data_do() {
        let mut latency = super::super::tally::latencies();
        (1..=1000).for_each(|value| latency.saturating_record(value));
        let points = curve(&latency);
        assert_eq!(points.len(), 31);
        assert_eq!(points[0].0, 0.0);
        assert!((points[30].0 - 0.999).abs() < 1e-9);
        assert!(points.windows(2).all(|two| two[0].1 <= two[1].1));
        assert!((points[10].1 - 0.9).abs() < 0.01, "{:?}", points[10]);
    }
}
