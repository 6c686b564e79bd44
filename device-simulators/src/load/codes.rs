//! How a message ended and what happened to a connection, in the words of the protocols.
//!
//! A message ends with a code, exactly one; `sent` is therefore the sum over the codes but [`Code::NotSent`]. Events are
//! counted beside them: a connection that is refused has sent nothing.

use std::fmt;
use std::io;

/// How one message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// PUBACK with this reason code (0 in MQTT 3.1.1).
    Mqtt(u8),
    /// A response with this code (RFC 7252 §5.9).
    Coap(u8),
    /// A Reset message (RFC 7252 §4.3).
    CoapReset,
    Http(u16),
    /// Nothing came before the time-out, or before the end.
    NoAnswer,
    /// The connection broke while it waited.
    ConnectionLost,
    /// It was due, but the window was full, or the connection down, until the end.
    NotSent,
}

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    /// CONNACK with this code, which is not 0.
    Connack(u8),
    /// DISCONNECT from the server, with this reason.
    Disconnect(u8),
    /// ECONNREFUSED, over TCP or as ICMP's answer to a datagram.
    Refused,
    Reset,
    /// The server closed it.
    Closed,
    /// No connection, no CONNACK or no PINGRESP in time.
    TimedOut,
    /// Something came that is not the protocol.
    Malformed,
    /// The TLS handshake failed.
    Tls,
    Other(io::ErrorKind),
}

// === impl Code ===

impl Code {
    /// Whether the sender may forget the reading.
    pub fn is_positive(self) -> bool {
        match self {
            Code::Mqtt(reason) => reason < 0x80,
            Code::Coap(code) => code >> 5 == 2,
            Code::Http(status) => (200..300).contains(&status),
            Code::CoapReset | Code::NoAnswer | Code::ConnectionLost | Code::NotSent => false,
        }
    }

    /// Whether the server answered.
    pub fn is_answer(self) -> bool {
        !matches!(self, Code::NoAnswer | Code::ConnectionLost | Code::NotSent)
    }

    /// Whether it says that the credentials are not good.
    pub fn is_refusal(self) -> bool {
        matches!(self, Code::Http(401 | 403) | Code::Mqtt(0x87))
            || matches!(self, Code::Coap(code) if code == coap(4, 1) || code == coap(4, 3))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Code::Mqtt(reason) => write!(f, "PUBACK 0x{reason:02x} {}", reason_name(reason)),
            Code::Coap(code) => write!(f, "{}.{:02} {}", code >> 5, code & 31, coap_name(code)),
            Code::CoapReset => f.write_str("Reset"),
            Code::Http(status) => write!(f, "{status} {}", status_name(status)),
            Code::NoAnswer => f.write_str("no answer"),
            Code::ConnectionLost => f.write_str("connection lost"),
            Code::NotSent => f.write_str("not sent in time"),
        }
    }
}

// === impl Event ===

impl Event {
    /// Whether it says that the credentials are not good; trying again would not help.
    pub fn is_refusal(self) -> bool {
        matches!(self, Event::Connack(2 | 4 | 5 | 0x85 | 0x86 | 0x87 | 0x8a | 0x8c))
    }
}

impl From<io::ErrorKind> for Event {
    fn from(kind: io::ErrorKind) -> Event {
        match kind {
            io::ErrorKind::ConnectionRefused => Event::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Event::Reset,
            io::ErrorKind::UnexpectedEof => Event::Closed,
            io::ErrorKind::TimedOut => Event::TimedOut,
            other => Event::Other(other),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Event::Connack(code) => write!(f, "CONNACK 0x{code:02x} {}", connack_name(code)),
            Event::Disconnect(reason) => write!(f, "DISCONNECT 0x{reason:02x} {}", reason_name(reason)),
            Event::Refused => f.write_str("connection refused"),
            Event::Reset => f.write_str("connection reset"),
            Event::Closed => f.write_str("closed by the gateway"),
            Event::TimedOut => f.write_str("timed out"),
            Event::Malformed => f.write_str("answer is not the protocol"),
            Event::Tls => f.write_str("TLS handshake failed"),
            Event::Other(kind) => write!(f, "{kind}"),
        }
    }
}

