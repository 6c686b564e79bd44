//! CoAP's message layer against a clock that the test moves, without a socket: deduplication, piggybacked and separate
//! responses, retransmission, and the limits of what is remembered. Each test names the section of RFC 7252 or the
//! attack it is about; blocks and amplification are in `blocks`.

use std::time::Duration;

use rand::RngExt;

use std::net::SocketAddr;

use super::super::resource::AMPLIFICATION_MAX;
use super::*;
use crate::listen::Metrics;

mod blocks;

const CON: u8 = 0x40;
const NON: u8 = 0x50;
const ACK: u8 = 0x60;
const RST: u8 = 0x70;

const CHANGED: u8 = packet::code(2, 4);
const BAD_REQUEST: u8 = packet::code(4, 0);

/// A message layer, its clock, and what it said last.
struct World {
    exchanges: Exchanges,
    metrics: Metrics,
    start: Instant,
    now: Instant,
    out: Vec<Outgoing>,
}

/// The parts of a message of ours that tests look at.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    kind: u8,
    code: u8,
    mid: u16,
    token: Vec<u8>,
    payload: String,
}

fn world(change: impl FnOnce(&mut Config)) -> World {
    let mut config = Config {
        ack_random_factor: 1.0,
        ..Config::default()
    };
    change(&mut config);
    let links = Links::new(|| vec!["traffic".to_owned(), "weather".to_owned()]);
    let (metrics, start) = (Metrics::default(), Instant::now());
    World {
        exchanges: Exchanges::new(&config, links, Counters::new(&metrics.coap), start, 1),
        metrics,
        start,
        now: start,
        out: Vec::new(),
    }
}

