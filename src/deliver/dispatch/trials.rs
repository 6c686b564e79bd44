//! New records that are tried while Kafka confirms nothing and the spool accepts nothing.
//!
//! One partition that stalls may be the reason for both: it fills the spool, and at a quiet hour the only records that Kafka
//! does not confirm are its own. Nothing else would then show that Kafka confirms others, for those in the spool may all be
//! for that partition. So one new record at a time goes to Kafka all the same; its device is answered when Kafka confirms it,
//! or busy at the deadline. Where nobody sends unless readings are accepted (MQTT 3.1.1), everybody is let through every
//! half minute, until some are not confirmed. Pure: `stalled` does it.

use std::time::Instant;

use super::in_flight::SendId;

/// What is tried.
#[derive(Debug, Default)]
pub struct Trials {
    pub last: Option<SendId>,
    /// Since when nothing was.
    pub idle_since: Option<Instant>,
}

// === impl Trials ===

impl Trials {
    /// A new record goes to Kafka.
    pub fn sent(&mut self, id: SendId, is_up: bool) {
        if !is_up {
            *self = Trials {
                last: Some(id),
                idle_since: None,
            };
        }
    }
}
