//! Writes anew what only open files still hold, after their names were removed.
//!
//! Nothing is acknowledged any more by then. Where the folder is the one that was opened, what is missing in it is put
//! back; where it is gone, it is made again; where another one stands in its place that holds something, a new one is made
//! beside it. What stands in the place of a segment is kept aside. So the next start finds every reading that was
//! acknowledged, in the format that it knows: segments under their own names, and the cursor.
//!
//! Without room or descriptors it is retried, and the open files are kept: meanwhile they are replayed, and what
//! Kafka confirms needs no place. The process does not end by itself before all is safe, and at a signal only once
//! nothing has moved for [`RESCUE_TIMEOUT`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{FULL_RETRY, SHORT_RETRY, Writer};
use crate::deliver::spool::cursor::CursorFile;
use crate::deliver::spool::disk::{Disk, DiskFile, Mode, is_full, is_gone, is_short, read_full, write_full};
use crate::deliver::spool::error::Error;
use crate::deliver::spool::ledger::Part;
use crate::deliver::spool::lock::locked;
use crate::deliver::spool::presence::Watched;
use crate::deliver::spool::rescue::{FOLDERS_MAX, beside};
use crate::deliver::spool::segment;

/// Copied at once.
const PIECE_BYTES: usize = 256 << 10;
/// How soon it is retried then.
const LAST_RETRY: Duration = Duration::from_millis(50);
/// What a segment needs on disk besides its frames.
const SLACK_BYTES: u64 = 64 << 10;

/// Where the readings are that wait for their replay.
#[derive(Debug, Default)]
struct Whereabouts {
    /// Where the next start finds them.
    safe: u64,
    /// In files that still have a name, elsewhere.
    moved: u64,
    moved_to: Option<PathBuf>,
    /// In open files without a name: they end with the process.
    only_open: u64,
    /// In files that were not held open.
    gone: u64,
}

// === impl Writer ===

