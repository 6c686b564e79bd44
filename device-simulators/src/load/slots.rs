//! The messages of one connection that wait for an answer.
//!
//! There are as many slots as the window allows, so an unanswered message holds back later ones and memory is bounded. A
//! message that was given up keeps its slot until its answer comes after all or the connection ends: its number must not
//! be given to another message before, or the late answer would count as that one's. Slots are used in rotation, so
//! that where answers come in order, they come in the order of the slots.

use std::collections::VecDeque;

use super::clock::Nanos;

/// The messages of one connection that wait for an answer.
#[derive(Debug, Default)]
pub struct Slots {
    states: Box<[State]>,
    free: VecDeque<u16>,
    waiting: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// Since it was due.
    Waiting(Nanos),
    GivenUp,
}

/// What an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// A message that was due then.
    Waited(Nanos),
    /// One that was given up before.
    Late,
    Nothing,
}

// === impl Slots ===

impl Slots {
    pub fn new(window: u16) -> Slots {
        Slots {
            states: vec![State::Free; usize::from(window)].into(),
            free: (0..window).collect(),
            waiting: 0,
        }
    }

    /// How many messages wait.
    pub fn waiting(&self) -> u16 {
        self.waiting
    }

    /// Whether one more may be sent if `limit` messages may be unanswered at a time; given up is not answered.
    pub fn has_room(&self, limit: u16) -> bool {
        !self.free.is_empty() && self.states.len() - self.free.len() < usize::from(limit)
    }

    /// A slot for a message that was due at `due`.
    pub fn take(&mut self, due: Nanos) -> Option<u16> {
        let slot = self.free.pop_front()?;
        self.states[usize::from(slot)] = State::Waiting(due);
        self.waiting += 1;
        Some(slot)
    }

    /// An answer to the message in `slot`, which is free afterwards.
    pub fn answer(&mut self, slot: u16) -> Match {
        let Some(state) = self.states.get_mut(usize::from(slot)) else {
            return Match::Nothing;
        };
        let found = match *state {
            State::Free => return Match::Nothing,
            State::Waiting(due) => Match::Waited(due),
            State::GivenUp => Match::Late,
        };
        *state = State::Free;
        self.free.push_back(slot);
        self.waiting -= u16::from(found != Match::Late);
        found
    }

    /// Gives up what was due before `limit`; calls `expired` with the slot and the time of each.
    pub fn give_up(&mut self, limit: Nanos, mut expired: impl FnMut(u16, Nanos)) {
        if self.waiting == 0 {
            return;
        }
        for (slot, state) in self.states.iter_mut().enumerate() {
            if let State::Waiting(due) = *state
                && due < limit
            {
                *state = State::GivenUp;
                self.waiting -= 1;
                expired(slot as u16, due);
            }
        }
    }

    /// Forgets everything, as when the connection ends; calls `lost` for each message that waited.
    pub fn clear(&mut self, mut lost: impl FnMut(Nanos)) {
        for state in &mut self.states {
            if let State::Waiting(due) = std::mem::replace(state, State::Free) {
                lost(due);
            }
        }
        self.waiting = 0;
        self.free.clear();
        self.free.extend(0..self.states.len() as u16);
    }

    /// Whether the message in `slot` is still waited for, and since when it was due.
    pub fn waits(&self, slot: u16) -> Option<Nanos> {
        match self.states.get(usize::from(slot)) {
            Some(State::Waiting(due)) => Some(*due),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_bounds_what_waits_and_an_answer_makes_room() {
        let mut slots = Slots::new(2);
        assert_eq!(
            (slots.take(10), slots.take(20), slots.take(30)),
            (Some(0), Some(1), None)
        );
        assert_eq!(slots.answer(1), Match::Waited(20));
        assert_eq!(slots.answer(1), Match::Nothing, "answered twice");
        assert_eq!(slots.answer(7), Match::Nothing, "never used");
        assert_eq!((slots.take(30), slots.waiting()), (Some(1), 2));
    }

    #[test]
    fn slots_are_given_in_rotation() {
        let mut slots = Slots::new(3);
        let given: Vec<u16> = (0..7)
            .map(|due| {
                let slot = slots.take(due).unwrap();
                slots.answer(slot);
                slot
            })
            .collect();
        assert_eq!(given, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn what_was_given_up_keeps_its_number_until_its_answer_comes() {
        let mut slots = Slots::new(2);
        slots.take(10);
        slots.take(20);
        let mut expired = Vec::new();
        slots.give_up(15, |slot, due| expired.push((slot, due)));
        assert!(!slots.has_room(2));
        assert_eq!(expired, [(0, 10)]);
        assert_eq!((slots.waiting(), slots.take(30)), (1, None));
        assert_eq!(slots.answer(0), Match::Late);
        assert_eq!(slots.take(30), Some(0));
        let mut lost = Vec::new();
        slots.clear(|due| lost.push(due));
        assert_eq!(
            (lost.as_slice(), slots.waiting(), slots.take(40)),
            ([30, 20].as_slice(), 0, Some(0))
        );
    }
}
