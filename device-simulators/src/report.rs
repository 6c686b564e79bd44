//! What a run comes to: figures for machines, a table for people.
//!
//! `sent` counts readings, not messages: a reading that had to be sent three times is one. Once a fleet has stopped,
//! `sent = acknowledged + rejected + busy + unanswered`. The devices cannot tell *delivered* from *spooled* (both mean
//! safe), so these two come from the gateway's own metrics where those are known.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::balance::Balance;
use crate::counters::{Counters, Percentiles, Problem, Tally};
use crate::devices::Kind;
use crate::fleet::FleetOutcome;
use crate::grades::{self, Cause, Grade};
use crate::ledger::{Found, LostRange, Reconciliation};
use crate::scenario::Expect;
use crate::scenario::expect::Expectation;
use crate::scenario::runner::Ending;
use crate::uplinks::Protocol;

/// How many problems the table shows; the JSON has all that were kept.
const PROBLEMS_SHOWN: usize = 5;

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub seconds: f64,
    #[serde(flatten)]
    pub tally: Tally,
    /// As the gateway counts them; `null` if it was not asked.
    pub delivered: Option<u64>,
    pub spooled: Option<u64>,
    #[serde(flatten)]
    pub latency: Percentiles,
    /// Of `acknowledged`, those of readings that were acknowledged before: a fault made a device send them again.
    pub acknowledged_again: u64,
    pub in_kafka: u64,
    /// Of these, those found more than once.
    pub in_kafka_more_than_once: u64,
    pub dead_lettered: u64,
    pub lost: u64,
    pub duplicates: u64,
    pub extra: u64,
    pub out_of_order: u64,
    pub unreadable: u64,
    /// Whether Kafka was read to its end; if not, `lost` may be too high.
    pub kafka_read_to_end: bool,
    pub by_protocol: BTreeMap<Protocol, ProtocolLine>,
    pub by_kind: BTreeMap<Kind, KindLine>,
    /// Acknowledged, and only counted: see the ledger.
    pub not_compared: u64,
    pub lost_named: Vec<LostRange>,
    pub duplicates_named: Vec<LostRange>,
    /// By what was wrong with the readings; `none` for nothing.
    pub grades: BTreeMap<&'static str, GradeLine>,
    /// Dead letters by reason: those found, and those that were due for that reason alone.
    pub dead_letter_reasons: BTreeMap<String, u64>,
    pub due_reasons: BTreeMap<&'static str, u64>,
    /// Dead letters that were due for any of several reasons, or that may have been due.
    pub ambiguous: u64,
    /// The scenario that was info.
    pub scenario: Option<ScenarioInfo>,
    /// Why the run ended before its time.
    pub partial: Option<String>,
    /// Whether the run ended because the gateway stopped answering.
    pub gave_up: bool,
    pub expectations: Vec<Expectation>,
    pub unreadable_because: Option<String>,
    pub problems: Vec<Problem>,
    #[serde(skip)]
    pub balance: Balance,
}

/// Which scenario a report is of.
#[derive(Clone, Debug, Serialize)]
pub struct ScenarioInfo {
    pub name: String,
    pub shows: String,
    pub seed: u64,
    pub speed: u32,
    /// The city's time at the start: with the seed, it says what was sent.
    pub city_start: String,
    pub devices: usize,
}

/// How the readings with one fault fared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GradeLine {
    #[serde(flatten)]
    pub grade: Grade,
    /// The share of the answered ones that was rejected.
    pub detected: Option<f64>,
}

/// One protocol's share.
#[derive(Clone, Debug, Serialize)]
pub struct ProtocolLine {
    #[serde(flatten)]
    pub tally: Tally,
    #[serde(flatten)]
    pub latency: Percentiles,
}

/// One kind's share.
#[derive(Clone, Debug, Serialize)]
pub struct KindLine {
    #[serde(flatten)]
    pub tally: Tally,
    pub in_kafka: u64,
    pub lost: u64,
    pub duplicates: u64,
    #[serde(skip)]
    pub balance: Balance,
}

// === impl Report ===

