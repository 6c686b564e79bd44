//! What a setting expects, in words for people: serde and the crates behind it speak of Rust.
//!
//! A setting is asked instead of described: one that accepts `"5s"` and not any text is a duration. So nothing has to be
//! kept beside the types of the rooms' settings. No value is quoted but that of a duration or a size, which is no secret.

use serde::de::DeserializeOwned;
use toml::de::DeValue;

use super::ask::{accepts, is_in_free_table, name, names};
use crate::operate::mistake::Mistake;
use crate::operate::spelling;

/// Largest values of the whole numbers that settings are, with the words for them.
const NUMBERS: [(i64, &str); 4] = [
    (i64::MAX, "a whole number"),
    (u32::MAX as i64, "a whole number of at most 4294967295"),
    (i32::MAX as i64, "a whole number of at most 2147483647"),
    (u16::MAX as i64, "a whole number of at most 65535"),
];

/// What is wrong with a value that a setting does not accept; `error` is what serde says of it.
pub(super) fn mistake<T: DeserializeOwned>(path: &[String], value: &DeValue<'_>, error: &str) -> Mistake {
    let text = match value {
        _ if error.starts_with("unknown field") => return unknown::<T>(path, value),
        DeValue::Table(_) if is_in_free_table::<T>(path) => {
            let key = [&path[path.len() - 1..], &inner_keys(value)].concat().join(".");
            format!("a name with dots must be in quotes: \"{key}\" = …")
        }
        _ if asks_for::<T>(path, "\"5s\"") && !asks_for::<T>(path, "\"x\"") => {
            let or = if asks_for::<T>(path, "\"unlimited\"") {
                ", or \"unlimited\""
            } else {
                ""
            };
            format!(
                "{} is not a duration; write one such as \"5s\" or \"250ms\"{or}",
                shown(value)
            )
        }
        _ if asks_for::<T>(path, "\"1 KiB\"") && !asks_for::<T>(path, "\"x\"") => {
            format!(
                "{} is not a size; write one such as \"64 MiB\" or \"512 B\"",
                shown(value)
            )
        }
        _ => plain::<T>(path, error),
    };
    Mistake::new(name::<T>(path), text)
}

fn unknown<T: DeserializeOwned>(path: &[String], value: &DeValue<'_>) -> Mistake {
    let (written, table) = path
        .split_last()
        .map_or(("", path), |(last, table)| (last.as_str(), table));
    let known = names::<T>(table);
    let meant = spelling::nearest(written, known.iter().map(String::as_str));
    let full = |key: &str| name::<T>(&[table, &[key.to_owned()]].concat());
    let hint = |shown: String| format!("; did you mean {shown}?");
    match value {
        // [topics.city.traffic]: the name was to be city.traffic.
        DeValue::Table(_) if is_in_free_table::<T>(table) => {
            let name = path[path.len() - 2..].join(".");
            let text = format!("a name with dots must be in quotes: \"{name}\"");
            Mistake::new(self::name::<T>(path), text)
        }
        DeValue::Table(_) => {
            let hint = meant.map_or_else(String::new, |meant| hint(format!("[{}]", full(meant))));
            Mistake::new(format!("[{}]", name::<T>(path)), format!("no such table{hint}"))
        }
        _ => {
            let hint = meant.map_or_else(String::new, |meant| hint(full(meant)));
            Mistake::new(name::<T>(path), format!("no such setting{hint}"))
        }
    }
}

/// Whether a setting accepts a value, which is given as TOML.
fn asks_for<T: DeserializeOwned>(path: &[String], value: &str) -> bool {
    DeValue::parse(value).is_ok_and(|value| accepts::<T>(path, value.into_inner()))
}

fn plain<T: DeserializeOwned>(path: &[String], error: &str) -> String {
    // What a setting of our own says is in plain words already.
    if !error.starts_with("invalid") && !error.starts_with("unknown variant") {
        return error.to_owned();
    }
    if asks_for::<T>(path, "\"x\"") {
        return "must be text; write it in quotes".to_owned();
    }
    if asks_for::<T>(path, "true") {
        return "must be true or false".to_owned();
    }
    if asks_for::<T>(path, "1.5") {
        return "must be a number".to_owned();
    }
    if asks_for::<T>(path, "{}") {
        return format!("must be a table; write [{}]", name::<T>(path));
    }
    let numbers = NUMBERS.iter().find(|(most, _)| asks_for::<T>(path, &most.to_string()));
    if let Some((_, words)) = numbers {
        let sign = if asks_for::<T>(path, "-1") {
            ""
        } else {
            ", and not negative"
        };
        return format!("must be {words}{sign}");
    }
    // "invalid type: integer `1`, expected an address", "unknown variant `x`, expected one of `a`, `b`".
    let expected = error.split_once(", expected ").map_or(error, |(_, expected)| expected);
    format!("expected {}", expected.replace('`', "\""))
}

/// The names of tables in a table, which dots without quotes make.
fn inner_keys(value: &DeValue<'_>) -> Vec<String> {
    let DeValue::Table(table) = value else {
        return Vec::new();
    };
    let Some((key, value)) = table.iter().next() else {
        return Vec::new();
    };
    [vec![key.get_ref().to_string()], inner_keys(value.get_ref())].concat()
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        _ => "this".to_owned(),
    }
}
