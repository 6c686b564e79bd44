//! Whether the files that are open are still the ones at their paths; and the segments with readings, held open.
//!
//! A folder that is removed, renamed or replaced under the running gateway takes nothing away from open files: they go on
//! being written, fsynced and acknowledged, and nobody will ever find them again. So with every group the file that is
//! written to is compared with what its path names (device, inode), and all others once a second. What was acknowledged
//! until then is read through the descriptors that are kept here, and written anew (`rescue`).

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::disk::{Disk, DiskFile, Identity, Mode, is_short};
use super::error::{Error, Stop, stop};
use super::lock::locked;

/// How often all files are compared.
pub(super) const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The segments that the ledger has, by epoch.
#[derive(Debug)]
pub(super) struct Kept {
    segments: Mutex<BTreeMap<u32, Watched>>,
    /// So many are held open, at most; of the others only the identity is known.
    open_max: usize,
}

/// A file, where it belongs, and what it is.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) file: Option<Arc<dyn DiskFile>>,
}

// === impl Kept ===

impl Kept {
    pub(super) fn new(open_max: usize) -> Self {
        Kept {
            segments: Mutex::default(),
            open_max,
        }
    }

    /// A segment that holds readings, or is about to. Its file is held open if there are not too many already.
    pub(super) fn add(&self, epoch: u32, path: PathBuf, identity: Identity, file: Arc<dyn DiskFile>) {
        let mut segments = locked(&self.segments);
        let open = segments.values().filter(|watched| watched.file.is_some()).count();
        let file = (open < self.open_max).then_some(file);
        segments.insert(epoch, Watched { path, identity, file });
    }

    /// Opens and adds a segment that a start found.
    pub(super) fn find(&self, disk: &dyn Disk, path: PathBuf, epoch: u32) -> Result<(), Error> {
        let failed = |error| Error::io("open", &path, error);
        // As it will be written, if ever: on a layered file system that may be another file than the one read.
        let file: Arc<dyn DiskFile> = disk.open(&path, Mode::ReadWrite).map_err(failed)?.into();
        let identity = file.identity().map_err(failed)?;
        self.add(epoch, path, identity, file);
        Ok(())
    }

    /// A segment is written anew, in another file.
    pub(super) fn replace(&self, epoch: u32, watched: Watched) {
        locked(&self.segments).insert(epoch, watched);
    }

    /// The segment holds nothing that is needed.
    pub(super) fn remove(&self, epoch: u32) {
        locked(&self.segments).remove(&epoch);
    }

    pub(super) fn get(&self, epoch: u32) -> Option<Watched> {
        locked(&self.segments).get(&epoch).cloned()
    }

    /// The segment's file, if it is held open.
    pub(super) fn file(&self, epoch: u32) -> Option<Arc<dyn DiskFile>> {
        locked(&self.segments)
            .get(&epoch)
            .and_then(|watched| watched.file.clone())
    }

    pub(super) fn len(&self) -> usize {
        locked(&self.segments).len()
    }

    /// The one behind this epoch; after the last, the first.
    pub(super) fn after(&self, epoch: u32) -> Option<(u32, Watched)> {
        let segments = locked(&self.segments);
        let mut behind = segments.range((Excluded(epoch), Unbounded));
        let next = behind.next().or_else(|| segments.first_key_value());
        next.map(|(epoch, watched)| (*epoch, watched.clone()))
    }

    /// The oldest segment that is not held open though there is room for it.
    pub(super) fn next_to_open(&self) -> Option<(u32, Watched)> {
        let segments = locked(&self.segments);
        let open = segments.values().filter(|watched| watched.file.is_some()).count();
        let mut closed = segments.iter().filter(|(_, watched)| watched.file.is_none());
        let next = closed.next().filter(|_| open < self.open_max);
        next.map(|(epoch, watched)| (*epoch, watched.clone()))
    }
}

/// Compares what a path names with what is open.
pub(super) fn compare(disk: &dyn Disk, path: &Path, open: Identity) -> Result<(), Stop> {
    let lost = |why: &str| {
        let source = std::io::Error::new(std::io::ErrorKind::NotFound, why.to_owned());
        Err(Stop::Lost(Error::io("find", path, source)))
    };
    match disk.identity(path) {
        Ok(Some(there)) if there == open => Ok(()),
        Ok(Some(_)) => lost("another file stands in its place"),
        Ok(None) => lost("it was removed, or its folder was removed or renamed"),
        Err(error) if is_short(&error) => Err(stop("look at", path, error)),
        // A network file system may not answer for a moment (ESTALE, EIO, ETIMEDOUT), and it may be gone for good.
        Err(error) => Err(Stop::Unsure(Error::io("look at", path, error))),
    }
}
