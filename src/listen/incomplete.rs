//! Room for messages of which a part has arrived: charged as bytes arrive, never for what is only announced.
//!
//! Limits:
//! * The first [`FREE_BYTES`] of a message are free: the connection maxima bound them, and nearly every reading is
//!   smaller. While the room is full, a connection that has none of it is read no further than that.
//! * All others together have `limits.incomplete_bytes`. It may be exceeded by what one read brings, per thread; by what
//!   a message that waits brought before: what it had when it was charged first, and the [`SPARE_BYTES`] (or what else
//!   its listener reads at once) by which it was seen that there is more; and by one message of the largest size.
//!
//! Whoever has data for which there is no room waits and is not read. The waiting message whose peer has the fewest bytes
//! goes first. So that messages that all wait for each other end, one at a time is exempt from the limit, until it has
//! gone or there is room again. While messages wait, others are given up: those of which nothing has come for
//! [`STALLED_AFTER`], the longest silent of the peer with the most bytes first; then those of a peer that has more than
//! its share (the room divided by the peers in it) and more than twice what the smallest peer has that waits; and the
//! exempt one, if its rest takes longer than [`EXEMPT_FOR`]. A peer is an IPv4 address or an IPv6 network of 64 bits: many
//! devices may be behind it, so its share is enforced only then. A small message never comes here, and takes no lock.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
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

use crate::operate::metrics::ReadingMetrics;
use crate::outcome::{Busy, Outcome, Reason, Rejection};

/// Bytes of a message that may be there without room.
pub const FREE_BYTES: usize = 4 * 1024;

/// Bytes that are read of a message for which there is no room, to see whether there is more of it.
pub const SPARE_BYTES: usize = 1024;

/// A message of which nothing came for so long is given up when others wait.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// How long the message that may exceed the room may take for its rest when others wait.
const EXEMPT_FOR: Duration = Duration::from_secs(5);

/// How often it is checked, while messages wait, which others can be given up.
const CHECK_EVERY: Duration = Duration::from_millis(100);

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
    // Set while this message waits and is the one that checks whether others can be given up.
    timer: Option<Pin<Box<Sleep>>>,
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
    // Bytes of messages that are given up and not dropped yet; `used` contains them.
    leaving: usize,
    messages: Slab<Message>,
    peers: HashMap<IpAddr, Peer>,
    waiting: usize,
    // Peers with a message that waits, by their bytes: the smallest goes first.
    waiting_peers: BTreeSet<(usize, IpAddr)>,
    // Numbers the messages in the order in which they began to wait.
    last_ticket: u64,
    // The message that is read beyond the limit.
    exempt: Option<usize>,
    // When it was first seen to keep others waiting.
    exempt_since: Option<Instant>,
    // The waiting message whose timer checks whether others can be given up, on behalf of all that wait.
    checker: Option<usize>,
    checked_at: Option<Instant>,
    // By reason; not counted yet.
    evicted: [u64; 3],
    unlogged: [u64; 3],
    logged_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Peer {
    // Bytes of its messages; those of messages that are given up no longer count.
    bytes: usize,
    messages: usize,
    // By ticket.
    waiting: BTreeMap<u64, usize>,
}

