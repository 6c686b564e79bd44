//! Datagrams ↔ packets: version, type, code, token length and the layout of options are checked before coap-lite sees a byte;
//! and how a reply is written.
//!
//! [`check`] closes what coap-lite's parser leaves open (any version, bytes behind an empty message, a payload marker
//! without payload, 1,148 empty options in one datagram at 200 times the cost of an honest one) without allocating.
//! Sources: RFC 7252 §3 (format), §4.2 and §4.3 (what is rejected, and how). What the options mean is left to
//! `options`, who has been heard before to `peers`.

use std::sync::Arc;

use coap_lite::{CoapOption, MessageType, Packet};

use super::blocks::{self, Block};

/// Options in one request; an honest one has fewer than ten.
pub const OPTIONS_MAX: usize = 24;

/// Longest token (RFC 7252 §3; the longer ones of RFC 8974 are a format error here).
const TOKEN_BYTES_MAX: usize = 8;

const VERSION: u8 = 1;

/// A code as one byte: `code(4, 4)` is 4.04.
pub const fn code(class: u8, detail: u8) -> u8 {
    class << 5 | detail
}

pub const EMPTY: u8 = code(0, 0);
pub const GET: u8 = code(0, 1);
pub const POST: u8 = code(0, 2);
pub const PUT: u8 = code(0, 3);

pub const CONTENT: u8 = code(2, 5);
pub const BAD_REQUEST: u8 = code(4, 0);
pub const UNAUTHORIZED: u8 = code(4, 1);
pub const BAD_OPTION: u8 = code(4, 2);
pub const NOT_FOUND: u8 = code(4, 4);
pub const METHOD_NOT_ALLOWED: u8 = code(4, 5);
pub const NOT_ACCEPTABLE: u8 = code(4, 6);
pub const PRECONDITION_FAILED: u8 = code(4, 12);
pub const TOO_LARGE: u8 = code(4, 13);
pub const PROXYING_NOT_SUPPORTED: u8 = code(5, 5);

/// A message as it goes out: shared by the socket, the memory for duplicates and the retransmission.
pub type Message = Arc<[u8]>;

/// What is to be done with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Well-formed; coap-lite may parse it.
    Request(Head<'a>),
    /// A confirmable empty message (§4.3): answered by Reset.
    Ping(u16),
    /// The peer has our confirmable message of this id.
    Acknowledgement(u16),
    /// The peer does not want our message of this id.
    Reset(u16),
    /// A confirmable message that cannot be processed: answered by Reset (§4.2).
    Reject(u16, Unanswered),
    /// Not answered at all.
    Ignore(Unanswered),
}

/// The part of a request that is needed to answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    pub confirmable: bool,
    pub code: u8,
    pub mid: u16,
    pub token: &'a [u8],
    /// Longer than the configuration allows; what is past that is cut off.
    pub oversize: bool,
}

/// Why a datagram gets no response code: the `reason` label of `coap_datagrams_ignored_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Shorter than a header, or of another protocol version: silently ignored (§3).
    NotCoap,
    /// A message format error.
    Malformed,
    /// An empty confirmable message.
    Ping,
    /// An acknowledgement, whether or not one was awaited.
    Acknowledgement,
    /// A Reset of a message of ours.
    Reset,
    /// A response, though nothing was asked.
    Response,
    /// Seen before.
    Duplicate,
    /// A non-confirmable request with a critical option that is not understood (§5.4.1).
    BadOption,
    /// Sent to a multicast or broadcast address, and not to be answered (§8.2).
    Multicast,
}

/// What a response says; how it travels is decided when it is [encoded](encode).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub code: u8,
    pub content_format: Option<u16>,
    /// Seconds.
    pub max_age: Option<u32>,
    pub echo: Option<[u8; 8]>,
    /// The block of the request's body that this acknowledges (RFC 7959 §2.3).
    pub block1: Option<Block>,
    /// Which block of the whole response the payload is.
    pub block2: Option<Block>,
    /// The largest body that would be accepted (§4).
    pub size1: Option<u32>,
    pub payload: Vec<u8>,
}

// === impl Unanswered ===

