//! The writer's segments: made ahead of their use, used, and used again.
//!
//! A new one is filled with zeros a piece at a time, between groups, under the name `filling`; then it is a spare, and
//! with a header of its own a segment. Folders are synced after every rename, so that no crash leaves a segment that is
//! not one. Segments below the saved cursor become spares again, or are removed when there are enough.

use std::path::Path;

use super::{FULL_RETRY, SHORT_RETRY, Writer};
use crate::deliver::spool::active::{Active, Filling, SPARES_MAX};
use crate::deliver::spool::disk::{DiskFile, Mode, is_gone, is_short, read_full, write_full};
use crate::deliver::spool::error::{Error, Stop, stop};
use crate::deliver::spool::ledger::Part;
use crate::deliver::spool::lock::locked;
use crate::deliver::spool::presence::compare;
use crate::deliver::spool::segment::{self, HEADER_BYTES};

/// Zeros written (and synced) between two groups: a few milliseconds of disk.
const FILL_BYTES: u64 = 256 << 10;

// === impl Writer ===

impl<T: Send + 'static> Writer<T> {
    /// Goes on in a new segment; its first frame will have this sequence.
    pub(super) fn roll(&mut self, sequence: u64) -> Result<(), Stop> {
        if self.spares.is_empty() {
            // Perhaps only the upkeep is behind.
            self.save_cursor()?;
            self.recycle()?;
        }
        loop {
            while self.spares.is_empty() {
                self.fill()?;
            }
            let Some(spare) = self.spares.pop() else {
                return Err(Stop::Full);
            };
            match self.open_segment(spare, sequence) {
                Ok(active) => {
                    let file = active.file.clone();
                    let kept = &self.shared.kept;
                    kept.add(active.epoch, active.path.clone(), active.identity, file);
                    locked(&self.shared.ledger).start(active.epoch, active.capacity);
                    self.active = Some(active);
                    return Ok(());
                }
                Err(Stop::Lost(error)) => {
                    self.watch_all()?;
                    // Only the spare is gone, which held nothing.
                    tracing::warn!(%error, "a spare segment of the spool was removed");
                    self.shared.budget.give_back(self.segment_bytes);
                }
                Err(stop) => {
                    self.spares.push(spare);
                    return Err(stop);
                }
            }
        }
    }

    /// Gives a spare its size back if somebody has cut it: the next start would report a segment that is shorter than it was
    /// made as damaged.
    fn restore_size(&self, file: &dyn DiskFile, path: &Path) -> Result<(), Stop> {
        let last = self.segment_bytes - 1;
        let found = read_full(file, &mut [0], last).map_err(|error| stop("read", path, error))?;
        if found == 0 {
            tracing::warn!(file = %path.display(), "a spare segment of the spool had been cut short");
            write_full(file, &[0], last).map_err(|error| stop("write", path, error))?;
        }
        Ok(())
    }

    /// Turns a spare into a segment. It gets its header while it is still called a spare, and is called a segment once
    /// that is durable: no crash leaves a segment with the header of another epoch.
    fn open_segment(&mut self, spare: u32, sequence: u64) -> Result<Active, Stop> {
        // Under its old name, should that not be durable, it would be found with the header of another epoch.
        self.settle_names()?;
        let from = self.shared.folder.join(segment::spare_name(spare));
        self.epoch += 1;
        let epoch = self.epoch;
        let path = self.shared.folder.join(segment::name(epoch));
        let disk = &*self.shared.disk;
        let file = disk
            .open(&from, Mode::ReadWrite)
            .map_err(|error| stop("open", &from, error))?;
        self.restore_size(&*file, &from)?;
        let start = segment::start(epoch, self.segment_bytes, self.shared.clock.wall_ms(), sequence);
        let identity = file.identity().map_err(|error| stop("look at", &from, error))?;
        write_full(&*file, &start, 0).map_err(|error| stop("write", &from, error))?;
        file.sync().map_err(|error| stop("sync", &from, error))?;
        self.rename(&from, &path)?;
        Ok(Active {
            epoch,
            path,
            file: file.into(),
            identity,
            offset: HEADER_BYTES as u64,
            capacity: self.segment_bytes,
            torn_to: None,
        })
    }

    /// The new name counts once it is [durable](Writer::settle_names).
    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Stop> {
        let disk = &*self.shared.disk;
        disk.rename(from, to).map_err(|error| stop("rename", from, error))?;
        self.names_changed = true;
        Ok(())
    }

    /// Makes durable what was renamed and removed, if anything was.
    pub(super) fn settle_names(&mut self) -> Result<(), Stop> {
        if !self.names_changed {
            return Ok(());
        }
        let folder = &self.shared.folder;
        let synced = self.shared.disk.sync_folder(folder);
        synced.map_err(|error| stop("sync the folder", folder, error))?;
        self.names_changed = false;
        self.shared.budget.give_back(std::mem::take(&mut self.removed_bytes));
        Ok(())
    }

    /// Writes a piece of a new spare's zeros. Over written blocks, an fsync later has no metadata to commit; and a disk
    /// that is full says so here, where nobody waits.
    pub(super) fn fill(&mut self) -> Result<(), Stop> {
        let filled = self.fill_piece();
        let now = self.shared.disk.uptime();
        match filled {
            Err(Stop::Full) => {
                self.full_until = Some(now + FULL_RETRY);
                self.drop_filling()?;
            }
            // What is written stays, and is continued.
            Err(Stop::Short(_)) => self.fill_short_until = Some(now + SHORT_RETRY),
            Err(Stop::Lost(_)) => {
                self.watch_all()?;
                // Only what was being made is gone.
                self.drop_filling()?;
                return Err(Stop::Full);
            }
            _ => {}
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
                    Err(error) => {
                        self.shared.budget.give_back(self.segment_bytes);
                        return Err(self.not_created(&path, error));
                    }
                }
            }
        };
        let piece = (self.segment_bytes - filling.filled).min(FILL_BYTES);
        if piece > 0 {
            let zeros = vec![0; piece as usize];
            write_full(&*filling.file, &zeros, filling.filled).map_err(|error| stop("write", &path, error))?;
            filling.file.sync().map_err(|error| stop("sync", &path, error))?;
            filling.filled += piece;
        }
        if filling.filled == self.segment_bytes {
            let epoch = self.epoch + 1;
            self.rename(&path, &self.shared.folder.join(segment::spare_name(epoch)))?;
            self.filling = None;
            self.epoch = epoch;
            self.spares.push(epoch);
            self.settle_names()?;
        }
        Ok(())
    }

    fn not_created(&self, path: &Path, error: std::io::Error) -> Stop {
        match stop("create", path, error) {
            // No entry depends on it: whatever else the reason, there is no room for now.
            Stop::Failed(error) => {
                tracing::warn!(%error, "spool segment could not be created");
                Stop::Full
            }
            stop => stop,
        }
    }

    fn drop_filling(&mut self) -> Result<(), Stop> {
        if self.filling.is_none() {
            return Ok(());
        }
        let path = self.shared.folder.join("filling");
        match self.shared.disk.remove(&path) {
            Err(error) if !is_gone(&error) => return Err(stop("remove", &path, error)),
            _ => {}
        }
        self.filling = None;
        self.shared.budget.give_back(self.segment_bytes);
        Ok(())
    }

    /// How many segments could be made now.
    pub(super) fn creatable(&mut self) -> u64 {
        let now = self.shared.disk.uptime();
        if self.full_until.is_some_and(|until| now < until) {
            return 0;
        }
        self.full_until = None;
        if self.fill_short_until.is_some_and(|until| now < until) {
            return 0;
        }
        let free = self.shared.disk.free_bytes(&self.shared.folder);
        match free {
            Err(error) if is_short(&error) => {
                self.fill_short_until = Some(now + SHORT_RETRY);
                self.short(&Error::io("ask for the room of", &self.shared.folder.clone(), error));
                0
            }
            // A file system that cannot say how much it has left is not trusted with more.
            free => self.shared.budget.segments(free.unwrap_or_default()),
        }
    }

    /// Makes spares of segments that the cursor on disk has left behind, or removes them.
    pub(super) fn recycle(&mut self) -> Result<(), Stop> {
        loop {
            self.settle_names()?;
            // Out of the ledger first: a reader that finds strange bytes asks there whether they should trouble it.
            let left = self.to_remove.take();
            let Some(part) = left.or_else(|| locked(&self.shared.ledger).take_done(self.saved_low)) else {
                return Ok(());
            };
            if let Err(stop) = self.recycle_one(&part) {
                self.to_remove = Some(part);
                return Err(stop);
            }
            self.shared.kept.remove(part.epoch);
        }
    }

    fn recycle_one(&mut self, part: &Part) -> Result<(), Stop> {
        let path = self.segment_path(part.epoch);
        if let Some(watched) = self.shared.kept.get(part.epoch) {
            // What somebody else put there is not ours to use or to remove.
            compare(&*self.shared.disk, &path, watched.identity)?;
        }
        if part.file_bytes == self.segment_bytes && self.spares.len() < SPARES_MAX {
            let spare = self.shared.folder.join(segment::spare_name(part.epoch));
            self.rename(&path, &spare)?;
            self.spares.insert(0, part.epoch);
        } else {
            let removed = self.shared.disk.remove(&path);
            removed.map_err(|error| stop("remove", &path, error))?;
            self.names_changed = true;
            self.removed_bytes += part.file_bytes;
        }
        Ok(())
    }
}
