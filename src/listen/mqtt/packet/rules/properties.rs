//! Properties: which packet may have which, how often, and with what value [MQTT 5.0 §2.2.2 and table 2-4].
//!
//! A property that the packet may not have, that comes twice, or whose value is out of range is a Protocol Error or Malformed
//! Packet, as the clause says. What a property means is left to whoever reads the packet.

use super::*;

// A good value of every property [table 2-4].
const PROPERTIES: [(u8, &[u8]); 27] = [
    (1, &[1]),
    (2, &[0, 0, 0, 9]),
    (3, b"\0\x01t"),
    (8, b"\0\x01r"),
    (9, b"\0\x01\xff"),
    (11, &[5]),
    (17, &[0, 0, 0, 9]),
    (18, b"\0\x01c"),
    (19, &[0, 9]),
    (21, b"\0\x01m"),
    (22, b"\0\x01d"),
    (23, &[1]),
    (24, &[0, 0, 0, 9]),
    (25, &[1]),
    (26, b"\0\x01i"),
    (28, b"\0\x01s"),
    (31, b"\0\x01w"),
    (33, &[0, 9]),
    (34, &[0, 9]),
    (35, &[0, 9]),
    (36, &[1]),
    (37, &[1]),
    (38, b"\0\x01k\0\x01v"),
    (39, &[0, 0, 0, 9]),
    (40, &[1]),
    (41, &[1]),
    (42, &[1]),
];

fn property(id: u8) -> Vec<u8> {
    let known = PROPERTIES.iter().find(|(known, _)| *known == id);
    [&[id][..], known.map_or(&[0], |(_, value)| value)].concat()
}

