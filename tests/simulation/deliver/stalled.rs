//! Partitions that stall, or are merely slow, while the disk hangs, the spool is full, or readings come in fast.
//!
//! As in `leaderless` a device stands for a partition, and nothing happens by chance.

use citygate::deliver::leaderless_partitions::Leaderless;

use super::leaderless::{
    NOTICED, arrived, backlog, calm, check_all_arrived_in_order, confirm, leaders_return, lose_leader, outcome_of_one,
    turn, turns,
};
use super::*;

const TURN: Duration = Duration::from_millis(5);

/// Kafka confirms what is queued for some devices only after a while.
struct Slow {
    delay: Duration,
    is_slow: fn(usize) -> bool,
    sent: VecDeque<(Instant, (usize, usize, u64))>,
}

impl Slow {
    fn new(milliseconds: u64, is_slow: fn(usize) -> bool) -> Self {
        Slow {
            delay: Duration::from_millis(milliseconds),
            is_slow,
            sent: VecDeque::new(),
        }
    }

    fn confirm(&mut self, run: &Run) {
        let queue: Vec<_> = run.broker.0.borrow_mut().queue.drain(..).collect();
        for record in queue {
            match (self.is_slow)(record.1) {
                true => self.sent.push_back((run.now + self.delay, record)),
                false => written(run, record),
            }
        }
        while self.sent.front().is_some_and(|(at, _)| *at <= run.now)
            && let Some((_, record)) = self.sent.pop_front()
        {
            written(run, record);
        }
    }

    /// 5 ms; so many records may be replayed.
    fn turn(&mut self, run: &mut Run, entries_max: usize) {
        run.now += TURN;
        self.confirm(run);
        run.store.write_all(&run.dispatch);
        run.dispatch.tick(run.now);
        run.dispatch.replay(run.now, 0, entries_max, 1 << 20);
        run.collect_answers();
    }
}

fn written(run: &Run, (slot, device, number): (usize, usize, u64)) {
    run.log.borrow_mut().push((device, number));
    run.dispatch.reported(slot, Ok(()));
}

/// A reading of a device that nobody waits for.
fn send_unwatched(run: &Run, device: usize, number: u64, headers: &[(&str, &str)]) {
    let (key, value) = (device.to_string(), number.to_le_bytes());
    let record = Record {
        topic: "t",
        key: &key,
        value: &value,
        timestamp_ms: 0,
        headers,
    };
    let reply = Reply::To {
        mailbox: Mailbox::new(),
        ticket: 0,
    };
    let tally = run.metrics.tallies.of_kind("k").of(Protocol::Mqtt).clone();
    let receipt = Receipt::new(tally, Instant::now(), reply, None);
    let once_safe = Outcome::Delivered;
    run.dispatch.send(run.now, &record, Pending { receipt, once_safe });
}

/// The disk hangs while Kafka is slow for a moment: Kafka has confirmed what is still to be written, so nothing stalls.
#[test]
fn a_disk_that_hangs_stalls_no_partition_that_kafka_has_confirmed() {
    let mut run = calm();
    (0..DEVICES).for_each(|device| run.send_from(device));
    run.now += Duration::from_millis(260);
    run.dispatch.tick(run.now);
    assert_eq!(run.store.0.borrow().appended.len(), DEVICES, "all are copied");
    for at in 0..800 {
        run.now += TURN;
        confirm(&run);
        run.dispatch.tick(run.now);
        run.dispatch.replay(run.now, 0, 1_000, 1 << 20);
        run.collect_answers();
        assert_eq!(run.dispatch.stalled().1, 0, "after {at} turns");
        let all_answered = run.devices.iter().all(|device| device.sending.is_empty());
        assert!(all_answered, "after {at} turns");
        // The others are silent for now.
        run.send_from(0);
    }
    (1..DEVICES).for_each(|device| run.send_from(device));
    confirm(&run);
    run.collect_answers();
    turns(&mut run, NOTICED);
    assert_eq!((run.store.uncommitted(), run.outcomes.spooled), (0, 0));
    check_all_arrived_in_order(run, &[801, 2, 2, 2, 2]);
}

