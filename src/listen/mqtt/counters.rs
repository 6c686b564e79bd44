//! Why connections close and pause, and the counters of it, looked up once so that counting a packet looks nothing up.
//!
//! Each reason has one label, by an exhaustive match, so that a new reason cannot be forgotten. Names and help are in
//! [`metrics`](super::metrics).

use prometheus::IntCounter;
use strum::{IntoStaticStr, VariantArray};

use super::packet::{DisconnectReason, Fault, Version};
use crate::devices::Denied;
use crate::listen::incomplete::Evicted;
use crate::listen::mqtt::metrics::MqttMetrics;
use crate::outcome::{Busy, Outcome, Reason, Rejection};

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The client sent DISCONNECT.
    Client,
    /// The client closed the connection, or its side of it, without DISCONNECT.
    HungUp,
    /// The network failed.
    Network,
    /// There was no permit for one more connection.
    Full,
    /// No CONNECT within `connect_timeout`.
    ConnectTimeout,
    /// What came first was not a CONNECT that is accepted here.
    Refused,
    /// Nothing was heard for one and a half times the keep-alive, or for `idle_timeout`.
    KeepAlive,
    /// Nothing of our answers was received for `packet_timeout`.
    Stalled,
    /// For `idle_timeout` no packet of it could be read, whatever for.
    NotRead,
    /// A packet fell behind `packet_bytes_per_second_min` by `packet_timeout`.
    TooSlow,
    /// A packet waited for memory for `packet_timeout`.
    NoMemory,
    /// A packet was evicted in favour of those that waited for memory.
    Evicted(Evicted),
    /// The same client id connected again.
    TakenOver,
    /// The device was disabled, or lost the credential that it connected with.
    Revoked(Denied),
    /// The certificate of the client is not accepted any more.
    CertificateRefused,
    /// A 3.1.1 client whose reading could not be accepted: it sends it again when it connects again.
    Busy,
    /// The gateway shuts down.
    Stopping,
    /// The client sent what may not be sent.
    Fault(Fault),
}

/// Why a connection is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Pause {
    /// As many publishes wait for their answer as the window allows.
    Window,
    /// The byte budget of `limits.in_flight_bytes` is used up.
    InFlightBytes,
    /// Kafka accepts no readings, and 3.1.1 has no word for it.
    KafkaUnavailable,
    /// A client has sent more than its rate allows.
    OverRate,
    /// The client does not read our answers.
    Output,
}

/// The counters of this listener.
#[derive(Debug)]
pub struct Counters {
    // By packet type, 1 to 15; the first is never counted.
    received: [IntCounter; 16],
    paused: Box<[IntCounter]>,
    closed: prometheus::IntCounterVec,
    unanswered: IntCounter,
    connects: [IntCounter; 2],
}

const TYPES: [&str; 16] = [
    "reserved",
    "connect",
    "connack",
    "publish",
    "puback",
    "pubrec",
    "pubrel",
    "pubcomp",
    "subscribe",
    "suback",
    "unsubscribe",
    "unsuback",
    "pingreq",
    "pingresp",
    "disconnect",
    "auth",
];

// === impl Close ===

