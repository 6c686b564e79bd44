//! Who has sent what lately: the memory that tells a duplicate from a new message (RFC 7252 §4.5).
//!
//! Limits: at most `messages_per_peer` messages of one peer (a ring; the oldest is forgotten), `peers_max` peers and
//! `remembered_bytes_max` bytes over all (the peer that has been silent longest is forgotten). Forgetting never loses a
//! reading: at worst a retransmission is taken in twice, which *at least once* allows.
//!
//! A duplicate is the same datagram, not only the same message id. A device that starts again within four minutes may
//! count its message ids from the same start; its new reading must not be answered with an old one's 2.04.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use slab::Slab;

use super::packet::Message;

/// Where a list of peers ends.
const NONE: usize = usize::MAX;

/// How much is remembered, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub peers_max: usize,
    pub messages_per_peer: usize,
    pub bytes_max: usize,
    /// A confirmable message (EXCHANGE_LIFETIME), and a silent peer.
    pub confirmable: Duration,
    /// A non-confirmable message (NON_LIFETIME).
    pub non_confirmable: Duration,
}

/// What is known of a request that has just come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    New,
    /// Seen before, and what it was answered with, if it was.
    Duplicate(Option<Message>),
}

/// A message of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub peer: SocketAddr,
    pub mid: u16,
    /// Hash of the whole datagram.
    pub fingerprint: u64,
}

#[derive(Debug)]
pub struct Peers {
    limits: Limits,
    by_address: HashMap<SocketAddr, usize>,
    peers: Slab<Peer>,
    // A list through all peers by when they were last heard.
    newest: usize,
    oldest: usize,
    bytes: usize,
    random: StdRng,
}

#[derive(Debug)]
struct Peer {
    address: SocketAddr,
    messages: VecDeque<Remembered>,
    /// The id of our next message to it: in sequence, so that none returns within its lifetime.
    next_mid: u16,
    heard: Instant,
    newer: usize,
    older: usize,
}

#[derive(Debug)]
struct Remembered {
    mid: u16,
    fingerprint: u64,
    expires: Instant,
    reply: Option<Message>,
}

// What they occupy, within a factor of two (growing room of the collections is not counted).
const PEER_BYTES: usize = size_of::<Peer>() + size_of::<(SocketAddr, usize)>();
const MESSAGE_BYTES: usize = size_of::<Remembered>();
const REPLY_BYTES: usize = 16;

// === impl Peers ===

