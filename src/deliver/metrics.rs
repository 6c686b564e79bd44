//! What is counted on the way to Kafka: the producer, and the spool.
//!
//! A field's name is the metric's name behind `citygate_`, its doc comment the help text. Labels come from enums and from
//! the configuration only.

use prometheus::{Counter, Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use rdkafka::types::RDKafkaErrorCode;

use crate::operate::metrics::{Registry, metrics};

metrics! {
    /// The Kafka producer: our own counts, and librdkafka's statistics (its name for each in parentheses).
    KafkaMetrics {
        /// 1 while Kafka confirms readings, 0 while it does not.
        kafka_up: IntGauge,
        /// 1 for each reason why Kafka is unavailable now (dns, refused, timeout, connection, tls, sasl, no_broker, no_leader,
        /// topic_missing, topic_refused, unconfirmed, producer, or starting); /readyz says it in words.
        kafka_unavailable: IntGaugeVec["reason"],
        /// Producers that were replaced because they failed for good or knew no broker any more.
        kafka_producers_replaced_total: IntCounter,
        /// 1 while Kafka does not have this topic: its readings are spooled, or answered busy without a spool.
        kafka_topic_missing: IntGaugeVec["topic"],
        /// Partitions of our topics that have no leader now: their readings are spooled, or answered busy without a spool.
        kafka_partitions_without_leader: IntGauge,
        /// Records enqueued in the Kafka producer.
        kafka_records_sent_total: IntCounter,
        /// Records that Kafka did not confirm, by error: librdkafka's code in snake_case, such as message_timed_out.
        kafka_records_failed_total: IntCounterVec["error"],
        /// Records that timed out, or were withdrawn unconfirmed when a producer was replaced or closed, and may nevertheless
        /// have been written: possible duplicates.
        kafka_records_in_doubt_total: IntCounter,
        /// Largest batch that the producer makes: kafka.batch_bytes, unless it had to be smaller for the max.message.bytes of
        /// a topic.
        kafka_batch_bytes_max: IntGauge,
        /// Records waiting in the producer's queues (msg_cnt).
        kafka_queue_records: IntGauge,
        /// Bytes waiting in the producer's queues (msg_size).
        kafka_queue_bytes: IntGauge,
        /// Average records per produce batch over the last statistics interval, by topic (batchcnt.avg).
        kafka_batch_records: IntGaugeVec["topic"],
        /// Average bytes per produce batch over the last statistics interval, by topic (batchsize.avg).
        kafka_batch_bytes: IntGaugeVec["topic"],
        /// Average broker round trip in seconds over the last statistics interval, by broker (rtt.avg).
        kafka_round_trip_seconds: GaugeVec["broker"],
        /// Requests to each broker awaiting a response (waitresp_cnt).
        kafka_requests_in_flight: IntGaugeVec["broker"],
        /// Bytes sent to Kafka, all brokers (tx_bytes).
        kafka_sent_bytes_total: IntCounter,
    }
}

metrics! {
    /// The spool: what is safe on this disk and not yet in Kafka.
    SpoolMetrics {
        /// Readings in the spool that are not in Kafka yet.
        spool_readings: IntGauge,
        /// Bytes of these readings.
        spool_bytes: IntGauge,
        /// Bytes that the spool occupies on disk, free segments included.
        spool_disk_bytes: IntGauge,
        /// Bytes that the spool may occupy on disk (spool.bytes_max).
        spool_disk_bytes_max: IntGauge,
        /// Seconds since the oldest reading in the spool was received; 0 when it is empty.
        spool_oldest_seconds: Gauge,
        /// Bytes of readings that the spool has room for, on its file system and in spool.bytes_max.
        spool_room_bytes: IntGauge,
        /// Seconds until the spool is full at the rate at which devices send now, were Kafka unavailable; +Inf when none send.
        spool_remaining_seconds: Gauge,
        /// Readings that were written to the spool and fsynced.
        spool_appended_total: IntCounter,
        /// Readings of the spool that were replayed to Kafka and confirmed.
        spool_replayed_total: IntCounter,
        /// Readings that Kafka refuses as they are: they stay in the spool and are sent again.
        spool_readings_refused: IntGauge,
        /// Readings of the spool whose topics do not exist in Kafka: they stay in the spool until they do.
        spool_readings_without_topic: IntGauge,
        /// Reads of the spool that failed; the replay pauses for a second after each.
        spool_read_errors_total: IntCounter,
        /// Places of the spool's files that were found damaged: readings may be missing.
        spool_damaged_places: IntGauge,
        /// Readings known to be lost: in damaged places of the spool, or with files of it that were removed.
        spool_readings_lost: IntGauge,
        /// Groups of readings written to the spool, with one fsync each.
        spool_fsyncs_total: IntCounter,
        /// Seconds that their writes and fsyncs took; over spool_fsyncs_total, the mean.
        spool_fsync_seconds_total: Counter,
        /// Seconds that the last write and fsync of the spool took.
        spool_fsync_seconds: Gauge,
        /// 1 while the spool's disk is slow: it finished no write for a second or longer, now or in the last ten seconds.
        spool_disk_slow: IntGauge,
        /// Seconds for which the spool's disk has finished no write although one is pending; 0 when none is.
        spool_stalled_seconds: Gauge,
        /// Readings that were answered busy at their deadline and then written to the spool all the same: possible
        /// duplicates.
        spool_readings_in_doubt_total: IntCounter,
        /// 1 when the spool's disk failed or its files were removed: the gateway accepts nothing more and ends.
        spool_failed: IntGauge,
        /// 1 while the system refuses the spool file descriptors or memory: readings that it cannot write are answered busy.
        spool_short: IntGauge,
        /// Times that the spool was refused a file descriptor, memory or an uninterrupted call; it tries again.
        spool_shortages_total: IntCounter,
    }
}

/// The metrics of this room.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub kafka: KafkaMetrics,
    pub spool: SpoolMetrics,
}

// === impl Metrics ===

impl Metrics {
    pub fn register(registry: &Registry) -> Self {
        Metrics {
            kafka: KafkaMetrics::register(registry),
            spool: SpoolMetrics::register(registry),
        }
    }
}

/// Counted, and shown nowhere.
impl Default for Metrics {
    fn default() -> Self {
        Metrics::register(&Registry::default())
    }
}

/// A code of librdkafka as the `error` label: `MessageTimedOut` is `message_timed_out`.
pub fn error_label(code: Option<RDKafkaErrorCode>) -> String {
    let Some(code) = code else {
        return "other".to_owned();
    };
    let name = format!("{code:?}");
    let letters: Vec<char> = name.chars().collect();
    let mut label = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let after_word = at > 0 && !letters[at - 1].is_uppercase();
        let before_word = letters.get(at + 1).is_some_and(|next| next.is_lowercase());
        if at > 0 && letter.is_uppercase() && (after_word || before_word) {
            label.push('_');
        }
        label.push(letter.to_ascii_lowercase());
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_labelled_in_snake_case() {
        let check = |code, expected: &str| assert_eq!(error_label(code), expected);
        check(Some(RDKafkaErrorCode::MessageTimedOut), "message_timed_out");
        check(Some(RDKafkaErrorCode::PartitionEOF), "partition_eof");
        check(Some(RDKafkaErrorCode::SSL), "ssl");
        check(Some(RDKafkaErrorCode::ISRInsufficient), "isr_insufficient");
        check(Some(RDKafkaErrorCode::QueueFull), "queue_full");
        check(None, "other");
    }
}
