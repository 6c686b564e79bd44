//! The file `topics.toml`: `[defaults]`, and an entry for each topic that differs from them.
//!
//! Names are those that Kafka knows (`city.traffic`). A topic without an entry has the defaults; what neither says is 3
//! partitions, and otherwise the cluster's default. Mistakes name the setting; who reads the file knows its line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::retention::Retention;
use super::topic::{CLUSTERS_REPLICATION, Cleanup, Topic, is_name};
use crate::operate::mistake::Mistakes;

/// Partitions of a topic of which nothing is said.
const PARTITIONS: i32 = 3;

/// More than any topic of one cluster should have; a figure with a zero too many is a mistake.
const PARTITIONS_MAX: i32 = 10_000;

/// Settings that have a name of their own in the file, by Kafka's names.
const OWN_NAMES: [(&str, &str); 3] = [
    ("cleanup.policy", "cleanup"),
    ("retention.ms", "retention"),
    ("min.insync.replicas", "min_insync_replicas"),
];

/// All that is planned.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct List {
    /// For what an entry leaves out, and topics without one.
    pub defaults: Entry,
    /// By name.
    pub topics: BTreeMap<String, Entry>,
}

/// What the file says of a topic, or of all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Entry {
    /// How many partitions it has.
    pub partitions: Option<i32>,
    /// Replicas of each partition; -1 is the cluster's default.
    pub replication: Option<i32>,
    /// In-sync replicas without which writing is refused.
    pub min_insync_replicas: Option<i32>,
    /// "delete": records older than `retention` go; "compact": the last record of each key stays.
    pub cleanup: Option<Cleanup>,
    /// How long records are kept: "7d", "36h", "unlimited".
    pub retention: Option<Retention>,
    /// What the records' key is.
    pub key: Option<String>,
    /// Who writes it.
    pub owner: Option<String>,
    /// Who reads it.
    pub readers: Option<Vec<String>>,
    /// What it is for.
    pub doc: Option<String>,
    /// Any other setting of Kafka's topics, e.g. "segment.ms" = "3600000".
    pub config: BTreeMap<String, String>,
}

// === impl List ===

impl List {
    /// What is planned for a topic, listed or not.
    pub fn topic(&self, name: &str) -> Topic {
        let none = Entry::default();
        let (own, defaults) = (self.topics.get(name).unwrap_or(&none), &self.defaults);
        let cleanup = own.cleanup.or(defaults.cleanup);
        // Of a compacted topic nothing is deleted by its age.
        let is_compacted = cleanup == Some(Cleanup::Compact);
        let retention = own.retention.or(defaults.retention).filter(|_| !is_compacted);
        let mut config = defaults.config.clone();
        config.extend(own.config.clone());
        let text = |field: fn(&Entry) -> &Option<String>| {
            let set = field(own).as_ref().or(field(defaults).as_ref());
            set.cloned().unwrap_or_default()
        };
        Topic {
            name: name.to_owned(),
            partitions: own.partitions.or(defaults.partitions).unwrap_or(PARTITIONS),
            replication: self.replication(own),
            min_insync_replicas: own.min_insync_replicas.or(defaults.min_insync_replicas),
            cleanup,
            retention,
            key: text(|entry| &entry.key),
            owner: text(|entry| &entry.owner),
            readers: own.readers.clone().or(defaults.readers.clone()).unwrap_or_default(),
            doc: text(|entry| &entry.doc),
            config,
        }
    }

    /// The topics that have an entry, by name.
    pub fn listed(&self) -> impl Iterator<Item = Topic> {
        self.topics.keys().map(|name| self.topic(name))
    }

    fn replication(&self, own: &Entry) -> i32 {
        let set = own.replication.or(self.defaults.replication);
        set.unwrap_or(CLUSTERS_REPLICATION)
    }

    /// What is wrong with it, by the settings' names in the file.
    pub fn mistakes(&self) -> Mistakes {
        let mut mistakes = Mistakes::default();
        self.entry_mistakes("defaults", &self.defaults, &mut mistakes);
        for (name, entry) in &self.topics {
            let path = format!("topics.\"{name}\"");
            if !is_name(name) {
                mistakes.push(&*path, "is not a Kafka topic name");
            }
            self.entry_mistakes(&path, entry, &mut mistakes);
        }
        mistakes
    }

