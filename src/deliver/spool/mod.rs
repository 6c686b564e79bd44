//! Readings on disk while Kafka is unavailable: a log of opaque entries, durable before anyone is told, read back in order.
//!
//! # What it is built for
//! 1. An entry is *appended* when it and all before it were fsynced. Nothing shorter counts.
//! 2. One fsync per group: at most one every 5 ms (`commit_interval`), sooner once 256 KiB wait (`commit_bytes`).
//! 3. Appending copies nothing and waits for nothing: not for the disk, not for a reader.
//! 4. All entries carry a CRC-32C; after damage, the good ones behind it are found and replayed.
//! 5. The disk is trusted once: after an fsync that failed for the disk's sake the spool has *failed*, and only a restart
//!    reads it again.
//! 6. Bounded: bytes on disk by `bytes_max` and by what the file system has left, waiting bytes by `queue_bytes`, an
//!    entry by `entry_bytes_max`. *Full* refuses the new and keeps what was acknowledged.
//! 7. At least once: what was not committed, or committed less than about 100 ms before a crash, is replayed.
//!
//! # On disk, version 1
//! ```text
//! spool/                               owner only (0600)
//!   lock                               flock(2), held while the spool is open
//!   cursor                             two slots: the sequence below which all is done (see `cursor`)
//!   0000000012.segment                 epoch 12; 16 MiB (`segment_bytes`), written from front to end
//!   0000000014.segment                 the one that is written to: the highest epoch
//!   0000000013.spare                   zeros, or the remains of epoch 13; its blocks are written and wait to be used
//!   filling                            a spare in the making
//!   0000000012-4711.damaged            bytes that were found damaged at offset 4711
//!   0000000012-cut-9000.damaged        all that was left, 9000 bytes, of a segment that was cut short
//!   0000000012-gone.damaged            what was a segment, with zeros or nothing in place of all that could be read
//!   0000000012-replaced-1.damaged      a file that somebody put in the place of a segment (or of the cursor)
//!
//! segment = header, frame …, end mark, (zeros or remains of an earlier epoch)
//!
//! header, 64 bytes, numbers little-endian
//!   offset  bytes
//!        0      8  "citygate"
//!        8      4  version, 1
//!       12      4  CRC-32C of the other 60 bytes
//!       16      4  epoch
//!       24      8  size of the file
//!       32      8  when it was begun, milliseconds since the Unix epoch
//!
//! frame, 32 bytes and the entry: CRC-32C, length, epoch, place in its group, sequence, arrival (see `frame`)
//! end mark: a frame without an entry; every group overwrites that of the group before
//! hole: a frame over a damaged place that was reported, so that it is reported once
//! ```
//! Sequences count up by one over all segments. Epochs count up with every file and are never used twice, so that bytes
//! of an earlier life of a file are never mistaken for its own.
//!
//! # Writing
//! One thread ([`writer`], `thread`) writes what waits with one `pwrite` behind the last frame, calls `fdatasync`, and
//! tells the owners. Segments are filled with zeros before they are used, and used again when they are done, so that
//! `fdatasync` has no metadata to commit (a third faster on ext4), and a full disk is noticed where nobody waits.
//! Folders are synced after every rename, before anything is acknowledged that depends on it. An fsync that fails is never
//! tried again; if the disk is not to blame, what was written is covered or written anew, and synced with that.
//!
//! # Reading
//! [`reader`] has file handles of its own and gives out what is durable, told and not committed, oldest first.
//! `commit` takes sequences in any order; the lowest uncommitted one is saved as the cursor, off the path of groups.
//! Segments below the saved cursor become spares or are removed. A segment with one uncommitted entry stays.
//!
//! # What the machine is short of
//! EMFILE, ENFILE, ENOMEM, ENOBUFS, EINTR and EAGAIN say nothing about the disk (`disk::is_short`): what they refuse is
//! answered *short* ([`Failure::Short`]), and tried again after 100 ms. Every place, and what happens there:
//!
//! | where | what it asks for | on shortage |
//! |---|---|---|
//! | `open`, recovery | folder, lock, cursor, every segment | the start ends with the reason; nothing was changed |
//! | `open`, its thread | a thread | the same |
//! | a segment in the making (`stock`) | one `open`, `statvfs`, 256 KiB; pieces written and synced | it stays as it is, and is gone on with; what fits into the segments there are is taken |
//! | a spare becomes a segment (`stock`) | one `open`, header written and synced, a rename | it stays a spare; the group is refused |
//! | names become durable (`stock`) | one `open` of the folder, its fsync | nothing that depends on the names is acknowledged before they are |
//! | a group (`writer`) | memory for its bytes; write, fsync, a `stat` | refused, and what it has written of itself covered before the next |
//! | the cursor (`writer`) | a write and an fsync of a file that is open | it stays behind; its slot is written anew |
//! | a segment given up (`stock`) | `stat`, a rename or a removal | it stays on a list of one, and is retried |
//! | files compared (`presence`) | one `stat` each | the group is refused; between groups, it is looked again |
//! | a segment held open later (`presence`) | one `open` | it stays closed, its path is compared all the same |
//! | the replay (`reader`) | memory for a chunk, at most a segment; one `open` if the segment is not held open | the read fails, the replay pauses for a second |
//! | damaged bytes kept aside (`recovery`) | one `open` | logged without a copy |
//! | files written anew (`rescue`) | one `open` each, 256 KiB | tried again every 100 ms, for 10 s without progress at the end |
//! | appending | memory for the queue, within `queue_bytes` | see below |
//!
//! Memory that the allocator (not a call) does not get ends the process, as everywhere in Rust; what was acknowledged is
//! on disk by then.
//!
//! # Files that are removed
//! Somebody may remove, rename or replace the folder, or a file of it, under the running gateway. With every group the open
//! segment is compared with the one at its path (device, inode), and once a second all others (64 at a time). On a difference
//! nothing more is acknowledged, the spool has failed, and what was acknowledged is written anew (`presence`, `rescue`):
//! into the same folder if it exists, into a new one at its place if not, into `<folder>.rescued-1` if something else
//! stands there. Without room the files stay open, and the gateway does not end by itself; what Kafka confirms meanwhile
//! needs no room. For this the folder and the segments are held open (the inode of an open file is not used again), the
//! oldest segments first, up to `open_segments_max`. The loss of further ones is noticed in their turn, counted in the
//! log, and final; and a file that took the place and the inode number of one of those is mistaken for it.
//!
//! # Recovery
//! All segments are read ([`recovery`]). Behind the last good frame lies the torn tail of a crash, never acknowledged:
//! it is cut, and whole frames in it are zeroed. A bad place with something good behind it is damage: kept aside, reported with file, offset and
//! length, and what is good is replayed. So it is with a segment that was cut short, or overwritten with zeros where it
//! begins (`repair`): it is read as far as it exists, kept aside as it was found, and whole again once that is reported. A
//! foreign file, a segment of a later version, or a second process end the start; nothing is overwritten.
//!
//! # Limits
//! * Recovery reads every segment: about a second per GiB from a warm cache, the disk's speed from a cold one.
//! * The last group is protected by its end mark. If both are destroyed together it looks like a torn tail.
//! * How many entries were behind the place where the newest segment was cut is not known: no later one tells.
//! * A disk that reports an fsync it did not do loses what it lied about; a shorter log cannot be told from a true one.
//! * On a copy-on-write file system written blocks are no promise of room; a group that finds none is refused as
//!   *full*, and what it has written of itself is covered before the next one.
//! * On NFS and FUSE, names may be cached: files that another machine removed are noticed late, and acknowledged readings of
//!   that time are lost with them. A `stat` that fails otherwise refuses groups, and counts as a loss after 5 s.
//! * One process, on one machine: `flock` of some network file systems keeps only processes of the same machine out.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::operate::clock::Clock;

