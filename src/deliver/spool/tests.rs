//! The spool on a real disk, with its writer thread: what the gateway sees of it. Appends are answered in order and
//! only when they are durable, and what was acknowledged is read again after a restart. Crashes and faults of the disk
//! belong to the simulation (`tests/simulation`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use bytesize::ByteSize;

use super::disk::{DiskFile, Identity, Listed, Lock, Mode};
use super::*;
use crate::operate::clock::SystemClock;

pub(in crate::deliver) type Results = Receiver<Vec<(u32, Result<u64, Failure>)>>;

pub(in crate::deliver) fn config(folder: &Path) -> Config {
    Config {
        folder: folder.join("spool"),
        segment_bytes: ByteSize::kib(64),
        bytes_max: ByteSize::kib(256),
        entry_bytes_max: ByteSize::kib(16),
        free_bytes_min: ByteSize::b(0),
        commit_interval: Duration::from_millis(1),
        ..Config::default()
    }
}

pub(in crate::deliver) fn start(
    config: &Config,
    disk: Arc<dyn Disk>,
) -> Result<(Spool<u32>, Recovery, Results), Error> {
    let (sender, results) = channel();
    let done = move |group| drop(sender.send(group));
    let (spool, recovery) = open(config, disk, Arc::new(SystemClock), done)?;
    Ok((spool, recovery, results))
}

fn start_real(config: &Config) -> (Spool<u32>, Recovery, Results) {
    start(config, Arc::new(RealDisk::default())).unwrap()
}

/// The results of the next group.
fn wait_group(results: &Results) -> Vec<(u32, Result<u64, Failure>)> {
    results.recv_timeout(Duration::from_secs(30)).unwrap()
}

/// The results of so many appends, in order.
fn wait(results: &Results, count: usize) -> Vec<(u32, Result<u64, Failure>)> {
    let mut told = Vec::new();
    while told.len() < count {
        told.extend(wait_group(results));
    }
    told
}

/// Comes back when exactly so many entries can be read, from the oldest on. Their owners are told first, so that a
/// thread that was told may look too early.
fn wait_until_readable(spool: &Spool<u32>, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let readable = spool.read(usize::MAX, usize::MAX).unwrap().len();
        spool.rewind();
        if readable == count {
            return;
        }
        assert!(readable < count && Instant::now() < deadline, "{readable} of {count}");
        std::thread::yield_now();
    }
}

pub(in crate::deliver) fn append_all(spool: &Spool<u32>, results: &Results, entries: std::ops::Range<u32>) {
    let count = entries.len();
    for token in entries {
        spool.append(vec![token as u8; 1000], token).unwrap();
    }
    assert!(wait(results, count).iter().all(|(_, result)| result.is_ok()));
}

/// Every file and what is in it.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.is_file());
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// The oldest segment.
fn segment_in(folder: &Path) -> PathBuf {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|it| it == "segment");
    contents(folder).into_keys().find(is_segment).unwrap()
}

#[test]
fn a_spare_that_was_cut_short_gets_its_size_back() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (spool, _, results) = start_real(&config);
    append_all(&spool, &results, 0..10);
    let deadline = Instant::now() + Duration::from_secs(30);
    let is_spare = |path: &PathBuf| path.extension().is_some_and(|it| it == "spare");
    let spare = loop {
        if let Some(spare) = contents(&config.folder).into_keys().find(is_spare) {
            break spare;
        }
        assert!(Instant::now() < deadline, "no spare");
        std::thread::yield_now();
    };
    std::fs::OpenOptions::new()
        .write(true)
        .open(spare)
        .unwrap()
        .set_len(100)
        .unwrap();
    append_all(&spool, &results, 10..100);
    drop(spool);
    let (_, recovery, _) = start_real(&config);
    assert_eq!((recovery.entries, recovery.damage.len()), (100, 0));
}

#[test]
fn what_was_appended_is_read_in_order_until_it_is_committed() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (spool, recovery, results) = start_real(&config);
    assert_eq!(recovery, Recovery::default());
    for token in 0..100 {
        spool.append(token.to_string().into_bytes(), token).unwrap();
    }
    let (mut told, mut groups) = (Vec::new(), 0);
    while told.len() < 100 {
        told.extend(wait_group(&results));
        groups += 1;
    }
    assert_eq!(told, (0..100).map(|at| (at, Ok(at.into()))).collect::<Vec<_>>());
    wait_until_readable(&spool, 100);
    let read = spool.read(60, usize::MAX).unwrap();
    assert_eq!(read.len(), 60);
    assert_eq!(read[59], (59, b"59".to_vec()));
    assert_eq!(spool.read(1, 1).unwrap(), [(60, b"60".to_vec())], "one, however large");
    spool.commit_all((0..50).chain([62]));
    let rest: Vec<_> = spool
        .read(100, usize::MAX)
        .unwrap()
        .into_iter()
        .map(|(sequence, _)| sequence)
        .collect();
    assert_eq!(rest, [61].into_iter().chain(63..100).collect::<Vec<_>>());
    assert_eq!(spool.read(100, 100).unwrap(), []);
    spool.rewind();
    assert_eq!(spool.read(1, 1).unwrap()[0].0, 50);
    let status = spool.status();
    assert_eq!(
        (status.uncommitted_entries, status.low_sequence, status.next_sequence),
        (49, 50, 100)
    );
    assert_eq!(status.fsyncs, groups);
    assert!(status.oldest_ms.is_some());
    spool.close();
    assert_eq!(spool.append(vec![], 7), Err((7, vec![], Failure::Closed)));

    let (spool, recovery, _results) = start_real(&config);
    assert_eq!(
        (recovery.entries, recovery.damage, recovery.torn_tail_bytes),
        (50, vec![], 0)
    );
    assert_eq!(spool.read(1000, usize::MAX).unwrap().len(), 50);
}

