//! What was answered to requests with an `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header), so that a
//! repetition is answered again and its readings are not passed on again.
//!
//! A key belongs to its path: there is no authentication yet, so whoever knows both is taken for the same device. A key
//! is *in flight* from its first request until its answer, also when the client has gone. Readings that are safe or
//! rejected are then remembered; busy ones are not, so that a repetition passes on those alone. (One that was busy because
//! Kafka did not confirm it in time may have been written all the same: repeated, it can be there twice.)
//!
//! Bounded in number, bytes and time: the keys that were answered longest ago are forgotten first, and one in flight
//! never is (without room for another the request is refused). Nothing is kept over a restart of the gateway: after it,
//! a repetition is a new request.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName};

use crate::message::Inbound;
use crate::operate::metrics::HttpMetrics;
use crate::outcome::Outcome;
use crate::receipt::Answer;

/// The request header.
pub const HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// What a key takes beside the outcomes: its places in the map (half full at worst) and in the order of expiry.
const ENTRY_BYTES: usize = 256;

/// How much is remembered, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub keys_max: usize,
    pub bytes_max: usize,
    pub lifetime: Duration,
}

/// What a request with a key is.
#[derive(Debug)]
pub enum Seen {
    /// The first one: what becomes of it is told to the place.
    New(Place),
    /// A repetition of one of which some readings were answered busy: only they are passed on.
    Unfinished(Place),
    /// A repetition of one that was answered for good.
    Answered(Arc<Answer>),
    /// The first one is not answered yet.
    InFlight,
    /// The key was used for another body or content type.
    Reused,
    /// As many keys are in flight as may be remembered.
    Full,
}

/// The keys of a gateway.
#[derive(Debug)]
pub struct Keys {
    limits: Limits,
    // Keyed at random, so that nobody can aim for a collision; 128 bits, so that none happens by chance.
    hashers: [RandomState; 2],
    metrics: HttpMetrics,
    inner: Mutex<Inner>,
}

/// The duty to say what became of the request under a key. Dropped without it, the key is as it was before.
#[derive(Debug)]
pub struct Place {
    keys: Arc<Keys>,
    scope: Digest,
    // What a repetition found: an answer with some readings busy.
    before: Option<Arc<Answer>>,
    settled: bool,
}

type Digest = [u64; 2];

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Digest, Entry>,
    // Every answered key, by when it expires; the number tells those of one instant apart.
    expiry: BTreeMap<(Instant, u64), Digest>,
    next_number: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    content: Digest,
    state: State,
}

#[derive(Debug)]
enum State {
    InFlight,
    Answered {
        answer: Arc<Answer>,
        bytes: usize,
        expires: (Instant, u64),
    },
}

/// The key of a request, if it has one.
///
/// # Errors
/// The header is there twice, or is not 1 to 255 visible ASCII characters, bare or as a string of RFC 9651 §3.3.3
/// (the draft's form); in words for the device.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, String> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err("Idempotency-Key: one is expected, several came".to_owned());
    }
    let key = unquoted(value.as_bytes()).filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()));
    key.map(Some).ok_or_else(|| {
        format!("Idempotency-Key: 1 to {KEY_BYTES_MAX} visible ASCII characters are expected, bare or in double quotes")
    })
}

/// `"a\"b"` → `a"b`; a bare value stays as it is, but may hold nothing that would end it in a structured field.
fn unquoted(value: &[u8]) -> Option<String> {
    let Some(quoted) = value.strip_prefix(b"\"") else {
        let good = value
            .iter()
            .all(|byte| byte.is_ascii_graphic() && !b"\",;\\".contains(byte));
        return good.then(|| value.iter().copied().map(char::from).collect());
    };
    let mut key = String::new();
    let mut bytes = quoted.strip_suffix(b"\"")?.iter();
    while let Some(&byte) = bytes.next() {
        let plain = match byte {
            b'"' => return None,
            b'\\' => *bytes.next().filter(|escaped| b"\"\\".contains(escaped))?,
            byte => byte,
        };
        key.push(plain.is_ascii_graphic().then(|| char::from(plain))?);
    }
    Some(key)
}

// === impl Keys ===

impl Keys {
    pub fn new(limits: Limits, metrics: HttpMetrics) -> Arc<Self> {
        Arc::new(Keys {
            limits,
            hashers: [RandomState::new(), RandomState::new()],
            metrics,
            inner: Mutex::default(),
        })
    }

    /// Judges a request with `key`, and puts it in flight if its readings are to be passed on.
    pub fn enter(self: &Arc<Self>, key: &str, inbound: &Inbound<'_>, now: Instant) -> Seen {
        let scope = self.digest(inbound.path, key.as_bytes());
        let content = self.digest(inbound.content_type, inbound.body);
        let seen = self.enter_digests(scope, content, now);
        let requests = &self.metrics.http_idempotent_requests_total;
        requests.with_label_values(&[seen.label()]).inc();
        seen
    }

