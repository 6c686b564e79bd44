//! A set of sequence numbers, kept as runs.
//!
//! A device counts 1, 2, 3 …, so a million acknowledged readings are one run of two numbers. Memory grows with the gaps,
//! not with the readings.

use std::cmp::{max, min};

/// Sorted, disjoint and never adjacent: `[first, last]`, both inclusive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    runs: Vec<(u64, u64)>,
}

// === impl Runs ===

impl Runs {
    /// Adds `value`; whether it was new.
    pub fn insert(&mut self, value: u64) -> bool {
        // The run that begins at or before `value` is the one before `next`.
        let next = self.runs.partition_point(|&(first, _)| first <= value);
        let before = next.checked_sub(1).and_then(|index| self.runs.get(index).copied());
        if before.is_some_and(|(_, last)| value <= last) {
            return false;
        }
        let extends = before.is_some_and(|(_, last)| last.checked_add(1) == Some(value));
        let joins = self.runs.get(next).is_some_and(|&(first, _)| value + 1 == first);
        match (extends, joins) {
            (true, true) => {
                let (_, last) = self.runs.remove(next);
                self.runs[next - 1].1 = last;
            }
            (true, false) => self.runs[next - 1].1 = value,
            (false, true) => self.runs[next].0 = value,
            (false, false) => self.runs.insert(next, (value, value)),
        }
        true
    }

    pub fn contains(&self, value: u64) -> bool {
        let next = self.runs.partition_point(|&(first, _)| first <= value);
        next.checked_sub(1)
            .is_some_and(|index| self.runs.get(index).is_some_and(|&(_, last)| value <= last))
    }

    /// How many numbers, not how many runs.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub fn largest(&self) -> Option<u64> {
        self.runs.last().map(|&(_, last)| last)
    }

    /// The runs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs.iter().copied()
    }

    /// What both hold.
    pub fn intersection(&self, other: &Runs) -> Runs {
        let (mut mine, mut theirs) = (self.runs.iter().peekable(), other.runs.iter().peekable());
        let mut runs = Vec::new();
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            let (first, last) = (max(a.0, b.0), min(a.1, b.1));
            if first <= last {
                runs.push((first, last));
            }
            if a.1 < b.1 {
                mine.next()
            } else {
                theirs.next()
            };
        }
        Runs { runs }
    }

    /// What only this one holds.
    pub fn difference(&self, other: &Runs) -> Runs {
        let mut runs = Vec::new();
        let mut theirs = other.runs.iter().peekable();
        for &(first, last) in &self.runs {
            let mut from = first;
            while theirs.peek().is_some_and(|hole| hole.1 < from) {
                theirs.next();
            }
            while let Some(&&(hole_first, hole_last)) = theirs.peek()
                && hole_first <= last
            {
                if hole_first > from {
                    runs.push((from, hole_first - 1));
                }
                from = hole_last.saturating_add(1);
                if hole_last > last {
                    break; // It reaches into the next run as well.
                }
                theirs.next();
            }
            if from <= last {
                runs.push((from, last));
            }
        }
        Runs { runs }
    }
}

impl FromIterator<u64> for Runs {
    fn from_iter<I: IntoIterator<Item = u64>>(values: I) -> Self {
        let mut runs = Runs::default();
        for value in values {
            runs.insert(value);
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use std::collections::BTreeSet;

    #[test]
    fn neighbours_grow_together() {
        let check = |values: &[u64], expected: &[(u64, u64)]| {
            let runs: Runs = values.iter().copied().collect();
            assert_eq!(runs.iter().collect::<Vec<_>>(), expected, "{values:?}");
        };
        check(&[], &[]);
        check(&[1, 2, 3], &[(1, 3)]);
        check(&[3, 2, 1], &[(1, 3)]);
        check(&[1, 3], &[(1, 1), (3, 3)]);
        check(&[1, 3, 2], &[(1, 3)]);
        check(&[5, 5, 5], &[(5, 5)]);
        check(&[0, u64::MAX], &[(0, 0), (u64::MAX, u64::MAX)]);
        check(&[10, 20, 15, 11, 19], &[(10, 11), (15, 15), (19, 20)]);
    }

    #[test]
    fn runs_are_a_set() {
        let seed = rand::random::<u64>();
        println!("seed {seed}");
        let mut dice = StdRng::seed_from_u64(seed);
        for _ in 0..300 {
            let mut draw = || -> (Runs, BTreeSet<u64>) {
                let mut both = (Runs::default(), BTreeSet::new());
                for _ in 0..dice.random_range(0..40) {
                    let value = dice.random_range(0..60);
                    assert_eq!(both.0.insert(value), both.1.insert(value));
                }
                both
            };
            let ((mine, my_set), (theirs, their_set)) = (draw(), draw());
            let listed = |runs: &Runs| runs.iter().flat_map(|(first, last)| first..=last).collect::<Vec<_>>();
            assert_eq!(listed(&mine), my_set.iter().copied().collect::<Vec<_>>());
            assert_eq!(mine.count(), my_set.len() as u64);
            assert_eq!(mine.largest(), my_set.last().copied());
            assert!((0..60).all(|value| mine.contains(value) == my_set.contains(&value)));
            let both: Vec<u64> = my_set.intersection(&their_set).copied().collect();
            assert_eq!(listed(&mine.intersection(&theirs)), both);
            let only: Vec<u64> = my_set.difference(&their_set).copied().collect();
            assert_eq!(listed(&mine.difference(&theirs)), only);
        }
    }
}
