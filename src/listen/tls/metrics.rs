//! What is counted of TLS: handshakes, and how long certificates are valid.
//!
//! A field's name is the metric's name behind `citygate_`, its doc comment the help text.

use prometheus::{IntCounterVec, IntGaugeVec};

use crate::operate::metrics::metrics;

metrics! {
    /// TLS handshakes and certificates.
    TlsMetrics {
        /// TLS handshakes, by listener and by how they ended: completed, failed, timed_out (tls.handshake_timeout).
        tls_handshakes_total: IntCounterVec["listener", "result"],
        /// When the certificate that a listener shows ends, in seconds since 1970.
        tls_certificate_expiry_timestamp_seconds: IntGaugeVec["listener"],
        /// Whether the certificate files were in order when they were last read (1), or the certificate before is shown (0).
        tls_certificate_last_reload_successful: IntGaugeVec["listener"],
    }
}
