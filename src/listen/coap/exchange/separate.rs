//! Answers that come too late for the acknowledgement (RFC 7252 §5.2.2): the empty acknowledgement in their stead, then a
//! confirmable response, repeated with doubling waits until the peer acknowledges it, resets it, or the repetitions are used up (§4.2).
//!
//! The clock is an argument, so a test can move it.

use std::time::Instant;

use rand::RngExt;

use super::super::endpoints::Endpoints;
use super::super::packet::Message;
use super::slots::{Separate, State, slot};
use super::{Exchanges, Outgoing};

// === impl Exchanges ===

impl Exchanges {
    /// How often a response may be repeated of which `transmissions` may be sent.
    pub(super) fn repetitions(&self, transmissions: usize) -> u32 {
        let repetitions = u32::try_from(transmissions.saturating_sub(1)).unwrap_or(u32::MAX);
        repetitions.min(self.config.max_retransmit)
    }

    pub(super) fn await_acknowledgement(
        &mut self,
        now: Instant,
        ends: Endpoints,
        mid: u16,
        message: Message,
        repetitions: u32,
    ) {
        let factor = self.config.random_factor();
        let timeout = self.config.ack_timeout.mul_f64(self.random.random_range(1.0..=factor));
        let separate = Separate {
            mid,
            message,
            timeout,
            repetitions_left: repetitions,
        };
        let ticket = self.insert(ends, Some(now + timeout), State::Separate(separate));
        self.separate.insert((ends, mid), ticket);
    }

    /// The response was not acknowledged in time: it is sent again, unless its repetitions are used up.
    pub(super) fn repeat(&mut self, now: Instant, ticket: u64, out: &mut Vec<Outgoing>) {
        let exchange = &mut self.open[slot(ticket)];
        let ends = exchange.ends;
        let State::Separate(separate) = &mut exchange.state else {
            return;
        };
        if separate.repetitions_left == 0 {
            let mid = separate.mid;
            return self.stop(ends, mid);
        }
        separate.repetitions_left -= 1;
        separate.timeout *= 2;
        let at = now + separate.timeout;
        exchange.due = Some(at);
        out.push(Outgoing {
            ends,
            message: separate.message.clone(),
        });
        self.counters.retransmissions.inc();
        self.schedule(at, ticket);
    }

    /// Our message of this id needs no more repeating.
    pub(super) fn stop(&mut self, ends: Endpoints, mid: u16) {
        if let Some(ticket) = self.separate.remove(&(ends, mid)) {
            self.open.remove(slot(ticket));
        }
    }

    /// An id under which nothing of ours awaits this peer's acknowledgement.
    pub(super) fn free_mid(&mut self, ends: Endpoints) -> u16 {
        let mut mid = self.peers.next_mid(ends);
        // Ends: there are more ids than `SEPARATE_MAX`.
        while self.separate.contains_key(&(ends, mid)) {
            mid = mid.wrapping_add(1);
        }
        mid
    }
}
