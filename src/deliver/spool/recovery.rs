//! What a start finds on disk, and what it makes of it.
//!
//! 1. The folder is surveyed before anything is written: a file that is not the spool's, or a segment of a later version
//!    ends the start, and everything stays as it was.
//! 2. Every segment is read and checked. What is missing in front of something good, or because a segment was cut
//!    short, is damage: its bytes are kept aside, it is reported, and the rest is replayed. Behind the last good frame of
//!    a whole segment it is the torn tail of a crash: cut.
//! 3. The last group and the cursor are written again. After a failed fsync, or a kill before one, the kernel may show
//!    bytes that never reached the disk; what a start builds on must be there after the next power failure, too.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::budget::Budget;
use super::cursor::{CursorFile, Saved};
use super::disk::{Disk, DiskFile, Identity, Lock, Mode, read_full, write_full};
use super::frame::Mark;
use super::ledger::{Ledger, Part};
use super::mend::{Mend, Shape};
use super::presence::Kept;
use super::segment::{self, Gap, HEADER_BYTES, Header, Kind, Scan};
use super::stock::SPARES_MAX;
use super::writer::Active;
use super::{Config, Error};

/// What was found at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Entries that wait for their replay.
    pub entries: u64,
    /// Their bytes on disk (an estimate within a segment that is partly done).
    pub bytes: u64,
    /// Arrival of the oldest, up to a second too early; milliseconds since the Unix epoch.
    pub oldest_ms: Option<i64>,
    /// Acknowledged entries may be among what is missing: an operator should look.
    pub damage: Vec<Damage>,
    /// Bytes behind the last good frame, at most: the last write before a crash, never acknowledged. They are cut.
    pub torn_tail_bytes: u64,
}

/// A place where the disk did not keep what it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: PathBuf,
    pub offset: u64,
    /// 0: the bytes themselves are gone, as when a file was removed.
    pub bytes: u64,
    /// Sequences of the entries that are lost with it; empty if none is, or if nobody knows (if the cursor is lost, too:
    /// how many were in front of the first that was found).
    pub missing: Range<u64>,
    /// It lies in the last group before a crash: torn rather than damaged, perhaps never acknowledged.
    pub maybe_unacknowledged: bool,
    /// Nobody knows how many entries were there: of the end of the newest segment no later one tells, and of the oldest
    /// none if the cursor is damaged, too.
    pub more_unknown: bool,
    /// Where the bad bytes were copied to; `None` if there was no room for them, or nothing to copy.
    pub kept_aside: Option<PathBuf>,
}

/// What the spool goes on with.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) report: Recovery,
    pub(super) ledger: Ledger,
    pub(super) budget: Budget,
    pub(super) active: Option<Active>,
    /// What is to be written over damaged places once they are reported.
    pub(super) mends: Vec<Mend>,
    pub(super) spares: Vec<u32>,
    pub(super) cursor: CursorFile,
    /// What the cursor file says.
    pub(super) saved_low: u64,
    /// The highest epoch in use.
    pub(super) epoch: u32,
    pub(super) lock: Box<dyn Lock>,
    pub(super) lock_identity: Option<Identity>,
    /// The folder, whatever its name.
    pub(super) folder: Box<dyn DiskFile>,
    pub(super) folder_identity: Option<Identity>,
    pub(super) kept: Kept,
}

/// The files of the folder, by what they are.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Epoch and size; oldest first.
    pub(super) segments: Vec<(u32, u64)>,
    /// Of each segment.
    shapes: Vec<Shape>,
    pub(super) spares: Vec<(u32, u64)>,
    damaged_bytes: u64,
    filling: bool,
}

/// Where the cursor stands.
#[derive(Clone, Copy, Debug)]
struct Low {
    /// `None`: nothing is known, all that is there is replayed.
    saved: Option<u64>,
    /// What is missing between it and the first segment is a loss.
    exact: bool,
}

