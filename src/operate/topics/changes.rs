//! What makes a cluster's topics those of the list, and what of that is done only if it was asked for.
//!
//! Pure: from a comparison to changes in order, and to what is left as it is, each with its reason. No topic is made smaller or
//! moved; partitions are added and topics deleted only if that is allowed.

use std::collections::BTreeMap;

use crate::topics::{Cleanup, Comparison, Difference, Topic};

/// What whoever calls it has allowed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowed {
    pub add_partitions: bool,
    pub delete_unlisted: bool,
    /// Deletions were confirmed.
    pub yes: bool,
}

/// One change to one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Create(Box<Topic>),
    AddPartitions {
        topic: Box<Topic>,
        found: i32,
    },
    Set {
        topic: String,
        settings: BTreeMap<String, String>,
    },
    Delete {
        topic: String,
    },
}

/// What is left as it is, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub topic: String,
    pub why: String,
}

/// The changes that are allowed, in the order in which they are made, and the rest.
pub(super) fn changes(comparison: &Comparison, allowed: Allowed) -> (Vec<Change>, Vec<Left>) {
    let (mut changes, mut left) = (Vec::new(), Vec::new());
    for compared in &comparison.topics {
        let topic = &compared.topic;
        let mut settings = BTreeMap::new();
        let replicas = compared.differences.iter().find_map(Difference::replicas);
        for difference in &compared.differences {
            match difference {
                Difference::Missing { .. } => changes.push(Change::Create(Box::new(topic.clone()))),
                Difference::TooFewPartitions { found, .. } if allowed.add_partitions => {
                    let topic = Box::new(topic.clone());
                    changes.push(Change::AddPartitions { topic, found: *found });
                }
                Difference::Setting { key, listed, .. } if asks_for_more(key, listed, replicas) => left.push(Left {
                    topic: topic.name.clone(),
                    why: format!("stays without {key}={listed}: with fewer replicas Kafka would accept no record"),
                }),
                Difference::Setting { key, listed, .. } => drop(settings.insert(key.clone(), listed.clone())),
                other => left.push(Left {
                    topic: topic.name.clone(),
                    why: why_left(other),
                }),
            }
        }
        if !settings.is_empty() {
            let topic = topic.name.clone();
            changes.push(Change::Set { topic, settings });
        }
    }
    let unlisted = comparison.unlisted.iter().filter(|_| allowed.delete_unlisted).cloned();
    for topic in unlisted {
        match allowed.yes {
            true => changes.push(Change::Delete { topic }),
            false => left.push(Left {
                topic,
                why: "is not listed, and would be deleted with its records: say --yes as well".to_owned(),
            }),
        }
    }
    (changes, left)
}

/// Whether a setting asks for more replicas in sync than the topic has.
fn asks_for_more(key: &str, listed: &str, replicas: Option<i32>) -> bool {
    let least = listed.parse::<i32>().ok();
    key == "min.insync.replicas" && least.zip(replicas).is_some_and(|(least, replicas)| least > replicas)
}

fn why_left(difference: &Difference) -> String {
    match difference {
        Difference::TooFewPartitions { .. } => {
            format!("{difference}: add them with --add-partitions, whose help says what that means for keys")
        }
        _ => difference.to_string(),
    }
}

// === impl Change ===

impl Change {
    pub(super) fn topic(&self) -> &str {
        match self {
            Change::Create(topic) | Change::AddPartitions { topic, .. } => &topic.name,
            Change::Set { topic, .. } | Change::Delete { topic } => topic,
        }
    }

