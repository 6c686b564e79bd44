//! What a reading costs from end to end: load generator → gateway → real Kafka, all on this machine, in one run.
//!
//! ```text
//! cargo build --release --workspace && cargo bench --bench end_to_end              # several minutes
//! cargo bench --bench end_to_end -- --only mqtt --rounds 1                         # half a minute
//! cargo bench --bench end_to_end -- --gateway target/release/citygate --gateway ../before/citygate
//! cargo bench --bench end_to_end -- growth                                         # how cost grows: a chart
//! ```
//! Every figure stands beside floors that were measured in the same round: a sink that only acknowledges (the protocol's),
//! a bare producer of the same records with the gateway's settings (Kafka's), a bare axum handler (HTTP's). A round does
//! one of each, so that what the machine does meanwhile meets all alike; printed are medians, and the least and the most
//! of all rounds. CPU is that of whole processes, user and kernel, over all messages that they answered. It never fails
//! by its figures: a benchmark is not a test.

mod cases;
mod floors;
mod gateway;
mod growth;
mod kafka;
mod load;
mod machine;
mod parts;
mod process;
mod series;
mod stage;
mod syscalls;
mod verdict;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};

use cases::Results;
use stage::Stage;

/// What a reading costs from end to end, beside floors that are measured in the same run.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// Which parts to measure.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "mqtt,coap,http,rate,invalid,slow,idle"
    )]
    only: Vec<Part>,
    /// How often everything is measured.
    #[arg(long, global = true, default_value_t = 3)]
    rounds: usize,
    /// How long each measurement lasts.
    #[arg(long, global = true, default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..))]
    seconds: u64,
    /// Programs to measure instead of this build's own; several are measured in turn. Settings may be given by CITYGATE_*
    /// variables.
    #[arg(long, global = true, value_name = "FILE")]
    gateway: Vec<PathBuf>,
    /// Kafka's process, where TEST_KAFKA names one that runs already.
    #[arg(long, global = true, value_name = "PID")]
    kafka_pid: Option<u32>,
    /// Write all figures here, for machines.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// `cargo bench` says this to every benchmark.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How cost grows with connections, kinds and bytes, and latency with the rate.
    Growth(growth::Options),
    /// A bare producer, which the benchmark starts for itself.
    #[command(hide = true)]
    Producer(floors::producer::Options),
    /// A bare HTTP handler, which the benchmark starts for itself.
    #[command(hide = true)]
    Web,
}

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// MQTT QoS 1, 100 connections with 20 unanswered readings each.
    Mqtt,
    /// CoAP, confirmable, 500 ports with one unanswered reading each.
    Coap,
    /// HTTP, one reading a POST, 500 connections kept alive.
    Http,
    /// Latency in the open loop at 20,000 readings a second.
    Rate,
    /// MQTT again, with nothing but invalid readings: nearly all are beyond limits.dead_letters_per_minute, and not kept.
    Invalid,
    /// 10,000 connections that send a reading now and then: system calls.
    Slow,
    /// Memory when idle, and with 10,000 idle connections.
    Idle,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    match &options.command {
        Some(Command::Producer(producer)) => floors::producer::run(producer),
        Some(Command::Web) => floors::web::run(),
        Some(Command::Growth(growth)) => growth::run(&options, growth),
        None => run(&options),
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let mut results = Results::default();
    println!("{}", machine::describe());
    results.reading_bytes = load::reading_bytes(0)?;
    let stage = Stage::build(options)?;
    if options.only.contains(&Part::Idle) {
        results.idle = Some(parts::idle(&stage)?);
    }
    stage.warm_up()?;
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for part in &options.only {
            match part {
                Part::Mqtt | Part::Coap | Part::Http => cases::measure(*part, &stage, &mut results)?,
                Part::Rate => parts::rate(&stage, &mut results)?,
                Part::Invalid => parts::invalid(&stage, &mut results)?,
                Part::Slow => parts::slow(&stage, &mut results)?,
                Part::Idle => {}
            }
        }
    }
    if options.only.contains(&Part::Slow) {
        results.syscalls = parts::syscalls(&stage)?;
    }
    results.log_bytes = stage.gateways[0].log_bytes();
    verdict::print(&results, &stage);
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&results)?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
