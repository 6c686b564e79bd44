//! At most one line in the log for each cause and minute.
//!
//! What comes and goes, or happens to every reading, would fill the log. The first of a cause is logged at once; further
//! ones within the interval are counted, so that their number, or how it is by then, can be logged when it is over.
//! [`Repeats`] is one cause, [`LogLimit`] many. Time is given by the caller: any clock's, which is the same in every call.

use std::collections::BTreeMap;
use std::ops::Add;
use std::time::Duration;

/// How long a cause of a [`LogLimit`] that was logged is not logged again.
pub const INTERVAL: Duration = Duration::from_secs(60);

/// Causes that are remembered. Those beyond are not logged, uncounted, until one of these is forgotten.
const CAUSES_MAX: usize = 128;

/// How often it is looked which causes are over.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What happens again and again: counted, and logged once in an interval. `T`: a moment, such as an `Instant`.
#[derive(Debug)]
pub struct Repeats<T> {
    interval: Duration,
    logged_at: Option<T>,
    unlogged: u64,
}

/// One of these per cause, of which at most [`CAUSES_MAX`] are remembered.
#[derive(Debug)]
pub struct LogLimit<T> {
    causes: BTreeMap<String, Repeats<T>>,
    /// When those that are over were last forgotten.
    swept_at: Option<T>,
}

// === impl Repeats ===

impl<T: Copy + PartialOrd + Add<Duration, Output = T>> Repeats<T> {
    pub fn every(interval: Duration) -> Self {
        Repeats {
            interval,
            logged_at: None,
            unlogged: 0,
        }
    }

    pub fn add(&mut self, times: u64) {
        self.unlogged += times;
    }

    /// How often it has happened since it was last logged, if it is to be logged now; then it counts as logged.
    pub fn due(&mut self, now: T) -> Option<u64> {
        if self.unlogged == 0 || self.logged_at.is_some_and(|at| now < at + self.interval) {
            return None;
        }
        self.logged_at = Some(now);
        self.rest()
    }

    /// When the interval is over, if there is something to log by then.
    pub fn next(&self) -> Option<T> {
        let at = self.logged_at.filter(|_| self.unlogged > 0)?;
        Some(at + self.interval)
    }

    /// How often it has happened since it was last logged, if at all, whether or not the interval is over.
    pub fn rest(&mut self) -> Option<u64> {
        let unlogged = std::mem::take(&mut self.unlogged);
        (unlogged > 0).then_some(unlogged)
    }

    /// Whether it was logged so long ago that the next one is a first one again.
    fn is_over(&self, now: T) -> bool {
        let intervals = if self.unlogged == 0 { 1 } else { 2 };
        self.logged_at.is_some_and(|at| now >= at + self.interval * intervals)
    }
}

// === impl LogLimit ===

impl<T> Default for LogLimit<T> {
    fn default() -> Self {
        let (causes, swept_at) = (BTreeMap::new(), None);
        LogLimit { causes, swept_at }
    }
}

impl<T: Copy + PartialOrd + Add<Duration, Output = T>> LogLimit<T> {
    /// Whether it is to be logged now; otherwise it is counted.
    pub fn allows(&mut self, now: T, cause: &str) -> bool {
        // Not for each: whoever causes a storm of causes would pay for it with everybody's time.
        if self.swept_at.is_none_or(|at| now >= at + SWEEP_EVERY) {
            self.swept_at = Some(now);
            self.causes.retain(|_, repeats| !repeats.is_over(now));
        }
        if !self.causes.contains_key(cause) {
            if self.causes.len() >= CAUSES_MAX {
                return false;
            }
            self.causes.insert(cause.to_owned(), Repeats::every(INTERVAL));
        }
        self.causes.get_mut(cause).is_some_and(|repeats| {
            repeats.add(1);
            repeats.due(now).is_some()
        })
    }

    /// What was counted and may be logged now, with how often it was; it counts as logged.
    pub fn due(&mut self, now: T) -> Vec<(String, u64)> {
        let due = |(cause, repeats): (&String, &mut Repeats<T>)| Some((cause.clone(), repeats.due(now)?));
        self.causes.iter_mut().filter_map(due).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn what_repeats_is_logged_once_in_an_interval_and_altogether() {
        let mut repeats = Repeats::every(Duration::from_secs(60));
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
            repeats.add(times);
            assert_eq!(repeats.due(at(second)), logged, "second {second}");
            assert_eq!(repeats.next(), next.map(at), "second {second}");
        }
        assert_eq!((repeats.rest(), repeats.rest()), (Some(1), None));
    }

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
