//! What is counted of HTTP: connections, responses, and idempotency keys.
//!
//! A field's name is the metric's name behind `citygate_`, its doc comment the help text. Labels come from enums only;
//! a path is never one.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use crate::operate::metrics::metrics;

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
        /// HTTP requests that are no readings and were refused, by reason: bad_head (400), head_too_slow (408), head_too_large (431),
        /// bad_host (400), unauthenticated (401), forbidden (403: a device that is disabled), authentication_busy (503), bad_transfer_encoding (400, 501), method_not_allowed (405), bad_idempotency_key (400).
        http_requests_refused_total: IntCounterVec["reason"],
        /// HTTP requests whose connection was reset before their body was whole: not received, not answered, and not among
        /// the readings.
        http_requests_reset_total: IntCounter,
        /// HTTP requests with an Idempotency-Key, by what they were: new, repeated (answered again, no new reading),
        /// unfinished (only what was busy is passed on again), in_flight (409), reused (422), full (503), bad_key (400).
        http_idempotent_requests_total: IntCounterVec["result"],
        /// Idempotency keys remembered now.
        http_idempotency_keys: IntGauge,
        /// Idempotency keys forgotten before their lifetime was over, because their limit was reached: a repetition is then a new reading.
        http_idempotency_keys_forgotten_total: IntCounter,
    }
}
