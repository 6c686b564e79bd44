//! Datagrams that the kernel dropped, as the receive buffer of a socket was full: counted, and logged once a minute at most.
//!
//! The kernel tells how many there were in a control message of the next datagrams of the socket (SO_RXQ_OVFL), so what is dropped last is
//! known when there is something to read again; of a socket that is closed before, it is not.

use std::time::{Duration, Instant};

use prometheus::IntCounter;

use crate::operate::log_limit::Repeats;

/// How often it is logged.
const LOG_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Drops {
    total: IntCounter,
    repeats: Repeats<Instant>,
}

// === impl Drops ===

impl Drops {
    pub fn new(total: IntCounter) -> Self {
        let repeats = Repeats::every(LOG_EVERY);
        Drops { total, repeats }
    }

    pub fn add(&mut self, dropped: u32) {
        if dropped > 0 {
            self.total.inc_by(dropped.into());
            self.repeats.add(dropped.into());
        }
    }

    /// When there is something to log that is not logged now.
    pub fn next(&self) -> Option<Instant> {
        self.repeats.next()
    }

    /// Logs what is due.
    pub fn log(&mut self, now: Instant) {
        if let Some(dropped) = self.repeats.due(now) {
            log(dropped);
        }
    }

    /// Logs what is left, as no more will come.
    pub fn log_rest(&mut self) {
        if let Some(dropped) = self.repeats.rest() {
            log(dropped);
        }
    }
}

fn log(dropped: u64) {
    tracing::warn!(
        dropped,
        "coap datagrams dropped by the kernel, as a receive buffer was full; coap.receive_buffer_bytes and net.core.rmem_max bound it"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_counted_at_once_and_logged_once_a_minute() {
        let total = IntCounter::new("drops", "drops").unwrap();
        let mut drops = Drops::new(total.clone());
        let start = Instant::now();
        let minute = Some(start + LOG_EVERY);
        for (dropped, second, next) in [
            (0, 0, None),
            (3, 0, None),
            (5, 1, minute),
            (0, 59, minute),
            (0, 60, None),
        ] {
            drops.add(dropped);
            drops.log(start + Duration::from_secs(second));
            assert_eq!(drops.next(), next, "second {second}");
        }
        drops.add(1);
        drops.log_rest();
        assert_eq!((drops.next(), total.get()), (None, 9));
    }
}