/// How long the backlog takes of the devices that are slow, and of the others; a third of so many devices is slow.
fn times_of_backlog(milliseconds: u64, devices: usize, readings: usize) -> (Duration, Duration) {
    let mut slow = Slow::new(milliseconds, |device| device.is_multiple_of(3));
    let mut run = calm();
    run.health.failed(Cause::Unconfirmed, "the simulation says so");
    for number in 0..readings {
        (0..devices).for_each(|device| send_unwatched(&run, device, number as u64 + 1, &[]));
    }
    run.store.write_all(&run.dispatch);
    run.health.found();
    // The time that Kafka is given after an outage.
    while run.broker.0.borrow().queue.is_empty() {
        slow.turn(&mut run, 100);
    }
    let began = run.now;
    let all =
        [true, false].map(|is_slow| (0..devices).filter(|device| (device % 3 == 0) == is_slow).count() * readings);
    let mut times = [None; 2];
    while times.contains(&None) {
        slow.turn(&mut run, 100);
        let count = |is_slow| {
            let log = run.log.borrow();
            log.iter().filter(|(device, _)| (device % 3 == 0) == is_slow).count()
        };
        for (at, is_slow) in [true, false].into_iter().enumerate() {
            if times[at].is_none() && count(is_slow) == all[at] {
                times[at] = Some(run.now - began);
            }
        }
        assert!(run.now - began < Duration::from_secs(120), "{times:?}");
    }
    let mut latest = BTreeMap::new();
    for (device, number) in run.log.borrow().iter() {
        let before = latest.insert(*device, *number).unwrap_or_default();
        assert_eq!(*number, before + 1, "device {device}: each once, and in order");
    }
    (times[0].unwrap(), times[1].unwrap())
}

/// A partition that is slow and confirms is not stalled; one that is slower stalls and returns again and again, and the
/// others do not wait for that. The pace is 20,000 a second.
#[test]
fn a_slow_partition_stops_nobody() {
    for (milliseconds, devices, readings, own_max, others_max) in [
        (1_200, 3, 20_000, 5_000, 3_300),
        (1_200, 6_000, 10, 5_000, 3_300),
        (2_000, 3, 20_000, 9_000, 3_300),
        (2_000, 6_000, 10, 9_000, 3_300),
    ] {
        let (own, others) = times_of_backlog(milliseconds, devices, readings);
        eprintln!("{milliseconds} ms, {devices} devices: its own after {own:?}, the others after {others:?}");
        let max = (Duration::from_millis(own_max), Duration::from_millis(others_max));
        assert!(
            own <= max.0 && others <= max.1,
            "{milliseconds} ms, {devices} devices: its own after {own:?}, the others after {others:?}"
        );
    }
}

/// Devices that never pause go straight to Kafka again after an outage, although a partition is slow.
#[test]
fn after_an_outage_readings_go_straight_to_kafka_again_although_a_partition_is_slow() {
    const DEVICES: usize = 20;
    let mut slow = Slow::new(800, |device| device == DEVICES);
    let mut rush = Rush::new();
    for ms in 0..8_000 {
        rush.millisecond(ms, DEVICES, true);
        // All of these are copied.
        if ms.is_multiple_of(100) {
            send_unwatched(&rush.run, DEVICES, ms + 1, &[]);
        }
        if !(500..1_500).contains(&ms) {
            // Of what Kafka has confirmed, the health knows by the real clock.
            rush.run.health.found();
            if ms.is_multiple_of(3) {
                slow.confirm(&rush.run);
            }
        }
    }
    let late = Duration::from_secs(6);
    let of_others = rush.answered.iter().filter(|(sent, ..)| *sent > late);
    let (straight, spooled): (Vec<_>, Vec<_>) = of_others.copied().partition(|(_, _, direct, _)| *direct);
    assert!(straight.len() > DEVICES * 1_900, "{} go straight", straight.len());
    assert!(
        spooled.is_empty(),
        "{} do not, such as {:?}",
        spooled.len(),
        spooled.first()
    );
}

/// However fast readings come in for a partition that stalls, they are moved out of the way, and their devices hardly wait.
#[test]
fn readings_that_come_in_fast_are_moved_all_the_same() {
    let mut run = calm();
    lose_leader(&run, 0);
    run.send_from(0);
    run.send_from(1);
    turns(&mut run, 2 * NOTICED);
    assert_eq!(run.dispatch.stalled().1, 1);
    for outage in 0..3 {
        run.health.failed(Cause::Unconfirmed, "the simulation says so");
        // More than waits for the partition.
        (0..60_000).for_each(|_| run.send_from(1));
        run.health.found();
        let copies = run.store.0.borrow().copies;
        for at in 0..3_000 {
            run.now += TURN;
            confirm(&run);
            if at % 3 == 0 {
                run.store.write_all(&run.dispatch);
            }
            // Always some that are not written yet: 1,000 a second.
            (0..5).for_each(|_| run.send_from(0));
            run.dispatch.tick(run.now);
            run.dispatch.replay(run.now, 0, 1_000, 1 << 20);
            run.collect_answers();
            let oldest = run.devices[0]
                .sending
                .values()
                .map(|(sent_at, _)| run.now - *sent_at)
                .max();
            assert!(oldest <= Some(Duration::from_millis(60)), "one waits for {oldest:?}");
        }
        let (kept, waiting) = (run.store.kept(), run.store.uncommitted());
        assert!(run.store.0.borrow().copies > copies, "outage {outage}");
        assert!(
            kept <= waiting + 1_000,
            "{kept} kept for {waiting} after outage {outage}"
        );
    }
    let of_each: [usize; DEVICES] = std::array::from_fn(|device| run.devices[device].sent as usize);
    leaders_return(&run);
    turns(&mut run, Duration::from_secs(10));
    assert_eq!(run.store.uncommitted(), 0);
    check_all_arrived_in_order(run, &of_each);
}