#[test]
fn full_refuses_the_new_and_keeps_the_old_until_it_is_committed() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _, results) = start_real(&config(folder.path()));
    let (mut taken, mut told) = (0, 0);
    let full = loop {
        match spool.append(vec![7; 10_000], taken) {
            Ok(()) => taken += 1,
            Err((_, _, failure)) => break failure,
        }
    };
    assert_eq!(full, Failure::Full);
    let mut durable = Vec::new();
    while told < taken {
        let group = wait_group(&results);
        told += group.len() as u32;
        durable.extend(group.into_iter().filter_map(|(_, result)| result.ok()));
    }
    assert!(
        (20..=26).contains(&durable.len()),
        "256 KiB hold {} entries",
        durable.len()
    );
    assert!(spool.status().disk_bytes <= 256 << 10);
    wait_until_readable(&spool, durable.len());
    spool.commit_all(durable);
    // The writer finds out by itself; until then it is full.
    let mut refused = Some((taken, vec![1; 10_000]));
    while let Some((token, entry)) = refused.take() {
        match spool.append(entry, token) {
            Ok(()) => assert!(wait(&results, 1)[0].1.is_ok()),
            Err((token, entry, failure)) => {
                assert_eq!(failure, Failure::Full);
                std::thread::yield_now();
                refused = Some((token, entry));
            }
        }
    }
    assert!(spool.status().disk_bytes <= 256 << 10);
}

#[test]
fn entries_and_waiting_bytes_are_limited() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        queue_bytes: ByteSize::kib(17),
        ..config(folder.path())
    };
    let disk = Arc::new(RealDisk::default());
    // Without a thread, nothing leaves the queue.
    let (spool, _writer, _) = open_stepwise(&config, disk, Arc::new(SystemClock), |_| {}).unwrap();
    let check = |bytes: usize, expected: Result<(), Failure>| {
        let appended = spool.append(vec![0; bytes], 0);
        assert_eq!(appended.map_err(|(_, _, failure)| failure), expected, "{bytes} bytes");
    };
    check(16 * 1024 + 1, Err(Failure::TooLarge { limit: 16 * 1024 }));
    check(16 * 1024, Ok(()));
    check(2000, Err(Failure::Busy));
    check(500, Ok(()));
}

#[test]
fn what_is_not_ours_ends_the_start_and_is_left_alone() {
    let check = |spoil: &dyn Fn(&Path), expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let (spool, _, results) = start_real(&config);
        append_all(&spool, &results, 0..10);
        drop(spool);
        spoil(&config.folder);
        let before = contents(&config.folder);
        let error = start(&config, Arc::new(RealDisk::default())).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(config.folder.to_str().unwrap()), "{error} names no path");
        assert_eq!(contents(&config.folder), before, "{expected}");
    };
    let patch = |path: &Path, at: u64, bytes: &[u8]| {
        let file = RealDisk::default().open(path, Mode::ReadWrite).unwrap();
        disk::write_full(&*file, bytes, at).unwrap();
    };
    check(
        &|folder| std::fs::write(folder.join("notes.txt"), "mine").unwrap(),
        "is not a file of the spool",
    );
    check(
        &|folder| std::fs::create_dir(folder.join("0000000009.segment")).unwrap(),
        "is not a file of the spool",
    );
    check(
        &|folder| std::fs::write(folder.join("0000000099.segment"), "mine").unwrap(),
        "is not a file of the spool",
    );
    check(
        &|folder| {
            // A header of version 2, with the checksum that belongs to it.
            let path = segment_in(folder);
            let mut header = std::fs::read(&path).unwrap();
            header.truncate(segment::HEADER_BYTES);
            header[8] = 2;
            let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
            patch(&path, 12, &checksum.to_le_bytes());
            patch(&path, 8, &[2]);
        },
        "is of version 2, this program reads version 1",
    );
    check(
        &|folder| {
            let file = folder.join("cursor");
            std::fs::remove_file(&file).unwrap();
            std::fs::create_dir(file).unwrap();
        },
        "is not a file of the spool",
    );
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let parent = tempfile::tempdir().unwrap();
    std::fs::write(parent.path().join("file"), "mine").unwrap();
    let check = |folder: &str, expected: &str| {
        let config = Config {
            folder: parent.path().join(folder),
            ..config(parent.path())
        };
        let error = start(&config, Arc::new(RealDisk::default())).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(folder), "{error}");
    };
    check("missing/spool", "cannot create the folder");
    check("file", "cannot create the folder");
    check("file/spool", "cannot create the folder");
}

