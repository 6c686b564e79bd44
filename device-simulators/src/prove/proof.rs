//! The result of a run with one fault: the comparison of ledger and topics, what the devices observed, and whether the promise held.
//!
//! It fails on any loss, any disorder within a device, any record that cannot be read, and where the comparison is not
//! complete. Duplicates are allowed (at least once), but counted, beside the number of times that somebody had reason to
//! send a reading again.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::fault::{CLOCK_AHEAD_S, CLOCK_BEHIND_S, Fault};
use super::gateway_metrics::GatewayMetrics;
use super::{rotation, storm};
use crate::balance::Balance;
use crate::counters::{Counters, Problem, Tally};
use crate::fleet::FleetOutcome;
use crate::ledger::{Found, LostRange, Reconciliation};
use crate::phases::{Phase, PhaseSummary, Phases};
use crate::report::{grouped, milliseconds};
use crate::uplinks::Protocol;

/// How many problems the table shows; the JSON has all that were kept.
const PROBLEMS_SHOWN: usize = 6;

/// How exactly the clock must have been where it was set: a record has an age of its own.
const CLOCK_TOLERANCE_S: i64 = 20;

/// How long it may take until Kafka confirms a record again after the last repair.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(15);

/// In so many events a fenced broker makes some producer forget all brokers: about a quarter do.
const FENCED_FOR_SURE: usize = 20;

/// What happened during the run, as the runner saw it.
#[derive(Clone, Debug, Default)]
pub struct RunLog {
    /// When each phase that was entered began, counted from the start of the fleet, and when the last one ended.
    pub phases: Vec<(Phase, Duration)>,
    pub ended: Duration,
    pub actions: Vec<ActionLine>,
    pub kills: u64,
    /// Kills of a gateway that had acknowledged something since the one before.
    pub kills_under_load: u64,
    /// How long it took after each fence of Kafka until it confirmed records, and went on to do so.
    pub confirmed_after: Vec<Duration>,
    /// The most readings that were acknowledged and not yet in Kafka, as far as the reader of the topics could see.
    pub behind_max: u64,
    /// The least and the greatest age of a record when it was read, by its own time.
    pub record_ages: Option<(i64, i64)>,
    pub storm: Option<storm::Figures>,
    pub rotation: Option<rotation::Figures>,
    /// What went wrong in words, such as an exit code.
    pub failures: Vec<String>,
    /// What a reader ought to know.
    pub notes: Vec<String>,
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ActionLine {
    /// Since the start of the fleet.
    pub at_s: f64,
    pub what: String,
}

/// The result of a run with one fault.
#[derive(Clone, Debug, Serialize)]
pub struct Proof {
    pub fault: Fault,
    pub seed: u64,
    pub holds: bool,
    pub failures: Vec<String>,
    pub notes: Vec<String>,
    pub seconds: f64,
    #[serde(flatten)]
    pub tally: Tally,
    pub in_kafka: u64,
    /// Of these, those found more than once.
    pub in_kafka_more_than_once: u64,
    pub dead_lettered: u64,
    pub lost: u64,
    pub out_of_order: u64,
    pub duplicates: u64,
    pub reasons_for_duplicates: Reasons,
    pub extra: u64,
    pub unreadable: u64,
    pub kafka_read_to_end: bool,
    pub behind_max: u64,
    /// Seconds; below 0 where the gateway's clock was ahead.
    pub record_ages: Option<(i64, i64)>,
    pub kills: u64,
    pub kills_under_load: u64,
    /// From the last SIGCONT to the first record that Kafka confirmed without another break.
    pub confirmed_after_s: Vec<f64>,
    /// By the gateway, because they knew no broker any more or had failed for good.
    pub producers_replaced: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm: Option<storm::Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<rotation::Figures>,
    pub phases: Vec<PhaseLine>,
    pub actions: Vec<ActionLine>,
    pub lost_named: Vec<LostRange>,
    pub unreadable_because: Option<String>,
    pub problems: Vec<Problem>,
    /// What the gateway counted, over all its lives.
    pub gateway: BTreeMap<String, f64>,
    #[serde(skip)]
    pub balance: Balance,
}

/// How often a reading was sent once more, by whom: each time may have made a duplicate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reasons {
    /// By devices, after *busy* or silence.
    pub sent_again: u64,
    /// By CoAP, for want of an acknowledgement.
    pub retransmitted: u64,
    /// By the gateway: records that Kafka had not confirmed, and may have written.
    pub in_doubt: u64,
    /// By the gateway: readings that its spool sent to Kafka.
    pub replayed: u64,
}

