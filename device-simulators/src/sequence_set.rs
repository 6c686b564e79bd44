//! A set of sequence numbers in bounded memory, however many there are.
//!
//! A device counts 1, 2, 3 …, so numbers are kept in chunks of 1024: a chunk that is complete costs nothing beside its
//! neighbours (a million acknowledged readings are one piece of 24 bytes), one with holes costs a bitmap of 128 bytes.
//!
//! ```text
//! limits    chunks with holes: 512 (88 KiB in all; 524 288 numbers at least, any number where few are missing)
//! beyond    the oldest is forgotten: its numbers stay counted, but are not compared any more (see `floor`)
//! ```

use std::cmp::max;

/// Numbers in a chunk.
const CHUNK: u64 = 1024;

const WORDS: usize = CHUNK as usize / 64;

/// Chunks with holes that are kept.
const PARTS_MAX: usize = 512;

/// One bit for each number of a chunk.
type Bits = [u64; WORDS];

const ALL: Bits = [u64::MAX; WORDS];

/// A set of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SequenceSet {
    /// Sorted and disjoint.
    pieces: Vec<Piece>,
    /// How many of them have holes.
    parts: usize,
    /// Numbers in the pieces.
    kept: u64,
    /// What is below it is forgotten; a multiple of [`CHUNK`].
    floor: u64,
    forgotten: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// Complete chunks, by number.
    Full {
        first: u64,
        last: u64,
    },
    Part {
        chunk: u64,
        bits: Box<Bits>,
    },
}

// === impl SequenceSet ===

impl SequenceSet {
    /// Adds `value`; whether it was new. What is below the [floor](SequenceSet::floor) counts as known.
    pub fn insert(&mut self, value: u64) -> bool {
        if value < self.floor {
            return false;
        }
        let (chunk, word, bit) = (value / CHUNK, (value % CHUNK / 64) as usize, 1 << (value % 64));
        let at = self.pieces.partition_point(|piece| piece.last() < chunk);
        match self.pieces.get_mut(at) {
            Some(Piece::Full { first, .. }) if *first <= chunk => return false,
            Some(Piece::Part { chunk: number, bits }) if *number == chunk => {
                if bits[word] & bit != 0 {
                    return false;
                }
                bits[word] |= bit;
                self.kept += 1;
                if **bits == ALL {
                    self.fill(at, chunk);
                }
            }
            _ => {
                let mut bits = Box::new([0; WORDS]);
                bits[word] = bit;
                self.pieces.insert(at, Piece::Part { chunk, bits });
                self.kept += 1;
                self.parts += 1;
                self.forget();
            }
        }
        true
    }

    pub fn contains(&self, value: u64) -> bool {
        let word = (value % CHUNK / 64) as usize;
        self.bits(value / CHUNK)[word] & (1 << (value % 64)) != 0
    }

    /// How many numbers were added; those that are forgotten as well.
    pub fn count(&self) -> u64 {
        self.kept + self.forgotten
    }

