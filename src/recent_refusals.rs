//! Who was refused lately, and why: for the person who connects a device and looks at `/status`.
//!
//! MQTT 3.1.1 has no word for no, and many devices show nobody what they are told. Per sender and reason the number of refusals since
//! they are remembered, and the last of them. Of devices that are known at most [`REFUSALS_MAX`] are remembered, and as many of other
//! senders, who may call themselves anything; of the address prefix that has most of them the oldest is forgotten first, so that
//! nobody pushes out what another network was told. No body and no credential is in it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::message::Protocol;
use crate::operate::networks::Prefix;
use crate::outcome::beginning;

/// Refusals that are remembered of devices that are known, and of others.
pub const REFUSALS_MAX: usize = 100;

/// Of a reason's words so many bytes are kept.
const DETAIL_BYTES_MAX: usize = 256;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct RecentRefusals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: Refusals,
    others: Refusals,
    noted: u64,
}

/// By sender and reason.
#[derive(Debug, Default)]
struct Refusals(HashMap<(String, &'static str), Refused>);

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
    /// Notes a refusal of a sender: the device that it has proved to be or says it is, or as its address says where nobody must prove
    /// anything; empty: a stranger. `is_known`: there is such a device.
    pub fn note(&self, sender: &str, is_known: bool, refusal: Refusal<'_>) {
        let mut state = self.lock();
        state.noted += 1;
        let order = state.noted;
        let refusals = if is_known { &mut state.known } else { &mut state.others };
        refusals.note(sender, &refusal, order);
    }

    /// All that are remembered, the last one first.
    pub fn list(&self) -> Vec<(String, Refused)> {
        let state = self.lock();
        let all = state.known.0.iter().chain(&state.others.0);
        let mut all: Vec<_> = all
            .map(|((sender, _), refused)| (sender.clone(), refused.clone()))
            .collect();
        all.sort_by_key(|(_, refused)| Reverse(refused.order));
        all
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Refusals ===

impl Refusals {
    fn note(&mut self, sender: &str, refusal: &Refusal<'_>, order: u64) {
        let key = (sender.to_owned(), refusal.reason);
        if let Some(refused) = self.0.get_mut(&key) {
            return refused.note(refusal, order);
        }
        if self.0.len() >= REFUSALS_MAX {
            self.forget_one();
        }
        self.0.insert(key, Refused::new(refusal, order));
    }

    fn forget_one(&mut self) {
        let mut by_prefix: HashMap<Prefix, usize> = HashMap::new();
        for refused in self.0.values() {
            *by_prefix.entry(refused.prefix()).or_default() += 1;
        }
        let of_its_prefix = |refused: &Refused| by_prefix.get(&refused.prefix()).copied();
        let gives_way = |(_, refused): &(&_, &Refused)| (of_its_prefix(refused), Reverse(refused.order));
        if let Some(key) = self.0.iter().max_by_key(gives_way).map(|(key, _)| key.clone()) {
            self.0.remove(&key);
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

    /// Whoever has one address of an IPv6 network has many.
    fn prefix(&self) -> Prefix {
        Prefix::of(self.peer.ip(), 32, 64)
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
    fn the_last_refusal_of_each_sender_and_reason_is_known_and_how_many_there_were() {
        let refusals = RecentRefusals::default();
        let wrong = Refusal {
            reason: "bad_credential",
            ..refusal("unknown device", 0)
        };
        refusals.note("loop-7", true, wrong);
        refusals.note(
            "loop-7",
            false,
            refusal("lanes[0].speed_kmh: 999 is above the maximum 300", 1),
        );
        refusals.note("mast", false, refusal("no JSON", 2));
        refusals.note("loop-7", false, refusal(&"é".repeat(1000), 3));
        let list = refusals.list();
        let of = |at: usize| (&*list[at].0, list[at].1.reason, list[at].1.times, list[at].1.at_ms);
        assert_eq!(list.len(), 3);
        assert_eq!(of(0), ("loop-7", "out_of_range", 2, 3));
        assert_eq!(of(1), ("mast", "out_of_range", 1, 2));
        assert_eq!(of(2), ("loop-7", "bad_credential", 1, 0));
        assert_eq!(list[0].1.detail, "é".repeat(DETAIL_BYTES_MAX / 2));
    }

    #[test]
    fn who_was_refused_longest_ago_is_forgotten_first() {
        let refusals = RecentRefusals::default();
        for number in 0..3 * REFUSALS_MAX {
            refusals.note(&number.to_string(), false, refusal("", 0));
            refusals.note("always", false, refusal("", 0));
        }
        let list = refusals.list();
        assert_eq!(list.len(), REFUSALS_MAX);
        assert_eq!((&*list[0].0, list[0].1.times), ("always", 3 * REFUSALS_MAX as u64));
        assert_eq!(list[1].0, (3 * REFUSALS_MAX - 1).to_string());
    }

    #[test]
    fn who_invents_senders_pushes_out_neither_known_ones_nor_those_of_other_networks() {
        let refusals = RecentRefusals::default();
        refusals.note("loop-7", true, refusal("", 0));
        let calm = Refusal {
            peer: ([192, 0, 2, 8], 1).into(),
            ..refusal("", 0)
        };
        refusals.note("calm", false, calm);
        for number in 0..3 * REFUSALS_MAX {
            refusals.note(&format!("invented-{number}"), false, refusal("", 0));
        }
        let list = refusals.list();
        let has = |sender: &str| list.iter().any(|(name, _)| name == sender);
        assert_eq!(list.len(), 1 + REFUSALS_MAX);
        assert!(has("loop-7") && has("calm") && has("invented-299") && !has("invented-0"));
    }
}
