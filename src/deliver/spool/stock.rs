//! The writer's segments: made ahead of their use, used, and used again.
//!
//! A new one is filled with zeros a piece at a time, between groups, under the name `filling`; then it is a spare, and
//! with a header of its own a segment. Folders are synced after every rename, so that no crash leaves a segment that is
//! not one. Segments below the saved cursor become spares again, or are removed when there are enough.

use std::path::Path;

use super::disk::{DiskFile, Mode, write_full};
use super::segment::{self, HEADER_BYTES};
use super::writer::{Active, FULL_RETRY, Stop, Writer, stop};
use super::{Error, locked};

/// Spares that are kept; more segments than that are removed when they are no longer needed.
pub(super) const SPARES_MAX: usize = 2;
/// Zeros written (and synced) between two groups: a few milliseconds of disk.
const FILL_BYTES: u64 = 256 << 10;

/// A spare being made.
#[derive(Debug)]
pub(super) struct Filling {
    file: Box<dyn DiskFile>,
    filled: u64,
}

// === impl Writer ===

impl<T: Send + 'static> Writer<T> {
    /// Goes on in a new segment; its first frame will have this sequence.
    pub(super) fn roll(&mut self, sequence: u64) -> Result<(), Stop> {
        if self.spares.is_empty() {
            // Perhaps only the upkeep is behind.
            self.save_cursor()?;
            self.recycle()?;
        }
        while self.spares.is_empty() {
            self.fill()?;
        }
        let Some(spare) = self.spares.pop() else {
            return Err(Stop::Full);
        };
        match self.open_segment(spare, sequence) {
            Ok(active) => {
                locked(&self.shared.ledger).start(active.epoch, active.capacity);
                self.active = Some(active);
                Ok(())
            }
            Err(stop) => {
                self.spares.push(spare);
                Err(stop)
            }
        }
    }

    /// Turns a spare into a segment. It gets its header while it is still called a spare, and is called a segment once
    /// that is durable: no crash leaves a segment with the header of another epoch.
    fn open_segment(&mut self, spare: u32, sequence: u64) -> Result<Active, Stop> {
        let from = self.shared.folder.join(segment::spare_name(spare));
        self.epoch += 1;
        let epoch = self.epoch;
        let path = self.shared.folder.join(segment::name(epoch));
        let disk = &*self.shared.disk;
        let file = disk
            .open(&from, Mode::ReadWrite)
            .map_err(|error| stop("open", &from, error))?;
        let start = segment::start(epoch, self.segment_bytes, self.shared.clock.wall_ms(), sequence);
        write_full(&*file, &start, 0).map_err(|error| stop("write", &from, error))?;
        file.sync()
            .map_err(|error| Stop::Failed(Error::io("sync", &from, error)))?;
        self.rename(&from, &path)?;
        Ok(Active {
            epoch,
            path,
            file,
            offset: HEADER_BYTES as u64,
            capacity: self.segment_bytes,
            torn_to: None,
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Stop> {
        let disk = &*self.shared.disk;
        disk.rename(from, to).map_err(|error| stop("rename", from, error))?;
        self.sync_folder()
    }

    fn sync_folder(&self) -> Result<(), Stop> {
        let folder = &self.shared.folder;
        let synced = self.shared.disk.sync_folder(folder);
        synced.map_err(|error| Stop::Failed(Error::io("sync the folder", folder, error)))
    }

    /// Writes a piece of a new spare's zeros. Over written blocks, an fsync later has no metadata to commit; and a disk
    /// that is full says so here, where nobody waits.
    pub(super) fn fill(&mut self) -> Result<(), Stop> {
        let filled = self.fill_piece();
        if matches!(filled, Err(Stop::Full)) {
            self.drop_filling()?;
            self.full_until = Some(self.shared.disk.uptime() + FULL_RETRY);
        }
        filled
    }

    fn fill_piece(&mut self) -> Result<(), Stop> {
        let path = self.shared.folder.join("filling");
        let filling = match &mut self.filling {
            Some(filling) => filling,
            None => {
                if self.creatable() == 0 || !self.shared.budget.take(self.segment_bytes) {
                    return Err(Stop::Full);
                }
                let opened = self.shared.disk.open(&path, Mode::Create);
                match opened {
                    Ok(file) => self.filling.insert(Filling { file, filled: 0 }),
                    // No entry depends on it: whatever the reason, there is no room for now.
                    Err(error) => {
                        tracing::warn!(%error, file = %path.display(), "spool segment could not be created");
                        self.shared.budget.give_back(self.segment_bytes);
                        return Err(Stop::Full);
                    }
                }
            }
        };
        let piece = (self.segment_bytes - filling.filled).min(FILL_BYTES);
        let zeros = vec![0; piece as usize];
        write_full(&*filling.file, &zeros, filling.filled).map_err(|error| stop("write", &path, error))?;
        filling.file.sync().map_err(|error| stop("sync", &path, error))?;
        filling.filled += piece;
        if filling.filled == self.segment_bytes {
            self.filling = None;
            self.epoch += 1;
            self.rename(&path, &self.shared.folder.join(segment::spare_name(self.epoch)))?;
            self.spares.push(self.epoch);
        }
        Ok(())
    }

    fn drop_filling(&mut self) -> Result<(), Stop> {
        if self.filling.take().is_some() {
            let path = self.shared.folder.join("filling");
            let removed = self.shared.disk.remove(&path);
            removed.map_err(|error| stop("remove", &path, error))?;
            self.shared.budget.give_back(self.segment_bytes);
        }
        Ok(())
    }

    /// How many segments could be made now.
    pub(super) fn creatable(&mut self) -> u64 {
        let now = self.shared.disk.uptime();
        if self.full_until.is_some_and(|until| now < until) {
            return 0;
        }
        self.full_until = None;
        // A file system that cannot say how much it has left is not trusted with more.
        let free = self.shared.disk.free_bytes(&self.shared.folder).unwrap_or_default();
        self.shared.budget.segments(free)
    }

    /// Makes spares of segments that the cursor on disk has left behind, or removes them.
    pub(super) fn recycle(&mut self) -> Result<(), Stop> {
        loop {
            // Off the books first: a reader that finds strange bytes asks there whether they should trouble it.
            let Some(part) = locked(&self.shared.ledger).take_done(self.saved_low) else {
                return Ok(());
            };
            let path = self.shared.folder.join(segment::name(part.epoch));
            if part.file_bytes == self.segment_bytes && self.spares.len() < SPARES_MAX {
                let spare = self.shared.folder.join(segment::spare_name(part.epoch));
                self.rename(&path, &spare)?;
                self.spares.insert(0, part.epoch);
            } else {
                self.shared
                    .disk
                    .remove(&path)
                    .map_err(|error| stop("remove", &path, error))?;
                self.sync_folder()?;
                self.shared.budget.give_back(part.file_bytes);
            }
        }
    }
}
