//! The spool as `dispatch` sees it, and its figures for metrics and `/status`.
//!
//! A failed append becomes the reason that its device is told; the words for operators are the spool's own. Nothing is
//! decided here.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::dispatch::{Store, Ticket, Unreadable};
use super::replay_threads::Wake;
use super::spool::{self, Failure, Spool};
use crate::deliver::metrics::SpoolMetrics;
use crate::outcome::Busy;

/// With less room than this the spool counts as full: the next readings will not fit.
const ROOM_BYTES_MIN: u64 = 4096;

/// Of the disk space, this part may hold what was replayed before deferred readings are moved out of its way.
const KEPT_SHARE: u64 = 4;

/// The spool of a gateway.
#[derive(Clone, Debug)]
pub struct SpoolStore {
    pub spool: Arc<Spool<Ticket>>,
    /// The pump, which sleeps while the spool is empty.
    pub wake: Arc<Wake>,
}

impl Store for SpoolStore {
    fn append(&self, encoded: Vec<u8>, ticket: Ticket) -> Result<(), (Ticket, Vec<u8>, Busy)> {
        let appended = self.spool.append(encoded, ticket);
        appended.map_err(|(ticket, encoded, failure)| (ticket, encoded, busy(&failure)))?;
        self.wake.notify();
        Ok(())
    }

    fn read(&self, entries_max: usize, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, Unreadable> {
        let read = self.spool.read(entries_max, bytes_max);
        read.map_err(|error| Unreadable(error.into()))
    }

    fn rewind(&self) {
        self.spool.rewind();
    }

    fn is_committed(&self, sequence: u64) -> bool {
        self.spool.is_committed(sequence)
    }

    fn commit(&self, sequence: u64) {
        self.spool.commit(sequence);
    }

    fn refuses(&self) -> Option<Busy> {
        if self.spool.has_failed() {
            Some(Busy::SpoolFailed)
        } else {
            let why = || match self.spool.is_short() {
                true => Busy::SpoolShort,
                false => Busy::SpoolFull,
            };
            (self.spool.room_bytes() < ROOM_BYTES_MIN).then(why)
        }
    }

    fn uncommitted(&self) -> u64 {
        self.spool.uncommitted_entries()
    }

    fn keeps_too_much(&self) -> bool {
        let status = self.spool.status();
        // Spares are disk space as well, and kept by nobody.
        let is_sparse = status.next_sequence - status.low_sequence > 2 * status.uncommitted_entries;
        let kept = status.disk_bytes.saturating_sub(status.uncommitted_bytes);
        is_sparse && kept > status.disk_bytes_max / KEPT_SHARE
    }
}

/// What a device is told when the spool does not accept its reading.
pub fn busy(failure: &Failure) -> Busy {
    match failure {
        Failure::Failed => Busy::SpoolFailed,
        Failure::Closed => Busy::Draining,
        Failure::Busy => Busy::SpoolBusy,
        Failure::Short => Busy::SpoolShort,
        Failure::Full | Failure::TooLarge { .. } => Busy::SpoolFull,
    }
}

/// Bytes left over the rate at which devices send: how long an outage of Kafka may (still) last. `None`: nothing comes in.
fn remaining_seconds(status: &spool::Status, ingest_bytes_per_s: f64) -> Option<f64> {
    let room = status.room_bytes as f64;
    (ingest_bytes_per_s >= 1.0).then(|| room / ingest_bytes_per_s)
}

/// Sets the gauges; called before each scrape.
pub fn observe(status: &spool::Status, ingest_bytes_per_s: f64, now_ms: i64, metrics: &SpoolMetrics) {
    metrics.spool_readings.set(status.uncommitted_entries as i64);
    metrics.spool_bytes.set(status.uncommitted_bytes as i64);
    metrics.spool_disk_bytes.set(status.disk_bytes as i64);
    metrics.spool_disk_bytes_max.set(status.disk_bytes_max as i64);
    metrics.spool_room_bytes.set(status.room_bytes as i64);
    metrics.spool_oldest_seconds.set(age_seconds(status, now_ms));
    metrics
        .spool_remaining_seconds
        .set(remaining_seconds(status, ingest_bytes_per_s).unwrap_or(f64::INFINITY));
    metrics.spool_damaged_places.set(status.damaged_places as i64);
    metrics.spool_readings_lost.set(status.damaged_entries as i64);
    metrics.spool_failed.set(i64::from(status.failed.is_some()));
    metrics.spool_short.set(i64::from(status.short.is_some()));
    let shortages = status.shortages.saturating_sub(metrics.spool_shortages_total.get());
    metrics.spool_shortages_total.inc_by(shortages);
    metrics.spool_fsync_seconds.set(status.last_fsync.as_secs_f64());
    // The spool counts from its start, as the metrics do. Two scrapes at once may see one difference twice at most.
    let fsyncs = status.fsyncs.saturating_sub(metrics.spool_fsyncs_total.get());
    metrics.spool_fsyncs_total.inc_by(fsyncs);
    let seconds = status.fsyncs_total.as_secs_f64() - metrics.spool_fsync_seconds_total.get();
    metrics.spool_fsync_seconds_total.inc_by(seconds.max(0.0));
}

/// The spool's part of `/status`.
pub fn describe(
    status: &spool::Status,
    ingest_bytes_per_s: f64,
    (unconfirmed_copies, replaying): (usize, usize),
    (defer_refused, deferred): (i64, u64),
    (stalled, in_doubt): (Duration, u64),
    now_ms: i64,
) -> Value {
    json!({
        "readings": status.uncommitted_entries,
        "bytes": status.uncommitted_bytes,
        "disk_bytes": status.disk_bytes,
        "disk_bytes_max": status.disk_bytes_max,
        "oldest_s": age_seconds(status, now_ms),
        "remaining_s": remaining_seconds(status, ingest_bytes_per_s),
        "waiting_to_be_written_bytes": status.queued_bytes,
        // While Kafka holds copies that it does not confirm, nothing is replayed.
        "unconfirmed_copies": unconfirmed_copies,
        "replaying": replaying,
        "defer_refused": defer_refused,
        // For topics that Kafka does not have.
        "deferred": deferred,
        "fsync_s": status.last_fsync.as_secs_f64(),
        // For so long no write was finished although one waits.
        "stalled_s": stalled.as_secs_f64(),
        "in_doubt": in_doubt,
        "damaged_places": status.damaged_places,
        "readings_lost": status.damaged_entries,
        "short": status.short,
        "failed": status.failed,
    })
}

fn age_seconds(status: &spool::Status, now_ms: i64) -> f64 {
    status
        .oldest_ms
        .map_or(0.0, |oldest| (now_ms - oldest).max(0) as f64 / 1000.0)
}
