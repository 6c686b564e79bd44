//! Bytes ↔ packets, for MQTT 3.1.1 and 5, with `rumqttd::protocol` as the codec.
//!
//! The only folder that knows the codec, so that it can be replaced. The codec is neither strict nor safe by itself, so
//! it reads only PUBLISH and CONNECT, and there are ten guards, each with a test of its number; with them no byte sequence
//! panics, and a frame is either a packet or a [`Fault`]:
//!
//!  1. It hides QoS, packet id and DUP of a PUBLISH: they are read beforehand ([`check`]).
//!  2. It panics on packets that only a server sends: they end in [`head`].
//!  3. It asks for more bytes where a whole packet is too short, having swallowed it: such a packet is malformed.
//!  4. It refuses a DISCONNECT with a reason and no property length, which is legal: it is not shown it.
//!  5. It writes a DISCONNECT without properties with a wrong length: written by hand.
//!  6. It panics on writing a CONNACK code that the version lacks: refusals are written by hand.
//!  7. It panics on writing 3.1.1 packets with properties: they get none.
//!  8. It refuses passwords that are not UTF-8: it is not shown them, and the login is read here.
//!  9. It checks neither flags, reserved bits, trailing bytes nor the bounds and values of properties: `check` does
//!     ([`fields`] for what packets are made of; `rules` is the table of what it must say).
//! 10. It accepts any bytes as a topic, and its topic matcher panics on some: topics are checked, nothing is matched.

use std::fmt;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rumqttd::protocol::{self as codec, Protocol as _};
use zeroize::Zeroizing;

use crate::devices::authenticate::SECRET_BYTES_MAX;
use crate::message::DEVICE_BYTES_MAX;

mod check;
mod encode;
mod fault;
mod fields;

pub use check::{ConnectFault, Hints, connect_hints, connect_version};
pub use encode::{Connack, Encoder, Refusal, shortened};
pub use fault::{DisconnectReason, Fault, TOO_LARGE, Version, malformed, protocol_error};
pub use fields::{hasher, topic};

use check::{ConnectShape, Peek};
use fault::minimal;

/// What the first bytes of a packet say: enough to decide whether to read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub first: u8,
    /// Bytes of the fixed header: 2 to 5.
    pub header_bytes: usize,
    /// Bytes of the whole packet, fixed header included.
    pub packet_bytes: usize,
}

/// A packet from a client, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    Publish(Publish),
    PubRel {
        pkid: u16,
    },
    PubRec {
        pkid: u16,
    },
    // An answer to a publish that was not sent from here.
    PubAckOrComp,
    Subscribe {
        pkid: u16,
        filters: usize,
    },
    Unsubscribe {
        pkid: u16,
        filters: usize,
    },
    PingReq,
    /// The reason is 0 where none is given, as in 3.1.1.
    Disconnect {
        reason: u8,
        session_expiry_s: Option<u32>,
    },
}

/// A PUBLISH; topic and payload are slices of the read buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Publish {
    pub qos: u8,
    /// Zero for QoS 0.
    pub pkid: u16,
    pub dup: bool,
    /// Not checked yet; empty where an alias stands for it.
    pub topic: Bytes,
    pub alias: Option<u16>,
    pub content_type: Option<String>,
    /// Of QoS 2, a hash of those properties that are the same when the publish is repeated; otherwise zero.
    pub properties: u64,
    pub payload: Bytes,
}

/// A will, as far as it is told apart: nothing delivers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// For the log; a long one is cut.
    pub topic: String,
    /// Will Delay Interval.
    pub delay: Duration,
}

/// User name and password, each if it was sent.
#[derive(Default, PartialEq, Eq)]
pub struct Login {
    pub user_name: Option<String>,
    /// Binary data.
    pub password: Option<Zeroizing<Vec<u8>>>,
}

/// A CONNECT, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub struct Connect {
    pub version: Version,
    /// Whether it is MQTT 3.1.
    pub is_3_1: bool,
    pub client_id: String,
    /// Clean Session of 3.1.1, Clean Start of 5.
    pub clean: bool,
    /// Zero: none.
    pub keep_alive_s: u16,
    /// `None` with 3.1.1, which knows only `clean`.
    pub session_expiry_s: Option<u32>,
    /// The largest packet that the client accepts.
    pub packet_bytes_max: Option<u32>,
    /// Whether it wants reason strings.
    pub problem_information: bool,
    pub authentication_method: bool,
    pub will: Option<Will>,
    pub login: Login,
}

