//! Which incomplete messages are evicted while others wait for memory.
//!
//! Those of which nothing has come for [`STALLED_AFTER`], the longest silent of the peer with the most bytes first; then those
//! of a peer that has more than its share (the budget divided by the peers in it) and more than twice what the smallest peer
//! has that waits; and the one that may exceed the budget, if its rest is not complete within [`EXEMPT_FOR`].

use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::evicted::Evicted;
use super::messages::{Messages, Phase};

/// A message of which nothing came for so long is evicted when others wait.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(1);

/// How long the rest of the message that may exceed the budget may take when others wait.
pub(super) const EXEMPT_FOR: Duration = Duration::from_secs(5);

/// How often it is checked, while messages wait, which others can be evicted.
pub(super) const CHECK_EVERY: Duration = Duration::from_millis(100);

/// How often a shortage that lasts is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

// === impl Messages ===

impl Messages {
    /// Evicts messages until a sixteenth of the budget is free, or none deserves it.
    pub(super) fn evict_while_short(&mut self, now: Instant) {
        if self.checked_at.is_some_and(|at| now < at + CHECK_EVERY / 2) {
            return;
        }
        self.checked_at = Some(now);
        self.evict_largest(Evicted::Stalled, 0, now);
        self.evict_slow(now);
        let share = self.bytes_max / self.peers.len().max(1);
        // With thousands of peers the smallest that waits has more than an equal share.
        if let Some(&(smallest, _)) = self.waiting_peers.first() {
            self.evict_largest(Evicted::OverShare, share.max(2 * smallest), now);
        }
        self.log(now);
    }

    /// Evicts the message that may exceed the budget if it keeps the others waiting. No other may exceed it before it has
    /// gone: what it brought so far is in memory.
    pub(super) fn evict_slow(&mut self, now: Instant) {
        let Some(id) = self.exempt else { return };
        if self.messages[id].state != Phase::Reading || self.waiting == 0 {
            self.exempt_since = None;
            return;
        }
        let since = *self.exempt_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= EXEMPT_FOR {
            self.evict(id, Evicted::Slow, now);
        }
    }

    pub(super) fn is_short(&self) -> bool {
        self.waiting > 0 && self.used - self.evicted_bytes >= self.bytes_max - self.bytes_max / 16
    }

    /// Evicts messages of the peers with the most bytes, of which they have more than `above`: the longest silent first.
    pub(super) fn evict_largest(&mut self, why: Evicted, above: usize, now: Instant) {
        if !self.is_short() {
            return;
        }
        let mut by_peer: HashMap<IpAddr, Vec<(bool, Duration, usize)>> = HashMap::new();
        for (id, message) in &self.messages {
            let is_reading = message.state == Phase::Reading;
            let silence = now.saturating_duration_since(message.progressed_at);
            let may_go = match why {
                Evicted::Stalled => is_reading && silence >= STALLED_AFTER,
                Evicted::OverShare | Evicted::Slow => is_reading || matches!(message.state, Phase::Waiting(_)),
            };
            if may_go {
                by_peer.entry(message.peer).or_default().push((is_reading, silence, id));
            }
        }
        by_peer.values_mut().for_each(|messages| messages.sort_unstable());
        let mut largest: BinaryHeap<_> = by_peer.keys().map(|peer| (self.bytes_of(*peer), *peer)).collect();
        while self.is_short()
            && let Some((bytes, peer)) = largest.pop()
            && bytes > above
        {
            if let Some((_, _, id)) = by_peer.get_mut(&peer).and_then(Vec::pop) {
                self.evict(id, why, now);
                largest.push((self.bytes_of(peer), peer));
            }
        }
    }

    pub(super) fn bytes_of(&self, peer: IpAddr) -> usize {
        self.peers.get(&peer).map_or(0, |peer| peer.bytes)
    }

    pub(super) fn log(&mut self, now: Instant) {
        if self.used < self.bytes_max || self.logged_at.is_some_and(|at| now < at + LOG_EVERY) {
            return;
        }
        self.logged_at = Some(now);
        let [stalled, over_share, slow] = std::mem::take(&mut self.unlogged);
        warn!(
            waiting = self.waiting,
            peers = self.peers.len(),
            bytes = self.used,
            stalled,
            over_share,
            slow,
            "limits.incomplete_bytes are used up: large messages wait, those that stall, are slow, or exceed their share are evicted"
        );
    }

    pub(super) fn evict(&mut self, id: usize, why: Evicted, now: Instant) {
        self.evicted[why as usize] += 1;
        self.unlogged[why as usize] += 1;
        self.stop_waiting(id, now);
        let message = &mut self.messages[id];
        message.state = Phase::Evicted(why);
        self.evicted_bytes += message.bytes;
        let (address, bytes) = (message.peer, message.bytes);
        self.change_peer(address, |peer| peer.bytes -= bytes);
        self.wake(id);
        // If it exceeds the budget, it does so until it has gone.
        self.wake_next();
    }
}
