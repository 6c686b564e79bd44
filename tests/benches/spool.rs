//! What a group costs in the spool, against the least that the disk asks for: a plain loop of append and `fdatasync`.
//!
//! `cargo bench --bench spool`, less than a minute; BENCH_FOLDER chooses the disk. Both sides write the same
//! entries in groups of the same size, in turns of a few groups, so that the ratio stands whatever else the machine
//! does. Entries are appended while the group before is on its way to the disk, as devices do; a turn ends when all of
//! it is durable and told. Nothing here is asserted: a bench is not a test.

// `unwrap` is how a bench says what must not fail.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use citygate::deliver::spool::{self, Config, Failure, RealDisk, Spool, Status, frame};
use citygate::operate::clock::SystemClock;
use tempfile::TempDir;

/// A reading with its topic, key and headers.
const ENTRY_BYTES: usize = 320;
const FRAME_BYTES: usize = frame::HEADER_BYTES + ENTRY_BYTES;
const SEGMENT_BYTES: usize = 16 << 20;
/// Entries in a group.
const GROUPS: [usize; 3] = [64, 256, 1024];
/// Groups that a side writes before it is another's turn.
const TURN: usize = 16;
/// A comparison ends after so many turns, or so long.
const TURNS: usize = 60;
const TIME_MAX: Duration = Duration::from_secs(6);

/// Whether the spool's segments were written to before.
#[derive(Clone, Copy, PartialEq)]
enum Segments {
    /// They were: what was in them is in Kafka.
    Recycled,
    /// Kafka is unavailable: new ones are filled with zeros, between the groups.
    New,
}

/// The spool, and how it tells of its groups.
struct Bench {
    spool: Spool<()>,
    folder: PathBuf,
    told: Receiver<usize>,
    /// Bytes of frames since the segments were recycled.
    bytes: usize,
}

/// The loop: a file of a segment's size that is written again and again, or one that grows.
struct Plain {
    path: PathBuf,
    grows: bool,
    file: File,
    offset: usize,
    buffer: Vec<u8>,
}

/// What a comparison found, turn by turn.
#[derive(Default)]
struct Found {
    against_growing: Vec<f64>,
    against_zeros: Vec<f64>,
    fsyncs_per_s: Vec<f64>,
    fsync_us: f64,
    entries_per_fsync: f64,
}

// === impl Bench ===

impl Bench {
    fn open(parent: &Path, group: usize) -> Self {
        let folder = parent.join("spool");
        let group_bytes = ByteSize::b((group * FRAME_BYTES) as u64);
        let config = Config {
            folder: folder.clone(),
            bytes_max: ByteSize::gib(2),
            segment_bytes: ByteSize::b(SEGMENT_BYTES as u64),
            // A group is written when it is whole, and no more than one waits.
            commit_bytes: group_bytes,
            queue_bytes: group_bytes,
            commit_interval: Duration::from_secs(1),
            ..Config::default()
        };
        let (sender, told) = channel();
        let done = move |entries: Vec<((), Result<u64, Failure>)>| {
            assert!(entries.iter().all(|(_, result)| result.is_ok()));
            sender.send(entries.len()).unwrap();
        };
        let (spool, _) = spool::open(&config, Arc::new(RealDisk::default()), Arc::new(SystemClock), done).unwrap();
        Bench {
            spool,
            folder,
            told,
            bytes: 0,
        }
    }

    /// Appends so many groups, and waits until the last is durable.
    fn turn(&mut self, entries: Vec<Vec<u8>>) -> Duration {
        let mut waiting = entries.len();
        self.bytes += waiting * FRAME_BYTES;
        let started = Instant::now();
        for entry in entries {
            let mut refused = self.spool.append(entry, ());
            while let Err(((), entry, failure)) = refused {
                assert_eq!(failure, Failure::Busy);
                std::thread::yield_now();
                refused = self.spool.append(entry, ());
            }
        }
        while waiting > 0 {
            waiting -= self.told.recv().unwrap();
        }
        started.elapsed()
    }

