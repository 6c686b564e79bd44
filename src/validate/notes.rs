//! What the gateway nulls in a reading: sentinels, and values out of a range that says so.
//!
//! Every such number is counted by its place in the schema; the first [`NOTES_MAX`] also get their path in the reading, for its
//! `quality` field. While a reading is written, a note knows only where in the output its null lies: the path grows from the
//! inside as records and arrays are closed, so that nothing is done for readings without notes.

use super::field::NodeId;
use super::path::{Path, Place};

/// Notes of a reading that get a path.
pub const NOTES_MAX: usize = 32;

/// Why there is a null.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Flag {
    Sentinel,
    OutOfRange,
}

/// A number that became null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nulled {
    pub node: NodeId,
    pub flag: Flag,
}

/// All of one reading. Memory is reused.
#[derive(Debug, Default)]
pub struct Notes {
    nulled: Vec<Nulled>,
    /// Of the first of them; strings of earlier readings lie behind.
    places: Vec<Located>,
}

/// Where a null is, as far as that is known.
#[derive(Debug, Default)]
struct Located {
    /// Where in the output it, or what is around it, begins.
    at: usize,
    path: Path,
    /// Whether it counts as a value: each record around it lists the field that it lies in.
    counts: bool,
}

// === impl Notes ===

impl Notes {
    pub fn clear(&mut self) {
        self.nulled.clear();
    }

    /// How many there are so far.
    #[inline]
    pub fn count(&self) -> usize {
        self.nulled.len()
    }

    pub fn nulled(&self) -> &[Nulled] {
        &self.nulled
    }

    /// A null was written at `at` for what was sent as `node`.
    #[cold]
    pub fn add(&mut self, node: NodeId, flag: Flag, at: usize) {
        let index = self.nulled.len();
        self.nulled.push(Nulled { node, flag });
        if index >= NOTES_MAX {
            return;
        }
        if index == self.places.len() {
            self.places.push(Located::default());
        }
        let located = &mut self.places[index];
        located.at = at;
        located.counts = true;
        located.path.clear();
    }

    /// Those since there were `first` are inside what begins at `at`: `place` names where, by where each was, and whether that
    /// counts. Gives whether one of them counts still.
    #[cold]
    pub fn locate<'s>(&mut self, first: usize, at: usize, mut place: impl FnMut(usize) -> (Place<'s>, bool)) -> bool {
        let last = self.nulled.len().min(NOTES_MAX);
        let mut any_counts = false;
        for located in self.places.get_mut(first..last).unwrap_or_default() {
            let (place, counts) = place(located.at);
            located.path.prepend(place);
            located.at = at;
            located.counts &= counts;
            any_counts |= located.counts;
        }
        any_counts
    }

    /// The paths, each with its flag.
    pub fn paths(&self) -> impl Iterator<Item = (&str, Flag)> {
        let places = self.places.iter().zip(&self.nulled);
        places.map(|(located, nulled)| (located.path.as_str(), nulled.flag))
    }
}
