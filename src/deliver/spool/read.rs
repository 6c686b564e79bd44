//! A segment as a start reads it: its frames, and what is missing between them.
//!
//! What is missing in front of something good is damage; behind the last good frame it is the torn tail of a crash, which
//! `recovery` cuts.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::damage::Damage;
use super::disk::{Disk, DiskFile, Mode, read_full};
use super::error::Error;
use super::frame::Mark;
use super::segment::{self, Gap, HEADER_BYTES, Header, Scan};

/// A segment that was read.
pub(super) struct Read {
    pub(super) epoch: u32,
    pub(super) path: PathBuf,
    /// Zeros in place of what was cut.
    pub(super) bytes: Vec<u8>,
    /// How many were read.
    pub(super) left: usize,
    pub(super) header: Header,
    /// The sequence of the first good frame, and whether that is where the first frame belongs.
    pub(super) first: Option<(u64, bool)>,
    pub(super) scan: Scan,
}

pub(super) fn open(disk: &dyn Disk, path: &Path, mode: Mode) -> Result<Box<dyn DiskFile>, Error> {
    disk.open(path, mode).map_err(|error| Error::io("open", path, error))
}

/// A whole file; memory for one segment.
pub(super) fn load(file: &dyn DiskFile, path: &Path, bytes: u64) -> Result<Vec<u8>, Error> {
    let mut whole = vec![0; bytes as usize];
    let read = read_full(file, &mut whole, 0).map_err(|error| Error::io("read", path, error))?;
    whole.truncate(read);
    Ok(whole)
}

pub(super) type Arrivals = Vec<(u64, i64)>;

pub(super) fn read_segment(
    disk: &dyn Disk,
    folder: &Path,
    epoch: u32,
    (bytes, left): (u64, u64),
    next: Option<u64>,
) -> Result<(Read, Arrivals), Error> {
    let path = folder.join(segment::name(epoch));
    let whole = bytes as usize;
    let mut bytes = load(&*open(disk, &path, Mode::Read)?, &path, left)?;
    bytes.resize(whole, 0);
    let mut arrivals = Arrivals::new();
    let mut first = None;
    let scan = segment::scan(&bytes, epoch, next, |at, frame| {
        first.get_or_insert((frame.sequence, at == HEADER_BYTES));
        if let Mark::Entry { arrived_ms, .. } = frame.mark {
            arrivals.push((frame.sequence, arrived_ms));
        }
    });
    let header = segment::header(&bytes, epoch);
    let read = Read {
        epoch,
        path,
        bytes,
        left: left as usize,
        header,
        first,
        scan,
    };
    Ok((read, arrivals))
}

impl Read {
    /// What is missing here, and the bad bytes if it is to be reported: entries below the low-water mark are not missed.
    pub(super) fn damage<'a>(
        &'a self,
        before: Option<&'a Read>,
        next: u64,
        low: u64,
    ) -> Vec<(Damage, Option<&'a [u8]>)> {
        let header = matches!(self.header, Header::Bad { .. }).then(|| {
            let gap = Gap {
                place: 0..HEADER_BYTES,
                from: Some(next),
                to: next,
                last_group: false,
                known: false,
            };
            let damage = self.reported(&gap, next..next);
            (damage, self.bytes.get(..HEADER_BYTES))
        });
        // Nothing before the first segment: what the cursor still wants of it is gone.
        let first = self.begins().filter(|first| before.is_none() && next < *first);
        let leading = first.map(|first| {
            let gap = Gap {
                place: HEADER_BYTES..HEADER_BYTES,
                from: Some(next),
                to: first,
                last_group: false,
                known: false,
            };
            (self.reported(&gap, next..first), Some(&[][..]))
        });
        let gaps = self.scan.gaps.iter().map(|gap| {
            let missing = gap.from.unwrap_or(next.min(gap.to))..gap.to;
            let wanted = missing.end > low && !missing.is_empty();
            let unknown = gap.from.is_none() && !gap.place.is_empty();
            let reported = (wanted || unknown) && !gap.known;
            match before {
                // The end of the segment before is spoilt, and that is where they were.
                Some(before) if gap.place.end == HEADER_BYTES && !before.scan.clean => {
                    let place = before.scan.end..before.bytes.len();
                    let gap = Gap { place, ..gap.clone() };
                    let bad = before.bytes.get(gap.place.clone()).filter(|_| reported);
                    (before.reported(&gap, missing), bad)
                }
                _ => {
                    let bad = self.bytes.get(gap.place.clone()).filter(|_| reported);
                    (self.reported(gap, missing), bad)
                }
            }
        });
        header.into_iter().chain(leading).chain(gaps).collect()
    }

    /// The sequence with which it begins, if what stands there says so: an entry, a hole, or the end mark.
    fn begins(&self) -> Option<u64> {
        match self.scan.gaps.first() {
            Some(gap) if gap.place.start == HEADER_BYTES => gap.from,
            _ => match self.first {
                Some((first, in_place)) => in_place.then_some(first),
                None => self.scan.next.filter(|_| self.scan.clean),
            },
        }
    }

    fn reported(&self, gap: &Gap, missing: Range<u64>) -> Damage {
        Damage {
            offset: gap.place.start as u64,
            bytes: gap.place.len() as u64,
            missing,
            maybe_unacknowledged: gap.last_group,
            ..Damage::new(&self.path)
        }
    }
}
