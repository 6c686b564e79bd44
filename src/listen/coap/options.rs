//! What a request's options mean (RFC 7252 §5.4 and §5.10): which are understood, and what they say.
//!
//! A critical option that is unknown, repeated without leave or of a wrong length is refused; an elective one is
//! ignored. Uri-Host and Uri-Port are accepted as they are (there is one virtual host). Uri-Query is accepted and, for a
//! reading, ignored but for its sender's key: its address is the path alone, and devices append hints of other products to
//! it. Observe and every other elective option that is not named here has no effect.

use std::borrow::Cow;

use coap_lite::{CoapOption, Packet};
use zeroize::Zeroizing;

pub const ECHO: u16 = 252;
pub const LINK_FORMAT: u16 = 40;

const PROXY_URI: u16 = 35;
const PROXY_SCHEME: u16 = 39;

/// A critical option that is understood.
struct Rule {
    number: u16,
    repeatable: bool,
    bytes_min: usize,
    bytes_max: usize,
}

const fn rule(number: u16, repeatable: bool, bytes_min: usize, bytes_max: usize) -> Rule {
    Rule {
        number,
        repeatable,
        bytes_min,
        bytes_max,
    }
}

/// RFC 7252 table 4 and RFC 7959 table 1, the critical ones. OSCORE is not among them.
const CRITICAL: [Rule; 9] = [
    rule(1, true, 0, 8),    // If-Match
    rule(3, false, 1, 255), // Uri-Host
    rule(5, false, 0, 0),   // If-None-Match
    rule(7, false, 0, 2),   // Uri-Port
    rule(11, true, 0, 255), // Uri-Path
    rule(15, true, 0, 255), // Uri-Query
    rule(17, false, 0, 2),  // Accept
    rule(23, false, 0, 3),  // Block2
    rule(27, false, 0, 3),  // Block1
];

/// Why a request's options stop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A critical option that is not understood here, is repeated or has a wrong length, by number.
    Option(u16),
    /// A critical option that is understood and asks for what there is not here, in words.
    Unsupported(&'static str),
    /// The request is meant for a proxy.
    Proxy,
    /// A Block1 or Block2 option that is wrong, and why.
    Block(&'static str),
}

/// Whether every critical option is understood.
pub fn check(packet: &Packet) -> Result<(), Refused> {
    for (&number, values) in packet.options() {
        let is_critical = number & 1 == 1;
        if number == PROXY_URI || number == PROXY_SCHEME {
            return Err(Refused::Proxy);
        }
        if !is_critical {
            continue;
        }
        let fits = |rule: &Rule| {
            let is_sized = |value: &Vec<u8>| (rule.bytes_min..=rule.bytes_max).contains(&value.len());
            rule.number == number && (rule.repeatable || values.len() == 1) && values.iter().all(is_sized)
        };
        if !CRITICAL.iter().any(fits) {
            return Err(Refused::Option(number));
        }
    }
    Ok(())
}

/// In words, for the diagnostic payload.
pub fn describe(number: u16) -> String {
    match number {
        9 => "option 9 (OSCORE) is not supported".to_owned(),
        _ if CRITICAL.iter().any(|rule| rule.number == number) => {
            format!("option {number} is repeated or of a wrong length")
        }
        _ => format!("critical option {number} is not supported"),
    }
}

/// The path as its URI would spell it (§6.5): segments joined by `/`, and every byte that is not a plain character of a
/// segment percent-encoded. So a segment that contains a `/` or is not UTF-8 cannot pass for another address.
pub fn path(packet: &Packet) -> String {
    let mut path = String::new();
    for (index, segment) in values(packet, CoapOption::UriPath).enumerate() {
        if index > 0 {
            path.push('/');
        }
        for &byte in segment {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => path.push(char::from(byte)),
                _ if b"-._~!$&'()*+,;=:@".contains(&byte) => path.push(char::from(byte)),
                _ => {
                    path.push('%');
                    path.extend(
                        [byte >> 4, byte & 0x0F].map(|nibble| char::from(b"0123456789ABCDEF"[usize::from(nibble)])),
                    );
                }
            }
        }
    }
    path
}

/// The parts of the query that are UTF-8.
pub fn queries(packet: &Packet) -> Vec<&str> {
    values(packet, CoapOption::UriQuery)
        .filter_map(|value| std::str::from_utf8(value).ok())
        .collect()
}

/// The key in the query, `key=…`, of a device that says who it is by it. More than one are none that could be right.
pub fn key(packet: &Packet) -> Option<Zeroizing<Vec<u8>>> {
    let mut keys = values(packet, CoapOption::UriQuery).filter_map(|value| value.strip_prefix(b"key="));
    let key = keys.next()?;
    let only = keys.next().map_or(key, |_| &[]);
    Some(Zeroizing::new(only.to_vec()))
}

