//! How a gateway ends: signal, phases, deadline.
//!
//! The order in which water leaves a pipe: say that it ends, so that load balancers send no more → stop accepting →
//! answer what was accepted → flush Kafka up to the deadline → spool the rest (without a spool: answer it *busy*) → end.
//! The phases are `gateway::Gateway::drain`'s; here is when it begins and how long it may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::TaskTracker;

/// The `[drain]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Time after SIGTERM or SIGINT in which `/readyz` says 503 while readings are still accepted.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub delay: Duration,
    /// Maximum time after that to answer what was accepted, flush Kafka and exit.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub deadline: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            delay: Duration::ZERO,
            deadline: Duration::from_secs(20),
        }
    }
}

/// SIGHUP does not end this process from now on, but says what it reads again: one that has nothing to read ends by it no more than
/// one that has. Whatever is read again listens to the signal by itself ([`watch`](crate::operate::watch)).
///
/// # Errors
/// The process may not install signal handlers.
pub fn outlive_hangups(says: &'static str) -> std::io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    // Nothing waits for it: it ends with the process.
    TaskTracker::new().spawn(async move {
        while hangups.recv().await.is_some() {
            tracing::info!("SIGHUP: {says}");
        }
    });
    Ok(())
}

/// SIGTERM and SIGINT to this process, from now on: none is missed between two questions.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Signals ===

impl Signals {
    /// # Errors
    /// The process may not install signal handlers.
    pub fn new() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
