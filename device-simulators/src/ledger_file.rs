//! The ledger as a file: what is true of a run, reading by reading, for whoever computes something from the readings.
//!
//! One JSON object per line, each with one name that says what it is: `city` (how to run it again), `device` (where it
//! stands), `incident` and `front` (what happens), `silence` (a device without power, in the city's time), then `reading`: what a
//! device sent, with the faults that it has and how it ended. A reading that a device sent several times has several lines. The
//! memory needed is a buffer; the file has some 500 bytes for a reading.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::devices::placement::Placement;

const BUFFER_BYTES: usize = 1024 * 1024;

/// A line of the file. Times are milliseconds since 1970, of the city.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Line<'a> {
    City {
        scenario: &'a str,
        seed: u64,
        start_ms: i64,
        end_ms: i64,
    },
    Device(&'a Placement),
    Incident {
        segment: String,
        position_m: f64,
        at_ms: i64,
        lasts_s: f64,
        capacity_left: f64,
    },
    Front {
        at_ms: i64,
    },
    Silence {
        device: &'a str,
        from_ms: i64,
        until_ms: i64,
    },
    Reading {
        device: &'a str,
        kind: &'a str,
        /// The device's own number of the reading.
        sequence: u64,
        /// acknowledged, rejected, busy or unanswered.
        end: &'a str,
        /// Whether a gateway accepts it: MQTT 3.1.1 acknowledges what it rejects, too. Empty: either is right.
        accepted: Option<bool>,
        faults: Vec<&'static str>,
        /// As it was sent; none if that was no JSON.
        reading: Option<&'a RawValue>,
    },
}

/// A file that devices write to while they send.
#[derive(Debug)]
pub struct LedgerFile(Mutex<Written>);

#[derive(Debug)]
struct Written {
    file: BufWriter<File>,
    /// The first error; nothing is written after it.
    failed: Option<io::Error>,
}

// === impl LedgerFile ===

impl LedgerFile {
    /// Makes the file, or empties the one that exists.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> io::Result<LedgerFile> {
        let file = BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?);
        Ok(LedgerFile(Mutex::new(Written { file, failed: None })))
    }

    /// Writes a line. What fails is told by [`LedgerFile::finish`].
    pub fn note(&self, line: &Line<'_>) {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if written.failed.is_none() {
            let line = serde_json::to_writer(&mut written.file, line).map_err(io::Error::from);
            written.failed = line.and_then(|()| written.file.write_all(b"\n")).err();
        }
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// Something could not be written: the file is not whole.
    pub fn finish(&self) -> io::Result<()> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match written.failed.take() {
            Some(error) => Err(error),
            None => written.file.flush(),
        }
    }
}

/// A payload as it was sent, if it is JSON.
pub fn json(payload: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_object_and_a_reading_is_as_it_was_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.ndjson");
        let file = LedgerFile::create(&path).unwrap();
        let reading = |payload: &'static [u8]| Line::Reading {
            device: "loop-1",
            kind: "traffic",
            sequence: 7,
            end: "acknowledged",
            accepted: Some(true),
            faults: vec!["stuck"],
            reading: json(payload),
        };
        file.note(&reading(br#"{"a":1.50}"#));
        file.note(&reading(b"{no"));
        file.finish().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let expected = r#"{"reading":{"device":"loop-1","kind":"traffic","sequence":7,"end":"acknowledged","accepted":true,"faults":["stuck"],"reading":{"a":1.50}}}"#;
        assert_eq!(lines[0], expected);
        assert!(lines[1].ends_with(r#""reading":null}}"#), "{}", lines[1]);
    }

    #[test]
    fn what_cannot_be_written_is_told_at_the_end() {
        let file = LedgerFile::create(Path::new("/dev/full")).unwrap();
        file.note(&Line::Front { at_ms: 1 });
        assert_eq!(file.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
