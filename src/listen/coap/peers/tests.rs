//! What is remembered of a peer's messages, for how long, and in which order it is forgotten. A duplicate is found for
//! the whole EXCHANGE_LIFETIME while there is memory. When there is none, messages that are no longer repeated go
//! first, then those of peers that no reading was accepted from.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use super::*;

const LIMITS: Limits = Limits {
    messages_per_peer: 4,
    bytes_max: 1 << 20,
    confirmable: Duration::from_secs(247),
    non_confirmable: Duration::from_secs(145),
};

fn peers(limits: Limits) -> (Peers, Instant) {
    let now = Instant::now();
    let forgotten = IntCounter::new("forgotten", "in these tests").unwrap();
    (Peers::new(limits, now, 1, forgotten), now)
}

fn key(port: u16, mid: u16) -> Key {
    let peer = SocketAddr::from(([10, 0, 0, 1], port));
    let mut hash = DefaultHasher::new();
    (port, mid).hash(&mut hash);
    Key {
        ends: Endpoints::of(peer),
        mid,
        fingerprint: hash.finish(),
    }
}

fn code(code: u8) -> Answered {
    Answered::Code(code)
}

/// Whether it is remembered; looking does not change that.
fn knows(peers: &Peers, key: Key) -> bool {
    peers.find(key).is_some()
}

/// A message of each of these ports, answered or not.
fn fill(peers: &mut Peers, now: Instant, ports: std::ops::Range<u16>, is_accepted: bool) {
    for port in ports {
        peers.arrive(now, key(port, 1), true);
        if is_accepted {
            peers.accepted(key(port, 1));
        }
    }
}

#[test]
fn a_message_is_remembered_for_its_lifetime() {
    let check = |confirmable, seconds, expected| {
        let (mut peers, start) = peers(LIMITS);
        let key = key(1, 7);
        assert_eq!(peers.arrive(start, key, confirmable), Arrival::New);
        let arrival = peers.arrive(start + Duration::from_secs(seconds), key, confirmable);
        assert_eq!(arrival == Arrival::New, expected, "{confirmable} after {seconds} s");
    };
    check(true, 0, false);
    check(true, 247, false);
    check(true, 248, true);
    check(false, 145, false);
    check(false, 146, true);
}

#[test]
fn a_message_that_outlived_its_time_is_remembered_anew() {
    let (mut peers, start) = peers(LIMITS);
    let at = |seconds| start + Duration::from_secs(seconds);
    let key = key(1, 7);
    peers.arrive(start, key, false);
    peers.answered(start, key, code(1));
    assert_eq!(peers.arrive(at(200), key, false), Arrival::New);
    peers.answered(at(200), key, code(2));
    peers.expire(at(248));
    assert_eq!(peers.arrive(at(300), key, false), Arrival::Duplicate(code(2)));
    peers.expire(at(448));
    assert_eq!((peers.len(), peers.messages(), peers.bytes()), (0, 0, 0));
}

#[test]
fn datagrams_with_one_id_are_remembered_side_by_side() {
    let (mut peers, now) = peers(LIMITS);
    let old = key(1, 7);
    let new = Key { fingerprint: 99, ..old };
    assert_eq!(peers.arrive(now, old, true), Arrival::New);
    assert_eq!(peers.arrive(now, new, true), Arrival::New);
    peers.answered(now, old, code(1));
    assert_eq!(peers.arrive(now, new, true), Arrival::Duplicate(Answered::Nothing));
    peers.answered(now, new, Answered::Message(Box::new(Message::from([2]))));
    let whole = Answered::Message(Box::new(Message::from([2])));
    assert_eq!(peers.arrive(now, new, true), Arrival::Duplicate(whole));
    assert_eq!(peers.arrive(now, old, true), Arrival::Duplicate(code(1)));
}

#[test]
fn one_fingerprint_of_two_peers_is_not_one_message() {
    let (mut peers, now) = peers(LIMITS);
    let one = key(1, 7);
    for other in [
        Key {
            ends: key(2, 7).ends,
            ..one
        },
        Key { mid: 8, ..one },
    ] {
        peers.arrive(now, one, true);
        assert_eq!(peers.arrive(now, other, true), Arrival::New);
    }
    let local = super::super::endpoints::Local::configured(1);
    let ends = Endpoints { local, ..one.ends };
    assert_eq!(
        peers.arrive(now, Key { ends, ..one }, true),
        Arrival::New,
        "another address of ours"
    );
}

#[test]
fn a_peer_is_remembered_by_its_last_messages() {
    let (mut peers, start) = peers(LIMITS);
    for mid in 0..4 {
        peers.arrive(start, key(1, mid), true);
    }
    // Too early for the first of these, late enough for the second.
    for (mid, seconds, forgotten) in [(4, 45, 1), (5, 46, 1)] {
        peers.arrive(start + Duration::from_secs(seconds), key(1, mid), true);
        assert_eq!(peers.forgotten.get(), forgotten, "after {seconds} s");
    }
    let known: Vec<u16> = (0..6).filter(|&mid| knows(&peers, key(1, mid))).collect();
    assert_eq!(known, [2, 3, 4, 5]);
    assert_eq!((peers.len(), peers.messages()), (1, 4));
}

