//! The sentence that a report ends with: where everything that was acknowledged is.
//!
//! Its parts add up to its first number, so that no difference can be mistaken for a loss. A reading that was
//! acknowledged twice, because a fault made its device send it again, is two acknowledgements.

use std::fmt;

use crate::ledger::Reconciliation;
use crate::report::grouped;

/// Acknowledgements, by where their readings are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    pub acknowledged: u64,
    pub once: u64,
    pub more_than_once: u64,
    /// By MQTT 3.1.1, in the dead-letter topic.
    pub dead_lettered: u64,
    /// For a reading that had been acknowledged before.
    pub again: u64,
    pub not_compared: u64,
    pub lost: u64,
}

// === impl Balance ===

impl Balance {
    /// Of so many acknowledgements, whose readings were compared with what is in Kafka.
    pub fn new(acknowledged: u64, compared: &Reconciliation) -> Balance {
        Balance {
            acknowledged,
            once: compared.in_kafka - compared.in_kafka_more_than_once,
            more_than_once: compared.in_kafka_more_than_once,
            dead_lettered: compared.dead_lettered,
            again: acknowledged.saturating_sub(compared.acknowledged),
            not_compared: compared.not_compared,
            lost: compared.lost,
        }
    }
}

impl fmt::Display for Balance {
    /// `acknowledged 57,869: 57,578 in Kafka once, 291 more than once, lost 0`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (once, more) = (grouped(self.once), grouped(self.more_than_once));
        write!(
            f,
            "acknowledged {}: {once} in Kafka once, {more} more than once",
            grouped(self.acknowledged)
        )?;
        let seldom = [
            (self.dead_lettered, "in the dead-letter topic"),
            (self.again, "acknowledged again"),
            (self.not_compared, "not compared"),
        ];
        for (count, what) in seldom.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {} {what}", grouped(count))?;
        }
        write!(f, ", lost {}", grouped(self.lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_add_up() {
        let check = |acknowledged: u64, compared: Reconciliation, expected: &str| {
            let balance = Balance::new(acknowledged, &compared);
            let Balance {
                once,
                more_than_once,
                dead_lettered,
                again,
                not_compared,
                lost,
                ..
            } = balance;
            let sum = once + more_than_once + dead_lettered + again + not_compared + lost;
            assert_eq!(sum, acknowledged, "{balance:?}");
            assert_eq!(balance.to_string(), expected);
        };
        let compared = Reconciliation {
            acknowledged: 57_869,
            in_kafka: 57_869,
            in_kafka_more_than_once: 291,
            ..Reconciliation::default()
        };
        check(
            57_869,
            compared,
            "acknowledged 57,869: 57,578 in Kafka once, 291 more than once, lost 0",
        );
        let compared = Reconciliation {
            acknowledged: 1000,
            in_kafka: 980,
            dead_lettered: 12,
            not_compared: 5,
            lost: 3,
            ..Reconciliation::default()
        };
        check(
            1007,
            compared,
            "acknowledged 1,007: 980 in Kafka once, 0 more than once, 12 in the dead-letter topic, 7 acknowledged again, \
             5 not compared, lost 3",
        );
    }
}
