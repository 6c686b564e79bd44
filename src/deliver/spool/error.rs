//! What can go wrong: with the spool as a whole, with an entry, and with a group of them.
//!
//! An [`Error`] is for operators and ends the start, or the spool fails. A [`Failure`] is what an entry's owner is told. A
//! [`Stop`] says why a step of the writer was not done, and with that whether it is retried; [`stop`] is what a failed write
//! or fsync means.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::disk::{is_full, is_gone, is_short};
use super::segment;

/// The spool cannot be opened, or not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused; at the start nothing that the folder holds was given up, later the spool fails.
    #[error("spool: cannot {doing} {}: {source}{}", path.display(), advice(source))]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// Another process has the spool open.
    #[error("spool: {} is locked by another gateway; two gateways need two folders", path.display())]
    Locked { path: PathBuf },
    /// The folder holds a file that the spool did not write. Nothing was changed.
    #[error("spool: {} is not a file of the spool; give the spool a folder of its own", path.display())]
    Foreign { path: PathBuf },
    /// Written by another version of this program. Nothing was changed.
    #[error("spool: {} is of version {version}, this program reads version {}; start the version that wrote it, or move it \
        away to give up its readings", path.display(), segment::VERSION)]
    Version { path: PathBuf, version: u32 },
}

/// Why an entry was not appended. It is not durable and will not be replayed, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No room on disk, in the budget or in the file system. (If only a part of it was written, and the process dies
    /// before that is covered, it may be replayed.)
    #[error("the spool is full")]
    Full,
    /// More bytes wait for the writer than may.
    #[error("the spool's queue is full")]
    Busy,
    /// The entry is larger than one may be.
    #[error("larger than an entry of the spool may be ({limit} bytes)")]
    TooLarge { limit: usize },
    /// The process or its machine has no file descriptor or no memory left, for now, or it cannot be asked whether files
    /// are still at their paths. (As with *full*, it may be replayed
    /// if the process dies at this moment.)
    #[error("the spool is short of file descriptors or memory")]
    Short,
    /// The disk failed, or files were removed or moved. The entry may have been written even so, and may be replayed after the
    /// restart.
    #[error("the spool's disk failed")]
    Failed,
    /// The spool was closed.
    #[error("the spool is closed")]
    Closed,
}

/// Why a group was not written.
pub(super) enum Stop {
    /// No room, on disk or in the budget. It can be tried again.
    Full,
    /// No descriptor, no memory, or interrupted. It can be tried again.
    Short(Error),
    /// Whether a file is where it belongs cannot be asked. It can be tried again, for a while.
    Unsure(Error),
    /// A file is not where it belongs: what is written to it would never be found again.
    Lost(Error),
    /// The disk failed: never again.
    Failed(Error),
}

// === impl Error ===

impl Error {
    pub(super) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        Error::Io { doing, path, source }
    }

    pub(super) fn version(path: &Path, version: u32) -> Self {
        let path = path.to_owned();
        Error::Version { path, version }
    }
}

/// What an operator can do about it, behind the error itself.
fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => "; its parent must exist, and nobody else may remove files",
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => "; it must be a folder, in a folder",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "; the gateway must be able to read and write there"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; make room on its file system",
        _ => "",
    }
}

/// What an error of the operating system means to the writer.
pub(super) fn stop(doing: &'static str, path: &Path, error: io::Error) -> Stop {
    if is_full(&error) {
        return Stop::Full;
    }
    let kind = match &error {
        error if is_short(error) => Stop::Short,
        error if is_gone(error) => Stop::Lost,
        _ => Stop::Failed,
    };
    kind(Error::io(doing, path, error))
}
