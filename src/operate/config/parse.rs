//! Sections out of TOML and environment, so that every mistake is found, not only the first.
//!
//! serde stops at the first error of a struct. Every field of a section has a default, though, so each field can be
//! read alone: a section is first read field by field, which finds all mistakes and their lines, then as a whole. Where
//! each field was set is remembered, so that what fields cannot know of each other is reported with a place, too.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::environment;
use crate::operate::spelling;

/// The sections of a configuration that have not been taken yet, and the mistakes found so far.
pub(super) struct Sections<'a> {
    file: &'a str,
    text: &'a str,
    table: DeTable<'a>,
    /// Variables that have not been taken yet, in their order.
    environment: Vec<(String, String)>,
    /// The names of sections, and of the variables for all their fields.
    names: Vec<String>,
    variables: Vec<String>,
    /// Where a field was set: a line of the file, or a variable.
    places: HashMap<String, String>,
    mistakes: Vec<String>,
}

impl<'a> Sections<'a> {
    pub(super) fn new(file: &'a str, text: &'a str, environment: impl Iterator<Item = (String, String)>) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut sections = Sections {
            file,
            text,
            table: table.into_inner(),
            environment: environment
                .filter(|(name, value)| environment::is_ours(name, value))
                .collect(),
            names: Vec::new(),
            variables: Vec::new(),
            places: HashMap::new(),
            mistakes: Vec::new(),
        };
        sections.environment.sort();
        for error in errors {
            let place = sections.place(error.span().map_or(0, |span| span.start));
            sections.mistakes.push(format!("{place}: {}", error.message()));
        }
        sections
    }

    /// The section `name`; its defaults, if it is not there or wrong.
    pub(super) fn take<T: DeserializeOwned + Default>(&mut self, name: &str) -> T {
        self.names.push(name.to_owned());
        let variables = fields::<T>().into_iter();
        self.variables
            .extend(variables.map(|field| environment::variable(name, &field)));
        let fields = match self
            .table
            .remove_entry(name)
            .map(|(key, value)| (key.span(), value.into_inner()))
        {
            None => DeTable::new(),
            Some((_, DeValue::Table(fields))) => fields,
            Some((span, _)) => {
                let place = self.place(span.start);
                self.mistakes
                    .push(format!("{place}: {name}: is a section; write [{name}]"));
                DeTable::new()
            }
        };
        let lines = self.overrides::<T>(name);
        let mut good: DeTable<'_> = fields
            .into_iter()
            .filter(|(key, value)| self.is_good_field::<T>(name, key, value))
            .collect();
        for (variable, line) in &lines {
            let set = DeTable::parse(line).map(Spanned::into_inner).unwrap_or_default();
            self.note_variable(name, variable, &set);
            merge(&mut good, set);
        }
        read::<T>(good).unwrap_or_else(|error| {
            self.mistakes.push(format!("[{name}]: {error}"));
            T::default()
        })
    }

    fn is_good_field<T: DeserializeOwned>(
        &mut self,
        section: &str,
        key: &Spanned<Cow<'a, str>>,
        value: &Spanned<DeValue<'a>>,
    ) -> bool {
        let name = format!("{section}.{}", key.get_ref());
        let place = self.place(key.span().start);
        if let DeValue::Table(inner) = value.get_ref() {
            for key in inner.keys() {
                let place = self.place(key.span().start);
                self.places.insert(format!("{name}.\"{}\"", key.get_ref()), place);
            }
        }
        let mut alone = DeTable::new();
        alone.insert(key.clone(), value.clone());
        let Err(error) = read::<T>(alone) else {
            self.places.insert(name, place);
            return true;
        };
        self.mistakes.push(format!("{place}: {name}: {error}"));
        false
    }

    /// What the environment sets of a section: each variable, and its line of TOML.
    fn overrides<T: DeserializeOwned>(&mut self, section: &str) -> Vec<(String, String)> {
        let prefix = environment::variable(section, "");
        let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.environment)
            .into_iter()
            .partition(|(variable, _)| variable.starts_with(&prefix));
        self.environment = others;
        let mut lines = Vec::new();
        for (variable, value) in mine {
            let field = variable.strip_prefix(&prefix).unwrap_or_default();
            let field = field.strip_prefix('_').unwrap_or(field);
            match environment::line(field, &value, accepts::<T>) {
                Ok(line) => lines.push((variable, line)),
                Err(error) => self.mistakes.push(format!("{variable}: {error}")),
            }
        }
        lines
    }

    fn note_variable(&mut self, section: &str, variable: &str, set: &DeTable<'_>) {
        for (field, value) in set {
            let name = format!("{section}.{}", field.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) => {
                    let inner = inner.keys().map(|key| format!("{name}.\"{}\"", key.get_ref()));
                    self.places.extend(inner.map(|name| (name, variable.to_owned())));
                }
                _ => drop(self.places.insert(name, variable.to_owned())),
            }
        }
    }

    /// All mistakes: those found, what has not been taken, and `relations`, which start with the names of fields.
    pub(super) fn finish(mut self, relations: Vec<String>) -> Vec<String> {
        for key in std::mem::take(&mut self.table).keys() {
            let place = self.place(key.span().start);
            let hint = spelling::hint(key.get_ref(), self.names.iter().map(String::as_str));
            self.mistakes
                .push(format!("{place}: [{}]: no such section{hint}", key.get_ref()));
        }
        for (variable, _) in std::mem::take(&mut self.environment) {
            let hint = spelling::hint(&variable, self.variables.iter().map(String::as_str));
            self.mistakes.push(format!(
                "{variable}: no such setting{hint}; a variable is called CITYGATE_<SECTION>_<FIELD>"
            ));
        }
        let relations = relations.into_iter().map(|mistake| match self.place_of(&mistake) {
            Some(place) => format!("{place}: {mistake}"),
            None => mistake,
        });
        self.mistakes.extend(relations.collect::<Vec<_>>());
        self.mistakes
    }

    /// Where the first of the fields was set that a mistake names; none, if all have their defaults.
    fn place_of(&self, mistake: &str) -> Option<&str> {
        let named = self.places.iter().filter_map(|(name, place)| {
            let at = mistake.find(name.as_str())?;
            let behind = mistake.as_bytes().get(at + name.len());
            let whole = behind.is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
            // The longest of those that start at the same place: `kafka.properties."acks"`, not `kafka.properties`.
            whole.then_some((at, usize::MAX - name.len(), place.as_str()))
        });
        named.min().map(|(_, _, place)| place)
    }

    fn place(&self, offset: usize) -> String {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        format!(
            "{}:{}",
            self.file,
            1 + before.iter().filter(|&&byte| byte == b'\n').count()
        )
    }
}

