//! The table of incomplete messages, without connections: who is read next, who is paused, who is evicted. No task
//! sleeps while memory is free, and the memory in use is never above its limit. Sockets and protocols are left to
//! `tests/integration/incomplete.rs`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::budget::peer_of;
use super::evict::*;
use super::messages::*;
use super::*;

const BUDGET: usize = 1000;

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
    messages: Messages,
    now: Instant,
}

impl Table {
    fn new() -> Self {
        Table {
            messages: Messages {
                bytes_max: BUDGET,
                ..Messages::default()
            },
            now: Instant::now(),
        }
    }

    fn enter(&mut self, peer: u8, bytes: usize) -> usize {
        self.messages.insert([10, 0, 0, peer].into(), bytes, self.now)
    }

    fn turn(&mut self, id: usize) -> Turn {
        self.messages.turn(id, Waker::noop(), self.now)
    }

    /// One whose data exceeds the budget: it may see whether there is more, and there is.
    fn with_more(&mut self, peer: u8, bytes: usize) -> usize {
        let id = self.enter(peer, bytes);
        assert_eq!(self.turn(id), Turn::Read(SPARE_BYTES));
        self.messages.arrived(id, bytes + 1, self.now);
        id
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test]
fn while_there_is_memory_all_are_read() {
    let mut table = Table::new();
    let (a, b) = (table.enter(1, 500), table.enter(1, 499));
    assert_eq!(table.turn(a), Turn::Read(usize::MAX));
    assert_eq!(table.turn(b), Turn::Read(usize::MAX));
    table.messages.arrived(b, 800, table.now);
    assert_eq!(table.messages.used, 1300);
    assert_eq!(table.turn(b), Turn::Read(SPARE_BYTES), "to see whether there is more");
    table.messages.remove(a);
    assert_eq!(table.turn(b), Turn::Read(usize::MAX));
    table.messages.remove(b);
    assert_eq!((table.messages.used, table.messages.peers.len()), (0, 0));
}

/// They all have a part and wait for the rest: one at a time exceeds the budget, so all of them end.
#[test]
fn messages_that_wait_for_each_other_end() {
    let mut table = Table::new();
    let mut ids: Vec<_> = (0..10).map(|_| table.enter(1, 100)).collect();
    for id in &ids {
        assert_eq!(table.turn(*id), Turn::Read(SPARE_BYTES));
        table.messages.arrived(*id, 110, table.now);
    }
    while !ids.is_empty() {
        let turns: Vec<_> = ids.iter().map(|id| table.turn(*id)).collect();
        let goes = turns.iter().position(|turn| *turn == Turn::Read(usize::MAX));
        let id = ids.remove(goes.expect("one goes on"));
        table.messages.arrived(id, 200, table.now);
        table.messages.remove(id);
    }
    assert_eq!(table.messages.used, 0);
    assert_eq!(table.messages.evicted, [0, 0, 0], "none is evicted for it");
}

#[test]
fn the_peer_with_the_fewest_bytes_goes_first() {
    let mut table = Table::new();
    let large: Vec<_> = (0..3).map(|_| table.enter(1, 330)).collect();
    let exempt = table.with_more(1, 20);
    assert_eq!(table.turn(exempt), Turn::Read(usize::MAX), "no other waits");
    for id in &large {
        assert_eq!(table.turn(*id), Turn::Read(SPARE_BYTES));
        table.messages.arrived(*id, 331, table.now);
        assert!(matches!(table.turn(*id), Turn::Wait { .. }));
    }
    let small = table.with_more(2, 10);
    assert!(matches!(table.turn(small), Turn::Wait { checks: false }));
    table.messages.remove(exempt);
    assert_eq!(table.turn(small), Turn::Read(usize::MAX), "though it came last");
    assert!(matches!(table.turn(large[0]), Turn::Wait { .. }));
}

#[test]
fn who_stands_still_is_given_up_when_others_wait_the_richest_peer_first() {
    let mut table = Table::new();
    let small = table.enter(1, 200);
    let older = table.enter(2, 400);
    let newer = table.enter(2, 390);
    table.messages.arrived(older, 399, table.now);
    table.pass(STALLED_AFTER);
    table.messages.arrived(newer, 391, table.now);
    let waits = table.with_more(3, 20);
    assert_eq!(table.turn(waits), Turn::Read(usize::MAX));
    assert_eq!(table.turn(older), Turn::Evicted(Evicted::Stalled));
    assert_eq!(table.turn(newer), Turn::Read(SPARE_BYTES), "it has just sent something");
    assert_eq!(table.turn(small), Turn::Read(SPARE_BYTES), "there was enough");
    assert_eq!(table.messages.used, 200 + 399 + 391 + 21, "charged until it has gone");
    table.messages.remove(older);
    assert_eq!(table.messages.used, 200 + 391 + 21);
}

#[test]
fn who_is_not_read_by_the_gateway_does_not_stand_still() {
    let mut table = Table::new();
    let paused = table.enter(1, 1000);
    table.messages.pause(paused);
    table.pass(10 * STALLED_AFTER);
    let waits = table.with_more(1, 20);
    assert_eq!(table.turn(waits), Turn::Read(usize::MAX));
    assert_eq!(table.turn(paused), Turn::Read(SPARE_BYTES));
    assert_eq!(table.messages.evicted, [0, 0, 0]);
}

#[test]
fn one_message_at_a_time_exceeds_the_budget_also_while_the_gateway_pauses_it() {
    let mut table = Table::new();
    let exceeds = table.enter(1, BUDGET);
    assert_eq!(table.turn(exceeds), Turn::Read(SPARE_BYTES));
    table.messages.arrived(exceeds, BUDGET + 1, table.now);
    assert_eq!(table.turn(exceeds), Turn::Read(usize::MAX));
    table.messages.arrived(exceeds, 2 * BUDGET, table.now);
    table.messages.pause(exceeds);
    let next = table.with_more(2, 20);
    assert!(matches!(table.turn(next), Turn::Wait { .. }), "it is in memory still");
    table.messages.remove(exceeds);
    assert_eq!(table.turn(next), Turn::Read(usize::MAX));
}

#[test]
fn what_exceeds_the_budget_must_be_quick_while_others_wait() {
    let mut table = Table::new();
    table.enter(1, BUDGET);
    let slow = table.with_more(2, 1);
    assert_eq!(table.turn(slow), Turn::Read(usize::MAX));
    let trickle = |table: &mut Table| {
        let (first, bytes) = (0, table.messages.messages[slow].bytes);
        table.messages.arrived(first, BUDGET, table.now);
        table.messages.arrived(slow, bytes + 1, table.now);
        table.pass(CHECK_EVERY);
        table.messages.evict_while_short(table.now);
    };
    (0..100).for_each(|_| trickle(&mut table));
    assert_eq!(table.turn(slow), Turn::Read(usize::MAX), "no other waits");
    let waits = table.with_more(2, 1);
    assert!(matches!(table.turn(waits), Turn::Wait { .. }));
    (0..40).for_each(|_| trickle(&mut table));
    assert_eq!(table.turn(slow), Turn::Read(usize::MAX), "five seconds are not over");
    (0..20).for_each(|_| trickle(&mut table));
    assert_eq!(table.turn(slow), Turn::Evicted(Evicted::Slow));
    assert!(matches!(table.turn(waits), Turn::Wait { .. }), "it is in memory still");
    table.messages.remove(slow);
    assert_eq!(table.turn(waits), Turn::Read(usize::MAX));
}

#[test]
fn a_share_is_enforced_only_for_a_peer_that_has_less() {
    let mut table = Table::new();
    let large: Vec<_> = (0..10).map(|_| table.enter(1, 100)).collect();
    let of_the_same = table.with_more(1, 20);
    table.turn(of_the_same);
    assert_eq!(table.messages.evicted, [0, 0, 0]);
    table.pass(CHECK_EVERY);
    let of_another = table.with_more(2, 20);
    table.turn(of_another);
    assert_eq!(
        table.messages.evicted,
        [0, 2, 0],
        "no more than makes a sixteenth of the budget free"
    );
    let (used, evicted_bytes) = (table.messages.used, table.messages.evicted_bytes);
    assert!(used - evicted_bytes < BUDGET - BUDGET / 16, "{used} - {evicted_bytes}");
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
        table.messages.evicted[1] > 0,
        "20 bytes are more than an equal share of 1000 / 252"
    );
    let evicted = largest
        .iter()
        .filter(|id| table.turn(**id) == Turn::Evicted(Evicted::OverShare));
    assert_eq!(evicted.count() as u64, table.messages.evicted[1], "of the largest only");
}