/// A segment that was read.
pub(super) struct Read {
    pub(super) epoch: u32,
    pub(super) path: PathBuf,
    /// Zeros in place of what was cut.
    pub(super) bytes: Vec<u8>,
    /// How many are there.
    pub(super) left: usize,
    pub(super) header: Header,
    /// The sequence of the first good frame, and whether that is where the first frame belongs.
    pub(super) first: Option<(u64, bool)>,
    pub(super) scan: Scan,
}

/// Reads the folder and makes it ready to be written to.
///
/// # Errors
/// The folder cannot be used, is used by another process, or holds what the spool must not touch.
pub(super) fn recover(config: &Config, disk: &Arc<dyn Disk>) -> Result<Recovered, Error> {
    let (disk, folder) = (&**disk, &*config.folder);
    disk.create_folder(folder)
        .map_err(|error| Error::io("create the folder", folder, error))?;
    Survey::of(disk, folder)?; // before the lock is made: in a folder that is not ours nothing is made
    let lock = lock(disk, folder)?;
    let mut survey = Survey::of(disk, folder)?;
    survey.check(disk, config)?;
    let mut report = Recovery::default();
    let (mut cursor, low, cursor_epoch) = read_cursor(disk, folder, &mut report)?;
    survey.prove_writable(disk, folder)?;
    let budget = survey.budget(config);
    let (ledger, last, mends) = read_segments(disk, folder, &survey, low, &budget, &mut report)?;
    let active = last.map(|last| settle(disk, last, &ledger, &mut report)).transpose()?;
    let spares = survey.sweep(disk, folder, config, &budget)?;
    let epoch = survey.epochs().chain([cursor_epoch]).max().unwrap_or_default();
    let saved = match low.saved {
        Some(saved) => cursor.renew(saved, cursor_epoch),
        None => cursor.reserve().and_then(|()| cursor.save(ledger.low(), epoch)),
    };
    saved
        .and_then(|()| disk.sync_folder(folder))
        .map_err(|error| Error::io("write", &folder.join("cursor"), error))?;
    let failed = |error| Error::io("look at", folder, error);
    let held = disk.open_folder(folder).map_err(failed)?;
    let folder_identity = Some(held.identity().map_err(failed)?);
    let lock_identity = disk.identity(&folder.join("lock")).map_err(failed)?;
    let kept = hold(disk, folder, &ledger, config)?;
    (report.entries, report.bytes) = ledger.uncommitted();
    report.oldest_ms = ledger.oldest_ms();
    Ok(Recovered {
        report,
        saved_low: low.saved.unwrap_or(ledger.low()),
        ledger,
        budget,
        active,
        mends,
        spares,
        cursor,
        epoch,
        lock,
        lock_identity,
        folder: held,
        folder_identity,
        kept,
    })
}

/// Opens the segments, the oldest first: whatever becomes of their names, what they hold can still be read.
fn hold(disk: &dyn Disk, folder: &Path, ledger: &Ledger, config: &Config) -> Result<Kept, Error> {
    let kept = Kept::new(config.open_segments_max);
    for epoch in ledger.epochs() {
        kept.find(disk, folder.join(segment::name(epoch)), epoch)?;
    }
    Ok(kept)
}

/// Whether the cursor can be opened and is of a version that this program reads.
pub(super) fn cursor_version(disk: &dyn Disk, path: &Path, mode: Mode) -> Result<(), Error> {
    let read = CursorFile::read(open(disk, path, mode)?).map_err(|error| Error::io("read", path, error))?;
    let path = path.to_owned();
    match read.1 {
        Saved::Version(version) => Err(Error::Version { path, version }),
        _ => Ok(()),
    }
}

fn lock(disk: &dyn Disk, folder: &Path) -> Result<Box<dyn Lock>, Error> {
    let path = folder.join("lock");
    let locked = disk.lock(&path).map_err(|error| Error::io("lock", &path, error))?;
    locked.ok_or(Error::Locked { path })
}

// === impl Damage ===

