//! Why readings cannot be stored: what is wrong with the configuration or a table, and what is unavailable for a while.
//!
//! The first ends a store, or keeps it from starting; the second is waited for. The words are for the operator, and hold no
//! password.

use std::time::Duration;

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
    #[error("another instance has a partition that this one had")]
    Fenced,
    /// The partition of a day was dropped by another instance.
    #[error("a table's partition was dropped")]
    NoPartition,
    #[error("postgresql did not answer within {0:?}")]
    Slow(Duration),
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
            Error::Registry(_) | Error::RegistryClient(_) => "registry",
            Error::Kafka(_) => "kafka",
            _ => "unavailable",
        }
    }

    /// What does not work; of what is in order right after, nothing.
    pub fn part(&self) -> Option<Part> {
        match self {
            Error::Fenced | Error::NoPartition => None,
            Error::Registry(_) | Error::RegistryClient(_) => Some(Part::Registry),
            Error::Kafka(_) => Some(Part::Kafka),
            _ => Some(Part::Database),
        }
    }
}
