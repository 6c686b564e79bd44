//! The life of one device: measure, send, wait, send again, until the fleet stops.
//!
//! A device has one message outstanding. What was answered *busy*, or not at all, is sent again with the same sequence
//! number, after a growing and jittered pause; after `tries_max` the device gives it up and goes on. Stopping is in two
//! steps: after `stopping` nothing new is measured, after `abandoning` nothing is waited for. Either way every reading
//! that was sent ends on the device's page.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::counters::{Counters, End};
use crate::devices::{Device, Moment};
use crate::ledger::Page;
use crate::uplinks::{Answer, Protocol, Reading, Uplink};

/// The first pause before a reading is sent again; it doubles up to `pause_max`.
const PAUSE_MIN: Duration = Duration::from_millis(250);

/// The longest that a server's Retry-After or Max-Age is obeyed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// A device of a fleet, with its uplink.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) device: Device,
    pub(crate) uplink: Uplink,
    pub(crate) counters: Arc<Counters>,
    pub(crate) interval: Duration,
    /// When the first reading is due.
    pub(crate) first_due: Instant,
    pub(crate) first_sequence: u64,
    pub(crate) tries_max: u32,
    pub(crate) pause_max: Duration,
    /// No new readings.
    pub(crate) stopping: CancellationToken,
    /// No more waiting for answers.
    pub(crate) abandoning: CancellationToken,
}

/// A reading that has no final answer yet.
struct Pending {
    reading: Reading,
    /// How it would end if the device gave up now.
    end: End,
}

// === impl Member ===

impl Member {
    pub(crate) async fn run(mut self) -> Page {
        let mut page = self.page();
        let mut due = self.first_due;
        let mut sequence = self.first_sequence;
        let mut collected = Vec::with_capacity(self.uplink.readings_per_message());
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => break,
                () = self.uplink.idle(due) => {}
            }
            collected.push(self.measure(sequence));
            sequence += 1;
            if collected.len() >= self.uplink.readings_per_message() {
                self.deliver(std::mem::take(&mut collected), &mut page).await;
            }
            // A device that had to wait for an answer does not catch up on what it missed.
            due = (due + self.interval).max(Instant::now());
        }
        self.deliver(collected, &mut page).await;
        if !self.abandoning.is_cancelled() {
            self.uplink.close().await;
        }
        page
    }

    fn page(&self) -> Page {
        let mut page = Page::new(self.device.name(), self.device.kind(), self.uplink.protocol());
        page.accepts_dead_letter = self.uplink.accepts_dead_letter();
        page
    }

    fn measure(&self, sequence: u64) -> Reading {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let moment = Moment {
            observed_at_ms: now.as_millis() as i64,
            interval: self.interval,
        };
        Reading {
            sequence,
            json: self.device.reading(sequence, moment),
        }
    }

    /// Sends readings until each has its end, and writes the ends down.
    async fn deliver(&mut self, readings: Vec<Reading>, page: &mut Page) {
        if readings.is_empty() {
            return;
        }
        let (protocol, kind) = (self.uplink.protocol(), self.device.kind());
        self.counters.sent(protocol, kind, readings.len() as u64);
        let mut pending: Vec<Pending> = readings.into_iter().map(Pending::new).collect();
        let abandoning = self.abandoning.clone();
        tokio::select! {
            () = abandoning.cancelled() => {}
            () = self.try_until_answered(&mut pending, page) => {}
        }
        for given_up in pending {
            self.write_down(given_up.reading.sequence, given_up.end, page);
        }
    }

    /// Leaves in `pending` what has no final answer after the last try.
    async fn try_until_answered(&mut self, pending: &mut Vec<Pending>, page: &mut Page) {
        let (protocol, kind) = (self.uplink.protocol(), self.device.kind());
        let first_sent = Instant::now();
        let sent_in = self.counters.phases.sent(protocol, pending.len() as u64);
        for attempt in 1..=self.tries_max {
            let readings: Vec<Reading> = pending.iter().map(|pending| pending.reading.clone()).collect();
            let answers = self.uplink.send(&readings).await;
            self.counters.retransmitted(self.uplink.take_retransmissions());
            let mut wait = pause(attempt, self.pause_max, rand::random());
            for (entry, answer) in pending.iter_mut().zip(answers) {
                self.counters.complain(protocol, &answer);
                self.counters
                    .phases
                    .answered(protocol, sent_in, &answer, first_sent.elapsed());
                entry.end = end(&answer);
                if let Answer::Busy {
                    retry_after: Some(wanted),
                    ..
                } = answer
                {
                    wait = wait.max(wanted.min(RETRY_AFTER_MAX));
                }
            }
            pending.retain(|entry| {
                let is_final = matches!(entry.end, End::Acknowledged | End::Rejected);
                if is_final {
                    self.write_down(entry.reading.sequence, entry.end, page);
                }
                if entry.end == End::Acknowledged {
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

    fn write_down(&self, sequence: u64, end: End, page: &mut Page) {
        let (protocol, kind): (Protocol, _) = (self.uplink.protocol(), self.device.kind());
        self.counters.ended(protocol, kind, end);
        let set = match end {
            End::Acknowledged => &mut page.acknowledged,
            End::Rejected => &mut page.rejected,
            End::Busy => &mut page.busy,
            End::Unanswered => &mut page.unanswered,
        };
        set.insert(sequence);
    }
}

// === impl Pending ===

impl Pending {
    fn new(reading: Reading) -> Pending {
        Pending {
            reading,
            end: End::Unanswered,
        }
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
}