    /// All of it is in Kafka. Returns when two segments can be used again.
    fn recycle(&mut self) {
        let status = self.spool.status();
        self.spool.commit_all(status.low_sequence..status.next_sequence);
        self.bytes = 0;
        let spares = || {
            let names = std::fs::read_dir(&self.folder).unwrap();
            let names = names.map(|entry| PathBuf::from(entry.unwrap().file_name()));
            names
                .filter(|name| name.extension().is_some_and(|end| end == "spare"))
                .count()
        };
        while spares() < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

// === impl Plain ===

impl Plain {
    fn new(path: PathBuf, grows: bool) -> Self {
        let file = File::create(&path).unwrap();
        if !grows {
            file.write_all_at(&vec![0; SEGMENT_BYTES], 0).unwrap();
        }
        file.sync_all().unwrap();
        Plain {
            path,
            grows,
            file,
            offset: 0,
            buffer: Vec::new(),
        }
    }

    fn turn(&mut self, entries: &[Vec<u8>], group: usize) -> Duration {
        if self.offset + entries.len() * FRAME_BYTES > SEGMENT_BYTES {
            *self = Plain {
                offset: 0,
                ..Plain::new(self.path.clone(), self.grows)
            };
        }
        let started = Instant::now();
        for group in entries.chunks(group) {
            self.buffer.clear();
            for entry in group {
                self.buffer.extend_from_slice(&[0; frame::HEADER_BYTES]);
                self.buffer.extend_from_slice(entry);
            }
            self.file.write_all_at(&self.buffer, self.offset as u64).unwrap();
            self.file.sync_data().unwrap();
            self.offset += self.buffer.len();
        }
        started.elapsed()
    }
}

fn compare(parent: &Path, group: usize, segments: Segments) -> Found {
    let folder = TempDir::new_in(parent).unwrap();
    let mut growing = Plain::new(folder.path().join("growing"), true);
    let mut zeros = Plain::new(folder.path().join("zeros"), false);
    let mut bench = Bench::open(folder.path(), group);
    let entries = |count: usize| (0..count).map(|at| vec![at as u8; ENTRY_BYTES]).collect::<Vec<_>>();
    if segments == Segments::Recycled {
        // Three segments: one is written to, two can be used again.
        let groups = 5 * SEGMENT_BYTES / 2 / FRAME_BYTES / group;
        bench.turn(entries(groups * group));
        bench.recycle();
    }
    let mut found = Found::default();
    let before = bench.spool.status();
    let began = Instant::now();
    while found.fsyncs_per_s.len() < TURNS && began.elapsed() < TIME_MAX {
        if segments == Segments::Recycled && bench.bytes > SEGMENT_BYTES {
            bench.recycle();
        }
        let entries = entries(TURN * group);
        let growing = growing.turn(&entries, group).as_secs_f64();
        let zeros = zeros.turn(&entries, group).as_secs_f64();
        let spool = bench.turn(entries).as_secs_f64();
        found.against_growing.push(growing / spool);
        found.against_zeros.push(zeros / spool);
        found.fsyncs_per_s.push(TURN as f64 / spool);
    }
    let after = bench.spool.status();
    let fsyncs = (after.fsyncs - before.fsyncs) as f64;
    found.fsync_us = (after.fsyncs_total - before.fsyncs_total).as_secs_f64() * 1e6 / fsyncs;
    found.entries_per_fsync = (after.next_sequence - before.next_sequence) as f64 / fsyncs;
    found
}

/// The median, and between which values half of them lie.
fn quartiles(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
    format!("{:.digits$} ({:.digits$}-{:.digits$})", at(2), at(1), at(3))
}

/// Bytes of disk for a byte of entries, after two segments and a half: of frames, and with all that is kept ready.
fn bytes_per_byte(parent: &Path) -> (f64, f64) {
    let folder = TempDir::new_in(parent).unwrap();
    let group = 1024;
    let mut bench = Bench::open(folder.path(), group);
    let groups = 5 * SEGMENT_BYTES / 2 / FRAME_BYTES / group;
    bench.turn(vec![vec![7; ENTRY_BYTES]; groups * group]);
    let Status {
        uncommitted_bytes,
        disk_bytes,
        ..
    } = bench.spool.status();
    let entries = (groups * group * ENTRY_BYTES) as f64;
    (uncommitted_bytes as f64 / entries, disk_bytes as f64 / entries)
}

/// The type of the file system that a folder is on.
fn file_system(folder: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let under = mounts.filter(|(at, _)| folder.starts_with(at));
    let deepest = under.max_by_key(|(at, _)| at.len());
    deepest.map_or_else(|| "unknown".into(), |(_, kind)| kind.to_owned())
}

fn main() {
    let chosen = std::env::var_os("BENCH_FOLDER").map(PathBuf::from);
    let folder = chosen.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let folder = folder.canonicalize().unwrap();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "cargo bench --bench spool: {cores} cores, {}, entries of {ENTRY_BYTES} bytes",
        file_system(&folder)
    );
    println!("groups a second, the spool's over a plain loop's: median of all turns (half of them)\n");
    println!(
        "{:>6}  {:<9} {:<20} {:<18} {:<18} {:>9} {:>14}  turns",
        "group", "segments", "over a growing file", "over one of zeros", "fsyncs/s", "fsync us", "entries/fsync"
    );
    for (segments, name) in [(Segments::Recycled, "recycled"), (Segments::New, "new")] {
        for group in GROUPS {
            let found = compare(&folder, group, segments);
            let turns = found.fsyncs_per_s.len();
            println!(
                "{group:>6}  {name:<9} {:<20} {:<18} {:<18} {:>9.0} {:>14.0}  {turns}",
                quartiles(found.against_growing, 2),
                quartiles(found.against_zeros, 2),
                quartiles(found.fsyncs_per_s, 0),
                found.fsync_us,
                found.entries_per_fsync,
            );
        }
    }
    let (frames, disk) = bytes_per_byte(&folder);
    println!("\nbytes on disk per byte of entries: {frames:.3} in frames, {disk:.3} with the segments kept ready");
}
