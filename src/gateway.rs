//! A gateway, from its configuration to its end: bind → build → run → drain.
//!
//! The only file that knows every room. What must be right is looked at first ([`start`](crate::operate::start)), so that addresses
//! are known and reserved, and all that is wrong is reported together, before anything runs. Kafka need not be available at
//! start: until it is, readings are spooled (or busy) and `/readyz` says why. Several gateways fit into one process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::authorize::{Anyone, Authorize, ByIdentity};
use crate::catalogue::{Catalogue, registry};
use crate::dead_letter_allowance::DeadLetterAllowance;
use crate::deliver;
use crate::deliver::Deliver;
use crate::deliver::health::Health;
use crate::devices::Authenticator;
use crate::devices::reload::Source;
use crate::listen::in_flight_bytes::InFlightBytes;
use crate::listen::tcp::{Admission, Connections};
use crate::listen::{self, Context};
use crate::message::Protocol;
use crate::operate::clock::{Clock, SystemClock};
use crate::operate::config::Config;
use crate::operate::start::{self, Prepared};
use crate::operate::state;
use crate::pipeline::Pipeline;
use crate::recent_refusals::RecentRefusals;
use crate::validate::Validator;

pub mod bound;

pub mod metrics;

pub use bound::Addresses;
pub use metrics::Metrics;

use bound::Bound;

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    addresses: Addresses,
    metrics: Arc<Metrics>,
    front: Context,
    drain_delay: Duration,
    drain_deadline: Duration,
    closing: CancellationToken,
    admin: Option<JoinHandle<()>>,
}

