//! What the store was given and has not answered for: who waits for it, until when, and whether its disk makes progress.
//!
//! A disk may hang in an fsync for as long as it likes, and nothing that was given to it can be had back. Whoever waits is
//! answered busy at the deadline; the entry stays in its group's order all the same, since it may still become durable.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::pending::Pending;

/// The disk is called slow when it finishes no write for so long although one waits: some hundred times the usual.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// It is no longer called slow when it was not for so long: a disk that hangs again and again is one slow disk.
const SLOW_FOR: Duration = Duration::from_secs(10);

/// How the disk under the store does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disk {
    #[default]
    Good,
    /// It finished no write for a second, now or a moment ago.
    Slow,
    /// It finished no write for `kafka.delivery_timeout`: what is given to it now would be answered busy, too.
    Hung,
}

/// The entries that the store has not answered for.
#[derive(Debug, Default)]
pub struct Appends {
    /// Of those that devices wait for, in the order of their appends, which is the order of the store's answers.
    entries: VecDeque<Entry>,
    /// The number of the first one.
    first: u64,
    /// The number of the first one whose deadline has not passed.
    next_due: u64,
    /// All entries, those included that nobody waits for.
    unanswered: u64,
    answered_since_look: bool,
    /// Since when the store has answered for nothing although something waits.
    still_since: Option<Instant>,
    slow_at: Option<Instant>,
    disk: Disk,
}

#[derive(Debug)]
struct Entry {
    /// `None`: answered.
    pending: Option<Pending>,
    due: Instant,
    /// The store has not answered for it.
    open: bool,
}

// === impl Appends ===

impl Appends {
    /// Somebody waits, until `due`, for an entry that the store is about to be given; the entry's number.
    pub fn begin(&mut self, pending: Pending, due: Instant) -> u64 {
        self.entries.push_back(Entry {
            pending: Some(pending),
            due,
            open: true,
        });
        self.first + self.entries.len() as u64 - 1
    }

    /// The store did not accept the entry that was begun last.
    pub fn cancel(&mut self) -> Option<Pending> {
        self.entries.pop_back()?.pending
    }

    /// The store accepted an entry.
    pub fn given(&mut self) {
        self.unanswered += 1;
    }

    /// The store has answered for an entry.
    pub fn answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
        self.answered_since_look = true;
    }

    /// Who waits for this entry, unless the deadline has passed. Nobody does any more.
    pub fn end(&mut self, number: u64) -> Option<Pending> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let entry = self.entries.get_mut(at)?;
        entry.open = false;
        let pending = entry.pending.take();
        while self.entries.front().is_some_and(|entry| !entry.open) {
            self.entries.pop_front();
            self.first += 1;
        }
        pending
    }

    /// Everything the store was given is answered for.
    pub fn is_empty(&self) -> bool {
        self.unanswered == 0
    }

    /// Somebody whose deadline has passed. Deadlines come in the order of the appends, but for what was retained or
    /// refused before: those are late by as much.
    pub fn overdue(&mut self, now: Instant) -> Option<Pending> {
        self.next_due = self.next_due.max(self.first);
        while let Some(entry) = self.entries.get_mut((self.next_due - self.first) as usize) {
            if entry.due > now {
                return None;
            }
            self.next_due += 1;
            if let Some(pending) = entry.pending.take() {
                return Some(pending);
            }
        }
        None
    }

    /// Everybody who waits: the store will not answer.
    pub fn give_up(&mut self) -> Vec<Pending> {
        self.entries
            .iter_mut()
            .filter_map(|entry| entry.pending.take())
            .collect()
    }

    pub fn waiting(&self) -> usize {
        self.entries.iter().filter(|entry| entry.pending.is_some()).count()
    }

    /// How the disk does; to be called every few milliseconds while something is appended. `Some`: it changed.
    pub fn look(&mut self, now: Instant, hung_after: Duration) -> Option<Disk> {
        let answered = std::mem::take(&mut self.answered_since_look);
        if self.unanswered == 0 {
            self.still_since = None;
        } else if answered || self.still_since.is_none() {
            self.still_since = Some(now);
        }
        let still = self.still(now);
        if still > SLOW_AFTER {
            self.slow_at = Some(now);
        }
        let lately = |at: Instant| now.saturating_duration_since(at) < SLOW_FOR;
        let disk = match self.slow_at {
            _ if still > hung_after => Disk::Hung,
            Some(at) if lately(at) => Disk::Slow,
            _ => Disk::Good,
        };
        (std::mem::replace(&mut self.disk, disk) != disk).then_some(disk)
    }

    pub fn disk(&self) -> Disk {
        self.disk
    }

    /// How long the store has answered for nothing although something waits.
    pub fn still(&self, now: Instant) -> Duration {
        self.still_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_slow_while_nothing_is_finished_and_for_a_while_after() {
        let start = Instant::now();
        let mut appends = Appends::default();
        let look = |appends: &mut Appends, ms: u64| {
            appends.look(start + Duration::from_millis(ms), Duration::from_secs(5));
            appends.disk()
        };
        assert_eq!(look(&mut appends, 0), Disk::Good);
        assert_eq!(look(&mut appends, 60_000), Disk::Good, "nothing waits");
        appends.given();
        for (ms, expected) in [(60_000, Disk::Good), (61_001, Disk::Slow), (65_001, Disk::Hung)] {
            assert_eq!(look(&mut appends, ms), expected, "{ms} ms");
        }
        appends.answered();
        for (ms, expected) in [(72_000, Disk::Slow), (75_002, Disk::Good)] {
            assert_eq!(look(&mut appends, ms), expected, "{ms} ms");
        }
    }
}
