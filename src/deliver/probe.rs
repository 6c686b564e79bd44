//! Asks whether Kafka is available while no reading says so.
//!
//! A thread of its own, for librdkafka's metadata call blocks: an answer with brokers, and with leaders for partitions of our
//! topics, says that Kafka is available; any other, or none, is a reason why it is not. It also creates
//! topics that are missing, and replaces a producer that failed fatally or that knows no broker any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::metadata::Metadata;
use tracing::{info, warn};

use super::health::Monitor;
use super::kafka::topics::{self, Unfit, Wanted};
use super::kafka::{self, Kafka};
use super::reason::{Cause, Reason};

/// How often it is asked for its topics while it confirms readings: one may have been deleted.
const LOOK_AT_TOPICS: Duration = Duration::from_secs(3);

/// How often it is looked, after batches were made smaller, whether they may be larger again.
const LOOK_AT_LIMITS: Duration = Duration::from_secs(10);

/// How long a topic that was created may take until its partitions have leaders.
const CREATED_WITHIN: Duration = Duration::from_secs(3);

/// How often that is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Within this time librdkafka tells why a connection fails, even that nobody answers (`api.version.request.timeout.ms`, 10 s).
const TOLD_WITHIN: Duration = Duration::from_secs(11);

/// How soon topics that could not be created are retried: first, and at the latest.
const CREATE_AGAIN: Duration = Duration::from_secs(1);
const CREATE_AGAIN_MAX: Duration = Duration::from_secs(60);

