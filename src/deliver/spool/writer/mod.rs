//! The one writer: groups of entries to disk, durable before anyone is told.
//!
//! [`Writer::turn`] is everything the writer does, one step at a time, so that a simulation can drive it; `thread` takes
//! the turns. A turn writes what waits (one write and one fsync per group), then does some of the upkeep: the cursor,
//! and a piece of the next segment, which `stock` has. Nothing that an append needs is locked while the disk works.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::active::{Active, Filling, Found};
use super::config::Config;
use super::cursor::CursorFile;
use super::disk::{DiskFile, Identity, Lock};
use super::error::{Error, Failure, Stop, stop};
use super::frame::{self, Frame, Mark};
use super::ledger::Part;
use super::lock::locked;
use super::presence::WATCH_INTERVAL;
use super::queue::{State, Waiting};
use super::rescue;
use super::segment::{self, OVERHEAD_BYTES};
use super::shared::Shared;
use crate::operate::log_limit::LogLimit;

mod rescue_files;

mod stock;

mod watch;

/// How old the cursor on disk may be. What was committed since is replayed after a crash.
pub(super) const CURSOR_INTERVAL: Duration = Duration::from_millis(100);
/// How soon after *no room on the file system* it is asked again.
pub(super) const FULL_RETRY: Duration = Duration::from_secs(1);
/// How soon what the machine was short of is asked for again.
pub(super) const SHORT_RETRY: Duration = Duration::from_millis(100);
/// How long it may be unknown whether files are at their paths (a network file system that does not answer).
const UNSURE_MAX: Duration = Duration::from_secs(5);
/// How often the last steps are tried while the machine is short of something.
const LAST_TRIES: usize = 20;

/// Called with each group's tokens, in the order of their appends.
pub type Done<T> = Box<dyn FnMut(Vec<(T, Result<u64, Failure>)>) + Send>;

/// The writer. There is one per folder; the lock it holds sees to that.
pub struct Writer<T> {
    pub(super) shared: Arc<Shared<T>>,
    done: Done<T>,
    pub(super) segment_bytes: u64,
    pub(super) active: Option<Active>,
    /// Epochs in the names of the spares.
    pub(super) spares: Vec<u32>,
    pub(super) filling: Option<Filling>,
    /// No segment is made until then: there was no room, or the machine was short of something that this needs.
    pub(super) full_until: Option<Duration>,
    pub(super) fill_short_until: Option<Duration>,
    /// Nothing is accepted until then: the machine was short of something that a group needs.
    short_until: Option<Duration>,
    short_logged: LogLimit<Duration>,
    /// Something was refused for it in this turn.
    refused_in_turn: bool,
    /// Since then the system does not say whether files are still at their paths.
    unsure_since: Option<Duration>,
    /// Names were changed and are not durable yet; until they are, nothing is acknowledged that depends on them.
    pub(super) names_changed: bool,
    /// Bytes of removed files, to be given back to the budget once their removal is durable.
    pub(super) removed_bytes: u64,
    /// A segment that is no longer in the ledger; its file is still to be made a spare, or removed.
    pub(super) to_remove: Option<Part>,
    /// The segment that was compared last, and when all were.
    pub(super) watched: u32,
    pub(super) watched_at: Option<Duration>,
    /// Files are not where they belong, and what they hold is to be written anew.
    pub(super) lost: bool,
    /// How long that is tried at the end of the process without progress.
    pub(super) rescue_timeout: Duration,
    /// The folder as it was opened, and the one that was made in its place. Both are held open: the number of a folder
    /// that is removed may be given to another one at once.
    pub(super) folder: Box<dyn DiskFile>,
    pub(super) new_folder: Option<Box<dyn DiskFile>>,
    /// Of these, the one that is locked; and the file of the lock.
    pub(super) folder_identity: Option<Identity>,
    pub(super) lock_identity: Option<Identity>,
    pub(super) cursor: CursorFile,
    pub(super) saved_low: u64,
    saved_at: Duration,
    pub(super) epoch: u32,
    // Kept from group to group for their memory.
    group: Vec<Waiting<T>>,
    buffer: Vec<u8>,
    pub(super) lock: Option<Box<dyn Lock>>,
}

/// When the writer wants its next turn even if nothing is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once: a spare is being filled.
    Now,
    After(Duration),
    /// When something is appended or committed.
    Idle,
}

// === impl Writer ===

