//! `deliver::dispatch` between a faulty broker, a slow store and crashes: nothing acknowledged is lost, order holds.
//!
//! A few devices send numbered readings, several at a time, and repeat one that was answered busy or not at all. The broker
//! becomes unavailable and available, loses replies, fills its queue, refuses single records and is replaced; the store fills up and
//! the process crashes, all by chance of a seed. In the end everything is let through and compared:
//! * every number that got a positive answer is in the log (or, for a moment, only in the store: drained by then);
//! * a device's numbers appear in the log in the order in which they were sent, first appearances counted, but for those
//!   that were answered busy or that the broker refused;
//! * a number appears twice only if something happened that makes that unavoidable.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use citygate::deliver::broker::{Broker, Refused};
use citygate::deliver::dispatch::{Dispatch, Pending, Store, Ticket, Times, Unreadable};
use citygate::deliver::health::Monitor;
use citygate::deliver::reason::Cause;
use citygate::gateway::Metrics;
use citygate::message::{Protocol, Record};
use citygate::outcome::{Busy, Outcome};
use citygate::receipt::{Answer, Mailbox, Receipt, Reply};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

mod leaderless;

mod stalled;

const DEVICES: usize = 5;
const STEPS: usize = 400;

const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Nobody waits longer: the time-out, and what may pass between two looks.
const LONGEST: Duration = Duration::from_millis(6_500);

/// What breaks the promise on purpose: the canary.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Canary {
    None,
    /// The store says *durable* before it is, and forgets at a crash.
    StoreLies,
    /// The broker says *written* and writes nothing now and then.
    BrokerLies,
}

/// What a run came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    pub lost: usize,
    pub out_of_order: usize,
    /// Duplicates although nothing happened that explains them.
    pub needless_duplicates: usize,
    pub acknowledged: usize,
    pub spooled: usize,
    pub busy: usize,
    /// Steps during which a group was stalled, and those at which some of its readings waited.
    pub stalled: usize,
    pub passed_over: usize,
}

type Log = Rc<RefCell<Vec<(usize, u64)>>>;

#[derive(Clone)]
struct FaultyBroker(Rc<RefCell<BrokerState>>);

struct BrokerState {
    log: Log,
    queue: VecDeque<(usize, usize, u64)>,
    /// Written, but the reply has not come back.
    replies: VecDeque<usize>,
    queue_max: usize,
    lies: bool,
    /// Refuses a record now and then for what it is.
    picky: bool,
    refused: BTreeSet<(usize, u64)>,
    /// Refuses every record, for what is wrong with the topic.
    refuses_all: bool,
    epoch: u64,
    /// The topic of some devices does not exist.
    gone: bool,
    /// The partitions of these devices have no leader: what is queued for them stays there.
    leaderless: BTreeSet<usize>,
    /// Larger batches are refused as a whole.
    batch_max: usize,
    /// The producer is to be replaced by one with smaller batches.
    shrinks: bool,
    /// What it gives back for that and has not reported, each with the report.
    taken_back: Vec<(usize, Refused)>,
    /// The producer is purged at this call from now, on a thread of its own, whose reports come later.
    takes_back_at: Option<(usize, Arc<Monitor>)>,
    /// What other threads do after a record has departed and before the producer is given it.
    interlude: Option<Box<dyn FnOnce()>>,
    /// Something was purged that had been written.
    doubtful: bool,
}

#[derive(Clone)]
struct SlowStore(Rc<RefCell<StoreState>>);

#[derive(Default)]
struct StoreState {
    appended: VecDeque<(Vec<u8>, Ticket)>,
    durable: BTreeMap<u64, Vec<u8>>,
    next: u64,
    read_from: u64,
    full: bool,
    queue_max: usize,
    /// The next read fails.
    unreadable: bool,
    /// The disk hangs in an fsync: nothing becomes durable for now.
    hangs: bool,
    /// Entries below survive a crash; only a lying store has durable entries above.
    safe_below: u64,
    /// What other threads do between a read and what is done with its entries.
    interlude: Option<Box<dyn FnOnce()>>,
    /// Entries of one read, at most.
    read_max: Option<usize>,
    /// Copies of retained entries that were appended.
    copies: usize,
}

impl Broker for FaultyBroker {
    fn epoch(&self) -> u64 {
        self.called();
        self.0.borrow().epoch
    }

    /// What is given to a producer after it was purged, it writes: only the epoch keeps records from that.
    fn produce(&self, epoch: u64, record: &Record<'_>, slot: usize) -> Result<(), Refused> {
        let interlude = self.0.borrow_mut().interlude.take();
        if let Some(interlude) = interlude {
            interlude();
        }
        self.called();
        let mut state = self.0.borrow_mut();
        if epoch != state.epoch {
            return Err(Refused::Purged);
        }
        if state.queue.len() >= state.queue_max {
            return Err(Refused::QueueFull);
        }
        let device = record.key.parse().unwrap();
        let number = u64::from_le_bytes(record.value.try_into().unwrap());
        state.queue.push_back((slot, device, number));
        Ok(())
    }

    /// It did that before the report.
    fn shrink_batches(&self) {
        assert!(self.0.borrow().shrinks);
    }
}

impl Store for SlowStore {
    fn append(&self, encoded: Vec<u8>, ticket: Ticket) -> Result<(), (Ticket, Vec<u8>, Busy)> {
        let mut state = self.0.borrow_mut();
        if state.full {
            return Err((ticket, encoded, Busy::SpoolFull));
        }
        if state.appended.len() >= state.queue_max {
            return Err((ticket, encoded, Busy::SpoolBusy));
        }
        state.copies += usize::from(matches!(ticket, Ticket::Deferred { .. }));
        state.appended.push_back((encoded, ticket));
        Ok(())
    }

