//! A record's fields, or kinds, by name: one comparison for nearly every key, whatever the order in which a device sends them.
//!
//! A hash table that is built once per record and never grows. A search allocates nothing, and how long it can last follows
//! from the schema, not from what is sent.

/// Finds names by their hash. A schema, or its file's name, chooses the names, not a device: how long a search can last is known beforehand.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Indices, each at its name's place or behind it where that was taken.
    slots: Box<[u32]>,
    /// What of a hash is not used.
    shift: u32,
}

// === impl Lookup ===

impl Lookup {
    const NONE: u32 = u32::MAX;

    pub fn new(names: &[&[u8]]) -> Self {
        // At least half of the slots stay free, so that a search ends soon.
        let bits = (2 * names.len()).max(2).next_power_of_two().trailing_zeros();
        let mut lookup = Lookup {
            slots: vec![Lookup::NONE; 1 << bits].into(),
            shift: 64 - bits,
        };
        for (index, name) in names.iter().enumerate() {
            let mut slot = lookup.slot(name);
            while lookup.slots[slot] != Lookup::NONE {
                slot = (slot + 1) % lookup.slots.len();
            }
            lookup.slots[slot] = index as u32;
        }
        lookup
    }

    /// Where the name would be in an empty table: by its length and its first and last eight bytes.
    #[inline]
    fn slot(&self, name: &[u8]) -> usize {
        let word = |eight: &[u8; 8]| u64::from_le_bytes(*eight);
        let mixed = match (name.first_chunk(), name.last_chunk()) {
            (Some(first), Some(last)) => word(first) ^ word(last).rotate_left(29),
            _ => name.iter().fold(0, |mixed, &byte| mixed << 8 | u64::from(byte)),
        };
        let mixed = mixed.wrapping_add(name.len() as u64);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    /// The indices of what might be meant.
    #[inline]
    pub fn candidates(&self, name: &[u8]) -> impl Iterator<Item = usize> {
        let (before, after) = self.slots.split_at(self.slot(name));
        let from_slot = after.iter().chain(before);
        from_slot
            .take_while(|&&index| index != Lookup::NONE)
            .map(|&index| index as usize)
    }
}
