//! The three forms of a reading on its way, [`Inbound`] → [`Reading`] → [`Record`]; and who sent it, its [`Origin`].
//!
//! The three forms borrow: a reading passes from the socket's buffer to the Kafka client's queue within one call of the
//! pipeline, so nothing here owns bytes. Each stage is given one form and makes the next. The origin travels with the
//! message to its outcome.

use core::net::SocketAddr;
use std::time::Instant;

use strum::{IntoStaticStr, VariantArray};

use crate::devices::Device;
use crate::outcome::Outcome;

/// The protocol a message came over: the `protocol` label of metrics and dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Protocol {
    Mqtt,
    Coap,
    Http,
}

impl Protocol {
    pub fn label(self) -> &'static str {
        self.into()
    }
}

/// Where a message came from, and who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    pub protocol: Protocol,
    /// The listener that received it, by the name of its table in the configuration.
    pub listener: &'static str,
    /// The other end of the connection, or the source of the datagram.
    pub peer: SocketAddr,
    pub identity: Identity<'a>,
    /// When it had arrived whole.
    pub received_at: Instant,
}

/// Whom a sender has proved to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity<'a> {
    /// It was not asked for a proof.
    #[default]
    Anonymous,
    /// A device whose credential was verified.
    Device(&'a Device),
}

impl Origin<'_> {
    /// Of an anonymous message that is received now.
    pub fn anonymous(protocol: Protocol, listener: &'static str, peer: SocketAddr) -> Self {
        Origin {
            protocol,
            listener,
            peer,
            identity: Identity::Anonymous,
            received_at: Instant::now(),
        }
    }
}

/// A message as a listener received it; nothing in it has been checked but its size.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    pub origin: Origin<'a>,
    /// MQTT topic, CoAP path or HTTP path, without a leading slash; percent-decoded where the protocol encodes.
    pub path: &'a str,
    pub body: &'a [u8],
    /// As the device named it (a media type; CoAP's number is translated by its listener); empty if it did not.
    pub content_type: &'a str,
    pub policy: Policy<'a>,
}

/// How a message is to be treated, as far as its protocol decides that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy<'a> {
    pub dead_letters: DeadLetters,
    /// Its listener holds the sender to its rate by not reading from it (MQTT 3.1.1), so it is not refused for that.
    pub is_paced: bool,
    /// Of a batch that is repeated, the outcomes of its readings so far, in their order. Only those that were busy are
    /// counted and sent again; the others keep their outcome in the answer.
    pub settled: &'a [Outcome],
}

/// Which rejected readings of a message are sent to the dead-letter topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeadLetters {
    /// As many as their device's allowance permits.
    #[default]
    Allowed,
    /// All: the answer to a rejected reading may be positive (MQTT 3.1.1), so it must not be lost.
    All,
}

/// Longest device id, in bytes.
pub const DEVICE_BYTES_MAX: usize = 128;

/// 1–128 of `A-Z a-z 0-9 . _ : -`, the first one alphanumeric.
pub fn is_device_id(id: &str) -> bool {
    let mut bytes = id.bytes();
    let first_is_good = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first_is_good
        && id.len() <= DEVICE_BYTES_MAX
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
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
    /// The Kafka topic of its kind.
    pub topic: &'a str,
    /// Avro: the prefix of its kind (single-object or Confluent header), then the datum.
    pub value: &'a [u8],
    /// Milliseconds since the Unix epoch at which the gateway received it.
    pub received_at_ms: i64,
}

/// A reading as Kafka stores it.
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
