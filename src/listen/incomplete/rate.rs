//! How slowly a message may arrive: a rate, and how far it may fall behind it.
//!
//! A time-out for the whole message would reject a slow link that is steady; a rate without one would let a peer send
//! much and then occupy memory for as long. So bytes buy time at the rate, and no more than the grace time can ever
//! be saved up: a message is late when it has fallen that far behind, or when nothing comes for as long.

use std::time::Duration;

use tokio::time::Instant;

/// What is asked of a message.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    bytes_per_second: u64,
    grace: Duration,
}

/// How a message that arrives stands to its rate.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    rate: Rate,
    due: Instant,
}

// === impl Rate ===

impl Rate {
    /// At least `bytes_per_second` (0 counts as 1), but for `grace`.
    pub fn new(bytes_per_second: u64, grace: Duration) -> Self {
        Rate {
            bytes_per_second: bytes_per_second.max(1),
            grace,
        }
    }

    /// How far a message may fall behind.
    pub fn grace(self) -> Duration {
        self.grace
    }

    /// The pace of a message that starts now.
    pub fn start(self, now: Instant) -> Pace {
        Pace {
            rate: self,
            due: now + self.grace,
        }
    }
}

// === impl Pace ===

impl Pace {
    pub fn arrived(&mut self, bytes: usize, now: Instant) {
        let bought = Duration::from_secs_f64(bytes as f64 / self.rate.bytes_per_second as f64);
        self.due = (self.due + bought).min(now + self.rate.grace);
    }

    /// It was not read for so long: that is not the peer's time.
    pub fn paused(&mut self, time: Duration) {
        self.due += time;
    }

    /// When the message is late, unless more of it has arrived by then.
    pub fn due(&self) -> Instant {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of so many bytes, so often; whether all of them come before the message is late.
    fn arrives(bytes: usize, every: Duration, times: u32) -> bool {
        let start = Instant::now();
        let mut pace = Rate::new(512, Duration::from_secs(30)).start(start);
        (1..=times).all(|time| {
            let now = start + every * time;
            let is_late = now >= pace.due();
            pace.arrived(bytes, now);
            !is_late
        })
    }

    #[test]
    fn a_pause_buys_its_own_time_and_no_more() {
        let start = Instant::now();
        let grace = Duration::from_secs(30);
        let mut pace = Rate::new(512, grace).start(start);
        let now = start + Duration::from_secs(100);
        pace.paused(Duration::from_secs(80));
        assert_eq!(pace.due(), now + Duration::from_secs(10), "20 s of it were its own");
        pace.arrived(512, now);
        assert_eq!(pace.due(), now + Duration::from_secs(11));
    }

    #[test]
    fn a_message_is_late_when_it_falls_behind_its_rate_by_the_grace_time() {
        let check = |bytes, every_ms, times, expected| {
            let every = Duration::from_millis(every_ms);
            assert_eq!(arrives(bytes, every, times), expected, "{bytes} bytes every {every:?}");
        };
        // 189 KB at 40 kbit/s, in segments; 768 KiB at the lowest rate, in bursts.
        check(1448, 290, 131, true);
        check(10 * 512, 10_000, 154, true);
        // Half of the rate is late after twice the grace time; a byte a second after little more than it.
        check(256, 1000, 58, true);
        check(256, 1000, 60, false);
        check(1, 1000, 31, false);
        // However much has come, nothing is not enough for longer than the grace time.
        check(700_000, 29_000, 2, true);
        check(700_000, 31_000, 2, false);
    }
}
