//! What the producer holds: every record between its sending and its delivery report.

use std::collections::VecDeque;
use std::time::Instant;

use slab::Slab;

use super::Pending;

/// The records that the producer holds, by the number that it hands back.
#[derive(Debug, Default)]
pub struct Flights {
    slab: Slab<Flight>,
    next_id: u64,
    /// In the order of their sending, with when each is to be looked at.
    patience: Deadlines,
    overdue: Deadlines,
    /// Buffers of parcels that were not needed, for the next ones: an allocation per reading that one thread makes and
    /// another frees makes both wait for each other.
    spares: Vec<Vec<u8>>,
}

/// As many parcels as are usually on their way at once.
const SPARES_MAX: usize = 4096;
/// Larger buffers are given back to the system; a dead letter with its headers is seldom larger.
const SPARE_BYTES_MAX: usize = 2048;

/// Times at which flights are to be looked at, in order.
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

    /// Devices that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.slab.iter().filter(|(_, flight)| flight.pending.is_some()).count()
    }

    pub fn lose_patience_at(&mut self, at: Instant, name: Name) {
        self.patience.push_back((at, name));
    }

    pub fn overdue_at(&mut self, at: Instant, name: Name) {
        self.overdue.push_back((at, name));
    }

    /// A flight that was not confirmed within its patience.
    pub fn impatient(&mut self, now: Instant) -> Option<Name> {
        due(&mut self.patience, now)
    }

    /// It is the oldest that is still to be looked at.
    pub fn look_again(&mut self, name: Name) {
        let at = self.get(name).map(|flight| flight.sent_at);
        self.patience.extend(at.map(|at| (at, name)));
        self.patience.rotate_right(1);
    }

    /// The oldest flight that was not looked at yet.
    pub fn oldest(&mut self) -> Option<Name> {
        self.patience.pop_front().map(|(_, name)| name)
    }

    /// A flight that neither Kafka nor the spool has taken in time.
    pub fn overdue(&mut self, now: Instant) -> Option<Name> {
        due(&mut self.overdue, now)
    }
}

fn due(deadlines: &mut Deadlines, now: Instant) -> Option<Name> {
    let &(at, name) = deadlines.front()?;
    (at <= now).then(|| {
        deadlines.pop_front();
        name
    })
}
