//! What a plan looks like: a line for each quantity, with what it was computed from; for people, in Markdown, or as JSON.
//!
//! Figures have three digits that count; figures of assumptions come from the constants themselves.

use std::io::{self, Write};

use super::assumptions as given;
use super::demand::{Demand, KindShare};
use super::sizing::{Sizing, TopicSize};

/// One quantity, for each fleet.
struct Row {
    what: String,
    values: Vec<String>,
    from: String,
}

pub(super) fn json(sized: &[Sizing], out: &mut dyn Write) -> io::Result<()> {
    match sized {
        [one] => writeln!(out, "{}", serde_json::to_string_pretty(one)?),
        all => writeln!(out, "{}", serde_json::to_string_pretty(all)?),
    }
}

/// For a terminal.
pub(super) fn text(demand: &Demand, sized: &[Sizing], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", asked(demand))?;
    let rows = rows(demand, sized);
    let longest =
        |texts: &mut dyn Iterator<Item = &String>| texts.map(|text| text.chars().count()).max().unwrap_or_default();
    let what = longest(&mut rows.iter().map(|row| &row.what));
    let widths: Vec<_> = (0..sized.len())
        .map(|at| longest(&mut rows.iter().map(|row| &row.values[at])))
        .collect();
    for Row {
        what: name,
        values,
        from,
    } in &rows
    {
        write!(out, "{name:<what$}")?;
        for (value, width) in values.iter().zip(&widths) {
            write!(out, "  {value:>width$}")?;
        }
        writeln!(out, "   {from}")?;
    }
    Ok(())
}

/// For a page.
pub(super) fn markdown(demand: &Demand, sized: &[Sizing], out: &mut dyn Write) -> io::Result<()> {
    let mut rows = rows(demand, sized).into_iter();
    let Some(head) = rows.next() else { return Ok(()) };
    writeln!(out, "{}\n", asked(demand))?;
    writeln!(out, "| {} | {} | computed from |", head.what, head.values.join(" | "))?;
    writeln!(out, "|---|{}---|", "--:|".repeat(sized.len()))?;
    for Row { what, values, from } in rows {
        writeln!(out, "| {what} | {} | {from} |", values.join(" | "))?;
    }
    Ok(())
}

fn asked(demand: &Demand) -> String {
    let kinds = demand
        .kinds
        .iter()
        .map(|kind| format!("{} % {}", short(100.0 * kind.share), kind.kind));
    let kinds = kinds.collect::<Vec<_>>().join(", ");
    format!(
        "A reading of each device every {} s: {kinds}; {} % of the devices stay connected; replication {}, kept {} days.",
        short(demand.interval_s),
        short(100.0 * demand.connected),
        demand.replication,
        short(demand.retention_days)
    )
}

/// A row: what it is, its value of each plan, what it comes from.
fn row(what: impl Into<String>, sized: &[Sizing], value: impl Fn(&Sizing) -> String, from: impl Into<String>) -> Row {
    Row {
        what: what.into(),
        values: sized.iter().map(value).collect(),
        from: from.into(),
    }
}

fn rows(demand: &Demand, sized: &[Sizing]) -> Vec<Row> {
    let peak = given::PEAK;
    let mut rows = vec![
        row("devices", sized, |one| short(one.devices as f64), ""),
        row(
            "readings/s",
            sized,
            |one| short(one.readings_per_s),
            "devices / interval",
        ),
        row(
            "readings/s at the peak",
            sized,
            |one| short(one.peak_readings_per_s),
            format!(
                "{peak} times the mean, as many send on the minute (assumed); what follows is sized for it, but for what is kept"
            ),
        ),
    ];
    rows.extend(topic_rows(demand, sized));
    rows.extend(kafka_rows(demand, sized));
    rows.extend(gateway_rows(sized));
    rows.extend(storage_rows(sized));
    rows
}

