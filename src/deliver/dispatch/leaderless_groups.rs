//! The key groups whose records may be for partitions without a leader.
//!
//! Those partitions are known by name, for Kafka tells of them; records are told apart by group. Hundreds of partitions may
//! have lost their leaders, and thousands of groups be asked about every few milliseconds: so they are worked out once.

use super::key_groups::{Set, groups_of};
use crate::deliver::leaderless_partitions::LeaderlessPartitions;

#[derive(Debug, Default)]
pub struct LeaderlessGroups {
    groups: Set,
    /// Of the partitions that they were worked out of.
    version: u64,
}

// === impl LeaderlessGroups ===

impl LeaderlessGroups {
    /// Those of these partitions; worked out again when they have changed.
    pub fn of(&mut self, partitions: &LeaderlessPartitions) -> &Set {
        let version = partitions.version();
        if self.version != version {
            self.version = version;
            let all = partitions.all();
            let groups = all
                .iter()
                .flat_map(|one| groups_of(&one.topic, one.partition, one.partitions));
            self.groups = groups.collect();
        }
        &self.groups
    }
}