mod active;

pub mod budget;

mod config;

pub mod cursor;

mod damage;

pub mod disk;

mod error;

pub mod frame;

pub mod inspect;

pub mod ledger;

mod lock;

mod repair;

mod presence;

mod queue;

mod read;

pub mod reader;

pub mod recovery;

mod rescue;

pub mod segment;

mod shared;

mod thread;

pub mod writer;

pub use config::Config;
pub use damage::{Damage, Recovery};
pub use disk::{Disk, RealDisk};
pub use error::{Error, Failure};
pub use rescue::{Rescue, left_beside};
pub use writer::Writer;

use active::Found;
use lock::locked;
use queue::{Queue, State, Waiting};
use shared::Shared;

/// How the spool is, for metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Durable entries that wait for their replay.
    pub uncommitted_entries: u64,
    /// Their bytes on disk (an estimate within segments that are partly done).
    pub uncommitted_bytes: u64,
    /// Entries waiting for the writer, not yet durable.
    pub queued_entries: u64,
    pub queued_bytes: u64,
    /// Disk space in use, spares included.
    pub disk_bytes: u64,
    pub disk_bytes_max: u64,
    /// Bytes that still can be appended, given budget and file system: over the rate, the hours that are left.
    pub room_bytes: u64,
    /// Arrival of the oldest uncommitted entry, up to a second too early; milliseconds since the Unix epoch.
    pub oldest_ms: Option<i64>,
    /// The last group's write and fsync.
    pub last_fsync: Duration,
    /// Groups written since the start, and the time that took.
    pub fsyncs: u64,
    pub fsyncs_total: Duration,
    /// Damaged places found since the start and at it.
    pub damaged_places: u64,
    /// Entries known to be lost by damage.
    pub damaged_entries: u64,
    /// Why nothing is accepted any more.
    pub failed: Option<String>,
    /// What the machine is short of, so that some or all is refused for now.
    pub short: Option<String>,
    /// How often it was.
    pub shortages: u64,
    /// The sequence below which all is done, and the next one to be given out.
    pub low_sequence: u64,
    pub next_sequence: u64,
}

