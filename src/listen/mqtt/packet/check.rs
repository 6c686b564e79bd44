//! What the codec does not check: the body of every packet a client may send, before it is decoded.
//!
//! Lengths fit exactly, strings are UTF-8 without U+0000, reserved bits are zero, v5 properties are known, allowed
//! where they stand and not repeated, packet ids are not zero. Nothing is copied. It also reads what the codec keeps to
//! itself (QoS, packet id and DUP of a PUBLISH). Sources: MQTT 3.1.1 and 5.0, clauses named beside each rule.

use std::hash::Hasher;

use super::{Fault, Leave, Version, malformed, protocol_error};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFault {
    /// Not MQTT at all: nothing is answered.
    NotMqtt,
    /// MQTT, but of no level that is served.
    Level,
    /// The right version, but broken.
    Broken(Version, Fault),
}

// Properties by packet [MQTT 5.0 table 2-4], as far as a client may send them.
const CONNECT_PROPERTIES: &[u8] = &[17, 21, 22, 23, 25, 33, 34, 38, 39];
const WILL_PROPERTIES: &[u8] = &[1, 2, 3, 8, 9, 24, 38];
const PUBLISH_PROPERTIES: &[u8] = &[1, 2, 3, 8, 9, 35, 38];
// The Message Expiry Interval, which whoever holds the message counts down, and the Topic Alias, which stands for a topic.
const MAY_DIFFER_IN_A_REPETITION: &[u8] = &[2, 35];
const ACKNOWLEDGEMENT_PROPERTIES: &[u8] = &[31, 38];
const SUBSCRIBE_PROPERTIES: &[u8] = &[11, 38];
const UNSUBSCRIBE_PROPERTIES: &[u8] = &[38];
const DISCONNECT_PROPERTIES: &[u8] = &[17, 31, 38];

