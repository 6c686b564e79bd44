//! Runs a load from beginning to end: starts the threads, keeps the series, and knows when to stop.
//!
//! A run ends by the clock, by a signal, when a protocol has had no connection for a while, or when everything it sends is
//! refused for its credentials. However it ends there is a report of what happened until then, and nothing is waited for
//! without a bound.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::clock::{Clock, Nanos, nanos, resident_bytes, seconds};
use super::codes::{Code, Event};
use super::readings::Readings;
use super::report::{Measured, Report};
use super::settings::Settings;
use super::tally::{Interval, Intervals, Steady};
use super::time_series::TimeSeries;
use super::worker::{Ending, Shared, Task, Worker};
use crate::uplinks::Protocol;

/// How often the runner looks after its threads.
const TICK: Nanos = 100_000_000;

/// How long answers are waited for when the run ends before its time.
const EARLY_DRAIN: Nanos = 1_000_000_000;

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Ended {
    Timely,
    Interrupted {
        at_s: f64,
    },
    /// The gateway stopped answering.
    Gone {
        at_s: f64,
        protocol: Protocol,
        because: String,
    },
    /// The credentials are not good enough.
    Refused {
        at_s: f64,
        protocol: Protocol,
        because: String,
    },
}

/// The series of a run that goes on; others may read it meanwhile.
pub type SharedSeries = Arc<Mutex<Option<TimeSeries>>>;

/// Threads of a run and what connects them with the runner.
struct Workers {
    threads: Vec<JoinHandle<io::Result<[Steady; 3]>>>,
    shared: Arc<Shared>,
    intervals: mpsc::Receiver<Interval>,
}

/// A run that goes on.
struct Runner {
    settings: Arc<Settings>,
    clock: Clock,
    workers: Workers,
    steady_from: Nanos,
    end: Nanos,
    measured: Measured,
    watch: Watch,
    ended: Ended,
    /// When what is left is not waited for any more, once the run has been ended early.
    abandon_at: Option<Nanos>,
    /// Seconds that were shown.
    points: usize,
}

/// What the runner watches to know when to stop.
#[derive(Default)]
struct Watch {
    /// When each protocol last was seen alive.
    alive: [Nanos; 3],
    answers: [u64; 3],
}

pub fn lock(series: &SharedSeries) -> MutexGuard<'_, Option<TimeSeries>> {
    // A thread that panicked while reading it leaves it whole.
    series.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a load; `each_second` is called with what was counted whenever a second is complete. Fails if a thread cannot be