fn topic_rows(demand: &Demand, sized: &[Sizing]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (at, kind) in demand.kinds.iter().enumerate() {
        let name = &kind.kind;
        let value = |show: fn(&TopicSize) -> String| move |one: &Sizing| show(&one.topics[at]);
        let why = each(sized, |one| one.topics[at].why.clone());
        let avro = short(kind.avro_bytes);
        let (record, partitions, fullest) = match at {
            0 => (
                record_from(kind),
                partitions_from(&why),
                "keys are spread by their hash, so by chance".to_owned(),
            ),
            _ => (format!("the same, with {avro} of Avro"), why, "the same".to_owned()),
        };
        let bytes = value(|topic| short(topic.bytes_per_record));
        rows.push(row(format!("{name}: bytes of a record in Kafka"), sized, bytes, record));
        let number = value(|topic| topic.partitions.to_string());
        rows.push(row(format!("{name}: partitions"), sized, number, partitions));
        let more = value(|topic| format!("+{} %", short(100.0 * topic.fullest_partition)));
        rows.push(row(format!("{name}: fullest partition"), sized, more, fullest));
    }
    rows
}

fn record_from(kind: &KindShare) -> String {
    let [(_, alone), .., (most, together)] = kind.log_bytes;
    format!(
        "{} of Avro, key and Kafka's own, compressed (measured: {} in a batch of one record, {} in one of {}); what comes to a partition \
         from one gateway within {} ms shares a batch",
        short(kind.avro_bytes),
        short(alone),
        short(together),
        short(most),
        short(1000.0 * given::LINGER_S)
    )
}

fn partitions_from(why: &str) -> String {
    format!(
        "{why}; the next of {}. A partition carries {}/s (assumed), what an instance of the store and a stream slot manage",
        given::PARTITION_STEPS.map(|step| step.to_string()).join(", "),
        bytes(given::PARTITION_BYTES_PER_S)
    )
}

fn kafka_rows(demand: &Demand, sized: &[Sizing]) -> Vec<Row> {
    let others = given::OTHER_TOPICS * given::OTHER_PARTITIONS;
    let replication = demand.replication;
    vec![
        row(
            "partitions of all topics",
            sized,
            |one| one.partitions.to_string(),
            format!("those of kinds and {others} of other topics"),
        ),
        row(
            "Kafka: in a day",
            sized,
            |one| bytes(one.kafka.bytes_per_day),
            "records × bytes",
        ),
        row(
            "… with its replicas",
            sized,
            |one| bytes(one.kafka.bytes_per_day_replicated),
            format!("× {replication}"),
        ),
        row(
            "Kafka: brokers",
            sized,
            |one| one.kafka.brokers.to_string(),
            format!(
                "{}; each writes {}/s (assumed), holds {} and {} replicas of partitions",
                each(sized, |one| one.kafka.why.clone()),
                bytes(given::BROKER_BYTES_PER_S),
                bytes(given::BROKER_DISK_BYTES),
                short(given::BROKER_PARTITIONS)
            ),
        ),
        row(
            "Kafka: disk of each",
            sized,
            |one| bytes(one.kafka.disk_bytes_per_broker),
            format!(
                "what is kept, × {} for indices, segments that are partly too old, and free space",
                given::DISK_MARGIN
            ),
        ),
        row(
            "Kafka: network in, out",
            sized,
            |one| {
                format!(
                    "{}, {}",
                    bits(one.kafka.in_bytes_per_s),
                    bits(one.kafka.out_bytes_per_s)
                )
            },
            format!(
                "in: from gateways; out: {} replicas and {} readers (the store, and a stream engine or other)",
                replication - 1,
                given::CONSUMERS
            ),
        ),
    ]
}

