//! Packets as bytes. Each of the codec's guards by its number (see `rules` for the ninth), so that a new version of the
//! codec is checked against all of them; then random and damaged bytes, which must end in a packet, a wait for more, or
//! a reason, never in a panic.

use super::encode::REASON_BYTES_MAX;
use super::*;
use crate::acknowledge::MqttReason;

const V3: Version = Version::V3;
const V5: Version = Version::V5;

fn packet(version: Version, bytes: &[u8]) -> Result<Packet, DisconnectReason> {
    let mut inbound = BytesMut::from(bytes);
    let head = head(bytes, false)
        .map_err(|fault| fault.reason)?
        .expect("a whole header");
    assert_eq!(
        head.packet_bytes,
        bytes.len(),
        "the test's packet is whole: {bytes:02x?}"
    );
    let decoded = decode(version, &head, &mut inbound);
    if decoded.is_ok() {
        assert!(inbound.is_empty(), "{bytes:02x?} leaves {inbound:02x?}");
    }
    decoded.map_err(|fault| fault.reason)
}

fn encoder(version: Version) -> Encoder {
    Encoder {
        version,
        packet_bytes_max: 1000,
        problem_information: true,
    }
}

fn written(version: Version, write: impl FnOnce(&Encoder, &mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&encoder(version), &mut out);
    out.to_vec()
}

fn connect_frame(body: &[u8]) -> Result<Connect, ConnectFault> {
    let mut inbound = BytesMut::from(&[0x10, u8::try_from(body.len()).unwrap()][..]);
    inbound.extend_from_slice(body);
    let head = head(&inbound, false).unwrap().unwrap();
    decode_connect(&head, &mut inbound)
}

#[test]
fn guard_1_qos_packet_id_and_dup_of_a_publish_are_known() {
    let check = |version, bytes: &[u8], qos: u8, pkid: u16, dup: bool| {
        let Ok(Packet::Publish(publish)) = packet(version, bytes) else {
            panic!("{bytes:02x?} is a publish");
        };
        assert_eq!(
            (publish.qos, publish.pkid, publish.dup),
            (qos, pkid, dup),
            "{bytes:02x?}"
        );
        assert_eq!((&publish.topic[..], &publish.payload[..]), (&b"a/b"[..], &b"{}"[..]));
    };
    check(V3, b"\x30\x07\x00\x03a/b{}", 0, 0, false);
    check(V3, b"\x32\x09\x00\x03a/b\x01\x02{}", 1, 0x102, false);
    check(V3, b"\x3d\x09\x00\x03a/b\xff\xff{}", 2, 0xFFFF, true);
    check(V5, b"\x30\x08\x00\x03a/b\x00{}", 0, 0, false);
    check(V5, b"\x3a\x0a\x00\x03a/b\x01\x02\x00{}", 1, 0x102, true);
    check(V5, b"\x34\x0d\x00\x03a/b\x01\x02\x03\x23\x00\x01{}", 2, 0x102, false);
}

