//! Partitions without a leader: what is meant for them waits in the spool, everything else flows.
//!
//! A device stands for a partition here: each has a key group of its own. What the producer holds for a device whose
//! partition has no leader stays there, neither confirmed nor given back, as with librdkafka.

use super::*;

/// Longer than it may take until a partition counts as stalled.
pub(super) const NOTICED: Duration = Duration::from_millis(2_500);

/// A run without chance: the broker and the store do what they can, every 5 ms.
pub(super) fn calm() -> Run {
    let mut run = Run::new(0, Canary::None);
    (run.window, run.is_over, run.loses_leaders) = (usize::MAX, true, false);
    {
        let mut broker = run.broker.0.borrow_mut();
        (broker.picky, broker.queue_max) = (false, usize::MAX);
        run.store.0.borrow_mut().queue_max = usize::MAX;
    }
    run
}

/// 5 ms: the broker confirms what it can, the store writes, the replay turns.
pub(super) fn turn(run: &mut Run) {
    run.now += Duration::from_millis(5);
    confirm(run);
    run.store.write_all(&run.dispatch);
    run.dispatch.tick(run.now);
    run.dispatch.replay(run.now, 0, 1_000, 1 << 20);
    run.collect_answers();
}

pub(super) fn confirm(run: &Run) {
    loop {
        let next = run.broker.0.borrow_mut().next_in_queue();
        let Some((slot, device, number)) = next else { return };
        run.log.borrow_mut().push((device, number));
        run.dispatch.reported(slot, Ok(()));
    }
}

pub(super) fn turns(run: &mut Run, duration: Duration) {
    let until = run.now + duration;
    while run.now < until {
        turn(run);
    }
}

/// An outage during which every device sends so many readings.
pub(super) fn backlog(run: &mut Run, readings: usize) {
    run.health.failed(Cause::Unconfirmed, "the simulation says so");
    for number in 0..readings * DEVICES {
        run.send_from(number % DEVICES);
    }
    run.store.write_all(&run.dispatch);
    run.collect_answers();
    run.health.found();
}

pub(super) fn lose_leader(run: &Run, device: usize) {
    run.broker.0.borrow_mut().leaderless.insert(device);
}

pub(super) fn leaders_return(run: &Run) {
    run.broker.0.borrow_mut().leaderless.clear();
}

pub(super) fn arrived(run: &Run, of: usize) -> usize {
    let log = run.log.borrow();
    log.iter().filter(|(device, _)| *device == of).count()
}

/// Sends a reading, and says whether it went straight to Kafka; `None`: it is not answered within so long.
pub(super) fn outcome_of_one(run: &mut Run, device: usize, within: Duration) -> Option<bool> {
    let spooled = run.outcomes.spooled;
    run.send_from(device);
    let until = run.now + within;
    while run.now < until && !run.devices[device].sending.is_empty() {
        turn(run);
    }
    run.devices[device]
        .sending
        .is_empty()
        .then_some(run.outcomes.spooled == spooled)
}

pub(super) fn check_all_arrived_in_order(run: Run, each: &[usize; DEVICES]) {
    for (device, count) in each.iter().enumerate() {
        assert_eq!(arrived(&run, device), *count, "device {device}, each once");
    }
    let outcomes = run.judge();
    let findings = (outcomes.lost, outcomes.out_of_order, outcomes.needless_duplicates);
    assert_eq!(findings, (0, 0, 0));
}

#[test]
fn a_partition_without_a_leader_stops_only_its_own_backlog() {
    // More than the replay may have unconfirmed at once.
    const READINGS: usize = 12_000;
    let mut run = calm();
    backlog(&mut run, READINGS);
    lose_leader(&run, 0);
    turns(&mut run, Duration::from_secs(10));
    assert_eq!(arrived(&run, 0), 0);
    for device in 1..DEVICES {
        assert_eq!(arrived(&run, device), READINGS, "device {device}");
    }
    for device in 1..DEVICES {
        let soon = outcome_of_one(&mut run, device, Duration::from_millis(20));
        assert_eq!(soon, Some(true), "device {device} goes straight to kafka");
    }
    for _ in 0..3 {
        let spooled = outcome_of_one(&mut run, 0, Duration::from_millis(20));
        assert_eq!(spooled, Some(false), "it is spooled at once");
    }
    leaders_return(&run);
    turns(&mut run, Duration::from_secs(10));
    assert_eq!(run.store.uncommitted(), 0);
    assert_eq!(outcome_of_one(&mut run, 0, Duration::from_millis(20)), Some(true));
    let all = READINGS + 1;
    check_all_arrived_in_order(run, &[READINGS + 4, all, all, all, all]);
}

