//! Whether the expectations of a scenario hold, line by line. Each line says what was
//! expected, what was measured, and the verdict; shares are never rounded up to the limit
//! they miss. What was not measured does not count as fulfilled.

use serde::Serialize;

use super::Expect;
use crate::grades::share;
use crate::report::{Report, grouped, milliseconds};

/// One line of `[expect]`, and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expectation {
    pub what: String,
    pub wanted: String,
    pub is: String,
    pub holds: bool,
}

// === impl Expect ===

impl Expect {
    /// Checks a report against it.
    pub fn check(&self, report: &Report) -> Vec<Expectation> {
        let mut lines = vec![at_most("lost", report.lost, self.lost)];
        let counts = [
            ("out of order", report.out_of_order, self.out_of_order),
            ("duplicates", report.duplicates, self.duplicates_max),
        ];
        for (what, is, most) in counts {
            lines.extend(most.map(|most| at_most(what, is, most)));
        }
        let tally = report.tally;
        let shares = [
            (
                "acknowledged",
                share(tally.acknowledged, tally.sent),
                self.acknowledged_min,
            ),
            ("answered as expected", report.as_expected(), self.as_expected_min),
        ];
        for (what, is, least) in shares {
            lines.extend(least.map(|least| at_least(what.to_owned(), is, least)));
        }
        if self.reasons_as_expected {
            lines.push(reasons(report));
        }
        for (fault, least) in &self.detected {
            let is = report.grades.get(fault.name()).and_then(|line| line.detected);
            lines.push(at_least(format!("{fault} rejected"), is, *least));
        }
        for (protocol, bound) in &self.p99 {
            let is = report.by_protocol.get(protocol).and_then(|line| line.latency.p99_ms);
            let bound_ms = bound.as_secs_f64() * 1000.0;
            lines.push(Expectation {
                what: format!("p99 of {protocol}"),
                wanted: format!("at most {}", milliseconds(Some(bound_ms))),
                is: milliseconds(is),
                holds: is.is_some_and(|is| is <= bound_ms),
            });
        }
        lines
    }
}

fn at_most(what: &str, is: u64, most: u64) -> Expectation {
    Expectation {
        what: what.to_owned(),
        wanted: if most == 0 {
            "none".to_owned()
        } else {
            format!("at most {}", grouped(most))
        },
        is: grouped(is),
        holds: is <= most,
    }
}

/// A share that nothing has is not large enough.
fn at_least(what: String, is: Option<f64>, least: f64) -> Expectation {
    Expectation {
        what,
        wanted: format!("at least {}", percent(least)),
        is: is.map_or_else(|| "no such reading".to_owned(), percent),
        holds: is.is_some_and(|is| is >= least),
    }
}

/// Each reason that is due stands in as many dead letters as it is due; what had to be sent again may do so more often.
fn reasons(report: &Report) -> Expectation {
    let mut is = Vec::new();
    let mut holds = true;
    for (reason, &due) in &report.due_reasons {
        let there = report.dead_letter_reasons.get(*reason).copied().unwrap_or(0);
        let unsure = report.ambiguous + report.tally.sent_again + report.tally.busy + report.tally.unanswered;
        let most = due + unsure;
        if !(due..=most).contains(&there) {
            holds = false;
            is.push(format!("{reason} {} instead of {}", grouped(there), grouped(due)));
        }
    }
    Expectation {
        what: "reasons of dead letters".to_owned(),
        wanted: "as expected".to_owned(),
        is: if is.is_empty() {
            "as expected".to_owned()
        } else {
            is.join(", ")
        },
        holds,
    }
}

/// `0.9997` as `99.97 %`: never rounded up to what it is not.
fn percent(share: f64) -> String {
    format!("{} %", (share * 10_000.0 + 1e-6).floor() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_not_flattered() {
        let check = |share: f64, expected: &str| assert_eq!(percent(share), expected);
        check(1.0, "100 %");
        check(0.99999, "99.99 %");
        check(0.57, "57 %");
        check(0.0, "0 %");
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        let check = |is: Option<f64>, holds: bool| assert_eq!(at_least("x".to_owned(), is, 0.5).holds, holds, "{is:?}");
        check(Some(0.5), true);
        check(Some(0.49), false);
        check(None, false);
    }
}
