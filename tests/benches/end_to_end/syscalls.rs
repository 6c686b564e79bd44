//! Counts the system calls of a process, by thread and name. With perf's tracepoints, which cost next to nothing;
//! otherwise with strace, which slows the process down so much that its batches grow. The report names the tool;
//! without either, nothing is counted.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

/// By thread (numbers at the end of its name left out), then by name.
pub type Counts = BTreeMap<String, BTreeMap<String, u64>>;

/// The calls that perf tells apart: to prepare all 360 takes it many seconds.
const NAMED: [&str; 22] = [
    "accept4",
    "clock_nanosleep",
    "close",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "fdatasync",
    "futex",
    "madvise",
    "poll",
    "read",
    "readv",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "sched_yield",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "timerfd_settime",
    "write",
    "writev",
];

/// Names the tool, and what it counted; `None` if there is no tool that works here.
pub fn count(pid: u32, over: Duration) -> anyhow::Result<Option<(&'static str, Counts)>> {
    let folder = TempDir::new()?;
    let file = folder.path().join("counts");
    let out = file.display();
    let seconds = over.as_secs();
    // Tracepoints are named in a file system; where it is not mounted it is, for this command alone.
    let events: Vec<String> = NAMED.iter().map(|name| format!("syscalls:sys_enter_{name}")).collect();
    let perf = format!(
        "if [ ! -e /sys/kernel/tracing/events ]; then mount -t tracefs nodev /sys/kernel/tracing; fi && \
         perf stat -x, --per-thread -o {out} -e raw_syscalls:sys_enter,{} -p {pid} -- sleep {seconds}",
        events.join(",")
    );
    if quietly(Command::new("unshare").args(["-m", "sh", "-c", &perf])) {
        let text = fs::read_to_string(&file).context("perf has counted nothing")?;
        return Ok(Some(("perf stat", of_perf(&text))));
    }
    let strace = format!("timeout -s INT {seconds} strace -f -c -S calls -o {out} -p {pid}");
    quietly(Command::new("sh").args(["-c", &strace]));
    let text = fs::read_to_string(&file).unwrap_or_default();
    let counts = of_strace(&text);
    Ok((!counts.is_empty()).then_some(("strace -c", counts)))
}

fn quietly(command: &mut Command) -> bool {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// `tokio-rt-worker-4711,59,,syscalls:sys_enter_futex,286599289,100.00,,`, and all of a thread as `raw_syscalls:sys_enter`.
fn of_perf(text: &str) -> Counts {
    let mut counts = Counts::new();
    for line in text.lines() {
        let [thread, count, _, event, ..] = line.split(',').collect::<Vec<_>>()[..] else {
            continue;
        };
        let (Ok(count), Some((thread, _))) = (count.parse::<u64>(), thread.rsplit_once('-')) else {
            continue;
        };
        let name = event.rsplit_once("sys_enter_").map_or("others", |(_, name)| name);
        let thread = thread.trim_end_matches(|last: char| last.is_ascii_digit());
        *counts
            .entry(thread.to_owned())
            .or_default()
            .entry(name.to_owned())
            .or_default() += count;
    }
    for calls in counts.values_mut() {
        let named: u64 = calls
            .iter()
            .filter(|(name, _)| *name != "others")
            .map(|(_, count)| count)
            .sum();
        if let Some(all) = calls.get_mut("others") {
            *all = all.saturating_sub(named);
        }
    }
    counts
}

/// `% time     seconds  usecs/call     calls    errors syscall`, where `errors` may be left out.
fn of_strace(text: &str) -> Counts {
    let lines = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words.last().filter(|name| **name != "total")?;
        Some(((*name).to_owned(), words.get(3)?.parse().ok()?))
    });
    let calls: BTreeMap<String, u64> = lines.collect();
    if calls.is_empty() {
        Counts::new()
    } else {
        Counts::from([("all threads".to_owned(), calls)])
    }
}