impl Unanswered {
    pub const ALL: [Unanswered; 9] = [
        Unanswered::NotCoap,
        Unanswered::Malformed,
        Unanswered::Ping,
        Unanswered::Acknowledgement,
        Unanswered::Reset,
        Unanswered::Response,
        Unanswered::Duplicate,
        Unanswered::BadOption,
        Unanswered::Multicast,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Unanswered::NotCoap => "not_coap",
            Unanswered::Malformed => "malformed",
            Unanswered::Ping => "ping",
            Unanswered::Acknowledgement => "acknowledgement",
            Unanswered::Reset => "reset",
            Unanswered::Response => "response",
            Unanswered::Duplicate => "duplicate",
            Unanswered::BadOption => "bad_option",
            Unanswered::Multicast => "multicast",
        }
    }
}

// === vetting ===

/// Judges a datagram by its form, in constant memory and with a bound on the work. One that is longer than `bytes_max`
/// is judged by its beginning.
pub fn check(datagram: &[u8], bytes_max: usize) -> Verdict<'_> {
    let &[first, code, mid_high, mid_low, ref rest @ ..] = datagram else {
        return Verdict::Ignore(Unanswered::NotCoap);
    };
    if first >> 6 != VERSION {
        return Verdict::Ignore(Unanswered::NotCoap);
    }
    let mid = u16::from_be_bytes([mid_high, mid_low]);
    let confirmable = match first >> 4 & 0b11 {
        0 => true,
        1 => false,
        2 if is_empty_or_response(code) => return Verdict::Acknowledgement(mid),
        3 if code == EMPTY && rest.is_empty() => return Verdict::Reset(mid),
        // Acknowledgements and Resets are never answered, or two ends could go on for ever.
        _ => return Verdict::Ignore(Unanswered::Malformed),
    };
    let unusable = |why| match confirmable {
        true => Verdict::Reject(mid, why),
        false => Verdict::Ignore(why),
    };
    if code == EMPTY {
        return match confirmable && first & 0x0F == 0 && rest.is_empty() {
            true => Verdict::Ping(mid),
            false => unusable(Unanswered::Malformed),
        };
    }
    match code >> 5 {
        0 => {}
        2 | 4 | 5 => return unusable(Unanswered::Response),
        _ => return unusable(Unanswered::Malformed),
    }
    let oversize = datagram.len() > bytes_max;
    let rest = rest.get(..bytes_max.saturating_sub(4)).unwrap_or(rest);
    let token_bytes = usize::from(first & 0x0F);
    match rest.split_at_checked(token_bytes) {
        Some((token, rest)) if token_bytes <= TOKEN_BYTES_MAX && options_are_sound(rest) => Verdict::Request(Head {
            confirmable,
            code,
            mid,
            token,
            oversize,
        }),
        _ => unusable(Unanswered::Malformed),
    }
}

fn is_empty_or_response(code: u8) -> bool {
    code == EMPTY || matches!(code >> 5, 2 | 4 | 5)
}

/// Walks options and payload marker (§3.1) without looking at a value.
fn options_are_sound(mut rest: &[u8]) -> bool {
    let mut number = 0u32;
    let mut count = 0;
    while let Some(&byte) = rest.split_off_first() {
        if byte == 0xFF {
            return !rest.is_empty();
        }
        count += 1;
        let (Some(delta), Some(length)) = (extended(byte >> 4, &mut rest), extended(byte & 0x0F, &mut rest)) else {
            return false;
        };
        number += delta;
        if count > OPTIONS_MAX || number > u32::from(u16::MAX) || rest.split_off(..length as usize).is_none() {
            return false;
        }
    }
    true
}

/// An option's delta or length, of which 13 and 14 say that it follows in one or two bytes; 15 is reserved.
fn extended(nibble: u8, rest: &mut &[u8]) -> Option<u32> {
    match nibble {
        0..=12 => Some(u32::from(nibble)),
        13 => Some(13 + u32::from(*rest.split_off_first()?)),
        14 => Some(269 + (u32::from(*rest.split_off_first()?) << 8) + u32::from(*rest.split_off_first()?)),
        _ => None,
    }
}

// === impl Response ===

impl Response {
    pub fn new(code: u8) -> Self {
        Response {
            code,
            ..Response::default()
        }
    }

    /// Class of the code: 2, 4 or 5.
    pub fn class(&self) -> u8 {
        self.code >> 5
    }

    /// Whether it says yes.
    pub fn is_positive(&self) -> bool {
        self.class() == 2
    }

    /// Whether its code says all.
    pub fn is_bare(&self) -> bool {
        *self == Response::new(self.code)
    }
}