#[test]
fn a_second_process_is_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (spool, ..) = start_real(&config);
    let error = start(&config, Arc::new(RealDisk::default())).unwrap_err();
    assert!(error.to_string().contains("is locked by another gateway"), "{error}");
    spool.close();
    start_real(&config);
}

#[test]
fn a_volume_of_its_own_may_be_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("spool/lost+found")).unwrap();
    start_real(&config(folder.path()));
}

#[test]
fn damage_is_kept_aside_and_the_rest_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (spool, _, results) = start_real(&config);
    append_all(&spool, &results, 0..10);
    drop(spool);
    let path = segment_in(&config.folder);
    let bytes = std::fs::read(&path).unwrap();
    let at = segment::HEADER_BYTES as u64 + 3 * 1032;
    let file = RealDisk::default().open(&path, Mode::ReadWrite).unwrap();
    disk::write_full(&*file, b"rot", at + 100).unwrap();
    drop(file);

    let (spool, recovery, _results) = start_real(&config);
    let [damage] = &recovery.damage[..] else {
        panic!("{recovery:?}")
    };
    assert_eq!(
        (&damage.file, damage.offset, damage.bytes, &damage.missing),
        (&path, at, 1032, &(3..4))
    );
    let mut kept = bytes[at as usize..][..1032].to_vec();
    kept[100..103].copy_from_slice(b"rot");
    assert_eq!(std::fs::read(damage.kept_aside.as_ref().unwrap()).unwrap(), kept);
    let read: Vec<_> = spool
        .read(100, usize::MAX)
        .unwrap()
        .into_iter()
        .map(|(sequence, _)| sequence)
        .collect();
    assert_eq!(read, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    assert_eq!((spool.status().damaged_places, spool.status().damaged_entries), (1, 1));
    spool.commit_all(read);
    assert_eq!(spool.status().uncommitted_entries, 0);
    drop(spool);
    assert_eq!(start_real(&config).1, Recovery::default(), "it is reported once");
}

/// What is done to a segment.
#[derive(Clone, Copy, Debug)]
enum Loss {
    CutTo(u64),
    ZerosUpTo(usize),
}

impl Loss {
    fn strike(self, path: &Path) {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        match self {
            Loss::CutTo(bytes) => file.set_len(bytes).unwrap(),
            Loss::ZerosUpTo(bytes) => std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; bytes], 0).unwrap(),
        }
    }
}

/// A frame of the entries that `several_segments` appends.
const FRAME: u64 = 10_032;

/// Damages one of three segments with six entries each; checks what is found by two starts, and that the spool goes on.
/// `missing`: the sequences that are not found; `counted`: how many of them the report knows.
fn check_loss(segment: usize, loss: Loss, missing: std::ops::Range<u64>, counted: u64, more_unknown: bool) {
    let about = format!("segment {segment}, {loss:?}");
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        bytes_max: ByteSize::mib(1),
        ..config(folder.path())
    };
    let (spool, writer, segments) = several_segments(&config, 18);
    assert_eq!(segments, 3);
    writer.finish();
    drop(spool);
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "segment");
    let path = contents(&config.folder)
        .into_keys()
        .filter(is_segment)
        .nth(segment)
        .unwrap();
    let whole = std::fs::read(&path).unwrap().len() as u64;
    loss.strike(&path);
    let left = std::fs::read(&path).unwrap();
    super::inspect::inspect(&config, &RealDisk::default()).unwrap_or_else(|error| panic!("{about}: {error}"));

    let expected: Vec<u64> = (0..18).filter(|sequence| !missing.contains(sequence)).collect();
    let (spool, found, results) = start_real(&config);
    let read = |spool: &Spool<u32>| -> Vec<u64> {
        let entries = spool.read(100, usize::MAX).unwrap();
        let good = |(sequence, entry): &(u64, Vec<u8>)| *entry == filled(*sequence);
        assert!(entries.iter().all(good), "{about}");
        entries.into_iter().map(|(sequence, _)| sequence).collect()
    };
    assert_eq!(read(&spool), expected, "{about}");
    let lost: u64 = found.damage.iter().map(Damage::entries).sum();
    assert_eq!(lost, counted, "{about}: {:#?}", found.damage);
    assert_eq!(
        found.damage.iter().any(|damage| damage.more_unknown),
        more_unknown,
        "{about}"
    );
    assert_eq!(found.torn_tail_bytes, 0, "{about}");
    let of_it = found.damage.iter().filter(|damage| damage.file == path);
    assert!(of_it.count() >= 1, "{about}: {:#?}", found.damage);
    if matches!(loss, Loss::CutTo(64..)) {
        let [damage] = &found.damage[..] else {
            panic!("{about}: {:#?}", found.damage)
        };
        assert_eq!(
            (damage.offset, damage.offset + damage.bytes),
            (left.len() as u64, whole)
        );
        let kept = std::fs::read(damage.kept_aside.as_ref().unwrap()).unwrap();
        assert!(kept == left, "{about}: as it was found");
    }
    assert_eq!(spool.status().damaged_entries, counted);
    let mut copies = found.damage.iter().filter_map(|damage| damage.kept_aside.as_ref());
    if let Some(gone) = copies.find(|path| path.to_str().unwrap().ends_with("-gone.damaged")) {
        // Nothing could be read.
        assert!(std::fs::read(gone).unwrap() == left && !path.exists(), "{about}");
    } else if let Ok(file) = std::fs::metadata(&path) {
        // One of which nothing is wanted any more may have become a spare already.
        assert_eq!(file.len(), whole, "{about}: it has its size again");
    }
    drop((spool, results));

    let (spool, again, results) = start_real(&config);
    assert_eq!(again.damage, [], "{about}: it is reported once");
    assert_eq!(read(&spool), expected, "{about}: second start");
    let next = spool.status().next_sequence;
    spool.append(filled(next), 0).unwrap();
    assert_eq!(wait(&results, 1), [(0, Ok(next))], "{about}: it goes on");
    wait_until_readable(&spool, expected.len() + 1);
    spool.commit_all(read(&spool));
    assert_eq!(spool.status().uncommitted_entries, 0, "{about}");
}