#[test]
fn guard_2_packets_that_only_a_server_sends_end_the_connection() {
    for first in [0x20, 0x90, 0xB0, 0xD0] {
        for length in 0..=5 {
            let mut bytes = vec![first, length];
            bytes.resize(2 + usize::from(length), 0);
            assert_eq!(packet(V5, &bytes), Err(DisconnectReason::ProtocolError), "{bytes:02x?}");
            assert_eq!(packet(V3, &bytes), Err(DisconnectReason::ProtocolError), "{bytes:02x?}");
        }
    }
    assert_eq!(
        packet(V5, &[0xF0, 2, 0x18, 0]),
        Err(DisconnectReason::ProtocolError),
        "AUTH"
    );
    assert_eq!(packet(V5, &[0x00, 0]), Err(DisconnectReason::MalformedPacket), "type 0");
    assert_eq!(
        packet(V5, b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00"),
        Err(DisconnectReason::ProtocolError),
        "a second CONNECT"
    );
}

#[test]
fn guard_3_a_whole_packet_with_a_short_body_is_malformed_and_not_waited_for() {
    let check = |version, bytes: &[u8]| {
        assert_eq!(
            packet(version, bytes),
            Err(DisconnectReason::MalformedPacket),
            "{bytes:02x?}"
        );
    };
    check(V5, b"\x32\x05\x00\x01a\x00\x09"); // PUBLISH without property length
    check(V5, b"\x30\x04\x00\x01a\x80"); // property length that goes on
    check(V5, b"\x82\x02\x00\x01"); // SUBSCRIBE without property length
    check(V5, b"\xA2\x02\x00\x01");
    check(V5, b"\x62\x04\x00\x01\x00\x80");
    check(V3, b"\x30\x04\x00\x09ab"); // topic longer than the packet
    check(V3, b"\x30\x00");
    check(V3, b"\x32\x03\x00\x01a");
    check(V3, b"\xA2\x01\x00");
    check(V3, b"\x62\x01\x00");
    check(V3, b"\x82\x05\x00\x01\x00\x01a"); // filter without options
}

#[test]
fn guard_4_a_disconnect_may_leave_out_the_property_length() {
    let left = |reason, session_expiry_s| {
        Ok(Packet::Disconnect {
            reason,
            session_expiry_s,
        })
    };
    assert_eq!(packet(V5, &[0xE0, 1, 4]), left(4, None));
    assert_eq!(packet(V5, &[0xE0, 0]), left(0, None));
    assert_eq!(packet(V5, &[0xE0, 2, 0, 0]), left(0, None));
    assert_eq!(packet(V5, &[0xE0, 7, 4, 5, 17, 0, 0, 0, 60]), left(4, Some(60)));
    assert_eq!(packet(V3, &[0xE0, 0]), left(0, None));
    assert_eq!(
        packet(V3, &[0xE0, 1, 4]),
        Err(DisconnectReason::MalformedPacket),
        "3.1.1 has no reason"
    );
    // The byte behind it is the next packet's.
    let mut inbound = BytesMut::from(&[0xE0, 1, 4, 0xC0, 0][..]);
    let head = head(&inbound, false).unwrap().unwrap();
    assert!(decode(V5, &head, &mut inbound).is_ok());
    assert_eq!(inbound[..], [0xC0, 0]);
}

#[test]
fn guard_5_a_disconnect_is_written_with_its_right_length() {
    let check = |why: &str, problem_information, packet_bytes_max, expected: &[u8]| {
        let encoder = Encoder {
            version: V5,
            packet_bytes_max,
            problem_information,
        };
        let mut out = BytesMut::new();
        encoder.disconnect(DisconnectReason::PacketTooLarge, why, &mut out);
        assert_eq!(out[..], *expected, "{why:?} {problem_information} {packet_bytes_max}");
        assert_eq!(usize::from(out[1]) + 2, out.len());
        let Ok(codec::Packet::Disconnect(read, properties)) = codec::v5::V5.read_mut(&mut out, 1000) else {
            panic!("the codec reads it: {expected:02x?}");
        };
        assert_eq!(read.reason_code, codec::DisconnectReasonCode::PacketTooLarge);
        let told = properties
            .and_then(|properties| properties.reason_string)
            .unwrap_or_default();
        assert!(told == why || expected.len() == 4);
    };
    check("", true, 100, &[0xE0, 2, 0x95, 0]);
    check("big", true, 100, b"\xE0\x08\x95\x06\x1F\x00\x03big");
    // Problem information is for other packets [MQTT-3.1.2-29].
    check("big", false, 100, b"\xE0\x08\x95\x06\x1F\x00\x03big");
    check("big", true, 10, b"\xE0\x08\x95\x06\x1F\x00\x03big");
    check("big", true, 9, &[0xE0, 2, 0x95, 0]);
    check(&"x".repeat(121), true, 1000, &[0xE0, 2, 0x95, 0]);
    let mut longest = vec![0xE0, 125, 0x95, 123, 0x1F, 0, 120];
    longest.extend([b'x'; 120]);
    check(&"x".repeat(120), true, 127, &longest);
    check(&"x".repeat(120), true, 126, &[0xE0, 2, 0x95, 0]);
    let three = Encoder {
        packet_bytes_max: 3,
        ..encoder(V5)
    };
    let mut out = BytesMut::new();
    three.disconnect(DisconnectReason::PacketTooLarge, "", &mut out);
    assert!(out.is_empty(), "[MQTT-3.1.2-24]");
    assert_eq!(
        written(V3, |to, out| to.disconnect(DisconnectReason::ProtocolError, "why", out)),
        b"",
        "3.1.1 servers just close"
    );
}

#[test]
fn guard_6_every_refusal_can_be_written_in_both_versions() {
    let check = |refusal: Refusal, v3: &[u8], code: u8| {
        assert_eq!(written(V3, |to, out| to.refuse(refusal, out)), v3, "{refusal:?}");
        let why = refusal.why();
        assert!(!why.is_empty());
        let length = why.len() as u8;
        let v5 = [&[0x20, length + 6, 0, code, length + 3, 31, 0, length], why.as_bytes()].concat();
        assert_eq!(written(V5, |to, out| to.refuse(refusal, out)), v5, "{refusal:?}");
        let bytes = v5.len();
        // The reason string is left out where it does not fit [MQTT-3.2.2-19], and the packet where not even the code does.
        for (packet_bytes_max, expected) in [(bytes, bytes), (bytes - 1, 5), (5, 5), (4, 0)] {
            let encoder = Encoder {
                packet_bytes_max,
                problem_information: false,
                ..encoder(V5)
            };
            let mut out = BytesMut::new();
            encoder.refuse(refusal, &mut out);
            assert_eq!(out.len(), expected, "{refusal:?} within {packet_bytes_max} bytes");
        }
    };
    check(Refusal::ProtocolVersion, &[0x20, 2, 0, 1], 0x84);
    check(Refusal::ClientIdTooLong, &[0x20, 2, 0, 2], 0x85);
    check(Refusal::ClientIdEmpty, &[0x20, 2, 0, 2], 0x85);
    check(Refusal::AuthenticationMethod, &[], 0x8C);
    check(Refusal::Fault(malformed("m")), &[], 0x81);
    check(Refusal::Fault(protocol_error("p")), &[], 0x82);
    check(Refusal::Fault(TOO_LARGE), &[], 0x95);
    let wildcard = fields::topic(b"#").unwrap_err();
    check(Refusal::Fault(wildcard), &[], 0x90);
}

#[test]
fn guard_7_nothing_written_to_a_3_1_1_client_has_properties() {
    let check = |write: &dyn Fn(&Encoder, &mut BytesMut), v3: &[u8], v5: &[u8]| {
        assert_eq!(written(V3, write), v3);
        assert_eq!(written(V5, write), v5);
    };
    let why = Some("no");
    let quota = MqttReason::QuotaExceeded;
    check(
        &|to, out| to.puback(7, MqttReason::Success, None, out),
        &[0x40, 2, 0, 7],
        &[0x40, 2, 0, 7],
    );
    check(
        &|to, out| to.puback(7, quota, None, out),
        &[0x40, 2, 0, 7],
        &[0x40, 4, 0, 7, 0x97, 0],
    );
    check(
        &|to, out| to.puback(7, quota, why, out),
        &[0x40, 2, 0, 7],
        b"\x40\x09\x00\x07\x97\x05\x1F\x00\x02no",
    );
    check(
        &|to, out| to.pubrec(7, MqttReason::Success, None, out),
        &[0x50, 2, 0, 7],
        &[0x50, 2, 0, 7],
    );
    check(
        &|to, out| to.pubrec(7, quota, why, out),
        &[0x50, 2, 0, 7],
        b"\x50\x09\x00\x07\x97\x05\x1F\x00\x02no",
    );
    check(&|to, out| to.pubcomp(7, true, out), &[0x70, 2, 0, 7], &[0x70, 2, 0, 7]);
    check(
        &|to, out| to.pubcomp(7, false, out),
        &[0x70, 2, 0, 7],
        &[0x70, 4, 0, 7, 0x92, 0],
    );
    check(
        &|to, out| to.pubrel_unknown(7, out),
        &[0x62, 2, 0, 7],
        &[0x62, 4, 0, 7, 0x92, 0],
    );
    check(&|to, out| to.pingresp(out), &[0xD0, 0], &[0xD0, 0]);
    check(
        &|to, out| to.unsuback(7, 2, out),
        &[0xB0, 2, 0, 7],
        &[0xB0, 5, 0, 7, 0, 0x11, 0x11],
    );
    assert_eq!(written(V3, |to, out| to.suback(7, 2, out)), [0x90, 4, 0, 7, 0x80, 0x80]);
    let suback = written(V5, |to, out| to.suback(7, 2, out));
    assert!(suback.ends_with(b"nothing to subscribe to\x83\x83"), "{suback:02x?}");
    let connack = Connack {
        session_present: true,
        receive_maximum: 64,
        packet_bytes_max: 1 << 18,
        topic_alias_maximum: 16,
        assigned_client_id: Some("c".to_owned()),
        session_expiry_s: Some(60),
        keep_alive_s: Some(90),
    };
    assert_eq!(written(V3, |to, out| to.connack(connack.clone(), out)), [0x20, 2, 1, 0]);
    let v5 = written(V5, |to, out| to.connack(connack.clone(), out));
    let properties = b"\x11\0\0\0\x3c\x21\0\x40\x27\0\x04\0\0\x12\0\x01c\x22\0\x10\x13\0\x5a";
    let mut expected = vec![0x20, properties.len() as u8 + 3, 1, 0, properties.len() as u8];
    expected.extend_from_slice(properties);
    assert_eq!(v5, expected);
}

#[test]
fn guard_8_a_password_is_binary_data() {
    let named = |client_id: &str, version, user_name: Option<&str>, password: &[u8]| Connect {
        version,
        is_3_1: false,
        client_id: client_id.to_owned(),
        clean: true,
        keep_alive_s: 60,
        session_expiry_s: None,
        packet_bytes_max: None,
        problem_information: true,
        authentication_method: false,
        will: None,
        login: Login {
            user_name: user_name.map(str::to_owned),
            password: Some(password.to_vec().into()),
        },
    };
    let v3 = connect_frame(b"\x00\x04MQTT\x04\xC2\x00\x3c\x00\x01c\x00\x01u\x00\x02\xff\xfe");
    assert_eq!(v3, Ok(named("c", V3, Some("u"), b"\xff\xfe")));
    let v5 = connect_frame(b"\x00\x04MQTT\x05\x42\x00\x3c\x00\x00\x01c\x00\x02\xff\xfe");
    assert_eq!(
        v5,
        Ok(named("c", V5, None, b"\xff\xfe")),
        "MQTT 5 allows a password without a user name"
    );
    let will = connect_frame(b"\x00\x04MQTT\x04\xF6\x00\x3c\x00\x01c\x00\x01t\x00\x02\xff\xfe\x00\x01u\x00\x00");
    let with_will = Connect {
        will: Some(Will {
            topic: "t".to_owned(),
            delay: Duration::ZERO,
        }),
        ..named("c", V3, Some("u"), b"")
    };
    assert_eq!(will, Ok(with_will), "with a retained will of QoS 2");
}

#[test]
fn guard_10_a_topic_is_text_without_wildcards() {
    let check = |topic: &[u8], expected: Result<&str, DisconnectReason>| {
        assert_eq!(
            fields::topic(topic).map_err(|fault| fault.reason),
            expected,
            "{topic:02x?}"
        );
    };
    check("é/x".as_bytes(), Ok("é/x"));
    check(b"$SYS/x", Ok("$SYS/x"));
    check(b"a/+/b", Err(DisconnectReason::TopicNameInvalid));
    check(b"a/#", Err(DisconnectReason::TopicNameInvalid));
    check(b"a\0b", Err(DisconnectReason::MalformedPacket));
    check(b"a\xffb", Err(DisconnectReason::MalformedPacket));
    check(b"\xed\xa0\x80", Err(DisconnectReason::MalformedPacket)); // a surrogate
    // A subscription identifier before a user property, which the codec counts wrongly.
    let subscribe = packet(V5, b"\x82\x10\x00\x01\x09\x0b\x05\x26\x00\x01k\x00\x01v\x00\x01a\x01");
    assert_eq!(subscribe, Ok(Packet::Subscribe { pkid: 1, filters: 1 }));
}

#[test]
fn a_header_that_is_not_there_whole_is_waited_for() {
    for bytes in [&[][..], &[0x30], &[0x30, 0x80], &[0x30, 0xFF, 0xFF, 0xFF]] {
        assert_eq!(head(bytes, false), Ok(None), "{bytes:02x?}");
    }
    let largest = head(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], false).unwrap().unwrap();
    assert_eq!((largest.header_bytes, largest.packet_bytes), (5, 268_435_460));
    let fault = head(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], false).unwrap_err();
    assert_eq!(fault.reason, DisconnectReason::MalformedPacket);
}

