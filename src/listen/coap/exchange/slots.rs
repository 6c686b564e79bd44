//! An open exchange: what it waits for, and the ticket under which it is found.
//!
//! Types only; what is done with them is said in the files beside this one.

use std::time::{Duration, Instant};

use slab::Slab;

use super::super::endpoints::Endpoints;
use super::super::packet::Message;
use super::request::Waiting;

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) generation: u32,
    pub(super) ends: Endpoints,
    pub(super) due: Option<Instant>,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// For the reading's outcome.
    Waiting(Waiting),
    /// For the acknowledgement of our response.
    Separate(Separate),
    /// For the time at which this response to a multicast request is to be sent.
    Delayed(Message),
}

/// More would leave a single peer without free message ids.
pub(super) const SEPARATE_MAX: usize = 32_768;

#[derive(Debug)]
pub(super) struct Separate {
    pub(super) mid: u16,
    pub(super) message: Message,
    pub(super) timeout: Duration,
    pub(super) repetitions_left: u32,
}

// A ticket is a slot and the generation of what is in it, so that a late answer finds nothing rather than another.
pub(super) fn slot(ticket: u64) -> usize {
    (ticket & u64::from(u32::MAX)) as usize
}

pub(super) fn find(open: &Slab<Exchange>, ticket: u64) -> Option<&Exchange> {
    open.get(slot(ticket))
        .filter(|exchange| u64::from(exchange.generation) == ticket >> 32)
}
