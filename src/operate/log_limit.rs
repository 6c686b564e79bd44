//! At most one line in the log for each cause and minute.
//!
//! What comes and goes, or happens to every reading, would fill the log. The first of each cause is logged at once;
//! further ones within a minute are held back and counted, so that their number, or how it is by then, can be logged when
//! the minute is over. Time is given by the caller: any clock's, which is the same in every call.

use std::collections::BTreeMap;
use std::ops::Add;
use std::time::Duration;

/// How long a cause that was logged is not logged again.
pub const INTERVAL: Duration = Duration::from_secs(60);

/// Causes that are remembered. Those beyond are held back, uncounted, until one of these is forgotten.
const CAUSES_MAX: usize = 128;

/// See the module's documentation. `T`: a moment, such as an `Instant`.
#[derive(Debug)]
pub struct LogLimit<T> {
    causes: BTreeMap<String, Logged<T>>,
}

#[derive(Debug)]
struct Logged<T> {
    again_at: T,
    held_back: u64,
}

// === impl LogLimit ===

impl<T> Default for LogLimit<T> {
    fn default() -> Self {
        let causes = BTreeMap::new();
        LogLimit { causes }
    }
}

impl<T: Copy + PartialOrd + Add<Duration, Output = T>> LogLimit<T> {
    /// Whether it is to be logged now; otherwise it is held back.
    pub fn allows(&mut self, now: T, cause: &str) -> bool {
        self.causes.retain(|_, logged| match logged.held_back {
            0 => now < logged.again_at,
            _ => now < logged.again_at + INTERVAL,
        });
        let is_full = self.causes.len() >= CAUSES_MAX;
        match self.causes.get_mut(cause) {
            Some(logged) if now < logged.again_at => {
                logged.held_back += 1;
                return false;
            }
            None if is_full => return false,
            _ => {}
        }
        let logged = Logged {
            again_at: now + INTERVAL,
            held_back: 0,
        };
        self.causes.insert(cause.to_owned(), logged);
        true
    }

    /// What was held back and may be logged now, with how often it was; it counts as logged.
    pub fn due(&mut self, now: T) -> Vec<(String, u64)> {
        let mut due = Vec::new();
        for (cause, logged) in &mut self.causes {
            if logged.held_back > 0 && logged.again_at <= now {
                due.push((cause.clone(), logged.held_back));
                (logged.again_at, logged.held_back) = (now + INTERVAL, 0);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_logged_at_once_and_then_once_a_minute() {
        let mut limit = LogLimit::default();
        let mut check = |seconds, cause: &str, allowed, due: &[(&str, u64)]| {
            let now = Duration::from_secs(seconds);
            assert_eq!(limit.allows(now, cause), allowed, "{cause} at {seconds} s");
            let found = limit.due(now);
            let found: Vec<_> = found.iter().map(|(cause, times)| (cause.as_str(), *times)).collect();
            assert_eq!(found, due, "at {seconds} s");
        };
        check(0, "a", true, &[]);
        check(1, "a", false, &[]);
        check(2, "b", true, &[]);
        check(59, "a", false, &[]);
        // What was held back is due when somebody asks for it, and a minute begins anew.
        check(60, "c", true, &[("a", 2)]);
        check(61, "a", false, &[]);
        check(119, "b", true, &[]);
        check(120, "d", true, &[("a", 1)]);
        // Nothing was held back since: it is forgotten.
        check(180, "a", true, &[]);
        // Where nobody asks, the next one is logged itself.
        check(181, "a", false, &[]);
        check(240, "a", true, &[]);
    }

    #[test]
    fn what_it_remembers_is_bounded() {
        let mut limit = LogLimit::default();
        let at = Duration::from_secs;
        for cause in 0..CAUSES_MAX {
            assert!(limit.allows(at(0), &cause.to_string()));
        }
        assert!(!limit.allows(at(59), "one more"));
        assert!(limit.allows(at(60), "one more"));
        assert_eq!(limit.causes.len(), 1);
    }
}
