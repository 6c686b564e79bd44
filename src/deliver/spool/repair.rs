//! Segments of which a part is gone: cut short, or overwritten with zeros where they begin.
//!
//! A start reads what is left of them: frames say themselves what they are, and sequences say what is missing between
//! two of them. What was behind the last one is known if a later segment goes on; if none does, nobody knows. The bytes
//! are kept aside as they were found; a file in which nothing can be read is moved aside itself. Once the damage is
//! reported, the others get their size and their header back, and marks over what is missing, so that the next start
//! reads whole segments and reports nothing twice.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::budget::Budget;
use super::damage::{Damage, keep_aside_as};
use super::disk::{Disk, DiskFile, Mode, is_full, read_full, write_full};
use super::error::Error;
use super::frame::{self, Frame, Mark};
use super::read::Read;
use super::segment::{self, HEADER_BYTES, Header, VERSION};

/// Zeros written at once.
const PIECE_BYTES: usize = 256 << 10;

/// How much of a segment exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Its size, and so many bytes of it.
    Readable { bytes: u64, left: u64 },
    /// Nothing that could be read: it is renamed.
    Gone { left: u64 },
}

/// What makes a damaged segment a whole one again, or takes it out of the way.
#[derive(Debug)]
pub(super) enum Repair {
    Write(Write),
    SetAside { from: PathBuf, to: PathBuf },
}

#[derive(Debug)]
pub(super) struct Write {
    pub(super) path: PathBuf,
    /// The size that it gets.
    pub(super) bytes: u64,
    /// How much of it exists, with the end mark.
    pub(super) left: u64,
    /// Bytes by their offset.
    pub(super) parts: Vec<(u64, Vec<u8>)>,
}

// === impl Shape ===

impl Shape {
    /// Proves that a file is a segment that this program may read, continue and recycle, or the remains of one.
    pub(super) fn of(disk: &dyn Disk, path: &Path, epoch: u32, left: u64) -> Result<Shape, Error> {
        let failed = |error| Error::io("read", path, error);
        let file = disk
            .open(path, Mode::Read)
            .map_err(|error| Error::io("open", path, error))?;
        let mut start = [0; HEADER_BYTES];
        let read = read_full(&*file, &mut start, 0).map_err(failed)?;
        let start = &start[..read];
        let version = match segment::header(start, epoch) {
            Header::Good { segment_bytes } => {
                let bytes = segment_bytes.max(left);
                return Ok(Shape::Readable { bytes, left });
            }
            Header::Version(version) => return Err(Error::version(path, version)),
            Header::Bad { version } => version,
        };
        if has_frames(&*file, path, epoch, left)? {
            // How long it was is not known any more.
            return Ok(Shape::Readable { bytes: left, left });
        }
        match version {
            Some(version) if version != VERSION => Err(Error::version(path, version)),
            None if is_zeros(start) || segment::is_begun(start) => Ok(Shape::Gone { left }),
            _ => Err(Error::Foreign { path: path.to_owned() }),
        }
    }

    pub(super) fn bytes(self) -> u64 {
        match self {
            Shape::Readable { bytes, .. } | Shape::Gone { left: bytes } => bytes,
        }
    }
}

/// Frames of its epoch prove that it is ours, whatever its header is.
fn has_frames(file: &dyn DiskFile, path: &Path, epoch: u32, bytes: u64) -> Result<bool, Error> {
    let mut whole = vec![0; bytes as usize];
    let read = read_full(file, &mut whole, 0).map_err(|error| Error::io("read", path, error))?;
    whole.truncate(read);
    Ok(segment::scan(&whole, epoch, None, |_, _| {}).next.is_some())
}

fn is_zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Frames that say at the end of a segment that these entries are missing there, as was reported, and that it ends.
fn missing_at_the_end(epoch: u32, missing: Range<u64>) -> Vec<u8> {
    let mut marks = Vec::new();
    if !missing.is_empty() {
        let (sequence, mark, entry) = (missing.end, Mark::Hole { from: missing.start }, &[][..]);
        frame::encode(&mut marks, epoch, Frame { sequence, mark, entry });
    }
    segment::end_mark(&mut marks, epoch, missing.end, missing.end);
    marks
}

// === impl Read ===

impl Read {
    pub(super) fn is_cut(&self) -> bool {
        self.left < self.bytes.len()
    }

