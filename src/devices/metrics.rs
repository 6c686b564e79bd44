//! What is counted of identities: how many are known, whether their files are in order, who was refused.
//!
//! A field's name is the metric's name behind `citygate_`, its doc comment the help text. A device id is never a label.

use prometheus::{IntCounterVec, IntGauge};

use crate::operate::metrics::{Registry, metrics};

metrics! {
    /// Identities.
    Metrics {
        /// Device identities in force.
        devices: IntGauge,
        /// Whether the identity files had no mistake when they were last read (1), or the identities before stay in force (0).
        devices_last_reload_successful: IntGauge,
        /// When the identities in force were read, in seconds since 1970.
        devices_last_reload_success_timestamp_seconds: IntGauge,
        /// Senders whose credential was refused, by protocol and by reason: bad_credential (unknown, or wrong), disabled, missing
        /// (none was sent, and anonymous senders are not allowed), busy (too many passwords to verify).
        authentications_refused_total: IntCounterVec["protocol", "reason"],
    }
}

/// Counted, and shown nowhere.
impl Default for Metrics {
    fn default() -> Self {
        Metrics::register(&Registry::default())
    }
}
