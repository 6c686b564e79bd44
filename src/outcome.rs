//! What became of a reading, and every label that says so.
//!
//! Each reading ends in exactly one [`Outcome`]; `received = delivered + spooled + rejected + busy` is the law of the
//! house. A [`Rejection`] is the device's mistake and an expected value; [`Busy`] is ours. How an outcome is said in
//! each protocol is `acknowledge`'s table, not this file's.

use std::fmt;

/// The one end of a reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged by all in-sync Kafka replicas (`acks=all`).
    Delivered,
    /// Fsynced in the local spool, from which it will reach Kafka.
    Spooled,
    /// The device's mistake; the original bytes are safe in the dead-letter topic where one could be written, unless the
    /// device has made more of them than its [`dead_letter_allowance`](crate::dead_letter_allowance) and is not told yes.
    Rejected(Box<Rejection>),
    /// Neither Kafka nor the spool could take it; the device keeps it and tries again.
    Busy(Busy),
}

impl Outcome {
    pub const LABELS: [&'static str; 4] = ["delivered", "spooled", "rejected", "busy"];

    /// Position in [`Outcome::LABELS`].
    pub fn index(&self) -> usize {
        match self {
            Outcome::Delivered => 0,
            Outcome::Spooled => 1,
            Outcome::Rejected(_) => 2,
            Outcome::Busy(_) => 3,
        }
    }

    /// The `outcome` label of the metrics.
    pub fn label(&self) -> &'static str {
        Self::LABELS[self.index()]
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
    /// Names the path, what was expected and what came: `lanes[2].speed_kmh: 255 is above the maximum 250`.
    pub detail: String,
}

impl Rejection {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Rejection {
            reason,
            detail: detail.into(),
        }
    }

    /// Kafka takes no record of this size. Known when the record is handed over, so it names no item of a batch.
    pub fn too_large_for_kafka() -> Self {
        let detail = "larger than the message.max.bytes of Kafka or of its topic";
        Rejection::new(Reason::TooLargeForKafka, detail)
    }

    /// Not JSON at this place of the text, both numbers from 1: `line 1, column 17: expected …`.
    pub fn malformed_at(line: usize, column: usize, what: &str) -> Self {
        Rejection::new(Reason::Malformed, format!("line {line}, column {column}: {what}"))
    }

    /// Line, column and the rest of the detail, of one that was made by [`Rejection::malformed_at`].
    pub fn place(&self) -> Option<(usize, usize, &str)> {
        let places = self.detail.strip_prefix("line ")?;
        let (line, rest) = places.split_once(", column ")?;
        let (column, what) = rest.split_once(": ")?;
        let is_place = self.reason == Reason::Malformed;
        is_place.then_some((line.parse().ok()?, column.parse().ok()?, what))
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

/// Why a reading was rejected: the `reason` label of metrics and dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// Not this device's place to write.
    Forbidden,
    /// More bytes, or more readings in a batch, than the configuration allows.
    TooLarge,
    /// More bytes than Kafka or its topic takes: kept nowhere, and never acknowledged.
    TooLargeForKafka,
    /// The rest of the message did not come, or came more slowly than the configuration allows.
    TooSlow,
    /// The device ended its side of the connection before the message was whole.
    CutOff,
}

impl Reason {
    pub const ALL: [Reason; 12] = [
        Reason::Malformed,
        Reason::SchemaMismatch,
        Reason::OutOfRange,
        Reason::BadClock,
        Reason::UnknownKind,
        Reason::BadAddress,
        Reason::UnsupportedFormat,
        Reason::Forbidden,
        Reason::TooLarge,
        Reason::TooLargeForKafka,
        Reason::TooSlow,
        Reason::CutOff,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::SchemaMismatch => "schema_mismatch",
            Reason::OutOfRange => "out_of_range",
            Reason::BadClock => "bad_clock",
            Reason::UnknownKind => "unknown_kind",
            Reason::BadAddress => "bad_address",
            Reason::UnsupportedFormat => "unsupported_format",
            Reason::Forbidden => "forbidden",
            Reason::TooLarge => "too_large",
            Reason::TooLargeForKafka => "too_large_for_kafka",
            Reason::TooSlow => "too_slow",
            Reason::CutOff => "cut_off",
        }
    }
}