    fn read(&self, entries_max: usize, mut bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, Unreadable> {
        let mut state = self.0.borrow_mut();
        if std::mem::take(&mut state.unreadable) {
            state.read_from = 0;
            return Err(Unreadable("the simulation says so".into()));
        }
        let entries: Vec<_> = state
            .durable
            .range(state.read_from..)
            .take(state.read_max.map_or(entries_max, |max| max.min(entries_max)))
            // One more than there is room for.
            .take_while(|(_, encoded)| {
                let is_room = bytes_max > 0;
                bytes_max = bytes_max.saturating_sub(encoded.len());
                is_room
            })
            .map(|(at, encoded)| (*at, encoded.clone()))
            .collect();
        if let Some((last, _)) = entries.last() {
            state.read_from = last + 1;
        }
        let interlude = state.interlude.take();
        drop(state);
        if let Some(interlude) = interlude {
            interlude();
        }
        Ok(entries)
    }

    fn rewind(&self) {
        self.0.borrow_mut().read_from = 0;
    }

    fn commit(&self, sequence: u64) {
        assert!(
            self.0.borrow_mut().durable.remove(&sequence).is_some(),
            "{sequence} was committed twice, or never written"
        );
    }

    fn is_committed(&self, sequence: u64) -> bool {
        !self.0.borrow().durable.contains_key(&sequence)
    }

    fn refuses(&self) -> Option<Busy> {
        self.0.borrow().full.then_some(Busy::SpoolFull)
    }

    fn uncommitted(&self) -> u64 {
        self.0.borrow().durable.len() as u64
    }

    fn keeps_too_much(&self) -> bool {
        self.kept() > 2 * self.uncommitted()
    }
}

impl BrokerState {
    /// The oldest record of those whose partition has a leader.
    fn next_in_queue(&mut self) -> Option<(usize, usize, u64)> {
        let has_leader = |(_, device, _): &(usize, usize, u64)| !self.leaderless.contains(device);
        let at = self.queue.iter().position(has_leader)?;
        self.queue.remove(at)
    }
}

impl FaultyBroker {
    fn next_report(&self) -> Option<(usize, Refused)> {
        let taken_back = &mut self.0.borrow_mut().taken_back;
        (!taken_back.is_empty()).then(|| taken_back.remove(0))
    }

    /// Another thread may be quicker than this call.
    fn called(&self) {
        let health = {
            let mut state = self.0.borrow_mut();
            match state.takes_back_at.take() {
                Some((0, health)) => health,
                Some((calls, health)) => {
                    state.takes_back_at = Some((calls - 1, health));
                    return;
                }
                None => return,
            }
        };
        self.refuse_batch(&health, 1);
    }

    /// A batch is too large for its topic: neither it nor what comes behind it is written.
    fn refuse_batch(&self, health: &Monitor, count: usize) {
        if self.0.borrow().queue.is_empty() || self.0.borrow().shrinks {
            return;
        }
        health.replacing("batches are too large");
        let mut state = self.0.borrow_mut();
        (state.shrinks, state.epoch) = (true, state.epoch + 1);
        state.doubtful |= !state.replies.is_empty();
        let written: Vec<_> = state.replies.drain(..).collect();
        let queue: Vec<_> = state.queue.drain(..).map(|(slot, ..)| slot).collect();
        let (batch, others) = queue.split_at(count.min(queue.len()));
        // The youngest first: librdkafka purges what is queued before what is on the wire.
        let batch = batch.iter().map(|slot| (*slot, Refused::BatchTooLarge));
        let purged = others.iter().rev().chain(&written).map(|slot| (*slot, Refused::Purged));
        state.taken_back = batch.chain(purged).collect();
    }

    /// The producer failed fatally: what it holds is purged, written or not.
    fn replace(&self, dispatch: &Dispatch<FaultyBroker, SlowStore>, random: &mut StdRng) {
        let (held, written): (Vec<_>, Vec<_>) = {
            let mut state = self.0.borrow_mut();
            (
                state.queue.drain(..).map(|(slot, ..)| slot).collect(),
                state.replies.drain(..).collect(),
            )
        };
        self.0.borrow_mut().doubtful |= !written.is_empty();
        // In any order: librdkafka purges what is queued before what is on the wire.
        let mut taken_back: Vec<_> = written.into_iter().chain(held).collect();
        taken_back.shuffle(random);
        for slot in taken_back {
            dispatch.reported(slot, Err(Refused::Purged));
        }
        self.0.borrow_mut().epoch += 1;
    }
}

impl SlowStore {
    /// Entries whose room cannot be given up: all from the oldest uncommitted one on.
    fn kept(&self) -> u64 {
        let state = self.0.borrow();
        state
            .durable
            .first_key_value()
            .map_or(0, |(first, _)| state.next - first)
    }

    /// Makes some entries durable; now and then there is no room for one.
    fn write(&self, dispatch: &Dispatch<FaultyBroker, SlowStore>, count: usize, random: &mut StdRng) {
        let mut written = Vec::new();
        if self.0.borrow().hangs {
            return;
        }
        {
            let mut state = self.0.borrow_mut();
            for _ in 0..count {
                let Some((encoded, ticket)) = state.appended.pop_front() else {
                    break;
                };
                if random.random_ratio(1, 50) {
                    written.push((ticket, Err(Busy::SpoolFull)));
                    continue;
                }
                let sequence = state.next;
                state.next += 1;
                state.durable.insert(sequence, encoded);
                written.push((ticket, Ok(sequence)));
            }
        }
        dispatch.stored(written);
    }
}

impl SlowStore {
    /// Makes everything durable.
    fn write_all(&self, dispatch: &Dispatch<FaultyBroker, SlowStore>) {
        let written = {
            let mut state = self.0.borrow_mut();
            let appended: Vec<_> = state.appended.drain(..).collect();
            let entries = appended.into_iter().map(|(encoded, ticket)| {
                let sequence = state.next;
                state.next += 1;
                state.durable.insert(sequence, encoded);
                (ticket, Ok(sequence))
            });
            entries.collect::<Vec<_>>()
        };
        dispatch.stored(written);
    }
}

#[derive(Default)]
struct Device {
    /// The numbers that are on their way, and where their answers come.
    sending: BTreeMap<u64, (Instant, Arc<Mailbox>)>,
    /// To be sent again, before anything new.
    again: BTreeSet<u64>,
    sent: u64,
    acknowledged: Vec<u64>,
    /// Sent again after *busy* (or with others, after a crash): later ones may have gone ahead.
    excused: BTreeSet<u64>,
}

/// The topic of a device.
fn topic(device: usize) -> &'static str {
    if device < 2 { MAY_GO } else { "t" }
}

