//! What librdkafka calls back: the end of each record, its errors, its log and its statistics.
//!
//! The end of a record is told to the [`Listener`], on librdkafka's polling thread. Errors of connections go to the health
//! monitor, statistics become metrics, and the log is told of what matters; nothing of it quotes a property that may be
//! secret.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Headers as _, Message as _};
use rdkafka::producer::ProducerContext;
use rdkafka::statistics::Statistics;
use tracing::{debug, error, info, warn};

use crate::deliver::broker::Refused;
use crate::deliver::config::Mask;
use crate::deliver::health::Monitor;
use crate::deliver::metrics::{KafkaMetrics, error_label};
use crate::deliver::reason::{Cause, Reason};

/// What librdkafka counts of a batch besides its records, at most.
const BATCH_HEAD_BYTES: usize = 100;

/// Who is told the end of each record.
pub type Listener = Box<dyn Fn(usize, Result<(), Refused>) + Send + Sync>;

/// What librdkafka calls back.
#[derive(Clone)]
pub(super) struct Reports {
    pub(super) listener: Arc<Listener>,
    pub(super) health: Arc<Monitor>,
    pub(super) metrics: KafkaMetrics,
    /// The operator asked for librdkafka's own account (`kafka.properties.debug`).
    pub(super) is_debugging: bool,
    // `tx_bytes` of the producer's last statistics: librdkafka counts from its start, the metric over all producers.
    pub(super) sent_bytes_seen: Arc<Mutex<i64>>,
    // Whether the producer's last statistics name no broker at all, not even those of the configuration.
    pub(super) knows_no_broker: Arc<AtomicBool>,
    // The largest batch that this producer makes.
    pub(super) batch_bytes: u64,
    // The topic of the last batch that was too large for it.
    pub(super) refused_topic: Arc<Mutex<String>>,
    /// What librdkafka says may quote a property.
    pub(super) mask: Mask,
}

// === impl Reports ===

impl Reports {
    /// Whether no other record was in the batch of this one: Kafka judges batches, not records.
    fn is_alone(&self, message: &BorrowedMessage<'_>) -> bool {
        let headers = message.headers().map_or(0, |headers| {
            let bytes = |header: Header<'_, &[u8]>| header.key.len() + header.value.map_or(0, <[u8]>::len);
            headers.iter().map(bytes).sum()
        });
        let record = message.payload_len() + message.key_len() + headers + BATCH_HEAD_BYTES;
        record as u64 >= self.batch_bytes
    }

    pub(super) fn refusal(&self, error: &KafkaError) -> Refused {
        let code = error.rdkafka_error_code();
        let label = error_label(code);
        let failures = self.metrics.kafka_records_failed_total.with_label_values(&[&label]);
        if failures.get() == 0 {
            // Once per kind of error: the metric tells how often.
            warn!(%error, "kafka did not accept a record; further ones are counted, not logged");
        }
        failures.inc();
        match code {
            Some(RDKafkaErrorCode::MessageTimedOut) => Refused::TimedOut,
            Some(RDKafkaErrorCode::QueueFull) => Refused::QueueFull,
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => Refused::TooLarge,
            Some(
                RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition,
            ) => Refused::TopicMissing(""),
            Some(
                RDKafkaErrorCode::InvalidTimestamp
                | RDKafkaErrorCode::InvalidRecord
                | RDKafkaErrorCode::TopicAuthorizationFailed,
            ) => Refused::Unacceptable,
            Some(RDKafkaErrorCode::PurgeQueue) => Refused::Purged,
            Some(RDKafkaErrorCode::PurgeInflight) => {
                // On the wire, or unanswered: it may arrive twice.
                self.metrics.kafka_records_in_doubt_total.inc();
                Refused::Purged
            }
            _ => Refused::Other,
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: usize) {
        let result = result.as_ref().map(drop).map_err(|(error, message)| {
            let refused = self.refusal(error);
            if refused == Refused::TooLarge && !self.is_alone(message) {
                let mut topic = self.refused_topic.lock().unwrap_or_else(PoisonError::into_inner);
                message.topic().clone_into(&mut topic);
                return Refused::BatchTooLarge;
            }
            if matches!(refused, Refused::TopicMissing(_)) {
                return Refused::TopicMissing(self.health.topics().add(message.topic()));
            }
            refused
        });
        (self.listener)(slot, result);
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        let message = &*self.mask.hide(message);
        // "[thrd:…]: host:9092/1: Disconnected…": that a broker ends a connection is no error to librdkafka, and that it
        // leaves the first question open is one that is told nowhere else.
        if fac == "FAIL"
            && let Some((_, told)) = message.split_once("]: ")
            && (matches!(level, RDKafkaLogLevel::Info) || told.contains("ApiVersionRequest failed"))
            && let Some(failure) = Reason::of_connection(RDKafkaErrorCode::BrokerTransportFailure, told)
        {
            self.health.connection_failed(failure);
        }
        // librdkafka reports each broker it cannot reach again and again; what matters of it is said by `health`.
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                error!(fac, message, "librdkafka");
            }
            _ if self.is_debugging => info!(fac, message, "librdkafka"),
            _ => debug!(fac, message, "librdkafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let reason = &*self.mask.hide(reason);
        match code {
            RDKafkaErrorCode::AllBrokersDown => self.health.connections_failed(),
            // The probe replaces the producer.
            RDKafkaErrorCode::Fatal => {
                let text = format!("the kafka producer failed: {reason}");
                self.health.failed(Cause::Producer, &text);
            }
            _ => match Reason::of_connection(code, reason) {
                Some(failure) => self.health.connection_failed(failure),
                None => debug!(%error, reason, "librdkafka error"),
            },
        }
    }

    fn stats(&self, statistics: Statistics) {
        let knows_no_broker = statistics.brokers.is_empty();
        self.knows_no_broker.store(knows_no_broker, Ordering::Relaxed);
        self.metrics.kafka_queue_records.set(statistics.msg_cnt as i64);
        self.metrics.kafka_queue_bytes.set(statistics.msg_size as i64);
        {
            let mut seen = self.sent_bytes_seen.lock().unwrap_or_else(PoisonError::into_inner);
            self.metrics
                .kafka_sent_bytes_total
                .inc_by((statistics.tx_bytes - *seen).max(0) as u64);
            *seen = statistics.tx_bytes;
        }
        for (name, topic) in &statistics.topics {
            self.metrics
                .kafka_batch_records
                .with_label_values(&[name])
                .set(topic.batchcnt.avg);
            self.metrics
                .kafka_batch_bytes
                .with_label_values(&[name])
                .set(topic.batchsize.avg);
        }
        for broker in statistics.brokers.values().filter(|broker| broker.nodeid >= 0) {
            let name = [broker.nodename.as_str()];
            let round_trip = broker.rtt.as_ref().map_or(0.0, |window| window.avg as f64 / 1e6);
            self.metrics
                .kafka_round_trip_seconds
                .with_label_values(&name)
                .set(round_trip);
            self.metrics
                .kafka_requests_in_flight
                .with_label_values(&name)
                .set(broker.waitresp_cnt);
        }
    }
}
