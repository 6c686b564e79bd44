//! Records for topics that Kafka does not have: they wait in the store, and are in nobody's way.
//!
//! New ones are appended, whatever Kafka's health. The replay passes over them: each is counted once, as *deferred*, and is
//! no longer among those that others wait behind; its group goes on waiting, for its own order. When the topic exists again
//! they are spooled records like all others, and the replay begins with the oldest. Only counts are kept, for there may be
//! millions: by topic, and by topic and group.

use std::collections::{BTreeMap, HashMap};

use super::key_groups::KeyGroups;
use super::unconfirmed::Unconfirmed;
use crate::deliver::encoded_record;

/// The topics that are missing, and what is deferred for them.
#[derive(Debug, Default)]
pub struct Deferred {
    topics: BTreeMap<String, Topic>,
    /// Of `MissingTopics`, when the topics were last compared.
    pub version: u64,
    next_generation: u64,
}

/// A topic that is missing.
#[derive(Debug)]
pub struct Topic {
    /// What devices are told without a store.
    pub words: &'static str,
    /// Tells apart the times at which a topic is missing; never 0.
    pub generation: u64,
    key_groups: HashMap<usize, Counts>,
    /// All entries that are deferred.
    entries: u64,
    /// Entries that were appended since it is missing and that the replay has not come to; the first of them.
    unread: u64,
    unread_from: Option<u64>,
}

/// What is deferred of a group.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Each uncommitted entry below this sequence is counted in `key_groups`, or with the producer: one that the replay
    /// comes to once more is not counted again.
    to: u64,
    entries: u32,
    /// How many of those are of earlier runs: they are waited for in another way ([`KeyGroups::identified`]).
    recovered: u32,
    unread: u32,
}

// === impl Deferred ===

impl Deferred {
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    pub fn get(&self, topic: &str) -> Option<&Topic> {
        self.topics.get(topic)
    }

    pub fn get_mut(&mut self, topic: &str) -> Option<&mut Topic> {
        self.topics.get_mut(topic)
    }

    /// The missing topic that a record is for: its generation, 0 for none.
    pub fn generation_of(&self, encoded: &[u8]) -> u64 {
        if self.topics.is_empty() {
            return 0;
        }
        let generation = encoded_record::decode(encoded, |record| {
            self.get(record.topic).map_or(0, |topic| topic.generation)
        });
        generation.unwrap_or(0)
    }

    /// The producer gives an entry back; whether it is for a missing topic.
    pub fn given_back(&mut self, group: usize, (sequence, encoded): (u64, &[u8]), key_groups: &mut KeyGroups) -> bool {
        let given_back = encoded_record::decode(encoded, |record| {
            let topic = self.get_mut(record.topic);
            topic.map(|topic| topic.given_back(sequence, group, key_groups))
        });
        given_back.is_ok_and(|topic| topic.is_some())
    }

    fn of_generation(&mut self, generation: u64) -> Option<&mut Topic> {
        self.topics.values_mut().find(|topic| topic.generation == generation)
    }

    /// Entries that the replay passes over; `None` while it has not come to all of them.
    pub fn entries(&self) -> Option<u64> {
        let topics = || self.topics.values();
        topics()
            .all(|topic| topic.unread == 0)
            .then(|| topics().map(|topic| topic.entries).sum())
    }

    /// What is known to be deferred, with what is still to be read.
    pub fn count(&self) -> u64 {
        self.topics.values().map(|topic| topic.entries + topic.unread).sum()
    }

    /// The key groups of deferred entries go on waiting, each as often as it has some.
    pub fn key_groups(&self) -> impl Iterator<Item = usize> {
        self.topics
            .values()
            .flat_map(|topic| &topic.key_groups)
            .flat_map(|(group, counts)| std::iter::repeat_n(*group, counts.entries as usize))
    }

    /// The store was given an entry for a missing topic.
    pub fn appended(&mut self, generation: u64, group: usize) {
        if let Some(topic) = self.of_generation(generation) {
            topic.unread += 1;
            topic.of_group(group).unread += 1;
        }
    }

