//! Administrative requests about topics: how they are, their creation, changes, and deletion.
//!
//! Each is one request to the cluster, and refused as a whole or topic by topic; an error names each topic that was refused.
//! rdkafka 0.39 has no incremental change of settings: a change replaces all that were set for a topic, so those that stay are
//! sent as well.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewPartitions, NewTopic,
    OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode;

use super::cluster::Silent;
use super::error::Error;
use crate::topics::{Found, Topic};

/// How long a request may take.
pub(super) const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

type Admin = AdminClient<Silent>;

/// Those of these topics that exist, as they are.
///
/// # Errors
/// The cluster does not say.
pub(super) async fn describe(
    admin: &Admin,
    metadata: &Metadata,
    names: &[String],
) -> Result<BTreeMap<String, Found>, Error> {
    let mut found = BTreeMap::new();
    for topic in metadata.topics().iter().filter(|topic| !topic.partitions().is_empty()) {
        let partitions = topic.partitions();
        let replicas = partitions.iter().map(|partition| partition.replicas().len()).min();
        let one = Found {
            partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
            replication: replicas
                .and_then(|replicas| i32::try_from(replicas).ok())
                .unwrap_or_default(),
            ..Found::default()
        };
        if names.iter().any(|name| name == topic.name()) {
            found.insert(topic.name().to_owned(), one);
        }
    }
    if found.is_empty() {
        return Ok(found);
    }
    let resources: Vec<_> = found.keys().map(|name| ResourceSpecifier::Topic(name)).collect();
    let described = admin.describe_configs(&resources, &options()).await?;
    for config in described {
        note_settings(config.map_err(Error::Topic)?, &mut found);
    }
    Ok(found)
}

fn note_settings(config: ConfigResource, found: &mut BTreeMap<String, Found>) {
    let OwnedResourceSpecifier::Topic(name) = &config.specifier else {
        return;
    };
    let Some(found) = found.get_mut(name) else { return };
    for entry in config.entries {
        let Some(value) = entry.value else { continue };
        if entry.source == ConfigSource::DynamicTopic {
            found.own.insert(entry.name.clone(), value.clone());
        }
        found.settings.insert(entry.name, value);
    }
}

/// Creates these topics with their settings; one that exists is left as it is.
///
/// # Errors
/// Each topic that is not created, with its size.
pub(super) async fn create(admin: &Admin, topics: &[&Topic], validate_only: bool) -> Result<(), Error> {
    let settings: Vec<_> = topics.iter().map(|topic| topic.settings()).collect();
    let new = topics.iter().zip(&settings).map(|(topic, settings)| {
        let new = NewTopic::new(
            &topic.name,
            topic.partitions,
            TopicReplication::Fixed(topic.replication),
        );
        settings.iter().fold(new, |new, (key, value)| new.set(key, value))
    });
    let new: Vec<_> = new.collect();
    let results = admin.create_topics(&new, &options().validate_only(validate_only)).await;
    let size = |name: &str| {
        let topic = topics.iter().find(|topic| topic.name == name);
        topic.map_or_else(|| name.to_owned(), |topic| format!("{name} with {}", topic.size()))
    };
    let all = || {
        topics
            .iter()
            .map(|topic| size(&topic.name))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let results = results.map_err(|error| Error::NotCreated(format!("{}: {error}", all())))?;
    // Another gateway of the same city was quicker.
    let is_refusal = |code: &RDKafkaErrorCode| *code != RDKafkaErrorCode::TopicAlreadyExists;
    let refused = results
        .into_iter()
        .filter_map(Result::err)
        .filter(|(_, code)| is_refusal(code));
    let refused: Vec<_> = refused.map(|(name, code)| format!("{}: {code}", size(&name))).collect();
    match refused.is_empty() {
        true => Ok(()),
        false => Err(Error::NotCreated(refused.join(", "))),
    }
}

/// Makes the number of partitions of a topic `partitions`; the cluster places them.
///
/// # Errors
/// Kafka refuses.
pub(super) async fn add_partitions(admin: &Admin, name: &str, partitions: i32) -> Result<(), Error> {
    let what = format!("make the partitions of {name} {partitions}");
    let new = NewPartitions::new(name, usize::try_from(partitions).unwrap_or_default());
    let results = admin.create_partitions([&new], &options()).await?;
    none_refused(&what, results)
}

/// Sets these settings of a topic, which has `own` ones.
///
/// # Errors
/// Kafka refuses.
pub(super) async fn set(
    admin: &Admin,
    name: &str,
    own: &BTreeMap<String, String>,
    changed: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let mut all = own.clone();
    all.extend(changed.clone());
    let change = AlterConfig::new(ResourceSpecifier::Topic(name));
    let change = all.iter().fold(change, |change, (key, value)| change.set(key, value));
    let results = admin.alter_configs([&change], &options()).await?;
    let refused = results.into_iter().filter_map(Result::err).map(|(_, code)| code);
    match refused
        .map(|code| code.to_string())
        .reduce(|all, one| format!("{all}, {one}"))
    {
        None => Ok(()),
        Some(why) => Err(Error::NotChanged(format!("change settings of {name}: {why}"))),
    }
}

/// Deletes a topic with its records.
///
/// # Errors
/// Kafka refuses.
pub(super) async fn delete(admin: &Admin, name: &str) -> Result<(), Error> {
    let results = admin.delete_topics(&[name], &options()).await?;
    none_refused(&format!("delete {name}"), results)
}

fn none_refused(what: &str, results: Vec<Result<String, (String, RDKafkaErrorCode)>>) -> Result<(), Error> {
    match results.into_iter().find_map(Result::err) {
        None => Ok(()),
        Some((_, code)) => Err(Error::NotChanged(format!("{what}: {code}"))),
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ADMIN_TIMEOUT))
        .operation_timeout(Some(ADMIN_TIMEOUT))
}
