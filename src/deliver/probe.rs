//! Asks Kafka whether it is there while no reading says so.
//!
//! A thread of its own, for librdkafka's metadata call blocks: an answer with brokers, and with a leader for every
//! partition of every topic, says that Kafka is there; any other, or none, is a reason why it is not. It also creates
//! topics that are missing, and replaces a producer that failed for good or that knows no broker any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::metadata::Metadata;
use tracing::{info, warn};

use super::health::Monitor;
use super::kafka::Kafka;
use super::reason::Cause;
use super::topics::{self, Unfit, Wanted};

/// How often it is asked for its topics while it confirms readings: one may have been deleted.
const LOOK_AT_TOPICS: Duration = Duration::from_secs(3);

/// How long a topic that was created may take until its partitions have leaders.
const CREATED_WITHIN: Duration = Duration::from_secs(3);

/// How often that is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How soon topics that could not be created are tried again: first, and at the latest.
const CREATE_AGAIN: Duration = Duration::from_secs(1);
const CREATE_AGAIN_MAX: Duration = Duration::from_secs(60);

/// Probes Kafka until the monitor is closed.
pub fn start(kafka: Arc<Kafka>, monitor: Arc<Monitor>, wanted: Wanted, interval: Duration) {
    let mut probe = Probe {
        kafka,
        monitor,
        wanted: Arc::new(wanted),
        refused: None,
        is_reported: false,
        replaced: 0,
    };
    let run = move || {
        let mut looked_at = Instant::now();
        while !probe.monitor.is_closed() {
            if !probe.monitor.confirmed_within(interval) {
                probe.ask();
                looked_at = Instant::now();
            } else if looked_at.elapsed() >= LOOK_AT_TOPICS {
                probe.look_at_topics();
                looked_at = Instant::now();
            }
            std::thread::sleep(interval);
        }
    };
    let thread = std::thread::Builder::new().name("kafka-probe".into());
    if let Err(error) = thread.spawn(run) {
        warn!(%error, "no thread for the kafka probe");
    }
}

struct Probe {
    kafka: Arc<Kafka>,
    monitor: Arc<Monitor>,
    wanted: Arc<Wanted>,
    /// Topics that could not be created.
    refused: Option<Refused>,
    /// The topics' settings were looked at: once per process is enough.
    is_reported: bool,
    /// Producers that were replaced since Kafka was last there.
    replaced: u32,
}

struct Refused {
    topics: Vec<String>,
    why: String,
    pause: Duration,
    again_at: Instant,
}

// === impl Probe ===

impl Probe {
    fn ask(&mut self) {
        if let Some(why) = self.kafka.revive() {
            return self.monitor.failed(Cause::Producer, &why);
        }
        let knew_no_broker = self.kafka.knows_no_broker();
        let metadata = match self.kafka.metadata() {
            Ok(metadata) => metadata,
            Err(_) if knew_no_broker && self.kafka.knows_no_broker() => return self.replace(),
            Err(why) => return self.monitor.unreachable(why),
        };
        match self.wanted.check(&metadata) {
            Ok(()) => {
                self.answered();
                self.look_for_topics(&metadata);
            }
            Err(Unfit::Missing(missing)) if self.wanted.creates() => drop(self.create(missing)),
            Err(unfit) => self.monitor.failed(unfit.cause(), &unfit.to_string()),
        }
    }

    /// Readings are confirmed: only what they may not tell is looked at.
    fn look_at_topics(&mut self) {
        let Ok(metadata) = self.kafka.metadata() else { return };
        if !metadata.brokers().is_empty() {
            self.look_for_topics(&metadata);
        }
    }

    /// Creates topics that are missing, or notes that they are.
    fn look_for_topics(&mut self, metadata: &Metadata) {
        let missing = self.wanted.missing(metadata);
        if missing.is_empty() || !self.wanted.creates() || !self.create(missing) {
            self.note_topics(metadata);
        }
    }

    fn note_topics(&self, metadata: &Metadata) {
        let exists = |name: &str| topics::exists(metadata, name);
        self.monitor.topics().found(self.wanted.topics(), exists);
    }

    /// Why Kafka is unavailable, unless only some topics are concerned.
    fn failed(&self, cause: Cause, why: &str) {
        if !self.monitor.is_up() {
            self.monitor.failed(cause, why);
        }
    }

