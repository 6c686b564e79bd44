//! The pump: spool → Kafka, oldest first, at a bounded pace; and the watch over the deadlines of `dispatch`.
//!
//! Two threads. The one replays as much as the pace allows, every few milliseconds while there is anything to replay, so
//! that live readings keep their latency while an outage's backlog drains; reading segments may block it for as long as the
//! disk likes. The other lets `dispatch` look after records that Kafka or the spool does not confirm, when the next of them
//! is due; it waits for nothing. In an idle gateway the one sleeps for up to a second, the other
//! for up to 100 ms. The watch also ends the gateway when the spool has failed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::broker::Broker;
use super::dispatch::{Dispatch, Store};
use crate::operate::clock::Clock;
use crate::operate::mistake::Mistakes;
use crate::outcome::Busy;

/// How often the pump looks for something to replay, while there is.
const TURN: Duration = Duration::from_millis(5);

/// How long it sleeps at most when there is nothing; the spool wakes it sooner.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// What may be sent at once after a pause, in seconds of the pace.
const BURST_SECONDS: f64 = 0.1;

/// The `[replay]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Maximum rate at which spooled readings are sent to Kafka, beyond the rate at which new ones are spooled.
    pub readings_per_second: u32,
    /// The same in bytes.
    pub bytes_per_second: ByteSize,
    /// Time after which a spooled reading is retried that Kafka rejected alone (too large for its topic, invalid
    /// timestamp). It stays in the spool; newer readings of its device overtake it.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub retry_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            readings_per_second: 20_000,
            bytes_per_second: ByteSize::mib(32),
            retry_interval: Duration::from_secs(60),
        }
    }
}

impl Config {
    /// What is wrong with this table.
    pub fn mistakes(&self) -> Mistakes {
        let mut mistakes = Mistakes::default();
        if self.readings_per_second == 0 {
            mistakes.push("replay.readings_per_second", "must be at least 1");
        }
        if self.bytes_per_second < ByteSize::kib(64) {
            mistakes.push("replay.bytes_per_second", "must be at least 64 KiB");
        }
        if self.retry_interval < Duration::from_millis(100) {
            mistakes.push("replay.retry_interval", "must be at least 100ms");
        }
        mistakes
    }
}

/// How long the end of a thread is waited for that may be reading from a disk that hangs.
const STOP_TIMEOUT: Duration = Duration::from_millis(300);

/// A thread that is to be told to stop.
#[derive(Debug)]
struct Worker {
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// The running replay.
#[derive(Debug)]
pub struct Pump(Worker);

/// The running watch over deadlines.
#[derive(Debug)]
pub struct Watch(Worker);

/// Wakes the pump when the first record comes into an idle spool.
#[derive(Debug, Default)]
pub struct Wake {
    sleeps: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

/// A token bucket: what may be sent now.
#[derive(Debug)]
struct Pace {
    per_second: f64,
    allowance: f64,
    filled_at: Instant,
}

// === impl Worker ===

impl Worker {
    /// `turn` is called until [`Worker::stop`], each time after as long as it said.
    fn start(name: &str, mut turn: impl FnMut() -> Duration + Send + 'static) -> std::io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let run = move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::park_timeout(turn());
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Worker { stopping, thread })
    }

    fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        let asked_at = Instant::now();
        while !self.thread.is_finished() {
            if asked_at.elapsed() > STOP_TIMEOUT {
                return warn!("a thread between spool and kafka waits for the disk, and is left to itself");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.thread.join().is_err() {
            error!("a thread between spool and kafka panicked");
        }
    }
}

// === impl Pump ===

impl Pump {
    /// # Errors
    /// The system gives no thread.
    pub fn start<B, S>(
        dispatch: Arc<Dispatch<B, S>>,
        config: &Config,
        clock: Arc<dyn Clock>,
        wake: Arc<Wake>,
    ) -> std::io::Result<Self>
    where
        B: Broker + Send + Sync + 'static,
        S: Store + Send + Sync + 'static,
    {
        let now = Instant::now();
        let mut readings = Pace::new(f64::from(config.readings_per_second), now);
        let mut bytes = Pace::new(config.bytes_per_second.as_u64() as f64, now);
        let mut replayed = 0_u64;
        let turn = move || {
            let now = Instant::now();
            let turn = dispatch.replay(now, clock.wall_ms(), readings.allowed(now), bytes.allowed(now));
            readings.spend(turn.records, turn.records_grown);
            bytes.spend(turn.bytes, turn.bytes_grown);
            replayed += turn.records as u64;
            let is_empty = || dispatch.store().is_some_and(|store| store.uncommitted() == 0);
            if turn.records == 0 && replayed > 0 && is_empty() {
                info!(readings = replayed, "the spool is replayed");
                replayed = 0;
            }
            if turn.records == 0 && wake.sleep_if(|| dispatch.is_idle()) {
                return Duration::ZERO;
            }
            TURN
        };
        Worker::start("deliver-pump", turn).map(Pump)
    }

    /// Ends the pump; nothing is replayed afterwards.
    pub fn stop(self) {
        self.0.stop();
    }
}

// === impl Wake ===

impl Wake {
    /// Something came into the spool.
    pub fn notify(&self) {
        if self.sleeps.load(Ordering::SeqCst)
            && let Some(thread) = &*self.thread.lock().unwrap_or_else(PoisonError::into_inner)
        {
            thread.unpark();
        }
    }

    /// Sleeps until it is notified, if it is idle. What comes between the question and the sleep ends that at once.
    fn sleep_if(&self, is_idle: impl Fn() -> bool) -> bool {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        self.sleeps.store(true, Ordering::SeqCst);
        let is_idle = is_idle();
        if is_idle {
            std::thread::park_timeout(IDLE_MAX);
        }
        self.sleeps.store(false, Ordering::SeqCst);
        is_idle
    }
}

// === impl Watch ===

impl Watch {
    /// Cancels `failed` when the spool has failed and the gateway `may_end`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start<B, S>(
        dispatch: Arc<Dispatch<B, S>>,
        failed: CancellationToken,
        may_end: impl Fn() -> bool + Send + 'static,
    ) -> std::io::Result<Self>
    where
        B: Broker + Send + Sync + 'static,
        S: Store + Send + Sync + 'static,
    {
        let turn = move || {
            let pause = dispatch.tick(Instant::now());
            let refusal = dispatch.store().and_then(Store::refuses);
            if !failed.is_cancelled() && refusal == Some(Busy::SpoolFailed) && may_end() {
                error!("the spool failed; the gateway ends, and recovers at its next start");
                failed.cancel();
            }
            pause
        };
        Worker::start("deliver-watch", turn).map(Watch)
    }

    /// Ends the watch; nobody is answered at a deadline afterwards, and nothing is copied to the spool.
    pub fn stop(self) {
        self.0.stop();
    }
}

// === impl Pace ===

impl Pace {
    fn new(per_second: f64, now: Instant) -> Self {
        Pace {
            per_second,
            allowance: 0.0,
            filled_at: now,
        }
    }

    fn allowed(&mut self, now: Instant) -> usize {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        let most = (self.per_second * BURST_SECONDS).max(1.0);
        self.allowance = (self.allowance + passed * self.per_second).min(most);
        self.filled_at = now;
        self.allowance.max(0.0) as usize
    }

    /// More than was allowed may be spent (an entry is not cut); it is then missing later. What came in meanwhile may go
    /// out besides.
    fn spend(&mut self, amount: usize, grown: usize) {
        self.allowance += grown as f64 - amount as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_kept_over_time_and_a_pause_is_no_credit() {
        let start = Instant::now();
        let mut pace = Pace::new(1000.0, start);
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(pace.allowed(after(50)), 50);
        pace.spend(50, 0);
        assert_eq!(pace.allowed(after(50)), 0);
        assert_eq!(pace.allowed(after(60)), 10);
        pace.spend(30, 0);
        assert_eq!(pace.allowed(after(70)), 0);
        assert_eq!(pace.allowed(after(5070)), 100);
        pace.spend(100, 40);
        assert_eq!(pace.allowed(after(5080)), 50);
    }
}
