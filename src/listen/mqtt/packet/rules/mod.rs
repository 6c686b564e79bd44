//! What a client may not send, by packet type, and what it is told: the standards' rules as a table.
//!
//! Every row is one packet: its bytes, its version, and the reason code with which the connection ends (of 3.1.1: it ends;
//! the code is only in our log), or that it is accepted. Clauses are those of MQTT 5.0 unless 3.1.1 is named.

use super::*;

mod properties;
mod topics;

const V3: Version = Version::V3;
const V5: Version = Version::V5;

use DisconnectReason::{
    MalformedPacket as Malformed, ProtocolError, TopicAliasInvalid as AliasInvalid, TopicNameInvalid as NameInvalid,
};

type Verdict = Result<(), DisconnectReason>;
const GOOD: Verdict = Ok(());

/// Frames `body` as packet `first` and decodes it, as a session or (CONNECT) the opening does.
fn verdict(version: Version, first: u8, length: &[u8], body: &[u8]) -> Verdict {
    let mut inbound = BytesMut::from(&[&[first], length, body].concat()[..]);
    let head = head(&inbound, false)
        .map_err(|fault| fault.reason)?
        .expect("a whole header");
    assert_eq!(
        head.packet_bytes,
        inbound.len(),
        "the row's packet is whole: {inbound:02x?}"
    );
    if head.kind() == 1 {
        return match decode_connect(&head, &mut inbound) {
            Ok(connect) => {
                assert_eq!(connect.version, version);
                GOOD
            }
            Err(ConnectFault::Broken { fault, .. }) => Err(fault.reason),
            Err(other) => panic!("{other:?}"),
        };
    }
    let packet = decode(version, &head, &mut inbound).map_err(|fault| fault.reason)?;
    // A session looks at the topic of a publish when it looks up its alias.
    match packet {
        Packet::Publish(publish) if !publish.topic.is_empty() => {
            topic(&publish.topic).map(|_| ()).map_err(|fault| fault.reason)
        }
        _ => GOOD,
    }
}

fn check(version: Version, first: u8, body: &[u8], expected: impl Into<Row>) {
    let length = u8::try_from(body.len()).unwrap();
    let about = format!("{version:?} {first:#04x} {body:02x?}");
    assert_eq!(verdict(version, first, &[length], body), expected.into().0, "{about}");
}

// Strings that are none: U+0000, a surrogate, not UTF-8, longer than the packet.
const NO_STRINGS: [&[u8]; 4] = [b"\0\x01\0", b"\0\x03\xed\xa0\x80", b"\0\x01\xff", b"\0\x09a"];

struct Row(Verdict);

impl From<DisconnectReason> for Row {
    fn from(reason: DisconnectReason) -> Self {
        Row(Err(reason))
    }
}

impl From<Verdict> for Row {
    fn from(verdict: Verdict) -> Self {
        Row(verdict)
    }
}

#[test]
fn fixed_headers_have_their_flags_and_the_shortest_length() {
    // [MQTT-2.1.3-1], [MQTT-2.2.2-2] of 3.1.1: by packet type, the only flags that are right.
    for (kind, right) in [
        (1, 0),
        (4, 0),
        (5, 0),
        (6, 2),
        (7, 0),
        (8, 2),
        (10, 2),
        (12, 0),
        (14, 0),
        (15, 0),
    ] {
        for flags in (0..16).filter(|flags| *flags != right) {
            for version in [V3, V5] {
                check(version, kind << 4 | flags, &[0, 7], Malformed);
            }
        }
    }
    for version in [V3, V5] {
        for first in 0..16 {
            check(version, first, &[], Malformed); // type 0
        }
        check(version, 0x36, b"\0\x01t\0\x07\0", Malformed); // QoS 3 [MQTT-3.3.1-4]
        check(version, 0x38, b"\0\x01t\0", ProtocolError); // DUP with QoS 0 [MQTT-3.3.1-2]
        check(version, 0x31, b"\0\x01t\0", GOOD); // a retained publish
        for first in [0x20, 0x90, 0xB0, 0xD0] {
            check(version, first, &[0, 7], ProtocolError); // a server's
        }
        check(version, 0xF0, &[], ProtocolError); // AUTH, where no method was agreed [§4.12]
    }
    // [MQTT-1.5.5-1]; 3.1.1 has no such rule (§2.2.3).
    let good: [(u8, &[u8]); 7] = [
        (0x30, b"\0\x01t\0"),
        (0x40, b"\0\x07"),
        (0x62, b"\0\x07"),
        (0xC0, b""),
        (0xE0, b""),
        (0x10, b"\0\x04MQTT\x05\x02\0\x3c\0\0\x01c"),
        (0x10, b"\0\x04MQTT\x04\x02\0\x3c\0\x01c"),
    ];
    for (first, body) in good {
        let version = if body.get(6) == Some(&4) { V3 } else { V5 };
        let length = body.len() as u8;
        let longer: [&[u8]; 3] = [
            &[length | 0x80, 0],
            &[length | 0x80, 0x80, 0],
            &[length | 0x80, 0x80, 0x80, 0],
        ];
        for length in longer {
            let refused = Err(Malformed);
            let expected = if version == V5 { refused } else { GOOD };
            assert_eq!(
                verdict(version, first, length, body),
                expected,
                "{first:#04x} {length:02x?}"
            );
            if first != 0x10 {
                assert_eq!(
                    verdict(V3, first, length, body),
                    GOOD,
                    "{first:#04x} {length:02x?} in 3.1.1"
                );
            }
        }
    }
    for remaining in [0, 0x7F, 0x80, 0x3FFF, 0x4000, 0x1F_FFFF, 0x20_0000, 0xFFF_FFFF] {
        let mut bytes = BytesMut::from(&[0x30][..]);
        codec::v4::write_remaining_length(&mut bytes, remaining).unwrap();
        let head = head(&bytes, false).unwrap().unwrap();
        assert_eq!(head.packet_bytes, head.header_bytes + remaining);
        assert!(head.is_minimal(), "{remaining}");
    }
}

