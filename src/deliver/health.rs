//! Whether Kafka confirms readings, and if not, why.
//!
//! Readings tell most of it: a confirmed one says *up*, one that was not confirmed in time says *unavailable*. While nothing
//! is confirmed the [`probe`](super::probe) asks the cluster, and librdkafka tells of every connection that fails. While
//! Kafka is unavailable readings go to the spool; without one, or while it accepts nothing, they are answered busy at once
//! instead of waiting in a queue for a time-out each. Each reason is a metric, and is logged when it
//! changes, once a minute for each cause.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

use super::leaderless_partitions::LeaderlessPartitions;
use super::missing_topics::MissingTopics;
use super::reason::{self, Cause, Failure, Failures, Reason};
use crate::deliver::metrics::KafkaMetrics;
use crate::operate::log_limit::LogLimit;
use crate::outcome::Busy;

/// Whether readings are accepted, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not known yet: the gateway is starting.
    Starting,
    /// Kafka confirms readings.
    Up,
    /// Kafka does not, but the spool accepts them. Why, in words for `/readyz`.
    Spooling(String),
    /// Neither accepts them: new readings are answered busy. Why, in words.
    Down(String),
}

impl Health {
    pub fn is_up(&self) -> bool {
        matches!(self, Health::Up)
    }

    /// Whether a reading that is sent now can be made safe.
    pub fn accepts_readings(&self) -> bool {
        matches!(self, Health::Up | Health::Spooling(_))
    }
}

/// Keeps the [`Health`] and tells everyone who subscribed of its changes.
#[derive(Debug)]
pub struct Monitor {
    health: watch::Sender<Health>,
    known: Mutex<Known>,
    // The two flags mirror what is known, so that asking on the path of a reading is one atomic load.
    up: AtomicBool,
    closed: AtomicBool,
    awaited: AtomicBool,
    // Kafka is unavailable only since it did not confirm some readings in time.
    only_unconfirmed: AtomicBool,
    // The producer is being replaced: whatever it still confirms, nothing more is given to it.
    replacing: AtomicBool,
    started: Instant,
    // Milliseconds after `started` of the last confirmed reading.
    last_confirmed_ms: AtomicU64,
    metrics: KafkaMetrics,
    topics: MissingTopics,
    leaderless: LeaderlessPartitions,
}

/// The two halves of the health, and what the log has been told.
#[derive(Debug)]
struct Known {
    kafka: Kafkas,
    spool: Spool,
    failures: Failures,
    /// What the log says last.
    said: String,
    logged: LogLimit<Instant>,
}

