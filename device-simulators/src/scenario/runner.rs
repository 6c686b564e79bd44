//! Runs a fleet to its end: what happens when, what is said about it, and when it is over.
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

use super::{Scenario, roster};
use crate::counters::Counters;
use crate::fleet::{Fleet, FleetConfig};
use crate::report::{Report, ScenarioInfo, live_line};
use crate::topic_reader::{TopicReader, TopicReaderConfig};

/// How long the last records are waited for after the gateway stopped answering.
const READ_TIMEOUT_WHEN_GIVEN_UP: Duration = Duration::from_secs(5);

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
enum Event {
    Say(String),
    KafkaUnavailable(Duration),
    KafkaBack,
}

/// How long, and with how much read_timeout.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// By the clock.
    pub length: Duration,
    /// Without any answer for so long, while something waits for one, the run ends early.
    pub silence_timeout: Duration,
    /// How long to wait at the end for readings that are on their way to Kafka.
    pub read_timeout: Duration,
}

/// A run to be watched.
pub struct Runner {
    limits: Limits,
    /// The earliest first.
    events: VecDeque<(Duration, Event)>,
    outages: Option<Outages>,
    frozen: Option<Frozen>,
}

/// A process that does not run, until this is dropped.
struct Frozen(Pid);

/// Whether answers come.
struct Silence {
    answers: u64,
    unanswered: u64,
    since: Instant,
}