fn gateway_rows(sized: &[Sizing]) -> Vec<Row> {
    vec![
        row(
            "gateways",
            sized,
            |one| one.gateways.gateways.to_string(),
            format!(
                "{}; each has {} cores, of which it uses {} %, and {} connections (assumed; {} measured)",
                each(sized, |one| one.gateways.why.clone()),
                given::GATEWAY_CORES,
                short(100.0 * given::GATEWAY_LOAD),
                short(given::GATEWAY_CONNECTIONS),
                short(10_000.0)
            ),
        ),
        row(
            "gateways: cores used, of all",
            sized,
            |one| short(one.gateways.cores_used),
            format!(
                "{} µs for each reading, by the rate of one gateway (measured: tests/benches/README.md)",
                each(sized, |one| short(one.gateways.cpu_us_per_reading))
            ),
        ),
        row(
            "gateways: network in",
            sized,
            |one| bits(one.gateways.in_bytes_per_s),
            format!(
                "JSON and {} bytes of MQTT, TLS, TCP and IP (assumed)",
                short(given::PROTOCOL_BYTES)
            ),
        ),
    ]
}

fn storage_rows(sized: &[Sizing]) -> Vec<Row> {
    vec![
        row(
            "instances of the store",
            sized,
            |one| one.storage.store_instances.to_string(),
            format!(
                "{} rows/s each (half of what was measured), and one may be down",
                short(given::STORE_ROWS_PER_S)
            ),
        ),
        row(
            "PostgreSQL: rows in a day",
            sized,
            |one| short(one.storage.rows_per_day),
            "a row for each reading",
        ),
        row(
            "PostgreSQL: in a month",
            sized,
            |one| bytes(one.storage.bytes_per_month),
            format!(
                "{} bytes for a row with its index entries (measured)",
                each(sized, |one| short(one.storage.bytes_per_row))
            ),
        ),
        row(
            "PostgreSQL: servers",
            sized,
            |one| one.storage.postgres_servers.to_string(),
            format!(
                "{} rows/s each, stored and computed (from a measurement at 2,000/s); of more than one each has its own kinds or districts",
                short(given::POSTGRES_ROWS_PER_S)
            ),
        ),
        row(
            "stream slots",
            sized,
            |one| one.stream_slots.to_string(),
            format!(
                "where a stream engine computes instead of PostgreSQL: {} readings/s each (assumed)",
                short(given::SLOT_READINGS_PER_S)
            ),
        ),
    ]
}

/// What is said of each plan, once if it is the same of all.
fn each(sized: &[Sizing], say: impl Fn(&Sizing) -> String) -> String {
    let mut said: Vec<String> = sized.iter().map(say).collect();
    said.dedup();
    said.join(" / ")
}

/// Three digits that count, with commas.
fn short(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let digits = number.abs().log10().floor() as i32;
    let step = 10_f64.powi(digits - 2);
    let rounded = (number / step).round() * step;
    let decimals = usize::try_from(2 - digits).unwrap_or_default();
    let text = format!("{rounded:.decimals$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let fraction = fraction.trim_end_matches('0');
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    match fraction.is_empty() {
        true => grouped,
        false => format!("{grouped}.{fraction}"),
    }
}

/// In thousands of each other: 1.5 GB.
fn bytes(number: f64) -> String {
    scaled(number, ["B", "kB", "MB", "GB", "TB", "PB"])
}

fn bits(bytes: f64) -> String {
    scaled(8.0 * bytes, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s", "Pbit/s"])
}

fn scaled(mut number: f64, units: [&str; 6]) -> String {
    let mut unit = 0;
    while number >= 999.5 && unit + 1 < units.len() {
        (number, unit) = (number / 1000.0, unit + 1);
    }
    format!("{} {}", short(number), units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_that_count() {
        let check = |number: f64, expected: &str| assert_eq!(short(number), expected);
        check(0.0, "0");
        check(0.01234, "0.0123");
        check(16.666, "16.7");
        check(16.0, "16");
        check(999.6, "1,000");
        check(166_666.7, "167,000");
        check(14_400_000_000.0, "14,400,000,000");
        assert_eq!(bytes(1_536_000_000.0), "1.54 GB");
        assert_eq!(bytes(999_600.0), "1 MB");
        assert_eq!(bits(125_000.0), "1 Mbit/s");
    }
}
