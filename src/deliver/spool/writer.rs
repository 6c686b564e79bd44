//! The one writer: groups of entries to disk, durable before anyone is told.
//!
//! [`Writer::turn`] is everything the writer does, one step at a time, so that a simulation can drive it; `thread` takes
//! the turns. A turn writes what waits (one write and one fsync per group), then does some of the upkeep: the cursor,
//! and a piece of the next segment, which `stock` has. Nothing that an append needs is locked while the disk works.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cursor::CursorFile;
use super::disk::{DiskFile, Lock, is_full, write_full};
use super::frame::{self, Frame, Mark};
use super::segment::{self, OVERHEAD_BYTES};
use super::stock::Filling;
use super::{Config, Error, Failure, Shared, locked};

/// How old the cursor on disk may be. What was committed since is replayed after a crash.
pub(super) const CURSOR_INTERVAL: Duration = Duration::from_millis(100);
/// How soon after *no room on the file system* it is asked again.
pub(super) const FULL_RETRY: Duration = Duration::from_secs(1);

/// Called with each group's tokens, in the order of their appends.
pub type Done<T> = Box<dyn FnMut(Vec<(T, Result<u64, Failure>)>) + Send>;

/// An entry that waits for the writer.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) entry: Vec<u8>,
    pub(super) arrived_ms: i64,
    pub(super) token: T,
}

/// What is between those who append and the writer.
#[derive(Debug)]
pub(super) struct Queue<T> {
    pub(super) waiting: Vec<Waiting<T>>,
    /// Bytes of the waiting on disk.
    pub(super) bytes: u64,
    /// Bytes on disk for which there is room, less those that wait.
    pub(super) room: u64,
    pub(super) state: State,
    /// The thread should end, poisoned or not.
    pub(super) closing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// Nothing more is taken; the writer finishes.
    Closing,
    Closed,
    Poisoned,
}

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) epoch: u32,
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn DiskFile>,
    /// Behind the last durable frame.
    pub(super) offset: u64,
    /// Size of the file.
    pub(super) capacity: u64,
    /// Up to where a group that was not finished may have been written.
    pub(super) torn_to: Option<u64>,
}

/// The writer. There is one per folder; the lock it holds sees to that.
pub struct Writer<T> {
    pub(super) shared: Arc<Shared<T>>,
    done: Done<T>,
    pub(super) segment_bytes: u64,
    pub(super) active: Option<Active>,
    /// Epochs in the names of the spares.
    pub(super) spares: Vec<u32>,
    pub(super) filling: Option<Filling>,
    pub(super) full_until: Option<Duration>,
    cursor: CursorFile,
    pub(super) saved_low: u64,
    saved_at: Duration,
    pub(super) epoch: u32,
    // Kept from group to group for their memory.
    group: Vec<Waiting<T>>,
    buffer: Vec<u8>,
    lock: Option<Box<dyn Lock>>,
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

/// Why a group was not written.
pub(super) enum Stop {
    /// No room, on disk or in the budget. It can be tried again.
    Full,
    /// The disk failed: never again.
    Failed(Error),
}

// === impl Queue ===

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Queue {
            waiting: Vec::new(),
            bytes: 0,
            room: 0,
            state: State::Open,
            closing: false,
        }
    }
}

// === impl Active ===

impl Active {
    /// Bytes of frames that still fit, beside the end mark.
    fn left(&self) -> u64 {
        self.capacity.saturating_sub(self.offset + frame::HEADER_BYTES as u64)
    }