    /// It is durable.
    pub fn durable(&mut self, generation: u64, sequence: u64) {
        if let Some(topic) = self.of_generation(generation) {
            topic.unread_from.get_or_insert(sequence);
        }
    }

    /// It is not. False: it counts as spooled by now, as the topic was found meanwhile.
    pub fn not_durable(&mut self, generation: u64, group: usize) -> bool {
        let topic = self.of_generation(generation);
        topic.is_some_and(|topic| {
            topic.is_read(group);
            true
        })
    }

    /// All that was deferred is below this sequence now, and of this run.
    pub fn moved(&mut self, to: u64) {
        for counts in self.topics.values_mut().flat_map(|topic| topic.key_groups.values_mut()) {
            counts.to = counts.to.max(to);
            counts.recovered = 0;
        }
    }

    /// The topics that are missing now; true if one is not any more, so that the replay must begin again.
    pub(super) fn become_these(
        &mut self,
        missing: Vec<(String, &'static str)>,
        unconfirmed: &mut Unconfirmed,
        key_groups: &mut KeyGroups,
    ) -> bool {
        let is_missing = |name: &String| missing.iter().any(|(other, _)| other == name);
        let found: Vec<String> = self.topics.keys().filter(|name| !is_missing(name)).cloned().collect();
        for name in &found {
            if let Some(topic) = self.topics.remove(name) {
                topic.leave(unconfirmed, key_groups);
            }
        }
        for (name, words) in missing {
            if !self.topics.contains_key(&name) {
                self.next_generation += 1;
                self.topics.insert(name, Topic::new(words, self.next_generation));
            }
        }
        !found.is_empty()
    }
}

// === impl Topic ===

impl Topic {
    fn new(words: &'static str, generation: u64) -> Self {
        Topic {
            words,
            generation,
            key_groups: HashMap::new(),
            entries: 0,
            unread: 0,
            unread_from: None,
        }
    }

    fn of_group(&mut self, group: usize) -> &mut Counts {
        self.key_groups.entry(group).or_default()
    }

    /// The replay has come to an entry that was appended, or the store has not written it. False: there was none.
    fn is_read(&mut self, group: usize) -> bool {
        let counts = self.key_groups.entry(group).or_default();
        let is_one = counts.unread > 0;
        if is_one {
            counts.unread -= 1;
            self.unread -= 1;
        }
        is_one
    }

    /// Whether this entry is counted as deferred.
    pub fn has_counted(&self, sequence: u64, group: usize) -> bool {
        self.key_groups.get(&group).is_some_and(|counts| sequence < counts.to)
    }

    /// The replay has come to an entry of this topic.
    pub fn passed(&mut self, sequence: u64, group: usize, key_groups: &mut KeyGroups) {
        if sequence < self.of_group(group).to {
            return;
        }
        if key_groups.is_recovered(sequence) {
            key_groups.identified(group);
            self.of_group(group).recovered += 1;
        } else if !(self.unread_from.is_some_and(|from| from <= sequence) && self.is_read(group)) {
            key_groups.not_spooled(group);
        }
        self.defer(sequence, group);
    }

    fn defer(&mut self, sequence: u64, group: usize) {
        let counts = self.of_group(group);
        counts.entries += 1;
        counts.to = counts.to.max(sequence + 1);
        self.entries += 1;
    }

    /// The producer gives an entry of this topic back.
    fn given_back(&mut self, sequence: u64, group: usize, key_groups: &mut KeyGroups) {
        key_groups.retained(group);
        self.of_group(group).recovered += u32::from(key_groups.is_recovered(sequence));
        self.defer(sequence, group);
    }

    /// The topic exists: its entries are as they would be if it had always existed.
    fn leave(self, unconfirmed: &mut Unconfirmed, key_groups: &mut KeyGroups) {
        for (group, counts) in self.key_groups {
            match key_groups.is_passed_over(group) {
                true => unconfirmed.identified(group, counts.recovered, counts.to, key_groups),
                false => key_groups.unidentified(group, counts.recovered),
            }
            key_groups.spooled_again(group, counts.entries - counts.recovered + counts.unread);
        }
    }
}
