//! The fields that packets are made of: integers, strings, topics and properties [MQTT 5.0 §1.5, §2.2.2, §4.7].
//!
//! What cannot be parsed is a Malformed Packet, what is parsed and not allowed a Protocol Error (§1.2), unless a clause
//! names another reason code (§4.13.1). The topic name of a PUBLISH or a will that has a wildcard in it is Topic Name
//! Invalid: it is not malformed, and not accepted.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

use super::fault::{DisconnectReason, Fault, Version, malformed, protocol_error};

/// For hashes of what a packet says, which no client can foresee; SipHash, the same for all connections.
pub fn hasher() -> impl Hasher {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.build_hasher()
}

/// The properties of a packet [MQTT 5.0 table 2-4].
pub struct Properties {
    /// Those that a client may send.
    pub client: &'static [u8],
    /// Those that only a server may send. Any other is not of this packet.
    pub server: &'static [u8],
}

/// Which properties were present, a bit for each identifier.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given(u64);

/// What of a body is still unread.
#[derive(Clone)]
pub struct Cursor<'a>(pub &'a [u8]);

const USER_PROPERTY: u8 = 38;

/// A topic name that may be published to [MQTT 5.0 §4.7]: the caller has dealt with an empty one.
pub fn topic(name: &[u8]) -> Result<&str, Fault> {
    let text = text(name)?;
    if name.iter().any(|byte| matches!(byte, b'+' | b'#')) {
        return Err(Fault {
            reason: DisconnectReason::TopicNameInvalid,
            why: "a wildcard in a topic name",
        });
    }
    Ok(text)
}

/// A Response Topic: a wildcard in it is a Protocol Error [MQTT-3.3.2-14], as 0x90 is for the Topic Name.
fn response_topic(name: &[u8]) -> Result<&str, Fault> {
    whole_topic(name).map_err(|fault| match fault.reason {
        DisconnectReason::TopicNameInvalid => protocol_error("a wildcard in a response topic"),
        _ => fault,
    })
}

/// A topic name that no alias can stand for.
fn whole_topic(name: &[u8]) -> Result<&str, Fault> {
    match name.is_empty() {
        true => Err(protocol_error("an empty topic name")), // [MQTT-4.7.3-1]
        false => topic(name),
    }
}

/// [MQTT-4.7.1-1] to [MQTT-4.7.3-1], and of MQTT 5 [MQTT-4.8.2-1] and [MQTT-4.8.2-2].
fn filter(version: Version, name: &[u8]) -> Result<(), Fault> {
    text(name)?;
    if name.is_empty() {
        return Err(protocol_error("an empty topic filter"));
    }
    let plain = match share(version, name) {
        Some(shared) => {
            let (name, filter) = shared.split_at(shared.iter().position(|byte| *byte == b'/').unwrap_or(shared.len()));
            let named = !name.is_empty() && !name.iter().any(|byte| matches!(byte, b'+' | b'#'));
            if !named || filter.len() < 2 {
                return Err(protocol_error("a shared subscription without a name or a filter"));
            }
            filter.split_at(1).1
        }
        None => name,
    };
    let mut levels = plain.split(|byte| *byte == b'/').peekable();
    while let Some(level) = levels.next() {
        let valid = match level {
            b"+" => true,
            b"#" => levels.peek().is_none(),
            _ => !level.iter().any(|byte| matches!(byte, b'+' | b'#')),
        };
        if !valid {
            return Err(protocol_error(
                "a wildcard that is not a whole level, or # before the end",
            ));
        }
    }
    Ok(())
}

/// What follows `$share/` in the filter of a shared subscription, which MQTT 5 has.
fn share(version: Version, filter: &[u8]) -> Option<&[u8]> {
    filter.strip_prefix(b"$share/").filter(|_| version == Version::V5)
}

fn text(bytes: &[u8]) -> Result<&str, Fault> {
    // [MQTT-1.5.4-1], [MQTT-1.5.4-2]
    match std::str::from_utf8(bytes) {
        Ok(text) if !bytes.contains(&0) => Ok(text),
        _ => Err(malformed("a string that is not UTF-8, or holds U+0000")),
    }
}

// === impl Given ===