/// What keeps a gateway from starting; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All errors that were found before anything was changed, one line each.
    #[error("{}", lines(.0))]
    Found(Vec<start::Error>),
    /// The directory for spool and caches cannot be created.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The registry refuses schemas, or became unavailable since it was asked; one line each.
    #[error("{}", lines(.0))]
    Registry(Vec<registry::Error>),
    /// The spool cannot be opened.
    #[error(transparent)]
    Deliver(#[from] deliver::Error),
    /// A listener that has its addresses cannot serve.
    #[error(transparent)]
    Listen(#[from] listen::Error),
    /// A bug: nothing was found, and yet something is missing.
    #[error("{0} is missing, although no error was found")]
    Incomplete(&'static str),
}

fn lines<E: ToString>(errors: &[E]) -> String {
    errors.iter().map(E::to_string).collect::<Vec<_>>().join("\n")
}

// === impl Gateway ===

impl Gateway {
    /// Binds, builds and runs; returns once every listener accepts messages.
    pub async fn start(mut config: Config) -> Result<Self, Error> {
        let (prepared, findings) = start::prepare(&mut config).await;
        if !findings.errors.is_empty() {
            return Err(Error::Found(findings.errors));
        }
        findings.ok.iter().for_each(|line| info!("{line}"));
        findings.warnings.iter().for_each(|line| warn!("{line}"));
        let metrics = prepared.metrics.clone();
        let (front, bound) = build(&config, prepared).await?;
        let addresses = bound.addresses();
        let [mqtt, coap, http, admin_port] = bound.listening();
        let closing = CancellationToken::new();
        let admin = bound.serve(&front, &metrics, closing.clone())?;
        info!(
            mqtt,
            coap,
            http,
            admin = admin_port,
            kafka = config.kafka.bootstrap_servers,
            kinds = front.pipeline.catalogue.snapshot().names(),
            "citygate is running"
        );
        Ok(Gateway {
            addresses,
            metrics,
            front,
            drain_delay: config.drain.delay,
            drain_deadline: config.drain.deadline,
            closing,
            admin,
        })
    }

    /// The first address of each listener.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// The kinds that are accepted now; they can be replaced.
    pub fn catalogue(&self) -> &Catalogue {
        &self.front.pipeline.catalogue
    }

    /// Whether Kafka accepts readings; changes are announced.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.front.health.clone()
    }

    /// Cancelled when the gateway must end because its spool's disk failed.
    pub fn failed(&self) -> CancellationToken {
        self.front.pipeline.deliver.failed()
    }

    /// Says on `/readyz` that the gateway is about to end; everything is still accepted and answered.
    pub fn announce_end(&self) {
        self.front.leaving.cancel();
    }

    /// How long it should be said before the gateway ends.
    pub fn drain_delay(&self) -> Duration {
        self.drain_delay
    }

    /// Ends the gateway (see `drain`); true if everything accepted was answered before the deadline, and what the spool was
    /// given is written.
    pub async fn drain(self) -> bool {
        let Gateway {
            front,
            drain_deadline,
            closing,
            admin,
            ..
        } = self;
        let began = Instant::now();
        let deadline = began + drain_deadline;
        front.leaving.cancel();
        front.stopping.cancel();
        front.tasks.close();
        // Kafka goes on confirming while the listeners wait for the answers that they owe.
        let flush_reserve = drain_deadline / 4;
        let answered = tokio::time::timeout(drain_deadline - flush_reserve, front.tasks.wait())
            .await
            .is_ok();
        let pipeline = front.pipeline.clone();
        let left = deadline.saturating_duration_since(Instant::now());
        let closed = tokio::task::spawn_blocking(move || pipeline.deliver.close(left)).await;
        let written = closed.unwrap_or_else(|error| {
            warn!(%error, "the kafka producer could not be closed");
            false
        });
        // What Kafka did not confirm has been spooled or answered busy by now; let the listeners say so.
        let answered = answered
            || tokio::time::timeout(Duration::from_secs(1), front.tasks.wait())
                .await
                .is_ok();
        if !answered {
            warn!("not every connection was closed before the drain's deadline");
        }
        closing.cancel();
        if let Some(admin) = admin {
            // A scraper that holds its connection open does not hold up the end.
            tokio::time::timeout(Duration::from_secs(1), admin).await.ok();
        }
        let elapsed_s = began.elapsed().as_secs_f64();
        info!(answered, elapsed_s, "citygate has ended");
        answered && written
    }
}

/// Schemas, programs, producer, pipeline: what the listeners stand in front of; and the addresses that were bound.
async fn build(config: &Config, prepared: Prepared) -> Result<(Context, Bound), Error> {
    let Prepared {
        plan,
        bound,
        definitions,
        kinds,
        identities,
        registry,
        metrics,
        client,
    } = prepared;
    let plan = plan.ok_or(Error::Incomplete("the plan of file descriptors"))?;
    let mut kinds = kinds.ok_or(Error::Incomplete("the kinds"))?;
    let client = client.ok_or(Error::Incomplete("the client of kafka"))?;
    state::create(config)?;
    let mut unconfirmed = None;
    if let Some(registry) = registry {
        let registered = registry.register(&definitions).await.map_err(Error::Registry)?;
        for kind in &mut kinds {
            kind.use_registry_id(registered.ids[&kind.name]);
        }
        unconfirmed = registered.unconfirmed;
    }
    let catalogue = Catalogue::new(kinds.into_iter().collect());
    let asked = catalogue.clone();
    let topics = move || asked.snapshot().topics();
    let sections = deliver::Sections {
        kafka: &config.kafka,
        spool: &config.spool,
        replay: &config.replay,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let deliver = Deliver::start(sections, client, topics, &metrics.deliver, clock.clone())?;
    let health = deliver.health();
    let in_flight_bytes = InFlightBytes::new(&config.limits, &metrics.listen.admission);
    metrics
        .listen
        .mqtt
        .mqtt_connections_max
        .set(plan.mqtt_connections as i64);
    metrics
        .listen
        .http
        .http_connections_max
        .set(plan.http_connections as i64);
    let source = match (&config.devices.folder, identities) {
        (None, _) => None,
        (Some(folder), Some(register)) => {
            let metrics = metrics.devices.clone();
            Some(Source::new(folder, catalogue.clone(), register, metrics))
        }
        (Some(_), None) => return Err(Error::Incomplete("the identities")),
    };
    let recent_refusals = Arc::<RecentRefusals>::default();
    let authenticator = source.as_ref().map(|source| {
        let devices = source.devices().clone();
        Arc::new(Authenticator::new(
            devices,
            &config.devices,
            metrics.devices.clone(),
            config.limits.prefix.refused_credentials(),
            recent_refusals.clone(),
        ))
    });
    let pipeline = Pipeline {
        catalogue,
        validator: Validator::new(&config.clock),
        deliver,
        tallies: metrics.tallies.clone(),
        clock,
        access: access(config, source.as_deref()),
        forbidden_logged: Default::default(),
        over_rate_logged: Default::default(),
        recent_refusals,
        dead_letter_allowance: DeadLetterAllowance::new(config.limits.dead_letters_per_minute),
        batch_readings_max: config.limits.batch_readings,
    };
    let front = Context {
        pipeline: Arc::new(pipeline),
        in_flight_bytes,
        admission: Admission::new(
            config.limits.prefix.clone(),
            metrics.listen.admission.connections_refused_total.clone(),
        ),
        authenticator,
        connections: Connections::new(plan.connections),
        metrics: metrics.listen.clone(),
        health,
        tasks: TaskTracker::new(),
        leaving: CancellationToken::new(),
        stopping: CancellationToken::new(),
    };
    if let Some(source) = source {
        front.tasks.spawn(source.keep(front.stopping.clone()));
    }
    if let Some(unconfirmed) = unconfirmed {
        let confirmed = front
            .stopping
            .clone()
            .run_until_cancelled_owned(unconfirmed.confirm(definitions));
        front.tasks.spawn(confirmed);
    }
    Ok((front, bound))
}

/// Who may write where.
fn access(config: &Config, source: Option<&Source>) -> Arc<dyn Authorize> {
    let Some(source) = source else {
        return Arc::new(Anyone);
    };
    let anonymous = [
        (Protocol::Mqtt, config.mqtt.allow_anonymous),
        (Protocol::Coap, config.coap.allow_anonymous),
        (Protocol::Http, config.http.allow_anonymous),
    ];
    let anonymous = anonymous
        .into_iter()
        .filter_map(|(protocol, allowed)| allowed.then_some(protocol));
    Arc::new(ByIdentity {
        devices: source.devices().clone(),
        anonymous: anonymous.collect(),
        rates: config.devices.rates(),
    })
}
