//! Settings out of TOML and the environment, so that every mistake is found, not only the first.
//!
//! serde stops at the first error. Every setting has a default, though, at whatever depth of tables, so each can be read
//! alone: a configuration with this one setting. First all settings are read one by one, which finds all mistakes and
//! their lines, then the good ones as a whole. Where each was set is remembered, so that what settings cannot know of each
//! other is reported with a line, too. What a setting expects is found out by asking: [`expected`](super::expected).

use std::collections::HashMap;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ask::{accepts, alone, name, spanned, whole, words};
use super::{environment, expected};
use crate::operate::mistake::{Mistake, Mistakes};

/// What has been read of a configuration `T`.
pub(super) struct Read<T> {
    pub value: T,
    pub mistakes: Mistakes,
    /// What has no effect.
    pub warnings: Vec<Mistake>,
    places: Places,
}

/// Where settings were set, by their full names: a line of the file, or a variable.
#[derive(Debug, Default)]
struct Places(HashMap<String, String>);

/// Where a table comes from.
#[derive(Clone, Copy)]
enum Source<'a> {
    File { name: &'a str, text: &'a str },
    Variable(&'a str),
}

/// Reads settings one by one.
struct Sieve<T> {
    places: Places,
    mistakes: Mistakes,
    of: PhantomData<fn() -> T>,
}

/// Reads a text, which mistakes call `file`, and variables, which win.
pub(super) fn read<T>(file: &str, text: &str, environment: impl Iterator<Item = (String, String)>) -> Read<T>
where
    T: DeserializeOwned + Default,
{
    let source = Source::File { name: file, text };
    let mut sieve = Sieve::<T> {
        places: Places::default(),
        mistakes: Mistakes::default(),
        of: PhantomData,
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = source.line(error.span().map_or(0, |span| span.start));
        sieve.mistakes.0.push(Mistake::new("", error.message()).at(line));
    }
    let mut good = sieve.sift(source, &mut Vec::new(), table.into_inner());
    let variables = environment::settings::<T>(environment);
    sieve.mistakes.extend(variables.mistakes);
    for (variable, line) in &variables.lines {
        let set = DeTable::parse(line).map(Spanned::into_inner).unwrap_or_default();
        let set = sieve.sift(Source::Variable(variable), &mut Vec::new(), set);
        merge(&mut good, set);
    }
    let value = whole::<T>(good).unwrap_or_else(|error| {
        sieve.mistakes.push("", words(&error));
        T::default()
    });
    Read {
        value,
        mistakes: sieve.mistakes,
        warnings: variables.warnings,
        places: sieve.places,
    }
}

// === impl Read ===

impl<T> Read<T> {
    /// Whether the file or a variable sets it.
    pub(super) fn sets(&self, name: &str) -> bool {
        self.places.0.contains_key(name)
    }

    /// Adds what settings cannot know of each other, each with the line of the first that it names and somebody set, unless it has
    /// one of another file; but not where a setting that it names could not be read, or all that could is a part of the file.
    pub(super) fn add(&mut self, relations: Mistakes) {
        let mistaken: Vec<String> = self.mistakes.0.iter().map(|mistake| mistake.path.clone()).collect();
        for relation in relations.0 {
            let words = relation.to_string();
            if mistaken
                .iter()
                .any(|path| path.is_empty() || named_in(&words, path).is_some())
            {
                continue;
            }
            let line = relation.line.clone();
            let line = line.or_else(|| self.places.of(&relation).map(str::to_owned));
            self.mistakes.0.push(Mistake { line, ..relation });
        }
    }
}

// === impl Places ===

impl Places {
    fn of(&self, mistake: &Mistake) -> Option<&str> {
        let words = mistake.to_string();
        let named = self.0.iter().filter_map(|(name, place)| {
            let at = named_in(&words, name)?;
            // The longest of those that start at the same place: `kafka.properties."acks"`, not `kafka.properties`.
            Some((at, usize::MAX - name.len(), place.as_str()))
        });
        named.min().map(|(_, _, place)| place)
    }
}

/// Where a text names a setting.
fn named_in(words: &str, name: &str) -> Option<usize> {
    let at = words.find(name)?;
    let behind = words.as_bytes().get(at + name.len());
    let whole = behind.is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
    whole.then_some(at)
}

// === impl Source ===

impl Source<'_> {
    fn line(&self, offset: usize) -> String {
        match self {
            Source::Variable(name) => (*name).to_owned(),
            Source::File { name, text } => {
                let before = text.as_bytes().get(..offset).unwrap_or_default();
                let breaks = before.iter().filter(|&&byte| byte == b'\n').count();
                format!("{name}:{}", 1 + breaks)
            }
        }
    }
}

// === impl Sieve ===

impl<T: DeserializeOwned> Sieve<T> {
    /// What is good of a table at `path`, of which the rest is noted.
    fn sift<'a>(&mut self, source: Source<'_>, path: &mut Vec<String>, table: DeTable<'a>) -> DeTable<'a> {
        let mut good = DeTable::new();
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            let line = source.line(key.span().start);
            match value.into_inner() {
                DeValue::Table(inner) if accepts::<T>(path, DeValue::Table(DeTable::new())) => {
                    let inner = self.sift(source, path, inner);
                    good.insert(key, spanned(DeValue::Table(inner)));
                }
                value => match alone::<T>(path, value.clone()) {
                    Ok(_) => {
                        self.places.0.insert(name::<T>(path), line);
                        good.insert(key, spanned(value));
                    }
                    Err(error) => {
                        let mistake = expected::mistake::<T>(path, &value, &words(&error));
                        self.mistakes.0.push(mistake.at(line));
                    }
                },
            }
            path.pop();
        }
        good
    }
}

/// Tables are merged key by key; anything else is replaced.
fn merge<'a>(below: &mut DeTable<'a>, above: DeTable<'a>) {
    for (key, value) in above {
        match (
            value.get_ref(),
            below.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut),
        ) {
            (DeValue::Table(above), Some(DeValue::Table(below))) => merge(below, above.clone()),
            _ => drop(below.insert(key, value)),
        }
    }
}
