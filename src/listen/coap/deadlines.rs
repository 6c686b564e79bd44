//! What is due when: one heap of deadlines for all exchanges, instead of a task or a timer for each.
//!
//! Deadlines are not removed; the owner knows whether one still counts. Those that no longer do are swept out when
//! they outnumber the others, so the heap stays within twice what is open.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Below this length a sweep is not worth it.
const SWEEP_MIN: usize = 1024;

#[derive(Debug, Default)]
pub struct Deadlines {
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
}

impl Deadlines {
    /// Notes that `ticket` is due `at`. `is_open` says of any (instant, ticket) whether it still counts; at most `open`
    /// of them do.
    pub fn push(&mut self, at: Instant, ticket: u64, open: usize, is_open: impl Fn(Instant, u64) -> bool) {
        self.heap.push(Reverse((at, ticket)));
        if self.heap.len() > SWEEP_MIN.max(2 * open) {
            self.heap.retain(|Reverse((at, ticket))| is_open(*at, *ticket));
        }
    }

    /// The next ticket that is due, if one is.
    pub fn pop_due(&mut self, now: Instant) -> Option<(Instant, u64)> {
        self.next().filter(|at| *at <= now)?;
        self.heap.pop().map(|Reverse(due)| due)
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_due_comes_in_order_and_no_sooner() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::default();
        for (seconds, ticket) in [(3, 30), (1, 10), (2, 20)] {
            deadlines.push(at(seconds), ticket, 3, |_, _| true);
        }
        assert_eq!(deadlines.next(), Some(at(1)));
        assert_eq!(deadlines.pop_due(at(0)), None);
        assert_eq!(deadlines.pop_due(at(2)), Some((at(1), 10)));
        assert_eq!(deadlines.pop_due(at(2)), Some((at(2), 20)));
        assert_eq!(deadlines.pop_due(at(2)), None);
    }

    #[test]
    fn deadlines_that_no_longer_count_do_not_pile_up() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        for ticket in 0..100_000 {
            deadlines.push(start, ticket, 1, |_, other| other == ticket);
            assert!(deadlines.len() <= SWEEP_MIN);
        }
    }
}
