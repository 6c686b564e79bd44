//! What the gateway nulls in a reading: sentinels, and values out of a range that says so.
//!
//! Every such number is counted by its place in the schema; the first [`NOTES_MAX`] also get their path in the reading, for its
//! `quality` field. While a reading is written, a note knows only where in the output its null lies: the path grows from the
//! inside as records and arrays are closed, so that nothing is done for readings without notes.

use super::field::NodeId;
use super::got::{self, PATH_CHARS_MAX};

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
    paths: Vec<Path>,
}

#[derive(Debug, Default)]
struct Path {
    /// Where in the output the null, or what is around it, begins.
    at: usize,
    text: String,
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
        if index == self.paths.len() {
            self.paths.push(Path::default());
        }
        let path = &mut self.paths[index];
        path.at = at;
        path.counts = true;
        path.text.clear();
    }

    /// Those since there were `first` are inside what begins at `at`: `place` names where, by where each was, and whether that
    /// counts. Gives whether one of them counts still.
    #[cold]
    pub fn locate<'s>(&mut self, first: usize, at: usize, mut place: impl FnMut(usize) -> (Place<'s>, bool)) -> bool {
        let last = self.nulled.len().min(NOTES_MAX);
        let mut any_counts = false;
        for path in self.paths.get_mut(first..last).unwrap_or_default() {
            let (place, counts) = place(path.at);
            path.prepend(place);
            path.at = at;
            path.counts &= counts;
            any_counts |= path.counts;
        }
        any_counts
    }

    /// The paths, each with its flag.
    pub fn paths(&self) -> impl Iterator<Item = (&str, Flag)> {
        let paths = self.paths.iter().zip(&self.nulled);
        paths.map(|(path, nulled)| (path.text.as_str(), nulled.flag))
    }
}

/// Where in a record, map or array something is.
#[derive(Clone, Copy, Debug)]
pub enum Place<'s> {
    Field(&'s str),
    Item(usize),
}

// === impl Path ===

impl Path {
    /// The path's end is what tells most, so a long one loses its beginning.
    fn prepend(&mut self, place: Place<'_>) {
        if !self.text.is_empty() && !self.text.starts_with('[') {
            self.text.insert(0, '.');
        }
        match place {
            Place::Field(name) if !got::is_plain(name) => {
                let name = serde_json::Value::from(name);
                self.text.insert_str(0, &format!("[{name}]"));
            }
            Place::Field(name) => self.text.insert_str(0, name),
            Place::Item(index) => self.text.insert_str(0, &format!("[{index}]")),
        }
        let excess = self.text.chars().count().saturating_sub(PATH_CHARS_MAX);
        if excess > 0 {
            let end = self.text.chars().skip(excess + 1);
            self.text = std::iter::once('…').chain(end).collect();
        }
    }
}
