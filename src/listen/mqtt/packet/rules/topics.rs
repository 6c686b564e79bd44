//! Topic names and topic filters, wherever they stand [MQTT 5.0 §4.7 and §4.8.2, 3.1.1 §4.7].
//!
//! Also what the specification forbids everywhere: empty ones, U+0000, wildcards in a name. Whether a topic is an address of
//! ours is left to `decode`.

use super::*;

#[test]
fn topic_filters_have_whole_wildcards() {
    let filter = |filter: &[u8], v3: Verdict, v5: Verdict| {
        let prefixed = [&[0, filter.len() as u8], filter].concat();
        for (version, properties, expected) in [(V3, &[][..], v3), (V5, &[0], v5)] {
            check(
                version,
                0x82,
                &[b"\0\x07", properties, &prefixed, &[0]].concat(),
                expected,
            );
            check(version, 0xA2, &[b"\0\x07", properties, &prefixed].concat(), expected);
        }
    };
    let both = |text: &[u8], expected: Verdict| filter(text, expected, expected);
    for good in [
        "a", "/", "a//b", "#", "a/#", "/#", "+", "+/+", "/+", "+/a/#", "$SYS/#", "$share", "é/+",
    ] {
        both(good.as_bytes(), GOOD);
    }
    for bad in ["a#", "a/b#", "#/a", "a/#/b", "a+", "+a", "a/b+/c", "##", "++"] {
        both(bad.as_bytes(), Err(ProtocolError)); // [MQTT-4.7.1-1], [MQTT-4.7.1-2]
    }
    both(b"", Err(ProtocolError)); // [MQTT-4.7.3-1]
    both(b"a\0b", Err(Malformed));
    both(b"\xed\xa0\x80", Err(Malformed));
    both(b"\xff", Err(Malformed));
    filter(b"$share/group/a/#", GOOD, GOOD);
    // [MQTT-4.8.2-1], [MQTT-4.8.2-2]: of MQTT 5
    for bad in ["$share/", "$share/group", "$share/group/", "$share//a"] {
        filter(bad.as_bytes(), GOOD, Err(ProtocolError));
    }
    filter(b"$share/+/a", GOOD, Err(ProtocolError));
    check(V5, 0x82, b"\0\x07\0\0\x0a$share/g/a\x04", ProtocolError); // No Local [MQTT-3.8.3-4]
    check(V3, 0x82, b"\0\x07\0\x0a$share/g/a\x01", GOOD);
}

#[test]
fn topic_names_have_no_wildcards() {
    let name = |name: &[u8], expected: Verdict, of_a_will: Verdict, of_a_response: Verdict| {
        let prefixed = [&[0, name.len() as u8], name].concat();
        check(V3, 0x30, &prefixed, expected);
        check(V5, 0x30, &[&prefixed[..], &[0]].concat(), expected);
        check(
            V3,
            0x10,
            &[b"\0\x04MQTT\x04\x06\0\x3c\0\x01c", &prefixed[..], b"\0\0"].concat(),
            of_a_will,
        );
        let v5 = [b"\0\x04MQTT\x05\x06\0\x3c\0\0\x01c\0", &prefixed[..], b"\0\0"].concat();
        check(V5, 0x10, &v5, of_a_will);
        let response = [&[prefixed.len() as u8 + 1, 8], &prefixed[..]].concat();
        check(V5, 0x30, &[b"\0\x01t", &response[..]].concat(), of_a_response);
        let will = [b"\0\x04MQTT\x05\x06\0\x3c\0\0\x01c", &response[..], b"\0\x01t\0\0"].concat();
        check(V5, 0x10, &will, of_a_response);
    };
    for good in ["a", "/", "a//b", "$SYS/x", "é", " "] {
        name(good.as_bytes(), GOOD, GOOD, GOOD);
    }
    for bad in ["+", "#", "a/+", "a/#", "a+b", "+/é"] {
        let invalid = Err(NameInvalid);
        name(bad.as_bytes(), invalid, invalid, Err(ProtocolError)); // [MQTT-3.3.2-2], [MQTT-3.3.2-14], [MQTT-4.7.1-1]
    }
    for bad in [&b"a\0b"[..], b"\xed\xa0\x80", b"\xff", b"\0"] {
        name(bad, Err(Malformed), Err(Malformed), Err(Malformed)); // [MQTT-1.5.4-1], [MQTT-1.5.4-2]
    }
    // An alias may stand for the topic of a publish: `aliases` sees to it. For the others none can.
    name(b"", GOOD, Err(ProtocolError), Err(ProtocolError)); // [MQTT-4.7.3-1]
}