/// Runs a scenario: starts the fleet, watches it, compares, and checks the result against what is expected.
///
/// Fails if Kafka cannot be read, or if the scenario needs an outage that `outages` does not provide.
pub async fn play(
    scenario: &Scenario,
    fleet: FleetConfig,
    topic_reader: TopicReaderConfig,
    limits: Limits,
    outages: Option<Outages>,
) -> anyhow::Result<Report> {
    anyhow::ensure!(
        scenario.kafka_outages.is_empty() || outages.is_some(),
        "{} needs an outage of Kafka: give the id of its process, --freeze-pid PID, or stop it yourself when told, --by-hand",
        scenario.name
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start_ms = roster::start_ms(scenario, now.as_millis() as i64);
    let info = ScenarioInfo {
        name: scenario.name.clone(),
        shows: scenario.shows.clone(),
        seed: scenario.seed,
        speed: scenario.speed,
        city_start: Timestamp::from_millisecond(start_ms)?.to_string(),
        devices: scenario.devices(),
    };
    eprintln!("{}: {}", info.name, info.shows);
    eprintln!(
        "{} devices, {:.0} s, from {} at {} times the clock's speed",
        info.devices,
        limits.length.as_secs_f64(),
        info.city_start,
        info.speed
    );
    let roster = roster::entries(scenario, start_ms);
    if let Some(file) = &fleet.ledger_file {
        roster::write_down(scenario, start_ms, &roster, file);
    }
    let report = Runner::new(limits, events(scenario), outages)
        .run(|| Fleet::start_roster(&fleet, roster), topic_reader)
        .await?;
    Ok(report.with_scenario(info, &scenario.expect))
}

// === impl Runner ===

impl Runner {
    /// A run without events.
    pub fn plain(limits: Limits) -> Runner {
        Runner::new(limits, VecDeque::new(), None)
    }

    fn new(limits: Limits, events: VecDeque<(Duration, Event)>, outages: Option<Outages>) -> Runner {
        Runner {
            limits,
            events,
            outages,
            frozen: None,
        }
    }

    /// Reads along, starts the fleet, watches it to its end, and compares. A second Ctrl-C gives the comparison up.
    pub async fn run(
        mut self,
        fleet: impl FnOnce() -> anyhow::Result<Fleet>,
        topic_reader: TopicReaderConfig,
    ) -> anyhow::Result<Report> {
        let topic_reader = tokio::task::spawn_blocking(move || TopicReader::start(&topic_reader)).await??;
        let fleet = fleet()?;
        let started = Instant::now();
        let ending = self.watch(&fleet, &topic_reader, started).await?;
        // Whatever was frozen runs again, or nothing could be compared.
        self.frozen = None;
        let elapsed = started.elapsed();
        let read_timeout = match &ending {
            Ending::GaveUp { because } => {
                eprintln!("giving up: {because}");
                self.limits.read_timeout.min(READ_TIMEOUT_WHEN_GIVEN_UP)
            }
            Ending::InTime | Ending::Interrupted => self.limits.read_timeout,
        };
        eprintln!("stopping: waiting for the answers that are still due");
        let compare = async {
            let outcome = fleet.stop().await;
            let found = topic_reader.finish(&outcome.ledger, read_timeout).await?;
            anyhow::Ok(Report::new(&outcome, &found, elapsed).with_ending(&ending))
        };
        tokio::select! {
            report = compare => report,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted again, before there was a report"),
        }
    }

    /// A line a second, until the time is over, Ctrl-C, or the gateway stops answering.
    async fn watch(&mut self, fleet: &Fleet, topic_reader: &TopicReader, started: Instant) -> anyhow::Result<Ending> {
        let counters = fleet.live();
        let mut silence = Silence::new(started);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.tick().await;
        let end = started + self.limits.length;
        loop {
            let event = self.events.front().map_or(end, |(at, _)| started + *at);
            tokio::select! {
                biased;
                _ = tokio::signal::ctrl_c() => return Ok(Ending::Interrupted),
                () = sleep_until(event.min(end)) => match self.events.pop_front() {
                    Some((at, event)) if at < self.limits.length => self.act(event)?,
                    _ => return Ok(Ending::InTime),
                },
                _ = second.tick() => {
                    eprintln!("{}", live_line(started.elapsed(), &counters, topic_reader.records()));
                    if let Some(because) = silence.is_too_long(&counters, self.limits.silence_timeout, Instant::now()) {
                        return Ok(Ending::GaveUp { because });
                    }
                }
            }
        }
    }

    fn act(&mut self, event: Event) -> anyhow::Result<()> {
        match (event, self.outages) {
            (Event::Say(what), _) => eprintln!("== {what}"),
            (Event::KafkaUnavailable(lasts), Some(Outages::Freeze(pid))) => {
                eprintln!("== Kafka is frozen for {} s", lasts.as_secs());
                self.frozen = Some(Frozen::new(pid)?);
            }
            (Event::KafkaBack, Some(Outages::Freeze(_))) => {
                eprintln!("== Kafka goes on");
                self.frozen = None;
            }
            (Event::KafkaUnavailable(lasts), _) => eprintln!("== now stop Kafka, for {} s", lasts.as_secs()),
            (Event::KafkaBack, _) => eprintln!("== now start Kafka again"),
        }
        Ok(())
    }
}

fn events(scenario: &Scenario) -> VecDeque<(Duration, Event)> {
    let mut events = Vec::new();
    for loss in &scenario.power_losses {
        let devices: usize = loss
            .groups
            .iter()
            .filter_map(|group| scenario.groups.get(*group))
            .map(|g| g.count)
            .sum();
        let (lasts, within) = (loss.lasts.as_secs_f64(), loss.back_within.as_secs_f64());
        let who = match loss.district {
            Some(district) => format!("those of {devices} devices that are in the district {district}"),
            None => format!("{devices} devices"),
        };
        let say = format!("{who} lose power for {lasts} s, and come back within {within} s");
        events.push((scenario.clock(loss.at), Event::Say(say)));
    }
    for outage in &scenario.kafka_outages {
        let at = scenario.clock(outage.at);
        events.push((at, Event::KafkaUnavailable(outage.lasts)));
        events.push((at + outage.lasts, Event::KafkaBack));
    }
    events.sort_by_key(|(at, _)| *at);
    events.into()
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
            answers: 0,
            unanswered: 0,
            since: now,
        }
    }

    /// Why the run ends early, if it does: something waits for an answer, or waited in vain, and no answer of any sort
    /// came for `silence_timeout`.
    fn is_too_long(&mut self, counters: &Counters, silence_timeout: Duration, now: Instant) -> Option<String> {
        let tally = counters.snapshot().total();
        let ended = tally.acknowledged + tally.rejected + tally.busy + tally.unanswered;
        let answers = counters.answers();
        let is_quiet = tally.sent <= ended && tally.unanswered == self.unanswered;
        if answers != self.answers || is_quiet {
            (self.answers, self.unanswered, self.since) = (answers, tally.unanswered, now);
        }
        if now.saturating_duration_since(self.since) < silence_timeout {
            return None;
        }
        let problems = counters.problems();
        let problem = problems.first().map(|problem| format!(" ({})", problem.what));
        let seconds = silence_timeout.as_secs_f64();
        Some(format!(
            "the gateway has not answered anything for {seconds} s{}",
            problem.unwrap_or_default()
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
        let silence_timeout = Duration::from_secs(30);
        let began = Instant::now();
        let mut silence = Silence::new(began);
        let counters = Counters::new();
        let mut check = |counters: &Counters, second: u64, expected: bool| {
            let now = began + Duration::from_secs(second);
            let is = silence.is_too_long(counters, silence_timeout, now);
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
        counters.note_problem(Protocol::Mqtt, &busy);
        check(&counters, 90, false);
        check(&counters, 119, false);
        counters.note_problem(
            Protocol::Mqtt,
            &Answer::Unanswered {
                because: "refused".to_owned(),
            },
        );
        check(&counters, 120, true);
    }
}