impl Peers {
    pub fn new(limits: Limits, seed: u64) -> Self {
        Peers {
            limits,
            by_address: HashMap::new(),
            peers: Slab::new(),
            newest: NONE,
            oldest: NONE,
            bytes: 0,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Looks a request up and remembers it.
    pub fn arrive(&mut self, now: Instant, key: Key, confirmable: bool) -> Arrival {
        let index = self.heard(now, key.peer);
        let peer = &mut self.peers[index];
        if let Some(at) = peer.messages.iter().position(|message| message.mid == key.mid) {
            let known = &peer.messages[at];
            if known.fingerprint == key.fingerprint && known.expires > now {
                return Arrival::Duplicate(known.reply.clone());
            }
            self.bytes -= peer.messages.remove(at).map_or(0, |message| message.bytes());
        }
        let is_over = |message: &Remembered| message.expires <= now;
        while peer.messages.front().is_some_and(is_over) || peer.messages.len() >= self.limits.messages_per_peer.max(1)
        {
            self.bytes -= peer.messages.pop_front().map_or(0, |message| message.bytes());
        }
        let lifetime = match confirmable {
            true => self.limits.confirmable,
            false => self.limits.non_confirmable,
        };
        peer.messages.push_back(Remembered {
            mid: key.mid,
            fingerprint: key.fingerprint,
            expires: now + lifetime,
            reply: None,
        });
        self.bytes += MESSAGE_BYTES;
        self.trim();
        Arrival::New
    }

    /// Remembers what a request was answered with, should it come again.
    pub fn answered(&mut self, key: Key, reply: &Message) {
        let Some(&index) = self.by_address.get(&key.peer) else {
            return;
        };
        let is_it = |message: &&mut Remembered| message.mid == key.mid && message.fingerprint == key.fingerprint;
        let Some(message) = self.peers[index].messages.iter_mut().find(is_it) else {
            return;
        };
        self.bytes -= message.bytes();
        message.reply = Some(reply.clone());
        self.bytes += message.bytes();
        self.trim();
    }

    /// An id for a message of ours to this peer.
    pub fn next_mid(&mut self, address: SocketAddr) -> u16 {
        let Some(&index) = self.by_address.get(&address) else {
            return self.random.random();
        };
        let peer = &mut self.peers[index];
        peer.next_mid = peer.next_mid.wrapping_add(1);
        peer.next_mid
    }

    /// Forgets the peers that have been silent for a whole exchange lifetime.
    pub fn expire(&mut self, now: Instant) {
        while self.next_expiry().is_some_and(|at| at <= now) {
            self.forget_oldest();
        }
    }

    /// When the next peer is to be forgotten.
    pub fn next_expiry(&self) -> Option<Instant> {
        let oldest = self.peers.get(self.oldest)?;
        Some(oldest.heard + self.limits.confirmable.max(self.limits.non_confirmable))
    }

    /// Peers remembered.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Makes the peer the newest, and known if it was not.
    fn heard(&mut self, now: Instant, address: SocketAddr) -> usize {
        let index = match self.by_address.get(&address) {
            Some(&index) => {
                self.unlink(index);
                index
            }
            None => {
                let index = self.peers.insert(Peer {
                    address,
                    messages: VecDeque::new(),
                    next_mid: self.random.random(),
                    heard: now,
                    newer: NONE,
                    older: NONE,
                });
                self.by_address.insert(address, index);
                self.bytes += PEER_BYTES;
                index
            }
        };
        self.link(index);
        self.peers[index].heard = now;
        index
    }

    fn trim(&mut self) {
        let is_over = |peers: &Self| peers.len() > peers.limits.peers_max || peers.bytes > peers.limits.bytes_max;
        // The newest stays, whatever the limits: it is the one that is being served.
        while self.len() > 1 && is_over(self) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let index = self.oldest;
        self.unlink(index);
        let peer = self.peers.remove(index);
        self.by_address.remove(&peer.address);
        let messages: usize = peer.messages.iter().map(Remembered::bytes).sum();
        self.bytes -= PEER_BYTES + messages;
    }

    fn link(&mut self, index: usize) {
        self.peers[index].newer = NONE;
        self.peers[index].older = self.newest;
        match self.peers.get_mut(self.newest) {
            Some(second) => second.newer = index,
            None => self.oldest = index,
        }
        self.newest = index;
    }

    fn unlink(&mut self, index: usize) {
        let (newer, older) = (self.peers[index].newer, self.peers[index].older);
        match self.peers.get_mut(newer) {
            Some(peer) => peer.older = older,
            None => self.newest = older,
        }
        match self.peers.get_mut(older) {
            Some(peer) => peer.newer = newer,
            None => self.oldest = newer,
        }
    }
}

impl Remembered {
    fn bytes(&self) -> usize {
        MESSAGE_BYTES + self.reply.as_ref().map_or(0, |reply| REPLY_BYTES + reply.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        peers_max: 3,
        messages_per_peer: 4,
        bytes_max: 1 << 20,
        confirmable: Duration::from_secs(247),
        non_confirmable: Duration::from_secs(145),
    };

    fn key(port: u16, mid: u16) -> Key {
        Key {
            peer: SocketAddr::from(([10, 0, 0, 1], port)),
            mid,
            fingerprint: u64::from(mid),
        }
    }

    fn is_new(arrival: Arrival) -> bool {
        arrival == Arrival::New
    }

    #[test]
    fn a_message_is_remembered_for_its_lifetime() {
        let start = Instant::now();
        let check = |confirmable, seconds, expected| {
            let mut peers = Peers::new(LIMITS, 1);
            assert!(is_new(peers.arrive(start, key(1, 7), confirmable)));
            let arrival = peers.arrive(start + Duration::from_secs(seconds), key(1, 7), confirmable);
            assert_eq!(is_new(arrival), expected, "{confirmable} after {seconds} s");
        };
        check(true, 0, false);
        check(true, 246, false);
        check(true, 247, true);
        check(false, 144, false);
        check(false, 145, true);
    }

    #[test]
    fn another_datagram_with_a_known_id_is_new() {
        let now = Instant::now();
        let mut peers = Peers::new(LIMITS, 1);
        let old = key(1, 7);
        let new = Key { fingerprint: 99, ..old };
        assert!(is_new(peers.arrive(now, old, true)));
        assert!(is_new(peers.arrive(now, new, true)));
        // The answer to the old one is not taken for the new one's.
        peers.answered(old, &Message::from([1]));
        assert_eq!(peers.arrive(now, new, true), Arrival::Duplicate(None));
        peers.answered(new, &Message::from([2]));
        assert_eq!(
            peers.arrive(now, new, true),
            Arrival::Duplicate(Some(Message::from([2])))
        );
    }

    #[test]
    fn a_peer_is_remembered_by_its_last_messages() {
        let now = Instant::now();
        let mut peers = Peers::new(LIMITS, 1);
        for mid in 0..5 {
            assert!(is_new(peers.arrive(now, key(1, mid), true)));
        }
        for mid in 1..5 {
            assert!(!is_new(peers.arrive(now, key(1, mid), true)), "{mid}");
        }
        assert!(is_new(peers.arrive(now, key(1, 0), true)));
    }

    #[test]
    fn the_peer_that_has_been_silent_longest_is_forgotten() {
        let now = Instant::now();
        let mut peers = Peers::new(LIMITS, 1);
        for port in [1, 2, 3, 1, 4] {
            peers.arrive(now, key(port, 7), true);
        }
        assert_eq!(peers.len(), 3);
        for port in [3, 1, 4] {
            assert!(!is_new(peers.arrive(now, key(port, 7), true)), "{port}");
        }
        assert!(is_new(peers.arrive(now, key(2, 7), true)));
    }

    #[test]
    fn bytes_are_bounded_and_all_returned() {
        let now = Instant::now();
        let bytes_max = 8 * 1024;
        let limits = Limits {
            peers_max: 1000,
            bytes_max,
            ..LIMITS
        };
        let mut peers = Peers::new(limits, 1);
        for number in 0..2000 {
            let key = key(number % 100, number);
            peers.arrive(now, key, true);
            peers.answered(key, &Message::from([0; 100]));
            assert!(peers.bytes <= bytes_max, "{}", peers.bytes);
        }
        assert!(peers.len() > 5, "{}", peers.len());
        peers.expire(now + Duration::from_secs(247));
        assert_eq!((peers.len(), peers.bytes, peers.next_expiry()), (0, 0, None));
    }

    #[test]
    fn ids_of_our_messages_are_in_sequence() {
        let now = Instant::now();
        let mut peers = Peers::new(LIMITS, 1);
        peers.arrive(now, key(1, 7), true);
        let first = peers.next_mid(key(1, 7).peer);
        assert_eq!(peers.next_mid(key(1, 7).peer), first.wrapping_add(1));
    }
}
