//! A decoded reading as a row of binary COPY: one pass over its fields, and the number by which it is known.
//!
//! Pure: values in, bytes out. Whatever the writer's schema, a value is written in the type that its column has; what
//! PostgreSQL cannot hold (U+0000 in a text, a time beyond its range) is a [`Fault`], for which the record is kept as it is.

use std::sync::Arc;

use apache_avro::types::Value;
use apache_avro::{Decimal, Schema};
use sha2::{Digest as _, Sha256};

use super::day::Day;
use super::layout::{self, Column, SqlType};
use super::{json, numeric};

/// 2000-01-01, from which PostgreSQL counts, in microseconds since 1970.
const EPOCH_US: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

/// What precedes all rows of a binary COPY, and what follows them.
pub const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
pub const TRAILER: &[u8] = &(-1i16).to_be_bytes();

/// How readings of one schema become rows of their kind's table.
#[derive(Debug)]
pub struct Layout {
    pub kind: Arc<str>,
    /// All columns of a row, for a statement.
    pub names: String,
    /// Those made from the schema; of the others a row has its own.
    columns: Vec<(usize, Column)>,
    fields: Fields,
}

/// Where a schema has what every row needs.
#[derive(Debug)]
struct Fields {
    device: Option<usize>,
    observed_at: Option<usize>,
    received_at: Option<usize>,
}

/// Where a record was, and when Kafka says that it was written.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub device: &'a str,
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
}

/// What is known of a row beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub observed_us: i64,
    pub received_us: i64,
    pub reading_id: i64,
}

/// A reading that no row can hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it is of the device {0:?}, and its key is another")]
    OtherDevice(String),
    #[error("{0}: holds U+0000, which postgresql does not store")]
    Nul(String),
    #[error("{0}: is a time that postgresql does not store")]
    Time(String),
    #[error("{0}: does not fit its column")]
    Misfit(String),
    #[error("it was observed more than a day ahead of this host's clock")]
    Ahead,
    #[error("it is no record")]
    NoRecord,
}

// === impl Fault ===

impl Fault {
    /// The `reason` label of metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Fault::OtherDevice(_) => "other_device",
            Fault::Nul(_) => "nul",
            Fault::Time(_) => "time",
            Fault::Ahead => "ahead",
            Fault::Misfit(_) | Fault::NoRecord => "misfit",
        }
    }
}

// === impl Layout ===

impl Layout {
    /// `columns`: those that the schema makes, with the types that they have in the database.
    pub fn new(kind: &str, schema: &Schema, columns: &[Column]) -> Self {
        let names: Vec<&str> = match schema {
            Schema::Record(record) => record.fields.iter().map(|field| field.name.as_str()).collect(),
            _ => Vec::new(),
        };
        let at = |name: &str| names.iter().position(|field| *field == name);
        let all = layout::own_columns().into_iter().chain(columns.iter().cloned());
        let quoted: Vec<_> = all.map(|column| super::database::quoted(&column.name)).collect();
        Layout {
            kind: kind.into(),
            names: quoted.join(", "),
            columns: columns
                .iter()
                .filter_map(|column| Some((at(&column.name)?, column.clone())))
                .collect(),
            fields: Fields {
                device: at("device"),
                observed_at: at("observed_at"),
                received_at: at("received_at"),
            },
        }
    }

