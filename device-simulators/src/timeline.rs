//! When a device sent which of its readings, in bounded memory.
//!
//! A mark for every n-th reading; when there are 64 of them, every second is dropped and n doubles. So the time of any
//! reading is known to within a 32nd of the device's life, in a kilobyte.

/// Marks that are kept.
const MARKS_MAX: usize = 64;

/// Sequence numbers with the time at which they were sent.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    marks: Vec<Mark>,
    /// Sequence numbers from one mark to the next; 0 before the first.
    stride: u64,
    latest: Option<Mark>,
}

/// A sequence number, and milliseconds since 1970.
type Mark = (u64, i64);

// === impl Timeline ===

impl Timeline {
    /// `sequence` was sent at `now_ms`; what is sent again does not count.
    pub fn note(&mut self, sequence: u64, now_ms: i64) {
        if self.latest.is_some_and(|(latest, _)| sequence <= latest) {
            return;
        }
        let mark = (sequence, now_ms);
        self.latest = Some(mark);
        if self.marks.last().is_some_and(|(last, _)| sequence - last < self.stride) {
            return;
        }
        self.marks.push(mark);
        if self.marks.len() >= MARKS_MAX {
            let mut number = 0;
            self.marks.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.stride = 2 * self.stride.max(1);
        }
    }

    /// Between when and when the readings `first` to `last` were sent, in milliseconds since 1970.
    pub fn between(&self, first: u64, last: u64) -> Option<(i64, i64)> {
        let before = self.marks.iter().rev().find(|(sequence, _)| *sequence <= first);
        let after = self.marks.iter().find(|(sequence, _)| *sequence >= last);
        let from = before.or(self.marks.first())?;
        let until = after.copied().or(self.latest)?;
        Some((from.1, until.1))
    }

    /// What it occupies beyond itself, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.marks.capacity() * size_of::<Mark>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_bracketed_however_many_there_are() {
        let check = |readings: u64, first: u64, last: u64| {
            let mut timeline = Timeline::default();
            for sequence in 1000..1000 + readings {
                timeline.note(sequence, 10 * sequence as i64);
                timeline.note(1000, 0);
            }
            let (from, until) = timeline.between(first, last).unwrap();
            let (earliest, latest) = (10 * first as i64, 10 * last as i64);
            assert!(from <= earliest && until >= latest, "{from} {until}");
            let slack = 10 * readings as i64 / 32 + 10;
            assert!(earliest - from <= slack && until - latest <= slack, "{from} {until}");
            assert!(timeline.heap_bytes() <= 1024);
        };
        check(1, 1000, 1000);
        check(10, 1003, 1004);
        check(1_000_000, 1000, 1000);
        check(1_000_000, 500_000, 500_100);
        check(1_000_000, 1_000_990, 1_000_999);
    }

    #[test]
    fn nothing_sent_has_no_time() {
        assert_eq!(Timeline::default().between(1, 2), None);
    }
}
