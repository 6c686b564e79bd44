//! The few MQTT packets that a publisher writes and reads, in 3.1.1 and 5.
//!
//! Written by hand into a buffer that the caller reuses: a PUBLISH is its head and the payload behind it, with nothing
//! allocated. Reading takes whatever bytes have come and says what is complete. Only what a publisher of QoS 1 needs is
//! here; anything else from a server is passed over by its length.

use super::Credentials;

/// PINGREQ and DISCONNECT (normal) have no content in either version.
pub const PINGREQ: [u8; 2] = [0xc0, 0];
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

/// The longest packet that is read; no answer to a publisher is so long.
pub const PACKET_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Version {
    #[value(name = "3.1.1")]
    V4,
    #[value(name = "5")]
    V5,
}

/// A packet as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Type and flags.
    pub first: u8,
    pub body: &'a [u8],
    /// Of everything, in bytes.
    pub length: usize,
}

/// What a server says to a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    ConnAck(ConnAck),
    PubAck { id: u16, reason: u8 },
    PingResp,
    Disconnect { reason: u8 },
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAck {
    pub code: u8,
    /// Publishes of QoS 1 and 2 that the server accepts at a time (MQTT 5 §3.2.2.3.3); 65,535 if it does not say.
    pub receive_maximum: u16,
    /// The keep-alive that the server asks for instead (MQTT 5 §3.2.2.3.14), in seconds.
    pub keep_alive_s: Option<u16>,
}

/// What came is no MQTT packet, or too long for one that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

// === writing ===

/// CONNECT with a clean session and no will.
pub fn connect(out: &mut Vec<u8>, version: Version, client: &str, keep_alive_s: u16, credentials: &Credentials) {
    let (name, password) = (credentials.username.as_deref(), credentials.password.as_deref());
    let mut body = Vec::with_capacity(64);
    text(&mut body, "MQTT");
    let (level, properties): (u8, &[u8]) = match version {
        Version::V4 => (4, &[]),
        Version::V5 => (5, &[0]),
    };
    let flags = 0x02 | (u8::from(name.is_some()) << 7) | (u8::from(password.is_some()) << 6);
    body.extend_from_slice(&[level, flags]);
    body.extend_from_slice(&keep_alive_s.to_be_bytes());
    body.extend_from_slice(properties);
    text(&mut body, client);
    for credential in [name, password].into_iter().flatten() {
        text(&mut body, credential);
    }
    out.push(0x10);
    remaining_length(out, body.len());
    out.extend_from_slice(&body);
}

/// The head of a PUBLISH of QoS 1 to `devices/<device>/<kind>`; a payload of `payload_bytes` follows.
pub fn publish(out: &mut Vec<u8>, version: Version, (device, kind): (&str, &str), id: u16, payload_bytes: usize) {
    const PREFIX: &[u8] = b"devices/";
    let topic_bytes = PREFIX.len() + device.len() + 1 + kind.len();
    let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
    out.push(0x32);
    remaining_length(out, 2 + topic_bytes + 2 + properties.len() + payload_bytes);
    out.extend_from_slice(&(topic_bytes as u16).to_be_bytes());
    out.extend_from_slice(PREFIX);
    out.extend_from_slice(device.as_bytes());
    out.push(b'/');
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(properties);
}

fn text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A variable byte integer (MQTT 5 §1.5.5).
fn remaining_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let low = (length % 128) as u8;
        length /= 128;
        out.push(low | (u8::from(length > 0) << 7));
        if length == 0 {
            return;
        }
    }
}

// === reading ===

/// The first packet of `bytes` and its length; `None` if it is not complete.
pub fn parse(bytes: &[u8]) -> Result<Option<(Received, usize)>, Malformed> {
    // Nearly everything is a PUBACK of four bytes.
    if let [0x40, 2, high, low, ..] = *bytes {
        let id = u16::from_be_bytes([high, low]);
        return Ok(Some((Received::PubAck { id, reason: 0 }, 4)));
    }
    // What no server may send is refused at once, and not waited for: HTTP would look like a long packet.
    if !bytes.first().is_none_or(|first| is_of_server(*first)) {
        return Err(Malformed);
    }
    let Some(packet) = packet(bytes, PACKET_BYTES_MAX)? else {
        return Ok(None);
    };
    Ok(Some((meaning(packet.first, packet.body)?, packet.length)))
}

