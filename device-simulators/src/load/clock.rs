//! The run's own time: nanoseconds since it began.
//!
//! One number is cheaper to keep per message than an `Instant`, and every thread of a run counts from the same moment.
//! Also here: the processor time and memory of this process, which is part of what a run reports.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the run began.
pub type Nanos = u64;

/// Counts from the beginning of a run.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
    began_unix_ms: u64,
}

// === impl Clock ===

impl Clock {
    pub fn start() -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock {
            began: Instant::now(),
            began_unix_ms: unix.as_millis() as u64,
        }
    }

    pub fn now(&self) -> Nanos {
        nanos(self.began.elapsed())
    }

    /// When `at` is, for those who need an `Instant`.
    pub fn instant(&self, at: Nanos) -> Instant {
        self.began + Duration::from_nanos(at)
    }

    /// Milliseconds since 1970 (UTC) at `at`.
    pub fn unix_ms(&self, at: Nanos) -> u64 {
        self.began_unix_ms + at / 1_000_000
    }
}

pub fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub fn seconds(time: Nanos) -> f64 {
    time as f64 / 1e9
}

/// Processor time that this process has used, in user and kernel mode.
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec.max(0) as u32)
}

/// Memory of this process that is in RAM, in bytes; 0 where there is no /proc.
pub fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|field| field.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}
