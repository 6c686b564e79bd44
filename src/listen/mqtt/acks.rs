//! Answers to publishes in the order in which the publishes arrived.
//!
//! Outcomes arrive in any order; PUBACK and PUBREC leave in packet order, as [MQTT-4.6.0-2] and [MQTT-4.6.0-3] require.
//! A publish without an outcome holds back those behind it, so every receipt has a deadline (see `deliver`). The queue
//! is bounded by the session's window.

use std::collections::VecDeque;

use crate::outcome::Outcome;

/// How a publish is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// QoS 1.
    PubAck,
    /// QoS 2.
    PubRec,
}

/// A publish that waits for its answer, or for its turn.
#[derive(Debug, PartialEq, Eq)]
pub struct PendingAck {
    pub ack: Ack,
    pub pkid: u16,
    outcome: Option<Outcome>,
}

/// The answers that one connection owes.
#[derive(Debug)]
pub struct Acks {
    pending: VecDeque<PendingAck>,
    // The number of pending[0]; numbers go up by one and are the tickets that the pipeline hands back.
    first: u64,
    started_at: u64,
}

/// Answers kept allocated while nothing is owed, by a connection that has used as many: a usual window (1.5 KiB), so that
/// one after the other costs no allocation.
const IDLE_PENDING: usize = 64;

// === impl Acks ===

impl Acks {
    /// An empty queue whose next number is `number`.
    pub fn starting_at(number: u64) -> Self {
        Acks {
            pending: VecDeque::new(),
            first: number,
            started_at: number,
        }
    }

    pub fn len(&self) -> usize {
        self.pending.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The number that the next answer gets.
    pub fn next(&self) -> u64 {
        self.first + self.pending.len() as u64
    }

    /// Whether `number` was given by this connection, and not by one that had its session before.
    pub fn is_own(&self, number: u64) -> bool {
        number >= self.started_at
    }

    /// Owes an answer, and returns its number.
    pub fn push(&mut self, ack: Ack, pkid: u16) -> u64 {
        let number = self.next();
        let outcome = None;
        self.pending.push_back(PendingAck { ack, pkid, outcome });
        number
    }

    /// Owes an answer that is known already.
    pub fn push_answered(&mut self, ack: Ack, pkid: u16, outcome: Outcome) {
        let outcome = Some(outcome);
        self.pending.push_back(PendingAck { ack, pkid, outcome });
    }

    /// Notes the outcome of `number`; `None` if nothing (any more) waits under it.
    pub fn fill(&mut self, number: u64, outcome: Outcome) -> Option<&PendingAck> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let one = self.pending.get_mut(index)?;
        one.outcome.get_or_insert(outcome);
        Some(one)
    }

    /// The next answer whose turn it is.
    pub fn pop(&mut self) -> Option<(Ack, u16, Outcome)> {
        let outcome = self.pending.front_mut()?.outcome.take()?;
        let one = self.pending.pop_front()?;
        self.first += 1;
        if self.pending.is_empty() && self.pending.capacity() > IDLE_PENDING {
            self.pending.shrink_to(IDLE_PENDING);
        }
        Some((one.ack, one.pkid, outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Busy;

    fn ready(acks: &mut Acks) -> Vec<u16> {
        std::iter::from_fn(|| acks.pop()).map(|(_, pkid, _)| pkid).collect()
    }

    #[test]
    fn answers_leave_in_packet_order_whatever_order_the_outcomes_have() {
        let mut acks = Acks::starting_at(40);
        let numbers: Vec<u64> = (1..=4).map(|pkid| acks.push(Ack::PubAck, pkid)).collect();
        assert_eq!(numbers, [40, 41, 42, 43]);
        acks.fill(43, Outcome::Delivered);
        acks.fill(41, Outcome::Busy(Busy::QueueFull));
        assert_eq!(ready(&mut acks), [] as [u16; 0]);
        acks.fill(40, Outcome::Delivered);
        assert_eq!(ready(&mut acks), [1, 2]);
        acks.fill(42, Outcome::Delivered);
        assert_eq!(ready(&mut acks), [3, 4]);
        assert_eq!((acks.len(), acks.next()), (0, 44));
    }

    #[test]
    fn an_answer_known_at_once_still_waits_its_turn() {
        let mut acks = Acks::starting_at(0);
        let first = acks.push(Ack::PubAck, 1);
        acks.push_answered(Ack::PubRec, 2, Outcome::Delivered);
        assert!(acks.pop().is_none());
        acks.fill(first, Outcome::Delivered);
        assert_eq!(ready(&mut acks), [1, 2]);
    }

    #[test]
    fn an_outcome_is_taken_once_and_only_while_it_is_waited_for() {
        let mut acks = Acks::starting_at(10);
        acks.push(Ack::PubAck, 1);
        assert_eq!(acks.fill(9, Outcome::Delivered), None, "of an earlier connection");
        assert_eq!(acks.fill(11, Outcome::Delivered), None, "not given yet");
        assert!(acks.fill(10, Outcome::Delivered).is_some());
        assert!(acks.fill(10, Outcome::Busy(Busy::Dropped)).is_some());
        assert_eq!(acks.pop(), Some((Ack::PubAck, 1, Outcome::Delivered)));
        assert_eq!(acks.fill(10, Outcome::Delivered), None, "answered");
        assert!(!acks.is_own(9) && acks.is_own(10));
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let mut acks = Acks::starting_at(0);
        for pkid in 1..=10_000 {
            let number = acks.push(Ack::PubAck, pkid);
            acks.fill(number, Outcome::Delivered);
        }
        assert_eq!(ready(&mut acks).len(), 10_000);
        assert!(acks.pending.capacity() <= IDLE_PENDING);
    }
}
