//! What librdkafka or Kafka refuses outside of the path of a reading.
//!
//! Texts are for operators; no secret of `kafka.properties` is in them. The end of a record is told by
//! [`Refused`](crate::deliver::broker::Refused), and why Kafka is unavailable by [`Reason`](crate::deliver::reason::Reason).

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// A request that was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// librdkafka makes no producer of this configuration.
    #[error("kafka: {0}; see kafka.properties")]
    Configuration(String),
    /// librdkafka makes no further client of it.
    #[error("kafka: {0}")]
    Client(String),
    /// There is no producer that could replace one that failed.
    #[error("the kafka producer failed, and could not be replaced: {0}")]
    Replacement(String),
    /// Kafka did not answer, or refused the request as a whole.
    #[error(transparent)]
    Request(#[from] KafkaError),
    /// Kafka refused what was asked of one topic.
    #[error("{0}")]
    Topic(RDKafkaErrorCode),
    /// The answer says nothing of the topic.
    #[error("no answer")]
    NoAnswer,
    /// It says nothing of the largest batch that the topic accepts.
    #[error("the topic has no max.message.bytes")]
    NoLimit,
    /// Topics are not created; each is named, with its size.
    #[error("kafka does not create {0}")]
    NotCreated(String),
    /// A change to topics was refused; what, and of which topic.
    #[error("kafka does not {0}")]
    NotChanged(String),
    /// Kafka is unavailable.
    #[error("{0}")]
    Unavailable(String),
}

// === impl Error ===

impl Error {
    /// Whether it concerns one topic, so that others may be changed all the same.
    pub fn is_of_a_topic(&self) -> bool {
        matches!(
            self,
            Error::Topic(_) | Error::NoAnswer | Error::NotCreated(_) | Error::NotChanged(_)
        )
    }
}
