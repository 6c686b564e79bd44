//! Room for messages of which a part has arrived: charged as bytes arrive, never for what is only announced.
//!
//! Limits:
//! * The first [`FREE_BYTES`] of a message are free: the connection maxima bound them, and nearly every reading is
//!   smaller. While the room is full, a connection that has none of it is read no further than that.
//! * All others together have `limits.incomplete_bytes`. It may be exceeded by what one read brings, per thread, by
//!   [`SPARE_BYTES`] per message that waits, and by one largest message.
//!
//! Whoever has data for which there is no room waits and is not read. The waiting message whose peer has the fewest bytes
//! goes first, and one at a time may exceed the room, so that messages that all wait for each other end. While one waits,
//! others are given up: those of which nothing has come for [`STALLED_AFTER`], the longest silent of the peer with the
//! most bytes first; then those of a peer that has more than its share (the room divided by the peers in it), if one
//! that has less is waiting. A peer is an IPv4 address or an IPv6 network of 64 bits: many devices may be behind it, so
//! its share is enforced only then. A small message never comes here, and takes no lock.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};
use slab::Slab;
use tokio::time::{Instant, Sleep};
use tracing::warn;

use crate::metrics::ReadingMetrics;
use crate::outcome::{Busy, Outcome, Reason, Rejection};

/// Bytes of a message that may be there without room.
pub const FREE_BYTES: usize = 4 * 1024;

/// Bytes that are read of a message for which there is no room, to see whether there is more of it.
pub const SPARE_BYTES: usize = 1024;

/// A message of which nothing came for so long is given up when others wait.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// How long the message that may exceed the room may take for its rest when others wait.
const EXCEEDS_FOR: Duration = Duration::from_secs(5);

/// How often one that waits looks for those that can be given up.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often a shortage that lasts is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Why a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// Nothing of it came while others waited.
    Stalled,
    /// Its peer had more than its share while others waited.
    OverShare,
    /// It was the one that is read beyond the limit, and took too long for its rest while others waited.
    Slow,
}

/// The room of all connections.
#[derive(Clone, Debug)]
pub struct Room(Arc<Shared>);

/// The room as one peer finds it.
#[derive(Clone, Debug)]
pub struct PeerRoom {
    room: Room,
    peer: IpAddr,
}

/// What one incomplete message has of the room; dropped, it gives it back.
#[derive(Debug)]
pub struct Part {
    room: Room,
    id: usize,
    bytes: usize,
    held: bool,
    waits_since: Option<Instant>,
    // Of the one that looks for others to be given up.
    look: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    // The same as in `inner`, for those who only ask whether it is full.
    used: AtomicUsize,
    inner: Mutex<Inner>,
    gauge: IntGauge,
    waits: IntCounter,
    evicted: [IntCounter; 3],
}