impl Report {
    /// Compares what `outcome` says was acknowledged with what was `found`, after a run of `elapsed`.
    pub fn new(outcome: &FleetOutcome, found: &Found, elapsed: Duration) -> Report {
        let counters = &outcome.counters;
        let snapshot = counters.snapshot();
        let compared = outcome.ledger.reconcile(found);
        let tally = snapshot.total();
        let balance = Balance::new(tally.acknowledged, &compared);
        let Reconciliation {
            in_kafka,
            in_kafka_more_than_once,
            dead_lettered,
            lost,
            lost_named,
            duplicates,
            extra,
            out_of_order,
            unreadable,
            not_compared,
            duplicates_named,
            ..
        } = compared;
        let mut table = counters.grades.table();
        outcome.ledger.grade(found, &mut table);
        let grade_line = |(cause, grade): (&Cause, &Grade)| {
            let detected = grade.detected();
            (
                grades::name(*cause),
                GradeLine {
                    grade: *grade,
                    detected,
                },
            )
        };
        let protocol_line = |protocol| {
            let tally = snapshot.of_protocol(protocol);
            let latency = counters.percentiles_of(protocol);
            (protocol, ProtocolLine { tally, latency })
        };
        let kind_line = |kind| {
            let compared = outcome.ledger.reconcile_kind(found, kind);
            let tally = snapshot.of_kind(kind);
            let line = KindLine {
                balance: Balance::new(tally.acknowledged, &compared),
                tally,
                in_kafka: compared.in_kafka,
                lost: compared.lost,
                duplicates: compared.duplicates,
            };
            (kind, line)
        };
        Report {
            seconds: (elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
            tally,
            delivered: None,
            spooled: None,
            latency: counters.percentiles(),
            acknowledged_again: balance.again,
            in_kafka,
            in_kafka_more_than_once,
            dead_lettered,
            lost,
            duplicates,
            extra,
            out_of_order,
            unreadable,
            kafka_read_to_end: found.complete,
            by_protocol: Protocol::ALL.into_iter().map(protocol_line).collect(),
            by_kind: snapshot.kinds().into_iter().map(kind_line).collect(),
            not_compared,
            lost_named,
            duplicates_named,
            grades: table.lines.iter().map(grade_line).collect(),
            dead_letter_reasons: found.dead_letter_reasons.clone(),
            due_reasons: table.due_reasons,
            ambiguous: table.ambiguous,
            scenario: None,
            partial: None,
            gave_up: false,
            expectations: Vec::new(),
            unreadable_because: found.unreadable_because.clone(),
            problems: counters.problems(),
            balance,
        }
    }

    /// Adds what only the gateway can tell apart.
    pub fn with_gateway(mut self, delivered: u64, spooled: u64) -> Report {
        self.delivered = Some(delivered);
        self.spooled = Some(spooled);
        self
    }

    /// Says that the run ended before its time, and why.
    pub fn with_ending(mut self, ending: &Ending) -> Report {
        self.partial = match ending {
            Ending::InTime => None,
            Ending::Interrupted => Some("interrupted".to_owned()),
            Ending::GaveUp { because } => Some(because.clone()),
        };
        self.gave_up = matches!(ending, Ending::GaveUp { .. });
        self
    }

    /// Checks the report against what a scenario expects.
    pub fn with_scenario(mut self, info: ScenarioInfo, expect: &Expect) -> Report {
        self.expectations = expect.check(&self);
        self.scenario = Some(info);
        self
    }

    /// The share of the answered readings whose verdict is the one that they deserve.
    pub fn as_expected(&self) -> Option<f64> {
        let grades = || self.grades.values().map(|line| line.grade);
        let answered: u64 = grades().map(|grade| grade.accepted + grade.rejected).sum();
        grades::share(grades().map(|grade| grade.as_expected).sum(), answered)
    }

    /// The promise was kept, and tested: readings got a positive answer, none of them is missing, the gateway answered to
    /// the end, and whatever a scenario expects did hold.
    pub fn passed(&self) -> bool {
        let expected = self.expectations.iter().all(|expectation| expectation.holds);
        self.lost == 0 && self.tally.acknowledged > 0 && !self.gave_up && expected
    }

    fn table(&self) -> Vec<Row> {
        let columns = || {
            let of_protocols = self.by_protocol.values().map(|line| (line.tally, line.latency));
            std::iter::once((self.tally, self.latency)).chain(of_protocols)
        };
        let count = |name: &'static str, value: fn(&Tally) -> u64| Row {
            name,
            cells: columns().map(|(tally, _)| grouped(value(&tally))).collect(),
        };
        let time = |name: &'static str, value: fn(&Percentiles) -> Option<f64>| Row {
            name,
            cells: columns().map(|(_, latency)| milliseconds(value(&latency))).collect(),
        };
        let names = Protocol::ALL.into_iter().map(|protocol| protocol.name().to_owned());
        vec![
            Row {
                name: "",
                cells: std::iter::once("all".to_owned()).chain(names).collect(),
            },
            count("sent", |tally| tally.sent),
            count("acknowledged", |tally| tally.acknowledged),
            count("rejected", |tally| tally.rejected),
            count("busy", |tally| tally.busy),
            count("unanswered", |tally| tally.unanswered),
            count("sent again", |tally| tally.sent_again),
            time("p50", |latency| latency.p50_ms),
            time("p99", |latency| latency.p99_ms),
        ]
    }
}