fn peer(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

/// A request of code `code` for `/devices/a/traffic`, token 07 08, with more options (in order, behind Uri-Path).
fn request(kind: u8, code: u8, mid: u16, options: &[(u16, &[u8])], payload: &str) -> Vec<u8> {
    let path = [&b"devices"[..], b"a", b"traffic"].map(|segment| (11, segment));
    datagram(kind, code, mid, &[&path[..], options].concat(), payload)
}

fn datagram(kind: u8, code: u8, mid: u16, options: &[(u16, &[u8])], payload: &str) -> Vec<u8> {
    let mut packet = Packet::new();
    packet.header.code = code.into();
    packet.header.message_id = mid;
    packet.set_token(vec![7, 8]);
    for (number, value) in options {
        packet.add_option((*number).into(), value.to_vec());
    }
    packet.payload = payload.into();
    let mut bytes = packet.to_bytes_unlimited().unwrap();
    bytes[0] = kind | 2;
    bytes
}

fn post(kind: u8, mid: u16) -> Vec<u8> {
    request(kind, packet::POST, mid, &[], r#"{"vehicle_count":12}"#)
}

fn delivered() -> Answer {
    Answer::One(Outcome::Delivered)
}

fn rejected(detail: &str) -> Answer {
    Answer::One(Rejection::new(Reason::Malformed, detail).into())
}

fn sent(kind: u8, code: u8, mid: u16, payload: &str) -> Sent {
    let token = if code == packet::EMPTY { vec![] } else { vec![7, 8] };
    Sent {
        kind,
        code,
        mid,
        token,
        payload: payload.to_owned(),
    }
}

impl World {
    fn receive_at(&mut self, peer: SocketAddr, datagram: &[u8]) -> Option<InboundRequest> {
        let ends = Endpoints::of(peer);
        self.exchanges
            .on_datagram(self.now, ends, Cast::Unicast, datagram, &mut self.out)
    }

    fn receive_from(&mut self, port: u16, datagram: &[u8]) -> Option<InboundRequest> {
        self.receive_at(peer(port), datagram)
    }

    fn receive(&mut self, datagram: &[u8]) -> Option<InboundRequest> {
        self.receive_from(1, datagram)
    }

    /// Receives a reading that is accepted, and gives its ticket.
    fn take(&mut self, datagram: &[u8]) -> u64 {
        let received = self.receive(datagram).expect("a message with readings");
        assert_eq!(received.refusal, None);
        received.ticket.expect("an open exchange")
    }

    fn answer(&mut self, ticket: u64, answer: &Answer) {
        self.exchanges.on_answer(self.now, ticket, answer, &mut self.out);
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
        self.exchanges.on_timeout(self.now, &mut self.out);
    }

    fn said(&mut self) -> Vec<Sent> {
        let sent = |outgoing: Outgoing| {
            let packet = Packet::from_bytes(&outgoing.message).unwrap();
            Sent {
                kind: outgoing.message[0] & 0xF0,
                code: outgoing.message[1],
                mid: packet.header.message_id,
                token: packet.get_token().to_vec(),
                payload: String::from_utf8(packet.payload).unwrap(),
            }
        };
        self.out.drain(..).map(sent).collect()
    }

    /// The one message that was sent.
    fn said_one(&mut self) -> Sent {
        let mut said = self.said();
        assert_eq!(said.len(), 1, "{said:?}");
        said.remove(0)
    }

    fn ignored(&self, reason: &str) -> u64 {
        let ignored = &self.metrics.coap.coap_datagrams_ignored_total;
        ignored.with_label_values(&[reason]).get()
    }
}

// === readings in, answers out ===

#[test]
fn a_reading_is_handed_over_as_it_was_sent() {
    let mut world = world(|_| {});
    let bytes = request(CON, packet::PUT, 1, &[(12, &[50])], "{}");
    let received = world.receive(&bytes).unwrap();
    assert_eq!(received.path, "devices/a/traffic");
    assert_eq!(
        (&*received.content_type, &*received.body),
        ("application/json", &b"{}"[..])
    );
    assert_eq!((received.bytes, received.refusal), (bytes.len(), None));
    assert_eq!(world.said(), []);
    assert_eq!(world.exchanges.owed(), 1);
}

#[test]
fn outcomes_are_piggybacked_on_the_acknowledgement() {
    let check = |answer: Answer, code: u8, payload: &str| {
        let mut world = world(|_| {});
        let ticket = world.take(&post(CON, 0x1234));
        world.pass(499);
        world.answer(ticket, &answer);
        assert_eq!(world.said(), [sent(ACK, code, 0x1234, payload)], "{answer:?}");
        assert_eq!(world.exchanges.open(), 0);
        world.pass(600_000);
        assert_eq!(world.said(), [], "nothing is left to do for {answer:?}");
    };
    check(delivered(), CHANGED, "");
    check(Answer::One(Outcome::Spooled), CHANGED, "");
    check(rejected("speed_kmh: broken"), BAD_REQUEST, "speed_kmh: broken");
    let busy = Outcome::Busy(Busy::QueueFull);
    check(Answer::One(busy.clone()), packet::code(5, 3), Busy::QueueFull.text());
    check(Answer::Many(vec![Outcome::Delivered, Outcome::Delivered]), CHANGED, "");
    check(
        Answer::Many(vec![Outcome::Delivered, busy]),
        packet::code(5, 3),
        Busy::QueueFull.text(),
    );
}

#[test]
fn busy_says_when_to_try_again() {
    let mut world = world(|_| {});
    let ticket = world.take(&post(CON, 1));
    world.answer(ticket, &Answer::One(Outcome::Busy(Busy::KafkaUnavailable)));
    let packet = Packet::from_bytes(&world.out[0].message).unwrap();
    let max_age = packet.get_first_option(coap_lite::CoapOption::MaxAge).unwrap();
    assert_eq!(*max_age, [acknowledge::RETRY_AFTER_SECONDS as u8]);
}

#[test]
fn a_non_confirmable_request_is_answered_once_under_an_id_of_ours() {
    let mut world = world(|_| {});
    let mut last = None;
    for mid in [1, 2] {
        let ticket = world.take(&post(NON, mid));
        world.pass(3000);
        assert_eq!(world.said(), [], "no empty acknowledgement");
        world.answer(ticket, &delivered());
        let said = world.said_one();
        assert_eq!((said.kind, said.code, &*said.token), (NON, CHANGED, &[7, 8][..]));
        assert!(last.is_none_or(|last: u16| said.mid == last.wrapping_add(1)));
        last = Some(said.mid);
        assert_eq!(world.exchanges.open(), 0);
    }
}

#[test]
fn a_diagnostic_is_bounded_by_the_configuration_and_by_the_request() {
    let check = |body: &str, bytes_max, expected: usize| {
        let mut world = world(|config| config.diagnostic_bytes_max = bytes_max);
        let bytes = request(CON, packet::POST, 1, &[], body);
        let ticket = world.take(&bytes);
        world.answer(ticket, &rejected(&"ä".repeat(500)));
        assert!(world.out[0].message.len() <= AMPLIFICATION_MAX * bytes.len());
        assert_eq!(
            world.said_one().payload.len(),
            expected,
            "{bytes_max} for {} bytes",
            bytes.len()
        );
    };
    let long = "x".repeat(1000);
    check(&long, 128, 128);
    check(&long, 127, 126);
    check(&long, 0, 0);
    // 26 bytes of request, three times, without header, token and payload marker; cut between characters of two bytes.
    check("x", 128, 3 * 26 - 7 - 1);
}

#[test]
fn a_datagram_that_is_too_long_is_refused_with_its_address() {
    let mut world = world(|config| config.datagram_bytes_max = bytesize::ByteSize::b(100));
    let body = "x".repeat(100);
    let received = world.receive(&request(CON, packet::POST, 1, &[], &body)).unwrap();
    assert_eq!(received.path, "devices/a/traffic");
    let outcome = received.refusal.unwrap();
    world.answer(received.ticket.unwrap(), &Answer::One(outcome));
    let said = world.said_one();
    assert_eq!((said.kind, said.code), (ACK, packet::code(4, 13)));
    assert_eq!(said.payload, "at most 100 bytes fit into a datagram");
}

#[test]
fn requests_beyond_the_bound_are_told_to_come_again() {
    let mut world = world(|config| config.exchanges_max = 2);
    let first = world.take(&post(CON, 1));
    world.take(&post(CON, 2));
    let received = world.receive(&post(CON, 3)).unwrap();
    assert_eq!(
        (received.ticket, received.refusal),
        (None, Some(Outcome::Busy(Busy::MemoryFull)))
    );
    let busy = world.said_one();
    assert_eq!((busy.kind, busy.code, busy.mid), (ACK, packet::code(5, 3), 3));
    // The same again for the same datagram; room for another once one is answered.
    assert_eq!(world.receive(&post(CON, 3)), None);
    assert_eq!(world.said_one(), busy);
    world.answer(first, &delivered());
    world.take(&post(CON, 4));
}

// === separate responses ===

#[test]
fn a_late_answer_is_a_response_of_its_own_repeated_until_it_is_acknowledged() {
    let mut world = world(|_| {});
    let ticket = world.take(&post(CON, 0x1234));
    world.pass(500);
    assert_eq!(world.said(), [sent(ACK, packet::EMPTY, 0x1234, "")]);
    world.pass(1000);
    world.answer(ticket, &delivered());
    let response = world.said_one();
    assert_eq!(response, sent(CON, CHANGED, response.mid, ""));
    for wait in [2000, 4000, 8000] {
        world.pass(wait - 1);
        assert_eq!(world.said(), [], "{wait} ms are not over");
        world.pass(1);
        assert_eq!(world.said(), [sent(CON, CHANGED, response.mid, "")], "after {wait} ms");
    }
    // The acknowledgement of another id, or by another peer, is not this one's.
    let [high, low] = response.mid.to_be_bytes();
    world.receive(&[ACK, 0, high, low ^ 1]);
    world.receive_from(2, &[ACK, 0, high, low]);
    assert_eq!(world.exchanges.open(), 1);
    world.receive(&[ACK, 0, high, low]);
    assert_eq!(world.exchanges.open(), 0);
    world.pass(600_000);
    assert_eq!(world.said(), []);
    assert_eq!(world.metrics.coap.coap_retransmissions_total.get(), 3);
}

#[test]
fn a_separate_response_is_given_up() {
    let given_up = |stop: fn(&mut World, u16)| {
        let mut world = world(|_| {});
        let ticket = world.take(&post(CON, 1));
        world.pass(500);
        world.answer(ticket, &delivered());
        world.out.remove(0);
        let mid = world.said_one().mid;
        stop(&mut world, mid);
        assert_eq!(world.exchanges.open(), 0);
        world.pass(600_000);
        assert_eq!(world.said(), []);
    };
    given_up(|world, mid| {
        let [high, low] = mid.to_be_bytes();
        world.receive(&[RST, 0, high, low]);
    });
    // Sent five times, then a last wait: 2 + 4 + 8 + 16 + 32 s.
    given_up(|world, _| {
        for wait in [2, 4, 8, 16] {
            world.pass(wait * 1000);
            assert_eq!(world.said_one().kind, CON);
        }
        world.pass(31_999);
        assert_eq!(world.exchanges.open(), 1);
        world.pass(1);
    });
}

#[test]
fn the_first_wait_is_random_within_its_factor() {
    let mut world = world(|config| config.ack_random_factor = 1.5);
    let waits: Vec<Duration> = (0..50)
        .map(|mid| {
            let ticket = world.take(&post(CON, mid));
            world.pass(500);
            world.answer(ticket, &delivered());
            let due = world.exchanges.next_timeout().unwrap();
            let said = world.said();
            let [high, low] = said[1].mid.to_be_bytes();
            world.receive(&[ACK, 0, high, low]);
            while world.exchanges.deadlines.pop_due(due).is_some() {}
            due - world.now
        })
        .collect();
    let in_range = |wait: &Duration| (2000..=3000).contains(&wait.as_millis());
    assert!(waits.iter().all(in_range), "{waits:?}");
    assert!(waits.iter().max() > waits.iter().min(), "{waits:?}");
}

#[test]
fn separate_responses_beyond_the_bound_are_sent_once() {
    let mut world = world(|config| config.separate_max = 1);
    let tickets = [1, 2].map(|mid| world.take(&post(CON, mid)));
    world.pass(500);
    world.said();
    for (ticket, kind) in tickets.into_iter().zip([CON, NON]) {
        world.answer(ticket, &delivered());
        let said = world.said_one();
        assert_eq!((said.kind, said.code), (kind, CHANGED));
    }
    assert_eq!(world.exchanges.open(), 1);
}

#[test]
fn a_repeated_diagnostic_is_bounded_in_sum() {
    let mut world = world(|_| {});
    let bytes = post(CON, 1);
    let ticket = world.take(&bytes);
    world.pass(500);
    world.out.clear();
    world.answer(ticket, &rejected(&"x".repeat(500)));
    for wait in [2, 4, 8, 16, 32] {
        world.pass(wait * 1000);
    }
    assert_eq!(world.out.len(), 5);
    let total: usize = world.out.iter().map(|outgoing| outgoing.message.len()).sum();
    assert!(total <= AMPLIFICATION_MAX * bytes.len(), "{total} for {}", bytes.len());
}

// === duplicates ===

#[test]
fn a_duplicate_is_answered_as_its_original_was() {
    let mut world = world(|_| {});
    let ticket = world.take(&post(CON, 1));
    // In flight, nothing said yet: the answer is coming.
    assert_eq!(world.receive(&post(CON, 1)), None);
    assert_eq!(world.said(), []);
    world.answer(ticket, &rejected("broken"));
    let answered = world.out[0].clone();
    world.out.clear();
    assert_eq!(world.receive(&post(CON, 1)), None);
    assert_eq!(world.out, [answered]);
    assert_eq!(world.ignored("duplicate"), 2);
}

#[test]
fn a_duplicate_of_what_is_answered_separately_is_acknowledged() {
    let mut world = world(|_| {});
    let ticket = world.take(&post(CON, 1));
    world.pass(500);
    let acknowledged = [sent(ACK, packet::EMPTY, 1, "")];
    assert_eq!(world.said(), acknowledged);
    assert_eq!(world.receive(&post(CON, 1)), None);
    assert_eq!(world.said(), acknowledged);
    world.answer(ticket, &delivered());
    assert_eq!(world.said_one().kind, CON);
    assert_eq!(world.receive(&post(CON, 1)), None);
    assert_eq!(world.said(), acknowledged);
}

#[test]
fn a_duplicate_that_is_not_confirmable_is_dropped() {
    let mut world = world(|_| {});
    let ticket = world.take(&post(NON, 1));
    assert_eq!(world.receive(&post(NON, 1)), None);
    world.answer(ticket, &delivered());
    world.said();
    assert_eq!(world.receive(&post(NON, 1)), None);
    assert_eq!(world.said(), []);
}

#[test]
fn a_new_reading_under_an_old_id_is_not_taken_for_a_duplicate() {
    let mut world = world(|_| {});
    let ticket = world.take(&post(CON, 1));
    world.answer(ticket, &delivered());
    world.said();
    let ticket = world.take(&request(CON, packet::POST, 1, &[], r#"{"vehicle_count":13}"#));
    assert_eq!(world.said(), [], "its 2.04 must wait for its own outcome");
    world.answer(ticket, &rejected("no"));
    assert_eq!(world.said(), [sent(ACK, BAD_REQUEST, 1, "no")]);
}

#[test]
fn peers_do_not_share_their_ids() {
    let mut world = world(|_| {});
    world.take(&post(CON, 1));
    assert!(world.receive_from(2, &post(CON, 1)).is_some());
}

#[test]
fn a_forgotten_duplicate_is_taken_in_again_and_nothing_breaks() {
    let mut world = world(|config| config.remembered_bytes_max = bytesize::ByteSize::b(1));
    let first = world.take(&post(CON, 1));
    world.receive_from(2, &post(CON, 1)).unwrap();
    assert_eq!(world.exchanges.peers().len(), 1);
    let again = world.take(&post(CON, 1));
    for ticket in [first, again] {
        world.answer(ticket, &delivered());
        assert_eq!(world.said(), [sent(ACK, CHANGED, 1, "")]);
    }
    world.pass(249_000);
    assert_eq!(world.exchanges.peers().len(), 0);
}

#[test]
fn a_stale_ticket_answers_nobody() {
    let mut world = world(|_| {});
    let stale = world.take(&post(CON, 1));
    world.answer(stale, &delivered());
    let ticket = world.take(&post(CON, 2));
    assert_eq!(slot(ticket), slot(stale));
    world.said();
    for ticket in [stale, 0, u64::MAX] {
        world.answer(ticket, &delivered());
    }
    assert_eq!(world.said(), []);
    assert_eq!(world.exchanges.owed(), 1);
    // Neither does an answer to what has been answered and now awaits its acknowledgement.
    world.pass(500);
    world.answer(ticket, &delivered());
    world.said();
    world.answer(ticket, &delivered());
    assert_eq!(world.said(), []);
}

#[test]
fn readings_with_one_id_stand_side_by_side() {
    let mut world = world(|_| {});
    let bodies = [1, 2, 3].map(|count| format!(r#"{{"vehicle_count":{count}}}"#));
    let mut records = 0;
    // Each is sent, then each is repeated.
    for body in bodies.iter().chain(&bodies) {
        if let Some(received) = world.receive(&request(CON, packet::POST, 1, &[], body)) {
            records += 1;
            world.answer(received.ticket.unwrap(), &rejected(body));
        }
        assert_eq!(world.said(), [sent(ACK, BAD_REQUEST, 1, body)], "the answer is its own");
    }
    assert_eq!(records, 3, "records for 3 readings");
}

/// An aggregator sends at a steady rate; three in ten of its acknowledgements are lost, and then it repeats the datagram
/// after `wait`. Gives how many were repeated, and how many of these became a second record.
fn second_records(world: &mut World, messages: u16, per_second: u32, wait: Duration) -> (u64, u64) {
    let start = world.now;
    let mut lost = std::collections::VecDeque::new();
    let (mut repeated, mut second) = (0, 0);
    for mid in 0..messages {
        world.now = start + Duration::from_secs(1) / per_second * u32::from(mid);
        while let Some((_, again)) = lost.pop_front_if(|(at, _)| *at <= world.now) {
            repeated += 1;
            second += u64::from(accept(world, &post(CON, again)));
        }
        assert!(accept(world, &post(CON, mid)), "{mid} is new");
        if mid % 10 < 3 {
            lost.push_back((world.now + wait, mid));
        }
    }
    (repeated, second)
}

/// Receives a datagram and has its reading accepted; whether there was one.
fn accept(world: &mut World, datagram: &[u8]) -> bool {
    let received = world.receive(datagram);
    if let Some(received) = &received {
        world.answer(received.ticket.unwrap(), &delivered());
    }
    assert_eq!(world.said_one().code, CHANGED);
    received.is_some()
}

#[test]
fn the_retransmissions_of_an_aggregator_are_known_as_such() {
    let check = |messages, per_second, seconds, expected| {
        let mut world = world(|_| {});
        let found = second_records(&mut world, messages, per_second, Duration::from_secs(seconds));
        assert_eq!(
            found, expected,
            "{messages} at {per_second}/s, repeated after {seconds} s"
        );
        assert_eq!(world.metrics.coap.coap_messages_forgotten_total.get(), 0);
    };
    check(400, 100, 2, (60, 0));
    check(6000, 100, 45, (450, 0));
    // As many as the message ids of one client allow (65,536 in 247 s).
    check(18_000, 265, 45, (1824, 0));
}

#[test]
fn what_is_forgotten_while_it_may_be_repeated_is_counted() {
    let mut world = world(|config| config.messages_per_peer = 100);
    let (repeated, second) = second_records(&mut world, 400, 100, Duration::from_secs(2));
    assert_eq!((repeated, second), (60, 60));
    assert_eq!(world.metrics.coap.coap_messages_forgotten_total.get(), 400 + 60 - 100);
}

/// 250,000 datagrams, each from an address of its own.
fn flood(world: &mut World, datagram: &[u8], answer: Option<&Answer>) {
    for number in 0..250_000u32 {
        let address = std::net::Ipv4Addr::from(0x0A00_0000 + number);
        let received = world.receive_at(SocketAddr::from((address, 5683)), datagram);
        if let Some((received, answer)) = received.zip(answer) {
            world.answer(received.ticket.unwrap(), answer);
        }
        world.out.clear();
    }
}

#[test]
fn spoofed_addresses_do_not_make_a_retransmission_a_second_record() {
    let spoofed = post(CON, 9);
    let empty = [CON, packet::GET, 0, 1, 0xC0];
    let check = |datagram: &[u8], answer: Option<Answer>, before: u16, remembered: usize| {
        // Room for a fifth of them, or a seventh with what each is told.
        let mut world = world(|config| config.remembered_bytes_max = bytesize::ByteSize::mib(8));
        for mid in 0..before {
            assert!(accept(&mut world, &post(CON, mid)));
        }
        assert!(accept(&mut world, &post(CON, 1000)));
        flood(&mut world, datagram, answer.as_ref());
        let again = accept(&mut world, &post(CON, 1000));
        assert!(!again, "{datagram:02x?} {answer:?} after {before} readings");
        let peers = world.exchanges.peers();
        assert!(peers.bytes() <= 8 << 20);
        assert!(
            (remembered..=2 * remembered).contains(&peers.messages()),
            "{}",
            peers.messages()
        );
    };
    check(&empty, None, 0, 1);
    check(&spoofed, Some(rejected("no")), 0, 35_000);
    // Accepted like the honest one's: then it counts that it had one accepted before.
    check(&spoofed, Some(delivered()), 1, 50_000);
}

#[test]
fn what_brings_no_reading_is_not_remembered() {
    let mut world = world(|_| {});
    let datagrams = [
        request(CON, packet::GET, 1, &[], ""),
        request(NON, packet::GET, 2, &[], ""),
        datagram(CON, packet::GET, 3, &[(11, b".well-known"), (11, b"core")], ""),
        request(CON, packet::POST, 4, &[(27, &[0x08])], ""),
        vec![CON, packet::POST, 0, 5, 0xFF],
        vec![CON, 0, 0, 6],
    ];
    for bytes in &datagrams {
        for _ in 0..2 {
            assert_eq!(world.receive(bytes), None);
            world.said_one();
        }
    }
    assert_eq!((world.exchanges.peers().len(), world.ignored("duplicate")), (0, 0));
    // Whatever its outcome, a reading is.
    let busy = Answer::One(Outcome::Busy(Busy::QueueFull));
    for (mid, answer) in [delivered(), rejected("no"), busy].into_iter().enumerate() {
        let bytes = request(CON, packet::PUT, 100 + mid as u16, &[], "{}");
        let ticket = world.take(&bytes);
        world.answer(ticket, &answer);
        let first = world.said_one();
        assert_eq!(world.receive(&bytes), None);
        assert_eq!(world.said_one(), first);
    }
    assert_eq!(world.exchanges.peers().messages(), 3);
}

#[test]
fn another_address_of_ours_is_another_exchange() {
    let mut world = world(|_| {});
    let ends = [0, 1].map(|local| Endpoints {
        local: super::super::endpoints::Local::configured(local),
        ..Endpoints::of(peer(1))
    });
    let tickets = ends.map(|ends| {
        let received = world
            .exchanges
            .on_datagram(world.now, ends, Cast::Unicast, &post(CON, 1), &mut world.out);
        received.unwrap().ticket.unwrap()
    });
    for (ticket, ends) in tickets.into_iter().zip(ends).rev() {
        world.answer(ticket, &delivered());
        assert_eq!(
            world.out.pop().unwrap().ends,
            ends,
            "answered from the address that was asked"
        );
    }
}

// === multicast and broadcast ===

impl World {
    fn receive_multicast(&mut self, datagram: &[u8]) {
        let ends = Endpoints::of(peer(1));
        let received = self
            .exchanges
            .on_datagram(self.now, ends, Cast::Multicast, datagram, &mut self.out);
        assert_eq!(received, None, "a reading that others have, too: {datagram:02x?}");
        assert_eq!(self.said(), [], "nothing is said at once: {datagram:02x?}");
    }
}

#[test]
fn what_was_sent_to_many_is_answered_only_by_who_has_something_to_say() {
    let path = [(11, &b".well-known"[..]), (11, b"core")];
    let discovery = |kind, more: &[(u16, &[u8])]| datagram(kind, packet::GET, 1, &[&path[..], more].concat(), "");
    let check = |bytes: &[u8], expected: Option<(u8, u8)>| {
        let mut world = world(|_| {});
        world.receive_multicast(bytes);
        assert_eq!((world.exchanges.owed(), world.exchanges.peers().len()), (0, 0));
        world.pass(5000);
        let said = world.said().first().map(|sent| (sent.kind, sent.code));
        assert_eq!(said, expected, "{bytes:02x?}");
        assert_eq!(
            world.ignored("multicast"),
            u64::from(expected.is_none()),
            "{bytes:02x?}"
        );
        assert_eq!(world.exchanges.open(), 0);
    };
    let traffic: &[(u16, &[u8])] = &[(15, b"rt=citygate.traffic")];
    check(&discovery(NON, traffic), Some((NON, packet::CONTENT)));
    check(&discovery(CON, traffic), None);
    // Nothing that matches; longer than an unproved address is told; not wanted.
    check(&discovery(NON, &[(15, b"rt=nothing")]), None);
    check(&discovery(NON, &[]), None);
    check(&discovery(NON, &[traffic[0], (258, &[2])]), None);
    // Readings, errors, pings, what cannot be processed, and what is meant for one of ours.
    for kind in [CON, NON] {
        check(&post(kind, 1), None);
        check(&request(kind, packet::PUT, 1, &[], "{}"), None);
        check(&request(kind, packet::GET, 1, &[], ""), None);
        check(&request(kind, packet::GET, 1, &[(27, &[8])], ""), None);
    }
    check(&[CON, 0, 0, 1], None);
    check(&[CON, packet::POST, 0, 1, 0xFF], None);
    check(&[CON, 0x45, 0, 1], None);
    check(&[ACK, 0, 0, 1], None);
    check(&[RST, 0, 0, 1], None);
}

#[test]
fn answers_to_many_are_spread_over_their_time_and_bounded() {
    let mut world = world(|_| {});
    let options: [(u16, &[u8]); 3] = [(11, b".well-known"), (11, b"core"), (15, b"rt=citygate.traffic")];
    for mid in 0..100 {
        world.receive_multicast(&datagram(NON, packet::GET, mid, &options, ""));
    }
    assert_eq!(
        (world.exchanges.open(), world.exchanges.owed()),
        (multicast::DELAYED_MAX, 0)
    );
    assert_eq!(world.ignored("multicast"), 100 - multicast::DELAYED_MAX as u64);
    let in_each_second = [1000; 5].map(|milliseconds| {
        world.pass(milliseconds);
        world.said().len()
    });
    assert_eq!(in_each_second.iter().sum::<usize>(), multicast::DELAYED_MAX);
    assert!(in_each_second.iter().all(|&count| count > 4), "{in_each_second:?}");
    // There is room again.
    world.receive_multicast(&datagram(NON, packet::GET, 1, &options, ""));
    assert_eq!(world.exchanges.open(), 1);
}

// === what is answered on the spot ===

#[test]
fn what_is_no_reading_is_answered_at_once() {
    let check = |kind, code, options: &[(u16, &[u8])], expected: (u8, u8)| {
        let mut world = world(|_| {});
        assert_eq!(world.receive(&request(kind, code, 9, options, "")), None);
        let said = world.said_one();
        assert_eq!((said.kind, said.code), expected, "{code} {options:?}");
        assert_eq!(world.exchanges.open(), 0);
    };
    check(CON, packet::GET, &[], (ACK, packet::METHOD_NOT_ALLOWED));
    check(NON, packet::GET, &[], (NON, packet::METHOD_NOT_ALLOWED));
    check(CON, 4, &[], (ACK, packet::METHOD_NOT_ALLOWED));
    check(CON, packet::POST, &[(27, &[0x08])], (ACK, packet::BAD_OPTION));
    check(NON, packet::POST, &[(27, &[0x08])], (RST, packet::EMPTY));
    check(CON, packet::POST, &[(9999, b"x")], (ACK, packet::BAD_OPTION));
    check(
        CON,
        packet::POST,
        &[(35, b"coap://x")],
        (ACK, packet::PROXYING_NOT_SUPPORTED),
    );
    check(
        NON,
        packet::POST,
        &[(35, b"coap://x")],
        (NON, packet::PROXYING_NOT_SUPPORTED),
    );
}

#[test]
fn what_cannot_be_processed_is_reset_or_ignored() {
    let check = |bytes: &[u8], expected: &[Sent], reason: &str| {
        let mut world = world(|_| {});
        assert_eq!(world.receive(bytes), None);
        assert_eq!(world.said(), expected, "{bytes:02x?}");
        assert_eq!(world.ignored(reason), 1, "{bytes:02x?}");
    };
    let reset = [sent(RST, packet::EMPTY, 0x0102, "")];
    check(&[0x40, 0, 1, 2], &reset, "ping");
    check(&[0x40, 2, 1, 2, 0xFF], &reset, "malformed");
    check(&[0x50, 2, 1, 2, 0xFF], &[], "malformed");
    check(&[0x40, 0x45, 1, 2], &reset, "response");
    check(&[0x50, 0x45, 1, 2], &[], "response");
    check(&[0x80, 2, 1, 2], &[], "not_coap");
    check(&[0x60, 0, 1, 2], &[], "acknowledgement");
    check(&[0x70, 0, 1, 2], &[], "reset");
    check(&[], &[], "not_coap");
    check(&[&[0x40, 2, 1, 2][..], &[0; 1148]].concat(), &reset, "malformed");
}

#[test]
fn responses_that_are_not_wanted_are_not_sent() {
    let check = |kind, mask: u8, answer: &Answer, expected: Option<(u8, u8)>| {
        let mut world = world(|_| {});
        let ticket = world.take(&request(kind, packet::POST, 1, &[(258, &[mask])], "{}"));
        world.answer(ticket, answer);
        let said = world.said().first().map(|sent| (sent.kind, sent.code));
        assert_eq!(said, expected, "{kind:x} {mask} {answer:?}");
        assert_eq!(world.exchanges.open(), 0);
    };
    let busy = Answer::One(Outcome::Busy(Busy::QueueFull));
    check(NON, 0, &delivered(), Some((NON, CHANGED)));
    check(NON, 2, &delivered(), None);
    check(NON, 2, &rejected("no"), Some((NON, BAD_REQUEST)));
    check(NON, 8, &rejected("no"), None);
    check(NON, 10, &busy, Some((NON, packet::code(5, 3))));
    check(NON, 26, &busy, None);
    // A confirmable one is acknowledged all the same, but with nothing on it.
    check(CON, 26, &delivered(), Some((ACK, packet::EMPTY)));
    check(CON, 2, &rejected("no"), Some((ACK, BAD_REQUEST)));
}

#[test]
fn the_list_of_streams_is_for_addresses_that_receive() {
    let mut world = world(|_| {});
    let path = [(11, &b".well-known"[..]), (11, b"core")];
    let ask = |mid, more: &[(u16, &[u8])]| datagram(CON, packet::GET, mid, &[&path[..], more].concat(), "");
    world.receive(&ask(1, &[]));
    assert!(world.out[0].message.len() <= AMPLIFICATION_MAX * ask(1, &[]).len());
    let challenge = Packet::from_bytes(&world.out[0].message).unwrap();
    let echo = options::echo(&challenge).expect("an Echo option");
    let said = world.said_one();
    assert_eq!((said.code, &*said.payload), (packet::UNAUTHORIZED, PROOF_NEEDED));
    world.receive(&ask(2, &[(252, &echo)]));
    let list = world.said_one();
    assert_eq!(list.code, packet::CONTENT);
    assert_eq!(list.payload.matches("</devices/{device}/").count(), 2);
    // Another address cannot use it.
    world.receive_from(2, &ask(3, &[(252, &echo)]));
    assert_eq!(world.said_one().code, packet::UNAUTHORIZED);
    // This machine's own processes can.
    let own = SocketAddr::from(([127, 0, 0, 1], 3));
    world.receive_at(own, &ask(5, &[]));
    assert_eq!(world.said_one().code, packet::CONTENT);
    // What is short needs no proof.
    world.receive(&ask(4, &[(15, b"rt=nothing")]));
    assert_eq!(world.said_one(), sent(ACK, packet::CONTENT, 4, ""));
}

// === anything at all ===

/// Mutates datagrams as a network, a bad device or an attacker would.
fn mutate(random: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.random()),
            2 => bytes.extend((0..random.random_range(0..300)).map(|_| 0)),
            3 => bytes.extend_from_within(at.min(bytes.len() / 2)..),
            _ if at < bytes.len() => bytes[at] = random.random(),
            _ => {}
        }
    }
}

#[test]
fn whatever_arrives_reactions_are_lawful_and_memory_is_bounded() {
    const SEED: u64 = 0xC0A9;
    println!("seed {SEED:#x}");
    let mut random = StdRng::seed_from_u64(SEED);
    let mut world = world(|config| {
        (config.exchanges_max, config.separate_max) = (50, 20);
        config.remembered_bytes_max = bytesize::ByteSize::kib(16);
    });
    let proxy: &[(u16, &[u8])] = &[(35, b"coap://x")];
    let seeds = [
        post(CON, 1),
        post(NON, 2),
        request(CON, packet::PUT, 3, &[(12, &[50]), (15, b"a=b"), (258, &[26])], "[]"),
        request(CON, packet::POST, 4, &[(27, &[0x0E]), (60, &[9, 9])], "x"),
        request(NON, packet::POST, 5, proxy, ""),
        datagram(
            CON,
            packet::GET,
            6,
            &[(11, b".well-known"), (11, b"core"), (15, b"rt=*")],
            "",
        ),
        vec![CON, 0, 0, 7],
        vec![ACK, 0, 0, 8],
        vec![RST, 0, 0, 9],
    ];
    let mut waiting: Vec<u64> = Vec::new();
    for _ in 0..200_000 {
        let mut bytes = seeds[random.random_range(0..seeds.len())].clone();
        mutate(&mut random, &mut bytes);
        if let Some(mid) = bytes.get_mut(2..4) {
            mid.copy_from_slice(&random.random_range(0..500u16).to_be_bytes());
        }
        let port = random.random_range(1..200);
        let received = world.receive_from(port, &bytes);
        reactions_are_lawful(&mut world, port, &bytes);
        waiting.extend(received.and_then(|received| received.ticket));
        if random.random_ratio(1, 2) && !waiting.is_empty() {
            let ticket = waiting.swap_remove(random.random_range(0..waiting.len()));
            let answer = match random.random_range(0..3) {
                0 => rejected("detail of some length, to be cut where there is no room"),
                1 => Answer::One(Outcome::Busy(Busy::KafkaUnavailable)),
                _ => delivered(),
            };
            world.answer(ticket, &answer);
        }
        world.pass(random.random_range(0..100));
        world.out.clear();
        assert!(world.exchanges.owed() <= 50 && world.exchanges.open() <= 70);
        assert!(world.exchanges.peers().bytes() <= 16 * 1024);
        assert!(world.exchanges.deadlines.len() <= 1024);
    }
    for ticket in waiting {
        world.answer(ticket, &delivered());
    }
    world.pass(600_000);
    world.pass(600_000);
    assert!(world.now - world.start > Duration::from_secs(1200));
    // Each expiry of a separate response schedules the next, so a few more minutes end the last of them.
    for _ in 0..8 {
        world.pass(100_000);
    }
    assert_eq!((world.exchanges.open(), world.exchanges.peers().len()), (0, 0));
    assert_eq!(world.exchanges.separate.len(), 0);
}

/// At most one reply, to the sender, of a form that its datagram allows and not much longer.
fn reactions_are_lawful(world: &mut World, port: u16, bytes: &[u8]) {
    assert!(world.out.len() <= 1, "{bytes:02x?}");
    let Some(Outgoing { ends, message }) = world.out.pop() else {
        return;
    };
    assert_eq!(ends, Endpoints::of(peer(port)));
    assert_eq!(bytes[0] >> 6, 1, "another version is not answered: {bytes:02x?}");
    let (asked, kind, code) = (bytes[0] & 0x30, message[0] & 0xF0, message[1]);
    assert!(
        asked <= 0x10,
        "an acknowledgement or a Reset is not answered: {bytes:02x?}"
    );
    assert!(
        message.len() <= AMPLIFICATION_MAX * bytes.len(),
        "{bytes:02x?} gets {message:02x?}"
    );
    let same_mid = message[2..4] == bytes[2..4];
    match kind {
        ACK => assert!(asked == 0 && same_mid),
        RST => assert!(code == packet::EMPTY && same_mid),
        NON => assert!(asked == 0x10),
        _ => panic!("{bytes:02x?} gets {message:02x?}"),
    }
    let head_is_repeated = kind == RST || code == packet::EMPTY || {
        let token_bytes = usize::from(bytes[0] & 0x0F);
        message[0] & 0x0F == bytes[0] & 0x0F && message[4..4 + token_bytes] == bytes[4..4 + token_bytes]
    };
    assert!(head_is_repeated, "{bytes:02x?} gets {message:02x?}");
    Packet::from_bytes(&message).expect("well-formed");
}