/// What is retained for the last copies stands before later ones also when the compaction is given up, because another
/// partition confirms something.
#[test]
fn readings_that_wait_for_the_last_copies_keep_their_order_when_it_is_given_up() {
    for given_up_at in 1..60 {
        let mut run = calm();
        for device in [0, 2] {
            lose_leader(&run, device);
            run.send_from(device);
        }
        run.send_from(1);
        turns(&mut run, 2 * NOTICED);
        run.health.failed(Cause::Unconfirmed, "the simulation says so");
        (0..100).for_each(|_| run.send_from(0));
        (0..1_000).for_each(|_| run.send_from(1));
        run.health.found();
        run.store.0.borrow_mut().read_max = Some(7);
        let (mut at, mut turns_left) = (0, given_up_at);
        while turns_left > 0 {
            turns_left -= usize::from(run.store.0.borrow().copies > 0);
            at += 1;
            assert!(at < 3_000, "nothing is moved");
            run.now += TURN;
            confirm(&run);
            if at % 3 == 0 {
                run.store.write_all(&run.dispatch);
            }
            (0..2).for_each(|_| run.send_from(0));
            run.dispatch.tick(run.now);
            run.dispatch.replay(run.now, 0, 1_000, 1 << 20);
            run.collect_answers();
        }
        (0..2).for_each(|_| run.send_from(0));
        run.broker.0.borrow_mut().leaderless.remove(&2);
        confirm(&run);
        (0..2).for_each(|_| run.send_from(0));
        run.store.0.borrow_mut().read_max = None;
        turns(&mut run, Duration::from_millis(300));
        assert_eq!(run.dispatch.stalled().1, 1);
        let of_each: [usize; DEVICES] = std::array::from_fn(|device| run.devices[device].sent as usize);
        leaders_return(&run);
        turns(&mut run, NOTICED);
        assert_eq!(run.store.uncommitted(), 0);
        check_all_arrived_in_order(run, &of_each);
    }
}

/// A spool that is full of one partition's readings, and none that Kafka confirms: the others' next ones show that it does.
#[test]
fn a_full_spool_and_a_partition_that_stalls_do_not_stop_the_others() {
    let mut run = calm();
    (0..3).for_each(|device| lose_leader(&run, device));
    run.send_from(0);
    run.send_from(4);
    turns(&mut run, 2 * NOTICED);
    assert_eq!(run.dispatch.stalled().1, 1);
    run.store.0.borrow_mut().full = true;
    // A quiet hour.
    run.send_from(1);
    turns(&mut run, Duration::from_millis(300));
    assert!(!run.health.is_up());
    let probed = |run: &mut Run, duration: Duration| {
        let until = run.now + duration;
        while run.now < until {
            run.health.answered();
            turn(run);
        }
    };
    probed(&mut run, NOTICED);
    assert!(!run.health.is_up(), "nothing shows that Kafka confirms anything");
    // The first is of a partition that stalls as well.
    run.send_from(2);
    run.send_from(3);
    probed(&mut run, Duration::from_millis(20));
    assert_eq!(run.outcomes.busy, 1, "one is tried at a time");
    probed(&mut run, NOTICED);
    assert!(!run.health.is_up());
    run.send_from(3);
    turns(&mut run, Duration::from_millis(20));
    assert!(run.health.is_up(), "Kafka has confirmed it");
    for device in 3..DEVICES {
        assert_eq!(outcome_of_one(&mut run, device, Duration::from_millis(20)), Some(true));
    }
    leaders_return(&run);
    run.store.0.borrow_mut().full = false;
    turns(&mut run, NOTICED);
    assert_eq!(run.store.uncommitted(), 0);
    for device in 0..3 {
        assert_eq!(outcome_of_one(&mut run, device, Duration::from_millis(20)), Some(true));
    }
    check_all_arrived_in_order(run, &[2, 2, 2, 2, 2]);
}