    /// Writes behind the last durable frame, and syncs.
    fn put(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.torn_to = self.torn_to.max(Some(self.offset + bytes.len() as u64));
        write_full(&*self.file, bytes, self.offset).map_err(|error| stop("write", &self.path, error))?;
        // Whatever the reason: after a failed fsync nothing is known, not even that a second one would tell the truth.
        let synced = self.file.sync();
        synced.map_err(|error| Stop::Failed(Error::io("sync", &self.path, error)))?;
        self.torn_to = None;
        Ok(())
    }
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
        self.write_waiting();
        let next = match self.upkeep() {
            Ok(next) => next,
            Err(Stop::Full) => Next::After(FULL_RETRY),
            Err(Stop::Failed(error)) => {
                self.shared.poison(&error.to_string());
                Next::Now
            }
        };
        self.publish_room();
        if self.shared.is_poisoned() {
            self.fail_waiting();
            return Next::Idle;
        }
        next
    }

    /// Takes nothing more, writes what waits and the cursor, and gives the folder free.
    pub fn finish(mut self) {
        let open = {
            let mut queue = locked(&self.shared.queue);
            let open = queue.state != State::Poisoned;
            if open {
                queue.state = State::Closing;
            }
            open
        };
        if open {
            self.write_waiting();
            if let Err(Stop::Failed(error)) = self.save_cursor() {
                self.shared.poison(&error.to_string());
            }
        }
        self.fail_waiting();
        let mut queue = locked(&self.shared.queue);
        if queue.state == State::Closing {
            queue.state = State::Closed;
        }
        queue.room = 0;
        drop(queue);
        self.lock = None;
    }

    // --- groups

    fn write_waiting(&mut self) {
        let mut group = std::mem::take(&mut self.group);
        {
            let mut queue = locked(&self.shared.queue);
            if queue.state == State::Poisoned {
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
            let failure = match stop {
                Stop::Full => {
                    // At once: what was refused should not come back after a restart.
                    if let Err(Stop::Failed(error)) = self.mend() {
                        self.shared.poison(&error.to_string());
                    }
                    Failure::Full
                }
                Stop::Failed(error) => {
                    self.shared.poison(&error.to_string());
                    Failure::Poisoned
                }
            };
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
        self.mend()?;
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
        let Some(active) = &mut self.active else {
            return Err(Stop::Full);
        };
        let (entries, arrived_ms) = group;
        let started = self.shared.disk.uptime();
        active.put(&self.buffer)?;
        let now = self.shared.disk.uptime();
        let bytes = (self.buffer.len() - frame::HEADER_BYTES) as u64;
        active.offset += bytes;
        let mut ledger = locked(&self.shared.ledger);
        ledger.append(entries, bytes);
        ledger.arrived(first, arrived_ms);
        ledger.rate.add(bytes, now);
        drop(ledger);
        self.shared.fsynced(now.saturating_sub(started));
        Ok(())
    }

    /// Covers what a group that found no room has left of itself. Read after a crash, its entries would stand in for
    /// those that got their sequences later; and these were acknowledged.
    fn mend(&mut self) -> Result<(), Stop> {
        let torn = self.active.as_mut().and_then(|active| Some((active.torn_to?, active)));
        let Some((torn_to, active)) = torn else {
            return Ok(());
        };
        let next = locked(&self.shared.ledger).next();
        self.buffer.clear();
        segment::end_mark(&mut self.buffer, active.epoch, next, next);
        self.buffer.resize((torn_to - active.offset) as usize, 0);
        active.put(&self.buffer)
    }

    /// Fails everything that waits: the spool is poisoned or closed.
    fn fail_waiting(&mut self) {
        let (waiting, failure) = {
            let mut queue = locked(&self.shared.queue);
            queue.bytes = 0;
            let failure = match queue.state {
                State::Poisoned => Failure::Poisoned,
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
        if self.shared.is_poisoned() {
            return Ok(Next::Idle);
        }
        // Before the mark is read: what is committed from here on wakes the writer again.
        self.shared.committed.store(false, Ordering::SeqCst);
        let (low, oldest_is_done) = {
            let ledger = locked(&self.shared.ledger);
            (ledger.low(), ledger.oldest_is_done(ledger.low()))
        };
        let since_saved = self.shared.disk.uptime().saturating_sub(self.saved_at);
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
        let path = self.shared.folder.join("cursor");
        self.cursor
            .write(low, self.epoch)
            .map_err(|error| stop("write", &path, error))?;
        // A slot that may be torn is not trusted to another try: this is as final as any failed fsync.
        self.cursor
            .sync()
            .map_err(|error| Stop::Failed(Error::io("sync", &path, error)))?;
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

/// What recovery leaves to the writer.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) active: Option<Active>,
    pub(super) spares: Vec<u32>,
    pub(super) cursor: CursorFile,
    pub(super) saved_low: u64,
    pub(super) epoch: u32,
    pub(super) lock: Box<dyn Lock>,
}

pub(super) fn stop(doing: &'static str, path: &Path, error: io::Error) -> Stop {
    if is_full(&error) {
        Stop::Full
    } else {
        Stop::Failed(Error::io(doing, path, error))
    }
}
