//! Tables out of TOML, so that every mistake is found, not only the first, and each with its line and column.
//!
//! serde stops at the first error, so each value is read alone, in the place where it stands. A [`Section`] is asked for
//! the fields that it may have; any other field is a mistake, and its message lists the known ones.

use std::fmt;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// Mistakes that are listed; the count is of all.
const LISTED_MAX: usize = 50;

/// Everything that is wrong with a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<String>);

/// The mistakes that were found so far, by offset.
pub(super) struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    mistakes: Vec<(usize, String)>,
}

/// A value, and the offset at which it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<T> {
    pub(super) at: usize,
    pub(super) value: T,
}

/// A table of the file, and which of its fields were asked for.
pub(super) struct Section<'a> {
    /// As people would call it: `group "loops"`.
    pub(super) name: String,
    pub(super) at: usize,
    table: DeTable<'a>,
    known: Vec<&'static str>,
}

// === impl Mistakes ===

impl Mistakes {
    /// One line each: `file:line:column: what`.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "{} mistake{plural} in the scenario", self.0.len())?;
        for line in self.0.iter().take(LISTED_MAX) {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

// === impl Reader ===

impl<'a> Reader<'a> {
    /// Reads the file as TOML; what is not TOML are the first mistakes.
    pub(super) fn new(file: &'a str, text: &'a str) -> (Reader<'a>, Section<'a>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut reader = Reader {
            file,
            text,
            mistakes: Vec::new(),
        };
        for error in errors {
            reader.mistake(error.span().map_or(0, |span| span.start), error.message());
        }
        (reader, Section::new(String::new(), 0, table.into_inner()))
    }

    pub(super) fn mistake(&mut self, at: usize, what: impl fmt::Display) {
        self.mistakes.push((at, what.to_string()));
    }

    /// The value, if nothing was wrong with anything.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, Mistakes> {
        // Nothing can be missing without a mistake that says so.
        if let (Some(value), true) = (value, self.mistakes.is_empty()) {
            return Ok(value);
        }
        self.mistakes.sort_by_key(|(at, _)| *at);
        let place = |(at, what): &(usize, String)| {
            let (line, column) = self.place(*at);
            format!("{}:{line}:{column}: {what}", self.file)
        };
        Err(Mistakes(self.mistakes.iter().map(place).collect()))
    }

    /// Line and column of an offset, both from 1; columns are characters.
    fn place(&self, at: usize) -> (usize, usize) {
        let before = self.text.as_bytes().get(..at).unwrap_or_default();
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let characters = String::from_utf8_lossy(before.get(line_start..).unwrap_or_default());
        (line, 1 + characters.chars().count())
    }

    /// A required field; `allowed` says which values it accepts.
    pub(super) fn need<T: DeserializeOwned>(
        &mut self,
        section: &mut Section<'_>,
        key: &'static str,
        allowed: &str,
    ) -> Option<Placed<T>> {
        if !section.table.contains_key(key) {
            section.known.push(key);
            self.mistake(section.at, format!("{}{key} is missing: {allowed}", section.prefix()));
            return None;
        }
        self.take(section, key, allowed)
    }

    /// A field that may be left out.
    pub(super) fn take<T: DeserializeOwned>(
        &mut self,
        section: &mut Section<'_>,
        key: &'static str,
        allowed: &str,
    ) -> Option<Placed<T>> {
        section.known.push(key);
        let (_, value) = section.table.remove_entry(key)?;
        let at = value.span().start;
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some(Placed { at, value }),
            Err(error) => {
                let message = error.message().replace('\n', " ");
                self.mistake(at, format!("{}{key}: {message}; {allowed}", section.prefix()));
                None
            }
        }
    }

    /// The table `[key]`.
    pub(super) fn section<'s>(&mut self, section: &mut Section<'s>, key: &'static str) -> Option<Section<'s>> {
        section.known.push(key);
        let (name, value) = section.table.remove_entry(key)?;
        let at = name.span().start;
        match value.into_inner() {
            DeValue::Table(table) => Some(Section::new(key.to_owned(), at, table)),
            _ => {
                self.mistake(at, format!("{}{key} is a table: write [{key}]", section.prefix()));
                None
            }
        }
    }

    /// The tables `[[key]]`; `called` is how people name one of them.
    pub(super) fn sections<'s>(
        &mut self,
        section: &mut Section<'s>,
        key: &'static str,
        called: &str,
    ) -> Vec<Section<'s>> {
        section.known.push(key);
        let Some((name, value)) = section.table.remove_entry(key) else {
            return Vec::new();
        };
        let is_list = format!("{}{key} is a list of tables: write [[{key}]]", section.prefix());
        let DeValue::Array(items) = value.into_inner() else {
            self.mistake(name.span().start, is_list);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (number, item) in items.into_iter().enumerate() {
            let at = item.span().start;
            match item.into_inner() {
                DeValue::Table(table) => {
                    let name = format!("{}{called} {}", section.prefix(), number + 1);
                    sections.push(Section::new(name, at, table));
                }
                _ => self.mistake(at, &is_list),
            }
        }
        sections
    }

    /// Any field that was not asked for is a mistake.
    pub(super) fn end(&mut self, section: Section<'_>) {
        let allowed = section.known.join(", ");
        for key in section.table.keys() {
            let what = format!(
                "{}{}: unknown field; known fields: {allowed}",
                section.prefix(),
                key.get_ref()
            );
            self.mistake(key.span().start, what);
        }
    }
}

// === impl Section ===

impl<'a> Section<'a> {
    fn new(name: String, at: usize, table: DeTable<'a>) -> Section<'a> {
        Section {
            name,
            at,
            table,
            known: Vec::new(),
        }
    }

    pub(super) fn prefix(&self) -> String {
        if self.name.is_empty() {
            String::new()
        } else {
            format!("{}: ", self.name)
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }
}