/// A phase, as the devices observed it.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseLine {
    pub phase: Phase,
    pub seconds: f64,
    pub sent_per_second: f64,
    pub by_protocol: BTreeMap<Protocol, PhaseSummary>,
}

// === impl Proof ===

impl Proof {
    /// Compares what was acknowledged with what was found. `rate` is what the fleet was to send a second.
    pub fn new(
        (fault, seed, rate): (Fault, u64, u64),
        mut log: RunLog,
        outcome: &FleetOutcome,
        found: &Found,
        metrics: &GatewayMetrics,
    ) -> Proof {
        let counters = &outcome.counters;
        let compared = outcome.ledger.reconcile(found);
        let tally = counters.snapshot().total();
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
            ..
        } = compared;
        let mut proof = Proof {
            fault,
            seed,
            holds: false,
            seconds: rounded(log.ended),
            tally,
            in_kafka,
            in_kafka_more_than_once,
            dead_lettered,
            lost,
            out_of_order,
            duplicates,
            reasons_for_duplicates: Reasons::new(&tally, counters, metrics),
            extra,
            unreadable,
            kafka_read_to_end: found.complete,
            behind_max: log.behind_max,
            record_ages: log.record_ages,
            kills: log.kills,
            kills_under_load: log.kills_under_load,
            confirmed_after_s: log.confirmed_after.iter().copied().map(rounded).collect(),
            producers_replaced: metrics.sum("citygate_kafka_producers_replaced_total") as u64,
            phases: phase_lines(&log, &counters.phases),
            storm: log.storm.take().map(|figures| storm::Figures {
                powerless: phase_lines(&log, &counters.powerless),
                ..figures
            }),
            rotation: log.rotation.take(),
            actions: log.actions,
            lost_named,
            unreadable_because: found.unreadable_because.clone(),
            problems: counters.problems(),
            gateway: metrics.listed(),
            balance,
            failures: log.failures,
            notes: log.notes,
        };
        if outcome.devices_without_account > 0 {
            let devices = outcome.devices_without_account;
            proof
                .failures
                .push(format!("{devices} devices ended without an account"));
        }
        proof.judge();
        proof.remark(rate);
        proof
    }

    /// Adds what the figures themselves say against it, and decides.
    fn judge(&mut self) {
        let wrong = [
            (self.lost, "acknowledged readings are lost"),
            (self.out_of_order, "readings are behind a later one of the same device"),
            (self.unreadable, "records cannot be read"),
        ];
        for (count, what) in wrong.into_iter().filter(|(count, _)| *count > 0) {
            self.failures.push(format!("{} {what}", grouped(count)));
        }
        if !self.kafka_read_to_end {
            self.failures
                .push("Kafka was not read to its end, so nothing is proved".to_owned());
        }
        if self.tally.acknowledged == 0 {
            self.failures
                .push("nothing was acknowledged, so nothing is proved".to_owned());
        }
        let busy = self.phase(Phase::Damage).map_or(0, |line| line.negative());
        if self.fault == Fault::DiskFull && busy == 0 {
            self.failures
                .push("nothing was answered busy: the disk was never full for the spool".to_owned());
        }
        let noticed: u64 = self.phases.iter().map(PhaseLine::negative).sum();
        if self.fault.goes_unnoticed() && noticed > 0 {
            self.failures.push(format!(
                "{} answers were not positive: devices noticed what they must not",
                grouped(noticed)
            ));
        }
        let within = CONFIRMED_WITHIN.as_secs_f64();
        let late = self
            .confirmed_after_s
            .iter()
            .filter(|seconds| **seconds > within)
            .count();
        if late > 0 {
            self.failures.push(format!(
                "{late} times Kafka was available again for more than {within} s before a record was confirmed"
            ));
        }
        let stepped = |(least, greatest): (i64, i64)| {
            least <= CLOCK_TOLERANCE_S - CLOCK_AHEAD_S && greatest >= CLOCK_BEHIND_S - CLOCK_TOLERANCE_S
        };
        if self.fault == Fault::ClockStepped && !self.record_ages.is_some_and(stepped) {
            self.failures
                .push("the times of the records do not show that the gateway's clock was off".to_owned());
        }
        if self.fault == Fault::KafkaFenced
            && self.producers_replaced == 0
            && self.confirmed_after_s.len() >= FENCED_FOR_SURE
        {
            self.failures.push(format!(
                "no producer was replaced in {} events",
                self.confirmed_after_s.len()
            ));
        }
        let storm = self.storm.as_ref().map(storm::Figures::failures);
        let rotation = self.rotation.as_ref().map(rotation::Figures::failures);
        self.failures.extend([storm, rotation].into_iter().flatten().flatten());
        self.holds = self.failures.is_empty();
    }

    /// Says what is not wrong and yet of interest.
    fn remark(&mut self, rate: u64) {
        let Some(before) = self.phase(Phase::Before) else {
            return;
        };
        let sent = before.sent_per_second;
        if sent < rate as f64 {
            self.notes.push(format!(
                "the fleet sent {sent:.0} readings/s and not the {rate} it was to send"
            ));
        }
        let unexplained = self.duplicates.saturating_sub(self.reasons_for_duplicates.total());
        if unexplained > 0 {
            self.notes.push(format!(
                "{} duplicates more than anybody is known to have sent again",
                grouped(unexplained)
            ));
        }
        if self.fault == Fault::KafkaFenced && self.producers_replaced == 0 {
            let text = "no producer had to be replaced: the gateway never asked a fenced broker";
            self.notes.push(text.to_owned());
        }
        if let Some(line) = self.phase(Phase::Damage)
            && line.negative() == 0
        {
            self.notes
                .push("every answer during the damage was positive".to_owned());
        }
    }

    fn phase(&self, phase: Phase) -> Option<&PhaseLine> {
        self.phases.iter().find(|line| line.phase == phase)
    }
}

