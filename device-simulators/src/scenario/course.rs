//! The course of a run: what happens when, what is said about it, and when it is over.
//!
//! A run ends in time, by Ctrl-C, or because the gateway has not answered anything for too long; each ends in a report. An
//! outage of Kafka is made by freezing a process that the caller names (SIGSTOP, and SIGCONT whatever happens), or by the
//! caller's own hand, when told so; a scenario file cannot run commands.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep_until};

use super::{Scenario, cast};
use crate::counters::Counters;
use crate::fleet::{Fleet, FleetConfig};
use crate::follower::{Follower, FollowerConfig};
use crate::report::{Played, Report, live_line};

/// How long the records are waited for of a gateway that went away.
const PATIENCE_WHEN_GIVEN_UP: Duration = Duration::from_secs(5);

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    InTime,
    /// Ctrl-C.
    Interrupted,
    /// Nothing was answered any more.
    GaveUp {
        because: String,
    },
}

/// Who makes an outage of Kafka.
#[derive(Clone, Copy, Debug)]
pub enum Outages {
    /// This process is frozen.
    Freeze(Pid),
    /// Somebody is told to do it.
    ByHand,
}

/// What happens at a time after the start, by the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cue {
    Say(String),
    KafkaUnavailable(Duration),
    KafkaBack,
}

/// How long, and with how much patience.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// By the clock.
    pub length: Duration,
    /// So long without any answer while something waits for one, and the gateway is given up.
    pub give_up: Duration,
    /// How long to wait at the end for readings that are on their way to Kafka.
    pub patience: Duration,
}

/// A run to be watched.
pub struct Course {
    limits: Limits,
    /// The earliest first.
    cues: VecDeque<(Duration, Cue)>,
    outages: Option<Outages>,
    frozen: Option<Frozen>,
}

/// A process that does not run, until this is dropped.
struct Frozen(Pid);

/// Whether answers come.
struct Silence {
    heard: u64,
    unanswered: u64,
    since: Instant,
}

