//! `citygate devices publish`: where devices stand, as the last record of each in a compacted topic.
//!
//! The key is the device, the value a JSON object of the columns of `city.device`; a record without a value withdraws a device. All is
//! read and checked before anything is sent, and published once Kafka has confirmed it.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::places;
use crate::deliver;
use crate::deliver::publisher::{Outgoing, Publisher};
use crate::devices::files;
use crate::devices::place::Place;
use crate::message::is_device_id;

/// What is published.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Instead of the identities: CSV with a header row (*.csv: device, kind, latitude, longitude, segment, position_m, upstream, downstream,
    /// lane_count, district, feeder, cell, operator, interval_s, cabinet, capacity_w, valid_from), or an object per line, as
    /// `device-simulators run --list-devices` prints them.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Withdraw a device that does not exist any more; may be repeated. Nothing else is published then.
    #[arg(long, value_name = "ID", conflicts_with = "from")]
    withdraw: Vec<String>,
    /// Check and print the records; publish nothing.
    #[arg(long)]
    dry_run: bool,
}

/// So many records are sent at a time.
const RECORDS_MAX: usize = 10_000;

/// Publishes, and says how many.
///
/// # Errors
/// Nothing was published, since something cannot be read; or Kafka did not confirm all, and how many it did.
pub fn run(
    options: &Options,
    folder: Option<&Path>,
    kafka: &deliver::Config,
    output: &mut impl Write,
) -> anyhow::Result<()> {
    let topic = format!("{}devices", kafka.topic_prefix);
    let records = records(options, folder, &topic)?;
    if options.dry_run {
        for record in &records {
            let value = record.value.as_deref().map_or("null".into(), String::from_utf8_lossy);
            writeln!(output, "{} {value}", record.key.as_deref().unwrap_or_default())?;
        }
        return Ok(());
    }
    let publisher = Publisher::new(kafka)?;
    let mut published = 0;
    for part in records.chunks(RECORDS_MAX) {
        let (confirmed, why) = publisher.publish(part);
        published += confirmed;
        if let Some(why) = why {
            bail!(
                "{published} of {} devices are in {topic}, the others are not: {why}",
                records.len()
            );
        }
    }
    writeln!(output, "{published} devices are in {topic}")?;
    Ok(())
}

fn records(options: &Options, folder: Option<&Path>, topic: &str) -> anyhow::Result<Vec<Outgoing>> {
    if !options.withdraw.is_empty() {
        return options.withdraw.iter().map(|id| withdrawn(id, topic)).collect();
    }
    let places = match &options.from {
        Some(file) => places::read(file)?,
        None => of_folder(folder)?,
    };
    ensure!(!places.is_empty(), "there is no device to publish");
    places.iter().map(|place| record(place, topic)).collect()
}

fn of_folder(folder: Option<&Path>) -> anyhow::Result<Vec<Place>> {
    let folder = folder.context("no folder of identities: set devices.folder, or give --folder DIR or --from FILE")?;
    let found = files::records(folder)?;
    places::of_identities(found.iter().map(|found| &found.record))
}

fn record(place: &Place, topic: &str) -> anyhow::Result<Outgoing> {
    Ok(Outgoing {
        topic: topic.to_owned(),
        key: Some(place.device.clone()),
        value: Some(serde_json::to_vec(place)?),
    })
}

fn withdrawn(id: &str, topic: &str) -> anyhow::Result<Outgoing> {
    ensure!(is_device_id(id), "{id:?} is no device id");
    Ok(Outgoing {
        topic: topic.to_owned(),
        key: Some(id.to_owned()),
        value: None,
    })
}
