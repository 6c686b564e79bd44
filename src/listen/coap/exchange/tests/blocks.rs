//! Block sizes (RFC 7959) and amplification. A client may choose the size of the
//! blocks it is sent; an address that may be forged is sent at most three times the
//! bytes that came from it, repetitions included.

use super::*;

/// A request for path `a` (or none) of these options and payload, with a token of `token_bytes`.
fn small(token_bytes: usize, options: &[(u16, &[u8])], payload: &str) -> Vec<u8> {
    let mut packet = Packet::new();
    packet.header.code = packet::POST.into();
    packet.header.message_id = 7;
    packet.set_token(vec![9; token_bytes]);
    for (number, value) in options {
        packet.add_option((*number).into(), value.to_vec());
    }
    packet.payload = payload.into();
    let mut bytes = packet.to_bytes_unlimited().unwrap();
    bytes[0] = CON | token_bytes as u8;
    bytes
}

/// The options of this number in the one message that was sent.
fn option(world: &World, number: u16) -> Option<Vec<u8>> {
    let [outgoing] = &world.out[..] else {
        panic!("{:?}", world.out);
    };
    let packet = Packet::from_bytes(&outgoing.message).unwrap();
    packet.get_first_option(number.into()).cloned()
}

/// Everything that is sent for a request, until nothing more comes: three times its bytes at most.
#[test]
fn no_more_than_three_times_a_request_is_sent_for_it_in_all() {
    let path: &[(u16, &[u8])] = &[(11, b"a")];
    let requests = (0..=8).flat_map(|token_bytes| {
        [
            small(token_bytes, &[], ""),
            small(token_bytes, path, ""),
            small(token_bytes, path, "{}"),
            small(token_bytes, &[(11, b"a"), (27, &[6])], "{}"),
            small(token_bytes, path, &"x".repeat(200)),
            small(token_bytes, path, &"x".repeat(300)),
        ]
    });
    let requests: Vec<_> = requests.chain([post(CON, 7)]).collect();
    let mut most = 0.0_f64;
    for (bytes, max_retransmit) in requests.iter().flat_map(|bytes| [0, 1, 4, 10].map(|max| (bytes, max))) {
        for separate in [false, true] {
            for outcome in [
                delivered(),
                rejected(&"x".repeat(500)),
                Answer::One(Outcome::Busy(Busy::KafkaUnavailable)),
            ] {
                let mut world = world(|config| {
                    config.max_retransmit = max_retransmit;
                    config.datagram_bytes_max = bytesize::ByteSize::b(250);
                });
                let received = world.receive(bytes).expect("a message with readings");
                if separate {
                    world.pass(500);
                }
                let outcome = received.refusal.map_or(outcome.clone(), Answer::One);
                world.answer(received.ticket.unwrap(), &outcome);
                for _ in 0..=max_retransmit {
                    world.pass(3_600_000);
                }
                assert_eq!(world.exchanges.open(), 0);
                let sent: usize = world.out.iter().map(|outgoing| outgoing.message.len()).sum();
                let about = format!("{} bytes, separate {separate}, {outcome:?}", bytes.len());
                assert!(sent <= 3 * bytes.len(), "{sent} for {about}");
                assert!(world.out.len() > usize::from(separate), "it is answered: {about}");
                most = most.max(sent as f64 / bytes.len() as f64);
            }
        }
    }
    // 4 bytes that are told 5.03 with Max-Age behind an empty acknowledgement: 11.
    assert!((2.7..=3.0).contains(&most), "{most} times");
}

/// The list of streams and what is said in its place, for a request of any length.
#[test]
fn no_more_than_three_times_a_request_is_sent_for_it_to_an_address_that_may_be_forged() {
    let mut lists = 0;
    for (padding, block1) in (0..250).flat_map(|padding| [None, Some(6)].map(|block1| (padding, block1))) {
        let mut options = vec![(11, b".well-known".to_vec()), (11, b"core".to_vec())];
        options.extend(block1.map(|value: u8| (27, vec![value])));
        options.push((65_000, vec![0; padding])); // elective, and unknown
        let options: Vec<_> = options.iter().map(|(number, value)| (*number, &value[..])).collect();
        let bytes = datagram(CON, packet::GET, 1, &options, "");
        let mut world = world(|_| {});
        assert!(world.receive(&bytes).is_none());
        let sent: usize = world.out.iter().map(|outgoing| outgoing.message.len()).sum();
        assert!(
            sent <= 3 * bytes.len(),
            "{sent} for {} bytes, Block1 {block1:?}",
            bytes.len()
        );
        lists += u32::from(world.said_one().code == packet::CONTENT);
    }
    assert!(
        (1..500).contains(&lists),
        "{lists} lists, others have to prove their address"
    );
}

/// The smallest reading has room for all repetitions that RFC 7252 gives it.
#[test]
fn a_reading_that_may_be_one_is_repeated_as_often_as_before() {
    for token_bytes in 0..=8 {
        let path: &[(u16, &[u8])] = &[(11, b"devices"), (11, b"d"), (11, b"k")];
        let mut world = world(|_| {});
        let ticket = world.take(&small(token_bytes, path, "{}"));
        world.pass(500);
        world.out.clear();
        world.answer(ticket, &Answer::One(Outcome::Busy(Busy::KafkaUnavailable)));
        for _ in 0..5 {
            world.pass(3_600_000);
        }
        assert_eq!(world.out.len(), 5, "{token_bytes}");
    }
}

