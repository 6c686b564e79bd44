//! Reads what is durable and not committed, oldest first, through the files that are held open, or through one of its own.
//!
//! The reader never holds up the writer: it takes the ledger's lock for moments and the disk's time for itself. A
//! segment may be recycled under it, which only happens when nothing in it is needed: it notices and goes on with the next.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::damage::{self, Damage};
use super::disk::{DiskFile, Mode, read_full};
use super::error::Error;
use super::frame::{self, Bad, Frame, Mark};
use super::ledger::Part;
use super::lock::locked;
use super::segment;
use super::shared::Shared;

/// Read from disk at once: no more than is wanted, within these limits.
const CHUNK_BYTES_MIN: u64 = 4 << 10;
const CHUNK_BYTES_MAX: u64 = 256 << 10;

/// Where the next read goes on.
#[derive(Debug, Default)]
pub(super) struct Position {
    /// Entries below were given out.
    sequence: u64,
    open: Option<Open>,
}

/// The segment that is being read.
#[derive(Debug)]
struct Open {
    epoch: u32,
    file: Arc<dyn DiskFile>,
    offset: u64,
    /// What the frame at `offset` should be.
    next: u64,
}

/// Entries that are given out, with their sequences.
type Entries = Vec<(u64, Vec<u8>)>;

/// Entries found in a chunk, by sequence and place.
type Found = Vec<(u64, Range<usize>)>;

/// What a read may still return.
struct Wanted {
    /// From this sequence on, up to what is readable.
    sequences: Range<u64>,
    entries: usize,
    bytes: usize,
    /// Nothing was found yet: one entry is returned even if it alone is larger.
    first: bool,
}

/// How a chunk ended.
#[derive(PartialEq)]
enum Stop {
    /// At its end, or at the last readable entry.
    Chunk,
    /// With all that was wanted.
    Limit,
    /// In front of bytes that are no frame.
    Bad,
}

// === impl Position ===

impl Position {
    pub(super) fn rewind(&mut self) {
        *self = Position::default();
    }

    /// The next entries: at most so many, and not more bytes than that unless a single one is larger.
    pub(super) fn read<T>(
        &mut self,
        shared: &Shared<T>,
        entries_max: usize,
        bytes_max: usize,
    ) -> Result<Entries, Error> {
        let mut entries = Entries::new();
        let (mut bytes, mut stop) = (0, Stop::Chunk);
        // A limit that only committed entries came up to is none: nothing returned means that there is nothing to read.
        while (stop != Stop::Limit || entries.is_empty()) && entries.len() < entries_max {
            let Some((part, readable)) = self.part(shared) else {
                break;
            };
            let wanted = Wanted {
                sequences: self.sequence..readable,
                entries: entries_max - entries.len(),
                bytes: bytes_max.saturating_sub(bytes),
                first: entries.is_empty(),
            };
            match self.read_part(shared, &part, &wanted) {
                Ok((more, how)) => {
                    bytes += more.iter().map(|(_, entry)| entry.len()).sum::<usize>();
                    entries.extend(more);
                    stop = how;
                }
                // It was recycled meanwhile: all of it was committed.
                Err(_) if !locked(&shared.ledger).has(part.epoch) => self.open = None,
                Err(error) => {
                    // What was found already is given out again by the next read, which starts at the oldest.
                    self.rewind();
                    return Err(error);
                }
            }
        }
        Ok(entries)
    }

    /// The segment with the next entry, and up to where it may be read.
    fn part<T>(&mut self, shared: &Shared<T>) -> Option<(Part, u64)> {
        let ledger = locked(&shared.ledger);
        self.sequence = self.sequence.max(ledger.low());
        let readable = ledger.readable();
        let part = ledger.part_of(self.sequence).filter(|_| self.sequence < readable)?;
        Some((part.clone(), readable))
    }

    /// Reads one chunk of a segment. Progress is made in every call: the offset or the segment advances.
    fn read_part<T>(&mut self, shared: &Shared<T>, part: &Part, wanted: &Wanted) -> Result<(Entries, Stop), Error> {
        let path = shared.folder.join(segment::name(part.epoch));
        let open = match self.open.take() {
            Some(open) if open.epoch == part.epoch => open,
            _ => Open {
                epoch: part.epoch,
                file: open_file(shared, part.epoch, &path)?,
                offset: segment::HEADER_BYTES as u64,
                next: part.sequences.start,
            },
        };
        let open = self.open.insert(open);
        let chunk = open.chunk(&path, part.end, wanted)?;
        let (mut found, mut stop) = open.frames(&chunk, wanted);
        if open.offset >= part.end && open.next < part.sequences.end.min(wanted.sequences.end) {
            // The frames end before the sequences do.
            stop = Stop::Bad;
        }
        if found.is_empty() && stop == Stop::Bad {
            open.step_over(shared, &path, part)?;
        }
        self.sequence = open.next.max(wanted.sequences.start);
        let ledger = locked(&shared.ledger);
        found.retain(|(sequence, _)| !ledger.is_committed(*sequence));
        drop(ledger);
        let entry = |(sequence, place): (u64, Range<usize>)| (sequence, chunk[place].to_vec());
        Ok((found.into_iter().map(entry).collect(), stop))
    }
}