impl<T: Send + 'static> Writer<T> {
    pub(super) fn new(shared: Arc<Shared<T>>, config: &Config, done: Done<T>, found: Found) -> Self {
        let mut writer = Writer {
            saved_at: shared.disk.uptime(),
            shared,
            done,
            segment_bytes: config.segment_bytes.as_u64(),
            active: found.active,
            spares: found.spares,
            filling: None,
            full_until: None,
            fill_short_until: None,
            short_until: None,
            short_logged: LogLimit::default(),
            refused_in_turn: false,
            unsure_since: None,
            names_changed: false,
            removed_bytes: 0,
            to_remove: None,
            watched: 0,
            watched_at: None,
            lost: false,
            rescue_timeout: rescue::RESCUE_TIMEOUT,
            folder: found.folder,
            new_folder: None,
            folder_identity: found.folder_identity,
            lock_identity: found.lock_identity,
            cursor: found.cursor,
            saved_low: found.saved_low,
            epoch: found.epoch,
            group: Vec::new(),
            buffer: Vec::new(),
            lock: Some(found.lock),
        };
        writer.publish_room();
        writer
    }

    /// Writes what waits, tells its owners, and does one piece of upkeep.
    pub fn turn(&mut self) -> Next {
        self.refused_in_turn = false;
        self.write_waiting();
        let next = self.upkeep().unwrap_or_else(|stop| match self.stopped(stop) {
            Failure::Full => Next::After(FULL_RETRY),
            Failure::Short => Next::After(SHORT_RETRY),
            _ => Next::Now,
        });
        self.recover_from_shortage();
        self.publish_room();
        if self.shared.has_failed() {
            self.fail_waiting();
            let again = self.lost.then(|| self.rescue()).flatten();
            return again.map_or(Next::Idle, Next::After);
        }
        next
    }

    /// What a stop means to those who wait.
    fn stopped(&mut self, stop: Stop) -> Failure {
        match stop {
            Stop::Full => Failure::Full,
            Stop::Short(error) => {
                self.short(&error);
                Failure::Short
            }
            Stop::Unsure(error) => self.unsure(error),
            Stop::Lost(error) => {
                self.lost = true;
                self.shared.rescue_begins();
                self.shared.fail(&error.to_string());
                Failure::Failed
            }
            Stop::Failed(error) => {
                self.shared.fail(&error.to_string());
                Failure::Failed
            }
        }
    }

    /// The machine did not give what was asked of it. It is asked again soon.
    pub(super) fn short(&mut self, error: &Error) {
        self.refused_in_turn = true;
        let now = self.shared.disk.uptime();
        self.shared.shortages.fetch_add(1, Ordering::Relaxed);
        locked(&self.shared.queue).short = Some(error.to_string());
        if self.short_logged.allows(now, "short") {
            tracing::warn!(
                %error,
                "the spool is short of descriptors or memory, or cannot look at its files; what it cannot accept is answered busy"
            );
        }
    }

    /// The system does not say whether a file is still at its path: what needs it is refused, and after a while it counts
    /// as lost.
    fn unsure(&mut self, error: Error) -> Failure {
        let now = self.shared.disk.uptime();
        let since = *self.unsure_since.get_or_insert(now);
        if now.saturating_sub(since) >= UNSURE_MAX {
            return self.stopped(Stop::Lost(error));
        }
        // The next turn looks at all files again.
        self.watched_at = None;
        self.short(&error);
        Failure::Short
    }

    /// Nothing was refused in this turn, and what is refused waited its time.
    fn recover_from_shortage(&mut self) {
        let now = self.shared.disk.uptime();
        let mut queue = locked(&self.shared.queue);
        let passed = |until: Option<Duration>| until.is_none_or(|until| until <= now);
        // That there is no room as well says nothing about it.
        if !self.refused_in_turn && passed(self.short_until) && passed(self.fill_short_until) {
            (queue.short, self.short_until, self.fill_short_until) = (None, None, None);
            self.unsure_since = None;
        }
    }

    /// Accepts nothing more, writes what waits and the cursor, and gives the folder free.
    pub fn finish(mut self) {
        let open = {
            let mut queue = locked(&self.shared.queue);
            let open = queue.state != State::Failed;
            if open {
                queue.state = State::Closing;
            }
            open
        };
        if open {
            self.write_waiting();
            self.finish_names_and_cursor();
        }
        self.fail_waiting();
        self.finish_rescue();
        let mut queue = locked(&self.shared.queue);
        if queue.state == State::Closing {
            queue.state = State::Closed;
        }
        queue.room = 0;
        drop(queue);
        self.lock = None;
    }

    /// What was acknowledged must be found by the next start, and what is done should not be.
    fn finish_names_and_cursor(&mut self) {
        for _ in 0..LAST_TRIES {
            match self.watch_all().and_then(|()| self.save_cursor()) {
                Err(Stop::Short(_) | Stop::Unsure(_)) => {}
                // Without a place for the cursor it stays where it was: some of what is done is replayed.
                Ok(()) | Err(Stop::Full) => return,
                Err(stop) => {
                    self.stopped(stop);
                    return;
                }
            }
        }
    }

    // --- groups

    fn write_waiting(&mut self) {
        let mut group = std::mem::take(&mut self.group);
        {
            let mut queue = locked(&self.shared.queue);
            if queue.state == State::Failed {
                return;
            }
            std::mem::swap(&mut group, &mut queue.waiting);
            queue.bytes = 0;
        }
        let mut waiting = group.drain(..).peekable();
        let mut stopped = None;
        while stopped.is_none() && waiting.peek().is_some() {
            // Sequences count from what the ledger has: those of a group that failed are given out again.
            let first = locked(&self.shared.ledger).next();
            let mut tokens = Vec::new();
            let encoded = self.encode(first, &mut waiting, &mut tokens);
            match encoded.and_then(|group| self.write(first, group)) {
                Ok(()) => {
                    let durable = tokens.into_iter().zip(first..);
                    (self.done)(durable.map(|(token, sequence)| (token, Ok(sequence))).collect());
                    locked(&self.shared.ledger).told();
                }
                Err(stop) => {
                    stopped = Some((stop, tokens));
                }
            }
        }
        if let Some((stop, tokens)) = stopped {
            let failure = self.stopped(stop);
            if failure == Failure::Short {
                // What a group needs, others need as well: they need not wait to be told.
                self.short_until = Some(self.shared.disk.uptime() + SHORT_RETRY);
            }
            if failure != Failure::Failed {
                // At once: what was refused should not come back after a restart.
                if let Err(stop @ (Stop::Failed(_) | Stop::Lost(_))) = self.repair() {
                    self.stopped(stop);
                }
            }
            let tokens = tokens.into_iter().chain(waiting.map(|waiting| waiting.token));
            (self.done)(tokens.map(|token| (token, Err(failure.clone()))).collect());
        } else {
            drop(waiting);
        }
        self.group = group;
    }

    /// Encodes as many entries as fit the active segment, which is a new one if not even the first fits. Returns how
    /// many, and when the first arrived: for the ledger, one arrival a group is near enough.
    fn encode(
        &mut self,
        first: u64,
        waiting: &mut std::iter::Peekable<std::vec::Drain<'_, Waiting<T>>>,
        tokens: &mut Vec<T>,
    ) -> Result<(u64, i64), Stop> {
        let fits = |active: &Active, bytes: usize, next: &Waiting<T>| {
            (bytes + frame::bytes(next.entry.len())) as u64 <= active.left()
        };
        self.repair()?;
        let Some(next) = waiting.peek() else {
            return Ok((first, 0));
        };
        let arrived_ms = next.arrived_ms;
        if !self.active.as_ref().is_some_and(|active| fits(active, 0, next)) {
            self.roll(first)?;
        }
        let Some(active) = &self.active else {
            return Err(Stop::Full);
        };
        self.buffer.clear();
        while let Some(next) = waiting.next_if(|next| fits(active, self.buffer.len(), next)) {
            let mark = Mark::Entry {
                arrived_ms: next.arrived_ms,
                place: tokens.len() as u32,
            };
            let sequence = first + tokens.len() as u64;
            let entry = &next.entry;
            frame::encode(&mut self.buffer, active.epoch, Frame { sequence, mark, entry });
            tokens.push(next.token);
        }
        segment::end_mark(&mut self.buffer, active.epoch, first + tokens.len() as u64, first);
        Ok((tokens.len() as u64, arrived_ms))
    }

    /// Writes the encoded group and makes it durable. `group`: how many entries, and when the first arrived.
    fn write(&mut self, first: u64, group: (u64, i64)) -> Result<(), Stop> {
        // A name that is not durable is one under which a start would not look.
        self.settle_names()?;
        let Some(active) = &mut self.active else {
            return Err(Stop::Full);
        };
        let (entries, arrived_ms) = group;
        let started = self.shared.disk.uptime();
        active.put(&self.buffer)?;
        let now = self.shared.disk.uptime();
        self.watch_group()?;
        let Some(active) = &mut self.active else {
            return Err(Stop::Full);
        };
        active.settled();
        let bytes = (self.buffer.len() - frame::HEADER_BYTES) as u64;
        active.offset += bytes;
        let mut ledger = locked(&self.shared.ledger);
        ledger.append(entries, bytes);
        ledger.arrived(first, arrived_ms);
        drop(ledger);
        self.shared.fsynced(now.saturating_sub(started));
        Ok(())
    }

    /// Covers what a group that found no room has left of itself. Read after a crash, its entries would stand in for
    /// those that got their sequences later; and these were acknowledged.
    fn repair(&mut self) -> Result<(), Stop> {
        let torn = self.active.as_mut().and_then(|active| Some((active.torn_to?, active)));
        let Some((torn_to, active)) = torn else {
            return Ok(());
        };
        let next = locked(&self.shared.ledger).next();
        self.buffer.clear();
        segment::end_mark(&mut self.buffer, active.epoch, next, next);
        self.buffer.resize((torn_to - active.offset) as usize, 0);
        active.put(&self.buffer)?;
        active.settled();
        Ok(())
    }

    /// Fails everything that waits: the spool has failed or is closed.
    fn fail_waiting(&mut self) {
        let (waiting, failure) = {
            let mut queue = locked(&self.shared.queue);
            queue.bytes = 0;
            let failure = match queue.state {
                State::Failed => Failure::Failed,
                _ => Failure::Closed,
            };
            (std::mem::take(&mut queue.waiting), failure)
        };
        if !waiting.is_empty() {
            let failed = waiting.into_iter().map(|waiting| (waiting.token, Err(failure.clone())));
            (self.done)(failed.collect());
        }
    }

    // --- upkeep

    fn upkeep(&mut self) -> Result<Next, Stop> {
        if self.shared.has_failed() {
            return Ok(Next::Idle);
        }
        // Before the mark is read: what is committed from here on wakes the writer again.
        self.shared.committed.store(false, Ordering::SeqCst);
        let (low, oldest_is_done) = {
            let ledger = locked(&self.shared.ledger);
            (ledger.low(), ledger.oldest_is_done(ledger.low()))
        };
        let now = self.shared.disk.uptime();
        if self
            .watched_at
            .is_none_or(|watched| now.saturating_sub(watched) >= WATCH_INTERVAL)
        {
            self.watch_many()?;
        }
        let since_saved = now.saturating_sub(self.saved_at);
        if low > self.saved_low && (oldest_is_done || since_saved >= CURSOR_INTERVAL) {
            self.save_cursor()?;
        }
        self.recycle()?;
        if self.spares.is_empty() && (self.filling.is_some() || self.creatable() > 0) {
            self.fill()?;
            return Ok(Next::Now);
        }
        if low > self.saved_low {
            return Ok(Next::After(CURSOR_INTERVAL));
        }
        Ok(match self.spares.is_empty() {
            true => Next::After(FULL_RETRY),
            false => Next::Idle,
        })
    }

    /// Saves the cursor if it moved.
    pub(super) fn save_cursor(&mut self) -> Result<(), Stop> {
        let low = locked(&self.shared.ledger).low();
        if low == self.saved_low {
            return Ok(());
        }
        let path = self.cursor_path();
        // Whatever happens, the other slot stays as it is; and another try writes this one anew.
        self.cursor
            .write(low, self.epoch)
            .map_err(|error| stop("write", &path, error))?;
        self.cursor.sync().map_err(|error| stop("sync", &path, error))?;
        self.saved_low = low;
        self.saved_at = self.shared.disk.uptime();
        Ok(())
    }

    /// Tells those who append how much there is room for.
    fn publish_room(&mut self) {
        let each = self.segment_bytes.saturating_sub(OVERHEAD_BYTES);
        // What is being filled has taken its share of the budget already.
        let ahead = self.spares.len() as u64 + u64::from(self.filling.is_some());
        let more = (ahead + self.creatable()).saturating_mul(each);
        let left = self.active.as_ref().map_or(0, Active::left);
        let mut queue = locked(&self.shared.queue);
        queue.room = match queue.state {
            State::Open if self.short_until.is_some() => 0,
            State::Open => left.saturating_add(more).saturating_sub(queue.bytes),
            _ => 0,
        };
    }
}

impl<T> fmt::Debug for Writer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Writer");
        debug.field("active", &self.active).field("spares", &self.spares);
        debug.finish_non_exhaustive()
    }
}
