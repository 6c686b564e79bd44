//! The life of one device: measure, send, wait, send again, until the fleet stops.
//!
//! A device has one message outstanding. What was answered *busy*, or not at all, is sent again with the same sequence
//! number, after a growing and jittered pause; after `tries_max` the device gives it up and goes on. Stopping is in two
//! steps: after `stopping` nothing new is measured, after `abandoning` nothing is waited for. A device that loses power
//! forgets what it had not sent, and never learns the outcome of what it had. Either way every reading that was sent ends
//! on the device's account.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::counters::{Counters, End};
use crate::devices::faults::{Emission, Expected, Fault, Faulty, Labels};
use crate::devices::{Device, Moment};
use crate::fleet::{Transport, Uplinks};
use crate::grades::Due;
use crate::ledger::Account;
use crate::ledger_file::{self, LedgerFile, Line};
use crate::uplinks::{Answer, Protocol, Reading, Uplink};

/// The first pause before a reading is sent again; it doubles up to `pause_max`.
const PAUSE_MIN: Duration = Duration::from_millis(250);

/// The longest that a server's Retry-After or Max-Age is obeyed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// A device of a fleet, with its uplink.
#[derive(Debug)]
pub(crate) struct DeviceTask {
    pub(crate) device: Faulty,
    pub(crate) uplink: Uplink,
    pub(crate) transport: Transport,
    pub(crate) source: Option<IpAddr>,
    /// Makes a new uplink after a loss of power.
    pub(crate) uplinks: Arc<Uplinks>,
    pub(crate) counters: Arc<Counters>,
    /// Where each end is written down as well.
    pub(crate) ledger_file: Option<Arc<LedgerFile>>,
    pub(crate) pace: Pace,
    /// When the first reading is due.
    pub(crate) first_due: Instant,
    pub(crate) first_sequence: u64,
    pub(crate) tries_max: u32,
    pub(crate) pause_max: Duration,
    /// From when to when the device is without power, the earliest first.
    pub(crate) power_cuts: VecDeque<(Instant, Instant)>,
    /// It is one of those that do, whether before or after.
    pub(crate) loses_power: bool,
    /// When it had power again, until it is answered.
    pub(crate) back_since: Option<Instant>,
    /// No new readings.
    pub(crate) stopping: CancellationToken,
    /// No more waiting for answers.
    pub(crate) abandoning: CancellationToken,
}

/// When a device measures, and what time it is then.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// The city's time is the clock's. A device that had to wait measures at once.
    Live { interval: Duration },
    /// The city has a time of its own: the n-th slot of the device is at a given time, whatever the clock says. Slots that
    /// were missed for waiting are left out.
    Slots {
        /// The city's time between two slots.
        interval: Duration,
        /// The same by the clock.
        clock_interval: Duration,
        /// The city's time in the first slot, milliseconds since 1970.
        first_ms: i64,
        slot: u32,
    },
}

/// A reading that has no final answer yet.
struct Pending {
    reading: Reading,
    labels: Labels,
    expected: Expected,
    /// The answer if the device gave up now.
    answer: Answer,
}

// === impl DeviceTask ===

