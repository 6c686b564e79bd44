//! A whole fleet against a toy gateway: every kind on every protocol, in good and in bad company.
//!
//! What is tested is the fleet's honesty: its books balance, it says *acknowledged* only where it was told so, it finds
//! the one reading that a gateway lied about, and it stops in bounded time whatever the gateway does.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod toy;

use std::time::{Duration, Instant};

use device_simulators::devices::Kind;
use device_simulators::uplinks::Protocol;
use device_simulators::{Fleet, FleetConfig, FleetOutcome, Report};
use toy::{Behavior, Toy};

/// Enough devices for every kind on every protocol in every variant.
const DEVICES: usize = 36;

/// SequenceSet a fleet until it has sent `readings`, and stops it.
async fn run(config: FleetConfig, readings: u64) -> (FleetOutcome, Duration) {
    let fleet = Fleet::start(config).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while fleet.counters().total().sent < readings {
        assert!(Instant::now() < deadline, "{:?} after 30 s", fleet.counters().total());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stopping = Instant::now();
    (fleet.stop().await, stopping.elapsed())
}

/// What is true after any run.
fn books_balance(outcome: &FleetOutcome, devices: usize) {
    assert_eq!(outcome.devices_without_account, 0);
    assert_eq!(outcome.ledger.accounts.len(), devices);
    let total = outcome.counters.snapshot().total();
    assert_eq!(
        total.sent,
        total.acknowledged + total.rejected + total.busy + total.unanswered
    );
    let accounts = &outcome.ledger.accounts;
    assert_eq!(total.sent, accounts.iter().map(|account| account.sent()).sum::<u64>());
    assert_eq!(
        total.acknowledged,
        accounts.iter().map(|account| account.acknowledged.count()).sum::<u64>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_polite_gateway_everything_is_acknowledged_and_there() {
    let toy = Toy::start(|_, _, _| Behavior::StoreAndAcknowledge).await;
    let mut config = toy.fleet(DEVICES);
    config.interval = Duration::from_millis(50);
    let (outcome, _) = run(config, 1000).await;
    books_balance(&outcome, DEVICES);
    let report = Report::new(&outcome, &toy.found(), Duration::from_secs(1));
    assert!(report.passed(), "{report}");
    assert_eq!(report.tally.sent, report.tally.acknowledged, "{report}");
    assert_eq!(report.tally.sent, report.in_kafka, "{report}");
    assert_eq!(
        (report.duplicates, report.extra, report.out_of_order),
        (0, 0, 0),
        "{report}"
    );
    assert_eq!(report.tally.sent_again, 0, "{report}");
    for protocol in Protocol::ALL {
        let line = &report.by_protocol[&protocol];
        assert!(line.tally.acknowledged > 200, "{report}");
        assert!(line.latency.p50_ms.is_some(), "{report}");
    }
    // Every kind meets every protocol.
    for kind in Kind::PHYSICAL {
        for protocol in Protocol::ALL {
            let meets =
                |account: &&device_simulators::ledger::Account| account.kind == kind && account.protocol == protocol;
            assert_eq!(outcome.ledger.accounts.iter().filter(meets).count(), DEVICES / 9);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_and_silence_are_answered_by_sending_the_same_reading_again() {
    let toy = Toy::start(|_, sequence, earlier| match (sequence % 5, earlier) {
        (1, 0) => Behavior::SayBusy,
        (2, 0) => Behavior::StoreAndSayNothing,
        (3, 0) => Behavior::SayNothing,
        _ => Behavior::StoreAndAcknowledge,
    })
    .await;
    let mut config = toy.fleet(DEVICES);
    config.interval = Duration::from_millis(20);
    config.start_spread = Duration::from_millis(20);
    config.answer_timeout = Duration::from_millis(400);
    let (outcome, _) = run(config, 200).await;
    books_balance(&outcome, DEVICES);
    let report = Report::new(&outcome, &toy.found(), Duration::from_secs(1));
    assert!(report.passed(), "{report}");
    assert_eq!(
        report.tally.sent, report.tally.acknowledged,
        "all are acknowledged in the end: {report}"
    );
    assert_eq!(report.in_kafka, report.tally.acknowledged, "{report}");
    assert!(report.tally.sent_again > 50, "{report}");
    assert!(report.duplicates > 10, "a lost answer makes a duplicate: {report}");
    // One reading at a time keeps the order; within a batch, an item that was busy comes behind the others.
    let mut ledger = outcome.ledger;
    ledger.accounts.retain(|account| account.protocol != Protocol::Http);
    assert_eq!(ledger.reconcile(&toy.found()).out_of_order, 0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_lies_is_found_out() {
    // The second reading of one device of each protocol is acknowledged and thrown away.
    const VICTIMS: [&str; 3] = ["loop-00000", "loop-00003", "loop-00006"];
    let toy = Toy::start(|device, sequence, _| {
        if VICTIMS.contains(&device) && sequence == 2 {
            Behavior::Lie
        } else {
            Behavior::StoreAndAcknowledge
        }
    })
    .await;
    let mut config = toy.fleet(9);
    config.interval = Duration::from_millis(50);
    let (outcome, _) = run(config, 100).await;
    books_balance(&outcome, 9);
    let report = Report::new(&outcome, &toy.found(), Duration::from_secs(1));
    assert!(!report.passed());
    assert_eq!(report.lost, 3, "{report}");
    let mut named: Vec<_> = report
        .lost_named
        .iter()
        .map(|range| (range.device.as_str(), range.first))
        .collect();
    named.sort();
    assert_eq!(named, VICTIMS.map(|device| (device, 2)));
    assert!(report.by_protocol.len() == 3 && report.by_kind[&Kind::TRAFFIC].lost == 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_reading_is_not_sent_again() {
    let toy = Toy::start(|_, sequence, earlier| {
        assert_eq!(earlier, 0, "sent again");
        if sequence % 2 == 0 {
            Behavior::Reject
        } else {
            Behavior::StoreAndAcknowledge
        }
    })
    .await;
    let mut config = toy.fleet(DEVICES);
    config.mqtt = None; // MQTT 3.1.1 has no rejection
    config.interval = Duration::from_millis(50);
    let (outcome, _) = run(config, 300).await;
    books_balance(&outcome, DEVICES);
    let report = Report::new(&outcome, &toy.found(), Duration::from_secs(1));
    assert!(report.passed(), "{report}");
    assert!(report.tally.rejected > 100, "{report}");
    assert_eq!(
        report.tally.sent,
        report.tally.acknowledged + report.tally.rejected,
        "{report}"
    );
    assert!(
        report
            .problems
            .iter()
            .any(|problem| problem.what.contains("coap rejected, 4.22")),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_without_a_gateway_stops_in_time_and_says_why() {
    let toy = Toy::start(|_, _, _| Behavior::StoreAndAcknowledge).await;
    let mut config = toy.fleet(DEVICES);
    drop(toy);
    config.interval = Duration::from_millis(50);
    config.stop_timeout = Duration::from_millis(200);
    let (outcome, stopping) = run(config, DEVICES as u64 / 2).await;
    assert!(stopping < Duration::from_secs(3), "stopping took {stopping:?}");
    books_balance(&outcome, DEVICES);
    let total = outcome.counters.snapshot().total();
    assert_eq!((total.acknowledged, total.unanswered), (0, total.sent));
    let problems = outcome.counters.problems();
    assert!(
        problems.iter().any(|problem| problem.what.contains("refused")),
        "{problems:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_gateway_does_not_hold_the_fleet_up() {
    let toy = Toy::start(|_, _, _| Behavior::SayNothing).await;
    let mut config = toy.fleet(DEVICES);
    config.interval = Duration::from_millis(50);
    config.stop_timeout = Duration::from_millis(200);
    let (outcome, stopping) = run(config, DEVICES as u64 / 2).await;
    assert!(stopping < Duration::from_secs(3), "stopping took {stopping:?}");
    books_balance(&outcome, DEVICES);
    assert_eq!(outcome.counters.snapshot().total().acknowledged, 0);
}

#[tokio::test]
async fn a_fleet_with_nowhere_to_send_is_refused() {
    let error = Fleet::start(FleetConfig::default()).unwrap_err();
    assert!(error.to_string().contains("no address"), "{error}");
}
