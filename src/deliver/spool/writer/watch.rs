//! The writer looks whether the files that are open are still the ones at their paths.
//!
//! With every group the one that is written to, and once a second all others (`presence` has them). On a difference
//! nothing more is acknowledged.

use std::path::PathBuf;

use super::Writer;
use crate::deliver::spool::disk::Mode;
use crate::deliver::spool::error::Stop;
use crate::deliver::spool::presence::{Watched, compare};
use crate::deliver::spool::segment;

/// Files compared then, at most.
const WATCHED_AT_ONCE: usize = 64;

// === impl Writer ===

impl<T: Send + 'static> Writer<T> {
    /// Compares the file that is written to.
    pub(super) fn watch_group(&self) -> Result<(), Stop> {
        match &self.active {
            Some(active) => compare(&*self.shared.disk, &active.path, active.identity),
            None => Ok(()),
        }
    }

    /// Compares the next file in turn: every segment, and the cursor.
    fn watch_next(&mut self) -> Result<(), Stop> {
        match self.shared.kept.after(self.watched) {
            // Behind the last segment comes the cursor.
            Some((epoch, watched)) if epoch > self.watched => {
                self.watched = epoch;
                compare(&*self.shared.disk, &watched.path, watched.identity)
            }
            _ => {
                self.watched = 0;
                compare(&*self.shared.disk, &self.cursor_path(), self.cursor.identity())
            }
        }
    }

    /// Compares all files, if there are not very many; otherwise the next ones in turn. To be called now and then.
    pub(super) fn watch_many(&mut self) -> Result<(), Stop> {
        for _ in 0..=self.shared.kept.len().min(WATCHED_AT_ONCE) {
            self.watch_next()?;
        }
        if let Some((epoch, watched)) = self.shared.kept.next_to_open() {
            self.hold(epoch, watched)?;
        }
        self.watched_at = Some(self.shared.disk.uptime());
        Ok(())
    }

    /// Compares all files, however many.
    pub(super) fn watch_all(&mut self) -> Result<(), Stop> {
        (0..=self.shared.kept.len()).try_for_each(|_| self.watch_next())
    }

    /// Opens a segment for which there was no room before. Short of descriptors, it stays as it is.
    fn hold(&self, epoch: u32, watched: Watched) -> Result<(), Stop> {
        let disk = &*self.shared.disk;
        let Ok(file) = disk.open(&watched.path, Mode::ReadWrite) else {
            return compare(disk, &watched.path, watched.identity);
        };
        let Ok(found) = file.identity() else {
            return compare(disk, &watched.path, watched.identity);
        };
        if found != watched.identity {
            return compare(disk, &watched.path, watched.identity);
        }
        let file = Some(file.into());
        self.shared.kept.replace(epoch, Watched { file, ..watched });
        Ok(())
    }

    pub(super) fn cursor_path(&self) -> PathBuf {
        self.shared.folder.join("cursor")
    }

    pub(super) fn segment_path(&self, epoch: u32) -> PathBuf {
        self.shared.folder.join(segment::name(epoch))
    }
}