/// The spool. `T` is what is returned with the result of an append, such as a receipt.
#[derive(Debug)]
pub struct Spool<T: Send + 'static> {
    shared: Arc<Shared<T>>,
    reader: Mutex<reader::Position>,
    thread: Mutex<Option<JoinHandle<()>>>,
    queue_bytes: u64,
    commit_bytes: u64,
    entry_bytes_max: usize,
}

/// The writer of a spool, before it runs.
#[derive(Debug)]
pub struct Stopped<T> {
    shared: Arc<Shared<T>>,
    found: Found,
    config: Config,
}

/// Opens the spool and starts its writer thread; see [`Stopped::start`] for `done`.
///
/// # Errors
/// See [`Error`]: the folder cannot be used, another process uses it, or something in it is not the spool's.
pub fn open<T: Send + 'static>(
    config: &Config,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    done: impl FnMut(Vec<(T, Result<u64, Failure>)>) + Send + 'static,
) -> Result<(Spool<T>, Recovery), Error> {
    let (spool, stopped, recovery) = open_stopped(config, disk, clock)?;
    stopped.start(&spool, done)?;
    Ok((spool, recovery))
}

/// As [`open`], but nothing is written until the caller takes the [writer's turns](Writer::turn): for simulations.
///
/// # Errors
/// As [`open`].
pub fn open_stepwise<T: Send + 'static>(
    config: &Config,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    done: impl FnMut(Vec<(T, Result<u64, Failure>)>) + Send + 'static,
) -> Result<(Spool<T>, Writer<T>, Recovery), Error> {
    let (spool, stopped, recovery) = open_stopped(config, disk, clock)?;
    Ok((spool, stopped.writer(done), recovery))
}

