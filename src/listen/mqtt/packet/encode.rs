//! Packets → bytes, for one client: in its version, and within what it said it accepts.
//!
//! Reason Strings are left out where the client asked for none or where they do not fit its Maximum Packet Size; the packet
//! itself is always sent. What is said is decided by whoever sends.

use bytes::BytesMut;
use rumqttd::protocol::{self as codec, Protocol as _};

use super::fault::{DisconnectReason, Fault, Version};
use crate::acknowledge::MqttReason;
use crate::devices::Denied;
use crate::outcome;

/// Writes packets for one client, within what it said it accepts.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    pub version: Version,
    pub packet_bytes_max: usize,
    pub problem_information: bool,
}

/// Why a CONNECT is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Always in the words of 3.1.1, which every client understands: one of a later version may not be MQTT 5's.
    ProtocolVersion,
    ClientIdTooLong,
    /// It is empty, and the session is to be kept.
    ClientIdEmpty,
    AuthenticationMethod,
    /// The sender is not who it says it is, or does not say it.
    Denied(Denied),
    Fault(Fault),
}

/// What an accepted client is told; 3.1.1 hears only whether its session is present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connack {
    pub session_present: bool,
    pub receive_maximum: u16,
    pub packet_bytes_max: u32,
    pub topic_alias_maximum: u16,
    pub assigned_client_id: Option<String>,
    /// If it is not what the client asked for.
    pub session_expiry_s: Option<u32>,
    pub keep_alive_s: Option<u16>,
}

/// Longest reason string; longer ones are cut.
pub const REASON_BYTES_MAX: usize = 512;

const SUBSCRIBE_REFUSED: &str = "citygate only receives readings; there is nothing to subscribe to";

// === impl Encoder ===

impl Encoder {
    /// The answer to a publish of QoS 1.
    pub fn puback(&self, pkid: u16, reason: MqttReason, text: Option<&str>, out: &mut BytesMut) {
        use codec::PubAckReason as Code;
        let reason = match reason {
            MqttReason::Success => Code::Success,
            MqttReason::NotAuthorized => Code::NotAuthorized,
            MqttReason::TopicNameInvalid => Code::TopicNameInvalid,
            MqttReason::PayloadFormatInvalid => Code::PayloadFormatInvalid,
            // 0x95 does not answer a publish [§3.4.2.1].
            MqttReason::QuotaExceeded => Code::QuotaExceeded,
        };
        self.explained(text, out, |reason_string| {
            let properties = reason_string.map(|reason_string| codec::PubAckProperties {
                reason_string: Some(reason_string),
                user_properties: Vec::new(),
            });
            codec::Packet::PubAck(codec::PubAck { pkid, reason }, properties)
        });
    }

    /// The first answer to a publish of QoS 2.
    pub fn pubrec(&self, pkid: u16, reason: MqttReason, text: Option<&str>, out: &mut BytesMut) {
        use codec::PubRecReason as Code;
        let reason = match reason {
            MqttReason::Success => Code::Success,
            MqttReason::NotAuthorized => Code::NotAuthorized,
            MqttReason::TopicNameInvalid => Code::TopicNameInvalid,
            MqttReason::PayloadFormatInvalid => Code::PayloadFormatInvalid,
            MqttReason::QuotaExceeded => Code::QuotaExceeded,
        };
        self.explained(text, out, |reason_string| {
            let properties = reason_string.map(|reason_string| codec::PubRecProperties {
                reason_string: Some(reason_string),
                user_properties: Vec::new(),
            });
            codec::Packet::PubRec(codec::PubRec { pkid, reason }, properties)
        });
    }

    /// The end of a QoS 2 exchange; `found` is whether the packet id was known.
    pub fn pubcomp(&self, pkid: u16, found: bool, out: &mut BytesMut) {
        let reason = match found {
            true => codec::PubCompReason::Success,
            false => codec::PubCompReason::PacketIdentifierNotFound,
        };
        self.write(codec::Packet::PubComp(codec::PubComp { pkid, reason }, None), out);
    }

