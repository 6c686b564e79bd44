//! One topic as it is planned: how large, how safe, for how long, and whose.
//!
//! What is left open (`None`, replication -1) is the cluster's default, and not compared with anything. Key, owner, readers and
//! text are for people.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::retention::Retention;

/// Replicas that the cluster decides.
pub const CLUSTERS_REPLICATION: i32 = -1;

/// A topic as it is planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Topic {
    pub name: String,
    pub partitions: i32,
    /// Replicas of each partition; -1 is the cluster's default.
    pub replication: i32,
    /// In-sync replicas without which `acks=all` is refused.
    pub min_insync_replicas: Option<i32>,
    pub cleanup: Option<Cleanup>,
    pub retention: Option<Retention>,
    /// What the records' key is.
    pub key: String,
    /// Who writes it.
    pub owner: String,
    /// Who reads it.
    pub readers: Vec<String>,
    pub doc: String,
    /// Any other setting of the topic, by Kafka's name.
    pub config: BTreeMap<String, String>,
}

/// What becomes free: what is old, or what a later record of the same key replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cleanup {
    Delete,
    Compact,
}

// === impl Topic ===

impl Topic {
    /// A topic of which nothing else is planned.
    pub fn plain(name: &str, partitions: i32, replication: i32) -> Self {
        Topic {
            name: name.to_owned(),
            partitions,
            replication,
            min_insync_replicas: None,
            cleanup: None,
            retention: None,
            key: String::new(),
            owner: String::new(),
            readers: Vec::new(),
            doc: String::new(),
            config: BTreeMap::new(),
        }
    }

    /// The settings that are planned, by Kafka's names.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let mut settings = self.config.clone();
        let planned = [
            ("cleanup.policy", self.cleanup.map(|cleanup| cleanup.name().to_owned())),
            (
                "retention.ms",
                self.retention.map(|retention| retention.ms().to_string()),
            ),
            (
                "min.insync.replicas",
                self.min_insync_replicas.map(|replicas| replicas.to_string()),
            ),
        ];
        let planned = planned
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)));
        settings.extend(planned);
        settings
    }

    /// How many partitions and replicas, in words.
    pub fn size(&self) -> String {
        let partitions = count(self.partitions, "partition");
        match self.replication {
            CLUSTERS_REPLICATION => format!("{partitions} and the cluster's number of replicas"),
            replicas => format!("{partitions} and {}", count(replicas, "replica")),
        }
    }

    /// How long records are kept, in words.
    pub fn kept(&self) -> String {
        match (self.cleanup, self.retention) {
            (Some(Cleanup::Compact), _) => "the last of each key".to_owned(),
            (_, Some(retention)) => retention.to_string(),
            (_, None) => "the cluster's default".to_owned(),
        }
    }
}

// === impl Cleanup ===

impl Cleanup {
    /// As Kafka's `cleanup.policy` has it.
    pub fn name(self) -> &'static str {
        match self {
            Cleanup::Delete => "delete",
            Cleanup::Compact => "compact",
        }
    }
}

impl fmt::Display for Cleanup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// So many of a thing, in words.
pub fn count(number: i32, thing: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{end}")
}

/// Kafka's rule for the names of topics.
pub fn is_name(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}
