//! What was sent to a multicast or broadcast address (RFC 7252 §8): to us, and to others.
//!
//! Groups are not joined, but a host belongs to some by itself, and to the broadcast address of each of its networks.
//! Answered is only a non-confirmable GET that there is something to say to (§8.2): the list of streams, or what matches
//! a filter on it, at a random moment, so that not all who were asked answer at once. Nothing else is: no error, no
//! Reset, no acknowledgement. A reading is never accepted: it would be stored by every gateway that receives it.

use std::time::{Duration, Instant};

use coap_lite::{MessageType, Packet};
use rand::RngExt;

use super::super::blocks::Blocks;
use super::super::endpoints::Endpoints;
use super::super::packet::{self, Head, Message, Unanswered, Verdict};
use super::super::resource::{self, Wanted};
use super::slots::{State, slot};
use super::{Exchanges, Key, Outgoing, Request};

/// The time within which a response to a multicast request is sent (DEFAULT_LEISURE, §4.8).
pub(super) const LEISURE: Duration = Duration::from_secs(5);

/// Responses that await their moment; further requests are ignored.
pub(super) const DELAYED_MAX: usize = 64;

// === impl Exchanges ===

impl Exchanges {
    pub(super) fn on_multicast(&mut self, now: Instant, ends: Endpoints, datagram: &[u8], verdict: Verdict<'_>) {
        let message = match verdict {
            Verdict::Request(head) if !head.confirmable && head.code == packet::GET && self.delayed < DELAYED_MAX => {
                self.list_for_many(now, ends, datagram, head)
            }
            _ => None,
        };
        let Some(message) = message else {
            return self.counters.unanswered(Unanswered::Multicast);
        };
        let at = now + LEISURE.mul_f64(self.random.random());
        self.insert(ends, Some(at), State::Delayed(message));
        self.delayed += 1;
    }

    /// The response to a discovery, if it has anything to say and is wanted.
    fn list_for_many(&mut self, now: Instant, ends: Endpoints, datagram: &[u8], head: Head<'_>) -> Option<Message> {
        let packet = Packet::from_bytes(datagram).ok()?;
        // No duplicate of it is remembered.
        let key = Key {
            ends,
            mid: head.mid,
            fingerprint: 0,
        };
        let request = Request::new(key, &head, &packet, datagram.len());
        let list = |packet: &Packet, blocks: Blocks| self.discover(now, &request, packet, blocks.response);
        match resource::find(&packet, head.code, head.oversize, list).0 {
            Wanted::Answer(response, _)
                if response.is_positive() && !response.payload.is_empty() && request.wants(&response) =>
            {
                self.counters.response(response.code);
                let mid = self.free_mid(ends);
                Some(packet::encode(
                    MessageType::NonConfirmable,
                    mid,
                    &request.token,
                    &response,
                ))
            }
            _ => None,
        }
    }

    /// The moment of a delayed response has come.
    pub(super) fn send_delayed(&mut self, ticket: u64, out: &mut Vec<Outgoing>) {
        let exchange = self.open.remove(slot(ticket));
        if let State::Delayed(message) = exchange.state {
            self.delayed -= 1;
            let ends = exchange.ends;
            out.push(Outgoing { ends, message });
        }
    }
}
