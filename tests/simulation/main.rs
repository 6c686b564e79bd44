//! The spool against a disk that misbehaves, thousands of short lives per run.
//!
//! Every run is one seed: the same seed does the same. A failing one is printed, and replayed by
//! `TEST_SEED=n cargo test --release --test simulation`. `TEST_SEEDS` says how many are run (2000). The canaries
//! break the promise on purpose: a net that does not catch them would catch nothing.

// `unwrap` is how a test says what must not fail.
#![allow(clippy::unwrap_used)]

mod deliver;

mod faulty_disk;

mod model;

mod run;

use faulty_disk::{Lie, Taken};
use run::{Options, run};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}: {text:?} is not a number")),
    )
}

/// Runs one seed, or all; panics with the first that fails.
fn run_all(options: Options) {
    run_part(options, 1);
}

/// The same with one of so many seeds.
fn run_part(options: Options, part: u64) {
    let seeds = match number("TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TEST_SEEDS").unwrap_or(2000) / part,
    };
    let mut seen = run::Seen::default();
    for seed in seeds.clone() {
        match run(seed, options) {
            Ok(more) => seen.add(more),
            Err(finding) => panic!("TEST_SEED={seed} {options:?}: {finding}"),
        }
    }
    println!("{seeds:?} {options:?}: {seen:?}");
    if seeds.end - seeds.start >= 500 {
        seen.assert_everything_happened(options);
    }
}

#[test]
fn what_was_acknowledged_is_read_back_after_any_crash() {
    run_all(Options::default());
}

#[test]
fn what_a_flipped_bit_takes_away_is_reported() {
    run_all(Options {
        bit_flips: true,
        ..Options::default()
    });
}

/// A segment that is cut short, or overwritten with zeros where it begins, is read as far as it is there.
#[test]
fn what_is_gone_with_a_part_of_a_segment_is_reported() {
    run_all(Options {
        losses: true,
        ..Options::default()
    });
}

/// EMFILE, ENFILE, ENOMEM, EINTR and EAGAIN, at any call: what cannot be done now is answered busy and done later.
#[test]
fn a_machine_that_is_short_of_something_never_fails_the_spool() {
    run_all(Options {
        shortages: true,
        ..Options::default()
    });
}

#[test]
fn what_was_acknowledged_is_written_anew_when_its_files_are_taken_away() {
    for removed in [
        Taken::Folder,
        Taken::FolderReplaced,
        Taken::FolderRenamed,
        Taken::File,
        Taken::FileReplaced,
    ] {
        let options = Options {
            taken: Some(removed),
            ..Options::default()
        };
        run_part(options, 4);
    }
}

/// How many of 200 seeds notice a disk that lies.
fn caught(lie: Lie) -> usize {
    let options = Options {
        lie: Some(lie),
        ..Options::default()
    };
    (0..200).filter(|seed| run(*seed, options).is_err()).count()
}

#[test]
fn a_disk_that_acknowledges_an_fsync_it_did_not_do_is_caught() {
    let caught = caught(Lie::Sync);
    assert!(caught > 100, "{caught} of 200");
}

#[test]
fn a_disk_that_forgets_names_is_caught() {
    let caught = caught(Lie::SyncFolder);
    assert!(caught > 20, "{caught} of 200");
}

#[test]
fn a_disk_that_hides_a_failed_fsync_is_caught() {
    let caught = caught(Lie::FailedSync);
    assert!(caught > 3, "{caught} of 200");
}
