//! The `Disk` seam: the few things the spool asks of a file system, so that tests can answer otherwise.
//!
//! The contract is POSIX's: a write may be short, is lost at a power failure unless its file was synced since, and may
//! be lost in part; a created, renamed or removed name is lost unless its folder was synced. An open file stays readable
//! when its name is gone. Any call may be [refused for a moment](is_short). [`RealDisk`] is the machine's.

use std::fmt::Debug;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file system.
pub trait Disk: Send + Sync + Debug {
    /// Makes this one folder; its parent must exist. A folder that exists is fine.
    fn create_folder(&self, folder: &Path) -> io::Result<()>;
    /// The names in a folder, in any order.
    fn list(&self, folder: &Path) -> io::Result<Vec<Listed>>;
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn DiskFile>>;
    /// Holds a folder open, to know it again: while it is, no other gets its identity.
    fn open_folder(&self, folder: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// `to` is replaced if it exists.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes created, renamed and removed names of this folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// What a path names now; `None`: nothing.
    fn identity(&self, path: &Path) -> io::Result<Option<Identity>>;
    /// Bytes that may still be written to the file system the folder is on.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;
    /// Locks the file, made if need be, against every other process; `None`: another holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
    /// Time since some fixed moment; never goes back.
    fn uptime(&self) -> Duration;
}

/// An open file.
pub trait DiskFile: Send + Sync + Debug {
    /// As `pread(2)`: may be short; 0 is the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As `pwrite(2)`: may be short.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// As `fdatasync(2)`: the bytes, and the size if it changed. After an error nothing is known of what was written since
    /// the last success, until it is written again.
    fn sync(&self) -> io::Result<()>;
    /// What the open file is, whatever its name.
    fn identity(&self) -> io::Result<Identity>;
    /// What it is called now, as far as the system can say. Perhaps nothing exists any more.
    fn path(&self) -> Option<PathBuf> {
        None
    }
}

/// One file or folder of this machine, under whatever name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
}

/// A lock, held until dropped (or until the process ends, however it ends).
pub trait Lock: Send + Debug {}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Read,
    ReadWrite,
    /// Read and write; made if it is not there, never emptied.
    Create,
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub bytes: u64,
    pub is_folder: bool,
}

/// Fills `buffer` from `offset` on; returns how much there was before the end of the file.
pub(super) fn read_full(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `bytes` at `offset`, however short the disk's writes are.
pub(super) fn write_full(file: &dyn DiskFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.write_at(&bytes[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether an error only says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Whether an error only says that the machine is short of something that comes back: file descriptors (of this process,
/// of the whole machine), memory, an uninterrupted moment. It says nothing about the disk or the data on it.
pub(super) fn is_short(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::NOBUFS,
        Errno::INTR,
        Errno::AGAIN,
    ];
    passing
        .into_iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
        || matches!(
            error.kind(),
            io::ErrorKind::OutOfMemory | io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
        )
}

/// Whether an error says that a name is not there (any more), or that what leads to it is no folder (any more).
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The machine's disk.
#[derive(Clone, Copy, Debug)]
pub struct RealDisk {
    started: Instant,
}

/// Whether one of a few attempts succeeds.
fn patiently(mut attempt: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    const ATTEMPTS: usize = 10;
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 1..ATTEMPTS {
        if attempt()? {
            return Ok(true);
        }
        std::thread::sleep(PAUSE);
    }
    attempt()
}

/// A locked file.
#[derive(Debug)]
struct Held(File);

// === impl RealDisk ===

impl Default for RealDisk {
    fn default() -> Self {
        RealDisk {
            started: Instant::now(),
        }
    }
}

impl Disk for RealDisk {
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        match std::fs::create_dir(folder) {
            Ok(()) => {
                // "spool" alone has the parent "", which is the working folder.
                let parent = folder.parent().filter(|parent| *parent != Path::new(""));
                self.sync_folder(parent.unwrap_or(Path::new(".")))
            }
            Err(_) if folder.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Listed>> {
        let listed = |entry: io::Result<std::fs::DirEntry>| {
            let entry = entry?;
            let metadata = entry.metadata()?;
            Ok(Listed {
                name: entry.file_name().to_string_lossy().into_owned(),
                bytes: metadata.len(),
                is_folder: metadata.is_dir(),
            })
        };
        std::fs::read_dir(folder)?.map(listed).collect()
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        // Readings of a city are nobody else's business.
        options.read(true).mode(0o600);
        // A pipe under a segment's name would be waited for until somebody writes to it.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        options
            .write(mode != Mode::Read)
            .create(mode == Mode::Create)
            .truncate(false);
        let file = options.open(path)?;
        match file.metadata()?.is_file() {
            true => Ok(Box::new(file)),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file")),
        }
    }

    fn open_folder(&self, folder: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::open(folder)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn identity(&self, path: &Path) -> io::Result<Option<Identity>> {
        match std::fs::metadata(path) {
            Ok(metadata) => Ok(Some(Identity::of(&metadata))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let file_system = rustix::fs::statvfs(folder)?;
        // `f_bavail`, not `f_bfree`: blocks reserved for root are not ours.
        Ok(file_system.f_bavail.saturating_mul(file_system.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path)?;
        // Whoever only looks whether it is held, holds it for a moment.
        let is_mine = patiently(|| match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        })?;
        Ok(is_mine.then(|| Box::new(Held(file)) as Box<dyn Lock>))
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

// === impl File ===

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn identity(&self) -> io::Result<Identity> {
        self.metadata().map(|metadata| Identity::of(&metadata))
    }

    fn path(&self) -> Option<PathBuf> {
        // Linux alone says it; behind the name of a removed file it says so, and no file is called that.
        std::fs::read_link(format!("/proc/self/fd/{}", self.as_raw_fd())).ok()
    }
}

// === impl Identity ===

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

// === impl Held ===

impl Lock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        // Closing it would do, but for a child that was forked at this moment and has it open until its `exec`.
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the spool could not be unlocked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("0000.segment");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        for mode in [Mode::Read, Mode::ReadWrite, Mode::Create] {
            let error = RealDisk::default().open(&pipe, mode).unwrap_err();
            assert_eq!(error.to_string(), "is no regular file", "{mode:?}");
        }
    }

    #[test]
    fn a_lock_that_is_held_for_a_moment_is_waited_for() {
        let check = |frees_at: usize, expected: bool| {
            let mut attempts = 0..;
            let got = patiently(|| Ok(attempts.next().is_some_and(|attempt| attempt >= frees_at)));
            assert_eq!(got.unwrap(), expected, "{frees_at}");
        };
        check(0, true);
        check(3, true);
        check(100, false);
        assert!(patiently(|| Err(io::ErrorKind::PermissionDenied.into())).is_err());
    }

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let disk = RealDisk::default();
        let first = disk.lock(&path).unwrap();
        assert!(first.is_some());
        assert!(disk.lock(&path).unwrap().is_none());
        drop(first);
        assert!(disk.lock(&path).unwrap().is_some());
    }

    #[test]
    fn only_the_last_folder_is_made() {
        let parent = tempfile::tempdir().unwrap();
        let disk = RealDisk::default();
        let folder = parent.path().join("spool");
        disk.create_folder(&folder).unwrap();
        disk.create_folder(&folder).unwrap();
        assert!(disk.create_folder(&parent.path().join("a/b")).is_err());
        assert!(disk.free_bytes(&folder).unwrap() > 0);
    }
}
