//! Instructions per reading in each stage, counted under callgrind and compared with `baseline.toml`.
//!
//! ```text
//! cargo bench --bench instructions                       # compares; exit code 1 if a stage costs over 3 % more
//! cargo bench --bench instructions -- --only validate    # stages whose name holds this
//! cargo bench --bench instructions -- --update           # the new figures are meant: makes them the baseline
//! ```
//! `BENCH_SCHEMAS=FOLDER` reads another folder, which must have the three kinds that are sent: with many kinds beside them, say.
//! A count does not depend on how busy the machine is, so a small regression shows at once. It does depend on compiler, C
//! library and processor, which the baseline names: where they differ the comparison is printed, and fails nothing. What
//! still varies from run to run is the key of `HashMap`'s hash (the look-up of a kind by its name): well below 0.1 %.
//! Threads, sockets and librdkafka are not counted, nor is the MQTT codec, which nobody outside of its room can call: for
//! them there is `end_to_end`.

mod baseline;
mod callgrind;
mod json;
mod stages;

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

use baseline::{Baseline, Environment};

/// Over this a stage counts as slower, in percent.
const LIMIT_PERCENT: f64 = 3.0;

/// Instructions per reading in each stage, compared with tests/benches/instructions/baseline.toml.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// Make what is counted the baseline.
    #[arg(long)]
    update: bool,
    /// Only stages whose name holds this.
    #[arg(long, value_name = "TEXT", conflicts_with = "update", default_value = "")]
    only: String,
    /// `cargo bench` says this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one stage, for callgrind to watch.
    #[command(hide = true)]
    Stage { name: String },
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    if let Some(Command::Stage { name }) = &options.command {
        let mut stage = stages::build(name)?;
        callgrind::run(stage.as_mut());
        return Ok(ExitCode::SUCCESS);
    }
    let mut counted = Baseline::new(Environment::here()?);
    for name in stages::names() {
        if name.contains(&options.only) {
            let each = callgrind::count(&name).with_context(|| format!("stage {name:?}"))?;
            counted.instructions.insert(name, each);
        }
    }
    if counted.instructions.is_empty() {
        bail!(
            "no stage's name holds {:?}; there is {:?}",
            options.only,
            stages::names()
        );
    }
    let known = Baseline::read();
    if options.update {
        print(&counted, known.as_ref().ok());
        counted.write()?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(verdict(&counted, &known?))
}

/// Prints each stage; how many cost more than they may.
fn print(counted: &Baseline, known: Option<&Baseline>) -> usize {
    let mut slower = 0;
    println!(
        "{:<40} {:>10} {:>10} {:>8}",
        "instructions a reading", "baseline", "now", ""
    );
    for (name, now) in &counted.instructions {
        let Some(before) = known.and_then(|known| known.instructions.get(name)) else {
            println!("{name:<40} {:>10} {now:>10.1}", "-");
            continue;
        };
        let percent = (now / before - 1.0) * 100.0;
        let word = match percent {
            percent if percent > LIMIT_PERCENT => "SLOWER",
            percent if percent < -LIMIT_PERCENT => "faster",
            _ => "",
        };
        slower += usize::from(percent > LIMIT_PERCENT);
        println!("{name:<40} {before:>10.1} {now:>10.1} {percent:>+7.2} % {word}");
    }
    slower
}

fn verdict(counted: &Baseline, known: &Baseline) -> ExitCode {
    let slower = print(counted, Some(known));
    let faster = |(name, now): (&String, &f64)| {
        let before = known.instructions.get(name);
        before.is_none_or(|before| now / before < 1.0 - LIMIT_PERCENT / 100.0)
    };
    let how = "cargo bench --bench instructions -- --update";
    if counted.instructions.iter().any(faster) {
        println!("\nsome stages are faster, or new: keep that by `{how}`");
    }
    let gone = known.instructions.keys().filter(|name| !stages::names().contains(name));
    gone.for_each(|name| println!("\n{name:?} is in the baseline, and is no stage any more"));
    if slower == 0 {
        return ExitCode::SUCCESS;
    }
    println!("\n{slower} stages cost over {LIMIT_PERCENT} % more than the baseline; if that is meant: `{how}`");
    if counted.environment == known.environment {
        return ExitCode::FAILURE;
    }
    println!(
        "the baseline is of {}; here it is {}: not comparable, so nothing fails",
        known.environment, counted.environment
    );
    ExitCode::SUCCESS
}
