//! Places where the disk did not keep what it was given, and what a start reports of them.
//!
//! Each is logged once with file, offset and length, and its bytes are kept aside if the budget has room for them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::budget::Budget;
use super::disk::{Disk, Mode, write_full};

/// What was found at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Entries that wait for their replay.
    pub entries: u64,
    /// Their bytes on disk (an estimate within a segment that is partly done).
    pub bytes: u64,
    /// Arrival of the oldest, up to a second too early; milliseconds since the Unix epoch.
    pub oldest_ms: Option<i64>,
    /// Acknowledged entries may be among what is missing: an operator should look.
    pub damage: Vec<Damage>,
    /// Bytes behind the last good frame, at most: the last write before a crash, never acknowledged. They are cut.
    pub torn_tail_bytes: u64,
}

/// A place where the disk did not keep what it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: PathBuf,
    pub offset: u64,
    /// 0: the bytes themselves are gone, as when a file was removed.
    pub bytes: u64,
    /// Sequences of the entries that are lost with it; empty if none is, or if nobody knows (if the cursor is lost, too:
    /// how many were in front of the first that was found).
    pub missing: Range<u64>,
    /// It lies in the last group before a crash: torn rather than damaged, perhaps never acknowledged.
    pub maybe_unacknowledged: bool,
    /// Nobody knows how many entries were there: of the end of the newest segment no later one tells, and of the oldest
    /// none if the cursor is damaged, too.
    pub more_unknown: bool,
    /// Where the bad bytes were copied to; `None` if there was no room for them, or nothing to copy.
    pub kept_aside: Option<PathBuf>,
}

// === impl Damage ===

impl Damage {
    pub(super) fn new(file: &Path) -> Self {
        Damage {
            file: file.to_owned(),
            offset: 0,
            bytes: 0,
            missing: 0..0,
            maybe_unacknowledged: false,
            more_unknown: false,
            kept_aside: None,
        }
    }

    /// A file in which nothing can be read.
    pub(super) fn of_gone(file: &Path, bytes: u64, aside: &Path) -> Self {
        Damage {
            bytes,
            more_unknown: true,
            kept_aside: Some(aside.to_owned()),
            ..Damage::new(file)
        }
    }

    /// Entries known to be lost.
    pub fn entries(&self) -> u64 {
        self.missing.end - self.missing.start
    }

    pub(super) fn log(&self) {
        tracing::error!(
            file = %self.file.display(),
            offset = self.offset,
            bytes = self.bytes,
            entries = self.entries(),
            more_unknown = self.more_unknown,
            maybe_unacknowledged = self.maybe_unacknowledged,
            kept_aside = self.kept_aside.as_deref().map(|path| tracing::field::display(path.display())),
            "the spool is damaged; what is good is replayed"
        );
    }
}

/// Copies damaged bytes aside, if the budget has room for them. That it cannot is no reason not to go on.
pub(super) fn keep_aside(disk: &dyn Disk, budget: &Budget, damage: Damage, bad: &[u8]) -> Damage {
    let what = damage.offset.to_string();
    keep_aside_as(disk, budget, damage, &what, bad)
}

pub(super) fn keep_aside_as(disk: &dyn Disk, budget: &Budget, mut damage: Damage, what: &str, bad: &[u8]) -> Damage {
    let name = damage.file.file_stem().unwrap_or_default().to_string_lossy();
    let aside = damage.file.with_file_name(format!("{name}-{what}.damaged"));
    if bad.is_empty() {
        return damage;
    }
    if disk.open(&aside, Mode::Read).is_ok() {
        damage.kept_aside = Some(aside); // by an earlier start
        return damage;
    }
    if !budget.take(bad.len() as u64) {
        return damage;
    }
    let folder = aside.parent().unwrap_or(Path::new("."));
    let copied = disk.open(&aside, Mode::Create).and_then(|file| {
        write_full(&*file, bad, 0)?;
        file.sync()?;
        disk.sync_folder(folder)
    });
    match copied {
        Ok(()) => damage.kept_aside = Some(aside),
        Err(error) => {
            tracing::warn!(%error, file = %aside.display(), "damaged bytes of the spool could not be kept aside");
            if disk.remove(&aside).is_ok() {
                budget.give_back(bad.len() as u64);
            }
        }
    }
    damage
}