#[test]
fn who_was_woken_and_is_no_longer_next_wakes_the_one_that_is() {
    let mut table = Table::new();
    let first = table.enter(3, BUDGET);
    let exceeds = table.with_more(3, 1);
    assert_eq!(table.turn(exceeds), Turn::Read(usize::MAX));
    let (one, two) = (table.with_more(1, 10), table.with_more(2, 20));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    for id in [one, two] {
        assert!(matches!(table.turn(id), Turn::Wait { .. }));
    }
    assert!(matches!(table.messages.turn(two, &waker, table.now), Turn::Wait { .. }));
    table.messages.remove(exceeds);
    table.messages.remove(first);
    assert!(!woken.take(), "the peer with the fewest bytes is next");
    table.enter(1, 30);
    assert!(woken.take(), "its peer has more bytes now");
    assert!(matches!(table.turn(one), Turn::Wait { .. }));
    assert!(woken.take(), "nor does one that waits again keep the turn to itself");
    assert_eq!(table.turn(two), Turn::Read(usize::MAX));
}

/// Devices that send, stop, are paused and come back, in an order that the seed decides.
struct Crowd {
    messages: Messages,
    now: Instant,
    random: u64,
    peers: usize,
    sending: Vec<Sender>,
}

struct Sender {
    id: usize,
    missing: usize,
    waits: bool,
    paused: bool,
    woken: Arc<Woken>,
}