#[test]
fn a_whole_body_in_one_block_is_a_reading_and_its_block_is_acknowledged() {
    let check = |value: &[u8], kind: u8, expected: Option<Vec<u8>>| {
        let mut world = world(|_| {});
        let bytes = request(kind, packet::POST, 1, &[(27, value)], "{}");
        let ticket = world.take(&bytes);
        world.answer(ticket, &delivered());
        assert_eq!(option(&world, 27), expected, "{value:02x?}");
        assert_eq!(world.said_one().code, CHANGED);
        if kind == CON {
            // A repetition is answered the same way.
            world.receive(&bytes);
            assert_eq!(option(&world, 27), expected, "{value:02x?}");
        }
    };
    for kind in [CON, NON] {
        check(&[6], kind, Some(vec![6]));
        check(&[], kind, Some(vec![]));
        check(&[0, 2], kind, Some(vec![2]));
    }
    let mut world = world(|_| {});
    let several = "option 27 (Block1): bodies in several blocks are not supported; send the reading in one datagram";
    let misshapen = "option 27 is repeated or of a wrong length";
    for (values, code, text) in [
        (&[&[0x0E][..]][..], packet::BAD_OPTION, several),
        (&[&[0x16]], packet::BAD_OPTION, several),
        (&[&[6], &[6]], packet::BAD_OPTION, misshapen),
        (&[&[0, 0, 0, 6]], packet::BAD_OPTION, misshapen),
        (&[&[0x07]], packet::BAD_REQUEST, "block size 7 is reserved"),
    ] {
        let options: Vec<_> = values.iter().map(|value| (27, *value)).collect();
        // Long enough for the whole text.
        let long = format!("{{{}}}", " ".repeat(50));
        assert!(world.receive(&request(CON, packet::POST, 1, &options, &long)).is_none());
        let said = world.said_one();
        assert_eq!((said.code, said.payload.as_str()), (code, text), "{values:02x?}");
    }
    // A rejected reading has no block: 4.13 with one would ask for a smaller.
    let ticket = world.take(&request(CON, packet::POST, 2, &[(27, &[6])], "{"));
    world.answer(ticket, &rejected("no"));
    assert_eq!(option(&world, 27), None);
}

#[test]
fn blocks_of_the_response_are_as_large_as_the_client_asks() {
    let mut world = world(|_| {});
    // Of a reading: its text is cut.
    for (value, bytes) in [(&[0][..], 16), (&[1], 32), (&[6], 128)] {
        let long = "x".repeat(100);
        let ticket = world.take(&request(
            CON,
            packet::POST,
            1,
            &[(23, value)],
            &format!("{value:?}{long}"),
        ));
        world.answer(ticket, &rejected(&"x".repeat(500)));
        assert_eq!(option(&world, 23), None);
        assert_eq!(world.said_one().payload.len(), bytes, "{value:02x?}");
    }
    assert!(
        world
            .receive(&request(CON, packet::POST, 1, &[(23, &[0x16])], "{}"))
            .is_none()
    );
    let said = world.said_one();
    let text = "option 23 (Block2): this response has only one block";
    assert_eq!((said.code, said.payload.as_str()), (packet::BAD_OPTION, text));
    // Of the list: block by block.
    let own = SocketAddr::from(([127, 0, 0, 1], 3));
    let mut ask = |options: &[(u16, &[u8])]| {
        let path = [(11, &b".well-known"[..]), (11, b"core")];
        world.receive_at(own, &datagram(CON, packet::GET, 1, &[&path[..], options].concat(), ""));
        (option(&world, 23), world.said_one())
    };
    let (_, whole) = ask(&[]);
    let mut read = String::new();
    for number in 0..whole.payload.len().div_ceil(32) as u8 {
        let (block, part) = ask(&[(23, &[number << 4 | 1])]);
        assert_eq!(part.code, packet::CONTENT);
        read.push_str(&part.payload);
        let more = u8::from(read.len() < whole.payload.len());
        assert_eq!(block, Some(vec![number << 4 | more << 3 | 1]));
    }
    assert_eq!(read, whole.payload);
    assert_eq!(ask(&[(23, &[0xF1])]).1.code, packet::BAD_REQUEST, "past the end");
}

#[test]
fn a_body_that_is_too_large_is_told_what_would_fit() {
    let mut world = world(|config| config.datagram_bytes_max = bytesize::ByteSize::b(400));
    let bytes = request(CON, packet::POST, 1, &[], &"x".repeat(400));
    let received = world.receive(&bytes).unwrap();
    world.answer(received.ticket.unwrap(), &Answer::One(received.refusal.unwrap()));
    let size1 = option(&world, 60).expect("Size1");
    let largest = size1.iter().fold(0, |value, byte| value << 8 | usize::from(*byte));
    assert_eq!(world.said_one().code, packet::TOO_LARGE);
    let mut check = |mid, bytes: usize, refused: bool| {
        let received = world.receive(&request(CON, packet::POST, mid, &[], &"y".repeat(bytes)));
        assert_eq!(received.unwrap().refusal.is_some(), refused, "{bytes}");
    };
    check(2, largest, false);
    check(3, largest + 1, true);
    // Also if it is longer than the block that it says it is.
    for (mid, value) in [(4, &[][..]), (5, &[6])] {
        let bytes = request(CON, packet::POST, mid, &[(27, value)], &"x".repeat(400));
        let received = world.receive(&bytes).expect("a reading, to be refused");
        world.answer(received.ticket.unwrap(), &Answer::One(received.refusal.unwrap()));
        assert!(option(&world, 60).is_some(), "Size1 beside {value:02x?}");
        assert_eq!(world.said_one().code, packet::TOO_LARGE, "{value:02x?}");
    }
}
