//! What the producer holds: every record between its sending and its delivery report.
//!
//! Each send has a slot, whose number the producer hands back with its report, and a name that outlives the slot. Sends are
//! found by their deadlines, oldest first. What happens to them is decided by the dispatch.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use slab::Slab;

use super::compaction::Compaction;
use super::pending::Pending;

/// The records that the producer holds, by the number that it returns.
#[derive(Debug, Default)]
pub struct InFlight {
    slab: Slab<InFlightSend>,
    next_id: u64,
    /// When each was sent, in that order; those that were not copied yet.
    sent: Deadlines,
    /// When each that was copied, or could not be, is to be answered at the latest.
    overdue: Deadlines,
    /// Buffers of encoded records that were not needed, for the next ones: an allocation per reading that one thread makes and
    /// another frees makes both wait for each other.
    spares: Vec<Vec<u8>>,
}

/// As many encoded records as are usually on their way at once.
const SPARES_MAX: usize = 4096;
/// Larger buffers are given back to the system; a dead letter with its headers is seldom larger.
const SPARE_BYTES_MAX: usize = 2048;

/// Times of sends, in order.
type Deadlines = VecDeque<(Instant, SendId)>;

/// Tells sends apart that had the same slot one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendId {
    pub slot: usize,
    pub id: u64,
}

/// A record that the producer holds.
#[derive(Debug)]
pub struct InFlightSend {
    pub group: usize,
    pub sent_at: Instant,
    pub progress: Progress,
    /// Not confirmed in time, and the spool did not accept it ([`Unconfirmed::not_copied`](super::unconfirmed::Unconfirmed::not_copied)).
    pub is_uncopied: bool,
    id: u64,
}

/// Where else the record is, and who waits for it. `pending` is `None` once answered busy, at the deadline.
#[derive(Debug)]
pub enum Progress {
    /// Nowhere else yet; its bytes are for the spool, should Kafka not confirm it in time.
    Sent { pending: Pending, encoded: Vec<u8> },
    /// Nowhere else, and it will not be: there is no spool, it refused the record, or nobody needs that any more.
    KafkaOnly { pending: Option<Pending> },
    /// Appended to the spool, not yet durable there.
    Appended { pending: Option<Pending> },
    /// The same, and Kafka has confirmed it: answered.
    AppendedAndDelivered,
    /// The same, and the producer has given it back.
    AppendedAndGivenBack { pending: Option<Pending> },
    /// Durable in the spool under this sequence: answered.
    Spooled { sequence: u64 },
    /// Read from there, under this sequence.
    Replayed { sequence: u64, encoded: Vec<u8> },
}

// === impl InFlightSend ===

impl InFlightSend {
    pub fn new(group: usize, sent_at: Instant, progress: Progress) -> Self {
        InFlightSend {
            group,
            sent_at,
            progress,
            is_uncopied: false,
            id: 0,
        }
    }
}

// === impl Progress ===

impl Progress {
    /// What is left behind while the next state is made, and when whoever waited was answered.
    pub const ANSWERED: Progress = Progress::KafkaOnly { pending: None };

    pub fn take(&mut self) -> Progress {
        std::mem::replace(self, Progress::ANSWERED)
    }

    fn is_awaited(&self) -> bool {
        match self {
            Progress::Sent { .. } => true,
            Progress::KafkaOnly { pending }
            | Progress::Appended { pending }
            | Progress::AppendedAndGivenBack { pending } => pending.is_some(),
            Progress::AppendedAndDelivered | Progress::Spooled { .. } | Progress::Replayed { .. } => false,
        }
    }

    /// Who waits. Nobody does any more, and nobody needs a copy in the spool.
    pub fn take_pending(&mut self) -> Option<Pending> {
        match self {
            Progress::Sent { .. } => match self.take() {
                Progress::Sent { pending, .. } => Some(pending),
                _ => None,
            },
            Progress::KafkaOnly { pending }
            | Progress::Appended { pending }
            | Progress::AppendedAndGivenBack { pending } => pending.take(),
            Progress::AppendedAndDelivered | Progress::Spooled { .. } | Progress::Replayed { .. } => None,
        }
    }
}

// === impl InFlight ===