    /// When the reading was observed and received, and its number: the first eight bytes of the SHA-256 of its JSON without
    /// `received_at` and without what says nothing. Of a reading without these fields both times are Kafka's.
    ///
    /// # Errors
    /// A time is out of range, or the reading is of another device.
    pub fn key(&self, reading: &Value, source: Source<'_>) -> Result<Key, Fault> {
        let Value::Record(fields) = reading else {
            return Err(Fault::NoRecord);
        };
        if let Some(Value::String(device)) = self.fields.device.map(|at| value(&fields[at].1))
            && device != source.device
        {
            return Err(Fault::OtherDevice(device.clone()));
        }
        let time = |at: Option<usize>, otherwise: i64| match at.map(|at| &fields[at]) {
            None => Ok(otherwise),
            Some((_, field)) if json::is_null(field) => Ok(otherwise),
            Some((name, field)) => timestamp_us(value(field)).ok_or_else(|| Fault::Time(name.clone())),
        };
        let written_us = source.timestamp_ms.saturating_mul(1000);
        let received_us = time(self.fields.received_at, written_us)?;
        Ok(Key {
            observed_us: time(self.fields.observed_at, received_us)?,
            received_us,
            reading_id: reading_id(fields),
        })
    }

    /// Appends the row.
    ///
    /// # Errors
    /// A value cannot be stored; what was appended is to be taken back.
    pub fn write(
        &self,
        row: &mut Vec<u8>,
        reading: &Value,
        key: Key,
        is_late: bool,
        source: Source<'_>,
    ) -> Result<(), Fault> {
        let Value::Record(fields) = reading else {
            return Err(Fault::NoRecord);
        };
        row.extend_from_slice(&((layout::OWN_COLUMNS + self.columns.len()) as i16).to_be_bytes());
        field(row, source.device.as_bytes());
        field(row, &postgres_us(key.observed_us, "observed_at")?.to_be_bytes());
        field(row, &postgres_us(key.received_us, "received_at")?.to_be_bytes());
        field(row, &[u8::from(is_late)]);
        field(row, &key.reading_id.to_be_bytes());
        field(row, &source.partition.to_be_bytes());
        field(row, &source.offset.to_be_bytes());
        for (at, column) in &self.columns {
            write_value(row, column, &fields[*at].1)?;
        }
        Ok(())
    }
}

impl Key {
    pub fn day(&self) -> Day {
        Day::of(self.observed_us)
    }

    /// Whether it was received longer than this after it was observed.
    pub fn is_late(&self, late_after_us: i64) -> bool {
        self.received_us.saturating_sub(self.observed_us) > late_after_us
    }
}

/// Without the union around it.
fn value(value: &Value) -> &Value {
    match value {
        Value::Union(_, value) => value,
        value => value,
    }
}

fn reading_id(fields: &[(String, Value)]) -> i64 {
    let says_something = |(name, value): &&(String, Value)| name != "received_at" && !json::says_nothing(value);
    let said = fields.iter().filter(says_something);
    let mut text = Vec::with_capacity(512);
    json::object(&mut text, said.map(|(name, value)| (name.as_str(), value)).collect());
    let digest = Sha256::digest(&text);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(first)
}

/// Microseconds since 1970 of whatever Avro calls a time.
fn timestamp_us(value: &Value) -> Option<i64> {
    match value {
        Value::TimestampMillis(ms) | Value::LocalTimestampMillis(ms) => ms.checked_mul(1000),
        Value::TimestampMicros(us) | Value::LocalTimestampMicros(us) => Some(*us),
        Value::TimestampNanos(ns) | Value::LocalTimestampNanos(ns) => Some(ns.div_euclid(1000)),
        _ => None,
    }
}

/// From the year 4713 before Christ, where PostgreSQL begins, to 9999, where readers in other languages end.
fn postgres_us(us: i64, name: &str) -> Result<i64, Fault> {
    const FIRST_US: i64 = -210_866_803_200_000_000;
    const LAST_US: i64 = 253_402_300_799_999_999;
    match (FIRST_US..=LAST_US).contains(&us) {
        true => Ok(us - EPOCH_US),
        false => Err(Fault::Time(name.to_owned())),
    }
}

/// A field's length and bytes.
fn field(row: &mut Vec<u8>, bytes: &[u8]) {
    row.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
    row.extend_from_slice(bytes);
}

