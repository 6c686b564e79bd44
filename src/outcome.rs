//! The outcome of a reading, and every label that says so.
//!
//! Each reading ends in exactly one [`Outcome`]; `received = delivered + spooled + rejected + busy` always. A [`Rejection`]
//! is the device's mistake and an expected value; [`Busy`] is ours. How an outcome is said in each protocol is
//! `acknowledge`'s table, not this file's. Labels and the tables indexed by them are derived from the enums, so that a new
//! variant can neither be forgotten nor be out of range.

use std::fmt;
use std::time::Duration;

use strum::{EnumCount, EnumDiscriminants, EnumIter, IntoStaticStr, VariantArray};

/// The one end of a reading. [`OutcomeKind`] is the same without what is in it.
#[derive(Clone, Debug, PartialEq, Eq, EnumDiscriminants)]
#[strum_discriminants(
    name(OutcomeKind),
    doc = "The `outcome` label of metrics.",
    derive(Hash, EnumCount, IntoStaticStr, VariantArray),
    strum(serialize_all = "snake_case")
)]
pub enum Outcome {
    /// Acknowledged by all in-sync Kafka replicas (`acks=all`).
    Delivered,
    /// Fsynced in the local spool, from which it will reach Kafka.
    Spooled,
    /// The device's mistake; the original bytes are safe in the dead-letter topic where one could be written, unless the
    /// device has made more of them than its [`dead_letter_allowance`](crate::dead_letter_allowance) and is not told yes.
    Rejected(Box<Rejection>),
    /// It could not be accepted now; the device keeps it and tries again.
    Busy(Busy),
}

impl Outcome {
    pub fn kind(&self) -> OutcomeKind {
        self.into()
    }

    /// The `outcome` label of the metrics.
    pub fn label(&self) -> &'static str {
        self.kind().into()
    }

    /// Whether a positive answer may be given: the reading is safe.
    pub fn is_safe(&self) -> bool {
        matches!(self, Outcome::Delivered | Outcome::Spooled)
    }
}

impl From<Rejection> for Outcome {
    fn from(rejection: Rejection) -> Self {
        Outcome::Rejected(Box::new(rejection))
    }
}

/// What the device did wrong, in words that it can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: Reason,
    /// Names the path, what was expected and what came: `lanes[2].lane: 65 is above the maximum 64`.
    pub detail: String,
    /// Where the text is not JSON; `detail` begins with it.
    pub at: Option<Position>,
    /// Of a batch: which item of it, from 0; `detail` begins with it, as `[2]`.
    pub item: Option<usize>,
    /// It is in no dead-letter topic, though all of its sort are: a protocol without a no must not acknowledge it.
    pub is_unkept: bool,
}

/// A place in a text, both numbers from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

impl Position {
    /// Numbers beyond what a message can have are cut off.
    pub fn new(line: usize, column: usize) -> Self {
        let [line, column] = [line, column].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        Position { line, column }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl Rejection {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Rejection {
            reason,
            detail: detail.into(),
            at: None,
            item: None,
            is_unkept: false,
        }
    }

    /// Kafka accepts no record of this size. Known when the record is enqueued, so it names no item of a batch.
    pub fn too_large_for_kafka() -> Self {
        let detail = "larger than the message.max.bytes of Kafka or of its topic";
        Rejection::new(Reason::TooLargeForKafka, detail)
    }

    /// Not JSON at this place of the text: `line 1, column 17: expected …`.
    pub fn malformed_at(at: Position, what: &str) -> Self {
        Rejection {
            at: Some(at),
            ..Rejection::new(Reason::Malformed, format!("{at}: {what}"))
        }
    }

    /// The detail without the position that it begins with, if there is one.
    pub fn what(&self) -> &str {
        let position = self.at.map_or(0, |at| at.to_string().len() + ": ".len());
        self.detail.get(position..).unwrap_or_default()
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.label(), self.detail)
    }
}

/// What a device sent, as it is quoted in words for it: bounded and printable.
pub fn quoted(sent: &str) -> String {
    sent.chars().take(64).flat_map(char::escape_default).collect()
}

/// The beginning of a text in at most `bytes_max` bytes, cut between characters.
pub fn beginning(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    text.split_at(end.unwrap_or_default()).0
}