impl Close {
    /// The `reason` label of `mqtt_closed_total`.
    pub fn label(self) -> &'static str {
        match self {
            Close::Client => "client",
            Close::HungUp => "hung_up",
            Close::Network => "network",
            Close::Full => "full",
            Close::ConnectTimeout => "connect_timeout",
            Close::Refused => "refused",
            Close::KeepAlive => "keep_alive",
            Close::Stalled => "stalled",
            Close::NotRead => "not_read",
            Close::TooSlow => "too_slow",
            Close::NoMemory => "no_memory",
            Close::Evicted(_) => "evicted",
            Close::TakenOver => "taken_over",
            Close::Revoked(_) | Close::CertificateRefused => "revoked",
            Close::Busy => "busy",
            Close::Stopping => "stopping",
            Close::Fault(fault) => match fault.reason {
                DisconnectReason::TopicNameInvalid => "topic_name_invalid",
                DisconnectReason::TopicAliasInvalid => "topic_alias_invalid",
                DisconnectReason::PacketTooLarge => "packet_too_large",
                DisconnectReason::QuotaExceeded => "quota_exceeded",
                DisconnectReason::ProtocolError => "protocol_error",
                _ => "malformed",
            },
        }
    }

    /// What a v5 client is told; `None` where it has gone, or knows.
    pub fn told(self) -> Option<(DisconnectReason, &'static str)> {
        match self {
            Close::KeepAlive => Some((DisconnectReason::KeepAliveTimeout, "nothing was heard for too long")),
            Close::Stalled => Some((
                DisconnectReason::QuotaExceeded,
                "answers were not read for mqtt.packet_timeout",
            )),
            Close::NotRead => Some((
                DisconnectReason::QuotaExceeded,
                "nothing more could be accepted for mqtt.idle_timeout",
            )),
            Close::TooSlow => Some((
                DisconnectReason::QuotaExceeded,
                "a packet came more slowly than mqtt.packet_bytes_per_second_min, or nothing of it for mqtt.packet_timeout",
            )),
            Close::NoMemory => Some((DisconnectReason::QuotaExceeded, Busy::IncompleteFull.text())),
            Close::Evicted(why) => Some((DisconnectReason::QuotaExceeded, why.text())),
            Close::TakenOver => Some((DisconnectReason::SessionTakenOver, "this client id connected again")),
            Close::Revoked(denied) => Some((DisconnectReason::AdministrativeAction, denied.text())),
            Close::CertificateRefused => Some((
                DisconnectReason::AdministrativeAction,
                "the client certificate is not accepted any more",
            )),
            Close::Stopping => Some((DisconnectReason::ServerShuttingDown, "the gateway is shutting down")),
            Close::Fault(fault) => Some((fault.reason, fault.why)),
            _ => None,
        }
    }

    /// The outcome of the reading that was arriving, if it ends with the connection.
    pub fn outcome(self) -> Option<Outcome> {
        match self {
            Close::TooSlow => {
                let text = self.told().map_or("", |(_, text)| text);
                Some(Rejection::new(Reason::TooSlow, text).into())
            }
            Close::NoMemory => Some(Outcome::Busy(Busy::IncompleteFull)),
            Close::Evicted(why) => Some(why.outcome()),
            _ => None,
        }
    }

    /// Whether what was accepted is answered first: not where the client has gone or does not read, nor
    /// where an answer would be out of turn, nor where the client waits on another connection.
    pub fn answers_first(self) -> bool {
        match self {
            Close::Client
            | Close::HungUp
            | Close::KeepAlive
            | Close::NotRead
            | Close::TooSlow
            | Close::NoMemory
            | Close::Evicted(_)
            | Close::Revoked(_)
            | Close::CertificateRefused
            | Close::Stopping
            | Close::Fault(_) => true,
            Close::Network
            | Close::Full
            | Close::ConnectTimeout
            | Close::Refused
            | Close::Stalled
            | Close::TakenOver
            | Close::Busy => false,
        }
    }

    /// Whether the client may still be listening.
    pub fn is_heard(self) -> bool {
        !matches!(self, Close::HungUp | Close::Network | Close::Full)
    }
}

impl From<Fault> for Close {
    fn from(fault: Fault) -> Self {
        Close::Fault(fault)
    }
}

// === impl Counters ===

impl Counters {
    pub fn new(metrics: &MqttMetrics) -> Self {
        Counters {
            received: TYPES.map(|kind| metrics.mqtt_packets_received_total.with_label_values(&[kind])),
            paused: Pause::VARIANTS
                .iter()
                .map(|&reason| {
                    let labels = [<&str>::from(reason)];
                    metrics.mqtt_reading_paused_total.with_label_values(&labels)
                })
                .collect(),
            closed: metrics.mqtt_closed_total.clone(),
            unanswered: metrics.mqtt_unanswered_total.clone(),
            connects: ["3.1.1", "5"].map(|version| metrics.mqtt_connects_total.with_label_values(&[version])),
        }
    }

    /// A packet of type `kind`, 0 to 15.
    pub fn received(&self, kind: u8) {
        self.received[usize::from(kind & 15)].inc();
    }

    pub fn paused(&self, reason: Pause) {
        self.paused[reason as usize].inc();
    }

    /// Counts connections for which there was no permit.
    pub fn refused(&self) -> IntCounter {
        self.closed.with_label_values(&[Close::Full.label()])
    }

    pub fn closed(&self, close: Close) {
        self.closed.with_label_values(&[close.label()]).inc();
    }

    /// Publishes whose connection ended before their answer could be sent.
    pub fn unanswered(&self, publishes: usize) {
        self.unanswered.inc_by(publishes as u64);
    }

    pub fn connected(&self, version: Version) {
        self.connects[version as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_index_their_own_table() {
        assert_eq!((Version::V3 as usize, Version::V5 as usize), (0, 1));
    }
}
