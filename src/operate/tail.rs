//! `citygate tail`: readings out of Kafka again, one line of JSON each.
//!
//! [`decoder`](crate::catalogue::decoder) decodes a record, and apache-avro makes JSON of it: bytes, fixed and decimals are arrays of bytes (a decimal's: two's complement, big endian), dates are
//! days, times and timestamps numbers in the unit of their type, since midnight or 1970. Fields that are null are left
//! out. What is no reading of the topic's kind, or cannot be decoded, is said on standard error, and passed over: any
//! program may write to the topic.

use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde_json::Value;

use crate::catalogue::decoder::{Decoder, Undecodable};
use crate::catalogue::registry::{self, lookup::Lookup};
use crate::catalogue::{Definition, schemas};
use crate::deliver::consumer::{self, Consumed, Consumer};
use crate::operate::config::Config;

/// What to show.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Kinds to show, such as weather; all of them, if none is named.
    #[arg(value_name = "KIND")]
    kinds: Vec<String>,
    /// Begin with the oldest readings, not with those that arrive from now on.
    #[arg(long)]
    from_beginning: bool,
    /// End after N readings.
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Show readings of this device only.
    #[arg(long, value_name = "ID")]
    device: Option<String>,
}

/// Nothing can be shown any more; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The schema folder is not as it should be.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Schemas(Vec<schemas::Error>),
    #[error("unknown kind {kind}; known kinds: {known}")]
    UnknownKind { kind: String, known: String },
    #[error("schemas: {0}")]
    Names(#[from] Box<apache_avro::Error>),
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// Kafka does not answer, or refuses.
    #[error(transparent)]
    Kafka(#[from] consumer::Error),
    #[error(
        "kafka at {servers} does not have {topics}; `citygate topics apply` creates it, and a gateway with kafka.create_topics = true"
    )]
    NoTopic { servers: String, topics: String },
    #[error("standard output: {0}")]
    Output(io::Error),
}

/// How often it is looked whether anybody still reads the output.
const TURN: Duration = Duration::from_millis(200);

/// A line of output.
#[derive(Serialize)]
struct Line<'a> {
    kind: &'a str,
    device: &'a str,
    partition: i32,
    offset: i64,
    reading: Value,
}

/// Shows readings until there are enough, or nobody reads the output any more.
///
/// # Errors
/// See [`Error`].
pub async fn run(config: &Config, options: &Options) -> Result<(), Error> {
    let found = schemas::read(&config.schemas, &config.kafka.topic_prefix);
    if !found.errors.is_empty() {
        return Err(Error::Schemas(found.errors));
    }
    let kinds = chosen(&found.definitions, &options.kinds)?;
    let registry = Lookup::new(&config.registry)?;
    let decoder = Decoder::new(&found.definitions, registry)?;
    let consumer = Consumer::new(&config.kafka)?;
    let wanted: Vec<_> = kinds.iter().map(|kind| kind.topic.as_str()).collect();
    eprintln!(
        "waiting for kafka at {}, for {} s at most",
        config.kafka.bootstrap_servers,
        consumer::TIMEOUT.as_secs()
    );
    let topics = tokio::task::block_in_place(|| consumer.assign(&wanted, options.from_beginning))?;
    if topics.is_empty() {
        return Err(Error::NoTopic {
            servers: config.kafka.bootstrap_servers.clone(),
            topics: wanted.join(", "),
        });
    }
    eprintln!("reading {} at {}", topics.join(", "), config.kafka.bootstrap_servers);
    match show(&consumer, &kinds, options, decoder).await {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        shown => shown.map_err(Error::Output),
    }
}

fn chosen<'a>(all: &'a [Definition], names: &[String]) -> Result<Vec<&'a Definition>, Error> {
    if names.is_empty() {
        return Ok(all.iter().collect());
    }
    let kind = |name: &String| {
        let found = all.iter().find(|kind| kind.name == *name);
        found.ok_or_else(|| Error::UnknownKind {
            kind: name.clone(),
            known: all.iter().map(|kind| kind.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    };
    let mut names: Vec<&String> = names.iter().collect();
    names.sort();
    names.dedup();
    names.into_iter().map(kind).collect()
}

async fn show(consumer: &Consumer, kinds: &[&Definition], options: &Options, mut decoder: Decoder) -> io::Result<()> {
    let mut output = io::stdout();
    let mut left = options.max.unwrap_or(u64::MAX);
    let mut said = String::new();
    while left > 0 && !is_closed(&output) {
        let record = match tokio::task::block_in_place(|| consumer.poll(TURN)) {
            Ok(None) => continue,
            Err(error) => {
                // Told again for every attempt to connect.
                let error = error.to_string();
                if error != said {
                    eprintln!("{error}");
                    said = error;
                }
                continue;
            }
            Ok(Some(record)) => record,
        };
        said.clear();
        let Some(kind) = kinds.iter().find(|kind| kind.topic == record.topic) else {
            continue;
        };
        let is_wanted = |wanted: &String| wanted.as_bytes() == record.key;
        if !options.device.as_ref().is_none_or(is_wanted) {
            continue;
        }
        match reading(&mut decoder, kind, &record).await {
            Err(why) => eprintln!("{}/{} at {}: {why}", record.topic, record.partition, record.offset),
            Ok((device, reading)) => {
                let line = Line {
                    kind: &kind.name,
                    device,
                    partition: record.partition,
                    offset: record.offset,
                    reading,
                };
                writeln!(output, "{}", serde_json::to_string(&line)?)?;
                output.flush()?;
                left -= 1;
            }
        }
    }
    Ok(())
}

/// Whether whoever read the output has gone: a pipe says so before anything is written to it.
fn is_closed(output: &io::Stdout) -> bool {
    let mut asked = [PollFd::new(output, PollFlags::empty())];
    let told = poll(&mut asked, Some(&Timespec::default())).unwrap_or(0);
    told > 0 && asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// The device of a record in this kind's topic, and what it sent.
async fn reading<'r>(
    decoder: &mut Decoder,
    kind: &Definition,
    record: &'r Consumed,
) -> Result<(&'r str, Value), Undecodable> {
    let decoded = decoder.reading(kind, &record.key, &record.value).await?;
    let reading = Value::try_from(decoded.reading).map_err(Box::new)?;
    Ok((decoded.device, without_nulls(reading)))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let set = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(set.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_is_named_twice_is_shown_once() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
        let all = schemas::read(&schemas::Config::every(&folder), "city.").definitions;
        let names = ["weather", "energy", "weather"].map(str::to_owned);
        let chosen: Vec<&str> = chosen(&all, &names)
            .unwrap()
            .iter()
            .map(|kind| kind.name.as_str())
            .collect();
        assert_eq!(chosen, ["energy", "weather"]);
    }
}