impl Crowd {
    const BUDGET: usize = 100_000;
    const ENTERS: usize = 6000;
    const READ: usize = 64 * 1024;
    const LARGEST: usize = 256 * 1024;
    const SENDING: usize = 32;

    fn new(seed: u64) -> Self {
        Crowd {
            messages: Messages {
                bytes_max: Self::BUDGET,
                ..Messages::default()
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
            id: self.messages.insert(peer.into(), bytes, self.now),
            missing,
            waits: false,
            paused: false,
            woken: Arc::default(),
        });
    }

    /// One turn of a sender, which sends up to `most` bytes if it may. One that is complete goes, or is paused before.
    fn turn(&mut self, index: usize, most: usize) {
        let holds_whole = self.random(2) == 0;
        let sender = &mut self.sending[index];
        let is_whole = sender.missing == 0;
        (sender.waits, sender.paused) = (false, false);
        sender.woken.take();
        let waker = Waker::from(sender.woken.clone());
        match self.messages.turn(sender.id, &waker, self.now) {
            Turn::Wait { .. } if !is_whole => sender.waits = true,
            Turn::Read(bytes) if !is_whole => {
                let sent = bytes.min(most).min(sender.missing);
                sender.missing -= sent;
                if sent > 0 {
                    let bytes = self.messages.messages[sender.id].bytes + sent;
                    self.messages.arrived(sender.id, bytes, self.now);
                }
                if sender.missing == 0 && holds_whole {
                    self.pause(index);
                } else if sender.missing == 0 {
                    self.leave(index);
                }
            }
            _ => self.leave(index),
        }
    }

    fn pause(&mut self, index: usize) {
        let sender = &mut self.sending[index];
        (sender.waits, sender.paused) = (false, true);
        self.messages.pause(sender.id);
    }

    fn leave(&mut self, index: usize) {
        let gone = self.sending.swap_remove(index);
        self.messages.remove(gone.id);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        if self.messages.waiting > 0 {
            self.messages.evict_while_short(self.now);
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
                self.pause(index);
            }
            10 if index < self.sending.len() => {
                self.leave(index);
            }
            choice if index < self.sending.len() && (!self.sending[index].paused || choice == 11) => {
                let most = self.random(Self::READ);
                self.turn(index, most);
            }
            _ => {}
        }
    }

    fn check(&self) {
        let messages = &self.messages;
        let used: usize = messages.messages.iter().map(|(_, message)| message.bytes).sum();
        let of_peers: usize = messages.peers.values().map(|peer| peer.bytes).sum();
        assert_eq!(
            (messages.used, messages.used - messages.evicted_bytes),
            (used, of_peers)
        );
        let without_room = self.sending.len() * (Self::ENTERS + SPARE_BYTES);
        assert!(
            used <= Self::BUDGET + Self::READ + without_room + Self::LARGEST,
            "{used}"
        );
        let waiting = self
            .sending
            .iter()
            .filter(|sender| messages.is_waiting(sender.id))
            .count();
        assert_eq!(messages.waiting, waiting);
        let may_read = messages
            .exempt
            .or(messages.next().filter(|_| messages.used < messages.bytes_max));
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

impl Messages {
    fn is_waiting(&self, id: usize) -> bool {
        matches!(self.messages[id].state, Phase::Waiting(_))
    }
}

#[test]
fn whatever_the_order_memory_is_bounded_and_none_sleeps_beside_free_memory() {
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
            (crowd.sending.len(), crowd.messages.used, crowd.messages.peers.len()),
            (0, 0, 0)
        );
        (0..3).for_each(|why| evicted[why] += crowd.messages.evicted[why]);
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
