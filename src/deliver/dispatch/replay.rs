//! How far the replay is, and what was set aside in it.
//!
//! Pure: `replay_turn` reads and sends.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::error;

use crate::operate::log_limit::LogLimit;

/// How soon it is looked again whether those that are set aside have been moved.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a turn of the replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Handed to the producer.
    pub records: usize,
    pub bytes: usize,
    /// Came into the spool since the last turn.
    pub records_grown: usize,
    pub bytes_grown: usize,
}

/// How far the replay is.
#[derive(Debug, Default)]
pub struct Replay {
    /// Records that await their confirmation.
    pub(super) flying: usize,
    /// Begin again with the oldest, once none is flying.
    pub(super) rewind: bool,
    pub(super) pause_until: Option<Instant>,
    /// Entries that Kafka would not take.
    pub(super) aside: BTreeMap<u64, Aside>,
    /// When they are tried again, each lane's oldest first.
    pub(super) try_at: Option<Instant>,
    /// When they were last; those that were set aside before are still to be tried.
    pub(super) tried_at: Option<Instant>,
    /// What Kafka said this time of the oldest that is set aside, by lane.
    pub(super) firsts: BTreeMap<usize, First>,
    /// How often they were tried since the newest was set aside.
    pub(super) tries: u32,
    /// What was logged of those that were set aside, by cause.
    pub(super) logged: LogLimit<Instant>,
    pub(super) grown: Replayed,
}

/// An entry that was set aside. It is appended to the spool once more, so that the segment it is in can be given up: what is
/// uncommitted at the front of the spool holds all that comes after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aside {
    pub(super) since: Instant,
    /// The spool has not yet answered for the new one.
    pub(super) moving: bool,
}

/// The oldest entry of a lane that is set aside is tried alone, and the others when Kafka has accepted it. Sent together, some
/// would be refused and later ones accepted at the moment when what is wrong with their topic is mended.
#[derive(Clone, Copy, Debug)]
pub(super) enum First {
    Sent(u64),
    Accepted,
    /// All stay where they are, untried: moved one after the other, a new one could come between them.
    Refused,
}

/// Once in so many times all are sent at once, and moved if they are refused: the oldest may be refused for what is wrong
/// with it alone.
const ALL_AT_ONCE: u32 = 5;

fn log_aside(why: &str, readings: u64) {
    error!(
        readings,
        why, "spooled readings cannot go to kafka as they are; they stay in the spool and are tried again later"
    );
}

// === impl Replay ===

impl Replay {
    /// Begins again with the oldest, once none is flying.
    pub fn begin_anew(&mut self) {
        self.rewind = true;
    }

    pub fn must_rewind(&self) -> bool {
        self.rewind
    }

    /// A record came into the spool.
    pub fn grew(&mut self, bytes: usize) {
        self.grown.records_grown += 1;
        self.grown.bytes_grown += bytes;
    }

    pub fn flying(&self) -> usize {
        self.flying
    }

    /// An entry that was set aside is durable under a new sequence; whether the old one is still to be committed.
    pub fn moved(&mut self, from: u64, to: u64) -> bool {
        let aside = self.aside.remove(&from);
        if let Some(aside) = aside {
            self.aside.insert(to, Aside { moving: false, ..aside });
        }
        aside.is_some()
    }

    /// The spool did not take it once more.
    pub fn not_moved(&mut self, from: u64) {
        if let Some(aside) = self.aside.get_mut(&from) {
            aside.moving = false;
        }
    }

    pub(super) fn is_aside(&self, sequence: u64) -> bool {
        let aside = self.aside.get(&sequence);
        let is_tried = |aside: &Aside| self.tried_at.is_some_and(|tried_at| aside.since < tried_at);
        aside.is_some_and(|aside| aside.moving || !is_tried(aside))
    }

    /// An entry is set aside; logged once a minute for each cause.
    pub(super) fn say_aside(&mut self, now: Instant, why: &str) {
        self.say_more(now);
        if self.logged.allows(now, why) {
            log_aside(why, 1);
        }
    }

    /// Logs what was not logged at once.
    pub fn say_more(&mut self, now: Instant) {
        for (why, readings) in self.logged.due(now) {
            log_aside(&why, readings);
        }
    }

    pub(super) fn pauses(&self, now: Instant) -> bool {
        self.pause_until.is_some_and(|until| now < until)
    }

    /// Begins again with the oldest, after a while.
    pub(super) fn begin_again(&mut self, after: Instant) {
        self.rewind = true;
        self.pause_until = Some(after);
    }

    /// Those that were set aside are to be tried now. If some are being moved, a moment later, together with them.
    pub(super) fn are_due(&mut self, now: Instant, try_again: Duration) -> bool {
        if self.aside.is_empty() || self.try_at.is_some_and(|at| now < at) {
            return false;
        }
        if self.aside.values().any(|aside| aside.moving) {
            self.try_at = Some(now + LOOK_AGAIN);
            return false;
        }
        (self.tried_at, self.try_at) = (Some(now), Some(now + try_again));
        self.firsts.clear();
        self.tries += 1;
        true
    }

    /// What is done with an entry of this lane that is set aside and to be tried.
    pub(super) fn first(&mut self, sequence: u64, lane: usize) -> First {
        // 0: another was set aside in the middle of this time.
        if self.tries > 0 && self.tries.is_multiple_of(ALL_AT_ONCE) {
            return First::Accepted;
        }
        *self.firsts.entry(lane).or_insert(First::Sent(sequence))
    }

    /// Kafka has answered for an entry. True: the others of its lane waited for that.
    pub(super) fn is_first(&mut self, sequence: u64, lane: usize, outcome: First) -> bool {
        let first = self.firsts.get_mut(&lane);
        let first = first.filter(|first| matches!(first, First::Sent(sent) if *sent == sequence));
        first.map(|first| *first = outcome).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_of_a_lane_wait_for_its_oldest_but_for_one_time_in_five() {
        let mut replay = Replay::default();
        for tries in 0..=2 * ALL_AT_ONCE {
            replay.tries = tries;
            replay.firsts.clear();
            let [oldest, next] = [7, 8].map(|sequence| replay.first(sequence, 3));
            let all_at_once = matches!((oldest, next), (First::Accepted, First::Accepted));
            let one_at_a_time = matches!((oldest, next), (First::Sent(7), First::Sent(7)));
            assert_eq!(
                (all_at_once, one_at_a_time),
                (tries % 5 == 0 && tries > 0, tries % 5 > 0 || tries == 0)
            );
        }
    }
}
