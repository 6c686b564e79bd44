//! The incomplete messages of all connections: what each is charged, and the order in which those that wait are read.
//!
//! The waiting message whose peer has the fewest bytes goes first. So that messages that all wait for each other end, one
//! at a time is exempt from the limit, until it has gone or there is memory again. No clock and no lock of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::task::Waker;

use slab::Slab;
use strum::EnumCount;
use tokio::time::Instant;

use super::evicted::Evicted;

/// Bytes of a message that are not charged.
pub const FREE_BYTES: usize = 4 * 1024;

/// Bytes that are read of a message that exceeds the budget, to see whether there is more of it.
pub const SPARE_BYTES: usize = 1024;

/// All incomplete messages.
#[derive(Debug, Default)]
pub(super) struct Messages {
    pub(super) bytes_max: usize,
    pub(super) used: usize,
    // Bytes of messages that are evicted and not dropped yet; `used` contains them.
    pub(super) evicted_bytes: usize,
    pub(super) messages: Slab<Message>,
    pub(super) peers: HashMap<IpAddr, Peer>,
    pub(super) waiting: usize,
    // Peers with a message that waits, by their bytes: the smallest goes first.
    pub(super) waiting_peers: BTreeSet<(usize, IpAddr)>,
    // Numbers the messages in the order in which they began to wait.
    pub(super) last_ticket: u64,
    // The message that is read beyond the limit.
    pub(super) exempt: Option<usize>,
    // When it was first seen to keep others waiting.
    pub(super) exempt_since: Option<Instant>,
    // The waiting message whose timer checks whether others can be evicted, on behalf of all that wait.
    pub(super) checker: Option<usize>,
    pub(super) checked_at: Option<Instant>,
    // By reason; not counted yet.
    pub(super) evicted: [u64; Evicted::COUNT],
    pub(super) unlogged: [u64; Evicted::COUNT],
    pub(super) logged_at: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Peer {
    // Bytes of its messages; those of messages that are evicted no longer count.
    pub(super) bytes: usize,
    pub(super) messages: usize,
    // By ticket.
    pub(super) waiting: BTreeMap<u64, usize>,
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) peer: IpAddr,
    pub(super) bytes: usize,
    pub(super) progressed_at: Instant,
    pub(super) state: Phase,
    // The budget was used up when it was last read, so it was only probed for more data.
    pub(super) probed: bool,
    // The probe found some: the message must wait for memory.
    pub(super) has_more: bool,
    pub(super) waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is up to the peer to send.
    Reading,
    /// It is up to the budget; with its ticket.
    Waiting(u64),
    /// It is up to the gateway, for another reason.
    Paused,
    Evicted(Evicted),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Read(usize),
    Wait { checks: bool },
    Evicted(Evicted),
}

// === impl Messages ===

impl Messages {
    pub(super) fn insert(&mut self, address: IpAddr, bytes: usize, now: Instant) -> usize {
        self.used += bytes;
        self.change_peer(address, |peer| {
            peer.bytes += bytes;
            peer.messages += 1;
        });
        let id = self.messages.insert(Message {
            peer: address,
            bytes,
            progressed_at: now,
            state: Phase::Reading,
            probed: false,
            has_more: false,
            waker: None,
        });
        // Its peer has more now: another one may be next.
        self.wake_next();
        id
    }

    /// Changes a peer and its place among those that wait.
    pub(super) fn change_peer(&mut self, address: IpAddr, change: impl FnOnce(&mut Peer)) {
        let peer = self.peers.entry(address).or_default();
        if !peer.waiting.is_empty() {
            self.waiting_peers.remove(&(peer.bytes, address));
        }
        change(peer);
        if !peer.waiting.is_empty() {
            self.waiting_peers.insert((peer.bytes, address));
        }
        if peer.messages == 0 {
            self.peers.remove(&address);
        }
    }

    pub(super) fn arrived(&mut self, id: usize, bytes: usize, now: Instant) {
        let message = &mut self.messages[id];
        let before = std::mem::replace(&mut message.bytes, bytes);
        message.progressed_at = now;
        message.has_more |= message.probed;
        let (address, state) = (message.peer, message.state);
        self.used = self.used + bytes - before;
        if matches!(state, Phase::Evicted(_)) {
            self.evicted_bytes = self.evicted_bytes + bytes - before;
        } else {
            self.change_peer(address, |peer| peer.bytes = peer.bytes + bytes - before);
        }
        self.wake_next();
    }