    /// The answer to a PUBREC for which there is no publish, so that its sender can end the exchange.
    pub fn pubrel_unknown(&self, pkid: u16, out: &mut BytesMut) {
        let reason = codec::PubRelReason::PacketIdentifierNotFound;
        self.write(codec::Packet::PubRel(codec::PubRel { pkid, reason }, None), out);
    }

    pub fn pingresp(&self, out: &mut BytesMut) {
        self.write(codec::Packet::PingResp(codec::PingResp), out);
    }

    /// A refusal for each of `filters`.
    pub fn suback(&self, pkid: u16, filters: usize, out: &mut BytesMut) {
        let code = match self.version {
            Version::V3 => codec::SubscribeReasonCode::Failure,
            Version::V5 => codec::SubscribeReasonCode::ImplementationSpecific,
        };
        self.explained(Some(SUBSCRIBE_REFUSED), out, |reason_string| {
            let properties = reason_string.map(|reason_string| codec::SubAckProperties {
                reason_string: Some(reason_string),
                user_properties: Vec::new(),
            });
            let return_codes = vec![code; filters];
            codec::Packet::SubAck(codec::SubAck { pkid, return_codes }, properties)
        });
    }

    pub fn unsuback(&self, pkid: u16, filters: usize, out: &mut BytesMut) {
        let reasons = vec![codec::UnsubAckReason::NoSubscriptionExisted; filters];
        self.write(codec::Packet::UnsubAck(codec::UnsubAck { pkid, reasons }, None), out);
    }

    /// It does not say that retained messages, wildcards, subscription identifiers and shared subscriptions are not
    /// available: who says so must end the connection of a client that uses them all the same [§3.2.2.3.5, §3.2.2.3.11 to
    /// §3.2.2.3.13], and with it the readings. A retained publish is accepted, and a SUBSCRIBE refused in SUBACK.
    pub fn connack(&self, connack: Connack, out: &mut BytesMut) {
        let answer = codec::ConnAck {
            session_present: connack.session_present,
            code: codec::ConnectReturnCode::Success,
        };
        let properties = codec::ConnAckProperties {
            session_expiry_interval: connack.session_expiry_s,
            receive_max: Some(connack.receive_maximum),
            max_packet_size: Some(connack.packet_bytes_max),
            topic_alias_max: Some(connack.topic_alias_maximum),
            assigned_client_identifier: connack.assigned_client_id,
            server_keep_alive: connack.keep_alive_s,
            ..Default::default()
        };
        self.write(codec::Packet::ConnAck(answer, Some(properties)), out);
    }

    /// Guard 6: by hand, because the codec panics on a return code that the version does not have.
    ///
    /// The reason string does not depend on `problem_information` [§3.1.2.11.7].
    pub fn refuse(&self, refusal: Refusal, out: &mut BytesMut) {
        const IDENTIFIER_REJECTED: u8 = 2;
        const UNACCEPTABLE_PROTOCOL_VERSION: u8 = 1;
        match (self.version, refusal) {
            (Version::V3, Refusal::ProtocolVersion) => {
                out.extend_from_slice(&[0x20, 2, 0, UNACCEPTABLE_PROTOCOL_VERSION])
            }
            (Version::V3, Refusal::ClientIdTooLong | Refusal::ClientIdEmpty) => {
                out.extend_from_slice(&[0x20, 2, 0, IDENTIFIER_REJECTED])
            }
            (Version::V3, Refusal::Denied(denied)) => out.extend_from_slice(&[0x20, 2, 0, return_code(denied)]),
            // 3.1.1 has no code for what is left; such a connection is closed [MQTT-4.8.0-1].
            (Version::V3, _) => {}
            (Version::V5, _) => self.reasoned(0x20, &[0, refusal.code()], refusal.why(), out),
        }
    }

    /// Ends the connection; nothing for 3.1.1, whose server does not send DISCONNECT.
    ///
    /// Guard 5: by hand, because without properties the codec writes a length that is too short.
    pub fn disconnect(&self, reason: DisconnectReason, why: &str, out: &mut BytesMut) {
        if self.version == Version::V5 {
            self.reasoned(0xE0, &[reason as u8], why, out);
        }
    }

