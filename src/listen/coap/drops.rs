//! Datagrams that the kernel dropped, as the receive buffer of a socket was full: counted, and said once a minute at most.
//!
//! The kernel tells how many there were beside the next datagrams of the socket (SO_RXQ_OVFL), so what is dropped last is
//! known when there is something to read again.

use std::time::{Duration, Instant};

use prometheus::IntCounter;

/// How often it is said.
const SAY_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Drops {
    total: IntCounter,
    unsaid: u64,
    said_at: Option<Instant>,
}

// === impl Drops ===

impl Drops {
    pub fn new(total: IntCounter) -> Self {
        Drops {
            total,
            unsaid: 0,
            said_at: None,
        }
    }

    pub fn add(&mut self, dropped: u32) {
        self.total.inc_by(dropped.into());
        self.unsaid += u64::from(dropped);
    }

    /// When it is to be said, if there is anything to say.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let at = self.said_at.map_or(now, |at| at + SAY_EVERY);
        (self.unsaid > 0).then_some(at)
    }

    /// Says it if it is due; how many that are.
    pub fn say(&mut self, now: Instant) -> u64 {
        if self.due(now).is_none_or(|at| now < at) {
            return 0;
        }
        self.said_at = Some(now);
        let dropped = std::mem::take(&mut self.unsaid);
        tracing::warn!(
            dropped,
            "coap datagrams dropped by the kernel, as a receive buffer was full; coap.receive_buffer and net.core.rmem_max bound it"
        );
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_said_once_a_minute_and_altogether() {
        let total = IntCounter::new("drops", "drops").unwrap();
        let mut drops = Drops::new(total.clone());
        let start = Instant::now();
        assert_eq!((drops.due(start), drops.say(start)), (None, 0));
        // Dropped by then, the second, and what is said in it.
        for (dropped, second, said) in [
            (3, 0, 3),
            (5, 1, 0),
            (7, 59, 0),
            (0, 60, 12),
            (1, 61, 0),
            (0, 200, 1),
            (0, 300, 0),
        ] {
            let now = start + Duration::from_secs(second);
            drops.add(dropped);
            assert_eq!(drops.say(now), said, "second {second}");
        }
        drops.add(1);
        assert_eq!(drops.due(start), Some(start + Duration::from_secs(260)));
        assert_eq!(total.get(), 17);
    }
}
