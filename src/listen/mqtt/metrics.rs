//! What is counted of MQTT: connections, packets, sessions and wills.
//!
//! A field's name is the metric's name behind `citygate_`, its doc comment the help text. Labels come from enums only;
//! a client id is never one.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use crate::operate::metrics::metrics;

metrics! {
    /// MQTT connections and what passes over them.
    MqttMetrics {
        /// MQTT connections open now.
        mqtt_connections: IntGauge,
        /// MQTT connections accepted, by protocol version (3.1.1, 5) after a good CONNECT; 3.1 counts as 3.1.1.
        mqtt_connects_total: IntCounterVec["version"],
        /// MQTT sessions kept of clients that are disconnected.
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
        /// Times reading from a connection paused because its window, the byte budget or its rate was used up, or Kafka was unavailable.
        mqtt_reading_paused_total: IntCounterVec["reason"],
    }
}