/// The body's media type; empty if the request does not say. A format that has no plain media type here (unknown
/// numbers, and those with a content coding such as 11050) is called `coap/<number>`.
pub fn media_type(packet: &Packet) -> Cow<'static, str> {
    let Some(number) = uint(packet, CoapOption::ContentFormat, 2) else {
        return "".into();
    };
    let name = match number {
        0 => "text/plain",
        40 => "application/link-format",
        41 => "application/xml",
        42 => "application/octet-stream",
        47 => "application/exi",
        50 => "application/json",
        51 => "application/json-patch+json",
        52 => "application/merge-patch+json",
        60 => "application/cbor",
        62 => "application/multipart-core",
        63 => "application/cbor-seq",
        110 => "application/senml+json",
        112 => "application/senml+cbor",
        _ => return format!("coap/{number}").into(),
    };
    name.into()
}

/// Whether the response may have this content format (Accept, §5.10.4).
pub fn accepts(packet: &Packet, format: u16) -> bool {
    uint(packet, CoapOption::Accept, 2).is_none_or(|accepted| accepted == u32::from(format))
}

/// Whether a condition on the target's state is not met (§5.10.8). A stream always exists and has no entity tag.
pub fn precondition_fails(packet: &Packet) -> bool {
    let demands_a_tag = values(packet, CoapOption::IfMatch).next().is_some()
        && values(packet, CoapOption::IfMatch).all(|tag| !tag.is_empty());
    demands_a_tag || packet.get_option(CoapOption::IfNoneMatch).is_some()
}

/// The classes of responses that the client does not want: bit 1 = 2.xx, bit 3 = 4.xx, bit 4 = 5.xx (RFC 7967 §2.1).
pub fn no_response(packet: &Packet) -> u8 {
    let mask = uint(packet, CoapOption::NoResponse, 1).unwrap_or(0);
    u8::try_from(mask).unwrap_or(0)
}

/// The Echo option's value, if it could be one of ours.
pub fn echo(packet: &Packet) -> Option<[u8; 8]> {
    let value = values(packet, CoapOption::Unknown(ECHO)).next()?;
    value.try_into().ok()
}

fn values(packet: &Packet, option: CoapOption) -> impl Iterator<Item = &[u8]> {
    packet.get_option(option).into_iter().flatten().map(Vec::as_slice)
}

/// The first value of an unsigned option, by its number.
pub fn uint_of(packet: &Packet, option: u16, bytes_max: usize) -> Option<u32> {
    uint(packet, CoapOption::from(option), bytes_max)
}

