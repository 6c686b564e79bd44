//! The parts that are no closed loop: the open loop, invalid readings, many slow devices,
//! and memory when idle. Each can be run alone with `--only`; each measures every gateway
//! that was given. The closed loops are in `cases`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;

use crate::Part;
use crate::cases::{Case, Measured, Results, drive};
use crate::gateway::Gateway;
use crate::load::{Load, RAMP};
use crate::process::resident_mib;
use crate::stage::Stage;
use crate::syscalls;

/// The open loop's rate, in readings a second, and the devices that send it.
const RATE: u32 = 20_000;
const RATE_CONNECTIONS: u32 = 1000;

/// Slow devices, and what all of them send a second: each has one reading in a read.
const SLOW_CONNECTIONS: u32 = 10_000;
const SLOW_RATE: u32 = 5000;
const SLOW_RAMP: Duration = Duration::from_secs(3);

/// What all of them send a second while system calls are counted: the slower, the fewer readings share a wake-up of the
/// gateway, a batch of Kafka's or a call of epoll. None: each sends as soon as it is answered.
const COUNTED_RATES: [Option<u32>; 3] = [None, Some(25_000), Some(SLOW_RATE)];

/// How long system calls are counted.
const COUNTED: Duration = Duration::from_secs(4);

/// Latency in the open loop, from when a reading was due (the generator's) and from when it was received (the gateway's).
#[derive(Debug, Serialize)]
pub struct Answered {
    pub measured: Measured,
    /// Of the gateway's histogram: p50, p99, p99.9 in milliseconds, interpolated within its buckets.
    pub received_ms: [f64; 3],
}

/// System calls of the gateway, while many slow devices send.
#[derive(Debug, Serialize)]
pub struct Syscalls {
    pub counted_by: &'static str,
    /// Readings a second of all connections; none: as many as they get answered.
    pub rate: Option<u32>,
    pub readings: u64,
    /// Calls a reading, by thread and name.
    pub threads: BTreeMap<String, BTreeMap<String, f64>>,
}

// === impl Syscalls ===

impl Syscalls {
    /// The rate, in words.
    pub fn pace(&self) -> String {
        self.rate
            .map_or_else(|| "full speed".to_owned(), |rate| format!("{rate}/s"))
    }

    /// Of all threads, a reading.
    pub fn total(&self) -> f64 {
        self.threads.values().flat_map(BTreeMap::values).sum()
    }
}

/// Memory of a gateway, in MiB.
#[derive(Debug, Serialize)]
pub struct Idle {
    pub after_start: f64,
    pub with_connections: f64,
    pub connections: u64,
}

/// A round of the open loop.
pub fn rate(stage: &Stage, results: &mut Results) -> anyhow::Result<()> {
    let mut round = Vec::new();
    for gateway in &stage.gateways {
        let before = gateway.scrape()?.answer_buckets("mqtt");
        let measured = drive(stage, gateway, &open_loop(gateway, RATE_CONNECTIONS, RATE), RAMP)?;
        let after = gateway.scrape()?.answer_buckets("mqtt");
        round.push(Answered {
            measured,
            received_ms: [0.5, 0.99, 0.999].map(|share| quantile(&before, &after, share) * 1e3),
        });
    }
    results.rate.push(round);
    Ok(())
}

/// A round of nothing but invalid readings.
pub fn invalid(stage: &Stage, results: &mut Results) -> anyhow::Result<()> {
    let mut round = Vec::new();
    for gateway in &stage.gateways {
        let mut arguments = Case::of(Part::Mqtt).arguments(&gateway.mqtt());
        arguments.extend(["--invalid", "100"].map(str::to_owned));
        round.push(drive(stage, gateway, &arguments, RAMP)?);
    }
    results.invalid.push(round);
    Ok(())
}

/// A round of many slow devices.
pub fn slow(stage: &Stage, results: &mut Results) -> anyhow::Result<()> {
    let mut round = Vec::new();
    for gateway in &stage.gateways {
        let arguments = open_loop(gateway, SLOW_CONNECTIONS, SLOW_RATE);
        round.push(drive(stage, gateway, &arguments, SLOW_RAMP)?);
    }
    results.slow.push(round);
    Ok(())
}

