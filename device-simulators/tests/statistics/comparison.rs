//! The table of real figures beside simulated ones, and what of it is out of bounds.
//!
//! Everything that was compared is printed, whether it holds or not; [`Comparison::finish`] fails with the whole list of
//! what does not.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::series::{HOUR_MS, Series, pearson};

/// How far the simulated figures may be from the real ones.
pub(crate) struct Bounds {
    /// Least correlation of the mean days; None where the series has no day to speak of.
    pub(crate) day: Option<f64>,
    /// Largest difference of the autocorrelations.
    pub(crate) lag1: f64,
    /// Largest difference of each percentile, as a share of the real range from the 1st to the 99th.
    pub(crate) range: f64,
}

/// The table that is printed, and what was out of bounds.
#[derive(Default)]
pub(crate) struct Comparison {
    pub(crate) table: String,
    pub(crate) problems: Vec<String>,
}

impl Comparison {
    pub(crate) fn compare(&mut self, what: &str, real: &Series, simulated: &Series, bounds: &Bounds) {
        let (theirs, ours) = (real.figures(), simulated.figures());
        let day = bounds.day.map(|least| {
            let pairs: Vec<(f64, f64)> = real.day().into_iter().zip(simulated.day()).collect();
            (pearson(&pairs), least)
        });
        let shown = day.map_or("    –".to_owned(), |(r, _)| format!("{r:5.3}"));
        let (real_count, count) = (real.points.len(), simulated.points.len());
        writeln!(
            self.table,
            "{what:<38} {shown} │ {:6.3} {:6.3} │ {:8.2} {:8.2} {:8.2} │ {:8.2} {:8.2} {:8.2} │ {real_count:>6} {count:>6}",
            theirs.lag1, ours.lag1, theirs.p1, theirs.p50, theirs.p99, ours.p1, ours.p50, ours.p99,
        )
        .unwrap();
        if let Some((r, least)) = day
            && (r.is_nan() || r < least)
        {
            self.problems
                .push(format!("{what}: the mean day correlates by {r:.3}, less than {least}"));
        }
        let off = (theirs.lag1 - ours.lag1).abs();
        if off.is_nan() || off > bounds.lag1 {
            self.problems
                .push(format!("{what}: lag 1 is off by {off:.3}, more than {}", bounds.lag1));
        }
        let width = theirs.p99 - theirs.p1;
        for (name, theirs, ours) in [
            ("p1", theirs.p1, ours.p1),
            ("p50", theirs.p50, ours.p50),
            ("p99", theirs.p99, ours.p99),
        ] {
            let off = (theirs - ours).abs() / width;
            if off.is_nan() || off > bounds.range {
                self.problems.push(format!(
                    "{what}: {name} is off by {off:.2} of the real range, more than {}",
                    bounds.range
                ));
            }
        }
    }

    /// Prints the table past the harness, which would swallow it, and fails if something was out of bounds.
    pub(crate) fn finish(self, title: &str) {
        let mut text = format!("\n{title}\n");
        let header = format!(
            "{:<38} {:>5} │ {:>6} {:>6} │ {:>8} {:>8} {:>8} │ {:>8} {:>8} {:>8} │ {:>6} {:>6}\n",
            "", "day r", "lag1", "", "p1", "p50", "p99", "p1", "p50", "p99", "values", ""
        );
        let kinds = format!(
            "{:<38} {:>5} │ {:>6} {:>6} │ {:>8} {:>8} {:>8} │ {:>8} {:>8} {:>8} │ {:>6} {:>6}\n",
            "", "", "real", "sim", "real", "", "", "sim", "", "", "real", "sim"
        );
        text.push_str(&header);
        text.push_str(&kinds);
        text.push_str(&self.table);
        say(&text);
        assert!(self.problems.is_empty(), "\n{}\n{text}", self.problems.join("\n"));
    }
}

/// Past the test harness, which would swallow it.
pub(crate) fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

#[test]
fn the_comparison_can_fail() {
    let wave = |amplitude: f64, hours_late: f64, noise: f64| {
        let value = |hour: i64| {
            let turns = (hour as f64 - hours_late) / 24.0;
            let jitter = noise * if hour % 2 == 0 { 1.0 } else { -1.0 };
            (
                hour * HOUR_MS,
                amplitude * (turns * std::f64::consts::TAU).sin() + jitter,
            )
        };
        Series {
            points: (0..240).map(value).collect(),
        }
    };
    let bounds = Bounds {
        day: Some(0.95),
        lag1: 0.05,
        range: 0.2,
    };
    let check = |simulated: Series, expected: &[&str]| {
        let mut comparison = Comparison::default();
        comparison.compare("wave", &wave(1.0, 0.0, 0.0), &simulated, &bounds);
        assert_eq!(comparison.problems.len(), expected.len(), "{:?}", comparison.problems);
        for (problem, part) in comparison.problems.iter().zip(expected) {
            assert!(problem.contains(part), "{problem}, not {part}");
        }
    };
    check(wave(1.1, 0.5, 0.01), &[]);
    check(wave(1.0, 3.0, 0.0), &["the mean day correlates by 0.707"]);
    check(wave(1.0, 0.0, 0.2), &["lag 1 is off"]);
    check(wave(1.6, 0.0, 0.0), &["p1 is off by 0.30", "p99 is off by 0.30"]);
    let constant = Series {
        points: (0..240).map(|hour| (hour * HOUR_MS, 0.0)).collect(),
    };
    check(
        constant,
        &[
            "correlates by NaN",
            "lag 1 is off by NaN",
            "p1 is off by 0.50",
            "p99 is off by 0.50",
        ],
    );
}