impl DeviceTask {
    pub(crate) async fn run(mut self) -> Account {
        let mut account = self.account();
        let mut due = self.first_due;
        let mut sequence = self.first_sequence;
        let mut collected: Vec<Emission> = Vec::new();
        loop {
            let power_cut = self.power_cuts.front().copied();
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => break,
                () = reached(power_cut.map(|(from, _)| from)) => {
                    collected.clear();
                    due = self.lose_power().await;
                    continue;
                }
                () = self.uplink.idle(due) => {}
            }
            collected.extend(self.measure(sequence));
            sequence += 1;
            self.deliver_whole_messages(&mut collected, &mut account).await;
            due = self.pace.next(self.first_due, due, Instant::now());
        }
        self.deliver(collected, &mut account).await;
        if !self.abandoning.is_cancelled() {
            self.uplink.close().await;
        }
        account
    }

    fn account(&self) -> Account {
        let device = self.device.device();
        let mut account = Account::new(device.name(), device.kind(), self.uplink.protocol());
        account.accepts_dead_letter = self.uplink.accepts_dead_letter();
        account
    }

    fn measure(&mut self, sequence: u64) -> Vec<Emission> {
        let now_ms = now_ms();
        self.device.measure(sequence, self.pace.moment(now_ms), now_ms)
    }

    /// Drops the connection without a word, and is gone until the power is back; when the next reading is due.
    async fn lose_power(&mut self) -> Instant {
        let Some((_, until)) = self.power_cuts.pop_front() else {
            return Instant::now();
        };
        match self.uplinks.connect(self.device.device(), self.transport, self.source) {
            Ok(uplink) => self.uplink = uplink,
            Err(error) => tracing::warn!(%error, "a device keeps its connection while it has no power"),
        }
        let stopping = self.stopping.clone();
        tokio::select! {
            () = stopping.cancelled() => {}
            () = sleep_until(until) => {}
        }
        let now = Instant::now();
        self.back_since = Some(now);
        // It measures at once: everybody is back, and has something to say.
        self.pace.resume(self.first_due, now);
        now
    }

    async fn deliver_whole_messages(&mut self, collected: &mut Vec<Emission>, account: &mut Account) {
        let size = self.uplink.readings_per_message();
        while collected.len() >= size && !self.has_no_power() {
            let rest = collected.split_off(size);
            let message = std::mem::replace(collected, rest);
            self.deliver(message, account).await;
        }
    }

    fn has_no_power(&self) -> bool {
        self.power_cuts.front().is_some_and(|(from, _)| *from <= Instant::now())
    }

    /// Sends readings until each has its end, and writes the ends down.
    async fn deliver(&mut self, readings: Vec<Emission>, account: &mut Account) {
        if readings.is_empty() {
            return;
        }
        let (protocol, kind) = (self.uplink.protocol(), self.device.device().kind());
        self.counters.sent(protocol, kind, readings.len() as u64);
        let now_ms = now_ms();
        for reading in &readings {
            account.timeline.note(reading.sequence, now_ms);
        }
        let mut pending: Vec<Pending> = readings.into_iter().map(Pending::new).collect();
        let abandoning = self.abandoning.clone();
        let power_cut = self.power_cuts.front().copied();
        tokio::select! {
            () = abandoning.cancelled() => {}
            () = reached(power_cut.map(|(from, _)| from)) => {}
            () = self.try_until_answered(&mut pending, account) => {}
        }
        for given_up in &pending {
            self.write_down(given_up, account);
        }
    }

    /// Leaves in `pending` what has no final answer after the last try.
    async fn try_until_answered(&mut self, pending: &mut Vec<Pending>, account: &mut Account) {
        let (protocol, kind) = (self.uplink.protocol(), self.device.device().kind());
        let first_sent = Instant::now();
        let counters = Arc::clone(&self.counters);
        let phases = if self.loses_power {
            &counters.powerless
        } else {
            &counters.phases
        };
        let sent_in = phases.sent(protocol, pending.len() as u64);
        for attempt in 1..=self.tries_max {
            let readings: Vec<Reading> = pending.iter().map(|pending| pending.reading.clone()).collect();
            let answers = self.uplink.send(&readings).await;
            self.counters.retransmitted(self.uplink.take_retransmissions());
            let mut wait = pause(attempt, self.pause_max, rand::random());
            for (entry, answer) in pending.iter_mut().zip(answers) {
                self.counters.note_problem(protocol, &answer);
                phases.answered(protocol, sent_in, &answer, first_sent.elapsed());
                if let (Answer::Acknowledged, Some(since)) = (&answer, self.back_since) {
                    self.back_since = None;
                    self.counters.came_back(since.elapsed());
                }
                if let Answer::Busy {
                    retry_after: Some(wanted),
                    ..
                } = answer
                {
                    wait = wait.max(wanted.min(RETRY_AFTER_MAX));
                }
                entry.answer = answer;
            }
            pending.retain(|entry| {
                let end = end(&entry.answer);
                let is_final = matches!(end, End::Acknowledged | End::Rejected);
                if is_final {
                    self.write_down(entry, account);
                }
                if end == End::Acknowledged {
                    self.counters.latency(protocol, first_sent.elapsed());
                }
                !is_final
            });
            if pending.is_empty() || attempt == self.tries_max {
                return;
            }
            self.uplink.idle(Instant::now() + wait).await;
            self.counters.sent_again(protocol, kind, pending.len() as u64);
        }
    }

    fn write_down(&self, entry: &Pending, account: &mut Account) {
        let (protocol, kind): (Protocol, _) = (self.uplink.protocol(), self.device.device().kind());
        let end = end(&entry.answer);
        self.counters.ended(protocol, kind, end);
        let sequence = entry.reading.sequence;
        if let Some(file) = &self.ledger_file {
            file.note(&entry.line(self.device.device(), end));
        }
        let set = match end {
            End::Acknowledged => &mut account.acknowledged,
            End::Rejected => &mut account.rejected,
            End::Busy => &mut account.busy,
            End::Unanswered => &mut account.unanswered,
        };
        set.insert(sequence);
        if end == End::Acknowledged && account.accepts_dead_letter {
            account.grade_later(entry.labels, Due::of(entry.expected), sequence);
        } else {
            self.counters.grades.note(entry.labels, entry.expected, &entry.answer);
        }
        if matches!(end, End::Acknowledged | End::Rejected) {
            self.counters.grades.note_due(entry.expected);
        }
    }
}

// === impl Pace ===

impl Pace {
    /// How often the device measures, in its own time.
    pub(crate) fn interval(&self) -> Duration {
        match *self {
            Pace::Live { interval } | Pace::Slots { interval, .. } => interval,
        }
    }

