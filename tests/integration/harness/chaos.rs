//! Signals to processes, their resident memory, and damaged bytes. Signals go to
//! processes that a test started itself; damage is a function of the random
//! generator it is given, whose seed the test prints.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

const TIMEOUT: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Sends a signal, by name; true if the process exists.
pub fn try_signal(pid: u32, signal: &str) -> bool {
    // The shell's own `kill`: std has none for other processes, and a small machine no program of that name.
    let mut kill = Command::new("bash");
    kill.args(["-c", r#"kill "-$0" "$1""#, signal, &pid.to_string()]);
    kill.stderr(Stdio::null()).status().unwrap().success()
}

pub fn signal(pid: u32, signal: &str) {
    assert!(try_signal(pid, signal), "kill -{signal} {pid}");
}

/// Stops a process, and returns when each of its threads has stopped: on a busy machine some run on for a while.
pub fn freeze(pid: u32) {
    signal(pid, "STOP");
    let runs = |thread: std::fs::DirEntry| {
        // The state follows the name, which is in parentheses; a thread that has ended meanwhile has no file.
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.trim_start().starts_with('T'))
    };
    let any_runs = || {
        std::fs::read_dir(format!("/proc/{pid}/task"))
            .unwrap()
            .flatten()
            .any(runs)
    };
    let deadline = Instant::now() + TIMEOUT;
    while any_runs() {
        assert!(Instant::now() < deadline, "process {pid} does not stop");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Resident memory of a process, in bytes (`/proc/<pid>/statm`, second field, in pages of 4 KiB).
pub fn resident_bytes(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Damages `frame` in one to four ways: a bit flipped, a byte set, cut short, grown, doubled, or a stretch of noise.
pub fn mutate(frame: &mut Vec<u8>, random: &mut impl Rng) {
    for _ in 0..random.random_range(1..=4) {
        if frame.is_empty() {
            frame.push(random.random());
        }
        let at = random.random_range(0..frame.len());
        match random.random_range(0..7) {
            0 => frame[at] ^= 1 << random.random_range(0..8),
            1 => frame[at] = random.random(),
            2 => frame[at] = [0x00, 0x7F, 0x80, 0xFF][random.random_range(0..4)],
            3 => frame.truncate(at),
            4 => frame.insert(at, random.random()),
            5 => {
                let stretch = frame[at..].to_vec();
                frame.extend_from_slice(&stretch);
            }
            _ => {
                let end = frame.len().min(at + 8);
                random.fill(&mut frame[at..end]);
            }
        }
    }
}