#[test]
fn who_had_a_reading_accepted_is_forgotten_last() {
    let (mut peers, now) = peers(Limits {
        bytes_max: 320 * (PEER_BYTES + MESSAGE_BYTES),
        messages_per_peer: 100,
        ..LIMITS
    });
    let known = |peers: &Peers| {
        [1..101, 101..201, 201..301].map(|mut ports: std::ops::Range<u16>| {
            let with = |port, mid| knows(peers, key(port, mid));
            let mut count = 0;
            ports
                .by_ref()
                .for_each(|port| count += usize::from(with(port, 1) || with(port, 2)));
            count
        })
    };
    // Ports 1 to 100 had a reading accepted before, 101 to 200 have one accepted, 201 to 300 none.
    fill(&mut peers, now, 1..201, true);
    fill(&mut peers, now, 201..301, false);
    for port in 1..101 {
        peers.arrive(now, key(port, 2), true);
    }
    fill(&mut peers, now, 1000..3000, false);
    assert_eq!(known(&peers), [100, 100, 0]);
    // Its own share is left to each: newcomers and those that are accepted for the first time.
    fill(&mut peers, now, 3000..5000, true);
    let [proven, accepted, unknown] = known(&peers);
    assert_eq!((proven, unknown), (100, 0));
    assert_eq!(accepted, 0, "they are older than those that are accepted now");
    for mid in 3..103 {
        for port in 1..101 {
            peers.arrive(now, key(port, mid), true);
        }
    }
    fill(&mut peers, now, 5000..6000, false);
    let shares = peers.lists.map(|list| 10 * SHARE * list.messages / peers.messages());
    assert!(
        shares[..2].iter().all(|share| (8..=10).contains(share)),
        "{shares:?} of 160"
    );
    assert!(peers.bytes() <= peers.limits.bytes_max);
}

#[test]
fn what_no_client_repeats_any_more_is_forgotten_before_what_one_may() {
    let (mut peers, start) = peers(Limits {
        bytes_max: 10 * (PEER_BYTES + MESSAGE_BYTES),
        ..LIMITS
    });
    fill(&mut peers, start, 0..5, true);
    for port in 0..5 {
        peers.arrive(start, key(port, 2), true);
    }
    let later = start + MAX_TRANSMIT_SPAN + Duration::from_secs(1);
    fill(&mut peers, later, 100..110, false);
    assert_eq!((100..110).filter(|&port| knows(&peers, key(port, 1))).count(), 10);
    assert_eq!(peers.forgotten.get(), 0);
    fill(&mut peers, later, 110..111, false);
    assert_eq!(peers.forgotten.get(), 1);
}

#[test]
fn the_last_message_stays_whatever_the_bound() {
    let (mut peers, now) = peers(Limits { bytes_max: 0, ..LIMITS });
    for mid in 0..3 {
        peers.arrive(now, key(1, mid), true);
        assert!(knows(&peers, key(1, mid)));
        assert_eq!(peers.messages(), 1);
    }
}

#[test]
fn memory_is_within_its_bound() {
    println!("charged: {MESSAGE_BYTES} bytes a message, {PEER_BYTES} a peer");
    let check = |name: &str, ports: u32, text: usize, expected: usize| {
        let bytes_max = 4 << 20;
        let limits = Limits {
            messages_per_peer: 100_000,
            bytes_max,
            ..LIMITS
        };
        let mut kept = None;
        let measured = allocation_counter::measure(|| {
            let (mut peers, now) = peers(limits);
            for number in 0..100_000 {
                let key = key((number % ports) as u16, (number / ports) as u16);
                peers.arrive(now, key, true);
                if text > 0 {
                    let message = Message::from(vec![0; text]);
                    peers.answered(now, key, Answered::Message(Box::new(message)));
                }
                assert!(peers.bytes() <= bytes_max, "{name}: {}", peers.bytes());
            }
            kept = Some((peers, now));
        });
        let (mut peers, now) = kept.unwrap();
        let (messages, bytes) = (peers.messages(), measured.bytes_current as usize);
        println!(
            "{name}: {messages} messages in {bytes} bytes, {} each",
            bytes / messages
        );
        assert!(bytes <= bytes_max, "{name}: {bytes} bytes");
        assert!(messages >= expected, "{name}: {messages} messages");
        peers.expire(now + Duration::from_secs(248));
        assert_eq!((peers.len(), peers.messages(), peers.bytes()), (0, 0, 0), "{name}");
        assert_eq!(peers.next_expiry(), None);
    };
    check("one peer", 1, 0, 50_000);
    check("ten peers", 10, 0, 50_000);
    check("a peer each", 65_536, 0, 25_000);
    check("a peer each, and a diagnostic", 65_536, 128, 10_000);
}

#[test]
fn ids_of_our_messages_are_in_sequence() {
    let (mut peers, now) = peers(LIMITS);
    peers.arrive(now, key(1, 7), true);
    let first = peers.next_mid(key(1, 7).ends);
    assert_eq!(peers.next_mid(key(1, 7).ends), first.wrapping_add(1));
}
