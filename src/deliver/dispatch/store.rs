//! The seam between `dispatch` and the spool.
//!
//! A store queues entries and tells later, in their order, whether each is durable; it gives out what is, oldest first. The
//! spool implements it, and the simulation does. A [`Ticket`] says what an entry was appended for.

use super::in_flight::SendId;
use crate::outcome::Busy;

/// The spool, as far as it matters here.
pub trait Store {
    /// Queues an entry to be written; its end is told by [`Dispatch::stored`](super::Dispatch::stored) with the same ticket.
    fn append(&self, encoded: Vec<u8>, ticket: Ticket) -> Result<(), (Ticket, Vec<u8>, Busy)>;
    /// The next durable, uncommitted entries, oldest first.
    fn read(&self, entries_max: usize, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, Unreadable>;
    /// Lets the next read begin at the oldest uncommitted entry.
    fn rewind(&self);
    /// The entry needs no replay.
    fn commit(&self, sequence: u64);
    /// Why no entry would be accepted now, if so.
    fn refuses(&self) -> Option<Busy>;
    /// Whether it was committed.
    fn is_committed(&self, sequence: u64) -> bool;
    /// Durable entries that were not committed.
    fn uncommitted(&self) -> u64;
    /// Whether much of the disk holds what was committed, and cannot be given up because of older entries that were not.
    fn keeps_too_much(&self) -> bool;
}

/// Entries that could not be read; they stay where they are. The text says which file, and why.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Unreadable(pub Box<dyn std::error::Error + Send + Sync>);

/// What an appended entry is for.
#[derive(Debug)]
pub enum Ticket {
    /// The record is in the spool only.
    Alone {
        number: u64,
        group: usize,
        /// Of the missing topic that it is for; 0: none.
        deferred: u64,
    },
    /// The record is also in flight.
    Copy(SendId),
    /// The record is in the spool already, under this sequence, and is deferred there.
    Reappended { from: u64 },
    /// The same of a record whose topic is missing, or whose partition stalls, in this compaction of all of them.
    Deferred { number: u64 },
}
