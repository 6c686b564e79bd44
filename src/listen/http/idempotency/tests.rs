//! `Idempotency-Key`: the header's syntax, what is remembered under a key, and for how long. Accepted and rejected
//! readings are answered again, busy ones are passed on again; memory is bounded by keys and by bytes. HTTP itself is
//! left to the integration tests.

use axum::http::HeaderValue;

use super::*;
use crate::listen::Metrics;
use crate::message::{Origin, Policy, Protocol};
use crate::outcome::{Busy, Reason, Rejection};

const LIFETIME: Duration = Duration::from_secs(60);

fn keys(keys_max: usize, bytes_max: usize) -> Arc<Keys> {
    let limits = Limits {
        keys_max,
        bytes_max,
        lifetime: LIFETIME,
    };
    Keys::new(limits, Metrics::default().http)
}

fn enter(keys: &Arc<Keys>, path: &str, key: &str, body: &str, now: Instant) -> Seen {
    let inbound = Inbound {
        origin: Origin::anonymous(Protocol::Http, "http", ([127, 0, 0, 1], 1).into()),
        path,
        body: body.as_bytes(),
        content_type: "",
        policy: Policy::default(),
    };
    keys.enter(key, &inbound, now)
}

fn claim(seen: Seen) -> Claim {
    match seen {
        Seen::New(claim) | Seen::Unfinished(claim) => claim,
        other => panic!("nothing to pass on: {other:?}"),
    }
}

/// Keys, and bytes of them.
fn held(keys: &Keys) -> (usize, usize) {
    let inner = keys.lock();
    (inner.entries.len(), inner.bytes)
}

fn one(outcome: Outcome) -> Arc<Answer> {
    Arc::new(Answer::One(outcome))
}

fn rejected() -> Outcome {
    Rejection::new(Reason::Malformed, "not JSON").into()
}

#[test]
fn keys_are_read_bare_or_quoted() {
    let check = |value: &[u8], expected: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(value).unwrap());
        let found = key(&headers).ok().flatten();
        assert_eq!(found.as_deref(), expected, "{}", value.escape_ascii());
    };
    check(
        b"8e03978e-40d5-43dd-bc93-6894a57f9324",
        Some("8e03978e-40d5-43dd-bc93-6894a57f9324"),
    );
    check(b"\"8e03978e\"", Some("8e03978e"));
    check(b"loop:17/4+a==", Some("loop:17/4+a=="));
    check(br#""a\"b\\c;,""#, Some(r#"a"b\c;,"#));
    check(&[b'k'; 255], Some(&"k".repeat(255)));
    check(&[b'k'; 256], None);
    for bad in [
        &b""[..],
        b"\"\"",
        b"\"",
        b"\"a",
        b"a\"",
        b"\"a\"b\"",
        b"\"a\";p=1",
        br#""a\n""#,
        br#""a\""#,
        b"a b",
        b"\"a b\"",
        b"a,b",
        b"a;b",
        b"caf\xc3\xa9",
        b"\"\xff\"",
        b"a\tb",
    ] {
        check(bad, None);
    }
    let mut headers = HeaderMap::new();
    assert_eq!(key(&headers), Ok(None));
    headers.append(HEADER, HeaderValue::from_static("a"));
    headers.append(HEADER, HeaderValue::from_static("a"));
    assert_eq!(key(&headers), Err(KeyError::Several));
}

#[test]
fn a_repetition_is_answered_again_and_not_passed_on() {
    let (keys, now) = (keys(10, 10_000), Instant::now());
    for (path, outcome) in [("a", Outcome::Delivered), ("b", Outcome::Spooled), ("c", rejected())] {
        let first = claim(enter(&keys, path, "k", "{}", now));
        assert!(matches!(enter(&keys, path, "k", "{}", now), Seen::InFlight));
        assert!(matches!(enter(&keys, path, "k", "{} ", now), Seen::Reused));
        first.settle(&one(outcome.clone()), now);
        let Seen::Answered(answer) = enter(&keys, path, "k", "{}", now) else {
            panic!("{outcome:?} is remembered")
        };
        assert_eq!(*answer, Answer::One(outcome));
        assert!(matches!(enter(&keys, path, "k", "{} ", now), Seen::Reused));
        assert!(matches!(enter(&keys, path, "other", "{}", now), Seen::New(_)));
    }
}

