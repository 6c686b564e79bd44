//! What the codec does not check: the body of every packet a client may send, before it is decoded.
//!
//! Lengths fit exactly, strings are UTF-8 without U+0000, reserved bits and reason codes are not used, v5 properties are
//! known, allowed where they stand and not repeated, packet ids are not zero. Nothing is copied. Only PUBLISH and CONNECT
//! have more to say than is read here; of a PUBLISH it reads what the codec keeps to itself (QoS, packet id, DUP).
//! Sources: MQTT 3.1.1 and 5.0, clauses named beside each rule.

use std::hash::Hasher;

use super::fault::{DisconnectReason, Fault, Version, malformed, protocol_error};
use super::fields::{Cursor, Properties};

/// What a PUBLISH says before its topic is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    pub qos: u8,
    /// Zero for QoS 0.
    pub pkid: u16,
    pub dup: bool,
    /// Of QoS 2, a hash of those properties that are the same when the publish is repeated; otherwise zero.
    pub properties: u64,
}

/// Bit 7 of the protocol level: a bridge that wants its subscriptions without what it published itself, and with the
/// retain flag as it was published. A Mosquitto bridge sets it unless `try_private` is off.
const BRIDGE: u8 = 0x80;

/// Where things stand in a CONNECT that is well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectShape {
    pub version: Version,
    pub is_3_1: bool,
    /// Offset of the connect flags in the body.
    pub flags_at: usize,
    /// Offset of the user name or password; the body's length if there is neither.
    pub login_at: usize,
}

/// A CONNECT that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectFault {
    /// Not MQTT at all: nothing is answered.
    NotMqtt,
    /// MQTT, but of no level that is served.
    Level,
    /// The right version, but broken.
    Broken {
        version: Version,
        fault: Fault,
        hints: Hints,
    },
}

/// What a CONNECT that is refused says all the same, as far as it can be read: for its refusal, and for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    pub packet_bytes_max: Option<u32>,
    pub client_id: String,
}

const CONNECT: Properties = client_only(&[17, 21, 22, 23, 25, 33, 34, 38, 39]);
const WILL: Properties = client_only(&[1, 2, 3, 8, 9, 24, 38]);
const PUBLISH: Properties = Properties {
    client: &[1, 2, 3, 8, 9, 35, 38],
    server: &[11], // [MQTT-3.3.4-6]
};
// The Message Expiry Interval, which every server that stores the message counts down, and the Topic Alias, which stands for a topic.
const MAY_DIFFER_IN_A_REPETITION: &[u8] = &[2, 35];
const ACKNOWLEDGEMENT: Properties = client_only(&[31, 38]);
const SUBSCRIBE: Properties = client_only(&[11, 38]);
const UNSUBSCRIBE: Properties = client_only(&[38]);
const DISCONNECT: Properties = Properties {
    client: &[17, 31, 38],
    server: &[28], // §3.14.2.2.5
};