impl Damage {
    pub(super) fn new(file: &Path) -> Self {
        Damage {
            file: file.to_owned(),
            offset: 0,
            bytes: 0,
            missing: 0..0,
            maybe_unacknowledged: false,
            more_unknown: false,
            kept_aside: None,
        }
    }

    /// A file in which nothing can be read.
    fn of_gone(file: &Path, bytes: u64, aside: &Path) -> Self {
        Damage {
            bytes,
            more_unknown: true,
            kept_aside: Some(aside.to_owned()),
            ..Damage::new(file)
        }
    }

    /// Entries known to be lost.
    pub fn entries(&self) -> u64 {
        self.missing.end - self.missing.start
    }

    pub(super) fn log(&self) {
        tracing::error!(
            file = %self.file.display(),
            offset = self.offset,
            bytes = self.bytes,
            entries = self.entries(),
            more_unknown = self.more_unknown,
            maybe_unacknowledged = self.maybe_unacknowledged,
            kept_aside = self.kept_aside.as_deref().map(|path| tracing::field::display(path.display())),
            "the spool is damaged; what is good is replayed"
        );
    }
}

// === impl Recovered ===

impl Recovered {
    /// Marks the damaged places as known. Without that, a torn group would look like damage once more groups are written
    /// behind it.
    pub(super) fn mend(&self, disk: &dyn Disk) -> Result<(), Error> {
        self.mends.iter().try_for_each(|mend| mend.apply(disk))
    }
}

// === impl Survey ===

impl Survey {
    pub(super) fn of(disk: &dyn Disk, folder: &Path) -> Result<Survey, Error> {
        let mut survey = Survey::default();
        let listed = disk.list(folder).map_err(|error| Error::io("list", folder, error))?;
        for file in listed {
            match Kind::of(&file.name) {
                // The root of a file system of its own, as a volume in Kubernetes is.
                _ if file.is_folder && file.name == "lost+found" => {}
                Some(Kind::Segment(epoch)) if !file.is_folder => survey.segments.push((epoch, file.bytes)),
                Some(Kind::Spare(epoch)) if !file.is_folder => survey.spares.push((epoch, file.bytes)),
                Some(Kind::Damaged) if !file.is_folder => survey.damaged_bytes += file.bytes,
                Some(Kind::Filling) if !file.is_folder => survey.filling = true,
                Some(Kind::Lock | Kind::Cursor | Kind::DamagedCursor) if !file.is_folder => {}
                _ => {
                    let path = folder.join(file.name);
                    return Err(Error::Foreign { path });
                }
            }
        }
        survey.segments.sort_unstable();
        survey.spares.sort_unstable();
        Ok(survey)
    }

    /// Looks whether each segment may be read, continued and recycled. They have their full size from now on, for the
    /// budget as well.
    pub(super) fn check(&mut self, disk: &dyn Disk, config: &Config) -> Result<(), Error> {
        for (epoch, bytes) in &mut self.segments {
            let path = config.folder.join(segment::name(*epoch));
            let shape = Shape::of(disk, &path, *epoch, *bytes)?;
            self.shapes.push(shape);
            *bytes = shape.bytes();
        }
        Ok(())
    }

    /// Epoch and size of the segments that have anything in them.
    fn readable(&self) -> Vec<(u32, u64)> {
        let shaped = self.segments.iter().zip(&self.shapes);
        let readable = shaped.filter(|(_, shape)| matches!(shape, Shape::Readable { .. }));
        readable.map(|(segment, _)| *segment).collect()
    }

