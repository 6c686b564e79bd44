//! Who was refused lately, and why: for the person who connects a device and looks at `/status`.
//!
//! MQTT 3.1.1 has no word for no, and many devices show nobody what they are told. Per sender the number of its refusals since
//! it is remembered, and the last of them. At most [`SENDERS_MAX`] are remembered; who was refused longest ago is forgotten first.
//! No body and no credential is in it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::message::Protocol;
use crate::outcome::beginning;

/// Senders that are remembered.
pub const SENDERS_MAX: usize = 100;

/// Of a reason's words so many bytes are kept.
const DETAIL_BYTES_MAX: usize = 256;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct RecentRefusals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    by_sender: HashMap<String, Refused>,
    noted: u64,
}

/// One refusal.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    pub protocol: Protocol,
    pub peer: SocketAddr,
    /// As metrics call it.
    pub reason: &'static str,
    pub detail: &'a str,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// What is remembered of a sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// How often it was refused since it is remembered.
    pub times: u64,
    pub protocol: Protocol,
    pub peer: SocketAddr,
    pub reason: &'static str,
    pub detail: String,
    pub at_ms: i64,
    order: u64,
}

// === impl RecentRefusals ===

impl RecentRefusals {
    /// Notes a refusal of a sender: the device that it has proved to be, or as its address says where nobody must; empty: a stranger.
    pub fn note(&self, sender: &str, refusal: Refusal<'_>) {
        let mut state = self.lock();
        state.noted += 1;
        let order = state.noted;
        if let Some(refused) = state.by_sender.get_mut(sender) {
            return refused.note(&refusal, order);
        }
        if state.by_sender.len() >= SENDERS_MAX {
            state.forget_one();
        }
        state.by_sender.insert(sender.to_owned(), Refused::new(&refusal, order));
    }

    /// All that are remembered, the last one first.
    pub fn list(&self) -> Vec<(String, Refused)> {
        let state = self.lock();
        let all = state.by_sender.iter();
        let mut all: Vec<_> = all.map(|(sender, refused)| (sender.clone(), refused.clone())).collect();
        all.sort_by_key(|(_, refused)| std::cmp::Reverse(refused.order));
        all
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn forget_one(&mut self) {
        let oldest = self.by_sender.iter().min_by_key(|(_, refused)| refused.order);
        if let Some(oldest) = oldest.map(|(sender, _)| sender.clone()) {
            self.by_sender.remove(&oldest);
        }
    }
}

// === impl Refused ===

impl Refused {
    fn new(refusal: &Refusal<'_>, order: u64) -> Self {
        let mut refused = Refused {
            times: 0,
            protocol: refusal.protocol,
            peer: refusal.peer,
            reason: refusal.reason,
            detail: String::new(),
            at_ms: refusal.at_ms,
            order,
        };
        refused.note(refusal, order);
        refused
    }

    fn note(&mut self, refusal: &Refusal<'_>, order: u64) {
        self.times += 1;
        self.protocol = refusal.protocol;
        self.peer = refusal.peer;
        self.reason = refusal.reason;
        self.at_ms = refusal.at_ms;
        self.order = order;
        self.detail.clear();
        self.detail.push_str(beginning(refusal.detail, DETAIL_BYTES_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(detail: &str, at_ms: i64) -> Refusal<'_> {
        Refusal {
            protocol: Protocol::Mqtt,
            peer: ([192, 0, 2, 7], 1).into(),
            reason: "out_of_range",
            detail,
            at_ms,
        }
    }

    #[test]
    fn the_last_refusal_of_each_sender_is_known_and_how_many_there_were() {
        let refusals = RecentRefusals::default();
        refusals.note("loop-7", refusal("lanes[0].speed_kmh: 999 is above the maximum 300", 1));
        refusals.note("mast", refusal("no JSON", 2));
        refusals.note("loop-7", refusal(&"é".repeat(1000), 3));
        let list = refusals.list();
        let of = |at: usize| (&*list[at].0, list[at].1.times, list[at].1.at_ms);
        assert_eq!((list.len(), of(0), of(1)), (2, ("loop-7", 2, 3), ("mast", 1, 2)));
        assert_eq!(list[0].1.detail, "é".repeat(DETAIL_BYTES_MAX / 2));
    }

    #[test]
    fn who_was_refused_longest_ago_is_forgotten_first() {
        let refusals = RecentRefusals::default();
        for number in 0..3 * SENDERS_MAX {
            refusals.note(&number.to_string(), refusal("", 0));
            refusals.note("always", refusal("", 0));
        }
        let list = refusals.list();
        assert_eq!(list.len(), SENDERS_MAX);
        assert_eq!((&*list[0].0, list[0].1.times), ("always", 3 * SENDERS_MAX as u64));
        assert_eq!(list[1].0, (3 * SENDERS_MAX - 1).to_string());
    }
}