/// Whether the spool accepts readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spool {
    /// The gateway has none.
    Absent,
    /// It is not open yet, and neither is a listener.
    Opening,
    Accepts,
    /// Why it accepts nothing.
    Refuses(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kafkas {
    Unknown,
    Up,
    Unavailable {
        /// Never none.
        reasons: Vec<Reason>,
        /// No connection works: whatever librdkafka tells of one is a reason.
        unreachable: bool,
    },
}

// === impl Monitor ===

impl Monitor {
    /// Of a gateway that has a spool, or has none.
    pub fn new(metrics: &KafkaMetrics, spooling: bool) -> Self {
        let known = Known {
            kafka: Kafkas::Unknown,
            spool: if spooling { Spool::Opening } else { Spool::Absent },
            failures: Failures::default(),
            said: String::new(),
            logged: LogLimit::default(),
        };
        let monitor = Monitor {
            health: watch::channel(Health::Starting).0,
            up: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
            only_unconfirmed: AtomicBool::new(false),
            replacing: AtomicBool::new(false),
            started: Instant::now(),
            last_confirmed_ms: AtomicU64::new(0),
            metrics: metrics.clone(),
            topics: MissingTopics::new(metrics.kafka_topic_missing.clone()),
            leaderless: LeaderlessPartitions::new(metrics.kafka_partitions_without_leader.clone()),
            known: Mutex::new(known),
        };
        monitor.measure(&Kafkas::Unknown);
        monitor
    }

    pub fn subscribe(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// The topics that Kafka does not have, though it is up.
    pub fn topics(&self) -> &MissingTopics {
        &self.topics
    }

    /// The partitions that have no leader, though Kafka is up.
    pub fn leaderless(&self) -> &LeaderlessPartitions {
        &self.leaderless
    }

    /// Whether Kafka accepts readings now.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Whether the gateway is shutting down.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// No reading is sent from now on: the gateway is shutting down.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Kafka confirmed a reading.
    pub fn confirmed(&self) {
        let elapsed = self.started.elapsed().as_millis() as u64;
        self.last_confirmed_ms.store(elapsed, Ordering::Relaxed);
        self.nothing_awaited();
        if !self.is_up() {
            self.found();
        }
    }

    /// Whether Kafka confirmed a reading at this time or later.
    pub fn confirmed_since(&self, then: Instant) -> bool {
        let last = Duration::from_millis(self.last_confirmed_ms.load(Ordering::Relaxed));
        self.started + last >= then
    }

    /// The producer must be replaced for this reason: until [`Monitor::replaced`] Kafka is unavailable, whatever is confirmed.
    pub fn replacing(&self, reason: &str) {
        self.replacing.store(true, Ordering::SeqCst);
        self.failed(Cause::Producer, reason);
    }

    /// There is a new producer.
    pub fn replaced(&self) {
        self.replacing.store(false, Ordering::SeqCst);
        self.answered();
    }

    /// There is none, for this reason; the old one goes on once Kafka answers.
    pub fn not_replaced(&self, reason: &str) {
        self.failed(Cause::Producer, reason);
        self.replacing.store(false, Ordering::SeqCst);
    }

    /// Kafka is available.
    pub fn found(&self) {
        if self.replacing.load(Ordering::SeqCst) {
            return;
        }
        self.learn(|known| {
            known.kafka = Kafkas::Up;
            known.failures.are_over();
        });
    }

    /// Kafka holds readings that it did not confirm in time: until it does, that it answers a question means nothing (too
    /// few replicas may be in sync).
    pub fn unconfirmed(&self, reason: &str) {
        self.awaited.store(true, Ordering::Relaxed);
        self.failed(Cause::Unconfirmed, reason);
    }

    /// Kafka holds no such readings (any more).
    pub fn nothing_awaited(&self) {
        self.awaited.store(false, Ordering::Relaxed);
    }

    /// Kafka answers, and has all topics.
    pub fn answered(&self) {
        if self.awaited.load(Ordering::Relaxed) {
            self.failed(Cause::Unconfirmed, "kafka answers, but does not confirm readings");
        } else {
            self.found();
        }
    }

    /// Whether Kafka is up, or unavailable only since it did not confirm some readings in time: those may be of a partition
    /// that stalls, and it may confirm others.
    pub fn may_confirm(&self) -> bool {
        self.is_up() || self.only_unconfirmed.load(Ordering::Acquire)
    }

    /// Kafka does not confirm readings, for this reason.
    pub fn failed(&self, cause: Cause, reason: &str) {
        self.learn(|known| {
            known.kafka = Kafkas::Unavailable {
                reasons: vec![Reason::new(cause, reason)],
                unreachable: false,
            };
        });
    }

    /// Kafka answers a question, whatever it says: what failed before is not why it does not answer the next one.
    pub fn connection_works(&self) {
        self.learn(|known| known.failures.are_over());
    }

    /// Kafka cannot be asked: for the reasons that librdkafka tells of its connections, or for this one if it tells none.
    pub fn unreachable(&self, otherwise: Reason) {
        self.learn(|known| {
            let mut reasons = known.failures.reasons();
            if reasons.is_empty() {
                reasons.push(otherwise);
            }
            known.kafka = Kafkas::Unavailable {
                reasons,
                unreachable: true,
            };
        });
    }

    /// Kafka has not answered a question yet: what was known goes on, until librdkafka tells more of its connections.
    pub fn unanswered(&self) {
        self.learn(|known| {
            match &mut known.kafka {
                Kafkas::Unavailable { unreachable, .. } => *unreachable = true,
                unknown => {
                    *unknown = Kafkas::Unavailable {
                        reasons: vec![Reason::new(Cause::Starting, NOT_ASKED)],
                        unreachable: true,
                    }
                }
            }
            known.reasons_are_failures();
        });
    }

    /// Whether librdkafka has told of a connection that fails since Kafka last answered.
    pub fn is_told(&self) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        !known.failures.reasons().is_empty()
    }

    /// The connection to this broker fails. By itself that says nothing: another may work, or this one in a moment.
    pub fn connection_failed(&self, failure: Failure) {
        self.learn(|known| {
            known.failures.note(failure, Instant::now());
            known.reasons_are_failures();
        });
    }

    /// No connection is left. While the gateway starts, that is for the probe to judge: the first of a broker's addresses
    /// may not be the right one.
    pub fn connections_failed(&self) {
        self.learn(|known| {
            known.failures.are_total(Instant::now());
            known.reasons_are_failures();
        });
        if self.is_up() {
            self.unreachable(Reason::new(Cause::Connection, "no connection to kafka is left"));
        }
    }

    /// Why Kafka is unavailable now; none while it is up.
    pub fn reasons(&self) -> Vec<Reason> {
        match &self.known.lock().unwrap_or_else(PoisonError::into_inner).kafka {
            Kafkas::Up => Vec::new(),
            Kafkas::Unknown => vec![Reason::new(Cause::Starting, NOT_ASKED)],
            Kafkas::Unavailable { reasons, .. } => reasons.clone(),
        }
    }

    /// The spool is open; why it accepts nothing now, `None`: it accepts readings.
    pub fn spool_refuses(&self, why: Option<Busy>) {
        self.learn(|known| known.spool = why.map_or(Spool::Accepts, |why| Spool::Refuses(why.text())));
    }

    fn learn(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (known.kafka.clone(), known.spool);
        change(&mut known);
        if (&known.kafka, known.spool) == (&before.0, before.1) {
            return;
        }
        let health = known.health();
        self.up.store(health.is_up(), Ordering::Release);
        self.only_unconfirmed
            .store(known.kafka.is_only_unconfirmed(), Ordering::Release);
        if known.kafka != before.0 {
            self.measure(&known.kafka);
        }
        // While the gateway ends, Kafka's coming and going is nobody's concern.
        if !self.is_closed() {
            known.say(Instant::now());
        }
        self.health.send_replace(health);
    }

    /// Logs how it is now if the log does not say so, because it was too soon: to be called now and then.
    pub fn say_later(&self) {
        if !self.is_closed() {
            self.known
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .say(Instant::now());
        }
    }

    fn measure(&self, kafka: &Kafkas) {
        self.metrics.kafka_up.set(i64::from(*kafka == Kafkas::Up));
        for cause in Cause::ALL {
            let gauge = self.metrics.kafka_unavailable.with_label_values(&[cause.label()]);
            gauge.set(i64::from(kafka.is_unavailable_for(cause)));
        }
    }

    /// Whether Kafka is up, and confirmed a reading no longer ago than this.
    pub fn confirmed_within(&self, interval: Duration) -> bool {
        self.is_up()
            && Instant::now()
                .checked_sub(interval)
                .is_some_and(|then| self.confirmed_since(then))
    }
}

/// What is said until the first answer, or the first failure.
const NOT_ASKED: &str = "kafka has not answered yet";

impl Kafkas {
    fn is_unavailable_for(&self, cause: Cause) -> bool {
        match self {
            Kafkas::Unknown => cause == Cause::Starting,
            Kafkas::Up => false,
            Kafkas::Unavailable { reasons, .. } => reasons.iter().any(|reason| reason.cause == cause),
        }
    }

    fn is_only_unconfirmed(&self) -> bool {
        match self {
            Kafkas::Unavailable {
                reasons,
                unreachable: false,
            } => reasons.iter().all(|reason| reason.cause == Cause::Unconfirmed),
            _ => false,
        }
    }

    /// As one word: what is logged once a minute.
    fn causes(&self) -> String {
        let causes = Cause::ALL.into_iter().filter(|cause| self.is_unavailable_for(*cause));
        causes.map(Cause::label).collect::<Vec<_>>().join(" ")
    }

    /// Whether it is no more than what every start looks like.
    fn is_starting(&self) -> bool {
        match self {
            Kafkas::Unavailable { reasons, .. } => reasons.iter().all(|reason| reason.cause == Cause::Starting),
            Kafkas::Unknown | Kafkas::Up => true,
        }
    }
}

impl Known {
    /// Where Kafka cannot be asked, whatever librdkafka tells of its connections is why.
    fn reasons_are_failures(&mut self) {
        let told = self.failures.reasons();
        if let Kafkas::Unavailable {
            reasons,
            unreachable: true,
        } = &mut self.kafka
            && !told.is_empty()
        {
            *reasons = told;
        }
    }

    fn health(&self) -> Health {
        let why = match &self.kafka {
            Kafkas::Up => return Health::Up,
            Kafkas::Unknown if self.spool != Spool::Accepts => return Health::Starting,
            Kafkas::Unknown => NOT_ASKED.to_owned(),
            Kafkas::Unavailable { reasons, .. } => reason::line(reasons),
        };
        match self.spool {
            Spool::Accepts => Health::Spooling(why),
            Spool::Absent | Spool::Opening => Health::Down(why),
            Spool::Refuses(spool) => Health::Down(format!("{why}; {spool}")),
        }
    }

    /// Logs how it is, unless that is what the log says last; each cause once a minute, however often it comes and goes, and its
    /// end at once. Whether it did.
    fn say(&mut self, now: Instant) -> bool {
        let (what, why) = match self.health() {
            Health::Starting => return false,
            // What it means for readings is known once the spool is open; until then there are none.
            Health::Down(_) if self.spool == Spool::Opening => return false,
            Health::Up => ("kafka is up", String::new()),
            Health::Spooling(why) => ("readings are spooled", why),
            Health::Down(why) => ("readings are answered busy", why),
        };
        let text = format!("{what}: {why}");
        if self.said == text {
            return false;
        }
        let is_over = self.kafka == Kafkas::Up;
        if !is_over && !self.logged.allows(now, &format!("{what}: {}", self.kafka.causes())) {
            return false;
        }
        self.said = text;
        match &self.kafka {
            Kafkas::Up => info!("{what}"),
            kafka if kafka.is_starting() => info!(reason = why, "citygate waits for kafka; {what}"),
            _ => warn!(reason = why, "kafka is unavailable; {what}"),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::Metrics;

    fn monitor() -> (Monitor, KafkaMetrics) {
        let metrics = Metrics::default().kafka;
        let monitor = Monitor::new(&metrics, true);
        monitor.spool_refuses(None);
        (monitor, metrics)
    }

    fn fails(broker: &str, cause: Cause, detail: &str) -> Failure {
        Failure {
            broker: broker.to_owned(),
            reason: Reason::new(cause, format!("kafka at {broker}: {detail}")),
            detail: detail.to_owned(),
        }
    }

    fn no_answer() -> Reason {
        Reason::new(Cause::Timeout, "kafka does not answer")
    }

    fn causes(monitor: &Monitor, metrics: &KafkaMetrics) -> Vec<&'static str> {
        let reasons = monitor.reasons();
        let mut causes: Vec<_> = reasons.iter().map(|reason| reason.cause).collect();
        causes.dedup();
        for cause in Cause::ALL {
            let gauge = metrics.kafka_unavailable.with_label_values(&[cause.label()]).get();
            assert_eq!(gauge == 1, causes.contains(&cause), "{cause:?}");
        }
        assert_eq!(metrics.kafka_up.get() == 1, causes.is_empty());
        causes.into_iter().map(Cause::label).collect()
    }

    #[test]
    fn a_failure_from_before_kafka_last_answered_is_no_reason() {
        let (monitor, metrics) = monitor();
        monitor.found();
        monitor.connection_failed(fails("a:1", Cause::Tls, "TLS fails"));
        // It stays up all the time, as another broker works.
        monitor.confirmed();
        monitor.connection_works();
        monitor.unreachable(no_answer());
        assert_eq!(causes(&monitor, &metrics), ["timeout"]);
    }

    #[test]
    fn a_connection_that_fails_is_a_reason_only_when_kafka_cannot_be_asked() {
        let (monitor, metrics) = monitor();
        let check = |expected: &[&str]| assert_eq!(causes(&monitor, &metrics), expected);
        check(&["starting"]);
        monitor.connection_failed(fails("a:1", Cause::Refused, "refused"));
        monitor.connections_failed();
        check(&["starting"]);
        monitor.unreachable(no_answer());
        check(&["refused"]);
        monitor.connection_failed(fails("b:1", Cause::Dns, "the name cannot be resolved"));
        check(&["dns", "refused"]);
        monitor.found();
        check(&[]);
        // Neither is told again, and Kafka is frozen: what was is no reason now.
        monitor.unreachable(no_answer());
        check(&["timeout"]);
        monitor.found();
        monitor.connections_failed();
        check(&["dns", "refused"]);
        monitor.failed(Cause::NoBroker, "kafka answers, but names no broker");
        monitor.connection_failed(fails("c:1", Cause::Refused, "refused"));
        check(&["no_broker"]);
    }

    #[test]
    fn a_slow_answer_is_no_other_reason_and_what_is_told_of_a_connection_is() {
        let (monitor, metrics) = monitor();
        let check = |expected: &[&str]| assert_eq!(causes(&monitor, &metrics), expected);
        monitor.unanswered();
        check(&["starting"]);
        monitor.failed(Cause::TopicMissing, "kafka has no topic city.x");
        monitor.unanswered();
        check(&["topic_missing"]);
        monitor.connection_failed(fails("a:1", Cause::Tls, "TLS fails"));
        check(&["tls"]);
        monitor.failed(Cause::NoBroker, "kafka answers, but names no broker");
        monitor.unanswered();
        check(&["tls"]);
        monitor.connection_works();
        monitor.failed(Cause::NoBroker, "kafka answers, but names no broker");
        monitor.unanswered();
        check(&["no_broker"]);
        monitor.unreachable(no_answer());
        check(&["timeout"]);
    }

    #[test]
    fn each_cause_is_logged_once_a_minute_and_how_it_is_in_the_end() {
        let mut known = Known {
            kafka: Kafkas::Unknown,
            spool: Spool::Opening,
            failures: Failures::default(),
            said: String::new(),
            logged: LogLimit::default(),
        };
        let start = Instant::now();
        let mut check = |at_s, cause: Option<(Cause, &str)>, spool, expected| {
            known.kafka = match cause {
                None => Kafkas::Up,
                Some((cause, text)) => Kafkas::Unavailable {
                    reasons: vec![Reason::new(cause, text)],
                    unreachable: false,
                },
            };
            known.spool = spool;
            let said = known.say(start + Duration::from_secs(at_s));
            assert_eq!(said, expected, "{at_s} s: {cause:?}");
        };
        let refused = |text| Some((Cause::Refused, text));
        check(0, refused("kafka at a:1 refuses"), Spool::Opening, false);
        check(0, refused("kafka at a:1 refuses"), Spool::Accepts, true);
        check(1, refused("kafka at a:1 refuses"), Spool::Accepts, false);
        check(2, Some((Cause::Tls, "TLS fails")), Spool::Accepts, true);
        check(3, None, Spool::Accepts, true);
        // It flaps.
        for at_s in (4..58).step_by(2) {
            check(at_s, refused("kafka at b:1 refuses"), Spool::Accepts, false);
            check(at_s + 1, None, Spool::Accepts, false);
        }
        check(58, refused("kafka at b:1 refuses"), Spool::Accepts, false);
        check(
            59,
            refused("kafka at b:1 refuses"),
            Spool::Refuses("the spool is full"),
            true,
        );
        check(60, refused("kafka at b:1 refuses"), Spool::Accepts, true);
        // Whatever the log says last is how it is.
        check(61, None, Spool::Accepts, true);
        check(62, None, Spool::Accepts, false);
        check(200, None, Spool::Accepts, false);
        check(201, refused("kafka at b:1 refuses"), Spool::Accepts, true);
        check(202, refused("kafka at a:1 refuses"), Spool::Accepts, false);
        check(261, refused("kafka at a:1 refuses"), Spool::Accepts, true);
    }
}