    /// Files that can be written to do not prove that new ones can be made, and the first of an outage is no time to
    /// find out. A full disk is no reason not to start: there may be entries to be replayed.
    fn prove_writable(&mut self, disk: &dyn Disk, folder: &Path) -> Result<(), Error> {
        let path = folder.join("filling"); // is swept with the rest
        match disk.open(&path, Mode::Create) {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                return Err(Error::io("create", &path, error));
            }
            opened => self.filling |= opened.is_ok(),
        }
        Ok(())
    }

    pub(super) fn budget(&self, config: &Config) -> Budget {
        let files = self.segments.iter().chain(&self.spares).map(|(_, bytes)| *bytes);
        let used = files.sum::<u64>() + self.damaged_bytes;
        let (bytes_max, segment_bytes) = (config.bytes_max.as_u64(), config.segment_bytes.as_u64());
        Budget::new(bytes_max, segment_bytes, config.free_bytes_min.as_u64(), used)
    }

    fn epochs(&self) -> impl Iterator<Item = u32> {
        self.segments.iter().chain(&self.spares).map(|(epoch, _)| *epoch)
    }

    /// Removes what no longer fits or was not finished; returns the spares that are left. None of it holds entries.
    fn sweep(&self, disk: &dyn Disk, folder: &Path, config: &Config, budget: &Budget) -> Result<Vec<u32>, Error> {
        let remove = |name: &str| {
            let path = folder.join(name);
            disk.remove(&path).map_err(|error| Error::io("remove", &path, error))
        };
        let mut spares = Vec::new();
        for (epoch, bytes) in &self.spares {
            if *bytes == config.segment_bytes.as_u64() && spares.len() < SPARES_MAX {
                spares.push(*epoch);
            } else {
                remove(&segment::spare_name(*epoch))?;
                budget.give_back(*bytes);
            }
        }
        if self.filling {
            remove("filling")?;
        }
        disk.sync_folder(folder)
            .map_err(|error| Error::io("sync the folder", folder, error))?;
        Ok(spares)
    }
}

fn open(disk: &dyn Disk, path: &Path, mode: Mode) -> Result<Box<dyn DiskFile>, Error> {
    disk.open(path, mode).map_err(|error| Error::io("open", path, error))
}

/// A whole file; memory for one segment.
fn load(file: &dyn DiskFile, path: &Path, bytes: u64) -> Result<Vec<u8>, Error> {
    let mut whole = vec![0; bytes as usize];
    let read = read_full(file, &mut whole, 0).map_err(|error| Error::io("read", path, error))?;
    whole.truncate(read);
    Ok(whole)
}

fn read_cursor(disk: &dyn Disk, folder: &Path, report: &mut Recovery) -> Result<(CursorFile, Low, u32), Error> {
    let path = folder.join("cursor");
    let read = || CursorFile::read(open(disk, &path, Mode::Create)?).map_err(|error| Error::io("read", &path, error));
    let unknown = Low {
        saved: None,
        exact: false,
    };
    let (file, saved) = read()?;
    match saved {
        Saved::Nothing => Ok((file, unknown, 0)),
        Saved::Version(version) => Err(Error::Version { path, version }),
        Saved::Cursor { low, epoch, all_slots } => {
            let low = Low {
                saved: Some(low),
                exact: all_slots,
            };
            Ok((file, low, epoch))
        }
        Saved::Damaged => {
            drop(file);
            let aside = folder.join("cursor.damaged");
            disk.rename(&path, &aside)
                .map_err(|error| Error::io("rename", &path, error))?;
            report.damage.push(Damage {
                kept_aside: Some(aside),
                ..Damage::new(&path)
            });
            Ok((read()?.0, unknown, 0))
        }
    }
}

