//! Why readings cannot be stored: what is wrong with the configuration or a table, and what is unavailable for a while.
//!
//! The first ends a store, or keeps it from starting; the second is waited for. The words are for the operator, and hold no
//! password.

use std::time::Duration;

use jiff::SignedDuration;

use super::status::Part;
use super::{alerts, database, layout, serve, sql_folder};
use crate::catalogue::{registry, schemas};
use crate::deliver::consumer;

/// Readings cannot be stored; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}", lines(.0))]
    Schemas(Vec<schemas::Error>),
    #[error("schemas: {0}")]
    Names(#[from] Box<apache_avro::Error>),
    #[error(transparent)]
    RegistryClient(#[from] registry::Error),
    #[error(transparent)]
    Alerts(#[from] alerts::Error),
    #[error(transparent)]
    Kafka(#[from] consumer::Error),
    #[error(transparent)]
    Listen(#[from] serve::Error),
    #[error(transparent)]
    SqlFolder(#[from] sql_folder::Error),
    #[error(transparent)]
    Database(#[from] database::Error),
    /// Kinds that their tables cannot hold.
    #[error("{}", lines(.0))]
    Tables(Vec<layout::Error>),
    /// The server is too old, or its user may not do what is needed.
    #[error("{0}")]
    Unfit(String),
    /// The registry does not answer, so nothing is known of a record.
    #[error("{0}")]
    Registry(String),
    /// Another instance has stored what this one was about to.
    #[error("another store has stored what this one was about to: of another group, with the same database?")]
    Fenced,
    /// Its offsets begin anew: what is known of the old ones is forgotten.
    #[error("{topic}, partition {partition}: the topic was made anew, and is read from its beginning")]
    MadeAnew { topic: String, partition: i32 },
    /// The partition of a day was dropped by another instance.
    #[error("a table's partition was dropped")]
    NoPartition,
    #[error("postgresql did not answer within {0:?}")]
    Slow(Duration),
    /// By one of them readings would be taken for too old, or for too new, and old ones be dropped.
    #[error("the clocks of this host and of postgresql differ by {0:#}: nothing is stored until they agree")]
    Clocks(SignedDuration),
}

/// A line for each.
pub fn lines(errors: &[impl ToString]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Error {
    /// Whether no database is named, or not as it must be: another start would find the same.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::Database(database::Error::NoUrl | database::Error::Url(_)))
    }

    /// The `reason` label of metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Error::Database(database::Error::Refused { .. }) => "refused",
            Error::Fenced => "fenced",
            Error::NoPartition => "partition",
            Error::Clocks(_) => "clocks",
            Error::MadeAnew { .. } => "topic",
            Error::Registry(_) | Error::RegistryClient(_) => "registry",
            Error::Kafka(_) => "kafka",
            _ => "unavailable",
        }
    }

    /// Whether it is in order right after, as long as it does not come again and again.
    pub fn may_happen(&self) -> bool {
        matches!(self, Error::Fenced | Error::NoPartition | Error::MadeAnew { .. })
    }

    /// What does not work.
    pub fn part(&self) -> Part {
        match self {
            Error::Registry(_) | Error::RegistryClient(_) => Part::Registry,
            Error::Kafka(_) | Error::MadeAnew { .. } => Part::Kafka,
            _ => Part::Database,
        }
    }
}
