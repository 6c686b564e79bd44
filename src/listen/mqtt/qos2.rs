//! The QoS 2 packet ids of a session: which readings were taken in and not yet released.
//!
//! Method B of MQTT 5.0 §4.3.3: a reading is passed on at its first PUBLISH, and its packet id is remembered until
//! PUBREL, so that a repetition is answered again and not passed on again. It belongs to the session, so it outlives
//! the connection (`sessions`), but not the gateway: after a restart a repeated PUBLISH is a new reading (once becomes at
//! least once), and a PUBREL is answered *packet identifier not found*. Bounded: an id that would exceed the bound is
//! refused, never forgotten.

/// What a PUBLISH with some packet id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A reading not seen before.
    New,
    /// A repetition of one whose outcome is still open; its answer is owed under this number.
    InFlight { slot: u64 },
    /// A repetition of one that was answered positively.
    Received,
    /// More ids than may be remembered.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    // The pipeline knows the reading by `ticket`; its PUBREC leaves from `slot`, which differs from the ticket if the
    // device repeated the publish on a later connection.
    InFlight { ticket: u64, slot: u64 },
    Received,
}

/// The packet ids of one session.
#[derive(Debug, Default)]
pub struct Qos2 {
    // Sorted by packet id: small, and cheap to keep for a session that is away.
    ids: Vec<(u16, Phase)>,
}

// === impl Qos2 ===

impl Qos2 {
    /// Judges a PUBLISH; `ids_max` bounds what is remembered.
    pub fn seen(&self, pkid: u16, ids_max: usize) -> Seen {
        match self.find(pkid).map(|index| self.ids[index].1) {
            Ok(Phase::Received) => Seen::Received,
            Ok(Phase::InFlight { slot, .. }) => Seen::InFlight { slot },
            Err(_) if self.ids.len() >= ids_max => Seen::Full,
            Err(_) => Seen::New,
        }
    }

    /// Remembers a new reading that the pipeline was given under `ticket`.
    pub fn take_in(&mut self, pkid: u16, ticket: u64) {
        let phase = Phase::InFlight { ticket, slot: ticket };
        match self.find(pkid) {
            Ok(index) => self.ids[index].1 = phase,
            Err(index) => self.ids.insert(index, (pkid, phase)),
        }
    }

    /// The answer to a reading in flight is now owed under `slot`.
    pub fn redirect(&mut self, pkid: u16, slot: u64) {
        if let Ok(index) = self.find(pkid)
            && let Phase::InFlight { slot: owed, .. } = &mut self.ids[index].1
        {
            *owed = slot;
        }
    }

    /// The packet id, and where its answer is owed, of the reading in flight under `ticket`.
    pub fn in_flight(&self, ticket: u64) -> Option<(u16, u64)> {
        self.ids.iter().find_map(|(pkid, phase)| match phase {
            Phase::InFlight { ticket: own, slot } if *own == ticket => Some((*pkid, *slot)),
            _ => None,
        })
    }

    /// The outcome is known: a positive answer waits for its PUBREL, a negative one ends the exchange [MQTT-4.3.3-9].
    pub fn settle(&mut self, pkid: u16, positive: bool) {
        if let Ok(index) = self.find(pkid) {
            match positive {
                true => self.ids[index].1 = Phase::Received,
                false => drop(self.ids.remove(index)),
            }
        }
    }

    /// PUBREL: whether the packet id was known. A reading whose outcome is open cannot have been answered, and stays.
    pub fn release(&mut self, pkid: u16) -> bool {
        match self.find(pkid) {
            Ok(index) if self.ids[index].1 == Phase::Received => {
                self.ids.remove(index);
                if self.ids.is_empty() {
                    self.ids = Vec::new();
                }
                true
            }
            _ => false,
        }
    }

    pub fn any_in_flight(&self) -> bool {
        self.ids.iter().any(|(_, phase)| *phase != Phase::Received)
    }

    /// Gives back memory before the session is put aside.
    pub fn shrink(&mut self) {
        self.ids.shrink_to_fit();
    }

    fn find(&self, pkid: u16) -> Result<usize, usize> {
        self.ids.binary_search_by_key(&pkid, |(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_taken_in_once_until_it_is_released() {
        let mut ids = Qos2::default();
        assert_eq!(ids.seen(7, 10), Seen::New);
        ids.take_in(7, 100);
        assert_eq!(ids.seen(7, 10), Seen::InFlight { slot: 100 });
        assert!(!ids.release(7), "not answered yet");
        assert_eq!(ids.in_flight(100), Some((7, 100)));
        ids.settle(7, true);
        assert_eq!(ids.seen(7, 10), Seen::Received);
        assert!(!ids.any_in_flight());
        assert!(ids.release(7));
        assert!(!ids.release(7), "released twice");
        assert_eq!(ids.seen(7, 10), Seen::New);
    }

    #[test]
    fn a_negative_answer_ends_the_exchange() {
        let mut ids = Qos2::default();
        ids.take_in(7, 1);
        ids.settle(7, false);
        assert_eq!(ids.seen(7, 10), Seen::New);
        assert!(!ids.release(7));
    }

    #[test]
    fn a_repetition_on_a_later_connection_moves_the_answer_and_not_the_reading() {
        let mut ids = Qos2::default();
        ids.take_in(7, 3);
        ids.take_in(9, 4);
        ids.redirect(7, 20);
        assert_eq!(ids.in_flight(3), Some((7, 20)));
        assert_eq!(ids.in_flight(4), Some((9, 4)));
        assert_eq!(
            ids.in_flight(20),
            None,
            "20 is where it is answered, not what it is known by"
        );
    }

    #[test]
    fn the_number_of_ids_is_bounded_and_none_is_forgotten() {
        let mut ids = Qos2::default();
        for pkid in [5, 1, 3] {
            ids.take_in(pkid, pkid.into());
            ids.settle(pkid, true);
        }
        assert_eq!(ids.seen(2, 3), Seen::Full);
        for pkid in [1, 3, 5] {
            assert_eq!(ids.seen(pkid, 3), Seen::Received);
        }
        ids.release(3);
        assert_eq!(ids.seen(2, 3), Seen::New);
    }
}
