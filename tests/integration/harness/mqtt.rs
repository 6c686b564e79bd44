//! A small MQTT client of its own: it writes 3.1.1 and 5 packets byte by byte and reads the answers the same way.
//!
//! OASIS MQTT 3.1.1 and 5.0, chapter 3. Enough for a device that publishes: CONNECT, PUBLISH at QoS 0 to 2, PUBREL,
//! and whatever a server says to those.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// The protocol level in CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V311 = 4,
    V5 = 5,
}

/// A device's connection.
#[derive(Debug)]
pub struct Mqtt<S = TcpStream> {
    pub version: Version,
    stream: S,
    last_id: u16,
}

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    ConnAck { reason: u8 },
    PubAck { id: u16, reason: u8, text: String },
    PubRec { id: u16, reason: u8, text: String },
    PubComp { id: u16, reason: u8 },
    Disconnect { reason: u8, text: String },
    Closed,
}

// === impl Mqtt ===

impl Mqtt {
    /// A connection on which nothing is said yet; `version` is how its answers are read.
    pub async fn unconnected(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Mqtt {
            version,
            stream,
            last_id: 0,
        }
    }

    /// Connects and is accepted.
    pub async fn connect(address: SocketAddr, version: Version, client_id: &str) -> Self {
        let mut mqtt = Self::unconnected(address, version).await;
        mqtt.write(&connect(version, client_id)).await;
        assert_eq!(mqtt.read().await, Reply::ConnAck { reason: 0 });
        mqtt
    }

    /// Connects to a session that is kept, and says whether it was present.
    pub async fn resume(address: SocketAddr, version: Version, client_id: &str) -> (Self, bool) {
        let mut mqtt = Self::unconnected(address, version).await;
        mqtt.write(&connect_to_session(version, client_id)).await;
        let (_, body) = mqtt.frame().await.unwrap();
        assert_eq!(body[1], 0, "the CONNECT is accepted: {body:?}");
        (mqtt, body[0] == 1)
    }

    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Mqtt<S> {
    /// Ends the stream towards the server, and reads on.
    pub async fn end_stream(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Reads what comes over a connection that somebody else has opened.
    pub fn over(stream: S, version: Version) -> Self {
        Mqtt {
            version,
            stream,
            last_id: 0,
        }
    }

    /// Writes a PUBLISH and returns its packet id (0 for QoS 0).
    pub async fn publish(&mut self, qos: u8, topic: &str, content_type: &str, payload: &[u8]) -> u16 {
        let id = if qos == 0 { 0 } else { self.last_id % u16::MAX + 1 };
        self.last_id = id.max(self.last_id);
        self.write(&publish(self.version, qos, id, topic, content_type, payload))
            .await;
        id
    }

    /// A server that closes while we write is told apart by what is read next.
    pub async fn write(&mut self, packet: &[u8]) {
        let _closed = self.stream.write_all(packet).await;
    }

    /// The next packet; waits as long as it takes. Cancel safe while nothing of it has come.
    pub async fn read(&mut self) -> Reply {
        match self.frame().await {
            Ok((first, body)) => self.parse(first, &body),
            Err(_) => Reply::Closed,
        }
    }

    /// The answer to a CONNECT: its code, and why it is refused, as far as the version can say it. `None`: the server closed.
    pub async fn connack(&mut self) -> Option<(u8, String)> {
        let (_, body) = self.frame().await.ok()?;
        let has_text = self.version == Version::V5 && body[1] != 0;
        let text = if has_text {
            reason_string(&body[2..])
        } else {
            String::new()
        };
        Some((body[1], text))
    }

    async fn frame(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        frame(&mut self.stream).await
    }

    fn parse(&self, first: u8, body: &[u8]) -> Reply {
        let v5 = self.version == Version::V5;
        let id = || u16::from_be_bytes([body[0], body[1]]);
        // In MQTT 5 reason code and properties may be left out, and mean success and none.
        let reason = |at: usize| body.get(at).copied().unwrap_or(0);
        let text = |at: usize| {
            if v5 {
                reason_string(body.get(at..).unwrap_or_default())
            } else {
                String::new()
            }
        };
        match first >> 4 {
            2 => Reply::ConnAck { reason: body[1] },
            4 => Reply::PubAck {
                id: id(),
                reason: reason(2),
                text: text(3),
            },
            5 => Reply::PubRec {
                id: id(),
                reason: reason(2),
                text: text(3),
            },
            7 => Reply::PubComp {
                id: id(),
                reason: reason(2),
            },
            14 => Reply::Disconnect {
                reason: reason(0),
                text: text(1),
            },
            other => panic!("a server does not send packet type {other}: {body:?}"),
        }
    }
}

/// The first byte and the body of the next packet, whatever it is.
pub async fn frame<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<(u8, Vec<u8>)> {
    let first = stream.read_u8().await?;
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let byte = stream.read_u8().await?;
        length |= usize::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((first, body))
}

/// MQTT 5.0 §2.2.2.2: of the properties of an acknowledgement or DISCONNECT, the reason string (0x1F).
fn reason_string(properties: &[u8]) -> String {
    let Some((&length, mut rest)) = properties.split_first() else {
        return String::new();
    };
    let mut length = usize::from(length);
    if length >= 0x80 {
        length = (length & 0x7F) | usize::from(rest[0]) << 7;
        rest = &rest[1..];
    }
    assert_eq!(rest.len(), length, "the properties end with the packet");
    let string = |at: usize| {
        let end = at + 2 + usize::from(u16::from_be_bytes([rest[at], rest[at + 1]]));
        (String::from_utf8(rest[at + 2..end].to_vec()).unwrap(), end)
    };
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            0x1F => return string(at + 1).0,
            0x26 => at = string(string(at + 1).1).1, // user property: a pair of strings
            0x11 => at += 5,                         // session expiry
            0x1C => at = string(at + 1).1,           // server reference
            other => panic!("property {other:#x} does not belong here: {rest:?}"),
        }
    }
    String::new()
}