    fn enter_digests(self: &Arc<Self>, scope: Digest, content: Digest, now: Instant) -> Seen {
        let mut inner = self.lock();
        inner.forget_expired(now);
        self.observe(&inner);
        let place = |before| Place {
            keys: self.clone(),
            scope,
            before,
            settled: false,
        };
        let before = match inner.entries.get(&scope) {
            None => None,
            Some(entry) if entry.content != content => return Seen::Reused,
            Some(Entry { state, .. }) => match state {
                State::InFlight => return Seen::InFlight,
                State::Answered { answer, .. } if is_final(answer) => return Seen::Answered(answer.clone()),
                State::Answered { answer, .. } => Some(answer.clone()),
            },
        };
        // A key that was there leaves room for itself.
        inner.remove(&scope);
        if !self.make_room(&mut inner, ENTRY_BYTES) {
            return Seen::Full;
        }
        inner.put_in_flight(scope, content);
        self.observe(&inner);
        before.map_or_else(
            || Seen::New(place(None)),
            |answer| Seen::Unfinished(place(Some(answer))),
        )
    }

    /// Forgets what was answered longest ago until there is room for one more key of so many bytes; false if there is
    /// none even then.
    fn make_room(&self, inner: &mut Inner, bytes: usize) -> bool {
        let full =
            |inner: &Inner| inner.entries.len() >= self.limits.keys_max || inner.bytes + bytes > self.limits.bytes_max;
        while full(inner) {
            let Some((_, oldest)) = inner.expiry.first_key_value() else {
                return false;
            };
            let oldest = *oldest;
            inner.remove(&oldest);
            self.metrics.http_idempotency_keys_forgotten_total.inc();
        }
        true
    }

    /// Ends the flight of a key: with an answer worth remembering it stays, without it is forgotten.
    fn land(&self, scope: Digest, answer: Option<Arc<Answer>>, now: Instant) {
        let mut inner = self.lock();
        inner.forget_expired(now);
        let Some(entry) = inner.remove(&scope) else { return };
        if let Some(answer) = answer {
            let bytes = ENTRY_BYTES + heap_bytes(&answer);
            // One that would not fit into an empty memory does not empty it.
            if bytes <= self.limits.bytes_max && self.make_room(&mut inner, bytes) {
                inner.remember(scope, entry.content, answer, bytes, now + self.limits.lifetime);
            } else {
                self.metrics.http_idempotency_keys_forgotten_total.inc();
            }
        }
        self.observe(&inner);
    }

    fn observe(&self, inner: &Inner) {
        self.metrics.http_idempotency_keys.set(inner.entries.len() as i64);
    }

