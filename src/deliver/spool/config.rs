//! The `[spool]` section, and what is wrong with it.
//!
//! Every limit of the spool is here: bytes on disk and in memory, the size of a segment and of an entry, how long a group
//! waits, and how many files are held open.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::operate::mistake::Mistakes;

/// The `[spool]` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether readings that Kafka does not accept are kept on disk; otherwise they are answered busy.
    pub enabled: bool,
    /// Where they are kept. The folder is made if its parent exists; nothing else may be in it.
    pub folder: PathBuf,
    /// Disk space for it, at most. When it is used up, new readings are answered busy.
    pub bytes_max: ByteSize,
    /// Disk space of the file system that is left to others.
    pub free_bytes_min: ByteSize,
    /// Size of one file; space is used and released in these steps.
    pub segment_bytes: ByteSize,
    /// How often what waits is written and synced, at most: the delay that a reading pays for sharing an fsync.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub commit_interval: Duration,
    /// Bytes at which a group is written without waiting longer.
    pub commit_bytes: ByteSize,
    /// Bytes waiting to be written, at most; more are answered busy.
    pub queue_bytes: ByteSize,
    /// One entry (a reading with its topic, key and headers), at most.
    pub entry_bytes_max: ByteSize,
    /// Files of the spool that are held open, at most, so that what they hold outlives the removal of their names; a file
    /// descriptor each.
    pub open_segments_max: usize,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Config {
            enabled: true,
            folder: "citygate-spool".into(),
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
    /// What is wrong with this section, each mistake starting with the field's name.
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