/// Writes a response as a message of its own or on an acknowledgement.
pub fn encode(kind: MessageType, mid: u16, token: &[u8], response: &Response) -> Message {
    let mut packet = Packet::new();
    packet.header.set_type(kind);
    packet.header.code = response.code.into();
    packet.header.message_id = mid;
    packet.set_token(token.to_vec());
    if let Some(format) = response.content_format {
        packet.add_option(CoapOption::ContentFormat, uint(u32::from(format)));
    }
    if let Some(seconds) = response.max_age {
        packet.add_option(CoapOption::MaxAge, uint(seconds));
    }
    if let Some(echo) = response.echo {
        packet.add_option(CoapOption::Unknown(super::options::ECHO), echo.to_vec());
    }
    for (option, block) in [(blocks::BLOCK1, response.block1), (blocks::BLOCK2, response.block2)] {
        if let Some(block) = block {
            packet.add_option(option.into(), uint(block.value()));
        }
    }
    if let Some(bytes) = response.size1 {
        packet.add_option(CoapOption::Size1, uint(bytes));
    }
    packet.payload.clone_from(&response.payload);
    let bytes = packet.to_bytes_unlimited();
    bytes.expect("a packet without a size limit can be written").into()
}

/// An empty message: an acknowledgement without a response, or a Reset.
pub fn empty(kind: MessageType, mid: u16) -> Message {
    let [high, low] = mid.to_be_bytes();
    let kind = match kind {
        MessageType::Confirmable => 0,
        MessageType::NonConfirmable => 1,
        MessageType::Acknowledgement => 2,
        MessageType::Reset => 3,
    };
    Arc::new([VERSION << 6 | kind << 4, EMPTY, high, low])
}