#[derive(Debug)]
struct Message {
    peer: IpAddr,
    bytes: usize,
    progressed_at: Instant,
    state: State,
    // There was no room when it was last read, so it was only probed for more data.
    probed: bool,
    // The probe found some: the message must wait for room.
    has_more: bool,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is up to the peer to send.
    Reading,
    /// It is up to the room; with its ticket.
    Waiting(u64),
    /// It is up to the gateway, for another reason.
    Held,
    Evicted(Evicted),
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Read(usize),
    Wait { checks: bool },
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
            timer: None,
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
                    (self.waits_since, self.timer) = (None, None);
                    return Poll::Ready(Ok(bytes));
                }
                Turn::Evicted(why) => return Poll::Ready(Err(why)),
                Turn::Wait { checks } => {
                    if self.waits_since.is_none() {
                        self.waits_since = Some(now);
                        self.room.0.waits.inc();
                    }
                    if !checks {
                        self.timer = None;
                        return Poll::Pending;
                    }
                }
            }
            match &mut self.timer {
                Some(timer) => {
                    ready!(timer.as_mut().poll(context));
                    timer.as_mut().reset(now + CHECK_EVERY);
                }
                none => *none = Some(Box::pin(tokio::time::sleep(CHECK_EVERY))),
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
            (self.waits_since, self.timer) = (None, None);
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
        self.used += bytes;
        self.change_peer(address, |peer| {
            peer.bytes += bytes;
            peer.messages += 1;
        });
        let id = self.messages.insert(Message {
            peer: address,
            bytes,
            progressed_at: now,
            state: State::Reading,
            probed: false,
            has_more: false,
            waker: None,
        });
        // Its peer has more now: another one may be next.
        self.wake_next();
        id
    }

    /// Changes a peer and its place among those that wait.
    fn change_peer(&mut self, address: IpAddr, change: impl FnOnce(&mut Peer)) {
        let peer = self.peers.entry(address).or_default();
        if !peer.waiting.is_empty() {
            self.waiting_peers.remove(&(peer.bytes, address));
        }
        change(peer);
        if !peer.waiting.is_empty() {
            self.waiting_peers.insert((peer.bytes, address));
        }
        if peer.messages == 0 {
            self.peers.remove(&address);
        }
    }

    fn arrived(&mut self, id: usize, bytes: usize, now: Instant) {
        let message = &mut self.messages[id];
        let before = std::mem::replace(&mut message.bytes, bytes);
        message.progressed_at = now;
        message.has_more |= message.probed;
        let (address, state) = (message.peer, message.state);
        self.used = self.used + bytes - before;
        if matches!(state, State::Evicted(_)) {
            self.leaving = self.leaving + bytes - before;
        } else {
            self.change_peer(address, |peer| peer.bytes = peer.bytes + bytes - before);
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
            (message.probed, message.has_more) = (false, false);
            self.wake_next();
            return Turn::Read(usize::MAX);
        }
        let message = &mut self.messages[id];
        if !message.has_more {
            message.probed = true;
            return Turn::Read(SPARE_BYTES);
        }
        if message.state == State::Reading {
            self.last_ticket += 1;
            let ticket = self.last_ticket;
            message.state = State::Waiting(ticket);
            let address = message.peer;
            self.waiting += 1;
            self.change_peer(address, |peer| {
                peer.waiting.insert(ticket, id);
            });
            self.make_room(now);
            self.wake_next();
            return self.turn(id, waker, now);
        }
        // Woken as the next, it may no longer be that: then the one that is must not sleep.
        self.wake_next();
        let checker = *self.checker.get_or_insert(id);
        Turn::Wait { checks: checker == id }
    }

    fn has_room(&self, id: usize) -> bool {
        self.exempt == Some(id) || self.used < self.bytes_max && self.next().is_none_or(|next| next == id)
    }

    /// The first of the smallest peer that waits.
    fn next(&self) -> Option<usize> {
        let (_, smallest) = self.waiting_peers.first()?;
        self.peers.get(smallest)?.waiting.values().next().copied()
    }

    /// Wakes whoever may read next: where there is room, or beyond it if nobody else is.
    fn wake_next(&mut self) {
        if self.used < self.bytes_max {
            (self.exempt, self.exempt_since) = (None, None);
        }
        let Some(next) = self.next() else { return };
        if self.used >= self.bytes_max {
            if self.exempt.is_some() {
                return;
            }
            self.exempt = Some(next);
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
        let State::Waiting(ticket) = message.state else { return };
        (message.state, message.progressed_at) = (State::Reading, now);
        let address = message.peer;
        self.waiting -= 1;
        self.change_peer(address, |peer| {
            peer.waiting.remove(&ticket);
        });
        if self.checker == Some(id) {
            // Another one that waits checks from now on.
            self.checker = self.next();
            if let Some(checker) = self.checker {
                self.wake(checker);
            }
        }
    }

    fn hold(&mut self, id: usize) {
        let state = self.messages[id].state;
        if matches!(state, State::Evicted(_)) {
            return;
        }
        self.stop_waiting(id, self.messages[id].progressed_at);
        if self.exempt == Some(id) {
            self.exempt_since = None;
        }
        // What it has read beyond the limit stays in memory, so it stays the one that may exceed it.
        self.messages[id].state = State::Held;
        self.wake_next();
    }

    fn leave(&mut self, id: usize) {
        self.stop_waiting(id, self.messages[id].progressed_at);
        let message = self.messages.remove(id);
        self.used -= message.bytes;
        let is_evicted = matches!(message.state, State::Evicted(_));
        if is_evicted {
            self.leaving -= message.bytes;
        }
        self.change_peer(message.peer, |peer| {
            peer.messages -= 1;
            peer.bytes -= if is_evicted { 0 } else { message.bytes };
        });
        if self.exempt == Some(id) {
            (self.exempt, self.exempt_since) = (None, None);
        }
        self.wake_next();
    }

    /// Gives messages up until a sixteenth of the room is free, or nobody is to blame.
    fn make_room(&mut self, now: Instant) {
        if self.checked_at.is_some_and(|at| now < at + CHECK_EVERY / 2) {
            return;
        }
        self.checked_at = Some(now);
        self.give_up(Evicted::Stalled, 0, now);
        self.give_up_slow(now);
        let share = self.bytes_max / self.peers.len().max(1);
        // With thousands of peers the smallest that waits has more than an equal share.
        if let Some(&(smallest, _)) = self.waiting_peers.first() {
            self.give_up(Evicted::OverShare, share.max(2 * smallest), now);
        }
        self.log(now);
    }

    /// Gives up the message that may exceed the room if it keeps the others waiting. Nobody else may exceed it before it
    /// has gone: what it brought so far is in memory.
    fn give_up_slow(&mut self, now: Instant) {
        let Some(id) = self.exempt else { return };
        if self.messages[id].state != State::Reading || self.waiting == 0 {
            self.exempt_since = None;
            return;
        }
        let since = *self.exempt_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= EXEMPT_FOR {
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
                Evicted::OverShare | Evicted::Slow => is_reading || matches!(message.state, State::Waiting(_)),
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
        let (address, bytes) = (message.peer, message.bytes);
        self.change_peer(address, |peer| peer.bytes -= bytes);
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

        fn is_set(&self) -> bool {
            self.0.load(Ordering::Relaxed)
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
        fn with_more(&mut self, peer: u8, bytes: usize) -> usize {
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
        let large: Vec<_> = (0..3).map(|_| table.enter(1, 330)).collect();
        let exempt = table.with_more(1, 20);
        assert_eq!(table.turn(exempt), Turn::Read(usize::MAX), "nobody else waits");
        for id in &large {
            assert_eq!(table.turn(*id), Turn::Read(SPARE_BYTES));
            table.inner.arrived(*id, 331, table.now);
            assert!(matches!(table.turn(*id), Turn::Wait { .. }));
        }
        let small = table.with_more(2, 10);
        assert!(matches!(table.turn(small), Turn::Wait { checks: false }));
        table.inner.leave(exempt);
        assert_eq!(table.turn(small), Turn::Read(usize::MAX), "though it came last");
        assert!(matches!(table.turn(large[0]), Turn::Wait { .. }));
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
        let waits = table.with_more(3, 20);
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
        let waits = table.with_more(1, 20);
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
        let next = table.with_more(2, 20);
        assert!(matches!(table.turn(next), Turn::Wait { .. }), "it is in memory still");
        table.inner.leave(exceeds);
        assert_eq!(table.turn(next), Turn::Read(usize::MAX));
    }

    #[test]
    fn who_exceeds_the_room_must_be_quick_while_others_wait() {
        let mut table = Table::new();
        table.enter(1, ROOM);
        let slow = table.with_more(2, 1);
        assert_eq!(table.turn(slow), Turn::Read(usize::MAX));
        let trickle = |table: &mut Table| {
            let (first, bytes) = (0, table.inner.messages[slow].bytes);
            table.inner.arrived(first, ROOM, table.now);
            table.inner.arrived(slow, bytes + 1, table.now);
            table.pass(CHECK_EVERY);
            table.inner.make_room(table.now);
        };
        (0..100).for_each(|_| trickle(&mut table));
        assert_eq!(table.turn(slow), Turn::Read(usize::MAX), "nobody else waits");
        let waits = table.with_more(2, 1);
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
        let large: Vec<_> = (0..10).map(|_| table.enter(1, 100)).collect();
        let of_the_same = table.with_more(1, 20);
        table.turn(of_the_same);
        assert_eq!(table.inner.evicted, [0, 0, 0]);
        table.pass(CHECK_EVERY);
        let of_another = table.with_more(2, 20);
        table.turn(of_another);
        assert_eq!(
            table.inner.evicted,
            [0, 2, 0],
            "no more than makes a sixteenth of the room free"
        );
        let (used, leaving) = (table.inner.used, table.inner.leaving);
        assert!(used - leaving < ROOM - ROOM / 16, "{used} - {leaving}");
        let of_the_large = large
            .iter()
            .filter(|id| table.turn(**id) == Turn::Evicted(Evicted::OverShare));
        assert!(of_the_large.count() > 0);
    }

    #[test]
    fn a_share_is_enforced_also_where_there_are_more_peers_than_fit_by_what_waits() {
        let mut table = Table::new();
        let largest: Vec<_> = (0..9).map(|_| table.enter(1, 100)).collect();
        for peer in 2..=251 {
            table.enter(peer, 1);
        }
        let waits = table.with_more(252, 20);
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
        let exceeds = table.with_more(3, 1);
        assert_eq!(table.turn(exceeds), Turn::Read(usize::MAX));
        let (one, two) = (table.with_more(1, 10), table.with_more(2, 20));
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

    /// Devices that send, stop, are held and come back, in an order that the seed decides.
    struct Crowd {
        inner: Inner,
        now: Instant,
        random: u64,
        peers: usize,
        sending: Vec<Sender>,
    }

    struct Sender {
        id: usize,
        missing: usize,
        waits: bool,
        held: bool,
        woken: Arc<Woken>,
    }

    impl Crowd {
        const ROOM: usize = 100_000;
        const ENTERS: usize = 6000;
        const READ: usize = 64 * 1024;
        const LARGEST: usize = 256 * 1024;
        const SENDING: usize = 32;

        fn new(seed: u64) -> Self {
            Crowd {
                inner: Inner {
                    bytes_max: Self::ROOM,
                    ..Inner::default()
                },
                now: Instant::now(),
                random: seed,
                peers: 1 + seed as usize % 12,
                sending: Vec::new(),
            }
        }

        /// Below `below`; a linear congruential generator.
        fn random(&mut self, below: usize) -> usize {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.random >> 33) as usize % below
        }

        fn enter(&mut self) {
            let bytes = FREE_BYTES + 1 + self.random(Self::ENTERS - FREE_BYTES - 1);
            let peer = [10, 0, 0, self.random(self.peers) as u8];
            let missing = self.random(Self::LARGEST - bytes);
            self.sending.push(Sender {
                id: self.inner.enter(peer.into(), bytes, self.now),
                missing,
                waits: false,
                held: false,
                woken: Arc::default(),
            });
        }

        /// One turn of a sender, which sends up to `most` bytes if it may. One that is there whole goes, or is held before.
        fn turn(&mut self, index: usize, most: usize) {
            let holds_whole = self.random(2) == 0;
            let sender = &mut self.sending[index];
            let is_whole = sender.missing == 0;
            (sender.waits, sender.held) = (false, false);
            sender.woken.take();
            let waker = Waker::from(sender.woken.clone());
            match self.inner.turn(sender.id, &waker, self.now) {
                Turn::Wait { .. } if !is_whole => sender.waits = true,
                Turn::Read(bytes) if !is_whole => {
                    let sent = bytes.min(most).min(sender.missing);
                    sender.missing -= sent;
                    if sent > 0 {
                        let bytes = self.inner.messages[sender.id].bytes + sent;
                        self.inner.arrived(sender.id, bytes, self.now);
                    }
                    if sender.missing == 0 && holds_whole {
                        self.hold(index);
                    } else if sender.missing == 0 {
                        self.leave(index);
                    }
                }
                _ => self.leave(index),
            }
        }

        fn hold(&mut self, index: usize) {
            let sender = &mut self.sending[index];
            (sender.waits, sender.held) = (false, true);
            self.inner.hold(sender.id);
        }

        fn leave(&mut self, index: usize) {
            let gone = self.sending.swap_remove(index);
            self.inner.leave(gone.id);
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            if self.inner.waiting > 0 {
                self.inner.make_room(self.now);
            }
        }

        fn step(&mut self) {
            let index = self.random(Self::SENDING);
            match self.random(64) {
                0..8 if self.sending.len() < Self::SENDING => self.enter(),
                8 => {
                    let time = Duration::from_millis(self.random(1000) as u64);
                    self.pass(time);
                }
                9 if index < self.sending.len() => {
                    self.hold(index);
                }
                10 if index < self.sending.len() => {
                    self.leave(index);
                }
                choice if index < self.sending.len() && (!self.sending[index].held || choice == 11) => {
                    let most = self.random(Self::READ);
                    self.turn(index, most);
                }
                _ => {}
            }
        }

        fn check(&self) {
            let inner = &self.inner;
            let used: usize = inner.messages.iter().map(|(_, message)| message.bytes).sum();
            let of_peers: usize = inner.peers.values().map(|peer| peer.bytes).sum();
            assert_eq!((inner.used, inner.used - inner.leaving), (used, of_peers));
            let without_room = self.sending.len() * (Self::ENTERS + SPARE_BYTES);
            assert!(used <= Self::ROOM + Self::READ + without_room + Self::LARGEST, "{used}");
            let waiting = self.sending.iter().filter(|sender| inner.is_waiting(sender.id)).count();
            assert_eq!(inner.waiting, waiting);
            let may_read = inner.exempt.or(inner.next().filter(|_| inner.used < inner.bytes_max));
            assert!(waiting == 0 || may_read.is_some(), "all of {waiting} wait");
            for sender in self
                .sending
                .iter()
                .filter(|sender| sender.waits && Some(sender.id) == may_read)
            {
                assert!(sender.woken.is_set(), "it sleeps though it may be read");
            }
        }
    }

    impl Inner {
        fn is_waiting(&self, id: usize) -> bool {
            matches!(self.messages[id].state, State::Waiting(_))
        }
    }

    #[test]
    fn whatever_the_order_the_room_is_bounded_and_nobody_sleeps_beside_free_room() {
        let mut evicted = [0; 3];
        for seed in 0..20 {
            let mut crowd = Crowd::new(seed);
            for _ in 0..5000 {
                crowd.step();
                crowd.check();
            }
            // From now on all of them send, and those that wait have their turn only when they are woken.
            for _ in 0..10_000 {
                crowd.pass(CHECK_EVERY);
                for index in (0..crowd.sending.len()).rev() {
                    if !crowd.sending[index].waits || crowd.sending[index].woken.is_set() {
                        crowd.turn(index, Crowd::READ);
                        crowd.check();
                    }
                }
            }
            assert_eq!(
                (crowd.sending.len(), crowd.inner.used, crowd.inner.peers.len()),
                (0, 0, 0)
            );
            (0..3).for_each(|why| evicted[why] += crowd.inner.evicted[why]);
        }
        assert!(
            evicted[0] > 0 && evicted[1] > 0,
            "{evicted:?}: the seeds meet too little"
        );
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