    /// What it is, in a word.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Change::Create(_) => "created",
            Change::AddPartitions { .. } | Change::Set { .. } => "changed",
            Change::Delete { .. } => "deleted",
        }
    }

    /// How the topic is now.
    pub(super) fn text(&self) -> String {
        let all = |settings: &BTreeMap<String, String>| {
            let settings = settings.iter().map(|(key, value)| format!("{key}={value}"));
            settings.collect::<Vec<_>>().join(", ")
        };
        match self {
            Change::Create(topic) => {
                let settings = all(&topic.settings());
                let end = if settings.is_empty() {
                    String::new()
                } else {
                    format!(": {settings}")
                };
                format!("{}{end}", topic.size())
            }
            Change::AddPartitions { topic, found } => format!("{} partitions instead of {found}", topic.partitions),
            Change::Set { settings, .. } => all(settings),
            Change::Delete { .. } => "with its records".to_owned(),
        }
    }

    /// What whoever reads the topic should know of it.
    pub(super) fn warning(&self) -> Option<&'static str> {
        let Change::AddPartitions { topic, .. } = self else {
            return None;
        };
        Some(match topic.cleanup {
            Some(Cleanup::Compact) => {
                "keys move to other partitions: what was written before stays in the old ones, and is no longer replaced there; \
                 write every key anew, and let readers prefer the newest record of a key"
            }
            _ => {
                "keys move to other partitions: until readers have read what was written before, they may see newer readings of a \
                 device before older ones; observed_at and sequence still tell the order"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::Found;

    const NOTHING: Allowed = Allowed {
        add_partitions: false,
        delete_unlisted: false,
        yes: false,
    };

    fn listed(name: &str, partitions: i32) -> Topic {
        let mut topic = Topic::plain(name, partitions, 3);
        topic.min_insync_replicas = Some(2);
        topic
    }

    fn found(partitions: i32, min_insync: &str) -> Found {
        Found {
            partitions,
            replication: 3,
            settings: [("min.insync.replicas".to_owned(), min_insync.to_owned())].into(),
            own: BTreeMap::new(),
        }
    }

    /// Lines `what topic: text`, those that are left last.
    fn lines(allowed: Allowed) -> Vec<String> {
        let there = [
            ("city.few", found(3, "2")),
            ("city.many", found(9, "1")),
            ("city.old", found(3, "2")),
            ("city.same", found(6, "2")),
            (
                "city.thin",
                Found {
                    replication: 1,
                    ..found(6, "1")
                },
            ),
        ];
        let there = there.map(|(name, found)| (name.to_owned(), found)).into();
        let planned = ["city.few", "city.many", "city.new", "city.same", "city.thin"]
            .map(|name| listed(name, 6))
            .into();
        let (changes, left) = changes(&Comparison::new(planned, &there, "city."), allowed);
        let changes = changes
            .iter()
            .map(|one| format!("{} {}: {}", one.what(), one.topic(), one.text()));
        let left = left.iter().map(|one| format!("left {} {}", one.topic, one.why));
        changes.chain(left).collect()
    }

    #[test]
    fn nothing_is_added_or_deleted_unless_it_is_allowed() {
        let always = [
            "changed city.many: min.insync.replicas=2",
            "created city.new: 6 partitions and 3 replicas: min.insync.replicas=2",
        ];
        let many = "left city.many has 9 partitions, and 6 in the list: Kafka removes none, so list 9";
        let thin = [
            "left city.thin has 1 replica, and 3 in the list: move them with kafka-reassign-partitions.sh",
            "left city.thin stays without min.insync.replicas=2: with fewer replicas Kafka would accept no record",
        ];
        let few = "left city.few has 3 partitions, and 6 in the list: add them with --add-partitions, whose help says what that \
                   means for keys";
        let added = "changed city.few: 6 partitions instead of 3";
        let check = |allowed: Allowed, expected: &[&str]| assert_eq!(lines(allowed), expected, "{allowed:?}");
        check(NOTHING, &[always[0], always[1], few, many, thin[0], thin[1]]);
        let add_partitions = true;
        check(
            Allowed {
                add_partitions,
                ..NOTHING
            },
            &[added, always[0], always[1], many, thin[0], thin[1]],
        );
        let delete_unlisted = true;
        let asked = "left city.old is not listed, and would be deleted with its records: say --yes as well";
        check(
            Allowed {
                delete_unlisted,
                ..NOTHING
            },
            &[always[0], always[1], few, many, thin[0], thin[1], asked],
        );
        let yes = true;
        let deleted = "deleted city.old: with its records";
        check(
            Allowed { yes, ..NOTHING },
            &[always[0], always[1], few, many, thin[0], thin[1]],
        );
        check(
            Allowed {
                delete_unlisted,
                yes,
                ..NOTHING
            },
            &[always[0], always[1], deleted, few, many, thin[0], thin[1]],
        );
    }
}