    /// Which numbers are not known any more: all below this one. 0 unless an uncommon lot of them has holes.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub fn largest(&self) -> Option<u64> {
        let piece = self.pieces.last()?;
        let bits = piece.bits();
        let word = bits.iter().rposition(|word| *word != 0)?;
        let bit = 63 - u64::from(bits[word].leading_zeros());
        Some(piece.last() * CHUNK + 64 * word as u64 + bit)
    }

    /// The runs of consecutive numbers, `(first, last)`, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut pieces = self.pieces.iter().flat_map(Piece::runs).peekable();
        std::iter::from_fn(move || {
            let (first, mut last) = pieces.next()?;
            while let Some((_, further)) = pieces.next_if(|(first, _)| last.checked_add(1) == Some(*first)) {
                last = further;
            }
            Some((first, last))
        })
    }

    /// What both hold, of what neither has forgotten.
    pub fn intersection(&self, other: &SequenceSet) -> SequenceSet {
        self.combined(other, |mine, theirs| mine & theirs)
    }

    /// What only this one holds, of what neither has forgotten.
    pub fn difference(&self, other: &SequenceSet) -> SequenceSet {
        self.combined(other, |mine, theirs| mine & !theirs)
    }

    /// The numbers from `floor` on, which is a multiple of the chunk: see [`SequenceSet::floor`].
    pub fn count_from(&self, floor: u64) -> u64 {
        let floored = SequenceSet {
            floor,
            ..SequenceSet::default()
        };
        self.difference(&floored).count()
    }

    /// What it occupies beyond itself, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.pieces.capacity() * size_of::<Piece>() + self.parts * size_of::<Bits>()
    }

    fn bits(&self, chunk: u64) -> Bits {
        let at = self.pieces.partition_point(|piece| piece.last() < chunk);
        match self.pieces.get(at) {
            Some(piece) if piece.first() <= chunk => piece.bits(),
            _ => [0; WORDS],
        }
    }

    fn combined(&self, other: &SequenceSet, keep: impl Fn(u64, u64) -> u64) -> SequenceSet {
        let floor = max(self.floor, other.floor);
        let mut result = SequenceSet {
            floor,
            ..SequenceSet::default()
        };
        for piece in &self.pieces {
            for chunk in max(piece.first(), floor / CHUNK)..=piece.last() {
                let mut bits = piece.bits();
                for (mine, theirs) in bits.iter_mut().zip(other.bits(chunk)) {
                    *mine = keep(*mine, theirs);
                }
                result.push(chunk, bits);
            }
        }
        result
    }

    /// Adds a chunk behind all others.
    fn push(&mut self, chunk: u64, bits: Bits) {
        if bits == [0; WORDS] {
            return;
        }
        self.kept += ones(&bits);
        self.parts += 1;
        let bits = Box::new(bits);
        let is_full = *bits == ALL;
        self.pieces.push(Piece::Part { chunk, bits });
        if is_full {
            self.fill(self.pieces.len() - 1, chunk);
        }
    }

    /// The part at `at` has no holes left: it grows together with its neighbours.
    fn fill(&mut self, at: usize, chunk: u64) {
        let (mut from, mut to) = (at, at);
        let (mut first, mut last) = (chunk, chunk);
        if let Some(Piece::Full { first: f, last: l }) = at.checked_sub(1).and_then(|before| self.pieces.get(before))
            && l + 1 == chunk
        {
            (first, from) = (*f, at - 1);
        }
        if let Some(Piece::Full { first: f, last: l }) = self.pieces.get(at + 1)
            && chunk + 1 == *f
        {
            (last, to) = (*l, at + 1);
        }
        self.pieces.splice(from..=to, [Piece::Full { first, last }]);
        self.parts -= 1;
    }

    /// Gives the oldest up once there are too many parts.
    fn forget(&mut self) {
        while self.parts > PARTS_MAX {
            let piece = self.pieces.remove(0);
            let numbers = piece.count();
            self.kept -= numbers;
            self.forgotten += numbers;
            self.floor = (piece.last() + 1).saturating_mul(CHUNK);
            if matches!(piece, Piece::Part { .. }) {
                self.parts -= 1;
            }
        }
    }
}

impl FromIterator<u64> for SequenceSet {
    fn from_iter<I: IntoIterator<Item = u64>>(values: I) -> Self {
        let mut runs = SequenceSet::default();
        for value in values {
            runs.insert(value);
        }
        runs
    }
}

// === impl Piece ===

impl Piece {
    fn first(&self) -> u64 {
        match self {
            Piece::Full { first, .. } => *first,
            Piece::Part { chunk, .. } => *chunk,
        }
    }

    fn last(&self) -> u64 {
        match self {
            Piece::Full { last, .. } => *last,
            Piece::Part { chunk, .. } => *chunk,
        }
    }

    /// Of each of its chunks.
    fn bits(&self) -> Bits {
        match self {
            Piece::Full { .. } => ALL,
            Piece::Part { bits, .. } => **bits,
        }
    }

    fn count(&self) -> u64 {
        (self.last() - self.first() + 1) * ones(&self.bits())
    }

    fn runs(&self) -> Vec<(u64, u64)> {
        let base = self.first() * CHUNK;
        let Piece::Part { bits, .. } = self else {
            return vec![(base, self.last() * CHUNK + (CHUNK - 1))];
        };
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let is_in = |offset: &u64| bits[(offset / 64) as usize] & (1 << (offset % 64)) != 0;
        for value in (0..CHUNK).filter(is_in).map(|offset| base + offset) {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == value => *last = value,
                _ => runs.push((value, value)),
            }
        }
        runs
    }
}

