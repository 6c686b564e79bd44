//! `citygate topics plan`: how large everything must be for so many devices, with every assumption.
//!
//! [`sizing`] computes it from [`demand`] and the figures of [`assumptions`], which say where they come from; [`print`] shows it.

use std::io::Write;

use clap::Args;
use jiff::SignedDuration;

use super::error::Error;
use crate::topics::Retention;

mod assumptions;

mod demand;

mod print;

mod sizing;

use demand::Demand;

const DAY_S: f64 = 86_400.0;

/// What to plan for.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How many devices; several numbers, with commas between, are shown side by side.
    #[arg(long, value_name = "NUMBER", required = true, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=10_000_000_000))]
    devices: Vec<u64>,
    /// How often each sends a reading.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = interval)]
    interval: SignedDuration,
    /// What share of them sends each kind; of a kind that is not bundled with the bytes of a reading in Avro: parking=0.1:120.
    #[arg(
        long,
        value_name = "KIND=SHARE,…",
        default_value = "traffic=0.2,weather=0.1,energy=0.7"
    )]
    kinds: String,
    /// Replicas in Kafka.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    replication: u64,
    /// How long Kafka keeps readings.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = limited)]
    retention: Retention,
    /// What share of the devices keeps a connection open.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share)]
    connected: f64,
    /// How many gateways share the readings: the more there are, the smaller Kafka's batches. Default: as many as are needed, and one more.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    gateways: Option<u64>,
    /// Print JSON.
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print a table in Markdown; that of deploy/SIZING.md is made so.
    #[arg(long)]
    markdown: bool,
}

/// Computes and prints it.
///
/// # Errors
/// The kinds are wrong, or nobody reads what is printed.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<(), Error> {
    let kinds = demand::kinds(&options.kinds).map_err(Error::Kinds)?;
    let retention_days = match options.retention {
        Retention::For(time) => time.as_secs_f64() / DAY_S,
        Retention::Unlimited => 0.0, // `limited` refuses it
    };
    let demands = options.devices.iter().map(|&devices| Demand {
        devices,
        interval_s: options.interval.as_secs_f64(),
        kinds: kinds.clone(),
        replication: options.replication,
        retention_days,
        connected: options.connected,
        gateways: options.gateways,
    });
    let demands: Vec<_> = demands.collect();
    let sized: Vec<_> = demands.iter().map(sizing::size).collect();
    match (options.json, options.markdown) {
        (true, _) => print::json(&sized, out)?,
        (_, true) => print::markdown(&demands[0], &sized, out)?,
        _ => print::text(&demands[0], &sized, out)?,
    }
    Ok(())
}

fn interval(text: &str) -> Result<SignedDuration, String> {
    let parsed = text.parse::<SignedDuration>().map_err(|error| error.to_string())?;
    let is_good = parsed.is_positive();
    is_good
        .then_some(parsed)
        .ok_or_else(|| "must be longer than 0".to_owned())
}

fn limited(text: &str) -> Result<Retention, String> {
    match text.parse()? {
        Retention::Unlimited => Err("a disk has its limits: plan for a time, such as \"400d\"".to_owned()),
        limited => Ok(limited),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let parsed = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    parsed.ok_or_else(|| "must be between 0 and 1".to_owned())
}
