//! Would a start refuse the spool's folder? Looks, and changes nothing: no folder, no lock, no file is made.
//!
//! The questions of a start ([`recovery`](super::recovery)) in the same order, answered with the same words. A gateway may
//! be running on the folder: its lock is tried and not kept. What only reading all segments would show is left to the start.

use std::io::{self, ErrorKind};
use std::path::Path;

use bytesize::ByteSize;

use super::config::Config;
use super::disk::{Disk as _, Mode, RealDisk};
use super::error::Error;
use super::recovery::{self, Survey};

/// A folder that a start would use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Segments that exist; `None`: the folder would be made.
    pub segments: Option<usize>,
    /// How much its file system has left, if there is no room for another segment.
    pub no_room: Option<ByteSize>,
}

/// Looks at the folder.
///
/// # Errors
/// What a start would say.
pub fn inspect(config: &Config, disk: &RealDisk) -> Result<Inspected, Error> {
    let folder = &*config.folder;
    if survey(folder, disk)?.is_none() {
        let parent = parent(folder);
        let no_room = no_room(&Survey::default(), parent, config, disk)?;
        return Ok(Inspected {
            segments: None,
            no_room,
        });
    }
    lock(folder, disk)?;
    // What another process did until then is seen.
    let mut survey = Survey::of(disk, folder)?;
    survey.check(disk, config)?;
    cursor(folder, disk)?;
    let filling = folder.join("filling");
    disk.may_create_in(folder)
        .map_err(|error| Error::io("create", &filling, error))?;
    Ok(Inspected {
        segments: Some(survey.segments.len()),
        no_room: no_room(&survey, folder, config, disk)?,
    })
}

/// What is in the folder; `None`: it is not there, and can be made.
fn survey(folder: &Path, disk: &RealDisk) -> Result<Option<Survey>, Error> {
    let cannot_create = |error| Error::io("create the folder", folder, error);
    match std::fs::metadata(folder) {
        Ok(found) if found.is_dir() => Survey::of(disk, folder).map(Some),
        // As `mkdir` says it.
        Ok(_) => Err(cannot_create(rustix::io::Errno::EXIST.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let parent = parent(folder);
            let found = std::fs::metadata(parent).map_err(cannot_create)?;
            if !found.is_dir() {
                return Err(cannot_create(rustix::io::Errno::NOTDIR.into()));
            }
            disk.may_create_in(parent).map_err(cannot_create)?;
            Ok(None)
        }
        Err(error) => Err(cannot_create(error)),
    }
}

fn lock(folder: &Path, disk: &RealDisk) -> Result<(), Error> {
    let path = folder.join("lock");
    let locked = match disk.is_locked(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => disk.may_create_in(folder).map(|()| false),
        locked => locked,
    };
    match locked.map_err(|error| Error::io("lock", &path, error))? {
        true => Err(Error::Locked { path }),
        false => Ok(()),
    }
}

/// Its version; a damaged one is no reason not to start.
fn cursor(folder: &Path, disk: &RealDisk) -> Result<(), Error> {
    let path = folder.join("cursor");
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        _ => recovery::cursor_version(disk, &path, Mode::ReadWrite),
    }
}

fn no_room(survey: &Survey, on: &Path, config: &Config, disk: &RealDisk) -> Result<Option<ByteSize>, Error> {
    let free = disk.free_bytes(on).map_err(|error| Error::io("look at", on, error))?;
    let used_up = survey.budget(config).segments(u64::MAX) == 0;
    let room = used_up || survey.budget(config).segments(free) > 0 || !survey.spares.is_empty();
    Ok((!room).then_some(ByteSize::b(free)))
}

fn parent(folder: &Path) -> &Path {
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

impl RealDisk {
    /// Whether new names can be made in a folder, as far as permissions say.
    fn may_create_in(&self, folder: &Path) -> io::Result<()> {
        use rustix::fs::Access;
        Ok(rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
    }

    /// Whether another process holds the lock. For a moment it is shared with whoever else looks.
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let file = std::fs::File::options().read(true).write(true).open(path)?;
        match file.try_lock_shared() {
            Ok(()) => file.unlock().map(|()| false),
            Err(std::fs::TryLockError::WouldBlock) => Ok(true),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }
}