#[test]
fn a_topic_is_told_from_the_beginning_of_a_packet() {
    let check = |bytes: &[u8], expected: &str| {
        let head = head(bytes, false).unwrap().unwrap();
        assert_eq!(topic_of_part(&head, bytes), expected, "{bytes:02x?}");
    };
    check(b"\x30\xff\x7f\x00\x03a/b{\"", "a/b");
    check(b"\x30\xff\x7f\x00\x03a/b", "a/b");
    check(b"\x30\xff\x7f\x00\x03a/", "");
    check(b"\x30\xff\x7f\x00", "");
    check(b"\x30\xff\x7f\x00\x03a/#", "");
}

#[test]
fn a_reason_string_is_cut_to_a_bound_and_left_out_where_it_does_not_fit() {
    let long = "ä".repeat(600);
    let mut out = BytesMut::new();
    encoder(V5).puback(7, MqttReason::QuotaExceeded, Some(&long), &mut out);
    let Ok(codec::Packet::PubAck(_, Some(properties))) = codec::v5::V5.read_mut(&mut out, 10_000) else {
        panic!("a PUBACK with a reason string");
    };
    assert_eq!(properties.reason_string, Some("ä".repeat(REASON_BYTES_MAX / 2)));
    let small = |packet_bytes_max, problem_information| {
        let encoder = Encoder {
            version: V5,
            packet_bytes_max,
            problem_information,
        };
        let mut out = BytesMut::new();
        encoder.puback(7, MqttReason::QuotaExceeded, Some("no"), &mut out);
        out.len()
    };
    assert_eq!(
        [small(11, true), small(10, true), small(11, false), small(5, true)],
        [11, 6, 6, 0]
    );
}