/// The first value of an unsigned option. A longer one than is allowed is ignored, as are repetitions (§5.4.3, §5.4.5);
/// for a critical option [`check`] has refused both.
fn uint(packet: &Packet, option: CoapOption, bytes_max: usize) -> Option<u32> {
    let value = values(packet, option).next()?;
    let number = || value.iter().fold(0, |number, &byte| number << 8 | u32::from(byte));
    (value.len() <= bytes_max).then(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(options: &[(u16, &[u8])]) -> Packet {
        let mut packet = Packet::new();
        for (number, value) in options {
            packet.add_option(CoapOption::from(*number), value.to_vec());
        }
        packet
    }

    #[test]
    fn a_key_in_the_query_is_the_only_one() {
        let check = |options: &[(u16, &[u8])], expected: Option<&[u8]>| {
            let found = key(&packet(options));
            assert_eq!(found.as_ref().map(|key| key.as_slice()), expected, "{options:?}");
        };
        check(&[], None);
        check(&[(15, b"a=b"), (15, b"keys=c"), (11, b"key=d")], None);
        check(&[(15, b"a=b"), (15, b"key=cgk_a=b")], Some(b"cgk_a=b"));
        check(&[(15, b"key=")], Some(b""));
        check(&[(15, b"key=cgk_a"), (15, b"key=cgk_a")], Some(b""));
    }

    #[test]
    fn critical_options_must_be_understood() {
        let check = |options: &[(u16, &[u8])], expected| {
            assert_eq!(super::check(&packet(options)), expected, "{options:?}");
        };
        check(&[], Ok(()));
        check(
            &[
                (3, b"city"),
                (7, &[0x16, 0x33]),
                (11, b"t"),
                (11, b""),
                (15, b"a=b"),
                (15, b"c"),
            ],
            Ok(()),
        );
        check(&[(17, &[40]), (1, &[]), (1, &[1; 8]), (5, &[])], Ok(()));
        // Elective: whatever they hold, however often.
        check(
            &[
                (6, &[]),
                (12, &[50]),
                (12, &[60]),
                (14, &[1; 9]),
                (16, &[9]),
                (28, &[1]),
                (60, &[1]),
            ],
            Ok(()),
        );
        check(
            &[(252, &[1; 41]), (258, &[26]), (292, b"tag"), (65_000, b"private")],
            Ok(()),
        );
        // Unknown, repeated, or of a wrong length.
        for number in [9, 13, 19, 21, 31, 2049, 9999, 65_001] {
            check(&[(11, b"t"), (number, b"x")], Err(Refused::Option(number)));
        }
        check(&[(3, b"a"), (3, b"b")], Err(Refused::Option(3)));
        check(&[(3, b"")], Err(Refused::Option(3)));
        check(&[(5, &[]), (5, &[])], Err(Refused::Option(5)));
        check(&[(5, &[1])], Err(Refused::Option(5)));
        check(&[(7, &[1, 2, 3])], Err(Refused::Option(7)));
        check(&[(1, &[1; 9])], Err(Refused::Option(1)));
        check(&[(11, &[b'a'; 255])], Ok(()));
        check(&[(11, &[b'a'; 256])], Err(Refused::Option(11)));
        check(&[(15, &[b'a'; 256])], Err(Refused::Option(15)));
        check(&[(17, &[40]), (17, &[40])], Err(Refused::Option(17)));
        for number in [23, 27] {
            check(&[(number, &[]), (60, &[1])], Ok(()));
            check(&[(number, &[1, 2, 6])], Ok(()));
            check(&[(number, &[0, 1, 2, 6])], Err(Refused::Option(number)));
            check(&[(number, &[6]), (number, &[6])], Err(Refused::Option(number)));
        }
        check(&[(35, b"coap://else/where")], Err(Refused::Proxy));
        check(&[(39, b"http")], Err(Refused::Proxy));
    }

    #[test]
    fn what_is_wrong_with_an_option_is_told_in_words() {
        let check = |number, expected: &str| assert_eq!(describe(number), expected);
        check(9, "option 9 (OSCORE) is not supported");
        check(17, "option 17 is repeated or of a wrong length");
        check(23, "option 23 is repeated or of a wrong length");
        check(27, "option 27 is repeated or of a wrong length");
        check(2049, "critical option 2049 is not supported");
    }

    #[test]
    fn a_segment_cannot_pass_for_another_address() {
        let check = |segments: &[&[u8]], expected: &str| {
            let options: Vec<_> = segments.iter().map(|segment| (11, *segment)).collect();
            assert_eq!(path(&packet(&options)), expected);
        };
        check(&[], "");
        check(&[b"devices", b"loop-0417", b"traffic"], "devices/loop-0417/traffic");
        check(
            &[b"devices", b"A.b_c:d-9", b"weather", b"batch"],
            "devices/A.b_c:d-9/weather/batch",
        );
        check(&[b"devices/a/traffic"], "devices%2Fa%2Ftraffic");
        check(&[b"devices", b"a/traffic"], "devices/a%2Ftraffic");
        check(&[b"devices", b"a%2F", b"traffic"], "devices/a%252F/traffic");
        check(&[b"devices", b"\xFF\xFE", b"traffic"], "devices/%FF%FE/traffic");
        check(
            &[b"devices", "stra\u{df}e".as_bytes(), b"traffic"],
            "devices/stra%C3%9Fe/traffic",
        );
        check(&[b"t", b"", b"dev"], "t//dev");
        check(&[b"devices", b"a\nb", b"traffic", b""], "devices/a%0Ab/traffic/");
    }

    #[test]
    fn content_formats() {
        let check = |options: &[(u16, &[u8])], expected: &str| assert_eq!(media_type(&packet(options)), expected);
        check(&[], "");
        check(&[(12, &[])], "text/plain");
        check(&[(12, &[0])], "text/plain");
        check(&[(12, &[42])], "application/octet-stream");
        check(&[(12, &[50])], "application/json");
        check(&[(12, &[0, 50])], "application/json");
        check(&[(12, &[60])], "application/cbor");
        check(&[(12, &[112])], "application/senml+cbor");
        check(&[(12, &[50]), (12, &[60])], "application/json");
        check(&[(12, &[0x2B, 0x2A])], "coap/11050");
        check(&[(12, &[0xFD, 0xE8])], "coap/65000");
        check(&[(12, &[0, 0, 50])], "");
    }

    #[test]
    fn conditions() {
        let check = |options: &[(u16, &[u8])], expected| assert_eq!(precondition_fails(&packet(options)), expected);
        check(&[], false);
        check(&[(1, &[])], false);
        check(&[(1, b"tag")], true);
        check(&[(1, b"tag"), (1, &[])], false);
        check(&[(5, &[])], true);
    }

    #[test]
    fn no_response_masks() {
        let check = |options: &[(u16, &[u8])], expected| assert_eq!(no_response(&packet(options)), expected);
        check(&[], 0);
        check(&[(258, &[])], 0);
        check(&[(258, &[2])], 2);
        check(&[(258, &[26])], 26);
        check(&[(258, &[0, 26])], 0);
    }
}