    pub(super) fn turn(&mut self, id: usize, waker: &Waker, now: Instant) -> Turn {
        let message = &mut self.messages[id];
        if let Phase::Evicted(why) = message.state {
            return Turn::Evicted(why);
        }
        if !message.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            message.waker = Some(waker.clone());
        }
        if message.state == Phase::Paused {
            (message.state, message.progressed_at) = (Phase::Reading, now);
        }
        if self.may_read(id) {
            self.stop_waiting(id, now);
            let message = &mut self.messages[id];
            (message.probed, message.has_more) = (false, false);
            self.wake_next();
            return Turn::Read(usize::MAX);
        }
        let message = &mut self.messages[id];
        if !message.has_more {
            message.probed = true;
            return Turn::Read(SPARE_BYTES);
        }
        if message.state == Phase::Reading {
            self.last_ticket += 1;
            let ticket = self.last_ticket;
            message.state = Phase::Waiting(ticket);
            let address = message.peer;
            self.waiting += 1;
            self.change_peer(address, |peer| {
                peer.waiting.insert(ticket, id);
            });
            self.evict_while_short(now);
            self.wake_next();
            return self.turn(id, waker, now);
        }
        // Woken as the next, it may no longer be that: then the one that is must not sleep.
        self.wake_next();
        let checker = *self.checker.get_or_insert(id);
        Turn::Wait { checks: checker == id }
    }

    pub(super) fn may_read(&self, id: usize) -> bool {
        self.exempt == Some(id) || self.used < self.bytes_max && self.next().is_none_or(|next| next == id)
    }

    /// The first of the smallest peer that waits.
    pub(super) fn next(&self) -> Option<usize> {
        let (_, smallest) = self.waiting_peers.first()?;
        self.peers.get(smallest)?.waiting.values().next().copied()
    }

    /// Wakes whoever may read next: where there is memory, or beyond it if no other may.
    pub(super) fn wake_next(&mut self) {
        if self.used < self.bytes_max {
            (self.exempt, self.exempt_since) = (None, None);
        }
        let Some(next) = self.next() else { return };
        if self.used >= self.bytes_max {
            if self.exempt.is_some() {
                return;
            }
            self.exempt = Some(next);
        }
        self.wake(next);
    }

    pub(super) fn wake(&self, id: usize) {
        if let Some(waker) = &self.messages[id].waker {
            waker.wake_by_ref();
        }
    }

    pub(super) fn stop_waiting(&mut self, id: usize, now: Instant) {
        let message = &mut self.messages[id];
        let Phase::Waiting(ticket) = message.state else { return };
        (message.state, message.progressed_at) = (Phase::Reading, now);
        let address = message.peer;
        self.waiting -= 1;
        self.change_peer(address, |peer| {
            peer.waiting.remove(&ticket);
        });
        if self.checker == Some(id) {
            // Another one that waits checks from now on.
            self.checker = self.next();
            if let Some(checker) = self.checker {
                self.wake(checker);
            }
        }
    }

    pub(super) fn pause(&mut self, id: usize) {
        let state = self.messages[id].state;
        if matches!(state, Phase::Evicted(_)) {
            return;
        }
        self.stop_waiting(id, self.messages[id].progressed_at);
        if self.exempt == Some(id) {
            self.exempt_since = None;
        }
        // What it has read beyond the limit stays in memory, so it stays the one that may exceed it.
        self.messages[id].state = Phase::Paused;
        self.wake_next();
    }

    pub(super) fn remove(&mut self, id: usize) {
        self.stop_waiting(id, self.messages[id].progressed_at);
        let message = self.messages.remove(id);
        self.used -= message.bytes;
        let is_evicted = matches!(message.state, Phase::Evicted(_));
        if is_evicted {
            self.evicted_bytes -= message.bytes;
        }
        self.change_peer(message.peer, |peer| {
            peer.messages -= 1;
            peer.bytes -= if is_evicted { 0 } else { message.bytes };
        });
        if self.exempt == Some(id) {
            (self.exempt, self.exempt_since) = (None, None);
        }
        self.wake_next();
    }
}