/// started or has failed.
pub async fn run(
    settings: Settings,
    series: SharedSeries,
    mut each_second: impl FnMut(&TimeSeries, &Settings),
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<Report> {
    let mut runner = Runner::start(settings, &series)?;
    let mut interrupted = std::pin::pin!(interrupted);
    while !runner.workers.is_over() {
        let wake = Instant::from_std(runner.clock.instant(runner.next_tick()));
        tokio::select! {
            () = sleep_until(wake) => {}
            () = &mut interrupted, if runner.is_running() => {
                let at_s = seconds(runner.clock.now());
                runner.end(Ended::Interrupted { at_s });
            }
        }
        if let Some(series) = lock(&series).as_mut() {
            runner.tick(series, &mut each_second);
        }
    }
    runner.measured.stop(runner.clock.now());
    let mut series = lock(&series);
    let series = series.as_mut().context("the series is gone")?;
    let steady = runner.workers.join(series)?;
    series.finish();
    let Runner {
        settings,
        measured,
        ended,
        ..
    } = runner;
    Ok(Report::new(&settings, series, steady, &measured, ended))
}

// === impl Runner ===

impl Runner {
    fn start(settings: Settings, series: &SharedSeries) -> anyhow::Result<Runner> {
        let somewhere = !settings.targets.is_empty() && settings.connections > 0;
        anyhow::ensure!(somewhere, "there is nowhere to send to");
        let settings = Arc::new(settings);
        let threads = settings.threads.clamp(1, settings.connections);
        let readings = Arc::new(Readings::make(
            settings.seed,
            Clock::start().unix_ms(0),
            settings.padding,
        )?);
        *lock(series) = Some(TimeSeries::new(Intervals::new(settings.ramp), threads));
        let measured = Measured::new(resident_bytes());
        let steady_from = nanos(settings.ramp);
        let clock = Clock::start();
        Ok(Runner {
            workers: Workers::start(&settings, &readings, clock, threads)?,
            clock,
            steady_from,
            end: steady_from + nanos(settings.steady),
            measured,
            watch: Watch::default(),
            ended: Ended::Timely,
            abandon_at: None,
            points: 0,
            settings,
        })
    }

    /// Whether it may still end early.
    fn is_running(&self) -> bool {
        self.abandon_at.is_none() && self.clock.now() < self.end
    }

    fn next_tick(&self) -> Nanos {
        let now = self.clock.now();
        let turn = [self.steady_from, self.end].into_iter().find(|moment| *moment > now);
        turn.unwrap_or(Nanos::MAX).min(now + TICK)
    }

    /// Adds what the threads have counted, and decides whether to go on.
    fn tick(&mut self, series: &mut TimeSeries, each_second: &mut impl FnMut(&TimeSeries, &Settings)) {
        let now = self.clock.now();
        self.measured.sample(now, self.steady_from, self.end);
        self.workers.collect(series);
        if series.points().len() > self.points {
            self.points = series.points().len();
            each_second(series, &self.settings);
        }
        if self.is_running()
            && let Some(ended) = self.watch.judge(series, &self.settings, now)
        {
            self.end(ended);
        }
        if self.abandon_at.is_some_and(|moment| now >= moment) {
            self.workers.shared.end(Ending::Abandon);
        }
    }

    /// Ends the run before its time.
    fn end(&mut self, ended: Ended) {
        let now = self.clock.now();
        self.ended = ended;
        self.measured.stop(now);
        self.workers.shared.end(Ending::Drain);
        self.abandon_at = Some(now + EARLY_DRAIN);
    }
}

// === impl Workers ===

impl Workers {
    fn start(
        settings: &Arc<Settings>,
        readings: &Arc<Readings>,
        clock: Clock,
        threads: usize,
    ) -> anyhow::Result<Workers> {
        let (finished, intervals) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let mut workers = Workers {
            threads: Vec::with_capacity(threads),
            shared: Arc::clone(&shared),
            intervals,
        };
        let first_message_id = rand::random();
        for number in 0..threads {
            let connection = |thread: usize| settings.connections * thread / threads;
            let worker = Worker::new(Task {
                settings: Arc::clone(settings),
                readings: Arc::clone(readings),
                clock,
                connections: connection(number)..connection(number + 1),
                first_message_id,
                shared: Arc::clone(&shared),
                finished: finished.clone(),
            });
            let worker = worker?;
            let thread = std::thread::Builder::new().name(format!("load-{number}"));
            workers
                .threads
                .push(thread.spawn(|| worker.run()).context("cannot start a thread")?);
        }
        Ok(workers)
    }

    /// Whether one of them has ended: all do at the same time, unless one failed.
    fn is_over(&self) -> bool {
        let over = self.threads.iter().filter(|thread| thread.is_finished()).count();
        if over > 0 && over < self.threads.len() {
            // The others have little left to wait for; if a thread failed, the rest end with it.
            self.shared.end(Ending::Drain);
        }
        over == self.threads.len()
    }

    fn collect(&self, series: &mut TimeSeries) {
        series.up = Protocol::ALL.map(|protocol| self.shared.up(protocol));
        for interval in self.intervals.try_iter() {
            series.add(interval);
        }
    }

    fn join(self, series: &mut TimeSeries) -> anyhow::Result<[Steady; 3]> {
        let mut sums: [Steady; 3] = Default::default();
        for thread in self.threads {
            let ended = thread.join().map_err(|_| anyhow!("a thread of the load failed"))?;
            let steady = ended.context("a thread of the load cannot wait for its sockets")?;
            for (sum, steady) in sums.iter_mut().zip(steady) {
                sum.add(steady);
            }
        }
        for interval in self.intervals.try_iter() {
            series.add(interval);
        }
        Ok(sums)
    }
}

// === impl Watch ===

impl Watch {
    /// Whether it makes sense to go on; `None` if it does.
    fn judge(&mut self, series: &TimeSeries, settings: &Settings, now: Nanos) -> Option<Ended> {
        let at_s = seconds(now);
        for (protocol, _) in &settings.targets {
            let protocol = *protocol;
            let figures = series.total(protocol);
            if self.is_alive(protocol, series) {
                self.alive[protocol.index()] = now;
            }
            if let Some(because) = refusal(protocol, series) {
                return Some(Ended::Refused {
                    at_s,
                    protocol,
                    because,
                });
            }
            let silent_for = Duration::from_nanos(now - self.alive[protocol.index()]);
            if silent_for >= settings.silence_timeout {
                let last = figures.events.iter().max_by_key(|(_, count)| **count);
                let because = last.map_or_else(|| "no connection".to_owned(), |(event, _)| event.to_string());
                return Some(Ended::Gone {
                    at_s,
                    protocol,
                    because,
                });
            }
        }
        None
    }

    /// Whether the server seems to be up. UDP has no connections: it counts as down if datagrams are refused
    /// and none is answered.
    fn is_alive(&mut self, protocol: Protocol, series: &TimeSeries) -> bool {
        let figures = series.total(protocol);
        if protocol != Protocol::Coap {
            // Without any event none was tried yet: its turn in the ramp comes later.
            return series.up[protocol.index()] > 0 || figures.events.is_empty();
        }
        let answers = figures.count(Code::is_answer);
        let refused = figures.events.get(&Event::Refused).copied().unwrap_or(0);
        let is_answered = answers > self.answers[protocol.index()];
        self.answers[protocol.index()] = answers;
        is_answered || refused == 0
    }
}

/// In words, if nothing but refusals of the credentials came.
fn refusal(protocol: Protocol, series: &TimeSeries) -> Option<String> {
    let figures = series.total(protocol);
    if figures.positive() > 0 {
        return None;
    }
    let code = figures.codes.keys().find(|code| code.is_refusal());
    let event = figures.events.keys().find(|event| event.is_refusal());
    let nobody_up = series.up[protocol.index()] == 0;
    match (code, event) {
        (Some(code), _) => Some(code.to_string()),
        (None, Some(event)) if nobody_up => Some(event.to_string()),
        _ => None,
    }
}