/// Why a reading was rejected: the `reason` label of metrics and dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// Not JSON: broken syntax, bad UTF-8, bytes after the value, nested too deep.
    Malformed,
    /// JSON, but not the schema: wrong type, unknown, duplicate or missing field, unknown symbol.
    SchemaMismatch,
    /// A number outside the schema's `minimum`/`maximum` or outside its Avro type.
    OutOfRange,
    /// `observed_at` further ahead or further back than the configuration allows.
    BadClock,
    /// The address names a kind for which there is no schema.
    UnknownKind,
    /// Not an address: `devices/<device>/<kind>` with a well-formed device id.
    BadAddress,
    /// A content type or content format that is not decoded here.
    UnsupportedFormat,
    /// A sender that has not proved who it is may not write there.
    Unauthenticated,
    /// This sender may not write there.
    Forbidden,
    /// More bytes, or more readings in a batch, than the configuration allows.
    TooLarge,
    /// More bytes than Kafka or its topic accepts: kept nowhere, and never acknowledged.
    TooLargeForKafka,
    /// The rest of the message did not come, or came more slowly than the configuration allows.
    TooSlow,
    /// The device ended its side of the connection before the message was whole.
    CutOff,
}

impl Reason {
    pub fn label(self) -> &'static str {
        self.into()
    }
}

/// Why a reading could not be accepted now. [`BusyKind`] is the same without what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumDiscriminants, EnumIter)]
#[strum_discriminants(
    name(BusyKind),
    doc = "The `reason` label of the busy metric.",
    derive(Hash, IntoStaticStr, VariantArray),
    strum(serialize_all = "snake_case")
)]
pub enum Busy {
    /// Kafka is known to be unavailable; nothing was sent to it.
    KafkaUnavailable,
    /// Kafka did not confirm within `kafka.delivery_timeout`; it may or may not have written the reading.
    KafkaTimeout,
    /// Kafka does not have the reading's topic; the words for it, which name it.
    TopicMissing(&'static str),
    /// Kafka refused the reading (not authorised, not enough replicas …).
    KafkaRefused,
    /// The producer's queue is full.
    QueueFull,
    /// The spool has reached its size limit, or its disk is full; what it holds is safe.
    SpoolFull,
    /// More waits to be written to the spool than `spool.queue_bytes`.
    SpoolBusy,
    /// The process or its machine has no file descriptor or no memory left for the spool.
    SpoolShort,
    /// The spool's disk did not write the reading within `kafka.delivery_timeout`; it may write it yet.
    SpoolTimeout,
    /// The spool's disk failed, or its files were removed: nothing more is written to it until a restart.
    SpoolFailed,
    /// The byte budget of `limits.in_flight_bytes` is used up.
    MemoryFull,
    /// `limits.incomplete_bytes` are used up, and none of them were free for the rest of the message in time.
    IncompleteFull,
    /// Incomplete messages of the sender's address had more than its share of `limits.incomplete_bytes`.
    ShareExceeded,
    /// As many requests with an idempotency key are in flight as may be remembered.
    KeysFull,
    /// The sender has sent more than its rate allows, and must wait for so long.
    OverRate(Duration),
    /// The gateway is shutting down.
    Draining,
    /// A receipt was dropped without an outcome: a bug, counted as such.
    Dropped,
}

impl Busy {
    pub fn kind(self) -> BusyKind {
        self.into()
    }

    pub fn label(self) -> &'static str {
        self.kind().into()
    }

    /// For people and devices: one short sentence.
    pub fn text(self) -> &'static str {
        match self {
            Busy::KafkaUnavailable => "Kafka is not reachable; send the reading again later",
            Busy::KafkaTimeout => "Kafka did not confirm the reading in time; send it again",
            Busy::TopicMissing(words) => words,
            Busy::KafkaRefused => "Kafka refused the reading; send it again later",
            Busy::QueueFull => "the queue to Kafka is full; send the reading again later",
            Busy::SpoolFull => "the spool is full; send the reading again later",
            Busy::SpoolBusy => "the disk of the spool is too slow; send the reading again later",
            Busy::SpoolShort => "the gateway is short of file descriptors or memory; send the reading again later",
            Busy::SpoolTimeout => "the disk of the spool did not write the reading in time; send it again",
            Busy::SpoolFailed => "the disk of the spool failed; send the reading again later",
            Busy::MemoryFull => "too many readings in flight; send the reading again later",
            Busy::IncompleteFull => {
                "too many large messages are arriving at once: no memory for the rest of this one in time; send it again \
                 later"
            }
            Busy::ShareExceeded => {
                "incomplete messages of this address had more than its share of memory while others waited; send it again \
                 later"
            }
            Busy::KeysFull => "too many requests with an Idempotency-Key are in flight; send the request again later",
            Busy::OverRate(_) => "more readings than are allowed for this sender; send the reading again later",
            Busy::Draining => "the gateway is shutting down; send the reading again",
            Busy::Dropped => "internal error; send the reading again",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        let check = |text: &str, bytes_max, expected: &str| assert_eq!(beginning(text, bytes_max), expected);
        check("speed_kmh: 900", 9, "speed_kmh");
        check("short", 64, "short");
        check("Straße", 5, "Stra");
        check("Straße", 6, "Straß");
        check("ß", 1, "");
        check("", 0, "");
        assert_eq!(beginning(&"€".repeat(600), 512).len(), 510);
    }
}
