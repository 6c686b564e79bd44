//! When to stop trying Kafka, and when to try again.
//!
//! Readings tell most of it: a confirmed one says *up*, one that was not confirmed in time says *away*. While nothing is
//! confirmed, a probe asks the cluster for its metadata: an answer with all topics in it says *up* (unless Kafka still owes
//! confirmations), none says *away*. While Kafka is away readings go to the spool; without one, or while it takes nothing,
//! they are answered busy at once instead of waiting in a queue for a time-out each.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use tokio::sync::watch;
use tracing::{info, warn};

use super::kafka::Kafka;
use super::topics::Wanted;
use crate::outcome::Busy;

/// Whether readings are taken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not known yet: the gateway is starting.
    Starting,
    /// Kafka confirms readings.
    Up,
    /// Kafka does not, but the spool takes them. Why, in words for `/readyz`.
    Spooling(String),
    /// Neither takes them: new readings are answered busy. Why, in words.
    Down(String),
}

impl Health {
    pub fn is_up(&self) -> bool {
        matches!(self, Health::Up)
    }

    /// Whether a reading that is sent now can be made safe.
    pub fn takes_readings(&self) -> bool {
        matches!(self, Health::Up | Health::Spooling(_))
    }
}

/// Keeps the [`Health`] and tells everyone who subscribed of its changes.
#[derive(Debug)]
pub struct Monitor {
    health: watch::Sender<Health>,
    known: Mutex<Known>,
    // The two flags mirror what is known, so that asking on the path of a reading is one atomic load.
    up: AtomicBool,
    closed: AtomicBool,
    awaited: AtomicBool,
    started: Instant,
    // Milliseconds after `started` of the last confirmed reading.
    last_confirmed_ms: AtomicU64,
    up_gauge: IntGauge,
}

/// The two halves of the health.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    kafka: Kafkas,
    /// Why the spool takes nothing, if so; a gateway without spool has one that never does.
    store_refuses: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kafkas {
    Unknown,
    Up,
    Away(String),
}

// === impl Monitor ===

impl Monitor {
    pub fn new(up_gauge: IntGauge) -> Self {
        Monitor {
            health: watch::channel(Health::Starting).0,
            known: Mutex::new(Known {
                kafka: Kafkas::Unknown,
                store_refuses: Some(""),
            }),
            up: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
            started: Instant::now(),
            last_confirmed_ms: AtomicU64::new(0),
            up_gauge,
        }
    }

    pub fn subscribe(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Whether Kafka takes readings now.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether the gateway is shutting down.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// No reading is sent from now on: the gateway is shutting down.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Kafka confirmed a reading.
    pub fn confirmed(&self) {
        let elapsed = self.started.elapsed().as_millis() as u64;
        self.last_confirmed_ms.store(elapsed, Ordering::Relaxed);
        self.nothing_awaited();
        if !self.is_up() {
            self.found();
        }
    }

    /// Whether Kafka confirmed a reading at this time or later.
    pub fn confirmed_since(&self, then: Instant) -> bool {
        let last = Duration::from_millis(self.last_confirmed_ms.load(Ordering::Relaxed));
        self.started + last >= then
    }

    /// Kafka is there.
    pub fn found(&self) {
        self.learn(|known| known.kafka = Kafkas::Up);
    }

    /// Kafka holds readings that it did not confirm in time: until it does, that it answers a question means nothing (too
    /// few replicas may be in sync).
    pub fn unconfirmed(&self, reason: &str) {
        self.awaited.store(true, Ordering::Relaxed);
        self.failed(reason);
    }

    /// Kafka holds no such readings (any more).
    pub fn nothing_awaited(&self) {
        self.awaited.store(false, Ordering::Relaxed);
    }

    /// Kafka answers, and has all topics.
    fn answered(&self) {
        if self.awaited.load(Ordering::Relaxed) {
            self.failed("kafka answers, but does not confirm readings");
        } else {
            self.found();
        }
    }

    /// Kafka does not confirm readings, for this reason.
    pub fn failed(&self, reason: &str) {
        self.learn(|known| known.kafka = Kafkas::Away(reason.to_owned()));
    }

    /// Why the spool takes nothing now; `None`: it takes readings.
    pub fn store_refuses(&self, why: Option<Busy>) {
        self.learn(|known| known.store_refuses = why.map(Busy::text));
    }

    fn learn(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.clone();
        change(&mut known);
        if *known == before {
            return;
        }
        let health = known.health();
        self.up.store(health.is_up(), Ordering::Relaxed);
        self.up_gauge.set(i64::from(health.is_up()));
        // While the gateway ends, Kafka's coming and going is nobody's concern.
        if !self.is_closed() {
            say(&self.health.borrow(), &health);
        }
        self.health.send_replace(health);
    }

    fn confirmed_within(&self, interval: Duration) -> bool {
        self.is_up()
            && Instant::now()
                .checked_sub(interval)
                .is_some_and(|then| self.confirmed_since(then))
    }
}

impl Known {
    fn health(&self) -> Health {
        match (&self.kafka, self.store_refuses) {
            (Kafkas::Up, _) => Health::Up,
            (Kafkas::Unknown, Some(_)) => Health::Starting,
            (Kafkas::Unknown, None) => Health::Spooling("kafka has not answered yet".into()),
            (Kafkas::Away(why), None) => Health::Spooling(why.clone()),
            (Kafkas::Away(why), Some("")) => Health::Down(why.clone()),
            (Kafkas::Away(why), Some(store)) => Health::Down(format!("{why}; {store}")),
        }
    }
}

/// Logs when it turns, not when a reason is put in other words.
fn say(before: &Health, after: &Health) {
    if std::mem::discriminant(before) == std::mem::discriminant(after) {
        return;
    }
    match after {
        Health::Starting => {}
        Health::Up => info!("kafka is up"),
        Health::Spooling(reason) => warn!(%reason, "kafka is away; readings are spooled"),
        Health::Down(reason) => warn!(%reason, "kafka is away; readings are answered busy"),
    }
}

/// Probes Kafka from a thread of its own until the monitor is closed (librdkafka's metadata call blocks).
pub fn start_probe(kafka: Arc<Kafka>, monitor: Arc<Monitor>, wanted: Wanted, interval: Duration) {
    let probe = move || {
        let mut checked = false;
        while !monitor.closed.load(Ordering::Relaxed) {
            if !monitor.confirmed_within(interval) {
                probe_once(&kafka, &monitor, &wanted, &mut checked);
            }
            std::thread::sleep(interval);
        }
    };
    let thread = std::thread::Builder::new().name("kafka-probe".into());
    if let Err(error) = thread.spawn(probe) {
        warn!(%error, "no thread for the kafka probe");
    }
}

/// `checked` remembers that the topics' settings have been looked at: once per process is enough.
fn probe_once(kafka: &Kafka, monitor: &Monitor, wanted: &Wanted, checked: &mut bool) {
    if let Some(reason) = kafka.revive() {
        monitor.failed(&reason);
        return;
    }
    let found = kafka
        .metadata()
        .and_then(|metadata| wanted.check(&metadata).map_err(|missing| missing.to_string()));
    match found {
        Ok(()) => {
            monitor.answered();
            if !std::mem::replace(checked, true) {
                wanted.report_settings(kafka);
            }
        }
        Err(reason) => match wanted.create_missing(kafka, &reason) {
            Some(outcome) => monitor.failed(&outcome),
            None => monitor.failed(&reason),
        },
    }
}
