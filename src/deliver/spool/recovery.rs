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
use std::path::Path;
use std::sync::Arc;

use super::active::{Active, Found, SPARES_MAX};
use super::budget::Budget;
use super::config::Config;
use super::cursor::{CursorFile, Saved};
use super::damage::{Damage, Recovery, keep_aside};
use super::disk::{Disk, DiskFile, Lock, Mode, write_full};
use super::error::Error;
use super::ledger::{Ledger, Part};
use super::presence::Kept;
use super::read::{Read, open, read_segment};
use super::repair::{Repair, Shape};
use super::segment::{self, HEADER_BYTES, Header, Kind};

/// What the spool goes on with.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) report: Recovery,
    pub(super) ledger: Ledger,
    pub(super) budget: Budget,
    /// What is to be written over damaged places once they are reported.
    pub(super) repairs: Vec<Repair>,
    /// For the writer.
    pub(super) found: Found,
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
    /// `None`: nothing is known, all that exists is replayed.
    saved: Option<u64>,
    /// What is missing between it and the first segment is a loss.
    exact: bool,
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
    let (ledger, last, repairs) = read_segments(disk, folder, &survey, low, &budget, &mut report)?;
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
        found: Found {
            saved_low: low.saved.unwrap_or(ledger.low()),
            active,
            spares,
            cursor,
            epoch,
            lock,
            lock_identity,
            folder: held,
            folder_identity,
        },
        ledger,
        budget,
        repairs,
        kept,
    })
}

/// Opens the segments, the oldest first: whatever happens to their names, what they hold can still be read.
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

// === impl Recovered ===

impl Recovered {
    /// Marks the damaged places as known. Without that, a torn group would look like damage once more groups are written
    /// behind it.
    pub(super) fn repair(&self, disk: &dyn Disk) -> Result<(), Error> {
        self.repairs.iter().try_for_each(|repair| repair.apply(disk))
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

/// Reads all segments, oldest first; returns the books, the last segment for [`settle`], and what is to be repaired.
fn read_segments(
    disk: &dyn Disk,
    folder: &Path,
    survey: &Survey,
    low: Low,
    budget: &Budget,
    report: &mut Recovery,
) -> Result<(Ledger, Option<Read>, Vec<Repair>), Error> {
    let mut ledger = Ledger::new(low.saved.unwrap_or_default());
    let (mut missing, mut repairs) = (Vec::new(), Vec::new());
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
            repairs.push(Repair::SetAside { from: path, to });
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
            repairs.extend(before.repair_end(next..first));
        }
        report
            .damage
            .extend(read.cut().map(|damage| read.keep_whole(disk, budget, damage)));
        repairs.extend(read.repair());
        (last, gone) = (Some(read), None);
    }
    for sequences in missing {
        ledger.commit(sequences);
    }
    Ok((ledger, last, repairs))
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
    // places that are missing are marked as holes, the next one must not mistake them for damage.
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