/// Probes Kafka until the monitor is closed; `wanted` says what the cluster must offer now.
pub fn start(
    kafka: Arc<Kafka>,
    monitor: Arc<Monitor>,
    wanted: impl Fn() -> Wanted + Send + 'static,
    interval: Duration,
) {
    let mut probe = Probe {
        kafka,
        monitor,
        wanted: Arc::new(wanted()),
        not_created: None,
        is_reported: false,
        replaced: 0,
        unanswered_since: None,
    };
    let run = move || {
        let (mut looked_at, mut limits_looked_at) = (Instant::now(), Instant::now());
        while !probe.monitor.is_closed() {
            probe.monitor.say_later();
            probe.wanted = Arc::new(wanted());
            if !probe.monitor.confirmed_within(interval) {
                probe.ask();
                looked_at = Instant::now();
            } else if looked_at.elapsed() >= LOOK_AT_TOPICS {
                probe.look_at_topics();
                looked_at = Instant::now();
            }
            if probe.monitor.is_up() && limits_looked_at.elapsed() >= LOOK_AT_LIMITS {
                probe.kafka.make_batches_larger();
                limits_looked_at = Instant::now();
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
    not_created: Option<NotCreated>,
    /// The topics' settings were looked at: once per process is enough.
    is_reported: bool,
    /// Producers that were replaced since Kafka was last available.
    replaced: u32,
    /// When the first question was asked that Kafka has not answered since.
    unanswered_since: Option<Instant>,
}

/// Topics that Kafka refused to create, or did not have a while later.
struct NotCreated {
    topics: Vec<String>,
    cause: Cause,
    why: String,
    pause: Duration,
    again_at: Instant,
}

/// Why a cluster cannot be used, for `citygate check`.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It does not answer; the text is what librdkafka tells of its connections.
    #[error("{0}")]
    Unavailable(String),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// It would not create what is missing.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// The question ended without an answer.
    #[error(transparent)]
    Ended(#[from] tokio::task::JoinError),
}

// === impl Probe ===

impl Probe {
    fn ask(&mut self) {
        if let Some(why) = self.kafka.revive() {
            return self.monitor.failed(Cause::Producer, &why);
        }
        let knew_no_broker = self.kafka.knows_no_broker();
        let asked_at = Instant::now();
        let metadata = match self.kafka.metadata() {
            Ok(metadata) => metadata,
            Err(_) if knew_no_broker && self.kafka.knows_no_broker() => return self.replace(),
            Err(why) => return self.unanswered(asked_at, why),
        };
        self.unanswered_since = None;
        self.monitor.connection_works();
        if !metadata.brokers().is_empty() {
            self.monitor.leaderless().found(self.wanted.leaderless(&metadata));
        }
        match self.wanted.check(&metadata) {
            Ok(()) => {
                // Before readings are sent, and before Kafka is asked to create any, which may be slow.
                self.note_topics(&metadata);
                self.answered();
                self.create_missing(&metadata);
            }
            Err(Unfit::Missing(missing)) if self.wanted.creates() => {
                if !self.create(missing)
                    && let Some(not_created) = &self.not_created
                {
                    // There is none that a reading could be sent to.
                    self.monitor.failed(not_created.cause, &not_created.why);
                    self.note_topics(&metadata);
                }
            }
            Err(unfit) => self.monitor.failed(unfit.cause(), &unfit.to_string()),
        }
    }

    /// A question without an answer. Where Kafka was up, that is news. Where it was not, a slow answer is none: what was
    /// known goes on until librdkafka tells more of a connection, or had the time to.
    fn unanswered(&mut self, asked_at: Instant, why: Reason) {
        let since = *self.unanswered_since.get_or_insert(asked_at);
        if self.monitor.is_up() || since.elapsed() >= TOLD_WITHIN {
            self.monitor.unreachable(why);
        } else {
            self.monitor.unanswered();
        }
    }

    /// Readings are confirmed: only what they may not tell is looked at.
    fn look_at_topics(&mut self) {
        let Ok(metadata) = self.kafka.metadata() else { return };
        self.unanswered_since = None;
        if !metadata.brokers().is_empty() {
            self.monitor.connection_works();
            self.note_topics(&metadata);
            self.create_missing(&metadata);
        }
    }

    fn create_missing(&mut self, metadata: &Metadata) {
        let missing = self.wanted.missing(metadata);
        if !missing.is_empty() && self.wanted.creates() {
            self.create(missing);
        }
    }

    fn note_topics(&self, metadata: &Metadata) {
        let exists = |name: &str| topics::exists(metadata, name);
        self.monitor.topics().found(self.wanted.topics(), exists);
        self.monitor.leaderless().found(self.wanted.leaderless(metadata));
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
            Err(why) => self.monitor.failed(Cause::Producer, &why.to_string()),
        }
    }

    /// Creates what is missing, and waits until it exists; what Kafka does not create is retried ever less often.
    /// False: they are still missing.
    fn create(&mut self, missing: Vec<String>) -> bool {
        let earlier = self.not_created.take().filter(|earlier| earlier.topics == missing);
        if let Some(not_created) = &earlier
            && Instant::now() < not_created.again_at
        {
            self.failed(not_created.cause, &not_created.why);
            self.not_created = earlier;
            return false;
        }
        if earlier.is_none() {
            info!(topics = missing.join(", "), "creating kafka topics");
        }
        let created = self.wanted.create(self.kafka.cluster(), &missing);
        let created = created.map_err(|why| (Cause::TopicRefused, why.to_string()));
        let Err((cause, why)) = created.and_then(|()| self.await_created(&missing)) else {
            return true;
        };
        if earlier.is_none() && self.monitor.is_up() {
            warn!(why, "kafka topics could not be created; it is retried");
        }
        self.failed(cause, &why);
        let pause = earlier.map_or(CREATE_AGAIN, |earlier| (2 * earlier.pause).min(CREATE_AGAIN_MAX));
        self.not_created = Some(NotCreated {
            topics: missing,
            cause,
            why,
            pause,
            again_at: Instant::now() + pause,
        });
        false
    }

    /// Kafka may say that a topic exists, and not name it, or name no leader of it.
    fn await_created(&mut self, created: &[String]) -> Result<(), (Cause, String)> {
        let deadline = Instant::now() + CREATED_WITHIN;
        while Instant::now() < deadline && !self.monitor.is_closed() {
            let is_found = |metadata: &Metadata| {
                self.wanted.missing(metadata).is_empty()
                    && self.wanted.check(metadata).is_ok()
                    && self
                        .wanted
                        .leaderless(metadata)
                        .iter()
                        .all(|one| !created.contains(&one.topic))
            };
            if let Some(metadata) = self.kafka.metadata().ok().filter(is_found) {
                self.note_topics(&metadata);
                self.answered();
                return Ok(());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Err((Cause::Starting, "kafka topics are being created".to_owned()))
    }

    /// On a thread of its own: a cluster may be slow to tell, and readings are not to wait for that.
    fn report_settings(&self) {
        let (kafka, wanted) = (self.kafka.clone(), self.wanted.clone());
        let thread = std::thread::Builder::new().name("kafka-settings".into());
        if let Err(error) = thread.spawn(move || wanted.report_settings(&kafka)) {
            warn!(%error, "no thread to read the settings of the kafka topics");
        }
    }
}

/// Asks again for as long as librdkafka tells nothing of the connections: a busy machine, or name server, may be slow.
fn metadata_or_reason(kafka: &Kafka, monitor: &Monitor) -> Result<Metadata, Unusable> {
    let began = Instant::now();
    loop {
        let why = match kafka.metadata() {
            Ok(metadata) => return Ok(metadata),
            Err(why) => why,
        };
        if monitor.is_told() || began.elapsed() >= TOLD_WITHIN {
            monitor.unreachable(why);
            return Err(Unusable::Unavailable(super::reason::line(&monitor.reasons())));
        }
    }
}

/// What Kafka's first answer says, in words; for `citygate check`. Blocks for some seconds.
///
/// # Errors
/// Why Kafka cannot be used.
pub fn ask_once(kafka: &Kafka, monitor: &Monitor, wanted: &Wanted) -> Result<Option<String>, Unusable> {
    let metadata = metadata_or_reason(kafka, monitor)?;
    match wanted.check(&metadata) {
        Ok(()) => match wanted.missing(&metadata) {
            missing if missing.is_empty() => Ok(None),
            missing if wanted.creates() => {
                wanted.could_create(kafka.cluster(), &missing)?;
                Ok(Some(missing.join(", ")))
            }
            missing => Err(Unfit::Missing(missing).into()),
        },
        Err(Unfit::Missing(missing)) if wanted.creates() => {
            wanted.could_create(kafka.cluster(), &missing)?;
            Ok(Some(missing.join(", ")))
        }
        Err(unfit) => Err(unfit.into()),
    }
}