/// The same, of bytes that are appended by `write`.
fn field_of(row: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = row.len();
    row.extend_from_slice(&[0; 4]);
    write(row);
    let length = (row.len() - at - 4) as i32;
    row[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

fn write_value(row: &mut Vec<u8>, column: &Column, of: &Value) -> Result<(), Fault> {
    if json::is_null(of) {
        row.extend_from_slice(&(-1i32).to_be_bytes());
        return Ok(());
    }
    let name = || column.name.clone();
    match (column.sql_type, value(of)) {
        (SqlType::Boolean, Value::Boolean(is)) => field(row, &[u8::from(*is)]),
        (SqlType::Integer, Value::Int(number)) => field(row, &number.to_be_bytes()),
        (SqlType::Bigint, Value::Int(number)) => field(row, &i64::from(*number).to_be_bytes()),
        (SqlType::Bigint, Value::Long(number)) => field(row, &number.to_be_bytes()),
        (SqlType::Real, Value::Float(number)) => field(row, &number.to_be_bytes()),
        (SqlType::Double, Value::Float(number)) => field(row, &f64::from(*number).to_be_bytes()),
        (SqlType::Double, Value::Int(number)) => field(row, &f64::from(*number).to_be_bytes()),
        (SqlType::Double, Value::Double(number)) => field(row, &number.to_be_bytes()),
        (SqlType::Text, Value::String(text) | Value::Enum(_, text)) if text.contains('\0') => {
            return Err(Fault::Nul(name()));
        }
        (SqlType::Text, Value::String(text) | Value::Enum(_, text)) => field(row, text.as_bytes()),
        (SqlType::Text, Value::Uuid(uuid)) => field(row, uuid.as_hyphenated().to_string().as_bytes()),
        (SqlType::Bytea, Value::Bytes(bytes) | Value::Fixed(_, bytes)) => field(row, bytes),
        (SqlType::Bytea, Value::Duration(duration)) => field(row, &<[u8; 12]>::from(*duration)),
        (SqlType::Numeric(_, scale), Value::Decimal(decimal)) => {
            write_decimal(row, decimal, scale).ok_or_else(|| Fault::Misfit(name()))?;
        }
        (SqlType::Timestamp | SqlType::LocalTimestamp, time) => {
            let us = timestamp_us(time).ok_or_else(|| Fault::Misfit(name()))?;
            field(row, &postgres_us(us, &column.name)?.to_be_bytes());
        }
        (SqlType::Date, Value::Date(days)) => {
            postgres_us(i64::from(*days).saturating_mul(86_400_000_000), &column.name)?;
            field(row, &(days - EPOCH_DAYS).to_be_bytes());
        }
        (SqlType::Time, Value::TimeMillis(ms)) => field(row, &(i64::from(*ms) * 1000).to_be_bytes()),
        (SqlType::Time, Value::TimeMicros(us)) => field(row, &us.to_be_bytes()),
        (SqlType::Jsonb, _) => {
            let at = row.len();
            field_of(row, |row| {
                row.push(1); // jsonb's version
                json::write(row, of);
            });
            if holds_nul(&row[at..]) {
                return Err(Fault::Nul(name()));
            }
        }
        _ => return Err(Fault::Misfit(name())),
    }
    Ok(())
}

/// `None`: it has no bytes, which apache-avro promises that it has.
fn write_decimal(row: &mut Vec<u8>, decimal: &Decimal, scale: u16) -> Option<()> {
    let unscaled = Vec::<u8>::try_from(decimal).ok()?;
    field_of(row, |row| numeric::write(row, &unscaled, scale));
    Some(())
}

/// Whether JSON text holds an escaped U+0000.
fn holds_nul(text: &[u8]) -> bool {
    const ESCAPE: &[u8] = b"\\u0000";
    let escapes = text
        .windows(ESCAPE.len())
        .enumerate()
        .filter(|(_, window)| *window == ESCAPE);
    let mut at = escapes.map(|(at, _)| at);
    // An even number of backslashes before it: this one begins the escape.
    at.any(|at| text[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 0)
}

#[cfg(test)]
mod tests;
