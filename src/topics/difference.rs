//! How what a cluster has differs from what is planned, topic by topic.
//!
//! Pure. Only what is planned is compared: a setting of which the list says nothing may be anything. Settings count as they are
//! in force, wherever they were set. A topic that is not planned is named if it has the city's prefix, and is no difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::topic::{CLUSTERS_REPLICATION, Topic, count};

/// A topic as a cluster has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub partitions: i32,
    /// Replicas of the partition that has the fewest.
    pub replication: i32,
    /// Its settings as they are in force.
    pub settings: BTreeMap<String, String>,
    /// Those of them that were set for this topic.
    pub own: BTreeMap<String, String>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "difference", rename_all = "snake_case")]
pub enum Difference {
    /// It does not exist.
    Missing {
        size: String,
    },
    /// Partitions can be added.
    TooFewPartitions {
        listed: i32,
        found: i32,
    },
    /// None can be removed.
    TooManyPartitions {
        listed: i32,
        found: i32,
    },
    Replication {
        listed: i32,
        found: i32,
    },
    Setting {
        key: String,
        listed: String,
        found: Option<String>,
    },
}

/// What is planned beside what there is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    /// Topics that differ, each with what differs.
    pub topics: Vec<Compared>,
    /// Topics of this city's prefix that are not planned.
    pub unlisted: Vec<String>,
}

/// A topic that differs.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    #[serde(rename = "topic", serialize_with = "name_of")]
    pub topic: Topic,
    pub differences: Vec<Difference>,
}

fn name_of<S: serde::Serializer>(topic: &Topic, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&topic.name)
}

// === impl Difference ===

impl Difference {
    /// How many replicas the topic has, if they are not as many as listed.
    pub fn replicas(&self) -> Option<i32> {
        match self {
            Difference::Replication { found, .. } => Some(*found),
            _ => None,
        }
    }
}

// === impl Found ===

impl Found {
    /// A setting that is a whole number.
    pub fn number(&self, key: &str) -> Option<i64> {
        self.settings.get(key)?.parse().ok()
    }
}

// === impl Comparison ===

impl Comparison {
    pub fn new(planned: Vec<Topic>, found: &BTreeMap<String, Found>, prefix: &str) -> Self {
        let names: BTreeSet<String> = planned.iter().map(|topic| topic.name.clone()).collect();
        let unlisted = found
            .keys()
            .filter(|name| is_ours(name, prefix) && !names.contains(*name));
        let compared = planned.into_iter().map(|topic| Compared {
            differences: differences(&topic, found.get(&topic.name)),
            topic,
        });
        Comparison {
            topics: compared.filter(|one| !one.differences.is_empty()).collect(),
            unlisted: unlisted.cloned().collect(),
        }
    }

    pub fn is_same(&self) -> bool {
        self.topics.is_empty()
    }
}

/// Whether a topic is one of this city: without a prefix nobody knows. Names that begin with `_` are Kafka's and its tools' own.
fn is_ours(name: &str, prefix: &str) -> bool {
    !prefix.is_empty() && name.starts_with(prefix) && !name.starts_with('_')
}

/// What differs of one topic; `None`: it does not exist.
pub fn differences(listed: &Topic, found: Option<&Found>) -> Vec<Difference> {
    let Some(found) = found else {
        return vec![Difference::Missing { size: listed.size() }];
    };
    let partitions = (listed.partitions, found.partitions);
    let partitions = match partitions {
        (listed, found) if found < listed => Some(Difference::TooFewPartitions { listed, found }),
        (listed, found) if found > listed => Some(Difference::TooManyPartitions { listed, found }),
        _ => None,
    };
    let is_planned = listed.replication != CLUSTERS_REPLICATION && listed.replication != found.replication;
    let replication = is_planned.then_some(Difference::Replication {
        listed: listed.replication,
        found: found.replication,
    });
    let settings = listed.settings().into_iter().filter_map(|(key, listed)| {
        let found = found.settings.get(&key).cloned();
        (found.as_ref() != Some(&listed)).then_some(Difference::Setting { key, listed, found })
    });
    partitions.into_iter().chain(replication).chain(settings).collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Missing { size } => write!(f, "does not exist; listed with {size}"),
            Difference::TooFewPartitions { listed, found } => {
                write!(f, "has {}, and {listed} in the list", count(*found, "partition"))
            }
            Difference::TooManyPartitions { listed, found } => write!(
                f,
                "has {}, and {listed} in the list: Kafka removes none, so list {found}",
                count(*found, "partition")
            ),
            Difference::Replication { listed, found } => write!(
                f,
                "has {}, and {listed} in the list: move them with kafka-reassign-partitions.sh",
                count(*found, "replica")
            ),
            Difference::Setting { key, listed, found } => {
                let found = found.as_deref().unwrap_or("nothing");
                write!(f, "has {key}={found}, and {listed} in the list")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(partitions: i32, replication: i32, settings: &[(&str, &str)]) -> Found {
        let settings: BTreeMap<_, _> = settings
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        Found {
            partitions,
            replication,
            settings,
            own: BTreeMap::new(),
        }
    }

    #[test]
    fn only_what_is_planned_is_compared() {
        let mut listed = Topic::plain("city.x", 6, 3);
        listed.min_insync_replicas = Some(2);
        let check = |listed: &Topic, found: Option<Found>, expected: &[&str]| {
            let words: Vec<_> = differences(listed, found.as_ref())
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(words, expected);
        };
        let good = [("min.insync.replicas", "2"), ("retention.ms", "1")];
        check(&listed, Some(found(6, 3, &good)), &[]);
        check(
            &listed,
            None,
            &["does not exist; listed with 6 partitions and 3 replicas"],
        );
        check(
            &listed,
            Some(found(3, 3, &good)),
            &["has 3 partitions, and 6 in the list"],
        );
        check(
            &listed,
            Some(found(9, 1, &[("min.insync.replicas", "1")])),
            &[
                "has 9 partitions, and 6 in the list: Kafka removes none, so list 9",
                "has 1 replica, and 3 in the list: move them with kafka-reassign-partitions.sh",
                "has min.insync.replicas=1, and 2 in the list",
            ],
        );
        check(&Topic::plain("city.x", 6, -1), Some(found(6, 2, &[])), &[]);
        check(
            &listed,
            Some(found(6, 3, &[])),
            &["has min.insync.replicas=nothing, and 2 in the list"],
        );
    }

    #[test]
    fn topics_of_the_citys_prefix_that_are_not_planned_are_named() {
        let names = ["city.a", "city.b", "_schemas", "other"];
        let check = |prefix: &str, expected: &[&str]| {
            let there = names.map(|name| (name.to_owned(), found(3, 1, &[]))).into();
            let comparison = Comparison::new(vec![Topic::plain("city.a", 3, -1)], &there, prefix);
            assert!(comparison.is_same());
            assert_eq!(comparison.unlisted, expected, "{prefix}");
        };
        check("city.", &["city.b"]);
        check("", &[]);
        check("_", &[]);
        check("town.", &[]);
    }
}