/// System calls of the first gateway while slow devices send; nothing else is measured meanwhile. Empty where neither
/// perf nor strace is at hand.
pub fn syscalls(stage: &Stage) -> anyhow::Result<Vec<Syscalls>> {
    let counted = COUNTED_RATES.map(|rate| syscalls_at(stage, rate));
    let counted: anyhow::Result<Vec<Option<Syscalls>>> = counted.into_iter().collect();
    Ok(counted?.into_iter().flatten().collect())
}

fn syscalls_at(stage: &Stage, rate: Option<u32>) -> anyhow::Result<Option<Syscalls>> {
    let gateway = &stage.gateways[0];
    let arguments = match rate {
        Some(rate) => open_loop(gateway, SLOW_CONNECTIONS, rate),
        None => arguments(gateway, SLOW_CONNECTIONS, "--window 1"),
    };
    let load = Load::start(&stage.simulators, &arguments, SLOW_RAMP, COUNTED.as_secs() + 8)?;
    std::thread::sleep(SLOW_RAMP + Duration::from_secs(2));
    let (before, began) = (gateway.scrape()?.answered(), Instant::now());
    let counted = syscalls::count(gateway.pid(), COUNTED)?;
    // It takes a while to begin and to end; the rate is steady.
    let share = COUNTED.as_secs_f64() / began.elapsed().as_secs_f64();
    let readings = ((gateway.scrape()?.answered() - before) as f64 * share) as u64;
    load.report()?;
    let each = |calls: BTreeMap<String, u64>| -> BTreeMap<String, f64> {
        let calls = calls.into_iter();
        calls
            .map(|(name, count)| (name, count as f64 / readings.max(1) as f64))
            .collect()
    };
    Ok(counted.map(|(counted_by, counts)| Syscalls {
        counted_by,
        rate,
        readings,
        threads: counts
            .into_iter()
            .map(|(thread, calls)| (thread, each(calls)))
            .collect(),
    }))
}

/// Memory of gateways that have just started, then with connections that only keep alive.
pub fn idle(stage: &Stage) -> anyhow::Result<Vec<Idle>> {
    let fresh = stage.fresh_gateways()?;
    fresh.iter().map(|gateway| idle_of(stage, gateway)).collect()
}

fn idle_of(stage: &Stage, gateway: &Gateway) -> anyhow::Result<Idle> {
    let after_start = resident_mib(gateway.pid())?;
    let flags = format!("--mqtt {} --idle --connections {SLOW_CONNECTIONS}", gateway.mqtt());
    let arguments: Vec<String> = flags.split(' ').map(str::to_owned).collect();
    let load = Load::start(&stage.simulators, &arguments, SLOW_RAMP, 4)?;
    std::thread::sleep(SLOW_RAMP + Duration::from_secs(3));
    let with_connections = resident_mib(gateway.pid())?;
    let report = load.report()?;
    ensure!(
        report.total.connections_up == u64::from(SLOW_CONNECTIONS),
        "{} of {SLOW_CONNECTIONS} idle connections are up",
        report.total.connections_up
    );
    Ok(Idle {
        after_start,
        with_connections,
        connections: report.total.connections_up,
    })
}

pub fn open_loop(gateway: &Gateway, connections: u32, rate: u32) -> Vec<String> {
    arguments(gateway, connections, &format!("--rate {rate}"))
}

fn arguments(gateway: &Gateway, connections: u32, pace: &str) -> Vec<String> {
    let flags = format!("--mqtt {} --connections {connections} {pace}", gateway.mqtt());
    flags.split(' ').map(str::to_owned).collect()
}

/// In seconds, as Prometheus' `histogram_quantile` has it: spread evenly within a bucket.
pub fn quantile(before: &[(f64, f64)], after: &[(f64, f64)], share: f64) -> f64 {
    let counts: Vec<(f64, f64)> = after
        .iter()
        .zip(before)
        .map(|((bound, now), (_, then))| (*bound, now - then))
        .collect();
    let wanted = share * counts.last().map_or(0.0, |(_, total)| *total);
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in counts {
        if count >= wanted {
            let inside = (wanted - below) / f64::max(count - below, 1.0);
            return if bound.is_finite() {
                lower + (bound - lower) * inside
            } else {
                lower
            };
        }
        (lower, below) = (bound, count);
    }
    lower
}