/// The topic that is deleted now and then, and made again.
const MAY_GO: &str = "may-go";

struct Run {
    random: StdRng,
    now: Instant,
    broker: FaultyBroker,
    store: SlowStore,
    log: Log,
    health: Arc<Monitor>,
    metrics: Metrics,
    dispatch: Rc<Dispatch<FaultyBroker, SlowStore>>,
    devices: Vec<Device>,
    outcomes: Outcomes,
    /// Whether processes die in this run; in the others, nothing excuses a duplicate but a time-out.
    violent: bool,
    /// Readings that a device has on their way at once. With one, not even a crash excuses disorder.
    window: usize,
    /// Something happened after which a reading may be written twice.
    doubtful: bool,
    /// Whether the disk hangs now and then, for up to three times the delivery time-out.
    slow_disk: bool,
    /// Whether the largest batch that a topic accepts is lowered now and then.
    lowers: bool,
    /// Whether a topic is deleted and made again now and then.
    loses_topic: bool,
    /// Whether some partitions lose their leaders now and then.
    loses_leaders: bool,
    /// Nothing happens any more.
    is_over: bool,
}

fn dispatch(
    broker: &FaultyBroker,
    store: &SlowStore,
    health: &Arc<Monitor>,
    metrics: &Metrics,
) -> Rc<Dispatch<FaultyBroker, SlowStore>> {
    let recovered = (store.0.borrow().durable.len() as u64, store.0.borrow().next);
    let times = Times {
        spool_after: Duration::from_millis(250),
        delivery_timeout: DELIVERY_TIMEOUT,
        linger: Duration::from_millis(5),
        retry_interval: Duration::from_secs(60),
    };
    Rc::new(Dispatch::new(
        broker.clone(),
        Some(store.clone()),
        recovered,
        times,
        health.clone(),
        (metrics.deliver.kafka.clone(), metrics.deliver.spool.clone()),
    ))
}

fn monitor() -> Arc<Monitor> {
    let health = Arc::new(Monitor::new(&Metrics::new().deliver.kafka, true));
    health.spool_refuses(None);
    health.found();
    health
}

impl Run {
    fn new(seed: u64, canary: Canary) -> Self {
        let log = Log::default();
        let broker = FaultyBroker(Rc::new(RefCell::new(BrokerState {
            log: log.clone(),
            queue: VecDeque::new(),
            replies: VecDeque::new(),
            queue_max: 20,
            lies: canary == Canary::BrokerLies,
            picky: seed.is_multiple_of(3),
            refused: BTreeSet::new(),
            refuses_all: false,
            epoch: 0,
            gone: false,
            leaderless: BTreeSet::new(),
            batch_max: usize::MAX,
            shrinks: false,
            taken_back: Vec::new(),
            takes_back_at: None,
            interlude: None,
            doubtful: false,
        })));
        let store = SlowStore(Rc::default());
        store.0.borrow_mut().queue_max = if seed.is_multiple_of(5) { 6 } else { usize::MAX };
        if canary != Canary::StoreLies {
            store.0.borrow_mut().safe_below = u64::MAX;
        }
        let (health, metrics) = (monitor(), Metrics::new());
        let dispatch = dispatch(&broker, &store, &health, &metrics);
        let devices = (0..DEVICES).map(|_| Device::default()).collect();
        Run {
            random: StdRng::seed_from_u64(seed),
            now: Instant::now(),
            broker,
            store,
            log,
            health,
            metrics,
            dispatch,
            devices,
            outcomes: Outcomes::default(),
            violent: seed % 2 == 1,
            window: if seed % 4 < 2 { 1 } else { 3 },
            doubtful: false,
            slow_disk: seed.is_multiple_of(7),
            lowers: seed % 9 == 4,
            loses_topic: seed % 5 < 2,
            loses_leaders: seed % 3 == 1,
            is_over: false,
        }
    }

    fn step(&mut self) {
        if self.lowers && self.random.random_ratio(1, 20) {
            let calls = self.random.random_range(0..4);
            self.broker.0.borrow_mut().takes_back_at = Some((calls, self.health.clone()));
        }
        if self.random.random_ratio(1, 4) {
            self.gets_replaced();
        }
        if self.loses_leaders && self.random.random_ratio(1, 12) {
            self.leaders_change();
        }
        match self.random.random_range(0..100) {
            0..40 => self.device_sends(),
            40..58 => self.broker_writes(),
            58..68 => self.broker_replies(),
            68..80 => self.store_writes(),
            80..86 => self.replays(),
            86..91 => self.now += Duration::from_millis(self.random.random_range(1..400)),
            91..93 => self.health.failed(Cause::Unconfirmed, "the simulation says so"),
            93..96 => {
                self.health.found();
                self.look_at_topics();
            }
            96..97 if self.slow_disk => self.disk_hangs(),
            96..97 => self.store.0.borrow_mut().full ^= true,
            97..98 if self.loses_topic && self.random.random_ratio(2, 3) => self.broker.0.borrow_mut().gone ^= true,
            97..98 if self.violent => self.broker_replaced(),
            98..99 => self.broker.0.borrow_mut().queue_max = self.random.random_range(1..20),
            99.. if self.violent => self.crash(),
            97..98 => self.store.0.borrow_mut().unreadable = true,
            _ => {}
        }
        self.dispatch.tick(self.now);
        self.collect_answers();
        let (readings, groups) = self.dispatch.stalled();
        self.outcomes.stalled += usize::from(groups > 0);
        self.outcomes.passed_over += usize::from(groups > 0 && readings > 0);
    }

