//! What is counted of readings: by protocol and kind, how many came and how each ended.
//!
//! The balance is read off these: per protocol and kind, `received = delivered + spooled + rejected + busy` when
//! nothing is in flight. A kind's counters ([`KindTallies`]) are resolved once, so that counting a reading looks nothing
//! up; they belong to its name, and stay when the kind is replaced or gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};
use strum::{EnumCount, VariantArray};

use crate::message::Protocol;
use crate::operate::metrics::{Registry, metrics};
use crate::outcome::{BusyKind, Outcome, OutcomeKind, Reason};

/// The `kind` label of a message whose address names no known kind.
pub const UNKNOWN_KIND: &str = "unknown";

/// Seconds from reception to answer: from a loopback Kafka without linger up to the longest delivery time-out.
const ANSWER_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

metrics! {
    /// The balance, and why readings did not pass.
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
        /// Values stored as null, by kind, field and reason: a sentinel, or out of a range whose schema says so.
        readings_values_nulled_total: IntCounterVec["kind", "field", "reason"],
        /// Receipts dropped without an outcome: each one is a bug in citygate.
        receipts_dropped_total: IntCounter,
        /// Seconds from the reception of a reading to its outcome.
        reading_answer_seconds: HistogramVec["protocol"] in ANSWER_BUCKETS,
    }
}

/// The counters of readings, of every kind that there is or was while the gateway runs.
#[derive(Debug)]
pub struct Tallies {
    pub metrics: ReadingMetrics,
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

// === impl Tallies, KindTallies ===

impl Tallies {
    pub fn register(registry: &Registry) -> Self {
        let metrics = ReadingMetrics::register(registry);
        let unknown = Arc::new(KindTallies::new(&metrics, UNKNOWN_KIND));
        Tallies {
            metrics,
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

/// Counted, and shown nowhere.
impl Default for Tallies {
    fn default() -> Self {
        Tallies::register(&Registry::default())
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
        let registry = Registry::default();
        let tallies = Tallies::register(&registry);
        tallies.of_kind("weather");
        let tally = tallies.unknown.of(Protocol::Coap);
        tally.received();
        tally.resolved(
            &Rejection::new(Reason::UnknownKind, "no such kind").into(),
            Duration::from_millis(3),
        );
        let text = registry.encode();
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
