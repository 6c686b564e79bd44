//! What a process has used so far (CPU time, context switches, memory), read from
//! /proc; and child processes that do not outlive the run. Differences of two looks
//! are what the bench reports. Linux only, as /proc is.

use std::collections::BTreeMap;
use std::fs;
use std::process::Child;

use anyhow::Context;

/// USER_HZ: the unit of CPU times in /proc, on every architecture that Rust has Linux for.
const TICKS_PER_S: f64 = 100.0;

/// What a process has used since it began.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    pub user_s: f64,
    pub system_s: f64,
    /// Times that a thread went to sleep by itself: each is a wake later.
    pub sleeps: u64,
    /// Times that a thread was preempted.
    pub preemptions: u64,
    /// CPU of living threads by name, numbers at the end left out; in seconds.
    pub threads: BTreeMap<String, f64>,
}

// === impl Usage ===

impl Usage {
    pub fn of(pid: u32) -> anyhow::Result<Usage> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
        let ticks = |field: usize| {
            // The name, in parentheses, may hold anything; what follows it begins with field 3.
            let behind_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            let number = behind_name.split(' ').nth(field - 3).and_then(|text| text.parse().ok());
            number.unwrap_or(0.0) / TICKS_PER_S
        };
        let mut usage = Usage {
            user_s: ticks(14),
            system_s: ticks(15),
            ..Usage::default()
        };
        for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            // A thread may end while it is looked at.
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let status = read("status");
            usage.sleeps += number_behind(&status, "voluntary_ctxt_switches:");
            usage.preemptions += number_behind(&status, "nonvoluntary_ctxt_switches:");
            let run_ns = read("schedstat").split(' ').next().and_then(|text| text.parse().ok());
            let name = read("comm");
            let name = name.trim().trim_end_matches(|last: char| last.is_ascii_digit());
            *usage.threads.entry(name.to_owned()).or_default() += run_ns.unwrap_or(0.0) / 1e9;
        }
        Ok(usage)
    }

    /// What was used since `before`.
    pub fn since(&self, before: &Usage) -> Usage {
        let threads = self.threads.iter().map(|(name, now)| {
            let then = before.threads.get(name).copied().unwrap_or(0.0);
            (name.clone(), (now - then).max(0.0))
        });
        Usage {
            user_s: self.user_s - before.user_s,
            system_s: self.system_s - before.system_s,
            sleeps: self.sleeps.saturating_sub(before.sleeps),
            preemptions: self.preemptions.saturating_sub(before.preemptions),
            threads: threads.collect(),
        }
    }

    pub fn cpu_s(&self) -> f64 {
        self.user_s + self.system_s
    }
}

/// CPU that the whole machine has used, in seconds over all cores.
pub fn machine_s() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().unwrap_or_default();
    let fields: Vec<f64> = first
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guests are in user already.
    let idle: f64 = fields.iter().skip(3).take(2).sum();
    Ok((fields.iter().take(8).sum::<f64>() - idle) / TICKS_PER_S)
}

/// Memory of a process, in MiB.
pub fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(number_behind(&status, "VmRSS:") as f64 / 1024.0)
}

fn number_behind(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

/// A process that ends with its owner.
#[derive(Debug)]
pub struct Helper(pub Child);

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended already; that is what was wanted.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}
