//! The progress line of a load: rewritten every second on a terminal, a new line every ten seconds elsewhere. It goes
//! to standard error, so that standard output carries the report alone. It shows the last complete second and changes
//! nothing of what is measured.

use std::io::{IsTerminal, Write, stderr};

use super::settings::Settings;
use super::table::{grouped, milliseconds};
use super::time_series::{Point, TimeSeries};

/// Seconds between two lines if standard error is no terminal.
const SPARSE: usize = 10;

/// Prints the line of the last complete second.
#[derive(Debug)]
pub struct Progress {
    is_terminal: bool,
}

// === impl Progress ===

impl Progress {
    pub fn on_stderr() -> Progress {
        Progress {
            is_terminal: stderr().is_terminal(),
        }
    }

    pub fn show(&self, series: &TimeSeries, settings: &Settings) {
        let Some(last) = series.points().last() else { return };
        // What is left at the end is not a second.
        let end_s = (settings.ramp + settings.steady).as_secs_f64();
        if last.from_s >= end_s && last.to_s - last.from_s < 0.999 {
            return;
        }
        if self.is_terminal {
            // To the first column, and clear the line.
            eprint!("\r\x1b[K{}", line(last, series, settings));
            stderr().flush().unwrap_or_default();
        } else if series.points().len().is_multiple_of(SPARSE) {
            eprintln!("{}", line(last, series, settings));
        }
    }

    /// Leaves the last line where it is.
    pub fn end(&self) {
        if self.is_terminal {
            eprintln!();
        }
    }
}

fn line(point: &Point, series: &TimeSeries, settings: &Settings) -> String {
    let ramp_s = settings.ramp.as_secs_f64();
    let end_s = ramp_s + settings.steady.as_secs_f64();
    let phase = match point.to_s {
        to if to <= ramp_s => "ramp",
        to if to <= end_s => "steady",
        _ => "waiting for answers",
    };
    let up: u64 = series.up.iter().sum();
    let mut text = format!(
        "{:>5.0} s {phase}, {} of {} up",
        point.to_s,
        grouped(up),
        grouped(settings.connections as u64)
    );
    let length = (point.to_s - point.from_s).max(0.001);
    for (protocol, figures) in &point.by_protocol {
        let rate = (figures.positive as f64 / length).round() as u64;
        text.push_str(&format!(
            " | {protocol} {}/s p99 {}",
            grouped(rate),
            milliseconds(figures.p99_ms)
        ));
        let bad = figures.negative + figures.unanswered;
        if bad > 0 {
            text.push_str(&format!(" {} not positive", grouped(bad)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tally::Intervals;
    use crate::load::time_series::PointFigures;
    use crate::uplinks::Protocol;
    use std::collections::BTreeMap;
    use std::time::Duration;

    #[test]
    fn a_second_is_told_in_one_line() {
        let settings = Settings::default();
        let mut series = TimeSeries::new(Intervals::new(Duration::ZERO), 1);
        series.up = [1000, 0, 0];
        let figures = PointFigures {
            positive: 150_000,
            negative: 2,
            p99_ms: Some(1.234),
            ..PointFigures::default()
        };
        let point = Point {
            from_s: 1.0,
            to_s: 2.0,
            by_protocol: BTreeMap::from([(Protocol::Mqtt, figures)]),
        };
        let expected = "    2 s steady, 1,000 of 1,000 up | mqtt 150,000/s p99 1.23 ms 2 not positive";
        assert_eq!(line(&point, &series, &settings), expected);
    }
}
