//! Between whom a message goes: a peer, and the one of our addresses that it speaks to (RFC 7252 §1.2).
//!
//! Message ids, duplicates and acknowledgements belong to this pair, and an answer leaves from the address that was asked
//! (§5.3.2). The layers above the sockets know an address of ours by its number only.

use std::net::SocketAddr;

/// One of our own addresses, by a number that is never given to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Local(pub u32);

/// A peer and one of our addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoints {
    pub peer: SocketAddr,
    pub local: Local,
}

/// To whom a datagram was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// To one address of ours.
    Unicast,
    /// To a multicast or broadcast address: to us and others (§8).
    Multicast,
}

#[cfg(test)]
impl Endpoints {
    /// This peer, and the first of our addresses.
    pub fn of(peer: SocketAddr) -> Self {
        Endpoints {
            peer,
            local: Local::default(),
        }
    }
}