/// Of every packet type of MQTT 5 with properties: how it is written with these (their length included).
type Written = (&'static str, u8, fn(&[u8]) -> Vec<u8>, &'static [u8], &'static [u8]);
const PACKETS: [Written; 11] = [
    (
        "CONNECT",
        0x10,
        |block| [b"\0\x04MQTT\x05\x02\0\x3c", block, b"\0\x01c"].concat(),
        &[17, 21, 22, 23, 25, 33, 34, 38, 39],
        &[],
    ),
    (
        "will",
        0x10,
        |block| [b"\0\x04MQTT\x05\x06\0\x3c\0\0\x01c", block, b"\0\x01t\0\0"].concat(),
        &[1, 2, 3, 8, 9, 24, 38],
        &[],
    ),
    (
        "PUBLISH of QoS 0",
        0x30,
        |block| [b"\0\x01t", block].concat(),
        &[1, 2, 3, 8, 9, 35, 38],
        &[11],
    ),
    (
        "PUBLISH of QoS 2",
        0x34,
        |block| [b"\0\x01t\0\x07", block].concat(),
        &[1, 2, 3, 8, 9, 35, 38],
        &[11],
    ),
    ("PUBACK", 0x40, |block| [b"\0\x07\0", block].concat(), &[31, 38], &[]),
    ("PUBREC", 0x50, |block| [b"\0\x07\0", block].concat(), &[31, 38], &[]),
    ("PUBREL", 0x62, |block| [b"\0\x07\0", block].concat(), &[31, 38], &[]),
    ("PUBCOMP", 0x70, |block| [b"\0\x07\0", block].concat(), &[31, 38], &[]),
    (
        "SUBSCRIBE",
        0x82,
        |block| [b"\0\x07", block, b"\0\x01f\0"].concat(),
        &[11, 38],
        &[],
    ),
    (
        "UNSUBSCRIBE",
        0xA2,
        |block| [b"\0\x07", block, b"\0\x01f"].concat(),
        &[38],
        &[],
    ),
    ("DISCONNECT", 0xE0, |block| [&[0], block].concat(), &[17, 31, 38], &[28]),
];

#[test]
fn every_property_is_good_foreign_or_a_servers_in_every_packet() {
    for (packet, first, written, client, server) in PACKETS {
        let check = |properties: &[u8], expected: Verdict| {
            let block = [&[properties.len() as u8], properties].concat();
            let body = written(&block);
            let length = [body.len() as u8];
            assert_eq!(
                verdict(V5, first, &length, &body),
                expected,
                "{packet} with {properties:02x?}"
            );
        };
        check(&[], GOOD);
        for id in 0..=127 {
            let one = property(id);
            let needs_method = id == 22;
            if client.contains(&id) {
                check(&one, if needs_method { Err(ProtocolError) } else { GOOD });
                let user = id == 38;
                check(&[&one[..], &one].concat(), if user { GOOD } else { Err(ProtocolError) });
                check(one.split_last().unwrap().1, Err(Malformed)); // cut off
                // An identifier in two bytes is one that is not minimal [MQTT-1.5.5-1].
                check(&[&[id | 0x80, 0], one.split_at(1).1].concat(), Err(Malformed));
            } else if server.contains(&id) {
                check(&one, Err(ProtocolError));
            } else {
                check(&one, Err(Malformed)); // §2.2.2.2
            }
        }
        check(&[0x81, 0x01, 0], Err(Malformed)); // an identifier above 127
        for text in NO_STRINGS {
            check(&[&[38], text, b"\0\x01v"].concat(), Err(Malformed));
            check(&[b"\x26\0\x01k", text].concat(), Err(Malformed));
            for id in [3, 8, 21, 31].into_iter().filter(|id| client.contains(id)) {
                check(&[&[id], text].concat(), Err(Malformed));
            }
        }
        // The length of the properties: not minimal, not the whole packet's, longer than the packet, endless.
        let block = |block: &[u8]| {
            let body = written(block);
            verdict(V5, first, &[body.len() as u8], &body)
        };
        assert_eq!(block(&[0x80, 0]), Err(Malformed), "{packet}");
        assert_eq!(
            block(&[0x88, 0, 38, 0, 1, b'k', 0, 1, b'v']),
            Err(Malformed),
            "{packet}"
        );
        assert_eq!(block(&[0x7F]), Err(Malformed), "{packet}");
        assert_eq!(block(&[0xFF, 0xFF, 0xFF, 0xFF]), Err(Malformed), "{packet}");
    }
}

#[test]
fn properties_have_values_that_are_not_allowed() {
    let connect = |properties: &[u8], expected: DisconnectReason| {
        let block = [&[properties.len() as u8], properties].concat();
        check(
            V5,
            0x10,
            &[b"\0\x04MQTT\x05\x02\0\x3c", &block[..], b"\0\x01c"].concat(),
            expected,
        );
    };
    connect(&[23, 2], ProtocolError); // Request Problem Information
    connect(&[25, 2], ProtocolError); // Request Response Information
    connect(&[33, 0, 0], ProtocolError); // Receive Maximum
    connect(&[39, 0, 0, 0, 0], ProtocolError); // Maximum Packet Size
    connect(&[22, 0, 0], ProtocolError); // Authentication Data without a method, though empty
    let both = b"\x06\x15\0\0\x16\0\0";
    check(
        V5,
        0x10,
        &[b"\0\x04MQTT\x05\x02\0\x3c", &both[..], b"\0\x01c"].concat(),
        GOOD,
    );
    let publish = |properties: &[u8], expected: DisconnectReason| {
        for (first, id) in [(0x30, &[][..]), (0x34, &[0, 7])] {
            let block = [&[properties.len() as u8], properties].concat();
            check(V5, first, &[b"\0\x01t", id, &block].concat(), expected);
        }
    };
    publish(&[1, 2], ProtocolError); // Payload Format Indicator
    publish(&[35, 0, 0], AliasInvalid); // [MQTT-3.3.2-8]
    publish(b"\x08\0\x03a/+", ProtocolError); // [MQTT-3.3.2-14]
    publish(b"\x08\0\x01#", ProtocolError);
    publish(b"\x08\0\0", ProtocolError); // [MQTT-4.7.3-1]
    check(V5, 0x82, b"\0\x07\x02\x0b\0\0\x01f\0", ProtocolError); // Subscription Identifier 0
    check(V5, 0x82, b"\0\x07\x03\x0b\x85\0\0\x01f\0", Malformed); // 5 in two bytes
}