#[test]
fn a_busy_outcome_is_forgotten_and_so_is_a_place_that_is_dropped() {
    let (keys, now) = (keys(10, 10_000), Instant::now());
    let busy = || Outcome::Busy(Busy::KafkaUnavailable);
    let batch = Arc::new(Answer::Many(vec![busy(), busy()]));
    for answer in [one(busy()), batch] {
        claim(enter(&keys, "a", "k", "{}", now)).settle(&answer, now);
        assert!(held(&keys) == (0, 0));
    }
    drop(claim(enter(&keys, "a", "k", "{}", now)));
    assert!(matches!(enter(&keys, "a", "k", "another body", now), Seen::New(_)));
    assert_eq!(held(&keys), (0, 0));
}

#[test]
fn of_a_batch_only_the_busy_readings_are_left() {
    let (keys, now) = (keys(10, 10_000), Instant::now());
    let half = vec![Outcome::Delivered, Outcome::Busy(Busy::QueueFull), rejected()];
    let first = claim(enter(&keys, "a", "k", "[]", now));
    assert_eq!(first.before(), []);
    first.settle(&Arc::new(Answer::Many(half.clone())), now);
    // A second attempt that comes to nothing leaves what the first one had.
    for _ in 0..2 {
        let Seen::Unfinished(second) = enter(&keys, "a", "k", "[]", now) else {
            panic!("one reading is left")
        };
        assert_eq!(second.before(), half);
        assert!(matches!(enter(&keys, "a", "k", "[]", now), Seen::InFlight));
    }
    let whole = Arc::new(Answer::Many(vec![Outcome::Delivered, Outcome::Delivered, rejected()]));
    claim(enter(&keys, "a", "k", "[]", now)).settle(&whole, now);
    assert!(matches!(enter(&keys, "a", "k", "[]", now), Seen::Answered(answer) if answer == whole));
}

#[test]
fn a_key_is_forgotten_when_its_lifetime_is_over() {
    let (keys, now) = (keys(10, 10_000), Instant::now());
    let open = claim(enter(&keys, "a", "in flight", "", now));
    claim(enter(&keys, "a", "k", "", now)).settle(&one(Outcome::Delivered), now);
    let nearly = now + LIFETIME - Duration::from_millis(1);
    assert!(matches!(enter(&keys, "a", "k", "", nearly), Seen::Answered(_)));
    assert!(matches!(enter(&keys, "a", "k", "", now + LIFETIME), Seen::New(_)));
    assert!(matches!(
        enter(&keys, "a", "in flight", "", now + LIFETIME),
        Seen::InFlight
    ));
    drop(open);
    assert_eq!(keys.metrics.http_idempotency_keys_forgotten_total.get(), 0);
}

#[test]
fn the_key_answered_longest_ago_makes_room_and_one_in_flight_never_does() {
    let (keys, now) = (keys(3, 10_000), Instant::now());
    let open = claim(enter(&keys, "a", "open", "", now));
    for key in ["1", "2", "3"] {
        claim(enter(&keys, "a", key, "", now)).settle(&one(Outcome::Delivered), now);
    }
    assert_eq!(keys.metrics.http_idempotency_keys_forgotten_total.get(), 1);
    assert!(matches!(enter(&keys, "a", "2", "", now), Seen::Answered(_)));
    assert!(matches!(enter(&keys, "a", "3", "", now), Seen::Answered(_)));
    let more = [
        claim(enter(&keys, "a", "4", "", now)),
        claim(enter(&keys, "a", "5", "", now)),
    ];
    assert!(matches!(enter(&keys, "a", "6", "", now), Seen::Full));
    assert_eq!(keys.metrics.http_idempotency_keys.get(), 3);
    drop(more);
    assert!(matches!(enter(&keys, "a", "open", "", now), Seen::InFlight));
    assert!(matches!(enter(&keys, "a", "6", "", now), Seen::New(_)));
    drop(open);
}

#[test]
fn what_is_remembered_is_bounded_in_bytes() {
    const BYTES_MAX: usize = 8 * 1024;
    let (keys, now) = (keys(1000, BYTES_MAX), Instant::now());
    let batch = |readings| Arc::new(Answer::Many(vec![rejected(); readings]));
    for number in 0..100 {
        claim(enter(&keys, "a", &number.to_string(), "", now)).settle(&batch(number % 20), now);
        assert!(held(&keys).1 <= BYTES_MAX);
    }
    assert!(held(&keys).0 > 2, "several fit");
    let before = held(&keys).0;
    claim(enter(&keys, "a", "huge", "", now)).settle(&batch(10_000), now);
    assert!(
        matches!(enter(&keys, "a", "huge", "", now), Seen::New(_)),
        "larger than all of it"
    );
    assert!(held(&keys).0 + 1 >= before, "and did not drive out the others");
    keys.lock().forget_expired(now + LIFETIME);
    assert_eq!(held(&keys), (0, 0), "nothing leaks");
}