impl InFlight {
    pub fn insert(&mut self, mut send: InFlightSend) -> SendId {
        send.id = self.next_id;
        self.next_id += 1;
        let id = send.id;
        SendId {
            slot: self.slab.insert(send),
            id,
        }
    }

    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// The slot of the next record.
    pub fn next_slot(&self) -> usize {
        self.slab.vacant_key()
    }

    pub fn by_slot(&mut self, slot: usize) -> Option<&mut InFlightSend> {
        self.slab.get_mut(slot)
    }

    pub fn get(&mut self, id: SendId) -> Option<&mut InFlightSend> {
        self.slab.get_mut(id.slot).filter(|send| send.id == id.id)
    }

    /// The producer no longer holds it.
    pub fn remove(&mut self, slot: usize) -> InFlightSend {
        self.slab.remove(slot)
    }

    /// A buffer to encode a record into.
    pub fn spare(&mut self) -> Vec<u8> {
        self.spares.pop().unwrap_or_default()
    }

    pub fn keep_spare(&mut self, encoded: Vec<u8>) {
        if self.spares.len() < SPARES_MAX && encoded.capacity() <= SPARE_BYTES_MAX {
            self.spares.push(encoded);
        }
    }

    /// Everybody who waits: nothing more will be reported.
    pub fn give_up(&mut self) -> Vec<Pending> {
        self.slab
            .iter_mut()
            .filter_map(|(_, send)| send.progress.take_pending())
            .collect()
    }

    /// Devices that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.slab.iter().filter(|(_, send)| send.progress.is_awaited()).count()
    }

    /// To be checked when `spool_after` has passed.
    pub fn sent(&mut self, at: Instant, id: SendId) {
        self.sent.push_back((at, id));
    }

    pub fn overdue_at(&mut self, at: Instant, id: SendId) {
        self.overdue.push_back((at, id));
    }

    /// A send that was not confirmed in time.
    pub fn spool_due(&mut self, now: Instant, spool_after: Duration) -> Option<SendId> {
        due(&mut self.sent, now, spool_after)
    }

    /// When the next of them is to be looked at.
    pub fn next_due(&self, spool_after: Duration) -> Option<Instant> {
        let sent = self.sent.front().map(|(at, _)| *at + spool_after);
        let overdue = self.overdue.front().map(|(at, _)| *at);
        sent.into_iter().chain(overdue).min()
    }

    /// It was the oldest that is still to be looked at, and is again.
    pub fn check_again(&mut self, id: SendId) {
        let at = self.get(id).map(|send| send.sent_at);
        if let Some(at) = at {
            self.sent.push_front((at, id));
        }
    }

    /// So many sends of such groups that were not copied yet, oldest first.
    pub fn uncopied_of(&self, count: usize, is_of_these: impl Fn(usize) -> bool) -> Vec<SendId> {
        let is_wanted = |id: &SendId| {
            let send = self.slab.get(id.slot).filter(|send| send.id == id.id);
            send.is_some_and(|send| matches!(send.progress, Progress::Sent { .. }) && is_of_these(send.group))
        };
        let sent = self.sent.iter().map(|(_, id)| *id);
        sent.filter(is_wanted).take(count).collect()
    }

    /// The spool has entries under other sequences now.
    pub fn moved(&mut self, moved: &Compaction) {
        for (_, send) in &mut self.slab {
            if let Progress::Spooled { sequence } | Progress::Replayed { sequence, .. } = &mut send.progress
                && let Some(copy) = moved.copy_of(*sequence)
            {
                *sequence = copy;
            }
        }
    }

    /// The oldest send that was not looked at yet.
    pub fn oldest(&mut self) -> Option<SendId> {
        self.sent.pop_front().map(|(_, id)| id)
    }

    /// A send that neither Kafka nor the spool has accepted in time; those first that the spool was never given, for its
    /// queue was full.
    pub fn overdue(&mut self, now: Instant, delivery_timeout: Duration) -> Option<SendId> {
        due(&mut self.sent, now, delivery_timeout).or_else(|| due(&mut self.overdue, now, Duration::ZERO))
    }
}

fn due(deadlines: &mut Deadlines, now: Instant, after: Duration) -> Option<SendId> {
    let &(at, id) = deadlines.front()?;
    (at + after <= now).then(|| {
        deadlines.pop_front();
        id
    })
}