/// A generator good enough to make packets with; its seed is in the test that uses it.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }
}

// Good packets of every type; mutations of them reach further than noise does.
const SEEDS: &[(Version, &[u8])] = &[
    (V3, b"\x10\x14\x00\x04MQTT\x04\xC2\x00\x3c\x00\x01c\x00\x01u\x00\x02\xff\xfe"),
    (V5, b"\x10\x25\x00\x04MQTT\x05\x06\x00\x3c\x08\x11\x00\x00\x00\x3c\x21\x00\x10\x00\x01c\x05\x18\x00\x00\x00\x05\x00\x01t\x00\x02{}"),
    (V3, b"\x32\x09\x00\x03a/b\x01\x02{}"),
    (V5, b"\x34\x1a\x00\x03a/b\x01\x02\x11\x23\x00\x01\x01\x01\x26\x00\x01k\x00\x01v\x03\x00\x01t{}"),
    (V3, b"\x62\x02\x00\x01"),
    (V5, b"\x62\x0a\x00\x01\x00\x06\x1f\x00\x03why"),
    (V3, b"\x82\x0a\x00\x01\x00\x01a\x00\x00\x01b\x01"),
    (V5, b"\x82\x10\x00\x01\x09\x0b\x05\x26\x00\x01k\x00\x01v\x00\x01a\x01"),
    (V5, b"\xa2\x0d\x00\x01\x07\x26\x00\x01k\x00\x01v\x00\x01a"),
    (V5, b"\xe0\x07\x00\x05\x11\x00\x00\x00\x3c"),
    (V3, b"\xc0\x00"),
    (V5, b"\xf0\x02\x18\x00"),
];