    /// There may have been entries behind the last that was found.
    pub(super) fn end_is_gone(&self) -> bool {
        self.is_cut() && !self.scan.clean
    }

    /// Whether what is missing was in front of all that is here.
    pub(super) fn is_before_it(&self, damage: &Damage) -> bool {
        damage.file != self.path || damage.offset == HEADER_BYTES as u64 && damage.bytes == 0
    }

    /// What is to be reported if it was cut.
    pub(super) fn cut(&self) -> Option<Damage> {
        self.is_cut().then(|| Damage {
            offset: self.left as u64,
            bytes: (self.bytes.len() - self.left) as u64,
            more_unknown: !self.scan.clean,
            ..Damage::new(&self.path)
        })
    }

    /// Copies all that is left of it aside, or what is no frame if there is no room for more.
    pub(super) fn keep_whole(&self, disk: &dyn Disk, budget: &Budget, damage: Damage) -> Damage {
        let what = format!("cut-{}", self.left);
        let left = &self.bytes[..self.left];
        let damage = keep_aside_as(disk, budget, damage, &what, left);
        match damage.kept_aside {
            Some(_) => damage,
            None => keep_aside_as(
                disk,
                budget,
                damage,
                &what,
                left.get(self.scan.end..).unwrap_or_default(),
            ),
        }
    }

    /// Marks over what is missing, a header if it has none, its size if it was cut.
    pub(super) fn repair(&self) -> Option<Repair> {
        let mut parts = Vec::new();
        if matches!(self.header, Header::Bad { .. }) {
            let mut start = segment::start(self.epoch, self.bytes.len() as u64, 0, 0);
            start.truncate(HEADER_BYTES);
            parts.push((0, start));
        }
        let new = self.scan.gaps.iter().filter(|gap| !gap.known);
        parts
            .extend(new.filter_map(|gap| Some((gap.place.start as u64, segment::hole(&self.bytes, self.epoch, gap)?))));
        (!parts.is_empty() || self.is_cut()).then(|| self.repair_by(parts))
    }

    /// Marks at its end, once a later segment says what is missing behind it.
    pub(super) fn repair_end(&self, missing: Range<u64>) -> Option<Repair> {
        let marks = missing_at_the_end(self.epoch, missing);
        let fits = self.scan.end + marks.len() <= self.bytes.len();
        fits.then(|| self.repair_by(vec![(self.scan.end as u64, marks)]))
    }

    fn repair_by(&self, parts: Vec<(u64, Vec<u8>)>) -> Repair {
        Repair::Write(Write {
            path: self.path.clone(),
            bytes: self.bytes.len() as u64,
            left: self.left.max(self.scan.end + frame::HEADER_BYTES) as u64,
            parts,
        })
    }
}

// === impl Repair ===

impl Repair {
    /// Without that, the next start would report the same damage again; if there is no room, it does.
    pub(super) fn apply(&self, disk: &dyn Disk) -> Result<(), Error> {
        match self {
            Repair::SetAside { from, to } => {
                let moved = disk.rename(from, to);
                let moved = moved.and_then(|()| disk.sync_folder(from.parent().unwrap_or(Path::new("."))));
                moved.map_err(|error| Error::io("move aside", from, error))
            }
            Repair::Write(write) => write.apply(disk),
        }
    }
}

// === impl Write ===

impl Write {
    fn apply(&self, disk: &dyn Disk) -> Result<(), Error> {
        let file = disk
            .open(&self.path, Mode::ReadWrite)
            .map_err(|error| Error::io("open", &self.path, error))?;
        match self.write(&*file).and_then(|()| file.sync()) {
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, file = %self.path.display(), "a damaged segment of the spool stays as it is");
                Ok(())
            }
            written => written.map_err(|error| Error::io("write", &self.path, error)),
        }
    }

    /// The size last: as long as it is short, the next start knows that it was cut.
    fn write(&self, file: &dyn DiskFile) -> std::io::Result<()> {
        let mut at = self.left;
        for (offset, bytes) in &self.parts {
            write_full(file, bytes, *offset)?;
            at = at.max(offset + bytes.len() as u64);
        }
        let zeros = vec![0; PIECE_BYTES];
        while at < self.bytes {
            let bytes = (self.bytes - at).min(PIECE_BYTES as u64);
            write_full(file, &zeros[..bytes as usize], at)?;
            at += bytes;
        }
        Ok(())
    }
}