    fn digest(&self, text: &str, bytes: &[u8]) -> Digest {
        self.hashers.each_ref().map(|hasher| hasher.hash_one((text, bytes)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Inner {
    fn put_in_flight(&mut self, scope: Digest, content: Digest) {
        let state = State::InFlight;
        self.entries.insert(scope, Entry { content, state });
        self.bytes += ENTRY_BYTES;
    }

    fn remember(&mut self, scope: Digest, content: Digest, answer: Arc<Answer>, bytes: usize, expires: Instant) {
        let expires = (expires, self.next_number);
        self.next_number += 1;
        self.expiry.insert(expires, scope);
        let state = State::Answered { answer, bytes, expires };
        self.entries.insert(scope, Entry { content, state });
        self.bytes += bytes;
    }

    fn remove(&mut self, scope: &Digest) -> Option<Entry> {
        let entry = self.entries.remove(scope)?;
        match &entry.state {
            State::InFlight => self.bytes -= ENTRY_BYTES,
            State::Answered { bytes, expires, .. } => {
                self.bytes -= bytes;
                self.expiry.remove(expires);
            }
        }
        Some(entry)
    }

    fn forget_expired(&mut self, now: Instant) {
        while let Some((&(expires, _), &scope)) = self.expiry.first_key_value()
            && expires <= now
        {
            self.remove(&scope);
        }
    }
}

// === impl Place ===

impl Place {
    /// The outcomes of an earlier request under this key, some of them busy; empty if there was none.
    pub fn before(&self) -> &[Outcome] {
        match self.before.as_deref() {
            Some(Answer::Many(outcomes)) => outcomes,
            Some(Answer::One(_)) | None => &[],
        }
    }

    /// Tells what became of the request; what is busy all through is forgotten.
    pub fn settle(mut self, answer: &Arc<Answer>, now: Instant) {
        self.settled = true;
        let worth = outcomes(answer).iter().any(|outcome| !is_busy(outcome));
        self.keys.land(self.scope, worth.then(|| answer.clone()), now);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.settled {
            self.keys.land(self.scope, self.before.take(), Instant::now());
        }
    }
}

// === impl Seen ===

impl Seen {
    fn label(&self) -> &'static str {
        match self {
            Seen::New(_) => "new",
            Seen::Unfinished(_) => "unfinished",
            Seen::Answered(_) => "repeated",
            Seen::InFlight => "in_flight",
            Seen::Reused => "reused",
            Seen::Full => "full",
        }
    }
}

fn outcomes(answer: &Answer) -> &[Outcome] {
    match answer {
        Answer::One(outcome) => std::slice::from_ref(outcome),
        Answer::Many(outcomes) => outcomes,
    }
}

fn is_final(answer: &Answer) -> bool {
    !outcomes(answer).iter().any(is_busy)
}

fn is_busy(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Busy(_))
}

/// What an answer takes in memory, nearly.
fn heap_bytes(answer: &Answer) -> usize {
    let heap = |outcome: &Outcome| match outcome {
        Outcome::Rejected(rejection) => size_of_val(&**rejection) + rejection.detail.capacity(),
        Outcome::Delivered | Outcome::Spooled | Outcome::Busy(_) => 0,
    };
    let outcomes = outcomes(answer);
    size_of_val(outcomes) + outcomes.iter().map(heap).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::message::{Origin, Policy, Protocol};
    use crate::operate::metrics::Metrics;
    use crate::outcome::{Busy, Reason, Rejection};

    const LIFETIME: Duration = Duration::from_secs(60);

    fn keys(keys_max: usize, bytes_max: usize) -> Arc<Keys> {
        let limits = Limits {
            keys_max,
            bytes_max,
            lifetime: LIFETIME,
        };
        Keys::new(limits, Metrics::new().http)
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

    fn place(seen: Seen) -> Place {
        match seen {
            Seen::New(place) | Seen::Unfinished(place) => place,
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
        assert!(key(&headers).unwrap_err().contains("several"));
    }

    #[test]
    fn a_repetition_is_answered_again_and_not_passed_on() {
        let (keys, now) = (keys(10, 10_000), Instant::now());
        for (path, outcome) in [("a", Outcome::Delivered), ("b", Outcome::Spooled), ("c", rejected())] {
            let first = place(enter(&keys, path, "k", "{}", now));
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
            place(enter(&keys, "a", "k", "{}", now)).settle(&answer, now);
            assert!(held(&keys) == (0, 0));
        }
        drop(place(enter(&keys, "a", "k", "{}", now)));
        assert!(matches!(enter(&keys, "a", "k", "another body", now), Seen::New(_)));
        assert_eq!(held(&keys), (0, 0));
    }

    #[test]
    fn of_a_batch_only_the_busy_readings_are_left() {
        let (keys, now) = (keys(10, 10_000), Instant::now());
        let half = vec![Outcome::Delivered, Outcome::Busy(Busy::QueueFull), rejected()];
        let first = place(enter(&keys, "a", "k", "[]", now));
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
        place(enter(&keys, "a", "k", "[]", now)).settle(&whole, now);
        assert!(matches!(enter(&keys, "a", "k", "[]", now), Seen::Answered(answer) if answer == whole));
    }

    #[test]
    fn a_key_is_forgotten_when_its_lifetime_is_over() {
        let (keys, now) = (keys(10, 10_000), Instant::now());
        let open = place(enter(&keys, "a", "in flight", "", now));
        place(enter(&keys, "a", "k", "", now)).settle(&one(Outcome::Delivered), now);
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
        let open = place(enter(&keys, "a", "open", "", now));
        for key in ["1", "2", "3"] {
            place(enter(&keys, "a", key, "", now)).settle(&one(Outcome::Delivered), now);
        }
        assert_eq!(keys.metrics.http_idempotency_keys_forgotten_total.get(), 1);
        assert!(matches!(enter(&keys, "a", "2", "", now), Seen::Answered(_)));
        assert!(matches!(enter(&keys, "a", "3", "", now), Seen::Answered(_)));
        let more = [
            place(enter(&keys, "a", "4", "", now)),
            place(enter(&keys, "a", "5", "", now)),
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
            place(enter(&keys, "a", &number.to_string(), "", now)).settle(&batch(number % 20), now);
            assert!(held(&keys).1 <= BYTES_MAX);
        }
        assert!(held(&keys).0 > 2, "several fit");
        let before = held(&keys).0;
        place(enter(&keys, "a", "huge", "", now)).settle(&batch(10_000), now);
        assert!(
            matches!(enter(&keys, "a", "huge", "", now), Seen::New(_)),
            "larger than all of it"
        );
        assert!(held(&keys).0 + 1 >= before, "and did not drive out the others");
        keys.lock().forget_expired(now + LIFETIME);
        assert_eq!(held(&keys), (0, 0), "nothing leaks");
    }
}
