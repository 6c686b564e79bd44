//! Kind → topic, device → key: a reading, or a rejected message, as the record that Kafka gets.
//!
//! Pure. The key is the device id and the producer's partitioner is Java's murmur2, so a device's readings stay in order
//! on one partition. The record's timestamp is the time of reception, so that a topic's retention counts from arrival.

use crate::message::{Identity, Inbound, Reading, Record};
use crate::outcome::{Rejection, beginning};

/// Longest value of a dead letter's header, in bytes: every reading of a batch carries them.
const HEADER_BYTES_MAX: usize = 512;

/// The headers of a dead letter; their values borrow from [`DeadLetter`].
pub type Headers<'a> = [(&'a str, &'a str); 8];

/// A rejected message on its way to the dead-letter topic: the original bytes, and why.
#[derive(Debug)]
pub struct DeadLetter<'a> {
    pub inbound: &'a Inbound<'a>,
    /// The rejected reading: the whole body, or one item of a batch.
    pub body: &'a [u8],
    pub rejection: &'a Rejection,
    /// Empty where the address names none.
    pub device: &'a str,
    pub kind: &'a str,
    pub received_at_ms: i64,
    pub received_at: String,
}

/// The record of a valid reading.
pub fn record<'a>(reading: &Reading<'a>) -> Record<'a> {
    Record {
        topic: reading.topic,
        key: reading.device,
        value: reading.value,
        timestamp_ms: reading.received_at_ms,
        headers: &[],
    }
}

impl<'a> DeadLetter<'a> {
    /// `received-at` is written as milliseconds since the Unix epoch, like every timestamp of a reading.
    pub fn new(
        inbound: &'a Inbound<'a>,
        body: &'a [u8],
        rejection: &'a Rejection,
        (device, kind): (&'a str, &'a str),
        received_at_ms: i64,
    ) -> Self {
        let received_at = received_at_ms.to_string();
        DeadLetter {
            inbound,
            body,
            rejection,
            device,
            kind,
            received_at_ms,
            received_at,
        }
    }

    pub fn headers(&'a self) -> Headers<'a> {
        [
            ("reason", self.rejection.reason.label()),
            ("detail", header(&self.rejection.detail)),
            ("path", header(self.inbound.path)),
            ("kind", header(self.kind)),
            ("protocol", self.inbound.origin.protocol.label()),
            ("content-type", header(self.inbound.content_type)),
            ("received-at", &self.received_at),
            ("sender", self.sender()),
        ]
    }

    /// The device that proved who it is; empty: nobody did.
    fn sender(&self) -> &'a str {
        match self.inbound.origin.identity {
            Identity::Device(device) => device.id(),
            Identity::Anonymous => "",
        }
    }

    pub fn record(&'a self, topic: &'a str, headers: &'a Headers<'a>) -> Record<'a> {
        Record {
            topic,
            key: self.device,
            value: self.body,
            timestamp_ms: self.received_at_ms,
            headers,
        }
    }
}

fn header(text: &str) -> &str {
    beginning(text, HEADER_BYTES_MAX)
}