    fn entry_mistakes(&self, path: &str, entry: &Entry, mistakes: &mut Mistakes) {
        let mut require = |good: bool, field: &str, text: &str| {
            mistakes.require(good, &format!("{path}.{field}"), text);
        };
        let partitions = entry.partitions.unwrap_or(PARTITIONS);
        let text = format!("must be between 1 and {PARTITIONS_MAX}");
        require((1..=PARTITIONS_MAX).contains(&partitions), "partitions", &text);
        let replication = entry.replication.unwrap_or(CLUSTERS_REPLICATION);
        let is_number = replication == CLUSTERS_REPLICATION || (1..=i32::from(i16::MAX)).contains(&replication);
        require(
            is_number,
            "replication",
            "must be at least 1, or -1 for the cluster's default",
        );
        let (min, replicas) = (entry.min_insync_replicas, self.replication(entry));
        require(
            min.is_none_or(|min| min > 0),
            "min_insync_replicas",
            "must be at least 1",
        );
        let min = min.or(self.defaults.min_insync_replicas).unwrap_or(1);
        let field = if entry.min_insync_replicas.is_some() {
            "min_insync_replicas"
        } else {
            "replication"
        };
        let text = format!("{min} in-sync replicas are required, and there are {replicas}: nothing could be written");
        require(replicas < 1 || min <= replicas, field, &text);
        let is_compacted = entry.cleanup.or(self.defaults.cleanup) == Some(Cleanup::Compact);
        require(
            !is_compacted || entry.retention.is_none(),
            "retention",
            "has no effect, since the topic is compacted: the last record of each key stays; leave it out",
        );
        for (key, own) in OWN_NAMES {
            let text = format!("cannot be set here; set {path}.{own}");
            require(!entry.config.contains_key(key), &format!("config.\"{key}\""), &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> List {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_topic_has_its_own_values_then_the_defaults_then_the_clusters() {
        let list = list(
            r#"
            defaults = {partitions = 6, replication = 3, retention = "7d", config = {"segment.ms" = "1000"}}
            [topics."city.traffic"]
            partitions = 24
            owner = "the gateway"
            config = {"segment.ms" = "2000", "compression.type" = "zstd"}
            [topics."city.devices"]
            cleanup = "compact"
            "#,
        );
        let check = |name: &str, partitions: i32, settings: &[(&str, &str)]| {
            let topic = list.topic(name);
            assert_eq!((topic.partitions, topic.replication), (partitions, 3), "{name}");
            let settings: BTreeMap<_, _> = settings
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect();
            assert_eq!(topic.settings(), settings, "{name}");
        };
        let week = ("retention.ms", "604800000");
        check(
            "city.traffic",
            24,
            &[week, ("segment.ms", "2000"), ("compression.type", "zstd")],
        );
        check(
            "city.devices",
            6,
            &[("cleanup.policy", "compact"), ("segment.ms", "1000")],
        );
        check("city.unlisted", 6, &[week, ("segment.ms", "1000")]);
        assert_eq!(list.topic("city.traffic").owner, "the gateway");
        let nothing = List::default().topic("x");
        assert_eq!(nothing, Topic::plain("x", 3, -1));
    }

    #[test]
    fn what_entries_cannot_be_is_named() {
        let check = |text: &str, expected: &[&str]| {
            let found = list(text).mistakes();
            let found: Vec<_> = found.0.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("", &[]);
        check("defaults = {replication = -1, min_insync_replicas = 2}", &[]);
        check(
            "defaults.partitions = 0",
            &["defaults.partitions: must be between 1 and 10000"],
        );
        check(
            "topics.\"a b\".replication = 0",
            &[
                "topics.\"a b\": is not a Kafka topic name",
                "topics.\"a b\".replication: must be at least 1, or -1 for the cluster's default",
            ],
        );
        check(
            "defaults = {replication = 3, min_insync_replicas = 2}\ntopics.\"x\".replication = 1",
            &["topics.\"x\".replication: 2 in-sync replicas are required, and there are 1: nothing could be written"],
        );
        check(
            "topics.x = {replication = 1, min_insync_replicas = 2}",
            &[
                "topics.\"x\".min_insync_replicas: 2 in-sync replicas are required, and there are 1: nothing could be written",
            ],
        );
        check(
            "topics.x = {cleanup = \"compact\", retention = \"7d\"}",
            &[
                "topics.\"x\".retention: has no effect, since the topic is compacted: the last record of each key stays; \
                 leave it out",
            ],
        );
        check(
            "topics.x.config = {\"retention.ms\" = \"1\"}",
            &["topics.\"x\".config.\"retention.ms\": cannot be set here; set topics.\"x\".retention"],
        );
    }
}