#[test]
fn of_a_segment_that_was_cut_short_all_that_is_there_is_read_and_the_rest_is_counted() {
    let header = segment::HEADER_BYTES as u64;
    // Bytes that are left, and how many of its six entries.
    let cuts = [
        (0, 0),
        (10, 0),
        (63, 0),
        (64, 0),
        (64 + 16, 0),
        (64 + 32, 0),
        (9000, 0),
        (header + FRAME - 1, 0),
        (header + FRAME, 1),
        (header + 3 * FRAME, 3),
        (header + 3 * FRAME + 31, 3),
        (header + 3 * FRAME + 5000, 3),
        (header + 6 * FRAME, 6),
        (header + 6 * FRAME + 20, 6),
    ];
    for (bytes, entries) in cuts {
        for segment in 0..3 {
            let first = 6 * segment as u64;
            let missing = first + entries..first + 6;
            // Behind the last segment there is none that tells.
            let is_last = segment == 2;
            let counted = if is_last { 0 } else { 6 - entries };
            check_loss(segment, Loss::CutTo(bytes), missing, counted, is_last);
        }
    }
    // Behind its end mark nothing was lost.
    for segment in 0..3 {
        check_loss(segment, Loss::CutTo(header + 6 * FRAME + 32), 0..0, 0, false);
        check_loss(segment, Loss::CutTo(header + 6 * FRAME + 1000), 0..0, 0, false);
    }
}

#[test]
fn of_a_segment_that_begins_with_zeros_all_that_is_behind_them_is_read() {
    let all = 64 << 10;
    for segment in 0..3 {
        let first = 6 * segment as u64;
        check_loss(segment, Loss::ZerosUpTo(64), 0..0, 0, false);
        check_loss(segment, Loss::ZerosUpTo(4096), first..first + 1, 1, false);
        let up_to_the_third = 64 + 2 * FRAME as usize + 100;
        check_loss(segment, Loss::ZerosUpTo(up_to_the_third), first..first + 3, 3, false);
        // Its end mark alone is left, and says how many were before.
        check_loss(
            segment,
            Loss::ZerosUpTo(64 + 6 * FRAME as usize),
            first..first + 6,
            6,
            false,
        );
        let is_last = segment == 2;
        let counted = if is_last { 0 } else { 6 };
        check_loss(segment, Loss::ZerosUpTo(all), first..first + 6, counted, is_last);
    }
}

#[test]
fn a_torn_tail_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (spool, _, results) = start_real(&config);
    append_all(&spool, &results, 0..10);
    drop(spool);
    let path = segment_in(&config.folder);
    let file = RealDisk::default().open(&path, Mode::ReadWrite).unwrap();
    // The last entry's second half and the end mark never reached the disk.
    let at = segment::HEADER_BYTES as u64 + 9 * 1032 + 500;
    disk::write_full(&*file, &[0; 600], at).unwrap();
    drop(file);
    let (spool, recovery, results) = start_real(&config);
    assert_eq!(
        (recovery.entries, recovery.damage, recovery.torn_tail_bytes),
        (9, vec![], 500)
    );
    append_all(&spool, &results, 0..1);
    wait_until_readable(&spool, 10);
}