/// Where nobody sends while readings are not accepted, everybody is let through once in a while.
#[test]
fn with_a_full_spool_everybody_is_tried_if_nobody_sends() {
    let mut run = calm();
    lose_leader(&run, 0);
    run.send_from(0);
    run.send_from(4);
    turns(&mut run, 2 * NOTICED);
    run.store.0.borrow_mut().full = true;
    run.health.unconfirmed("the simulation says so");
    let mut ups = 0;
    for _ in 0..(95_000 / 5) {
        turn(&mut run);
        ups += usize::from(run.health.is_up());
        run.health.answered();
    }
    assert_eq!(ups, 3);
}

/// With a full spool a reading of a partition that stalls cannot be copied: its device's next ones are told so at once, and
/// do not fill the producer.
#[test]
fn a_partition_that_stalls_while_the_spool_is_full_does_not_fill_the_producer() {
    let mut run = calm();
    lose_leader(&run, 0);
    run.store.0.borrow_mut().full = true;
    for at in 0..2_000 {
        // The others are busy, so Kafka is up.
        (1..DEVICES).for_each(|device| run.send_from(device));
        if at % 20 == 0 {
            run.send_from(0);
        }
        turn(&mut run);
        run.health.found();
    }
    assert_eq!(run.dispatch.stalled().1, 1);
    // One every 100 ms, until it is found to stall.
    let queued = run.broker.0.borrow().queue.len();
    assert!(queued <= 15, "{queued} are with the producer");
    assert!(run.outcomes.busy > 50, "{}", run.outcomes.busy);
    leaders_return(&run);
    run.store.0.borrow_mut().full = false;
    turns(&mut run, NOTICED);
    assert_eq!(run.dispatch.stalled(), (0, 0));
    assert_eq!(outcome_of_one(&mut run, 0, Duration::from_millis(20)), Some(true));
    assert_eq!(run.judge().lost, 0);
}

/// The store's queue is full just when a group is found to stall: the readings of others are copied no later for that.
#[test]
fn a_reading_is_copied_in_time_although_one_of_a_stalled_group_could_not_be() {
    let mut run = calm();
    (0..2).for_each(|device| lose_leader(&run, device));
    let began = run.now;
    for ms in (0..1_310).step_by(5) {
        run.now = began + Duration::from_millis(ms);
        // Kafka confirms others, and so the first is overtaken.
        run.send_from(2);
        confirm(&run);
        run.health.found();
        match ms {
            0 | 1_200 => run.send_from(0),
            1_050 => run.send_from(1),
            1_255 => {
                assert_eq!(run.dispatch.stalled().1, 0);
                run.store.0.borrow_mut().queue_max = 0;
            }
            1_260 => {
                assert_eq!(run.dispatch.stalled().1, 1);
                run.store.0.borrow_mut().queue_max = usize::MAX;
            }
            _ => {}
        }
        run.dispatch.tick(run.now);
        run.store.write_all(&run.dispatch);
        run.collect_answers();
    }
    assert!(run.devices[1].sending.is_empty(), "it is copied after 250 ms");
}

/// A record that Kafka refused is moved while the replay has just read it: it is not sent again.
#[test]
fn what_is_moved_while_the_replay_reads_is_not_sent_again() {
    let mut run = calm();
    run.health.failed(Cause::Unconfirmed, "the simulation says so");
    (0..2).for_each(|device| run.send_from(device));
    run.store.write_all(&run.dispatch);
    run.health.found();
    run.dispatch.tick(run.now);
    run.now += Duration::from_secs(2);
    run.dispatch.tick(run.now);
    run.dispatch.replay(run.now, 0, 10, 1 << 20);
    let queue: Vec<_> = run.broker.0.borrow_mut().queue.drain(..).collect();
    assert_eq!(queue.len(), 2);
    run.dispatch.reported(queue[0].0, Err(Refused::Unacceptable));
    // So the replay begins with the oldest.
    run.dispatch.reported(queue[1].0, Err(Refused::Other));
    let (store, dispatch) = (run.store.clone(), run.dispatch.clone());
    run.store.0.borrow_mut().interlude = Some(Box::new(move || store.write_all(&dispatch)));
    run.dispatch.replay(run.now, 0, 10, 1 << 20);
    let queue: Vec<_> = run
        .broker
        .0
        .borrow()
        .queue
        .iter()
        .map(|(_, device, _)| *device)
        .collect();
    assert_eq!(queue, [1], "the first is retried later");
}

