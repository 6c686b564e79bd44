//! `citygate store`: readings out of Kafka into PostgreSQL, each once, and the SQL that computes results of them.
//!
//! [`ingest`] is the loop: a [`batch`] is read from the partitions that the group gives this instance, and is
//! [written](write) with its offsets in one transaction. A kind's table follows from its schema ([`layout`], [`tables`]), a row
//! from a reading ([`row`]). What is no row is kept as it is. Several instances share the partitions; of two that both believe
//! to have one, the database lets only one commit. What one of the instances does for all ([`leader`]): [`jobs`] run the SQL files and
//! scheduled statements, [`outbox`] publishes what they put into `city.outbox`, and [`alerts`] tells Alertmanager what the city is
//! alerted of. What is computed, the SQL says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::catalogue::decoder::Decoder;
use crate::catalogue::registry::lookup::Lookup;
use crate::catalogue::{Definition, registry, schemas};
use crate::deliver::consumer::Consumer;
use crate::operate::metrics::Registry;

mod alerts;

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

mod leader;

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
use ingest::{Group, Ingest};
use jobs::Runner;
use leader::Leader;
pub use metrics::StoreMetrics;
use outbox::Outbox;
use sql_folder::Sql;
use status::Status;

/// The tables of the configuration that a store reads.
#[derive(Clone, Copy, Debug)]
pub struct Sections<'a> {
    pub store: &'a Config,
    pub kafka: &'a crate::deliver::Config,
    pub schemas: &'a schemas::Config,
    pub registry: &'a registry::Config,
}

/// What is stored, and what is computed of it, as files say.
struct Folders {
    kinds: Vec<Definition>,
    sql: Sql,
    /// The topic of devices.
    devices: Arc<str>,
}

/// Stores readings until `closing`, and then what was read until then.
///
/// # Errors
/// The configuration cannot be used: see [`Error`]. What becomes unavailable is waited for.
pub async fn run(sections: Sections<'_>, closing: CancellationToken) -> Result<(), Error> {
    let folders = Folders::read(&sections)?;
    let tasks = TaskTracker::new();
    let database = Database::new(sections.store, tasks.clone())?;
    if database.may_be_plain() {
        warn!("store.database_url: {}", database::MAY_BE_PLAIN);
    }
    let decoder = Decoder::new(&folders.kinds, Lookup::new(sections.registry)?)?;
    let bound = serve::bind(&sections.store.listen).await?;
    let registry = Arc::new(Registry::default());
    registry.add_process();
    let metrics = StoreMetrics::register(&registry);
    let status = Arc::new(Status::starting(metrics.store_fault.clone()));
    let group = Group {
        kafka: sections.kafka.clone(),
        topics: folders.topics().into_iter().map(str::to_owned).collect(),
    };
    let member = group.join(sections.store)?;
    let ends = Consumer::new(sections.kafka)?;
    info!(
        listen = ?bound.addresses(),
        topics = folders.topics().join(", "),
        kafka = sections.kafka.bootstrap_servers,
        postgresql = database.place(),
        "citygate store runs"
    );
    let served = CancellationToken::new();
    bound.serve(registry, status.clone(), &tasks, &served);
    let leader = Leader {
        database,
        status,
        closing,
    };
    lead(&sections, &folders, &leader, &metrics, &tasks)?;
    let ingest = Ingest {
        config: sections.store.clone(),
        database: leader.database.clone(),
        kinds: folders.kinds,
        devices: folders.devices,
        group,
        member,
        ends,
        decoder,
        metrics,
        status: leader.status.clone(),
        closing: leader.closing.clone(),
        memory: ingest::Memory::default(),
    };
    // A task of its own, since it blocks while it reads.
    let stored = tasks.spawn(ingest.run()).await;
    let stored = stored.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
    leader.closing.cancel();
    served.cancel();
    tasks.close();
    stored
}

/// Begins what one of all instances does.
fn lead(
    sections: &Sections<'_>,
    folders: &Folders,
    leader: &Leader,
    metrics: &StoreMetrics,
    tasks: &TaskTracker,
) -> Result<(), Error> {
    let (kinds, sql) = (folders.kinds.clone(), folders.sql.clone());
    let runner = Runner::new(leader.database.clone(), kinds, sql, metrics.clone());
    if runner.has_work() {
        tasks.spawn(leader.clone().lead(runner));
    }
    Alerts::start(sections.store, leader, metrics, tasks)?;
    let outbox = Outbox {
        database: leader.database.clone(),
        kafka: sections.kafka.clone(),
        // Its ids are none that a gateway keeps.
        registry: registry::Config {
            cache_file: None,
            ..sections.registry.clone()
        },
        folder: sections.store.sql_folder.clone(),
        metrics: metrics.clone(),
        publisher: None,
        programs: BTreeMap::new(),
        told: BTreeSet::new(),
    };
    tasks.spawn(leader.clone().lead(outbox));
    Ok(())
}

// === impl Folders ===

impl Folders {
    fn read(sections: &Sections<'_>) -> Result<Self, Error> {
        let found = schemas::read(sections.schemas, &sections.kafka.topic_prefix);
        if !found.errors.is_empty() {
            return Err(Error::Schemas(found.errors));
        }
        let sql = sql_folder::read(&sections.store.sql_folder)?;
        if let Some(warning) = sql.warning(&sections.store.sql_folder) {
            warn!("{warning}");
        }
        Ok(Folders {
            kinds: found.definitions,
            sql,
            devices: format!("{}devices", sections.kafka.topic_prefix).into(),
        })
    }

    /// Those that are read.
    fn topics(&self) -> Vec<&str> {
        let kinds = self.kinds.iter().map(|kind| kind.topic.as_str());
        kinds.chain([&*self.devices]).collect()
    }
}
