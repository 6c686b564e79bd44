//! What happens again and again: counted, and logged now and then.
//!
//! The first is logged at once, those that follow within the interval are logged together when it is over: by the next one,
//! or by whoever waits for that moment. Who stops asks for the rest.

use std::time::{Duration, Instant};

/// See the module's documentation.
#[derive(Debug)]
pub struct Tally {
    interval: Duration,
    logged_at: Option<Instant>,
    unlogged: u64,
}

// === impl Tally ===

impl Tally {
    pub fn every(interval: Duration) -> Self {
        Tally {
            interval,
            logged_at: None,
            unlogged: 0,
        }
    }

    pub fn add(&mut self, times: u64) {
        self.unlogged += times;
    }

    /// How often it has happened since it was last logged, if it is to be logged now; then it counts as logged.
    pub fn due(&mut self, now: Instant) -> Option<u64> {
        if self.unlogged == 0 || self.logged_at.is_some_and(|at| now < at + self.interval) {
            return None;
        }
        self.logged_at = Some(now);
        self.rest()
    }

    /// When the interval is over that something waits for.
    pub fn next(&self) -> Option<Instant> {
        let at = self.logged_at.filter(|_| self.unlogged > 0)?;
        Some(at + self.interval)
    }

    /// How often it has happened since it was last logged, if at all, whether or not the interval is over.
    pub fn rest(&mut self) -> Option<u64> {
        let unlogged = std::mem::take(&mut self.unlogged);
        (unlogged > 0).then_some(unlogged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_logged_once_in_an_interval_and_altogether() {
        let mut tally = Tally::every(Duration::from_secs(60));
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        // How often it has happened by then, the second, what is logged in it, and when there is more to log.
        for (times, second, logged, next) in [
            (0, 0, None, None),
            (3, 0, Some(3), None),
            (5, 1, None, Some(60)),
            (7, 59, None, Some(60)),
            (0, 60, Some(12), None),
            (1, 61, None, Some(120)),
            (0, 200, Some(1), None),
            (0, 300, None, None),
            (2, 301, Some(2), None),
            (1, 302, None, Some(361)),
        ] {
            tally.add(times);
            assert_eq!(tally.due(at(second)), logged, "second {second}");
            assert_eq!(tally.next(), next.map(at), "second {second}");
        }
        assert_eq!((tally.rest(), tally.rest()), (Some(1), None));
    }
}
