//! Prints what was measured: each part, then the aims beside the results. What
//! makes figures doubtful (a busy machine, a generator at its limit) is
//! printed with them. It measures nothing itself.

use std::collections::BTreeMap;

use crate::cases::{Measured, Results, Round};
use crate::load::mean;
use crate::series::{median, short, spread};
use crate::stage::Stage;

/// A line of the last table.
type Line = (&'static str, &'static str, String);

pub fn print(results: &Results, stage: &Stage) {
    let [traffic, weather, energy] = results.reading_bytes;
    let values = results
        .cases
        .values()
        .flatten()
        .next()
        .map_or(f64::NAN, |round| round.value_bytes);
    println!(
        "{} rounds of {} s; median (least-most); readings of {:.0} B on average (traffic {traffic:.0}, weather {weather:.0}, \
         energy {energy:.0}), {} B as Avro\n",
        rounds(results),
        stage.seconds,
        mean(results.reading_bytes),
        short(values.round()),
    );
    for index in 0..stage.gateways.len() {
        println!("== {}", stage.gateways[index].name);
        cases(results, index);
        others(results, index);
        aims(results, index);
        println!();
    }
}

fn rounds(results: &Results) -> usize {
    let others = [results.rate.len(), results.invalid.len(), results.slow.len()];
    let cases = results.cases.values().map(Vec::len);
    cases.chain(others).max().unwrap_or(0)
}

/// Each closed loop: the gateway and its floors, side by side.
fn cases(results: &Results, index: usize) {
    for (name, rounds) in &results.cases {
        println!("\n{name}");
        heading();
        row("gateway", rounds.iter().map(|round| &round.gateways[index]));
        row("sink (only acknowledges)", rounds.iter().map(|round| &round.sink));
        row("bare producer", rounds.iter().map(|round| &round.producer));
        row(
            "bare axum handler",
            rounds.iter().filter_map(|round| round.web.as_ref()),
        );
        threads(rounds, index);
        let ratio = |floor: &dyn Fn(&Round) -> f64| {
            spread(rounds.iter().map(|round| round.gateways[index].cpu_us / floor(round)))
        };
        println!("  gateway / (sink + producer): {}", ratio(&floors));
        if *name == "http" {
            println!("  gateway / axum handler: {}", ratio(&web));
            println!(
                "  gateway / (axum handler + producer): {}",
                ratio(&|round| web(round) + round.producer.cpu_us)
            );
        }
    }
}

fn floors(round: &Round) -> f64 {
    round.sink.cpu_us + round.producer.cpu_us
}

fn web(round: &Round) -> f64 {
    round.web.as_ref().map_or(f64::NAN, |web| web.cpu_us)
}

/// The gateway's threads, those that matter.
fn threads(rounds: &[Round], index: usize) {
    let Some(first) = rounds.first() else { return };
    let mut threads: Vec<(&String, f64)> = first.gateways[index]
        .threads_us
        .keys()
        .map(|name| {
            let each = rounds
                .iter()
                .filter_map(|round| round.gateways[index].threads_us.get(name));
            (name, median(each.copied()))
        })
        .filter(|(_, us)| *us >= 0.02)
        .collect();
    threads.sort_by(|one, other| other.1.total_cmp(&one.1));
    let threads: Vec<String> = threads
        .iter()
        .map(|(name, us)| format!("{name} {}", short(*us)))
        .collect();
    println!("  gateway's threads, us: {}", threads.join(", "));
}

fn heading() {
    println!(
        "  {:<25} {:>8} {:>18} {:>6} {:>6} {:>7} {:>7} {:>6} {:>6} {:>7} {:>7} {:>7} {:>5} {:>7}",
        "",
        "msg/s",
        "CPU us/msg",
        "user",
        "kernel",
        "sleeps",
        "preempt",
        "load",
        "kafka",
        "p50 ms",
        "p99 ms",
        "p99.9",
        "MiB",
        "others"
    );
}

fn row<'a>(name: &str, rounds: impl Iterator<Item = &'a Measured>) {
    let rounds: Vec<&Measured> = rounds.collect();
    if rounds.is_empty() {
        return;
    }
    let of = |field: &dyn Fn(&Measured) -> f64| short(median(rounds.iter().map(|measured| field(measured))));
    let known = |field: &dyn Fn(&Measured) -> Option<f64>| of(&|measured| field(measured).unwrap_or(f64::NAN));
    println!(
        "  {name:<25} {:>8} {:>18} {:>6} {:>6} {:>7} {:>7} {:>6} {:>6} {:>7} {:>7} {:>7} {:>5} {:>5} %",
        of(&|measured| measured.per_second),
        spread(rounds.iter().map(|measured| measured.cpu_us)),
        of(&|measured| measured.user_us),
        of(&|measured| measured.system_us),
        of(&|measured| measured.sleeps),
        of(&|measured| measured.preemptions),
        known(&|measured| measured.load_us),
        known(&|measured| measured.kafka_us),
        known(&|measured| measured.p50_ms),
        known(&|measured| measured.p99_ms),
        known(&|measured| measured.p999_ms),
        of(&|measured| measured.resident_mib.round()),
        of(&|measured| measured.others_percent.round()),
    );
    complaints(name, &rounds);
}