#[test]
fn a_torn_group_is_not_called_damage_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::default());
    let (spool, mut writer, _) = open_stepwise(&config, disk.clone(), Arc::new(SystemClock), |_| {}).unwrap();
    for group in [0..2, 2..5] {
        group.for_each(|token| spool.append(vec![7; 1000], token).unwrap());
        writer.turn();
    }
    writer.finish();
    // Which entries of the last group never reached the disk, its end mark did → what is reported missing.
    let check = |lost: std::ops::Range<u64>| {
        let copy = tempfile::tempdir().unwrap();
        let config = Config {
            folder: copy.path().to_owned(),
            ..config.clone()
        };
        for (path, bytes) in contents(&folder.path().join("spool")) {
            std::fs::write(copy.path().join(path.file_name().unwrap()), bytes).unwrap();
        }
        let segment = segment_in(copy.path());
        let file = disk.open(&segment, Mode::ReadWrite).unwrap();
        for entry in lost.clone() {
            disk::write_full(&*file, &[0; 1032], segment::HEADER_BYTES as u64 + entry * 1032).unwrap();
        }
        // The first start is killed before it marks the places as known.
        for start in 1..=2 {
            let report = recovery::recover(&config, &disk).unwrap().report;
            let seen: Vec<_> = report
                .damage
                .iter()
                .map(|it| (it.missing.clone(), it.maybe_unacknowledged))
                .collect();
            assert_eq!(seen, [(lost.clone(), true)], "start {start}");
        }
    };
    check(2..5);
    check(3..5);
    check(2..3);
    check(3..4);
}

#[test]
fn a_group_that_finds_no_room_is_refused_and_leaves_nothing_behind() {
    let check = |size: usize, room_comes_back: bool| {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let disk = FailingDisk::default();
        let told = Arc::new(Mutex::new(Vec::new()));
        let done = {
            let told = told.clone();
            move |group| locked(&told).extend(group)
        };
        let (spool, mut writer, _) =
            open_stepwise(&config, Arc::new(disk.clone()), Arc::new(SystemClock), done).unwrap();
        let mut turn = |entries: std::ops::Range<u32>, bytes: usize| {
            for token in entries {
                spool.append(vec![token as u8; bytes], token).unwrap();
            }
            writer.turn();
            std::mem::take(&mut *locked(&told))
        };
        assert!(turn(0..60, 1000).iter().all(|(_, result)| result.is_ok()));
        disk.full.store(true, Ordering::SeqCst);
        // Two whole frames and most of the third are written, and nothing can be written over them yet.
        let refused = turn(60..63, 1000);
        assert_eq!(refused, [60, 61, 62].map(|token| (token, Err(Failure::Full))));
        disk.full.store(!room_comes_back, Ordering::SeqCst);
        let (result, entries) = match room_comes_back {
            true => (Ok(60), 61),
            false => (Err(Failure::Full), 60),
        };
        assert_eq!(turn(63..64, size), [(63, result)]);
        assert_eq!(spool.status().failed, None);
        disk.full.store(false, Ordering::SeqCst);
        writer.finish();
        drop(spool);
        let (spool, recovery, _results) = start_real(&config);
        assert_eq!((recovery.entries, recovery.damage), (entries, vec![]));
        let read = spool.read(1000, usize::MAX).unwrap();
        assert_eq!(read.get(60), room_comes_back.then_some(&(60, vec![63; size])));
    };
    check(1000, true);
    // It begins a new segment, with a sequence that stands in the old one, too.
    check(10_000, true);
    check(10_000, false);
}

