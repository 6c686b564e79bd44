//! Who has sent what lately: the memory that tells a duplicate from a new message (RFC 7252 §4.5).
//!
//! Remembered are requests that bring readings, whatever their outcome; all others are answered anew. A duplicate is the
//! same datagram between the same endpoints, not only the same message id: a device that starts again within four minutes
//! may count its ids from the same start, and its new reading must not be answered with an old one's 2.04. Several
//! datagrams with one id are remembered side by side. A look-up is one probe of a hash table, however many there are.
//!
//! Limits: `messages_per_peer` of one peer and `bytes_max` over all, each message and peer charged at most what it can
//! occupy. Forgotten first are messages older than [`MAX_TRANSMIT_SPAN`], which a client no longer repeats; then those of
//! peers that no reading was accepted from, then first readings that were accepted, then those of peers that had one
//! accepted before: whoever only spoofs addresses displaces only itself. Within each the oldest goes first, and a sixteenth of
//! the memory is left to each, so that a newcomer is remembered beside a large fleet that is known. Forgetting never loses a
//! reading: at worst a retransmission is accepted twice, which *at least once* allows, and the metric says so.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use prometheus::IntCounter;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use slab::Slab;

use super::endpoints::Endpoints;
use super::packet::Message;

/// How long a client repeats a confirmable message, at most, with the parameters of RFC 7252 §4.8 (§4.8.2).
pub const MAX_TRANSMIT_SPAN: Duration = Duration::from_secs(45);

/// Where a list ends.
const NONE: u32 = u32::MAX;

/// How much is remembered, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub messages_per_peer: usize,
    pub bytes_max: usize,
    /// A confirmable message (EXCHANGE_LIFETIME); kept up to a second longer.
    pub confirmable: Duration,
    /// A non-confirmable message (NON_LIFETIME); kept up to a second longer.
    pub non_confirmable: Duration,
}

/// What is known of a request that has just come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    New,
    /// Seen before, and what it was answered with.
    Duplicate(Answered),
}

/// What a request was answered with. An answer without options and payload is no more than its code: message id and
/// token are the request's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Answered {
    #[default]
    Nothing,
    Code(u8),
    Message(Box<Message>),
}

/// A message of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub ends: Endpoints,
    pub mid: u16,
    /// Hash of both endpoints and the whole datagram, under a key that no peer knows.
    pub fingerprint: u64,
}

/// All that is remembered.
#[derive(Debug)]
pub struct Peers {
    limits: Limits,
    started: Instant,
    messages: Slab<Remembered>,
    by_fingerprint: HashTable<u32>,
    peers: Slab<Peer>,
    by_endpoints: HashTable<u32>,
    hasher: RandomState,
    /// By standing; within each in the order in which they came to it.
    lists: [List; STANDINGS],
    bytes: usize,
    forgotten: IntCounter,
    random: StdRng,
}

#[derive(Debug)]
struct Peer {
    ends: Endpoints,
    oldest: u32,
    newest: u32,
    messages: u32,
    /// The id of our next message to it: in sequence, so that none returns within its lifetime.
    next_mid: u16,
    /// A reading of it was accepted.
    accepted: bool,
}

#[derive(Debug)]
struct Remembered {
    fingerprint: u64,
    answered: Answered,
    /// Seconds since `started`.
    arrived: u32,
    peer: u32,
    // In the list of its standing, and in that of its peer.
    older: u32,
    newer: u32,
    older_of_peer: u32,
    newer_of_peer: u32,
    mid: u16,
    standing: Standing,
}

/// Who is forgotten first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// No reading of its peer was accepted when it came, nor was it.
    Unknown,
    /// It was accepted, the first of its peer.
    Accepted,
    /// A reading of its peer had been accepted when it came.
    Proven,
}

const STANDINGS: usize = 3;

#[derive(Clone, Copy, Debug)]
struct List {
    oldest: u32,
    newest: u32,
    messages: usize,
}

