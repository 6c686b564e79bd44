//! When to stop trying Kafka, and when to try again.
//!
//! Readings tell most of it: a confirmed one says *up*, one that timed out says *down*. While nothing is confirmed, a
//! probe asks the cluster for its metadata: an answer with all topics in it says *up*, none says *down*. While down,
//! readings are answered busy at once instead of waiting in a queue for a time-out each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use tokio::sync::watch;
use tracing::{info, warn};

use super::kafka::Kafka;
use super::topics::Wanted;
use crate::outcome::Busy;

/// What is known of Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not known yet: the gateway is starting.
    Starting,
    /// Kafka confirms readings.
    Up,
    /// Kafka does not; new readings are answered busy until a probe succeeds. In words for `/readyz`.
    Down(String),
}

impl Health {
    pub fn is_up(&self) -> bool {
        matches!(self, Health::Up)
    }
}

/// Keeps the [`Health`] and tells everyone who subscribed of its changes.
#[derive(Debug)]
pub struct Monitor {
    health: watch::Sender<Health>,
    // The two flags mirror the channel, so that asking on the path of a reading is one atomic load.
    up: AtomicBool,
    closed: AtomicBool,
    started: Instant,
    // Milliseconds after `started` of the last confirmed reading.
    last_confirmed_ms: AtomicU64,
    up_gauge: IntGauge,
}

// === impl Monitor ===

impl Monitor {
    pub fn new(up_gauge: IntGauge) -> Self {
        Monitor {
            health: watch::channel(Health::Starting).0,
            up: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            started: Instant::now(),
            last_confirmed_ms: AtomicU64::new(0),
            up_gauge,
        }
    }

    pub fn subscribe(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Why a reading cannot be sent to Kafka now, if so.
    pub fn busy(&self) -> Option<Busy> {
        if self.closed.load(Ordering::Relaxed) {
            Some(Busy::Draining)
        } else if !self.up.load(Ordering::Relaxed) {
            Some(Busy::KafkaAway)
        } else {
            None
        }
    }

    /// No reading is sent from now on: the gateway is shutting down.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Kafka confirmed a reading.
    pub fn confirmed(&self) {
        let elapsed = self.started.elapsed().as_millis() as u64;
        self.last_confirmed_ms.store(elapsed, Ordering::Relaxed);
        if !self.up.load(Ordering::Relaxed) {
            self.set(Health::Up);
        }
    }

    /// Kafka does not confirm readings, for this reason.
    pub fn failed(&self, reason: &str) {
        self.set(Health::Down(reason.to_owned()));
    }

    fn set(&self, health: Health) {
        self.up.store(health.is_up(), Ordering::Relaxed);
        self.up_gauge.set(i64::from(health.is_up()));
        self.health.send_if_modified(|current| {
            let turned = current.is_up() != health.is_up() || *current == Health::Starting;
            // While the gateway ends, Kafka's coming and going is nobody's concern.
            if turned && !self.closed.load(Ordering::Relaxed) {
                match &health {
                    Health::Down(reason) => warn!(%reason, "kafka is away; readings are answered busy"),
                    Health::Starting | Health::Up => info!("kafka is up"),
                }
            }
            let changed = *current != health;
            *current = health;
            changed
        });
    }

    fn confirmed_within(&self, interval: Duration) -> bool {
        let last = Duration::from_millis(self.last_confirmed_ms.load(Ordering::Relaxed));
        self.started.elapsed() < last + interval && self.up.load(Ordering::Relaxed)
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
            monitor.set(Health::Up);
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
