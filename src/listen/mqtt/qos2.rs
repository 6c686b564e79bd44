//! The QoS 2 packet ids of a session: which readings were accepted and not yet released.
//!
//! Method B of MQTT 5.0 §4.3.3: a reading is passed on at its first PUBLISH, and its packet id is remembered until
//! PUBREL, so that a repetition is answered again and not passed on again. A hash of the content is remembered with
//! the id: a client that has lost its memory in a crash uses ids again for other readings, and those are passed on. It
//! belongs to the session, so it outlives the connection (`sessions`), but not the gateway: after a restart a repeated
//! PUBLISH is a new reading (once becomes at least once), and a PUBREL is answered *packet identifier not found*.
//! Bounded: an id that would exceed the bound is refused, never forgotten; 16 bytes each, 24 more while the outcome is
//! open.

use std::hash::Hasher;

use super::packet;

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

/// A packet id that is not released, and a hash of what was published under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    pkid: u16,
    content: u64,
}

/// A reading whose outcome is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flight {
    // The pipeline knows the reading by `ticket`; its PUBREC leaves from `slot`, which differs from the ticket if the
    // device repeated the publish on a later connection.
    ticket: u64,
    slot: u64,
    pkid: u16,
    // Whether the device has used its packet id again for another reading: only its answer is still owed.
    superseded: bool,
}

/// The packet ids of one session.
#[derive(Debug, Default)]
pub struct Qos2 {
    // Sorted by packet id: small, and cheap to keep for a session whose client is not connected.
    open: Vec<Open>,
    // Sorted by ticket, as tickets go up; at most one of each packet id, but for those that are superseded.
    flights: Vec<Flight>,
}

/// Ids for which memory is kept while none is open, so that one reading after the other costs no allocation.
const IDLE_IDS: usize = 4;

/// A hash of a publish: the topic that its alias stands for, a hash of its other properties, the payload. Equal hashes
/// under one packet id of one session are a repetition: that two readings share one by chance is as likely as 1 in 2^64.
pub fn content(topic: &str, properties: u64, payload: &[u8]) -> u64 {
    let mut hasher = packet::hasher();
    hasher.write_u64(properties);
    hasher.write_usize(topic.len());
    hasher.write(topic.as_bytes());
    hasher.write(payload);
    hasher.finish()
}

// === impl Qos2 ===

impl Qos2 {
    /// Judges a PUBLISH with this `content`; `ids_max` bounds what is remembered.
    pub fn seen(&self, pkid: u16, content: u64, ids_max: usize) -> Seen {
        match self.find(pkid) {
            Ok(index) if self.open[index].content == content => self
                .in_flight(pkid)
                .map_or(Seen::Received, |flight| Seen::InFlight { slot: flight.slot }),
            // Whatever its DUP flag says: the client does not know any more what it sent under this id.
            Ok(_) => Seen::New,
            Err(_) if self.open.len() >= ids_max => Seen::Full,
            Err(_) => Seen::New,
        }
    }

    /// Remembers a new reading that the pipeline was given under `ticket`, which is above all before it. What had its
    /// packet id before is not released any more; while its outcome is open, its answer is still owed.
    pub fn accept(&mut self, pkid: u16, content: u64, ticket: u64) {
        let open = Open { pkid, content };
        match self.find(pkid) {
            Ok(index) => {
                self.open[index] = open;
                let before = self.flights.iter_mut().filter(|flight| flight.pkid == pkid);
                before.for_each(|flight| flight.superseded = true);
            }
            Err(index) => self.open.insert(index, open),
        }
        self.flights.push(Flight {
            ticket,
            slot: ticket,
            pkid,
            superseded: false,
        });
    }

    /// The answer to a reading in flight is now owed under `slot`.
    pub fn redirect(&mut self, pkid: u16, slot: u64) {
        let mut flights = self.flights.iter_mut();
        if let Some(flight) = flights.find(|flight| flight.pkid == pkid && !flight.superseded) {
            flight.slot = slot;
        }
    }

    /// The outcome of the reading in flight under `ticket` is known: a positive answer waits for its PUBREL, a negative
    /// one ends the exchange [MQTT-4.3.3-9]. Returns where the answer is owed; `None` if that reading is not known (any
    /// more).
    pub fn settle(&mut self, ticket: u64, positive: bool) -> Option<u64> {
        let index = self.flights.binary_search_by_key(&ticket, |flight| flight.ticket);
        let flight = self.flights.remove(index.ok()?);
        if !positive
            && !flight.superseded
            && let Ok(index) = self.find(flight.pkid)
        {
            self.open.remove(index);
        }
        Some(flight.slot)
    }

    /// PUBREL: whether the packet id was known. A reading whose outcome is open cannot have been answered, and stays.
    pub fn release(&mut self, pkid: u16) -> bool {
        let Ok(index) = self.find(pkid) else { return false };
        if self.in_flight(pkid).is_some() {
            return false;
        }
        self.open.remove(index);
        if self.open.is_empty() {
            self.open.shrink_to(IDLE_IDS);
            self.flights.shrink_to(IDLE_IDS);
        }
        true
    }

    /// The connection ends, and with it what it owed: no connection waits any more for what is superseded.
    pub fn forget_superseded(&mut self) {
        self.flights.retain(|flight| !flight.superseded);
    }

    pub fn any_in_flight(&self) -> bool {
        !self.flights.is_empty()
    }

