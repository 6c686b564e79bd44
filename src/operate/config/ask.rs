//! What a configuration accepts, found out by asking its type.
//!
//! Every setting has a default, at whatever depth of tables, so a configuration with one setting can be read: if that
//! fails, it is for this setting. serde lists the names of a table where it meets one that does not exist. So nothing has
//! to be kept beside the types of the rooms' settings.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, Error};

/// A setting's full name: `kafka.properties."client.id"`. Names that are free are in quotes, whether or not they need them.
pub(super) fn name<T: DeserializeOwned>(path: &[String]) -> String {
    let keys = path.iter().enumerate().map(|(depth, key)| {
        let needs_quotes = key.is_empty()
            || !key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        match needs_quotes || is_in_free_table::<T>(&path[..=depth]) {
            true => format!("\"{key}\""),
            false => key.clone(),
        }
    });
    keys.collect::<Vec<_>>().join(".")
}

/// Whether a configuration with this one setting is good.
pub(super) fn accepts<T: DeserializeOwned>(path: &[String], value: DeValue<'_>) -> bool {
    alone::<T>(path, value).is_ok()
}

/// A configuration with this one setting.
///
/// # Errors
/// What serde says.
pub(super) fn alone<T: DeserializeOwned>(path: &[String], value: DeValue<'_>) -> Result<T, Error> {
    let nested = path.iter().rev().fold(value, |value, key| {
        let mut table = DeTable::new();
        table.insert(spanned(Cow::Owned(key.clone())), spanned(value));
        DeValue::Table(table)
    });
    match nested {
        DeValue::Table(table) => whole(table),
        _ => whole(DeTable::new()),
    }
}

/// A configuration of these settings.
///
/// # Errors
/// What serde says.
pub(super) fn whole<T: DeserializeOwned>(table: DeTable<'_>) -> Result<T, Error> {
    T::deserialize(Deserializer::from(spanned(table)))
}

/// What serde says, on one line and without a place, which is another one than in the file.
pub(super) fn words(error: &Error) -> String {
    error.message().replace('\n', " ")
}

/// The names of the settings and tables of a table; none, if it accepts any name or is no table.
pub(super) fn names<T: DeserializeOwned>(table: &[String]) -> Vec<String> {
    let path = [table, &["?".to_owned()]].concat();
    // serde lists them where it meets one that does not exist.
    match alone::<T>(&path, DeValue::Boolean(false)).map(|_| ()) {
        Err(error) if error.message().starts_with("unknown field `?`") => error
            .message()
            .split('`')
            .skip(3)
            .step_by(2)
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}

/// Whether a table of any names holds it, such as `kafka.properties`.
pub(super) fn is_in_free_table<T: DeserializeOwned>(path: &[String]) -> bool {
    let Some((_, table)) = path.split_last() else {
        return false;
    };
    !table.is_empty() && accepts::<T>(table, DeValue::Table(DeTable::new())) && names::<T>(table).is_empty()
}

pub(super) fn spanned<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}
