//! What is counted of the admin port.
//!
//! A field's name is the metric's name behind `citygate_`, its doc comment the help text.

use prometheus::IntCounterVec;

use crate::operate::metrics::metrics;

metrics! {
    /// The admin port.
    AdminMetrics {
        /// Requests to the admin port that were answered 401, by reason: missing (neither a token nor a client certificate),
        /// bad_credential.
        admin_requests_refused_total: IntCounterVec["reason"],
    }
}