    fn device_sends(&mut self) {
        let index = self.random.random_range(0..DEVICES);
        self.send_from(index);
    }

    fn send_from(&mut self, index: usize) {
        let device = &mut self.devices[index];
        if device.sending.len() >= self.window {
            return;
        }
        let number = device.again.pop_first().unwrap_or_else(|| {
            device.sent += 1;
            device.sent
        });
        let mailbox = Mailbox::new();
        device.sending.insert(number, (self.now, mailbox.clone()));
        let (key, value) = (index.to_string(), number.to_le_bytes());
        let record = Record {
            topic: topic(index),
            key: &key,
            value: &value,
            timestamp_ms: 0,
            headers: &[],
        };
        let reply = Reply::To { mailbox, ticket: 0 };
        let receipt = Receipt::new(
            self.metrics.tallies.of_kind("k").of(Protocol::Mqtt).clone(),
            std::time::Instant::now(),
            reply,
            None,
        );
        let (sent_at, queue_max) = (self.now, self.broker.0.borrow().queue_max);
        if !self.is_over && self.random.random_ratio(1, 8) {
            let interlude = self.interlude();
            self.broker.0.borrow_mut().interlude = Some(interlude);
        }
        self.dispatch.send(
            sent_at,
            &record,
            Pending {
                receipt,
                once_safe: Outcome::Delivered,
            },
        );
        // It did not go to the producer.
        self.broker.0.borrow_mut().interlude = None;
        self.broker.0.borrow_mut().queue_max = queue_max;
        self.doubtful |= self.broker.0.borrow().doubtful;
    }

    fn replays(&mut self) {
        if self.loses_leaders && self.random.random_ratio(1, 2) {
            let interlude = self.replies_while_the_replay_reads();
            self.store.0.borrow_mut().interlude = Some(interlude);
        }
        let entries_max = self.random.random_range(1..8);
        self.dispatch.replay(self.now, 0, entries_max, 1 << 20);
        self.store.0.borrow_mut().interlude = None;
    }

    /// All partitions have leaders, and Kafka writes and confirms some records, while the replay reads.
    fn replies_while_the_replay_reads(&mut self) -> Box<dyn FnOnce()> {
        let (broker, store, dispatch) = (self.broker.clone(), self.store.clone(), Rc::downgrade(&self.dispatch));
        let [writes, replies] = std::array::from_fn(|_| self.random.random_range(0..8));
        let mut random = StdRng::seed_from_u64(self.random.random());
        Box::new(move || {
            let Some(dispatch) = dispatch.upgrade() else { return };
            if broker.0.borrow().shrinks || broker.0.borrow().gone {
                return;
            }
            for _ in 0..writes {
                let mut state = broker.0.borrow_mut();
                state.leaderless.clear();
                let Some((slot, device, number)) = state.next_in_queue() else {
                    break;
                };
                state.log.borrow_mut().push((device, number));
                state.replies.push_back(slot);
            }
            for _ in 0..replies {
                let Some(slot) = broker.0.borrow_mut().replies.pop_front() else {
                    break;
                };
                dispatch.reported(slot, Ok(()));
            }
            store.write(&dispatch, 3, &mut random);
        })
    }

    /// The thread that sends a record is stalled: `spool_after` passes, the store writes, the producer is full or replaced.
    fn interlude(&mut self) -> Box<dyn FnOnce()> {
        let (broker, store, dispatch) = (self.broker.clone(), self.store.clone(), Rc::downgrade(&self.dispatch));
        let replaced = self.violent && self.random.random_ratio(1, 3);
        let [impatient, durable, full] = std::array::from_fn(|_| self.random.random_ratio(1, 2));
        self.now += Duration::from_millis(300);
        let now = self.now;
        let mut random = StdRng::seed_from_u64(self.random.random());
        Box::new(move || {
            let Some(dispatch) = dispatch.upgrade() else { return };
            if impatient {
                dispatch.tick(now);
            }
            if replaced && !broker.0.borrow().shrinks {
                broker.replace(&dispatch, &mut random);
            }
            if durable {
                store.write(&dispatch, 6, &mut random);
            }
            if full {
                broker.0.borrow_mut().queue_max = 0;
            }
        })
    }

    fn broker_writes(&mut self) {
        if self.lowers && self.random.random_ratio(1, 20) {
            self.broker.0.borrow_mut().batch_max = 1;
        }
        if self.batch_is_refused() {
            return;
        }
        self.refuse_for_want_of_topic();
        let mut refused = Vec::new();
        for _ in 0..self.random.random_range(0..6) {
            let mut state = self.broker.0.borrow_mut();
            let Some((slot, device, number)) = state.next_in_queue() else {
                break;
            };
            if state.refuses_all {
                refused.push(slot);
                continue;
            }
            if state.picky && self.random.random_ratio(1, 30) {
                state.refused.insert((device, number));
                refused.push(slot);
                continue;
            }
            if !(state.lies && self.random.random_ratio(1, 20)) {
                state.log.borrow_mut().push((device, number));
            }
            state.replies.push_back(slot);
        }
        for slot in refused {
            self.dispatch.reported(slot, Err(Refused::Unacceptable));
        }
    }

    /// The probe asks which topics there are.
    fn look_at_topics(&self) {
        let gone = self.broker.0.borrow().gone;
        self.health.topics().found(&[MAY_GO.to_owned()], |_| !gone);
    }

