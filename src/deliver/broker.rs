//! The seam between `dispatch` and the Kafka producer.
//!
//! A broker queues records and tells the end of each, later and on a thread of its own, to whoever it was made for. What
//! it answers when it does not is [`Refused`]. The producer implements it, and the simulation does.

use crate::message::Record;

/// The Kafka producer, as far as it matters here.
pub trait Broker {
    /// Changes when the producer is purged of what it holds, and when it is replaced or closed. To be read before whether
    /// Kafka is up: then a producer that is up in this epoch is none that was made to give everything back.
    fn epoch(&self) -> u64;

    /// Queues a record; its end is told by [`Dispatch::reported`](super::dispatch::Dispatch::reported) with the same slot. Records of one key are written in
    /// the order of these calls. *Purged* unless it is still this epoch: with a later producer the record would come before
    /// those that were purged.
    fn produce(&self, epoch: u64, record: &Record<'_>, slot: usize) -> Result<(), Refused>;

    /// A batch was too large for its topic. Purges what the producer holds, at once, since later records would come
    /// before those of the batch otherwise; and goes on, a moment later, with smaller batches. Their reports come like any
    /// others.
    fn shrink_batches(&self) {}
}

/// Why Kafka did not accept a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The producer's queue is full.
    QueueFull,
    /// Larger than Kafka or the topic allows: it never will be accepted.
    TooLarge,
    /// Its batch is larger than the topic allows; alone it may not be.
    BatchTooLarge,
    /// Kafka refuses this record as it is (a time that it considers wrong, a broken record, a topic that is not
    /// for us); others it may accept.
    Unacceptable,
    /// Kafka has no such topic. In words for devices, with its name.
    TopicMissing(&'static str),
    /// Not confirmed in time; it may have been written.
    TimedOut,
    /// Purged from the queue: the producer is being closed or replaced.
    Purged,
    /// Anything else.
    Other,
}
