//! How a reading travels: one client per device, in the protocol it speaks.
//!
//! An uplink sends and waits for the answer; it never decides to send again (RFC 7252's retransmission of one message
//! aside), because only the device knows which reading is which. Between readings it is given time with
//! [`Uplink::idle`], in which it keeps its connection alive. No uplink ever claims more than it was told: no answer,
//! half an answer or the answer to something else are all [`Answer::Unanswered`].

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

pub mod coap;
pub mod credentials;
pub mod direct;
pub mod http;
pub mod mqtt;

/// The three that the gateway speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Mqtt,
    Coap,
    Http,
}

/// A reading on its way: its number and its JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub sequence: u64,
    pub json: Vec<u8>,
}

/// What a device learns about one reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is safe: PUBACK or PUBREC without an error, 2.04, 2xx.
    Acknowledged,
    /// It will never be accepted; sending it again is pointless.
    Rejected { code: String, text: String },
    /// Not now; the same reading must be sent again.
    Busy {
        code: String,
        retry_after: Option<Duration>,
    },
    /// Nothing came, in time or at all; it may or may not have been accepted.
    Unanswered { because: String },
}

/// A device's client.
pub enum Uplink {
    Mqtt(Box<mqtt::Uplink>),
    Coap(Box<coap::Uplink>),
    Http(Box<http::Uplink>),
}

// === impl Protocol ===

impl Protocol {
    pub const ALL: [Protocol; 3] = [Protocol::Mqtt, Protocol::Coap, Protocol::Http];

    pub fn name(self) -> &'static str {
        match self {
            Protocol::Mqtt => "mqtt",
            Protocol::Coap => "coap",
            Protocol::Http => "http",
        }
    }

    /// Position in [`Protocol::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

// === impl Uplink ===

impl Uplink {
    pub fn protocol(&self) -> Protocol {
        match self {
            Uplink::Mqtt(_) => Protocol::Mqtt,
            Uplink::Coap(_) => Protocol::Coap,
            Uplink::Http(_) => Protocol::Http,
        }
    }

    /// How many readings it collects before it sends them.
    pub fn readings_per_message(&self) -> usize {
        match self {
            Uplink::Http(uplink) => uplink.readings_per_message(),
            Uplink::Mqtt(_) | Uplink::Coap(_) => 1,
        }
    }

    /// Whether a positive answer may also mean *safe in the dead-letter topic* (MQTT 3.1.1 has no negative one).
    pub fn accepts_dead_letter(&self) -> bool {
        matches!(self, Uplink::Mqtt(uplink) if uplink.version() == mqtt::Version::V4)
    }

    /// Sends the readings and waits for their answers: one each, in order.
    pub async fn send(&mut self, readings: &[Reading]) -> Vec<Answer> {
        if let Uplink::Http(uplink) = self {
            return uplink.send(readings).await;
        }
        let mut answers = Vec::with_capacity(readings.len());
        for reading in readings {
            answers.push(match self {
                Uplink::Mqtt(uplink) => uplink.send(reading).await,
                Uplink::Coap(uplink) => uplink.send(reading).await,
                Uplink::Http(_) => break,
            });
        }
        answers
    }

    /// How many messages the protocol itself repeated since it was last asked.
    pub fn take_retransmissions(&mut self) -> u64 {
        match self {
            Uplink::Coap(uplink) => uplink.take_retransmissions(),
            Uplink::Mqtt(_) | Uplink::Http(_) => 0,
        }
    }

    /// Lets time pass, and the connection live.
    pub async fn idle(&mut self, until: Instant) {
        match self {
            Uplink::Mqtt(uplink) => uplink.idle(until).await,
            Uplink::Coap(_) | Uplink::Http(_) => tokio::time::sleep_until(until).await,
        }
    }

    /// Disconnects, in protocols that know it.
    pub async fn close(&mut self) {
        if let Uplink::Mqtt(uplink) = self {
            uplink.close().await;
        }
    }
}

impl fmt::Debug for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uplink({})", self.protocol())
    }
}

/// At most `limit` characters of what a server says, on one line.
fn excerpt(text: &str, limit: usize) -> String {
    text.chars()
        .take(limit)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}
