//! Which devices send over a connection, and which message is next: the part that TCP streams and CoAP's datagrams
//! share. In an open loop it says when a message is due, whether or not earlier ones are answered. Encoding and the
//! socket are its caller's.

use super::clock::Nanos;
use super::context::Context;
use super::pace::Pace;
use crate::devices::Kind;
use crate::uplinks::Protocol;

/// Who sends over one connection.
#[derive(Debug)]
pub struct Sender {
    pub protocol: Protocol,
    pub kind: Kind,
    /// The kind's name in topics and paths.
    place: Box<str>,
    pub device: Box<str>,
    /// Among all connections of the run.
    pub index: usize,
    /// Among the connections of its thread.
    pub local_index: usize,
    /// The next message by the schedule of the open loop; `None` until the connection was up for the first time.
    next: Option<u64>,
    /// How many messages it has sent.
    count: u64,
}

// === impl Sender ===

impl Sender {
    /// `place` is the kind's name in topics and paths.
    pub fn new(
        protocol: Protocol,
        (kind, place): (Kind, String),
        device: &str,
        index: usize,
        local_index: usize,
    ) -> Sender {
        Sender {
            protocol,
            kind,
            place: place.into(),
            device: device.into(),
            index,
            local_index,
            next: None,
            count: 0,
        }
    }

    /// Device and kind, as in topics and paths.
    pub fn place(&self) -> (&str, &str) {
        (&self.device, &self.place)
    }

    /// Takes part in the schedule with what is due at `from` and later. Only the first call counts: a sender that loses its
    /// connection stays in, and what falls due meanwhile waits with its clock running.
    pub fn join(&mut self, from: Nanos, context: &Context) {
        if let (None, Some(schedule)) = (self.next, &context.schedule) {
            self.next = Some(schedule.first_of(self.local_index, from));
        }
    }

    /// When the next message is or was due; `None` if none is due now. In the open loop what fell due before the end is
    /// still to be sent after it.
    pub fn due(&self, context: &Context) -> Option<Nanos> {
        match &context.schedule {
            Some(schedule) => {
                let next = self.next.filter(|next| *next < context.count_due)?;
                Some(schedule.due(next))
            }
            None => (context.settings.pace == Pace::Closed && !context.draining).then_some(context.now),
        }
    }

    /// The message that was due is on its way; returns its number on this connection.
    pub fn advance(&mut self, context: &Context) -> u64 {
        if let (Some(next), Some(schedule)) = (&mut self.next, &context.schedule) {
            *next = schedule.next_of(*next);
        }
        self.count += 1;
        self.count - 1
    }

    /// Counts what was due and never sent.
    pub fn finish(&mut self, context: &mut Context) {
        let (Some(schedule), Some(mut next)) = (context.schedule, self.next) else {
            return;
        };
        while next < context.count_due {
            context.tally.not_sent(self.protocol, schedule.due(next), context.now);
            next = schedule.next_of(next);
        }
        self.next = Some(next);
    }
}