    /// What is measured when the clock says `now_ms`.
    pub(crate) fn moment(&self, now_ms: i64) -> Moment {
        match *self {
            Pace::Live { interval } => Moment {
                observed_at_ms: now_ms,
                interval,
            },
            Pace::Slots {
                interval,
                first_ms,
                slot,
                ..
            } => Moment {
                observed_at_ms: first_ms.saturating_add((interval.as_millis() as i64).saturating_mul(slot.into())),
                interval,
            },
        }
    }

    /// The slot that has begun.
    fn resume(&mut self, first_due: Instant, now: Instant) {
        if let Pace::Slots {
            clock_interval, slot, ..
        } = self
        {
            *slot = slots(first_due, now, *clock_interval).floor() as u32;
        }
    }

    /// When the next reading is due, the last having been due at `due`.
    fn next(&mut self, first_due: Instant, due: Instant, now: Instant) -> Instant {
        match self {
            // A device that had to wait for an answer does not catch up on what it missed.
            Pace::Live { interval } => (due + *interval).max(now),
            Pace::Slots {
                clock_interval, slot, ..
            } => {
                let passed = slots(first_due, now, *clock_interval).ceil() as u32;
                *slot = slot.saturating_add(1).max(passed);
                first_due + *clock_interval * *slot
            }
        }
    }
}

/// How many slots there were from `first_due` to `now`.
fn slots(first_due: Instant, now: Instant, clock_interval: Duration) -> f64 {
    now.saturating_duration_since(first_due).as_secs_f64() / clock_interval.as_secs_f64()
}

// === impl Pending ===

impl Pending {
    fn new(emission: Emission) -> Pending {
        Pending {
            reading: Reading {
                sequence: emission.sequence,
                json: emission.payload,
            },
            labels: emission.labels,
            expected: emission.expected,
            answer: Answer::Unanswered {
                because: "the device did not wait".to_owned(),
            },
        }
    }

    fn line<'a>(&'a self, device: &'a Device, end: End) -> Line<'a> {
        Line::Reading {
            device: device.name(),
            kind: device.kind().name(),
            sequence: self.reading.sequence,
            end: end.name(),
            accepted: match self.expected {
                Expected::Accepted => Some(true),
                Expected::Rejected(_) => Some(false),
                Expected::Either => None,
            },
            faults: self.labels.iter().map(Fault::name).collect(),
            reading: ledger_file::json(&self.reading.json),
        }
    }
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as i64
}

async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// How a reading ends if this is the last answer to it.
fn end(answer: &Answer) -> End {
    match answer {
        Answer::Acknowledged => End::Acknowledged,
        Answer::Rejected { .. } => End::Rejected,
        Answer::Busy { .. } => End::Busy,
        Answer::Unanswered { .. } => End::Unanswered,
    }
}

/// The pause after the `attempt`th try: doubling, and spread by `chance` (0 to 1) over half to one and a half of itself,
/// so that devices which failed together do not come back together.
fn pause(attempt: u32, longest: Duration, chance: f64) -> Duration {
    let doubled = PAUSE_MIN * 2u32.saturating_pow(attempt.saturating_sub(1).min(16));
    doubled.min(longest).mul_f64(0.5 + chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_spread() {
        let check = |attempt: u32, chance: f64, milliseconds: u64| {
            assert_eq!(
                pause(attempt, Duration::from_secs(5), chance),
                Duration::from_millis(milliseconds),
                "try {attempt}"
            );
        };
        check(1, 0.5, 250);
        check(2, 0.5, 500);
        check(5, 0.5, 4000);
        check(6, 0.5, 5000);
        check(u32::MAX, 0.5, 5000);
        check(1, 0.0, 125);
        check(1, 1.0, 375);
        check(6, 1.0, 7500);
    }

    #[test]
    fn a_city_with_a_time_of_its_own_is_asked_slot_by_slot() {
        let first_due = Instant::now();
        let mut pace = Pace::Slots {
            interval: Duration::from_secs(60),
            clock_interval: Duration::from_secs(1),
            first_ms: 1_000_000,
            slot: 0,
        };
        // Asked for the next slot so long after the first one was due → when that is due, and the city's time then.
        let mut check = |now_ms: u64, due_ms: u64, city_ms: i64| {
            let now = first_due + Duration::from_millis(now_ms);
            let due = pace.next(first_due, now, now);
            assert_eq!(due, first_due + Duration::from_millis(due_ms), "at {now_ms}");
            assert_eq!(pace.moment(0).observed_at_ms, city_ms, "at {now_ms}");
        };
        check(3, 1000, 1_060_000);
        check(1003, 2000, 1_120_000);
        // Kept waiting for 2.4 s, it leaves two slots out.
        check(4400, 5000, 1_300_000);
    }
}