    fn answered(&mut self) {
        if std::mem::take(&mut self.replaced) > 1 {
            info!("kafka names its brokers again");
        }
        self.monitor.answered();
        if !std::mem::replace(&mut self.is_reported, true) {
            self.report_settings();
        }
    }

    /// librdkafka 2.11 to 2.15 (its issue 5301): metadata without brokers, as a fenced broker gives it, makes it forget
    /// all of them, and it may never again ask those of the configuration. No setting prevents it. The producer's own
    /// statistics tell, before and after a question that could not be asked. Worth keeping with a later librdkafka.
    fn replace(&mut self) {
        // While the broker is still fenced, the next one may be made to forget as well: said once.
        if self.replaced == 0 {
            warn!("the kafka producer knows no broker any more, and is replaced");
        }
        self.replaced += 1;
        match self.kafka.replace() {
            Ok(()) => self.monitor.failed(Cause::NoBroker, &Unfit::NoBroker.to_string()),
            Err(why) => self.monitor.failed(Cause::Producer, &why),
        }
    }

    /// Creates what is missing, and waits until it is there; what Kafka refuses to create is tried again ever less often. False: they
    /// are still missing.
    fn create(&mut self, missing: Vec<String>) -> bool {
        let earlier = self.refused.take().filter(|refused| refused.topics == missing);
        if let Some(refused) = &earlier
            && Instant::now() < refused.again_at
        {
            self.failed(Cause::TopicRefused, &refused.why);
            self.refused = earlier;
            return false;
        }
        if earlier.is_none() {
            info!(topics = missing.join(", "), "creating kafka topics");
        }
        match self.wanted.create(&self.kafka, &missing) {
            Ok(()) => self.await_created(),
            Err(why) => {
                if earlier.is_none() && self.monitor.is_up() {
                    warn!(why, "kafka topics could not be created; it is tried again");
                }
                self.failed(Cause::TopicRefused, &why);
                let pause = earlier.map_or(CREATE_AGAIN, |refused| (2 * refused.pause).min(CREATE_AGAIN_MAX));
                let again_at = Instant::now() + pause;
                self.refused = Some(Refused {
                    topics: missing,
                    why,
                    pause,
                    again_at,
                });
                false
            }
        }
    }

    fn await_created(&mut self) -> bool {
        let deadline = Instant::now() + CREATED_WITHIN;
        while Instant::now() < deadline && !self.monitor.is_closed() {
            let is_found =
                |metadata: &Metadata| self.wanted.missing(metadata).is_empty() && self.wanted.check(metadata).is_ok();
            if let Some(metadata) = self.kafka.metadata().ok().filter(is_found) {
                self.note_topics(&metadata);
                self.answered();
                return true;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        self.failed(Cause::Starting, "kafka topics are being created");
        false
    }

    /// On a thread of its own: a cluster may take its time to tell, and readings are not to wait for that.
    fn report_settings(&self) {
        let (kafka, wanted) = (self.kafka.clone(), self.wanted.clone());
        let thread = std::thread::Builder::new().name("kafka-settings".into());
        if let Err(error) = thread.spawn(move || wanted.report_settings(&kafka)) {
            warn!(%error, "no thread to read the settings of the kafka topics");
        }
    }
}

/// What a single question finds out, in words; for `citygate check`. Blocks for some seconds.
///
/// # Errors
/// Why Kafka cannot be used.
pub fn ask_once(kafka: &Kafka, monitor: &Monitor, wanted: &Wanted) -> Result<Option<String>, String> {
    let metadata = kafka.metadata().map_err(|why| {
        monitor.unreachable(why);
        super::reason::line(&monitor.reasons())
    })?;
    match wanted.check(&metadata) {
        Ok(()) => match wanted.missing(&metadata) {
            missing if missing.is_empty() => Ok(None),
            missing if wanted.creates() => {
                wanted.could_create(kafka, &missing)?;
                Ok(Some(missing.join(", ")))
            }
            missing => Err(Unfit::Missing(missing).to_string()),
        },
        Err(Unfit::Missing(missing)) if wanted.creates() => {
            wanted.could_create(kafka, &missing)?;
            Ok(Some(missing.join(", ")))
        }
        Err(unfit) => Err(unfit.to_string()),
    }
}