/// The segment's file. One that is not held open is opened by its name: short of descriptors, the replay waits.
fn open_file<T>(shared: &Shared<T>, epoch: u32, path: &Path) -> Result<Arc<dyn DiskFile>, Error> {
    if let Some(file) = shared.kept.file(epoch) {
        return Ok(file);
    }
    let opened = shared.disk.open(path, Mode::Read);
    Ok(opened.map_err(|error| Error::io("open", path, error))?.into())
}

// === impl Open ===

impl Open {
    /// The bytes from `offset` on: a chunk, or one whole frame if that is longer.
    fn chunk(&self, path: &Path, end: u64, wanted: &Wanted) -> Result<Vec<u8>, Error> {
        let left = end.saturating_sub(self.offset);
        let frames = wanted
            .bytes
            .saturating_add(wanted.entries.saturating_mul(frame::HEADER_BYTES));
        let bytes = (frames as u64).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX).min(left);
        let mut chunk = vec![0; bytes as usize];
        let read = |chunk: &mut Vec<u8>| {
            let done = read_full(&*self.file, chunk, self.offset);
            let done = done.map_err(|error| Error::io("read", path, error))?;
            chunk.truncate(done);
            Ok(())
        };
        read(&mut chunk)?;
        if let Err(Bad::Short { needed }) = frame::decode(&chunk, self.epoch)
            && chunk.len() < needed
            && needed as u64 <= left
        {
            chunk.resize(needed, 0);
            read(&mut chunk)?;
        }
        Ok(chunk)
    }

    /// Walks through the frames of a chunk, and moves the offset behind them.
    fn frames(&mut self, chunk: &[u8], wanted: &Wanted) -> (Found, Stop) {
        let mut found = Found::new();
        let (mut at, mut bytes) = (0, 0);
        let stop = loop {
            if found.len() >= wanted.entries {
                break Stop::Limit;
            }
            if at >= chunk.len() {
                break Stop::Chunk;
            }
            let frame = match frame::decode(&chunk[at..], self.epoch) {
                Ok(frame) if matches!(frame.mark, Mark::Entry { .. }) && frame.sequence == self.next => frame,
                // The next chunk starts with it.
                Err(Bad::Short { .. }) if at > 0 => break Stop::Chunk,
                _ => break Stop::Bad,
            };
            if frame.sequence >= wanted.sequences.end {
                break Stop::Chunk;
            }
            if frame.sequence >= wanted.sequences.start {
                let is_first = wanted.first && found.is_empty();
                if !is_first && bytes + frame.entry.len() > wanted.bytes {
                    break Stop::Limit;
                }
                bytes += frame.entry.len();
                let start = at + frame::HEADER_BYTES;
                found.push((frame.sequence, start..start + frame.entry.len()));
            }
            at += frame.bytes();
            self.next = frame.sequence + 1;
        };
        self.offset += at as u64;
        (found, stop)
    }

    /// Goes on behind a place where there is no frame, or not the next one. What is missing there and was not known to
    /// be is reported, and counted as done: it cannot be replayed.
    fn step_over<T>(&mut self, shared: &Shared<T>, path: &Path, part: &Part) -> Result<(), Error> {
        let mut rest = vec![0; part.end.saturating_sub(self.offset) as usize];
        let done = read_full(&*self.file, &mut rest, self.offset);
        rest.truncate(done.map_err(|error| Error::io("read", path, error))?);
        let is_entry = |frame: &Frame<'_>| matches!(frame.mark, Mark::Entry { .. }) && frame.sequence >= self.next;
        let here = frame::decode(&rest, self.epoch).ok().filter(is_entry);
        let bad = match here {
            // A good frame, but a later one: a gap that recovery knows of.
            Some(_) => 0,
            None => segment::find(&rest, 0, self.epoch, Some(self.next)).unwrap_or(rest.len()),
        };
        let following = frame::decode(&rest[bad..], self.epoch).map_or(part.sequences.end, |frame| frame.sequence);
        let missing = self.next..following;
        let damage = Damage {
            file: path.to_owned(),
            offset: self.offset,
            bytes: bad as u64,
            missing: missing.clone(),
            maybe_unacknowledged: false,
            more_unknown: false,
            kept_aside: None,
        };
        self.offset += bad as u64;
        self.next = following;
        if !locked(&shared.ledger).has(self.epoch) {
            return Ok(()); // recycled while it was read: these bytes are none of ours
        }
        if locked(&shared.ledger).commit(missing) > 0 {
            let damage = damage::keep_aside(&*shared.disk, &shared.budget, damage, &rest[..bad]);
            shared.report(&damage);
        }
        Ok(())
    }
}
