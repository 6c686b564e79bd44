//! All that knows librdkafka: the [`producer`] and its [`reports`], and what is asked of the [`cluster`].
//!
//! [`topics`] says what a cluster must offer, [`operator`] changes topics for whoever operates it. A record goes to the producer with a number, and its end comes back with
//! the same number to the listener that the producer was made with. The rest of the room knows the producer as a
//! [`Broker`](super::broker::Broker).

pub mod cluster;

pub mod error;

pub mod operator;

pub mod producer;

pub mod reports;

mod topic_requests;

pub mod topics;

pub use error::Error;
pub use producer::Kafka;