    /// Kafka refuses all at once that is meant for a topic which is gone.
    fn refuse_for_want_of_topic(&mut self) {
        let refused: Vec<_> = {
            let mut state = self.broker.0.borrow_mut();
            if !state.gone {
                return;
            }
            let (refused, kept) = state
                .queue
                .drain(..)
                .partition(|(_, device, _)| topic(*device) == MAY_GO);
            state.queue = kept;
            Vec::from(refused)
        };
        for (slot, ..) in refused {
            let words = self.health.topics().add(MAY_GO);
            self.dispatch.reported(slot, Err(Refused::TopicMissing(words)));
        }
    }

    /// A partition has no leader any more, or all have one again. Now and then that goes on for longer.
    fn leaders_change(&mut self) {
        let device = self.random.random_range(0..DEVICES);
        {
            let leaderless = &mut self.broker.0.borrow_mut().leaderless;
            match leaderless.is_empty() || self.random.random_ratio(1, 3) {
                true => drop(leaderless.insert(device)),
                false => leaderless.clear(),
            }
        }
        if self.random.random_ratio(1, 2) {
            self.now += Duration::from_millis(self.random.random_range(1..1_200));
            self.dispatch.tick(self.now);
        }
    }

    /// A batch is too large for its topic.
    fn batch_is_refused(&mut self) -> bool {
        let count = self.random.random_range(0..6).min(self.broker.0.borrow().queue.len());
        if count <= self.broker.0.borrow().batch_max {
            return false;
        }
        self.broker.refuse_batch(&self.health, count);
        true
    }

    /// The thread that replaces the producer gets on: some of what was purged is reported; when all of it is, there is a
    /// new producer.
    fn gets_replaced(&mut self) {
        if !self.broker.0.borrow().shrinks {
            return;
        }
        for _ in 0..self.random.random_range(1..4) {
            let report = self.broker.next_report();
            let Some((slot, refused)) = report else {
                let mut state = self.broker.0.borrow_mut();
                (state.shrinks, state.epoch, state.batch_max) = (false, state.epoch + 1, usize::MAX);
                drop(state);
                self.health.replaced();
                return;
            };
            self.dispatch.reported(slot, Err(refused));
        }
        self.doubtful |= self.broker.0.borrow().doubtful;
    }

    fn broker_replies(&mut self) {
        for _ in 0..self.random.random_range(0..8) {
            let count = self.broker.0.borrow().replies.len();
            if count == 0 {
                return;
            }
            // Partitions answer independently of each other.
            let at = self.random.random_range(0..count);
            let slot = self.broker.0.borrow_mut().replies.remove(at).unwrap();
            self.dispatch.reported(slot, Ok(()));
        }
    }

    /// The disk hangs, or goes on. Time passes more quickly meanwhile, and nobody waits longer than the time-out.
    fn disk_hangs(&mut self) {
        self.store.0.borrow_mut().hangs ^= true;
        if !self.store.0.borrow().hangs {
            return;
        }
        for _ in 0..self.random.random_range(1..30) {
            self.now += Duration::from_millis(500);
            self.device_sends();
            self.dispatch.tick(self.now);
            self.collect_answers();
        }
    }

    fn broker_replaced(&mut self) {
        if self.broker.0.borrow().shrinks {
            // One after the other.
            return;
        }
        self.broker.replace(&self.dispatch, &mut self.random);
        self.doubtful |= self.broker.0.borrow().doubtful;
    }

    fn store_writes(&mut self) {
        let count = self.random.random_range(0..6);
        self.store.write(&self.dispatch, count, &mut self.random);
    }

    /// The process dies: what is durable stays, everything else is forgotten, no answer is given.
    fn crash(&mut self) {
        self.doubtful = true;
        {
            let mut broker = self.broker.0.borrow_mut();
            // What was on the wire may still arrive.
            let arrives = self.random.random_range(0..=broker.queue.len());
            for (_, device, number) in broker.queue.drain(..).take(arrives).collect::<Vec<_>>() {
                broker.log.borrow_mut().push((device, number));
            }
            broker.replies.clear();
            broker.taken_back.clear();
            (broker.shrinks, broker.takes_back_at) = (false, None);
            broker.epoch += 1;
            let mut store = self.store.0.borrow_mut();
            let safe_below = store.safe_below;
            store.durable.retain(|sequence, _| *sequence < safe_below);
            store.appended.clear();
            store.read_from = 0;
            store.hangs = false;
        }
        for device in &mut self.devices {
            let unanswered: Vec<u64> = std::mem::take(&mut device.sending).into_keys().collect();
            if self.window > 1 {
                device.excused.extend(&unanswered);
            }
            device.again.extend(unanswered);
        }
        self.health = monitor();
        self.dispatch = dispatch(&self.broker, &self.store, &self.health, &self.metrics);
    }

    fn collect_answers(&mut self) {
        let mut answers = Vec::new();
        for device in &mut self.devices {
            let mut answered = Vec::new();
            for (number, (sent_at, mailbox)) in &device.sending {
                mailbox.take(&mut answers);
                if let Some((_, Answer::One(outcome))) = answers.pop() {
                    answered.push((*number, outcome));
                } else {
                    let waits = self.now - *sent_at;
                    assert!(waits <= LONGEST, "a device waits for {waits:?}");
                }
            }
            for (number, outcome) in answered {
                device.sending.remove(&number);
                match outcome {
                    Outcome::Delivered | Outcome::Spooled => {
                        self.outcomes.acknowledged += 1;
                        self.outcomes.spooled += usize::from(outcome == Outcome::Spooled);
                        device.acknowledged.push(number);
                    }
                    Outcome::Busy(busy) => {
                        self.outcomes.busy += 1;
                        // Kafka may have it, or get it yet: the device's repetition is then a second one.
                        self.doubtful |= matches!(busy, Busy::KafkaTimeout | Busy::SpoolTimeout);
                        device.again.insert(number);
                        device.excused.insert(number);
                    }
                    Outcome::Rejected(rejection) => panic!("nothing is wrong with it: {rejection}"),
                }
            }
        }
    }

