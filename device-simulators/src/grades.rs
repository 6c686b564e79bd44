//! How the gateway did: each reading's verdict beside the one that its faults deserve.
//!
//! A table of faults × (sent, accepted, rejected, open, as expected); readings without a fault are a line of their own, a
//! reading with two faults is in two lines. A rejection counts as expected if its code can mean the expected reason: HTTP
//! and CoAP tell *malformed* from the rest, MQTT 5 has one code for all. The positive answer of MQTT 3.1.1 says nothing at
//! all about it: those verdicts are looked up in Kafka at the end, once for each sequence number.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::Serialize;

use crate::counters::lock;
use crate::devices::faults::{Expected, Fault, Labels, Reason};
use crate::uplinks::Answer;

/// What stands for "no fault" in tables.
const HEALTHY: &str = "none";

/// What a correct gateway does with a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    Accept,
    Reject,
    /// So close to a limit that both are right.
    Either,
}

/// A line of the table: none, or a fault.
pub type Cause = Option<Fault>;

/// One line of the table, in readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Grade {
    pub sent: u64,
    pub accepted: u64,
    pub rejected: u64,
    /// Busy or unanswered to the end.
    pub open: u64,
    /// Of those accepted or rejected.
    pub as_expected: u64,
}

/// The table of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub lines: BTreeMap<Cause, Grade>,
    /// Rejections that were due for one certain reason.
    pub due_reasons: BTreeMap<&'static str, u64>,
    /// Rejections that were due for any of several reasons, or that may have been due.
    pub ambiguous: u64,
}

/// The table while the fleet runs.
#[derive(Debug, Default)]
pub struct Grades(Mutex<Table>);

// === impl Due ===

impl Due {
    pub fn of(expected: Expected) -> Due {
        match expected {
            Expected::Accepted => Due::Accept,
            Expected::Rejected(_) => Due::Reject,
            Expected::Either => Due::Either,
        }
    }
}

// === impl Grade ===

impl Grade {
    /// The share of answered readings that was rejected; None without any.
    pub fn detected(&self) -> Option<f64> {
        share(self.rejected, self.accepted + self.rejected)
    }
}

/// `part` of `whole`; None of nothing.
pub fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The lines in which a reading is counted.
pub fn causes(labels: Labels) -> impl Iterator<Item = Cause> {
    let healthy = labels.is_empty().then_some(None);
    healthy.into_iter().chain(labels.iter().map(Some))
}

/// The name of a line.
pub fn name(cause: Cause) -> &'static str {
    cause.map_or(HEALTHY, Fault::name)
}

// === impl Table ===

impl Table {
    /// Counts `readings` of one line that were `accepted`, or rejected.
    pub fn add(&mut self, cause: Cause, readings: u64, accepted: bool, as_expected: bool) {
        let line = self.lines.entry(cause).or_default();
        line.sent += readings;
        *(if accepted {
            &mut line.accepted
        } else {
            &mut line.rejected
        }) += readings;
        line.as_expected += if as_expected { readings } else { 0 };
    }

    /// Readings graded and readings as expected, over all lines.
    pub fn total(&self) -> (u64, u64) {
        let graded = self.lines.values().map(|line| line.accepted + line.rejected).sum();
        (graded, self.lines.values().map(|line| line.as_expected).sum())
    }
}

// === impl Grades ===

impl Grades {
    /// The last answer to a reading, other than a positive one of MQTT 3.1.1.
    pub fn note(&self, labels: Labels, expected: Expected, answer: &Answer) {
        let mut table = lock(&self.0);
        for cause in causes(labels) {
            match answer {
                Answer::Acknowledged => table.add(cause, 1, true, expected.allows(None)),
                Answer::Rejected { code, .. } => {
                    let as_expected = reasons(code).iter().any(|reason| expected.allows(Some(*reason)));
                    table.add(cause, 1, false, as_expected);
                }
                Answer::Busy { .. } | Answer::Unanswered { .. } => {
                    let line = table.lines.entry(cause).or_default();
                    line.sent += 1;
                    line.open += 1;
                }
            }
        }
    }

    /// A reading got its final answer: which dead letter is due for it.
    pub fn note_due(&self, expected: Expected) {
        match expected {
            Expected::Accepted => {}
            Expected::Rejected(Some(reason)) => *lock(&self.0).due_reasons.entry(reason.label()).or_default() += 1,
            Expected::Rejected(None) | Expected::Either => lock(&self.0).ambiguous += 1,
        }
    }

    pub fn table(&self) -> Table {
        lock(&self.0).clone()
    }
}

/// What a negative code can mean: HTTP status, CoAP code or MQTT 5 reason code.
fn reasons(code: &str) -> &'static [Reason] {
    use Reason::{BadClock, Malformed, OutOfRange, SchemaMismatch};
    match code {
        "400" | "4.00" => &[Malformed],
        "422" | "4.22" => &[SchemaMismatch, OutOfRange, BadClock],
        "0x99" => &[Malformed, SchemaMismatch, OutOfRange, BadClock],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_compared_with_what_is_due() {
        use Expected::{Accepted, Either, Rejected};
        let rejected = |code: &str| Answer::Rejected {
            code: code.to_owned(),
            text: String::new(),
        };
        let silent = || Answer::Unanswered { because: String::new() };
        // → accepted, rejected, open, as expected
        let check = |expected: Expected, answer: Answer, line: (u64, u64, u64, u64)| {
            let grades = Grades::default();
            grades.note(Labels::default().with(Fault::Spike), expected, &answer);
            let is = grades.table().lines[&Some(Fault::Spike)];
            assert_eq!(
                (is.accepted, is.rejected, is.open, is.as_expected),
                line,
                "{expected:?} {answer:?}"
            );
            assert_eq!(is.sent, 1);
        };
        let out_of_range = Rejected(Some(Reason::OutOfRange));
        check(Accepted, Answer::Acknowledged, (1, 0, 0, 1));
        check(Accepted, rejected("422"), (0, 1, 0, 0));
        check(Accepted, silent(), (0, 0, 1, 0));
        check(out_of_range, rejected("422"), (0, 1, 0, 1));
        check(out_of_range, rejected("4.22"), (0, 1, 0, 1));
        check(out_of_range, rejected("0x99"), (0, 1, 0, 1));
        check(out_of_range, rejected("400"), (0, 1, 0, 0));
        check(out_of_range, rejected("404"), (0, 1, 0, 0));
        check(out_of_range, Answer::Acknowledged, (1, 0, 0, 0));
        check(Rejected(Some(Reason::Malformed)), rejected("4.00"), (0, 1, 0, 1));
        check(Rejected(Some(Reason::Malformed)), rejected("422"), (0, 1, 0, 0));
        check(Rejected(None), rejected("422"), (0, 1, 0, 1));
        check(Either, Answer::Acknowledged, (1, 0, 0, 1));
        check(Either, rejected("422"), (0, 1, 0, 1));
    }

    #[test]
    fn a_reading_is_in_the_line_of_each_of_its_faults() {
        let lines = |labels: Labels| causes(labels).map(name).collect::<Vec<_>>();
        assert_eq!(lines(Labels::default()), ["none"]);
        let both = Labels::default().with(Fault::Truncated).with(Fault::Resend);
        assert_eq!(lines(both), ["truncated", "resend"]);
    }
}
