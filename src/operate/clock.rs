//! The `Clock` seam: what time it is, so that tests can say otherwise.
//!
//! Only wall time, which may be stepped: durations and deadlines are taken from `Instant`. The simulation and the tests have
//! clocks of their own.

use std::time::{SystemTime, UNIX_EPOCH};

pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Milliseconds since the Unix epoch.
    fn wall_ms(&self) -> i64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> i64 {
        // A clock set before 1970 is a broken clock; zero is as good an answer as any.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_millis() as i64)
    }
}

/// Seconds since the Unix epoch, by the machine's clock.
pub fn wall_s() -> i64 {
    SystemClock.wall_ms().div_euclid(1000)
}