fn mutated(dice: &mut Dice) -> (Version, Vec<u8>) {
    let (version, seed) = SEEDS[dice.roll(SEEDS.len())];
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len());
        match dice.roll(5) {
            0 => bytes[at] = dice.roll(256) as u8,
            1 => bytes[at] ^= 1 << dice.roll(8),
            2 => bytes.insert(at, dice.roll(44) as u8),
            3 if bytes.len() > 2 => drop(bytes.remove(at)),
            _ => bytes.extend_from_slice(SEEDS[dice.roll(SEEDS.len())].1),
        }
    }
    (version, bytes)
}

#[test]
fn mqtt_3_1_says_that_a_release_is_a_repetition() {
    for kind in [6, 8, 10] {
        let repeated = [kind << 4 | 0b1010, 2];
        assert_eq!(
            head(&repeated, false).map_err(|fault| fault.reason),
            Err(DisconnectReason::MalformedPacket)
        );
        assert!(head(&repeated, true).is_ok_and(|head| head.is_some()));
    }
    for flags in [0, 1, 3, 9, 11] {
        assert!(head(&[0x60 | flags, 2], true).is_err(), "{flags:#06b}");
    }
    let mut inbound = BytesMut::from(&[0x6A, 2, 0, 7][..]);
    let head = head(&inbound, true).unwrap().unwrap();
    assert_eq!(decode(V3, &head, &mut inbound), Ok(Packet::PubRel { pkid: 7 }));
}

