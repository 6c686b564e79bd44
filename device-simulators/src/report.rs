//! What a run comes to: figures for machines, a table for people.
//!
//! `sent` counts readings, not messages: a reading that had to be sent three times is one. Once a fleet has stopped,
//! `sent = acknowledged + rejected + busy + unanswered`. The devices cannot tell *delivered* from *spooled* (both mean
//! safe), so these two come from the gateway's own metrics where somebody has them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::counters::{Complaint, Counters, Percentiles, Tally};
use crate::devices::Kind;
use crate::fleet::FleetOutcome;
use crate::ledger::{Found, Reconciliation};
use crate::uplinks::Protocol;

/// How many complaints the table shows; the JSON has all that were kept.
const COMPLAINTS_SHOWN: usize = 5;

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub seconds: f64,
    #[serde(flatten)]
    pub tally: Tally,
    /// As the gateway counts them; `null` if nobody asked it.
    pub delivered: Option<u64>,
    pub spooled: Option<u64>,
    #[serde(flatten)]
    pub latency: Percentiles,
    pub in_kafka: u64,
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
    pub lost_named: Vec<crate::ledger::LostRange>,
    pub unreadable_because: Option<String>,
    pub complaints: Vec<Complaint>,
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
}

// === impl Report ===

impl Report {
    /// Compares what `outcome` says was acknowledged with what was `found`, after a run of `elapsed`.
    pub fn new(outcome: &FleetOutcome, found: &Found, elapsed: Duration) -> Report {
        let counters = &outcome.counters;
        let snapshot = counters.snapshot();
        let Reconciliation {
            in_kafka,
            dead_lettered,
            lost,
            lost_named,
            duplicates,
            extra,
            out_of_order,
            unreadable,
            ..
        } = outcome.ledger.reconcile(found);
        let protocol_line = |protocol| {
            let tally = snapshot.of_protocol(protocol);
            let latency = counters.percentiles_of(protocol);
            (protocol, ProtocolLine { tally, latency })
        };
        let kind_line = |kind| {
            let compared = outcome.ledger.reconcile_kind(found, kind);
            let line = KindLine {
                tally: snapshot.of_kind(kind),
                in_kafka: compared.in_kafka,
                lost: compared.lost,
                duplicates: compared.duplicates,
            };
            (kind, line)
        };
        Report {
            seconds: (elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
            tally: snapshot.total(),
            delivered: None,
            spooled: None,
            latency: counters.percentiles(),
            in_kafka,
            dead_lettered,
            lost,
            duplicates,
            extra,
            out_of_order,
            unreadable,
            kafka_read_to_end: found.complete,
            by_protocol: Protocol::ALL.into_iter().map(protocol_line).collect(),
            by_kind: Kind::ALL.into_iter().map(kind_line).collect(),
            lost_named,
            unreadable_because: found.unreadable_because.clone(),
            complaints: counters.complaints(),
        }
    }

    /// Adds what only the gateway can tell apart.
    pub fn with_gateway(mut self, delivered: u64, spooled: u64) -> Report {
        self.delivered = Some(delivered);
        self.spooled = Some(spooled);
        self
    }

    /// The promise was kept, and tested: readings got a positive answer, and none of them is missing.
    pub fn passed(&self) -> bool {
        self.lost == 0 && self.tally.acknowledged > 0
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
            let (sent, there, acknowledged) = (line.tally.sent, line.in_kafka, line.tally.acknowledged);
            let (sent, there, acknowledged) = (grouped(sent), grouped(there), grouped(acknowledged));
            writeln!(
                f,
                "{kind:<14}{sent:>12} sent, {there} of {acknowledged} acknowledged are in Kafka"
            )?;
        }
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
            (self.duplicates, "duplicates (allowed: at least once)"),
            (
                self.extra,
                "in Kafka without an acknowledgement (allowed: the answer got lost)",
            ),
            (self.out_of_order, "behind a later reading of the same device"),
            (self.unreadable, "records that could not be read"),
        ];
        for (count, what) in named.into_iter().filter(|(count, _)| *count > 0) {
            writeln!(f, "{:>14} {what}", grouped(count))?;
        }
        if let Some(why) = &self.unreadable_because {
            writeln!(f, "{:>14} {why}", "first:")?;
        }
        for complaint in self.complaints.iter().take(COMPLAINTS_SHOWN) {
            writeln!(f, "{:>13}× {}", grouped(complaint.times), complaint.what)?;
        }
        for range in &self.lost_named {
            let (device, kind, protocol) = (&range.device, range.kind, range.protocol);
            writeln!(
                f,
                "LOST {device} ({kind}, {protocol}): {} to {}",
                range.first, range.last
            )?;
        }
        if !self.kafka_read_to_end {
            writeln!(
                f,
                "Kafka was not read to its end in time: what is missing may still be there"
            )?;
        }
        let (acknowledged, there) = (grouped(self.tally.acknowledged), grouped(self.in_kafka));
        write!(
            f,
            "acknowledged {acknowledged}, in Kafka {there}, lost {}",
            grouped(self.lost)
        )
    }
}

/// One line on a running fleet: seconds, tallies, and how many records a follower has seen.
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
        "{:>4} s  sent {}  acknowledged {}  in Kafka {}  waiting {}  rejected {}  busy {}  unanswered {}  sent again {}  p50 {}  p99 {}",
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

/// 1234567 as `1 234 567`.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
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
    use crate::ledger::{Ledger, Page};
    use std::sync::Arc;

    fn report(in_kafka: &[u64]) -> Report {
        let counters = Arc::new(Counters::new());
        let mut page = Page::new("loop-1", Kind::Traffic, Protocol::Coap);
        page.acknowledged = (1..=3).collect();
        page.busy = (4..=4).collect();
        counters.sent(Protocol::Coap, Kind::Traffic, 4);
        for end in [End::Acknowledged, End::Acknowledged, End::Acknowledged, End::Busy] {
            counters.ended(Protocol::Coap, Kind::Traffic, end);
        }
        counters.latency(Protocol::Coap, Duration::from_millis(4));
        let outcome = FleetOutcome {
            ledger: Ledger { pages: vec![page] },
            counters,
            devices_without_page: 0,
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
        check(&[1, 2, 3], true, "acknowledged 3, in Kafka 3, lost 0");
        check(&[1, 2, 2, 3, 4], true, "acknowledged 3, in Kafka 3, lost 0");
        check(&[1, 3], false, "acknowledged 3, in Kafka 2, lost 1");
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
        check(1000, "1 000");
        check(1_234_567, "1 234 567");
    }
}
