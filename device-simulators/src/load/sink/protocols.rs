//! What the sink answers to MQTT, HTTP and CoAP: one request at a time, bytes in, bytes out. It parses no more than an
//! acknowledgement needs and validates nothing, as it is the floor that the gateway's cost is compared with. Sockets
//! are in `streams` and `datagrams`.

use std::sync::atomic::Ordering;

use super::Behavior;
use crate::load::mqtt::{self, Malformed};

/// The longest message that the sink accepts.
pub(super) const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// What a request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// A message, which was answered.
    Message,
    /// Something that is no message.
    Other,
    /// The client disconnects.
    End,
}

/// One MQTT packet; `None` if it is not complete.
pub(super) fn mqtt(
    bytes: &[u8],
    out: &mut Vec<u8>,
    behavior: &Behavior,
    count: u64,
    is_v5: &mut bool,
) -> Result<Option<(Request, usize)>, Malformed> {
    let Some(mqtt::Packet { first, body, length }) = mqtt::packet(bytes, MESSAGE_BYTES_MAX)? else {
        return Ok(None);
    };
    let request = match first {
        0x10 => {
            *is_v5 = body.get(6) == Some(&5);
            let code = behavior.connack.load(Ordering::Relaxed);
            out.extend_from_slice(if *is_v5 { &[0x20, 3, 0] } else { &[0x20, 2, 0] });
            out.push(code);
            if *is_v5 {
                out.push(0);
            }
            if code == 0 { Request::Other } else { Request::End }
        }
        0x32 | 0x33 | 0x3a | 0x3b => {
            let [high, low] = packet_id(body).ok_or(Malformed)?;
            match behavior.is_other(count) {
                true => out.extend_from_slice(&[0x40, 3, high, low, behavior.puback.load(Ordering::Relaxed)]),
                false => out.extend_from_slice(&[0x40, 2, high, low]),
            }
            Request::Message
        }
        0x30 | 0x31 => Request::Message,
        0xc0 => {
            out.extend_from_slice(&[0xd0, 0]);
            Request::Other
        }
        0xe0 => Request::End,
        _ => return Err(Malformed),
    };
    Ok(Some((request, length)))
}

/// It stands behind the topic.
fn packet_id(body: &[u8]) -> Option<[u8; 2]> {
    let topic = usize::from(u16::from_be_bytes(*body.first_chunk()?));
    body.get(2 + topic..)?.first_chunk().copied()
}

/// One HTTP request; `None` if it is not complete.
pub(super) fn http(
    bytes: &[u8],
    out: &mut Vec<u8>,
    behavior: &Behavior,
    count: u64,
) -> Result<Option<(Request, usize)>, Malformed> {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() > 16 * 1024 {
            Err(Malformed)
        } else {
            Ok(None)
        };
    };
    let length = head + 4 + content_length(&bytes[..head])?;
    if length > MESSAGE_BYTES_MAX {
        return Err(Malformed);
    }
    if bytes.len() < length {
        return Ok(None);
    }
    match behavior.is_other(count) {
        false => out.extend_from_slice(b"HTTP/1.1 204 No Content\r\n\r\n"),
        true => {
            let status = behavior.status.load(Ordering::Relaxed);
            out.extend_from_slice(format!("HTTP/1.1 {status} Other\r\ncontent-length: 2\r\n\r\n{{}}").as_bytes());
        }
    }
    Ok(Some((Request::Message, length)))
}

fn content_length(head: &[u8]) -> Result<usize, Malformed> {
    const NAME: &[u8] = b"content-length:";
    for line in head.split(|byte| *byte == b'\n') {
        if line.len() >= NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            let digits = std::str::from_utf8(line[NAME.len()..].trim_ascii()).map_err(|_| Malformed)?;
            return digits.parse().map_err(|_| Malformed);
        }
    }
    Ok(0)
}

/// One CoAP datagram; whether it was a message.
pub(super) fn coap(datagram: &[u8], out: &mut Vec<u8>, behavior: &Behavior, count: u64) -> bool {
    let &[first, code, high, low, ref rest @ ..] = datagram else {
        return false;
    };
    let (version, kind) = (first >> 6, (first >> 4) & 3);
    let Some(token) = rest.get(..usize::from(first & 15)) else {
        return false;
    };
    match (version, kind, code) {
        // A ping (RFC 7252 §4.3) is answered by a Reset.
        (1, 0, 0) => {
            out.extend_from_slice(&[0x70, 0, high, low]);
            false
        }
        (1, 0 | 1, 1..32) => {
            // Piggybacked on the acknowledgement; to a non-confirmable request, non-confirmable.
            let kind = if kind == 0 { 0x60 } else { 0x50 };
            let code = if behavior.is_other(count) {
                behavior.coap.load(Ordering::Relaxed)
            } else {
                0x44
            };
            out.extend_from_slice(&[kind | (first & 15), code, high, low]);
            out.extend_from_slice(token);
            true
        }
        _ => false,
    }
}
