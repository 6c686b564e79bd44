//! The catalogue: every metric with its help and its labels, in one struct of structs.
//!
//! A field's name is the metric's name behind `citygate_`, and its doc comment is the help text. Labels come from enums
//! only; a device id is never one. Each room is handed its own sub-struct. The law of the house is read off
//! [`ReadingMetrics`]: per protocol and kind, `received = delivered + spooled + rejected + busy` when nothing is in flight.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};
use strum::{EnumCount, VariantArray};

use crate::message::Protocol;
use crate::outcome::{BusyKind, Outcome, OutcomeKind, Reason};

/// The `kind` label of a message whose address names no known kind.
pub const UNKNOWN_KIND: &str = "unknown";

/// Seconds from reception to answer: from a loopback Kafka without linger up to the longest delivery time-out.
const ANSWER_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Declares a struct of metrics and its registration; see the module's documentation.
macro_rules! metrics {
    ($(#[doc = $about:literal])+ $name:ident { $( $(#[doc = $help:literal])+ $field:ident: $type:ident $([$($label:literal),+])? $(in $buckets:ident)? ,)+ }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone)]
        pub struct $name { $( $(#[doc = $help])+ pub $field: $type, )+ }

        impl $name {
            fn register(registry: &Registry) -> Self {
                Self { $( $field: {
                    let opts = Opts::new(concat!("citygate_", stringify!($field)), concat!($($help),+).trim());
                    let metric: $type = make!($type, opts $(, [$($label),+])? $(, in $buckets)?);
                    registry.register(Box::new(metric.clone())).expect("each name is declared once");
                    metric
                }, )+ }
            }
        }
    };
}

macro_rules! make {
    (IntCounter, $opts:ident) => { IntCounter::with_opts($opts).expect("valid name") };
    (Counter, $opts:ident) => { Counter::with_opts($opts).expect("valid name") };
    (Gauge, $opts:ident) => { Gauge::with_opts($opts).expect("valid name") };
    (IntGauge, $opts:ident) => { IntGauge::with_opts($opts).expect("valid name") };
    (IntCounterVec, $opts:ident, [$($label:literal),+]) => {
        IntCounterVec::new($opts, &[$($label),+]).expect("valid names")
    };
    (GaugeVec, $opts:ident, [$($label:literal),+]) => { GaugeVec::new($opts, &[$($label),+]).expect("valid names") };
    (IntGaugeVec, $opts:ident, [$($label:literal),+]) => {
        IntGaugeVec::new($opts, &[$($label),+]).expect("valid names")
    };
    (HistogramVec, $opts:ident, [$($label:literal),+], in $buckets:ident) => {
        HistogramVec::new(HistogramOpts::from($opts).buckets($buckets.to_vec()), &[$($label),+]).expect("valid names")
    };
}

metrics! {
    /// The law of the house, and why readings did not pass.
    ReadingMetrics {
        /// Readings received, by protocol and kind.
        readings_received_total: IntCounterVec["protocol", "kind"],
        /// Readings ended, by protocol, kind and outcome (delivered, spooled, rejected, busy).
        readings_total: IntCounterVec["protocol", "kind", "outcome"],
        /// Readings rejected, by protocol and reason.
        readings_rejected_total: IntCounterVec["protocol", "reason"],
        /// Rejected readings that are counted but not kept: beyond their device's limits.dead_letters_per_minute.
        dead_letters_skipped_total: IntCounter,
        /// Readings answered busy, by protocol and reason.
        readings_busy_total: IntCounterVec["protocol", "reason"],
        /// Receipts dropped without an outcome: each one is a bug in citygate.
        receipts_dropped_total: IntCounter,
        /// Seconds from the reception of a reading to its outcome.
        reading_answer_seconds: HistogramVec["protocol"] in ANSWER_BUCKETS,
        /// Bytes of messages taken in and not yet answered.
        in_flight_bytes: IntGauge,
        /// Bytes that may be in flight at once (limits.in_flight_bytes).
        in_flight_bytes_max: IntGauge,
        /// Bytes of messages that have arrived in part, of those larger than 4 KiB.
        incomplete_bytes: IntGauge,
        /// Bytes that such messages may have at once (limits.incomplete_bytes).
        incomplete_bytes_max: IntGauge,
        /// Times an incomplete message was not read because there was no room for more of it.
        incomplete_waits_total: IntCounter,
        /// Incomplete messages given up while others waited for room, by reason: stalled (nothing more came), over_share
        /// (its address had more than its share), slow (read beyond the limit, it kept the others waiting).
        incomplete_evicted_total: IntCounterVec["reason"],
    }
}

metrics! {
    /// MQTT connections and what passes over them.
    MqttMetrics {
        /// MQTT connections open now.
        mqtt_connections: IntGauge,
        /// MQTT connections accepted, by protocol version (3.1.1, 5) after a good CONNECT; 3.1 counts as 3.1.1.
        mqtt_connects_total: IntCounterVec["version"],
        /// MQTT sessions kept of clients that are away.
        mqtt_sessions_kept: IntGauge,
        /// MQTT connections that may be open at once: mqtt.connections_max, or as many as file descriptors allow.
        mqtt_connections_max: IntGauge,
        /// MQTT connections that could not be accepted (no file descriptor, no memory …); they wait in the kernel's queue.
        mqtt_accept_failures_total: IntCounter,
        /// MQTT connections closed, by reason.
        mqtt_closed_total: IntCounterVec["reason"],
        /// MQTT publishes of QoS 1 and 2 that were accepted and whose connection ended before their answer could be sent.
        mqtt_unanswered_total: IntCounter,
        /// MQTT wills that became due (their connection ended other than by DISCONNECT with reason 0, and their Will Delay
        /// Interval passed) and were discarded: the gateway does not deliver wills.
        mqtt_wills_discarded_total: IntCounter,
        /// MQTT packets received, by type.
        mqtt_packets_received_total: IntCounterVec["type"],
        /// Times reading from a connection paused because its window or the byte budget was used up, or Kafka was away.
        mqtt_reading_paused_total: IntCounterVec["reason"],
    }
}

metrics! {
    /// CoAP datagrams and exchanges.
    CoapMetrics {
        /// CoAP datagrams received.
        coap_datagrams_received_total: IntCounter,
        /// CoAP datagrams that the kernel dropped because a socket's receive buffer was full; known when the next datagrams arrive at that socket, so not those before it closes.
        coap_datagrams_dropped_total: IntCounter,
        /// CoAP datagrams not answered with a response code, by reason (malformed, duplicate, reset, not ours …).
        coap_datagrams_ignored_total: IntCounterVec["reason"],
        /// CoAP responses sent, by code.
        coap_responses_total: IntCounterVec["code"],
        /// CoAP separate responses sent again because no ACK had come.
        coap_retransmissions_total: IntCounter,
        /// CoAP peers remembered for de-duplication.
        coap_peers: IntGauge,
        /// CoAP messages remembered for de-duplication.
        coap_messages_remembered: IntGauge,
        /// Bytes charged for them and their peers (at most coap.remembered_bytes_max).
        coap_remembered_bytes: IntGauge,
        /// CoAP messages forgotten within 45 s (MAX_TRANSMIT_SPAN) for want of room: a retransmission is then a new reading.
        coap_messages_forgotten_total: IntCounter,
        /// Sockets open for single addresses of this host, where CoAP listens on a wildcard.
        coap_own_addresses: IntGauge,
        /// Times no such socket could be opened, so that answers may leave from another address than the one asked.
        coap_own_addresses_failed_total: IntCounter,
        /// CoAP exchanges open now: requests not yet answered, and separate responses not yet acknowledged.
        coap_exchanges: IntGauge,
        /// CoAP datagrams that the socket did not take (buffer full, no route …).
        coap_send_failures_total: IntCounter,
    }
}

metrics! {
    /// HTTP connections and responses.
    HttpMetrics {
        /// HTTP connections open now.
        http_connections: IntGauge,
        /// HTTP connections that may be open at once: http.connections_max, or as many as file descriptors allow.
        http_connections_max: IntGauge,
        /// HTTP connections that could not be accepted (no file descriptor, no memory …); they wait in the kernel's queue.
        http_accept_failures_total: IntCounter,
        /// HTTP responses sent, by status code.
        http_responses_total: IntCounterVec["status"],
        /// HTTP requests that are no readings and were refused, by reason: bad_head (400), head_too_large (431), bad_host (400),
        /// bad_transfer_encoding (400, 501), method_not_allowed (405), bad_idempotency_key (400).
        http_requests_refused_total: IntCounterVec["reason"],
        /// HTTP requests whose connection was reset before their body was whole: not received, not answered, and not among
        /// the readings.
        http_requests_reset_total: IntCounter,
        /// HTTP requests with an Idempotency-Key, by what they were: new, repeated (answered again, no new reading),
        /// unfinished (only what was busy is passed on again), in_flight (409), reused (422), full (503), bad_key (400).
        http_idempotent_requests_total: IntCounterVec["result"],
        /// Idempotency keys remembered now.
        http_idempotency_keys: IntGauge,
        /// Idempotency keys forgotten before their lifetime was over, for want of room: a repetition is then a new reading.
        http_idempotency_keys_forgotten_total: IntCounter,
    }
}

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
        /// Records handed to the Kafka producer.
        kafka_records_sent_total: IntCounter,
        /// Records that Kafka did not confirm, by error.
        kafka_records_failed_total: IntCounterVec["error"],
        /// Records that timed out, or were taken back unanswered when a producer was replaced or closed, and may nevertheless
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
        /// Hours of readings that the spool still has room for, at the rate at which devices send; +Inf when none do.
        spool_hours_left: Gauge,
        /// Readings that were written to the spool and fsynced.
        spool_appended_total: IntCounter,
        /// Readings of the spool that the replay brought to Kafka.
        spool_replayed_total: IntCounter,
        /// Readings that Kafka refuses as they are: they stay in the spool and are tried again.
        spool_set_aside: IntGauge,
        /// Readings of the spool that wait for topics which Kafka does not have.
        spool_readings_parked: IntGauge,
        /// Reads of the spool that failed; the replay pauses for a second after each.
        spool_read_errors_total: IntCounter,
        /// Places of the spool's files that were found damaged: readings may be missing.
        spool_damaged_places: IntGauge,
        /// Readings known to be lost: in damaged places of the spool, or with files of it that were removed.
        spool_lost_readings: IntGauge,
        /// Groups of readings written to the spool, with one fsync each.
        spool_fsyncs_total: IntCounter,
        /// Seconds that their writes and fsyncs took; over spool_fsyncs_total, the mean.
        spool_fsync_seconds_total: Counter,
        /// Seconds that the last write and fsync of the spool took.
        spool_fsync_seconds: Gauge,
        /// 1 while the spool's disk is slow: it finished no write for a second or longer, now or in the last ten seconds.
        spool_disk_slow: IntGauge,
        /// Seconds for which the spool's disk has finished no write although one waits; 0 when none does.
        spool_stalled_seconds: Gauge,
        /// Readings that were answered busy at their deadline and then written to the spool all the same: possible
        /// duplicates.
        spool_readings_in_doubt_total: IntCounter,
        /// 1 when the spool's disk failed or its files were taken away: the gateway takes nothing more and ends.
        spool_failed: IntGauge,
        /// 1 while the spool is short of file descriptors or memory: what it cannot take is answered busy.
        spool_short: IntGauge,
        /// Times that the spool was refused a file descriptor, memory or an uninterrupted call; it tries again.
        spool_shortages_total: IntCounter,
    }
}

/// All metrics of one gateway, in a registry of its own so that several gateways fit into one process.
#[derive(Debug)]
pub struct Metrics {
    pub registry: Registry,
    pub readings: ReadingMetrics,
    pub mqtt: MqttMetrics,
    pub coap: CoapMetrics,
    pub http: HttpMetrics,
    pub kafka: KafkaMetrics,
    pub spool: SpoolMetrics,
    pub tallies: Tallies,
}

/// The counters of readings, of every kind that there is or was while the gateway runs.
#[derive(Debug)]
pub struct Tallies {
    metrics: ReadingMetrics,
    by_kind: Mutex<BTreeMap<String, Arc<KindTallies>>>,
    /// Of messages whose address names no known kind.
    pub unknown: Arc<KindTallies>,
}

/// The counters of one kind.
#[derive(Debug)]
pub struct KindTallies {
    mqtt: Arc<Tally>,
    coap: Arc<Tally>,
    http: Arc<Tally>,
}

/// The counters of one protocol and kind, resolved once so that counting a reading looks nothing up.
#[derive(Debug)]
pub struct Tally {
    received: IntCounter,
    // By variant of `OutcomeKind`, `Reason` and `BusyKind`.
    outcomes: Box<[IntCounter]>,
    rejected: Box<[IntCounter]>,
    busy: Box<[IntCounter]>,
    dropped: IntCounter,
    answer_seconds: Histogram,
}

/// Sums over counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub received: u64,
    /// By variant.
    pub outcomes: [u64; OutcomeKind::COUNT],
}

// === impl Metrics ===

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let readings = ReadingMetrics::register(&registry);
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("process metrics are registered once");
        Metrics {
            mqtt: MqttMetrics::register(&registry),
            coap: CoapMetrics::register(&registry),
            http: HttpMetrics::register(&registry),
            kafka: KafkaMetrics::register(&registry),
            spool: SpoolMetrics::register(&registry),
            tallies: Tallies::new(&readings),
            readings,
            registry,
        }
    }

    /// Everything in Prometheus' text format.
    pub fn encode(&self) -> String {
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

// === impl Tallies, KindTallies ===

impl Tallies {
    fn new(metrics: &ReadingMetrics) -> Self {
        let unknown = Arc::new(KindTallies::new(metrics, UNKNOWN_KIND));
        Tallies {
            metrics: metrics.clone(),
            by_kind: Mutex::new(BTreeMap::from([(UNKNOWN_KIND.to_owned(), unknown.clone())])),
            unknown,
        }
    }

    /// The counters of a kind; the same ones whenever its name is asked for.
    pub fn of_kind(&self, kind: &str) -> Arc<KindTallies> {
        let mut by_kind = self.lock();
        let tallies = by_kind
            .entry(kind.to_owned())
            .or_insert_with(|| Arc::new(KindTallies::new(&self.metrics, kind)));
        tallies.clone()
    }

    /// The figures of a protocol over all kinds.
    pub fn totals(&self, protocol: Protocol) -> Totals {
        let mut totals = Totals::default();
        for tallies in self.lock().values() {
            let tally = tallies.of(protocol);
            for (sum, outcome) in totals.outcomes.iter_mut().zip(&*tally.outcomes) {
                *sum += outcome.get();
            }
            totals.received += tally.received.get();
        }
        totals
    }

    /// Readings received and not yet ended, over all protocols and kinds.
    pub fn in_flight_total(&self) -> u64 {
        let by_kind = self.lock();
        let tallies = by_kind.values().flat_map(|tallies| tallies.all());
        tallies.map(|tally| tally.in_flight()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<KindTallies>>> {
        self.by_kind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KindTallies {
    fn new(metrics: &ReadingMetrics, kind: &str) -> Self {
        let of = |protocol| Arc::new(Tally::new(metrics, protocol, kind));
        KindTallies {
            mqtt: of(Protocol::Mqtt),
            coap: of(Protocol::Coap),
            http: of(Protocol::Http),
        }
    }

    #[inline]
    pub fn of(&self, protocol: Protocol) -> &Arc<Tally> {
        match protocol {
            Protocol::Mqtt => &self.mqtt,
            Protocol::Coap => &self.coap,
            Protocol::Http => &self.http,
        }
    }

    fn all(&self) -> [&Tally; 3] {
        [&self.mqtt, &self.coap, &self.http]
    }
}

// === impl Tally ===

impl Tally {
    fn new(metrics: &ReadingMetrics, protocol: Protocol, kind: &str) -> Self {
        let protocol = protocol.label();
        Tally {
            received: metrics.readings_received_total.with_label_values(&[protocol, kind]),
            outcomes: counters(OutcomeKind::VARIANTS, |outcome| {
                metrics.readings_total.with_label_values(&[protocol, kind, outcome])
            }),
            rejected: counters(Reason::VARIANTS, |reason| {
                metrics.readings_rejected_total.with_label_values(&[protocol, reason])
            }),
            busy: counters(BusyKind::VARIANTS, |reason| {
                metrics.readings_busy_total.with_label_values(&[protocol, reason])
            }),
            dropped: metrics.receipts_dropped_total.clone(),
            answer_seconds: metrics.reading_answer_seconds.with_label_values(&[protocol]),
        }
    }

    pub fn received(&self) {
        self.received.inc();
    }

    pub fn resolved(&self, outcome: &Outcome, after: Duration) {
        self.outcomes[outcome.kind() as usize].inc();
        self.answer_seconds.observe(after.as_secs_f64());
        match outcome {
            Outcome::Rejected(rejection) => self.rejected[rejection.reason as usize].inc(),
            Outcome::Busy(busy) => self.busy[busy.kind() as usize].inc(),
            Outcome::Delivered | Outcome::Spooled => {}
        }
    }

    pub fn dropped(&self) {
        self.dropped.inc();
    }

    /// Readings received and not yet ended.
    pub fn in_flight(&self) -> u64 {
        // Outcomes first: a reading that ends in between is then seen as received at least.
        let ended: u64 = self.outcomes.iter().map(IntCounter::get).sum();
        self.received.get().saturating_sub(ended)
    }

    pub fn dropped_total(&self) -> u64 {
        self.dropped.get()
    }
}

/// A counter per variant of a label, in their order: a variant is the index of its own.
fn counters<V: Copy + Into<&'static str>>(variants: &[V], counter: impl Fn(&str) -> IntCounter) -> Box<[IntCounter]> {
    variants.iter().map(|&variant| counter(variant.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Rejection;

    #[test]
    fn an_outcome_is_counted_under_its_protocol_kind_and_reason() {
        let metrics = Metrics::new();
        metrics.tallies.of_kind("weather");
        let tally = metrics.tallies.unknown.of(Protocol::Coap);
        tally.received();
        tally.resolved(
            &Rejection::new(Reason::UnknownKind, "no such kind").into(),
            Duration::from_millis(3),
        );
        let text = metrics.encode();
        for line in [
            r#"citygate_readings_received_total{kind="unknown",protocol="coap"} 1"#,
            r#"citygate_readings_total{kind="unknown",outcome="rejected",protocol="coap"} 1"#,
            r#"citygate_readings_rejected_total{protocol="coap",reason="unknown_kind"} 1"#,
            r#"citygate_readings_total{kind="weather",outcome="delivered",protocol="mqtt"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
