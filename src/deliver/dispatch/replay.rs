//! How far the replay is, and what was deferred in it.
//!
//! Pure: `replay_turn` reads and sends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tracing::error;

use crate::operate::log_limit::LogLimit;

/// How soon it is looked again whether those that are deferred have been moved.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How soon the replay comes again to groups that are stalled no more, at the latest: others may follow. After that ever
/// later, while it happens again and again: a partition that is slow stalls, and confirms, again and again.
const RETURN_WITHIN: Duration = Duration::from_millis(100);
const RETURN_WITHIN_MAX: Duration = Duration::from_secs(5);

/// What a turn of the replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Enqueued with the producer.
    pub records: usize,
    pub bytes: usize,
    /// Came into the spool since the last turn.
    pub records_grown: usize,
    pub bytes_grown: usize,
}

/// How far the replay is.
#[derive(Debug, Default)]
pub struct Replay {
    /// Begin again with the oldest, once none is unconfirmed but for those of stalled groups.
    pub(super) rewind: bool,
    pub(super) pause_until: Option<Instant>,
    returns: Returns,
    /// The last turn came to the end of what there is.
    pub(super) is_at_end: bool,
    /// Groups that are not tried now: Kafka confirms nothing, and names no leader for their partitions.
    pub(super) untried: BTreeSet<usize>,
    /// Of the partitions without leaders, when the first of them was left out.
    pub(super) untried_version: u64,
    /// Entries that Kafka refused.
    pub(super) aside: BTreeMap<u64, Refusal>,
    /// When they are retried, each group's oldest first.
    pub(super) retry_at: Option<Instant>,
    /// When they were last; those that were deferred before are still to be tried.
    pub(super) retried_at: Option<Instant>,
    /// What Kafka said this time of the oldest that is deferred, by group.
    pub(super) firsts: BTreeMap<usize, First>,
    /// How often they were tried since the newest was deferred.
    pub(super) tries: u32,
    /// What was logged of those that were deferred, by cause.
    pub(super) logged: LogLimit<Instant>,
    pub(super) grown: Replayed,
}

/// When the replay begins with the oldest again for groups that are stalled no more.
#[derive(Debug, Default)]
struct Returns {
    /// Since when it is to, sooner or later.
    since: Option<Instant>,
    last: Option<Instant>,
    /// Not sooner after the last one.
    pause: Duration,
}

/// An entry that was deferred. It is appended to the spool once more, so that the segment it is in can be given up: what is
/// uncommitted at the front of the spool holds all that comes after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub(super) since: Instant,
    /// The spool has not yet answered for the new one.
    pub(super) moving: bool,
}

/// The oldest entry of a group that is deferred is tried alone, and the others when Kafka has accepted it. Sent together, some
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

fn log_refused_records(why: &str, readings: u64) {
    error!(
        readings,
        why, "spooled readings cannot go to kafka as they are; they stay in the spool and are retried later"
    );
}

// === impl Replay ===

impl Replay {
    /// Begins again with the oldest, once none is unconfirmed.
    pub fn restart(&mut self) {
        self.rewind = true;
    }

    pub fn must_rewind(&self) -> bool {
        self.rewind
    }

    /// Some groups are stalled no more; whether it begins with the oldest now. `is_soon`: there is nothing else to be read.
    pub(super) fn returns(&mut self, now: Instant, is_soon: bool) -> bool {
        self.returns.is_due(now, is_soon)
    }

    /// It begins with the oldest.
    pub(super) fn rewound(&mut self) {
        self.rewind = false;
        self.returns.since = None;
        self.is_at_end = false;
        self.untried.clear();
    }

    /// A record came into the spool.
    pub fn grew(&mut self, bytes: usize) {
        self.grown.records_grown += 1;
        self.grown.bytes_grown += bytes;
    }

    /// An entry that was deferred is durable under a new sequence; whether the old one is still to be committed.
    pub fn moved(&mut self, from: u64, to: u64) -> bool {
        let aside = self.aside.remove(&from);
        if let Some(aside) = aside {
            self.aside.insert(to, Refusal { moving: false, ..aside });
        }
        aside.is_some()
    }