// Reason codes that a client may send [MQTT 5.0 §3.4.2.1, §3.5.2.1, §3.6.2.1, §3.7.2.1, §3.14.2.1]; the others are
// reserved, or a server's.
const RECEIVED_REASONS: &[u8] = &[0, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const RELEASED_REASONS: &[u8] = &[0, 0x92];
const DISCONNECT_REASONS: &[u8] = &[
    0, 4, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
];

/// Topic filters in one SUBSCRIBE or UNSUBSCRIBE: its answer has a byte for each, which waits until the client reads it.
pub const FILTERS_MAX: usize = 4096;

const fn client_only(client: &'static [u8]) -> Properties {
    Properties { client, server: &[] }
}

/// PUBLISH; `first` is the packet's first byte.
pub fn publish(version: Version, first: u8, body: &[u8]) -> Result<Peek, Fault> {
    let (qos, dup) = ((first >> 1) & 3, first & 0b1000 != 0);
    if qos == 3 {
        return Err(malformed("QoS 3")); // [MQTT-3.3.1-4]
    }
    if qos == 0 && dup {
        return Err(protocol_error("DUP on a QoS 0 publish")); // [MQTT-3.3.1-2]
    }
    let mut cursor = Cursor(body);
    cursor.prefixed()?; // the topic: its bytes are checked where it is used
    let pkid = if qos == 0 { 0 } else { cursor.packet_id()? };
    let mut properties = 0;
    if version == Version::V5 && qos == 2 {
        let mut hasher = super::fields::hasher();
        let mut hash = |id: u8, value: &[u8]| {
            if !MAY_DIFFER_IN_A_REPETITION.contains(&id) {
                hasher.write_u8(id);
                hasher.write(value);
                properties = hasher.finish();
            }
        };
        cursor.properties_each(&PUBLISH, &mut hash)?;
    } else if version == Version::V5 {
        cursor.properties(&PUBLISH)?;
    }
    Ok(Peek {
        qos,
        pkid,
        dup,
        properties,
    })
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP, by their packet type: the packet id.
pub fn acknowledgement(version: Version, kind: u8, body: &[u8]) -> Result<u16, Fault> {
    let mut cursor = Cursor(body);
    let pkid = cursor.packet_id()?;
    if version == Version::V5 && !cursor.is_empty() {
        reason(&mut cursor, if kind < 6 { RECEIVED_REASONS } else { RELEASED_REASONS })?;
        if !cursor.is_empty() {
            cursor.properties(&ACKNOWLEDGEMENT)?;
        }
    }
    cursor.end().map(|()| pkid)
}

fn reason(cursor: &mut Cursor<'_>, allowed: &[u8]) -> Result<u8, Fault> {
    let code = cursor.u8()?;
    match allowed.contains(&code) {
        true => Ok(code),
        false => Err(protocol_error("a reason code that a client may not send")), // [MQTT-3.14.2-1] and others
    }
}

/// SUBSCRIBE: the packet id, and how many filters there are.
pub fn subscribe(version: Version, body: &[u8]) -> Result<(u16, usize), Fault> {
    let mut cursor = Cursor(body);
    let pkid = cursor.packet_id()?;
    if version == Version::V5 {
        cursor.properties(&SUBSCRIBE)?;
    }
    let mut filters = 0;
    while !cursor.is_empty() {
        let shared = cursor.filter(version)?;
        subscription_options(version, cursor.u8()?, shared)?;
        filters = one_more(filters)?;
    }
    match filters {
        0 => Err(protocol_error("SUBSCRIBE without a topic filter")), // [MQTT-3.8.3-2]
        _ => Ok((pkid, filters)),
    }
}

fn subscription_options(version: Version, options: u8, shared: bool) -> Result<(), Fault> {
    let (qos, no_local, retain_handling) = (options & 3, options & 4 != 0, (options >> 4) & 3);
    match version {
        // [MQTT-3.8.3-4] of 3.1.1, [MQTT-3.8.3-5] of 5
        Version::V3 if options & 0xFC != 0 || qos == 3 => Err(malformed("reserved bits in the requested QoS")),
        Version::V3 => Ok(()),
        Version::V5 if options & 0xC0 != 0 => Err(malformed("reserved bits in the subscription options")),
        Version::V5 if qos == 3 => Err(protocol_error("Maximum QoS 3")), // §3.8.3.1
        Version::V5 if retain_handling == 3 => Err(protocol_error("Retain Handling 3")),
        // [MQTT-3.8.3-4]
        Version::V5 if no_local && shared => Err(protocol_error("No Local on a shared subscription")),
        Version::V5 => Ok(()),
    }
}

/// UNSUBSCRIBE: the packet id, and how many filters there are.
pub fn unsubscribe(version: Version, body: &[u8]) -> Result<(u16, usize), Fault> {
    let mut cursor = Cursor(body);
    let pkid = cursor.packet_id()?;
    if version == Version::V5 {
        cursor.properties(&UNSUBSCRIBE)?;
    }
    let mut filters = 0;
    while !cursor.is_empty() {
        cursor.filter(version)?;
        filters = one_more(filters)?;
    }
    match filters {
        0 => Err(protocol_error("UNSUBSCRIBE without a topic filter")), // [MQTT-3.10.3-2]
        _ => Ok((pkid, filters)),
    }
}

fn one_more(filters: usize) -> Result<usize, Fault> {
    match filters {
        FILTERS_MAX => Err(Fault {
            reason: DisconnectReason::QuotaExceeded,
            why: "more than 4096 topic filters in one packet",
        }),
        _ => Ok(filters + 1),
    }
}

/// DISCONNECT: the reason code, and the Session Expiry Interval if there is one.
pub fn disconnect(version: Version, body: &[u8]) -> Result<(u8, Option<u32>), Fault> {
    const SESSION_EXPIRY_INTERVAL: u8 = 17;
    let mut cursor = Cursor(body);
    let (mut code, mut session_expiry_s) = (0, None);
    if version == Version::V5 && !cursor.is_empty() {
        code = reason(&mut cursor, DISCONNECT_REASONS)?;
        if !cursor.is_empty() {
            cursor.properties_each(&DISCONNECT, |id, value| {
                if id == SESSION_EXPIRY_INTERVAL {
                    session_expiry_s = value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
                }
            })?;
        }
    }
    cursor.end().map(|()| (code, session_expiry_s))
}

/// PINGREQ.
pub fn empty(body: &[u8]) -> Result<(), Fault> {
    Cursor(body).end()
}

/// The version of a CONNECT of which the beginning has arrived; `None` if more of it is needed to say.
pub fn connect_version(start: &[u8]) -> Result<Option<Version>, ConnectFault> {
    const NAME_AND_LEVEL_BYTES_MAX: usize = 2 + "MQIsdp".len() + 1;
    match connect_level(&mut Cursor(start)) {
        Ok((version, _)) => Ok(Some(version)),
        Err(ConnectFault::NotMqtt) if start.len() < NAME_AND_LEVEL_BYTES_MAX => Ok(None),
        Err(fault) => Err(fault),
    }
}

// The version, and whether it is MQTT 3.1.
fn connect_level(cursor: &mut Cursor<'_>) -> Result<(Version, bool), ConnectFault> {
    let name = cursor.prefixed().map_err(|_| ConnectFault::NotMqtt)?;
    let level = cursor.u8().map_err(|_| ConnectFault::NotMqtt)?;
    // Nothing can be subscribed to here, so a bridge is served as any client.
    match (name, level & !BRIDGE) {
        (b"MQIsdp", 3) => Ok((Version::V3, true)),
        (b"MQTT", 4) => Ok((Version::V3, false)),
        (b"MQTT", 5) => Ok((Version::V5, false)),
        (b"MQIsdp" | b"MQTT", _) => Err(ConnectFault::Level),
        _ => Err(ConnectFault::NotMqtt),
    }
}

/// `minimal`: whether the Remaining Length had no more bytes than it needs.
pub fn connect(body: &[u8], minimal: bool) -> Result<ConnectShape, ConnectFault> {
    let mut cursor = Cursor(body);
    let (version, is_3_1) = connect_level(&mut cursor)?;
    let flags_at = body.len() - cursor.0.len();
    let rest = cursor.0;
    super::fault::minimal(version, minimal)
        .and_then(|()| connect_payload(version, &mut cursor))
        .map(|login_bytes| ConnectShape {
            version,
            is_3_1,
            flags_at,
            login_at: body.len() - login_bytes,
        })
        .map_err(|fault| ConnectFault::Broken {
            version,
            fault,
            hints: hints(version, rest),
        })
}

/// What the beginning of a CONNECT says that is not read on.
pub fn connect_hints(start: &[u8]) -> Hints {
    let mut cursor = Cursor(start);
    match connect_level(&mut cursor) {
        Ok((version, _)) => hints(version, cursor.0),
        Err(_) => Hints::default(),
    }
}

fn hints(version: Version, from_flags_on: &[u8]) -> Hints {
    const FLAGS_AND_KEEP_ALIVE_BYTES: usize = 3;
    let mut cursor = Cursor(from_flags_on.get(FLAGS_AND_KEEP_ALIVE_BYTES..).unwrap_or_default());
    let packet_bytes_max = match version {
        Version::V3 => None,
        Version::V5 => cursor.packet_bytes_max(),
    };
    let client_id = super::encode::shortened(cursor.text().unwrap_or_default()).to_owned();
    Hints {
        packet_bytes_max,
        client_id,
    }
}

// Returns how many bytes before the end the credentials begin.
fn connect_payload(version: Version, cursor: &mut Cursor<'_>) -> Result<usize, Fault> {
    const AUTHENTICATION_METHOD: u8 = 21;
    const AUTHENTICATION_DATA: u8 = 22;
    let flags = cursor.u8()?;
    let (will, will_qos) = (flags & 0x04 != 0, (flags >> 3) & 3);
    let (password, user_name) = (flags & 0x40 != 0, flags & 0x80 != 0);
    if flags & 1 != 0 || will_qos == 3 {
        return Err(malformed("reserved connect flags")); // [MQTT-3.1.2-3], [MQTT-3.1.2-12]
    }
    if !will && flags & 0x38 != 0 {
        return Err(protocol_error("Will QoS or Will Retain without a will")); // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
    }
    if version == Version::V3 && password && !user_name {
        return Err(malformed("a password without a user name")); // [MQTT-3.1.2-22] of 3.1.1
    }
    cursor.u16()?; // keep-alive
    if version == Version::V5 {
        let given = cursor.properties(&CONNECT)?;
        if given.has(AUTHENTICATION_DATA) && !given.has(AUTHENTICATION_METHOD) {
            return Err(protocol_error("Authentication Data without an Authentication Method")); // §3.1.2.11.10
        }
    }
    cursor.text()?; // client identifier
    if will {
        if version == Version::V5 {
            cursor.properties(&WILL)?;
        }
        cursor.whole_topic()?; // [MQTT-3.1.3-10] of 3.1.1, [MQTT-3.1.3-11] of 5, [MQTT-4.7.1-1]
        cursor.prefixed()?;
    }
    let login = cursor.0.len();
    if user_name {
        cursor.text()?;
    }
    if password {
        cursor.prefixed()?; // binary data, which the codec would insist on as UTF-8
    }
    cursor.end()?;
    Ok(login)
}