#[test]
fn remains_of_a_torn_tail_are_cut_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (spool, _, results) = start_real(&config);
    append_all(&spool, &results, 0..10);
    drop(spool);
    let path = segment_in(&config.folder);
    let before = std::fs::read(&path).unwrap();
    let at = segment::HEADER_BYTES as u64 + 5 * 1032;
    // A group was torn so that the end mark before it stands, and frames of it behind.
    let mut mark = Vec::new();
    segment::end_mark(&mut mark, frame::number(&before, 16), 5, 0);
    let file = RealDisk::default().open(&path, Mode::ReadWrite).unwrap();
    disk::write_full(&*file, &mark, at).unwrap();
    let (spool, recovery, _) = start_real(&config);
    assert_eq!(
        (recovery.entries, recovery.damage, recovery.torn_tail_bytes),
        (5, vec![], 5 * 1032 + 32)
    );
    drop(spool);
    // Whatever is torn from now on does not find them.
    let after = std::fs::read(&path).unwrap();
    assert_eq!(after[..at as usize], before[..at as usize]);
    assert!(after[at as usize + mark.len()..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_failed_fsync_is_final() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let (spool, _, results) = start(&config(folder.path()), Arc::new(disk.clone())).unwrap();
    append_all(&spool, &results, 0..3);
    assert_eq!(spool.status().failed, None);
    disk.fails.store(true, Ordering::SeqCst);
    spool.append(vec![1], 3).unwrap();
    assert_eq!(wait(&results, 1), [(3, Err(Failure::Failed))]);
    disk.fails.store(false, Ordering::SeqCst);
    assert_eq!(spool.append(vec![2], 4), Err((4, vec![2], Failure::Failed)));
    assert!(spool.status().failed.unwrap().contains("sync"));
    assert_eq!(spool.read(100, 10_000).unwrap().len(), 3, "what is durable can be read");
    spool.close();
}

#[test]
fn a_shortage_ends_although_there_is_no_room_for_more() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let done = |_: Vec<(u32, Result<u64, Failure>)>| {};
    let (spool, mut writer, _) = open_stepwise(
        &config(folder.path()),
        Arc::new(disk.clone()),
        Arc::new(SystemClock),
        done,
    )
    .unwrap();
    spool.append(vec![1; 100], 0).unwrap();
    writer.turn();
    // A quota: what is free is not less, and nothing more can be written than what is there already.
    disk.full_files.store(true, Ordering::SeqCst);
    disk.looks.store(24, Ordering::SeqCst); // EMFILE
    writer.watched_at = None;
    writer.turn();
    assert!(spool.is_short());
    disk.looks.store(0, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(5);
    while spool.is_short() {
        assert!(Instant::now() < deadline, "it is short for ever: {:?}", spool.status());
        writer.turn();
        std::thread::sleep(Duration::from_millis(5));
    }
    spool.append(vec![2; 100], 1).unwrap();
    writer.turn();
    assert_eq!(spool.uncommitted_entries(), 2);
}

#[test]
fn a_look_that_fails_for_a_moment_refuses_and_takes_nothing_away() {
    let check = |errno: u64, ends: bool| {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let disk = FailingDisk::default();
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let done = move |group: Vec<(u32, Result<u64, Failure>)>| locked(&tell).extend(group);
        let (spool, mut writer, _) =
            open_stepwise(&config, Arc::new(disk.clone()), Arc::new(SystemClock), done).unwrap();
        spool.append(vec![1; 100], 0).unwrap();
        writer.turn();
        disk.looks.store(errno, Ordering::SeqCst);
        spool.append(vec![2; 100], 1).unwrap();
        writer.turn();
        assert_eq!(locked(&told).pop(), Some((1, Err(Failure::Short))));
        assert!(!spool.has_failed() && spool.is_short(), "{errno}");
        disk.later_ms
            .fetch_add(if ends { 4000 } else { 6000 }, Ordering::SeqCst);
        if ends {
            disk.looks.store(0, Ordering::SeqCst);
        }
        writer.turn();
        assert_eq!(spool.has_failed(), !ends, "{errno}");
        if ends {
            spool.append(vec![3; 100], 2).unwrap();
            writer.turn();
            assert_eq!(locked(&told).pop(), Some((2, Ok(1))));
        }
        disk.looks.store(0, Ordering::SeqCst);
        writer.rescue_timeout = Duration::ZERO;
        writer.finish();
        drop(spool);
        assert_eq!(start_real(&config).1.entries, if ends { 2 } else { 1 });
    };
    // ESTALE, EIO, ETIMEDOUT, EACCES.
    for errno in [116, 5, 110, 13] {
        check(errno, true);
        check(errno, false);
    }
}

/// The entry of this sequence.
fn filled(sequence: u64) -> Vec<u8> {
    vec![sequence as u8 + 1; 10_000]
}

/// A spool of several segments with its writer; what it holds, and how many segments that takes.
fn several_segments(config: &Config, entries: u32) -> (Spool<u32>, Writer<u32>, usize) {
    several_segments_on(Arc::new(RealDisk::default()), config, entries)
}

fn several_segments_on(disk: Arc<dyn Disk>, config: &Config, entries: u32) -> (Spool<u32>, Writer<u32>, usize) {
    let (spool, mut writer, _) = open_stepwise(config, disk, Arc::new(SystemClock), |_| {}).unwrap();
    for token in 0..entries {
        spool.append(filled(token.into()), token).unwrap();
        while writer.turn() == writer::Next::Now {}
    }
    let files = contents(&config.folder).into_keys();
    let segments = files.filter(|path| path.extension().is_some_and(|it| it == "segment"));
    let count = segments.count();
    assert_eq!(spool.uncommitted_entries(), u64::from(entries));
    (spool, writer, count)
}

fn found_in(config: &Config) -> Vec<u64> {
    let (spool, recovery, _) = start_real(config);
    assert_eq!(recovery.torn_tail_bytes, 0);
    let entries = spool.read(100, usize::MAX).unwrap();
    for (sequence, entry) in &entries {
        assert_eq!(entry, &filled(*sequence));
    }
    entries.into_iter().map(|(sequence, _)| sequence).collect()
}

#[test]
fn all_segments_of_a_removed_folder_are_written_anew() {
    type TakeAway = fn(&Path);
    let removed: TakeAway = |folder| std::fs::remove_dir_all(folder).unwrap();
    let removed_with_its_parent: TakeAway = |folder| std::fs::remove_dir_all(folder.parent().unwrap()).unwrap();
    let oldest_removed: TakeAway = |folder| std::fs::remove_file(segment_in(folder)).unwrap();
    let cursor_removed: TakeAway = |folder| std::fs::remove_file(folder.join("cursor")).unwrap();
    for take_away in [removed, removed_with_its_parent, oldest_removed, cursor_removed] {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder.path().join("parent"));
        std::fs::create_dir(folder.path().join("parent")).unwrap();
        let (spool, writer, segments) = several_segments(&config, 15);
        assert!(segments >= 3, "{segments}");
        take_away(&config.folder);
        writer.finish();
        assert!(spool.status().failed.is_some());
        drop(spool);
        assert_eq!(found_in(&config), (0..15).collect::<Vec<u64>>());
    }
}

