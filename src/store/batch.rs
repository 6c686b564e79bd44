//! The batch that is open: rows by kind, what cannot be a row, and how far it reaches in each partition.
//!
//! Pure memory. Every record that is added counts in its partition's [`Span`], whatever is made of it, so that rows, records
//! kept as they are, and offsets are stored together or not at all. A reading that is twice in a batch is in it once.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use apache_avro::types::Value;

use super::config::Config;
use super::day::{self, Day};
use super::row::{self, Fault, Key, Layout, Source};
use crate::deliver::consumer::Consumed;

/// Bytes of records at which a batch is full, however few they are.
const BYTES_MAX: usize = 32 * 1024 * 1024;

/// A partition of a topic.
pub type Place = (Arc<str>, i32);

/// What of time is decided when a reading arrives.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub late_after_us: i64,
    /// Older days are not stored, and later ones not believed.
    pub first: Day,
    pub last: Day,
}

/// Records of one partition in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The offset behind what was stored before it.
    pub expected: i64,
    /// That behind its last record.
    pub next: i64,
    /// When its last record was written to Kafka, in milliseconds since 1970.
    pub written_ms: i64,
    /// When the last reading was received, in microseconds since 1970; none if there is no reading.
    pub received_us: Option<i64>,
}

/// Rows of one layout.
#[derive(Debug)]
pub struct Rows {
    pub layout: Arc<Layout>,
    /// Some are of days for which the table has no partition, and gets none: they are kept as records.
    pub has_detached: bool,
    pub bytes: Vec<u8>,
    pub rows: Vec<Row>,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where it is among the bytes.
    pub bytes: Range<usize>,
    pub key: Key,
    pub is_late: bool,
    /// Its record, among the batch's.
    pub record: usize,
}

/// A record that is kept as it is.
#[derive(Debug)]
pub struct Poison {
    pub record: usize,
    pub reason: &'static str,
    pub detail: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Batch {
    pub began: Option<Instant>,
    /// Its records were kept as they are before: they leave where they were kept, and no partition gets further by them.
    pub is_again: bool,
    pub records: Vec<Consumed>,
    bytes: usize,
    pub spans: BTreeMap<Place, Span>,
    pub tables: Vec<Rows>,
    pub poison: Vec<Poison>,
    /// Records of the topic of devices, of each device the last.
    pub devices: BTreeMap<Vec<u8>, usize>,
    pub expired: u64,
    /// By kind, of readings that were in this batch before.
    pub duplicates: BTreeMap<Arc<str>, u64>,
    seen: HashSet<(u64, i64, i64)>,
}

// === impl Limits ===

impl Limits {
    pub fn new(config: &Config, now: SystemTime) -> Self {
        Limits {
            late_after_us: i64::try_from(config.late_after.as_micros()).unwrap_or(i64::MAX),
            first: Day::first_kept(now, config.retention),
            last: Day::of(day::micros(now)).next(),
        }
    }
}

// === impl Batch ===

impl Batch {
    /// Of records that were kept as they are.
    pub fn again() -> Self {
        Batch {
            is_again: true,
            ..Batch::default()
        }
    }

    pub fn is_full(&self, readings_max: u32) -> bool {
        self.records.len() >= readings_max as usize || self.bytes >= BYTES_MAX
    }

    /// Adds a record, and says where; `expected`: the offset behind what is stored of its partition.
    pub fn add(&mut self, place: &Place, expected: i64, record: Consumed) -> usize {
        self.began.get_or_insert_with(Instant::now);
        self.bytes += record.key.len() + record.value.len();
        if !self.is_again {
            let next = record.offset + 1;
            let span = self.spans.entry(place.clone()).or_insert(Span {
                expected,
                next,
                written_ms: record.timestamp_ms,
                received_us: None,
            });
            span.next = next;
            span.written_ms = record.timestamp_ms;
        }
        self.records.push(record);
        self.records.len() - 1
    }

    /// A record that was added is this reading.
    ///
    /// # Errors
    /// It cannot be a row.
    pub fn reading(
        &mut self,
        place: &Place,
        at: usize,
        layout: &Arc<Layout>,
        reading: &Value,
        limits: Limits,
    ) -> Result<(), Fault> {
        let record = &self.records[at];
        let device = str::from_utf8(&record.key).map_err(|_| Fault::NoRecord)?;
        let source = Source {
            device,
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
        };
        let key = layout.key(reading, source)?;
        if key.day() > limits.last {
            return Err(Fault::Ahead);
        }
        if let Some(span) = self.spans.get_mut(place) {
            // Of one that is no row after all, too; PostgreSQL has no time that lies far before 1970.
            span.received_us = Some(key.received_us.max(0));
        }
        if key.day() < limits.first {
            self.expired += 1;
            return Ok(());
        }
        let mut hasher = DefaultHasher::new();
        (&layout.kind, device).hash(&mut hasher);
        if !self.seen.insert((hasher.finish(), key.observed_us, key.reading_id)) {
            *self.duplicates.entry(layout.kind.clone()).or_default() += 1;
            return Ok(());
        }
        let is_late = key.is_late(limits.late_after_us);
        let rows = match self.tables.iter().position(|rows| Arc::ptr_eq(&rows.layout, layout)) {
            Some(index) => &mut self.tables[index],
            None => {
                self.tables.push(Rows::new(layout.clone()));
                let last = self.tables.len() - 1;
                &mut self.tables[last]
            }
        };
        let begin = rows.bytes.len();
        if let Err(fault) = layout.write(&mut rows.bytes, reading, key, is_late, source) {
            rows.bytes.truncate(begin);
            return Err(fault);
        }
        rows.rows.push(Row {
            bytes: begin..rows.bytes.len(),
            key,
            is_late,
            record: at,
        });
        Ok(())
    }

    /// A record that was added is kept as it is.
    pub fn poison(&mut self, record: usize, reason: &'static str, detail: String) {
        self.poison.push(Poison { record, reason, detail });
    }

    /// Of a batch of kept records the last one is not in it, if it is still kept for this reason: when that began is known.
    pub fn leave_as_it_was(&mut self, reason: &str) {
        let last = self.records.len().wrapping_sub(1);
        if self
            .poison
            .last()
            .is_some_and(|poison| poison.record == last && poison.reason == reason)
        {
            self.poison.pop();
            self.records.pop();
        }
    }

    /// A record that was added is what is known of a device, or that it is none any more.
    pub fn device(&mut self, record: usize) {
        let said = &self.records[record];
        let known = self.devices.get(&said.key).map(|known| &self.records[*known]);
        // In another partition a later one may come first.
        let is_older =
            known.is_some_and(|known| known.partition != said.partition && known.timestamp_ms > said.timestamp_ms);
        if !is_older {
            self.devices.insert(said.key.clone(), record);
        }
    }
}

// === impl Rows ===

impl Rows {
    fn new(layout: Arc<Layout>) -> Self {
        Rows {
            layout,
            has_detached: false,
            bytes: Vec::new(),
            rows: Vec::new(),
        }
    }

    pub fn days(&self) -> BTreeSet<Day> {
        self.rows.iter().map(|row| row.key.day()).collect()
    }

    /// A stretch of the rows as binary COPY.
    pub fn copy(&self, of: Range<usize>) -> Vec<u8> {
        let rows = &self.rows[of];
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return [row::HEADER, row::TRAILER].concat();
        };
        [
            row::HEADER,
            &self.bytes[first.bytes.start..last.bytes.end],
            row::TRAILER,
        ]
        .concat()
    }
}
