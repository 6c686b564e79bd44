//! Between whom a message goes: a peer, and the one of our addresses that it speaks to (RFC 7252 §1.2).
//!
//! Message ids, duplicates and acknowledgements belong to this pair, and an answer leaves from the address that was asked
//! (§5.3.2). The layers above the sockets know an address of ours by its number only.

use std::net::SocketAddr;

/// One of our own addresses, by its number.
///
/// Of a configured socket its index; of an address that was asked through a wildcard a hash and the wildcard's index. So an
/// address has the same number always, and nothing need be remembered for that: were it to change, a repetition would be
/// treated as a new message. That two of 64 addresses share one by chance is as likely as 1 in 30,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Local(u32);

const INDEX_BITS: u32 = 6;

/// Configured sockets.
pub const CONFIGURED_MAX: usize = 1 << INDEX_BITS;

impl Local {
    /// The configured socket of this index.
    pub fn configured(index: usize) -> Self {
        Local(index.min(CONFIGURED_MAX - 1) as u32)
    }

    /// The address with this hash, behind the configured socket `holder`.
    pub fn behind(holder: Local, hash: u64) -> Self {
        // Never zero above the index, as it is for configured sockets.
        let address = (hash as u32 >> INDEX_BITS).max(1);
        Local(address << INDEX_BITS | holder.index() as u32)
    }

    /// The configured socket that received what was sent to this address first.
    pub fn index(self) -> usize {
        self.0 as usize % CONFIGURED_MAX
    }
}

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
