//! `citygate store`: readings out of Kafka into PostgreSQL, each once, and the SQL that computes results of them.
//!
//! [`ingest`] is the loop: a [`batch`] is read from the partitions that the group gives this instance, and is
//! [written](write) with its offsets in one transaction. A kind's table follows from its schema ([`layout`], [`tables`]), a row
//! from a reading ([`row`]). What is no row is kept as it is. Several instances share the partitions; of two that both believe
//! to have one, the database lets only one commit. [`jobs`] run the SQL files and scheduled statements on one of the instances,
//! [`outbox`] publishes what they put into `city.outbox`, and [`alerts`] tells Alertmanager what the city is alerted of. What is
//! computed, the SQL says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::catalogue::decoder::Decoder;
use crate::catalogue::missing::Missing;
use crate::catalogue::registry::lookup::Lookup;
use crate::catalogue::{registry, schemas};
use crate::deliver::consumer::Consumer;
use crate::deliver::group::{Member, Membership};
use crate::operate::metrics::Registry;

mod again;

mod alerts;

mod assignment;

mod batch;

pub mod check;

pub mod config;

pub mod database;

mod day;

mod devices;

mod error;

mod ingest;

mod jobs;

mod json;

mod layout;

mod metrics;

mod numeric;

mod outbox;

mod row;

mod serve;

mod sql_folder;

mod status;

mod tables;

mod write;

use alerts::Alerts;
pub use config::Config;
use database::Database;
pub use error::Error;
use ingest::Ingest;
pub use metrics::StoreMetrics;
use outbox::Outbox;
use status::Status;

/// The tables of the configuration that a store reads.
#[derive(Clone, Copy, Debug)]
pub struct Sections<'a> {
    pub store: &'a Config,
    pub kafka: &'a crate::deliver::Config,
    pub schemas: &'a schemas::Config,
    pub registry: &'a registry::Config,
}

/// Stores readings until `closing`, and then what was read until then.
///
/// # Errors
/// The configuration cannot be used: see [`Error`]. What becomes unavailable is waited for.
pub async fn run(sections: Sections<'_>, closing: CancellationToken) -> Result<(), Error> {
    let found = schemas::read(sections.schemas, &sections.kafka.topic_prefix);
    if !found.errors.is_empty() {
        return Err(Error::Schemas(found.errors));
    }
    let sql = sql_folder::read(&sections.store.sql_folder)?;
    if let Some(warning) = sql.warning(&sections.store.sql_folder) {
        warn!("{warning}");
    }
    let tasks = TaskTracker::new();
    let database = Database::new(sections.store, tasks.clone())?;
    if database.may_be_plain() {
        warn!("store.database_url: {}", database::MAY_BE_PLAIN);
    }
    let decoder = Decoder::new(&found.definitions, Lookup::new(sections.registry)?)?;
    let bound = serve::bind(&sections.store.listen).await?;
    let registry = Arc::new(Registry::default());
    registry.add_process();
    let metrics = StoreMetrics::register(&registry);
    let status = Arc::new(Status::starting(metrics.store_fault.clone()));
    let devices: Arc<str> = format!("{}devices", sections.kafka.topic_prefix).into();
    let topics = found
        .definitions
        .iter()
        .map(|kind| kind.topic.as_str())
        .chain([&*devices]);
    let topics: Vec<&str> = topics.collect();
    let membership = Membership {
        group: &sections.store.group,
        instance: sections.store.instance.as_deref(),
        session_timeout: sections.store.session_timeout,
    };
    let member = Member::join(sections.kafka, membership, &topics)?;
    let ends = Consumer::new(sections.kafka)?;
    info!(
        listen = ?bound.addresses(),
        topics = topics.join(", "),
        kafka = sections.kafka.bootstrap_servers,
        postgresql = database.place(),
        "citygate store runs"
    );
    let served = CancellationToken::new();
    bound.serve(registry, status.clone(), &tasks, &served);
    let runner = jobs::Runner {
        database: database.clone(),
        kinds: found.definitions.clone(),
        sql,
        metrics: metrics.clone(),
        status: status.clone(),
        closing: closing.clone(),
        failing: BTreeMap::new(),
    };
    tasks.spawn(runner.run());
    Alerts::start(sections.store, database.clone(), &metrics, &status, &tasks, &closing)?;
    let outbox = Outbox {
        database: database.clone(),
        kafka: sections.kafka.clone(),
        // Its ids are none that a gateway keeps.
        registry: registry::Config {
            cache_file: None,
            ..sections.registry.clone()
        },
        folder: sections.store.sql_folder.clone(),
        metrics: metrics.clone(),
        status: status.clone(),
        closing: closing.clone(),
        programs: BTreeMap::new(),
    };
    tasks.spawn(outbox.run());
    let ingest = Ingest {
        config: sections.store.clone(),
        database,
        kinds: found.definitions.clone(),
        devices,
        member,
        ends,
        decoder,
        metrics,
        status,
        closing: closing.clone(),
        tables: tables::Tables::default(),
        assignment: assignment::Assignment::default(),
        missing: Missing::default(),
        again: again::Again::new(Instant::now()),
    };
    // A task of its own, since it blocks while it reads.
    let stored = tasks.spawn(ingest.run()).await;
    let stored = stored.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
    closing.cancel();
    served.cancel();
    tasks.close();
    stored
}