/// Plays a scenario: starts the fleet, watches it, compares, and holds the result against what is expected.
///
/// Fails if Kafka cannot be read, or if nobody makes the outage that the scenario is about.
pub async fn play(
    scenario: &Scenario,
    fleet: FleetConfig,
    follower: FollowerConfig,
    limits: Limits,
    outages: Option<Outages>,
) -> anyhow::Result<Report> {
    anyhow::ensure!(
        scenario.kafka_outages.is_empty() || outages.is_some(),
        "{} takes Kafka away: give the id of its process, --freeze-pid PID, or do it yourself when told, --by-hand",
        scenario.name
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start_ms = cast::start_ms(scenario, now.as_millis() as i64);
    let played = Played {
        name: scenario.name.clone(),
        shows: scenario.shows.clone(),
        seed: scenario.seed,
        speed: scenario.speed,
        city_start: Timestamp::from_millisecond(start_ms)?.to_string(),
        devices: scenario.devices(),
    };
    eprintln!("{}: {}", played.name, played.shows);
    eprintln!(
        "{} devices, {:.0} s, from {} at {} times the clock's speed",
        played.devices,
        limits.length.as_secs_f64(),
        played.city_start,
        played.speed
    );
    let parts = cast::parts(scenario, start_ms);
    let report = Course::new(limits, cues(scenario), outages)
        .run(|| Fleet::start_parts(&fleet, parts), follower)
        .await?;
    Ok(report.with_scenario(played, &scenario.expect))
}

// === impl Course ===

impl Course {
    /// A run without events.
    pub fn plain(limits: Limits) -> Course {
        Course::new(limits, VecDeque::new(), None)
    }

    fn new(limits: Limits, cues: VecDeque<(Duration, Cue)>, outages: Option<Outages>) -> Course {
        Course {
            limits,
            cues,
            outages,
            frozen: None,
        }
    }

    /// Reads along, starts the fleet, watches it to its end, and compares. A second Ctrl-C gives the comparison up.
    pub async fn run(
        mut self,
        fleet: impl FnOnce() -> anyhow::Result<Fleet>,
        follower: FollowerConfig,
    ) -> anyhow::Result<Report> {
        let follower = tokio::task::spawn_blocking(move || Follower::start(&follower)).await??;
        let fleet = fleet()?;
        let started = Instant::now();
        let ending = self.watch(&fleet, &follower, started).await?;
        // Whatever was frozen runs again, or nothing could be compared.
        self.frozen = None;
        let elapsed = started.elapsed();
        let patience = match &ending {
            Ending::GaveUp { because } => {
                eprintln!("giving up: {because}");
                self.limits.patience.min(PATIENCE_WHEN_GIVEN_UP)
            }
            Ending::InTime | Ending::Interrupted => self.limits.patience,
        };
        eprintln!("stopping: waiting for the answers that are still due");
        let compare = async {
            let outcome = fleet.stop().await;
            let found = follower.finish(&outcome.ledger, patience).await?;
            anyhow::Ok(Report::new(&outcome, &found, elapsed).with_ending(&ending))
        };
        tokio::select! {
            report = compare => report,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted again, before there was a report"),
        }
    }

    /// A line a second, until the time is over, somebody presses Ctrl-C, or the gateway is given up.
    async fn watch(&mut self, fleet: &Fleet, follower: &Follower, started: Instant) -> anyhow::Result<Ending> {
        let counters = fleet.live();
        let mut silence = Silence::new(started);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.tick().await;
        let end = started + self.limits.length;
        loop {
            let cue = self.cues.front().map_or(end, |(at, _)| started + *at);
            tokio::select! {
                biased;
                _ = tokio::signal::ctrl_c() => return Ok(Ending::Interrupted),
                () = sleep_until(cue.min(end)) => match self.cues.pop_front() {
                    Some((at, cue)) if at < self.limits.length => self.act(cue)?,
                    _ => return Ok(Ending::InTime),
                },
                _ = second.tick() => {
                    eprintln!("{}", live_line(started.elapsed(), &counters, follower.records()));
                    if let Some(because) = silence.is_too_long(&counters, self.limits.give_up, Instant::now()) {
                        return Ok(Ending::GaveUp { because });
                    }
                }
            }
        }
    }

    fn act(&mut self, cue: Cue) -> anyhow::Result<()> {
        match (cue, self.outages) {
            (Cue::Say(what), _) => eprintln!("== {what}"),
            (Cue::KafkaUnavailable(lasts), Some(Outages::Freeze(pid))) => {
                eprintln!("== Kafka is frozen for {} s", lasts.as_secs());
                self.frozen = Some(Frozen::new(pid)?);
            }
            (Cue::KafkaBack, Some(Outages::Freeze(_))) => {
                eprintln!("== Kafka goes on");
                self.frozen = None;
            }
            (Cue::KafkaUnavailable(lasts), _) => eprintln!("== now stop Kafka, for {} s", lasts.as_secs()),
            (Cue::KafkaBack, _) => eprintln!("== now start Kafka again"),
        }
        Ok(())
    }
}

fn cues(scenario: &Scenario) -> VecDeque<(Duration, Cue)> {
    let mut cues = Vec::new();
    for loss in &scenario.power_losses {
        let devices: usize = loss
            .groups
            .iter()
            .filter_map(|group| scenario.groups.get(*group))
            .map(|g| g.count)
            .sum();
        let (lasts, within) = (loss.lasts.as_secs_f64(), loss.back_within.as_secs_f64());
        let say = format!("{devices} devices lose power for {lasts} s, and come back within {within} s");
        cues.push((scenario.clock(loss.at), Cue::Say(say)));
    }
    for outage in &scenario.kafka_outages {
        let at = scenario.clock(outage.at);
        cues.push((at, Cue::KafkaUnavailable(outage.lasts)));
        cues.push((at + outage.lasts, Cue::KafkaBack));
    }
    cues.sort_by_key(|(at, _)| *at);
    cues.into()
}

// === impl Frozen ===

impl Frozen {
    fn new(pid: Pid) -> anyhow::Result<Frozen> {
        kill_process(pid, Signal::STOP).with_context(|| format!("cannot freeze process {}", pid.as_raw_nonzero()))?;
        Ok(Frozen(pid))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = kill_process(self.0, Signal::CONT) {
            tracing::error!(%error, pid = self.0.as_raw_nonzero(), "a frozen process cannot be continued");
        }
    }
}

// === impl Silence ===

impl Silence {
    fn new(now: Instant) -> Silence {
        Silence {
            heard: 0,
            unanswered: 0,
            since: now,
        }
    }

    /// Why the gateway is given up, if it is: something waits for an answer, or waited in vain, and no answer of any sort
    /// came for `give_up`.
    fn is_too_long(&mut self, counters: &Counters, give_up: Duration, now: Instant) -> Option<String> {
        let tally = counters.snapshot().total();
        let ended = tally.acknowledged + tally.rejected + tally.busy + tally.unanswered;
        let heard = counters.heard();
        let is_quiet = tally.sent <= ended && tally.unanswered == self.unanswered;
        if heard != self.heard || is_quiet {
            (self.heard, self.unanswered, self.since) = (heard, tally.unanswered, now);
        }
        if now.saturating_duration_since(self.since) < give_up {
            return None;
        }
        let complaints = counters.complaints();
        let complaint = complaints.first().map(|complaint| format!(" ({})", complaint.what));
        let seconds = give_up.as_secs_f64();
        Some(format!(
            "the gateway has not answered anything for {seconds} s{}",
            complaint.unwrap_or_default()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Kind;
    use crate::uplinks::{Answer, Protocol};

    #[test]
    fn only_silence_that_somebody_waits_in_is_given_up() {
        let give_up = Duration::from_secs(30);
        let began = Instant::now();
        let mut silence = Silence::new(began);
        let counters = Counters::new();
        let mut check = |counters: &Counters, second: u64, expected: bool| {
            let now = began + Duration::from_secs(second);
            let is = silence.is_too_long(counters, give_up, now);
            assert_eq!(is.is_some(), expected, "{second} s: {is:?}");
        };
        // Nothing was sent, so nothing is missed.
        check(&counters, 60, false);
        counters.sent(Protocol::Mqtt, Kind::TRAFFIC, 1);
        check(&counters, 61, false);
        check(&counters, 89, false);
        let busy = Answer::Busy {
            code: "503".to_owned(),
            retry_after: None,
        };
        counters.complain(Protocol::Mqtt, &busy);
        check(&counters, 90, false);
        check(&counters, 119, false);
        counters.complain(
            Protocol::Mqtt,
            &Answer::Unanswered {
                because: "refused".to_owned(),
            },
        );
        check(&counters, 120, true);
    }
}
