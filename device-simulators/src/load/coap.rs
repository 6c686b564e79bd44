//! The few CoAP messages that a load of confirmable POSTs writes and reads (RFC 7252).
//!
//! Written by hand into a reused buffer; the token tells which message a response belongs to (§5.3.2), the message id
//! which datagram an acknowledgement belongs to (§4.2). Options of a response are not looked at.

/// Bytes of a token.
pub const TOKEN_BYTES: usize = 4;

/// ACK_TIMEOUT and MAX_RETRANSMIT (§4.8).
pub const ACK_TIMEOUT_NS: u64 = 2_000_000_000;
pub const MAX_RETRANSMIT: u8 = 4;

/// What a datagram means to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A response; a confirmable one (§5.2.2) must be acknowledged by its message id.
    Response {
        token: [u8; TOKEN_BYTES],
        code: u8,
        confirmable: Option<u16>,
    },
    /// The request has arrived, the response follows (§5.2.2).
    Acknowledged {
        id: u16,
    },
    Reset {
        id: u16,
    },
    /// A confirmable message that is no response to anything here, to be answered by a Reset (§4.2).
    Stray {
        id: u16,
    },
    Noise,
}

// === writing ===

/// The head of a confirmable POST to `devices/<device>/<kind>` with a JSON payload, which follows.
pub fn post(out: &mut Vec<u8>, id: u16, token: [u8; TOKEN_BYTES], (device, kind): (&str, &str)) {
    out.extend_from_slice(&[0x40 | TOKEN_BYTES as u8, 0x02]);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&token);
    option(out, 11, b"devices");
    option(out, 0, device.as_bytes());
    option(out, 0, kind.as_bytes());
    // Content-Format (12): application/json is 50.
    option(out, 1, &[50]);
    out.push(0xff);
}

/// An empty acknowledgement.
pub fn acknowledgement(id: u16) -> [u8; 4] {
    empty(0x60, id)
}

/// An empty Reset message.
pub fn reset(id: u16) -> [u8; 4] {
    empty(0x70, id)
}

/// An empty confirmable message, which asks for a Reset: "CoAP ping" (§4.3).
pub fn ping(id: u16) -> [u8; 4] {
    empty(0x40, id)
}

fn empty(first: u8, id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [first, 0, high, low]
}

/// An option (§3.1) whose number is `delta` (below 13) more than that of the one before; longer than 268 bytes is cut.
fn option(out: &mut Vec<u8>, delta: u8, value: &[u8]) {
    let value = &value[..value.len().min(268)];
    match value.len() {
        short @ 0..13 => out.push((delta << 4) | short as u8),
        long => out.extend_from_slice(&[(delta << 4) | 13, (long - 13) as u8]),
    }
    out.extend_from_slice(value);
}

// === reading ===

pub fn parse(datagram: &[u8]) -> Received {
    let &[first, code, high, low, ref rest @ ..] = datagram else {
        return Received::Noise;
    };
    let (version, kind, token_bytes) = (first >> 6, (first >> 4) & 3, usize::from(first & 15));
    let id = u16::from_be_bytes([high, low]);
    let is_response = (2..=5).contains(&(code >> 5));
    match (version, kind, code) {
        (1, 2, 0) if token_bytes == 0 => Received::Acknowledged { id },
        (1, 3, 0) => Received::Reset { id },
        (1, 0..=2, _) if is_response => match rest.first_chunk() {
            Some(&token) if token_bytes == TOKEN_BYTES => Received::Response {
                token,
                code,
                confirmable: (kind == 0).then_some(id),
            },
            _ if kind == 0 => Received::Stray { id },
            _ => Received::Noise,
        },
        (1, 0, _) => Received::Stray { id },
        _ => Received::Noise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coap_lite::{CoapOption, ContentFormat, MessageType, Packet};

    #[test]
    fn what_is_written_is_what_an_independent_codec_reads() {
        for device in ["loop-1", "station-00042", &"x".repeat(128)] {
            let mut out = Vec::new();
            post(&mut out, 0xbeef, [1, 2, 3, 4], (device, "traffic"));
            out.extend_from_slice(b"{}");
            let packet = Packet::from_bytes(&out).unwrap();
            assert_eq!(packet.header.get_type(), MessageType::Confirmable);
            assert_eq!(
                (packet.header.message_id, packet.get_token()),
                (0xbeef, &[1u8, 2, 3, 4][..])
            );
            let path: Vec<_> = packet
                .get_option(CoapOption::UriPath)
                .unwrap()
                .iter()
                .cloned()
                .collect();
            assert_eq!(path, [b"devices".to_vec(), device.into(), b"traffic".to_vec()]);
            assert_eq!(packet.get_content_format(), Some(ContentFormat::ApplicationJSON));
            assert_eq!(packet.payload, b"{}");
        }
    }

    #[test]
    fn what_a_server_says_is_understood() {
        let check = |datagram: &[u8], expected: Received| assert_eq!(parse(datagram), expected, "{datagram:02x?}");
        let token = [9, 8, 7, 6];
        let response = |code, confirmable| Received::Response {
            token,
            code,
            confirmable,
        };
        check(&[0x64, 0x44, 0, 1, 9, 8, 7, 6], response(0x44, None));
        check(&[0x54, 0x44, 0, 1, 9, 8, 7, 6], response(0x44, None));
        check(&[0x44, 0xa3, 1, 2, 9, 8, 7, 6, 0xd1, 1, 5], response(0xa3, Some(0x102)));
        check(&[0x60, 0, 0, 7], Received::Acknowledged { id: 7 });
        check(&[0x70, 0, 0, 7], Received::Reset { id: 7 });
        check(&[0x40, 0, 0, 7], Received::Stray { id: 7 });
        check(&[0x41, 0x44, 0, 7, 1], Received::Stray { id: 7 });
        check(&[0x64, 0x44, 0, 1, 9, 8, 7], Received::Noise);
        check(&[0x24, 0x44, 0, 1, 9, 8, 7, 6], Received::Noise);
        check(&[0x64, 0x44, 0], Received::Noise);
        check(&[], Received::Noise);
    }
}