#[test]
fn reason_codes_are_those_that_a_client_may_send() {
    let received: &[u8] = &[0x00, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    let released: &[u8] = &[0x00, 0x92];
    let disconnect: &[u8] = &[
        0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
    ];
    let acknowledged: &[u8] = &[0, 7];
    for (first, before, allowed) in [
        (0x40, acknowledged, received),
        (0x50, acknowledged, received),
        (0x62, acknowledged, released),
        (0x70, acknowledged, released),
        (0xE0, &[], disconnect),
    ] {
        for code in 0..=255 {
            let expected = if allowed.contains(&code) {
                GOOD
            } else {
                Err(ProtocolError)
            };
            for properties in [&[][..], &[0]] {
                check(V5, first, &[before, &[code], properties].concat(), expected);
            }
            check(V3, first, &[before, &[code]].concat(), Malformed); // 3.1.1 has none
        }
        check(V5, first, &[before, &[0, 0, 0]].concat(), Malformed); // bytes behind the properties
    }
}

#[test]
fn packets_end_with_their_fields_and_have_their_packet_id() {
    for version in [V3, V5] {
        let properties: &[u8] = if version == V5 { &[0] } else { &[] };
        for first in [0x40, 0x50, 0x62, 0x70] {
            check(version, first, &[0, 7], GOOD);
            check(version, first, &[0, 0], ProtocolError); // [MQTT-2.2.1-3]
            check(version, first, &[7], Malformed);
        }
        for (first, rest) in [(0x32, properties), (0x34, properties)] {
            check(version, first, &[b"\0\x01t\0\x07", rest].concat(), GOOD);
            check(version, first, &[b"\0\x01t\0\0", rest].concat(), ProtocolError);
        }
        check(version, 0x82, &[b"\0\x07", properties, b"\0\x01f\0"].concat(), GOOD);
        check(
            version,
            0x82,
            &[b"\0\0", properties, b"\0\x01f\0"].concat(),
            ProtocolError,
        );
        check(version, 0x82, &[b"\0\x07", properties, b"\0\x01f"].concat(), Malformed); // no options
        check(version, 0x82, &[b"\0\x07", properties].concat(), ProtocolError); // [MQTT-3.8.3-2]
        check(version, 0xA2, &[b"\0\x07", properties, b"\0\x01f"].concat(), GOOD);
        check(
            version,
            0xA2,
            &[b"\0\0", properties, b"\0\x01f"].concat(),
            ProtocolError,
        );
        check(version, 0xA2, &[b"\0\x07", properties].concat(), ProtocolError); // [MQTT-3.10.3-2]
        // More filters than are answered.
        for (first, filter) in [(0x82, &b"\0\x02ff\0"[..]), (0xA2, b"\0\x02ff")] {
            for (filters, expected) in [(4096, GOOD), (4097, Err(DisconnectReason::QuotaExceeded))] {
                let body = [b"\0\x07", properties, &filter.repeat(filters)].concat();
                let length = [
                    body.len() as u8 | 0x80,
                    (body.len() >> 7) as u8 | 0x80,
                    (body.len() >> 14) as u8,
                ];
                assert_eq!(
                    verdict(version, first, &length, &body),
                    expected,
                    "{version:?} {first:#04x} {filters}"
                );
            }
        }
        check(version, 0xC0, &[], GOOD);
        check(version, 0xC0, &[0], Malformed);
        check(version, 0xE0, &[], GOOD);
    }
}

#[test]
fn subscription_options_have_reserved_bits() {
    for options in 0..=255_u8 {
        let (qos, retain_handling) = (options & 3, options >> 4 & 3);
        let v3 = if options > 2 { Err(Malformed) } else { GOOD }; // [MQTT-3.8.3-4] of 3.1.1
        let v5 = match options >> 6 {
            0 if qos == 3 || retain_handling == 3 => Err(ProtocolError), // §3.8.3.1
            0 => GOOD,
            _ => Err(Malformed), // [MQTT-3.8.3-5]
        };
        check(V3, 0x82, &[b"\0\x07\0\x01f", &[options][..]].concat(), v3);
        check(V5, 0x82, &[b"\0\x07\0\0\x01f", &[options][..]].concat(), v5);
    }
}

#[test]
fn connects_have_reserved_flags_and_strings() {
    let check = |level: u8, flags: u8, payload: &[u8], expected: Verdict| {
        let version = if level == 5 { V5 } else { V3 };
        let properties: &[u8] = if level == 5 { &[0] } else { &[] };
        let start = [b"\0\x04MQTT", &[level, flags, 0, 60][..], properties].concat();
        check(version, 0x10, &[&start[..], payload].concat(), expected);
    };
    for level in [4, 5] {
        check(level, 0x02, b"\0\x01c", GOOD);
        check(level, 0x03, b"\0\x01c", Err(Malformed)); // [MQTT-3.1.2-3]
        check(level, 0x22, b"\0\x01c", Err(ProtocolError)); // Will Retain without a will [MQTT-3.1.2-13]
        check(level, 0x0A, b"\0\x01c", Err(ProtocolError)); // Will QoS without a will [MQTT-3.1.2-11]
        check(level, 0x1A, b"\0\x01c", Err(Malformed)); // Will QoS 3, though without a will
        check(level, 0x02, b"\0\x01c\x09", Err(Malformed)); // bytes behind the fields
        check(level, 0x02, b"", Err(Malformed));
        check(level, 0x82, b"\0\x01c", Err(Malformed)); // no user name though announced
        check(level, 0xC2, b"\0\x01c\0\x01u\0\x01\xff", GOOD); // a password is binary data
        let (without_name, will) = if level == 5 {
            (GOOD, &b"\0"[..])
        } else {
            (Err(Malformed), &b""[..])
        };
        check(level, 0x42, b"\0\x01c\0\x01p", without_name); // [MQTT-3.1.2-22] of 3.1.1
        for flags in [0x06, 0x0E, 0x16, 0x2E, 0x36] {
            check(level, flags, &[b"\0\x01c", will, b"\0\x01t\0\x01\xff"].concat(), GOOD); // a will, retained or not
        }
        check(
            level,
            0x1E,
            &[b"\0\x01c", will, b"\0\x01t\0\0"].concat(),
            Err(Malformed),
        ); // Will QoS 3 [MQTT-3.1.2-12]
        check(level, 0x06, &[b"\0\x01c", will, b"\0\x01t"].concat(), Err(Malformed)); // a will without a payload
        for text in NO_STRINGS {
            check(level, 0x02, text, Err(Malformed)); // [MQTT-3.1.3-4]
            check(level, 0x82, &[b"\0\x01c", text].concat(), Err(Malformed)); // [MQTT-3.1.3-12]
        }
    }
    assert_eq!(
        decode_connect(
            &head(b"\x10\x06", false).unwrap().unwrap(),
            &mut BytesMut::from(&b"\x10\x06\0\x04MQTT"[..])
        ),
        Err(ConnectFault::NotMqtt)
    );
}

#[test]
fn a_connect_is_told_its_version_from_its_beginning() {
    let check = |bytes: &[u8], expected| assert_eq!(connect_version(bytes), expected, "{bytes:02x?}");
    for short in [&b""[..], b"\0", b"\0\x04MQTT", b"\0\x06MQIsdp"] {
        check(short, Ok(None));
    }
    check(b"\0\x04MQTT\x05", Ok(Some(V5)));
    check(b"\0\x04MQTT\x84", Ok(Some(V3)));
    check(b"\0\x06MQIsdp\x03", Ok(Some(V3)));
    check(b"\0\x04MQTT\x06", Err(ConnectFault::Level));
    check(b"\0\x04QQTT\x05\x02\0", Err(ConnectFault::NotMqtt));
}
