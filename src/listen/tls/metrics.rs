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
        /// Client certificates refused in handshakes, by listener and by reason: missing, expired, not_yet_valid, unknown_issuer
        /// (of no authority in tls.client_ca), revoked, revocation_unknown (no list of its issuer), bad_signature (forged, or the
        /// client does not have its key), wrong_purpose, invalid.
        tls_client_certificates_refused_total: IntCounterVec["listener", "reason"],
        /// When a certificate that a listener shows ends, in seconds since 1970, by its file.
        tls_certificate_expiry_timestamp_seconds: IntGaugeVec["listener", "certificate"],
        /// When a certificate revocation list should be replaced, in seconds since 1970, by its file.
        tls_crl_next_update_timestamp_seconds: IntGaugeVec["listener", "crl"],
        /// Whether the TLS files (certificates, keys, authorities, revocation lists) were in order when they were last read (1), or
        /// those before stay in force (0).
        tls_certificate_last_reload_successful: IntGaugeVec["listener"],
    }
}
