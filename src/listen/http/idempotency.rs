//! What was answered to requests with an `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header), so that a
//! repetition is answered again and its readings are not passed on again.
//!
//! A key belongs to its path and its sender; among anonymous senders whoever knows key and path counts as the same device. A
//! key is *in flight* from its first request until its answer, also when the client has gone. Readings that are safe or
//! rejected for what they are are then remembered; busy ones are not, so that a repetition passes on those alone. (One that was busy because
//! Kafka did not confirm it in time may have been written all the same: repeated, it can be in Kafka twice.)
//!
//! Bounded in number, bytes and time: of the identity that has most of them, the keys that were answered longest ago are forgotten
//! first, and one in flight never is (beyond the limit the request is refused). Nothing is kept over a restart of the gateway: after it,
//! a repetition is a new request.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName};

use crate::listen::http::metrics::HttpMetrics;
use crate::listen::shares::Shares;
use crate::message::{Identity, Inbound};
use crate::outcome::{Outcome, Reason};
use crate::receipt::Answer;

/// The request header.
pub const HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// What a key costs beside the outcomes: its entries in the map (half full at worst), in the order of expiry and in [`Shares`].
const ENTRY_BYTES: usize = 512;

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
    /// The first one: its answer is told to the claim.
    New(Claim),
    /// A repetition of one of which some readings were answered busy: only they are passed on.
    Unfinished(Claim),
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
    // Keyed at random, so that no client can aim for a collision; 128 bits, so that none happens by chance.
    hashers: [RandomState; 2],
    metrics: HttpMetrics,
    inner: Mutex<Inner>,
}

/// The duty to say how the request under a key was answered. Dropped without it, the key is as it was before.
#[derive(Debug)]
pub struct Claim {
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
    shares: Shares<(Instant, u64), Digest>,
    next_number: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    content: Digest,
    /// The device that has proved to be the sender; empty: nobody has.
    sender: Arc<str>,
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

/// The header holds no key; for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("Idempotency-Key: one is expected, several came")]
    Several,
    /// Bare, or as a string of RFC 9651 §3.3.3 (the draft's form).
    #[error("Idempotency-Key: 1 to {KEY_BYTES_MAX} visible ASCII characters are expected, bare or in double quotes")]
    Invalid,
}

