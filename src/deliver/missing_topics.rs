//! Topics that Kafka does not have: what is meant for them waits, everything else flows.
//!
//! The probe looks for them while Kafka answers, and a delivery report names one at once. Each is said once in the log,
//! in `/readyz`, in `/status` and in a metric, until Kafka has it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus::IntGaugeVec;
use tracing::{info, warn};

use crate::operate::log_limit::LogLimit;

/// The topics that are missing now.
#[derive(Debug)]
pub struct MissingTopics {
    /// Changes whenever they do.
    version: AtomicU64,
    known: Mutex<BTreeMap<String, Topic>>,
    gauge: IntGaugeVec,
}

/// A topic that is, or was, missing.
#[derive(Debug)]
struct Topic {
    is_missing: bool,
    /// What the log was told last.
    said: bool,
    logged: LogLimit<Instant>,
    /// For devices. Of static life, as all that is said to them; there is one for each topic that was ever missing.
    words: &'static str,
}

// === impl MissingTopics ===

impl MissingTopics {
    pub fn new(gauge: IntGaugeVec) -> Self {
        MissingTopics {
            version: AtomicU64::new(0),
            known: Mutex::default(),
            gauge,
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Topic>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that changes whenever a topic goes missing or exists again.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The missing topics, each with what a device is told.
    pub fn all(&self) -> Vec<(String, &'static str)> {
        let known = self.known();
        let missing = known.iter().filter(|(_, topic)| topic.is_missing);
        missing.map(|(name, topic)| (name.clone(), topic.words)).collect()
    }

    /// Kafka refused a record because it has no such topic; what a device is told.
    pub fn add(&self, name: &str) -> &'static str {
        let mut known = self.known();
        self.note(&mut known, name, true)
    }

    /// Kafka has been asked: whether it has each topic that is wanted, or was missing before.
    pub fn found(&self, wanted: &[String], exists: impl Fn(&str) -> bool) {
        let mut known = self.known();
        let names: Vec<String> = wanted.iter().chain(known.keys()).cloned().collect();
        for name in names {
            let is_missing = !exists(&name);
            if is_missing || known.contains_key(&name) {
                self.note(&mut known, &name, is_missing);
            }
        }
    }

    fn note(&self, known: &mut BTreeMap<String, Topic>, name: &str, is_missing: bool) -> &'static str {
        let topic = known.entry(name.to_owned()).or_insert_with(|| Topic {
            is_missing: false,
            said: false,
            logged: LogLimit::default(),
            words: Box::leak(format!("Kafka has no topic {name}; send the reading again later").into_boxed_str()),
        });
        if topic.is_missing != is_missing {
            topic.is_missing = is_missing;
            self.version.fetch_add(1, Ordering::Release);
            self.gauge.with_label_values(&[name]).set(i64::from(is_missing));
        }
        if topic.is_to_be_said(Instant::now()) {
            log(name, is_missing);
        }
        topic.words
    }
}

// === impl Topic ===

impl Topic {
    /// Whether the log does not know how it is; each of the two is said once a minute, and if that is too soon, later.
    fn is_to_be_said(&mut self, now: Instant) -> bool {
        let how = if self.is_missing { "missing" } else { "exists" };
        let is_said = self.said != self.is_missing && self.logged.allows(now, how);
        if is_said {
            self.said = self.is_missing;
        }
        is_said
    }
}

fn log(name: &str, is_missing: bool) {
    if is_missing {
        warn!(
            topic = name,
            "kafka has no such topic; create it, or set kafka.create_topics = true: until then its readings are spooled \
             (without a spool: answered busy), and those of others are not concerned"
        );
    } else {
        info!(topic = name, "kafka has the topic again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::Metrics;

    #[test]
    fn a_topic_is_missing_from_its_first_refusal_until_kafka_names_it() {
        let gauge = Metrics::default().kafka.kafka_topic_missing;
        let topics = MissingTopics::new(gauge.clone());
        let wanted = ["city.a".to_owned(), "city.b".to_owned()];
        let names = || topics.all().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        topics.found(&wanted, |_| true);
        assert_eq!((names(), topics.version()), (vec![], 0));
        assert!(topics.add("city.old").contains("city.old"));
        topics.found(&wanted, |name| name == "city.a");
        assert_eq!(names(), ["city.b", "city.old"]);
        assert_eq!(gauge.with_label_values(&["city.b"]).get(), 1);
        topics.found(&wanted, |_| true);
        assert_eq!((names(), topics.version()), (vec![], 4));
        assert_eq!(gauge.with_label_values(&["city.b"]).get(), 0);
    }

    #[test]
    fn a_topic_that_comes_and_goes_is_said_once_a_minute() {
        use std::time::Duration;

        let mut topic = Topic {
            is_missing: false,
            said: false,
            logged: LogLimit::default(),
            words: "",
        };
        let start = Instant::now();
        let mut check = |seconds, is_missing, expected| {
            topic.is_missing = is_missing;
            let said = topic.is_to_be_said(start + Duration::from_secs(seconds));
            assert_eq!(said, expected, "{seconds} s");
        };
        check(0, true, true);
        check(3, false, true);
        for seconds in (6..60).step_by(6) {
            check(seconds, true, false);
            check(seconds + 3, false, false);
        }
        check(63, true, true);
        check(64, true, false);
        check(65, false, true);
        check(66, true, false);
        // Not too soon any more, and not changed since.
        check(123, true, true);
    }
}