#[test]
fn where_something_else_stands_in_the_folders_place_another_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (_spool, writer, _) = several_segments(&config, 15);
    std::fs::remove_dir_all(&config.folder).unwrap();
    std::fs::create_dir(&config.folder).unwrap();
    std::fs::write(config.folder.join("notes.txt"), "mine").unwrap();
    writer.finish();
    assert_eq!(contents(&config.folder).len(), 1, "what is another's is left alone");
    let left = [folder.path().join("spool.rescued-1")];
    assert_eq!(left_beside(&config.folder, &RealDisk::default()), left);
    assert!(left_beside(&left[0], &RealDisk::default()).is_empty());
    let rescued = Config {
        folder: folder.path().join("spool.rescued-1"),
        ..config
    };
    assert_eq!(found_in(&rescued), (0..15).collect::<Vec<u64>>());
}

/// A spool whose folder was removed while its disk is full.
fn taken_away_without_room(config: &Config, take_away: fn(&Path)) -> (Spool<u32>, Writer<u32>, FailingDisk) {
    let disk = FailingDisk::default();
    let (spool, mut writer, _) = several_segments_on(Arc::new(disk.clone()), config, 15);
    take_away(&config.folder);
    disk.full.store(true, Ordering::SeqCst);
    while !spool.has_failed() {
        spool.append(vec![1; 10], 99).ok();
        writer.turn();
    }
    for _ in 0..3 {
        assert_eq!(writer.turn(), writer::Next::After(writer::FULL_RETRY));
        let rescue = spool.rescue();
        assert!(rescue.is_running && rescue.waits_for.is_some(), "{rescue:?}");
    }
    assert_eq!(
        spool.read(100, usize::MAX).unwrap().len(),
        15,
        "all can be sent to kafka"
    );
    (spool, writer, disk)
}

fn rename(folder: &Path) {
    std::fs::rename(folder, folder.with_file_name("old")).unwrap();
}

fn remove(folder: &Path) {
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn without_room_what_was_taken_away_stays_open_until_there_is_some() {
    for take_away in [rename, remove] {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let (spool, mut writer, disk) = taken_away_without_room(&config, take_away);
        disk.full.store(false, Ordering::SeqCst);
        assert_eq!(writer.turn(), writer::Next::Idle);
        assert!(!spool.rescue().is_running);
        // Replayed after the rescue, and before the end.
        spool.commit_all(0..2);
        writer.finish();
        assert_eq!(spool.status().damaged_entries, 0);
        drop(spool);
        assert_eq!(found_in(&config), (2..15).collect::<Vec<u64>>());
    }
}

#[test]
fn what_kafka_confirms_meanwhile_needs_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (spool, mut writer, disk) = taken_away_without_room(&config, remove);
    spool.commit_all(0..14);
    assert_eq!(writer.turn(), writer::Next::After(writer::FULL_RETRY));
    spool.commit(14);
    assert_eq!(writer.turn(), writer::Next::Idle);
    assert!(!spool.rescue().is_running);
    disk.full.store(false, Ordering::SeqCst);
    writer.finish();
    assert_eq!(spool.status().damaged_entries, 0);
    drop(spool);
    assert_eq!(found_in(&config), [0; 0]);
}

#[test]
fn segments_that_were_written_anew_and_replayed_make_room_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let disk = FailingDisk::default();
    let (spool, mut writer, _) = several_segments_on(Arc::new(disk.clone()), &config, 15);
    remove(&config.folder);
    // Room for one segment and a part of the next.
    disk.room.store(70_000, Ordering::SeqCst);
    while !spool.has_failed() {
        spool.append(vec![1; 10], 99).ok();
        writer.turn();
    }
    assert!(spool.rescue().is_running);
    let copies = || {
        let files = contents(&config.folder).into_keys();
        files
            .filter(|path| path.extension().is_some_and(|end| end == "segment"))
            .count()
    };
    assert_eq!(copies(), 1);
    spool.commit_all(0..6);
    writer.turn();
    assert_eq!(copies(), 0, "the one that was replayed is removed");
    disk.room.store(u64::MAX, Ordering::SeqCst);
    writer.finish();
    drop(spool);
    assert_eq!(found_in(&config), (6..15).collect::<Vec<u64>>());
}

