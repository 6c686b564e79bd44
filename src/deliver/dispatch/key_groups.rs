//! Who must wait whose turn: the order of a device's records across Kafka, spool and replay.
//!
//! A group is a hash of topic and device. A new record of a group may go straight to Kafka unless an earlier one of it still
//! waits to be given to the producer: in the spool, on its way there, or retained in memory. Once it was given one, the producer keeps
//! the order, so nothing here waits for confirmations.
//!
//! A group's records are all for one partition (of most topics: see [`OF_TOPIC`]), so that a partition that stalls keeps
//! only its own devices waiting.

use std::collections::HashSet;

use crate::message::Record;

/// Groups of a topic. The producer puts a device onto partition `murmur2(device) % partitions`: what divides this number
/// (1 to 10, 12, 14, 15, 16, 18, 20, 24, 30, 32, 36, 48, 60, 96 …) makes each group one of a single partition. With others a
/// group has devices of several, which wait for each other.
const OF_TOPIC: usize = 10_080;

/// Topics that have groups of their own; two with the same hash share theirs.
const TOPICS: usize = 64;

/// All records of a device on a topic share a group, few devices share one with others. Most are never used, and their
/// counters take no memory.
const KEY_GROUPS: usize = TOPICS * OF_TOPIC;

/// The group of a record.
pub fn key_group(record: &Record<'_>) -> usize {
    group_of(record.topic, record.key)
}

fn group_of(topic: &str, device: &str) -> usize {
    murmur2(topic.as_bytes()) as usize % TOPICS * OF_TOPIC + positive(murmur2(device.as_bytes())) % OF_TOPIC
}

/// Key groups, a bit for each.
#[derive(Clone, Debug, Default)]
pub struct Set(Vec<u64>);

