//! What a reading has in a place, as it is shown to its device: quoted, escaped and bounded.
//!
//! Made only where something does not fit, so it may allocate. What should be there instead is `refusal`'s to say.

use std::fmt;

/// Characters of a value or key that are quoted.
pub const QUOTED_CHARS_MAX: usize = 40;

/// What the reading has where something else should be.
#[derive(Clone, Copy, Debug)]
pub enum Got<'a> {
    /// Nothing to show: a field that is absent, or should be.
    Nothing,
    Null,
    Boolean(bool),
    /// As it came.
    Number(&'a str),
    Text(&'a str),
    Array,
    Object,
}

// === impl Got ===

impl fmt::Display for Got<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Got::Nothing => f.write_str("nothing"),
            Got::Null => f.write_str("null"),
            Got::Boolean(value) => write!(f, "{value}"),
            Got::Number(literal) => f.write_str(&cut(literal)),
            Got::Text(text) => f.write_str(&quoted(text)),
            Got::Array => f.write_str("array"),
            Got::Object => f.write_str("object"),
        }
    }
}

/// The shortest number that is rounded to this one.
pub fn show(value: f64, single: bool) -> String {
    match (value.abs() < 1e15, single) {
        (true, true) => format!("{}", value as f32),
        (true, false) => format!("{value}"),
        (false, true) => format!("{:?}", value as f32),
        (false, false) => format!("{value:?}"),
    }
}

/// In quotation marks, escaped, cut.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", cut(text))
}

/// Escaped and cut, for a key in a path.
pub fn cut(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(QUOTED_CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