    /// Everything is let through.
    fn drain(&mut self) {
        self.broker.0.borrow_mut().takes_back_at = None;
        (self.store.0.borrow_mut().full, self.store.0.borrow_mut().hangs) = (false, false);
        {
            let mut broker = self.broker.0.borrow_mut();
            (broker.queue_max, broker.picky, broker.gone) = (usize::MAX, false, false);
            broker.leaderless.clear();
            self.store.0.borrow_mut().queue_max = usize::MAX;
        }
        for _ in 0..10_000 {
            self.now += Duration::from_millis(50);
            self.health.found();
            self.look_at_topics();
            self.gets_replaced();
            self.broker_writes();
            self.broker_replies();
            self.store_writes();
            self.dispatch.tick(self.now);
            self.dispatch.replay(self.now, 0, 100, 1 << 20);
            self.collect_answers();
            let quiet = !self.broker.0.borrow().shrinks
                && self.broker.0.borrow().queue.is_empty()
                && self.broker.0.borrow().replies.is_empty();
            let answered = self.devices.iter().all(|device| device.sending.is_empty());
            if quiet && answered && self.store.uncommitted() == 0 && self.store.0.borrow().appended.is_empty() {
                return;
            }
        }
        panic!("the backlog does not drain");
    }

    /// Nothing is left that anybody waits for: every device's next reading goes straight to Kafka.
    fn everybody_goes_straight(&mut self) {
        (self.lowers, self.is_over) = (false, true);
        self.broker.0.borrow_mut().batch_max = usize::MAX;
        for _ in 0..3 {
            // Longer than any pause of the replay.
            self.now += Duration::from_secs(2);
            self.dispatch.tick(self.now);
            self.health.found();
            self.dispatch.replay(self.now, 0, 100, 1 << 20);
        }
        let before = self.outcomes.spooled;
        for device in 0..DEVICES {
            self.send_from(device);
        }
        for _ in 0..100 {
            self.broker_writes();
            self.broker_replies();
            self.collect_answers();
        }
        let waiting = self.devices.iter().filter(|device| !device.sending.is_empty()).count();
        let spooled = self.outcomes.spooled - before;
        assert_eq!((waiting, spooled), (0, 0), "somebody waits for what is not there");
    }

    fn judge(mut self) -> Outcomes {
        let mut seen: BTreeMap<(usize, u64), usize> = BTreeMap::new();
        let mut latest = [0; DEVICES];
        for &(device, number) in self.log.borrow().iter() {
            let times = seen.entry((device, number)).or_default();
            *times += 1;
            let excused = self.devices[device].excused.contains(&number)
                || self.broker.0.borrow().refused.contains(&(device, number));
            if *times == 1 && !excused {
                self.outcomes.out_of_order += usize::from(number < latest[device]);
                latest[device] = latest[device].max(number);
            }
        }
        for (index, device) in self.devices.iter().enumerate() {
            let lost = device
                .acknowledged
                .iter()
                .filter(|number| !seen.contains_key(&(index, **number)));
            self.outcomes.lost += lost.count();
        }
        if !self.doubtful {
            self.outcomes.needless_duplicates = seen.values().map(|times| times - 1).sum();
        }
        self.outcomes
    }
}

/// Says which run it was that panicked.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("TEST_SEED={}", self.0);
        }
    }
}