/// The groups whose records may be for this one of so many partitions of the topic. A record without a key may be for any.
pub fn groups_of(topic: &str, partition: usize, partitions: usize) -> impl Iterator<Item = usize> {
    let alike = greatest_common_divisor(partitions, OF_TOPIC);
    let of_topic = murmur2(topic.as_bytes()) as usize % TOPICS * OF_TOPIC;
    let with_keys = (partition % alike..OF_TOPIC).step_by(alike);
    with_keys
        .map(move |group| of_topic + group)
        .chain([group_of(topic, "")])
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// As Kafka's clients make a hash an index.
fn positive(hash: u32) -> usize {
    (hash & 0x7fff_ffff) as usize
}

/// Kafka's hash of keys, as its Java client and librdkafka's `murmur2_random` have it.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mixed = u32::from_le_bytes(*word).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ (mixed ^ mixed >> 24).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let word = rest.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = (hash ^ word).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

/// How many records wait for the producer, by group.
#[derive(Debug)]
pub struct KeyGroups {
    waiting: Vec<u32>,
    /// With the producer, and not in the spool as well.
    in_producer: Vec<u32>,
    /// Of those that wait, the ones in the spool or on their way to it; the others are retained in memory, or deferred.
    spooled: Vec<u32>,
    /// Their sum over the groups that the replay does not pass over.
    behind: u64,
    /// The groups that it does pass over, and their sum over these.
    passed_over: HashSet<usize>,
    passed_over_entries: u64,
    /// Entries of earlier runs (sequences below `first_sequence`), whose key groups nobody knows: while there are any, all wait.
    recovered: u64,
    first_sequence: u64,
}

// === impl Set ===

impl Set {
    pub fn contains(&self, group: usize) -> bool {
        self.0.get(group / 64).is_some_and(|word| word >> (group % 64) & 1 == 1)
    }
}

impl FromIterator<usize> for Set {
    fn from_iter<T: IntoIterator<Item = usize>>(groups: T) -> Self {
        let mut words = vec![0; KEY_GROUPS.div_ceil(64)];
        groups
            .into_iter()
            .for_each(|group| words[group / 64] |= 1 << (group % 64));
        Set(words)
    }
}

// === impl KeyGroups ===

impl KeyGroups {
    /// `recovered` entries below `first_sequence` wait in the spool from earlier runs.
    pub fn new(recovered: u64, first_sequence: u64) -> Self {
        KeyGroups {
            waiting: vec![0; KEY_GROUPS],
            in_producer: vec![0; KEY_GROUPS],
            spooled: vec![0; KEY_GROUPS],
            behind: 0,
            passed_over: HashSet::new(),
            passed_over_entries: 0,
            recovered,
            first_sequence,
        }
    }

    /// Whether a new record of this group must not overtake another one.
    pub fn waits(&self, group: usize) -> bool {
        self.recovered > 0 || self.has_waiting(group)
    }

    /// Records in the spool, or on their way to it, that the producer was not given yet and that the replay will come to.
    pub fn behind(&self) -> u64 {
        self.behind + self.recovered
    }

    /// Whether any of this group wait, not counting those of earlier runs whose groups nobody knows.
    pub fn has_waiting(&self, group: usize) -> bool {
        self.waiting[group] > 0
    }

    /// The producer holds a record that the spool does not have.
    pub fn in_producer(&mut self, group: usize) {
        self.in_producer[group] += 1;
    }

    pub fn out_of_producer(&mut self, group: usize) {
        self.in_producer[group] = self.in_producer[group].saturating_sub(1);
    }

    pub fn has_in_producer(&self, group: usize) -> bool {
        self.in_producer[group] > 0
    }

    /// Records that the producer holds and the spool does not have.
    pub fn in_producer_of(&self, group: usize) -> usize {
        self.in_producer[group] as usize
    }

    /// A record is retained in memory.
    pub fn retained(&mut self, group: usize) {
        self.waiting[group] += 1;
    }

    pub fn released(&mut self, group: usize) {
        self.waiting[group] = self.waiting[group].saturating_sub(1);
    }

    /// A record of the spool, or on its way there, is not (or no longer) with the producer.
    pub fn spooled(&mut self, group: usize) {
        self.waiting[group] += 1;
        self.spooled_again(group, 1);
    }

    /// The opposite: the producer has it, or the spool does not.
    pub fn unspooled(&mut self, group: usize) {
        self.released(group);
        self.not_spooled(group);
    }

    /// So many that wait are spooled as all others are.
    pub fn spooled_again(&mut self, group: usize, count: u32) {
        self.spooled[group] += count;
        match self.is_passed_over(group) {
            true => self.passed_over_entries += u64::from(count),
            false => self.behind += u64::from(count),
        }
    }

    /// An entry waits, but nobody behind it except its own group.
    pub fn not_spooled(&mut self, group: usize) {
        if self.spooled[group] == 0 {
            return;
        }
        self.spooled[group] -= 1;
        match self.is_passed_over(group) {
            true => self.passed_over_entries = self.passed_over_entries.saturating_sub(1),
            false => self.behind = self.behind.saturating_sub(1),
        }
    }

    pub fn is_passed_over(&self, group: usize) -> bool {
        !self.passed_over.is_empty() && self.passed_over.contains(&group)
    }

    pub fn is_any_passed_over(&self) -> bool {
        !self.passed_over.is_empty()
    }

    /// Entries of groups that are passed over.
    pub fn passed_over(&self) -> u64 {
        debug_assert_eq!(self.passed_over_entries, self.count_passed_over());
        self.passed_over_entries
    }

    fn count_passed_over(&self) -> u64 {
        let groups = self.passed_over.iter();
        groups.map(|group| u64::from(self.spooled[*group])).sum()
    }

    /// The replay passes over this group from now on; nobody waits for its entries but itself.
    pub fn pass_over(&mut self, group: usize) {
        if self.passed_over.insert(group) {
            let entries = u64::from(self.spooled[group]);
            self.behind = self.behind.saturating_sub(entries);
            self.passed_over_entries += entries;
        }
    }

    /// It does not any more.
    pub fn pass_over_no_more(&mut self, group: usize) {
        if self.passed_over.remove(&group) {
            let entries = u64::from(self.spooled[group]);
            self.behind += entries;
            self.passed_over_entries = self.passed_over_entries.saturating_sub(entries);
        }
    }

    /// The producer was given this entry of the spool.
    pub fn enqueued(&mut self, sequence: u64, group: Option<usize>) {
        match group {
            _ if sequence < self.first_sequence => self.recovered = self.recovered.saturating_sub(1),
            Some(group) => self.unspooled(group),
            None => {}
        }
    }

    /// Whether the entry is of an earlier run.
    pub fn is_recovered(&self, sequence: u64) -> bool {
        sequence < self.first_sequence
    }

    /// An entry of an earlier run turned out to be of this group, and is not waited for by others.
    pub fn identified(&mut self, group: usize) {
        self.recovered = self.recovered.saturating_sub(1);
        self.retained(group);
    }

    /// The opposite: that so many are of this group is forgotten.
    pub fn unidentified(&mut self, group: usize, count: u32) {
        self.recovered += u64::from(count);
        self.waiting[group] = self.waiting[group].saturating_sub(count);
    }

    /// The producer gave it back.
    pub fn given_back(&mut self, sequence: u64, group: usize) {
        if sequence < self.first_sequence {
            self.recovered += 1;
        } else {
            self.spooled(group);
        }
    }

    /// The spool has nothing more to replay, and no group is passed over. Entries that its disk lost would be waited for for
    /// ever otherwise.
    pub fn nothing_spooled(&mut self, retained: impl Iterator<Item = usize>) {
        if self.behind() == 0 || self.is_any_passed_over() {
            return;
        }
        (self.behind, self.recovered) = (0, 0);
        // Reading what was never used takes no memory, as writing would.
        for count in self.waiting.iter_mut().chain(&mut self.spooled) {
            if *count > 0 {
                *count = 0;
            }
        }
        retained.for_each(|group| self.retained(group));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_groups_that_are_passed_over_are_counted() {
        let mut groups = KeyGroups::new(1, 1);
        let check = |groups: &KeyGroups, behind, passed_over| {
            let counts = (groups.behind(), groups.passed_over(), groups.count_passed_over());
            assert_eq!(counts, (behind, passed_over, passed_over));
        };
        groups.spooled(1);
        groups.spooled(2);
        check(&groups, 3, 0);
        groups.pass_over(2);
        groups.pass_over(2);
        check(&groups, 2, 1);
        groups.spooled(2);
        groups.spooled_again(2, 3);
        check(&groups, 2, 5);
        groups.unspooled(2);
        groups.unspooled(1);
        groups.unspooled(1);
        check(&groups, 1, 4);
        // Those of the others are not there, but nobody says of which groups they are.
        groups.nothing_spooled(std::iter::empty());
        assert!(groups.has_waiting(2));
        check(&groups, 1, 4);
        groups.pass_over_no_more(2);
        check(&groups, 5, 0);
        groups.nothing_spooled(std::iter::once(7));
        assert!(!groups.has_waiting(2) && groups.has_waiting(7));
        check(&groups, 0, 0);
    }

    /// Values of Kafka's own tests.
    #[test]
    fn murmur2_is_kafkas() {
        for (key, expected) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, expected, "{key}");
        }
    }

    /// Of each partition.
    fn sets(topic: &str, partitions: usize) -> Vec<Set> {
        let set = |partition| groups_of(topic, partition, partitions).collect();
        (0..partitions).map(set).collect()
    }

    #[test]
    fn a_group_is_of_one_partition_of_most_topics() {
        for (partitions, alone) in [(1, true), (3, true), (12, true), (96, true), (100, false)] {
            let (own_topic, other_topic) = (sets("city.weather", partitions), sets("city.traffic", partitions));
            let devices = (0..1_000).map(|number| format!("device-{number}"));
            // Not those that share their group with records without a key.
            let is_alone = |device: &String| group_of("", device) != group_of("", "");
            for device in devices.filter(is_alone) {
                let (group, own) = (
                    group_of("city.weather", &device),
                    positive(murmur2(device.as_bytes())) % partitions,
                );
                let of = |sets: &[Set]| -> Vec<usize> {
                    let may_be_of = |partition: &usize| sets[*partition].contains(group);
                    (0..partitions).filter(may_be_of).collect()
                };
                let partitions_of_it = of(&own_topic);
                assert!(partitions_of_it.contains(&own), "{device}");
                assert_eq!(partitions_of_it == [own], alone, "{device} of {partitions}");
                assert!(of(&other_topic).is_empty());
            }
        }
    }

    #[test]
    fn a_record_without_a_key_may_be_for_any_partition() {
        let sets = sets("city.dead-letter", 3);
        assert!(sets.iter().all(|set| set.contains(group_of("city.dead-letter", ""))));
    }
}