impl Report {
    /// Faults × outcomes; nothing where there were no faults and all was as expected.
    fn write_grades(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amiss = |line: &GradeLine| line.grade.as_expected < line.grade.accepted + line.grade.rejected;
        if self.grades.len() < 2 && !self.grades.values().any(amiss) {
            return Ok(());
        }
        let columns = ["sent", "accepted", "rejected", "open", "as expected", "not so"];
        write!(f, "\n{:<14}", "fault")?;
        columns.iter().try_for_each(|column| write!(f, "{column:>12}"))?;
        writeln!(f)?;
        for (name, GradeLine { grade, .. }) in &self.grades {
            let wrong = (grade.accepted + grade.rejected).saturating_sub(grade.as_expected);
            let cells = [
                grade.sent,
                grade.accepted,
                grade.rejected,
                grade.open,
                grade.as_expected,
                wrong,
            ];
            write!(f, "{name:<14}")?;
            cells.iter().try_for_each(|cell| write!(f, "{:>12}", grouped(*cell)))?;
            writeln!(f)?;
        }
        for (reason, there) in &self.dead_letter_reasons {
            let due = self.due_reasons.get(reason.as_str()).copied().unwrap_or(0);
            let (there, due) = (grouped(*there), grouped(due));
            writeln!(
                f,
                "dead letters: {there} {reason}, {due} were due for that reason alone"
            )?;
        }
        writeln!(f)
    }
}

impl fmt::Display for LostRange {
    /// `loop-00417 (traffic, mqtt): 12 to 15, sent between 07:58:01 and 07:58:09`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LostRange {
            device,
            kind,
            protocol,
            first,
            last,
            from_ms,
            until_ms,
        } = self;
        write!(f, "{device} ({kind}, {protocol}): {first} to {last}")?;
        let time = |ms: &Option<i64>| ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        match (time(from_ms), time(until_ms)) {
            (Some(from), Some(until)) => {
                let (from, until) = (from.strftime("%H:%M:%S"), until.strftime("%H:%M:%S"));
                write!(f, ", sent between {from} and {until} UTC")
            }
            _ => Ok(()),
        }
    }
}