    /// The spool did not accept it once more.
    pub fn not_moved(&mut self, from: u64) {
        if let Some(aside) = self.aside.get_mut(&from) {
            aside.moving = false;
        }
    }

    pub(super) fn is_deferred(&self, sequence: u64) -> bool {
        let aside = self.aside.get(&sequence);
        let is_tried = |aside: &Refusal| self.retried_at.is_some_and(|retried_at| aside.since < retried_at);
        aside.is_some_and(|aside| aside.moving || !is_tried(aside))
    }

    /// An entry is deferred; logged once a minute for each cause.
    pub(super) fn log_refused(&mut self, now: Instant, why: &str) {
        self.log_due(now);
        if self.logged.allows(now, why) {
            log_refused_records(why, 1);
        }
    }

    /// Logs what was not logged at once.
    pub fn log_due(&mut self, now: Instant) {
        for (why, readings) in self.logged.due(now) {
            log_refused_records(&why, readings);
        }
    }

    pub(super) fn pauses(&self, now: Instant) -> bool {
        self.pause_until.is_some_and(|until| now < until)
    }

    /// Begins again with the oldest, after a while.
    pub(super) fn restart_at(&mut self, after: Instant) {
        self.rewind = true;
        self.pause_until = Some(after);
    }

    /// Those that were deferred are to be tried now. If some are being moved, a moment later, together with them.
    pub(super) fn retry_is_due(&mut self, now: Instant, retry_interval: Duration) -> bool {
        if self.aside.is_empty() || self.retry_at.is_some_and(|at| now < at) {
            return false;
        }
        if self.aside.values().any(|aside| aside.moving) {
            self.retry_at = Some(now + CHECK_INTERVAL);
            return false;
        }
        (self.retried_at, self.retry_at) = (Some(now), Some(now + retry_interval));
        self.firsts.clear();
        self.tries += 1;
        true
    }

    /// What is done with an entry of this group that is deferred and to be tried.
    pub(super) fn first(&mut self, sequence: u64, group: usize) -> First {
        // 0: another was deferred in the middle of this time.
        if self.tries > 0 && self.tries.is_multiple_of(ALL_AT_ONCE) {
            return First::Accepted;
        }
        *self.firsts.entry(group).or_insert(First::Sent(sequence))
    }

    /// Kafka has answered for an entry. True: the others of its group waited for that.
    pub(super) fn is_first(&mut self, sequence: u64, group: usize, outcome: First) -> bool {
        let first = self.firsts.get_mut(&group);
        let first = first.filter(|first| matches!(first, First::Sent(sent) if *sent == sequence));
        first.map(|first| *first = outcome).is_some()
    }
}

// === impl Returns ===

impl Returns {
    fn is_due(&mut self, now: Instant, is_soon: bool) -> bool {
        let since = *self.since.get_or_insert(now);
        let is_paused = self.last.is_some_and(|last| now < last + self.pause);
        if is_paused || !(is_soon || now >= since + RETURN_WITHIN) {
            return false;
        }
        let is_repeated = self.last.is_some_and(|last| now < last + 4 * self.pause);
        self.pause = match is_repeated {
            true => (2 * self.pause).min(RETURN_WITHIN_MAX),
            false => RETURN_WITHIN,
        };
        (self.since, self.last) = (None, Some(now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replay_returns_ever_later_while_groups_stall_again_and_again() {
        let start = Instant::now();
        let mut returns = Returns::default();
        let mut all = Vec::new();
        for ms in (0..=16_300).step_by(50) {
            if returns.is_due(start + Duration::from_millis(ms), true) {
                all.push(ms);
            }
        }
        assert_eq!(all, [0, 100, 300, 700, 1_500, 3_100, 6_300, 11_300, 16_300]);
        let mut is_due = |ms, is_soon| returns.is_due(start + Duration::from_millis(ms), is_soon);
        // Long after the last, or if nothing happens for long.
        assert!(!is_due(50_000, false));
        assert!(is_due(50_100, false));
        assert!(!is_due(50_150, true));
        assert!(is_due(50_200, true));
    }

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
