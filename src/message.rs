//! The three forms a reading takes on its way: [`Inbound`] → [`Reading`] → [`Record`].
//!
//! All three borrow: a reading passes from the socket's buffer to the Kafka client's queue within one call of the
//! pipeline, so nothing here owns bytes. Each stage takes one form and makes the next.

use crate::catalogue::Kind;

/// The protocol a message came over: the `protocol` label of metrics and dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Mqtt,
    Coap,
    Http,
}

impl Protocol {
    pub const ALL: [Protocol; 3] = [Protocol::Mqtt, Protocol::Coap, Protocol::Http];

    pub fn label(self) -> &'static str {
        match self {
            Protocol::Mqtt => "mqtt",
            Protocol::Coap => "coap",
            Protocol::Http => "http",
        }
    }
}

/// A message as a listener received it; nothing in it has been checked but its size.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    pub protocol: Protocol,
    /// MQTT topic, CoAP path or HTTP path, without a leading slash; percent-decoded where the protocol encodes.
    pub path: &'a str,
    pub body: &'a [u8],
    /// As the device named it (a media type; CoAP's number is translated by its listener); empty if it did not.
    pub content_type: &'a str,
    /// If it is rejected, the answer may be positive all the same (MQTT 3.1.1): so it must be kept.
    pub must_keep: bool,
}

/// Where a reading belongs: `devices/<device>/<kind>`, with `/batch` behind it for several readings in one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    pub device: &'a str,
    pub kind: &'a str,
    pub batch: bool,
}

/// A reading that satisfies its schema.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    pub device: &'a str,
    pub kind: &'a Kind,
    /// Avro: the kind's prefix (single-object or Confluent header), then the datum.
    pub value: &'a [u8],
    /// Milliseconds since the Unix epoch at which the gateway received it.
    pub received_at_ms: i64,
}

/// A reading as Kafka takes it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub topic: &'a str,
    /// Device id, UTF-8; empty (no key) where a dead letter names no device.
    pub key: &'a str,
    pub value: &'a [u8],
    /// The record's timestamp: milliseconds since the Unix epoch at which the gateway received the reading, so that
    /// the topic's retention counts from arrival whatever the device's clock says.
    pub timestamp_ms: i64,
    pub headers: &'a [(&'a str, &'a str)],
}