impl<T: Send + 'static> Writer<T> {
    /// Puts everything that waits for its replay where the next start finds it. `Some`: there is no room for it, or the
    /// machine is short of something, and it is to be tried again after this time.
    pub(super) fn rescue(&mut self) -> Option<Duration> {
        let error = match self.try_rescue() {
            Ok(()) => None,
            Err(error) if error.is_short() || error.is_full() => {
                self.shared.rescue_waits(&error);
                return Some(if error.is_full() { FULL_RETRY } else { SHORT_RETRY });
            }
            Err(error) => Some(error),
        };
        self.end_rescue(error);
        None
    }

    /// The last tries: at the end of the process.
    pub(super) fn finish_rescue(&mut self) {
        let (mut steps, mut moved_at) = (0, Instant::now());
        while self.lost && self.rescue().is_some() {
            let rescue = locked(&self.shared.rescue).clone();
            if rescue.steps != steps {
                (steps, moved_at) = (rescue.steps, Instant::now());
            }
            if moved_at.elapsed() >= self.rescue_timeout {
                let why = rescue.waits_for.unwrap_or_default();
                let folder = rescue.folder.unwrap_or_else(|| self.shared.folder.clone());
                self.end_rescue(Some(Error::io("write", &folder, std::io::Error::other(why))));
            }
            std::thread::sleep(LAST_RETRY);
        }
        // What was replayed since then need not be replayed again.
        let folder = locked(&self.shared.rescue).folder.clone();
        if let Some(folder) = folder
            && let Err(error) = self.rescue_cursor(&folder)
        {
            tracing::warn!(%error, "the spool's cursor was not saved; some readings are sent to kafka twice");
        }
    }

    fn try_rescue(&mut self) -> Result<(), Error> {
        let folder = self.ready_folder()?;
        locked(&self.shared.rescue).folder = Some(folder.clone());
        // First, so that what is done needs no place. Without a cursor, a start begins with the oldest segment.
        let cursor = self.rescue_cursor(&folder);
        let (parts, low) = {
            let ledger = locked(&self.shared.ledger);
            (ledger.parts(), ledger.low())
        };
        let done = parts.iter().filter(|part| part.sequences.end <= low);
        for part in done.chain(&self.to_remove) {
            match self.clear(&folder, part.epoch) {
                Err(error) if error.is_short() || error.is_full() => return Err(error),
                Err(error) => tracing::warn!(%error, "a file in the place of a segment is left there"),
                Ok(()) => {}
            }
        }
        if cursor.is_ok() {
            self.drop_done(&folder);
        }
        let mut failed = None;
        // All that are not done, also in the middle: a start would report one that is missing between two others as damage.
        for part in parts.iter().filter(|part| part.sequences.end > low) {
            match self.rescue_segment(&folder, part) {
                Err(error) if error.is_short() || error.is_full() => return Err(error),
                Err(error) => failed = Some(error),
                Ok(()) => {}
            }
        }
        // What was moved aside and removed must stay so.
        let synced = self.shared.disk.sync_folder(&folder);
        synced.map_err(|error| Error::io("sync the folder", &folder, error))?;
        failed.map_or(Ok(()), Err)?;
        match cursor {
            Err(error) if error.is_short() => Err(error),
            Err(error) => {
                tracing::warn!(%error, "the spool's cursor was not saved; some readings are sent to kafka twice");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Forgets the segments that were replayed meanwhile: their copies make room for the others.
    fn drop_done(&mut self, folder: &Path) {
        loop {
            let done = locked(&self.shared.ledger).take_done(self.saved_low);
            let Some(part) = done else { return };
            let path = folder.join(segment::name(part.epoch));
            let ours = self.shared.kept.get(part.epoch).map(|watched| watched.identity);
            if ours.is_some()
                && self.shared.disk.identity(&path).ok().flatten() == ours
                && let Err(error) = remove(&*self.shared.disk, &path)
            {
                tracing::warn!(%error, "a segment that was replayed stays in the folder");
            }
            self.shared.kept.remove(part.epoch);
            self.shared.rescue_steps(0);
        }
    }

    /// It is over, well or not.
    fn end_rescue(&mut self, error: Option<Error>) {
        self.lost = false;
        let folder = locked(&self.shared.rescue).folder.clone();
        let found = self.whereabouts(folder.as_deref());
        let lost = found.only_open + found.gone;
        self.shared
            .damaged_entries
            .fetch_add(lost, std::sync::atomic::Ordering::Relaxed);
        found.log(
            error,
            folder.as_deref().unwrap_or(&self.shared.folder),
            &self.shared.folder,
        );
        self.shared.rescue_ends();
    }

    fn whereabouts(&self, folder: Option<&Path>) -> Whereabouts {
        let mut found = Whereabouts::default();
        let parts = locked(&self.shared.ledger).parts();
        let folder_now = self.folder.path();
        for part in parts.iter().filter(|part| part.uncommitted() > 0) {
            let readings = part.uncommitted();
            let Some(watched) = self.shared.kept.get(part.epoch) else {
                found.gone += readings;
                continue;
            };
            let name = segment::name(part.epoch);
            let is_at = |path: &PathBuf| self.shared.disk.identity(path).ok().flatten() == Some(watched.identity);
            let file = watched.file.clone().or_else(|| self.active_file(part.epoch));
            let elsewhere = [
                file.as_ref().and_then(|file| file.path()),
                folder_now.as_ref().map(|folder| folder.join(&name)),
            ];
            if folder.map(|folder| folder.join(&name)).is_some_and(|path| is_at(&path)) {
                found.safe += readings;
            } else if let Some(path) = elsewhere.into_iter().flatten().find(is_at) {
                found.moved += readings;
                found.moved_to = path.parent().map(Path::to_owned);
            } else if file.is_some() {
                found.only_open += readings;
            } else {
                found.gone += readings;
            }
        }
        found
    }

    /// The one that is written to is open in any case.
    fn active_file(&self, epoch: u32) -> Option<Arc<dyn DiskFile>> {
        let active = self.active.as_ref().filter(|active| active.epoch == epoch);
        active.map(|active| active.file.clone())
    }

    /// The folder for it, locked.
    fn ready_folder(&mut self) -> Result<PathBuf, Error> {
        let disk = self.shared.disk.clone();
        let folder = self.shared.folder.clone();
        for number in 0..FOLDERS_MAX {
            let candidate = match number {
                0 => folder.clone(),
                _ => beside(&folder, number),
            };
            let found = disk.identity(&candidate);
            let found = found.map_err(|error| Error::io("look at", &candidate, error))?;
            match found {
                Some(there) if Some(there) == self.folder_identity => {
                    if self.lock_is_held(&candidate)? {
                        return Ok(candidate);
                    }
                }
                Some(_) if !is_empty(&*disk, &candidate) => continue,
                Some(_) => {}
                None => create(&*disk, &candidate)?,
            }
            let path = candidate.join("lock");
            let failed = |error| Error::io("lock", &path, error);
            let Some(lock) = disk.lock(&path).map_err(failed)? else {
                continue; // another gateway was quicker
            };
            // Held open: the number of a folder that is removed may be given to another one at once.
            let held = disk.open_folder(&candidate).map_err(failed)?;
            self.folder_identity = Some(held.identity().map_err(failed)?);
            self.lock_identity = disk.identity(&path).map_err(failed)?;
            // Should the machine be short of something in between, this is the one to go on with.
            (self.lock, self.new_folder) = (Some(lock), Some(held));
            return Ok(candidate);
        }
        let source = std::io::Error::other("every folder beside it is another's");
        Err(Error::io("find a new place for", &folder, source))
    }

    /// Whether the lock's file is still the one that this process holds.
    fn lock_is_held(&self, folder: &Path) -> Result<bool, Error> {
        let path = folder.join("lock");
        let there = self.shared.disk.identity(&path);
        let there = there.map_err(|error| Error::io("look at", &path, error))?;
        Ok(self.lock.is_some() && there == self.lock_identity)
    }

    fn rescue_segment(&mut self, folder: &Path, part: &Part) -> Result<(), Error> {
        let disk = self.shared.disk.clone();
        let path = folder.join(segment::name(part.epoch));
        let gone = || Error::io("find", &path, std::io::ErrorKind::NotFound.into());
        let watched = self.shared.kept.get(part.epoch).ok_or_else(gone)?;
        let there = disk.identity(&path);
        let file = watched.file.or_else(|| self.active_file(part.epoch));
        match there.map_err(|error| Error::io("look at", &path, error))? {
            Some(there) if there == watched.identity => return Ok(()),
            Some(_) if file.is_some() => set_aside(&*disk, &path)?,
            _ => {}
        }
        let from = file.ok_or_else(gone)?;
        // A start considers it a spare in the making until it is whole.
        let making = folder.join("filling");
        self.filling = None;
        let failed = |error| Error::io("write", &making, error);
        remove(&*disk, &making)?;
        if disk.free_bytes(folder).is_ok_and(|free| free < part.end + SLACK_BYTES) {
            return Err(failed(std::io::ErrorKind::StorageFull.into()));
        }
        let file: Arc<dyn DiskFile> = disk.open(&making, Mode::Create).map_err(failed)?.into();
        let identity = file.identity().map_err(failed)?;
        let copied = copy(&*from, &*file, part, |bytes| self.shared.rescue_steps(bytes));
        if let Err(error) = copied {
            // What it took is needed by others.
            remove(&*disk, &making)?;
            return Err(failed(error));
        }
        disk.rename(&making, &path).map_err(failed)?;
        disk.sync_folder(folder).map_err(failed)?;
        // The file without a name is closed, and its blocks make room for the next.
        let file = Some(file);
        self.shared.kept.replace(part.epoch, Watched { path, identity, file });
        self.shared.rescue_steps(0);
        Ok(())
    }

    /// Of a segment that is no longer needed: what stands in its place, a start would mistake for one of ours.
    fn clear(&self, folder: &Path, epoch: u32) -> Result<(), Error> {
        let path = folder.join(segment::name(epoch));
        let ours = self.shared.kept.get(epoch).map(|watched| watched.identity);
        let there = self.shared.disk.identity(&path);
        let there = there.map_err(|error| Error::io("look at", &path, error))?;
        match there.is_some() && there != ours {
            true => set_aside(&*self.shared.disk, &path),
            false => Ok(()),
        }
    }

    /// Writes the cursor as far as everything is done, in a new file if its own is not there.
    fn rescue_cursor(&mut self, folder: &Path) -> Result<(), Error> {
        let low = locked(&self.shared.ledger).low();
        let disk = self.shared.disk.clone();
        let path = folder.join("cursor");
        let failed = |error| Error::io("write", &path, error);
        let there = disk.identity(&path).map_err(failed)?;
        if there == Some(self.cursor.identity()) {
            if low == self.saved_low {
                return Ok(());
            }
        } else {
            if there.is_some() {
                set_aside(&*disk, &path)?;
            }
            let (cursor, _) = CursorFile::read(disk.open(&path, Mode::Create).map_err(failed)?).map_err(failed)?;
            cursor.reserve().map_err(failed)?;
            self.cursor = cursor;
            // Of this file nothing is saved yet.
            self.saved_low = 0;
        }
        let saved = self.cursor.save(low, self.epoch);
        saved.and_then(|()| disk.sync_folder(folder)).map_err(failed)?;
        self.saved_low = low;
        Ok(())
    }
}

fn is_empty(disk: &dyn Disk, folder: &Path) -> bool {
    // The root of a file system of its own has this one in it.
    let listed = disk.list(folder);
    listed.is_ok_and(|files| files.iter().all(|file| file.is_folder && file.name == "lost+found"))
}

/// Makes a folder, and those above it that went with it.
fn create(disk: &dyn Disk, folder: &Path) -> Result<(), Error> {
    let failed = |error| Error::io("create the folder", folder, error);
    match disk.create_folder(folder) {
        Err(error) if is_gone(&error) => {
            let above = folder.parent().filter(|above| !above.as_os_str().is_empty());
            create(disk, above.ok_or(error).map_err(failed)?)?;
            disk.create_folder(folder).map_err(failed)
        }
        created => created.map_err(failed),
    }
}

/// Gives what stands in the place of a file of ours another name, under which a start lets it be.
fn set_aside(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    let failed = |error| Error::io("move aside", path, error);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    for number in 1..=FOLDERS_MAX {
        let aside = path.with_file_name(format!("{stem}-replaced-{number}.damaged"));
        if disk.identity(&aside).map_err(failed)?.is_none() {
            return disk.rename(path, &aside).map_err(failed);
        }
    }
    Err(failed(std::io::ErrorKind::AlreadyExists.into()))
}

fn remove(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    match disk.remove(path) {
        Err(error) if !is_gone(&error) => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

/// Copies a segment as far as it was acknowledged, at its full length.
fn copy(from: &dyn DiskFile, to: &dyn DiskFile, part: &Part, copied: impl Fn(u64)) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < part.end {
        let bytes = (part.end - at).min(PIECE_BYTES as u64) as usize;
        let done = read_full(from, &mut piece[..bytes], at)?;
        if done < bytes {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        write_full(to, &piece[..bytes], at)?;
        at += bytes as u64;
        copied(bytes as u64);
    }
    let mut mark = Vec::new();
    segment::end_mark(&mut mark, part.epoch, part.sequences.end, part.sequences.end);
    write_full(to, &mark, at)?;
    let behind = at + mark.len() as u64;
    if behind < part.file_bytes {
        write_full(to, &[0], part.file_bytes - 1)?;
    }
    to.sync()
}

// === impl Whereabouts ===

impl Whereabouts {
    fn log(&self, error: Option<Error>, folder: &Path, configured: &Path) {
        let lost = self.only_open + self.gone;
        let error = error.as_ref().map(tracing::field::display);
        let moved_to = self
            .moved_to
            .as_deref()
            .map(|path| tracing::field::display(path.display()));
        let (readings, moved) = (self.safe, self.moved);
        if moved + lost > 0 {
            tracing::error!(
                error, folder = %folder.display(), readings, moved, moved_to, lost,
                "the spool's files were removed or moved; only a part of what was acknowledged could be written anew: move \
                 what was moved to its place before the next start; what was lost was in no file with a name"
            );
        } else if folder == configured {
            tracing::error!(
                error, folder = %folder.display(), readings,
                "the spool's files were removed or moved; what was acknowledged is safe in this folder, from which a start sends it to kafka"
            );
        } else {
            tracing::error!(
                error, folder = %folder.display(), readings, configured = %configured.display(),
                "the spool's files were removed or moved; what was acknowledged is safe in this folder: set spool.folder to it, or move \
                 it to the configured place, before the next start"
            );
        }
    }
}

// === impl Error ===

impl Error {
    fn is_short(&self) -> bool {
        matches!(self, Error::Io { source, .. } if is_short(source))
    }

    fn is_full(&self) -> bool {
        matches!(self, Error::Io { source, .. } if is_full(source))
    }
}