/// Reads the fixed header of the packet at the front; `None` if more bytes are needed.
///
/// Guards 2 and 9: packet types that a client may not send, on some of which the codec panics, and wrong flags
/// [MQTT-2.2.2-2] end here. MQTT 3.1 (`is_3_1`) sets DUP on repeated PUBREL, SUBSCRIBE and UNSUBSCRIBE (its §2.1).
pub fn head(inbound: &[u8], is_3_1: bool) -> Result<Option<Head>, Fault> {
    let Some((&first, rest)) = inbound.split_first() else {
        return Ok(None);
    };
    match (first >> 4, first & 0x0F) {
        (3, _) | (6 | 8 | 10, 0b0010) | (1 | 4 | 5 | 7 | 12 | 14, 0) => {}
        (6 | 8 | 10, 0b1010) if is_3_1 => {}
        (15, 0) => return Err(protocol_error("AUTH, but no authentication method was agreed")),
        (0, _) | (1 | 4..=8 | 10 | 12 | 14 | 15, _) => return Err(malformed("packet type 0, or wrong flags")),
        _ => return Err(protocol_error("a packet that only a server sends")),
    }
    match codec::v4::length(rest.iter()) {
        Ok((length_bytes, remaining)) => Ok(Some(Head {
            first,
            header_bytes: 1 + length_bytes,
            packet_bytes: 1 + length_bytes + remaining,
        })),
        Err(codec::Error::InsufficientBytes(_)) => Ok(None),
        Err(_) => Err(malformed("a remaining length of more than four bytes")),
    }
}

/// Removes the packet at the front, which has arrived whole, from `inbound`.
pub fn decode(version: Version, head: &Head, inbound: &mut BytesMut) -> Result<Packet, Fault> {
    minimal(version, head.is_minimal())?;
    if head.is_publish() {
        return decode_publish(version, head, inbound);
    }
    let body = &inbound[head.header_bytes..head.packet_bytes];
    let packet = match head.kind() {
        1 => return Err(protocol_error("a second CONNECT")), // [MQTT-3.1.0-2]
        kind @ 4..=7 => {
            let pkid = check::acknowledgement(version, kind, body)?;
            match kind {
                5 => Packet::PubRec { pkid },
                6 => Packet::PubRel { pkid },
                _ => Packet::PubAckOrComp,
            }
        }
        8 => check::subscribe(version, body).map(|(pkid, filters)| Packet::Subscribe { pkid, filters })?,
        10 => check::unsubscribe(version, body).map(|(pkid, filters)| Packet::Unsubscribe { pkid, filters })?,
        14 => {
            let (reason, session_expiry_s) = check::disconnect(version, body)?;
            Packet::Disconnect {
                reason,
                session_expiry_s,
            }
        }
        _ => check::empty(body).map(|()| Packet::PingReq)?,
    };
    inbound.advance(head.packet_bytes);
    Ok(packet)
}

// Guard 3: whatever the codec says of a whole packet, *more bytes* included, it is malformed.
fn decode_publish(version: Version, head: &Head, inbound: &mut BytesMut) -> Result<Packet, Fault> {
    let Peek {
        qos,
        pkid,
        dup,
        properties,
    } = check::publish(version, head.first, &inbound[head.header_bytes..head.packet_bytes])?;
    let packet = match version {
        Version::V3 => codec::v4::V4.read_mut(inbound, head.packet_bytes),
        Version::V5 => codec::v5::V5.read_mut(inbound, head.packet_bytes),
    };
    let Ok(codec::Packet::Publish(publish, given)) = packet else {
        return Err(malformed("the packet cannot be decoded"));
    };
    let (alias, content_type) = given.map_or((None, None), |given| (given.topic_alias, given.content_type));
    Ok(Packet::Publish(Publish {
        qos,
        pkid,
        dup,
        topic: publish.topic,
        alias,
        content_type,
        properties,
        payload: publish.payload,
    }))
}