#[test]
fn a_partition_that_loses_its_leader_under_live_readings_does_not_stop_the_replay() {
    let mut run = calm();
    lose_leader(&run, 0);
    assert_eq!(outcome_of_one(&mut run, 0, Duration::from_millis(300)), Some(false));
    turns(&mut run, NOTICED);
    backlog(&mut run, 100);
    turns(&mut run, NOTICED);
    for device in 1..DEVICES {
        assert_eq!(arrived(&run, device), 100, "device {device}");
        let soon = outcome_of_one(&mut run, device, Duration::from_millis(20));
        assert_eq!(soon, Some(true), "device {device} goes straight to kafka");
    }
    assert_eq!(arrived(&run, 0), 0);
    let held = run.broker.0.borrow().queue.len();
    for _ in 0..100 {
        assert_eq!(
            outcome_of_one(&mut run, 0, Duration::from_millis(20)),
            Some(false),
            "it is spooled at once"
        );
    }
    assert_eq!(
        run.broker.0.borrow().queue.len(),
        held,
        "the producer is not filled with them"
    );
    leaders_return(&run);
    turns(&mut run, NOTICED);
    assert_eq!(run.store.uncommitted(), 0);
    check_all_arrived_in_order(run, &[201, 101, 101, 101, 101]);
}

/// The producer gives a record back while later ones of its group were passed over: they must not overtake it.
#[test]
fn what_is_given_back_comes_before_what_was_passed_over() {
    for given_back in 1..=20 {
        let mut run = calm();
        // Some of the backlog is with the producer when its partition stalls, the rest is passed over.
        backlog(&mut run, 20);
        lose_leader(&run, 0);
        run.dispatch.replay(run.now, 0, given_back * DEVICES, 1 << 20);
        turns(&mut run, NOTICED);
        assert_eq!(arrived(&run, 1), 20);
        assert_eq!(outcome_of_one(&mut run, 0, Duration::from_millis(20)), Some(false));
        // The youngest first, as librdkafka purges.
        let held: Vec<_> = run.broker.0.borrow_mut().queue.drain(..).collect();
        assert!(!held.is_empty());
        for (at, (slot, ..)) in held.into_iter().rev().enumerate() {
            run.dispatch.reported(slot, Err(Refused::Other));
            if at == given_back / 2 {
                leaders_return(&run);
                turn(&mut run);
            }
        }
        turns(&mut run, NOTICED);
        assert_eq!(run.store.uncommitted(), 0);
        check_all_arrived_in_order(run, &[21, 20, 20, 20, 20]);
    }
}

/// What the producer holds of others is none of a stalled group's business: it is confirmed in a moment.
#[test]
fn when_a_group_stalls_the_records_of_others_are_not_copied() {
    let mut run = calm();
    lose_leader(&run, 0);
    run.send_from(0);
    run.send_from(1);
    turns(&mut run, Duration::from_millis(260));
    run.health.found();
    turns(&mut run, Duration::from_millis(980));
    // The producer holds one of each device when the first one's group is found to be stalled.
    (0..DEVICES).for_each(|device| run.send_from(device));
    run.now += Duration::from_millis(40);
    run.dispatch.tick(run.now);
    assert_eq!(run.dispatch.stalled().1, 1);
    run.send_from(0);
    run.store.write_all(&run.dispatch);
    let entries = run.store.0.borrow().next;
    assert_eq!(entries, 3, "those of device 0");
    leaders_return(&run);
    turns(&mut run, NOTICED);
    assert_eq!(run.store.uncommitted(), 0);
    check_all_arrived_in_order(run, &[3, 2, 1, 1, 1]);
}

/// Entries of an earlier run, whose groups nobody knows until they are read.
#[test]
fn what_an_earlier_run_left_is_passed_over_as_well() {
    let mut run = calm();
    backlog(&mut run, 100);
    run.dispatch = dispatch(&run.broker, &run.store, &run.health, &run.metrics);
    lose_leader(&run, 0);
    turns(&mut run, NOTICED);
    for device in 1..DEVICES {
        assert_eq!(arrived(&run, device), 100, "device {device}");
        let soon = outcome_of_one(&mut run, device, Duration::from_millis(20));
        assert_eq!(soon, Some(true), "device {device} goes straight to kafka");
    }
    leaders_return(&run);
    turns(&mut run, NOTICED);
    assert_eq!(run.store.uncommitted(), 0);
    assert_eq!(outcome_of_one(&mut run, 0, Duration::from_millis(20)), Some(true));
    check_all_arrived_in_order(run, &[101, 101, 101, 101, 101]);
}