impl PhaseLine {
    /// Answers other than yes.
    fn negative(&self) -> u64 {
        self.by_protocol
            .values()
            .map(|summary| summary.answers.negative())
            .sum()
    }
}

impl Reasons {
    fn new(tally: &Tally, counters: &Counters, metrics: &GatewayMetrics) -> Reasons {
        let counted = |name| metrics.sum(name) as u64;
        Reasons {
            sent_again: tally.sent_again,
            retransmitted: counters.retransmissions(),
            in_doubt: counted("citygate_kafka_records_in_doubt_total"),
            replayed: counted("citygate_spool_replayed_total"),
        }
    }

    fn total(&self) -> u64 {
        self.sent_again + self.retransmitted + self.in_doubt + self.replayed
    }
}

fn phase_lines(log: &RunLog, phases: &Phases) -> Vec<PhaseLine> {
    let ends = log.phases.iter().skip(1).map(|(_, began)| *began);
    let ends = ends.chain([log.ended]);
    let lines = log.phases.iter().zip(ends).map(|(&(phase, began), ended)| {
        let seconds = ended.saturating_sub(began).as_secs_f64();
        let summary = Protocol::ALL.map(|protocol| (protocol, phases.summary(phase, protocol)));
        let sent: u64 = summary.iter().map(|(_, summary)| summary.answers.sent).sum();
        PhaseLine {
            phase,
            seconds: (seconds * 10.0).round() / 10.0,
            sent_per_second: (sent as f64 / seconds.max(0.001)).round(),
            by_protocol: summary.into_iter().collect(),
        }
    });
    lines.collect()
}

fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} (seed {})", self.fault, self.fault.about(), self.seed)?;
        writeln!(
            f,
            "{:<8}{:>8}{:>9}  {:<6}{:>11}{:>9}{:>12}{:>10}{:>10}{:>10}",
            "phase", "seconds", "sent/s", "", "positive", "busy", "unanswered", "rejected", "p50", "p99"
        )?;
        let is_spoken = |protocol: &Protocol| {
            let summaries = self.phases.iter().filter_map(|line| line.by_protocol.get(protocol));
            summaries.map(|summary| summary.answers.sent).sum::<u64>() > 0
        };
        for line in self.phases.iter().filter(|line| line.phase != Phase::Start) {
            let spoken = line.by_protocol.iter().filter(|(protocol, _)| is_spoken(protocol));
            for (index, (protocol, summary)) in spoken.enumerate() {
                if index == 0 {
                    let rate = grouped(line.sent_per_second as u64);
                    let phase = self.fault.phase_name(line.phase);
                    write!(f, "{phase:<8}{:>8.1}{rate:>9}  ", line.seconds)?;
                } else {
                    write!(f, "{:27}", "")?;
                }
                let answers = summary.answers;
                writeln!(
                    f,
                    "{protocol:<6}{:>11}{:>9}{:>12}{:>10}{:>10}{:>10}",
                    grouped(answers.positive),
                    grouped(answers.busy),
                    grouped(answers.unanswered),
                    grouped(answers.rejected),
                    milliseconds(summary.latency.p50_ms),
                    milliseconds(summary.latency.p99_ms),
                )?;
            }
        }
        writeln!(f)?;
        self.write_sums(f)?;
        for range in &self.lost_named {
            let (device, kind, protocol) = (&range.device, range.kind, range.protocol);
            let (first, last) = (range.first, range.last);
            writeln!(f, "LOST {device} ({kind}, {protocol}): {first} to {last}")?;
        }
        if let Some(why) = &self.unreadable_because {
            writeln!(f, "unreadable: {why}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        write!(
            f,
            "{} {}: {}, out of order {}, duplicates {}",
            if self.holds { "ok    " } else { "FAILED" },
            self.fault,
            self.balance,
            grouped(self.out_of_order),
            grouped(self.duplicates)
        )
    }
}