/// An unsigned integer without leading zero bytes (§3.2).
fn uint(value: u32) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    bytes.into_iter().skip_while(|&byte| byte == 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 2048;

    fn request(bytes: &[u8]) -> Head<'_> {
        match check(bytes, MAX) {
            Verdict::Request(head) => head,
            other => panic!("{bytes:02x?} is {other:?}"),
        }
    }

    #[test]
    fn datagrams_are_judged_by_their_form() {
        use Unanswered::{Malformed, NotCoap, Response};
        let check =
            |bytes: &[u8], expected: Verdict<'_>| assert_eq!(super::check(bytes, MAX), expected, "{bytes:02x?}");
        let reject = Verdict::Reject(0x0102, Malformed);
        let ignore = Verdict::Ignore(Malformed);
        // No header, or another version: silence, whatever the rest says.
        for bytes in [
            &[][..],
            &[0x40],
            &[0x40, 2, 1],
            &[0x00, 2, 1, 2],
            &[0x80, 2, 1, 2],
            &[0xC0, 2, 1, 2],
        ] {
            check(bytes, Verdict::Ignore(NotCoap));
        }
        // Empty messages hold nothing.
        check(&[0x40, 0, 1, 2], Verdict::Ping(0x0102));
        check(&[0x50, 0, 1, 2], ignore);
        check(&[0x60, 0, 1, 2], Verdict::Acknowledgement(0x0102));
        check(&[0x70, 0, 1, 2], Verdict::Reset(0x0102));
        check(&[0x41, 0, 1, 2, 9], reject);
        check(&[0x41, 0, 1, 2], reject);
        check(&[0x40, 0, 1, 2, 0xFF, 9], reject);
        check(&[0x50, 0, 1, 2, 0xFF, 9], ignore);
        check(&[0x70, 0, 1, 2, 9], ignore);
        check(&[0x70, 0x45, 1, 2], ignore);
        // Classes: requests are accepted, responses were not asked for, the rest is reserved.
        check(&[0x40, 0x45, 1, 2], Verdict::Reject(0x0102, Response));
        check(&[0x50, 0x84, 1, 2], Verdict::Ignore(Response));
        check(&[0x50, 0xA3, 1, 2], Verdict::Ignore(Response));
        check(&[0x60, 0x45, 1, 2, 0xFF, 1], Verdict::Acknowledgement(0x0102));
        check(&[0x60, 0x02, 1, 2], ignore);
        for class in [1, 3, 6, 7] {
            check(&[0x40, class << 5 | 1, 1, 2], reject);
            check(&[0x50, class << 5 | 1, 1, 2], ignore);
        }
        // Token, options, marker.
        for tail in [
            &[0xFF][..],               // marker without payload
            &[0xB1],                   // value missing
            &[0xF0],                   // reserved delta
            &[0x0F],                   // reserved length
            &[0xD0],                   // extension missing
            &[0xE0, 0],                // half of it
            &[0x0E, 0],                // half of it
            &[0x0E, 0xFF, 0xFF],       // longer than the datagram
            &[0xE0, 0xFF, 0xFF],       // number beyond 65,535
            &[0xE0, 0xFE, 0xF2, 0x10], // the sum is beyond 65,535
        ] {
            check(&[&[0x40, 2, 1, 2][..], tail].concat(), reject);
            check(&[&[0x50, 2, 1, 2][..], tail].concat(), ignore);
        }
        check(&[0x42, 2, 1, 2, 7], reject);
        for token_bytes in 9..=15 {
            check(&[&[0x40 | token_bytes, 2, 1, 2][..], &[7; 20]].concat(), reject);
        }
    }

    #[test]
    fn requests_keep_their_head() {
        let head = request(&[0x42, 0x02, 0x12, 0x34, 7, 8, 0xB1, b't', 0x11, 50, 0xFF, b'{', b'}']);
        let expected = Head {
            confirmable: true,
            code: POST,
            mid: 0x1234,
            token: &[7, 8],
            oversize: false,
        };
        assert_eq!(head, expected);
        assert!(!request(&[0x50, 0x1F, 0, 0]).confirmable);
        // The highest option number there is.
        request(&[0x40, 2, 0, 0, 0xE0, 0xFE, 0xF2]);
    }

    #[test]
    fn options_are_counted_before_they_are_parsed() {
        let datagram = |options: usize| [&[0x40, 2, 1, 2][..], &vec![0; options]].concat();
        request(&datagram(OPTIONS_MAX));
        for options in [OPTIONS_MAX + 1, 1148] {
            let bytes = datagram(options);
            assert_eq!(
                super::check(&bytes, MAX),
                Verdict::Reject(0x0102, Unanswered::Malformed)
            );
        }
    }

    #[test]
    fn an_oversize_request_is_known_by_its_beginning() {
        let mut bytes = vec![0x41, 2, 1, 2, 7, 0xB1, b't', 0xFF];
        bytes.resize(MAX, b'x');
        assert!(!request(&bytes).oversize);
        bytes.push(b'x');
        assert!(request(&bytes).oversize);
        assert_eq!(request(&bytes).token, [7]);
    }

    /// The two datagrams that stop coap-lite's block handler are plain requests here: no panic, no special case.
    #[test]
    fn datagrams_that_stop_the_block_handler_are_ordinary() {
        let with_query = |length: u16, block: &[u8]| {
            let extension = (length - 269).to_be_bytes();
            let mut bytes = vec![0x40, 2, 1, 2, 0xDE, 2];
            bytes.extend_from_slice(&extension);
            bytes.resize(bytes.len() + usize::from(length), b'q');
            bytes.extend_from_slice(block);
            bytes
        };
        for bytes in [with_query(1400, &[]), with_query(1128, &[0xC1, 0x0E])] {
            request(&bytes);
            let packet = Packet::from_bytes(&bytes).unwrap();
            assert_eq!(packet.get_option(CoapOption::UriQuery).unwrap().len(), 1);
        }
    }

    #[test]
    fn whatever_is_vetted_coap_lite_parses() {
        let mut bytes = vec![0x40, 2, 1, 2];
        for number_and_length in 0..=u16::MAX {
            bytes.truncate(4);
            bytes.extend_from_slice(&number_and_length.to_be_bytes());
            bytes.extend_from_slice(&[0xFF, 0, 0x10, 3, 0xFF, 1, 2, 3]);
            if let Verdict::Request(_) = super::check(&bytes, MAX) {
                assert!(Packet::from_bytes(&bytes).is_ok(), "{bytes:02x?}");
            }
        }
    }

    #[test]
    fn replies_are_written_as_rfc_7252_says() {
        assert_eq!(*empty(MessageType::Acknowledgement, 0x1234), [0x60, 0, 0x12, 0x34]);
        assert_eq!(*empty(MessageType::Reset, 0x1234), [0x70, 0, 0x12, 0x34]);
        let changed = encode(
            MessageType::Acknowledgement,
            0x1234,
            &[7, 8],
            &Response::new(code(2, 4)),
        );
        assert_eq!(*changed, [0x62, 0x44, 0x12, 0x34, 7, 8]);
        let busy = Response {
            max_age: Some(2),
            payload: b"full".to_vec(),
            ..Response::new(code(5, 3))
        };
        let busy = encode(MessageType::NonConfirmable, 1, &[], &busy);
        assert_eq!(*busy, [0x50, 0xA3, 0, 1, 0xD1, 1, 2, 0xFF, b'f', b'u', b'l', b'l']);
    }
}