/// Entries of an earlier run whose topic goes missing while its partition stalls are counted once: the entries of others
/// would be overtaken by new readings otherwise.
#[test]
fn what_waits_for_topic_and_partition_makes_nobody_overtake() {
    let mut run = calm();
    run.health.failed(Cause::Unconfirmed, "the simulation says so");
    (0..10).for_each(|_| run.send_from(0));
    run.send_from(2);
    run.store.write_all(&run.dispatch);
    run.collect_answers();
    run.dispatch = dispatch(&run.broker, &run.store, &run.health, &run.metrics);
    run.health.found();
    lose_leader(&run, 0);
    run.now += Duration::from_secs(2);
    run.dispatch.tick(run.now);
    run.now += Duration::from_secs(2);
    run.dispatch.replay(run.now, 0, 1, 1 << 20);
    // The producer holds the first one, and accepts no other; the topic of the next nine is found missing.
    (run.broker.0.borrow_mut().queue_max, run.broker.0.borrow_mut().gone) = (1, true);
    run.look_at_topics();
    for _ in 0..50 {
        run.dispatch.tick(run.now);
        run.dispatch.replay(run.now, 0, 1_000, 1 << 20);
        run.now += Duration::from_millis(100);
    }
    assert_eq!(run.dispatch.stalled().1, 1);
    run.broker.0.borrow_mut().queue_max = usize::MAX;
    run.send_from(2);
    run.broker.0.borrow_mut().gone = false;
    run.look_at_topics();
    turns(&mut run, NOTICED);
    leaders_return(&run);
    turns(&mut run, NOTICED);
    assert_eq!(run.store.uncommitted(), 0);
    check_all_arrived_in_order(run, &[10, 0, 2, 0, 0]);
}

/// Kafka is slow for all: no partition stalls, and what it confirms late does not pile up in the spool.
#[test]
fn a_kafka_that_is_slow_for_all_stalls_nobody() {
    let mut run = calm();
    let delay = Duration::from_millis(1_500);
    let mut sent = VecDeque::new();
    let mut most = 0;
    for ms in (0..60_000).step_by(5) {
        run.now += Duration::from_millis(5);
        (0..DEVICES).for_each(|device| run.send_from(device));
        let queue: Vec<_> = run.broker.0.borrow_mut().queue.drain(..).collect();
        sent.extend(queue.into_iter().map(|record| (run.now + delay, record)));
        while let Some((_, (slot, device, number))) = sent.pop_front_if(|(at, _)| *at <= run.now) {
            run.log.borrow_mut().push((device, number));
            run.dispatch.reported(slot, Ok(()));
        }
        run.store.write_all(&run.dispatch);
        run.dispatch.tick(run.now);
        // Of what Kafka has confirmed, the health knows by the real clock.
        run.health.found();
        run.dispatch.replay(run.now, 0, 100, 1 << 20);
        run.collect_answers();
        assert_eq!(run.dispatch.stalled().1, 0, "after {ms} ms");
        if ms > 10_000 {
            most = most.max(run.store.uncommitted() as usize);
        }
    }
    assert!(most <= 3_500, "{most} of 60,000 are in the spool at once");
}

/// With few readings, none may be confirmed in the time in which one is not: Kafka is unavailable, and found again by
/// trying what waits in the spool.
#[test]
fn a_partition_that_stalls_while_nothing_else_is_sent_does_not_make_kafka_unavailable_for_long() {
    let mut run = calm();
    lose_leader(&run, 0);
    lose_leader(&run, 1);
    run.send_from(0);
    turns(&mut run, Duration::from_millis(300));
    assert!(!run.health.is_up(), "nothing says that Kafka confirms others");
    run.send_from(1);
    run.send_from(0);
    let until = run.now + Duration::from_secs(10);
    while run.now < until && !run.health.is_up() {
        turn(&mut run);
        // The probe.
        run.health.answered();
    }
    assert!(!run.health.is_up(), "there is nothing else to be tried");
    assert_eq!(run.broker.0.borrow().queue.len(), 2, "one of each");
    (0..DEVICES).for_each(|device| run.send_from(device));
    turns(&mut run, NOTICED);
    assert!(run.health.is_up());
    assert_eq!(run.dispatch.stalled(), (3, 2));
    for device in 2..DEVICES {
        let soon = outcome_of_one(&mut run, device, Duration::from_millis(20));
        assert_eq!(soon, Some(true), "device {device} goes straight to kafka");
    }
    leaders_return(&run);
    turns(&mut run, NOTICED);
    assert_eq!(run.store.uncommitted(), 0);
    check_all_arrived_in_order(run, &[3, 2, 2, 2, 2]);
}