/// Removes the CONNECT at the front, which has arrived whole, from `inbound`.
pub fn decode_connect(head: &Head, inbound: &mut BytesMut) -> Result<Connect, ConnectFault> {
    let frame = inbound.split_to(head.packet_bytes);
    let body = &frame[head.header_bytes..];
    let shape = check::connect(body, head.is_minimal())?;
    let login = login(body[shape.flags_at], &body[shape.login_at..]);
    let mut frame = for_the_codec(&shape, body);
    let bytes = frame.len();
    let packet = match shape.version {
        Version::V3 => codec::v4::V4.read_mut(&mut frame, bytes),
        Version::V5 => codec::v5::V5.read_mut(&mut frame, bytes),
    };
    let Ok(codec::Packet::Connect(connect, properties, will, will_properties, _)) = packet else {
        return Err(ConnectFault::Broken {
            version: shape.version,
            fault: malformed("the CONNECT cannot be decoded"),
            hints: Hints::default(),
        });
    };
    let given = properties.as_ref();
    Ok(Connect {
        version: shape.version,
        is_3_1: shape.is_3_1,
        client_id: connect.client_id,
        clean: connect.clean_session,
        keep_alive_s: connect.keep_alive,
        session_expiry_s: given.and_then(|given| given.session_expiry_interval),
        packet_bytes_max: given.and_then(|given| given.max_packet_size),
        problem_information: given.and_then(|given| given.request_problem_info) != Some(0),
        authentication_method: given.is_some_and(|given| given.authentication_method.is_some()),
        will: will.map(|will| Will {
            topic: shortened(&String::from_utf8_lossy(&will.topic)).to_owned(),
            delay: Duration::from_secs(
                will_properties
                    .and_then(|given| given.delay_interval)
                    .unwrap_or(0)
                    .into(),
            ),
        }),
        login,
    })
}

// The end of a CONNECT with these flags, which has been checked.
fn login(flags: u8, bytes: &[u8]) -> Login {
    fn prefixed<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        *bytes = rest;
        Some(value)
    }
    let mut rest = bytes;
    let user_name = (flags & 0x80 != 0).then(|| prefixed(&mut rest)).flatten();
    let password = (flags & 0x40 != 0).then(|| prefixed(&mut rest)).flatten();
    // What no device can have is not kept: an empty password is none.
    let is_possible = user_name.is_none_or(|name| name.len() <= DEVICE_BYTES_MAX)
        && password.is_none_or(|password| password.len() <= SECRET_BYTES_MAX);
    let [user_name, password] = [user_name, password].map(|text| text.map(|text| if is_possible { text } else { &[] }));
    Login {
        user_name: user_name.map(|name| String::from_utf8_lossy(name).into_owned()),
        password: password.map(|password| Zeroizing::new(password.to_vec())),
    }
}

// Guard 8: the codec refuses a password that is not UTF-8, though MQTT has it as binary data. Credentials are
// read here, so the codec is not shown them. It also knows only one name and one level of each version.
fn for_the_codec(shape: &ConnectShape, body: &[u8]) -> BytesMut {
    const NAME: &[u8] = b"\x00\x04MQTT";
    let level = match shape.version {
        Version::V3 => 4,
        Version::V5 => 5,
    };
    let rest = &body[shape.flags_at + 1..shape.login_at];
    let length = NAME.len() + 2 + rest.len();
    let mut frame = BytesMut::with_capacity(length + 5);
    frame.extend_from_slice(&[0x10]);
    codec::v4::write_remaining_length(&mut frame, length).expect("not longer than the packet it comes from");
    frame.extend_from_slice(NAME);
    frame.extend_from_slice(&[level, body[shape.flags_at] & 0x3F]);
    frame.extend_from_slice(rest);
    frame
}

/// The topic of a PUBLISH of which perhaps only the beginning has arrived; empty if it cannot be said.
pub fn topic_of_part<'a>(head: &Head, inbound: &'a [u8]) -> &'a str {
    let topic = inbound.get(head.header_bytes..).and_then(|body| {
        let (length, rest) = body.split_first_chunk::<2>()?;
        rest.get(..u16::from_be_bytes(*length).into())
    });
    topic.and_then(|topic| fields::topic(topic).ok()).unwrap_or_default()
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not even the user name: somebody may have sent the key in its place.
        f.write_str("(hidden)")
    }
}

// === impl Head ===

impl Head {
    /// The packet type, 1 to 15 [MQTT 5.0 §2.1.2].
    pub fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// Whether the Remaining Length has no more bytes than it needs.
    fn is_minimal(&self) -> bool {
        let remaining = self.packet_bytes - self.header_bytes;
        let needed = match remaining {
            0..0x80 => 1,
            0x80..0x4000 => 2,
            0x4000..0x20_0000 => 3,
            _ => 4,
        };
        self.header_bytes == 1 + needed
    }

    pub fn is_publish(&self) -> bool {
        self.kind() == 3
    }

    /// QoS of a PUBLISH; 3 is not refused here.
    pub fn qos(&self) -> u8 {
        (self.first >> 1) & 3
    }
}

#[cfg(test)]
mod rules;

#[cfg(test)]
mod tests;