#[derive(Debug, Default)]
struct Inner {
    bytes_max: usize,
    used: usize,
    // Of messages that are given up and not dropped yet.
    leaving: usize,
    messages: Slab<Message>,
    peers: HashMap<IpAddr, Peer>,
    waiting: usize,
    // May exceed the room.
    express: Option<usize>,
    // Since when others are seen to wait meanwhile.
    express_since: Option<Instant>,
    // Looks for messages to be given up, on behalf of all that wait.
    watcher: Option<usize>,
    looked_at: Option<Instant>,
    // By reason; not counted yet.
    evicted: [u64; 3],
    unlogged: [u64; 3],
    logged_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Peer {
    // But for those of messages that are given up.
    bytes: usize,
    messages: usize,
    waiting: VecDeque<usize>,
}

#[derive(Debug)]
struct Message {
    peer: IpAddr,
    bytes: usize,
    progressed_at: Instant,
    state: State,
    // What was read last was read without room; `overdrawn`: and something came.
    short: bool,
    overdrawn: bool,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is up to the peer to send.
    Reading,
    /// It is up to the room.
    Waiting,
    /// It is up to the gateway, for another reason.
    Held,
    Evicted(Evicted),
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Read(usize),
    Wait { watch: bool },
    Evicted(Evicted),
}

/// The address by which a peer's share is counted.
fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

// === impl Evicted ===

impl Evicted {
    const LABELS: [&'static str; 3] = ["stalled", "over_share", "slow"];

    /// What the message is answered.
    pub fn outcome(self) -> Outcome {
        match self {
            Evicted::Stalled | Evicted::Slow => Rejection::new(Reason::TooSlow, self.text()).into(),
            Evicted::OverShare => Outcome::Busy(Busy::ShareExceeded),
        }
    }

    /// For people and devices: one short sentence.
    pub fn text(self) -> &'static str {
        match self {
            Evicted::Stalled => "nothing more of the message came for a second while others waited for room",
            Evicted::OverShare => Busy::ShareExceeded.text(),
            Evicted::Slow => {
                "the rest of the message took longer than five seconds while others waited for room; send it again later"
            }
        }
    }
}

// === impl Room ===

impl Room {
    /// Room for `bytes_max` bytes.
    pub fn new(bytes_max: usize, metrics: &ReadingMetrics) -> Self {
        metrics.incomplete_bytes_max.set(bytes_max as i64);
        let evicted = &metrics.incomplete_evicted_total;
        Room(Arc::new(Shared {
            bytes_max,
            used: AtomicUsize::new(0),
            inner: Mutex::new(Inner {
                bytes_max,
                ..Inner::default()
            }),
            gauge: metrics.incomplete_bytes.clone(),
            waits: metrics.incomplete_waits_total.clone(),
            evicted: Evicted::LABELS.map(|reason| evicted.with_label_values(&[reason])),
        }))
    }

    pub fn for_peer(&self, address: IpAddr) -> PeerRoom {
        PeerRoom {
            room: self.clone(),
            peer: peer_of(address),
        }
    }

    /// Bytes of incomplete messages now; also written to the gauge.
    pub fn observe(&self) -> usize {
        let used = self.0.used.load(Ordering::Relaxed);
        self.0.gauge.set(used as i64);
        used
    }

    // Runs `change` on what is inside, and keeps what is read without the lock.
    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner: MutexGuard<'_, Inner> = self.0.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut inner);
        self.0.used.store(inner.used, Ordering::Relaxed);
        for (counter, count) in self.0.evicted.iter().zip(std::mem::take(&mut inner.evicted)) {
            if count > 0 {
                counter.inc_by(count);
            }
        }
        result
    }
}

// === impl PeerRoom ===

impl PeerRoom {
    /// Whether nothing more fits; one relaxed load.
    pub fn is_full(&self) -> bool {
        self.room.0.used.load(Ordering::Relaxed) >= self.room.0.bytes_max
    }

    /// Charges a message of which `bytes` are there. They are there already, so it never fails.
    pub fn enter(&self, bytes: usize) -> Part {
        let id = self.room.with(|inner| inner.enter(self.peer, bytes, Instant::now()));
        Part {
            room: self.room.clone(),
            id,
            bytes,
            held: false,
            waits_since: None,
            look: None,
        }
    }
}

// === impl Part ===

impl Part {
    /// Charges `bytes` in all instead of what was charged before.
    pub fn arrived(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.bytes = bytes;
            self.room.with(|inner| inner.arrived(self.id, bytes, Instant::now()));
        }
    }

    /// How many bytes may be read now; pending until any may. While the peer is read, call it before each attempt, also
    /// one that finds nothing: it wakes the task when the message is given up.
    ///
    /// # Errors
    /// The message is given up.
    pub fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, Evicted>> {
        self.held = false;
        loop {
            let now = Instant::now();
            let turn = self.room.with(|inner| inner.turn(self.id, context.waker(), now));
            match turn {
                Turn::Read(bytes) => {
                    (self.waits_since, self.look) = (None, None);
                    return Poll::Ready(Ok(bytes));
                }
                Turn::Evicted(why) => return Poll::Ready(Err(why)),
                Turn::Wait { watch } => {
                    if self.waits_since.is_none() {
                        self.waits_since = Some(now);
                        self.room.0.waits.inc();
                    }
                    if !watch {
                        self.look = None;
                        return Poll::Pending;
                    }
                }
            }
            match &mut self.look {
                Some(look) => {
                    ready!(look.as_mut().poll(context));
                    look.as_mut().reset(now + LOOK_EVERY);
                }
                none => *none = Some(Box::pin(tokio::time::sleep(LOOK_EVERY))),
            }
            self.room.with(|inner| inner.make_room(now));
        }
    }

    /// Since when it has data for which there is no room.
    pub fn waits_since(&self) -> Option<Instant> {
        self.waits_since
    }

    /// The gateway does not read it now for reasons of its own: silence is not the peer's fault.
    pub fn hold(&mut self) {
        if !self.held {
            self.held = true;
            (self.waits_since, self.look) = (None, None);
            self.room.with(|inner| inner.hold(self.id));
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.room.with(|inner| inner.leave(self.id));
    }
}