/// Outages come and go while a partition stalls: after each, what was replayed around its readings is to leave the disk.
fn outages_while_a_partition_stalls(run: &mut Run, outages: usize) {
    for outage in 0..outages {
        run.health.failed(Cause::Unconfirmed, "the simulation says so");
        for device in (0..DEVICES).cycle().take(100) {
            if device > 0 || outage < 3 {
                run.send_from(device);
            }
        }
        run.health.found();
        for at in 0..3_000 {
            if at % 500 == 0 {
                // New ones come in while others are moved.
                run.send_from(0);
            }
            turn(run);
        }
        let (kept, waiting) = (run.store.kept(), run.store.uncommitted());
        assert!(
            kept <= 3 * waiting + 100,
            "{kept} kept for {waiting} after outage {outage}"
        );
    }
}

#[test]
fn readings_of_a_partition_that_stalls_do_not_keep_on_disk_what_was_replayed() {
    // A restart, so that nobody knows the groups of what is there.
    for restarts in [false, true] {
        let mut run = calm();
        lose_leader(&run, 0);
        run.send_from(0);
        turns(&mut run, Duration::from_millis(300));
        if restarts {
            backlog(&mut run, 20);
            run.broker.0.borrow_mut().queue.clear();
            run.dispatch = dispatch(&run.broker, &run.store, &run.health, &run.metrics);
            turns(&mut run, NOTICED);
        }
        outages_while_a_partition_stalls(&mut run, 20);
        assert!(run.store.0.borrow().copies > 0);
        assert_eq!(run.dispatch.stalled().1, 1);
        let of_each: [usize; DEVICES] = std::array::from_fn(|device| run.devices[device].sent as usize);
        leaders_return(&run);
        turns(&mut run, NOTICED);
        assert_eq!(run.store.uncommitted(), 0);
        check_all_arrived_in_order(run, &of_each);
    }
}

/// New readings that come in between two that are moved are moved as well, or they would come before the second.
#[test]
fn what_comes_in_while_others_are_moved_keeps_its_order() {
    let mut run = calm();
    lose_leader(&run, 0);
    (0..2).for_each(|device| run.send_from(device));
    turns(&mut run, 2 * NOTICED);
    assert_eq!(run.dispatch.stalled().1, 1);
    (0..20).for_each(|_| run.send_from(0));
    run.health.failed(Cause::Unconfirmed, "the simulation says so");
    (0..100).for_each(|_| run.send_from(2));
    run.health.found();
    // A turn reads eight times.
    run.store.0.borrow_mut().read_max = Some(1);
    while run.store.0.borrow().copies == 0 {
        turn(&mut run);
    }
    for _ in 0..5 {
        run.send_from(0);
        run.now += Duration::from_millis(5);
        run.dispatch.replay(run.now, 0, 1_000, 1 << 20);
    }
    turns(&mut run, NOTICED);
    assert!(run.store.kept() < 100, "{} are kept", run.store.kept());
    leaders_return(&run);
    turns(&mut run, NOTICED);
    check_all_arrived_in_order(run, &[26, 1, 100, 0, 0]);
}

/// What came for a missing topic while its partition stalled was passed over for that alone; it is counted afterwards, or
/// it would never be moved.
#[test]
fn readings_for_a_missing_topic_are_moved_although_their_partition_stalled() {
    let mut run = calm();
    lose_leader(&run, 0);
    run.send_from(0);
    turns(&mut run, 2 * NOTICED);
    run.broker.0.borrow_mut().gone = true;
    run.look_at_topics();
    run.send_from(0);
    turns(&mut run, NOTICED);
    assert_eq!(run.dispatch.stalled().1, 1);
    leaders_return(&run);
    turns(&mut run, NOTICED);
    assert_eq!(run.dispatch.stalled().1, 0);
    for _ in 0..10 {
        run.health.failed(Cause::Unconfirmed, "the simulation says so");
        (0..100).for_each(|_| run.send_from(2));
        run.health.found();
        turns(&mut run, Duration::from_secs(15));
    }
    assert_eq!((run.store.uncommitted(), run.dispatch.deferred()), (1, 1));
    assert!(run.store.kept() < 200, "{} kept for 1", run.store.kept());
    run.broker.0.borrow_mut().gone = false;
    run.look_at_topics();
    turns(&mut run, NOTICED);
    check_all_arrived_in_order(run, &[2, 0, 1_000, 0, 0]);
}