/// CONNECT with a clean session and a keep-alive of a minute.
pub fn connect(version: Version, client_id: &str) -> Vec<u8> {
    let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
    connect_as("MQTT", version as u8, 0b10, 60, properties, client_id)
}

/// CONNECT to a session that is kept for an hour (with 3.1.1: as long as the server likes).
pub fn connect_to_session(version: Version, client_id: &str) -> Vec<u8> {
    let properties: &[u8] = if version == Version::V5 {
        &[5, 0x11, 0, 0, 0x0E, 0x10]
    } else {
        &[]
    };
    connect_as("MQTT", version as u8, 0, 60, properties, client_id)
}

/// CONNECT with everything that may differ; `properties` with their length, as they are written.
pub fn connect_as(name: &str, level: u8, flags: u8, keep_alive_s: u16, properties: &[u8], client_id: &str) -> Vec<u8> {
    let mut body = Vec::new();
    push_string(&mut body, name);
    body.extend_from_slice(&[level, flags]);
    body.extend_from_slice(&keep_alive_s.to_be_bytes());
    body.extend_from_slice(properties);
    push_string(&mut body, client_id);
    packet(0x10, &body)
}

/// CONNECT with a clean session, and a user name and password if there are any.
pub fn connect_with_login(version: Version, client_id: &str, user: Option<&str>, password: Option<&str>) -> Vec<u8> {
    let flags = 0b10 | u8::from(user.is_some()) << 7 | u8::from(password.is_some()) << 6;
    let mut body = Vec::new();
    push_string(&mut body, "MQTT");
    body.extend_from_slice(&[version as u8, flags, 0, 60]);
    body.extend_from_slice(if version == Version::V5 { &[0] } else { &[] });
    for text in [Some(client_id), user, password].into_iter().flatten() {
        push_string(&mut body, text);
    }
    packet(0x10, &body)
}

/// PUBLISH; the content type is a property of MQTT 5 and is left out when empty.
pub fn publish(version: Version, qos: u8, id: u16, topic: &str, content_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut properties = Vec::new();
    if version == Version::V5 && !content_type.is_empty() {
        properties.push(0x03);
        push_string(&mut properties, content_type);
    }
    publish_with(version, qos, id, topic, &properties, payload)
}

/// PUBLISH with these properties, as they are written after their length; 3.1.1 has none.
pub fn publish_with(version: Version, qos: u8, id: u16, topic: &str, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    push_string(&mut body, topic);
    if qos > 0 {
        body.extend_from_slice(&id.to_be_bytes());
    }
    if version == Version::V5 {
        body.push(properties.len() as u8);
        body.extend_from_slice(properties);
    }
    body.extend_from_slice(payload);
    packet(0x30 | qos << 1, &body)
}

/// The same PUBLISH, said to be a repetition.
pub fn repeated(publish: &[u8]) -> Vec<u8> {
    let mut bytes = publish.to_vec();
    bytes[0] |= 0b1000;
    bytes
}

/// DISCONNECT without a reason.
pub const DISCONNECT: [u8; 2] = [0xE0, 0];

pub fn pubrel(id: u16) -> Vec<u8> {
    packet(0x62, &id.to_be_bytes())
}

/// A packet of this first byte.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let more = if length > 0x7F { 0x80 } else { 0 };
        bytes.push((length & 0x7F) as u8 | more);
        length >>= 7;
        if length == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

fn push_string(into: &mut Vec<u8>, text: &str) {
    into.extend_from_slice(&(text.len() as u16).to_be_bytes());
    into.extend_from_slice(text.as_bytes());
}