/// The first packet of `bytes`; `None` if it is not complete.
pub fn packet(bytes: &[u8], bytes_max: usize) -> Result<Option<Packet<'_>>, Malformed> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let Some((length, digits)) = variable(rest)? else {
        return Ok(None);
    };
    if length > bytes_max {
        return Err(Malformed);
    }
    let length = digits + length;
    Ok(rest.get(digits..length).map(|body| Packet {
        first,
        body,
        length: 1 + length,
    }))
}

/// A variable byte integer and how many bytes it takes; `None` if it is not complete.
fn variable(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(Malformed) }
}

/// Whether a server may send a packet that begins with this: type and flags (MQTT 5 §2.1.2, §2.1.3).
fn is_of_server(first: u8) -> bool {
    matches!(
        first,
        0x20 | 0x30..=0x3f | 0x40 | 0x50 | 0x62 | 0x70 | 0x90 | 0xb0 | 0xd0 | 0xe0 | 0xf0
    )
}

fn meaning(first: u8, body: &[u8]) -> Result<Received, Malformed> {
    Ok(match (first, body) {
        (0x20, &[_, code, ref properties @ ..]) => Received::ConnAck(connack(code, properties)?),
        (0x40, &[high, low, ref rest @ ..]) => Received::PubAck {
            id: u16::from_be_bytes([high, low]),
            reason: rest.first().copied().unwrap_or(0),
        },
        (0xd0, []) => Received::PingResp,
        (0xe0, rest) => Received::Disconnect {
            reason: rest.first().copied().unwrap_or(0),
        },
        (0x20 | 0x40 | 0xd0, _) => return Err(Malformed),
        _ => Received::Other,
    })
}

