//! Since when a client receives nothing of what waits to be sent to it.
//!
//! A client that reads steadily is not stalled, even if it sends so much meanwhile that some answer always waits. So every
//! send is noted, whatever else happened with it, and only a time in which nothing at all was sent counts.

use tokio::time::Instant;

#[derive(Debug, Default)]
pub struct Unsent {
    /// `None` while nothing waits.
    pub since: Option<Instant>,
}

impl Unsent {
    /// After an attempt to send: `before` bytes waited, and `left` still do.
    pub fn note(&mut self, before: usize, left: usize, now: impl FnOnce() -> Instant) {
        if left == 0 {
            self.since = None;
        } else if left < before || self.since.is_none() {
            self.since = Some(now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_client_is_stalled_since_it_last_received_something() {
        let start = Instant::now();
        let mut unsent = Unsent::default();
        // Bytes before and after the attempt, and the second since when nothing was received.
        let steps = [
            (0, 0, None),
            (30, 0, None),
            (30, 30, Some(2)),
            // More is waiting, as more answers were written; none of it was sent.
            (60, 60, Some(2)),
            (60, 20, Some(4)),
            (80, 80, Some(4)),
            (80, 79, Some(6)),
            (79, 0, None),
            (10, 10, Some(8)),
        ];
        for (second, (before, left, since)) in (0..).zip(steps) {
            let at = |second| start + Duration::from_secs(second);
            unsent.note(before, left, || at(second));
            assert_eq!(unsent.since, since.map(at), "after {second} s");
        }
    }
}
