//! What an accept loop does when it cannot accept: it counts, says so now and then, waits a moment, and stops when told.
//!
//! Descriptors are shared out beforehand (`descriptors`), so this is for what else may take them: other processes of the
//! machine, or a limit that was lowered.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::tally::Tally;

/// How often a repeating trouble of the accept loop is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Pause after a failed accept: the usual cause is that file descriptors have run out, and they do not come back at
/// once.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What goes wrong in one accept loop.
#[derive(Debug)]
pub struct Troubles(Tally);

// === impl Troubles ===

impl Default for Troubles {
    fn default() -> Self {
        Troubles(Tally::every(LOG_EVERY))
    }
}

impl Troubles {
    /// One more; how often it has happened since it was last logged, if it is to be logged now.
    pub fn happened(&mut self) -> Option<u64> {
        self.0.add(1);
        self.0.due(Instant::now())
    }
}

/// After a failed accept: counts it, and comes back when the next one may be tried. False: the listener is to stop.
pub async fn failed(
    listener: &'static str,
    error: &io::Error,
    troubles: &mut Troubles,
    failures: &IntCounter,
    stopping: &CancellationToken,
) -> bool {
    failures.inc();
    if let Some(times) = troubles.happened() {
        warn!(%error, times, "{listener} connection not accepted");
    }
    // These are about one connection; the next one may be tried at once.
    if matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    ) {
        return !stopping.is_cancelled();
    }
    tokio::select! {
        () = stopping.cancelled() => false,
        () = tokio::time::sleep(BACK_OFF) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_accept_is_tried_again_until_the_stop() {
        let (mut troubles, counter) = (Troubles::default(), IntCounter::new("failures", "help").unwrap());
        let stopping = CancellationToken::new();
        let error = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        assert!(failed("http", &error, &mut troubles, &counter, &stopping).await);
        stopping.cancel();
        assert!(!failed("http", &error, &mut troubles, &counter, &stopping).await);
        assert_eq!(counter.get(), 2);
    }
}