/// A CoAP code from its class and detail.
pub const fn coap(class: u8, detail: u8) -> u8 {
    (class << 5) | detail
}

/// MQTT 3.1.1 table 3.1, MQTT 5 table 3-1.
fn connack_name(code: u8) -> &'static str {
    match code {
        1 => "unacceptable protocol version",
        2 => "identifier rejected",
        3 => "server unavailable",
        4 => "bad user name or password",
        5 => "not authorized",
        other => reason_name(other),
    }
}

/// MQTT 5 §2.4, those that a publisher meets.
fn reason_name(reason: u8) -> &'static str {
    match reason {
        0x00 => "success",
        0x10 => "no matching subscribers",
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x86 => "bad user name or password",
        0x87 => "not authorized",
        0x88 => "server unavailable",
        0x89 => "server busy",
        0x8a => "banned",
        0x8b => "server shutting down",
        0x8c => "bad authentication method",
        0x8d => "keep alive timeout",
        0x8e => "session taken over",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x93 => "receive maximum exceeded",
        0x94 => "topic alias invalid",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9c => "use another server",
        0x9d => "server moved",
        0x9f => "connection rate exceeded",
        _ => "",
    }
}

/// RFC 7252 §5.9, RFC 7959 §2.9, RFC 8516.
fn coap_name(code: u8) -> &'static str {
    match (code >> 5, code & 31) {
        (2, 1) => "Created",
        (2, 4) => "Changed",
        (4, 0) => "Bad Request",
        (4, 1) => "Unauthorized",
        (4, 2) => "Bad Option",
        (4, 3) => "Forbidden",
        (4, 4) => "Not Found",
        (4, 5) => "Method Not Allowed",
        (4, 8) => "Request Entity Incomplete",
        (4, 13) => "Request Entity Too Large",
        (4, 15) => "Unsupported Content-Format",
        (4, 22) => "Unprocessable Entity",
        (4, 29) => "Too Many Requests",
        (5, 0) => "Internal Server Error",
        (5, 3) => "Service Unavailable",
        _ => "",
    }
}

/// RFC 9110 §15, those that a device meets.
fn status_name(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_their_protocols_say() {
        let check = |code: Code, text: &str, positive: bool, refusal: bool| {
            assert_eq!(code.to_string(), text);
            assert_eq!((code.is_positive(), code.is_refusal()), (positive, refusal), "{text}");
        };
        check(Code::Mqtt(0), "PUBACK 0x00 success", true, false);
        check(Code::Mqtt(0x10), "PUBACK 0x10 no matching subscribers", true, false);
        check(Code::Mqtt(0x97), "PUBACK 0x97 quota exceeded", false, false);
        check(Code::Coap(coap(2, 4)), "2.04 Changed", true, false);
        check(Code::Coap(coap(5, 3)), "5.03 Service Unavailable", false, false);
        check(Code::Coap(coap(4, 1)), "4.01 Unauthorized", false, true);
        check(Code::Http(204), "204 No Content", true, false);
        check(Code::Http(403), "403 Forbidden", false, true);
        check(Code::NoAnswer, "no answer", false, false);
    }

    #[test]
    fn events_that_retrying_cannot_help_are_refusals() {
        let check = |event: Event, text: &str, refusal: bool| {
            assert_eq!((event.to_string().as_str(), event.is_refusal()), (text, refusal));
        };
        check(Event::Connack(5), "CONNACK 0x05 not authorized", true);
        check(Event::Connack(0x86), "CONNACK 0x86 bad user name or password", true);
        check(Event::Connack(0x89), "CONNACK 0x89 server busy", false);
        check(io::ErrorKind::ConnectionRefused.into(), "connection refused", false);
    }
}
