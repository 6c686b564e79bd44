//! What is counted at the listeners: of each protocol, and of the memory that messages occupy before they are accepted.
//!
//! A field's name is the metric's name behind `citygate_`, its doc comment the help text. Each protocol declares its own
//! in its folder; this puts them together.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::coap::metrics::CoapMetrics;
use super::http::metrics::HttpMetrics;
use super::mqtt::metrics::MqttMetrics;
use super::tls::TlsMetrics;
use crate::operate::metrics::{Registry, metrics};

metrics! {
    /// Memory occupied by messages.
    AdmissionMetrics {
        /// Bytes of messages accepted and not yet answered.
        in_flight_bytes: IntGauge,
        /// Bytes that may be in flight at once (limits.in_flight_bytes).
        in_flight_bytes_max: IntGauge,
        /// Bytes of messages that have arrived in part, of those larger than 4 KiB.
        incomplete_bytes: IntGauge,
        /// Bytes that such messages may have at once (limits.incomplete_bytes).
        incomplete_bytes_max: IntGauge,
        /// Times an incomplete message was not read because limits.incomplete_bytes was used up.
        incomplete_waits_total: IntCounter,
        /// Incomplete messages evicted while others waited for memory, by reason: stalled (nothing more came), over_share
        /// (its address had more than its share), slow (read beyond the limit, it kept the others waiting).
        incomplete_evicted_total: IntCounterVec["reason"],
        /// Connections closed before anything was read, by listener and by reason: what their address prefix has exceeded of
        /// limits.prefix (connects_per_second, connecting_max, connections_max), or proxy_protocol (a balancer did not say for
        /// whom it connects).
        connections_refused_total: IntCounterVec["listener", "reason"],
    }
}

/// The metrics of all listeners.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub admission: AdmissionMetrics,
    pub mqtt: MqttMetrics,
    pub coap: CoapMetrics,
    pub http: HttpMetrics,
    pub tls: TlsMetrics,
}

// === impl Metrics ===

impl Metrics {
    pub fn register(registry: &Registry) -> Self {
        Metrics {
            admission: AdmissionMetrics::register(registry),
            mqtt: MqttMetrics::register(registry),
            coap: CoapMetrics::register(registry),
            http: HttpMetrics::register(registry),
            tls: TlsMetrics::register(registry),
        }
    }
}

/// Counted, and shown nowhere.
impl Default for Metrics {
    fn default() -> Self {
        Metrics::register(&Registry::default())
    }
}
