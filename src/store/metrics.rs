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
        /// Records that are no row, and results that cannot be published (result: not as its schema, too_large, not_accepted by Kafka), which are
        /// kept in city.undecodable, by reason.
        store_undecodable_total: IntCounterVec["reason"],
        /// Records of devices written to city.device, those that end one included.
        store_devices_total: IntCounter,
        /// Records that Kafka had deleted before they were stored: the topic's retention is too short for how far the store was behind.
        store_missed_total: IntCounterVec["topic"],
        /// Records of a partition that are not stored yet, by topic and partition, of those that this instance has.
        store_lag_records: IntGaugeVec["topic", "partition"],
        /// Until when everything that Kafka has of a partition is stored, in seconds since 1970, by topic and partition, of those that this
        /// instance has: the time of the look that found nothing behind what is stored, else that of the last record stored. How old that is
        /// is how far the store is behind, also while nothing can be looked at.
        store_stored_until_timestamp_seconds: GaugeVec["topic", "partition"],
        /// Partitions that this instance has.
        store_partitions: IntGauge,
        /// Partitions that a topic has, by topic, of all topics that are read, on every instance: together the instances should have so many.
        store_topic_partitions: IntGaugeVec["topic"],
        /// Seconds from the first record of a batch to its commit (batch), and of these in the database (transaction).
        store_batch_seconds: HistogramVec["part"] in SECONDS,
        /// Transactions that failed and were or will be tried again, by reason: unavailable, refused, fenced (another instance has the
        /// partition), partition (one was dropped meanwhile), clocks, topic (made anew),
        /// registry, kafka.
        store_failures_total: IntCounterVec["reason"],
        /// 1 while PostgreSQL accepts readings.
        store_database_up: IntGauge,
        /// 1 for the reason why PostgreSQL accepts no readings: connection (none, or lost), timeout, login, starting (or recovering), stopping,
        /// full (disk, memory, connections), read_only, conflict (locks, another store), clocks (its own and this host's differ), server, refused
        /// (a statement).
        store_database_unavailable: IntGaugeVec["reason"],
        /// 1 while something does not work, by part: start, postgresql, kafka, registry (meanwhile nothing is stored); jobs, results,
        /// alertmanager (readings are stored all the same). /readyz has the words.
        store_fault: IntGaugeVec["part"],
        /// When a batch was stored last, in seconds since 1970.
        store_last_commit_timestamp_seconds: Gauge,
        /// 1 on the instance that runs the jobs.
        store_runs_jobs: IntGauge,
        /// Seconds that a job took, by its name; sql_files are the files run at start.
        store_job_seconds: HistogramVec["job_name"] in SECONDS,
        /// Jobs that failed, by name.
        store_job_failures_total: IntCounterVec["job_name"],
        /// When a job succeeded last, in seconds since 1970, on the instance that ran it.
        store_job_last_success_timestamp_seconds: GaugeVec["job_name"],
        /// Seconds from the beginning of one run of a job to that of the next, on every instance, by name.
        store_job_interval_seconds: GaugeVec["job_name"],
        /// Until when windows of a kind are computed, in seconds since 1970, by kind; on the instance that runs the jobs.
        store_computed_until_timestamp_seconds: GaugeVec["kind"],
        /// Results published, by topic.
        store_published_total: IntCounterVec["topic"],
        /// Results that Kafka did not confirm; they are published again.
        store_publish_failures_total: IntCounter,
        /// Results in city.outbox that are not published yet, on the instance that publishes.
        store_outbox_rows: IntGauge,
        /// Seconds since the oldest of them was put there; 0 if there is none.
        store_outbox_age_seconds: Gauge,
        /// Alerts on the city that an Alertmanager has accepted, counted each time that they were told, by its host and port.
        store_alertmanager_alerts_total: IntCounterVec["alertmanager"],
        /// Requests that an Alertmanager did not accept, by its host and port and by reason: timeout, connection, refused. They are sent again.
        store_alertmanager_failures_total: IntCounterVec["alertmanager", "reason"],
        /// 1 while an Alertmanager accepts alerts, by its host and port; on the instance that tells it.
        store_alertmanager_up: IntGaugeVec["alertmanager"],
    }
}
