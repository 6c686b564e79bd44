//! The one writer: groups of entries to disk, durable before anyone is told.
//!
//! [`Writer::turn`] is everything the writer does, one step at a time, so that a simulation can drive it; [`run`] is the
//! thread around it. A turn writes what waits (one write and one fsync per group), then does some of the upkeep: zeros
//! for the next segment a piece at a time, the cursor, segments that are no longer needed. Nothing that an append needs
//! is locked while the disk works.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::cursor::CursorFile;
use super::disk::{DiskFile, Lock, Mode, is_full, write_full};
use super::frame::{self, Frame, Mark};
use super::segment::{self, HEADER_BYTES, OVERHEAD_BYTES};
use super::{Config, Error, Failure, Shared, locked};

/// Spares that are kept; more segments than that are removed when they are no longer needed.
pub(super) const SPARES_MAX: usize = 2;
/// Zeros written (and synced) between two groups: a few milliseconds of disk.
const FILL_BYTES: u64 = 1 << 20;
/// How old the cursor on disk may be. What was committed since is replayed after a crash.
pub(super) const CURSOR_INTERVAL: Duration = Duration::from_millis(100);
/// How soon after *no room on the file system* it is asked again.
const FULL_RETRY: Duration = Duration::from_secs(1);

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

/// A spare being made.
#[derive(Debug)]
struct Filling {
    file: Box<dyn DiskFile>,
    filled: u64,
}

/// The writer. There is one per folder; the lock it holds sees to that.
pub struct Writer<T> {
    shared: Arc<Shared<T>>,
    done: Done<T>,
    segment_bytes: u64,
    active: Option<Active>,
    /// Epochs in the names of the spares.
    spares: Vec<u32>,
    filling: Option<Filling>,
    full_until: Option<Duration>,
    cursor: CursorFile,
    saved_low: u64,
    saved_at: Duration,
    epoch: u32,
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
enum Stop {
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

    // --- segments

    /// Goes on in a new segment; its first frame will have this sequence.
    fn roll(&mut self, sequence: u64) -> Result<(), Stop> {
        if self.spares.is_empty() {
            // Perhaps only the upkeep is behind.
            self.save_cursor()?;
            self.recycle()?;
        }
        while self.spares.is_empty() {
            self.fill()?;
        }
        let Some(spare) = self.spares.pop() else {
            return Err(Stop::Full);
        };
        match self.open_segment(spare, sequence) {
            Ok(active) => {
                locked(&self.shared.ledger).start(active.epoch, active.capacity);
                self.active = Some(active);
                Ok(())
            }
            Err(stop) => {
                self.spares.push(spare);
                Err(stop)
            }
        }
    }