    // CONNACK or DISCONNECT of MQTT 5, whose only property is a reason string, left out where it does not fit. Whether the
    // client wants problem information is said for other packets [MQTT-3.1.2-29].
    fn reasoned(&self, first: u8, fields: &[u8], why: &str, out: &mut BytesMut) {
        let bytes = |properties: usize| 2 + fields.len() + 1 + properties;
        let told = 3 + why.len();
        // Below 128, where a length takes one byte.
        let properties = match bytes(told) <= self.packet_bytes_max.min(127) && !why.is_empty() {
            true => told,
            false => 0,
        };
        // [MQTT-3.1.2-24]: a packet that the client does not accept is not sent.
        if bytes(properties) > self.packet_bytes_max {
            return;
        }
        out.extend_from_slice(&[first, (bytes(properties) - 2) as u8]);
        out.extend_from_slice(fields);
        out.extend_from_slice(&[properties as u8]);
        if properties > 0 {
            out.extend_from_slice(&[31, 0, why.len() as u8]);
            out.extend_from_slice(why.as_bytes());
        }
    }

    // Writes a packet with a reason string if the client wants one and the packet then fits, otherwise without.
    fn explained(&self, text: Option<&str>, out: &mut BytesMut, packet: impl Fn(Option<String>) -> codec::Packet) {
        let text = text.filter(|_| self.version == Version::V5 && self.problem_information);
        let start = out.len();
        if let Some(text) = text {
            self.write_unbounded(packet(Some(shortened(text).to_owned())), out);
            if out.len() - start <= self.packet_bytes_max {
                return;
            }
            out.truncate(start);
        }
        self.write(packet(None), out);
    }

    // [MQTT-3.1.2-24]: a packet that the client does not accept is not sent, as if it had been.
    fn write(&self, packet: codec::Packet, out: &mut BytesMut) {
        let start = out.len();
        self.write_unbounded(packet, out);
        if out.len() - start > self.packet_bytes_max {
            out.truncate(start);
        }
    }

    // Guard 7: on 3.1.1 the codec panics on packets with properties; here only CONNACK has them, where it ignores them.
    fn write_unbounded(&self, packet: codec::Packet, out: &mut BytesMut) {
        let written = match self.version {
            Version::V3 => codec::v4::V4.write(packet, out),
            Version::V5 => codec::v5::V5.write(packet, out),
        };
        debug_assert!(written.is_ok(), "no packet written here exceeds 256 MiB: {written:?}");
    }
}

// === impl Refusal ===

impl Refusal {
    // The reason code of MQTT 5 [§3.2.2.2].
    fn code(self) -> u8 {
        match self {
            Refusal::ProtocolVersion => 0x84,
            Refusal::ClientIdTooLong | Refusal::ClientIdEmpty => 0x85,
            Refusal::AuthenticationMethod => 0x8C,
            Refusal::Denied(Denied::BadCredential) => 0x86,
            Refusal::Denied(Denied::Disabled | Denied::Missing) => 0x87,
            Refusal::Denied(Denied::Busy) => 0x89,
            Refusal::Fault(fault) => fault.reason as u8,
        }
    }

    pub fn why(self) -> &'static str {
        match self {
            Refusal::ProtocolVersion => "MQTT 3.1, 3.1.1 and 5 are served",
            Refusal::ClientIdTooLong => "the client identifier is longer than 256 bytes",
            Refusal::ClientIdEmpty => "the client identifier is empty, but its session is to be kept",
            Refusal::AuthenticationMethod => "enhanced authentication is not supported",
            Refusal::Denied(denied) => denied.text(),
            Refusal::Fault(fault) => fault.why,
        }
    }
}

/// Of 3.1.1 [its §3.2.2.3].
fn return_code(denied: Denied) -> u8 {
    match denied {
        Denied::Busy => 3,
        Denied::BadCredential => 4,
        Denied::Disabled | Denied::Missing => 5,
    }
}

/// At most [`REASON_BYTES_MAX`] of `text`.
pub fn shortened(text: &str) -> &str {
    outcome::beginning(text, REASON_BYTES_MAX)
}
