//! Sections out of TOML and environment, so that every mistake is found, not only the first.
//!
//! serde stops at the first error of a struct. Every field of a section has a default, though, so each field can be
//! read alone: a section is first read field by field, which finds all mistakes and their lines, then as a whole.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

const PREFIX: &str = "CITYGATE_";

/// The sections of a configuration that have not been taken yet, and the mistakes found so far.
pub(super) struct Sections<'a> {
    file: &'a str,
    text: &'a str,
    table: DeTable<'a>,
    environment: Vec<(String, String)>,
    mistakes: Vec<String>,
}

impl<'a> Sections<'a> {
    pub(super) fn new(file: &'a str, text: &'a str, environment: impl Iterator<Item = (String, String)>) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut sections = Sections {
            file,
            text,
            table: table.into_inner(),
            environment: environment.filter(|(name, _)| name.starts_with(PREFIX)).collect(),
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
        let overrides = self.overrides::<T>(name);
        let mut good: DeTable<'_> = fields
            .into_iter()
            .filter(|(key, value)| self.is_good_field::<T>(name, key, value))
            .collect();
        good.extend(DeTable::parse(&overrides).map(Spanned::into_inner).unwrap_or_default());
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
        let mut alone = DeTable::new();
        alone.insert(key.clone(), value.clone());
        let Err(error) = read::<T>(alone) else { return true };
        let place = self.place(key.span().start);
        self.mistakes
            .push(format!("{place}: {section}.{}: {error}", key.get_ref()));
        false
    }

    /// The environment variables of a section, as lines of TOML.
    fn overrides<T: DeserializeOwned>(&mut self, section: &str) -> String {
        let prefix = format!("{PREFIX}{}_", section.to_ascii_uppercase());
        let mut lines = String::new();
        for (variable, value) in &self.environment {
            let Some(field) = variable.strip_prefix(&prefix) else {
                continue;
            };
            match override_line::<T>(&field.to_ascii_lowercase(), value) {
                Ok(line) => lines.push_str(&line),
                Err(error) => self.mistakes.push(format!("{variable}: {error}")),
            }
        }
        lines
    }

    /// All mistakes; what has not been taken is one.
    pub(super) fn finish(mut self) -> Vec<String> {
        for key in std::mem::take(&mut self.table).keys() {
            let place = self.place(key.span().start);
            self.mistakes
                .push(format!("{place}: [{}]: no such section", key.get_ref()));
        }
        self.mistakes
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

fn read<T: DeserializeOwned>(fields: DeTable<'_>) -> Result<T, String> {
    T::deserialize(Deserializer::from(spanned(fields))).map_err(|error| error.message().replace('\n', " "))
}

/// A variable's value is TOML where the field takes it as such (a number, a list), a plain string otherwise.
fn override_line<T: DeserializeOwned>(field: &str, text: &str) -> Result<String, String> {
    let as_toml = format!("{field} = {text}\n");
    let as_string = format!("{field} = {}\n", toml::Value::from(text));
    let alone = |line: &str| {
        let fields = DeTable::parse(line).map_err(|error| error.message().to_owned())?;
        read::<T>(fields.into_inner())
    };
    if alone(&as_toml).is_ok() {
        return Ok(as_toml);
    }
    alone(&as_string).map(|_| as_string)
}

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}