/// The key of a request, if it has one.
///
/// # Errors
/// See [`KeyError`].
pub fn key(headers: &HeaderMap) -> Result<Option<String>, KeyError> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(KeyError::Several);
    }
    let key = unquoted(value.as_bytes()).filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()));
    key.map(Some).ok_or(KeyError::Invalid)
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
        let (scope, sender) = match inbound.origin.identity {
            Identity::Anonymous => (self.digest(inbound.path, key.as_bytes()), ""),
            // A header has no NUL.
            Identity::Device(sender) => {
                let key = format!("{key}\0{}", sender.id());
                (self.digest(inbound.path, key.as_bytes()), sender.id())
            }
        };
        let content = self.digest(inbound.content_type, inbound.body);
        let seen = self.enter_digests((scope, sender), content, now);
        let requests = &self.metrics.http_idempotent_requests_total;
        requests.with_label_values(&[seen.label()]).inc();
        seen
    }

    fn enter_digests(self: &Arc<Self>, (scope, sender): (Digest, &str), content: Digest, now: Instant) -> Seen {
        let mut inner = self.lock();
        inner.forget_expired(now);
        self.observe(&inner);
        let claim = |before| Claim {
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
        // A known key replaces itself.
        inner.remove(&scope);
        if !self.make_room(&mut inner, ENTRY_BYTES) {
            return Seen::Full;
        }
        inner.put_in_flight(scope, sender, content);
        self.observe(&inner);
        before.map_or_else(
            || Seen::New(claim(None)),
            |answer| Seen::Unfinished(claim(Some(answer))),
        )
    }

    /// Forgets what was answered longest ago, of the sender that has most, until one more key of so many bytes is within the limits;
    /// false if it is not even then.
    fn make_room(&self, inner: &mut Inner, bytes: usize) -> bool {
        let full =
            |inner: &Inner| inner.entries.len() >= self.limits.keys_max || inner.bytes + bytes > self.limits.bytes_max;
        while full(inner) {
            let Some(oldest) = inner.shares.pop() else {
                return false;
            };
            inner.remove(&oldest);
            self.metrics.http_idempotency_keys_forgotten_total.inc();
        }
        true
    }

    /// A key is no longer in flight: with an answer worth remembering it stays, without it is forgotten.
    fn finish(&self, scope: Digest, answer: Option<Arc<Answer>>, now: Instant) {
        let mut inner = self.lock();
        inner.forget_expired(now);
        let Some(entry) = inner.remove(&scope) else { return };
        if let Some(answer) = answer {
            let bytes = ENTRY_BYTES + heap_bytes(&answer);
            // One that would not fit into an empty memory does not empty it.
            if bytes <= self.limits.bytes_max && self.make_room(&mut inner, bytes) {
                inner.remember(scope, entry, answer, bytes, now + self.limits.lifetime);
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
    fn put_in_flight(&mut self, scope: Digest, sender: &str, content: Digest) {
        let entry = Entry {
            content,
            sender: sender.into(),
            state: State::InFlight,
        };
        self.entries.insert(scope, entry);
        self.bytes += ENTRY_BYTES;
    }

    fn remember(&mut self, scope: Digest, entry: Entry, answer: Arc<Answer>, bytes: usize, expires: Instant) {
        let expires = (expires, self.next_number);
        self.next_number += 1;
        self.expiry.insert(expires, scope);
        self.shares.insert(&entry.sender, expires, scope, bytes);
        let state = State::Answered { answer, bytes, expires };
        self.entries.insert(scope, Entry { state, ..entry });
        self.bytes += bytes;
    }

    fn remove(&mut self, scope: &Digest) -> Option<Entry> {
        let entry = self.entries.remove(scope)?;
        match &entry.state {
            State::InFlight => self.bytes -= ENTRY_BYTES,
            State::Answered { bytes, expires, .. } => {
                self.bytes -= bytes;
                self.expiry.remove(expires);
                self.shares.remove(&entry.sender, *expires);
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

// === impl Claim ===

impl Claim {
    /// The outcomes of an earlier request under this key, some of them busy; empty if there was none.
    pub fn before(&self) -> &[Outcome] {
        match self.before.as_deref() {
            Some(Answer::Many(outcomes)) => outcomes,
            Some(Answer::One(_)) | None => &[],
        }
    }

    /// Tells how the request was answered; what is busy all through is forgotten, and so is what its sender may not write: its identity
    /// may be mended.
    pub fn settle(mut self, answer: &Arc<Answer>, now: Instant) {
        self.settled = true;
        let worth = outcomes(answer)
            .iter()
            .any(|outcome| !is_busy(outcome) && !is_of_sender(outcome));
        let answer = worth.then(|| answer.clone()).or_else(|| self.before.take());
        self.keys.finish(self.scope, answer, now);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.settled {
            self.keys.finish(self.scope, self.before.take(), Instant::now());
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

/// Whether it was rejected for who sent it, rather than for what it is.
fn is_of_sender(outcome: &Outcome) -> bool {
    let of_sender = [Reason::Forbidden, Reason::Unauthenticated];
    matches!(outcome, Outcome::Rejected(rejection) if of_sender.contains(&rejection.reason))
}

/// Memory of an answer, nearly.
fn heap_bytes(answer: &Answer) -> usize {
    let heap = |outcome: &Outcome| match outcome {
        Outcome::Rejected(rejection) => size_of_val(&**rejection) + rejection.detail.capacity(),
        Outcome::Delivered | Outcome::Spooled | Outcome::Busy(_) => 0,
    };
    let outcomes = outcomes(answer);
    size_of_val(outcomes) + outcomes.iter().map(heap).sum::<usize>()
}

#[cfg(test)]
mod tests;
