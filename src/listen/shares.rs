//! Who gives way when more is to be remembered than there is room for: the sender that has most of it.
//!
//! A sender is a device that has proved who it is; all others are one. So an identity pushes out what is its own, and nothing of those
//! that have less. Of its own it loses what would expire first. The bound itself is its user's.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};

/// A sender by its hash: two that have the same share what they have.
type Owner = u64;

/// What senders have, each with a key `K`, and when it expires: `E`, which no two have.
#[derive(Debug)]
pub struct Shares<E, K> {
    hasher: RandomState,
    // `None` is before them all, and never there.
    items: BTreeMap<(Owner, Option<E>), (K, usize)>,
    owners: HashMap<Owner, Share<E>>,
    /// The last one gives way: who has most, of these the one whose first would expire first.
    ranking: BTreeSet<(usize, Reverse<E>, Owner)>,
}

/// What one sender has.
#[derive(Clone, Copy, Debug)]
struct Share<E> {
    size: usize,
    first: E,
}

// === impl Shares ===

impl<E, K> Default for Shares<E, K> {
    fn default() -> Self {
        Shares {
            hasher: RandomState::new(),
            items: BTreeMap::new(),
            owners: HashMap::new(),
            ranking: BTreeSet::new(),
        }
    }
}

impl<E: Ord + Copy, K> Shares<E, K> {
    /// `sender`: a device id; empty: nobody has proved who it is.
    pub fn insert(&mut self, sender: &str, expires: E, key: K, size: usize) {
        let owner = self.hasher.hash_one(sender);
        self.items.insert((owner, Some(expires)), (key, size));
        self.rank(owner, |before| before + size);
    }

    pub fn remove(&mut self, sender: &str, expires: E) {
        self.take(self.hasher.hash_one(sender), expires);
    }

    /// What gives way first, which is nobody's any more.
    pub fn pop(&mut self) -> Option<K> {
        let (_, Reverse(first), owner) = *self.ranking.last()?;
        self.take(owner, first)
    }

    fn take(&mut self, owner: Owner, expires: E) -> Option<K> {
        let (key, size) = self.items.remove(&(owner, Some(expires)))?;
        self.rank(owner, |before| before.saturating_sub(size));
        Some(key)
    }

    /// Its place, after what it has was changed.
    fn rank(&mut self, owner: Owner, size: impl FnOnce(usize) -> usize) {
        let before = self.owners.remove(&owner);
        if let Some(Share { size, first }) = before {
            self.ranking.remove(&(size, Reverse(first), owner));
        }
        let size = size(before.map_or(0, |share| share.size));
        let first = self.items.range((owner, None)..).next();
        if let Some((&(_, Some(first)), _)) = first.filter(|((found, _), _)| *found == owner) {
            self.owners.insert(owner, Share { size, first });
            self.ranking.insert((size, Reverse(first), owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_gives_way_and_of_these_what_expires_first() {
        let mut shares = Shares::default();
        for (sender, expires, size) in [("a", 5, 1), ("b", 1, 1), ("b", 9, 1), ("b", 3, 1), ("", 4, 1)] {
            shares.insert(sender, expires, format!("{sender}{expires}"), size);
        }
        let popped: Vec<_> = std::iter::from_fn(|| shares.pop()).collect();
        assert_eq!(popped, ["b1", "b3", "4", "a5", "b9"]);
        assert!(shares.items.is_empty() && shares.owners.is_empty() && shares.ranking.is_empty());
        // By size, not by number; what was removed does not count.
        shares.insert("a", 1, "a1".to_owned(), 100);
        shares.insert("b", 2, "b2".to_owned(), 60);
        shares.insert("b", 3, "b3".to_owned(), 60);
        shares.remove("b", 2);
        shares.remove("b", 7);
        assert_eq!(shares.pop().as_deref(), Some("a1"));
        assert_eq!(shares.pop().as_deref(), Some("b3"));
        assert_eq!(shares.pop(), None);
    }
}