/// CONNACK's properties (MQTT 5 §3.2.2.3), of which a publisher needs two; 3.1.1 has none.
fn connack(code: u8, properties: &[u8]) -> Result<ConnAck, Malformed> {
    let mut connack = ConnAck {
        code,
        receive_maximum: u16::MAX,
        keep_alive_s: None,
    };
    let Some((length, digits)) = variable(properties)? else {
        return Ok(connack);
    };
    let mut rest = properties.get(digits..digits + length).ok_or(Malformed)?;
    while let Some((&id, value)) = rest.split_first() {
        let two = || {
            value
                .first_chunk()
                .map(|bytes| u16::from_be_bytes(*bytes))
                .ok_or(Malformed)
        };
        match id {
            0x21 => connack.receive_maximum = two()?,
            0x13 => connack.keep_alive_s = Some(two()?),
            _ => {}
        }
        let text = || Ok(2 + usize::from(two()?));
        let bytes = match id {
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            0x13 | 0x21 | 0x22 => 2,
            0x11 | 0x27 => 4,
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => text()?,
            0x26 => {
                let name = text()?;
                let second = value.get(name..).and_then(|rest| rest.first_chunk()).ok_or(Malformed)?;
                name + 2 + usize::from(u16::from_be_bytes(*second))
            }
            _ => return Err(Malformed),
        };
        rest = value.get(bytes..).ok_or(Malformed)?;
    }
    // A client must treat 0 as a protocol error; taking it for 1 would be more than the server allows.
    if connack.receive_maximum == 0 {
        return Err(Malformed);
    }
    Ok(connack)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything(bytes: &[u8]) -> Result<Vec<Received>, Malformed> {
        let (mut rest, mut all) = (bytes, Vec::new());
        while let Some((packet, length)) = parse(rest)? {
            all.push(packet);
            rest = &rest[length..];
        }
        assert!(rest.is_empty(), "{} bytes are left", rest.len());
        Ok(all)
    }

    #[test]
    fn what_a_server_says_is_understood() {
        let check = |bytes: &[u8], expected: Result<Received, Malformed>| {
            assert_eq!(everything(bytes), expected.map(|packet| vec![packet]), "{bytes:02x?}");
        };
        let connack = |code, receive_maximum, keep_alive_s| {
            Ok(Received::ConnAck(ConnAck {
                code,
                receive_maximum,
                keep_alive_s,
            }))
        };
        check(&[0x20, 2, 0, 0], connack(0, 65_535, None));
        check(&[0x20, 2, 0, 5], connack(5, 65_535, None));
        check(&[0x20, 3, 0, 0x86, 0], connack(0x86, 65_535, None));
        check(&[0x20, 9, 0, 0, 6, 0x21, 0, 64, 0x13, 0, 30], connack(0, 64, Some(30)));
        // Reason string, user property and assigned client id stand before what is looked for.
        check(
            &[
                0x20, 22, 0, 0, 19, 0x1f, 0, 1, b'x', 0x26, 0, 1, b'a', 0, 2, b'b', b'c', 0x12, 0, 1, b'i', 0x21, 0, 7,
            ],
            connack(0, 7, None),
        );
        check(&[0x20, 6, 0, 0, 3, 0x21, 0, 0], Err(Malformed));
        check(&[0x20, 5, 0, 0, 9, 0x21, 0], Err(Malformed));
        check(&[0x20, 4, 0, 0, 1, 0xee], Err(Malformed));
        check(&[0x40, 2, 0x12, 0x34], Ok(Received::PubAck { id: 0x1234, reason: 0 }));
        check(&[0x40, 3, 0, 9, 0x97], Ok(Received::PubAck { id: 9, reason: 0x97 }));
        check(
            &[0x40, 6, 0, 9, 0x99, 2, 0x1f, 0],
            Ok(Received::PubAck { id: 9, reason: 0x99 }),
        );
        check(&[0x40, 1, 0], Err(Malformed));
        check(&[0xd0, 0], Ok(Received::PingResp));
        check(&[0xe0, 1, 0x8b], Ok(Received::Disconnect { reason: 0x8b }));
        check(&[0x90, 3, 0, 1, 0], Ok(Received::Other));
        check(b"HTTP/1.1 400 Bad Request\r\n", Err(Malformed));
        check(&[0x40, 0xff, 0xff, 0xff, 0xff], Err(Malformed));
        check(&[0x30, 0xff, 0xff, 0x7f], Err(Malformed));
    }

    /// Every split into two, and one byte at a time: a prefix of a packet is never mistaken for something else.
    #[test]
    fn packets_are_understood_however_they_are_cut() {
        let stream: Vec<u8> = [
            &[0x20, 6, 0, 0, 3, 0x21, 0, 64][..],
            &[0x40, 2, 0, 1],
            &[0x40, 3, 0, 2, 0x10],
            &[0xd0, 0],
            &[0x40, 6, 0, 3, 0x97, 2, 0x1f, 0],
            &[0x40, 2, 0, 4],
            &[0xe0, 2, 0x8b, 0],
        ]
        .concat();
        let whole = everything(&stream).unwrap();
        assert_eq!(whole.len(), 7);
        let in_pieces = |pieces: &[&[u8]]| {
            let (mut buffer, mut all) = (Vec::new(), Vec::new());
            for piece in pieces {
                buffer.extend_from_slice(piece);
                while let Some((packet, length)) = parse(&buffer).unwrap() {
                    all.push(packet);
                    buffer.drain(..length);
                }
            }
            assert!(buffer.is_empty());
            all
        };
        for cut in 0..=stream.len() {
            let (head, tail) = stream.split_at(cut);
            assert_eq!(in_pieces(&[head, tail]), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(in_pieces(&bytes), whole);
    }

    /// Parsed by the judge that the fleet uses, rumqttc's codec.
    #[test]
    fn what_is_written_is_what_an_independent_codec_reads() {
        use rumqttc::mqttbytes::v4;
        let credentials = Credentials {
            username: Some("city".to_owned()),
            password: Some("secret".to_owned()),
        };
        let mut out = Vec::new();
        connect(&mut out, Version::V4, "loop-00001", 60, &credentials);
        let payload = vec![b'x'; 300];
        publish(&mut out, Version::V4, ("loop-00001", "traffic"), 513, payload.len());
        out.extend_from_slice(&payload);
        out.extend_from_slice(&PINGREQ);
        out.extend_from_slice(&DISCONNECT);
        let mut stream = bytes::BytesMut::from(&out[..]);
        let v4::Packet::Connect(connect) = v4::Packet::read(&mut stream, 10_000).unwrap() else {
            panic!("not a CONNECT")
        };
        assert_eq!(
            (connect.client_id.as_str(), connect.keep_alive, connect.clean_session),
            ("loop-00001", 60, true)
        );
        assert_eq!(connect.login.unwrap().password, "secret");
        let v4::Packet::Publish(publish) = v4::Packet::read(&mut stream, 10_000).unwrap() else {
            panic!("not a PUBLISH")
        };
        assert_eq!(
            (publish.topic.as_str(), publish.pkid),
            ("devices/loop-00001/traffic", 513)
        );
        assert_eq!(publish.payload, payload);
        assert!(matches!(
            v4::Packet::read(&mut stream, 100).unwrap(),
            v4::Packet::PingReq
        ));
        assert!(matches!(
            v4::Packet::read(&mut stream, 100).unwrap(),
            v4::Packet::Disconnect
        ));
    }
}