/// Large records are not sent by their number alone, for the producer keeps them in memory.
#[test]
fn the_replay_has_so_many_bytes_on_the_way_at_once() {
    const RECORDS: u64 = 80;
    let mut run = calm();
    run.health.failed(Cause::Unconfirmed, "the simulation says so");
    let mebibyte = "x".repeat(1 << 20);
    (0..RECORDS).for_each(|number| send_unwatched(&run, 2, number + 1, &[("large", &mebibyte)]));
    run.store.write_all(&run.dispatch);
    run.health.found();
    let mut most = 0;
    for _ in 0..400 {
        run.now += TURN;
        run.dispatch.tick(run.now);
        run.dispatch.replay(run.now, 0, 1_000, 1 << 30);
        most = most.max(run.broker.0.borrow().queue.len());
    }
    assert_eq!(most, 64);
    turns(&mut run, Duration::from_secs(1));
    assert_eq!(arrived(&run, 2), RECORDS as usize);
}

/// While Kafka confirms nothing, what is for partitions without a leader is not tried: it would only wait there.
#[test]
fn readings_for_partitions_without_a_leader_are_not_tried() {
    let mut run = calm();
    run.health.failed(Cause::Unconfirmed, "the simulation says so");
    for device in [0, 1, 0, 2, 0, 2] {
        run.send_from(device);
    }
    run.store.write_all(&run.dispatch);
    run.collect_answers();
    (0..2).for_each(|device| lose_leader(&run, device));
    let leaderless = Leaderless {
        topic: topic(0).to_owned(),
        partition: 0,
        partitions: 1,
    };
    run.health.leaderless().found(vec![leaderless]);
    run.dispatch.tick(run.now);
    for _ in 0..3 {
        run.now += Duration::from_secs(2);
        run.dispatch.tick(run.now);
        run.dispatch.replay(run.now, 0, 1_000, 1 << 20);
        let tried: Vec<_> = run
            .broker
            .0
            .borrow()
            .queue
            .iter()
            .map(|(_, device, _)| *device)
            .collect();
        assert_eq!(tried, [2]);
    }
    turns(&mut run, NOTICED);
    assert!(run.health.is_up());
    assert_eq!((arrived(&run, 2), run.store.uncommitted()), (2, 4));
    leaders_return(&run);
    run.health.leaderless().found(vec![]);
    turns(&mut run, NOTICED);
    assert_eq!(run.store.uncommitted(), 0);
    check_all_arrived_in_order(run, &[3, 1, 2, 0, 0]);
}

/// Those that were left out are come to once Kafka is up, also if nothing else was tried.
#[test]
fn readings_that_were_not_tried_are_replayed_when_kafka_is_up() {
    let mut run = calm();
    run.health.failed(Cause::Unconfirmed, "the simulation says so");
    (0..3).for_each(|_| run.send_from(0));
    run.store.write_all(&run.dispatch);
    run.collect_answers();
    let leaderless = Leaderless {
        topic: topic(0).to_owned(),
        partition: 0,
        partitions: 1,
    };
    run.health.leaderless().found(vec![leaderless]);
    turns(&mut run, NOTICED);
    assert_eq!((arrived(&run, 0), run.store.uncommitted()), (0, 3));
    run.health.leaderless().found(vec![]);
    run.health.found();
    turns(&mut run, NOTICED);
    assert_eq!(run.store.uncommitted(), 0);
    check_all_arrived_in_order(run, &[3, 0, 0, 0, 0]);
}

/// The replay comes again to a group that is stalled no more although the producer holds entries of others: these are not
/// sent twice.
#[test]
fn what_the_producer_holds_is_not_sent_again_when_the_replay_returns() {
    for delay in [300, 700, 900] {
        let mut slow = Slow::new(delay, |device| device == 1);
        let mut run = calm();
        backlog(&mut run, 2_000);
        lose_leader(&run, 0);
        let began = run.now;
        let mut gone = VecDeque::new();
        while run.store.uncommitted() > 0 {
            // Device 0 stalls for two seconds, confirms some, and so on.
            let has_leader = (run.now - began).as_millis() / 2_000 % 2 == 1;
            let queue: Vec<_> = run.broker.0.borrow_mut().queue.drain(..).collect();
            let (own, others): (Vec<_>, Vec<_>) = queue.into_iter().partition(|(_, device, _)| *device == 0);
            gone.extend(own);
            run.broker.0.borrow_mut().queue.extend(others);
            if has_leader {
                gone.drain(..).for_each(|record| written(&run, record));
            }
            slow.turn(&mut run, 20);
            assert!(run.now < began + Duration::from_secs(60));
        }
        check_all_arrived_in_order(run, &[2_000; DEVICES]);
    }
}