/// What makes figures doubtful.
pub fn complaints(name: &str, rounds: &[&Measured]) {
    let sum = |of: fn(&Measured) -> u64| rounds.iter().map(|measured| of(measured)).sum::<u64>();
    let found = [
        (sum(|measured| measured.unanswered), "without an answer"),
        (sum(|measured| measured.spooled), "spooled: Kafka was slow"),
        (sum(|measured| measured.busy), "answered busy"),
    ];
    for (count, what) in found.into_iter().filter(|(count, _)| *count > 0) {
        println!("  {name}: {count} readings {what}");
    }
}

fn others(results: &Results, index: usize) {
    if !(results.rate.is_empty() && results.invalid.is_empty() && results.slow.is_empty()) {
        println!("\nothers, MQTT");
        heading();
        row(
            "20,000/s, open loop",
            results.rate.iter().map(|round| &round[index].measured),
        );
        row("invalid only", results.invalid.iter().map(|round| &round[index]));
        row("10,000 slow, 5,000/s", results.slow.iter().map(|round| &round[index]));
    }
    if !results.rate.is_empty() {
        let of = |which: usize| median(results.rate.iter().map(|round| round[index].received_ms[which]));
        println!(
            "  20,000/s, received to answered by the gateway's histogram: p50 {} p99 {} p99.9 {} ms (within buckets)",
            short(of(0)),
            short(of(1)),
            short(of(2))
        );
    }
    for syscalls in results.syscalls.iter().filter(|_| index == 0) {
        println!(
            "  system calls a reading ({}, {} readings at {} over 10,000 connections):",
            syscalls.counted_by,
            syscalls.readings,
            syscalls.pace()
        );
        for (thread, calls) in &syscalls.threads {
            system_calls(thread, calls);
        }
    }
}

/// One thread's, the most frequent first; what hardly happens is left out.
fn system_calls(thread: &str, calls: &BTreeMap<String, f64>) {
    let total: f64 = calls.values().sum();
    let mut calls: Vec<(&String, &f64)> = calls.iter().filter(|(_, each)| **each >= 0.005).collect();
    calls.sort_by(|one, other| other.1.total_cmp(one.1));
    let calls: Vec<String> = calls.iter().map(|(name, each)| format!("{name} {each:.2}")).collect();
    if !calls.is_empty() {
        println!("    {thread} {total:.2}: {}", calls.join(", "));
    }
}

/// The table of aims; a part that was not measured is left out.
fn aims(results: &Results, index: usize) {
    let mut lines: Vec<Line> = Vec::new();
    closed_loops(results, index, &mut lines);
    for syscalls in results.syscalls.iter().filter(|_| index == 0) {
        let found = format!("{} at {}", short(syscalls.total()), syscalls.pace());
        lines.push(("system calls a reading, 1 reading a read", "<= 2.2", found));
    }
    if !results.rate.is_empty() {
        let sent = results
            .rate
            .iter()
            .map(|round| round[index].measured.p99_ms.unwrap_or(f64::NAN));
        let received = results.rate.iter().map(|round| round[index].received_ms[1]);
        let found = format!("{} ms; from when due {} ms", spread(received), spread(sent));
        lines.push(("p99 received to answered at 20,000/s", "< 25 ms", found));
    }
    if let (Some(valid), false) = (results.cases.get("mqtt"), results.invalid.is_empty()) {
        let pairs = results.invalid.iter().zip(valid);
        let ratio = pairs.map(|(invalid, valid)| invalid[index].cpu_us / valid.gateways[index].cpu_us);
        lines.push((
            "invalid, most beyond the quota, CPU to valid ones",
            "<= 1",
            spread(ratio),
        ));
    }
    if !results.invalid.is_empty() && index == 0 {
        let found = format!("{:.0} KiB", results.log_bytes as f64 / 1024.0);
        lines.push(("log after all of this", "bounded", found));
    }
    if let Some(idle) = results.idle.as_ref().and_then(|idle| idle.get(index)) {
        lines.push(("memory when idle", "< 15 MB", format!("{:.1} MiB", idle.after_start)));
        let found = format!("{:.1} MiB", idle.with_connections);
        lines.push(("with 10,000 idle MQTT connections", "< 100 MB", found));
    }
    println!("\n  {:<50} {:<9} result", "measure", "aim");
    for (measure, aim, result) in lines {
        println!("  {measure:<50} {aim:<9} {result}");
    }
}

fn closed_loops(results: &Results, index: usize, lines: &mut Vec<Line>) {
    let of = |name: &str, value: &dyn Fn(&Round) -> f64| {
        results.cases.get(name).map(|rounds| spread(rounds.iter().map(value)))
    };
    let cpu = |round: &Round| round.gateways[index].cpu_us;
    let to_floors = |round: &Round| cpu(round) / floors(round);
    let mut line = |measure, aim, found: Option<String>| lines.extend(found.map(|found| (measure, aim, found)));
    line("gateway CPU a MQTT reading, us", "<= 7.5", of("mqtt", &cpu));
    line(
        "... to (bare producer + bare ack loop)",
        "<= 1.6",
        of("mqtt", &to_floors),
    );
    line("gateway CPU a HTTP request, us", "<= 20", of("http", &cpu));
    line(
        "... to a bare axum handler",
        "<= 2",
        of("http", &|round| cpu(round) / web(round)),
    );
    line("gateway CPU a CoAP request, us", "<= 15", of("coap", &cpu));
    line("... to (bare echo + producer)", "<= 2", of("coap", &to_floors));
}
