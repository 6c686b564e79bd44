//! Answers that there is nothing, remembered for a while, so that the same question is not asked for every record.
//!
//! Of a limited number: whoever invents names faster than that is answered each time. An answer that has become old is
//! not forgotten, so that it can be said of what is found later that it was missing before.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How long it is not asked again.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);
/// How many answers are remembered.
const ANSWERS_MAX: usize = 1000;

/// Of each name when it was missing last, and why.
#[derive(Debug)]
pub struct Missing<K, W> {
    told: HashMap<K, (Instant, W)>,
}

// === impl Missing ===

impl<K, W> Default for Missing<K, W> {
    fn default() -> Self {
        Missing { told: HashMap::new() }
    }
}

impl<K: Eq + Hash + Clone, W> Missing<K, W> {
    /// Why it is missing, if that was asked a short time ago.
    pub fn recent(&self, name: &K, now: Instant) -> Option<&W> {
        let (at, why) = self.told.get(name)?;
        (now.saturating_duration_since(*at) < REMEMBERED_FOR).then_some(why)
    }

    /// It is missing; the answer that was remembered for the longest time makes room.
    pub fn note(&mut self, name: K, why: W, now: Instant) {
        if self.told.len() >= ANSWERS_MAX && !self.told.contains_key(&name) {
            let oldest = self.told.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.told.remove(&oldest);
            }
        }
        self.told.insert(name, (now, why));
    }

    /// It exists; whether it was missing before.
    pub fn found(&mut self, name: &K) -> bool {
        self.told.remove(name).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_remembered_for_a_while() {
        let mut missing = Missing::default();
        let now = Instant::now();
        assert_eq!(missing.recent(&7, now), None);
        missing.note(7, "no schema", now);
        let check = |later: u64, expected: Option<&&str>| {
            assert_eq!(missing.recent(&7, now + Duration::from_secs(later)), expected);
        };
        check(0, Some(&"no schema"));
        check(9, Some(&"no schema"));
        check(10, None);
        assert!(missing.found(&7));
        assert!(!missing.found(&7));
    }

    #[test]
    fn the_oldest_answer_makes_room() {
        let mut missing = Missing::default();
        let now = Instant::now();
        let at = |number: usize| now + Duration::from_micros(number as u64);
        for number in 0..ANSWERS_MAX + 5 {
            missing.note(number, (), at(number));
        }
        assert_eq!(missing.told.len(), ANSWERS_MAX);
        assert_eq!(missing.recent(&4, at(0)), None);
        assert_eq!(missing.recent(&5, at(0)), Some(&()));
        // One that is known already needs no room.
        missing.note(5, (), at(9999));
        assert_eq!(missing.recent(&6, at(0)), Some(&()));
    }
}