/// A line of the table: right-aligned cells behind a name.
struct Row {
    name: &'static str,
    cells: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in self.table() {
            write!(f, "{:<14}", row.name)?;
            for cell in row.cells {
                write!(f, "{cell:>12}")?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        for (kind, line) in &self.by_kind {
            let sent = grouped(line.tally.sent);
            writeln!(f, "{kind:<14}{sent:>12} sent, {}", line.balance)?;
        }
        self.write_grades(f)?;
        if let (Some(delivered), Some(spooled)) = (self.delivered, self.spooled) {
            let (delivered, spooled) = (grouped(delivered), grouped(spooled));
            writeln!(f, "the gateway says: {delivered} delivered, {spooled} spooled")?;
        }
        writeln!(f)?;
        let named = [
            (
                self.dead_lettered,
                "acknowledged by MQTT 3.1.1 and kept in the dead-letter topic",
            ),
            (
                self.acknowledged_again,
                "acknowledged once more: a fault made the device send them again",
            ),
            (self.duplicates, "duplicates (allowed: at least once)"),
            (
                self.extra,
                "in Kafka without an acknowledgement (allowed: the answer got lost)",
            ),
            (self.out_of_order, "behind a later reading of the same device"),
            (self.unreadable, "records that could not be read"),
            (
                self.not_compared,
                "acknowledged long ago amid many gaps: counted, not compared",
            ),
        ];
        for (count, what) in named.into_iter().filter(|(count, _)| *count > 0) {
            writeln!(f, "{:>14} {what}", grouped(count))?;
        }
        if let Some(why) = &self.unreadable_because {
            writeln!(f, "{:>14} {why}", "first:")?;
        }
        for problem in self.problems.iter().take(PROBLEMS_SHOWN) {
            writeln!(f, "{:>13}× {}", grouped(problem.times), problem.what)?;
        }
        for (what, ranges) in [("LOST", &self.lost_named), ("twice", &self.duplicates_named)] {
            for range in ranges {
                writeln!(f, "{what} {range}")?;
            }
        }
        if !self.kafka_read_to_end {
            writeln!(
                f,
                "Kafka was not read to its end in time: what is missing may still arrive"
            )?;
        }
        for Expectation {
            what,
            wanted,
            is,
            holds,
        } in &self.expectations
        {
            let verdict = if *holds { "ok    " } else { "FAILED" };
            writeln!(f, "{verdict} {what:<26} {is:<16} expected: {wanted}")?;
        }
        if let Some(why) = &self.partial {
            writeln!(f, "PARTIAL after {:.0} s: {why}", self.seconds)?;
        }
        write!(f, "{}", self.balance)
    }
}

/// One line on a running fleet: seconds, tallies, and how many records were read from the topics.
pub fn live_line(elapsed: Duration, counters: &Counters, records: u64) -> String {
    let Tally {
        sent,
        acknowledged,
        rejected,
        busy,
        unanswered,
        sent_again,
    } = counters.snapshot().total();
    let waiting = sent.saturating_sub(acknowledged + rejected + busy + unanswered);
    let latency = counters.percentiles();
    format!(
        "{:>4} s  sent {}  acknowledged {}  records in Kafka {}  waiting {}  rejected {}  busy {}  unanswered {}  sent again {}  p50 {}  p99 {}",
        elapsed.as_secs(),
        grouped(sent),
        grouped(acknowledged),
        grouped(records),
        grouped(waiting),
        grouped(rejected),
        grouped(busy),
        grouped(unanswered),
        grouped(sent_again),
        milliseconds(latency.p50_ms),
        milliseconds(latency.p99_ms),
    )
}

/// `1234567` as `1,234,567`.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn milliseconds(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 10.0 => format!("{value:.1} ms"),
        Some(value) => format!("{value:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::End;
    use crate::ledger::{Account, Ledger};
    use std::sync::Arc;

    fn report(in_kafka: &[u64]) -> Report {
        let counters = Arc::new(Counters::new());
        let mut account = Account::new("loop-1", Kind::TRAFFIC, Protocol::Coap);
        account.acknowledged = (1..=3).collect();
        account.busy = (4..=4).collect();
        counters.sent(Protocol::Coap, Kind::TRAFFIC, 4);
        for end in [End::Acknowledged, End::Acknowledged, End::Acknowledged, End::Busy] {
            counters.ended(Protocol::Coap, Kind::TRAFFIC, end);
        }
        counters.latency(Protocol::Coap, Duration::from_millis(4));
        let outcome = FleetOutcome {
            ledger: Ledger {
                accounts: vec![account],
            },
            counters,
            devices_without_account: 0,
        };
        let mut found = Found::default();
        found.complete = true;
        for &sequence in in_kafka {
            found.record("loop-1", sequence);
        }
        Report::new(&outcome, &found, Duration::from_secs(2))
    }

    #[test]
    fn only_a_loss_fails() {
        let check = |in_kafka: &[u64], passed: bool, last_line: &str| {
            let report = report(in_kafka);
            assert_eq!(report.passed(), passed, "{in_kafka:?}");
            assert_eq!(report.to_string().lines().last().unwrap(), last_line);
        };
        check(
            &[1, 2, 3],
            true,
            "acknowledged 3: 3 in Kafka once, 0 more than once, lost 0",
        );
        check(
            &[1, 2, 2, 3, 4],
            true,
            "acknowledged 3: 2 in Kafka once, 1 more than once, lost 0",
        );
        check(
            &[1, 3],
            false,
            "acknowledged 3: 2 in Kafka once, 0 more than once, lost 1",
        );
    }

    #[test]
    fn the_json_names_what_others_rely_on() {
        let json = serde_json::to_value(report(&[1, 1, 2, 3]).with_gateway(2, 1)).unwrap();
        let check = |pointer: &str, expected: f64| {
            let value = json.pointer(pointer).and_then(serde_json::Value::as_f64);
            assert_eq!(value, Some(expected), "{pointer} of {json:#}");
        };
        check("/sent", 4.0);
        check("/acknowledged", 3.0);
        check("/delivered", 2.0);
        check("/spooled", 1.0);
        check("/rejected", 0.0);
        check("/busy", 1.0);
        check("/unanswered", 0.0);
        check("/in_kafka", 3.0);
        check("/in_kafka_more_than_once", 1.0);
        check("/lost", 0.0);
        check("/duplicates", 1.0);
        check("/by_protocol/coap/acknowledged", 3.0);
        check("/by_protocol/mqtt/sent", 0.0);
        check("/by_kind/traffic/in_kafka", 3.0);
        check("/by_kind/energy/lost", 0.0);
        assert!(json.pointer("/p50_ms").unwrap().is_f64());
        assert!(json.pointer("/by_protocol/mqtt/p99_ms").unwrap().is_null());
    }

    #[test]
    fn numbers_are_grouped() {
        let check = |value: u64, expected: &str| assert_eq!(grouped(value), expected);
        check(0, "0");
        check(999, "999");
        check(1000, "1,000");
        check(1_234_567, "1,234,567");
    }
}