/// Reads a section; an error says what may have been meant.
fn read<T: DeserializeOwned>(fields: DeTable<'_>) -> Result<T, String> {
    T::deserialize(Deserializer::from(spanned(fields))).map_err(|error| {
        let message = error.message().replace('\n', " ");
        let mut quoted = message.split('`').skip(1).step_by(2);
        match quoted.next() {
            Some(written) if message.starts_with("unknown field") => match spelling::nearest(written, quoted) {
                Some(meant) => format!("unknown field `{written}`; did you mean `{meant}`?"),
                None => message,
            },
            _ => message,
        }
    })
}

/// Whether a line of TOML is a good one of this section.
fn accepts<T: DeserializeOwned>(line: &str) -> Result<(), String> {
    let fields = DeTable::parse(line).map_err(|error| error.message().to_owned())?;
    read::<T>(fields.into_inner()).map(|_| ())
}

/// The names of a section's fields: serde lists them where it meets one that does not exist.
fn fields<T: DeserializeOwned>() -> Vec<String> {
    let Ok(table) = DeTable::parse("\"?\" = 0") else {
        return Vec::new();
    };
    let error = T::deserialize(Deserializer::from(table)).err();
    let message = error.map(|error| error.message().to_owned()).unwrap_or_default();
    message
        .split('`')
        .skip(1)
        .step_by(2)
        .skip(1)
        .map(str::to_owned)
        .collect()
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

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}