    /// Turns a spare into a segment. It gets its header while it is still called a spare, and is called a segment once
    /// that is durable: no crash leaves a segment with the header of another epoch.
    fn open_segment(&mut self, spare: u32, sequence: u64) -> Result<Active, Stop> {
        let from = self.shared.folder.join(segment::spare_name(spare));
        self.epoch += 1;
        let epoch = self.epoch;
        let path = self.shared.folder.join(segment::name(epoch));
        let disk = &*self.shared.disk;
        let file = disk
            .open(&from, Mode::ReadWrite)
            .map_err(|error| stop("open", &from, error))?;
        let start = segment::start(epoch, self.segment_bytes, self.shared.clock.wall_ms(), sequence);
        write_full(&*file, &start, 0).map_err(|error| stop("write", &from, error))?;
        file.sync()
            .map_err(|error| Stop::Failed(Error::io("sync", &from, error)))?;
        self.rename(&from, &path)?;
        Ok(Active {
            epoch,
            path,
            file,
            offset: HEADER_BYTES as u64,
            capacity: self.segment_bytes,
            torn_to: None,
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Stop> {
        let disk = &*self.shared.disk;
        disk.rename(from, to).map_err(|error| stop("rename", from, error))?;
        self.sync_folder()
    }

    fn sync_folder(&self) -> Result<(), Stop> {
        let folder = &self.shared.folder;
        let synced = self.shared.disk.sync_folder(folder);
        synced.map_err(|error| Stop::Failed(Error::io("sync the folder", folder, error)))
    }

    /// Writes a piece of a new spare's zeros. Over written blocks, an fsync later has no metadata to commit; and a disk
    /// that is full says so here, where nobody waits.
    fn fill(&mut self) -> Result<(), Stop> {
        let filled = self.fill_piece();
        if matches!(filled, Err(Stop::Full)) {
            self.drop_filling()?;
            self.full_until = Some(self.shared.disk.uptime() + FULL_RETRY);
        }
        filled
    }

    fn fill_piece(&mut self) -> Result<(), Stop> {
        let path = self.shared.folder.join("filling");
        let filling = match &mut self.filling {
            Some(filling) => filling,
            None => {
                if self.creatable() == 0 || !self.shared.budget.take(self.segment_bytes) {
                    return Err(Stop::Full);
                }
                let opened = self.shared.disk.open(&path, Mode::Create);
                match opened {
                    Ok(file) => self.filling.insert(Filling { file, filled: 0 }),
                    // No entry depends on it: whatever the reason, there is no room for now.
                    Err(error) => {
                        tracing::warn!(%error, file = %path.display(), "spool segment could not be created");
                        self.shared.budget.give_back(self.segment_bytes);
                        return Err(Stop::Full);
                    }
                }
            }
        };
        let piece = (self.segment_bytes - filling.filled).min(FILL_BYTES);
        let zeros = vec![0; piece as usize];
        write_full(&*filling.file, &zeros, filling.filled).map_err(|error| stop("write", &path, error))?;
        filling.file.sync().map_err(|error| stop("sync", &path, error))?;
        filling.filled += piece;
        if filling.filled == self.segment_bytes {
            self.filling = None;
            self.epoch += 1;
            self.rename(&path, &self.shared.folder.join(segment::spare_name(self.epoch)))?;
            self.spares.push(self.epoch);
        }
        Ok(())
    }

    fn drop_filling(&mut self) -> Result<(), Stop> {
        if self.filling.take().is_some() {
            let path = self.shared.folder.join("filling");
            let removed = self.shared.disk.remove(&path);
            removed.map_err(|error| stop("remove", &path, error))?;
            self.shared.budget.give_back(self.segment_bytes);
        }
        Ok(())
    }

    /// How many segments could be made now.
    fn creatable(&mut self) -> u64 {
        let now = self.shared.disk.uptime();
        if self.full_until.is_some_and(|until| now < until) {
            return 0;
        }
        self.full_until = None;
        // A file system that cannot say how much it has left is not trusted with more.
        let free = self.shared.disk.free_bytes(&self.shared.folder).unwrap_or_default();
        self.shared.budget.segments(free)
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
    fn save_cursor(&mut self) -> Result<(), Stop> {
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

    /// Makes spares of segments that the cursor on disk has left behind, or removes them.
    fn recycle(&mut self) -> Result<(), Stop> {
        loop {
            // Off the books first: a reader that finds strange bytes asks there whether they should trouble it.
            let Some(part) = locked(&self.shared.ledger).take_done(self.saved_low) else {
                return Ok(());
            };
            let path = self.shared.folder.join(segment::name(part.epoch));
            if part.file_bytes == self.segment_bytes && self.spares.len() < SPARES_MAX {
                let spare = self.shared.folder.join(segment::spare_name(part.epoch));
                self.rename(&path, &spare)?;
                self.spares.insert(0, part.epoch);
            } else {
                self.shared
                    .disk
                    .remove(&path)
                    .map_err(|error| stop("remove", &path, error))?;
                self.sync_folder()?;
                self.shared.budget.give_back(part.file_bytes);
            }
        }
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

fn stop(doing: &'static str, path: &Path, error: io::Error) -> Stop {
    if is_full(&error) {
        Stop::Full
    } else {
        Stop::Failed(Error::io(doing, path, error))
    }
}

/// The thread: a turn whenever a group is due or the upkeep wants one.
pub(super) fn run<T: Send + 'static>(mut writer: Writer<T>, commit_interval: Duration, commit_bytes: u64) {
    let shared = writer.shared.clone();
    // Whatever ends this thread early, nobody may go on waiting for it.
    let _guard = Guard(shared.clone());
    let mut last_group: Option<Duration> = None;
    let mut next = Next::Now;
    loop {
        let mut queue = locked(&shared.queue);
        loop {
            let now = shared.disk.uptime();
            // The first entry after a while is written at once; what comes behind it, in groups.
            let due = last_group.map_or(Duration::ZERO, |last| (last + commit_interval).saturating_sub(now));
            let waits = !queue.waiting.is_empty();
            let wait = match (waits, next) {
                _ if queue.closing => break,
                (true, _) if queue.bytes >= commit_bytes => break,
                (true, _) => due,
                (false, Next::Now) => break,
                (false, Next::After(wait)) => wait,
                (false, Next::Idle) if shared.committed.load(Ordering::SeqCst) => CURSOR_INTERVAL,
                (false, Next::Idle) => Duration::MAX,
            };
            if wait.is_zero() {
                break;
            }
            let waited = shared.wake.wait_timeout(queue, wait.min(Duration::from_secs(3600)));
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            if timeout.timed_out() && !waits {
                break;
            }
        }
        let closing = queue.closing;
        if !queue.waiting.is_empty() {
            last_group = Some(shared.disk.uptime());
        }
        drop(queue);
        if closing {
            return writer.finish();
        }
        next = writer.turn();
    }
}

/// Poisons the spool if the thread ends in any way but [`Writer::finish`].
struct Guard<T>(Arc<Shared<T>>);

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        let ended = locked(&self.0.queue).state.clone();
        if !matches!(ended, State::Closed | State::Poisoned) {
            self.0.poison("its writer ended unexpectedly");
        }
    }
}