// === impl Inner ===

impl Inner {
    fn enter(&mut self, address: IpAddr, bytes: usize, now: Instant) -> usize {
        let peer = self.peers.entry(address).or_default();
        peer.bytes += bytes;
        peer.messages += 1;
        self.used += bytes;
        let id = self.messages.insert(Message {
            peer: address,
            bytes,
            progressed_at: now,
            state: State::Reading,
            short: false,
            overdrawn: false,
            waker: None,
        });
        // Its peer has more now: another one may be next.
        self.wake_next();
        id
    }

    fn arrived(&mut self, id: usize, bytes: usize, now: Instant) {
        let message = &mut self.messages[id];
        let before = std::mem::replace(&mut message.bytes, bytes);
        message.progressed_at = now;
        message.overdrawn |= message.short;
        self.used = self.used + bytes - before;
        if matches!(message.state, State::Evicted(_)) {
            self.leaving = self.leaving + bytes - before;
        } else if let Some(peer) = self.peers.get_mut(&message.peer) {
            peer.bytes = peer.bytes + bytes - before;
        }
        self.wake_next();
    }

    fn turn(&mut self, id: usize, waker: &Waker, now: Instant) -> Turn {
        let message = &mut self.messages[id];
        if let State::Evicted(why) = message.state {
            return Turn::Evicted(why);
        }
        if !message.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            message.waker = Some(waker.clone());
        }
        if message.state == State::Held {
            (message.state, message.progressed_at) = (State::Reading, now);
        }
        if self.has_room(id) {
            self.stop_waiting(id, now);
            let message = &mut self.messages[id];
            (message.short, message.overdrawn) = (false, false);
            self.wake_next();
            return Turn::Read(usize::MAX);
        }
        let message = &mut self.messages[id];
        if !message.overdrawn {
            message.short = true;
            return Turn::Read(SPARE_BYTES);
        }
        if message.state == State::Reading {
            message.state = State::Waiting;
            let address = message.peer;
            self.waiting += 1;
            self.peers.entry(address).or_default().waiting.push_back(id);
            self.make_room(now);
            self.wake_next();
            return self.turn(id, waker, now);
        }
        // Woken as the next, it may no longer be that: then the one that is must not sleep.
        self.wake_next();
        let watcher = *self.watcher.get_or_insert(id);
        Turn::Wait { watch: watcher == id }
    }

    fn has_room(&self, id: usize) -> bool {
        self.express == Some(id) || self.used < self.bytes_max && self.next().is_none_or(|next| next == id)
    }

    /// The first of the poorest peer that waits.
    fn next(&self) -> Option<usize> {
        if self.waiting == 0 {
            return None;
        }
        let waiting = self.peers.values().filter(|peer| !peer.waiting.is_empty());
        let poorest = waiting.min_by_key(|peer| peer.bytes)?;
        poorest.waiting.front().copied()
    }

    /// Wakes whoever may read next: where there is room, or beyond it if nobody else is.
    fn wake_next(&mut self) {
        if self.used < self.bytes_max {
            (self.express, self.express_since) = (None, None);
        }
        let Some(next) = self.next() else { return };
        if self.used >= self.bytes_max {
            if self.express.is_some() {
                return;
            }
            self.express = Some(next);
        }
        self.wake(next);
    }

    fn wake(&self, id: usize) {
        if let Some(waker) = &self.messages[id].waker {
            waker.wake_by_ref();
        }
    }

    fn stop_waiting(&mut self, id: usize, now: Instant) {
        let message = &mut self.messages[id];
        if message.state != State::Waiting {
            return;
        }
        (message.state, message.progressed_at) = (State::Reading, now);
        self.waiting -= 1;
        if let Some(peer) = self.peers.get_mut(&message.peer) {
            peer.waiting.retain(|waiting| *waiting != id);
        }
        if self.watcher == Some(id) {
            // Another one that waits looks from now on.
            self.watcher = self.next();
            if let Some(watcher) = self.watcher {
                self.wake(watcher);
            }
        }
    }

    fn hold(&mut self, id: usize) {
        let state = self.messages[id].state;
        if matches!(state, State::Evicted(_)) {
            return;
        }
        self.stop_waiting(id, self.messages[id].progressed_at);
        if self.express == Some(id) {
            self.express_since = None;
        }
        // What it has read beyond the limit stays in memory, so it stays the one that may exceed it.
        self.messages[id].state = State::Held;
        self.wake_next();
    }

    fn leave(&mut self, id: usize) {
        self.stop_waiting(id, self.messages[id].progressed_at);
        let message = self.messages.remove(id);
        self.used -= message.bytes;
        if let Some(peer) = self.peers.get_mut(&message.peer) {
            peer.messages -= 1;
            match message.state {
                State::Evicted(_) => self.leaving -= message.bytes,
                _ => peer.bytes -= message.bytes,
            }
            if peer.messages == 0 {
                self.peers.remove(&message.peer);
            }
        }
        self.give_way(id);
    }

    fn give_way(&mut self, id: usize) {
        if self.express == Some(id) {
            (self.express, self.express_since) = (None, None);
        }
        self.wake_next();
    }

    /// Gives messages up until a sixteenth of the room is free, or nobody is to blame.
    fn make_room(&mut self, now: Instant) {
        if self.looked_at.is_some_and(|at| now < at + LOOK_EVERY / 2) {
            return;
        }
        self.looked_at = Some(now);
        self.give_up(Evicted::Stalled, 0, now);
        self.give_up_slow(now);
        let share = self.bytes_max / self.peers.len().max(1);
        // With thousands of peers the least that waits is more than an equal share.
        let waiting = self.peers.values().filter(|peer| !peer.waiting.is_empty());
        if let Some(least) = waiting.map(|peer| peer.bytes).min() {
            self.give_up(Evicted::OverShare, share.max(2 * least), now);
        }
        self.log(now);
    }

    /// Gives up the message that may exceed the room if it keeps the others waiting. Nobody else may exceed it before it
    /// has gone: what it brought so far is in memory.
    fn give_up_slow(&mut self, now: Instant) {
        let Some(id) = self.express else { return };
        if self.messages[id].state != State::Reading || self.waiting == 0 {
            self.express_since = None;
            return;
        }
        let since = *self.express_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= EXCEEDS_FOR {
            self.evict(id, Evicted::Slow, now);
        }
    }

    fn is_short(&self) -> bool {
        self.waiting > 0 && self.used - self.leaving >= self.bytes_max - self.bytes_max / 16
    }

    /// Gives up messages of the peers with the most bytes, of which they have more than `above`: the longest silent first.
    fn give_up(&mut self, why: Evicted, above: usize, now: Instant) {
        if !self.is_short() {
            return;
        }
        let mut by_peer: HashMap<IpAddr, Vec<(bool, Duration, usize)>> = HashMap::new();
        for (id, message) in &self.messages {
            let is_reading = message.state == State::Reading;
            let silence = now.saturating_duration_since(message.progressed_at);
            let may_go = match why {
                Evicted::Stalled => is_reading && silence >= STALLED_AFTER,
                Evicted::OverShare | Evicted::Slow => is_reading || message.state == State::Waiting,
            };
            if may_go {
                by_peer.entry(message.peer).or_default().push((is_reading, silence, id));
            }
        }
        by_peer.values_mut().for_each(|messages| messages.sort_unstable());
        let mut richest: BinaryHeap<_> = by_peer.keys().map(|peer| (self.bytes_of(*peer), *peer)).collect();
        while self.is_short()
            && let Some((bytes, peer)) = richest.pop()
            && bytes > above
        {
            if let Some((_, _, id)) = by_peer.get_mut(&peer).and_then(Vec::pop) {
                self.evict(id, why, now);
                richest.push((self.bytes_of(peer), peer));
            }
        }
    }

    fn bytes_of(&self, peer: IpAddr) -> usize {
        self.peers.get(&peer).map_or(0, |peer| peer.bytes)
    }

    fn log(&mut self, now: Instant) {
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
            "limits.incomplete_bytes are used up: large messages wait, those that stall, are slow, or exceed their share are given up"
        );
    }

    fn evict(&mut self, id: usize, why: Evicted, now: Instant) {
        self.evicted[why as usize] += 1;
        self.unlogged[why as usize] += 1;
        self.stop_waiting(id, now);
        let message = &mut self.messages[id];
        message.state = State::Evicted(why);
        self.leaving += message.bytes;
        if let Some(peer) = self.peers.get_mut(&message.peer) {
            peer.bytes -= message.bytes;
        }
        self.wake(id);
        // If it exceeds the room, it does so until it has gone.
        self.wake_next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 1000;

    /// Whether a task was woken.
    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicBool);

    impl Woken {
        fn take(&self) -> bool {
            self.0.swap(false, Ordering::Relaxed)
        }
    }

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    struct Table {
        inner: Inner,
        now: Instant,
    }

    impl Table {
        fn new() -> Self {
            Table {
                inner: Inner {
                    bytes_max: ROOM,
                    ..Inner::default()
                },
                now: Instant::now(),
            }
        }

        fn enter(&mut self, peer: u8, bytes: usize) -> usize {
            self.inner.enter([10, 0, 0, peer].into(), bytes, self.now)
        }

        fn turn(&mut self, id: usize) -> Turn {
            self.inner.turn(id, Waker::noop(), self.now)
        }

        /// One whose data finds no room: it may see whether there is more, and there is.
        fn overdrawn(&mut self, peer: u8, bytes: usize) -> usize {
            let id = self.enter(peer, bytes);
            assert_eq!(self.turn(id), Turn::Read(SPARE_BYTES));
            self.inner.arrived(id, bytes + 1, self.now);
            id
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }
    }

    #[test]
    fn while_there_is_room_everybody_is_read() {
        let mut table = Table::new();
        let (a, b) = (table.enter(1, 500), table.enter(1, 499));
        assert_eq!(table.turn(a), Turn::Read(usize::MAX));
        assert_eq!(table.turn(b), Turn::Read(usize::MAX));
        table.inner.arrived(b, 800, table.now);
        assert_eq!(table.inner.used, 1300);
        assert_eq!(table.turn(b), Turn::Read(SPARE_BYTES), "to see whether there is more");
        table.inner.leave(a);
        assert_eq!(table.turn(b), Turn::Read(usize::MAX));
        table.inner.leave(b);
        assert_eq!((table.inner.used, table.inner.peers.len()), (0, 0));
    }

    /// They all have a part and wait for the rest: one at a time goes beyond the room, so all of them end.
    #[test]
    fn messages_that_wait_for_each_other_end() {
        let mut table = Table::new();
        let mut ids: Vec<_> = (0..10).map(|_| table.enter(1, 100)).collect();
        for id in &ids {
            assert_eq!(table.turn(*id), Turn::Read(SPARE_BYTES));
            table.inner.arrived(*id, 110, table.now);
        }
        while !ids.is_empty() {
            let turns: Vec<_> = ids.iter().map(|id| table.turn(*id)).collect();
            let goes = turns.iter().position(|turn| *turn == Turn::Read(usize::MAX));
            let id = ids.remove(goes.expect("somebody goes on"));
            table.inner.arrived(id, 200, table.now);
            table.inner.leave(id);
        }
        assert_eq!(table.inner.used, 0);
        assert_eq!(table.inner.evicted, [0, 0, 0], "nobody is given up for it");
    }

    #[test]
    fn the_peer_with_the_fewest_bytes_goes_first() {
        let mut table = Table::new();
        let rich: Vec<_> = (0..3).map(|_| table.enter(1, 330)).collect();
        let express = table.overdrawn(1, 20);
        assert_eq!(table.turn(express), Turn::Read(usize::MAX), "nobody else waits");
        for id in &rich {
            assert_eq!(table.turn(*id), Turn::Read(SPARE_BYTES));
            table.inner.arrived(*id, 331, table.now);
            assert!(matches!(table.turn(*id), Turn::Wait { .. }));
        }
        let poor = table.overdrawn(2, 10);
        assert!(matches!(table.turn(poor), Turn::Wait { watch: false }));
        table.inner.leave(express);
        assert_eq!(table.turn(poor), Turn::Read(usize::MAX), "though it came last");
        assert!(matches!(table.turn(rich[0]), Turn::Wait { .. }));
    }

    #[test]
    fn who_stands_still_is_given_up_when_others_wait_the_richest_peer_first() {
        let mut table = Table::new();
        let small = table.enter(1, 200);
        let older = table.enter(2, 400);
        let newer = table.enter(2, 390);
        table.inner.arrived(older, 399, table.now);
        table.pass(STALLED_AFTER);
        table.inner.arrived(newer, 391, table.now);
        let waits = table.overdrawn(3, 20);
        assert_eq!(table.turn(waits), Turn::Read(usize::MAX));
        assert_eq!(table.turn(older), Turn::Evicted(Evicted::Stalled));
        assert_eq!(table.turn(newer), Turn::Read(SPARE_BYTES), "it has just sent something");
        assert_eq!(table.turn(small), Turn::Read(SPARE_BYTES), "there was room enough");
        assert_eq!(table.inner.used, 200 + 399 + 391 + 21, "charged until it has gone");
        table.inner.leave(older);
        assert_eq!(table.inner.used, 200 + 391 + 21);
    }

    #[test]
    fn who_is_not_read_by_the_gateway_does_not_stand_still() {
        let mut table = Table::new();
        let held = table.enter(1, 1000);
        table.inner.hold(held);
        table.pass(10 * STALLED_AFTER);
        let waits = table.overdrawn(1, 20);
        assert_eq!(table.turn(waits), Turn::Read(usize::MAX));
        assert_eq!(table.turn(held), Turn::Read(SPARE_BYTES));
        assert_eq!(table.inner.evicted, [0, 0, 0]);
    }

    #[test]
    fn one_message_at_a_time_exceeds_the_room_also_while_the_gateway_holds_it() {
        let mut table = Table::new();
        let exceeds = table.enter(1, ROOM);
        assert_eq!(table.turn(exceeds), Turn::Read(SPARE_BYTES));
        table.inner.arrived(exceeds, ROOM + 1, table.now);
        assert_eq!(table.turn(exceeds), Turn::Read(usize::MAX));
        table.inner.arrived(exceeds, 2 * ROOM, table.now);
        table.inner.hold(exceeds);
        let next = table.overdrawn(2, 20);
        assert!(matches!(table.turn(next), Turn::Wait { .. }), "it is in memory still");
        table.inner.leave(exceeds);
        assert_eq!(table.turn(next), Turn::Read(usize::MAX));
    }

    #[test]
    fn who_exceeds_the_room_must_be_quick_while_others_wait() {
        let mut table = Table::new();
        table.enter(1, ROOM);
        let slow = table.overdrawn(2, 1);
        assert_eq!(table.turn(slow), Turn::Read(usize::MAX));
        let trickle = |table: &mut Table| {
            let (first, bytes) = (0, table.inner.messages[slow].bytes);
            table.inner.arrived(first, ROOM, table.now);
            table.inner.arrived(slow, bytes + 1, table.now);
            table.pass(LOOK_EVERY);
            table.inner.make_room(table.now);
        };
        (0..100).for_each(|_| trickle(&mut table));
        assert_eq!(table.turn(slow), Turn::Read(usize::MAX), "nobody else waits");
        let waits = table.overdrawn(2, 1);
        assert!(matches!(table.turn(waits), Turn::Wait { .. }));
        (0..40).for_each(|_| trickle(&mut table));
        assert_eq!(table.turn(slow), Turn::Read(usize::MAX), "five seconds are not over");
        (0..20).for_each(|_| trickle(&mut table));
        assert_eq!(table.turn(slow), Turn::Evicted(Evicted::Slow));
        assert!(matches!(table.turn(waits), Turn::Wait { .. }), "it is in memory still");
        table.inner.leave(slow);
        assert_eq!(table.turn(waits), Turn::Read(usize::MAX));
    }

    #[test]
    fn a_share_is_enforced_only_for_a_peer_that_has_less() {
        let mut table = Table::new();
        let rich: Vec<_> = (0..10).map(|_| table.enter(1, 100)).collect();
        let of_the_same = table.overdrawn(1, 20);
        table.turn(of_the_same);
        assert_eq!(table.inner.evicted, [0, 0, 0]);
        table.pass(LOOK_EVERY);
        let of_another = table.overdrawn(2, 20);
        table.turn(of_another);
        assert_eq!(
            table.inner.evicted,
            [0, 2, 0],
            "no more than makes a sixteenth of the room free"
        );
        let (used, leaving) = (table.inner.used, table.inner.leaving);
        assert!(used - leaving < ROOM - ROOM / 16, "{used} - {leaving}");
        let of_the_rich = rich
            .iter()
            .filter(|id| table.turn(**id) == Turn::Evicted(Evicted::OverShare));
        assert!(of_the_rich.count() > 0);
    }

    #[test]
    fn a_share_is_enforced_also_where_there_are_more_peers_than_fit_by_what_waits() {
        let mut table = Table::new();
        let largest: Vec<_> = (0..9).map(|_| table.enter(1, 100)).collect();
        for peer in 2..=251 {
            table.enter(peer, 1);
        }
        let waits = table.overdrawn(252, 20);
        table.turn(waits);
        assert!(
            table.inner.evicted[1] > 0,
            "20 bytes are more than an equal share of 1000 / 252"
        );
        let evicted = largest
            .iter()
            .filter(|id| table.turn(**id) == Turn::Evicted(Evicted::OverShare));
        assert_eq!(evicted.count() as u64, table.inner.evicted[1], "of the largest only");
    }

    #[test]
    fn who_was_woken_and_is_no_longer_next_wakes_the_one_that_is() {
        let mut table = Table::new();
        let first = table.enter(3, ROOM);
        let exceeds = table.overdrawn(3, 1);
        assert_eq!(table.turn(exceeds), Turn::Read(usize::MAX));
        let (one, two) = (table.overdrawn(1, 10), table.overdrawn(2, 20));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        for id in [one, two] {
            assert!(matches!(table.turn(id), Turn::Wait { .. }));
        }
        assert!(matches!(table.inner.turn(two, &waker, table.now), Turn::Wait { .. }));
        table.inner.leave(exceeds);
        table.inner.leave(first);
        assert!(!woken.take(), "the peer with the fewest bytes is next");
        table.enter(1, 30);
        assert!(woken.take(), "its peer has more bytes now");
        assert!(matches!(table.turn(one), Turn::Wait { .. }));
        assert!(woken.take(), "nor does one that waits again keep the turn to itself");
        assert_eq!(table.turn(two), Turn::Read(usize::MAX));
    }

    #[test]
    fn a_peer_is_an_address_or_a_network_of_ipv6() {
        let check = |address: &str, expected: &str| {
            assert_eq!(peer_of(address.parse().unwrap()).to_string(), expected);
        };
        check("192.0.2.7", "192.0.2.7");
        check("::ffff:192.0.2.7", "192.0.2.7");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
    }
}
