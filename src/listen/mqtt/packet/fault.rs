//! The versions of MQTT spoken here, and what ends a connection.
//!
//! A [`Fault`] is a packet that may not be sent, with the reason code that an MQTT 5 client is told; 3.1.1 has none.

/// The two versions spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1 (protocol level 4), and 3.1 (level 3), of which it is a clarification.
    V3,
    /// MQTT 5.0 (protocol level 5).
    V5,
}

/// Reason codes with which a connection is ended [MQTT 5.0 §3.14.2.1]; 3.1.1 has none and is just closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DisconnectReason {
    MalformedPacket = 0x81,
    ProtocolError = 0x82,
    ServerShuttingDown = 0x8B,
    KeepAliveTimeout = 0x8D,
    SessionTakenOver = 0x8E,
    TopicNameInvalid = 0x90,
    TopicAliasInvalid = 0x94,
    PacketTooLarge = 0x95,
    QuotaExceeded = 0x97,
    AdministrativeAction = 0x98,
}

/// A packet that ends its connection, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub reason: DisconnectReason,
    pub why: &'static str,
}

pub const fn malformed(why: &'static str) -> Fault {
    let reason = DisconnectReason::MalformedPacket;
    Fault { reason, why }
}

pub const fn protocol_error(why: &'static str) -> Fault {
    let reason = DisconnectReason::ProtocolError;
    Fault { reason, why }
}

/// The packet exceeds the Maximum Packet Size that was agreed.
pub const TOO_LARGE: Fault = Fault {
    reason: DisconnectReason::PacketTooLarge,
    why: "the packet is larger than is accepted here",
};

pub const NOT_MINIMAL: Fault = malformed("a variable byte integer of more bytes than it needs");

/// [MQTT-1.5.5-1] of MQTT 5; 3.1.1 (§2.2.3) does not ask for it.
pub fn minimal(version: Version, minimal: bool) -> Result<(), Fault> {
    match version == Version::V3 || minimal {
        true => Ok(()),
        false => Err(NOT_MINIMAL),
    }
}