/// PUBLISH; `first` is the packet's first byte.
pub fn publish(version: Version, first: u8, body: &[u8]) -> Result<Peek, Fault> {
    let (qos, dup) = ((first >> 1) & 3, first & 0b1000 != 0);
    if qos == 3 {
        return Err(malformed("QoS 3")); // [MQTT-3.3.1-4]
    }
    if qos == 0 && dup {
        return Err(malformed("DUP on a QoS 0 publish")); // [MQTT-3.3.1-2]
    }
    let mut cursor = Cursor(body);
    cursor.prefixed()?; // the topic: its bytes are checked where it is used
    let pkid = if qos == 0 { 0 } else { cursor.packet_id()? };
    let mut properties = 0;
    if version == Version::V5 && qos == 2 {
        let mut hasher = super::hasher();
        let mut hash = |id: u8, value: &[u8]| {
            if !MAY_DIFFER_IN_A_REPETITION.contains(&id) {
                hasher.write_u8(id);
                hasher.write(value);
                properties = hasher.finish();
            }
        };
        cursor.properties_each(PUBLISH_PROPERTIES, &mut hash)?;
    } else if version == Version::V5 {
        cursor.properties(PUBLISH_PROPERTIES)?;
    }
    Ok(Peek {
        qos,
        pkid,
        dup,
        properties,
    })
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP.
pub fn acknowledgement(version: Version, body: &[u8]) -> Result<(), Fault> {
    let mut cursor = Cursor(body);
    cursor.packet_id()?;
    if version == Version::V5 && !cursor.is_empty() {
        cursor.u8()?;
        if !cursor.is_empty() {
            cursor.properties(ACKNOWLEDGEMENT_PROPERTIES)?;
        }
    }
    cursor.end()
}

pub fn subscribe(version: Version, body: &[u8]) -> Result<(), Fault> {
    let mut cursor = Cursor(body);
    cursor.packet_id()?;
    if version == Version::V5 {
        cursor.properties(SUBSCRIBE_PROPERTIES)?;
    }
    if cursor.is_empty() {
        return Err(protocol_error("SUBSCRIBE without a topic filter")); // [MQTT-3.8.3-2]
    }
    while !cursor.is_empty() {
        cursor.text()?;
        let options = cursor.u8()?;
        let reserved = match version {
            Version::V3 => options & 0xFC != 0,
            Version::V5 => options & 0xC0 != 0 || options & 0x30 == 0x30,
        };
        if reserved || options & 3 == 3 {
            return Err(malformed("reserved bits in the subscription options")); // [MQTT-3.8.3-5]
        }
    }
    Ok(())
}

pub fn unsubscribe(version: Version, body: &[u8]) -> Result<(), Fault> {
    let mut cursor = Cursor(body);
    cursor.packet_id()?;
    if version == Version::V5 {
        cursor.properties(UNSUBSCRIBE_PROPERTIES)?;
    }
    if cursor.is_empty() {
        return Err(protocol_error("UNSUBSCRIBE without a topic filter")); // [MQTT-3.10.3-2]
    }
    while !cursor.is_empty() {
        cursor.text()?;
    }
    Ok(())
}

pub fn disconnect(version: Version, body: &[u8]) -> Result<(), Fault> {
    let mut cursor = Cursor(body);
    if version == Version::V5 && !cursor.is_empty() {
        cursor.u8()?;
        if !cursor.is_empty() {
            cursor.properties(DISCONNECT_PROPERTIES)?;
        }
    }
    cursor.end()
}

/// PINGREQ.
pub fn empty(body: &[u8]) -> Result<(), Fault> {
    Cursor(body).end()
}

pub fn connect(body: &[u8]) -> Result<ConnectShape, ConnectFault> {
    let mut cursor = Cursor(body);
    let name = cursor.prefixed().map_err(|_| ConnectFault::NotMqtt)?;
    let level = cursor.u8().map_err(|_| ConnectFault::NotMqtt)?;
    // Nothing can be subscribed to here, so a bridge is served as any client.
    let version = match (name, level & !BRIDGE) {
        (b"MQIsdp", 3) | (b"MQTT", 4) => Version::V3,
        (b"MQTT", 5) => Version::V5,
        (b"MQIsdp" | b"MQTT", _) => return Err(ConnectFault::Level),
        _ => return Err(ConnectFault::NotMqtt),
    };
    let flags_at = body.len() - cursor.0.len();
    connect_payload(version, &mut cursor)
        .map(|login_at| ConnectShape {
            version,
            is_3_1: name == b"MQIsdp",
            flags_at,
            login_at: body.len() - login_at,
        })
        .map_err(|fault| ConnectFault::Broken(version, fault))
}

// Returns how many bytes before the end the credentials begin.
fn connect_payload(version: Version, cursor: &mut Cursor<'_>) -> Result<usize, Fault> {
    let flags = cursor.u8()?;
    let (will, will_qos) = (flags & 0x04 != 0, (flags >> 3) & 3);
    let (password, user_name) = (flags & 0x40 != 0, flags & 0x80 != 0);
    if flags & 1 != 0 || will_qos == 3 || (!will && flags & 0x38 != 0) {
        return Err(malformed("reserved connect flags")); // [MQTT-3.1.2-3], [MQTT-3.1.2-11] and following
    }
    if version == Version::V3 && password && !user_name {
        return Err(malformed("a password without a user name")); // [MQTT-3.1.2-22] of 3.1.1
    }
    cursor.u16()?; // keep-alive
    if version == Version::V5 {
        cursor.properties(CONNECT_PROPERTIES)?;
    }
    cursor.text()?; // client identifier
    if will {
        if version == Version::V5 {
            cursor.properties(WILL_PROPERTIES)?;
        }
        cursor.text()?;
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

/// A topic name that may be published to [MQTT 5.0 §4.7]: the caller has dealt with an empty one.
pub fn topic(name: &[u8]) -> Result<&str, Fault> {
    let text = std::str::from_utf8(name).map_err(|_| malformed("the topic is not UTF-8"))?;
    if name.contains(&0) {
        return Err(malformed("U+0000 in the topic"));
    }
    if name.iter().any(|byte| matches!(byte, b'+' | b'#')) {
        return Err(Fault {
            reason: Leave::TopicNameInvalid,
            why: "a wildcard in the topic of a publish",
        });
    }
    Ok(text)
}

/// What of a body is still unread.
struct Cursor<'a>(&'a [u8]);

// === impl Cursor ===

impl<'a> Cursor<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn end(&self) -> Result<(), Fault> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(malformed("bytes after the end of the packet's fields")),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(malformed("the packet ends within a field"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Fault> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn packet_id(&mut self) -> Result<u16, Fault> {
        match self.u16()? {
            0 => Err(malformed("packet identifier 0")), // [MQTT-2.2.1-3]
            pkid => Ok(pkid),
        }
    }

    fn prefixed(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.u16()?;
        self.take(length.into())
    }

    fn text(&mut self) -> Result<(), Fault> {
        let bytes = self.prefixed()?;
        // [MQTT-1.5.4-1], [MQTT-1.5.4-2]
        match std::str::from_utf8(bytes).is_ok() && !bytes.contains(&0) {
            true => Ok(()),
            false => Err(malformed("a string that is not UTF-8, or holds U+0000")),
        }
    }

    fn variable_int(&mut self) -> Result<usize, Fault> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed("a variable byte integer of more than four bytes"))
    }

    /// The whole property block [MQTT 5.0 §2.2.2]; the codec neither keeps to its length nor minds repetitions.
    fn properties(&mut self, allowed: &[u8]) -> Result<(), Fault> {
        self.properties_each(allowed, |_, _| ())
    }

    /// The same, and `each` is told the identifier and the bytes of the value.
    fn properties_each(&mut self, allowed: &[u8], mut each: impl FnMut(u8, &[u8])) -> Result<(), Fault> {
        let length = self.variable_int()?;
        let mut block = Cursor(self.take(length)?);
        let mut seen = 0u64;
        while !block.is_empty() {
            let id = block.u8()?;
            if !allowed.contains(&id) {
                return Err(protocol_error("a property that does not belong into this packet"));
            }
            if id != 38 && seen & (1 << id) != 0 {
                return Err(protocol_error("a property that is given twice"));
            }
            seen |= 1 << id;
            let value = block.0;
            block.property_value(id)?;
            each(id, &value[..value.len() - block.0.len()]);
        }
        Ok(())
    }

    // Value types and forbidden values by property identifier [MQTT 5.0 §2.2.2.2].
    fn property_value(&mut self, id: u8) -> Result<(), Fault> {
        let valid = match id {
            1 | 23 | 25 => self.u8()? <= 1,
            33 | 35 => self.u16()? != 0,
            34 => self.u16().map(|_| true)?,
            39 => self.take(4)? != [0; 4],
            2 | 17 | 24 => self.take(4).map(|_| true)?,
            11 => self.variable_int()? != 0,
            9 | 22 => self.prefixed().map(|_| true)?,
            3 | 8 | 21 | 31 => self.text().map(|()| true)?,
            38 => self.text().and_then(|()| self.text()).map(|()| true)?,
            _ => return Err(malformed("an unknown property")),
        };
        match (valid, id) {
            (true, _) => Ok(()),
            (false, 35) => Err(Fault {
                reason: Leave::TopicAliasInvalid,
                why: "Topic Alias 0",
            }),
            (false, _) => Err(protocol_error("a property with a value that is not allowed")),
        }
    }
}
