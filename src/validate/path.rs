//! Where in a reading something is: `lanes[2].speed_kmh`, `classes["bus.x"]`.
//!
//! In refusals, for people, and in `quality`, for programs. Paths grow from their end, as records and arrays are left; the end is
//! also what tells most, so a long one loses its beginning: no path has more than [`CHARS_MAX`] characters.

/// Characters of a path.
pub const CHARS_MAX: usize = 160;

/// A path, or the end of one.
#[derive(Debug, Default)]
pub struct Path(String);

/// One step of it: where in a record, map or array something is.
#[derive(Clone, Copy, Debug)]
pub enum Place<'s> {
    /// A field, or a key as the device sent it.
    Field(&'s str),
    /// A key that is escaped already.
    Shown(&'s str),
    Item(usize),
}

// === impl Path ===

impl Path {
    /// The step before all others.
    pub fn prepend(&mut self, place: Place<'_>) {
        let Path(text) = self;
        if !text.is_empty() && !text.starts_with('[') {
            text.insert(0, '.');
        }
        match place {
            Place::Field(name) if !is_plain(name) => {
                let name = serde_json::Value::from(name);
                text.insert_str(0, &format!("[{name}]"));
            }
            Place::Shown(name) if !is_plain(name) => text.insert_str(0, &format!("[\"{name}\"]")),
            Place::Field(name) | Place::Shown(name) => text.insert_str(0, name),
            Place::Item(index) => text.insert_str(0, &format!("[{index}]")),
        }
        let excess = text.chars().count().saturating_sub(CHARS_MAX);
        if excess > 0 {
            let end = text.chars().skip(excess + 1);
            *text = std::iter::once('…').chain(end).collect();
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a name is taken for one step. Any other, such as the key `bus.x` of a map, is in brackets and quotation marks.
fn is_plain(name: &str) -> bool {
    let is_plain = |letter: char| !".[]\"\\".contains(letter) && !letter.is_whitespace() && !letter.is_control();
    !name.is_empty() && name.chars().all(is_plain)
}
