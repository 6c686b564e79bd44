//! The topics of a cluster for whoever operates it: how they are, and changes to them (`citygate topics`).
//!
//! A client of its own, for no gateway runs beside it. Every call asks the cluster anew; nothing is done that was not asked for.

use std::collections::BTreeMap;
use std::time::Instant;

use rdkafka::admin::AdminClient;
use rdkafka::metadata::Metadata;

use super::cluster::{Cluster, Silent};
use super::error::Error;
use super::topic_requests::{self as requests, ADMIN_TIMEOUT};
use crate::deliver::config::Config;
use crate::topics::{Found, Topic};

/// Asks and changes.
pub struct Operator {
    cluster: Cluster,
    admin: AdminClient<Silent>,
}

impl Operator {
    /// It connects when it is asked.
    ///
    /// # Errors
    /// librdkafka refuses the configuration.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let cluster = Cluster::new(config);
        let admin = cluster.admin()?;
        Ok(Operator { cluster, admin })
    }

    /// All topics whose name is `wanted`, as they are.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub async fn topics(&self, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Found>, Error> {
        let metadata = tokio::task::block_in_place(|| self.metadata())?;
        let names = metadata
            .topics()
            .iter()
            .map(|topic| topic.name())
            .filter(|name| wanted(name));
        let names: Vec<_> = names.map(str::to_owned).collect();
        requests::describe(&self.admin, &metadata, &names).await
    }

    /// A first connection may take longer than one question.
    fn metadata(&self) -> Result<Metadata, Error> {
        let began = Instant::now();
        loop {
            match self.cluster.metadata(self.admin.inner()) {
                Ok(metadata) => return Ok(metadata),
                Err(why) if began.elapsed() >= ADMIN_TIMEOUT => return Err(Error::Unavailable(why.text)),
                Err(_) => {}
            }
        }
    }

    /// Creates a topic with its settings.
    ///
    /// # Errors
    /// Kafka refuses.
    pub async fn create(&self, topic: &Topic) -> Result<(), Error> {
        requests::create(&self.admin, &[topic], false).await
    }

    /// Makes the number of a topic's partitions `partitions`.
    ///
    /// # Errors
    /// Kafka refuses.
    pub async fn add_partitions(&self, name: &str, partitions: i32) -> Result<(), Error> {
        requests::add_partitions(&self.admin, name, partitions).await
    }

    /// Sets settings of a topic; those that it has are read first and stay. Whoever changes it at the same instant may be
    /// overwritten.
    ///
    /// # Errors
    /// Kafka refuses, or the topic does not exist any more.
    pub async fn set(&self, name: &str, changed: &BTreeMap<String, String>) -> Result<(), Error> {
        let found = self.topics(|other| other == name).await?;
        let found = found.get(name).ok_or(Error::NoAnswer)?;
        requests::set(&self.admin, name, &found.own, changed).await
    }

    /// Deletes a topic with its records.
    ///
    /// # Errors
    /// Kafka refuses.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        requests::delete(&self.admin, name).await
    }
}
