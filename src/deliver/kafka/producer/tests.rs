//! Producers that are replaced, against librdkafka's own mock of a cluster. Each
//! replaced producer gives back all records that were unconfirmed, and says of each
//! whether Kafka may have written it. Needs no Kafka of its own.

use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::*;
use crate::deliver::Metrics;

const TIMEOUT: Duration = Duration::from_secs(60);
const NEVER: Duration = Duration::from_secs(600);
const TOPIC: &str = "readings";

type Mock = MockCluster<'static, DefaultProducerContext>;
type Reported = Receiver<(usize, Result<(), Refused>)>;

fn kafka() -> (Arc<Kafka>, Mock, Reported, KafkaMetrics) {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, 1, 1).unwrap();
    let config = Config {
        bootstrap_servers: mock.bootstrap_servers(),
        linger: Duration::from_millis(1),
        statistics_interval: Duration::from_millis(50),
        ..Config::default()
    };
    let metrics = Metrics::default().kafka;
    let (sender, reported) = channel();
    let listener = Box::new(move |slot, result| {
        sender.send((slot, result)).ok();
    });
    let health = Arc::new(Monitor::new(&metrics, true));
    let kafka = Kafka::new(&config, true, metrics.clone(), health, listener).unwrap();
    (Arc::new(kafka), mock, reported, metrics)
}

fn send(kafka: &Arc<Kafka>, slot: usize) -> Result<(), Refused> {
    send_value(kafka, slot, b"reading")
}

fn send_value(kafka: &Arc<Kafka>, slot: usize, value: &[u8]) -> Result<(), Refused> {
    let record = Record {
        topic: TOPIC,
        key: "device",
        value,
        headers: &[],
        timestamp_ms: 1_700_000_000_000,
    };
    kafka.produce(Broker::epoch(kafka), &record, slot)
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < TIMEOUT, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_was_on_its_way_when_it_was_taken_back_is_in_doubt_and_what_was_not_is_not() {
    let (kafka, mock, reported, metrics) = kafka();
    send(&kafka, 0).unwrap();
    assert_eq!(reported.recv_timeout(TIMEOUT), Ok((0, Ok(()))));
    mock.broker_round_trip_time(1, NEVER).unwrap();
    // So large, and incompressible, that it is seen in what was sent.
    let mut random = 1_u64;
    let large: Vec<u8> = std::iter::repeat_with(|| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 56) as u8
    })
    .take(100_000)
    .collect();
    let before = metrics.kafka_sent_bytes_total.get();
    send_value(&kafka, 1, &large).unwrap();
    eventually("it is on its way", || {
        metrics.kafka_sent_bytes_total.get() >= before + large.len() as u64
    });
    kafka.replace().unwrap();
    assert_eq!(reported.recv_timeout(TIMEOUT), Ok((1, Err(Refused::Purged))));
    assert_eq!(metrics.kafka_records_in_doubt_total.get(), 1);
    // The new producer has no connection yet, so that it keeps what it is given.
    send(&kafka, 2).unwrap();
    kafka.replace().unwrap();
    assert_eq!(reported.recv_timeout(TIMEOUT), Ok((2, Err(Refused::Purged))));
    assert_eq!(metrics.kafka_records_in_doubt_total.get(), 1);
    assert_eq!(metrics.kafka_producers_replaced_total.get(), 2);
}

#[test]
fn producers_are_replaced_one_after_the_other_and_each_gives_everything_back() {
    const THREADS: u64 = 4;
    let (kafka, mock, reported, metrics) = kafka();
    mock.broker_round_trip_time(1, NEVER).unwrap();
    let before = Broker::epoch(&kafka);
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let kafka = kafka.clone();
            std::thread::spawn(move || kafka.replace().unwrap())
        })
        .collect();
    let (mut given, mut slot) = (Vec::new(), 0);
    while !threads.iter().all(std::thread::JoinHandle::is_finished) {
        let epoch = Broker::epoch(&kafka);
        match send(&kafka, slot) {
            Ok(()) => given.push(slot),
            // Between two producers, or the epoch was the last one's.
            Err(refused) => assert_eq!(refused, Refused::Purged),
        }
        assert!(epoch <= Broker::epoch(&kafka), "it never goes back");
        slot += 1;
        std::thread::sleep(Duration::from_micros(200));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // Twice for each: while it gives back, and when there is another. Two at a time would skip some.
    assert_eq!(Broker::epoch(&kafka), before + 2 * THREADS);
    assert_eq!(metrics.kafka_producers_replaced_total.get(), THREADS);
    kafka.replace().unwrap();
    let mut back: Vec<_> = std::iter::from_fn(|| reported.try_recv().ok()).collect();
    back.sort_by_key(|(slot, _)| *slot);
    let expected: Vec<_> = given.into_iter().map(|slot| (slot, Err(Refused::Purged))).collect();
    assert_eq!(back, expected, "each exactly once");
}