/// As [`open`], but everything is refused until the writer is started: for whoever is to be told of entries, and does not
/// exist before the spool does.
///
/// # Errors
/// As [`open`].
pub fn open_stopped<T: Send + 'static>(
    config: &Config,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
) -> Result<(Spool<T>, Stopped<T>, Recovery), Error> {
    let recovered = recovery::recover(config, &disk)?;
    for damage in &recovered.report.damage {
        damage.log();
    }
    recovered.repair(&*disk)?;
    let lost: u64 = recovered.report.damage.iter().map(Damage::entries).sum();
    let shared = Arc::new(Shared {
        folder: config.folder.clone(),
        disk,
        clock,
        queue: Mutex::new(Queue::new()),
        wake: Condvar::new(),
        ledger: Mutex::new(recovered.ledger),
        budget: recovered.budget,
        failed: OnceLock::new(),
        committed: AtomicBool::new(false),
        last_fsync_us: AtomicU64::new(0),
        fsyncs: AtomicU64::new(0),
        fsyncs_us: AtomicU64::new(0),
        damaged_places: AtomicU64::new(recovered.report.damage.len() as u64),
        damaged_entries: AtomicU64::new(lost),
        shortages: AtomicU64::new(0),
        kept: recovered.kept,
        rescue: Mutex::default(),
    });
    let room = config.segment_bytes.as_u64().saturating_sub(segment::OVERHEAD_BYTES) as usize;
    let entry_bytes_max = room
        .saturating_sub(frame::HEADER_BYTES)
        .min(config.entry_bytes_max.as_u64() as usize);
    let spool = Spool {
        shared: shared.clone(),
        reader: Mutex::default(),
        thread: Mutex::new(None),
        queue_bytes: config.queue_bytes.as_u64(),
        commit_bytes: config.commit_bytes.as_u64(),
        entry_bytes_max,
    };
    let stopped = Stopped {
        shared,
        found: recovered.found,
        config: config.clone(),
    };
    Ok((spool, stopped, recovered.report))
}

// === impl Stopped ===

impl<T: Send + 'static> Stopped<T> {
    /// Starts the thread that writes.
    ///
    /// `done` is called on it after each fsync with the whole group in the order of its appends: `Ok` means durable, with
    /// the entry's sequence. Only then can the entry be read. It should be quick: the next group waits for it.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        self,
        spool: &Spool<T>,
        done: impl FnMut(Vec<(T, Result<u64, Failure>)>) + Send + 'static,
    ) -> Result<(), Error> {
        let folder = self.config.folder.clone();
        let (interval, bytes) = (self.config.commit_interval, self.config.commit_bytes.as_u64());
        let writer = self.writer(done);
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || thread::run(writer, interval, bytes))
            .map_err(|error| Error::io("start the writer of", &folder, error))?;
        *locked(&spool.thread) = Some(thread);
        Ok(())
    }

    fn writer(self, done: impl FnMut(Vec<(T, Result<u64, Failure>)>) + Send + 'static) -> Writer<T> {
        Writer::new(self.shared, &self.config, Box::new(done), self.found)
    }
}

// === impl Spool ===