/// Reads all segments, oldest first; returns the books, the last segment for [`settle`], and what is to be mended.
fn read_segments(
    disk: &dyn Disk,
    folder: &Path,
    survey: &Survey,
    low: Low,
    budget: &Budget,
    report: &mut Recovery,
) -> Result<(Ledger, Option<Read>, Vec<Mend>), Error> {
    let mut ledger = Ledger::new(low.saved.unwrap_or_default());
    let (mut missing, mut mends) = (Vec::new(), Vec::new());
    let mut last: Option<Read> = None;
    // Where the report speaks of segments that are gone, since the last one that is not.
    let mut gone: Option<usize> = None;
    // Of the damage before, no later segment says more.
    let mut told = 0;
    let readable = survey.readable();
    let last_epoch = readable.last().map(|(epoch, ..)| *epoch);
    for (epoch, shape) in survey
        .segments
        .iter()
        .map(|(epoch, _)| *epoch)
        .zip(survey.shapes.iter().copied())
    {
        let Shape::Readable { bytes, left } = shape else {
            gone = Some(report.damage.len());
            let path = folder.join(segment::name(epoch));
            let to = folder.join(format!("{epoch:010}-gone.damaged"));
            report.damage.push(Damage::of_gone(&path, shape.bytes(), &to));
            mends.push(Mend::SetAside { from: path, to });
            continue;
        };
        let before = last.as_ref().and_then(|last| last.scan.next);
        let (mut read, arrivals) = read_segment(disk, folder, epoch, (bytes, left), before)?;
        let next = match before {
            Some(next) => next,
            None => {
                // The first segment in which anything can be read decides where the entries begin.
                let begins = low.begins(&read);
                ledger = Ledger::new(begins);
                let before = readable.iter().take_while(|(other, _)| *other != epoch);
                before.for_each(|(epoch, bytes)| ledger.recover(Part::empty(*epoch, *bytes, begins)));
                read.scan.next = read.scan.next.or(low.saved);
                begins
            }
        };
        let end = read.scan.next.unwrap_or(next).max(next);
        let part = Part {
            epoch,
            file_bytes: bytes,
            // The first one may begin below the low-water mark; a last one that lost its tail ends at it.
            sequences: read.first.map_or(next, |(first, _)| first.min(next))..if Some(epoch) == last_epoch {
                end.max(ledger.low())
            } else {
                end
            },
            end: read.scan.end as u64,
            committed: 0,
        };
        ledger.recover(part);
        let uncommitted = arrivals
            .into_iter()
            .filter(|(sequence, _)| *sequence >= ledger.low())
            .collect::<Vec<_>>();
        uncommitted
            .into_iter()
            .for_each(|(sequence, arrived_ms)| ledger.arrived(sequence, arrived_ms));
        let earlier = report.damage.len();
        for (damage, bad) in read.damage(last.as_ref(), next, ledger.low()) {
            missing.push(damage.missing.clone());
            let Some(bad) = bad else { continue };
            let is_before = read.is_before_it(&damage);
            let cut = |known: &Damage| known.more_unknown && known.file == damage.file;
            let known = gone
                .filter(|_| is_before)
                .or_else(|| report.damage.iter().position(cut));
            match known {
                // What was there is known now.
                Some(known) => report.damage[known].missing = damage.missing,
                None => report.damage.push(keep_aside(disk, budget, damage, bad)),
            }
        }
        if read.first.is_some() || read.scan.clean {
            if before.is_some() || low.exact {
                let earlier = report.damage[told..earlier].iter_mut();
                earlier.for_each(|damage| damage.more_unknown = false);
            }
            told = earlier;
        }
        if let Some(before) = last.as_ref().filter(|before| before.end_is_gone() || gone.is_some()) {
            let first = read.first.map_or(next, |(first, _)| first).max(next);
            mends.extend(before.mend_end(next..first));
        }
        report
            .damage
            .extend(read.cut().map(|damage| read.keep_whole(disk, budget, damage)));
        mends.extend(read.mend());
        (last, gone) = (Some(read), None);
    }
    for sequences in missing {
        ledger.commit(sequences);
    }
    Ok((ledger, last, mends))
}

impl Low {
    /// The sequence below which nothing is wanted of the segments, of which this is the first.
    fn begins(&self, first: &Read) -> u64 {
        match (self.saved, first.first) {
            // Of the segments before, an older slot of the cursor file may not know that they were done.
            (Some(low), Some((there, true))) if !self.exact => low.max(there),
            (Some(low), _) => low,
            (None, Some((there, _))) => there,
            (None, None) => first.scan.next.unwrap_or_default(),
        }
    }
}

type Arrivals = Vec<(u64, i64)>;

