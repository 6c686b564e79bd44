//! How a gateway ends: signal, phases, deadline.
//!
//! The order in which water leaves a pipe: stop accepting → answer what was taken in → flush Kafka up to the deadline →
//! spool the rest (without a spool: answer it *busy*) → end. The phases are `gateway::Gateway::drain`'s; here is when it begins and how long it
//! may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

/// The `[drain]` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long the gateway may take to end after SIGTERM or SIGINT.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub deadline: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            deadline: Duration::from_secs(20),
        }
    }
}

/// Returns the name of the first SIGTERM or SIGINT.
///
/// # Errors
/// The process may not install signal handlers.
pub async fn signalled() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}
