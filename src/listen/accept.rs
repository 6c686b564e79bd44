//! What an accept loop does when it cannot accept: it counts, says so now and then, waits a moment, and stops when told.
//!
//! Descriptors are shared out beforehand (`descriptors`), so this is for what else may take them: other processes of the
//! machine, or a limit that was lowered.

use std::io::{self, ErrorKind};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How often a repeating trouble of the accept loop is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Pause after a failed accept: the usual cause is that file descriptors have run out, and they do not come back at
/// once.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What goes wrong again and again, logged now and then.
#[derive(Debug, Default)]
pub struct Troubles {
    logged_at: Option<Instant>,
    unlogged: u64,
}

impl Troubles {
    /// How often it has happened since it was last logged, if it is to be logged now.
    pub fn happened(&mut self, now: Instant) -> Option<u64> {
        self.unlogged += 1;
        if self.logged_at.is_some_and(|at| now < at + LOG_EVERY) {
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.unlogged))
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
    if let Some(times) = troubles.happened(Instant::now()) {
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

    #[test]
    fn a_trouble_that_repeats_is_logged_now_and_then() {
        let mut troubles = Troubles::default();
        let now = Instant::now();
        assert_eq!(troubles.happened(now), Some(1));
        assert_eq!(troubles.happened(now), None);
        assert_eq!(troubles.happened(now + LOG_EVERY / 2), None);
        assert_eq!(troubles.happened(now + LOG_EVERY), Some(3));
    }

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
