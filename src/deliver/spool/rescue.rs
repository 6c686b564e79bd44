//! How far the rescue is: what was acknowledged is written anew after its files were removed or moved.
//!
//! The writer does it (`writer::rescue_files`); the end of the process waits for it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::segment::Kind;

/// How long the end of the process waits for a rescue that makes no progress.
pub(super) const RESCUE_TIMEOUT: Duration = Duration::from_secs(10);
/// Folders tried beside one that is another's.
pub(super) const FOLDERS_MAX: usize = 100;
/// How often it is logged how far it is.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// How far the rescue is, for those who wait for its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rescue {
    /// Acknowledged readings are not safe yet.
    pub is_running: bool,
    /// Counts up with every piece that is copied: as long as it does, there is progress.
    pub steps: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Where the readings are written to, once that is known.
    pub folder: Option<PathBuf>,
    /// Why it does not go on at the moment.
    pub waits_for: Option<String>,
    logged: Option<Instant>,
}

// === impl Rescue ===

impl Rescue {
    pub(super) fn logs(&mut self) -> bool {
        let logs = self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL);
        if logs {
            self.logged = Some(Instant::now());
        }
        logs
    }
}

/// The folder of this number beside one that is another's.
pub(super) fn beside(folder: &Path, number: usize) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(format!(".rescued-{number}"));
    folder.with_file_name(name)
}

/// Folders beside this one into which readings were saved when something else stood in its place, and that hold segments. No
/// start reads them: an operator must say so.
pub fn left_beside(folder: &Path, disk: &dyn Disk) -> Vec<PathBuf> {
    let holds_segments = |candidate: &PathBuf| {
        let listed = disk.list(candidate).unwrap_or_default();
        let mut kinds = listed.iter().filter_map(|file| Kind::of(&file.name));
        kinds.any(|kind| matches!(kind, Kind::Segment(_)))
    };
    let candidates = (1..FOLDERS_MAX).map(|number| beside(folder, number));
    candidates.filter(holds_segments).collect()
}