fn read_segment(
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
    fn damage<'a>(&'a self, before: Option<&'a Read>, next: u64, low: u64) -> Vec<(Damage, Option<&'a [u8]>)> {
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

/// Copies damaged bytes aside, if the budget has room for them. That it cannot is no reason not to go on.
pub(super) fn keep_aside(disk: &dyn Disk, budget: &Budget, damage: Damage, bad: &[u8]) -> Damage {
    let what = damage.offset.to_string();
    keep_aside_as(disk, budget, damage, &what, bad)
}

pub(super) fn keep_aside_as(disk: &dyn Disk, budget: &Budget, mut damage: Damage, what: &str, bad: &[u8]) -> Damage {
    let name = damage.file.file_stem().unwrap_or_default().to_string_lossy();
    let aside = damage.file.with_file_name(format!("{name}-{what}.damaged"));
    if bad.is_empty() {
        return damage;
    }
    if disk.open(&aside, Mode::Read).is_ok() {
        damage.kept_aside = Some(aside); // by an earlier start
        return damage;
    }
    if !budget.take(bad.len() as u64) {
        return damage;
    }
    let folder = aside.parent().unwrap_or(Path::new("."));
    let copied = disk.open(&aside, Mode::Create).and_then(|file| {
        write_full(&*file, bad, 0)?;
        file.sync()?;
        disk.sync_folder(folder)
    });
    match copied {
        Ok(()) => damage.kept_aside = Some(aside),
        Err(error) => {
            tracing::warn!(%error, file = %aside.display(), "damaged bytes of the spool could not be kept aside");
            if disk.remove(&aside).is_ok() {
                budget.give_back(bad.len() as u64);
            }
        }
    }
    damage
}

/// Makes the last segment ready to be continued: cuts a torn tail, and writes its last group again.
fn settle(disk: &dyn Disk, last: Read, ledger: &Ledger, report: &mut Recovery) -> Result<Active, Error> {
    let Read {
        epoch,
        path,
        mut bytes,
        left,
        header,
        scan,
        ..
    } = last;
    let capacity = bytes.len() as u64;
    // Even behind an end mark: of a torn write, what comes first may be what never reached the disk.
    let remains = segment::remains(&bytes, scan.end, epoch);
    report.torn_tail_bytes = match scan.clean {
        // It is reported as damage.
        _ if left < bytes.len() => 0,
        true => remains.len() as u64,
        false => {
            let tail = bytes.get(scan.end..).unwrap_or_default();
            let torn = tail.iter().rposition(|byte| *byte != 0);
            torn.map_or(0, |last| last as u64 + 1)
        }
    };
    bytes.truncate(scan.end);
    // Of a group that was torn, the mark must go on saying where it began: should this start be cut short before the
    // places that are missing are marked as holes, the next one must not take them for damage.
    let group_from = scan.group_from.unwrap_or(ledger.next());
    segment::end_mark(&mut bytes, epoch, ledger.next(), group_from);
    // Whole frames in the tail would count as written behind the next group, should that be torn.
    bytes.resize(bytes.len().max(remains.end), 0);
    let file: Arc<dyn DiskFile> = open(disk, &path, Mode::ReadWrite)?.into();
    let identity = file.identity().map_err(|error| Error::io("look at", &path, error))?;
    let write = |bytes: &[u8], offset: usize| {
        write_full(&*file, bytes, offset as u64).map_err(|error| Error::io("write", &path, error))
    };
    if matches!(header, Header::Bad { .. }) {
        // Reported, and kept aside; what is written from now on should not be under a bad one.
        let start = segment::start(epoch, capacity, 0, 0);
        write(&start[..HEADER_BYTES], 0)?;
    }
    write(&bytes[scan.group_start..], scan.group_start)?;
    file.sync().map_err(|error| Error::io("sync", &path, error))?;
    Ok(Active {
        epoch,
        path,
        file,
        identity,
        offset: scan.end as u64,
        capacity,
        torn_to: None,
    })
}
