//! Why an incomplete message is evicted, and what its sender is told.
//!
//! The label of the metric is derived from the variants. Which message is evicted is decided in
//! [`evict`](super::evict).

use strum::{EnumCount, IntoStaticStr, VariantArray};

use crate::outcome::{Busy, Outcome, Reason, Rejection};

/// Why a message was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Evicted {
    /// Nothing of it came while others waited.
    Stalled,
    /// Its peer had more than its share while others waited.
    OverShare,
    /// It was the one that may exceed the limit, and its rest came too slowly while others waited.
    Slow,
}

// === impl Evicted ===

impl Evicted {
    /// What the message is answered.
    pub fn outcome(self) -> Outcome {
        match self {
            Evicted::Stalled | Evicted::Slow => Rejection::new(Reason::TooSlow, self.text()).into(),
            Evicted::OverShare => Outcome::Busy(Busy::ShareExceeded),
        }
    }

    /// For people and devices: one short sentence.
    pub fn text(self) -> &'static str {
        match self {
            Evicted::Stalled => "nothing more of the message came for a second while others waited for memory",
            Evicted::OverShare => Busy::ShareExceeded.text(),
            Evicted::Slow => {
                "the rest of the message was not complete within five seconds while others waited for memory; send it again later"
            }
        }
    }
}