#[test]
fn a_repetition_has_the_same_properties_but_for_its_alias_and_its_expiry() {
    let of = |first: u8, properties: &[u8]| {
        let mut bytes = vec![first, 0, 0, 3, b'a', b'/', b'b', 0, 7, properties.len() as u8];
        bytes.extend_from_slice(properties);
        bytes[1] = bytes.len() as u8 - 2;
        let Ok(Packet::Publish(publish)) = packet(V5, &bytes) else {
            panic!("{bytes:02x?} is a publish");
        };
        publish.properties
    };
    let seven = b"\x26\x00\x01n\x00\x017";
    assert_eq!(of(0x34, b""), 0);
    assert_eq!(of(0x34, b"\x23\x00\x01\x02\x00\x00\x00\x09"), 0);
    assert_ne!(of(0x34, seven), 0);
    assert_eq!(
        of(0x34, seven),
        of(0x3C, &[&b"\x23\x00\x02"[..], seven].concat()),
        "DUP"
    );
    assert_ne!(of(0x34, seven), of(0x34, b"\x26\x00\x01n\x00\x018"));
    assert_ne!(of(0x34, seven), of(0x34, &[&seven[..], seven].concat()));
    assert_eq!(of(0x32, seven), 0, "of QoS 1 nothing is remembered");
}

#[test]
fn whatever_bytes_come_they_are_packets_or_a_fault() {
    const SEED: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut dice = Dice(SEED);
    let (mut packets, mut faults) = (0, 0);
    for round in 0..200_000 {
        let (version, bytes) = mutated(&mut dice);
        let mut inbound = BytesMut::from(&bytes[..]);
        // Every packet takes at least two bytes, so the loop ends; a fault ends it as it ends a connection.
        for _ in 0..=bytes.len() / 2 {
            let head = match head(&inbound, false) {
                Ok(Some(head)) if head.packet_bytes <= inbound.len() => head,
                Ok(_) => break,
                Err(_) => {
                    faults += 1;
                    break;
                }
            };
            let before = inbound.len();
            let taken = match head.kind() {
                1 => decode_connect(&head, &mut inbound).is_ok(),
                _ => decode(version, &head, &mut inbound).is_ok(),
            };
            if !taken {
                faults += 1;
                break;
            }
            packets += 1;
            let about = format!("seed {SEED:#x}, round {round}: {version:?} {bytes:02x?}");
            assert_eq!(inbound.len(), before - head.packet_bytes, "{about}");
        }
    }
    assert!(
        packets > 50_000 && faults > 50_000,
        "seed {SEED:#x}: {packets} packets, {faults} faults"
    );
}

#[test]
fn noise_is_packets_or_a_fault_too() {
    const SEED: u64 = 0xD1B5_4A32_D192_ED03;
    let mut dice = Dice(SEED);
    for round in 0..100_000 {
        let length = dice.roll(40);
        let mut bytes = vec![dice.roll(256) as u8, length as u8];
        bytes.extend((0..length).map(|_| {
            if dice.roll(4) == 0 {
                dice.roll(256) as u8
            } else {
                dice.roll(42) as u8
            }
        }));
        for version in [V3, V5] {
            let mut inbound = BytesMut::from(&bytes[..]);
            if let Ok(Some(head)) = head(&bytes, false) {
                assert_eq!(
                    head.packet_bytes,
                    bytes.len(),
                    "seed {SEED:#x}, round {round}: {bytes:02x?}"
                );
                drop(decode(version, &head, &mut inbound));
                drop(decode_connect(&head, &mut BytesMut::from(&bytes[..])));
            }
        }
    }
}