impl<T: Send + 'static> Spool<T> {
    /// Gives an entry to the writer; never blocks. Its fate comes with the token to `done`, in the order of these calls,
    /// which is the order of sequences.
    ///
    /// # Errors
    /// The entry was not accepted; it is returned with its token and the reason.
    pub fn append(&self, entry: Vec<u8>, token: T) -> Result<(), (T, Vec<u8>, Failure)> {
        if entry.len() > self.entry_bytes_max {
            let limit = self.entry_bytes_max;
            return Err((token, entry, Failure::TooLarge { limit }));
        }
        let arrived_ms = self.shared.clock.wall_ms();
        let bytes = frame::bytes(entry.len()) as u64;
        let mut queue = locked(&self.shared.queue);
        let refused = match queue.state {
            State::Failed => Some(Failure::Failed),
            State::Closing | State::Closed => Some(Failure::Closed),
            State::Open if queue.room < bytes && queue.short.is_some() => Some(Failure::Short),
            State::Open if queue.room < bytes => Some(Failure::Full),
            State::Open if queue.bytes + bytes > self.queue_bytes => Some(Failure::Busy),
            State::Open => None,
        };
        if let Some(failure) = refused {
            return Err((token, entry, failure));
        }
        let before = queue.bytes;
        queue.room -= bytes;
        queue.bytes += bytes;
        queue.waiting.push(Waiting {
            entry,
            arrived_ms,
            token,
        });
        // In between, the writer sleeps until the group is due.
        let wake = before == 0 || (before < self.commit_bytes && queue.bytes >= self.commit_bytes);
        drop(queue);
        if wake {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// The next durable entries that are not committed, oldest first; none: nothing new. Each is given out once, until
    /// [`rewind`](Spool::rewind). At least one is returned if there is one, however large.
    ///
    /// # Errors
    /// The disk could not be read. The next read starts at the oldest uncommitted entry.
    pub fn read(&self, entries_max: usize, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        locked(&self.reader).read(&self.shared, entries_max, bytes_max)
    }

    /// The next read starts at the oldest uncommitted entry.
    pub fn rewind(&self) {
        locked(&self.reader).rewind();
    }

    /// Whether this entry needs no replay.
    pub fn is_committed(&self, sequence: u64) -> bool {
        locked(&self.shared.ledger).is_committed(sequence)
    }

    /// This entry needs no replay: in any order, read or not, twice or once.
    pub fn commit(&self, sequence: u64) {
        self.commit_all([sequence]);
    }

    /// As [`commit`](Spool::commit), for many at the price of one lock.
    pub fn commit_all(&self, sequences: impl IntoIterator<Item = u64>) {
        let mut ledger = locked(&self.shared.ledger);
        let before = ledger.low();
        for sequence in sequences {
            ledger.commit(sequence..sequence.saturating_add(1));
        }
        let moved = ledger.low() != before;
        drop(ledger);
        if moved && !self.shared.committed.swap(true, Ordering::SeqCst) {
            // Under the lock: the writer is either before its look at the flag, or asleep.
            let _queue = locked(&self.shared.queue);
            self.shared.wake.notify_one();
        }
    }

    /// Durable entries that wait for their replay.
    pub fn uncommitted_entries(&self) -> u64 {
        locked(&self.shared.ledger).uncommitted().0
    }

    /// Bytes that still can be appended, given budget and file system.
    pub fn room_bytes(&self) -> u64 {
        locked(&self.shared.queue).room
    }

    /// Whether the last that was refused was refused for want of descriptors or memory.
    pub fn is_short(&self) -> bool {
        locked(&self.shared.queue).short.is_some()
    }

    /// Whether the disk failed.
    pub fn has_failed(&self) -> bool {
        self.shared.has_failed()
    }

    /// How far what was removed is written anew.
    pub fn rescue(&self) -> Rescue {
        locked(&self.shared.rescue).clone()
    }

    pub fn status(&self) -> Status {
        let shared = &*self.shared;
        let mut status = Status {
            disk_bytes: shared.budget.used(),
            disk_bytes_max: shared.budget.bytes_max(),
            last_fsync: Duration::from_micros(shared.last_fsync_us.load(Ordering::Relaxed)),
            fsyncs: shared.fsyncs.load(Ordering::Relaxed),
            fsyncs_total: Duration::from_micros(shared.fsyncs_us.load(Ordering::Relaxed)),
            damaged_places: shared.damaged_places.load(Ordering::Relaxed),
            damaged_entries: shared.damaged_entries.load(Ordering::Relaxed),
            shortages: shared.shortages.load(Ordering::Relaxed),
            failed: shared.failed.get().cloned(),
            ..Status::default()
        };
        {
            let queue = locked(&shared.queue);
            status.queued_entries = queue.waiting.len() as u64;
            status.queued_bytes = queue.bytes;
            status.room_bytes = queue.room;
            status.short = queue.short.clone();
        }
        let ledger = locked(&shared.ledger);
        (status.uncommitted_entries, status.uncommitted_bytes) = ledger.uncommitted();
        status.oldest_ms = ledger.oldest_ms();
        status.low_sequence = ledger.low();
        status.next_sequence = ledger.next();
        status
    }

    /// Accepts nothing more; returns when all that was appended is durable or failed, `done` was told, the cursor is
    /// saved and the folder free. Blocks for an fsync or two. May be called again.
    pub fn close(&self) {
        {
            let mut queue = locked(&self.shared.queue);
            queue.closing = true;
            if queue.state == State::Open {
                queue.state = State::Closing;
            }
        }
        self.shared.wake.notify_one();
        let thread = locked(&self.thread).take();
        // If `done` drops the last handle, this is the writer thread itself, and it ends when it returns.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("the spool's writer panicked");
        }
    }
}

impl<T: Send + 'static> Drop for Spool<T> {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
pub(super) mod tests;
