//! What the producer holds: every record between its sending and its delivery report.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use slab::Slab;

use super::pending::Pending;

/// The records that the producer holds, by the number that it hands back.
#[derive(Debug, Default)]
pub struct Flights {
    slab: Slab<Flight>,
    next_id: u64,
    /// When each was sent, in that order; those that were not copied yet.
    sent: Deadlines,
    /// When each that was copied, or could not be, is to be answered at the latest.
    overdue: Deadlines,
    /// Buffers of parcels that were not needed, for the next ones: an allocation per reading that one thread makes and
    /// another frees makes both wait for each other.
    spares: Vec<Vec<u8>>,
}

/// As many parcels as are usually on their way at once.
const SPARES_MAX: usize = 4096;
/// Larger buffers are given back to the system; a dead letter with its headers is seldom larger.
const SPARE_BYTES_MAX: usize = 2048;

/// Times of flights, in order.
type Deadlines = VecDeque<(Instant, Name)>;

/// Tells flights apart that had the same slot one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    pub slot: usize,
    pub id: u64,
}

/// A record that the producer holds.
#[derive(Debug)]
pub struct Flight {
    pub lane: usize,
    /// Who waits; `None` once answered, and for a replay.
    pub pending: Option<Pending>,
    /// For the spool, until it has it.
    pub parcel: Option<Vec<u8>>,
    pub spooled: Spooled,
    pub sent_at: Instant,
    id: u64,
}

/// What the spool has of a flight's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spooled {
    No,
    /// Appended, not yet durable.
    Asked,
    /// The same, and the producer has reported meanwhile.
    AskedAndReported {
        delivered: bool,
    },
    /// Durable.
    At(u64),
    /// Read from there.
    Replayed(u64),
}

// === impl Flight ===

impl Flight {
    pub fn new(lane: usize, sent_at: Instant, spooled: Spooled) -> Self {
        Flight {
            lane,
            pending: None,
            parcel: None,
            spooled,
            sent_at,
            id: 0,
        }
    }
}

// === impl Flights ===

impl Flights {
    pub fn depart(&mut self, mut flight: Flight) -> Name {
        flight.id = self.next_id;
        self.next_id += 1;
        let id = flight.id;
        Name {
            slot: self.slab.insert(flight),
            id,
        }
    }

    pub fn at(&mut self, slot: usize) -> Option<&mut Flight> {
        self.slab.get_mut(slot)
    }

    pub fn get(&mut self, name: Name) -> Option<&mut Flight> {
        self.slab.get_mut(name.slot).filter(|flight| flight.id == name.id)
    }

    /// The producer no longer holds it.
    pub fn land(&mut self, slot: usize) -> Flight {
        self.slab.remove(slot)
    }

    /// A buffer to pack a parcel into.
    pub fn spare(&mut self) -> Vec<u8> {
        self.spares.pop().unwrap_or_default()
    }

    pub fn keep_spare(&mut self, parcel: Vec<u8>) {
        if self.spares.len() < SPARES_MAX && parcel.capacity() <= SPARE_BYTES_MAX {
            self.spares.push(parcel);
        }
    }

    /// Everybody who waits: nothing more will be reported.
    pub fn give_up(&mut self) -> Vec<Pending> {
        self.slab
            .iter_mut()
            .filter_map(|(_, flight)| flight.pending.take())
            .collect()
    }

    /// Devices that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.slab.iter().filter(|(_, flight)| flight.pending.is_some()).count()
    }

    /// To be looked at when its patience ends.
    pub fn sent(&mut self, at: Instant, name: Name) {
        self.sent.push_back((at, name));
    }

    pub fn overdue_at(&mut self, at: Instant, name: Name) {
        self.overdue.push_back((at, name));
    }

    /// A flight that was not confirmed within its patience.
    pub fn impatient(&mut self, now: Instant, patience: Duration) -> Option<Name> {
        due(&mut self.sent, now, patience)
    }

    /// It is the oldest that is still to be looked at.
    pub fn look_again(&mut self, name: Name) {
        let at = self.get(name).map(|flight| flight.sent_at);
        if let Some(at) = at {
            self.sent.push_front((at, name));
        }
    }

    /// The oldest flight that was not looked at yet.
    pub fn oldest(&mut self) -> Option<Name> {
        self.sent.pop_front().map(|(_, name)| name)
    }

    /// A flight that neither Kafka nor the spool has accepted in time; those first that the spool was never given, for its
    /// queue was full.
    pub fn overdue(&mut self, now: Instant, delivery_timeout: Duration) -> Option<Name> {
        due(&mut self.sent, now, delivery_timeout).or_else(|| due(&mut self.overdue, now, Duration::ZERO))
    }
}

fn due(deadlines: &mut Deadlines, now: Instant, after: Duration) -> Option<Name> {
    let &(at, name) = deadlines.front()?;
    (at + after <= now).then(|| {
        deadlines.pop_front();
        name
    })
}
