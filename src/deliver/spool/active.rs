//! The files that the writer has: the segment that is written to, spares, and one in the making.
//!
//! [`Found`] is what a start finds of them and leaves to the writer. Here a group is written and
//! fsynced; an fsync that fails is classified by [`error`](super::error) and ends the spool in the writer.

use std::path::PathBuf;
use std::sync::Arc;

use super::cursor::CursorFile;
use super::disk::{DiskFile, Identity, Lock, write_full};
use super::error::{Stop, stop};
use super::frame;

/// Spares that are kept; more segments than that are removed when they are no longer needed.
pub(super) const SPARES_MAX: usize = 2;

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) epoch: u32,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) identity: Identity,
    /// Behind the last durable frame.
    pub(super) offset: u64,
    /// Size of the file.
    pub(super) capacity: u64,
    /// Up to where a group that was not finished may have been written.
    pub(super) torn_to: Option<u64>,
}

/// A spare being made.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) filled: u64,
}

/// What recovery leaves to the writer.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) active: Option<Active>,
    pub(super) spares: Vec<u32>,
    pub(super) cursor: CursorFile,
    pub(super) saved_low: u64,
    pub(super) epoch: u32,
    pub(super) lock: Box<dyn Lock>,
    pub(super) lock_identity: Option<Identity>,
    pub(super) folder: Box<dyn DiskFile>,
    pub(super) folder_identity: Option<Identity>,
}

// === impl Active ===

impl Active {
    /// Bytes of frames that still fit, beside the end mark.
    pub(super) fn left(&self) -> u64 {
        self.capacity.saturating_sub(self.offset + frame::HEADER_BYTES as u64)
    }

    /// Writes behind the last durable frame, and syncs. It counts as torn until it is [settled](Active::settled).
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.torn_to = self.torn_to.max(Some(self.offset + bytes.len() as u64));
        write_full(&*self.file, bytes, self.offset).map_err(|error| stop("write", &self.path, error))?;
        // After a failed fsync nothing is known of what was written, not even that a second one would tell the truth. If
        // only the machine was short of something, all of it is written again, and counts once that is synced.
        self.file.sync().map_err(|error| stop("sync", &self.path, error))
    }

    pub(super) fn settled(&mut self) {
        self.torn_to = None;
    }
}