/// One run.
pub fn run(seed: u64, canary: Canary) -> Outcomes {
    let _seed = Seed(seed);
    let mut run = Run::new(seed, canary);
    for _ in 0..STEPS {
        run.step();
    }
    run.drain();
    if canary == Canary::None {
        run.everybody_goes_straight();
    }
    run.judge()
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TEST_SEEDS").unwrap_or(2000),
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_order_holds() {
    let mut total = Outcomes::default();
    for seed in seeds() {
        let outcomes = run(seed, Canary::None);
        let findings = (outcomes.lost, outcomes.out_of_order, outcomes.needless_duplicates);
        let again = format!("TEST_SEED={seed} cargo test --release --test simulation deliver");
        assert_eq!(
            findings,
            (0, 0, 0),
            "(lost, out of order, needless duplicates); again: {again}"
        );
        total.acknowledged += outcomes.acknowledged;
        total.spooled += outcomes.spooled;
        total.busy += outcomes.busy;
        total.stalled += outcomes.stalled;
        total.passed_over += outcomes.passed_over;
    }
    eprintln!("{:?}: {total:?}", seeds());
    assert!(
        total.spooled > 0 && total.busy > 0 && total.acknowledged > total.spooled,
        "{total:?}"
    );
    if seeds().end - seeds().start >= 500 {
        assert!(total.passed_over > 0, "{total:?}");
    }
}

/// An idle gateway sleeps, and no record is copied late for that.
#[test]
fn a_tick_says_when_the_next_one_is_due() {
    let mut run = Run::new(0, Canary::None);
    run.is_over = true;
    {
        let mut broker = run.broker.0.borrow_mut();
        (broker.picky, broker.queue_max) = (false, usize::MAX);
        run.store.0.borrow_mut().queue_max = usize::MAX;
    }
    let milliseconds = Duration::from_millis;
    assert!(run.dispatch.is_idle());
    assert_eq!(run.dispatch.tick(run.now), milliseconds(100));
    // Sent right after a tick.
    run.send_from(2);
    let sent = run.now;
    let mut pause = milliseconds(100);
    while run.store.0.borrow().appended.is_empty() {
        run.now += pause;
        pause = run.dispatch.tick(run.now);
    }
    let copied_after = run.now - sent;
    assert!(
        (milliseconds(250)..=milliseconds(255)).contains(&copied_after),
        "{copied_after:?}"
    );
    assert_eq!(pause, milliseconds(5), "the store is to write it");
    assert!(!run.dispatch.is_idle(), "the replay may be needed");
    run.store.write_all(&run.dispatch);
    run.broker_writes();
    run.broker_replies();
    assert!(run.dispatch.is_idle(), "kafka has it, and the copy is committed");
    run.now += pause;
    assert_eq!(run.dispatch.tick(run.now), milliseconds(100));
}

/// The net catches: a store or a broker that lies is found out.
#[test]
fn a_broken_promise_is_caught() {
    for (name, canary) in [("store", Canary::StoreLies), ("broker", Canary::BrokerLies)] {
        let caught = (0..200).filter(|&seed| run(seed, canary).lost > 0).count();
        assert!(caught > 0, "the {name} lied in 200 runs and nobody noticed");
        eprintln!("the lying {name} was caught in {caught} of 200 runs");
    }
}

/// Devices that never pause, and an outage of a second.
struct Rush {
    run: Run,
    started: Instant,
    sent: VecDeque<(Instant, usize, Arc<Mailbox>)>,
    /// When each reading was sent, how long its answer took, whether it went straight to Kafka, and its device.
    answered: Vec<(Duration, Duration, bool, usize)>,
}

impl Rush {
    fn new() -> Self {
        let run = Run::new(0, Canary::None);
        {
            let mut broker = run.broker.0.borrow_mut();
            (broker.picky, broker.queue_max) = (false, usize::MAX);
            run.store.0.borrow_mut().queue_max = usize::MAX;
        }
        Rush {
            started: run.now,
            run,
            sent: VecDeque::new(),
            answered: Vec::new(),
        }
    }

    /// A millisecond: every device sends, Kafka answers after 3 ms, the spool writes every 6 ms, the replay turns every 5.
    fn millisecond(&mut self, ms: u64, devices: usize, kafka_is_away: bool) {
        self.run.now = self.started + Duration::from_millis(ms);
        for device in 0..devices {
            let (key, value) = (device.to_string(), ms.to_le_bytes());
            let record = Record {
                topic: "t",
                key: &key,
                value: &value,
                timestamp_ms: 0,
                headers: &[],
            };
            let mailbox = Mailbox::new();
            let reply = Reply::To {
                mailbox: mailbox.clone(),
                ticket: 0,
            };
            let receipt = Receipt::new(
                self.run.metrics.tallies.of_kind("k").of(Protocol::Mqtt).clone(),
                std::time::Instant::now(),
                reply,
                None,
            );
            let once_safe = Outcome::Delivered;
            self.run
                .dispatch
                .send(self.run.now, &record, Pending { receipt, once_safe });
            self.sent.push_back((self.run.now, device, mailbox));
        }
        if !kafka_is_away && ms.is_multiple_of(3) {
            self.let_kafka_write();
        }
        if ms.is_multiple_of(6) {
            self.run.store.write_all(&self.run.dispatch);
        }
        if ms.is_multiple_of(5) {
            self.run.dispatch.tick(self.run.now);
            let turn = self
                .run
                .dispatch
                .replay(self.run.now, 0, self.run.outcomes.busy, usize::MAX);
            // The pace of the pump: 100 a turn, and what came in.
            self.run.outcomes.busy = 100 + turn.records_grown;
        }
        self.collect();
    }

    fn let_kafka_write(&mut self) {
        let written: Vec<_> = self.run.broker.0.borrow_mut().queue.drain(..).collect();
        for (slot, device, number) in written {
            self.run.log.borrow_mut().push((device, number));
            self.run.dispatch.reported(slot, Ok(()));
        }
    }

    fn collect(&mut self) {
        let mut answers = Vec::new();
        let (now, started) = (self.run.now, self.started);
        self.sent.retain(|(sent, device, mailbox)| {
            mailbox.take(&mut answers);
            match answers.pop() {
                Some((_, Answer::One(outcome))) => {
                    assert!(matches!(outcome, Outcome::Delivered | Outcome::Spooled), "{outcome:?}");
                    let direct = outcome == Outcome::Delivered;
                    self.answered.push((*sent - started, now - *sent, direct, *device));
                    false
                }
                _ => true,
            }
        });
    }
}

/// While devices never pause, their key groups never are idle: the way must lead back to Kafka all the same, and nobody must
/// wait long for that.
#[test]
fn after_an_outage_readings_go_straight_to_kafka_again() {
    for devices in [1, 5, 40] {
        let mut rush = Rush::new();
        let (away, back, end) = (500, 1500, 6000);
        for ms in 0..end {
            if ms == back {
                rush.run.health.found();
            }
            rush.millisecond(ms, devices, (away..back).contains(&ms));
        }
        let check = |from: u64, to: u64, direct_wanted: bool, longest: u64| {
            let of_interest = |sent: Duration| (from..to).contains(&(sent.as_millis() as u64));
            for (sent, took, direct, _) in rush.answered.iter().filter(|(sent, ..)| of_interest(*sent)) {
                assert!(
                    *took <= Duration::from_millis(longest) && *direct >= direct_wanted,
                    "{devices} devices: sent at {sent:?}, answered after {took:?}, straight to kafka: {direct}"
                );
            }
        };
        check(0, away - 3, true, 3);
        check(away, back, false, 262);
        check(back, end, false, 40);
        // 40 devices leave 40,000 readings behind, and the backlog shrinks by 20,000 a second.
        check(if devices == 40 { 4500 } else { 2500 }, end, true, 3);
        let lasts = rush.sent.len();
        assert!(lasts <= 10 * devices, "{lasts} are not answered");
        let mut latest = vec![None; devices];
        for (device, number) in rush.run.log.borrow().iter() {
            assert!(
                latest[*device] < Some(*number),
                "device {device}: {number} after {:?}",
                latest[*device]
            );
            latest[*device] = Some(*number);
        }
    }
}

/// While readings come in faster than they are read, a compaction of deferred ones comes to no end: it is given up after twice as many
/// copies as were deferred, and 10,000 more; nothing is lost by it, and it is not begun again at once.
#[test]
fn a_move_of_deferred_readings_that_comes_to_no_end_is_given_up() {
    const DEFERRED: usize = 100;
    const COPIES_MAX: usize = 2 * DEFERRED + 10_000;
    let mut run = Run::new(0, Canary::None);
    (run.window, run.is_over) = (usize::MAX, true);
    {
        let mut broker = run.broker.0.borrow_mut();
        (broker.picky, broker.gone, broker.queue_max) = (false, true, usize::MAX);
        run.store.0.borrow_mut().queue_max = usize::MAX;
    }
    run.look_at_topics();
    // Their topic is gone, and what came in with them is replayed around them.
    run.health.failed(Cause::Unconfirmed, "the simulation says so");
    (0..DEFERRED).for_each(|number| run.send_from(number % 2));
    (0..10 * DEFERRED).for_each(|_| run.send_from(2));
    run.health.found();
    let turn = |run: &mut Run, newcomers: usize| {
        run.now += Duration::from_millis(150);
        (0..newcomers).for_each(|number| run.send_from(number % 2));
        run.store.write_all(&run.dispatch);
        run.dispatch.tick(run.now);
        run.dispatch.replay(run.now, 0, 1000, 1 << 20);
        run.broker_writes();
        run.broker_replies();
        run.collect_answers();
    };
    let copies = |run: &Run| run.store.0.borrow().copies;
    // A turn reads eight times.
    run.store.0.borrow_mut().read_max = Some(10);
    let began = run.now;
    while copies(&run) == 0 {
        turn(&mut run, 0);
        assert!(
            run.now < began + Duration::from_secs(300),
            "a compaction begins: {} kept for {}, {} deferred",
            run.store.kept(),
            run.store.uncommitted(),
            run.dispatch.deferred()
        );
    }
    // More come in with each turn than one reads.
    let mut newcomers = 0;
    for _ in 0..400 {
        turn(&mut run, 100);
        newcomers += 100;
    }
    assert_eq!(copies(&run), COPIES_MAX, "no more, and no other compaction yet");
    assert_eq!(
        run.store.uncommitted(),
        (DEFERRED + newcomers) as u64,
        "the originals alone"
    );
}

/// A deferred reading must not keep on disk what is replayed after it, however many outages there are; and those that are
/// deferred keep their order, also when more of them come in between.
#[test]
fn deferred_readings_do_not_keep_on_disk_what_was_replayed() {
    let mut run = Run::new(0, Canary::None);
    (run.window, run.is_over) = (usize::MAX, true);
    {
        let mut broker = run.broker.0.borrow_mut();
        (broker.picky, broker.gone, broker.queue_max) = (false, true, usize::MAX);
        run.store.0.borrow_mut().queue_max = usize::MAX;
    }
    run.look_at_topics();
    for outage in 0..50 {
        run.health.failed(Cause::Unconfirmed, "the simulation says so");
        for device in (0..DEVICES)
            .cycle()
            .take(100)
            .filter(|device| *device >= 2 || outage < 3)
        {
            run.send_from(device);
        }
        run.health.found();
        for turn in 0..100 {
            run.now += Duration::from_millis(150);
            if turn < 20 && outage < 3 {
                run.send_from(turn % 2);
            }
            run.store.write_all(&run.dispatch);
            run.dispatch.tick(run.now);
            run.dispatch.replay(run.now, 0, 100, 1 << 20);
            run.broker_writes();
            run.broker_replies();
            run.collect_answers();
        }
        let (kept, deferred) = (run.store.kept(), run.store.uncommitted());
        assert!(
            kept <= 3 * deferred + 100,
            "{kept} kept for {deferred} after outage {outage}"
        );
    }
    assert_eq!(run.dispatch.deferred(), run.store.uncommitted());
    run.drain();
    run.everybody_goes_straight();
    let outcomes = run.judge();
    let findings = (outcomes.lost, outcomes.out_of_order, outcomes.needless_duplicates);
    assert_eq!(findings, (0, 0, 0));
}

/// Whenever it is that the topic accepts records again: also between two of those that are tried once more.
#[test]
fn what_was_set_aside_keeps_its_order_when_its_topic_accepts_records_again() {
    const READINGS: usize = 20;
    for seed in 0..200 {
        let mut run = Run::new(seed, Canary::None);
        (run.window, run.is_over, run.lowers) = (usize::MAX, true, false);
        {
            let mut broker = run.broker.0.borrow_mut();
            (broker.picky, broker.refuses_all, broker.queue_max) = (false, true, usize::MAX);
            run.store.0.borrow_mut().queue_max = usize::MAX;
        }
        run.health.failed(Cause::Unconfirmed, "the simulation says so");
        (0..READINGS).for_each(|_| run.send_from(0));
        run.store.write_all(&run.dispatch);
        run.health.found();
        let set_aside = |run: &Run| run.metrics.deliver.spool.spool_readings_refused.get() as usize;
        // They are tried again every 400 turns.
        let mended_at = run.random.random_range(390..430);
        for turn in 0..1_300 {
            run.now += Duration::from_millis(150);
            run.store.write_all(&run.dispatch);
            run.dispatch.tick(run.now);
            run.dispatch.replay(run.now, 0, 100, 1 << 20);
            run.broker_writes();
            run.broker.0.borrow_mut().refuses_all &= turn < mended_at;
            if turn == 200 {
                assert_eq!(set_aside(&run), READINGS, "seed {seed}");
            }
            run.broker_replies();
            run.collect_answers();
        }
        assert_eq!(set_aside(&run), 0, "seed {seed}");
        let mut arrived: Vec<u64> = run.log.borrow().iter().map(|(_, number)| *number).collect();
        arrived.dedup();
        assert!(arrived.is_sorted(), "seed {seed}: {arrived:?}");
        assert_eq!(arrived.len(), READINGS, "seed {seed}: {arrived:?}");
    }
}
