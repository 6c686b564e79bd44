//! Whether Kafka takes readings now.

use crate::outcome::Busy;

/// What is known of Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not known yet: the gateway is starting.
    Starting,
    /// Kafka confirms readings.
    Up,
    /// Kafka does not; new readings are answered busy until a probe succeeds. In words for `/readyz`.
    Down(String),
}

impl Health {
    pub fn is_up(&self) -> bool {
        matches!(self, Health::Up)
    }

    /// Why a reading is refused now, if it is.
    pub fn busy(&self) -> Option<Busy> {
        (!self.is_up()).then_some(Busy::KafkaAway)
    }
}
