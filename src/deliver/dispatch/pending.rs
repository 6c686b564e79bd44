//! A record's device, which waits for an answer.
//!
//! It is answered once, with the outcome of the record: in Kafka, in the spool, rejected, or *busy*. Nothing here decides
//! which.

use crate::outcome::{Busy, Outcome, Rejection};
use crate::receipt::Receipt;

/// A record on its way: who is answered, and what with once the record is safe in Kafka.
#[derive(Debug)]
pub struct Pending {
    pub receipt: Receipt,
    /// *Delivered* for a reading, the rejection for a dead letter.
    pub once_safe: Outcome,
}

// === impl Pending ===

impl Pending {
    /// All in-sync replicas have the record.
    pub(super) fn delivered(self) {
        self.receipt.resolve(self.once_safe);
    }

    /// The spool has the record.
    pub(super) fn spooled(self) {
        let outcome = match self.once_safe {
            Outcome::Delivered => Outcome::Spooled,
            rejected => rejected,
        };
        self.receipt.resolve(outcome);
    }

    pub(super) fn busy(self, busy: Busy) {
        self.receipt.resolve(Outcome::Busy(busy));
    }

    pub(super) fn too_large(self) {
        self.receipt.resolve(Rejection::too_large_for_kafka().into());
    }
}
