//! The machine that the figures are of: processor, cores, memory, kernel, load
//! average. Printed above every table, as figures of different machines cannot be
//! compared. A part that cannot be read is left out.

use std::fs;

/// One line: processor, cores, memory, kernel, and how busy it is already.
pub fn describe() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let after_colon = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
            .unwrap_or_else(|| "?".to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = after_colon(&read("/proc/meminfo"), "MemTotal");
    let memory: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(0.0) / f64::from(1 << 20);
    let load = read("/proc/loadavg");
    format!(
        "{cores} cores of {}, {memory:.0} GiB, Linux {}; load average before: {}",
        after_colon(&read("/proc/cpuinfo"), "model name"),
        read("/proc/sys/kernel/osrelease").trim(),
        load.split_whitespace().next().unwrap_or("?"),
    )
}
