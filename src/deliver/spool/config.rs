//! The `[spool]` section, and what is wrong with it.
//!
//! Every limit of the spool is here: bytes on disk and in memory, the size of a segment and of an entry, how long a group
//! waits, and how many files are held open.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::operate::mistake::Mistakes;

/// The `[spool]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Write readings to disk while Kafka does not accept them; otherwise they are answered busy.
    pub enabled: bool,
    /// Folder of the spool; created if its parent exists, and nothing else may be in it. By default `spool/` in
    /// `state_dir`.
    pub folder: PathBuf,
    /// Maximum disk space; beyond it new readings are answered busy.
    pub bytes_max: ByteSize,
    /// Free space of the file system that is left to others.
    pub free_bytes_min: ByteSize,
    /// Size of a segment file; disk space is allocated and freed in these steps.
    pub segment_bytes: ByteSize,
    /// Maximum time a reading waits to share an fsync.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub commit_interval: Duration,
    /// Bytes at which a group is written without waiting longer.
    pub commit_bytes: ByteSize,
    /// Maximum bytes that wait to be written; further readings are answered busy.
    pub queue_bytes: ByteSize,
    /// Maximum size of one reading with its topic, key and headers.
    pub entry_bytes_max: ByteSize,
    /// Maximum segment files held open, each a file descriptor; what they hold survives the removal of their names.
    pub open_segments_max: usize,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Config {
            enabled: true,
            folder: "citygate-state/spool".into(),
            bytes_max: ByteSize::gib(1),
            free_bytes_min: ByteSize::mib(64),
            segment_bytes: ByteSize::mib(16),
            commit_interval: Duration::from_millis(5),
            commit_bytes: ByteSize::kib(256),
            queue_bytes: ByteSize::mib(64),
            entry_bytes_max: ByteSize::mib(2),
            open_segments_max: 256,
        }
    }
}

impl Config {
    /// What is wrong with this table.
    pub fn mistakes(&self) -> Mistakes {
        let mut mistakes = Mistakes::default();
        let mut require = |good: bool, path: &str, text: &str| mistakes.require(good, path, text);
        require(!self.folder.as_os_str().is_empty(), "spool.folder", "is empty");
        require(
            (ByteSize::kib(64)..=ByteSize::gib(1)).contains(&self.segment_bytes),
            "spool.segment_bytes",
            "must be between 64 KiB and 1 GiB",
        );
        require(
            self.bytes_max.as_u64() / 2 >= self.segment_bytes.as_u64(),
            "spool.bytes_max",
            "must be at least twice spool.segment_bytes",
        );
        require(
            self.entry_bytes_max >= ByteSize::kib(1)
                && self.entry_bytes_max.as_u64().saturating_add(1024) <= self.segment_bytes.as_u64(),
            "spool.entry_bytes_max",
            "must be at least 1 KiB, and 1 KiB less than spool.segment_bytes",
        );
        require(
            self.queue_bytes.as_u64() >= self.entry_bytes_max.as_u64().saturating_add(1024)
                && self.queue_bytes <= ByteSize::gib(1),
            "spool.queue_bytes",
            "must be 1 KiB more than spool.entry_bytes_max, and at most 1 GiB",
        );
        require(
            self.commit_bytes >= ByteSize::b(1) && self.commit_bytes <= self.queue_bytes,
            "spool.commit_bytes",
            "must be at least 1 byte and at most spool.queue_bytes",
        );
        require(
            (1..=100_000).contains(&self.open_segments_max),
            "spool.open_segments_max",
            "must be between 1 and 100000",
        );
        require(
            self.commit_interval <= Duration::from_secs(1),
            "spool.commit_interval",
            "must be at most 1s",
        );
        mistakes
    }
}
