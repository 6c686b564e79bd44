//! What a store counts.
//!
//! A field's name is the metric's name behind `citygate_`, its doc comment the help text. Labels come from the configuration, from
//! enums, and from the topics that are read.

use prometheus::{Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::operate::metrics::metrics;

/// Seconds of batches and jobs.
const SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

metrics! {
    /// The store: what came out of Kafka, and what it became in PostgreSQL.
    StoreMetrics {
        /// Rows stored, by kind.
        store_rows_total: IntCounterVec["kind"],
        /// Readings that were stored before, by kind: the same device, the same observed_at, the same content.
        store_duplicates_total: IntCounterVec["kind"],
        /// Readings stored that were received more than store.late_after after they were observed, by kind: in no aggregate.
        store_late_total: IntCounterVec["kind"],
        /// Readings not stored, as they were observed longer ago than store.retention.
        store_expired_total: IntCounter,
        /// Records that are no row and are kept in city.undecodable, by reason.
        store_undecodable_total: IntCounterVec["reason"],
        /// Records of devices written to city.device, those that end one included.
        store_devices_total: IntCounter,
        /// Records that Kafka had deleted before they were stored: the topic's retention is too short for how far the store was behind.
        store_missed_total: IntCounterVec["topic"],
        /// Records of a partition that are not stored yet, by topic and partition, of those that this instance has.
        store_lag_records: IntGaugeVec["topic", "partition"],
        /// Partitions that this instance has.
        store_partitions: IntGauge,
        /// Seconds from the first record of a batch to its commit (batch), and of these in the database (transaction).
        store_batch_seconds: HistogramVec["part"] in SECONDS,
        /// Transactions that failed and were or will be tried again, by reason: unavailable, refused, fenced (another instance has the
        /// partition), partition (one was dropped meanwhile), registry, kafka.
        store_failures_total: IntCounterVec["reason"],
        /// 1 while PostgreSQL accepts readings.
        store_database_up: IntGauge,
        /// When a batch was stored last, in seconds since 1970.
        store_last_commit_timestamp_seconds: Gauge,
        /// 1 on the instance that runs the jobs and publishes results.
        store_runs_jobs: IntGauge,
        /// Seconds that a job took, by its name; sql_files are the files run at start.
        store_job_seconds: HistogramVec["job"] in SECONDS,
        /// Jobs that failed, by name.
        store_job_failures_total: IntCounterVec["job"],
        /// When a job succeeded last, in seconds since 1970.
        store_job_last_success_timestamp_seconds: GaugeVec["job"],
        /// Results published, by topic.
        store_published_total: IntCounterVec["topic"],
        /// Results that Kafka did not confirm; they are published again.
        store_publish_failures_total: IntCounter,
        /// Results in city.outbox that are not published yet, as it was looked last; at most 1000 are counted.
        store_outbox_rows: IntGauge,
    }
}