/// Why a reading could not be taken now: the `reason` label of the busy metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Busy {
    /// Kafka is known to be away; nothing was sent to it.
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
    /// The spool's disk failed, or its files were taken away: nothing more is written to it until a restart.
    SpoolFailed,
    /// The byte budget of `limits.in_flight_bytes` is used up.
    MemoryFull,
    /// The room of `limits.incomplete_bytes` is used up, and no room for the rest of the message came in time.
    IncompleteFull,
    /// Incomplete messages of the sender's address took more than its share of `limits.incomplete_bytes`.
    ShareExceeded,
    /// As many requests with an idempotency key are in flight as may be remembered.
    KeysFull,
    /// The gateway is shutting down.
    Draining,
    /// A receipt was dropped without an outcome: a bug, counted as such.
    Dropped,
}

impl Busy {
    pub const ALL: [Busy; 16] = [
        Busy::KafkaUnavailable,
        Busy::KafkaTimeout,
        Busy::TopicMissing(""),
        Busy::KafkaRefused,
        Busy::QueueFull,
        Busy::SpoolFull,
        Busy::SpoolBusy,
        Busy::SpoolShort,
        Busy::SpoolTimeout,
        Busy::SpoolFailed,
        Busy::MemoryFull,
        Busy::IncompleteFull,
        Busy::ShareExceeded,
        Busy::KeysFull,
        Busy::Draining,
        Busy::Dropped,
    ];

    /// Position in [`Busy::ALL`].
    pub fn index(self) -> usize {
        let same = |other: &Busy| std::mem::discriminant(other) == std::mem::discriminant(&self);
        Busy::ALL.iter().position(same).unwrap_or_default()
    }

    pub fn label(self) -> &'static str {
        match self {
            Busy::KafkaUnavailable => "kafka_unavailable",
            Busy::KafkaTimeout => "kafka_timeout",
            Busy::TopicMissing(_) => "topic_missing",
            Busy::KafkaRefused => "kafka_refused",
            Busy::QueueFull => "queue_full",
            Busy::SpoolFull => "spool_full",
            Busy::SpoolBusy => "spool_busy",
            Busy::SpoolShort => "spool_short",
            Busy::SpoolTimeout => "spool_timeout",
            Busy::SpoolFailed => "spool_failed",
            Busy::MemoryFull => "memory_full",
            Busy::IncompleteFull => "incomplete_full",
            Busy::ShareExceeded => "share_exceeded",
            Busy::KeysFull => "keys_full",
            Busy::Draining => "draining",
            Busy::Dropped => "dropped",
        }
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
            Busy::SpoolBusy => "the disk of the spool is too slow for what comes in; send the reading again later",
            Busy::SpoolShort => "the gateway is short of file descriptors or memory; send the reading again later",
            Busy::SpoolTimeout => "the disk of the spool did not write the reading in time; send it again",
            Busy::SpoolFailed => "the disk of the spool failed; send the reading again later",
            Busy::MemoryFull => "too many readings in flight; send the reading again later",
            Busy::IncompleteFull => {
                "too many large messages are arriving at once, and no room for the rest of this one came in time; send it \
                 again later"
            }
            Busy::ShareExceeded => {
                "incomplete messages of this address took more than its share of the room while others waited; send it \
                 again later"
            }
            Busy::KeysFull => "too many requests with an Idempotency-Key are in flight; send the request again later",
            Busy::Draining => "the gateway is shutting down; send the reading again",
            Busy::Dropped => "internal error; send the reading again",
        }
    }
}