impl Given {
    pub fn has(self, id: u8) -> bool {
        self.0 & (1 << id) != 0
    }
}

// === impl Cursor ===

impl<'a> Cursor<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn end(&self) -> Result<(), Fault> {
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

    pub fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    pub fn u16(&mut self) -> Result<u16, Fault> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub fn packet_id(&mut self) -> Result<u16, Fault> {
        match self.u16()? {
            0 => Err(protocol_error("packet identifier 0")), // [MQTT-2.2.1-3]
            pkid => Ok(pkid),
        }
    }

    pub fn prefixed(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.u16()?;
        self.take(length.into())
    }

    pub fn text(&mut self) -> Result<&'a str, Fault> {
        text(self.prefixed()?)
    }

    pub fn whole_topic(&mut self) -> Result<&'a str, Fault> {
        whole_topic(self.prefixed()?)
    }

    /// A topic filter; whether it is one of a shared subscription.
    pub fn filter(&mut self, version: Version) -> Result<bool, Fault> {
        let name = self.prefixed()?;
        filter(version, name).map(|()| share(version, name).is_some())
    }

    fn variable_int(&mut self) -> Result<usize, Fault> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7F) << shift;
            if byte == 0 && shift > 0 {
                return Err(super::fault::NOT_MINIMAL);
            }
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed("a variable byte integer of more than four bytes"))
    }

    /// The whole property block [MQTT 5.0 §2.2.2]; the codec neither keeps to its length nor minds repetitions.
    pub fn properties(&mut self, allowed: &Properties) -> Result<Given, Fault> {
        self.properties_each(allowed, |_, _| ())
    }

    /// The same, and `each` is told the identifier and the bytes of the value.
    pub fn properties_each(&mut self, allowed: &Properties, mut each: impl FnMut(u8, &[u8])) -> Result<Given, Fault> {
        let length = self.variable_int()?;
        let mut block = Cursor(self.take(length)?);
        let mut given = Given::default();
        while !block.is_empty() {
            let id = u8::try_from(block.variable_int()?).unwrap_or(u8::MAX);
            if allowed.server.contains(&id) {
                return Err(protocol_error("a property that only a server sends")); // [MQTT-3.3.4-6] and others
            }
            if !allowed.client.contains(&id) {
                return Err(malformed("a property that is not allowed in this packet")); // §2.2.2.2
            }
            if id != USER_PROPERTY && given.has(id) {
                return Err(protocol_error("a property that is given twice"));
            }
            given.0 |= 1 << id;
            let value = block.0;
            block.property_value(id)?;
            each(id, &value[..value.len() - block.0.len()]);
        }
        Ok(given)
    }

    /// Goes over the properties, whatever is wrong with them and as far as they have arrived, and gives the Maximum Packet Size
    /// among them.
    pub fn packet_bytes_max(&mut self) -> Option<u32> {
        const MAXIMUM_PACKET_SIZE: u8 = 39;
        let length = self.variable_int().unwrap_or(usize::MAX);
        let mut block = Cursor(self.0.get(..length).unwrap_or(self.0));
        self.0 = self.0.get(length..).unwrap_or_default();
        while !block.is_empty() {
            let id = block.u8().ok()?;
            let value = block.0;
            match block.property_value(id) {
                Ok(()) if id == MAXIMUM_PACKET_SIZE => {
                    return value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
                }
                Err(fault) if fault.reason == DisconnectReason::MalformedPacket => return None,
                Ok(()) | Err(_) => {}
            }
        }
        None
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
            8 => response_topic(self.prefixed()?).map(|_| true)?,
            9 | 22 => self.prefixed().map(|_| true)?,
            3 | 21 | 31 => self.text().map(|_| true)?,
            USER_PROPERTY => self.text().and_then(|_| self.text()).map(|_| true)?,
            _ => return Err(malformed("an unknown property")),
        };
        match (valid, id) {
            (true, _) => Ok(()),
            (false, 35) => Err(Fault {
                reason: DisconnectReason::TopicAliasInvalid,
                why: "Topic Alias 0",
            }),
            (false, _) => Err(protocol_error("a property with a value that is not allowed")),
        }
    }
}