fn ones(bits: &Bits) -> u64 {
    bits.iter().map(|word| u64::from(word.count_ones())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use std::collections::BTreeSet;

    #[test]
    fn neighbours_grow_together() {
        let check = |values: &[u64], expected: &[(u64, u64)]| {
            let runs: SequenceSet = values.iter().copied().collect();
            assert_eq!(runs.iter().collect::<Vec<_>>(), expected, "{values:?}");
        };
        check(&[], &[]);
        check(&[1, 2, 3], &[(1, 3)]);
        check(&[3, 2, 1], &[(1, 3)]);
        check(&[1, 3], &[(1, 1), (3, 3)]);
        check(&[1, 3, 2], &[(1, 3)]);
        check(&[5, 5, 5], &[(5, 5)]);
        check(&[0, u64::MAX], &[(0, 0), (u64::MAX, u64::MAX)]);
        check(&[10, 20, 15, 11, 19], &[(10, 11), (15, 15), (19, 20)]);
        check(&[1023, 1024], &[(1023, 1024)]);
    }

    #[test]
    fn complete_chunks_cost_nothing() {
        for backwards in [false, true] {
            let values = (5000..1_000_000).map(|value| if backwards { 1_004_999 - value } else { value });
            let runs: SequenceSet = values.collect();
            assert_eq!(runs.iter().collect::<Vec<_>>(), [(5000, 999_999)]);
            assert_eq!((runs.count(), runs.floor()), (995_000, 0));
            assert!(runs.heap_bytes() < 500, "{} bytes", runs.heap_bytes());
        }
    }

    #[test]
    fn runs_are_a_set() {
        let seed = rand::random::<u64>();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..300 {
            // Few numbers far apart, or many, over a boundary of chunks.
            let (numbers, range) = [(40, 1000..1060), (4000, 900..4000)][rng.random_range(0..2)].clone();
            let mut draw = || -> (SequenceSet, BTreeSet<u64>) {
                let mut both = (SequenceSet::default(), BTreeSet::new());
                for _ in 0..rng.random_range(0..numbers) {
                    let value = rng.random_range(range.clone());
                    assert_eq!(both.0.insert(value), both.1.insert(value));
                }
                both
            };
            let ((mine, my_set), (theirs, their_set)) = (draw(), draw());
            let listed = |runs: &SequenceSet| runs.iter().flat_map(|(first, last)| first..=last).collect::<Vec<_>>();
            assert_eq!(listed(&mine), my_set.iter().copied().collect::<Vec<_>>());
            assert_eq!(mine.count(), my_set.len() as u64);
            assert_eq!(mine.largest(), my_set.last().copied());
            assert!(
                range
                    .clone()
                    .all(|value| mine.contains(value) == my_set.contains(&value))
            );
            let both: Vec<u64> = my_set.intersection(&their_set).copied().collect();
            assert_eq!(listed(&mine.intersection(&theirs)), both);
            let only: Vec<u64> = my_set.difference(&their_set).copied().collect();
            assert_eq!(listed(&mine.difference(&theirs)), only);
            assert_eq!(mine.difference(&theirs).count(), only.len() as u64);
        }
    }

    #[test]
    fn beyond_the_limit_the_oldest_are_counted_and_not_compared() {
        let every_other: SequenceSet = (0..1_000_000).map(|value| 2 * value).collect();
        assert_eq!(every_other.count(), 1_000_000);
        assert!(every_other.heap_bytes() <= 88 * 1024, "{}", every_other.heap_bytes());
        let floor = every_other.floor();
        assert!(floor > 0 && !every_other.contains(floor - 2) && every_other.contains(floor));
        let nothing = SequenceSet::default();
        let kept = (2_000_000 - floor) / 2;
        assert_eq!(every_other.difference(&nothing).count(), kept);
        assert_eq!(every_other.count_from(floor), kept);
        assert_eq!(every_other.count_from(floor + CHUNK), kept - CHUNK / 2);
        assert_eq!(nothing.difference(&every_other).count(), 0);
    }
}
