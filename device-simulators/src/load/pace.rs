//! When each message is due.
//!
//! In the closed loop a message is due when the window has room. In the open loop message `m` of a thread is due at a
//! moment that follows from `m` alone, whatever the server does; its latency counts from there, however late it is sent.
//! So a server that stalls shows in the latency of every message that fell due meanwhile, not only of the few that were
//! on their way (no coordinated omission). Nothing needs to be stored for a message that is overdue.

use super::clock::Nanos;

/// How messages follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As soon as the window has room.
    Closed,
    /// So many per second over all connections.
    Open { rate: f64 },
    /// None at all: connections are held and kept alive.
    Idle,
}

/// The moments of the messages of one thread, which its connections send in turn.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// When message 0 is due.
    first: Nanos,
    interval_ns: f64,
    connections: u64,
}

// === impl Schedule ===

impl Schedule {
    /// `rate` messages per second, the first at `first`, sent in turn by `connections` (at least one).
    pub fn new(rate: f64, first: Nanos, connections: usize) -> Schedule {
        Schedule {
            first,
            interval_ns: 1e9 / rate,
            connections: connections.max(1) as u64,
        }
    }

    pub fn due(&self, message: u64) -> Nanos {
        self.first + (message as f64 * self.interval_ns) as Nanos
    }

    /// How many messages were due by `now`; the number of the first one that was not.
    pub fn count_due(&self, now: Nanos) -> u64 {
        let Some(since) = now.checked_sub(self.first) else {
            return 0;
        };
        let mut count = (since as f64 / self.interval_ns) as u64;
        // Rounding may be off by one in either direction; the moments themselves decide.
        while self.due(count) <= now {
            count += 1;
        }
        while count > 0 && self.due(count - 1) > now {
            count -= 1;
        }
        count
    }

    /// Which connection sends it.
    pub fn connection_of(&self, message: u64) -> usize {
        (message % self.connections) as usize
    }

    /// The first message of `connection` that is due at `from` or later.
    pub fn first_of(&self, connection: usize, from: Nanos) -> u64 {
        let first = from.checked_sub(1).map_or(0, |before| self.count_due(before));
        let ahead = (connection as u64 + self.connections - first % self.connections) % self.connections;
        first + ahead
    }

    /// The message that the same connection sends after `message`.
    pub fn next_of(&self, message: u64) -> u64 {
        message + self.connections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moments_follow_from_the_number_alone() {
        let schedule = Schedule::new(1000.0, 500, 4);
        assert_eq!((schedule.due(0), schedule.due(3)), (500, 3_000_500));
        let check = |now, count| assert_eq!(schedule.count_due(now), count, "at {now}");
        check(0, 0);
        check(499, 0);
        check(500, 1);
        check(1_000_499, 1);
        check(1_000_500, 2);
        check(10_000_500, 11);
    }

    #[test]
    fn counting_agrees_with_the_moments_at_odd_rates() {
        for rate in [0.3, 7.0, 333.3, 150_000.0, 1_234_567.0] {
            let schedule = Schedule::new(rate, 12_345, 3);
            for message in (0..100_000).step_by(997) {
                let due = schedule.due(message);
                assert!(
                    schedule.count_due(due) > message,
                    "{rate}: {message} is due at its moment"
                );
                assert!(
                    schedule.count_due(due - 1) <= message,
                    "{rate}: {message} is not due before"
                );
            }
        }
    }

    #[test]
    fn connections_take_turns() {
        let schedule = Schedule::new(10.0, 0, 3);
        let check = |connection, from, message| {
            assert_eq!(schedule.first_of(connection, from), message, "{connection} from {from}");
            assert_eq!(schedule.connection_of(message), connection);
            assert!(schedule.due(message) >= from);
        };
        check(0, 0, 0);
        check(2, 0, 2);
        check(0, 1, 3);
        check(1, 100_000_000, 1);
        check(1, 100_000_001, 4);
        assert_eq!(schedule.next_of(4), 7);
    }
}
