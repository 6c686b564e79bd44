//! What the connections of one worker thread share: the time, the schedule, the counters, the buffers. A worker
//! refreshes the time once per turn of its poller, so that all connections of that turn see the same moment.
//! Connections keep only what is their own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::clock::{Clock, Nanos};
use super::http::Head;
use super::pace::Schedule;
use super::poller::Poller;
use super::readings::{Readings, Stamp};
use super::settings::Settings;
use super::tally::Tally;
use crate::uplinks::Protocol;

/// Bytes that are read at a time; more than the longest answer, so that the rest of one always fits.
pub const INPUT_BYTES: usize = 64 * 1024;

/// What the connections of one thread share.
#[derive(Debug)]
pub struct Context {
    pub settings: Arc<Settings>,
    pub readings: Arc<Readings>,
    pub head: Head,
    pub clock: Clock,
    pub poller: Poller,
    pub tally: Tally,
    /// When the steady part ends; what would be due then is not.
    pub end: Nanos,
    /// Of the open loop.
    pub schedule: Option<Schedule>,
    /// How many messages of the schedule are due by now.
    pub count_due: u64,
    pub now: Nanos,
    pub stamp: Stamp,
    /// The number that the first reading of every device bears; later runs begin higher.
    pub first_sequence: u64,
    /// Nothing more falls due; answers are waited for.
    pub draining: bool,
    /// Connections that are being made.
    pub handshakes: usize,
    /// Connections that are up, by protocol.
    pub up: [i64; 3],
    /// Buffers, used by one connection at a time.
    pub input: Vec<u8>,
    pub output: Vec<u8>,
}

// === impl Context ===

impl Context {
    /// Looks at the clock.
    pub fn tick(&mut self) {
        self.now = self.clock.now();
        if !self.stamp.is_current(self.now) {
            self.stamp = Stamp::new(self.now, self.clock.unix_ms(self.now));
        }
        if !self.draining
            && let Some(schedule) = &self.schedule
        {
            self.count_due = schedule.count_due(self.now.min(self.end.saturating_sub(1)));
        }
    }

    pub fn address(&self, protocol: Protocol) -> Option<SocketAddr> {
        let mut targets = self.settings.targets.iter();
        targets
            .find(|(target, _)| *target == protocol)
            .map(|(_, address)| *address)
    }

    /// The address that the `index`th connection sends from, if it matters.
    pub fn source(&self, index: usize) -> Option<IpAddr> {
        let sources = &self.settings.sources;
        (!sources.is_empty()).then(|| sources[index % sources.len()])
    }

    /// What was due before this moment and has no answer counts as unanswered.
    pub fn overdue_before(&self) -> Nanos {
        self.now.saturating_sub(super::clock::nanos(self.settings.timeout))
    }
}