    /// Gives back memory before the session is put aside.
    pub fn shrink(&mut self) {
        self.open.shrink_to_fit();
        self.flights.shrink_to_fit();
    }

    fn in_flight(&self, pkid: u16) -> Option<&Flight> {
        let mut flights = self.flights.iter();
        flights.find(|flight| flight.pkid == pkid && !flight.superseded)
    }

    fn find(&self, pkid: u16) -> Result<usize, usize> {
        self.open.binary_search_by_key(&pkid, |open| open.pkid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_accepted_once_until_it_is_released() {
        let mut ids = Qos2::default();
        assert_eq!(ids.seen(7, 1, 10), Seen::New);
        ids.accept(7, 1, 100);
        assert_eq!(ids.seen(7, 1, 10), Seen::InFlight { slot: 100 });
        assert!(!ids.release(7), "not answered yet");
        assert_eq!(ids.settle(100, true), Some(100));
        assert_eq!(ids.settle(100, true), None, "settled");
        assert_eq!(ids.seen(7, 1, 10), Seen::Received);
        assert!(!ids.any_in_flight());
        assert!(ids.release(7));
        assert!(!ids.release(7), "released twice");
        assert_eq!(ids.seen(7, 1, 10), Seen::New);
    }

    #[test]
    fn a_negative_answer_ends_the_exchange() {
        let mut ids = Qos2::default();
        ids.accept(7, 1, 1);
        ids.settle(1, false);
        assert_eq!(ids.seen(7, 1, 10), Seen::New);
        assert!(!ids.release(7));
    }

    #[test]
    fn a_repetition_on_a_later_connection_moves_the_answer_and_not_the_reading() {
        let mut ids = Qos2::default();
        ids.accept(7, 1, 3);
        ids.accept(9, 1, 4);
        ids.redirect(7, 20);
        assert_eq!(ids.seen(7, 1, 10), Seen::InFlight { slot: 20 });
        assert_eq!(
            ids.settle(20, true),
            None,
            "20 is where it is answered, not what it is known by"
        );
        assert_eq!(ids.settle(3, true), Some(20));
        assert_eq!(ids.settle(4, true), Some(4));
    }

    #[test]
    fn another_content_is_another_reading_under_the_same_id() {
        let mut ids = Qos2::default();
        // After the first was answered.
        ids.accept(7, 1, 3);
        ids.settle(3, true);
        assert_eq!(ids.seen(7, 2, 1), Seen::New, "and needs no more room");
        ids.accept(7, 2, 4);
        assert_eq!(ids.seen(7, 2, 1), Seen::InFlight { slot: 4 });
        // While it is in flight: its outcome, even a negative one, says nothing of the one that has its id now.
        ids.accept(7, 3, 5);
        assert_eq!(ids.settle(4, false), Some(4));
        assert_eq!(ids.settle(4, false), None, "settled");
        assert_eq!(ids.seen(7, 3, 1), Seen::InFlight { slot: 5 });
        ids.settle(5, true);
        assert_eq!(ids.seen(7, 3, 1), Seen::Received);
        assert!(ids.release(7) && !ids.any_in_flight());
    }

    #[test]
    fn the_answer_to_a_repetition_is_owed_though_its_packet_id_is_used_again() {
        for positive in [true, false] {
            let mut ids = Qos2::default();
            ids.accept(7, 1, 3);
            // Repeated on a later connection, which then uses the id for another reading, and repeats that.
            ids.redirect(7, 20);
            ids.accept(7, 2, 21);
            assert_eq!(ids.seen(7, 2, 1), Seen::InFlight { slot: 21 });
            assert!(!ids.release(7), "the second is not answered");
            assert_eq!(
                ids.settle(3, positive),
                Some(20),
                "the first is answered where it was repeated"
            );
            assert_eq!(ids.seen(7, 2, 1), Seen::InFlight { slot: 21 }, "whatever its outcome");
            ids.accept(7, 3, 22);
            ids.forget_superseded();
            assert_eq!(
                ids.settle(21, positive),
                None,
                "nobody waits after the connection has ended"
            );
            assert_eq!(ids.settle(22, true), Some(22));
            assert!(ids.release(7) && !ids.any_in_flight());
        }
    }

    #[test]
    fn the_number_of_ids_is_bounded_and_none_is_forgotten() {
        let mut ids = Qos2::default();
        for pkid in [5, 1, 3] {
            ids.accept(pkid, 1, pkid.into());
            ids.settle(pkid.into(), true);
        }
        assert_eq!(ids.seen(2, 1, 3), Seen::Full);
        for pkid in [1, 3, 5] {
            assert_eq!(ids.seen(pkid, 1, 3), Seen::Received);
        }
        ids.release(3);
        assert_eq!(ids.seen(2, 1, 3), Seen::New);
        assert_eq!((size_of::<Open>(), size_of::<Flight>()), (16, 24));
    }

    #[test]
    fn content_is_told_apart_by_topic_properties_and_payload() {
        let of = [
            content("a/b", 1, b"c"),
            content("a/", 1, b"bc"),
            content("a/b", 2, b"c"),
            content("a/b", 1, b"d"),
            content("a/b", 1, b""),
        ];
        for (index, one) in of.iter().enumerate() {
            assert!(!of[..index].contains(one), "{index}");
        }
        assert_eq!(of[0], content("a/b", 1, b"c"));
    }
}