impl Proof {
    fn write_sums(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reasons {
            sent_again,
            retransmitted,
            in_doubt,
            replayed,
        } = self.reasons_for_duplicates;
        let [sent_again, retransmitted, in_doubt, replayed] =
            [sent_again, retransmitted, in_doubt, replayed].map(grouped);
        let duplicates = format!(
            "may come from {sent_again} readings that devices sent again, {retransmitted} CoAP retransmissions, \
             {in_doubt} records in doubt, {replayed} replayed"
        );
        let killed = format!("of {} kills of the gateway found it under load", grouped(self.kills));
        let rows = [
            (true, self.tally.acknowledged, "acknowledged"),
            (true, self.balance.once, "of them in Kafka once"),
            (true, self.balance.more_than_once, "of them in Kafka more than once"),
            (
                self.dead_lettered > 0,
                self.dead_lettered,
                "of them, by MQTT 3.1.1, in the dead-letter topic",
            ),
            (
                self.balance.again > 0,
                self.balance.again,
                "of them for a reading that was acknowledged before: its device had to send it again",
            ),
            (
                self.balance.not_compared > 0,
                self.balance.not_compared,
                "of them long ago amid many gaps: counted, not compared",
            ),
            (true, self.lost, "lost"),
            (true, self.out_of_order, "out of order"),
            (
                self.duplicates > 0,
                self.duplicates,
                &format!("duplicates: {duplicates}"),
            ),
            (
                self.extra > 0,
                self.extra,
                "in Kafka without an acknowledgement (allowed: the answer got lost)",
            ),
            (true, self.behind_max, "at most were acknowledged and not yet in Kafka"),
            (self.kills > 0, self.kills_under_load, &killed),
        ];
        if !self.confirmed_after_s.is_empty() {
            let times: Vec<_> = self
                .confirmed_after_s
                .iter()
                .map(|seconds| format!("{seconds:.1}"))
                .collect();
            writeln!(
                f,
                "{:>14} producers replaced by the gateway; seconds until a record was confirmed again: {}",
                grouped(self.producers_replaced),
                times.join(" ")
            )?;
        }
        for (is_shown, count, what) in rows {
            if is_shown {
                writeln!(f, "{:>14} {what}", grouped(count))?;
            }
        }
        if let Some(storm) = &self.storm {
            write!(f, "{storm}")?;
        }
        if let Some(rotation) = &self.rotation {
            write!(f, "{rotation}")?;
        }
        for problem in self.problems.iter().take(PROBLEMS_SHOWN) {
            writeln!(f, "{:>13}× {}", grouped(problem.times), problem.what)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::End;
    use crate::devices::Kind;
    use crate::ledger::{Account, Ledger};
    use std::sync::Arc;

    /// A device that was told yes to the readings 1 to 4, and what Kafka holds of it.
    fn proof(fault: Fault, in_kafka: &[u64], change: impl FnOnce(&mut RunLog, &mut Found)) -> Proof {
        let counters = Arc::new(Counters::new());
        let mut account = Account::new("loop-1", Kind::TRAFFIC, Protocol::Mqtt);
        account.acknowledged = (1..=4).collect();
        counters.sent(Protocol::Mqtt, Kind::TRAFFIC, 4);
        for _ in 0..4 {
            counters.ended(Protocol::Mqtt, Kind::TRAFFIC, End::Acknowledged);
        }
        let mut found = Found::default();
        found.complete = true;
        for &sequence in in_kafka {
            found.record("loop-1", sequence);
        }
        let second = Duration::from_secs(1);
        let mut log = RunLog {
            phases: vec![(Phase::Before, Duration::ZERO), (Phase::Damage, second)],
            ended: 3 * second,
            ..RunLog::default()
        };
        change(&mut log, &mut found);
        let outcome = FleetOutcome {
            ledger: Ledger {
                accounts: vec![account],
            },
            counters,
            devices_without_account: 0,
        };
        Proof::new((fault, 7, 2000), log, &outcome, &found, &GatewayMetrics::default())
    }

    #[test]
    fn loss_and_disorder_fail_and_duplicates_do_not() {
        let check = |in_kafka: &[u64], holds: bool, last_line: &str| {
            let proof = proof(Fault::KafkaStopped, in_kafka, |_, _| {});
            assert_eq!(proof.holds, holds, "{in_kafka:?}: {:?}", proof.failures);
            assert_eq!(proof.to_string().lines().last().unwrap(), last_line, "{proof}");
        };
        check(
            &[1, 2, 3, 4],
            true,
            "ok     kafka-stopped: acknowledged 4: 4 in Kafka once, 0 more than once, lost 0, out of order 0, duplicates 0",
        );
        check(
            &[1, 2, 3, 2, 3, 4, 5],
            true,
            "ok     kafka-stopped: acknowledged 4: 2 in Kafka once, 2 more than once, lost 0, out of order 0, duplicates 2",
        );
        check(
            &[1, 2, 4],
            false,
            "FAILED kafka-stopped: acknowledged 4: 3 in Kafka once, 0 more than once, lost 1, out of order 0, duplicates 0",
        );
        check(
            &[1, 3, 2, 4],
            false,
            "FAILED kafka-stopped: acknowledged 4: 4 in Kafka once, 0 more than once, lost 0, out of order 1, duplicates 0",
        );
    }

    #[test]
    fn what_proves_nothing_does_not_hold() {
        let all = [1, 2, 3, 4];
        let check = |proof: Proof, expected: &str| {
            assert!(!proof.holds);
            assert!(proof.to_string().contains(expected), "{proof}");
        };
        let incomplete = proof(Fault::Calm, &all, |_, found| found.complete = false);
        check(incomplete, "FAILED: Kafka was not read to its end");
        let unreadable = proof(Fault::Calm, &all, |_, found| found.unreadable(|| "no key".to_owned()));
        check(unreadable, "FAILED: 1 records cannot be read");
        check(
            proof(Fault::DiskFull, &all, |_, _| {}),
            "FAILED: nothing was answered busy",
        );
        check(
            proof(Fault::ClockStepped, &all, |log, _| log.record_ages = Some((-1800, 3))),
            "FAILED: the times of the records",
        );
        let stepped = proof(Fault::ClockStepped, &all, |log, _| log.record_ages = Some((-1799, 250)));
        assert!(stepped.holds, "{stepped}");
        let fenced = |seconds| {
            proof(Fault::KafkaFenced, &all, |log, _| {
                log.confirmed_after = vec![Duration::from_secs(2), Duration::from_secs_f64(seconds)];
            })
        };
        check(fenced(15.1), "FAILED: 1 times Kafka was available again");
        assert!(fenced(3.0).to_string().contains("note: no producer had to be replaced"));
        let often = |events| {
            proof(Fault::KafkaFenced, &all, |log, _| {
                log.confirmed_after = vec![Duration::from_secs(2); events];
            })
        };
        assert!(often(19).holds);
        check(often(20), "FAILED: no producer was replaced in 20 events");
        let back = fenced(14.9);
        assert!(back.holds, "{back}");
        assert!(
            back.to_string()
                .contains("until a record was confirmed again: 2.0 14.9"),
            "{back}"
        );
        let died = proof(Fault::Drain, &all, |log, _| log.failures.push("exit code 1".to_owned()));
        check(died, "FAILED: exit code 1");
    }

    #[test]
    fn the_json_names_what_others_rely_on() {
        let proof = proof(Fault::TwoOfThreeKilled, &[1, 2, 2, 3, 4], |log, _| {
            log.actions.push(ActionLine {
                at_s: 1.5,
                what: "x".to_owned(),
            });
        });
        let json = serde_json::to_value(&proof).unwrap();
        let check = |pointer: &str, expected: serde_json::Value| {
            assert_eq!(json.pointer(pointer), Some(&expected), "{pointer} of {json:#}");
        };
        check("/fault", "two-of-three-killed".into());
        check("/holds", true.into());
        check("/acknowledged", 4.into());
        check("/in_kafka", 4.into());
        check("/lost", 0.into());
        check("/duplicates", 1.into());
        check("/out_of_order", 0.into());
        check("/reasons_for_duplicates/in_doubt", 0.into());
        check("/phases/1/phase", "damage".into());
        check("/phases/1/seconds", 2.0.into());
        check("/phases/1/by_protocol/mqtt/busy", 0.into());
        check("/phases/1/by_protocol/mqtt/p99_ms", serde_json::Value::Null);
        check("/actions/0/what", "x".into());
        // One duplicate, and nobody sent anything again.
        assert!(proof.notes.iter().any(|note| note.starts_with("1 duplicates more")));
    }
}
