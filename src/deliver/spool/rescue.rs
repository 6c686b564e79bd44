//! Writes anew what only open files still hold, after their names were taken away.
//!
//! Nothing is acknowledged any more by then. Where the folder is the one that was opened, what is missing in it is put
//! back; where it is gone, it is made again; where another one stands in its place that holds something, a new one is made
//! beside it. What stands in the place of a segment is kept aside. So the next start finds every reading that was
//! acknowledged, in the format that it knows: segments under their own names, and the cursor.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cursor::CursorFile;
use super::disk::{Disk, DiskFile, Mode, is_gone, is_short, read_full, write_full};
use super::ledger::Part;
use super::presence::Watched;
use super::writer::Writer;
use super::{Error, locked, segment};

/// Copied at once.
const PIECE_BYTES: usize = 256 << 10;
/// Folders tried beside one that is another's.
const FOLDERS_MAX: usize = 100;

/// What became of what was in the spool.
#[derive(Debug, Default)]
struct Rescued {
    /// In segments that are safe now.
    readings: u64,
    /// In segments that could not be written anew.
    lost: u64,
    why: Option<Error>,
}

// === impl Writer ===

impl<T: Send + 'static> Writer<T> {
    /// Puts everything that waits for its replay where the next start finds it. False: the machine is short of something,
    /// and it is to be tried again.
    pub(super) fn rescue(&mut self) -> bool {
        // All of them: a start would take one that is missing between two others for damage.
        let wanted = locked(&self.shared.ledger).parts();
        let rescued = match self.ready_folder() {
            Ok(folder) => self.rescue_into(&folder, &wanted).map(|rescued| (folder, rescued)),
            Err(error) => Err(error),
        };
        match rescued {
            Err(error) if error.is_short() => return false,
            Err(error) => {
                let readings: u64 = wanted.iter().map(Part::uncommitted).sum();
                tracing::error!(%error, readings, "readings of the spool could not be saved");
            }
            Ok((folder, rescued)) => rescued.log(&folder),
        }
        self.lost = false;
        true
    }

    fn rescue_into(&mut self, folder: &Path, wanted: &[Part]) -> Result<Rescued, Error> {
        let mut rescued = Rescued::default();
        let low = locked(&self.shared.ledger).low();
        for part in wanted {
            match self.rescue_segment(folder, part) {
                Ok(()) => rescued.readings += part.uncommitted(),
                Err(error) if error.is_short() => return Err(error),
                Err(error) => {
                    rescued.lost += part.uncommitted();
                    rescued.why = Some(error);
                }
            }
        }
        self.clear_leaving(folder)?;
        self.rescue_cursor(folder, low)?;
        Ok(rescued)
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
            match found.map_err(|error| Error::io("look at", &candidate, error))? {
                Some(there) if Some(there) == self.folder_identity => return Ok(candidate),
                Some(_) if !is_empty(&*disk, &candidate) => continue,
                Some(_) => {}
                None => create(&*disk, &candidate)?,
            }
            let path = candidate.join("lock");
            let lock = disk.lock(&path).map_err(|error| Error::io("lock", &path, error))?;
            if lock.is_none() {
                continue; // another gateway was quicker
            }
            // Should the machine be short of something in between, this is the one to go on with.
            self.lock = lock;
            self.folder_identity = disk.identity(&candidate).ok().flatten();
            return Ok(candidate);
        }
        let source = std::io::Error::other("every folder beside it is another's");
        Err(Error::io("find a new place for", &folder, source))
    }

    fn rescue_segment(&mut self, folder: &Path, part: &Part) -> Result<(), Error> {
        let disk = self.shared.disk.clone();
        let path = folder.join(segment::name(part.epoch));
        let gone = || Error::io("find", &path, std::io::ErrorKind::NotFound.into());
        let watched = self.shared.kept.get(part.epoch).ok_or_else(gone)?;
        let there = disk.identity(&path);
        // The one that is written to is open in any case.
        let active = self.active.as_ref().filter(|active| active.epoch == part.epoch);
        let file = watched.file.or_else(|| active.map(|active| active.file.clone()));
        match there.map_err(|error| Error::io("look at", &path, error))? {
            Some(there) if there == watched.identity => return Ok(()),
            Some(_) if file.is_some() => set_aside(&*disk, &path)?,
            _ => {}
        }
        let from = file.ok_or_else(gone)?;
        // A start takes it for a spare in the making until it is whole.
        let making = folder.join("filling");
        self.filling = None;
        let failed = |error| Error::io("write", &making, error);
        remove(&*disk, &making)?;
        let file: Arc<dyn DiskFile> = disk.open(&making, Mode::Create).map_err(failed)?.into();
        let identity = file.identity().map_err(failed)?;
        copy(&*from, &*file, part).map_err(failed)?;
        disk.rename(&making, &path).map_err(failed)?;
        disk.sync_folder(folder).map_err(failed)?;
        // The file without a name is closed, and its blocks make room for the next.
        let file = Some(file);
        self.shared.kept.replace(part.epoch, Watched { path, identity, file });
        Ok(())
    }

    /// A segment that was no longer needed, and in whose place another file stands: a start would take it for one of ours.
    fn clear_leaving(&mut self, folder: &Path) -> Result<(), Error> {
        let Some(epoch) = self.leaving.as_ref().map(|part| part.epoch) else {
            return Ok(());
        };
        let path = folder.join(segment::name(epoch));
        let ours = self.shared.kept.get(epoch).map(|watched| watched.identity);
        let there = self.shared.disk.identity(&path);
        let there = there.map_err(|error| Error::io("look at", &path, error))?;
        match there.is_some() && there != ours {
            true => set_aside(&*self.shared.disk, &path),
            false => Ok(()),
        }
    }

    fn rescue_cursor(&mut self, folder: &Path, low: u64) -> Result<(), Error> {
        let disk = self.shared.disk.clone();
        let path = folder.join("cursor");
        let failed = |error| Error::io("write", &path, error);
        match disk.identity(&path).map_err(failed)? {
            Some(there) if there == self.cursor.identity() => {}
            there => {
                if there.is_some() {
                    set_aside(&*disk, &path)?;
                }
                let (cursor, _) = CursorFile::read(disk.open(&path, Mode::Create).map_err(failed)?).map_err(failed)?;
                cursor.reserve().map_err(failed)?;
                self.cursor = cursor;
            }
        }
        let saved = self.cursor.save(low, self.epoch);
        saved.and_then(|()| disk.sync_folder(folder)).map_err(failed)?;
        self.saved_low = low;
        Ok(())
    }
}

fn beside(folder: &Path, number: usize) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(format!(".rescued-{number}"));
    folder.with_file_name(name)
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
fn copy(from: &dyn DiskFile, to: &dyn DiskFile, part: &Part) -> std::io::Result<()> {
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

// === impl Rescued ===

impl Rescued {
    fn log(&self, folder: &Path) {
        let folder = folder.display();
        let readings = self.readings;
        match &self.why {
            None => tracing::error!(
                %folder, readings,
                "the spool's files were taken away; what was acknowledged is safe in this folder, from which a start sends it to kafka"
            ),
            Some(error) => tracing::error!(
                %error, %folder, readings, lost = self.lost,
                "the spool's files were taken away; only a part of what was acknowledged could be written anew"
            ),
        }
    }
}

// === impl Error ===

impl Error {
    fn is_short(&self) -> bool {
        matches!(self, Error::Io { source, .. } if is_short(source))
    }
}