#[test]
fn what_cannot_be_saved_is_counted_unless_it_still_has_a_name() {
    for (take_away, lost) in [(rename as fn(&Path), 0), (remove, 15)] {
        let folder = tempfile::tempdir().unwrap();
        let (spool, mut writer, _disk) = taken_away_without_room(&config(folder.path()), take_away);
        writer.rescue_timeout = Duration::from_millis(200);
        writer.finish();
        assert_eq!(spool.status().damaged_entries, lost);
    }
}

#[test]
fn of_segments_that_are_not_held_open_the_loss_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        open_segments_max: 2,
        ..config(folder.path())
    };
    let (spool, writer, segments) = several_segments(&config, 20);
    assert_eq!(segments, 4);
    std::fs::remove_dir_all(&config.folder).unwrap();
    writer.finish();
    assert!(spool.status().failed.is_some());
    let found = found_in(&config);
    // Six are in each; the oldest two are held open, and the one that is written to.
    assert_eq!(found, (0..12).chain(18..20).collect::<Vec<u64>>());
}

#[test]
fn mistakes_name_the_field() {
    let check = |change: fn(&mut Config), expected: &str| {
        let mut config = Config::default();
        change(&mut config);
        let mistakes = config.mistakes().to_string();
        assert!(mistakes.starts_with(expected), "{mistakes}");
    };
    assert_eq!(Config::default().mistakes().to_string(), "");
    check(|config| config.folder = PathBuf::new(), "spool.folder:");
    check(|config| config.segment_bytes = ByteSize::b(7), "spool.segment_bytes:");
    check(|config| config.bytes_max = ByteSize::mib(31), "spool.bytes_max:");
    check(
        |config| config.entry_bytes_max = ByteSize::mib(16),
        "spool.entry_bytes_max:",
    );
    check(|config| config.queue_bytes = ByteSize::kib(3), "spool.queue_bytes:");
    check(|config| config.commit_bytes = ByteSize::b(0), "spool.commit_bytes:");
    check(|config| config.open_segments_max = 0, "spool.open_segments_max:");
    check(
        |config| config.commit_interval = Duration::from_secs(2),
        "spool.commit_interval:",
    );
}

/// The real disk, whose fsync fails when it is told to, or whose writes find no room after a few bytes.
#[derive(Clone, Debug, Default)]
pub(in crate::deliver) struct FailingDisk {
    disk: RealDisk,
    fails: Arc<AtomicBool>,
    full: Arc<AtomicBool>,
    /// New files find no room.
    full_files: Arc<AtomicBool>,
    /// Every look at a path fails with this error; 0: none does.
    looks: Arc<AtomicU64>,
    /// Added to the time.
    later_ms: Arc<AtomicU64>,
    /// Bytes that may still be written; not counted at 0.
    room: Arc<AtomicU64>,
    /// Every sync takes so many milliseconds.
    slow_ms: Arc<AtomicU64>,
}

#[derive(Debug)]
struct FailingFile {
    file: Box<dyn DiskFile>,
    disk: FailingDisk,
}

impl FailingDisk {
    pub(in crate::deliver) fn slow(&self, sync: Duration) {
        self.slow_ms.store(sync.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Disk for FailingDisk {
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.disk.create_folder(folder)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<Listed>> {
        self.disk.list(folder)
    }
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        if mode == Mode::Create && self.full_files.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let disk = self.clone();
        Ok(Box::new(FailingFile { file, disk }))
    }
    fn open_folder(&self, folder: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open_folder(folder)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.disk.sync_folder(folder)
    }
    fn identity(&self, path: &Path) -> io::Result<Option<Identity>> {
        match self.looks.load(Ordering::SeqCst) {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(errno as i32)),
        }
        self.disk.identity(path)
    }
    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        self.disk.free_bytes(folder)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.disk.lock(path)
    }
    fn uptime(&self) -> Duration {
        self.disk.uptime() + Duration::from_millis(self.later_ms.load(Ordering::SeqCst))
    }
}

impl DiskFile for FailingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let room = self.disk.room.load(Ordering::SeqCst);
        match room {
            0 => {}
            room if room < bytes.len() as u64 => return Err(io::ErrorKind::StorageFull.into()),
            room => self.disk.room.store(room - bytes.len() as u64, Ordering::SeqCst),
        }
        match self.disk.full.load(Ordering::SeqCst) {
            true if bytes.len() < 1500 => Err(io::ErrorKind::StorageFull.into()),
            true => self.file.write_at(&bytes[..1500], offset),
            false => self.file.write_at(bytes, offset),
        }
    }
    fn sync(&self) -> io::Result<()> {
        std::thread::sleep(Duration::from_millis(self.disk.slow_ms.load(Ordering::SeqCst)));
        match self.disk.fails.load(Ordering::SeqCst) {
            true => Err(io::Error::other("fsync failed")),
            false => self.file.sync(),
        }
    }
    fn identity(&self) -> io::Result<Identity> {
        self.file.identity()
    }
    fn path(&self) -> Option<PathBuf> {
        self.file.path()
    }
}