// What each occupies at most: its own size and an eighth, by which the slabs grow, and its place in a table of four-byte
// indices, which is at least seven sixteenths full. (While one grows, an allocator that cannot do so in place holds both.)
const TABLE_BYTES: usize = 12;
const PEER_BYTES: usize = size_of::<Peer>() * 9 / 8 + TABLE_BYTES;
const MESSAGE_BYTES: usize = size_of::<Remembered>() * 9 / 8 + TABLE_BYTES;
/// The part of the memory that no other standing may use: one in so many messages.
const SHARE: usize = 16;
/// Least growth of a slab.
const GROWTH_MIN: usize = 64;
/// The two heap blocks of an answer, beside its bytes.
const ANSWER_BYTES: usize = 64;

// === impl Peers ===

impl Peers {
    /// `forgotten` counts what is forgotten within [`MAX_TRANSMIT_SPAN`].
    pub fn new(limits: Limits, now: Instant, seed: u64, forgotten: IntCounter) -> Self {
        Peers {
            limits,
            started: now,
            messages: Slab::new(),
            by_fingerprint: HashTable::new(),
            peers: Slab::new(),
            by_endpoints: HashTable::new(),
            hasher: RandomState::new(),
            lists: [List::EMPTY; STANDINGS],
            bytes: 0,
            forgotten,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Looks a request up, and remembers it if it is new.
    pub fn arrive(&mut self, now: Instant, key: Key, confirmable: bool) -> Arrival {
        let seconds = self.seconds(now);
        if let Some(index) = self.find(key) {
            let known = &self.messages[index as usize];
            if u64::from(seconds.saturating_sub(known.arrived)) <= self.lifetime(confirmable).as_secs() {
                return Arrival::Duplicate(known.answered.clone());
            }
            // Out of its lifetime: it stays until its turn, but is not found.
            self.hide(index);
        }
        let mut peer = self.peer(key.ends);
        if self.peers[peer as usize].messages as usize >= self.limits.messages_per_peer.max(1) {
            self.forget_early(self.peers[peer as usize].oldest, seconds);
            // It may have been forgotten with its only message.
            peer = self.peer(key.ends);
        }
        self.remember(key, peer, seconds);
        self.trim(seconds);
        Arrival::New
    }

    /// Remembers what a request was answered with, should it come again.
    pub fn answered(&mut self, now: Instant, key: Key, answered: Answered) {
        let Some(index) = self.find(key) else { return };
        let message = &mut self.messages[index as usize];
        self.bytes = self.bytes + answered.bytes() - message.answered.bytes();
        message.answered = answered;
        self.trim(self.seconds(now));
    }

    /// The reading of this request was accepted: its peer is forgotten after those that had none accepted.
    pub fn accepted(&mut self, key: Key) {
        let Some(index) = self.find(key) else { return };
        let message = &self.messages[index as usize];
        self.peers[message.peer as usize].accepted = true;
        if message.standing == Standing::Unknown {
            self.unlink(index);
            self.link(index, Standing::Accepted);
        }
    }

    /// An id for a message of ours between these endpoints.
    pub fn next_mid(&mut self, ends: Endpoints) -> u16 {
        let Some(index) = self.find_peer(ends) else {
            return self.random.random();
        };
        let peer = &mut self.peers[index as usize];
        peer.next_mid = peer.next_mid.wrapping_add(1);
        peer.next_mid
    }

    /// Forgets what is older than any lifetime.
    pub fn expire(&mut self, now: Instant) {
        let seconds = self.seconds(now);
        let lifetime = self.longest_lifetime();
        for standing in 0..STANDINGS {
            while let Some(oldest) = self.messages.get(self.lists[standing].oldest as usize)
                && u64::from(seconds.saturating_sub(oldest.arrived)) > lifetime
            {
                self.forget(self.lists[standing].oldest);
            }
        }
    }

    /// When the next message is to be forgotten; at most once in a second.
    pub fn next_expiry(&self) -> Option<Instant> {
        let oldest = self
            .lists
            .iter()
            .filter_map(|list| self.messages.get(list.oldest as usize));
        let arrived = oldest.map(|oldest| oldest.arrived).min()?;
        let second = u64::from(arrived) + self.longest_lifetime() + 1;
        Some(self.started + Duration::from_secs(second))
    }

    /// Peers that messages are remembered of.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Messages remembered.
    pub fn messages(&self) -> usize {
        self.messages.len()
    }

    /// Bytes charged for all of it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn seconds(&self, now: Instant) -> u32 {
        let passed = now.saturating_duration_since(self.started).as_secs();
        u32::try_from(passed).unwrap_or(u32::MAX)
    }

    fn lifetime(&self, confirmable: bool) -> Duration {
        match confirmable {
            true => self.limits.confirmable,
            false => self.limits.non_confirmable,
        }
    }

    fn longest_lifetime(&self) -> u64 {
        self.limits.confirmable.max(self.limits.non_confirmable).as_secs()
    }

    fn find(&self, key: Key) -> Option<u32> {
        let is_it = |&index: &u32| {
            let message = &self.messages[index as usize];
            message.fingerprint == key.fingerprint
                && message.mid == key.mid
                && self.peers[message.peer as usize].ends == key.ends
        };
        self.by_fingerprint.find(key.fingerprint, is_it).copied()
    }

    fn find_peer(&self, ends: Endpoints) -> Option<u32> {
        let is_it = |&index: &u32| self.peers[index as usize].ends == ends;
        self.by_endpoints.find(self.hasher.hash_one(ends), is_it).copied()
    }

    /// The peer, known from now on.
    fn peer(&mut self, ends: Endpoints) -> u32 {
        if let Some(index) = self.find_peer(ends) {
            return index;
        }
        grow(&mut self.peers);
        let index = self.peers.insert(Peer {
            ends,
            oldest: NONE,
            newest: NONE,
            messages: 0,
            next_mid: self.random.random(),
            accepted: false,
        }) as u32;
        let (peers, hasher) = (&self.peers, &self.hasher);
        let hash = |&index: &u32| hasher.hash_one(peers[index as usize].ends);
        self.by_endpoints.insert_unique(hasher.hash_one(ends), index, hash);
        self.bytes += PEER_BYTES;
        index
    }

    fn remember(&mut self, key: Key, peer: u32, seconds: u32) {
        let known = &self.peers[peer as usize];
        let standing = match known.accepted {
            true => Standing::Proven,
            false => Standing::Unknown,
        };
        let older_of_peer = known.newest;
        grow(&mut self.messages);
        let index = self.messages.insert(Remembered {
            fingerprint: key.fingerprint,
            answered: Answered::Nothing,
            arrived: seconds,
            peer,
            older: NONE,
            newer: NONE,
            older_of_peer,
            newer_of_peer: NONE,
            mid: key.mid,
            standing,
        }) as u32;
        let messages = &self.messages;
        let hash = |&index: &u32| messages[index as usize].fingerprint;
        self.by_fingerprint.insert_unique(key.fingerprint, index, hash);
        match self.messages.get_mut(older_of_peer as usize) {
            Some(older) => older.newer_of_peer = index,
            None => self.peers[peer as usize].oldest = index,
        }
        let known = &mut self.peers[peer as usize];
        known.newest = index;
        known.messages += 1;
        self.link(index, standing);
        self.bytes += MESSAGE_BYTES;
    }

    fn trim(&mut self, seconds: u32) {
        // The last one stays, whatever the limit: it is the one that is being served.
        while self.bytes > self.limits.bytes_max && self.messages.len() > 1 {
            let Some(victim) = self.victim(seconds) else { return };
            self.forget_early(victim, seconds);
        }
    }

    /// Who is to be forgotten next, for want of memory.
    fn victim(&self, seconds: u32) -> Option<u32> {
        let oldest = self.lists.iter().map(|list| list.oldest).filter(|&index| index != NONE);
        let past = oldest.clone().find(|&index| !self.may_be_repeated(index, seconds));
        let has_more_than_its_share = |list: &&List| list.messages * SHARE > self.messages.len();
        let crowded = || self.lists.iter().find(has_more_than_its_share).map(|list| list.oldest);
        past.or_else(crowded)
    }

    /// Whether a client that sent this message may still repeat it.
    fn may_be_repeated(&self, index: u32, seconds: u32) -> bool {
        u64::from(seconds.saturating_sub(self.messages[index as usize].arrived)) <= MAX_TRANSMIT_SPAN.as_secs()
    }

    fn forget_early(&mut self, index: u32, seconds: u32) {
        if self.may_be_repeated(index, seconds) {
            self.forgotten.inc();
        }
        self.forget(index);
    }

    /// Forgets a message, and its peer with its last one.
    fn forget(&mut self, index: u32) {
        self.hide(index);
        self.unlink(index);
        let message = self.messages.remove(index as usize);
        self.bytes -= MESSAGE_BYTES + message.answered.bytes();
        let peer = &mut self.peers[message.peer as usize];
        peer.messages -= 1;
        match self.messages.get_mut(message.newer_of_peer as usize) {
            Some(newer) => newer.older_of_peer = message.older_of_peer,
            None => peer.newest = message.older_of_peer,
        }
        match self.messages.get_mut(message.older_of_peer as usize) {
            Some(older) => older.newer_of_peer = message.newer_of_peer,
            None => peer.oldest = message.newer_of_peer,
        }
        if peer.messages == 0 {
            self.forget_peer(message.peer);
        }
    }

    fn forget_peer(&mut self, index: u32) {
        let hash = self.hasher.hash_one(self.peers[index as usize].ends);
        if let Ok(found) = self.by_endpoints.find_entry(hash, |&other| other == index) {
            found.remove();
        }
        self.peers.remove(index as usize);
        self.bytes -= PEER_BYTES;
    }

    /// Removes a message from the table, if it is still in it.
    fn hide(&mut self, index: u32) {
        let fingerprint = self.messages[index as usize].fingerprint;
        if let Ok(found) = self.by_fingerprint.find_entry(fingerprint, |&other| other == index) {
            found.remove();
        }
    }

    /// Makes a message the newest of a standing.
    fn link(&mut self, index: u32, standing: Standing) {
        let list = &mut self.lists[standing as usize];
        list.messages += 1;
        let older = std::mem::replace(&mut list.newest, index);
        match self.messages.get_mut(older as usize) {
            Some(older) => older.newer = index,
            None => list.oldest = index,
        }
        let message = &mut self.messages[index as usize];
        (message.standing, message.older, message.newer) = (standing, older, NONE);
    }

    fn unlink(&mut self, index: u32) {
        let message = &self.messages[index as usize];
        let (standing, older, newer) = (message.standing, message.older, message.newer);
        let list = &mut self.lists[standing as usize];
        list.messages -= 1;
        match self.messages.get_mut(newer as usize) {
            Some(message) => message.older = older,
            None => list.newest = older,
        }
        match self.messages.get_mut(older as usize) {
            Some(message) => message.newer = newer,
            None => list.oldest = newer,
        }
    }
}

/// Grows for one more, in smaller steps than a vector's.
fn grow<T>(slab: &mut Slab<T>) {
    if slab.len() == slab.capacity() {
        slab.reserve_exact(GROWTH_MIN.max(slab.len() / 8));
    }
}

impl List {
    const EMPTY: List = List {
        oldest: NONE,
        newest: NONE,
        messages: 0,
    };
}

impl Answered {
    fn bytes(&self) -> usize {
        match self {
            Answered::Nothing | Answered::Code(_) => 0,
            Answered::Message(message) => ANSWER_BYTES + message.len(),
        }
    }
}

#[cfg(test)]
mod tests;
